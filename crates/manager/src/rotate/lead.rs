//! The leader's loop: looks at what changed, tells nodes when their turn has come, and proposes the next step of a rotation
//! when its phase may end. It decides nothing itself.

use std::sync::Arc;
use std::time::Duration;

use cluster::command::{ReplaceLadder, SecretBox};
use cluster::rotation::{Advance, Need, Phase};
use cluster::{Command, Outcome, Rejection, State};
use imbl::ordmap::DiffItem;
use pki::identity::NodeId;
use pki::join_token::JoinSecret;
use replica::Handle;
use tokio_util::sync::CancellationToken;

use super::pacer::Turn;
use crate::shared::Shared;

/// When to look again if nothing happens: a ladder may have to be made anew.
const IDLE: Duration = Duration::from_secs(60);
/// When to try again if a step was refused for now.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs until `shutdown`.
pub(crate) async fn lead<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    let mut states = shared.handle.watch();
    let mut before = shared.handle.state();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        let mut news = changed(&before, &state);
        news.extend(shared.take_arrivals());
        report(&before, &state);
        before = Arc::clone(&state);
        let wait = step(&shared, &state, &news).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            () = shared.arrival.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Nodes whose record differs.
fn changed(before: &State, after: &State) -> Vec<NodeId> {
    let id = |item: DiffItem<'_, '_, NodeId, Arc<cluster::node::Node>>| match item {
        DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => id.clone(),
    };
    before.nodes.diff(&after.nodes).map(id).collect()
}

/// One look; how long until the next, if nothing happens before.
async fn step<H: Handle>(shared: &Arc<Shared<H>>, state: &State, news: &[NodeId]) -> Duration {
    let now = shared.now();
    let (turns, due, next) = {
        let sessions = shared.sessions();
        let mut pacer = shared.pacer();
        let turns = pacer.step(now, state, &sessions, news);
        (turns, pacer.due(state, now), pacer.next_deadline())
    };
    for Turn { node, need } in turns {
        if need == Need::Renewal && shared.sessions().order_renewal(&node).is_err() {
            continue;
        }
        if let Some(slot) = shared.slots.get(&node) {
            slot.wake();
        }
    }
    let Some(rotation) = state.rotation() else { return next.map_or(IDLE, |next| next.since(now)) };
    let mut wait = IDLE;
    match super::prolong(state, now) {
        Ok(Some((ladder, logged))) => {
            let replace = ReplaceLadder { rotation: rotation.id, ladder, logged };
            propose(shared, Command::ReplaceLadder(Box::new(replace))).await;
        }
        Ok(None) => {}
        Err(error) => tracing::error!(error = error.message, "the cross-certificate could not be made anew"),
    }
    if let Some((rotation, phase)) = due {
        match advance(shared, rotation, phase).await {
            Some(Outcome::Done { .. }) => return Duration::ZERO,
            Some(Outcome::Rejected(Rejection::NotConverted | Rejection::OutOfSequence)) | None => wait = AGAIN,
            Some(other) => {
                tracing::error!(?other, "a step of the root rotation was refused");
                wait = AGAIN;
            }
        }
    } else if let Some(end) = rotation.phase_ends() {
        wait = wait.min(end.since(now));
    }
    next.map_or(wait, |next| wait.min(next.since(now))).max(Duration::from_millis(1))
}

async fn advance<H: Handle>(shared: &Arc<Shared<H>>, rotation: u64, phase: Phase) -> Option<Outcome> {
    let secret = || shared.chance.bytes().ok().map(|bytes| SecretBox(Arc::new(JoinSecret::from_bytes(bytes))));
    let advance = Advance { rotation, phase, worker_secret: secret()?, manager_secret: secret()? };
    propose(shared, Command::AdvanceRotation(Box::new(advance))).await
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
            tracing::info!(root, aside, aborted = old.back, "the root rotation has ended: there are new join tokens");
        }
        (None, None) => {}
    }
}
