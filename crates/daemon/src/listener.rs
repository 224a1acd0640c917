//! Sockets of the Engine API: unix and TCP, TLS on the latter when asked for, one task a connection.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
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

/// How long a request's head may take; a kept-alive connection waits for it between requests.
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
    /// Binds a host. A TCP host without numeric address is resolved; the first address that binds is taken.
    pub(crate) async fn bind(host: &Host, tls: Option<Arc<ServerConfig>>) -> Result<Self, ListenError> {
        let io = |source| ListenError::Io { host: host.to_string(), source };
        match host {
            Host::Unix(path) => bind_unix(path).await,
            Host::Tcp(_) => {
                let address = host.tcp_address(tls.is_some()).unwrap_or_default();
                let listener = TcpListener::bind(&address).await.map_err(io)?;
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

/// Binds a unix socket of 0660. A socket left by a dead process is removed, one that answers is not.
async fn bind_unix(path: &Path) -> Result<Listener, ListenError> {
    let io = |source| ListenError::Io { host: format!("unix://{}", path.display()), source };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(io)?;
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
    let listener = UnixListener::bind(path).map_err(io)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(io)?;
    Ok(Listener::Unix { listener, path: path.to_path_buf() })
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
    let service = service_fn(move |request| {
        let backend = backend.clone();
        async move { Ok::<_, std::convert::Infallible>(engine_api::serve(&backend, request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.title_case_headers(true).timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an API connection ended");
    }
}
