//! The replica as its users see it: propose, read, watch. Two implementations: [`crate::Replica`] and
//! [`crate::model::ModelLog`].

use crate::Fatal;
use crate::group::{ChangeError, Group, GroupChange, Leadership};
use crate::issued::{Found, LogSince, Wanted};
use cluster::authorize::Presented;
use cluster::{Command, Outcome, State};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Whether a question of another member is of the log itself: entries, votes, a snapshot.
#[must_use]
pub fn is_of_the_log(question: &[u8]) -> bool {
    crate::raft::is_of_the_log(question)
}

/// When a caller that was put off should come back.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A replica of the cluster's state.
pub trait Handle: Clone + Send + Sync + 'static {
    /// Proposes commands; each gets its own outcome, in order, after its entry is committed and applied here.
    /// Commands of many callers travel in one raft entry; one caller's commands are never torn apart. Works on every member:
    /// one that does not lead brings them to the leader.
    fn propose(&self, commands: Vec<Command>) -> impl Future<Output = Result<Vec<Outcome>, ProposeError>> + Send;

    /// What was applied here last. No lock is held.
    fn state(&self) -> Arc<State>;

    /// Follows [`state`](Self::state): the value is replaced whole after each applied batch.
    fn watch(&self) -> watch::Receiver<Arc<State>>;

    /// A linearizable read: includes everything that was answered anywhere before the call. Works on every member.
    fn read(&self) -> impl Future<Output = Result<Arc<State>, ReadError>> + Send;

    /// Whether the issuance log has this very leaf, also if the state has forgotten it. `None`: unknown, because the log cannot
    /// be read, or is not whole here yet. Reads the whole log if it has not: for rare questions, one at a time.
    fn is_issued(&self, leaf: &Presented) -> impl Future<Output = Option<bool>> + Send;

    /// What the issuance log has of a node, or under a serial, newest first and no more than [`FOUND_MAX`](crate::FOUND_MAX). `None`: the log
    /// cannot be read, or is not whole here yet. As rare a question as [`is_issued`](Self::is_issued).
    fn find_issued(&self, wanted: &Wanted) -> impl Future<Output = Option<Vec<Found>>> + Send;

    /// The issuance log as it was with `before` entries, and that it goes on to what it was with `size`. `None`: it has not so many, cannot be
    /// read, or is not whole here yet. Reads a few hashes.
    fn log_since(&self, before: u64, size: u64) -> impl Future<Output = Option<LogSince>> + Send;

    /// Who leads. The value changes only when something in it does.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Who is in the group. It shows a change a moment after it was made.
    fn group(&self) -> watch::Receiver<Arc<Group>>;

    /// Changes the group. Only where this member leads; one change at a time; a change that is made already is made.
    fn change(&self, change: GroupChange) -> impl Future<Output = Result<(), ChangeError>> + Send;

    /// Answers what another member's [`Carrier`](crate::carrier::Carrier) brought. The caller made sure that `from` is who asks,
    /// and that it belongs to this cluster and epoch.
    fn answer(&self, from: u64, question: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, AnswerError>> + Send;

    /// Time since this member heard a leader, or, where it leads, since it heard a quorum. `None`: never since it was opened.
    /// Zero for a sole voter.
    fn contact(&self) -> Option<Duration>;

    /// The raft id of this member.
    fn raft_id(&self) -> u64;
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
    /// Surely not proposed: nobody leads, or who leads cannot be reached. It was tried for a while already.
    #[error("not proposed: there is no leader")]
    NoLeader,
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
    /// Nobody leads, or who leads cannot be reached. It was tried for a while already.
    #[error("there is no leader")]
    NoLeader,
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

/// Why another member's question has no answer. The text may be told to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It cannot be read: another version's, or nonsense.
    #[error("the question cannot be read: {0}")]
    Malformed(String),
    /// It is refused, in these words.
    #[error("{0}")]
    Refused(String),
    /// The replica stopped for good, or is shutting down.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}
