//! Where this manager is: the others are told when they know it elsewhere.
//!
//! - An address is a hint and proves nothing: who answers there is known by its certificate. So a manager that has moved keeps its place in
//!   the group, and only the address is another.
//! - Any other manager is asked to write it down, with the words of one that asks for its place ([`Peers::enlist`](crate::Peers::enlist)): it
//!   tries the address first, and a leader that looks for this manager at its old one need not be heard for that.
//! - A manager that hears nobody says it too, though it is what it knows itself: the others may know something newer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::{Command, Outcome};
use replica::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::peers::EnlistError;
use crate::shared::Shared;

/// How often one looks whether the others know.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The pause after an attempt that came to nothing.
const AGAIN: Duration = Duration::from_secs(2);
/// A manager that has heard nobody for so long may be looked for elsewhere. Source: longer than an election.
const SILENT: Duration = Duration::from_secs(5);
/// Addresses of other managers remembered that an operator named.
const NAMED_MAX: usize = 8;

/// What is known of how that goes.
#[derive(Default)]
pub(crate) struct Whereabouts {
    inner: Mutex<Inner>,
    /// There is somebody else to ask.
    news: Notify,
}

#[derive(Default)]
struct Inner {
    /// Where other managers are, as an operator said; the newest last.
    named: VecDeque<String>,
    untold: Option<String>,
}

impl Whereabouts {
    /// Another manager is there.
    pub(crate) fn ask_at(&self, addr: String) {
        let mut inner = self.inner();
        inner.named.retain(|known| *known != addr);
        inner.named.push_back(addr);
        if inner.named.len() > NAMED_MAX {
            inner.named.pop_front();
        }
        drop(inner);
        self.news.notify_one();
    }

    /// Why the others could not be told when that was last tried.
    pub(crate) fn untold(&self) -> Option<String> {
        self.inner().untold.clone()
    }

    /// How the last attempt ended; whether that is news.
    fn note(&self, untold: Option<String>) -> bool {
        let mut inner = self.inner();
        let news = inner.untold != untold;
        inner.untold = untold;
        news
    }

    fn named(&self) -> Vec<String> {
        self.inner().named.iter().rev().cloned().collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees to it that the others look for this manager at `addr`, until `shutdown`.
pub(crate) async fn keep<H: Handle>(shared: Arc<Shared<H>>, addr: Option<String>, shutdown: CancellationToken) {
    let Some(addr) = addr else { return shutdown.cancelled().await };
    let began = Instant::now();
    loop {
        let pause = match known(&shared, &addr, began) {
            Known::So => {
                shared.whereabouts.note(None);
                LOOK_EVERY
            }
            known => {
                let told = tokio::select! {
                    () = shutdown.cancelled() => return,
                    told = tell(&shared, &addr) => told,
                };
                note(&shared, &addr, known, told);
                AGAIN
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = shared.whereabouts.news.notified() => {}
        }
    }
}

fn note<H>(shared: &Shared<H>, addr: &str, known: Known, told: Result<(), String>) {
    match told {
        Ok(()) => {
            shared.whereabouts.note(None);
            tracing::info!(addr, "the other managers know where this one is");
        }
        // That nobody hears it has its own words elsewhere.
        Err(why) if known == Known::Perhaps => tracing::debug!(addr, why, "the other managers were not reached"),
        Err(why) => {
            if shared.whereabouts.note(Some(why.clone())) {
                tracing::warn!(addr, why, "the other managers could not be told where this one is: it is tried again");
            }
        }
    }
}

/// Whether the others know where this manager is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// They do, or there is nobody to be told.
    So,
    /// By what is known here; but nobody hears it.
    Perhaps,
    /// They know it elsewhere.
    Elsewhere,
}

fn known<H: Handle>(shared: &Shared<H>, addr: &str, began: Instant) -> Known {
    let (state, own) = (shared.handle.state(), shared.handle.raft_id());
    // Without a place there is nothing to be found at.
    let Some(row) = state.members.rows.values().find(|row| row.raft_id == own) else { return Known::So };
    let silent = shared.handle.contact().unwrap_or_else(|| began.elapsed()) > SILENT;
    match row.addr == addr {
        false => Known::Elsewhere,
        true if silent && shared.is_one_of_several(&state) => Known::Perhaps,
        true => Known::So,
    }
}

/// Asks another manager to write it down; without one that can be reached, and with a majority that hears this one, it is done here.
async fn tell<H: Handle>(shared: &Arc<Shared<H>>, addr: &str) -> Result<(), String> {
    let mut others = shared.whereabouts.named();
    others.extend(shared.peers.others().into_iter().filter(|other| !others.contains(other)).collect::<Vec<_>>());
    let mut refused = None;
    let mut unreachable = Vec::new();
    for other in others.iter().filter(|other| *other != addr) {
        match shared.peers.enlist(other, addr, Some(shared.handle.raft_id())).await {
            Ok(_) => return Ok(()),
            Err(EnlistError::Refused { message, .. }) => {
                refused = Some(format!("the manager at {other} says: {message}"))
            }
            Err(EnlistError::Unreachable(why)) => unreachable.push(why),
        }
    }
    match refused {
        Some(refused) => Err(refused),
        None => tell_by_itself(shared, addr).await.map_err(|why| [unreachable, vec![why]].concat().join("; ")),
    }
}

async fn tell_by_itself<H: Handle>(shared: &Arc<Shared<H>>, addr: &str) -> Result<(), String> {
    let identity = shared.identity.current().ok_or("this manager has no certificate")?;
    let leaf = identity.chain().first().ok_or("this manager has no certificate")?;
    let (node, serial) = (identity.subject().node.clone(), leaf.serial());
    let enlist = Command::Enlist { node, addr: addr.to_owned(), serial, replaces: None };
    let outcomes = shared.handle.propose(vec![enlist]).await.map_err(|error| error.to_string())?;
    match outcomes.into_iter().next() {
        Some(Outcome::Enlisted { .. }) => Ok(()),
        Some(Outcome::Rejected(rejection)) => Err(rejection.to_string()),
        _ => Err("the outcome is unknown".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_named_are_asked_first_and_few_are_kept() {
        let whereabouts = Whereabouts::default();
        for n in 0..20 {
            whereabouts.ask_at(format!("10.0.0.{n}:2377"));
        }
        whereabouts.ask_at("10.0.0.15:2377".to_owned());
        let named = whereabouts.named();
        assert_eq!(named.len(), NAMED_MAX);
        assert_eq!(&named[..3], ["10.0.0.15:2377", "10.0.0.19:2377", "10.0.0.18:2377"]);
    }

    #[test]
    fn an_attempt_that_ends_as_the_one_before_is_no_news() {
        let whereabouts = Whereabouts::default();
        assert!(!whereabouts.note(None));
        assert!(whereabouts.note(Some("nobody".to_owned())));
        assert!(!whereabouts.note(Some("nobody".to_owned())));
        assert_eq!(whereabouts.untold().as_deref(), Some("nobody"));
        assert!(whereabouts.note(None));
    }
}
