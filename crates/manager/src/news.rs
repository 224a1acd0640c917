//! What every node of ours is told as it changes: certificates that were taken back. A statement is made and signed once for all who hold
//! the same version.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cluster::State;
use cluster::node::IssuerHash;
use mtls::Statement;
use pki::time::Time;
use prost::Message;
use tokio::sync::watch;
use wire::limits::NEWS_REVOCATIONS;
use wire::node::{Revocations, RevokedRow};

/// Rows in one statement, at most: about 300 KiB.
const ROWS_MAX: usize = 8192;

/// Statements kept for whoever asks next.
const KEPT_MAX: usize = 16;

/// Which rows: the cluster's epoch, the version that is held, and how many are to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// The cluster's epoch.
    pub epoch: u64,
    /// The version of its revocations.
    pub version: u64,
}

impl Held {
    /// What somebody holds who knows this state.
    pub fn of(state: &State) -> Self {
        Self { epoch: state.epoch, version: state.revocations.version() }
    }
}

/// Up to which version, and the statement.
type Made = (Held, Arc<Statement>);

/// The news of one manager.
#[derive(Debug, Default)]
pub(crate) struct News {
    newest: watch::Sender<Held>,
    made: Mutex<BTreeMap<(Held, u64), Made>>,
}

impl News {
    /// The state has changed.
    pub(crate) fn follow(&self, state: &State) {
        let now = Held::of(state);
        self.newest.send_if_modified(|newest| std::mem::replace(newest, now) != now);
    }

    /// Changes when there is something to tell.
    pub(crate) fn changed(&self) -> watch::Receiver<Held> {
        self.newest.subscribe()
    }

    /// What somebody is told who holds `held`, and what it holds then; none: nothing is new, or nothing can be said now.
    pub(crate) fn next(
        &self,
        state: &State,
        held: Held,
        identity: &mtls::Live,
        now: Time,
    ) -> Option<(Held, Arc<Statement>)> {
        let newest = Held::of(state);
        if newest <= held {
            return None;
        }
        let since = if newest.epoch == held.epoch { held.version } else { 0 };
        let current = identity.current()?;
        let key = (Held { version: since, ..newest }, current.generation());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((upto, statement)) = made.get(&key)
            && (upto.version == newest.version || upto.version >= since + ROWS_MAX as u64)
        {
            return Some((*upto, Arc::clone(statement)));
        }
        let told = delta(state, since, now);
        let upto = Held { epoch: told.epoch, version: told.version };
        let statement = match current.say(NEWS_REVOCATIONS, told.encode_to_vec()) {
            Ok(statement) => Arc::new(statement),
            Err(error) => {
                tracing::warn!(%error, "nodes are not told of revocations");
                return None;
            }
        };
        if made.len() >= KEPT_MAX {
            made.pop_first();
        }
        made.insert(key, (upto, Arc::clone(&statement)));
        Some((upto, statement))
    }
}

/// Rows that came after `since`: as many as go into one statement. What has ended meanwhile concerns nobody.
fn delta(state: &State, since: u64, now: Time) -> Revocations {
    let cluster = state.cluster_id().map(ToString::to_string).unwrap_or_default();
    let mut told = Revocations {
        cluster,
        epoch: state.epoch,
        since,
        version: state.revocations.version(),
        at: now.unix_millis(),
        ..Revocations::default()
    };
    let mut places: BTreeMap<IssuerHash, u32> = BTreeMap::new();
    for ((issuer, serial), row) in state.revocations.since(since) {
        if row.version > since + ROWS_MAX as u64 {
            told.version = since + ROWS_MAX as u64;
            break;
        }
        if row.until < now {
            continue;
        }
        let place = *places.entry(*issuer).or_insert_with(|| {
            told.issuers.push(issuer.0.to_vec());
            u32::try_from(told.issuers.len() - 1).unwrap_or(u32::MAX)
        });
        let until = row.until.unix_millis().div_euclid(1000);
        told.rows.push(RevokedRow { issuer: place, serial: serial.as_bytes().to_vec(), until });
    }
    told
}
