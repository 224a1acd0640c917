//! The log as an account of all that a cluster's CA did: whole after everything that may happen to a cluster, and whatever is changed in
//! it is found; what a thief with the root key signs is told from what was issued (issue 6, done when 3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pki::identity::Role;
use pki::serial::Serial;
use redb::ReadableDatabase;
use serde_json::Value;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::group::{self, Group};
use swarmpki_conformance::rotation::{Marks, ended};
use swarmpki_conformance::thief::Thief;
use swarmpki_conformance::{all_ready, csr, in_state, node_id};
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::{require_or_skip, wait};

const ISSUED: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("issued");

fn log(manager: &Daemon, more: &[&str]) -> Value {
    let args = [&["log", "--json"], more].concat();
    serde_json::from_str(&manager.swarmpki(&args).ok()).unwrap()
}

fn entries(log: &Value) -> &[Value] {
    log["entries"].as_array().unwrap()
}

fn verified(manager: &Daemon) -> String {
    let said = manager.swarmpki(&["log", "verify"]).ok();
    assert!(said.starts_with("The log is whole: "), "{said}");
    said
}

#[test]
fn done_when_3_the_log_is_whole_after_a_cluster_has_lived() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 1);
    let marks = Marks::of(&group.managers[0]);
    for n in 2..=3 {
        let daemon = Daemon::start(&format!("worker{n}"));
        group.ids.push(group::join(&daemon, net.host(n), &marks.worker, &group.swarm(0)));
        group.hosts.push(net.host(n));
        group.managers.push(daemon);
    }
    let manager = &group.managers[0];
    all_ready(manager, &[&group.ids[1], &group.ids[2]]);
    verified(manager);

    // A promotion, a root, a token, a removal.
    manager.docker(&["node", "promote", &group.ids[1]]).ok();
    group::manages(manager, &group.ids[1], true);
    manager.swarmpki(&["ca", "rotate", "--detach"]).ok();
    ended(manager, &marks);
    manager.docker(&["swarm", "join-token", "--rotate", "worker"]).ok();
    group.managers[2].docker(&["swarm", "leave"]).ok();
    in_state(manager, &[&group.ids[2]], "down", Duration::from_secs(60));
    manager.docker(&["node", "rm", &group.ids[2]]).ok();

    // Both managers have it, whole, and the same.
    let (here, there) = (verified(manager), verified(&group.managers[1]));
    let root = |said: &str| said.split("root ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(root(&here), root(&there));

    let all = log(manager, &[]);
    let events: BTreeSet<&str> = entries(&all).iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    for event in [
        "issued",
        "node-updated",
        "root-key-delivered",
        "promoted",
        "rotation-begun",
        "rotation-phase",
        "rotation-finished",
        "token-rotated",
        "removed",
    ] {
        assert!(events.contains(event), "no {event}: {events:?}");
    }
    let joined = |entry: &&Value| entry["by"] == "the worker token" && entry["event"] == "issued";
    let joins: Vec<_> = entries(&all).iter().filter(joined).collect();
    assert_eq!(joins.len(), 2, "{all}");
    assert!(joins.iter().all(|entry| entry["from"].as_str().is_some_and(|from| from.starts_with("127."))), "{joins:?}");
    let removed = entries(&all).iter().find(|entry| entry["event"] == "removed").unwrap();
    let uid = format!("uid {}", nix::unistd::getuid());
    assert_eq!((removed["node"].as_str(), removed["by"].as_str()), (Some(&*group.ids[2]), Some(&*uid)));
    assert!(removed["host"].as_str().is_some_and(|host| !host.is_empty()), "{removed}");
    let of_it = log(manager, &["--node", &group.ids[2]]);
    assert!(entries(&of_it).iter().all(|entry| entry["node"] == *group.ids[2]) && entries(&of_it).len() >= 2);

    // What is told to one manager can be shown by the other.
    let last = entries(&all).last().unwrap()["seq"].to_string();
    let proof: Value =
        serde_json::from_str(&group.managers[1].swarmpki(&["log", "prove", &last, "--json"]).ok()).unwrap();
    assert_eq!(proof["root_hash"].as_str(), Some(&*root(&here)), "{proof}");

    // Personal parts go, everywhere, and the tree stays.
    manager.swarmpki(&["log", "erase", "--before", "0s"]).ok();
    let erased = log(manager, &[]);
    assert!(
        entries(&erased).iter().all(|entry| entry["from"].is_null() || entry["event"] == "private-erased"),
        "{erased}"
    );
    verified(manager);
    verified(&group.managers[1]);
}

/// The sealed bytes of entries, as they lie on the disk.
fn sealed(store: &Path) -> Vec<(u64, Vec<u8>)> {
    let copy = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(store, copy.path()).unwrap();
    let database = redb::Database::open(copy.path()).unwrap();
    let table = database.begin_read().unwrap().open_table(ISSUED).unwrap();
    let rows = table.range(0..).unwrap().map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())));
    rows.collect::<Result<_, _>>().unwrap()
}

fn places(file: &[u8], wanted: &[u8]) -> Vec<usize> {
    file.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted).map(|(at, _)| at).collect()
}

#[tokio::test]
async fn done_when_3_one_changed_bit_on_disk_is_found_and_named() {
    require_or_skip!("swarmpki");
    let mut cluster = Cluster::start();
    for _ in 0..3 {
        cluster.worker().await;
    }
    assert!(cluster.manager.stop().success());
    let state = cluster.manager.state();
    let verify = || cluster.manager.swarmpki(&["log", "verify", "--state-dir", state.to_str().unwrap()]);
    assert!(verify().ok().starts_with("The log is whole: "));

    let store = state.join("raft/store-1.redb");
    let whole = std::fs::read(&store).unwrap();
    let rows = sealed(&store);
    assert!(rows.len() >= 5, "{}", rows.len());
    for (seq, row) in &rows {
        // The head of the row, its middle, its tag.
        for byte in [0, row.len() / 2, row.len() - 1] {
            let mut hurt = whole.clone();
            let found = places(&whole, row);
            assert!(!found.is_empty(), "entry {seq} is on the disk");
            found.iter().for_each(|at| hurt[at + byte] ^= 4);
            std::fs::write(&store, &hurt).unwrap();
            let said = verify().refused();
            assert!(said.contains(&format!("entry {seq} of the issuance log")), "byte {byte} of entry {seq}: {said}");
        }
    }

    // Anywhere else it is found, or it is nowhere that matters; and nothing comes of it but words.
    let (mut told, mut unharmed) = (0, 0);
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    for at in used.iter().step_by((used.len() / 60).max(1)) {
        let mut hurt = whole.clone();
        hurt[*at] ^= 1;
        std::fs::write(&store, &hurt).unwrap();
        let output = verify();
        match output.code {
            0 => unharmed += 1,
            1 => told += 1,
            code => panic!("byte {at}: {code:?}: {output:?}"),
        }
    }
    assert!(told > 0, "{unharmed} without an effect");
    std::fs::write(&store, &whole).unwrap();
    assert!(verify().ok().starts_with("The log is whole: "));
}

#[tokio::test]
async fn done_when_3_a_forged_leaf_is_told_from_an_issued_one() {
    require_or_skip!("swarmpki");
    let mut cluster = Cluster::start();
    let worker = cluster.worker().await;
    let thief = Thief::visit(&mut cluster).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        let first = text.split_inclusive("-----END CERTIFICATE-----").next().unwrap();
        std::fs::write(&path, first).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let own = cluster.manager.certificates().chain();
    let issued = [file("worker.crt", &worker.pair.chain), file("manager.crt", &std::fs::read_to_string(own).unwrap())];
    let said = cluster.manager.swarmpki(&["log", "audit", &issued[0], &issued[1]]).ok();
    assert_eq!(said.matches(": issued as entry ").count(), 2, "{said}");

    // About one node, by its id or the beginning of it; nobody gets an empty list for a name that is nobody's.
    let about = |node: &str| cluster.manager.swarmpki(&["log", "--node", node]);
    let id = node_id(&cluster.manager);
    let whole = about(&id).ok();
    assert!(whole.lines().count() > 1 && whole.contains(&id), "{whole}");
    assert_eq!(about(&id[..20]).ok(), whole);
    assert_ne!(about("nobody-of-that-name").code, 0);

    let victim = worker.id.parse().unwrap();
    let serial = pki::certificate::Certificate::parse_pem_bundle(worker.pair.chain.as_bytes()).unwrap()[0].serial();
    let forged = [
        thief.leaf(Role::Worker, &victim, Serial::from_random([3; 20]), &csr::ordinary().key),
        thief.leaf(Role::Manager, &victim, serial, &worker.pair.key),
        thief.leaf(Role::Manager, &node_id(&cluster.manager).parse().unwrap(), serial, &worker.pair.key),
    ];
    for (n, pair) in forged.iter().enumerate() {
        let path = file(&format!("forged{n}.crt"), &pair.chain);
        let output = cluster.manager.swarmpki(&["log", "audit", &path, &issued[0]]);
        assert_eq!(output.code, 3, "{output:?}");
        assert!(output.stdout.contains("FORGED") && output.stdout.contains(": issued as entry "), "{output:?}");
    }

    // A root that was given up, and whose leaves nobody takes any more, is known still.
    cluster.manager.swarmpki(&["ca", "rotate", "--emergency", "--bound", "2s", "--yes", "--quiet"]).ok();
    let path = folder.path().join("forged0.crt");
    let output = cluster.manager.swarmpki(&["log", "audit", path.to_str().unwrap(), &issued[0]]);
    assert_eq!(output.code, 3, "{output:?}");
    assert!(output.stdout.contains("FORGED") && output.stdout.contains(": issued as entry "), "{output:?}");
}

/// How long anything may take that is waited for: heads are told every ten seconds.
const WITHIN: Duration = Duration::from_secs(90);

/// The head that a node keeps; null before it keeps one.
fn kept(node: &Daemon) -> Value {
    let output = node.swarmpki(&["log", "head", "--kept", "--json"]);
    if output.code == 0 { serde_json::from_str(&output.stdout).unwrap() } else { Value::Null }
}

fn keeps(node: &Daemon, size: u64) -> Value {
    let (head, _) = wait::until("the node keeps a head", WITHIN, || {
        let head = kept(node);
        if head["size"].as_u64().is_some_and(|kept| kept >= size) { Ok(head) } else { Err(head.to_string()) }
    });
    head
}

/// What the log has now, signed, and the file that it was written to.
fn signed(manager: &Daemon, name: &str) -> (Value, String) {
    let text = manager.swarmpki(&["log", "head", "--json"]).ok();
    let file = manager.folder().join(name);
    std::fs::write(&file, &text).unwrap();
    (serde_json::from_str(&text).unwrap(), file.to_str().unwrap().to_owned())
}

fn size(head: &Value) -> u64 {
    head["size"].as_u64().unwrap()
}

fn grow(manager: &Daemon, times: usize) {
    for _ in 0..times {
        manager.swarmpki(&["join-token", "--rotate", "worker"]).ok();
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn alarmed(node: &Daemon) -> String {
    let (info, _) = wait::until("an alarm is shown", WITHIN, || {
        let info = node.swarmpki(&["info"]).ok();
        if info.contains("ALARM: the issuance log was changed") { Ok(info) } else { Err(info) }
    });
    info
}

#[test]
fn a_witness_catches_a_manager_whose_log_was_put_back() {
    require_or_skip!("swarmpki");
    let mut cluster = Cluster::start();
    let mut worker = Daemon::start("worker2");
    let address = cluster.address().to_string();
    let id = group::join(&worker, cluster.net.host(2), &cluster.token("Worker"), &address);
    all_ready(&cluster.manager, &[&id]);
    let first = keeps(&worker, 1);
    assert_eq!(first["cluster_id"], *cluster.id);
    assert_eq!(first["manager"], *node_id(&cluster.manager));

    // A copy of everything that the manager has.
    assert!(cluster.manager.stop().success());
    let state = cluster.manager.state();
    let before: PathBuf = cluster.manager.folder().join("before");
    copy(&state, &before);
    cluster.manager.restart();
    cluster.manager_is_back();

    // It lives on; the worker follows, and keeps what it was told over a restart.
    grow(&cluster.manager, 3);
    let (head, file) = signed(&cluster.manager, "head.json");
    assert!(size(&head) > size(&first));
    let known = keeps(&worker, size(&head));
    let evidence = worker.state().join("certificates/swarm-log-head.bin");
    assert_eq!(std::fs::metadata(&evidence).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(worker.stop().success());
    worker.restart();
    assert_eq!(size(&keeps(&worker, 1)), size(&known));
    let said = cluster.manager.swarmpki(&["log", "verify", "--head", &file]).ok();
    assert!(said.contains("The head that was given") && said.contains("the log begins with these entries"), "{said}");
    let (before_size, root) = (first["size"].to_string(), first["root_hash"].as_str().unwrap());
    cluster.manager.swarmpki(&["log", "prove", "--before", &before_size, "--root", root]).ok();
    let other = (size(&first) + 1).to_string();
    let refused = cluster.manager.swarmpki(&["log", "prove", "--before", &other, "--root", root]).refused();
    assert!(refused.contains("the log was changed"), "{refused}");
    for node in [&cluster.manager, &worker] {
        let info = node.swarmpki(&["info"]).ok();
        assert!(info.contains("Log Head: ") && !info.contains("ALARM"), "{info}");
    }

    // Somebody puts the disk back: it is whole, and lacks what came after.
    assert!(cluster.manager.stop().success());
    std::fs::remove_dir_all(&state).unwrap();
    copy(&before, &state);
    cluster.manager.restart();
    cluster.manager_is_back();
    verified(&cluster.manager);
    let refused = cluster.manager.swarmpki(&["log", "verify", "--head", &file]).refused();
    assert!(refused.contains("the log lost entries"), "{refused}");
    let info = alarmed(&worker);
    assert!(info.contains(&format!("told of {} entries", size(&known))), "{info}");
    let info = alarmed(&cluster.manager);
    assert!(info.contains(&format!("node {id} showed a head of {} entries", size(&known))), "{info}");
    let fork = worker.state().join("certificates/swarm-log-fork.bin");
    assert_eq!(std::fs::metadata(&fork).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(cluster.manager.log().contains("log-forked") && worker.log().contains("log-forked"));

    // Other entries in their place are no better.
    grow(&cluster.manager, 6);
    let (other, _) = signed(&cluster.manager, "other.json");
    assert!(size(&other) > size(&head), "{other}");
    verified(&cluster.manager);
    let refused = cluster.manager.swarmpki(&["log", "verify", "--head", &file]).refused();
    assert!(refused.contains("the log was changed"), "{refused}");
    assert_eq!(kept(&worker)["root_hash"], known["root_hash"], "what was kept stays");
    assert!(worker.stop().success());
    worker.restart();
    alarmed(&worker);

    // A stopped one is read the same way.
    assert!(cluster.manager.stop().success());
    let offline = ["log", "verify", "--state-dir", state.to_str().unwrap()];
    assert!(cluster.manager.swarmpki(&offline).ok().starts_with("The log is whole: "));
    let refused = cluster.manager.swarmpki(&[&offline[..], &["--head", &file]].concat()).refused();
    assert!(refused.contains("the log was changed"), "{refused}");
}

#[test]
fn a_restored_cluster_begins_as_a_witness_of_its_backup() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let manager = &cluster.manager;
    let (in_it, known) = signed(manager, "known.json");
    let words = manager.folder().join("words");
    std::fs::write(&words, "correct horse\n").unwrap();
    let (file, from) = (manager.folder().join("swarm.age"), format!("file:{}", words.display()));
    manager.swarmpki(&["backup", "--passphrase-from", &from, file.to_str().unwrap()]).ok();
    grow(manager, 4);
    let (_, later) = signed(manager, "later.json");
    let new = Daemon::start("manager2");
    let (advertise, listen) = (cluster.net.host(2).to_string(), cluster.net.swarm(2));
    let restore = ["restore", "--passphrase-from", &from, "--advertise-addr", &advertise, "--listen-addr", &listen];
    new.swarmpki(&[&restore[..], &[file.to_str().unwrap()]].concat()).ok();
    let kept = keeps(&new, size(&in_it));
    assert_eq!(kept["cluster_id"], *cluster.id);
    // What was signed before the backup is in it; of what came after, the log says that it says nothing.
    let said = new.swarmpki(&["log", "verify", "--head", &known]).ok();
    assert!(said.contains("the log begins with these entries"), "{said}");
    let said = new.swarmpki(&["log", "verify", "--head", &later]).ok();
    assert!(said.contains("the cluster was made anew after"), "{said}");
    // To the old manager a head of the new one is of a cluster that it is not.
    let (_, anew) = signed(&new, "anew.json");
    let refused = manager.swarmpki(&["log", "verify", "--head", &anew]).refused();
    assert!(refused.contains("of a later epoch"), "{refused}");
}

#[test]
fn a_manager_that_shows_each_node_another_history_is_caught_by_either() {
    require_or_skip!("swarmpki");
    let mut cluster = Cluster::start();
    let manager_id = node_id(&cluster.manager);
    let address = cluster.address().to_string();
    let mut early = Daemon::start("worker2");
    let early_id = group::join(&early, cluster.net.host(2), &cluster.token("Worker"), &address);
    all_ready(&cluster.manager, &[&early_id]);
    assert!(cluster.manager.stop().success());
    let (state, before, truth) =
        (cluster.manager.state(), cluster.manager.folder().join("before"), cluster.manager.folder().join("truth"));
    copy(&state, &before);
    cluster.manager.restart();
    cluster.manager_is_back();

    // One history, that the first node is a witness of; then that node is away.
    grow(&cluster.manager, 2);
    let (head, _) = signed(&cluster.manager, "true.json");
    let known = keeps(&early, size(&head));
    let of_early = kept_file(&early, &cluster.manager);
    assert!(early.stop().success());
    assert!(cluster.manager.stop().success());
    std::fs::rename(&state, &truth).unwrap();
    copy(&before, &state);
    cluster.manager.restart();
    cluster.manager_is_back();

    // Another one in its place, which has grown beyond it before anybody looks, and whoever joins knows no other.
    grow(&cluster.manager, 6);
    let (lie, _) = signed(&cluster.manager, "lie.json");
    assert!(size(&lie) > size(&known), "{lie}");
    let mut late = Daemon::start("worker3");
    let late_id = group::join(&late, cluster.net.host(3), &cluster.token("Worker"), &address);
    all_ready(&cluster.manager, &[&late_id]);
    keeps(&late, size(&lie));
    let of_late = kept_file(&late, &cluster.manager);
    verified(&cluster.manager);
    for node in [&cluster.manager, &late] {
        let info = node.swarmpki(&["info"]).ok();
        assert!(!info.contains("ALARM"), "nobody knows yet: {info}");
    }
    let verify = |file: &str| cluster.manager.swarmpki(&["log", "verify", "--head", file]);
    let said = verify(&of_late).ok();
    assert!(said.contains("The head that was given") && said.contains("the log begins with these entries"), "{said}");
    let refused = verify(&of_early).refused();
    let changed = format!("the log was changed: its first {} entries are not those that were signed", size(&known));
    assert!(refused.contains(&changed) && refused.contains(&format!("signed by manager {manager_id}")), "{refused}");

    // The witness is back, and is told of a log that is longer, as if nothing were.
    early.restart();
    let info = alarmed(&early);
    let told = format!("told of {} entries", size(&known));
    let why = format!("by {manager_id}: the log does not begin with the entries of before");
    assert!(info.contains(&told) && info.contains(&why), "{info}");
    let info = alarmed(&cluster.manager);
    let shown = format!("node {early_id} showed a head of {} entries", size(&known));
    assert!(info.contains(&shown) && info.contains(&format!("signed by {manager_id}")), "{info}");
    assert_eq!(kept(&early)["root_hash"], known["root_hash"], "what was kept stays");

    // Back to the first one: now the other node has what shows it.
    assert!(late.stop().success() && cluster.manager.stop().success());
    std::fs::remove_dir_all(&state).unwrap();
    copy(&truth, &state);
    cluster.manager.restart();
    cluster.manager_is_back();
    let verify = |file: &str| cluster.manager.swarmpki(&["log", "verify", "--head", file]);
    let said = verify(&of_early).ok();
    assert!(said.contains("the log begins with these entries"), "{said}");
    let refused = verify(&of_late).refused();
    assert!(refused.contains("the log lost entries"), "{refused}");
    grow(&cluster.manager, 12);
    let refused = verify(&of_late).refused();
    assert!(refused.contains("the log was changed"), "{refused}");
}

/// The head that a node keeps, in a file beside the manager.
fn kept_file(node: &Daemon, manager: &Daemon) -> String {
    let file = manager.folder().join(format!("kept-by-{}.json", node.name()));
    std::fs::write(&file, node.swarmpki(&["log", "head", "--kept", "--json"]).ok()).unwrap();
    file.to_str().unwrap().to_owned()
}
