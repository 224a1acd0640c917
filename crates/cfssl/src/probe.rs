//! Can an external CA be reached at all (pki.md 11.5)?

use std::sync::Arc;
use std::time::Duration;

use mtls::{Clock, Live};
use pki::certificate::Certificate;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::address::{Address, InvalidUrl};
use crate::exchange::{Exchange, io_text};

/// The time that a probe has. Source: pki.md 11.5.
pub const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Why an external CA cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProbeFailure {
    /// The URL cannot be asked at all.
    #[error(transparent)]
    InvalidUrl(#[from] InvalidUrl),
    /// The root cannot be a trust anchor.
    #[error("the root cannot be a trust anchor: {0}")]
    Root(String),
    /// No TCP connection.
    #[error("no connection to {host} port {port}: {text}")]
    Connect {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What went wrong.
        text: String,
    },
    /// The handshake failed: most often a server that is not certified by the root.
    #[error("TLS handshake: {0}")]
    Tls(String),
    /// Not done in time.
    #[error("no connection within {} ms", .0.as_millis())]
    Timeout(Duration),
}

/// Looks whether `url` can be reached: a connection and a TLS handshake, with the identity in use if there is one,
/// trusting nothing but `roots`. Nothing is asked of the CA.
///
/// # Errors
/// [`ProbeFailure`].
pub async fn probe(
    url: &str,
    roots: &[Certificate],
    identity: Option<&Live>,
    clock: Clock,
    limit: Duration,
) -> Result<(), ProbeFailure> {
    let address = Address::parse(url)?;
    reach(&Exchange::new(address, roots.to_vec(), identity.cloned(), clock, 0), limit).await
}

pub(crate) async fn reach(exchange: &Exchange, limit: Duration) -> Result<(), ProbeFailure> {
    tokio::time::timeout(limit, handshake(exchange)).await.unwrap_or(Err(ProbeFailure::Timeout(limit)))
}

async fn handshake(exchange: &Exchange) -> Result<(), ProbeFailure> {
    let (host, port) = (exchange.address().host(), exchange.address().port());
    let tls = exchange.tls().map_err(|error| ProbeFailure::Root(error.to_string()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| InvalidUrl::Host)?;
    let stream = TcpStream::connect((host, port)).await.map_err(|error| ProbeFailure::Connect {
        host: host.to_owned(),
        port,
        text: error.to_string(),
    })?;
    let connected = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
    connected.map(drop).map_err(|error| ProbeFailure::Tls(io_text(&error)))
}
