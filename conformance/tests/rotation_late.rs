//! Nodes that missed a rotation, or several, and come back by themselves; and thieves who look like them (conformance O3 to O8; issue 3,
//! done when 2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::Deref;
use std::time::Duration;

use cluster::authorize::Method;
use pki::bundle::Issuer;
use pki::identity::{ClusterId, Role, Subject};
use pki::key::PrivateKey;
use pki::serial::Serial;
use swarmpki_conformance::caller::{Caller, Pair};
use swarmpki_conformance::method::path;
use swarmpki_conformance::puppet::Puppet;
use swarmpki_conformance::rotation::{
    ENDS_WITHIN, Fleet, GivenRoot, Marks, all_follow, ca_status, count, judge, rotate_with_deadline, rotated,
};
use swarmpki_conformance::{csr, join, node_id, state};
use testkit::engine::{Certificates, Engine};
use testkit::server::Server;
use testkit::{openssl, require_or_skip, wait};
use tonic::Code;

/// A straggler is back within this time of its start, a real engine too: it chooses its moment within 8 s after a failed try.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// A rotation that ends without those who are away; its own deadline is what the test waits for.
fn rotate_without(manager: &Server, away: &[&str]) -> Marks {
    let before = Marks::of(manager);
    rotate_with_deadline(manager, Duration::from_secs(1));
    let after = rotated(manager, &before);
    let status = ca_status(manager);
    let stragglers = status["stragglers"].to_string();
    for id in away {
        assert!(stragglers.contains(id), "{id} is awaited: {status}");
    }
    after
}

/// Waits until a node is Ready with its id under the root of now.
fn is_back(manager: &Server, id: &str, files: &Certificates, root: &str) {
    let (_, took) = wait::until("the straggler is Ready again", BACK_WITHIN, || match state(manager, id).as_str() {
        "ready" => Ok(()),
        other => Err(other.to_owned()),
    });
    all_follow(manager, &[id.to_owned()]);
    judge(files, root);
    assert!(took < BACK_WITHIN);
}

#[test]
fn o3_o6_o8_engines_and_our_node_that_were_stopped_come_back_by_themselves() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let mut fleet = Fleet::start(3, 2);
    let [one, two, hung] = [0, 1, 2].map(|n| fleet.engine_id(n).to_owned());
    let [ours, ours_hung] = [0, 1].map(|n| fleet.our_id(n).to_owned());
    // The second engine renews once more; what lay there before is put back afterwards: it died between the answer and the writing.
    let files = fleet.engines[1].certificates();
    let (leaf_before, serial) = (Pair::load(&files), openssl::serial(&files.chain()));
    let answer = fleet.manager().api("POST", &format!("/swarmpki/v1/nodes/{two}/renew"), None);
    assert_eq!(answer.status, 200, "{answer:?}");
    let renewed = || if openssl::serial(&files.chain()) == serial { Err("the leaf of before".into()) } else { Ok(()) };
    wait::until("it has renewed", Duration::from_secs(10), renewed);
    fleet.engines[0].kill();
    fleet.engines[1].kill();
    fleet.engines[2].hang();
    fleet.ours[0].kill();
    fleet.ours[1].hang();
    leaf_before.save(&files);
    let after = rotate_without(fleet.manager(), &[&one, &two, &hung, &ours, &ours_hung]);

    // Meanwhile a newcomer gets a leaf alone: it has nothing to do with what was.
    let newcomer = Engine::start("newcomer");
    let id = join(&newcomer, fleet.cluster.net.host(9), &after.worker, &fleet.cluster.net.swarm(1));
    all_follow(fleet.manager(), &[id]);
    assert_eq!(count(&newcomer.certificates().chain()), 1);

    fleet.engines[2].go_on();
    fleet.ours[1].go_on();
    fleet.engines[0].restart();
    fleet.engines[1].restart();
    fleet.ours[0].restart();
    let (mut names, ids) = (["killed", "rolled back", "hung"].iter(), [&one, &two, &hung]);
    for (engine, id) in fleet.engines.iter().zip(ids) {
        is_back(fleet.manager(), id, &engine.certificates(), &after.root);
        assert_eq!(node_id(engine), **id, "{:?}", names.next());
    }
    for (daemon, id) in fleet.ours.iter().zip([&ours, &ours_hung]) {
        is_back(fleet.manager(), id, &daemon.certificates(), &after.root);
        assert_eq!(node_id(daemon), *id);
    }
    wait::until("nobody is awaited any more", ENDS_WITHIN, || {
        let status = ca_status(fleet.manager());
        let awaited = status["stragglers"].as_array().unwrap().iter().any(|old| old["nodes"] != serde_json::json!([]));
        if !awaited { Ok(()) } else { Err(status["stragglers"].to_string()) }
    });
}

#[test]
fn o7_c305_an_engine_and_our_node_sleep_through_three_rotations() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let mut fleet = Fleet::start(2, 1);
    let (asleep, ours) = (fleet.engine_id(0).to_owned(), fleet.our_id(0).to_owned());
    fleet.engines[0].kill();
    fleet.ours[0].kill();
    let mut after = Marks::of(fleet.manager());
    for _ in 0..3 {
        after = rotate_without(fleet.manager(), &[&asleep, &ours]);
    }
    all_follow(fleet.manager(), &[fleet.engine_id(1).to_owned()]);
    fleet.engines[0].restart();
    fleet.ours[0].restart();
    is_back(fleet.manager(), &asleep, &fleet.engines[0].certificates(), &after.root);
    is_back(fleet.manager(), &ours, &fleet.ours[0].certificates(), &after.root);
    assert_eq!(node_id(&fleet.engines[0]), asleep);
    // And through a fourth together with all others.
    let before = Marks::of(fleet.manager());
    fleet.manager().docker(&["swarm", "ca", "--rotate", "--quiet"]).ok();
    fleet.rotated(&before);
}

/// A leaf for this node, signed with the key of a root that was replaced.
fn forged(root: &GivenRoot, cluster: &str, node: &str, role: Role, serial: Serial, key: &str) -> Pair {
    let now = std::time::SystemTime::now().into();
    let pem = root.certificate();
    let issuer = Issuer::from_pem(pem.as_bytes(), Some(pem.as_bytes()), Some(root.key().as_bytes()), b"", now).unwrap();
    let cluster: ClusterId = cluster.parse().unwrap();
    let subject = Subject { cluster, role, node: node.parse().unwrap() };
    let leaf = pki::issue::Leaf { subject: &subject, serial, now, expiry: Duration::from_secs(7200) };
    let own = PrivateKey::from_pem(key.as_bytes(), None).unwrap();
    let certificate = pki::issue::leaf_for_signer(&own, &leaf, &issuer).unwrap();
    Pair { chain: issuer.chain_pem(&certificate), key: key.to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o4_o5_what_an_old_roots_key_opens_and_what_a_straggler_may_do() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let cluster = swarmpki_conformance::cluster::Cluster::start();
    let manager = &cluster.manager;
    // A root whose key the test has: it will be the stolen one.
    let (old, before) = (GivenRoot::p256("stolen"), Marks::of(manager));
    manager.docker(&["swarm", "ca", "--rotate", "--quiet", "--ca-cert", &old.path(), "--ca-key", &old.key_path()]).ok();
    assert_eq!(rotated(manager, &before).root, old.certificate());
    let mut puppet = Puppet::join(&cluster).await;
    let other = Puppet::join(&cluster).await;
    let after = rotate_without(manager, &[&puppet.id, &other.id]);

    let serial =
        |pair: &Pair| pki::certificate::Certificate::parse_pem_bundle(pair.chain.as_bytes()).unwrap()[0].serial();
    let key = || csr::ordinary().key;
    let fresh = |n: u8| Serial::from_random([n; 20]);
    let id = puppet.id.clone();
    let leaf = |role, node: &str, serial, key: &str| forged(&old, &cluster.id, node, role, serial, key);
    let rows = [
        ("another serial and key", leaf(Role::Worker, &id, fresh(1), &key())),
        ("another serial", leaf(Role::Worker, &id, fresh(2), &puppet.pair.key)),
        ("another key", leaf(Role::Worker, &id, serial(&puppet.pair), &key())),
        ("another role", leaf(Role::Manager, &id, serial(&puppet.pair), &puppet.pair.key)),
        ("another node's serial and key", leaf(Role::Worker, &id, serial(&other.pair), &other.pair.key)),
        ("nobody", leaf(Role::Worker, "nonesuchnonesuchnonesuch1", fresh(3), &key())),
        ("the manager", leaf(Role::Manager, &node_id(manager), fresh(4), &key())),
    ];
    let stranger = Caller::plain(cluster.address(), &after.root).await.unwrap();
    for (what, pair) in &rows {
        // It may verify the manager by the old root too.
        for trust in [&old.certificate(), &after.root] {
            let thief =
                Caller::with(cluster.address(), trust, pair).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            for method in Method::ALL {
                let (said, anybody) = (thief.refusal(path(method)).await, stranger.refusal(path(method)).await);
                let code = |status: &Option<tonic::Status>| status.as_ref().map(tonic::Status::code);
                let expected = code(&anybody);
                assert_eq!(code(&said), expected, "{what}: {method:?}: {said:?}");
            }
            let refused = thief.issue(csr::ordinary().csr.as_bytes(), "").await.unwrap_err();
            // A stranger lacks a token; of a node on record it is said what is wrong with the certificate.
            let expected = if *what == "nobody" { Code::InvalidArgument } else { Code::PermissionDenied };
            assert_eq!(refused.code(), expected, "{what}: without a token: {refused:?}");
            let refused = thief.session("").await.map(|_| ()).unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused:?}");
        }
    }

    // The real one is let in for what it needs, and nothing else.
    let caller = puppet.caller().await.expect("the manager still shows a chain to the old root");
    for method in Method::ALL {
        let said = caller.refusal(path(method)).await;
        let denied = said.as_ref().is_some_and(|status| status.code() == Code::PermissionDenied);
        let allowed = matches!(
            method,
            Method::Session
                | Method::Heartbeat
                | Method::Assignments
                | Method::Tasks
                | Method::ListenSubscriptions
                | Method::UpdateTaskStatus
                | Method::IssueNodeCertificate
                | Method::NodeCertificateStatus
                | Method::GetRootCaCertificate
                | Method::Clock
                | Method::News
        );
        assert_eq!(denied, !allowed, "{method:?}: {said:?}");
    }
    let told = puppet.session().await.expect("a session");
    assert!(told.is_ordered(), "its first message says ROTATE");
    assert!(told.root().is_empty() || told.root() == after.root, "the root of now, if any: {}", told.root());
    assert_ne!(state(manager, &id), "ready", "it is not a member yet");
    told.caller.heartbeat(&told.message.session_id).await.expect("a heartbeat");
    drop(told);
    let end = puppet.follow(|puppet, told| puppet.trust == after.root && !told.is_ordered());
    let _back = tokio::time::timeout(ENDS_WITHIN, end).await.expect("it comes back").unwrap();
    wait::until("it is a member again", Duration::from_secs(5), || match state(manager, &id).as_str() {
        "ready" => Ok(()),
        other => Err(other.to_owned()),
    });
    // Its own old leaf opens nothing any more: it has used the next one.
    assert!(puppet.pair.chain.matches("BEGIN").count() >= 2, "leaf and the way to the old root");
}

/// How many entries the issuance log has for a node.
fn issued(manager: &Server, id: &str) -> usize {
    manager.api("GET", "/swarmpki/v1/ca/log?max=1000", None).body.matches(id).count()
}

#[test]
fn o6_c301_nodes_killed_between_the_answer_and_the_writing_hold_nothing_up() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let mut fleet = Fleet::start(1, 1);
    for _ in 0..3 {
        let before = Marks::of(fleet.manager());
        let counts: Vec<_> = fleet.ids.iter().map(|id| issued(fleet.manager(), id)).collect();
        fleet.manager().docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
        // As soon as each has been issued its certificate: it may be on its way, received or written.
        let (ours, engine) = (fleet.our_id(0).to_owned(), fleet.engine_id(0).to_owned());
        let more = |id: &str, count: usize| issued(fleet.cluster.manager.deref(), id) > count;
        wait::until_true("our node is issued a certificate", ENDS_WITHIN, || more(&ours, counts[1]));
        fleet.ours[0].kill();
        wait::until_true("the engine is issued a certificate", ENDS_WITHIN, || more(&engine, counts[0]));
        fleet.engines[0].kill();
        fleet.ours[0].restart();
        fleet.engines[0].restart();
        fleet.rotated(&before);
        assert_eq!((node_id(&fleet.ours[0]), node_id(&fleet.engines[0])), (ours, engine));
    }
}

#[test]
fn an_emergency_rotation_leaves_those_behind_who_are_away_and_they_come_back_by_token() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let mut fleet = Fleet::start(2, 1);
    let lost = fleet.engine_id(1).to_owned();
    let before = Marks::of(fleet.manager());
    fleet.engines[1].kill();
    let body = r#"{"policy":{"kind":"emergency","bound_ms":3000}}"#;
    let answer = fleet.manager().api("POST", "/swarmpki/v1/ca/rotate", Some(body));
    assert_eq!(answer.status, 200, "{answer:?}");
    let during = Marks::of(fleet.manager());
    assert!(during.worker != before.worker && during.manager != before.manager, "tokens first");
    wait::until("it ends without the one that is away", ENDS_WITHIN, || {
        let status = ca_status(fleet.manager());
        if status["rotation"].is_null() { Ok(()) } else { Err(status.to_string()) }
    });
    let after = Marks::of(fleet.manager());
    all_follow(fleet.manager(), &[fleet.engine_id(0).to_owned(), fleet.our_id(0).to_owned()]);
    judge(&fleet.engines[0].certificates(), &after.root);
    judge(&fleet.ours[0].certificates(), &after.root);
    assert_eq!(ca_status(fleet.manager())["stragglers"], serde_json::json!([]), "the old root opens nothing");

    // An engine that finds no manager which it can verify answers nothing for the first 20 s.
    fleet.engines[1].restart();
    let engine = &fleet.engines[1];
    wait::throughout("it stays outside", Duration::from_secs(3), || match state(fleet.manager(), &lost).as_str() {
        "ready" => Err("it is ready".into()),
        _ => Ok(()),
    });
    engine.docker(&["swarm", "leave", "--force"]).ok();
    let again = join(engine, fleet.cluster.net.host(3), &after.worker, &fleet.cluster.net.swarm(1));
    all_follow(fleet.manager(), &[again]);
    judge(&engine.certificates(), &after.root);
}
