//! Alarms: direct evidence that something is wrong, by name, in the log. The same alarm is said once in ten minutes: whoever
//! causes it cannot fill the log with it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cluster::authorize::Presented;
use pki::identity::NodeId;
use pki::time::Time;

/// How long the same alarm is not said again.
const QUIET: Duration = Duration::from_secs(10 * 60);
/// Alarms remembered for that; with more, the one said longest ago is forgotten.
const REMEMBERED_MAX: usize = 1024;

/// Which alarms were said when.
#[derive(Default)]
pub(crate) struct Alarms {
    said: Mutex<BTreeMap<Alarm, Time>>,
    /// Whose leaf is being looked up.
    turn: tokio::sync::Mutex<()>,
}

impl Alarms {
    /// Says an alarm, unless it was said a short while ago.
    pub(crate) fn raise(&self, alarm: Alarm, now: Time) {
        if self.is_news(&alarm, now) {
            alarm.say();
        }
    }

    /// Says that a leaf is not registered: as an alarm, unless the issuance log has it, which `is_issued` looks up. That takes
    /// a while, so it is done for one leaf at a time; another comes to it when it is presented again.
    pub(crate) async fn raise_for_leaf(
        &self,
        leaf: &Presented,
        now: Time,
        is_issued: impl Future<Output = Option<bool>>,
    ) {
        let Ok(_turn) = self.turn.try_lock() else { return };
        let (node, serial) = (leaf.node.clone(), leaf.serial.to_string());
        let alarm = Alarm::ForgedOrForeignLeaf { node: node.clone(), serial: serial.clone() };
        if !self.is_news(&alarm, now) {
            return;
        }
        match is_issued.await {
            Some(true) => Alarm::ForgottenLeaf { node, serial }.say(),
            Some(false) | None => alarm.say(),
        }
    }

    fn is_news(&self, alarm: &Alarm, now: Time) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
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
    /// A certificate that this cluster did issue and does not hold any more: of a node that renewed often without using what it
    /// got, or that came for its first one too late. It is refused all the same.
    ForgottenLeaf {
        /// Whom it names.
        node: NodeId,
        /// Its serial.
        serial: String,
    },
    /// An external CA answered with a certificate that must not be believed.
    HostileCa {
        /// Which, by its URL.
        url: String,
        /// The kind of it.
        name: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A certificate that an external CA signed for us, and that nobody was given.
    Orphan {
        /// Whom it names.
        node: NodeId,
        /// Its serial.
        serial: String,
    },
    /// What leads from the new root to the one that nodes hold ends soon, and cannot be made anew: the key that made it is not
    /// here.
    LadderEnds {
        /// When.
        end: Time,
    },
    /// A node shows a head of the issuance log that a manager signed, and that is not of this manager's log.
    LogForked {
        /// Who showed it.
        node: NodeId,
        /// Who signed it.
        signed_by: NodeId,
        /// Its entries.
        size: u64,
        /// Its root, hex.
        root: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The same, and nobody whom this manager believes signed it.
    HeadUnproven {
        /// Who showed it.
        node: NodeId,
    },
    /// The issuance log on this manager's disk is not what the state says.
    LogDamaged,
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
                 if it cannot be explained by a restored backup, the CA key is stolen: swarmpki ca rotate --emergency"
            ),
            Self::HostileCa { url, name, detail } => tracing::error!(
                alarm = "hostile-ca",
                url,
                kind = name,
                detail,
                "an external CA answered with what must not be believed: it is left alone for a while, and no node has seen it; \
                 look at that CA and at whoever can answer in its place"
            ),
            Self::Orphan { node, serial } => tracing::warn!(
                alarm = "orphan-certificate",
                %node,
                serial,
                "the external CA signed a certificate that could not be used any more: nobody was given it, and it is not in the issuance log"
            ),
            Self::ForgottenLeaf { node, serial } => tracing::warn!(
                alarm = "forgotten-leaf",
                %node,
                serial,
                "a certificate is presented that this cluster issued and no longer holds valid: \
                 the node has to leave and join again"
            ),
            Self::LadderEnds { end } => tracing::error!(
                alarm = "ladder-ends",
                end = end.rfc3339(),
                "the certificate that leads nodes to the new root ends, and cannot be made anew: \
                 have the root rotation end before, with a deadline if need be: swarmpki ca status"
            ),
            Self::LogForked { node, signed_by, size, root, why } => tracing::error!(
                alarm = "log-forked",
                %node,
                %signed_by,
                size,
                root,
                why,
                "a node was told of another issuance log: one of the two was changed after it was signed, or a manager's key is in \
                 other hands; see docs/operations/audit.md"
            ),
            Self::HeadUnproven { node } => tracing::warn!(
                alarm = "log-head-unproven",
                %node,
                "a node shows a head of another issuance log, and it is not proven that a manager signed it"
            ),
            Self::LogDamaged => tracing::error!(
                alarm = "log-damaged",
                "the issuance log on the disk is not the one of the state: no node is told of it; swarmpki log verify"
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
    use cluster::node::IssuerHash;
    use pki::identity::{ClusterId, Role};
    use pki::key::SpkiHash;
    use pki::serial::Serial;

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
        assert_eq!(alarms.said.lock().map(|said| said.len()).unwrap_or_default(), REMEMBERED_MAX);
    }

    #[tokio::test]
    async fn a_leaf_is_looked_up_once_in_a_while_and_one_at_a_time() {
        let alarms = Alarms::default();
        let at = Time::from_unix_secs(1_700_000_000);
        let leaf = |serial: u8| Presented {
            cluster: ClusterId::generate([1; 17]),
            role: Role::Worker,
            node: NodeId::generate([7; 17]),
            serial: Serial::from_random([serial; 20]),
            spki: SpkiHash([1; 32]),
            issuer: IssuerHash([1; 32]),
            not_before: at,
            not_after: at,
        };
        let looked = std::cell::Cell::new(0);
        let look_up = async || {
            looked.set(looked.get() + 1);
            Some(true)
        };
        alarms.raise_for_leaf(&leaf(1), at, look_up()).await;
        alarms.raise_for_leaf(&leaf(1), at, look_up()).await;
        assert_eq!(looked.get(), 1, "the same");
        // While one is looked up, another is not, and its turn comes later.
        let meanwhile = async {
            alarms.raise_for_leaf(&leaf(3), at, look_up()).await;
            Some(false)
        };
        alarms.raise_for_leaf(&leaf(2), at, meanwhile).await;
        assert_eq!(looked.get(), 1);
        alarms.raise_for_leaf(&leaf(3), at, look_up()).await;
        assert_eq!(looked.get(), 2);
    }
}
