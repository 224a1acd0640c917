//! Password-based encryption of private keys, as the engine does it (pki.md 9.1).
use crate::key::{KeyError, PrivateKey};
use crate::secret::SecretBytes;

pub(crate) fn decrypt(_der: &[u8], _password: &SecretBytes) -> Result<PrivateKey, KeyError> {
    Err(KeyError::Password)
}
