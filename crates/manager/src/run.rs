//! A running manager.

use std::sync::Arc;

use replica::Handle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wire::status::Refusal;

use crate::chance::Chance;
use crate::control::Control;
use crate::keys::Keys;
use crate::leading::while_leading;
use crate::parts::Parts;
use crate::peers::Peers;
use crate::shared::{Clock, Shared};
use crate::{address, collect, heads, leader, outside, revoke, rotate, seats, server, service, share, watcher};

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
    /// Where the others reach this manager, `host:port`. They are told if they know it elsewhere; none: that stays.
    pub addr: Option<String>,
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
    parts: Parts,
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
        let Config { clock, chance, identity, keys, peers, addr } = config;
        peers.follow(handle.raft_id(), handle.watch());
        let shared = Arc::new(Shared::new(handle, clock, chance, identity, keys, peers));
        let shutdown = CancellationToken::new();
        let mut parts = Parts::new(shutdown.clone());
        let routes = service::Router::new(Arc::clone(&shared));
        let with = || (Arc::clone(&shared), shutdown.clone());
        parts.start("the port", server::serve(Arc::clone(&shared), listener, routes, shutdown.clone()));
        let (of, over) = with();
        parts.start("who leads", leader::tell(of, over));
        let (of, over) = with();
        parts.start("changes", watcher::watch(of, over));
        let (of, over) = with();
        parts.start("heads of the issuance log", heads::publish(of, over));
        let (of, over) = with();
        parts.start("sessions", collect::sessions(of, over));
        let (of, over) = with();
        parts.start("rotation", rotate::lead::lead(of, over));
        let (of, over) = with();
        parts.start("sessions of all managers", while_leading(of, over, share::lead));
        let (of, over) = with();
        parts.start("sessions of the other managers", share::follow(of, over));
        let (of, over) = with();
        parts.start("members of the group", while_leading(of, over, seats::tend));
        let (of, over) = with();
        parts.start("its address", address::keep(of, addr, over));
        let (of, over) = with();
        parts.start("certificates to revoke", while_leading(of, over, revoke::gather));
        let (of, over) = with();
        parts.start("signers elsewhere", outside::run(of, over));
        let (of, over) = with();
        parts.start("what has outlived its time", while_leading(of, over, collect::state));
        Ok(Self { shared, shutdown, parts })
    }

    /// The operator's side.
    pub fn control(&self) -> Control<H> {
        Control(Arc::clone(&self.shared), None)
    }

    /// Ends sessions with the word to look for another manager, then stops.
    pub async fn shutdown(mut self) {
        self.shared.slots.end_all(&Refusal::MustDisconnect);
        self.shutdown.cancel();
        self.parts.ended().await;
    }

    /// Waits until the leader says that this manager has no place in the group any more. What is still open here is over then.
    pub fn out(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut out = self.shared.out.subscribe();
        async move {
            if out.wait_for(|out| *out).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until a part of it breaks off, in words; for ever, if none does. It is to be shut down and started anew then.
    pub fn broken(&self) -> impl Future<Output = String> + Send + 'static {
        self.parts.broken()
    }
}

impl<H> Drop for Manager<H> {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
