//! Refused joins in the log. Rules:
//! - each address and reason has a line of its own, at once: nothing that differs shares one;
//! - the same again within a moment is counted, and told with its number when that is over: whoever has a token that is none any more does
//!   not fill the log.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wire::status::Refusal;

/// How long the same is counted before it is told.
const MOMENT: Duration = Duration::from_secs(1);

/// Addresses and reasons told apart within a moment, at most.
const TOLD_APART_MAX: usize = 32;

/// Those of the moment that lasts; none: nobody was refused lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<Moment>>);

/// What was refused within a moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moment {
    /// From where and why, and how often again.
    again: BTreeMap<(IpAddr, String), u64>,
    /// Others, of which there were too many to be told apart.
    others: u64,
}

/// What is to be done about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    /// It is the first of its kind.
    first: bool,
    /// A moment begins with it.
    begins: bool,
}

impl Refusals {
    /// Tells of a refused join.
    pub(crate) fn tell(self: &Arc<Self>, from: SocketAddr, why: &Refusal) {
        let taken = self.take(from.ip(), why.to_string());
        if taken.first {
            tracing::info!(%from, reason = %why, "a join was refused");
        }
        if taken.begins {
            let refusals = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(MOMENT).await;
                refusals.close().tell();
            });
        }
    }

    fn take(&self, from: IpAddr, why: String) -> Taken {
        let mut moment = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = moment.is_none();
        let moment = moment.get_or_insert_default();
        let full = moment.again.len() >= TOLD_APART_MAX;
        let first = match moment.again.get_mut(&(from, why.clone())) {
            Some(again) => {
                *again += 1;
                false
            }
            None if full => {
                moment.others += 1;
                false
            }
            None => {
                moment.again.insert((from, why), 0);
                true
            }
        };
        Taken { first, begins }
    }

    /// Ends the moment.
    fn close(&self) -> Moment {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

impl Moment {
    fn tell(&self) {
        for ((from, reason), times) in self.again.iter().filter(|(_, times)| **times > 0) {
            tracing::info!(%from, reason, times, "joins were refused again, within a second of the first");
        }
        if self.others > 0 {
            tracing::info!(
                times = self.others,
                "joins were refused from more addresses, or for more reasons, than are told apart"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_and_what_does_not_is_counted() {
        let refusals = Refusals::default();
        let at = |n: u8| IpAddr::from([127, 0, 0, n]);
        let taken = |first, begins| Taken { first, begins };
        let rows = [
            (1, "ended", taken(true, true)),
            (1, "ended", taken(false, false)),
            (1, "spent", taken(true, false)),
            (2, "ended", taken(true, false)),
            (1, "ended", taken(false, false)),
        ];
        for (from, why, expected) in rows {
            assert_eq!(refusals.take(at(from), why.to_owned()), expected, "{from} {why}");
        }
        let again = [((at(1), "ended"), 2), ((at(1), "spent"), 0), ((at(2), "ended"), 0)];
        let again = again.map(|((from, why), times)| ((from, why.to_owned()), times)).into();
        assert_eq!(refusals.close(), Moment { again, others: 0 });

        // The next moment begins anew, and holds no more than it may; whatever is left over has a number.
        for n in 0..40 {
            let told = refusals.take(at(n), "ended".to_owned());
            assert_eq!(told, taken(usize::from(n) < TOLD_APART_MAX, n == 0), "{n}");
        }
        assert_eq!(refusals.close().others, 8);
    }
}
