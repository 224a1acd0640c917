//! The leader's loop: looks at what changed, tells nodes when their turn has come, and proposes the next step of a rotation
//! when its phase may end. It decides nothing itself.

use std::sync::Arc;
use std::time::Duration;

use cluster::command::ReplaceLadder;
use cluster::roots::Custody;
use cluster::{Command, Outcome, State};
use pki::identity::NodeId;
use pki::time::Time;
use replica::Handle;
use tokio_util::sync::CancellationToken;

use super::Signers;
use super::look::{AGAIN, Look, advance, advanced, changed, look};
use crate::alarm::Alarm;
use crate::shared::Shared;
use crate::view::ControlError;

/// Runs until `shutdown`.
pub(crate) async fn lead<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    let mut states = shared.handle.watch();
    let mut leadership = shared.handle.leadership();
    let mut before = shared.handle.state();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        let mut news = changed(&before, &state);
        news.extend(shared.take_arrivals());
        report(&before, &state);
        if before.roots.signing().map(|root| root.issuer) != state.roots.signing().map(|root| root.issuer) {
            shared.pipeline.forget_signer();
        }
        before = Arc::clone(&state);
        let wait = step(&shared, &state, &news).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            led = leadership.changed() => if led.is_err() { return },
            () = shared.arrival.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One look; how long until the next, if nothing happens before.
async fn step<H: Handle>(shared: &Arc<Shared<H>>, state: &Arc<State>, news: &[NodeId]) -> Duration {
    let now = shared.now();
    let Look { wake, due, wait } = {
        let mut sessions = shared.sessions();
        look(&mut shared.pacer(), &mut sessions, state, now, news)
    };
    for node in wake {
        if let Some(slot) = shared.slots.get(&node) {
            slot.wake();
        }
    }
    // Every manager gives the turns to its own sessions; the leader alone takes the next step.
    if state.rotation().is_none() || !shared.leads() {
        return wait;
    }
    match prolong(shared, state, now).await {
        Ok(Some(replace)) => {
            propose(shared, Command::ReplaceLadder(Box::new(replace))).await;
        }
        Ok(None) => {
            if let Some(end) = super::ladder_ends(state, now) {
                shared.alarms.raise(Alarm::LadderEnds { end }, now);
            }
        }
        Err(error) => tracing::error!(error = error.message, "the cross-certificate could not be made anew"),
    }
    let Some(due) = due else { return wait };
    let (Ok(worker), Ok(manager)) = (shared.chance.bytes(), shared.chance.bytes()) else { return AGAIN };
    let outcome = propose(shared, advance(due, worker, manager)).await;
    let (again, for_good) = advanced(outcome.as_ref());
    if for_good {
        tracing::error!(?outcome, "a step of the root rotation was refused");
    }
    wait.min(again)
}

/// A token signs on a thread of its own.
async fn prolong<H: Handle>(
    shared: &Arc<Shared<H>>,
    state: &Arc<State>,
    now: Time,
) -> Result<Option<ReplaceLadder>, ControlError> {
    let signers = Signers { keys: shared.outside.keys.clone(), certified: Vec::new() };
    if !state.roots.in_use().any(|root| matches!(root.custody, Custody::Token(_))) {
        return super::prolong(state, &signers, now);
    }
    let state = Arc::clone(state);
    let prolonged = tokio::task::spawn_blocking(move || super::prolong(&state, &signers, now));
    prolonged.await.unwrap_or(Ok(None))
}

/// An outcome that is unknown is found out by the next look at the state.
async fn propose<H: Handle>(shared: &Arc<Shared<H>>, command: Command) -> Option<Outcome> {
    match shared.handle.propose(vec![command]).await {
        Ok(outcomes) => outcomes.into_iter().next(),
        Err(error) => {
            tracing::warn!(%error, "a step of the root rotation could not be committed");
            None
        }
    }
}

/// Says what has happened.
fn report(before: &State, after: &State) {
    match (before.rotation(), after.rotation()) {
        (Some(old), Some(new)) if old.id == new.id && old.phase == new.phase => {}
        (_, Some(new)) => {
            let (phase, to) = (new.phase.word(), super::shown_digest(&new.to().bundle));
            let aside = new.aside.len();
            if new.back {
                tracing::info!(phase, to, aside, "the root rotation is going back");
            } else {
                tracing::info!(phase, to, aside, "the root is being rotated");
            }
        }
        (Some(old), None) => {
            let root = after.roots.served().map(|root| super::shown_digest(&root.bundle)).unwrap_or_default();
            let aside = old.aside.len();
            if old.back {
                tracing::info!(
                    root,
                    aside,
                    "the root rotation was aborted: the root and the join tokens are those from before"
                );
            } else {
                tracing::info!(root, aside, "the root was rotated: there are new join tokens");
            }
        }
        (None, None) => {}
    }
}
