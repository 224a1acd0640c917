//! How many requests a caller may make, and how many certificates all together get: so many a second for long, ten seconds'
//! worth at once. And how often one thing is said.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pki::identity::NodeId;
use pki::serial::Serial;
use pki::time::Time;

/// Seconds' worth of requests that may come at once.
const BURST_SECONDS: u64 = 10;
/// Callers remembered, at most; one that was quiet for [`BURST_SECONDS`] need not be.
const CALLERS_MAX: usize = 1_024;
/// What one request costs, in the unit in which credit grows: a thousandth of a request a millisecond and rate.
const COST: u64 = 1_000;
/// How long nothing more is said of a caller that is refused.
const MINUTE: Duration = Duration::from_secs(60);

/// Credit of each caller.
pub(crate) struct Rate {
    per_second: u64,
    credit: Mutex<HashMap<NodeId, (u64, Time)>>,
}

impl Rate {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second: u64::from(per_second.max(1)), credit: Mutex::default() }
    }

    /// Takes one request from a caller's credit; false if there is none left.
    pub(crate) fn take(&self, caller: &NodeId, now: Time) -> bool {
        let full = self.per_second * BURST_SECONDS * COST;
        let mut all = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let grown = |(credit, since): (u64, Time)| {
            let millis = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
            credit.saturating_add(millis.saturating_mul(self.per_second)).min(full)
        };
        if all.len() >= CALLERS_MAX && !all.contains_key(caller) {
            all.retain(|_, held| grown(*held) < full);
            if all.len() >= CALLERS_MAX {
                return false;
            }
        }
        let known = all.get_mut(caller);
        let credit = known.as_ref().map_or(full, |held| grown(**held));
        let left = credit.checked_sub(COST);
        let held = (left.unwrap_or(credit), now);
        match known {
            Some(known) => *known = held,
            None => drop(all.insert(caller.clone(), held)),
        }
        left.is_some()
    }
}

/// Credit of all callers together: a caller may mint itself names, and would have credit for each.
pub(crate) struct RateAll {
    per_second: u64,
    credit: Mutex<Option<(u64, Time)>>,
}

impl RateAll {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second: u64::from(per_second.max(1)), credit: Mutex::default() }
    }

    /// Takes one from the credit; false if there is none left.
    pub(crate) fn take(&self, now: Time) -> bool {
        let full = self.per_second * BURST_SECONDS * COST;
        let mut held = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let credit = held.map_or(full, |(credit, since)| {
            let millis = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
            credit.saturating_add(millis.saturating_mul(self.per_second)).min(full)
        });
        let left = credit.checked_sub(COST);
        *held = Some((left.unwrap_or(credit), now));
        left.is_some()
    }
}

/// Counts by the hour.
#[derive(Default)]
pub(crate) struct Hourly(Mutex<(i64, u32)>);

impl Hourly {
    /// Counts one; true for the one that goes above `many` in its hour.
    pub(crate) fn is_too_many(&self, many: u32, now: Time) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hour = now.unix_secs() / 3_600;
        if held.0 != hour {
            *held = (hour, 0);
        }
        held.1 = held.1.saturating_add(1);
        held.1 == many.saturating_add(1)
    }
}

/// Who was spoken of within the last minute.
#[derive(Default)]
pub(crate) struct Told(Mutex<HashMap<Serial, Time>>);

impl Told {
    /// Whether nothing was said of this certificate for a minute, and there is room to remember that it is now.
    pub(crate) fn is_news(&self, serial: Serial, now: Time) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Time| *at <= now && now.since(*at) < MINUTE;
        if all.get(&serial).is_some_and(is_recent) {
            return false;
        }
        if all.len() >= CALLERS_MAX {
            all.retain(|_, at| is_recent(at));
        }
        if all.len() < CALLERS_MAX {
            all.insert(serial, now);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_burst_then_a_rate_each_for_himself() {
        let rate = Rate::new(5);
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        let mut now = Time::from_unix_secs(1);
        assert_eq!((0..100).filter(|_| rate.take(&one, now)).count(), 50);
        assert!(rate.take(&other, now));
        now = now.saturating_add(Duration::from_millis(200));
        assert_eq!((0..100).filter(|_| rate.take(&one, now)).count(), 1);
        now = now.saturating_sub(Duration::from_secs(1));
        assert!(!rate.take(&one, now), "a clock that went back gives nothing");
        now = now.saturating_add(Duration::from_secs(3_600));
        assert_eq!((0..100).filter(|_| rate.take(&one, now)).count(), 50);
    }

    #[test]
    fn all_together_have_a_bound_an_alarm_is_raised_once_an_hour_and_said_once_a_minute() {
        let (all, hourly, told) = (RateAll::new(5), Hourly::default(), Told::default());
        let mut now = Time::from_unix_secs(3_600);
        assert_eq!((0..100).filter(|_| all.take(now)).count(), 50);
        assert_eq!((0..100).filter(|_| hourly.is_too_many(7, now)).count(), 1);
        let serial = |n: u16| Serial::from_random([[1; 18].as_slice(), &n.to_be_bytes()].concat().try_into().unwrap());
        assert_eq!((0..100).filter(|_| told.is_news(serial(1), now)).count(), 1);
        assert_eq!((2..5_000).filter(|n| told.is_news(serial(*n), now)).count(), CALLERS_MAX - 1, "bounded");
        now = now.saturating_add(Duration::from_secs(3_600));
        assert_eq!((0..100).filter(|_| all.take(now)).count(), 50);
        assert_eq!((0..100).filter(|_| hourly.is_too_many(7, now)).count(), 1);
        assert!(told.is_news(serial(1), now));
    }

    #[test]
    fn many_callers_take_bounded_room() {
        let rate = Rate::new(1);
        let now = Time::from_unix_secs(1);
        let caller = |n: usize| format!("n{n}").parse::<NodeId>().unwrap();
        assert_eq!((0..2 * CALLERS_MAX).filter(|n| rate.take(&caller(*n), now)).count(), CALLERS_MAX);
        let later = now.saturating_add(Duration::from_secs(10));
        assert!(rate.take(&caller(9_999), later));
        assert!(rate.credit.lock().unwrap().len() < 3);
    }
}
