//! The graph of trust says what a verifier of certificates says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::sync::Arc;

use cluster::trust;
use pki::bundle::Issuer;
use pki::certificate::Certificate;
use pki::chain::Usage;
use pki::identity::{Role, Subject};
use pki::issue::Leaf;
use pki::key::PrivateKey;
use proptest::collection::vec;
use proptest::prelude::*;
use support::authorities::{AUTHORITIES, authority, cross};
use support::{START, cluster_id, id, serial};

fn leaf(of: usize) -> Certificate {
    let root = authority(of);
    let key = PrivateKey::from_der(root.key.as_ref().unwrap().expose()).unwrap();
    let issuer = Issuer::build(&root.bundle, Some(&root.bundle), Some(Arc::new(key)), b"", START).unwrap();
    let subject = Subject { cluster: cluster_id(), role: Role::Worker, node: id(1) };
    let details = Leaf { subject: &subject, serial: serial(1), now: START, expiry: support::LIFE };
    let own = PrivateKey::generate_p256(&[77; 32]).unwrap();
    pki::issue::leaf_for_signer(&own, &details, &issuer).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_leaf_reaches_in_the_graph_iff_webpki_accepts_it(
        of in 0..AUTHORITIES,
        steps in vec((0..AUTHORITIES, 0..AUTHORITIES), 0..6),
        anchors in vec(0..AUTHORITIES, 1..3),
    ) {
        let steps = steps.into_iter().filter(|(of, by)| of != by);
        let ladder: Vec<_> = steps.map(|(of, by)| cross(&authority(of), &authority(by))).collect();
        let anchors: Vec<_> = anchors.into_iter().map(|n| authority(n).signer.clone()).collect();
        let accepted = pki::chain::reaches(&leaf(of), &ladder, &anchors, START, Usage::Client).is_ok();
        prop_assert_eq!(trust::verifies(&authority(of).issuer, &ladder, &anchors), accepted);
        let short = trust::shortest(&ladder);
        prop_assert!(short.len() <= ladder.len());
    }
}

#[test]
fn detours_are_left_out_and_every_step_is_still_certified_by_the_next() {
    let [a, b, c] = [0, 1, 2].map(authority);
    let ladder = [cross(&a, &b), cross(&b, &a), cross(&a, &c)];
    assert_eq!(trust::shortest(&ladder), [cross(&a, &c)]);
    assert_eq!(trust::shortest(&ladder[..2]), ladder[..2]);
}
