//! Whose request is tried when. Rules:
//! - members come before strangers, and who failed comes behind everybody else: requests that nobody can sign stop no others;
//! - while the signer is away nobody is tried; when it may be back, everybody is who waited for that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use imbl::OrdSet;
use pki::identity::NodeId;

/// When a request is tried again that the signer refused, at first and at most.
const REFUSED_RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5 * 60));

/// When a request is signed again whose premises fell.
const STALE_RETRY: Duration = Duration::from_millis(20);

/// When to look again if nothing happens.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Queue {
    flying: BTreeSet<NodeId>,
    /// Requests that are tried again later: when, and after how long a wait.
    later: BTreeMap<NodeId, (Instant, Duration)>,
    /// Nobody is tried before.
    away_until: Option<Instant>,
}

impl Queue {
    /// Whom to try now, `window` at a time with those under way, and when to look again. `joins`: whether it is a stranger's.
    pub(super) fn take(
        &mut self,
        now: Instant,
        pending: &OrdSet<NodeId>,
        window: usize,
        joins: impl Fn(&NodeId) -> bool,
    ) -> (Vec<NodeId>, Instant) {
        self.later.retain(|node, _| pending.contains(node));
        if let Some(until) = self.away_until.filter(|until| *until > now && !pending.is_empty()) {
            return (Vec::new(), until);
        }
        self.away_until = None;
        let waits = |node: &NodeId| self.later.get(node).is_some_and(|(at, _)| *at > now);
        let next = self.later.values().map(|(at, _)| *at).filter(|at| *at > now).min();
        let wake = next.map_or(now + IDLE, |at| at.min(now + IDLE));
        let room = window.saturating_sub(self.flying.len());
        let mut ranked: [Vec<NodeId>; 4] = Default::default();
        let due = pending.iter().filter(|_| room > 0).filter(|node| !self.flying.contains(*node) && !waits(node));
        for node in due {
            let rank = usize::from(self.later.contains_key(node)) * 2 + usize::from(joins(node));
            if let Some(row) = ranked.get_mut(rank).filter(|row| row.len() < room) {
                row.push(node.clone());
            }
        }
        let taken: Vec<_> = ranked.into_iter().flatten().take(room).collect();
        self.flying.extend(taken.iter().cloned());
        (taken, wake)
    }

    /// It is signed, or nothing is left to do.
    pub(super) fn done(&mut self, node: &NodeId) {
        self.flying.remove(node);
        self.later.remove(node);
    }

    /// What its signature was based on changed.
    pub(super) fn stale(&mut self, now: Instant, node: &NodeId) {
        self.again(now, node, STALE_RETRY);
    }

    /// The signer is away for everybody.
    pub(super) fn away(&mut self, now: Instant, node: &NodeId, retry: Duration) {
        self.away_until = Some(now + retry);
        self.again(now, node, retry.min(REFUSED_RETRY.0 - STALE_RETRY));
    }

    /// The signer refuses this request.
    pub(super) fn refused(&mut self, now: Instant, node: &NodeId) {
        let (first, most) = REFUSED_RETRY;
        let before = self.later.get(node).map_or(Duration::ZERO, |(_, before)| *before);
        self.again(now, node, before.saturating_mul(2).clamp(first, most));
    }

    /// The signer may be back.
    pub(super) fn try_all(&mut self, now: Instant) {
        self.away_until = None;
        for (at, wait) in self.later.values_mut() {
            // Who was refused is not tried for that.
            if *wait < REFUSED_RETRY.0 {
                *at = now;
            }
        }
    }

    fn again(&mut self, now: Instant, node: &NodeId, wait: Duration) {
        self.flying.remove(node);
        self.later.insert(node.clone(), (now + wait, wait));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(n: u8) -> NodeId {
        NodeId::generate([n; 17])
    }

    fn all(nodes: impl IntoIterator<Item = u8>) -> OrdSet<NodeId> {
        nodes.into_iter().map(id).collect()
    }

    fn is_stranger(node: &NodeId) -> bool {
        *node != id(200)
    }

    #[test]
    fn members_come_before_strangers() {
        let mut queue = Queue::default();
        let (taken, _) = queue.take(Instant::now(), &all([1, 2, 200]), 2, is_stranger);
        assert_eq!((taken.len(), taken.first()), (2, Some(&id(200))));
    }

    #[test]
    fn requests_that_are_refused_stop_no_others() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let (taken, _) = queue.take(start, &all(1..=4), 4, |_| true);
        taken.iter().for_each(|node| queue.refused(start, node));
        // They are not tried again at once, and then only behind the others.
        let (taken, wake) = queue.take(start, &all(1..=5), 4, |_| true);
        assert_eq!((taken, wake), (vec![id(5)], start + REFUSED_RETRY.0));
        queue.done(&id(5));
        let (taken, _) = queue.take(start + REFUSED_RETRY.0, &all([1, 2, 3, 4, 6]), 4, |_| true);
        assert_eq!((taken.len(), taken.first()), (4, Some(&id(6))));
        // Each time they wait longer.
        queue.refused(start, taken.last().unwrap_or(&id(1)));
        assert!(queue.later.values().any(|(_, wait)| *wait == 2 * REFUSED_RETRY.0));
    }

    #[test]
    fn while_the_signer_is_away_nobody_is_tried() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        let (taken, _) = queue.take(start, &all([1]), 4, |_| true);
        assert_eq!(taken, [id(1)]);
        queue.away(start, &id(1), 60 * SECOND);
        assert_eq!(queue.take(start, &all([1, 2]), 4, |_| true), (Vec::new(), start + 60 * SECOND));
        // It is back before that: everybody is tried, who was refused excepted.
        queue.try_all(start + SECOND);
        let (taken, _) = queue.take(start + SECOND, &all([1, 2]), 4, |_| true);
        assert_eq!(taken, [id(2), id(1)]);
        queue.refused(start, &id(2));
        queue.try_all(start + SECOND);
        assert!(queue.take(start + SECOND, &all([1, 2]), 4, |_| true).0.is_empty(), "one is under way, one refused");
    }

    #[test]
    fn who_asks_no_more_is_forgotten() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.refused(start, &id(1));
        queue.take(start, &all([]), 4, |_| true);
        assert!(queue.later.is_empty());
    }
}
