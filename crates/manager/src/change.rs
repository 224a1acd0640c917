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
                // It may have been in session before anybody looked, and more may have happened since. A state that comes whole tells of no
                // change.
                DiffItem::Add(id, new) => {
                    if new.cut > 0 && before.cluster.is_some() {
                        change.cut(id, let_go(id, after.is_revoked(new)));
                    }
                    change.changed.insert(id.clone());
                }
                DiffItem::Update { old: (id, old), new: (_, new) } => {
                    if old.cut != new.cut {
                        change.cut(id, let_go(id, after.is_revoked(new) && !before.is_revoked(old)));
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
        // One that came and went between two looks is in none of them.
        for item in before.removals.diff(&after.removals) {
            if let DiffItem::Add(id, _) = item {
                change.cut(id, Unauthorized::Removed { node: id.clone() });
                change.removed.insert(id.clone());
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

/// What a node is told whose connections are let go while it stays.
fn let_go(node: &NodeId, revoked: bool) -> Unauthorized {
    let node = node.clone();
    if revoked { Unauthorized::Revoked { node } } else { Unauthorized::Withdrawn { node } }
}

#[cfg(test)]
mod tests {
    use cluster::Command;

    use super::*;
    use crate::rotate::fixture::Fixture;

    #[test]
    fn c153_a_node_that_came_and_went_between_two_looks_is_cut_off() {
        let mut fixture = Fixture::new();
        let before = fixture.state.clone();
        let node = fixture.node(1, true);
        let there = fixture.state.clone();
        fixture.apply(Command::RemoveNode { node: node.clone(), force: true, ready: true });
        let told = Refusal::Peer(Unauthorized::Removed { node: node.clone() });
        for looked in [&before, &there] {
            let change = Change::between(looked, &fixture.state);
            assert_eq!(change.removed, BTreeSet::from([node.clone()]));
            assert_eq!(change.cut, BTreeMap::from([(node.clone(), told.clone())]));
        }
        assert_eq!(Change::between(&fixture.state, &fixture.state), Change::default());
    }
}
