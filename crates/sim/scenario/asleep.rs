//! A node renews, keeps its session on the leaf before as an engine does, and loses power. It is off until the new leaf has
//! ended, which nobody ever saw in use. It was called forged; its holder is as well known as that of a leaf in use.

use std::time::Duration;

use super::{HOUR, MINUTE, run, until_renewed, with_node};

#[test]
fn a_leaf_that_ended_unused_is_forgiven() {
    let (mut world, node, id) = with_node(0xa51ee9);
    until_renewed(&mut world, node);
    let record = world.manager.state().node(&id).cloned().unwrap();
    let serial = world.machines[node].live.as_ref().unwrap().chain[0].serial();
    assert!(record.offered.iter().any(|leaf| leaf.serial == serial), "not yet seen in use");
    world.crash(node);
    run(&mut world, HOUR + 30 * MINUTE);
    assert!(world.manager.state().node(&id).unwrap().down);
    world.boot(node);
    run(&mut world, Duration::from_secs(30));
    assert!(world.manager.sessions.is_ready(&id), "{:#?}", world.last_lines());
    assert_eq!(world.machines[node].id(), Some(id));
}
