//! Views for the tests of this API: a cluster and nodes as docker showed them once.

#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use manager::view::{
    Availability, ClusterSpec, ClusterView, ManagerStatus, NodeSpec, NodeState, NodeView, RaftSettings,
};
use pki::certificate::IssuerId;
use pki::identity::Role;
use pki::secret::SecretString;
use pki::time::Time;
use wire::proto;

pub(super) const TRUST_ROOT: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
pub(super) const ISSUER_SUBJECT: &str = "MBMxETAPBgNVBAMTCHN3YXJtLWNh";
pub(super) const ISSUER_KEY: &str = "MFkwEwYH";

pub(super) fn cluster() -> ClusterView {
    ClusterView {
        id: "ottaolhoai08apz3o3kmgoyi6".parse().expect("an id"),
        version: 10,
        created: Time::from_unix_millis(1_795_293_299_832),
        updated: Time::from_unix_millis(1_795_293_300_340),
        spec: ClusterSpec {
            labels: BTreeMap::new(),
            task_history: Some(5),
            raft: RaftSettings {
                snapshot_interval: 10_000,
                keep_old_snapshots: Some(0),
                slow_followers: 500,
                election_tick: 10,
                heartbeat_tick: 1,
            },
            heartbeat: Duration::from_secs(5),
            node_cert_expiry: Duration::from_secs(90 * 24 * 3600),
            external_cas: Vec::new(),
            force_rotate: 0,
            autolock: false,
        },
        trust_root: TRUST_ROOT.to_owned(),
        issuer: IssuerId {
            subject: STANDARD.decode(ISSUER_SUBJECT).expect("base64"),
            spki: STANDARD.decode(ISSUER_KEY).expect("base64"),
        },
        rotation_in_progress: false,
        worker_token: SecretString::new("SWMTKN-1-w".to_owned()),
        manager_token: SecretString::new("SWMTKN-1-m".to_owned()),
        fips: false,
        default_addr_pool: Vec::new(),
        subnet_size: 24,
        data_path_port: 4789,
    }
}

/// A node that has reported; a manager if it is the first.
pub(super) fn node(id: &str, hostname: &str, role: Role) -> NodeView {
    let plugin = |kind: &str, name: &str| proto::PluginDescription { r#type: kind.to_owned(), name: name.to_owned() };
    NodeView {
        id: id.parse().expect("an id"),
        version: 9,
        created: Time::from_unix_millis(1_795_293_299_832),
        updated: Time::from_unix_millis(1_795_293_300_338),
        spec: NodeSpec { name: String::new(), labels: BTreeMap::new(), role, availability: Availability::Active },
        role,
        description: Some(proto::NodeDescription {
            hostname: hostname.to_owned(),
            platform: Some(proto::Platform { architecture: "x86_64".into(), os: "linux".into() }),
            resources: Some(proto::Resources {
                nano_cpus: 2_000_000_000,
                memory_bytes: 25_276_502_016,
                ..Default::default()
            }),
            engine: Some(proto::EngineDescription {
                engine_version: "28.2.2".into(),
                plugins: vec![plugin("Volume", "local"), plugin("Log", "json-file")],
                ..Default::default()
            }),
            tls_info: Some(proto::NodeTlsInfo {
                trust_root: TRUST_ROOT.as_bytes().to_vec(),
                cert_issuer_subject: STANDARD.decode(ISSUER_SUBJECT).expect("base64"),
                cert_issuer_public_key: STANDARD.decode(ISSUER_KEY).expect("base64"),
            }),
            ..Default::default()
        }),
        state: NodeState::Ready,
        message: String::new(),
        addr: "127.0.2.1".into(),
        manager: (role == Role::Manager).then(|| ManagerStatus {
            leader: true,
            reachable: true,
            addr: "127.0.2.1:2377".into(),
        }),
        not_after: None,
        renew_window: None,
        clock_offset_ms: None,
        last_contact: None,
        unfinished: false,
    }
}

/// A join that was given up.
pub(super) fn unfinished(id: &str) -> NodeView {
    NodeView {
        description: None,
        state: NodeState::Unknown,
        addr: String::new(),
        unfinished: true,
        ..node(id, "", Role::Worker)
    }
}
