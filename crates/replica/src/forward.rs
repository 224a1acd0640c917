//! Proposing and reading on any member: where to, and what to do when the leader is lost half-way.
//!
//! - Surely not proposed → once more, to whoever leads then, until [`PATIENCE`] is over.
//! - Perhaps proposed → once more if saying it twice changes nothing; else nobody knows, and the caller is told so.
//! - Refused the second time → the first one may be the reason: what it came to is asked of the state.

use crate::handle::{ProposeError, RETRY_AFTER, ReadError};
use crate::propose::Proposer;
use cluster::{Command, Outcome, State};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long a caller is kept waiting.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long nobody may lead.
pub(crate) const LEADERLESS: Duration = Duration::from_secs(2);
/// The pause before the same leader is asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until it makes sense to try again: another leader, or a pause. False: nobody leads, and it is over.
async fn again(proposer: &Proposer, tried: Option<u64>, deadline: Instant) -> bool {
    let mut leadership = proposer.node.leadership();
    let other = leadership.wait_for(|now| now.leader.is_some() && now.leader != tried);
    // A leader that was lost may be the one that leads again.
    let until = if tried.is_some() { Instant::now() + PAUSE } else { (Instant::now() + LEADERLESS).min(deadline) };
    let found = matches!(timeout_at(until, other).await, Ok(Ok(_)));
    (found || tried.is_some()) && Instant::now() < deadline
}

/// Proposes commands, wherever the leader is.
pub(crate) async fn propose(proposer: &Proposer, commands: Vec<Command>) -> Result<Vec<Outcome>, ProposeError> {
    // Nobody to lose an election against.
    if proposer.node.is_alone() {
        return proposer.propose(commands).await;
    }
    let deadline = Instant::now() + PATIENCE;
    let repeatable = commands.iter().all(Command::is_repeatable);
    let mut perhaps = false;
    loop {
        let tried = proposer.node.leader();
        let attempt = timeout_at(deadline, proposer.propose(commands.clone())).await;
        match attempt.unwrap_or(Err(ProposeError::Unknown)) {
            Ok(outcomes) if perhaps => return Ok(corrected(&proposer.states.state(), &commands, outcomes)),
            Err(ProposeError::NoLeader) => {}
            Err(ProposeError::Unknown) if repeatable => perhaps = true,
            Err(ProposeError::Unavailable { .. }) if perhaps => {}
            Err(_) if perhaps => return Err(ProposeError::Unknown),
            result => return result,
        }
        if !again(proposer, tried, deadline).await {
            return Err(if perhaps { ProposeError::Unknown } else { ProposeError::NoLeader });
        }
    }
}

/// What came of commands that were said more than once.
pub(crate) fn corrected(state: &State, commands: &[Command], outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let both = commands.iter().zip(outcomes);
    both.map(|(command, outcome)| match outcome {
        Outcome::Rejected(_) => state.already(command).unwrap_or(outcome),
        outcome => outcome,
    })
    .collect()
}

/// Returns when the state here includes everything that was answered anywhere before the call.
pub(crate) async fn read(proposer: &Proposer) -> Result<(), ReadError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(fatal) = proposer.fatal.get() {
            return Err(fatal.into());
        }
        let tried = proposer.node.leader();
        let error = match tried {
            None => ReadError::NoLeader,
            Some(leader) if leader == proposer.node.id() => match proposer.node.confirm().await {
                Err(error @ (ReadError::NoLeader | ReadError::Unavailable { .. })) => error,
                result => return result,
            },
            Some(leader) => match proposer.node.read_index_at(leader).await {
                Ok(index) if proposer.applied(index).await => return Ok(()),
                Ok(_) => ReadError::Unavailable { retry_after: RETRY_AFTER },
                Err(error) => error,
            },
        };
        if !again(proposer, tried, deadline).await {
            return Err(error);
        }
    }
}
