//! A request whose signer is not at hand: it is kept until somebody signs it. Rules:
//! - it is admitted as any other, and what it may become is judged again when it is signed;
//! - a node has one at most: its newest; the same request again is the same one;
//! - a join that waits for its first certificate is unfinished like any other, and counts as one.

use std::sync::Arc;

use pki::identity::{NodeId, Role};
use pki::key::SpkiHash;
use pki::time::Time;

use crate::account::Event;
use crate::admission::promotion;
use crate::apply::Entry;
use crate::command::{Ask, Right};
use crate::node::{Node, Pending, Spec, TokenUse};
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

impl State {
    pub(crate) fn ask(&mut self, entry: &mut Entry<'_>, ask: &Ask) -> Result<Outcome, Rejection> {
        match &ask.right {
            Right::Token { spec, ours, token } => self.ask_to_join(entry, ask, spec, *ours, token),
            Right::Node { cut } => self.ask_again(entry, ask, *cut),
        }
    }

    fn ask_to_join(
        &mut self,
        entry: &mut Entry<'_>,
        ask: &Ask,
        spec: &Spec,
        ours: bool,
        token: &TokenUse,
    ) -> Result<Outcome, Rejection> {
        self.tokens.check(token)?;
        if let Some((node, letter)) = self.answered_join(token, &ask.spki, &ask.csr, entry.stamp) {
            return Ok(Outcome::Issued { node: node.id.clone(), letter: Arc::clone(letter), fresh: false });
        }
        if let Some(node) = self.pending_join(token, &ask.spki, &ask.csr) {
            return Ok(Outcome::Pending { node: node.id.clone() });
        }
        if self.rotation().is_some_and(|rotation| rotation.holds_joins()) {
            return Err(Rejection::RotationBusy);
        }
        let before = self.room_to_join(token, &ask.spki, entry.stamp)?;
        let (role, _) = self.tokens.row(token.row)?;
        if role != spec.role {
            return Err(Rejection::Role);
        }
        if role == Role::Manager && !ours {
            return Err(Rejection::EngineNotPromotable);
        }
        if self.nodes.contains_key(&ask.node) || self.removals.contains_key(&ask.node) {
            return Err(Rejection::IdTaken);
        }
        let issuances = self.replace_join(entry, before.as_ref(), 0);
        let node = Node {
            id: ask.node.clone(),
            role: Role::Worker,
            spec: spec.clone(),
            created: entry.now,
            updated: entry.now,
            version: entry.index,
            cut: 0,
            ours,
            unfinished: Some(*token),
            current: None,
            offered: Vec::new(),
            previous: Vec::new(),
            mailbox: Vec::new(),
            pending: Some(pending(entry, ask)),
            report: None,
            down: false,
            last_seen: None,
            issuances,
            leaves_end: Time::default(),
            promoting: promotion(role, entry.stamp),
        };
        self.nodes.insert(ask.node.clone(), Arc::new(node));
        self.pending.insert(ask.node.clone());
        self.index_join(ask.spki, &ask.node);
        Arc::make_mut(&mut self.tokens).take(token.row, ask.spki, &ask.node, entry.stamp);
        entry.tell(Event::TokenUsed { row: token.row, node: ask.node.clone() });
        Ok(Outcome::Pending { node: ask.node.clone() })
    }

    fn ask_again(&mut self, entry: &Entry<'_>, ask: &Ask, cut: u32) -> Result<Outcome, Rejection> {
        let node = self.known(&ask.node)?;
        if node.cut != cut {
            return Err(Rejection::Cut);
        }
        if let Some(letter) = self.letter_for(node, &ask.csr, entry.stamp) {
            return Ok(Outcome::Issued { node: ask.node.clone(), letter: Arc::clone(letter), fresh: false });
        }
        let before = node.pending.clone();
        if before.as_ref().is_some_and(|pending| pending.csr == ask.csr) {
            return Ok(Outcome::Pending { node: ask.node.clone() });
        }
        let unfinished = node.unfinished.is_some();
        self.change(&ask.node, |node| node.pending = Some(pending(entry, ask)));
        self.pending.insert(ask.node.clone());
        if unfinished {
            if let Some(before) = before {
                self.forget_unused_key(&before.spki, &ask.node);
            }
            self.index_join(ask.spki, &ask.node);
        }
        Ok(Outcome::Pending { node: ask.node.clone() })
    }

    /// The unfinished join that this very request made by this token and that waits for its certificate.
    pub fn pending_join(&self, token: &TokenUse, key: &SpkiHash, csr: &[u8]) -> Option<&Arc<Node>> {
        let nodes = self.joins.get(key)?.iter().filter_map(|id| self.nodes.get(id));
        let asked = |node: &Node| node.pending.as_ref().is_some_and(|pending| pending.csr == csr);
        nodes.filter(|node| node.unfinished == Some(*token)).find(|node| asked(node))
    }

    /// Whoever asked by a token that was replaced, and was given nothing yet, gets nothing: the token was replaced for a reason.
    pub(crate) fn forget_pending_joins(&mut self, row: u32) {
        let by_token = |node: &Node| node.unfinished.is_some_and(|token| token.row == row);
        let nodes = self.pending.iter().filter_map(|id| self.nodes.get(id));
        let gone: Vec<_> =
            nodes.filter(|node| by_token(node) && node.offered.is_empty()).map(|node| node.id.clone()).collect();
        gone.iter().for_each(|id| self.forget_join(id));
    }

    /// A node was given what it asked for with this request, or something newer than it.
    pub(crate) fn answer_pending(&mut self, id: &NodeId, csr: &[u8]) {
        let answered = |pending: &mut Arc<Pending>| pending.csr == csr;
        if self.change(id, |node| node.pending.take_if(answered).is_some()) == Some(true) {
            self.pending.remove(id);
        }
    }

    /// A key under which a join is found no more, unless it was issued something.
    pub(crate) fn forget_unused_key(&mut self, key: &SpkiHash, id: &NodeId) {
        let offered = self.nodes.get(id).is_some_and(|node| node.offered.iter().any(|leaf| leaf.spki == *key));
        if !offered {
            self.forget_key(key, id);
        }
    }
}

fn pending(entry: &Entry<'_>, ask: &Ask) -> Arc<Pending> {
    Arc::new(Pending { csr: ask.csr.clone(), spki: ask.spki, asked: entry.now })
}
