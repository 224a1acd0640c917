//! `google.protobuf.Duration` ⇄ [`std::time::Duration`].

use std::time::Duration as Span;

use crate::proto::Duration;

/// A duration below zero or not well formed.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("negative or malformed duration")]
pub struct NegativeDuration;

/// The message for a duration; saturates at 2^63 - 1 seconds.
#[must_use]
pub fn to_wire(span: Span) -> Duration {
    Duration {
        seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
        // Below 10^9 always.
        nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
    }
}

/// The duration of a message.
///
/// # Errors
/// If it is negative, or its parts have no meaning together.
pub fn from_wire(message: &Duration) -> Result<Span, NegativeDuration> {
    let seconds = u64::try_from(message.seconds).map_err(|_| NegativeDuration)?;
    let nanos = u32::try_from(message.nanos).map_err(|_| NegativeDuration)?;
    if nanos >= 1_000_000_000 {
        return Err(NegativeDuration);
    }
    Ok(Span::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways() {
        for span in [Span::ZERO, Span::from_millis(5_250), Span::from_secs(7_776_000)] {
            assert_eq!(from_wire(&to_wire(span)), Ok(span));
        }
    }

    #[test]
    fn negative_or_malformed_is_refused() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, 0)] {
            assert_eq!(from_wire(&Duration { seconds, nanos }), Err(NegativeDuration));
        }
    }
}
