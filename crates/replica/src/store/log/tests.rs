#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! The log over a disk that forgets, and over one that was changed.

use super::*;
use crate::disk::faulty::FaultyDisk;
use crate::seal::{DataKey, Scope};
use std::path::Path;
use std::sync::atomic::AtomicU64;

const DIR: &str = "/raft";
/// A few frames.
const BYTES: u64 = 8 * 1024;

/// A disk, and the salts of the processes that wrote to it.
struct Machine {
    disk: FaultyDisk,
    salts: Vec<(u32, [u8; 32])>,
}

struct Process {
    log: Log<FaultyDisk>,
    sealer: Sealer,
}

impl Machine {
    fn new() -> Self {
        Self { disk: FaultyDisk::default(), salts: Vec::new() }
    }

    fn place(&self) -> Place<FaultyDisk> {
        let syncs = Arc::new(AtomicU64::new(0));
        Place::beside(self.disk.clone(), &Path::new(DIR).join("store-1.redb"), syncs)
    }

    fn keys(&mut self) -> (Arc<Opener>, Sealer) {
        let key = DataKey::from_slice(&[1; 32]).unwrap();
        let scope = Scope { cluster: "c".into(), epoch: 0 };
        let id = self.salts.len() as u32 + 1;
        self.salts.push((id, [id as u8; 32]));
        let opener = Opener::new(&key, scope.clone(), self.salts.iter().copied()).unwrap();
        (Arc::new(opener), Sealer::new(&key, scope, id, &[id as u8; 32]).unwrap())
    }

    fn create(&mut self) -> Process {
        let (opener, mut sealer) = self.keys();
        let log = Log::create(self.place(), BYTES, opener, &mut sealer).unwrap();
        Process { log, sealer }
    }

    fn try_open(&mut self, seen: u64) -> Result<Process, StoreError> {
        let (opener, sealer) = self.keys();
        Ok(Process { log: Log::open(self.place(), BYTES, opener, seen)?, sealer })
    }

    fn open(&mut self) -> Process {
        self.try_open(0).unwrap()
    }

    fn refused(&mut self, seen: u64) -> String {
        self.try_open(seen).err().unwrap().to_string()
    }

    fn files(&self) -> Vec<u32> {
        self.place().numbers().unwrap()
    }
}

/// What an entry with this index holds.
fn entry(index: u64) -> Vec<u8> {
    index.to_be_bytes().repeat(1 + (index as usize * 37) % 200)
}

fn plain(records: &[Record<'_>]) -> Plain {
    let mut plain = Plain::with_room(records.len(), 0);
    records.iter().for_each(|record| plain.push(*record));
    plain
}

impl Process {
    fn write(&mut self, records: &[Record<'_>]) {
        self.log.write(&mut self.sealer, &plain(records)).unwrap();
    }

    fn append(&mut self, indexes: RangeInclusive<u64>) {
        for index in indexes {
            self.write(&[Record::Entry(index, &entry(index))]);
        }
    }

    fn tidy(&mut self) {
        while self.log.tidy().unwrap() {}
    }

    fn indexes(&self) -> Vec<u64> {
        let rows = self.log.index().entries(0..=u64::MAX).unwrap();
        assert!(rows.iter().all(|(index, bytes)| *bytes == entry(*index)), "never half an entry, or another's");
        rows.into_iter().map(|(index, _)| index).collect()
    }
}

#[test]
fn entries_are_there_after_a_restart_in_as_many_segments_as_they_take() {
    let mut machine = Machine::new();
    let mut process = machine.create();
    process.write(&[Record::Vote(b"me")]);
    process.append(0..=99);
    assert!(machine.files().len() > 10);
    for _ in 0..2 {
        process = machine.open();
        assert_eq!(process.indexes(), (0..100).collect::<Vec<_>>());
        assert_eq!((process.log.index().vote().unwrap(), process.log.index().last_entry()), (b"me".to_vec(), Some(99)));
        assert_eq!(process.log.index().entries(7..=9).unwrap().len(), 3);
    }
    // One larger than a segment.
    let large = vec![7; 3 * BYTES as usize];
    process.write(&[Record::Entry(100, &large)]);
    process.append(101..=120);
    let process = machine.open();
    assert_eq!(process.log.index().entries(100..=100).unwrap(), vec![(100, large)]);
    assert_eq!(process.log.index().last_entry(), Some(120));
}

#[test]
fn what_was_cut_off_or_purged_does_not_come_back() {
    let mut machine = Machine::new();
    let mut process = machine.create();
    process.write(&[Record::Vote(b"me")]);
    process.append(0..=60);
    process.write(&[Record::TruncateFrom(41)]);
    process.append(41..=50);
    let before = machine.files();
    process.write(&[Record::PurgeThrough(30, b"thirty"), Record::TruncateFrom(50), Record::Entry(50, &entry(50))]);
    let look = |process: &Process| {
        assert_eq!(process.indexes(), (31..=50).collect::<Vec<_>>());
        let index = process.log.index();
        assert_eq!((index.vote().unwrap(), index.purged().unwrap()), (b"me".to_vec(), b"thirty".to_vec()));
    };
    look(&process);
    look(&machine.open());
    let mut process = machine.open();
    process.tidy();
    look(&process);
    assert!(machine.files()[0] > before[0], "{before:?} {:?}", machine.files());
    look(&machine.open());
    // A snapshot that covers more than there is.
    process.write(&[Record::PurgeThrough(80, b"eighty")]);
    process.append(81..=82);
    process.tidy();
    assert_eq!(machine.open().indexes(), vec![81, 82]);
    assert!(machine.files().len() <= 2);
}

#[test]
fn a_segment_is_made_ahead_of_need() {
    let mut machine = Machine::new();
    let mut process = machine.create();
    process.tidy();
    assert_eq!(machine.files(), vec![1], "not before it is half full");
    let write = |process: &mut Process, indexes: RangeInclusive<u64>| {
        indexes.for_each(|index| process.write(&[Record::Entry(index, &[7; 1000])]));
        process.log.segments.back().unwrap().number
    };
    // With the frame that every segment begins with, 7 KiB.
    assert_eq!(write(&mut process, 0..=3), 1);
    process.tidy();
    assert_eq!(machine.files(), vec![1, 2]);
    let mut process = machine.open();
    assert!(process.log.next.is_some());
    assert_eq!((write(&mut process, 4..=4), write(&mut process, 5..=5)), (1, 2));
    assert_eq!(machine.files(), vec![1, 2]);
}

#[test]
fn a_power_cut_loses_nothing_that_was_answered() {
    for seed in 0..200u64 {
        let mut machine = Machine::new();
        let mut process = machine.create();
        let (mut first, mut next) = (0, 0);
        for round in 0..6 {
            for step in 0..(seed * 7 + round) % 29 {
                if step % 5 != 0 || process.log.tidy().unwrap() {
                    process.append(next..=next);
                    next += 1;
                }
                if (seed + next) % 17 == 0 && next > first + 9 {
                    first = next - 5;
                    let purge = plain(&[Record::PurgeThrough(first - 1, b"mark"), Record::Vote(b"me")]);
                    if seed % 2 == 0 {
                        process.log.write(&mut process.sealer, &purge).unwrap();
                    } else {
                        process.log.forget(&mut process.sealer, &purge, first - 1, Box::new(|_| ())).unwrap();
                    }
                }
            }
            // One more is written, but its sync never ends: it may be there or not.
            machine.disk.fail_syncs();
            let late = plain(&[Record::Entry(next, &entry(next)), Record::Entry(next + 1, &entry(next + 1))]);
            assert!(process.log.write(&mut process.sealer, &late).is_err());
            machine.disk.crash(seed * 31 + round);
            process = machine.open();
            let there = process.indexes();
            let answered: Vec<u64> = (first..next).collect();
            assert!(there == answered || there == (first..next + 2).collect::<Vec<_>>(), "seed {seed}: {there:?}");
            next = there.last().map_or(next, |last| last + 1);
        }
    }
}

#[test]
fn damage_is_told_from_a_torn_end() {
    let whole = || {
        let mut machine = Machine::new();
        let mut process = machine.create();
        process.append(0..=30);
        let number = process.log.index().number();
        let spots: Vec<Spot> = process.log.index.lock().at.iter().copied().collect();
        (machine, number, spots)
    };
    let (_, _, spots) = whole();
    for (index, spot) in spots.iter().enumerate() {
        for wipe in [false, true] {
            let (mut machine, number, _) = whole();
            let path = machine.place().path(spot.segment);
            machine.disk.change(&path, |bytes| {
                let frame = &mut bytes[spot.at as usize..][..spot.bytes];
                if wipe { frame.fill(0) } else { frame[40] ^= 1 }
            });
            if index + 1 < spots.len() {
                let said = machine.refused(0);
                assert!(said.contains("is damaged"), "{index} {wipe}: {said}");
            } else {
                let said = machine.refused(number);
                assert!(said.contains(&format!("it ends with frame {}, but frame {number} was written", number - 1)));
                assert_eq!(machine.open().indexes().len(), 30, "as if it had never been answered");
            }
        }
    }
}

#[test]
fn frames_and_segments_that_were_moved_or_removed_are_refused() {
    type Row = (&'static str, fn(&Machine));
    let rows: [Row; 5] = [
        ("frame 4 of the log cannot be read", |machine| {
            machine.disk.change(&machine.place().path(1), |bytes| {
                let third = bytes[1024..1536].to_vec();
                bytes[1536..2048].copy_from_slice(&third);
            });
        }),
        ("the segment of the log before it is missing", |machine| {
            machine.disk.remove(&machine.place().path(2)).unwrap();
        }),
        ("frame 17 of the log cannot be read", |machine| {
            let mut first = Vec::new();
            machine.disk.change(&machine.place().path(1), |bytes| first = bytes.clone());
            machine.disk.change(&machine.place().path(2), |bytes| *bytes = first);
            machine.disk.remove(&machine.place().path(1)).unwrap();
        }),
        ("a segment of the log does not begin with a frame", |machine| {
            for number in machine.place().numbers().unwrap() {
                machine.disk.change(&machine.place().path(number), |bytes| bytes.fill(9));
            }
        }),
        ("the log is gone", |machine| {
            for number in machine.place().numbers().unwrap() {
                machine.disk.remove(&machine.place().path(number)).unwrap();
            }
        }),
    ];
    for (expected, damage) in rows {
        let mut machine = Machine::new();
        let mut process = machine.create();
        for index in 0..40 {
            process.write(&[Record::Entry(index, &index.to_be_bytes())]);
        }
        assert!(machine.files().len() > 2);
        damage(&machine);
        let said = machine.refused(0);
        assert!(said.contains(expected), "{said:?} is not {expected:?}");
    }
}

#[test]
fn what_is_forgotten_is_overwritten_and_the_rest_stays() {
    let mut machine = Machine::new();
    let mut process = machine.create();
    process.write(&[Record::Vote(b"me")]);
    process.append(0..=50);
    let begins = process.log.index().begins();
    let left = |machine: &Machine| {
        let bytes = machine.disk.bytes();
        begins.iter().filter(|begin| bytes.windows(13).any(|window| window == *begin)).count()
    };
    assert_eq!(left(&machine), 51);
    let done: Done = Box::new(|_| ());
    process.log.forget(&mut process.sealer, &plain(&[Record::PurgeThrough(40, b"mark")]), 40, done).unwrap();
    process.append(51..=52);
    assert!(process.log.rid().is_empty(), "not before the zeros are there");
    let look = |process: &Process| {
        assert_eq!(process.indexes(), (41..=52).collect::<Vec<_>>());
        assert_eq!((process.log.index().vote().unwrap(), process.log.index().purged().unwrap()).0, b"me");
    };
    look(&process);
    // Whether it is done at once, or after a crash in between.
    let mut crashed = Machine { disk: machine.disk.clone(), salts: machine.salts.clone() };
    crashed.disk.crash(3);
    let again = crashed.open();
    look(&again);
    assert_eq!(left(&crashed), 0, "a start ends what was begun");
    look(&crashed.open());
    process.tidy();
    assert_eq!(process.log.rid().len(), 1);
    assert_eq!(left(&machine), 0);
    look(&machine.open());
}

#[test]
fn a_segment_that_lost_its_begin_is_not_taken_for_one_that_was_given_up() {
    let mut machine = Machine::new();
    let mut process = machine.create();
    process.append(0..=50);
    machine.disk.change(&machine.place().path(1), |bytes| bytes[..512].fill(0));
    let before = machine.disk.bytes();
    assert!(machine.refused(0).contains("the log in front of it is missing"));
    assert!(machine.disk.bytes() == before, "and nothing of it is overwritten");
}
