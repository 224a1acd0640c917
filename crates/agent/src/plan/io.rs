//! What the machine is told and what it asks for.

use std::time::Duration;

use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::identity::Role;
use pki::time::Time;
use serde::{Deserialize, Serialize};

use crate::error::JoinError;

/// A manager: its node id (empty while only an address is known) and its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// The manager's node id; empty if not known yet.
    #[serde(rename = "node_id")]
    pub node: String,
    /// host:port.
    pub addr: String,
}

impl Peer {
    /// A peer of which only the address is known.
    #[must_use]
    pub const fn at(addr: String) -> Self {
        Peer { node: String::new(), addr }
    }
}

/// Why a call or a connection failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Where it failed.
    pub kind: FailureKind,
    /// The text, for people; of a status the manager's own.
    pub text: String,
}

/// Where a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection.
    Connect,
    /// No TLS: the manager's certificate, or ours, was not accepted.
    Tls,
    /// No TLS, because a certificate is not valid at this machine's time.
    TlsTime,
    /// No answer in time.
    Timeout,
    /// A gRPC status.
    Status(tonic::Code),
    /// A failure on this machine.
    Local,
}

impl Failure {
    /// A failure of one kind with its text.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Failure { kind, text: text.into() }
    }

    /// Whether a manager said that this node was removed from the swarm (wire.md 4).
    #[must_use]
    pub fn says_removed(&self) -> bool {
        self.kind == FailureKind::Status(tonic::Code::PermissionDenied) && self.text.contains("was removed from swarm")
    }
}

/// As whom a certificate is asked for.
#[derive(Clone)]
pub enum Caller {
    /// Without a certificate, with the token; the manager must chain to this bundle and be named `swarm-ca`.
    Joiner(TrustBundle),
    /// With the present identity.
    Node,
}

/// The answer to an accepted request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The CSR as it was sent, PEM.
    pub csr: Vec<u8>,
    /// The node's id.
    pub node: String,
}

/// A manager's answer about a request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The issuance state, by its number on the wire (pki.md 6.2).
    pub state: i32,
    /// Why it failed, if it did.
    pub err: String,
    /// The CSR that the answer is about.
    pub csr: Vec<u8>,
    /// Leaf and intermediates, PEM.
    pub chain: Vec<u8>,
}

/// What a node reports of its TLS side (wire.md 6.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsInfo {
    /// The trust bundle's bytes.
    pub trust_root: Vec<u8>,
    /// DER name of the leaf's issuer.
    pub issuer_subject: Vec<u8>,
    /// DER SubjectPublicKeyInfo of the leaf's issuer.
    pub issuer_key: Vec<u8>,
}

/// The machine's clocks. At most one of each runs; starting it again replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The next attempt of a request, or of the root's download.
    Attempt,
    /// The next question about a request.
    Poll,
    /// The next renewal, or a look at whether it is due.
    Renew,
    /// The next session.
    Session,
    /// The end of the wait for a session's first message.
    FirstMessage,
    /// The next heartbeat.
    Heartbeat,
}

/// What the machine is told.
#[derive(Debug)]
pub enum Input {
    /// Get a certificate with the join's facts.
    Join,
    /// Live: hold a session, renew.
    Run,
    /// A timer has run out.
    Timer(Timer),
    /// The root download's end.
    Root(Result<Vec<u8>, Failure>),
    /// What a request for a certificate met.
    Issued {
        /// The request.
        request: u64,
        /// Accepted, or why not.
        result: Result<Accepted, Failure>,
    },
    /// What a question about a request met.
    Answered {
        /// The request.
        request: u64,
        /// The answer, or why there is none.
        result: Result<Answer, Failure>,
    },
    /// The unlock key was fetched, or not. The shell keeps it for the installation.
    Unlocked {
        /// The request.
        request: u64,
        /// Why not.
        result: Result<(), Failure>,
    },
    /// A certificate was written and published, or not.
    Installed {
        /// The request.
        request: u64,
        /// Why not.
        result: Result<(), Failure>,
    },
    /// A trust bundle was written and published, or not.
    TrustSaved(Result<(), Failure>),
    /// A session's connection stands and the call was made.
    SessionDialed {
        /// The session.
        session: u64,
    },
    /// A message of a session.
    Message {
        /// The session.
        session: u64,
        /// The message.
        message: Box<wire::proto::SessionMessage>,
    },
    /// A session, or what belongs to it, has ended.
    SessionEnded {
        /// The session.
        session: u64,
        /// Why.
        failure: Failure,
    },
    /// What a heartbeat met.
    Heartbeat {
        /// The session.
        session: u64,
        /// The period to the next, or why it failed.
        result: Result<Duration, Failure>,
    },
    /// A manager told its time.
    Clock {
        /// The manager's clock minus ours, in milliseconds.
        offset_ms: i64,
        /// The manager's time if it was told by a verified manager: proof that this time has passed.
        proven: Option<Time>,
    },
    /// Somebody asks for a renewal now.
    RenewNow,
    /// The manager on this machine is at this address; none: there is none.
    Seated(Option<String>),
    /// Somebody says that a manager is at this address.
    ManagerTold(String),
    /// What the node reports has changed: report it anew.
    Redescribe,
}

/// What the machine asks for. Effects are carried out in their order.
pub enum Effect {
    /// Download the root from this manager, unverified. Answer: [`Input::Root`].
    FetchRoot {
        /// Whom to ask.
        peer: Peer,
    },
    /// Write the trust bundle, then publish it. Answer, before anything else: [`Input::TrustSaved`].
    SaveTrust(TrustBundle),
    /// Ask for a certificate; the first time for this request make its key and CSR, later send the same.
    /// Answer: [`Input::Issued`].
    Issue {
        /// The request.
        request: u64,
        /// Whom to ask.
        peer: Peer,
        /// As whom.
        caller: Caller,
    },
    /// Ask what has become of a request, on its connection if that still stands. Answer: [`Input::Answered`].
    Poll {
        /// The request.
        request: u64,
        /// Whom to ask.
        peer: Peer,
        /// As whom.
        caller: Caller,
        /// The node's id.
        node: String,
    },
    /// Fetch the unlock key with the new identity. Answer: [`Input::Unlocked`].
    FetchUnlockKey {
        /// The request.
        request: u64,
        /// Whom to ask.
        peer: Peer,
        /// The new chain.
        chain: Vec<Certificate>,
        /// The bundle that the manager must chain to.
        trust: TrustBundle,
    },
    /// Write the pair, then publish it. Answer, before anything else: [`Input::Installed`].
    Install {
        /// The request, whose key it is.
        request: u64,
        /// Leaf and intermediates.
        chain: Vec<Certificate>,
        /// The role in the leaf: a worker's key is never sealed.
        role: Role,
        /// The time at which the chain holds.
        at: Time,
    },
    /// A request is over: forget its key and close its connection.
    Forget {
        /// The request.
        request: u64,
    },
    /// Open a session. Answers: [`Input::SessionDialed`], [`Input::Message`], [`Input::SessionEnded`].
    OpenSession {
        /// The session.
        session: u64,
        /// With whom.
        peer: Peer,
        /// The id of the session before.
        session_id: String,
        /// What to report.
        tls: TlsInfo,
    },
    /// Send a heartbeat. Answer: [`Input::Heartbeat`].
    Beat {
        /// The session.
        session: u64,
        /// Its id at the manager.
        session_id: String,
    },
    /// Ask the session's manager for its time. Answer: [`Input::Clock`], or nothing.
    AskClock {
        /// The session.
        session: u64,
    },
    /// Ask a manager for its time without verifying it: for display only. Answer: [`Input::Clock`], or nothing.
    AskClockUnverified {
        /// Whom to ask.
        peer: Peer,
    },
    /// Close a session's connection.
    CloseSession {
        /// The session.
        session: u64,
    },
    /// Start a timer.
    Start(Timer, Duration),
    /// Stop a timer.
    Stop(Timer),
    /// Write the list of managers.
    SaveManagers(Vec<Peer>),
    /// Write the time that is proven to have passed.
    SaveFloor(Time),
    /// The node has a certificate.
    Joined,
    /// The join has failed for good.
    JoinFailed(JoinError),
    /// The cluster wants the node to have this role; a renewal is on its way.
    RoleWanted(Role),
    /// The node holds a certificate of another role than before.
    RoleChanged(Role),
    /// The cluster has removed the node. The machine has stopped.
    Removed {
        /// The manager's words.
        text: String,
    },
}
