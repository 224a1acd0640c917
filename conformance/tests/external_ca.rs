//! Our own swarm whose root's key is with a real cfssl: rotated onto it and back, begun with it, signed by it beside our own key
//! (issue 4, done when 2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use swarmpki_conformance::cfssl::Cfssl;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::puppet::Puppet;
use swarmpki_conformance::rotation::{
    Fleet, GivenRoot, Marks, Witness, all_follow, ca_status, count, in_progress, judge, rotated,
};
use swarmpki_conformance::{all_ready, digest_of, info, join, node_id, swarm, token, try_join};
use testkit::daemon::Daemon;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::{openssl, require_or_skip, wait};

const UNREACHABLE: &str = "there must be at least one valid, reachable external CA corresponding to the";

/// As `--external-ca` takes it.
fn external(url: &str) -> String {
    format!("protocol=cfssl,url={url}")
}

fn external_for(url: &str, root: &GivenRoot) -> String {
    format!("{},cacert={}", external(url), root.path())
}

/// Where nobody listens.
fn dead(net: &Loopback) -> String {
    format!("https://{}/api/v1/cfssl/sign", net.free_port(240))
}

fn signer(manager: &Daemon) -> Value {
    ca_status(manager)["signer"].take()
}

/// The newcomer joins, is Ready, and has a leaf that OpenSSL accepts under the root of now.
fn newcomer(fleet: &mut Fleet, name: &str) {
    let host = fleet.cluster.net.host(u8::try_from(30 + fleet.engines.len()).unwrap());
    let engine = Engine::start(name);
    let id = join(&engine, host, &token(fleet.manager(), "worker"), &fleet.cluster.net.swarm(1));
    all_follow(fleet.manager(), std::slice::from_ref(&id));
    judge(&engine.certificates(), &Marks::of(fleet.manager()).root);
    fleet.ids.insert(fleet.engines.len(), id);
    fleet.engines.push(engine);
}

/// An intermediate lies beside each engine's leaf, and leads to the root that was left.
fn leads_back_to(fleet: &Fleet, left: &str, number: usize) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("left.pem");
    std::fs::write(&root, left).unwrap();
    for engine in &fleet.engines[..number] {
        let chain = engine.certificates().chain();
        assert_eq!(count(&chain), 2, "a leaf, and the new root certified by the old one");
        openssl::verify(&root, &chain);
    }
}

/// What a manager is told by a caller that holds an old leaf is a session all the same.
async fn keeps_its_session(fleet: &Fleet, late: &Puppet) {
    wait::until_true("the rotation waits for nobody else", Duration::from_secs(30), || {
        let blocking = ca_status(fleet.manager())["rotation"]["blocking"].take();
        blocking.as_array().is_some_and(|all| all.len() == 1 && all[0]["node"] == late.id.as_str())
    });
    late.session().await.expect("the old leaf is good as long as the rotation waits for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c281_c297_c298_c299_c317_c325_a_cluster_with_engines_goes_onto_a_real_cfssl_and_back() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl", "cfssl");
    let mut fleet = Fleet::start(2, 1);
    let ours = Marks::of(fleet.manager());
    let root = GivenRoot::p256("external-root");
    let cfssl = Cfssl::start(fleet.cluster.net.free_port(200), &root, &ours.root);

    // Onto it, by docker's command; an old leaf holds its session until the last moment.
    let mut late = Puppet::join(&fleet.cluster).await;
    let witness = Witness::begin(fleet.manager());
    let onto =
        ["swarm", "ca", "--rotate", "--detach", "--ca-cert", &root.path(), "--external-ca", &external(&cfssl.url())];
    fleet.manager().docker(&onto).ok();
    keeps_its_session(&fleet, &late).await;
    assert_eq!(Marks::of(fleet.manager()), ours, "root and tokens are the old ones until the end");
    late.follow(|late, _| late.trust == root.certificate()).await.unwrap();
    let theirs = fleet.rotated(&ours);
    assert_eq!(theirs.root, root.certificate());
    assert_ne!(digest_of(&theirs.worker), digest_of(&ours.worker));
    leads_back_to(&fleet, &ours.root, 2);
    let signs = signer(fleet.manager());
    assert_eq!((&signs["kind"], &signs["trouble"]), (&json!("external"), &Value::Null), "{signs}");
    let signed = cfssl.signed();
    assert!(signed >= 5, "the manager, two engines, a node of ours and the late one: {signed}");
    newcomer(&mut fleet, "under-external");
    assert_eq!(cfssl.signed(), signed + 1, "{}", cfssl.log());

    // One that names no root signs for the root of now; docker's command always names it.
    fleet.cluster.update("", |spec| spec["CAConfig"]["ExternalCAs"][0]["CACert"] = json!(""));
    let spec = swarm(fleet.manager())["Spec"]["CAConfig"]["ExternalCAs"].take();
    assert_eq!((spec.as_array().unwrap().len(), &spec[0]["CACert"]), (1, &json!("")), "{spec}");
    newcomer(&mut fleet, "under-nameless");
    assert_eq!(cfssl.signed(), signed + 2);

    // And back: it certifies the root that is made, in its profile CA.
    fleet.manager().docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    keeps_its_session(&fleet, &late).await;
    late.follow(|late, _| late.trust != theirs.root).await.unwrap();
    let after = fleet.rotated(&theirs);
    witness.nobody_was_down();
    assert!(after.root != ours.root && digest_of(&after.worker) != digest_of(&theirs.worker));
    leads_back_to(&fleet, &theirs.root, 4);
    assert_eq!(signer(fleet.manager())["kind"], "key");
    assert_eq!(cfssl.signed(), signed + 3, "the new root alone: {}", cfssl.log());
    newcomer(&mut fleet, "under-internal");
    assert_eq!(cfssl.signed(), signed + 3, "it stays on the list for its own root and is not asked");
    // An engine under each root; everybody is still there.
    all_follow(fleet.manager(), &fleet.ids);
}

/// Item 263: docker refuses it.
#[test]
fn from_one_external_ca_to_another_engines_go_along() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl", "cfssl");
    let mut fleet = Fleet::start(1, 1);
    let before = Marks::of(fleet.manager());
    let (one, two) = (GivenRoot::p256("one-root"), GivenRoot::p256("two-root"));
    let first = Cfssl::start(fleet.cluster.net.free_port(200), &one, &before.root);
    let second = Cfssl::start(fleet.cluster.net.free_port(201), &two, &one.certificate());
    let (at_first, at_second) = (external_for(&first.url(), &one), external_for(&second.url(), &two));
    let onto = ["ca", "rotate", "--ca-cert", &one.path(), "--external-ca", &at_first, "--quiet"];
    fleet.manager().swarmpki(&onto).ok();
    let middle = fleet.rotated(&before);
    assert_eq!(middle.root, one.certificate());

    let witness = Witness::begin(fleet.manager());
    let onto =
        ["ca", "rotate", "--ca-cert", &two.path(), "--external-ca", &at_second, "--external-ca", &at_first, "--quiet"];
    fleet.manager().swarmpki(&onto).ok();
    let after = fleet.rotated(&middle);
    witness.nobody_was_down();
    assert_eq!(after.root, two.certificate());
    assert!(second.signed() >= 3, "{}", second.log());
    newcomer(&mut fleet, "under-two");
    let cas = signer(fleet.manager())["urls"].take();
    assert_eq!(
        (cas.as_array().unwrap().len(), &cas[0]["url"]),
        (1, &json!(second.url())),
        "only its own root's: {cas}"
    );
}

/// A manager that begins with `root`, whose key is with the CA at `url`.
fn begun_with(root: &GivenRoot, url: &str, net: &Loopback) -> Daemon {
    let manager = Daemon::start("manager1");
    init_with(&manager, root, url, net).ok();
    manager
}

fn init_with(manager: &Daemon, root: &GivenRoot, url: &str, net: &Loopback) -> testkit::docker::Output {
    let (host, listen, ca) = (net.host(1).to_string(), net.swarm(1), external_for(url, root));
    manager.docker(&["swarm", "init", "--advertise-addr", &host, "--listen-addr", &listen, "--external-ca", &ca])
}

#[test]
fn a_swarm_begins_with_its_external_ca_and_engines_join() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl", "cfssl");
    let net = Loopback::claim();
    let root = GivenRoot::p256("external-root");
    let mut cfssl = Cfssl::open(net.free_port(200), &root);
    let manager = begun_with(&root, &cfssl.url(), &net);
    assert_eq!(Marks::of(&manager).root, root.certificate());
    judge(&manager.certificates(), &root.certificate());
    assert_eq!(cfssl.signed(), 1, "the manager's leaf, and none before it");
    cfssl.close();

    let engine = Engine::start("worker1");
    let id = join(&engine, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&node_id(&manager), &id]);
    judge(&engine.certificates(), &root.certificate());
    assert_eq!(cfssl.signed(), 2);

    // A join while it is down waits: the engine gives up after its own limit, its node goes on when it asks again.
    cfssl.stop();
    let late = Engine::start("worker2");
    let said = try_join(&late, net.host(3), &token(&manager, "worker"), &net.swarm(1)).refused();
    assert!(said.contains("Timeout was reached before node joined"), "{said}");
    let (signs, _) = wait::until("the status names the CA that is down", Duration::from_secs(10), || {
        let signs = signer(&manager);
        let named = signs["urls"][0]["last_error"].as_str().is_some_and(|why| why.contains("Connection refused"));
        if named && signs["waiting"] == 1 { Ok(signs) } else { Err(signs.to_string()) }
    });
    assert_eq!(
        (&signs["urls"][0]["url"], &signs["urls"][0]["state"]),
        (&json!(cfssl.url()), &json!("down")),
        "{signs}"
    );
    let shown = manager.swarmpki(&["ca", "status"]).ok();
    assert!(shown.contains(&cfssl.url()) && shown.contains("Connection refused"), "{shown}");
    // Other work goes on meanwhile.
    let old = token(&manager, "manager");
    assert_ne!(manager.docker(&["swarm", "join-token", "--rotate", "-q", "manager"]).ok(), old);
    all_ready(&manager, &[&node_id(&manager), &id]);
    cfssl.go_on();
    wait::until_true("the second engine is in the swarm", Duration::from_secs(60), || {
        info(&late)["LocalNodeState"] == "active"
    });
    all_ready(&manager, &[&id, &node_id(&late)]);
    judge(&late.certificates(), &root.certificate());
    assert_eq!(signer(&manager)["waiting"], 0);
    assert!(manager.docker(&["node", "ls"]).ok().lines().count() == 4, "a manager and two workers");
}

#[test]
fn an_init_without_its_external_ca_fails_and_leaves_nothing() {
    require_or_skip!("swarmpki", "docker", "openssl", "cfssl");
    let net = Loopback::claim();
    let root = GivenRoot::p256("external-root");
    let manager = Daemon::start("manager1");
    let left = |folder: &Path| {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    let before = left(&manager.state());
    let url = dead(&net);
    let said = init_with(&manager, &root, &url, &net).refused();
    assert!(said.contains(&url) && said.contains("Connection refused"), "{said}");
    assert_eq!(info(&manager)["LocalNodeState"], "inactive");
    assert_eq!(left(&manager.state()), before);

    // One that answers for another root is none either.
    let other = GivenRoot::p256("external-root");
    let stranger = Cfssl::open(net.free_port(201), &other);
    let said = init_with(&manager, &root, &stranger.url(), &net).refused();
    assert!(said.contains("certificate signed by unknown authority"), "{said}");
    assert_eq!((stranger.signed(), left(&manager.state())), (0, before.clone()));

    // Nor one that wants a certificate of somebody who has none yet.
    let mut cfssl = Cfssl::start(net.free_port(200), &root, "");
    let said = init_with(&manager, &root, &cfssl.url(), &net).refused();
    assert!(said.contains("wants a client certificate"), "{said}");
    assert_eq!(left(&manager.state()), before);
    cfssl.stop();
    let cfssl = Cfssl::open(net.free_port(202), &root);
    init_with(&manager, &root, &cfssl.url(), &net).ok();
    judge(&manager.certificates(), &root.certificate());
}

/// What stands beside our own key.
#[test]
fn c273_beside_our_own_key_an_external_ca_is_asked_first_and_missed_by_nobody() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl", "cfssl");
    let net = Loopback::claim();
    let root = GivenRoot::p256("shared-root");
    let manager = Daemon::start("manager1");
    let (host, listen) = (net.host(1).to_string(), net.swarm(1));
    let (path, key) = (root.path(), root.key_path());
    let init = ["init", "--advertise-addr", &host, "--listen-addr", &listen, "--ca-cert", &path, "--ca-key", &key];
    manager.swarmpki(&init).ok();
    let mut cfssl = Cfssl::start(net.free_port(200), &root, "");
    let cluster = Cluster::of(manager, net);
    let (manager, net) = (&cluster.manager, &cluster.net);

    // Looked at when it is added: docker would take it, and hang at the next join.
    let dead = dead(net);
    for line in [
        ["swarm", "update", "--external-ca", &external(&dead)],
        ["swarm", "update", "--external-ca", &external(&cfssl.url().replace("https", "http"))],
        ["swarm", "update", "--external-ca", &external_for(&dead, &root)],
    ] {
        let said = manager.docker(&line).refused();
        assert!(said.contains(&format!("{UNREACHABLE} current CA certificate")), "{said}");
    }
    let said = manager.swarmpki(&["ca", "external", "add", &external(&dead)]).refused();
    assert!(said.contains(UNREACHABLE) && said.contains("Connection refused"), "{said}");
    assert!(swarm(manager)["Spec"]["CAConfig"]["ExternalCAs"].is_null());

    manager.docker(&["swarm", "update", "--external-ca", &external(&cfssl.url())]).ok();
    assert_eq!((cfssl.signed(), in_progress(manager)), (0, false));
    let engines: Vec<_> = (1..=2).map(|n| Engine::start(&format!("worker{n}"))).collect();
    let first = join(&engines[0], net.host(2), &token(manager, "worker"), &net.swarm(1));
    assert_eq!(cfssl.signed(), 1, "it is asked first");
    let listed = manager.swarmpki(&["ca", "external", "ls"]).ok();
    assert!(listed.contains(&cfssl.url()) && listed.contains("up"), "{listed}");

    cfssl.stop();
    let from = manager.log_len();
    let second = join(&engines[1], net.host(3), &token(manager, "worker"), &net.swarm(1));
    all_ready(manager, &[&first, &second]);
    judge(&engines[1].certificates(), &root.certificate());
    manager.logged(from, "no external CA answered: signed with the cluster's own key", Duration::from_secs(5));
    let listed = manager.swarmpki(&["ca", "external", "ls"]).ok();
    assert!(listed.contains("down") && listed.contains("Connection refused"), "{listed}");

    // Away with it, though it is down.
    let unknown = manager.swarmpki(&["ca", "external", "rm", &dead]).refused();
    assert!(unknown.contains("no external CA has the URL"), "{unknown}");
    manager.swarmpki(&["ca", "external", "rm", &cfssl.url()]).ok();
    assert!(swarm(manager)["Spec"]["CAConfig"]["ExternalCAs"].is_null());
    assert_eq!(manager.swarmpki(&["ca", "external", "ls"]).ok(), "No external CA is configured.");
    let signs = signer(manager);
    assert_eq!((&signs["kind"], &signs["urls"]), (&json!("key"), &json!([])), "{signs}");
}

/// Asks for another CA configuration, as a client of the Engine API may; the refusal's message if it is one.
fn ask(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> Result<(), String> {
    let mut swarm = swarm(&cluster.manager);
    change(&mut swarm["Spec"]["CAConfig"]);
    let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
    let answer = cluster.manager.api("POST", &path, Some(&swarm["Spec"].to_string()));
    if answer.status == 200 { Ok(()) } else { Err(format!("{} {}", answer.status, answer.json()["message"])) }
}

fn listed(url: &str, root: &str) -> Value {
    json!([{"Protocol": "cfssl", "URL": url, "CACert": root}])
}

/// Where the key is of the root that signs now, or of the one that a rotation leads to.
fn custody(cluster: &Cluster, of: &str) -> Value {
    ca_status(&cluster.manager).pointer_mut(of).expect("a root")["custody"].take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c256_c257_c259_c261_c262_c268_c271_c272_c276_c277_a_roots_key_changes_hands() {
    require_or_skip!("swarmpki", "docker", "openssl", "cfssl");
    let net = Loopback::claim();
    let (root, next, other) = (GivenRoot::p256("one-root"), GivenRoot::p256("next-root"), GivenRoot::p256("one-root"));
    let mut cfssl = Cfssl::open(net.free_port(200), &root);
    let manager = begun_with(&root, &cfssl.url(), &net);
    cfssl.close();
    let (ours, theirs) = (root.certificate(), next.certificate());
    let second = Cfssl::start(net.free_port(201), &next, &ours);
    let stranger = Cfssl::open(net.free_port(202), &other);
    let dead = dead(&net);
    let cluster = Cluster::of(manager, net);
    let refused = |which: &str, change: &dyn Fn(&mut Value)| {
        let before = swarm(&cluster.manager);
        let said = ask(&cluster, |ca| change(ca)).unwrap_err();
        let wanted = format!("400 \"rpc error: code = InvalidArgument desc = {UNREACHABLE} {which} CA certificate");
        assert!(said.starts_with(&wanted), "{said}");
        assert_eq!(swarm(&cluster.manager), before, "nothing changed");
    };

    // The root of now needs a CA that answers for it.
    let plain = cfssl.url().replace("https", "http");
    for url in [&dead, &stranger.url(), "invalidurl", "https://too:many:colons:1:2:3", &plain] {
        refused("current", &|ca| ca["ExternalCAs"] = listed(url, &ours));
    }
    refused("current", &|ca| ca["ExternalCAs"] = json!([]));
    refused("current", &|ca| ca["ExternalCAs"] = listed(&cfssl.url(), &other.certificate()));
    let said = ask(&cluster, |ca| ca["ExternalCAs"][0]["Protocol"] = json!("acme")).unwrap_err();
    assert!(said.contains("acme"), "{said}");

    // Its key is taken over, and given back: no rotation, no other tokens.
    let before = Marks::of(&cluster.manager);
    let give = |certificate: &str, key: &str, cas: Value| {
        ask(&cluster, |ca| {
            ca["SigningCACert"] = certificate.into();
            ca["SigningCAKey"] = key.into();
            ca["ExternalCAs"] = cas;
        })
    };
    assert_eq!(custody(&cluster, "/signing"), "outside");
    give(&ours, &root.key(), json!([])).unwrap();
    assert_eq!(custody(&cluster, "/signing"), "sealed");
    cfssl.stop();
    let signed = cfssl.signed();
    let mut worker = Puppet::join(&cluster).await;
    assert_eq!((cfssl.signed(), second.signed()), (signed, 0), "by our own hand");
    refused("desired", &|ca| {
        ca["SigningCACert"] = ours.clone().into();
        ca["ExternalCAs"] = listed(&second.url(), &theirs);
    });
    cfssl.go_on();
    give(&ours, "", listed(&cfssl.url(), &ours)).unwrap();
    assert_eq!(custody(&cluster, "/signing"), "outside");
    give(&ours, &root.key(), json!([])).unwrap();
    assert_eq!((Marks::of(&cluster.manager), in_progress(&cluster.manager)), (before.clone(), false));

    // The same with the root that a rotation leads to: it goes on, whoever holds that key.
    refused("desired", &|ca| {
        ca["SigningCACert"] = theirs.clone().into();
        ca["ExternalCAs"] = listed(&stranger.url(), &theirs);
    });
    give(&theirs, "", listed(&second.url(), &theirs)).unwrap();
    let id = ca_status(&cluster.manager)["rotation"]["id"].take();
    assert_eq!(custody(&cluster, "/rotation/to"), "outside");
    refused("next", &|ca| ca["ExternalCAs"] = listed(&dead, &theirs));
    give(&theirs, &next.key(), json!([])).unwrap();
    assert_eq!(custody(&cluster, "/rotation/to"), "sealed");
    give(&theirs, "", listed(&second.url(), &theirs)).unwrap();
    assert_eq!(custody(&cluster, "/rotation/to"), "outside");
    assert_eq!(ca_status(&cluster.manager)["rotation"]["id"], id, "the same rotation all the time");
    assert_eq!(Marks::of(&cluster.manager), before);
    worker.follow(|worker, _| worker.trust == theirs).await.unwrap();
    let after = rotated(&cluster.manager, &before);
    assert_eq!(after.root, theirs);
    judge(&cluster.manager.certificates(), &theirs);
}
