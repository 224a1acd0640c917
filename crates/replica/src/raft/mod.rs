//! openraft, and everything that knows its types: nothing outside of this module names one.
//!
//! What is stored is ours ([`record`]); what openraft calls a vote, an entry or a membership is made from it and back.

mod log;
mod machine;
mod network;
mod node;
mod record;

pub(crate) use machine::Progress;
pub(crate) use node::{Node, StartError};

use cluster::{Batch, Outcome};
use openraft::alias;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

openraft::declare_raft_types!(
    /// The types of our raft group.
    pub(crate) Types:
        D = Stamped,
        R = Vec<Outcome>,
        NodeId = u64,
        Node = openraft::BasicNode,
);

type Entry = alias::EntryOf<Types>;
type LogId = alias::LogIdOf<Types>;
type LeaderId = alias::LeaderIdOf<Types>;
type Vote = alias::VoteOf<Types>;
type Membership = openraft::Membership<u64, openraft::BasicNode>;
type StoredMembership = alias::StoredMembershipOf<Types>;
type SnapshotMeta = alias::SnapshotMetaOf<Types>;

/// A batch in its stored form, and decoded where it was made here.
#[derive(Clone)]
pub(crate) struct Stamped {
    bytes: Arc<Zeroizing<Vec<u8>>>,
    batch: Option<Arc<Batch>>,
}

impl Stamped {
    pub(crate) fn new(batch: Batch) -> Self {
        Self { bytes: Arc::new(batch.encode().into()), batch: Some(Arc::new(batch)) }
    }

    pub(crate) fn stored(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(bytes.into()), batch: None }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn batch(&self) -> Result<Arc<Batch>, cluster::DecodeError> {
        match &self.batch {
            Some(batch) => Ok(batch.clone()),
            None => Ok(Arc::new(Batch::decode(&self.bytes)?)),
        }
    }
}

impl fmt::Debug for Stamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.bytes.len())
    }
}

impl fmt::Display for Stamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
