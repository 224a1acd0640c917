//! Latencies in order, and the line that says how far a measurement is.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How often progress is told at most.
const EVERY: Duration = Duration::from_millis(500);

/// Quantiles of a set of latencies, in milliseconds: each the smallest value that so many of a hundred do not exceed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Latencies {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Latencies {
    /// None if nothing was measured.
    pub(super) fn of(mut all: Vec<Duration>) -> Option<Self> {
        all.sort_unstable();
        let max = millis(*all.last()?);
        let rank = |percent: usize| (all.len() * percent).div_ceil(100).saturating_sub(1);
        let at = |percent| all.get(rank(percent)).copied().map_or(max, millis);
        let sum: Duration = all.iter().sum();
        let count = u32::try_from(all.len()).unwrap_or(u32::MAX);
        Some(Self { mean: millis(sum / count), p50: at(50), p90: at(90), p99: at(99), max })
    }
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

/// A rate; 0 for no time at all.
#[allow(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
pub(super) fn rate(count: usize, span: Duration) -> f64 {
    if span.is_zero() { 0.0 } else { count as f64 / span.as_secs_f64() }
}

/// Tells on standard error how far it is: one line, redrawn, if a person looks; silent otherwise.
pub(super) struct Progress {
    what: &'static str,
    of: usize,
    told: Option<Instant>,
    looks: bool,
}

impl Progress {
    pub(super) fn new(what: &'static str, of: usize) -> Self {
        Self { what, of, told: None, looks: std::io::stderr().is_terminal() }
    }

    /// Says that `done` are done, now and then.
    pub(super) fn at(&mut self, done: usize) {
        if self.looks && self.told.is_none_or(|told| told.elapsed() >= EVERY) {
            self.told = Some(Instant::now());
            // Without a standard error there is nobody to tell.
            let _ = write!(std::io::stderr().lock(), "\r{}: {done} of {}\x1b[K", self.what, self.of);
        }
    }

    /// Takes the line away.
    pub(super) fn end(self) {
        if self.told.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Latencies {
        Latencies::of(millis.into_iter().map(Duration::from_millis).collect()).unwrap()
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let hundred = of((1..=100).rev());
        assert_eq!((hundred.p50, hundred.p90, hundred.p99, hundred.max), (50.0, 90.0, 99.0, 100.0));
        let one = of([7]);
        assert_eq!((one.mean, one.p50, one.p99, one.max), (7.0, 7.0, 7.0, 7.0));
        assert_eq!(of([1, 3]).p50, 1.0);
        assert_eq!(Latencies::of(Vec::new()), None);
    }

    #[test]
    fn a_rate_of_no_time_is_none() {
        assert_eq!(rate(5, Duration::ZERO), 0.0);
        assert_eq!(rate(5, Duration::from_millis(500)), 10.0);
    }
}
