//! A manager's key file follows the unlock key in the cluster's state (pki.md 10.2).
//!
//! What lay on disk in clear until managers were locked is replaced: the node's key by a renewal, the store's data key by another one, under
//! which everything is written anew. The mark in the key file that says so goes only then, so a crash in between is made up for.

use std::sync::Arc;
use std::time::Duration;

use cluster::lock::UnlockBox;
use manager::chance::Chance;
use pki::secret::SecretBytes;
use replica::{Handle as _, Replica};
use swarmpki::Handle;
use swarmpki::keystore::{Keystore, KeystoreError, Rekeyed};
use tracing::{error, info, warn};

use crate::data_key;

/// How long the replacement of the node's key is waited for before that of the data key: it needs the other managers.
const RENEWAL_MAX: Duration = Duration::from_secs(60);
/// The pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Why the key file could not follow.
#[derive(Debug, thiserror::Error)]
enum SealingError {
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    #[error(transparent)]
    Chance(#[from] manager::chance::NoChance),
    #[error("the store cannot be sealed under another key: {0}")]
    Store(String),
}

/// Runs as long as the manager does.
pub(super) async fn follow(replica: Replica, agent: Handle) {
    let mut states = replica.watch();
    let mut pause = None;
    loop {
        let (unlock, version) = {
            let state = states.borrow_and_update();
            (state.unlock.clone(), state.cluster_version)
        };
        // A member that was told nothing yet knows of no key either.
        if version > 0 {
            pause = match step(&replica, &agent, unlock.as_ref(), version).await {
                Ok(()) => None,
                Err(error) => {
                    error!(%error, "the key file does not follow the cluster's unlock key");
                    Some(AGAIN)
                }
            };
        }
        let changed = states.wait_for(|state| state.unlock != unlock || version == 0 && state.cluster_version > 0);
        let ended = match pause {
            None => changed.await.is_err(),
            // In time or not: it is looked at again.
            Some(pause) => tokio::time::timeout(pause, changed).await.is_ok_and(|changed| changed.is_err()),
        };
        if ended {
            return;
        }
    }
}

async fn step(replica: &Replica, agent: &Handle, unlock: Option<&UnlockBox>, version: u64) -> Result<(), SealingError> {
    let key = unlock.map(|unlock| Arc::new(unlock.0.bytes().duplicate()));
    match on_disk(agent, move |keystore| keystore.rekey(key, version)).await? {
        Rekeyed::Unchanged => {}
        Rekeyed::Locked => info!("this manager is locked at rest from now on: it needs the unlock key when it starts"),
        Rekeyed::Changed => info!("this manager's key file is sealed under the new unlock key"),
        Rekeyed::Unlocked => info!("this manager is not locked at rest any more"),
    }
    if on_disk(agent, |keystore| keystore.data_keys().map(|keys| keys.needs_rotation)).await? {
        renew(agent).await;
        rotate(replica, agent).await?;
    }
    Ok(())
}

/// Has the node's key replaced.
async fn renew(agent: &Handle) {
    let mut status = agent.status();
    let installed = status.borrow_and_update().installed;
    agent.renew_now();
    let renewed = status.wait_for(|status| status.installed > installed);
    if !matches!(tokio::time::timeout(RENEWAL_MAX, renewed).await, Ok(Ok(_))) {
        warn!("this node's key was on disk in clear, and could not be replaced yet: it is at the next renewal");
    }
}

/// Has the store's data key replaced.
async fn rotate(replica: &Replica, agent: &Handle) -> Result<(), SealingError> {
    let key = SecretBytes::from(Chance::system().bytes::<{ data_key::BYTES }>()?.to_vec());
    let announced = key.duplicate();
    on_disk(agent, move |keystore| data_key::announce(keystore, &announced)).await?;
    if let Err(error) = replica.reseal(key.duplicate()).await {
        if !matches!(error, replica::ResealError::Stopped) {
            on_disk(agent, data_key::take_back).await?;
        }
        return Err(SealingError::Store(error.to_string()));
    }
    on_disk(agent, move |keystore| data_key::settle(keystore, &key)).await?;
    info!("the store is sealed under a new data key");
    Ok(())
}

async fn on_disk<T: Send + 'static>(
    agent: &Handle,
    work: impl FnOnce(&Keystore) -> Result<T, KeystoreError> + Send + 'static,
) -> Result<T, SealingError> {
    let keystore = agent.keystore();
    let done = tokio::task::spawn_blocking(move || work(&keystore)).await;
    Ok(done.map_err(|error| SealingError::Store(error.to_string()))??)
}
