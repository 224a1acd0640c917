//! Certificates taken back before their end. Rules:
//! - what was taken back stays so until it has ended; then its row goes, once lists of that time have shown it;
//! - a node's connections are cut with the entry that takes back a leaf of it, and the leaf opens nothing any more;
//! - a member of the raft group keeps the leaf that it is known by: it is demoted first, or renewed;
//! - what a removed or re-keyed node was issued, and nobody here remembers, is on the list of what the leader has to look up in the
//!   issuance log.
//!
//! Rows are numbered in the order in which they came, so whoever holds those up to a number asks for the rest. Of what an ordinary change
//! writes or sends nothing is here: the maps share what did not change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imbl::{OrdMap, OrdSet};
use pki::identity::NodeId;
use pki::serial::Serial;
use pki::time::Time;

use crate::account::Event;
use crate::apply::Entry;
use crate::command::{Revoke, Withdraw, Withdrawn};
use crate::node::{IssuerHash, Leaf, Node};
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

/// Rows at a time, at most.
pub const REVOKED_MAX: usize = 1_000_000;

/// Certificates named in one command, at most.
pub const REVOKED_PER_COMMAND_MAX: usize = 1024;

/// How long a row stays after the certificate's end: lists that were signed before are good for so long (RFC 5280, 3.3).
pub const SHOWN_AFTER_END: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// Which certificate: its issuer and its serial.
pub type RevokedKey = (IssuerHash, Serial);

/// Everything that was taken back.
///
/// Stored since format 1, tags 42 to 44: change only with a sample in testdata/state/.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    version: u64,
    rows: OrdMap<RevokedKey, Revoked>,
    order: OrdMap<u64, RevokedKey>,
    ends: OrdSet<(Time, RevokedKey)>,
    owed: OrdMap<NodeId, Owed>,
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations").field("version", &self.version).field("rows", &self.rows.len()).finish()
    }
}

/// One certificate that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Whose it was, if that is known.
    pub node: Option<NodeId>,
    /// When it was taken back.
    pub at: Time,
    /// Why.
    pub reason: Reason,
    /// When it ends.
    pub until: Time,
    /// Its number.
    pub version: u64,
}

/// A node of whose certificates the older ones are still to be found in the issuance log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Those issued up to then.
    pub at: Time,
    /// None was issued before.
    pub since: Time,
    /// Why they are taken back.
    pub reason: Reason,
    /// The one that is kept, if one is.
    pub keep: Option<Serial>,
}

/// Why a certificate is taken back (RFC 5280, 5.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Nobody said.
    #[default]
    Unspecified,
    /// Somebody else may have its key.
    KeyCompromise,
    /// It was replaced.
    Superseded,
    /// Its node is no longer of the cluster.
    CessationOfOperation,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Unspecified, Self::KeyCompromise, Self::Superseded, Self::CessationOfOperation];

    /// Its CRLReason.
    pub fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
        }
    }

    /// The reason with this CRLReason.
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The word for it, as OpenSSL writes it too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "keyCompromise",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessationOfOperation",
        }
    }
}

impl Revocations {
    /// How many rows ever came.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is known of a certificate that was taken back.
    pub fn get(&self, issuer: &IssuerHash, serial: &Serial) -> Option<&Revoked> {
        self.rows.get(&(*issuer, *serial))
    }

    /// Whether a certificate was taken back.
    pub fn contains(&self, issuer: &IssuerHash, serial: &Serial) -> bool {
        self.rows.contains_key(&(*issuer, *serial))
    }

    /// All of them, by issuer and serial.
    pub fn rows(&self) -> impl Iterator<Item = (&RevokedKey, &Revoked)> {
        self.rows.iter()
    }

    /// Those that came after `version`, in the order in which they came.
    pub fn since(&self, version: u64) -> impl Iterator<Item = (&RevokedKey, &Revoked)> {
        let later = self.order.range(version.saturating_add(1)..);
        later.filter_map(|(_, key)| self.rows.get_key_value(key))
    }

    /// Nodes whose older certificates are still to be looked up.
    pub fn owed(&self) -> &OrdMap<NodeId, Owed> {
        &self.owed
    }

    /// Takes a row in, with the next number; whether it is new.
    fn take(&mut self, key: RevokedKey, mut row: Revoked) -> bool {
        if self.rows.contains_key(&key) {
            return false;
        }
        self.version = self.version.saturating_add(1);
        row.version = self.version;
        self.put(key, row);
        true
    }

    fn put(&mut self, key: RevokedKey, row: Revoked) {
        self.order.insert(row.version, key);
        self.ends.insert((row.until, key));
        self.rows.insert(key, row);
    }

    /// Whether a row ended so long ago that it goes.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.ends.get_min().is_some_and(|(until, _)| gone(*until, now))
    }

    /// Lets go of rows that ended long ago; whether there were any.
    pub(crate) fn collect(&mut self, now: Time) -> bool {
        let mut any = false;
        while let Some((until, key)) = self.ends.get_min().copied() {
            if !gone(until, now) {
                break;
            }
            any = true;
            self.ends.remove(&(until, key));
            if let Some(row) = self.rows.remove(&key) {
                self.order.remove(&row.version);
            }
        }
        any
    }

    /// As it was stored; none if it contradicts itself.
    pub(crate) fn from_parts(
        version: u64,
        rows: impl IntoIterator<Item = (RevokedKey, Revoked)>,
        owed: OrdMap<NodeId, Owed>,
    ) -> Option<Self> {
        let mut read = Self { version, owed, ..Self::default() };
        for (key, row) in rows {
            let known = read.rows.contains_key(&key) || read.order.contains_key(&row.version);
            if known || row.version == 0 || row.version > version {
                return None;
            }
            read.put(key, row);
        }
        Some(read)
    }

    /// What contradicts itself in it.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        let counts = self.rows.len() == self.order.len() && self.rows.len() == self.ends.len();
        let found = |(key, row): (&RevokedKey, &Revoked)| {
            self.order.get(&row.version) == Some(key) && self.ends.contains(&(row.until, *key))
        };
        if !counts || !self.rows.iter().all(found) {
            return Some("rows are found by number and by end");
        }
        match self.order.get_max() {
            Some((last, _)) if *last > self.version => Some("a number is given once"),
            _ => None,
        }
    }
}

fn gone(until: Time, now: Time) -> bool {
    until.saturating_add(SHOWN_AFTER_END) < now
}

impl State {
    pub(crate) fn revoke(&mut self, entry: &mut Entry<'_>, revoke: &Revoke) -> Result<Outcome, Rejection> {
        let before = self.revocations.version;
        match &revoke.what {
            Withdraw::Certificates(certificates) => {
                self.room_for(certificates.len())?;
                if certificates.iter().any(|one| self.is_members(&(one.issuer, one.serial))) {
                    return Err(Rejection::Manager);
                }
                let holders = self.holders(certificates);
                for one in certificates {
                    let holder = holders.get(&(one.issuer, one.serial)).cloned();
                    let row = Revoked {
                        node: one.node.clone().or_else(|| holder.clone()),
                        at: entry.now,
                        reason: revoke.reason,
                        until: one.until,
                        version: 0,
                    };
                    self.take_back(entry, (one.issuer, one.serial), row, holder);
                }
            }
            Withdraw::Node { node, keep } => {
                self.revoke_node(entry, node, *keep, revoke.reason)?;
                return Ok(Outcome::Done { version: entry.index });
            }
            Withdraw::Found { node, at, certificates, last } => {
                self.room_for(certificates.len())?;
                // Somebody else found them before.
                let Some(owed) = self.revocations.owed.get(node).filter(|owed| owed.at == *at).cloned() else {
                    return Ok(Outcome::Unchanged);
                };
                let holders = self.holders(certificates);
                for one in certificates {
                    let kept = owed.keep == Some(one.serial) || self.is_members(&(one.issuer, one.serial));
                    if kept || gone(one.until, entry.now) {
                        continue;
                    }
                    let row = Revoked {
                        node: Some(node.clone()),
                        at: owed.at,
                        reason: owed.reason,
                        until: one.until,
                        version: 0,
                    };
                    let holder = holders.get(&(one.issuer, one.serial)).cloned();
                    self.take_back(entry, (one.issuer, one.serial), row, holder);
                }
                if *last {
                    self.revocations.owed.remove(node);
                    return Ok(Outcome::Done { version: entry.index });
                }
            }
        }
        let any = self.revocations.version != before;
        Ok(if any { Outcome::Done { version: entry.index } } else { Outcome::Unchanged })
    }

    /// Everything that a node was issued before now, apart from what is kept. If that is not in use yet, its connections are let go, so that
    /// it comes with it, and nothing is taken back.
    fn revoke_node(
        &mut self,
        entry: &mut Entry<'_>,
        id: &NodeId,
        keep: Option<Serial>,
        reason: Reason,
    ) -> Result<(), Rejection> {
        let node = self.known(id)?;
        let is_kept = |leaf: &Leaf| keep == Some(leaf.serial);
        let used = node.current.as_ref().is_some_and(is_kept);
        if keep.is_some() && !used && !node.offered.iter().any(is_kept) {
            return Err(Rejection::NotKept);
        }
        if keep.is_none() && self.members.rows.contains_key(id) {
            return Err(Rejection::Manager);
        }
        if keep.is_none() || used {
            let (since, leaves) = (node.created, node.leaves().cloned().collect::<Vec<_>>());
            self.room_for(leaves.len())?;
            self.give_up_pending(id);
            for leaf in leaves.into_iter().filter(|leaf| !is_kept(leaf)) {
                let row = row(id, &leaf, entry.now, reason);
                self.take_back(entry, (leaf.issuer, leaf.serial), row, Some(id.clone()));
            }
            self.revocations.owed.insert(id.clone(), Owed { at: entry.now, since, reason, keep });
        }
        self.change(id, |node| {
            node.cut = node.cut.saturating_add(1);
            node.version = entry.index;
            node.updated = entry.now;
        });
        Ok(())
    }

    /// What a node that is removed was issued; its record is still there.
    pub(crate) fn revoke_removed(&mut self, entry: &Entry<'_>, id: &NodeId) {
        let reason = Reason::CessationOfOperation;
        self.revoke_known(entry, id, reason);
        let Some(node) = self.nodes.get(id) else { return };
        if node.leaves_end >= entry.now {
            self.revocations.owed.insert(id.clone(), Owed { at: entry.now, since: node.created, reason, keep: None });
        }
    }

    /// The leaves that are on record for a node whose record goes.
    pub(crate) fn revoke_known(&mut self, entry: &Entry<'_>, id: &NodeId, reason: Reason) {
        let Some(node) = self.nodes.get(id).cloned() else { return };
        for leaf in node.leaves().filter(|leaf| leaf.not_after >= entry.now) {
            // Without room for it the node is removed all the same: managers refuse it anyway.
            if self.revocations.len() < REVOKED_MAX {
                self.revocations.take((leaf.issuer, leaf.serial), row(id, leaf, entry.now, reason));
            }
        }
    }

    /// Whether every leaf that a node could come with was taken back.
    pub fn is_revoked(&self, node: &Node) -> bool {
        let revoked = |leaf: &Leaf| self.revocations.contains(&leaf.issuer, &leaf.serial);
        node.current.as_ref().is_some_and(revoked) && node.offered.iter().all(revoked)
    }

    fn room_for(&self, rows: usize) -> Result<(), Rejection> {
        let full = rows > REVOKED_PER_COMMAND_MAX || self.revocations.len().saturating_add(rows) > REVOKED_MAX;
        if full { Err(Rejection::TooManyRevoked) } else { Ok(()) }
    }

    /// Whether it is the leaf that a member of the raft group is known by.
    fn is_members(&self, key: &RevokedKey) -> bool {
        self.members.rows.keys().filter_map(|id| self.nodes.get(id)?.current.as_ref()).any(|leaf| is(leaf, key))
    }

    /// Whose leaves these are, of those on record. Of those that are not named rightly every node is asked, once for all.
    fn holders(&self, certificates: &[Withdrawn]) -> BTreeMap<RevokedKey, NodeId> {
        let mut found = BTreeMap::new();
        let mut others = BTreeSet::new();
        for one in certificates {
            let key = (one.issuer, one.serial);
            let named = one.node.as_ref().and_then(|id| self.nodes.get(id));
            match named.filter(|node| node.leaves().any(|leaf| is(leaf, &key))) {
                Some(node) => drop(found.insert(key, node.id.clone())),
                None => drop(others.insert(key)),
            }
        }
        if !others.is_empty() {
            for node in self.nodes.values() {
                let keys = node.leaves().map(|leaf| (leaf.issuer, leaf.serial)).filter(|key| others.contains(key));
                found.extend(keys.map(|key| (key, node.id.clone())));
            }
        }
        found
    }

    fn take_back(&mut self, entry: &mut Entry<'_>, key: RevokedKey, row: Revoked, holder: Option<NodeId>) {
        let (node, reason) = (row.node.clone(), row.reason.word().to_owned());
        if !self.revocations.take(key, row) {
            return;
        }
        if let Some(id) = &holder {
            self.unregister(entry, id, &key);
        }
        entry.tell(Event::Revoked { node, serial: key.1, reason });
    }

    /// A leaf of a node opens nothing any more. The one it was last seen with stays on its record: it is known by that. Whatever the node
    /// waits for may have been asked for with that very leaf: it is given up, and asked for again with another.
    fn unregister(&mut self, entry: &Entry<'_>, id: &NodeId, key: &RevokedKey) {
        let Some(node) = self.nodes.get(id).filter(|node| node.leaves().any(|leaf| is(leaf, key))).cloned() else {
            return;
        };
        self.give_up_pending(id);
        self.change(id, |node| {
            node.offered.retain(|leaf| !is(leaf, key));
            node.previous.retain(|(leaf, _)| !is(leaf, key));
            node.mailbox.retain(|letter| !is(&letter.leaf, key));
            node.cut = node.cut.saturating_add(1);
            node.version = entry.index;
            node.updated = entry.now;
        });
        if node.unfinished.is_some() {
            for leaf in node.offered.iter().filter(|leaf| is(leaf, key)) {
                self.forget_unused_key(&leaf.spki, id);
            }
        }
    }

    /// Nobody signs any more what a node asked for before.
    fn give_up_pending(&mut self, id: &NodeId) {
        let Some(pending) = self.change(id, |node| node.pending.take()).flatten() else { return };
        self.pending.remove(id);
        if self.nodes.get(id).is_some_and(|node| node.unfinished.is_some()) {
            self.forget_unused_key(&pending.spki, id);
        }
    }
}

fn is(leaf: &Leaf, (issuer, serial): &RevokedKey) -> bool {
    leaf.issuer == *issuer && leaf.serial == *serial
}

fn row(id: &NodeId, leaf: &Leaf, at: Time, reason: Reason) -> Revoked {
    Revoked { node: Some(id.clone()), at, reason, until: leaf.not_after, version: 0 }
}
