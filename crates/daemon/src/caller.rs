//! Who calls the Engine API, and what they may do with it.
//!
//! Who somebody is, is decided once, when the connection is accepted; what they may do is looked up again for every request.
//! What cannot be looked up is refused.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use cluster::account::{Account, Actor};
use manager::server::bounded::Source;
use pki::certificate::Certificate;
use pki::key::SpkiHash;
use pki::operator::OperatorRole;
use pki::serial::Serial;
use pki::time::Time;
use tokio::net::unix::UCred;
use tokio::sync::watch;

use crate::backend::Backend;

/// Longest part of a name that is kept, in characters; the rest of a foreign certificate's is of no use to anybody.
const NAME_CHARS_MAX: usize = 64;
/// How often an operator with an open connection is looked up when nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The other end of a connection to the Engine API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process of this machine, over the unix socket; what the kernel says of it.
    Socket {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its process, where the kernel tells.
        pid: Option<i32>,
    },
    /// Somebody over plain TCP.
    Plain {
        /// Where it comes from.
        addr: SocketAddr,
    },
    /// Somebody over TLS from files.
    Tls {
        /// Where it comes from.
        addr: SocketAddr,
        /// Common name of its certificate; none if certificates are not asked for. Without control characters.
        name: Option<String>,
    },
    /// An operator of this cluster, by a certificate of the operators' root.
    Operator {
        /// Where it comes from.
        addr: SocketAddr,
        /// The operator's name.
        name: String,
        /// Serial of the certificate.
        serial: Serial,
        /// Its key.
        spki: SpkiHash,
    },
}

/// Whose places a caller takes, on a listener and among the long answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Holder {
    /// A user of this machine.
    User(u32),
    /// Whoever is at this address.
    Machine(Source),
    /// Whoever has a certificate of this name, at this address.
    Named(String, Source),
    /// An operator, wherever he is.
    Operator(String),
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Look at what is no secret.
    Viewer,
    /// Everything.
    Admin,
}

/// Why a caller may do nothing. The text is for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(String);

impl Denied {
    /// With this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl Caller {
    /// A process at the other end of a unix socket.
    pub(crate) fn socket(credentials: &UCred) -> Self {
        Self::Socket { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() }
    }

    /// A client of TLS from files, with the certificate that was verified in the handshake, if one was asked for.
    pub(crate) fn tls(addr: SocketAddr, certificate: Option<&[u8]>) -> Self {
        let certificate = certificate.and_then(|der| Certificate::from_der(der).ok());
        Self::Tls { addr, name: certificate.map(|certificate| plain_name(&certificate.common_name())) }
    }

    /// An operator, with the certificate that was verified in the handshake. `None` without one that can be read.
    pub(crate) fn operator(addr: SocketAddr, certificate: Option<&[u8]>) -> Option<Self> {
        let certificate = Certificate::from_der(certificate?).ok()?;
        Some(Self::Operator {
            addr,
            name: plain_name(&certificate.common_name()),
            serial: certificate.serial(),
            spki: certificate.spki_hash(),
        })
    }

    /// Who it is, as it is noted of what it asks for.
    pub fn account(&self) -> Account {
        let by = match self {
            Self::Socket { uid, .. } => Actor::Local { uid: *uid },
            Self::Plain { .. } | Self::Tls { name: None, .. } => Actor::Network,
            Self::Tls { name: Some(name), .. } => Actor::Named(name.clone()),
            Self::Operator { name, serial, .. } => Actor::Operator { name: name.clone(), serial: *serial },
        };
        Account { by, from: self.addr().map(|addr| addr.ip()) }
    }

    /// Whose places it takes.
    pub(crate) fn holder(&self) -> Holder {
        match self {
            Self::Socket { uid, .. } => Holder::User(*uid),
            Self::Plain { addr } | Self::Tls { addr, name: None } => Holder::Machine(addr.ip().into()),
            Self::Tls { addr, name: Some(name) } => Holder::Named(name.clone(), addr.ip().into()),
            Self::Operator { name, .. } => Holder::Operator(name.clone()),
        }
    }

    /// Where it comes from; `None`: from this machine, over the unix socket.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket { .. } => None,
            Self::Plain { addr } | Self::Tls { addr, .. } | Self::Operator { addr, .. } => Some(*addr),
        }
    }

    /// What it may do at `now`, as the cluster's state says.
    ///
    /// # Errors
    /// An operator whose certificate is not, or not any more, in order; or of whom this machine can know nothing.
    pub fn right(&self, backend: &Backend, now: Time) -> Result<Right, Denied> {
        match self {
            Self::Socket { .. } | Self::Plain { .. } | Self::Tls { .. } => Ok(Right::Admin),
            Self::Operator { serial, spki, .. } => operator_right(backend, serial, spki, now),
        }
    }

    /// Waits until it may do nothing any more; for ever where that cannot come.
    pub(crate) async fn denied(&self, backend: &Backend) {
        if !matches!(self, Self::Operator { .. }) {
            return std::future::pending().await;
        }
        let mut present = backend.lifecycle().watch();
        loop {
            // Taken before the look: what comes after it is a change.
            present.mark_unchanged();
            let changes = backend.control().ok().map(|control| control.changed());
            if self.right(backend, crate::clock::now()).is_err() {
                return;
            }
            tokio::select! {
                Ok(()) = present.changed() => {}
                Some(()) = changed(changes) => {}
                // A certificate ends without a change.
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Waits for the next change of the state; `None`: there will be none.
pub(crate) async fn changed(changes: Option<watch::Receiver<u64>>) -> Option<()> {
    changes?.changed().await.ok()
}

/// What the operator with this certificate may do.
fn operator_right(backend: &Backend, serial: &Serial, spki: &SpkiHash, now: Time) -> Result<Right, Denied> {
    let state = backend.control().map_err(|refused| Denied::new(refused.message))?.state();
    let (role, _) = state.operators.right(serial, spki, now).map_err(|denial| Denied::new(denial.to_string()))?;
    Ok(match role {
        OperatorRole::Viewer => Right::Viewer,
        OperatorRole::Admin => Right::Admin,
    })
}

/// A name out of a certificate, as it can be shown: short, and without control characters.
fn plain_name(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { uid, gid, pid: Some(pid) } => write!(f, "uid {uid} gid {gid} pid {pid}"),
            Self::Socket { uid, gid, pid: None } => write!(f, "uid {uid} gid {gid}"),
            Self::Plain { addr } | Self::Tls { addr, name: None } => write!(f, "{addr}"),
            Self::Tls { addr, name: Some(name) } => write!(f, "{name:?} at {addr}"),
            Self::Operator { addr, name, serial, .. } => write!(f, "operator {name} (serial {serial}) at {addr}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_of_one_line() {
        let rows = [("ann", "ann"), ("a\r\nb\u{1b}[1m", "a\u{fffd}\u{fffd}b\u{fffd}[1m"), ("", "")];
        for (name, shown) in rows {
            assert_eq!(plain_name(name), shown);
        }
        assert_eq!(plain_name(&"é".repeat(1000)).chars().count(), NAME_CHARS_MAX);
    }

    #[test]
    fn rights_are_in_order() {
        assert!(Right::Viewer < Right::Admin);
    }
}
