#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! The store over real files and over a disk that forgets.

use super::*;
use crate::disk::Local;
use crate::disk::faulty::FaultyDisk;
use std::sync::mpsc;

fn key(byte: u8) -> DataKey {
    DataKey::from_slice(&[byte; 32]).unwrap()
}

fn scope() -> Scope {
    Scope { cluster: "cluster".into(), epoch: 0 }
}

fn create(dir: &Path) -> Store {
    Store::create(&Local, dir, scope(), FIRST_MEMBER, &key(1)).unwrap().finish().unwrap()
}

fn waiting(call: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    call(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

fn append(store: &Store, rows: &[(u64, &[u8])]) -> io::Result<()> {
    waiting(|done| store.append(rows.iter().map(|(i, b)| (*i, b.to_vec())).collect(), false, done))
}

use std::io;

#[test]
fn what_was_answered_is_there_after_a_drop() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    append(&store, &[(1, b"one"), (2, b"two")]).unwrap();
    waiting(|done| store.put_vote(b"vote".to_vec(), done)).unwrap();
    store.add_issued(vec![(0, b"leaf".to_vec()).into()]);
    drop(store);
    let (store, header) = Store::open(&Local, dir.path(), &key(1)).unwrap();
    assert_eq!((header.cluster.as_str(), header.epoch), ("cluster", 0));
    assert_eq!(store.entries(0..=9).unwrap(), vec![(1, b"one".to_vec()), (2, b"two".to_vec())]);
    assert_eq!(store.vote().unwrap(), b"vote");
    assert_eq!(store.issued(0, 9).unwrap(), vec![(0, b"leaf".to_vec()).into()], "lazy work is written at the end");
    assert_eq!((store.last_entry(), store.last_issued().unwrap()), (Some(2), Some(0)));
}

#[test]
fn one_sync_for_all_that_is_queued_and_none_for_lazy_work() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let before = store.counts();
    for seq in 0..50 {
        store.add_issued(vec![(seq, vec![7; 100]).into()]);
    }
    store.purge_through(0, b"mark".to_vec(), None);
    append(&store, &[(1, b"one")]).unwrap();
    assert_eq!(store.counts().syncs - before.syncs, 1);
    for index in 2..102 {
        append(&store, &[(index, &[1; 300])]).unwrap();
    }
    let after = store.counts();
    assert_eq!(after.commits - before.commits, 101);
    assert_eq!(after.syncs - before.syncs, 101, "a lone write costs one sync: {after:?}");
}

#[test]
fn the_issuance_projection_is_written_in_large_pieces_and_before_whatever_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let row = |seq| vec![(seq, vec![7; 1000]).into()];
    store.add_issued(row(0));
    append(&store, &[(1, b"one")]).unwrap();
    assert_eq!(store.last_issued().unwrap(), None, "a commit alone does not write it");
    waiting(|done| store.settle(done)).unwrap();
    assert_eq!(store.last_issued().unwrap(), Some(0), "who wants to read it does");
    store.add_issued(row(1));
    waiting(|done| store.put_snapshot(b"of".to_vec(), Arc::new(vec![1].into()), done)).unwrap();
    assert_eq!(store.last_issued().unwrap(), Some(1), "so does a snapshot, behind which entries go");
    for seq in 2..200 {
        store.add_issued(row(seq));
    }
    append(&store, &[(2, b"two")]).unwrap();
    // The answer does not wait for the rest.
    while store.last_issued().unwrap() < Some(100) {
        std::thread::yield_now();
    }
    let written = store.last_issued().unwrap().unwrap();
    assert!(written < 199, "what has piled up is written with the next commit: {written}");
}

#[test]
fn truncation_purge_and_snapshot_replace_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    append(&store, &[(1, b"1"), (2, b"2"), (3, b"3"), (4, b"4")]).unwrap();
    store.truncate_from(4);
    store.purge_through(1, b"mark".to_vec(), None);
    append(&store, &[(4, b"other")]).unwrap();
    assert_eq!(store.entries(0..=9).unwrap(), vec![(2, b"2".to_vec()), (3, b"3".to_vec()), (4, b"other".to_vec())]);
    for size in [700_000usize, 10] {
        let image = Arc::new(Zeroizing::new(vec![size as u8; size]));
        waiting(|done| store.put_snapshot(b"about".to_vec(), image.clone(), done)).unwrap();
        assert_eq!(*store.snapshot().unwrap(), **image);
    }
}

#[test]
fn a_wrong_data_key_is_named_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    append(&store, &[(1, b"one")]).unwrap();
    drop(store);
    let files = || {
        let mut all: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all.into_iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect::<Vec<_>>()
    };
    let before = files();
    let error = Store::open(&Local, dir.path(), &key(2)).err().unwrap();
    assert!(matches!(error, StoreError::WrongKey { .. }), "{error}");
    assert!(error.to_string().contains("header: the data key does not open it; put back the node key file"), "{error}");
    assert_eq!(files(), before);
    assert!(Store::open(&Local, dir.path(), &key(1)).is_ok());
}

#[test]
fn a_store_is_made_once_and_an_unfinished_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Store::open(&Local, dir.path(), &key(1)), Err(StoreError::NotFound { .. })));
    let unfinished = Store::create(&Local, dir.path(), scope(), FIRST_MEMBER, &key(1)).unwrap();
    append(unfinished.store(), &[(1, b"lost")]).unwrap();
    drop(unfinished);
    assert!(matches!(Store::open(&Local, dir.path(), &key(1)), Err(StoreError::NotFound { .. })));
    let store = create(dir.path());
    assert_eq!(store.entries(0..=9).unwrap(), vec![]);
    assert!(matches!(
        Store::create(&Local, dir.path(), scope(), FIRST_MEMBER, &key(1)),
        Err(StoreError::Exists { .. })
    ));
    assert!(matches!(Store::open(&Local, dir.path(), &key(1)), Err(StoreError::InUse { .. })), "two daemons");
}

#[test]
fn a_row_that_was_moved_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.add_issued(vec![(1, b"one".to_vec()).into(), (2, b"two".to_vec()).into()]);
    let file = store.path().to_path_buf();
    drop(store);
    let raw = Database::create(&file).unwrap();
    let transaction = raw.begin_write().unwrap();
    {
        let mut table = transaction.open_table(ISSUED).unwrap();
        let first = table.get(1).unwrap().unwrap().value().to_vec();
        table.insert(2, first.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
    drop(raw);
    let (store, _) = Store::open(&Local, dir.path(), &key(1)).unwrap();
    assert_eq!(store.issued(1, 1).unwrap().len(), 1);
    let error = store.issued(2, 1).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("store-1.redb is damaged"), "{error}");
}

#[test]
fn nothing_readable_lies_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let secret = b"SWMTKN-1-secret-secret";
    append(&store, &[(1, secret)]).unwrap();
    waiting(|done| store.put_snapshot(secret.to_vec(), Arc::new(Zeroizing::new(secret.to_vec())), done)).unwrap();
    store.add_issued(vec![(0, secret.to_vec()).into()]);
    drop(store);
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"SWMTKN"));
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_answered() {
    for seed in 0..60u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = FaultyDisk::default();
        let mut store = Store::create(&disk, dir.path(), scope(), FIRST_MEMBER, &key(1)).unwrap().finish().unwrap();
        let mut answered = 0;
        for round in 0..4 {
            for _ in 0..(seed * 7 + round) % 23 {
                answered += 1;
                append(&store, &[(answered, &answered.to_be_bytes().repeat(1 + (answered as usize * 37) % 200))])
                    .unwrap();
            }
            // One more is written, but its sync never ends: it may be there or not.
            store.add_issued(vec![(answered, vec![1; 5000]).into()]);
            disk.crash(seed * 31 + round);
            let old = store;
            store = Store::open(&disk, dir.path(), &key(1)).unwrap().0;
            drop(old);
            let rows = store.entries(0..=u64::MAX).unwrap();
            assert_eq!(rows.len() as u64, answered, "seed {seed} round {round}");
            for (index, value) in rows {
                assert_eq!(value[..8], index.to_be_bytes());
            }
        }
    }
}

#[test]
fn a_torn_write_leaves_the_state_before_it() {
    for seed in 0..60u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = FaultyDisk::default();
        let store = Store::create(&disk, dir.path(), scope(), FIRST_MEMBER, &key(1)).unwrap().finish().unwrap();
        for index in 1..=20u64 {
            append(&store, &[(index, &[index as u8; 400])]).unwrap();
        }
        disk.fail_syncs();
        let result = append(&store, &[(21, &[21; 4000])]);
        assert!(result.is_err(), "a failed sync is no answer");
        assert!(store.fatal().get().is_some(), "and the end");
        assert!(append(&store, &[(22, b"more")]).is_err());
        disk.crash(seed);
        let old = store;
        let store = Store::open(&disk, dir.path(), &key(1)).unwrap().0;
        drop(old);
        let rows = store.entries(0..=u64::MAX).unwrap();
        assert!(rows.len() == 20 || rows.len() == 21, "seed {seed}: {}", rows.len());
        for (index, value) in rows {
            assert!(value.iter().all(|b| *b == index as u8), "never half a record");
        }
        assert!(!disk.bytes().windows(32).any(|w| w == [20u8; 32]));
    }
}

/// Appends an entry where it may be written here and now: whether it was, and what came of it.
fn append_here(store: &Store, index: u64) -> (bool, io::Result<()>) {
    let (sender, receiver) = mpsc::channel();
    let done: Done = Box::new(move |result| sender.send((std::thread::current().id(), result)).unwrap());
    store.append(vec![(index, vec![index as u8; 400])], true, done);
    let (thread, result) = receiver.recv().unwrap();
    (thread == std::thread::current().id(), result)
}

#[test]
fn a_lone_entry_is_written_by_whoever_brings_it_and_a_disk_that_failed_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FaultyDisk::default();
    let store = Store::create(&disk, dir.path(), scope(), FIRST_MEMBER, &key(1)).unwrap().finish().unwrap();
    // Not while the disk is not known to be quick, nor while the thread is at work; and lazy work that waits goes with it.
    let here = (1..=1_000).find(|index| {
        if *index == 3 {
            store.truncate_from(3);
        }
        let (here, result) = append_here(&store, *index);
        result.unwrap();
        here
    });
    let here = here.expect("an entry is written here");
    assert_eq!(store.entries(0..=u64::MAX).unwrap().len() as u64, here);

    disk.fail_syncs();
    let (_, failed) = append_here(&store, here + 1);
    assert!(failed.is_err() && store.fatal().get().is_some(), "a failed sync is no answer, and the end");
    assert!(append_here(&store, here + 2).1.is_err());
    assert!(waiting(|done| store.put_vote(b"vote".to_vec(), done)).is_err());
    assert!(waiting(|done| store.flush(done)).is_err());
    disk.crash(1);
    let old = store;
    let store = Store::open(&disk, dir.path(), &key(1)).unwrap().0;
    drop(old);
    let rows = store.entries(0..=u64::MAX).unwrap().len() as u64;
    assert!(rows == here || rows == here + 1, "{rows} of {here}");
    assert_eq!(store.vote(), None, "what came after the failure is not there");
}

#[test]
fn the_header_says_whose_store_it_is_and_cannot_be_changed() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::create(&Local, dir.path(), scope(), 3, &key(1)).unwrap().finish().unwrap());
    assert_eq!(header(dir.path()).unwrap().unwrap().member, 3);
    assert_eq!(Store::open(&Local, dir.path(), &key(1)).unwrap().1.member, 3);
    // The field at the end is another number, or is not there.
    let file = dir.path().join("header");
    let written = std::fs::read(&file).unwrap();
    assert_eq!(written[written.len() - 2..], [0x38, 3]);
    let other = [&written[..written.len() - 1], &[4]].concat();
    for changed in [&other, &written[..written.len() - 2]] {
        std::fs::write(&file, changed).unwrap();
        assert!(matches!(Store::open(&Local, dir.path(), &key(1)), Err(StoreError::Damaged { .. })));
    }
    std::fs::write(&file, &written).unwrap();
    assert!(Store::open(&Local, dir.path(), &key(1)).is_ok());
    let first = tempfile::tempdir().unwrap();
    drop(create(first.path()));
    assert_eq!(Store::open(&Local, first.path(), &key(1)).unwrap().1.member, FIRST_MEMBER);
}

#[test]
fn gaps_in_the_issuance_projection_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    type Row<'a> = (&'a [u64], u64, Option<Range<u64>>);
    let rows: [Row<'_>; 6] = [
        (&[], 0, None),
        (&[], 3, Some(0..3)),
        (&[0, 1, 2], 3, None),
        (&[7], 8, Some(3..7)),
        (&[3, 4, 5, 6], 8, None),
        (&[10], 11, Some(8..10)),
    ];
    for (added, size, missing) in rows {
        store.add_issued(added.iter().map(|seq| (*seq, vec![1]).into()).collect());
        waiting(|done| store.settle(done)).unwrap();
        assert_eq!(store.missing(size).unwrap(), missing, "{added:?}");
    }
}

#[test]
fn nobody_who_waits_for_the_log_waits_for_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let files = store.files();
    // While this is open no other transaction begins.
    let held = files.database.begin_write().unwrap();
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| sender.send(result).unwrap());
    store.put_snapshot(b"of".to_vec(), Arc::new(vec![1].into()), done);
    for index in 1..20 {
        append(&store, &[(index, b"entry")]).unwrap();
    }
    assert!(receiver.try_recv().is_err());
    held.abort().unwrap();
    receiver.recv().unwrap().unwrap();
    assert_eq!(store.description().unwrap().unwrap(), b"of");
}

/// Whether it is not done: whoever waits is told so, or finds that nobody is left to tell.
fn refused(call: impl FnOnce(Done)) -> bool {
    let (sender, receiver) = mpsc::channel();
    call(Box::new(move |result| sender.send(result).unwrap()));
    !receiver.recv().is_ok_and(|result: io::Result<()>| result.is_ok())
}

#[tokio::test]
async fn a_thread_that_panicked_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let whoever = |_| panic!("on purpose");
    // On the log's thread.
    store.append(vec![(1, b"one".to_vec())], false, Box::new(whoever));
    store.fatal().wait().await;
    assert!(refused(|done| store.append(vec![(2, b"two".to_vec())], false, done)));
    drop(store);
    let (store, _) = Store::open(&Local, dir.path(), &key(1)).unwrap();
    assert_eq!(store.entries(0..=9).unwrap(), vec![(1, b"one".to_vec())]);
    // On the database's.
    store.flush(Box::new(whoever));
    store.fatal().wait().await;
    assert!(refused(|done| store.flush(done)));
    assert!(refused(|done| store.append(vec![(2, b"two".to_vec())], false, done)));
    drop(store);
    assert_eq!(Store::open(&Local, dir.path(), &key(1)).unwrap().0.last_entry(), Some(1));
}

#[test]
fn pages_of_an_old_snapshot_are_overwritten_before_it_is_said_and_at_a_start_that_finds_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    let marked = |store: &Store| fill::Fill::is_due(&store.files().database).unwrap();
    let store = create(dir.path());
    assert!(!marked(&store));
    waiting(|done| store.put_snapshot(b"of".to_vec(), Arc::new(vec![1; 300_000].into()), done)).unwrap();
    assert!(marked(&store));
    append(&store, &[(1, b"one"), (2, b"two")]).unwrap();
    waiting(|done| store.purge_through(1, b"mark".to_vec(), Some(done))).unwrap();
    assert!(!marked(&store));
    waiting(|done| store.put_snapshot(b"of".to_vec(), Arc::new(vec![2; 300_000].into()), done)).unwrap();
    drop(store);
    let (store, _) = Store::open(&Local, dir.path(), &key(1)).unwrap();
    while marked(&store) {
        std::thread::yield_now();
    }
}
