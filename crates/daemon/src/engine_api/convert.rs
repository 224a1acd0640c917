//! From the manager's views to the API's JSON objects.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use manager::view::{Availability, ClusterSpec, ClusterView, NodeState, NodeView};
use pki::identity::Role;

use super::json;

/// The cluster as `docker info` carries it.
pub fn cluster_info(view: &ClusterView) -> json::ClusterInfo {
    json::ClusterInfo {
        id: view.id.to_string(),
        version: json::ObjectVersion { index: view.version },
        created_at: json::Timestamp(Some(view.created)),
        updated_at: json::Timestamp(Some(view.updated)),
        spec: spec(&view.spec),
        tls_info: json::TlsInfo {
            trust_root: view.trust_root.clone(),
            cert_issuer_subject: STANDARD.encode(&view.issuer.subject),
            cert_issuer_public_key: STANDARD.encode(&view.issuer.spki),
        },
        root_rotation_in_progress: view.rotation_in_progress,
        default_addr_pool: (!view.default_addr_pool.is_empty()).then(|| view.default_addr_pool.clone()),
        subnet_size: view.subnet_size,
        data_path_port: view.data_path_port,
    }
}

/// The cluster with its join tokens: they are printable by design of this API.
pub fn swarm(view: &ClusterView) -> json::Swarm {
    json::Swarm {
        cluster: cluster_info(view),
        join_tokens: json::JoinTokens {
            worker: view.worker_token.expose().to_owned(),
            manager: view.manager_token.expose().to_owned(),
        },
    }
}

fn spec(spec: &ClusterSpec) -> json::Spec {
    json::Spec {
        name: super::spec::SPEC_NAME.to_owned(),
        labels: spec.labels.clone(),
        orchestration: json::Orchestration { task_history: spec.task_history },
        raft: json::Raft {
            snapshot_interval: spec.raft.snapshot_interval,
            keep_old_snapshots: spec.raft.keep_old_snapshots,
            log_entries_for_slow_followers: spec.raft.slow_followers,
            election_tick: spec.raft.election_tick,
            heartbeat_tick: spec.raft.heartbeat_tick,
        },
        dispatcher: json::Dispatcher { heartbeat_period: nanos(spec.heartbeat) },
        ca_config: json::CaConfig {
            node_cert_expiry: nanos(spec.node_cert_expiry),
            external_cas: spec
                .external_cas
                .iter()
                .map(|ca| json::ExternalCa {
                    protocol: super::spec::EXTERNAL_CA_PROTOCOL.to_owned(),
                    url: ca.url.clone(),
                    options: ca.options.clone(),
                    ca_cert: ca.ca_cert.clone(),
                })
                .collect(),
            force_rotate: spec.force_rotate,
        },
        task_defaults: json::Empty {},
        encryption_config: json::EncryptionConfig { auto_lock_managers: spec.autolock },
    }
}

/// A node as the API shows it.
pub fn node(view: &NodeView) -> json::Node {
    json::Node {
        id: view.id.to_string(),
        version: json::ObjectVersion { index: view.version },
        created_at: json::Timestamp(Some(view.created)),
        updated_at: json::Timestamp(Some(view.updated)),
        spec: json::NodeSpec {
            name: view.spec.name.clone(),
            labels: view.spec.labels.clone(),
            role: view.spec.role.word(),
            availability: availability_word(view.spec.availability),
        },
        description: view.description.as_ref().map(description).unwrap_or_default(),
        status: json::NodeStatus {
            state: state_word(view.state),
            message: view.message.clone(),
            addr: view.addr.clone(),
        },
        manager_status: view.manager.as_ref().map(|manager| json::ManagerStatus {
            leader: manager.leader,
            reachability: if manager.reachable { "reachable" } else { "unreachable" },
            addr: manager.addr.clone(),
        }),
    }
}

fn description(told: &wire::proto::NodeDescription) -> json::NodeDescription {
    let platform = told.platform.clone().unwrap_or_default();
    let resources = told.resources.clone().unwrap_or_default();
    let engine = told.engine.clone().unwrap_or_default();
    let tls = told.tls_info.clone().unwrap_or_default();
    let mut plugins: Vec<(String, String)> =
        engine.plugins.into_iter().map(|plugin| (plugin.r#type, plugin.name)).collect();
    plugins.sort();
    json::NodeDescription {
        hostname: told.hostname.clone(),
        platform: json::Platform { architecture: platform.architecture, os: platform.os },
        resources: json::Resources { nano_cpus: resources.nano_cpus, memory_bytes: resources.memory_bytes },
        engine: json::Engine {
            engine_version: engine.engine_version,
            labels: engine.labels.into_iter().collect(),
            plugins: plugins.into_iter().map(|(kind, name)| json::Plugin { kind, name }).collect(),
        },
        tls_info: json::TlsInfo {
            trust_root: String::from_utf8_lossy(&tls.trust_root).into_owned(),
            cert_issuer_subject: STANDARD.encode(&tls.cert_issuer_subject),
            cert_issuer_public_key: STANDARD.encode(&tls.cert_issuer_public_key),
        },
    }
}

/// The host name a node reported; empty if it never did.
pub fn hostname(view: &NodeView) -> &str {
    view.description.as_ref().map_or("", |told| told.hostname.as_str())
}

/// `active`, `pause`, `drain`.
pub const fn availability_word(availability: Availability) -> &'static str {
    match availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    }
}

/// `unknown`, `down`, `ready`, `disconnected`.
pub const fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Down => "down",
        NodeState::Ready => "ready",
        NodeState::Disconnected => "disconnected",
    }
}

/// A role by its word in any case.
pub fn role_of_word(word: &str) -> Option<Role> {
    [Role::Worker, Role::Manager].into_iter().find(|role| role.word().eq_ignore_ascii_case(word))
}

/// An availability by its word in any case.
pub fn availability_of_word(word: &str) -> Option<Availability> {
    [Availability::Active, Availability::Pause, Availability::Drain]
        .into_iter()
        .find(|availability| availability_word(*availability).eq_ignore_ascii_case(word))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::fixture::{self, ISSUER_KEY, ISSUER_SUBJECT, TRUST_ROOT};
    use super::*;
    use serde_json::{Value, to_string, to_value};

    /// Field for field what an engine answered (transcripts/02-init), with short certificates.
    #[test]
    fn swarm_as_the_engine_shows_it() {
        let expected = format!(
            r#"{{"ID":"ottaolhoai08apz3o3kmgoyi6","Version":{{"Index":10}},"CreatedAt":"2026-11-21T20:34:59.832Z","UpdatedAt":"2026-11-21T20:35:00.34Z","Spec":{{"Name":"default","Labels":{{}},"Orchestration":{{"TaskHistoryRetentionLimit":5}},"Raft":{{"SnapshotInterval":10000,"KeepOldSnapshots":0,"LogEntriesForSlowFollowers":500,"ElectionTick":10,"HeartbeatTick":1}},"Dispatcher":{{"HeartbeatPeriod":5000000000}},"CAConfig":{{"NodeCertExpiry":7776000000000000}},"TaskDefaults":{{}},"EncryptionConfig":{{"AutoLockManagers":false}}}},"TLSInfo":{{"TrustRoot":{},"CertIssuerSubject":"{ISSUER_SUBJECT}","CertIssuerPublicKey":"{ISSUER_KEY}"}},"RootRotationInProgress":false,"DefaultAddrPool":null,"SubnetSize":24,"DataPathPort":4789,"JoinTokens":{{"Worker":"SWMTKN-1-w","Manager":"SWMTKN-1-m"}}}}"#,
            Value::from(TRUST_ROOT)
        );
        assert_eq!(to_string(&swarm(&fixture::cluster())).unwrap(), expected);
    }

    #[test]
    fn manager_as_the_engine_shows_it() {
        let expected = format!(
            r#"{{"ID":"dzm52djk15bshpeec4zdo7hez","Version":{{"Index":9}},"CreatedAt":"2026-11-21T20:34:59.832Z","UpdatedAt":"2026-11-21T20:35:00.338Z","Spec":{{"Labels":{{}},"Role":"manager","Availability":"active"}},"Description":{{"Hostname":"manager1","Platform":{{"Architecture":"x86_64","OS":"linux"}},"Resources":{{"NanoCPUs":2000000000,"MemoryBytes":25276502016}},"Engine":{{"EngineVersion":"28.2.2","Plugins":[{{"Type":"Log","Name":"json-file"}},{{"Type":"Volume","Name":"local"}}]}},"TLSInfo":{{"TrustRoot":{},"CertIssuerSubject":"{ISSUER_SUBJECT}","CertIssuerPublicKey":"{ISSUER_KEY}"}}}},"Status":{{"State":"ready","Addr":"127.0.2.1"}},"ManagerStatus":{{"Leader":true,"Reachability":"reachable","Addr":"127.0.2.1:2377"}}}}"#,
            Value::from(TRUST_ROOT)
        );
        let view = fixture::node("dzm52djk15bshpeec4zdo7hez", "manager1", Role::Manager);
        assert_eq!(to_string(&node(&view)).unwrap(), expected);
    }

    #[test]
    fn a_node_that_never_reported() {
        let shown = to_value(node(&fixture::unfinished("a1"))).unwrap();
        // Not as text: the order of a value's keys is another one when the command is built too.
        let nothing = serde_json::json!({"Platform": {}, "Resources": {}, "Engine": {}, "TLSInfo": {}});
        assert_eq!(shown["Description"], nothing);
        assert_eq!(shown["Status"].to_string(), r#"{"State":"unknown"}"#);
        assert!(shown.get("ManagerStatus").is_none());
    }

    #[test]
    fn zero_settings_are_left_out_as_the_engine_does() {
        let mut view = fixture::cluster();
        view.spec.heartbeat = Duration::ZERO;
        view.spec.node_cert_expiry = Duration::ZERO;
        view.spec.raft.slow_followers = 0;
        view.spec.raft.election_tick = 0;
        view.default_addr_pool = vec!["10.0.0.0/8".into()];
        let shown = to_value(cluster_info(&view)).unwrap();
        assert_eq!(shown["Spec"]["Dispatcher"].to_string(), "{}");
        assert_eq!(shown["Spec"]["CAConfig"].to_string(), "{}");
        assert!(shown["Spec"]["Raft"].get("LogEntriesForSlowFollowers").is_none());
        assert_eq!(shown["Spec"]["Raft"]["ElectionTick"], 0);
        assert_eq!(shown["DefaultAddrPool"].to_string(), r#"["10.0.0.0/8"]"#);
    }

    #[test]
    fn words() {
        assert_eq!(role_of_word("MANAGER"), Some(Role::Manager));
        assert_eq!(role_of_word("boss"), None);
        assert_eq!(availability_of_word("Drain"), Some(Availability::Drain));
        assert_eq!(availability_of_word(""), None);
    }
}
