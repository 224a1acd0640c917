//! Whether the state directory of a stopped daemon is whole: key pair, trust bundle, store, every invariant of the state, its
//! roots and cross-certificates, and the whole issuance log against the Merkle frontier in the state.
//!
//! - Nothing is changed: the daemon's lock is held, and what is looked at is a copy (`.check`, removed at the end).
//!   Opening a store writes to it, and a damaged one should stay as it was found.
//! - Of a locked manager nothing can be read without the unlock key, which opens the copy alone.
//! - A finding says what is wrong and what to do; the check goes on as far as it can.

mod locked;
mod log;
mod roots;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::account::Event;
use cluster::format::LogRecord;
use cluster::log::LogHead;
use cluster::node::Leaf;
use cluster::{LogEntry, State};
use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::digest::hex;
use pki::identity::NodeId;
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;
use replica::{Handle, Replica};
use serde::{Deserialize, Serialize};
use swarmpki::keystore::{CERTIFICATES_DIR, Keystore, Pair};

pub use self::log::verify_log;
use crate::data_key;
pub use crate::lock::LockError;
use crate::lock::StateLock;
use crate::settings::{Resume, Settings};
use crate::unlock_source::{UnlockSource, UnlockSourceError};

/// The copy that is looked at, in the state directory; only there while a check runs.
pub(crate) const SCRATCH: &str = ".check";
/// The store, in the state directory.
const STORE: &str = "raft";
/// Entries of the issuance log read at a time.
const PAGE: usize = 1000;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The state directory.
    pub state_dir: String,
    /// `none`, `unfinished` (a change that the next start undoes), `worker` or `manager`.
    pub member: String,
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The node's id.
    pub node_id: Option<String>,
    /// End of the node's certificate.
    pub not_after: Option<String>,
    /// What the store holds, on a manager whose store could be opened.
    pub store: Option<StoreReport>,
    /// What is wrong; empty: nothing.
    pub problems: Vec<Problem>,
}

/// What a manager's store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreReport {
    /// Index of the last entry applied.
    pub index: u64,
    /// The cluster's time.
    pub time: String,
    /// Nodes.
    pub nodes: u64,
    /// Joins that are not finished.
    pub unfinished: u64,
    /// Removals on record.
    pub removed: u64,
    /// Leaves registered, in any standing.
    pub leaves: u64,
    /// Entries of the issuance log, as the state counts them.
    pub log_size: u64,
    /// Root of the Merkle tree over them, as the state has it, hex.
    pub log_root: String,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub hint: String,
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A daemon runs there.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no such directory, or it cannot be read.
    #[error("cannot use state directory {}: {source}", dir.display())]
    StateDir {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The copy could not be made.
    #[error("cannot copy {} into {} to look at it: {source}", from.display(), to.display())]
    Copy {
        /// The file or directory.
        from: PathBuf,
        /// Where to.
        to: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The key file is sealed, and no unlock key was given.
    #[error("this manager is locked: neither its key nor its store can be read without the unlock key")]
    Locked,
    /// The unlock key could not be read.
    #[error(transparent)]
    Source(#[from] UnlockSourceError),
    /// What was read is no unlock key.
    #[error("what {0} holds is no unlock key: one begins with SWMKEY-1-")]
    NoKey(UnlockSource),
    /// It is another key.
    #[error("the unlock key from {0} does not open this manager's key file")]
    OtherKey(UnlockSource),
}

const RESTORE: &str = "keep a copy of the state directory; if other managers go on: here swarmpki leave --force, there swarmpki node demote and swarmpki node rm, then \
     join anew; if it was the only one, restore a backup (docs/operations/backup.md)";
const STORE_LOST: &str = "keep a copy of the state directory, then restore from backup (docs/operations/backup-and-restart.md), \
                          or give the swarm up: swarmpki leave --force";
const DEFECT: &str = "keep a copy of the state directory and report it: this is a defect of swarmpki, or of the disk";
const TAMPERED: &str = "keep a copy of the state directory; if no restored backup or failing disk explains it, take the \
                        CA key for stolen and rotate the root";

/// Checks a state directory; that of a locked manager with the unlock key from `unlock_from`.
///
/// # Errors
/// If nothing could be checked; what is wrong with the state itself is in the report.
pub async fn check(dir: &Path, unlock_from: Option<&UnlockSource>, now: Time) -> Result<Report, CheckError> {
    let unusable = |source| CheckError::StateDir { dir: dir.to_path_buf(), source };
    if !fs::metadata(dir).map_err(unusable)?.is_dir() {
        return Err(unusable(io::ErrorKind::NotADirectory.into()));
    }
    let _lock = StateLock::take(dir)?;
    let mut findings = Findings { dir: dir.to_path_buf(), report: Report::default() };
    findings.report.state_dir = dir.display().to_string();
    let resume = Settings::resume(dir);
    let founded = matches!(&resume, Ok(Resume::Member(settings)) if settings.founded());
    let member = match resume {
        Ok(Resume::Nothing) => "none",
        Ok(Resume::Wipe) => "unfinished",
        Ok(Resume::Member(_)) if dir.join(STORE).exists() => "manager",
        Ok(Resume::Member(_)) => "worker",
        Err(error) => {
            findings.add(error, RESTORE);
            if dir.join(STORE).exists() { "manager" } else { "worker" }
        }
    };
    member.clone_into(&mut findings.report.member);
    if matches!(member, "manager" | "worker") {
        let copy = Copy::of(dir)?;
        let keystore = Keystore::new(copy.dir.clone());
        locked::open(&keystore, unlock_from).await?;
        let own = findings.identity(&keystore, now);
        if member == "worker" && (founded || is_manager_pair(own.as_ref())) {
            "manager".clone_into(&mut findings.report.member);
            findings.add("this node is a manager, and its store raft/ is not there", STORE_LOST);
        }
        if member == "manager" {
            findings.store(&keystore, own.as_ref(), now).await;
        }
    }
    Ok(findings.report)
}

/// Whether the certificate says that its node is a manager.
fn is_manager_pair(pair: Option<&Pair>) -> bool {
    let subject = pair.and_then(|pair| pair.chain.first()).and_then(|leaf| leaf.node_subject().ok());
    subject.is_some_and(|subject| subject.role == pki::identity::Role::Manager)
}

/// A copy of what is looked at, gone with the value.
struct Copy {
    dir: PathBuf,
}

impl Copy {
    fn of(state_dir: &Path) -> Result<Self, CheckError> {
        let dir = state_dir.join(SCRATCH);
        // What a check that was cut off left behind.
        let removed = match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let copy = Self { dir };
        removed
            .and_then(|()| fs::DirBuilder::new().mode(0o700).create(&copy.dir))
            .map_err(|source| CheckError::StateDir { dir: state_dir.to_path_buf(), source })?;
        for name in [CERTIFICATES_DIR, STORE] {
            let (from, to) = (state_dir.join(name), copy.dir.join(name));
            copy_files(&from, &to).map_err(|source| CheckError::Copy { from, to, source })?;
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // The next check and `leave` remove it too.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Copies the files of a directory, with their modes; no error if it is not there.
fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The report in the making.
struct Findings {
    dir: PathBuf,
    report: Report,
}

/// What the issuance log says of a serial.
type Logged = HashMap<Serial, Vec<(Option<NodeId>, SpkiHash)>>;

impl Findings {
    fn add(&mut self, text: impl ToString, hint: impl Into<String>) {
        // Errors name the copy; people know the original.
        let scratch = self.dir.join(SCRATCH).display().to_string();
        let original = self.dir.display().to_string();
        let told = |text: String| text.replace(&scratch, &original);
        self.report.problems.push(Problem { text: told(text.to_string()), hint: told(hint.into()) });
    }

    /// Key, certificate and trust bundle, each and together.
    fn identity(&mut self, keystore: &Keystore, now: Time) -> Option<Pair> {
        let pair = match keystore.load_pair() {
            Ok(Some(pair)) => Some(pair),
            Ok(None) => {
                self.add("the node has no certificate and key in certificates/", RESTORE);
                None
            }
            Err(error) => {
                self.add(&error, error.hint());
                None
            }
        };
        let trust = match keystore.load_trust() {
            Ok(Some(pem)) => match TrustBundle::parse(&pem, now) {
                Ok(trust) => Some(trust),
                Err(error) => {
                    self.add(format!("the trust bundle certificates/swarm-root-ca.crt: {error}"), RESTORE);
                    None
                }
            },
            Ok(None) => {
                self.add("the trust bundle certificates/swarm-root-ca.crt is not there", RESTORE);
                None
            }
            Err(error) => {
                self.add(&error, error.hint());
                None
            }
        };
        let leaf = pair.as_ref()?.chain.first()?;
        match leaf.node_subject() {
            Ok(subject) => {
                self.report.cluster_id = Some(subject.cluster.to_string());
                self.report.node_id = Some(subject.node.to_string());
            }
            Err(error) => self.add(format!("the node's certificate names no node: {error}"), RESTORE),
        }
        self.report.not_after = Some(leaf.not_after().rfc3339());
        if leaf.not_after() < now {
            self.add(
                format!("the node's certificate ended at {}", leaf.not_after().rfc3339()),
                "look at this machine's clock; if it is right, start the daemon soon: a certificate that ended not long ago is renewed",
            );
        }
        let chain = pair.as_ref().map(|pair| pair.chain_pem.as_slice()).unwrap_or_default();
        if let Some(trust) = trust
            && let Err(error) = pki::chain::validate(chain, &trust, true, now)
        {
            self.add(
                format!("the node's certificate does not lead to its trust bundle: {error}"),
                "put back the files of certificates/ that belong together, or leave and join again",
            );
        }
        pair
    }

    /// The store, its state and its log.
    async fn store(&mut self, keystore: &Keystore, own: Option<&Pair>, now: Time) {
        // What is wrong with the key file is told with the identity.
        let Ok(keys) = data_key::load(keystore) else { return };
        let clock: replica::Clock = Arc::new(move || now);
        let dir = keystore.state_dir().join(STORE);
        let config = |dek| {
            let (carrier, limits) = (Arc::new(replica::carrier::Alone), replica::Limits::default());
            replica::Config { dir: dir.clone(), dek, clock: clock.clone(), carrier, limits }
        };
        let replica = match data_key::open(keys, config).await {
            Ok(Some((replica, _))) => replica,
            Ok(None) => {
                let text = "the node's key file holds no data key: nothing in the store can be read";
                return self.add(text, "put back the key file that belongs to this state directory");
            }
            Err(error) => return self.add(format!("the store cannot be opened: {error}"), RESTORE),
        };
        // Opening it applied what is known to be committed; the other managers are not asked.
        let state = replica.state();
        let audit = self.log(&replica, &state).await;
        self.state(&state, own, keystore, audit.as_ref());
        replica.shutdown().await;
    }

    /// The whole issuance log, against the frontier; `None` if it could not be read to its end.
    async fn log(&mut self, replica: &Replica, state: &State) -> Option<Audit> {
        let mut audit = Audit::default();
        loop {
            let page = match replica.log_entries(audit.head.size(), PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    self.add(format!("the issuance log cannot be read: {error}"), RESTORE);
                    return None;
                }
            };
            if page.is_empty() {
                break;
            }
            for entry in page {
                if let Err(gap) = audit.take(&entry) {
                    self.add(gap, TAMPERED);
                    return None;
                }
            }
        }
        for problem in audit.problems(&state.log) {
            self.add(problem, TAMPERED);
        }
        Some(audit)
    }

    /// The state itself, and against what lies beside it.
    fn state(&mut self, state: &State, own: Option<&Pair>, keystore: &Keystore, audit: Option<&Audit>) {
        if let Err(broken) = cluster::invariant::check(state) {
            self.add(format!("the state breaks an invariant: {broken}"), DEFECT);
        }
        let leaves = || state.nodes.values().flat_map(|node| node.leaves().map(move |leaf| (&node.id, leaf)));
        for problem in roots::problems(state, audit.map(|audit| audit.authorities.as_slice()).unwrap_or_default()) {
            self.add(problem, TAMPERED);
        }
        if let Some(Audit { logged, .. }) = audit {
            let unlogged = |(node, leaf): &(&NodeId, &Leaf)| {
                let there = logged.get(&leaf.serial);
                !there.is_some_and(|list| list.iter().any(|(n, key)| n.as_ref() == Some(*node) && *key == leaf.spki))
            };
            for (node, leaf) in leaves().filter(unlogged) {
                let text = format!("leaf {} of node {node} is registered and not in the issuance log", leaf.serial);
                self.add(text, TAMPERED);
            }
        }
        self.identity_in_state(state, own, keystore);
        let nodes = state.finished().count();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        self.report.store = Some(StoreReport {
            index: state.index,
            time: state.time().rfc3339(),
            nodes: count(nodes),
            unfinished: count(state.nodes.len().saturating_sub(nodes)),
            removed: count(state.removals.len()),
            leaves: count(leaves().count()),
            log_size: state.log_size(),
            log_root: hex(&state.log.root()),
        });
    }

    /// The identity in the certificate files is one that the state knows.
    fn identity_in_state(&mut self, state: &State, own: Option<&Pair>, keystore: &Keystore) {
        let cluster = state.cluster_id().map(ToString::to_string);
        if self.report.cluster_id.is_some() && self.report.cluster_id != cluster {
            self.add(
                "certificates/ and raft/ are of different clusters",
                "put back the directory that belongs to the other",
            );
            return;
        }
        self.report.cluster_id = cluster;
        let leaf = own.and_then(|pair| pair.chain.first());
        if let Some(leaf) = leaf
            && let Ok(subject) = leaf.node_subject()
        {
            let node = state.node(&subject.node);
            let known = node.and_then(|node| node.registered(&leaf.serial(), &leaf.spki_hash(), state.time()));
            if known.is_none() {
                self.add(
                    format!("the node's own certificate ({}) is not registered in the store", leaf.serial()),
                    "certificates/ or raft/ was put back from an older copy: put back both from the same backup",
                );
            }
        }
        if let Ok(Some(trust)) = keystore.load_trust()
            && !roots::may_be_held(state, &trust)
        {
            self.add(
                "the trust bundle certificates/swarm-root-ca.crt is not the one that the cluster serves",
                "put back the files of certificates/ that belong to raft/; join tokens name the one that is served",
            );
        }
    }
}

/// The issuance log, read from its begin.
#[derive(Default)]
struct Audit {
    head: LogHead,
    logged: Logged,
    /// The CA certificates in it.
    authorities: Vec<Certificate>,
    unreadable: Vec<String>,
}

impl Audit {
    /// Takes the next entry; the error says that one is missing.
    fn take(&mut self, entry: &LogEntry) -> Result<(), String> {
        if entry.seq != self.head.size() {
            return Err(format!("entry {} of the issuance log is missing", self.head.size()));
        }
        self.head.append(&entry.bytes);
        match read_entry(&entry.bytes) {
            Ok(None) => {}
            Ok(Some((certificate, node))) => {
                let who = (node, certificate.spki_hash());
                let serial = certificate.serial();
                if who.0.is_none() {
                    self.authorities.push(certificate);
                }
                self.logged.entry(serial).or_default().push(who);
            }
            Err(error) => {
                self.unreadable.push(format!("entry {} of the issuance log cannot be read: {error}", entry.seq));
            }
        }
        Ok(())
    }

    /// What is wrong with it, beside the head that the state keeps.
    fn problems(&mut self, head: &LogHead) -> Vec<String> {
        let mut problems = std::mem::take(&mut self.unreadable);
        if self.head.size() != head.size() {
            problems.push(format!(
                "the issuance log has {} entries, the state counts {}",
                self.head.size(),
                head.size()
            ));
        } else if self.head != *head {
            problems.push("the issuance log is not the one that the state's Merkle frontier was made over".to_owned());
        }
        problems
    }
}

/// The certificate in an entry, and the node that it names; none: the entry is of something else.
fn read_entry(bytes: &[u8]) -> Result<Option<(Certificate, Option<NodeId>)>, String> {
    let record = LogRecord::decode(bytes).map_err(|error| error.to_string())?;
    if record.event != Event::Issued {
        return Ok(None);
    }
    let certificate = Certificate::from_der(record.certificate).map_err(|error| error.to_string())?;
    Ok(Some((certificate, record.node)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_changed_is_not_the_states() {
        let entries = |bytes: &[&[u8]]| -> Vec<LogEntry> {
            (0..).zip(bytes).map(|(seq, bytes)| LogEntry { seq, bytes: bytes.to_vec(), private: None }).collect()
        };
        let audited = |bytes: &[&[u8]], head: &LogHead| {
            let mut audit = Audit::default();
            for entry in entries(bytes) {
                audit.take(&entry).unwrap_or_default();
            }
            // None of these is a record; here it is the tree that counts.
            audit.unreadable.clear();
            audit.problems(head).join("\n")
        };
        let mut head = LogHead::default();
        for entry in [b"a", b"b", b"c"] {
            head.append(entry);
        }
        assert_eq!(audited(&[b"a", b"b", b"c"], &head), "");
        assert_eq!(audited(&[b"a", b"b"], &head), "the issuance log has 2 entries, the state counts 3");
        for changed in [[b"a", b"c", b"b"], [b"x", b"b", b"c"], [b"a", b"b", b"x"]] {
            let changed: Vec<&[u8]> = changed.iter().map(|entry| entry.as_slice()).collect();
            assert!(audited(&changed, &head).contains("is not the one"), "{changed:?}");
        }
    }

    #[test]
    fn gaps_and_rubbish_are_named() {
        let mut audit = Audit::default();
        assert_eq!(audit.take(&LogEntry { seq: 0, bytes: vec![0xff], private: None }), Ok(()));
        let gap = audit.take(&LogEntry { seq: 2, bytes: Vec::new(), private: None });
        assert_eq!(gap, Err("entry 1 of the issuance log is missing".to_owned()));
        let problems = audit.problems(&audit.head.clone());
        assert!(problems.len() == 1 && problems[0].starts_with("entry 0 of the issuance log cannot be read: "));
    }
}
