//! Where the daemon's API listens, and where the commands look for it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Port of a TCP address that names none. Source: engine-api.md 12 (2375 also with TLS on).
const API_PORT: u16 = 2375;

/// An address of the API: `unix://PATH` or `tcp://HOST[:PORT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address, `host:port`.
    Tcp(String),
}

/// An address of the API that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse docker host `{0}`: use unix://PATH or tcp://HOST:PORT")]
pub(crate) struct HostError(String);

impl Host {
    /// The socket used when nobody names one: `/run/swarmpki.sock` for root, one in the user's run-time directory
    /// otherwise.
    pub(crate) fn standard() -> Self {
        if nix::unistd::Uid::effective().is_root() {
            return Self::Unix(PathBuf::from("/run/swarmpki.sock"));
        }
        let dir = match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => state_dir_standard(),
        };
        Self::Unix(dir.join("swarmpki.sock"))
    }
}

/// Where a daemon keeps its state when nobody says: `/var/lib/swarmpki` for root, the user's state directory otherwise.
pub(crate) fn state_dir_standard() -> PathBuf {
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/lib/swarmpki");
    }
    if let Some(dir) = std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()) {
        return PathBuf::from(dir).join("swarmpki");
    }
    match std::env::var_os("HOME").filter(|dir| !dir.is_empty()) {
        Some(home) => PathBuf::from(home).join(".local/state/swarmpki"),
        None => std::env::temp_dir().join(format!("swarmpki-{}", nix::unistd::Uid::effective())),
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let bad = || HostError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.is_empty() {
                Err(bad())
            } else {
                Ok(Self::Unix(PathBuf::from(path)))
            };
        }
        let address = text
            .strip_prefix("tcp://")
            .unwrap_or(text)
            .trim_end_matches('/');
        if address.is_empty() || address.contains("://") || address.contains('/') {
            return Err(bad());
        }
        let has_port = match address.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                port.parse::<u16>().map_err(|_| bad())?;
                true
            }
            _ => false,
        };
        Ok(Self::Tcp(if has_port {
            address.to_owned()
        } else {
            format!("{address}:{API_PORT}")
        }))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_and_prints() {
        for (text, printed) in [
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("unix://x.sock", "unix://x.sock"),
            ("tcp://10.0.0.1:2376", "tcp://10.0.0.1:2376"),
            ("tcp://10.0.0.1", "tcp://10.0.0.1:2375"),
            ("tcp://[::1]:99/", "tcp://[::1]:99"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
            ("box:7", "tcp://box:7"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), printed, "{text}");
        }
        for text in [
            "",
            "unix://",
            "tcp://",
            "ssh://me@there",
            "fd://",
            "tcp://a:b",
            "tcp://a:99999",
            "a/b",
        ] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
