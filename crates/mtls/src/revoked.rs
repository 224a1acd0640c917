//! Certificates that were taken back, as a node holds them. Nothing that one manager says keeps another's word out, or undoes it:
//! - rows are facts: they are taken in whoever says them, in whatever order, and are in force until they end, which is no later than what the node
//!   trusts at all;
//! - epoch and version are a bookmark, where managers may go on, and refuse nothing. When somebody who told something is taken back, or a root
//!   is given up, the bookmark is doubted: everything is told anew, and what is held stays;
//! - of each row it is known who told it. One goes before its end if all of them were taken back themselves, another manager has told
//!   everything, and not this, and it is not by that manager's own word that they were: who accuses does not clear;
//! - who tells more than there can be loses what it alone told.

use std::collections::BTreeMap;
use std::fmt;

use pki::certificate::IssuerId;
use pki::identity::NodeId;
use pki::serial::Serial;
use pki::time::Time;

/// Rows that a manager keeps, and tells, at most.
pub const REVOKED_MAX: usize = 1_000_000;

/// Rows that a node holds at most: all that there are, and as many again, so that of more than that most are of one who makes rows up.
const HELD_MAX: usize = 2 * REVOKED_MAX;

/// Managers' certificates that rows are known to be from, at most: a bit each, and one for all others.
pub const TELLERS_MAX: usize = 63;

/// Told by somebody whose name is not kept any more, and who therefore counts as believed.
const OTHERS: u64 = 1 << TELLERS_MAX;

/// Issuers that they are of at most: a root is replaced every few years.
const ISSUERS_MAX: usize = 4096;

/// Certificates that were taken back, by who issued them and by serial.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RevokedSet {
    epoch: u64,
    version: u64,
    /// SHA-256 over subject and public key, each once.
    issuers: Vec<[u8; 32]>,
    rows: BTreeMap<(u32, Serial), Row>,
    /// Whose statements they are from.
    tellers: Vec<Teller>,
    /// Who told everything up to the bookmark, from the beginning, alone.
    alone: Option<Teller>,
    /// Whether they are to be told anew.
    doubted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Row {
    until: Time,
    /// A bit for each teller, by its place, or [`OTHERS`]; never none.
    told_by: u64,
}

/// A manager's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teller {
    /// Its issuer: SHA-256 over subject and public key.
    pub issuer: [u8; 32],
    /// Its serial.
    pub serial: Serial,
    /// Whose it is.
    pub node: NodeId,
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
    /// The version that there is, by the manager's word: with a greater one than `version` more is to come. 0: it is not said.
    pub newest: u64,
    /// Who issued them.
    pub issuers: Vec<[u8; 32]>,
    /// Each with its issuer's place, and its end.
    pub rows: Vec<(u32, Serial, Time)>,
}

/// A set as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptSet {
    /// Everything in it, as a delta from nothing.
    pub whole: RevokedDelta,
    /// Of each row, who told it: a bit for each of `tellers`; none: nobody knows.
    pub told_by: Vec<u64>,
    /// Whose statements it is from.
    pub tellers: Vec<Teller>,
    /// Whether it is to be told anew.
    pub doubted: bool,
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
    /// Several managers told more than there can be.
    #[error("there is no room for it")]
    Full,
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

    /// Has it told anew: it stays in force. Whether that is new.
    pub fn doubt(&mut self) -> bool {
        self.alone = None;
        !self.rows.is_empty() && !std::mem::replace(&mut self.doubted, true)
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
        !self.rows.is_empty() && self.row(&issuer.digest(), serial).is_some()
    }

    fn row(&self, issuer: &[u8; 32], serial: &Serial) -> Option<&Row> {
        let place = self.issuers.iter().position(|known| known == issuer)?;
        self.rows.get(&(u32::try_from(place).ok()?, *serial))
    }

    /// This set with what a manager told by a statement of this certificate. No row ends after `latest`: what the node trusts ends then.
    ///
    /// # Errors
    /// [`NotTaken`]; the set stays as it is.
    pub fn with(&self, delta: &RevokedDelta, teller: Option<&Teller>, latest: Time) -> Result<Self, NotTaken> {
        self.with_at_most(HELD_MAX, delta, teller, latest)
    }

    fn with_at_most(
        &self,
        most: usize,
        delta: &RevokedDelta,
        teller: Option<&Teller>,
        latest: Time,
    ) -> Result<Self, NotTaken> {
        let (epoch, version) = self.version();
        let begins = delta.since == 0;
        if !begins && (delta.epoch != epoch || delta.since > version) {
            return Err(NotTaken::Gap);
        }
        if delta.version < delta.since || delta.rows.len() > REVOKED_MAX {
            return Err(NotTaken::Malformed);
        }
        let mut set = self.clone();
        let (bit, crowded) = teller.map_or((OTHERS, false), |teller| set.admit(teller));
        set.join(delta, |_| bit, latest)?;
        if begins {
            (set.alone, set.doubted) = (teller.cloned(), false);
        } else if set.alone.as_ref() != teller {
            set.alone = None;
        }
        let filled = set.rows.len() > most && set.make_room(most)?;
        let accused = set.accused();
        if filled || (set.alone.is_none() && (crowded || accused != 0)) || accused & bit != 0 {
            set.doubt();
        }
        if let Some(by) = set.alone.clone()
            && delta.newest != 0
            && delta.version >= delta.newest
        {
            set.settle(&by, bit);
        }
        if set == *self { Err(NotTaken::Old) } else { Ok(set) }
    }

    fn join(&mut self, delta: &RevokedDelta, told_by: impl Fn(usize) -> u64, latest: Time) -> Result<(), NotTaken> {
        if delta.issuers.len() > ISSUERS_MAX {
            return Err(NotTaken::Malformed);
        }
        let mut places = Vec::with_capacity(delta.issuers.len());
        for issuer in &delta.issuers {
            places.push(self.place(issuer).ok_or(NotTaken::Malformed)?);
        }
        for (at, (issuer, serial, until)) in delta.rows.iter().enumerate() {
            let place = *places.get(*issuer as usize).ok_or(NotTaken::Malformed)?;
            let none = Row { until: Time::from_unix_millis(i64::MIN), told_by: 0 };
            let row = self.rows.entry((place, *serial)).or_insert(none);
            row.until = row.until.max((*until).min(latest));
            row.told_by |= told_by(at);
        }
        self.epoch = delta.epoch;
        self.version = delta.version;
        Ok(())
    }

    /// Everything in it, as it is kept.
    #[must_use]
    pub fn to_kept(&self) -> KeptSet {
        let rows = self.rows.iter().map(|((issuer, serial), row)| (*issuer, *serial, row.until)).collect();
        let issuers = self.issuers.clone();
        KeptSet {
            whole: RevokedDelta { epoch: self.epoch, since: 0, version: self.version, newest: 0, issuers, rows },
            told_by: self.rows.values().map(|row| row.told_by).collect(),
            tellers: self.tellers.clone(),
            doubted: self.doubted,
        }
    }

    /// The set as it was kept.
    ///
    /// # Errors
    /// [`NotTaken::Malformed`]: it never was one.
    pub fn from_kept(kept: &KeptSet) -> Result<Self, NotTaken> {
        let (tellers, doubted) = (kept.tellers.clone(), kept.doubted);
        if tellers.len() > TELLERS_MAX || kept.whole.rows.len() > HELD_MAX {
            return Err(NotTaken::Malformed);
        }
        let known = OTHERS | ((1 << tellers.len()) - 1);
        let told_by = |at: usize| match kept.told_by.get(at).map_or(0, |told_by| told_by & known) {
            0 => OTHERS,
            told_by => told_by,
        };
        let mut set = Self { tellers, doubted, ..Self::default() };
        set.join(&kept.whole, told_by, Time::from_unix_millis(i64::MAX))?;
        Ok(set)
    }

    /// Lets go of rows whose certificates ended before `now`; whether there were any.
    pub fn expire(&mut self, now: Time) -> bool {
        let before = self.rows.len();
        self.rows.retain(|_, row| row.until >= now);
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

    /// The tellers of whom this holds.
    fn which(&self, holds: impl Fn(&Teller) -> bool) -> u64 {
        bits(self.tellers.iter().map(holds))
    }

    /// Tellers that were taken back themselves.
    fn accused(&self) -> u64 {
        self.which(|teller| self.row(&teller.issuer, &teller.serial).is_some())
    }

    /// `by` has told everything, and no more. What was told by nobody but those who were taken back by others' word goes.
    fn settle(&mut self, by: &Teller, own: u64) {
        let others = self.which(|teller| teller.node != by.node);
        let accused =
            self.which(|teller| self.row(&teller.issuer, &teller.serial).is_some_and(|row| row.told_by & others != 0));
        let disbelieved = accused & !own;
        self.rows.retain(|_, row| row.told_by & !disbelieved != 0);
        // Whoever is not needed to know whose the rest is does not have everything told anew any more.
        let accused = self.accused();
        let theirs = self.rows.values().filter(|row| row.told_by & !accused == 0);
        let needed = theirs.fold(0, |needed, row| needed | row.told_by);
        if accused & !needed != 0 {
            self.relabel(|bit| bit & (!accused | needed));
        }
    }

    /// The place of a teller, as a bit; whether others had to be forgotten for it.
    fn admit(&mut self, teller: &Teller) -> (u64, bool) {
        let known = self.tellers.iter().position(|known| known == teller);
        let crowded = known.is_none() && self.tellers.len() >= TELLERS_MAX;
        if crowded {
            self.forget();
        }
        let place = known.unwrap_or_else(|| {
            self.tellers.push(teller.clone());
            self.tellers.len() - 1
        });
        (1 << place, crowded)
    }

    /// Makes room for tellers. A manager's newest certificate speaks for its older ones; if there are too many managers, the first ones' names
    /// are lost. What they told stays.
    fn forget(&mut self) {
        let accused = self.accused();
        let newest = |teller: &Teller| {
            let of = self.which(|other| other.node == teller.node) & !accused;
            of.checked_ilog2().map_or(0, |place| 1_u64 << place)
        };
        let mut into: Vec<u64> = Vec::with_capacity(self.tellers.len());
        for (place, teller) in self.tellers.iter().enumerate() {
            let bit = 1 << place;
            into.push(if accused & bit == 0 { newest(teller) } else { bit });
        }
        let stay = |into: &[u64]| into.iter().enumerate().filter(|(place, into)| **into == 1 << place).count();
        if stay(&into) >= TELLERS_MAX {
            into.iter_mut().take(TELLERS_MAX / 2).for_each(|into| *into = OTHERS);
        }
        self.relabel(|bit| into.get(bit.trailing_zeros() as usize).copied().unwrap_or(OTHERS));
    }

    /// Has each teller's rows told by what `into` says for its bit; who is itself stays.
    fn relabel(&mut self, into: impl Fn(u64) -> u64) {
        let before: Vec<u64> = (0..self.tellers.len()).map(|place| 1 << place).collect();
        let stays: Vec<u64> = before.iter().copied().filter(|bit| into(*bit) == *bit).collect();
        let anew = |bit: u64| match stays.iter().position(|stays| *stays == bit) {
            Some(place) => 1 << place,
            None if bit == 0 => 0,
            None => OTHERS,
        };
        let after: Vec<u64> = before.iter().map(|bit| anew(into(*bit))).collect();
        for row in self.rows.values_mut() {
            let told = before.iter().zip(&after).filter(|(bit, _)| row.told_by & **bit != 0);
            row.told_by = told.fold(row.told_by & OTHERS, |told_by, (_, bit)| told_by | bit);
        }
        let mut bit = before.iter();
        self.tellers.retain(|_| bit.next().is_some_and(|bit| stays.contains(bit)));
    }

    /// Lets go of what one manager alone told, of the one with most of that.
    fn make_room(&mut self, most: usize) -> Result<bool, NotTaken> {
        let of_node = |teller: &Teller| self.which(|other| other.node == teller.node);
        let alone = |of: u64| self.rows.values().filter(|row| row.told_by & !of == 0).count();
        let nodes = self.tellers.iter().map(of_node);
        let (_, of) = nodes.map(|of| (alone(of), of)).max_by_key(|(alone, _)| *alone).ok_or(NotTaken::Full)?;
        self.rows.retain(|_, row| row.told_by & !of != 0);
        if self.rows.len() > most { Err(NotTaken::Full) } else { Ok(true) }
    }
}

fn bits(of: impl Iterator<Item = bool>) -> u64 {
    of.enumerate().fold(0, |bits, (place, is)| bits | u64::from(is) << place)
}

impl fmt::Debug for RevokedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevokedSet")
            .field("epoch", &self.epoch)
            .field("version", &self.version)
            .field("rows", &self.rows.len())
            .field("tellers", &self.tellers.len())
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

    /// Certificate `n` of a node.
    fn teller_of(node: u8, n: u8) -> Teller {
        let node = format!("m{node}").parse().unwrap();
        Teller { issuer: issuer(1).digest(), serial: serial(n), node }
    }

    fn teller(n: u8) -> Teller {
        teller_of(n, n)
    }

    fn delta(epoch: u64, since: u64, rows: &[(u8, u8)]) -> RevokedDelta {
        let version = since + rows.len() as u64;
        RevokedDelta {
            epoch,
            since,
            version,
            newest: version,
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

    /// What was told by these, one after the other.
    fn after(told: &[(u8, RevokedDelta)]) -> RevokedSet {
        let next = |set: RevokedSet, (by, delta): &(u8, RevokedDelta)| match set.with(delta, Some(&teller(*by)), LATEST)
        {
            Err(NotTaken::Old) => set,
            next => next.unwrap(),
        };
        told.iter().fold(RevokedSet::default(), next)
    }

    fn all(rows: &[u8]) -> RevokedDelta {
        let rows: Vec<_> = rows.iter().map(|row| (0, *row)).collect();
        delta(0, 0, &rows)
    }

    fn holds(set: &RevokedSet) -> Vec<u8> {
        (0..=u8::MAX).filter(|row| set.contains(&issuer(1), &serial(*row))).collect()
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
                let kept = RevokedSet::from_kept(&next.to_kept()).unwrap();
                assert_eq!(kept, RevokedSet { alone: None, ..next }, "{what}");
            }
        }
    }

    #[test]
    fn a_bookmark_of_a_thief_keeps_nothing_out() {
        for (epoch, version) in [(0, u64::MAX), (u64::MAX, u64::MAX), (u64::MAX, 0)] {
            let lie = RevokedDelta { epoch, since: 0, version, ..delta(0, 0, &[(0, 50)]) };
            let lied = told(&RevokedSet::default(), &lie, 66).unwrap();
            // Honest managers go on from the beginning: they never had so many.
            let set = told(&lied, &all(&[10, 66]), 100).unwrap();
            assert_eq!((holds(&set), set.version()), (vec![10, 50, 66], (0, 2)), "{epoch} {version}");
        }
    }

    #[test]
    fn who_comes_later_may_go_on_but_not_from_what_somebody_told_who_was_taken_back() {
        let set = after(&[(66, all(&[10])), (100, delta(0, 1, &[(0, 66)]))]);
        assert!(set.is_doubted() && set.version() == (0, 0) && holds(&set) == [10, 66]);
        assert_eq!(told(&set, &delta(0, 2, &[(0, 67)]), 100), Err(NotTaken::Gap), "from the beginning");
        let anew = told(&set, &all(&[9, 66]), 100).unwrap();
        assert_eq!((anew.is_doubted(), anew.version(), holds(&anew)), (false, (0, 2), vec![9, 10, 66]));
    }

    #[test]
    fn what_a_thief_told_goes_by_the_word_of_two() {
        // The thief (66) has an honest manager (101) and others refused. Its certificate is taken back: one manager says so.
        let lied = [(100, all(&[10])), (66, all(&[10, 50, 101])), (100, all(&[10, 66]))];
        assert_eq!(holds(&after(&lied)), [10, 50, 66, 101], "who accuses does not clear");
        let same = (100, all(&[10, 66, 67]));
        assert_eq!(holds(&after(&[&lied[..], &[same.clone(), same]].concat())), [10, 50, 66, 67, 101]);
        let cleared = after(&[&lied[..], &[(102, all(&[10, 66]))]].concat());
        assert_eq!(holds(&cleared), [10, 66], "another says so too, and tells nothing of the thief's");
        assert!(!cleared.is_doubted() && !cleared.tellers().contains(&teller(66)), "nobody has it told anew for that");
        // Piece by piece nothing goes before the last one.
        let first = RevokedDelta { newest: 2, ..all(&[10]) };
        let mut pieces = [&lied[..], &[(102, first)]].concat();
        assert_eq!(holds(&after(&pieces)), [10, 50, 66, 101]);
        pieces.push((102, delta(0, 1, &[(0, 66)])));
        assert_eq!(holds(&after(&pieces)), [10, 66]);
        // Who tells pieces of it only, or does not say whether that is all, clears nothing.
        let go_on = [&lied[..], &[(102, delta(0, 2, &[(0, 67)]))]].concat();
        assert_eq!(holds(&after(&go_on)), [10, 50, 66, 67, 101]);
        let unsaid = [&lied[..], &[(102, RevokedDelta { newest: 0, ..all(&[10, 66]) })]].concat();
        assert_eq!(holds(&after(&unsaid)), [10, 50, 66, 101]);
    }

    #[test]
    fn a_liar_takes_back_nothing_that_others_told() {
        let honest = [(100, all(&[10, 11])), (101, all(&[10, 11, 12]))];
        // It accuses one who told something, or all of them, and tells everything anew: nothing.
        for accused in [&[100][..], &[101], &[100, 101]] {
            let mut set = after(&[&honest[..], &[(66, all(accused))]].concat());
            for (by, n) in [(66, 66), (66, 67)] {
                for lie in [all(&[]), all(accused), RevokedDelta { epoch: 7, ..all(&[]) }] {
                    set = match set.with(&lie, Some(&teller_of(by, n)), LATEST) {
                        Err(NotTaken::Old) => set,
                        next => next.unwrap(),
                    };
                }
            }
            assert_eq!(holds(&set), [&[10, 11, 12], accused].concat(), "also with another certificate of its own");
        }
        // What one told of those whom it accuses comes back if another tells it.
        let set = after(&[&honest[..], &[(66, all(&[100])), (102, all(&[10, 11, 12]))]].concat());
        assert_eq!(holds(&set), [10, 11, 12, 100], "no word but the liar's is against it, and the liar is believed");
    }

    #[test]
    fn who_fills_the_room_loses_what_it_alone_told() {
        let honest = after(&[(100, all(&[10, 11, 12, 13])), (101, all(&[10]))]);
        let many: Vec<u8> = (20..26).collect();
        let lie = all(&many);
        for (certificates, expected) in [(&[66][..], vec![10, 11, 12, 13]), (&[66, 67], vec![10, 11, 12, 13])] {
            let mut set = honest.clone();
            for (at, n) in certificates.iter().enumerate() {
                let piece = all(&many[at..(many.len() / certificates.len()) * (at + 1)]);
                set = set.with_at_most(8, &piece, Some(&teller_of(66, *n)), LATEST).unwrap();
            }
            assert_eq!((holds(&set), set.is_doubted()), (expected, true), "{certificates:?}");
        }
        // Whoever's row it is that does not fit.
        let full = honest.with_at_most(10, &lie, Some(&teller(66)), LATEST).unwrap();
        assert_eq!(full.len(), 10);
        let next = full.with_at_most(10, &all(&[14]), Some(&teller(100)), LATEST).unwrap();
        assert_eq!((holds(&next), next.version()), (vec![10, 11, 12, 13, 14], (0, 0)));
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
    fn of_many_tellers_names_are_lost_and_no_rows() {
        // Many certificates of two managers: the newest ones speak for the others.
        let mut set = RevokedSet::default();
        for n in 0..TELLERS_MAX as u8 {
            set = set.with(&delta(0, set.version().1, &[(1, n)]), Some(&teller_of(n % 2, 100 + n)), LATEST).unwrap();
            assert!(!set.is_doubted(), "{n}");
        }
        let next = delta(0, set.version().1, &[(1, 99)]);
        set = set.with(&next, Some(&teller_of(2, 99)), LATEST).unwrap();
        assert!(set.is_doubted() && set.tellers().len() == 3 && set.len() == TELLERS_MAX + 1);
        // What they told of before is theirs still: one of them, taken back, is cleared by two others.
        let back = |set: &RevokedSet, by| set.with(&all(&[161, 162]), Some(&teller_of(by, 200 + by)), LATEST).unwrap();
        assert_eq!(back(&back(&set, 7), 8).len(), 3, "but what the third told alone");

        // Many managers: the first ones' names are lost, what they told stays for good.
        let mut set = RevokedSet::default();
        for n in 0..=TELLERS_MAX as u8 {
            set = told(&set, &delta(0, set.version().1, &[(1, n)]), n).unwrap();
        }
        assert!(set.is_doubted() && set.tellers().len() == TELLERS_MAX - TELLERS_MAX / 2 + 1);
        assert_eq!(told(&set, &delta(0, 5, &[(1, 99)]), 1), Err(NotTaken::Gap), "from the beginning");
        let rows: Vec<u8> = (0..=TELLERS_MAX as u8).collect();
        let set = [201, 202].iter().fold(set, |set, by| told(&set, &all(&rows), *by).unwrap());
        assert_eq!(set.len(), rows.len() + TELLERS_MAX / 2, "of all others every row is gone");
    }

    #[test]
    fn nothing_is_nothing_to_doubt() {
        let mut none = RevokedSet::default();
        assert!(!none.doubt() && !none.is_doubted());
        let mut set = told(&none, &delta(0, 0, &[(0, 7)]), 1).unwrap();
        assert!(set.doubt() && !set.doubt() && set.version() == (0, 0) && holds(&set) == [7]);
    }

    #[test]
    fn what_is_kept_may_be_damaged() {
        let kept = after(&[(100, all(&[10])), (66, all(&[50, 100]))]).to_kept();
        let read = |kept: &KeptSet| RevokedSet::from_kept(kept).unwrap();
        assert_eq!(read(&kept).to_kept(), kept);
        // Of nobody who is known: nobody's word takes it away.
        for told_by in [vec![], vec![0; 3], vec![1 << 40; 3]] {
            assert!(read(&KeptSet { told_by, ..kept.clone() }).to_kept().told_by.iter().all(|by| *by == OTHERS));
        }
        let many = KeptSet { tellers: (0..=TELLERS_MAX as u8).map(teller).collect(), ..kept };
        assert_eq!(RevokedSet::from_kept(&many), Err(NotTaken::Malformed));
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
