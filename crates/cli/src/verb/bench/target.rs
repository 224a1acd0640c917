//! The manager under measurement: where it is, what proves it, and connections to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use clap::Args;
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mtls::{Expect, Gathered, InWork, Live, ManagerName};
use pki::bundle::TrustBundle;
use pki::digest::Digest;
use pki::join_token::JoinToken;
use pki::time::Time;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::body::Body;
use wire::client::CaClient;
use wire::proto::GetRootCaCertificateRequest;

use crate::failure::Failure;

/// Holds the token where no flag gives it.
const TOKEN_VARIABLE: &str = "SWARMPKI_TOKEN";
/// The HTTP/2 window of our side, in bytes: the protocol's least, as memory counts with many nodes.
const WINDOW_BYTES: u32 = 65_535;
/// A call that takes longer has failed. Far above an engine's 5 s: what is measured here is how long it takes.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(60);
/// Between two attempts to reach a manager that is waited for.
const RETRY: Duration = Duration::from_millis(1);

/// Which manager, and which process it is.
#[derive(Args, Clone, Debug)]
pub(super) struct TargetArgs {
    /// The manager
    #[arg(value_name = "HOST:PORT")]
    addr: String,
    /// Join token of its cluster
    ///
    /// Visible to everybody on this machine while the bench runs: SWARMPKI_TOKEN in the environment, or --token-file, is not.
    #[arg(long, value_name = "STRING")]
    token: Option<String>,
    /// File that holds the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The manager's process on this machine, to measure its processor time and memory
    #[arg(long, value_name = "PID")]
    pub(super) pid: Option<i32>,
    /// Count the manager's syncs with perf or strace, which then has to be installed
    #[arg(long, requires = "pid")]
    pub(super) count_syncs: bool,
    /// How long to wait for a manager that does not answer yet, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true)]
    wait: u64,
}

/// A manager that proved to be the one that the token names.
pub(super) struct Target {
    addr: SocketAddr,
    token: String,
    pub(super) trust: TrustBundle,
}

impl TargetArgs {
    /// Fetches the root and checks it against the token.
    pub(super) async fn reach(&self) -> Result<Target, Failure> {
        let addr = tokio::net::lookup_host(&self.addr)
            .await
            .ok()
            .and_then(|mut found| found.next())
            .ok_or_else(|| Failure::flag("HOST:PORT", &self.addr, "no such address"))?;
        let text = self.token()?;
        let token: JoinToken = text.parse().map_err(|error| Failure::new(format!("the join token: {error}")))?;
        let until = tokio::time::Instant::now() + Duration::from_secs(self.wait);
        let bundle = loop {
            match fetch_root(addr).await {
                Ok(bundle) => break bundle,
                Err(_) if tokio::time::Instant::now() < until => tokio::time::sleep(RETRY).await,
                Err(failure) => return Err(failure),
            }
        };
        if Digest::of(&bundle) != token.digest() {
            return Err(Failure::new(format!("{addr} presents another root than the token names")).hint(
                "Take the token from this very cluster: swarmpki join-token worker, or docker swarm join-token worker.",
            ));
        }
        let trust = TrustBundle::parse(&bundle, now()).map_err(|error| Failure::new(format!("{addr}: {error}")))?;
        Ok(Target { addr, token: text, trust })
    }

    fn token(&self) -> Result<String, Failure> {
        if let Some(token) = &self.token {
            return Ok(token.clone());
        }
        if let Some(file) = &self.token_file {
            let text =
                std::fs::read_to_string(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
            return Ok(text.trim().to_owned());
        }
        std::env::var(TOKEN_VARIABLE)
            .map_err(|_| Failure::new("no join token: give --token-file, SWARMPKI_TOKEN or --token"))
    }
}

/// The time here.
pub(super) fn now() -> Time {
    Time::from(SystemTime::now())
}

impl Target {
    /// Where it is.
    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The join token; a secret.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Downloads the root as a joiner does, on a connection of its own.
    pub(super) async fn fetch_root(&self) -> Result<(), Failure> {
        let bundle = fetch_root(self.addr).await?;
        if bundle == self.trust.raw() { Ok(()) } else { Err(Failure::new("the root changed under the measurement")) }
    }

    /// A connection as a joiner has it.
    pub(super) async fn as_joiner(&self) -> Result<Calls, Failure> {
        let connected = mtls::connect_pinned(tcp(self.addr).await?, &self.trust, ManagerName::Ca, now()).await;
        Calls::over(connected.map_err(|error| broken(self.addr, &error))?.stream).await
    }

    /// A connection as a node has it.
    pub(super) async fn as_node(&self, live: &Live) -> Result<Calls, Failure> {
        Calls::over(self.tls(live).await?).await
    }

    /// The same to another manager of the cluster.
    pub(super) async fn as_node_at(&self, live: &Live, addr: SocketAddr) -> Result<Calls, Failure> {
        let connected = live.connect(tcp(addr).await?, &Expect::manager(), now()).await;
        Calls::over(connected.map_err(|error| broken(addr, &error))?.stream).await
    }

    /// The same, before HTTP/2.
    pub(super) async fn tls(&self, live: &Live) -> Result<mtls::ClientStream<TcpStream>, Failure> {
        let connected = live.connect(tcp(self.addr).await?, &Expect::manager(), now()).await;
        Ok(connected.map_err(|error| broken(self.addr, &error))?.stream)
    }
}

async fn fetch_root(addr: SocketAddr) -> Result<Vec<u8>, Failure> {
    let stream = mtls::connect_unverified(tcp(addr).await?).await.map_err(|error| broken(addr, &error))?;
    let mut client = CaClient::with_origin(Calls::over(stream).await?, origin());
    let answer = client.get_root_ca_certificate(GetRootCaCertificateRequest {}).await;
    Ok(answer.map_err(|status| refused("GetRootCACertificate", &status))?.into_inner().certificate.to_vec())
}

async fn tcp(addr: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(addr).await.map_err(|error| broken(addr, &error))?;
    stream.set_nodelay(true).map_err(|error| broken(addr, &error))?;
    Ok(stream)
}

/// The scheme and name that calls carry; managers ignore both.
pub(super) fn origin() -> Uri {
    Uri::from_static("http://swarm-manager")
}

/// A call's refusal as the bench's own failure.
pub(super) fn refused(call: &str, status: &tonic::Status) -> Failure {
    Failure::new(format!("{call}: {:?}: {}", status.code(), status.message()))
}

/// A connection's end as the bench's own failure, with its causes.
pub(super) fn broken(addr: SocketAddr, error: &dyn std::error::Error) -> Failure {
    let mut text = format!("{addr}: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Failure::new(text)
}

/// The calls of one connection: nothing but HTTP/2 below the generated clients, so that thousands of them stay cheap.
#[derive(Clone)]
pub(super) struct Calls(SendRequest<Body>);

impl Calls {
    /// What is asked leaves in one piece, as a node's own client has it.
    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, Failure> {
        let in_work = InWork::default();
        let asking = in_work.begin();
        let stream = Gathered::new(stream, in_work.clone());
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::new(format!("HTTP/2: {error}")))?;
        // Ends with the last sender; an error reaches whoever calls next.
        tokio::spawn(async move {
            let _asking = asking;
            let mut connection = std::pin::pin!(connection);
            std::future::poll_fn(|cx| in_work.poll(cx, connection.as_mut())).await
        });
        Ok(Self(sender))
    }
}

impl tower::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
