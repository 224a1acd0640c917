//! Who may call. Default: nobody.

use std::time::Duration;

use mtls::VerifiedPeer;
use pki::certificate::IssuerId;
use pki::identity::{ClusterId, Role};
use pki::time::Time;

use crate::refusal::Refusal;

/// How long leaves of a former root are accepted after we issued the first leaf to a manager. Source: issue 4.
pub const FORMER_ROOT_FOR: Duration = Duration::from_secs(24 * 3_600);

/// How a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// By a leaf that stands in our log.
    Ours,
    /// By a leaf under a former root of the swarm's.
    Former,
}

/// What a caller is judged by.
#[derive(Clone, Debug)]
pub struct Known<'a> {
    /// Our own name and key.
    pub ca: &'a IssuerId,
    /// The cluster that is served, if that is settled.
    pub cluster: Option<&'a ClusterId>,
    /// Whether exactly this leaf (serial and key) stands in our log as a manager's.
    pub is_logged: bool,
    /// Whether our own certificate is among the former roots: a CA whose earlier log is elsewhere.
    pub former_is_ours: bool,
    /// When the time of the former root began to run at which the caller's chain ended, if it did.
    pub ours_since: Option<Time>,
}

/// Decides who a caller is, whose chain was verified up to our root or a former one.
///
/// What counts is where the chain ended: at our root it must be a leaf that we issued and wrote down. Below another CA that
/// our root certified nobody is let in, for that CA's log is not ours.
///
/// # Errors
/// Why it may not call.
pub fn admit(peer: &VerifiedPeer, known: &Known<'_>, now: Time) -> Result<Standing, Refusal> {
    // The handshake may have been long ago: a connection outlives leaves.
    if peer.expired || peer.not_after < now {
        return Err(Refusal::CallerExpired);
    }
    if let Some(served) = known.cluster
        && *served != peer.subject.cluster
    {
        return Err(Refusal::OtherCluster { served: served.clone(), caller: peer.subject.cluster.clone() });
    }
    if peer.subject.role != Role::Manager {
        return Err(Refusal::NotAManager);
    }
    // Our key may also have been certified by a former root, under another name.
    let is_own_leaf = peer.issuer == *known.ca || peer.issuer.spki == known.ca.spki;
    if peer.anchor == *known.ca || is_own_leaf {
        if !is_own_leaf {
            return Err(Refusal::OtherIssuer);
        }
        if known.is_logged {
            return Ok(Standing::Ours);
        }
        if peer.anchor != *known.ca || !known.former_is_ours {
            return Err(Refusal::NotInLog);
        }
    }
    match known.ours_since {
        Some(since) if now >= since.saturating_add(FORMER_ROOT_FOR) => Err(Refusal::FormerRootOver),
        _ => Ok(Standing::Former),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pki::identity::Subject;
    use pki::key::SpkiHash;
    use pki::serial::Serial;

    const NOW: Time = Time::from_unix_secs(1_800_000_000);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn peer(cluster: &str, role: Role, issuer: &IssuerId) -> VerifiedPeer {
        VerifiedPeer {
            subject: Subject { cluster: cluster.parse().unwrap(), role, node: "n".parse().unwrap() },
            serial: Serial::from_random([1; 20]),
            spki: SpkiHash([1; 32]),
            issuer: issuer.clone(),
            anchor: issuer.clone(),
            not_before: NOW.saturating_sub(HOUR),
            not_after: NOW.saturating_add(HOUR * 1000),
            expired: false,
        }
    }

    #[test]
    fn rows() {
        let ca = IssuerId { subject: vec![1], spki: vec![1] };
        let other = IssuerId { subject: vec![1], spki: vec![2] };
        let cluster: ClusterId = "c".parse().unwrap();
        let known =
            Known { ca: &ca, cluster: Some(&cluster), is_logged: false, former_is_ours: false, ours_since: None };
        let logged = Known { is_logged: true, ..known.clone() };
        let unsettled = Known { cluster: None, ..known.clone() };
        let begun = Known { ours_since: Some(NOW), ..known.clone() };
        let takeover = Known { former_is_ours: true, ..known.clone() };
        let late = Known { ours_since: Some(NOW), ..takeover.clone() };
        let under = |anchor: &IssuerId, issuer: &IssuerId| VerifiedPeer {
            anchor: anchor.clone(),
            ..peer("c", Role::Manager, issuer)
        };
        let below = IssuerId { subject: vec![3], spki: vec![3] };
        let renamed = IssuerId { subject: vec![3], spki: vec![1] };
        let (manager, worker) = (Role::Manager, Role::Worker);
        let day = FORMER_ROOT_FOR;
        let second = Duration::from_secs(1);
        let rows = [
            (peer("c", manager, &ca), &logged, HOUR, "Ours"),
            (peer("c", manager, &ca), &logged, HOUR * 1001, "caller-expired"),
            (VerifiedPeer { expired: true, ..peer("c", manager, &ca) }, &logged, HOUR, "caller-expired"),
            (peer("c", manager, &ca), &known, HOUR, "not-in-log"),
            (peer("c", worker, &ca), &logged, HOUR, "not-a-manager"),
            (peer("d", manager, &ca), &logged, HOUR, "other-cluster"),
            (peer("c", manager, &other), &known, HOUR * 100, "Former"),
            (peer("c", worker, &other), &known, HOUR, "not-a-manager"),
            (peer("d", manager, &other), &known, HOUR, "other-cluster"),
            (peer("d", manager, &other), &unsettled, HOUR, "Former"),
            (peer("d", worker, &other), &unsettled, HOUR, "not-a-manager"),
            (peer("c", manager, &other), &begun, day - second, "Former"),
            (peer("c", manager, &other), &begun, day, "former-root-over"),
            (under(&ca, &below), &known, HOUR, "other-issuer"),
            (under(&ca, &below), &logged, HOUR, "other-issuer"),
            (under(&ca, &below), &takeover, HOUR, "other-issuer"),
            (under(&other, &below), &known, HOUR, "Former"),
            (under(&other, &ca), &logged, HOUR, "Ours"),
            (under(&other, &renamed), &known, HOUR, "not-in-log"),
            (under(&other, &renamed), &takeover, HOUR, "not-in-log"),
            (peer("c", manager, &ca), &takeover, HOUR, "Former"),
            (peer("c", manager, &ca), &late, day, "former-root-over"),
        ];
        for (peer, known, after, wanted) in rows {
            let said = match admit(&peer, known, NOW.saturating_add(after)) {
                Ok(standing) => format!("{standing:?}"),
                Err(refusal) => refusal.word().to_owned(),
            };
            assert_eq!(said, wanted, "{peer:?} {known:?}");
        }
    }
}
