//! The cluster's settings (engine-api.md 5, Spec), as the operator last wrote them.

use std::collections::BTreeMap;
use std::time::Duration;

/// Life of a node certificate when nothing else is set. Source: pki.md 1.
pub const NODE_CERT_EXPIRY_DEFAULT: Duration = Duration::from_secs(2160 * 60 * 60);

/// The shortest life that can be set. Source: pki.md 1.
pub const NODE_CERT_EXPIRY_MIN: Duration = Duration::from_secs(60 * 60);

/// Heartbeat period when nothing else is set. Source: pki.md 1.
pub const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);

const _: () = assert!(NODE_CERT_EXPIRY_MIN.as_secs() < NODE_CERT_EXPIRY_DEFAULT.as_secs());

/// The settings.
///
/// Stored since format 1: change only with a sample in testdata/state/.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Task history kept; carried for the API's sake.
    pub task_history: Option<i64>,
    /// Raft settings; carried for the API's sake.
    pub raft: RaftSettings,
    /// Heartbeat period; zero: [`HEARTBEAT_DEFAULT`].
    pub heartbeat: Duration,
    /// Life of a node certificate; zero: [`NODE_CERT_EXPIRY_DEFAULT`].
    pub node_cert_expiry: Duration,
    /// External CAs.
    pub external_cas: Vec<ExternalCa>,
    /// Any change of it starts a root rotation.
    pub force_rotate: u64,
    /// Whether managers are locked at rest.
    pub autolock: bool,
    /// Address pools; carried for the API's sake.
    pub default_addr_pool: Vec<String>,
    /// Subnet mask length of the pools, in bits.
    pub subnet_size: u32,
    /// VXLAN port.
    pub data_path_port: u32,
}

impl Default for Settings {
    /// The first cluster object (pki.md 16).
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            task_history: Some(5),
            raft: RaftSettings::default(),
            heartbeat: HEARTBEAT_DEFAULT,
            node_cert_expiry: NODE_CERT_EXPIRY_DEFAULT,
            external_cas: Vec::new(),
            force_rotate: 0,
            autolock: false,
            default_addr_pool: Vec::new(),
            subnet_size: 24,
            data_path_port: 4789,
        }
    }
}

impl Settings {
    /// The life of the next certificate: read at signing, so a change acts on the very next one.
    pub fn leaf_life(&self) -> Duration {
        leaf_life(self.node_cert_expiry)
    }

    /// The heartbeat period asked of agents, before jitter.
    pub fn heartbeat_period(&self) -> Duration {
        if self.heartbeat.is_zero() { HEARTBEAT_DEFAULT } else { self.heartbeat }
    }
}

/// The life of a certificate under this setting: one too short, or none, means the default.
pub fn leaf_life(node_cert_expiry: Duration) -> Duration {
    if node_cert_expiry < NODE_CERT_EXPIRY_MIN { NODE_CERT_EXPIRY_DEFAULT } else { node_cert_expiry }
}

/// Raft settings as the API carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftSettings {
    /// Entries between snapshots.
    pub snapshot_interval: u64,
    /// Old snapshots kept.
    pub keep_old_snapshots: Option<u64>,
    /// Entries kept for slow followers.
    pub slow_followers: u64,
    /// Ticks without a leader before an election.
    pub election_tick: u32,
    /// Ticks between heartbeats.
    pub heartbeat_tick: u32,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            snapshot_interval: 10_000,
            keep_old_snapshots: Some(0),
            slow_followers: 500,
            election_tick: 10,
            heartbeat_tick: 1,
        }
    }
}

/// One external CA.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalCa {
    /// Where it answers.
    pub url: String,
    /// Free options.
    pub options: BTreeMap<String, String>,
    /// The root it signs under, PEM; empty: the current root.
    pub ca_cert: String,
}
