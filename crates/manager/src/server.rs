//! Port 2377: accepts connections, learns who is at the other end of each, and serves HTTP/2 on it.
//!
//! - every handshake has its own task, a time limit and a place among a bounded number, where the oldest gives way;
//! - callers without a certificate have a budget of their own, likewise, so they crowd out neither nodes nor each other;
//! - a connection's standing is decided once, when it is accepted; the connections of a node whose standing changes are let
//!   go at once: their streams end with the reason, then the connection closes.

mod bounded;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::authorize::{Caller, Origin, Presented, Standing};
use cluster::node::IssuerHash;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pki::identity::NodeId;
use pki::key::SpkiHash;
use pki::serial::Serial;
use replica::Handle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::bounded::{Bounded, Place};
use crate::alarm::Alarm;
use crate::service::Router;
use crate::shared::Shared;

/// Handshakes under way at a time.
const HANDSHAKES_MAX: usize = 512;
/// Time for one handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections without a certificate at a time.
const ANONYMOUS_MAX: usize = 1024;
/// Connections of all kinds.
const IDENTIFIED_MAX: usize = 262_144;
/// How long a connection without a certificate may do nothing.
const ANONYMOUS_IDLE: Duration = Duration::from_secs(30);
/// How long streams have to say goodbye when a connection is let go.
const FAREWELL: Duration = Duration::from_millis(200);
/// Streams at a time on one connection.
const STREAMS_MAX: u32 = 256;
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
            unproven: AtomicBool::new(unproven),
            issued: Mutex::new(Vec::new()),
            calls: AtomicUsize::new(0),
            served: AtomicU64::new(0),
        }
    }

    /// As authorization sees it.
    pub fn caller(&self) -> Caller<'_> {
        match &self.leaf {
            Some((leaf, standing)) => Caller::Identified(leaf, standing),
            None => Caller::Anonymous,
        }
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
    pub(crate) fn take_unproven(&self) -> Option<(NodeId, Serial)> {
        let (leaf, _) = self.leaf.as_ref()?;
        self.unproven.swap(false, Ordering::AcqRel).then(|| (leaf.node.clone(), leaf.serial))
    }

    /// It was not confirmed after all.
    pub(crate) fn give_back_unproven(&self) {
        if matches!(self.leaf, Some((_, Standing::Admitted { unproven: true, .. }))) {
            self.unproven.store(true, Ordering::Release);
        }
    }

    /// Remembers what was issued on this connection.
    pub(crate) fn remember(&self, node: NodeId, key: SpkiHash) {
        let mut issued = self.issued();
        if issued.len() >= ISSUED_MAX {
            issued.remove(0);
        }
        issued.push((node, key));
    }

    /// The key that was last certified for `node` on this connection.
    pub(crate) fn issued_key(&self, node: &NodeId) -> Option<SpkiHash> {
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
        match &self.origin {
            Some(origin) => {
                let by = self.peer.leaf.as_ref().map(|(leaf, standing)| (leaf, standing));
                Caller::Forwarded { by, origin }
            }
            None => self.peer.caller(),
        }
    }

    /// Where the caller is.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.origin.as_ref().and_then(|origin| origin.addr).unwrap_or(self.peer.addr)
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
    fn add(&self, node: &NodeId) -> (u64, CancellationToken) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let token = CancellationToken::new();
        self.lock().entry(node.clone()).or_default().push((id, token.clone()));
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
    anonymous: Arc<Bounded>,
    identified: Arc<Semaphore>,
}

/// Serves `listener` until `shutdown`.
pub(crate) async fn serve<H: Handle>(
    shared: Arc<Shared<H>>,
    listener: TcpListener,
    routes: Router<H>,
    shutdown: CancellationToken,
) {
    let budgets = Arc::new(Budgets {
        handshakes: Bounded::new(HANDSHAKES_MAX),
        anonymous: Bounded::new(ANONYMOUS_MAX),
        identified: Arc::new(Semaphore::new(IDENTIFIED_MAX)),
    });
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, addr)) => {
                let (shared, routes, budgets) = (Arc::clone(&shared), routes.clone(), Arc::clone(&budgets));
                let shutdown = shutdown.clone();
                let place = budgets.handshakes.enter();
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
    let stragglers: Vec<_> =
        shared.handle.state().roots.stragglers().iter().map(|anchor| anchor.certificate.clone()).collect();
    let handshake = shared.identity.accept(stream, shared.now(), &stragglers);
    let result = tokio::select! {
        result = tokio::time::timeout(HANDSHAKE_LIMIT, handshake) => result,
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
    drop(handshaking);
    let anonymous = accepted.peer.is_none().then(|| budgets.anonymous.enter());
    let Ok(_place) = Arc::clone(&budgets.identified).try_acquire_owned() else {
        tracing::warn!(%addr, "too many connections");
        return;
    };
    let leaf = match &accepted.peer {
        Some(verified) => Some(standing(&shared, presented(verified)).await),
        None => None,
    };
    let peer = Arc::new(Peer::new(addr, leaf));
    let registered = peer.node().map(|node| (node.clone(), shared.connections.add(node)));
    let cut = registered.as_ref().map(|(_, (_, token))| token.clone()).unwrap_or_default();
    // A removal that was applied between the handshake and this line has found no connection to cut.
    let still = shared.handle.state();
    if let Some((leaf, standing)) = &peer.leaf
        && still.standing(leaf, shared.now()).cut() != standing.cut()
    {
        cut.cancel();
    }
    let service = {
        let peer = Arc::clone(&peer);
        service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Arc::clone(&peer));
            let answer = routes.clone().answer(request.map(tonic::body::Body::new));
            async move { Ok::<_, std::convert::Infallible>(answer.await) }
        })
    };
    let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE / 3);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(accepted.stream), service));
    let mut idle = std::pin::pin!(idle(Arc::clone(&peer), anonymous));
    let ended = tokio::select! {
        result = &mut serving => Some(result),
        () = cut.cancelled() => None,
        () = shutdown.cancelled() => None,
        () = &mut idle => None,
    };
    if ended.is_none() {
        serving.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(FAREWELL, &mut serving).await;
    }
    if let Some((node, (id, _))) = registered {
        shared.connections.remove(&node, id);
    }
}

/// Ends when a connection without a certificate has done nothing for a while, or has to give way; never for others.
async fn idle(peer: Arc<Peer>, anonymous: Option<Place>) {
    let Some(place) = anonymous else { return std::future::pending().await };
    let mut served = u64::MAX;
    loop {
        let now = peer.served.load(Ordering::Relaxed);
        if now == served && peer.calls.load(Ordering::Relaxed) == 0 {
            return;
        }
        served = now;
        tokio::select! {
            () = tokio::time::sleep(ANONYMOUS_IDLE) => {}
            () = place.evicted() => return,
        }
    }
}

/// The standing of a verified leaf. One that nobody registered is looked up once more in a state that is surely not old
/// before it is called forged.
async fn standing<H: Handle>(shared: &Shared<H>, leaf: Presented) -> (Presented, Standing) {
    let now = shared.now();
    let mut standing = shared.handle.state().standing(&leaf, now);
    if standing == Standing::Unregistered {
        if let Ok(state) = shared.handle.read().await {
            standing = state.standing(&leaf, now);
        }
        if standing == Standing::Unregistered {
            Alarm::ForgedOrForeignLeaf { node: leaf.node.clone(), serial: leaf.serial.to_string() }.raise();
        }
    }
    (leaf, standing)
}

fn presented(verified: &mtls::VerifiedPeer) -> Presented {
    Presented {
        cluster: verified.subject.cluster.clone(),
        role: verified.subject.role,
        node: verified.subject.node.clone(),
        serial: verified.serial,
        spki: verified.spki,
        issuer: IssuerHash::of(&verified.issuer),
        not_after: verified.not_after,
    }
}
