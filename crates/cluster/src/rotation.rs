//! The replacement of the root: what is left, what is gone to, how one leads to the other, and how far it is.
//!
//! ```text
//! with a ladder   Renew ──► Trust ──► finished        leaves of the new key carry the new root, certified by the old one
//! with a bundle   Widen ──► Renew ──► Trust ──► finished     every node trusts both roots before any leaf changes
//! aborted         the same phases back, from the root that was gone to, to the one that was left
//! ```
//!
//! Rules:
//! - any two nodes that are up can verify each other at every step;
//! - a phase ends when every node it needs has done its part, or was put aside;
//! - what a node proves counts, by a leaf it used: only which root it trusts has to be believed, and a lie there locks
//!   out nobody but the liar;
//! - until the last entry joiners get the root they would have got before, and one entry changes root, tokens and all.

mod change;
mod ended;
mod progress;

use std::sync::Arc;
use std::time::Duration;

use imbl::OrdSet;
use pki::certificate::Certificate;
use pki::identity::NodeId;
use pki::serial::Serial;
use pki::time::Time;

pub use self::change::{Abort, Advance, RootsChange, STRAGGLERS_MAX, Start, steps_to};
pub use self::ended::{ENDED_ASIDE_MAX, Ended};
pub use self::progress::{Need, Progress, need};
use crate::node::{BlobDigest, Node};
use crate::roots::{Root, StragglerAnchor};

/// Time that a phase has at least, when the deadline of the whole had passed before it began.
pub const PHASE_TIME_MIN: Duration = Duration::from_secs(10);

/// Phases kept in the history of one rotation; a rotation that is aborted and replaced over and over forgets its first.
pub const HISTORY_MAX: usize = 64;

/// A rotation that is under way.
///
/// Stored since format 1: change only with a sample in testdata/state/.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Log index of the entry that began it, or turned it: what a step names to say which rotation it means.
    pub id: u64,
    /// The root of the cluster when it began.
    pub old: Arc<Root>,
    /// The root that is to replace it.
    pub new: Arc<Root>,
    /// Whether it was aborted: then it leads back to the old root.
    pub back: bool,
    /// How leaves of the one are verified by holders of the other.
    pub way: Way,
    /// How far it is.
    pub phase: Phase,
    /// Since when it is in this phase, by the clock of whoever led then: not the cluster's time, which stands still while a
    /// clock that was set back catches up. So it may lie before the beginning of the phase before; never after the clock of
    /// the leader's last entry.
    pub since: Time,
    /// When it began, by the same clock.
    pub started: Time,
    /// The phases before this one, each with its beginning, by the same clock.
    pub history: Vec<(Phase, Time)>,
    /// What happens with nodes that do not come along.
    pub policy: Policy,
    /// Nodes that are not waited for.
    pub aside: OrdSet<NodeId>,
    /// Roots that were gone to and given up on the way; nodes may still hold their leaves. With their keys if nodes may trust
    /// them alone: what leads there is made anew with them.
    pub passed: Vec<Arc<Root>>,
    /// Trust bundles beside the old root's that nodes were told to hold alone, by digest: some may hold them still.
    pub given: OrdSet<BlobDigest>,
    /// Leaves that lead to none but the roots of an earlier time, by serial: those that were out when nodes were given a root
    /// that was then given up. Their holders may only come back.
    pub bare: OrdSet<Serial>,
    /// Steps from where the ladder ends on to the old root, where that is not the end: what late nodes of earlier rotations
    /// need between the ladder and their own.
    pub onward: Vec<Certificate>,
    /// Whether joiners get the new root already.
    pub handed_over: bool,
    /// Old roots of earlier rotations, as seen from the old root.
    pub stragglers: Vec<StragglerAnchor>,
}

/// How leaves of the one root are verified by holders of the other.
#[derive(Clone, Debug)]
pub enum Way {
    /// Every leaf carries these: the first certifies the root that is gone to, each further one its issuer. Every root that
    /// a node may still trust has certified one of them.
    Ladder(Vec<Certificate>),
    /// Every node is made to trust these roots first, PEM.
    Bundle(Arc<[u8]>),
}

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nodes are given a bundle of both roots.
    Widen,
    /// Nodes are told to renew: the new key signs.
    Renew,
    /// Nodes are given the root that is gone to, alone.
    Trust,
}

impl Phase {
    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Widen => "widen",
            Self::Renew => "renew",
            Self::Trust => "trust",
        }
    }
}

/// What happens with nodes that do not come along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They are waited for, as docker does.
    WaitForAll,
    /// They are put aside at this time, and come back by themselves later.
    Deadline(Time),
    /// The old key is stolen: each phase has this time, and who misses the first comes back by token only.
    Emergency {
        /// Time for each phase.
        bound: Duration,
    },
}

impl Rotation {
    /// The root that is gone to.
    pub fn to(&self) -> &Arc<Root> {
        if self.back { &self.old } else { &self.new }
    }

    /// The root that is left.
    pub fn from(&self) -> &Arc<Root> {
        if self.back { &self.new } else { &self.old }
    }

    /// The root whose key signs now.
    pub fn signing(&self) -> &Arc<Root> {
        match self.phase {
            Phase::Widen => self.from(),
            Phase::Renew | Phase::Trust => self.to(),
        }
    }

    /// The root that joiners get, and that the tokens name.
    pub fn served(&self) -> &Arc<Root> {
        if self.handed_over { &self.new } else { &self.old }
    }

    /// Every root whose leaves are those of members.
    pub fn roots(&self) -> impl Iterator<Item = &Arc<Root>> {
        [&self.old, &self.new].into_iter().chain(&self.passed)
    }

    /// The roots that members may hold alone.
    pub fn trusted(&self) -> impl Iterator<Item = &Arc<Root>> {
        let given = self.roots().skip(1).filter(|root| self.given.contains(&root.trust));
        std::iter::once(&self.old).chain(given)
    }

    /// Whether a node that reports this trust bundle verifies every member's leaf.
    pub(crate) fn holds(&self, trust: BlobDigest) -> bool {
        self.trusted().chain([self.to()]).any(|root| root.trust == trust)
            || self.bundle().is_some_and(|bundle| BlobDigest::of(bundle) == trust)
    }

    /// What cannot be together, if anything is: a snapshot that says so was not written by us.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        let bundle = self.bundle().is_some();
        let unknown = |trust: &BlobDigest| self.roots().all(|root| root.trust != *trust);
        if self.old.issuer == self.new.issuer {
            Some("from a root to itself")
        } else if self.phase == Phase::Widen && !bundle {
            Some("a bundle is handed out where there is none")
        } else if self.is_emergency() && (self.back || !bundle || !self.handed_over) {
            Some("an emergency with a way back")
        } else if self.handed_over && !bundle {
            Some("handed over where nodes hold the old root")
        } else if self.given.iter().any(unknown) {
            Some("a root was given that is none of its")
        } else if self.history.len() > HISTORY_MAX {
            Some("too long a history")
        } else {
            None
        }
    }

    /// The certificates that every leaf carries now, after the intermediates of its own root.
    pub fn ladder(&self) -> &[Certificate] {
        match &self.way {
            Way::Ladder(ladder) => ladder,
            Way::Bundle(_) => &[],
        }
    }

    /// The bundle of both roots, if that is the way.
    pub fn bundle(&self) -> Option<&Arc<[u8]>> {
        match &self.way {
            Way::Ladder(_) => None,
            Way::Bundle(bundle) => Some(bundle),
        }
    }

    /// Whether the old key is taken for stolen.
    pub fn is_emergency(&self) -> bool {
        matches!(self.policy, Policy::Emergency { .. })
    }

    /// Whether new nodes have to wait: while the bundle is being handed out, nobody who joins could be told in time.
    pub fn holds_joins(&self) -> bool {
        self.phase == Phase::Widen
    }

    /// The trust bundle to be sent to a node: `pushed` says whether it is its turn to change. Nobody is sent back to a
    /// root that it has left behind.
    pub fn trust_for(&self, node: &Node, pushed: bool) -> &[u8] {
        let reported = node.report.as_ref().map(|report| report.trust);
        let alone = reported.is_some_and(|trust| self.roots().any(|root| root.trust == trust));
        match (self.phase, self.bundle()) {
            // Who holds a bundle already, maybe the one of the way there, must not be left with one root meanwhile.
            (Phase::Widen, Some(bundle)) if pushed || !alone => return bundle,
            // Who missed the bundle, or joined since, needs it at once.
            (Phase::Renew, Some(bundle)) => return bundle,
            (Phase::Trust, _) if pushed => return &self.to().bundle,
            (Phase::Trust, Some(bundle)) if reported.is_some_and(|trust| trust != self.to().trust) => return bundle,
            (Phase::Widen | Phase::Renew | Phase::Trust, _) => {}
        }
        let held = reported.and_then(|trust| self.roots().find(|root| root.trust == trust));
        held.map_or(self.served().bundle.as_slice(), |root| root.bundle.as_slice())
    }

    /// When the present phase ends at the latest, if it does.
    pub fn phase_ends(&self) -> Option<Time> {
        match self.policy {
            Policy::WaitForAll => None,
            Policy::Deadline(at) if self.history.is_empty() => Some(at),
            Policy::Deadline(at) => Some(at.max(self.since.saturating_add(PHASE_TIME_MIN))),
            Policy::Emergency { bound } => Some(self.since.saturating_add(bound)),
        }
    }

    /// The phase after this one; none: it is the last.
    pub fn next_phase(&self) -> Option<Phase> {
        match self.phase {
            Phase::Widen => Some(Phase::Renew),
            Phase::Renew => Some(Phase::Trust),
            Phase::Trust => None,
        }
    }
}
