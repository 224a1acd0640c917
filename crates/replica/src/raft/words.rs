//! What members say to each other: questions and answers, as messages of ours. Entries, votes and log ids are in the form in
//! which they are stored. A field may be added; the version changes when an older member would misunderstand.

use super::record::{EntryRecord, LogIdRecord, SnapshotRecord, VoteRecord};
use super::{LogId, Vote, record};
use cluster::LogEntry;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse};
use prost::{Message, Oneof};
use std::io;
use zeroize::{Zeroize, Zeroizing};

use super::Types;

const VERSION: u32 = 1;

/// Bytes of entries in one question, about; a single entry may be larger.
pub(super) const APPEND_BYTES: usize = 1024 * 1024;
/// Bytes of a piece of a snapshot, at most; few in tests, whose states are small.
pub(super) const PIECE_BYTES: usize = if cfg!(test) { 16 * 1024 } else { 1024 * 1024 };

#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(oneof = "Asked", tags = "2, 3, 4, 5, 6, 7, 8")]
    asked: Option<Asked>,
}

/// A question.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Asked {
    #[prost(message, tag = "2")]
    Append(Append),
    #[prost(message, tag = "3")]
    Vote(AskVote),
    #[prost(message, tag = "4")]
    HandOver(HandOver),
    #[prost(message, tag = "5")]
    Piece(Piece),
    #[prost(message, tag = "6")]
    Propose(Propose),
    #[prost(message, tag = "7")]
    Read(Read),
    #[prost(message, tag = "8")]
    Issued(Issued),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Append {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    previous: Option<LogIdRecord>,
    #[prost(message, optional, tag = "3")]
    committed: Option<LogIdRecord>,
    /// They follow the previous one without a gap.
    #[prost(message, repeated, tag = "4")]
    entries: Vec<EntryRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AskVote {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    last: Option<LogIdRecord>,
    /// The leader wants it.
    #[prost(bool, tag = "3")]
    handed_over: bool,
    /// Only whether it would be granted.
    #[prost(bool, tag = "4")]
    pub(super) only_asked: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HandOver {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(uint64, tag = "2")]
    to: u64,
    #[prost(message, optional, tag = "3")]
    last: Option<LogIdRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Piece {
    #[prost(message, optional, tag = "1")]
    pub(super) vote: Option<VoteRecord>,
    #[prost(message, optional, tag = "2")]
    pub(super) snapshot: Option<SnapshotRecord>,
    #[prost(uint64, tag = "3")]
    pub(super) offset: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bytes: Vec<u8>,
}

/// A snapshot can hold CA keys.
impl Drop for Piece {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Commands that the leader shall propose, stamped by itself.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Propose {
    /// A batch without a time.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) batch: Vec<u8>,
}

/// Commands can hold CA keys.
impl Drop for Propose {
    fn drop(&mut self) {
        self.batch.zeroize();
    }
}

/// What must have been applied so that a read includes everything that was answered before.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Read {}

/// Entries of the issuance log, from a sequence number on up to another, exclusive.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Issued {
    #[prost(uint64, tag = "1")]
    pub(super) from: u64,
    #[prost(uint64, tag = "2")]
    pub(super) to: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(oneof = "Answered", tags = "2, 3, 4, 5, 6, 7, 8")]
    answered: Option<Answered>,
}

/// An answer, to the question with the same number.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Answered {
    #[prost(message, tag = "2")]
    Append(Appended),
    #[prost(message, tag = "3")]
    Vote(Voted),
    #[prost(message, tag = "4")]
    HandOver(HandedOver),
    #[prost(message, tag = "5")]
    Piece(Taken),
    #[prost(message, tag = "6")]
    Propose(Proposed),
    #[prost(message, tag = "7")]
    Read(ReadAt),
    #[prost(message, tag = "8")]
    Issued(Entries),
}

/// Done if neither.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Appended {
    #[prost(bool, tag = "1")]
    conflict: bool,
    /// Somebody else leads.
    #[prost(message, optional, tag = "2")]
    pub(super) higher: Option<VoteRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Voted {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteRecord>,
    #[prost(bool, tag = "2")]
    granted: bool,
    #[prost(message, optional, tag = "3")]
    last: Option<LogIdRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HandedOver {
    /// Why not, in words; empty if it goes its way.
    #[prost(string, tag = "1")]
    pub(super) refused: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Taken {
    /// So many bytes of this snapshot are there.
    #[prost(uint64, tag = "1")]
    pub(super) bytes: u64,
    /// After the last piece: the vote of who took it.
    #[prost(message, optional, tag = "2")]
    pub(super) vote: Option<VoteRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Proposed {
    #[prost(enumeration = "Fate", tag = "1")]
    pub(super) fate: i32,
    /// The state of the leader that includes it.
    #[prost(uint64, tag = "2")]
    pub(super) index: u64,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) outcomes: Vec<Vec<u8>>,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Fate {
    Unknown = 0,
    Done = 1,
    /// Not proposed: whoever was asked does not lead.
    NoLeader = 2,
    /// Not proposed: the queue is full.
    Busy = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ReadAt {
    #[prost(enumeration = "Fate", tag = "1")]
    pub(super) fate: i32,
    /// The state that includes everything.
    #[prost(uint64, tag = "2")]
    pub(super) index: u64,
}

/// As many as fit, without a gap; none: the first is not here.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Entries {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) entries: Vec<Vec<u8>>,
    /// Their private parts, of those that have one.
    #[prost(message, repeated, tag = "2")]
    pub(super) privates: Vec<PrivatePart>,
}

impl Entries {
    pub(super) fn of(rows: Vec<LogEntry>) -> Self {
        let mut message = Self::default();
        for (row, at) in rows.into_iter().zip(0..) {
            message.entries.push(row.bytes);
            message.privates.extend(row.private.map(|bytes| PrivatePart { at, bytes }));
        }
        message
    }

    /// They are those from this one on.
    pub(super) fn into_rows(self, first: u64) -> Vec<LogEntry> {
        let mut rows: Vec<LogEntry> = (first..).zip(self.entries).map(LogEntry::from).collect();
        for PrivatePart { at, bytes } in self.privates {
            if let Some(row) = usize::try_from(at).ok().and_then(|at| rows.get_mut(at)) {
                row.private = Some(bytes);
            }
        }
        rows
    }
}

/// The private part of one of the entries.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PrivatePart {
    /// Its place among them, from 0.
    #[prost(uint32, tag = "1")]
    pub(super) at: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) bytes: Vec<u8>,
}

pub(super) fn question(asked: Asked) -> Vec<u8> {
    Question { version: VERSION, asked: Some(asked) }.encode_to_vec()
}

pub(super) fn asked(question: &Zeroizing<Vec<u8>>) -> io::Result<Asked> {
    let Question { version, asked } = Question::decode(question.as_slice()).map_err(io::Error::other)?;
    check(version)?;
    asked.ok_or_else(|| io::Error::other("a question that this version does not know"))
}

/// Whether a question is of the log itself, as a leader or a candidate asks it of a member that may know nothing of what came since: entries,
/// votes, snapshots. What it brings counts only under a vote of the group.
pub(crate) fn is_of_the_log(question: &[u8]) -> bool {
    let asked = Question::decode(question).ok().and_then(|question| question.asked);
    matches!(asked, Some(Asked::Append(_) | Asked::Vote(_) | Asked::Piece(_)))
}

pub(super) fn answer(answered: Answered) -> Vec<u8> {
    Answer { version: VERSION, answered: Some(answered) }.encode_to_vec()
}

pub(super) fn answered(answer: &[u8]) -> io::Result<Answered> {
    let Answer { version, answered } = Answer::decode(answer).map_err(io::Error::other)?;
    check(version)?;
    answered.ok_or_else(|| io::Error::other("an answer that this version does not know"))
}

fn check(version: u32) -> io::Result<()> {
    if version == VERSION {
        return Ok(());
    }
    Err(io::Error::other(format!("the other member speaks version {version}, this one version {VERSION}")))
}

pub(super) fn vote(record: Option<&VoteRecord>) -> io::Result<Vote> {
    record::vote_from(record.ok_or_else(|| io::Error::other("a vote is missing"))?)
}

fn log_id(record: Option<&LogIdRecord>) -> io::Result<Option<LogId>> {
    record.map(record::log_id_from).transpose()
}

fn log_id_record(id: Option<&LogId>) -> Option<LogIdRecord> {
    id.map(record::log_id_record)
}

impl From<&AppendEntriesRequest<Types>> for Append {
    fn from(request: &AppendEntriesRequest<Types>) -> Self {
        Self {
            vote: Some(record::vote_record(&request.vote)),
            previous: log_id_record(request.prev_log_id.as_ref()),
            committed: log_id_record(request.leader_commit.as_ref()),
            entries: request.entries.iter().map(record::entry_record).collect(),
        }
    }
}

impl TryFrom<Append> for AppendEntriesRequest<Types> {
    type Error = io::Error;

    fn try_from(append: Append) -> io::Result<Self> {
        let prev_log_id = log_id(append.previous.as_ref())?;
        let first = prev_log_id.map_or(0, |id| id.index.saturating_add(1));
        let entries = append.entries.into_iter().zip(first..).map(|(entry, index)| record::entry_from(index, entry));
        Ok(Self {
            vote: vote(append.vote.as_ref())?,
            prev_log_id,
            leader_commit: log_id(append.committed.as_ref())?,
            entries: entries.collect::<io::Result<_>>()?,
        })
    }
}

impl From<AppendEntriesResponse<Types>> for Appended {
    fn from(response: AppendEntriesResponse<Types>) -> Self {
        match response {
            AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => Self::default(),
            AppendEntriesResponse::Conflict => Self { conflict: true, higher: None },
            AppendEntriesResponse::HigherVote(vote) => {
                Self { conflict: false, higher: Some(record::vote_record(&vote)) }
            }
        }
    }
}

impl TryFrom<Appended> for AppendEntriesResponse<Types> {
    type Error = io::Error;

    fn try_from(appended: Appended) -> io::Result<Self> {
        Ok(match (&appended.higher, appended.conflict) {
            (Some(higher), _) => Self::HigherVote(record::vote_from(higher)?),
            (None, true) => Self::Conflict,
            (None, false) => Self::Success,
        })
    }
}

impl AskVote {
    pub(super) fn new(request: &VoteRequest<Types>, only_asked: bool) -> Self {
        Self {
            vote: Some(record::vote_record(&request.vote)),
            last: log_id_record(request.last_log_id.as_ref()),
            handed_over: request.leadership_transfer,
            only_asked,
        }
    }
}

impl TryFrom<AskVote> for VoteRequest<Types> {
    type Error = io::Error;

    fn try_from(ask: AskVote) -> io::Result<Self> {
        let last_log_id = log_id(ask.last.as_ref())?;
        Ok(Self { vote: vote(ask.vote.as_ref())?, last_log_id, leadership_transfer: ask.handed_over })
    }
}

impl From<VoteResponse<Types>> for Voted {
    fn from(response: VoteResponse<Types>) -> Self {
        Self {
            vote: Some(record::vote_record(&response.vote)),
            granted: response.vote_granted,
            last: log_id_record(response.last_log_id.as_ref()),
        }
    }
}

impl TryFrom<Voted> for VoteResponse<Types> {
    type Error = io::Error;

    fn try_from(voted: Voted) -> io::Result<Self> {
        let last_log_id = log_id(voted.last.as_ref())?;
        Ok(Self { vote: vote(voted.vote.as_ref())?, vote_granted: voted.granted, last_log_id })
    }
}

impl From<&TransferLeaderRequest<Types>> for HandOver {
    fn from(request: &TransferLeaderRequest<Types>) -> Self {
        Self {
            vote: Some(record::vote_record(request.from_leader())),
            to: *request.to_node_id(),
            last: log_id_record(request.last_log_id()),
        }
    }
}

impl TryFrom<HandOver> for TransferLeaderRequest<Types> {
    type Error = io::Error;

    fn try_from(hand_over: HandOver) -> io::Result<Self> {
        let last = log_id(hand_over.last.as_ref())?;
        Ok(Self::new(vote(hand_over.vote.as_ref())?, hand_over.to, last))
    }
}
