//! Past bugs, and stories that were bugs elsewhere: each with its seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod asleep;
mod away;
mod lost_answer;
mod old_pair;

use std::time::Duration;

use pki::identity::NodeId;
use swarmpki::Phase;
use swarmpki_sim::world::World;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// A cluster with one node that has joined and is in session.
fn with_node(seed: u64) -> (World, usize, NodeId) {
    let mut world = World::new(seed).unwrap();
    let node = world.add(0);
    world.boot(node);
    run(&mut world, MINUTE);
    let id = world.machines[node].id().unwrap();
    assert!(world.manager.sessions.is_ready(&id));
    (world, node, id)
}

fn run(world: &mut World, span: Duration) {
    world.run_for(span);
    assert_eq!(world.broken, None, "{:#?}", world.last_lines());
}

fn phase(world: &World, machine: usize) -> Phase {
    world.machines[machine].plan.as_ref().unwrap().status().phase
}

/// Runs until a machine has another leaf than now.
fn until_renewed(world: &mut World, machine: usize) {
    let serial = |world: &World| world.machines[machine].live.as_ref().unwrap().chain[0].serial();
    let before = serial(world);
    for _ in 0..600 {
        run(world, Duration::from_secs(6));
        if serial(world) != before {
            return;
        }
    }
    panic!("machine {machine} never renews");
}
