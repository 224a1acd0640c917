//! What a manager does as one of several: it shares its sessions, leads or does not, and gives others their places.

use std::sync::Arc;

use cluster::authorize::{Caller, Method};
use cluster::seats::{self, Candidates, Change as GroupStep, SeatStep};
use cluster::{Command, Outcome};
use manager::change::Change;
use manager::refusal;
use manager::roster::{self, Absent, Told as Shared};
use manager::rotate::look;
use manager::sessions::{Input as Told, Sessions};
use pki::identity::NodeId;
use pki::time::Time;
use replica::model::group::ModelMember;
use replica::{Group, GroupChange, Handle, ProposeError};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};
use wire::managers::{ShareRequest, ShareResponse};
use wire::status::Refusal;

use super::{Manager, Mischief, Pending, Proposal, Tell, Then, status};
use crate::chance::Chance;
use crate::ledger::Log;
use crate::packet::{Identity, Packet};

/// After how many looks the leader looks for nodes that nobody waits for.
const MISSED_AFTER: u64 = 30;

/// A machine on its way to a place in the group.
pub(super) struct Enlisting {
    machine: usize,
    raft_id: u64,
    node: NodeId,
    addr: String,
    serial: pki::serial::Serial,
    asked: bool,
}

impl<L: Log> Manager<L> {
    /// Whether it leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.log.leadership().borrow().here
    }

    pub(super) fn is_one_of_several(&self) -> bool {
        roster::has_others(&self.state(), self.log.raft_id())
    }

    /// Whether a node that is to be called down is in session with another manager.
    pub(super) fn is_elsewhere(&self, command: &Command) -> bool {
        let Command::Presence { node, down: true, .. } = command else { return false };
        let own = self.log.raft_id();
        self.roster.get(node).is_some_and(|session| session.manager != own)
    }

    pub(super) fn admits(&self) -> Result<(), Refusal> {
        let stops = self.cut_off && self.mischief != Some(Mischief::AdmitsCutOff);
        if stops { Err(Refusal::DispatcherStopped) } else { Ok(()) }
    }

    /// Puts a call aside until the state here is surely not old.
    pub(super) fn look_up(&mut self, own: Option<&Identity>, packet: Packet) {
        let then = Then::Serve { packet, own: own.cloned() };
        self.read(then);
    }

    fn read(&mut self, then: Then) {
        let log = self.log.clone();
        let read: Proposal =
            Box::pin(async move { log.read().await.map(|_| Vec::new()).map_err(|_| ProposeError::NoLeader) });
        self.pending.push_back(Pending { proposal: read, then });
    }

    /// A machine asks for a place in the group.
    ///
    /// # Errors
    /// The refusal.
    pub fn enlist(
        &mut self,
        now: Time,
        own: &Identity,
        identity: &Identity,
        (machine, raft_id, addr): (usize, u64, String),
    ) -> Result<(), Refusal> {
        let state = self.state();
        let leaf = self.judge(&state, own, identity, now).map_err(|_| Refusal::CertificateMissing)?;
        let standing = state.standing(&leaf, now);
        let granted = state.authorize(Caller::Identified(&leaf, &standing), Method::Enlist, now);
        granted.map_err(|denial| refusal(denial, &state))?;
        let (node, serial) = (leaf.node, leaf.serial);
        self.read(Then::Enlist(Enlisting { machine, raft_id, node, addr, serial, asked: false }));
        Ok(())
    }

    pub(super) fn enlist_on(&mut self, enlisting: Enlisting, result: Result<Vec<Outcome>, ProposeError>) {
        let Ok(outcomes) = result else { return };
        if enlisting.asked {
            if let Some(Outcome::Enlisted { raft_id }) = outcomes.first() {
                self.enlisted.push((enlisting.machine, *raft_id));
            }
            return;
        }
        // A store that was lost must not pass for the one that another manager knows of.
        let state = self.state();
        let known = state.members.rows.get(&enlisting.node).map(|row| row.raft_id);
        let replaces = known.filter(|known| *known != enlisting.raft_id);
        let Enlisting { node, addr, serial, .. } = &enlisting;
        let command = Command::Enlist { node: node.clone(), addr: addr.clone(), serial: *serial, replaces };
        self.propose(vec![command], Then::Enlist(Enlisting { asked: true, ..enlisting }));
    }

    /// What is applied here has moved on, or somebody may have been answered.
    pub fn progress(&mut self, now: Time, out: &mut Vec<Tell>) {
        let after = self.state();
        let before = std::mem::replace(&mut self.seen, Arc::clone(&after));
        let news = after.index != before.index;
        if news {
            self.ledger.applied(&self.log);
        }
        let mut waiting = VecDeque::new();
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.proposal.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => self.resume(now, result, pending.then, out),
                Poll::Pending => waiting.push_back(pending),
            }
        }
        waiting.append(&mut self.pending);
        self.pending = waiting;
        if news {
            self.step(now, Told::Changed(&Change::between(&before, &after)), out);
            self.lead(now, &look::changed(&before, &after), out);
            let strangers = self.streams.keys().find(|node| after.node(node).is_none()).cloned();
            self.ledger.demand(strangers.is_none(), || format!("a removed node is in no session: {strangers:?}"));
        }
    }

    /// It begins to lead.
    pub fn begin_to_lead(&mut self, now: Time, out: &mut Vec<Tell>) {
        self.roster.lead(now, self.log.leadership().borrow().term);
        let state = self.state();
        self.absent = Some(Absent::of(&state));
        self.step(now, Told::Lead(&state), out);
    }

    /// The leader is told by another manager, or by itself, of its sessions.
    pub fn share(&mut self, now: Time, from: u64, mut request: ShareRequest, out: &mut Vec<Tell>) -> ShareResponse {
        if self.mischief == Some(Mischief::OlderSessionWins) {
            let other = |node: &str| node.parse().ok().and_then(|node| self.roster.get(&node));
            request.sessions.retain(|row| other(&row.node).is_none_or(|known| known.manager == from));
        }
        let Shared { gone, lost, response } = self.roster.share(now, from, request);
        self.expect(now, &lost, out);
        let down = roster::down(gone, &self.sessions, now);
        if !down.is_empty() {
            self.propose(down, Then::Nothing);
        }
        response
    }

    /// A node has a newer session with another manager.
    pub fn moved(&mut self, node: &NodeId, session: &str, out: &mut Vec<Tell>) {
        if self.sessions.moved(node, session) {
            self.end(node, &Refusal::SessionInvalid, out);
        }
    }

    /// The leader looks for managers that are silent, and whether what is written of nodes is so.
    pub fn look_after(&mut self, now: Time, out: &mut Vec<Tell>) {
        let nodes = self.roster.silent(now);
        self.expect(now, &nodes, out);
        let state = self.state();
        let up = self.absent.get_or_insert_with(|| Absent::of(&state));
        let up = up.in_session(&state, &self.sessions, &self.roster, now);
        if !up.is_empty() {
            self.propose(up, Then::Nothing);
        }
        self.looks += 1;
        if self.looks.is_multiple_of(MISSED_AFTER) {
            let missing = roster::missing(&state, &self.sessions, &self.roster);
            self.expect(now, &missing, out);
        }
    }

    fn expect(&mut self, now: Time, nodes: &[NodeId], out: &mut Vec<Tell>) {
        if !nodes.is_empty() {
            let period = self.state().settings.heartbeat_period();
            self.step(now, Told::Expect(nodes, period), out);
        }
    }

    /// It hears the others, or does not; one that does not lets its nodes go.
    /// Whether it did that now.
    pub fn hears(&mut self, hears: bool, out: &mut Vec<Tell>) -> bool {
        let before = std::mem::replace(&mut self.cut_off, !hears);
        let lets_go = self.cut_off && !before && self.mischief != Some(Mischief::AdmitsCutOff);
        if lets_go {
            self.sessions.send_away();
            for stream in std::mem::take(&mut self.streams).into_values() {
                stream.end(status(&Refusal::MustDisconnect), out);
            }
        }
        lets_go
    }

    /// Since when a node's stream stands here.
    pub fn in_session(&self, node: &NodeId) -> Option<Time> {
        self.streams.get(node).map(|stream| stream.since)
    }

    /// Nodes with a stream here.
    pub fn present(&self) -> impl Iterator<Item = &NodeId> {
        self.streams.keys()
    }
}

impl Manager<ModelMember> {
    /// One of several, over its own member of the group.
    pub fn one_of(log: ModelMember, mut chance: Chance, now: Time) -> Self {
        let orders = chance.draw() as u32 >> 8;
        let mut manager = Self::over(log, chance);
        manager.up = true;
        manager.sessions = Sessions::numbered_from(orders);
        manager.look_at = Some(now);
        manager.seen = manager.state();
        manager.ledger.joined(&manager.log);
        manager
    }

    /// The leader tends the group.
    pub fn tend(&mut self, now: Time, reachable: impl Fn(u64) -> bool) {
        let state = self.state();
        let group: Arc<Group> = self.log.group().borrow().clone();
        let progress = group.members.iter().map(|(id, seen)| (*id, (seen.behind, reachable(*id)))).collect();
        let own = self.log.raft_id();
        for step in seats::next(&Candidates::of(&state), &group.voters, &group.learners, &progress, own, now) {
            match step {
                SeatStep::Propose(command) => self.propose(vec![command], Then::Nothing),
                SeatStep::Change(change) => {
                    let change = match change {
                        GroupStep::AddLearner(id) => GroupChange::AddLearner(id),
                        GroupStep::Promote(id) => GroupChange::Promote(id),
                        GroupStep::Remove(id) => GroupChange::Remove(id),
                        GroupStep::HandOver(id) => GroupChange::HandOver(id),
                    };
                    let mut asked = Box::pin(self.log.change(change));
                    // It is tried again if it could not be.
                    let _ = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                }
            }
        }
    }
}
