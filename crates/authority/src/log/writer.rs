//! Who writes the log: one thread. What came in while it synced goes into one frame with one sync.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::{FRAME_BYTES_MAX, frame, line};
use crate::entry::Entry;

/// Bytes by which the file is made longer at a time, filled with zeros. A sync of bytes written over others is one write; with a
/// file that grows it is two, for its length changes too.
const GROW_BYTES: usize = 1024 * 1024;
/// Orders that wait to be written, at most.
const ORDERS_MAX: usize = 4_096;

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
/// How a frame ended, and who waits for that.
type Ended = (Vec<Done>, Result<(), LogFault>);

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

/// The end to which entries are given. Dropping it waits until all that was given is written.
pub(crate) struct Writer {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
    /// How much was written.
    pub(crate) written: Arc<Written>,
}

impl Writer {
    /// Starts the thread that writes behind `end`.
    ///
    /// # Errors
    /// If the system gives no thread, or this is not called in a tokio runtime.
    pub(crate) fn start(storage: impl Storage, end: u64) -> io::Result<Self> {
        let (orders, taken) = sync_channel(ORDERS_MAX);
        let (ended, mut frames) = mpsc::unbounded_channel::<Ended>();
        // The runtime is woken once for a frame, not once for each who waits: that would cost more than writing it.
        let telling = async move {
            while let Some((waiting, outcome)) = frames.recv().await {
                for done in waiting {
                    // Who does not wait any more gets no certificate either.
                    let _ = done.send(outcome.clone());
                }
            }
        };
        tokio::runtime::Handle::try_current().map_err(io::Error::other)?.spawn(telling);
        let written = Arc::new(Written::default());
        written.bytes.store(end, Ordering::Relaxed);
        let counters = Arc::clone(&written);
        let thread = std::thread::Builder::new()
            .name("issuance-log".into())
            .spawn(move || Disk { storage, end, room: end, dirty: false, written: counters }.run(&taken, &ended))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), written })
    }

    /// Writes entries, together and in order; returns when they are synced.
    ///
    /// # Errors
    /// [`LogFault`]: none of them is in the log.
    pub(crate) async fn append(&self, entries: &[Entry]) -> Result<(), LogFault> {
        let (done, outcome) = oneshot::channel();
        let order = Order { entries: entries.iter().flat_map(line).collect(), done };
        let orders = self.orders.as_ref().ok_or(LogFault::Closed)?;
        orders.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => LogFault::Full,
            TrySendError::Disconnected(_) => LogFault::Closed,
        })?;
        outcome.await.unwrap_or(Err(LogFault::Closed))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // It ends when nothing is left to write; a panic there was reported there.
            let _ = thread.join();
        }
    }
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
    fn run(mut self, orders: &Receiver<Order>, ended: &mpsc::UnboundedSender<Ended>) {
        while let Ok(first) = orders.recv() {
            let mut entries = first.entries;
            let mut waiting = vec![first.done];
            while entries.len() < FRAME_BYTES_MAX
                && let Ok(next) = orders.try_recv()
            {
                entries.extend_from_slice(&next.entries);
                waiting.push(next.done);
            }
            let outcome = self.write(&entries).map_err(|error| {
                self.written.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, entries = waiting.len(), "the issuance log cannot be written: nothing is issued");
                LogFault::Io(error.to_string())
            });
            // Without a runtime nobody waits.
            let _ = ended.send((waiting, outcome));
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
