//! Plain HTTP for the outside: lists of revoked certificates and answers about single ones. Everything on it is signed, public, and asked for by
//! strangers: requests are small, few at a time, and what they get is kept until something changes.
//!
//! `GET /crl`, `GET /crl?since=NUMBER`, `GET /ocsp/REQUEST` (base64), `POST /ocsp`. Source: RFC 5280, 4.2.1.13 and RFC 6960, A.1.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LAST_MODIFIED};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use manager::server::bounded::{Bounded, Source};
use pki::revocation::REQUEST_BYTES_MAX;
use pki::time::Time;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::Backend;
use crate::engine_api::error::ApiError;
use crate::engine_api::query::{Query, percent_decode};
use crate::engine_api::revocation::{CRL_TYPE, Wanted};
use crate::listener::ListenError;

/// Connections at once; of whoever has most of them the oldest gives way then.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may take to a request's head, the first and any later.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long a request's body may take, and how long a whole connection lives: lists are fetched once an hour or less.
const CONNECTION_MAX: Duration = Duration::from_secs(60);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Pause after a failed accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a list may be kept by whoever passes it on, in seconds.
const LIST_KEPT: &str = "max-age=60";

/// The media type of an answer. Source: RFC 6960, A.2.
const OCSP_TYPE: &str = "application/ocsp-response";

/// A bound socket.
pub(crate) struct Revocations(TcpListener);

impl Revocations {
    /// Binds `host:port`.
    pub(crate) async fn bind(address: &str) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { host: address.to_owned(), source };
        TcpListener::bind(address).await.map(Self).map_err(io)
    }

    /// The address as bound.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(self, backend: Backend, shutdown: CancellationToken, tasks: TaskTracker) {
        let room = Bounded::<Source>::new(CONNECTIONS_MAX);
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.0.accept() => accepted,
            };
            match accepted {
                Ok((stream, addr)) => {
                    let (backend, shutdown) = (backend.clone(), shutdown.clone());
                    let place = room.enter(addr.ip());
                    tasks.spawn(async move {
                        tokio::select! {
                            () = shutdown.cancelled() => {}
                            () = place.evicted() => {}
                            ended = tokio::time::timeout(CONNECTION_MAX, connection(stream, backend)) => {
                                if let Ok(Err(error)) = ended {
                                    debug!(%addr, %error, "a connection that asked for revocations broke");
                                }
                            }
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection that asks for revocations could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, backend: Backend) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let backend = backend.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(&backend, request).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    List,
    /// The request in the path, base64 with percent escapes.
    Ocsp(String),
    OcspInBody,
    /// Another method than that path has.
    Method(&'static str),
    Nothing,
}

impl Asked {
    fn of(method: &Method, path: &str) -> Self {
        match (path, path.strip_prefix("/ocsp/")) {
            ("/crl", _) if method == Method::GET => Self::List,
            ("/crl", _) => Self::Method("GET"),
            ("/ocsp" | "/ocsp/", _) if method == Method::POST => Self::OcspInBody,
            ("/ocsp" | "/ocsp/", _) => Self::Method("POST"),
            (_, Some(request)) if method == Method::GET => Self::Ocsp(request.to_owned()),
            (_, Some(_)) => Self::Method("GET"),
            _ => Self::Nothing,
        }
    }
}

async fn answer<B>(backend: &Backend, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let found = match Asked::of(&head.method, head.uri.path()) {
        Asked::List => list(backend, &Query::parse(head.uri.query().unwrap_or_default())).await,
        Asked::Ocsp(text) => {
            // What decodes to nothing is answered as the protocol has it: malformed.
            let text = percent_decode(&text, false);
            ocsp(backend, &STANDARD.decode(text.trim()).unwrap_or_default()).await
        }
        Asked::OcspInBody => match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
            Ok(body) => ocsp(backend, &body.to_bytes()).await,
            Err(_) => Err(status(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long")),
        },
        Asked::Method(allowed) => {
            let mut refused = status(StatusCode::METHOD_NOT_ALLOWED, "this path has another method");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
            Err(refused)
        }
        Asked::Nothing => Err(status(StatusCode::NOT_FOUND, "there is /crl and /ocsp")),
    };
    let mut answer = found.unwrap_or_else(|refused| refused);
    answer.headers_mut().insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    answer
}

type Found = Result<Response<Full<Bytes>>, Response<Full<Bytes>>>;

async fn list(backend: &Backend, query: &Query) -> Found {
    let wanted = Wanted::of(query).map_err(refused)?;
    let control = backend.control().map_err(refused)?;
    let made = control.crl(wanted.issuer.as_deref(), wanted.since).await;
    let made = made.map_err(|error| refused(crate::backend::refusal(error)))?;
    let mut answer = typed(Bytes::from_owner(made.der), CRL_TYPE, HeaderValue::from_static(LIST_KEPT));
    // How old it is, also for who does not read lists.
    if let Ok(signed) = HeaderValue::from_str(&http_date(made.this_update)) {
        answer.headers_mut().insert(LAST_MODIFIED, signed);
    }
    Ok(answer)
}

async fn ocsp(backend: &Backend, request: &[u8]) -> Found {
    let control = backend.control().map_err(refused)?;
    let (made, kept) = control.ocsp(request).await;
    let kept = HeaderValue::from_static(if kept.is_some() { LIST_KEPT } else { "no-store" });
    Ok(typed(Bytes::from_owner(made), OCSP_TYPE, kept))
}

fn typed(body: Bytes, kind: &'static str, kept: HeaderValue) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, kept);
    answer
}

/// Source: RFC 9110, 5.6.7.
fn http_date(at: Time) -> String {
    at.rfc1123().replace("UTC", "GMT")
}

fn refused(error: ApiError) -> Response<Full<Bytes>> {
    status(error.status, &error.message)
}

fn status(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_http_writes_them() {
        assert_eq!(http_date(Time::from_unix_secs(784_111_777)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn paths() {
        let rows = [
            ("GET", "/crl", Asked::List),
            ("POST", "/crl", Asked::Method("GET")),
            ("POST", "/ocsp", Asked::OcspInBody),
            ("POST", "/ocsp/", Asked::OcspInBody),
            ("GET", "/ocsp", Asked::Method("POST")),
            ("GET", "/ocsp/MEI%2B/x", Asked::Ocsp("MEI%2B/x".to_owned())),
            ("PUT", "/ocsp/x", Asked::Method("GET")),
            ("GET", "/", Asked::Nothing),
            ("GET", "/swarm", Asked::Nothing),
        ];
        for (method, path, expected) in rows {
            let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
            assert_eq!(Asked::of(&method, path), expected, "{method} {path}");
        }
    }
}
