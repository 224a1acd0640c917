//! The operator's wishes: a node's spec, the cluster's settings, fresh token secrets.

use std::sync::Arc;

use pki::identity::{NodeId, Role};

use crate::account::Event;
use crate::apply::Entry;
use crate::command::UpdateCluster;
use crate::node::{BlobDigest, Node, PROMOTION_LIFE, Spec};
use crate::outcome::{Outcome, Rejection};
use crate::roots::{Custody, Root, Roots};
use crate::state::State;
use crate::tokens::{MANAGER_ROW, WORKER_ROW};

impl State {
    pub(crate) fn update_node(
        &mut self,
        entry: &mut Entry<'_>,
        id: &NodeId,
        version: u64,
        spec: &Spec,
    ) -> Result<Outcome, Rejection> {
        let node = self.known(id)?;
        if node.version != version {
            return Err(Rejection::OutOfSequence);
        }
        let promoting = self.judge_role(node, spec.role)?.then(|| entry.stamp.saturating_add(PROMOTION_LIFE));
        if node.spec == *spec {
            return Ok(Outcome::Unchanged);
        }
        let wish = wish(&node.spec, spec);
        entry.tell(Event::NodeUpdated { node: id.clone(), wish });
        self.change(id, |node| {
            node.spec = spec.clone();
            node.promoting = promoting.or(node.promoting);
            node.version = entry.index;
            node.updated = entry.now;
        });
        Ok(Outcome::Done { version: entry.index })
    }

    /// Whether a node may be wished to be `role` (pki.md 13.1), and whether a promotion begins by that. A demotion that is wished
    /// for is not yet done, and may be taken back.
    fn judge_role(&self, node: &Node, role: Role) -> Result<bool, Rejection> {
        match (node.spec.role, role) {
            (Role::Worker, Role::Worker) | (Role::Manager, Role::Manager) => Ok(false),
            (Role::Worker, Role::Manager) if !node.ours => Err(Rejection::EngineNotPromotable),
            (Role::Worker, Role::Manager) => Ok(node.role == Role::Worker),
            (Role::Manager, Role::Worker) if node.role == Role::Worker => Err(Rejection::NotSeated),
            (Role::Manager, Role::Worker) if self.is_last_manager(&node.id) => Err(Rejection::LastManager),
            (Role::Manager, Role::Worker) => Ok(false),
        }
    }

    fn entrust(&mut self, trust: BlobDigest, custody: &Custody) -> Result<(), Rejection> {
        let change = |root: &mut Arc<Root>| {
            let same = root.trust == trust;
            if same {
                Arc::make_mut(root).custody = custody.clone();
            }
            same
        };
        let found = match &mut self.roots {
            Roots::None => false,
            Roots::Stable { root, .. } => change(root),
            Roots::Rotating(rotation) => {
                let rotation = Arc::make_mut(rotation);
                change(&mut rotation.old) || change(&mut rotation.new)
            }
        };
        if found { Ok(()) } else { Err(Rejection::Issuer) }
    }

    pub(crate) fn update_cluster(
        &mut self,
        entry: &mut Entry<'_>,
        update: &UpdateCluster,
    ) -> Result<Outcome, Rejection> {
        if self.cluster_version != update.version {
            return Err(Rejection::OutOfSequence);
        }
        if let Some(change) = &update.roots {
            let secrets = update.worker_secret.is_some() && update.manager_secret.is_some();
            self.change_roots(entry, change, secrets)?;
        }
        if let Some((trust, custody)) = &update.custody {
            self.entrust(*trust, custody)?;
            entry.tell(Event::CustodyChanged(custody.word().to_owned()));
        }
        let unlock = self.unlock_after(update);
        if let Some(settings) = update.settings.as_ref().filter(|settings| **settings != *self.settings) {
            entry.tell(Event::Settings);
            self.settings = Arc::new(settings.clone());
        }
        if unlock != self.unlock {
            entry.tell(Event::UnlockKeyChanged { locked: unlock.is_some() });
        }
        self.lock_by(unlock);
        let secrets = [(WORKER_ROW, &update.worker_secret), (MANAGER_ROW, &update.manager_secret)];
        for (row, secret) in secrets {
            if let Some(secret) = secret {
                Arc::make_mut(&mut self.tokens).replace_secret(row, Arc::clone(&secret.0), entry.now);
                self.forget_pending_joins(row);
                entry.tell(Event::TokenRotated { row });
            }
        }
        self.cluster_version = entry.index;
        self.cluster_updated = entry.now;
        Ok(Outcome::Done { version: entry.index })
    }
}

/// What is wished of a node from now on, in words that say nothing of names and labels.
fn wish(before: &Spec, after: &Spec) -> String {
    let role = (before.role != after.role).then(|| after.role.word());
    let availability = (before.availability != after.availability).then(|| after.availability.word());
    let words: Vec<_> = [role, availability].into_iter().flatten().collect();
    if words.is_empty() { "labels".to_owned() } else { words.join(", ") }
}
