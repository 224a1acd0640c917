//! Points in time, as plain numbers: nothing in this crate reads a clock.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: milliseconds since the Unix epoch, UTC, without leap seconds.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(i64);

const MILLIS_PER_SECOND: i64 = 1_000;
const MILLIS_PER_MINUTE: i64 = 60_000;
const SECONDS_PER_DAY: i64 = 86_400;

impl Time {
    /// The time that is `millis` milliseconds after (or, if negative, before) the Unix epoch.
    pub const fn from_unix_millis(millis: i64) -> Self {
        Time(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn unix_millis(self) -> i64 {
        self.0
    }

    /// The time that is `secs` seconds after the Unix epoch; saturates.
    pub const fn from_unix_secs(secs: i64) -> Self {
        Time(secs.saturating_mul(MILLIS_PER_SECOND))
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn unix_secs(self) -> i64 {
        self.0.div_euclid(MILLIS_PER_SECOND)
    }

    /// This time plus `duration` (whole milliseconds of it); saturates.
    pub fn saturating_add(self, duration: Duration) -> Self {
        Time(self.0.saturating_add(millis(duration)))
    }

    /// This time minus `duration` (whole milliseconds of it); saturates.
    pub fn saturating_sub(self, duration: Duration) -> Self {
        Time(self.0.saturating_sub(millis(duration)))
    }

    /// How long after `earlier` this time is; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The nearest whole minute, halves upwards, as certificates are dated (pki.md 2).
    pub fn round_to_minute(self) -> Self {
        let minutes = self.0.saturating_add(MILLIS_PER_MINUTE / 2).div_euclid(MILLIS_PER_MINUTE);
        Time(minutes.saturating_mul(MILLIS_PER_MINUTE))
    }

    /// RFC 3339 in UTC, with three decimals if there are milliseconds: `2026-11-21T19:42:00Z`.
    pub fn rfc3339(self) -> String {
        let c = self.civil();
        let millis = self.0.rem_euclid(MILLIS_PER_SECOND);
        let fraction = if millis == 0 { String::new() } else { format!(".{millis:03}") };
        format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{fraction}Z", c.year, c.month, c.day, c.hour, c.minute, c.second)
    }

    /// RFC 1123 with the zone `UTC`, as the texts of pki.md 4 show times: `Sat, 21 Nov 2026 19:42:00 UTC`.
    pub fn rfc1123(self) -> String {
        const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let c = self.civil();
        format!(
            "{}, {:02} {} {:04} {:02}:{:02}:{:02} UTC",
            DAYS[usize::from(c.weekday) % 7],
            c.day,
            MONTHS[usize::from(c.month.saturating_sub(1)) % 12],
            c.year,
            c.hour,
            c.minute,
            c.second
        )
    }

    /// Year, month, ... of this time in UTC (proleptic Gregorian calendar).
    pub(crate) fn civil(self) -> Civil {
        let secs = self.unix_secs();
        let days = secs.div_euclid(SECONDS_PER_DAY);
        let rest = secs.rem_euclid(SECONDS_PER_DAY);
        // Days are counted from 0000-03-01, so that leap days end a year; eras are 400 years.
        let from_march = days + 719_468;
        let era = from_march.div_euclid(146_097);
        let day_of_era = from_march.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Civil {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: small(month),
            day: small(day_of_year - (153 * shifted_month + 2) / 5 + 1),
            hour: small(rest / 3_600),
            minute: small(rest / 60 % 60),
            second: small(rest % 60),
            weekday: small((days + 4).rem_euclid(7)),
        }
    }
}

/// A time taken apart.
pub(crate) struct Civil {
    pub(crate) year: i64,
    pub(crate) month: u8,
    pub(crate) day: u8,
    pub(crate) hour: u8,
    pub(crate) minute: u8,
    pub(crate) second: u8,
    weekday: u8,
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

impl From<SystemTime> for Time {
    /// Saturates at the ends of the range.
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Time(millis(after)),
            Err(before) => Time(millis(before.duration()).saturating_neg()),
        }
    }
}

impl From<Time> for SystemTime {
    /// A time that the system cannot express becomes the epoch.
    fn from(time: Time) -> Self {
        let distance = Duration::from_millis(time.0.unsigned_abs());
        if time.0 >= 0 { UNIX_EPOCH.checked_add(distance) } else { UNIX_EPOCH.checked_sub(distance) }
            .unwrap_or(UNIX_EPOCH)
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// For parts of a date, all of which are below 256 by construction.
fn small(part: i64) -> u8 {
    u8::try_from(part).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let check = |secs, iso: &str, rfc1123: &str| {
            let time = Time::from_unix_secs(secs);
            assert_eq!(time.rfc3339(), iso);
            assert_eq!(time.rfc1123(), rfc1123);
        };
        check(0, "1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 UTC");
        check(-1, "1969-12-31T23:59:59Z", "Wed, 31 Dec 1969 23:59:59 UTC");
        check(951_782_400, "2000-02-29T00:00:00Z", "Tue, 29 Feb 2000 00:00:00 UTC");
        check(1_795_290_120, "2026-11-21T19:42:00Z", "Sat, 21 Nov 2026 19:42:00 UTC");
        check(4_107_542_400, "2100-03-01T00:00:00Z", "Mon, 01 Mar 2100 00:00:00 UTC");
        assert_eq!(Time::from_unix_millis(1_005).rfc3339(), "1970-01-01T00:00:01.005Z");
    }

    #[test]
    fn rounds_to_the_nearest_minute() {
        let check = |millis, expected| {
            assert_eq!(Time::from_unix_millis(millis).round_to_minute().unix_millis(), expected);
        };
        check(29_999, 0);
        check(30_000, 60_000);
        check(89_999, 60_000);
        check(-29_999, 0);
    }

    #[test]
    fn converts_and_saturates() {
        let time = Time::from_unix_millis(1_795_290_120_123);
        assert_eq!(Time::from(SystemTime::from(time)), time);
        let early = Time::from_unix_millis(-5);
        assert_eq!(Time::from(SystemTime::from(early)), early);
        assert_eq!(early.since(time), Duration::ZERO);
        assert_eq!(time.saturating_add(Duration::MAX).unix_millis(), i64::MAX);
    }
}
