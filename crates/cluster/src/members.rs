//! The managers in the raft group, and who ever held the root key. Rules:
//! - a place in the group has a number that is never given again: not to another node, not to the same;
//! - whoever is given a place is given the root's key with it, and is remembered for that;
//! - a node is a manager from when it votes until it is out of the group; until then, and afterwards, it is a worker;
//! - somebody is a manager at any time;
//! - a manager is wished away only while another is to stay, or to come: if that one fails, whoever is there stays.

use imbl::{OrdMap, OrdSet};
use pki::identity::{NodeId, Role};
use pki::serial::Serial;

use crate::account::{Event, KeyKind};
use crate::apply::Entry;
use crate::authorize::Presented;
use crate::node::{Leaf, PROMOTION_LIFE};
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

/// Managers and key holders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Each node with a place in the raft group, by node id: managers, and those that are to be managers soon.
    pub rows: OrdMap<NodeId, Member>,
    /// Every manager that ever held the root key: when one leaves, the root should be rotated.
    pub key_holders: OrdSet<NodeId>,
    /// The number that the next place gets.
    pub next_raft_id: u64,
}

/// A place in the raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number in the raft group.
    pub raft_id: u64,
    /// Its advertised `host:port`.
    pub addr: String,
}

impl Members {
    /// One more than the greatest number given, of those that are there.
    pub(crate) fn after_greatest(&self) -> u64 {
        self.rows.values().map(|row| row.raft_id.saturating_add(1)).max().unwrap_or_default()
    }
}

impl State {
    /// Each node with a place in the raft group.
    pub fn members(&self) -> &OrdMap<NodeId, Member> {
        &self.members.rows
    }

    /// The managers: what nodes are told to turn to. Who has a place and does not vote yet is not among them.
    pub fn managers(&self) -> impl Iterator<Item = (&NodeId, &Member)> {
        let seated = |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.role == Role::Manager);
        self.members.rows.iter().filter(move |(id, _)| seated(id))
    }

    /// Who this is among the members of the raft group, with its number there: a node with a place, by a manager's leaf that
    /// is on record in any standing. What the time says does not count: managers whose leaves have all ended go on, and
    /// give each other new ones.
    pub fn peer(&self, leaf: &Presented) -> Option<(NodeId, u64)> {
        let row = self.members.rows.get(&leaf.node)?;
        let node = self.nodes.get(&leaf.node)?;
        let registered = node.leaves().any(|known| {
            known.serial == leaf.serial
                && known.spki == leaf.spki
                && known.issuer == leaf.issuer
                && known.role == leaf.role
        });
        let revoked = self.revocations.contains(&leaf.issuer, &leaf.serial);
        let known = self.cluster_id() == Some(&leaf.cluster) && leaf.role == Role::Manager && registered && !revoked;
        known.then(|| (leaf.node.clone(), row.raft_id))
    }

    /// Whether no other member is a manager and is to stay one.
    pub(crate) fn is_last_manager(&self, id: &NodeId) -> bool {
        !self.members.rows.keys().any(|other| other != id && self.stays_manager(other))
    }

    /// Whether a node is a manager and is to stay one.
    pub(crate) fn stays_manager(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.role == Role::Manager && node.is_lasting())
    }

    /// Whether anybody else is a manager now.
    fn other_managers(&self, id: &NodeId) -> bool {
        let manages = |other: &NodeId| self.nodes.get(other).is_some_and(|node| node.role == Role::Manager);
        self.members.rows.keys().any(|other| other != id && manages(other))
    }

    pub(crate) fn enlist(
        &mut self,
        entry: &mut Entry<'_>,
        id: &NodeId,
        addr: &str,
        serial: &Serial,
        replaces: Option<u64>,
    ) -> Result<Outcome, Rejection> {
        let node = self.known(id)?;
        let row = self.members.rows.get(id).cloned();
        if row.is_none() && node.promoting.is_none() {
            return Err(Rejection::NotPromoted);
        }
        let revoked = |leaf: &Leaf| self.revocations.contains(&leaf.issuer, &leaf.serial);
        if !node.leaves().any(|leaf| leaf.serial == *serial && leaf.role == Role::Manager && !revoked(leaf)) {
            return Err(Rejection::Role);
        }
        let kept = row.filter(|row| replaces != Some(row.raft_id));
        let seated = node.role == Role::Manager;
        if kept.is_none() && seated {
            if node.spec.role == Role::Worker {
                return Err(Rejection::NotPromoted);
            }
            if !self.other_managers(id) {
                return Err(Rejection::LastManager);
            }
        }
        self.confirm(entry, id, serial)?;
        let raft_id = match kept {
            Some(row) => row.raft_id,
            None => {
                let next = self.members.next_raft_id;
                self.members.next_raft_id = next.saturating_add(1);
                if seated {
                    // It does not vote until it has caught up again.
                    self.change(id, |node| {
                        node.role = Role::Worker;
                        node.promoting = Some(entry.stamp.saturating_add(PROMOTION_LIFE));
                        node.version = entry.index;
                        node.updated = entry.now;
                    });
                }
                next
            }
        };
        let before = self.members.rows.insert(id.clone(), Member { raft_id, addr: addr.to_owned() });
        if before.is_none_or(|before| before.raft_id != raft_id) {
            entry.tell(Event::KeyDelivered { key: KeyKind::Root, node: Some(id.clone()) });
        }
        self.members.key_holders.insert(id.clone());
        // A member is waited for: everybody else needs it.
        self.leave_aside(id, None);
        Ok(Outcome::Enlisted { raft_id })
    }

    pub(crate) fn seat(&mut self, entry: &mut Entry<'_>, id: &NodeId, raft_id: u64) -> Result<Outcome, Rejection> {
        let node = self.known(id)?;
        if self.members.rows.get(id).is_none_or(|row| row.raft_id != raft_id) {
            return Err(Rejection::NotSeated);
        }
        if node.role == Role::Manager {
            return Ok(Outcome::Unchanged);
        }
        self.change(id, |node| {
            node.role = Role::Manager;
            node.promoting = None;
            node.version = entry.index;
            node.updated = entry.now;
        });
        entry.tell(Event::Promoted(id.clone()));
        Ok(Outcome::Done { version: entry.index })
    }

    /// A promotion that is not over is left alone. A manager that is still to be one, and yet out of the group, is promoted
    /// anew: it comes back under another number.
    pub(crate) fn unseat(
        &mut self,
        entry: &mut Entry<'_>,
        id: &NodeId,
        raft_id: Option<u64>,
    ) -> Result<Outcome, Rejection> {
        let node = self.known(id)?;
        if self.members.rows.get(id).map(|row| row.raft_id) != raft_id {
            return Ok(Outcome::Unchanged);
        }
        let stays = match (node.role, node.promoting) {
            (Role::Manager, _) if !self.other_managers(id) => return Err(Rejection::LastManager),
            (Role::Manager, _) => node.spec.role == Role::Manager,
            (Role::Worker, Some(until)) if until <= entry.stamp => false,
            (Role::Worker, _) => return Ok(Outcome::Unchanged),
        };
        self.members.rows.remove(id);
        entry.tell(Event::Demoted(id.clone()));
        self.change(id, |node| {
            node.role = Role::Worker;
            node.promoting = stays.then(|| entry.stamp.saturating_add(PROMOTION_LIFE));
            if !stays {
                node.spec.role = Role::Worker;
            }
            node.cut = node.cut.saturating_add(1);
            node.version = entry.index;
            node.updated = entry.now;
        });
        self.keep_managers(entry);
        Ok(Outcome::Done { version: entry.index })
    }

    /// Takes back the wishes that the managers leave, if nobody is left to stay in their stead. Nearly always a manager stays: then the
    /// other nodes are not looked at.
    pub(crate) fn keep_managers(&mut self, entry: &mut Entry<'_>) {
        if self.members.rows.keys().any(|id| self.stays_manager(id))
            || self.nodes.values().any(|node| node.is_lasting())
        {
            return;
        }
        let managers: Vec<_> = self.managers().map(|(id, _)| id.clone()).collect();
        for id in managers {
            entry.tell(Event::NodeUpdated { node: id.clone(), wish: Role::Manager.word().to_owned() });
            self.change(&id, |node| {
                node.spec.role = Role::Manager;
                node.version = entry.index;
                node.updated = entry.now;
            });
        }
    }
}
