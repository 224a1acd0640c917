//! The operator's side: what the Engine API reads and asks for. Texts and codes are docker's (pki.md 13, 14).

use std::sync::Arc;

use cluster::command::{SecretBox, UpdateCluster};
use cluster::node::Node;
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
use crate::shared::Shared;
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
            issuer: signing.issuer_id(),
            rotation_in_progress: false,
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

    /// New settings and fresh join tokens (pki.md 14).
    ///
    /// # Errors
    /// The refusals of engine-api.md 2.1, in the order of 7.1.
    pub async fn update_cluster(&self, version: u64, spec: ClusterSpec, rotate: Rotate) -> Result<(), ControlError> {
        let state = self.0.handle.state();
        if !spec.node_cert_expiry.is_zero() && spec.node_cert_expiry < NODE_CERT_EXPIRY_MIN {
            return Err(Refusal::ExpiryTooShort.into());
        }
        let later = |what: &str| ControlError {
            code: tonic::Code::Unimplemented,
            message: format!("{what} is not available in this version of swarmpki"),
        };
        let before = &state.settings;
        if !spec.signing_ca_cert.is_empty() || spec.force_rotate != before.force_rotate {
            return Err(later("rotation of the root CA"));
        }
        let wanted = spec.settings(before);
        if wanted.external_cas != before.external_cas {
            return Err(later("an external CA"));
        }
        if spec.autolock || rotate.unlock_key {
            return Err(later("autolock"));
        }
        let secret = |wanted: bool| match wanted {
            true => self.0.chance.bytes().map(|bytes| Some(SecretBox(Arc::new(JoinSecret::from_bytes(bytes))))),
            false => Ok(None),
        };
        let unavailable = |_| ControlError::from(Refusal::SignerStopped);
        let update = UpdateCluster {
            version,
            settings: Some(wanted),
            worker_secret: secret(rotate.worker).map_err(unavailable)?,
            manager_secret: secret(rotate.manager).map_err(unavailable)?,
            roots: None,
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
            clock_offset_ms: row.as_ref().and_then(|row| row.clock_offset_ms),
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
        | Rejection::NoRotation
        | Rejection::RotationBusy
        | Rejection::NotConverted
        | Rejection::Blob => Refusal::IssuanceStale,
    }
}
