//! Spans of time in words: docker's for docker's lines, short ones for our own columns.

use std::time::Duration;

use jiff::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A duration in docker's words (engine-api.md 9).
pub(crate) fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / MINUTE;
    let hours = (seconds + HOUR / 2) / HOUR;
    let days = hours / 24;
    match (seconds, minutes, hours) {
        (0, _, _) => "Less than a second".to_owned(),
        (1, _, _) => "1 second".to_owned(),
        (2..MINUTE, _, _) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, 2..48) => format!("{hours} hours"),
        _ if days < 14 => format!("{days} days"),
        _ if days < 60 => format!("{} weeks", days / 7),
        _ if days < 730 => format!("{} months", days / 30),
        _ => format!("{} years", days / 365),
    }
}

/// A duration in at most two units: `89d 4h`, `2h 5m`, `12s`, `340ms`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let pair = |high: u64, high_name: &str, low: u64, low_name: &str| match low {
        0 => format!("{high}{high_name}"),
        _ => format!("{high}{high_name} {low}{low_name}"),
    };
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => pair(seconds / MINUTE, "m", seconds % MINUTE, "s"),
        HOUR..DAY => pair(seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        _ => pair(seconds / DAY, "d", seconds % DAY / HOUR, "h"),
    }
}

/// When something is, seen from `now`: `in 89d 4h`, `12s ago`.
pub(crate) fn relative(then: Timestamp, now: Timestamp) -> String {
    let ahead = then.duration_since(now);
    let span = short(ahead.unsigned_abs());
    if ahead.is_negative() {
        format!("{span} ago")
    } else if ahead.is_zero() {
        "now".to_owned()
    } else {
        format!("in {span}")
    }
}

/// A window of time, seen from `now`: `in 45d-72d`; a single moment as [`relative`] says it.
pub(crate) fn window(from: Timestamp, to: Timestamp, now: Timestamp) -> String {
    if from == to || from <= now || to <= from {
        return if from <= now && to > now { format!("by {}", short_until(to, now)) } else { relative(to, now) };
    }
    format!(
        "in {}-{}",
        one_unit(from.duration_since(now).unsigned_abs()),
        one_unit(to.duration_since(now).unsigned_abs())
    )
}

fn short_until(to: Timestamp, now: Timestamp) -> String {
    short(to.duration_since(now).unsigned_abs())
}

fn one_unit(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        HOUR..DAY => format!("{}h", seconds / HOUR),
        _ => format!("{}d", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dockers_words() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (5, "5 seconds"),
            (60, "About a minute"),
            (300, "5 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400, "24 hours"),
            (3 * 86_400, "3 days"),
            (20 * 86_400, "2 weeks"),
            (90 * 86_400, "3 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(words(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn short_spans() {
        for (millis, text) in [
            (340, "340ms"),
            (12_000, "12s"),
            (125_000, "2m 5s"),
            (3_600_000, "1h"),
            (7_500_000, "2h 5m"),
            (89 * 86_400_000 + 4 * 3_600_000, "89d 4h"),
        ] {
            assert_eq!(short(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn moments_and_windows() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        assert_eq!(relative(at("2026-11-21T12:00:00Z"), now), "now");
        assert_eq!(relative(at("2026-11-21T13:30:00Z"), now), "in 1h 30m");
        assert_eq!(relative(at("2026-11-21T11:59:48Z"), now), "12s ago");
        assert_eq!(window(at("2027-01-05T12:00:00Z"), at("2027-02-01T12:00:00Z"), now), "in 45d-72d");
        assert_eq!(window(at("2026-11-21T13:00:00Z"), at("2026-11-21T13:00:00Z"), now), "in 1h");
        assert_eq!(window(at("2026-11-21T11:00:00Z"), at("2026-11-21T13:00:00Z"), now), "by 1h");
        assert_eq!(window(at("2026-11-21T10:00:00Z"), at("2026-11-21T11:00:00Z"), now), "1h ago");
    }
}
