//! Changes of the group, by the leader. Each can be asked for again, also when the one before it stopped half-way.

use super::Types;
use super::node::Node;
use crate::fatal::Fatal;
use crate::group::{ChangeError, GroupChange};
use crate::handle::RETRY_AFTER;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers, RaftMetrics, ServerState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a change may take to be committed.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// How long the next leader may take to lead.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(3);

type Change = ChangeMembers<u64, BasicNode>;

impl Node {
    /// Changes the group.
    pub(crate) async fn change(&self, change: GroupChange) -> Result<(), ChangeError> {
        if self.is_ending() {
            return Err(ChangeError::NotLeader);
        }
        let server = self.raft.server_metrics().borrow_watched().clone();
        if server.state != ServerState::Leader {
            return Err(ChangeError::NotLeader);
        }
        let members = server.membership_config.membership();
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        let whole = members.get_joint_config().len() == 1;
        let is_member = |id: u64| members.get_node(&id).is_some();
        let impossible = |text: String| Err(ChangeError::Impossible(text));
        match change {
            GroupChange::AddLearner(id) if is_member(id) => Ok(()),
            GroupChange::AddLearner(id) => {
                // Before there is anybody else: from then on timers run.
                self.raft.runtime_config().tick(true);
                self.commit(ChangeMembers::AddNodes(BTreeMap::from([(id, BasicNode::default())]))).await
            }
            GroupChange::Promote(id) if voters.contains(&id) && whole => Ok(()),
            GroupChange::Promote(id) if !is_member(id) => impossible(format!("there is no member {id}")),
            GroupChange::Promote(id) => self.commit(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await,
            GroupChange::Remove(id) if !is_member(id) && whole => Ok(()),
            GroupChange::Remove(id) if id == self.id => {
                impossible("the leader hands over before it is removed".to_owned())
            }
            GroupChange::Remove(id) if voters.contains(&id) || !is_member(id) => {
                self.commit(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
            }
            GroupChange::Remove(id) => self.commit(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await,
            GroupChange::HandOver(id) if id == self.id || !voters.contains(&id) => {
                impossible(format!("there is no other voter {id}"))
            }
            GroupChange::HandOver(id) => self.hand_over(id).await,
        }
    }

    async fn commit(&self, change: Change) -> Result<(), ChangeError> {
        let changed = self.raft.change_membership(change, false);
        match tokio::time::timeout(CHANGE_WITHIN, changed).await {
            Ok(Ok(changed)) => {
                // The next change must see it.
                let seen = |metrics: &RaftMetrics<Types>| *metrics.membership_config.log_id() >= Some(changed.log_id);
                let wait = self.raft.wait(Some(CHANGE_WITHIN));
                wait.metrics(seen, "the change is seen").await.map(drop).map_err(|_| ChangeError::Unknown)
            }
            Ok(Err(error)) => Err(refused(error)),
            Err(_) => Err(ChangeError::Unknown),
        }
    }

    async fn hand_over(&self, to: u64) -> Result<(), ChangeError> {
        let mut leadership = self.leadership();
        let trigger = self.raft.trigger().transfer_leader(to).await;
        trigger.map_err(|error| Fatal::new(error.to_string()))?;
        let other = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != self.id));
        match tokio::time::timeout(HAND_OVER_WITHIN, other).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Fatal::new("raft stopped").into()),
            Err(_) => Err(ChangeError::Unavailable { retry_after: RETRY_AFTER }),
        }
    }
}

fn refused(error: RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
    match error {
        RaftError::Fatal(error) => Fatal::new(error.to_string()).into(),
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ChangeError::NotLeader,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
                ChangeError::Unavailable { retry_after: RETRY_AFTER }
            }
            error => ChangeError::Impossible(error.to_string()),
        },
        // Discarded entries may still be committed by another leader.
        RaftError::APIError(_) => ChangeError::Unknown,
    }
}
