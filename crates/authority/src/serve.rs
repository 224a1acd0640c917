//! The shell: sockets, handshakes, HTTP, and their bounds.
//!
//! - Who shows no certificate of the swarm's gets a TLS alert, and nothing else.
//! - Handshakes are bounded in number, for each address and in time; connections in number, and for each caller.
//! - A connection that does nothing for [`IDLE`] is closed; engines open another when they need one.

mod answer;
mod places;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mtls::ServerKey;
use pki::identity::NodeId;
use pki::time::Time;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::places::Places;
use crate::authority::{Authority, Caller, StartError};

/// Protocols offered, best first. Engines offer none, and speak HTTP/1.1.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Handshakes under way at a time, at most; and of one address.
const HANDSHAKES_MAX: usize = 128;
const HANDSHAKES_EACH: usize = 32;
/// Time for one handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Connections at a time, at most; and of one manager.
const CONNECTIONS_MAX: usize = 1_024;
const CONNECTIONS_EACH: usize = 64;
/// How long a connection may wait for the head of a request.
const IDLE: Duration = Duration::from_secs(120);
/// Bytes read ahead on an HTTP/1.1 connection: the head of a request has to fit.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// Requests at a time on an HTTP/2 connection.
const STREAMS_MAX: u32 = 64;
/// Connections to the counters.
const METRICS_CONNECTIONS_MAX: usize = 16;
/// How long requests under way have when the server is told to end.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long an accept that failed for want of file descriptors is put off.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How soon a renewal of the server's own certificate that failed is tried again.
const RENEW_AGAIN: Duration = Duration::from_secs(60);
/// How often it is looked whether that is due: a clock may jump.
const RENEW_LOOK: Duration = Duration::from_secs(600);

/// Where to answer.
pub struct Listeners {
    /// For the swarm's managers.
    pub managers: TcpListener,
    /// For the counters, in clear: on loopback only.
    pub metrics: Option<TcpListener>,
}

/// Serves until `shutdown`; calls `ready` when it answers. What is under way then has five seconds to end.
///
/// # Errors
/// If it cannot begin: the server's own certificate could not be made.
pub async fn serve(
    authority: Arc<Authority>,
    listeners: Listeners,
    ready: impl FnOnce(),
    shutdown: CancellationToken,
) -> Result<(), StartError> {
    let (key, end) = authority.server_key(authority.clock()).await?;
    authority.metrics.server_not_after_ms.store(end.unix_millis(), Ordering::Relaxed);
    let (renewed, current) = watch::channel(key);
    let tasks = TaskTracker::new();
    tasks.spawn(shutdown.clone().run_until_cancelled_owned(renew(Arc::clone(&authority), renewed, end)));
    if let Some(listener) = listeners.metrics {
        let counting = count(Arc::clone(&authority), listener, tasks.clone(), shutdown.clone());
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(counting));
    }
    ready();
    let gate = Gate {
        authority,
        key: current,
        handshakes: Places::new(HANDSHAKES_MAX, HANDSHAKES_EACH),
        connections: Places::new(CONNECTIONS_MAX, CONNECTIONS_EACH),
        shutdown: shutdown.clone(),
    };
    let gate = Arc::new(gate);
    while let Some(accepted) = shutdown.run_until_cancelled(listeners.managers.accept()).await {
        match accepted {
            Ok((stream, address)) => match gate.handshakes.take(address.ip()) {
                Some(place) => drop(tasks.spawn(Arc::clone(&gate).connection(stream, address, place))),
                None => tracing::debug!(%address, "too many handshakes at a time"),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tasks.close();
    if tokio::time::timeout(FAREWELL, tasks.wait()).await.is_err() {
        tracing::warn!(connections = tasks.len(), "connections that did not end were cut");
    }
    Ok(())
}

/// Makes a new certificate of this server when half of the present one's life is over.
async fn renew(authority: Arc<Authority>, renewed: watch::Sender<ServerKey>, mut end: Time) {
    loop {
        let now = authority.clock();
        let due = end.saturating_sub(crate::server_leaf::LIFE / 2);
        if now < due {
            tokio::time::sleep(due.since(now).min(RENEW_LOOK)).await;
            continue;
        }
        match authority.server_key(now).await {
            Ok((key, new_end)) => {
                end = new_end;
                authority.metrics.server_not_after_ms.store(end.unix_millis(), Ordering::Relaxed);
                renewed.send_replace(key);
                tracing::info!(not_after = end.rfc3339(), "this server's own certificate was renewed");
            }
            Err(error) => {
                tracing::warn!(%error, not_after = end.rfc3339(), "this server's own certificate is not renewed yet");
                tokio::time::sleep(RENEW_AGAIN).await;
            }
        }
    }
}

/// What all connections share.
struct Gate {
    authority: Arc<Authority>,
    key: watch::Receiver<ServerKey>,
    handshakes: Arc<Places<IpAddr>>,
    connections: Arc<Places<NodeId>>,
    shutdown: CancellationToken,
}

impl Gate {
    async fn connection(self: Arc<Self>, stream: TcpStream, address: SocketAddr, handshaking: places::Place<IpAddr>) {
        // Small messages both ways: waiting to fill a segment would only delay them.
        let _ = stream.set_nodelay(true);
        let authority = &self.authority;
        let key = self.key.borrow().clone();
        let handshake = key.accept(stream, authority.now(), authority.anchors.clone(), &ALPN);
        let accepted = match tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => {
                authority.metrics.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%address, %error, "a handshake failed");
                return;
            }
            Err(_) => {
                authority.metrics.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(%address, "a handshake took too long");
                return;
            }
        };
        // Without a certificate there is no handshake: the verifier asks for one.
        let Some(peer) = accepted.peer else { return };
        let caller = Arc::new(Caller { peer, address });
        let refused = authority.judge(&caller, authority.now()).err();
        let is_refused = refused.is_some();
        // Who may not call is told why in the place and the time of a handshake, and takes no other.
        let (_place, _handshaking) = if is_refused {
            (None, Some(handshaking))
        } else {
            drop(handshaking);
            let node = &caller.peer.subject.node;
            let Some(place) = self.connections.take(node.clone()) else {
                tracing::warn!(%node, %address, "too many connections");
                return;
            };
            (Some(place), None)
        };
        authority.metrics.connections.fetch_add(1, Ordering::Relaxed);
        let is_h2 = accepted.stream.get_ref().1.alpn_protocol() == Some(ALPN[0]);
        let io = TokioIo::new(accepted.stream);
        let service = {
            let authority = Arc::clone(authority);
            service_fn(move |request: http::Request<Incoming>| {
                let (authority, caller, refused) = (Arc::clone(&authority), Arc::clone(&caller), refused.clone());
                async move {
                    Ok::<_, Infallible>(match refused {
                        Some(refusal) => answer::refused(&authority, &refusal),
                        None => answer::answer(&authority, &caller, request).await,
                    })
                }
            })
        };
        macro_rules! to_its_end {
            ($serving:expr) => {{
                let mut serving = std::pin::pin!($serving);
                let ended = tokio::select! {
                    () = tokio::time::sleep(HANDSHAKE_WITHIN), if is_refused => return self.closed(),
                    ended = serving.as_mut() => Some(ended),
                    () = self.shutdown.cancelled() => None,
                };
                match ended {
                    Some(ended) => ended,
                    None => {
                        serving.as_mut().graceful_shutdown();
                        serving.await
                    }
                }
            }};
        }
        let ended = if is_h2 {
            let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX)
                .max_header_list_size(HEAD_BYTES_MAX as u32)
                .keep_alive_interval(IDLE)
                .keep_alive_timeout(IDLE / 4);
            to_its_end!(http.serve_connection(io, service))
        } else {
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new())
                .keep_alive(!is_refused)
                .header_read_timeout(IDLE)
                .max_buf_size(HEAD_BYTES_MAX)
                .max_headers(HEADERS_MAX);
            to_its_end!(http.serve_connection(io, service))
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection broke");
        }
        self.closed();
    }

    fn closed(&self) {
        self.authority.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers for the counters.
async fn count(authority: Arc<Authority>, listener: TcpListener, tasks: TaskTracker, shutdown: CancellationToken) {
    let places = Places::new(METRICS_CONNECTIONS_MAX, METRICS_CONNECTIONS_MAX);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(place) = places.take(()) else { continue };
        let authority = Arc::clone(&authority);
        let serving = async move {
            let _place = place;
            let service = service_fn(|request: http::Request<Incoming>| {
                let response = answer::metrics(&authority, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES_MAX);
            // Whoever reads the counters and goes away has seen enough.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        };
        let shutdown = shutdown.clone();
        tasks.spawn(async move { shutdown.run_until_cancelled(serving).await });
    }
}
