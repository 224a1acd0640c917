//! Admission, renewal, confirmation, collection, removal: each rule by rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::admission::UNFINISHED_PER_KEY_MAX;
use cluster::command::{Admit, Command, UpdateCluster};
use cluster::issuance::{ISSUANCES_PER_HOUR_ALARM, ISSUANCES_PER_HOUR_MAX, is_alarming};
use cluster::node::{Letter, TokenUse};
use cluster::outcome::{Outcome, Rejection};
use cluster::state::State;
use cluster::tokens::{Tokens, UNFINISHED_PER_TOKEN_MAX};
use pki::identity::Role;
use pki::time::Time;
use support::{Cluster, DAY, HOUR, LIFE, MANAGER, WORKER, id, issuer, letter, secret, serial, spki};

const SECOND: Duration = Duration::from_secs(1);

fn admit(admit: &Admit) -> Command {
    Command::Admit(Box::new(admit.clone()))
}

fn rotate_worker(cluster: &Cluster, n: u8) -> Command {
    Command::UpdateCluster(Box::new(UpdateCluster {
        version: cluster.state.cluster_version,
        worker_secret: Some(secret(n)),
        ..UpdateCluster::default()
    }))
}

fn issued(outcome: &Outcome) -> (&pki::identity::NodeId, &Arc<Letter>, bool) {
    match outcome {
        Outcome::Issued { node, letter, fresh } => (node, letter, *fresh),
        other => panic!("not issued: {other:?}"),
    }
}

#[test]
fn nothing_happens_before_bootstrap_and_it_happens_once() {
    let mut cluster = Cluster { state: State::empty(), ..Cluster::new() };
    let admission = cluster.admission(1);
    cluster.refused(admit(&admission), Rejection::NoCluster);
    cluster.refused(Command::Collect { nodes: vec![] }, Rejection::NoCluster);
    let mut cluster = Cluster::new();
    cluster.refused(Cluster::bootstrap(), Rejection::Exists);
    assert_eq!(cluster.state.log_size(), 2, "the root and the first leaf are in the log");
    assert!(cluster.state.members.key_holders.contains(&id(0)));
}

#[test]
fn c006_a_join_is_unfinished_until_its_leaf_is_used() {
    let mut cluster = Cluster::new();
    let admission = cluster.admission(1);
    let outcome = cluster.run(admit(&admission));
    assert_eq!(issued(&outcome), (&id(1), &admission.letter, true));
    assert_eq!(cluster.state.finished().count(), 1, "only the manager");
    assert_eq!(cluster.state.tokens.rows[0].unfinished, 1);
    assert_eq!(cluster.state.unfinished_joins(&spki(1)).next().unwrap().0.id, id(1));
    assert!(matches!(cluster.confirm(1, &admission.letter), Outcome::Done { .. }));
    assert_eq!(cluster.state.finished().count(), 2);
    assert_eq!(cluster.state.tokens.rows[0].unfinished, 0);
    assert!(cluster.state.unfinished_joins(&spki(1)).next().is_none());
    assert_eq!(cluster.node(1).current.as_ref(), Some(&admission.letter.leaf));
    assert!(cluster.node(1).mailbox.is_empty() && cluster.node(1).offered.is_empty());
    assert_eq!(cluster.confirm(1, &admission.letter), Outcome::Unchanged, "seen again");
}

#[test]
fn admission_is_refused_when_a_premise_fails() {
    type Twist = fn(&mut Admit, Time);
    let rows: [(&str, Twist, Rejection); 11] = [
        ("an older secret", |admit, _| admit.token.generation = 3, Rejection::Token),
        ("no such token", |admit, _| admit.token.row = 2, Rejection::Token),
        ("issuer", |admit, _| admit.premises.issuer = issuer(1), Rejection::Issuer),
        ("leaf of another issuer", |admit, _| edit(admit, |letter| letter.leaf.issuer = issuer(1)), Rejection::Issuer),
        ("epoch", |admit, _| admit.premises.epoch = 1, Rejection::Epoch),
        (
            "signed too early",
            |admit, now| admit.premises.signed = now.saturating_sub(300 * SECOND + Duration::from_millis(1)),
            Rejection::Skew,
        ),
        (
            "signed too late",
            |admit, now| admit.premises.signed = now.saturating_add(300 * SECOND + Duration::from_millis(1)),
            Rejection::Skew,
        ),
        ("spec of another role", |admit, _| admit.spec.role = Role::Manager, Rejection::Role),
        ("leaf of another role", |admit, _| edit(admit, |letter| letter.leaf.role = Role::Manager), Rejection::Role),
        ("token of another role", |admit, _| admit.token = MANAGER, Rejection::Role),
        ("id of the manager", |admit, _| admit.node = id(0), Rejection::IdTaken),
    ];
    for (name, twist, why) in rows {
        let mut cluster = Cluster::new();
        let mut admission = cluster.admission(1);
        twist(&mut admission, cluster.now);
        eprintln!("{name}");
        cluster.refused(admit(&admission), why);
    }
    for off in [300 * SECOND, Duration::ZERO] {
        let mut cluster = Cluster::new();
        let mut admission = cluster.admission(1);
        admission.premises.signed = cluster.now.saturating_sub(off);
        assert!(issued(&cluster.run(admit(&admission))).2, "five minutes are allowed");
    }
}

fn edit(admit: &mut Admit, edit: impl FnOnce(&mut Letter)) {
    edit(Arc::make_mut(&mut admit.letter));
}

#[test]
fn c045_the_same_request_again_is_the_same_node_again() {
    let mut cluster = Cluster::new();
    let first = cluster.admission(1);
    cluster.run(admit(&first));
    let mut again = cluster.admission(2);
    edit(&mut again, |letter| {
        letter.csr.clone_from(&first.letter.csr);
        letter.leaf.spki = first.letter.leaf.spki;
    });
    let log = cluster.state.log_size();
    let outcome = cluster.run(admit(&again));
    assert_eq!(issued(&outcome), (&id(1), &first.letter, false), "the first certificate");
    assert_eq!(cluster.state.log_size(), log, "what was signed in vain is in no log");
    assert!(cluster.state.node(&id(2)).is_none());

    let outcome = cluster.run(admit(&first));
    assert!(!issued(&outcome).2, "the very same command twice");

    cluster.later(LIFE + SECOND);
    again.premises.signed = cluster.now;
    let outcome = cluster.run(admit(&again));
    assert!(issued(&outcome).2, "a leaf that has ended answers nothing");
}

#[test]
fn one_key_with_two_tokens_or_two_requests_is_several_joins() {
    let mut cluster = Cluster::new();
    let same_key = |cluster: &mut Cluster, n: u64| {
        let mut admission = cluster.admission(n);
        edit(&mut admission, |letter| letter.leaf.spki = spki(77));
        admission.token.generation = cluster.state.tokens.rows[0].generation;
        admission
    };
    let first = same_key(&mut cluster, 1);
    cluster.run(admit(&first));
    let other_request = same_key(&mut cluster, 2);
    assert_eq!(issued(&cluster.run(admit(&other_request))).0, &id(2));
    cluster.run(rotate_worker(&cluster, 9));
    let mut other_token = same_key(&mut cluster, 3);
    edit(&mut other_token, |letter| letter.csr.clone_from(&first.letter.csr));
    assert_eq!(issued(&cluster.run(admit(&other_token))).0, &id(3));
    assert_eq!(cluster.state.unfinished_joins(&spki(77)).count(), 3);

    let back = State::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    support::assert_same(&cluster.state, &back);

    cluster.confirm(2, &other_request.letter);
    cluster.remove(1);
    let left: Vec<_> = cluster.state.unfinished_joins(&spki(77)).map(|(node, _)| node.id.clone()).collect();
    assert_eq!(left, [id(3)]);

    for n in 4..4 + UNFINISHED_PER_KEY_MAX as u64 - 1 {
        let more = same_key(&mut cluster, n);
        assert!(issued(&cluster.run(admit(&more))).2);
    }
    let too_many = same_key(&mut cluster, 90);
    cluster.refused(admit(&too_many), Rejection::TokenBusy);
}

#[test]
fn c046_unfinished_joins_are_limited_by_token() {
    let mut cluster = Cluster::new();
    // As many as that take a while to admit: the count is set as if they were there.
    let mut tokens: Tokens = cluster.state.tokens.as_ref().clone();
    tokens.rows[0].unfinished = UNFINISHED_PER_TOKEN_MAX;
    cluster.state.tokens = Arc::new(tokens);
    let admission = cluster.admission(1);
    let batch = cluster::Batch { time: cluster.now, commands: vec![admit(&admission)] };
    let mut state = cluster.state.clone();
    assert_eq!(state.apply(2, &batch).outcomes, [Outcome::Rejected(Rejection::TokenBusy)]);
    let mut tokens = cluster.state.tokens.as_ref().clone();
    tokens.rows[0].unfinished -= 1;
    cluster.state.tokens = Arc::new(tokens);
    assert!(matches!(cluster.state.apply(2, &batch).outcomes[..], [Outcome::Issued { fresh: true, .. }]));
}

#[test]
fn c014_c015_c016_a_replaced_token_admits_nobody() {
    let mut cluster = Cluster::new();
    let old = cluster.admission(1);
    cluster.run(rotate_worker(&cluster, 9));
    cluster.refused(admit(&old), Rejection::Token);
    let mut new = cluster.admission(1);
    new.token = TokenUse { row: 0, generation: 1 };
    assert!(issued(&cluster.run(admit(&new))).2);

    let tokens = &cluster.state.tokens;
    let digest = pki::digest::Digest::of(b"root");
    let text = |secret_byte: u8| {
        let secret = pki::join_token::JoinSecret::from_bytes([secret_byte; 16]);
        pki::join_token::JoinToken::new(digest, &secret, false).text().to_owned()
    };
    assert_eq!(tokens.admit(&digest, false, &text(1)), None, "the worker's first secret");
    assert_eq!(tokens.admit(&digest, false, &text(9)).unwrap().token, TokenUse { row: 0, generation: 1 });
    assert_eq!(tokens.admit(&digest, false, &text(2)).unwrap().role, Role::Manager);
    assert_eq!(tokens.admit(&pki::digest::Digest::of(b"other"), false, &text(9)), None, "the digest counts");
    assert_eq!(tokens.admit(&digest, true, &text(9)), None, "and the version");
    assert_eq!(tokens.text(0, &digest, false).unwrap().text(), text(9));
    assert!(tokens.text(2, &digest, false).is_none());
    assert!(tokens.check(&WORKER).is_err() && tokens.check(&MANAGER).is_ok());
}

#[test]
fn c009_the_managers_token_makes_managers() {
    let mut cluster = Cluster::new();
    let mut admission = cluster.admission(1);
    admission.token = MANAGER;
    admission.spec.role = Role::Manager;
    edit(&mut admission, |letter| letter.leaf.role = Role::Manager);
    cluster.run(admit(&admission));
    assert_eq!((cluster.node(1).role, cluster.node(1).signed_role()), (Role::Worker, Role::Manager));
    assert!(!cluster.state.members.rows.contains_key(&id(1)), "not yet in the raft group");
    assert_eq!(cluster.state.tokens.rows[1].unfinished, 1);
}

#[test]
fn c028_c029_renewal_keeps_id_and_role() {
    for (n, role) in [(1, Role::Worker), (0, Role::Manager)] {
        let mut cluster = Cluster::new();
        cluster.join(1);
        let before = cluster.node(n).current.clone().unwrap();
        let letter = cluster.renew(n);
        let node = cluster.node(n);
        assert_eq!((node.role, node.current.as_ref(), node.cut), (role, Some(&before), 0));
        assert_eq!((&node.offered[..], &node.mailbox[..]), (&[letter.leaf.clone()][..], &[letter][..]));
    }
}

#[test]
fn renewal_is_refused_when_a_premise_fails() {
    type Twist = fn(&mut cluster::command::Renew, Time);
    let rows: [(&str, Twist, Rejection); 10] = [
        ("cut", |renew, _| renew.cut = 1, Rejection::Cut),
        ("c034_removed", |renew, _| renew.node = id(2), Rejection::Removed),
        ("unknown", |renew, _| renew.node = id(3), Rejection::UnknownNode),
        ("issuer", |renew, _| renew.premises.issuer = issuer(1), Rejection::Issuer),
        ("leaf's issuer", |renew, _| Arc::make_mut(&mut renew.letter).leaf.issuer = issuer(1), Rejection::Issuer),
        ("epoch", |renew, _| renew.premises.epoch = 7, Rejection::Epoch),
        ("skew", |renew, now| renew.premises.signed = now.saturating_add(301 * SECOND), Rejection::Skew),
        ("c031_role", |renew, _| Arc::make_mut(&mut renew.letter).leaf.role = Role::Manager, Rejection::Role),
        (
            "serial of its leaf",
            |renew, _| Arc::make_mut(&mut renew.letter).leaf.serial = serial(1),
            Rejection::SerialUsed,
        ),
        (
            "its leaf itself",
            |renew, _| {
                let letter = Arc::make_mut(&mut renew.letter);
                (letter.leaf.serial, letter.leaf.spki) = (serial(1), spki(1));
            },
            Rejection::SerialUsed,
        ),
    ];
    for (name, twist, why) in rows {
        let mut cluster = Cluster::new();
        cluster.join(1);
        cluster.join(2);
        cluster.remove(2);
        let mut renew = cluster.renewal(1);
        twist(&mut renew, cluster.now);
        eprintln!("{name}");
        cluster.refused(Command::Renew(Box::new(renew)), why);
    }
}

#[test]
fn pki17_the_same_renewal_request_again_is_the_same_leaf() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let first = cluster.renew(1);
    let mut again = cluster.renewal(1);
    Arc::make_mut(&mut again.letter).csr.clone_from(&first.csr);
    let outcome = cluster.run(Command::Renew(Box::new(again.clone())));
    assert_eq!(issued(&outcome), (&id(1), &first, false));

    again.cut += 1;
    cluster.refused(Command::Renew(Box::new(again.clone())), Rejection::Cut);
    again.cut -= 1;

    cluster.confirm(1, &first);
    let outcome = cluster.run(Command::Renew(Box::new(again.clone())));
    assert!(issued(&outcome).2, "once it is used, the same request is a new one");
}

#[test]
fn a_letter_that_has_ended_or_names_another_role_answers_nothing() {
    let letter = letter(1, 1, Role::Worker, support::START, HOUR);
    let ends = letter.leaf.not_after;
    assert!(letter.answers(&letter.csr, Role::Worker, ends));
    assert!(!letter.answers(&letter.csr, Role::Worker, ends.saturating_add(Duration::from_millis(1))));
    assert!(!letter.answers(&letter.csr, Role::Manager, ends));
    assert!(!letter.answers(b"another", Role::Worker, ends));
}

#[test]
fn renewals_are_limited_by_the_hour() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    for n in 0..ISSUANCES_PER_HOUR_ALARM {
        assert!(!is_alarming(cluster.node(1), cluster.now), "after {n}");
        cluster.renew(1);
    }
    assert!(is_alarming(cluster.node(1), cluster.now));
    assert!(!is_alarming(cluster.node(1), cluster.now.saturating_add(HOUR)), "an hour later it is over");
    assert_eq!(cluster.node(1).offered.len(), 4, "the oldest gave way");
    assert_eq!(cluster.node(1).mailbox.len(), 4);

    let mut record = cluster.node(1).clone();
    record.issuances.1 = ISSUANCES_PER_HOUR_MAX;
    cluster.state.nodes.insert(id(1), Arc::new(record));
    let renew = cluster.renewal(1);
    cluster.refused(Command::Renew(Box::new(renew)), Rejection::NodeBusy);
    cluster.later(HOUR);
    cluster.renew(1);
    assert_eq!(cluster.node(1).issuances, (cluster.now, 1));
}

#[test]
fn a_used_leaf_drains_the_letters_up_to_it_and_keeps_the_last_one_for_a_day() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    let letters: Vec<_> = (0..3).map(|_| cluster.renew(1)).collect();
    cluster.confirm(1, &letters[1]);
    let node = cluster.node(1);
    assert_eq!(node.current.as_ref(), Some(&letters[1].leaf));
    assert_eq!(node.mailbox, [Arc::clone(&letters[2])], "the ones before are done with");
    assert_eq!(node.offered, [letters[0].leaf.clone(), letters[2].leaf.clone()], "each may still be used");
    let until = cluster.now.saturating_add(DAY);
    assert_eq!(node.previous, [(first.leaf.clone(), until)]);

    // Two renewals in flight: the node settles on the older one.
    cluster.confirm(1, &letters[0]);
    let node = cluster.node(1);
    assert_eq!(node.current.as_ref(), Some(&letters[0].leaf));
    assert_eq!(node.previous.len(), 2);

    cluster.later(DAY - Duration::from_millis(1));
    assert_eq!(cluster.collect(), Outcome::Unchanged);
    assert_eq!(cluster.node(1).previous.len(), 2);
    cluster.later(Duration::from_millis(1));
    assert_eq!(cluster.collect(), Outcome::Collected(vec![]));
    assert_eq!(cluster.node(1).previous, []);
    assert!(cluster.node(1).mailbox.is_empty(), "a letter is kept for a day too");
    assert_eq!(cluster.collect(), Outcome::Unchanged);
}

#[test]
fn replaced_leaves_are_bounded_and_none_is_kept_past_its_end() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    for _ in 0..9 {
        let letter = cluster.renew(1);
        cluster.confirm(1, &letter);
    }
    assert_eq!(cluster.node(1).previous.len(), 4);

    let mut short = cluster.renewal(1);
    Arc::make_mut(&mut short.letter).leaf.not_after = cluster.now.saturating_add(HOUR);
    cluster.run(Command::Renew(Box::new(short.clone())));
    cluster.confirm(1, &short.letter);
    let next = cluster.renew(1);
    cluster.confirm(1, &next);
    let kept = cluster.node(1).previous.last().unwrap();
    assert_eq!(kept.1, kept.0.not_after);
}

#[test]
fn joins_never_finished_are_collected_after_a_day() {
    let mut cluster = Cluster::new();
    let admission = cluster.admission(1);
    cluster.run(admit(&admission));
    cluster.join(2);
    cluster.later(DAY - Duration::from_millis(1));
    let named = vec![id(0), id(1), id(2), id(3)];
    assert_eq!(cluster.run(Command::Collect { nodes: named.clone() }), Outcome::Unchanged, "naming collects nothing");
    cluster.later(Duration::from_millis(1));
    assert_eq!(cluster.state.collectable(cluster.now), [id(1)]);
    assert_eq!(cluster.run(Command::Collect { nodes: named }), Outcome::Collected(vec![id(1)]));
    assert!(cluster.state.node(&id(1)).is_none() && cluster.state.joins.is_empty());
    assert_eq!(cluster.state.tokens.rows[0].unfinished, 0);
    assert!(!cluster.state.removals.contains_key(&id(1)), "given up, not removed");
    cluster.refused(Command::Confirm { node: id(1), serial: admission.letter.leaf.serial }, Rejection::UnknownNode);
}

#[test]
fn an_offered_leaf_that_ended_is_known_for_as_long_as_it_is_forgiven() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let mut renew = cluster.renewal(1);
    Arc::make_mut(&mut renew.letter).leaf.not_after = cluster.now.saturating_add(HOUR);
    cluster.run(Command::Renew(Box::new(renew.clone())));
    let forgiven = renew.letter.leaf.forgiven_until();
    assert_eq!(forgiven, cluster.now.saturating_add(3 * HOUR), "an hour of backdating, an hour of life");
    cluster.now = forgiven;
    assert!(cluster.state.collectable(cluster.now).is_empty());
    cluster.later(Duration::from_millis(1));
    assert_eq!(cluster.state.collectable(cluster.now), [id(1)]);
    cluster.collect();
    assert!(cluster.node(1).offered.is_empty() && cluster.node(1).mailbox.is_empty());
    assert!(cluster.node(1).current.is_some());
}

#[test]
fn c335_c336_c337_c338_removal() {
    let remove = |n, force, ready| Command::RemoveNode { node: id(n), force, ready };
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.join(2);
    cluster.refused(remove(0, true, false), Rejection::Manager);
    cluster.refused(remove(1, false, true), Rejection::Ready);
    cluster.refused(remove(3, true, true), Rejection::UnknownNode);
    assert!(matches!(cluster.run(remove(1, true, true)), Outcome::Done { .. }));
    assert!(matches!(cluster.run(remove(2, false, false)), Outcome::Done { .. }));
    assert!(cluster.state.removals.keys().eq([&id(1), &id(2)]));
    cluster.refused(remove(1, true, true), Rejection::Removed);
}

#[test]
fn c339_p34_a_removal_is_on_record_until_the_last_leaf_ends() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    // Life is shortened: the last leaf ends long before the first one, which is forgotten by then.
    let mut short = cluster.renewal(1);
    Arc::make_mut(&mut short.letter).leaf.not_after = cluster.now.saturating_add(2 * DAY);
    cluster.run(Command::Renew(Box::new(short.clone())));
    cluster.confirm(1, &short.letter);
    cluster.later(DAY);
    cluster.collect();
    assert_eq!(cluster.node(1).leaves().count(), 1);
    cluster.remove(1);
    assert_eq!(cluster.state.removals[&id(1)].until, first.leaf.not_after);

    cluster.now = first.leaf.not_after;
    assert!(!cluster.state.removals_ended(cluster.now));
    cluster.collect();
    let mut admission = cluster.admission(1);
    admission.premises.signed = cluster.now;
    cluster.refused(admit(&admission), Rejection::IdTaken);
    cluster.later(Duration::from_millis(1));
    assert!(cluster.state.removals_ended(cluster.now));
    assert_eq!(cluster.collect(), Outcome::Collected(vec![]));
    assert!(cluster.state.removals.is_empty());
}

#[test]
fn an_unfinished_join_can_be_removed_too() {
    let mut cluster = Cluster::new();
    let admission = cluster.admission(1);
    cluster.run(admit(&admission));
    cluster.remove(1);
    assert!(cluster.state.joins.is_empty());
    assert_eq!(cluster.state.tokens.rows[0].unfinished, 0);
    cluster.refused(Command::Confirm { node: id(1), serial: admission.letter.leaf.serial }, Rejection::Removed);
}

#[test]
fn time_never_goes_back() {
    let mut cluster = Cluster::new();
    cluster.later(DAY).join(1);
    let late = cluster.state.time;
    cluster.now = support::START;
    cluster.run(Command::Collect { nodes: vec![] });
    assert_eq!(cluster.state.time, late);
}

#[test]
fn a_clock_set_back_stops_no_issuance() {
    let mut cluster = Cluster::new();
    cluster.later(400 * DAY).join(1);
    let ahead = cluster.state.time;
    cluster.now = support::START;
    let letter = cluster.renew(1);
    assert_eq!(cluster.state.time, ahead);
    let mut again = cluster.renewal(1);
    Arc::make_mut(&mut again.letter).csr.clone_from(&letter.csr);
    let outcome = cluster.run(Command::Renew(Box::new(again)));
    assert_eq!(issued(&outcome), (&id(1), &letter, false), "its age is judged by the leader's clock");
}

#[test]
fn every_rejection_says_whether_signing_again_may_help() {
    let stale = [
        Rejection::Issuer,
        Rejection::Epoch,
        Rejection::Skew,
        Rejection::IdTaken,
        Rejection::SerialUsed,
        Rejection::Role,
    ];
    let last = [
        Rejection::Exists,
        Rejection::NoCluster,
        Rejection::Token,
        Rejection::TokenBusy,
        Rejection::UnknownNode,
        Rejection::Removed,
        Rejection::Cut,
        Rejection::NodeBusy,
        Rejection::OutOfSequence,
        Rejection::Ready,
        Rejection::Manager,
        Rejection::LastManager,
        Rejection::NotSeated,
        Rejection::NotPromoted,
        Rejection::EngineNotPromotable,
        Rejection::Blob,
        Rejection::UnknownOperator,
        Rejection::OperatorRevoked,
        Rejection::OperatorsFull,
    ];
    assert!(stale.iter().all(Rejection::is_stale));
    assert!(!last.iter().any(Rejection::is_stale));
}
