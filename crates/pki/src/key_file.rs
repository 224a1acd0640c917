//! The node's key file as the engine writes and reads it (pki.md 9.1): one PEM block, headers in front of the key.
//!
//! - `kek-version` is always there; other headers (`raft-dek`, ...) are kept as texts.
//! - Without a key encryption key (KEK): `PRIVATE KEY`. With one: `ENCRYPTED PRIVATE KEY`, the password being the raw KEK.
//! - A SEC1 key in the encryption of engines before 18.09 (`DEK-Info`) is readable with its KEK; it is never written.
//! - An unencrypted file is readable whatever KEK is given: the next write encrypts it.
//! - CBC has no authentication: a wrong KEK can pass by chance. The `raft-dek` header's own seal is the real check.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use zeroize::Zeroize;

use crate::dek_info::{self, DEK_INFO};
use crate::key::{KeyError, PrivateKey};
use crate::pbes2;
use crate::pem_block::{self, Blocks};
use crate::secret::SecretBytes;

const KEK_VERSION: &str = "kek-version";
/// Headers of the old PEM encryption: never copied.
const LEGACY_HEADERS: [&str; 2] = ["Proc-Type", DEK_INFO];

/// Why a key file cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// No PEM block that holds a private key.
    #[error("no private key found in the key file")]
    NoKey,
    /// Encrypted, and the KEK is missing or wrong.
    #[error("invalid KEK: {0}")]
    InvalidKek(KeyError),
    /// `kek-version` is no number.
    #[error("malformed kek-version header")]
    KekVersion,
    /// A header that cannot be written: a colon or line break in the name, a line break in the value, or a reserved name.
    #[error("header {0:?} cannot be written")]
    Header(String),
    /// A header that is to hold a data key holds none.
    #[error("header {0} holds no data key")]
    DataKey(String),
    /// A data key that is being changed to, and none that it is changed from.
    #[error("there is a pending DEK, but no current DEK")]
    PendingAlone,
    /// The key itself.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Headers by name. No Debug or Clone: values can be secrets; they are wiped on drop.
#[derive(Default)]
pub struct Headers(BTreeMap<String, String>);

impl From<BTreeMap<String, String>> for Headers {
    fn from(headers: BTreeMap<String, String>) -> Self {
        Headers(headers)
    }
}

impl Deref for Headers {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Headers {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

/// Content of a key file. No Debug: headers can hold secrets.
pub struct KeyFile {
    /// Version of the cluster object at which the KEK was read.
    pub kek_version: u64,
    /// All headers but `kek-version`, by name.
    pub headers: Headers,
    /// The key.
    pub key: PrivateKey,
}

impl KeyFile {
    /// Reads the first private-key block of `bytes`.
    pub fn parse(bytes: &[u8], kek: Option<&SecretBytes>) -> Result<KeyFile, KeyFileError> {
        let block = Blocks::of(bytes).find(pem_block::Block::is_key).ok_or(KeyFileError::NoKey)?;
        let mut kek_version = 0;
        let mut headers = Headers::default();
        for (name, value) in block.headers() {
            match name.as_str() {
                KEK_VERSION => kek_version = value.parse().map_err(|_| KeyFileError::KekVersion)?,
                name if LEGACY_HEADERS.contains(&name) => {}
                name => {
                    headers.insert(name.to_owned(), value.as_str().to_owned());
                }
            }
        }
        let kek = || present(kek).ok_or(KeyFileError::InvalidKek(KeyError::Encrypted));
        let key = if block.is_legacy_encrypted() {
            dek_info::decrypt(&block, kek()?).map_err(KeyFileError::InvalidKek)?
        } else if block.is_encrypted_pkcs8() {
            pbes2::decrypt(block.der(), kek()?).map_err(KeyFileError::InvalidKek)?
        } else {
            PrivateKey::from_der(block.der())?
        };
        Ok(KeyFile { kek_version, headers, key })
    }

    /// Whether a file's key is encrypted. What holds no key is not.
    pub fn is_encrypted(bytes: &[u8]) -> bool {
        let block = Blocks::of(bytes).find(pem_block::Block::is_key);
        block.is_some_and(|block| block.is_legacy_encrypted() || block.is_encrypted_pkcs8())
    }

    /// Writes the file, encrypted if there is a KEK (an empty one counts as none). `salt` and `iv` are to be random,
    /// new for each call. Headers stand in byte order of their names.
    pub fn encode(&self, kek: Option<(&SecretBytes, [u8; 8], [u8; 16])>) -> Result<SecretBytes, KeyFileError> {
        let version = self.kek_version.to_string();
        let mut headers: Vec<(&str, &str)> = vec![(KEK_VERSION, &version)];
        for (name, value) in self.headers.iter() {
            let reserved = name == KEK_VERSION || LEGACY_HEADERS.contains(&name.as_str());
            let breaks = |text: &str| text.contains(['\n', '\r']) || text.trim() != text;
            if reserved || name.is_empty() || name.contains(':') || breaks(name) || breaks(value) {
                return Err(KeyFileError::Header(name.clone()));
            }
            headers.push((name, value));
        }
        headers.sort_unstable();

        let pkcs8 = self.key.pkcs8_der();
        let text = match kek.filter(|(kek, ..)| !kek.expose().is_empty()) {
            None => pem_block::encode("PRIVATE KEY", headers, pkcs8.expose()),
            Some((kek, salt, iv)) => {
                let der = pbes2::encrypt(&pkcs8, kek, salt, iv)?;
                pem_block::encode("ENCRYPTED PRIVATE KEY", headers, &der)
            }
        };
        Ok(SecretBytes::copy_of(text.as_bytes()))
    }
}

fn present(kek: Option<&SecretBytes>) -> Option<&SecretBytes> {
    kek.filter(|kek| !kek.expose().is_empty())
}
