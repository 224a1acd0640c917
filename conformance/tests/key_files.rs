//! What the key files of nodes hold, and when they are sealed (conformance E and M); and nodes that have only a follower to talk to (D).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::{openssl, require_or_skip, wait};

use swarmpki_conformance::group::{self, Group, has_unit, manages, set_role};
use swarmpki_conformance::{all_ready, node, node_id};

/// How long what follows a change by itself may take.
const SOON: Duration = Duration::from_secs(30);
const SEALED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const CLEAR: &str = "-----BEGIN PRIVATE KEY-----";
const DEK: &str = "raft-dek: ";
/// Bytes of the header of a data key in clear: 32, and the record around them.
const DATA_KEY_IN_CLEAR: usize = 34;

fn key_file(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.state().join("certificates/swarm-node.key")).unwrap()
}

fn init(daemon: &Daemon, net: &Loopback, autolock: bool) {
    let body = format!(
        r#"{{"ListenAddr":"{0}:2377","AdvertiseAddr":"{0}:2377","Spec":{{"EncryptionConfig":{{"AutoLockManagers":{autolock}}}}}}}"#,
        net.host(1)
    );
    let answer = daemon.api("POST", "/swarm/init", Some(&body));
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The data key in a file's header, as bytes; none: the header is not there.
fn data_key(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let line = text.lines().find_map(|line| line.strip_prefix(DEK))?;
    Some(base64::engine::general_purpose::STANDARD.decode(line).unwrap())
}

#[test]
fn c181_c343_a_cluster_that_begins_locked_has_its_key_sealed_from_the_first_write() {
    require_or_skip!("swarmpki", "openssl");
    let (net, daemon) = (Loopback::claim(), Daemon::start("manager1"));
    init(&daemon, &net, true);
    let text = key_file(&daemon);
    assert!(text.starts_with(SEALED), "{}", &text[..40]);
    // A new root, and a certificate of it.
    let chain = daemon.certificates().chain();
    assert!(openssl::subject(&chain).contains("OU=swarm-manager"));
    assert!(data_key(&text).unwrap().len() > DATA_KEY_IN_CLEAR, "the data key beside it is sealed too");
}

#[test]
fn c182_c189_one_that_does_not_has_it_in_clear_with_a_data_key_that_stays() {
    require_or_skip!("swarmpki");
    let (net, mut daemon) = (Loopback::claim(), Daemon::start("manager1"));
    init(&daemon, &net, false);
    let first = key_file(&daemon);
    assert!(first.starts_with(CLEAR), "{}", &first[..40]);
    let key = data_key(&first);
    assert_eq!(first.matches(DEK).count(), 1);
    assert_eq!(key.unwrap().len(), DATA_KEY_IN_CLEAR);
    daemon.stop();
    daemon.restart();
    wait::until("it is back", SOON, || {
        let answer = daemon.api("GET", "/swarm", None);
        if answer.status == 200 { Ok(()) } else { Err(answer.body) }
    });
    assert!(key_file(&daemon) == first, "the second start writes nothing");
}

#[test]
fn c197_c198_in_a_locked_cluster_the_keys_of_workers_lie_in_clear_and_so_does_that_of_a_manager_that_is_one_again() {
    require_or_skip!("swarmpki", "openssl");
    let (net, manager) = (Loopback::claim(), Daemon::start("manager1"));
    init(&manager, &net, true);
    let node = Daemon::start("node2");
    let id = group::join(&node, net.host(2), &group::token(&manager, "Worker"), &net.swarm(1));
    all_ready(&manager, &[&id]);
    let worker = |what: &str| {
        wait::until(what, SOON, || {
            let text = key_file(&node);
            let clear = text.starts_with(CLEAR) && data_key(&text).is_none();
            if clear { Ok(()) } else { Err(text.lines().take(4).filter(|line| line.len() < 50).collect()) }
        });
    };
    worker("a worker's key is in clear, and has no data key beside it");
    assert_eq!(set_role(&manager, &id, "manager").status, 200);
    manages(&manager, &id, true);
    has_unit(&node, "manager");
    wait::until("a manager's key is sealed", SOON, || {
        let text = key_file(&node);
        if text.starts_with(SEALED) { Ok(()) } else { Err(text[..40].to_owned()) }
    });
    assert_eq!(set_role(&manager, &id, "worker").status, 200);
    manages(&manager, &id, false);
    has_unit(&node, "worker");
    worker("a worker again: in clear, and without a data key");
}

#[test]
fn c166_c167_a_worker_that_knows_a_follower_only_joins_and_renews_there() {
    require_or_skip!("swarmpki", "openssl");
    let net = Loopback::claim();
    let group = Group::start(&net, 3);
    let leader = group.leader();
    let follower = group.other_than(leader);
    let worker = Daemon::start("worker");
    let token = group::token(&group.managers[follower], "Worker");
    let id = group::join(&worker, net.host(9), &token, &group.swarm(follower));
    group.all_ready(&[&id]);
    // Its own address, as the leader has it too, and not that of the manager between them.
    for manager in [leader, follower] {
        let shown = node(&group.managers[manager], &id).unwrap()["Status"]["Addr"].clone();
        let host = shown.as_str().unwrap().to_owned();
        assert!(!group.hosts.iter().any(|manager| *manager.to_string() == host), "{host}");
    }
    let serial = || openssl::serial(&worker.certificates().chain());
    let before = serial();
    assert_eq!(worker.api("POST", "/swarmpki/v1/renew", None).status, 200);
    wait::until("a new certificate", SOON, || if serial() == before { Err(before.clone()) } else { Ok(()) });
    assert_eq!(node_id(&worker), id);
    group.all_ready(&[&id]);
    for manager in [leader, follower] {
        group::Seen::by(&group.managers[manager]).unwrap().has_leaf_of(&worker, &id);
    }
}
