//! The entries that begin, turn, advance and finish a rotation. Every condition is judged where the entry is applied.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdSet;
use pki::certificate::{Certificate, encode_pem};
use pki::identity::NodeId;
use pki::serial::Serial;
use pki::time::Time;

use crate::account::Event;
use crate::apply::Entry;
use crate::command::{ReplaceLadder, SecretBox};
use crate::node::{BlobDigest, IssuerHash, Leaf, Node};
use crate::outcome::{Outcome, Rejection};
use crate::roots::{Custody, Root, Roots, StragglerAnchor};
use crate::rotation::{Ended, HISTORY_MAX, Need, Phase, Policy, Rotation, Way};
use crate::state::State;
use crate::tokens::limited::Closed;
use crate::tokens::{MANAGER_ROW, WORKER_ROW};
use crate::trust::{self, LADDER_MAX, LADDER_SENT_MAX};

/// Old roots that late nodes may still come back with; before there are more, the one left longest ago goes.
pub const STRAGGLERS_MAX: usize = 8;

/// What an operator's update does to the roots.
#[derive(Clone, Debug)]
pub enum RootsChange {
    /// A rotation begins, or replaces the one under way.
    Start(Box<Start>),
    /// The rotation under way goes back.
    Abort(Box<Abort>),
    /// The rotation under way, or its way back, waits for nodes as this says from now on. An emergency stays one, and none
    /// becomes one.
    Policy(Policy),
}

/// A rotation to be begun. Everything that needs a key was done by whoever proposes it; the version of the cluster object
/// that goes with it says on which roots that was based.
#[derive(Clone, Debug)]
pub struct Start {
    /// The new root.
    pub to: Arc<Root>,
    /// How its leaves are verified by those who hold the roots of now.
    pub way: Way,
    /// What happens with nodes that do not come along.
    pub policy: Policy,
    /// CA certificates that were signed for it, DER: they go into the issuance log.
    pub logged: Vec<Vec<u8>>,
}

/// A rotation to be turned back.
#[derive(Clone, Debug)]
pub struct Abort {
    /// The old root, certified by the new one, and further steps; empty if no node can have come to trust the new root.
    pub ladder: Vec<Certificate>,
    /// What happens with nodes that do not come along.
    pub policy: Policy,
    /// CA certificates that were signed for it, DER.
    pub logged: Vec<Vec<u8>>,
}

/// One step of the rotation under way.
#[derive(Clone, Debug)]
pub struct Advance {
    /// Which rotation.
    pub rotation: u64,
    /// The phase that is to end.
    pub phase: Phase,
    /// A fresh secret for the worker's token, used if this step changes the root that joiners get.
    pub worker_secret: SecretBox,
    /// The manager's.
    pub manager_secret: SecretBox,
}

impl State {
    /// The leader's clock says `stamp`. A phase that began later than that began before the clock was set back: its time counts
    /// from here, or it would stand still until the clock is where it was.
    pub(crate) fn clock_set_back(&mut self, stamp: Time) {
        if let Roots::Rotating(running) = &mut self.roots
            && running.since > stamp
        {
            Arc::make_mut(running).since = stamp;
        }
    }

    /// `secrets`: whether fresh ones for both tokens come with it.
    pub(crate) fn change_roots(
        &mut self,
        entry: &mut Entry<'_>,
        change: &RootsChange,
        secrets: bool,
    ) -> Result<(), Rejection> {
        match change {
            RootsChange::Start(start) => self.start_rotation(entry, start, secrets),
            RootsChange::Abort(abort) => self.abort_rotation(entry, abort),
            RootsChange::Policy(policy) => self.change_policy(*policy),
        }
    }

    fn change_policy(&mut self, policy: Policy) -> Result<(), Rejection> {
        let Roots::Rotating(running) = &mut self.roots else { return Err(Rejection::NoRotation) };
        if running.is_emergency() || matches!(policy, Policy::Emergency { .. }) {
            return Err(Rejection::RotationBusy);
        }
        Arc::make_mut(running).policy = policy;
        Ok(())
    }

    fn start_rotation(&mut self, entry: &mut Entry<'_>, start: &Start, secrets: bool) -> Result<(), Rejection> {
        let running = match &self.roots {
            Roots::None => return Err(Rejection::NoCluster),
            Roots::Stable { .. } => None,
            Roots::Rotating(running) => Some(Arc::clone(running)),
        };
        let old =
            running.as_ref().map_or_else(|| self.roots.served().cloned(), |running| Some(Arc::clone(&running.old)));
        let old = old.ok_or(Rejection::NoCluster)?;
        if start.to.issuer == old.issuer {
            return Err(Rejection::Issuer);
        }
        let emergency = matches!(start.policy, Policy::Emergency { .. });
        let mut next = Rotation {
            id: entry.index,
            old,
            new: Arc::clone(&start.to),
            back: false,
            phase: if matches!(start.way, Way::Bundle(_)) { Phase::Widen } else { Phase::Renew },
            way: start.way.clone(),
            since: entry.stamp,
            started: entry.stamp,
            history: Vec::new(),
            policy: start.policy,
            aside: OrdSet::new(),
            passed: Vec::new(),
            given: OrdSet::new(),
            bare: OrdSet::new(),
            onward: Vec::new(),
            handed_over: emergency,
            stragglers: self.roots.stragglers().to_vec(),
        };
        if let Some(running) = running {
            if running.bundle().is_some() || matches!(start.way, Way::Bundle(_)) {
                return Err(Rejection::RotationBusy);
            }
            // Leaves of a root given up earlier carry what led to the roots of then.
            if !running.given.is_empty() && running.passed.iter().any(|root| root.issuer == start.to.issuer) {
                return Err(Rejection::RotationBusy);
            }
            next.passed = self.still_held(&running, &start.to);
            next.given = running.given.clone();
            next.bare = self.bare(&running);
            let pool: Vec<_> = running.ladder().iter().chain(&running.onward).chain(next.ladder()).cloned().collect();
            next.onward = trust::onward(next.ladder(), &next.old.certificates, &pool);
        }
        let missing = emergency && (!secrets || next.bundle().is_none());
        if missing || !next.leads_at(entry.stamp) {
            return Err(Rejection::Way);
        }
        self.note_authorities(entry, &start.logged);
        entry.tell(Event::RotationBegun { rotation: entry.index, to: start.to.trust, emergency });
        self.roots = Roots::Rotating(Arc::new(next));
        if emergency {
            // Whoever has the stolen key may have a token too: a join by the tokens of before is no way in.
            let joins = self.nodes.values().filter(|node| node.unfinished.is_some());
            let joins: Vec<_> = joins.map(|node| node.id.clone()).collect();
            joins.iter().for_each(|id| self.forget_join(id));
            Arc::make_mut(&mut self.tokens).limited.close_all(Closed::Root, entry.now);
        }
        Ok(())
    }

    fn abort_rotation(&mut self, entry: &mut Entry<'_>, abort: &Abort) -> Result<(), Rejection> {
        let running = Arc::clone(self.rotation().ok_or(Rejection::NoRotation)?);
        if running.back || running.is_emergency() || matches!(abort.policy, Policy::Emergency { .. }) {
            return Err(Rejection::RotationBusy);
        }
        let mut turned = running.as_ref().clone();
        turned.note_phase();
        turned.id = entry.index;
        turned.back = true;
        turned.since = entry.stamp;
        turned.policy = abort.policy;
        turned.bare = self.bare(&running);
        turned.aside = OrdSet::new();
        turned.phase = match (&turned.way, turned.phase) {
            (Way::Ladder(_), _) => Phase::Renew,
            // No leaf has changed yet.
            (Way::Bundle(_), Phase::Widen) => Phase::Trust,
            // Nodes that hold the new root alone, by the last phase or because they joined, get the bundle first.
            (Way::Bundle(_), Phase::Renew | Phase::Trust) => Phase::Widen,
        };
        match turned.way {
            Way::Ladder(_) => {
                let pool: Vec<_> = running.ladder().iter().chain(&running.onward).cloned().collect();
                turned.onward = trust::onward(&abort.ladder, &turned.old.certificates, &pool);
                turned.way = Way::Ladder(abort.ladder.clone());
            }
            // Other bytes than those of the way there: who reports them took them after all that was sent before.
            Way::Bundle(_) if turned.phase == Phase::Widen => {
                let roots: Vec<_> = turned.new.certificates.iter().chain(&turned.old.certificates).cloned().collect();
                turned.way = Way::Bundle(Arc::from(encode_pem(&roots).into_bytes()));
                turned.aside = self.still_aside(&running);
            }
            Way::Bundle(_) => {}
        }
        if !turned.leads_at(entry.stamp) {
            return Err(Rejection::Way);
        }
        self.note_authorities(entry, &abort.logged);
        entry.tell(Event::RotationTurned { rotation: entry.index });
        self.roots = Roots::Rotating(Arc::new(turned));
        Ok(())
    }

    /// Leaves that do not lead to a root that nodes may have come to trust.
    fn bare(&self, running: &Rotation) -> OrdSet<Serial> {
        let narrowed = running.phase == Phase::Trust && !running.back && running.bundle().is_none();
        let led =
            |leaf: &&Leaf| !running.bare.contains(&leaf.serial) && (!narrowed || leaf.issuer == running.to().issuer);
        let leaves = self.nodes.values().flat_map(|node| node.leaves());
        leaves.filter(|leaf| !led(leaf)).map(|leaf| leaf.serial).collect()
    }

    /// Of the nodes put aside, those that have not come along since. Managers do not speak to them by leaves that they verify
    /// before the bundle is with everybody else.
    fn still_aside(&self, running: &Rotation) -> OrdSet<NodeId> {
        let behind = |id: &&NodeId| self.nodes.get(*id).is_some_and(|node| running.need(node) == Some(Need::Renewal));
        running.aside.iter().filter(behind).cloned().collect()
    }

    /// The roots given up on the way to `to`: those that nodes may hold, or hold leaves of. What certifies later roots to holders
    /// of the first sort may have to be made anew, so those keep their keys until the rotation ends.
    fn still_held(&self, running: &Rotation, to: &Root) -> Vec<Arc<Root>> {
        let leaves: BTreeSet<_> = self.nodes.values().flat_map(|node| node.leaves().map(|leaf| leaf.issuer)).collect();
        let given = |root: &Arc<Root>| running.given.contains(&root.trust);
        let passed = running.passed.iter().chain([&running.new]).filter(|root| root.trust != to.trust);
        let held = passed.filter(|root| leaves.contains(&root.issuer) || given(root));
        held.map(|root| if given(root) { Arc::clone(root) } else { without_key(root) }).collect()
    }

    /// A node put aside has come along, or is gone.
    pub(crate) fn leave_aside(&mut self, id: &NodeId, issuer: Option<&IssuerHash>) {
        let Roots::Rotating(running) = &mut self.roots else { return };
        let along = issuer.is_none_or(|issuer| running.phase != Phase::Widen && running.to().issuer == *issuer);
        if along && running.aside.contains(id) {
            Arc::make_mut(running).aside.remove(id);
        }
    }

    pub(crate) fn advance_rotation(&mut self, entry: &mut Entry<'_>, advance: &Advance) -> Result<Outcome, Rejection> {
        let running = self.rotation().ok_or(Rejection::NoRotation)?;
        if running.id != advance.rotation || running.phase != advance.phase {
            return Err(Rejection::OutOfSequence);
        }
        let mut next = running.as_ref().clone();
        let late: Vec<_> = self.finished().filter(|node| running.blocks(node)).map(|node| node.id.clone()).collect();
        if !late.is_empty() {
            let over = running.phase_ends().is_some_and(|end| end <= entry.stamp);
            // A manager cannot be put aside: everybody else needs it.
            if !over || late.iter().any(|id| self.members.rows.contains_key(id)) {
                return Err(Rejection::NotConverted);
            }
            next.aside.extend(late);
        }
        let to_new = !next.back;
        let handed_over = match next.next_phase() {
            Some(phase) => {
                next.note_phase();
                next.phase = phase;
                next.since = entry.stamp;
                if phase == Phase::Trust {
                    let trust = next.to().trust;
                    next.given.insert(trust);
                }
                // Without a ladder nobody verifies a manager's leaf of the one root who holds the other alone.
                if phase == Phase::Renew && next.bundle().is_some() { to_new } else { next.handed_over }
            }
            None => to_new,
        };
        let served_changes = handed_over != next.handed_over;
        next.handed_over = handed_over;
        let finished = next.phase == advance.phase;
        // From when their leaves are no more those of members; on the way back by a ladder they are until the end.
        let all_along = next.back && next.bundle().is_none();
        let now = if all_along { finished } else { !finished && next.phase == Phase::Trust };
        if now {
            self.let_go_of_others(&next.to().issuer);
        }
        let (rotation, phase, root) = (next.id, next.phase, next.to().trust);
        entry.tell(match finished {
            true => Event::RotationFinished { rotation, root },
            false => Event::RotationPhase { rotation, phase },
        });
        if finished {
            self.last_rotation = Some(Arc::new(Ended::of(&next, entry.stamp)));
        }
        self.roots = if finished { self.settled(next, entry.now) } else { Roots::Rotating(Arc::new(next)) };
        if served_changes {
            [WORKER_ROW, MANAGER_ROW].into_iter().for_each(|row| entry.tell(Event::TokenRotated { row }));
            let tokens = Arc::make_mut(&mut self.tokens);
            tokens.replace_secret(WORKER_ROW, Arc::clone(&advance.worker_secret.0), entry.now);
            tokens.replace_secret(MANAGER_ROW, Arc::clone(&advance.manager_secret.0), entry.now);
            tokens.limited.close_all(Closed::Root, entry.now);
        }
        self.cluster_version = entry.index;
        self.cluster_updated = entry.now;
        Ok(Outcome::Done { version: entry.index })
    }

    /// Whoever uses another issuer's leaf was let in as a member on connections that stand: they end, and it may only come back.
    fn let_go_of_others(&mut self, issuer: &IssuerHash) {
        let other = |node: &&Arc<Node>| node.current.as_ref().is_some_and(|leaf| leaf.issuer != *issuer);
        let others: Vec<_> = self.finished().filter(other).map(|node| node.id.clone()).collect();
        for id in others {
            self.change(&id, |node| node.cut = node.cut.saturating_add(1));
        }
    }

    pub(crate) fn replace_ladder(
        &mut self,
        entry: &mut Entry<'_>,
        replace: &ReplaceLadder,
    ) -> Result<Outcome, Rejection> {
        let running = self.rotation().ok_or(Rejection::NoRotation)?;
        if running.id != replace.rotation || running.bundle().is_some() {
            return Err(Rejection::OutOfSequence);
        }
        let mut next = running.as_ref().clone();
        if next.ladder() == replace.ladder {
            return Ok(Outcome::Unchanged);
        }
        next.way = Way::Ladder(replace.ladder.clone());
        if !next.leads_at(entry.stamp) {
            return Err(Rejection::Way);
        }
        self.note_authorities(entry, &replace.logged);
        self.roots = Roots::Rotating(Arc::new(next));
        Ok(Outcome::Done { version: entry.index })
    }

    /// The roots after a rotation: one with its key, and of the others what late nodes need to come back.
    fn settled(&self, rotation: Rotation, now: Time) -> Roots {
        let root = Arc::clone(rotation.to());
        let mut roots = Roots::Stable { stragglers: self.anchors_left(&rotation, &root), root };
        self.refresh_anchors(&mut roots, now);
        roots
    }

    fn anchors_left(&self, rotation: &Rotation, root: &Root) -> Vec<StragglerAnchor> {
        if rotation.is_emergency() {
            return Vec::new();
        }
        let room = LADDER_MAX.saturating_sub(root.steps.len());
        let whole: Vec<_> = rotation.ladder().iter().chain(&rotation.onward).cloned().collect();
        let leaves_end = self.nodes.values().map(|node| node.leaves_end).max().unwrap_or_default();
        let mut anchors: Vec<StragglerAnchor> = Vec::new();
        // By a bundle nothing leads from the new root to those of earlier rotations.
        let reach_earlier = rotation.back || rotation.bundle().is_none();
        for row in rotation.stragglers.iter().filter(|row| reach_earlier && row.issuer != root.issuer) {
            let ladder = whole.iter().chain(&row.ladder).cloned().collect();
            anchors.push(StragglerAnchor { ladder, ..row.clone() });
        }
        for left in rotation.roots().filter(|left| left.issuer != root.issuer) {
            let Some(certificate) = left.certificates.first().cloned() else { continue };
            if anchors.iter().any(|anchor| anchor.trust == left.trust) {
                continue;
            }
            anchors.push(StragglerAnchor {
                certificate,
                issuer: left.issuer,
                trust: left.trust,
                ladder: steps_to(rotation.ladder(), left).unwrap_or_else(|| whole.clone()),
                until: Time::default(),
                at_least: if rotation.given.contains(&left.trust) { leaves_end } else { Time::default() },
            });
        }
        anchors.retain(|anchor| trust::shortest(&anchor.ladder).len() <= room);
        anchors
    }

    /// Looks again until when each straggler anchor is needed, and drops those that are not, and those that what leads to
    /// them ends before. Whether that changed anything.
    pub(crate) fn refresh_anchors(&self, roots: &mut Roots, now: Time) -> bool {
        let (root, stragglers) = match roots {
            Roots::None => return false,
            Roots::Stable { root, stragglers } => (root, stragglers),
            Roots::Rotating(rotation) => return refresh_ladders(rotation, now),
        };
        if stragglers.is_empty() {
            return false;
        }
        let before: Vec<_> = stragglers.iter().map(|anchor| anchor.until).collect();
        for anchor in stragglers.iter_mut() {
            anchor.until = anchor.at_least;
        }
        for node in self.nodes.values() {
            note_stragglers(stragglers, node, &root.trust, &root.issuer);
        }
        stragglers.iter_mut().for_each(end_with_ladder);
        stragglers.retain(|anchor| anchor.until > now);
        let oldest = stragglers.len().saturating_sub(STRAGGLERS_MAX);
        stragglers.drain(..oldest);
        !stragglers.iter().map(|anchor| anchor.until).eq(before)
    }
}

/// An anchor that nothing leads to helps nobody: it goes while what leads there can still be sent.
fn end_with_ladder(anchor: &mut StragglerAnchor) {
    anchor.until = anchor.led_until().map_or(anchor.until, |end| end.min(anchor.until));
}

/// While a root is being replaced it is not known which anchors will be needed afterwards: only those go whose ladder ends.
fn refresh_ladders(rotation: &mut Arc<Rotation>, now: Time) -> bool {
    let ended = |anchor: &StragglerAnchor| anchor.led_until().is_some_and(|end| end <= now);
    let late = |anchor: &StragglerAnchor| anchor.led_until().is_some_and(|end| end < anchor.until);
    if !rotation.stragglers.iter().any(|anchor| ended(anchor) || late(anchor)) {
        return false;
    }
    let stragglers = &mut Arc::make_mut(rotation).stragglers;
    stragglers.retain(|anchor| !ended(anchor));
    stragglers.iter_mut().for_each(end_with_ladder);
    true
}

/// Lengthens the anchors that `node` may come back with. Which root it trusts is known if it said so; if not, it may be
/// any of them.
fn note_stragglers(anchors: &mut [StragglerAnchor], node: &Node, served: &BlobDigest, signing: &IssuerHash) {
    let trust = node.report.as_ref().map(|report| report.trust);
    let current = node.current.as_ref().is_some_and(|leaf| leaf.issuer == *signing);
    let other = |leaf: &Leaf| leaf.issuer != *signing;
    let present = node.current.iter().chain(&node.offered).filter(|leaf| other(leaf)).map(|leaf| leaf.not_after);
    let replaced = node.previous.iter().filter(|(leaf, _)| other(leaf)).map(|(_, until)| *until);
    let others = present.chain(replaced).max();
    for anchor in anchors {
        let by_trust = match trust {
            Some(trust) if trust == *served => None,
            Some(trust) if current && trust != anchor.trust => None,
            Some(_) | None => Some(node.leaves_end),
        };
        if let Some(end) = by_trust.max(others) {
            anchor.until = anchor.until.max(end);
        }
    }
}

impl Rotation {
    /// The same, and every step is valid at `now`.
    fn leads_at(&self, now: Time) -> bool {
        self.leads() && self.ladder().iter().all(|step| step.valid_at(now))
    }

    /// Whether leaves of the root that is gone to verify for all members, by what they carry or by the bundle, whatever the
    /// dates say.
    pub(crate) fn leads(&self) -> bool {
        match &self.way {
            Way::Bundle(bundle) => {
                let inside = Certificate::parse_pem_bundle(bundle).unwrap_or_default();
                let holds = |root: &Root| {
                    !root.certificates.is_empty() && root.certificates.iter().all(|own| inside.contains(own))
                };
                holds(&self.old) && holds(&self.new)
            }
            Way::Ladder(ladder) => {
                let to = self.to();
                let steps: Vec<_> = to.steps.iter().chain(ladder).cloned().collect();
                let reaches = |root: &Arc<Root>| trust::verifies(&to.issuer, &steps, &root.certificates);
                ladder.len() <= LADDER_MAX && steps.len() <= LADDER_SENT_MAX && self.trusted().all(reaches)
            }
        }
    }

    fn note_phase(&mut self) {
        if self.history.len() >= HISTORY_MAX {
            self.history.remove(0);
        }
        self.history.push((self.phase, self.since));
    }
}

/// The part of a ladder that leads to `root`; none: it does not lead there.
pub fn steps_to(ladder: &[Certificate], root: &Root) -> Option<Vec<Certificate>> {
    let place =
        ladder.iter().position(|step| root.certificates.iter().any(|own| pki::chain::signed_by(step, own).is_ok()))?;
    Some(ladder.iter().take(place + 1).cloned().collect())
}

fn without_key(root: &Arc<Root>) -> Arc<Root> {
    Arc::new(Root { custody: Custody::Outside, ..root.as_ref().clone() })
}
