//! raft's log over the store.
//!
//! Rules:
//! - an entry can be read as soon as `append` returns: what is not on disk yet is in the tail;
//! - the tail holds everything from some index to the end; what leaves it is on disk;
//! - raft is told that an entry is flushed only after the sync.

use super::words::APPEND_BYTES;
use super::{Entry, LogId, Membership, Progress, Types, Vote, record};
use crate::store::{Done, Store, StoreError};
use openraft::alias::LogIdOf;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

/// Bytes of entries that are kept in memory although they are on disk, about: the ones that are applied next.
const TAIL_BYTES_MAX: usize = 256 * 1024;
/// Entries that are read at once for a follower.
const READ_AT_ONCE: u64 = 16;

/// The log. Clones share it.
#[derive(Clone)]
pub(super) struct Log {
    store: Store,
    tail: Arc<Mutex<Tail>>,
    progress: Arc<Progress>,
    /// Whether what is on disk says that there is nobody else in the group.
    alone: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Tail {
    entries: VecDeque<Kept>,
    bytes: usize,
    /// Number of the last append, and of the last one that is on disk.
    appended: u64,
    flushed: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    /// The last membership, if one is known.
    members: Option<Membership>,
    /// What is known to be committed.
    committed: Option<LogId>,
}

struct Kept {
    entry: Entry,
    bytes: usize,
    append: u64,
}

impl Log {
    /// Reads where the log begins and ends, and who votes.
    pub(super) fn open(store: Store, progress: Arc<Progress>) -> Result<Self, StoreError> {
        let broken = |error: io::Error| StoreError::damaged(store.path(), error.to_string());
        let vote = store.vote().map(|bytes| record::decode_vote(&bytes)).transpose().map_err(broken)?;
        let purged = store.purged().map(|bytes| record::decode_log_id(&bytes)).transpose().map_err(broken)?;
        let described =
            store.description()?.map(|bytes| record::decode_description(&bytes)).transpose().map_err(broken)?;
        let mut last = purged;
        let mut members = described.map(|described| described.meta.last_membership.membership().clone());
        let mut committed = None;
        let mut next = purged.map_or(0, |id| id.index.saturating_add(1));
        if let Some(end) = store.last_entry() {
            while next <= end {
                let upto = end.min(next.saturating_add(63));
                for (index, bytes) in store.entries(next..=upto)? {
                    if index != next {
                        return Err(StoreError::damaged(store.path(), format!("log entry {next} is missing")));
                    }
                    let bytes = Zeroizing::new(bytes);
                    if index == end {
                        committed = record::committed_at(&bytes).map_err(broken)?;
                    }
                    let entry = record::decode_entry(index, &bytes).map_err(broken)?;
                    last = Some(entry.log_id);
                    if let EntryPayload::Membership(membership) = &entry.payload {
                        members = Some(membership.clone());
                    }
                    next = next.saturating_add(1);
                }
                if next <= upto {
                    return Err(StoreError::damaged(store.path(), format!("log entry {next} is missing")));
                }
            }
        }
        let alone = Arc::new(watch::Sender::new(members.as_ref().is_some_and(|members| members.nodes().count() == 1)));
        let tail = Tail { last, purged, vote, members, committed, ..Tail::default() };
        Ok(Self { store, tail: Arc::new(Mutex::new(tail)), progress, alone })
    }

    /// The node that alone decides, if there is one: then whatever lies in its log is committed.
    pub(super) fn sole_voter(&self) -> Option<u64> {
        self.lock().members.as_ref().and_then(sole_voter)
    }

    /// Whether the log on disk says that there is nobody else in the group, not even one who only follows.
    pub(super) fn alone(&self) -> &watch::Sender<bool> {
        &self.alone
    }

    /// The last entry that was purged.
    pub(super) fn purged(&self) -> Option<u64> {
        self.lock().purged.map(|id| id.index)
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.lock().entries.len()
    }

    pub(super) fn read(&self, range: impl RangeBounds<u64>) -> io::Result<Vec<Entry>> {
        let (start, disk_end, mut kept) = {
            let tail = self.lock();
            let first = tail.purged.map_or(0, |id| id.index.saturating_add(1));
            let start = first.max(match range.start_bound() {
                Bound::Included(at) => *at,
                Bound::Excluded(at) => at.saturating_add(1),
                Bound::Unbounded => 0,
            });
            let end = tail.last.map_or(0, |id| id.index.saturating_add(1)).min(match range.end_bound() {
                Bound::Included(at) => at.saturating_add(1),
                Bound::Excluded(at) => *at,
                Bound::Unbounded => u64::MAX,
            });
            let tail_start = tail.entries.front().map_or(end, |kept| kept.entry.log_id.index);
            let wanted = start.max(tail_start)..end;
            let kept: Vec<Entry> = tail
                .entries
                .iter()
                .skip(usize::try_from(wanted.start.saturating_sub(tail_start)).unwrap_or(usize::MAX))
                .take_while(|kept| kept.entry.log_id.index < end)
                .map(|kept| kept.entry.clone())
                .collect();
            (start, end.min(tail_start), kept)
        };
        if start >= disk_end {
            return Ok(kept);
        }
        let rows = self.store.entries(start..=disk_end - 1).map_err(io::Error::other)?;
        let mut entries = Vec::with_capacity(rows.len() + kept.len());
        for (index, bytes) in rows {
            entries.push(record::decode_entry(index, &Zeroizing::new(bytes))?);
        }
        entries.append(&mut kept);
        Ok(entries)
    }
}

impl Tail {
    fn trim(&mut self) {
        while self.bytes > TAIL_BYTES_MAX
            && let Some(front) = self.entries.front()
            && front.append <= self.flushed
        {
            self.bytes = self.bytes.saturating_sub(front.bytes);
            self.entries.pop_front();
        }
    }
}

fn sole_voter(membership: &Membership) -> Option<u64> {
    match membership.get_joint_config().as_slice() {
        [only] if only.len() == 1 => only.first().copied(),
        _ => None,
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(range)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.lock().vote)
    }

    /// As many as go to a follower at once.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let mut taken: Vec<Entry> = Vec::new();
        let (mut next, mut bytes) = (start, 0);
        while next < end && bytes < APPEND_BYTES {
            let read = self.read(next..end.min(next.saturating_add(READ_AT_ONCE)))?;
            next = next.saturating_add(read.len() as u64);
            if read.is_empty() {
                break;
            }
            for entry in read {
                if let EntryPayload::Normal(stamped) = &entry.payload {
                    bytes += stamped.bytes().len();
                }
                if bytes > APPEND_BYTES && !taken.is_empty() {
                    return Ok(taken);
                }
                taken.push(entry);
            }
        }
        Ok(taken)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let tail = self.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        // The receiver is gone only when raft is: nobody is left to be told.
        let done = Box::new(move |result| drop(sender.send(result)));
        self.store.put_vote(record::encode_vote(vote), done);
        receiver.await.map_err(|_| io::Error::other("the store's writer failed"))??;
        self.lock().vote = Some(*vote);
        Ok(())
    }

    /// Goes to the disk with the next entry: nobody waits for it.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.lock().committed = committed;
        Ok(())
    }

    /// With a sole voter, whatever is in its log was decided when it was written: there is no other log that could win.
    /// Otherwise what was known when the last entry was written: so a member knows its cluster, and the other members, before it hears of a
    /// leader. Raft waits for one before it serves reads.
    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<Types>>> {
        let tail = self.lock();
        let sole = tail.members.as_ref().and_then(sole_voter).is_some();
        Ok(if sole { tail.last } else { tail.committed.min(tail.last) })
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut rows = Vec::new();
        let mut others = false;
        let alone = *self.alone.borrow();
        let append = {
            let mut tail = self.lock();
            tail.appended += 1;
            let append = tail.appended;
            for entry in entries {
                let row = record::encode_entry(&entry, tail.committed.as_ref().filter(|_| !alone));
                tail.bytes += row.len();
                tail.last = Some(entry.log_id);
                if let EntryPayload::Membership(membership) = &entry.payload {
                    others |= membership.nodes().count() > 1;
                    tail.members = Some(membership.clone());
                }
                let bytes = row.len();
                rows.push((entry.log_id.index, row));
                tail.entries.push_back(Kept { entry, bytes, append });
            }
            append
        };
        let (tail, others_now) = (self.tail.clone(), self.alone.clone());
        let done = Box::new(move |result: io::Result<()>| {
            if result.is_ok() {
                if others {
                    others_now.send_replace(false);
                }
                let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
                tail.flushed = tail.flushed.max(append);
                tail.trim();
            }
            callback.io_completed(result);
        });
        // With others, raft has more to do than to wait for the disk.
        self.store.append(rows, alone, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let from = last.map_or(0, |id| id.index.saturating_add(1));
        {
            let mut tail = self.lock();
            while let Some(back) = tail.entries.back()
                && back.entry.log_id.index >= from
            {
                tail.bytes = tail.bytes.saturating_sub(back.bytes);
                tail.entries.pop_back();
            }
            tail.last = tail.last.min(last);
            // Only followers truncate, so there are others; what the last membership was is asked at the next start.
            tail.members = None;
        }
        self.store.truncate_from(from);
        Ok(())
    }

    /// Rides with the next sync, but for one that somebody waits for: a purge that a crash forgets is made again. The issuance projection of what is purged
    /// was queued before the snapshot that allowed the purge, so it is on disk first.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut tail = self.lock();
            while let Some(front) = tail.entries.front()
                && front.entry.log_id.index <= upto.index
            {
                tail.bytes = tail.bytes.saturating_sub(front.bytes);
                tail.entries.pop_front();
            }
            tail.purged = tail.purged.max(Some(upto));
            tail.last = tail.last.max(Some(upto));
        }
        let forgotten = self.progress.forget.wants(upto.index).then(|| {
            let progress = self.progress.clone();
            let done: Done = Box::new(move |result: io::Result<()>| {
                if result.is_ok() {
                    progress.forget.gone(upto.index);
                    tracing::info!(index = upto.index, "root keys that were given up are gone from the log");
                }
            });
            done
        });
        self.store.purge_through(upto.index, record::encode_log_id(&upto), forgotten);
        Ok(())
    }
}
