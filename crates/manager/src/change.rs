//! What a change of the replicated state means for sessions and connections. What two successive states share costs nothing
//! to compare.

use std::collections::{BTreeMap, BTreeSet};

use cluster::State;
use imbl::ordmap::DiffItem;
use pki::identity::NodeId;
use wire::status::{Refusal, Unauthorized};

/// The difference between two states, as far as it concerns those who are connected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Nodes whose record changed.
    pub changed: BTreeSet<NodeId>,
    /// Nodes that were issued another certificate, here or by another manager.
    pub issued: BTreeSet<NodeId>,
    /// Nodes whose connections are to be let go, each with what it is told.
    pub cut: BTreeMap<NodeId, Refusal>,
    /// Nodes that are no longer of this cluster.
    pub removed: BTreeSet<NodeId>,
    /// Whether every session's message changed.
    pub everybody: bool,
}

impl Change {
    /// What has changed from `before` to `after`.
    pub fn between(before: &State, after: &State) -> Self {
        let mut change = Self::default();
        for item in before.nodes.diff(&after.nodes) {
            match item {
                DiffItem::Add(_, _) => {}
                DiffItem::Update { old: (id, old), new: (_, new) } => {
                    if old.cut != new.cut {
                        let node = id.clone();
                        let revoked = after.is_revoked(new) && !before.is_revoked(old);
                        let withdrawn = Unauthorized::Withdrawn { node: node.clone() };
                        change.cut(id, if revoked { Unauthorized::Revoked { node } } else { withdrawn });
                    }
                    if new.offered.last().is_some_and(|leaf| !old.offered.contains(leaf)) {
                        change.issued.insert(id.clone());
                    }
                    change.changed.insert(id.clone());
                }
                DiffItem::Remove(id, _) => {
                    change.cut(id, Unauthorized::Removed { node: id.clone() });
                    change.removed.insert(id.clone());
                }
            }
        }
        let [old, new] = [before, after].map(|state| state.roots.served().map(|root| &root.bundle));
        change.everybody = !before.managers().eq(after.managers()) || old != new;
        change
    }

    fn cut(&mut self, node: &NodeId, reason: Unauthorized) {
        self.cut.insert(node.clone(), Refusal::Peer(reason));
    }
}
