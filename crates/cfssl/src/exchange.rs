//! One HTTP exchange with one URL, bounded in time and size, over connections that carry the identity in use.

use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mtls::{Clock, ConnectError, Live, PeerAlert};
use pki::certificate::Certificate;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION};
use reqwest::{Client, Response, StatusCode, redirect};
use rustls::CertificateError;

use crate::address::Address;
use crate::failure::Reason;
use crate::foreign::shown;
use crate::message::MEDIA_TYPE;

/// Bytes of the longest answer that is read. Source: pki.md 11.3.
pub const ANSWER_BYTES_MAX: usize = 262_144;
/// Bytes of an answer with a wrong status that are read for its text.
const STATUS_BYTES_MAX: usize = 2_048;
/// How long an unused connection is kept: less than common servers keep theirs (5 s), so that a request seldom meets one
/// that is just being closed.
const IDLE: Duration = Duration::from_secs(4);

/// A first manager asks for its first certificate without one.
const UNPROVEN: &str = "it wants a client certificate, and there is none yet";

/// The same where the alert came too late to be read: TLS 1.3 servers look at a client's certificate after the handshake.
const CLOSED: &str = "it closed the connection at once: maybe it wants a client certificate, and there is none yet";

/// Asks one URL.
pub(crate) struct Exchange {
    address: Address,
    roots: Vec<Certificate>,
    live: Option<Live>,
    clock: Clock,
    /// Connections made with the identity of that generation.
    http: Mutex<Option<(u64, Client)>>,
    connections_max: usize,
}

impl Exchange {
    pub(crate) fn new(
        address: Address,
        roots: Vec<Certificate>,
        live: Option<Live>,
        clock: Clock,
        connections_max: usize,
    ) -> Exchange {
        Exchange { address, roots, live, clock, http: Mutex::new(None), connections_max }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// TLS as for the exchange itself.
    pub(crate) fn tls(&self) -> Result<rustls::ClientConfig, ConnectError> {
        mtls::outside_client_config(&self.roots, self.live.as_ref(), self.clock.clone())
    }

    /// Posts `body`; the answer's body if its status is 200.
    pub(crate) async fn post(&self, body: Bytes, limit: Duration) -> Result<Vec<u8>, Reason> {
        let url = || self.address.as_str().to_owned();
        match tokio::time::timeout(limit, self.post_unlimited(body)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Reason::Timeout { url: url(), limit }),
        }
    }

    async fn post_unlimited(&self, body: Bytes) -> Result<Vec<u8>, Reason> {
        let request = self.client()?.post(self.address.url().clone()).header(CONTENT_TYPE, MEDIA_TYPE).body(body);
        let response = request.send().await.map_err(|error| self.unreachable(&text_of(&error)))?;
        let status = response.status();
        if status.is_redirection() {
            let location = header(response.headers(), &LOCATION).unwrap_or_default();
            return Err(Reason::Redirect { status: status.as_u16(), location });
        }
        if status != StatusCode::OK {
            // What comes with it explains; that it breaks off or goes on explains nothing.
            let (body, _) = read(response, STATUS_BYTES_MAX).await;
            // A CA that works and does not like this very request: CFSSL's own server says so with this status.
            if status == StatusCode::BAD_REQUEST
                && let Err(refused @ (Reason::Refused(_) | Reason::RefusedWithoutReason)) =
                    crate::reply::certificate(&body)
            {
                return Err(refused);
            }
            return Err(Reason::Status { status: status.as_u16(), body: shown(&body) });
        }
        if let Some(encoding) = header(response.headers(), &CONTENT_ENCODING)
            && !encoding.eq_ignore_ascii_case("identity")
        {
            return Err(Reason::Encoded(encoding));
        }
        match read(response, ANSWER_BYTES_MAX).await {
            (body, End::Whole) => Ok(body),
            (_, End::TooLong) => Err(Reason::TooLong(ANSWER_BYTES_MAX)),
            (_, End::Broken(text)) => Err(Reason::Body(text)),
        }
    }

    /// The HTTP client whose connections carry the identity in use. Those of an older one are left to end.
    fn client(&self) -> Result<Client, Reason> {
        let generation = self.live.as_ref().and_then(Live::current).map_or(0, |current| current.generation());
        let mut kept = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, client)) = kept.as_ref()
            && *of == generation
        {
            return Ok(client.clone());
        }
        let client = self.build()?;
        *kept = Some((generation, client.clone()));
        Ok(client)
    }

    fn build(&self) -> Result<Client, Reason> {
        let tls = self.tls().map_err(|error| self.unreachable(&error.to_string()))?;
        Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .http1_only()
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .no_proxy()
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
            .no_hickory_dns()
            .pool_max_idle_per_host(self.connections_max)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("swarmpki/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| self.unreachable(&text_of(&error)))
    }

    fn unreachable(&self, text: &str) -> Reason {
        // Some servers have one alert for a certificate that they refuse and for one that is missing.
        let refused = [PeerAlert::CertificateRefused, PeerAlert::CertificateRequired].map(|alert| alert.to_string());
        let closed = ["connection was not ready", "connection closed before message completed"];
        let text = match self.live {
            None if refused.iter().any(|alert| alert == text) => UNPROVEN,
            None if closed.contains(&text) => CLOSED,
            None | Some(_) => text,
        };
        Reason::Unreachable { url: self.address.as_str().to_owned(), text: shown(text.as_bytes()) }
    }
}

fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| shown(value.as_bytes()))
}

enum End {
    Whole,
    TooLong,
    Broken(String),
}

/// Reads at most `max` bytes. Where there are more, dropping the response drops the connection.
async fn read(mut response: Response, max: usize) -> (Vec<u8>, End) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > max => {
                let room = max - body.len();
                body.extend_from_slice(&chunk[..room]);
                return (body, End::TooLong);
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return (body, End::Whole),
            Err(error) => return (body, End::Broken(shown(text_of(&error).as_bytes()))),
        }
    }
}

/// The deepest cause: what is above it says only that something failed.
fn text_of(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    loop {
        if let Some(tls) = deepest.downcast_ref::<rustls::Error>() {
            return tls_text(tls);
        }
        // An I/O error names as its source not what it wraps, but the source of that.
        let wrapped = deepest.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match (wrapped, deepest.source()) {
            (Some(wrapped), _) => deepest = wrapped,
            (None, Some(source)) => deepest = source,
            (None, None) => return deepest.to_string(),
        }
    }
}

/// TLS errors in the words that the rest of the program uses.
pub(crate) fn tls_text(error: &rustls::Error) -> String {
    match error {
        rustls::Error::AlertReceived(alert) => PeerAlert::from(*alert).to_string(),
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            mtls::ChainFault::UnknownAuthority.to_string()
        }
        other => other.to_string(),
    }
}

/// As [`tls_text`], for what a handshake's transport reports.
pub(crate) fn io_text(error: &std::io::Error) -> String {
    text_of(error)
}
