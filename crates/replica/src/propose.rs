//! The proposer: the one task that stamps the time, packs callers' commands and hands them to raft.

use crate::ENTRY_BYTES_MAX;
use crate::batch::{self, Batcher};
use crate::fatal::{Fatal, FatalFlag};
use crate::handle::{ProposeError, RETRY_AFTER};
use crate::raft::{Node, Progress};
use crate::replica::{Clock, Limits};
use cluster::{Batch, Command, Outcome};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

type Answer = Result<Vec<Outcome>, ProposeError>;

/// One caller's commands.
struct Item {
    commands: Vec<Command>,
    answer: oneshot::Sender<Answer>,
}

/// Where callers leave their commands. Clones share it.
#[derive(Clone)]
pub(crate) struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` once it is closed.
    batcher: Mutex<Option<Batcher<Item>>>,
    wake: Notify,
    entries: AtomicU64,
    commands: AtomicU64,
}

impl Queue {
    pub(crate) fn new(limits: batch::Limits) -> Self {
        let batcher = Mutex::new(Some(Batcher::new(limits)));
        let inner = Inner { batcher, wake: Notify::new(), entries: AtomicU64::new(0), commands: AtomicU64::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// Leaves commands and waits for what came of them.
    pub(crate) async fn propose(&self, commands: Vec<Command>, fatal: &FatalFlag) -> Answer {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = commands.iter().map(Command::encoded_len).fold(0usize, usize::saturating_add);
        if bytes > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes, max: ENTRY_BYTES_MAX });
        }
        let (answer, receiver) = oneshot::channel();
        let count = commands.len();
        {
            let mut batcher = self.lock();
            let Some(batcher) = batcher.as_mut() else {
                return Err(match fatal.get() {
                    Some(fatal) => ProposeError::Fatal(fatal),
                    None => ProposeError::Unavailable { retry_after: RETRY_AFTER },
                });
            };
            if batcher.offer(Item { commands, answer }, count, bytes).is_err() {
                return Err(ProposeError::Unavailable { retry_after: RETRY_AFTER });
            }
        }
        self.inner.wake.notify_one();
        receiver.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Takes no more; what waits was surely not proposed.
    pub(crate) fn close(&self, why: Option<Fatal>) {
        let closed = self.lock().take();
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

    fn next_batch(&self) -> Option<Vec<Item>> {
        self.lock().as_mut()?.next_batch()
    }

    fn finished(&self) {
        if let Some(batcher) = self.lock().as_mut() {
            batcher.finished();
        }
    }

    fn is_closed(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Batcher<Item>>> {
        self.inner.batcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the proposer works with.
pub(crate) struct Proposer {
    pub(crate) queue: Queue,
    pub(crate) node: Node,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) progress: Arc<Progress>,
    pub(crate) fatal: FatalFlag,
}

impl Proposer {
    /// Runs until the queue is closed and what was under way is answered, or the replica stopped for good.
    pub(crate) async fn run(self) {
        let mut under_way = FuturesOrdered::new();
        let fatal = self.fatal.clone();
        let mut stopped = std::pin::pin!(fatal.wait());
        loop {
            while let Some(items) = self.queue.next_batch() {
                let (counts, answers) = self.split(items);
                let submitted = self.node.submit(counts.batch).await;
                let sizes = counts.sizes;
                under_way.push_back(async move {
                    let result = match submitted {
                        Ok(submitted) => submitted.outcomes().await,
                        Err(error) => Err(error),
                    };
                    (sizes, answers, result)
                });
            }
            if self.queue.is_closed() && under_way.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                fatal = &mut stopped => {
                    // What is under way stays unknown: its callers see their channel drop.
                    self.queue.close(Some(fatal));
                    return;
                }
                Some((sizes, answers, result)) = under_way.next() => {
                    self.queue.finished();
                    if let Err(ProposeError::Fatal(fatal)) = &result {
                        self.fatal.raise(fatal.clone());
                    }
                    answer(sizes, answers, result);
                    if self.progress.due(self.limits.snapshot_entries, self.limits.snapshot_log_bytes) {
                        self.node.snapshot().await;
                    }
                }
                () = self.queue.inner.wake.notified() => {}
            }
        }
    }

    /// Stamps with the leader's own clock, as it is: what was signed is judged against it. That the cluster's time never goes
    /// back is the state's own rule.
    fn split(&self, items: Vec<Item>) -> (Packed, Vec<oneshot::Sender<Answer>>) {
        let mut commands = Vec::new();
        let mut sizes = Vec::with_capacity(items.len());
        let mut answers = Vec::with_capacity(items.len());
        for item in items {
            sizes.push(item.commands.len());
            commands.extend(item.commands);
            answers.push(item.answer);
        }
        self.queue.inner.entries.fetch_add(1, Ordering::Relaxed);
        self.queue.inner.commands.fetch_add(commands.len() as u64, Ordering::Relaxed);
        (Packed { batch: Batch { time: (self.clock)(), commands }, sizes }, answers)
    }
}

struct Packed {
    batch: Batch,
    sizes: Vec<usize>,
}

fn answer(sizes: Vec<usize>, answers: Vec<oneshot::Sender<Answer>>, result: Answer) {
    match result {
        Ok(outcomes) if outcomes.len() == sizes.iter().sum::<usize>() => {
            let mut outcomes = outcomes.into_iter();
            for (size, answer) in sizes.into_iter().zip(answers) {
                let _ = answer.send(Ok(outcomes.by_ref().take(size).collect()));
            }
        }
        // Fewer outcomes than commands: nobody knows whose is missing.
        Ok(_) | Err(ProposeError::Fatal(_)) => {
            for answer in answers {
                let _ = answer.send(Err(ProposeError::Unknown));
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
