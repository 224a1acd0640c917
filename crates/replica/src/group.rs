//! The members of the group, in our own words.

use crate::Fatal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Who leads, as far as this member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The raft term.
    pub term: u64,
    /// The raft id of the leader, if one is known.
    pub leader: Option<u64>,
    /// Whether it is this member, and it has applied an entry of its own term: its state is the newest there is.
    pub here: bool,
}

/// Who is in the group, by raft id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Those who vote; while a change is under way, those of before and after.
    pub voters: BTreeSet<u64>,
    /// Those who only follow.
    pub learners: BTreeSet<u64>,
    /// How the others keep up. Empty where this member does not lead.
    pub members: BTreeMap<u64, Seen>,
}

/// How a member keeps up, as the leader sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Entries of the leader's log that it is not known to have.
    pub behind: u64,
    /// When it answered last. `None`: never in this term.
    pub contact: Option<Instant>,
}

/// A change of the group. Each can be asked for again: what is so already stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// A new member follows, without a vote.
    AddLearner(u64),
    /// A learner gets a vote. It should have caught up.
    Promote(u64),
    /// A member is in the group no longer. One that leads should hand over first.
    Remove(u64),
    /// Another voter shall lead. Done when this member does not lead any more.
    HandOver(u64),
}

/// Why the group was not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Another member leads, or none.
    #[error("this manager does not lead")]
    NotLeader,
    /// Not now: another change is under way, or a voter to be is not ready.
    #[error("the group cannot be changed now: try again in {} ms", retry_after.as_millis())]
    Unavailable {
        /// When a new attempt makes sense.
        retry_after: Duration,
    },
    /// It cannot be: no such member, or nobody would be left.
    #[error("{0}")]
    Impossible(String),
    /// It may be made, now or later, or never.
    #[error("the outcome of the change is unknown")]
    Unknown,
    /// The replica stopped for good.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}
