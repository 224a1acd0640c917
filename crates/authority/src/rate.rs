//! How many requests a caller may make: so many a second for long, ten seconds' worth at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pki::identity::NodeId;
use pki::time::Time;

/// Seconds' worth of requests that may come at once.
const BURST_SECONDS: u64 = 10;
/// Callers remembered, at most; one that was quiet for [`BURST_SECONDS`] need not be.
const CALLERS_MAX: usize = 1_024;
/// What one request costs, in the unit in which credit grows: a thousandth of a request a millisecond and rate.
const COST: u64 = 1_000;

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
        let credit = all.get(caller).map_or(full, |held| grown(*held));
        let left = credit.checked_sub(COST);
        all.insert(caller.clone(), (left.unwrap_or(credit), now));
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

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
