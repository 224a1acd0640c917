//! SHA-256 digests. The digest of a trust bundle (over its raw bytes) is what a join token names (pki.md 5).

use std::fmt;

use crate::base36;

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

/// SHA-256 of these parts, one behind the other.
pub fn sha256_of(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// A SHA-256 digest; as text `sha256:<64 hex digits>`.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(sha256(bytes))
    }

    /// A digest made earlier.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The 50 base-36 digits that stand in a join token.
    pub fn base36(&self) -> String {
        String::from_utf8_lossy(&base36::encode::<50>(&self.0)).into_owned()
    }

    /// Reads what [`Digest::base36`] writes: exactly 50 digits, at most 256 bits.
    pub fn from_base36(digits: &str) -> Option<Self> {
        if digits.len() != 50 {
            return None;
        }
        base36::decode(digits).map(Digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lower-case hex digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// The bytes that hex digits stand for, in either case; none: they are no pairs of hex digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn vector_of_a_real_engine() {
        let digits = "1rja3kjqiyymi6kxzre9zexq4k8pjuw1n9gjd9hklrm3pqor58";
        let digest = Digest::from_base36(digits).unwrap();
        assert_eq!(digest.hex(), "46cf81085475d74a10c8800ac035957359c779ac2eea096a1ab95e14f56bad6c");
        assert_eq!(digest.base36(), digits);
    }

    #[test]
    fn hex_digits_are_read_as_they_are_written() {
        assert_eq!(unhex("007fFf").unwrap(), [0, 0x7f, 0xff]);
        assert_eq!(unhex(&hex(b"any bytes")).unwrap(), b"any bytes");
        assert_eq!(unhex("").unwrap(), b"");
        for wrong in ["0", "0g", "+1", " 1", "é", "123", "0x12"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn refuses_what_is_no_digest() {
        let none = |digits: &str| assert_eq!(Digest::from_base36(digits), None);
        none("");
        none(&"z".repeat(50));
        none(&"-".repeat(50));
        none(&"0".repeat(49));
        assert_eq!(Digest::of(b"").to_string().len(), 7 + 64);
    }
}
