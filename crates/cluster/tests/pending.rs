//! Requests whose signer is not at hand: kept, found again, answered, given up.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;

use cluster::command::{Ask, Command, Renew, Right, UpdateCluster};
use cluster::invariant;
use cluster::node::{LETTER_LIFE, UNFINISHED_LIFE};
use cluster::outcome::{Outcome, Rejection};
use cluster::roots::Custody;
use cluster::state::State;
use cluster::tokens::UNFINISHED_PER_TOKEN_MAX;
use support::{Cluster, HOUR, csr, id, root, secret, spki};

/// What a signer makes of the request that node `n` waits with.
fn answer(cluster: &mut Cluster, n: u64) -> Renew {
    let asked = cluster.node(n).pending.clone().expect("a request");
    let mut renew = cluster.renewal(n);
    let mut letter = (*renew.letter).clone();
    letter.csr.clone_from(&asked.csr);
    letter.leaf.spki = asked.spki;
    renew.letter = Arc::new(letter);
    renew
}

fn ask_again(cluster: &Cluster, n: u64, key: u64) -> Command {
    let right = Right::Node { cut: cluster.node(n).cut };
    Command::Ask(Box::new(Ask { node: id(n), right, csr: csr(key), spki: spki(key) }))
}

fn pending(n: u64) -> Outcome {
    Outcome::Pending { node: id(n) }
}

#[test]
fn c042_a_join_waits_for_its_signer_and_is_then_like_any_other() {
    let mut cluster = Cluster::new();
    let ask = cluster.ask_to_join(1, 10);
    assert_eq!(cluster.run(ask.clone()), pending(1));
    assert_eq!(cluster.state.tokens.rows[0].unfinished, 1);
    // Asked again, under whatever id was drawn: the same join.
    assert_eq!(cluster.run(ask), pending(1));
    let again = cluster.ask_to_join(2, 10);
    assert_eq!(cluster.run(again.clone()), pending(1));
    assert_eq!(cluster.state.nodes.len(), 2);

    let renew = answer(&mut cluster, 1);
    let letter = Arc::clone(&renew.letter);
    let outcome = cluster.run(Command::Renew(Box::new(renew)));
    assert_eq!(outcome, Outcome::Issued { node: id(1), letter: Arc::clone(&letter), fresh: true });
    assert!(cluster.state.pending.is_empty() && cluster.node(1).pending.is_none());
    assert_eq!(cluster.run(again), Outcome::Issued { node: id(1), letter: Arc::clone(&letter), fresh: false });
    assert!(matches!(cluster.confirm(1, &letter), Outcome::Done { .. }));
    assert_eq!(cluster.state.tokens.rows[0].unfinished, 0);
    assert!(cluster.state.joins.is_empty());
    invariant::check(&cluster.state).unwrap();
}

#[test]
fn c043_a_renewal_waits_beside_the_leaf_of_now() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let first = ask_again(&cluster, 1, 20);
    assert_eq!(cluster.run(first), pending(1));
    let newer = ask_again(&cluster, 1, 21);
    assert_eq!(cluster.run(newer.clone()), pending(1), "the newest counts");
    assert_eq!(cluster.node(1).pending.as_ref().unwrap().spki, spki(21));
    assert!(cluster.node(1).current.is_some());
    // What was signed for the older request is registered, and leaves the newer one waiting.
    let mut old = cluster.renewal(1);
    let mut letter = (*old.letter).clone();
    (letter.csr, letter.leaf.spki) = (csr(20), spki(20));
    old.letter = Arc::new(letter);
    assert!(matches!(cluster.run(Command::Renew(Box::new(old))), Outcome::Issued { fresh: true, .. }));
    assert!(cluster.state.pending.contains(&id(1)));
    let renew = answer(&mut cluster, 1);
    assert!(matches!(cluster.run(Command::Renew(Box::new(renew))), Outcome::Issued { fresh: true, .. }));
    assert!(cluster.state.pending.is_empty());
    assert!(matches!(cluster.run(newer), Outcome::Issued { fresh: false, .. }), "answered already");
    invariant::check(&cluster.state).unwrap();
}

#[test]
fn a_request_is_judged_as_others_are() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let stale = ask_again(&cluster, 1, 20);
    let Command::Ask(mut cut) = stale else { panic!("an ask") };
    cut.right = Right::Node { cut: 1 };
    cluster.refused(Command::Ask(cut), Rejection::Cut);
    let taken = cluster.ask_to_join(1, 30);
    cluster.refused(taken, Rejection::IdTaken);
    let by_old_token = cluster.ask_to_join(2, 31);
    let update = UpdateCluster {
        version: cluster.state.cluster_version,
        worker_secret: Some(secret(9)),
        ..UpdateCluster::default()
    };
    cluster.run(Command::UpdateCluster(Box::new(update)));
    cluster.refused(by_old_token, Rejection::Token);
    cluster.remove(1);
    let gone = Command::Ask(Box::new(Ask { node: id(1), right: Right::Node { cut: 0 }, csr: csr(20), spki: spki(20) }));
    cluster.refused(gone, Rejection::Removed);
}

#[test]
fn who_waits_by_a_token_that_is_replaced_waits_in_vain() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let renewal = ask_again(&cluster, 1, 30);
    cluster.run(renewal);
    let ask = cluster.ask_to_join(2, 20);
    cluster.run(ask);
    let admission = cluster.admission(3);
    cluster.run(Command::Admit(Box::new(admission)));
    let update = UpdateCluster {
        version: cluster.state.cluster_version,
        worker_secret: Some(secret(9)),
        ..UpdateCluster::default()
    };
    cluster.run(Command::UpdateCluster(Box::new(update)));
    assert!(cluster.state.node(&id(2)).is_none(), "it was given nothing yet");
    assert!(cluster.state.node(&id(3)).is_some(), "it was given a certificate before");
    assert!(cluster.state.pending.iter().eq([&id(1)]), "a member goes on waiting");
    assert_eq!(cluster.state.tokens.rows[0].unfinished, 1);
    invariant::check(&cluster.state).unwrap();
}

#[test]
fn c046_waiting_joins_count_against_their_token() {
    let mut cluster = Cluster::new();
    let ask = cluster.ask_to_join(1, 10);
    cluster.run(ask);
    assert_eq!(cluster.state.tokens.rows[0].unfinished, 1);
    let mut state = cluster.state.clone();
    let mut tokens = (*state.tokens).clone();
    tokens.rows[0].unfinished = UNFINISHED_PER_TOKEN_MAX;
    state.tokens = Arc::new(tokens);
    let batch = cluster::Batch { time: cluster.now, commands: vec![cluster.ask_to_join(2, 11)] };
    assert_eq!(state.apply(9, &batch).outcomes, [Outcome::Rejected(Rejection::TokenBusy)]);
}

#[test]
fn what_nobody_signs_is_given_up_after_a_day() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let ask = cluster.ask_to_join(2, 20);
    cluster.run(ask);
    let renewal = ask_again(&cluster, 1, 30);
    cluster.run(renewal);
    cluster.later(LETTER_LIFE.max(UNFINISHED_LIFE).saturating_sub(HOUR));
    assert!(cluster.state.collectable(cluster.now).is_empty());
    cluster.later(HOUR);
    let nodes = cluster.state.collectable(cluster.now);
    assert_eq!(nodes, [id(1), id(2)]);
    assert_eq!(cluster.run(Command::Collect { nodes }), Outcome::Collected(vec![id(2)]));
    assert!(cluster.state.pending.is_empty() && cluster.state.joins.is_empty());
    assert!(cluster.node(1).pending.is_none() && cluster.node(1).current.is_some());
    invariant::check(&cluster.state).unwrap();
}

#[test]
fn c044_what_waits_is_found_after_a_restart() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let ask = cluster.ask_to_join(2, 20);
    cluster.run(ask.clone());
    let renewal = ask_again(&cluster, 1, 30);
    cluster.run(renewal);
    cluster.state = State::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert_eq!(cluster.state.pending.iter().cloned().collect::<Vec<_>>(), [id(1), id(2)]);
    assert_eq!(cluster.run(ask), pending(2));
    invariant::check(&cluster.state).unwrap();
}

#[test]
fn c271_the_key_of_the_root_changes_hands_without_a_rotation() {
    let mut cluster = Cluster::new();
    let entrust = |cluster: &mut Cluster, trust, custody| {
        let version = cluster.state.cluster_version;
        let update = UpdateCluster { version, custody: Some((trust, custody)), ..UpdateCluster::default() };
        Command::UpdateCluster(Box::new(update))
    };
    let trust = root().trust;
    let out = entrust(&mut cluster, trust, Custody::Outside);
    assert!(matches!(cluster.run(out), Outcome::Done { .. }));
    assert!(cluster.state.roots.signing().unwrap().custody.is_outside() && cluster.state.rotation().is_none());
    let token = entrust(&mut cluster, trust, Custody::Token("pkcs11:object=root".into()));
    cluster.run(token);
    assert!(matches!(&cluster.state.roots.signing().unwrap().custody, Custody::Token(_)));
    let other = entrust(&mut cluster, cluster::node::BlobDigest([1; 32]), Custody::Outside);
    cluster.refused(other, Rejection::Issuer);
    assert!(!cluster.state.roots.signing().unwrap().custody.is_outside(), "nothing has changed");
}
