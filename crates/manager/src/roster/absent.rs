//! What the leader looks after besides: that what is written of a node's presence is so. A word that a node is down may come
//! after the node, or not at all: neither is for good.

use std::collections::BTreeSet;

use cluster::{Command, State};
use pki::identity::NodeId;
use pki::time::Time;

use super::Roster;
use crate::rotate::look::changed;
use crate::sessions::Sessions;

/// Nodes that are called down.
pub struct Absent {
    seen: State,
    down: BTreeSet<NodeId>,
}

impl Absent {
    /// All of them as of now, and none seen yet.
    pub fn of(state: &State) -> Self {
        let down = state.nodes.values().filter(|node| node.down).map(|node| node.id.clone()).collect();
        Self { seen: state.clone(), down }
    }

    /// Those that are in session all the same, with whichever manager: to be written down as up.
    pub fn in_session(&mut self, state: &State, own: &Sessions, others: &Roster, now: Time) -> Vec<Command> {
        self.down.extend(changed(&self.seen, state));
        self.seen = state.clone();
        self.down.retain(|node| state.node(node).is_some_and(|node| node.down));
        let present = self.down.iter().filter(|node| is_present(node, own, others));
        present.map(|node| Command::Presence { node: node.clone(), down: false, seen: now }).collect()
    }
}

/// Nodes that are not called down, and that nobody waits for: they may come to a manager within a grace.
pub fn missing(state: &State, own: &Sessions, others: &Roster) -> Vec<NodeId> {
    let missing = |id: &NodeId| own.row(id).is_none() && others.get(id).is_none();
    state.finished().filter(|node| !node.down && missing(&node.id)).map(|node| node.id.clone()).collect()
}

fn is_present(node: &NodeId, own: &Sessions, others: &Roster) -> bool {
    own.row(node).is_some_and(|row| row.session.is_some()) || others.get(node).is_some()
}
