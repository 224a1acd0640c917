//! Opening the copy of a locked manager's files with the swarm's unlock key. The files themselves stay sealed.

use pki::unlock_key::UnlockKey;
use swarmpki::keystore::{Keystore, KeystoreError};

use super::CheckError;
use crate::unlock_source::UnlockSource;

/// Makes the key file readable for this process, if it is sealed: only then is the key read.
///
/// # Errors
/// If there is no key, or it is another one. What else is wrong with the file is found when it is looked at.
pub(super) async fn open(keystore: &Keystore, unlock_from: Option<&UnlockSource>) -> Result<(), CheckError> {
    if !matches!(keystore.is_locked(), Ok(true)) {
        return Ok(());
    }
    let from = unlock_from.ok_or(CheckError::Locked)?;
    let key: UnlockKey = from.read().await?.expose().parse().map_err(|_| CheckError::NoKey(from.clone()))?;
    match keystore.unlock(key.into_bytes()) {
        Err(KeystoreError::Locked { .. }) => Err(CheckError::OtherKey(from.clone())),
        _ => Ok(()),
    }
}
