//! Certificates that were taken back, as a node holds them: a set that only grows, until its rows end.

use std::collections::BTreeMap;
use std::fmt;

use pki::certificate::IssuerId;
use pki::serial::Serial;
use pki::time::Time;

/// Rows that a node holds at most; a manager keeps no more.
pub const REVOKED_MAX: usize = 1_000_000;

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
}

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
    /// The cluster's epoch that it is of, and how many rows ever came in it.
    #[must_use]
    pub fn version(&self) -> (u64, u64) {
        (self.epoch, self.version)
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
        let issuer = issuer.digest();
        let place = self.issuers.iter().position(|known| *known == issuer).and_then(|at| u32::try_from(at).ok());
        place.is_some_and(|place| self.rows.contains_key(&(place, *serial)))
    }

    /// This set with what a manager told. Nothing is ever taken out by it; a later epoch counts its rows anew.
    ///
    /// # Errors
    /// [`NotTaken`]; the set stays as it is.
    pub fn with(&self, delta: &RevokedDelta) -> Result<Self, NotTaken> {
        if delta.epoch < self.epoch || (delta.epoch == self.epoch && delta.version <= self.version) {
            return Err(NotTaken::Old);
        }
        let held = if delta.epoch == self.epoch { self.version } else { 0 };
        if delta.since > held {
            return Err(NotTaken::Gap);
        }
        if delta.version < delta.since || delta.issuers.len() > ISSUERS_MAX {
            return Err(NotTaken::Malformed);
        }
        let mut set = self.clone();
        let mut places = Vec::with_capacity(delta.issuers.len());
        for issuer in &delta.issuers {
            places.push(set.place(issuer).ok_or(NotTaken::Malformed)?);
        }
        for (issuer, serial, until) in &delta.rows {
            let place = *places.get(*issuer as usize).ok_or(NotTaken::Malformed)?;
            set.rows.insert((place, *serial), *until);
        }
        if set.rows.len() > REVOKED_MAX {
            return Err(NotTaken::Malformed);
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
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn serial(n: u8) -> Serial {
        Serial::from_random([n; 20])
    }

    fn issuer(n: u8) -> IssuerId {
        IssuerId { subject: vec![n], spki: vec![n] }
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

    #[test]
    fn it_only_grows_and_an_older_one_never_replaces_a_newer_one() {
        let empty = RevokedSet::default();
        let first = empty.with(&delta(0, 0, &[(0, 10), (1, 11)])).unwrap();
        assert_eq!((first.version(), first.len()), ((0, 2), 2));
        assert!(first.contains(&issuer(1), &serial(10)) && first.contains(&issuer(2), &serial(11)));
        assert!(!first.contains(&issuer(2), &serial(10)), "another issuer's");
        let rows = [
            (delta(0, 0, &[(0, 10)]), Err(NotTaken::Old)),
            (delta(0, 0, &[(0, 10), (0, 11)]), Err(NotTaken::Old)),
            (delta(0, 3, &[(0, 12)]), Err(NotTaken::Gap)),
            (delta(0, 2, &[(2, 12)]), Err(NotTaken::Malformed)),
            (RevokedDelta { version: 9, since: 10, epoch: 1, ..delta(0, 0, &[]) }, Err(NotTaken::Gap)),
            (delta(0, 2, &[(0, 12)]), Ok((0, 3))),
            (delta(0, 1, &[(0, 11), (0, 12)]), Ok((0, 3))),
            (delta(1, 1, &[(0, 12)]), Err(NotTaken::Gap)),
            (delta(1, 0, &[(0, 12)]), Ok((1, 1))),
        ];
        for (told, expected) in rows {
            let next = first.with(&told);
            assert_eq!(next.as_ref().map(RevokedSet::version).map_err(|why| *why), expected, "{told:?}");
            if let Ok(next) = next {
                assert!(next.contains(&issuer(1), &serial(10)) && next.contains(&issuer(1), &serial(12)), "{told:?}");
                assert_eq!(RevokedSet::default().with(&next.whole()).unwrap(), next);
                assert_eq!(next.with(&delta(0, 2, &[(0, 13)])), Err(NotTaken::Old), "{told:?}");
            }
        }
    }

    #[test]
    fn rows_end_with_their_certificates() {
        let mut set = RevokedSet::default().with(&delta(0, 0, &[(0, 10), (0, 20)])).unwrap();
        assert!(!set.expire(Time::from_unix_secs(10)));
        assert!(set.expire(Time::from_unix_secs(11)));
        assert!(!set.contains(&issuer(1), &serial(10)) && set.contains(&issuer(1), &serial(20)));
        assert_eq!(set.version(), (0, 2));
    }
}
