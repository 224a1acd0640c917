//! Issuances a second from CAs that take 20 ms an answer, 16 requests in flight, one URL of three dead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/ca/mod.rs"]
mod ca;

use std::sync::Arc;
use std::time::Duration;

use ca::{Asker, Ca, Dead, Reply, Root, client};
use divan::Bencher;
use divan::counter::ItemsCount;
use pki::Role;
use swarmpki_cfssl::{Client, Settings};
use tokio::runtime::{Builder, Runtime};

const HOST: &str = "127.0.32.5";
const IN_FLIGHT: usize = 16;
const REQUESTS: usize = 800;
const ANSWER_AFTER: Duration = Duration::from_millis(20);

fn main() {
    divan::main();
}

struct Fixture {
    runtime: Runtime,
    root: Arc<Root>,
    _cas: Vec<Ca>,
    _dead: Vec<Dead>,
    client: Client,
}

/// Dead URLs first.
fn fixture(dead_urls: usize, good_urls: usize) -> Fixture {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let root = Arc::new(Root::new("external-root"));
    let mut targets = Vec::new();
    let (mut cas, mut dead) = (Vec::new(), Vec::new());
    let client = runtime.block_on(async {
        for _ in 0..dead_urls {
            let address = Dead::new(HOST);
            targets.push(address.target(&root));
            dead.push(address);
        }
        for _ in 0..good_urls {
            let maker = root.clone();
            let ca = Ca::start(HOST, &root, move |request| {
                Reply::Late(ANSWER_AFTER, Box::new(Reply::certificate(&maker.certify(request, |_| {}))))
            })
            .await;
            targets.push(ca.target(&root));
            cas.push(ca);
        }
        let settings = Settings::new(ca::clock(), Arc::new(|| 0.0));
        client(settings, None, targets)
    });
    Fixture { runtime, root, _cas: cas, _dead: dead, client }
}

impl Fixture {
    /// The requests, so many in flight; each is for a node of its own.
    fn issue(&self, askers: &Arc<Vec<Asker>>) {
        self.runtime.block_on(async {
            let lanes: Vec<_> = (0..IN_FLIGHT)
                .map(|lane| {
                    let (client, root, askers) = (self.client.clone(), self.root.clone(), askers.clone());
                    tokio::spawn(async move {
                        for asker in askers.iter().skip(lane).step_by(IN_FLIGHT) {
                            let check = |pem: &[u8]| asker.check(&root.certificate, pem);
                            client.sign(&asker.request, check).await.unwrap();
                        }
                    })
                })
                .collect();
            for lane in lanes {
                lane.await.unwrap();
            }
        });
    }
}

fn askers() -> Arc<Vec<Asker>> {
    Arc::new((0..REQUESTS).map(|number| Asker::new(Role::Worker, &format!("node-{number}"))).collect())
}

fn run(bencher: Bencher<'_, '_>, dead_urls: usize, good_urls: usize) {
    let fixture = fixture(dead_urls, good_urls);
    let askers = askers();
    fixture.issue(&askers);
    bencher.counter(ItemsCount::new(REQUESTS)).bench_local(|| fixture.issue(&askers));
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn three_urls(bencher: Bencher<'_, '_>) {
    run(bencher, 0, 3);
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn three_urls_the_first_dead(bencher: Bencher<'_, '_>) {
    run(bencher, 1, 2);
}
