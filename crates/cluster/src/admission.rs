//! A join: a new record, its first leaf, by a token.

use std::sync::Arc;

use pki::identity::{NodeId, Role};
use pki::key::SpkiHash;
use pki::time::Time;

use crate::account::Actor;
use crate::apply::Entry;
use crate::command::Admit;
use crate::issuance::HOUR;
use crate::node::{Letter, Node, PROMOTION_LIFE, TokenUse};
use crate::outcome::{Outcome, Rejection};
use crate::revocation::Reason;
use crate::state::State;
use crate::tokens::UNFINISHED_PER_TOKEN_MAX;

/// Unfinished joins that one public key may have: by other tokens, or by other requests. A joiner needs one.
pub const UNFINISHED_PER_KEY_MAX: usize = 4;

/// Requests that one key may make within an hour for one use of a token with limits, each of which replaces the join before. A joiner asks
/// with one request, however often; each other one is a certificate for good.
pub const REQUESTS_PER_USE_MAX: u32 = 16;

/// Until when a join by a token of this role may make a manager.
pub(crate) fn promotion(role: Role, stamp: Time) -> Option<Time> {
    (role == Role::Manager).then(|| stamp.saturating_add(PROMOTION_LIFE))
}

impl State {
    pub(crate) fn admit(&mut self, entry: &mut Entry<'_>, admit: &Admit) -> Result<Outcome, Rejection> {
        self.tokens.check(&admit.token)?;
        if let Some(outcome) = self.admitted_before(entry, admit) {
            return Ok(outcome);
        }
        if self.rotation().is_some_and(|rotation| rotation.holds_joins()) {
            return Err(Rejection::RotationBusy);
        }
        self.check_premises(entry, &admit.premises, &admit.letter)?;
        self.check_ladder(None, &admit.letter, entry.now)?;
        let key = admit.letter.leaf.spki;
        let before = self.room_to_join(&admit.token, &key, entry.stamp)?;
        let (role, _) = self.tokens.row(admit.token.row)?;
        if role != admit.spec.role || admit.letter.leaf.role != role {
            return Err(Rejection::Role);
        }
        if role == Role::Manager && !admit.ours {
            return Err(Rejection::EngineNotPromotable);
        }
        if self.nodes.contains_key(&admit.node) || self.removals.contains_key(&admit.node) {
            return Err(Rejection::IdTaken);
        }
        let issuances = self.replace_join(entry, before.as_ref(), 1);
        let node = Node {
            id: admit.node.clone(),
            // Whoever comes by the manager's token is one when it is a member of the raft group.
            role: Role::Worker,
            spec: admit.spec.clone(),
            created: entry.now,
            updated: entry.now,
            version: entry.index,
            cut: 0,
            ours: admit.ours,
            unfinished: Some(admit.token),
            current: None,
            offered: vec![admit.letter.leaf.clone()],
            previous: Vec::new(),
            mailbox: vec![Arc::clone(&admit.letter)],
            pending: None,
            report: None,
            down: false,
            last_seen: None,
            issuances,
            leaves_end: admit.letter.leaf.not_after,
            promoting: promotion(role, entry.stamp),
        };
        self.nodes.insert(admit.node.clone(), Arc::new(node));
        self.index_join(key, &admit.node);
        Arc::make_mut(&mut self.tokens).take(admit.token.row, key, &admit.node, entry.stamp);
        entry.asked.by = Actor::Token(admit.token.row);
        self.note(entry, &admit.node, &admit.letter);
        Ok(Outcome::Issued { node: admit.node.clone(), letter: Arc::clone(&admit.letter), fresh: true })
    }

    /// Whether one more join by this token and this key may be under way, and which one gives way to it: of one key a token with
    /// limits has one join.
    ///
    /// # Errors
    /// [`Rejection::TokenBusy`], also after [`REQUESTS_PER_USE_MAX`] requests; what is wrong with a token that has limits; or
    /// [`Rejection::Token`] if there is no such token.
    pub fn room_to_join(&self, token: &TokenUse, key: &SpkiHash, now: Time) -> Result<Option<NodeId>, Rejection> {
        let (_, unfinished) = self.tokens.row(token.row)?;
        let before = self.use_left(token, key, now)?;
        let by_key = self.joins.get(key).map_or(0, Vec::len);
        let busy = unfinished >= UNFINISHED_PER_TOKEN_MAX || by_key >= UNFINISHED_PER_KEY_MAX;
        let full = match &before {
            Some(id) => self.nodes.get(id).is_some_and(|join| requests(join, now) >= REQUESTS_PER_USE_MAX),
            None => busy,
        };
        if full { Err(Rejection::TokenBusy) } else { Ok(before) }
    }

    /// The join that gives way to another request of its key goes, and what was issued to it is taken back: that it was given up is known
    /// here only. The new one's count: `alone` if there was none before.
    pub(crate) fn replace_join(&mut self, entry: &Entry<'_>, before: Option<&NodeId>, alone: u32) -> (Time, u32) {
        let Some(join) = before.and_then(|id| self.nodes.get(id)).cloned() else { return (entry.now, alone) };
        self.withdraw_join(entry, &join.id, Reason::Superseded);
        match requests(&join, entry.now) {
            0 => (entry.now, 1),
            count => (join.issuances.0, count.saturating_add(1)),
        }
    }

    /// Drops a join that was never finished, and takes back what was issued to it.
    pub(crate) fn withdraw_join(&mut self, entry: &Entry<'_>, id: &NodeId, reason: Reason) {
        self.revoke_known(entry, id, reason);
        self.forget_join(id);
    }

    /// The same request by the same token again is the same node again, with its first certificate: so a joiner whose
    /// answer was lost gets it, and leaves no second record behind.
    fn admitted_before(&self, entry: &Entry<'_>, admit: &Admit) -> Option<Outcome> {
        let (node, letter) =
            self.answered_join(&admit.token, &admit.letter.leaf.spki, &admit.letter.csr, entry.stamp)?;
        Some(Outcome::Issued { node: node.id.clone(), letter: Arc::clone(letter), fresh: false })
    }

    /// The unfinished join that this very request made by this token, with what was issued to it: asked again while its
    /// leaf holds, it is the answer.
    pub fn answered_join(
        &self,
        token: &TokenUse,
        key: &SpkiHash,
        csr: &[u8],
        now: Time,
    ) -> Option<(&Arc<Node>, &Arc<Letter>)> {
        self.unfinished_joins(key)
            .find(|(node, letter)| node.unfinished == Some(*token) && letter.answers(csr, node.signed_role(), now))
    }

    /// The unfinished joins of this key, each with what was issued to it: one, unless the joiner came with two tokens
    /// or two requests.
    pub fn unfinished_joins(&self, key: &SpkiHash) -> impl Iterator<Item = (&Arc<Node>, &Arc<Letter>)> {
        let key = *key;
        let nodes = self.joins.get(&key).into_iter().flatten().filter_map(|id| self.nodes.get(id));
        nodes.flat_map(move |node| {
            node.mailbox.iter().filter(move |letter| letter.leaf.spki == key).map(move |letter| (node, letter))
        })
    }

    /// Makes an unfinished join findable by its key.
    pub(crate) fn index_join(&mut self, key: SpkiHash, id: &NodeId) {
        let ids = self.joins.entry(key).or_default();
        if let Err(place) = ids.binary_search(id) {
            ids.insert(place, id.clone());
        }
    }

    /// Undoes [`index_join`](Self::index_join).
    pub(crate) fn forget_key(&mut self, key: &SpkiHash, id: &NodeId) {
        let Some(ids) = self.joins.get_mut(key) else { return };
        ids.retain(|known| known != id);
        if ids.is_empty() {
            self.joins.remove(key);
        }
    }

    /// Drops a join that was never finished. Its id was never used by anybody, but stays drawn: ids are random.
    pub(crate) fn forget_join(&mut self, id: &NodeId) {
        let Some(node) = self.nodes.remove(id) else { return };
        self.release(&node);
    }

    /// Lets go of what a record holds elsewhere in the state, before or after the record itself goes.
    pub(crate) fn release(&mut self, node: &Node) {
        if let Some(token) = node.unfinished {
            Arc::make_mut(&mut self.tokens).release(token.row, node);
            for key in node.join_keys() {
                self.forget_key(&key, &node.id);
            }
        }
        self.pending.remove(&node.id);
        if let Some(report) = &node.report {
            self.release_blobs(report.blobs());
        }
    }
}

/// Requests of a join and those before it within the hour.
fn requests(join: &Node, now: Time) -> u32 {
    let (since, count) = join.issuances;
    if now.since(since) < HOUR { count } else { 0 }
}
