//! Who brings jobs to the writing, and the log's thread that does it: it takes all that is queued, has it written together, and answers
//! who waited.
//!
//! A lone small entry of a log whose disk is quick is written by whoever brings it, if the thread has nothing to do: to wake the
//! thread, and to be woken by it, would take as long as the disk does.

use super::job::{Done, Job, issued_bytes};
use super::rows::Failure;
use super::work::Work;
use super::{Row, StoreError};
use crate::disk::Medium;
use cluster::LogEntry;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, mpsc};
use std::thread::JoinHandle;

/// Bytes of queued work that go into one frame or transaction, about; the rest takes the next one.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Rows of the issuance projection are kept back until there are so many bytes of them: they can be made again from the log,
/// and a few large writes cost less than a small one in each transaction.
const ISSUED_BYTES_MAX: usize = 128 * 1024;
/// An entry of more bytes than this is not written by whoever brings it: a crowd is behind it, and has other work.
const LONE_BYTES_MAX: usize = 4 * 1024;

/// Rows of the issuance projection that were not queued yet.
#[derive(Default)]
struct KeptBack {
    rows: Vec<LogEntry>,
    bytes: usize,
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

/// What the thread shares with whoever writes without it.
struct Desk<M: Medium> {
    work: Mutex<Work<M>>,
    /// Jobs that were sent and that the thread has not taken.
    queued: AtomicUsize,
    failure: Failure,
}

/// A desk, whatever its medium is.
trait Lone: Send + Sync {
    /// Counts a job that will be sent.
    fn announce(&self);

    /// Writes an entry if that may be done here and now: whether there is something to tidy, or the failure. Else it is given back.
    fn append(&self, rows: Vec<Row>) -> Result<io::Result<bool>, Vec<Row>>;

    /// Nothing is written any more, whatever became of the thread.
    fn end(&self);
}

impl<M: Medium> Lone for Desk<M> {
    fn announce(&self) {
        self.queued.fetch_add(1, Ordering::SeqCst);
    }

    fn append(&self, rows: Vec<Row>) -> Result<io::Result<bool>, Vec<Row>> {
        let mut work = match self.work.try_lock() {
            Ok(work) => work,
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return Err(rows),
        };
        // What was sent before has to be written before.
        if self.queued.load(Ordering::SeqCst) > 0 || !work.is_quick() || work.is_over() || work.owes_rows() {
            return Err(rows);
        }
        let _unwinding = Unwinding(&self.failure);
        work.take(Job::Append { rows, done: Box::new(|_| ()) });
        work.write_taken();
        if work.is_over() {
            return Ok(Err(io::Error::other("the store's disk failed")));
        }
        Ok(Ok(work.is_untidy()))
    }

    fn end(&self) {
        self.work().end();
    }
}

impl<M: Medium> Desk<M> {
    /// The work; what somebody broke off half-way is not gone on with.
    fn work(&self) -> MutexGuard<'_, Work<M>> {
        self.work.lock().unwrap_or_else(|broken| {
            let mut work = broken.into_inner();
            work.end();
            work
        })
    }

    fn run(&self, queue: &mpsc::Receiver<Job>) {
        let _unwinding = Unwinding(&self.failure);
        let mut open = true;
        while open {
            let more = {
                let mut work = self.work();
                if work.is_over() {
                    break;
                }
                match work.tidy() {
                    Ok(more) => more,
                    Err(error) => {
                        work.fail(&error);
                        break;
                    }
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
            let mut work = self.work();
            while let Some(job) = next.take() {
                self.queued.fetch_sub(1, Ordering::SeqCst);
                open = !matches!(job, Job::Stop);
                // Whoever wrote without this thread may have found that the disk fails.
                if work.is_over() {
                    job.refuse();
                    continue;
                }
                let is_last = job.is_last();
                if work.take(job) < BATCH_BYTES && !is_last {
                    next = queue.try_recv().ok();
                }
            }
            if !work.is_over() {
                work.write_taken();
            }
        }
        // After a failure nothing is written any more, and everybody is told.
        self.work().end();
        while open && let Ok(job) = queue.recv() {
            open = !matches!(job, Job::Stop);
            job.refuse();
        }
    }
}

/// Raises the flag on unwinding, so that callers that wait for ever are told.
pub(super) struct Unwinding<'a>(pub(super) &'a Failure);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.raise("the store's writer failed");
        }
    }
}

/// The sending end; dropping it ends the thread after what is queued was written.
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    desk: Arc<dyn Lone>,
    kept_back: Mutex<KeptBack>,
    /// The log's and the database's.
    threads: Mutex<Option<(JoinHandle<()>, JoinHandle<()>)>>,
}

impl Writer {
    /// `rows` is the database's thread.
    pub(super) fn start<M: Medium>(
        path: &Path,
        work: Work<M>,
        failure: Failure,
        rows: JoinHandle<()>,
    ) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::channel();
        let desk = Arc::new(Desk { work: Mutex::new(work), queued: AtomicUsize::new(0), failure });
        let theirs = desk.clone();
        let thread = std::thread::Builder::new()
            .name("replica-writer".into())
            .spawn(move || theirs.run(&queue))
            .map_err(|source| StoreError::io(path, "start the writer of", source))?;
        Ok(Self { jobs, desk, kept_back: Mutex::default(), threads: Mutex::new(Some((thread, rows))) })
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

    /// Appends to the log; `done` is called after the sync. With `here` it may be written before this returns, and a disk that is late is waited for.
    pub(crate) fn append(&self, mut rows: Vec<Row>, here: bool, done: Done) {
        if here && rows.iter().map(|(_, row)| row.len()).sum::<usize>() <= LONE_BYTES_MAX {
            match self.desk.append(rows) {
                Ok(result) => {
                    if let Ok(true) = result {
                        self.queue(Job::Tidy);
                    }
                    return done(result.map(drop));
                }
                Err(back) => rows = back,
            }
        }
        self.queue(Job::Append { rows, done });
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
        self.desk.announce();
        if let Err(mpsc::SendError(job)) = self.jobs.send(job) {
            job.refuse();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.send(Job::Stop);
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let here = std::thread::current().id();
        // Whom one of them tells may be the last to hold the store: then they end by themselves.
        if let Some((log, rows)) = threads
            && here != log.thread().id()
            && here != rows.thread().id()
        {
            // A panic in a thread raised the fatal flag when it happened.
            let _ = log.join();
            // The database's thread ends when the log has nothing more for it: one that panicked cannot say so.
            self.desk.end();
            let _ = rows.join();
        }
    }
}
