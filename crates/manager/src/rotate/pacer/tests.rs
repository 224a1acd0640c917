#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cluster::Outcome;
use cluster::rotation::Policy;

use super::*;
use crate::message::{Next, Telling};
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
    assert!(turns.iter().all(|turn| turn.need == Need::Trust && pacer.pushes(&turn.node) == 1));
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
fn a_root_that_a_node_could_not_keep_is_sent_again_at_each_of_its_turns() {
    let mut fixture = Fixture::new();
    fixture.rotate(Policy::WaitForAll);
    let manager = fixture.manager.clone();
    let mut telling = Telling::new(manager.clone(), "session".to_owned(), false);
    let mut root = |fixture: &Fixture, pushes| match telling.next(&fixture.state, None, pushes) {
        Next::Say(message) => Some(message.root_ca.to_vec()),
        Next::Wait => None,
        Next::Gone => panic!("it is registered"),
    };
    let mut pacer = Pacer::new(2);
    fixture.renew(&manager);
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
    assert_eq!(root(&fixture, pacer.pushes(&manager)), Some(fixture.served()));
    let to = fixture.state.rotation().unwrap().to().bundle.clone();
    assert_ne!(to, fixture.served());
    for pushes in 1..=TRIES_MAX + 3 {
        let turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, &[]);
        assert_eq!(turns, [Turn { node: manager.clone(), need: Need::Trust }], "{pushes}");
        assert_eq!(pacer.pushes(&manager), pushes);
        assert_eq!(root(&fixture, pushes), Some(to.clone()), "{pushes}");
        assert_eq!(root(&fixture, pushes), None, "once a turn");
        fixture.now = pacer.next_deadline().unwrap();
    }
    fixture.take_root(&manager);
    let turns = pacer.step(fixture.now, &fixture.state, &fixture.sessions, std::slice::from_ref(&manager));
    assert!(turns.is_empty());
    assert_eq!(root(&fixture, pacer.pushes(&manager)), None, "it has it");
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

/// Nodes told in a look, as the leader's loop would see it.
fn looked(pacer: &mut Pacer, fixture: &mut Fixture, news: &[NodeId]) -> crate::rotate::look::Look {
    crate::rotate::look::look(pacer, &mut fixture.sessions, &fixture.state, fixture.now, news)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The clock runs 45 minutes ahead for one entry, and is then set right.
fn ahead(fixture: &mut Fixture) {
    let right = fixture.now;
    fixture.later(secs(45 * 60));
    fixture.apply(cluster::Command::Collect { nodes: Vec::new() });
    fixture.now = right;
}

#[test]
fn a_bound_ends_a_phase_although_the_cluster_s_time_stands_still() {
    let mut fixture = Fixture::new();
    let manager = fixture.manager.clone();
    fixture.node(1, false);
    ahead(&mut fixture);
    assert!(matches!(fixture.emergency(secs(30)), Outcome::Done { .. }));
    let mut pacer = Pacer::new(2);
    looked(&mut pacer, &mut fixture, &[]);
    fixture.take_root(&manager);
    assert!(looked(&mut pacer, &mut fixture, std::slice::from_ref(&manager)).due.is_none());
    fixture.later(secs(30));
    assert!(looked(&mut pacer, &mut fixture, &[]).due.is_some());
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
}

#[test]
fn a_deadline_is_not_taken_for_over_while_the_cluster_s_time_is_ahead() {
    let mut fixture = Fixture::new();
    let manager = fixture.manager.clone();
    let nodes: Vec<_> = (1..=50).map(|n| fixture.node(n, true)).collect();
    ahead(&mut fixture);
    let end = fixture.now.saturating_add(secs(600));
    fixture.rotate(Policy::Deadline(end));
    let mut pacer = Pacer::new(2);
    looked(&mut pacer, &mut fixture, &[]);
    fixture.renew(&manager);
    assert!(looked(&mut pacer, &mut fixture, &[manager]).due.is_none());
    assert_eq!(fixture.advance(), Outcome::Rejected(cluster::Rejection::NotConverted));
    assert_eq!(pacer.blocking().len(), nodes.len());
    fixture.now = end;
    for _ in 0..4 {
        looked(&mut pacer, &mut fixture, &[]);
    }
    assert!(pacer.ends(fixture.state.rotation().unwrap()).unwrap() > end, "not all were told");
}

#[test]
fn a_clock_that_is_set_back_stops_no_turn_and_no_phase() {
    let mut fixture = Fixture::new();
    let manager = fixture.manager.clone();
    for n in 1..=300 {
        fixture.node(n, true);
    }
    let begun = fixture.now;
    fixture.later(secs(1800));
    let away = fixture.node(301, false);
    fixture.emergency(secs(60));
    let mut pacer = Pacer::new(2);
    looked(&mut pacer, &mut fixture, &[]);
    fixture.take_root(&manager);
    let mut news = vec![manager];
    // From here it is half an hour earlier.
    fixture.now = begun;
    let mut steps = 0;
    while pacer.blocking().len() > 1 {
        let seen = looked(&mut pacer, &mut fixture, &news);
        if seen.due.is_some() {
            assert_eq!(fixture.advance(), Outcome::Rejected(cluster::Rejection::NotConverted));
            assert_eq!(fixture.state.rotation().unwrap().since, begun, "the phase counts from here");
        }
        news = seen.wake;
        for node in &news {
            fixture.take_root(node);
        }
        fixture.later(seen.wait.min(secs(1)));
        steps += 1;
        assert!(steps < 2_000, "turns have stopped");
    }
    assert!(fixture.now.since(begun) < secs(10), "{:?}", fixture.now.since(begun));
    assert_eq!(pacer.blocking().first(), Some(&away));
    fixture.now = begun.saturating_add(secs(60));
    assert!(looked(&mut pacer, &mut fixture, &news).due.is_some());
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
}

#[test]
fn time_in_which_nobody_led_puts_nobody_aside() {
    let mut fixture = Fixture::new();
    let manager = fixture.manager.clone();
    for n in 1..=50 {
        fixture.node(n, true);
    }
    fixture.emergency(secs(60));
    fixture.take_root(&manager);
    fixture.later(secs(61));
    // The daemon starts: everybody is in session again, and the pacer knows nothing.
    let mut pacer = Pacer::new(2);
    let seen = looked(&mut pacer, &mut fixture, &[]);
    assert!(seen.due.is_none() && !seen.wake.is_empty());
    let mut news = seen.wake;
    while !pacer.blocking().is_empty() {
        for node in &news {
            fixture.take_root(node);
        }
        let seen = looked(&mut pacer, &mut fixture, &news);
        news = seen.wake;
        fixture.later(seen.wait.min(secs(1)));
    }
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
    assert!(fixture.state.rotation().unwrap().aside.is_empty());

    // Who is away is put aside all the same, ten seconds after this manager saw the phase.
    let mut fixture = Fixture::new();
    let manager = fixture.manager.clone();
    fixture.node(1, false);
    fixture.emergency(secs(60));
    fixture.take_root(&manager);
    fixture.later(secs(61));
    let mut pacer = Pacer::new(2);
    let seen = looked(&mut pacer, &mut fixture, &[]);
    assert_eq!((seen.due, seen.wait), (None, PHASE_TIME_MIN));
    fixture.later(PHASE_TIME_MIN);
    assert!(looked(&mut pacer, &mut fixture, &[]).due.is_some());
}

/// Nodes that are in session and ignore the bundle, with ids before and between those of 200 that do not.
fn emergency_among(liars: u64, phases: usize) {
    let mut fixture = Fixture::new();
    let manager = fixture.manager.clone();
    let mut honest = BTreeSet::new();
    for n in 1..=(liars + 200) {
        let id = fixture.node(n, true);
        if n > liars / 2 && honest.len() < 200 {
            honest.insert(id);
        }
    }
    fixture.emergency(secs(60));
    let mut pacer = Pacer::new(2);
    for _ in 0..phases {
        let phase = fixture.state.rotation().unwrap().phase;
        let takes = Duration::from_millis(if phase == Phase::Renew { 600 } else { 60 });
        let begun = fixture.now;
        let mut coming: BTreeSet<(Time, NodeId)> = BTreeSet::new();
        let (mut news, mut done) = (Vec::new(), 0);
        loop {
            let seen = looked(&mut pacer, &mut fixture, &news);
            news.clear();
            let honest = |node: &NodeId| *node == manager || honest.contains(node);
            coming.extend(seen.wake.into_iter().filter(honest).map(|node| (fixture.now.saturating_add(takes), node)));
            if seen.due.is_some() {
                break;
            }
            let next = fixture.now.saturating_add(seen.wait);
            fixture.now = coming.first().map_or(next, |(at, _)| next.min(*at));
            while let Some((_, node)) = coming.first().filter(|(at, _)| *at <= fixture.now).cloned() {
                coming.pop_first();
                let record = fixture.state.node(&node).unwrap();
                match rotation::need(&fixture.state.roots, record) {
                    Some(Need::Trust) => fixture.take_root(&node),
                    Some(Need::Renewal) => fixture.renew(&node),
                    None => continue,
                }
                done += usize::from(node != manager);
                news.push(node);
            }
        }
        assert_eq!(done, 200, "of {liars} in {phase:?}");
        assert!(fixture.now.since(begun) <= secs(61));
        assert!(matches!(fixture.advance(), Outcome::Done { .. }));
    }
}

#[test]
fn who_ignores_an_emergency_keeps_nobody_from_his_turn() {
    emergency_among(0, 3);
    emergency_among(400, 3);
}
