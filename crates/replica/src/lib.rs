//! The cluster state machine under raft, sealed on disk.
//!
//! What it promises:
//! - an outcome is answered only after its entry is on disk (one sync for a whole batch);
//! - everything that lies on disk is sealed under the data key, bound to its cluster, epoch and place;
//! - a failed sync is final: the replica says so ([`Fatal`]) and the process must end;
//! - openraft's types stay inside one module, and none of its layouts is ever stored or sent.
//!
//! With several members, each proposes and reads: one that does not lead asks the leader, and answers when it has applied what
//! the leader did. Members ask each other by a [`carrier::Carrier`] and answer by [`Handle::answer`]; what they say is
//! opaque to everybody else.

pub mod batch;
pub mod carrier;
pub mod disk;
pub mod group;
pub mod handle;
pub mod model;
pub mod seal;

mod backfill;
mod fatal;
mod forward;
mod issued;
mod propose;
mod published;
mod raft;
mod refound;
mod replica;
mod store;
#[cfg(test)]
#[path = "../../cluster/tests/support/mod.rs"]
mod support;

pub use fatal::Fatal;
pub use group::{ChangeError, Group, GroupChange, Leadership, Seen};
pub use handle::{AnswerError, Handle, ProposeError, ReadError};
pub use issued::{FOUND_MAX, Found, LogSince, Wanted};
pub use refound::{Backup, BackupError};
pub use replica::{Clock, Config, Limits, Metrics, OpenError, Replica, ResealError};
pub use store::{Fault, Header, StoreError, Verified, header};

/// Encoded bytes of one caller's commands, at most.
pub const ENTRY_BYTES_MAX: usize = 8 * 1024 * 1024;
