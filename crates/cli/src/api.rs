//! What the daemon's answers hold, as far as the commands read it (engine-api.md 5).
//!
//! Fields that a daemon leaves out read as empty: the same types serve a Docker Engine's API. Settings that are read,
//! changed and written back stay JSON values, so that nothing is lost on the way.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET /info`, the part about the cluster.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Info {
    pub(crate) name: String,
    pub(crate) server_version: String,
    pub(crate) swarm: SwarmInfo,
    #[serde(deserialize_with = "or_default")]
    pub(crate) warnings: Vec<String>,
}

/// `Info.Swarm`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct SwarmInfo {
    #[serde(rename = "NodeID")]
    pub(crate) node_id: String,
    pub(crate) node_addr: String,
    pub(crate) local_node_state: String,
    pub(crate) control_available: bool,
    pub(crate) error: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) remote_managers: Vec<RemoteManager>,
    pub(crate) nodes: u64,
    pub(crate) managers: u64,
    pub(crate) cluster: Option<Swarm>,
}

/// A manager that a node knows.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct RemoteManager {
    pub(crate) addr: String,
}

/// `GET /swarm`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Swarm {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) version: Version,
    pub(crate) spec: Value,
    #[serde(rename = "TLSInfo")]
    pub(crate) tls_info: TlsInfo,
    pub(crate) root_rotation_in_progress: bool,
    pub(crate) default_addr_pool: Option<Vec<String>>,
    pub(crate) subnet_size: u32,
    pub(crate) data_path_port: u32,
    pub(crate) join_tokens: JoinTokens,
}

/// The version of an object, to be sent back with an update.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Version {
    pub(crate) index: u64,
}

/// Trust root and issuer.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TlsInfo {
    pub(crate) trust_root: String,
    pub(crate) cert_issuer_subject: String,
    pub(crate) cert_issuer_public_key: String,
}

/// The two standing join tokens. Printing them is what they are for.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct JoinTokens {
    pub(crate) worker: String,
    pub(crate) manager: String,
}

impl std::fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinTokens(..)")
    }
}

/// A node of `GET /nodes`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Node {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) version: Version,
    pub(crate) created_at: String,
    pub(crate) spec: Value,
    pub(crate) description: Description,
    pub(crate) status: NodeStatus,
    pub(crate) manager_status: Option<ManagerStatus>,
}

/// What a node reports of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Description {
    pub(crate) hostname: String,
    pub(crate) platform: Platform,
    pub(crate) engine: Engine,
    #[serde(rename = "TLSInfo")]
    pub(crate) tls_info: TlsInfo,
}

/// Operating system and processor.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    #[serde(rename = "OS")]
    pub(crate) os: String,
}

/// The program that runs the node.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Engine {
    pub(crate) engine_version: String,
}

/// State of a node as the managers see it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NodeStatus {
    pub(crate) state: String,
    pub(crate) message: String,
    pub(crate) addr: String,
}

/// A manager's part in the raft group.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ManagerStatus {
    pub(crate) leader: bool,
    pub(crate) reachability: String,
    pub(crate) addr: String,
}

impl Node {
    /// A text of the node's spec: `Role`, `Availability`, `Name`.
    pub(crate) fn wish(&self, field: &str) -> &str {
        self.spec.get(field).and_then(Value::as_str).unwrap_or_default()
    }
}

/// `POST /swarm/init`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct InitRequest<'a> {
    pub(crate) listen_addr: String,
    pub(crate) advertise_addr: String,
    pub(crate) data_path_addr: String,
    pub(crate) data_path_port: u32,
    pub(crate) force_new_cluster: bool,
    /// Ours; an engine does not know it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) unlock_key: &'a str,
    pub(crate) spec: Value,
    pub(crate) auto_lock_managers: bool,
    pub(crate) availability: String,
    pub(crate) default_addr_pool: Vec<String>,
    pub(crate) subnet_size: u32,
}

/// `POST /swarm/join`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct JoinRequest {
    pub(crate) listen_addr: String,
    pub(crate) advertise_addr: String,
    pub(crate) data_path_addr: String,
    pub(crate) remote_addrs: Vec<String>,
    pub(crate) join_token: String,
    pub(crate) availability: String,
}

/// A time as the API prints it, for people: nothing if it is empty or the zero time.
pub(crate) fn moment(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    (time > Timestamp::UNIX_EPOCH).then_some(time)
}

fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// `POST /swarm/unlock`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UnlockRequest<'a> {
    pub(crate) unlock_key: &'a str,
}

/// `GET /swarm/unlockkey`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UnlockKey {
    pub(crate) unlock_key: String,
}
