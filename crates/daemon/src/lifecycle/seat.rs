//! The manager's part of a member: founding a cluster, taking a place in the group of one, opening it again, ending it.
//!
//! - The data key of the store lies in a header of the node's key file ([`data_key`]) and nowhere else; it is
//!   written before the store exists, so a store never lies there without its key.
//! - The order of a founding: root key, certificate and pair on disk, then the store with the first entry. A crash in
//!   between leaves an init under way, which the next start removes.
//! - The order of taking a place: port, place in the group, data key, then the store, which the leader fills. A crash in between leaves a
//!   manager's certificate without a store, which asks for a place again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use manager::bootstrap::{Bootstrap, Draft, Params};
use manager::chance::Chance;
use manager::peers::EnlistError;
use manager::{Config, Keys, Manager, Peers};
use pki::chain::{self, ChainError};
use pki::identity::Role;
use pki::secret::SecretBytes;
use pki::time::Time;
use replica::{Handle as _, Replica};
use swarmpki::keystore::Keystore;
use swarmpki::{Node, NodeError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::request::InitPlan;
use super::{STOP_MAX, Setup, sealing};
use crate::backend::Control;
use crate::data_key;
use crate::engine_api::error::ApiError;
use crate::settings::Settings;

/// Attempts to bind the port of a manager that starts again, and the pause between them.
const BIND_PAUSE: Duration = Duration::from_millis(50);
const BIND_ATTEMPTS: u32 = 10;

/// The pauses before a member that the leader has not filled asks again who the others are: when nobody answered, and when it was told.
const ASK_AGAIN: Duration = Duration::from_secs(2);
const BELIEVED: Duration = Duration::from_secs(60);

/// Why the manager's part could not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum SeatError {
    #[error(transparent)]
    Chance(#[from] manager::chance::NoChance),
    #[error(transparent)]
    Bootstrap(#[from] manager::bootstrap::BootstrapError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Keystore(#[from] swarmpki::keystore::KeystoreError),
    #[error(
        "the node's key file holds no data key for the store in {0}/raft: it belongs to another node, or was written by another program"
    )]
    NoDataKey(String),
    #[error("the cluster's store cannot be opened: {0}")]
    Store(String),
    #[error("{0}")]
    Bind(String),
    #[error(transparent)]
    Start(#[from] manager::StartError),
    #[error("error while loading TLS certificate in {0}: {1}")]
    Foreign(String, ChainError),
    #[error("listen address {0:?} in daemon.json is not an address")]
    Address(String),
    #[error(transparent)]
    Enlist(#[from] EnlistError),
    #[error("the store failed: {0}")]
    Fatal(String),
}

/// A cluster that exists on disk and does not serve yet.
pub(super) struct Founded {
    replica: Replica,
    peers: Peers,
}

impl Founded {
    /// Makes root, first manager and store.
    pub(super) async fn found(
        setup: &Setup,
        plan: &InitPlan,
        advertise: SocketAddr,
        open: impl FnOnce() -> Result<Node, NodeError>,
    ) -> Result<(Node, Self), SeatError> {
        let chance = Chance::system();
        let now = crate::clock::now();
        let mut settings = plan.spec.settings(&cluster::settings::Settings::default());
        settings.default_addr_pool.clone_from(&plan.pools);
        settings.subnet_size = plan.subnet_size;
        settings.data_path_port = plan.data_path_port;
        let params = Params { addr: advertise.to_string(), availability: plan.availability, settings };
        let begun = begin(setup, plan, params, &chance, now).await?;
        let data_key = draw_data_key(&chance)?;
        let command = begun.command.clone();
        write_identity(setup, begun, &data_key).await?;
        let node = open()?;
        let peers = Peers::new(node.identity(), crate::clock::system());
        let config = store_config(&setup.state_dir, data_key, &peers);
        let replica = Replica::create(config, command).await.map_err(|error| SeatError::Store(error.to_string()))?;
        Ok((node, Self { replica, peers }))
    }

    /// Makes the store of a cluster that is made anew from a backup, with the identity that this machine has in it.
    pub(super) async fn restore(
        setup: &Setup,
        begun: Bootstrap,
        backup: replica::Backup,
        chance: &Chance,
        open: impl FnOnce() -> Result<Node, NodeError>,
    ) -> Result<(Node, Self), SeatError> {
        let data_key = draw_data_key(chance)?;
        let command = begun.command.clone();
        write_identity(setup, begun, &data_key).await?;
        let failed = |error: replica::OpenError| SeatError::Store(error.to_string());
        let config = offline_config(&setup.state_dir, data_key.duplicate());
        Replica::restore(config, backup, command).await.map_err(failed)?;
        let node = open()?;
        let peers = Peers::new(node.identity(), crate::clock::system());
        let replica = Replica::open(store_config(&setup.state_dir, data_key, &peers)).await.map_err(failed)?;
        Ok((node, Self { replica, peers }))
    }

    /// Asks a manager of the cluster for a place in its group, and makes the store that the leader will fill.
    async fn enlist(
        setup: &Setup,
        node: &swarmpki::Handle,
        addrs: &[String],
        advertise: &str,
    ) -> Result<Self, SeatError> {
        let peers = Peers::new(node.identity(), crate::clock::system());
        let place = ask(&peers, addrs, advertise, None).await?;
        // What an attempt before this one left behind is of a place that is given up.
        forget(setup, setup.keystore.clone()).await?;
        let data_key = draw_data_key(&Chance::system())?;
        let (keystore, fresh) = (setup.keystore.clone(), data_key.duplicate());
        let written = tokio::task::spawn_blocking(move || data_key::write(&keystore, &fresh));
        written.await.map_err(|error| SeatError::Store(error.to_string()))??;
        let (raft_id, cluster, epoch) = (place.raft_id, place.cluster.clone(), place.epoch);
        peers.believe(place);
        let config = store_config(&setup.state_dir, data_key, &peers);
        let replica = Replica::join(config, raft_id, cluster, epoch);
        let replica = replica.await.map_err(|error| SeatError::Store(error.to_string()))?;
        Ok(Self { replica, peers })
    }

    /// The store that was made for a place, if there is one. One without its data key was never finished.
    async fn begun(setup: &Setup, node: &swarmpki::Handle) -> Result<Option<Self>, SeatError> {
        if !super::member::is_manager(setup) {
            return Ok(None);
        }
        match Self::reopen(setup, node).await {
            Ok(begun) => Ok(Some(begun)),
            Err(SeatError::NoDataKey(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the leader has not filled the store as far as the place that it was made for: it may not know whom to hear.
    fn is_begun(&self) -> bool {
        let own = self.replica.raft_id();
        !self.replica.state().members.rows.values().any(|row| row.raft_id == own)
    }

    /// Opens the store of an earlier run.
    async fn reopen(setup: &Setup, node: &swarmpki::Handle) -> Result<Self, SeatError> {
        let keystore = setup.keystore.clone();
        let data_keys = tokio::task::spawn_blocking(move || data_key::load(&keystore));
        let data_keys = data_keys.await.map_err(|error| SeatError::Store(error.to_string()))??;
        let peers = Peers::new(node.identity(), crate::clock::system());
        let opened = data_key::open(data_keys, |key| store_config(&setup.state_dir, key, &peers)).await;
        let opened = opened.map_err(|error| SeatError::Store(error.to_string()))?;
        let (replica, data_key) = opened.ok_or_else(|| SeatError::NoDataKey(setup.state_dir.display().to_string()))?;
        let keystore = setup.keystore.clone();
        let settled = tokio::task::spawn_blocking(move || data_key::settle(&keystore, &data_key));
        settled.await.map_err(|error| SeatError::Store(error.to_string()))??;
        Ok(Self { replica, peers })
    }

    /// Refuses a pair that is none of this cluster's: its chain does not lead to the root that is served, and the store does not know
    /// its leaf from before (conformance 358). The agent judged the pair by the root file beside it, and whoever brings a pair of another
    /// root brings that file along.
    fn check_pair(&self, node: &Node) -> Result<(), SeatError> {
        let state = self.replica.state();
        // Its store is filled by the leader, who knows it by its pair.
        if state.cluster_id().is_none() {
            return Ok(());
        }
        let Some(identity) = node.identity().current() else { return Ok(()) };
        let now = crate::clock::now();
        let anchors = state.roots.served().map(|root| root.certificates.as_slice()).unwrap_or_default();
        let Err(error) = chain::validate_certificates(identity.chain(), anchors, true, now) else { return Ok(()) };
        let record = state.node(&identity.subject().node);
        let known = identity
            .chain()
            .first()
            .zip(record)
            .is_some_and(|(leaf, record)| record.registered(&leaf.serial(), &leaf.spki_hash(), now).is_some());
        let path = || node.handle().keystore().certificate_path().display().to_string();
        if known { Ok(()) } else { Err(SeatError::Foreign(path(), error)) }
    }

    /// Serves on `listener` with the node's identity, and is to be found where the settings say.
    pub(super) fn sit(
        self,
        node: &swarmpki::Handle,
        listener: TcpListener,
        settings: &Settings,
        keys: Keys,
    ) -> Result<Seat, SeatError> {
        let config = Config {
            clock: crate::clock::system(),
            chance: Chance::system(),
            identity: node.identity(),
            keys,
            peers: self.peers,
            addr: Some(settings.advertise_addr.clone()).filter(|addr| !addr.is_empty()),
        };
        let addr = local(&listener).map_err(|error| SeatError::Bind(error.to_string()))?;
        let peers = config.peers.clone();
        let manager = Manager::start(config, self.replica.clone(), listener)?;
        let (replica, agent, (broken, unsealed)) = (self.replica.clone(), node.clone(), watch::channel(None));
        let sealing = tokio::spawn(async move {
            let ended = AssertUnwindSafe(sealing::follow(replica, agent)).catch_unwind().await;
            broken.send_replace(ended.err().map(|_| "what keeps the key file sealed broke off".to_owned()));
        });
        Ok(Seat { addr, manager, replica: self.replica, peers, sealing, unsealed })
    }
}

/// Key, certificate and trust bundle of a cluster's first manager, and the data key of its store.
async fn write_identity(setup: &Setup, begun: Bootstrap, data_key: &SecretBytes) -> Result<(), SeatError> {
    let (keystore, fresh) = (setup.keystore.clone(), data_key.duplicate());
    let Bootstrap { chain, key, trust, unlock, .. } = begun;
    // A manager that is to be locked at rest is so from the first write on.
    keystore.set_kek(unlock.map(|unlock| Arc::new(unlock.0.bytes().duplicate())), 0);
    let written = tokio::task::spawn_blocking(move || {
        keystore.save_trust(trust.raw())?;
        keystore.save_pair(&chain, &key, Role::Manager)?;
        data_key::write(&keystore, &fresh)
    });
    Ok(written.await.map_err(|error| SeatError::Store(error.to_string()))??)
}

/// The cluster's beginning, by whoever signs for its root: a key that is here, a token, or an external CA.
async fn begin(
    setup: &Setup,
    plan: &InitPlan,
    params: Params,
    chance: &Chance,
    now: Time,
) -> Result<Bootstrap, SeatError> {
    let Some(root) = &plan.root else { return Ok(Bootstrap::prepare(params, chance, now)?) };
    let draft = Draft::new(params, Arc::clone(root), chance)?;
    if root.custody.is_outside() {
        return Ok(draft.by_external_ca(crate::clock::system(), chance, now).await?);
    }
    let (keys, chance) = (setup.keys.clone(), chance.clone());
    let begun = tokio::task::spawn_blocking(move || draft.by_key(&keys, &chance, now));
    Ok(begun.await.map_err(|error| SeatError::Store(error.to_string()))??)
}

/// A manager that runs.
pub(super) struct Seat {
    /// Where this machine reaches it.
    addr: SocketAddr,
    manager: Manager<Replica>,
    replica: Replica,
    peers: Peers,
    /// What keeps the key file sealed as the cluster wants it.
    sealing: JoinHandle<()>,
    /// Why that ended before it was told to.
    unsealed: watch::Receiver<Option<String>>,
}

impl Seat {
    /// Starts again the manager whose store lies in the directory. None: it has only begun to take its place, and
    /// [goes on](Self::take) with that.
    pub(super) async fn resume(setup: &Setup, settings: &Settings, node: &Node) -> Result<Option<Self>, SeatError> {
        let listener = listen(settings).await?;
        let founded = Founded::reopen(setup, &node.handle()).await?;
        if founded.is_begun() {
            founded.replica.shutdown().await;
            return Ok(None);
        }
        if let Err(refused) = founded.check_pair(node) {
            founded.replica.shutdown().await;
            return Err(refused);
        }
        founded.sit(&node.handle(), listener, settings, setup.keys.clone()).map(Some)
    }

    /// Takes a place in the group of the cluster whose manager's certificate the node holds, by way of one of the managers that it
    /// knows, and waits until the group has made it a manager. A place for which there is a store is gone on with, if it is not given up.
    pub(super) async fn take(setup: &Setup, settings: &Settings, node: &swarmpki::Handle) -> Result<Self, SeatError> {
        let mut listener = listen(settings).await?;
        let port = listener.local_addr().map_err(|error| SeatError::Bind(error.to_string()))?.port();
        let advertise = match settings.advertise_addr.as_str() {
            "" => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port).to_string(),
            told => told.to_owned(),
        };
        let others = || {
            let status = node.status();
            let known = status.borrow().managers.iter().map(|peer| peer.addr.clone()).collect::<Vec<_>>();
            let mut addrs = known.into_iter().chain([settings.remote_addr.clone()]).collect::<Vec<_>>();
            addrs.retain(|addr| !addr.is_empty() && *addr != advertise);
            addrs
        };
        if let Some(begun) = Founded::begun(setup, node).await? {
            // It serves at once: the others may need its voice.
            let seat = begun.sit(node, listener, settings, setup.keys.clone())?;
            if seat.goes_on(node, others, &advertise).await? {
                return Ok(seat);
            }
            tracing::info!("the place among the managers is given up: this node asks for another");
            seat.stop().await;
            listener = listen(settings).await?;
        }
        let founded = Founded::enlist(setup, node, &others(), &advertise).await?;
        let seat = founded.sit(node, listener, settings, setup.keys.clone())?;
        seat.seated(node).await?;
        Ok(seat)
    }

    /// Waits until the group has made it a manager. A state that is still being filled may tell of a place that this node had before.
    async fn seated(&self, node: &swarmpki::Handle) -> Result<(), SeatError> {
        let own = node.status().borrow().node.clone();
        let (mut states, raft_id) = (self.replica.watch(), self.replica.raft_id());
        let seated = states.wait_for(|state| {
            let place = own.as_ref().and_then(|own| Some((state.node(own)?, state.members.rows.get(own)?)));
            place.is_some_and(|(record, row)| record.role == Role::Manager && row.raft_id == raft_id)
        });
        tokio::select! {
            seated = seated => seated.map(drop).map_err(|_| SeatError::Fatal("the store was closed".to_owned())),
            fatal = self.replica.fatal() => Err(SeatError::Fatal(fatal.to_string())),
        }
    }

    /// The same with the store of a place that may be given up, and that may not know whom to hear: both is asked. Whether the place was not
    /// given up.
    async fn goes_on(
        &self,
        node: &swarmpki::Handle,
        others: impl Fn() -> Vec<String>,
        advertise: &str,
    ) -> Result<bool, SeatError> {
        let own = self.replica.raft_id();
        loop {
            match ask(&self.peers, &others(), advertise, Some(own)).await {
                Ok(place) if place.raft_id == own => {
                    self.peers.believe(place);
                    if let Ok(seated) = tokio::time::timeout(BELIEVED, self.seated(node)).await {
                        return seated.map(|()| true);
                    }
                }
                Ok(_) | Err(EnlistError::Refused { code: tonic::Code::NotFound, .. }) => return Ok(false),
                Err(error) => {
                    warn!(%error, "this node is to be a manager, and nobody has told it yet who the others are");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
            if let Some(fatal) = self.replica.fatal().now_or_never() {
                return Err(SeatError::Fatal(fatal.to_string()));
            }
        }
    }

    /// Waits until it is written down that the others find it there.
    pub(super) async fn told_at(&self, addr: &str) {
        let (mut states, raft_id) = (self.replica.watch(), self.replica.raft_id());
        let told =
            states.wait_for(|state| state.members.rows.values().any(|row| row.raft_id == raft_id && row.addr == addr));
        if told.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Where this machine reaches it.
    pub(super) fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// The operator's side.
    pub(super) fn control(&self) -> Control {
        self.manager.control()
    }

    /// The cluster's state and its issuance log.
    pub(super) fn replica(&self) -> Replica {
        self.replica.clone()
    }

    /// Waits until the store fails for good: the process has to end then.
    pub(super) async fn failed(&self) -> String {
        self.replica.fatal().await.to_string()
    }

    /// Waits until the leader says that this node has no place in the group any more.
    pub(super) async fn out(&self) {
        self.manager.out().await;
    }

    /// Waits until a part of the manager breaks off: the member is to be started anew then.
    pub(super) async fn broken(&self) -> String {
        let mut unsealed = self.unsealed.clone();
        let unsealed = async {
            match unsealed.wait_for(Option::is_some).await.map(|why| why.clone()) {
                Ok(Some(why)) => why,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            why = self.manager.broken() => why,
            why = unsealed => why,
        }
    }

    /// Waits until the cluster was made anew without this manager; what is to be done then.
    pub(super) async fn outlived(&self) -> String {
        self.peers.outlived().await
    }

    /// Lets sessions say goodbye, then closes the store.
    pub(super) async fn stop(self) {
        self.sealing.abort();
        let _ = self.sealing.await;
        if tokio::time::timeout(STOP_MAX, self.manager.shutdown()).await.is_err() {
            warn!("the manager did not stop in time");
        }
        self.replica.shutdown().await;
    }
}

/// Asks the managers at these addresses for a place, until one answers.
async fn ask(
    peers: &Peers,
    addrs: &[String],
    advertise: &str,
    raft_id: Option<u64>,
) -> Result<manager::peers::Place, EnlistError> {
    let mut asked = Err(EnlistError::Unreachable("no manager of the cluster is known".to_owned()));
    for addr in addrs {
        asked = peers.enlist(addr, advertise, raft_id).await;
        if !matches!(asked, Err(EnlistError::Unreachable(_))) {
            break;
        }
    }
    asked
}

/// Removes what a manager held that is one no more: the store, and the key that it is sealed with.
pub(super) async fn forget(setup: &Setup, keystore: Arc<Keystore>) -> Result<(), SeatError> {
    let dir = setup.state_dir.join("raft");
    let removed = tokio::task::spawn_blocking(move || {
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(SeatError::Store(format!("cannot remove {}: {error}", dir.display())));
            }
            _ => {}
        }
        Ok(data_key::forget(&keystore)?)
    });
    removed.await.map_err(|error| SeatError::Store(error.to_string()))?
}

/// The store of a manager that does not run: nobody is asked anything.
pub(super) fn offline_config(state_dir: &Path, dek: SecretBytes) -> replica::Config {
    replica::Config {
        dir: state_dir.join("raft"),
        dek,
        clock: crate::clock::system(),
        carrier: Arc::new(replica::carrier::Alone),
        limits: replica::Limits::default(),
    }
}

fn draw_data_key(chance: &Chance) -> Result<SecretBytes, manager::chance::NoChance> {
    Ok(SecretBytes::from(chance.bytes::<{ data_key::BYTES }>()?.to_vec()))
}

fn store_config(state_dir: &Path, dek: SecretBytes, peers: &Peers) -> replica::Config {
    replica::Config {
        dir: state_dir.join("raft"),
        dek,
        clock: crate::clock::system(),
        carrier: Arc::new(peers.clone()),
        limits: replica::Limits::default(),
    }
}

/// Binds the port that the settings say; an earlier run may just be letting go of it.
async fn listen(settings: &Settings) -> Result<TcpListener, SeatError> {
    let address = settings.listen_addr.parse().map_err(|_| SeatError::Address(settings.listen_addr.clone()))?;
    let mut attempt = 1;
    loop {
        match bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(refused) if attempt == BIND_ATTEMPTS => return Err(SeatError::Bind(refused.message)),
            Err(_) => tokio::time::sleep(BIND_PAUSE).await,
        }
        attempt += 1;
    }
}

/// Binds the cluster's port; a refusal has the engine's words (engine-api.md 2.1).
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, ApiError> {
    TcpListener::bind(address).await.map_err(|error| ApiError::internal(bind_text(address, &error)))
}

/// Where this machine reaches what listens there.
fn local(listener: &TcpListener) -> std::io::Result<SocketAddr> {
    let mut addr = listener.local_addr()?;
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(addr)
}

fn bind_text(address: SocketAddr, error: &std::io::Error) -> String {
    // The kernel's own words in small letters, as Go prints them.
    let reason = error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |number| nix::errno::Errno::from_raw(number).desc().to_lowercase());
    format!("manager stopped: failed to listen on remote API address: listen tcp {address}: bind: {reason}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn ports_that_cannot_be_bound() {
        let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = held.local_addr().unwrap();
        let refused = bind(address).await.unwrap_err();
        assert_eq!(refused.status.as_u16(), 500);
        assert_eq!(
            refused.message,
            format!(
                "manager stopped: failed to listen on remote API address: listen tcp {address}: bind: address already in use"
            )
        );
        let refused = bind("192.0.2.55:2377".parse().unwrap()).await.unwrap_err();
        assert!(
            refused.message.ends_with("listen tcp 192.0.2.55:2377: bind: cannot assign requested address"),
            "{refused}"
        );
    }
}
