//! The JSON objects of the API (engine-api.md 5): names, order and what is left out when empty.

use std::collections::BTreeMap;

use pki::time::Time;
use serde::{Serialize, Serializer};

/// `Version`: the number a client sends back with an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectVersion {
    /// Index of the last change.
    #[serde(rename = "Index", skip_serializing_if = "is_zero")]
    pub index: u64,
}

/// A time as the API writes it: RFC 3339 UTC, fraction without trailing zeros; `None` is the zero time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(pub Option<Time>);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl Timestamp {
    /// The text.
    pub fn text(self) -> String {
        let Some(time) = self.0 else { return "0001-01-01T00:00:00Z".to_owned() };
        let text = time.rfc3339();
        match text.strip_suffix('Z').filter(|text| text.contains('.')) {
            Some(text) => format!("{}Z", text.trim_end_matches('0').trim_end_matches('.')),
            None => text,
        }
    }
}

/// The cluster, as `docker info` carries it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct ClusterInfo {
    #[serde(rename = "ID")]
    pub id: String,
    pub version: ObjectVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: Spec,
    #[serde(rename = "TLSInfo")]
    pub tls_info: TlsInfo,
    pub root_rotation_in_progress: bool,
    pub default_addr_pool: Option<Vec<String>>,
    pub subnet_size: u32,
    pub data_path_port: u32,
}

/// `GET /swarm`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Swarm {
    #[serde(flatten)]
    pub cluster: ClusterInfo,
    pub join_tokens: JoinTokens,
}

impl ClusterInfo {
    /// Leaves out what only administrators are shown: options of external CAs may be credentials.
    pub fn hide_secrets(&mut self) {
        for ca in &mut self.spec.ca_config.external_cas {
            ca.options.clear();
        }
    }
}

/// The two standing join tokens.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct JoinTokens {
    pub worker: String,
    pub manager: String,
}

/// The cluster's settings.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Spec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub orchestration: Orchestration,
    pub raft: Raft,
    pub dispatcher: Dispatcher,
    #[serde(rename = "CAConfig")]
    pub ca_config: CaConfig,
    pub task_defaults: Empty,
    pub encryption_config: EncryptionConfig,
}

/// `{}`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Empty {}

/// Orchestration settings: carried, never used.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Orchestration {
    #[serde(rename = "TaskHistoryRetentionLimit", skip_serializing_if = "Option::is_none")]
    pub task_history: Option<i64>,
}

/// Raft settings.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Raft {
    #[serde(skip_serializing_if = "is_zero")]
    pub snapshot_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_old_snapshots: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub log_entries_for_slow_followers: u64,
    pub election_tick: u32,
    pub heartbeat_tick: u32,
}

/// Dispatcher settings; nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Dispatcher {
    #[serde(skip_serializing_if = "is_zero")]
    pub heartbeat_period: u64,
}

/// CA settings; nanoseconds. The signing certificate and key are write only and not here.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct CaConfig {
    #[serde(skip_serializing_if = "is_zero")]
    pub node_cert_expiry: u64,
    #[serde(rename = "ExternalCAs", skip_serializing_if = "Vec::is_empty")]
    pub external_cas: Vec<ExternalCa>,
    #[serde(skip_serializing_if = "is_zero")]
    pub force_rotate: u64,
}

/// One external CA.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct ExternalCa {
    pub protocol: String,
    #[serde(rename = "URL")]
    pub url: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    #[serde(rename = "CACert")]
    pub ca_cert: String,
}

/// Locking.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct EncryptionConfig {
    pub auto_lock_managers: bool,
}

/// Trust root and issuer, of the swarm or of a node (engine-api.md 5.1). Byte strings are standard base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct TlsInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trust_root: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_issuer_subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_issuer_public_key: String,
}

/// A node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Node {
    #[serde(rename = "ID")]
    pub id: String,
    pub version: ObjectVersion,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub spec: NodeSpec,
    pub description: NodeDescription,
    pub status: NodeStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager_status: Option<ManagerStatus>,
}

/// What is wished of a node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct NodeSpec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub role: &'static str,
    pub availability: &'static str,
}

/// What a node last said of itself.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct NodeDescription {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    pub platform: Platform,
    pub resources: Resources,
    pub engine: Engine,
    #[serde(rename = "TLSInfo")]
    pub tls_info: TlsInfo,
}

/// Processor and system.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Platform {
    #[serde(rename = "Architecture", skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    #[serde(rename = "OS", skip_serializing_if = "String::is_empty")]
    pub os: String,
}

/// Processors and memory.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Resources {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero_signed")]
    pub nano_cpus: i64,
    #[serde(rename = "MemoryBytes", skip_serializing_if = "is_zero_signed")]
    pub memory_bytes: i64,
}

/// The engine.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Engine {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub engine_version: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<Plugin>,
}

/// One plugin of an engine.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct Plugin {
    #[serde(rename = "Type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// Whether and whence a node is there.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct NodeStatus {
    pub state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub addr: String,
}

/// A manager's part in raft.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct ManagerStatus {
    #[serde(skip_serializing_if = "is_false")]
    pub leader: bool,
    pub reachability: &'static str,
    pub addr: String,
}

/// `Swarm` of `GET /info`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct SwarmInfo {
    #[serde(rename = "NodeID")]
    pub node_id: String,
    pub node_addr: String,
    pub local_node_state: &'static str,
    pub control_available: bool,
    pub error: String,
    pub remote_managers: Option<Vec<RemoteManager>>,
    #[serde(skip_serializing_if = "is_zero")]
    pub nodes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub managers: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ShownCluster>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The cluster as `GET /info` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum ShownCluster {
    /// As it is.
    Known(Box<ClusterInfo>),
    /// What there is without a quorum: an object in which everything is zero. Source: engine-api.md 5.
    Zero(serde_json::Value),
}

impl ShownCluster {
    /// The object in which everything is zero.
    pub fn zero() -> Self {
        let never = "0001-01-01T00:00:00Z";
        Self::Zero(serde_json::json!({
            "ID": "", "Version": {}, "CreatedAt": never, "UpdatedAt": never,
            "Spec": {
                "Labels": null, "Orchestration": {}, "Raft": { "ElectionTick": 0, "HeartbeatTick": 0 }, "Dispatcher": {},
                "CAConfig": {}, "TaskDefaults": {}, "EncryptionConfig": { "AutoLockManagers": false },
            },
            "TLSInfo": {}, "RootRotationInProgress": false, "DefaultAddrPool": null, "SubnetSize": 0, "DataPathPort": 0,
        }))
    }
}

/// A manager this node knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct RemoteManager {
    #[serde(rename = "NodeID")]
    pub node_id: String,
    pub addr: String,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero_signed(value: &i64) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn times() {
        let rows = [
            (None, "0001-01-01T00:00:00Z"),
            (Some(1_795_293_299_832), "2026-11-21T20:34:59.832Z"),
            (Some(1_795_293_299_830), "2026-11-21T20:34:59.83Z"),
            (Some(1_795_293_299_000), "2026-11-21T20:34:59Z"),
            (Some(1_795_293_300_000), "2026-11-21T20:35:00Z"),
        ];
        for (millis, expected) in rows {
            assert_eq!(Timestamp(millis.map(Time::from_unix_millis)).text(), expected);
        }
    }

    #[test]
    fn inactive_swarm_info() {
        let info = SwarmInfo { local_node_state: "inactive", ..SwarmInfo::default() };
        assert_eq!(
            serde_json::to_string(&info).unwrap(),
            r#"{"NodeID":"","NodeAddr":"","LocalNodeState":"inactive","ControlAvailable":false,"Error":"","RemoteManagers":null}"#
        );
    }
}
