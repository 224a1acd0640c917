//! Who is told when, while a root is replaced: a machine without sockets, clock or chance.
//!
//! - so many nodes are busy at a time as the manager can serve without keeping the others waiting: no fixed batch, no tick;
//! - turns are given one by one at the pace at which they can be served, so those who were told at once do not all come back at
//!   once;
//! - managers come first, since everybody has to verify them;
//! - what is lost is said again; who does not answer gives its place to others and is named;
//! - a node that is not in session takes no place, and who does not answer in the time that others need loses his;
//! - nobody is told again before everybody was told once;
//! - time alone ends no phase before this manager has led it for a while, and hardly before everybody here was told;
//! - a clock that is set back stops nothing.

mod elapsed;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::State;
use cluster::rotation::{self, Need, PHASE_TIME_MIN, Phase, Rotation};
use pki::identity::NodeId;
use pki::time::Time;

use self::elapsed::Elapsed;
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
/// Who was told counts as busy for so many times what a node takes with it; then others get their turn.
const BUSY_TIMES: u32 = 2;
/// How long a phase whose time is over waits at most for those who are here and were not told yet; its own time, if that is
/// less.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// What a renewal costs a manager, in requests verified and signed: two handshakes, a certificate, a session, two entries.
const SIGNATURES_A_RENEWAL: f64 = 18.0;
/// What a root taken costs it: a handshake, a session, an entry.
const SIGNATURES_A_PUSH: f64 = 10.0;
/// The part of its time that a manager gives to a rotation.
const SHARE: f64 = 0.5;
/// How long a renewal takes: an engine's own pause and a little.
const RENEWAL_USUAL: Duration = Duration::from_millis(600);
/// The same for taking a root.
const PUSH_USUAL: Duration = Duration::from_millis(60);
/// Who takes longer counts as if he took so long: queues of our own making must not widen the window without bound.
const RENEWAL_LONG: Duration = Duration::from_millis(1500);
/// The same for taking a root.
const PUSH_LONG: Duration = Duration::from_millis(300);
/// A signature's time until one was measured.
const SIGNING_USUAL: Duration = Duration::from_micros(150);
/// Turns that may be given at once after a rest.
const BURST: f64 = 16.0;
/// A turn given so much later than it should have been says that this machine has more to do than it can.
const LATE: Duration = Duration::from_millis(5);
/// The part of its pace that a manager keeps at least, however much else there is to do.
const EASE_MIN: f64 = 0.125;

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
    /// When first, as the clock said then.
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
    /// Nodes in session that let a turn pass, and get another after the others.
    later: BTreeSet<NodeId>,
    /// Nodes whose turn it is.
    told: BTreeMap<NodeId, Told>,
    again: BTreeSet<(Time, NodeId)>,
    tries: BTreeMap<NodeId, Tries>,
    /// Nodes that were told too often.
    refusing: BTreeSet<NodeId>,
    /// Nodes whose turn to take a root has come in this phase, and how often.
    pushed: BTreeMap<NodeId, u32>,
    pace: Pace,
    /// When a turn can be given that had to wait for its place in time.
    spaced: Option<Time>,
    /// When somebody who was told counts no more as busy, if others wait for that.
    freed: Option<Time>,
    /// All times here are moments of this.
    elapsed: Elapsed,
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
    /// Turns that may be given now, as of a moment.
    credit: (f64, Time),
    /// The part of the pace that this machine allows beside what else it does.
    ease: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            cores: 1.0,
            signing: SIGNING_USUAL,
            renewal: RENEWAL_USUAL,
            push: PUSH_USUAL,
            done: 0,
            since: None,
            credit: (BURST, Time::from_unix_millis(i64::MIN)),
            ease: 1.0,
        }
    }
}

impl Pace {
    /// How long a node takes with `need`, as it was seen, and not less than is usual: those who are quick, as managers are, must
    /// not make the others wait.
    fn each(&self, need: Need) -> Duration {
        match need {
            Need::Renewal => self.renewal.max(RENEWAL_USUAL),
            Need::Trust => self.push.max(PUSH_USUAL),
        }
    }

    /// Nodes that a manager can serve in a second, in the part of its time that it gives to them.
    fn rate(&self, need: Need) -> f64 {
        let signatures = match need {
            Need::Renewal => SIGNATURES_A_RENEWAL,
            Need::Trust => SIGNATURES_A_PUSH,
        };
        self.ease * SHARE * self.cores / (self.signing.as_secs_f64() * signatures).max(1e-6)
    }

    /// A turn that was to be given at `due` is looked at only now. Whoever waits long for this machine waits as long for each
    /// of a dozen steps: the pace falls fast, and rises slowly.
    fn late(&mut self, due: Time, now: Time) {
        let factor = if now.since(due) > LATE { 0.8 } else { 1.02 };
        self.ease = (self.ease * factor).clamp(EASE_MIN, 1.0);
    }

    /// Takes one turn of those that may be given at `now`; else when there will be one.
    fn take(&mut self, now: Time, rate: f64) -> Result<(), Time> {
        let (credit, since) = self.credit;
        let credit = (credit + now.since(since).as_secs_f64() * rate).min(BURST);
        if credit < 1.0 {
            self.credit = (credit, now);
            let wait = Duration::from_secs_f64(((1.0 - credit) / rate).clamp(0.001, 1.0));
            return Err(now.saturating_add(wait));
        }
        self.credit = (credit - 1.0, now);
        Ok(())
    }
}

impl Pacer {
    /// A machine for a manager with so many cores.
    pub fn new(cores: usize) -> Self {
        let cores = u32::try_from(cores.max(1)).map_or(1.0, f64::from);
        Self { pace: Pace { cores, ..Pace::default() }, ..Self::default() }
    }

    /// A request was verified and signed, which took so long.
    pub fn measured(&mut self, signing: Duration) {
        // The shortest counts: the others were kept waiting by something else. It is forgotten slowly.
        let usual = self.pace.signing;
        self.pace.signing = signing.max(Duration::from_micros(1)).min(usual + usual / 64);
    }

    /// Looks at what has changed: `news` names the nodes whose record or session did. Says whose turn has come.
    pub fn step(&mut self, now: Time, state: &State, sessions: &Sessions, news: &[NodeId]) -> Vec<Turn> {
        let now = self.elapsed.pass(now);
        let stage = state.rotation().map(|rotation| (rotation.id, rotation.phase));
        if stage != self.stage {
            let pace = Pace { done: 0, since: stage.map(|_| now), ..self.pace };
            *self = Self { stage, pace, elapsed: self.elapsed, ..Self::default() };
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
        let again = self.again.first().map(|(at, _)| *at);
        let next = [again, self.spaced, self.freed].into_iter().flatten().min();
        next.map(|at| self.elapsed.shown(at))
    }

    /// When there will be time for the next turn, if there is somebody whom only time keeps waiting.
    pub fn next_turn(&self) -> Option<Time> {
        let next = [self.spaced, self.freed].into_iter().flatten().min();
        next.map(|at| self.elapsed.shown(at))
    }

    /// How often it was a node's turn to be given the root of this phase. Each time it is sent once, also if nothing else
    /// has changed: the node may have been unable to take it.
    pub fn pushes(&self, node: &NodeId) -> u32 {
        self.pushed.get(node).copied().unwrap_or_default()
    }

    /// The rotation and phase that may end now: nobody is waited for any more, or time is over.
    pub fn due(&self, state: &State, now: Time) -> Option<(u64, Phase)> {
        let rotation = state.rotation().filter(|rotation| Some((rotation.id, rotation.phase)) == self.stage)?;
        let over = self.ends(rotation).is_some_and(|end| end <= now);
        // The clock was set back: the next entry has the phase counted from now, whatever comes of it.
        let set_back = rotation.since > now && rotation.phase_ends().is_some();
        let ends = self.blocking.is_empty() || (over && self.managers.is_empty()) || set_back;
        ends.then_some((rotation.id, rotation.phase))
    }

    /// When the phase may end whoever is missing, as the clock will say then, if it may: not before its time, nor, if that is
    /// over already, before this manager has led it for [`PHASE_TIME_MIN`]: nodes need that to come back. Those who are here
    /// and were not told yet have as long again.
    pub fn ends(&self, rotation: &Rotation) -> Option<Time> {
        let end = rotation.phase_ends()?;
        let since = self.pace.since.filter(|_| Some((rotation.id, rotation.phase)) == self.stage)?;
        let whole = end.since(rotation.since);
        let end = end.max(self.elapsed.shown(since.saturating_add(whole.min(PHASE_TIME_MIN))));
        let hold = if self.queue.is_empty() { Duration::ZERO } else { whole.min(HOLD_MAX) };
        Some(end.saturating_add(hold))
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
        let since = self.elapsed.at(now).since(self.pace.since?).as_secs_f64();
        let done = u32::try_from(self.pace.done).map_or(f64::from(u32::MAX), f64::from);
        (since > 0.0 && done > 0.0).then(|| done / since)
    }

    /// Nodes that may be busy at a time with `need`: as many as are served in the time that one of them takes.
    pub fn window(&self, need: Need) -> usize {
        let served = self.pace.rate(need) * self.pace.each(need).as_secs_f64();
        // As of 1.45 casts saturate, and NaN is 0: the bounds hold whatever was measured.
        (served as usize).clamp(WINDOW_MIN, WINDOW_MAX_A_CORE * self.pace.cores as usize)
    }

    /// Takes in what is known of one node now.
    fn look(&mut self, now: Time, id: &NodeId, state: &State, sessions: &Sessions) {
        let node = state.node(id).filter(|node| node.unfinished.is_none());
        let blocks = node.is_some_and(|node| state.rotation().is_some_and(|rotation| rotation.blocks(node)));
        if blocks {
            self.blocking.insert(id.clone());
            // Those that cannot be put aside: who has a place in the raft group.
            if state.members().contains_key(id) {
                self.managers.insert(id.clone());
            } else {
                self.managers.remove(id);
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
        self.queue.remove(id);
        self.later.remove(id);
        if need.is_some() && sessions.is_ready(id) && !self.told.contains_key(id) {
            let queue = if self.tries.contains_key(id) { &mut self.later } else { &mut self.queue };
            queue.insert(id.clone());
        }
    }

    /// What a node was told to do is done, or no longer wanted.
    fn done(&mut self, now: Time, id: &NodeId, told: Told) {
        self.told.remove(id);
        self.again.remove(&(told.again, id.clone()));
        self.refusing.remove(id);
        if self.tries.remove(id).is_some_and(|tries| tries.count == 1) {
            let (usual, most) = match told.need {
                Need::Renewal => (&mut self.pace.renewal, RENEWAL_LONG),
                Need::Trust => (&mut self.pace.push, PUSH_LONG),
            };
            *usual = (*usual * 15 + now.since(told.at).min(most)) / 16;
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
        self.freed = None;
        if let Some(due) = self.spaced.filter(|due| *due <= now) {
            self.pace.late(due, now);
            self.spaced = None;
        }
        let waits = |id: &&NodeId| self.queue.contains(*id) || self.later.contains(*id);
        let managers: Vec<_> = self.managers.iter().filter(waits).cloned().collect();
        for id in managers {
            self.queue.remove(&id);
            self.later.remove(&id);
            turns.extend(self.tell(now, id, state));
        }
        let renewing = self.stage.is_some_and(|(_, phase)| phase == Phase::Renew);
        if renewing && self.managers.iter().any(|id| self.told.contains_key(id)) {
            return turns;
        }
        let until = |pace: &Pace, need, at: Time| at.saturating_add(pace.each(need) * BUSY_TIMES);
        let told = self.told.iter().filter(|(id, _)| !self.refusing.contains(*id));
        let ends = told.map(|(_, told)| until(&self.pace, told.need, told.at)).filter(|end| *end > now);
        let (mut busy, mut freed) =
            ends.fold((0, None::<Time>), |(busy, freed), end| (busy + 1, freed.into_iter().chain([end]).min()));
        while let Some(id) = self.queue.first().or(self.later.first()) {
            let Some(need) = state.node(id).and_then(|node| rotation::need(&state.roots, node)) else {
                self.pop();
                continue;
            };
            if busy >= self.window(need) {
                self.freed = freed;
                break;
            }
            if self.spaced.is_some() {
                break;
            }
            let rate = self.pace.rate(need);
            if let Err(at) = self.pace.take(now, rate) {
                self.spaced = Some(at);
                break;
            }
            let Some(id) = self.pop() else { break };
            if !self.refusing.contains(&id) {
                busy += 1;
                freed = freed.into_iter().chain([until(&self.pace, need, now)]).min();
            }
            turns.extend(self.tell(now, id, state));
        }
        turns
    }

    /// Whose turn is next.
    fn pop(&mut self) -> Option<NodeId> {
        self.queue.pop_first().or_else(|| self.later.pop_first())
    }

    fn tell(&mut self, now: Time, id: NodeId, state: &State) -> Option<Turn> {
        let need = rotation::need(&state.roots, state.node(&id)?)?;
        let tries = self.tries.entry(id.clone()).or_insert(Tries { count: 0, since: self.elapsed.shown(now) });
        tries.count = tries.count.saturating_add(1);
        let pause = if self.refusing.contains(&id) { REFUSER_PAUSE } else { REPEAT_AFTER };
        let again = now.saturating_add(pause);
        self.told.insert(id.clone(), Told { need, at: now, again });
        self.again.insert((again, id.clone()));
        if need == Need::Trust {
            let pushes = self.pushed.entry(id.clone()).or_default();
            *pushes = pushes.saturating_add(1);
        }
        Some(Turn { node: id, need })
    }
}

#[cfg(test)]
mod tests;
