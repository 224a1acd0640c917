//! A join: a new record, its first leaf, by a token.

use std::sync::Arc;

use pki::identity::NodeId;

use crate::apply::Entry;
use crate::command::Admit;
use crate::node::Node;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;
use crate::tokens::UNFINISHED_PER_TOKEN_MAX;

impl State {
    pub(crate) fn admit(&mut self, entry: &mut Entry<'_>, admit: &Admit) -> Result<Outcome, Rejection> {
        if !self.tokens.is_present(&admit.token) {
            return Err(Rejection::Token);
        }
        if let Some(outcome) = self.admitted_before(admit) {
            return Ok(outcome);
        }
        self.check_premises(entry, &admit.premises, &admit.letter)?;
        let row = self.tokens.rows.get(admit.token.row as usize).ok_or(Rejection::Token)?;
        if row.unfinished >= UNFINISHED_PER_TOKEN_MAX {
            return Err(Rejection::TokenBusy);
        }
        if row.role != admit.spec.role || admit.letter.leaf.role != row.role {
            return Err(Rejection::Role);
        }
        if self.nodes.contains_key(&admit.node) || self.removals.contains_key(&admit.node) {
            return Err(Rejection::IdTaken);
        }
        let node = Node {
            id: admit.node.clone(),
            role: row.role,
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
            report: None,
            down: false,
            last_seen: None,
            issuances: (entry.now, 1),
        };
        self.nodes.insert(admit.node.clone(), Arc::new(node));
        self.joins.insert(admit.letter.leaf.spki, admit.node.clone());
        Arc::make_mut(&mut self.tokens).count_unfinished(admit.token.row, 1);
        self.note(entry, &admit.node, &admit.letter);
        Ok(Outcome::Issued { node: admit.node.clone(), letter: Arc::clone(&admit.letter), fresh: true })
    }

    /// The same key by the same token again is the same node again, with its first certificate: so a joiner whose answer
    /// was lost gets it, and leaves no second record behind.
    fn admitted_before(&self, admit: &Admit) -> Option<Outcome> {
        let (node, letter) = self.unfinished_join(&admit.letter.leaf.spki)?;
        (node.unfinished? == admit.token && letter.csr == admit.letter.csr).then(|| Outcome::Issued {
            node: node.id.clone(),
            letter: Arc::clone(letter),
            fresh: false,
        })
    }

    /// The unfinished join of this key, with what was issued to it.
    pub fn unfinished_join(&self, key: &pki::key::SpkiHash) -> Option<(&Arc<Node>, &Arc<crate::node::Letter>)> {
        let node = self.nodes.get(self.joins.get(key)?)?;
        let letter = node.mailbox.iter().find(|letter| letter.leaf.spki == *key)?;
        Some((node, letter))
    }

    /// Drops a join that was never finished. Its id was never used by anybody, but stays drawn: ids are random.
    pub(crate) fn forget_join(&mut self, id: &NodeId) {
        let Some(node) = self.nodes.remove(id) else { return };
        self.release(&node);
    }

    /// Lets go of what a record holds elsewhere in the state, before or after the record itself goes.
    pub(crate) fn release(&mut self, node: &Node) {
        if let Some(token) = node.unfinished {
            Arc::make_mut(&mut self.tokens).count_unfinished(token.row, -1);
            for leaf in &node.offered {
                self.joins.remove(&leaf.spki);
            }
        }
        if let Some(report) = &node.report {
            self.release_blobs(report.blobs());
        }
    }
}
