#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! The replica on a disk that fails.

use super::*;
use crate::disk::faulty::FaultyDisk;
use crate::support;

fn config(dir: &std::path::Path) -> Config {
    let clock = Arc::new(|| support::START);
    Config { dir: dir.join("raft"), dek: SecretBytes::new(vec![1; 32]), clock, limits: Limits::default() }
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
