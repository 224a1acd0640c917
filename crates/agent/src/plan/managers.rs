//! The managers a node knows and which one it takes next (wire.md 6.6).
//!
//! - A peer's weight after an observation w is ceil(0.5·clip(w) + 0.5·old), clip to ±256; ours are ±10.
//! - Choice is at random by weight; negative weights count as 0, and each peer has 0.001 besides, so none is impossible.
//! - Who has failed is tried again after the others have been: with most of them gone, chance alone could pass over the one that is left for
//!   as long as a minute.
//! - The manager on this machine comes first: it is reached whatever the network does, and believed when its certificate has ended, as
//!   it has this node's own key. While it fails, one of the others is tried in between, never two: they may all be out of reach, and each
//!   takes its time to show that.
//! - A list from a manager replaces what is known. An empty list is ignored: obeying it would cut the node off for ever.

use std::collections::{BTreeMap, BTreeSet};

use super::Peer;
use super::chance::Chance;

/// What is observed when a manager served us.
pub(crate) const GOOD: i64 = 10;
/// What is observed when it failed us.
pub(crate) const BAD: i64 = -10;

const WEIGHT_MAX: i64 = 256;

#[derive(Debug, Clone)]
struct Known {
    peer: Peer,
    weight: i64,
}

/// Managers by address, and the addresses to fall back to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Managers {
    known: BTreeMap<String, Known>,
    seeds: Vec<String>,
    own: Option<Known>,
    /// Addresses that have failed since a manager served us, or since all of them had.
    failed: BTreeSet<String>,
    /// The manager on this machine has failed since another one was tried.
    others_turn: bool,
}

impl Managers {
    pub(crate) fn new(known: impl IntoIterator<Item = Peer>, seeds: Vec<String>) -> Self {
        let known = known
            .into_iter()
            .filter(|peer| !peer.addr.is_empty())
            .map(|peer| (peer.addr.clone(), Known { peer, weight: GOOD }))
            .collect();
        Managers { known, seeds, own: None, failed: BTreeSet::new(), others_turn: false }
    }

    /// The manager on this machine, or that there is none any more.
    pub(crate) fn seat(&mut self, own: Option<String>) {
        self.own = own.map(|addr| Known { peer: Peer::at(addr), weight: GOOD });
        self.others_turn = false;
    }

    /// Whether there is a manager on this machine, and it is not the one at `addr`.
    pub(crate) fn seated_besides(&self, addr: &str) -> bool {
        self.own.as_ref().is_some_and(|own| own.peer.addr != addr)
    }

    /// Somebody says that a manager is at this address: it is tried before the others, until a session tells who the managers are.
    pub(crate) fn told(&mut self, addr: String) {
        let peer = self.known.remove(&addr).map_or_else(|| Peer::at(addr.clone()), |known| known.peer);
        for known in self.known.values_mut() {
            known.weight = known.weight.min(0);
        }
        self.failed.remove(&addr);
        self.known.insert(addr, Known { peer, weight: WEIGHT_MAX });
    }

    /// What a session told. Says whether the set of peers has changed.
    pub(crate) fn learn(&mut self, told: impl IntoIterator<Item = (Peer, i64)>) -> bool {
        let mut next = BTreeMap::new();
        let mut changed = false;
        for (peer, weight) in told {
            if peer.addr.is_empty() {
                continue;
            }
            let entry = match self.known.get(&peer.addr) {
                Some(old) => {
                    changed |= old.peer != peer;
                    Known { weight: observed(weight, old.weight), peer: peer.clone() }
                }
                None => {
                    changed = true;
                    Known { weight: weight.clamp(-WEIGHT_MAX, WEIGHT_MAX), peer: peer.clone() }
                }
            };
            next.insert(peer.addr, entry);
        }
        if next.is_empty() {
            return false;
        }
        changed |= next.len() != self.known.len();
        self.known = next;
        changed
    }

    pub(crate) fn observe(&mut self, addr: &str, weight: i64) {
        let own = self.own.as_mut().filter(|own| own.peer.addr == addr);
        self.others_turn = own.is_some() && weight < 0;
        for known in self.known.get_mut(addr).into_iter().chain(own) {
            known.weight = observed(weight, known.weight);
        }
        if weight >= 0 {
            return self.failed.clear();
        }
        self.failed.insert(addr.to_owned());
        if self.candidates().iter().all(|(peer, _)| self.failed.contains(&peer.addr)) {
            self.failed = BTreeSet::from([addr.to_owned()]);
        }
    }

    /// The peers by node id.
    pub(crate) fn list(&self) -> Vec<Peer> {
        let mut list: Vec<Peer> = self.known.values().map(|known| known.peer.clone()).collect();
        list.sort();
        list
    }

    /// A manager to try: the one on this machine, or if it failed lately it and another by turns, or any. The fallback addresses take part
    /// once nothing is known, or all that is known failed lately.
    pub(crate) fn pick(&self, chance: &mut Chance) -> Option<Peer> {
        let Some(own) = &self.own else { return self.pick_any(chance) };
        if own.weight >= 0 || !self.others_turn {
            return Some(own.peer.clone());
        }
        self.without(&own.peer.addr).pick_any(chance).or_else(|| Some(own.peer.clone()))
    }

    /// All that may be tried besides the one on this machine, each with its weight.
    fn candidates(&self) -> Vec<(Peer, u64)> {
        let mut candidates: Vec<(Peer, u64)> =
            self.known.values().map(|known| (known.peer.clone(), thousandths(known.weight))).collect();
        if self.known.values().all(|known| known.weight < 0) {
            let fresh = self.seeds.iter().filter(|seed| !self.known.contains_key(*seed));
            // Nothing is observed of them: one that is gone must not be taken before those that were only out of reach.
            candidates.extend(fresh.map(|seed| (Peer::at(seed.clone()), thousandths(0))));
        }
        candidates
    }

    fn pick_any(&self, chance: &mut Chance) -> Option<Peer> {
        let mut candidates = self.candidates();
        if candidates.iter().any(|(peer, _)| !self.failed.contains(&peer.addr)) {
            candidates.retain(|(peer, _)| !self.failed.contains(&peer.addr));
        }
        let total = candidates.iter().map(|(_, weight)| weight).sum();
        let mut drawn = chance.below(total);
        for (peer, weight) in candidates {
            if drawn < weight {
                return Some(peer);
            }
            drawn -= weight;
        }
        None
    }

    /// Another manager than the one at `addr`, if there is one.
    pub(crate) fn pick_other(&self, addr: &str, chance: &mut Chance) -> Option<Peer> {
        self.without(addr).pick(chance).or_else(|| self.pick(chance))
    }

    /// All but the one at `addr`.
    fn without(&self, addr: &str) -> Self {
        let mut others = self.clone();
        others.known.remove(addr);
        others.own.take_if(|own| own.peer.addr == addr);
        others.seeds.retain(|seed| seed != addr);
        others
    }
}

fn observed(weight: i64, old: i64) -> i64 {
    let sum = weight.clamp(-WEIGHT_MAX, WEIGHT_MAX) + old;
    // The ceiling of half the sum, also below zero.
    sum.div_euclid(2) + sum.rem_euclid(2)
}

fn thousandths(weight: i64) -> u64 {
    u64::try_from(weight).unwrap_or(0) * 1000 + 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_failed_is_tried_after_the_others() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let known = ["a", "b", "c"].map(|id| peer(id, &format!("{id}:1")));
            let mut managers = Managers::new(known, vec!["a:1".to_owned(), "seed:1".to_owned()]);
            managers.observe("c:1", GOOD);
            let mut tried = Vec::new();
            for _ in 0..40 {
                let addr = managers.pick(&mut chance).unwrap().addr;
                managers.observe(&addr, BAD);
                tried.push(addr);
            }
            assert!(tried.windows(2).all(|pair| pair[0] != pair[1]), "{seed}: {tried:?}");
            let all = |window: &[String]| ["a:1", "b:1", "c:1"].iter().all(|addr| window.iter().any(|one| one == addr));
            assert!(all(&tried[..3]) && tried.windows(7).all(all), "{seed}: {tried:?}");
        }
    }

    fn peer(id: &str, addr: &str) -> Peer {
        Peer { node: id.to_owned(), addr: addr.to_owned() }
    }

    #[test]
    fn weights_follow_the_formula() {
        let check = |weight, old, expected| assert_eq!(observed(weight, old), expected, "{weight} after {old}");
        check(10, 10, 10);
        check(-10, 10, 0);
        check(-10, 0, -5);
        check(-10, -5, -7);
        check(10, -7, 2);
        check(1000, 0, 128);
    }

    #[test]
    fn a_list_replaces_what_is_known_and_an_empty_one_does_not() {
        let mut managers = Managers::new([peer("a", "a:1"), peer("b", "b:1")], vec![]);
        assert!(!managers.learn([]));
        assert_eq!(managers.list().len(), 2);
        assert!(!managers.learn([(peer("a", "a:1"), 10), (peer("b", "b:1"), 10)]));
        assert!(managers.learn([(peer("c", "c:1"), 10)]));
        assert_eq!(managers.list(), [peer("c", "c:1")]);
        assert!(managers.learn([(peer("d", "c:1"), 10)]), "same address, another node");
    }

    #[test]
    fn the_manager_on_this_machine_comes_first_unless_it_failed_lately() {
        let mut managers = Managers::new([peer("a", "a:1"), peer("b", "b:1")], vec![]);
        let mut chance = Chance::new(1);
        managers.seat(Some("a:1".to_owned()));
        assert!((0..1000).all(|_| managers.pick(&mut chance).unwrap().addr == "a:1"));
        assert_eq!(managers.pick_other("a:1", &mut chance).unwrap().addr, "b:1");
        managers.observe("a:1", BAD);
        assert_eq!(managers.pick(&mut chance).unwrap().addr, "a:1", "once is nothing");
        for _ in 0..100 {
            managers.observe("a:1", BAD);
            assert_eq!(managers.pick(&mut chance).unwrap().addr, "b:1", "another one is tried");
            managers.observe("b:1", BAD);
            assert_eq!(managers.pick(&mut chance).unwrap().addr, "a:1", "it is tried in between");
        }
        (0..10).for_each(|_| managers.observe("a:1", GOOD));
        assert!((0..1000).all(|_| managers.pick(&mut chance).unwrap().addr == "a:1"));
        // Its address is not one that the cluster told.
        managers.seat(Some("127.0.0.1:2377".to_owned()));
        for _ in 0..100 {
            (0..2).for_each(|_| managers.observe("127.0.0.1:2377", BAD));
            let other = managers.pick(&mut chance).unwrap().addr;
            assert_ne!(other, "127.0.0.1:2377");
            managers.observe(&other, BAD);
            assert_eq!(managers.pick(&mut chance).unwrap().addr, "127.0.0.1:2377", "it stays possible");
        }
        // It is the only one that is known.
        let mut alone = Managers::new([], vec!["127.0.0.1:2377".to_owned()]);
        alone.seat(Some("127.0.0.1:2377".to_owned()));
        (0..10).for_each(|_| alone.observe("127.0.0.1:2377", BAD));
        assert_eq!(alone.pick(&mut chance).unwrap().addr, "127.0.0.1:2377");
        managers.seat(None);
        assert!((0..1000).all(|_| managers.pick(&mut chance).unwrap().addr != "127.0.0.1:2377"));
    }

    #[test]
    fn an_address_that_somebody_told_comes_before_the_others_and_goes_with_the_next_list() {
        let mut managers = Managers::new([peer("a", "a:1"), peer("b", "b:1")], vec![]);
        let mut chance = Chance::new(1);
        managers.told("c:1".to_owned());
        assert!((0..1000).filter(|_| managers.pick(&mut chance).unwrap().addr == "c:1").count() > 990);
        managers.told("a:1".to_owned());
        assert!((0..1000).filter(|_| managers.pick(&mut chance).unwrap() == peer("a", "a:1")).count() > 990);
        // A wrong one is given up soon.
        for _ in 0..12 {
            managers.observe("a:1", BAD);
        }
        assert!((0..100).any(|_| managers.pick(&mut chance).unwrap().addr == "b:1"));
        assert!(managers.learn([(peer("d", "d:1"), 10)]));
        assert_eq!(managers.list(), [peer("d", "d:1")]);
    }

    #[test]
    fn the_good_are_taken_and_the_bad_stay_possible() {
        let mut managers = Managers::new([peer("a", "a:1"), peer("b", "b:1")], vec!["seed:1".to_owned()]);
        for _ in 0..5 {
            managers.observe("a:1", BAD);
        }
        managers.observe("b:1", GOOD);
        let mut chance = Chance::new(1);
        let mut taken = BTreeMap::new();
        for _ in 0..200_000 {
            *taken.entry(managers.pick(&mut chance).unwrap().addr).or_insert(0) += 1;
        }
        assert!(taken["b:1"] > 199_000);
        assert!(taken["a:1"] > 0);
        assert!(!taken.contains_key("seed:1"));
        for _ in 0..8 {
            managers.observe("b:1", BAD);
        }
        let mut others = BTreeMap::new();
        for _ in 0..3_000 {
            let addr = managers.pick(&mut chance).unwrap().addr;
            managers.observe(&addr, BAD);
            *others.entry(addr).or_insert(0) += 1;
        }
        assert!(others.len() == 3 && others.values().all(|times| *times > 800), "all are tried: {others:?}");
        assert_ne!(managers.pick_other("a:1", &mut Chance::new(3)).unwrap().addr, "a:1");
        assert_eq!(Managers::default().pick(&mut chance), None);
        let lone = Managers::new([], vec!["seed:1".to_owned()]);
        assert_eq!(lone.pick(&mut chance).unwrap(), Peer::at("seed:1".to_owned()));
        assert_eq!(lone.pick_other("seed:1", &mut chance).unwrap().addr, "seed:1");
    }
}
