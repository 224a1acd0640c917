//! The daemon as a function of its configuration and its shutdown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use manager::operators::ApiNames;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ServerConfig;
use swarmpki::keystore::Keystore;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::backend::Backend;
use crate::config::{DaemonConfig, Host, TlsMode};
use crate::engine_api::info::exposure;
use crate::lifecycle::{Lifecycle, LifecycleError, Setup};
use crate::listener::{Clients, ListenError, Listener, Rules, Tls};
use crate::lock::{LockError, StateLock};
use crate::machine::Machine;
use crate::operators;
use crate::revocations::Revocations;
use crate::settings::write_synced;
use crate::state_dir;
use crate::tls::{Files, TlsError};

/// How long running requests may take to end at shutdown.
const DRAIN_MAX: Duration = Duration::from_secs(2);
const ENGINE_ID_FILE: &str = "engine-id";

/// Why the daemon could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory could not be made or used.
    #[error("cannot use state directory {}: {source}", dir.display())]
    StateDir {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another daemon holds the state directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The API's TLS files are not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A host could not be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What this machine is could not be kept up.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
}

/// Where the certificates of TCP hosts come from.
enum Certificates {
    /// There are none: plain text.
    None,
    Files(Box<Files>),
    /// Published as the cluster's state has them.
    Operators(watch::Sender<Option<Arc<ServerConfig>>>),
}

impl Certificates {
    fn tls(&self) -> Option<Tls> {
        match self {
            Self::None => None,
            Self::Files(files) => Some(Tls { config: files.newest(), clients: Clients::Files }),
            Self::Operators(published) => Some(Tls { config: published.subscribe(), clients: Clients::Operators }),
        }
    }
}

/// A daemon that listens and is ready to [`Daemon::serve`].
pub struct Daemon {
    backend: Backend,
    listeners: Vec<Listener>,
    revocations: Option<Revocations>,
    lifecycle: std::pin::Pin<Box<dyn Future<Output = Result<(), LifecycleError>> + Send>>,
    shutdown: CancellationToken,
    certificates: Certificates,
    reload: Arc<Notify>,
    /// What the API is reached by.
    names: ApiNames,
    _lock: StateLock,
}

/// Runs a daemon until `shutdown` is cancelled or it has to end.
pub async fn run(config: DaemonConfig, shutdown: CancellationToken) -> Result<(), RunError> {
    Daemon::start(config, shutdown).await?.serve().await
}

impl Daemon {
    /// Takes the state directory and binds the API's sockets. Clients may connect from now on.
    pub async fn start(config: DaemonConfig, shutdown: CancellationToken) -> Result<Self, RunError> {
        let dir = config.state_dir.clone();
        let refused = |source| RunError::StateDir { dir: dir.clone(), source };
        raise_file_limit();
        state_dir::take(&dir).map_err(refused)?;
        let lock = StateLock::take(&dir)?;
        let engine_id = engine_id(&dir).map_err(refused)?;
        let certificates = match config.tls.clone() {
            None => Certificates::None,
            Some(TlsMode::Files(settings)) => Certificates::Files(Box::new(Files::open(settings)?)),
            Some(TlsMode::Operators) => Certificates::Operators(watch::Sender::new(None)),
        };
        let tls = certificates.tls();
        let machine = Machine::inspect(config.hostname.as_deref());
        let hostname = machine.hostname();
        let rules = Rules { plain: config.plain_tcp, group: config.group, hostname };
        let mut listeners = Vec::new();
        for host in config.hosts() {
            listeners.push(Listener::bind(&host, tls.clone(), &rules).await?);
        }
        let bound: Vec<Host> = listeners.iter().map(Listener::host).chain(config.hosts()).collect();
        let names = operators::names(&bound, &machine.hostname());
        let revocations = match &config.revocation_listen {
            Some(address) => Some(Revocations::bind(address).await?),
            None => None,
        };
        let setup = Setup {
            keystore: Arc::new(Keystore::new(&dir)),
            state_dir: dir.clone(),
            hostname: config.hostname.clone(),
            keys: config.keys.clone(),
            unlock_from: config.unlock_from.clone(),
        };
        let (lifecycle, task) = Lifecycle::new(setup, shutdown.clone());
        let warnings =
            listeners.iter().filter_map(|listener| exposure(&listener.host(), config.tls.as_ref())).collect();
        let backend = Backend::new(machine, engine_id, dir, lifecycle, warnings, shutdown.clone());
        Ok(Self {
            backend,
            listeners,
            revocations,
            lifecycle: Box::pin(task),
            shutdown,
            certificates,
            reload: config.reload,
            names,
            _lock: lock,
        })
    }

    /// The hosts as bound.
    pub fn hosts(&self) -> Vec<Host> {
        self.listeners.iter().map(Listener::host).collect()
    }

    /// What the API's handlers work on.
    pub fn backend(&self) -> Backend {
        self.backend.clone()
    }

    /// Serves until the shutdown, or until this machine's part fails for good.
    pub async fn serve(self) -> Result<(), RunError> {
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        for listener in self.listeners {
            info!(host = %listener.host(), "the API is served");
            tasks.spawn(listener.serve(self.backend.clone(), closing.clone(), tasks.clone()));
        }
        if let Some(revocations) = self.revocations {
            info!(addr = revocations.addr().map(tracing::field::display), "revocations are served");
            tasks.spawn(revocations.serve(self.backend.clone(), closing.clone(), tasks.clone()));
        }
        match self.certificates {
            Certificates::None => {}
            Certificates::Files(files) => {
                tasks.spawn(closing.clone().run_until_cancelled_owned(files.follow(self.reload)));
            }
            Certificates::Operators(published) => {
                let published = operators::publish(self.backend.clone(), published, self.names);
                tasks.spawn(closing.clone().run_until_cancelled_owned(published));
            }
        }
        let outcome = self.lifecycle.await;
        self.shutdown.cancel();
        closing.cancel();
        tasks.close();
        let _ = tokio::time::timeout(DRAIN_MAX, tasks.wait()).await;
        Ok(outcome?)
    }
}

/// Raises the limit on open files as far as this process may: a manager holds a connection per node. Many systems start
/// services with 1024 for the sake of programs that use `select`; we do not.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        warn!(%error, "the limit on open files stays as it is");
    }
}

/// The daemon's own id, made at the first start.
fn engine_id(dir: &Path) -> io::Result<String> {
    match std::fs::read_to_string(dir.join(ENGINE_ID_FILE)) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("the system's random numbers are not available"))?;
    // RFC 9562 5.4: version 4, variant 10.
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = pki::digest::hex(&bytes);
    let id = [&hex[0..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-");
    write_synced(dir, ENGINE_ID_FILE, id.as_bytes())?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_limit_on_open_files_is_raised_as_far_as_it_goes() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard - 1, hard).unwrap();
        raise_file_limit();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
