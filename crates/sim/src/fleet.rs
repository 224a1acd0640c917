//! One large cluster: many machines join, some sleep for a while, the manager restarts at given moments, clocks differ and
//! messages get lost; then nothing goes wrong any more, and everybody must be well.

use std::time::Duration;

use cluster::rotation::Policy;
use cluster::settings::Settings;
use replica::model::Faults;

use crate::operator::Ask;
use crate::run::{Failed, Summary, converge, result, summary};
use crate::world::{FIRST, Weather, World};

/// What to run. Moments are counted from the beginning.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// Everything else follows from it.
    pub seed: u64,
    /// Machines, besides the manager's.
    pub nodes: usize,
    /// Within which time they join.
    pub joining: Duration,
    /// Machines that are switched off once, at moments of their own.
    pub asleep: usize,
    /// For how long, at most.
    pub asleep_max: Duration,
    /// How far clocks are off, at most, either way.
    pub skew_max: Duration,
    /// When the manager loses power; it is back within a minute.
    pub restarts: Vec<Duration>,
    /// Rotations of the root, evenly over the time in which things go wrong.
    pub rotations: usize,
    /// Calls and answers lost, in a thousand.
    pub lost: u64,
    /// How long things go wrong.
    pub lasts: Duration,
    /// How long they then go well before all must be.
    pub quiet: Duration,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// How long a leaf lives.
    pub leaf_life: Duration,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            seed: 0x5eed,
            nodes: 1000,
            joining: Duration::from_secs(120),
            asleep: 50,
            asleep_max: Duration::from_secs(20 * 60),
            skew_max: Duration::from_secs(120),
            restarts: vec![Duration::from_secs(90), Duration::from_secs(900)],
            rotations: 2,
            lost: 20,
            lasts: Duration::from_secs(30 * 60),
            quiet: Duration::from_secs(30 * 60),
            heartbeat: Duration::from_secs(300),
            leaf_life: Duration::from_secs(3600),
        }
    }
}

/// Time without power, of a manager that restarts.
const OFF_MAX: Duration = Duration::from_secs(60);

/// Until the last join is over.
const SETTLING: Duration = Duration::from_secs(60);

impl Fleet {
    /// Whether nothing goes wrong: then nothing may fail either.
    pub fn is_calm(&self) -> bool {
        self.lost == 0 && self.restarts.is_empty() && self.asleep == 0 && self.skew_max.is_zero()
    }
}

/// Runs it.
///
/// # Errors
/// What was broken.
pub fn run(fleet: &Fleet) -> Result<Summary, Failed> {
    let mut world = begin(fleet)?;
    if fleet.is_calm() {
        // Joins may be refused for a moment: there are many.
        world.run_for(fleet.joining + SETTLING);
        world.strict = true;
        world.run_for(fleet.lasts.saturating_sub(fleet.joining + SETTLING));
        world.strict = false;
    } else {
        world.run_for(fleet.lasts);
    }
    result(&world)?;
    converge(&mut world, fleet.quiet)?;
    Ok(summary(&world))
}

/// So many moments, evenly over a span.
pub fn evenly(count: usize, span: Duration) -> Vec<Duration> {
    let parts = u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1);
    (1..parts).map(|part| span / parts * part).collect()
}

/// The world of such a run, with everything that will happen in its queue.
///
/// # Errors
/// If the cluster cannot begin.
pub fn begin(fleet: &Fleet) -> Result<World, Failed> {
    let settings = Settings { node_cert_expiry: fleet.leaf_life, heartbeat: fleet.heartbeat, ..Settings::default() };
    let mut world = World::with(fleet.seed, settings).map_err(|what| Failed { what, lines: Vec::new() })?;
    let often = if fleet.is_calm() { 0 } else { 10 };
    let log = Faults { lost_answer: often, lost_proposal: often, unavailable: often, delay: 2 * often };
    let delay = Duration::from_millis(if fleet.is_calm() { 5 } else { 200 });
    world.set_weather(Weather { lost: fleet.lost, twice: fleet.lost, delay, torn: 0, log });
    let skew = i64::try_from(fleet.skew_max.as_millis()).unwrap_or(i64::MAX / 2);
    for _ in 0..fleet.nodes {
        let offset = world.chance.below(2 * skew.unsigned_abs() + 1) as i64 - skew;
        let index = world.add(offset);
        let after = world.chance.span(Duration::ZERO, fleet.joining);
        world.boot_after(index, after);
    }
    for _ in 0..fleet.asleep.min(fleet.nodes) {
        let index = 1 + world.chance.below(fleet.nodes as u64) as usize;
        let at = world.chance.span(Duration::ZERO, fleet.lasts);
        let off = world.chance.span(Duration::from_secs(1), fleet.asleep_max);
        world.crash_after(index, at);
        world.boot_after(index, at + off);
    }
    for at in evenly(fleet.rotations, fleet.lasts) {
        world.rotate_after(Ask::Fresh, Policy::WaitForAll, at);
    }
    for &at in &fleet.restarts {
        let off = world.chance.span(Duration::from_secs(1), OFF_MAX);
        world.crash_after(FIRST, at);
        world.boot_after(FIRST, at + off);
    }
    Ok(world)
}
