//! What travels between a machine and the manager.

use std::sync::Arc;

use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use swarmpki::plan::{Failure, Input, TlsInfo};
use wire::status::Refusal;

use crate::signer::Key;

/// A connection, numbered over the whole run.
pub type ConnId = u64;

/// What a machine proves itself with.
#[derive(Clone)]
pub struct Identity {
    /// Leaf first.
    pub chain: Vec<Certificate>,
    /// The leaf's key.
    pub key: Arc<Key>,
    /// What it verifies others with.
    pub trust: TrustBundle,
}

/// As whom a connection is made.
#[derive(Clone)]
pub enum Who {
    /// Nobody, verifying nothing.
    Stranger,
    /// Nobody, verifying the manager.
    Joiner(TrustBundle),
    /// A node.
    Node(Identity),
}

/// One call of a machine, on a connection that is made with it if it does not stand yet.
#[derive(Clone)]
pub struct Packet {
    /// Which machine.
    pub machine: usize,
    /// Which of its lives; [`u32::MAX`] for a copy, whose answers go to nobody.
    pub boot: u32,
    /// On which connection.
    pub conn: ConnId,
    /// As whom, if the connection has to be made; none: it stood when the call was sent.
    pub dial: Option<Who>,
    /// The machine's time, by which it judges the manager's certificate.
    pub at: pki::time::Time,
    /// The call.
    pub call: Call,
}

/// A call.
#[derive(Clone)]
pub enum Call {
    /// `GetRootCACertificate`.
    Root,
    /// `IssueNodeCertificate`.
    Issue {
        /// The machine's number for it.
        request: u64,
        /// The CSR, PEM.
        csr: Vec<u8>,
        /// The join token; empty: none.
        token: Arc<str>,
    },
    /// `NodeCertificateStatus`.
    Status {
        /// The machine's number for the request.
        request: u64,
        /// The node's id.
        node: String,
    },
    /// `GetUnlockKey`.
    UnlockKey {
        /// The machine's number for the request.
        request: u64,
    },
    /// `Session`.
    Session {
        /// The machine's number for it.
        session: u64,
        /// The id of the one before.
        session_id: String,
        /// What is reported.
        tls: TlsInfo,
        /// The host name reported.
        hostname: String,
    },
    /// `Heartbeat`.
    Beat {
        /// The machine's number for the session.
        session: u64,
        /// Its id at the manager.
        session_id: String,
    },
    /// `Clock`.
    Clock {
        /// Whether the manager was verified.
        verified: bool,
        /// The machine's clock when it asked.
        asked: pki::time::Time,
    },
}

impl Call {
    /// What a machine is told when the call fails.
    pub fn failed(&self, failure: Failure) -> Option<Input> {
        Some(match self {
            Self::Root => Input::Root(Err(failure)),
            Self::Issue { request, .. } => Input::Issued { request: *request, result: Err(failure) },
            Self::Status { request, .. } => Input::Answered { request: *request, result: Err(failure) },
            Self::UnlockKey { request } => Input::Unlocked { request: *request, result: Err(failure) },
            Self::Session { session, .. } => Input::SessionEnded { session: *session, failure },
            Self::Beat { session, .. } => Input::Heartbeat { session: *session, result: Err(failure) },
            Self::Clock { .. } => return None,
        })
    }

    /// Whether its connection is made for it alone.
    pub const fn is_alone(&self) -> bool {
        matches!(self, Self::Root | Self::UnlockKey { .. } | Self::Clock { verified: false, .. })
    }

    /// Whether a refusal of this call may be for want of what other managers know.
    pub fn looks_again(&self, refusal: &Refusal) -> bool {
        match self {
            Self::Issue { .. } => {
                matches!(refusal, Refusal::TokenRefused | Refusal::Peer(_)) || refusal.is_of_limited_token()
            }
            Self::Status { .. } => matches!(refusal, Refusal::CertificateMissing),
            _ => false,
        }
    }

    /// For the trace.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issue { .. } => "issue",
            Self::Status { .. } => "status",
            Self::UnlockKey { .. } => "unlock-key",
            Self::Session { .. } => "session",
            Self::Beat { .. } => "beat",
            Self::Clock { .. } => "clock",
        }
    }
}
