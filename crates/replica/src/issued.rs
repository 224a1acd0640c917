//! Whether a leaf is in the issuance log: what the cluster's state has forgotten, the log has not.

use std::future::Future;

use cluster::LogEntry;
use cluster::authorize::Presented;
use cluster::format::LogRecord;
use pki::certificate::Certificate;

/// Entries looked at without a pause for others.
const PAGE: u64 = 256;

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
