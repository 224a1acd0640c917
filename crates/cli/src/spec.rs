//! The cluster's settings as flags of `init`, `update` and `ca`, and their place in the Spec (engine-api.md 5, 10).

use std::fs;
use std::time::Duration;

use clap::Args;
use daemon::engine_api::rotation::ExternalCaRequest;
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::go_duration;

/// Flags that change the cluster's settings. Only those given are put in the Spec.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SpecFlags {
    /// Validity period for node certificates (ns|us|ms|s|m|h|d), at least 1h; 90d unless set
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    pub(crate) cert_expiry: Option<Duration>,
    /// Period of the nodes' heartbeats (ns|us|ms|s|m|h|d); 5s unless set
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    dispatcher_heartbeat: Option<Duration>,
    /// Certificate signing endpoint: protocol=cfssl,url=https://…[,cacert=FILE]; may be repeated
    #[arg(long, value_name = "EXTERNAL-CA", value_parser = parse_external_ca)]
    external_ca: Vec<ExternalCa>,
    /// Number of old raft snapshots to keep
    #[arg(long, value_name = "UINT")]
    max_snapshots: Option<u64>,
    /// Number of log entries between raft snapshots
    #[arg(long, value_name = "UINT")]
    snapshot_interval: Option<u64>,
    /// Task history retention limit; kept for docker's sake
    #[arg(long, value_name = "INT", allow_negative_numbers = true)]
    task_history_limit: Option<i64>,
}

impl SpecFlags {
    /// Whether no flag was given.
    pub(crate) fn is_empty(&self) -> bool {
        self.cert_expiry.is_none()
            && self.dispatcher_heartbeat.is_none()
            && self.external_ca.is_empty()
            && self.max_snapshots.is_none()
            && self.snapshot_interval.is_none()
            && self.task_history_limit.is_none()
    }

    /// Whether an external CA is named.
    pub(crate) fn has_external_ca(&self) -> bool {
        !self.external_ca.is_empty()
    }

    /// Writes the flags that were given into a Spec; an external CA without a root gets `root`.
    pub(crate) fn put_into(&self, spec: &mut Value, root: &str) {
        if let Some(expiry) = self.cert_expiry {
            put(spec, "CAConfig", "NodeCertExpiry", json!(go_duration::nanos(expiry)));
        }
        if let Some(period) = self.dispatcher_heartbeat {
            put(spec, "Dispatcher", "HeartbeatPeriod", json!(go_duration::nanos(period)));
        }
        if !self.external_ca.is_empty() {
            let list: Vec<Value> = self.external_ca.iter().map(|ca| ca.json(root)).collect();
            put(spec, "CAConfig", "ExternalCAs", Value::Array(list));
        }
        if let Some(count) = self.max_snapshots {
            put(spec, "Raft", "KeepOldSnapshots", json!(count));
        }
        if let Some(count) = self.snapshot_interval {
            put(spec, "Raft", "SnapshotInterval", json!(count));
        }
        if let Some(limit) = self.task_history_limit {
            put(spec, "Orchestration", "TaskHistoryRetentionLimit", json!(limit));
        }
    }
}

/// One `--external-ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExternalCa {
    protocol: String,
    url: String,
    root: Option<String>,
    options: Vec<(String, String)>,
}

impl ExternalCa {
    /// As our own API takes it; without a root of its own it signs for `root`.
    pub(crate) fn request(&self, root: &str) -> ExternalCaRequest {
        ExternalCaRequest { url: self.url.clone(), ca_cert: self.root.clone().unwrap_or_else(|| root.to_owned()) }
    }

    pub(crate) fn json(&self, root: &str) -> Value {
        let mut ca = json!({
            "Protocol": self.protocol,
            "URL": self.url,
            "CACert": self.root.as_deref().unwrap_or(root),
        });
        if !self.options.is_empty() {
            let options = self.options.iter().map(|(key, value)| (key.clone(), json!(value))).collect::<Map<_, _>>();
            if let Some(ca) = ca.as_object_mut() {
                ca.insert("Options".to_owned(), Value::Object(options));
            }
        }
        ca
    }
}

/// A Spec with nothing set, as a new cluster's request carries it.
pub(crate) fn empty() -> Value {
    json!({
        "Labels": null, "Orchestration": {}, "Raft": {"ElectionTick": 0, "HeartbeatTick": 0}, "Dispatcher": {},
        "CAConfig": {}, "TaskDefaults": {}, "EncryptionConfig": {"AutoLockManagers": false},
    })
}

/// Sets `spec.group.field`, making the group if it is missing or null.
pub(crate) fn put(spec: &mut Value, group: &str, field: &str, value: Value) {
    if !spec.is_object() {
        *spec = json!({});
    }
    let Some(spec) = spec.as_object_mut() else {
        return;
    };
    let group = spec.entry(group).or_insert_with(|| json!({}));
    if !group.is_object() {
        *group = json!({});
    }
    if let Some(group) = group.as_object_mut() {
        group.insert(field.to_owned(), value);
    }
}

/// Reads a file that must hold PEM; worded as docker's command words it.
pub(crate) fn read_pem(path: &str) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| not_open(path, &error))?;
    if !text.contains("-----BEGIN ") {
        return Err("file contents must be in PEM format".to_owned());
    }
    Ok(text)
}

pub(crate) fn not_open(path: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        std::io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("open {path}: {error}"),
    }
}

/// Reads `protocol=cfssl,url=https://…,cacert=FILE`. Texts: engine-api.md 10.
pub(crate) fn parse_external_ca(text: &str) -> Result<ExternalCa, String> {
    let mut ca = ExternalCa { protocol: String::new(), url: String::new(), root: None, options: Vec::new() };
    for field in text.split(',') {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        };
        match key.to_lowercase().as_str() {
            "protocol" if value.eq_ignore_ascii_case("cfssl") => ca.protocol = "cfssl".to_owned(),
            "protocol" => return Err(format!("unrecognized external CA protocol {value}")),
            "url" => ca.url = value.to_owned(),
            "cacert" => {
                let pem = fs::read_to_string(value)
                    .map_err(|error| format!("unable to read CA cert for external CA: {}", not_open(value, &error)))?;
                if !pem.contains("-----BEGIN ") {
                    return Err("CA cert for external CA must be in PEM format".to_owned());
                }
                ca.root = Some(pem);
            }
            _ => ca.options.push((key.to_owned(), value.to_owned())),
        }
    }
    if ca.protocol.is_empty() {
        return Err("the external-ca option needs a protocol= parameter".to_owned());
    }
    if ca.url.is_empty() {
        return Err("the external-ca option needs a url= parameter".to_owned());
    }
    Ok(ca)
}

/// Checks `--availability` before anything is sent. Text: engine-api.md 10.
pub(crate) fn check_availability(word: Option<&str>) -> Result<String, Failure> {
    match word.unwrap_or_default() {
        word @ ("" | "active" | "pause" | "drain") => Ok(word.to_owned()),
        word => {
            Err(Failure::new(format!("invalid availability \"{word}\", only active, pause and drain are supported")))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn external_cas() {
        let ca = parse_external_ca("protocol=CFSSL,url=https://ca.example/sign,profile=x").unwrap();
        assert_eq!(
            ca.json("ROOT"),
            json!({"Protocol": "cfssl", "URL": "https://ca.example/sign", "CACert": "ROOT", "Options": {"profile": "x"}})
        );
        for (text, error) in [
            ("cfssl", "invalid field 'cfssl' must be a key=value pair"),
            ("protocol=foo,url=x", "unrecognized external CA protocol foo"),
            ("url=x", "the external-ca option needs a protocol= parameter"),
            ("protocol=cfssl", "the external-ca option needs a url= parameter"),
            (
                "protocol=cfssl,url=x,cacert=/nowhere/f",
                "unable to read CA cert for external CA: open /nowhere/f: no such file or directory",
            ),
        ] {
            assert_eq!(parse_external_ca(text).unwrap_err(), error);
        }
    }

    #[test]
    fn only_given_flags_are_put() {
        let mut spec = json!({"CAConfig": null, "Raft": {"ElectionTick": 10}, "Unknown": 1});
        SpecFlags { cert_expiry: Some(Duration::from_secs(3600)), ..SpecFlags::default() }.put_into(&mut spec, "");
        assert_eq!(
            spec,
            json!({"CAConfig": {"NodeCertExpiry": 3_600_000_000_000_u64}, "Raft": {"ElectionTick": 10}, "Unknown": 1})
        );
    }
}
