//! Sockets of the Engine API: unix and TCP, TLS on the latter when asked for, one task a connection.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use manager::server::bounded::{Bounded, Place};
use nix::unistd::Gid;
use pki::time::Time;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::{Backend, Rooms};
use crate::browser::Guard;
use crate::caller::Caller;
use crate::config::Host;
use crate::engine_api;

/// How long a new connection may take to its first request's head.
const FIRST_HEAD_MAX: Duration = Duration::from_secs(30);
/// How long a later request's head may take; a kept-alive connection waits for it between requests.
const HEAD_MAX: Duration = Duration::from_secs(300);
/// How long an answer under way may take when its caller may not call any more.
const LAST_ANSWER_MAX: Duration = Duration::from_millis(500);
/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections of one listener of which it is not known yet who that is: in a handshake, or, without TLS, before the first request.
const STRANGERS_MAX: usize = 256;
/// Connections of viewers on one listener.
const VIEWERS_MAX: usize = 256;
/// Connections of administrators on one listener.
const ADMINS_MAX: usize = 512;
/// Pause after a failed accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a plain request to a TLS port gets. Source: engine-api.md 12.
const PLAIN_TO_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// A fatal alert, access_denied: what a handshake gets while there is no certificate for it. Source: RFC 8446 5.1, 6.
const NOBODY_ADMITTED: &[u8] = &[21, 3, 3, 0, 2, 2, 49];
/// A fatal alert, protocol_version (70). Source: engine-api.md 12; RFC 8446 6.
const TOO_OLD: &[u8] = &[21, 3, 1, 0, 2, 2, 70];
/// Bytes of a connection up to and with the version in its ClientHello. Source: RFC 5246 6.2.1, 7.4, 7.4.1.2.
const HELLO_TO_VERSION: usize = 11;
/// First byte of a TLS record that begins a handshake. Source: RFC 8446 5.1.
const TLS_HANDSHAKE: u8 = 22;

/// Why a host could not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers on the socket.
    #[error("{} is in use by another process: stop it, or give another -H", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is a file of another kind.
    #[error("{} exists and is not a socket: remove it, or give another -H", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Without TLS, where others reach it.
    #[error(
        "{host} without TLS would give the cluster to whoever reaches it: add --tlsverify with --tlscacert, --tlscert and --tlskey, listen on a loopback address, or say --tls=false to serve it all the same"
    )]
    Plain {
        /// The host.
        host: String,
    },
    /// The system refused.
    #[error("cannot listen on {host}: {source}")]
    Io {
        /// The host.
        host: String,
        /// The cause.
        source: io::Error,
    },
}

/// A bound socket.
pub(crate) enum Listener {
    Unix { listener: UnixListener, path: PathBuf },
    Tcp { listener: TcpListener, tls: Option<Tls>, names: Vec<String> },
}

/// What holds for all hosts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// Whether TCP hosts beyond loopback may be served without TLS.
    pub(crate) plain: bool,
    /// The group of unix sockets.
    pub(crate) group: Option<Gid>,
    /// The machine's name: one that requests over plain TCP may be for.
    pub(crate) hostname: String,
}

/// The TLS of TCP hosts. Each handshake takes the configuration of its moment.
#[derive(Clone)]
pub(crate) struct Tls {
    /// The newest configuration; `None`: there is none yet, and handshakes are refused.
    pub(crate) config: watch::Receiver<Option<Arc<ServerConfig>>>,
    /// Whose certificates the clients have.
    pub(crate) clients: Clients,
}

/// Whose certificates the clients of a TLS host have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    /// Those of a CA out of a file, or nobody's.
    Files,
    /// Those of the cluster's operators.
    Operators,
}

impl Listener {
    /// Binds a host; without TLS a TCP host has to be loopback, unless the rules say otherwise. A TCP host without numeric address is resolved; the first address that binds is taken.
    pub(crate) async fn bind(host: &Host, tls: Option<Tls>, rules: &Rules) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { host: host.to_string(), source };
        match host {
            Host::Unix(path) => bind_unix(path, rules.group).await,
            Host::Tcp(_) => {
                let address = host.tcp_address(tls.is_some()).unwrap_or_default();
                let addresses: Vec<SocketAddr> = tokio::net::lookup_host(&address).await.map_err(io)?.collect();
                if tls.is_none() && !rules.plain && addresses.iter().any(|address| !address.ip().is_loopback()) {
                    return Err(ListenError::Plain { host: host.to_string() });
                }
                let listener = TcpListener::bind(addresses.as_slice()).await.map_err(io)?;
                if tls.is_none() {
                    warn!(%host, "the API is served in plain text over TCP: whoever reaches this port controls the cluster");
                }
                let given = address.rsplit_once(':').map_or(address.as_str(), |(name, _)| name);
                let names = vec![given.to_ascii_lowercase(), rules.hostname.to_ascii_lowercase()];
                Ok(Self::Tcp { listener, tls, names })
            }
        }
    }

    /// The host as bound: with the port the system chose.
    pub(crate) fn host(&self) -> Host {
        match self {
            Self::Unix { path, .. } => Host::Unix(path.clone()),
            Self::Tcp { listener, .. } => {
                Host::Tcp(listener.local_addr().map_or_else(|_| String::new(), |address| address.to_string()))
            }
        }
    }

    /// Serves until `shutdown`, then lets running requests end.
    pub(crate) async fn serve(self, backend: Backend, shutdown: CancellationToken, tasks: TaskTracker) {
        let budgets = Budgets::new(STRANGERS_MAX, VIEWERS_MAX, ADMINS_MAX);
        self.serve_within(Arc::new(budgets), backend, shutdown, tasks).await;
    }

    async fn serve_within(
        self,
        budgets: Arc<Budgets>,
        backend: Backend,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) {
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.accept() => accepted,
            };
            let (backend, shutdown, budgets) = (backend.clone(), shutdown.clone(), budgets.clone());
            match accepted {
                Ok(Accepted::Unix(stream)) => match stream.peer_cred() {
                    Ok(peer) => {
                        let (caller, standing) = (Caller::socket(&peer), Standing { budgets, waiting: None });
                        tasks.spawn(serve_connection(stream, caller, Guard::None, backend, shutdown, standing));
                    }
                    Err(error) => warn!(%error, "the system does not say who is at the socket"),
                },
                Ok(Accepted::Plain(stream, addr)) => {
                    let (guard, standing) = (self.guard(&stream), Standing::of_a_stranger(budgets, addr));
                    let caller = Caller::Plain { addr };
                    tasks.spawn(serve_connection(stream, caller, guard, backend, shutdown, standing));
                }
                Ok(Accepted::Tls(stream, addr, tls)) => {
                    let standing = Standing::of_a_stranger(budgets, addr);
                    tasks.spawn(async move {
                        let known = tokio::select! {
                            known = handshake(stream, addr, &tls) => known,
                            () = standing.evicted() => None,
                        };
                        if let Some((stream, caller)) = known {
                            // A browser may hold the client's certificate, and shows it for any page.
                            serve_connection(stream, caller, Guard::Origin, backend, shutdown, standing).await;
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection to the API could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Self::Unix { path, .. } = &self {
            let _ = std::fs::remove_file(path);
        }
    }

    /// What requests of a plain connection are checked for.
    fn guard(&self, stream: &TcpStream) -> Guard {
        match (self, stream.local_addr()) {
            (Self::Tcp { names, .. }, Ok(local)) => Guard::OriginAndHost { local, names: names.clone() },
            // The connection has broken.
            _ => Guard::Origin,
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
            Self::Tcp { listener, tls, .. } => {
                let (stream, addr) = listener.accept().await?;
                Ok(match tls {
                    None => Accepted::Plain(stream, addr),
                    Some(tls) => Accepted::Tls(stream, addr, tls.clone()),
                })
            }
        }
    }
}

/// Places of one listener. Whoever stalls, or comes a thousand times, takes them from himself: the greediest machine, user or operator gives
/// way, strangers do not take the places of those who are known, nor viewers those of administrators.
struct Budgets {
    strangers: Arc<Bounded>,
    known: Rooms,
}

impl Budgets {
    fn new(strangers: usize, viewers: usize, admins: usize) -> Self {
        Self { strangers: Bounded::new(strangers), known: Rooms::new(viewers, admins) }
    }
}

/// Where a connection has its place.
struct Standing {
    budgets: Arc<Budgets>,
    /// Its place while nothing is known of it.
    waiting: Option<Place>,
}

impl Standing {
    fn of_a_stranger(budgets: Arc<Budgets>, addr: SocketAddr) -> Self {
        let waiting = Some(budgets.strangers.enter(addr.ip()));
        Self { budgets, waiting }
    }

    /// Waits until the place of a stranger has to be given up.
    async fn evicted(&self) {
        match &self.waiting {
            Some(place) => place.evicted().await,
            None => std::future::pending().await,
        }
    }

    /// Takes the place that the caller is due, when it is known who that is, and waits until it has to be given up.
    async fn kept(self, caller: &Caller, backend: &Backend, begun: &CancellationToken) {
        // All that is known of whoever comes without TLS is that he asks for something.
        if matches!(caller, Caller::Plain { .. }) {
            tokio::select! {
                () = begun.cancelled() => {}
                () = self.evicted() => return,
            }
        }
        match caller.right(backend, Time::from(SystemTime::now())) {
            Ok(right) => {
                let place = self.budgets.known.enter(caller, right);
                drop(self);
                place.evicted().await;
            }
            // Refused, and soon gone.
            Err(_) => self.evicted().await,
        }
    }
}

enum Accepted {
    Unix(UnixStream),
    Plain(TcpStream, SocketAddr),
    Tls(TcpStream, SocketAddr, Tls),
}

/// Binds a unix socket of 0660, or of 0600 where a plain user names no group: in a directory that nobody else may enter, and moved into place once its mode is set, so that
/// no umask leaves it open for a moment. A socket left by a dead process is removed, one that answers is not.
async fn bind_unix(path: &Path, group: Option<Gid>) -> Result<Listener, ListenError> {
    let io = |source| ListenError::Io { host: format!("unix://{}", path.display()), source };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        create_open_dir(dir).map_err(io)?;
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_path_buf() });
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => return Err(ListenError::InUse { path: path.to_path_buf() }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(io)?,
            Err(error) => return Err(io(error)),
        },
    }
    let listener = bind_private(path, group).map_err(io)?;
    Ok(Listener::Unix { listener, path: path.to_path_buf() })
}

fn bind_private(path: &Path, group: Option<Gid>) -> io::Result<UnixListener> {
    let mut chance = [0_u8; 2];
    aws_lc_rs::rand::fill(&mut chance)
        .map_err(|_| io::Error::other("the system's random numbers are not available"))?;
    // A short name: a socket's path has 107 bytes at most.
    let private = path.with_file_name(format!(".{}", pki::digest::hex(&chance)));
    std::fs::DirBuilder::new().mode(0o700).create(&private)?;
    let first = private.join("s");
    let bound = UnixListener::bind(&first).and_then(|listener| {
        // Only if asked for: our systemd unit does not have the call at all.
        if group.is_some() {
            nix::unistd::chown(&first, None, group)?;
        }
        // A plain user's primary group may be everybody's.
        let mode = if group.is_some() || nix::unistd::geteuid().is_root() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&first, std::fs::Permissions::from_mode(mode))?;
        // Unlike a rename, this takes nobody's place.
        std::fs::hard_link(&first, path)?;
        Ok(listener)
    });
    let _ = std::fs::remove_file(&first);
    let _ = std::fs::remove_dir(&private);
    bound
}

/// Makes a directory and those above it 0755 whatever the umask says: the socket in it has its own mode, and its group must
/// come as far as that. Those that exist stay as they are.
fn create_open_dir(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent() {
        create_open_dir(above)?;
    }
    match std::fs::DirBuilder::new().mode(0o755).create(dir) {
        Ok(()) => std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Does the handshake and finds out who that is; `None`: nobody that is served.
async fn handshake(stream: TcpStream, addr: SocketAddr, tls: &Tls) -> Option<(TlsStream<TcpStream>, Caller)> {
    let work = async {
        let mut first = [0_u8; HELLO_TO_VERSION];
        let told = stream.peek(&mut first).await?;
        if told > 0 && first[0] != TLS_HANDSHAKE {
            end(stream, PLAIN_TO_TLS).await?;
            return Ok(None);
        }
        // TLS 1.1 and before. Its hello lacks what is looked for first, and the alert would name that.
        if told == HELLO_TO_VERSION && matches!(first, [.., 3, 0..=2]) {
            end(stream, TOO_OLD).await?;
            return Ok(None);
        }
        let config = tls.config.borrow().clone();
        let Some(config) = config else {
            debug!(%addr, "a TLS handshake was refused: there is no certificate for it yet");
            end(stream, NOBODY_ADMITTED).await?;
            return Ok(None);
        };
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let caller = match tls.clients {
            Clients::Files => Some(Caller::tls(addr, certificate.map(AsRef::as_ref))),
            Clients::Operators => Caller::operator(addr, certificate.map(AsRef::as_ref)),
        };
        Ok::<_, io::Error>(caller.map(|caller| (stream, caller)))
    };
    match tokio::time::timeout(HANDSHAKE_MAX, work).await {
        Ok(Ok(known)) => known,
        Ok(Err(error)) => {
            debug!(%addr, %error, "TLS handshake of an API client failed");
            None
        }
        Err(_) => None,
    }
}

/// Sends the last that is said here. Reads what the client still sends: closing over unread bytes would reset the connection
/// before it saw this.
async fn end(mut stream: TcpStream, last: &[u8]) -> io::Result<()> {
    stream.write_all(last).await?;
    stream.shutdown().await?;
    let _ = tokio::time::timeout(Duration::from_secs(1), tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
    Ok(())
}

async fn serve_connection<IO>(
    io: IO,
    caller: Caller,
    guard: Guard,
    backend: Backend,
    shutdown: CancellationToken,
    standing: Standing,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begun = CancellationToken::new();
    let first = begun.clone();
    let (caller, ends) = (Arc::new(caller), backend.ends().child_token());
    let backend = backend.by(caller.clone(), ends.clone());
    let service = {
        let (backend, caller) = (backend.clone(), caller.clone());
        service_fn(move |request: Request<Incoming>| {
            first.cancel();
            let (backend, caller) = (backend.clone(), caller.clone());
            let (head, body) = request.into_parts();
            let checked = guard.check(&head);
            async move {
                Ok::<_, std::convert::Infallible>(match checked {
                    Ok(()) => engine_api::serve(&backend, &caller, Request::from_parts(head, body)).await,
                    Err(refused) => engine_api::refused(refused),
                })
            }
        })
    };
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.title_case_headers(true).timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let silent = async {
        if tokio::time::timeout(FIRST_HEAD_MAX, begun.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = silent => {
            debug!("an API connection brought no request in time");
            return;
        }
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = caller.denied(&backend) => {
            debug!(%caller, "a caller may not call any more: the connection ends");
            ends.cancel();
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_ANSWER_MAX, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
        () = standing.kept(&caller, &backend, &begun) => {
            debug!(%caller, "a connection gave way: its caller has most of them");
            ends.cancel();
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_ANSWER_MAX, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an API connection ended");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::caller::Right;
    use crate::lifecycle::{Lifecycle, Setup};
    use crate::machine::Machine;
    use std::os::unix::fs::MetadataExt;
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::time::Instant;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// A daemon in no swarm, and what has to stay.
    fn backend(shutdown: &CancellationToken) -> (Backend, impl Sized + use<>) {
        let dir = PathBuf::from("/nonexistent");
        let setup = Setup {
            keystore: Arc::new(swarmpki::keystore::Keystore::new(&dir)),
            state_dir: dir.clone(),
            hostname: Some("host1".into()),
            keys: manager::Keys::default(),
            unlock_from: None,
        };
        let (lifecycle, task) = Lifecycle::new(setup, shutdown.clone());
        let backend = Backend::new(
            Machine::inspect(Some("host1")),
            "id".to_owned(),
            dir,
            lifecycle,
            Vec::new(),
            shutdown.clone(),
        );
        (backend, task)
    }

    /// One end of a connection that is served, and what has to stay.
    fn connect() -> (DuplexStream, impl Sized) {
        let shutdown = CancellationToken::new();
        let (backend, task) = backend(&shutdown);
        let (ours, served) = tokio::io::duplex(1 << 16);
        let caller = Caller::Socket { uid: 0, gid: 0, pid: None };
        let standing = Standing { budgets: Arc::new(Budgets::new(1, 1, 1)), waiting: None };
        tokio::spawn(serve_connection(served, caller, Guard::None, backend, shutdown, standing));
        (ours, task)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_closed() {
        for begun in ["", "GET /_ping HTTP/1.1\r\nHost: a"] {
            let at = Instant::now();
            let (mut connection, _stays) = connect();
            connection.write_all(begun.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            connection.read_to_end(&mut answer).await.unwrap();
            assert_eq!((answer.len(), at.elapsed()), (0, FIRST_HEAD_MAX), "{begun:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_kept_alive_may_rest_for_longer_and_a_stream_for_ever() {
        let (mut connection, _stays) = connect();
        connection.write_all(b"GET /_ping HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let at = Instant::now();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(at.elapsed(), HEAD_MAX);

        let (mut stream, _stays) = connect();
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let day = Duration::from_secs(86_400);
        let mut answer = Vec::new();
        assert!(tokio::time::timeout(day, stream.read_to_end(&mut answer)).await.is_err(), "it ended");
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }

    /// Asks for something; the answer's head.
    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        let host = stream.peer_addr().unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        String::from_utf8(head).unwrap()
    }

    /// Waits until the other end has closed it.
    async fn closed(stream: &mut TcpStream) {
        // A reset ends it too.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    /// Whether it is open, as far as this end was told.
    async fn is_open(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        tokio::select! {
            biased;
            read = stream.read(&mut byte) => read.is_ok_and(|bytes| bytes > 0),
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test]
    async fn whoever_says_nothing_or_listens_for_ever_keeps_nobody_out() {
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (backend, _stays) = backend(&shutdown);
        let host = "tcp://127.0.0.1:0".parse().unwrap();
        let listener = Listener::bind(&host, None, &Rules::default()).await.unwrap();
        let Host::Tcp(address) = listener.host() else { panic!("no TCP") };
        let budgets = Arc::new(Budgets::new(4, 1, 3));
        tokio::spawn(listener.serve_within(budgets, backend, shutdown.clone(), tasks));
        let connect = || async { TcpStream::connect(&address).await.unwrap() };

        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(connect().await);
        }
        let mut admin = connect().await;
        assert!(ask(&mut admin, "/_ping").await.starts_with("HTTP/1.1 200"));
        // He took the place of the last but three.
        for stream in &mut silent[..17] {
            closed(stream).await;
        }
        for stream in &mut silent[17..] {
            assert!(is_open(stream).await, "nobody gives way without need");
        }

        let mut streams = Vec::new();
        for _ in 0..6 {
            let mut stream = connect().await;
            assert!(ask(&mut stream, "/events").await.starts_with("HTTP/1.1 200"));
            streams.push(stream);
        }
        // The oldest of those who were answered, the first of them included.
        closed(&mut admin).await;
        for stream in &mut streams[..3] {
            closed(stream).await;
        }
        let mut admin = connect().await;
        assert!(ask(&mut admin, "/_ping").await.starts_with("HTTP/1.1 200"));
        closed(&mut streams[3]).await;
        assert!(is_open(&mut streams[5]).await);
        shutdown.cancel();
    }

    #[tokio::test]
    async fn viewers_take_no_places_of_administrators() {
        let operator = |name: &str| Caller::Operator {
            addr: ([192, 0, 2, 1], 1).into(),
            name: name.to_owned(),
            serial: pki::serial::Serial::from_bytes(&[1]).unwrap(),
            spki: pki::key::SpkiHash([0; 32]),
        };
        let rooms = Rooms::new(4, 4);
        let admin = rooms.enter(&operator("ann"), Right::Admin);
        let other = rooms.enter(&operator("bob"), Right::Viewer);
        let many: Vec<_> = (0..100).map(|_| rooms.enter(&operator("eve"), Right::Viewer)).collect();
        many[96].evicted().await;
        let more: Vec<_> = (0..100).map(|_| rooms.enter(&operator("joe"), Right::Admin)).collect();
        more[96].evicted().await;
        for kept in [&admin, &other, &many[97], &more[97]] {
            tokio::select! {
                biased;
                () = kept.evicted() => panic!("it gave way to another"),
                () = std::future::ready(()) => {}
            }
        }
    }

    #[tokio::test]
    async fn plain_tcp_beyond_loopback_has_to_be_asked_for() {
        let rows = [
            ("tcp://127.0.0.1:0", false, true),
            ("tcp://[::ffff:0.0.0.0]:0", false, false),
            ("tcp://0.0.0.0:0", false, false),
            ("tcp://0.0.0.0:0", true, true),
        ];
        for (host, plain, served) in rows {
            let rules = Rules { plain, ..Rules::default() };
            match Listener::bind(&host.parse().unwrap(), None, &rules).await {
                Ok(_) => assert!(served, "{host}"),
                Err(error) => {
                    assert!(!served && error.to_string().contains("or say --tls=false"), "{host}: {error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_socket_has_its_mode_and_new_directories_above_it_0755() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("here")).unwrap();
        std::fs::set_permissions(top.path().join("here"), std::fs::Permissions::from_mode(0o711)).unwrap();
        let path = top.path().join("here/a/b/api.sock");
        let Listener::Unix { listener, .. } = bind_unix(&path, None).await.unwrap() else { panic!("no unix socket") };
        let alone = if nix::unistd::geteuid().is_root() { 0o660 } else { 0o600 };
        assert_eq!(mode(&path), alone);
        assert_eq!(mode(&top.path().join("here")), 0o711);
        for made in ["here/a", "here/a/b"] {
            assert_eq!(mode(&top.path().join(made)), 0o755, "{made}");
        }
        let left: Vec<_> =
            std::fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["api.sock"]);
        let (dialed, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        dialed.unwrap();
        accepted.unwrap();
        // Nobody's place is taken, also when they came in between.
        assert_eq!(bind_private(&path, None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_socket_for_a_group() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("api.sock");
        // Any will do for root; others may give a file to a group of their own.
        let group = if nix::unistd::geteuid().is_root() { Gid::from_raw(4711) } else { nix::unistd::getegid() };
        let listener = bind_unix(&path, Some(group)).await.unwrap();
        assert_eq!((mode(&path), std::fs::metadata(&path).unwrap().gid()), (0o660, group.as_raw()));
        drop(listener);
    }
}
