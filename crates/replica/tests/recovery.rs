//! What was answered is there after a stop, a drop, a kill at any moment, and with the wrong key nothing happens.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "../../cluster/tests/support/mod.rs"]
mod support;

use cluster::command::{Admit, Premises};
use cluster::node::{Availability, Spec};
use cluster::{Command, Outcome};
use pki::identity::Role;
use pki::secret::SecretBytes;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Cluster, LIFE, START, WORKER, id, letter};
use swarmpki_replica as replica;
use swarmpki_replica::carrier::Alone;
use swarmpki_replica::{Config, Handle, Limits, OpenError, ProposeError, Replica, StoreError};
use tokio::runtime::Runtime;

fn config(dir: &Path, key: u8) -> Config {
    let limits = Limits { snapshot_entries: 200, ..Limits::default() };
    Config {
        dir: dir.join("raft"),
        dek: SecretBytes::new(vec![key; 32]),
        clock: Arc::new(|| START),
        carrier: Arc::new(Alone),
        limits,
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// The `n`th node joins.
fn admit(n: u64) -> Command {
    Command::Admit(Box::new(Admit {
        node: id(n),
        spec: Spec::new(Role::Worker, Availability::Active),
        ours: true,
        token: WORKER,
        letter: Arc::new(letter(n, n, Role::Worker, START, LIFE)),
        premises: Premises { issuer: support::root().issuer, epoch: 0, signed: START },
    }))
}

fn confirm(n: u64) -> Command {
    Command::Confirm { node: id(n), serial: support::serial(n) }
}

async fn join(replica: &Replica, n: u64) -> Result<(), ProposeError> {
    let outcomes = replica.propose(vec![admit(n)]).await?;
    assert!(matches!(outcomes.as_slice(), [Outcome::Issued { fresh: true, .. }]), "{outcomes:?}");
    replica.propose(vec![confirm(n)]).await?;
    Ok(())
}

async fn has(replica: &Replica, n: u64) {
    for i in 1..=n {
        assert!(replica.state().node(&id(i)).is_some(), "node {i} of {n}");
    }
}

#[test]
fn what_was_answered_is_there_after_a_drop_and_after_a_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let first = runtime();
    let replica = first.block_on(Replica::create(config(dir.path(), 1), Cluster::bootstrap())).unwrap();
    first.block_on(async {
        for n in 1..=150 {
            join(&replica, n).await.unwrap();
        }
    });
    let snapshot = replica.state().encode_snapshot();
    let log_size = replica.state().log_size();
    drop(replica);
    drop(first);
    runtime().block_on(async {
        let replica = Replica::open(config(dir.path(), 1)).await.unwrap();
        has(&replica, 150).await;
        assert!(replica.state().encode_snapshot() == snapshot, "the same state, to the byte");
        for n in 151..=160 {
            join(&replica, n).await.unwrap();
        }
        let entries = replica.log_entries(0, 1000).await.unwrap();
        assert_eq!(entries.len() as u64, log_size + 10, "the projection has every issuance, once");
        assert!(entries.iter().enumerate().all(|(i, e)| e.seq == i as u64));
        assert_eq!(replica.log_entries(log_size, 3).await.unwrap().len(), 3);
        replica.shutdown().await;
        assert!(matches!(replica.propose(vec![admit(999)]).await, Err(ProposeError::Unavailable { .. })));
        let again = Replica::open(config(dir.path(), 1)).await.unwrap();
        has(&again, 160).await;
        join(&again, 161).await.unwrap();
        assert_eq!(again.read().await.unwrap().log_size(), log_size + 11);
        again.shutdown().await;
    });
}

#[test]
fn a_start_takes_no_second() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let replica = Replica::create(config(dir.path(), 1), Cluster::bootstrap()).await.unwrap();
        join(&replica, 1).await.unwrap();
        replica.shutdown().await;
        let start = Instant::now();
        let replica = Replica::open(config(dir.path(), 1)).await.unwrap();
        let opened = start.elapsed();
        join(&replica, 2).await.unwrap();
        println!("open {opened:?}, first proposal answered after {:?}", start.elapsed());
        // Generous, for a loaded machine; an election by timer takes a second.
        assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    });
}

/// A thread that serves connections does not read the disk: pages of the log may be long.
#[test]
fn the_log_is_read_where_it_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let replica = Replica::create(config(dir.path(), 1), Cluster::bootstrap()).await.unwrap();
        // The only thread for what takes long is taken, so whatever waits for one waits.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let taken = tokio::task::spawn_blocking(move || held.recv());
        let read = tokio::time::timeout(Duration::from_millis(500), replica.log_entries(0, 10)).await;
        assert!(read.is_err(), "it was read by a thread that serves");
        drop(release);
        assert!(taken.await.unwrap().is_err());
        assert_eq!(replica.log_entries(0, 10).await.unwrap().len() as u64, replica.state().log_size());
        replica.shutdown().await;
    });
}

#[test]
fn a_wrong_data_key_or_a_taken_directory_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let missing = Replica::open(config(dir.path(), 1)).await;
        assert!(matches!(missing, Err(OpenError::Store(StoreError::NotFound { .. }))));
        let refused = Replica::create(config(dir.path(), 1), confirm(1)).await;
        assert!(matches!(refused, Err(OpenError::Refused(Some(Outcome::Rejected(_))))));
        let replica = Replica::create(config(dir.path(), 1), Cluster::bootstrap()).await.unwrap();
        join(&replica, 1).await.unwrap();
        replica.shutdown().await;
        let wrong = Replica::open(config(dir.path(), 2)).await;
        assert!(matches!(wrong, Err(OpenError::Store(StoreError::WrongKey { .. }))));
        let short = Config { dek: SecretBytes::new(vec![1; 31]), ..config(dir.path(), 1) };
        assert!(matches!(Replica::open(short).await, Err(OpenError::DataKey(31))));
        let twice = Replica::create(config(dir.path(), 1), Cluster::bootstrap()).await;
        assert!(matches!(twice, Err(OpenError::Store(StoreError::Exists { .. }))));
        let replica = Replica::open(config(dir.path(), 1)).await.unwrap();
        has(&replica, 1).await;
        assert_eq!(replica::header(&dir.path().join("raft")).unwrap().unwrap().cluster, support::cluster_id().as_str());
    });
}

#[test]
fn nothing_readable_lies_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let replica = Replica::create(config(dir.path(), 1), Cluster::bootstrap()).await.unwrap();
        for n in 1..=120 {
            join(&replica, n).await.unwrap();
        }
        replica.shutdown().await;
    });
    for file in std::fs::read_dir(dir.path().join("raft")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        // A token's secret, the root's key, and a node's id.
        for secret in [[1u8; 16].as_slice(), b"not a key", b"node0000000"] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret));
        }
    }
}

#[test]
fn sixty_four_at_once_share_their_syncs() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let replica = Replica::create(config(dir.path(), 1), Cluster::bootstrap()).await.unwrap();
        let before = replica.metrics();
        let mut tasks = Vec::new();
        for client in 0..64u64 {
            let replica = replica.clone();
            tasks.push(tokio::spawn(async move {
                for i in 0..40 {
                    join(&replica, 1 + client * 40 + i).await.unwrap();
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let after = replica.metrics();
        let commands = (after.commands - before.commands) as f64;
        assert_eq!(commands, 64.0 * 40.0 * 2.0);
        let share = (after.syncs - before.syncs) as f64 / commands;
        println!(
            "syncs per command {share:.3}, commands per entry {:.1}",
            commands / (after.entries - before.entries) as f64
        );
        assert!(share <= 0.1, "{share}: {after:?}");
        has(&replica, 2560).await;
        replica.shutdown().await;
    });
}

#[test]
fn one_at_a_time_costs_one_sync_each() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let limits = Limits::default();
        let replica = Replica::create(Config { limits, ..config(dir.path(), 1) }, Cluster::bootstrap()).await.unwrap();
        let before = replica.metrics();
        for n in 1..=500 {
            join(&replica, n).await.unwrap();
        }
        let after = replica.metrics();
        assert_eq!(after.commits - before.commits, 1000);
        let syncs = after.syncs - before.syncs;
        assert!(syncs <= 1010, "one a commit, but for the file's rare growth: {syncs}");
        replica.shutdown().await;
    });
}

/// Not a test of its own: the process that is killed. It prints what was answered.
#[test]
fn child_that_is_killed() {
    let Ok(dir) = std::env::var("SWARMPKI_REPLICA_CHILD") else { return };
    runtime().block_on(async {
        let dir = Path::new(&dir);
        let replica = match Replica::open(config(dir, 1)).await {
            Ok(replica) => replica,
            Err(OpenError::Store(StoreError::NotFound { .. })) => {
                Replica::create(config(dir, 1), Cluster::bootstrap()).await.unwrap()
            }
            Err(error) => panic!("{error}"),
        };
        println!("\nopen");
        let next = Arc::new(std::sync::atomic::AtomicU64::new(replica.state().log_size() + 1));
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let (replica, next) = (replica.clone(), next.clone());
            tasks.push(tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    match replica.propose(vec![admit(n), confirm(n)]).await {
                        Ok(outcomes) if matches!(outcomes.first(), Some(Outcome::Issued { .. })) => {
                            println!("\nanswered {n}")
                        }
                        Ok(_) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }));
        }
        // The first one that ends has failed.
        futures::future::select_all(tasks).await.0.unwrap();
    });
}

#[test]
fn kill_at_any_moment_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered: Vec<u64> = Vec::new();
    let mut seed = 0x5eed_u64;
    for round in 0..12 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["child_that_is_killed", "--exact", "--nocapture", "--test-threads=1"])
            .env("SWARMPKI_REPLICA_CHILD", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Killed after so many answers, or (in one round of four) while it still starts.
        let wanted = if round % 4 == 3 { 0 } else { (seed >> 33) % 150 };
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let mut seen = 0;
        while seen < wanted && output.read_line(&mut line).unwrap() > 0 {
            if let Some(n) = line.trim().strip_prefix("answered ") {
                answered.push(n.parse().unwrap());
                seen += 1;
            }
            line.clear();
        }
        assert_eq!(seen, wanted, "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        while output.read_line(&mut line).unwrap() > 0 {
            // The last line may be cut.
            if let Some(n) = line.strip_suffix('\n').and_then(|l| l.strip_prefix("answered ")) {
                answered.push(n.parse().unwrap());
            }
            line.clear();
        }
        if answered.is_empty() {
            continue;
        }
        runtime().block_on(async {
            let replica = Replica::open(config(dir.path(), 1)).await.unwrap();
            let state = replica.state();
            for n in &answered {
                assert!(state.node(&id(*n)).is_some(), "round {round}: node {n} was answered and is lost");
            }
            cluster::invariant::check(&state).unwrap();
            let entries = replica.log_entries(0, 100_000).await.unwrap();
            assert_eq!(entries.len() as u64, state.log_size(), "round {round}");
            replica.shutdown().await;
        });
    }
    assert!(answered.len() > 100);
}
