//! The thread that writes: takes all that is queued, writes what is the log's in one frame with one sync, answers who waited
//! for that, then the rest in one transaction of the database.

use super::exchange::{Exchange, Made, Retiring};
use super::fill::Fill;
use super::frame::{Plain, Record};
use super::log::Log;
use super::table::{ISSUED, META, META_KEYS, PRIVATE, SNAPSHOT, TILES};
use super::tiling::Tiling;
use super::{Files, Row, StoreError};
use crate::disk::Medium;
use crate::fatal::{Fatal, FatalFlag};
use crate::seal::{DataKey, Kind, Sealer};
use cluster::LogEntry;
use redb::Durability;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use zeroize::{Zeroize, Zeroizing};

/// Called once, on the writer's thread, after the sync or the failure. It must not block.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Bytes of queued work that go into one frame or transaction, about; the rest takes the next one.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
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
    Vote {
        value: Vec<u8>,
        done: Done,
    },
    TruncateFrom {
        index: u64,
    },
    PurgeThrough {
        index: u64,
        mark: Vec<u8>,
        /// Who waits until nothing is left of what is purged.
        forgotten: Option<Done>,
    },
    Snapshot {
        description: Vec<u8>,
        image: Arc<Zeroizing<Vec<u8>>>,
        done: Done,
    },
    Issued {
        rows: Vec<LogEntry>,
    },
    /// Private parts of entries of the issuance log go.
    Erase {
        below: u64,
    },
    /// All of it is put under another key, in other files.
    Exchange {
        data_key: DataKey,
        done: Done,
    },
    /// All before it is on disk.
    Flush {
        done: Done,
    },
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
            Self::Append { rows: r, .. } => rows(r),
            Self::Issued { rows } => rows.iter().map(issued_bytes).sum(),
            Self::Snapshot { image, .. } => image.len(),
            Self::Vote { .. } | Self::TruncateFrom { .. } | Self::PurgeThrough { .. } => 64,
            Self::Exchange { .. } | Self::Flush { .. } | Self::Settle { .. } | Self::Erase { .. } | Self::Stop => 0,
        }
    }

    /// Whether it goes into the log; the rest is the database's.
    fn is_logged(&self) -> bool {
        match self {
            Self::Append { .. } | Self::Vote { .. } | Self::TruncateFrom { .. } | Self::PurgeThrough { .. } => true,
            Self::Snapshot { .. }
            | Self::Issued { .. }
            | Self::Erase { .. }
            | Self::Exchange { .. }
            | Self::Flush { .. }
            | Self::Settle { .. }
            | Self::Stop => false,
        }
    }

    /// Whether all before it is written before it, and nothing after it is in the same batch.
    fn is_last(&self) -> bool {
        matches!(self, Self::Exchange { .. } | Self::Stop)
    }

    /// Whether the issuance projection goes first: what lets it be read, and the snapshot, behind which the entries that it
    /// comes from are removed.
    fn needs_issued(&self) -> bool {
        !self.is_logged() && !matches!(self, Self::Issued { .. })
    }

    fn urgency(&self) -> Urgency {
        match self {
            Self::TruncateFrom { .. }
            | Self::PurgeThrough { forgotten: None, .. }
            | Self::Issued { .. }
            | Self::Erase { .. } => Urgency::Lazy,
            Self::Settle { .. } => Urgency::Written,
            Self::Append { .. }
            | Self::Vote { .. }
            | Self::PurgeThrough { forgotten: Some(_), .. }
            | Self::Snapshot { .. }
            | Self::Exchange { .. }
            | Self::Flush { .. }
            | Self::Stop => Urgency::Synced,
        }
    }

    /// Overwrites what is not sealed: entries carry keys and token secrets.
    fn wipe(&mut self) {
        match self {
            Self::Append { rows, .. } => rows.iter_mut().for_each(|(_, plain)| plain.zeroize()),
            Self::Issued { rows } => rows.iter_mut().for_each(|row| {
                row.bytes.zeroize();
                row.private.zeroize();
            }),
            Self::Vote { .. }
            | Self::TruncateFrom { .. }
            | Self::PurgeThrough { .. }
            | Self::Snapshot { .. }
            | Self::Erase { .. }
            | Self::Exchange { .. }
            | Self::Flush { .. }
            | Self::Settle { .. }
            | Self::Stop => {}
        }
    }

    fn into_done(self) -> Option<Done> {
        match self {
            Self::PurgeThrough { forgotten, .. } => forgotten,
            Self::Append { done, .. }
            | Self::Vote { done, .. }
            | Self::Snapshot { done, .. }
            | Self::Exchange { done, .. }
            | Self::Flush { done }
            | Self::Settle { done } => Some(done),
            Self::TruncateFrom { .. } | Self::Issued { .. } | Self::Erase { .. } | Self::Stop => None,
        }
    }
}

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Nothing: it rides along.
    Lazy,
    /// To be written.
    Written,
    /// To be written and synced.
    Synced,
}

/// Rows of the issuance projection that were not queued yet.
#[derive(Default)]
struct KeptBack {
    rows: Vec<LogEntry>,
    bytes: usize,
}

/// Bytes that an entry of the issuance log takes, about.
fn issued_bytes(row: &LogEntry) -> usize {
    row.bytes.len() + row.private.as_ref().map_or(0, Vec::len) + 64
}

impl KeptBack {
    fn add(&mut self, rows: Vec<LogEntry>) {
        self.bytes += rows.iter().map(issued_bytes).sum::<usize>();
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
    pub(super) fn start<M: Medium>(
        files: Arc<Files>,
        log: Log<M>,
        sealer: Sealer,
        fatal: FatalFlag,
        commits: Arc<AtomicU64>,
        exchange: Exchange<M>,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let path = files.path.clone();
        let retiring = VecDeque::new();
        let tiling = Tiling::resume(&files)?;
        let work = Work { files, log, sealer, fatal, commits, fill: None, tiling, exchange, retiring };
        let thread = std::thread::Builder::new()
            .name("replica-writer".into())
            .spawn(move || work.run(&queue))
            .map_err(|source| StoreError::io(&path, "start the writer of", source))?;
        Ok(Self { jobs, kept_back: Mutex::default(), thread: Mutex::new(Some(thread)) })
    }

    /// Adds to the issuance projection. It is written with a later job: at the latest with the next one that needs it.
    pub(crate) fn add_issued(&self, rows: Vec<LogEntry>) {
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

struct Work<M: Medium> {
    files: Arc<Files>,
    log: Log<M>,
    sealer: Sealer,
    fatal: FatalFlag,
    commits: Arc<AtomicU64>,
    /// Free pages of the database are being overwritten.
    fill: Option<Fill>,
    /// The hashes of the tree over the issuance log.
    tiling: Tiling,
    exchange: Exchange<M>,
    /// Files that were exchanged for others.
    retiring: VecDeque<Retiring<M>>,
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

impl<M: Medium> Work<M> {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let fatal = self.fatal.clone();
        let _unwinding = Unwinding(&fatal);
        let mut batch: Vec<Job> = Vec::new();
        let mut bytes = 0;
        let mut open = true;
        while open {
            let mut urgency = Urgency::Lazy;
            let more = match self.tidy() {
                Ok(more) => more,
                Err(error) => {
                    self.answer(batch, &Err(error));
                    break;
                }
            };
            let mut next = queue.try_recv().ok();
            if next.is_none() {
                if more {
                    continue;
                }
                next = queue.recv().ok();
                open = next.is_some();
            }
            while let Some(job) = next.take() {
                urgency = urgency.max(job.urgency());
                if job.is_last() {
                    open = !matches!(job, Job::Stop);
                    batch.push(job);
                    break;
                }
                bytes += job.bytes();
                batch.push(job);
                if bytes < BATCH_BYTES {
                    next = queue.try_recv().ok();
                }
            }
            if urgency > Urgency::Lazy || bytes >= LAZY_BYTES_MAX {
                bytes = 0;
                if !self.write(std::mem::take(&mut batch)) {
                    break;
                }
            }
        }
        // After a failure nothing is written any more, and everybody is told.
        self.retiring.clear();
        while open && let Ok(job) = queue.recv() {
            open = !matches!(job, Job::Stop);
            if let Some(done) = job.into_done() {
                done(Err(io::Error::other("the store is closed")));
            }
        }
    }

    /// A piece of the work that nobody waits for; false: there is none.
    fn tidy(&mut self) -> Result<bool, StoreError> {
        if self.log.tidy()? {
            return Ok(true);
        }
        if self.tiling.is_behind() {
            self.tiling.catch_up(&self.files, &mut self.sealer)?;
            return Ok(true);
        }
        if let Some(fill) = self.fill.take() {
            let filled = fill.go_on(&self.files.database, &self.files.path);
            self.fill = filled.map_err(|error| StoreError::database(&self.files.path, "overwrite", error))?;
            return Ok(self.fill.is_some() || !self.retiring.is_empty());
        }
        if let Some(first) = self.retiring.front_mut() {
            if first.go_on()? {
                self.retiring.pop_front();
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn answer(&self, batch: Vec<Job>, result: &Result<(), StoreError>) {
        if let Err(error) = result {
            self.fatal.raise(Fatal::new(error.to_string()));
        }
        for mut job in batch {
            job.wipe();
            let Some(done) = job.into_done() else { continue };
            done(match result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
    }

    /// False: the disk failed.
    fn write(&mut self, batch: Vec<Job>) -> bool {
        let (mut logged, mut rest): (Vec<Job>, Vec<Job>) = batch.into_iter().partition(Job::is_logged);
        let exchange = rest.pop_if(|job| matches!(job, Job::Exchange { .. }));
        if !logged.is_empty() {
            let result = self.log(&mut logged);
            self.answer(logged, &result);
            if result.is_err() {
                self.answer(rest.into_iter().chain(exchange).collect(), &result);
                return false;
            }
        }
        let mut result = Ok(());
        if rest.iter().any(|job| !matches!(job, Job::Settle { .. })) {
            result = self.transact(&rest).map_err(|error| StoreError::database(&self.files.path, "write", error));
        }
        self.answer(rest, &result);
        match (result, exchange) {
            (Ok(()), Some(Job::Exchange { data_key, done })) => self.exchange(&data_key, done),
            (Err(error), Some(job)) => {
                self.answer(vec![job], &Err(error));
                false
            }
            (result, _) => result.is_ok(),
        }
    }

    /// False: nobody knows which files are the store now.
    fn exchange(&mut self, data_key: &DataKey, done: Done) -> bool {
        let Made { files, log, sealer } = match self.exchange.make(&self.files, data_key) {
            Ok(made) => made,
            Err(error) => {
                done(Err(io::Error::other(error.to_string())));
                return true;
            }
        };
        let retired = self.exchange.switch(&files, data_key).and_then(|()| {
            let old = std::mem::replace(&mut self.files, files);
            let mut waiting = std::mem::replace(&mut self.log, log).into_waiting();
            self.sealer = sealer;
            self.fill = None;
            waiting.push(done);
            Retiring::new(&self.exchange, old, waiting)
        });
        match retired {
            Ok(retiring) => self.retiring.push_back(retiring),
            Err(error) => {
                self.fatal.raise(Fatal::new(error.to_string()));
                return false;
            }
        }
        true
    }

    /// One frame for all of it.
    fn log(&mut self, jobs: &mut [Job]) -> Result<(), StoreError> {
        let bytes = jobs.iter().map(Job::bytes).sum::<usize>();
        let records = jobs.iter().map(|job| if let Job::Append { rows, .. } = job { rows.len() } else { 1 }).sum();
        let mut plain = Plain::with_room(records, bytes);
        let mut forget = None;
        for job in jobs {
            match job {
                Job::Append { rows, .. } => rows.iter().for_each(|(index, row)| plain.push(Record::Entry(*index, row))),
                Job::Vote { value, .. } => plain.push(Record::Vote(value)),
                Job::TruncateFrom { index } => plain.push(Record::TruncateFrom(*index)),
                Job::PurgeThrough { index, mark, forgotten } => {
                    plain.push(Record::PurgeThrough(*index, mark));
                    forget = forgotten.take().map(|done| (*index, done)).or(forget);
                }
                Job::Snapshot { .. }
                | Job::Issued { .. }
                | Job::Erase { .. }
                | Job::Exchange { .. }
                | Job::Flush { .. }
                | Job::Settle { .. }
                | Job::Stop => {}
            }
        }
        match forget {
            Some((upto, done)) => {
                self.log.forget(&mut self.sealer, &plain, upto, done)?;
                self.fill = Some(Fill::default());
            }
            None => self.log.write(&mut self.sealer, &plain)?,
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// One transaction for all of it; it also keeps how far the log was written by then.
    fn transact(&mut self, batch: &[Job]) -> Result<(), redb::Error> {
        let mut transaction = self.files.database.begin_write()?;
        if batch.iter().all(|job| job.urgency() < Urgency::Synced) {
            transaction.set_durability(Durability::None)?;
        }
        {
            let mut meta = transaction.open_table(META)?;
            let number = self.log.number().to_be_bytes();
            meta.insert(META_KEYS.frame, seal(&mut self.sealer, Kind::Meta, META_KEYS.frame, &number)?.as_slice())?;
        }
        for job in batch {
            match job {
                Job::Snapshot { description, image, .. } => {
                    let mut table = transaction.open_table(SNAPSHOT)?;
                    table.retain(|_, _| false)?;
                    for (piece, plain) in (0u64..).zip(image.chunks(SNAPSHOT_PIECE_BYTES)) {
                        table.insert(piece, seal(&mut self.sealer, Kind::Snapshot, piece, plain)?.as_slice())?;
                    }
                    let mut table = transaction.open_table(META)?;
                    let key = META_KEYS.snapshot;
                    table.insert(key, seal(&mut self.sealer, Kind::Meta, key, description)?.as_slice())?;
                }
                Job::Issued { rows } => {
                    let mut table = transaction.open_table(ISSUED)?;
                    let mut privates = transaction.open_table(PRIVATE)?;
                    let mut tiles = transaction.open_table(TILES)?;
                    for LogEntry { seq, bytes, private } in rows {
                        table.insert(seq, seal(&mut self.sealer, Kind::Issued, *seq, bytes)?.as_slice())?;
                        if let Some(private) = private {
                            let sealed = seal(&mut self.sealer, Kind::Private, *seq, private)?;
                            privates.insert(seq, sealed.as_slice())?;
                        }
                        self.tiling.take(*seq, bytes, &mut tiles, &mut self.sealer)?;
                    }
                }
                Job::Erase { below } => {
                    transaction.open_table(PRIVATE)?.retain_in(..*below, |_, _| false)?;
                }
                Job::Append { .. }
                | Job::Vote { .. }
                | Job::TruncateFrom { .. }
                | Job::PurgeThrough { .. }
                | Job::Exchange { .. }
                | Job::Flush { .. }
                | Job::Settle { .. }
                | Job::Stop => {}
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

pub(super) fn seal(sealer: &mut Sealer, kind: Kind, index: u64, plain: &[u8]) -> Result<Vec<u8>, redb::Error> {
    sealer.seal(kind, index, plain).map_err(|error| redb::Error::Io(io::Error::other(error)))
}
