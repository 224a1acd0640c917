//! The database's side of the store: a thread of its own writes there what is large or can be made again, so that nobody who waits for
//! the log waits for that.
//!
//! Rules:
//! - it is given jobs after what was queued in front of them is in the log: nothing here is ahead of it;
//! - if it falls far behind with what piles up, whoever gives it jobs waits; a snapshot alone is nothing to wait for;
//! - after a failure, here or in the log, neither of the two writes anything any more;
//! - who waits until secrets are gone is told when the pages that the database has freed are overwritten too. A snapshot leaves a mark
//!   that there are such pages: a start that finds it overwrites them.

use super::exchange::Retiring;
use super::fill::Fill;
use super::job::{Done, Job, Urgency, answer};
use super::table::{FILL, ISSUED, META, META_KEYS, PRIVATE, SNAPSHOT, TILES};
use super::tiling::Tiling;
use super::writer::Unwinding;
use super::{Files, StoreError};
use crate::disk::Medium;
use crate::fatal::{Fatal, FatalFlag};
use crate::seal::{Kind, Sealer};
use cluster::LogEntry;
use redb::Durability;
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

/// Bytes of a piece of the snapshot.
const SNAPSHOT_PIECE_BYTES: usize = 256 * 1024;
/// Bytes of jobs that go into one transaction, about.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of the issuance projection that may wait; whoever gives more waits.
const BEHIND_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the thread is asked for.
enum Order<M: Medium> {
    /// These jobs are written, in one transaction or with others in front of them.
    Write(Vec<Job>),
    /// Pages that the database has freed are overwritten; then these are told.
    Overwrite(Vec<Done>),
    /// Files that were exchanged for others are overwritten and removed.
    Retire(Retiring<M>),
    /// Nothing is done until somebody else has done something.
    Rest {
        /// Told when it begins.
        at_rest: mpsc::Sender<()>,
        /// Ends when the other end is dropped.
        until: mpsc::Receiver<()>,
    },
}

/// Whether the disk failed: then nothing is written any more. Clones share it.
#[derive(Clone)]
pub(super) struct Failure {
    fatal: FatalFlag,
    failed: Arc<AtomicBool>,
}

impl Failure {
    pub(super) fn new(fatal: FatalFlag) -> Self {
        Self { fatal, failed: Arc::default() }
    }

    pub(super) fn raise(&self, what: impl Into<Arc<str>>) {
        // Who is refused because of it finds the reason.
        self.fatal.raise(Fatal::new(what));
        self.failed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_raised(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }
}

/// What writes the database.
pub(super) struct Rows<M: Medium> {
    files: Arc<Files>,
    sealer: Sealer,
    failure: Failure,
    /// The hashes of the tree over the issuance log.
    tiling: Tiling,
    /// Free pages of the database are being overwritten.
    fill: Option<Fill>,
    /// Who waits for that.
    waiting: Vec<Done>,
    /// Files that were exchanged for others.
    retiring: VecDeque<Retiring<M>>,
}

impl<M: Medium> Rows<M> {
    pub(super) fn new(files: Arc<Files>, sealer: Sealer, failure: Failure) -> Result<Self, StoreError> {
        let tiling = Tiling::resume(&files)?;
        let marked = Fill::is_due(&files.database);
        let marked = marked.map_err(|error| StoreError::database(&files.path, "read", error))?;
        let (fill, waiting, retiring) = (marked.then(Fill::default), Vec::new(), VecDeque::new());
        Ok(Self { files, sealer, failure, tiling, fill, waiting, retiring })
    }

    /// The store was exchanged for another with the same content. The old files, and who waits until nothing is left of what they have freed.
    pub(super) fn exchanged(&mut self, files: Arc<Files>, sealer: Sealer) -> (Arc<Files>, Vec<Done>) {
        self.sealer = sealer;
        self.fill = None;
        (std::mem::replace(&mut self.files, files), std::mem::take(&mut self.waiting))
    }

    /// A piece of the work that nobody waits for; false: there is none.
    fn tidy(&mut self) -> Result<bool, StoreError> {
        if self.tiling.is_behind() {
            self.tiling.catch_up(&self.files, &mut self.sealer)?;
            return Ok(true);
        }
        if let Some(fill) = self.fill.take() {
            let filled = fill.go_on(&self.files.database, &self.files.path);
            self.fill = filled.map_err(|error| StoreError::database(&self.files.path, "overwrite", error))?;
            if self.fill.is_none() {
                self.waiting.drain(..).for_each(|done| done(Ok(())));
            }
            return Ok(true);
        }
        if let Some(first) = self.retiring.front_mut() {
            if first.go_on()? {
                self.retiring.pop_front();
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn write(&mut self, batch: Vec<Job>) {
        let mut result = Ok(());
        if batch.iter().any(|job| !matches!(job, Job::Settle { .. })) {
            result = self.transact(&batch).map_err(|error| StoreError::database(&self.files.path, "write", error));
        }
        answer(batch, &result, &self.failure);
    }

    /// One transaction for all of it; it also keeps how far the log was written by then.
    fn transact(&mut self, batch: &[Job]) -> Result<(), redb::Error> {
        let mut transaction = self.files.database.begin_write()?;
        if batch.iter().all(|job| job.urgency() < Urgency::Synced) {
            transaction.set_durability(Durability::None)?;
        }
        {
            let mut meta = transaction.open_table(META)?;
            let number = self.files.index.number().to_be_bytes();
            meta.insert(META_KEYS.frame, seal(&mut self.sealer, Kind::Meta, META_KEYS.frame, &number)?.as_slice())?;
        }
        for job in batch {
            match job {
                Job::Snapshot { description, image, .. } => {
                    // The mark: what it frees may have to be overwritten.
                    transaction.open_table(FILL)?;
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
                | Job::Tidy
                | Job::Stop => {}
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// What waits to be written, in bytes.
#[derive(Default)]
struct Behind {
    bytes: Mutex<usize>,
    less: Condvar,
}

impl Behind {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room, and takes so much of it.
    fn add(&self, bytes: usize) {
        let full = |behind: &mut usize| *behind > BEHIND_BYTES_MAX;
        let mut behind = self.less.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        *behind = behind.saturating_add(bytes);
    }

    fn sub(&self, bytes: usize) {
        let mut behind = self.lock();
        *behind = behind.saturating_sub(bytes);
        self.less.notify_all();
    }
}

/// What piles up of these jobs. There is one snapshot at a time, whose bytes are shared.
fn piling(jobs: &[Job]) -> usize {
    jobs.iter().filter(|job| matches!(job, Job::Issued { .. })).map(Job::bytes).sum()
}

/// The thread, and what it is given.
pub(super) struct Clerk<M: Medium> {
    rows: Arc<Mutex<Rows<M>>>,
    /// None: it is asked for nothing more.
    orders: Option<mpsc::Sender<Order<M>>>,
    behind: Arc<Behind>,
    failure: Failure,
}

/// What writes the database, while its thread rests.
pub(super) struct AtRest<'a, M: Medium> {
    pub(super) rows: MutexGuard<'a, Rows<M>>,
    /// Dropped with it: then the thread goes on.
    _until: mpsc::Sender<()>,
}

impl<M: Medium> Clerk<M> {
    pub(super) fn start(rows: Rows<M>) -> Result<(Self, JoinHandle<()>), StoreError> {
        let (path, failure) = (rows.files.path.clone(), rows.failure.clone());
        let (rows, behind) = (Arc::new(Mutex::new(rows)), Arc::<Behind>::default());
        let (orders, queue) = mpsc::channel();
        let desk = Desk { rows: rows.clone(), behind: behind.clone(), failure: failure.clone(), queue };
        let thread = std::thread::Builder::new()
            .name("replica-rows".into())
            .spawn(move || desk.run())
            .map_err(|source| StoreError::io(&path, "start the writer of", source))?;
        Ok((Self { rows, orders: Some(orders), behind, failure }, thread))
    }

    /// Has these jobs written; false: the thread is gone, and they were refused.
    pub(super) fn write(&self, jobs: Vec<Job>) -> bool {
        let bytes = piling(&jobs);
        self.behind.add(bytes);
        let order = self.order(Order::Write(jobs));
        if let Err(order) = order {
            self.behind.sub(bytes);
            order.refuse();
            return false;
        }
        true
    }

    /// Has pages overwritten that the database has freed, and these told then.
    pub(super) fn overwrite(&self, waiting: Vec<Done>) {
        if let Err(order) = self.order(Order::Overwrite(waiting)) {
            order.refuse();
        }
    }

    /// Has these files overwritten and removed.
    pub(super) fn retire(&self, retiring: Retiring<M>) {
        // If it is gone, so is the store: they go at the next opening.
        let _ = self.order(Order::Retire(retiring));
    }

    /// What writes the database, when all it was given is written, and its thread rests; none: that failed.
    pub(super) fn at_rest(&self) -> Option<AtRest<'_, M>> {
        let (at_rest, told) = mpsc::channel();
        let (until, ends) = mpsc::channel();
        self.order(Order::Rest { at_rest, until: ends }).ok()?;
        told.recv().ok()?;
        let rows = self.rows.lock().ok()?;
        (!self.failure.is_raised()).then_some(AtRest { rows, _until: until })
    }

    /// Nothing more is written than what was given.
    pub(super) fn end(&mut self) {
        self.orders = None;
    }

    fn order(&self, order: Order<M>) -> Result<(), Order<M>> {
        match &self.orders {
            Some(orders) if !self.failure.is_raised() => orders.send(order).map_err(|mpsc::SendError(order)| order),
            _ => Err(order),
        }
    }
}

impl<M: Medium> Order<M> {
    fn refuse(self) {
        match self {
            Self::Write(jobs) => jobs.into_iter().for_each(Job::refuse),
            Self::Overwrite(waiting) => refuse(waiting),
            Self::Retire(_) | Self::Rest { .. } => {}
        }
    }
}

fn refuse(waiting: Vec<Done>) {
    waiting.into_iter().for_each(|done| done(Err(io::Error::other("the store is closed"))));
}

/// The thread's end.
struct Desk<M: Medium> {
    rows: Arc<Mutex<Rows<M>>>,
    behind: Arc<Behind>,
    failure: Failure,
    queue: mpsc::Receiver<Order<M>>,
}

impl<M: Medium> Desk<M> {
    fn rows(&self) -> MutexGuard<'_, Rows<M>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self) {
        let _unwinding = Unwinding(&self.failure);
        while !self.failure.is_raised() {
            let tidied = self.rows().tidy();
            let more = match tidied {
                Ok(more) => more,
                Err(error) => {
                    self.failure.raise(error.to_string());
                    break;
                }
            };
            let first = match self.queue.try_recv() {
                Ok(order) => order,
                Err(mpsc::TryRecvError::Empty) if more => continue,
                Err(mpsc::TryRecvError::Empty) => match self.queue.recv() {
                    Ok(order) => order,
                    Err(mpsc::RecvError) => break,
                },
                Err(mpsc::TryRecvError::Disconnected) => break,
            };
            if let Some(Order::Rest { at_rest, until }) = self.take(first)
                && at_rest.send(()).is_ok()
            {
                // Nothing is ever sent.
                let _ = until.recv();
            }
        }
        // Nobody waits for what is left of files that were exchanged.
        let mut rows = self.rows();
        rows.retiring.clear();
        refuse(std::mem::take(&mut rows.waiting));
        drop(rows);
        // Until nobody can give orders any more.
        while let Ok(order) = self.queue.recv() {
            self.refuse(order);
        }
    }

    /// Does what is asked for, and what else is asked for by now, up to a rest.
    fn take(&self, first: Order<M>) -> Option<Order<M>> {
        let (mut batch, mut bytes, mut rest) = (Vec::new(), 0, None);
        let mut rows = self.rows();
        let mut next = Some(first);
        while let Some(order) = next.take() {
            match order {
                Order::Write(jobs) => {
                    bytes += jobs.iter().map(Job::bytes).sum::<usize>();
                    batch.extend(jobs);
                }
                Order::Overwrite(waiting) => {
                    rows.waiting.extend(waiting);
                    rows.fill = Some(Fill::default());
                }
                Order::Retire(retiring) => rows.retiring.push_back(retiring),
                Order::Rest { .. } => {
                    rest = Some(order);
                    break;
                }
            }
            if bytes < BATCH_BYTES {
                next = self.queue.try_recv().ok();
            }
        }
        if !batch.is_empty() {
            let piling = piling(&batch);
            if self.failure.is_raised() {
                batch.into_iter().for_each(Job::refuse);
            } else {
                rows.write(batch);
            }
            self.behind.sub(piling);
        }
        rest
    }

    fn refuse(&self, order: Order<M>) {
        if let Order::Write(jobs) = &order {
            self.behind.sub(piling(jobs));
        }
        order.refuse();
    }
}

impl<M: Medium> Drop for Desk<M> {
    /// After a panic too, nobody waits, and nothing is left unwiped.
    fn drop(&mut self) {
        while let Ok(order) = self.queue.try_recv() {
            order.refuse();
        }
        self.behind.sub(usize::MAX);
    }
}

pub(super) fn seal(sealer: &mut Sealer, kind: Kind, index: u64, plain: &[u8]) -> Result<Vec<u8>, redb::Error> {
    sealer.seal(kind, index, plain).map_err(|error| redb::Error::Io(io::Error::other(error)))
}
