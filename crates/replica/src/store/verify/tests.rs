#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::disk::Local;
use crate::seal::{DataKey, Opener, Scope, Sealer};
use crate::store::table::TILES;
use cluster::LogEntry;
use cluster::account::Actor;
use cluster::log::leaf_hash;
use cluster::log::tiles::{Place, encode};
use pki::merkle;
use redb::TableDefinition;
use std::path::Path;

type Definition = TableDefinition<'static, u64, &'static [u8]>;

fn scope() -> Scope {
    Scope { cluster: "c".into(), epoch: 0 }
}

fn key() -> DataKey {
    DataKey::from_slice(&[7; 32]).unwrap()
}

fn create(dir: &Path) -> Store {
    Store::create(&Local, &dir.join("raft"), scope(), 1, &key()).unwrap().finish().unwrap()
}

fn settle(store: &Store) {
    let (sender, receiver) = std::sync::mpsc::channel();
    store.settle(Box::new(move |result| drop(sender.send(result))));
    receiver.recv().unwrap().unwrap();
}

/// A log whose entries are events, every third with a private part.
fn log(size: u64) -> (Vec<LogEntry>, LogHead) {
    let mut cluster = crate::support::Cluster::new();
    let mut head = LogHead::default();
    let mut entries = cluster.log.clone();
    for n in 1.. {
        if entries.len() as u64 >= size {
            break;
        }
        let before = cluster.log.len();
        let command = cluster::Command::Admit(Box::new(cluster.admission(n)));
        cluster.run(match n % 3 {
            0 => crate::support::asked(command, Actor::Network, 9),
            _ => command,
        });
        entries.extend_from_slice(&cluster.log[before..]);
    }
    entries.truncate(size as usize);
    for entry in &entries {
        head.append(&entry.bytes);
    }
    (entries, head)
}

fn row(store: &Store, table: Definition, key: u64) -> Vec<u8> {
    let files = store.files();
    let table = files.database.begin_read().unwrap().open_table(table).unwrap();
    table.get(key).unwrap().unwrap().value().to_vec()
}

fn put(store: &Store, table: Definition, key: u64, row: Option<&[u8]>) {
    let transaction = store.files().database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        match row {
            Some(row) => drop(table.insert(key, row).unwrap()),
            None => drop(table.remove(key).unwrap()),
        }
    }
    transaction.commit().unwrap();
}

/// Whoever has the data key and the store can write rows that open.
fn forge(store: &Store, table: Definition, kind: Kind, key_of: u64, plain: &[u8]) {
    let salts = store.files();
    let salts = salts.database.begin_read().unwrap().open_table(crate::store::table::SALTS).unwrap();
    let salt: [u8; 32] = salts.get(1).unwrap().unwrap().value().try_into().unwrap();
    let sealed = Sealer::new(&key(), scope(), 1, &salt).unwrap().seal(kind, key_of, plain).unwrap();
    assert!(Opener::new(&key(), scope(), [(1, salt)]).unwrap().open(kind, key_of, &sealed).is_ok());
    put(store, table, key_of, Some(&sealed));
}

#[test]
fn a_log_is_whole_and_its_proofs_hold_in_whatever_order_it_came() {
    let (entries, head) = log(1_300);
    let whole = 0..1_300;
    for order in [vec![whole], vec![700..1_300, 0..300, 300..700], vec![0..1, 300..600, 1..300, 600..1_300]] {
        let dir = tempfile::tempdir().unwrap();
        let mut store = create(dir.path());
        for range in &order {
            store.add_issued(entries[range.clone()].to_vec());
            settle(&store);
        }
        for reopened in [false, true] {
            if reopened {
                drop(store);
                store = Store::open(&Local, &dir.path().join("raft"), &key()).unwrap().0;
                settle(&store);
            }
            let verified = store.verify(&head, 0).unwrap();
            assert_eq!((verified.size, verified.root), (1_300, head.root()), "{order:?}");
            assert!(verified.private > 300, "{verified:?}");
            for (seq, size) in [(0, 1_300), (255, 1_300), (256, 1_300), (1_299, 1_300), (3, 257), (600, 1_000)] {
                let root = store.root(size).unwrap();
                let path = store.inclusion(seq, size).unwrap().unwrap();
                assert!(merkle::includes(leaf_hash(&entries[seq as usize].bytes), seq, size, &path, &root));
                let proof = store.consistency(size, 1_300).unwrap().unwrap();
                assert!(merkle::extends(size, &root, 1_300, &head.root(), &proof));
            }
        }
    }
}

/// While entries are caught up with, a tile that is not full lacks some of what is below it.
#[test]
fn a_tile_that_lags_behind_those_below_it_lacks_nothing() {
    let (entries, head) = log(1_300);
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.add_issued(entries);
    settle(&store);
    let place = Place { level: 1, index: 0 };
    let kept = store.files().stored_tile(place).unwrap().unwrap();
    assert_eq!(kept.len(), 5);
    for lag in 0..kept.len() {
        forge(&store, TILES, Kind::Tile, place.key(), &encode(&kept[..lag]));
        assert_eq!(store.root(1_300).unwrap(), head.root(), "{lag} kept");
    }
}

/// One changed bit in any byte of a small log is found, and the entry that it is in is named.
#[test]
fn every_byte_of_a_small_log() {
    let (entries, head) = log(12);
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.add_issued(entries.clone());
    settle(&store);
    assert_eq!(store.verify(&head, 0).unwrap().size, 12);
    let mut flipped = 0;
    for entry in &entries {
        for (table, there) in [(ISSUED, true), (PRIVATE, entry.private.is_some())] {
            if !there {
                continue;
            }
            let whole = row(&store, table, entry.seq);
            for byte in 0..whole.len() {
                let mut hurt = whole.clone();
                hurt[byte] ^= 1 << (byte % 8);
                put(&store, table, entry.seq, Some(&hurt));
                let fault = store.verify(&head, 0).unwrap_err();
                assert_eq!(fault.entries, entry.seq..entry.seq + 1, "byte {byte}: {fault}");
                flipped += 1;
            }
            put(&store, table, entry.seq, Some(&whole));
        }
    }
    assert!(flipped > 1_000, "{flipped}");
    assert!(store.verify(&head, 0).is_ok());
}

/// Whoever has the data key can write entries that open: they are named by the hashes that were kept, or else by the head.
#[test]
fn a_forged_entry_is_named() {
    let (entries, head) = log(600);
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.add_issued(entries.clone());
    settle(&store);
    let fault = || store.verify(&head, 0).unwrap_err().entries;

    forge(&store, ISSUED, Kind::Issued, 300, b"another");
    assert_eq!(fault(), 300..301, "by the tile of its hashes");

    // The tile is forged with it: the next level's hash tells which tile.
    let place = Place { level: 0, index: 1 };
    let mut hashes = store.files().stored_tile(place).unwrap().unwrap();
    hashes[300 - 256] = leaf_hash(b"another");
    forge(&store, TILES, Kind::Tile, place.key(), &encode(&hashes));
    assert_eq!(fault(), 256..512);

    // That too: the frontier in the state tells which whole subtree.
    let above = Place { level: 1, index: 0 };
    let mut roots = store.files().stored_tile(above).unwrap().unwrap();
    roots[1] = root(&hashes).unwrap();
    forge(&store, TILES, Kind::Tile, above.key(), &encode(&roots));
    assert_eq!(fault(), 0..512);

    forge(&store, ISSUED, Kind::Issued, 300, &entries[300].bytes);
    forge(&store, ISSUED, Kind::Issued, 599, b"another");
    assert_eq!(fault(), 300..301);
    put(&store, ISSUED, 7, None);
    assert_eq!(store.verify(&head, 0).unwrap_err().to_string(), "entry 7 of the issuance log: it is missing");
}

#[test]
fn what_is_erased_is_gone_and_the_tree_stays() {
    let (entries, head) = log(60);
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    store.add_issued(entries.clone());
    store.erase_private(40);
    settle(&store);
    let left = store.issued(0, 100).unwrap();
    assert!(left.iter().all(|entry| entry.private.is_none() || entry.seq >= 40));
    assert!(left.iter().any(|entry| entry.private.is_some()));
    assert!(left.iter().map(|entry| &entry.bytes).eq(entries.iter().map(|entry| &entry.bytes)));
    assert!(store.verify(&head, 40).is_ok());
}

/// Seconds of processors that this process has used. Others may use them too meanwhile.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    ticks.map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Prints what it costs, of ten million entries as a cluster has them or as many as `ENTRIES` says:
/// `cargo test --release -p swarmpki-replica --lib -- --ignored figures --nocapture`.
#[test]
#[ignore = "ten million entries take minutes and 8 GB, and nothing is asserted of the time"]
#[allow(clippy::print_stderr)]
fn figures() {
    const ROUNDS: usize = 7;
    let size: u64 = std::env::var("ENTRIES").map_or(10_000_000, |size| size.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let (entries, _) = log(1_000);
    let hashes: Vec<Hash> = entries.iter().map(|entry| leaf_hash(&entry.bytes)).collect();
    let of = |seq: u64| (seq % 1_000) as usize;
    let mut head = LogHead::default();
    let began = std::time::Instant::now();
    for first in (0..size).step_by(1000) {
        let rows = (first..size.min(first + 1000)).map(|seq| LogEntry { seq, ..entries[of(seq)].clone() });
        store.add_issued(
            rows.inspect(|row| {
                let _ = head.append_hash(hashes[of(row.seq)]);
            })
            .collect(),
        );
        settle(&store);
    }
    let bytes = entries.iter().map(|entry| entry.bytes.len()).sum::<usize>() / entries.len();
    let private = entries.iter().filter(|entry| entry.private.is_some()).count();
    eprintln!("{size} entries of {bytes} bytes, {private} of a thousand with a private part, in {:?}", began.elapsed());
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (began, worked) = (std::time::Instant::now(), cpu());
        assert_eq!(store.verify(&head, 0).unwrap().size, size);
        let (took, worked) = (began.elapsed(), cpu() - worked);
        rounds.push((size as f64 / took.as_secs_f64(), size as f64 / worked));
        let (entries, of_core) = rounds[rounds.len() - 1];
        eprintln!("verified in {took:?}: {entries:.0} entries a second, {of_core:.0} a second of a core");
    }
    rounds.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
    eprintln!("median of {ROUNDS}: {:.0} entries a second", rounds[ROUNDS / 2].0);
    let mut took = Vec::new();
    for n in 0..10_000u64 {
        let seq = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % size;
        let began = std::time::Instant::now();
        let path = store.inclusion(seq, size).unwrap().unwrap();
        took.push(began.elapsed());
        assert!(merkle::includes(hashes[of(seq)], seq, size, &path, &head.root()));
    }
    took.sort_unstable();
    let [median, most, slowest] = [5_000, 9_900, 9_999].map(|at| took[at]);
    eprintln!("a proof takes {median:?} (median), {most:?} (p99), {slowest:?} (slowest of ten thousand)");
}
