//! The key under which the store's records are sealed: where it lies.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pki::secret::SecretBytes;
use swarmpki::keystore::{Keystore, KeystoreError};

/// Header of the key file that holds it, in base64. Source: pki.md 9.1.
pub(crate) const HEADER: &str = "raft-dek";
/// Its length.
pub(crate) const BYTES: usize = 32;

/// What the header says.
pub(crate) fn encode(key: &[u8; BYTES]) -> String {
    STANDARD.encode(key)
}

/// Reads it; `None` if the key file is not there or its header holds no such key.
pub(crate) fn load(keystore: &Keystore) -> Result<Option<SecretBytes>, KeystoreError> {
    Ok(keystore.data_keys()?.current.filter(|key| key.expose().len() == BYTES))
}
