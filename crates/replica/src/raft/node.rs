//! One running member of the raft group, in our own words.

use super::log::Log;
use super::machine::{Machine, Progress};
use super::network::NoPeers;
use super::view::{self, View};
use super::{Reply, Stamped, Types};
use crate::fatal::Fatal;
use crate::group::{Group, Leadership};
use crate::handle::{RETRY_AFTER, ReadError};
use crate::store::{Store, StoreError};
use cluster::{Batch, State};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::ClientWriteResult;
use openraft::{BasicNode, Config, Instant as _, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a sole voter may take to lead; it takes a few syncs.
const LEAD_WITHIN: Duration = Duration::from_secs(30);

/// A running member. Clones share it.
#[derive(Clone)]
pub(crate) struct Node {
    id: u64,
    raft: Raft<Types, Machine>,
    view: Arc<View>,
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

impl Node {
    /// Starts raft over a store, rebuilds the state, and waits until a sole voter leads. `found` makes the group.
    pub(crate) async fn start(
        id: u64,
        store: Store,
        found: bool,
        states: Arc<watch::Sender<Arc<State>>>,
        progress: Arc<Progress>,
    ) -> Result<Self, StartError> {
        let log = Log::open(store.clone(), progress.clone())?;
        let machine = Machine::open(store, states, progress.clone())?;
        let late = machine.covers().filter(|covered| log.purged().is_none_or(|purged| purged < *covered));
        let sole = found || log.sole_voter() == Some(id);
        let config = Config {
            cluster_name: "swarmpki".into(),
            heartbeat_interval: 250,
            election_timeout_min: 1000,
            election_timeout_max: 2000,
            // We say when: by entries and by bytes.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
            purge_batch_size: 1,
            // Alone, there is nobody to send heartbeats to or to lose an election against: no timer runs.
            enable_tick: !sole,
            enable_pre_vote: Some(true),
            // Alone, the log is the truth, and nobody else can have another under the same term. With others, entries
            // may have reached them before our own sync: then the same term must not be led again.
            enable_leader_restore: Some(sole),
            ..Config::default()
        };
        let config = config.validate().map_err(|error| StartError::Fatal(Fatal::new(error.to_string())))?;
        let stopped = |error: &dyn std::fmt::Display| StartError::Fatal(Fatal::new(error.to_string()));
        let raft = Raft::new(id, Arc::new(config), NoPeers, log, machine).await.map_err(|e| stopped(&e))?;
        if found {
            let members = BTreeMap::from([(id, BasicNode::default())]);
            raft.initialize(members).await.map_err(|e| stopped(&e))?;
        }
        let view = Arc::new(View::new());
        tokio::spawn(view::follow(&raft, view.clone()));
        if sole {
            raft.trigger().elect(false).await.map_err(|e| stopped(&e))?;
            raft.wait(Some(LEAD_WITHIN)).state(ServerState::Leader, "lead alone").await.map_err(|e| stopped(&e))?;
        }
        // A crash came between a snapshot and the purge behind it.
        if let Some(covered) = late {
            progress.forget.add(covered);
            raft.trigger().purge_log(covered).await.map_err(|e| stopped(&e))?;
        }
        Ok(Self { id, raft, view })
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

    /// Time since a leader was heard, or, leading, a quorum.
    pub(crate) fn contact(&self) -> Option<Duration> {
        let metrics = self.raft.data_metrics();
        let server = self.raft.server_metrics();
        let server = server.borrow_watched();
        if server.state != ServerState::Leader {
            return self.view.last_heard().map(|at| at.elapsed());
        }
        if server.membership_config.membership().voter_ids().eq([self.id]) {
            return Some(Duration::ZERO);
        }
        metrics.borrow_watched().last_quorum_acked.map(|at| at.elapsed())
    }

    /// Hands a batch to raft; `reply` is told what came of it, or dropped. It fails only when raft has stopped; nobody knows
    /// then whether it got the batch.
    pub(crate) async fn submit(&self, batch: Batch, reply: Reply<ClientWriteResult<Types>>) -> Result<(), Fatal> {
        let submitted = self.raft.client_write_ff(Stamped::new(batch), Some(reply)).await;
        submitted.map_err(|error| Fatal::new(error.to_string()))
    }

    /// Confirms leadership, and waits until everything committed before is applied here.
    pub(crate) async fn confirm(&self) -> Result<(), ReadError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => Err(ReadError::NoLeader),
            Err(RaftError::APIError(_)) => Err(ReadError::Unavailable { retry_after: RETRY_AFTER }),
            Err(RaftError::Fatal(error)) => Err(ReadError::Fatal(Fatal::new(error.to_string()))),
        }
    }

    /// Asks for a snapshot; it is written beside the work.
    pub(crate) async fn snapshot(&self) {
        // It fails only when raft has stopped, which everybody learns elsewhere.
        let _ = self.raft.trigger().snapshot().await;
    }

    /// Stops raft and waits for its task.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in order");
        }
    }
}
