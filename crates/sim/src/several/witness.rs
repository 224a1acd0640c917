//! Who sees everything: replays what was decided, hears every heartbeat that arrives, and says what must never be.
//!
//! - the invariants of the state hold after every entry, and between any two;
//! - every leaf is signed by the root whose turn it is;
//! - no serial is used twice, and no request is signed again whose certificate waits to be fetched;
//! - a manager that hears the leader calls nobody down who was heard less than the grace ago by one that hears it too;
//! - nobody in session with such a manager is called down for long, or counted with another manager for long;
//! - no leaf is called forged that is registered;
//! - a manager that hears nobody for long opens no session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cluster::format::LogRecord;
use cluster::{Batch, State, invariant};
use pki::certificate::Certificate;
use pki::identity::NodeId;
use pki::key::SpkiHash;
use pki::time::Time;
use replica::model::group::ModelGroup;

use crate::ledger::signer;

/// How long a mistake about a node may last that comes right by itself: a report, a share, and the way of both.
const MISTAKEN_MAX: Duration = Duration::from_secs(15);
/// How long nobody may miss a node: two looks for such nodes, and twice the longest grace.
const MISSED_MAX: Duration = Duration::from_secs(2 * 30 + 2 * 30);
/// How long a manager that hears nobody may need to notice: the rule's 3 s, and as long as one look takes.
pub const CUT_OFF_MAX: Duration = Duration::from_secs(5);

/// How long the leader may need to hear of a session: two shares that are lost.
const TOLD_WITHIN: Duration = Duration::from_secs(6);
/// Silence after which a session is another: more than a period.
const SILENCE: Duration = Duration::from_secs(6);

/// When a node was heard by one manager, without a pause.
#[derive(Clone, Copy)]
struct Heard {
    manager: u64,
    first: Time,
    last: Time,
}

/// Who sees everything.
pub struct Witness {
    /// The state after everything that was decided.
    pub state: Arc<State>,
    /// What must never be, and was.
    pub broken: Option<String>,
    /// Leaves that were issued.
    pub issued: u64,
    /// Nodes that came to be called down.
    pub downs: u64,
    rotating: bool,
    serials: BTreeSet<Vec<u8>>,
    heard: BTreeMap<NodeId, Heard>,
    mistaken: BTreeMap<(NodeId, &'static str), Time>,
}

impl Default for Witness {
    fn default() -> Self {
        Self {
            state: Arc::new(State::empty()),
            broken: None,
            issued: 0,
            downs: 0,
            rotating: false,
            serials: BTreeSet::new(),
            heard: BTreeMap::new(),
            mistaken: BTreeMap::new(),
        }
    }
}

impl Witness {
    /// Notes what must hold.
    pub fn demand(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// Replays what was decided since. Whether there was anything.
    pub fn replay(&mut self, group: &ModelGroup) -> bool {
        let entries = group.decided(self.state.index as usize);
        let any = !entries.is_empty();
        for bytes in entries {
            let before = Arc::clone(&self.state);
            let mut after = State::clone(&before);
            match Batch::decode(&bytes) {
                Ok(batch) => {
                    let mut keys = BTreeSet::new();
                    let issued = after.apply(before.index + 1, &batch).issued;
                    let signers: Vec<_> = [signer(&before), signer(&after)].into_iter().flatten().collect();
                    for entry in issued {
                        self.look_at(&entry.bytes, &signers, &mut keys);
                    }
                }
                Err(error) => self.demand(false, || format!("an entry can be read: {error}")),
            }
            let held = invariant::check(&after).and_then(|()| invariant::check_step(&before, &after));
            if let Err(broken) = held {
                self.demand(false, || broken.to_string());
            }
            let was_up = |id: &NodeId| before.node(id).is_some_and(|node| !node.down);
            self.downs += after.nodes.iter().filter(|(id, node)| node.down && was_up(id)).count() as u64;
            self.state = Arc::new(after);
        }
        any
    }

    /// Whether a rotation of the root was over with what was replayed last.
    pub fn rotation_ended(&mut self) -> bool {
        let running = self.state.rotation().is_some();
        std::mem::replace(&mut self.rotating, running) && !running
    }

    fn look_at(&mut self, bytes: &[u8], signers: &[Certificate], batch: &mut BTreeSet<(SpkiHash, &'static str)>) {
        let record = match LogRecord::decode(bytes) {
            Ok(record) => record,
            Err(error) => return self.demand(false, || format!("an entry of the issuance log can be read: {error}")),
        };
        let Some(leaf) = Certificate::from_der(record.certificate).ok().filter(|leaf| !leaf.is_ca()) else { return };
        self.issued += 1;
        let right = signers.iter().any(|by| pki::chain::signed_by(&leaf, by).is_ok());
        self.demand(right, || format!("every leaf is signed by the root whose turn it is: {}", leaf.serial()));
        let fresh = self.serials.insert([leaf.issuer_der(), leaf.serial().to_string().as_bytes()].concat());
        self.demand(fresh, || format!("no serial is used twice: {}", leaf.serial()));
        let Ok(subject) = leaf.node_subject() else { return };
        let spki = leaf.spki_hash();
        let waits = self.state.node(&subject.node).is_some_and(|node| {
            let mut letters = node.mailbox.iter().map(|letter| &letter.leaf);
            letters.any(|known| {
                known.spki == spki && known.role == subject.role && self.state.roots.is_present(&known.issuer)
            })
        });
        let fresh = !waits && batch.insert((spki, subject.role.word()));
        self.demand(fresh, || format!("nothing is signed again that waits to be fetched: {}", leaf.serial()));
    }

    /// A manager that hears the leader has heard a node.
    pub fn hears(&mut self, node: &NodeId, manager: u64, now: Time) {
        let before = self.heard.get(node).filter(|before| before.manager == manager);
        let first = before.filter(|before| now.since(before.last) < SILENCE).map_or(now, |before| before.first);
        self.heard.insert(node.clone(), Heard { manager, first, last: now });
    }

    /// A manager that hears the leader calls a node down.
    pub fn called_down(&mut self, node: &NodeId, by: usize, log: &ModelGroup, now: Time) {
        // A period is told a tenth shorter at most.
        let grace = self.state.settings.heartbeat_period() * 27 / 10;
        let Some(Heard { manager, first, last }) = self.heard.get(node).copied() else { return };
        // Who is cut off with the news told nobody.
        let known = if log.reaches(manager) { now } else { last };
        let early = now.since(last) + Duration::from_millis(50) < grace && known.since(first) > TOLD_WITHIN;
        let alive = self.state.node(node).is_some();
        self.demand(!(early && alive), || {
            let since = now.since(last);
            format!("nobody is called down within the grace: {node} by machine {by}, heard {since:?} ago by member {manager}")
        });
    }

    /// Something is so, that may be for a moment.
    pub fn mistake(&mut self, node: &NodeId, what: &'static str, holds: bool, now: Time) {
        let key = (node.clone(), what);
        if !holds {
            self.mistaken.remove(&key);
            return;
        }
        let since = *self.mistaken.entry(key).or_insert(now);
        let most = if what.contains("nowhere") { MISSED_MAX } else { MISTAKEN_MAX };
        self.demand(now.since(since) < most, || format!("{what} for long: {node}"));
    }

    /// Nobody knows whether mistakes last while nobody leads.
    pub fn forgive(&mut self) {
        self.mistaken.clear();
    }
}
