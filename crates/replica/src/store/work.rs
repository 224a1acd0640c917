//! The one who writes: what is the log's in one frame with one sync, then the rest in one transaction of the database.

use super::exchange::{Exchange, Made, Retiring};
use super::fill::Fill;
use super::frame::{Plain, Record};
use super::job::{Done, Job, Urgency};
use super::log::Log;
use super::table::{ISSUED, META, META_KEYS, PRIVATE, SNAPSHOT, TILES};
use super::tiling::Tiling;
use super::{Files, StoreError};
use crate::disk::Medium;
use crate::fatal::{Fatal, FatalFlag};
use crate::seal::{DataKey, Kind, Sealer};
use cluster::LogEntry;
use redb::Durability;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lazy work that piles up with nobody waiting for a sync is written without one from here on.
const LAZY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a piece of the snapshot.
const SNAPSHOT_PIECE_BYTES: usize = 256 * 1024;
/// A disk on which a frame takes no longer than this, sync and all, is quick.
const QUICK: Duration = Duration::from_micros(400);

pub(super) struct Work<M: Medium> {
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
    /// Jobs that were taken and are not written.
    taken: Vec<Job>,
    /// What those of them wait for that were taken last.
    urgency: Urgency,
    bytes: usize,
    /// How long a frame takes, sync and all; of the last eight, about.
    frame: Option<Duration>,
    /// The disk failed, or everything is written: nothing is written any more.
    over: bool,
}

impl<M: Medium> Work<M> {
    pub(super) fn new(
        files: Arc<Files>,
        log: Log<M>,
        sealer: Sealer,
        fatal: FatalFlag,
        commits: Arc<AtomicU64>,
        exchange: Exchange<M>,
    ) -> Result<Self, StoreError> {
        let tiling = Tiling::resume(&files)?;
        let (retiring, taken, urgency, bytes) = (VecDeque::new(), Vec::new(), Urgency::Lazy, 0);
        let (fill, frame, over) = (None, None, false);
        Ok(Self {
            files,
            log,
            sealer,
            fatal,
            commits,
            fill,
            tiling,
            exchange,
            retiring,
            taken,
            urgency,
            bytes,
            frame,
            over,
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether there is something to tidy behind a frame.
    pub(super) fn is_untidy(&self) -> bool {
        self.log.is_untidy()
    }

    /// Whether a frame takes so little time that to wait for it is nothing to speak of.
    pub(super) fn is_quick(&self) -> bool {
        self.frame.is_some_and(|frame| frame <= QUICK)
    }

    /// Takes a job; it is written by the next [`write_taken`](Self::write_taken). The bytes of all that are taken.
    pub(super) fn take(&mut self, job: Job) -> usize {
        self.urgency = self.urgency.max(job.urgency());
        self.bytes += job.bytes();
        self.taken.push(job);
        self.bytes
    }

    /// Writes what was taken, if anybody waits for it or there is much of it.
    pub(super) fn write_taken(&mut self) {
        let urgency = std::mem::replace(&mut self.urgency, Urgency::Lazy);
        if urgency == Urgency::Lazy && self.bytes < LAZY_BYTES_MAX {
            return;
        }
        self.bytes = 0;
        let batch = std::mem::take(&mut self.taken);
        self.over |= !self.write(batch);
    }

    /// Nothing is written from now on; what was taken is refused.
    pub(super) fn end(&mut self) {
        self.over = true;
        self.retiring.clear();
        self.taken.drain(..).for_each(Job::refuse);
    }

    /// The same, because of an error that nobody waits for.
    pub(super) fn fail(&mut self, error: &StoreError) {
        self.fatal.raise(Fatal::new(error.to_string()));
        self.end();
    }

    /// A piece of the work that nobody waits for; false: there is none.
    pub(super) fn tidy(&mut self) -> Result<bool, StoreError> {
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
        if rest.iter().any(|job| !matches!(job, Job::Settle { .. } | Job::Tidy)) {
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
                | Job::Tidy
                | Job::Stop => {}
            }
        }
        let began = Instant::now();
        match forget {
            Some((upto, done)) => {
                self.log.forget(&mut self.sealer, &plain, upto, done)?;
                self.fill = Some(Fill::default());
            }
            None => self.log.write(&mut self.sealer, &plain)?,
        }
        let took = began.elapsed();
        self.frame = Some(self.frame.map_or(took, |before| (before * 7 + took) / 8));
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
                | Job::Tidy
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
