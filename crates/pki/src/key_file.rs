//! The node's key file (pki.md 9.1).
use std::collections::BTreeMap;

use crate::key::{KeyError, PrivateKey};
use crate::secret::SecretBytes;

/// Why a key file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// No key in it.
    #[error("no key found in the key file")]
    NoKey,
    /// Encrypted, and the key encryption key is missing or wrong.
    #[error("invalid KEK")]
    InvalidKek,
    /// Another fault of the key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A key file's content.
pub struct KeyFile {
    /// Version of the key encryption key.
    pub kek_version: u64,
    /// Other headers.
    pub headers: BTreeMap<String, String>,
    /// The key.
    pub key: PrivateKey,
}

impl KeyFile {
    /// Reads a key file.
    pub fn parse(bytes: &[u8], kek: Option<&SecretBytes>) -> Result<KeyFile, KeyFileError> {
        Ok(KeyFile { kek_version: 0, headers: BTreeMap::new(), key: PrivateKey::from_pem(bytes, kek)? })
    }

    /// Writes a key file.
    pub fn encode(&self, _kek: Option<(&SecretBytes, [u8; 8], [u8; 16])>) -> Result<SecretBytes, KeyFileError> {
        Ok(SecretBytes::copy_of(self.key.pkcs8_pem().expose().as_bytes()))
    }
}
