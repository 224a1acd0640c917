#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use cluster::command::UpdateCluster;
use cluster::rotation::{Phase, Policy};
use cluster::{Command, Outcome};

use super::*;
use crate::rotate;
use crate::rotate::fixture::Fixture;

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// A cluster whose first root began long ago.
fn grown() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.later(Duration::from_secs(5 * 3_600));
    fixture
}

/// What clocks that are off by so many seconds allow.
fn allowed<const N: usize>(fixture: &Fixture, node: &NodeId, need: Need, seconds: [i64; N]) -> [bool; N] {
    let (dates, node) = (Dates::new(&fixture.state), fixture.state.node(node).unwrap());
    seconds.map(|seconds| {
        let clock = NodeClock { offset_ms: seconds * 1000, floor: Time::default() };
        dates.allow(&fixture.state, node, need, clock, fixture.now)
    })
}

/// Begins a rotation to a root that begins at `begin`, as one may that is given.
fn rotate_to_given(fixture: &mut Fixture, begin: Time) {
    let (key, serial) = (fixture.chance.p256_key().unwrap(), fixture.chance.serial().unwrap());
    let root = pki::issue::root(&key, serial, begin.saturating_add(pki::issue::ROOT_BACKDATE)).unwrap();
    let to = Root::new(root.pem().into_bytes(), root, Vec::new(), Some(Arc::new(key.pkcs8_der())));
    let change = rotate::prepare(
        &fixture.state,
        Arc::new(to),
        false,
        Policy::WaitForAll,
        &rotate::Signers::default(),
        fixture.now,
    )
    .unwrap();
    assert!(matches!(fixture.update(Some(change)), Outcome::Done { .. }));
}

#[test]
fn a_root_made_for_it_allows_the_hour_of_leaves() {
    let mut fixture = grown();
    let id = fixture.node(1, true);
    fixture.rotate(Policy::WaitForAll);
    let rows = [0, -10 * MINUTE, -58 * MINUTE, -62 * MINUTE, -3 * HOUR, 3 * HOUR, 89 * DAY, 91 * DAY];
    let expected = [true, true, true, false, false, true, true, false];
    assert_eq!(allowed(&fixture, &id, Need::Renewal, rows), expected);
    let manager = fixture.manager.clone();
    for node in [&manager, &id] {
        fixture.renew(node);
    }
    fixture.advance();
    assert_eq!(fixture.state.rotation().unwrap().phase, Phase::Trust);
    assert_eq!(allowed(&fixture, &id, Need::Trust, rows), expected, "it comes back to a manager's new leaf");
}

#[test]
fn a_root_that_has_just_begun_allows_less_and_more_with_time() {
    let mut fixture = grown();
    let id = fixture.node(1, true);
    let begin = fixture.now.round_to_minute().saturating_sub(Duration::from_secs(60));
    rotate_to_given(&mut fixture, begin);
    let rows = [0, -10 * MINUTE, 3 * HOUR];
    for need in [Need::Renewal, Need::Trust] {
        assert_eq!(allowed(&fixture, &id, need, rows), [true, false, true], "{need:?}");
    }
    fixture.later(Duration::from_secs(600));
    assert_eq!(allowed(&fixture, &id, Need::Renewal, rows), [true; 3]);
}

#[test]
fn short_leaves_end_early_for_a_clock_ahead() {
    let mut fixture = grown();
    let id = fixture.node(1, true);
    let settings = cluster::settings::Settings {
        node_cert_expiry: Duration::from_secs(2 * 3_600),
        ..(*fixture.state.settings).clone()
    };
    let version = fixture.state.cluster_version;
    let update = UpdateCluster { version, settings: Some(settings), ..UpdateCluster::default() };
    fixture.apply(Command::UpdateCluster(Box::new(update)));
    fixture.rotate(Policy::WaitForAll);
    assert_eq!(allowed(&fixture, &id, Need::Renewal, [HOUR, 3 * HOUR]), [true, false]);
}

#[test]
fn what_counts_is_the_time_it_judges_by() {
    let mut fixture = grown();
    let id = fixture.node(1, true);
    fixture.rotate(Policy::WaitForAll);
    let (dates, node) = (Dates::new(&fixture.state), fixture.state.node(&id).unwrap());
    let allow = |floor| {
        let clock = NodeClock { offset_ms: -3 * HOUR * 1000, floor };
        dates.allow(&fixture.state, node, Need::Renewal, clock, fixture.now)
    };
    assert!(allow(fixture.now.saturating_sub(Duration::from_secs(1_800))));
    assert!(!allow(fixture.now.saturating_sub(Duration::from_secs(4_000))));
    assert!(!allow(Time::default()));
}

#[test]
fn a_root_that_it_holds_and_that_begins_later_allows_nothing() {
    let mut fixture = Fixture::new();
    let id = fixture.node(1, true);
    fixture.rotate(Policy::WaitForAll);
    assert_eq!(allowed(&fixture, &id, Need::Renewal, [-4 * MINUTE, -10 * MINUTE]), [true, false]);
}
