#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! An exchange over real files, and over a disk whose power goes at every step.

use crate::disk::Local;
use crate::disk::Medium;
use crate::disk::faulty::FaultyDisk;
use crate::seal::{DataKey, Scope};
use crate::store::{Done, FIRST_MEMBER, Store, StoreError};
use std::io;
use std::path::Path;
use std::sync::{Arc, mpsc};
use zeroize::Zeroizing;

fn key(byte: u8) -> DataKey {
    DataKey::from_slice(&[byte; 32]).unwrap()
}

fn waiting(call: impl FnOnce(Done)) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel();
    call(Box::new(move |result| drop(sender.send(result))));
    receiver.recv().unwrap_or_else(|_| Err(io::Error::other("nobody answered")))
}

fn filled<M: Medium>(medium: &M, dir: &Path) -> Store {
    let scope = Scope { cluster: "cluster".into(), epoch: 0 };
    let store = Store::create(medium, dir, scope, FIRST_MEMBER, &key(1)).unwrap().finish().unwrap();
    let rows = (1..=40).map(|index| (index, vec![index as u8; 300])).collect();
    waiting(|done| store.append(rows, false, done)).unwrap();
    waiting(|done| store.put_vote(b"vote".to_vec(), done)).unwrap();
    store.add_issued((0..30).map(|seq| (seq, vec![seq as u8; 200]).into()).collect());
    let image = Arc::new(Zeroizing::new(vec![7; 400_000]));
    waiting(|done| store.put_snapshot(b"up to 10".to_vec(), image, done)).unwrap();
    store.purge_through(10, b"mark".to_vec(), None);
    waiting(|done| store.append(vec![(41, b"last".to_vec())], false, done)).unwrap();
    store
}

fn check(store: &Store) {
    let entries = store.entries(0..=99).unwrap();
    assert_eq!(entries.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (11..=41).collect::<Vec<_>>());
    assert_eq!((&*entries[0].1, &*entries[30].1), ([11; 300].as_slice(), b"last".as_slice()));
    assert_eq!((store.vote().unwrap(), store.purged().unwrap()), (b"vote".to_vec(), b"mark".to_vec()));
    assert_eq!(store.issued(0, 99).unwrap().len(), 30);
    assert_eq!(store.description().unwrap().unwrap(), b"up to 10");
    assert_eq!(store.snapshot().unwrap().len(), 400_000);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names = Local.names(dir).unwrap();
    names.sort();
    names
}

#[test]
fn c178_c179_everything_is_under_the_new_key_and_nothing_of_the_old_files_is_left() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let store = filled(&Local, dir);
    let old = std::fs::File::open(dir.join("store-1.redb")).unwrap();
    waiting(|done| store.exchange(key(2), done)).unwrap();
    check(&store);
    assert!(names(dir).iter().all(|name| name == "header" || name.starts_with("store-2.")), "{:?}", names(dir));
    // Whoever held it open sees what is left of it on the disk.
    let left: Vec<u8> = io::Read::bytes(old).map(Result::unwrap).collect();
    assert!(!left.is_empty() && left.iter().all(|byte| *byte == 0));

    waiting(|done| store.append(vec![(42, b"more".to_vec())], false, done)).unwrap();
    store.truncate_from(42);
    store.add_issued(vec![(30, b"more".to_vec()).into()]);
    waiting(|done| store.flush(done)).unwrap();
    drop(store);
    assert!(matches!(Store::open(&Local, dir, &key(1)), Err(StoreError::WrongKey { .. })));
    let (store, header) = Store::open(&Local, dir, &key(2)).unwrap();
    assert_eq!((header.file.as_str(), header.cluster.as_str()), ("store-2.redb", "cluster"));
    assert_eq!(store.issued(30, 9).unwrap(), vec![(30, b"more".to_vec()).into()]);

    waiting(|done| store.exchange(key(3), done)).unwrap();
    drop(store);
    assert_eq!(Store::open(&Local, dir, &key(3)).unwrap().1.file, "store-3.redb");
}

#[test]
fn readers_are_left_alone_and_work_that_was_queued_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let store = filled(&Local, root.path());
    let reader = {
        let store = store.clone();
        std::thread::spawn(move || (0..200).for_each(|_| check(&store)))
    };
    for byte in 2..6 {
        store.append(vec![(42, vec![byte])], false, Box::new(|result| result.unwrap()));
        store.truncate_from(42);
        store.exchange(key(byte), Box::new(|result| result.unwrap()));
        store.append(vec![(42, vec![byte])], false, Box::new(|result| result.unwrap()));
        store.truncate_from(42);
    }
    waiting(|done| store.flush(done)).unwrap();
    reader.join().unwrap();
    check(&store);
}

#[test]
fn a_store_that_cannot_be_written_anew_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let store = filled(&disk, root.path());
    disk.fail_syncs();
    assert!(waiting(|done| store.exchange(key(2), done)).is_err());
    check(&store);
    assert!(store.fatal().get().is_none());
}

/// The changes that an exchange makes.
fn changes() -> u64 {
    let (root, disk) = (tempfile::tempdir().unwrap(), FaultyDisk::default());
    let store = filled(&disk, root.path());
    waiting(|done| store.flush(done)).unwrap();
    disk.power_for(u64::MAX);
    waiting(|done| store.exchange(key(2), done)).unwrap();
    u64::MAX - disk.power().unwrap()
}

#[test]
fn the_power_goes_on_the_way() {
    let mut exchanged = [0, 0];
    let all = changes();
    let steps = (0..12).chain(all - 12..all).chain((12..all - 12).step_by(usize::try_from(all / 24).unwrap()));
    for changes in steps {
        let root = tempfile::tempdir().unwrap();
        let mut disk = FaultyDisk::default();
        let store = filled(&disk, root.path());
        waiting(|done| store.flush(done)).unwrap();
        disk.power_for(changes);
        let result = waiting(|done| store.exchange(key(2), done));
        let dark = disk.power() == Some(0);
        drop(store);
        disk.crash(changes);
        assert!(dark || result.is_ok(), "after {changes} changes");
        // One of the two keys opens it, and with that key everything is there.
        let (store, byte) = match Store::open(&disk, root.path(), &key(2)) {
            Ok((store, _)) => (store, 2),
            Err(StoreError::WrongKey { .. }) => (Store::open(&disk, root.path(), &key(1)).unwrap().0, 1),
            Err(error) => panic!("after {changes} changes: {error}"),
        };
        check(&store);
        exchanged[byte - 1] += 1;
        let stem = store.files().path.file_stem().unwrap().to_string_lossy().into_owned();
        let left = disk.names(root.path()).unwrap();
        assert!(left.iter().all(|name| name.starts_with(&stem)), "{left:?}");
    }
    assert!(exchanged.iter().all(|times| *times > 5), "{exchanged:?}");
}
