//! What managers, and nodes that are to be some, say of what befell them: in `info`, in refusals and in their logs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::TcpListener;

use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::{require_or_skip, wait};

use swarmpki_conformance::group::{Group, SETTLED_WITHIN, has_unit, join, manages, set_role};
use swarmpki_conformance::rotation::Marks;
use swarmpki_conformance::{all_ready, info, node_id};

const REMOVED: &str = "this node was removed from the swarm: run \"docker swarm leave\"";
const NO_PLACE: &str = "this node is to be a manager and has no place among them yet: ";
const LEADS: &str = "this manager leads from now on";
const FOLLOWS: &str = "this manager follows another one";
const STOPPED: &str = "heartbeats stopped";

/// Waits until the node shows an error that begins with this; all of it, and in which state the node is.
fn shows(node: &Daemon, beginning: &str) -> (String, String) {
    let shown = wait::until(&format!("{} shows {beginning:?}", node.name()), SETTLED_WITHIN, || {
        let info = info(node);
        let error = info["Error"].as_str().unwrap_or_default().to_owned();
        let state = info["LocalNodeState"].as_str().unwrap_or_default().to_owned();
        if error.starts_with(beginning) { Ok((error, state)) } else { Err(info.to_string()) }
    });
    shown.0
}

#[test]
fn a_leader_that_was_removed_while_it_was_away_knows_it_and_makes_no_second_cluster() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let (gone, leader, _) = group.kill_leader();
    let (by, id) = (&group.managers[leader], group.ids[gone].clone());
    by.docker(&["node", "demote", &id]).ok();
    manages(by, &id, false);
    by.docker(&["node", "rm", "--force", &id]).ok();
    group.managers[gone].restart();
    let removed = &group.managers[gone];
    let (_, state) = shows(removed, REMOVED);
    assert_eq!(state, "error");
    let from = removed.log_len();
    let refused = removed.docker(&["swarm", "init", "--force-new-cluster"]).refused();
    assert!(refused.contains(REMOVED), "{refused}");
    assert_eq!(shows(removed, REMOVED).1, "error", "nothing was changed");
    let log = removed.log();
    assert!(!log[from..].contains("made anew"), "{}", &log[from..]);
    // It does what it was told, and is one of them again.
    removed.docker(&["swarm", "leave"]).ok();
    let token = swarmpki_conformance::group::token(&group.managers[leader], "Manager");
    let back = join(removed, group.hosts[gone], &token, &group.swarm(leader));
    assert_ne!(back, id);
    manages(&group.managers[leader], &back, true);
}

#[test]
fn a_node_that_gets_no_place_among_the_managers_says_why() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let group = Group::start(&net, 1);
    let manager = &group.managers[0];
    let token = Marks::of(manager).worker;
    let (taken, elsewhere) = (Daemon::start("worker2"), Daemon::start("worker3"));
    let second = join(&taken, net.host(2), &token, &group.swarm(0));
    let body = serde_json::json!({
        "ListenAddr": net.swarm(3), "AdvertiseAddr": net.swarm(9), "JoinToken": token, "RemoteAddrs": [group.swarm(0)],
    });
    assert_eq!(elsewhere.api("POST", "/swarm/join", Some(&body.to_string())).status, 200);
    let third = node_id(&elsewhere);
    all_ready(manager, &[&second, &third]);
    let port = TcpListener::bind(net.swarm(2)).unwrap();
    manager.docker(&["node", "promote", &second, &third]).ok();

    let (error, state) = shows(&taken, NO_PLACE);
    assert!(error.ends_with("bind: address already in use"), "{error}");
    assert_eq!(state, "active", "it is a worker meanwhile");
    let (error, state) = shows(&elsewhere, NO_PLACE);
    let text = format!("using its advertised address {}: ", net.swarm(9));
    assert!(error.contains(&text) && error.contains("--advertise-addr"), "{error}");
    assert_eq!(state, "active");
    assert_eq!(manager.log().matches("gets no place among them").count(), 1, "that it asks again is no news");

    // What stood in the way is gone.
    drop(port);
    manages(manager, &second, true);
    wait::until("no trouble is shown any more", SETTLED_WITHIN, || {
        let info = info(&taken);
        if info["Error"] == "" && info["ControlAvailable"] == true { Ok(()) } else { Err(info.to_string()) }
    });
    assert_eq!(set_role(manager, &second, "worker").status, 200);
    has_unit(&taken, "worker");
}

#[test]
fn a_change_of_leader_is_told_once_and_nobody_who_is_there_is_called_silent() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    for n in 0..3 {
        let log = group.managers[n].log();
        let told = (log.matches(LEADS).count(), log.matches(FOLLOWS).count());
        assert_eq!(told, if n == 0 { (1, 0) } else { (0, 1) }, "{log}");
    }
    group.managers[0].docker(&["swarm", "update", "--dispatcher-heartbeat", "1s"]).ok();
    let from: Vec<_> = group.managers.iter().map(|manager| manager.log_len()).collect();
    let (dead, leader, _) = group.kill_leader();
    let other = group.other_than(leader);
    // Whoever the new leader waited for from the beginning, it has waited for long enough when it says so of this one.
    group.managers[leader].logged(from[leader], STOPPED, SETTLED_WITHIN * 2);
    group.all_ready(&[&group.ids[leader], &group.ids[other]]);
    for n in [leader, other] {
        let log = group.managers[n].log();
        let new = &log[from[n]..];
        let lines = |what| new.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
        let told = (lines(LEADS).len(), lines(FOLLOWS).len());
        assert_eq!(told, if n == leader { (1, 0) } else { (0, 1) }, "{new}");
        assert!(lines(STOPPED).iter().all(|line| line.contains(&group.ids[dead])), "{new}");
        let new_leader = &group.ids[leader];
        assert!(
            lines(FOLLOWS).iter().all(|line| line.contains(new_leader) && line.contains(&group.swarm(leader))),
            "{new}"
        );
    }
    assert_eq!(group.managers[other].log()[from[other]..].matches(STOPPED).count(), 0, "only the leader knows");
}
