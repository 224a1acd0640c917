//! Port 2377: accepts connections, learns who is at the other end of each, and serves HTTP/2 on it.
//!
//! - every handshake has its own task, a time limit and a place among a bounded number, where the greediest gives way;
//! - strangers have a budget of their own, likewise, so they crowd out neither nodes nor each other;
//! - the budgets together are what the limit of open files allows;
//! - a connection's standing is decided once, when it is accepted; the connections of a node whose standing changes are let
//!   go at once: their streams end with the reason, then the connection closes.

pub mod bounded;
mod callers;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::account::{Account, Actor};
use cluster::authorize::{Caller, Origin, Presented, Standing};
use cluster::node::IssuerHash;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mtls::{Gathered, InWork};
use pki::identity::NodeId;
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;
use replica::Handle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::bounded::{Bounded, Place};
pub(crate) use self::callers::Callers;
use crate::service::Router;
use crate::shared::Shared;

/// Handshakes under way at a time, at most.
const HANDSHAKES_MAX: usize = 512;
/// Time for one handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Time for looking up the leaf of another manager that this one does not know yet.
const MEMBER_WAITS: Duration = Duration::from_millis(100);
/// Connections of strangers at a time, at most.
const STRANGERS_MAX: usize = 1024;
/// Connections of nodes at a time, at most.
const NODES_MAX: usize = 262_144;
/// Connections of one node; an engine has two, and a few more while it renews.
const PER_NODE_MAX: usize = 16;
/// File descriptors for everything else: the store, the Engine API, the log.
const OTHER_FILES: usize = 128;
/// How long a stranger's connection may do nothing.
const STRANGER_IDLE: Duration = Duration::from_secs(30);
/// How long streams have to say goodbye when a connection is let go.
const FAREWELL: Duration = Duration::from_millis(200);
/// Streams at a time on one connection: an engine has five, a stranger who joins has one.
const STREAMS_MAX: u32 = 64;
/// The same for a stranger's.
const STRANGER_STREAMS_MAX: u32 = 32;
/// Bytes that a connection may have sent and nobody has read yet.
const UNREAD_BYTES_MAX: u32 = 128 * 1024;
/// Bytes of headers of one request.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// How long an accept that failed for want of file descriptors is put off.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// After so long without a sign of life a connection is asked for one.
const SILENCE: Duration = Duration::from_secs(60);

/// Who is at the other end of a connection.
pub struct Peer {
    /// Where it comes from.
    pub addr: SocketAddr,
    leaf: Option<(Presented, Standing)>,
    /// The root at which its chain ended.
    anchor: Option<IssuerHash>,
    /// Set while it has to be committed that the leaf was seen in use.
    unproven: AtomicBool,
    /// What was issued on this connection: asked for its status, it is told of that.
    issued: Mutex<Vec<(NodeId, SpkiHash)>>,
    calls: AtomicUsize,
    served: AtomicU64,
}

/// Issuances remembered for one connection.
const ISSUED_MAX: usize = 1024;

impl Peer {
    /// A peer, once its handshake is done.
    pub fn new(addr: SocketAddr, leaf: Option<(Presented, Standing)>) -> Self {
        let unproven = matches!(leaf, Some((_, Standing::Admitted { unproven: true, .. })));
        Self {
            addr,
            leaf,
            anchor: None,
            unproven: AtomicBool::new(unproven),
            issued: Mutex::new(Vec::new()),
            calls: AtomicUsize::new(0),
            served: AtomicU64::new(0),
        }
    }

    /// The same with the root at which its chain ended.
    fn anchored(self, anchor: Option<IssuerHash>) -> Self {
        Self { anchor, ..self }
    }

    /// The leaf of a manager that this one may not know yet, and the root at which its chain ended.
    pub(crate) fn unknown_leaf(&self) -> Option<(&Presented, &IssuerHash)> {
        let (leaf, standing) = self.leaf.as_ref()?;
        (*standing == Standing::Unregistered).then_some((leaf, self.anchor.as_ref()?))
    }

    /// The leaf, and the root at which its chain ended.
    pub(crate) fn anchored_leaf(&self) -> Option<(&Presented, &IssuerHash)> {
        Some((&self.leaf.as_ref()?.0, self.anchor.as_ref()?))
    }

    /// As authorization sees it.
    pub fn caller(&self) -> Caller<'_> {
        match &self.leaf {
            Some((leaf, standing)) => Caller::Identified(leaf, standing),
            None => Caller::Anonymous,
        }
    }

    /// The same for a call on behalf of `origin`, if there is one.
    pub(crate) fn caller_for<'a>(&'a self, origin: Option<&'a Origin>) -> Caller<'a> {
        match origin {
            Some(origin) => {
                let by = self.leaf.as_ref().map(|(leaf, standing)| (leaf, standing));
                Caller::Forwarded { by, origin }
            }
            None => self.caller(),
        }
    }

    /// Whether nobody of the cluster is at the other end: no certificate, or one that makes its holder no node.
    fn is_stranger(&self) -> bool {
        self.leaf.as_ref().is_none_or(|(_, standing)| standing.cut().is_none())
    }

    /// The node that its certificate names.
    pub fn node(&self) -> Option<&NodeId> {
        self.leaf.as_ref().map(|(leaf, _)| &leaf.node)
    }

    /// Whether it may only come back.
    pub fn is_returning(&self) -> bool {
        matches!(self.leaf, Some((_, Standing::Quarantined { .. })))
    }

    /// The leaf to be confirmed, once.
    pub fn take_unproven(&self) -> Option<(NodeId, Serial)> {
        let (leaf, _) = self.leaf.as_ref()?;
        self.unproven.swap(false, Ordering::AcqRel).then(|| (leaf.node.clone(), leaf.serial))
    }

    /// It was not confirmed after all.
    pub fn give_back_unproven(&self) {
        if matches!(self.leaf, Some((_, Standing::Admitted { unproven: true, .. }))) {
            self.unproven.store(true, Ordering::Release);
        }
    }

    /// Remembers what was issued on this connection.
    pub fn remember(&self, node: NodeId, key: SpkiHash) {
        let mut issued = self.issued();
        if issued.len() >= ISSUED_MAX {
            issued.remove(0);
        }
        issued.push((node, key));
    }

    /// The key that was last certified for `node` on this connection.
    pub fn issued_key(&self, node: &NodeId) -> Option<SpkiHash> {
        self.issued().iter().rev().find(|(known, _)| known == node).map(|(_, key)| *key)
    }

    fn issued(&self) -> MutexGuard<'_, Vec<(NodeId, SpkiHash)>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call in work: whose connection it came on, and on whose behalf.
pub(crate) struct Call {
    /// The connection's peer.
    pub(crate) peer: Arc<Peer>,
    /// Who called the manager that forwarded this.
    pub(crate) origin: Option<Origin>,
}

impl Call {
    /// Counts a call for as long as it lives.
    pub(crate) fn new(peer: Arc<Peer>, origin: Option<Origin>) -> Self {
        peer.calls.fetch_add(1, Ordering::Relaxed);
        peer.served.fetch_add(1, Ordering::Relaxed);
        Self { peer, origin }
    }

    /// As authorization sees it.
    pub(crate) fn caller(&self) -> Caller<'_> {
        self.peer.caller_for(self.origin.as_ref())
    }

    /// Where the caller is.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.origin.as_ref().and_then(|origin| origin.addr).unwrap_or(self.peer.addr)
    }

    /// Who calls, as it is noted.
    pub(crate) fn account(&self) -> Account {
        Account { by: self.node().map_or(Actor::Cluster, Actor::Node), from: Some(self.addr().ip()) }
    }

    /// The node that calls.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match &self.origin {
            Some(origin) => origin.node.parse().ok(),
            None => self.peer.node().cloned(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.peer.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections by node, to be let go when a node's standing changes.
#[derive(Default)]
pub(crate) struct Connections {
    by_node: Mutex<HashMap<NodeId, Vec<(u64, CancellationToken)>>>,
    next: AtomicU64,
}

impl Connections {
    /// Adds a connection of a node. One too many lets go of its oldest: a node that went wild, or whoever has its key,
    /// takes places from nobody but itself.
    fn add(&self, node: &NodeId) -> (u64, CancellationToken) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let token = CancellationToken::new();
        let mut all = self.lock();
        let list = all.entry(node.clone()).or_default();
        if list.len() >= PER_NODE_MAX {
            list.remove(0).1.cancel();
        }
        list.push((id, token.clone()));
        (id, token)
    }

    fn remove(&self, node: &NodeId, id: u64) {
        let mut all = self.lock();
        if let Some(list) = all.get_mut(node) {
            list.retain(|(known, _)| *known != id);
            if list.is_empty() {
                all.remove(node);
            }
        }
    }

    /// Lets go of a node's connections.
    pub(crate) fn cut(&self, node: &NodeId) {
        let list = self.lock().remove(node).unwrap_or_default();
        for (_, token) in list {
            token.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Vec<(u64, CancellationToken)>>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Budgets {
    handshakes: Arc<Bounded>,
    strangers: Arc<Bounded>,
    nodes: Arc<Semaphore>,
}

impl Budgets {
    /// Places for as many connections as there are file descriptors: where each kind has its own, strangers cannot take
    /// those of nodes.
    fn of(files: usize) -> Self {
        let files = files.saturating_sub(OTHER_FILES);
        let handshakes = HANDSHAKES_MAX.min(files / 8);
        let strangers = STRANGERS_MAX.min(files / 4);
        let nodes = NODES_MAX.min(files.saturating_sub(handshakes + strangers)).max(1);
        Self {
            handshakes: Bounded::new(handshakes),
            strangers: Bounded::new(strangers),
            nodes: Arc::new(Semaphore::new(nodes)),
        }
    }
}

/// File descriptors that this process may have.
fn files() -> usize {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    limit.map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// Serves `listener` until `shutdown`.
pub(crate) async fn serve<H: Handle>(
    shared: Arc<Shared<H>>,
    listener: TcpListener,
    routes: Router<H>,
    shutdown: CancellationToken,
) {
    let budgets = Arc::new(Budgets::of(files()));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, addr)) => {
                let (shared, routes, budgets) = (Arc::clone(&shared), routes.clone(), Arc::clone(&budgets));
                let shutdown = shutdown.clone();
                let place = budgets.handshakes.enter(addr.ip());
                tokio::spawn(async move { connection(shared, stream, addr, routes, place, budgets, shutdown).await });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<H: Handle>(
    shared: Arc<Shared<H>>,
    stream: TcpStream,
    addr: SocketAddr,
    routes: Router<H>,
    handshaking: Place,
    budgets: Arc<Budgets>,
    shutdown: CancellationToken,
) {
    // Small messages both ways: waiting to fill a segment would only delay them.
    let _ = stream.set_nodelay(true);
    let anchors = match shared.callers.anchors(&shared.identity, &shared.handle.state()) {
        Ok(anchors) => anchors,
        Err(error) => {
            tracing::error!(%error, "callers cannot be verified");
            return;
        }
    };
    let handshake = shared.identity.accept_from(stream, shared.now(), anchors);
    let result = tokio::select! {
        result = tokio::time::timeout(HANDSHAKE_LIMIT, Box::pin(handshake)) => result,
        () = handshaking.evicted() => {
            tracing::debug!(%addr, "a handshake gave way to newer ones");
            return;
        }
    };
    let accepted = match result {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            tracing::debug!(%addr, %error, "a handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(%addr, "a handshake took too long");
            return;
        }
    };
    let anchor = accepted.peer.as_ref().map(|verified| IssuerHash::of(&verified.anchor));
    let leaf = match &accepted.peer {
        Some(verified) => Some(standing(&shared, presented(verified)).await),
        None => None,
    };
    drop(handshaking);
    let peer = Arc::new(Peer::new(addr, leaf).anchored(anchor));
    let stranger = peer.is_stranger().then(|| budgets.strangers.enter(addr.ip()));
    let _place = match &stranger {
        Some(_) => None,
        None => match Arc::clone(&budgets.nodes).try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                tracing::warn!(%addr, "too many connections of nodes: raise the limit of open files");
                return;
            }
        },
    };
    let registered =
        peer.node().filter(|_| stranger.is_none()).map(|node| (node.clone(), shared.connections.add(node)));
    let cut = registered.as_ref().map(|(_, (_, token))| token.clone()).unwrap_or_default();
    // A removal that was applied between the handshake and this line has found no connection to cut.
    if let Some((leaf, standing)) = &peer.leaf {
        // Not kept: a state held for as long as a connection lives would keep what all later ones replaced.
        let still = shared.handle.state().standing(leaf, shared.now());
        if still.cut() != standing.cut() {
            cut.cancel();
        }
    }
    let in_work = InWork::default();
    let service = {
        let (peer, in_work) = (Arc::clone(&peer), in_work.clone());
        service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Arc::clone(&peer));
            // Boxed: what answers a call is some KiB large, and would stay with its stream as long as that is open.
            let answer = Box::pin(routes.clone().answer(request.map(tonic::body::Body::new)));
            let working = in_work.begin();
            async move {
                let answer = answer.await;
                drop(working);
                Ok::<_, std::convert::Infallible>(answer)
            }
        })
    };
    let mut serving = Box::pin({
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .max_concurrent_streams(if stranger.is_some() { STRANGER_STREAMS_MAX } else { STREAMS_MAX })
            .initial_stream_window_size(UNREAD_BYTES_MAX)
            .initial_connection_window_size(UNREAD_BYTES_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_send_buf_size(64 * 1024)
            .keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE / 3);
        http.serve_connection(TokioIo::new(Gathered::new(accepted.stream, in_work.clone())), service)
    });
    let mut idle = std::pin::pin!(idle(Arc::clone(&peer), stranger));
    let ended = tokio::select! {
        result = poll_fn(|cx| in_work.poll(cx, serving.as_mut())) => Some(result),
        () = cut.cancelled() => None,
        () = shutdown.cancelled() => None,
        () = &mut idle => None,
    };
    if ended.is_none() {
        serving.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(FAREWELL, poll_fn(|cx| in_work.poll(cx, serving.as_mut()))).await;
    }
    if let Some((node, (id, _))) = registered {
        shared.connections.remove(&node, id);
    }
}

/// Ends when a stranger's connection has done nothing for a while, or has to give way; never for others.
async fn idle(peer: Arc<Peer>, stranger: Option<Place>) {
    let Some(place) = stranger else { return std::future::pending().await };
    let mut served = u64::MAX;
    loop {
        let now = peer.served.load(Ordering::Relaxed);
        if now == served && peer.calls.load(Ordering::Relaxed) == 0 {
            return;
        }
        served = now;
        tokio::select! {
            () = tokio::time::sleep(STRANGER_IDLE) => {}
            () = place.evicted() => return,
        }
    }
}

/// The standing of a verified leaf. One that nobody registered is looked up once more in a state that is surely not old
/// before it is called forged. A member of the group is not made to wait for that: it may be the leader, without whom no state is surely
/// not old.
async fn standing<H: Handle>(shared: &Arc<Shared<H>>, leaf: Presented) -> (Presented, Standing) {
    let now = shared.now();
    let state = shared.handle.state();
    let standing = state.standing(&leaf, now);
    if standing != Standing::Unregistered {
        return (leaf, standing);
    }
    let member = state.members.rows.contains_key(&leaf.node);
    drop(state);
    // A task of its own: whether to alarm is found out also if nobody waits for it.
    let looked_up = tokio::spawn(look_up(Arc::clone(shared), leaf.clone(), now));
    let within = if member { MEMBER_WAITS } else { Duration::MAX };
    let standing = match tokio::time::timeout(within, looked_up).await {
        Ok(Ok(found)) => found,
        _ => Standing::Unregistered,
    };
    (leaf, standing)
}

async fn look_up<H: Handle>(shared: Arc<Shared<H>>, leaf: Presented, now: Time) -> Standing {
    // A state that may be old proves nothing: then the caller is refused, and nobody is alarmed.
    let Some(state) = shared.look().await else { return Standing::Unregistered };
    let standing = state.standing(&leaf, now);
    // Leaves that have ended come from machines long forgotten: they open nothing, and prove nothing.
    if standing == Standing::Unregistered && leaf.not_after >= now {
        shared.alarms.raise_for_leaf(&leaf, now, shared.handle.is_issued(&leaf)).await;
    }
    standing
}

pub(crate) fn presented(verified: &mtls::VerifiedPeer) -> Presented {
    Presented {
        cluster: verified.subject.cluster.clone(),
        role: verified.subject.role,
        node: verified.subject.node.clone(),
        serial: verified.serial,
        spki: verified.spki,
        issuer: IssuerHash::of(&verified.issuer),
        not_before: verified.not_before,
        not_after: verified.not_after,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_fit_the_files_there_are() {
        for (files, nodes) in [(1 << 30, NODES_MAX), (65_536, 65_536 - 128 - 512 - 1024), (1024, 560), (64, 1)] {
            assert_eq!(Budgets::of(files).nodes.available_permits(), nodes, "{files} files");
        }
    }

    #[test]
    fn one_node_holds_a_bounded_number_of_connections() {
        let connections = Connections::default();
        let node: NodeId = "node".parse().unwrap_or_else(|_| unreachable!("an id"));
        let held: Vec<_> = (0..100).map(|_| connections.add(&node).1).collect();
        assert_eq!(held.iter().filter(|token| !token.is_cancelled()).count(), PER_NODE_MAX);
        assert!(held.iter().rev().take(PER_NODE_MAX).all(|token| !token.is_cancelled()), "the newest stay");
    }
}
