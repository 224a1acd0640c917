//! Everything is off for longer than any certificate lives, and comes back by itself: same ids, no command of an operator; who was
//! removed meanwhile stays out (issue 5, done when 4).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use swarmpki_conformance::group::{Group, SETTLED_WITHIN};
use swarmpki_conformance::{all_ready, info, join, node_id, nodes, state, token, try_join};
use testkit::clock::Clock;
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::{openssl, require_or_skip, wait};

/// Several times the longest that a node here may come back after without more: it is then an hour and the backdating.
const ASLEEP: Duration = Duration::from_secs(400 * 24 * 60 * 60);

fn daemon(name: &str, clock: &Clock) -> Daemon {
    Daemon::start_with(name, Vec::new(), clock.env())
}

/// A cluster of `managers`, whose leaves live for an hour, with two workers and one more that is removed while it is off; asleep and awake
/// again.
fn sleeps(managers: u8) {
    let (net, clock) = (Loopback::claim(), Clock::right());
    let start = |n: u8| (daemon(&format!("manager{n}"), &clock), net.host(n));
    let (managers, hosts): (Vec<_>, Vec<_>) = (1..=managers).map(start).unzip();
    let host = hosts[0].to_string();
    let listen = format!("{host}:2377");
    let founding = ["swarm", "init", "--cert-expiry", "1h", "--advertise-addr", &host, "--listen-addr", &listen];
    managers[0].docker(&founding).ok();
    let mut group = Group { ids: vec![node_id(&managers[0])], managers, hosts };
    let tokens = ["worker", "manager"].map(|role| token(&group.managers[0], role));
    for n in 1..group.managers.len() {
        let said = try_join(&group.managers[n], group.hosts[n], &tokens[1], &listen).ok();
        assert_eq!(said, "This node joined a swarm as a manager.");
        group.ids.push(node_id(&group.managers[n]));
    }
    group.all_manage();
    let mut workers: Vec<_> = (1..=3).map(|n| daemon(&format!("worker{n}"), &clock)).collect();
    let mut ids: Vec<_> =
        workers.iter().zip(101..).map(|(worker, n)| join(worker, net.host(n), &tokens[0], &listen)).collect();
    let mut removed = workers.pop().unwrap();
    let removed_id = ids.pop().unwrap();
    removed.stop();
    group.managers[0].docker(&["node", "rm", "--force", &removed_id]).ok();

    let serial = |node: &Daemon| openssl::serial(&node.certificates().chain());
    let before: Vec<_> = group.managers.iter().chain(&workers).chain([&removed]).map(serial).collect();
    for node in workers.iter_mut().chain(&mut group.managers) {
        node.stop();
    }
    clock.set(ASLEEP);
    // Workers first: for a while they find no manager whose certificate holds.
    removed.restart();
    for node in workers.iter_mut().chain(&mut group.managers) {
        node.restart();
    }

    group.all_manage();
    let all: Vec<_> = group.ids.iter().chain(&ids).map(String::as_str).collect();
    for manager in &group.managers {
        all_ready(manager, &all);
        assert_eq!(nodes(manager).len(), all.len(), "the same nodes, and no other");
        assert_eq!(["worker", "manager"].map(|role| token(manager, role)), tokens);
    }
    for (node, id) in group.managers.iter().chain(&workers).zip(&all) {
        assert_eq!(node_id(node), *id);
    }
    let after: Vec<_> = group.managers.iter().chain(&workers).map(serial).collect();
    assert!(after.iter().zip(&before).all(|(after, before)| after != before), "everybody renewed: {after:?}");

    // It asks, with the one certificate that it has, and is refused; it joins again as anybody would.
    wait::until("the removed node is refused", SETTLED_WITHIN, || {
        let seen = info(&removed);
        let refused = ["that this cluster has no record of", "A valid join token is necessary", "was removed"]
            .iter()
            .any(|text| seen["Error"].as_str().unwrap_or_default().contains(text));
        if refused && seen["LocalNodeState"] == "error" { Ok(()) } else { Err(seen.to_string()) }
    });
    assert_eq!(state(&group.managers[0], &removed_id), "not listed");
    assert_eq!(serial(&removed), *before.last().unwrap());
    let late = daemon("late", &clock);
    let id = join(&late, net.host(120), &tokens[0], &listen);
    all_ready(&group.managers[0], &[&id]);
}

#[test]
fn done_when_4_one_manager_that_slept_brings_its_cluster_back() {
    require_or_skip!("swarmpki", "docker", "openssl", "faketime");
    sleeps(1);
}

#[test]
fn done_when_4_three_managers_that_slept_bring_their_cluster_back() {
    require_or_skip!("swarmpki", "docker", "openssl", "faketime");
    sleeps(3);
}
