//! Proposing: stamps the time, packs callers' commands, hands them to raft, and gives each caller what came of its own.
//!
//! Whoever finds nobody before him hands his commands to raft himself: between a lone caller and the disk there is no task
//! that would have to be woken first. A crowd's commands are packed by the proposer, a task: its turn comes after those who are
//! about to propose too, so that fewer entries are written. Who was many a moment ago is taken for a crowd. Outcomes go from the state
//! machine straight to the callers.

use crate::ENTRY_BYTES_MAX;
use crate::batch;
use crate::batch::Batcher;
use crate::fatal::{Fatal, FatalFlag};
use crate::handle::{ProposeError, RETRY_AFTER};
use crate::published::Published;
use crate::raft::{Node, Progress, Reply};
use crate::replica::Clock;
use cluster::{Batch, Command, Outcome};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

type Answer = Result<Vec<Outcome>, ProposeError>;

/// One caller's commands.
struct Item {
    commands: Vec<Command>,
    answer: oneshot::Sender<Answer>,
}

/// The callers of a batch under way, and how many commands each of them had. Dropped, it tells them that the outcome is
/// unknown.
struct Ticket {
    number: u64,
    sizes: Vec<usize>,
    answers: Vec<oneshot::Sender<Answer>>,
}

/// Where callers leave their commands. Clones share it.
#[derive(Clone)]
pub(crate) struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    desk: Mutex<Desk>,
    wake: Notify,
    progress: Arc<Progress>,
    entries: AtomicU64,
    commands: AtomicU64,
}

struct Desk {
    /// `None` once it is closed.
    batcher: Option<Batcher<Item>>,
    under_way: VecDeque<Ticket>,
    next: u64,
    /// Callers in the last batch.
    last: usize,
}

/// A batch on its way to raft.
struct Packed {
    number: u64,
    commands: Vec<Command>,
}

impl Desk {
    fn is_crowd(&self) -> bool {
        self.last >= CROWD_MIN
    }

    /// The next batch to propose now, if there is one; its callers are noted.
    fn pack(&mut self) -> Option<Packed> {
        let items = self.batcher.as_mut()?.next_batch()?;
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let mut commands = Vec::new();
        let mut sizes = Vec::with_capacity(items.len());
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            // Its caller has given up waiting: surely not proposed.
            if item.answer.is_closed() {
                continue;
            }
            sizes.push(item.commands.len());
            if commands.is_empty() {
                commands = item.commands;
            } else {
                commands.extend(item.commands);
            }
            answers.push(item.answer);
        }
        self.last = answers.len();
        self.under_way.push_back(Ticket { number, sizes, answers });
        Some(Packed { number, commands })
    }

    /// Takes the callers of a batch that came back, whatever its fate.
    fn take(&mut self, number: u64) -> Option<Ticket> {
        let at = self.under_way.iter().position(|ticket| ticket.number == number)?;
        if let Some(batcher) = self.batcher.as_mut() {
            batcher.finished();
        }
        self.under_way.remove(at)
    }
}

impl Queue {
    pub(crate) fn new(limits: batch::Limits, progress: Arc<Progress>) -> Self {
        let batcher = Some(Batcher::new(limits));
        let desk = Mutex::new(Desk { batcher, under_way: VecDeque::new(), next: 0, last: 0 });
        let (entries, commands) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { inner: Arc::new(Inner { desk, wake: Notify::new(), progress, entries, commands }) }
    }

    /// Takes no more; what waits was surely not proposed.
    pub(crate) fn close(&self, why: Option<Fatal>) {
        let closed = self.lock().batcher.take();
        self.inner.wake.notify_one();
        for item in closed.into_iter().flat_map(|mut batcher| batcher.drain()) {
            // A caller that went away needs no answer; so below.
            let _ = item.answer.send(Err(match &why {
                Some(fatal) => ProposeError::Fatal(fatal.clone()),
                None => ProposeError::Unavailable { retry_after: RETRY_AFTER },
            }));
        }
    }

    /// Raft entries and commands handed to raft.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.inner.entries.load(Ordering::Relaxed), self.inner.commands.load(Ordering::Relaxed))
    }

    /// How much log there is that no snapshot covers.
    pub(crate) fn progress(&self) -> &Arc<Progress> {
        &self.inner.progress
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.inner.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch came back: its callers are answered, and the proposer is woken if there is something to do for it.
    fn finish(&self, number: u64, result: Option<Answer>) {
        let (ticket, idle) = {
            let mut desk = self.lock();
            let ticket = desk.take(number);
            (ticket, desk.batcher.as_ref().is_some_and(Batcher::is_empty))
        };
        if let Some(ticket) = ticket {
            ticket.answer(result);
        }
        if !idle {
            self.inner.wake.notify_one();
        }
    }
}

impl Ticket {
    fn answer(self, result: Option<Answer>) {
        match result {
            Some(Ok(outcomes)) if outcomes.len() == self.sizes.iter().sum::<usize>() => {
                let mut outcomes = outcomes.into_iter();
                for (size, answer) in self.sizes.into_iter().zip(self.answers) {
                    let _ = answer.send(Ok(outcomes.by_ref().take(size).collect()));
                }
            }
            // Fewer outcomes than commands: nobody knows whose is missing.
            Some(Ok(_)) | None => drop(self.answers),
            Some(Err(error)) => {
                for answer in self.answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Brings the outcome of one batch back. Dropped without one, nobody knows what became of it.
struct Return {
    queue: Queue,
    number: u64,
    done: bool,
}

impl Return {
    fn with(mut self, result: Answer) {
        self.done = true;
        self.queue.finish(self.number, Some(result));
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        if !self.done {
            self.queue.finish(self.number, None);
        }
    }
}

/// What it takes to propose. Clones share the queue.
#[derive(Clone)]
pub(crate) struct Proposer {
    pub(crate) queue: Queue,
    pub(crate) node: Node,
    pub(crate) clock: Clock,
    pub(crate) fatal: FatalFlag,
    pub(crate) states: Arc<Published>,
}

/// So many callers in a batch are a crowd.
const CROWD_MIN: usize = 4;

/// How long a member that does not lead waits until it has applied what the leader has.
const APPLIED_WITHIN: Duration = Duration::from_secs(5);

impl Proposer {
    /// The same for another member's, if this one leads.
    pub(crate) async fn propose_here(&self, commands: Vec<Command>) -> Answer {
        if self.node.leader() != Some(self.node.id()) {
            return Err(ProposeError::NoLeader);
        }
        self.propose(commands).await
    }

    /// Proposes one caller's commands, or brings them to the leader, and waits for what came of them.
    pub(crate) async fn propose(&self, commands: Vec<Command>) -> Answer {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = commands.iter().map(Command::encoded_len).fold(0usize, usize::saturating_add);
        if bytes > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, max: ENTRY_BYTES_MAX });
        }
        let (answer, receiver) = oneshot::channel();
        let count = commands.len();
        let own = {
            let mut desk = self.queue.lock();
            let crowd = desk.is_crowd();
            let Some(batcher) = desk.batcher.as_mut() else {
                return Err(match self.fatal.get() {
                    Some(fatal) => ProposeError::Fatal(fatal),
                    None => ProposeError::Unavailable { retry_after: RETRY_AFTER },
                });
            };
            let alone = batcher.is_idle() && !crowd;
            if batcher.offer(Item { commands, answer }, count, bytes).is_err() {
                return Err(ProposeError::Unavailable { retry_after: RETRY_AFTER });
            }
            // Only a batch of its own: a caller that gives up half-way takes nobody else's commands with it.
            if alone { desk.pack() } else { None }
        };
        match own {
            Some(batch) => self.submit(batch).await,
            None => self.queue.inner.wake.notify_one(),
        }
        receiver.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Stamps with the leader's own clock, as it is: what was signed is judged against it. That the cluster's time never goes
    /// back is the state's own rule.
    async fn submit(&self, packed: Packed) {
        let Packed { number, commands } = packed;
        let home = Return { queue: self.queue.clone(), number, done: false };
        self.queue.inner.entries.fetch_add(1, Ordering::Relaxed);
        self.queue.inner.commands.fetch_add(commands.len() as u64, Ordering::Relaxed);
        if let Some(leader) = self.node.leader().filter(|leader| *leader != self.node.id()) {
            let this = self.clone();
            tokio::spawn(async move { home.with(this.forward(leader, commands).await) });
            return;
        }
        let batch = Batch { time: (self.clock)(), commands };
        if let Err(fatal) = self.node.submit(batch, Reply::new(move |result| home.with(result))).await {
            self.fatal.raise(fatal);
        }
    }

    /// Has the leader propose these, and waits until they are applied here.
    async fn forward(&self, leader: u64, commands: Vec<Command>) -> Answer {
        let done = self.node.propose_at(leader, commands).await?;
        if self.applied(done.index).await { Ok(done.outcomes) } else { Err(ProposeError::Unknown) }
    }

    /// Waits until this state, or a newer one, is there.
    pub(crate) async fn applied(&self, index: u64) -> bool {
        tokio::time::timeout(APPLIED_WITHIN, self.states.has(index)).await.unwrap_or(false)
    }

    /// Makes room in the log behind a snapshot. Others may be a little behind: what the snapshot before covers is enough to
    /// go then, but for root keys that were given up.
    async fn purge(&self, covered: u64, before: u64) {
        let all = self.node.is_alone() || self.queue.inner.progress.has_to_forget();
        match if all { covered } else { before } {
            0 => {}
            upto => self.node.purge(upto).await,
        }
    }

    /// Runs until the queue is closed and what was under way is answered, or the replica stopped for good.
    pub(crate) async fn run(self) {
        let progress = self.queue.progress().clone();
        let mut snapshots = self.node.snapshots();
        let mut stopped = std::pin::pin!(self.fatal.wait());
        loop {
            loop {
                if self.queue.lock().is_crowd() {
                    // Whoever has a certificate nearly ready comes along.
                    tokio::task::yield_now().await;
                }
                let packed = self.queue.lock().pack();
                let Some(packed) = packed else { break };
                self.submit(packed).await;
            }
            {
                let desk = self.queue.lock();
                if desk.batcher.is_none() && desk.under_way.is_empty() {
                    return;
                }
            }
            tokio::select! {
                biased;
                fatal = &mut stopped => {
                    self.queue.close(Some(fatal));
                    // What is under way stays unknown: its callers see their channel drop.
                    let lost = std::mem::take(&mut self.queue.lock().under_way);
                    drop(lost);
                    return;
                }
                () = self.queue.inner.wake.notified() => {}
                () = progress.due() => self.node.snapshot().await,
                (covered, before) = snapshots.next() => self.purge(covered, before).await,
            }
        }
    }
}
