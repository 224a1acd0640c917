//! What an operator sees of the cluster and may ask of it: plain values, free of transport.
//!
//! The Engine API and the command line both speak in these types; they hold no secrets but the join tokens, which are
//! printable by design of the API they serve.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::settings::Settings;
use pki::certificate::IssuerId;
use pki::identity::{ClusterId, NodeId, Role};
use pki::secret::SecretString;
use pki::time::Time;
use pki::witness::Head;

pub use cluster::node::{Availability, Spec as NodeSpec};
pub use cluster::settings::{ExternalCa, RaftSettings};

/// A head of the issuance log that a node showed, and that is not of this manager's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkSeen {
    /// When it was shown, by this manager's clock.
    pub at: Time,
    /// Who showed it.
    pub shown_by: NodeId,
    /// The manager that signed it.
    pub signed_by: NodeId,
    /// It.
    pub head: Head,
    /// What is wrong with it.
    pub why: String,
}

/// The cluster as `GET /swarm` shows it (engine-api.md 5, ClusterInfo).
pub struct ClusterView {
    /// The cluster's id: O of every node certificate.
    pub id: ClusterId,
    /// Version of the cluster object; an update has to name it.
    pub version: u64,
    /// When the cluster was created.
    pub created: Time,
    /// When the cluster object last changed.
    pub updated: Time,
    /// The settings.
    pub spec: ClusterSpec,
    /// The trust bundle as served, PEM, byte for byte what the join tokens' digest covers.
    pub trust_root: String,
    /// Who is supposed to issue node certificates: the new root while a rotation runs.
    pub issuer: IssuerId,
    /// Whether a root rotation is in progress.
    pub rotation_in_progress: bool,
    /// The worker's join token.
    pub worker_token: SecretString,
    /// The manager's join token.
    pub manager_token: SecretString,
    /// Whether the cluster requires FIPS.
    pub fips: bool,
    /// Address pools; none were ever set: the API shows `null` (engine-api.md 5).
    pub default_addr_pool: Vec<String>,
    /// Subnet mask length of the address pool, in bits.
    pub subnet_size: u32,
    /// VXLAN port shown to clients.
    pub data_path_port: u32,
}

/// The settings of the cluster (engine-api.md 5, Spec).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Task history kept; carried for the API's sake, `None` when unset.
    pub task_history: Option<i64>,
    /// Raft settings; carried for the API's sake.
    pub raft: RaftSettings,
    /// Heartbeat period asked of agents; zero: the default of 5 s.
    pub heartbeat: Duration,
    /// Life of a node certificate; zero: the default of 90 days. At least 1 h otherwise.
    pub node_cert_expiry: Duration,
    /// External CAs.
    pub external_cas: Vec<ExternalCa>,
    /// Counter: any change starts a root rotation.
    pub force_rotate: u64,
    /// Whether managers are locked at rest.
    pub autolock: bool,
}

impl ClusterSpec {
    /// The settings that this asks for; what it does not speak of stays as it was.
    pub fn settings(&self, before: &Settings) -> Settings {
        Settings {
            labels: self.labels.clone(),
            task_history: self.task_history,
            raft: self.raft,
            heartbeat: self.heartbeat,
            node_cert_expiry: self.node_cert_expiry,
            external_cas: self.external_cas.clone(),
            force_rotate: self.force_rotate,
            autolock: self.autolock,
            default_addr_pool: before.default_addr_pool.clone(),
            subnet_size: before.subnet_size,
            data_path_port: before.data_path_port,
        }
    }
}

impl From<&Settings> for ClusterSpec {
    fn from(settings: &Settings) -> Self {
        Self {
            labels: settings.labels.clone(),
            task_history: settings.task_history,
            raft: settings.raft,
            heartbeat: settings.heartbeat,
            node_cert_expiry: settings.node_cert_expiry,
            external_cas: settings.external_cas.clone(),
            force_rotate: settings.force_rotate,
            autolock: settings.autolock,
        }
    }
}

/// Which secrets an update replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotate {
    /// The worker's join token.
    pub worker: bool,
    /// The manager's join token.
    pub manager: bool,
    /// The unlock key.
    pub unlock_key: bool,
}

/// A node as `GET /nodes` shows it.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// The node's id: CN of its certificate.
    pub id: NodeId,
    /// Version of the node object; an update has to name it.
    pub version: u64,
    /// When it was admitted.
    pub created: Time,
    /// When it last changed.
    pub updated: Time,
    /// What is wished of it.
    pub spec: NodeSpec,
    /// The role it has: what the CA signs for it.
    pub role: Role,
    /// What it last reported of itself; `None` if it never came.
    pub description: Option<wire::proto::NodeDescription>,
    /// Its state.
    pub state: NodeState,
    /// Why, when there is something to say.
    pub message: String,
    /// The address its session comes from, without port.
    pub addr: String,
    /// Set if it is a manager in the raft group.
    pub manager: Option<ManagerStatus>,
    /// End of the leaf it was last seen with.
    pub not_after: Option<Time>,
    /// When it will renew: a single moment for our own nodes, a window for engines.
    pub renew_window: Option<(Time, Time)>,
    /// Its clock minus ours, in milliseconds; `None` if unknown (engines do not tell).
    pub clock_offset_ms: Option<i64>,
    /// Last heartbeat or session.
    pub last_contact: Option<Time>,
    /// True for a join that has not yet used its certificate: not listed by the Engine API.
    pub unfinished: bool,
}

/// State of a node (wire.md 12, NodeStatus).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Not seen since this manager began to lead.
    Unknown,
    /// Heartbeats stopped.
    Down,
    /// In session.
    Ready,
    /// Looking for another manager.
    Disconnected,
}

/// A manager's part in the raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerStatus {
    /// Whether it leads.
    pub leader: bool,
    /// Whether it answers.
    pub reachable: bool,
    /// Its advertised `host:port`.
    pub addr: String,
}

/// How the group of managers stands, as one of them finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// How many there are.
    pub managers: usize,
    /// Who leads; none: nobody, as far as is known.
    pub leader: Option<NodeId>,
    /// Those that are out of reach.
    pub out_of_reach: Vec<OutOfReach>,
}

/// A manager that is out of reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfReach {
    /// Its node.
    pub node: NodeId,
    /// Its host name, as it last reported; empty if it never did.
    pub hostname: String,
    /// Its advertised `host:port`.
    pub addr: String,
    /// Since when; none: another manager says so, and has not told that.
    pub since: Option<Time>,
    /// What became of the last try to reach it from here.
    pub why: Option<String>,
}

/// A refusal of the operator's side; the Engine API prints it as `rpc error: code = <code> desc = <message>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// The gRPC code that the same refusal has in docker.
    pub code: tonic::Code,
    /// The text.
    pub message: String,
}
