//! What a member that does not lead asks of the leader: to propose, and from which state on it may read; and what any member
//! asks of another: entries of the issuance log.

use super::node::Node;
use super::words::{self, Answered, Asked, Fate, Issued, Propose, Read};
use crate::carrier::CarryError;
use crate::handle::{ProposeError, RETRY_AFTER, ReadError};
use cluster::{Batch, Command, LogEntry, Outcome};
use pki::time::Time;
use std::ops::Range;
use std::time::Duration;

/// How long a leader may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How long a part of the issuance log may take on its way.
const ISSUED_WITHIN: Duration = Duration::from_secs(10);

/// Outcomes, and the index of the state that includes them.
pub(crate) struct Done {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) index: u64,
}

impl Node {
    /// Asks another member, and gives up when it leads no longer: it will not answer, or not soon.
    async fn ask(&self, leader: u64, asked: Asked) -> Result<Answered, CarryError> {
        let mut leadership = self.leadership();
        let answer = self.carrier.ask(leader, words::question(asked), ANSWER_WITHIN, false);
        tokio::select! {
            answer = answer => words::answered(&answer?).map_err(|error| CarryError::Lost(error.to_string())),
            _ = leadership.wait_for(|now| now.leader != Some(leader)) => {
                Err(CarryError::Lost(format!("member {leader} leads no longer")))
            }
        }
    }

    /// Has the leader propose these.
    pub(crate) async fn propose_at(&self, leader: u64, commands: Vec<Command>) -> Result<Done, ProposeError> {
        let count = commands.len();
        // The leader stamps it.
        let batch = Batch { time: Time::default(), commands }.encode();
        let proposed = match self.ask(leader, Asked::Propose(Propose { batch })).await {
            Ok(Answered::Propose(proposed)) => proposed,
            Err(CarryError::Unreachable(_) | CarryError::Refused(_)) => return Err(ProposeError::NoLeader),
            Ok(_) | Err(CarryError::Lost(_)) => return Err(ProposeError::Unknown),
        };
        match proposed.fate() {
            Fate::Done => {
                let outcomes: Result<Vec<_>, _> =
                    proposed.outcomes.iter().map(|bytes| Outcome::decode(bytes)).collect();
                let outcomes = outcomes.ok().filter(|outcomes| outcomes.len() == count);
                outcomes.map(|outcomes| Done { outcomes, index: proposed.index }).ok_or(ProposeError::Unknown)
            }
            Fate::NoLeader => Err(ProposeError::NoLeader),
            Fate::Busy => Err(ProposeError::Unavailable { retry_after: RETRY_AFTER }),
            Fate::Unknown => Err(ProposeError::Unknown),
        }
    }

    /// The index of a state that includes everything that was answered before.
    pub(crate) async fn read_index_at(&self, leader: u64) -> Result<u64, ReadError> {
        match self.ask(leader, Asked::Read(Read {})).await {
            Ok(Answered::Read(read)) if read.fate() == Fate::Done => Ok(read.index),
            Ok(Answered::Read(read)) if read.fate() != Fate::NoLeader => {
                Err(ReadError::Unavailable { retry_after: RETRY_AFTER })
            }
            Ok(_) | Err(_) => Err(ReadError::NoLeader),
        }
    }

    /// Everybody else in the group, the leader first.
    pub(crate) fn others(&self) -> Vec<u64> {
        let (leader, group) = (self.leader(), self.view.group.borrow().clone());
        let mut others: Vec<u64> = group.voters.iter().chain(&group.learners).copied().collect();
        others.retain(|other| *other != self.id);
        others.sort_by_key(|other| Some(*other) != leader);
        others
    }

    /// Entries of the issuance log of another member, without a gap; none: it lacks the first of them, or cannot be reached.
    pub(crate) async fn issued_at(&self, peer: u64, range: Range<u64>) -> Option<Vec<LogEntry>> {
        let question = words::question(Asked::Issued(Issued { from: range.start, to: range.end }));
        let answer = self.carrier.ask(peer, question, ISSUED_WITHIN, true).await.ok()?;
        match words::answered(&answer).ok()? {
            Answered::Issued(issued) => Some(issued.into_rows(range.start)),
            _ => None,
        }
    }
}
