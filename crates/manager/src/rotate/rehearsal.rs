//! A rotation on today's state that changes nothing: the same state machine on a copy, the same pacer, and nodes that are
//! modelled. Time is counted, not waited for.

use std::sync::Arc;
use std::time::Duration;

use cluster::command::{Batch, Command, Premises, Renew, Reported, SecretBox};
use cluster::node::{IssuerHash, Leaf, Letter, Node, Report};
use cluster::rotation::{Advance, Need, Phase, RootsChange};
use cluster::{Outcome, State};
use pki::identity::NodeId;
use pki::join_token::JoinSecret;
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;

use super::dates::Dates;
use super::pacer::{Pacer, Turn};
use super::status::{self, Blocking, RootView, Seen};
use super::trial;
use crate::view::ControlError;

/// How long an engine takes to renew when told: its own pause, and the way there and back.
pub const ENGINE_RENEWAL: Duration = Duration::from_millis(600);
/// The same for a node of ours.
pub const OUR_RENEWAL: Duration = Duration::from_millis(60);
/// How long a node takes to come back with another root.
pub const NEW_ROOT: Duration = Duration::from_millis(60);
/// A rehearsal that has not ended by then does not.
const END: Duration = Duration::from_secs(24 * 60 * 60);

/// How a rotation would go.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The root that it would leave.
    pub from: RootView,
    /// Whether it would go by a bundle of both roots.
    pub by_bundle: bool,
    /// Nodes that would convert, each with the time from the beginning until its certificate is new.
    pub converts: Vec<(NodeId, Duration)>,
    /// Nodes that would be waited for, with the reason.
    pub blocks: Vec<Blocking>,
    /// Nodes that would be put aside at the deadline.
    pub aside: Vec<NodeId>,
    /// How long it would take; none: it would wait for the nodes that block.
    pub takes: Option<Duration>,
}

/// Plays `change` on a copy of the state.
///
/// # Errors
/// If the state machine refuses it.
pub fn rehearse(
    state: &State,
    seen: &Seen<'_>,
    change: RootsChange,
    cores: usize,
    now: Time,
) -> Result<Rehearsal, ControlError> {
    let mut play = Play::new(&trial::begin(state, &change, now)?, seen, cores, now);
    let rotation = play.state.rotation().ok_or_else(|| ControlError {
        code: tonic::Code::Internal,
        message: "the rehearsal did not begin".to_owned(),
    })?;
    let (from, by_bundle) = (status::view(rotation.from()), rotation.bundle().is_some());
    play.run();
    let blocks = match play.state.rotation() {
        Some(_) => {
            let left = Seen { pacer: &play.pacer, ..*seen };
            status::status(&play.state, &left, now)
                .and_then(|status| status.rotation)
                .map(|view| view.blocking)
                .unwrap_or_default()
        }
        None => Vec::new(),
    };
    let takes = play.state.rotation().is_none().then(|| play.now.since(now));
    Ok(Rehearsal { from, by_bundle, converts: play.converts, blocks, aside: play.aside, takes })
}

struct Play<'a> {
    state: State,
    seen: &'a Seen<'a>,
    pacer: Pacer,
    dates: Dates,
    begun: Time,
    now: Time,
    /// What nodes will have done, and when.
    coming: std::collections::BTreeSet<(Time, NodeId, Need)>,
    converts: Vec<(NodeId, Duration)>,
    aside: Vec<NodeId>,
    drawn: u64,
}

impl<'a> Play<'a> {
    fn new(state: &State, seen: &'a Seen<'a>, cores: usize, now: Time) -> Self {
        Self {
            state: state.clone(),
            seen,
            pacer: Pacer::new(cores),
            dates: Dates::new(state),
            begun: now,
            now,
            coming: std::collections::BTreeSet::new(),
            converts: Vec::new(),
            aside: Vec::new(),
            drawn: 0,
        }
    }

    fn apply(&mut self, command: Command) -> Outcome {
        let batch = Batch { time: self.now, commands: vec![command] };
        let applied = self.state.apply(self.state.index.saturating_add(1), &batch);
        applied.outcomes.into_iter().next().unwrap_or(Outcome::Unchanged)
    }

    /// Runs to the end, or until nothing comes any more. Who is in session now stays so.
    fn run(&mut self) {
        let mut news = Vec::new();
        loop {
            let turns = self.pacer.step(self.now, &self.state, self.seen.sessions, &news);
            news.clear();
            self.play(turns);
            if let Some((rotation, phase)) = self.pacer.due(&self.state, self.now) {
                self.advance(rotation, phase);
                if self.state.rotation().is_none() {
                    return;
                }
                continue;
            }
            let next = self.coming.first().map(|(at, _, _)| *at).into_iter().chain(self.pacer.next_turn()).min();
            let end = self.state.rotation().and_then(|rotation| self.pacer.ends(rotation));
            let Some(next) = next.into_iter().chain(end.filter(|end| *end > self.now)).min() else { return };
            if next.since(self.begun) > END {
                return;
            }
            self.now = next.max(self.now);
            while let Some((at, _, _)) = self.coming.first()
                && *at <= self.now
            {
                let Some((_, node, need)) = self.coming.pop_first() else { break };
                self.done(&node, need);
                news.push(node);
            }
        }
    }

    /// What those who are told will do. Whose clock is off cannot, nor who was left behind, and whose stream is gone does not hear it.
    fn play(&mut self, turns: Vec<Turn>) {
        for Turn { node, need } in turns {
            let Some(record) = self.state.node(&node) else { continue };
            let clock = self.seen.sessions.row(&node).and_then(|row| row.clock);
            let off = clock.is_some_and(|clock| !self.dates.allow(&self.state, record, need, clock, self.now));
            // What stands of a session with one that was left behind is not noticed to be dead yet.
            if off || self.state.is_left_behind(record) || (self.seen.stream_lost)(&node).is_some() {
                continue;
            }
            let takes = match need {
                Need::Renewal if record.ours => OUR_RENEWAL,
                Need::Renewal => ENGINE_RENEWAL,
                Need::Trust => NEW_ROOT,
            };
            self.coming.insert((self.now.saturating_add(takes), node, need));
        }
    }

    fn advance(&mut self, rotation: u64, phase: Phase) {
        let secret = || SecretBox(Arc::new(JoinSecret::from_bytes([0; 16])));
        let advance = Advance { rotation, phase, worker_secret: secret(), manager_secret: secret() };
        let before = self.state.rotation().cloned();
        let late: Vec<_> = before
            .iter()
            .flat_map(|rotation| self.state.finished().filter(|node| rotation.blocks(node)))
            .map(|node| node.id.clone())
            .collect();
        if matches!(self.apply(Command::AdvanceRotation(Box::new(advance))), Outcome::Done { .. }) {
            self.aside.extend(late);
        }
    }

    fn done(&mut self, id: &NodeId, need: Need) {
        let Some(node) = self.state.node(id).cloned() else { return };
        match need {
            Need::Renewal => {
                let Some(issuer) = self.state.roots.signing().map(|root| root.issuer) else { return };
                let letter = self.letter(issuer, &node);
                let serial = letter.leaf.serial;
                let premises = Premises { issuer, epoch: self.state.epoch, signed: self.now };
                let renew = Renew { node: id.clone(), cut: node.cut, letter: Arc::new(letter), premises };
                self.apply(Command::Renew(Box::new(renew)));
                self.apply(Command::Confirm { node: id.clone(), serial });
                self.converts.push((id.clone(), self.now.since(self.begun)));
            }
            Need::Trust => {
                let Some(report) = node.report.as_deref() else { return };
                let Some(bytes) = self.state.roots.trust_for(&node, true).map(Arc::<[u8]>::from) else { return };
                let digest = cluster::node::BlobDigest::of(&bytes);
                let report = Report { trust: digest, ..report.clone() };
                let reported = Reported { node: id.clone(), report, blobs: vec![(digest, bytes)] };
                self.apply(Command::Report(Box::new(reported)));
            }
        }
    }

    fn letter(&mut self, issuer: IssuerHash, node: &Node) -> Letter {
        self.drawn += 1;
        let signed = self.now.round_to_minute();
        let mut bytes = [0; 20];
        bytes[0] = 0x7f;
        bytes[12..].copy_from_slice(&self.drawn.to_be_bytes());
        let leaf = Leaf {
            serial: Serial::from_random(bytes),
            spki: SpkiHash(pki::digest::sha256(&bytes)),
            issuer,
            role: node.signed_role(),
            not_before: signed.saturating_sub(pki::issue::LEAF_BACKDATE),
            not_after: signed.saturating_add(self.state.settings.leaf_life()),
        };
        let ladder = self.state.roots.ladder_for(Some(node), node.signed_role(), self.now);
        let ladder = ladder.iter().map(|step| step.der().to_vec()).collect();
        Letter { csr: bytes.to_vec(), leaf, certificate: Vec::new(), ladder, issued: self.now }
    }
}

impl Rehearsal {
    /// Whether it would end by itself.
    pub fn ends(&self) -> bool {
        self.takes.is_some()
    }
}

#[cfg(test)]
mod tests;
