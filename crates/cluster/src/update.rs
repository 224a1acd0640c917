//! The operator's wishes: a node's spec, the cluster's settings, fresh token secrets.

use std::sync::Arc;
use std::time::Duration;

use pki::identity::{NodeId, Role};

use crate::account::Event;
use crate::apply::Entry;
use crate::command::UpdateCluster;
use crate::node::{BlobDigest, Node, PROMOTION_LIFE, Spec};
use crate::outcome::{Outcome, Rejection};
use crate::roots::{Custody, Root, Roots};
use crate::settings::Settings;
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
            let changed = if update.told { changed(&self.settings, settings) } else { String::new() };
            entry.tell(Event::Settings(changed));
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

/// What of the settings is another, in words that say nothing of labels, addresses and the options of CAs: those may hold secrets.
fn changed(before: &Settings, after: &Settings) -> String {
    let Settings {
        labels,
        task_history,
        raft,
        heartbeat,
        node_cert_expiry,
        external_cas,
        force_rotate,
        autolock,
        default_addr_pool,
        subnet_size,
        data_path_port,
    } = after;
    let count = |history: &Option<i64>| history.map_or_else(|| "none".to_owned(), |count| count.to_string());
    let words = [
        (before.node_cert_expiry != *node_cert_expiry)
            .then(|| format!("cert-expiry {} -> {}", span(before.node_cert_expiry), span(*node_cert_expiry))),
        (before.heartbeat != *heartbeat)
            .then(|| format!("heartbeat {} -> {}", span(before.heartbeat), span(*heartbeat))),
        (before.external_cas != *external_cas)
            .then(|| format!("external CAs ({} -> {})", before.external_cas.len(), external_cas.len())),
        (before.force_rotate != *force_rotate).then(|| "another root asked for".to_owned()),
        (before.autolock != *autolock).then(|| format!("autolock {}", if *autolock { "on" } else { "off" })),
        (before.task_history != *task_history)
            .then(|| format!("task-history-limit {} -> {}", count(&before.task_history), count(task_history))),
        (before.raft != *raft).then(|| "raft".to_owned()),
        (before.labels != *labels).then(|| "labels".to_owned()),
        (before.default_addr_pool != *default_addr_pool || before.subnet_size != *subnet_size)
            .then(|| "address pools".to_owned()),
        (before.data_path_port != *data_path_port)
            .then(|| format!("data-path-port {} -> {data_path_port}", before.data_path_port)),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A time in the largest unit that it is a whole number of.
fn span(time: Duration) -> String {
    let (seconds, rest) = (time.as_secs(), time.subsec_nanos());
    match seconds {
        _ if rest != 0 => format!("{}ms", time.as_millis()),
        0 => "default".to_owned(),
        hours if hours.is_multiple_of(3600) => format!("{}h", hours / 3600),
        minutes if minutes.is_multiple_of(60) => format!("{}m", minutes / 60),
        seconds => format!("{seconds}s"),
    }
}

/// What is wished of a node from now on, in words that say nothing of names and labels.
fn wish(before: &Spec, after: &Spec) -> String {
    let role = (before.role != after.role).then(|| after.role.word());
    let availability = (before.availability != after.availability).then(|| after.availability.word());
    let words: Vec<_> = [role, availability].into_iter().flatten().collect();
    if words.is_empty() { "labels".to_owned() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ExternalCa;

    #[test]
    fn what_is_changed_is_told_and_no_secret() {
        let before = Settings::default();
        let with = |change: fn(&mut Settings)| {
            let mut after = before.clone();
            change(&mut after);
            changed(&before, &after)
        };
        let secret = |after: &mut Settings| {
            let options = [("password".to_owned(), "hunter2".to_owned())].into();
            let url = "https://hunter2@ca.example".to_owned();
            after.external_cas.push(ExternalCa { url, options, ca_cert: "hunter2".to_owned() });
            after.labels.insert("hunter2".to_owned(), "hunter2".to_owned());
            after.default_addr_pool.push("hunter2".to_owned());
        };
        type Change = fn(&mut Settings);
        let rows: [(Change, &str); 8] = [
            (|_| (), ""),
            (|after| after.node_cert_expiry = Duration::from_secs(720 * 3600), "cert-expiry 2160h -> 720h"),
            (|after| after.node_cert_expiry = Duration::from_secs(5400), "cert-expiry 2160h -> 90m"),
            (|after| after.heartbeat = Duration::from_millis(1500), "heartbeat 5s -> 1500ms"),
            (|after| after.autolock = true, "autolock on"),
            (|after| after.task_history = None, "task-history-limit 5 -> none"),
            (
                |after| (after.force_rotate, after.raft.election_tick, after.data_path_port) = (1, 3, 1),
                "another root asked for, raft, data-path-port 4789 -> 1",
            ),
            (secret, "external CAs (0 -> 1), labels, address pools"),
        ];
        for (change, expected) in rows {
            assert_eq!(with(change), expected);
        }
    }
}
