//! Alarms: direct evidence that something is wrong, by name, in the log. The same alarm is said once in ten minutes: whoever
//! causes it cannot fill the log with it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pki::identity::NodeId;
use pki::time::Time;

/// How long the same alarm is not said again.
const QUIET: Duration = Duration::from_secs(10 * 60);
/// Alarms remembered for that; with more, the one said longest ago is forgotten.
const REMEMBERED_MAX: usize = 1024;

/// Which alarms were said when.
#[derive(Default)]
pub(crate) struct Alarms(Mutex<BTreeMap<Alarm, Time>>);

impl Alarms {
    /// Says an alarm, unless it was said a short while ago.
    pub(crate) fn raise(&self, alarm: Alarm, now: Time) {
        if self.is_news(&alarm, now) {
            alarm.say();
        }
    }

    fn is_news(&self, alarm: &Alarm, now: Time) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes everything news again.
        if said.get(alarm).is_some_and(|at| *at <= now && now.since(*at) < QUIET) {
            return false;
        }
        if said.len() >= REMEMBERED_MAX
            && let Some(oldest) = said.iter().min_by_key(|(_, at)| **at).map(|(alarm, _)| alarm.clone())
        {
            said.remove(&oldest);
        }
        said.insert(alarm.clone(), now);
        true
    }
}

/// What an alarm is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// A certificate that chains to our root and that nobody registered: somebody else signs with the CA's key, or a state
    /// was rolled back.
    ForgedOrForeignLeaf {
        /// Whom it names.
        node: NodeId,
        /// Its serial.
        serial: String,
    },
    /// A node gets more certificates than is usual.
    ManyIssuances {
        /// Which.
        node: NodeId,
    },
}

impl Alarm {
    fn say(&self) {
        match self {
            Self::ForgedOrForeignLeaf { node, serial } => tracing::error!(
                alarm = "forged-or-foreign-leaf",
                %node,
                serial,
                "a certificate of our root is presented that this cluster never registered; \
                 if it cannot be explained by a restored backup, rotate the root"
            ),
            Self::ManyIssuances { node } => {
                tracing::warn!(alarm = "many-issuances", %node, "a node asks for certificates again and again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_alarm_is_said_once_in_a_while() {
        let alarms = Alarms::default();
        let forged =
            |serial: usize| Alarm::ForgedOrForeignLeaf { node: NodeId::generate([7; 17]), serial: serial.to_string() };
        let at = |secs: i64| Time::from_unix_secs(1_700_000_000 + secs);
        assert!(alarms.is_news(&forged(0), at(0)));
        assert!(!alarms.is_news(&forged(0), at(599)));
        assert!(alarms.is_news(&forged(1), at(599)), "another leaf");
        assert!(alarms.is_news(&Alarm::ManyIssuances { node: NodeId::generate([7; 17]) }, at(599)), "another alarm");
        assert!(alarms.is_news(&forged(0), at(600)));
        assert!(alarms.is_news(&forged(0), at(-1)), "the clock was set back");
        for serial in 2..3 * REMEMBERED_MAX {
            assert!(alarms.is_news(&forged(serial), at(700)));
        }
        assert_eq!(alarms.0.lock().map(|said| said.len()).unwrap_or_default(), REMEMBERED_MAX);
    }
}
