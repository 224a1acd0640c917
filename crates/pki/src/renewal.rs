//! When to renew (pki.md 8.1).
use std::time::Duration;

use crate::serial::Serial;
use crate::time::Time;

/// When our nodes renew.
pub fn renew_at(received: Time, not_after: Time, _serial: &Serial) -> Time {
    received.saturating_add(not_after.since(received) / 2)
}

/// When engines renew.
pub fn engine_window(not_before: Time, not_after: Time) -> (Time, Time) {
    let life = not_after.since(not_before);
    (not_before.saturating_add(life / 2), not_before.saturating_add(life / 5 * 4))
}

/// The bound of a random delay after `failures` failures in a row (pki.md 1).
pub fn backoff_bound(base: Duration, factor: Duration, max: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => base
            .saturating_add(factor.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)))
            .min(max),
    }
}
