//! Reports, presence, and the operator's updates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::command::{Command, Reported, UpdateCluster};
use cluster::node::{Availability, BlobDigest, Spec};
use cluster::outcome::{Outcome, Rejection};
use cluster::settings::Settings;
use pki::identity::Role;
use support::{Cluster, HOUR, START, id, report, secret};

fn reported(n: u64, report: cluster::node::Report, blobs: Vec<(BlobDigest, Arc<[u8]>)>) -> Command {
    Command::Report(Box::new(Reported { node: id(n), report, blobs }))
}

fn counts(cluster: &Cluster) -> Vec<u64> {
    let mut counts: Vec<_> = cluster.state.blobs.values().map(|(count, _)| *count).collect();
    counts.sort_unstable();
    counts
}

#[test]
fn blobs_are_stored_once_and_let_go_with_the_last_report() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.join(2);
    assert!(matches!(cluster.report(1, "one", b"linux"), Outcome::Done { .. }));
    assert!(matches!(cluster.report(2, "two", b"linux"), Outcome::Done { .. }));
    assert_eq!(counts(&cluster), [2, 2, 2]);
    assert_eq!(cluster.report(2, "two", b"linux"), Outcome::Unchanged);
    cluster.report(2, "two", b"linux 2");
    assert_eq!(counts(&cluster), [1, 1, 2, 2]);
    let digest = BlobDigest::of(b"linux 2");
    assert_eq!(cluster.state.blob(&digest).unwrap().as_ref(), b"linux 2");
    cluster.remove(2);
    assert_eq!(counts(&cluster), [1, 1, 1]);
    assert!(cluster.state.blob(&digest).is_none());
    cluster.remove(1);
    assert!(cluster.state.blobs.is_empty());
}

#[test]
fn a_report_with_the_same_blob_three_times_counts_it_three_times() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let bytes: Arc<[u8]> = Arc::from(b"same".as_slice());
    let digest = BlobDigest::of(&bytes);
    let (mut all, _) = report("one", b"");
    (all.issuer, all.trust, all.description) = (digest, digest, digest);
    cluster.run(reported(1, all, vec![(digest, bytes)]));
    assert_eq!(counts(&cluster), [3]);
    cluster.report(1, "one", b"");
    assert_eq!(counts(&cluster), [1, 1, 1]);
}

#[test]
fn a_blob_that_is_missing_or_wrong_is_refused() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.join(2);
    let (first, blobs) = report("one", b"linux");
    for missing in 0..3 {
        let mut fewer = blobs.clone();
        fewer.remove(missing);
        cluster.refused(reported(1, first.clone(), fewer), Rejection::Blob);
    }
    let mut wrong = blobs.clone();
    wrong[2].1 = Arc::from(b"not linux".as_slice());
    cluster.refused(reported(1, first.clone(), wrong), Rejection::Blob);
    cluster.run(reported(1, first.clone(), blobs));
    let outcome = cluster.run(reported(2, first.clone(), Vec::new()));
    assert!(matches!(outcome, Outcome::Done { .. }), "what is stored may be left out");
    cluster.refused(reported(3, first, Vec::new()), Rejection::UnknownNode);
}

#[test]
fn presence_is_written_when_it_changes() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let presence = |down, seen| Command::Presence { node: id(1), down, seen };
    assert_eq!(cluster.run(presence(false, START)), Outcome::Unchanged);
    let outcome = cluster.run(presence(true, START));
    assert_eq!(outcome, Outcome::Done { version: cluster.state.index });
    assert!(cluster.node(1).down);
    assert_eq!(cluster.node(1).last_seen, Some(START));
    assert_eq!(cluster.run(presence(true, START.saturating_add(HOUR))), Outcome::Unchanged);
    cluster.run(presence(false, START.saturating_add(HOUR)));
    assert_eq!(cluster.node(1).last_seen, Some(cluster.now), "never later than the cluster's time");

    cluster.report(1, "one", b"linux");
    cluster.run(presence(true, START));
    assert!(matches!(cluster.report(1, "one", b"linux"), Outcome::Done { .. }), "a report of a node that was down");
    assert!(!cluster.node(1).down);
    cluster.refused(Command::Presence { node: id(9), down: true, seen: START }, Rejection::UnknownNode);
}

#[test]
fn c327_a_node_update_has_to_name_the_version() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let update = |version, spec: &Spec| Command::UpdateNode { node: id(1), version, spec: Box::new(spec.clone()) };
    let version = cluster.node(1).version;
    let mut spec = cluster.node(1).spec.clone();
    assert_eq!(cluster.run(update(version, &spec)), Outcome::Unchanged);
    spec.availability = Availability::Drain;
    spec.labels.insert("rack".into(), "3".into());
    cluster.refused(update(version + 1, &spec), Rejection::OutOfSequence);
    cluster.later(Duration::from_secs(9));
    let outcome = cluster.run(update(version, &spec));
    assert_eq!(outcome, Outcome::Done { version: cluster.state.index });
    assert_eq!((&cluster.node(1).spec, cluster.node(1).updated), (&spec, cluster.now));
    cluster.refused(update(version, &spec), Rejection::OutOfSequence);
    let manager = Spec::new(Role::Worker, Availability::Active);
    let version = cluster.node(0).version;
    let demote = Command::UpdateNode { node: id(0), version, spec: Box::new(manager) };
    cluster.refused(demote, Rejection::LastManager);
}

#[test]
fn c241_c242_c248_a_cluster_update_has_to_name_the_version() {
    let mut cluster = Cluster::new();
    let first = cluster.state.cluster_version;
    let settings = Settings { node_cert_expiry: 3 * HOUR, ..Settings::default() };
    let update = |version, settings: Option<&Settings>, worker: Option<u8>, manager: Option<u8>| {
        Command::UpdateCluster(Box::new(UpdateCluster {
            version,
            settings: settings.cloned(),
            worker_secret: worker.map(secret),
            manager_secret: manager.map(secret),
            ..UpdateCluster::default()
        }))
    };
    cluster.refused(update(first + 1, Some(&settings), None, None), Rejection::OutOfSequence);
    let outcome = cluster.run(update(first, Some(&settings), None, None));
    let version = cluster.state.index;
    assert_eq!(outcome, Outcome::Done { version });
    assert_eq!(cluster.state.settings.as_ref(), &settings);
    cluster.refused(update(first, Some(&settings), None, None), Rejection::OutOfSequence);

    let rows = |cluster: &Cluster| -> Vec<_> {
        cluster.state.tokens.rows.iter().map(|row| (row.secret.expose()[0], row.generation)).collect()
    };
    cluster.run(update(version, None, Some(7), None));
    assert_eq!(rows(&cluster), [(7, 1), (2, 0)]);
    assert_eq!(cluster.state.settings.as_ref(), &settings, "settings stay when only secrets change");
    cluster.run(update(cluster.state.cluster_version, None, None, Some(8)));
    assert_eq!(rows(&cluster), [(7, 1), (8, 1)]);
}

#[test]
fn c252_life_and_period_have_a_floor() {
    let life = |expiry| Settings { node_cert_expiry: expiry, ..Settings::default() }.leaf_life();
    let ninety_days = 2160 * HOUR;
    assert_eq!(life(Duration::ZERO), ninety_days);
    assert_eq!(life(HOUR - Duration::from_nanos(1)), ninety_days);
    assert_eq!(life(HOUR), HOUR);
    let period = |heartbeat| Settings { heartbeat, ..Settings::default() }.heartbeat_period();
    assert_eq!(period(Duration::ZERO), Duration::from_secs(5));
    assert_eq!(period(Duration::from_secs(1)), Duration::from_secs(1));
}
