//! Every order of things in small clusters: the rotation of the root, model checked over the functions that ship.
//!
//! A node renews, gets its answer late or never, is given roots late or never, dies and returns, maybe with what was on its
//! disk before; the operator orders, orders again, aborts, removes; signatures wait while the state moves on. What holds in
//! every state reached:
//! - any two live members verify each other, and the manager lets each of them in;
//! - a removed node can call what anybody can, and nothing else;
//! - nothing is signed by a key outside of the plan, and every invariant holds;
//! - from there an end can be reached if the nodes answer, and stragglers are then members again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use cluster::Outcome;
use cluster::roots::Roots;
use cluster::rotation::{Phase, Policy};
use stateright::{Checker, Model, Property};
use support::START;
use support::world::World;

/// How often each thing may happen.
#[derive(Clone, Copy, Default, Hash)]
struct Budget {
    starts: u8,
    aborts: u8,
    crashes: u8,
    losses: u8,
    rollbacks: u8,
    removals: u8,
    joins: u8,
    jumps: u8,
    late: u8,
    promotions: u8,
}

/// A cluster and what may happen to it.
#[derive(Clone)]
struct Scenario {
    workers: usize,
    bundle: bool,
    policy: Policy,
    /// Whose answers and bundles may be late; others do at once what they are asked for.
    late_for: usize,
    budget: Budget,
    breach: Breach,
}

/// A rule that is broken on purpose.
#[derive(Clone, Copy, PartialEq)]
enum Breach {
    None,
    /// Roots are handed out before everybody has renewed.
    EarlyTrust,
    /// Leaves go out without what leads to the old root.
    NoLadder,
}

#[derive(Clone)]
struct Moment {
    world: World,
    left: Budget,
}

impl Hash for Moment {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.world.hash(to);
        self.left.hash(to);
    }
}

impl PartialEq for Moment {
    fn eq(&self, other: &Self) -> bool {
        let digest = |moment: &Self| {
            let mut hasher = std::hash::DefaultHasher::new();
            moment.hash(&mut hasher);
            hasher.finish()
        };
        digest(self) == digest(other)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Start(usize),
    Abort,
    Advance,
    /// The node does at once what it is asked for.
    Serve(usize),
    Sign(usize),
    Propose(usize),
    Commit(usize),
    Install(usize),
    Lose(usize),
    Connect(usize),
    Send(usize),
    Take(usize),
    Crash(usize),
    Return(usize),
    RollBack(usize),
    Remove(usize),
    Join(usize),
    Promote(usize),
    Seat(usize),
    Jump,
}

const PAST_DEADLINE: Duration = Duration::from_secs(1_000);

impl Model for Scenario {
    type State = Moment;
    type Action = Act;

    fn init_states(&self) -> Vec<Moment> {
        let mut world = World::new(self.workers);
        world.without_ladder = self.breach == Breach::NoLadder;
        if self.budget.joins > 0 {
            world.members.push(support::world::Member::default());
        }
        let mut midway = Moment { world: world.clone(), left: self.budget };
        midway.left.starts -= 1;
        midway.world.start(1, self.bundle, self.policy);
        if self.breach == Breach::None {
            midway.world.reach_trust();
        }
        vec![Moment { world, left: self.budget }, midway]
    }

    fn actions(&self, moment: &Moment, acts: &mut Vec<Act>) {
        let (world, left) = (&moment.world, &moment.left);
        let rotating = world.rotation().is_some();
        if left.starts > 0 {
            // Back to the first root, too, once another is in place.
            let number = |root: &cluster::roots::Root| support::authorities::number(&root.issuer);
            acts.extend(match world.roots() {
                Roots::Stable { root, .. } => (0..3).find(|to| *to != number(root)).map(Act::Start),
                Roots::Rotating(running) => {
                    (0..3).find(|to| *to != number(&running.new) && *to != number(&running.old)).map(Act::Start)
                }
                Roots::None => None,
            });
        }
        if rotating {
            acts.push(Act::Advance);
            if left.aborts > 0 {
                acts.push(Act::Abort);
            }
        }
        if left.jumps > 0 && rotating {
            acts.push(Act::Jump);
        }
        for (n, member) in world.members.iter().enumerate() {
            if member.held.is_none() {
                if left.joins > 0 {
                    acts.push(Act::Join(n));
                }
                continue;
            }
            if !member.up {
                acts.push(Act::Return(n));
                if left.rollbacks > 0 && member.before.is_some() {
                    acts.push(Act::RollBack(n));
                }
                continue;
            }
            if n == self.late_for {
                acts.extend([Act::Connect(n), Act::Sign(n), Act::Send(n)]);
                if left.late > 0 {
                    acts.push(Act::Propose(n));
                }
                if member.proposal.is_some() {
                    acts.push(Act::Commit(n));
                }
                if member.letter.is_some() {
                    acts.push(Act::Install(n));
                }
                if left.losses > 0 && (member.letter.is_some() || member.push.is_some()) {
                    acts.push(Act::Lose(n));
                }
                if member.push.is_some() {
                    acts.push(Act::Take(n));
                }
            } else {
                acts.push(if member.settled { Act::Serve(n) } else { Act::Connect(n) });
                if member.push.is_some() {
                    acts.push(Act::Take(n));
                }
            }
            if n > 0 && left.promotions > 0 {
                acts.push(Act::Promote(n));
            }
            if n > 0 && self.budget.promotions > 0 {
                acts.push(Act::Seat(n));
            }
            if n > 0 && left.crashes > 0 {
                acts.push(Act::Crash(n));
            }
            if n > 0 && left.removals > 0 && !member.removed {
                acts.push(Act::Remove(n));
            }
        }
    }

    fn next_state(&self, last: &Moment, act: Act) -> Option<Moment> {
        let mut next = last.clone();
        let (world, left) = (&mut next.world, &mut next.left);
        let done = |outcome: Outcome| matches!(outcome, Outcome::Done { .. });
        let happened = match act {
            Act::Start(to) => {
                left.starts -= 1;
                let policy = if left.starts == self.budget.starts - 1 { self.policy } else { Policy::WaitForAll };
                done(world.start(to, self.bundle, policy))
            }
            Act::Abort => {
                left.aborts -= 1;
                done(world.abort(Policy::WaitForAll))
            }
            Act::Advance if self.breach == Breach::EarlyTrust => early(world),
            Act::Advance => done(world.advance()),
            Act::Serve(n) => world.convert(n) || world.narrow(n),
            Act::Sign(n) => world.sign(n),
            Act::Propose(n) => {
                left.late -= 1;
                world.propose(n)
            }
            Act::Commit(n) => {
                world.commit(n);
                true
            }
            Act::Install(n) => {
                world.install(n);
                true
            }
            Act::Lose(n) => {
                left.losses -= 1;
                world.members[n].letter = None;
                world.members[n].push = None;
                true
            }
            Act::Connect(n) => world.connect(n),
            Act::Send(n) => world.members[n].settled && world.reachable(n) && world.send(n),
            Act::Take(n) => {
                world.take(n);
                true
            }
            Act::Crash(n) => {
                left.crashes -= 1;
                world.crash(n);
                true
            }
            Act::Return(n) => {
                world.members[n].up = true;
                true
            }
            Act::RollBack(n) => {
                left.rollbacks -= 1;
                world.members[n].held = world.members[n].before.clone();
                true
            }
            Act::Remove(n) => {
                left.removals -= 1;
                done(world.remove(n))
            }
            Act::Join(n) => {
                left.joins -= 1;
                world.join(n)
            }
            Act::Promote(n) => {
                left.promotions -= 1;
                world.promote(n)
            }
            Act::Seat(n) => world.seat(n),
            Act::Jump => {
                left.jumps -= 1;
                world.later(PAST_DEADLINE);
                true
            }
        };
        happened.then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(HITLESS, |_, moment: &Moment| moment.world.is_hitless()),
            Property::always(OUT, |_, moment: &Moment| moment.world.removed_are_out()),
            Property::always(ENDS, |_, moment: &Moment| moment.world.ends()),
            Property::sometimes(ROTATED, |_, moment: &Moment| match moment.world.roots() {
                Roots::Stable { root, .. } => support::authorities::number(&root.issuer) != 0,
                _ => false,
            }),
        ]
    }
}

const HITLESS: &str = "any two live members verify each other";
const OUT: &str = "a removed node is out";
const ENDS: &str = "it ends when nodes answer, and stragglers return";
const ROTATED: &str = "a rotation ends";

/// The fault: the phase ends although nodes are missing.
fn early(world: &mut World) -> bool {
    let Roots::Rotating(rotation) = &mut world.cluster.state.roots else { return false };
    if rotation.phase != Phase::Renew {
        return false;
    }
    let rotation = std::sync::Arc::make_mut(rotation);
    rotation.phase = Phase::Trust;
    true
}

fn base() -> Scenario {
    Scenario {
        workers: 2,
        bundle: false,
        policy: Policy::WaitForAll,
        late_for: 1,
        budget: Budget { starts: 1, ..Budget::default() },
        breach: Breach::None,
    }
}

/// Checks all of it; at least `states` were there to see.
fn check(name: &str, scenario: Scenario, states: usize) {
    let begun = Instant::now();
    let checker = scenario.checker().threads(2).target_state_count(most()).spawn_bfs().join();
    let count = checker.unique_state_count();
    println!("{name}: {count} states of {} met, {:.1} s", checker.state_count(), begun.elapsed().as_secs_f32());
    for property in [HITLESS, OUT, ENDS] {
        if let Some(path) = checker.discovery(property) {
            panic!("{name}: {property}: broken by {:?}", path.into_actions());
        }
    }
    assert!(checker.discovery(ROTATED).is_some(), "no rotation ever ended");
    assert!(count >= states, "only {count} states");
}

/// States looked at in one scenario, seen before or not.
fn most() -> usize {
    std::env::var("SWARMPKI_MODEL_STATES").ok().and_then(|most| most.parse().ok()).unwrap_or(5_000)
}

/// The property that a scenario with a fault breaks.
fn broken(scenario: Scenario, property: &'static str) {
    let checker = scenario.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery(property).is_some(), "the fault was not seen");
}

#[test]
fn answers_lost_and_late_while_nodes_die_and_return() {
    let budget = Budget { starts: 1, crashes: 1, losses: 1, late: 1, rollbacks: 1, ..Budget::default() };
    check("lost and late", Scenario { budget, ..base() }, 1_500);
}

#[test]
fn a_second_rotation_and_an_abort() {
    let budget = Budget { starts: 2, aborts: 1, losses: 1, ..Budget::default() };
    check("second and abort", Scenario { budget, ..base() }, 1_500);
}

#[test]
fn a_deadline_and_stragglers() {
    let budget = Budget { starts: 2, crashes: 2, aborts: 1, jumps: 2, rollbacks: 1, ..Budget::default() };
    let policy = Policy::Deadline(START.saturating_add(PAST_DEADLINE / 2));
    check("deadline", Scenario { policy, budget, ..base() }, 1_500);
}

#[test]
fn by_a_bundle_and_back() {
    let budget = Budget { starts: 1, aborts: 1, crashes: 1, joins: 1, ..Budget::default() };
    check("bundle", Scenario { bundle: true, workers: 1, budget, ..base() }, 1_500);
}

#[test]
fn an_emergency() {
    let policy = Policy::Emergency { bound: PAST_DEADLINE / 2 };
    let budget = Budget { starts: 1, crashes: 1, losses: 1, joins: 1, jumps: 3, ..Budget::default() };
    check("emergency", Scenario { bundle: true, workers: 1, policy, budget, ..base() }, 1_500);
}

#[test]
fn removals_and_joins_midway() {
    let budget = Budget { starts: 1, aborts: 1, removals: 1, joins: 1, late: 1, ..Budget::default() };
    check("removal and join", Scenario { workers: 1, budget, ..base() }, 1_500);
}

#[test]
fn managers_come_midway() {
    let budget = Budget { starts: 1, promotions: 2, crashes: 1, removals: 1, ..Budget::default() };
    check("promotions", Scenario { budget, ..base() }, 1_500);
    let policy = Policy::Deadline(START.saturating_add(PAST_DEADLINE / 2));
    let budget = Budget { starts: 1, promotions: 1, crashes: 1, late: 1, jumps: 1, ..Budget::default() };
    check("promotions and a deadline", Scenario { policy, budget, ..base() }, 1_500);
}

#[test]
fn a_phase_that_ends_too_early_is_caught() {
    broken(Scenario { breach: Breach::EarlyTrust, ..base() }, HITLESS);
}

#[test]
fn a_ladder_that_is_missing_is_caught() {
    broken(Scenario { breach: Breach::NoLadder, ..base() }, ENDS);
}
