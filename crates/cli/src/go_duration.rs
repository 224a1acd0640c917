//! Durations as docker's flags take and print them (`2160h0m0s`), and with days (`90d`), which docker does not know.

use std::time::Duration;

/// Nanoseconds of each unit. Source: engine-api.md 10 (`ns us ms s m h`); `d` is ours: 24 hours.
const UNITS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// A text that is no duration; worded as docker's command words it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    /// Not a number with a unit, negative, or too large (292 years).
    #[error("time: invalid duration \"{0}\"")]
    Invalid(String),
    /// A number alone.
    #[error("time: missing unit in duration \"{0}\"")]
    NoUnit(String),
    /// A unit nobody knows.
    #[error("time: unknown unit \"{1}\" in duration \"{0}\"")]
    BadUnit(String, String),
}

/// Reads `1h30m`, `1.5h`, `90d`, `0`.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if unit.is_empty() {
            return Err(DurationError::NoUnit(text.to_owned()));
        }
        let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(DurationError::BadUnit(text.to_owned(), unit.to_owned()));
        };
        let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let mut part = whole.checked_mul(*nanos).ok_or_else(invalid)?;
        let mut scale = *nanos;
        for digit in fraction.bytes() {
            scale /= 10;
            part = part.checked_add(u64::from(digit - b'0') * scale).ok_or_else(invalid)?;
        }
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = tail;
    }
    if i64::try_from(total).is_err() {
        return Err(invalid());
    }
    Ok(Duration::from_nanos(total))
}

/// A duration in nanoseconds as the API carries it; at most 292 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        for (text, nanos) in [
            ("0", 0),
            ("1h", 3_600_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("2160h0m0s", 7_776_000_000_000_000),
            ("90d", 7_776_000_000_000_000),
            ("1us1µs", 2_000),
            ("+5ms", 5_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_with_dockers_words() {
        for (text, error) in [
            ("90", "time: missing unit in duration \"90\""),
            ("3y", "time: unknown unit \"y\" in duration \"3y\""),
            ("", "time: invalid duration \"\""),
            ("abc", "time: invalid duration \"abc\""),
            ("-1h", "time: invalid duration \"-1h\""),
            ("1..5h", "time: invalid duration \"1..5h\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
        ] {
            assert_eq!(parse(text).map_err(|error| error.to_string()), Err(error.to_owned()), "{text}");
        }
    }
}
