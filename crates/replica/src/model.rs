//! The simulator's replica: one thread, no clock of its own, no disk; the same seed gives the same run.
//!
//! What raft and a disk can do to a proposal is done here on command: it is written and synced or not, its answer is
//! lost, a crash forgets what was not synced, a follower reads late. [`ModelLog`] implements [`Handle`], so the shipped
//! code runs on it; the simulator holds the same object and drives it with [`ModelLog::step`].
//!
//! ```text
//! propose ──► queue ──write──► log ──sync──► synced ──apply──► state ──answer──► caller
//!                      crash: log is cut back to synced, or a little further; who waited gets Unknown
//! ```

use crate::group::{ChangeError, Group, GroupChange, Leadership};
use crate::handle::{AnswerError, Handle, ProposeError, RETRY_AFTER, ReadError};
use crate::issued::{Found, LogSince, Wanted};
use crate::{Fatal, issued};
use cluster::authorize::Presented;
use cluster::{Batch, Command, LogEntry, Outcome, State};
use pki::time::Time;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

pub mod group;

/// What goes wrong, in chances out of 1,000 at each step. The default is a healthy log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A committed proposal whose answer is lost: the caller gets [`ProposeError::Unknown`].
    pub lost_answer: u32,
    /// A proposal that is dropped with its answer: it never commits, and the caller gets [`ProposeError::Unknown`].
    pub lost_proposal: u32,
    /// A proposal that is refused before it is written.
    pub unavailable: u32,
    /// A step that does nothing.
    pub delay: u32,
}

/// What one [`ModelLog::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There was nothing to do.
    Idle,
    /// A fault: time passed and nothing else.
    Delayed,
    /// A batch of so many commands was written, synced and applied; the answers are out, or lost.
    Committed(usize),
    /// A batch of so many commands was lost before it was written.
    Lost(usize),
    /// A batch of so many commands was refused.
    Refused(usize),
}

/// A replica in memory. Clones share it.
#[derive(Clone)]
pub struct ModelLog {
    inner: Arc<Mutex<Inner>>,
    states: Arc<watch::Sender<Arc<State>>>,
    leadership: Arc<watch::Sender<Leadership>>,
    group: Arc<watch::Sender<Arc<Group>>>,
}

/// The raft id of the model: it is alone in its group.
const ALONE: u64 = 1;

struct Inner {
    /// Encoded batches, as they lie in the log: replay goes through the bytes, so a codec that loses something shows.
    log: Vec<Vec<u8>>,
    /// How many of them are applied; they are synced then.
    applied: usize,
    /// Written and synced, not applied: what a crash may leave behind.
    queue: VecDeque<Waiting>,
    issued: Vec<LogEntry>,
    now: Time,
    random: u64,
    faults: Faults,
    down: bool,
    generation: u64,
}

struct Waiting {
    commands: Vec<Command>,
    answer: oneshot::Sender<Result<Vec<Outcome>, ProposeError>>,
}

impl ModelLog {
    /// An empty log whose faults are drawn from this seed.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            log: Vec::new(),
            applied: 0,
            queue: VecDeque::new(),
            issued: Vec::new(),
            now: Time::default(),
            random: seed,
            faults: Faults::default(),
            down: false,
            generation: 0,
        };
        let group = Group { voters: BTreeSet::from([ALONE]), ..Group::default() };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            states: Arc::new(watch::Sender::new(Arc::new(State::empty()))),
            leadership: Arc::new(watch::Sender::new(Leadership { term: 1, leader: Some(ALONE), here: true })),
            group: Arc::new(watch::Sender::new(Arc::new(group))),
        }
    }

    /// A log with its first entry committed, as `Replica::create` makes it.
    pub fn create(seed: u64, now: Time, first: Command) -> Self {
        let log = Self::new(seed);
        log.set_time(now);
        let (answer, _) = oneshot::channel();
        log.lock().queue.push_back(Waiting { commands: vec![first], answer });
        log.step();
        log
    }

    /// The time that the leader stamps from now on.
    pub fn set_time(&self, now: Time) {
        self.lock().now = now;
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Whether this replica leads; one that does not refuses proposals and linearizable reads, and serves its last state.
    pub fn set_leading(&self, leading: bool) {
        self.leadership.send_if_modified(|now| {
            let term = now.term + u64::from(leading && !now.here);
            let next = Leadership { term, leader: leading.then_some(ALONE), here: leading };
            std::mem::replace(now, next) != next
        });
    }

    fn leads(&self) -> bool {
        self.leadership.borrow().here
    }

    /// Takes the proposals that wait, at most 256 commands, as one entry, and decides their fate.
    pub fn step(&self) -> Step {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if inner.down || inner.queue.is_empty() {
            return Step::Idle;
        }
        let faults = inner.faults;
        if inner.chance(faults.delay) {
            return Step::Delayed;
        }
        let mut batch: Vec<Waiting> = Vec::new();
        let mut commands = 0;
        while let Some(next) = inner.queue.front()
            && (batch.is_empty() || commands + next.commands.len() <= crate::batch::BATCH_COMMANDS_MAX)
        {
            commands += next.commands.len();
            batch.extend(inner.queue.pop_front());
        }
        if inner.chance(faults.unavailable) {
            for waiting in batch {
                // A caller that went away needs no answer; so below.
                let _ = waiting.answer.send(Err(ProposeError::Unavailable { retry_after: RETRY_AFTER }));
            }
            return Step::Refused(commands);
        }
        if inner.chance(faults.lost_proposal) {
            for waiting in batch {
                let _ = waiting.answer.send(Err(ProposeError::Unknown));
            }
            return Step::Lost(commands);
        }
        let bytes = inner.stamp(&batch);
        inner.log.push(bytes);
        let mut state = State::clone(&self.states.borrow());
        let outcomes = inner.apply_next(&mut state);
        self.states.send_replace(Arc::new(state));
        let mut outcomes = outcomes.into_iter();
        for waiting in batch {
            let own: Vec<Outcome> = outcomes.by_ref().take(waiting.commands.len()).collect();
            let lost = inner.chance(faults.lost_answer);
            let _ = waiting.answer.send(if lost { Err(ProposeError::Unknown) } else { Ok(own) });
        }
        Step::Committed(commands)
    }

    /// Steps until nothing waits. With faults that delay for ever it would not end: it stops after 10,000 steps.
    pub fn settle(&self) {
        for _ in 0..10_000 {
            if self.step() == Step::Idle {
                return;
            }
        }
    }

    /// The process dies. What waited is written or not, as the seed says, one by one from the front; all who wait get
    /// [`ProposeError::Unknown`]. Until [`reopen`](Self::reopen) the replica is down.
    pub fn crash(&self) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.down = true;
        let mut writing = true;
        while let Some(waiting) = inner.queue.pop_front() {
            writing = writing && inner.chance(500);
            if writing {
                let bytes = inner.stamp(std::slice::from_ref(&waiting));
                inner.log.push(bytes);
            }
            let _ = waiting.answer.send(Err(ProposeError::Unknown));
        }
    }

    /// The process starts again: the state is rebuilt from the log's bytes.
    pub fn reopen(&self) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.down = false;
        inner.generation += 1;
        inner.applied = 0;
        inner.issued.clear();
        let mut state = State::empty();
        while inner.applied < inner.log.len() {
            inner.apply_next(&mut state);
        }
        self.states.send_replace(Arc::new(state));
    }

    /// How often it was reopened.
    pub fn generation(&self) -> u64 {
        self.lock().generation
    }

    /// Proposals that wait.
    pub fn waiting(&self) -> usize {
        self.lock().queue.len()
    }

    /// Entries in the log.
    pub fn len(&self) -> usize {
        self.lock().log.len()
    }

    /// Whether nothing was ever committed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The issuance log as it was projected, at most `max` entries from a sequence number on.
    pub fn log_entries(&self, from: u64, max: usize) -> Vec<LogEntry> {
        let inner = self.lock();
        let begin = inner.issued.partition_point(|entry| entry.seq < from);
        inner.issued.iter().skip(begin).take(max).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(
        &self,
        commands: Vec<Command>,
    ) -> Result<oneshot::Receiver<Result<Vec<Outcome>, ProposeError>>, ProposeError> {
        let mut inner = self.lock();
        if inner.down {
            return Err(ProposeError::Fatal(Fatal::new("the model crashed")));
        }
        if !self.leads() {
            return Err(ProposeError::NoLeader);
        }
        let (answer, receiver) = oneshot::channel();
        inner.queue.push_back(Waiting { commands, answer });
        Ok(receiver)
    }
}

impl Inner {
    fn stamp(&self, batch: &[Waiting]) -> Vec<u8> {
        let commands = batch.iter().flat_map(|waiting| waiting.commands.iter().cloned()).collect();
        Batch { time: self.now, commands }.encode()
    }

    /// Applies the next entry of the log, from its bytes. An entry that cannot be read is skipped whole, and shows as
    /// missing outcomes.
    fn apply_next(&mut self, state: &mut State) -> Vec<Outcome> {
        let Some(bytes) = self.log.get(self.applied) else { return Vec::new() };
        self.applied += 1;
        let Ok(batch) = Batch::decode(bytes) else { return Vec::new() };
        let applied = state.apply(self.applied as u64, &batch);
        self.issued.extend(applied.issued);
        applied.outcomes
    }

    fn chance(&mut self, of_thousand: u32) -> bool {
        draw(&mut self.random) % 1000 < u64::from(of_thousand)
    }
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn draw(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Handle for ModelLog {
    async fn propose(&self, commands: Vec<Command>) -> Result<Vec<Outcome>, ProposeError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.enqueue(commands)?.await.unwrap_or(Err(ProposeError::Unknown))
    }

    fn state(&self) -> Arc<State> {
        self.states.borrow().clone()
    }

    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.states.subscribe()
    }

    async fn read(&self) -> Result<Arc<State>, ReadError> {
        let inner = self.lock();
        if inner.down {
            return Err(ReadError::Fatal(Fatal::new("the model crashed")));
        }
        if !self.leads() {
            return Err(ReadError::NoLeader);
        }
        Ok(self.state())
    }

    async fn find_issued(&self, wanted: &Wanted) -> Option<Vec<Found>> {
        let size = self.state().log_size();
        issued::find(wanted, size, |from, max| std::future::ready(Some(self.log_entries(from, max)))).await
    }

    async fn is_issued(&self, leaf: &Presented) -> Option<bool> {
        let size = self.state().log_size();
        issued::is_issued(leaf, size, |from, max| std::future::ready(Some(self.log_entries(from, max)))).await
    }

    async fn log_since(&self, before: u64, size: u64) -> Option<LogSince> {
        issued::since(&self.lock().issued, before, size)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn group(&self) -> watch::Receiver<Arc<Group>> {
        self.group.subscribe()
    }

    async fn change(&self, _: GroupChange) -> Result<(), ChangeError> {
        if !self.leads() {
            return Err(ChangeError::NotLeader);
        }
        Err(ChangeError::Impossible("the model stays alone".into()))
    }

    async fn answer(&self, from: u64, _: Vec<u8>) -> Result<Vec<u8>, AnswerError> {
        Err(AnswerError::Refused(format!("the model is alone: there is no member {from}")))
    }

    fn contact(&self) -> Option<Duration> {
        self.leads().then_some(Duration::ZERO)
    }

    fn raft_id(&self) -> u64 {
        ALONE
    }
}

#[cfg(test)]
mod tests;
