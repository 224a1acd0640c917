//! Who leads, who is in the group, and who was heard when: raft's metrics in our own words.

use super::machine::Machine;
use super::{LogId, Types};
use crate::fatal::{Fatal, FatalFlag};
use crate::group::{Group, Leadership, Seen};
use openraft::Instant as _;
use openraft::alias::InstantOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use openraft::{Raft, ServerState};
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// When a leader was heard last, or, leading, a quorum.
    heard: Mutex<Option<Instant>>,
    ending: AtomicBool,
    fatal: FatalFlag,
}

impl View {
    pub(super) fn new(fatal: FatalFlag) -> Self {
        let (leadership, group, snapshot) = Default::default();
        Self { leadership, group, snapshot, heard: Mutex::default(), ending: AtomicBool::new(false), fatal }
    }

    /// A leader said something.
    pub(super) fn heard(&self) {
        self.heard_at(Instant::now());
    }

    fn heard_at(&self, at: Instant) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = (*heard).max(Some(at));
    }

    /// Raft will end, and is meant to.
    pub(super) fn ending(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
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

impl Start {
    fn ours(&self, at: InstantOf<Types>) -> Option<Instant> {
        self.1.checked_add(at - self.0)
    }
}

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
        let contact = acked.and_then(|at| start.ours(at.into_inner()));
        group.members.insert(*id, Seen { behind, contact });
    }
    group
}

/// Keeps the view up to date until raft ends, and says so if it was not meant to: with a group of others, nobody here need
/// notice. It holds nothing that would keep raft alive.
pub(super) fn follow(raft: &Raft<Types, Machine>, view: Arc<View>) -> impl Future<Output = ()> + Send + 'static {
    let mut server = raft.server_metrics();
    let mut data = raft.data_metrics();
    let mut applied = raft.watch_apply_progress();
    let mut snapshots = raft.watch_snapshot_progress();
    let start = Start(InstantOf::<Types>::now(), Instant::now());
    async move {
        let mut runs = true;
        while runs {
            let now = server.borrow_and_update().clone();
            let leads = now.state == ServerState::Leader;
            let leadership = leadership(&now, applied.get().map(|id| id.leader_id.term));
            let group = {
                let data = data.borrow_and_update();
                if let Some(acked) = data.last_quorum_acked.and_then(|at| start.ours(at.into_inner())) {
                    view.heard_at(acked);
                }
                group(&now, &data, &start)
            };
            let others = group.voters.len() + group.learners.len() > 1;
            view.show(leadership, group);
            let covered = snapshots.get();
            view.snapshot.send_replace(covered.map_or(0, |id| id.index));
            let of_own_term = |id: &Option<LogId>| id.is_some_and(|id| id.leader_id.term >= leadership.term);
            runs = tokio::select! {
                more = server.changed() => more.is_ok(),
                more = applied.wait_until(of_own_term), if leads && !leadership.here => more.is_ok(),
                more = snapshots.wait_until(|id| *id > covered) => more.is_ok(),
                // Not for each entry.
                more = async { tokio::time::sleep(REST).await; data.changed().await }, if leads && others => more.is_ok(),
            };
        }
        if !view.ending.load(Ordering::Relaxed) {
            view.fatal.raise(Fatal::new("raft ended"));
        }
    }
}
