//! Our node in a real Docker swarm whose root is rotated, again and again (conformance 305, 313); and a real engine whose renewals are
//! lost on the way (O11).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use swarmpki_conformance::rotation::{Marks, all_follow, in_progress, leaf_alone, rotated};
use swarmpki_conformance::{all_ready, in_state, init, join, node_id, swarm, token};
use testkit::daemon::Daemon;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::proxy::{APPLICATION_DATA, Proxy, Record, Verdict};
use testkit::{openssl, require_or_skip, wait};

#[test]
fn c305_c313_our_node_follows_rotations_that_replace_each_other_and_one_it_slept_through() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let (net, manager) = (Loopback::claim(), Engine::start("manager1"));
    init(&manager, net.host(1));
    let mut ours = Daemon::start("ours");
    let id = join(&ours, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&id]);
    let rotate = || manager.docker(&["swarm", "ca", "--rotate", "--detach"]).ok();

    let before = Marks::of(&manager);
    rotate();
    rotate();
    let middle = rotated(&manager, &before);
    all_follow(&manager, std::slice::from_ref(&id));
    openssl::verify(&ours.certificates().root(), &leaf_alone(&ours.certificates().chain()));

    ours.kill();
    in_state(&manager, &[&id], "down", Duration::from_secs(40));
    rotate();
    let own = node_id(&manager);
    wait::until("the engine's own node has the new issuer", Duration::from_secs(30), || {
        let (wanted, node) = (swarm(&manager)["TLSInfo"].clone(), swarmpki_conformance::node(&manager, &own).unwrap());
        let said = &node["Description"]["TLSInfo"];
        if said["CertIssuerPublicKey"] == wanted["CertIssuerPublicKey"] { Ok(()) } else { Err(said.to_string()) }
    });
    assert!(in_progress(&manager), "docker waits for our node");
    // And it is replaced by another before we come back.
    rotate();
    ours.restart();
    let after = rotated(&manager, &middle);
    all_follow(&manager, std::slice::from_ref(&id));
    assert_eq!(node_id(&ours), id);
    assert_eq!(std::fs::read_to_string(ours.certificates().root()).unwrap(), after.root);
    openssl::verify(&ours.certificates().root(), &leaf_alone(&ours.certificates().chain()));
}

#[test]
fn o11_an_engine_whose_renewals_are_lost_is_told_again() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let manager = Daemon::start("manager1");
    // Nodes know the manager by the proxy's address alone.
    let body = format!(r#"{{"ListenAddr":"{}:2377","AdvertiseAddr":"{}:2377","Spec":{{}}}}"#, net.host(1), net.host(9));
    let cut_after = Arc::new(AtomicU64::new(u64::MAX));
    let (newest, cuts) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let judge = {
        let (cut_after, newest, cuts) = (Arc::clone(&cut_after), Arc::clone(&newest), Arc::clone(&cuts));
        move |record: Record| {
            newest.fetch_max(record.connection, Ordering::SeqCst);
            // The connections that stand go on; new ones are cut at their first request.
            let is_new = record.connection > cut_after.load(Ordering::SeqCst);
            if is_new && record.from_client && record.kind == APPLICATION_DATA {
                cuts.fetch_add(1, Ordering::SeqCst);
                return Verdict::Cut;
            }
            Verdict::Pass
        }
    };
    let address = |n| SocketAddr::new(net.host(n).into(), 2377);
    let _proxy = Proxy::start(address(9), address(1), judge);
    let answer = manager.api("POST", "/swarm/init", Some(&body));
    assert_eq!(answer.status, 200, "{answer:?}");
    let engine = Engine::start("engine1");
    let id = join(&engine, net.host(2), &token(&manager, "worker"), &net.swarm(9));
    all_ready(&manager, &[&id]);

    let before = Marks::of(&manager);
    cut_after.store(newest.load(Ordering::SeqCst), Ordering::SeqCst);
    manager.docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    wait::until("five tries were lost", Duration::from_secs(60), || match cuts.load(Ordering::SeqCst) {
        lost if lost >= 5 => Ok(()),
        lost => Err(format!("{lost} lost")),
    });
    assert!(in_progress(&manager));
    let start = Instant::now();
    cut_after.store(u64::MAX, Ordering::SeqCst);
    rotated(&manager, &before);
    all_follow(&manager, std::slice::from_ref(&id));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert_eq!(node_id(&engine), id);
}
