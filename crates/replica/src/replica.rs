//! The product's replica: one member of the raft group, its store, and the task that proposes.

use crate::carrier::Carrier;
use crate::disk::{Local, Medium};
use crate::fatal::{Fatal, FatalFlag};
use crate::group::{ChangeError, Group, GroupChange, Leadership};
use crate::handle::{AnswerError, Handle, ProposeError, ReadError};
use crate::issued::{self, Found, LogSince, Wanted};
use crate::propose::{Proposer, Queue};
use crate::published::Published;
use crate::raft::{self, Heard, Node, Progress, Start, StartError};
use crate::seal::{DataKey, Scope};
use crate::store::{FIRST_MEMBER, Fault, Store, StoreError, Verified};
use crate::{backfill, batch};
use cluster::authorize::Presented;
use cluster::log::Hash;
use cluster::{Batch, Command, LogEntry, Outcome, State};
use pki::identity::ClusterId;
use pki::secret::SecretBytes;
use pki::time::Time;
use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Tells the time; the leader stamps batches with it.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// How a replica is opened.
pub struct Config {
    /// The directory that holds it, `<state>/raft`; made when missing, 0700.
    pub dir: PathBuf,
    /// The data key, 32 bytes.
    pub dek: SecretBytes,
    /// The clock.
    pub clock: Clock,
    /// The way to the other members; [`Alone`](crate::carrier::Alone) when there are none.
    pub carrier: Arc<dyn Carrier>,
    /// Bounds; the default is what the product uses.
    pub limits: Limits,
}

/// Bounds of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// What may wait to be proposed.
    pub batch: batch::Limits,
    /// Entries that no snapshot covers, at most: then one is written.
    pub snapshot_entries: u64,
    /// Bytes of entries that no snapshot covers: one is written when there are more than this and more than the state's own size.
    pub snapshot_log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batch: batch::Limits::default(), snapshot_entries: 10_000, snapshot_log_bytes: 4 * 1024 * 1024 }
    }
}

/// What was counted since the replica was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Frames of the log.
    pub commits: u64,
    /// Syncs of the store's files.
    pub syncs: u64,
    /// Raft entries proposed here.
    pub entries: u64,
    /// Commands in them.
    pub commands: u64,
}

/// Why a replica could not be made or opened. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not 32 bytes.
    #[error("the data key has {0} bytes instead of 32: the node key file is damaged")]
    DataKey(usize),
    /// The first command made no cluster.
    #[error("the first command was refused: {0:?}")]
    Refused(Option<Outcome>),
    /// The state that was rebuilt is not this cluster's.
    #[error("{} holds the state of another cluster than its header says; restore a backup", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// Raft did not start, or its disk failed while it did.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Why a store could not be put under another data key.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// Not 32 bytes.
    #[error("the data key has {0} bytes instead of 32")]
    DataKey(usize),
    /// The new files could not be written: the store goes on under the present key.
    #[error("{0}")]
    Failed(String),
    /// The replica has stopped: the next start finds out which of the two keys it is.
    #[error("the replica has stopped")]
    Stopped,
}

/// One member of the group. Clones share it. Dropping the last one ends it as a crash would, and loses nothing;
/// [`shutdown`](Self::shutdown) ends it in order.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    proposer: Proposer,
    states: Arc<Published>,
    fatal: FatalFlag,
    store: Mutex<Option<Store>>,
    /// The proposer's task.
    packing: Mutex<Option<JoinHandle<()>>>,
    /// What fills gaps in the issuance log.
    filling: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.proposer.queue.close(self.fatal.get());
        // Nobody is left who waits for them.
        self.proposer.node.ending();
        self.filling.abort();
        if let Some(packing) = self.packing.get_mut().unwrap_or_else(PoisonError::into_inner) {
            packing.abort();
        }
    }
}

impl Replica {
    /// Makes a cluster: its first entry is `first`, which must be the bootstrap. When it fails there is
    /// no store: what lies in the directory then is replaced by the next attempt.
    pub async fn create(config: Config, first: Command) -> Result<Self, OpenError> {
        Self::create_on(&Local, config, first).await
    }

    /// Opens what [`create`](Self::create) made and whatever was committed since: the state is rebuilt from the last
    /// snapshot and the log before this returns.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_on(&Local, config).await
    }

    /// Makes an empty member with this raft id (above 1), which waits for its leader to tell it everything. The leader adds it
    /// by [`GroupChange::AddLearner`]. A member that was made is opened by [`open`](Self::open) from then on.
    pub async fn join(config: Config, member: u64, cluster: ClusterId, epoch: u64) -> Result<Self, OpenError> {
        Self::join_on(&Local, config, member, cluster, epoch).await
    }

    pub(crate) async fn join_on<M: Medium>(
        medium: &M,
        config: Config,
        member: u64,
        cluster: ClusterId,
        epoch: u64,
    ) -> Result<Self, OpenError> {
        let data_key = data_key(&config.dek)?;
        let scope = Scope { cluster: cluster.as_str().to_owned(), epoch };
        let store = Store::create(medium, &config.dir, scope, member, &data_key)?.finish()?;
        Self::start(member, store, false, &config).await
    }

    pub(crate) async fn create_on<M: Medium>(medium: &M, config: Config, first: Command) -> Result<Self, OpenError> {
        let data_key = data_key(&config.dek)?;
        let mut trial = State::empty();
        let batch = Batch { time: (config.clock)(), commands: vec![first.clone()] };
        let applied = trial.apply(1, &batch);
        let Some(cluster) = trial.cluster_id() else {
            return Err(OpenError::Refused(applied.outcomes.into_iter().next()));
        };
        let scope = Scope { cluster: cluster.as_str().to_owned(), epoch: trial.epoch() };
        let unfinished = Store::create(medium, &config.dir, scope, FIRST_MEMBER, &data_key)?;
        let replica = Self::start(FIRST_MEMBER, unfinished.store().clone(), true, &config).await?;
        let error = match replica.propose(vec![first]).await {
            Ok(_) if replica.state().cluster_id().is_some() => {
                unfinished.finish()?;
                return Ok(replica);
            }
            Ok(outcomes) => OpenError::Refused(outcomes.into_iter().next()),
            Err(ProposeError::Fatal(fatal)) => fatal.into(),
            Err(error) => Fatal::new(format!("the first entry was not committed: {error}")).into(),
        };
        drop(unfinished);
        replica.shutdown().await;
        Err(error)
    }

    pub(crate) async fn open_on<M: Medium>(medium: &M, config: Config) -> Result<Self, OpenError> {
        let data_key = data_key(&config.dek)?;
        let (store, header) = Store::open(medium, &config.dir, &data_key)?;
        let replica = Self::start(header.member, store, false, &config).await?;
        let state = replica.state();
        // A member that is not alone may know nothing yet.
        if state.cluster_id().is_some_and(|id| id.as_str() != header.cluster) {
            return Err(OpenError::Foreign { path: config.dir });
        }
        Ok(replica)
    }

    async fn start(member: u64, store: Store, found: bool, config: &Config) -> Result<Self, OpenError> {
        let (states, telling) = Published::new();
        tokio::spawn(telling);
        let Limits { batch, snapshot_entries, snapshot_log_bytes } = config.limits;
        let progress = Arc::new(Progress::new(snapshot_entries, snapshot_log_bytes));
        let fatal = store.fatal().clone();
        let start = Start {
            id: member,
            found,
            store: store.clone(),
            states: states.clone(),
            progress: progress.clone(),
            carrier: config.carrier.clone(),
        };
        let node = Node::start(start).await.map_err(|error| match (fatal.get(), error) {
            (Some(fatal), _) | (None, StartError::Fatal(fatal)) => OpenError::Fatal(fatal),
            (None, StartError::Store(error)) => OpenError::Store(error),
        })?;
        let queue = Queue::new(batch, progress);
        let clock = config.clock.clone();
        let proposer = Proposer { queue, node, clock, fatal: fatal.clone(), states: states.clone() };
        let packed = fatal.clone().watch_over("the proposer", proposer.clone().run());
        let filled =
            fatal.clone().watch_over("completing the issuance log", backfill::run(proposer.clone(), store.clone()));
        let (packing, filling) = (Mutex::new(Some(tokio::spawn(packed))), tokio::spawn(filled));
        let inner = Inner { proposer, states, fatal, store: Mutex::new(Some(store)), packing, filling };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Ends in order: no new proposals, answers for those under way, everything on disk, the files closed.
    /// The handles that are left refuse proposals and serve the last state.
    pub async fn shutdown(&self) {
        self.inner.proposer.queue.close(self.inner.fatal.get());
        self.inner.filling.abort();
        let packing = self.inner.packing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut packing) = packing {
            // What a leader without followers has under way may never come back: raft ends it.
            let packed = tokio::time::timeout(CLOSE_WITHIN, &mut packing).await;
            self.inner.proposer.node.stop().await;
            let packed = match packed {
                Ok(packed) => packed,
                Err(_) => packing.await,
            };
            if let Err(error) = packed {
                tracing::error!(%error, "the proposer failed");
            }
        }
        let store = self.inner.store.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(store) = store {
            let (sender, receiver) = oneshot::channel();
            store.flush(Box::new(move |result| drop(sender.send(result))));
            // A failure raised the flag already.
            let _ = receiver.await;
            store.closed(CLOSE_WITHIN).await;
        }
    }

    /// Waits until the replica stopped for good, for ever if it does not. The process must end then.
    pub fn fatal(&self) -> impl Future<Output = Fatal> + Send + 'static {
        let fatal = self.inner.fatal.clone();
        async move { fatal.wait().await }
    }

    /// Waits until no root key that the state of now has let go of is left in the log or the snapshot on disk. It takes a
    /// few syncs after the entry that let it go; if the replica stops before, it never comes.
    pub fn forgotten(&self) -> impl Future<Output = ()> + Send + 'static {
        let progress = self.inner.proposer.queue.progress().clone();
        async move { progress.forgotten().await }
    }

    /// Puts the whole store under another data key, in other files, and returns when nothing is left of the present ones. It takes the time of writing
    /// it all, and nothing is committed here meanwhile. A crash leaves a store that opens with one of the two keys.
    ///
    /// # Errors
    /// Then the store goes on under the present key, unless the replica has [stopped](ResealError::Stopped).
    pub async fn reseal(&self, dek: SecretBytes) -> Result<(), ResealError> {
        let data_key = DataKey::from_slice(dek.expose()).ok_or(ResealError::DataKey(dek.expose().len()))?;
        let store = self.store().ok_or(ResealError::Stopped)?;
        let (sender, receiver) = oneshot::channel();
        store.exchange(data_key, Box::new(move |result| drop(sender.send(result))));
        drop(store);
        match receiver.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if self.inner.fatal.get().is_none() => Err(ResealError::Failed(error.to_string())),
            Ok(Err(_)) | Err(_) => Err(ResealError::Stopped),
        }
    }

    /// Counters since it was opened.
    pub fn metrics(&self) -> Metrics {
        let (entries, commands) = self.inner.proposer.queue.counts();
        let counts = self.store().map(|store| store.counts()).unwrap_or_default();
        Metrics { commits: counts.commits, syncs: counts.syncs, entries, commands }
    }

    /// The issuance log as projected here, at most `max` entries from a sequence number on, without a gap between them: where
    /// entries are [missing](Self::missing) it ends before them, or begins after them. Causes no sync.
    pub async fn log_entries(&self, from: u64, max: usize) -> Result<Vec<LogEntry>, OpenError> {
        let mut entries = self.projected(from, max).await?;
        let first = entries.first().map_or(0, |entry| entry.seq);
        let whole = entries.iter().zip(first..).take_while(|(entry, seq)| entry.seq == *seq).count();
        entries.truncate(whole);
        Ok(entries)
    }

    /// The first sequence numbers of the issuance log that are not here: a member that was far behind was sent the state, and
    /// not how it came to be.
    pub async fn missing(&self) -> Result<Option<Range<u64>>, OpenError> {
        let size = self.state().log_size();
        Ok(self.settled().await?.missing(size)?)
    }

    /// The path from an entry to the root of the tree over the first `size` (RFC 9162, 2.1.3); none: there is no such entry.
    ///
    /// # Errors
    /// If the log cannot be read, or is not whole here yet.
    pub async fn inclusion(&self, seq: u64, size: u64) -> Result<Option<Vec<Hash>>, OpenError> {
        let store = self.settled().await?;
        off_thread(move || Ok(store.inclusion(seq, size)?)).await
    }

    /// What shows that the first `before` entries are the beginning of the first `size` (RFC 9162, 2.1.4); none: they are more.
    ///
    /// # Errors
    /// If the log cannot be read, or is not whole here yet.
    pub async fn consistency(&self, before: u64, size: u64) -> Result<Option<Vec<Hash>>, OpenError> {
        let store = self.settled().await?;
        off_thread(move || Ok(store.consistency(before, size)?)).await
    }

    /// The root of the tree over the first `size` entries, from the log itself.
    ///
    /// # Errors
    /// If the log cannot be read, or is not whole here yet.
    pub async fn root_at(&self, size: u64) -> Result<Hash, OpenError> {
        let store = self.settled().await?;
        off_thread(move || Ok(store.root(size)?)).await
    }

    /// Reads the whole log, and compares it with the head in the state of now: the first thing that is wrong with it, if anything is.
    ///
    /// # Errors
    /// If nothing could be read.
    pub async fn verify_log(&self) -> Result<Result<Verified, Fault>, OpenError> {
        // The state before the log: what is settled is all of it, and more.
        let state = self.state();
        let store = self.settled().await?;
        off_thread(move || Ok(store.verify(&state.log, state.log_erased))).await
    }

    async fn projected(&self, from: u64, max: usize) -> Result<Vec<LogEntry>, OpenError> {
        let store = self.settled().await?;
        off_thread(move || Ok(store.issued(from, max)?)).await
    }

    /// The store, when everything that was issued so far can be read from it.
    async fn settled(&self) -> Result<Store, OpenError> {
        let Some(store) = self.store() else { return Err(Fatal::new("the replica is shut down").into()) };
        let (sender, receiver) = oneshot::channel();
        store.settle(Box::new(move |result| drop(sender.send(result))));
        if !matches!(receiver.await, Ok(Ok(()))) {
            return Err(self.inner.fatal.get().unwrap_or_else(|| Fatal::new("the store is closed")).into());
        }
        Ok(store)
    }

    fn store(&self) -> Option<Store> {
        self.inner.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Handle for Replica {
    async fn propose(&self, commands: Vec<Command>) -> Result<Vec<Outcome>, ProposeError> {
        crate::forward::propose(&self.inner.proposer, commands).await
    }

    fn state(&self) -> Arc<State> {
        self.inner.states.state()
    }

    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.inner.states.watch()
    }

    async fn read(&self) -> Result<Arc<State>, ReadError> {
        crate::forward::read(&self.inner.proposer).await?;
        Ok(self.state())
    }

    async fn find_issued(&self, wanted: &Wanted) -> Option<Vec<Found>> {
        let size = self.state().log_size();
        issued::find(wanted, size, |from, max| async move { self.projected(from, max).await.ok() }).await
    }

    async fn is_issued(&self, leaf: &Presented) -> Option<bool> {
        let size = self.state().log_size();
        issued::is_issued(leaf, size, |from, max| async move { self.projected(from, max).await.ok() }).await
    }

    async fn log_since(&self, before: u64, size: u64) -> Option<LogSince> {
        let path = self.consistency(before, size).await.ok()??;
        Some(LogSince { root: self.root_at(before).await.ok()?, path })
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.proposer.node.leadership()
    }

    fn group(&self) -> watch::Receiver<Arc<Group>> {
        self.inner.proposer.node.group()
    }

    async fn change(&self, change: GroupChange) -> Result<(), ChangeError> {
        if let Some(fatal) = self.inner.fatal.get() {
            return Err(fatal.into());
        }
        self.inner.proposer.node.change(change).await
    }

    async fn answer(&self, from: u64, question: Vec<u8>) -> Result<Vec<u8>, AnswerError> {
        if let Some(fatal) = self.inner.fatal.get() {
            return Err(fatal.into());
        }
        let proposer = &self.inner.proposer;
        Ok(match proposer.node.hear(from, question).await? {
            Heard::Answered(answer) => answer,
            Heard::Propose(commands) => {
                let result = proposer.propose_here(commands).await;
                raft::proposed(&result, self.state().index)
            }
            Heard::Issued(range) => {
                let max = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX).min(ISSUED_MAX);
                let entries = self.log_entries(range.start, max).await;
                let entries = entries.map_err(|error| AnswerError::Refused(error.to_string()))?;
                let here = entries.into_iter().zip(range).take_while(|(entry, seq)| entry.seq == *seq);
                raft::issued(here.map(|(entry, _)| entry).collect())
            }
            Heard::Read => raft::read_at(&proposer.node.confirm().await.map(|()| self.state().index)),
        })
    }

    fn contact(&self) -> Option<Duration> {
        self.inner.proposer.node.contact()
    }

    fn raft_id(&self) -> u64 {
        self.inner.proposer.node.id()
    }
}

/// Entries of the issuance log that another member gets at once, at most.
const ISSUED_MAX: usize = 1024;
/// How long closing waits for readers of the store to let go of it.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fatal::new(error.to_string()).into()))
}

pub(crate) fn data_key(dek: &SecretBytes) -> Result<DataKey, OpenError> {
    DataKey::from_slice(dek.expose()).ok_or(OpenError::DataKey(dek.expose().len()))
}

#[cfg(test)]
mod anew;
#[cfg(test)]
mod group;
#[cfg(test)]
mod net;
#[cfg(test)]
mod tests;
