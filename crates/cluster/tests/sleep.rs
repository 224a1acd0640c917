//! A cluster that was off for longer than its certificates live: who may come back, for how long, and who may not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::time::Duration;

use cluster::State;
use cluster::authorize::{Caller, Grant, Method, Presented, Quarantine, Standing};
use cluster::command::Command;
use cluster::node::{Leaf, UNFINISHED_LIFE};
use cluster::outcome::Outcome;
use cluster::sleep::{COMEBACK_MIN, Comeback};
use pki::identity::Role;
use support::{Cluster, DAY, HOUR, LIFE, cluster_id, id, serial, spki};

const LONG: Duration = Duration::from_secs(400 * 24 * 60 * 60);
const SECOND: Duration = Duration::from_secs(1);

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

fn current(cluster: &Cluster, n: u64) -> Presented {
    presented(n, cluster.node(n).current.as_ref().unwrap())
}

fn standing(cluster: &Cluster, leaf: &Presented) -> Standing {
    cluster.state.standing(leaf, cluster.now)
}

fn comes_back(cluster: &Cluster, leaf: &Presented) -> bool {
    matches!(standing(cluster, leaf), Standing::Quarantined { reason: Quarantine::Expired, .. })
}

/// Something is committed, and changes nothing by itself.
fn tick(cluster: &mut Cluster) {
    assert_eq!(cluster.run(Command::Confirm { node: id(0), serial: serial(999_999) }), Outcome::Unchanged);
}

/// Managers 0, 1 and 2, workers 3 and 4, worker 5 removed.
fn fleet() -> (Cluster, Presented) {
    let mut cluster = Cluster::new();
    (1..=5).for_each(|n| drop(cluster.join(n)));
    cluster.promote(1);
    cluster.promote(2);
    let removed = current(&cluster, 5);
    cluster.remove(5);
    (cluster, removed)
}

#[test]
fn members_come_back_always_and_nodes_once_an_entry_has_shown_that_all_slept() {
    let (mut cluster, removed) = fleet();
    cluster.later(LONG);
    let [manager, worker] = [2, 3].map(|n| current(&cluster, n));
    // Before anything is committed, only members: without them nothing could be.
    assert!(comes_back(&cluster, &manager));
    assert_eq!(standing(&cluster, &worker), Standing::Unregistered);
    assert_eq!(standing(&cluster, &removed), Standing::Removed);
    let renewed = cluster.renew(2);
    cluster.confirm(2, &renewed);
    assert!(comes_back(&cluster, &worker), "the first entry shows it");
    let may = |method| {
        let standing = standing(&cluster, &worker);
        cluster.state.authorize(Caller::Identified(&worker, &standing), method, cluster.now)
    };
    assert_eq!(may(Method::IssueNodeCertificate), Ok(Grant::Returning(Role::Worker)));
    assert_eq!(may(Method::Session), Ok(Grant::Returning(Role::Worker)));
    may(Method::PublishLogs).unwrap_err();
    // Who was removed stays out, with and without the row that says so.
    assert_eq!(standing(&cluster, &removed), Standing::Removed);
    cluster.collect();
    assert_eq!(standing(&cluster, &removed), Standing::Unregistered);
    // Neither another key nor a leaf that was replaced before opens anything.
    let forged = Presented { spki: spki(77), ..worker.clone() };
    assert_eq!(standing(&cluster, &forged), Standing::Unregistered);
    let fresh = cluster.renew(3);
    cluster.confirm(3, &fresh);
    assert_eq!(standing(&cluster, &worker), Standing::Unregistered, "it has another leaf since");
    assert!(matches!(standing(&cluster, &current(&cluster, 3)), Standing::Admitted { .. }));
}

#[test]
fn the_time_for_coming_back_ends_and_is_not_given_twice() {
    let (mut cluster, _) = fleet();
    cluster.later(LONG);
    let woken = cluster.now;
    tick(&mut cluster);
    assert_eq!(cluster.state.comeback, Some(Comeback { since: woken, until: woken.saturating_add(LIFE) }));
    let worker = current(&cluster, 3);
    // Managers renew all along; the cluster does not sleep again.
    for _ in 0..3 {
        for n in 0..3 {
            let letter = cluster.renew(n);
            cluster.confirm(n, &letter);
        }
        assert!(comes_back(&cluster, &worker));
        cluster.later(LIFE / 3);
    }
    tick(&mut cluster);
    assert_eq!(standing(&cluster, &worker), Standing::Unregistered, "its time is over");
    assert_eq!(cluster.state.comeback.unwrap().since, woken);
}

#[test]
fn a_cluster_that_was_on_gives_nobody_more_than_one_leaf_life() {
    let (mut cluster, _) = fleet();
    let worker = current(&cluster, 3);
    for _ in 0..6 {
        cluster.later(LIFE / 2);
        // One manager that renews is enough: others may be gone for good.
        let letter = cluster.renew(1);
        cluster.confirm(1, &letter);
    }
    assert_eq!(cluster.state.comeback, None);
    assert_eq!(standing(&cluster, &worker), Standing::Unregistered);
    assert!(comes_back(&cluster, &current(&cluster, 0)), "a member, gone for longer than that");
}

#[test]
fn short_lives_leave_a_day() {
    let mut cluster = Cluster::new();
    let settings = cluster::settings::Settings { node_cert_expiry: HOUR, ..cluster::settings::Settings::default() };
    cluster.state.settings = std::sync::Arc::new(settings);
    cluster.later(LONG);
    tick(&mut cluster);
    let Comeback { since, until } = cluster.state.comeback.unwrap();
    assert_eq!(until.since(since), COMEBACK_MIN);
}

#[test]
fn a_clock_that_was_set_ahead_by_mistake_opens_nothing_once_it_is_right() {
    let (mut cluster, _) = fleet();
    let right = cluster.now;
    cluster.later(LONG);
    tick(&mut cluster);
    assert!(cluster.state.comes_back(cluster.now));
    assert!(cluster.state.comes_back(cluster.now.saturating_sub(HOUR)), "clocks differ a little");
    assert!(!cluster.state.comes_back(right.saturating_add(2 * LIFE)));
}

#[test]
fn what_a_node_was_offered_before_is_kept_until_its_time_is_over() {
    let (mut cluster, _) = fleet();
    // The certificate reached the disk of node 3, which then lost its power.
    let offered = cluster.renew(3);
    let leaf = presented(3, &offered.leaf);
    let unfinished = cluster.admission(9);
    cluster.run(Command::Admit(Box::new(unfinished)));
    cluster.later(LONG);
    tick(&mut cluster);
    cluster.collect();
    assert!(comes_back(&cluster, &leaf));
    assert!(
        cluster.state.node(&id(9)).is_none(),
        "a join never finished is given up all the same: {UNFINISHED_LIFE:?}"
    );
    assert!(cluster.state.collectable(cluster.now).is_empty(), "nothing is named again and again");
    for wait in [LIFE / 2, LIFE / 2 - DAY] {
        let letter = cluster.renew(0);
        cluster.confirm(0, &letter);
        cluster.later(wait);
    }
    cluster.collect();
    assert!(comes_back(&cluster, &leaf));
    cluster.later(DAY + SECOND);
    cluster.collect();
    assert_eq!(standing(&cluster, &leaf), Standing::Unregistered);
    assert!(cluster.node(3).offered.is_empty());
}

#[test]
fn it_is_kept_over_a_restart() {
    let (mut cluster, _) = fleet();
    cluster.later(LONG);
    tick(&mut cluster);
    let read = State::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert_eq!(read.comeback, cluster.state.comeback);
    assert!(read.comeback.is_some());
}
