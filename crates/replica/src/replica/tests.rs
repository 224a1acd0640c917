#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! The replica on a disk that fails.

use super::*;
use crate::disk::faulty::FaultyDisk;
use crate::support;
use cluster::command::{Reported, UpdateCluster};
use cluster::node::BlobDigest;
use cluster::rotation::{Abort, Advance, Phase, Policy, RootsChange, Start, Way};
use std::collections::BTreeSet;

fn config(dir: &std::path::Path) -> Config {
    let clock = Arc::new(|| support::START);
    let carrier = Arc::new(crate::carrier::Alone);
    Config { dir: dir.join("raft"), dek: SecretBytes::new(vec![1; 32]), clock, carrier, limits: Limits::default() }
}

fn command() -> Command {
    Command::Collect { nodes: Vec::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_fatal_and_answers_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::default();
    let replica = Replica::create_on(&disk, config(dir.path()), support::Cluster::bootstrap()).await.unwrap();
    replica.propose(vec![command()]).await.unwrap();
    let fatal = replica.fatal();
    disk.fail_syncs();
    let answer = replica.propose(vec![command()]).await;
    assert_eq!(answer, Err(ProposeError::Unknown));
    let fatal = fatal.await;
    assert!(fatal.to_string().contains("the disk failed to sync"), "{fatal}");
    assert!(matches!(replica.read().await, Err(ReadError::Fatal(_))));
    // The proposer hears of it too; from then on nothing is taken.
    while !matches!(replica.propose(vec![command()]).await, Err(ProposeError::Fatal(_))) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_time_keeps_what_was_answered() {
    for seed in 0..20u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = FaultyDisk::default();
        let mut replica = Replica::create_on(&disk, config(dir.path()), support::Cluster::bootstrap()).await.unwrap();
        let mut time = support::START;
        for round in 0..3 {
            let answered = seed % 7 + round;
            for _ in 0..answered {
                replica.propose(vec![command()]).await.unwrap();
            }
            let index = replica.state().index;
            let waiting = tokio::spawn({
                let replica = replica.clone();
                async move { replica.propose(vec![command()]).await }
            });
            disk.crash(seed * 3 + round);
            let next = Replica::open_on(&disk, config(dir.path())).await.unwrap();
            let late = waiting.await.unwrap();
            assert!(next.state().index >= index, "seed {seed} round {round}");
            assert!(late.is_ok() || late == Err(ProposeError::Unknown), "{late:?}");
            assert!(next.state().time() >= time);
            time = next.state().time();
            replica = next;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_ends_the_log_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { snapshot_entries: 50, ..Limits::default() };
    let open = || Config { limits, ..config(dir.path()) };
    let replica = Replica::create(open(), support::Cluster::bootstrap()).await.unwrap();
    for _ in 0..500 {
        replica.propose(vec![command()]).await.unwrap();
    }
    let index = replica.state().index;
    let state = replica.state().encode_snapshot();
    replica.shutdown().await;
    let key = DataKey::from_slice(&[1; 32]).unwrap();
    let (store, _) = Store::open(&Local, &dir.path().join("raft"), &key).unwrap();
    let rest = store.entries(0..=u64::MAX).unwrap();
    assert!(rest.len() < 200, "{} entries are left", rest.len());
    assert!(rest.last().is_some_and(|(last, _)| *last == index));
    store.closed(CLOSE_WITHIN).await;
    let replica = Replica::open(open()).await.unwrap();
    assert!(replica.state().encode_snapshot() == state, "snapshot and rest of the log give the same state");
    assert_eq!(replica.log_entries(0, 10).await.unwrap().len() as u64, replica.state().log_size());
    replica.propose(vec![command()]).await.unwrap();
    assert!(replica.state().index > index);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_or_too_much_is_not_proposed() {
    let dir = tempfile::tempdir().unwrap();
    let batch = batch::Limits { queue_commands_max: 4, queue_bytes_max: 1 << 20 };
    let open = Config { limits: Limits { batch, ..Limits::default() }, ..config(dir.path()) };
    let replica = Replica::create(open, support::Cluster::bootstrap()).await.unwrap();
    assert_eq!(replica.propose(Vec::new()).await, Ok(Vec::new()));
    let large = vec![command(); crate::ENTRY_BYTES_MAX];
    assert!(matches!(replica.propose(large).await, Err(ProposeError::TooLarge { .. })));
    let all = futures::future::join_all((0..64).map(|_| replica.propose(vec![command()]))).await;
    let full = all.iter().filter(|a| matches!(a, Err(ProposeError::Unavailable { .. }))).count();
    assert!(
        full > 0 && full < 64 && all.iter().all(|a| a.is_ok() || matches!(a, Err(ProposeError::Unavailable { .. })))
    );
}

/// Whether the bytes hold these.
fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Whether any record in the store holds this, opened.
pub(super) fn stored(store: &Store, wanted: &[u8]) -> bool {
    let entries = store.entries(0..=u64::MAX).unwrap();
    let issued = store.issued(0, usize::MAX).unwrap();
    entries
        .iter()
        .map(|(_, bytes)| bytes)
        .chain(issued.iter().map(|entry| &entry.bytes))
        .any(|bytes| holds(bytes, wanted))
        || holds(&store.snapshot().unwrap(), wanted)
}

pub(super) async fn done(replica: &Replica, commands: Vec<Command>) {
    let outcomes = replica.propose(commands).await.unwrap();
    assert!(!outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_))), "{outcomes:?}");
}

/// A rotation by a bundle begins, and is taken back at once if `back`; then the manager does its part in each phase, until one
/// step is left. Gives that step and the key that it lets go.
pub(super) async fn up_to_the_last_step(replica: &Replica, back: bool) -> (Command, Arc<SecretBytes>) {
    let old = replica.state().roots.served().cloned().unwrap();
    let new = support::authorities::authority(1);
    let change = |change| {
        let version = replica.state().cluster_version;
        let update = UpdateCluster { version, roots: Some(change), ..UpdateCluster::default() };
        done(replica, vec![Command::UpdateCluster(Box::new(update))])
    };
    let (policy, logged) = (Policy::WaitForAll, Vec::new());
    let way = Way::Bundle(support::authorities::both(&old, &new));
    change(RootsChange::Start(Box::new(Start { to: new.clone(), way, policy, logged: logged.clone() }))).await;
    if back {
        change(RootsChange::Abort(Box::new(Abort { ladder: Vec::new(), policy, logged }))).await;
    }
    loop {
        let state = replica.state();
        let running = state.rotation().unwrap();
        let trust: &[u8] = match running.phase {
            Phase::Widen => running.bundle().unwrap(),
            Phase::Renew | Phase::Trust => &running.to().bundle,
        };
        if running.phase == Phase::Renew {
            let drawn = 1000 + state.index;
            let mut cluster =
                support::Cluster { state: state.as_ref().clone(), now: support::START, drawn, log: Vec::new() };
            let renewal = cluster.renewal(0);
            let serial = renewal.letter.leaf.serial;
            done(replica, vec![Command::Renew(Box::new(renewal)), Command::Confirm { node: support::id(0), serial }])
                .await;
        } else {
            let (mut report, mut blobs) = support::report("manager", b"linux");
            report.trust = BlobDigest::of(trust);
            blobs.push((report.trust, Arc::from(trust)));
            done(replica, vec![Command::Report(Box::new(Reported { node: support::id(0), report, blobs }))]).await;
        }
        let (worker_secret, manager_secret) = (support::secret(9), support::secret(10));
        let advance = Advance { rotation: running.id, phase: running.phase, worker_secret, manager_secret };
        let advance = Command::AdvanceRotation(Box::new(advance));
        if running.phase == Phase::Trust {
            return (advance, if back { new.key().cloned().unwrap() } else { old.key().cloned().unwrap() });
        }
        done(replica, vec![advance]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_let_go_is_in_no_record_and_its_frames_are_overwritten() {
    for back in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::default();
        let replica = Replica::create_on(&disk, config(dir.path()), support::Cluster::bootstrap()).await.unwrap();
        let (last, key) = up_to_the_last_step(&replica, back).await;
        let store = replica.store().unwrap();
        for _ in 0..100 {
            done(&replica, vec![command()]).await;
        }
        assert!(stored(&store, key.expose()));
        // How each frame begins where it is sealed: format, salt and counter, as no other does.
        let begins: BTreeSet<[u8; 13]> = store.begins().into_iter().collect();
        let salt = &begins.first().unwrap()[..5];
        let left = || disk.bytes().windows(13).any(|window| &window[..5] == salt && begins.contains(window));
        assert!(left());
        done(&replica, vec![last]).await;
        replica.forgotten().await;
        assert!(!stored(&store, key.expose()), "back {back}");
        drop(store);
        assert!(!left(), "not even as it was sealed");
        done(&replica, vec![command()]).await;
        let state = replica.state().encode_snapshot();
        replica.shutdown().await;
        let replica = Replica::open_on(&disk, config(dir.path())).await.unwrap();
        assert!(replica.state().encode_snapshot() == state);
        replica.forgotten().await;
        assert!(!stored(&replica.store().unwrap(), key.expose()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_let_go_is_gone_after_a_crash_at_any_time() {
    for seed in 0..12u64 {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = FaultyDisk::default();
        let replica = Replica::create_on(&disk, config(dir.path()), support::Cluster::bootstrap()).await.unwrap();
        let (last, key) = up_to_the_last_step(&replica, false).await;
        done(&replica, vec![last]).await;
        for _ in 0..seed * 3 {
            tokio::task::yield_now().await;
        }
        if seed % 4 == 3 {
            replica.forgotten().await;
        }
        disk.crash(seed);
        let replica = Replica::open_on(&disk, config(dir.path())).await.unwrap();
        assert!(replica.state().rotation().is_none(), "seed {seed}");
        replica.forgotten().await;
        assert!(!stored(&replica.store().unwrap(), key.expose()), "seed {seed}");
    }
}
