#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use std::sync::Arc;

use cluster::node::{IssuerHash, Letter};
use cluster::{Command, State};
use futures::FutureExt;
use pki::bundle::Issuer;
use pki::csr::Csr;
use pki::identity::{Role, Subject};
use pki::issue;
use pki::key::{PrivateKey, Signer};
use pki::serial::Serial;

use crate::handle::Handle;
use crate::model::ModelLog;
use crate::support;

/// A cluster whose first manager has a real certificate: its log, and that certificate as a peer presents it.
fn cluster() -> (ModelLog, Presented) {
    let now = support::START;
    let ca = PrivateKey::generate_p256(&[1; 32]).unwrap();
    let root = issue::root(&ca, Serial::from_random([1; 20]), now).unwrap().pem();
    let signer: Arc<dyn Signer> = Arc::new(ca);
    let issuer = Issuer::build(root.as_bytes(), Some(root.as_bytes()), Some(signer), b"", now).unwrap();
    let csr = pki::csr::request(&PrivateKey::generate_p256(&[2; 32]).unwrap()).unwrap();
    let linted = Csr::parse(csr.as_bytes()).unwrap().verify().unwrap();
    let Command::Bootstrap(mut bootstrap) = support::Cluster::bootstrap() else { panic!("no bootstrap") };
    let subject = Subject { cluster: bootstrap.cluster.clone(), role: Role::Manager, node: bootstrap.node.clone() };
    let order = issue::Leaf { subject: &subject, serial: Serial::from_random([3; 20]), now, expiry: support::LIFE };
    let leaf = issue::leaf(&linted, &order, &issuer).unwrap();
    let letter: &mut Letter = &mut bootstrap.letter;
    letter.certificate = leaf.der().to_vec();
    letter.leaf.serial = leaf.serial();
    letter.leaf.spki = leaf.spki_hash();
    let log = ModelLog::new(1);
    log.set_time(now);
    let mut answer = Box::pin(log.propose(vec![Command::Bootstrap(bootstrap)]));
    assert!(answer.as_mut().now_or_never().is_none());
    log.settle();
    answer.now_or_never().unwrap().unwrap();
    let presented = Presented {
        cluster: subject.cluster,
        role: subject.role,
        node: subject.node,
        serial: leaf.serial(),
        spki: leaf.spki_hash(),
        issuer: IssuerHash::of(&leaf.issuer_id()),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
    };
    (log, presented)
}

#[tokio::test]
async fn a_leaf_is_in_the_log_only_if_all_of_it_is() {
    let (log, leaf) = cluster();
    assert_eq!(log.is_issued(&leaf).await, Some(true));
    type Row = (&'static str, fn(&mut Presented));
    let rows: [Row; 6] = [
        ("serial", |leaf| leaf.serial = Serial::from_random([4; 20])),
        ("key", |leaf| leaf.spki = support::spki(9)),
        ("role", |leaf| leaf.role = Role::Worker),
        ("node", |leaf| leaf.node = support::id(9)),
        ("cluster", |leaf| leaf.cluster = "elsewhereelsewhereelsewhe".parse().unwrap()),
        ("end", |leaf| leaf.not_after = leaf.not_after.saturating_add(support::LIFE)),
    ];
    for (what, change) in rows {
        let mut other = leaf.clone();
        change(&mut other);
        assert_eq!(log.is_issued(&other).await, Some(false), "another {what}");
    }
    let empty = ModelLog::new(1);
    assert_eq!((empty.state().log_size(), empty.is_issued(&leaf).await), (State::empty().log_size(), Some(false)));
}

#[tokio::test]
async fn the_log_is_read_from_its_end_and_no_further_than_needed() {
    let (log, leaf) = cluster();
    let entry = log.log_entries(0, 10).into_iter().find(|entry| is_of(entry, &leaf)).unwrap();
    type Row = (u64, Option<u64>, &'static [u64], Option<bool>);
    let rows: [Row; 5] = [
        (1000, Some(999), &[744], Some(true)),
        (1000, Some(700), &[744, 488], Some(true)),
        (600, None, &[344, 88, 0], Some(false)),
        (0, None, &[], Some(false)),
        // Number 100 is missing.
        (601, None, &[345, 89, 0], None),
    ];
    for (size, at, read, expected) in rows {
        let mut pages = Vec::new();
        let found = is_issued(&leaf, size, |from, max| {
            pages.push(from);
            let seqs = (from..from + max as u64).filter(|seq| size != 601 || *seq != 100);
            let other = |seq| LogEntry { seq, bytes: Vec::new(), private: None };
            let this = |seq| LogEntry { seq, ..entry.clone() };
            std::future::ready(Some(seqs.map(|seq| if Some(seq) == at { this(seq) } else { other(seq) }).collect()))
        });
        assert_eq!(found.await, expected, "{size} {at:?}");
        assert_eq!(pages, read, "{size} {at:?}");
    }
    assert_eq!(is_issued(&leaf, 5, |_, _| std::future::ready(None)).await, None, "it cannot be read");
}

#[tokio::test]
async fn a_search_goes_on_below_what_an_earlier_one_found() {
    let (log, leaf) = cluster();
    let entry = log.log_entries(0, 10).into_iter().find(|entry| is_of(entry, &leaf)).unwrap();
    let size = FOUND_MAX as u64 + 2;
    let rows = [(u64::MAX, FOUND_MAX, Some(2)), (2, 2, Some(0)), (1, 1, Some(0)), (0, 0, None)];
    for (below, count, oldest) in rows {
        let (since, until) = (support::START, support::START.saturating_add(support::LIFE));
        let wanted = Wanted::Node { node: leaf.node.clone(), since, until, below };
        let page = |from, max: usize| {
            let entries = (from..from + max as u64).map(|seq| LogEntry { seq, ..entry.clone() });
            std::future::ready(Some(entries.collect()))
        };
        let found = find(&wanted, size, page).await.unwrap();
        assert_eq!((found.len(), found.last().and_then(|found| found.seq)), (count, oldest), "{below}");
    }
}
