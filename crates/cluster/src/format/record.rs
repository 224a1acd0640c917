//! Records that both commands and state are made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use pki::certificate::Certificate;
use pki::identity::{ClusterId, NodeId, Role};
use pki::join_token::JoinSecret;
use pki::key::SpkiHash;
use pki::secret::SecretBytes;
use pki::serial::Serial;
use pki::time::Time;
use pki::unlock_key::UnlockKey;
use std::time::Duration;
use zeroize::Zeroize;

use super::DecodeError;
use crate::lock::UnlockBox;
use crate::node::{self, Availability, BlobDigest, IssuerHash};
use crate::revocation::Reason;
use crate::roots::Custody;
use crate::{roots, rotation, settings};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Leaf {
    #[prost(bytes = "vec", tag = "1")]
    serial: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    spki: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    issuer: Vec<u8>,
    #[prost(bool, tag = "4")]
    manager: bool,
    #[prost(int64, tag = "5")]
    not_before: i64,
    #[prost(int64, tag = "6")]
    not_after: i64,
}

impl From<&node::Leaf> for Leaf {
    fn from(leaf: &node::Leaf) -> Self {
        Self {
            serial: leaf.serial.as_bytes().to_vec(),
            spki: leaf.spki.0.to_vec(),
            issuer: leaf.issuer.0.to_vec(),
            manager: leaf.role == Role::Manager,
            not_before: leaf.not_before.unix_millis(),
            not_after: leaf.not_after.unix_millis(),
        }
    }
}

impl TryFrom<Leaf> for node::Leaf {
    type Error = DecodeError;

    fn try_from(leaf: Leaf) -> Result<Self, DecodeError> {
        Ok(Self {
            serial: serial(&leaf.serial)?,
            spki: SpkiHash(array("spki", &leaf.spki)?),
            issuer: IssuerHash(array("issuer", &leaf.issuer)?),
            role: role(leaf.manager),
            not_before: Time::from_unix_millis(leaf.not_before),
            not_after: Time::from_unix_millis(leaf.not_after),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Letter {
    #[prost(bytes = "vec", tag = "1")]
    csr: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    leaf: Option<Leaf>,
    #[prost(bytes = "vec", tag = "3")]
    certificate: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    ladder: Vec<Vec<u8>>,
    #[prost(int64, tag = "5")]
    issued: i64,
}

impl From<&node::Letter> for Letter {
    fn from(letter: &node::Letter) -> Self {
        Self {
            csr: letter.csr.clone(),
            leaf: Some((&letter.leaf).into()),
            certificate: letter.certificate.clone(),
            ladder: letter.ladder.clone(),
            issued: letter.issued.unix_millis(),
        }
    }
}

impl TryFrom<Letter> for node::Letter {
    type Error = DecodeError;

    fn try_from(letter: Letter) -> Result<Self, DecodeError> {
        Ok(Self {
            csr: letter.csr,
            leaf: required("leaf", letter.leaf)?.try_into()?,
            certificate: letter.certificate,
            ladder: letter.ladder,
            issued: Time::from_unix_millis(letter.issued),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Spec {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    labels: BTreeMap<String, String>,
    #[prost(bool, tag = "3")]
    manager: bool,
    #[prost(uint32, tag = "4")]
    availability: u32,
}

impl From<&node::Spec> for Spec {
    fn from(spec: &node::Spec) -> Self {
        let availability = match spec.availability {
            Availability::Active => 0,
            Availability::Pause => 1,
            Availability::Drain => 2,
        };
        Self { name: spec.name.clone(), labels: spec.labels.clone(), manager: spec.role == Role::Manager, availability }
    }
}

impl TryFrom<Spec> for node::Spec {
    type Error = DecodeError;

    fn try_from(spec: Spec) -> Result<Self, DecodeError> {
        let availability = match spec.availability {
            0 => Availability::Active,
            1 => Availability::Pause,
            2 => Availability::Drain,
            _ => return Err(DecodeError::Field("availability")),
        };
        Ok(Self { name: spec.name, labels: spec.labels, role: role(spec.manager), availability })
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct TokenUse {
    #[prost(uint32, tag = "1")]
    row: u32,
    #[prost(uint64, tag = "2")]
    generation: u64,
}

impl From<&node::TokenUse> for TokenUse {
    fn from(token: &node::TokenUse) -> Self {
        Self { row: token.row, generation: token.generation }
    }
}

impl From<TokenUse> for node::TokenUse {
    fn from(token: TokenUse) -> Self {
        Self { row: token.row, generation: token.generation }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Report {
    #[prost(string, tag = "1")]
    hostname: String,
    #[prost(string, tag = "2")]
    addr: String,
    #[prost(bytes = "vec", tag = "3")]
    issuer: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    trust: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    description: Vec<u8>,
}

impl From<&node::Report> for Report {
    fn from(report: &node::Report) -> Self {
        Self {
            hostname: report.hostname.clone(),
            addr: report.addr.clone(),
            issuer: report.issuer.0.to_vec(),
            trust: report.trust.0.to_vec(),
            description: report.description.0.to_vec(),
        }
    }
}

impl TryFrom<Report> for node::Report {
    type Error = DecodeError;

    fn try_from(report: Report) -> Result<Self, DecodeError> {
        Ok(Self {
            hostname: report.hostname,
            addr: report.addr,
            issuer: BlobDigest(array("issuer", &report.issuer)?),
            trust: BlobDigest(array("trust", &report.trust)?),
            description: BlobDigest(array("description", &report.description)?),
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Blob {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Root {
    #[prost(bytes = "vec", tag = "1")]
    bundle: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signer: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    intermediates: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "4")]
    key: Option<Vec<u8>>,
    #[prost(string, optional, tag = "5")]
    token: Option<String>,
}

impl From<&roots::Root> for Root {
    fn from(root: &roots::Root) -> Self {
        Self {
            bundle: root.bundle.clone(),
            signer: root.signer.der().to_vec(),
            intermediates: root.intermediates.clone(),
            key: root.key().map(|key| key.expose().to_vec()),
            token: token(&root.custody),
        }
    }
}

impl TryFrom<Root> for roots::Root {
    type Error = DecodeError;

    fn try_from(mut root: Root) -> Result<Self, DecodeError> {
        let signer = certificate(&root.signer)?;
        let custody = custody(root.key.take(), root.token.take())?;
        Ok(Self::new(std::mem::take(&mut root.bundle), signer, std::mem::take(&mut root.intermediates), custody))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Where the key of a root is from now on; neither here nor in a token: outside.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Entrust {
    #[prost(bytes = "vec", tag = "1")]
    trust: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "2")]
    key: Option<Vec<u8>>,
    #[prost(string, optional, tag = "3")]
    token: Option<String>,
}

impl From<&(BlobDigest, Custody)> for Entrust {
    fn from((trust, custody): &(BlobDigest, Custody)) -> Self {
        let key = match custody {
            Custody::Sealed(key) => Some(key.expose().to_vec()),
            Custody::Token(_) | Custody::Outside => None,
        };
        Self { trust: trust.0.to_vec(), key, token: token(custody) }
    }
}

impl TryFrom<Entrust> for (BlobDigest, Custody) {
    type Error = DecodeError;

    fn try_from(mut entrust: Entrust) -> Result<Self, DecodeError> {
        let trust = BlobDigest(array("trust", &entrust.trust)?);
        Ok((trust, custody(entrust.key.take(), entrust.token.take())?))
    }
}

impl std::fmt::Debug for Entrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entrust").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl Drop for Entrust {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

fn token(custody: &Custody) -> Option<String> {
    match custody {
        Custody::Token(uri) => Some(uri.to_string()),
        Custody::Sealed(_) | Custody::Outside => None,
    }
}

fn custody(key: Option<Vec<u8>>, token: Option<String>) -> Result<Custody, DecodeError> {
    match (key, token) {
        (Some(key), None) => Ok(Custody::Sealed(Arc::new(SecretBytes::new(key)))),
        (None, Some(uri)) => Ok(Custody::Token(uri.into())),
        (None, None) => Ok(Custody::Outside),
        (Some(_), Some(_)) => Err(DecodeError::Field("custody")),
    }
}

/// The unlock key.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Unlock {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unlock").finish_non_exhaustive()
    }
}

impl Drop for Unlock {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl From<&UnlockBox> for Unlock {
    fn from(unlock: &UnlockBox) -> Self {
        Self { key: unlock.0.bytes().expose().to_vec() }
    }
}

impl TryFrom<Unlock> for UnlockBox {
    type Error = DecodeError;

    fn try_from(unlock: Unlock) -> Result<Self, DecodeError> {
        let key = zeroize::Zeroizing::new(array("unlock key", &unlock.key)?);
        Ok(Self(Arc::new(UnlockKey::from_bytes(*key))))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Settings {
    #[prost(btree_map = "string, string", tag = "1")]
    labels: BTreeMap<String, String>,
    #[prost(int64, optional, tag = "2")]
    task_history: Option<i64>,
    #[prost(uint64, tag = "3")]
    snapshot_interval: u64,
    #[prost(uint64, optional, tag = "4")]
    keep_old_snapshots: Option<u64>,
    #[prost(uint64, tag = "5")]
    slow_followers: u64,
    #[prost(uint32, tag = "6")]
    election_tick: u32,
    #[prost(uint32, tag = "7")]
    heartbeat_tick: u32,
    #[prost(uint64, tag = "8")]
    heartbeat_nanos: u64,
    #[prost(uint64, tag = "9")]
    node_cert_expiry_nanos: u64,
    #[prost(message, repeated, tag = "10")]
    external_cas: Vec<ExternalCa>,
    #[prost(uint64, tag = "11")]
    force_rotate: u64,
    #[prost(bool, tag = "12")]
    autolock: bool,
    #[prost(string, repeated, tag = "13")]
    default_addr_pool: Vec<String>,
    #[prost(uint32, tag = "14")]
    subnet_size: u32,
    #[prost(uint32, tag = "15")]
    data_path_port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExternalCa {
    #[prost(string, tag = "1")]
    url: String,
    #[prost(btree_map = "string, string", tag = "2")]
    options: BTreeMap<String, String>,
    #[prost(string, tag = "3")]
    ca_cert: String,
}

impl From<&settings::Settings> for Settings {
    fn from(settings: &settings::Settings) -> Self {
        let external = |ca: &settings::ExternalCa| ExternalCa {
            url: ca.url.clone(),
            options: ca.options.clone(),
            ca_cert: ca.ca_cert.clone(),
        };
        Self {
            labels: settings.labels.clone(),
            task_history: settings.task_history,
            snapshot_interval: settings.raft.snapshot_interval,
            keep_old_snapshots: settings.raft.keep_old_snapshots,
            slow_followers: settings.raft.slow_followers,
            election_tick: settings.raft.election_tick,
            heartbeat_tick: settings.raft.heartbeat_tick,
            heartbeat_nanos: nanos(settings.heartbeat),
            node_cert_expiry_nanos: nanos(settings.node_cert_expiry),
            external_cas: settings.external_cas.iter().map(external).collect(),
            force_rotate: settings.force_rotate,
            autolock: settings.autolock,
            default_addr_pool: settings.default_addr_pool.clone(),
            subnet_size: settings.subnet_size,
            data_path_port: settings.data_path_port,
        }
    }
}

impl From<Settings> for settings::Settings {
    fn from(settings: Settings) -> Self {
        let external = |ca: ExternalCa| settings::ExternalCa { url: ca.url, options: ca.options, ca_cert: ca.ca_cert };
        Self {
            labels: settings.labels,
            task_history: settings.task_history,
            raft: settings::RaftSettings {
                snapshot_interval: settings.snapshot_interval,
                keep_old_snapshots: settings.keep_old_snapshots,
                slow_followers: settings.slow_followers,
                election_tick: settings.election_tick,
                heartbeat_tick: settings.heartbeat_tick,
            },
            heartbeat: Duration::from_nanos(settings.heartbeat_nanos),
            node_cert_expiry: Duration::from_nanos(settings.node_cert_expiry_nanos),
            external_cas: settings.external_cas.into_iter().map(external).collect(),
            force_rotate: settings.force_rotate,
            autolock: settings.autolock,
            default_addr_pool: settings.default_addr_pool,
            subnet_size: settings.subnet_size,
            data_path_port: settings.data_path_port,
        }
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Field(field))
}

pub(super) fn array<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Field(field))
}

pub(super) fn role(manager: bool) -> Role {
    if manager { Role::Manager } else { Role::Worker }
}

pub(super) fn reason(code: u32) -> Result<Reason, DecodeError> {
    u8::try_from(code).ok().and_then(Reason::of).ok_or(DecodeError::Field("reason"))
}

pub(super) fn node_id(text: &str) -> Result<NodeId, DecodeError> {
    text.parse().map_err(|_| DecodeError::Field("node id"))
}

pub(super) fn cluster_id(text: &str) -> Result<ClusterId, DecodeError> {
    text.parse().map_err(|_| DecodeError::Field("cluster id"))
}

pub(super) fn serial(bytes: &[u8]) -> Result<Serial, DecodeError> {
    Serial::from_bytes(bytes).map_err(|_| DecodeError::Field("serial"))
}

pub(super) fn secret(bytes: &[u8]) -> Result<Arc<JoinSecret>, DecodeError> {
    Ok(Arc::new(JoinSecret::from_bytes(array("secret", bytes)?)))
}

pub(super) fn certificate(der: &[u8]) -> Result<Certificate, DecodeError> {
    Certificate::from_der(der).map_err(|_| DecodeError::Field("certificate"))
}

/// What happens with nodes that do not come along: a deadline, or the time for each phase of an emergency.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Policy {
    #[prost(int64, optional, tag = "1")]
    deadline: Option<i64>,
    #[prost(uint64, optional, tag = "2")]
    emergency_bound_millis: Option<u64>,
}

impl From<rotation::Policy> for Policy {
    fn from(policy: rotation::Policy) -> Self {
        match policy {
            rotation::Policy::WaitForAll => Self::default(),
            rotation::Policy::Deadline(at) => Self { deadline: Some(at.unix_millis()), ..Self::default() },
            rotation::Policy::Emergency { bound } => {
                let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
                Self { emergency_bound_millis: Some(millis), ..Self::default() }
            }
        }
    }
}

impl From<Policy> for rotation::Policy {
    fn from(policy: Policy) -> Self {
        match (policy.emergency_bound_millis, policy.deadline) {
            (Some(millis), _) => Self::Emergency { bound: Duration::from_millis(millis) },
            (None, Some(at)) => Self::Deadline(Time::from_unix_millis(at)),
            (None, None) => Self::WaitForAll,
        }
    }
}

/// How leaves of one root are verified by holders of another: a bundle, if there is one, or else a ladder.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Way {
    #[prost(bytes = "vec", repeated, tag = "1")]
    ladder: Vec<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    bundle: Option<Vec<u8>>,
}

impl From<&rotation::Way> for Way {
    fn from(way: &rotation::Way) -> Self {
        match way {
            rotation::Way::Ladder(ladder) => Self { ladder: ders(ladder), bundle: None },
            rotation::Way::Bundle(bundle) => Self { ladder: Vec::new(), bundle: Some(bundle.to_vec()) },
        }
    }
}

impl TryFrom<Way> for rotation::Way {
    type Error = DecodeError;

    fn try_from(way: Way) -> Result<Self, DecodeError> {
        Ok(match way.bundle {
            Some(bundle) => Self::Bundle(Arc::from(bundle)),
            None => Self::Ladder(certificates(&way.ladder)?),
        })
    }
}

/// A phase's number: as they follow each other, from 1.
pub(super) fn phase_number(phase: rotation::Phase) -> u32 {
    match phase {
        rotation::Phase::Widen => 1,
        rotation::Phase::Renew => 2,
        rotation::Phase::Trust => 3,
    }
}

pub(super) fn phase(number: u32) -> Result<rotation::Phase, DecodeError> {
    match number {
        1 => Ok(rotation::Phase::Widen),
        2 => Ok(rotation::Phase::Renew),
        3 => Ok(rotation::Phase::Trust),
        _ => Err(DecodeError::Field("phase")),
    }
}

pub(super) fn ders(certificates: &[Certificate]) -> Vec<Vec<u8>> {
    certificates.iter().map(|certificate| certificate.der().to_vec()).collect()
}

pub(super) fn certificates(ders: &[Vec<u8>]) -> Result<Vec<Certificate>, DecodeError> {
    ders.iter().map(|der| certificate(der)).collect()
}
