//! Answers of many calls leave a connection together.
//!
//! HTTP/2 flushes whenever it has written what it knows of, and each answer wakes the connection's task anew: with sixty calls
//! on four connections that is a TLS record and a system call for each. Here, while other calls of the connection are in work, a flush
//! only asks for another turn of the task; the answers that become ready until then are gathered, and go out at once. Nothing
//! waits for a timer: with nobody else to run, the next turn comes at once. A lone answer is written as ever, but for one that
//! HTTP/2 flushes before its trailers: they follow before the next turn, which the task takes without leaving its thread.
//!
//! A connection opens likewise: what HTTP/2 says first, its word on what the peer said, and an answer that is ready at once are three flushes.
//! They leave together if the peer's own beginning, and its first call, came with the end of the handshake.
//!
//! The same for a caller: what it asks is a head, a body and an end, each flushed by itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered, at most: one TLS record.
const GATHERED_BYTES_MAX: usize = 16 * 1024;
/// Turns of the task between a flush and the write: in the first one the answers that became ready are encoded.
const TURNS: u8 = 2;
/// From so many bytes on, the data of an answer is flushed by itself, and its trailers after it. Source: h2, the threshold from which it
/// hands a payload on without copying it.
const FLUSHED_APART_BYTES_MIN: usize = 256;

/// Turns of a lone answer's task at a time, at most.
const LONE_TURNS_MAX: usize = 4;

/// Calls of one connection in work. Clones share the number.
#[derive(Clone, Default)]
pub struct InWork(Arc<Work>);

#[derive(Default)]
struct Work {
    calls: AtomicUsize,
    /// Whether a lone answer waits for the task's next turn.
    again: AtomicBool,
}

/// One of them; dropped when its answer begins.
pub struct Working(InWork);

impl InWork {
    /// A call is in work until what is given back is dropped.
    pub fn begin(&self) -> Working {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        Working(self.clone())
    }

    /// Polls whoever serves the connection, and gives it the turns that it asked for.
    pub fn poll<F: Future>(&self, cx: &mut Context<'_>, mut serving: Pin<&mut F>) -> Poll<F::Output> {
        for _ in 0..LONE_TURNS_MAX {
            let polled = serving.as_mut().poll(cx);
            if polled.is_ready() || !self.0.again.swap(false, Ordering::Relaxed) {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_none(&self) -> bool {
        self.0.calls.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose writes are gathered. Whoever drives it must read from it whenever it is woken, as HTTP/2 does, and be polled by
/// [`InWork::poll`].
pub struct Gathered<IO> {
    io: IO,
    in_work: InWork,
    bytes: Vec<u8>,
    /// How many of them were written.
    written: usize,
    due: Due,
    /// Until the first call has begun.
    opening: bool,
}

/// When what is gathered is written.
#[derive(Clone, Copy)]
enum Due {
    /// No flush was asked for.
    Unasked,
    /// With the next turn that [`InWork::poll`] gives.
    Again,
    /// After so many turns of the task.
    Turns(u8),
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Gathered<IO> {
    /// Gathers the answers to the calls that are counted there.
    pub fn new(io: IO, in_work: InWork) -> Self {
        Self { io, in_work, bytes: Vec::new(), written: 0, due: Due::Unasked, opening: true }
    }

    /// Writes what is gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written = self.written.saturating_add(written);
        }
        // A connection that is silent, as most are, holds no buffer.
        self.bytes = Vec::new();
        self.written = 0;
        self.due = Due::Unasked;
        Poll::Ready(Ok(()))
    }

    /// Whether it is time to write; counts a turn.
    fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        match self.due {
            Due::Unasked => return false,
            Due::Turns(0) => return true,
            Due::Turns(turns @ 1..) => self.due = Due::Turns(turns - 1),
            // The same turn still.
            Due::Again if self.in_work.0.again.load(Ordering::Relaxed) => return false,
            Due::Again if self.opening && !self.in_work.is_none() => {
                self.opening = false;
                self.due = Due::Turns(TURNS - 1);
            }
            Due::Again => return true,
        }
        cx.waker().wake_by_ref();
        false
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_due(cx) {
            // What cannot be written yet wakes this task when it can.
            match this.poll_drain(cx) {
                Poll::Ready(Ok(())) => match Pin::new(&mut this.io).poll_flush(cx) {
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gathered<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.bytes.len() >= GATHERED_BYTES_MAX {
            ready!(this.poll_drain(cx))?;
        }
        let before = this.bytes.len();
        for buf in bufs {
            let room = GATHERED_BYTES_MAX.saturating_sub(this.bytes.len()).min(buf.len());
            this.bytes.extend_from_slice(buf.get(..room).unwrap_or_default());
        }
        Poll::Ready(Ok(this.bytes.len().saturating_sub(before)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.bytes.is_empty() {
            return Pin::new(&mut this.io).poll_flush(cx);
        }
        if matches!(this.due, Due::Unasked) {
            let lone = this.in_work.is_none();
            if lone && !this.opening && this.bytes.len() < FLUSHED_APART_BYTES_MIN {
                ready!(this.poll_drain(cx))?;
                return Pin::new(&mut this.io).poll_flush(cx);
            }
            if lone {
                this.due = Due::Again;
                this.in_work.0.again.store(true, Ordering::Relaxed);
            } else {
                this.opening = false;
                this.due = Due::Turns(TURNS);
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::task::{Wake, Waker};

    use super::*;

    /// Takes `room` bytes and notes each write; nothing is ever there to be read.
    #[derive(Default)]
    struct Wire {
        writes: Vec<Vec<u8>>,
        room: usize,
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.writes.push(buf[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Bench {
        gathered: Gathered<Wire>,
        other: Option<Working>,
        wakes: Arc<Wakes>,
        waker: Waker,
    }

    impl Bench {
        fn new(room: usize) -> Self {
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(wakes.clone());
            let in_work = InWork::default();
            let other = Some(in_work.begin());
            Self { gathered: Gathered::new(Wire { room, ..Wire::default() }, in_work), other, wakes, waker }
        }

        /// A connection whose first call was answered.
        fn opened() -> Self {
            let mut b = Self::new(usize::MAX);
            b.gathered.opening = false;
            drop(b.other.take());
            b
        }

        fn write(&mut self, bytes: &[u8]) -> Poll<usize> {
            let mut cx = Context::from_waker(&self.waker);
            Pin::new(&mut self.gathered).poll_write(&mut cx, bytes).map(Result::unwrap)
        }

        fn flush(&mut self) {
            let mut cx = Context::from_waker(&self.waker);
            assert!(Pin::new(&mut self.gathered).poll_flush(&mut cx).is_ready());
        }

        /// A turn of the task; says whether it asked for another that goes through whoever runs tasks.
        fn turn(&mut self) -> bool {
            self.gathered.in_work.0.again.store(false, Ordering::Relaxed);
            self.read()
        }

        fn read(&mut self) -> bool {
            let before = self.wakes.0.load(Ordering::Relaxed);
            let mut cx = Context::from_waker(&self.waker);
            assert!(Pin::new(&mut self.gathered).poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 8])).is_pending());
            self.wakes.0.load(Ordering::Relaxed) > before
        }

        fn writes(&self) -> &[Vec<u8>] {
            &self.gathered.io.writes
        }
    }

    #[test]
    fn answers_of_several_turns_leave_in_one_write() {
        let mut b = Bench::new(usize::MAX);
        assert_eq!(b.write(b"one "), Poll::Ready(4));
        b.flush();
        assert_eq!(b.wakes.0.load(Ordering::Relaxed), 1, "a flush asks for a turn");
        assert!(b.turn());
        assert_eq!(b.write(b"two"), Poll::Ready(3));
        b.flush();
        assert!(b.turn());
        assert!(b.writes().is_empty());
        assert!(!b.turn(), "written: nothing more to ask for");
        assert_eq!(b.writes(), [b"one two".to_vec()]);
        assert_eq!(b.gathered.bytes.capacity(), 0, "a silent connection holds no buffer");
        assert!(!b.turn());
    }

    #[test]
    fn a_lone_answer_is_written_at_once() {
        let mut b = Bench::opened();
        assert_eq!(b.write(b"one"), Poll::Ready(3));
        b.flush();
        assert_eq!((b.writes(), b.wakes.0.load(Ordering::Relaxed)), (&[b"one".to_vec()][..], 0));
    }

    #[test]
    fn a_large_lone_answer_leaves_with_its_trailers() {
        let mut b = Bench::opened();
        assert_eq!(b.write(&[1; FLUSHED_APART_BYTES_MIN]), Poll::Ready(FLUSHED_APART_BYTES_MIN));
        b.flush();
        assert_eq!(b.write(b"end"), Poll::Ready(3));
        b.flush();
        assert_eq!((b.writes().len(), b.wakes.0.load(Ordering::Relaxed)), (0, 0), "nobody else is woken for it");
        assert!(b.gathered.in_work.0.again.load(Ordering::Relaxed));
        assert!(!b.read() && b.writes().is_empty(), "the trailers may still come in this turn");
        assert!(!b.turn(), "written: nothing more to ask for");
        assert_eq!((b.writes().len(), b.writes()[0].len()), (1, FLUSHED_APART_BYTES_MIN + 3));
    }

    #[test]
    fn an_opening_leaves_with_the_answer_to_a_call_that_is_there_already() {
        let mut b = Bench::new(usize::MAX);
        drop(b.other.take());
        assert_eq!(b.write(b"settings "), Poll::Ready(9));
        b.flush();
        assert!(!b.read() && b.writes().is_empty(), "what the peer said is read first");
        assert_eq!(b.write(b"acknowledged "), Poll::Ready(13));
        b.flush();
        let call = b.gathered.in_work.begin();
        assert!(b.turn(), "the call may be answered in no time");
        assert!(b.turn());
        assert_eq!(b.write(b"answer"), Poll::Ready(6));
        drop(call);
        b.flush();
        assert!(b.writes().is_empty() && !b.turn());
        assert_eq!(b.writes(), [b"settings acknowledged answer".to_vec()]);
        assert_eq!(b.write(b"two"), Poll::Ready(3));
        b.flush();
        assert_eq!(b.writes().len(), 2, "from then on a lone answer is written at once");
    }

    #[test]
    fn a_peer_that_waits_for_the_opening_gets_it() {
        let mut b = Bench::new(usize::MAX);
        drop(b.other.take());
        assert_eq!(b.write(b"settings"), Poll::Ready(8));
        b.flush();
        assert!(b.writes().is_empty() && !b.turn());
        assert_eq!((b.writes(), b.wakes.0.load(Ordering::Relaxed)), (&[b"settings".to_vec()][..], 0));
    }

    #[test]
    fn whoever_serves_gets_the_turns_that_were_asked_for() {
        let in_work = InWork::default();
        let mut cx = Context::from_waker(Waker::noop());
        let mut polls = 0;
        let mut serve = |asks: usize| {
            polls = 0;
            let serving = std::pin::pin!(std::future::poll_fn(|_| {
                polls += 1;
                in_work.0.again.store(polls <= asks, Ordering::Relaxed);
                Poll::<()>::Pending
            }));
            assert!(in_work.poll(&mut cx, serving).is_pending());
            polls
        };
        assert_eq!((serve(0), serve(1), serve(100)), (1, 2, LONE_TURNS_MAX));
    }

    #[test]
    fn more_than_a_record_is_written_at_once() {
        let mut b = Bench::new(usize::MAX);
        let large = vec![7; GATHERED_BYTES_MAX + 10];
        assert_eq!(b.write(&large), Poll::Ready(GATHERED_BYTES_MAX));
        assert!(b.writes().is_empty());
        assert_eq!(b.write(&large[GATHERED_BYTES_MAX..]), Poll::Ready(10));
        assert_eq!(b.writes().len(), 1);
    }

    #[test]
    fn a_peer_that_reads_slowly_holds_the_writer_up_and_loses_nothing() {
        let mut b = Bench::new(5);
        assert_eq!(b.write(&[1; GATHERED_BYTES_MAX]), Poll::Ready(GATHERED_BYTES_MAX));
        b.flush();
        assert_eq!(b.write(&[2]), Poll::Pending, "no more than a record is held");
        b.gathered.io.room = usize::MAX;
        assert_eq!(b.write(&[2]), Poll::Ready(1));
        let mut cx = Context::from_waker(&b.waker);
        assert!(Pin::new(&mut b.gathered).poll_shutdown(&mut cx).is_ready());
        let all = b.writes().concat();
        assert_eq!((all.len(), all.last()), (GATHERED_BYTES_MAX + 1, Some(&2)), "the end is written before the close");
    }
}
