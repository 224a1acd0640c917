//! The operator's wishes: a node's spec, the cluster's settings, fresh token secrets.

use std::sync::Arc;

use pki::identity::{NodeId, Role};

use crate::apply::Entry;
use crate::command::UpdateCluster;
use crate::node::Spec;
use crate::outcome::{Outcome, Rejection};
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
        let role_of_member = if self.members.rows.contains_key(id) { Role::Manager } else { node.role };
        if spec.role != node.spec.role || spec.role != role_of_member {
            return Err(Rejection::RoleFixed);
        }
        if node.spec == *spec {
            return Ok(Outcome::Unchanged);
        }
        self.change(id, |node| {
            node.spec = spec.clone();
            node.version = entry.index;
            node.updated = entry.now;
        });
        Ok(Outcome::Done { version: entry.index })
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
        if let Some(settings) = &update.settings {
            self.settings = Arc::new(settings.clone());
        }
        let secrets = [(WORKER_ROW, &update.worker_secret), (MANAGER_ROW, &update.manager_secret)];
        for (row, secret) in secrets {
            if let Some(secret) = secret {
                Arc::make_mut(&mut self.tokens).replace_secret(row, Arc::clone(&secret.0), entry.now);
            }
        }
        self.cluster_version = entry.index;
        self.cluster_updated = entry.now;
        Ok(Outcome::Done { version: entry.index })
    }
}
