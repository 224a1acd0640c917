//! The thread that writes: takes all that is queued, writes it in one transaction, syncs once, answers all.

use super::fill::Fill;
use super::table::{ENTRIES, ISSUED, META, SNAPSHOT};
use super::{Row, StoreError};
use crate::fatal::{Fatal, FatalFlag};
use crate::seal::{Kind, Sealer};
use redb::{Database, Durability};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use zeroize::{Zeroize, Zeroizing};

/// Called once, on the writer's thread, after the sync or the failure. It must not block.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Bytes of queued work that go into one transaction, about; the rest takes the next one.
const TRANSACTION_BYTES: usize = 8 * 1024 * 1024;
/// Lazy work that piles up with nobody waiting for a sync is written without one from here on.
const LAZY_BYTES_MAX: usize = 1024 * 1024;
/// Rows of the issuance projection are kept back until there are so many bytes of them: they can be made again from the log,
/// and a few large writes cost less than a small one in each transaction.
const ISSUED_BYTES_MAX: usize = 128 * 1024;
/// Bytes of a piece of the snapshot.
const SNAPSHOT_PIECE_BYTES: usize = 256 * 1024;

pub(crate) enum Job {
    Append {
        rows: Vec<Row>,
        done: Done,
    },
    Meta {
        key: u64,
        value: Vec<u8>,
        done: Done,
    },
    TruncateFrom {
        index: u64,
    },
    PurgeThrough {
        index: u64,
        key: u64,
        mark: Vec<u8>,
    },
    Snapshot {
        key: u64,
        description: Vec<u8>,
        image: Arc<Zeroizing<Vec<u8>>>,
        done: Done,
    },
    Issued {
        rows: Vec<Row>,
    },
    /// All before it is on disk.
    Flush {
        done: Done,
    },
    /// Free pages are overwritten.
    Overwrite,
    /// All before it can be read.
    Settle {
        done: Done,
    },
    Stop,
}

impl Job {
    fn bytes(&self) -> usize {
        let rows = |rows: &Vec<Row>| rows.iter().map(|(_, value)| value.len() + 64).sum();
        match self {
            Self::Append { rows: r, .. } | Self::Issued { rows: r } => rows(r),
            Self::Snapshot { image, .. } => image.len(),
            Self::Meta { .. } | Self::TruncateFrom { .. } | Self::PurgeThrough { .. } => 64,
            Self::Flush { .. } | Self::Settle { .. } | Self::Overwrite | Self::Stop => 0,
        }
    }

    /// Whether the issuance projection goes first: what lets it be read, and what removes the entries that it comes from.
    fn needs_issued(&self) -> bool {
        match self {
            Self::PurgeThrough { .. }
            | Self::Snapshot { .. }
            | Self::Flush { .. }
            | Self::Settle { .. }
            | Self::Stop => true,
            Self::Append { .. }
            | Self::Meta { .. }
            | Self::TruncateFrom { .. }
            | Self::Overwrite
            | Self::Issued { .. } => false,
        }
    }

    fn urgency(&self) -> Urgency {
        match self {
            Self::TruncateFrom { .. } | Self::PurgeThrough { .. } | Self::Issued { .. } => Urgency::Lazy,
            Self::Settle { .. } => Urgency::Written,
            Self::Append { .. }
            | Self::Meta { .. }
            | Self::Snapshot { .. }
            | Self::Flush { .. }
            | Self::Overwrite
            | Self::Stop => Urgency::Synced,
        }
    }

    /// Overwrites what is not sealed: entries carry keys and token secrets.
    fn wipe(&mut self) {
        match self {
            Self::Append { rows, .. } | Self::Issued { rows } => rows.iter_mut().for_each(|(_, plain)| plain.zeroize()),
            Self::Meta { .. }
            | Self::TruncateFrom { .. }
            | Self::PurgeThrough { .. }
            | Self::Snapshot { .. }
            | Self::Flush { .. }
            | Self::Settle { .. }
            | Self::Overwrite
            | Self::Stop => {}
        }
    }

    fn into_done(self) -> Option<Done> {
        match self {
            Self::Append { done, .. }
            | Self::Meta { done, .. }
            | Self::Snapshot { done, .. }
            | Self::Flush { done }
            | Self::Settle { done } => Some(done),
            Self::TruncateFrom { .. }
            | Self::PurgeThrough { .. }
            | Self::Issued { .. }
            | Self::Overwrite
            | Self::Stop => None,
        }
    }
}

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Nothing: it rides along.
    Lazy,
    /// A transaction.
    Written,
    /// A transaction and its sync.
    Synced,
}

/// Rows of the issuance projection that were not queued yet.
#[derive(Default)]
struct KeptBack {
    rows: Vec<Row>,
    bytes: usize,
}

impl KeptBack {
    fn add(&mut self, rows: Vec<Row>) {
        self.bytes += rows.iter().map(|(_, plain)| plain.len()).sum::<usize>();
        self.rows.extend(rows);
    }

    fn take(&mut self) -> Option<Job> {
        self.bytes = 0;
        Some(std::mem::take(&mut self.rows)).filter(|rows| !rows.is_empty()).map(|rows| Job::Issued { rows })
    }
}

/// The sending end; dropping it ends the thread after what is queued was written.
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    kept_back: Mutex<KeptBack>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(crate) fn start(
        path: PathBuf,
        database: Arc<Database>,
        sealer: Sealer,
        fatal: FatalFlag,
        commits: Arc<AtomicU64>,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let thread_path = path.clone();
        let work = Work { path: thread_path, database, sealer, fatal, commits, fill: None };
        let thread = std::thread::Builder::new()
            .name("replica-writer".into())
            .spawn(move || work.run(&queue))
            .map_err(|source| StoreError::io(&path, "start the writer of", source))?;
        Ok(Self { jobs, kept_back: Mutex::default(), thread: Mutex::new(Some(thread)) })
    }

    /// Adds to the issuance projection. It is written with a later job: at the latest with the next one that needs it.
    pub(crate) fn add_issued(&self, rows: Vec<Row>) {
        let mut kept_back = self.kept_back.lock().unwrap_or_else(PoisonError::into_inner);
        kept_back.add(rows);
        if kept_back.bytes >= ISSUED_BYTES_MAX
            && let Some(issued) = kept_back.take()
        {
            self.queue(issued);
        }
    }

    pub(crate) fn send(&self, job: Job) {
        if job.needs_issued() {
            // Held until both are queued: nothing that was kept back can come too late.
            let mut kept_back = self.kept_back.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(issued) = kept_back.take() {
                self.queue(issued);
            }
            self.queue(job);
        } else {
            self.queue(job);
        }
    }

    fn queue(&self, job: Job) {
        if let Err(mpsc::SendError(job)) = self.jobs.send(job)
            && let Some(done) = job.into_done()
        {
            done(Err(io::Error::other("the store is closed")));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.send(Job::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic in the thread raised the fatal flag when it happened.
            let _ = thread.join();
        }
    }
}

struct Work {
    path: PathBuf,
    database: Arc<Database>,
    sealer: Sealer,
    fatal: FatalFlag,
    commits: Arc<AtomicU64>,
    /// Free pages are being overwritten.
    fill: Option<Fill>,
}

/// Raises the flag when the thread unwinds, so that callers that wait for ever are told.
struct Unwinding<'a>(&'a FatalFlag);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.raise(Fatal::new("the store's writer failed"));
        }
    }
}

impl Work {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let fatal = self.fatal.clone();
        let _unwinding = Unwinding(&fatal);
        let mut batch: Vec<Job> = Vec::new();
        let mut bytes = 0;
        let mut open = true;
        while open {
            let mut urgency = Urgency::Lazy;
            let mut next = None;
            if let Some(fill) = self.fill.take() {
                match fill.go_on(&self.database, &self.path) {
                    Ok(more) => self.fill = more,
                    Err(error) => {
                        let error = StoreError::database(&self.path, "overwrite", error);
                        self.answer(&mut batch, &Err(error));
                        break;
                    }
                }
                next = queue.try_recv().ok();
                if next.is_none() && self.fill.is_some() {
                    continue;
                }
            }
            if next.is_none() {
                next = queue.recv().ok();
                open = next.is_some();
            }
            while let Some(job) = next.take() {
                urgency = urgency.max(job.urgency());
                if matches!(job, Job::Stop) {
                    open = false;
                    break;
                }
                bytes += job.bytes();
                batch.push(job);
                if bytes < TRANSACTION_BYTES {
                    next = queue.try_recv().ok();
                }
            }
            if urgency > Urgency::Lazy || bytes >= LAZY_BYTES_MAX {
                bytes = 0;
                let result = self.write(&batch, urgency == Urgency::Synced);
                self.answer(&mut batch, &result);
                if result.is_err() {
                    break;
                }
            }
        }
        // After a failure nothing is written any more, and everybody is told.
        while open && let Ok(job) = queue.recv() {
            open = !matches!(job, Job::Stop);
            if let Some(done) = job.into_done() {
                done(Err(io::Error::other("the store is closed")));
            }
        }
    }

    fn answer(&self, batch: &mut Vec<Job>, result: &Result<(), StoreError>) {
        if let Err(error) = result {
            self.fatal.raise(Fatal::new(error.to_string()));
        }
        for mut job in batch.drain(..) {
            job.wipe();
            let Some(done) = job.into_done() else { continue };
            done(match result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
    }

    fn write(&mut self, batch: &[Job], durable: bool) -> Result<(), StoreError> {
        if batch.iter().all(|job| matches!(job, Job::Settle { .. })) {
            return Ok(());
        }
        match self.transact(batch, durable) {
            Ok(()) => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(StoreError::database(&self.path, "write", error)),
        }
    }

    fn transact(&mut self, batch: &[Job], durable: bool) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        if !durable {
            transaction.set_durability(Durability::None)?;
        }
        for job in batch {
            match job {
                Job::Append { rows, .. } => {
                    let mut table = transaction.open_table(ENTRIES)?;
                    for (index, plain) in rows {
                        table.insert(index, seal(&mut self.sealer, Kind::Entry, *index, plain)?.as_slice())?;
                    }
                }
                Job::Meta { key, value, .. } => {
                    let mut table = transaction.open_table(META)?;
                    table.insert(key, seal(&mut self.sealer, Kind::Meta, *key, value)?.as_slice())?;
                }
                Job::TruncateFrom { index } => {
                    transaction.open_table(ENTRIES)?.retain_in::<u64, _>(*index.., |_, _| false)?;
                }
                Job::PurgeThrough { index, key, mark } => {
                    transaction.open_table(ENTRIES)?.retain_in::<u64, _>(..=*index, |_, _| false)?;
                    let mut table = transaction.open_table(META)?;
                    table.insert(key, seal(&mut self.sealer, Kind::Meta, *key, mark)?.as_slice())?;
                }
                Job::Snapshot { key, description, image, .. } => {
                    let mut table = transaction.open_table(SNAPSHOT)?;
                    table.retain(|_, _| false)?;
                    for (piece, plain) in (0u64..).zip(image.chunks(SNAPSHOT_PIECE_BYTES)) {
                        table.insert(piece, seal(&mut self.sealer, Kind::Snapshot, piece, plain)?.as_slice())?;
                    }
                    let mut table = transaction.open_table(META)?;
                    table.insert(key, seal(&mut self.sealer, Kind::Meta, *key, description)?.as_slice())?;
                }
                Job::Issued { rows } => {
                    let mut table = transaction.open_table(ISSUED)?;
                    for (seq, plain) in rows {
                        table.insert(seq, seal(&mut self.sealer, Kind::Issued, *seq, plain)?.as_slice())?;
                    }
                }
                Job::Overwrite => self.fill = Some(Fill::default()),
                Job::Flush { .. } | Job::Settle { .. } | Job::Stop => {}
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

fn seal(sealer: &mut Sealer, kind: Kind, index: u64, plain: &[u8]) -> Result<Vec<u8>, redb::Error> {
    sealer.seal(kind, index, plain).map_err(|error| redb::Error::Io(io::Error::other(error)))
}
