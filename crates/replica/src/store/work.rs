//! The one who writes the log: all that was taken in one frame with one sync. What is the database's goes on from there to its own thread.

use super::exchange::{Exchange, Made, Retiring};
use super::frame::{Plain, Record};
use super::job::{Done, Job, Urgency, answer};
use super::log::Log;
use super::rows::{Clerk, Failure};
use super::{Files, StoreError};
use crate::disk::Medium;
use crate::seal::{DataKey, Sealer};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Lazy work that piles up with nobody waiting for a sync is written without one from here on.
const LAZY_BYTES_MAX: usize = 1024 * 1024;
/// A disk on which a frame takes no longer than this, sync and all, is quick.
const QUICK: Duration = Duration::from_micros(400);

pub(super) struct Work<M: Medium> {
    files: Arc<Files>,
    log: Log<M>,
    sealer: Sealer,
    /// Who writes the database.
    rows: Clerk<M>,
    failure: Failure,
    commits: Arc<AtomicU64>,
    exchange: Exchange<M>,
    /// Jobs that were taken and are not written.
    taken: Vec<Job>,
    /// What those of them wait for that were taken last.
    urgency: Urgency,
    bytes: usize,
    /// How long a frame takes, sync and all; of the last eight, about.
    frame: Option<Duration>,
    /// Everything is written: nothing is written any more.
    over: bool,
}

impl<M: Medium> Work<M> {
    pub(super) fn new(
        files: Arc<Files>,
        log: Log<M>,
        sealer: Sealer,
        rows: Clerk<M>,
        failure: Failure,
        commits: Arc<AtomicU64>,
        exchange: Exchange<M>,
    ) -> Self {
        let (taken, urgency, bytes) = (Vec::new(), Urgency::Lazy, 0);
        let (frame, over) = (None, false);
        Self { files, log, sealer, rows, failure, commits, exchange, taken, urgency, bytes, frame, over }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over || self.failure.is_raised()
    }

    /// Whether there is something to tidy behind a frame.
    pub(super) fn is_untidy(&self) -> bool {
        self.log.is_untidy()
    }

    /// Whether a frame takes so little time that to wait for it is nothing to speak of.
    pub(super) fn is_quick(&self) -> bool {
        self.frame.is_some_and(|frame| frame <= QUICK)
    }

    /// Whether a job that was taken is the database's.
    pub(super) fn owes_rows(&self) -> bool {
        self.taken.iter().any(|job| !job.is_logged() && !matches!(job, Job::Tidy))
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
        self.write(batch);
    }

    /// Nothing is written from now on but what is on its way to the database; what was taken is refused.
    pub(super) fn end(&mut self) {
        self.over = true;
        self.rows.end();
        self.taken.drain(..).for_each(Job::refuse);
    }

    /// The same, because of an error that nobody waits for.
    pub(super) fn fail(&mut self, error: &StoreError) {
        self.failure.raise(error.to_string());
        self.end();
    }

    /// A piece of the work that nobody waits for; false: there is none.
    pub(super) fn tidy(&mut self) -> Result<bool, StoreError> {
        let rid = self.log.rid();
        if !rid.is_empty() {
            self.rows.overwrite(rid);
            return Ok(true);
        }
        self.log.tidy()
    }

    fn write(&mut self, batch: Vec<Job>) {
        let (mut logged, mut rest): (Vec<Job>, Vec<Job>) = batch.into_iter().partition(Job::is_logged);
        rest.retain(|job| !matches!(job, Job::Tidy));
        if !logged.is_empty() {
            let result = self.log(&mut logged);
            answer(logged, &result, &self.failure);
            if result.is_err() {
                return answer(rest, &result, &self.failure);
            }
        }
        let exchange = rest.pop_if(|job| matches!(job, Job::Exchange { .. }));
        if !rest.is_empty() && !self.rows.write(rest) {
            exchange.into_iter().for_each(Job::refuse);
        } else if let Some(Job::Exchange { data_key, done }) = exchange {
            self.exchange(&data_key, done);
        }
    }

    fn exchange(&mut self, data_key: &DataKey, done: Done) {
        let Some(mut resting) = self.rows.at_rest() else {
            return done(Err(io::Error::other("the store's disk failed")));
        };
        let Made { files, log, sealers: (sealer, for_rows) } = match self.exchange.make(&self.files, data_key) {
            Ok(made) => made,
            Err(error) => return done(Err(io::Error::other(error.to_string()))),
        };
        let retired = self.exchange.switch(&files, data_key).and_then(|()| {
            let mut waiting = std::mem::replace(&mut self.log, log).into_waiting();
            self.sealer = sealer;
            self.files = files.clone();
            waiting.push(done);
            let (old, others) = resting.rows.exchanged(files, for_rows);
            waiting.extend(others);
            Retiring::new(&self.exchange, old, waiting)
        });
        drop(resting);
        match retired {
            Ok(retiring) => self.rows.retire(retiring),
            // Nobody knows which files are the store now.
            Err(error) => self.failure.raise(error.to_string()),
        }
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
            Some((upto, done)) => self.log.forget(&mut self.sealer, &plain, upto, done)?,
            None => self.log.write(&mut self.sealer, &plain)?,
        }
        let took = began.elapsed();
        self.frame = Some(self.frame.map_or(took, |before| (before * 7 + took) / 8));
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
