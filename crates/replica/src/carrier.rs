//! The way from this member of the group to the others. What is carried is opaque: `replica` alone knows what members say to
//! each other. It holds the CA's keys and the join tokens: it goes to that member only, encrypted, and into no log.

use futures::future::BoxFuture;
use std::time::Duration;

/// Brings questions of this member to other members.
pub trait Carrier: Send + Sync + 'static {
    /// Brings a question to the member with this raft id, whose [`Handle::answer`](crate::Handle::answer) answers it.
    ///
    /// It ends after `within` at the latest. The future may be dropped at any time; whether the question arrives then is open.
    /// `bulk`: large and slow (a piece of a snapshot, at most about 1 MiB), not to stand in the way of the rest.
    fn ask(
        &self,
        to: u64,
        question: Vec<u8>,
        within: Duration,
        bulk: bool,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarryError>>;
}

/// Why there is no answer. The texts are for logs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarryError {
    /// Surely not delivered.
    #[error("not delivered: {0}")]
    Unreachable(String),
    /// It may have been delivered.
    #[error("no answer: {0}")]
    Lost(String),
    /// The other member heard it, and answered no, in these words.
    #[error("refused: {0}")]
    Refused(String),
}

/// The carrier of a member that has no peers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Carrier for Alone {
    fn ask(&self, to: u64, _: Vec<u8>, _: Duration, _: bool) -> BoxFuture<'static, Result<Vec<u8>, CarryError>> {
        Box::pin(std::future::ready(Err(CarryError::Unreachable(format!("no way to member {to}")))))
    }
}
