//! How far a rotation is with each node, and with all of them.

use crate::node::{BlobDigest, IssuerHash, Leaf, Node};
use crate::roots::Roots;
use crate::rotation::{Phase, Rotation};
use crate::state::State;

/// What a node still needs for the present phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The bundle that the phase hands out.
    Trust,
    /// A leaf of the key that signs now.
    Renewal,
}

/// Numbers of a rotation's progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nodes that the phase waits for, done or not.
    pub required: usize,
    /// Those of them that have done their part.
    pub done: usize,
    /// Nodes put aside.
    pub aside: usize,
}

/// What the roots want of a node now, whether they wait for it or not. While no root is being replaced that is nothing,
/// or, for a node that was away, what it missed.
pub fn need(roots: &Roots, node: &Node) -> Option<Need> {
    if node.unfinished.is_some() {
        return None;
    }
    match roots {
        Roots::None => None,
        Roots::Stable { root, .. } => wants(node, &root.issuer, Some(&root.trust)),
        Roots::Rotating(rotation) => rotation.need(node),
    }
}

fn wants(node: &Node, issuer: &IssuerHash, trust: Option<&BlobDigest>) -> Option<Need> {
    // What was issued since its current leaf it may hold already, and use it at any moment.
    let other = |leaf: &Leaf| leaf.issuer != *issuer;
    if node.current.as_ref().is_none_or(other) || node.offered.iter().any(other) {
        return Some(Need::Renewal);
    }
    let trust = trust?;
    node.report.as_ref().is_none_or(|report| report.trust != *trust).then_some(Need::Trust)
}

impl Rotation {
    /// What the present phase wants of a node.
    pub fn need(&self, node: &Node) -> Option<Need> {
        let reported = node.report.as_ref().map(|report| report.trust);
        let trusts = |bytes: &[u8]| reported == Some(BlobDigest::of(bytes));
        let bare = || node.current.iter().chain(&node.offered).any(|leaf| self.bare.contains(&leaf.serial));
        if self.phase != Phase::Widen && !self.bare.is_empty() && bare() {
            return Some(Need::Renewal);
        }
        match (self.phase, self.bundle()) {
            (Phase::Widen, Some(bundle)) => (!trusts(bundle)).then_some(Need::Trust),
            (Phase::Widen, None) => None,
            (Phase::Renew, _) => wants(node, &self.to().issuer, None),
            (Phase::Trust, _) => wants(node, &self.to().issuer, Some(&self.to().trust)),
        }
    }

    /// Whether the present phase waits for a node: it has used a leaf, and is not put aside. One that joined meanwhile holds
    /// the root that joiners get, so it is waited for like the others.
    pub fn requires(&self, node: &Node) -> bool {
        node.unfinished.is_none() && !self.aside.contains(&node.id)
    }

    /// Whether the present phase waits for a node that has not done its part.
    pub fn blocks(&self, node: &Node) -> bool {
        self.requires(node) && self.need(node).is_some()
    }
}

impl State {
    /// The rotation under way.
    pub fn rotation(&self) -> Option<&std::sync::Arc<Rotation>> {
        match &self.roots {
            Roots::Rotating(rotation) => Some(rotation),
            Roots::None | Roots::Stable { .. } => None,
        }
    }

    /// How far the rotation under way is with all nodes.
    pub fn progress(&self) -> Option<Progress> {
        let rotation = self.rotation()?;
        let mut progress = Progress { aside: rotation.aside.len(), ..Progress::default() };
        for node in self.finished().filter(|node| rotation.requires(node)) {
            progress.required += 1;
            progress.done += usize::from(rotation.need(node).is_none());
        }
        Some(progress)
    }
}
