//! Who is told when, while a root is replaced: a machine without sockets, clock or chance.
//!
//! - so many nodes are busy at a time as the manager can serve without keeping the others waiting: no fixed batch, no tick;
//! - managers come first, since everybody has to verify them;
//! - what is lost is said again; who does not answer gives its place to others and is named;
//! - a node that is not in session takes no place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::State;
use cluster::rotation::{self, Need, Phase};
use pki::identity::{NodeId, Role};
use pki::time::Time;

use crate::sessions::Sessions;

/// Nodes that may be busy at a time, at least.
pub const WINDOW_MIN: usize = 16;
/// And at most, for each core.
pub const WINDOW_MAX_A_CORE: usize = 256;
/// How long a node has before it is told again. An engine waits half a second by itself.
pub const REPEAT_AFTER: Duration = Duration::from_secs(5);
/// Times that a node is told before it counts as refusing.
pub const TRIES_MAX: u32 = 5;
/// How long one that refuses is left alone before it is told again.
pub const REFUSER_PAUSE: Duration = Duration::from_secs(60);
/// What one node's step costs a manager, in signatures: two handshakes, a session, two entries.
const SIGNATURES_A_STEP: f64 = 8.0;
/// The part of its time that a manager gives to a rotation.
const SHARE: f64 = 0.5;
/// How long a renewal takes until it was seen: an engine's own pause and a little.
const RENEWAL_USUAL: Duration = Duration::from_millis(600);
/// The same for taking a root.
const PUSH_USUAL: Duration = Duration::from_millis(60);
/// A signature's time until one was measured.
const SIGNING_USUAL: Duration = Duration::from_micros(300);

/// A node's turn has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whose.
    pub node: NodeId,
    /// What it is told to do.
    pub need: Need,
}

/// What was told to a node and not yet seen done.
#[derive(Clone, Copy, Debug)]
struct Told {
    need: Need,
    at: Time,
    again: Time,
}

/// How often a node was told what it has not done, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// How often.
    pub count: u32,
    /// When first.
    pub since: Time,
}

/// The machine.
#[derive(Default)]
pub struct Pacer {
    /// The rotation and phase that everything here is about; none: no root is being replaced.
    stage: Option<(u64, Phase)>,
    /// Nodes that the phase waits for.
    blocking: BTreeSet<NodeId>,
    /// Managers among them.
    managers: BTreeSet<NodeId>,
    /// Nodes in session whose turn is to come.
    queue: BTreeSet<NodeId>,
    /// Nodes whose turn it is.
    told: BTreeMap<NodeId, Told>,
    again: BTreeSet<(Time, NodeId)>,
    tries: BTreeMap<NodeId, Tries>,
    /// Nodes that were told too often.
    refusing: BTreeSet<NodeId>,
    /// Nodes whose turn to take a root has come in this phase.
    pushed: BTreeSet<NodeId>,
    pace: Pace,
}

/// What the window is computed from.
#[derive(Clone, Copy, Debug)]
struct Pace {
    cores: f64,
    signing: Duration,
    renewal: Duration,
    push: Duration,
    done: u64,
    since: Option<Time>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { cores: 1.0, signing: SIGNING_USUAL, renewal: RENEWAL_USUAL, push: PUSH_USUAL, done: 0, since: None }
    }
}

impl Pacer {
    /// A machine for a manager with so many cores.
    pub fn new(cores: usize) -> Self {
        let cores = u32::try_from(cores.max(1)).map_or(1.0, f64::from);
        Self { pace: Pace { cores, ..Pace::default() }, ..Self::default() }
    }

    /// A signature was made, and took so long.
    pub fn measured(&mut self, signing: Duration) {
        // A moving average over the last dozen.
        self.pace.signing = (self.pace.signing * 11 + signing) / 12;
    }

    /// Looks at what has changed: `news` names the nodes whose record or session did. Says whose turn has come.
    pub fn step(&mut self, now: Time, state: &State, sessions: &Sessions, news: &[NodeId]) -> Vec<Turn> {
        let stage = state.rotation().map(|rotation| (rotation.id, rotation.phase));
        if stage != self.stage {
            let pace = Pace { done: 0, since: stage.map(|_| now), ..self.pace };
            *self = Self { stage, pace, ..Self::default() };
            for node in state.finished() {
                self.look(now, &node.id, state, sessions);
            }
            self.pace.done = 0;
        } else {
            for node in news {
                self.look(now, node, state, sessions);
            }
        }
        self.over(now, state, sessions);
        self.turns(now, state)
    }

    /// When [`step`](Self::step) has something to do even if nothing changes.
    pub fn next_deadline(&self) -> Option<Time> {
        self.again.first().map(|(at, _)| *at)
    }

    /// Whether it is a node's turn to be given the root of this phase.
    pub fn is_pushed(&self, node: &NodeId) -> bool {
        self.pushed.contains(node)
    }

    /// The rotation and phase that may end now: nobody is waited for any more, or time is over.
    pub fn due(&self, state: &State, now: Time) -> Option<(u64, Phase)> {
        let rotation = state.rotation().filter(|rotation| Some((rotation.id, rotation.phase)) == self.stage)?;
        let over = rotation.phase_ends().is_some_and(|end| end <= now);
        let ends = self.blocking.is_empty() || (over && self.managers.is_empty());
        ends.then_some((rotation.id, rotation.phase))
    }

    /// Nodes that the phase waits for.
    pub fn blocking(&self) -> &BTreeSet<NodeId> {
        &self.blocking
    }

    /// How often a node was told what it has not done yet.
    pub fn tries(&self, node: &NodeId) -> Option<Tries> {
        self.tries.get(node).copied()
    }

    /// Whether a node was told too often.
    pub fn is_refusing(&self, node: &NodeId) -> bool {
        self.refusing.contains(node)
    }

    /// Nodes a second that did their part, since this phase began.
    pub fn rate(&self, now: Time) -> Option<f64> {
        let since = now.since(self.pace.since?).as_secs_f64();
        let done = u32::try_from(self.pace.done).map_or(f64::from(u32::MAX), f64::from);
        (since > 0.0 && done > 0.0).then(|| done / since)
    }

    /// Nodes that may be busy at a time with `need`: as many as are served in the time that one of them takes.
    pub fn window(&self, need: Need) -> usize {
        let each = match need {
            Need::Renewal => self.pace.renewal,
            Need::Trust => self.pace.push,
        };
        let cost = self.pace.signing.as_secs_f64() * SIGNATURES_A_STEP;
        let served = SHARE * self.pace.cores * each.as_secs_f64() / cost.max(1e-6);
        // As of 1.45 casts saturate, and NaN is 0: the bounds hold whatever was measured.
        (served as usize).clamp(WINDOW_MIN, WINDOW_MAX_A_CORE * self.pace.cores as usize)
    }

    /// Takes in what is known of one node now.
    fn look(&mut self, now: Time, id: &NodeId, state: &State, sessions: &Sessions) {
        let node = state.node(id).filter(|node| node.unfinished.is_none());
        let blocks = node.is_some_and(|node| state.rotation().is_some_and(|rotation| rotation.blocks(node)));
        if blocks {
            if self.blocking.insert(id.clone()) && node.is_some_and(|node| node.role == Role::Manager) {
                self.managers.insert(id.clone());
            }
        } else if self.blocking.remove(id) {
            self.managers.remove(id);
            self.pace.done += 1;
        }
        let need = node.and_then(|node| rotation::need(&state.roots, node));
        if let Some(told) = self.told.get(id).copied()
            && need != Some(told.need)
        {
            self.done(now, id, told);
        }
        if need.is_none() {
            self.tries.remove(id);
            self.refusing.remove(id);
        }
        if need.is_some() && sessions.is_ready(id) && !self.told.contains_key(id) {
            self.queue.insert(id.clone());
        } else {
            self.queue.remove(id);
        }
    }

    /// What a node was told to do is done, or no longer wanted.
    fn done(&mut self, now: Time, id: &NodeId, told: Told) {
        self.told.remove(id);
        self.again.remove(&(told.again, id.clone()));
        self.refusing.remove(id);
        if self.tries.remove(id).is_some_and(|tries| tries.count == 1) {
            let took = now.since(told.at).max(Duration::from_millis(1));
            let usual = match told.need {
                Need::Renewal => &mut self.pace.renewal,
                Need::Trust => &mut self.pace.push,
            };
            // The shortest counts, so that queues of our own making do not widen the window; it is forgotten slowly.
            *usual = took.min(*usual + *usual / 64);
        }
    }

    /// Ends the turns of those who let it pass; who is still here gets another.
    fn over(&mut self, now: Time, state: &State, sessions: &Sessions) {
        while let Some((at, _)) = self.again.first()
            && *at <= now
        {
            let Some((_, id)) = self.again.pop_first() else { break };
            self.told.remove(&id);
            if self.tries.get(&id).is_some_and(|tries| tries.count >= TRIES_MAX) {
                self.refusing.insert(id.clone());
            }
            self.look(now, &id, state, sessions);
        }
    }

    /// Gives turns while there are places: to managers first, and in the phase of renewal to nobody else before every manager
    /// that is here has done it, since all have to verify them. Those who refuse take no place.
    fn turns(&mut self, now: Time, state: &State) -> Vec<Turn> {
        let mut turns = Vec::new();
        let managers: Vec<_> = self.managers.iter().filter(|id| self.queue.contains(*id)).cloned().collect();
        for id in managers {
            self.queue.remove(&id);
            turns.extend(self.tell(now, id, state));
        }
        let renewing = self.stage.is_some_and(|(_, phase)| phase == Phase::Renew);
        if renewing && self.managers.iter().any(|id| self.told.contains_key(id)) {
            return turns;
        }
        let mut busy = self.told.keys().filter(|id| !self.refusing.contains(*id)).count();
        while let Some(id) = self.queue.first() {
            let Some(need) = state.node(id).and_then(|node| rotation::need(&state.roots, node)) else {
                self.queue.pop_first();
                continue;
            };
            if busy >= self.window(need) {
                break;
            }
            let Some(id) = self.queue.pop_first() else { break };
            busy += usize::from(!self.refusing.contains(&id));
            turns.extend(self.tell(now, id, state));
        }
        turns
    }

    fn tell(&mut self, now: Time, id: NodeId, state: &State) -> Option<Turn> {
        let need = rotation::need(&state.roots, state.node(&id)?)?;
        let tries = self.tries.entry(id.clone()).or_insert(Tries { count: 0, since: now });
        tries.count = tries.count.saturating_add(1);
        let pause = if self.refusing.contains(&id) { REFUSER_PAUSE } else { REPEAT_AFTER };
        let again = now.saturating_add(pause);
        self.told.insert(id.clone(), Told { need, at: now, again });
        self.again.insert((again, id.clone()));
        if need == Need::Trust {
            self.pushed.insert(id.clone());
        }
        Some(Turn { node: id, need })
    }
}

#[cfg(test)]
mod tests;
