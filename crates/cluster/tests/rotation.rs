//! The replacement of the root, step by step. Item numbers are those of conformance.md.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use cluster::rotation::Policy;
use support::world::World;

#[test]
fn smoke() {
    let mut world = World::new(2);
    assert!(matches!(world.start(1, false, Policy::WaitForAll), cluster::Outcome::Done { .. }));
    assert!(world.is_hitless());
    assert!(world.ends());
}
