//! The harness against itself: real engines alone, without anything of ours. If these fail, the machine is at fault, not the product.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use swarmpki_conformance::{all_ready, in_state, info, init, join, node_id, swarm, token};
use testkit::docker::Client;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::{openssl, require_or_skip};

#[test]
fn two_engines_make_a_swarm_side_by_side() {
    require_or_skip!("dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let (manager, worker) = (Engine::start("manager1"), Engine::start("worker1"));
    let first = init(&manager, net.host(1));
    let second = join(&worker, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&first, &second]);

    let (certificates, cluster) = (worker.certificates(), swarm(&manager)["ID"].as_str().unwrap().to_owned());
    openssl::verify(&certificates.root(), &certificates.chain());
    assert_eq!(openssl::subject(&certificates.chain()), format!("O={cluster},OU=swarm-worker,CN={second}"));
    for client in Client::all() {
        let listed = client.run(&manager.socket(), &["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]).ok();
        let mut lines: Vec<_> = listed.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["manager1 Ready", "worker1 Ready"], "{}", client.version());
    }
}

#[test]
fn an_engine_that_was_killed_comes_back_as_the_same_node() {
    require_or_skip!("dockerd", "docker");
    let net = Loopback::claim();
    let (manager, mut worker) = (Engine::start("manager1"), Engine::start("worker1"));
    init(&manager, net.host(1));
    let id = join(&worker, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&id]);
    worker.kill();
    in_state(&manager, &[&id], "down", Duration::from_secs(40));
    worker.restart();
    all_ready(&manager, &[&id]);
    assert_eq!(node_id(&worker), id);
}

#[test]
fn an_engine_that_ends_leaves_no_process() {
    require_or_skip!("dockerd");
    let mut engine = Engine::start("alone");
    assert_eq!(info(&engine)["LocalNodeState"], "inactive");
    let file = engine.folder().join("exec/containerd/containerd.pid");
    let containerd: u32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    assert!(running(containerd), "its containerd has process id {containerd}");
    assert!(engine.stop().success());
    assert!(!running(containerd), "containerd {containerd} outlived its engine");
}

/// Whether a process does something still: the kernel keeps an ended one until its new parent has looked.
fn running(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}
