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
use pki::bundle::TrustBundle;
use pki::time::Time;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::plan::{Failure, FailureKind};

/// The time for a TCP connection, and again for TLS on it. Source: pki.md 1.
const DIAL_DEADLINE: Duration = Duration::from_secs(5);
/// The HTTP/2 windows of our side, in bytes: the protocol's least; messages are small and memory counts.
const WINDOW_BYTES: u32 = 65_535;
/// Calls that may wait in a channel.
const BUFFERED_CALLS: usize = 8;

/// Fills `bytes` from the operating system's generator.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    // The generator of aws-lc aborts rather than fail; there is nothing to handle.
    let _ = aws_lc_rs::rand::fill(bytes);
}

pub(crate) fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    fill_random(&mut bytes);
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
    /// This node with a manager's certificate that it has just received, for the unlock key.
    NewManager(mtls::Live),
}

/// Opens a connection to the manager at `addr`.
pub(crate) async fn dial(addr: &str, who: As, at: Time) -> Result<Channel, Failure> {
    let tcp = limited(TcpStream::connect(addr))
        .await?
        .map_err(|error| Failure::new(FailureKind::Connect, format!("{addr}: {error}")))?;
    tcp.set_nodelay(true).ok();
    let refused = |error: mtls::ConnectError| tls_failure(addr, &error);
    match who {
        As::Stranger => channel(limited(mtls::connect_unverified(tcp)).await?.map_err(refused)?).await,
        As::Joiner(trust) => {
            let tls = mtls::connect_pinned(tcp, &trust, mtls::ServerName::Ca, at);
            channel(limited(tls).await?.map_err(refused)?).await
        }
        As::Node(live) => {
            let tls = live.connect(tcp, mtls::Expect::manager(), at);
            channel(limited(tls).await?.map_err(refused)?).await
        }
        As::NewManager(live) => {
            let tls = live.connect(tcp, mtls::Expect::ca(), at);
            channel(limited(tls).await?.map_err(refused)?).await
        }
    }
}

async fn limited<F: Future>(future: F) -> Result<F::Output, Failure> {
    tokio::time::timeout(DIAL_DEADLINE, future)
        .await
        .map_err(|_| Failure::new(FailureKind::Timeout, "no connection within 5 s"))
}

async fn channel<S>(stream: S) -> Result<Channel, Failure>
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

fn tls_failure(addr: &str, error: &mtls::ConnectError) -> Failure {
    let kind = if error.is_about_time() {
        FailureKind::TlsTime
    } else {
        FailureKind::Tls
    };
    Failure::new(kind, format!("{addr}: {}", chain_of(error)))
}

/// Waits for a call for as long as the protocol grants it.
pub(crate) async fn call<T>(
    future: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(wire::limits::CALL_DEADLINE, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(failure(&status)),
        Err(_) => Err(Failure::new(FailureKind::Timeout, "no answer within 5 s")),
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

/// A status that a manager sent, or a connection that broke under a call.
pub(crate) fn failure(status: &Status) -> Failure {
    let Some(source) = status.source() else {
        return Failure::new(FailureKind::Status(status.code()), status.message());
    };
    let text = chain_of(source);
    if status.code() == Code::DeadlineExceeded || text.contains("Timeout expired") {
        return Failure::new(FailureKind::Timeout, "no answer within 5 s");
    }
    // A TLS 1.3 client learns only here that its certificate was refused.
    let kind = if text.contains("received fatal alert") {
        FailureKind::Tls
    } else {
        FailureKind::Connect
    };
    Failure::new(kind, text)
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
