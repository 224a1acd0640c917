//! Who leads, who is in the group, and who was heard when: raft's metrics in our own words.

use super::Types;
use super::machine::Machine;
use crate::group::{Group, Leadership, Seen};
use openraft::Instant as _;
use openraft::alias::InstantOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::{Raft, ServerState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the leader's view of the others is renewed, at most.
const REST: Duration = Duration::from_millis(50);

/// What is known of the group.
pub(super) struct View {
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) group: watch::Sender<Arc<Group>>,
    /// The last entry that the snapshot on disk covers, as far as raft knows.
    pub(super) snapshot: watch::Sender<u64>,
    /// When a leader was heard last.
    heard: Mutex<Option<Instant>>,
}

impl View {
    pub(super) fn new() -> Self {
        let (leadership, group) = (watch::Sender::default(), watch::Sender::default());
        Self { leadership, group, snapshot: watch::Sender::default(), heard: Mutex::new(None) }
    }

    /// A leader said something.
    pub(super) fn heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn last_heard(&self) -> Option<Instant> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, leadership: Leadership, group: Group) {
        self.leadership.send_if_modified(|shown| std::mem::replace(shown, leadership) != leadership);
        self.group.send_if_modified(|shown| {
            let new = **shown != group;
            if new {
                *shown = Arc::new(group);
            }
            new
        });
    }
}

fn leadership(server: &RaftServerMetrics<Types>, applied: Option<u64>) -> Leadership {
    let term = server.vote.leader_id.term;
    let here = server.state == ServerState::Leader && applied == Some(term);
    Leadership { term, leader: server.current_leader, here }
}

/// The same moment by openraft's clock and by ours.
struct Start(InstantOf<Types>, Instant);

fn group(server: &RaftServerMetrics<Types>, data: &RaftDataMetrics<Types>, start: &Start) -> Group {
    let members = server.membership_config.membership();
    let mut group =
        Group { voters: members.voter_ids().collect(), learners: members.learner_ids().collect(), ..Group::default() };
    let Some(replication) = data.replication.as_ref().filter(|_| server.state == ServerState::Leader) else {
        return group;
    };
    let next = |index: u64| index.saturating_add(1);
    let end = data.last_log.map_or(0, |id| next(id.index));
    for (id, matched) in replication.iter().filter(|(id, _)| **id != server.id) {
        let behind = end.saturating_sub(matched.map_or(0, |id| next(id.index)));
        let acked = data.heartbeat.as_ref().and_then(|all| all.get(id).copied().flatten());
        let contact = acked.and_then(|at| start.1.checked_add(at.into_inner() - start.0));
        group.members.insert(*id, Seen { behind, contact });
    }
    group
}

/// Keeps the view up to date until raft ends. It holds nothing that would keep raft alive.
pub(super) fn follow(raft: &Raft<Types, Machine>, view: Arc<View>) -> impl Future<Output = ()> + Send + 'static {
    let mut server = raft.server_metrics();
    let mut data = raft.data_metrics();
    let mut applied = raft.watch_apply_progress();
    let mut snapshots = raft.watch_snapshot_progress();
    let start = Start(InstantOf::<Types>::now(), Instant::now());
    async move {
        loop {
            let now = server.borrow_and_update().clone();
            let leads = now.state == ServerState::Leader;
            let leadership = leadership(&now, applied.get().map(|id| id.leader_id.term));
            let group = group(&now, &data.borrow_and_update(), &start);
            let others = group.voters.len() + group.learners.len() > 1;
            view.show(leadership, group);
            let covered = snapshots.get();
            view.snapshot.send_replace(covered.map_or(0, |id| id.index));
            tokio::select! {
                more = server.changed() => if more.is_err() { return },
                more = applied.wait_until(|id| id.is_some_and(|id| id.leader_id.term >= leadership.term)),
                    if leads && !leadership.here => if more.is_err() { return },
                more = snapshots.wait_until(|id| *id > covered) => if more.is_err() { return },
                // Not for each entry.
                more = async { tokio::time::sleep(REST).await; data.changed().await }, if leads && others => {
                    if more.is_err() { return }
                }
            }
        }
    }
}
