//! What is noted besides certificates, by whom, and what of it can be erased.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use cluster::account::{Actor, Event, KeyKind, Private};
use cluster::format::LogRecord;
use cluster::outcome::{Outcome, Rejection};
use cluster::{Command, DecodeError, LogEntry};
use pki::digest::sha256;
use pki::identity::Role;
use support::{Cluster, asked, id};

fn records(entries: &[LogEntry]) -> Vec<LogRecord> {
    entries.iter().map(|entry| LogRecord::decode(&entry.bytes).unwrap()).collect()
}

fn operator() -> Actor {
    Actor::Named("alice".to_owned())
}

#[test]
fn there_is_no_account_before_somebody_is_named() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.promote(1);
    cluster.join(2);
    cluster.remove(2);
    assert!(!cluster.state.log_told);
    let records = records(&cluster.log);
    assert!(records.iter().all(|record| record.event == Event::Issued && record.private.is_none()), "{records:?}");
    assert!(records.iter().all(|record| !record.certificate.is_empty() && record.by == Actor::Cluster));
}

#[test]
fn who_and_from_where() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.report(1, "worker-1", b"linux");
    let before = cluster.log.len();
    let admit = Command::Admit(Box::new(cluster.admission(2)));
    let remove = Command::RemoveNode { node: id(1), force: true, ready: false };
    cluster.run(asked(admit, Actor::Cluster, 8));
    cluster.run(asked(remove, operator(), 9));
    cluster.run(cluster.wish(2, Role::Manager));
    let entries = &cluster.log[before..];
    let [joined, removed, wished] = &records(entries)[..] else { panic!("three entries") };

    assert_eq!((&joined.event, &joined.by, &joined.node), (&Event::Issued, &Actor::Token(0), &Some(id(2))));
    assert!(!joined.certificate.is_empty());
    assert_eq!((&removed.event, &removed.by), (&Event::Removed(id(1)), &operator()));
    assert_eq!(wished.by, Actor::Cluster, "nobody said who");
    assert_eq!(wished.private, None);

    let private = |at: usize| Private::decode(entries[at].private.as_ref().unwrap()).unwrap();
    assert_eq!(private(0), Private { from: "192.0.2.8".to_owned(), ..Private::default() });
    assert_eq!(private(1).from, "192.0.2.9");
    assert_eq!(private(1).host, "worker-1");
    for (entry, record) in entries.iter().zip(records(entries)) {
        assert_eq!(entry.private.as_deref().map(sha256), record.private);
        let public = String::from_utf8_lossy(&entry.bytes).into_owned();
        assert!(!public.contains("192.0.2") && !public.contains("worker-1"), "{public}");
    }
}

#[test]
fn what_is_refused_is_not_told() {
    let mut cluster = Cluster::new();
    let before = cluster.log.len();
    let remove = Command::RemoveNode { node: id(9), force: true, ready: false };
    assert_eq!(cluster.run(asked(remove, operator(), 1)), Outcome::Rejected(Rejection::UnknownNode));
    assert_eq!(cluster.run(asked(Command::UnlockKeyShown, operator(), 1)), Outcome::Unchanged, "there is none");
    assert_eq!(cluster.log.len(), before);
    assert!(cluster.state.log_told, "and yet somebody was named");
}

#[test]
fn a_manager_comes_and_goes() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let wish = cluster.wish(1, Role::Manager);
    cluster.run(asked(wish, operator(), 1));
    let before = cluster.log.len();
    cluster.enlist(1);
    cluster.seat(1);
    cluster.run(cluster.wish(1, Role::Worker));
    cluster.unseat(1);
    let events: Vec<_> = records(&cluster.log[before..]).into_iter().map(|record| record.event).collect();
    let delivered = Event::KeyDelivered { key: KeyKind::Root, node: Some(id(1)) };
    let worker = Event::NodeUpdated { node: id(1), wish: "worker".to_owned() };
    let told: Vec<_> = events.into_iter().filter(|event| *event != Event::Issued).collect();
    assert_eq!(told, [delivered, Event::Promoted(id(1)), worker, Event::Demoted(id(1))]);
}

#[test]
fn private_parts_are_erased_once_and_never_beyond_the_end() {
    let mut cluster = Cluster::new();
    let size = cluster.state.log_size();
    cluster.refused(Command::EraseLog { below: size + 1 }, Rejection::OutOfSequence);
    assert!(matches!(cluster.run(Command::EraseLog { below: size }), Outcome::Done { .. }));
    assert_eq!(cluster.state.log_erased, size);
    assert_eq!(records(&cluster.log).last().map(|record| record.event.clone()), Some(Event::Erased { below: size }));
    assert_eq!(cluster.run(Command::EraseLog { below: size }), Outcome::Unchanged);
}

#[test]
fn nobody_asks_for_somebody_who_asks() {
    let once = asked(Command::UnlockKeyShown, operator(), 1);
    let encoded = |command| cluster::Batch { time: support::START, commands: vec![command] }.encode();
    assert!(cluster::Batch::decode(&encoded(once.clone())).is_ok());
    let twice = encoded(asked(once, operator(), 1));
    assert_eq!(cluster::Batch::decode(&twice).err(), Some(DecodeError::Field("command")));
}
