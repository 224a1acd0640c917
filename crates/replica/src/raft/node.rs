//! One running member of the raft group, in our own words.

use super::log::Log;
use super::machine::{Machine, Progress};
use super::network::Peers;
use super::peer::Incoming;
use super::view::{self, View};
use super::{Reply, Stamped, Types};
use crate::carrier::Carrier;
use crate::fatal::Fatal;
use crate::group::{Group, Leadership};
use crate::handle::{RETRY_AFTER, ReadError};
use crate::published::Published;
use crate::store::{Store, StoreError};
use cluster::Batch;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ClientWriteResult;
use openraft::{BasicNode, Config, Instant as _, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// How long a sole voter may take to lead; it takes a few syncs.
const LEAD_WITHIN: Duration = Duration::from_secs(30);
/// How often a leader says that it is there; it waits so long for an answer to that, too.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// A follower that heard no leader for the second time, and then for a random one between the two, wants to lead: two seconds
/// after a leader is gone, another one leads.
const ELECTION: (Duration, Duration) = (Duration::from_millis(350), Duration::from_millis(700));

/// A running member. Clones share it.
#[derive(Clone)]
pub(crate) struct Node {
    pub(super) id: u64,
    pub(super) raft: Raft<Types, Machine>,
    pub(super) view: Arc<View>,
    pub(super) incoming: Arc<Mutex<Option<Incoming>>>,
    pub(super) carrier: Arc<dyn Carrier>,
}

/// What a member starts with.
pub(crate) struct Start {
    /// Its raft id.
    pub(crate) id: u64,
    /// Whether it makes the group.
    pub(crate) found: bool,
    /// Where its log is.
    pub(crate) store: Store,
    /// Where it publishes the state.
    pub(crate) states: Arc<Published>,
    /// How much log there is that no snapshot covers.
    pub(crate) progress: Arc<Progress>,
    /// The way to the others.
    pub(crate) carrier: Arc<dyn Carrier>,
}

/// Why raft did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    Store(StoreError),
    Fatal(Fatal),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Follows which snapshots there are.
pub(crate) struct Snapshots {
    covered: watch::Receiver<u64>,
    last: u64,
}

impl Snapshots {
    /// Returns when there is another snapshot: the last entries that it and the one before it cover. Never once raft is gone.
    pub(crate) async fn next(&mut self) -> (u64, u64) {
        let before = self.last;
        match self.covered.wait_for(|covered| *covered > before).await.map(|covered| *covered) {
            Ok(covered) => {
                self.last = covered;
                (covered, before)
            }
            Err(_) => std::future::pending().await,
        }
    }
}

impl Node {
    /// Starts raft over a store, rebuilds the state, and waits until a sole voter leads.
    pub(crate) async fn start(start: Start) -> Result<Self, StartError> {
        let Start { id, found, store, states, progress, carrier } = start;
        let fatal = store.fatal().clone();
        let log = Log::open(store.clone(), progress.clone())?;
        let machine = Machine::open(store, states, progress.clone())?;
        let late = machine.covers().filter(|covered| log.purged().is_none_or(|purged| purged < *covered));
        let sole = found || log.sole_voter() == Some(id);
        let alone = found || (sole && *log.alone().borrow());
        log.alone().send_replace(alone);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = Config {
            cluster_name: "swarmpki".into(),
            heartbeat_interval: millis(HEARTBEAT),
            election_timeout_min: millis(ELECTION.0),
            election_timeout_max: millis(ELECTION.1),
            // One whom nobody answers lets others lead, although they hear him.
            quorum_loss_probe_interval: Some(2 * millis(ELECTION.1)),
            // We say when: snapshots by entries and by bytes, and what is purged behind them.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            purge_batch_size: 1,
            // Alone, there is nobody to send heartbeats to or to lose an election against: no timer runs.
            enable_tick: !alone,
            enable_pre_vote: Some(true),
            // Alone, the log is the truth, and nobody else can have another under the same term. With others, entries
            // may have reached them before our own sync: then the same term must not be led again.
            enable_leader_restore: Some(alone),
            ..Config::default()
        };
        let config = config.validate().map_err(|error| StartError::Fatal(Fatal::new(error.to_string())))?;
        let stopped = |error: &dyn std::fmt::Display| StartError::Fatal(Fatal::new(error.to_string()));
        let peers = Peers { carrier: carrier.clone(), alone: log.alone().subscribe() };
        let raft = Raft::new(id, Arc::new(config), peers, log, machine).await.map_err(|e| stopped(&e))?;
        if found {
            let members = BTreeMap::from([(id, BasicNode::default())]);
            raft.initialize(members).await.map_err(|e| stopped(&e))?;
        }
        let view = Arc::new(View::new(fatal.clone()));
        tokio::spawn(fatal.watch_over("following the group", view::follow(&raft, view.clone())));
        if sole {
            raft.trigger().elect(false).await.map_err(|e| stopped(&e))?;
            raft.wait(Some(LEAD_WITHIN)).state(ServerState::Leader, "lead alone").await.map_err(|e| stopped(&e))?;
        }
        // A crash may have come between a snapshot and the purge behind it, and what is purged may hold a root key. What was
        // kept for others goes too: they get the snapshot.
        if let Some(covered) = late {
            progress.forget.add(covered);
            raft.trigger().purge_log(covered).await.map_err(|e| stopped(&e))?;
        }
        Ok(Self { id, raft, view, incoming: Arc::default(), carrier })
    }

    /// The raft id of this member.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.view.leadership.subscribe()
    }

    pub(crate) fn group(&self) -> watch::Receiver<Arc<Group>> {
        self.view.group.subscribe()
    }

    /// Who leads, at this moment.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.raft.server_metrics().borrow_watched().current_leader
    }

    /// Whether there is nobody else in the group.
    pub(crate) fn is_alone(&self) -> bool {
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        let mut members = server.membership_config.membership().nodes();
        server.state == ServerState::Leader && members.all(|(id, _)| *id == self.id)
    }

    /// Time since a leader was heard, or, leading, a quorum.
    pub(crate) fn contact(&self) -> Option<Duration> {
        let (server, data) = (self.raft.server_metrics(), self.raft.data_metrics());
        let server = server.borrow_watched();
        let heard = self.view.last_heard().map(|at| at.elapsed());
        if server.state != ServerState::Leader {
            return heard;
        }
        if server.membership_config.membership().voter_ids().eq([self.id]) {
            return Some(Duration::ZERO);
        }
        let acked = data.borrow_watched().last_quorum_acked.map(|at| at.elapsed());
        acked.into_iter().chain(heard).min()
    }

    /// Hands a batch to raft; `reply` is told what came of it, or dropped. It fails only when raft has stopped; nobody knows
    /// then whether it got the batch.
    pub(crate) async fn submit(&self, batch: Batch, reply: Reply<ClientWriteResult<Types>>) -> Result<(), Fatal> {
        if self.is_ending() {
            // Dropped: its callers are told that nobody knows.
            return Ok(());
        }
        let submitted = self.raft.client_write_ff(Stamped::new(batch), Some(reply)).await;
        submitted.map_err(|error| Fatal::new(error.to_string()))
    }

    /// Confirms leadership, and waits until everything committed before is applied here.
    pub(crate) async fn confirm(&self) -> Result<(), ReadError> {
        // Raft complains loudly of everybody who asks it anything once it has stopped; so elsewhere.
        if self.is_ending() {
            return Err(ReadError::Unavailable { retry_after: RETRY_AFTER });
        }
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(ReadError::NoLeader),
            Err(RaftError::APIError(_)) => Err(ReadError::Unavailable { retry_after: RETRY_AFTER }),
            Err(RaftError::Fatal(error)) => Err(ReadError::Fatal(Fatal::new(error.to_string()))),
        }
    }

    /// Asks for a snapshot; it is written beside the work.
    pub(crate) async fn snapshot(&self) {
        // It fails only when raft has stopped, which everybody learns elsewhere; so below.
        if !self.is_ending() {
            let _ = self.raft.trigger().snapshot().await;
        }
    }

    /// Follows which snapshots there are.
    pub(crate) fn snapshots(&self) -> Snapshots {
        Snapshots { covered: self.view.snapshot.subscribe(), last: 0 }
    }

    /// Removes the log up to an entry that a snapshot covers.
    pub(crate) async fn purge(&self, upto: u64) {
        if !self.is_ending() {
            let _ = self.raft.trigger().purge_log(upto).await;
        }
    }

    /// Returns when the log begins behind this entry.
    #[cfg(test)]
    pub(crate) async fn purged(&self, index: u64) {
        let purged =
            |metrics: &openraft::RaftMetrics<Types>| metrics.purged.is_some_and(|purged| purged.index >= index);
        self.raft.wait(None).metrics(purged, "purged").await.map(drop).unwrap_or_default();
    }

    /// Whether raft ends, or has ended, and is meant to.
    pub(crate) fn is_ending(&self) -> bool {
        self.view.is_ending()
    }

    /// Raft will end, and is meant to.
    pub(crate) fn ending(&self) {
        self.view.ending();
    }

    /// Stops raft and waits for its task.
    pub(crate) async fn stop(&self) {
        self.ending();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
    }
}
