//! Our own endpoints beside the Engine API, for the `swarmpki` command: `/swarmpki/v1/…`, JSON; a POST acts, all else reads.
//!
//! Times are RFC 3339 or null. Fields may be added; readers ignore those they do not know.

use manager::view::{GroupView, NodeView};
use pki::digest::{Digest, hex};
use pki::time::Time;
use serde::{Deserialize, Serialize};

use super::body::Document;
use super::convert::{self, availability_word, hostname, state_word};
use super::error::ApiError;
use super::heads;
use super::json::TlsInfo;
use super::{Answer, json};
use crate::ENGINE_VERSION;
use crate::backend::{Backend, Present, refusal};

/// `GET /swarmpki/v1/status`: this machine. Always 200.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    /// The daemon's version.
    pub version: String,
    /// The state directory.
    pub state_dir: String,
    /// `inactive`, `pending`, `active`, `error`.
    pub state: String,
    /// `worker` or `manager`, once there is a certificate.
    pub role: Option<String>,
    /// The agent's own word: `joining`, `connecting`, `ready`, `renewing`, `removed`, `expired`, `failed`.
    pub phase: Option<String>,
    /// The node's id.
    pub node_id: Option<String>,
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The advertised host.
    pub node_addr: String,
    /// Why it does not work, or the last problem.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The managers it knows.
    pub managers: Vec<ManagerAddress>,
    /// The manager that serves its session.
    pub connected: Option<ManagerAddress>,
    /// Since when.
    pub session_since: Option<String>,
    /// The managers' clock minus ours, if known.
    pub clock_offset_ms: Option<i64>,
    /// Whether that is only an estimate from a certificate's times, exact to a minute or two (an engine tells no time).
    #[serde(default)]
    pub clock_offset_estimated: bool,
    /// By how much our clock stands before a time that is proven to have passed.
    pub clock_behind_floor_ms: Option<u64>,
    /// End of the certificate.
    pub not_after: Option<String>,
    /// When it renews.
    pub renew_at: Option<String>,
    /// Certificates installed since the daemon started.
    pub installed: u64,
    /// What the node keeps of the issuance log.
    pub log: Option<LogKept>,
    /// What is wrong with the issuance log: what contradicts the head that this node keeps, and what nodes showed this manager.
    pub log_alarms: Vec<String>,
    /// How the managers stand, as this one finds it; null where there is none.
    pub group: Option<GroupReport>,
}

/// The managers, as one of them finds it at this moment, also without a leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupReport {
    /// How many there are.
    pub managers: u64,
    /// How many of them have to be there.
    pub majority: u64,
    /// Who leads; null: nobody.
    pub leader: Option<String>,
    /// Those that are out of reach: the leader's view, or without one that of the manager that answers.
    pub out_of_reach: Vec<OutOfReachReport>,
}

/// A manager that is out of reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutOfReachReport {
    /// Node id.
    pub node_id: String,
    /// Host name as reported.
    pub hostname: String,
    /// `host:port`.
    pub addr: String,
    /// Since when it is tried in vain; null: the leader, which is another one, says so.
    pub since: Option<String>,
    /// What became of the last try.
    pub why: Option<String>,
}

/// The newest head of the issuance log that a manager signed for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogKept {
    /// The cluster's epoch.
    pub epoch: u64,
    /// Entries.
    pub size: u64,
    /// The root over them, hex.
    pub root_hash: String,
    /// When it was signed.
    pub time: String,
    /// By whom.
    pub manager: Option<String>,
}

/// A manager's id (empty if not known yet) and `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ManagerAddress {
    /// Node id.
    pub node_id: String,
    /// `host:port`.
    pub addr: String,
}

/// One node of `GET /swarmpki/v1/nodes`: managers only; unfinished joins included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// The node's id.
    pub id: String,
    /// Whether it is the node that answers.
    pub this: bool,
    /// Host name as reported.
    pub hostname: String,
    /// The role it has.
    pub role: String,
    /// The role wished for.
    pub desired_role: String,
    /// `active`, `pause`, `drain`.
    pub availability: String,
    /// `unknown`, `down`, `ready`, `disconnected`.
    pub state: String,
    /// Why, when there is something to say.
    pub message: String,
    /// Where its session comes from.
    pub addr: String,
    /// Engine version as reported.
    pub engine_version: String,
    /// `leader`, `reachable`, `unreachable`; null for workers.
    pub manager: Option<String>,
    /// `ready`, `needs rotation`, `unknown`: its trust root and issuer beside the cluster's.
    pub tls: String,
    /// When it was admitted.
    pub created: String,
    /// End of the leaf it was last seen with.
    pub not_after: Option<String>,
    /// The moment, or the begin of the window, of its renewal.
    pub renew_from: Option<String>,
    /// The moment, or the end of the window, of its renewal.
    pub renew_until: Option<String>,
    /// Its clock minus the manager's; null if unknown (engines do not tell).
    pub clock_offset_ms: Option<i64>,
    /// Last heartbeat or session.
    pub last_contact: Option<String>,
    /// A join that has not used its certificate yet.
    pub unfinished: bool,
}

/// `GET /swarmpki/v1/ca`: managers only. Join tokens are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CaReport {
    /// The cluster's id.
    pub cluster_id: String,
    /// The trust bundle as served, PEM.
    pub trust_root: String,
    /// `sha256:<hex>` over it; what the join tokens name.
    pub digest: String,
    /// Its certificates.
    pub roots: Vec<RootReport>,
    /// Whether a root rotation is in progress.
    pub rotation_in_progress: bool,
    /// Life of a node certificate, in seconds; what the next one gets.
    pub node_cert_expiry_s: u64,
}

/// A root certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootReport {
    /// SHA-256 of its DER, hex.
    pub fingerprint: String,
    /// Serial, hex.
    pub serial: String,
    /// From when.
    pub not_before: String,
    /// Until when.
    pub not_after: String,
}

fn text(time: Option<Time>) -> Option<String> {
    time.map(Time::rfc3339)
}

pub(super) fn status(backend: &Backend) -> Answer {
    let present = backend.present();
    let mut report = StatusReport {
        version: ENGINE_VERSION.to_owned(),
        state_dir: backend.state_dir().display().to_string(),
        state: present.word().to_owned(),
        ..StatusReport::default()
    };
    if let Some(membership) = present.membership() {
        report.node_addr.clone_from(&membership.addr);
        report.managers = membership
            .remote_managers()
            .into_iter()
            .flatten()
            .map(|manager| ManagerAddress { node_id: manager.node_id, addr: manager.addr })
            .collect();
        if let Some(status) = membership.status() {
            report.phase = Some(status.phase.word().to_owned());
            report.role = status.role.map(|role| role.word().to_owned());
            report.node_id = status.node.map(|node| node.to_string());
            report.cluster_id = status.cluster.map(|cluster| cluster.to_string());
            report.connected = status.connected.map(|peer| ManagerAddress { node_id: peer.node, addr: peer.addr });
            report.session_since = text(status.session_since);
            report.clock_offset_ms = status.clock_offset.map(|offset| offset.ms);
            report.clock_offset_estimated = status.clock_offset.is_some_and(|offset| offset.estimated);
            report.clock_behind_floor_ms = status.clock_behind_floor_ms;
            report.not_after = text(status.not_after);
            report.renew_at = text(status.renew_at);
            report.installed = status.installed;
            report.log = status.witness.head.as_ref().map(|kept| LogKept {
                epoch: kept.head.epoch,
                size: kept.head.size,
                root_hash: hex(&kept.head.root),
                time: kept.head.at.rfc3339(),
                manager: kept.manager.as_ref().map(ToString::to_string),
            });
            report.log_alarms.extend(status.witness.forks.iter().map(heads::told));
            report.hint = status.last_error.as_ref().map(|trouble| trouble.hint.clone());
            report.error = status.last_error.map(|trouble| trouble.text);
        }
    }
    if let Present::Manager(_, control, _) = &*present {
        report.log_alarms.extend(control.log_forks().iter().map(heads::shown));
        report.group = Some(group_report(control.group()));
    }
    if let Present::Error(_, failure) = &*present {
        report.error = Some(failure.text.clone());
    }
    json(&report)
}

fn group_report(group: GroupView) -> GroupReport {
    let away = group.out_of_reach.into_iter().map(|manager| OutOfReachReport {
        node_id: manager.node.to_string(),
        hostname: manager.hostname,
        addr: manager.addr,
        since: text(manager.since),
        why: manager.why,
    });
    GroupReport {
        managers: group.managers as u64,
        majority: (group.managers / 2 + 1) as u64,
        leader: group.leader.map(|node| node.to_string()),
        out_of_reach: away.collect(),
    }
}

/// `POST /swarmpki/v1/renew`: this machine's node renews its certificate now. Answers at once; `installed` of the status
/// tells when it is done.
pub(super) fn renew(backend: &Backend) -> Answer {
    let present = backend.present();
    let agent = present.membership().and_then(|membership| membership.agent.as_ref());
    agent.ok_or_else(|| ApiError::unavailable(crate::backend::NOT_MEMBER))?.renew_now();
    Ok(super::empty(http::StatusCode::OK))
}

/// The body of `POST /swarmpki/v1/managers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ManagerAt {
    /// Where a manager is, `host[:port]`.
    pub addr: String,
}

/// `POST /swarmpki/v1/managers`: says where a manager is, to a node that finds none. Answers at once; `connected` of the status tells when
/// a session stands.
pub(super) fn manager_at(backend: &Backend, body: Option<Document>) -> Answer {
    let request: ManagerAt = super::rotation::read(body)?;
    let addr = crate::address::parse_tcp("manager address", &request.addr, "127.0.0.1")?;
    let present = backend.present();
    let membership = present.membership();
    let agent = membership.and_then(|membership| membership.agent.as_ref());
    let agent = agent.ok_or_else(|| ApiError::unavailable(crate::backend::NOT_MEMBER))?;
    if let Some(peer) = membership.and_then(crate::backend::Membership::status).and_then(|status| status.connected) {
        let text =
            format!("this node is in session with the manager at {}, which tells it where the others are", peer.addr);
        return Err(ApiError::conflict(text));
    }
    tracing::info!(manager = %addr, "told where a manager is");
    // A manager that finds no other looks for them too.
    if let Ok(control) = present.control() {
        control.manager_at(addr.clone());
    }
    agent.manager_at(addr);
    Ok(super::empty(http::StatusCode::OK))
}

/// The body of `POST /swarmpki/v1/address`, and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeAt {
    /// Where other nodes reach this one, `host[:port]`.
    pub advertise_addr: String,
    /// Where it listens as a manager; empty: as before, or at the other address if that was the one advertised.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listen_addr: String,
    /// Where another manager is, for one that finds none; empty: where it was.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub manager: String,
}

/// `POST /swarmpki/v1/address`: this member is at another address. Answered with what it has then, once the other managers know, if it is one.
pub(super) async fn node_at(backend: &Backend, body: Option<Document>) -> Answer {
    let wanted: NodeAt = super::rotation::read(body)?;
    if wanted.advertise_addr.is_empty() {
        return Err(ApiError::bad_request("advertise_addr is missing"));
    }
    json(&backend.lifecycle().move_to(wanted).await?)
}

pub(super) fn nodes(backend: &Backend) -> Answer {
    let control = backend.control()?;
    let this = backend.present().membership().and_then(crate::backend::Membership::node_id);
    let wanted = convert::cluster_info(&control.cluster().map_err(refusal)?).tls_info;
    let nodes: Vec<NodeReport> = control
        .nodes()
        .iter()
        .map(|node| {
            let mut report = node_report(node, &wanted);
            report.this = this.as_ref() == Some(&node.id);
            report
        })
        .collect();
    json(&nodes)
}

fn node_report(node: &NodeView, wanted: &TlsInfo) -> NodeReport {
    let shown = convert::node(node);
    let tls = if shown.description.tls_info.trust_root.is_empty() {
        "unknown"
    } else if shown.description.tls_info == *wanted {
        "ready"
    } else {
        "needs rotation"
    };
    let manager = node.manager.as_ref().map(|manager| match (manager.leader, manager.reachable) {
        (true, _) => "leader",
        (false, true) => "reachable",
        (false, false) => "unreachable",
    });
    NodeReport {
        id: node.id.to_string(),
        this: false,
        hostname: hostname(node).to_owned(),
        role: node.role.word().to_owned(),
        desired_role: node.spec.role.word().to_owned(),
        availability: availability_word(node.spec.availability).to_owned(),
        state: state_word(node.state).to_owned(),
        message: node.message.clone(),
        addr: node.addr.clone(),
        engine_version: shown.description.engine.engine_version,
        manager: manager.map(str::to_owned),
        tls: tls.to_owned(),
        created: node.created.rfc3339(),
        not_after: text(node.not_after),
        renew_from: text(node.renew_window.map(|(from, _)| from)),
        renew_until: text(node.renew_window.map(|(_, until)| until)),
        clock_offset_ms: node.clock_offset_ms,
        last_contact: text(node.last_contact),
        unfinished: node.unfinished,
    }
}

pub(super) fn ca(backend: &Backend) -> Answer {
    let cluster = backend.control()?.cluster().map_err(refusal)?;
    let roots = pki::certificate::Certificate::parse_pem_bundle(cluster.trust_root.as_bytes())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    json(&CaReport {
        cluster_id: cluster.id.to_string(),
        digest: Digest::of(cluster.trust_root.as_bytes()).to_string(),
        roots: roots
            .iter()
            .map(|root| RootReport {
                fingerprint: hex(&root.fingerprint()),
                serial: root.serial().to_string(),
                not_before: root.not_before().rfc3339(),
                not_after: root.not_after().rfc3339(),
            })
            .collect(),
        rotation_in_progress: cluster.rotation_in_progress,
        node_cert_expiry_s: cluster::settings::leaf_life(cluster.spec.node_cert_expiry).as_secs(),
        trust_root: cluster.trust_root,
    })
}
