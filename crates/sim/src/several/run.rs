//! One run of several managers: faults for a while, then none, and it must converge.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cluster::Command;
use cluster::authorize::{Caller, Grant, Method, Standing};
use cluster::command::{SecretBox, UpdateCluster};
use cluster::rotation::{Policy, RootsChange};
use pki::identity::Role;
use pki::join_token::JoinSecret;
use replica::model::group::GroupFaults;
use swarmpki::plan::Input;

use super::world::Group;
use crate::handshake::judge_client;
use crate::manager::Mischief;
use crate::operator::Ask;
use crate::run::{Failed, Summary};
use crate::world::{START, Weather};

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Several {
    /// Everything follows from it.
    pub seed: u64,
    /// Managers at the beginning.
    pub managers: usize,
    /// Other machines.
    pub nodes: usize,
    /// Faults.
    pub steps: usize,
    /// A rule that the managers break.
    pub mischief: Option<Mischief>,
}

impl Default for Several {
    fn default() -> Self {
        Self { seed: 0x5eed, managers: 3, nodes: 3, steps: 60, mischief: None }
    }
}

const SECOND: Duration = Duration::from_secs(1);
/// Time within which the first machines are in session.
const BEGINNING: Duration = Duration::from_secs(60);
/// Time between two faults, at most.
const FAULT_EVERY_MAX: Duration = Duration::from_secs(20);
/// Time without faults that must be enough: the longest backoff, a promotion that runs out, and a leaf's life.
const QUIET: Duration = Duration::from_secs(20 * 60);
/// How often, and how long, one looks for a moment at which everything is well.
const LOOK_EVERY: Duration = Duration::from_secs(20);
const LOOKS_MAX: u32 = 180;

/// Runs a cluster.
///
/// # Errors
/// What was broken.
pub fn run(config: &Several) -> Result<Summary, Failed> {
    let mut group = Group::new(config.seed, config.mischief).map_err(|what| Failed { what, lines: Vec::new() })?;
    group.run_for(10 * SECOND);
    for index in 1..config.managers + config.nodes {
        let offset = group.chance.below(60_001) as i64 - 30_000;
        group.add(offset);
        if index < config.managers {
            group.wanted.insert(index);
        }
        let after = group.chance.span(SECOND, 10 * SECOND);
        group.boot_after(index, after);
    }
    group.run_for(BEGINNING);
    result(&group)?;
    for _ in 0..config.steps {
        let pause = group.chance.span(Duration::from_millis(1), FAULT_EVERY_MAX);
        group.run_for(pause);
        fault(&mut group, config);
        result(&group)?;
    }
    converge(&mut group)?;
    refused(&mut group);
    result(&group)?;
    Ok(summary(&group))
}

pub(super) fn result(group: &Group) -> Result<(), Failed> {
    match &group.witness.broken {
        Some(what) => Err(Failed { what: what.clone(), lines: group.last_lines() }),
        None => Ok(()),
    }
}

pub(super) fn summary(group: &Group) -> Summary {
    let state = &group.witness.state;
    Summary {
        trace: group.trace,
        events: group.events,
        issued: state.log_size(),
        log: state.log.clone(),
        nodes: state.finished().count(),
        removed: group.removed.len(),
        rotations: group.rotations,
        elections: group.elections,
        lasted: group.now.since(START),
        ..Summary::default()
    }
}

/// One thing goes wrong, or an operator does something.
fn fault(group: &mut Group, config: &Several) {
    let machines: Vec<usize> = (0..group.machines.len()).collect();
    let picked = group.chance.pick(&machines).unwrap_or_default();
    let managers = group.managers();
    let manager = group.chance.pick(&managers).unwrap_or_default();
    // Mostly a minority is missing.
    let spare = group.missing() == 0 || group.chance.in_thousand(60);
    match group.chance.below(100) {
        0..=11 => {
            // Now and then it is back before anybody missed it.
            let leader = group.leader().filter(|_| group.chance.in_thousand(600)).unwrap_or(manager);
            if spare {
                let quick = group.chance.in_thousand(400);
                let most = if quick { 2 * SECOND } else { 40 * SECOND };
                group.crash(leader);
                let off = group.chance.span(Duration::from_millis(100), most);
                group.boot_after(leader, off);
            }
        }
        12..=25 => {
            let leader = group.leader().filter(|_| group.chance.in_thousand(500)).unwrap_or(manager);
            if spare {
                let span = group.chance.span(Duration::from_millis(200), 25 * SECOND);
                let whole = group.chance.in_thousand(500);
                group.cut_for(leader, whole, span);
            }
        }
        26..=33 => {
            let by = group.chance.span(Duration::from_millis(100), 8 * SECOND);
            let span = group.chance.span(SECOND, 60 * SECOND);
            group.late_for(manager, by, span);
        }
        34..=41 => {
            if !managers.contains(&picked) && group.machines[picked].plan.is_some() {
                group.crash(picked);
                let off = group.chance.span(Duration::from_millis(100), 60 * SECOND);
                group.boot_after(picked, off);
            }
        }
        42..=46 => {
            if !managers.contains(&picked) {
                let span = group.chance.span(SECOND, 40 * SECOND);
                group.cut_for(picked, true, span);
            }
        }
        47..=60 => weather(group),
        61..=66 => role(group, manager, picked),
        67..=71 => rotate(group, manager),
        72..=76 => remove(group, manager, picked),
        77..=80 => rotate_token(group, manager),
        81..=87 => group.tell(picked, Input::RenewNow),
        88..=91 => group.tell(picked, Input::Redescribe),
        92..=95 if group.machines.len() < 2 * (config.nodes + config.managers) => {
            let index = group.add(0);
            if group.chance.in_thousand(200) {
                group.wanted.insert(index);
            }
            group.boot(index);
        }
        _ => rename(group, manager, picked),
    }
}

fn weather(group: &mut Group) {
    let chance = &mut group.chance;
    if chance.in_thousand(300) {
        return group.set_weather(Weather::FAIR, GroupFaults::default());
    }
    let weather = Weather {
        lost: chance.below(120),
        twice: chance.below(200),
        delay: Duration::from_millis(chance.between(2, 500)),
        torn: chance.below(10),
        log: Weather::FAIR.log,
    };
    let faults = GroupFaults {
        lost_answer: chance.below(150) as u32,
        lost_proposal: chance.below(150) as u32,
        unavailable: chance.below(100) as u32,
        delay: chance.below(300) as u32,
    };
    group.set_weather(weather, faults);
}

/// A machine is to be a manager, or not any more.
pub(super) fn role(group: &mut Group, by: usize, machine: usize) {
    let Some(state) = group.applied(by) else { return };
    let Some(node) = group.machines[machine].id().and_then(|id| state.node(&id).cloned()) else { return };
    let mut spec = node.spec.clone();
    spec.role = if spec.role == Role::Manager { Role::Worker } else { Role::Manager };
    // Two are too few to lose one of.
    let many = state.managers().count();
    if (spec.role == Role::Worker && many < 4) || (spec.role == Role::Manager && many > 4) {
        return;
    }
    group.note(machine, "role", || format!("{:?} by {by}", spec.role));
    group.operate(by, Command::UpdateNode { node: node.id.clone(), version: node.version, spec: Box::new(spec) });
}

pub(super) fn rename(group: &mut Group, by: usize, machine: usize) {
    let Some(state) = group.applied(by) else { return };
    let Some(node) = group.machines[machine].id().and_then(|id| state.node(&id).cloned()) else { return };
    let mut spec = node.spec.clone();
    spec.name = format!("name-{}", group.chance.below(1000));
    group.operate(by, Command::UpdateNode { node: node.id.clone(), version: node.version, spec: Box::new(spec) });
}

pub(super) fn rotate_token(group: &mut Group, by: usize) {
    let Some(state) = group.applied(by) else { return };
    let mut secret = || Some(SecretBox(Arc::new(JoinSecret::from_bytes(group.chance.bytes()))));
    let (worker_secret, manager_secret) = (secret(), secret());
    let version = state.cluster_version;
    let update = UpdateCluster { version, worker_secret, manager_secret, ..UpdateCluster::default() };
    group.operate(by, Command::UpdateCluster(Box::new(update)));
}

/// Another root, ordered on any manager; everybody is waited for.
pub(super) fn rotate(group: &mut Group, by: usize) {
    let Some(state) = group.applied(by).filter(|state| state.roots.served().is_some()) else { return };
    let clock = group.clock(by);
    let back = state.rotation().is_some() && group.chance.in_thousand(300);
    let ask = if back { Ask::Abort } else { Ask::Fresh };
    let change: Option<RootsChange> =
        match group.operator.change(&state, ask, Policy::WaitForAll, &mut group.chance, clock) {
            Ok(change) => change,
            Err(text) => return group.witness.demand(false, || text),
        };
    let Some(change) = change else { return };
    group.note(by, "rotate", || format!("{ask:?}"));
    let mut settings = state.settings.as_ref().clone();
    settings.force_rotate = settings.force_rotate.wrapping_add(1);
    let (version, roots) = (state.cluster_version, Some(change));
    let update = UpdateCluster { version, settings: Some(settings), roots, ..UpdateCluster::default() };
    group.operate(by, Command::UpdateCluster(Box::new(update)));
}

/// An operator removes a worker; half of the time the machine is then emptied and joins again.
pub(super) fn remove(group: &mut Group, by: usize, machine: usize) {
    let Some(identity) = group.machines[machine].live.clone() else { return };
    let Some(state) = group.applied(by) else { return };
    let Some(id) = group.machines[machine].id().filter(|id| state.node(id).is_some()) else { return };
    if group.wanted.contains(&machine) || state.members.rows.contains_key(&id) {
        return;
    }
    group.note(machine, "remove", || format!("by {by}"));
    group.operate(by, Command::RemoveNode { node: id, force: true, ready: false });
    group.removed.push((machine, identity));
    if group.chance.in_thousand(700) {
        let after = group.chance.span(SECOND, 60 * SECOND);
        group.wipe_after(machine, after);
    }
}

/// Nothing goes wrong any more: after a while, and a little more if need be, everybody is well.
pub(super) fn converge(group: &mut Group) -> Result<(), Failed> {
    group.note(0, "calm", String::new);
    group.calm();
    group.run_for(QUIET / 2);
    result(group)?;
    bring_back(group);
    group.run_for(SECOND * 60);
    tidy(group);
    group.run_for(QUIET / 2);
    result(group)?;
    let mut missing = unwell(group);
    for _ in 0..LOOKS_MAX {
        if missing.is_none() {
            break;
        }
        tidy(group);
        group.run_for(LOOK_EVERY);
        result(group)?;
        missing = unwell(group);
    }
    match missing {
        Some(missing) => Err(Failed { what: format!("it does not converge: {missing}"), lines: group.last_lines() }),
        None => Ok(()),
    }
}

/// Records of machines that were emptied are removed.
fn tidy(group: &mut Group) {
    let Some(leader) = group.leader() else { return };
    let state = Arc::clone(&group.witness.state);
    let ids: BTreeSet<_> = group.machines.iter().filter_map(crate::machine::Machine::id).collect();
    for node in state.finished().filter(|node| !ids.contains(&node.id)) {
        if !state.members.rows.contains_key(&node.id) {
            group.operate(leader, Command::RemoveNode { node: node.id.clone(), force: true, ready: false });
        }
    }
}

/// Machines that know no manager any more, since all that they knew of are none now, are emptied and join anew: nobody could tell
/// them where the managers are while they were away.
fn bring_back(group: &mut Group) {
    let Some(leader) = group.leader() else { return };
    for index in 0..group.machines.len() {
        let Some(plan) = &group.machines[index].plan else { continue };
        let status = plan.status();
        let refused = status.last_error.as_ref().is_some_and(|error| error.text.contains("connection refused"));
        let Some(id) = group.machines[index].id() else { continue };
        let placed = group.witness.state.members.rows.contains_key(&id);
        if status.connected.is_some() || !refused || placed || group.manager(index).is_some() {
            continue;
        }
        group.note(index, "knows no manager", String::new);
        group.operate(leader, Command::RemoveNode { node: id, force: true, ready: false });
        group.wipe_after(index, SECOND);
    }
}

/// What is not as it must be once nothing goes wrong any more.
fn unwell(group: &Group) -> Option<String> {
    let Some(leader) = group.leader() else { return Some("nobody leads".to_owned()) };
    let state = &group.witness.state;
    if let Some(rotation) = state.rotation() {
        let late: Vec<_> = state.finished().filter(|node| rotation.blocks(node)).map(|node| node.id.as_str()).collect();
        return Some(format!("a rotation does not end, it is in {}: {late:?}", rotation.phase.word()));
    }
    let (voters, learners) = group.log.members();
    let rows: BTreeSet<u64> = state.members.rows.values().map(|row| row.raft_id).collect();
    if voters != rows || !learners.is_empty() {
        return Some(format!("the group is {voters:?} and {learners:?}, the places are {rows:?}"));
    }
    let all = state.encode_snapshot();
    for machine in group.managers() {
        if group.applied(machine).is_none_or(|applied| applied.encode_snapshot() != all) {
            return Some(format!("the manager of machine {machine} has another state"));
        }
    }
    let own = group.machines[leader].live.as_ref()?;
    let counting = group.manager(leader)?;
    for machine in &group.machines {
        let index = machine.index;
        let Some(plan) = &machine.plan else { return Some(format!("machine {index} is off")) };
        let status = plan.status();
        let id = machine.id();
        if id.as_ref().is_some_and(|id| state.node(id).is_none()) {
            let ended = machine.live.as_ref().and_then(|identity| identity.chain.first());
            let ended = ended.is_some_and(|leaf| leaf.not_after() < group.now) && status.connected.is_none();
            // Who holds a root that is gone hears nobody who could tell it.
            let lost = status.connected.is_none() && group.rotations > 0;
            if !machine.says_removed() && !ended && !lost {
                return Some(format!("machine {index} was removed, and is {}", status.phase.word()));
            }
            continue;
        }
        let told = || format!("machine {index} is {}: {:?}", status.phase.word(), status.last_error);
        let (Some(id), Some(identity)) = (id, &machine.live) else { return Some(told()) };
        let Some(record) = state.node(&id) else { continue };
        let with: Vec<usize> = group
            .managers()
            .into_iter()
            .filter(|other| group.manager(*other).is_some_and(|manager| manager.in_session(&id).is_some()))
            .collect();
        if status.connected.is_none() || with.len() != 1 {
            return Some(format!("{}, in session with {with:?}", told()));
        }
        if record.unfinished.is_some() || record.down {
            return Some(format!("machine {index} is in session, and recorded as unfinished or down"));
        }
        if record.role != record.spec.role || record.promoting.is_some() {
            return Some(format!("machine {index} is on its way to another role: {:?}", record.spec.role));
        }
        if machine.role() != Some(record.role) || (record.role == Role::Manager) != with_seat(group, index) {
            return Some(format!("machine {index} is {:?}, its certificate says {:?}", record.role, machine.role()));
        }
        let counted = counting.roster.get(&id).map(|session| session.manager);
        let serving = with.first().and_then(|with| group.raft_id(*with));
        if voters.len() > 1 && counted != serving {
            return Some(format!("machine {index} is counted with {counted:?}, and is with {serving:?}"));
        }
        let clock = group.clock(leader);
        let standing =
            judge_client(&counting.known, state, &own.trust, identity, clock).map(|leaf| state.standing(&leaf, clock));
        if !matches!(standing, Ok(Standing::Admitted { .. })) {
            return Some(format!("the leaf of machine {index} would not be let in: {standing:?}"));
        }
    }
    None
}

fn with_seat(group: &Group, machine: usize) -> bool {
    group.manager(machine).is_some()
}

/// Who was removed is refused by every manager everything that is not for anybody.
pub(super) fn refused(group: &mut Group) {
    let state = Arc::clone(&group.witness.state);
    for machine in group.managers() {
        let clock = group.clock(machine);
        let (Some(own), Some(applied)) = (group.machines[machine].live.clone(), group.applied(machine)) else {
            continue;
        };
        for (index, identity) in group.removed.clone() {
            let Some(manager) = group.manager(machine) else { continue };
            let Ok(leaf) = judge_client(&manager.known, &applied, &own.trust, &identity, clock) else { continue };
            if state.node(&leaf.node).is_some() {
                continue;
            }
            let standing = applied.standing(&leaf, clock);
            for method in Method::ALL {
                let granted = applied.authorize(Caller::Identified(&leaf, &standing), method, clock);
                group.witness.demand(matches!(granted, Ok(Grant::Anybody) | Err(_)), || {
                    format!("machine {index}, removed, is refused {method:?} by machine {machine}: {granted:?}")
                });
            }
        }
    }
}
