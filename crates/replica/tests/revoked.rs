//! What is written for an ordinary change, with a hundred thousand revocations in the store.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../cluster/tests/support/mod.rs"]
mod support;

use cluster::Command;
use cluster::command::{Revoke, Withdraw, Withdrawn};
use cluster::revocation::{REVOKED_PER_COMMAND_MAX, Reason};
use pki::secret::SecretBytes;
use std::sync::Arc;
use support::{Cluster, LIFE, START, id, root, serial};
use swarmpki_replica::carrier::Alone;
use swarmpki_replica::{Config, Handle, Limits, Replica};

/// Bytes that this process has given to the system to write.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

/// The least that one of many changes of a node writes: what is done beside them does not count.
async fn least(replica: &Replica) -> u64 {
    let mut least = u64::MAX;
    for n in 0..30 {
        let before = written();
        replica.propose(vec![Command::Presence { node: id(1), down: n % 2 == 0, seen: START }]).await.unwrap();
        least = least.min(written() - before);
    }
    least
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_change_writes_no_more_with_100_000_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        dir: dir.path().join("raft"),
        dek: SecretBytes::new(vec![1; 32]),
        clock: Arc::new(|| START),
        carrier: Arc::new(Alone),
        limits: Limits::default(),
    };
    let replica = Replica::create(config, Cluster::bootstrap()).await.unwrap();
    let mut cluster = Cluster::new();
    let admit = Command::Admit(Box::new(cluster.admission(1)));
    replica.propose(vec![admit, Command::Confirm { node: id(1), serial: serial(1) }]).await.unwrap();
    assert!(replica.state().node(&id(1)).is_some());
    let before = least(&replica).await;

    let until = START.saturating_add(LIFE);
    let one = |n: &u64| Withdrawn { issuer: root().issuer, serial: serial(10_000 + n), until, node: None };
    for chunk in (0..100_000).collect::<Vec<u64>>().chunks(REVOKED_PER_COMMAND_MAX) {
        let what = Withdraw::Certificates(chunk.iter().map(one).collect());
        let command = Command::Revoke(Box::new(Revoke { reason: Reason::Superseded, what }));
        replica.propose(vec![command]).await.unwrap();
    }
    assert_eq!(replica.state().revocations.len(), 100_000);
    let after = least(&replica).await;
    // Numbers of entries are some bytes longer.
    assert!(before > 0 && after <= before + 64, "{before} bytes a change, then {after}");
    replica.shutdown().await;
}
