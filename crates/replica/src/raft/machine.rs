//! The state machine: the cluster's state in memory, published whole after each run of entries; a snapshot on disk.
//!
//! Order of things: apply → publish → answer → tell those who look on, so that whoever has an answer reads a state that includes it.
//! What was issued goes to the projection's queue before a snapshot that covers it is queued, and raft purges only
//! behind a snapshot: so the projection is on disk before the entries that it comes from are gone.

use super::forget::{self, Forget};
use super::record::{self, Description};
use super::{Entry, LogId, SnapshotMeta, StoredMembership, Types};
use crate::fatal::{Fatal, FatalFlag};
use crate::published::Published;
use crate::store::{Store, StoreError};
use cluster::State;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use pki::digest::sha256;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot, watch};
use zeroize::Zeroizing;

/// How much log there is that no snapshot covers.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Entries and bytes from which on a snapshot is due.
    limits: (u64, u64),
    entries: AtomicU64,
    bytes: AtomicU64,
    snapshot_bytes: AtomicU64,
    asked: AtomicBool,
    due: Notify,
    /// Changes when a snapshot of another member was taken.
    received: watch::Sender<()>,
    pub(super) forget: Forget,
}

impl Default for Progress {
    /// No snapshot is ever due for its size.
    fn default() -> Self {
        Self::new(u64::MAX, u64::MAX)
    }
}

impl Progress {
    pub(crate) fn new(entries_max: u64, bytes_min: u64) -> Self {
        Self {
            limits: (entries_max, bytes_min),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            snapshot_bytes: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            due: Notify::new(),
            received: watch::Sender::new(()),
            forget: Forget::default(),
        }
    }

    /// Whether a snapshot is due, and nobody was told. The larger the state, the rarer: a snapshot is written when the log
    /// has outgrown it.
    fn is_due(&self) -> bool {
        let (entries_max, bytes_min) = self.limits;
        let bytes_max = bytes_min.max(self.snapshot_bytes.load(Ordering::Relaxed).min(SNAPSHOT_LOG_BYTES_MAX));
        let due = self.forget.is_due()
            || self.entries.load(Ordering::Relaxed) >= entries_max
            || self.bytes.load(Ordering::Relaxed) >= bytes_max;
        due && !self.asked.load(Ordering::Relaxed)
    }

    /// Returns when a snapshot is due; told once until it is made.
    pub(crate) async fn due(&self) {
        while !self.is_due() || self.asked.swap(true, Ordering::Relaxed) {
            self.due.notified().await;
        }
    }

    fn tell(&self) {
        if self.is_due() {
            self.due.notify_one();
        }
    }

    fn add(&self, bytes: usize) {
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn take(&self) -> (u64, u64) {
        (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    fn covered(&self, (entries, bytes): (u64, u64), snapshot: &Description) {
        // Another member's snapshot may have come since these were counted.
        let less = |counter: &AtomicU64, by: u64| {
            // There always is a next value.
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(by)));
        };
        less(&self.entries, entries);
        less(&self.bytes, bytes);
        self.snapshot_bytes.store(snapshot.bytes, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
        self.forget.covered(snapshot.meta.last_log_id.map_or(0, |id| id.index));
        // It may have come too early for what has to go.
        self.tell();
    }

    /// Changes when a snapshot of another member was taken.
    pub(crate) fn received(&self) -> watch::Receiver<()> {
        self.received.subscribe()
    }

    /// Whether root keys that the state has let go of may be left in the log.
    pub(crate) fn has_to_forget(&self) -> bool {
        self.forget.is_left()
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
    states: Arc<Published>,
    progress: Arc<Progress>,
    shelf: Shelf,
}

/// A snapshot.
#[derive(Clone)]
pub(super) enum Image {
    /// It lies in a store, and is read when it is needed, so that nobody holds two copies of the state.
    Stored {
        /// Where.
        store: Store,
        /// What it must be.
        description: Description,
    },
    /// It came from another member.
    Received {
        /// What it is.
        description: Description,
        /// Its bytes; they are what the description says.
        bytes: Arc<Zeroizing<Vec<u8>>>,
    },
}

/// Where the snapshot lies: the newest one, whoever made it.
#[derive(Clone)]
struct Shelf {
    store: Store,
    inner: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// The last entry that is covered by what is being written.
    written: Option<LogId>,
    /// What is there.
    description: Option<Description>,
}

/// Writes one snapshot of the state as it was.
pub(super) struct Builder {
    shelf: Shelf,
    state: State,
    meta: SnapshotMeta,
    covers: (u64, u64),
    progress: Arc<Progress>,
}

impl Machine {
    pub(super) fn open(store: Store, states: Arc<Published>, progress: Arc<Progress>) -> Result<Self, StoreError> {
        let broken = |error: io::Error| StoreError::damaged(store.path(), error.to_string());
        let description =
            store.description()?.map(|bytes| record::decode_description(&bytes)).transpose().map_err(broken)?;
        if let Some(description) = &description {
            progress.covered((0, 0), description);
        }
        let next_issued = store.last_issued()?.map_or(0, |seq| seq.saturating_add(1));
        let fatal = store.fatal().clone();
        let shelf = Shelf { store: store.clone(), inner: Arc::default() };
        shelf.kept().description = description;
        Ok(Self {
            store,
            fatal,
            state: State::empty(),
            applied: None,
            membership: StoredMembership::default(),
            next_issued,
            states,
            progress,
            shelf,
        })
    }

    /// The last entry that the snapshot on disk covers.
    pub(super) fn covers(&self) -> Option<u64> {
        self.shelf.description().and_then(|description| description.meta.last_log_id).map(|id| id.index)
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
                let erased = self.state.log_erased;
                let stake = forget::keys_at_stake(&self.state, &batch);
                let applied = self.state.apply(entry.log_id.index, &batch);
                if forget::lacks(&self.state, &stake) {
                    self.progress.forget.add(entry.log_id.index);
                }
                outcomes = applied.outcomes;
                let rows: Vec<_> = applied.issued.into_iter().filter(|entry| entry.seq >= self.next_issued).collect();
                if let Some(last) = rows.last() {
                    self.next_issued = last.seq.saturating_add(1);
                }
                self.store.add_issued(rows);
                if self.state.log_erased > erased {
                    self.store.erase_private(self.state.log_erased);
                    // What is erased came here in entries that are in the log still.
                    self.progress.forget.add(entry.log_id.index);
                }
            }
        }
        self.applied = Some(entry.log_id);
        self.progress.add(bytes);
        Ok(outcomes)
    }

    fn publish(&self) {
        self.states.show(self.state.clone());
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
        self.states.has_changed();
        self.progress.tell();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            shelf: self.shelf.clone(),
            state: self.state.clone(),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() },
            covers: self.progress.take(),
            progress: self.progress.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> io::Result<()> {
        let foreign = !matches!(&image, Image::Stored { store, .. } if store.is(&self.store));
        let read = move || {
            let (bytes, description) = match image {
                Image::Stored { store, description } => (Image::load(&store, &description)?, description),
                Image::Received { description, bytes } => (bytes, description),
            };
            State::decode_snapshot(&bytes).map(|state| (state, bytes, description)).map_err(io::Error::other)
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?;
        let (state, bytes, description) = read.map_err(|error| {
            let what = format!("the snapshot cannot be read by this version: {error}");
            self.fatal.raise(Fatal::new(what.clone()));
            io::Error::other(what)
        })?;
        self.state = state;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        if foreign {
            self.store.erase_private(self.state.log_erased);
            let description = Description { meta: meta.clone(), ..description };
            // What was issued between the projection's end and here is not known: it stays a gap.
            self.next_issued = self.next_issued.max(self.state.log_size());
            // Nobody knows which root keys the entries that it replaces brought.
            self.progress.forget.add(meta.last_log_id.map_or(0, |id| id.index));
            self.shelf.put(&description, bytes).await?;
            self.progress.covered(self.progress.take(), &description);
        }
        self.publish();
        self.states.has_changed();
        if foreign {
            self.progress.received.send_replace(());
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<StoredSnapshot>> {
        Ok(self.shelf.description().map(|description| stored(&self.store, description)))
    }
}

type StoredSnapshot = openraft::alias::SnapshotOf<Types, Image>;

impl Image {
    /// The bytes of the snapshot in a store, if they are what the description says.
    pub(super) fn load(store: &Store, description: &Description) -> io::Result<Arc<Zeroizing<Vec<u8>>>> {
        let bytes = store.snapshot().map_err(io::Error::other)?;
        if bytes.len() as u64 != description.bytes || sha256(&bytes) != description.sha256 {
            return Err(io::Error::other("the snapshot is not the one that its description names"));
        }
        Ok(Arc::new(bytes))
    }
}

fn stored(store: &Store, description: Description) -> StoredSnapshot {
    Snapshot { meta: description.meta.clone(), snapshot: Image::Stored { store: store.clone(), description } }
}

impl Shelf {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn description(&self) -> Option<Description> {
        self.kept().description.clone()
    }

    /// Writes a snapshot, but never over one that covers more: one is built here while another member's may come.
    async fn put(&self, description: &Description, bytes: Arc<Zeroizing<Vec<u8>>>) -> io::Result<()> {
        let covers = description.meta.last_log_id;
        let saving = {
            let mut kept = self.kept();
            if kept.written > covers {
                return Ok(());
            }
            kept.written = covers;
            save(&self.store, description, bytes)
        };
        saving.await?;
        let mut kept = self.kept();
        if kept.written == covers {
            kept.description = Some(description.clone());
        }
        Ok(())
    }
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
        self.shelf.put(&description, bytes).await?;
        self.progress.covered(self.covers, &description);
        Ok(stored(&self.shelf.store, description))
    }
}

/// Queues a snapshot at once; what is given back waits until it is on disk.
pub(super) fn save(
    store: &Store,
    description: &Description,
    bytes: Arc<Zeroizing<Vec<u8>>>,
) -> impl Future<Output = io::Result<()>> + Send + use<> {
    let (sender, receiver) = oneshot::channel();
    // The receiver is gone only when raft is: nobody is left to be told.
    let done = Box::new(move |result| drop(sender.send(result)));
    store.put_snapshot(record::encode_description(description), bytes, done);
    async move { receiver.await.map_err(|_| io::Error::other("the store's writer failed"))? }
}
