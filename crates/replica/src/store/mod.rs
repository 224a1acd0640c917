//! The store: a log of sealed frames, a redb file with sealed rows, a thread for each that writes it, and a small header beside them.
//!
//! What is answered waits for one write and one sync of the log: entries, votes, truncations, purges. What is large or can be made
//! again lies in the database: the snapshot, the issuance projection; and the salts.
//!
//! Rules:
//! - rows are opaque here; what they mean is raft's business;
//! - everything queued while a sync runs goes into the next frame: one sync for all of it;
//! - what is queued behind something that goes into the log is written to the database when that is in the log, and nobody who waits for
//!   the log waits for the database;
//! - work without a waiting caller (`lazy`: the issuance projection, purges, truncations) never causes a sync of its
//!   own; it rides with a later one, in order; the projection is written in large pieces, and synced before the snapshot behind
//!   which raft purges the entries that it comes from;
//! - the header is written last at creation, and checked first at opening: without it there is no store, and a wrong
//!   data key is found out before the database is touched.

mod error;
mod exchange;
mod fill;
mod frame;
mod header;
mod job;
mod log;
mod rows;
mod segment;
mod table;
mod tiling;
mod tree;
mod verify;
mod work;
mod writer;

pub use error::StoreError;
pub(crate) use header::FIRST_MEMBER;
pub use header::{Header, header};
pub(crate) use job::Done;
pub use verify::{Fault, Verified};

use crate::disk::{self, Medium, Metered};
use crate::fatal::{Fatal, FatalFlag};
use crate::seal::{DataKey, Kind, Opener, Scope, Sealer};
use cluster::LogEntry;
use exchange::Exchange;
use job::Job;
use log::{Index, Log, SEGMENT_BYTES};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use rows::{Clerk, Failure, Rows};
use segment::Place;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use table::{ISSUED, META, META_KEYS, PRIVATE, SNAPSHOT};
use work::Work;
use writer::Writer;
use zeroize::Zeroizing;

/// Memory that redb may use for pages; the state itself is in memory, so pages are read once.
const PAGE_CACHE_BYTES: usize = 2 * 1024 * 1024;

/// One row of a table with 64-bit keys, not sealed (yet, or any more).
pub(crate) type Row = (u64, Vec<u8>);

/// A handle to the store; clones share it. The files are closed when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    /// The database that was opened.
    path: PathBuf,
    writer: Writer,
    /// What is read from. Whoever reads holds it, and gives it back soon.
    files: Arc<RwLock<Arc<Files>>>,
    syncs: Arc<AtomicU64>,
    commits: Arc<AtomicU64>,
    fatal: FatalFlag,
}

/// The reading ends of a store's files.
struct Files {
    path: PathBuf,
    database: Arc<Database>,
    index: Index,
    opener: Arc<Opener>,
}

/// A row of the issuance projection, and its private part.
type Sealed = (u64, Vec<u8>, Option<Vec<u8>>);

/// The log's and the database's: each has an owner of its own.
type Sealers = (Sealer, Sealer);

/// What was counted since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) syncs: u64,
    pub(crate) commits: u64,
}

/// A store that is not yet there for others: it lacks its header.
pub(crate) struct Unfinished {
    store: Store,
    dir: PathBuf,
    header: Vec<u8>,
}

impl Unfinished {
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Writes the header: from now on the store exists.
    pub(crate) fn finish(self) -> Result<Store, StoreError> {
        header::write(&self.dir, &self.header)?;
        Ok(self.store)
    }
}

impl Store {
    /// Makes a store in a directory; leftovers of a creation that was cut short are replaced.
    pub(crate) fn create<M: Medium>(
        medium: &M,
        dir: &Path,
        scope: Scope,
        member: u64,
        data_key: &DataKey,
    ) -> Result<Unfinished, StoreError> {
        disk::create_dir(dir).map_err(|source| StoreError::io(dir, "make the directory", source))?;
        if header::exists(dir)? {
            return Err(StoreError::Exists { path: dir.to_path_buf() });
        }
        let header = header::encode(&scope, member, header::FIRST_FILE, data_key)?;
        let path = dir.join(header::FIRST_FILE);
        medium.remove(&path).map_err(|source| StoreError::io(&path, "replace an unfinished store", source))?;
        let store = Self::start(medium, path, true, scope, member, data_key)?;
        medium.sync_dir(dir).map_err(|source| StoreError::io(dir, "sync the directory", source))?;
        Ok(Unfinished { store, dir: dir.to_path_buf(), header })
    }

    /// Makes another store beside the one whose header this is, in files with the next number. From [`Unfinished::finish`] on it is the
    /// store of this directory; what was there before goes at the next opening.
    pub(crate) fn create_beside<M: Medium>(
        medium: &M,
        dir: &Path,
        old: &Header,
        scope: Scope,
        member: u64,
        data_key: &DataKey,
    ) -> Result<Unfinished, StoreError> {
        let file = exchange::next_file(Path::new(&old.file));
        let header = header::encode(&scope, member, &file, data_key)?;
        let store = Self::start(medium, dir.join(&file), true, scope, member, data_key)?;
        medium.sync_dir(dir).map_err(|source| StoreError::io(dir, "sync the directory", source))?;
        Ok(Unfinished { store, dir: dir.to_path_buf(), header })
    }

    /// Opens a store. Changes nothing when the data key is wrong.
    pub(crate) fn open<M: Medium>(medium: &M, dir: &Path, data_key: &DataKey) -> Result<(Self, Header), StoreError> {
        let header = header::open(dir, data_key)?;
        let scope = Scope { cluster: header.cluster.clone(), epoch: header.epoch };
        let store = Self::start(medium, dir.join(&header.file), false, scope, header.member, data_key)?;
        exchange::sweep(medium, dir, &header.file)?;
        Ok((store, header))
    }

    fn start<M: Medium>(
        medium: &M,
        path: PathBuf,
        create: bool,
        scope: Scope,
        member: u64,
        data_key: &DataKey,
    ) -> Result<Self, StoreError> {
        let syncs = Arc::new(AtomicU64::new(0));
        let (files, log, (sealer, for_rows)) =
            Files::start(medium, path.clone(), create, scope.clone(), data_key, &syncs)?;
        let now = Arc::new(files);
        let files = Arc::new(RwLock::new(now.clone()));
        let dir = path.parent().unwrap_or(&path).to_path_buf();
        let exchange =
            Exchange { medium: medium.clone(), dir, scope, member, syncs: syncs.clone(), files: files.clone() };
        let (fatal, commits) = (FatalFlag::new(), Arc::new(AtomicU64::new(0)));
        let failure = Failure::new(fatal.clone());
        let (rows, thread) = Clerk::start(Rows::new(now.clone(), for_rows, failure.clone())?)?;
        let work = Work::new(now, log, sealer, rows, failure.clone(), commits.clone(), exchange);
        let writer = Writer::start(&path, work, failure, thread)?;
        Ok(Self { inner: Arc::new(Inner { path, writer, files, syncs, commits, fatal }) })
    }

    fn files(&self) -> Arc<Files> {
        self.inner.files.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The database's file.
    pub(crate) fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Whether both are handles to one store.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn fatal(&self) -> &FatalFlag {
        &self.inner.fatal
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { syncs: self.inner.syncs.load(Ordering::Relaxed), commits: self.inner.commits.load(Ordering::Relaxed) }
    }

    /// Appends log entries; `done` is called after the sync. With `here` they may be written before this returns.
    pub(crate) fn append(&self, rows: Vec<Row>, here: bool, done: Done) {
        self.inner.writer.append(rows, here, done);
    }

    /// Queues whom this member votes for; `done` is called after the sync.
    pub(crate) fn put_vote(&self, value: Vec<u8>, done: Done) {
        self.inner.writer.send(Job::Vote { value, done });
    }

    /// Removes entries from this index on, with the next sync.
    pub(crate) fn truncate_from(&self, index: u64) {
        self.inner.writer.send(Job::TruncateFrom { index });
    }

    /// Removes entries up to this index, and keeps the mark that says so, with the next sync.
    ///
    /// With `forgotten` it is synced at once; it is called when nothing of them is left on the disk. Then pages that the
    /// database has freed are overwritten too, as far as it can be made to.
    pub(crate) fn purge_through(&self, index: u64, mark: Vec<u8>, forgotten: Option<Done>) {
        self.inner.writer.send(Job::PurgeThrough { index, mark, forgotten });
    }

    /// Replaces the snapshot; `done` is called after the sync.
    pub(crate) fn put_snapshot(&self, description: Vec<u8>, image: Arc<Zeroizing<Vec<u8>>>, done: Done) {
        self.inner.writer.send(Job::Snapshot { description, image, done });
    }

    /// Adds to the issuance projection, with some later sync: at the latest before a snapshot.
    pub(crate) fn add_issued(&self, rows: Vec<LogEntry>) {
        if !rows.is_empty() {
            self.inner.writer.add_issued(rows);
        }
    }

    /// Private parts of entries of the issuance log below this one go, with some later sync: at the latest before a snapshot.
    pub(crate) fn erase_private(&self, below: u64) {
        self.inner.writer.send(Job::Erase { below });
    }

    /// Puts everything under another data key, in other files; `done` is called when nothing is left of the present ones. It takes the time
    /// of writing it all, and nothing else is written meanwhile. If it fails and the store goes on, it goes on under the present key.
    pub(crate) fn exchange(&self, data_key: DataKey, done: Done) {
        self.inner.writer.send(Job::Exchange { data_key, done });
    }

    /// Everything queued so far is on disk when `done` is called.
    pub(crate) fn flush(&self, done: Done) {
        self.inner.writer.send(Job::Flush { done });
    }

    /// Everything queued so far can be read when `done` is called; no sync.
    pub(crate) fn settle(&self, done: Done) {
        self.inner.writer.send(Job::Settle { done });
    }

    /// Gives up this handle and waits until the others are gone too and the file is closed.
    pub(crate) async fn closed(self, within: Duration) {
        let rest = Arc::downgrade(&self.inner);
        drop(self);
        let pause = Duration::from_millis(1);
        let mut waited = Duration::ZERO;
        while rest.strong_count() > 0 && waited < within {
            tokio::time::sleep(pause).await;
            waited += pause;
        }
    }

    /// Whom this member votes for.
    pub(crate) fn vote(&self) -> Option<Vec<u8>> {
        self.files().index.vote()
    }

    /// The mark of the last purge.
    pub(crate) fn purged(&self) -> Option<Vec<u8>> {
        self.files().index.purged()
    }

    /// What the snapshot covers, if there is one.
    pub(crate) fn description(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let files = self.files();
        let row = row(&files.database, META_KEYS.snapshot).map_err(|error| self.failed("read", error))?;
        row.map(|sealed| files.unseal(Kind::Meta, META_KEYS.snapshot, &sealed)).transpose()
    }

    /// The log entries in this range that are on disk, in order.
    pub(crate) fn entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Row>, StoreError> {
        self.files().index.entries(range).inspect_err(|error| self.inner.fatal.raise(Fatal::new(error.to_string())))
    }

    /// How each frame on disk that holds an entry begins where it is sealed.
    #[cfg(test)]
    pub(crate) fn begins(&self) -> Vec<[u8; 13]> {
        self.files().index.begins()
    }

    /// The index of the last log entry on disk.
    pub(crate) fn last_entry(&self) -> Option<u64> {
        self.files().index.last_entry()
    }

    /// The snapshot's pieces, put together.
    pub(crate) fn snapshot(&self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let files = self.files();
        let read = || -> Result<Vec<Row>, redb::Error> {
            let table = files.database.begin_read()?.open_table(SNAPSHOT)?;
            table
                .iter()?
                .map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())))
                .map(|r| Ok(r?))
                .collect()
        };
        let pieces = read().map_err(|error| self.failed("read the snapshot of", error))?;
        let bytes = pieces.iter().map(|(_, sealed)| sealed.len()).sum();
        let mut out = Zeroizing::new(Vec::with_capacity(bytes));
        for (key, sealed) in pieces {
            out.extend_from_slice(&Zeroizing::new(files.unseal(Kind::Snapshot, key, &sealed)?));
        }
        Ok(out)
    }

    /// The last sequence number in the issuance projection on disk.
    pub(crate) fn last_issued(&self) -> Result<Option<u64>, StoreError> {
        self.files().last_issued().map_err(|error| self.failed("read the issuance log of", error))
    }

    /// At most `max` rows of the issuance projection on disk, from a sequence number on.
    pub(crate) fn issued(&self, from: u64, max: usize) -> Result<Vec<LogEntry>, StoreError> {
        let files = self.files();
        let read = || -> Result<Vec<Sealed>, redb::Error> {
            let transaction = files.database.begin_read()?;
            let (table, privates) = (transaction.open_table(ISSUED)?, transaction.open_table(PRIVATE)?);
            let mut out = Vec::new();
            for row in table.range(from..)?.take(max) {
                let (key, value) = row?;
                let private = privates.get(key.value())?.map(|private| private.value().to_vec());
                out.push((key.value(), value.value().to_vec(), private));
            }
            Ok(out)
        };
        let rows = read().map_err(|error| self.failed("read the issuance log of", error))?;
        let open = |(seq, sealed, private): Sealed| {
            let private = private.map(|private| files.unseal(Kind::Private, seq, &private)).transpose()?;
            Ok(LogEntry { seq, bytes: files.unseal(Kind::Issued, seq, &sealed)?, private })
        };
        rows.into_iter().map(open).collect()
    }

    /// The first sequence numbers below `size` that the issuance projection on disk lacks.
    pub(crate) fn missing(&self, size: u64) -> Result<Option<Range<u64>>, StoreError> {
        let files = self.files();
        let read = || -> Result<Option<Range<u64>>, redb::Error> {
            let table = files.database.begin_read()?.open_table(ISSUED)?;
            let mut next = 0;
            if table.len()? < size {
                for row in table.iter()? {
                    let key = row?.0.value();
                    if key != next {
                        return Ok(Some(next..key));
                    }
                    next = key.saturating_add(1);
                }
                return Ok((next < size).then_some(next..size));
            }
            Ok(None)
        };
        read().map_err(|error| self.failed("read the issuance log of", error))
    }

    fn failed(&self, doing: &'static str, error: redb::Error) -> StoreError {
        let error = StoreError::database(&self.inner.path, doing, error);
        self.inner.fatal.raise(Fatal::new(error.to_string()));
        error
    }
}

impl Files {
    /// Makes or opens a database and the log beside it.
    fn start<M: Medium>(
        medium: &M,
        path: PathBuf,
        create: bool,
        scope: Scope,
        data_key: &DataKey,
        syncs: &Arc<AtomicU64>,
    ) -> Result<(Self, Log<M>, Sealers), StoreError> {
        let inner = medium.open(&path, create).map_err(|source| StoreError::io(&path, "open", source))?;
        let backend = Metered { inner, path: path.clone(), syncs: syncs.clone() };
        let mut builder = Database::builder();
        builder.set_cache_size(PAGE_CACHE_BYTES);
        let database = builder.create_with_backend(backend).map_err(|error| StoreError::open(&path, error))?;
        let (salts, [for_log, for_rows]) =
            table::prepare(&database).map_err(|error| StoreError::database(&path, "prepare", error))?;
        let sealed = |source| StoreError::seal(&path, source);
        let opener = Arc::new(Opener::new(data_key, scope.clone(), salts).map_err(sealed)?);
        let sealer = |(id, salt)| Sealer::new(data_key, scope.clone(), id, &salt).map_err(sealed);
        let (mut for_log, for_rows) = (sealer(for_log)?, sealer(for_rows)?);
        let segments = Place::beside(medium.clone(), &path, syncs.clone());
        let log = if create {
            Log::create(segments, SEGMENT_BYTES, opener.clone(), &mut for_log)?
        } else {
            let row = row(&database, META_KEYS.frame).map_err(|error| StoreError::database(&path, "read", error))?;
            let seen = row.map(|row| opener.open(Kind::Meta, META_KEYS.frame, &row)).transpose().map_err(sealed)?;
            let seen = seen.and_then(|seen| seen.try_into().ok()).map_or(0, u64::from_be_bytes);
            Log::open(segments, SEGMENT_BYTES, opener.clone(), seen)?
        };
        let index = log.index();
        Ok((Self { path, database: Arc::new(database), index, opener }, log, (for_log, for_rows)))
    }

    fn unseal(&self, kind: Kind, key: u64, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.opener.open(kind, key, sealed).map_err(|source| StoreError::seal(&self.path, source))
    }
}

/// A sealed row of the meta table.
fn row(database: &Database, key: u64) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = database.begin_read()?.open_table(META)?;
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}

#[cfg(test)]
mod tests;
