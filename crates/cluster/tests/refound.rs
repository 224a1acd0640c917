//! A cluster made anew with one manager: by force, and from a backup.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::authorize::{Caller, Denial, Grant, Method, Presented, Quarantine, Standing};
use cluster::command::{Command, Founder, Refound};
use cluster::node::Leaf;
use cluster::outcome::{Outcome, Rejection};
use cluster::refound::Refounded;
use pki::identity::Role;
use support::{Cluster, DAY, HOUR, LIFE, cluster_id, id};

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

/// Three managers (0, 1, 2), a worker (3), one that is becoming a manager (4), and one that wants to (5).
fn managed() -> Cluster {
    let mut cluster = Cluster::new();
    (1..=5).for_each(|n| drop(cluster.join(n)));
    cluster.promote(1);
    cluster.promote(2);
    cluster.run(cluster.wish(4, Role::Manager));
    cluster.enlist(4);
    cluster.run(cluster.wish(5, Role::Manager));
    cluster
}

#[test]
fn one_manager_goes_on_alone_with_everything_there_was() {
    let mut cluster = managed();
    cluster.later(HOUR);
    let before = cluster.state.clone();
    let forced = cluster.force(1);
    assert_eq!(cluster.run(forced.clone()), Outcome::Enlisted { raft_id: 2 }, "it keeps its number");
    let after = &cluster.state;
    assert_eq!(
        (after.epoch(), after.refounded.clone()),
        (1, Some(Refounded { at: cluster.now, backup: None, outlived: [0, 2, 4].map(id).into_iter().collect() }))
    );
    assert_eq!(after.members().keys().collect::<Vec<_>>(), [&id(1)]);
    assert_eq!(after.members.next_raft_id, before.members.next_raft_id);
    assert_eq!(after.members.key_holders, before.members.key_holders, "they held the key all the same");
    for n in [0, 2, 4, 5] {
        let (node, was) = (cluster.node(n), before.node(&id(n)).unwrap());
        assert_eq!((node.role, node.spec.role, node.promoting), (Role::Worker, Role::Worker, None), "{n}");
        assert_eq!((node.cut, node.current.as_ref()), (was.cut + 1, was.current.as_ref()), "{n}");
    }
    assert_eq!(cluster.node(3), before.node(&id(3)).unwrap().as_ref(), "a worker notices nothing");
    assert_eq!(cluster.node(1).cut, before.node(&id(1)).unwrap().cut);
    assert_eq!(after.cluster, before.cluster);
    assert_eq!(format!("{:?}", after.roots), format!("{:?}", before.roots));
    assert_eq!(after.settings, before.settings);
    for (row, was) in after.tokens.rows.iter().zip(&before.tokens.rows) {
        assert_eq!((row.secret.expose(), row.generation), (was.secret.expose(), was.generation));
    }
    let old = presented(2, before.node(&id(2)).unwrap().current.as_ref().unwrap());
    assert_eq!((before.peer(&old).is_some(), after.peer(&old)), (true, None), "no member any more");
    assert!(matches!(after.standing(&old, cluster.now), Standing::Admitted { .. }), "its leaf is what it was");
    let standing = after.standing(&old, cluster.now);
    let session = after.authorize(Caller::Identified(&old, &standing), Method::Session, cluster.now);
    assert_eq!(session, Err(Denial::Cut(id(2))), "it is told to leave, and not made to forget");
    assert!(after.was_manager(&old, cluster.now) && !before.was_manager(&old, cluster.now));
    for (n, was) in [(1, false), (3, false), (9, false)] {
        let leaf = before
            .node(&id(n))
            .and_then(|node| node.current.clone())
            .unwrap_or_else(|| support::letter(9, 9, Role::Manager, cluster.now, LIFE).leaf);
        assert_eq!(after.was_manager(&presented(n, &leaf), cluster.now), was, "{n}");
    }
    cluster.refused(forced, Rejection::Epoch);
    assert_eq!(cluster.promote(3), 5, "numbers are never given again");
}

#[test]
fn who_was_to_be_a_manager_and_had_no_place_yet_goes_on_as_a_worker() {
    let mut cluster = managed();
    let worker = cluster.node(5).current.clone().unwrap();
    // It has its manager's certificate already, and shows it.
    let manager = cluster.renew(5).leaf.clone();
    cluster.run(cluster.force(1));
    let after = &cluster.state;
    for (leaf, role) in [(&worker, Role::Worker), (&manager, Role::Manager)] {
        let leaf = presented(5, leaf);
        assert_eq!(leaf.role, role);
        let standing = after.standing(&leaf, cluster.now);
        let may = |method| after.authorize(Caller::Identified(&leaf, &standing), method, cluster.now);
        assert_eq!(may(Method::Session), Ok(Grant::Node(Role::Worker)), "{role:?}");
        assert!(may(Method::Enlist).is_err() && may(Method::GetUnlockKey).is_err(), "{role:?}");
        assert!(!after.was_manager(&leaf, cluster.now), "nobody tells it to leave");
        let before = Standing::Admitted { cut: cluster.node(5).cut - 1, unproven: false };
        let old = after.authorize(Caller::Identified(&leaf, &before), Method::Session, cluster.now);
        assert_eq!(old, Err(Denial::Cut(id(5))), "what it was connected as is over");
    }
    assert_eq!(after.node(&id(5)).unwrap().signed_role(), Role::Worker, "that is what it is renewed as");
}

#[test]
fn who_is_no_manager_makes_no_cluster_anew() {
    for n in [3, 4, 5] {
        let mut cluster = managed();
        let forced = cluster.force(n);
        cluster.refused(forced, Rejection::NotSeated);
    }
    let mut cluster = managed();
    let founder = Founder::Manager(id(9));
    cluster
        .refused(Command::Refound(Box::new(Refound { epoch: 1, addr: String::new(), founder })), Rejection::NotSeated);
}

#[test]
fn a_restored_cluster_has_fresh_secrets_and_the_old_nodes() {
    let mut cluster = managed();
    let before = cluster.state.clone();
    cluster.later(3 * DAY);
    let restoring = cluster.restoring(7, vec![id(3), id(8)]);
    assert_eq!(cluster.run(restoring.clone()), Outcome::Enlisted { raft_id: before.members.next_raft_id });
    let after = &cluster.state;
    assert_eq!(after.members().keys().collect::<Vec<_>>(), [&id(7)]);
    assert!(after.members.key_holders.contains(&id(7)));
    assert!(after.nodes.values().all(|node| (node.role == Role::Manager) == (node.id == id(7))));
    assert_eq!((cluster.node(7).role, cluster.node(7).spec.role), (Role::Manager, Role::Manager));
    for (row, was) in after.tokens.rows.iter().zip(&before.tokens.rows) {
        assert!(row.secret.expose() != was.secret.expose() && row.generation == was.generation + 1);
    }
    let outlived = [0, 1, 2, 4, 5].map(id).into_iter().collect();
    assert_eq!(after.refounded, Some(Refounded { at: cluster.now, backup: Some(before.time), outlived }));
    for (n, registered) in [(3, true), (8, false)] {
        assert!(
            after.node(&id(n)).is_none() && after.removals.contains_key(&id(n)),
            "{n} is removed, known {registered}"
        );
    }
    let leaf = before.node(&id(3)).unwrap().current.clone().unwrap();
    assert_eq!(after.standing(&presented(3, &leaf), cluster.now), Standing::Removed);
    cluster.refused(restoring, Rejection::Epoch);
}

#[test]
fn what_a_restore_brings_has_to_fit() {
    let founded = |cluster: &mut Cluster, edit: &dyn Fn(&mut cluster::command::Restored)| {
        let Command::Refound(mut refound) = cluster.restoring(7, Vec::new()) else { panic!("not a restore") };
        let Founder::Restored(restored) = &mut refound.founder else { panic!("not a restore") };
        edit(restored);
        Command::Refound(refound)
    };
    let mut cluster = managed();
    let wrong = founded(&mut cluster, &|restored| restored.letter.leaf.issuer = support::issuer(9));
    cluster.refused(wrong, Rejection::Issuer);
    let wrong = founded(&mut cluster, &|restored| restored.letter.leaf.role = Role::Worker);
    cluster.refused(wrong, Rejection::Role);
    let wrong = founded(&mut cluster, &|restored| restored.node = id(3));
    cluster.refused(wrong, Rejection::IdTaken);
    cluster.remove(3);
    let wrong = founded(&mut cluster, &|restored| restored.node = id(3));
    cluster.refused(wrong, Rejection::IdTaken);
    let mut locked = Cluster { state: support::locked(), ..Cluster::new() };
    locked.now = locked.state.time;
    let wrong = founded(&mut locked, &|_| {});
    locked.refused(wrong, Rejection::Way);
}

#[test]
fn leaves_issued_after_the_backup_let_their_holders_come_back_for_one_leaf_life() {
    let mut cluster = managed();
    cluster.later(HOUR);
    let mut lost = cluster.clone();
    lost.later(DAY);
    // After the backup: a renewal that is used, and a join.
    let renewed = Arc::clone(&lost.renew(3));
    lost.confirm(3, &renewed);
    let joined = lost.join(6);
    cluster.later(2 * DAY);
    let restoring = cluster.restoring(7, Vec::new());
    let backup = cluster.state.time;
    cluster.run(restoring);
    let (state, now) = (&cluster.state, cluster.now);
    let after_backup = Standing::Quarantined { cut: 0, reason: Quarantine::AfterBackup };
    let leaf = presented(3, &renewed.leaf);
    assert_eq!(state.standing(&leaf, now), after_backup);
    assert_eq!(state.standing(&presented(6, &joined.leaf), now), Standing::Unregistered, "nobody knows it");
    assert_eq!(state.standing(&leaf, now.saturating_add(LIFE - SECOND - DAY - DAY)), after_backup);
    let until = now.saturating_add(cluster.state.settings.leaf_life());
    let long = Presented { not_after: until.saturating_add(LIFE), ..leaf.clone() };
    assert_eq!(state.standing(&long, until.saturating_sub(SECOND)), after_backup);
    assert_eq!(state.standing(&long, until), Standing::Unregistered);
    let older = Presented { not_before: backup.saturating_sub(HOUR + 61 * SECOND), ..leaf.clone() };
    assert_eq!(state.standing(&older, now), Standing::Unregistered, "issued before the backup, and not on record");
    let later = Presented { not_before: now.saturating_add(SECOND), ..leaf.clone() };
    assert_eq!(state.standing(&later, now), Standing::Unregistered, "signed when the root was in other hands");
    let ended = Presented { not_after: now.saturating_sub(SECOND), ..leaf.clone() };
    assert_eq!(state.standing(&ended, now), Standing::Unregistered);

    // It renews, and is a node like others.
    let letter = cluster.renew(3);
    cluster.confirm(3, &letter);
    assert!(matches!(cluster.state.standing(&presented(3, &letter.leaf), cluster.now), Standing::Admitted { .. }));
}

#[test]
fn by_force_nothing_unregistered_is_let_in() {
    let mut cluster = managed();
    let mut lost = cluster.clone();
    let renewed = lost.renew(3);
    let forced = cluster.force(1);
    cluster.later(DAY).run(forced);
    assert_eq!(cluster.state.standing(&presented(3, &renewed.leaf), cluster.now), Standing::Unregistered);
}
