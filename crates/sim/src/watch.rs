//! Who verifies whom: any two members that are up, in both directions, after every step in which that may have changed.
//!
//! A member is a machine that runs with a leaf that is let in and has said so, was not put aside by a rotation, and holds a
//! root by which the others can be verified. Once it is one, it is one until it goes down, is removed, is put aside, or lets its
//! leaf end: no rotation may take that from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cluster::State;
use cluster::authorize::{Presented, Quarantine, Standing};
use cluster::node::{BlobDigest, IssuerHash};
use cluster::roots::Roots;
use cluster::rotation::{Phase, Policy, Way};
use pki::chain::Usage;
use pki::time::Time;

use crate::machine::Machine;
use crate::manager::Manager;
use crate::operator::Operator;
use crate::packet::Identity;
use crate::world::FIRST;

/// Members that a change is looked at with, in a cluster of more.
const PARTNERS: usize = 12;

/// Clusters of at most this many machines are looked at whole.
const SMALL: usize = 24;

/// What was seen.
#[derive(Default)]
pub struct Watch {
    /// The state looked at last.
    state: Option<Arc<State>>,
    /// Members, by machine, each with the number of its identity.
    members: BTreeMap<usize, u64>,
    /// Pairs that were found to verify each other: the first the second.
    found: BTreeSet<([usize; 2], [u64; 2])>,
    versions: Vec<u64>,
    /// Machines that a rotation left behind, until they verify the members and are verified by them.
    late: BTreeSet<usize>,
    /// Turns through the members of a large cluster.
    turn: usize,
    /// Rotations that ended.
    pub ended: u64,
    /// How long the last one took, in milliseconds.
    pub lasted_ms: u64,
    /// Nodes put aside, counted at every end.
    pub aside: u64,
    /// Pairs looked at.
    pub looked: u64,
}

impl Watch {
    /// Whether a machine is a member, as far as was seen.
    pub fn is_member(&self, machine: usize) -> bool {
        self.members.contains_key(&machine)
    }

    /// Looks at what has changed; `told`: the machine that was told something just now.
    ///
    /// # Errors
    /// What must never be, and is.
    pub fn look(
        &mut self,
        told: Option<usize>,
        manager: &Manager,
        machines: &[Machine],
        operator: &Operator,
        now: Time,
        clock: Time,
    ) -> Result<(), String> {
        let state = manager.state();
        let before = self.state.replace(Arc::clone(&state));
        let same = before.as_ref().is_some_and(|before| before.index == state.index);
        let roots_same = same || before.as_ref().is_some_and(|before| same_roots(&before.roots, &state.roots));
        let mut changed: Vec<usize> = Vec::new();
        self.versions.resize(machines.len(), u64::MAX);
        if same || (roots_same && machines.len() > SMALL) {
            self.changed(machines, &mut changed);
        } else {
            changed.extend(0..machines.len());
        }
        if let Some(before) = before.filter(|_| !roots_same) {
            self.roots_changed(&before, &state, machines, operator)?;
        }
        if changed.is_empty() {
            changed.extend(told.filter(|index| machines.len() > SMALL && !self.is_member(*index)));
        }
        if changed.is_empty() {
            return Ok(());
        }
        for &index in &changed {
            self.judge(index, manager, machines, &state, now, clock)?;
        }
        self.pairs(&changed, manager, machines, &state, now, clock)
    }

    fn changed(&mut self, machines: &[Machine], changed: &mut Vec<usize>) {
        for (machine, known) in machines.iter().zip(&mut self.versions) {
            if machine.version != *known {
                *known = machine.version;
                changed.push(machine.index);
            }
        }
    }

    /// The roots are others: every signer was asked for, and who is no member any more was put aside by right.
    fn roots_changed(
        &mut self,
        before: &State,
        state: &State,
        machines: &[Machine],
        operator: &Operator,
    ) -> Result<(), String> {
        if !state.roots.signing().is_some_and(|root| operator.knows(root)) {
            return Err("a root signs that was never asked for".to_owned());
        }
        let Some(rotation) = before.rotation() else { return Ok(()) };
        let over = state.rotation().is_none();
        if over {
            self.ended += 1;
            self.lasted_ms = u64::try_from(state.time().since(rotation.started).as_millis()).unwrap_or(u64::MAX);
        }
        let late = |machine: &Machine| {
            let node = machine.id().and_then(|id| state.node(&id).cloned());
            node.is_some_and(|node| match (over, state.rotation()) {
                (true, _) => cluster::rotation::need(&state.roots, &node).is_some(),
                (false, Some(after)) => after.aside.contains(&node.id),
                (false, None) => false,
            })
        };
        self.late.extend(machines.iter().filter(|machine| late(machine)).map(|machine| machine.index));
        let gone: Vec<_> = machines.iter().filter(|machine| self.is_member(machine.index) && late(machine)).collect();
        for machine in gone {
            if rotation.policy == Policy::WaitForAll && rotation.aside.is_empty() {
                return Err(format!("a rotation that waits for all leaves machine {} behind", machine.index));
            }
            self.aside += 1;
            self.members.remove(&machine.index);
        }
        Ok(())
    }

    /// Whether a machine is a member.
    fn judge(
        &mut self,
        index: usize,
        manager: &Manager,
        machines: &[Machine],
        state: &State,
        now: Time,
        clock: Time,
    ) -> Result<(), String> {
        let Some(machine) = machines.get(index) else { return Ok(()) };
        let was = self.is_member(index);
        let Some((identity, leaf)) = identity_of(machine, state, clock) else {
            self.members.remove(&index);
            return Ok(());
        };
        let node = state.node(&leaf.node).filter(|node| node.unfinished.is_none());
        let aside = state.rotation().is_some_and(|rotation| rotation.aside.contains(&leaf.node));
        let standing = state.standing(&leaf, clock);
        // A manager proves its new leaf before it puts it to use: for a moment it serves with one that was replaced.
        let replaced = matches!(standing, Standing::Quarantined { reason: Quarantine::Replaced, .. });
        let admitted = matches!(standing, Standing::Admitted { .. }) || (was && replaced);
        let excused = aside || node.is_none() || leaf.not_after < clock;
        if was && !admitted && !excused {
            return Err(format!("a member stays one: machine {index} is {standing:?}"));
        }
        let fits = || fits(&state.roots, BlobDigest::of(identity.trust.raw()));
        if node.is_some() && admitted && !aside && (was || (fits() && self.is_back(index, manager, machines, now))) {
            self.late.remove(&index);
            self.members.insert(index, machine.version);
        } else {
            self.members.remove(&index);
        }
        Ok(())
    }

    /// Whether a machine that was left behind, if it was, verifies the members and is verified by them.
    fn is_back(&mut self, index: usize, manager: &Manager, machines: &[Machine], now: Time) -> bool {
        if !self.late.contains(&index) {
            return true;
        }
        let others: Vec<usize> = self.members.keys().copied().take(SMALL).collect();
        others.into_iter().filter(|other| *other != index).all(|other| {
            self.verifies(index, other, manager, machines, now).is_ok()
                && self.verifies(other, index, manager, machines, now).is_ok()
        })
    }

    /// Every pair with one of these in it; in a large cluster some of them.
    fn pairs(
        &mut self,
        changed: &[usize],
        manager: &Manager,
        machines: &[Machine],
        state: &State,
        now: Time,
        clock: Time,
    ) -> Result<(), String> {
        let all = machines.len() <= SMALL;
        let whole = changed.len() == machines.len();
        let list: Vec<usize> = self.members.keys().copied().collect();
        for &one in changed {
            if !self.members.contains_key(&one) {
                continue;
            }
            let partners: Vec<usize> = if all {
                list.clone()
            } else {
                self.turn = self.turn.wrapping_add(1);
                let step = list.len() / PARTNERS + 1;
                std::iter::once(FIRST).chain(list.iter().copied().skip(self.turn % step).step_by(step)).collect()
            };
            for other in partners.into_iter().filter(|other| *other != one) {
                self.verifies(one, other, manager, machines, now)?;
                self.verifies(other, one, manager, machines, now)?;
            }
            if let Some(own) = machines.get(FIRST).and_then(|first| first.live.as_ref())
                && let Some(client) = machines.get(one).and_then(|machine| machine.live.as_ref())
                && let Err(failure) = manager.judge(state, own, client, clock)
            {
                return Err(format!("the manager verifies machine {one}: {}", failure.text));
            }
            // In a large cluster a change of roots concerns all of them; some are looked at.
            if !all && whole && one > 4 * PARTNERS {
                break;
            }
        }
        Ok(())
    }

    fn verifies(
        &mut self,
        one: usize,
        other: usize,
        manager: &Manager,
        machines: &[Machine],
        now: Time,
    ) -> Result<(), String> {
        let (Some(judge), Some(judged)) = (machines.get(one), machines.get(other)) else { return Ok(()) };
        let pair = ([one, other], [judge.version, judged.version]);
        if self.found.contains(&pair) {
            return Ok(());
        }
        let (Some(own), Some(peer)) = (&judge.live, &judged.live) else { return Ok(()) };
        let Some((leaf, ladder)) = peer.chain.split_first() else { return Ok(()) };
        if leaf.not_after() <= now {
            return Ok(());
        }
        self.looked += 1;
        manager.known.reaches(leaf, ladder, own.trust.certificates(), now, Usage::Server).map_err(|error| {
            let [holds, shows] = [own.trust.digest(), pki::digest::Digest::of(leaf.issuer_id().spki.as_slice())];
            format!("any two members verify each other: machine {one} (root {holds}) does not verify machine {other} (issuer {shows}, {} steps), {}: {error}", ladder.len(), story(&manager.state(), judge))
        })?;
        if self.found.len() > 100_000 {
            self.found.clear();
        }
        self.found.insert(pair);
        Ok(())
    }
}

/// How the roots stand, and what one machine's record says.
fn story(state: &State, machine: &Machine) -> String {
    let roots = match &state.roots {
        Roots::None => "no root".to_owned(),
        Roots::Stable { stragglers, .. } => format!("stable, {} left behind", stragglers.len()),
        Roots::Rotating(rotation) => {
            format!("{}, back {}, {} in the ladder", rotation.phase.word(), rotation.back, rotation.ladder().len())
        }
    };
    let node = machine.id().and_then(|id| state.node(&id).cloned());
    let need = node.as_ref().map(|node| (cluster::rotation::need(&state.roots, node), node.down));
    let ladder = machine.live.as_ref().map_or(0, |identity| identity.chain.len().saturating_sub(1));
    let held = machine.live.as_ref().map(|identity| BlobDigest::of(identity.trust.raw()));
    let held = held.map(|held| match state.rotation() {
        Some(rotation) if rotation.old.trust == held => "the old root",
        Some(rotation) if rotation.new.trust == held => "the new root",
        Some(rotation) if rotation.passed.iter().any(|root| root.trust == held) => "a root given up",
        Some(rotation) if rotation.stragglers.iter().any(|root| root.trust == held) => "a root left behind",
        Some(_) | None => "something else",
    });
    let parts = machine.live.as_ref().map_or(0, |identity| identity.trust.certificates().len());
    format!("{roots}; it holds {held:?} in {parts}, needs {need:?}, {ladder} steps with its leaf")
}

fn same_roots(one: &Roots, other: &Roots) -> bool {
    match (one, other) {
        (Roots::Stable { root: one, .. }, Roots::Stable { root: other, .. }) => Arc::ptr_eq(one, other),
        (Roots::Rotating(one), Roots::Rotating(other)) => Arc::ptr_eq(one, other),
        _ => false,
    }
}

/// Whether the others can be verified by who holds this bundle, if it was not among them before.
fn fits(roots: &Roots, trust: BlobDigest) -> bool {
    let rotation = match roots {
        Roots::None => return false,
        Roots::Stable { root, .. } => return root.trust == trust,
        Roots::Rotating(rotation) => rotation,
    };
    match (&rotation.way, rotation.phase) {
        (Way::Ladder(_), _) => rotation.trusted().any(|root| root.trust == trust),
        (Way::Bundle(bundle), phase) => {
            let both = BlobDigest::of(bundle) == trust;
            both || match phase {
                Phase::Widen => rotation.from().trust == trust && rotation.passed.is_empty() && !rotation.back,
                Phase::Renew => false,
                Phase::Trust => rotation.to().trust == trust,
            }
        }
    }
}

fn identity_of<'a>(machine: &'a Machine, state: &State, clock: Time) -> Option<(&'a Identity, Presented)> {
    machine.plan.as_ref()?;
    let identity = machine.live.as_ref()?;
    let leaf = identity.chain.first()?;
    let subject = leaf.node_subject().ok()?;
    let (serial, spki) = (leaf.serial(), leaf.spki_hash());
    let registered = state.node(&subject.node).and_then(|node| node.registered(&serial, &spki, clock));
    let issuer = registered.map_or(IssuerHash([0; 32]), |(_, leaf)| leaf.issuer);
    let (cluster, role, node) = (subject.cluster, subject.role, subject.node);
    Some((
        identity,
        Presented {
            cluster,
            role,
            node,
            serial,
            spki,
            issuer,
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
        },
    ))
}
