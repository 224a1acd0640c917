//! A manager whose key file is sealed (pki.md 10.2): it serves nothing but its unlocking.
//!
//! - Nothing of it runs: no port is bound, no store is open, no session is held.
//! - The key is tried on the file: what proves it is the seal of the data key. It is kept in memory and nowhere else.

use pki::secret::SecretString;
use pki::unlock_key::UnlockKey;
use swarmpki::keystore::KeystoreError;
use tracing::{error, info, warn};

use super::{Owner, Part, RESTART_PAUSE_MIN, Setup};
use crate::engine_api::error::ApiError;
use crate::settings::Settings;

/// Text of manager-only requests on a locked manager, and of `info`.
pub(crate) const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
/// Text of a leave without force on a locked manager.
pub(super) const LEAVE: &str =
    "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";
const INVALID_FORM: &str = "invalid key string";
const INVALID_KEY: &str = "swarm could not be unlocked: invalid key provided";
const NOT_LOCKED: &str = "swarm is not locked";

/// Whether the key file cannot be read without the operator's key.
pub(super) async fn is_locked(setup: &Setup) -> bool {
    let keystore = setup.keystore.clone();
    // What else may be wrong with the file is said when it is opened.
    matches!(tokio::task::spawn_blocking(move || keystore.is_locked()).await, Ok(Ok(true)))
}

/// Tries the key that comes with the daemon's start. Without one, or with a wrong one, the manager stays locked.
pub(super) async fn unlock_unattended(setup: &Setup) -> bool {
    let Some(source) = &setup.unlock_from else {
        info!("this manager is locked: it waits for \"docker swarm unlock\" (or \"swarmpki unlock\")");
        return false;
    };
    let key = match source.read().await {
        Ok(key) => key,
        Err(error) => {
            error!(%error, "this manager stays locked");
            return false;
        }
    };
    match unlock(setup, &key).await {
        Ok(()) => {
            info!(from = %source, "this manager was unlocked");
            true
        }
        Err(refused) => {
            error!(from = %source, error = %refused, "this manager stays locked");
            false
        }
    }
}

/// Opens the key file with the operator's key.
pub(super) async fn unlock(setup: &Setup, key: &SecretString) -> Result<(), ApiError> {
    let key: UnlockKey = key.expose().parse().map_err(|_| ApiError::bad_request(INVALID_FORM))?;
    let keystore = setup.keystore.clone();
    let tried = tokio::task::spawn_blocking(move || keystore.unlock(key.into_bytes())).await;
    match tried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(KeystoreError::Locked { .. })) => Err(ApiError::unauthorized(INVALID_KEY)),
        Ok(Err(error)) => Err(not_started(&error)),
        Err(error) => Err(not_started(&error)),
    }
}

/// Forgets the operator's key: the key file is sealed again for this process, as before [`unlock`].
pub(super) fn lock(setup: &Setup) {
    setup.keystore.set_kek(None, 0);
}

fn not_started(why: &dyn std::fmt::Display) -> ApiError {
    ApiError::internal(format!("swarm component could not be started: {why}"))
}

impl Owner {
    /// Unlocks and starts a locked manager; answers when it runs.
    pub(super) async fn unlock(&mut self, key: SecretString) -> Result<(), ApiError> {
        let Part::Locked { settings } = &self.part else {
            self.part.present().control()?;
            return Err(ApiError::conflict(NOT_LOCKED));
        };
        let settings: Settings = settings.clone();
        if let Err(refused) = unlock(&self.setup, &key).await {
            warn!(error = %refused, "this manager was not unlocked");
            return Err(refused);
        }
        self.part = Part::Nothing;
        self.start_member(settings, RESTART_PAUSE_MIN).await;
        self.show();
        match &self.part {
            Part::Stopped { failure, .. } => Err(not_started(&failure.text)),
            _ => {
                info!("this manager was unlocked");
                Ok(())
            }
        }
    }
}
