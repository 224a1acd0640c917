//! What raft stores: messages of ours, each with a format number. Change only with a sample in testdata/.

use super::{Entry, LeaderId, LogId, Membership, SnapshotMeta, Stamped, StoredMembership, Vote};
use openraft::entry::RaftEntry;
use openraft::{BasicNode, EntryPayload};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use zeroize::Zeroize;

/// The format that is written.
const FORMAT: u32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(super) struct EntryRecord {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    leader: u64,
    /// Exactly one of these two, or none: a blank entry.
    #[prost(bytes = "vec", optional, tag = "4")]
    batch: Option<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    membership: Option<MembershipRecord>,
    /// What was known to be committed when this was written; absent where one member decides alone.
    #[prost(message, optional, tag = "6")]
    committed: Option<LogIdRecord>,
}

/// A batch can hold CA keys and tokens: the copy made for encoding or decoding is wiped.
impl Drop for EntryRecord {
    fn drop(&mut self) {
        self.batch.zeroize();
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VoteRecord {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    candidate: u64,
    #[prost(bool, tag = "4")]
    committed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LogIdRecord {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    leader: u64,
    #[prost(uint64, tag = "4")]
    index: u64,
}

#[derive(Clone, PartialEq, Message)]
struct MembershipRecord {
    /// One set of voters, or two while a change is under way.
    #[prost(message, repeated, tag = "1")]
    voters: Vec<VotersRecord>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<MemberRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct VotersRecord {
    #[prost(uint64, repeated, tag = "1")]
    ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct MemberRecord {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    addr: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SnapshotRecord {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(message, optional, tag = "2")]
    last: Option<LogIdRecord>,
    #[prost(message, optional, tag = "3")]
    membership_at: Option<LogIdRecord>,
    #[prost(message, optional, tag = "4")]
    membership: Option<MembershipRecord>,
    #[prost(uint64, tag = "5")]
    bytes: u64,
    #[prost(bytes = "vec", tag = "6")]
    sha256: Vec<u8>,
}

/// A snapshot's description: what it covers, and what its bytes must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) meta: SnapshotMeta,
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
}

/// `committed`: what is known to be committed by now; it is found again by [`committed_at`].
pub(super) fn encode_entry(entry: &Entry, committed: Option<&LogId>) -> Vec<u8> {
    let mut record = entry_record(entry);
    record.committed = committed.map(log_id_record);
    record.encode_to_vec()
}

pub(super) fn entry_record(entry: &Entry) -> EntryRecord {
    let (batch, membership) = match &entry.payload {
        EntryPayload::Blank => (None, None),
        EntryPayload::Normal(stamped) => (Some(stamped.bytes().to_vec()), None),
        EntryPayload::Membership(membership) => (None, Some(membership_record(membership))),
    };
    let leader = entry.log_id.leader_id;
    EntryRecord { format: FORMAT, term: leader.term, leader: leader.node_id, batch, membership, committed: None }
}

pub(super) fn decode_entry(index: u64, bytes: &[u8]) -> io::Result<Entry> {
    entry_from(index, EntryRecord::decode(bytes).map_err(io::Error::other)?)
}

pub(super) fn entry_from(index: u64, mut record: EntryRecord) -> io::Result<Entry> {
    check(record.format)?;
    let log_id = LogId { leader_id: LeaderId { term: record.term, node_id: record.leader }, index };
    let payload = match (record.batch.take(), record.membership.take()) {
        (None, None) => EntryPayload::Blank,
        (Some(batch), None) => EntryPayload::Normal(Stamped::stored(batch)),
        (None, Some(membership)) => EntryPayload::Membership(membership_from(membership)?),
        (Some(_), Some(_)) => return Err(io::Error::other("an entry is both a batch and a membership")),
    };
    Ok(Entry::new(log_id, payload))
}

/// What was known to be committed when the entry was written.
pub(super) fn committed_at(bytes: &[u8]) -> io::Result<Option<LogId>> {
    let record = EntryRecord::decode(bytes).map_err(io::Error::other)?;
    record.committed.as_ref().map(log_id_from).transpose()
}

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    vote_record(vote).encode_to_vec()
}

pub(super) fn vote_record(vote: &Vote) -> VoteRecord {
    let Vote { leader_id, committed } = *vote;
    VoteRecord { format: FORMAT, term: leader_id.term, candidate: leader_id.node_id, committed }
}

pub(super) fn decode_vote(bytes: &[u8]) -> io::Result<Vote> {
    vote_from(&VoteRecord::decode(bytes).map_err(io::Error::other)?)
}

pub(super) fn vote_from(record: &VoteRecord) -> io::Result<Vote> {
    check(record.format)?;
    let leader_id = LeaderId { term: record.term, node_id: record.candidate };
    Ok(Vote { leader_id, committed: record.committed })
}

pub(super) fn encode_log_id(id: &LogId) -> Vec<u8> {
    log_id_record(id).encode_to_vec()
}

pub(super) fn decode_log_id(bytes: &[u8]) -> io::Result<LogId> {
    log_id_from(&LogIdRecord::decode(bytes).map_err(io::Error::other)?)
}

pub(super) fn encode_description(description: &Description) -> Vec<u8> {
    description_record(description).encode_to_vec()
}

pub(super) fn description_record(description: &Description) -> SnapshotRecord {
    let membership = &description.meta.last_membership;
    SnapshotRecord {
        format: FORMAT,
        last: description.meta.last_log_id.as_ref().map(log_id_record),
        membership_at: membership.log_id().as_ref().map(log_id_record),
        membership: Some(membership_record(membership.membership())),
        bytes: description.bytes,
        sha256: description.sha256.to_vec(),
    }
}

pub(super) fn decode_description(bytes: &[u8]) -> io::Result<Description> {
    description_from(SnapshotRecord::decode(bytes).map_err(io::Error::other)?)
}

pub(super) fn description_from(record: SnapshotRecord) -> io::Result<Description> {
    check(record.format)?;
    let membership = membership_from(record.membership.unwrap_or_default())?;
    let membership_at = record.membership_at.as_ref().map(log_id_from).transpose()?;
    let meta = SnapshotMeta {
        last_log_id: record.last.as_ref().map(log_id_from).transpose()?,
        last_membership: StoredMembership::new(membership_at, membership),
    };
    let sha256 = record.sha256.try_into().map_err(|_| io::Error::other("a snapshot's digest has a wrong length"))?;
    Ok(Description { meta, bytes: record.bytes, sha256 })
}

fn check(format: u32) -> io::Result<()> {
    if format == FORMAT {
        return Ok(());
    }
    Err(io::Error::other(format!("a record has format {format}, this version knows format {FORMAT}")))
}

pub(super) fn log_id_record(id: &LogId) -> LogIdRecord {
    LogIdRecord { format: FORMAT, term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

pub(super) fn log_id_from(record: &LogIdRecord) -> io::Result<LogId> {
    check(record.format)?;
    Ok(LogId { leader_id: LeaderId { term: record.term, node_id: record.leader }, index: record.index })
}

fn membership_record(membership: &Membership) -> MembershipRecord {
    let voters = membership.get_joint_config().iter().map(|set| VotersRecord { ids: set.iter().copied().collect() });
    let members = membership.nodes().map(|(id, node)| MemberRecord { id: *id, addr: node.addr.clone() });
    MembershipRecord { voters: voters.collect(), members: members.collect() }
}

fn membership_from(record: MembershipRecord) -> io::Result<Membership> {
    let voters: Vec<BTreeSet<u64>> = record.voters.into_iter().map(|set| set.ids.into_iter().collect()).collect();
    let members: BTreeMap<u64, BasicNode> =
        record.members.into_iter().map(|member| (member.id, BasicNode { addr: member.addr })).collect();
    if voters.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(voters, members).map_err(|error| io::Error::other(error.to_string()))
}
