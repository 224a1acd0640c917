//! Who writes the log: one thread. What came in while it synced goes into one frame with one sync, and a frame waits a moment for
//! more, for it costs more than the entry in it: for half of a crowd at most, so that one half is served while the other half is
//! written; or for all of it, if the disk takes longer than it takes to serve them all.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{FRAME_BYTES_MAX, frame, line};
use crate::entry::Entry;

/// Bytes by which the file is made longer at a time, filled with zeros. A sync of bytes written over others is one write; with a
/// file that grows it is two, for its length changes too.
const GROW_BYTES: usize = 1024 * 1024;
/// Bytes of an entry, about.
const ENTRY_BYTES: usize = 640;
/// Orders that wait to be written, at most.
const ORDERS_MAX: usize = 4_096;
/// Orders of a frame that waits for no more, if the disk is quicker than those who give them.
const ORDERS_ENOUGH: usize = 16;
/// After what time the next one of a crowd gives an order, about.
const PACE: Duration = Duration::from_micros(60);
/// How long a frame waits for more. Whoever is alone is not held up: nobody is waited for.
const PATIENCE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(10);

/// Why entries were not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogFault {
    /// Too many wait already.
    #[error("too many entries wait to be written")]
    Full,
    /// The system refused; nothing of the order is in the log.
    #[error("{0}")]
    Io(String),
    /// The thread that writes is gone.
    #[error("the log is closed")]
    Closed,
}

/// What the log is written to: a file, or in tests a disk that fails.
pub(crate) trait Storage: Send + 'static {
    /// Writes all bytes at a place.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Returns when what was written will survive.
    fn sync(&self) -> io::Result<()>;
    /// Cuts off what stands behind `end`.
    fn cut(&self, end: u64) -> io::Result<()>;
}

impl Storage for File {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn cut(&self, end: u64) -> io::Result<()> {
        self.set_len(end)
    }
}

struct Order {
    entries: Vec<u8>,
    done: Done,
}

/// Who waits for an order's outcome.
type Done = oneshot::Sender<Result<(), LogFault>>;
/// What goes into one frame, and who waits for it.
struct Batch {
    entries: Vec<u8>,
    waiting: Vec<Done>,
}
/// How a frame ended, and who waits for that.
struct Ended {
    waiting: Vec<Done>,
    outcome: Result<(), LogFault>,
    took: Duration,
}

/// How much was written.
#[derive(Default)]
pub(crate) struct Written {
    /// Bytes of the log.
    pub(crate) bytes: AtomicU64,
    /// Syncs that succeeded.
    pub(crate) syncs: AtomicU64,
    /// Frames that failed.
    pub(crate) failures: AtomicU64,
}

/// The end to which entries are given. Dropping it waits until what is being written is written.
pub(crate) struct Writer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
    /// How much was written.
    pub(crate) written: Arc<Written>,
}

/// What waits to be written, and the way to the thread.
struct Queue {
    orders: Mutex<Orders>,
    /// None once it is closed.
    thread: Mutex<Option<SyncSender<Batch>>>,
    /// There are as many orders as are wanted.
    given: Notify,
}

/// Orders that wait, and how many of them make a frame.
#[derive(Default)]
struct Orders {
    waiting: VecDeque<Order>,
    wanted: usize,
}

impl Writer {
    /// Starts the thread that writes behind `end`.
    ///
    /// # Errors
    /// If the system gives no thread, or this is not called in a tokio runtime.
    pub(crate) fn start(storage: impl Storage, end: u64) -> io::Result<Self> {
        let (batches, taken) = sync_channel(1);
        let (ended, frames) = mpsc::unbounded_channel::<Ended>();
        let queue =
            Arc::new(Queue { orders: Mutex::default(), thread: Mutex::new(Some(batches)), given: Notify::new() });
        tokio::runtime::Handle::try_current().map_err(io::Error::other)?.spawn(Arc::clone(&queue).hand_over(frames));
        let written = Arc::new(Written::default());
        written.bytes.store(end, Ordering::Relaxed);
        let counters = Arc::clone(&written);
        let thread = std::thread::Builder::new()
            .name("issuance-log".into())
            .spawn(move || Disk { storage, end, room: end, dirty: false, written: counters }.run(&taken, &ended))?;
        Ok(Self { queue, thread: Some(thread), written })
    }

    /// Writes entries, together and in order; returns when they are synced.
    ///
    /// # Errors
    /// [`LogFault`]: none of them is in the log.
    pub(crate) async fn append(&self, entries: &[Entry]) -> Result<(), LogFault> {
        let (done, outcome) = oneshot::channel();
        let mut lines = Vec::with_capacity(ENTRY_BYTES * entries.len());
        entries.iter().for_each(|entry| line(entry, &mut lines));
        self.queue.give(Order { entries: lines, done })?;
        outcome.await.unwrap_or(Err(LogFault::Closed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(lock(&self.queue.thread).take());
        if let Some(thread) = self.thread.take() {
            // It ends when nothing is left to write; a panic there was reported there.
            let _ = thread.join();
        }
        lock(&self.queue.orders).waiting.clear();
        self.queue.given.notify_one();
    }
}

impl Queue {
    fn give(&self, order: Order) -> Result<(), LogFault> {
        let mut orders = lock(&self.orders);
        if orders.waiting.len() >= ORDERS_MAX {
            return Err(LogFault::Full);
        }
        orders.waiting.push_back(order);
        let enough = orders.waiting.len() >= orders.wanted;
        drop(orders);
        if enough {
            self.given.notify_one();
        }
        Ok(())
    }

    /// Gives the thread one frame after the other, and tells those who wait how it ended. They are woken by the runtime itself: by the
    /// thread, each one by itself, that would cost more than the writing.
    async fn hand_over(self: Arc<Self>, mut frames: mpsc::UnboundedReceiver<Ended>) {
        let (mut answered, mut took) = (0, Duration::ZERO);
        loop {
            self.gather(answered, took).await;
            let Some(batch) = self.take() else { return };
            // None of them was begun if it is closed: who waits is told so.
            let sent = lock(&self.thread).as_ref().map(|thread| thread.send(batch));
            let Some(Ok(())) = sent else { return };
            let Some(ended) = frames.recv().await else { return };
            (answered, took) = (ended.waiting.len(), ended.took);
            for done in ended.waiting {
                // Who does not wait any more gets no certificate either.
                let _ = done.send(ended.outcome.clone());
            }
        }
    }

    /// Waits for orders. So many were answered just now, and to write them took so long: they and those who wait by now are the crowd.
    async fn gather(&self, answered: usize, took: Duration) {
        let crowd = answered + lock(&self.orders).waiting.len();
        let all = PACE.saturating_mul(u32::try_from(crowd).unwrap_or(u32::MAX));
        let wanted = if took > all { crowd } else { (crowd / 2).min(ORDERS_ENOUGH) };
        let patience = took.clamp(*PATIENCE.start(), *PATIENCE.end());
        if tokio::time::timeout(patience, self.at_least(wanted.max(1))).await.is_err() {
            self.at_least(1).await;
        }
    }

    /// Returns when so many orders wait, or it is closed.
    async fn at_least(&self, wanted: usize) {
        lock(&self.orders).wanted = wanted;
        while lock(&self.orders).waiting.len() < wanted && lock(&self.thread).is_some() {
            self.given.notified().await;
        }
    }

    /// What fits into one frame.
    fn take(&self) -> Option<Batch> {
        let orders = &mut lock(&self.orders).waiting;
        let first = orders.pop_front()?;
        let mut batch = Batch { entries: first.entries, waiting: vec![first.done] };
        while batch.entries.len() < FRAME_BYTES_MAX
            && let Some(next) = orders.pop_front()
        {
            batch.entries.extend_from_slice(&next.entries);
            batch.waiting.push(next.done);
        }
        Some(batch)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Disk<S> {
    storage: S,
    /// Where the good part ends: everything before it is synced.
    end: u64,
    /// Where the file ends: zeros up to there.
    room: u64,
    /// Whether something unsynced may stand behind it.
    dirty: bool,
    written: Arc<Written>,
}

impl<S: Storage> Disk<S> {
    fn run(mut self, batches: &Receiver<Batch>, ended: &mpsc::UnboundedSender<Ended>) {
        while let Ok(Batch { entries, waiting }) = batches.recv() {
            let began = Instant::now();
            let outcome = self.write(&entries).map_err(|error| {
                self.written.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, entries = waiting.len(), "the issuance log cannot be written: nothing is issued");
                LogFault::Io(error.to_string())
            });
            // Without a runtime nobody waits.
            let _ = ended.send(Ended { waiting, outcome, took: began.elapsed() });
        }
        // The zeros go with the process that wanted them; left behind, they are no harm.
        let _ = self.storage.cut(self.end);
    }

    /// One frame, one sync. After a failure what was written is cut off again, so that the file ends with what was answered
    /// for; a sync that failed promises nothing about it.
    fn write(&mut self, entries: &[u8]) -> io::Result<()> {
        if self.dirty {
            self.cut()?;
        }
        self.dirty = true;
        let frame = frame(self.end, entries);
        if self.end + frame.len() as u64 > self.room {
            self.grow(frame.len());
        }
        let outcome = self.storage.write_at(&frame, self.end).and_then(|()| self.storage.sync());
        match outcome {
            Ok(()) => {
                self.dirty = false;
                self.end += frame.len() as u64;
                self.written.bytes.store(self.end, Ordering::Relaxed);
                self.written.syncs.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                // If this fails too, it is tried again before the next frame.
                self.dirty = self.cut().is_err();
                Err(error)
            }
        }
    }

    /// Makes room for this frame and many more. Without room the frame is written all the same, if it fits.
    fn grow(&mut self, frame: usize) {
        let zeros = vec![0; frame + GROW_BYTES];
        match self.storage.write_at(&zeros, self.end).and_then(|()| self.storage.sync()) {
            Ok(()) => self.room = self.end + zeros.len() as u64,
            // What this leaves behind is cut off with the frame if that fails too; zeros behind a frame are no harm.
            Err(_) => drop(self.cut()),
        }
    }

    fn cut(&mut self) -> io::Result<()> {
        self.storage.cut(self.end)?;
        self.room = self.end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::sync::Mutex;
    use std::task::{Context, Waker};

    use super::*;
    use crate::log;

    /// A disk that takes so many bytes, and refuses syncs or cuts when told.
    #[derive(Clone, Default)]
    struct Fake(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        bytes: Vec<u8>,
        room: usize,
        refuse_sync: bool,
        refuse_cut: bool,
        /// Holds the first sync until told.
        gate: Option<Receiver<()>>,
        syncs: usize,
    }

    impl Storage for Fake {
        fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            let at = usize::try_from(at).unwrap();
            let fits = bytes.len().min(state.room.saturating_sub(at));
            let end = state.bytes.len().max(at + fits);
            state.bytes.resize(end, 0);
            state.bytes[at..at + fits].copy_from_slice(&bytes[..fits]);
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn sync(&self) -> io::Result<()> {
            let gate = self.0.lock().unwrap().gate.take();
            if let Some(gate) = gate {
                gate.recv().unwrap();
            }
            let mut state = self.0.lock().unwrap();
            state.syncs += 1;
            if state.refuse_sync { Err(io::Error::other("no sync")) } else { Ok(()) }
        }

        fn cut(&self, end: u64) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            if state.refuse_cut {
                return Err(io::Error::other("no cut"));
            }
            state.bytes.truncate(usize::try_from(end).unwrap());
            Ok(())
        }
    }

    fn entry(time_ms: i64) -> [Entry; 1] {
        [Entry::Begun { time_ms, ca: "x".into() }]
    }

    fn times(fake: &Fake) -> Vec<i64> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(log::FILE_NAME), &fake.0.lock().unwrap().bytes).unwrap();
        let mut times = Vec::new();
        log::read(dir.path(), |entry| times.push(entry.time().unix_millis())).unwrap();
        times
    }

    #[tokio::test]
    async fn a_full_disk_refuses_and_loses_nothing() {
        let fake = Fake::default();
        fake.0.lock().unwrap().room = 150;
        let writer = Writer::start(fake.clone(), 0).unwrap();
        writer.append(&entry(1)).await.unwrap();
        writer.append(&entry(2)).await.unwrap();
        let refused = writer.append(&entry(3)).await.unwrap_err();
        assert!(matches!(refused, LogFault::Io(_)), "{refused}");
        assert_eq!(times(&fake), [1, 2], "the torn frame was cut off");
        // Room again, but now syncs fail, and the cut after them too.
        {
            let mut state = fake.0.lock().unwrap();
            (state.room, state.refuse_sync, state.refuse_cut) = (10_000, true, true);
        }
        writer.append(&entry(4)).await.unwrap_err();
        fake.0.lock().unwrap().refuse_sync = false;
        writer.append(&entry(5)).await.unwrap_err();
        fake.0.lock().unwrap().refuse_cut = false;
        writer.append(&entry(6)).await.unwrap();
        assert_eq!(times(&fake), [1, 2, 6], "by itself again, and only what was answered for");
        assert_eq!(writer.written.failures.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn what_comes_during_a_sync_shares_the_next_one() {
        let fake = Fake::default();
        let (open, gate) = std::sync::mpsc::channel();
        {
            let mut state = fake.0.lock().unwrap();
            (state.room, state.gate) = (1 << 22, Some(gate));
        }
        let writer = Writer::start(fake.clone(), 0).unwrap();
        // Polled once, an order is with the writer; it cannot end while the first sync is held.
        let entries: Vec<_> = (0..100).map(entry).collect();
        let mut orders: Vec<_> = entries.iter().map(|entry| Box::pin(writer.append(entry))).collect();
        for order in &mut orders {
            let polled = order.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending(), "answered before its sync: {polled:?}");
        }
        open.send(()).unwrap();
        for order in orders {
            order.await.unwrap();
        }
        assert_eq!(times(&fake), (0..100).collect::<Vec<_>>());
        let syncs = fake.0.lock().unwrap().syncs;
        assert!(syncs <= 3, "one for room, and {syncs} syncs for a hundred orders");
    }
}
