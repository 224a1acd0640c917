//! What is in the issuance log: what the cluster's state has forgotten, the log has not.

use std::future::Future;

use cluster::LogEntry;
use cluster::authorize::Presented;
use cluster::format::LogRecord;
use pki::certificate::Certificate;
use pki::identity::NodeId;
use pki::merkle::{self, Hash, Subtrees};
use pki::serial::Serial;
use pki::time::Time;

/// Entries looked at without a pause for others.
const PAGE: u64 = 256;

/// Certificates that one search yields, at most: the newest.
pub const FOUND_MAX: usize = 20_000;

/// What is looked for in the issuance log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The certificates that a node was issued in a span of time, by the cluster's time.
    Node {
        /// Which node.
        node: NodeId,
        /// From then on.
        since: Time,
        /// Until then.
        until: Time,
        /// In entries below this one: where a search went on to that yielded all that it may.
        below: u64,
    },
    /// Whatever has this serial.
    Serial(Serial),
}

/// A certificate of the issuance log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its entry; none: it is not in the log.
    pub seq: Option<u64>,
    /// For whom it was issued; none: it is a CA's.
    pub node: Option<NodeId>,
    /// It.
    pub certificate: Certificate,
}

/// How the issuance log goes on from what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSince {
    /// The root that it had.
    pub root: Hash,
    /// What shows that it begins with that (RFC 9162, 2.1.4).
    pub path: Vec<Hash>,
}

/// The same of a log that lies in memory.
pub(crate) fn since(entries: &[LogEntry], before: u64, size: u64) -> Option<LogSince> {
    let mut tree = InMemory(entries);
    let path = merkle::consistency(&mut tree, before, size).ok()??;
    Some(LogSince { root: merkle::root(&mut tree, before).ok()?, path })
}

struct InMemory<'a>(&'a [LogEntry]);

impl Subtrees for InMemory<'_> {
    type Error = Missing;

    fn subtree(&mut self, level: u32, first: u64) -> Result<Hash, Missing> {
        if level == 0 {
            let entry = usize::try_from(first).ok().and_then(|at| self.0.get(at)).ok_or(Missing)?;
            return Ok(merkle::leaf_hash(&entry.bytes));
        }
        let half = 1 << (level - 1);
        Ok(merkle::node_hash(&self.subtree(level - 1, first)?, &self.subtree(level - 1, first + half)?))
    }
}

struct Missing;

/// Looks for certificates from the newest entry to the oldest, a page at a time, no further back than needed. `None`: a page could not be
/// read, or entries are missing.
pub(crate) async fn find<F>(wanted: &Wanted, size: u64, mut page: impl FnMut(u64, usize) -> F) -> Option<Vec<Found>>
where
    F: Future<Output = Option<Vec<LogEntry>>>,
{
    let mut found = Vec::new();
    let mut end = match wanted {
        Wanted::Node { below, .. } => size.min(*below),
        Wanted::Serial(_) => size,
    };
    while end > 0 {
        let from = end.saturating_sub(PAGE);
        let entries = page(from, usize::try_from(end - from).ok()?).await?;
        if entries.iter().filter(|entry| entry.seq < end).count() as u64 != end - from {
            return None;
        }
        for entry in entries.iter().rev() {
            // What is no certificate's is not looked for.
            let Ok(record) = LogRecord::decode(&entry.bytes) else { continue };
            let looked_for = match wanted {
                Wanted::Node { since, .. } if record.time < *since => return Some(found),
                Wanted::Node { node, until, .. } => record.node.as_ref() == Some(node) && record.time <= *until,
                Wanted::Serial(_) => true,
            };
            if !looked_for {
                continue;
            }
            let Ok(certificate) = Certificate::from_der(record.certificate) else { continue };
            let row = Found { seq: Some(entry.seq), node: record.node, certificate };
            match wanted {
                Wanted::Serial(serial) if row.certificate.serial() == *serial => return Some(vec![row]),
                Wanted::Serial(_) => {}
                Wanted::Node { .. } => found.push(row),
            }
            if found.len() >= FOUND_MAX {
                return Some(found);
            }
        }
        end = from;
        tokio::task::yield_now().await;
    }
    Some(found)
}

/// Looks for a leaf from the newest entry to the oldest, a page at a time. `None`: a page could not be read, or entries are
/// missing and it is in none of the others.
pub(crate) async fn is_issued<F>(leaf: &Presented, size: u64, mut page: impl FnMut(u64, usize) -> F) -> Option<bool>
where
    F: Future<Output = Option<Vec<LogEntry>>>,
{
    let mut end = size;
    let mut whole = true;
    while end > 0 {
        let from = end.saturating_sub(PAGE);
        let entries = page(from, usize::try_from(end - from).ok()?).await?;
        if entries.iter().any(|entry| is_of(entry, leaf)) {
            return Some(true);
        }
        whole &= entries.iter().filter(|entry| entry.seq < end).count() as u64 == end - from;
        end = from;
        tokio::task::yield_now().await;
    }
    whole.then_some(false)
}

/// Whether an entry is this very leaf. The serial alone says little: whoever has the CA's key can sign any serial anew.
fn is_of(entry: &LogEntry, leaf: &Presented) -> bool {
    let Ok(record) = LogRecord::decode(&entry.bytes) else { return false };
    if record.node.as_ref() != Some(&leaf.node) {
        return false;
    }
    let Ok(certificate) = Certificate::from_der(record.certificate) else { return false };
    certificate.serial() == leaf.serial
        && certificate.spki_hash() == leaf.spki
        && certificate.not_after() == leaf.not_after
        && certificate.node_subject().is_ok_and(|subject| subject.role == leaf.role && subject.cluster == leaf.cluster)
}

#[cfg(test)]
mod tests;
