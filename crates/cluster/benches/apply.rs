//! What an entry costs, and what a node weighs. `cargo bench -p swarmpki-cluster`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

#[path = "../tests/support/mod.rs"]
mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;

use cluster::State;
use cluster::command::{Batch, Command};
use divan::{Bencher, black_box, counter::ItemsCount};
use support::{Cluster, id};

fn main() {
    for nodes in [1_000u64, 10_000] {
        let cluster = populated(nodes);
        let bytes = cluster.state.encode_snapshot().len();
        let empty = Cluster::new().state.encode_snapshot().len();
        println!("snapshot of {nodes} nodes: {bytes} bytes, {} a node", (bytes - empty) as u64 / nodes);
    }
    divan::main();
}

/// A cluster of `nodes` finished nodes that have reported, each with the leaf before the current one.
fn populated(nodes: u64) -> Cluster {
    let mut cluster = Cluster::new();
    for n in 1..=nodes {
        let admit = cluster.admission(n);
        let first = Arc::clone(&admit.letter);
        let (report, blobs) = support::report(&format!("worker-{n}.example.net"), b"the same description");
        let batch = vec![
            Command::Admit(Box::new(admit)),
            Command::Confirm { node: id(n), serial: first.leaf.serial },
            Command::Report(Box::new(cluster::command::Reported { node: id(n), report, blobs })),
        ];
        cluster.state.apply(n + 1, &Batch { time: cluster.now, commands: batch });
    }
    cluster
}

const NODES: [u64; 3] = [1, 10_000, 100_000];

fn admit(bencher: Bencher<'_, '_>, nodes: u64, count: u64) {
    let mut cluster = populated(nodes);
    let commands = (0..count).map(|n| Command::Admit(Box::new(cluster.admission(1_000_000 + n)))).collect();
    let batch = Batch { time: cluster.now, commands };
    bencher.counter(ItemsCount::new(count)).with_inputs(|| cluster.state.clone()).bench_local_values(|mut state| {
        let index = state.index + 1;
        black_box(state.apply(index, &batch));
        state
    });
}

#[divan::bench(args = NODES)]
fn admit_1(bencher: Bencher<'_, '_>, nodes: u64) {
    admit(bencher, nodes, 1);
}

#[divan::bench(args = NODES)]
fn admit_256(bencher: Bencher<'_, '_>, nodes: u64) {
    admit(bencher, nodes, 256);
}

#[divan::bench(args = NODES)]
fn clone(bencher: Bencher<'_, '_>, nodes: u64) {
    let state = populated(nodes).state;
    bencher.bench_local(|| black_box(&state).clone());
}

#[divan::bench(args = [1_000, 100_000], sample_count = 10)]
fn snapshot_encode(bencher: Bencher<'_, '_>, nodes: u64) {
    let state = populated(nodes).state;
    bencher.bench_local(|| state.encode_snapshot());
}

#[divan::bench(args = [1_000, 100_000], sample_count = 10)]
fn snapshot_decode(bencher: Bencher<'_, '_>, nodes: u64) {
    let bytes = populated(nodes).state.encode_snapshot();
    bencher.bench_local(|| State::decode_snapshot(black_box(&bytes)).unwrap());
}

#[divan::bench]
fn batch_encode_256(bencher: Bencher<'_, '_>) {
    let mut cluster = Cluster::new();
    let commands = (0..256).map(|n| Command::Admit(Box::new(cluster.admission(n + 1)))).collect();
    let batch = Batch { time: cluster.now, commands };
    bencher.counter(ItemsCount::new(256u32)).bench_local(|| black_box(&batch).encode());
}
