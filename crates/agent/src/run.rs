//! The shell around the machine: carries out its effects, keeps its timers, publishes what changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mtls::{NotTaken, RevokedSet};
use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::identity::Role;
use pki::join_token::JoinToken;
use pki::key::PrivateKey;
use pki::time::Time;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use wire::node::News;

use crate::config::{Availability, Config, Description};
use crate::connect::{As, dial};
use crate::error::JoinError;
use crate::join::{ask_clock, fetch_root};
use crate::news::{self, NewsError};
use crate::plan::{Effect, Failure, FailureKind, Input, Plan, Timer};
use crate::renew::{Asking, local};
use crate::session::{Ask, Opening, describe, hold};
use crate::status::Status;
use crate::witness::{Fork, Heard, Witness};

/// How often the description of this machine is looked at anew. Source: wire.md 6.4.
const DESCRIBE_EVERY: Duration = Duration::from_secs(20);

/// What ends a drive of the machine.
pub(crate) enum Outcome {
    Joined,
    JoinFailed(JoinError),
    Removed(String),
}

/// The identity in use, for when its trust bundle changes.
pub(crate) struct Held {
    pub(crate) chain: Vec<Certificate>,
    pub(crate) key: Arc<PrivateKey>,
}

/// The session's task, and what it reported of the machine.
pub(crate) struct Running {
    number: u64,
    asks: mpsc::UnboundedSender<Ask>,
    task: AbortHandle,
    reported: Description,
    /// When to look whether that still holds.
    look_at: Instant,
}

/// The machine with its hands.
pub(crate) struct Runner {
    pub(crate) plan: Plan,
    pub(crate) config: Config,
    pub(crate) publisher: mtls::Publisher,
    pub(crate) live: mtls::Live,
    pub(crate) held: Option<Held>,
    pub(crate) trust: Option<TrustBundle>,
    pub(crate) token: Option<JoinToken>,
    pub(crate) availability: Availability,
    pub(crate) tell: mpsc::UnboundedSender<Input>,
    pub(crate) told: mpsc::UnboundedReceiver<Input>,
    /// The messages and the end of a session, in their order. Bounded, as a manager decides how much and how often it sends;
    /// all else here answers what the machine itself asked.
    pub(crate) session_tell: mpsc::Sender<Input>,
    pub(crate) session_told: mpsc::Receiver<Input>,
    /// What managers tell every node, in its order.
    pub(crate) news_tell: mpsc::Sender<News>,
    pub(crate) news_told: mpsc::Receiver<News>,
    /// What this node keeps of the issuance log, and shows to managers.
    pub(crate) witness: Arc<Witness>,
    pub(crate) shown: Arc<news::Shown>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) timers: BTreeMap<Timer, Instant>,
    pub(crate) asking: Option<Asking>,
    pub(crate) session: Option<Running>,
    /// Everything under way; aborted when the runner is dropped.
    pub(crate) tasks: JoinSet<()>,
}

impl Runner {
    /// Feeds one input to the machine, and whatever follows from it at once.
    pub(crate) async fn feed(&mut self, input: Input) -> Option<Outcome> {
        let mut inputs = VecDeque::from([input]);
        let mut outcome = None;
        while let Some(input) = inputs.pop_front() {
            let now = (self.config.clock)();
            let effects = self.plan.step(now, input);
            for effect in effects {
                match effect {
                    Effect::Joined => outcome = Some(Outcome::Joined),
                    Effect::JoinFailed(error) => outcome = Some(Outcome::JoinFailed(error)),
                    Effect::Removed { text } => outcome = Some(Outcome::Removed(text)),
                    effect => inputs.extend(self.perform(effect).await),
                }
            }
            self.publish_status();
        }
        outcome
    }

    /// Waits for what comes next: a word from a task, a timer, or another description of this machine.
    pub(crate) async fn next(&mut self) -> Input {
        loop {
            if let Some(input) = self.wait().await {
                return input;
            }
        }
    }

    async fn wait(&mut self) -> Option<Input> {
        while let Some(ended) = self.tasks.try_join_next() {
            // What it was to bring would be waited for in vain.
            if let Err(error) = ended
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        }
        let first = self.timers.iter().min_by_key(|(_, at)| **at).map(|(timer, at)| (*timer, *at));
        let timer = async {
            match first {
                Some((_, at)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let look_at = self.session.as_ref().map(|running| running.look_at);
        let look = async {
            match look_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // The runner holds a sender itself, so this never ends.
            input = self.told.recv() => input,
            input = self.session_told.recv() => input,
            news = self.news_told.recv() => {
                self.hear(news?).await;
                None
            }
            () = timer => {
                let (timer, _) = first?;
                self.timers.remove(&timer);
                Some(Input::Timer(timer))
            }
            () = look => self.look(),
        }
    }

    /// Whether what the session reported of this machine still holds (wire.md 6.4).
    fn look(&mut self) -> Option<Input> {
        let running = self.session.as_mut()?;
        running.look_at = Instant::now() + DESCRIBE_EVERY;
        (running.reported != (self.config.describe)()).then_some(Input::Redescribe)
    }

    /// Carries out one effect; an answer that must come before anything else is returned.
    async fn perform(&mut self, effect: Effect) -> Option<Input> {
        let marked = self.config.can_manage;
        let at = self.plan.effective((self.config.clock)());
        match effect {
            Effect::Start(timer, delay) => {
                self.timers.insert(timer, Instant::now() + delay);
            }
            Effect::Stop(timer) => {
                self.timers.remove(&timer);
            }
            Effect::FetchRoot { peer } => {
                self.spawn(async move { Some(Input::Root(fetch_root(&peer, marked, at).await)) });
            }
            Effect::SaveTrust(bundle) => return Some(Input::TrustSaved(self.save_trust(bundle, at).await)),
            Effect::Issue { request, peer, caller } => {
                let asking = match self.asking(request) {
                    Ok(asking) => asking,
                    Err(failure) => {
                        return Some(Input::Issued { request, result: Err(failure) });
                    }
                };
                let token = self.token.as_ref().map(JoinToken::duplicate);
                let availability = self.availability;
                self.spawn(async move {
                    let result = asking.issue(&peer, caller, token.as_ref(), availability, at).await;
                    Some(Input::Issued { request, result })
                });
            }
            Effect::Poll { request, peer, caller, node } => {
                if let Ok(asking) = self.asking(request) {
                    self.spawn(async move {
                        let result = asking.poll(&peer, caller, node, at).await;
                        Some(Input::Answered { request, result })
                    });
                }
            }
            Effect::FetchUnlockKey { request, peer, chain, trust } => {
                if let Ok(asking) = self.asking(request) {
                    self.spawn(async move {
                        let result = asking.fetch_unlock_key(&peer, chain, trust, at).await;
                        Some(Input::Unlocked { request, result })
                    });
                }
            }
            Effect::Install { request, chain, role, at } => {
                let result = self.install(request, chain, role, at).await;
                return Some(Input::Installed { request, result });
            }
            Effect::Forget { request } => {
                if self.asking.as_ref().is_some_and(|asking| asking.number == request) {
                    self.asking = None;
                }
            }
            Effect::OpenSession { session, peer, session_id, tls } => {
                let (asks, rx) = mpsc::unbounded_channel();
                let config = &self.config;
                let reported = (config.describe)();
                let task = self.tasks.spawn(hold(Opening {
                    number: session,
                    peer,
                    session_id,
                    description: describe(&reported, tls, config.fips, config.can_manage),
                    live: self.live.clone(),
                    at,
                    clock: config.clock.clone(),
                    floor: self.plan.floor(),
                    told: self.tell.clone(),
                    messages: self.session_tell.clone(),
                    asks: rx,
                    news: self.news_tell.clone(),
                    shown: self.shown.clone(),
                }));
                let look_at = Instant::now() + DESCRIBE_EVERY;
                self.session = Some(Running { number: session, asks, task, reported, look_at });
            }
            Effect::CloseSession { session } => {
                if let Some(running) = &self.session
                    && running.number == session
                {
                    running.task.abort();
                    self.session = None;
                }
            }
            Effect::Beat { session, session_id } => {
                self.ask(session, Ask::Beat { session_id, floor: self.plan.floor() })
            }
            Effect::AskClock { session } => self.ask(session, Ask::Clock),
            Effect::AskClockUnverified { peer } => {
                let clock = self.config.clock.clone();
                self.spawn(async move {
                    let channel = dial(&peer.addr, As::Stranger, at).await.ok()?;
                    let (offset_ms, _) = ask_clock(&channel, clock.as_ref()).await.ok()?;
                    Some(Input::Clock { offset_ms, proven: None })
                });
            }
            Effect::SaveManagers(managers) => {
                self.on_disk("managers", move |keystore| keystore.save_managers(&managers)).await;
            }
            Effect::SaveFloor(floor) => {
                self.on_disk("time floor", move |keystore| keystore.save_floor(floor)).await;
            }
            Effect::RoleWanted(role) => {
                tracing::info!(role = role.word(), "the cluster wants another role of this node")
            }
            Effect::RoleChanged(role) => tracing::info!(role = role.word(), "this node has another role"),
            Effect::Joined | Effect::JoinFailed(_) | Effect::Removed { .. } => {}
        }
        None
    }

    /// Takes in what a manager tells every node.
    async fn hear(&mut self, news: News) {
        let at = self.plan.effective((self.config.clock)());
        if let Some(said) = news.revocations {
            match news::heard(&self.live, said, at) {
                Ok(set) => self.take_revoked(set, at).await,
                Err(NewsError::NotTaken(NotTaken::Gap)) => self.shown.again.notify_one(),
                Err(NewsError::NotTaken(why)) => {
                    tracing::debug!(%why, "revocations that a manager told were not taken in");
                }
                Err(error) => tracing::warn!(%error, "revocations that a manager told are not believed"),
            }
        }
        if let Some(said) = news.log_head {
            self.hear_head(said, &news.log_proof, at).await;
        }
    }

    /// In force first, then on disk.
    async fn take_revoked(&mut self, set: RevokedSet, at: Time) {
        let Some(current) = self.live.current() else { return };
        if set.is_doubted() {
            self.shown.again.notify_one();
        }
        let bytes = news::to_disk(&set, &current.subject().cluster, at);
        tracing::info!(revoked = set.len(), version = set.version().1, "certificates are refused that were revoked");
        self.publisher.revoke(set);
        self.on_disk("revocations", move |keystore| keystore.save_revoked(&bytes)).await;
    }

    async fn hear_head(&mut self, said: wire::node::Statement, proof: &[Vec<u8>], at: Time) {
        let mut witness = Witness::clone(&self.witness);
        match witness.hear(&self.live, said, proof, at) {
            Ok(Heard::Known) => return,
            Ok(Heard::Kept) => {}
            Ok(Heard::Contradicts { why, new, instead }) => {
                if !new {
                    tracing::debug!(%why, "another head of the issuance log contradicts the one that is kept");
                }
                if let Some(fork) = witness.forks.last().filter(|_| new) {
                    tracing::error!(
                        alarm = "log-forked",
                        %why,
                        kept = %fork.kept.head,
                        kept_by = fork.kept.manager.as_ref().map(tracing::field::display),
                        said = %fork.said.head,
                        said_by = fork.said.manager.as_ref().map(tracing::field::display),
                        "a manager's issuance log is not the one that this node was told of: it was changed after it was signed, or a \
                         manager's key is in other hands; see docs/operations/audit.md"
                    );
                    let bytes = Fork::write(&witness.forks);
                    if !self.on_disk("evidence", move |keystore| keystore.save_log_fork(&bytes)).await {
                        // All stays what it was until that can be written: the next head that contradicts tries again.
                        witness = Witness::clone(&self.witness);
                    }
                }
                if instead && witness.head != self.witness.head {
                    tracing::warn!(
                        "the issuance log is followed from the other head on: who signed the one that was kept is not believed any more; it \
                         stays among the evidence"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a head of the issuance log that a manager told is not believed");
                return;
            }
        }
        if let Some(kept) = witness.head.as_ref().filter(|_| witness.head != self.witness.head) {
            let bytes = kept.bytes();
            self.on_disk("head of the issuance log", move |keystore| keystore.save_log_head(&bytes)).await;
        }
        self.shown.show(&witness);
        if witness.forks != self.witness.forks {
            // Every manager that is asked is shown it.
            self.shown.again.notify_one();
        }
        self.witness = Arc::new(witness);
        self.publish_status();
    }

    fn ask(&self, session: u64, ask: Ask) {
        if let Some(running) = &self.session
            && running.number == session
        {
            let _ = running.asks.send(ask);
        }
    }

    fn spawn(&mut self, task: impl Future<Output = Option<Input>> + Send + 'static) {
        let tell = self.tell.clone();
        self.tasks.spawn(async move {
            if let Some(input) = task.await {
                let _ = tell.send(input);
            }
        });
    }

    /// The request's key and connection; made the first time.
    fn asking(&mut self, number: u64) -> Result<Asking, Failure> {
        match &self.asking {
            Some(asking) if asking.number == number => Ok(asking.clone()),
            _ => {
                let asking = Asking::new(number, self.live.clone(), self.config.can_manage)?;
                self.asking = Some(asking.clone());
                Ok(asking)
            }
        }
    }

    async fn save_trust(&mut self, bundle: TrustBundle, at: Time) -> Result<(), Failure> {
        let pem = bundle.raw().to_vec();
        self.save(move |keystore| keystore.save_trust(&pem)).await?;
        let now = bundle.certificates();
        let given_up = self.trust.iter().flat_map(TrustBundle::certificates).any(|before| !now.contains(before));
        self.trust = Some(bundle);
        if self.held.is_some() {
            self.publish(at)?;
        }
        if given_up {
            // What managers of a root said that is given up is asked for anew.
            let mut set = RevokedSet::clone(&self.live.revoked());
            if set.doubt() {
                self.take_revoked(set, at).await;
            }
        }
        Ok(())
    }

    async fn install(&mut self, request: u64, chain: Vec<Certificate>, role: Role, at: Time) -> Result<(), Failure> {
        let asking = self.asking(request)?;
        let kek = asking.kek.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (key, saved) = (asking.key.clone(), chain.clone());
        self.save(move |keystore| {
            if let Some((key, version)) = kek {
                keystore.offer_kek(key, version);
            }
            keystore.save_pair(&saved, &key, role)
        })
        .await?;
        self.held = Some(Held { chain, key: asking.key });
        self.publish(at)
    }

    /// Publishes what is on disk by now, and tells whoever wants to know.
    pub(crate) fn publish(&mut self, at: Time) -> Result<(), Failure> {
        let Some((held, trust)) = self.held.as_ref().zip(self.trust.as_ref()) else {
            return Ok(());
        };
        let identity = mtls::Identity { chain: held.chain.clone(), key: held.key.duplicate(), trust: trust.clone() };
        self.publisher.publish(identity, at).map_err(|error| local(&error))
    }

    async fn save(
        &self,
        write: impl FnOnce(&crate::keystore::Keystore) -> Result<(), crate::keystore::KeystoreError> + Send + 'static,
    ) -> Result<(), Failure> {
        let keystore = self.config.keystore.clone();
        match tokio::task::spawn_blocking(move || write(&keystore)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::new(FailureKind::Local, format!("{error}; {}", error.hint()))),
            Err(error) => Err(local(&error)),
        }
    }

    async fn on_disk(
        &self,
        what: &str,
        write: impl FnOnce(&crate::keystore::Keystore) -> Result<(), crate::keystore::KeystoreError> + Send + 'static,
    ) -> bool {
        let saved = self.save(write).await;
        if let Err(failure) = &saved {
            tracing::warn!(what, error = failure.text, "could not be written; it will be tried at the next change");
        }
        saved.is_ok()
    }

    fn publish_status(&mut self) {
        let (next, witness) = (self.plan.status(), &self.witness);
        let (mut rotated, mut changed) = (false, false);
        self.status.send_if_modified(|status| {
            rotated = status.installed != next.installed;
            let same = status.witness == *witness;
            // Compared without it: the machine knows nothing of the log.
            let before = std::mem::take(&mut status.witness);
            changed = status != next || !same;
            status.witness = before;
            if changed {
                if let Some(offset) = next.clock_offset.filter(|offset| offset.is_notable())
                    && !status.clock_offset.is_some_and(|before| before.is_notable())
                {
                    tracing::warn!("{offset}");
                }
                // A refusal by a manager does not pass by itself; once, however often it is tried again.
                if let Some(trouble) =
                    next.last_error.as_ref().filter(|trouble| trouble.text.starts_with("Permission denied"))
                    && status.last_error.as_ref().is_none_or(|before| before.text != trouble.text)
                {
                    tracing::warn!(hint = trouble.hint, "a manager refuses this node: {}", trouble.text);
                }
                if status.phase != next.phase {
                    tracing::debug!(from = status.phase.word(), to = next.phase.word(), "node phase");
                }
                status.clone_from(next);
                status.witness = Arc::clone(witness);
            }
            changed
        });
        if rotated && let Some(hook) = &self.config.on_identity {
            hook(&Status { witness: Arc::clone(witness), ..next.clone() });
        }
    }
}
