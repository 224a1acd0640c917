//! What the leader does next about managers, against a group in which members die, forget, lead and are cut off.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::State;
use cluster::command::Command;
use cluster::outcome::Outcome;
use cluster::seats::{self, Candidates, Change, SeatStep};
use pki::identity::Role;
use proptest::collection::vec;
use proptest::prelude::*;
use support::{Cluster, id};

/// A rule that is broken on purpose.
#[derive(Clone, Copy, PartialEq)]
enum Breach {
    None,
    /// Voters are taken out whoever answers.
    NoQuorum,
    /// A member is a worker before it is out.
    EarlyUnseat,
    /// A learner is a manager.
    EarlySeat,
    /// The leader is taken out.
    NoHandOver,
}

/// The group as raft has it: who is in it, who answers, who leads.
struct Group {
    cluster: Cluster,
    /// Kept from step to step.
    candidates: RefCell<Candidates>,
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    behind: BTreeMap<u64, u64>,
    away: BTreeSet<u64>,
    /// Members whose store is gone, by number: they answer never again.
    lost: BTreeSet<u64>,
    leader: u64,
    breach: Breach,
    /// Steps done, by kind.
    did: BTreeMap<&'static str, u32>,
}

const NODES: u64 = 5;

impl Group {
    fn new(breach: Breach) -> Self {
        let mut cluster = Cluster::new();
        (1..NODES).for_each(|n| drop(cluster.join(n)));
        let (voters, leader) = (BTreeSet::from([1]), 1);
        Self {
            candidates: RefCell::new(Candidates::of(&State::empty())),
            cluster,
            voters,
            leader,
            breach,
            learners: BTreeSet::new(),
            behind: BTreeMap::new(),
            away: BTreeSet::new(),
            lost: BTreeSet::new(),
            did: BTreeMap::new(),
        }
    }

    fn answers(&self, raft_id: u64) -> bool {
        !self.away.contains(&raft_id) && !self.lost.contains(&raft_id)
    }

    fn has_quorum(&self) -> bool {
        self.voters.iter().filter(|id| self.answers(**id)).count() > self.voters.len() / 2
    }

    /// Somebody leads, if enough voters answer.
    fn elect(&mut self, pick: u64) -> bool {
        let able: Vec<_> = self.voters.iter().copied().filter(|id| self.answers(*id)).collect();
        if !self.has_quorum() {
            return false;
        }
        if !able.contains(&self.leader) {
            self.leader = able[pick as usize % able.len()];
        }
        true
    }

    fn raft_id(&self, n: u64) -> Option<u64> {
        self.cluster.state.members().get(&id(n)).map(|row| row.raft_id)
    }

    fn propose(&mut self, command: Command) -> Result<(), String> {
        match &command {
            Command::Seat { raft_id, .. } if !self.voters.contains(raft_id) => {
                return Err(format!("{raft_id} is seated, and no voter"));
            }
            Command::Unseat { raft_id: Some(raft_id), .. }
                if self.voters.contains(raft_id) || self.learners.contains(raft_id) =>
            {
                return Err(format!("{raft_id} is unseated, and in the group"));
            }
            _ => {}
        }
        let outcome = self.cluster.run(command.clone());
        let bytes = self.cluster.state.encode_snapshot();
        let (index, time) = (self.cluster.state.index, self.cluster.state.time);
        if !matches!(outcome, Outcome::Rejected(_)) && command.is_repeatable() {
            self.cluster.run(command.clone());
            let mut again = self.cluster.state.clone();
            (again.index, again.time) = (index, time);
            if bytes != again.encode_snapshot() {
                return Err(format!("{command:?} twice is not once"));
            }
        }
        Ok(())
    }

    fn steps(&self) -> Vec<SeatStep> {
        let progress = self.voters.iter().chain(&self.learners).map(|id| {
            let behind = self.behind.get(id).copied().unwrap_or_default();
            (*id, (behind, self.answers(*id) || self.breach == Breach::NoQuorum))
        });
        let progress = progress.collect();
        let look = |candidates: &Candidates| {
            seats::next(candidates, &self.voters, &self.learners, &progress, self.leader, self.cluster.now)
        };
        let mut steps = look(&Candidates::of(&self.cluster.state));
        let mut candidates = self.candidates.borrow_mut();
        candidates.follow(&self.cluster.state);
        assert_eq!(format!("{:?}", look(&candidates)), format!("{steps:?}"), "followed, or looked at anew");
        for step in &mut steps {
            let node = |raft_id: u64| {
                let row = self.cluster.state.members().iter().find(|(_, row)| row.raft_id == raft_id);
                row.map(|(node, _)| node.clone())
            };
            *step = match (self.breach, &*step) {
                (Breach::EarlyUnseat, SeatStep::Change(Change::Remove(id))) if node(*id).is_some() => {
                    SeatStep::Propose(Command::Unseat { node: node(*id).unwrap(), raft_id: Some(*id) })
                }
                (Breach::EarlySeat, SeatStep::Change(Change::Promote(id))) if node(*id).is_some() => {
                    SeatStep::Propose(Command::Seat { node: node(*id).unwrap(), raft_id: *id })
                }
                (Breach::NoHandOver, SeatStep::Change(Change::HandOver(_))) => {
                    SeatStep::Change(Change::Remove(self.leader))
                }
                _ => continue,
            };
        }
        steps
    }

    /// Does one of the steps that are due.
    fn work(&mut self, pick: u64) -> Result<bool, String> {
        if !self.elect(pick) {
            return Ok(false);
        }
        let steps = self.steps();
        let changes = steps.iter().filter(|step| matches!(step, SeatStep::Change(_))).count();
        if changes > 1 {
            return Err(format!("{changes} changes at a time"));
        }
        if steps.is_empty() {
            return Ok(false);
        }
        let step = steps[pick as usize % steps.len()].clone();
        let kind = match &step {
            SeatStep::Propose(Command::Seat { .. }) => "seat",
            SeatStep::Propose(_) => "unseat",
            SeatStep::Change(Change::AddLearner(_)) => "learner",
            SeatStep::Change(Change::Promote(_)) => "promote",
            SeatStep::Change(Change::Remove(_)) => "remove",
            SeatStep::Change(Change::HandOver(_)) => "hand over",
        };
        *self.did.entry(kind).or_default() += 1;
        match step {
            SeatStep::Propose(command) => self.propose(command)?,
            SeatStep::Change(Change::AddLearner(id)) => {
                self.learners.insert(id);
                self.behind.insert(id, 5_000);
            }
            SeatStep::Change(Change::Promote(id)) => {
                if !self.learners.remove(&id) || self.behind.get(&id).copied().unwrap_or_default() >= seats::CAUGHT_UP {
                    return Err(format!("{id} votes, and has not caught up"));
                }
                self.voters.insert(id);
            }
            SeatStep::Change(Change::Remove(id)) => {
                if id == self.leader {
                    return Err("the leader is taken out".to_owned());
                }
                self.voters.remove(&id);
                self.learners.remove(&id);
                if !self.has_quorum() {
                    return Err(format!("without {id} there is no quorum"));
                }
            }
            SeatStep::Change(Change::HandOver(id)) => {
                if !self.voters.contains(&id) || !self.answers(id) {
                    return Err(format!("{id} cannot lead"));
                }
                self.leader = id;
            }
        }
        Ok(true)
    }

    fn enlist(&mut self, n: u64, pick: u64) -> Result<(), String> {
        let old = self.raft_id(n).filter(|id| self.lost.contains(id));
        let node = self.cluster.node(n);
        let wanted = old.is_some() || (self.raft_id(n).is_none() && node.promoting.is_some());
        if wanted && self.elect(pick) {
            let enlist = self.cluster.enlistment(n, old);
            self.propose(enlist)?;
        }
        Ok(())
    }

    fn act(&mut self, what: u8, pick: u8) -> Result<(), String> {
        let (n, pick) = (u64::from(pick) % NODES, u64::from(pick));
        match what % 12 {
            0 | 1 if self.elect(pick) => {
                let role = if what.is_multiple_of(12) { Role::Manager } else { Role::Worker };
                self.propose(self.cluster.wish(n, role))?;
            }
            2 | 3 => self.enlist(n, pick)?,
            4 => {
                let (Some(id), true) = (self.raft_id(n), self.elect(pick)) else { return Ok(()) };
                // A store may be lost as long as the others can go on without it.
                let left = self.voters.iter().filter(|voter| **voter != id && !self.lost.contains(voter)).count();
                if left > self.voters.len() / 2 {
                    self.lost.insert(id);
                }
            }
            5 => drop(self.raft_id(n).map(|id| self.away.insert(id))),
            6 | 7 => drop(self.raft_id(n).map(|id| self.away.remove(&id))),
            8 => drop(self.cluster.later(Duration::from_secs(200))),
            9 => {
                let near: Vec<_> = self.learners.iter().copied().filter(|id| self.answers(*id)).collect();
                self.behind.extend(near.into_iter().map(|id| (id, pick)));
            }
            _ => drop(self.work(pick)?),
        }
        Ok(())
    }

    /// Everybody answers and does its part: it ends, and record and group say the same.
    fn settle(&mut self) -> Result<(), String> {
        self.away.clear();
        for round in 0..200 {
            for n in 0..NODES {
                self.enlist(n, 0)?;
            }
            self.behind.clear();
            let worked = self.work(round)?;
            // Whoever did not ask in time is a worker again.
            if !worked && self.cluster.state.nodes.values().all(|node| node.promoting.is_none()) {
                break;
            }
        }
        let managers: BTreeSet<_> = (0..NODES)
            .filter(|n| self.cluster.node(*n).role == Role::Manager)
            .filter_map(|n| self.raft_id(n))
            .collect();
        let rows: BTreeSet<_> = self.cluster.state.members().values().map(|row| row.raft_id).collect();
        let wished = |n: u64| self.cluster.node(n).spec.role == self.cluster.node(n).role;
        if managers != self.voters || rows != self.voters || !self.learners.is_empty() || !(0..NODES).all(wished) {
            return Err(format!("managers {managers:?}, places {rows:?}, voters {:?}", self.voters));
        }
        Ok(())
    }

    fn walk(acts: &[(u8, u8)], breach: Breach) -> Result<Self, String> {
        let mut group = Self::new(breach);
        for (what, pick) in acts {
            group.act(*what, *pick)?;
        }
        group.settle()?;
        Ok(group)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn record_and_group_come_to_the_same(acts in vec(any::<(u8, u8)>(), 0..200)) {
        prop_assert_eq!(Group::walk(&acts, Breach::None).err(), None);
    }
}

/// One that is to leave stays while the one that comes in its stead is out of the group, and for good if that one never comes.
#[test]
fn a_manager_leaves_only_for_one_that_stays() {
    for comes in [true, false] {
        let mut group = Group::new(Breach::None);
        let settled = |group: &mut Group| {
            while group.work(0).unwrap() {
                group.behind.clear();
            }
        };
        let wish = |group: &mut Group, n, role| group.propose(group.cluster.wish(n, role)).unwrap();
        wish(&mut group, 2, Role::Manager);
        group.enlist(2, 0).unwrap();
        settled(&mut group);
        // It is out of the group, and not a worker yet, when it is wanted again; and then the other is not.
        wish(&mut group, 2, Role::Worker);
        group.work(0).unwrap();
        assert_eq!((group.voters.len(), group.cluster.node(2).role), (1, Role::Manager));
        wish(&mut group, 2, Role::Manager);
        wish(&mut group, 0, Role::Worker);
        settled(&mut group);
        assert!(group.cluster.node(2).promoting.is_some(), "it is promoted anew");
        assert_eq!(group.cluster.node(0).spec.role, Role::Worker, "it may come yet");
        if comes {
            group.settle().unwrap();
            assert_eq!(group.cluster.node(0).role, Role::Worker);
        } else {
            group.cluster.later(Duration::from_secs(601));
            // Somebody asked to join as a manager, and may never be heard of again: nobody leaves for it.
            let join = group.cluster.manager_admission(9);
            group.cluster.run(Command::Admit(Box::new(join)));
            settled(&mut group);
            assert_eq!(group.cluster.node(2).spec.role, Role::Worker);
            assert_eq!(group.cluster.node(0).spec.role, Role::Manager, "nobody came");
        }
    }
}

#[test]
fn broken_rules_are_caught() {
    let mut seed = 0x5eed_u64;
    let mut draw = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) as u8, (seed >> 41) as u8)
    };
    let walks: Vec<Vec<(u8, u8)>> = (0..100).map(|_| (0..200).map(|_| draw()).collect()).collect();
    for (breach, said) in [
        (Breach::NoQuorum, "there is no quorum"),
        (Breach::EarlyUnseat, "is unseated, and in the group"),
        (Breach::EarlySeat, "is seated, and no voter"),
        (Breach::NoHandOver, "the leader is taken out"),
    ] {
        let mut caught = walks.iter().filter_map(|acts| Group::walk(acts, breach).err());
        assert!(caught.any(|why| why.contains(said)), "{said}: not caught");
    }
    let mut did = BTreeMap::new();
    for acts in &walks {
        let group = Group::walk(acts, Breach::None).unwrap_or_else(|why| panic!("{why}"));
        group.did.into_iter().for_each(|(kind, times)| *did.entry(kind).or_insert(0) += times);
    }
    assert_eq!(did.len(), 6, "{did:?}");
    assert!(did.values().all(|times| *times > 10), "{did:?}");
}
