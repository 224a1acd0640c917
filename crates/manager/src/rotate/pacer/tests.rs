#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cluster::Outcome;
use cluster::rotation::Policy;

use super::*;
use crate::rotate::fixture::Fixture;

/// Whose turn has come, in the order of their turns.
fn nodes(turns: &[Turn]) -> Vec<NodeId> {
    turns.iter().map(|turn| turn.node.clone()).collect()
}

#[test]
fn without_a_rotation_nobody_is_told_anything() {
    let mut fixture = Fixture::new();
    let node = fixture.node(1, true);
    let mut pacer = Pacer::new(2);
    assert!(pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[node]).is_empty());
    assert_eq!(pacer.due(&fixture.state, fixture.now), None);
}

#[test]
fn j287_the_manager_first_then_who_is_here_and_then_the_next_phase() {
    let mut fixture = Fixture::new();
    let (here, away) = (fixture.node(1, true), fixture.node(2, false));
    assert!(matches!(fixture.rotate(Policy::WaitForAll), Outcome::Done { .. }));
    let mut pacer = Pacer::new(2);
    let manager = fixture.manager.clone();

    let turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
    assert_eq!(turns, [Turn { node: manager.clone(), need: Need::Renewal }]);
    assert_eq!(pacer.blocking().len(), 3);

    fixture.renew(&manager);
    let turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, std::slice::from_ref(&manager));
    assert_eq!(turns, [Turn { node: here.clone(), need: Need::Renewal }]);

    fixture.renew(&here);
    assert!(pacer.step(fixture.now, &fixture.state, &fixture.sessions, std::slice::from_ref(&here)).is_empty());
    assert_eq!(pacer.due(&fixture.state, fixture.now), None, "one is away");
    assert_eq!(pacer.blocking().iter().collect::<Vec<_>>(), [&away]);

    fixture.open(&away, None);
    let turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, std::slice::from_ref(&away));
    assert_eq!(nodes(&turns), std::slice::from_ref(&away), "told as soon as it is here");
    fixture.renew(&away);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, std::slice::from_ref(&away));
    let rotation = fixture.state.rotation().unwrap().clone();
    assert_eq!(pacer.due(&fixture.state, fixture.now), Some((rotation.id, Phase::Renew)));
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));

    fixture.later(Duration::from_secs(1));
    let turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
    assert_eq!(turns.len(), 3);
    assert!(turns.iter().all(|turn| turn.need == Need::Trust && pacer.is_pushed(&turn.node)));
    for turn in turns {
        fixture.take_root(&turn.node);
        pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[turn.node]);
    }
    assert_eq!(pacer.due(&fixture.state, fixture.now), Some((rotation.id, Phase::Trust)));
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
    assert!(fixture.state.rotation().is_none());
    assert!(pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]).is_empty());
}

#[test]
fn no_more_are_busy_than_the_window_allows() {
    let mut fixture = Fixture::new();
    let all: Vec<_> = (1..=100).map(|n| fixture.node(n, true)).collect();
    fixture.rotate(Policy::WaitForAll);
    let manager = fixture.manager.clone();
    let mut pacer = Pacer::new(1);
    // A signature takes so long that the least is served.
    for _ in 0..100 {
        pacer.measured(Duration::from_millis(50));
    }
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
    fixture.renew(&manager);
    let mut turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[manager]);
    let mut told = 0;
    loop {
        assert!(turns.len() <= WINDOW_MIN, "{}", turns.len());
        let Some(turn) = turns.pop() else {
            let Some(next) = pacer.next_deadline() else { break };
            fixture.now = next;
            turns.extend(pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]));
            continue;
        };
        told += 1;
        fixture.renew(&turn.node);
        turns.extend(pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[turn.node]));
    }
    assert_eq!(told, all.len());
    assert!(pacer.blocking().is_empty());
}

#[test]
fn turns_are_spread_over_the_time_in_which_they_are_served() {
    let mut fixture = Fixture::new();
    let all: Vec<_> = (1..=100).map(|n| fixture.node(n, true)).collect();
    fixture.rotate(Policy::WaitForAll);
    let manager = fixture.manager.clone();
    let mut pacer = Pacer::new(2);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
    fixture.renew(&manager);
    let began = fixture.now;
    let mut given = pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[manager]).len();
    assert_eq!(given, 16, "so many at once");
    while given < all.len() {
        fixture.now = pacer.next_deadline().unwrap();
        let turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]).len();
        assert!(turns <= 2, "{turns}");
        given += turns;
    }
    // 84 turns at 18 signatures of 150 µs, in half the time of two cores.
    let took = fixture.now.since(began);
    assert!((Duration::from_millis(220)..Duration::from_millis(250)).contains(&took), "{took:?}");
}

#[test]
fn o11_who_does_not_answer_is_told_again_and_then_counts_as_refusing() {
    let mut fixture = Fixture::new();
    let (deaf, fine) = (fixture.node(1, true), fixture.node(2, true));
    fixture.rotate(Policy::WaitForAll);
    let manager = fixture.manager.clone();
    let mut pacer = Pacer::new(2);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
    fixture.renew(&manager);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[manager]);
    fixture.renew(&fine);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[fine]);
    for count in 1..=TRIES_MAX {
        assert_eq!(pacer.tries(&deaf).unwrap().count, count);
        assert!(!pacer.is_refusing(&deaf));
        fixture.now = pacer.next_deadline().unwrap();
        let turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
        assert_eq!(nodes(&turns), std::slice::from_ref(&deaf), "{count}");
    }
    assert!(pacer.is_refusing(&deaf));
    assert_eq!(pacer.due(&fixture.state, fixture.now), None);
    fixture.renew(&deaf);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, std::slice::from_ref(&deaf));
    assert!(!pacer.is_refusing(&deaf));
    assert!(pacer.due(&fixture.state, fixture.now).is_some());
}

#[test]
fn a_deadline_ends_a_phase_but_never_without_the_manager() {
    let mut fixture = Fixture::new();
    fixture.node(1, false);
    let end = fixture.now.saturating_add(Duration::from_secs(10));
    fixture.rotate(Policy::Deadline(end));
    let manager = fixture.manager.clone();
    let mut pacer = Pacer::new(2);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
    assert_eq!(pacer.due(&fixture.state, end), None, "the manager has not renewed");
    fixture.renew(&manager);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[manager]);
    assert_eq!(pacer.due(&fixture.state, fixture.now), None);
    assert!(pacer.due(&fixture.state, end).is_some());
}

#[test]
fn j306_a_removed_node_is_not_waited_for() {
    let mut fixture = Fixture::new();
    let gone = fixture.node(1, false);
    fixture.rotate(Policy::WaitForAll);
    let manager = fixture.manager.clone();
    let mut pacer = Pacer::new(2);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
    fixture.renew(&manager);
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[manager]);
    assert_eq!(pacer.due(&fixture.state, fixture.now), None);
    fixture.apply(cluster::Command::RemoveNode { node: gone.clone(), force: true, ready: false });
    pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[gone]);
    assert!(pacer.due(&fixture.state, fixture.now).is_some());
}
