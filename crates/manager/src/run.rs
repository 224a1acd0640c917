//! A running manager.

use std::sync::Arc;

use replica::Handle;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wire::status::Refusal;

use crate::chance::Chance;
use crate::control::Control;
use crate::keys::Keys;
use crate::leading::while_leading;
use crate::peers::Peers;
use crate::shared::{Clock, Shared};
use crate::{collect, outside, rotate, seats, server, service, share, watcher};

/// What a manager runs with.
pub struct Config {
    /// The time.
    pub clock: Clock,
    /// Random numbers.
    pub chance: Chance,
    /// The identity that it serves with; whoever renews it publishes it.
    pub identity: mtls::Live,
    /// The keys in its custody; by itself it has only those in the replicated state.
    pub keys: Keys,
    /// The way to the other managers.
    pub peers: Peers,
}

/// Why a manager does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It has no identity to serve with.
    #[error("the manager has no certificate yet")]
    NoIdentity,
}

/// A running manager. Dropping it stops it; [`shutdown`](Self::shutdown) lets sessions say goodbye.
pub struct Manager<H> {
    shared: Arc<Shared<H>>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl<H: Handle> Manager<H> {
    /// Starts to serve on `listener`.
    ///
    /// # Errors
    /// If there is no identity to serve with.
    pub fn start(config: Config, handle: H, listener: TcpListener) -> Result<Self, StartError> {
        if config.identity.current().is_none() {
            return Err(StartError::NoIdentity);
        }
        let Config { clock, chance, identity, keys, peers } = config;
        peers.follow(handle.raft_id(), handle.watch());
        let shared = Arc::new(Shared::new(handle, clock, chance, identity, keys, peers));
        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let routes = service::Router::new(Arc::clone(&shared));
        tasks.spawn(server::serve(Arc::clone(&shared), listener, routes, shutdown.clone()));
        tasks.spawn(watcher::watch(Arc::clone(&shared), shutdown.clone()));
        tasks.spawn(collect::sessions(Arc::clone(&shared), shutdown.clone()));
        tasks.spawn(rotate::lead::lead(Arc::clone(&shared), shutdown.clone()));
        tasks.spawn(while_leading(Arc::clone(&shared), shutdown.clone(), share::lead));
        tasks.spawn(share::follow(Arc::clone(&shared), shutdown.clone()));
        tasks.spawn(while_leading(Arc::clone(&shared), shutdown.clone(), seats::tend));
        tasks.spawn(outside::run(Arc::clone(&shared), shutdown.clone()));
        tasks.spawn(while_leading(Arc::clone(&shared), shutdown.clone(), collect::state));
        Ok(Self { shared, shutdown, tasks })
    }

    /// The operator's side.
    pub fn control(&self) -> Control<H> {
        Control(Arc::clone(&self.shared), None)
    }

    /// Ends sessions with the word to look for another manager, then stops.
    pub async fn shutdown(mut self) {
        self.shared.slots.end_all(&Refusal::MustDisconnect);
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl<H> Drop for Manager<H> {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
