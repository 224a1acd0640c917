//! Certificates that were taken back, as a node holds them: rows are facts, and are taken in whoever says them, in whatever order; they go when
//! they end. Nothing that a manager says can keep another manager's rows out:
//! - epoch and version are a bookmark, where managers may go on, and refuse nothing;
//! - a row ends no later than what the node trusts at all;
//! - who said what is held is held too. If one of them is taken back itself, everything is doubted: it stays in force, and is replaced by
//!   what another manager tells from the beginning.

use std::collections::BTreeMap;
use std::fmt;

use pki::certificate::IssuerId;
use pki::serial::Serial;
use pki::time::Time;

/// Rows that a node holds at most; a manager keeps no more.
pub const REVOKED_MAX: usize = 1_000_000;

/// Managers' certificates that rows are from at most; with more, all is asked for anew.
pub const TELLERS_MAX: usize = 64;

/// Issuers that they are of at most: a root is replaced every few years.
const ISSUERS_MAX: usize = 4096;

/// Certificates that were taken back, by who issued them and by serial.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RevokedSet {
    epoch: u64,
    version: u64,
    /// SHA-256 over subject and public key, each once.
    issuers: Vec<[u8; 32]>,
    rows: BTreeMap<(u32, Serial), Time>,
    /// Whose statements they are from.
    tellers: Vec<Teller>,
    /// Whether they are to be told anew.
    doubted: bool,
}

/// A manager's certificate: its issuer's SHA-256 over subject and public key, and its serial.
pub type Teller = ([u8; 32], Serial);

/// What a manager told: the rows after one version, up to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevokedDelta {
    /// The cluster's epoch.
    pub epoch: u64,
    /// Rows after this version.
    pub since: u64,
    /// Up to this one.
    pub version: u64,
    /// Who issued them.
    pub issuers: Vec<[u8; 32]>,
    /// Each with its issuer's place, and its end.
    pub rows: Vec<(u32, Serial, Time)>,
}

/// Why a delta was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// What is held is as new, or newer.
    #[error("what is held is as new, or newer")]
    Old,
    /// Rows before it are missing.
    #[error("rows before it are missing")]
    Gap,
    /// It contradicts itself, or is larger than any can be.
    #[error("it cannot be what a manager says")]
    Malformed,
}

impl RevokedSet {
    /// Where whoever told it goes on: the epoch, and how many rows ever came in it; both 0 if it is doubted.
    #[must_use]
    pub fn version(&self) -> (u64, u64) {
        if self.doubted { (0, 0) } else { (self.epoch, self.version) }
    }

    /// Whose statements it is from.
    #[must_use]
    pub fn tellers(&self) -> &[Teller] {
        &self.tellers
    }

    /// Whether it is to be told anew from the beginning.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Has it told anew: it stays in force until it is. Whether that is new.
    pub fn doubt(&mut self) -> bool {
        !self.rows.is_empty() && !std::mem::replace(&mut self.doubted, true)
    }

    /// The same set with what is known of where it is from: as it was kept.
    #[must_use]
    pub fn from_tellers(mut self, tellers: Vec<Teller>, doubted: bool) -> Self {
        self.doubted = doubted || tellers.len() > TELLERS_MAX;
        self.tellers = tellers;
        self.tellers.truncate(TELLERS_MAX);
        self
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether this certificate was taken back.
    #[must_use]
    pub fn contains(&self, issuer: &IssuerId, serial: &Serial) -> bool {
        if self.rows.is_empty() {
            return false;
        }
        self.has(&issuer.digest(), serial)
    }

    fn has(&self, issuer: &[u8; 32], serial: &Serial) -> bool {
        let place = self.issuers.iter().position(|known| known == issuer).and_then(|at| u32::try_from(at).ok());
        place.is_some_and(|place| self.rows.contains_key(&(place, *serial)))
    }

    /// This set with what a manager told by a statement of this certificate. No row ends after `latest`: what the node trusts ends then.
    ///
    /// # Errors
    /// [`NotTaken`]; the set stays as it is.
    pub fn with(&self, delta: &RevokedDelta, teller: Option<&Teller>, latest: Time) -> Result<Self, NotTaken> {
        let whole = delta.since == 0;
        let (epoch, version) = self.version();
        if !whole && (delta.epoch != epoch || delta.since > version) {
            return Err(NotTaken::Gap);
        }
        if delta.version < delta.since || delta.issuers.len() > ISSUERS_MAX || delta.rows.len() > REVOKED_MAX {
            return Err(NotTaken::Malformed);
        }
        // What is doubted is not in the way of what is told anew.
        let base = if whole && self.doubted { Self::default() } else { self.clone() };
        let mut set = base.joined(delta, latest)?;
        if set.rows.len() > REVOKED_MAX {
            // More than any manager keeps: somebody made rows up.
            set = Self::default().joined(delta, latest)?;
            set.doubted = !whole;
        }
        if let Some(teller) = teller
            && !set.tellers.contains(teller)
        {
            set.tellers.push(*teller);
        }
        if set.tellers.len() > TELLERS_MAX {
            set.tellers.remove(0);
            set.doubted = true;
        }
        if set.tellers.iter().any(|(issuer, serial)| set.has(issuer, serial)) {
            set.doubted = true;
        }
        if set == *self { Err(NotTaken::Old) } else { Ok(set) }
    }

    fn joined(&self, delta: &RevokedDelta, latest: Time) -> Result<Self, NotTaken> {
        let mut set = self.clone();
        let mut places = Vec::with_capacity(delta.issuers.len());
        for issuer in &delta.issuers {
            places.push(set.place(issuer).ok_or(NotTaken::Malformed)?);
        }
        for (issuer, serial, until) in &delta.rows {
            let place = *places.get(*issuer as usize).ok_or(NotTaken::Malformed)?;
            let end = set.rows.entry((place, *serial)).or_insert(Time::from_unix_millis(i64::MIN));
            *end = (*end).max((*until).min(latest));
        }
        set.epoch = delta.epoch;
        set.version = delta.version;
        Ok(set)
    }

    /// Everything in it, as a delta from nothing.
    #[must_use]
    pub fn whole(&self) -> RevokedDelta {
        RevokedDelta {
            epoch: self.epoch,
            since: 0,
            version: self.version,
            issuers: self.issuers.clone(),
            rows: self.rows.iter().map(|((issuer, serial), until)| (*issuer, *serial, *until)).collect(),
        }
    }

    /// Lets go of rows whose certificates ended before `now`; whether there were any.
    pub fn expire(&mut self, now: Time) -> bool {
        let before = self.rows.len();
        self.rows.retain(|_, until| *until >= now);
        self.rows.len() != before
    }

    fn place(&mut self, issuer: &[u8; 32]) -> Option<u32> {
        let known = self.issuers.iter().position(|known| known == issuer);
        let place = match known {
            Some(place) => place,
            None if self.issuers.len() >= ISSUERS_MAX => return None,
            None => {
                self.issuers.push(*issuer);
                self.issuers.len() - 1
            }
        };
        u32::try_from(place).ok()
    }
}

impl fmt::Debug for RevokedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevokedSet")
            .field("epoch", &self.epoch)
            .field("version", &self.version)
            .field("rows", &self.rows.len())
            .field("doubted", &self.doubted)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const LATEST: Time = Time::from_unix_millis(1_000_000);

    fn serial(n: u8) -> Serial {
        Serial::from_random([n; 20])
    }

    fn issuer(n: u8) -> IssuerId {
        IssuerId { subject: vec![n], spki: vec![n] }
    }

    fn teller(n: u8) -> Teller {
        (issuer(1).digest(), serial(n))
    }

    fn delta(epoch: u64, since: u64, rows: &[(u8, u8)]) -> RevokedDelta {
        RevokedDelta {
            epoch,
            since,
            version: since + rows.len() as u64,
            issuers: vec![issuer(1).digest(), issuer(2).digest()],
            rows: rows
                .iter()
                .map(|(place, number)| ((*place).into(), serial(*number), Time::from_unix_secs((*number).into())))
                .collect(),
        }
    }

    fn told(set: &RevokedSet, delta: &RevokedDelta, by: u8) -> Result<RevokedSet, NotTaken> {
        set.with(delta, Some(&teller(by)), LATEST)
    }

    #[test]
    fn it_only_grows_whatever_the_bookmark_says() {
        let first = told(&RevokedSet::default(), &delta(0, 0, &[(0, 10), (1, 11)]), 100).unwrap();
        assert_eq!((first.version(), first.len()), ((0, 2), 2));
        assert!(first.contains(&issuer(1), &serial(10)) && first.contains(&issuer(2), &serial(11)));
        assert!(!first.contains(&issuer(2), &serial(10)), "another issuer's");
        let rows = [
            ("the same", delta(0, 0, &[(0, 10), (1, 11)]), Err(NotTaken::Old)),
            ("of one that is behind", delta(0, 0, &[(0, 10)]), Ok(((0, 1), 2))),
            ("others", delta(0, 0, &[(0, 10), (0, 11)]), Ok(((0, 2), 3))),
            ("a gap", delta(0, 3, &[(0, 12)]), Err(NotTaken::Gap)),
            ("of no issuer", delta(0, 2, &[(2, 12)]), Err(NotTaken::Malformed)),
            ("back to front", RevokedDelta { version: 1, since: 2, ..delta(0, 2, &[]) }, Err(NotTaken::Malformed)),
            ("the next", delta(0, 2, &[(0, 12)]), Ok(((0, 3), 3))),
            ("some again", delta(0, 1, &[(0, 11), (0, 12)]), Ok(((0, 3), 4))),
            ("of a later epoch, not from the beginning", delta(1, 1, &[(0, 12)]), Err(NotTaken::Gap)),
            ("of a later epoch", delta(1, 0, &[(0, 12)]), Ok(((1, 1), 3))),
        ];
        for (what, delta, expected) in rows {
            let next = told(&first, &delta, 100);
            assert_eq!(next.as_ref().map(|next| (next.version(), next.len())).map_err(|why| *why), expected, "{what}");
            if let Ok(next) = next {
                assert!(next.contains(&issuer(1), &serial(10)) && next.contains(&issuer(2), &serial(11)), "{what}");
                let kept = RevokedSet::default().with(&next.whole(), None, LATEST).unwrap();
                assert_eq!(kept.from_tellers(next.tellers().to_vec(), next.is_doubted()), next, "{what}");
            }
        }
    }

    #[test]
    fn a_bookmark_of_a_thief_keeps_nothing_out() {
        for (epoch, version) in [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 0)] {
            let lie = RevokedDelta { epoch, since: 0, version, ..delta(0, 0, &[(0, 50)]) };
            let lied = told(&RevokedSet::default(), &lie, 66).unwrap();
            // An honest manager goes on from the beginning: it never had so many.
            let set = told(&lied, &delta(0, 0, &[(0, 10), (0, 66)]), 100).unwrap();
            assert!(set.contains(&issuer(1), &serial(10)), "{epoch} {version}");
            // It says that the thief's certificate was taken back: everything is asked for anew, and stays until then.
            assert!(set.is_doubted() && set.version() == (0, 0) && set.contains(&issuer(1), &serial(50)));
            let anew = told(&set, &delta(0, 0, &[(0, 10), (0, 66)]), 100).unwrap();
            assert_eq!((anew.is_doubted(), anew.version(), anew.tellers()), (false, (0, 2), &[teller(100)][..]));
            assert!(!anew.contains(&issuer(1), &serial(50)) && anew.contains(&issuer(1), &serial(66)));
        }
    }

    #[test]
    fn rows_end_with_what_is_trusted() {
        let far = RevokedDelta {
            rows: vec![(0, serial(1), Time::from_unix_millis(i64::MAX))],
            version: 1,
            ..delta(0, 0, &[])
        };
        let mut set = told(&RevokedSet::default(), &far, 100).unwrap();
        assert!(!set.expire(LATEST) && set.expire(Time::from_unix_millis(LATEST.unix_millis() + 1)));
        assert!(set.is_empty());
    }

    #[test]
    fn many_tellers_are_doubted() {
        let mut set = RevokedSet::default();
        for by in 0..=TELLERS_MAX as u8 {
            assert!(!set.is_doubted(), "{by}");
            set = told(&set, &delta(0, set.version().1, &[(1, by)]), by).unwrap();
        }
        assert!(set.is_doubted() && set.tellers().len() == TELLERS_MAX);
        assert_eq!(told(&set, &delta(0, 5, &[(1, 99)]), 1), Err(NotTaken::Gap), "from the beginning");
    }

    #[test]
    fn nothing_is_nothing_to_doubt() {
        let mut none = RevokedSet::default();
        assert!(!none.doubt() && !none.is_doubted());
        let mut set = told(&none, &delta(0, 0, &[(0, 7)]), 1).unwrap();
        assert!(set.doubt() && !set.doubt() && set.version() == (0, 0));
    }

    #[test]
    fn rows_end_with_their_certificates() {
        let mut set = told(&RevokedSet::default(), &delta(0, 0, &[(0, 10), (0, 20)]), 100).unwrap();
        assert!(!set.expire(Time::from_unix_secs(10)));
        assert!(set.expire(Time::from_unix_secs(11)));
        assert!(!set.contains(&issuer(1), &serial(10)) && set.contains(&issuer(1), &serial(20)));
        assert_eq!(set.version(), (0, 2));
    }
}
