//! One run: faults for a while, then none, and it must converge.

use std::time::Duration;

use cluster::Command;
use cluster::authorize::{Caller, Grant, Method, Standing};
use cluster::command::{SecretBox, UpdateCluster};
use cluster::rotation::Policy;
use pki::join_token::JoinSecret;
use pki::serial::Serial;
use replica::model::Faults;
use std::sync::Arc;
use swarmpki::plan::Input;

use crate::handshake::{judge_client, judge_manager};
use crate::manager::Mischief;
use crate::operator::{Ask, Kind};
use crate::packet::Who;
use crate::world::{FIRST, Weather, World};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Everything follows from it.
    pub seed: u64,
    /// Machines that join at the beginning, besides the manager's.
    pub nodes: usize,
    /// Faults.
    pub steps: usize,
    /// How often in a thousand a step is the operator's and concerns the root.
    pub rotations: u64,
    /// A rule that the manager breaks.
    pub mischief: Option<Mischief>,
}

impl Default for Config {
    fn default() -> Self {
        Self { seed: 0x5eed, nodes: 4, steps: 150, rotations: 90, mischief: None }
    }
}

/// What a run was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Stands for everything that happened, in order: the same for the same seed.
    pub trace: u64,
    /// Events.
    pub events: u64,
    /// Signatures in the issuance log.
    pub issued: u64,
    /// The issuance log's tree: the same only if every certificate is, to the byte.
    pub log: cluster::log::LogHead,
    /// Nodes at the end.
    pub nodes: usize,
    /// Machines removed on the way.
    pub removed: usize,
    /// Rotations that ended.
    pub rotations: u64,
    /// Nodes that were put aside.
    pub aside: u64,
    /// The last of the rotations, from its beginning to its end.
    pub rotation: Duration,
    /// How often another manager came to lead.
    pub elections: u64,
    /// Virtual time.
    pub lasted: Duration,
}

/// A run that must never be.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What was broken.
    pub what: String,
    /// The last lines of what happened before.
    pub lines: Vec<String>,
}

/// Time between two faults, at most.
const FAULT_EVERY_MAX: Duration = Duration::from_secs(120);
/// Time without faults that must be enough: the longest backoff, and a renewal.
const QUIET: Duration = Duration::from_secs(2 * 3600 + 1800);
/// How often, and how long, one looks for a moment at which everything is well.
const LOOK_EVERY: Duration = Duration::from_secs(20);
const LOOKS_MAX: u32 = 60;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Runs a cluster.
///
/// # Errors
/// What was broken.
pub fn run(config: &Config) -> Result<Summary, Failed> {
    let mut world = World::new(config.seed).map_err(|what| Failed { what, lines: Vec::new() })?;
    world.manager.mischief = config.mischief;
    for _ in 0..config.nodes {
        let index = add(&mut world);
        let after = world.chance.span(SECOND, 2 * MINUTE);
        world.boot_after(index, after);
    }
    for _ in 0..config.steps {
        let pause = world.chance.span(SECOND, FAULT_EVERY_MAX);
        world.run_for(pause);
        if world.chance.in_thousand(config.rotations) {
            rotate(&mut world);
        } else {
            fault(&mut world, config);
        }
        result(&world)?;
    }
    converge(&mut world, QUIET)?;
    refused(&mut world);
    result(&world)?;
    Ok(summary(&world))
}

/// Nothing goes wrong any more: after `quiet`, and a little more if need be, everybody is well.
pub(crate) fn converge(world: &mut World, quiet: Duration) -> Result<(), Failed> {
    world.note(FIRST, "calm", String::new);
    world.calm();
    for index in 0..world.machines.len() {
        if world.machines[index].plan.is_none() {
            world.boot_after(index, MINUTE);
        }
    }
    world.run_for(quiet / 2);
    result(world)?;
    tidy(world);
    world.run_for(quiet / 2);
    result(world)?;
    let mut missing = unwell(world);
    for _ in 0..LOOKS_MAX {
        if missing.is_none() {
            break;
        }
        world.run_for(LOOK_EVERY);
        result(world)?;
        missing = unwell(world);
    }
    if let Some(missing) = missing {
        return Err(Failed { what: format!("it does not converge: {missing}"), lines: world.last_lines() });
    }
    let state = world.manager.state();
    world.manager.ledger.look(&state);
    world.run_for(Duration::ZERO);
    result(world)
}

pub(crate) fn summary(world: &World) -> Summary {
    let state = world.manager.state();
    Summary {
        trace: world.trace,
        events: world.events,
        issued: state.log_size(),
        log: state.log.clone(),
        nodes: state.finished().count(),
        removed: world.removed.len(),
        rotations: world.watch.ended,
        aside: world.watch.aside,
        rotation: Duration::from_millis(world.watch.lasted_ms),
        lasted: world.now.since(crate::world::START),
        ..Summary::default()
    }
}

pub(crate) fn result(world: &World) -> Result<(), Failed> {
    match &world.broken {
        Some(what) => Err(Failed { what: what.clone(), lines: world.last_lines() }),
        None => Ok(()),
    }
}

/// A machine whose clock is off by up to two minutes.
fn add(world: &mut World) -> usize {
    let offset = world.chance.below(240_001) as i64 - 120_000;
    world.add(offset)
}

/// A cluster whose nodes are well, and one rotation of its root in fair weather: the shortest way to what a broken rule does.
///
/// # Errors
/// What was broken.
pub fn quiet(config: &Config) -> Result<Summary, Failed> {
    let mut world = World::new(config.seed).map_err(|what| Failed { what, lines: Vec::new() })?;
    world.manager.mischief = config.mischief;
    for _ in 0..config.nodes {
        let index = add(&mut world);
        world.boot(index);
    }
    world.run_for(MINUTE);
    let last = world.machines.len() - 1;
    world.crash(last);
    // One is put aside, and comes back by itself.
    let policy = Policy::Deadline(world.manager_clock().saturating_add(MINUTE));
    world.rotate(Ask::Fresh, policy);
    world.run_for(5 * MINUTE);
    result(&world)?;
    world.boot(last);
    converge(&mut world, 2 * MINUTE)?;
    Ok(summary(&world))
}

/// One thing goes wrong, or an operator does something.
fn fault(world: &mut World, config: &Config) {
    let others: Vec<usize> = (1..world.machines.len()).collect();
    let picked = world.chance.pick(&others).unwrap_or(FIRST);
    match world.chance.below(100) {
        0..=9 if world.machines.len() < 3 * config.nodes.max(1) => {
            let index = add(world);
            world.boot(index);
        }
        0..=26 => {
            if picked != FIRST && world.machines[picked].plan.is_some() {
                world.crash(picked);
                let off = world.chance.span(SECOND, 10 * MINUTE);
                world.boot_after(picked, off);
            }
        }
        27..=34 => {
            if world.manager.up {
                world.crash(FIRST);
                world.manager_offset_ms = world.chance.below(120_001) as i64 - 60_000;
                world.machines[FIRST].offset_ms = world.manager_offset_ms;
                let off = world.chance.span(SECOND, 2 * MINUTE);
                world.boot_after(FIRST, off);
            }
        }
        35..=48 => {
            if picked != FIRST {
                let span = world.chance.span(10 * SECOND, 20 * MINUTE);
                world.cut_for(picked, span);
            }
        }
        49..=53 => remove(world, picked),
        54..=58 => rotate_token(world),
        59..=66 => world.tell(picked, Input::RenewNow),
        67..=72 => {
            let jump = world.chance.below(120_001) as i64 - 60_000;
            let machine = &mut world.machines[picked];
            if picked != FIRST {
                machine.offset_ms = (machine.offset_ms + jump).clamp(-180_000, 180_000);
            }
        }
        73..=90 => {
            let weather = weather(world);
            world.set_weather(weather);
        }
        91..=94 => world.tell(picked, Input::Redescribe),
        95..=97 => rename(world, picked),
        _ => change_life(world),
    }
}

/// The operator does something about the root.
fn rotate(world: &mut World) {
    let running = world.manager.state().rotation().is_some();
    let now = world.manager_clock();
    let policy = match world.chance.below(10) {
        0..=5 => Policy::WaitForAll,
        6..=8 => Policy::Deadline(now.saturating_add(world.chance.span(10 * SECOND, 5 * MINUTE))),
        _ => Policy::Emergency { bound: world.chance.span(10 * SECOND, 2 * MINUTE) },
    };
    let ask = match world.chance.below(10) {
        0..=3 if running => Ask::Abort,
        0..=5 => Ask::Fresh,
        6 => Ask::Given(Kind::SameName),
        7 => Ask::Given(Kind::OtherName),
        8 => Ask::Given(Kind::NothingBelow),
        _ => Ask::Former,
    };
    world.rotate(ask, policy);
}

/// Whether a machine and the manager know no root any more by which the one could verify the other.
fn is_lost(world: &World, index: usize) -> bool {
    let Some(own) = world.machines[FIRST].live.as_ref() else { return false };
    let Some(identity) = world.machines[index].live.clone() else { return false };
    let (state, clock) = (world.manager.state(), world.manager_clock());
    world.manager.judge(&state, own, &identity, clock).is_err()
        || judge_manager(&world.manager.known, &Who::Node(identity), own, world.now).is_err()
}

/// What an operator does once all else is well: records of machines that were emptied are removed, and so is who can verify no
/// manager any more, and comes back by token: after an emergency, or where no certificate leads from one root to the other.
fn tidy(world: &mut World) {
    let state = world.manager.state();
    let ids: Vec<_> = world.machines.iter().filter_map(crate::machine::Machine::id).collect();
    for node in state.finished().filter(|node| !ids.contains(&node.id)) {
        world.operate(Command::RemoveNode { node: node.id.clone(), force: true, ready: false });
    }
    for index in 1..world.machines.len() {
        let Some(node) = world.machines[index].id().filter(|id| state.node(id).is_some()) else { continue };
        if is_lost(world, index) {
            world.note(index, "lost", String::new);
            let may = world.without_ladder > 0;
            world.demand(may, || format!("machine {index} comes back by itself"));
            world.operate(Command::RemoveNode { node, force: true, ready: false });
            world.wipe_after(index, SECOND);
        }
    }
}

fn weather(world: &mut World) -> Weather {
    let chance = &mut world.chance;
    if chance.in_thousand(300) {
        return Weather::FAIR;
    }
    Weather {
        lost: chance.below(200),
        twice: chance.below(200),
        delay: Duration::from_millis(chance.between(2, 2_000)),
        torn: chance.below(30),
        log: Faults {
            lost_answer: chance.below(150) as u32,
            lost_proposal: chance.below(150) as u32,
            unavailable: chance.below(150) as u32,
            delay: chance.below(300) as u32,
        },
    }
}

/// An operator removes a node; half of the time the machine is then emptied and joins again.
fn remove(world: &mut World, index: usize) {
    let Some(identity) = world.machines[index].live.clone() else { return };
    let Some(id) = world.machines[index].id() else { return };
    if index == FIRST || world.removed.iter().any(|(machine, _)| *machine == index) || !world.manager.up {
        return;
    }
    let state = world.manager.state();
    if state.node(&id).is_none() {
        return;
    }
    let ready = world.manager.sessions.is_ready(&id);
    world.operate(Command::RemoveNode { node: id, force: true, ready });
    world.removed.push((index, identity));
    world.note(index, "remove", String::new);
    if world.chance.in_thousand(500) {
        let after = world.chance.span(MINUTE, 20 * MINUTE);
        world.wipe_after(index, after);
    }
}

fn rotate_token(world: &mut World) {
    let secret = SecretBox(Arc::new(JoinSecret::from_bytes(world.chance.bytes())));
    let version = world.manager.state().cluster_version;
    let update = UpdateCluster { version, worker_secret: Some(secret), ..UpdateCluster::default() };
    world.operate(Command::UpdateCluster(Box::new(update)));
}

fn change_life(world: &mut World) {
    let state = world.manager.state();
    let mut settings = state.settings.as_ref().clone();
    settings.node_cert_expiry = Duration::from_secs(3600 * world.chance.between(1, 3));
    let version = state.cluster_version;
    let update = UpdateCluster { version, settings: Some(settings), ..UpdateCluster::default() };
    world.operate(Command::UpdateCluster(Box::new(update)));
}

fn rename(world: &mut World, index: usize) {
    let state = world.manager.state();
    let Some(node) = world.machines[index].id().and_then(|id| state.node(&id)) else { return };
    let mut spec = node.spec.clone();
    spec.name = format!("name-{}", world.chance.below(1000));
    let command = Command::UpdateNode { node: node.id.clone(), version: node.version, spec: Box::new(spec) };
    world.operate(command);
}

/// What is not as it must be once nothing goes wrong any more.
fn unwell(world: &World) -> Option<String> {
    let state = world.manager.state();
    if let Some(rotation) = state.rotation() {
        let late: Vec<_> = state.finished().filter(|node| rotation.blocks(node)).map(|node| node.id.as_str()).collect();
        let who = |machine: &&crate::machine::Machine| machine.id().is_some_and(|id| late.contains(&id.as_str()));
        let said = world.machines.iter().filter(who).filter_map(|machine| machine.plan.as_ref());
        let said: Vec<_> = said.map(|plan| (plan.status().phase.word(), plan.status().last_error.as_ref())).collect();
        return Some(format!("a rotation does not end, it is in {}: {late:?} {said:?}", rotation.phase.word()));
    }
    for machine in &world.machines {
        let index = machine.index;
        let Some(plan) = &machine.plan else { return Some(format!("machine {index} is off")) };
        let status = plan.status();
        let id = machine.id();
        let removed = id.as_ref().is_some_and(|id| state.node(id).is_none());
        if removed {
            // Once its last leaf has ended the removal is forgotten: then it is refused without that word, for ever.
            let ended = machine.live.as_ref().and_then(|identity| identity.chain.first());
            let ended = ended.is_some_and(|leaf| leaf.not_after() < world.now) && status.connected.is_none();
            if !machine.says_removed() && !ended && !is_lost(world, index) {
                let trouble = &status.last_error;
                return Some(format!("machine {index} was removed, and is {}: {trouble:?}", status.phase.word()));
            }
            continue;
        }
        let told = || format!("machine {index} is {}: {:?}", status.phase.word(), status.last_error);
        let (Some(id), Some(identity)) = (id, &machine.live) else { return Some(told()) };
        if status.connected.is_none() || !world.manager.sessions.is_ready(&id) {
            return Some(told());
        }
        if state.node(&id).is_some_and(|record| record.unfinished.is_some() || record.down) {
            return Some(format!("machine {index} is in session, and recorded as unfinished or down"));
        }
        if state.node(&id).is_some_and(|record| cluster::rotation::need(&state.roots, record).is_some()) {
            return Some(format!("machine {index} is in session, and was not converted"));
        }
        if !state.roots.served().is_some_and(|root| machine.trusts(&pki::digest::Digest::of(&root.bundle))) {
            return Some(format!("machine {index} holds another root"));
        }
        // The session may still stand on the leaf before: an ordinary renewal cuts nothing.
        let own = world.machines[FIRST].live.as_ref()?;
        let standing = judge_client(&world.manager.known, &state, &own.trust, identity, world.manager_clock())
            .map(|leaf| state.standing(&leaf, world.manager_clock()));
        if !matches!(standing, Ok(Standing::Admitted { .. })) {
            return Some(format!("the leaf of machine {index} would not be let in: {standing:?}"));
        }
    }
    None
}

/// Who was removed is refused everything that is not for anybody; so is a leaf that the root's key signed and nobody
/// registered.
fn refused(world: &mut World) {
    let state = world.manager.state();
    let now = world.manager_clock();
    let Some(own) = world.machines[FIRST].live.clone() else { return };
    let mut callers = Vec::new();
    for (index, identity) in &world.removed {
        if let Ok(leaf) = judge_client(&world.manager.known, &state, &own.trust, identity, now)
            && state.node(&leaf.node).is_none()
        {
            callers.push((format!("machine {index}, removed"), leaf));
        }
    }
    for machine in &world.machines {
        let Some(identity) = &machine.live else { continue };
        if let Ok(mut leaf) = judge_client(&world.manager.known, &state, &own.trust, identity, now) {
            leaf.serial = Serial::from_random(world.chance.bytes());
            callers.push((format!("a forged leaf of machine {}", machine.index), leaf));
        }
    }
    for (name, leaf) in callers {
        let standing = state.standing(&leaf, now);
        world.demand(matches!(standing, Standing::Removed | Standing::Unregistered), || {
            format!("{name} is not let in: {standing:?}")
        });
        for method in Method::ALL {
            let granted = state.authorize(Caller::Identified(&leaf, &standing), method, now);
            world.demand(matches!(granted, Ok(Grant::Anybody) | Err(_)), || {
                format!("{name} is refused {method:?}: {granted:?}")
            });
        }
    }
}
