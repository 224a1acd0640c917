//! What must never be, watched from outside the manager: the invariants of the state, and that nothing signed leaves before
//! it is in the log, nor is missing from it after a restart.

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster::format::LogRecord;
use cluster::log::LogHead;
use cluster::{LogEntry, State, invariant};
use pki::certificate::Certificate;
use replica::Handle;
use replica::model::ModelLog;
use replica::model::group::ModelMember;

/// How many entries of the log go by between two looks at all nodes: one for so many nodes, so that a look costs each entry
/// the same in a cluster of any size. A small cluster is looked at after every entry.
const NODES_A_LOOK: usize = 32;

/// A model of the replica, as it is looked at from outside.
pub trait Log: Handle {
    /// Its issuance log, from a sequence number on.
    fn issued(&self, from: u64) -> Vec<LogEntry>;
}

impl Log for ModelLog {
    fn issued(&self, from: u64) -> Vec<LogEntry> {
        self.log_entries(from, usize::MAX)
    }
}

impl Log for ModelMember {
    fn issued(&self, from: u64) -> Vec<LogEntry> {
        self.log_entries(from, usize::MAX)
    }
}

/// What was seen.
pub struct Ledger {
    /// What must never be, and was.
    pub broken: Option<String>,
    looked: Arc<State>,
    since: usize,
    logged: BTreeSet<Vec<u8>>,
    projected: u64,
    answered: BTreeSet<Vec<u8>>,
    /// Who signed before the last entry.
    signer: Option<Certificate>,
    /// The last entry.
    index: u64,
}

impl Ledger {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            broken: None,
            looked: Arc::new(State::empty()),
            since: 0,
            logged: BTreeSet::new(),
            projected: 0,
            answered: BTreeSet::new(),
            signer: None,
            index: 0,
        }
    }

    /// The manager has started from what is in its log.
    pub fn started(&mut self, log: &impl Log) {
        let state = log.state();
        self.look(&state);
        self.logged.clear();
        self.projected = 0;
        self.project(log, &[]);
        (self.signer, self.index) = (signer(&state), state.index);
        let mut head = LogHead::default();
        for entry in log.issued(0) {
            head.append(&entry.bytes);
        }
        self.demand(head == state.log, || "the issuance log fits its frontier after a restart".to_owned());
        let kept = self.answered.is_subset(&self.logged);
        self.demand(kept, || "what was answered is in the log after a restart".to_owned());
    }

    /// One of several managers has started: it may know less than it did, and learns it again.
    pub fn joined(&mut self, log: &impl Log) {
        self.looked = log.state();
        self.logged.clear();
        self.projected = 0;
        self.project(log, &[]);
        (self.signer, self.index) = (signer(&self.looked), self.looked.index);
    }

    /// Whether this manager's issuance log has a certificate.
    pub fn has(&self, certificate: &[u8]) -> bool {
        self.logged.contains(certificate)
    }

    /// An entry was applied.
    pub fn applied(&mut self, log: &impl Log) {
        let state = log.state();
        let after = signer(&state);
        let mut signers: Vec<_> = [self.signer.take(), after.clone()].into_iter().flatten().collect();
        // One that comes to lead applies many at once, and a rotation may lie among them: the witness looks at each.
        if state.index != self.index + 1 {
            signers.clear();
            self.looked = Arc::clone(&state);
        }
        self.project(log, &signers);
        (self.signer, self.index) = (after, state.index);
        self.since += 1;
        if self.since > state.nodes.len() / NODES_A_LOOK {
            self.look(&state);
        }
    }

    /// A certificate leaves the manager.
    pub fn answers(&mut self, certificate: &[u8]) {
        let committed = self.logged.contains(certificate);
        self.demand(committed, || "nothing signed leaves before it is in the log".to_owned());
        self.answered.insert(certificate.to_vec());
    }

    /// Looks at all nodes now.
    pub fn look(&mut self, state: &Arc<State>) {
        self.since = 0;
        let held = invariant::check(state).and_then(|()| invariant::check_step(&self.looked, state));
        if let Err(broken) = held {
            self.demand(false, || broken.to_string());
        }
        self.looked = Arc::clone(state);
    }

    /// Notes what must hold.
    pub fn demand(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// Reads what is new in the log; every leaf there is signed by one of these, if any are named.
    fn project(&mut self, log: &impl Log, signers: &[Certificate]) {
        for entry in log.issued(self.projected) {
            self.projected = entry.seq + 1;
            match LogRecord::decode(&entry.bytes) {
                Ok(record) => {
                    let leaf = Certificate::from_der(record.certificate.clone()).ok().filter(|leaf| !leaf.is_ca());
                    let right = leaf.is_none_or(|leaf| {
                        signers.is_empty() || signers.iter().any(|by| pki::chain::signed_by(&leaf, by).is_ok())
                    });
                    self.demand(right, || "every leaf is signed by the root whose turn it is".to_owned());
                    self.logged.insert(record.certificate);
                }
                Err(error) => self.demand(false, || format!("an entry of the issuance log can be read: {error}")),
            }
        }
    }
}

/// Who signs.
pub(crate) fn signer(state: &State) -> Option<Certificate> {
    state.roots.signing().map(|root| root.signer.clone())
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}
