//! The operator's side: what the Engine API reads and asks for. Texts and codes are docker's (pki.md 13, 14).

use std::sync::Arc;
use std::time::Duration;

use cluster::command::{SecretBox, UpdateCluster};
use cluster::node::Node;
use cluster::rotation::{Policy, RootsChange};
use cluster::settings::NODE_CERT_EXPIRY_MIN;
use cluster::tokens::{MANAGER_ROW, WORKER_ROW};
use cluster::{Command, Outcome, Rejection, State};
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::join_token::JoinSecret;
use pki::secret::SecretString;
use replica::Handle;
use tokio::sync::watch;
use wire::status::Refusal;

use crate::issue::pipeline::refused;
use crate::report;
use crate::rotate::status::Seen;
use crate::rotate::{self, CaStatus, Decision, Rehearsal, Wish};
use crate::shared::{Shared, cores};
use crate::view::{ClusterSpec, ClusterView, ControlError, ManagerStatus, NodeSpec, NodeState, NodeView, Rotate};

/// The operator's handle on a manager; cheap to clone.
pub struct Control<H>(pub(crate) Arc<Shared<H>>);

impl<H> Clone for Control<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<H: Handle> Control<H> {
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

    /// One node.
    pub fn node(&self, id: &NodeId) -> Option<NodeView> {
        let state = self.0.handle.state();
        state.node(id).map(|node| self.view(&state, node))
    }

    /// The replicated state, as last applied here.
    pub fn state(&self) -> Arc<State> {
        self.0.handle.state()
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
        wish: &Wish,
    ) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        if !spec.node_cert_expiry.is_zero() && spec.node_cert_expiry < NODE_CERT_EXPIRY_MIN {
            return Err(Refusal::ExpiryTooShort.into());
        }
        let later = |what: &str| ControlError {
            code: tonic::Code::Unimplemented,
            message: format!("{what} is not available in this version of swarmpki"),
        };
        let before = &state.settings;
        let wanted = spec.settings(before);
        if wanted.external_cas != before.external_cas {
            return Err(later("an external CA"));
        }
        if spec.autolock || rotate.unlock_key {
            return Err(later("autolock"));
        }
        let roots = self.roots_change(&state, wish, Policy::WaitForAll)?;
        let update = UpdateCluster {
            version,
            settings: Some(wanted),
            worker_secret: self.secret(rotate.worker)?,
            manager_secret: self.secret(rotate.manager)?,
            roots,
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
        Ok(())
    }

    /// Begins to replace the root.
    ///
    /// # Errors
    /// The refusals of engine-api.md 7.2; FAILED_PRECONDITION if a rotation is under way that this one cannot replace.
    pub async fn rotate_root(
        &self,
        wish: Wish,
        node_cert_expiry: Option<Duration>,
        policy: Policy,
    ) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        let mut settings = state.settings.as_ref().clone();
        if let Some(expiry) = node_cert_expiry {
            if !expiry.is_zero() && expiry < NODE_CERT_EXPIRY_MIN {
                return Err(Refusal::ExpiryTooShort.into());
            }
            settings.node_cert_expiry = expiry;
        }
        settings.force_rotate = settings.force_rotate.wrapping_add(1);
        let wish = Wish { force_rotate: settings.force_rotate, ..wish };
        let roots = self.roots_change(&state, &wish, policy)?;
        // Whoever stole the key may know the tokens too.
        let emergency = matches!(policy, Policy::Emergency { .. });
        let update = UpdateCluster {
            version: state.cluster_version,
            settings: Some(settings),
            worker_secret: self.secret(emergency)?,
            manager_secret: self.secret(emergency)?,
            roots,
        };
        self.ask(Command::UpdateCluster(Box::new(update)), None).await
    }

    /// Turns the rotation under way back.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if there is none, or none that can be turned.
    pub async fn abort_rotation(&self, policy: Policy) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        let change = rotate::turn_back(&state, policy, self.0.now())?;
        let update = UpdateCluster {
            version: state.cluster_version,
            settings: None,
            worker_secret: None,
            manager_secret: None,
            roots: Some(change),
        };
        self.ask(Command::UpdateCluster(Box::new(update)), None).await
    }

    /// How the roots stand.
    ///
    /// # Errors
    /// If there is no cluster yet.
    pub fn ca_status(&self) -> Result<CaStatus, ControlError> {
        let state = self.0.handle.state();
        self.seen(|seen| rotate::status(&state, seen, self.0.now())).ok_or_else(|| Refusal::SignerStarting.into())
    }

    /// How a rotation would go if it began now. Nothing changes.
    ///
    /// # Errors
    /// As [`rotate_root`](Self::rotate_root).
    pub fn rehearse_rotation(&self, wish: Wish, policy: Policy) -> Result<Rehearsal, ControlError> {
        let state = self.0.handle.state();
        let wish = Wish { force_rotate: state.settings.force_rotate.wrapping_add(1), ..wish };
        let Some(change) = self.roots_change(&state, &wish, policy)? else {
            return Err(ControlError {
                code: tonic::Code::FailedPrecondition,
                message: "that is the root of now: there is nothing to rotate to".to_owned(),
            });
        };
        self.seen(|seen| rotate::rehearse(&state, seen, change, cores(), self.0.now()))
    }

    /// What an update asks of the roots, with everything signed that it needs.
    fn roots_change(&self, state: &State, wish: &Wish, policy: Policy) -> Result<Option<RootsChange>, ControlError> {
        let now = self.0.now();
        Ok(match rotate::decide(state, wish, now)? {
            Decision::Keep => None,
            Decision::Abort => Some(rotate::turn_back(state, policy, now)?),
            Decision::Given(root) => Some(rotate::prepare(state, root, false, policy, now)?),
            Decision::Generate => {
                let root = rotate::generate(&self.0.chance, now)?;
                Some(rotate::prepare(state, root, true, policy, now)?)
            }
        })
    }

    fn secret(&self, wanted: bool) -> Result<Option<SecretBox>, ControlError> {
        if !wanted {
            return Ok(None);
        }
        let bytes = self.0.chance.bytes().map_err(|_| Refusal::SignerStopped)?;
        Ok(Some(SecretBox(Arc::new(JoinSecret::from_bytes(bytes)))))
    }

    /// What only this manager knows of nodes.
    fn seen<T>(&self, look: impl FnOnce(&Seen<'_>) -> T) -> T {
        let shared = &self.0;
        let sessions = shared.sessions();
        let pacer = shared.pacer();
        let stream_lost = |node: &NodeId| shared.slots.lost_at(node);
        let last_error = |node: &NodeId| shared.last_refusal(node);
        look(&Seen { sessions: &sessions, pacer: &pacer, stream_lost: &stream_lost, last_error: &last_error })
    }

    /// The operator's wish for a node.
    ///
    /// # Errors
    /// The refusals of pki.md 13.1.
    pub async fn update_node(&self, id: &NodeId, version: u64, spec: NodeSpec) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        let node = state.node(id).ok_or_else(|| Refusal::NodeMissing { node: id.to_string() })?;
        if spec.role == Role::Manager && node.spec.role == Role::Worker {
            if !node.ours {
                return Err(Refusal::EngineNotPromotable { node: id.clone() }.into());
            }
            return Err(ControlError {
                code: tonic::Code::Unimplemented,
                message: "a cluster has one manager in this version of swarmpki: the node stays a worker".to_owned(),
            });
        }
        if spec.role == Role::Worker && node.spec.role == Role::Manager {
            return Err(Refusal::LastManager.into());
        }
        self.ask(Command::UpdateNode { node: id.clone(), version, spec: Box::new(spec) }, Some(id)).await?;
        tracing::info!(node = %id, "what is wished of the node was changed");
        Ok(())
    }

    /// Removes a node for good. Its connections and streams are ended as soon as this is committed.
    ///
    /// # Errors
    /// The refusals of pki.md 13.2.
    pub async fn remove_node(&self, id: &NodeId, force: bool) -> Result<(), ControlError> {
        let ready = self.0.sessions().is_ready(id);
        self.ask(Command::RemoveNode { node: id.clone(), force, ready }, Some(id)).await?;
        tracing::info!(node = %id, was_in_session = ready, "the node was removed: its certificates are refused");
        Ok(())
    }

    /// Orders a node in session to renew its certificate now. It is told so in its session; engines begin within half a
    /// second. Asked again, the order is given again.
    ///
    /// # Errors
    /// If there is no such node, or it has no session with this manager.
    pub fn order_renewal(&self, id: &NodeId) -> Result<(), ControlError> {
        if self.0.handle.state().node(id).is_none() {
            return Err(Refusal::NodeMissing { node: id.to_string() }.into());
        }
        self.0.sessions().order_renewal(id).map_err(|_| ControlError {
            code: tonic::Code::FailedPrecondition,
            message: format!("node {id} has no session with this manager: it renews when it comes back"),
        })?;
        if let Some(slot) = self.0.slots.get(id) {
            slot.wake();
        }
        Ok(())
    }

    async fn ask(&self, command: Command, node: Option<&NodeId>) -> Result<(), ControlError> {
        let outcomes = self.0.handle.propose(vec![command]).await.map_err(|error| refused(&error))?;
        match outcomes.into_iter().next() {
            Some(Outcome::Rejected(rejection)) => Err(refusal(&rejection, node).into()),
            Some(_) => Ok(()),
            None => Err(Refusal::OutcomeUnknown.into()),
        }
    }

    fn view(&self, state: &State, node: &Node) -> NodeView {
        let row = self.0.sessions().row(&node.id).cloned();
        let in_session = row.as_ref().filter(|row| row.session.is_some());
        let (presence, message) = match in_session {
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
        let member = state.members.rows.get(&node.id);
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
            manager: member.map(|member| ManagerStatus { leader: true, reachable: true, addr: member.addr.clone() }),
            not_after: leaf.map(|leaf| leaf.not_after),
            renew_window,
            clock_offset_ms: row.as_ref().and_then(|row| row.clock).map(|clock| clock.offset_ms),
            last_contact: row.and_then(|row| row.last_contact).or(node.last_seen),
            unfinished: node.unfinished.is_some(),
        }
    }
}

/// When one of our nodes received its leaf, as near as a manager can tell.
fn received(leaf: &cluster::node::Leaf) -> pki::time::Time {
    leaf.not_before.saturating_add(pki::issue::LEAF_BACKDATE)
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
        Rejection::RoleFixed => Refusal::LastManager,
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
        | Rejection::Blob => Refusal::IssuanceStale,
    }
}
