//! The replacement of the root, step by step. Item numbers are those of conformance.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::authorize::{Quarantine, Standing};
use cluster::command::{Command, ReplaceLadder};
use cluster::outcome::{Outcome, Rejection};
use cluster::roots::{Root, Roots};
use cluster::rotation::{Advance, Need, Phase, Policy, RootsChange, Way};
use pki::certificate::Certificate;
use pki::identity::Role;
use support::authorities::{authority, both, cross};
use support::world::World;
use support::{DAY, HOUR, START, id, secret};

fn done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}

fn refused(outcome: Outcome, why: Rejection) {
    assert_eq!(outcome, Outcome::Rejected(why));
}

fn tokens(world: &World) -> Vec<u64> {
    world.cluster.state.tokens.rows.iter().map(|row| row.generation).collect()
}

fn stable(world: &World) -> &Arc<Root> {
    match world.roots() {
        Roots::Stable { root, .. } => root,
        _ => panic!("a rotation is under way"),
    }
}

fn anchors(world: &World) -> Vec<usize> {
    world.roots().stragglers().iter().map(|anchor| support::authorities::number(&anchor.issuer)).collect()
}

/// Everybody who is up does what the phase wants.
fn serve(world: &mut World) {
    for n in 0..world.members.len() {
        while world.members[n].up && (world.convert(n) || world.narrow(n)) {}
        assert!(world.is_hitless(), "after node {n}");
    }
}

fn begin(workers: usize) -> World {
    let mut world = World::new(workers);
    assert!(done(&world.start(1, false, Policy::WaitForAll)));
    assert!(world.is_hitless());
    world
}

#[test]
fn c280_c291_c310_c311_from_the_order_to_the_end() {
    let mut world = begin(2);
    let fresh = tokens(&world);
    assert_eq!(world.roots().served().unwrap().bundle, authority(0).bundle, "joiners get the old root");
    assert_eq!(world.roots().signing().unwrap().issuer, authority(1).issuer, "the new key signs");
    assert!((0..3).all(|n| world.need(n) == Some(Need::Renewal)));
    refused(world.advance(), Rejection::NotConverted);
    assert!(!world.narrow(1), "nobody is given the new root before its turn");
    serve(&mut world);
    assert_eq!(world.cluster.state.progress().map(|now| (now.required, now.done)), Some((3, 3)));
    assert!(done(&world.advance()));
    assert_eq!(world.rotation().map(|now| now.phase), Some(Phase::Trust));
    assert!((0..3).all(|n| world.need(n) == Some(Need::Trust)));
    assert_eq!((tokens(&world), world.roots().served().unwrap().trust), (fresh.clone(), authority(0).trust));
    refused(world.advance(), Rejection::NotConverted);
    serve(&mut world);
    assert!(done(&world.advance()));
    let root = stable(&world);
    assert!(root.trust == authority(1).trust && root.key().is_some());
    assert!(tokens(&world).iter().zip(&fresh).all(|(after, before)| after > before), "root and tokens change together");
    // Replaced leaves are known for a day: so long a node may come back with one.
    assert_eq!(anchors(&world), [0]);
    world.later(DAY);
    let nodes = world.cluster.state.collectable(world.cluster.now);
    world.run(Command::Collect { nodes });
    assert!(anchors(&world).is_empty(), "nobody is late");
    refused(world.advance(), Rejection::NoRotation);
    assert!(
        world.roots().ladder_for(None, Role::Worker, world.cluster.now).is_empty(),
        "O8: a new node gets its leaf alone"
    );
}

#[test]
fn c306_a_node_that_is_down_blocks_until_it_is_removed() {
    let mut world = begin(2);
    world.crash(2);
    serve(&mut world);
    refused(world.advance(), Rejection::NotConverted);
    let rotation = Arc::clone(world.rotation().unwrap());
    assert!(rotation.blocks(world.record(2).unwrap()) && !rotation.blocks(world.record(1).unwrap()));
    assert!(done(&world.remove(2)));
    assert!(done(&world.advance()));
    serve(&mut world);
    assert!(done(&world.advance()) && world.removed_are_out());
}

#[test]
fn o3_put_aside_at_the_deadline_and_back_by_itself() {
    let mut world = World::new(2);
    let deadline = START.saturating_add(Duration::from_secs(60));
    assert!(done(&world.start(1, false, Policy::Deadline(deadline))));
    world.crash(2);
    serve(&mut world);
    refused(world.advance(), Rejection::NotConverted);
    world.later(Duration::from_secs(60));
    assert!(done(&world.advance()));
    assert!(world.rotation().unwrap().aside.contains(&id(2)));
    serve(&mut world);
    assert!(done(&world.advance()));
    assert_eq!(anchors(&world), [0]);
    assert!(world.roots().stragglers()[0].until > world.cluster.now);

    // Its leaf is of a retired root: a session, a renewal, and then it is a member again.
    world.members[2].up = true;
    assert_eq!(world.standing(2), Some(Standing::Quarantined { cut: 1, reason: Quarantine::RetiredIssuer }));
    assert!(world.connect(2) && !world.members[2].settled);
    assert!(world.convert(2) && world.take(2) && world.connect(2));
    assert!(world.is_hitless() && world.is_live(2) && world.need(2).is_none());
    world.later(2 * DAY);
    assert!(world.cluster.state.anchors_ended(world.cluster.now));
    let nodes = world.cluster.state.collectable(world.cluster.now);
    world.run(Command::Collect { nodes });
    assert!(anchors(&world).is_empty(), "the old root is needed no more");
}

#[test]
fn o4_a_leaf_of_the_old_key_that_nobody_registered_opens_nothing() {
    let mut world = begin(1);
    world.reach_trust();
    let mut forged = world.members[1].held.clone().unwrap();
    let mut letter = (*forged.letter).clone();
    letter.leaf.serial = support::serial(999);
    letter.leaf.issuer = authority(0).issuer;
    forged.letter = Arc::new(letter);
    world.members[1].held = Some(forged);
    assert_eq!(world.standing(1), Some(Standing::Unregistered));
}

#[test]
fn o7_asleep_through_three_rotations() {
    let mut world = World::new(2);
    world.crash(2);
    let mut far = START;
    for to in 1..4 {
        far = far.saturating_add(Duration::from_secs(60));
        assert!(done(&world.start(to, false, Policy::Deadline(far))));
        world.later(Duration::from_secs(60));
        while world.rotation().is_some() {
            serve(&mut world);
            world.later(Duration::from_secs(10));
            far = world.cluster.now;
            assert!(done(&world.advance()));
        }
    }
    assert_eq!(anchors(&world), [0, 1, 2]);
    assert_eq!(world.roots().stragglers()[0].ladder.len(), 3);
    world.members[2].up = true;
    assert!(world.reachable(2), "the manager shows what leads to the first root");

    // Also while a fourth is under way.
    assert!(done(&world.start(4, false, Policy::WaitForAll)));
    serve(&mut world);
    assert!(world.need(2).is_none(), "it came along with the others");
    assert_eq!(world.members[2].held.as_ref().unwrap().letter.ladder.len(), 4);
    assert!(world.ends());
}

#[test]
fn c282_c290_a_second_rotation_while_nobody_trusts_the_first() {
    let mut world = begin(2);
    assert!(world.convert(1));
    assert!(done(&world.start(2, false, Policy::WaitForAll)));
    let running = Arc::clone(world.rotation().unwrap());
    assert!(running.given.is_empty() && running.ladder() == [cross(&authority(2), &authority(0))]);
    assert!(running.passed.len() == 1 && running.passed[0].custody.is_outside(), "the key of the one given up is gone");
    assert_eq!(world.need(1), Some(Need::Renewal), "converted to the first, ordered again");
    assert!(world.is_hitless() && world.ends());
}

#[test]
fn c285_a_second_rotation_once_some_trust_the_first_leads_to_both() {
    let mut world = begin(2);
    world.reach_trust();
    assert!(world.narrow(1));
    let direct = Way::Ladder(vec![cross(&authority(2), &authority(0))]);
    refused(world.start_with(&authority(2), direct, Policy::WaitForAll), Rejection::Way);
    assert!(done(&world.start(2, false, Policy::WaitForAll)));
    assert_eq!(world.rotation().unwrap().ladder().len(), 2);
    serve(&mut world);
    assert!(world.ends());
}

#[test]
fn c274_aborted_before_anybody_trusts_the_new_root() {
    let mut world = begin(2);
    let fresh = tokens(&world);
    assert!(world.convert(1));
    assert!(done(&world.abort(Policy::WaitForAll)));
    refused(world.abort(Policy::WaitForAll), Rejection::RotationBusy);
    assert!(world.rotation().unwrap().ladder().is_empty() && world.is_hitless());
    assert_eq!((world.need(0), world.need(1), world.need(2)), (None, Some(Need::Renewal), None));
    serve(&mut world);
    assert!(done(&world.advance()) && done(&world.advance()));
    assert_eq!((stable(&world).trust, tokens(&world)), (authority(0).trust, fresh), "as if nothing had been");
}

#[test]
fn o9_aborted_after_some_trust_the_new_root_alone() {
    let mut world = begin(2);
    world.reach_trust();
    assert!(world.narrow(1));
    let bare = cluster::rotation::Abort { ladder: Vec::new(), policy: Policy::WaitForAll, logged: Vec::new() };
    refused(world.update(RootsChange::Abort(Box::new(bare))), Rejection::Way);
    assert!(done(&world.abort(Policy::WaitForAll)));
    assert_eq!(world.rotation().unwrap().ladder(), [cross(&authority(0), &authority(1))]);
    serve(&mut world);
    assert!(done(&world.advance()));
    serve(&mut world);
    assert!(done(&world.advance()) && world.is_hitless());
    assert_eq!(stable(&world).trust, authority(0).trust);
    assert_eq!(anchors(&world), [1], "a node may have taken the new root after its last word");
}

#[test]
fn o10_by_a_bundle_and_back_from_each_phase() {
    for phase in [Phase::Widen, Phase::Renew, Phase::Trust] {
        let mut world = World::new(2);
        assert!(done(&world.start(1, true, Policy::WaitForAll)));
        refused(world.start(2, false, Policy::WaitForAll), Rejection::RotationBusy);
        let admit = world.cluster.admission(9);
        refused(world.run(Command::Admit(Box::new(admit))), Rejection::RotationBusy);
        while world.rotation().unwrap().phase != phase {
            serve(&mut world);
            assert!(done(&world.advance()));
        }
        serve(&mut world);
        assert!(done(&world.abort(Policy::WaitForAll)), "{phase:?}");
        while world.rotation().is_some() {
            serve(&mut world);
            assert!(done(&world.advance()), "{phase:?}");
        }
        assert_eq!(stable(&world).trust, authority(0).trust);
        assert!(world.ends());
    }
}

#[test]
fn an_emergency_changes_tokens_first_and_keeps_no_way_back() {
    let mut world = World::new(2);
    let fresh = tokens(&world);
    let policy = Policy::Emergency { bound: Duration::from_secs(30) };
    let ladder = Way::Ladder(vec![cross(&authority(1), &authority(0))]);
    refused(world.start_with(&authority(1), ladder, policy), Rejection::Way);
    assert!(done(&world.start(1, true, policy)));
    assert!(tokens(&world) != fresh && world.roots().served().unwrap().trust == authority(1).trust);
    refused(world.abort(Policy::WaitForAll), Rejection::RotationBusy);
    world.crash(2);
    while world.rotation().is_some() {
        serve(&mut world);
        world.later(Duration::from_secs(30));
        assert!(done(&world.advance()));
    }
    assert!(anchors(&world).is_empty());
    world.members[2].up = true;
    assert!(!world.reachable(2), "who was away comes back by a token");
    let left = |world: &World| (0..3).filter(|n| world.cluster.state.is_left_behind(world.record(*n).unwrap())).count();
    assert!(world.cluster.state.is_left_behind(world.record(2).unwrap()) && left(&world) == 1);
    let last = world.cluster.state.last_rotation.clone().unwrap();
    assert_eq!((last.emergency, last.back, &last.aside[..], last.aside_count), (true, false, &[id(2)][..], 1));
    // The next rotation waits for it.
    assert!(done(&world.start(2, false, Policy::WaitForAll)));
    serve(&mut world);
    refused(world.advance(), Rejection::NotConverted);
    assert!(left(&world) == 1);
    assert!(done(&world.remove(2)));
    assert!(done(&world.advance()));
}

#[test]
fn what_the_last_rotation_was_is_known_until_another_has_ended() {
    let mut world = World::new(2);
    let last = |world: &World| world.cluster.state.last_rotation.clone();
    assert!(last(&world).is_none());
    let started = world.cluster.now;
    let end = started.saturating_add(Duration::from_secs(600));
    assert!(done(&world.start(1, false, Policy::Deadline(end))));
    let number = world.rotation().unwrap().id;
    world.crash(2);
    serve(&mut world);
    world.cluster.now = end;
    assert!(done(&world.advance()));
    serve(&mut world);
    assert!(last(&world).is_none(), "it has not ended");
    assert!(done(&world.advance()));
    let first = last(&world).unwrap();
    assert_eq!((first.id, first.started, first.ended), (number, started, world.cluster.now));
    assert_eq!((first.from, first.to), (authority(0).trust, authority(1).trust));
    assert_eq!((first.back, first.emergency, &first.aside[..], first.aside_count), (false, false, &[id(2)][..], 1));
    assert!(!world.cluster.state.is_left_behind(world.record(2).unwrap()), "it comes back by itself");

    world.members[2].up = true;
    assert!(world.connect(2));
    serve(&mut world);
    assert!(done(&world.start(2, false, Policy::WaitForAll)));
    assert_eq!(last(&world), Some(first), "until another has ended");
    assert!(done(&world.abort(Policy::WaitForAll)));
    serve(&mut world);
    assert!(done(&world.advance()) && done(&world.advance()));
    let second = last(&world).unwrap();
    assert_eq!((second.back, second.from, second.to), (true, authority(2).trust, authority(1).trust));
    assert_eq!(second.aside_count, 0);
    let bytes = world.cluster.state.encode_snapshot();
    assert_eq!(cluster::State::decode_snapshot(&bytes).unwrap().last_rotation.as_deref(), Some(&*second));
}

#[test]
fn c309_c315_joins_and_tokens_midway() {
    let mut world = begin(1);
    world.members.push(support::world::Member::default());
    assert!(world.join(2) && world.connect(2));
    assert_eq!(world.members[2].held.as_ref().unwrap().letter.ladder.len(), 1, "leaf and intermediate");
    assert_eq!(world.need(2), None);
    world.members.push(support::world::Member::default());
    world.reach_trust_without(3);
    assert!(world.join(3) && world.connect(3) && world.is_hitless());
    assert_eq!(world.need(3), Some(Need::Trust), "a joiner of the last phase is given the new root too");
    serve(&mut world);
    assert!(done(&world.advance()));
}

#[test]
fn an_advance_for_another_rotation_or_phase_is_late() {
    let mut world = begin(1);
    let old = world.rotation().unwrap().id;
    assert!(done(&world.start(2, false, Policy::WaitForAll)));
    serve(&mut world);
    let advance = |rotation, phase| {
        let secrets = (secret(1), secret(2));
        Command::AdvanceRotation(Box::new(Advance {
            rotation,
            phase,
            worker_secret: secrets.0,
            manager_secret: secrets.1,
        }))
    };
    let now = world.rotation().unwrap().id;
    for late in [advance(old, Phase::Renew), advance(now, Phase::Trust), advance(now + 1, Phase::Renew)] {
        world.cluster.refused(late, Rejection::OutOfSequence);
    }
    assert!(done(&world.run(advance(now, Phase::Renew))));
    world.cluster.refused(advance(now, Phase::Renew), Rejection::OutOfSequence);
}

#[test]
fn a_manager_is_never_put_aside() {
    let mut world = World::new(1);
    assert!(done(&world.start(1, false, Policy::Deadline(START))));
    assert!(world.convert(1));
    world.later(DAY);
    refused(world.advance(), Rejection::NotConverted);
}

#[test]
fn c278_a_ladder_made_anew_leads_where_the_first_did() {
    let mut world = begin(1);
    let rotation = world.rotation().unwrap().id;
    let replace = |ladder: Vec<Certificate>| {
        Command::ReplaceLadder(Box::new(ReplaceLadder { rotation, ladder, logged: Vec::new() }))
    };
    for wrong in [Vec::new(), vec![cross(&authority(2), &authority(0))], vec![cross(&authority(1), &authority(2))]] {
        world.cluster.refused(replace(wrong), Rejection::Way);
    }
    let same = replace(vec![cross(&authority(1), &authority(0))]);
    assert_eq!(world.run(same), Outcome::Unchanged, "that is how it leads now");
    let longer = vec![cross(&authority(1), &authority(0)), cross(&authority(2), &authority(0))];
    assert!(done(&world.run(replace(longer))));
}

#[test]
fn who_is_given_a_place_in_the_group_is_waited_for_again() {
    let mut world = World::new(2);
    let policy = Policy::Deadline(world.cluster.now.saturating_add(HOUR));
    assert!(done(&world.start(1, true, policy)));
    assert!(world.promote(2) && world.convert(2), "it has its manager's leaf, and not the bundle");
    assert!(world.narrow(0) && world.narrow(1));
    world.later(2 * HOUR);
    assert!(done(&world.advance()));
    assert!(world.rotation().unwrap().aside.contains(&id(2)));
    assert!(world.seat(2));
    assert!(world.rotation().unwrap().aside.is_empty());
    assert!(world.convert(0) && world.convert(1));
    world.later(DAY);
    refused(world.advance(), Rejection::NotConverted);
    assert!(world.ends());
}

#[test]
fn what_cannot_begin() {
    let mut world = World::new(1);
    refused(world.abort(Policy::WaitForAll), Rejection::NoRotation);
    let none = |ladder| Way::Ladder(ladder);
    refused(world.start_with(&authority(0), none(Vec::new()), Policy::WaitForAll), Rejection::Issuer);
    refused(world.start_with(&authority(1), none(Vec::new()), Policy::WaitForAll), Rejection::Way);
    let other = Way::Bundle(both(&authority(0), &authority(2)));
    refused(world.start_with(&authority(1), other, Policy::WaitForAll), Rejection::Way);
}

/// A manager's clock runs 45 minutes ahead for one entry, and is then set right: the cluster's time stands still from there.
fn ahead(world: &mut World) {
    let right = world.cluster.now;
    world.later(Duration::from_secs(45 * 60));
    world.run(Command::Collect { nodes: Vec::new() });
    world.cluster.now = right;
}

#[test]
fn a_bound_counts_by_the_leaders_clock() {
    let mut world = World::new(2);
    ahead(&mut world);
    assert!(done(&world.start(1, true, Policy::Emergency { bound: Duration::from_secs(30) })));
    world.crash(2);
    serve(&mut world);
    refused(world.advance(), Rejection::NotConverted);
    world.later(Duration::from_secs(30));
    assert!(done(&world.advance()), "not 45 minutes later");
    assert!(world.rotation().unwrap().aside.contains(&id(2)));
}

#[test]
fn a_deadline_is_not_over_before_it_came() {
    let mut world = World::new(2);
    ahead(&mut world);
    let end = world.cluster.now.saturating_add(Duration::from_secs(600));
    assert!(done(&world.start(1, false, Policy::Deadline(end))));
    world.crash(2);
    serve(&mut world);
    refused(world.advance(), Rejection::NotConverted);
    world.cluster.now = end;
    assert!(done(&world.advance()));
}

#[test]
fn a_clock_set_back_during_a_phase_does_not_lengthen_it() {
    let mut world = World::new(2);
    let right = world.cluster.now;
    world.later(Duration::from_secs(45 * 60));
    assert!(done(&world.start(1, true, Policy::Emergency { bound: Duration::from_secs(30) })));
    world.crash(2);
    serve(&mut world);
    world.cluster.now = right;
    // Refused as well, but from here the time of the phase counts.
    refused(world.advance(), Rejection::NotConverted);
    assert_eq!(world.rotation().unwrap().since, right);
    world.later(Duration::from_secs(30));
    assert!(done(&world.advance()));
    assert!(world.ends());
}

#[test]
fn how_long_a_rotation_waits_can_be_changed_also_on_the_way_back() {
    let mut world = begin(2);
    let policy = |world: &mut World, policy| world.update(RootsChange::Policy(policy));
    let soon = |world: &World| Policy::Deadline(world.cluster.now.saturating_add(Duration::from_secs(10)));
    world.crash(2);
    serve(&mut world);
    refused(world.advance(), Rejection::NotConverted);
    let at = soon(&world);
    assert!(done(&policy(&mut world, at)));
    world.later(Duration::from_secs(10));
    assert!(done(&policy(&mut world, Policy::WaitForAll)));
    refused(world.advance(), Rejection::NotConverted);
    let bound = Policy::Emergency { bound: Duration::from_secs(1) };
    refused(policy(&mut world, bound), Rejection::RotationBusy);
    let id_before = world.rotation().unwrap().id;
    let at = soon(&world);
    assert!(done(&policy(&mut world, at)));
    world.later(Duration::from_secs(10));
    assert!(done(&world.advance()));
    assert_eq!(world.rotation().map(|now| (now.id, now.phase)), Some((id_before, Phase::Trust)), "the same rotation");

    assert!(done(&world.abort(Policy::WaitForAll)));
    serve(&mut world);
    refused(world.advance(), Rejection::NotConverted);
    let at = soon(&world);
    assert!(done(&policy(&mut world, at)));
    world.later(Duration::from_secs(10));
    assert!(done(&world.advance()) && world.rotation().unwrap().back);

    let mut world = World::new(1);
    refused(policy(&mut world, Policy::WaitForAll), Rejection::NoRotation);
    assert!(done(&world.start(1, true, bound)));
    refused(policy(&mut world, Policy::WaitForAll), Rejection::RotationBusy);
}

/// A letter whose ladder does not lead where members stand is signed again, like one of another key.
#[test]
fn what_goes_with_a_leaf_is_a_premise() {
    let mut world = begin(1);
    let mut renewal = world.cluster.renewal(1);
    let mut letter = (*renewal.letter).clone();
    letter.ladder.clear();
    renewal.letter = Arc::new(letter);
    world.cluster.refused(Command::Renew(Box::new(renewal)), Rejection::Issuer);
}

/// A worker sleeps with a leaf of ninety days, and what leads to its root ends before it does.
fn asleep_beyond_the_ladder() -> World {
    let mut world = World::new(2);
    world.crash(2);
    let short = support::authorities::cross_until(1, 0, START.saturating_add(60 * DAY));
    assert!(done(&world.start_with(&authority(1), Way::Ladder(vec![short]), Policy::Deadline(START))));
    for _ in 0..2 {
        serve(&mut world);
        world.later(Duration::from_secs(10));
        assert!(done(&world.advance()));
    }
    assert_eq!(anchors(&world), [0]);
    world
}

#[test]
fn no_old_root_outlives_what_leads_to_it() {
    let mut world = asleep_beyond_the_ladder();
    let end = START.saturating_add(60 * DAY);
    let until = world.roots().stragglers()[0].until;
    assert_eq!(until, end.saturating_sub(cluster::trust::STEP_LEFT_MIN));
    let sent = |world: &World, at| world.roots().ladder_for(None, Role::Manager, at).len();
    assert_eq!(sent(&world, until.saturating_sub(Duration::from_secs(1))), 1);
    assert_eq!(sent(&world, until), 0, "also while nobody has collected it");
    world.cluster.now = until;
    assert!(world.cluster.state.anchors_ended(until));
    world.cluster.collect();
    assert!(anchors(&world).is_empty(), "the worker's leaf has a month left, but no manager could be verified by it");
}

#[test]
fn nor_while_another_rotation_waits() {
    let mut world = asleep_beyond_the_ladder();
    assert!(done(&world.start(2, false, Policy::WaitForAll)));
    let end = START.saturating_add(60 * DAY).saturating_sub(cluster::trust::STEP_LEFT_MIN);
    let sent = |world: &World| world.roots().ladder_for(None, Role::Manager, world.cluster.now).len();
    assert_eq!(sent(&world), 2);
    world.cluster.now = end;
    assert_eq!(sent(&world), 1, "what leads to today's old root stays");
    world.cluster.collect();
    assert!(anchors(&world).is_empty() && world.rotation().is_some());
}

#[test]
fn an_emergency_forgets_joins_that_were_not_finished() {
    let mut world = World::new(1);
    let admit = world.cluster.admission(9);
    let letter = Arc::clone(&admit.letter);
    assert!(matches!(world.run(Command::Admit(Box::new(admit))), Outcome::Issued { .. }));
    assert!(done(&world.start(1, true, Policy::Emergency { bound: Duration::from_secs(30) })));
    assert!(world.cluster.state.node(&id(9)).is_none() && world.record(1).is_some());
    assert!(world.cluster.state.joins.is_empty());
    assert_eq!(world.cluster.confirm(9, &letter), Outcome::Rejected(Rejection::UnknownNode));
}

#[test]
fn a_ladder_that_cannot_be_sent_whole_does_not_begin() {
    let mut world = World::new(1);
    let to = authority(1);
    // Steps that lead nowhere take the place of the one that does.
    let steps = vec![to.signer.clone(); cluster::trust::LADDER_SENT_MAX];
    let crowded = Arc::new(Root { steps, ..to.as_ref().clone() });
    let way = Way::Ladder(vec![cross(&to, &authority(0))]);
    refused(world.start_with(&crowded, way.clone(), Policy::WaitForAll), Rejection::Way);
    assert!(done(&world.start_with(&to, way, Policy::WaitForAll)));
}
