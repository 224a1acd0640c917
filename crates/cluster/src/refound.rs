//! A cluster made anew with one manager: by force, when too few managers are left to decide anything, or from a backup. Rules:
//! - the epoch rises, so that whoever still has the old state is refused and told why;
//! - cluster id, roots, nodes and settings stay: nodes go on with the certificates they have;
//! - the one manager has the only place in the group; every other is let in no more: what it holds is another cluster's truth, and whether
//!   to give that up is not ours to say. It leaves and joins again, as another node;
//! - who was only to be a manager, and had no place in the group yet, goes on as the worker that it was: it holds nothing but its certificate.
//!   After a restore nobody knows what became of it meanwhile: it is let in no more, too;
//! - tokens with limits are closed: what was used of them elsewhere is not known;
//! - after a restore the secrets are fresh, and a leaf that was issued after the backup lets its holder come back, no more.
//!
//! It is applied to a store that nobody has open, and never travels through the log of a group.

use std::sync::Arc;
use std::time::Duration;

use imbl::OrdSet;
use pki::identity::{NodeId, Role};
use pki::issue::LEAF_BACKDATE;
use pki::time::Time;

use crate::account::Event;
use crate::apply::Entry;
use crate::authorize::Presented;
use crate::command::{Founder, Refound, Restored};
use crate::members::Member;
use crate::node::Node;
use crate::outcome::{Outcome, Rejection};
use crate::removal::Removal;
use crate::state::State;
use crate::tokens::limited::Closed;
use crate::tokens::{MANAGER_ROW, WORKER_ROW};

/// A leaf's begin is rounded to the minute.
const ROUNDED: Duration = Duration::from_secs(60);

/// When a cluster was made anew, last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refounded {
    /// When.
    pub at: Time,
    /// The time of the backup that it was made from; none: it was forced.
    pub backup: Option<Time>,
    /// The managers of before that are none any more, and those that were about to be one.
    pub outlived: OrdSet<NodeId>,
}

impl State {
    pub(crate) fn refound(&mut self, entry: &mut Entry<'_>, refound: &Refound) -> Result<Outcome, Rejection> {
        if refound.epoch <= self.epoch {
            return Err(Rejection::Epoch);
        }
        let (id, raft_id, backup) = match &refound.founder {
            Founder::Manager(id) => {
                let row = self.members.rows.get(id).ok_or(Rejection::NotSeated)?;
                if self.known(id)?.role != Role::Manager {
                    return Err(Rejection::NotSeated);
                }
                (id, row.raft_id, None)
            }
            Founder::Restored(restored) => {
                self.check_founder(entry, restored)?;
                (&restored.node, self.members.next_raft_id, Some(restored.backup))
            }
        };
        let others: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.id != *id && node.is_or_will_be_manager())
            .map(|node| node.id.clone())
            .collect();
        for other in &others {
            self.change(other, |node| {
                node.role = Role::Worker;
                node.spec.role = Role::Worker;
                node.promoting = None;
                node.cut = node.cut.saturating_add(1);
                node.version = entry.index;
                node.updated = entry.now;
            });
        }
        let placed = |id: &NodeId| backup.is_some() || self.members.rows.contains_key(id);
        let outlived = others.into_iter().filter(placed).collect();
        if let Founder::Restored(restored) = &refound.founder {
            self.take_founder(entry, restored);
        } else {
            self.change(id, |node| {
                node.spec.role = Role::Manager;
                node.version = entry.index;
                node.updated = entry.now;
            });
        }
        let row = Member { raft_id, addr: refound.addr.clone() };
        Arc::make_mut(&mut self.tokens).limited.close_all(Closed::Refounded, entry.now);
        self.members.rows = std::iter::once((id.clone(), row)).collect();
        self.members.next_raft_id = self.members.next_raft_id.max(raft_id.saturating_add(1));
        self.members.key_holders.insert(id.clone());
        self.epoch = refound.epoch;
        entry.tell(Event::Refounded { epoch: refound.epoch, backup });
        self.refounded = Some(Refounded { at: entry.now, backup, outlived });
        self.cluster_version = entry.index;
        self.cluster_updated = entry.now;
        Ok(Outcome::Enlisted { raft_id })
    }

    fn check_founder(&self, entry: &Entry<'_>, restored: &Restored) -> Result<(), Rejection> {
        let leaf = &restored.letter.leaf;
        if !self.roots.is_signing(&leaf.issuer) {
            return Err(Rejection::Issuer);
        }
        if leaf.role != Role::Manager || restored.spec.role != Role::Manager {
            return Err(Rejection::Role);
        }
        self.check_ladder(None, &restored.letter, entry.now)?;
        if self.settings.autolock != restored.unlock.is_some() {
            return Err(Rejection::Way);
        }
        if self.nodes.contains_key(&restored.node) || self.removals.contains_key(&restored.node) {
            return Err(Rejection::IdTaken);
        }
        Ok(())
    }

    fn take_founder(&mut self, entry: &mut Entry<'_>, restored: &Restored) {
        let leaf = &restored.letter.leaf;
        let node = Node {
            id: restored.node.clone(),
            role: Role::Manager,
            spec: restored.spec.clone(),
            created: entry.now,
            updated: entry.now,
            version: entry.index,
            cut: 0,
            ours: true,
            unfinished: None,
            current: Some(leaf.clone()),
            offered: Vec::new(),
            previous: Vec::new(),
            mailbox: Vec::new(),
            pending: None,
            report: None,
            down: false,
            last_seen: None,
            issuances: (entry.now, 0),
            leaves_end: leaf.not_after,
            promoting: None,
        };
        self.nodes.insert(restored.node.clone(), Arc::new(node));
        self.note(entry, &restored.node, &restored.letter);
        let tokens = Arc::make_mut(&mut self.tokens);
        tokens.replace_secret(WORKER_ROW, Arc::clone(&restored.worker_secret.0), entry.now);
        tokens.replace_secret(MANAGER_ROW, Arc::clone(&restored.manager_secret.0), entry.now);
        self.lock_by(restored.unlock.clone());
        for id in restored.removed.iter().filter(|id| **id != restored.node) {
            // One that came after the backup has no record; that it was removed is all that is known of it.
            let unknown = entry.now.saturating_add(self.settings.leaf_life());
            let until = self.nodes.get(id).map_or(unknown, |node| node.leaves_end);
            entry.tell(Event::Removed(id.clone()));
            self.revoke_removed(entry, id);
            self.let_go(id);
            self.removals.entry(id.clone()).or_insert(Removal { at: entry.now, until });
        }
    }

    /// Whether this leaf was a manager's before the cluster was made anew, and is a member's no more.
    pub fn was_manager(&self, leaf: &Presented, now: Time) -> bool {
        let ours = self.is_outlived(&leaf.node) && self.cluster_id() == Some(&leaf.cluster);
        let Some(node) = self.nodes.get(&leaf.node).filter(|_| ours) else { return false };
        let registered = node.leaves().any(|known| known.serial == leaf.serial && known.spki == leaf.spki);
        registered || self.is_after_backup(leaf, now)
    }

    /// Whether this node was a manager before the cluster was made anew.
    pub(crate) fn is_outlived(&self, id: &NodeId) -> bool {
        self.refounded.as_ref().is_some_and(|refounded| refounded.outlived.contains(id))
    }

    /// Whether this leaf may have been issued after the backup that the cluster was restored from, to a node that the backup
    /// knows: nobody can tell, so its holder may come back for one leaf life, and gets another.
    pub(crate) fn is_after_backup(&self, leaf: &Presented, now: Time) -> bool {
        let Some(Refounded { at, backup: Some(backup), .. }) = self.refounded else { return false };
        let issued = leaf.not_before.saturating_add(LEAF_BACKDATE + ROUNDED);
        let within = issued >= backup && leaf.not_before <= at;
        within && leaf.not_after >= now && now < at.saturating_add(self.settings.leaf_life())
    }
}
