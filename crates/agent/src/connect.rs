//! Connections to managers: TCP, the TLS of an identity, HTTP/2 over exactly that stream.
//!
//! - A channel lives on one stream and never connects again by itself: after a change of identity a new one is made, and an
//!   error is seen, not repaired behind our back.
//! - No pings: a manager of an engine ends connections that ping (wire.md 1).

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mtls::{ChainFault, ConnectError};
use pki::bundle::TrustBundle;
use pki::key::SpkiHash;
use pki::time::Time;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::plan::{Failure, FailureKind};

/// The time for a TCP connection, and again for TLS on it. Source: pki.md 1.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// The HTTP/2 windows of our side, in bytes: the protocol's least; messages are small and memory counts.
const WINDOW_BYTES: u32 = 65_535;
const NO_ANSWER: &str = "no answer within 5 s";
/// Calls that may wait in a channel.
const BUFFERED_CALLS: usize = 8;

/// Fills `bytes` from the operating system's generator. Keys come from it: bytes that could not be drawn are never used.
pub(crate) fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| io::Error::other("the system gives no random numbers"))
}

/// A seed for what is spread in time. Nothing secret comes from it: without random numbers it is the same as another node's.
pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    let _ = fill_random(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// As whom a connection is made.
pub(crate) enum As {
    /// Nobody, verifying nothing: for the root by its digest, and for a clock that is only shown.
    Stranger,
    /// A joiner, who verifies against the pinned bundle.
    Joiner(TrustBundle),
    /// This node.
    Node(mtls::Live),
    /// This node with a manager's certificate that it has just received, for the unlock key; and the key that it had before, which the
    /// manager on this machine still has.
    NewManager(mtls::Live, Option<SpkiHash>),
}

/// A channel, and where the reason is found if its TLS breaks: gRPC swallows it.
#[derive(Clone)]
pub(crate) struct Channel {
    pub(crate) grpc: tonic::transport::Channel,
    last_error: mtls::LastError,
}

/// Opens a connection to the manager at `addr`.
pub(crate) async fn dial(addr: &str, who: As, at: Time) -> Result<Channel, Failure> {
    let tcp = limited(TcpStream::connect(addr))
        .await?
        .map_err(|error| Failure::new(FailureKind::Connect, format!("{addr}: {error}")))?;
    tcp.set_nodelay(true).ok();
    let connected = match who {
        As::Stranger => limited(mtls::connect_unverified(tcp)).await?,
        As::Joiner(trust) => limited(mtls::connect_pinned(tcp, &trust, mtls::ManagerName::Ca, at))
            .await?
            .map(|connected| connected.stream),
        As::Node(live) => {
            let own = live.current().and_then(|current| current.spki());
            let expect = mtls::Expect::manager().or_own(own);
            limited(live.connect(tcp, &expect, at)).await?.map(|connected| connected.stream)
        }
        As::NewManager(live, own) => {
            let expect = mtls::Expect::ca().or_own(own);
            limited(live.connect(tcp, &expect, at)).await?.map(|connected| connected.stream)
        }
    };
    let stream = connected.map_err(|error| {
        let failure = tls_failure(&error);
        Failure::new(failure.kind, format!("{addr}: {}", failure.text))
    })?;
    let last_error = stream.last_error();
    let grpc = channel(stream).await?;
    Ok(Channel { grpc, last_error })
}

async fn limited<F: Future>(future: F) -> Result<F::Output, Failure> {
    tokio::time::timeout(DIAL_DEADLINE, future)
        .await
        .map_err(|_| Failure::new(FailureKind::Timeout, "no connection within 5 s"))
}

async fn channel<S>(stream: S) -> Result<tonic::transport::Channel, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let slot = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection has ended")) }
    });
    Endpoint::from_static("http://swarm-manager")
        .user_agent(concat!("swarmpki/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Failure::new(FailureKind::Local, error.to_string()))?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .buffer_size(BUFFERED_CALLS)
        .connect_with_connector(connector)
        .await
        .map_err(|error| Failure::new(FailureKind::Connect, chain_of(&error)))
}

fn tls_failure(error: &ConnectError) -> Failure {
    let kind = match error {
        ConnectError::Peer(ChainFault::NotYetValid { .. } | ChainFault::Expired { .. }) => FailureKind::TlsTime,
        ConnectError::Io(_) => FailureKind::Connect,
        _ => FailureKind::Tls,
    };
    Failure::new(kind, chain_of(error))
}

impl Channel {
    /// Waits for a call for as long as the protocol grants it.
    pub(crate) async fn call<T>(
        &self,
        future: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(wire::limits::CALL_DEADLINE, future).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(Failure::new(FailureKind::Timeout, NO_ANSWER)),
        }
    }

    /// A status that a manager sent, or a connection that broke under a call.
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        let broken = status.source().map(chain_of);
        if let Some(error) = self.last_error.get()
            && broken.is_some()
        {
            return tls_failure(&error);
        }
        match broken {
            _ if status.code() == Code::DeadlineExceeded => Failure::new(FailureKind::Timeout, NO_ANSWER),
            Some(text) if text.contains("Timeout expired") => Failure::new(FailureKind::Timeout, NO_ANSWER),
            Some(text) => Failure::new(FailureKind::Connect, text),
            None => Failure::new(FailureKind::Status(status.code()), status.message()),
        }
    }
}

/// A request with its deadline, marked as ours if this program can be a manager.
pub(crate) fn request<T>(message: T, marked: bool) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(wire::limits::CALL_DEADLINE);
    if marked {
        wire::marker::mark(request.metadata_mut());
    }
    request
}

/// An error with all its causes, each once.
fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = error.source();
    }
    text
}
