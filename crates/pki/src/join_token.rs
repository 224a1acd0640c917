//! Join tokens (pki.md 5).
//!
//! - v1 `SWMTKN-1-<digest>-<secret>`, v2 `SWMTKN-2-<0|1>-<digest>-<secret>`; digest 50, secret 25 base-36 digits.
//! - A token is kept and compared as typed: two spellings of one number are two tokens.
//! - A digest that is no number below 2^256 reads as a digest of zeros, which no bundle has.

use std::str::FromStr;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::base36;
use crate::digest::Digest;

const PREFIX: &str = "SWMTKN";
const DIGEST_DIGITS: usize = 50;
const SECRET_DIGITS: usize = 25;

/// The secret half of a join token. No Debug, Display, Clone or Serialize; wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct JoinSecret([u8; 16]);

impl JoinSecret {
    /// A secret from 16 random bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        JoinSecret(bytes)
    }

    /// The only way to read the bytes: search for `expose` to audit every use.
    pub const fn expose(&self) -> &[u8; 16] {
        &self.0
    }
}

/// A join token as typed. No Debug, Display or Clone; wiped on drop.
pub struct JoinToken {
    text: Zeroizing<String>,
    digest: Digest,
    fips: bool,
}

/// The text is not a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid join token")]
pub struct InvalidJoinToken;

impl JoinToken {
    /// Writes the token for a trust bundle's digest: v1, or v2 with flag 1 if the cluster demands FIPS.
    pub fn new(digest: Digest, secret: &JoinSecret, fips: bool) -> Self {
        let version = if fips { "2-1" } else { "1" };
        let secret_digits = Zeroizing::new(base36::encode::<SECRET_DIGITS>(secret.expose()));
        let mut text = Zeroizing::new(String::with_capacity(96));
        text.push_str(PREFIX);
        text.push('-');
        text.push_str(version);
        text.push('-');
        text.push_str(&digest.base36());
        text.push('-');
        text.extend(secret_digits.iter().map(|digit| char::from(*digit)));
        JoinToken { text, digest, fips }
    }

    /// The whole token, which is a secret: it goes to the manager and to the operator who asked for it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The digest of the trust bundle that the token names.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether the cluster demands FIPS mode of its nodes.
    pub const fn fips(&self) -> bool {
        self.fips
    }

    /// The secret half; `None` if its digits are no number below 2^128 (such a token matches none that we made).
    pub fn secret(&self) -> Option<JoinSecret> {
        let digits = self.text.rsplit('-').next()?;
        base36::decode(digits).map(JoinSecret)
    }

    /// Whether `presented` is this very token, in a time that depends on the lengths only.
    pub fn matches(&self, presented: &str) -> bool {
        self.text.as_bytes().ct_eq(presented.as_bytes()).into()
    }

    /// A second copy, on purpose.
    pub fn duplicate(&self) -> Self {
        JoinToken { text: self.text.clone(), digest: self.digest, fips: self.fips }
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let parts: Vec<&str> = text.split('-').collect();
        let (fips, digest, secret) = match parts.as_slice() {
            [PREFIX, "1", digest, secret] => (false, *digest, *secret),
            [PREFIX, "2", "0", digest, secret] => (false, *digest, *secret),
            [PREFIX, "2", "1", digest, secret] => (true, *digest, *secret),
            _ => return Err(InvalidJoinToken),
        };
        if digest.len() != DIGEST_DIGITS || secret.len() != SECRET_DIGITS {
            return Err(InvalidJoinToken);
        }
        Ok(JoinToken {
            text: Zeroizing::new(text.to_owned()),
            digest: Digest::from_base36(digest).unwrap_or(Digest::from_bytes([0; 32])),
            fips,
        })
    }
}
