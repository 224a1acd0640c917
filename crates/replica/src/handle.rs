//! The replica as its users see it: propose, read, watch. Two implementations: [`crate::Replica`] and
//! [`crate::model::ModelLog`].

use crate::Fatal;
use cluster::authorize::Presented;
use cluster::{Command, Outcome, State};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// When a caller that was put off should come back.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A replica of the cluster's state.
pub trait Handle: Clone + Send + Sync + 'static {
    /// Proposes commands; each gets its own outcome, in order, after its entry is committed and applied here.
    /// Commands of many callers travel in one raft entry; one caller's commands are never torn apart.
    fn propose(&self, commands: Vec<Command>) -> impl Future<Output = Result<Vec<Outcome>, ProposeError>> + Send;

    /// What was applied here last. No lock is held.
    fn state(&self) -> Arc<State>;

    /// Follows [`state`](Self::state): the value is replaced whole after each applied batch.
    fn watch(&self) -> watch::Receiver<Arc<State>>;

    /// A linearizable read: includes everything that was answered anywhere before the call.
    fn read(&self) -> impl Future<Output = Result<Arc<State>, ReadError>> + Send;

    /// Whether the issuance log has this very leaf, also if the state has forgotten it. `None`: the log cannot be read. Reads the
    /// whole log if it has not: for rare questions, one at a time.
    fn is_issued(&self, leaf: &Presented) -> impl Future<Output = Option<bool>> + Send;
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It may be committed, now or later, or never. To be answered neither as success nor as failure.
    #[error("the outcome is unknown")]
    Unknown,
    /// Surely not proposed: the queue is full, or the replica is shutting down.
    #[error("not proposed: try again in {} ms", retry_after.as_millis())]
    Unavailable {
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// Surely not proposed: another member leads, or none.
    #[error("not proposed: this manager does not lead")]
    NotLeader {
        /// The raft id of the leader, if one is known.
        leader: Option<u64>,
    },
    /// Surely not proposed: larger than any entry may be.
    #[error("not proposed: {bytes} bytes are more than the {max} that an entry may hold")]
    TooLarge {
        /// Encoded bytes of the commands.
        bytes: usize,
        /// The bound, [`crate::ENTRY_BYTES_MAX`].
        max: usize,
    },
    /// The replica stopped for good before this was proposed; what was under way then is [`Unknown`](Self::Unknown).
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Why there is no linearizable read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Another member leads, or none: ask it, or try again.
    #[error("this manager does not lead")]
    NotLeader {
        /// The raft id of the leader, if one is known.
        leader: Option<u64>,
    },
    /// Leadership could not be confirmed now.
    #[error("leadership is not confirmed: try again in {} ms", retry_after.as_millis())]
    Unavailable {
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// The replica stopped for good.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}
