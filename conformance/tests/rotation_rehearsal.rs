//! A dry run and the real rotation after it agree on who converts and who blocks: with engines that are down and with nodes of ours
//! whose clocks are off (issue 3, done when 3; pki.md 18).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use swarmpki::{Config, JoinRequest, Node, Time};
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::rotation::{
    ENDS_WITHIN, GivenRoot, Marks, P256, all_follow, ca_status, in_progress, rotated,
};
use swarmpki_conformance::{all_ready, join, node_id, token};
use testkit::engine::Engine;
use testkit::server::Server;
use testkit::{require_or_skip, wait};
use tokio::task::JoinSet;

/// A rehearsal says what is known: a heartbeat tells of a clock that was set, and certificates begin on whole minutes.
const KNOWN_WITHIN: Duration = Duration::from_secs(75);
const HOUR: i64 = 3_600;

/// A node of ours in this process, whose clock the test sets.
struct Skewed {
    id: String,
    seconds: Arc<AtomicI64>,
    _folder: tempfile::TempDir,
}

impl Skewed {
    /// Joins with a clock that is right, and lives with one that is off by so much.
    async fn join(cluster: &Cluster, seconds: i64, tasks: &mut JoinSet<()>) -> Self {
        let (folder, shift) = (tempfile::tempdir().unwrap(), Arc::new(AtomicI64::new(0)));
        let by = Arc::clone(&shift);
        let clock = move || {
            let now = Time::from(SystemTime::now());
            Time::from_unix_millis(now.unix_millis() + by.load(Ordering::Relaxed) * 1000)
        };
        let config = Config { clock: Arc::new(clock), ..Config::new(folder.path()) };
        let request = JoinRequest::new(cluster.token("Worker").parse().unwrap(), [cluster.address().to_string()]);
        let node = Node::join(config, request).await.unwrap();
        let id = node.status().borrow().node.as_ref().unwrap().to_string();
        // Before its first session: there it would learn that the present has passed, and never judge by less.
        shift.store(seconds, Ordering::Relaxed);
        tasks.spawn(async move {
            let _ended = node.run(std::future::pending::<()>()).await;
        });
        Self { id, seconds: shift, _folder: folder }
    }

    fn set(&self, seconds: i64) {
        self.seconds.store(seconds, Ordering::Relaxed);
    }
}

/// Nodes with the reason why each is waited for. `lost` becomes `down` as time passes.
fn reasons(blocking: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let nodes = blocking.as_array().into_iter().flatten();
    nodes.map(|node| (text(&node["node"]), text(&node["reason"]).replace("down", "lost"))).collect()
}

fn named<const N: usize>(rows: [(&str, &str); N]) -> BTreeMap<String, String> {
    rows.iter().map(|(id, reason)| ((*id).to_owned(), (*reason).to_owned())).collect()
}

fn rotate(manager: &Server, root: Option<&GivenRoot>, dry_run: bool) -> Value {
    let (certificate, key) = root.map(|root| (root.certificate(), root.key())).unwrap_or_default();
    let body = json!({ "dry_run": dry_run, "certificate": certificate, "key": key });
    let answer = manager.api("POST", "/swarmpki/v1/ca/rotate", Some(&body.to_string()));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Rehearses until exactly these would be waited for; what it says then.
fn rehearsed(manager: &Server, root: Option<&GivenRoot>, blocks: &BTreeMap<String, String>) -> Value {
    let (rehearsal, _) = wait::until(&format!("the rehearsal names {blocks:?}"), KNOWN_WITHIN, || {
        let rehearsal = rotate(manager, root, true);
        if reasons(&rehearsal["blocks"]) == *blocks { Ok(rehearsal) } else { Err(rehearsal.to_string()) }
    });
    assert_eq!(rehearsal["takes_ms"].is_null(), !blocks.is_empty(), "{rehearsal}");
    rehearsal
}

fn converts(rehearsal: &Value) -> Vec<String> {
    let nodes = rehearsal["converts"].as_array().unwrap().iter();
    let mut ids: Vec<_> = nodes.map(|node| node["node"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids
}

fn sorted<const N: usize>(ids: [&str; N]) -> Vec<String> {
    let mut ids = ids.map(str::to_owned).to_vec();
    ids.sort_unstable();
    ids
}

/// Waits until the rotation under way waits for exactly these, for these reasons, and everybody else has a new certificate.
fn waits_for(manager: &Server, blocks: &BTreeMap<String, String>) -> Value {
    wait::until(&format!("the rotation waits for {blocks:?}"), ENDS_WITHIN, || {
        let rotation = ca_status(manager)["rotation"].take();
        if rotation["phase"] == "renew" && reasons(&rotation["blocking"]) == *blocks {
            Ok(rotation)
        } else {
            Err(rotation.to_string())
        }
    })
    .0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_and_the_rotation_agree_on_dead_engines_and_wrong_clocks() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let cluster = Cluster::start();
    let (manager, mut tasks) = (&cluster.manager, JoinSet::new());
    // The first root of all begins five minutes ago, as docker's does; one that is rotated to, an hour.
    let first = Marks::of(manager);
    rotate(manager, None, false);
    rotated(manager, &first);
    let right = Skewed::join(&cluster, 0, &mut tasks).await;
    let behind = Skewed::join(&cluster, -3 * HOUR, &mut tasks).await;
    let ahead = Skewed::join(&cluster, 3 * HOUR, &mut tasks).await;
    let slow = Skewed::join(&cluster, -600, &mut tasks).await;
    let late = Skewed::join(&cluster, 0, &mut tasks).await;
    let (alive, mut dead) = (Engine::start("alive"), Engine::start("dead"));
    let worker = token(manager, "worker");
    let alive_id = join(&alive, cluster.net.host(2), &worker, &cluster.net.swarm(1));
    let dead_id = join(&dead, cluster.net.host(3), &worker, &cluster.net.swarm(1));
    let manager_id = node_id(manager);
    let ours = [&right, &behind, &ahead, &slow, &late];
    all_ready(manager, &ours.map(|node| node.id.as_str()));
    all_ready(manager, &[&alive_id, &dead_id]);
    // This one has been told the time: set back, it goes on judging by that.
    late.set(-3 * HOUR);
    dead.kill();

    let before = Marks::of(manager);
    let blocks = named([(&dead_id, "lost"), (&behind.id, "clock-off")]);
    let others = sorted([&manager_id, &alive_id, &right.id, &ahead.id, &slow.id, &late.id]);
    let rehearsal = rehearsed(manager, None, &blocks);
    assert_eq!(converts(&rehearsal), others, "{rehearsal}");
    // A root that began this minute: ten minutes are too much for it, and so is the time since that one was told the time.
    let fresh = GivenRoot::make("fresh", P256, 3650, "");
    let narrow =
        named([(&dead_id, "lost"), (&behind.id, "clock-off"), (&slow.id, "clock-off"), (&late.id, "clock-off")]);
    rehearsed(manager, Some(&fresh), &narrow);
    assert!(!in_progress(manager) && Marks::of(manager) == before, "nothing was begun");

    rotate(manager, None, false);
    let real = waits_for(manager, &blocks);
    assert_eq!(real["done"], others.len(), "as rehearsed: {real}");
    let remedies: Vec<_> = real["blocking"].as_array().unwrap().iter().map(|node| node["remedy"].to_string()).collect();
    assert!(remedies.iter().all(|remedy| remedy != "null"), "{real}");

    // Put right, it goes on by itself.
    behind.set(0);
    let real = waits_for(manager, &named([(&dead_id, "lost")]));
    assert_eq!(real["done"], others.len() + 1, "{real}");
    cluster.remove(&dead_id);
    let middle = rotated(manager, &before);
    let all = [&alive_id, &right.id, &behind.id, &ahead.id, &slow.id, &late.id].map(Clone::clone);
    all_follow(manager, &all);

    // Whose clock allows it as little as was rehearsed is waited for until its own time has come as far, or is set right.
    let blocks = named([(&slow.id, "clock-off"), (&late.id, "clock-off")]);
    let fresh = GivenRoot::make("fresh", P256, 3650, "");
    let rehearsal = rehearsed(manager, Some(&fresh), &blocks);
    let others = sorted([&manager_id, &alive_id, &right.id, &behind.id, &ahead.id]);
    assert_eq!(converts(&rehearsal), others, "{rehearsal}");
    rotate(manager, Some(&fresh), false);
    let real = waits_for(manager, &blocks);
    assert_eq!(real["done"], others.len(), "{real}");
    slow.set(0);
    late.set(0);
    let end = rotated(manager, &middle);
    assert_eq!(end.root, fresh.certificate());
    all_follow(manager, &all);
}
