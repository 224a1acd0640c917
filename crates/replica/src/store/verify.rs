//! Reads the whole issuance log, and makes its tree anew: each entry against its hash as it is kept, all of them against the head. All
//! cores read, several pieces each at a time.

use super::table::{ISSUED, PRIVATE};
use super::{Files, Store};
use crate::seal::{Kind, Reader};
use cluster::format::LogRecord;
use cluster::log::tiles::{Place, TILE, root};
use cluster::log::{Hash, LogHead};
use pki::digest::sha256;
use pki::merkle::LEAF;
use redb::{AccessGuard, ReadableDatabase};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Tiles that are read at a time.
const PIECE_TILES: u64 = 16;
/// Readers for each core: what is not in memory is waited for, and others go on meanwhile.
const READERS_A_CORE: usize = 4;
/// Readers at most.
const READERS_MAX: usize = 16;

/// A log that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// Private parts that are there; each is the one that its entry names.
    pub private: u64,
}

/// The first thing that is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", place(.entries))]
pub struct Fault {
    /// Which entry it is, or among which it is.
    pub entries: Range<u64>,
    /// What is wrong.
    pub what: String,
}

fn place(entries: &Range<u64>) -> String {
    match entries.end.saturating_sub(entries.start) {
        0 => "the issuance log".to_owned(),
        1 => format!("entry {} of the issuance log", entries.start),
        _ => format!("entries {} to {} of the issuance log", entries.start, entries.end - 1),
    }
}

impl Fault {
    fn at(seq: u64, what: impl ToString) -> Self {
        Self { entries: seq..seq.saturating_add(1), what: what.to_string() }
    }
}

/// What the readers share.
struct Work<'a> {
    files: &'a Files,
    size: u64,
    /// Private parts of entries before this one are erased.
    erased: u64,
    next: AtomicU64,
    /// Private parts that are there.
    private: AtomicU64,
    /// Nothing behind it matters any more.
    fault: Mutex<Option<Fault>>,
    /// What is wrong with private parts is told if nothing else is.
    private_fault: Mutex<Option<Fault>>,
    /// Roots of full tiles, and the hashes of the entries after them, by number of the tile.
    found: Mutex<Vec<(u64, Vec<Hash>)>>,
}

/// Keeps the fault that is further ahead.
fn note(first: &Mutex<Option<Fault>>, fault: Fault) {
    let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
    if first.as_ref().is_none_or(|first| fault.entries.start < first.entries.start) {
        *first = Some(fault);
    }
}

impl Work<'_> {
    fn run(&self) {
        let pieces = self.size.div_ceil(TILE as u64 * PIECE_TILES);
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            let over = self.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            // Pieces are given out in order: whoever found something has nobody before him who has not begun.
            if piece >= pieces || over {
                return;
            }
            let first = piece * PIECE_TILES;
            match self.piece(first) {
                Ok(hashes) => {
                    self.found.lock().unwrap_or_else(PoisonError::into_inner).push((first, hashes));
                }
                Err(fault) => return note(&self.fault, fault),
            }
        }
    }

    /// Roots of the full tiles of a piece, or, of the last one, of its full tiles and then hashes of single entries.
    fn piece(&self, first: u64) -> Result<Vec<Hash>, Fault> {
        let mut seq = first * TILE as u64;
        let end = self.size.min(seq + TILE as u64 * PIECE_TILES);
        let unread = |at: u64, error: redb::Error| Fault::at(at, format!("it cannot be read: {error}"));
        let open = || -> Result<_, redb::Error> {
            let transaction = self.files.database.begin_read()?;
            let (entries, privates) = (transaction.open_table(ISSUED)?, transaction.open_table(PRIVATE)?);
            Ok((entries.range(seq..end)?, privates.range(self.erased.clamp(seq, end)..end)?))
        };
        let (mut rows, privates) = open().map_err(|error| unread(seq, error))?;
        let mut privates = privates.peekable();
        let mut reader = self.files.opener.reader();
        // Nothing is taken for each entry: most of the time goes into hashing.
        let (mut entry, mut private) = (vec![LEAF], Vec::new());
        let mut hashes = Vec::new();
        while seq < end {
            let tile = Place { level: 0, index: seq / TILE as u64 };
            let wanted = usize::try_from(end - seq).unwrap_or(TILE).min(TILE);
            let kept = self.files.stored_tile(tile);
            let mut leaves = Vec::with_capacity(wanted);
            while leaves.len() < wanted {
                let at = seq + leaves.len() as u64;
                let Some(row) = rows.next() else { return Err(Fault::at(at, "it is missing")) };
                let (key, value) = row.map_err(|error| unread(at, error.into()))?;
                if key.value() != at {
                    return Err(Fault::at(at, "it is missing"));
                }
                entry.truncate(1);
                let opened = reader.open_onto(&mut entry, Kind::Issued, at, value.value());
                opened.map_err(|error| Fault::at(at, error))?;
                leaves.push(sha256(&entry));
                let here =
                    |row: &Result<(AccessGuard<'_, u64>, _), _>| !matches!(row, Ok((key, _)) if key.value() > at);
                match privates.next_if(here) {
                    None => {}
                    Some(Err(error)) => note(&self.private_fault, unread_private(at, error.into())),
                    Some(Ok((_, sealed))) => {
                        let bytes = entry.get(1..).unwrap_or_default();
                        match check_private(at, bytes, sealed.value(), &mut reader, &mut private) {
                            Ok(()) => drop(self.private.fetch_add(1, Ordering::Relaxed)),
                            Err(fault) => note(&self.private_fault, fault),
                        }
                    }
                }
            }
            let wrong = |what: String| Fault { entries: seq..seq + wanted as u64, what };
            if let Some(kept) = kept.map_err(|error| wrong(format!("their hashes cannot be read: {error}")))?
                && let Some(place) = kept.iter().zip(&leaves).position(|(kept, leaf)| kept != leaf)
            {
                return Err(Fault::at(seq + place as u64, "it is not the one whose hash was kept"));
            }
            match root(&leaves).filter(|_| leaves.len() == TILE) {
                Some(root) => hashes.push(root),
                None => hashes.extend(leaves),
            }
            seq += wanted as u64;
        }
        Ok(hashes)
    }
}

impl Store {
    /// Whether the log on disk is the one of this head, which is of the state: the first thing that is wrong with it, if anything is. What is queued
    /// has to be settled before. It takes as long as reading it all.
    pub(crate) fn verify(&self, head: &LogHead, erased: u64) -> Result<Verified, Fault> {
        let files = self.files();
        let work = Work {
            files: &files,
            size: head.size(),
            erased,
            next: AtomicU64::new(0),
            private: AtomicU64::new(0),
            private_fault: Mutex::default(),
            fault: Mutex::default(),
            found: Mutex::default(),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let readers = cores.saturating_mul(READERS_A_CORE).min(READERS_MAX);
        std::thread::scope(|scope| {
            for _ in 1..readers {
                scope.spawn(|| work.run());
            }
            work.run();
        });
        if let Some(fault) = work.fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(fault);
        }
        let mut found = work.found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_unstable_by_key(|(first, _)| *first);
        let hashes: Vec<Hash> = found.into_iter().flat_map(|(_, hashes)| hashes).collect();
        let made = assemble(&hashes, head.size());
        if made.as_ref() != Some(head) {
            return Err(self.difference(&files, &hashes, head));
        }
        if let Some(fault) = work.private_fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(fault);
        }
        let private = work.private.into_inner() + behind(&files, erased.max(head.size()))?;
        Ok(Verified { size: head.size(), root: head.root(), private })
    }

    /// Every entry fits the hash that is kept of it, and yet all together are not the log: where it is other.
    fn difference(&self, files: &Files, hashes: &[Hash], head: &LogHead) -> Fault {
        let what = "they are not those that the cluster's state has the tree of".to_owned();
        let tiles = usize::try_from(head.size() / TILE as u64).unwrap_or(usize::MAX);
        // Hashes of the next level that were not changed with them tell more exactly.
        for (index, roots) in (0..).zip(hashes.get(..tiles).unwrap_or_default().chunks(TILE)) {
            let Ok(Some(kept)) = files.stored_tile(Place { level: 1, index }) else { continue };
            if let Some(at) = kept.iter().zip(roots).position(|(kept, root)| kept != root) {
                let first = (index * TILE as u64 + at as u64) * TILE as u64;
                return Fault { entries: first..first + TILE as u64, what };
            }
        }
        // The head knows the roots of whole subtrees.
        let made = assemble(hashes, head.size());
        let mut first = 0;
        let bits = (0..u64::BITS).rev().filter(|bit| head.size() >> bit & 1 == 1);
        for (at, bit) in bits.enumerate() {
            let same = made.as_ref().and_then(|made| made.frontier().get(at)) == head.frontier().get(at);
            if !same {
                return Fault { entries: first..first + (1 << bit), what };
            }
            first += 1 << bit;
        }
        Fault { entries: 0..head.size(), what }
    }
}

/// The head over roots of full tiles and then single entries.
fn assemble(hashes: &[Hash], size: u64) -> Option<LogHead> {
    let (tiles, rest) = hashes.split_at_checked(usize::try_from(size / TILE as u64).ok()?)?;
    let mut over = LogHead::default();
    for tile in tiles {
        over.append_hash(*tile);
    }
    let mut head = LogHead::from_parts(size - size % TILE as u64, over.frontier().to_vec())?;
    for leaf in rest {
        head.append_hash(*leaf);
    }
    (head.size() == size).then_some(head)
}

/// A private part against the digest in its entry.
fn check_private(
    seq: u64,
    entry: &[u8],
    sealed: &[u8],
    reader: &mut Reader<'_>,
    private: &mut Vec<u8>,
) -> Result<(), Fault> {
    private.clear();
    reader.open_onto(private, Kind::Private, seq, sealed).map_err(|error| wrong_private(seq, &error))?;
    let named = LogRecord::private_named(entry).map_err(|error| wrong_private(seq, &error))?;
    if named == Some(sha256(private)) {
        Ok(())
    } else {
        Err(wrong_private(seq, &"it is not the one that the entry names"))
    }
}

/// Private parts of entries that came after the head: how many there are.
fn behind(files: &Files, from: u64) -> Result<u64, Fault> {
    let open = || -> Result<_, redb::Error> {
        let transaction = files.database.begin_read()?;
        Ok((transaction.open_table(PRIVATE)?, transaction.open_table(ISSUED)?))
    };
    let (privates, entries) = open().map_err(|error| unread_private(from, error))?;
    let (mut reader, mut private, mut count) = (files.opener.reader(), Vec::new(), 0);
    for row in privates.range(from..).map_err(|error| unread_private(from, error.into()))? {
        let (key, sealed) = row.map_err(|error| unread_private(from, error.into()))?;
        let seq = key.value();
        let entry = entries.get(seq).map_err(|error| unread_private(seq, error.into()))?;
        let entry = entry.ok_or_else(|| wrong_private(seq, &"there is no such entry"))?;
        let entry = files.opener.open(Kind::Issued, seq, entry.value()).map_err(|error| wrong_private(seq, &error))?;
        check_private(seq, &entry, sealed.value(), &mut reader, &mut private)?;
        count += 1;
    }
    Ok(count)
}

fn unread_private(seq: u64, error: redb::Error) -> Fault {
    Fault::at(seq, format!("its private part cannot be read: {error}"))
}

fn wrong_private(seq: u64, error: &dyn std::fmt::Display) -> Fault {
    Fault::at(seq, format!("its private part: {error}"))
}

#[cfg(test)]
mod tests;
