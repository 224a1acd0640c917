//! What is known of the last rotation when it has ended, and who it left behind for good.

use pki::certificate::Certificate;
use pki::identity::NodeId;
use pki::time::Time;

use crate::node::{BlobDigest, Leaf, Node};
use crate::rotation::Rotation;
use crate::state::State;

/// Nodes that are named of those that were put aside.
pub const ENDED_ASIDE_MAX: usize = 100;

/// A rotation that has ended: kept until the next one has.
///
/// Stored since format 1: change only with a sample in testdata/state/.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Log index of the entry that began it, or turned it.
    pub id: u64,
    /// The root that was left.
    pub from: BlobDigest,
    /// The root that was gone to.
    pub to: BlobDigest,
    /// Whether it was aborted.
    pub back: bool,
    /// Whether the old key was taken for stolen.
    pub emergency: bool,
    /// When it began, by the clock of whoever led then.
    pub started: Time,
    /// When it ended, likewise.
    pub ended: Time,
    /// Nodes that were put aside and had not come along at the end: the first of them, in order.
    pub aside: Vec<NodeId>,
    /// How many those were.
    pub aside_count: u64,
}

impl Ended {
    pub(crate) fn of(rotation: &Rotation, ended: Time) -> Self {
        Self {
            id: rotation.id,
            from: rotation.from().trust,
            to: rotation.to().trust,
            back: rotation.back,
            emergency: rotation.is_emergency(),
            started: rotation.started,
            ended,
            aside: rotation.aside.iter().take(ENDED_ASIDE_MAX).cloned().collect(),
            aside_count: u64::try_from(rotation.aside.len()).unwrap_or(u64::MAX),
        }
    }
}

impl State {
    /// Whether a node cannot come back by itself: the root of every leaf it has is no member's any more, and nothing is kept that
    /// would lead it to the one of now. It has to join anew, and a rotation waits for it until its record is removed.
    pub fn is_left_behind(&self, node: &Node) -> bool {
        let present = |leaf: &Leaf| self.roots.in_use().any(|root| root.issuer == leaf.issuer);
        let Some(current) = node.current.as_ref().filter(|_| node.unfinished.is_none()) else { return false };
        if node.leaves().any(present) {
            return false;
        }
        let anchor = self.roots.stragglers().iter().find(|anchor| anchor.issuer == current.issuer);
        anchor.is_none_or(|anchor| anchor.ladder.is_empty() && !self.trusts_us(node))
    }

    /// Whether a node says that it trusts a bundle that one of the present roots is in.
    fn trusts_us(&self, node: &Node) -> bool {
        let held = node.report.as_ref().and_then(|report| self.blob(&report.trust));
        let held = held.map(|pem| Certificate::parse_pem_bundle(pem).unwrap_or_default()).unwrap_or_default();
        self.roots.in_use().any(|root| root.certificates.iter().any(|own| held.contains(own)))
    }
}
