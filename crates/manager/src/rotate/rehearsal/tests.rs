#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cluster::rotation::Policy;

use super::*;
use crate::rotate::fixture::Fixture;
use crate::rotate::status::Reason;

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
    fixture.open(&skewed, Some(-2 * 3_600_000));
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
