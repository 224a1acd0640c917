//! A real Docker swarm on `swarmpki ca serve`: rotated onto it while it runs, joined under it, without it, and rotated back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use swarmpki_conformance::outside::Outside;
use swarmpki_conformance::rotation::{GivenRoot, Marks, all_follow, judge, leaf_alone, rotated};
use swarmpki_conformance::{all_ready, info, init, join, token, try_join};
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::{openssl, require_or_skip, wait};

/// A manager asks its external CA again every ten seconds. Source: pki.md 11.3.
const ASKS_AGAIN_WITHIN: Duration = Duration::from_secs(60);

/// The leaf that a node uses now stands in the CA's log.
fn in_log(outside: &Outside, engine: &Engine) {
    let serial = openssl::serial(&leaf_alone(&engine.certificates().chain()));
    let serial = serial.trim_start_matches("serial=");
    assert!(outside.holds(serial), "{}: {serial} is not in the log", engine.name());
}

/// Issue 4, done when 1.
#[test]
fn a_docker_swarm_is_rotated_onto_our_ca_joined_and_rotated_back() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let (manager, worker1, worker2) = (Engine::start("manager1"), Engine::start("worker1"), Engine::start("worker2"));
    let mut ids = vec![init(&manager, net.host(1))];
    for (n, worker) in [(2, &worker1), (3, &worker2)] {
        ids.push(join(worker, net.host(n), &token(&manager, "worker"), &net.swarm(1)));
    }
    all_ready(&manager, &ids.iter().map(String::as_str).collect::<Vec<_>>());

    let before = Marks::of(&manager);
    let root = GivenRoot::p256("outside-root");
    let mut outside = Outside::start(net.free_port(200), &root, &before.root);
    let external = format!("protocol=cfssl,url={}", outside.url());
    let onto = ["swarm", "ca", "--rotate", "--detach", "--ca-cert", &root.path(), "--external-ca", &external];
    manager.docker(&onto).ok();
    let marks = rotated(&manager, &before);
    assert_eq!(marks.root.trim(), root.certificate().trim());
    all_follow(&manager, &ids);
    let joiner = Engine::start("worker3");
    ids.push(join(&joiner, net.host(4), &token(&manager, "worker"), &net.swarm(1)));
    all_follow(&manager, &ids);
    for engine in [&manager, &worker1, &worker2, &joiner] {
        judge(&engine.certificates(), &marks.root);
        in_log(&outside, engine);
    }
    let cluster = swarmpki_conformance::swarm(&manager)["ID"].as_str().unwrap().to_owned();
    assert!(outside.log().contains("this CA serves this cluster from now on"), "{}", outside.log());
    for leaf in outside.issued("leaf") {
        assert!(leaf["subject"].as_str().unwrap().starts_with(&format!("O={cluster},OU=swarm-")), "{leaf}");
        assert_eq!(leaf["by"]["node"], ids[0], "the manager asked");
    }

    // Without the CA a join waits, says so in the manager's log, and ends well once the CA is back.
    outside.stop();
    let issued = outside.issued("leaf").len();
    let late = Engine::start("worker4");
    let from = manager.log_len();
    let refused = try_join(&late, net.host(5), &token(&manager, "worker"), &net.swarm(1)).refused();
    assert!(refused.contains("Timeout was reached before node joined"), "{refused}");
    assert_eq!(info(&late)["LocalNodeState"], "pending", "{}", info(&late));
    let said = manager.log()[from..].to_owned();
    assert!(said.contains("unable to perform certificate signing request"), "{said}");
    assert!(said.contains("connection refused"), "{said}");
    all_follow(&manager, &ids);
    outside.go_on();
    wait::until("the join goes on by itself", ASKS_AGAIN_WITHIN, || {
        let seen = info(&late);
        if seen["LocalNodeState"] == "active" { Ok(()) } else { Err(seen.to_string()) }
    });
    ids.push(swarmpki_conformance::node_id(&late));
    all_follow(&manager, &ids);
    in_log(&outside, &late);
    assert!(outside.issued("leaf").len() > issued);

    // Back to a root of the swarm's own: the CA has to certify it, and does so by permit only.
    let back = ["swarm", "ca", "--rotate", "--detach"];
    let from = manager.log_len();
    let refused = manager.docker(&back).refused();
    assert!(refused.contains("unable to generate a cross-signed certificate"), "{refused}");
    let said = format!("{}{}", &manager.log()[from..], outside.log());
    assert!(said.contains("cross-signing is off"), "{said}");
    assert_eq!(outside.issued("cross-signed"), [] as [serde_json::Value; 0]);
    let permit = outside.verb(&["allow-cross-sign", "--once", "--ttl", "10m"]).ok();
    assert_eq!(permit, "For 10m the server certifies whichever CA asks first, once.");
    let before = Marks::of(&manager);
    manager.docker(&back).ok();
    let marks = rotated(&manager, &before);
    all_follow(&manager, &ids);
    for engine in [&manager, &worker1, &worker2, &joiner, &late] {
        judge(&engine.certificates(), &marks.root);
    }
    let crossed = outside.issued("cross-signed");
    assert_eq!(crossed.len(), 1, "{crossed:?}");
    assert!(outside.log().contains("alarm=\"cross-signed\""), "{}", outside.log());
    // The swarm needs the CA no more: a node joins without it.
    outside.stop();
    let last = Engine::start("worker5");
    ids.push(join(&last, net.host(6), &token(&manager, "worker"), &net.swarm(1)));
    all_follow(&manager, &ids);
}
