//! What a node says about itself, for people and for programs that wait for it.

use std::sync::Arc;

use pki::identity::{ClusterId, NodeId, Role};
use pki::time::Time;

use crate::clock::ClockOffset;
use crate::error::Retry;
use crate::plan::Peer;
use crate::witness::Witness;

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// It has no certificate yet and asks for one.
    Joining,
    /// It has a certificate and no session with a manager.
    #[default]
    Connecting,
    /// A manager serves its session.
    Ready,
    /// As `Ready` or `Connecting`, while a new certificate is on its way.
    Renewing,
    /// The cluster removed it. Final: it does not come back by itself.
    Removed,
    /// Its certificate has ended. It goes on asking for a new one, which a manager may grant for a while.
    Expired,
    /// It gave up; [`Status::last_error`] says why. Final.
    Failed,
}

impl Phase {
    /// Whether the node has stopped for good.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Phase::Removed | Phase::Failed)
    }

    /// The word for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Joining => "joining",
            Phase::Connecting => "connecting",
            Phase::Ready => "ready",
            Phase::Renewing => "renewing",
            Phase::Removed => "removed",
            Phase::Expired => "expired",
            Phase::Failed => "failed",
        }
    }
}

/// What went wrong last, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// When, by the node's own clock.
    pub at: Time,
    /// What happened.
    pub text: String,
    /// What to do.
    pub hint: String,
    /// Whether the node tries again by itself.
    pub retry: Retry,
}

/// A node's state at one moment. Read it with [`crate::Node::status`], which also tells of every change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Where the node stands.
    pub phase: Phase,
    /// Its id, once it has one.
    pub node: Option<NodeId>,
    /// The cluster it belongs to.
    pub cluster: Option<ClusterId>,
    /// The role in its certificate.
    pub role: Option<Role>,
    /// The role that the cluster wants it to have, if a manager has told.
    pub desired_role: Option<Role>,
    /// The managers it knows, by node id.
    pub managers: Vec<Peer>,
    /// The manager that serves its session.
    pub connected: Option<Peer>,
    /// Since when that session stands.
    pub session_since: Option<Time>,
    /// The last problem; cleared when a session stands and no renewal is overdue.
    pub last_error: Option<Trouble>,
    /// The managers' clock minus this machine's, as far as known. An engine tells none: its clock is only estimated, and
    /// shown only while that estimate is far off.
    pub clock_offset: Option<ClockOffset>,
    /// By how many milliseconds this machine's clock stands before a time that is proven to have passed.
    pub clock_behind_floor_ms: Option<u64>,
    /// The end of the certificate.
    pub not_after: Option<Time>,
    /// When the next renewal is due.
    pub renew_at: Option<Time>,
    /// How many certificates were installed since the start; a change means that the identity rotated.
    pub installed: u64,
    /// What it keeps of the cluster's issuance log.
    pub witness: Arc<Witness>,
}
