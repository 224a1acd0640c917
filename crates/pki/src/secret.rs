//! Bytes and texts that must not leak: no Debug, no Display, no Clone, wiped when dropped.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Secret bytes of any length. No Debug, Display or Clone; wiped on drop.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes `bytes` over; no copy is left behind.
    pub fn new(bytes: Vec<u8>) -> Self {
        SecretBytes(Zeroizing::new(bytes))
    }

    /// Copies `bytes`; wiping the original is the caller's business.
    pub fn copy_of(bytes: &[u8]) -> Self {
        SecretBytes(Zeroizing::new(bytes.to_vec()))
    }

    /// The only way to read the bytes: search for `expose` to audit every use.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether `other` is the same, in a time that depends on the lengths only.
    pub fn ct_eq(&self, other: &[u8]) -> bool {
        self.0.as_slice().ct_eq(other).into()
    }

    /// A second copy, on purpose.
    pub fn duplicate(&self) -> Self {
        SecretBytes(self.0.clone())
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        SecretBytes::new(bytes)
    }
}

/// A secret text. No Debug, Display or Clone; wiped on drop.
pub struct SecretString(Zeroizing<String>);

impl SecretString {
    /// Takes `text` over; no copy is left behind.
    pub fn new(text: String) -> Self {
        SecretString(Zeroizing::new(text))
    }

    /// The only way to read the text: search for `expose` to audit every use.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `other` is the same, in a time that depends on the lengths only.
    pub fn ct_eq(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }

    /// A second copy, on purpose.
    pub fn duplicate(&self) -> Self {
        SecretString(self.0.clone())
    }
}

impl From<String> for SecretString {
    fn from(text: String) -> Self {
        SecretString::new(text)
    }
}

impl From<Zeroizing<String>> for SecretString {
    fn from(text: Zeroizing<String>) -> Self {
        SecretString(text)
    }
}

impl From<Zeroizing<Vec<u8>>> for SecretBytes {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        SecretBytes(bytes)
    }
}
