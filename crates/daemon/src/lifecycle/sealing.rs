//! A manager's key file follows the unlock key in the cluster's state (pki.md 10.2).
//!
//! What lay on disk in clear until managers were locked is replaced: the node's key by a renewal, the store's data key by another one, under
//! which everything is written anew. The mark in the key file that says so goes only then, so a crash in between is made up for.

use std::sync::Arc;
use std::time::Duration;

use cluster::lock::UnlockBox;
use replica::{Handle as _, Replica};
use swarmpki::Handle;
use swarmpki::keystore::{Keystore, KeystoreError, Rekeyed};
use tracing::{error, info};

/// The pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Why the key file could not follow.
#[derive(Debug, thiserror::Error)]
enum SealingError {
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
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
            pause = match step(&agent, unlock.as_ref(), version).await {
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

async fn step(agent: &Handle, unlock: Option<&UnlockBox>, version: u64) -> Result<(), SealingError> {
    let key = unlock.map(|unlock| Arc::new(unlock.0.bytes().duplicate()));
    match on_disk(agent, move |keystore| keystore.rekey(key, version)).await? {
        Rekeyed::Unchanged => {}
        Rekeyed::Locked => info!("this manager is locked at rest from now on: it needs the unlock key when it starts"),
        Rekeyed::Changed => info!("this manager's key file is sealed under the new unlock key"),
        Rekeyed::Unlocked => info!("this manager is not locked at rest any more"),
    }
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
