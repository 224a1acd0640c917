//! One URL inside the client: how it is asked, its breaker, its figures.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use pki::certificate::Certificate;
use pki::time::Time;

use crate::address::{Address, InvalidUrl};
use crate::breaker::{Breaker, Input, Output, Phase};
use crate::client::Shared;
use crate::exchange::Exchange;
use crate::failure::Reason;
use crate::health::{UrlHealth, UrlState};
use crate::hostile::Hostile;
use crate::{probe, reply};

/// An external CA, as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where to post, as the operator gave it.
    pub url: String,
    /// What the server must be certified by: the root that is wanted, and nothing else.
    pub roots: Vec<Certificate>,
}

pub(crate) struct Slot {
    pub(crate) target: Target,
    exchange: Result<Exchange, InvalidUrl>,
    shared: Arc<Shared>,
    state: Mutex<State>,
    in_flight: AtomicU32,
}

struct State {
    breaker: Breaker,
    last_success: Option<Time>,
    last_error: Option<(Time, String)>,
    latency: Option<Duration>,
    granted: u64,
    failed: u64,
    refused: u64,
    hostile: u64,
}

/// What may be done with a slot.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Use {
    /// It can be asked, beside others.
    Now,
    /// It can be tried, if nothing better is there.
    Trial,
    /// Whether it can be asked is being found out.
    Soon,
    /// It is left alone for this long.
    Later(Duration),
    /// It never can.
    Never,
}

impl Slot {
    pub(crate) fn new(target: Target, shared: Arc<Shared>) -> Slot {
        let settings = &shared.settings;
        let exchange = Address::parse(&target.url).map(|address| {
            let (live, clock) = (shared.live.clone(), settings.clock.clone());
            Exchange::new(address, target.roots.clone(), live, clock, settings.window)
        });
        let state = State {
            breaker: Breaker::new(settings.backoff),
            last_success: None,
            last_error: None,
            latency: None,
            granted: 0,
            failed: 0,
            refused: 0,
            hostile: 0,
        };
        Slot { target, exchange, state: Mutex::new(state), in_flight: AtomicU32::new(0), shared }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, state: &mut State, input: Input) -> Output {
        let before = state.breaker.epoch();
        let output = state.breaker.step(self.shared.elapsed(), input);
        if state.breaker.epoch() != before {
            self.shared.tell_change();
        }
        output
    }

    pub(crate) fn usable(&self) -> Use {
        if self.exchange.is_err() {
            return Use::Never;
        }
        let now = self.shared.elapsed();
        match self.state().breaker.phase(now) {
            Phase::Closed | Phase::Ready => Use::Now,
            Phase::Due => Use::Trial,
            Phase::Trying => Use::Soon,
            Phase::Open { until } => Use::Later(until.saturating_sub(now)),
        }
    }

    /// Why it is not asked, if it is not.
    pub(crate) fn excuse(&self) -> Reason {
        if let Err(invalid) = &self.exchange {
            return Reason::InvalidUrl(invalid.clone());
        }
        let state = self.state();
        let wait = match state.breaker.phase(self.shared.elapsed()) {
            Phase::Open { until } => until.saturating_sub(self.shared.elapsed()),
            _ => Duration::ZERO,
        };
        let last = state.last_error.as_ref().map_or_else(String::new, |(_, text)| text.clone());
        Reason::Open { wait, last }
    }

    /// The wait may end now: what made attempts fail may be gone.
    pub(crate) fn again(&self) {
        self.step(&mut self.state(), Input::Again);
    }

    /// Begins an attempt, if the breaker lets it.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Attempt> {
        match self.step(&mut self.state(), Input::Ask) {
            Output::Go(epoch) => {
                self.in_flight.fetch_add(1, Ordering::Relaxed);
                Some(Attempt { slot: self.clone(), epoch })
            }
            _ => None,
        }
    }

    pub(crate) fn health(&self) -> UrlHealth {
        let now = self.shared.elapsed();
        let state = self.state();
        let word = match (&self.exchange, state.breaker.phase(now)) {
            (Err(invalid), _) => UrlState::Invalid(invalid.to_string()),
            (Ok(_), Phase::Closed) => UrlState::Up,
            (Ok(_), Phase::Due | Phase::Trying) => UrlState::Trying,
            (Ok(_), Phase::Ready) => UrlState::Reachable,
            (Ok(_), Phase::Open { until }) => {
                UrlState::Open { until: self.shared.now().saturating_add(until.saturating_sub(now)) }
            }
        };
        UrlHealth {
            url: self.target.url.clone(),
            state: word,
            last_success: state.last_success,
            last_error: state.last_error.clone(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            latency: state.latency,
            granted: state.granted,
            failed: state.failed,
            refused: state.refused,
            hostile: state.hostile,
        }
    }
}

/// One attempt with one URL. Dropped without an outcome, it counts as given up.
pub(crate) struct Attempt {
    slot: Arc<Slot>,
    epoch: u64,
}

impl Attempt {
    pub(crate) fn url(&self) -> &str {
        &self.slot.target.url
    }

    /// Asks, and has the answer checked.
    pub(crate) async fn ask<T>(
        &self,
        body: Bytes,
        check: &(impl Fn(&[u8]) -> Result<T, Hostile> + Sync),
    ) -> Result<T, Reason> {
        let began = self.slot.shared.elapsed();
        let outcome = match &self.slot.exchange {
            Err(invalid) => Err(Reason::InvalidUrl(invalid.clone())),
            Ok(exchange) => match exchange.post(body, self.slot.shared.settings.timeout).await {
                Ok(body) => reply::certificate(&body).and_then(|pem| check(pem.as_bytes()).map_err(Reason::Hostile)),
                Err(reason) => Err(reason),
            },
        };
        match &outcome {
            Ok(_) => self.answered(self.slot.shared.elapsed().saturating_sub(began)),
            Err(reason) => self.failed(reason),
        }
        outcome
    }

    /// Looks whether the server can be reached at all.
    pub(crate) async fn reach(&self) {
        let Ok(exchange) = &self.slot.exchange else { return };
        let limit = self.slot.shared.settings.timeout;
        match probe::reach(exchange, limit).await {
            Ok(()) => {
                self.slot.step(&mut self.slot.state(), Input::Reached { epoch: self.epoch });
            }
            Err(failure) => {
                let (url, text) = (self.url().to_owned(), failure.to_string());
                self.failed(&Reason::Unreachable { url, text });
            }
        }
    }

    fn answered(&self, took: Duration) {
        let mut state = self.slot.state();
        state.granted += 1;
        state.last_success = Some(self.slot.shared.now());
        state.latency = Some(state.latency.map_or(took, |mean| (mean * 7 + took) / 8));
        self.slot.step(&mut state, Input::Answered { epoch: self.epoch });
    }

    pub(crate) fn failed(&self, reason: &Reason) {
        let mut state = self.slot.state();
        state.last_error = Some((self.slot.shared.now(), reason.to_string()));
        let (epoch, jitter) = (self.epoch, self.slot.shared.jitter());
        let input = match reason {
            // It answers; it is this request that it does not like.
            _ if !reason.is_recoverable() => {
                state.refused += 1;
                Input::Answered { epoch }
            }
            Reason::Hostile(_) => {
                state.failed += 1;
                state.hostile += 1;
                Input::Hostile { epoch, jitter }
            }
            _ => {
                state.failed += 1;
                Input::Failed { epoch, jitter }
            }
        };
        self.slot.step(&mut state, input);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.slot.in_flight.fetch_sub(1, Ordering::Relaxed);
        // After an outcome this is of an epoch gone by, or of a closed breaker, and changes nothing.
        self.slot.step(&mut self.slot.state(), Input::Dropped { epoch: self.epoch });
    }
}
