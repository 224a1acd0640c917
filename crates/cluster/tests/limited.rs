//! Join tokens with limits: how often, how long, and until what.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::admission::REQUESTS_PER_USE_MAX;
use cluster::command::{Command, CreateToken};
use cluster::node::{LETTER_LIFE, TokenUse, UNFINISHED_LIFE};
use cluster::outcome::{Outcome, Rejection};
use cluster::rotation::Policy;
use cluster::tokens::limited::{Closed, LIMITED_MAX, LISTED_AFTER, NOTE_MAX, Standing, TTL_MAX, TTL_MIN, USES_MAX};
use cluster::{Batch, State, invariant};
use pki::digest::Digest;
use pki::identity::Role;
use pki::join_token::JoinToken;
use proptest::collection::vec;
use proptest::prelude::*;
use support::world::World;
use support::{Cluster, DAY, HOUR, create_token, id, secret};

const ROW: u32 = 2;

fn uses(cluster: &Cluster) -> usize {
    cluster.state.tokens.limited.get(ROW).unwrap().used.len()
}

fn standing(cluster: &Cluster) -> Standing {
    cluster.state.tokens.limited.get(ROW).unwrap().standing(cluster.now)
}

/// A cluster with one token.
fn with_token(uses: u32) -> Cluster {
    let mut cluster = Cluster::new();
    let create = create_token(&cluster.state, 7, uses);
    assert_eq!(cluster.run(create), Outcome::Done { version: 2 });
    cluster
}

/// A join of node `n` by the token.
fn by_token(cluster: &mut Cluster, n: u64) -> cluster::command::Admit {
    cluster::command::Admit { token: TokenUse { row: ROW, generation: 0 }, ..cluster.admission(n) }
}

fn admit(cluster: &mut Cluster, n: u64) -> Outcome {
    let admit = by_token(cluster, n);
    cluster.run(Command::Admit(Box::new(admit)))
}

fn fresh(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Issued { fresh: true, .. })
}

#[test]
fn ten_uses_admit_ten_keys_and_not_one_more() {
    let mut cluster = with_token(10);
    let joins: Vec<_> = (1..=100).map(|n| by_token(&mut cluster, n)).collect();
    let commands: Vec<_> = joins.iter().map(|admit| Command::Admit(Box::new(admit.clone()))).collect();
    let outcomes = cluster.run_all(commands.clone()).outcomes;
    assert_eq!(outcomes.iter().filter(|outcome| fresh(outcome)).count(), 10);
    assert!(outcomes[10..].iter().all(|outcome| *outcome == Outcome::Rejected(Rejection::TokenSpent)));
    // Once more, all of them: the same answers, and no use burned.
    let again = cluster.run_all(commands).outcomes;
    assert!(again[..10].iter().all(|outcome| matches!(outcome, Outcome::Issued { fresh: false, .. })));
    assert_eq!((&again[10..], uses(&cluster), standing(&cluster)), (&outcomes[10..], 10, Standing::Spent));
    let token = cluster.state.tokens.limited.get(ROW).unwrap();
    assert!(
        joins[..10].iter().all(|join| token.used[&join.letter.leaf.spki].0 == join.node),
        "who came by it is known"
    );
    for join in &joins[..10] {
        cluster.run(Command::Confirm { node: join.node.clone(), serial: join.letter.leaf.serial });
    }
    assert_eq!((uses(&cluster), cluster.state.tokens.limited.get(ROW).unwrap().unfinished), (10, 0));
}

#[test]
fn another_request_of_the_same_key_takes_the_place_of_the_first() {
    let mut cluster = with_token(1);
    let first = by_token(&mut cluster, 1);
    assert!(fresh(&cluster.run(Command::Admit(Box::new(first.clone())))));
    let mut second = by_token(&mut cluster, 2);
    let mut letter = (*second.letter).clone();
    letter.leaf.spki = first.letter.leaf.spki;
    second.letter = Arc::new(letter.clone());
    assert!(fresh(&cluster.run(Command::Admit(Box::new(second.clone())))));
    assert!(cluster.state.node(&id(1)).is_none() && cluster.state.node(&id(2)).is_some());
    assert_eq!(uses(&cluster), 1);
    // Once its certificate was used, the key has had its use, whatever becomes of the node.
    cluster.confirm(2, &letter);
    let mut third = by_token(&mut cluster, 3);
    let mut letter = (*third.letter).clone();
    letter.leaf.spki = first.letter.leaf.spki;
    third.letter = Arc::new(letter);
    cluster.refused(Command::Admit(Box::new(third.clone())), Rejection::TokenSpent);
    cluster.remove(2);
    cluster.refused(Command::Admit(Box::new(third)), Rejection::TokenSpent);
    let late = by_token(&mut cluster, 4);
    cluster.refused(Command::Admit(Box::new(late)), Rejection::TokenSpent);
}

#[test]
fn what_gives_way_is_taken_back_and_one_use_makes_so_many_certificates_an_hour() {
    let mut cluster = with_token(1);
    let request = |cluster: &mut Cluster, n| {
        let mut admit = by_token(cluster, n);
        let mut letter = (*admit.letter).clone();
        letter.leaf.spki = support::spki(1);
        admit.letter = Arc::new(letter);
        Command::Admit(Box::new(admit))
    };
    let most = u64::from(REQUESTS_PER_USE_MAX);
    for n in 1..=most {
        let admit = request(&mut cluster, n);
        assert!(fresh(&cluster.run(admit)), "{n}");
        assert_eq!(cluster.state.revocations.len() as u64, n - 1, "all but the one that stands");
    }
    let more = request(&mut cluster, most + 1);
    cluster.refused(more, Rejection::TokenBusy);
    assert!(cluster.state.node(&id(most)).is_some(), "which stays");
    assert_eq!(uses(&cluster), 1);
    cluster.later(HOUR);
    let (left, revoked) = (cluster.state.revocations.len(), Command::RevokeToken { row: ROW });
    cluster.run(revoked);
    assert!(cluster.state.node(&id(most)).is_none());
    assert_eq!(cluster.state.revocations.len(), left + 1, "what a token that is revoked let in and was not used yet");
}

#[test]
fn its_end_is_by_the_leaders_clock() {
    let mut cluster = with_token(10);
    cluster.later(HOUR);
    let last = by_token(&mut cluster, 1);
    assert!(fresh(&cluster.run(Command::Admit(Box::new(last.clone())))), "the last moment counts");
    cluster.later(Duration::from_millis(1));
    assert_eq!(standing(&cluster), Standing::Ended);
    let late = by_token(&mut cluster, 2);
    cluster.refused(Command::Admit(Box::new(late.clone())), Rejection::TokenEnded);
    // Who was admitted in time finishes.
    let again = cluster.run(Command::Admit(Box::new(last.clone())));
    assert!(matches!(again, Outcome::Issued { fresh: false, .. }));
    assert!(matches!(cluster.confirm(1, &last.letter), Outcome::Done { .. }));
    // A leader whose clock is behind judges by that one.
    cluster.now = cluster.now.saturating_sub(HOUR);
    let behind = by_token(&mut cluster, 3);
    assert!(fresh(&cluster.run(Command::Admit(Box::new(behind)))));
}

#[test]
fn a_use_comes_back_when_the_join_was_never_finished() {
    let mut cluster = Cluster::new();
    let Command::CreateToken(mut create) = create_token(&cluster.state, 7, 1) else { panic!("a token") };
    create.ttl = 30 * DAY;
    cluster.run(Command::CreateToken(create));
    assert!(fresh(&admit(&mut cluster, 1)));
    let second = by_token(&mut cluster, 2);
    cluster.refused(Command::Admit(Box::new(second)), Rejection::TokenSpent);
    cluster.later(UNFINISHED_LIFE);
    assert_eq!(cluster.collect(), Outcome::Collected(vec![id(1)]));
    assert_eq!((uses(&cluster), standing(&cluster)), (0, Standing::Open));
    assert!(fresh(&admit(&mut cluster, 3)));
    // Also when an operator gives it up.
    cluster.remove(3);
    assert!(fresh(&admit(&mut cluster, 4)));
    // And when it asked with another key meanwhile.
    for _ in 0..6 {
        cluster.renew(4);
    }
    cluster.remove(4);
    assert_eq!(uses(&cluster), 0);
}

#[test]
fn revoked_it_admits_nobody_and_drops_who_is_not_in() {
    let mut cluster = with_token(10);
    let inside = by_token(&mut cluster, 1);
    cluster.run(Command::Admit(Box::new(inside.clone())));
    cluster.confirm(1, &inside.letter);
    let outside = by_token(&mut cluster, 2);
    cluster.run(Command::Admit(Box::new(outside.clone())));
    assert!(matches!(cluster.run(Command::RevokeToken { row: ROW }), Outcome::Done { .. }));
    assert!(cluster.state.node(&id(1)).is_some() && cluster.state.node(&id(2)).is_none());
    assert_eq!(standing(&cluster), Standing::Closed(Closed::Revoked));
    cluster.refused(Command::Admit(Box::new(outside)), Rejection::TokenRevoked);
    assert_eq!(cluster.run(Command::RevokeToken { row: ROW }), Outcome::Unchanged);
    assert_eq!(cluster.state.already(&Command::RevokeToken { row: ROW }), Some(Outcome::Unchanged));
    cluster.refused(Command::RevokeToken { row: 3 }, Rejection::UnknownToken);
    cluster.refused(Command::RevokeToken { row: 0 }, Rejection::UnknownToken);
}

#[test]
fn a_join_that_waits_for_its_signer_takes_a_use_too() {
    let mut cluster = with_token(1);
    let ask = |cluster: &Cluster, n, key| {
        let Command::Ask(mut ask) = cluster.ask_to_join(n, key) else { panic!("an ask") };
        if let cluster::command::Right::Token { token, .. } = &mut ask.right {
            *token = TokenUse { row: ROW, generation: 0 };
        }
        Command::Ask(ask)
    };
    let first = ask(&cluster, 1, 50);
    assert_eq!(cluster.run(first.clone()), Outcome::Pending { node: id(1) });
    assert_eq!(cluster.run(first), Outcome::Pending { node: id(1) });
    let other = ask(&cluster, 2, 51);
    cluster.refused(other.clone(), Rejection::TokenSpent);
    // The same key with another request: the first gives way.
    let Command::Ask(mut again) = ask(&cluster, 3, 50) else { panic!("an ask") };
    again.csr.push(b'2');
    assert_eq!(cluster.run(Command::Ask(again)), Outcome::Pending { node: id(3) });
    assert!(cluster.state.node(&id(1)).is_none());
    // What nobody signs is given up, and the use with it.
    cluster.later(LETTER_LIFE.max(UNFINISHED_LIFE));
    cluster.collect();
    assert_eq!(uses(&cluster), 0);
    cluster.refused(other, Rejection::TokenEnded);
}

#[test]
fn it_is_found_by_its_text_and_nothing_else() {
    let cluster = with_token(1);
    let tokens = &cluster.state.tokens;
    let digest = Digest::of(&cluster.state.roots.served().unwrap().bundle);
    let text = |digest, fips| JoinToken::new(digest, &secret(7).0, fips).text().to_owned();
    let found = tokens.admit(&digest, false, &text(digest, false)).unwrap();
    assert_eq!((found.role, found.token), (Role::Worker, TokenUse { row: ROW, generation: 0 }));
    let other = Digest::of(b"other");
    for refused in [
        text(other, false),
        text(digest, true),
        text(digest, false).replace("SWMTKN-1-", "SWMTKN-2-0-"),
        text(digest, false).to_uppercase(),
        format!("{} ", text(digest, false)),
        JoinToken::new(digest, &secret(8).0, false).text().to_owned(),
        String::new(),
        "-".repeat(1 << 20),
    ] {
        assert_eq!(tokens.admit(&digest, false, &refused), None, "{refused}");
    }
    assert_eq!(tokens.admit(&other, false, &text(other, false)), None, "another root is served");
    let snapshot = cluster.state.encode_snapshot();
    let shown = secret(7).0.expose().to_vec();
    assert!(!snapshot.windows(16).any(|bytes| bytes == shown), "the secret is kept nowhere");
}

#[test]
fn what_no_token_may_have_is_refused() {
    let mut cluster = Cluster::new();
    let wrong = |change: fn(&mut CreateToken)| {
        let Command::CreateToken(mut create) = create_token(&cluster.state, 7, 1) else { panic!("a token") };
        change(&mut create);
        Command::CreateToken(create)
    };
    type Wrong = fn(&mut CreateToken);
    let rows: [(Wrong, Rejection); 6] = [
        (|create| create.uses = 0, Rejection::TokenLimits),
        (|create| create.uses = USES_MAX + 1, Rejection::TokenLimits),
        (|create| create.ttl = TTL_MIN - Duration::from_secs(1), Rejection::TokenLimits),
        (|create| create.ttl = TTL_MAX + Duration::from_secs(1), Rejection::TokenLimits),
        (|create| create.note = "x".repeat(NOTE_MAX + 1), Rejection::TokenLimits),
        (|create| create.digest = Digest::of(b"other"), Rejection::OutOfSequence),
    ];
    let commands: Vec<_> = rows.iter().map(|(change, why)| (wrong(*change), why.clone())).collect();
    for (command, why) in commands {
        cluster.refused(command, why);
    }
    for n in 0..LIMITED_MAX {
        let Command::CreateToken(mut create) = create_token(&cluster.state, 7, 1) else { panic!("a token") };
        create.hash.0[..8].copy_from_slice(&n.to_be_bytes());
        assert!(matches!(
            cluster
                .state
                .apply(
                    cluster.state.index + 1,
                    &Batch { time: cluster.now, commands: vec![Command::CreateToken(create)] }
                )
                .outcomes[0],
            Outcome::Done { .. }
        ));
    }
    let full = create_token(&cluster.state, 9, 1);
    cluster.refused(full.clone(), Rejection::TokenLimits);
    // A week after their end they are not even listed, and their numbers are not given again.
    cluster.later(HOUR + LISTED_AFTER);
    assert!(cluster.state.tokens_ended(cluster.now));
    cluster.run(Command::Collect { nodes: Vec::new() });
    assert_eq!(cluster.state.tokens.limited.rows().len(), 0);
    cluster.run(full);
    assert_eq!(cluster.state.tokens.limited.rows().next().unwrap().0, 2 + LIMITED_MAX as u32);
    let again = create_token(&cluster.state, 9, 1);
    assert_eq!(cluster.run(again.clone()), Outcome::Unchanged, "said twice");
    assert_eq!(cluster.state.already(&again), Some(Outcome::Unchanged));
}

#[test]
fn they_die_with_the_root_that_they_name() {
    let closed = |world: &World| world.cluster.state.tokens.limited.get(ROW).unwrap().closed.map(|(why, _)| why);
    let to_the_end = |world: &mut World| {
        while world.rotation().is_some() {
            for n in 0..world.members.len() {
                while world.convert(n) || world.narrow(n) {}
            }
            assert!(matches!(world.advance(), Outcome::Done { .. }));
        }
    };
    for bundle in [false, true] {
        let mut world = World::new(1);
        let create = create_token(&world.cluster.state, 7, 5);
        world.run(create);
        assert!(matches!(world.start(1, bundle, Policy::WaitForAll), Outcome::Done { .. }));
        assert_eq!(closed(&world), None, "joiners still get the old root");
        to_the_end(&mut world);
        assert_eq!(closed(&world), Some(Closed::Root), "bundle: {bundle}");
    }
    // Turned back in time, the root is what it was, and so is the token.
    let mut world = World::new(1);
    let create = create_token(&world.cluster.state, 7, 5);
    world.run(create);
    world.start(1, false, Policy::WaitForAll);
    assert!(matches!(world.abort(Policy::WaitForAll), Outcome::Done { .. }));
    to_the_end(&mut world);
    assert_eq!(closed(&world), None);
}

#[test]
fn they_die_at_once_in_an_emergency_and_when_the_cluster_is_made_anew() {
    let mut world = World::new(1);
    let create = create_token(&world.cluster.state, 7, 5);
    world.run(create);
    assert!(matches!(world.start(1, true, Policy::Emergency { bound: HOUR }), Outcome::Done { .. }));
    let row = world.cluster.state.tokens.limited.get(ROW).unwrap();
    assert_eq!(row.closed.map(|(why, _)| why), Some(Closed::Root));

    for anew in [|cluster: &mut Cluster| cluster.force(0), |cluster: &mut Cluster| cluster.restoring(7, Vec::new())] {
        let mut cluster = with_token(5);
        let anew = anew(&mut cluster);
        assert!(matches!(cluster.run(anew), Outcome::Enlisted { .. }));
        assert_eq!(standing(&cluster), Standing::Closed(Closed::Refounded));
        let late = by_token(&mut cluster, 3);
        assert!(matches!(cluster.run(Command::Admit(Box::new(late))), Outcome::Rejected(Rejection::Token)));
    }
}

/// What may happen around one token.
#[derive(Clone, Debug)]
enum Event {
    /// A join with this key, or the same request once more.
    Join {
        key: u8,
        again: bool,
    },
    /// The first certificate on offer to this one is used.
    Finish(u8),
    Remove(u8),
    Later(u8),
    Collect,
    Revoke,
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any::<(u8, bool)>().prop_map(|(key, again)| Event::Join { key: key % 12, again }),
        5 => any::<u8>().prop_map(Event::Finish),
        2 => any::<u8>().prop_map(Event::Remove),
        2 => (0_u8..30).prop_map(Event::Later),
        1 => Just(Event::Collect),
        1 => Just(Event::Restart),
        1 => (0_u8..12).prop_map(|n| if n == 0 { Event::Revoke } else { Event::Collect }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However joins, ends and restarts follow each other: no more keys ever get a certificate into use than the token has uses, nobody
    /// joins after its end, and every invariant holds after every step.
    #[test]
    fn a_token_never_admits_more_than_its_uses(uses in 1_u32..6, events in vec(event(), 1..120)) {
        let mut cluster = with_token(uses);
        let until = cluster.state.tokens.limited.get(ROW).unwrap().until;
        let mut requests: Vec<cluster::command::Admit> = Vec::new();
        let mut finished = std::collections::BTreeSet::new();
        for event in events {
            let joins: Vec<_> = cluster.state.nodes.values().filter(|node| node.unfinished.is_some()).cloned().collect();
            let nth = |n: u8| joins.get(usize::from(n) % joins.len().max(1)).cloned();
            match event {
                Event::Join { key, again } => {
                    let known = requests.iter().rev().find(|admit| admit.letter.leaf.spki == support::spki(1_000 + u64::from(key)));
                    let admit = match known.filter(|_| again) {
                        Some(known) => known.clone(),
                        None => {
                            let n = 10 + cluster.state.index;
                            let mut admit = by_token(&mut cluster, n);
                            let mut letter = (*admit.letter).clone();
                            letter.leaf.spki = support::spki(1_000 + u64::from(key));
                            admit.letter = Arc::new(letter);
                            requests.push(admit.clone());
                            admit
                        }
                    };
                    let outcome = cluster.run(Command::Admit(Box::new(admit)));
                    prop_assert!(!fresh(&outcome) || cluster.now <= until);
                }
                Event::Finish(n) => if let Some(node) = nth(n) {
                    cluster.run(Command::Confirm { node: node.id.clone(), serial: node.offered[0].serial });
                    finished.insert(node.offered[0].spki);
                },
                Event::Remove(n) => if let Some(node) = cluster.state.nodes.keys().nth(1 + usize::from(n) % 8).cloned() {
                    cluster.run(Command::RemoveNode { node, force: true, ready: false });
                },
                Event::Later(minutes) => { cluster.later(Duration::from_secs(60 * u64::from(minutes) * u64::from(minutes))); }
                Event::Collect => { cluster.collect(); }
                Event::Revoke => { cluster.run(Command::RevokeToken { row: ROW }); }
                Event::Restart => cluster.state = State::decode_snapshot(&cluster.state.encode_snapshot()).unwrap(),
            }
            prop_assert!(finished.len() <= uses as usize);
            invariant::check(&cluster.state).unwrap();
        }
    }
}
