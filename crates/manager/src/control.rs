//! The operator's side: what the Engine API reads and asks for. Texts and codes are docker's (pki.md 13, 14).

mod roots;
pub mod tokens;

use std::sync::Arc;
use std::time::Duration;

use cluster::account::Account;
use cluster::command::{SecretBox, UpdateCluster};
use cluster::lock::{self, LockChange, UnlockBox};
use cluster::node::Node;
use cluster::settings::NODE_CERT_EXPIRY_MIN;
use cluster::tokens::{MANAGER_ROW, WORKER_ROW};
use cluster::{Command, Outcome, Rejection, State};
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::join_token::JoinSecret;
use pki::secret::SecretString;
use pki::time::Time;
use pki::unlock_key::UnlockKey;
use replica::Handle;
use tokio::sync::watch;
use wire::status::Refusal;

use crate::heads::Signed;
use crate::issue::pipeline::refused;
use crate::report;
use crate::rotate::{self, Wish};
use crate::sessions::Row;
use crate::shared::Shared;
use crate::view::{
    ClusterSpec, ClusterView, ControlError, ForkSeen, GroupView, NodeSpec, NodeState, NodeView, OutOfReach, Rotate,
};

/// How long the removal of a node waits for its demotion, which takes a moment.
const DEMOTED_WITHIN: Duration = Duration::from_secs(5);

/// The operator's handle on a manager, and who that operator is; cheap to clone.
pub struct Control<H>(pub(crate) Arc<Shared<H>>, pub(crate) Option<Arc<Account>>);

impl<H> Clone for Control<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), self.1.clone())
    }
}

impl<H: Handle> Control<H> {
    /// The same for somebody who is named: what is asked for by this stands in the log with that name.
    #[must_use]
    pub fn by(&self, account: Account) -> Self {
        Self(Arc::clone(&self.0), Some(Arc::new(account)))
    }

    /// Brings what this manager knows up to date with whatever was answered anywhere before: the state, and who is in session with whom.
    ///
    /// # Errors
    /// Without a leader, or if leadership cannot be confirmed (engine-api.md 2.1).
    pub async fn fresh(&self) -> Result<(), ControlError> {
        // Known already: nobody has to wait to be told. A leader that hears no majority is none.
        if self.0.is_cut_off() {
            return Err(Refusal::NoLeader.into());
        }
        tokio::select! {
            biased;
            () = self.lost() => return Err(Refusal::NoLeader.into()),
            read = self.0.handle.read() => drop(read.map_err(unread)?),
        }
        if self.0.is_one_of_several(&self.0.handle.state()) {
            // What sessions there are is shown as it was known last if the leader does not say.
            let _ = self.0.sharer.lock().await.exchange(&self.0).await;
        }
        Ok(())
    }

    /// Waits until this manager hears nobody, and finds no majority either: while it finds one, that will soon have a leader.
    async fn lost(&self) {
        let mut cut_off = self.0.cut_off.subscribe();
        // The sender is here.
        let _ = cut_off.wait_for(|cut_off| *cut_off).await;
        let state = self.0.handle.state();
        let all = state.members.rows.len();
        if all.saturating_sub(self.0.unreachable(&state).len()) > all / 2 {
            std::future::pending().await
        }
    }

    /// The cluster.
    ///
    /// # Errors
    /// If there is none yet.
    pub fn cluster(&self) -> Result<ClusterView, ControlError> {
        let state = self.0.handle.state();
        let missing = || ControlError::from(Refusal::SignerStarting);
        let facts = state.cluster.as_deref().ok_or_else(missing)?;
        let root = state.roots.served().ok_or_else(missing)?;
        let signing = state.roots.signing().ok_or_else(missing)?;
        let digest = Digest::of(&root.bundle);
        let token = |row| {
            let token = state.tokens.text(row, &digest, facts.fips).ok_or_else(missing)?;
            Ok::<_, ControlError>(SecretString::new(token.text().to_owned()))
        };
        Ok(ClusterView {
            id: facts.id.clone(),
            version: state.cluster_version,
            created: facts.created,
            updated: state.cluster_updated,
            spec: ClusterSpec::from(&*state.settings),
            trust_root: String::from_utf8_lossy(&root.bundle).into_owned(),
            issuer: state.rotation().map_or(signing, |rotation| rotation.to()).issuer_id(),
            rotation_in_progress: state.rotation().is_some(),
            worker_token: token(WORKER_ROW)?,
            manager_token: token(MANAGER_ROW)?,
            fips: facts.fips,
            default_addr_pool: state.settings.default_addr_pool.clone(),
            subnet_size: state.settings.subnet_size,
            data_path_port: state.settings.data_path_port,
        })
    }

    /// Every node, unfinished joins too (they say so).
    pub fn nodes(&self) -> Vec<NodeView> {
        let state = self.0.handle.state();
        state.nodes.values().map(|node| self.view(&state, node)).collect()
    }

    /// How the group of managers stands, by what is known here at this moment. Nobody is asked: it is for who finds no leader.
    pub fn group(&self) -> GroupView {
        let shared = &self.0;
        let state = shared.handle.state();
        let leader = shared.handle.leadership().borrow().leader.filter(|_| !shared.is_cut_off());
        let rows = &state.members.rows;
        let away = rows.iter().filter(|(_, row)| !shared.is_reachable(row.raft_id)).map(|(id, row)| {
            let missed = shared.peers.misses(row.raft_id);
            OutOfReach {
                node: id.clone(),
                hostname: state
                    .node(id)
                    .and_then(|node| Some(node.report.as_deref()?.hostname.clone()))
                    .unwrap_or_default(),
                addr: row.addr.clone(),
                since: missed.as_ref().map(|missed| missed.since),
                why: missed.map(|missed| missed.why),
            }
        });
        GroupView {
            managers: rows.len(),
            leader: rows.iter().find(|(_, row)| Some(row.raft_id) == leader).map(|(id, _)| id.clone()),
            out_of_reach: away.collect(),
        }
    }

    /// One node.
    pub fn node(&self, id: &NodeId) -> Option<NodeView> {
        let state = self.0.handle.state();
        state.node(id).map(|node| self.view(&state, node))
    }

    /// The replicated state, as last applied here.
    pub fn state(&self) -> Arc<State> {
        self.0.handle.state()
    }

    /// The head of the issuance log, signed by this manager; none: it cannot sign now.
    pub fn log_head(&self) -> Option<Arc<Signed>> {
        self.0.sign_head()
    }

    /// The head of the issuance log in this state, signed by this manager.
    pub fn log_head_of(&self, state: &State) -> Option<Arc<Signed>> {
        self.0.sign_head_of(state)
    }

    /// Says where another manager is, to one that finds none: it is asked there, too.
    pub fn manager_at(&self, addr: String) {
        self.0.whereabouts.ask_at(addr);
    }

    /// Why the others could not be told yet where this manager is; none: they know, or nobody was asked.
    pub fn untold(&self) -> Option<String> {
        self.0.whereabouts.untold()
    }

    /// Heads that nodes showed and that are not of this manager's log, since it started.
    pub fn log_forks(&self) -> Vec<ForkSeen> {
        self.0.heads.forks()
    }

    /// Changes whenever something that the views show has changed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.seen.subscribe()
    }

    /// New settings, fresh join tokens, and another root if `wish` asks for one (pki.md 12.2 and 14).
    ///
    /// # Errors
    /// The refusals of engine-api.md 2.1, in the order of 7.1.
    pub async fn update_cluster(
        &self,
        version: u64,
        spec: ClusterSpec,
        rotate: Rotate,
        wish: Wish,
    ) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        if !spec.node_cert_expiry.is_zero() && spec.node_cert_expiry < NODE_CERT_EXPIRY_MIN {
            return Err(Refusal::ExpiryTooShort.into());
        }
        let before = &state.settings;
        let mut wanted = spec.settings(before);
        wanted.external_cas = rotate::with_present(&state, &wish, wanted.external_cas);
        let change = self.roots_change(&state, wish, &wanted.external_cas, None).await?;
        self.try_out(&state, &change, &wanted.external_cas).await?;
        let lock = lock::change(wanted.autolock, state.unlock.is_some(), rotate.unlock_key);
        let update = UpdateCluster {
            version,
            settings: Some(wanted),
            worker_secret: self.secret(rotate.worker)?,
            manager_secret: self.secret(rotate.manager)?,
            roots: change.roots,
            custody: change.custody,
            unlock: self.fresh_unlock_key(lock)?,
            told: true,
        };
        let changed = update.settings.as_ref() != Some(before);
        self.ask(Command::UpdateCluster(Box::new(update)), None).await?;
        if changed {
            tracing::info!("the cluster's settings were changed");
        }
        for (role, replaced) in [(Role::Worker, rotate.worker), (Role::Manager, rotate.manager)] {
            if replaced {
                tracing::info!(role = role.word(), "the join token was replaced: the old one admits nobody any more");
            }
        }
        match lock {
            LockChange::Keep => {}
            LockChange::Fresh => tracing::info!("there is a new unlock key: managers need it when they start"),
            LockChange::Drop => tracing::info!("managers are not locked at rest any more"),
        }
        Ok(())
    }

    /// The unlock key; none while managers are not locked at rest. It is the key of now, whichever manager was asked.
    ///
    /// # Errors
    /// Without a leader, or if leadership cannot be confirmed (engine-api.md 2.1).
    pub async fn unlock_key(&self) -> Result<Option<SecretString>, ControlError> {
        let state = self.0.handle.read().await.map_err(unread)?;
        if state.unlock.is_some() {
            self.ask(Command::UnlockKeyShown, None).await?;
        }
        Ok(state.unlock.as_ref().map(|unlock| unlock.0.text()))
    }

    fn secret(&self, wanted: bool) -> Result<Option<SecretBox>, ControlError> {
        if !wanted {
            return Ok(None);
        }
        let bytes = self.0.chance.bytes().map_err(|_| Refusal::SignerStopped)?;
        Ok(Some(SecretBox(Arc::new(JoinSecret::from_bytes(bytes)))))
    }

    fn fresh_unlock_key(&self, change: LockChange) -> Result<Option<UnlockBox>, ControlError> {
        if change != LockChange::Fresh {
            return Ok(None);
        }
        let bytes = self.0.chance.bytes().map_err(|_| Refusal::SignerStopped)?;
        Ok(Some(UnlockBox(Arc::new(UnlockKey::from_bytes(bytes)))))
    }

    /// The operator's wish for a node.
    ///
    /// # Errors
    /// The refusals of pki.md 13.1.
    pub async fn update_node(&self, id: &NodeId, version: u64, spec: NodeSpec) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        let node = state.node(id).ok_or_else(|| Refusal::NodeMissing { node: id.to_string() })?;
        if spec.role == Role::Worker && node.spec.role == Role::Manager && self.0.needs(&state, id) {
            return Err(Refusal::QuorumLoss.into());
        }
        self.ask(Command::UpdateNode { node: id.clone(), version, spec: Box::new(spec) }, Some(id)).await?;
        tracing::info!(node = %id, "what is wished of the node was changed");
        Ok(())
    }

    /// Erases private parts of the log: of all entries below this one, with every manager.
    ///
    /// # Errors
    /// If there are not so many entries; without a leader.
    pub async fn erase_log(&self, below: u64) -> Result<(), ControlError> {
        self.ask(Command::EraseLog { below }, None).await?;
        tracing::info!(below, "private parts of the issuance log were erased");
        Ok(())
    }

    /// Removes a node for good. Its connections and streams are ended as soon as this is committed.
    ///
    /// # Errors
    /// The refusals of pki.md 13.2.
    pub async fn remove_node(&self, id: &NodeId, force: bool) -> Result<(), ControlError> {
        // One whose demotion is under way is a manager for a moment yet.
        let demoted = |state: &Arc<State>| {
            let wish = state.node(id).map(|node| node.spec.role);
            wish != Some(Role::Worker) || !state.members().contains_key(id)
        };
        let mut states = self.0.handle.watch();
        // In vain: it is refused as a manager.
        let _ = tokio::time::timeout(DEMOTED_WITHIN, states.wait_for(demoted)).await;
        let elsewhere = || self.0.roster().get(id).is_some_and(|session| !session.returning);
        let ready = self.0.sessions().is_ready(id) || elsewhere();
        self.ask(Command::RemoveNode { node: id.clone(), force, ready }, Some(id)).await?;
        tracing::info!(node = %id, was_in_session = ready, "the node was removed: its certificates are refused");
        Ok(())
    }

    /// Orders a node in session to renew its certificate now, with whichever manager. It is told so in its session; engines begin within half
    /// a second. Asked again, the order is given again.
    ///
    /// # Errors
    /// If there is no such node, or it has no session.
    pub async fn order_renewal(&self, id: &NodeId) -> Result<(), ControlError> {
        if self.0.handle.state().node(id).is_none() {
            return Err(Refusal::NodeMissing { node: id.to_string() }.into());
        }
        if self.0.order_renewal(id).is_ok() {
            return Ok(());
        }
        if self.0.roster().get(id).is_none() {
            return Err(ControlError {
                code: tonic::Code::FailedPrecondition,
                message: format!("node {id} has no session: it renews when it comes back"),
            });
        }
        self.0.sharer.lock().await.order_renewal(&self.0, id).await.map_err(|error| ControlError {
            code: tonic::Code::Unavailable,
            message: format!("node {id} is in session with another manager, which could not be told: {error}"),
        })
    }

    async fn ask(&self, command: Command, node: Option<&NodeId>) -> Result<(), ControlError> {
        match self.propose(command).await? {
            Outcome::Rejected(rejection) => Err(refusal(&rejection, node).into()),
            _ => Ok(()),
        }
    }

    /// Commits a command; what came of it.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome, ControlError> {
        let command = match &self.1 {
            Some(account) => self.0.attributed(account, command).map_err(|_| Refusal::SignerStopped)?,
            None => command,
        };
        let outcomes = self.0.handle.propose(vec![command]).await.map_err(|error| refused(&error))?;
        outcomes.into_iter().next().ok_or_else(|| Refusal::OutcomeUnknown.into())
    }

    fn view(&self, state: &State, node: &Node) -> NodeView {
        let row = self.0.sessions().row(&node.id).cloned().filter(|row| row.session.is_some());
        let row = row.or_else(|| self.0.roster().get(&node.id).map(|other| Row::elsewhere(self.0.now(), other)));
        let in_session = row.as_ref().filter(|row| row.session.is_some());
        let (presence, message) = match in_session {
            // Its session is gone, although its time has not run out yet.
            _ if state.is_revoked(node) => (NodeState::Down, "its certificates were revoked"),
            Some(row) if row.returning => {
                (NodeState::Disconnected, "node came back with an old certificate and is renewing it")
            }
            Some(_) => (NodeState::Ready, ""),
            None if node.down => (NodeState::Down, "heartbeat failure"),
            None if node.report.is_some() => {
                (NodeState::Unknown, "Node moved to \"unknown\" state due to leadership change in cluster")
            }
            None => (NodeState::Unknown, ""),
        };
        // The newest: a node keeps its session on the leaf before, and shows the new one when it reconnects.
        let leaf = node.offered.last().or(node.current.as_ref());
        let renew_window = leaf.map(|leaf| {
            if node.ours {
                let at = pki::renewal::renew_at(received(leaf), leaf.not_after, &leaf.serial);
                (at, at)
            } else {
                pki::renewal::engine_window(leaf.not_before, leaf.not_after)
            }
        });
        let member = state.members.rows.get(&node.id).filter(|_| node.role == Role::Manager);
        NodeView {
            id: node.id.clone(),
            version: node.version,
            created: node.created,
            updated: node.updated,
            spec: node.spec.clone(),
            role: node.role,
            description: node.report.as_deref().map(|said| report::join(state, said)),
            state: presence,
            message: message.to_owned(),
            addr: node.report.as_deref().map(|said| said.addr.clone()).unwrap_or_default(),
            manager: member.map(|member| self.0.manager_status(member)),
            not_after: leaf.map(|leaf| leaf.not_after),
            renew_window,
            clock_offset_ms: row.as_ref().and_then(|row| row.clock).map(|clock| clock.offset_ms),
            last_contact: row.and_then(|row| row.last_contact).or(node.last_seen),
            unfinished: node.unfinished.is_some(),
        }
    }
}

/// When one of our nodes received its leaf, as near as a manager can tell.
fn received(leaf: &cluster::node::Leaf) -> Time {
    leaf.not_before.saturating_add(pki::issue::LEAF_BACKDATE)
}

/// Why the state could not be read as it is now.
pub(crate) fn unread(error: replica::ReadError) -> ControlError {
    match error {
        replica::ReadError::NoLeader => Refusal::NoLeader.into(),
        replica::ReadError::Unavailable { .. } => Refusal::DeadlineExceeded.into(),
        replica::ReadError::Fatal(fatal) => ControlError { code: tonic::Code::Internal, message: fatal.to_string() },
    }
}

impl From<Refusal> for ControlError {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code(), message: refusal.to_string() }
    }
}

fn refusal(rejection: &Rejection, node: Option<&NodeId>) -> Refusal {
    let node_or = |refusal: fn(NodeId) -> Refusal| node.map_or(Refusal::ArgumentMissing, |node| refusal(node.clone()));
    match rejection {
        Rejection::OutOfSequence => Refusal::OutOfSequence,
        Rejection::UnknownNode | Rejection::Removed => node_or(|node| Refusal::NodeMissing { node: node.to_string() }),
        Rejection::Ready => node_or(|node| Refusal::RemovalOfLiveNode { node }),
        Rejection::Manager => node_or(|node| Refusal::RemovalOfManager { node }),
        Rejection::LastManager => Refusal::LastManager,
        Rejection::NotSeated | Rejection::NotPromoted => Refusal::NotRaftMember,
        Rejection::EngineNotPromotable => node_or(|node| Refusal::EngineNotPromotable { node }),
        Rejection::NoCluster => Refusal::SignerStarting,
        // The roots changed since the update was prepared: the version says so too.
        Rejection::NoRotation | Rejection::RotationBusy | Rejection::Way => Refusal::OutOfSequence,
        Rejection::Exists
        | Rejection::Issuer
        | Rejection::Epoch
        | Rejection::Skew
        | Rejection::Token
        | Rejection::TokenBusy
        | Rejection::IdTaken
        | Rejection::SerialUsed
        | Rejection::Cut
        | Rejection::Role
        | Rejection::NodeBusy
        | Rejection::NotConverted
        | Rejection::NotKept
        | Rejection::TooManyRevoked
        | Rejection::Blob
        | Rejection::TokenEnded
        | Rejection::TokenSpent
        | Rejection::TokenRevoked
        | Rejection::UnknownToken
        | Rejection::TokenLimits
        | Rejection::UnknownOperator
        | Rejection::OperatorRevoked
        | Rejection::OperatorsFull => Refusal::IssuanceStale,
    }
}
