//! The manager dies, or its answer gets lost, between the entry of the log and the joiner: the same request again is the
//! same node again, and no second one stays behind (O12).

use std::time::Duration;

use replica::model::Faults;
use swarmpki_sim::world::{FIRST, Weather, World};

use super::{MINUTE, run};

fn joins_once(world: &mut World, node: usize) {
    run(world, 2 * MINUTE);
    let state = world.manager.state();
    let id = world.machines[node].id().unwrap();
    assert!(world.manager.sessions.is_ready(&id), "{:#?}", world.last_lines());
    assert_eq!(state.nodes.len(), 2, "one manager, one node, nothing left behind");
    assert_eq!(state.log_size(), 3, "root and two leaves");
}

#[test]
fn an_answer_lost_after_the_commit_makes_no_second_node() {
    let mut world = World::new(0x105e).unwrap();
    let node = world.add(0);
    let log = Faults { lost_answer: 1000, ..Faults::default() };
    world.set_weather(Weather { log, ..Weather::FAIR });
    world.boot(node);
    while world.manager.state().nodes.len() == 1 {
        run(&mut world, Duration::from_millis(1));
    }
    world.calm();
    joins_once(&mut world, node);
}

#[test]
fn o12_a_manager_killed_between_issue_and_status() {
    let mut world = World::new(0x105f).unwrap();
    let node = world.add(0);
    world.boot(node);
    while world.manager.state().nodes.len() == 1 {
        run(&mut world, Duration::from_millis(1));
    }
    world.crash(FIRST);
    world.boot_after(FIRST, Duration::from_secs(3));
    joins_once(&mut world, node);
}
