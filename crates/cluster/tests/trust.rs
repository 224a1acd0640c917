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
    let key = PrivateKey::from_der(root.key().unwrap().expose()).unwrap();
    let issuer = Issuer::build(&root.bundle, Some(&root.bundle), Some(Arc::new(key)), b"", START).unwrap();
    let subject = Subject { cluster: cluster_id(), role: Role::Worker, node: id(1) };
    let details = Leaf { subject: &subject, serial: serial(1), now: START, expiry: support::LIFE };
    let own = PrivateKey::generate_p256(&[77; 32]).unwrap();
    pki::issue::leaf_for_signer(&own, &details, &issuer).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Ladders as they are sent, each step certified by the next, detours and all. Webpki looks at no more than a hundred
    /// signatures: of certificates in any order, all of one name, it may not find the path that there is.
    #[test]
    fn a_leaf_reaches_in_the_graph_iff_webpki_accepts_it(
        walk in vec(0..AUTHORITIES, 1..6),
        anchors in vec(0..AUTHORITIES, 1..3),
    ) {
        let steps = walk.windows(2).filter(|step| step[0] != step[1]);
        let ladder: Vec<_> = steps.map(|step| cross(&authority(step[0]), &authority(step[1]))).collect();
        let roots: Vec<_> = anchors.into_iter().map(|n| authority(n).signer.clone()).collect();
        let graph = |ladder: &[Certificate]| trust::verifies(&authority(walk[0]).issuer, ladder, &roots);
        let judged = |ladder: &[Certificate]| {
            pki::chain::reaches(&leaf(walk[0]), ladder, &roots, START, Usage::Client).is_ok()
        };
        prop_assert_eq!(graph(&ladder), judged(&ladder));
        let short = trust::shortest(&ladder);
        prop_assert_eq!(graph(&short), judged(&short));
    }
}

#[test]
fn detours_are_left_out_and_every_step_is_still_certified_by_the_next() {
    let [a, b, c] = [0, 1, 2].map(authority);
    let ladder = [cross(&a, &b), cross(&b, &a), cross(&a, &c)];
    assert_eq!(trust::shortest(&ladder), [cross(&a, &c)]);
    assert_eq!(trust::shortest(&ladder[..2]), ladder[..2]);
}
