//! Who may call what: every method by every kind of caller, against a table written out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::State;
use cluster::authorize::{Caller, Denial, Grant, Method, Presented, Quarantine, Standing};
use cluster::command::Command;
use cluster::node::Leaf;
use pki::identity::Role;
use pki::time::Time;
use support::{Cluster, HOUR, LIFE, cluster_id, id, issuer, serial, spki};

const MILLI: Duration = Duration::from_millis(1);

fn presented(n: u64, leaf: &Leaf) -> Presented {
    Presented {
        cluster: cluster_id(),
        role: leaf.role,
        node: id(n),
        serial: leaf.serial,
        spki: leaf.spki,
        issuer: leaf.issuer,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    }
}

/// What a caller gets for a method: a letter of the table below.
fn letter(result: &Result<Grant, Denial>) -> char {
    match result {
        Ok(Grant::Anybody) => 'a',
        Ok(Grant::Node(Role::Worker)) => 'w',
        Ok(Grant::Node(Role::Manager)) => 'm',
        Ok(Grant::Returning(_)) => 'r',
        Err(Denial::NoCertificate) => 'N',
        Err(Denial::Role { workers_too: false }) => 'R',
        Err(Denial::Role { workers_too: true }) => '?',
        Err(Denial::Removed(_)) => 'X',
        Err(Denial::Organization(_)) => 'O',
        Err(Denial::Unregistered(_)) => 'U',
        Err(Denial::Cut(_)) => 'C',
        Err(Denial::Expired(_)) => 'E',
        Err(Denial::Quarantined(..)) => 'Q',
        Err(Denial::Forwarder(_)) => 'F',
        Err(Denial::ForwardedIncomplete) => 'I',
        Err(Denial::ForwardedRole { .. }) => 'P',
        Err(Denial::ForwardedOrganization) => 'G',
        Err(Denial::ForwardedRemoved(_)) => 'x',
        Err(Denial::Revoked(_)) => 'V',
        Err(Denial::ForwardedRevoked(_)) => 'v',
    }
}

fn row(state: &State, caller: Caller<'_>, now: Time) -> String {
    Method::ALL.iter().map(|method| letter(&state.authorize(caller, *method, now))).collect()
}

/// Changes a record as no command does.
fn edit(cluster: &mut Cluster, n: u64, edit: impl FnOnce(&mut cluster::node::Node)) {
    let mut node = cluster.node(n).clone();
    edit(&mut node);
    cluster.state.nodes.insert(id(n), Arc::new(node));
}

/// A cluster with the manager 0, and workers 1 to 3.
fn fleet() -> Cluster {
    let mut cluster = Cluster::new();
    for n in 1..=3 {
        cluster.join(n);
    }
    cluster
}

fn current(cluster: &Cluster, n: u64) -> Presented {
    presented(n, cluster.node(n).current.as_ref().unwrap())
}

#[test]
fn c148_to_c156_every_method_by_every_caller() {
    let mut cluster = fleet();
    let now = cluster.now;
    let worker = current(&cluster, 1);
    let manager = current(&cluster, 0);
    let admitted = Standing::Admitted { cut: 0, unproven: false };
    let returning = Standing::Quarantined { cut: 0, reason: Quarantine::Expired };
    let older = Standing::Admitted { cut: 7, unproven: false };
    let older_returning = Standing::Quarantined { cut: 7, reason: Quarantine::Expired };
    let removed = current(&cluster, 3);
    cluster.remove(3);
    let mut ended = worker.clone();
    ended.not_after = now.saturating_sub(MILLI);
    let forgotten = Presented { node: id(50), ..worker.clone() };
    let forgotten_manager = Presented { node: id(50), ..manager.clone() };
    // The worker's certificate over a record that says manager, and the other way round.
    let promoted = current(&cluster, 2);
    cluster.promote(2);
    cluster.join(4);
    let demoted = Presented { role: Role::Manager, ..current(&cluster, 4) };
    let forged = Presented { serial: serial(900), ..manager.clone() };
    let foreign = Presented { cluster: "other".parse().unwrap(), ..manager.clone() };
    // On the way to a manager, and back.
    (5..=8).for_each(|n| drop(cluster.join(n)));
    let wished_worker = current(&cluster, 5);
    cluster.run(cluster.wish(5, Role::Manager));
    let wished = presented(5, &cluster.renew(5).leaf);
    cluster.run(cluster.wish(6, Role::Manager));
    cluster.enlist(6);
    let enlisted = current(&cluster, 6);
    cluster.promote(7);
    cluster.run(cluster.wish(7, Role::Worker));
    let leaving = current(&cluster, 7);
    cluster.promote(8);
    let left = current(&cluster, 8);
    cluster.run(cluster.wish(8, Role::Worker));
    cluster.unseat(8);
    let since = Standing::Admitted { cut: 1, unproven: false };

    use Standing::{Foreign, Removed, Unregistered};
    let identified = Caller::Identified;
    #[rustfmt::skip]
    let rows = [
        //                                          GetRootCACertificate
        //                                          |GetUnlockKey
        //                                          ||IssueNodeCertificate
        //                                          |||NodeCertificateStatus
        //                                          ||||Session
        //                                          |||||Heartbeat
        //                                          ||||||Assignments
        //                                          |||||||Tasks
        //                                          ||||||||UpdateTaskStatus
        //                                          |||||||||UpdateVolumeStatus
        //                                          ||||||||||ListenSubscriptions
        //                                          |||||||||||PublishLogs
        //                                          ||||||||||||AttachNetwork
        //                                          |||||||||||||DetachNetwork
        //                                          ||||||||||||||Health.Check
        //                                          |||||||||||||||RaftMembership.Join, Leave
        //                                          |||||||||||||||||Raft
        //                                          ||||||||||||||||||Control
        //                                          |||||||||||||||||||Clock
        //                                          ||||||||||||||||||||Node.News
        //                                          |||||||||||||||||||||Managers.Enlist
        //                                          ||||||||||||||||||||||Managers
        ("c148 c149 nobody",                       "aNaaNNNNNNNNNNNNNNNaNNN", Caller::Anonymous),
        ("c151 worker",                            "wRwwwwwwwwwwwwRRRRRwwRR", identified(&worker, &admitted)),
        ("c152 manager",                           "mmmmmmmmmmmmmmmmmmmmmmm", identified(&manager, &admitted)),
        ("worker, record says manager",            "wRwwwwwwwwwwwwRRRRRwwRR", identified(&promoted, &admitted)),
        ("manager, record says worker",            "wRwwwwwwwwwwwwRRRRRwwRR", identified(&demoted, &admitted)),
        ("O5 quarantined worker",                  "rRrrrrrrrQrQQQRRRRRrrRR", identified(&worker, &returning)),
        ("O5 quarantined manager",                 "rQrrrrrrrQrQQQQQQQQrrQm", identified(&manager, &returning)),
        ("worker whose connections were cut",      "aRaaCCCCCCCCCCRRRRRaCRR", identified(&worker, &older)),
        ("quarantined, connections were cut",      "aRaaCCCCCCCCCCRRRRRaCRR", identified(&worker, &older_returning)),
        ("manager whose connections were cut",     "aCaaCCCCCCCCCCCCCCCaCCm", identified(&manager, &older)),
        ("leaf ended while connected",             "aRaaEEEEEEEEEERRRRRaERR", identified(&ended, &admitted)),
        ("c153 c154 c156 removed before",          "aRaaXXXXXXXXXXRRRRRaXRR", identified(&removed, &Removed)),
        ("c153 removed while connected",           "aRaaXXXXXXXXXXRRRRRaXRR", identified(&removed, &admitted)),
        ("removed while quarantined",              "aRaaXXXXXXXXXXRRRRRaXRR", identified(&removed, &returning)),
        ("O4 unregistered leaf of a live worker",  "aRaaUUUUUUUUUURRRRRaURR", identified(&worker, &Unregistered)),
        ("O4 unregistered leaf of a live manager", "aUaaUUUUUUUUUUUUUUUaUUU", identified(&forged, &Unregistered)),
        ("unregistered leaf of nobody",            "aRaaUUUUUUUUUURRRRRaURR", identified(&forgotten, &Unregistered)),
        ("unregistered manager's leaf of nobody",  "aUaaUUUUUUUUUUUUUUUaUUU", identified(&forgotten_manager, &Unregistered)),
        ("record gone, no removal on record",      "aRaaCCCCCCCCCCRRRRRaCRR", identified(&forgotten, &admitted)),
        ("c150 foreign worker",                    "aRaaOOOOOOOOOORRRRRaORR", identified(&worker, &Foreign)),
        ("c150 foreign manager",                   "aOaaOOOOOOOOOOOOOOOaOOO", identified(&foreign, &Foreign)),
        ("to be a manager, worker's certificate",   "wRwwwwwwwwwwwwRRRRRwwRR", identified(&wished_worker, &admitted)),
        ("to be a manager, manager's certificate",  "wwwwwwwwwwwwwwRRRRRwwwR", identified(&wished, &admitted)),
        ("to be a manager, quarantined",            "rQrrrrrrrQrQQQQQQQQrrQR", identified(&wished, &returning)),
        ("to be a manager, has a place",            "wwwwwwwwwwwwwwRRRRRwwwm", identified(&enlisted, &admitted)),
        ("a manager that is to be none",            "mmmmmmmmmmmmmmmmmmmmmmm", identified(&leaving, &admitted)),
        ("a manager that is none any more",         "aCaaCCCCCCCCCCCCCCCaCCC", identified(&left, &admitted)),
        ("the same, on a connection since",         "wRwwwwwwwwwwwwRRRRRwwRR", identified(&left, &since)),
    ];
    for (name, expected, caller) in rows {
        assert_eq!(row(&cluster.state, caller, now), expected, "{name}");
    }
}

#[test]
fn who_is_not_known_has_no_more_rights_than_nobody() {
    let cluster = fleet();
    let worker = current(&cluster, 1);
    let manager = current(&cluster, 0);
    for standing in [Standing::Foreign, Standing::Removed, Standing::Unregistered] {
        for leaf in [&worker, &manager] {
            // Members of the group are known by their record, whatever their standing.
            for method in Method::ALL.into_iter().filter(|method| *method != Method::Managers) {
                let known = cluster.state.authorize(Caller::Identified(leaf, &standing), method, cluster.now);
                let nobody = cluster.state.authorize(Caller::Anonymous, method, cluster.now);
                assert_eq!(known.is_ok(), nobody.is_ok(), "{method:?} {standing:?}");
                assert_eq!(known.ok(), nobody.ok(), "{method:?} {standing:?}");
            }
        }
    }
}

#[test]
fn members_whose_certificates_have_ended_speak_to_each_other() {
    let mut cluster = fleet();
    cluster.promote(1);
    cluster.later(400 * 24 * HOUR);
    let (member, worker) = (current(&cluster, 1), current(&cluster, 2));
    // A member may renew its certificate, too: without it nobody could.
    let renews = Standing::Quarantined { cut: 0, reason: Quarantine::Expired };
    let rows = [(&member, renews, Ok(Grant::Node(Role::Manager))), (&worker, Standing::Unregistered, Err('R'))];
    for (leaf, expected, granted) in rows {
        let standing = cluster.state.standing(leaf, cluster.now);
        assert_eq!(standing, expected);
        let said = cluster.state.authorize(Caller::Identified(leaf, &standing), Method::Managers, cluster.now);
        assert_eq!(said.as_ref().ok(), granted.as_ref().ok());
        assert!(granted.is_ok() || letter(&said) == 'R');
    }
    let forwarder = presented(0, cluster.node(0).current.as_ref().unwrap());
    let origin = cluster::authorize::Origin {
        node: id(1).to_string(),
        organization: cluster_id().to_string(),
        units: vec!["swarm-manager".to_owned()],
        addr: None,
    };
    let admitted = Standing::Admitted { cut: 0, unproven: false };
    let by = Caller::Forwarded { by: Some((&forwarder, &admitted)), origin: &origin };
    for method in [Method::Managers, Method::Enlist] {
        let said = cluster.state.authorize(by, method, support::START);
        assert_eq!(letter(&said), 'P', "nobody speaks for a member: {method:?}");
    }
}

#[test]
fn c150_the_refusal_names_our_organization() {
    let cluster = fleet();
    let leaf = current(&cluster, 1);
    let denial = cluster.state.authorize(Caller::Identified(&leaf, &Standing::Foreign), Method::Heartbeat, cluster.now);
    assert_eq!(denial, Err(Denial::Organization(cluster_id())));
}

#[test]
fn standing_follows_the_registered_leaves() {
    let mut cluster = fleet();
    let admitted = |unproven| Standing::Admitted { cut: 0, unproven };
    let quarantined = |reason| Standing::Quarantined { cut: 0, reason };
    let state = |cluster: &Cluster, leaf: &Presented| cluster.state.standing(leaf, cluster.now);

    let first = current(&cluster, 1);
    assert_eq!(state(&cluster, &first), admitted(false));
    let offered = cluster.renew(1);
    let second = presented(1, &offered.leaf);
    assert_eq!(state(&cluster, &first), admitted(false), "an ordinary renewal cuts nothing");
    assert_eq!(state(&cluster, &second), admitted(true));
    cluster.confirm(1, &offered);
    assert_eq!(state(&cluster, &second), admitted(false));
    assert_eq!(state(&cluster, &first), quarantined(Quarantine::Replaced));
    cluster.later(24 * HOUR);
    assert_eq!(state(&cluster, &first), Standing::Unregistered, "forgotten after a day");

    type Twist = fn(&mut Presented);
    let rows: [(&str, Twist, Standing); 7] = [
        ("another cluster", |leaf| leaf.cluster = "other".parse().unwrap(), Standing::Foreign),
        ("another serial", |leaf| leaf.serial = serial(900), Standing::Unregistered),
        ("another key", |leaf| leaf.spki = spki(900), Standing::Unregistered),
        ("another issuer", |leaf| leaf.issuer = issuer(9), Standing::Unregistered),
        ("another role", |leaf| leaf.role = Role::Manager, Standing::Unregistered),
        ("another node's", |leaf| leaf.node = id(2), Standing::Unregistered),
        ("of nobody", |leaf| leaf.node = id(900), Standing::Unregistered),
    ];
    for (name, twist, expected) in rows {
        let mut leaf = second.clone();
        twist(&mut leaf);
        assert_eq!(state(&cluster, &leaf), expected, "{name}");
    }
    cluster.remove(1);
    assert_eq!(state(&cluster, &second), Standing::Removed);
    let mut forged = second.clone();
    forged.serial = serial(901);
    assert_eq!(state(&cluster, &forged), Standing::Removed, "a removed id is told so, whatever leaf it brings");
    assert_eq!(State::empty().standing(&second, cluster.now), Standing::Foreign, "no cluster, no organization");
}

#[test]
fn o3_a_leaf_that_has_ended_is_forgiven_for_one_leaf_life() {
    for proven in [true, false] {
        let mut cluster = fleet();
        let leaf = if proven { cluster.node(1).current.clone().unwrap() } else { cluster.renew(1).leaf.clone() };
        let caller = presented(1, &leaf);
        let at = |time: Time| cluster.state.standing(&caller, time);
        assert_eq!(at(leaf.not_after), Standing::Admitted { cut: 0, unproven: !proven });
        let expired = Standing::Quarantined { cut: 0, reason: Quarantine::Expired };
        assert_eq!(at(leaf.not_after.saturating_add(MILLI)), expired);
        assert_eq!(at(leaf.not_after.saturating_add(LIFE + HOUR - MILLI)), expired);
        assert_eq!(at(leaf.not_after.saturating_add(LIFE + HOUR)), Standing::Unregistered);
    }
}

#[test]
fn a_replaced_leaf_that_has_ended_is_not_forgiven() {
    let mut cluster = fleet();
    let mut short = cluster.renewal(1);
    Arc::make_mut(&mut short.letter).leaf.not_after = cluster.now.saturating_add(HOUR);
    cluster.run(Command::Renew(Box::new(short.clone())));
    cluster.confirm(1, &short.letter);
    let next = cluster.renew(1);
    cluster.confirm(1, &next);
    let caller = presented(1, &short.letter.leaf);
    cluster.later(HOUR - MILLI);
    let replaced = Standing::Quarantined { cut: 0, reason: Quarantine::Replaced };
    assert_eq!(cluster.state.standing(&caller, cluster.now), replaced);
    cluster.later(2 * MILLI);
    assert_eq!(cluster.state.standing(&caller, cluster.now), Standing::Unregistered);
}

#[test]
fn a_leaf_of_a_retired_issuer_is_quarantined() {
    let mut cluster = fleet();
    edit(&mut cluster, 1, |node| node.current.as_mut().unwrap().issuer = issuer(9));
    let caller = current(&cluster, 1);
    let retired = Standing::Quarantined { cut: 0, reason: Quarantine::RetiredIssuer };
    assert_eq!(cluster.state.standing(&caller, cluster.now), retired);
}

#[test]
fn a_raised_cut_ends_what_was_let_in_before() {
    let mut cluster = fleet();
    let caller = current(&cluster, 1);
    let standing = cluster.state.standing(&caller, cluster.now);
    edit(&mut cluster, 1, |node| node.cut += 1);
    let call = |state: &State, standing: &Standing| {
        state.authorize(Caller::Identified(&caller, standing), Method::Heartbeat, support::START)
    };
    assert_eq!(call(&cluster.state, &standing), Err(Denial::Cut(id(1))));
    let again = cluster.state.standing(&caller, cluster.now);
    assert_eq!(call(&cluster.state, &again), Ok(Grant::Node(Role::Worker)));
}

#[test]
fn c153_a_removal_whose_row_has_ended_is_still_refused() {
    let mut cluster = fleet();
    let caller = current(&cluster, 1);
    let standing = cluster.state.standing(&caller, cluster.now);
    cluster.remove(1);
    cluster.later(LIFE + MILLI);
    cluster.collect();
    assert!(cluster.state.removals.is_empty());
    assert_eq!(cluster.state.standing(&caller, cluster.now), Standing::Unregistered);
    for standing in [standing, Standing::Removed, Standing::Unregistered] {
        for method in Method::ALL {
            let granted = cluster.state.authorize(Caller::Identified(&caller, &standing), method, cluster.now);
            assert!(!matches!(granted, Ok(Grant::Node(_) | Grant::Returning(_))), "{method:?} {standing:?}");
        }
    }
}

#[test]
fn all_methods_are_listed_once() {
    let mut methods = Method::ALL.to_vec();
    methods.dedup();
    assert!(methods.is_sorted() && methods.len() == Method::ALL.len());
}
