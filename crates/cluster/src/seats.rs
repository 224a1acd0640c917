//! What the leader does next about the members of the raft group: a function of the state, of the group as raft has it, and
//! of the time. Doing a step twice does no harm; when nothing is left to do there are no steps.
//!
//! ```text
//! promoted ──► enlisted ──► learner ──► voter ──► manager          any step missed: it is made from what is there
//!    └─────── its time passed ──► out of the group ──► worker
//! manager ──► demoted ──► [the lead is handed over] ──► out of the group ──► worker
//! ```
//!
//! Rules:
//! - nobody votes before it has caught up, and nobody is a manager before it votes;
//! - a manager leaves the group first and is a worker then: until it is out, the others need its voice;
//! - no voter is taken out if those that are left, as far as they can be reached, are not a majority of themselves;
//! - one change of the group at a time;
//! - a look costs nothing for nodes that neither are managers nor are to be: a leader looks after every entry.

use std::collections::{BTreeMap, BTreeSet};

use imbl::ordmap::DiffItem;
use pki::identity::{NodeId, Role};
use pki::time::Time;

use crate::command::Command;
use crate::node::Node;
use crate::state::State;

/// A learner that lacks fewer entries than this may vote.
pub const CAUGHT_UP: u64 = 1_000;

/// How the leader sees the other members: entries that each lacks, and whether it answers.
pub type Progress = BTreeMap<u64, (u64, bool)>;

/// One thing to do.
#[derive(Clone, Debug)]
pub enum SeatStep {
    /// To be proposed.
    Propose(Command),
    /// To be changed in the raft group.
    Change(Change),
}

/// A change of the raft group, by the numbers of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It gets the log, and has no vote.
    AddLearner(u64),
    /// The learner gets a vote.
    Promote(u64),
    /// It is a member no more.
    Remove(u64),
    /// It leads from now on.
    HandOver(u64),
}

/// Whether the voters that are left without `id` are a majority of themselves, as far as they can be reached (engine-api.md 6.12).
pub fn quorum_remains(voters: &BTreeSet<u64>, progress: &Progress, own: u64, id: u64) -> bool {
    let left = || voters.iter().filter(|voter| **voter != id);
    let here = |voter: &&u64| **voter == own || progress.get(voter).is_some_and(|(_, reachable)| *reachable);
    left().count() > 0 && left().filter(here).count() > left().count() / 2
}

/// The nodes that have to do with the group: those that are managers, or are to be. Kept from state to state, what did not change
/// costs nothing.
pub struct Candidates {
    seen: State,
    nodes: BTreeSet<NodeId>,
}

impl Candidates {
    /// Those of a state; every node is looked at.
    pub fn of(state: &State) -> Self {
        let candidates = state.nodes.values().filter(|node| node.is_or_will_be_manager());
        Self { nodes: candidates.map(|node| node.id.clone()).collect(), seen: state.clone() }
    }

    /// Those of a later state, or of any other; only the nodes in which the two differ are looked at.
    pub fn follow(&mut self, state: &State) {
        for item in self.seen.nodes.diff(&state.nodes) {
            match item {
                DiffItem::Add(_, node) | DiffItem::Update { new: (_, node), .. } if node.is_or_will_be_manager() => {
                    self.nodes.insert(node.id.clone());
                }
                DiffItem::Add(id, _) | DiffItem::Update { new: (id, _), .. } | DiffItem::Remove(id, _) => {
                    self.nodes.remove(id);
                }
            }
        }
        self.seen = state.clone();
    }

    /// The nodes, and whoever has a place among the members.
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        let placed = self.seen.members.rows.keys().filter(|id| !self.nodes.contains(*id));
        self.nodes.iter().chain(placed).filter_map(|id| self.seen.node(id)).map(AsRef::as_ref)
    }
}

/// What the leader `own` does next. The steps in their order; at most one of them is a [`Change`]. The group has to be read
/// after the state: a manager that an older group does not know yet would be taken for one that is out of it. A leader that is
/// no voter, as far as is known here, does nothing.
pub fn next(
    candidates: &Candidates,
    voters: &BTreeSet<u64>,
    learners: &BTreeSet<u64>,
    progress: &Progress,
    own: u64,
    now: Time,
) -> Vec<SeatStep> {
    if !voters.contains(&own) {
        return Vec::new();
    }
    Seats { candidates, state: &candidates.seen, voters, learners, progress, own, now }.steps()
}

struct Seats<'a> {
    candidates: &'a Candidates,
    state: &'a State,
    voters: &'a BTreeSet<u64>,
    learners: &'a BTreeSet<u64>,
    progress: &'a Progress,
    own: u64,
    now: Time,
}

impl Seats<'_> {
    fn steps(&self) -> Vec<SeatStep> {
        let mut proposals = Vec::new();
        let mut changes = Vec::new();
        let rows: BTreeSet<_> = self.state.members.rows.values().map(|row| row.raft_id).collect();
        let strangers = self.voters.iter().chain(self.learners).filter(|id| !rows.contains(id));
        changes.extend(strangers.filter_map(|id| self.remove(*id)));
        for node in self.candidates.nodes() {
            let row = self.state.members.rows.get(&node.id).map(|row| row.raft_id);
            let voter = row.is_some_and(|id| self.voters.contains(&id));
            let member = voter || row.is_some_and(|id| self.learners.contains(&id));
            let over = node.promoting.is_some_and(|until| until <= self.now);
            let leaves = match node.role {
                Role::Manager => node.spec.role == Role::Worker || !member,
                Role::Worker => over && !voter,
            };
            if leaves {
                let worker = node.role == Role::Worker;
                match row.filter(|_| member) {
                    Some(id) if worker || self.beside(row, |node| node.is_lasting()) => changes.extend(self.remove(id)),
                    None if worker || self.beside(row, |_| true) => {
                        proposals.push(Command::Unseat { node: node.id.clone(), raft_id: row });
                    }
                    _ => {}
                }
                continue;
            }
            let Some(id) = row else { continue };
            if voter && node.role == Role::Worker {
                proposals.push(Command::Seat { node: node.id.clone(), raft_id: id });
            } else if !member {
                changes.push(Change::AddLearner(id));
            } else if !voter && self.caught_up(id) {
                changes.push(Change::Promote(id));
            }
        }
        let changes = changes.into_iter().take(1).map(SeatStep::Change);
        proposals.into_iter().map(SeatStep::Propose).chain(changes).collect()
    }

    /// Whether a voter other than this one is a manager of which `such` holds.
    fn beside(&self, row: Option<u64>, such: impl Fn(&Node) -> bool) -> bool {
        self.state.members.rows.iter().any(|(node, other)| {
            let node = self.state.node(node).filter(|node| node.role == Role::Manager && such(node));
            Some(other.raft_id) != row && self.voters.contains(&other.raft_id) && node.is_some()
        })
    }

    fn caught_up(&self, id: u64) -> bool {
        self.progress.get(&id).is_some_and(|(behind, reachable)| *reachable && *behind < CAUGHT_UP)
    }

    /// How a member is taken out: a learner at once, a voter if the others can do without it, the leader after another leads.
    fn remove(&self, id: u64) -> Option<Change> {
        if !self.voters.contains(&id) {
            return Some(Change::Remove(id));
        }
        if !quorum_remains(self.voters, self.progress, self.own, id) {
            return None;
        }
        if id != self.own {
            return Some(Change::Remove(id));
        }
        let others = self.voters.iter().filter(|voter| **voter != id);
        let ready = others.filter(|voter| self.caught_up(**voter) && self.manages(**voter));
        let nearest = ready.min_by_key(|voter| self.progress.get(voter).map(|(behind, _)| *behind));
        nearest.map(|voter| Change::HandOver(*voter))
    }

    /// Whether this place is that of a manager that is to stay one.
    fn manages(&self, id: u64) -> bool {
        self.state.members.rows.iter().any(|(node, row)| row.raft_id == id && self.state.stays_manager(node))
    }
}
