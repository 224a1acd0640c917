//! A cluster that was off for longer than its certificates live. Rules:
//! - it slept if an entry is stamped later than the end of every leaf that any of its managers was ever given: nobody can have
//!   renewed meanwhile, as none of them could have signed;
//! - from then on, for a while, every node on record may come back with the leaf that it has, however long ago that ended: to renew
//!   it, and for nothing else. Who was removed is not on record;
//! - members of the raft group may always: without them nobody could.

use std::time::Duration;

use pki::time::Time;

use crate::node::{Leaf, Node, Registered};
use crate::state::State;

/// The shortest time for coming back.
pub const COMEBACK_MIN: Duration = Duration::from_secs(24 * 60 * 60);

/// How far a manager's clock may be behind the leader's that saw the cluster wake up. Ours: what leaves are backdated by.
const CLOCK_SLACK: Duration = Duration::from_secs(60 * 60);

/// The time in which nodes may come back to a cluster that slept.
///
/// Stored since format 1: change only with a sample in testdata/state/.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comeback {
    /// When the cluster woke up.
    pub since: Time,
    /// When it ends.
    pub until: Time,
}

impl Comeback {
    /// Whether nodes may come back at `now`. Not before it began either: then a clock was wrong that was set right since.
    pub fn is_open(&self, now: Time) -> bool {
        self.since <= now.saturating_add(CLOCK_SLACK) && now < self.until
    }
}

impl State {
    /// Looks whether the cluster slept until an entry with this stamp.
    pub(crate) fn wake(&mut self, stamp: Time) {
        let leaves_end = |id| self.nodes.get(id).map(|node| node.leaves_end);
        let slept = self.members.rows.keys().filter_map(leaves_end).max().is_some_and(|end| end < stamp);
        if slept && !self.comes_back(stamp) {
            let until = stamp.saturating_add(self.settings.leaf_life().max(COMEBACK_MIN));
            self.comeback = Some(Comeback { since: stamp, until });
        }
    }

    /// Whether the cluster slept, and its nodes have time to come back.
    pub fn comes_back(&self, now: Time) -> bool {
        self.comeback.is_some_and(|comeback| comeback.is_open(now))
    }

    /// Whether a node may renew a leaf that has ended.
    pub(crate) fn forgives(&self, node: &Node, leaf: &Leaf, registered: Registered, now: Time) -> bool {
        let member = self.members.rows.contains_key(&node.id);
        registered.is_present() && (now < leaf.forgiven_until() || member || self.comes_back(now))
    }
}
