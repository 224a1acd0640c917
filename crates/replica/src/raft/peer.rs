//! What other members ask: the part that is raft's is answered here.

use super::machine::Image;
use super::node::Node;
use super::record::{self, Description};
use super::words::{
    self, Answered, Appended, Asked, Entries, Fate, HandedOver, PIECE_BYTES, Piece, Proposed, ReadAt, Taken,
};
use super::{Types, Vote};
use crate::Fatal;
use crate::handle::{AnswerError, ProposeError, ReadError};
use cluster::{Batch, Command, LogEntry, Outcome};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;
use pki::digest::sha256;
use std::fmt::Display;
use std::ops::Range;
use std::sync::{Arc, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// Bytes of a snapshot that is taken from another member, at most.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

/// A question that was heard.
pub(crate) enum Heard {
    /// It is answered.
    Answered(Vec<u8>),
    /// These are to be proposed; [`proposed`] makes the answer.
    Propose(Vec<Command>),
    /// The index of a state that includes everything is wanted; [`read_at`] makes the answer.
    Read,
    /// Entries of the issuance log are wanted; [`issued`] makes the answer.
    Issued(Range<u64>),
}

/// A snapshot of which the first pieces are there.
pub(super) struct Incoming {
    vote: Vote,
    description: Description,
    bytes: Zeroizing<Vec<u8>>,
}

impl Incoming {
    /// Takes room as pieces come: a description promises more than its sender may have. What was there is wiped where it was.
    fn add(&mut self, piece: &[u8]) {
        let whole = usize::try_from(self.description.bytes).unwrap_or(usize::MAX);
        let needed = self.bytes.len().saturating_add(piece.len());
        if needed > self.bytes.capacity() {
            let mut wider = Vec::with_capacity(needed.saturating_mul(2).min(whole));
            wider.extend_from_slice(&self.bytes);
            self.bytes = Zeroizing::new(wider);
        }
        self.bytes.extend_from_slice(piece);
    }
}

fn malformed(error: impl Display) -> AnswerError {
    AnswerError::Malformed(error.to_string())
}

fn stopped(error: impl Display) -> AnswerError {
    AnswerError::Fatal(Fatal::new(error.to_string()))
}

/// A member speaks for itself only.
fn own(from: u64, vote: &Vote) -> Result<(), AnswerError> {
    if vote.leader_id.node_id == from {
        return Ok(());
    }
    Err(AnswerError::Refused(format!("member {from} speaks for member {}", vote.leader_id.node_id)))
}

impl Node {
    /// Hears a question of another member.
    pub(crate) async fn hear(&self, from: u64, question: Vec<u8>) -> Result<Heard, AnswerError> {
        let question = Zeroizing::new(question);
        if self.is_ending() {
            return Err(AnswerError::Refused("this member stops".to_owned()));
        }
        let answered = match words::asked(&question).map_err(malformed)? {
            Asked::Append(append) => {
                let request = AppendEntriesRequest::<Types>::try_from(append).map_err(malformed)?;
                own(from, &request.vote)?;
                let appended = Appended::from(self.raft.append_entries(request).await.map_err(stopped)?);
                if appended.higher.is_none() {
                    self.view.heard();
                }
                Answered::Append(appended)
            }
            Asked::Vote(ask) => {
                let only_asked = ask.only_asked;
                let request = VoteRequest::<Types>::try_from(ask).map_err(malformed)?;
                own(from, &request.vote)?;
                let voted = if only_asked { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
                Answered::Vote(voted.map_err(stopped)?.into())
            }
            Asked::HandOver(hand_over) => {
                let request = TransferLeaderRequest::<Types>::try_from(hand_over).map_err(malformed)?;
                own(from, request.from_leader())?;
                let handed = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
                let refused = handed.err().map(|error| error.to_string()).unwrap_or_default();
                Answered::HandOver(HandedOver { refused })
            }
            Asked::Piece(piece) => Answered::Piece(self.take(from, piece).await?),
            Asked::Propose(propose) => {
                return Ok(Heard::Propose(Batch::decode(&propose.batch).map_err(malformed)?.commands));
            }
            Asked::Read(_) => return Ok(Heard::Read),
            Asked::Issued(issued) => return Ok(Heard::Issued(issued.from..issued.to)),
        };
        Ok(Heard::Answered(words::answer(answered)))
    }

    /// Takes a piece of a snapshot; after the last one the state is replaced by it.
    async fn take(&self, from: u64, mut piece: Piece) -> Result<Taken, AnswerError> {
        let vote = words::vote(piece.vote.as_ref()).map_err(malformed)?;
        own(from, &vote)?;
        let record = piece.snapshot.take().ok_or_else(|| malformed("a snapshot without a description"))?;
        let description = record::description_from(record).map_err(malformed)?;
        if description.bytes > SNAPSHOT_BYTES_MAX {
            return Err(AnswerError::Refused(format!("a snapshot of {} bytes is too large", description.bytes)));
        }
        // Who led before, and does not know it, must not stand in the way of who leads: the last piece would be refused anyhow.
        let known = self.raft.server_metrics().borrow_watched().vote;
        if known > vote {
            return Ok(Taken { bytes: 0, vote: Some(record::vote_record(&known)) });
        }
        let whole = {
            let mut incoming = self.incoming();
            if incoming.as_ref().is_some_and(|taken| taken.vote > vote) {
                return Ok(Taken::default());
            }
            if piece.offset == 0 {
                let bytes = Zeroizing::default();
                *incoming = Some(Incoming { vote, description: description.clone(), bytes });
            }
            let Some(taken) = incoming.as_mut().filter(|taken| {
                taken.vote == vote && taken.description == description && taken.bytes.len() as u64 == piece.offset
            }) else {
                return Ok(Taken::default());
            };
            if piece.bytes.len() as u64 > description.bytes - piece.offset {
                return Err(malformed("a snapshot is longer than its description says"));
            }
            taken.add(&piece.bytes);
            let bytes = taken.bytes.len() as u64;
            if bytes < description.bytes {
                self.view.heard();
                return Ok(Taken { bytes, vote: None });
            }
            incoming.take()
        };
        let Some(Incoming { bytes, .. }) = whole else { return Ok(Taken::default()) };
        if sha256(&bytes) != description.sha256 {
            return Err(malformed("a snapshot is not the one that its description names"));
        }
        let meta = description.meta.clone();
        let snapshot = Snapshot { meta, snapshot: Image::Received { bytes: Arc::new(bytes), description } };
        let response = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        self.view.heard();
        Ok(Taken { bytes: 0, vote: Some(record::vote_record(&response.vote)) })
    }

    /// For tests: the room of a snapshot of which pieces are there.
    #[cfg(test)]
    pub(crate) fn room_taken(&self) -> usize {
        self.incoming().as_ref().map_or(0, |incoming| incoming.bytes.capacity())
    }

    fn incoming(&self) -> MutexGuard<'_, Option<Incoming>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to who wanted commands proposed; `index` is the state's after it.
pub(crate) fn proposed(result: &Result<Vec<Outcome>, ProposeError>, index: u64) -> Vec<u8> {
    let fate = match result {
        Ok(_) => Fate::Done,
        Err(ProposeError::NoLeader) => Fate::NoLeader,
        Err(ProposeError::Unavailable { .. } | ProposeError::TooLarge { .. }) => Fate::Busy,
        Err(ProposeError::Unknown | ProposeError::Fatal(_)) => Fate::Unknown,
    };
    let outcomes = result.iter().flatten().map(Outcome::encode).collect();
    words::answer(Answered::Propose(Proposed { fate: fate.into(), index, outcomes }))
}

/// The answer to who wants to read.
pub(crate) fn read_at(result: &Result<u64, ReadError>) -> Vec<u8> {
    let (fate, index) = match result {
        Ok(index) => (Fate::Done, *index),
        Err(ReadError::NoLeader) => (Fate::NoLeader, 0),
        Err(ReadError::Unavailable { .. } | ReadError::Fatal(_)) => (Fate::Busy, 0),
    };
    words::answer(Answered::Read(ReadAt { fate: fate.into(), index }))
}

/// The answer to who lacks entries of the issuance log.
pub(crate) fn issued(entries: Vec<LogEntry>) -> Vec<u8> {
    let mut bytes = 0;
    let fits = entries.into_iter().take_while(|entry| {
        let first = bytes == 0;
        bytes += entry.bytes.len() + entry.private.as_ref().map_or(0, Vec::len);
        first || bytes <= PIECE_BYTES
    });
    words::answer(Answered::Issued(Entries::of(fits.collect())))
}

/// For tests: a piece of a snapshot of so many bytes, as the member that leads this term sends it.
#[cfg(test)]
pub(crate) fn piece(term: u64, from: u64, whole: u64, offset: u64, bytes: Vec<u8>) -> Vec<u8> {
    let vote = Vote { leader_id: super::LeaderId { term, node_id: from }, committed: true };
    let description = Description { meta: super::SnapshotMeta::default(), bytes: whole, sha256: [0; 32] };
    let (vote, snapshot) = (Some(record::vote_record(&vote)), Some(record::description_record(&description)));
    words::question(Asked::Piece(Piece { vote, snapshot, offset, bytes }))
}

/// For tests: how much of a snapshot was taken, and by the vote of which term it was refused.
#[cfg(test)]
pub(crate) fn taken(answer: &[u8]) -> (u64, Option<u64>) {
    match words::answered(answer) {
        Ok(Answered::Piece(taken)) => {
            let vote = words::vote(taken.vote.as_ref()).ok();
            (taken.bytes, vote.map(|vote| vote.leader_id.term))
        }
        _ => (0, None),
    }
}
