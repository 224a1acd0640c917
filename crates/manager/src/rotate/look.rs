//! One look of the leader at a rotation: whose turn has come, whether the phase may end, and when to look again. What is
//! proposed and who is woken is carried out by the leader's loop, or by the simulator.

use std::sync::Arc;
use std::time::Duration;

use cluster::command::SecretBox;
use cluster::node::Node;
use cluster::rotation::{Advance, Need, Phase};
use cluster::{Command, Outcome, Rejection, State};
use imbl::ordmap::DiffItem;
use pki::identity::NodeId;
use pki::join_token::JoinSecret;
use pki::time::Time;

use super::Pacer;
use super::pacer::Turn;
use crate::sessions::Sessions;

/// When to look again if nothing happens: a ladder may have to be made anew.
pub const IDLE: Duration = Duration::from_secs(60);
/// When to try again if a step was refused for now.
pub const AGAIN: Duration = Duration::from_millis(500);

/// What follows from a look.
#[derive(Debug)]
pub struct Look {
    /// Sessions that have something new to say.
    pub wake: Vec<NodeId>,
    /// The rotation and phase that may end now: to be [proposed](advance).
    pub due: Option<(u64, Phase)>,
    /// When to look again if nothing changes before.
    pub wait: Duration,
}

/// Nodes whose record differs: news for [`look`].
pub fn changed(before: &State, after: &State) -> Vec<NodeId> {
    let id = |item: DiffItem<'_, '_, NodeId, Arc<Node>>| match item {
        DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. } => id.clone(),
    };
    before.nodes.diff(&after.nodes).map(id).collect()
}

/// Looks at what has changed; `news` names the nodes whose record or session did. Orders are given here; the sessions named
/// in the answer tell them.
pub fn look(pacer: &mut Pacer, sessions: &mut Sessions, state: &State, now: Time, news: &[NodeId]) -> Look {
    let turns = pacer.step(now, state, sessions, news);
    let mut wake = Vec::with_capacity(turns.len());
    for Turn { node, need } in turns {
        if need == Need::Trust || sessions.order_renewal(&node).is_ok() {
            sessions.excuse(&node);
            wake.push(node);
        }
    }
    let due = pacer.due(state, now);
    let ends = state.rotation().filter(|_| due.is_none()).and_then(|rotation| pacer.ends(rotation));
    let next = [pacer.next_deadline(), ends].into_iter().flatten().min();
    let wait = next.map_or(IDLE, |next| next.since(now).min(IDLE)).max(Duration::from_millis(1));
    Look { wake, due, wait }
}

/// What ends a phase. The secrets are used if this step changes the root that joiners get.
pub fn advance((rotation, phase): (u64, Phase), worker: [u8; 16], manager: [u8; 16]) -> Command {
    let secret = |bytes| SecretBox(Arc::new(JoinSecret::from_bytes(bytes)));
    let advance = Advance { rotation, phase, worker_secret: secret(worker), manager_secret: secret(manager) };
    Command::AdvanceRotation(Box::new(advance))
}

/// When to look again after that was proposed; none: what came of it is unknown. `true` beside it: the refusal is not one
/// that time mends. A step that was under way when the leader changed may find the phase, or the rotation, ended by the next
/// leader's.
pub fn advanced(outcome: Option<&Outcome>) -> (Duration, bool) {
    match outcome {
        Some(Outcome::Done { .. }) => (Duration::ZERO, false),
        Some(Outcome::Rejected(Rejection::NotConverted | Rejection::OutOfSequence | Rejection::NoRotation)) | None => {
            (AGAIN, false)
        }
        Some(_) => (AGAIN, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_another_took_is_no_error() {
        let check =
            |outcome: Option<Outcome>, expected| assert_eq!(advanced(outcome.as_ref()), expected, "{outcome:?}");
        check(Some(Outcome::Done { version: 1 }), (Duration::ZERO, false));
        check(None, (AGAIN, false));
        check(Some(Outcome::Rejected(Rejection::NotConverted)), (AGAIN, false));
        check(Some(Outcome::Rejected(Rejection::OutOfSequence)), (AGAIN, false));
        check(Some(Outcome::Rejected(Rejection::NoRotation)), (AGAIN, false));
        check(Some(Outcome::Rejected(Rejection::Way)), (AGAIN, true));
        check(Some(Outcome::Unchanged), (AGAIN, true));
    }
}
