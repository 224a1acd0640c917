//! Proposals to a single voter over a synced file: one client, and crowds that share syncs.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../cluster/tests/support/mod.rs"]
mod support;

use cluster::Command;
use divan::Bencher;
use divan::counter::ItemsCount;
use pki::secret::SecretBytes;
use std::sync::Arc;
use swarmpki_replica::{Config, Handle, Limits, Replica};

fn main() {
    divan::main();
}

/// A certificate's worth of entry, refused when applied (there is no such node): so that the state does not grow.
fn command() -> Command {
    let letter = support::letter(9, 9, pki::identity::Role::Worker, support::START, support::LIFE);
    let premises = cluster::command::Premises { issuer: support::root().issuer, epoch: 0, signed: support::START };
    Command::Renew(Box::new(cluster::command::Renew {
        node: support::id(9),
        cut: 0,
        letter: Arc::new(letter),
        premises,
    }))
}

#[divan::bench(args = [1, 64, 256])]
fn clients(bencher: Bencher<'_, '_>, clients: usize) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config {
        dir: dir.path().join("raft"),
        dek: SecretBytes::new(vec![1; 32]),
        clock: Arc::new(|| support::START),
        carrier: Arc::new(swarmpki_replica::carrier::Alone),
        limits: Limits::default(),
    };
    let replica = runtime.block_on(Replica::create(config, support::Cluster::bootstrap())).unwrap();
    let command = command();
    let each = 20;
    bencher.counter(ItemsCount::new(clients * each)).bench_local(|| {
        runtime.block_on(async {
            let tasks: Vec<_> = (0..clients)
                .map(|_| {
                    let (replica, command) = (replica.clone(), command.clone());
                    tokio::spawn(async move {
                        for _ in 0..each {
                            replica.propose(vec![command.clone()]).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        });
    });
    runtime.block_on(replica.shutdown());
}
