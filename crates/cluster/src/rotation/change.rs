//! The entries that begin, turn, advance and finish a rotation. Every condition is judged where the entry is applied.

use std::sync::Arc;

use imbl::OrdSet;
use pki::certificate::Certificate;
use pki::time::Time;

use crate::apply::Entry;
use crate::command::{ReplaceLadder, SecretBox};
use crate::format;
use crate::log::LogEntry;
use crate::node::{BlobDigest, Node};
use crate::outcome::{Outcome, Rejection};
use crate::roots::{Root, Roots, StragglerAnchor};
use crate::rotation::{HISTORY_MAX, Phase, Policy, Rotation, Way};
use crate::state::State;
use crate::tokens::{MANAGER_ROW, WORKER_ROW};

/// What an operator's update does to the roots.
#[derive(Clone, Debug)]
pub enum RootsChange {
    /// A rotation begins, or replaces the one under way.
    Start(Box<Start>),
    /// The rotation under way goes back.
    Abort(Box<Abort>),
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
    pub(crate) fn change_roots(&mut self, entry: &mut Entry<'_>, change: &RootsChange) -> Result<(), Rejection> {
        match change {
            RootsChange::Start(start) => self.start_rotation(entry, start),
            RootsChange::Abort(abort) => self.abort_rotation(entry, abort),
        }
    }

    fn start_rotation(&mut self, entry: &mut Entry<'_>, start: &Start) -> Result<(), Rejection> {
        let (old, passed, stragglers) = match &self.roots {
            Roots::None => return Err(Rejection::NoCluster),
            Roots::Stable { root, stragglers } => (Arc::clone(root), Vec::new(), stragglers.clone()),
            Roots::Rotating(running) => {
                if running.bundle().is_some() || matches!(start.way, Way::Bundle(_)) {
                    return Err(Rejection::RotationBusy);
                }
                let mut passed = running.passed.clone();
                passed.push(without_key(&running.new));
                (Arc::clone(&running.old), passed, running.stragglers.clone())
            }
        };
        if start.to.issuer == old.issuer {
            return Err(Rejection::Issuer);
        }
        self.log_authorities(entry, &start.logged);
        let emergency = matches!(start.policy, Policy::Emergency { .. });
        self.roots = Roots::Rotating(Arc::new(Rotation {
            id: entry.index,
            old,
            new: Arc::clone(&start.to),
            back: false,
            phase: if matches!(start.way, Way::Bundle(_)) { Phase::Widen } else { Phase::Renew },
            way: start.way.clone(),
            since: entry.now,
            started: entry.now,
            history: Vec::new(),
            policy: start.policy,
            aside: OrdSet::new(),
            passed,
            handed_over: emergency,
            stragglers,
        }));
        Ok(())
    }

    fn abort_rotation(&mut self, entry: &mut Entry<'_>, abort: &Abort) -> Result<(), Rejection> {
        let running = self.rotation().ok_or(Rejection::NoRotation)?;
        if running.back || running.is_emergency() {
            return Err(Rejection::RotationBusy);
        }
        let mut turned = running.as_ref().clone();
        turned.note_phase();
        turned.id = entry.index;
        turned.back = true;
        turned.since = entry.now;
        turned.policy = abort.policy;
        turned.aside = OrdSet::new();
        // Where a bundle is the way, everybody who is to hold it has it once leaves change.
        turned.phase = match (&turned.way, turned.phase) {
            (Way::Ladder(_), _) | (Way::Bundle(_), Phase::Renew) => Phase::Renew,
            (Way::Bundle(_), Phase::Widen) => Phase::Trust,
            (Way::Bundle(_), Phase::Trust) => Phase::Widen,
        };
        if matches!(turned.way, Way::Ladder(_)) {
            turned.way = Way::Ladder(abort.ladder.clone());
        }
        self.log_authorities(entry, &abort.logged);
        self.roots = Roots::Rotating(Arc::new(turned));
        Ok(())
    }

    pub(crate) fn advance_rotation(&mut self, entry: &mut Entry<'_>, advance: &Advance) -> Result<Outcome, Rejection> {
        let running = self.rotation().ok_or(Rejection::NoRotation)?;
        if running.id != advance.rotation || running.phase != advance.phase {
            return Err(Rejection::OutOfSequence);
        }
        let mut next = running.as_ref().clone();
        let late: Vec<_> = self.finished().filter(|node| running.blocks(node)).map(|node| node.id.clone()).collect();
        if !late.is_empty() {
            let over = running.phase_ends().is_some_and(|end| end <= entry.now);
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
                next.since = entry.now;
                // Without a ladder nobody who holds the old root alone verifies a manager any more.
                next.handed_over || (phase == Phase::Renew && to_new && next.bundle().is_some())
            }
            None => to_new,
        };
        let served_changes = handed_over != next.handed_over;
        next.handed_over = handed_over;
        let finished = next.phase == advance.phase;
        self.roots = if finished { self.settled(next, entry.now) } else { Roots::Rotating(Arc::new(next)) };
        if served_changes {
            let tokens = Arc::make_mut(&mut self.tokens);
            tokens.replace_secret(WORKER_ROW, Arc::clone(&advance.worker_secret.0), entry.now);
            tokens.replace_secret(MANAGER_ROW, Arc::clone(&advance.manager_secret.0), entry.now);
        }
        self.cluster_version = entry.index;
        self.cluster_updated = entry.now;
        Ok(Outcome::Done { version: entry.index })
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
        next.way = Way::Ladder(replace.ladder.clone());
        self.log_authorities(entry, &replace.logged);
        self.roots = Roots::Rotating(Arc::new(next));
        Ok(Outcome::Done { version: entry.index })
    }

    /// The roots after a rotation: one with its key, and of the others what late nodes need to come back.
    fn settled(&self, rotation: Rotation, now: Time) -> Roots {
        let root = Arc::clone(rotation.to());
        let mut anchors = Vec::new();
        if !rotation.is_emergency() {
            for left in rotation.roots().filter(|left| left.issuer != root.issuer) {
                let Some(ladder) = steps_to(rotation.ladder(), left) else { continue };
                anchors.extend(anchor(left, ladder));
            }
            let base = if rotation.back { Some(Vec::new()) } else { steps_to(rotation.ladder(), &rotation.old) };
            for earlier in base.iter().flat_map(|base| rotation.stragglers.iter().map(move |row| (base, row))) {
                let (base, row) = earlier;
                let ladder = base.iter().chain(&row.ladder).cloned().collect();
                anchors.push(StragglerAnchor { ladder, ..row.clone() });
            }
        }
        let mut roots = Roots::Stable { root, stragglers: anchors };
        self.refresh_anchors(&mut roots, now);
        roots
    }

    /// Looks again until when each straggler anchor is needed, and drops those that are not.
    pub(crate) fn refresh_anchors(&self, roots: &mut Roots, now: Time) -> bool {
        let (root, stragglers) = match roots {
            Roots::Stable { root, stragglers } => (Arc::clone(root), stragglers),
            Roots::None | Roots::Rotating(_) => return false,
        };
        if stragglers.is_empty() {
            return false;
        }
        let served = root.trust;
        let before = stragglers.len();
        for anchor in stragglers.iter_mut() {
            anchor.until = Time::default();
        }
        for node in self.nodes.values() {
            note_stragglers(stragglers, node, &served, &root.issuer);
        }
        stragglers.retain(|anchor| anchor.until > now);
        stragglers.len() != before
    }

    fn log_authorities(&mut self, entry: &mut Entry<'_>, certificates: &[Vec<u8>]) {
        for certificate in certificates {
            let bytes = format::log_record_ca(entry.now, certificate);
            let seq = self.log.append(&bytes);
            entry.issued.push(LogEntry { seq, bytes });
        }
    }
}

/// Lengthens the anchors that `node` may come back with. Which root it trusts is known if it said so; if not, it may be
/// any of them.
fn note_stragglers(
    anchors: &mut [StragglerAnchor],
    node: &Node,
    served: &BlobDigest,
    signing: &crate::node::IssuerHash,
) {
    let trust = node.report.as_ref().map(|report| report.trust);
    let current = node.current.as_ref().is_some_and(|leaf| leaf.issuer == *signing);
    let others = node.leaves().filter(|leaf| leaf.issuer != *signing).map(|leaf| leaf.not_after).max();
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

fn anchor(root: &Root, ladder: Vec<Certificate>) -> Option<StragglerAnchor> {
    let certificate = root.certificates.first()?.clone();
    Some(StragglerAnchor { certificate, issuer: root.issuer, trust: root.trust, ladder, until: Time::default() })
}

fn without_key(root: &Arc<Root>) -> Arc<Root> {
    Arc::new(Root { key: None, ..root.as_ref().clone() })
}
