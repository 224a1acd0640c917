//! What every node of ours is told as it changes: certificates that were taken back. A statement is made and signed once for all who need
//! the same rows, and where statements begin is not the caller's choice: at one of the last versions that everybody was told, or at a
//! multiple of `ROWS_MAX`. So whatever callers name, there are so many statements to sign and no more. Rows that somebody has already
//! do no harm.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use cluster::State;
use cluster::node::IssuerHash;
use mtls::Statement;
use pki::serial::Serial;
use pki::time::Time;
use prost::Message;
use tokio::sync::watch;
use wire::limits::NEWS_REVOCATIONS;
use wire::node::{NewsRequest, Revocations, RevokedRow};

/// Rows in one statement, at most: about 300 KiB.
const ROWS_MAX: usize = 8192;

/// Versions of before at which a statement may begin: whoever listens holds one of them.
const RECENT_MAX: usize = 16;

/// Statements kept for whoever asks next: one for each place where one may begin.
const KEPT_MAX: usize = RECENT_MAX + 1 + mtls::REVOKED_MAX / ROWS_MAX;

/// Managers whose statements a node's revocations may be from, by its own word.
const TELLERS_MAX: usize = mtls::TELLERS_MAX;

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

/// What a node may be believed to hold that asks for news: nothing, if one of the managers that told it was taken back since, or if
/// it claims more than there is.
pub(crate) fn believed(state: &State, asked: &NewsRequest) -> Held {
    let held = Held { epoch: asked.revocations_epoch, version: asked.revocations_version };
    let revoked = |teller: &Vec<u8>| {
        let Some((issuer, serial)) = teller.split_first_chunk::<32>() else { return true };
        let Ok(serial) = Serial::from_bytes(serial) else { return true };
        state.revocations.contains(&IssuerHash(*issuer), &serial)
    };
    let doubtful = asked.revocations_from.len() > TELLERS_MAX || asked.revocations_from.iter().any(revoked);
    if doubtful || held > Held::of(state) { Held::default() } else { held }
}

/// Up to which version, and the statement.
type Made = (Held, Arc<Statement>);

/// The news of one manager.
#[derive(Debug, Default)]
pub(crate) struct News {
    newest: watch::Sender<Held>,
    /// The newest versions that there were, oldest first.
    recent: Mutex<VecDeque<Held>>,
    made: Mutex<BTreeMap<(Held, u64), Made>>,
}

impl News {
    /// The state has changed.
    pub(crate) fn follow(&self, state: &State) {
        let now = Held::of(state);
        let changed = self.newest.send_if_modified(|newest| std::mem::replace(newest, now) != now);
        if changed {
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            if recent.len() >= RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back(now);
        }
    }

    /// Where a statement begins for somebody who holds this version: no later.
    fn begin(&self, epoch: u64, version: u64) -> u64 {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = recent.contains(&Held { epoch, version });
        if is_recent { version } else { version - version % ROWS_MAX as u64 }
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
        let since = if newest.epoch == held.epoch { self.begin(held.epoch, held.version) } else { 0 };
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
        // Of an identity that was replaced, or of an epoch that is over, nobody is told any more.
        made.retain(|(since, generation), _| since.epoch == newest.epoch && *generation == current.generation());
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
        newest: state.revocations.version(),
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
        let serial = serial.as_bytes().to_vec();
        told.rows.push(RevokedRow { issuer: place, serial, until, ..RevokedRow::default() });
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn whatever_callers_name_there_are_few_places_to_begin() {
        const MANY: u64 = 3 * ROWS_MAX as u64 + 77;
        let news = News::default();
        let recent: Vec<u64> = (0..RECENT_MAX as u64).map(|n| MANY - 5 * n).collect();
        if let Ok(mut known) = news.recent.lock() {
            known.extend(recent.iter().map(|version| Held { epoch: 1, version: *version }));
        }
        let mut begins = BTreeSet::new();
        for version in 0..=MANY {
            let begin = news.begin(1, version);
            assert!(begin <= version && version - begin < ROWS_MAX as u64, "{version}");
            begins.insert(begin);
        }
        assert!(
            recent.iter().all(|version| news.begin(1, *version) == *version),
            "whoever listens gets what is new alone"
        );
        assert!(begins.len() <= RECENT_MAX + 4 && begins.len() <= KEPT_MAX, "{}", begins.len());
        assert_eq!(news.begin(2, MANY), 3 * ROWS_MAX as u64, "of another epoch");
    }

    #[test]
    fn nobody_is_believed_to_hold_more_than_there_is() {
        let state = State::empty();
        let asked = |epoch, version| NewsRequest {
            revocations_epoch: epoch,
            revocations_version: version,
            ..NewsRequest::default()
        };
        for (epoch, version) in [(0, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX), (0, 1), (0, 0)] {
            assert_eq!(believed(&state, &asked(epoch, version)), Held::default(), "{epoch} {version}");
        }
    }
}
