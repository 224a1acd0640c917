//! What an operator sees of the cluster and may ask of it: plain values, free of transport.
//!
//! The Engine API and the command line both speak in these types; they hold no secrets but the join tokens, which are
//! printable by design of the API they serve.

use std::collections::BTreeMap;
use std::time::Duration;

use pki::certificate::IssuerId;
use pki::identity::{ClusterId, NodeId, Role};
use pki::secret::SecretString;
use pki::time::Time;

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
    /// Whether the default address pool was ever shown (it is `null` at first, engine-api.md 5).
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
    pub raft: RaftSpec,
    /// Heartbeat period asked of agents; zero: the default of 5 s.
    pub heartbeat: Duration,
    /// Life of a node certificate; zero: the default of 90 days. At least 1 h otherwise.
    pub node_cert_expiry: Duration,
    /// External CAs.
    pub external_cas: Vec<ExternalCa>,
    /// Counter: any change starts a root rotation.
    pub force_rotate: u64,
    /// Root certificate to rotate to, PEM. Write only.
    pub signing_ca_cert: Vec<u8>,
    /// Whether managers are locked at rest.
    pub autolock: bool,
}

/// Raft settings as the API carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftSpec {
    /// Entries between snapshots.
    pub snapshot_interval: u64,
    /// Old snapshots kept, `None` when unset.
    pub keep_old_snapshots: Option<u64>,
    /// Entries kept for slow followers.
    pub slow_followers: u64,
    /// Ticks without a leader before an election.
    pub election_tick: u32,
    /// Ticks between heartbeats.
    pub heartbeat_tick: u32,
}

/// One external CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalCa {
    /// Where it answers; `https` only.
    pub url: String,
    /// Free options.
    pub options: BTreeMap<String, String>,
    /// The root it signs under, PEM; empty: the current root.
    pub ca_cert: String,
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

/// What an operator wants of a node (engine-api.md 5, NodeSpec).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Free name.
    pub name: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// The role wished for.
    pub role: Role,
    /// Whether the node takes work.
    pub availability: Availability,
}

pub use cluster::node::Availability;

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

/// A refusal of the operator's side; the Engine API prints it as `rpc error: code = <code> desc = <message>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// The gRPC code that the same refusal has in docker.
    pub code: tonic::Code,
    /// The text.
    pub message: String,
}
