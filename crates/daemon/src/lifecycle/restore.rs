//! A cluster made anew from a backup, on a machine that is in none.
//!
//! The machine gets an identity of its own, signed by the root in the backup, and the cluster fresh secrets. A restore that fails leaves nothing
//! behind; a crash on the way leaves an init under way, which the next start removes.

use std::sync::Arc;

use cluster::State;
use manager::bootstrap::{Bootstrap, Restoration};
use manager::chance::Chance;
use pki::identity::NodeId;
use replica::Backup;
use swarmpki::KeptHead;
use swarmpki::keystore::Keystore;
use tracing::{info, warn};

use super::{Owner, Part, member, seat};
use crate::address;
use crate::age::{self, By};
use crate::backend::ALREADY_MEMBER;
use crate::backup;
use crate::engine_api::error::ApiError;
use crate::engine_api::reference::resolve;
use crate::settings::{Settings, UnderWay};

/// What a restore asks for.
pub(crate) struct RestoreRequest {
    /// The backup, encrypted.
    pub(crate) file: Vec<u8>,
    /// What opens it.
    pub(crate) by: By,
    /// As an init's.
    pub(crate) listen: String,
    /// As an init's.
    pub(crate) advertise: String,
    /// Nodes that were removed after the backup.
    pub(crate) removed: Vec<String>,
}

impl Owner {
    pub(super) async fn restore(&mut self, request: RestoreRequest) -> Result<NodeId, ApiError> {
        if !matches!(self.part, Part::Nothing) {
            return Err(ApiError::unavailable(ALREADY_MEMBER));
        }
        let RestoreRequest { file, by, listen, advertise, removed } = request;
        address::parse_tcp("ListenAddr", &listen, "0.0.0.0")?;
        let addresses = address::resolve(&listen, &advertise, "", &address::interfaces())?;
        let read = tokio::task::spawn_blocking(move || {
            let plain = age::decrypt(&by, &file).map_err(|error| ApiError::bad_request(error.to_string()))?;
            backup::decode(&plain).map_err(|error| ApiError::bad_request(error.to_string()))
        });
        let (backup, head) = read.await.map_err(|error| ApiError::internal(error.to_string()))??;
        let removed = named(&backup.state, &removed)?;
        let listener = seat::bind(addresses.listen).await?;
        match self.restored(backup, head, removed, addresses, listener).await {
            Ok((node_id, running)) => {
                self.part = Part::Member(Box::new(running));
                self.show();
                info!(node = %node_id, "the cluster was restored from a backup");
                Ok(node_id)
            }
            Err(failed) => {
                warn!(error = %failed, "the restore failed");
                self.wipe();
                Err(failed)
            }
        }
    }

    async fn restored(
        &self,
        backup: Backup,
        head: Option<KeptHead>,
        removed: Vec<NodeId>,
        addresses: address::Addresses,
        listener: tokio::net::TcpListener,
    ) -> Result<(NodeId, member::Running), ApiError> {
        let failed =
            |error: &dyn std::fmt::Display| ApiError::internal(format!("the backup cannot be restored: {error}"));
        let port = listener.local_addr().map_err(|error| failed(&error))?.port();
        let addresses = addresses.with_port(port);
        let settings = Settings {
            format: Settings::FORMAT,
            listen_addr: addresses.listen.to_string(),
            advertise_addr: addresses.advertise.to_string(),
            remote_addr: String::new(),
            under_way: UnderWay::Init,
        };
        settings.save(&self.setup.state_dir).map_err(|error| failed(&error))?;
        if let Some(head) = head {
            // It begins as a witness of what it was made from.
            let kept = Keystore::new(self.setup.state_dir.clone()).save_log_head(&head.bytes());
            kept.map_err(|error| failed(&error))?;
        }
        let restoration = Restoration { addr: settings.advertise_addr.clone(), backup: backup.state.time(), removed };
        let chance = Chance::system();
        let (state, keys) = (Arc::clone(&backup.state), self.setup.keys.clone());
        let begun = Bootstrap::restore(state, restoration, keys, crate::clock::system(), &chance).await;
        let begun = begun.map_err(|error| failed(&error))?;
        let open = || member::open(&self.setup, &settings);
        let founded = seat::Founded::restore(&self.setup, begun, backup, &chance, open).await;
        let (node, founded) = founded.map_err(|error| failed(&error))?;
        let seat = founded
            .sit(&node.handle(), listener, &settings, self.setup.keys.clone())
            .map_err(|error| failed(&error))?;
        self.founded(node, settings, seat).await
    }
}

/// The nodes of a backup that are meant, each by its id, its host name, or the beginning of its id.
fn named(state: &State, removed: &[String]) -> Result<Vec<NodeId>, ApiError> {
    let nodes: Vec<_> = state.nodes.values().cloned().collect();
    let find = |reference: &String| match resolve(&nodes, reference) {
        Ok(node) => Ok(node.id.clone()),
        Err(refused) => Err(ApiError::bad_request(format!(
            "nothing was restored: of --removed, {}; a node that joined after the backup is not in it, and need not be named",
            refused.message
        ))),
    };
    removed.iter().map(find).collect()
}
