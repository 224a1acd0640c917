//! The circuit breaker of one URL. Pure: time and chance are arguments.
//!
//! Closed until something fails; then open for a while that doubles with each failure in a row; then one trial decides.
//! A trial is a request, or a look whether the server can be reached at all ([`Input::Reached`]), which a request then
//! has to confirm. Each change of state begins an epoch: what comes of attempts begun before it changes nothing.

use std::time::Duration;

/// How long a URL is left alone after failures.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    /// At most, and after a hostile answer at once.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) }
    }
}

/// What the breaker is told.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Input {
    /// May an attempt begin?
    Ask,
    /// An attempt brought a good answer, or an honest refusal.
    Answered {
        /// The attempt's.
        epoch: u64,
    },
    /// The server was reached; whether it answers is not known.
    Reached {
        /// The attempt's.
        epoch: u64,
    },
    /// An attempt failed.
    Failed {
        /// The attempt's.
        epoch: u64,
        /// From 0 to 1: by how much of its quarter the wait is shortened.
        jitter: f64,
    },
    /// An attempt brought an answer that must not be believed.
    Hostile {
        /// The attempt's.
        epoch: u64,
        /// As for [`Input::Failed`].
        jitter: f64,
    },
    /// An attempt was given up for reasons of ours.
    Dropped {
        /// The attempt's.
        epoch: u64,
    },
    /// What made attempts fail may be gone: the next one need not wait.
    Again,
}

/// What the breaker says.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// An attempt may begin; it belongs to this epoch.
    Go(u64),
    /// Not now: see [`Breaker::phase`].
    No,
    /// The state changed.
    Changed,
    /// Nothing to tell.
    Unchanged,
}

/// Where the breaker stands at a moment.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Any number of attempts may begin.
    Closed,
    /// None may begin before `until`.
    Open {
        /// On the clock of [`Breaker::step`].
        until: Duration,
    },
    /// The wait is over: one attempt may begin.
    Due,
    /// The server was reached again: one request may begin.
    Ready,
    /// That one is under way.
    Trying,
}

/// A circuit breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    backoff: Backoff,
    state: State,
    /// Failures in a row.
    failures: u32,
    epoch: u64,
}

#[derive(Copy, Clone, PartialEq, Debug)]
enum State {
    Closed,
    Open { until: Duration },
    Ready,
    Trying,
}

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(backoff: Backoff) -> Breaker {
        Breaker { backoff, state: State::Closed, failures: 0, epoch: 0 }
    }

    /// Where it stands at `now`, which counts from any fixed moment and never goes back.
    #[must_use]
    pub fn phase(&self, now: Duration) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { until } if now < until => Phase::Open { until },
            State::Open { .. } => Phase::Due,
            State::Ready => Phase::Ready,
            State::Trying => Phase::Trying,
        }
    }

    /// Failures in a row; 0 after a good answer.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Changes with each change of state.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Takes one input at `now`.
    pub fn step(&mut self, now: Duration, input: Input) -> Output {
        match input {
            Input::Ask => self.ask(now),
            Input::Again => match self.state {
                State::Open { .. } => self.become_state(State::Ready),
                _ => Output::Unchanged,
            },
            Input::Answered { epoch } if epoch == self.epoch => {
                self.failures = 0;
                match self.state {
                    State::Closed => Output::Unchanged,
                    _ => self.become_state(State::Closed),
                }
            }
            Input::Failed { epoch, jitter } if epoch == self.epoch => self.fail(now, jitter),
            Input::Hostile { epoch, jitter } if epoch == self.epoch => {
                self.failures = self.failures.max(self.doublings());
                self.fail(now, jitter)
            }
            Input::Reached { epoch } | Input::Dropped { epoch }
                if epoch == self.epoch && self.state == State::Trying =>
            {
                self.become_state(State::Ready)
            }
            _ => Output::Unchanged,
        }
    }

    fn ask(&mut self, now: Duration) -> Output {
        match self.phase(now) {
            Phase::Closed => Output::Go(self.epoch),
            Phase::Due | Phase::Ready => {
                self.become_state(State::Trying);
                Output::Go(self.epoch)
            }
            Phase::Open { .. } | Phase::Trying => Output::No,
        }
    }

    fn become_state(&mut self, state: State) -> Output {
        self.state = state;
        self.epoch += 1;
        Output::Changed
    }

    fn fail(&mut self, now: Duration, jitter: f64) -> Output {
        let doubled = 2_u32.saturating_pow(self.failures.min(self.doublings()));
        let wait = self.backoff.first.saturating_mul(doubled).min(self.backoff.max);
        let shortened = wait.mul_f64(1.0 - 0.25 * jitter.clamp(0.0, 1.0));
        self.failures = self.failures.saturating_add(1);
        self.become_state(State::Open { until: now.saturating_add(shortened) })
    }

    /// Doublings after which the wait is the longest.
    fn doublings(&self) -> u32 {
        (0..31).find(|n| self.backoff.first.saturating_mul(1 << n) >= self.backoff.max).unwrap_or(31)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn go(breaker: &mut Breaker, now: Duration) -> u64 {
        match breaker.step(now, Input::Ask) {
            Output::Go(epoch) => epoch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_wait_doubles_from_one_second_to_a_minute_and_a_good_answer_ends_it() {
        let mut breaker = Breaker::new(Backoff::default());
        let mut now = secs(100);
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            let epoch = go(&mut breaker, now);
            assert_eq!(breaker.step(now, Input::Failed { epoch, jitter: 0.0 }), Output::Changed);
            assert_eq!(breaker.phase(now), Phase::Open { until: now + secs(wait) });
            assert_eq!(breaker.step(now + secs(wait) - Duration::from_nanos(1), Input::Ask), Output::No);
            now += secs(wait);
            assert_eq!(breaker.phase(now), Phase::Due);
        }
        let epoch = go(&mut breaker, now);
        assert_eq!((breaker.phase(now), breaker.step(now, Input::Ask)), (Phase::Trying, Output::No));
        assert_eq!(breaker.step(now, Input::Answered { epoch }), Output::Changed);
        assert_eq!((breaker.phase(now), breaker.failures()), (Phase::Closed, 0));
    }

    #[test]
    fn jitter_shortens_by_at_most_a_quarter() {
        for (jitter, millis) in [(0.0, 1_000), (0.5, 875), (1.0, 750), (9.0, 750), (-1.0, 1_000)] {
            let mut breaker = Breaker::new(Backoff::default());
            let epoch = go(&mut breaker, secs(0));
            breaker.step(secs(0), Input::Failed { epoch, jitter });
            assert_eq!(breaker.phase(secs(0)), Phase::Open { until: Duration::from_millis(millis) });
        }
    }

    #[test]
    fn many_failures_of_one_epoch_count_once() {
        let mut breaker = Breaker::new(Backoff::default());
        let epochs: Vec<u64> = (0..16).map(|_| go(&mut breaker, secs(0))).collect();
        for epoch in epochs {
            breaker.step(secs(0), Input::Failed { epoch, jitter: 0.0 });
        }
        assert_eq!((breaker.failures(), breaker.phase(secs(0))), (1, Phase::Open { until: secs(1) }));
        assert_eq!(breaker.step(secs(0), Input::Answered { epoch: 0 }), Output::Unchanged);
        assert_eq!(breaker.phase(secs(0)), Phase::Open { until: secs(1) }, "an answer from before does not close it");
    }

    #[test]
    fn a_hostile_answer_opens_it_for_the_longest_wait_at_once() {
        let mut breaker = Breaker::new(Backoff::default());
        let epoch = go(&mut breaker, secs(0));
        breaker.step(secs(0), Input::Hostile { epoch, jitter: 0.0 });
        assert_eq!(breaker.phase(secs(0)), Phase::Open { until: secs(60) });
    }

    #[test]
    fn a_server_that_is_only_reached_has_its_failures_remembered() {
        let mut breaker = Breaker::new(Backoff::default());
        let epoch = go(&mut breaker, secs(0));
        breaker.step(secs(0), Input::Failed { epoch, jitter: 0.0 });
        let epoch = go(&mut breaker, secs(1));
        assert_eq!(breaker.step(secs(1), Input::Reached { epoch }), Output::Changed);
        assert_eq!(breaker.phase(secs(1)), Phase::Ready);
        let epoch = go(&mut breaker, secs(1));
        assert_eq!(breaker.step(secs(1), Input::Ask), Output::No, "one trial");
        breaker.step(secs(1), Input::Failed { epoch, jitter: 0.0 });
        assert_eq!(breaker.phase(secs(1)), Phase::Open { until: secs(3) });
    }

    #[test]
    fn a_trial_that_was_given_up_may_be_begun_again_and_again_ends_a_wait() {
        let mut breaker = Breaker::new(Backoff::default());
        let epoch = go(&mut breaker, secs(0));
        assert_eq!(breaker.step(secs(0), Input::Dropped { epoch }), Output::Unchanged, "closed stays closed");
        breaker.step(secs(0), Input::Failed { epoch, jitter: 0.0 });
        assert_eq!(breaker.step(secs(0), Input::Again), Output::Changed);
        let epoch = go(&mut breaker, secs(0));
        assert_eq!(breaker.step(secs(0), Input::Dropped { epoch }), Output::Changed);
        assert_eq!(breaker.phase(secs(0)), Phase::Ready);
    }
}
