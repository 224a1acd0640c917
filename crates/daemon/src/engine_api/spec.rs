//! The Spec of an init or update request, and what becomes of it (engine-api.md 6.3, 7.1).

use std::collections::BTreeMap;
use std::time::Duration;

use cluster::settings::{NODE_CERT_EXPIRY_MIN, Settings};
use manager::rotate::Wish;
use manager::view::{ClusterSpec, ExternalCa, RaftSettings};
use pki::secret::SecretString;
use serde_json::Value;
use wire::status::{CaUpdateRefusal, Refusal};

use super::decode::Object;
use super::error::ApiError;
use crate::backend::refusal;

/// The only name a swarm's settings can have.
pub const SPEC_NAME: &str = "default";
/// The only protocol of an external CA; any case on input, this one on output.
pub const EXTERNAL_CA_PROTOCOL: &str = "cfssl";

/// A Spec as sent, before its rules are checked. Durations in nanoseconds, as sent: they may be negative.
pub struct SpecRequest {
    name: String,
    labels: BTreeMap<String, String>,
    task_history: Option<i64>,
    snapshot_interval: u64,
    keep_old_snapshots: Option<u64>,
    slow_followers: u64,
    election_tick: i64,
    heartbeat_tick: i64,
    heartbeat_ns: i64,
    node_cert_expiry_ns: i64,
    external_cas: Vec<(String, ExternalCa)>,
    signing_ca_cert: String,
    signing_ca_key: SecretString,
    signer_certificate: String,
    pkcs11: String,
    force_rotate: u64,
    autolock: bool,
}

impl SpecRequest {
    /// Reads a whole Spec (the body of an update).
    pub fn decode(value: Option<&Value>) -> Result<Self, ApiError> {
        Self::from_object(&Object::document(value, "Spec")?)
    }

    /// Reads a Spec that is part of another request.
    pub fn from_object(spec: &Object<'_>) -> Result<Self, ApiError> {
        let orchestration = spec.object("Orchestration", "swarm.OrchestrationConfig")?;
        let raft = spec.object("Raft", "swarm.RaftConfig")?;
        let dispatcher = spec.object("Dispatcher", "swarm.DispatcherConfig")?;
        let ca = spec.object("CAConfig", "swarm.CAConfig")?;
        let encryption = spec.object("EncryptionConfig", "swarm.EncryptionConfig")?;
        let external_cas = ca
            .objects("ExternalCAs", "swarm.ExternalCA")?
            .iter()
            .map(|external| {
                let parsed = ExternalCa {
                    url: external.string("URL")?,
                    options: external.labels("Options")?,
                    ca_cert: external.string("CACert")?,
                };
                Ok((external.string("Protocol")?, parsed))
            })
            .collect::<Result<_, ApiError>>()?;
        Ok(Self {
            name: spec.string("Name")?,
            labels: spec.labels("Labels")?,
            task_history: orchestration.signed("TaskHistoryRetentionLimit", "int64")?,
            snapshot_interval: raft.unsigned("SnapshotInterval", "uint64")?.unwrap_or_default(),
            keep_old_snapshots: raft.unsigned("KeepOldSnapshots", "uint64")?,
            slow_followers: raft.unsigned("LogEntriesForSlowFollowers", "uint64")?.unwrap_or_default(),
            election_tick: raft.signed("ElectionTick", "int")?.unwrap_or_default(),
            heartbeat_tick: raft.signed("HeartbeatTick", "int")?.unwrap_or_default(),
            heartbeat_ns: dispatcher.signed("HeartbeatPeriod", "time.Duration")?.unwrap_or_default(),
            node_cert_expiry_ns: ca.signed("NodeCertExpiry", "time.Duration")?.unwrap_or_default(),
            external_cas,
            signing_ca_cert: ca.string("SigningCACert")?,
            signing_ca_key: SecretString::from(ca.string("SigningCAKey")?),
            signer_certificate: ca.string("SignerCertificate")?,
            pkcs11: ca.string("PKCS11")?,
            force_rotate: ca.unsigned("ForceRotate", "uint64")?.unwrap_or_default(),
            autolock: encryption.boolean("AutoLockManagers")?,
        })
    }

    /// The whole replacement of the settings: what is absent is stored as zero, not as default. First failure wins.
    pub fn into_replacement(self) -> Result<ClusterSpec, ApiError> {
        self.check()?;
        Ok(ClusterSpec {
            labels: self.labels,
            task_history: Some(self.task_history.unwrap_or_default()),
            raft: RaftSettings {
                snapshot_interval: self.snapshot_interval,
                keep_old_snapshots: Some(self.keep_old_snapshots.unwrap_or_default()),
                slow_followers: self.slow_followers,
                election_tick: u32::try_from(self.election_tick).unwrap_or_default(),
                heartbeat_tick: u32::try_from(self.heartbeat_tick).unwrap_or_default(),
            },
            heartbeat: duration(self.heartbeat_ns),
            node_cert_expiry: duration(self.node_cert_expiry_ns),
            external_cas: self.external_cas.into_iter().map(|(_, ca)| ca).collect(),
            force_rotate: self.force_rotate,
            autolock: self.autolock,
        })
    }

    /// The root that is asked for. `SignerCertificate` is ours: an online certificate below the root that signs in its place.
    pub fn wish(&self) -> Wish {
        let key = SecretString::new(self.signing_ca_key.expose().to_owned());
        Wish {
            force_rotate: self.force_rotate,
            certificate: self.signing_ca_cert.clone().into_bytes(),
            signer: (!self.signer_certificate.is_empty()).then(|| self.signer_certificate.clone().into_bytes()),
            key: Some(key),
            token: None,
        }
    }

    /// `PKCS11` is ours: the URI of the key in a token that a new cluster's root is to have.
    pub fn pkcs11(&self) -> Option<&str> {
        Some(self.pkcs11.as_str()).filter(|uri| !uri.is_empty())
    }

    /// The first settings of a cluster: zero values mean `defaults` (engine-api.md 6.3).
    pub fn merged_into(self, defaults: ClusterSpec) -> Result<ClusterSpec, ApiError> {
        let given = self.into_replacement_of_init()?;
        let or = |value: u64, default: u64| if value == 0 { default } else { value };
        let or32 = |value: u32, default: u32| if value == 0 { default } else { value };
        let or_time = |value: Duration, default: Duration| if value.is_zero() { default } else { value };
        Ok(ClusterSpec {
            labels: if given.labels.is_empty() { defaults.labels } else { given.labels },
            task_history: given.task_history.or(defaults.task_history),
            raft: RaftSettings {
                snapshot_interval: or(given.raft.snapshot_interval, defaults.raft.snapshot_interval),
                keep_old_snapshots: given.raft.keep_old_snapshots.or(defaults.raft.keep_old_snapshots),
                slow_followers: or(given.raft.slow_followers, defaults.raft.slow_followers),
                election_tick: or32(given.raft.election_tick, defaults.raft.election_tick),
                heartbeat_tick: or32(given.raft.heartbeat_tick, defaults.raft.heartbeat_tick),
            },
            heartbeat: or_time(given.heartbeat, defaults.heartbeat),
            node_cert_expiry: or_time(given.node_cert_expiry, defaults.node_cert_expiry),
            external_cas: given.external_cas,
            force_rotate: given.force_rotate,
            autolock: given.autolock,
        })
    }

    fn into_replacement_of_init(self) -> Result<ClusterSpec, ApiError> {
        let (task_history, keep_old_snapshots) = (self.task_history, self.keep_old_snapshots);
        let mut spec = self.into_replacement()?;
        spec.task_history = task_history;
        spec.raft.keep_old_snapshots = keep_old_snapshots;
        Ok(spec)
    }

    /// Whether autolock is asked for.
    pub fn autolock(&self) -> bool {
        self.autolock
    }

    /// The rule on the name.
    pub fn check_name(&self) -> Result<(), ApiError> {
        if self.name.is_empty() || self.name == SPEC_NAME {
            Ok(())
        } else {
            Err(ApiError::bad_request("swarm spec must be named \"default\""))
        }
    }

    /// The rules of engine-api.md 7.1 that need no state, in their order.
    fn check(&self) -> Result<(), ApiError> {
        self.check_name()?;
        for (protocol, _) in &self.external_cas {
            if !protocol.eq_ignore_ascii_case(EXTERNAL_CA_PROTOCOL) {
                return Err(ApiError::bad_request(format!("invalid protocol: {protocol:?}")));
            }
        }
        let invalid = |rule: Refusal| Err(refusal(rule.into()));
        let expiry_min = i64::try_from(NODE_CERT_EXPIRY_MIN.as_nanos()).unwrap_or(i64::MAX);
        if self.node_cert_expiry_ns != 0 && self.node_cert_expiry_ns < expiry_min {
            return invalid(Refusal::ExpiryTooShort);
        }
        if self.heartbeat_ns < 0 {
            return invalid(Refusal::HeartbeatNegative);
        }
        if !self.signing_ca_key.expose().is_empty() && self.signing_ca_cert.is_empty() {
            return invalid(Refusal::CaUpdate(CaUpdateRefusal::KeyWithoutCertificate));
        }
        if !self.signer_certificate.is_empty() && self.signing_ca_cert.is_empty() {
            return Err(ApiError::bad_request(
                "SignerCertificate needs the root that it is below: SigningCACert is empty",
            ));
        }
        Ok(())
    }
}

/// The settings of a new cluster when nothing is asked for (engine-api.md 5).
pub fn defaults() -> ClusterSpec {
    ClusterSpec::from(&Settings::default())
}

fn duration(ns: i64) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn replacement(value: &Value) -> Result<ClusterSpec, String> {
        SpecRequest::decode(Some(value)).and_then(SpecRequest::into_replacement).map_err(|error| error.message)
    }

    #[test]
    fn an_empty_update_stores_zeros() {
        let spec = replacement(&json!({})).unwrap();
        assert_eq!(spec.task_history, Some(0));
        assert!(spec.heartbeat.is_zero() && spec.node_cert_expiry.is_zero());
        assert_eq!(spec.raft.election_tick, 0);
        let same =
            SpecRequest::decode(None).and_then(SpecRequest::into_replacement).map_err(|error| error.message).unwrap();
        assert_eq!(spec, same);
    }

    #[test]
    fn a_spec_as_docker_sends_it() {
        let spec = replacement(&json!({
            "Name": "default", "Labels": {"a": "b"}, "Orchestration": {"TaskHistoryRetentionLimit": 5},
            "Raft": {"SnapshotInterval": 10000, "KeepOldSnapshots": 0, "LogEntriesForSlowFollowers": 500, "ElectionTick": 10, "HeartbeatTick": 1},
            "Dispatcher": {"HeartbeatPeriod": 5_000_000_000_u64}, "CAConfig": {"NodeCertExpiry": 3_600_000_000_000_u64, "ForceRotate": 14,
                "ExternalCAs": [{"Protocol": "CFSSL", "URL": "https://x", "Options": {"k": "v"}, "CACert": "pem"}]},
            "TaskDefaults": {}, "EncryptionConfig": {"AutoLockManagers": true}
        }))
        .unwrap();
        assert_eq!(spec.node_cert_expiry, NODE_CERT_EXPIRY_MIN);
        assert_eq!((spec.force_rotate, spec.autolock, spec.heartbeat.as_secs()), (14, true, 5));
        assert_eq!(spec.external_cas[0].url, "https://x");
        assert_eq!(spec.labels.get("a").map(String::as_str), Some("b"));
    }

    #[test]
    fn first_failure_wins() {
        let expiry = "rpc error: code = InvalidArgument desc = minimum certificate expiry time is: 1h0m0s";
        let rows = [
            (json!({"Name": "other", "CAConfig": {"NodeCertExpiry": 1}}), "swarm spec must be named \"default\""),
            (
                json!({"CAConfig": {"NodeCertExpiry": 1, "ExternalCAs": [{"Protocol": "foo", "URL": "https://x"}]}}),
                "invalid protocol: \"foo\"",
            ),
            (json!({"CAConfig": {"NodeCertExpiry": -1}, "Dispatcher": {"HeartbeatPeriod": -1}}), expiry),
            (json!({"CAConfig": {"NodeCertExpiry": 3_599_999_999_999_u64}}), expiry),
            (
                json!({"Dispatcher": {"HeartbeatPeriod": -1}}),
                "rpc error: code = InvalidArgument desc = heartbeat time period cannot be a negative duration",
            ),
            (
                json!({"CAConfig": {"SigningCAKey": "pem"}}),
                "rpc error: code = InvalidArgument desc = if a signing CA key is provided, the signing CA cert must also be provided",
            ),
            (
                json!({"CAConfig": {"SignerCertificate": "pem"}}),
                "SignerCertificate needs the root that it is below: SigningCACert is empty",
            ),
        ];
        for (value, text) in rows {
            assert_eq!(replacement(&value).unwrap_err(), text);
        }
    }
}
