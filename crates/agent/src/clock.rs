//! How far this machine's clock is off.
//!
//! - Measured: a manager of ours told its time. Exact to the round trip.
//! - Estimated: read from the start of a certificate just issued, as an engine tells no time. Starts are whole minutes and a
//!   fixed hour back, so that only a difference beyond that noise says something.

use std::fmt;
use std::time::Duration;

use pki::time::Time;

/// An estimate within this says nothing: half a minute of rounding, and the time between signing and receipt. Ours.
const ESTIMATE_NOISE: Duration = Duration::from_secs(90);
/// From here on a difference is worth a warning, and may be why a certificate does not hold. Ours.
const NOTABLE: Duration = Duration::from_secs(60);

/// The managers' clock minus this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// In milliseconds; positive if this machine's clock is behind.
    pub ms: i64,
    /// Whether it is an estimate from the times in a certificate, exact to a minute or two.
    pub estimated: bool,
}

impl ClockOffset {
    pub(crate) const fn measured(ms: i64) -> Self {
        ClockOffset { ms, estimated: false }
    }

    /// From a time that a manager put into a certificate, and ours; `None` if that says nothing.
    pub(crate) fn estimated(theirs: Time, ours: Time) -> Option<Self> {
        let ms = theirs.unix_millis().saturating_sub(ours.unix_millis());
        let offset = ClockOffset { ms, estimated: true };
        (offset.size() > ESTIMATE_NOISE).then_some(offset)
    }

    /// Whether it is large enough to matter.
    #[must_use]
    pub fn is_notable(self) -> bool {
        self.size() >= NOTABLE
    }

    /// Without its direction.
    #[must_use]
    pub const fn size(self) -> Duration {
        Duration::from_millis(self.ms.unsigned_abs())
    }
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = if self.estimated { "about " } else { "" };
        let direction = if self.ms < 0 { "ahead of" } else { "behind" };
        write!(f, "this machine's clock is {about}{} {direction} the managers'", Span(self.size()))
    }
}

/// A duration in at most two units: `2h 5m`.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (high, high_unit, low, low_unit) = match seconds {
            0 => return write!(f, "{}ms", self.0.as_millis()),
            1..60 => return write!(f, "{seconds}s"),
            60..3600 => (seconds / 60, 'm', seconds % 60, 's'),
            3600..86_400 => (seconds / 3600, 'h', seconds % 3600 / 60, 'm'),
            _ => (seconds / 86_400, 'd', seconds % 86_400 / 3600, 'h'),
        };
        write!(f, "{high}{high_unit}")?;
        if low > 0 { write!(f, " {low}{low_unit}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_by_how_much_and_which_way() {
        let rows = [
            (12, false, "this machine's clock is 12ms behind the managers'"),
            (-90_000, false, "this machine's clock is 1m 30s ahead of the managers'"),
            (7_200_000, true, "this machine's clock is about 2h behind the managers'"),
            (-93_600_000, false, "this machine's clock is 1d 2h ahead of the managers'"),
        ];
        for (ms, estimated, text) in rows {
            assert_eq!(ClockOffset { ms, estimated }.to_string(), text);
        }
        assert!(ClockOffset::measured(i64::MIN).to_string().contains("ahead"));
    }

    #[test]
    fn an_estimate_within_its_noise_is_none() {
        let at = Time::from_unix_secs;
        for seconds in [0, 30, 90, -10, -90] {
            assert_eq!(ClockOffset::estimated(at(1_000 + seconds), at(1_000)), None);
        }
        let offset = ClockOffset::estimated(at(1_000), at(1_091));
        assert_eq!(offset, Some(ClockOffset { ms: -91_000, estimated: true }));
    }
}
