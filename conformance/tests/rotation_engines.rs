//! `docker swarm ca --rotate` on our manager, with real engines and a node of ours (conformance J, O; issue 3, done when 1 and 2).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use swarmpki_conformance::caller::Caller;
use swarmpki_conformance::puppet::Puppet;
use swarmpki_conformance::rotation::{
    ENDS_WITHIN, Fleet, GivenRoot, Marks, P256, Witness, abort, all_follow, ca_status, count, in_progress, judge,
    rotated, waits_for,
};
use swarmpki_conformance::{all_ready, csr, digest_of, join, node, node_id, swarm, token, try_join};
use testkit::docker::Client;
use testkit::engine::Engine;
use testkit::{openssl, require_or_skip, wait};
use tonic::Code;

const NO_TOKEN: &str = "A valid join token is necessary to join this cluster";

fn serials(fleet: &Fleet) -> Vec<String> {
    fleet.files().iter().map(|files| openssl::serial(&files.chain())).collect()
}

/// What is said of a node in a list of those that are missing.
fn reason(blocking: &serde_json::Value, id: &str) -> String {
    let named = blocking.as_array().into_iter().flatten().find(|node| node["node"] == id);
    named.map(|node| node["reason"].as_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c305_c310_c312_engines_and_our_node_follow_each_docker_through_a_rotation() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let fleet = Fleet::start(2, 1);
    let first = Marks::of(fleet.manager());
    for client in Client::all() {
        let (before, old) = (Marks::of(fleet.manager()), serials(&fleet));
        let witness = Witness::begin(fleet.manager());
        let said = client.run(&fleet.manager().socket(), &["swarm", "ca", "--rotate"]);
        let out = said.ok();
        let after = fleet.rotated(&before);
        witness.nobody_was_down();
        // docker's own words: three headings, the digest once a look, then the new root.
        let root = out.find("-----BEGIN").map(|at| &out[at..]);
        assert_eq!(root, Some(after.root.trim()), "{}", client.version());
        assert!(
            out.starts_with("desired root digest: \n  rotated TLS certificates: \n  rotated CA certificates:"),
            "{out}"
        );
        let files = fleet.files();
        for (files, old) in files.iter().zip(old) {
            assert_ne!(openssl::serial(&files.chain()), old);
        }
        for files in &files[..fleet.ids.len()] {
            assert_eq!(count(&files.chain()), 2, "a worker's leaf, and the new root certified by the old one");
        }
        for (engine, id) in fleet.engines.iter().zip(&fleet.ids) {
            assert_eq!(node_id(engine), *id);
        }
    }
    let now = Marks::of(fleet.manager());
    let stranger = Caller::plain(fleet.cluster.address(), &now.root).await.unwrap();
    for old in [&first.worker, &first.manager] {
        let refused = stranger.issue(csr::ordinary().csr.as_bytes(), old).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, NO_TOKEN));
    }
    let (newcomer, host) = (Engine::start("newcomer"), fleet.cluster.net.host(9));
    // An engine tries five times, which takes it ten seconds.
    let stale = try_join(&newcomer, host, &first.worker, &fleet.cluster.net.swarm(1)).refused();
    assert!(stale.contains("remote CA does not match fingerprint. Expected: "), "{stale}");
    let id = join(&newcomer, host, &now.worker, &fleet.cluster.net.swarm(1));
    all_follow(fleet.manager(), &[id]);
    judge(&newcomer.certificates(), &now.root);
    assert_eq!(count(&newcomer.certificates().chain()), 1, "a leaf alone");
}

/// The root that joiners get, over a connection to a manager verified by `trust`.
async fn served(fleet: &Fleet, trust: &str) -> String {
    let stranger = Caller::plain(fleet.cluster.address(), trust).await.unwrap();
    let request = wire::proto::GetRootCaCertificateRequest {};
    let answer = stranger.ca().get_root_ca_certificate(request).await.unwrap().into_inner();
    String::from_utf8(answer.certificate.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c301_c302_c306_c309_c311_c315_a_dead_engine_is_named_waited_for_and_removed() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let mut fleet = Fleet::start(2, 1);
    let dead = fleet.engine_id(1).to_owned();
    let before = Marks::of(fleet.manager());
    fleet.manager().docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    fleet.rotated(&before);
    let before = Marks::of(fleet.manager());
    fleet.engines[1].kill();
    // The rehearsal knows it before anything is begun: who converts, who blocks, who would be left.
    let rehearse = |policy: &str| {
        let body = format!(r#"{{"dry_run":true,"policy":{policy}}}"#);
        let answer = fleet.manager().api("POST", "/swarmpki/v1/ca/rotate", Some(&body));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    };
    let (rehearsal, _) = wait::until("the rehearsal names the dead engine", Duration::from_secs(2), || {
        let rehearsal = rehearse(r#"{"kind":"wait"}"#);
        if reason(&rehearsal["blocks"], &dead) == "lost" { Ok(rehearsal) } else { Err(rehearsal.to_string()) }
    });
    assert_eq!(rehearsal["blocks"].as_array().unwrap().len(), 1, "{rehearsal}");
    assert!(rehearsal["takes_ms"].is_null(), "it would wait: {rehearsal}");
    let (late, soon) = (rehearse(r#"{"kind":"deadline","after_ms":10000}"#), rehearsal["converts"].as_array().unwrap());
    assert_eq!(late["aside"], serde_json::json!([{ "node": dead, "hostname": "engine2" }]), "{late}");
    assert!(!in_progress(fleet.manager()) && Marks::of(fleet.manager()) == before, "nothing was begun");
    fleet.manager().docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    // Within two seconds of the end of its connection it is known who is missing and why.
    wait::until("the status names the dead engine as lost", Duration::from_secs(2), || {
        let rotation = ca_status(fleet.manager())["rotation"].take();
        let said = reason(&rotation["blocking"], &dead);
        if said == "lost" { Ok(()) } else { Err(format!("{said:?} {rotation}")) }
    });
    let real = waits_for(fleet.manager(), "renew", &[&dead]);
    let mut converts: Vec<_> = soon.iter().map(|node| node["node"].as_str().unwrap()).collect();
    converts.sort_unstable();
    let mut others = vec![fleet.engine_id(0).to_owned(), fleet.our_id(0).to_owned(), node_id(fleet.manager())];
    others.sort_unstable();
    assert_eq!(converts, others, "as rehearsed");
    assert_eq!(real["done"], converts.len());

    let (manager, net) = (fleet.manager(), &fleet.cluster.net);
    let during = swarm(manager);
    assert_eq!(Marks::of(manager), before, "root and tokens are the old ones until the end");
    assert_eq!(served(&fleet, &before.root).await, before.root, "joiners get the old root");

    // A join with the token of now, and with the one after it was rotated.
    let joined = Engine::start("joined");
    let mut ids = vec![join(&joined, net.host(8), &before.worker, &net.swarm(1))];
    let rotated_token = manager.docker(&["swarm", "join-token", "--rotate", "-q", "worker"]).ok();
    assert_eq!(digest_of(&rotated_token), digest_of(&before.worker), "the digest stays the old root's");
    let refused = try_join(&Engine::start("stale"), net.host(7), &before.worker, &net.swarm(1)).refused();
    assert!(refused.contains(NO_TOKEN), "{refused}");
    let puppet = Puppet::join(&fleet.cluster).await;
    assert_eq!(puppet.pair.chain.matches("BEGIN").count(), 2, "leaf and intermediate");
    ids.push(puppet.id.clone());
    all_ready(manager, &[&ids[0]]);
    for id in &ids {
        let said = &node(manager, id).unwrap()["Description"]["TLSInfo"];
        assert_eq!(said["CertIssuerPublicKey"], during["TLSInfo"]["CertIssuerPublicKey"], "issued by the new key");
        assert_eq!(said["TrustRoot"], before.root);
    }
    assert_eq!(count(&joined.certificates().chain()), 2);
    assert!(in_progress(manager));

    // The puppet goes along; then the dead one is all that is missing, and its removal ends it.
    waits_for(manager, "renew", &[&dead]);
    let held = token(manager, "worker");
    manager.docker(&["node", "rm", "--force", &dead]).ok();
    let mut puppet = puppet;
    let root = before.root.clone();
    let done = tokio::time::timeout(ENDS_WITHIN, puppet.follow(|puppet, _| puppet.trust != root)).await;
    done.expect("the puppet is given the new root").unwrap();
    let after = rotated(manager, &Marks { worker: held, ..before });
    assert_eq!(served(&fleet, &after.root).await, after.root, "joiners get the new root");
    let mut left = fleet.ids.clone();
    left.retain(|id| *id != dead);
    left.extend(ids);
    all_follow(manager, &left);
    for files in
        [joined.certificates(), fleet.engines[0].certificates(), fleet.ours[0].certificates(), manager.certificates()]
    {
        judge(&files, &after.root);
    }
}

#[test]
fn c310_c312_engines_renew_under_every_kind_of_root_that_is_given() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let fleet = Fleet::start(1, 1);
    let curve = |name| format!("ec_paramgen_curve:{name}");
    let (p384, p521) = (curve("P-384"), curve("P-521"));
    let rows: [(&str, &str, &[&str]); 5] = [
        ("P-256, another name", "example-root", P256),
        ("P-384, the usual name", "swarm-ca", &["-algorithm", "EC", "-pkeyopt", &p384]),
        ("P-521, the same name", "swarm-ca", &["-algorithm", "EC", "-pkeyopt", &p521]),
        ("RSA of 2048 bits", "rsa-root", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ("P-256 after RSA, the usual name", "swarm-ca", P256),
    ];
    let witness = Witness::begin(fleet.manager());
    for (n, (what, name, key)) in rows.into_iter().enumerate() {
        let root = GivenRoot::make(name, key, 3650, "");
        let before = Marks::of(fleet.manager());
        let (path, key) = (root.path(), root.key_path());
        let expiry = if n == 0 { "720h" } else { "48h" };
        let clients = Client::all();
        let line =
            ["swarm", "ca", "--rotate", "--ca-cert", &path, "--ca-key", &key, "--cert-expiry", expiry, "--quiet"];
        clients[n % clients.len()].run(&fleet.manager().socket(), &line).ok();
        let after = fleet.rotated(&before);
        assert_eq!(after.root, root.certificate(), "{what}");
        let hours = if n == 0 { 720 } else { 48 };
        assert_eq!(
            swarm(fleet.manager())["Spec"]["CAConfig"]["NodeCertExpiry"],
            hours * 3_600_000_000_000_u64,
            "{what}"
        );
        for files in fleet.files() {
            let leaf = files.chain();
            let at = |hours: u64| (hours * 3600).to_string();
            let check = |hours| {
                openssl::openssl(&["x509", "-noout", "-checkend", &at(hours), "-in", leaf.to_str().unwrap()]).code
            };
            assert_eq!((check(hours - 1), check(hours + 2)), (0, 1), "{what}: the leaf lasts as long as was asked");
        }
    }
    witness.nobody_was_down();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o9_c274_c294_p294_an_abort_brings_everybody_back_in_each_phase() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let fleet = Fleet::start(2, 1);
    let mut puppet = Puppet::join(&fleet.cluster).await;
    let manager = fleet.manager();
    let before = Marks::of(manager);
    for phase in ["renew", "trust"] {
        let witness = Witness::begin(manager);
        manager.docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
        // The puppet holds the phase: all others have done their part.
        if phase == "trust" {
            let mut told = puppet.session().await.unwrap();
            while !told.is_ordered() {
                told.next().await.unwrap();
            }
            puppet.renew().await.unwrap();
            puppet.session().await.unwrap();
        }
        let rotation = waits_for(manager, phase, &[&puppet.id]);
        assert_eq!(rotation["done"], 4, "{rotation}");
        abort(manager);
        // An engine that hears of the abort first is told to renew, and it is told the old root again.
        let old = before.root.clone();
        let way_back = puppet.follow(|puppet, told| puppet.trust == old && !told.is_ordered() && !in_progress(manager));
        tokio::time::timeout(ENDS_WITHIN, way_back).await.expect("the way back ends").unwrap();
        all_follow(manager, &fleet.ids);
        let after = Marks::of(manager);
        assert_eq!(after.root, before.root, "{phase}");
        for files in fleet.files() {
            judge(&files, &before.root);
        }
        witness.nobody_was_down();
        assert_eq!(
            (after.worker, after.manager),
            (before.worker.clone(), before.manager.clone()),
            "nobody had others yet"
        );
    }
    // And on from there.
    manager.docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    let done = tokio::time::timeout(ENDS_WITHIN, puppet.follow(|puppet, _| puppet.trust != before.root)).await;
    done.expect("the puppet is given the new root").unwrap();
    fleet.rotated(&before);
}

#[test]
fn o10_from_a_root_that_allows_nothing_below_itself_it_goes_by_bundle() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let fleet = Fleet::start(2, 1);
    let manager = fleet.manager();
    let narrow = GivenRoot::make("narrow", P256, 3650, ",pathlen:0");
    let before = Marks::of(manager);
    manager
        .docker(&["swarm", "ca", "--rotate", "--quiet", "--ca-cert", &narrow.path(), "--ca-key", &narrow.key_path()])
        .ok();
    let middle = fleet.rotated(&before);
    assert_eq!(middle.root, narrow.certificate());
    for (n, next) in ["swarm-ca", "narrow"].into_iter().enumerate() {
        let before = Marks::of(manager);
        let witness = Witness::begin(manager);
        if n == 0 {
            manager.docker(&["swarm", "ca", "--rotate", "--quiet"]).ok();
        } else {
            let wide = GivenRoot::p256(next);
            manager
                .docker(&[
                    "swarm",
                    "ca",
                    "--rotate",
                    "--quiet",
                    "--ca-cert",
                    &wide.path(),
                    "--ca-key",
                    &wide.key_path(),
                ])
                .ok();
        }
        fleet.rotated(&before);
        witness.nobody_was_down();
    }
}

#[test]
fn c282_c290_c291_c295_rotations_that_replace_each_other_end_with_the_last() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let fleet = Fleet::start(2, 1);
    let manager = fleet.manager();
    let before = Marks::of(manager);
    let witness = Witness::begin(manager);
    // Each as soon as the one before is on its way: some replace it, some begin after its end.
    let mut roots = Vec::new();
    for n in 0..6 {
        let root = GivenRoot::p256(if n % 2 == 0 { "swarm-ca" } else { "other" });
        manager
            .docker(&["swarm", "ca", "--rotate", "--detach", "--ca-cert", &root.path(), "--ca-key", &root.key_path()])
            .ok();
        roots.push(root.certificate());
    }
    wait::until("the last root is everybody's", ENDS_WITHIN, || {
        let now = Marks::of(manager).root;
        let last = roots.last() == Some(&now) && !in_progress(manager);
        if last { Ok(()) } else { Err(ca_status(manager).to_string()) }
    });
    let after = fleet.rotated(&before);
    assert_eq!(Some(&after.root), roots.last());
    witness.nobody_was_down();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o9_o10_an_abort_by_bundle_brings_everybody_back_in_each_phase() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let fleet = Fleet::start(1, 1);
    let manager = fleet.manager();
    let (narrow, first) = (GivenRoot::make("narrow", P256, 3650, ",pathlen:0"), Marks::of(manager));
    manager
        .docker(&["swarm", "ca", "--rotate", "--quiet", "--ca-cert", &narrow.path(), "--ca-key", &narrow.key_path()])
        .ok();
    let mut puppet = Puppet::join(&fleet.cluster).await;
    let before = fleet.rotated(&first);
    for phase in ["widen", "renew", "trust"] {
        let witness = Witness::begin(manager);
        manager.docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
        if phase != "widen" {
            let widened = puppet.follow(|puppet, _| puppet.trust.matches("BEGIN").count() == 2);
            drop(tokio::time::timeout(ENDS_WITHIN, widened).await.expect("it is given both roots").unwrap());
        }
        if phase == "trust" {
            waits_for(manager, "renew", &[&puppet.id]);
            puppet.renew().await.unwrap();
            drop(puppet.session().await.unwrap());
        }
        waits_for(manager, phase, &[&puppet.id]);
        abort(manager);
        let old = before.root.clone();
        let way_back = puppet.follow(|puppet, told| puppet.trust == old && !told.is_ordered() && !in_progress(manager));
        let end = tokio::time::timeout(ENDS_WITHIN, way_back).await;
        drop(end.unwrap_or_else(|_| panic!("{phase}: it never ends: {}", ca_status(manager))).unwrap());
        fleet.follows(&before.root);
        assert_eq!(Marks::of(manager).root, before.root, "{phase}");
        witness.nobody_was_down();
    }
}
