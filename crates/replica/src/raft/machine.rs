//! The state machine: the cluster's state in memory, published whole after each run of entries; a snapshot on disk.
//!
//! Order of things: apply → publish → answer, so that whoever has an answer reads a state that includes it.
//! What was issued goes to the projection's queue before a snapshot that covers it is queued, and raft purges only
//! behind a snapshot: so the projection is on disk before the entries that it comes from are gone.

use super::forget::{self, Forget};
use super::record::{self, Description};
use super::{Entry, LogId, SnapshotMeta, StoredMembership, Types};
use crate::fatal::{Fatal, FatalFlag};
use crate::store::{Store, StoreError};
use cluster::State;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use pki::digest::sha256;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

/// How much log there is that no snapshot covers.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    entries: AtomicU64,
    bytes: AtomicU64,
    snapshot_bytes: AtomicU64,
    asked: AtomicBool,
    pub(super) forget: Forget,
}

impl Progress {
    /// Whether a snapshot is due, and nobody was told. The larger the state, the rarer: a snapshot is written when the log
    /// has outgrown it.
    pub(crate) fn is_due(&self, entries_max: u64, bytes_min: u64) -> bool {
        let bytes_max = bytes_min.max(self.snapshot_bytes.load(Ordering::Relaxed).min(SNAPSHOT_LOG_BYTES_MAX));
        let due = self.forget.is_due()
            || self.entries.load(Ordering::Relaxed) >= entries_max
            || self.bytes.load(Ordering::Relaxed) >= bytes_max;
        due && !self.asked.load(Ordering::Relaxed)
    }

    /// The same, told once until it is made.
    pub(crate) fn due(&self, entries_max: u64, bytes_min: u64) -> bool {
        self.is_due(entries_max, bytes_min) && !self.asked.swap(true, Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn take(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn covered(&self, (entries, bytes): (u64, u64), snapshot: &Description) {
        self.entries.fetch_sub(entries, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.snapshot_bytes.store(snapshot.bytes, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
        self.forget.covered(snapshot.meta.last_log_id.map_or(0, |id| id.index));
    }

    /// Returns when a snapshot came too early for what has to go: then another one is due.
    pub(crate) async fn again(&self) {
        self.forget.again().await;
    }

    /// Returns when no root key that the state has let go of is left on the disk.
    pub(crate) async fn forgotten(&self) {
        self.forget.done().await;
    }
}

/// Log that no snapshot covers grows no further than this, however large the state is, in bytes.
const SNAPSHOT_LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The state machine as openraft drives it.
pub(super) struct Machine {
    store: Store,
    fatal: FatalFlag,
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// The next sequence number that the projection lacks.
    next_issued: u64,
    states: Arc<watch::Sender<Arc<State>>>,
    progress: Arc<Progress>,
    snapshot: Arc<Mutex<Option<Description>>>,
}

/// A snapshot that lies in a store: read when it is needed, so that nobody holds two copies of the state.
#[derive(Clone)]
pub(super) struct Image {
    store: Store,
    description: Description,
}

/// Writes one snapshot of the state as it was.
pub(super) struct Builder {
    store: Store,
    state: State,
    meta: SnapshotMeta,
    covers: (u64, u64),
    progress: Arc<Progress>,
    snapshot: Arc<Mutex<Option<Description>>>,
}

impl Machine {
    pub(super) fn open(
        store: Store,
        states: Arc<watch::Sender<Arc<State>>>,
        progress: Arc<Progress>,
    ) -> Result<Self, StoreError> {
        let broken = |error: io::Error| StoreError::damaged(store.path(), error.to_string());
        let description =
            store.description()?.map(|bytes| record::decode_description(&bytes)).transpose().map_err(broken)?;
        if let Some(description) = &description {
            progress.covered((0, 0), description);
        }
        let next_issued = store.last_issued()?.map_or(0, |seq| seq.saturating_add(1));
        let fatal = store.fatal().clone();
        Ok(Self {
            store,
            fatal,
            state: State::empty(),
            applied: None,
            membership: StoredMembership::default(),
            next_issued,
            states,
            progress,
            snapshot: Arc::new(Mutex::new(description)),
        })
    }

    /// The last entry that the snapshot on disk covers.
    pub(super) fn covers(&self) -> Option<u64> {
        self.described().as_ref().and_then(|description| description.meta.last_log_id).map(|id| id.index)
    }

    fn apply_entry(&mut self, entry: &Entry) -> io::Result<Vec<cluster::Outcome>> {
        let mut bytes = 0;
        let mut outcomes = Vec::new();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
            }
            EntryPayload::Normal(stamped) => {
                bytes = stamped.bytes().len();
                let batch = stamped.batch().map_err(|error| {
                    let what = format!("log entry {} cannot be read by this version: {error}", entry.log_id.index);
                    self.fatal.raise(Fatal::new(what.clone()));
                    io::Error::other(what)
                })?;
                let stake = forget::keys_at_stake(&self.state, &batch);
                let applied = self.state.apply(entry.log_id.index, &batch);
                if forget::lacks(&self.state, &stake) {
                    self.progress.forget.add(entry.log_id.index);
                }
                outcomes = applied.outcomes;
                let rows: Vec<_> = applied
                    .issued
                    .into_iter()
                    .filter(|entry| entry.seq >= self.next_issued)
                    .map(|entry| (entry.seq, entry.bytes))
                    .collect();
                if let Some((last, _)) = rows.last() {
                    self.next_issued = last.saturating_add(1);
                }
                self.store.add_issued(rows);
            }
        }
        self.applied = Some(entry.log_id);
        self.progress.add(bytes);
        Ok(outcomes)
    }

    fn publish(&self) {
        self.states.send_replace(Arc::new(self.state.clone()));
    }

    fn described(&self) -> MutexGuard<'_, Option<Description>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let outcomes = self.apply_entry(&entry)?;
            if let Some(responder) = responder {
                answers.push((responder, outcomes));
            }
        }
        self.publish();
        for (responder, outcomes) in answers {
            responder.send(outcomes);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            store: self.store.clone(),
            state: self.state.clone(),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            covers: self.progress.take(),
            progress: self.progress.clone(),
            snapshot: self.snapshot.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> io::Result<()> {
        let bytes = image.load()?;
        self.state = State::decode_snapshot(&bytes).map_err(|error| {
            let what = format!("the snapshot cannot be read by this version: {error}");
            self.fatal.raise(Fatal::new(what.clone()));
            io::Error::other(what)
        })?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        if !image.store.is(&self.store) {
            let description = Description { meta: meta.clone(), ..image.description };
            save(&self.store, &description, bytes).await?;
            self.progress.covered(self.progress.take(), &description);
            *self.described() = Some(description);
        }
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<StoredSnapshot>> {
        let description = self.described().clone();
        Ok(description.map(|description| stored(&self.store, description)))
    }
}

type StoredSnapshot = openraft::alias::SnapshotOf<Types, Image>;

impl Image {
    /// The bytes, if they are what the description says.
    fn load(&self) -> io::Result<Arc<Zeroizing<Vec<u8>>>> {
        let bytes = self.store.snapshot().map_err(io::Error::other)?;
        if bytes.len() as u64 != self.description.bytes || sha256(&bytes) != self.description.sha256 {
            return Err(io::Error::other("the snapshot is not the one that its description names"));
        }
        Ok(Arc::new(bytes))
    }
}

fn stored(store: &Store, description: Description) -> StoredSnapshot {
    Snapshot { meta: description.meta.clone(), snapshot: Image { store: store.clone(), description } }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> io::Result<StoredSnapshot> {
        let state = self.state.clone();
        let encode = move || {
            let bytes = Zeroizing::new(state.encode_snapshot());
            let digest = sha256(&bytes);
            (Arc::new(bytes), digest)
        };
        let (bytes, digest) = tokio::task::spawn_blocking(encode).await.map_err(io::Error::other)?;
        let description = Description { meta: self.meta.clone(), bytes: bytes.len() as u64, sha256: digest };
        save(&self.store, &description, bytes).await?;
        self.progress.covered(self.covers, &description);
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(description.clone());
        Ok(stored(&self.store, description))
    }
}

pub(super) async fn save(store: &Store, description: &Description, bytes: Arc<Zeroizing<Vec<u8>>>) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    // The receiver is gone only when raft is: nobody is left to be told.
    let done = Box::new(move |result| drop(sender.send(result)));
    store.put_snapshot(record::encode_description(description), bytes, done);
    receiver.await.map_err(|_| io::Error::other("the store's writer failed"))?
}
