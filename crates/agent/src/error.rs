//! What can go wrong, what to do about it, and whether trying again helps.

use pki::digest::Digest;
use wire::status::Refusal;

use crate::clock::ClockOffset;
use crate::keystore::KeystoreError;

/// Whether trying again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No: something must be changed first.
    Never,
    /// Yes, later.
    Later,
}

/// The text of a node that does not run in FIPS mode before a cluster that demands it (pki.md 5).
pub(crate) const FIPS_REQUIRED: &str = "node is not FIPS-enabled but cluster requires FIPS";

/// The hint of a clock that is off, at a join and later.
pub(crate) const SET_THE_CLOCK: &str =
    "set this machine's clock (NTP); a node that is a member then goes on by itself, a join is begun again";

/// Why a join failed. The node holds no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No address to try.
    #[error("no manager address given")]
    NoAddress,
    /// A manager presented a root other than the one the token names.
    #[error("remote CA does not match fingerprint. Expected: {}", token.hex())]
    RootMismatch {
        /// The digest in the token.
        token: Digest,
        /// The digest of what was presented.
        presented: Digest,
        /// Who presented it: an address, or a file left by an earlier join.
        source_of: String,
    },
    /// What came under the right digest is no usable trust bundle.
    #[error("{0}")]
    Root(String),
    /// The cluster refused: the manager's own text.
    #[error("{text}")]
    Refused {
        /// The gRPC code, as its number.
        code: i32,
        /// The status text as received.
        text: String,
    },
    /// No manager answered, or none could be talked to.
    #[error("no manager could be reached: {last} (tried {})", tried.join(", "))]
    NoManager {
        /// The addresses tried.
        tried: Vec<String>,
        /// What the last one did.
        last: String,
    },
    /// The cluster could not sign.
    #[error("the cluster could not issue a certificate: {0}")]
    NotIssued(String),
    /// The certificate received does not hold: chain, key or subject.
    #[error("the certificate received is not valid here: {0}")]
    Certificate(String),
    /// This machine's clock is so far off that certificates do not hold here.
    #[error("{offset}: {text}")]
    Clock {
        /// By how much.
        offset: ClockOffset,
        /// What it broke.
        text: String,
    },
    /// The cluster demands FIPS mode.
    #[error("{FIPS_REQUIRED}")]
    Fips,
    /// The files could not be read or written.
    #[error("{0}")]
    Keystore(String),
}

impl JoinError {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            JoinError::NoAddress => "give the address of a manager, host:port; the port is 2377 by default",
            JoinError::RootMismatch { .. } => {
                "copy the token again from a manager you trust; if it still differs, do not join: somebody may stand in between"
            }
            JoinError::Root(_) => {
                "the cluster's root is not usable (expired, or of a kind not supported); ask its operator"
            }
            JoinError::Refused { code, .. } if *code == 3 => {
                "the token may have been rotated: copy it again (`swarmpki join-token worker` on a manager)"
            }
            JoinError::Refused { text, .. } if is_leaderless(text) => {
                "that manager was reached, and finds no majority of the managers: start those that are down, then join again"
            }
            JoinError::Refused { .. } => "ask the cluster's operator; trying again will not help",
            JoinError::NoManager { .. } => {
                "check the address, that the manager runs, and that port 2377 is open to this machine"
            }
            JoinError::NotIssued(_) => "look at the manager's log: its signing key or external CA does not work",
            JoinError::Certificate(_) => "look at the manager's log, and compare both machines' clocks",
            JoinError::Clock { .. } => SET_THE_CLOCK,
            JoinError::Fips => "run this node in FIPS mode, or join a cluster that does not demand it",
            JoinError::Keystore(_) => "mend the file or directory named, then join again",
        }
    }

    /// Whether trying again helps.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            JoinError::Refused { text, .. } if is_leaderless(text) => Retry::Later,
            JoinError::NoManager { .. } | JoinError::NotIssued(_) => Retry::Later,
            _ => Retry::Never,
        }
    }
}

/// Whether a manager refused because it finds no majority of the managers.
fn is_leaderless(text: &str) -> bool {
    text == Refusal::NoLeader.to_string()
}

/// Why a node could not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The join failed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The directory holds no identity.
    #[error("{dir} holds no node identity")]
    NoIdentity {
        /// The state directory.
        dir: String,
    },
    /// The certificate on disk does not hold.
    #[error("error while loading TLS certificate in {path}: {text}")]
    Certificate {
        /// The certificate file.
        path: String,
        /// Why, in the words of pki.md 4.
        text: String,
    },
    /// The cluster demands FIPS mode.
    #[error("{FIPS_REQUIRED}")]
    Fips,
    /// A file could not be read or written.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// The TLS layer refused the identity.
    #[error("the identity cannot be used for TLS: {0}")]
    Identity(String),
}

impl NodeError {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            NodeError::Join(error) => error.hint().to_owned(),
            NodeError::NoIdentity { .. } => "join a cluster first".to_owned(),
            NodeError::Certificate { .. } | NodeError::Identity(_) => {
                "leave the cluster and join again; if only the clock is wrong, set it".to_owned()
            }
            NodeError::Fips => JoinError::Fips.hint().to_owned(),
            NodeError::Keystore(error) => error.hint(),
        }
    }

    /// Whether trying again helps.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            NodeError::Join(error) => error.retry(),
            _ => Retry::Never,
        }
    }
}
