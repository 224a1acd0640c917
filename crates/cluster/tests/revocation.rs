//! Certificates taken back before their end.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate swarmpki_cluster as cluster;

mod support;

use cluster::authorize::{Caller, Denial, Method, Presented, Standing};
use cluster::command::{Revoke, Withdraw, Withdrawn};
use cluster::node::Leaf;
use cluster::revocation::{REVOKED_PER_COMMAND_MAX, Reason, SHOWN_AFTER_END};
use cluster::{Command, Outcome, Rejection, State};
use pki::identity::{NodeId, Role};
use pki::serial::Serial;
use support::{Cluster, DAY, HOUR, LIFE, cluster_id, id, root, serial};

fn command(what: Withdraw) -> Command {
    Command::Revoke(Box::new(Revoke { reason: Reason::KeyCompromise, what }))
}

fn these(leaves: &[(&Leaf, Option<u64>)]) -> Command {
    let one = |(leaf, node): &(&Leaf, Option<u64>)| Withdrawn {
        issuer: leaf.issuer,
        serial: leaf.serial,
        until: leaf.not_after,
        node: node.map(id),
    };
    command(Withdraw::Certificates(leaves.iter().map(one).collect()))
}

fn node(n: u64, keep: Option<Serial>) -> Command {
    command(Withdraw::Node { node: id(n), keep })
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

fn standing(cluster: &Cluster, n: u64, leaf: &Leaf) -> Standing {
    cluster.state.standing(&presented(n, leaf), cluster.now)
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}

fn serials(state: &State, of: &NodeId) -> Vec<Serial> {
    state
        .revocations
        .since(0)
        .filter(|(_, row)| row.node.as_ref() == Some(of))
        .map(|((_, serial), _)| *serial)
        .collect()
}

#[test]
fn a_revoked_leaf_opens_nothing_and_the_node_is_cut() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    cluster.join(2);
    let before = standing(&cluster, 1, &first.leaf);
    let caller = presented(1, &first.leaf);
    let cut = cluster.node(1).cut;
    assert!(is_done(&cluster.run(these(&[(&first.leaf, Some(1))]))));
    assert_eq!(cluster.node(1).cut, cut + 1, "its connections are let go");
    assert_eq!(standing(&cluster, 1, &first.leaf), Standing::Revoked);
    // By the connection of before, and by a new one.
    for standing in [before, Standing::Revoked] {
        for method in Method::ALL {
            let judged = cluster.state.authorize(Caller::Identified(&caller, &standing), method, cluster.now);
            match judged {
                Err(Denial::Revoked(node)) => assert_eq!(node, id(1)),
                Err(Denial::Role { .. }) => {}
                Ok(cluster::authorize::Grant::Anybody) => {}
                other => panic!("{method:?} {standing:?}: {other:?}"),
            }
        }
    }
    assert!(cluster.state.is_revoked(cluster.node(1)) && !cluster.state.is_revoked(cluster.node(2)));
    assert_eq!(cluster.run(these(&[(&first.leaf, Some(1))])), Outcome::Unchanged, "once is enough");
    assert_eq!(cluster.state.revocations.version(), 1);
    let row = cluster.state.revocations.get(&first.leaf.issuer, &first.leaf.serial).unwrap();
    assert_eq!((row.until, row.reason, row.version), (first.leaf.not_after, Reason::KeyCompromise, 1));
    let mut again = cluster.renewal(1);
    std::sync::Arc::make_mut(&mut again.letter).leaf.serial = first.leaf.serial;
    cluster.refused(Command::Renew(Box::new(again)), Rejection::SerialUsed);
}

#[test]
fn an_offered_leaf_is_taken_back_with_its_letter() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    let second = cluster.renew(1);
    cluster.run(these(&[(&second.leaf, Some(1))]));
    assert!(cluster.node(1).offered.is_empty() && cluster.node(1).mailbox.is_empty());
    assert_eq!(standing(&cluster, 1, &second.leaf), Standing::Revoked);
    assert!(matches!(standing(&cluster, 1, &first.leaf), Standing::Admitted { .. }));
    assert_eq!(cluster.confirm(1, &second), Outcome::Unchanged, "it is on offer no more");
    // The same of a join that is not finished: it is found by its key no more.
    let admit = cluster.admission(2);
    let letter = std::sync::Arc::clone(&admit.letter);
    cluster.run(Command::Admit(Box::new(admit)));
    cluster.run(these(&[(&letter.leaf, Some(2))]));
    assert!(!cluster.state.joins.contains_key(&letter.leaf.spki));
}

/// Whoever stole a leaf may have asked for another one by it, while the signer was away.
#[test]
fn what_was_asked_for_with_a_leaf_that_is_revoked_is_signed_by_nobody() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    let second = cluster.renew(1);
    cluster.confirm(1, &second);
    let ask = |cluster: &Cluster, csr| {
        Command::Ask(Box::new(cluster::command::Ask {
            node: id(1),
            right: cluster::command::Right::Node { cut: cluster.node(1).cut },
            csr: support::csr(csr),
            spki: support::spki(csr),
        }))
    };
    let stolen = ask(&cluster, 77);
    cluster.run(stolen);
    assert!(cluster.state.pending.contains(&id(1)));
    cluster.run(these(&[(&first.leaf, Some(1))]));
    assert!(!cluster.state.pending.contains(&id(1)) && cluster.node(1).pending.is_none());
    // The node itself asks again, by the leaf that it has besides.
    let own = ask(&cluster, 78);
    cluster.run(own);
    assert_eq!(cluster.node(1).pending.as_ref().map(|pending| pending.csr.clone()), Some(support::csr(78)));
    // What was revoked before, or was never its own, changes nothing.
    cluster.run(these(&[(&first.leaf, Some(1))]));
    assert!(cluster.state.pending.contains(&id(1)));
}

#[test]
fn everything_of_a_node_goes_and_what_it_asked_for() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    let second = cluster.renew(1);
    cluster.confirm(1, &second);
    let third = cluster.renew(1);
    cluster.run(Command::Ask(Box::new(cluster::command::Ask {
        node: id(1),
        right: cluster::command::Right::Node { cut: cluster.node(1).cut },
        csr: support::csr(77),
        spki: support::spki(77),
    })));
    assert!(!cluster.state.pending.is_empty());
    assert!(is_done(&cluster.run(node(1, None))));
    for letter in [&first, &second, &third] {
        assert_eq!(standing(&cluster, 1, &letter.leaf), Standing::Revoked);
    }
    assert!(cluster.state.pending.is_empty(), "nobody signs for it any more");
    assert_eq!(serials(&cluster.state, &id(1)).len(), 3);
    // Nothing that it holds renews; a renewal that was under way is refused by the cut.
    let owed = cluster.state.revocations.owed()[&id(1)].clone();
    assert_eq!((owed.at, owed.keep, owed.reason), (cluster.state.time, None, Reason::KeyCompromise));

    // What the log has besides; what it has not, and what has ended long ago, changes nothing.
    let old = |n: u64, until| Withdrawn { issuer: root().issuer, serial: serial(n), until, node: None };
    let found = |last, certificates| command(Withdraw::Found { node: id(1), at: owed.at, certificates, last });
    let late = command(Withdraw::Found {
        node: id(1),
        at: owed.at.saturating_add(HOUR),
        certificates: vec![old(90, cluster.now)],
        last: true,
    });
    assert_eq!(cluster.run(late), Outcome::Unchanged, "of another time");
    let gone = cluster.now.saturating_sub(SHOWN_AFTER_END + HOUR);
    assert!(is_done(&cluster.run(found(false, vec![old(91, cluster.now), old(92, gone)]))));
    assert!(is_done(&cluster.run(found(true, vec![]))));
    assert!(cluster.state.revocations.owed().is_empty());
    assert_eq!(cluster.run(found(true, vec![old(93, cluster.now)])), Outcome::Unchanged, "it was found before");
    let known = serials(&cluster.state, &id(1));
    assert!(known.contains(&serial(91)) && !known.contains(&serial(92)) && !known.contains(&serial(93)));
}

#[test]
fn a_node_goes_on_with_what_it_renewed_to() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    let second = cluster.renew(1);
    cluster.refused(node(1, Some(serial(900))), Rejection::NotKept);
    // It is not in use yet: the node is made to come with it.
    let cut = cluster.node(1).cut;
    assert!(is_done(&cluster.run(node(1, Some(second.leaf.serial)))));
    assert_eq!((cluster.node(1).cut, cluster.state.revocations.version()), (cut + 1, 0));
    assert!(matches!(standing(&cluster, 1, &first.leaf), Standing::Admitted { .. }));
    cluster.confirm(1, &second);
    assert!(is_done(&cluster.run(node(1, Some(second.leaf.serial)))));
    assert_eq!(standing(&cluster, 1, &first.leaf), Standing::Revoked);
    assert!(matches!(standing(&cluster, 1, &second.leaf), Standing::Admitted { .. }));
    // The log has that one too: it stays.
    let at = cluster.state.time;
    let kept = Withdrawn {
        issuer: second.leaf.issuer,
        serial: second.leaf.serial,
        until: second.leaf.not_after,
        node: Some(id(1)),
    };
    cluster.run(command(Withdraw::Found { node: id(1), at, certificates: vec![kept], last: true }));
    assert!(matches!(standing(&cluster, 1, &second.leaf), Standing::Admitted { .. }));
    // A leaf that was revoked does not come back by being replaced.
    cluster.run(these(&[(&second.leaf, Some(1))]));
    let third = cluster.renew(1);
    cluster.confirm(1, &third);
    assert!(cluster.node(1).previous.is_empty());
    assert_eq!(standing(&cluster, 1, &second.leaf), Standing::Revoked);
}

#[test]
fn a_member_is_not_locked_out() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.promote(1);
    let current = cluster.node(1).current.clone().unwrap();
    cluster.refused(node(1, None), Rejection::Manager);
    cluster.refused(these(&[(&current, Some(1))]), Rejection::Manager);
    let renewed = cluster.renew(1);
    cluster.confirm(1, &renewed);
    assert!(is_done(&cluster.run(node(1, Some(renewed.leaf.serial)))));
    assert_eq!(standing(&cluster, 1, &current), Standing::Revoked);
    assert_eq!(cluster.state.peer(&presented(1, &current)), None, "not as a member either");
    assert!(cluster.state.peer(&presented(1, &renewed.leaf)).is_some());
    cluster.run(cluster.wish(1, Role::Worker));
    cluster.unseat(1);
    assert!(is_done(&cluster.run(node(1, None))));
    cluster.refused(node(9, None), Rejection::UnknownNode);
}

#[test]
fn a_removed_nodes_leaves_are_taken_back_until_they_end() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    let second = cluster.renew(1);
    cluster.remove(1);
    assert_eq!(standing(&cluster, 1, &first.leaf), Standing::Removed, "that is what it is told");
    assert_eq!(serials(&cluster.state, &id(1)).len(), 2);
    assert!(cluster.state.revocations.owed().contains_key(&id(1)));
    cluster.refused(node(1, None), Rejection::Removed);
    cluster.now = second.leaf.not_after.saturating_add(SHOWN_AFTER_END);
    cluster.collect();
    assert_eq!(cluster.state.revocations.len(), 2, "lists of before the end are still about");
    assert!(!cluster.state.revocations_ended(cluster.now));
    cluster.later(HOUR);
    assert!(cluster.state.revocations_ended(cluster.now));
    cluster.collect();
    assert_eq!((cluster.state.revocations.len(), cluster.state.revocations.version()), (0, 2));
    assert_eq!(cluster.state.revocations.since(0).count(), 0);
}

#[test]
fn rows_come_in_the_order_in_which_they_are_told() {
    let mut cluster = Cluster::new();
    let one = |n: u64| Withdrawn {
        issuer: root().issuer,
        serial: serial(5000 - n),
        until: cluster.now.saturating_add(LIFE),
        node: None,
    };
    let all: Vec<_> = (0..REVOKED_PER_COMMAND_MAX as u64 + 1).map(one).collect();
    cluster.refused(command(Withdraw::Certificates(all.clone())), Rejection::TooManyRevoked);
    for part in all[..9].chunks(3) {
        cluster.run(command(Withdraw::Certificates(part.to_vec())));
        cluster.later(DAY);
    }
    let told: Vec<_> = cluster.state.revocations.since(4).map(|((_, serial), row)| (row.version, *serial)).collect();
    assert_eq!(told, (4..9).map(|n| (n + 1, serial(5000 - n))).collect::<Vec<_>>());
    let read = State::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
    assert_eq!(read.revocations, cluster.state.revocations);
}

/// A hundred thousand rows are part of no entry, and of no other change of the state.
#[test]
fn what_an_ordinary_change_writes_does_not_grow_with_them() {
    let mut cluster = Cluster::new();
    let first = cluster.join(1);
    let change = Command::Presence { node: id(1), down: true, seen: cluster.now };
    let size = change.encoded_len();
    let until = cluster.now.saturating_add(LIFE);
    let one = |n: u64| Withdrawn { issuer: root().issuer, serial: serial(10_000 + n), until, node: None };
    let mut state = cluster.state.clone();
    for chunk in (0..100_000).collect::<Vec<u64>>().chunks(REVOKED_PER_COMMAND_MAX) {
        let commands = vec![command(Withdraw::Certificates(chunk.iter().map(|n| one(*n)).collect()))];
        let index = state.index + 1;
        state.apply(index, &cluster::Batch { time: cluster.now, commands });
    }
    assert_eq!((state.revocations.len(), state.revocations.version()), (100_000, 100_000));
    assert_eq!(change.encoded_len(), size);
    let before = state.revocations.clone();
    state.apply(state.index + 1, &cluster::Batch { time: cluster.now, commands: vec![change] });
    assert!(state.node(&id(1)).unwrap().down && state.revocations == before);
    assert!(state.standing(&presented(1, &first.leaf), cluster.now) != Standing::Revoked);
    assert_eq!(state.revocations.since(99_999).count(), 1, "who holds all but one is told of one");
}
