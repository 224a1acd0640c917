//! One node's certificate: renewal, what is noted of every leaf, and the moment a leaf is seen in use. Rules:
//! - a leaf is registered before it leaves a manager;
//! - a leaf whose premises no longer hold is refused, and nothing is noted of it;
//! - the same key asked again, before its leaf is used, is the same leaf again.

use std::sync::Arc;
use std::time::Duration;

use pki::certificate::Certificate;
use pki::identity::NodeId;
use pki::serial::Serial;
use pki::time::Time;

use crate::account::{Actor, Asked, Private};
use crate::apply::Entry;
use crate::command::{Premises, Renew};
use crate::format;
use crate::node::{self, Leaf, Letter, Node};
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

/// How far a signer's clock may be from the leader's.
pub const SIGNING_SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// Certificates a node gets in an hour, outside a rotation's orders, before its manager raises an alarm.
pub const ISSUANCES_PER_HOUR_ALARM: u32 = 10;

/// Certificates a node gets in an hour at all: what bounds the log against a node gone wild.
pub const ISSUANCES_PER_HOUR_MAX: u32 = 10_000;

const _: () = assert!(ISSUANCES_PER_HOUR_ALARM < ISSUANCES_PER_HOUR_MAX);

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);

impl State {
    pub(crate) fn check_premises(
        &self,
        entry: &Entry<'_>,
        premises: &Premises,
        letter: &Letter,
    ) -> Result<(), Rejection> {
        if !self.roots.is_signing(&premises.issuer) || letter.leaf.issuer != premises.issuer {
            return Err(Rejection::Issuer);
        }
        if self.revocations.contains(&letter.leaf.issuer, &letter.leaf.serial) {
            return Err(Rejection::SerialUsed);
        }
        if premises.epoch != self.epoch {
            return Err(Rejection::Epoch);
        }
        let skew = entry.stamp.since(premises.signed).max(premises.signed.since(entry.stamp));
        if skew > SIGNING_SKEW_MAX { Err(Rejection::Skew) } else { Ok(()) }
    }

    /// What goes with a leaf has to lead its holder's peers, and itself, to the roots that they hold now.
    pub(crate) fn check_ladder(&self, node: Option<&Node>, letter: &Letter, now: Time) -> Result<(), Rejection> {
        let due = self.roots.ladder_for(node, letter.leaf.role, now);
        let sent = |step: &Certificate| letter.ladder.iter().any(|sent| sent == step.der());
        if due.iter().all(sent) { Ok(()) } else { Err(Rejection::Issuer) }
    }

    pub(crate) fn renew(&mut self, entry: &mut Entry<'_>, renew: &Renew) -> Result<Outcome, Rejection> {
        let node = self.known(&renew.node)?;
        if node.cut != renew.cut {
            return Err(Rejection::Cut);
        }
        if let Some(letter) = self.letter_for(node, &renew.letter.csr, entry.stamp) {
            return Ok(Outcome::Issued { node: renew.node.clone(), letter: Arc::clone(letter), fresh: false });
        }
        self.check_premises(entry, &renew.premises, &renew.letter)?;
        if renew.letter.leaf.role != node.signed_role() {
            return Err(Rejection::Role);
        }
        self.check_ladder(Some(node), &renew.letter, entry.now)?;
        if node.leaves().any(|leaf| leaf.serial == renew.letter.leaf.serial) {
            return Err(Rejection::SerialUsed);
        }
        let issuances = one_more(node, entry.now)?;
        let now = entry.now;
        let unfinished = node.unfinished.is_some();
        let dropped = self.change(&renew.node, |node| {
            node.issuances = issuances;
            node.leaves_end = node.leaves_end.max(renew.letter.leaf.not_after);
            let dropped = push_bounded(&mut node.offered, renew.letter.leaf.clone(), node::OFFERED_LEAVES_MAX);
            node.mailbox.retain(|letter| now.since(letter.issued) < node::LETTER_LIFE);
            node.mailbox.retain(|letter| node.offered.contains(&letter.leaf));
            push_bounded(&mut node.mailbox, Arc::clone(&renew.letter), node::LETTERS_MAX);
            dropped
        });
        if unfinished {
            if let Some(leaf) = dropped.flatten() {
                self.forget_key(&leaf.spki, &renew.node);
            }
            let keys: Vec<_> = self.known(&renew.node)?.join_keys().collect();
            for key in keys {
                self.index_join(key, &renew.node);
            }
        }
        self.answer_pending(&renew.node, &renew.letter.csr);
        self.note(entry, &renew.node, &renew.letter);
        Ok(Outcome::Issued { node: renew.node.clone(), letter: Arc::clone(&renew.letter), fresh: true })
    }

    /// What this very request of a node was answered with, as long as it holds.
    pub fn letter_for<'a>(&self, node: &'a Node, csr: &[u8], now: Time) -> Option<&'a Arc<Letter>> {
        let answers = |letter: &&Arc<Letter>| {
            letter.answers(csr, node.signed_role(), now) && self.roots.is_present(&letter.leaf.issuer)
        };
        node.mailbox.iter().find(answers)
    }

    /// A leaf was seen in use: it is the current one, what it replaced is known for another day, and the letters up to it
    /// are done with. A join is finished by it.
    pub(crate) fn confirm(
        &mut self,
        entry: &mut Entry<'_>,
        id: &NodeId,
        serial: &Serial,
    ) -> Result<Outcome, Rejection> {
        let node = self.known(id)?;
        let Some(place) = node.offered.iter().position(|leaf| leaf.serial == *serial) else {
            return Ok(Outcome::Unchanged);
        };
        let finished = node.unfinished;
        let keys: Vec<_> = node.join_keys().collect();
        let now = entry.now;
        let index = entry.index;
        let revoked = |leaf: &Leaf| self.revocations.contains(&leaf.issuer, &leaf.serial);
        let comes_back = node.current.as_ref().is_none_or(|leaf| !revoked(leaf));
        let bare = self.rotation().map(|rotation| rotation.bare.clone()).unwrap_or_default();
        self.change(id, |node| {
            let leaf = node.offered.remove(place);
            // What another key issued before, or what leads nowhere any more, it has given up.
            let useful = |other: &Leaf| other.issuer == leaf.issuer && !bare.contains(&other.serial);
            let mut before = 0..place;
            node.offered.retain(|other| before.next().is_none() || useful(other));
            let done = node.mailbox.iter().position(|letter| letter.leaf.serial == leaf.serial);
            node.mailbox.drain(..done.map_or(0, |last| last + 1));
            // Most nodes have nothing on offer for most of their life.
            node.offered.shrink_to_fit();
            node.mailbox.shrink_to_fit();
            if let Some(replaced) = node.current.replace(leaf).filter(|_| comes_back) {
                let until = now.saturating_add(node::LETTER_LIFE).min(replaced.not_after);
                push_bounded(&mut node.previous, (replaced, until), node::PREVIOUS_LEAVES_MAX);
            }
            node.previous.retain(|(_, until)| *until > now);
            node.unfinished = None;
            node.version = index;
            node.updated = now;
        });
        if let Some(token) = finished {
            Arc::make_mut(&mut self.tokens).count_unfinished(token.row, -1);
            for key in keys {
                self.forget_key(&key, id);
            }
        }
        let issuer = self.known(id)?.current.as_ref().map(|leaf| leaf.issuer);
        self.leave_aside(id, issuer.as_ref());
        Ok(Outcome::Done { version: index })
    }

    /// Puts a leaf into the issuance log.
    pub(crate) fn note(&mut self, entry: &mut Entry<'_>, id: &NodeId, letter: &Letter) {
        let asked = std::mem::take(&mut entry.asked);
        // Whoever renews is the node itself: its name stands there already.
        let by = match &asked.by {
            Actor::Node(node) if node == id => &Actor::Cluster,
            by => by,
        };
        let by = if self.log_told { by } else { &Actor::Cluster };
        let now = entry.now;
        self.write(entry, &asked, Private::default(), |private| {
            format::log_record_certificate(now, Some(id), by, private, &letter.certificate)
        });
        entry.asked = asked;
    }

    /// Puts certificates of CAs into the issuance log.
    pub(crate) fn note_authorities(&mut self, entry: &mut Entry<'_>, certificates: &[Vec<u8>]) {
        let (nobody, now) = (Asked::default(), entry.now);
        for certificate in certificates {
            // Who asked stands with what it was signed for.
            self.write(entry, &nobody, Private::default(), |private| {
                format::log_record_certificate(now, None, &Actor::Cluster, private, certificate)
            });
        }
    }
}

/// Adds to a list; what had to give way, if anything.
fn push_bounded<T>(list: &mut Vec<T>, item: T, max: usize) -> Option<T> {
    let dropped = (list.len() >= max).then(|| list.remove(0));
    list.push(item);
    dropped
}

/// The count of a node's certificates within the hour, with one more.
fn one_more(node: &Node, now: Time) -> Result<(Time, u32), Rejection> {
    let (since, count) = node.issuances;
    let issuances = if now.since(since) >= HOUR { (now, 1) } else { (since, count.saturating_add(1)) };
    if issuances.1 > ISSUANCES_PER_HOUR_MAX { Err(Rejection::NodeBusy) } else { Ok(issuances) }
}

/// Whether `node` may have one more certificate at `now`, in the cluster's time.
///
/// # Errors
/// [`Rejection::NodeBusy`].
pub fn room_to_renew(node: &Node, now: Time) -> Result<(), Rejection> {
    one_more(node, now).map(drop)
}

/// Whether `node` has had more certificates within the hour than is usual.
pub fn is_alarming(node: &Node, now: Time) -> bool {
    now.since(node.issuances.0) < HOUR && node.issuances.1 > ISSUANCES_PER_HOUR_ALARM
}
