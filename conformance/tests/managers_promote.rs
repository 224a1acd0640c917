//! Workers of ours that become managers and workers again, live; and who may not (issue 5, done when 2; conformance L).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use testkit::daemon::Daemon;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::server::Server;
use testkit::{openssl, require_or_skip, wait};

use swarmpki_conformance::group::{self, Group, SETTLED_WITHIN, has_unit, listed, manages, set_role};
use swarmpki_conformance::rotation::Marks;
use swarmpki_conformance::{all_ready, in_state, info, join, node, nodes, token};

const LAST: &str = "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm";
const QUORUM: &str = "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this would result in a loss of quorum";
const NOT_MEMBER: &str = "rpc error: code = NotFound desc = can't find manager in raft memberlist";
const DAEMON: &str = "Error response from daemon: ";

/// A swarm with one manager of ours and two workers of ours: hosts 1 to 3, nodes 0 to 2.
fn one_and_two_workers(net: &Loopback) -> Group {
    let mut group = Group::start(net, 1);
    let worker = Marks::of(&group.managers[0]).worker;
    for n in 2..=3 {
        let daemon = Daemon::start(&format!("worker{n}"));
        group.ids.push(group::join(&daemon, net.host(n), &worker, &group.swarm(0)));
        group.hosts.push(net.host(n));
        group.managers.push(daemon);
    }
    all_ready(&group.managers[0], &[&group.ids[1], &group.ids[2]]);
    group
}

/// A change of role is through within this. Source: conformance 331 and 332.
const CHANGED_WITHIN: Duration = Duration::from_millis(2_500);

/// What the node is, its certificate says too. How long it took until it was.
fn becomes(group: &Group, by: usize, n: usize, role: &str) -> Duration {
    let took = manages(&group.managers[by], &group.ids[n], role == "manager");
    has_unit(&group.managers[n], role);
    if role == "manager" {
        wait::until("the new manager answers", SETTLED_WITHIN, || listed(&group.managers[n]).map(drop));
    }
    all_ready(&group.managers[by], &[&group.ids[n]]);
    took
}

#[test]
fn c330_c331_c332_c340_done_when_2_two_workers_are_promoted_and_demoted_live() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let group = one_and_two_workers(&net);
    let pids: Vec<_> = group.managers.iter().map(|daemon| daemon.pid()).collect();
    let before = Marks::of(&group.managers[0]);
    let said = group.managers[0].docker(&["node", "promote", &group.ids[1], &group.ids[2]]).ok();
    let promoted = |n: usize| format!("Node {} promoted to a manager in the swarm.", group.ids[n]);
    assert_eq!(said, format!("{}\n{}", promoted(1), promoted(2)));
    let mut took = Vec::new();
    for n in 1..=2 {
        took.push(becomes(&group, 0, n, "manager"));
        assert_eq!(Marks::of(&group.managers[n]), before);
        assert_eq!(info(&group.managers[n])["ControlAvailable"], true);
    }
    group.all_manage();
    let late = Daemon::start("late");
    let late_id = group::join(&late, net.host(9), &before.worker, &group.swarm(2));
    group.all_ready(&[&late_id]);
    group.agreed();
    let refused = group.managers[1].docker(&["node", "rm", "--force", &group.ids[2]]).refused();
    assert!(refused.contains("It must be demoted to worker before removal"), "{refused}");

    // The leader goes first: it hands over before.
    let first = group.leader();
    let by = group.other_than(first);
    let said = group.managers[by].docker(&["node", "demote", &group.ids[first]]).ok();
    assert_eq!(said, format!("Manager {} demoted in the swarm.", group.ids[first]));
    let mut took_down = vec![becomes(&group, by, first, "worker")];
    let left: Vec<_> = (0..3).filter(|n| *n != first).collect();
    let last = group.leader_among(&left);
    wait::until("who was the leader says that it is a worker", SETTLED_WITHIN, || {
        let answer = group.managers[first].api("GET", "/nodes", None);
        let said =
            answer.status == 503 && answer.body.contains("Worker nodes can't be used to view or modify cluster state.");
        if said { Ok(()) } else { Err(answer.body) }
    });
    // Down to one, which may not go.
    let second = left.into_iter().find(|n| *n != last).unwrap();
    group.managers[last].docker(&["node", "demote", &group.ids[second]]).ok();
    took_down.push(becomes(&group, last, second, "worker"));
    let refused = group.managers[last].docker(&["node", "demote", &group.ids[last]]).refused();
    assert_eq!(refused, format!("{DAEMON}{LAST}"));
    assert_eq!(set_role(&group.managers[last], &group.ids[last], "manager").status, 200, "later updates still work");
    // And back again, who was the leader before anybody else.
    group.managers[last].docker(&["node", "promote", &group.ids[first]]).ok();
    took.push(becomes(&group, last, first, "manager"));
    for took in [took, took_down] {
        assert!(took.iter().min().unwrap() <= &CHANGED_WITHIN, "the quickest of {took:?}");
    }
    assert_eq!(nodes(&group.managers[first]).len(), 4);
    assert_eq!(Marks::of(&group.managers[first]), before);
    let now: Vec<_> = group.managers.iter().map(|daemon| daemon.pid()).collect();
    assert_eq!(now, pids, "nobody was started again");
    all_ready(&group.managers[last], &[&late_id]);
}

#[test]
fn c328_c329_c338_with_one_of_three_away_no_second_one_goes() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let leader = group.leader();
    let (away, asked) = match leader {
        0 => (1, 2),
        1 => (2, 0),
        _ => (0, 1),
    };
    group.managers[away].kill();
    let manager = &group.managers[leader];
    wait::until("it is out of reach", SETTLED_WITHIN, || {
        let node = listed(manager)?.into_iter().find(|node| node["ID"] == group.ids[away].as_str());
        let reach = node.unwrap()["ManagerStatus"]["Reachability"].clone();
        if reach == "unreachable" { Ok(()) } else { Err(reach.to_string()) }
    });
    let refused = manager.docker(&["node", "demote", &group.ids[asked]]).refused();
    assert_eq!(refused, format!("{DAEMON}{QUORUM}"));
    let refused = group.managers[asked].docker(&["node", "demote", &group.ids[leader]]).refused();
    assert_eq!(refused, format!("{DAEMON}{QUORUM}"), "a follower says the same");
    let member = |id: &str| {
        format!(
            "{DAEMON}rpc error: code = FailedPrecondition desc = node {id} is a cluster manager and is a member of the raft cluster. It must be \
             demoted to worker before removal"
        )
    };
    for line in [&["node", "rm", &group.ids[away]][..], &["node", "rm", "--force", &group.ids[away]]] {
        assert_eq!(manager.docker(line).refused(), member(&group.ids[away]));
    }
    group.restart(away);
    group.all_manage();
    group.managers[leader].docker(&["node", "demote", &group.ids[asked]]).ok();
    becomes(&group, leader, asked, "worker");
}

#[test]
fn c341_a_manager_that_is_demoted_while_it_is_stopped_comes_back_as_a_worker() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let leader = group.leader();
    let away = group.other_than(leader);
    group.managers[away].stop();
    group.managers[leader].docker(&["node", "demote", &group.ids[away]]).ok();
    manages(&group.managers[leader], &group.ids[away], false);
    group.managers[away].restart();
    has_unit(&group.managers[away], "worker");
    all_ready(&group.managers[leader], &[&group.ids[away]]);
    wait::until("it is a worker and nothing else", SETTLED_WITHIN, || {
        let info = info(&group.managers[away]);
        let there = info["ControlAvailable"] == false && info["LocalNodeState"] == "active";
        if there { Ok(()) } else { Err(info.to_string()) }
    });
    assert!(!group.managers[away].state().join("raft").exists(), "it keeps nothing of the cluster");
    // It stays one over its next start.
    group.managers[away].stop();
    group.managers[away].restart();
    in_state(&group.managers[leader], &[&group.ids[away]], "ready", SETTLED_WITHIN);
    group.managers[leader].docker(&["node", "promote", &group.ids[away]]).ok();
    becomes(&group, leader, away, "manager");
    group.all_manage();
    group.agreed();
}

#[test]
fn c342_who_is_promoted_and_no_member_yet_cannot_be_demoted_and_what_is_wished_of_a_dead_node_can_be_taken_back() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let mut group = one_and_two_workers(&net);
    group.managers[2].kill();
    let manager = &group.managers[0];
    manager.docker(&["node", "promote", &group.ids[2]]).ok();
    let shown = node(manager, &group.ids[2]).unwrap();
    assert_eq!((&shown["Spec"]["Role"], &shown["ManagerStatus"]), (&"manager".into(), &serde_json::Value::Null));
    let refused = manager.docker(&["node", "demote", &group.ids[2]]).refused();
    assert_eq!(refused, format!("{DAEMON}{NOT_MEMBER}"));
    group.managers[2].restart();
    becomes(&group, 0, 2, "manager");
    group.managers[0].docker(&["node", "demote", &group.ids[2]]).ok();
    becomes(&group, 0, 2, "worker");
}

#[test]
fn done_when_2_an_engine_is_not_promoted_and_stays_a_healthy_worker() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let group = Group::start(&net, 3);
    let engine = Engine::start("engine1");
    let id = join(&engine, net.host(11), &token(&group.managers[0], "worker"), &group.swarm(1));
    group.all_ready(&[&id]);
    let serial = openssl::serial(&engine.certificates().chain());
    for n in 0..3 {
        let by: &Server = &group.managers[n];
        let before = node(by, &id).unwrap();
        for line in [&["node", "promote", &id][..], &["node", "update", "--role", "manager", &id]] {
            let refused = by.docker(line).refused();
            let said = format!(
                "code = FailedPrecondition desc = node {id} is a Docker Engine and cannot be a manager of this cluster"
            );
            assert!(refused.contains(&said), "{refused}");
        }
        assert_eq!(node(by, &id).unwrap(), before, "nothing has changed");
    }
    all_ready(&group.managers[2], &[&id]);
    // It still renews as the worker it is.
    let before = Marks::of(&group.managers[0]);
    group.managers[1].docker(&["swarm", "ca", "--rotate", "--quiet"]).ok();
    swarmpki_conformance::rotation::rotated(&group.managers[2], &before);
    assert_ne!(openssl::serial(&engine.certificates().chain()), serial);
    assert!(openssl::subject(&engine.certificates().chain()).contains("OU=swarm-worker"));
    // With the manager token an engine gets no certificate at all, from a follower neither.
    let follower = group.other_than(group.leader());
    let other = Engine::start("engine2");
    let token = token(&group.managers[follower], "manager");
    let refused = swarmpki_conformance::try_join(&other, net.host(12), &token, &group.swarm(follower)).refused();
    assert!(refused.contains("FailedPrecondition") && refused.contains("worker"), "{refused}");
    assert_eq!(nodes(&group.managers[0]).len(), 4);
    assert_eq!(info(&other)["LocalNodeState"], "inactive");
}

#[test]
fn c340_a_manager_that_is_demoted_and_promoted_again_at_once_is_one_again() {
    require_or_skip!("swarmpki", "openssl");
    let net = Loopback::claim();
    let group = Group::start(&net, 3);
    let leader = group.leader();
    let other = group.other_than(leader);
    for _ in 0..2 {
        for role in ["worker", "manager"] {
            // Its record changes by itself meanwhile: the version that was seen may be an old one.
            wait::until(&format!("it is told to be a {role}"), SETTLED_WITHIN, || {
                let answer = set_role(&group.managers[leader], &group.ids[other], role);
                if answer.status == 200 { Ok(()) } else { Err(answer.body) }
            });
        }
        becomes(&group, leader, other, "manager");
        group.all_manage();
    }
    group.agreed();
}
