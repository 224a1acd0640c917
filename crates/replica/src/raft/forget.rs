//! Root keys, of nodes and of operators, that the state has let go of: they must not stay in the log behind it.
//!
//! Rules:
//! - an entry after which the state lacks a root key that it had, or that the entry brought, makes a snapshot due at once;
//! - what that snapshot covers is purged, for followers that are behind too: they get the snapshot;
//! - the purge is synced at once, and who waits is told when what it freed in the log is overwritten;
//! - a crash in between changes nothing: the entry is applied again at the next start, or the snapshot that covers it is
//!   there and the purge is made then.

use cluster::command::Command;
use cluster::operators::RevokeOperator;
use cluster::roots::Custody;
use cluster::rotation::RootsChange;
use cluster::{Batch, State};
use pki::secret::SecretBytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Which entries have to go, and how far that is. Index 0 is never one of them: it makes the group.
#[derive(Debug)]
pub(super) struct Forget {
    /// Entries up to this one must not stay.
    through: AtomicU64,
    /// The last entry that the snapshot covers.
    covered: AtomicU64,
    /// The last entry that is gone from the disk.
    gone: watch::Sender<u64>,
}

impl Default for Forget {
    fn default() -> Self {
        let (through, covered) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { through, covered, gone: watch::Sender::new(0) }
    }
}

impl Forget {
    /// Whether a snapshot is due for that.
    pub(super) fn is_due(&self) -> bool {
        self.through.load(Ordering::Relaxed) > self.covered.load(Ordering::Relaxed)
    }

    /// The entries up to this one must go.
    pub(super) fn add(&self, index: u64) {
        self.through.fetch_max(index, Ordering::Relaxed);
    }

    /// There is a snapshot up to here.
    pub(super) fn covered(&self, index: u64) {
        self.covered.fetch_max(index, Ordering::Relaxed);
    }

    /// Whether there is something that has to go.
    pub(super) fn is_left(&self) -> bool {
        *self.gone.borrow() < self.through.load(Ordering::Relaxed)
    }

    /// Whether a purge up to here is one that somebody waits for.
    pub(super) fn wants(&self, upto: u64) -> bool {
        let through = self.through.load(Ordering::Relaxed);
        *self.gone.borrow() < through && through <= upto
    }

    /// Everything up to here is gone from the disk.
    pub(super) fn gone(&self, upto: u64) {
        self.gone.send_if_modified(|gone| std::mem::replace(gone, upto.max(*gone)) < upto);
    }

    /// Returns when nothing is left that has to go.
    pub(super) async fn done(&self) {
        let mut gone = self.gone.subscribe();
        // The sender is in `self`: it cannot be gone.
        let _ = gone.wait_for(|gone| *gone >= self.through.load(Ordering::Relaxed)).await;
    }
}

/// The root keys that the state holds and that a batch brings, if the batch is one that may change them.
pub(super) fn keys_at_stake(state: &State, batch: &Batch) -> Vec<Arc<SecretBytes>> {
    let mut brought = Vec::new();
    let mut touched = false;
    for command in &batch.commands {
        match command.asked() {
            Command::Bootstrap(bootstrap) => {
                touched = true;
                brought.extend(bootstrap.root.key().cloned());
            }
            Command::UpdateCluster(update) => {
                touched |= update.roots.is_some() || update.custody.is_some();
                if let Some(RootsChange::Start(start)) = &update.roots {
                    brought.extend(start.to.key().cloned());
                }
                if let Some((_, Custody::Sealed(key))) = &update.custody {
                    brought.push(Arc::clone(key));
                }
            }
            Command::AdvanceRotation(_) | Command::RevokeOperator(RevokeOperator::All) => touched = true,
            Command::FoundOperators(found) => {
                touched = true;
                brought.push(Arc::clone(&found.root.key));
            }
            Command::Admit(_)
            | Command::Renew(_)
            | Command::Ask(_)
            | Command::Confirm { .. }
            | Command::Report(_)
            | Command::Presence { .. }
            | Command::UpdateNode { .. }
            | Command::RemoveNode { .. }
            | Command::ReplaceLadder(_)
            | Command::Enlist { .. }
            | Command::Seat { .. }
            | Command::Unseat { .. }
            | Command::Refound(_)
            | Command::UnlockKeyShown
            | Command::EraseLog { .. }
            // Of somebody who asks for somebody who asks there is none.
            | Command::Attributed(_)
            | Command::CreateToken(_)
            | Command::RevokeToken { .. }
            | Command::IssueOperator(_)
            | Command::IssueApiServer(_)
            | Command::RevokeOperator(_)
            | Command::Revoke(_)
            | Command::Collect { .. } => {}
        }
    }
    if touched {
        brought.extend(keys(state).cloned());
    }
    brought
}

/// Whether the state lacks one of these keys.
pub(super) fn lacks(state: &State, stake: &[Arc<SecretBytes>]) -> bool {
    stake.iter().any(|key| keys(state).all(|kept| kept.expose() != key.expose()))
}

fn keys(state: &State) -> impl Iterator<Item = &Arc<SecretBytes>> {
    let operators = state.operators.root.iter().map(|root| &root.key);
    state.roots.in_use().filter_map(|root| root.key()).chain(operators)
}
