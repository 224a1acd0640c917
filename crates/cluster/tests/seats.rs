//! Managers come and go: promotion, a place in the raft group, demotion; and what the leader does next.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cluster::State;
use cluster::authorize::Presented;
use cluster::command::Command;
use cluster::invariant;
use cluster::node::{Leaf, PROMOTION_LIFE};
use cluster::outcome::{Outcome, Rejection};
use cluster::seats::{self, Candidates, Change, SeatStep};
use pki::identity::Role;
use support::{Cluster, LIFE, cluster_id, id, serial, spki};

const SECOND: Duration = Duration::from_secs(1);

fn done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}

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

/// A cluster with the managers 0 to `managers - 1`, at places 1 and on, and one worker more.
fn managed(managers: u64) -> Cluster {
    let mut cluster = Cluster::new();
    for n in 1..=managers {
        cluster.join(n);
        if n < managers {
            assert_eq!(cluster.promote(n), n + 1);
        }
    }
    cluster
}

#[test]
fn c009_the_managers_token_makes_a_node_that_is_to_be_a_manager() {
    let mut cluster = Cluster::new();
    let admission = cluster.manager_admission(1);
    let letter = Arc::clone(&admission.letter);
    let mut engine = admission.clone();
    engine.ours = false;
    cluster.refused(Command::Admit(Box::new(engine)), Rejection::EngineNotPromotable);
    cluster.run(Command::Admit(Box::new(admission.clone())));
    let node = cluster.node(1);
    assert_eq!((node.role, node.signed_role(), node.spec.role), (Role::Worker, Role::Manager, Role::Manager));
    assert_eq!(node.promoting, Some(cluster.now.saturating_add(PROMOTION_LIFE)));
    assert!(cluster.state.members().get(&id(1)).is_none());
    let again = cluster.run(Command::Admit(Box::new(admission)));
    assert_eq!(again, Outcome::Issued { node: id(1), letter: Arc::clone(&letter), fresh: false });

    assert_eq!(cluster.enlist(1), 2);
    assert_eq!(cluster.state.managers().count(), 1, "nobody is told to turn to it yet");
    let node = cluster.node(1);
    assert_eq!((node.current.as_ref(), node.unfinished), (Some(&letter.leaf), None), "its leaf was seen in use");
    assert!(cluster.state.members.key_holders.contains(&id(1)));
    assert!(done(&cluster.seat(1)));
    assert_eq!((cluster.node(1).role, cluster.node(1).promoting), (Role::Manager, None));
    assert_eq!(cluster.state.managers().count(), 2);
}

#[test]
fn c340_promoted_demoted_and_promoted_again() {
    let mut cluster = managed(1);
    assert_eq!(cluster.promote(1), 2);
    assert!(done(&cluster.run(cluster.wish(1, Role::Worker))));
    assert_eq!(
        (cluster.node(1).role, cluster.node(1).signed_role()),
        (Role::Manager, Role::Manager),
        "until it is out"
    );
    assert!(done(&cluster.run(cluster.wish(1, Role::Manager))), "taken back in time");
    assert_eq!(cluster.node(1).promoting, None);
    cluster.run(cluster.wish(1, Role::Worker));
    assert!(done(&cluster.unseat(1)));
    let node = cluster.node(1);
    assert_eq!((node.role, node.spec.role, node.promoting, node.cut), (Role::Worker, Role::Worker, None, 1));
    assert!(cluster.state.members().get(&id(1)).is_none() && cluster.state.members.key_holders.contains(&id(1)));
    assert_eq!(cluster.renew(1).leaf.role, Role::Worker);
    assert_eq!(cluster.promote(1), 3, "under a number of its own");
}

#[test]
fn c328_c330_c342_demotions_that_are_refused() {
    let mut cluster = managed(1);
    let last = cluster.wish(0, Role::Worker);
    cluster.refused(last, Rejection::LastManager);
    cluster.run(cluster.wish(1, Role::Manager));
    let promoted = cluster.wish(1, Role::Worker);
    cluster.refused(promoted, Rejection::NotSeated);
    let last = cluster.wish(0, Role::Worker);
    cluster.refused(last, Rejection::LastManager);
    cluster.enlist(1);
    let enlisted = cluster.wish(1, Role::Worker);
    cluster.refused(enlisted, Rejection::NotSeated);
    cluster.seat(1);
    assert!(done(&cluster.run(cluster.wish(1, Role::Worker))));
    let other = cluster.wish(0, Role::Worker);
    cluster.refused(other, Rejection::LastManager);
}

#[test]
fn an_engine_is_not_promoted() {
    let mut cluster = Cluster::new();
    let mut engine = cluster.admission(1);
    engine.ours = false;
    let letter = Arc::clone(&engine.letter);
    cluster.run(Command::Admit(Box::new(engine)));
    cluster.confirm(1, &letter);
    let wish = cluster.wish(1, Role::Manager);
    cluster.refused(wish, Rejection::EngineNotPromotable);
}

#[test]
fn c338_a_member_is_not_removed() {
    let mut cluster = managed(1);
    cluster.run(cluster.wish(1, Role::Manager));
    let remove = Command::RemoveNode { node: id(1), force: true, ready: false };
    assert!(done(&cluster.clone().run(remove.clone())), "without a place it may go");
    cluster.enlist(1);
    cluster.refused(remove.clone(), Rejection::Manager);
    cluster.seat(1);
    cluster.refused(remove.clone(), Rejection::Manager);
    cluster.run(cluster.wish(1, Role::Worker));
    cluster.refused(remove.clone(), Rejection::Manager);
    cluster.unseat(1);
    assert!(done(&cluster.run(remove)));
}

#[test]
fn a_place_is_asked_for_with_a_managers_leaf_by_who_is_to_have_one() {
    let mut cluster = managed(1);
    let held = cluster.node(1).current.as_ref().unwrap().serial;
    let enlist = |serial| Command::Enlist { node: id(1), addr: "192.0.2.2:2377".into(), serial, replaces: None };
    cluster.refused(enlist(held), Rejection::NotPromoted);
    cluster.run(cluster.wish(1, Role::Manager));
    cluster.refused(enlist(held), Rejection::Role);
    cluster.refused(enlist(serial(900)), Rejection::Role);
    let worker = cluster.renewal(1);
    assert_eq!(worker.letter.leaf.role, Role::Manager, "that is what is signed for it now");
    cluster.refused(
        Command::Enlist { node: id(9), addr: String::new(), serial: held, replaces: None },
        Rejection::UnknownNode,
    );
    let mut as_worker = cluster.renewal(1);
    Arc::make_mut(&mut as_worker.letter).leaf.role = Role::Worker;
    cluster.refused(Command::Renew(Box::new(as_worker)), Rejection::Role);
}

#[test]
fn asked_again_it_is_the_same_place_unless_the_store_is_lost() {
    let mut cluster = managed(2);
    let enlist = |cluster: &Cluster, addr: &str, replaces| {
        let serial = cluster.node(1).current.as_ref().unwrap().serial;
        Command::Enlist { node: id(1), addr: addr.to_owned(), serial, replaces }
    };
    let same = enlist(&cluster, "192.0.2.2:2377", None);
    let before = cluster.state.encode_snapshot();
    let (index, time) = (cluster.state.index, cluster.state.time);
    assert_eq!(cluster.run(same), Outcome::Enlisted { raft_id: 2 });
    let mut after = cluster.state.clone();
    (after.index, after.time) = (index, time);
    assert!(before == after.encode_snapshot());

    let moved = enlist(&cluster, "198.51.100.7:2377", None);
    assert_eq!(cluster.run(moved), Outcome::Enlisted { raft_id: 2 });
    assert_eq!(cluster.state.members()[&id(1)].addr, "198.51.100.7:2377");
    assert_eq!(cluster.node(1).role, Role::Manager);

    let lost = enlist(&cluster, "198.51.100.7:2377", Some(2));
    for _ in 0..2 {
        assert_eq!(cluster.run(lost.clone()), Outcome::Enlisted { raft_id: 3 });
    }
    assert_eq!((cluster.node(1).role, cluster.node(1).signed_role()), (Role::Worker, Role::Manager));
    assert_eq!(cluster.state.already(&lost), Some(Outcome::Enlisted { raft_id: 3 }));

    let only = Command::Enlist {
        node: id(0),
        addr: String::new(),
        serial: cluster.node(0).current.as_ref().unwrap().serial,
        replaces: Some(1),
    };
    cluster.refused(only, Rejection::LastManager);
    cluster.seat(1);
    cluster.run(cluster.wish(1, Role::Worker));
    let demoted = enlist(&cluster, "198.51.100.7:2377", Some(3));
    cluster.refused(demoted, Rejection::NotPromoted);
}

#[test]
fn a_promotion_that_takes_too_long_ends() {
    for enlisted in [false, true] {
        let mut cluster = managed(1);
        cluster.run(cluster.wish(1, Role::Manager));
        if enlisted {
            cluster.enlist(1);
        }
        cluster.later(PROMOTION_LIFE - SECOND);
        assert_eq!(cluster.unseat(1), Outcome::Unchanged, "it is not over");
        cluster.later(SECOND);
        assert!(done(&cluster.unseat(1)));
        let node = cluster.node(1);
        assert_eq!((node.role, node.spec.role, node.promoting, node.cut), (Role::Worker, Role::Worker, None, 1));
        assert_eq!(cluster.unseat(1), Outcome::Unchanged);
    }
}

#[test]
fn late_copies_do_nothing_to_the_next_place() {
    let mut cluster = managed(2);
    let (seat, unseat) = (Command::Seat { node: id(1), raft_id: 2 }, Command::Unseat { node: id(1), raft_id: Some(2) });
    cluster.run(cluster.wish(1, Role::Worker));
    cluster.run(unseat.clone());
    cluster.refused(seat.clone(), Rejection::NotSeated);
    cluster.run(cluster.wish(1, Role::Manager));
    assert_eq!(cluster.run(Command::Unseat { node: id(1), raft_id: None }), Outcome::Unchanged);
    assert_eq!(cluster.enlist(1), 3);
    cluster.refused(seat, Rejection::NotSeated);
    assert_eq!(cluster.run(unseat.clone()), Outcome::Unchanged);
    cluster.seat(1);
    assert_eq!(cluster.run(unseat), Outcome::Unchanged);
    assert_eq!(cluster.node(1).role, Role::Manager);
    let last = Command::Unseat { node: id(0), raft_id: Some(1) };
    assert!(done(&cluster.clone().run(last.clone())));
    cluster.run(cluster.wish(1, Role::Worker));
    cluster.unseat(1);
    cluster.refused(last, Rejection::LastManager);
}

#[test]
fn a_manager_put_out_of_the_group_that_is_to_be_one_is_promoted_anew() {
    let mut cluster = managed(2);
    assert!(done(&cluster.unseat(1)));
    let node = cluster.node(1);
    assert_eq!((node.role, node.spec.role), (Role::Worker, Role::Manager));
    assert_eq!(node.promoting, Some(cluster.now.saturating_add(PROMOTION_LIFE)));
    assert_eq!(cluster.enlist(1), 3);
}

#[test]
fn a_peer_is_who_has_a_place_and_a_managers_leaf_on_record() {
    let mut cluster = managed(2);
    let old = presented(1, cluster.node(1).current.as_ref().unwrap());
    let offered = presented(1, &cluster.renew(1).leaf);
    let letter = cluster.renew(1);
    cluster.confirm(1, &letter);
    let current = presented(1, &letter.leaf);
    type Twist = fn(&mut Presented);
    let rows: [(&str, Twist, bool); 7] = [
        ("as it is", |_| {}, true),
        ("another serial", |leaf| leaf.serial = serial(900), false),
        ("another key", |leaf| leaf.spki = spki(900), false),
        ("another issuer", |leaf| leaf.issuer = support::issuer(9), false),
        ("as a worker", |leaf| leaf.role = Role::Worker, false),
        ("another cluster", |leaf| leaf.cluster = "other".parse().unwrap(), false),
        ("another node's", |leaf| leaf.node = id(0), false),
    ];
    for base in [&old, &offered, &current] {
        for (name, twist, known) in rows {
            let mut leaf = base.clone();
            twist(&mut leaf);
            let peer = cluster.state.peer(&leaf);
            assert_eq!(peer.is_some(), known, "{name}");
            assert!(peer.is_none_or(|peer| peer == (id(1), 2)));
        }
    }
    cluster.later(3 * LIFE);
    assert!(cluster.state.peer(&current).is_some(), "whatever the time says");
    cluster.run(cluster.wish(1, Role::Worker));
    assert!(cluster.state.peer(&current).is_some(), "until it is out of the group");
    cluster.unseat(1);
    assert_eq!(cluster.state.peer(&current), None);
}

fn change(step: &SeatStep) -> Option<Change> {
    match step {
        SeatStep::Change(change) => Some(*change),
        SeatStep::Propose(_) => None,
    }
}

fn next(cluster: &Cluster, voters: &[u64], learners: &[u64], away: &[u64], own: u64) -> Vec<SeatStep> {
    let all = voters.iter().chain(learners);
    let progress = all.map(|id| (*id, (0, !away.contains(id)))).collect();
    let set = |ids: &[u64]| ids.iter().copied().collect();
    seats::next(&Candidates::of(&cluster.state), &set(voters), &set(learners), &progress, own, cluster.now)
}

fn only(steps: &[SeatStep]) -> Option<Change> {
    match steps {
        [] => None,
        [one] => Some(change(one).unwrap_or_else(|| panic!("a proposal: {one:?}"))),
        more => panic!("{more:?}"),
    }
}

#[test]
fn a_promotion_step_by_step() {
    let mut cluster = managed(1);
    assert!(next(&cluster, &[1], &[], &[], 1).is_empty());
    cluster.run(cluster.wish(1, Role::Manager));
    assert!(next(&cluster, &[1], &[], &[], 1).is_empty(), "it has to ask for a place first");
    assert!(next(&cluster, &[], &[], &[], 1).is_empty(), "nothing is known of the group yet");
    cluster.enlist(1);
    assert_eq!(only(&next(&cluster, &[1], &[], &[], 1)), Some(Change::AddLearner(2)));
    assert_eq!(only(&next(&cluster, &[1], &[2], &[], 1)), Some(Change::Promote(2)));
    assert_eq!(only(&next(&cluster, &[1], &[2], &[2], 1)), None, "not while it cannot be reached");
    let behind = |entries| BTreeMap::from([(2, (entries, true))]);
    let (voters, learners) = (BTreeSet::from([1]), BTreeSet::from([2]));
    let step = |entries| {
        only(&seats::next(&Candidates::of(&cluster.state), &voters, &learners, &behind(entries), 1, cluster.now))
    };
    assert_eq!(step(seats::CAUGHT_UP), None);
    assert_eq!(step(seats::CAUGHT_UP - 1), Some(Change::Promote(2)));
    let steps = next(&cluster, &[1, 2], &[], &[], 1);
    assert!(matches!(&steps[..], [SeatStep::Propose(Command::Seat { raft_id: 2, .. })]), "{steps:?}");
    cluster.later(PROMOTION_LIFE);
    let steps = next(&cluster, &[1, 2], &[], &[], 1);
    assert!(matches!(&steps[..], [SeatStep::Propose(Command::Seat { .. })]), "a voter has made it: {steps:?}");
    assert_eq!(only(&next(&cluster, &[1], &[2], &[2], 1)), Some(Change::Remove(2)), "its time has passed");
    let steps = next(&cluster, &[1], &[], &[], 1);
    assert!(matches!(&steps[..], [SeatStep::Propose(Command::Unseat { raft_id: Some(2), .. })]), "{steps:?}");
}

#[test]
fn c331_c340_a_demotion_step_by_step() {
    let mut cluster = managed(3);
    assert!(next(&cluster, &[1, 2, 3], &[], &[], 1).is_empty());
    cluster.run(cluster.wish(0, Role::Worker));
    assert_eq!(only(&next(&cluster, &[1, 2, 3], &[], &[], 2)), Some(Change::Remove(1)));
    assert_eq!(only(&next(&cluster, &[1, 2, 3], &[], &[2], 1)), None, "1 of the 2 that are left would answer");
    let progress = BTreeMap::from([(2, (7, true)), (3, (3, true))]);
    let voters = BTreeSet::from([1, 2, 3]);
    let steps = seats::next(&Candidates::of(&cluster.state), &voters, &BTreeSet::new(), &progress, 1, cluster.now);
    assert_eq!(only(&steps), Some(Change::HandOver(3)), "to the one that is nearest");
    let steps = next(&cluster, &[2, 3], &[], &[], 2);
    assert!(matches!(&steps[..], [SeatStep::Propose(Command::Unseat { raft_id: Some(1), .. })]), "{steps:?}");
}

#[test]
fn c333_a_demotion_from_before_anybody_led_is_carried_out() {
    let mut cluster = managed(3);
    cluster.run(cluster.wish(2, Role::Worker));
    // Who leads now has seen nothing of it: it looks at the state that there is.
    let restored = State::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    cluster.state = restored;
    assert_eq!(only(&next(&cluster, &[1, 2, 3], &[], &[], 1)), Some(Change::Remove(3)));
    let steps = next(&cluster, &[1, 2], &[], &[], 1);
    assert!(matches!(&steps[..], [SeatStep::Propose(Command::Unseat { raft_id: Some(3), .. })]), "{steps:?}");
    assert!(done(&cluster.unseat(2)));
    assert!(next(&cluster, &[1, 2], &[], &[], 1).is_empty());
}

#[test]
fn c334_a_member_that_is_no_node_any_more_is_taken_out() {
    let mut cluster = managed(3);
    // A manager is not removed while it is one; what the group has beyond the state is none of its members.
    let force = Command::RemoveNode { node: id(2), force: true, ready: false };
    cluster.refused(force.clone(), Rejection::Manager);
    cluster.run(cluster.wish(2, Role::Worker));
    assert!(done(&cluster.unseat(2)));
    assert!(done(&cluster.run(force)));
    for own in [1, 2] {
        assert_eq!(only(&next(&cluster, &[1, 2, 3], &[], &[], own)), Some(Change::Remove(3)), "while {own} leads");
    }
    assert_eq!(only(&next(&cluster, &[1, 2], &[3], &[], 1)), Some(Change::Remove(3)), "one that only follows, too");
    assert!(next(&cluster, &[1, 2], &[], &[], 1).is_empty());
}

#[test]
fn c328_c329_no_voter_is_taken_out_that_the_others_need() {
    let rows: [(&[u64], &[u64], u64, bool); 7] = [
        (&[1, 2, 3], &[], 3, true),
        (&[1, 2, 3], &[3], 3, true),
        (&[1, 2, 3], &[3], 2, false),
        (&[1, 2], &[], 2, true),
        (&[1, 2, 3, 4], &[4], 3, true),
        (&[1, 2, 3, 4, 5], &[4, 5], 3, false),
        (&[1], &[], 1, false),
    ];
    for (voters, away, id, remains) in rows {
        let progress = voters.iter().map(|voter| (*voter, (0, !away.contains(voter)))).collect();
        let voters = voters.iter().copied().collect();
        assert_eq!(seats::quorum_remains(&voters, &progress, 1, id), remains, "{voters:?} without {id}, away {away:?}");
    }
}

#[test]
fn a_lost_store_is_replaced_step_by_step() {
    let mut cluster = managed(3);
    let serial = cluster.node(2).current.as_ref().unwrap().serial;
    cluster.run(Command::Enlist { node: id(2), addr: "192.0.2.3:2377".into(), serial, replaces: Some(3) });
    assert_eq!(only(&next(&cluster, &[1, 2, 3], &[], &[3], 1)), Some(Change::Remove(3)));
    assert_eq!(only(&next(&cluster, &[1, 2], &[], &[], 1)), Some(Change::AddLearner(4)));
}

#[test]
fn states_that_cannot_be_are_told() {
    type Twist = fn(&mut Cluster);
    fn edit(cluster: &mut Cluster, n: u64, edit: impl FnOnce(&mut cluster::node::Node)) {
        let mut node = cluster.node(n).clone();
        edit(&mut node);
        cluster.state.nodes.insert(id(n), Arc::new(node));
    }
    let rows: [(&str, Twist); 8] = [
        ("a manager has a place", |cluster| edit(cluster, 2, |node| node.role = Role::Manager)),
        ("a place in the raft group", |cluster| edit(cluster, 1, |node| node.role = Role::Worker)),
        ("who is becoming a manager", |cluster| edit(cluster, 2, |node| node.promoting = Some(support::START))),
        ("who is becoming a manager", |cluster| edit(cluster, 1, |node| node.promoting = Some(support::START))),
        ("a place in the raft group", |cluster| drop(cluster.state.nodes.remove(&id(1)))),
        ("whoever has a place", |cluster| drop(cluster.state.members.key_holders.remove(&id(1)))),
        ("a number stands for one place", |cluster| cluster.state.members.next_raft_id = 2),
        ("a number stands for one place", |cluster| {
            cluster.state.members.rows.get_mut(&id(1)).unwrap().raft_id = 1;
        }),
    ];
    for (property, twist) in rows {
        let mut cluster = managed(2);
        twist(&mut cluster);
        let broken = invariant::check(&cluster.state).expect_err(property);
        assert!(broken.property.starts_with(property), "{property}: {broken}");
    }
    let mut nobody = Cluster::new();
    nobody.state.members.rows.clear();
    edit(&mut nobody, 0, |node| node.role = Role::Worker);
    let broken = invariant::check(&nobody.state).expect_err("no manager");
    assert_eq!(broken.property, "a cluster has a manager");
    let mut leaving = managed(2);
    for n in [0, 1] {
        edit(&mut leaving, n, |node| node.spec.role = Role::Worker);
    }
    let broken = invariant::check(&leaving.state).expect_err("all are to leave");
    assert_eq!(broken.property, "somebody is to stay a manager, or to become one");

    let before = managed(2);
    let mut again = before.clone();
    again.state.members.next_raft_id = 2;
    assert!(invariant::check_step(&before.state, &again.state).is_err(), "the next number goes back");
    let mut other = before.clone();
    other.state.members.rows.get_mut(&id(0)).unwrap().raft_id = 2;
    assert!(invariant::check_step(&before.state, &other.state).is_err(), "a number that was another's");
}
