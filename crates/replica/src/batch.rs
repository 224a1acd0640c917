//! Packs what many callers propose into few raft entries. Sans-IO: no timer, no clock, no channel.
//!
//! Rules:
//! - idle → the first item goes at once, alone if need be: nobody waits for company;
//! - while a batch is on its way, items collect; a second batch may follow when it is at least as large as the one
//!   before it, so that a crowd is served by few large entries and a pair of callers is not held up;
//! - never more than [`IN_FLIGHT_MAX`] batches under way;
//! - a batch holds at most [`BATCH_COMMANDS_MAX`] commands and [`BATCH_BYTES_MAX`] bytes, except that one item is never cut;
//! - the queue is bounded; what does not fit is handed back, surely not proposed.

use std::collections::VecDeque;

/// Commands in one raft entry, at most. Source: design.md 5.
pub const BATCH_COMMANDS_MAX: usize = 256;
/// Encoded bytes in one raft entry, at most (one larger item goes alone). Source: design.md 5.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Batches proposed and not yet answered, at most. Source: design.md 5.
pub const IN_FLIGHT_MAX: usize = 2;

/// The bounds of a [`Batcher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commands waiting, at most.
    pub queue_commands_max: usize,
    /// Encoded bytes waiting, at most.
    pub queue_bytes_max: usize,
}

impl Default for Limits {
    /// Eight seconds of a slow disk's work, and no more memory than a small manager has to spare.
    fn default() -> Self {
        Self { queue_commands_max: 8 * 1024, queue_bytes_max: 8 * 1024 * 1024 }
    }
}

/// Collects items of type `T`; an item is one caller's commands, kept together.
#[derive(Debug)]
pub struct Batcher<T> {
    limits: Limits,
    queue: VecDeque<Waiting<T>>,
    queued_commands: usize,
    queued_bytes: usize,
    /// Commands of each batch under way, oldest first.
    in_flight: VecDeque<usize>,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    commands: usize,
    bytes: usize,
}

impl<T> Batcher<T> {
    /// An idle batcher.
    pub fn new(limits: Limits) -> Self {
        Self { limits, queue: VecDeque::new(), queued_commands: 0, queued_bytes: 0, in_flight: VecDeque::new() }
    }

    /// Queues an item of so many commands and encoded bytes, or hands it back when the queue is full.
    /// An empty queue takes any item.
    pub fn offer(&mut self, item: T, commands: usize, bytes: usize) -> Result<(), T> {
        let full = self.queued_commands.saturating_add(commands) > self.limits.queue_commands_max
            || self.queued_bytes.saturating_add(bytes) > self.limits.queue_bytes_max;
        if full && !self.queue.is_empty() {
            return Err(item);
        }
        self.queued_commands = self.queued_commands.saturating_add(commands);
        self.queued_bytes = self.queued_bytes.saturating_add(bytes);
        self.queue.push_back(Waiting { item, commands, bytes });
        Ok(())
    }

    /// The next batch to propose now, if there is one. Call it after every [`offer`](Self::offer) and
    /// [`finished`](Self::finished), until it gives `None`.
    pub fn next_batch(&mut self) -> Option<Vec<T>> {
        if self.queue.is_empty() || self.in_flight.len() >= IN_FLIGHT_MAX {
            return None;
        }
        if let Some(&ahead) = self.in_flight.back()
            && self.queued_commands < ahead.min(BATCH_COMMANDS_MAX)
            && self.queued_bytes < BATCH_BYTES_MAX
        {
            return None;
        }
        let mut batch = Vec::new();
        let (mut commands, mut bytes) = (0usize, 0usize);
        while let Some(next) = self.queue.front() {
            let fits = commands.saturating_add(next.commands) <= BATCH_COMMANDS_MAX
                && bytes.saturating_add(next.bytes) <= BATCH_BYTES_MAX;
            if !fits && !batch.is_empty() {
                break;
            }
            commands = commands.saturating_add(next.commands);
            bytes = bytes.saturating_add(next.bytes);
            if let Some(taken) = self.queue.pop_front() {
                batch.push(taken.item);
            }
        }
        self.queued_commands = self.queued_commands.saturating_sub(commands);
        self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
        self.in_flight.push_back(commands);
        Some(batch)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether nothing waits and nothing is under way: what is offered now is the next batch, alone.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// The oldest batch under way came back, whatever its fate.
    pub fn finished(&mut self) {
        self.in_flight.pop_front();
    }

    /// Takes everything that waits, surely not proposed: the end.
    pub fn drain(&mut self) -> Vec<T> {
        self.queued_commands = 0;
        self.queued_bytes = 0;
        self.queue.drain(..).map(|waiting| waiting.item).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn batcher() -> Batcher<u32> {
        Batcher::new(Limits::default())
    }

    #[test]
    fn an_idle_batcher_proposes_at_once() {
        let mut b = batcher();
        assert!(b.is_idle() && b.is_empty());
        b.offer(1, 1, 10).unwrap();
        assert!(!b.is_idle() && !b.is_empty());
        assert_eq!(b.next_batch(), Some(vec![1]));
        assert!(!b.is_idle() && b.is_empty());
        assert_eq!(b.next_batch(), None);
        b.finished();
        assert!(b.is_idle());
    }

    #[test]
    fn a_crowd_collects_behind_a_large_batch() {
        let mut b = batcher();
        for i in 0..10 {
            b.offer(i, 1, 10).unwrap();
        }
        assert_eq!(b.next_batch().unwrap().len(), 10);
        for i in 10..19 {
            b.offer(i, 1, 10).unwrap();
            assert_eq!(b.next_batch(), None, "smaller than the batch ahead: it waits");
        }
        b.offer(19, 1, 10).unwrap();
        assert_eq!(b.next_batch().unwrap().len(), 10);
        b.offer(20, 300, 10).unwrap();
        assert_eq!(b.next_batch(), None, "two in flight is the most");
        b.finished();
        assert_eq!(b.next_batch(), Some(vec![20]), "an item is never cut, not even a large one");
    }

    #[test]
    fn what_waits_goes_when_the_batch_ahead_is_back() {
        let mut b = batcher();
        for i in 0..3 {
            b.offer(i, 1, 1).unwrap();
        }
        assert_eq!(b.next_batch().unwrap().len(), 3);
        b.offer(3, 1, 1).unwrap();
        assert_eq!(b.next_batch(), None);
        b.finished();
        assert_eq!(b.next_batch(), Some(vec![3]));
    }

    #[test]
    fn batches_end_at_256_commands_and_at_256_kib() {
        let mut b = batcher();
        for i in 0..300 {
            b.offer(i, 1, 1).unwrap();
        }
        assert_eq!(b.next_batch().unwrap().len(), 256);
        b.finished();
        assert_eq!(b.next_batch().unwrap().len(), 44);
        b.finished();
        for i in 0..5 {
            b.offer(i, 1, 100 * 1024).unwrap();
        }
        assert_eq!(b.next_batch().unwrap().len(), 2);
        assert_eq!(b.next_batch().unwrap().len(), 2, "full by bytes: no need to wait");
    }

    #[test]
    fn a_full_queue_hands_the_item_back() {
        let mut b = Batcher::new(Limits { queue_commands_max: 2, queue_bytes_max: 100 });
        b.offer(1, 1, 1).unwrap();
        b.offer(2, 1, 1).unwrap();
        assert_eq!(b.offer(3, 1, 1), Err(3));
        assert_eq!(b.next_batch(), Some(vec![1, 2]));
        b.offer(4, 1, 90).unwrap();
        assert_eq!(b.offer(5, 1, 11), Err(5));
        assert_eq!(b.drain(), vec![4]);
        b.offer(6, 2, 100).unwrap();
        assert_eq!(b.offer(7, 1, 1), Err(7), "what was drained counts no more, what waits does");
    }
}
