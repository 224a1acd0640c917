#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! openraft's storage suite, and the sample of format 1.

use super::log::Log;
use super::machine::Machine;
use super::*;
use crate::disk::Local;
use crate::published::Published;
use crate::seal::{DataKey, Scope};
use crate::store::{FIRST_MEMBER, Store};

use cluster::State;
use openraft::StorageError;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn key() -> DataKey {
    DataKey::from_slice(&[1; 32]).unwrap()
}

fn open(store: Store) -> (Log, Machine) {
    let (states, _) = Published::new();
    let progress = Arc::new(Progress::default());
    (Log::open(store.clone(), progress.clone()).unwrap(), Machine::open(store, states, progress).unwrap())
}

struct Fresh;

impl StoreBuilder<Types, Log, Machine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        let scope = Scope { cluster: "cluster".into(), epoch: 0 };
        let store = Store::create(&Local, dir.path(), scope, FIRST_MEMBER, &key()).unwrap().finish().unwrap();
        let (log, machine) = open(store);
        Ok((dir, log, machine))
    }
}

#[test]
fn the_storage_suite_of_openraft_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::<Types, Log, Machine, Fresh, TempDir>::test_all(Fresh)).unwrap();
}

/// What the sample holds; the batches are opaque here, so that it outlives every change of the state's own format.
fn sample() -> Vec<Entry> {
    let leader = LeaderId { term: 3, node_id: 1 };
    let id = |index| LogId { leader_id: leader, index };
    let nodes = std::collections::BTreeMap::from([(1u64, openraft::BasicNode { addr: "192.0.2.1:2377".into() })]);
    let membership = Membership::new(vec![[1u64].into()], nodes).unwrap();
    vec![
        Entry { log_id: id(0), payload: openraft::EntryPayload::Membership(membership) },
        Entry { log_id: id(1), payload: openraft::EntryPayload::Blank },
        Entry { log_id: id(2), payload: openraft::EntryPayload::Normal(Stamped::stored(b"first batch".to_vec())) },
        Entry { log_id: id(3), payload: openraft::EntryPayload::Normal(Stamped::stored(b"second batch".to_vec())) },
    ]
}

fn vote() -> Vote {
    Vote { leader_id: LeaderId { term: 3, node_id: 1 }, committed: true }
}

fn sample_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/format-1")
}

async fn write_sample(store: &Store) {
    let mut log = Log::open(store.clone(), Arc::default()).unwrap();
    log.save_vote(&vote()).await.unwrap();
    log.blocking_append(sample()).await.unwrap();
    store.add_issued(vec![(0, b"the root".to_vec()).into(), (1, b"a leaf".to_vec()).into()]);
    let description = record::Description {
        meta: SnapshotMeta { last_log_id: Some(sample()[1].log_id), last_membership: StoredMembership::default() },
        bytes: 5,
        sha256: pki::digest::sha256(b"state"),
    };
    machine::save(store, &description, Arc::new(b"state".to_vec().into())).await.unwrap();
    log.purge(sample()[0].log_id).await.unwrap();
}

fn check_sample(store: &Store) {
    let mut expected = sample();
    expected.remove(0);
    let log = Log::open(store.clone(), Arc::default()).unwrap();
    let entries = log.read(..).unwrap();
    assert_eq!(entries.len(), expected.len());
    for (read, written) in entries.iter().zip(&expected) {
        assert_eq!(read.log_id, written.log_id);
        match (&read.payload, &written.payload) {
            (openraft::EntryPayload::Normal(a), openraft::EntryPayload::Normal(b)) => assert_eq!(a.bytes(), b.bytes()),
            (openraft::EntryPayload::Blank, openraft::EntryPayload::Blank) => {}
            other => panic!("{other:?}"),
        }
    }
    let stored = store.vote().unwrap();
    assert_eq!(record::decode_vote(&stored).unwrap(), vote());
    assert_eq!(store.issued(0, 9).unwrap(), vec![(0, b"the root".to_vec()).into(), (1, b"a leaf".to_vec()).into()]);
    assert_eq!(store.snapshot().unwrap().as_slice(), b"state");
    let described = store.description().unwrap().unwrap();
    let description = record::decode_description(&described).unwrap();
    assert_eq!((description.bytes, description.meta.last_log_id), (5, Some(sample()[1].log_id)));
}

/// Writes testdata/format-1 when it is not there: run it once for a new format, never for an old one.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the sample of a new format"]
async fn make_the_sample_of_format_1() {
    let scope = Scope { cluster: "w1b8p8777smiidzvu9mwghgki".into(), epoch: 0 };
    let store = Store::create(&Local, &sample_dir(), scope, FIRST_MEMBER, &key()).unwrap().finish().unwrap();
    write_sample(&store).await;
    store.closed(std::time::Duration::from_secs(5)).await;
    // Nobody needs the zeros that it was made of.
    let log = std::fs::OpenOptions::new().write(true).open(sample_dir().join("store-1.log-1")).unwrap();
    log.set_len(8192).unwrap();
}

#[test]
fn a_store_of_format_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(sample_dir()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let (store, header) = Store::open(&Local, dir.path(), &key()).unwrap();
    assert_eq!((header.cluster.as_str(), header.epoch), ("w1b8p8777smiidzvu9mwghgki", 0));
    check_sample(&store);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_today_reads_like_the_sample() {
    let dir = tempfile::tempdir().unwrap();
    let scope = Scope { cluster: "c".into(), epoch: 7 };
    let store = Store::create(&Local, dir.path(), scope, FIRST_MEMBER, &key()).unwrap().finish().unwrap();
    write_sample(&store).await;
    store.closed(std::time::Duration::from_secs(5)).await;
    check_sample(&Store::open(&Local, dir.path(), &key()).unwrap().0);
}

#[test]
fn a_record_of_a_newer_format_is_refused() {
    // Field 1, varint 2.
    let newer = [0x08, 0x02];
    let error = record::decode_entry(1, &newer).unwrap_err().to_string();
    assert_eq!(error, "a record has format 2, this version knows format 1");
    assert!(record::decode_vote(&newer).is_err());
    assert!(record::decode_log_id(&newer).is_err());
    assert!(record::decode_description(&newer).is_err());
    assert!(record::decode_entry(1, b"").is_err(), "no format is no record");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_forgets_what_is_on_disk_and_reads_stay_whole() {
    let dir = tempfile::tempdir().unwrap();
    let scope = Scope { cluster: "c".into(), epoch: 0 };
    let store = Store::create(&Local, dir.path(), scope, FIRST_MEMBER, &key()).unwrap().finish().unwrap();
    let mut log = Log::open(store.clone(), Arc::default()).unwrap();
    let leader_id = LeaderId { term: 1, node_id: 1 };
    let entry = |index: u64, byte: u8| Entry {
        log_id: LogId { leader_id, index },
        payload: openraft::EntryPayload::Normal(Stamped::stored(vec![byte; 10_000])),
    };
    for index in 0..100 {
        log.blocking_append([entry(index, index as u8)]).await.unwrap();
    }
    assert!(log.kept() < 40, "{}", log.kept());
    let indexes = |entries: Vec<Entry>| entries.into_iter().map(|e| e.log_id.index).collect::<Vec<_>>();
    assert_eq!(indexes(log.read(..).unwrap()), (0..100).collect::<Vec<_>>());
    assert_eq!(indexes(log.read(90..95).unwrap()), (90..95).collect::<Vec<_>>());
    assert_eq!(indexes(log.read(60..=80).unwrap()), (60..=80).collect::<Vec<_>>());
    log.truncate_after(Some(LogId { leader_id, index: 49 })).await.unwrap();
    assert_eq!(indexes(log.read(40..).unwrap()), (40..50).collect::<Vec<_>>());
    log.blocking_append((50..60).map(|index| entry(index, 0xff))).await.unwrap();
    log.purge(LogId { leader_id, index: 54 }).await.unwrap();
    let rest = log.read(..).unwrap();
    assert!(rest.iter().all(|e| matches!(&e.payload, openraft::EntryPayload::Normal(s) if s.bytes()[0] == 0xff)));
    assert_eq!(indexes(rest), (55..60).collect::<Vec<_>>());
    drop(log);
    store.closed(std::time::Duration::from_secs(5)).await;
    let store = Store::open(&Local, dir.path(), &key()).unwrap().0;
    assert_eq!(indexes(Log::open(store, Arc::default()).unwrap().read(..).unwrap()), (55..60).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_that_a_crash_forgot_is_made_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = || crate::Config {
        dir: dir.path().join("raft"),
        dek: pki::secret::SecretBytes::new(vec![1; 32]),
        clock: Arc::new(|| crate::support::START),
        carrier: Arc::new(crate::carrier::Alone),
        limits: crate::Limits::default(),
    };
    let replica = crate::Replica::create(config(), crate::support::Cluster::bootstrap()).await.unwrap();
    replica.shutdown().await;
    drop(replica);
    // A snapshot was written, and the log behind it is still there.
    let (store, _) = Store::open(&Local, &config().dir, &key()).unwrap();
    let rows = store.entries(0..=u64::MAX).unwrap();
    let mut state = State::empty();
    let (mut last, mut members) = (None, StoredMembership::default());
    for (index, bytes) in &rows {
        let entry = record::decode_entry(*index, bytes).unwrap();
        last = Some(entry.log_id);
        match entry.payload {
            openraft::EntryPayload::Normal(stamped) => drop(state.apply(*index, &stamped.batch().unwrap())),
            openraft::EntryPayload::Membership(membership) => members = StoredMembership::new(last, membership),
            openraft::EntryPayload::Blank => {}
        }
    }
    let bytes = state.encode_snapshot();
    let meta = SnapshotMeta { last_log_id: last, last_membership: members };
    let description =
        record::Description { meta, bytes: bytes.len() as u64, sha256: pki::digest::sha256(bytes.as_slice()) };
    machine::save(&store, &description, Arc::new(bytes.to_vec().into())).await.unwrap();
    let covered = last.unwrap().index;
    store.closed(std::time::Duration::from_secs(5)).await;
    let replica = crate::Replica::open(config()).await.unwrap();
    replica.forgotten().await;
    assert!(crate::Handle::state(&replica).encode_snapshot() == state.encode_snapshot());
    replica.shutdown().await;
    let (store, _) = Store::open(&Local, &config().dir, &key()).unwrap();
    assert!(store.entries(0..=covered).unwrap().is_empty());
}
