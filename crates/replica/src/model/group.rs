//! A whole group in memory: one log of what was decided, and members that apply it each in its own time.
//!
//! Raft promises one log. So that is what there is, and everything raft and a network may do to those who use it is done on
//! command: members lag, are cut off, crash and lead, and a proposal is lost before it was decided, or its answer after.
//! [`ModelMember`] implements [`Handle`] by the rules of the replica, and what was perhaps proposed is said again by the same.
//!
//! ```text
//! propose ──► queue ──step──► decided ──apply──► state of each member ──answer──► caller, where he asked
//!               │ lost: perhaps decided later        cut: applies nothing
//!               └─ said again if that changes nothing, else nobody knows
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::authorize::Presented;
use cluster::{Batch, Command, LogEntry, Outcome, State};
use pki::time::Time;
use tokio::sync::{oneshot, watch};

use super::draw;
use crate::batch::BATCH_COMMANDS_MAX;
use crate::forward::{LEADERLESS, PATIENCE, corrected};
use crate::group::{ChangeError, Group, GroupChange, Leadership, Seen};
use crate::handle::{AnswerError, Handle, ProposeError, RETRY_AFTER, ReadError};
use crate::issued::{Found, LogSince, Wanted};
use crate::{Fatal, issued};

/// What goes wrong, in chances out of 1,000. The default is a healthy group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupFaults {
    /// A decided proposal whose answer is lost.
    pub lost_answer: u32,
    /// A proposal that is lost on its way: half of them are decided later all the same.
    pub lost_proposal: u32,
    /// A proposal that is refused before it is written.
    pub unavailable: u32,
    /// A step that does nothing.
    pub delay: u32,
}

/// The longest way of a proposal that its proposer has given up.
const LATE_MAX_MS: u64 = 4_000;

/// The longest pause before what was perhaps proposed is said again.
const AGAIN_MAX_MS: u64 = 1_000;

/// Applied entries that a restarted member does not know to be decided, at most.
const UNSURE_MAX: u64 = 8;

type Answer = Result<Vec<Outcome>, ProposeError>;

/// The group. Clones share it.
#[derive(Clone)]
pub struct ModelGroup(Arc<Mutex<Inner>>);

/// One member. Clones share it.
#[derive(Clone)]
pub struct ModelMember {
    group: ModelGroup,
    id: u64,
    states: Arc<watch::Sender<Arc<State>>>,
    leadership: Arc<watch::Sender<Leadership>>,
    view: Arc<watch::Sender<Arc<Group>>>,
}

struct Inner {
    /// Encoded batches: each member replays the bytes.
    log: Vec<Vec<u8>>,
    places: BTreeMap<u64, Place>,
    voters: BTreeSet<u64>,
    learners: BTreeSet<u64>,
    term: u64,
    /// Who leads, as a majority sees it.
    leader: Option<u64>,
    /// Since when nobody does.
    leaderless: Time,
    queue: VecDeque<Waiting>,
    answers: Vec<Decided>,
    /// Proposals given up by their proposers that are still on their way.
    late: Vec<(Time, Vec<Command>)>,
    reads: Vec<Reading>,
    now: Time,
    base: (Time, Instant),
    random: u64,
    faults: GroupFaults,
    /// Whether members do not ask what came of what they say again.
    forgetful: bool,
}

struct Place {
    member: ModelMember,
    up: bool,
    cut: bool,
    applied: usize,
    issued: Vec<LogEntry>,
    /// When it heard a leader, or, leading, a majority.
    heard: Option<Time>,
}

/// A proposal that is not decided, as far as its proposer knows.
struct Waiting {
    asker: u64,
    since: Time,
    perhaps: bool,
    /// When it is said again.
    again: Time,
    commands: Vec<Command>,
    answer: oneshot::Sender<Answer>,
}

/// A decided proposal whose proposer has not applied it yet.
struct Decided {
    index: usize,
    waiting: Waiting,
    outcomes: Vec<Outcome>,
}

struct Reading {
    asker: u64,
    since: Time,
    index: Option<usize>,
    answer: oneshot::Sender<Result<(), ReadError>>,
}

impl ModelGroup {
    /// A group of one, number 1, that leads; its first entry is decided and applied.
    pub fn create(seed: u64, now: Time, first: Command) -> Self {
        let inner = Inner {
            log: Vec::new(),
            places: BTreeMap::new(),
            voters: BTreeSet::from([1]),
            learners: BTreeSet::new(),
            term: 1,
            leader: Some(1),
            leaderless: now,
            queue: VecDeque::new(),
            answers: Vec::new(),
            late: Vec::new(),
            reads: Vec::new(),
            now,
            base: (now, Instant::now()),
            random: seed,
            faults: GroupFaults::default(),
            forgetful: false,
        };
        let group = Self(Arc::new(Mutex::new(inner)));
        group.member(1);
        let mut inner = group.lock();
        inner.decide(now, vec![first]);
        inner.tell();
        drop(inner);
        group
    }

    /// The member of this number; one that is new knows nothing yet.
    pub fn member(&self, id: u64) -> ModelMember {
        let mut inner = self.lock();
        if let Some(place) = inner.places.get(&id) {
            return place.member.clone();
        }
        let member = ModelMember {
            group: self.clone(),
            id,
            states: Arc::new(watch::Sender::new(Arc::new(State::empty()))),
            leadership: Arc::new(watch::Sender::new(Leadership::default())),
            view: Arc::new(watch::Sender::new(Arc::new(Group::default()))),
        };
        let place = Place { member: member.clone(), up: true, cut: false, applied: 0, issued: Vec::new(), heard: None };
        inner.places.insert(id, place);
        inner.tell();
        member
    }

    /// Time passes for everybody; who has waited too long is answered.
    pub fn set_time(&self, now: Time) {
        let mut inner = self.lock();
        inner.now = inner.now.max(now);
        inner.hear();
        inner.give_up();
        inner.answer_reads();
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: GroupFaults) {
        self.lock().faults = faults;
    }

    /// Members are to break the rule of what was said twice: who is refused the second time is not told what came of the first.
    pub fn forget_already(&self) {
        self.lock().forgetful = true;
    }

    /// What was decided, and waits to be said again since its answer was lost.
    pub fn said_again(&self) -> Vec<Command> {
        let inner = self.lock();
        let again = inner.queue.iter().filter(|waiting| waiting.perhaps);
        again.flat_map(|waiting| waiting.commands.iter().cloned()).collect()
    }

    /// The leader takes what waits and reaches it, as one entry with its own time. How many commands were decided.
    pub fn step(&self, stamp: Time) -> usize {
        self.lock().step(stamp)
    }

    /// The same, and nobody is answered.
    pub fn step_unanswered(&self, stamp: Time) -> usize {
        let mut inner = self.lock();
        let faults = inner.faults;
        inner.faults = GroupFaults { lost_answer: 1000, ..GroupFaults::default() };
        let decided = inner.step(stamp);
        inner.faults = faults;
        decided
    }

    /// Whether a [step](Self::step) has something to do.
    pub fn has_work(&self) -> bool {
        let inner = self.lock();
        !inner.late.is_empty() || inner.queue.iter().any(|waiting| inner.reaches(waiting.asker))
    }

    /// A member applies its next entry. Whether it did.
    pub fn apply(&self, id: u64) -> bool {
        let mut inner = self.lock();
        let applied = inner.reaches(id) && inner.apply(id);
        if applied {
            inner.answer(id);
            inner.answer_reads();
        }
        applied
    }

    /// Entries that were decided, and that a member has not applied.
    pub fn behind(&self, id: u64) -> usize {
        let inner = self.lock();
        inner.places.get(&id).map_or(0, |place| inner.log.len() - place.applied)
    }

    /// Entries that were decided, from a place on, as their bytes.
    pub fn decided(&self, from: usize) -> Vec<Vec<u8>> {
        self.lock().log.get(from..).unwrap_or_default().to_vec()
    }

    /// Entries that were decided.
    pub fn len(&self) -> usize {
        self.lock().log.len()
    }

    /// Whether nothing was ever decided.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who leads, if a majority hears it.
    pub fn leader(&self) -> Option<u64> {
        self.lock().leader
    }

    /// Whether a member hears the leader of a majority, or is it.
    pub fn reaches(&self, id: u64) -> bool {
        self.lock().reaches(id)
    }

    /// Members of the group, those with a vote first.
    pub fn members(&self) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let inner = self.lock();
        (inner.voters.clone(), inner.learners.clone())
    }

    /// The process of a member dies. What it had proposed is lost or not; if it led, so is what others had.
    pub fn crash(&self, id: u64) {
        let mut inner = self.lock();
        let led = inner.leader == Some(id);
        if led {
            inner.lose_leader();
        }
        let (own, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut inner.queue).into_iter().partition(|waiting| waiting.asker == id);
        inner.queue = others.into();
        for waiting in own {
            // What it had already sent may still arrive.
            if !led && inner.chance(300) {
                inner.is_late(waiting.commands);
            }
            // Its callers died with it, here and below.
            let _ = waiting.answer.send(Err(ProposeError::Unknown));
        }
        for decided in inner.answers.extract_if(.., |decided| decided.waiting.asker == id) {
            let _ = decided.waiting.answer.send(Err(ProposeError::Unknown));
        }
        inner.reads.retain(|read| read.asker != id);
        if let Some(place) = inner.places.get_mut(&id) {
            place.up = false;
        }
        inner.tell();
    }

    /// The process of a member starts again: its state is rebuilt from the log's bytes, up to what it knows to be decided.
    pub fn reopen(&self, id: u64) {
        let mut inner = self.lock();
        let unsure = draw(&mut inner.random) % (UNSURE_MAX + 1);
        let Some(place) = inner.places.get_mut(&id) else { return };
        let known = place.applied.saturating_sub(unsure as usize).max(place.applied.min(1));
        (place.up, place.applied, place.heard) = (true, 0, None);
        place.issued.clear();
        place.member.states.send_replace(Arc::new(State::empty()));
        for _ in 0..known {
            inner.apply(id);
        }
        inner.tell();
    }

    /// A member is cut off from the others: one that leads goes on believing so.
    pub fn cut(&self, id: u64) {
        let mut inner = self.lock();
        let Some(place) = inner.places.get_mut(&id) else { return };
        place.cut = true;
        let (alone, led) = (inner.voters.len() == 1, inner.leader == Some(id));
        if led && !alone {
            inner.lose_leader();
        }
        inner.tell();
    }

    /// A member is not cut off any more.
    pub fn heal(&self, id: u64) {
        let mut inner = self.lock();
        if let Some(place) = inner.places.get_mut(&id) {
            place.cut = false;
        }
        inner.tell();
    }

    /// A majority of those with a vote elects one of them, if they hear each other and nobody leads. It has applied everything
    /// then.
    pub fn elect(&self) -> Option<u64> {
        let mut inner = self.lock();
        if inner.leader.is_some() {
            return None;
        }
        let present: Vec<u64> = inner.voters.iter().copied().filter(|id| inner.is_present(*id)).collect();
        if present.len() <= inner.voters.len() / 2 {
            return None;
        }
        let elected = present.get(draw(&mut inner.random) as usize % present.len()).copied()?;
        inner.lead(elected);
        Some(elected)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn chance(&mut self, of_thousand: u32) -> bool {
        draw(&mut self.random) % 1000 < u64::from(of_thousand)
    }

    /// Whether it runs, and the others hear it.
    fn is_present(&self, id: u64) -> bool {
        self.places.get(&id).is_some_and(|place| place.up && !place.cut)
    }

    fn is_member(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.learners.contains(&id)
    }

    /// Whether it hears the leader of a majority, or is it. One that is alone needs nobody.
    fn reaches(&self, id: u64) -> bool {
        let alone = self.voters.len() == 1 && self.leader == Some(id);
        let up = self.places.get(&id).is_some_and(|place| place.up);
        self.leader.is_some_and(|leader| self.has_majority(leader))
            && self.is_member(id)
            && up
            && (alone || self.is_present(id))
    }

    fn has_majority(&self, leader: u64) -> bool {
        let present = self.voters.iter().filter(|id| self.is_present(**id)).count();
        let alone = self.voters.len() == 1;
        alone || (self.is_present(leader) && present > self.voters.len() / 2)
    }

    /// Nobody leads from now on. What had come to the leader and was not decided is lost, or is decided by the next.
    fn lose_leader(&mut self) {
        let Some(before) = self.leader.take() else { return };
        self.leaderless = self.now;
        let stamp = self.now;
        for waiting in std::mem::take(&mut self.queue) {
            let cut = self.places.get(&waiting.asker).is_some_and(|place| place.cut);
            // What a leader that is cut off has of its own stays with it until somebody gives up.
            if (waiting.asker == before && cut) || self.chance(400) {
                self.queue.push_back(waiting);
                continue;
            }
            if self.chance(500) {
                self.decide(stamp, waiting.commands.clone());
            }
            self.perhaps(waiting);
        }
    }

    fn lead(&mut self, elected: u64) {
        self.term += 1;
        self.leader = Some(elected);
        while self.apply(elected) {}
        self.answer(elected);
        self.tell();
    }

    /// Everybody who can be told learns who leads, and who is in the group.
    fn tell(&mut self) {
        self.hear();
        let group = Group { voters: self.voters.clone(), learners: self.learners.clone(), members: BTreeMap::new() };
        let mut full = group.clone();
        for (id, place) in &self.places {
            if Some(*id) != self.leader && self.is_member(*id) {
                let contact = place.heard.map(|heard| self.base.1 + heard.since(self.base.0));
                full.members.insert(*id, Seen { behind: (self.log.len() - place.applied) as u64, contact });
            }
        }
        for (id, place) in &self.places {
            let leads = self.leader == Some(*id);
            let reached = self.reaches(*id);
            let stale = *place.member.leadership.borrow();
            let next = match (place.up, reached) {
                (false, _) => Leadership { leader: None, here: false, ..stale },
                (true, true) => Leadership { term: self.term, leader: self.leader, here: leads },
                // Who leads and hears nobody does not know that it leads no more.
                (true, false) if stale.here => stale,
                (true, false) => Leadership { leader: None, here: false, ..stale },
            };
            place.member.leadership.send_if_modified(|now| std::mem::replace(now, next) != next);
            if reached {
                let view = Arc::new(if leads { full.clone() } else { group.clone() });
                let known = place.member.view.borrow().clone();
                if known != view {
                    place.member.view.send_replace(view);
                }
            }
        }
    }

    /// Who hears the leader now has heard it now.
    fn hear(&mut self) {
        let heard: Vec<u64> = self.places.keys().copied().filter(|id| self.reaches(*id)).collect();
        for id in heard {
            if let Some(place) = self.places.get_mut(&id) {
                place.heard = Some(self.now);
            }
        }
    }

    fn is_late(&mut self, commands: Vec<Command>) {
        let at = self.now.saturating_add(Duration::from_millis(draw(&mut self.random) % LATE_MAX_MS));
        self.late.push((at, commands));
    }

    /// A proposal may have been decided: it is said again if that changes nothing, else nobody knows.
    fn perhaps(&mut self, mut waiting: Waiting) {
        if waiting.commands.iter().all(Command::is_repeatable) {
            waiting.perhaps = true;
            // Meanwhile others have their turn.
            waiting.again = self.now.saturating_add(Duration::from_millis(draw(&mut self.random) % AGAIN_MAX_MS));
            self.queue.push_back(waiting);
        } else {
            let _ = waiting.answer.send(Err(ProposeError::Unknown));
        }
    }

    fn step(&mut self, stamp: Time) -> usize {
        let Some(leader) = self.leader.filter(|leader| self.reaches(*leader)) else { return 0 };
        let faults = self.faults;
        if self.chance(faults.delay) {
            return 0;
        }
        let now = self.now;
        let due: Vec<_> = self.late.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, commands) in due {
            self.decide(stamp, commands);
        }
        let mut batch: Vec<Waiting> = Vec::new();
        let mut commands = 0;
        let mut left = VecDeque::new();
        for waiting in std::mem::take(&mut self.queue) {
            let full = !batch.is_empty() && commands + waiting.commands.len() > BATCH_COMMANDS_MAX;
            if full || waiting.again > now || !self.reaches(waiting.asker) {
                left.push_back(waiting);
                continue;
            }
            if self.chance(faults.unavailable) && !waiting.perhaps {
                let _ = waiting.answer.send(Err(ProposeError::Unavailable { retry_after: RETRY_AFTER }));
            } else if self.chance(faults.lost_proposal) {
                if self.chance(500) {
                    self.is_late(waiting.commands.clone());
                }
                self.perhaps(waiting);
            } else {
                commands += waiting.commands.len();
                batch.push(waiting);
            }
        }
        left.append(&mut self.queue);
        self.queue = left;
        if batch.is_empty() {
            return 0;
        }
        let all = batch.iter().flat_map(|waiting| waiting.commands.iter().cloned()).collect();
        let mut outcomes = self.decide(stamp, all).into_iter();
        let index = self.log.len();
        for waiting in batch {
            let own = outcomes.by_ref().take(waiting.commands.len()).collect();
            if self.chance(faults.lost_answer) {
                self.perhaps(waiting);
            } else {
                self.answers.push(Decided { index, waiting, outcomes: own });
            }
        }
        self.answer(leader);
        self.answer_reads();
        self.tell();
        commands
    }

    /// An entry is decided. Who leads applies it at once; without a leader the outcomes are nobody's.
    fn decide(&mut self, stamp: Time, commands: Vec<Command>) -> Vec<Outcome> {
        self.log.push(Batch { time: stamp, commands }.encode());
        let Some(leader) = self.leader else { return Vec::new() };
        let mut outcomes = Vec::new();
        while let Some(fresh) = self.apply_next(leader) {
            outcomes = fresh;
        }
        outcomes
    }

    fn apply(&mut self, id: u64) -> bool {
        self.apply_next(id).is_some()
    }

    /// An entry that cannot be read is skipped whole, and shows as missing outcomes.
    fn apply_next(&mut self, id: u64) -> Option<Vec<Outcome>> {
        let place = self.places.get_mut(&id)?;
        let bytes = self.log.get(place.applied)?;
        place.applied += 1;
        let Ok(batch) = Batch::decode(bytes) else { return Some(Vec::new()) };
        let mut state = State::clone(&place.member.states.borrow());
        let applied = state.apply(place.applied as u64, &batch);
        place.issued.extend(applied.issued);
        place.member.states.send_replace(Arc::new(state));
        Some(applied.outcomes)
    }

    /// Answers those who waited at this member until it has applied what they proposed.
    fn answer(&mut self, id: u64) {
        let Some(place) = self.places.get(&id) else { return };
        let (applied, state) = (place.applied, place.member.states.borrow().clone());
        for decided in self.answers.extract_if(.., |d| d.waiting.asker == id && d.index <= applied) {
            let Decided { waiting, outcomes, .. } = decided;
            let outcomes = if waiting.perhaps && !self.forgetful {
                corrected(&state, &waiting.commands, outcomes)
            } else {
                outcomes
            };
            let _ = waiting.answer.send(Ok(outcomes));
        }
    }

    fn answer_reads(&mut self) {
        let decided = self.log.len();
        for mut read in std::mem::take(&mut self.reads) {
            if read.index.is_none() && self.reaches(read.asker) {
                read.index = Some(decided);
            }
            let applied = self.places.get(&read.asker).map_or(0, |place| place.applied);
            if read.index.is_some_and(|index| index <= applied) {
                let _ = read.answer.send(Ok(()));
            } else if self.is_over(read.asker, read.since) {
                let _ = read.answer.send(Err(ReadError::NoLeader));
            } else {
                self.reads.push(read);
            }
        }
    }

    /// Whether who asked here then has waited long enough.
    fn is_over(&self, asker: u64, since: Time) -> bool {
        let led = self.places.get(&asker).is_some_and(|place| place.member.leadership.borrow().leader.is_some());
        let waited = self.now.since(since);
        waited >= PATIENCE || (!led && waited >= LEADERLESS)
    }

    fn give_up(&mut self) {
        for waiting in std::mem::take(&mut self.queue) {
            if !self.is_over(waiting.asker, waiting.since) {
                self.queue.push_back(waiting);
                continue;
            }
            // Whoever knew of a leader has sent it, as far as he knows.
            let led = self.places.get(&waiting.asker).is_some_and(|place| place.member.leadership.borrow().here);
            // What a leader wrote that leads no more is overwritten.
            if waiting.perhaps && !led && self.chance(300) {
                self.is_late(waiting.commands);
            }
            let unknown = led || waiting.perhaps;
            let _ = waiting.answer.send(Err(if unknown { ProposeError::Unknown } else { ProposeError::NoLeader }));
        }
        // Decided, and not applied here for too long.
        let over: Vec<bool> =
            self.answers.iter().map(|decided| self.is_over(decided.waiting.asker, decided.waiting.since)).collect();
        let mut over = over.into_iter();
        for decided in self.answers.extract_if(.., |_| over.next().unwrap_or_default()) {
            let _ = decided.waiting.answer.send(Err(ProposeError::Unknown));
        }
    }

    fn change(&mut self, id: u64, change: GroupChange) -> Result<(), ChangeError> {
        if self.leader != Some(id) {
            let stale = self.places.get(&id).is_some_and(|place| place.member.leadership.borrow().here);
            return Err(if stale { ChangeError::Unknown } else { ChangeError::NotLeader });
        }
        let faults = self.faults;
        if self.chance(faults.unavailable) || !self.reaches(id) {
            return Err(ChangeError::Unavailable { retry_after: RETRY_AFTER });
        }
        match change {
            GroupChange::AddLearner(new) if !self.voters.contains(&new) => drop(self.learners.insert(new)),
            GroupChange::AddLearner(_) => {}
            GroupChange::Promote(new) if self.learners.remove(&new) => drop(self.voters.insert(new)),
            GroupChange::Promote(new) if self.voters.contains(&new) => {}
            GroupChange::Remove(gone) if gone != id => {
                self.voters.remove(&gone);
                self.learners.remove(&gone);
            }
            GroupChange::HandOver(next) if self.voters.contains(&next) && self.reaches(next) => self.lead(next),
            GroupChange::Promote(_) | GroupChange::Remove(_) | GroupChange::HandOver(_) => {
                return Err(ChangeError::Impossible(format!("{change:?}")));
            }
        }
        self.tell();
        if self.chance(faults.lost_answer) { Err(ChangeError::Unknown) } else { Ok(()) }
    }
}

impl ModelMember {
    /// The issuance log as far as it is applied here, at most `max` entries from a sequence number on.
    pub fn log_entries(&self, from: u64, max: usize) -> Vec<LogEntry> {
        let inner = self.group.lock();
        let Some(place) = inner.places.get(&self.id) else { return Vec::new() };
        let begin = place.issued.partition_point(|entry| entry.seq < from);
        place.issued.iter().skip(begin).take(max).cloned().collect()
    }

    /// The group that it is one of.
    pub const fn whole(&self) -> &ModelGroup {
        &self.group
    }

    fn fatal() -> Fatal {
        Fatal::new("the model crashed")
    }
}

impl Handle for ModelMember {
    async fn propose(&self, commands: Vec<Command>) -> Result<Vec<Outcome>, ProposeError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let receiver = {
            let mut inner = self.group.lock();
            if !inner.places.get(&self.id).is_some_and(|place| place.up) {
                return Err(Self::fatal().into());
            }
            let (answer, receiver) = oneshot::channel();
            let since = inner.now;
            inner.queue.push_back(Waiting { asker: self.id, since, perhaps: false, again: since, commands, answer });
            receiver
        };
        receiver.await.unwrap_or(Err(ProposeError::Unknown))
    }

    fn state(&self) -> Arc<State> {
        self.states.borrow().clone()
    }

    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.states.subscribe()
    }

    async fn read(&self) -> Result<Arc<State>, ReadError> {
        let receiver = {
            let mut inner = self.group.lock();
            if !inner.places.get(&self.id).is_some_and(|place| place.up) {
                return Err(Self::fatal().into());
            }
            let (answer, receiver) = oneshot::channel();
            let since = inner.now;
            inner.reads.push(Reading { asker: self.id, since, index: None, answer });
            inner.answer_reads();
            receiver
        };
        receiver.await.unwrap_or(Err(ReadError::NoLeader))?;
        Ok(self.state())
    }

    async fn find_issued(&self, wanted: &Wanted) -> Option<Vec<Found>> {
        let size = self.state().log_size();
        issued::find(wanted, size, |from, max| std::future::ready(Some(self.log_entries(from, max)))).await
    }

    async fn is_issued(&self, leaf: &Presented) -> Option<bool> {
        let size = self.state().log_size();
        issued::is_issued(leaf, size, |from, max| std::future::ready(Some(self.log_entries(from, max)))).await
    }

    async fn log_since(&self, before: u64, size: u64) -> Option<LogSince> {
        let inner = self.group.lock();
        issued::since(&inner.places.get(&self.id)?.issued, before, size)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn group(&self) -> watch::Receiver<Arc<Group>> {
        self.view.subscribe()
    }

    async fn change(&self, change: GroupChange) -> Result<(), ChangeError> {
        self.group.lock().change(self.id, change)
    }

    async fn answer(&self, from: u64, _: Vec<u8>) -> Result<Vec<u8>, AnswerError> {
        Err(AnswerError::Refused(format!("members of a model do not ask each other: {from}")))
    }

    fn contact(&self) -> Option<Duration> {
        let inner = self.group.lock();
        inner.places.get(&self.id)?.heard.map(|heard| inner.now.since(heard))
    }

    fn raft_id(&self) -> u64 {
        self.id
    }
}

#[cfg(test)]
mod tests;
