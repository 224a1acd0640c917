//! When a leaf is renewed (pki.md 8.1), and how long to wait after failures (pki.md 1).

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::digest::sha256;
use crate::serial::Serial;
use crate::time::Time;

/// Part of a leaf's life, in percent, within which a node renews it.
/// Source: pki.md 1, "Rotation window".
pub const RENEWAL_WINDOW_PERCENT: RangeInclusive<u32> = 50..=80;
const _: () = assert!(*RENEWAL_WINDOW_PERCENT.end() < 100);

/// Bounds of the delay after failed renewals: base, step, most. Source: pki.md 1.
pub const RENEWAL_BACKOFF: (Duration, Duration, Duration) =
    (Duration::from_secs(5), Duration::from_secs(5), Duration::from_secs(3_600));
/// Bounds of the delay between status calls: base, step, most. Source: pki.md 1.
pub const STATUS_BACKOFF: (Duration, Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(1), Duration::from_secs(30));
/// How long one of our nodes waits between an order to renew and the renewal: orders that come together are one. An engine
/// waits half a second (pki.md 1); ours leaves the pace to the manager (docs/divergences.md).
pub const FORCED_RENEWAL_PAUSE: Duration = Duration::from_millis(20);

/// When one of our nodes renews a leaf it received at `received`: 50% to 80% of the life it had then, at a point that
/// the serial decides, so that a restart does not draw again and a fleet spreads. A leaf that is over is due at once.
pub fn renew_at(received: Time, not_after: Time, serial: &Serial) -> Time {
    let (low, high) = (*RENEWAL_WINDOW_PERCENT.start(), *RENEWAL_WINDOW_PERCENT.end());
    let life = not_after.since(received).as_millis();
    let hash = sha256(&serial.to_array());
    let mut draw = [0; 4];
    draw.copy_from_slice(&hash[..4]);
    // Percent as a number of 2^32 parts: low + (high - low) * draw / 2^32.
    let parts = (u128::from(low) << 32) + u128::from(high - low) * u128::from(u32::from_be_bytes(draw));
    let wait = (life * parts / 100) >> 32;
    received.saturating_add(Duration::from_millis(u64::try_from(wait).unwrap_or(u64::MAX)))
}

/// The window in which an engine renews a leaf, from its own dates: it draws a minute anew after each start, and
/// nothing tells the manager which.
pub fn engine_window(not_before: Time, not_after: Time) -> (Time, Time) {
    let minutes = not_after.since(not_before).as_secs() / 60;
    let at = |percent: u32| {
        let offset = minutes.saturating_mul(u64::from(percent)) / 100;
        not_before.saturating_add(Duration::from_secs(offset.saturating_mul(60)))
    };
    (at(*RENEWAL_WINDOW_PERCENT.start()), at(*RENEWAL_WINDOW_PERCENT.end()))
}

/// The bound of the random delay after `failures` failures in a row: min(base + factor * 2^(failures-1), max); zero after none.
pub fn backoff_bound(base: Duration, factor: Duration, max: Duration, failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => {
            let times = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
            base.saturating_add(factor.saturating_mul(times)).min(max)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(minutes: i64) -> Time {
        Time::from_unix_secs(minutes * 60)
    }

    #[test]
    fn engine_windows_of_pki_8_1() {
        // 90 days: due 45.02 to 72.03 days after notBefore.
        assert_eq!(engine_window(minutes(0), minutes(129_660)), (minutes(64_830), minutes(103_728)));
        // One hour: due 0 to 36 minutes after issue, which is an hour after notBefore.
        assert_eq!(engine_window(minutes(0), minutes(120)), (minutes(60), minutes(96)));
        assert_eq!(engine_window(minutes(5), minutes(5)), (minutes(5), minutes(5)));
    }

    #[test]
    fn backoffs_of_pki_1() {
        let secs = |(base, factor, max): (Duration, Duration, Duration)| {
            (0..8).map(|n| backoff_bound(base, factor, max, n).as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(secs(STATUS_BACKOFF), [0, 2, 3, 5, 9, 17, 30, 30]);
        assert_eq!(secs(RENEWAL_BACKOFF)[..6], [0, 10, 15, 25, 45, 85]);
        let (base, factor, max) = RENEWAL_BACKOFF;
        assert_eq!(backoff_bound(base, factor, max, u32::MAX), max);
    }

    #[test]
    fn renewals_spread_over_the_window() {
        let due: Vec<i64> = (0..100_u8)
            .map(|byte| renew_at(minutes(60), minutes(160), &Serial::from_random([byte; 20])).unix_secs() / 60)
            .collect();
        assert!(due.iter().all(|due| (110..=140).contains(due)), "{due:?}");
        assert!(due.iter().any(|due| *due < 115) && due.iter().any(|due| *due > 135), "{due:?}");
        let serial = Serial::from_random([1; 20]);
        assert_eq!(renew_at(minutes(5), minutes(4), &serial), minutes(5), "over: at once");
        assert_eq!(renew_at(minutes(0), minutes(9), &serial), renew_at(minutes(0), minutes(9), &serial));
    }
}
