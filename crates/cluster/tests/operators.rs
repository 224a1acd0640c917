//! Operators: their root, their certificates, and what these are good for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::account::Actor;
use cluster::command::Command;
use cluster::node::IssuerHash;
use cluster::operators::{
    CERTIFICATES_PER_NAME_MAX, FoundOperators, IssueOperator, OperatorDenial, OperatorRoot, RevokeOperator,
};
use cluster::outcome::{Outcome, Rejection};
use pki::certificate::Certificate;
use pki::key::PrivateKey;
use pki::operator::OperatorRole::{self, Admin, Viewer};
use pki::secret::SecretBytes;
use pki::time::Time;
use support::operators::{found, operator_serial, operators_root, revoke, revoke_name};
use support::{Cluster, DAY, HOUR, asked, spki};

const SECOND: Duration = Duration::from_secs(1);

fn founded() -> Cluster {
    let mut cluster = Cluster::new();
    assert!(matches!(cluster.run(found()), Outcome::Done { .. }));
    cluster
}

fn right_at(cluster: &Cluster, n: u64, key: u64, at: Time) -> Result<OperatorRole, OperatorDenial> {
    cluster.state.operators.right(&operator_serial(n), &spki(key), at).map(|(role, _)| role)
}

fn right(cluster: &Cluster, n: u64) -> Result<OperatorRole, OperatorDenial> {
    right_at(cluster, n, n, cluster.now)
}

fn issue(edit: impl FnOnce(&mut IssueOperator), cluster: &Cluster) -> Command {
    let mut issue = cluster.operator(9, "carol", Admin, DAY);
    edit(&mut issue);
    Command::IssueOperator(Box::new(issue))
}

type Edit<'a> = &'a dyn Fn(&mut IssueOperator);

/// A root that begins when the other one has ended.
fn lasting() -> Certificate {
    let key = PrivateKey::generate_p256(&[5; 32]).unwrap();
    let now = operators_root().certificate.not_after();
    pki::issue::operators_root(&support::cluster_id(), &key, operator_serial(1), now).unwrap()
}

#[test]
fn the_root_is_made_once_and_is_no_root_of_nodes() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.state.operators.root.as_ref().map(|root| root.issuer), None);
    cluster.refused(issue(|_| {}, &cluster), Rejection::Issuer);
    let swarm = cluster.state.roots.served().unwrap();
    let root = OperatorRoot::new(swarm.signer.clone(), Arc::new(SecretBytes::new(b"key".to_vec())));
    cluster.refused(Command::FoundOperators(FoundOperators { root: Arc::new(root) }), Rejection::Issuer);

    let logged = cluster.state.log_size();
    assert!(matches!(cluster.run(found()), Outcome::Done { .. }));
    assert_eq!(cluster.run(found()), Outcome::Unchanged, "of two who begin at once, the first has it");
    assert_eq!(cluster.state.log_size(), logged + 1);
    let end = operators_root().certificate.not_after();
    cluster.now = end;
    cluster.refused(found(), Rejection::Skew);
    let root = Arc::new(OperatorRoot::new(lasting(), Arc::new(SecretBytes::new(b"key".to_vec()))));
    let next = Command::FoundOperators(FoundOperators { root });
    assert!(matches!(cluster.run(next), Outcome::Done { .. }), "one that has ended is replaced");
}

#[test]
fn a_certificate_on_record_gives_its_right_between_its_dates() {
    let mut cluster = founded();
    cluster.issue_operator(1, "alice", Admin);
    cluster.issue_operator(2, "bob", Viewer);
    let row = Arc::clone(&cluster.state.operators.rows[&operator_serial(1)]);
    let rows = [
        (1, 1, cluster.now, Ok(Admin)),
        (2, 2, cluster.now, Ok(Viewer)),
        (3, 3, cluster.now, Err(OperatorDenial::Unknown)),
        (1, 2, cluster.now, Err(OperatorDenial::Unknown)),
        (1, 1, row.not_before, Ok(Admin)),
        (1, 1, row.not_before.saturating_sub(SECOND), Err(OperatorDenial::Early(row.not_before))),
        (1, 1, row.not_after, Ok(Admin)),
        (1, 1, row.not_after.saturating_add(SECOND), Err(OperatorDenial::Ended(row.not_after))),
    ];
    for (n, key, at, expected) in rows {
        assert_eq!(right_at(&cluster, n, key, at), expected, "{n} {key} {at:?}");
    }
}

#[test]
fn what_is_taken_back_stays_so() {
    let mut cluster = founded();
    cluster.issue_operator(1, "alice", Admin);
    cluster.issue_operator(2, "alice", Admin);
    cluster.issue_operator(3, "bob", Viewer);
    cluster.later(HOUR);
    let first = Err(OperatorDenial::Revoked(cluster.now));
    assert!(matches!(cluster.run(revoke(1)), Outcome::Done { .. }));
    assert_eq!((right(&cluster, 1), right(&cluster, 2), right(&cluster, 3)), (first, Ok(Admin), Ok(Viewer)));
    cluster.later(HOUR);
    assert_eq!(cluster.run(revoke(1)), Outcome::Unchanged);
    assert!(matches!(cluster.run(revoke_name("alice")), Outcome::Done { .. }));
    assert_eq!(right(&cluster, 1), first, "the first time counts");
    assert_eq!(right(&cluster, 2), Err(OperatorDenial::Revoked(cluster.now)));
    assert_eq!(right(&cluster, 3), Ok(Viewer));
    cluster.issue_operator(4, "alice", Admin);
    assert_eq!(right(&cluster, 4), Ok(Admin), "a name is taken back as it is now");
    cluster.refused(revoke(8), Rejection::UnknownOperator);
    cluster.refused(revoke_name("nobody"), Rejection::UnknownOperator);
}

#[test]
fn all_are_taken_back_with_their_root() {
    let mut cluster = founded();
    cluster.issue_operator(1, "alice", Admin);
    let all = Command::RevokeOperator(RevokeOperator::All);
    assert!(matches!(cluster.run(all.clone()), Outcome::Done { .. }));
    assert!(cluster.state.operators.root.is_none());
    assert_eq!(right(&cluster, 1), Err(OperatorDenial::Revoked(cluster.now)));
    assert_eq!(cluster.run(all), Outcome::Unchanged);
    cluster.refused(issue(|_| {}, &cluster), Rejection::Issuer);
    assert!(matches!(cluster.run(found()), Outcome::Done { .. }));
    cluster.issue_operator(2, "alice", Admin);
    assert_eq!(right(&cluster, 2), Ok(Admin));
}

#[test]
fn a_renewal_keeps_name_and_role_and_needs_a_certificate_in_order() {
    let mut cluster = founded();
    cluster.issue_operator(1, "alice", Viewer);
    let renewal = |cluster: &Cluster, n: u64, name: &str, role| {
        let mut issue = cluster.operator(n, name, role, DAY);
        issue.renews = Some(operator_serial(1));
        Command::IssueOperator(Box::new(issue))
    };
    cluster.refused(renewal(&cluster, 2, "alice", Admin), Rejection::UnknownOperator);
    cluster.refused(renewal(&cluster, 2, "bob", Viewer), Rejection::UnknownOperator);
    let good = renewal(&cluster, 2, "alice", Viewer);
    assert!(matches!(cluster.run(good.clone()), Outcome::Done { .. }));
    assert_eq!((right(&cluster, 1), right(&cluster, 2)), (Ok(Viewer), Ok(Viewer)), "the old one lasts");
    assert_eq!(cluster.run(good), Outcome::Unchanged, "said twice");
    let late = renewal(&cluster, 3, "alice", Viewer);
    cluster.run(revoke(1));
    cluster.refused(late, Rejection::OperatorRevoked);
    cluster.refused(issue(|issue| issue.renews = Some(operator_serial(7)), &cluster), Rejection::UnknownOperator);
    let mut ended = founded();
    ended.issue_operator(1, "alice", Viewer);
    ended.later(31 * DAY);
    ended.refused(renewal(&ended, 2, "alice", Viewer), Rejection::OperatorRevoked);
}

#[test]
fn premises_are_judged_again() {
    let mut cluster = founded();
    cluster.issue_operator(1, "alice", Admin);
    let end = operators_root().certificate.not_after();
    let rows: [(Edit<'_>, Rejection); 6] = [
        (&|issue| issue.premises.issuer = IssuerHash([9; 32]), Rejection::Issuer),
        (&|issue| issue.row.not_after = end.saturating_add(SECOND), Rejection::Issuer),
        (&|issue| issue.premises.epoch += 1, Rejection::Epoch),
        (&|issue| issue.premises.signed = issue.premises.signed.saturating_sub(HOUR), Rejection::Skew),
        (&|issue| issue.premises.signed = issue.premises.signed.saturating_add(HOUR), Rejection::Skew),
        (&|issue| issue.serial = operator_serial(1), Rejection::SerialUsed),
    ];
    for (edit, why) in rows {
        cluster.refused(issue(edit, &cluster), why);
    }
}

#[test]
fn the_certificate_of_an_api_is_logged_and_gives_no_right() {
    let mut none = Cluster::new();
    none.refused(none.api_server(), Rejection::Issuer);
    let mut cluster = founded();
    let logged = cluster.state.log_size();
    assert!(matches!(cluster.run(cluster.api_server()), Outcome::Done { .. }));
    assert_eq!((cluster.state.log_size(), cluster.state.operators.rows.len()), (logged + 1, 0));
}

#[test]
fn one_name_has_a_bounded_number_of_certificates() {
    let mut cluster = founded();
    let max = CERTIFICATES_PER_NAME_MAX as u64;
    (0..max).for_each(|n| cluster.issue_operator(100 + n, "carol", Viewer));
    cluster.refused(issue(|_| {}, &cluster), Rejection::OperatorsFull);
    cluster.issue_operator(1, "alice", Admin);
    cluster.run(revoke(100));
    assert!(matches!(cluster.run(issue(|_| {}, &cluster)), Outcome::Done { .. }), "there is room again");
}

#[test]
fn what_has_ended_is_collected_and_nothing_else() {
    let mut cluster = founded();
    cluster.issue_operator(1, "alice", Admin);
    cluster.later(DAY).issue_operator(2, "bob", Admin);
    cluster.run(revoke(1));
    cluster.later(29 * DAY);
    let collect = Command::Collect { nodes: Vec::new() };
    assert!(!cluster.state.operators.ended(cluster.now));
    assert_eq!(cluster.run(collect.clone()), Outcome::Unchanged, "it ends in this very moment");
    cluster.later(SECOND);
    assert!(cluster.state.operators.ended(cluster.now));
    assert_eq!(cluster.run(collect), Outcome::Collected(Vec::new()));
    assert_eq!(cluster.state.operators.rows.keys().collect::<Vec<_>>(), [&operator_serial(2)]);
    assert_eq!(right(&cluster, 1), Err(OperatorDenial::Unknown));
}

#[test]
fn a_cluster_made_anew_keeps_its_operators() {
    let mut cluster = founded();
    cluster.issue_operator(1, "alice", Admin);
    let restoring = cluster.restoring(7, Vec::new());
    assert!(matches!(cluster.run(restoring), Outcome::Enlisted { .. }));
    assert_eq!(right(&cluster, 1), Ok(Admin));
    assert_eq!(cluster.state.operators.root.as_ref().map(|root| root.issuer), Some(operators_root().issuer));
    let stale = issue(|issue| issue.premises.epoch -= 1, &cluster);
    cluster.refused(stale, Rejection::Epoch);
}

#[test]
fn what_an_operator_asked_for_is_not_done_once_he_is_none() {
    let mut cluster = founded();
    cluster.issue_operator(1, "ann", Admin);
    let by = |n: u64, command: Command| {
        asked(command, Actor::Operator { name: "ann".to_owned(), serial: operator_serial(n) }, 1)
    };
    let another =
        |cluster: &Cluster, n: u64| Command::IssueOperator(Box::new(cluster.operator(n, "ann", Admin, 10 * DAY)));
    let second = by(1, another(&cluster, 2));
    assert!(matches!(cluster.run(second), Outcome::Done { .. }));
    // Asked before, decided after: taken back, forgotten with the root, ended, never issued.
    let third = by(1, another(&cluster, 3));
    cluster.run(revoke(1));
    cluster.refused(third, Rejection::OperatorRevoked);
    let log = cluster.log.len();
    cluster.refused(by(9, another(&cluster, 4)), Rejection::OperatorRevoked);
    assert_eq!(cluster.log.len(), log);
    assert!(right(&cluster, 3).is_err() && right(&cluster, 4).is_err());
    cluster.now = cluster.now.saturating_add(11 * DAY);
    cluster.refused(by(2, Command::UnlockKeyShown), Rejection::OperatorRevoked);
}
