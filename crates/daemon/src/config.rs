//! Where the daemon keeps its state and where it listens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use manager::Keys;
use nix::unistd::Gid;
use tokio::sync::Notify;

use crate::unlock_source::UnlockSource;

/// Port of the Engine API over plain TCP when a host names none (engine-api.md 12).
pub const TCP_PORT: u16 = 2375;
/// Port of the Engine API over TLS when a host names none (engine-api.md 12).
pub const TLS_PORT: u16 = 2376;

/// All the daemon needs to know before it starts.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Directory of the node's state: `certificates/`, `raft/`, `state.json`, `daemon.json`. Created if absent, 0700.
    pub state_dir: PathBuf,
    /// Where the Engine API listens; empty: [`DaemonConfig::default_hosts`].
    pub hosts: Vec<Host>,
    /// TLS of the TCP hosts; never applies to unix sockets. `None`: plain HTTP.
    pub tls: Option<TlsMode>,
    /// Whether TCP hosts beyond loopback may be served without TLS. Whoever reaches one controls the cluster.
    pub plain_tcp: bool,
    /// Host name shown in `docker node ls`; `None`: the machine's.
    pub hostname: Option<String>,
    /// How tokens are reached that hold a root's key; by itself there are none.
    pub keys: Keys,
    /// Where the unlock key comes from when a locked manager starts and nobody types it; read only then.
    pub unlock_from: Option<UnlockSource>,
    /// The group that may use the unix sockets; `None`: that of the process, and nobody but its user if that is not root.
    pub group: Option<Gid>,
    /// Where lists of revoked certificates and answers about them are served over plain HTTP, `host:port`; `None`: nowhere.
    pub revocation_listen: Option<String>,
    /// Notified when the files of TLS are to be read again; they are also watched.
    pub reload: Arc<Notify>,
}

impl Default for DaemonConfig {
    /// Root gets the system's places, anybody else the XDG ones.
    fn default() -> Self {
        Self {
            state_dir: default_state_dir(),
            hosts: Vec::new(),
            tls: None,
            plain_tcp: false,
            hostname: None,
            keys: Keys::default(),
            unlock_from: None,
            group: None,
            revocation_listen: None,
            reload: Arc::default(),
        }
    }
}

impl DaemonConfig {
    /// The hosts to listen on: those given, else the default socket, else (with TLS) `tcp://localhost:2376`. Operators get both: the
    /// first certificate is issued over the socket.
    pub fn hosts(&self) -> Vec<Host> {
        if !self.hosts.is_empty() {
            return self.hosts.clone();
        }
        match self.tls {
            None => Self::default_hosts(false),
            Some(TlsMode::Files(_)) => Self::default_hosts(true),
            Some(TlsMode::Operators) => [Self::default_hosts(false), Self::default_hosts(true)].concat(),
        }
    }

    /// What is listened on when no host is given (engine-api.md 12).
    pub fn default_hosts(tls: bool) -> Vec<Host> {
        if tls { vec![Host::Tcp(format!("localhost:{TLS_PORT}"))] } else { vec![Host::Unix(default_socket())] }
    }
}

/// Where the certificates of the Engine API's TLS come from.
#[derive(Clone, Debug)]
pub enum TlsMode {
    /// From files, as dockerd has it.
    Files(TlsSettings),
    /// From the cluster's operators' root: no files at all.
    Operators,
}

/// Files of the Engine API's TLS, as dockerd's flags of the same names.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// PEM bundle that client certificates are verified against (`--tlscacert`). It is the only anchor.
    pub ca: PathBuf,
    /// Server certificate and intermediates, PEM (`--tlscert`).
    pub cert: PathBuf,
    /// Server key, PEM (`--tlskey`).
    pub key: PathBuf,
    /// Whether a client certificate is required (`--tlsverify`; also the meaning of `--tls` alone).
    pub verify: bool,
}

/// A place the Engine API listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A unix socket at this path.
    Unix(PathBuf),
    /// `host:port`; the port may be absent, see [`Host::tcp_address`].
    Tcp(String),
}

/// A host that is neither `unix://path` nor `tcp://host[:port]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid host \"{0}\": expected unix:///path/to/socket or tcp://host:port")]
pub struct HostError(String);

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let refused = || HostError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            if path.is_empty() {
                return Err(refused());
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let rest = match text.split_once("://") {
            Some(("tcp", rest)) => rest,
            Some(_) => return Err(refused()),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() || rest.contains('/') {
            return Err(refused());
        }
        Ok(Self::Tcp(rest.to_owned()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Host {
    /// `host:port` with the default port of the transport if none was given; `None` for a unix socket.
    pub fn tcp_address(&self, tls: bool) -> Option<String> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(address) => {
                let has_port = match address.rfind(']') {
                    Some(end) => address[end..].contains(':'),
                    None => address.matches(':').count() == 1,
                };
                let port = if tls { TLS_PORT } else { TCP_PORT };
                Some(if has_port { address.clone() } else { format!("{address}:{port}") })
            }
        }
    }
}

/// `/var/lib/swarmpki` for root, `$XDG_STATE_HOME/swarmpki` (or `~/.local/state/swarmpki`) for others.
pub fn default_state_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/var/lib/swarmpki");
    }
    directory_from("XDG_STATE_HOME")
        .or_else(|| directory_from("HOME").map(|home| home.join(".local/state")))
        .map_or_else(
            || std::env::temp_dir().join(format!("swarmpki-{}", nix::unistd::geteuid())),
            |base| base.join("swarmpki"),
        )
}

/// `/run/swarmpki.sock` for root, `$XDG_RUNTIME_DIR/swarmpki.sock` for others (in the state directory if that is unset).
pub fn default_socket() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/swarmpki.sock");
    }
    directory_from("XDG_RUNTIME_DIR").unwrap_or_else(default_state_dir).join("swarmpki.sock")
}

/// An absolute directory from the environment; relative ones are ignored, as the XDG base directory specification says.
fn directory_from(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable)?;
    let path = Path::new(&value);
    path.is_absolute().then(|| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn hosts_parse_as_docker_writes_them() {
        let rows = [
            ("unix:///run/x.sock", Some("unix:///run/x.sock"), None),
            ("tcp://127.0.0.1:2376", Some("tcp://127.0.0.1:2376"), Some("127.0.0.1:2376")),
            ("tcp://127.0.0.1", Some("tcp://127.0.0.1"), Some("127.0.0.1:2375")),
            ("127.0.0.1:99", Some("tcp://127.0.0.1:99"), Some("127.0.0.1:99")),
            ("tcp://[::1]", Some("tcp://[::1]"), Some("[::1]:2375")),
            ("tcp://[::1]:7", Some("tcp://[::1]:7"), Some("[::1]:7")),
            ("unix://", None, None),
            ("fd://3", None, None),
            ("tcp://", None, None),
            ("tcp://h:1/path", None, None),
        ];
        for (text, shown, address) in rows {
            let host = text.parse::<Host>().ok();
            assert_eq!(host.as_ref().map(ToString::to_string).as_deref(), shown, "{text}");
            assert_eq!(host.and_then(|host| host.tcp_address(false)).as_deref(), address, "{text}");
        }
    }

    #[test]
    fn tls_changes_the_default_host_and_port() {
        assert_eq!(DaemonConfig::default_hosts(true), vec![Host::Tcp("localhost:2376".into())]);
        assert_eq!(Host::Tcp("h".into()).tcp_address(true).unwrap(), "h:2376");
        assert!(matches!(DaemonConfig::default_hosts(false).as_slice(), [Host::Unix(_)]));
    }
}
