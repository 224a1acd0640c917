#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cluster::rotation::Policy;

use super::*;
use crate::rotate::fixture::Fixture;
use crate::rotate::status::Reason;
use crate::sessions::NodeClock;

fn rehearsed(fixture: &Fixture, policy: Policy, lost: &[NodeId]) -> Rehearsal {
    let pacer = Pacer::new(2);
    let ago = fixture.now.saturating_sub(Duration::from_secs(2));
    let stream_lost = |id: &NodeId| lost.contains(id).then_some(ago);
    let last_error = |_: &NodeId| None;
    let seen = Seen { sessions: &fixture.sessions, pacer: &pacer, stream_lost: &stream_lost, last_error: &last_error };
    rehearse(&fixture.state, &seen, fixture.change(policy), 2, fixture.now).unwrap()
}

#[test]
fn a_fleet_that_is_all_here_converts() {
    let mut fixture = Fixture::new();
    for n in 1..=50 {
        fixture.node(n, true);
    }
    let before = fixture.state.encode_snapshot();
    let rehearsal = rehearsed(&fixture, Policy::WaitForAll, &[]);
    assert_eq!(rehearsal.converts.len(), 51);
    assert!(rehearsal.blocks.is_empty() && rehearsal.aside.is_empty() && !rehearsal.by_bundle);
    let takes = rehearsal.takes.unwrap();
    assert!(takes > ENGINE_RENEWAL && takes < Duration::from_secs(5), "{takes:?}");
    assert!(fixture.state.encode_snapshot() == before, "nothing changes");
}

#[test]
fn who_is_away_or_has_a_wrong_clock_is_named() {
    let mut fixture = Fixture::new();
    let away = fixture.node(1, false);
    let skewed = fixture.node(2, true);
    let lost = fixture.node(3, true);
    fixture.node(4, true);
    fixture.later(Duration::from_secs(9));
    fixture.open(&skewed, Some(NodeClock { offset_ms: -7_200_000, floor: Time::default() }));
    let rehearsal = rehearsed(&fixture, Policy::WaitForAll, std::slice::from_ref(&lost));
    assert!(!rehearsal.ends());
    let reasons: Vec<_> = rehearsal.blocks.iter().map(|block| (block.node.clone(), block.reason.word())).collect();
    assert_eq!(reasons, [(away.clone(), "unknown"), (skewed.clone(), "clock-off"), (lost.clone(), "lost")]);
    assert!(rehearsal.blocks.iter().all(|block| block.remedy.is_some()));
    assert!(matches!(rehearsal.blocks[1].reason, Reason::ClockOff { offset_ms: -7_200_000 }));

    let end = fixture.now.saturating_add(Duration::from_secs(10));
    let rehearsal = rehearsed(&fixture, Policy::Deadline(end), std::slice::from_ref(&lost));
    assert_eq!(rehearsal.aside, [away, skewed, lost]);
    assert!(rehearsal.ends() && rehearsal.blocks.is_empty());
}

#[test]
fn who_can_use_what_it_is_given_converts_whatever_its_clock() {
    let mut fixture = Fixture::new();
    // The first root began long ago.
    fixture.later(Duration::from_secs(5 * 3_600));
    let hours = |hours: i64| hours * 3_600_000;
    let none = Time::default();
    let rows = [
        ("a little behind", -600_000, none, true),
        ("behind", -hours(3), none, false),
        ("set back a while ago", -hours(3), fixture.now.saturating_sub(Duration::from_secs(1_800)), true),
        ("set back long ago", -hours(3), fixture.now.saturating_sub(Duration::from_secs(4_000)), false),
        ("ahead", hours(3), none, true),
        ("ahead by more than a leaf lasts", hours(24 * 91), none, false),
        ("a clock that is no time", i64::MIN, none, false),
        ("a floor that is no time", 0, Time::from_unix_millis(i64::MAX), false),
    ];
    let ids: Vec<_> = (1..).zip(&rows).map(|(n, _)| fixture.node(n, true)).collect();
    fixture.later(Duration::from_secs(9));
    for (id, (_, offset_ms, floor, _)) in ids.iter().zip(&rows) {
        fixture.open(id, Some(NodeClock { offset_ms: *offset_ms, floor: *floor }));
    }
    let rehearsal = rehearsed(&fixture, Policy::WaitForAll, &[]);
    for (id, (what, _, _, converts)) in ids.iter().zip(&rows) {
        let blocks = rehearsal.blocks.iter().find(|block| block.node == *id);
        assert_eq!(rehearsal.converts.iter().any(|(node, _)| node == id), *converts, "{what}");
        assert_eq!(blocks.map(|block| block.reason.word()), (!converts).then_some("clock-off"), "{what}");
    }
}

#[test]
fn an_emergency_leaves_behind_who_is_away_and_waits_for_nobody() {
    let mut fixture = Fixture::new();
    let away = fixture.node(1, false);
    let lost = fixture.node(2, true);
    let here = fixture.node(3, true);
    let bound = Duration::from_secs(10);
    let rehearsal = rehearsed(&fixture, Policy::Emergency { bound }, std::slice::from_ref(&lost));
    assert!(rehearsal.converts.iter().any(|(node, _)| *node == here), "{rehearsal:?}");
    assert_eq!((rehearsal.ends(), &rehearsal.blocks), (true, &Vec::new()), "{rehearsal:?}");
    assert!([&away, &lost].iter().all(|node| rehearsal.aside.contains(node)), "{rehearsal:?}");
    assert!(rehearsal.takes.unwrap() <= 3 * bound + Duration::from_secs(5), "{rehearsal:?}");
}
