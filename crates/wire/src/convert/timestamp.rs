//! `google.protobuf.Timestamp` ⇄ [`Time`].

use pki::time::Time;

use crate::proto::Timestamp;

const MILLIS_PER_SECOND: i64 = 1_000;
const NANOS_PER_MILLI: i64 = 1_000_000;

/// The message for a time.
#[must_use]
pub fn to_wire(time: Time) -> Timestamp {
    let millis = time.unix_millis();
    let nanos = millis.rem_euclid(MILLIS_PER_SECOND) * NANOS_PER_MILLI;
    Timestamp {
        seconds: millis.div_euclid(MILLIS_PER_SECOND),
        // Below 10^9 by the line above.
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}

/// The time of a message, rounded down to milliseconds; saturates.
#[must_use]
pub fn from_wire(timestamp: &Timestamp) -> Time {
    let millis = timestamp.seconds.saturating_mul(MILLIS_PER_SECOND);
    let rest = i64::from(timestamp.nanos).div_euclid(NANOS_PER_MILLI);
    Time::from_unix_millis(millis.saturating_add(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for (millis, seconds, nanos) in
            [(0, 0, 0), (1_500, 1, 500_000_000), (-1, -1, 999_000_000), (i64::MAX, 9_223_372_036_854_775, 807_000_000)]
        {
            let message = Timestamp { seconds, nanos };
            assert_eq!(to_wire(Time::from_unix_millis(millis)), message);
            assert_eq!(from_wire(&message).unix_millis(), millis);
        }
    }

    #[test]
    fn extremes_saturate() {
        let message = Timestamp { seconds: i64::MAX, nanos: i32::MAX };
        assert_eq!(from_wire(&message).unix_millis(), i64::MAX);
        let message = Timestamp { seconds: i64::MIN, nanos: i32::MIN };
        assert_eq!(from_wire(&message).unix_millis(), i64::MIN);
    }
}
