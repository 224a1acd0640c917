//! The issuance log of a member that was sent the state instead of what led to it: the entries that it lacks come from another
//! member, and are taken only if they are those that the state has the tree of.
//!
//! Each is asked for twice. The first time it is only hashed, between what is here already; when all together make the tree,
//! it is asked for again, and written if it is what was hashed. So nothing is kept that was not checked, and nobody holds a
//! whole log in memory.

use crate::propose::Proposer;
use crate::store::{Store, StoreError};
use cluster::LogEntry;
use cluster::format::LogRecord;
use cluster::log::LogHead;
use pki::digest::sha256;
use std::ops::Range;
use std::time::Duration;
use tokio::sync::oneshot;

/// The pause before another attempt.
const PAUSE: Duration = Duration::from_secs(2);
/// Entries read from the own store at once.
const PAGE: usize = 256;

/// Why an attempt ended.
#[derive(Debug, thiserror::Error)]
enum Unfilled {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the store is closed")]
    Closed,
    #[error("there is nobody to ask")]
    Nobody,
    #[error("member {0} has not got it either, or cannot be reached")]
    Silent(u64),
    #[error("what member {0} gives does not make the tree that the cluster's state has")]
    Other(u64),
}

/// What another member answered, hashed.
struct Page {
    range: Range<u64>,
    root: [u8; 32],
}

/// Fills what is missing, whenever something is. Whoever started it ends it.
pub(crate) async fn run(proposer: Proposer, store: Store) {
    let mut received = proposer.queue.progress().received();
    loop {
        received.borrow_and_update();
        match fill(&proposer, &store).await {
            Ok(()) if received.changed().await.is_err() => return,
            Ok(()) => {}
            Err(error) => {
                match &error {
                    Unfilled::Other(_) => tracing::error!(%error, "the issuance log cannot be completed"),
                    _ => tracing::debug!(%error, "the issuance log is not complete yet"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn fill(proposer: &Proposer, store: &Store) -> Result<(), Unfilled> {
    let head = proposer.states.state().log.clone();
    let (sender, receiver) = oneshot::channel();
    store.settle(Box::new(move |result| drop(sender.send(result))));
    receiver.await.ok().and_then(Result::ok).ok_or(Unfilled::Closed)?;
    if store.missing(head.size())?.is_none() {
        return Ok(());
    }
    let mut last = Err(Unfilled::Nobody);
    for peer in proposer.node.others() {
        last = fill_from(proposer, store, peer, &head).await;
        if last.is_ok() {
            tracing::info!(peer, entries = head.size(), "the issuance log is complete");
            break;
        }
    }
    last
}

async fn fill_from(proposer: &Proposer, store: &Store, peer: u64, expected: &LogHead) -> Result<(), Unfilled> {
    let mut head = LogHead::default();
    let mut pages = Vec::new();
    while head.size() < expected.size() {
        let own = store.issued(head.size(), PAGE)?;
        let next = own.first().map_or(expected.size(), |entry| entry.seq).min(expected.size());
        while head.size() < next {
            let page = ask(proposer, peer, head.size()..next).await?;
            let from = head.size();
            take(&mut head, &page);
            pages.push(Page { range: from..head.size(), root: root(&page) });
        }
        for entry in &own {
            if entry.seq == head.size() && entry.seq < expected.size() {
                head.append(&entry.bytes);
            }
        }
    }
    if head != *expected {
        return Err(Unfilled::Other(peer));
    }
    for Page { range, root: expected } in pages {
        let page = ask(proposer, peer, range.clone()).await?;
        let erased = proposer.states.state().log_erased;
        if page.len() as u64 != range.end - range.start || root(&page) != expected {
            return Err(Unfilled::Other(peer));
        }
        store.add_issued(page.into_iter().map(|entry| without_what_is_none(entry, erased)).collect());
    }
    Ok(())
}

/// At least one entry of these, from the first on.
async fn ask(proposer: &Proposer, peer: u64, range: Range<u64>) -> Result<Vec<LogEntry>, Unfilled> {
    let max = range.end - range.start;
    let mut page = proposer.node.issued_at(peer, range).await.unwrap_or_default();
    page.truncate(usize::try_from(max).unwrap_or(usize::MAX));
    if page.is_empty() { Err(Unfilled::Silent(peer)) } else { Ok(page) }
}

/// A private part that was erased, or is not the one that its entry names, is none.
fn without_what_is_none(mut entry: LogEntry, erased: u64) -> LogEntry {
    let digest = LogRecord::decode(&entry.bytes).ok().and_then(|record| record.private);
    let right = |private: &Vec<u8>| entry.seq >= erased && digest == Some(sha256(private));
    entry.private = entry.private.take().filter(right);
    entry
}

fn root(page: &[LogEntry]) -> [u8; 32] {
    let mut head = LogHead::default();
    take(&mut head, page);
    head.root()
}

fn take(head: &mut LogHead, page: &[LogEntry]) {
    for entry in page {
        head.append(&entry.bytes);
    }
}
