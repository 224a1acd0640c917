//! `kill -9` of our manager while nodes join and renew: nothing that was answered is lost, and all go on by themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;
use swarmpki_conformance::caller::Pair;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::storm::{Received, Storm};
use swarmpki_conformance::{all_ready, join, node_id, swarm, token};
use testkit::engine::Engine;
use testkit::require_or_skip;

/// Set it to a seed that a failed run printed to get the same moments again.
const SEED_VARIABLE: &str = "SWARMPKI_SEED";

/// The seed of this run, printed: a failed test shows it.
#[allow(clippy::print_stderr)]
fn chance() -> ChaCha8Rng {
    let given = std::env::var(SEED_VARIABLE).ok().map(|text| text.parse().expect("a number"));
    let drawn = || u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos());
    let seed: u64 = given.unwrap_or_else(drawn);
    eprintln!("rerun: {SEED_VARIABLE}={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

fn between(chance: &mut ChaCha8Rng, low: usize, high: usize) -> usize {
    low + usize::try_from(chance.next_u64() % (high - low + 1) as u64).unwrap()
}

/// What must stay as it is, whatever happens to the manager.
fn what_stays(cluster: &Cluster) -> [String; 4] {
    let swarm = swarm(&cluster.manager);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let tokens = &swarm["JoinTokens"];
    [text(&swarm["ID"]), text(&swarm["TLSInfo"]["TrustRoot"]), text(&tokens["Worker"]), text(&tokens["Manager"])]
}

/// The state of the killed manager, judged before anything mends it.
fn check(cluster: &Cluster) {
    let state = cluster.manager.folder().join("state");
    let output = cluster.manager.swarmpki(&["check", "--state-dir", state.to_str().unwrap()]);
    assert!(output.ok().ends_with("No problem found"), "{output:?}");
}

/// Kills and restarts the manager `kills` times under the storm; then the storm ends and what it received is answered.
async fn through(cluster: &mut Cluster, kills: usize, chance: &mut ChaCha8Rng) -> Vec<Received> {
    let before = what_stays(cluster);
    let storm = Storm::begin(cluster, between(chance, 16, 64));
    for _ in 0..kills {
        // The moment is that of an answer, which one is chance: so the manager always dies with many calls under way.
        storm.until(storm.count() + between(chance, 1, 120)).await;
        cluster.manager.kill();
        check(cluster);
        cluster.manager.restart();
        cluster.manager_is_back();
        assert_eq!(what_stays(cluster), before);
    }
    storm.until(storm.count() + 1).await;
    storm.end().await
}

/// Serials of the issuance log with the node each is for.
fn logged(cluster: &Cluster) -> BTreeMap<String, String> {
    let log: Value = serde_json::from_str(&cluster.manager.swarmpki(&["ca", "log", "--json"]).ok()).unwrap();
    let entries = log["entries"].as_array().unwrap();
    cluster.manager.swarmpki(&["log", "verify"]).ok();
    let text = |value: &Value| value.as_str().unwrap_or("CA").to_owned();
    let serials: BTreeMap<_, _> = entries.iter().map(|entry| (text(&entry["serial"]), text(&entry["node"]))).collect();
    assert_eq!(serials.len(), entries.len(), "a serial never comes twice");
    serials
}

fn serial(pair: &Pair) -> String {
    let chain = pki::certificate::Certificate::parse_pem_bundle(pair.chain.as_bytes()).unwrap();
    chain[0].serial().to_string()
}

/// Every certificate has its entry in the log, and the last one of each node opens a session.
async fn all_count(cluster: &Cluster, received: &[Received]) {
    let log = logged(cluster);
    let mut last = BTreeMap::new();
    for one in received {
        assert_eq!(log.get(&serial(&one.pair)), Some(&one.node), "a certificate of {}", one.node);
        last.insert(&one.node, &one.pair);
    }
    for (node, pair) in last {
        let caller = cluster.caller(pair).await;
        let (message, _stream) =
            caller.session("").await.unwrap_or_else(|status| panic!("the session of {node}: {status:?}"));
        caller
            .heartbeat(&message.session_id)
            .await
            .unwrap_or_else(|status| panic!("a heartbeat of {node}: {status:?}"));
        assert_eq!(&message.node.unwrap().id, node);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_is_killed_again_and_again_forgets_nothing_it_answered() {
    require_or_skip!("swarmpki");
    let mut chance = chance();
    let mut cluster = Cluster::start();
    let received = through(&mut cluster, 5, &mut chance).await;
    let nodes: BTreeSet<_> = received.iter().map(|one| &one.node).collect();
    assert!(nodes.len() >= 16 && received.len() > nodes.len(), "{} of {}", received.len(), nodes.len());
    all_count(&cluster, &received).await;
    assert!(cluster.manager.stop().success());
    check(&cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_engine_is_ready_again_by_itself_after_its_manager_was_killed_under_load() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let mut chance = chance();
    let mut cluster = Cluster::start();
    let engine = Engine::start("worker1");
    let id = join(&engine, cluster.net.host(2), &token(&cluster.manager, "worker"), &cluster.net.swarm(1));
    all_ready(&cluster.manager, &[&id]);
    let received = through(&mut cluster, 2, &mut chance).await;
    all_ready(&cluster.manager, &[&id]);
    assert_eq!(node_id(&engine), id);
    all_count(&cluster, &received).await;
}
