//! Random walks: every invariant after every step, and the same bytes on every replica.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use cluster::log::LogHead;
use cluster::outcome::{Outcome, Rejection};
use cluster::{Batch, State};
use proptest::collection::vec;
use proptest::prelude::*;
use support::Cluster;
use support::walk::Step;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// A replica that starts from a snapshot taken midway, and reads the rest as it stands in the log, ends with the same
    /// bytes and says the same of every command.
    #[test]
    fn a_replica_from_a_snapshot_ends_the_same(steps in vec(any::<Step>(), 1..300), midway in any::<prop::sample::Index>()) {
        let mut cluster = Cluster::new();
        let midway = midway.index(steps.len());
        cluster.walk(&steps[..midway]);
        let mut replica = State::decode_snapshot(&cluster.state.encode_snapshot()).unwrap();
        let logged = cluster.log.len();
        let mut issued = Vec::new();
        for (bytes, outcomes) in cluster.walk(&steps[midway..]) {
            let batch = Batch::decode(&bytes).unwrap();
            let applied = replica.apply(replica.index + 1, &batch);
            prop_assert_eq!(applied.outcomes, outcomes);
            issued.extend(applied.issued);
        }
        prop_assert!(replica.encode_snapshot() == cluster.state.encode_snapshot());
        support::assert_same(&replica, &cluster.state);
        prop_assert_eq!(&issued[..], &cluster.log[logged..]);

        let mut head = LogHead::default();
        for entry in &cluster.log {
            prop_assert_eq!(head.append(&entry.bytes), entry.seq);
        }
        prop_assert_eq!(&head, &cluster.state.log);
    }
}

/// The walk is worth something only if it gets everywhere.
#[test]
fn walks_reach_every_outcome() {
    let mut outcomes = Vec::new();
    let mut seed = 0x5eed_u64;
    for _ in 0..40 {
        let mut cluster = Cluster::new();
        let steps: Vec<Step> = (0..400)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((seed >> 33) as u8, (seed >> 41) as u16, (seed >> 57) as u8 & 15)
            })
            .collect();
        outcomes.extend(cluster.walk(&steps).into_iter().flat_map(|(_, outcomes)| outcomes));
    }
    let reached = |outcome: &Outcome| outcomes.contains(outcome);
    use Rejection::*;
    for why in [
        Issuer,
        Epoch,
        Skew,
        Token,
        IdTaken,
        UnknownNode,
        Removed,
        Cut,
        Role,
        OutOfSequence,
        Ready,
        Manager,
        LastManager,
        EngineNotPromotable,
        NotSeated,
        NotPromoted,
        Blob,
        TokenEnded,
        TokenSpent,
        TokenRevoked,
        UnknownToken,
    ] {
        assert!(reached(&Outcome::Rejected(why.clone())), "never {why:?}");
    }
    for fresh in [true, false] {
        let issued = |outcome: &Outcome| matches!(outcome, Outcome::Issued { fresh: seen, .. } if *seen == fresh);
        assert!(outcomes.iter().any(issued), "never issued with fresh {fresh}");
    }
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Outcome::Enlisted { .. })));
    assert!(reached(&Outcome::Unchanged) && reached(&Outcome::Collected(Vec::new())));
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Outcome::Collected(ids) if !ids.is_empty())));
}
