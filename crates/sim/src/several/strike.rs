//! One story with everything in it, told once for each entry of its log: with that entry the leader's machine loses its power.
//!
//! Everybody joins at once; then, faster than any of it is done, the root is rotated, a worker promoted, a token changed, leaves
//! renewed, a manager demoted, a worker removed, and the root rotated again. The power goes before the entry is decided, after it
//! with nobody answered, or after it with everybody answered who waited at another manager.

use std::time::Duration;

use pki::identity::Role;
use swarmpki::plan::Input;

use super::run::{self, Several};
use super::world::Group;
use crate::run::{Failed, Summary};

/// With which entry of the log the leader's power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// The entry, counted from 1.
    pub entry: u64,
    /// When.
    pub moment: Moment,
}

/// When the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// What had come to the leader was not decided: some of it is lost, the next leader decides the rest.
    Before,
    /// It was decided, and nobody was answered.
    Unanswered,
    /// It was decided, and whoever waited at another manager is answered.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Before, Self::Unanswered, Self::After];
}

/// From an order to the next, at most.
const ORDER_EVERY_MAX: Duration = Duration::from_secs(3);
/// How long the machine is off: mostly another leads meanwhile.
const OFF: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];

impl Strike {
    /// The leader decides what waits, or is struck. Whether it was.
    pub(super) fn falls(self, group: &mut Group) -> bool {
        let Some(leader) = group.leader().filter(|_| group.log.has_work()) else { return false };
        if (group.log.len() as u64) + 1 < self.entry {
            return false;
        }
        let stamp = group.clock(leader);
        match self.moment {
            Moment::Before => {}
            Moment::Unanswered => drop(group.log.step_unanswered(stamp)),
            Moment::After => drop(group.log.step(stamp)),
        }
        group.note(leader, "struck", || format!("{self:?}"));
        group.crash(leader);
        let off = group.chance.span(OFF[0], OFF[1]);
        group.boot_after(leader, off);
        true
    }
}

/// Tells the story once without a strike, and once for each entry and moment. The first one's summary, with the number of all.
///
/// # Errors
/// What was broken, and with which strike.
pub fn every(config: &Several, only: Option<u64>) -> Result<(Summary, u64), Failed> {
    let (summary, entries) = story(config, None)?;
    let mut told = 1;
    for entry in 2..=entries {
        for moment in Moment::ALL.into_iter().filter(|_| only.is_none_or(|only| only == entry)) {
            let strike = Strike { entry, moment };
            let named = |failed: Failed| Failed { what: format!("{strike:?}: {}", failed.what), ..failed };
            story(config, Some(strike)).map_err(named)?;
            told += 1;
        }
    }
    Ok((summary, told))
}

/// Tells the story. Beside its summary: entries in the log when everything was ordered and nothing goes wrong any more.
///
/// # Errors
/// What was broken.
pub fn story(config: &Several, strike: Option<Strike>) -> Result<(Summary, u64), Failed> {
    let mut group = Group::new(config.seed, config.mischief).map_err(|what| Failed { what, lines: Vec::new() })?;
    group.strike = strike;
    for index in 1..config.managers + config.nodes {
        group.add(0);
        if index < config.managers {
            group.wanted.insert(index);
        }
        let after = group.chance.span(Duration::from_millis(1), Duration::from_secs(5));
        group.boot_after(index, after);
    }
    group.run_for(Duration::from_secs(30));
    run::result(&group)?;
    for order in ORDERS {
        let pause = group.chance.span(Duration::from_millis(1), ORDER_EVERY_MAX);
        group.run_for(pause);
        let managers = group.managers();
        // While nobody serves nobody is asked.
        if let Some(by) = group.chance.pick(&managers) {
            order(&mut group, by);
        }
        run::result(&group)?;
    }
    group.run_for(Duration::from_secs(20));
    let entries = group.log.len() as u64;
    run::converge(&mut group)?;
    run::refused(&mut group);
    run::result(&group)?;
    Ok((run::summary(&group), entries))
}

type Order = fn(&mut Group, usize);

const ORDERS: [Order; 10] = [
    run::rotate,
    |group, by| of_role(group, by, Role::Worker, run::role),
    run::rotate_token,
    |group, _| renew(group),
    |group, by| of_role(group, by, Role::Worker, run::rename),
    |group, _| join(group),
    |group, by| of_role(group, by, Role::Manager, run::role),
    |group, by| of_role(group, by, Role::Worker, run::remove),
    run::rotate,
    |group, _| renew(group),
];

/// Does something with a machine of this role, if there is one.
fn of_role(group: &mut Group, by: usize, role: Role, order: fn(&mut Group, usize, usize)) {
    let such = group.machines.iter().filter(|machine| machine.role() == Some(role));
    let such: Vec<usize> = such.map(|machine| machine.index).collect();
    if let Some(machine) = group.chance.pick(&such) {
        order(group, by, machine);
    }
}

/// Everybody renews at once.
fn renew(group: &mut Group) {
    for machine in 0..group.machines.len() {
        group.tell(machine, Input::RenewNow);
    }
}

fn join(group: &mut Group) {
    let index = group.add(0);
    group.boot(index);
}
