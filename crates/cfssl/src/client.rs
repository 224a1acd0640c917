//! The client: several URLs side by side, the first good answer wins.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use mtls::{Clock, Live};
use pki::time::Time;
use tokio::sync::{Semaphore, watch};

use crate::breaker::Backoff;
use crate::failure::{Granted, Reason, SignFailure, UrlFailure};
use crate::health::UrlHealth;
use crate::hostile::Hostile;
use crate::message::SignRequest;
use crate::slot::{Attempt, Slot, Target, Use};

/// The time one URL has for one answer, from name lookup to the last byte. Source: pki.md 11.2.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Requests under way at once, each with one URL or more.
pub const WINDOW: usize = 64;
/// How long one URL is waited for before the next one is asked too.
pub const HEDGE_AFTER: Duration = Duration::from_millis(500);

/// A source of numbers from 0 to 1, for the spread of waits.
pub type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// What a client is made with.
#[derive(Clone)]
pub struct Settings {
    /// Time for one answer: [`TIMEOUT`].
    pub timeout: Duration,
    /// Requests under way at once: [`WINDOW`]. At least 1.
    pub window: usize,
    /// When the next URL is asked too: [`HEDGE_AFTER`].
    pub hedge_after: Duration,
    /// How long a URL that failed is left alone.
    pub backoff: Backoff,
    /// The time, for the validity of servers' certificates and for what people are told.
    pub clock: Clock,
    /// Chance, for the spread of waits.
    pub jitter: Jitter,
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(clock: Clock, jitter: Jitter) -> Settings {
        let backoff = Backoff::default();
        Settings { timeout: TIMEOUT, window: WINDOW, hedge_after: HEDGE_AFTER, backoff, clock, jitter }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("timeout", &self.timeout)
            .field("window", &self.window)
            .field("hedge_after", &self.hedge_after)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

/// What the client and its URLs share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) live: Option<Live>,
    started: Instant,
    changed: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn now(&self) -> Time {
        (self.settings.clock)()
    }

    pub(crate) fn jitter(&self) -> f64 {
        (self.settings.jitter)()
    }

    pub(crate) fn tell_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Asks external CAs. Cheap to clone; all clones share URLs, breakers and window.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    slots: ArcSwap<Vec<Arc<Slot>>>,
    window: Semaphore,
    generation: AtomicU64,
}

type Running<'a, T> = Pin<Box<dyn Future<Output = (usize, Result<T, Reason>)> + Send + 'a>>;

impl Client {
    /// A client without URLs. With `identity` the certificate in use is presented, and connections made with an older one
    /// are dropped; without it (a first manager that has none yet) none is.
    #[must_use]
    pub fn new(settings: Settings, identity: Option<Live>) -> Client {
        let settings = Settings { window: settings.window.max(1), ..settings };
        let window = Semaphore::new(settings.window);
        let (changed, _) = watch::channel(0);
        let shared = Shared { settings, live: identity, started: Instant::now(), changed };
        let slots = ArcSwap::from_pointee(Vec::new());
        let inner = Inner { shared: Arc::new(shared), slots, window, generation: AtomicU64::new(0) };
        Client { inner: Arc::new(inner) }
    }

    /// Replaces the URLs. One that was there with the same roots keeps its breaker, its figures and its connections;
    /// one that is there twice counts once. Requests under way go on with the old ones.
    pub fn configure(&self, targets: Vec<Target>) {
        let old = self.inner.slots.load_full();
        let mut slots: Vec<Arc<Slot>> = Vec::with_capacity(targets.len());
        for target in targets {
            if slots.iter().any(|slot| slot.target == target) {
                continue;
            }
            let kept = old.iter().find(|slot| slot.target == target).cloned();
            slots.push(kept.unwrap_or_else(|| Arc::new(Slot::new(target, self.inner.shared.clone()))));
        }
        self.inner.slots.store(Arc::new(slots));
        self.inner.shared.tell_change();
    }

    /// Whether there are URLs at all.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        !self.inner.slots.load().is_empty()
    }

    /// How each URL is doing, in the order configured.
    #[must_use]
    pub fn health(&self) -> Vec<UrlHealth> {
        self.inner.slots.load().iter().map(|slot| slot.health()).collect()
    }

    /// Counts changes of state; a value that changed means that [`Client::health`] may tell something else.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.shared.changed.subscribe()
    }

    /// Asks for a certificate. `check` makes of an answer's PEM what the caller wants, or says why it is hostile:
    /// [`crate::answer::check`]. The URLs are asked in order: the next one when one fails, or does not answer soon. The first
    /// good answer wins and the others are given up. Waits while the window is full.
    ///
    /// # Errors
    /// [`SignFailure`] when no URL gave a good answer.
    pub async fn sign<T: Send>(
        &self,
        request: &SignRequest,
        check: impl Fn(&[u8]) -> Result<T, Hostile> + Send + Sync,
    ) -> Result<Granted<T>, SignFailure> {
        // The window is never closed; if it were, nothing would be in flight.
        let _permit = self.inner.window.acquire().await;
        self.follow_identity();
        let body = Bytes::from(serde_json::to_vec(request).unwrap_or_default());
        let slots = self.inner.slots.load_full();
        let mut race =
            Race { asked: vec![false; slots.len()], slots, running: FuturesUnordered::new(), failed: Vec::new() };
        let mut changed = self.inner.shared.changed.subscribe();
        let hedge_after = self.inner.shared.settings.hedge_after;
        let mut attempts: Vec<Arc<Attempt>> = Vec::new();
        loop {
            changed.mark_unchanged();
            // With nothing better to ask, the request itself is the trial.
            if race.slots.iter().any(|slot| slot.usable() == Use::Now) {
                self.tend();
            }
            let next = race.next();
            if let Some(attempt) = next {
                let attempt = Arc::new(attempt);
                attempts.push(attempt.clone());
                let (number, body, check) = (attempts.len() - 1, body.clone(), &check);
                race.running.push(Box::pin(async move { (number, attempt.ask(body, check).await) }));
            } else if race.running.is_empty() {
                if !race.may_come() {
                    return Err(race.give_up());
                }
                // A trial of another request or a look decides; both end within the time for one answer.
                let _ = changed.changed().await;
                continue;
            }
            tokio::select! {
                Some((number, outcome)) = race.running.next() => {
                    let url = attempts[number].url().to_owned();
                    match outcome {
                        Ok(value) => {
                            for slow in &attempts[..number] {
                                race.outrun(slow);
                            }
                            return Ok(Granted { value, url, failed: race.failed });
                        }
                        Err(reason) => race.failed.push(UrlFailure { url, reason }),
                    }
                }
                () = tokio::time::sleep(hedge_after) => {}
            }
        }
    }

    /// Looks in the background whether URLs whose wait is over can be reached again. Requests do so for the URLs that they
    /// do not need themselves; this is for a timer, so that people see a recovery without a request. Must be called within
    /// a tokio runtime.
    pub fn tend(&self) {
        let slots = self.inner.slots.load();
        for slot in slots.iter().filter(|slot| slot.usable() == Use::Trial) {
            if let Some(attempt) = slot.begin() {
                tokio::spawn(async move { attempt.reach().await });
            }
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.inner.shared.now()
    }

    /// After a change of our certificate every URL may be asked at once: the old one may be why it failed.
    fn follow_identity(&self) {
        let Some(current) = self.inner.shared.live.as_ref().and_then(Live::current) else { return };
        let generation = current.generation();
        if self.inner.generation.swap(generation, Ordering::Relaxed) != generation {
            for slot in self.inner.slots.load().iter() {
                slot.again();
            }
        }
    }
}

/// One request and the URLs it is with.
struct Race<'a, T> {
    slots: Arc<Vec<Arc<Slot>>>,
    asked: Vec<bool>,
    running: FuturesUnordered<Running<'a, T>>,
    failed: Vec<UrlFailure>,
}

impl<T> Race<'_, T> {
    /// An attempt with the first URL that was not asked yet and can be; a trial only if there is nothing else.
    fn next(&mut self) -> Option<Attempt> {
        let uses = if self.running.is_empty() { &[Use::Now, Use::Trial][..] } else { &[Use::Now] };
        for wanted in uses {
            for (slot, asked) in self.slots.iter().zip(&mut self.asked) {
                if !*asked
                    && slot.usable() == *wanted
                    && let Some(attempt) = slot.begin()
                {
                    *asked = true;
                    return Some(attempt);
                }
            }
        }
        None
    }

    fn unasked(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.slots.iter().zip(&self.asked).filter(|(_, asked)| !**asked).map(|(slot, _)| slot)
    }

    /// Whether a URL that was not asked may still come.
    fn may_come(&self) -> bool {
        self.unasked().any(|slot| matches!(slot.usable(), Use::Now | Use::Trial | Use::Soon))
    }

    fn give_up(self) -> SignFailure {
        let waits = self.slots.iter().map(|slot| match slot.usable() {
            Use::Later(wait) => Some(wait),
            Use::Never => Some(Duration::MAX),
            _ => None,
        });
        let retry_after = waits.collect::<Option<Vec<Duration>>>().and_then(|waits| waits.into_iter().min());
        let unasked: Vec<UrlFailure> =
            self.unasked().map(|slot| UrlFailure { url: slot.target.url.clone(), reason: slot.excuse() }).collect();
        let mut failed = self.failed;
        failed.extend(unasked);
        SignFailure::new(failed, retry_after.filter(|wait| *wait < Duration::MAX))
    }

    /// A URL that was asked before the one that won, and has not answered.
    fn outrun(&mut self, slow: &Attempt) {
        let url = slow.url().to_owned();
        if self.failed.iter().any(|failure| failure.url == url) {
            return;
        }
        let reason = Reason::Outrun { url: url.clone() };
        slow.failed(&reason);
        self.failed.push(UrlFailure { url, reason });
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("urls", &self.health()).finish_non_exhaustive()
    }
}
