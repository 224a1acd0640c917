//! What happens to a node while it is away: it is removed, or its join is given up.

use cluster::Command;
use replica::Handle;
use swarmpki::Phase;
use swarmpki_sim::world::World;

use super::{HOUR, MINUTE, phase, run, with_node};

#[test]
fn c153_a_node_removed_while_away_is_told_so() {
    let (mut world, node, id) = with_node(0xa3a4);
    world.cut_for(node, 10 * MINUTE);
    world.operate(Command::RemoveNode { node: id.clone(), force: true, ready: true });
    run(&mut world, 9 * MINUTE);
    assert_ne!(phase(&world, node), Phase::Removed, "it cannot know yet");
    run(&mut world, 2 * MINUTE);
    assert_eq!(phase(&world, node), Phase::Removed);
    assert!(!world.manager.sessions.is_ready(&id));
}

#[test]
fn c335_a_live_node_that_is_removed_is_told_at_once() {
    let (mut world, node, id) = with_node(0xa3a5);
    world.operate(Command::RemoveNode { node: id, force: true, ready: true });
    run(&mut world, std::time::Duration::from_secs(1));
    assert_eq!(phase(&world, node), Phase::Removed);
}

#[test]
fn a_join_given_up_is_collected_after_a_day() {
    let mut world = World::new(0xa3a6).unwrap();
    let node = world.add(0);
    world.boot(node);
    // The certificate is committed, and the machine is gone before it has fetched it.
    for _ in 0..5_000 {
        run(&mut world, std::time::Duration::from_millis(1));
        if world.manager.log.state().nodes.len() == 2 {
            break;
        }
    }
    world.crash(node);
    assert_eq!(world.manager.state().finished().count(), 1);
    assert_eq!(world.manager.state().nodes.len(), 2);
    run(&mut world, 23 * HOUR);
    assert_eq!(world.manager.state().nodes.len(), 2);
    run(&mut world, HOUR + 11 * MINUTE);
    assert_eq!(world.manager.state().nodes.len(), 1);
}
