//! The key that a locked manager is opened with, as text: `SWMKEY-1-` and standard base64 without padding (pki.md 10.1).

use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::secret::{SecretBytes, SecretString};

/// Length of a key that we make, in bytes.
pub const UNLOCK_KEY_BYTES: usize = 32;
const PREFIX: &str = "SWMKEY-1-";
/// Longer texts are no keys; the bound keeps what is kept in memory small.
const TEXT_BYTES_MAX: usize = 1024;
/// As Go's: no padding, and bits left over at the end are not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// An unlock key. No Debug, Display or Clone; wiped on drop.
pub struct UnlockKey(SecretBytes);

/// The text is not an unlock key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid key string")]
pub struct InvalidUnlockKey;

impl UnlockKey {
    /// A key from random bytes.
    pub fn from_bytes(bytes: [u8; UNLOCK_KEY_BYTES]) -> Self {
        UnlockKey(SecretBytes::from(Zeroizing::new(bytes.to_vec())))
    }

    /// The key's bytes: what key files are sealed under.
    pub fn bytes(&self) -> &SecretBytes {
        &self.0
    }

    /// The bytes, taken over.
    pub fn into_bytes(self) -> SecretBytes {
        self.0
    }

    /// The text for people; of no bytes it is the prefix alone.
    pub fn text(&self) -> SecretString {
        text(self.0.expose())
    }
}

/// The text form of a key's bytes.
pub fn text(bytes: &[u8]) -> SecretString {
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len().saturating_mul(2)));
    text.push_str(PREFIX);
    BASE64.encode_string(bytes, &mut text);
    SecretString::from(text)
}

impl FromStr for UnlockKey {
    type Err = InvalidUnlockKey;

    fn from_str(text: &str) -> Result<Self, InvalidUnlockKey> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() <= TEXT_BYTES_MAX);
        let bytes = BASE64.decode(digits.ok_or(InvalidUnlockKey)?).map_err(|_| InvalidUnlockKey)?;
        Ok(UnlockKey(SecretBytes::new(bytes)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn bytes(text: &str) -> Option<Vec<u8>> {
        text.parse::<UnlockKey>().ok().map(|key| key.bytes().expose().to_vec())
    }

    #[test]
    fn c175_c176_text_and_back() {
        assert_eq!(text(&[]).expose(), "SWMKEY-1-");
        // pki.md 19
        let told = "SWMKEY-1-E5BfxQx1hoAd036G5md91+1gNBiW/GHABbfm+mbqlI8";
        let hex = "13905fc50c7586801dd37e86e6677dd7ed60341896fc61c005b7e6fa66ea948f";
        let key = bytes(told).unwrap();
        assert_eq!(crate::digest::hex(&key), hex);
        let key = UnlockKey::from_bytes(key.try_into().unwrap());
        assert_eq!(key.text().expose(), told);
    }

    #[test]
    fn c177_texts_that_are_none() {
        let told = "SWMKEY-1-E5BfxQx1hoAd036G5md91+1gNBiW/GHABbfm+mbqlI8";
        let long = format!("SWMKEY-1-{}", "A".repeat(TEXT_BYTES_MAX + 4));
        let padded = format!("{told}=");
        let led = format!("A{told}");
        for text in [&led, "SWMKEY-1-aaa*aa/", &padded, &long, "", "SWMKEY", "swmkey-1-abc", "nonsense", "SWMKEY-1-a"] {
            assert_eq!(bytes(text), None, "{text}");
        }
        assert_eq!(InvalidUnlockKey.to_string(), "invalid key string");
        // Well formed, though no key that anybody made.
        assert_eq!(bytes("SWMKEY-1-abc").unwrap().len(), 2);
        assert_eq!(bytes("SWMKEY-1-abd").unwrap().len(), 2);
        assert_eq!(bytes("SWMKEY-1-").unwrap().len(), 0);
    }
}
