//! A cluster made anew: from the store of one of its managers, or from a backup. Nobody has the store open meanwhile.
//!
//! - All entries that are here count: one that was answered is among them, and one that was not may be.
//! - The store of before is not changed. The new one is written beside it, in other files; that the header names them is the moment of the
//!   change. A crash before leaves everything as it was.
//! - What was erased of the issuance log stays so, also if that was decided by the last entry.
//! - The new store is of another epoch: nothing that was sealed for the old one can be read as if it were of the new one.

use crate::Fatal;
use crate::disk::{Local, Medium};
use crate::handle::{Handle as _, ReadError};
use crate::raft;
use crate::replica::{Config, OpenError, Replica, data_key};
use crate::seal::Scope;
use crate::store::{Done, Store, Unfinished};
use cluster::log::LogHead;
use cluster::{Batch, Command, LogEntry, Outcome, State};
use std::io;
use std::sync::{Arc, mpsc};
use zeroize::Zeroize as _;

/// Rows of the issuance log that are copied at once.
const ROWS_AT_ONCE: usize = 4096;

/// All that a backup of a cluster holds.
pub struct Backup {
    /// The state.
    pub state: Arc<State>,
    /// The issuance log, whole.
    pub issued: Vec<LogEntry>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// What was answered before cannot be told for sure.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Entries of the issuance log are missing here.
    #[error("this manager does not have the whole issuance log yet: try again in a minute, or on another manager")]
    Incomplete,
}

impl Backup {
    /// Whether the issuance log is the one that the state speaks of.
    pub fn is_whole(&self) -> bool {
        let mut head = LogHead::default();
        let counted = self.issued.iter().zip(0u64..).all(|(entry, seq)| entry.seq == seq);
        for entry in &self.issued {
            head.append(&entry.bytes);
        }
        counted && head == self.state.log
    }
}

impl Replica {
    /// Makes the cluster anew from the store in `config.dir`, with the manager whose store it is: `command` says how, from what the
    /// cluster was last. What [`open`](Self::open) opens then is the new one; until this returns `Ok` it is the old one.
    ///
    /// # Errors
    /// [`OpenError`]; nothing has changed then, unless it says that the header could not be written.
    pub async fn refound(
        config: Config,
        command: impl FnOnce(&State) -> Command + Send + 'static,
    ) -> Result<(), OpenError> {
        offline(move || refound_on(&Local, &config, command)).await
    }

    /// Makes the store of a cluster that is made anew from a backup.
    ///
    /// # Errors
    /// [`OpenError`]; there is no store then.
    pub async fn restore(config: Config, backup: Backup, command: Command) -> Result<(), OpenError> {
        offline(move || restore_on(&Local, &config, backup, command)).await
    }

    /// Everything that the cluster is now, to be kept elsewhere.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn backup(&self) -> Result<Backup, BackupError> {
        let state = self.read().await?;
        let size = usize::try_from(state.log_size()).unwrap_or(usize::MAX);
        let issued = self.log_entries(0, size).await?;
        let backup = Backup { state, issued };
        if backup.is_whole() { Ok(backup) } else { Err(BackupError::Incomplete) }
    }
}

async fn offline(work: impl FnOnce() -> Result<(), OpenError> + Send + 'static) -> Result<(), OpenError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Fatal::new(error.to_string()).into()))
}

pub(crate) fn refound_on<M: Medium>(
    medium: &M,
    config: &Config,
    command: impl FnOnce(&State) -> Command,
) -> Result<(), OpenError> {
    let key = data_key(&config.dek)?;
    let (store, header) = Store::open(medium, &config.dir, &key)?;
    let raft::Content { mut state, index, term, issued } = raft::content(&store)?;
    if state.cluster_id().is_some_and(|id| id.as_str() != header.cluster) {
        return Err(OpenError::Foreign { path: config.dir.clone() });
    }
    if state.cluster_id().is_none() {
        return Err(OpenError::Refused(None));
    }
    let command = command(&state);
    let (member, rest) = make_anew(&mut state, config, index, command)?;
    let scope = Scope { cluster: header.cluster.clone(), epoch: state.epoch() };
    let fresh = Store::create_beside(medium, &config.dir, &header, scope, member, &key)?;
    copy_issued(&store, &fresh, state.log_erased)?;
    let known = store.last_issued()?;
    let mut rows: Vec<LogEntry> =
        issued.into_iter().filter(|entry| known.is_none_or(|known| entry.seq > known)).collect();
    rows.extend(rest);
    add_issued(&fresh, rows, state.log_erased);
    drop(store);
    finish(fresh, &state, member, term.saturating_add(1))
}

pub(crate) fn restore_on<M: Medium>(
    medium: &M,
    config: &Config,
    backup: Backup,
    command: Command,
) -> Result<(), OpenError> {
    let key = data_key(&config.dek)?;
    let Backup { state, issued } = backup;
    let mut state = Arc::unwrap_or_clone(state);
    let index = state.index;
    let (member, rest) = make_anew(&mut state, config, index, command)?;
    let cluster = state.cluster_id().map(|id| id.as_str().to_owned()).unwrap_or_default();
    let scope = Scope { cluster, epoch: state.epoch() };
    let fresh = Store::create(medium, &config.dir, scope, member, &key)?;
    add_issued(&fresh, issued.into_iter().chain(rest).collect(), state.log_erased);
    finish(fresh, &state, member, 1)
}

/// Applies the command behind everything else; the number of the one member, and what was issued by it.
fn make_anew(
    state: &mut State,
    config: &Config,
    index: u64,
    command: Command,
) -> Result<(u64, Vec<LogEntry>), OpenError> {
    let batch = Batch { time: (config.clock)(), commands: vec![command] };
    let applied = state.apply(index.saturating_add(1), &batch);
    match applied.outcomes.into_iter().next() {
        Some(Outcome::Enlisted { raft_id }) => Ok((raft_id, applied.issued)),
        other => Err(OpenError::Refused(other)),
    }
}

fn copy_issued(from: &Store, to: &Unfinished, erased: u64) -> Result<(), OpenError> {
    let mut next = 0;
    loop {
        let rows = from.issued(next, ROWS_AT_ONCE)?;
        let Some(last) = rows.last() else { return Ok(()) };
        next = last.seq.saturating_add(1);
        add_issued(to, rows, erased);
        // It is read faster than it is written: what waited would be the whole log.
        written(|done| {
            to.store().settle(done);
            Ok(())
        })?;
    }
}

/// Without the private parts that the state says are erased: that may have been decided by an entry that was never applied here, and the new
/// store has no entry that would erase them later.
fn add_issued(to: &Unfinished, mut rows: Vec<LogEntry>, erased: u64) {
    for row in rows.iter_mut().filter(|row| row.seq < erased) {
        row.private.zeroize();
        row.private = None;
    }
    to.store().add_issued(rows);
}

/// Writes the rest and the header.
fn finish(fresh: Unfinished, state: &State, member: u64, term: u64) -> Result<(), OpenError> {
    written(|done| raft::begin(fresh.store(), state, member, term, done))?;
    drop(fresh.finish()?);
    Ok(())
}

/// Asks the new store's writer for something, and waits until it is done.
fn written(ask: impl FnOnce(Done) -> io::Result<()>) -> Result<(), OpenError> {
    let (sender, receiver) = mpsc::channel();
    let done: Done = Box::new(move |result| drop(sender.send(result)));
    let gone = || io::Error::other("the store's writer failed");
    let asked = ask(done).and_then(|()| receiver.recv().map_err(|_| gone())?);
    asked.map_err(|error| OpenError::Fatal(Fatal::new(format!("the new store could not be written: {error}"))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::seal::DataKey;

    #[test]
    fn a_copied_log_is_written_and_does_not_wait_in_memory() {
        let (dir, key) = (tempfile::tempdir().unwrap(), DataKey::from_slice(&[1; 32]).unwrap());
        let store = |name: &str| {
            let scope = Scope { cluster: "c".to_owned(), epoch: 0 };
            Store::create(&Local, &dir.path().join(name), scope, 1, &key).unwrap()
        };
        let (from, to) = (store("from"), store("to"));
        // Few bytes in all: the writer would keep back such rows until it is asked for something else.
        let last = ROWS_AT_ONCE as u64 + 10;
        let row = |seq| LogEntry { seq, bytes: vec![7], private: Some(vec![8]) };
        from.store().add_issued((0..=last).map(row).collect());
        written(|done| {
            from.store().settle(done);
            Ok(())
        })
        .unwrap();
        copy_issued(from.store(), &to, last).unwrap();
        assert_eq!(to.store().last_issued().unwrap(), Some(last));
        let copied = to.store().issued(0, usize::MAX).unwrap();
        assert_eq!(copied.len() as u64, last + 1);
        assert_eq!(copied.iter().filter(|row| row.private.is_some()).map(|row| row.seq).collect::<Vec<_>>(), [last]);
    }
}
