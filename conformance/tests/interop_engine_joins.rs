//! Real Docker Engines in our swarm, driven by the stock `docker` command on both sides.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::mpsc;
use std::time::Duration;

use swarmpki_conformance::caller::{Caller, Pair};
use swarmpki_conformance::{
    all_ready, in_state, info, init, join, node, node_id, nodes, swarm, token, try_join, with_other_digest,
    with_other_secret,
};
use testkit::daemon::Daemon;
use testkit::docker::Client;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::proxy::{APPLICATION_DATA, Proxy, Record, Verdict};
use testkit::{openssl, require_or_skip, wait};

const NO_TOKEN: &str = "Error response from daemon: rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster";

/// Our manager at host 1.
fn manager(net: &Loopback) -> (Daemon, String) {
    let manager = Daemon::start("manager1");
    let id = init(&manager, net.host(1));
    (manager, id)
}

/// Checks with OpenSSL what lies on a node's disk.
fn check_files(engine: &Engine, cluster: &str, id: &str, root: &str) {
    let files = engine.certificates();
    openssl::verify(&files.root(), &files.chain());
    assert_eq!(openssl::subject(&files.chain()), format!("O={cluster},OU=swarm-worker,CN={id}"));
    assert_eq!(std::fs::read_to_string(files.root()).unwrap(), root);
}

#[test]
fn c312_two_engines_join_side_by_side() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let (manager, own) = manager(&net);
    let engines = [Engine::start("worker1"), Engine::start("worker2")];
    let worker_token = token(&manager, "worker");
    let ids: Vec<_> = engines
        .iter()
        .zip(2..)
        .map(|(engine, host)| join(engine, net.host(host), &worker_token, &net.swarm(1)))
        .collect();
    all_ready(&manager, &[&own, &ids[0], &ids[1]]);

    let swarm = swarm(&manager);
    let (cluster, root) = (swarm["ID"].as_str().unwrap(), swarm["TLSInfo"]["TrustRoot"].as_str().unwrap());
    for (engine, id) in engines.iter().zip(&ids) {
        check_files(engine, cluster, id, root);
        let node = node(&manager, id).unwrap();
        assert_eq!(node["Description"]["Hostname"], engine.name());
        assert_eq!(node["Description"]["TLSInfo"], swarm["TLSInfo"]);
        assert_eq!(info(engine)["LocalNodeState"], "active");
    }
    for client in Client::all() {
        let listed = client
            .run(&manager.socket(), &["node", "ls", "--format", "{{.ID}} {{.Hostname}} {{.Status}} {{.TLSStatus}}"])
            .ok();
        for (engine, id) in engines.iter().zip(&ids) {
            let line = format!("{id} {} Ready Ready", engine.name());
            assert!(listed.lines().any(|listed| listed == line), "{}: {line:?} in\n{listed}", client.version());
        }
    }
    // Nothing of it is a flash: three heartbeats later all is as it was.
    wait::throughout("both engines stay Ready", Duration::from_secs(16), || {
        let listed = nodes(&manager);
        if listed.iter().all(|node| node["Status"]["State"] == "ready") { Ok(()) } else { Err(format!("{listed:?}")) }
    });
}

#[test]
fn c099_an_engine_joins_in_less_than_two_seconds() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let (manager, _) = manager(&net);
    let engine = Engine::start("worker1");
    // The best of three: what else this machine does only adds.
    let joins = (0..3).map(|_| {
        let output = try_join(&engine, net.host(2), &token(&manager, "worker"), &net.swarm(1));
        output.ok();
        assert_eq!(engine.docker(&["swarm", "leave"]).ok(), "Node left the swarm.");
        output.took
    });
    let best = joins.min().unwrap();
    assert!(best < Duration::from_secs(2), "{best:?}");
}

#[test]
fn c356_engines_come_back_by_themselves_after_our_kill() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let (mut manager, own) = manager(&net);
    let engine = Engine::start("worker1");
    let id = join(&engine, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&own, &id]);
    let before = (
        swarm(&manager)["ID"].clone(),
        swarm(&manager)["TLSInfo"].clone(),
        token(&manager, "worker"),
        token(&manager, "manager"),
    );
    let serial = openssl::serial(&engine.certificates().chain());

    manager.kill();
    manager.restart();
    all_ready(&manager, &[&own, &id]);
    let after = (
        swarm(&manager)["ID"].clone(),
        swarm(&manager)["TLSInfo"].clone(),
        token(&manager, "worker"),
        token(&manager, "manager"),
    );
    assert_eq!(after, before);
    assert_eq!((node_id(&manager), node_id(&engine)), (own, id));
    assert_eq!(openssl::serial(&engine.certificates().chain()), serial, "a restart of ours is no reason to renew");
}

#[test]
fn an_engine_that_was_killed_is_ready_again_as_the_same_node() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let (manager, _) = manager(&net);
    let mut engine = Engine::start("worker1");
    let id = join(&engine, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&id]);
    engine.kill();
    in_state(&manager, &[&id], "down", Duration::from_secs(40));
    assert_eq!(node(&manager, &id).unwrap()["Status"]["Message"], "heartbeat failure");
    engine.restart();
    all_ready(&manager, &[&id]);
    assert_eq!(node_id(&engine), id);
}

#[test]
fn c153_c335_c336_a_removed_engine_is_cut_off_within_a_second() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let (manager, _) = manager(&net);
    let engine = Engine::start("worker1");
    let id = join(&engine, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&id]);
    assert_eq!(
        manager.docker(&["node", "rm", &id]).refused(),
        format!(
            "Error response from daemon: rpc error: code = FailedPrecondition desc = node {id} is not down and can't be removed"
        )
    );

    let from = engine.log_len();
    assert_eq!(manager.docker(&["node", "rm", "--force", &id]).ok(), id);
    // It opens its session anew as soon as the old one falls, and writes down what it is told.
    engine.logged(from, &format!("node {id} was removed from swarm"), Duration::from_secs(1));
    assert!(node(&manager, &id).is_none());
    wait::throughout("a removed node stays away", Duration::from_secs(5), || match node(&manager, &id) {
        None => Ok(()),
        Some(node) => Err(node.to_string()),
    });
}

#[test]
fn c155_an_engine_that_left_joins_again_as_another_node() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let (manager, _) = manager(&net);
    let engine = Engine::start("worker1");
    let worker_token = token(&manager, "worker");
    let first = join(&engine, net.host(2), &worker_token, &net.swarm(1));
    all_ready(&manager, &[&first]);
    assert_eq!(engine.docker(&["swarm", "leave"]).ok(), "Node left the swarm.");
    let second = join(&engine, net.host(2), &worker_token, &net.swarm(1));
    assert_ne!(first, second);
    all_ready(&manager, &[&second]);
    in_state(&manager, &[&first], "down", Duration::from_secs(40));
    assert_eq!(manager.docker(&["node", "rm", &first]).ok(), first);
    all_ready(&manager, &[&second]);
}

#[test]
fn c012_an_engine_with_a_wrong_secret_is_refused() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    refused_join(with_other_secret, |_, said| assert_eq!(said, NO_TOKEN));
}

#[test]
fn c015_an_engine_with_a_rotated_token_is_refused() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let (manager, _) = manager(&net);
    let engine = Engine::start("worker1");
    let old = token(&manager, "worker");
    let said = manager.docker(&["swarm", "join-token", "--rotate", "-q", "worker"]).ok();
    assert_eq!(said, token(&manager, "worker"));
    assert_ne!(said, old);
    assert_eq!(try_join(&engine, net.host(2), &old, &net.swarm(1)).refused(), NO_TOKEN);
    assert_eq!(nodes(&manager).len(), 1);
    join(&engine, net.host(2), &said, &net.swarm(1));
}

#[test]
fn c048_c058_an_engine_with_another_roots_token_goes_away() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    refused_join(with_other_digest, |_, said| {
        let text = "Error response from daemon: remote CA does not match fingerprint. Expected: ";
        assert!(said.starts_with(text), "{said}");
    });
}

#[test]
fn c054_an_engine_with_half_a_token_does_not_even_ask() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    refused_join(
        |token| token[..60].to_owned(),
        |_, said| assert_eq!(said, "Error response from daemon: invalid join token"),
    );
}

#[test]
fn p009_an_engine_with_a_manager_token_is_told_to_join_as_a_worker() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let (manager, _) = manager(&net);
    let engine = Engine::start("worker1");
    let said = try_join(&engine, net.host(2), &token(&manager, "manager"), &net.swarm(1)).refused();
    assert!(said.contains("FailedPrecondition") && said.contains("worker"), "{said}");
    assert_eq!(nodes(&manager).len(), 1);
}

/// Joins with a changed worker token; checks what is said, and that nothing is left of the attempt.
fn refused_join(change: impl Fn(&str) -> String, check: impl Fn(&Daemon, &str)) {
    let net = Loopback::claim();
    let (manager, _) = manager(&net);
    let engine = Engine::start("worker1");
    let said = try_join(&engine, net.host(2), &change(&token(&manager, "worker")), &net.swarm(1)).refused();
    check(&manager, &said);
    assert_eq!(nodes(&manager).len(), 1);
    assert_eq!(info(&engine)["LocalNodeState"], "inactive");
    join(&engine, net.host(2), &token(&manager, "worker"), &net.swarm(1));
}

/// What is between Issue and NodeCertificateStatus: the proxy knows the two requests by their sizes, and holds the second one.
#[test]
fn o12_an_engine_gets_its_certificate_though_we_die_between_issue_and_status() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let (mut manager, _) = manager(&net);
    let engine = Engine::start("worker1");
    let worker_token = token(&manager, "worker");

    // Issue carries a CSR and a token, about 450 bytes; Status and its headers are below 200, other frames below 60.
    let (held, hold) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let state = std::sync::Mutex::new((None, Some((held, gate))));
    let proxy = Proxy::start((net.host(9), 2377).into(), (net.host(1), 2377).into(), move |record: Record| {
        if !record.from_client || record.kind != APPLICATION_DATA {
            return Verdict::Pass;
        }
        let (issue_at, waiting) = &mut *state.lock().unwrap();
        match issue_at {
            None if record.length > 350 => *issue_at = Some(record.connection),
            Some(connection) if *connection == record.connection && record.length > 60 => {
                if let Some((held, gate)) = waiting.take() {
                    held.send(()).unwrap();
                    gate.recv().unwrap();
                    return Verdict::Cut;
                }
            }
            _ => {}
        }
        Verdict::Pass
    });
    let output = std::thread::scope(|scope| {
        let joining = scope.spawn(|| try_join(&engine, net.host(2), &worker_token, &proxy.address().to_string()));
        hold.recv_timeout(Duration::from_secs(30)).expect("the engine asks for its status");
        manager.kill();
        go.send(()).unwrap();
        manager.restart();
        joining.join().unwrap()
    });
    assert_eq!(output.ok(), "This node joined a swarm as a worker.");
    let id = node_id(&engine);
    all_ready(&manager, &[&id]);
    assert_eq!(nodes(&manager).len(), 2, "one join, one node");
}

#[test]
fn an_engine_whose_old_pair_was_put_back_comes_back_by_itself() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let (manager, _) = manager(&net);
    let mut engine = Engine::start("worker1");
    let id = join(&engine, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&id]);
    assert!(engine.stop().success());
    let files = engine.certificates();
    let old = Pair::load(&files);

    // The engine renews; here that is done in its name, so that it happens now and not in 45 days.
    let root = std::fs::read_to_string(files.root()).unwrap();
    let address = (net.host(1), 2377).into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let caller = Caller::with(address, &root, &old).await.unwrap();
        let request = swarmpki_conformance::csr::ordinary();
        caller.issue(request.csr.as_bytes(), "").await.unwrap();
        swarmpki_conformance::cluster::fetch(&caller, &id, &request).await.save(&files);
    });
    engine.restart();
    all_ready(&manager, &[&id]);
    let renewed = openssl::serial(&files.chain());

    // Power cut: the disk gives back what was before.
    engine.kill();
    old.save(&files);
    assert_ne!(openssl::serial(&files.chain()), renewed);
    in_state(&manager, &[&id], "down", Duration::from_secs(40));
    engine.restart();
    all_ready(&manager, &[&id]);
    assert_eq!(node_id(&engine), id);
    wait::until_true("the engine has renewed by itself", Duration::from_secs(20), || {
        Pair::load(&files).chain != old.chain
    });
    assert_ne!(openssl::serial(&files.chain()), renewed);
}
