//! The part of the crate `base2histogram` that openraft uses, without tables.
//!
//! The published crate computes the bounds of all its scales at its first use: 3.3 million numbers, 26 MiB that stay, for
//! counters that openraft shows only with its feature `runtime-stats`. That is more than all the rest of an idle manager. Here a
//! bound is computed when it is asked for. Drop this when the published crate does the same.

use std::fmt;
use std::marker::PhantomData;

/// Buckets of one octave: a value is known to a quarter of its size.
const PER_OCTAVE: usize = 4;
/// Below it each value has a bucket of its own.
const EXACT: u64 = PER_OCTAVE as u64;
/// Octaves of 64-bit values above the exact ones, and those.
const BUCKETS: usize = PER_OCTAVE + PER_OCTAVE * 62;

/// Counts values by size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    kind: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// An empty one; it takes memory with its first value.
    #[must_use]
    pub fn new() -> Self {
        Self { counts: Vec::new(), kind: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value as often.
    pub fn record_n(&mut self, value: u64, count: u64) {
        if self.counts.is_empty() {
            self.counts = vec![0; BUCKETS];
        }
        if let Some(bucket) = self.counts.get_mut(bucket(value)) {
            *bucket = bucket.saturating_add(count);
        }
    }

    /// Values counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The least value of the bucket that so many thousandths of all values do not exceed; 0 if there is none.
    fn at(&self, thousandths: u64) -> u64 {
        let rank = self.total().saturating_mul(thousandths).div_ceil(1000).max(1);
        let mut seen = 0u64;
        let found = self.counts.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= rank
        });
        found.map_or(0, least)
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.at(1),
            p1: self.at(10),
            p5: self.at(50),
            p10: self.at(100),
            p50: self.at(500),
            p90: self.at(900),
            p99: self.at(990),
            p99_9: self.at(999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn bucket(value: u64) -> usize {
    if value < EXACT {
        return usize::try_from(value).unwrap_or(0);
    }
    let octave = value.ilog2() as usize;
    let place = usize::try_from(value >> (octave - 2)).unwrap_or(0) % PER_OCTAVE;
    (octave - 1) * PER_OCTAVE + place
}

fn least(bucket: usize) -> u64 {
    if bucket < PER_OCTAVE {
        return bucket as u64;
    }
    ((PER_OCTAVE + bucket % PER_OCTAVE) as u64) << (bucket / PER_OCTAVE - 1)
}

/// Percentiles of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    /// Values counted.
    pub samples: u64,
    /// 0.1 %.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n={} p50={} p90={} p99={} p99.9={}", self.samples, self.p50, self.p90, self.p99, self.p99_9)
    }
}

/// Several histograms, a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart<T = ()> {
    lines: Vec<(String, PercentileStats)>,
    kind: PhantomData<T>,
}

impl<T> AsciiChart<T> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self { lines: Vec::new(), kind: PhantomData }
    }

    /// Adds a line.
    #[must_use]
    #[allow(clippy::should_implement_trait, clippy::needless_pass_by_value)]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.lines.push((name.to_owned(), histogram.percentile_stats()));
        self
    }

    /// What is printed.
    #[must_use]
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..1000).chain([4095, 4096, 4097, u64::MAX / 3, u64::MAX - 1, u64::MAX]) {
            let bucket = bucket(value);
            assert!(bucket < BUCKETS && least(bucket) <= value, "{value}");
            assert!(bucket + 1 == BUCKETS || value < least(bucket + 1), "{value}");
        }
    }

    #[test]
    fn percentiles_are_in_order() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p99, 0);
        (1..=100).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p1, stats.p50, stats.p99), (100, 1, 48, 96));
    }
}
