//! Managers of ours whose network is cut, deaf on one side, flaps or loses: what goes on, what is refused, and what all show once it has
//! healed (issue 5, several managers; conformance D, J, N).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::time::Duration;

use swarmpki_conformance::group::{self, Group, SETTLED_WITHIN, Seen, listed};
use swarmpki_conformance::rotation::{Marks, all_follow, in_progress, rotated};
use swarmpki_conformance::swarm;
use testkit::daemon::Daemon;
use testkit::net::Net;
use testkit::{openssl, require_or_skip, wait};

/// Managers on the first hosts of a network, workers on the others.
struct Field {
    group: Group,
    workers: Vec<(Daemon, String)>,
    /// Every certificate that was received: serial and node.
    received: RefCell<Vec<(String, String)>>,
    next: u8,
    net: Net,
}

impl Field {
    fn start(managers: u8, workers: u8) -> Self {
        let net = Net::make(managers + workers + 3);
        let daemons = (1..=managers).map(|n| (net.daemon(n, &format!("manager{n}")), net.host(n))).collect();
        let group = Group::of(daemons);
        let mut field = Self { group, workers: Vec::new(), received: RefCell::default(), next: managers + 1, net };
        for n in 0..workers {
            field.join(usize::from(n) % field.group.managers.len());
        }
        field.note();
        field
    }

    /// One more worker joins through this manager.
    fn join(&mut self, through: usize) -> usize {
        let worker = self.net.daemon(self.next, &format!("worker{}", self.next));
        let token = group::token(&self.group.managers[through], "Worker");
        let id = group::join(&worker, self.net.host(self.next), &token, &self.group.swarm(through));
        self.next += 1;
        self.workers.push((worker, id));
        self.note();
        self.workers.len() - 1
    }

    /// A worker renews; through whichever manager it has its session with.
    fn renew(&self, worker: usize) {
        let (daemon, _) = &self.workers[worker];
        let serial = || openssl::serial(&daemon.certificates().chain());
        let before = serial();
        let answer = daemon.api("POST", "/swarmpki/v1/renew", Some("{}"));
        assert!(answer.status < 300, "{answer:?}");
        wait::until_true("the worker has renewed", SETTLED_WITHIN, || serial() != before);
        self.note();
    }

    /// Notes every certificate that there is now.
    fn note(&self) {
        let managers = self.group.managers.iter().zip(&self.group.ids);
        let all = managers.chain(self.workers.iter().map(|(worker, id)| (worker, id)));
        for (daemon, id) in all {
            let leaf = (openssl::serial(&daemon.certificates().chain()), id.clone());
            if !self.received.borrow().contains(&leaf) {
                self.received.borrow_mut().push(leaf);
            }
        }
    }

    fn hosts(these: &[usize]) -> Vec<u8> {
        these.iter().map(|n| u8::try_from(n + 1).unwrap()).collect()
    }

    /// All managers but these.
    fn but(&self, these: &[usize]) -> Vec<usize> {
        (0..self.group.managers.len()).filter(|n| !these.contains(n)).collect()
    }

    fn manager(&self, n: usize) -> &Daemon {
        &self.group.managers[n]
    }

    /// Waits until this manager refuses to say anything of the cluster, for want of a leader.
    fn refuses(&self, n: usize) {
        wait::until(&format!("{} has no leader", self.manager(n).name()), SETTLED_WITHIN, || {
            match listed(self.manager(n)) {
                Err(said) if said.contains("does not have a leader") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// Waits until those who hear each other have a leader, and these workers are ready there.
    fn goes_on(&self, majority: &[usize]) -> usize {
        let leader = self.group.leader_among(majority);
        let ids: Vec<_> = self.workers.iter().map(|(_, id)| id.as_str()).collect();
        swarmpki_conformance::all_ready(self.manager(leader), &ids);
        leader
    }

    /// The network heals: everything comes together again.
    fn healed(&self) -> Seen {
        self.net.heal();
        self.group.all_manage();
        let ids: Vec<_> = self.workers.iter().map(|(_, id)| id.as_str()).collect();
        self.group.all_ready(&ids);
        self.note();
        let seen = self.group.agreed();
        for (serial, id) in self.received.borrow().iter() {
            assert_eq!(seen.issued(serial), Some(id.as_str()), "an answered certificate is in the log");
        }
        seen
    }

    /// A node is removed and may not do a thing any more.
    fn remove(&mut self, through: usize, worker: usize) {
        let (daemon, id) = self.workers.remove(worker);
        let answer = self.manager(through).api("DELETE", &format!("/nodes/{id}?force=1"), None);
        assert_eq!(answer.status, 200, "{answer:?}");
        wait::until("the removed node knows it", SETTLED_WITHIN, || {
            let state = swarmpki_conformance::info(&daemon)["LocalNodeState"].clone();
            if state == "error" { Ok(()) } else { Err(state.to_string()) }
        });
    }
}

fn rotate_tokens(manager: &Daemon) {
    let swarm = swarm(manager);
    let path =
        format!("/swarm/update?version={}&rotateWorkerToken=true&rotateManagerToken=true", swarm["Version"]["Index"]);
    let answer = manager.api("POST", &path, Some(&swarm["Spec"].to_string()));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn rotate_root(manager: &Daemon) {
    let answer = manager.api("POST", "/swarmpki/v1/ca/rotate", Some("{}"));
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn c304_c372_the_leader_is_cut_off_and_the_others_join_renew_rotate_and_remove() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let mut field = Field::start(3, 3);
    let before = Marks::of(field.manager(0));
    let cut = field.group.leader();
    let others = field.but(&[cut]);
    field.net.cut(&Field::hosts(&[cut]), &Field::hosts(&others));
    field.refuses(cut);
    let leader = field.goes_on(&others);
    assert_ne!(leader, cut);
    let follower = *others.iter().find(|n| **n != leader).unwrap();
    // Nothing that the cut one is asked for is done.
    let refused = field.manager(cut).api("DELETE", &format!("/nodes/{}?force=1", field.workers[0].1), None);
    assert_eq!(refused.status, 500, "{refused:?}");
    field.join(follower);
    field.renew(0);
    rotate_root(field.manager(follower));
    assert!(in_progress(field.manager(leader)), "the cut one has not converted");
    field.renew(1);
    field.remove(follower, 2);
    assert_eq!(Marks::of(field.manager(leader)), before);
    field.net.heal();
    field.group.all_manage();
    let after = rotated(field.manager(cut), &before);
    let seen = field.healed();
    let ids: Vec<_> = field.group.ids.iter().cloned().chain(field.workers.iter().map(|(_, id)| id.clone())).collect();
    all_follow(field.manager(cut), &ids);
    assert_eq!(seen.swarm["TLSInfo"]["TrustRoot"], after.root);
    assert_eq!(seen.nodes.len(), 6, "three managers, three workers joined and one more, one removed");
}

#[test]
fn c372_a_follower_is_cut_off_and_its_nodes_go_to_the_others() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let mut field = Field::start(3, 3);
    let leader = field.group.leader();
    let cut = *field.but(&[leader]).first().unwrap();
    let others = field.but(&[cut]);
    field.net.cut(&Field::hosts(&[cut]), &Field::hosts(&others));
    field.refuses(cut);
    assert_eq!(field.goes_on(&others), leader, "nobody else comes to lead");
    rotate_tokens(field.manager(leader));
    let tokens = Marks::of(field.manager(leader));
    field.join(*others.last().unwrap());
    field.renew(0);
    field.healed();
    assert_eq!(field.group.leader(), leader, "who comes back takes the lead from nobody");
    assert_eq!(Marks::of(field.manager(cut)), tokens);
}

#[test]
fn c314_five_managers_of_which_three_hear_each_other() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let mut field = Field::start(5, 2);
    let leader = field.group.leader();
    let minority = vec![leader, field.but(&[leader])[0]];
    let majority = field.but(&minority);
    field.net.cut(&Field::hosts(&minority), &Field::hosts(&majority));
    for n in &minority {
        field.refuses(*n);
    }
    let next = field.goes_on(&majority);
    rotate_tokens(field.manager(next));
    field.join(majority[0]);
    field.renew(0);
    field.healed();
}

#[test]
fn several_managers_deaf_on_one_side() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let mut field = Field::start(3, 1);
    for leader_is_deaf in [true, false] {
        let leader = field.group.leader();
        let others = field.but(&[leader]);
        let (leader_host, other_hosts) = (Field::hosts(&[leader]), Field::hosts(&others));
        if leader_is_deaf {
            field.net.deafen(&leader_host, &other_hosts);
        } else {
            field.net.deafen(&other_hosts, &leader_host);
        }
        assert_ne!(field.goes_on(&others), leader);
        field.join(others[0]);
        field.healed();
    }
}

#[test]
fn several_managers_on_a_line_that_flaps() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let mut field = Field::start(3, 2);
    let (one, others) = (field.group.leader(), field.but(&[field.group.leader()]));
    std::thread::scope(|scope| {
        let net = &field.net;
        let flapping = scope.spawn(|| {
            for _ in 0..4 {
                // The times are what flaps.
                net.cut(&Field::hosts(&[one]), &Field::hosts(&others));
                std::thread::sleep(Duration::from_secs(1));
                net.heal();
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        field.renew(0);
        field.renew(1);
        flapping.join().unwrap();
    });
    field.healed();
    field.join(one);
    field.healed();
}

#[test]
fn several_managers_whose_packets_are_lost_and_late() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let mut field = Field::start(3, 2);
    let before = Marks::of(field.manager(0));
    field.net.lose(5);
    // Where the kernel has no such queue, what is lost comes late as well: it is sent again.
    let _delayed = field.net.delay(50);
    field.join(1);
    field.renew(0);
    rotate_root(field.manager(2));
    wait::until("the rotation ends", Duration::from_secs(60), || {
        match listed(field.manager(1)).map(|_| in_progress(field.manager(1))) {
            Ok(false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_ne!(Marks::of(field.manager(0)).root, before.root);
    let gone = field.workers.len() - 1;
    field.remove(0, gone);
    field.healed();
}

#[test]
fn c304_a_manager_whose_power_goes_before_the_leader_told_it_anything_goes_on_where_it_was() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let mut field = Field::start(3, 0);
    let leader = field.group.leader();
    let through = field.but(&[leader])[0];
    let host = field.next;
    let mut newcomer = field.net.daemon(host, "newcomer");
    let address = field.net.host(host);
    // It gets its place from one who is not the leader, whom it does not hear.
    field.net.cut(&[host], &Field::hosts(&[leader]));
    let token = group::token(field.manager(through), "Manager");
    let (swarm, socket) = (field.group.swarm(through), newcomer.socket());
    let joining = std::thread::spawn(move || {
        let listen = format!("{address}:2377");
        let body = serde_json::json!({ "ListenAddr": listen, "AdvertiseAddr": listen, "JoinToken": token, "RemoteAddrs": [swarm] });
        testkit::http::request(&socket, "POST", "/swarm/join", Some(&body.to_string()))
    });
    let header = newcomer.state().join("raft/header");
    wait::until_true("the newcomer has its place", SETTLED_WITHIN, || header.exists());
    newcomer.kill();
    // Its caller is told nothing.
    let _ = joining.join().unwrap();
    field.net.heal();
    newcomer.restart();
    let before = std::fs::read(&header).unwrap();
    let (id, _) = wait::until("the newcomer knows who it is", SETTLED_WITHIN, || {
        let id = swarmpki_conformance::node_id(&newcomer);
        if id.is_empty() { Err("nobody".to_owned()) } else { Ok(id) }
    });
    field.group.managers.push(newcomer);
    field.group.hosts.push(address);
    field.group.ids.push(id);
    field.group.all_manage();
    assert_eq!(std::fs::read(&header).unwrap(), before, "it is the same store, with the same place");
    field.healed();
}
