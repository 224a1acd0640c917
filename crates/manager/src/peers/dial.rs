//! A connection to another manager: TCP, the TLS of this manager's identity, HTTP/2 over exactly that stream. It never connects again by
//! itself: a break is seen, not repaired behind our back.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::authorize::Presented;
use cluster::node::IssuerHash;
use hyper_util::rt::TokioIo;
use pki::time::Time;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use crate::server::presented;

/// The windows of our side of HTTP/2, in bytes: entries and pieces of snapshots come at once.
const WINDOW_BYTES: u32 = 1024 * 1024;

/// How often an idle connection is tried, and how soon it has to answer.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
const ALIVE_WITHIN: Duration = Duration::from_secs(2);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    Tcp(#[from] io::Error),
    #[error("{}", chain(.0))]
    Tls(#[from] mtls::ConnectError),
    #[error("{0}")]
    Http(#[from] tonic::transport::Error),
    #[error("no connection within {} s", .0.as_secs())]
    Late(Duration),
}

/// Connects, `within` this time, and says whose leaf it was, and at which root its chain ended.
pub(super) async fn manager(
    identity: &mtls::Live,
    addr: &str,
    expect: &mtls::Expect,
    at: Time,
    within: Duration,
) -> Result<(Channel, Presented, IssuerHash), DialError> {
    tokio::time::timeout(within, connect(identity, addr, expect, at)).await.map_err(|_| DialError::Late(within))?
}

async fn connect(
    identity: &mtls::Live,
    addr: &str,
    expect: &mtls::Expect,
    at: Time,
) -> Result<(Channel, Presented, IssuerHash), DialError> {
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    let connected = identity.connect(tcp, expect, at).await?;
    let (leaf, anchor) = (presented(&connected.peer), IssuerHash::of(&connected.peer.anchor));
    let slot = Arc::new(Mutex::new(Some(TokioIo::new(connected.stream))));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection has ended")) }
    });
    let channel = Endpoint::from_static("http://swarm-manager")
        .user_agent(concat!("swarmpki/", env!("CARGO_PKG_VERSION")))?
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        // A connection that broke without a word must not be waited on: the other end is believed dead as soon.
        .http2_keep_alive_interval(ALIVE_EVERY)
        .keep_alive_timeout(ALIVE_WITHIN)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await?;
    Ok((channel, leaf, anchor))
}

fn chain(error: &mtls::ConnectError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = cause.source();
    }
    text
}
