//! One entry of the log, applied: each command judged by itself, against the state it meets.

use pki::time::Time;

use crate::account::{Asked, Event, Private};
use crate::command::{Batch, Bootstrap, Command};
use crate::log::LogEntry;
use crate::members::Member;
use crate::node;
use crate::node::Node;
use crate::outcome::{Outcome, Rejection};
use crate::roots::Roots;
use crate::state::{ClusterFacts, State};
use crate::tokens::{TokenRow, Tokens};
use pki::identity::Role;
use std::sync::Arc;

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Applied {
    /// One outcome a command, in order.
    pub outcomes: Vec<Outcome>,
    /// Entries of the issuance log that it added.
    pub issued: Vec<LogEntry>,
}

/// What every command of an entry shares.
pub(crate) struct Entry<'a> {
    /// The entry's log index: the version of what it changes.
    pub(crate) index: u64,
    /// The cluster's time with this entry.
    pub(crate) now: Time,
    /// The leader's own clock when it proposed the entry: behind `now` if that clock was set back.
    pub(crate) stamp: Time,
    /// Where issuances are noted.
    pub(crate) issued: &'a mut Vec<LogEntry>,
    /// Who asked for the command.
    pub(crate) asked: Asked,
    /// What the command did, to be noted when it is done.
    pub(crate) told: Vec<(Event, Private)>,
}

impl State {
    /// Applies the entry at `index`. Deterministic: the same entry on the same state is the same state on every replica.
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Applied {
        self.time = self.time.max(batch.time);
        self.index = index;
        self.clock_set_back(batch.time);
        self.wake(batch.time);
        let mut applied = Applied { outcomes: Vec::with_capacity(batch.commands.len()), issued: Vec::new() };
        for command in &batch.commands {
            let (asked, told) = (Asked::default(), Vec::new());
            let issued = &mut applied.issued;
            let mut entry = Entry { index, now: self.time, stamp: batch.time, issued, asked, told };
            let outcome = self.judge(&mut entry, command).unwrap_or_else(Outcome::Rejected);
            applied.outcomes.push(outcome);
        }
        applied
    }

    /// Judges one command, and notes what it did.
    pub(crate) fn judge(&mut self, entry: &mut Entry<'_>, command: &Command) -> Result<Outcome, Rejection> {
        let outcome = self.decide(entry, command)?;
        let asked = std::mem::take(&mut entry.asked);
        self.write_told(entry, &asked);
        entry.asked = asked;
        Ok(outcome)
    }

    fn decide(&mut self, entry: &mut Entry<'_>, command: &Command) -> Result<Outcome, Rejection> {
        if let Command::Attributed(attributed) = command {
            return self.attributed(entry, attributed);
        }
        if let Command::Bootstrap(bootstrap) = command {
            return self.bootstrap(entry, bootstrap);
        }
        if self.cluster.is_none() {
            return Err(Rejection::NoCluster);
        }
        match command {
            // Decided above.
            Command::Bootstrap(_) | Command::Attributed(_) => Err(Rejection::Exists),
            Command::Admit(admit) => self.admit(entry, admit),
            Command::Renew(renew) => self.renew(entry, renew),
            Command::Ask(ask) => self.ask(entry, ask),
            Command::Confirm { node, serial } => self.confirm(entry, node, serial),
            Command::Report(reported) => self.report(reported),
            Command::Presence { node, down, seen } => self.presence(node, *down, *seen),
            Command::UpdateNode { node, version, spec } => self.update_node(entry, node, *version, spec),
            Command::RemoveNode { node, force, ready } => self.remove_node(entry, node, *force, *ready),
            Command::UpdateCluster(update) => self.update_cluster(entry, update),
            Command::AdvanceRotation(advance) => self.advance_rotation(entry, advance),
            Command::ReplaceLadder(replace) => self.replace_ladder(entry, replace),
            Command::Enlist { node, addr, serial, replaces } => self.enlist(entry, node, addr, serial, *replaces),
            Command::Seat { node, raft_id } => self.seat(entry, node, *raft_id),
            Command::Unseat { node, raft_id } => self.unseat(entry, node, *raft_id),
            Command::Refound(refound) => self.refound(entry, refound),
            Command::CreateToken(create) => self.create_token(entry, create),
            Command::RevokeToken { row } => self.revoke_token(entry, *row),
            Command::FoundOperators(found) => self.found_operators(entry, found),
            Command::IssueOperator(issue) => self.issue_operator(entry, issue),
            Command::IssueApiServer(issue) => self.issue_api_server(entry, issue),
            Command::RevokeOperator(what) => self.revoke_operator(entry, what),
            Command::Revoke(revoke) => self.revoke(entry, revoke),
            Command::Collect { nodes } => Ok(self.collect(entry, nodes)),
            Command::UnlockKeyShown => Ok(self.unlock_key_shown(entry)),
            Command::EraseLog { below } => self.erase_private(entry, *below),
        }
    }

    fn bootstrap(&mut self, entry: &mut Entry<'_>, first: &Bootstrap) -> Result<Outcome, Rejection> {
        if self.cluster.is_some() {
            return Err(Rejection::Exists);
        }
        self.cluster = Some(Arc::new(ClusterFacts { id: first.cluster.clone(), fips: first.fips, created: entry.now }));
        self.roots = Roots::Stable { root: Arc::clone(&first.root), stragglers: Vec::new() };
        let row = |role, secret: &crate::command::SecretBox| TokenRow {
            role,
            secret: Arc::clone(&secret.0),
            generation: 0,
            created: entry.now,
            unfinished: 0,
        };
        self.tokens = Arc::new(Tokens {
            rows: vec![row(Role::Worker, &first.worker_secret), row(Role::Manager, &first.manager_secret)],
            ..Tokens::default()
        });
        self.settings = Arc::new(first.settings.clone());
        self.lock_by(first.unlock.clone());
        self.cluster_version = entry.index;
        self.cluster_updated = entry.now;
        self.members.rows.insert(first.node.clone(), Member { raft_id: 1, addr: first.addr.clone() });
        self.members.next_raft_id = 2;
        self.members.key_holders.insert(first.node.clone());
        self.note_authorities(entry, &first.logged);
        self.note(entry, &first.node, &first.letter);
        entry.tell(Event::Founded);
        let node = Node {
            id: first.node.clone(),
            role: Role::Manager,
            spec: first.spec.clone(),
            created: entry.now,
            updated: entry.now,
            version: entry.index,
            cut: 0,
            ours: true,
            unfinished: None,
            current: Some(first.letter.leaf.clone()),
            offered: Vec::new(),
            previous: Vec::new(),
            mailbox: Vec::new(),
            pending: None,
            report: None,
            down: false,
            last_seen: None,
            issuances: (entry.now, 0),
            leaves_end: first.letter.leaf.not_after,
            promoting: None,
        };
        self.nodes.insert(first.node.clone(), Arc::new(node));
        Ok(Outcome::Done { version: entry.index })
    }

    /// What has outlived its time in the nodes named. Each is judged here again: naming a node collects nothing by itself.
    fn collect(&mut self, entry: &Entry<'_>, ids: &[pki::identity::NodeId]) -> Outcome {
        let now = entry.now;
        let waits = self.comes_back(now);
        let mut gone = Vec::new();
        let mut changed = false;
        for id in ids {
            let Some(node) = self.nodes.get(id) else { continue };
            if node.is_given_up(now) {
                self.forget_join(id);
                gone.push(id.clone());
                continue;
            }
            if !node.holds_outlived(now, waits) {
                continue;
            }
            changed = true;
            if node.pending.as_ref().is_some_and(|pending| pending.is_given_up(now)) {
                self.pending.remove(id);
            }
            self.change(id, |node| {
                node.mailbox.retain(|letter| now.since(letter.issued) < node::LETTER_LIFE);
                node.previous.retain(|(_, until)| *until > now);
                node.pending.take_if(|pending| pending.is_given_up(now));
                if node.unfinished.is_none() {
                    node.offered.retain(|leaf| waits || leaf.forgiven_until() >= now);
                    node.mailbox.retain(|letter| node.offered.contains(&letter.leaf));
                }
            });
        }
        let over: Vec<_> =
            self.removals.iter().filter(|(_, removal)| removal.until < now).map(|(id, _)| id.clone()).collect();
        for id in over {
            changed = true;
            self.removals.remove(&id);
        }
        if self.tokens.limited.is_due(now) {
            changed |= Arc::make_mut(&mut self.tokens).limited.forget(now);
        }
        changed |= self.collect_operators(now);
        changed |= self.revocations.collect(now);
        let mut roots = std::mem::take(&mut self.roots);
        changed |= self.refresh_anchors(&mut roots, now);
        self.roots = roots;
        if gone.is_empty() && !changed { Outcome::Unchanged } else { Outcome::Collected(gone) }
    }

    /// Nodes in which [`Command::Collect`] would find something at `now`.
    pub fn collectable(&self, now: Time) -> Vec<pki::identity::NodeId> {
        let waits = self.comes_back(now);
        let due = |node: &&Arc<Node>| node.is_given_up(now) || node.holds_outlived(now, waits);
        self.nodes.values().filter(due).map(|node| node.id.clone()).collect()
    }

    /// Whether [`Command::Collect`], of no node too, would let go of a removal at `now`.
    pub fn removals_ended(&self, now: Time) -> bool {
        self.removals.values().any(|removal| removal.until < now)
    }

    /// Whether [`Command::Collect`], of no node too, would let go of a token with limits at `now`.
    pub fn tokens_ended(&self, now: Time) -> bool {
        self.tokens.limited.is_due(now)
    }

    /// Whether [`Command::Collect`], of no node too, would let go of a certificate taken back at `now`.
    pub fn revocations_ended(&self, now: Time) -> bool {
        self.revocations.is_due(now)
    }

    /// Whether [`Command::Collect`], of no node too, would let go of an old root at `now`.
    pub fn anchors_ended(&self, now: Time) -> bool {
        let mut roots = self.roots.clone();
        self.refresh_anchors(&mut roots, now);
        roots.stragglers().len() != self.roots.stragglers().len()
    }

    /// Changes a node's record in place.
    pub(crate) fn change<R>(&mut self, id: &pki::identity::NodeId, edit: impl FnOnce(&mut Node) -> R) -> Option<R> {
        self.nodes.get_mut(id).map(|node| edit(Arc::make_mut(node)))
    }

    /// A record for reading, or why there is none.
    pub(crate) fn known(&self, id: &pki::identity::NodeId) -> Result<&Arc<Node>, Rejection> {
        self.nodes
            .get(id)
            .ok_or_else(|| if self.removals.contains_key(id) { Rejection::Removed } else { Rejection::UnknownNode })
    }
}

impl Node {
    /// Whether it is a join that was never finished, and will not be.
    fn is_given_up(&self, now: Time) -> bool {
        self.unfinished.is_some() && now.since(self.created) >= node::UNFINISHED_LIFE
    }

    /// Whether it holds letters or leaves that have outlived their time. `waits`: it may come back with any leaf it was given.
    fn holds_outlived(&self, now: Time, waits: bool) -> bool {
        self.mailbox.iter().any(|letter| now.since(letter.issued) >= node::LETTER_LIFE)
            || self.previous.iter().any(|(_, until)| *until <= now)
            || self.pending.as_ref().is_some_and(|pending| pending.is_given_up(now))
            || (!waits && self.unfinished.is_none() && self.offered.iter().any(|leaf| leaf.forgiven_until() < now))
    }
}
