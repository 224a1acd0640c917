//! Carries out what the leader has to do about the members of its group: [`cluster::seats::next`] decides it.

use std::sync::Arc;
use std::time::Duration;

use cluster::seats::{self, Candidates, Change, SeatStep};
use cluster::{Command, Outcome};
use pki::identity::Role;
use replica::{Group, GroupChange, Handle, ProposeError};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// How long until the next look, if nothing happens before: members come and go by time too.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why a promotion came to nothing, if the node was not refused a place here.
const UNKNOWN: &str = "this manager refused it nothing: the node was away, or could not serve; its own log and \"docker info\" there say why";

/// Looks whenever the state or the group changes, until `over`.
pub(crate) async fn tend<H: Handle>(shared: Arc<Shared<H>>, over: CancellationToken) {
    let mut states = shared.handle.watch();
    let mut groups = shared.handle.group();
    let mut candidates = Candidates::of(&shared.handle.state());
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        candidates.follow(&state);
        let group = Arc::clone(&groups.borrow_and_update());
        let steps = next(&shared, &candidates, &group);
        tokio::select! {
            () = over.cancelled() => return,
            () = take(&shared, steps) => {}
        }
        tokio::select! {
            () = over.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            changed = groups.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn next<H: Handle>(shared: &Shared<H>, candidates: &Candidates, group: &Group) -> Vec<SeatStep> {
    let progress = group.members.iter().map(|(id, seen)| (*id, (seen.behind, shared.is_reachable(*id)))).collect();
    seats::next(candidates, &group.voters, &group.learners, &progress, shared.handle.raft_id(), shared.now())
}

async fn take<H: Handle>(shared: &Arc<Shared<H>>, steps: Vec<SeatStep>) {
    for step in steps {
        match step {
            SeatStep::Propose(command) => match propose(shared, &command).await {
                Ok(outcomes) if matches!(outcomes.first(), Some(Outcome::Rejected(_))) => {
                    // The state has moved on: the next look sees it.
                    tracing::debug!(?outcomes, "a change of the managers came too late");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "a change of the managers could not be committed"),
            },
            SeatStep::Change(change) => {
                tracing::info!(?change, "the group of managers changes");
                if let Err(error) = shared.handle.change(asked(change)).await {
                    tracing::warn!(?change, %error, "the group of managers could not be changed: it is tried again");
                }
            }
        }
    }
}

/// Proposes; that a promotion came to nothing is said.
async fn propose<H: Handle>(shared: &Shared<H>, command: &Command) -> Result<Vec<Outcome>, ProposeError> {
    let given_up = match command {
        Command::Unseat { node, .. } => {
            shared.handle.state().node(node).cloned().filter(|node| node.role == Role::Worker)
        }
        _ => None,
    };
    let outcomes = shared.handle.propose(vec![command.clone()]).await?;
    if let (Some(node), Some(Outcome::Done { .. })) = (given_up, outcomes.first()) {
        let why = shared.take_unseated(&node.id);
        let why = why.as_deref().unwrap_or(UNKNOWN);
        tracing::warn!(node = %node.id, why, "the node did not become a manager in time: it is a worker again");
    }
    Ok(outcomes)
}

fn asked(change: Change) -> GroupChange {
    match change {
        Change::AddLearner(id) => GroupChange::AddLearner(id),
        Change::Promote(id) => GroupChange::Promote(id),
        Change::Remove(id) => GroupChange::Remove(id),
        Change::HandOver(id) => GroupChange::HandOver(id),
    }
}
