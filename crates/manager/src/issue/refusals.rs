//! Refused joins in the log. Rules:
//! - each machine and reason has a line of its own, at once: nothing that differs shares one;
//! - the same again within a moment is counted, and told with its number when that is over: whoever has a token that is none any more does
//!   not fill the log;
//! - an IPv6 network of 64 bits counts as one machine: whoever has one has as many addresses as they like;
//! - a moment has room for so many, and one line for how many more there were: whoever has many networks does not fill the log either.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wire::status::Refusal;

/// How long the same is counted before it is told.
const MOMENT: Duration = Duration::from_secs(10);

/// Machines and reasons told apart within a moment, at most: two lines for each, and one for all others.
const TOLD_APART_MAX: usize = 32;

/// What counts as one machine: its address, or the first of an IPv6 network of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Machine(IpAddr);

impl From<IpAddr> for Machine {
    fn from(addr: IpAddr) -> Self {
        Self(match addr.to_canonical() {
            IpAddr::V4(addr) => IpAddr::V4(addr),
            IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from_bits(addr.to_bits() >> 64 << 64)),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(addr) => write!(out, "{addr}"),
            IpAddr::V6(addr) => write!(out, "{addr}/64"),
        }
    }
}

/// Those of the moment that lasts; none: nobody was refused lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<Moment>>);

/// What was refused within a moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Moment {
    /// From where and why, and how often again.
    again: BTreeMap<(Machine, String), u64>,
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
        let from = Machine::from(from);
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
            tracing::info!(%from, reason, times, "joins were refused again, within ten seconds of the first");
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is logged while a test runs.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

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
        let again = again.map(|((from, why), times)| ((from.into(), why.to_owned()), times)).into();
        assert_eq!(refusals.close(), Moment { again, others: 0 });

        // The next moment begins anew, and holds no more than it may; whatever is left over has a number.
        for n in 0..40 {
            let told = refusals.take(at(n), "ended".to_owned());
            assert_eq!(told, taken(usize::from(n) < TOLD_APART_MAX, n == 0), "{n}");
        }
        assert_eq!(refusals.close().others, 8);
    }

    #[test]
    fn a_network_of_64_bits_counts_as_one_machine() {
        let told = |from: &str| Machine::from(from.parse::<IpAddr>().unwrap()).to_string();
        let rows = [
            ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
            ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
            ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.2", "192.0.2.2"),
            // How an IPv4 address comes to a socket of both kinds: they are not all of one network.
            ("::ffff:192.0.2.1", "192.0.2.1"),
        ];
        for (from, expected) in rows {
            assert_eq!(told(from), expected, "{from}");
        }
        let refusals = Refusals::default();
        let firsts = (0..1000u128)
            .filter(|n| refusals.take(Ipv6Addr::from_bits((0x2001_0db8 << 96) + n).into(), "ended".to_owned()).first);
        assert_eq!(firsts.count(), 1);
        let moment = refusals.close();
        assert_eq!((moment.again.values().sum::<u64>(), moment.others), (999, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_many_networks_does_not_fill_the_log() {
        let lines = Lines::default();
        let logged = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || logged.clone()).finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        let refusals = Arc::new(Refusals::default());
        let begun = tokio::time::Instant::now();
        // A hundred a second, each twice, for ten seconds.
        for n in 0..1000 {
            let from = Ipv6Addr::from_bits((0x2001_0db8 << 96) + (n << 64));
            for _ in 0..2 {
                refusals.tell(SocketAddr::from((from, 4711)), &Refusal::TokenEnded);
            }
            tokio::time::sleep_until(begun + Duration::from_millis(10) * u32::try_from(n).unwrap()).await;
        }
        tokio::time::sleep_until(begun + MOMENT + Duration::from_millis(1)).await;
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2 * TOLD_APART_MAX + 1, "{text}");
        assert!(text.lines().last().unwrap().contains("times=1936"), "how many were left out is told: {text}");
    }
}
