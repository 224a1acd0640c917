//! Managers of ours that come back at other addresses (issue 5, point 2): who they are is their certificate, an address is a hint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};
use swarmpki_conformance::group::{Group, SETTLED_WITHIN, join, listed};
use swarmpki_conformance::rotation::Marks;
use swarmpki_conformance::{all_ready, info};
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::server::Server;
use testkit::{require_or_skip, wait};

/// The manager's power goes, somebody else has its address now, and it starts again; who has the address.
fn uproot(group: &mut Group, n: usize) -> TcpListener {
    group.managers[n].kill();
    let taken = wait::until("its address is free", SETTLED_WITHIN, || {
        TcpListener::bind(group.address(n)).map_err(|error| error.to_string())
    });
    group.managers[n].restart();
    taken.0
}

/// What a node knows of where the managers are.
fn known(node: &Server) -> Vec<String> {
    let managers = info(node)["RemoteManagers"].as_array().cloned().unwrap_or_default();
    let mut addrs: Vec<_> = managers.iter().filter_map(|manager| Some(manager["Addr"].as_str()?.to_owned())).collect();
    addrs.sort();
    addrs
}

/// Everybody knows where every manager is.
fn all_know(group: &Group, workers: &[&Daemon]) {
    group.all_manage();
    let mut wanted: Vec<_> = (0..group.managers.len()).map(|n| group.swarm(n)).collect();
    for asked in &group.managers {
        for (n, id) in group.ids.iter().enumerate() {
            let node = listed(asked).unwrap().into_iter().find(|node| node["ID"] == *id).unwrap();
            assert_eq!(node["ManagerStatus"]["Addr"], Value::from(group.swarm(n)), "by {}", asked.name());
        }
    }
    wanted.sort();
    for node in group.managers.iter().chain(workers.iter().copied()) {
        wait::until(&format!("{} knows where the managers are", node.name()), SETTLED_WITHIN, || {
            let known = known(node);
            if known == wanted { Ok(()) } else { Err(format!("{known:?}")) }
        });
    }
}

/// The manager is at another address now, by our command on its machine.
fn moves(group: &mut Group, n: usize, to: Ipv4Addr) {
    let taken = uproot(group, n);
    let said = group.managers[n].swarmpki(&["update", "--advertise-addr", &to.to_string()]).ok();
    group.hosts[n] = to;
    assert_eq!(said, format!("The others find this node at {} now.", group.swarm(n)));
    group.is_back(n);
    drop(taken);
}

#[test]
fn a_manager_that_comes_back_at_another_address_is_found_by_all_also_one_that_led() {
    require_or_skip!("swarmpki", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let before = Marks::of(&group.managers[0]);
    let worker = Daemon::start("worker1");
    let id = join(&worker, net.host(11), &before.worker, &group.swarm(0));
    let (ids, mut places) = (group.ids.clone(), 20..);
    let leader = group.leader();
    for moving in [group.other_than(leader), leader] {
        moves(&mut group, moving, net.host(places.next().unwrap()));
        all_know(&group, &[&worker]);
        assert_eq!(Marks::of(&group.managers[moving]), before, "tokens and root are what they were");
    }
    assert_eq!(group.leader_by(0).map(|n| &ids[n]), Some(&group.ids[group.leader()]));
    group.agreed();
    // The others need its voice: one of those that stayed, or moved first, is lost.
    let (dead, ..) = group.kill_leader();
    let another = Daemon::start("worker2");
    let moved = group.running()[0];
    let second = join(&another, net.host(12), &before.worker, &group.swarm(moved));
    all_ready(&group.managers[moved], &[&id, &second]);
    group.restart(dead);
    all_know(&group, &[&worker, &another]);
    // And the addresses are for good.
    for n in 0..3 {
        group.managers[n].kill();
    }
    for n in 0..3 {
        group.managers[n].restart();
    }
    all_know(&group, &[&worker, &another]);
    group.agreed();
}

#[test]
fn managers_that_all_come_back_at_other_addresses_find_each_other_by_one_word_each() {
    require_or_skip!("swarmpki", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let before = Marks::of(&group.managers[0]);
    for n in 0..3 {
        group.managers[n].kill();
    }
    let taken: Vec<_> = (0..3)
        .map(|n| {
            wait::until("its address is free", SETTLED_WITHIN, || {
                TcpListener::bind(group.address(n)).map_err(|error| error.to_string())
            })
            .0
        })
        .collect();
    for n in 0..3 {
        group.managers[n].restart();
    }
    group.hosts = (21..24).map(|n| net.host(n)).collect();
    std::thread::scope(|scope| {
        for n in 0..3 {
            let (manager, to, other) = (&group.managers[n], group.swarm(n), group.swarm((n + 1) % 3));
            scope.spawn(move || {
                let body = json!({ "advertise_addr": to, "manager": other }).to_string();
                let answer = manager.api("POST", "/swarmpki/v1/address", Some(&body));
                // The last to be told may be told after its operator's patience has ended: it goes on trying.
                assert!(matches!(answer.status, 200 | 503), "{answer:?}");
            });
        }
    });
    all_know(&group, &[]);
    drop(taken);
    assert_eq!(Marks::of(&group.managers[0]), before);
    group.agreed();
}

#[test]
fn addresses_that_cannot_be_had_leave_a_manager_where_it_is() {
    require_or_skip!("swarmpki");
    let net = Loopback::claim();
    let group = Group::start(&net, 1);
    let taken = TcpListener::bind((net.host(9), 2377)).unwrap();
    let taken_at = net.host(9).to_string();
    let move_to = |args: &[&str]| group.managers[0].swarmpki(&[&["update", "--advertise-addr"], args].concat());
    let said = move_to(&[&taken_at]).refused();
    assert!(said.contains("keeps those it had") && said.contains("address already in use"), "{said}");
    let said = move_to(&["0.0.0.0"]).refused();
    assert!(said.contains("advertise address must be a non-zero IP address"), "{said}");
    let said = move_to(&[&taken_at, "--autolock"]).refused();
    assert!(said.contains("the --advertise-addr flag is for this node alone"), "{said}");
    all_know(&group, &[]);
    // Alone it tells itself.
    drop(taken);
    let said = move_to(&[&format!("{taken_at}:2378"), "--listen-addr", &format!("{taken_at}:2378")]).ok();
    assert_eq!(said, format!("The others find this node at {taken_at}:2378 now."));
    let node = &listed(&group.managers[0]).unwrap()[0];
    assert_eq!(node["ManagerStatus"]["Addr"], Value::from(format!("{taken_at}:2378")));
    let worker = Daemon::start("worker1");
    let marks = Marks::of(&group.managers[0]);
    let id = join(&worker, net.host(11), &marks.worker, &format!("{taken_at}:2378"));
    all_ready(&group.managers[0], &[&id]);
}
