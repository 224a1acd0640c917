//! The key under which the store's records are sealed: where it lies, and how it is replaced (pki.md 10.4).
//!
//! A replacement is written beside the key in use before anything is sealed under it. So whatever is found at a start, the key that the store
//! is under is one of the two.

use pki::secret::SecretBytes;
use replica::{OpenError, Replica, StoreError};
use swarmpki::keystore::{DataKeys, Keystore, KeystoreError};

/// Its length, in bytes.
pub(crate) const BYTES: usize = 32;

/// The keys that the store may be under, the likelier one first; none if the key file is not there or holds none.
pub(crate) fn load(keystore: &Keystore) -> Result<Vec<SecretBytes>, KeystoreError> {
    let DataKeys { current, pending, .. } = keystore.data_keys()?;
    Ok(pending.into_iter().chain(current).filter(|key| key.expose().len() == BYTES).collect())
}

/// Opens the store under that one of the keys that it is sealed with; `None` if there is no key.
pub(crate) async fn open(
    keys: Vec<SecretBytes>,
    config: impl Fn(SecretBytes) -> replica::Config,
) -> Result<Option<(Replica, SecretBytes)>, OpenError> {
    let mut refused = None;
    for key in keys {
        match Replica::open(config(key.duplicate())).await {
            Ok(replica) => return Ok(Some((replica, key))),
            Err(error @ OpenError::Store(StoreError::WrongKey { .. })) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(None), Err)
}

/// Writes the key of a store that is to be made.
pub(crate) fn write(keystore: &Keystore, key: &SecretBytes) -> Result<(), KeystoreError> {
    keystore.update_data_keys(|keys| {
        *keys = DataKeys { current: Some(key.duplicate()), ..DataKeys::default() };
    })
}

/// Forgets the keys of a store that is gone.
pub(crate) fn forget(keystore: &Keystore) -> Result<(), KeystoreError> {
    keystore.update_data_keys(|keys| *keys = DataKeys::default())
}

/// Writes a key that is to take the place of the present one.
pub(crate) fn announce(keystore: &Keystore, key: &SecretBytes) -> Result<(), KeystoreError> {
    keystore.update_data_keys(|keys| {
        keys.pending = Some(key.duplicate());
        keys.needs_rotation = false;
    })
}

/// What was to take the present one's place does not, for now.
pub(crate) fn take_back(keystore: &Keystore) -> Result<(), KeystoreError> {
    keystore.update_data_keys(|keys| {
        keys.pending = None;
        keys.needs_rotation = true;
    })
}

/// The store was found under `key`. A change to another one that was cut short has to be made again.
pub(crate) fn settle(keystore: &Keystore, key: &SecretBytes) -> Result<(), KeystoreError> {
    if keystore.data_keys()?.pending.is_none() {
        return Ok(());
    }
    keystore.update_data_keys(|keys| {
        let finished = keys.pending.take().is_some_and(|pending| pending.ct_eq(key.expose()));
        if finished {
            keys.current = Some(key.duplicate());
        } else {
            keys.needs_rotation = true;
        }
    })
}
