//! openraft, and everything that knows its types: nothing outside of this module names one.
//!
//! What is stored ([`record`]) and said ([`words`]) is ours; what openraft calls a vote, an entry or a membership is made from it and back.

mod anew;
mod change;
mod forget;
mod forward;
mod log;
mod machine;
mod network;
mod node;
mod peer;
mod record;
mod reply;
mod view;
mod words;

#[cfg(test)]
pub(crate) use anew::told;
pub(crate) use anew::{Content, begin, content};
pub(crate) use machine::Progress;
pub(crate) use node::{Node, Start, StartError};
pub(crate) use peer::{Heard, issued, proposed, read_at};
#[cfg(test)]
pub(crate) use peer::{piece, taken};
pub(crate) use reply::Reply;
pub(crate) use words::is_of_the_log;

use cluster::{Batch, Outcome};
use openraft::alias;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The types of our raft group: openraft's own but for what is proposed, what comes of it, and how that is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl openraft::RaftTypeConfig for Types {
    type D = Stamped;
    type R = Vec<Outcome>;
    type NodeId = u64;
    type Node = openraft::BasicNode;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Stamped, u64, openraft::BasicNode>;
    type Entry = openraft::Entry<<Self::LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type Responder<T>
        = Reply<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

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
