//! The content of a store without a group around it, and a store that begins with a state that is there already.

use super::record::{self, Description};
use super::{LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};
use crate::store::{Done, Store, StoreError};
use cluster::{LogEntry, State};
use openraft::{BasicNode, EntryPayload};
use pki::digest::sha256;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Entries that are read at once.
const READ_AT_ONCE: u64 = 64;

/// What a store says when every entry in it counts.
pub(crate) struct Content {
    /// The state with all of them applied.
    pub(crate) state: State,
    /// The last one's index.
    pub(crate) index: u64,
    /// The greatest term that anybody may have led in, as far as is known here.
    pub(crate) term: u64,
    /// What they issued, as far as they are read here.
    pub(crate) issued: Vec<LogEntry>,
}

/// Reads all that is in a store. An entry that is only here may have been answered: it counts.
pub(crate) fn content(store: &Store) -> Result<Content, StoreError> {
    let broken = |error: io::Error| StoreError::damaged(store.path(), error.to_string());
    let mut content = Content { state: State::empty(), index: 0, term: 0, issued: Vec::new() };
    if let Some(vote) = store.vote() {
        content.term = record::decode_vote(&vote).map_err(broken)?.leader_id.term;
    }
    if let Some(described) = store.description()? {
        let described = record::decode_description(&described).map_err(broken)?;
        let image = super::machine::Image::load(store, &described).map_err(broken)?;
        content.state = State::decode_snapshot(&image).map_err(|error| broken(io::Error::other(error)))?;
        content.take(described.meta.last_log_id);
    }
    let end = store.last_entry().unwrap_or_default();
    while content.index < end {
        let first = content.index.saturating_add(1);
        for (index, bytes) in store.entries(first..=end.min(content.index.saturating_add(READ_AT_ONCE)))? {
            if index != content.index.saturating_add(1) {
                break;
            }
            let entry = record::decode_entry(index, &Zeroizing::new(bytes)).map_err(broken)?;
            content.take(Some(entry.log_id));
            if let EntryPayload::Normal(stamped) = &entry.payload {
                let batch = stamped.batch().map_err(|error| broken(io::Error::other(error)))?;
                let issued = content.state.apply(index, &batch).issued;
                content.issued.extend(issued);
            }
        }
        if content.index < first {
            return Err(StoreError::damaged(store.path(), format!("log entry {first} is missing")));
        }
    }
    Ok(content)
}

impl Content {
    fn take(&mut self, last: Option<LogId>) {
        let Some(last) = last else { return };
        self.index = self.index.max(last.index);
        self.term = self.term.max(last.leader_id.term);
    }
}

/// Writes into an empty store what a member finds that is alone in its group and has this state; `done` is called when it is on disk.
pub(crate) fn begin(store: &Store, state: &State, member: u64, term: u64, done: Done) -> io::Result<()> {
    let leader_id = LeaderId { term, node_id: member };
    let last = LogId { leader_id, index: state.index };
    let nodes = BTreeMap::from([(member, BasicNode::default())]);
    let membership = Membership::new(vec![[member].into_iter().collect()], nodes).map_err(io::Error::other)?;
    let bytes = Zeroizing::new(state.encode_snapshot());
    let description = Description {
        meta: SnapshotMeta { last_log_id: Some(last), last_membership: StoredMembership::new(Some(last), membership) },
        bytes: bytes.len() as u64,
        sha256: sha256(&bytes),
    };
    // One after the other: if one fails, all that comes after it does.
    store.purge_through(last.index, record::encode_log_id(&last), None);
    store.put_vote(record::encode_vote(&Vote { leader_id, committed: true }), Box::new(drop));
    store.put_snapshot(record::encode_description(&description), Arc::new(bytes), Box::new(drop));
    store.flush(done);
    Ok(())
}

/// For tests: an entry as a store keeps it, of which its member was never told that it is committed.
#[cfg(test)]
pub(crate) fn told(index: u64, term: u64, leader: u64, batch: cluster::Batch) -> Vec<u8> {
    let log_id = LogId { leader_id: LeaderId { term, node_id: leader }, index };
    record::encode_entry(&super::Entry { log_id, payload: EntryPayload::Normal(super::Stamped::new(batch)) }, None)
}
