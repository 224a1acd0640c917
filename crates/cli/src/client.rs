//! A small client of the Engine API and of our own JSON endpoints, over a unix socket or TCP.
//!
//! The first request is a ping that settles the API version, as docker's command does it (engine-api.md 1.3). The
//! connection is kept and made again if the daemon closed it in between.

use std::io;
use std::sync::Arc;

use daemon::Host;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::{shown, tls};

/// The newest API version that this client speaks. Source: engine-api.md 1.1, docker's command 28.2.2.
pub(crate) const API_VERSION: ApiVersion = ApiVersion(1, 50);
/// Longest answer taken from a daemon.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// More than a request with certificates and a key has, in bytes.
const BODY_BYTES_USUAL: usize = 64 * 1024;

/// `1.50`: compared by number, not as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion(u32, u32);

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A daemon, and how to talk to it.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// Where it is.
    pub(crate) host: Host,
    /// The TLS to it; `None`: none.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Whether somebody said that it is there, by flag or environment.
    pub(crate) named: bool,
}

impl Endpoint {
    /// Without TLS.
    pub(crate) const fn plain(host: Host) -> Self {
        Self { host, tls: None, named: true }
    }

    /// `host:port`; `None` for a unix socket.
    fn tcp_address(&self) -> Option<String> {
        self.host.tcp_address(self.tls.is_some())
    }
}

/// A connection to a daemon.
pub(crate) struct Client {
    endpoint: Endpoint,
    version: ApiVersion,
    sender: SendRequest<Full<Bytes>>,
}

/// The daemon's answer: status and body.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Client {
    /// Connects and pings.
    pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Self, Failure> {
        let sender = dial(endpoint).await?;
        let mut client = Self { endpoint: endpoint.clone(), version: API_VERSION, sender };
        let mut pong = client.send(&Method::HEAD, "/_ping", None).await?;
        if pong.status != StatusCode::OK {
            pong = client.send(&Method::GET, "/_ping", None).await?;
        }
        let told = pong.headers.get("api-version").and_then(|value| value.to_str().ok()).and_then(ApiVersion::parse);
        if let Some(told) = told {
            client.version = told.min(API_VERSION);
        }
        Ok(client)
    }

    /// The API version in use.
    pub(crate) fn version(&self) -> ApiVersion {
        self.version
    }

    /// Reads a resource of the Engine API.
    pub(crate) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let path = self.engine(path);
        decode(&self.call(&Method::GET, &path, None).await?)
    }

    /// Posts to the Engine API; returns the answer's JSON, or null when it is empty.
    pub(crate) async fn post<B: Serialize>(&mut self, path: &str, body: Option<&B>) -> Result<Value, Failure> {
        let path = self.engine(path);
        let body = body.map(encode).transpose()?;
        let answer = self.call(&Method::POST, &path, body).await?;
        if answer.is_empty() { Ok(Value::Null) } else { decode(&answer) }
    }

    /// Deletes a resource of the Engine API.
    pub(crate) async fn delete(&mut self, path: &str) -> Result<(), Failure> {
        let path = self.engine(path);
        self.call(&Method::DELETE, &path, None).await.map(drop)
    }

    /// Reads one of our own endpoints, `None` if the daemon has no such thing (a Docker Engine).
    pub(crate) async fn own<T: DeserializeOwned>(&mut self, path: &str) -> Result<Option<T>, Failure> {
        let path = format!("/swarmpki/v1{path}");
        let answer = self.send(&Method::GET, &path, None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        decode(&accepted(&path, answer)?).map(Some)
    }

    /// Posts to one of our own endpoints; returns its answer.
    pub(crate) async fn own_call<B: Serialize, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        decode(&self.call(&Method::POST, &format!("/swarmpki/v1{path}"), Some(encode(body)?)).await?)
    }

    /// Posts to one of our own endpoints that answers with nothing.
    pub(crate) async fn own_tell<B: Serialize>(&mut self, path: &str, body: &B) -> Result<(), Failure> {
        self.call(&Method::POST, &format!("/swarmpki/v1{path}"), Some(encode(body)?)).await.map(drop)
    }

    /// Posts to one of our own endpoints; returns the file that it answers with.
    pub(crate) async fn own_file<B: Serialize>(&mut self, path: &str, body: &B) -> Result<Bytes, Failure> {
        self.call(&Method::POST, &format!("/swarmpki/v1{path}"), Some(encode(body)?)).await
    }

    /// Reads a file from one of our own endpoints.
    pub(crate) async fn own_bytes(&mut self, path: &str) -> Result<Bytes, Failure> {
        self.call(&Method::GET, &format!("/swarmpki/v1{path}"), None).await
    }

    /// Posts a document and a file to one of our own endpoints; returns its answer.
    pub(crate) async fn own_upload<B: Serialize, T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &B,
        file: &[u8],
    ) -> Result<T, Failure> {
        let document = encode(body)?;
        let length = u32::try_from(document.len()).map_err(|_| Failure::new("the request is too long"))?;
        let mut whole = Zeroizing::new(Vec::with_capacity(4 + document.len() + file.len()));
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(&document);
        whole.extend_from_slice(file);
        decode(&self.call(&Method::POST, &format!("/swarmpki/v1{path}"), Some(Bytes::from_owner(whole))).await?)
    }

    /// Deletes what one of our own endpoints keeps.
    pub(crate) async fn own_delete(&mut self, path: &str) -> Result<(), Failure> {
        self.call(&Method::DELETE, &format!("/swarmpki/v1{path}"), None).await.map(drop)
    }

    /// Posts to one of our own endpoints, without a body.
    pub(crate) async fn own_post(&mut self, path: &str) -> Result<(), Failure> {
        self.call(&Method::POST, &format!("/swarmpki/v1{path}"), None).await.map(drop)
    }

    fn engine(&self, path: &str) -> String {
        format!("/v{}{path}", self.version)
    }

    async fn call(&mut self, method: &Method, path: &str, body: Option<Bytes>) -> Result<Bytes, Failure> {
        let answer = self.send(method, path, body).await?;
        accepted(path, answer)
    }

    async fn send(&mut self, method: &Method, path: &str, body: Option<Bytes>) -> Result<Answer, Failure> {
        if self.sender.ready().await.is_err() {
            self.sender = dial(&self.endpoint).await?;
        }
        let host = self.endpoint.tcp_address().unwrap_or_else(|| "swarmpki.localhost".to_owned());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, concat!("swarmpki/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| Failure::new(format!("cannot ask for {path}: {error}")))?;
        let answer = self.sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| self.broken(error.as_ref()))?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        if let Some(failure) = tls::broken(&self.endpoint.host, error) {
            return failure;
        }
        let mut text = format!("the connection to the swarmpki daemon at {} broke: {error}", self.endpoint.host);
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        Failure::new(text).hint("Whether the request was carried out is not known: look with swarmpki info.")
    }
}

/// Percent-encodes a value of a path or a query.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

async fn dial(endpoint: &Endpoint) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let connected = match &endpoint.host {
        Host::Unix(path) => match UnixStream::connect(path).await {
            Ok(stream) => shake(stream).await,
            Err(error) => Err(error),
        },
        Host::Tcp(address) => dial_tcp(&endpoint.tcp_address().unwrap_or_else(|| address.clone()), &endpoint.tls).await,
    };
    connected.map_err(|error| unreachable_daemon(endpoint, docker_host().as_deref(), &error))
}

async fn dial_tcp(address: &str, tls: &Option<Arc<ClientConfig>>) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await?;
    let Some(config) = tls else {
        return shake(stream).await;
    };
    let name = tls::server_name(address).map_err(io::Error::other)?;
    shake(TlsConnector::from(config.clone()).connect(name, stream).await?).await
}

async fn shake<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // An error here also ends the request that waits for it, which reports it.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Where docker's command would ask. Ours does not: what it changes there would be another cluster's, or an engine's.
fn docker_host() -> Option<String> {
    std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty())
}

fn unreachable_daemon(endpoint: &Endpoint, docker: Option<&str>, error: &io::Error) -> Failure {
    let host = &endpoint.host;
    if let Some(failure) = tls::broken(host, error) {
        return failure;
    }
    match (error.kind(), docker.filter(|_| !endpoint.named)) {
        (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, Some(docker)) => {
            let docker = shown::field(docker);
            Failure::new(format!("Cannot connect to the swarmpki daemon at {host}. DOCKER_HOST={docker} is not taken by this command"))
                .hint(format!("To ask that one: swarmpki -H {docker}, or SWARMPKI_HOST={docker}. If one is to run here: swarmpki daemon"))
        }
        (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, None) => Failure::new(format!(
            "Cannot connect to the swarmpki daemon at {host}. Is it running? {}",
            match host {
                Host::Unix(_) => "Start it with: swarmpki daemon",
                Host::Tcp(_) => "On that machine: swarmpki daemon -H tcp://ADDRESS:PORT, with --tls=operators",
            }
        )),
        (io::ErrorKind::PermissionDenied, _) => {
            Failure::new(format!("Permission denied while connecting to the swarmpki daemon at {host}"))
                .hint("Run the command as the daemon's user, or name another socket with -H or SWARMPKI_HOST.")
        }
        _ => Failure::new(format!("Cannot connect to the swarmpki daemon at {host}: {error}")),
    }
}

/// The body of a successful answer, or the daemon's refusal in docker's words (engine-api.md 2).
fn accepted(path: &str, answer: Answer) -> Result<Bytes, Failure> {
    if answer.status.is_success() {
        return Ok(answer.body);
    }
    let json = answer.headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let text = if json {
        serde_json::from_slice::<Value>(&answer.body)
            .ok()
            .and_then(|body| body.get("message").and_then(Value::as_str).map(|text| text.trim().to_owned()))
            .unwrap_or_default()
    } else {
        String::from_utf8_lossy(&answer.body).trim().to_owned()
    };
    if text.is_empty() {
        return Err(Failure::new(format!(
            "Error response from daemon: {path} answered {} without a reason",
            answer.status
        )));
    }
    Err(Failure::refused(&text))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        Failure::new(format!("cannot read the daemon's answer: {error}"))
            .hint("Are this command and the daemon of the same version? See: swarmpki version")
    })
}

/// A request may hold a key or a token: it is wiped once it was sent, and fits without growing, which would leave copies.
fn encode<B: Serialize>(body: &B) -> Result<Bytes, Failure> {
    let mut text = Zeroizing::new(Vec::with_capacity(BODY_BYTES_USUAL));
    serde_json::to_writer(&mut *text, body)
        .map(|()| Bytes::from_owner(text))
        .map_err(|error| Failure::new(format!("cannot write the request as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert!(ApiVersion::parse("1.9") < ApiVersion::parse("1.50"));
        assert_eq!(ApiVersion::parse("1.50"), Some(API_VERSION));
        assert_eq!(ApiVersion::parse("1"), None);
    }

    #[test]
    fn nobody_is_sent_to_start_a_daemon_who_meant_another() {
        let gone = io::Error::from(io::ErrorKind::ConnectionRefused);
        let (unix, tcp) = (Host::Unix("/run/x.sock".into()), Host::Tcp("m:2376".to_owned()));
        let docker = Some("tcp://m:2376");
        let rows = [
            (&unix, false, None, "Start it with: swarmpki daemon", ""),
            (&unix, false, docker, "swarmpki -H tcp://m:2376", "Start it"),
            (&unix, true, docker, "Start it with: swarmpki daemon", "DOCKER_HOST"),
            (&tcp, true, None, "On that machine", "Start it"),
        ];
        for (host, named, docker, holds, lacks) in rows {
            let endpoint = Endpoint { named, ..Endpoint::plain(host.clone()) };
            let text = unreachable_daemon(&endpoint, docker, &gone).to_string();
            assert!(text.contains(holds) && (lacks.is_empty() || !text.contains(lacks)), "{text}");
        }
    }

    #[test]
    fn escapes_what_a_path_cannot_hold() {
        assert_eq!(escape("a b/c?{\"x\"}"), "a%20b%2Fc%3F%7B%22x%22%7D");
        assert_eq!(escape("node-1.example_x~"), "node-1.example_x~");
    }
}
