//! Our node in a real Docker swarm: the manager is an engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use swarmpki_conformance::{
    all_ready, in_state, info, init, join, node, node_id, nodes, swarm, token, try_join, with_other_digest,
    with_other_secret,
};
use testkit::daemon::Daemon;
use testkit::docker::Client;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::{openssl, require_or_skip, wait};

/// An engine as manager at host 1, our daemon in no swarm yet.
fn start() -> (Loopback, Engine, Daemon) {
    let net = Loopback::claim();
    let manager = Engine::start("manager1");
    init(&manager, net.host(1));
    (net, manager, Daemon::start("ours"))
}

fn joined() -> (Loopback, Engine, Daemon, String) {
    let (net, manager, ours) = start();
    let id = join(&ours, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&id]);
    (net, manager, ours, id)
}

#[test]
fn c073_our_node_is_ready_in_a_real_swarm() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let (_net, manager, ours, id) = joined();
    let swarm = swarm(&manager);
    assert_eq!(node(&manager, &id).unwrap()["Description"]["TLSInfo"], swarm["TLSInfo"]);
    let files = ours.certificates();
    openssl::verify(&files.root(), &files.chain());
    assert_eq!(
        openssl::subject(&files.chain()),
        format!("O={},OU=swarm-worker,CN={id}", swarm["ID"].as_str().unwrap())
    );
    for client in Client::all() {
        let said = client
            .run(&ours.socket(), &["info", "--format", "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}"])
            .ok();
        assert_eq!(said, "active false", "{}", client.version());
        let refused = client.run(&ours.socket(), &["node", "ls"]).refused();
        assert!(refused.contains("Worker nodes can't be used to view or modify cluster state."), "{refused}");
    }
    wait::throughout("our node stays Ready", Duration::from_secs(16), || {
        match swarmpki_conformance::state(&manager, &id).as_str() {
            "ready" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
}

#[test]
fn c313_our_node_follows_the_swarms_root_rotation() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let (_net, manager, ours, id) = joined();
    let files = ours.certificates();
    let (before, serial) = (swarm(&manager), openssl::serial(&files.chain()));
    manager.docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    let (after, _) = wait::until("the rotation ends", Duration::from_secs(60), || {
        let now = swarm(&manager);
        let done =
            now["RootRotationInProgress"] == false && now["TLSInfo"]["TrustRoot"] != before["TLSInfo"]["TrustRoot"];
        if done { Ok(now) } else { Err(now["RootRotationInProgress"].to_string()) }
    });
    wait::until("our node reports the new root", Duration::from_secs(30), || {
        let reported = node(&manager, &id).unwrap()["Description"]["TLSInfo"].clone();
        if reported == after["TLSInfo"] { Ok(()) } else { Err(reported.to_string()) }
    });
    all_ready(&manager, &[&id]);
    assert_eq!(std::fs::read_to_string(files.root()).unwrap(), after["TLSInfo"]["TrustRoot"].as_str().unwrap());
    assert_ne!(openssl::serial(&files.chain()), serial);
    openssl::verify(&files.root(), &first_certificate(&files.chain()));
}

/// The leaf alone: under the new root it needs no intermediate, and OpenSSL stumbles over the engine's, which has no authority key identifier.
fn first_certificate(chain: &std::path::Path) -> std::path::PathBuf {
    let text = std::fs::read_to_string(chain).unwrap();
    let end = "-----END CERTIFICATE-----\n";
    let leaf = chain.with_extension("leaf");
    std::fs::write(&leaf, &text[..text.find(end).unwrap() + end.len()]).unwrap();
    leaf
}

#[test]
fn c356_our_node_comes_back_after_a_kill_as_the_same_node() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let (_net, manager, mut ours, id) = joined();
    ours.kill();
    in_state(&manager, &[&id], "down", Duration::from_secs(40));
    ours.restart();
    all_ready(&manager, &[&id]);
    assert_eq!(node_id(&ours), id);
}

#[test]
fn our_node_comes_back_after_its_manager_was_killed() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let (_net, mut manager, ours, id) = joined();
    manager.kill();
    manager.restart();
    wait::until_true("the engine is a manager again", Duration::from_secs(30), || {
        manager.api("GET", "/swarm", None).status == 200
    });
    all_ready(&manager, &[&id]);
    assert_eq!(node_id(&ours), id);
}

#[test]
fn our_node_says_that_it_was_removed() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let (_net, manager, ours, id) = joined();
    manager.docker(&["node", "rm", "--force", &id]).ok();
    wait::until("our node knows that it was removed", Duration::from_secs(30), || {
        let said = info(&ours)["Error"].as_str().unwrap_or_default().to_owned();
        if said.contains("removed") { Ok(()) } else { Err(info(&ours).to_string()) }
    });
    assert_eq!(ours.docker(&["swarm", "leave"]).ok(), "Node left the swarm.");
    assert_eq!(info(&ours)["LocalNodeState"], "inactive");
}

#[test]
fn our_node_leaves_and_joins_again_as_another() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let (net, manager, ours, first) = joined();
    assert_eq!(ours.docker(&["swarm", "leave"]).ok(), "Node left the swarm.");
    assert!(!ours.certificates().key().exists(), "a node that left keeps no key");
    let second = join(&ours, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    assert_ne!(first, second);
    all_ready(&manager, &[&second]);
}

#[test]
fn c048_c052_c058_our_node_refuses_a_swarm_that_is_not_the_tokens() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let (net, manager, ours) = start();
    let good = token(&manager, "worker");
    for (bad, text) in [
        (with_other_digest(&good), "remote CA does not match fingerprint. Expected: "),
        (
            with_other_secret(&good),
            "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster",
        ),
        (good[..60].to_owned(), "invalid join token"),
    ] {
        let said = try_join(&ours, net.host(2), &bad, &net.swarm(1)).refused();
        assert!(said.starts_with(&format!("Error response from daemon: {text}")), "{said}");
        assert_eq!(info(&ours)["LocalNodeState"], "inactive");
    }
    assert_eq!(nodes(&manager).len(), 1);
    join(&ours, net.host(2), &good, &net.swarm(1));
}
