//! Sockets of the Engine API: unix and TCP, TLS on the latter when asked for, one task a connection.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::backend::Backend;
use crate::config::Host;
use crate::engine_api;

/// How long a new connection may take to its first request's head.
const FIRST_HEAD_MAX: Duration = Duration::from_secs(30);
/// How long a later request's head may take; a kept-alive connection waits for it between requests.
const HEAD_MAX: Duration = Duration::from_secs(300);
/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections served at once on one listener.
const CONNECTIONS_MAX: usize = 1024;
/// Pause after a failed accept (no file descriptors left, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a plain request to a TLS port gets. Source: engine-api.md 12.
const PLAIN_TO_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
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
    Tcp { listener: TcpListener, tls: Option<Arc<ServerConfig>> },
}

impl Listener {
    /// Binds a host; without TLS a TCP host has to be loopback, unless `plain` is set. A TCP host without numeric address is resolved; the first address that binds is taken.
    pub(crate) async fn bind(host: &Host, tls: Option<Arc<ServerConfig>>, plain: bool) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { host: host.to_string(), source };
        match host {
            Host::Unix(path) => bind_unix(path).await,
            Host::Tcp(_) => {
                let address = host.tcp_address(tls.is_some()).unwrap_or_default();
                let addresses: Vec<SocketAddr> = tokio::net::lookup_host(&address).await.map_err(io)?.collect();
                if tls.is_none() && !plain && addresses.iter().any(|address| !address.ip().is_loopback()) {
                    return Err(ListenError::Plain { host: host.to_string() });
                }
                let listener = TcpListener::bind(addresses.as_slice()).await.map_err(io)?;
                if tls.is_none() {
                    warn!(%host, "the API is served in plain text over TCP: whoever reaches this port controls the cluster");
                }
                Ok(Self::Tcp { listener, tls })
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
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.accept() => accepted,
            };
            let (backend, shutdown) = (backend.clone(), shutdown.clone());
            match accepted {
                Ok(Accepted::Unix(stream)) => {
                    tasks.spawn(async move {
                        serve_connection(stream, backend, shutdown).await;
                        drop(permit);
                    });
                }
                Ok(Accepted::Plain(stream)) => {
                    tasks.spawn(async move {
                        serve_connection(stream, backend, shutdown).await;
                        drop(permit);
                    });
                }
                Ok(Accepted::Tls(stream, config)) => {
                    tasks.spawn(async move {
                        if let Some(stream) = handshake(stream, config).await {
                            serve_connection(stream, backend, shutdown).await;
                        }
                        drop(permit);
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

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
            Self::Tcp { listener, tls: None } => Ok(Accepted::Plain(listener.accept().await?.0)),
            Self::Tcp { listener, tls: Some(config) } => Ok(Accepted::Tls(listener.accept().await?.0, config.clone())),
        }
    }
}

enum Accepted {
    Unix(UnixStream),
    Plain(TcpStream),
    Tls(TcpStream, Arc<ServerConfig>),
}

/// Binds a unix socket of 0660: in a directory that nobody else may enter, and moved into place once its mode is set, so that
/// no umask leaves it open for a moment. A socket left by a dead process is removed, one that answers is not.
async fn bind_unix(path: &Path) -> Result<Listener, ListenError> {
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
    let listener = bind_private(path).map_err(io)?;
    Ok(Listener::Unix { listener, path: path.to_path_buf() })
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let mut chance = [0_u8; 2];
    aws_lc_rs::rand::fill(&mut chance)
        .map_err(|_| io::Error::other("the system's random numbers are not available"))?;
    // A short name: a socket's path has 107 bytes at most.
    let private = path.with_file_name(format!(".{}", pki::digest::hex(&chance)));
    std::fs::DirBuilder::new().mode(0o700).create(&private)?;
    let first = private.join("s");
    let bound = UnixListener::bind(&first).and_then(|listener| {
        std::fs::set_permissions(&first, std::fs::Permissions::from_mode(0o660))?;
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

async fn handshake(stream: TcpStream, config: Arc<ServerConfig>) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let work = async {
        let mut first = [0_u8; 1];
        if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
            let mut stream = stream;
            stream.write_all(PLAIN_TO_TLS).await?;
            stream.shutdown().await?;
            // Reads what the client still sends: closing over unread bytes would reset the connection before it saw this.
            let _ = tokio::time::timeout(Duration::from_secs(1), tokio::io::copy(&mut stream, &mut tokio::io::sink()))
                .await;
            return Ok(None);
        }
        TlsAcceptor::from(config).accept(stream).await.map(Some)
    };
    match tokio::time::timeout(HANDSHAKE_MAX, work).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake of an API client failed");
            None
        }
        Err(_) => None,
    }
}

async fn serve_connection<IO>(io: IO, backend: Backend, shutdown: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let begun = CancellationToken::new();
    let first = begun.clone();
    let service = service_fn(move |request| {
        first.cancel();
        let backend = backend.clone();
        async move { Ok::<_, std::convert::Infallible>(engine_api::serve(&backend, request).await) }
    });
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
    };
    if let Err(error) = ended {
        debug!(%error, "an API connection ended");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::lifecycle::{Lifecycle, Setup};
    use crate::machine::Machine;
    use std::os::unix::fs::MetadataExt;
    use tokio::io::{AsyncReadExt, DuplexStream};
    use tokio::time::Instant;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// One end of a connection that is served, and what has to stay.
    fn connect() -> (DuplexStream, impl Sized) {
        let dir = PathBuf::from("/nonexistent");
        let shutdown = CancellationToken::new();
        let setup = Setup {
            keystore: Arc::new(swarmpki::keystore::Keystore::new(&dir)),
            state_dir: dir.clone(),
            hostname: Some("host1".into()),
            keys: manager::Keys::default(),
            unlock_from: None,
        };
        let (lifecycle, task) = Lifecycle::new(setup, shutdown.clone());
        let backend = Backend::new(Machine::inspect(Some("host1")), "id".to_owned(), dir, lifecycle, shutdown.clone());
        let (ours, served) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve_connection(served, backend, shutdown));
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

    #[tokio::test]
    async fn plain_tcp_beyond_loopback_has_to_be_asked_for() {
        let rows = [
            ("tcp://127.0.0.1:0", false, true),
            ("tcp://[::ffff:0.0.0.0]:0", false, false),
            ("tcp://0.0.0.0:0", false, false),
            ("tcp://0.0.0.0:0", true, true),
        ];
        for (host, plain, served) in rows {
            match Listener::bind(&host.parse().unwrap(), None, plain).await {
                Ok(_) => assert!(served, "{host}"),
                Err(error) => {
                    assert!(!served && error.to_string().contains("or say --tls=false"), "{host}: {error}");
                }
            }
        }
    }

    #[tokio::test]
    async fn the_socket_is_0660_and_new_directories_above_it_0755() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("here")).unwrap();
        std::fs::set_permissions(top.path().join("here"), std::fs::Permissions::from_mode(0o711)).unwrap();
        let path = top.path().join("here/a/b/api.sock");
        let Listener::Unix { listener, .. } = bind_unix(&path).await.unwrap() else { panic!("no unix socket") };
        assert_eq!(mode(&path), 0o660);
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
        assert_eq!(bind_private(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
