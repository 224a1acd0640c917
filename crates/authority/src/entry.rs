//! What the issuance log holds: one JSON object a line.
//!
//! Stored since format 1: fields are added, never renamed or given another meaning.

use pki::certificate::Certificate;
use pki::digest::hex;
use pki::identity::ClusterId;
use pki::time::Time;
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Entry {
    /// The log was begun for this CA. The first entry, once.
    Begun {
        /// When: milliseconds since the Unix epoch, as all times here.
        time_ms: i64,
        /// SHA-256 of the CA's public key (SPKI), hex.
        ca: String,
    },
    /// The cluster was settled.
    Cluster {
        /// When.
        time_ms: i64,
        /// Its id.
        cluster: String,
    },
    /// A manager had a leaf of ours for the first time while this former root was trusted: its time began to run.
    Ours {
        /// When.
        time_ms: i64,
        /// Which former root: SHA-256 of its certificate, hex. Early versions: over all former certificates' fingerprints.
        former: String,
        /// The manager that asked.
        node: String,
    },
    /// A node's certificate was signed.
    Leaf(Issued),
    /// Another CA was certified.
    CrossSigned(Issued),
    /// The certificate of this server was signed.
    Server(Issued),
}

/// A certificate that was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// When.
    pub time_ms: i64,
    /// Its serial number, hex.
    pub serial: String,
    /// Its subject: `O=…,OU=…,CN=…`, or `CN=…`.
    pub subject: String,
    /// SHA-256 of its public key (SPKI), hex.
    pub spki: String,
    /// SHA-256 of its DER, hex.
    pub fingerprint: String,
    /// Start of its validity.
    pub not_before_ms: i64,
    /// End of its validity.
    pub not_after_ms: i64,
    /// Whether it is a manager's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub manager: bool,
    /// Who asked; none for the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Asker>,
}

/// Who asked for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The manager's node id.
    pub node: String,
    /// Serial number of the leaf by which it was known, hex.
    pub serial: String,
    /// Whether that leaf was of the former root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub former: bool,
    /// Where it called from.
    pub address: String,
}

impl Issued {
    /// What the log keeps of a certificate.
    pub(crate) fn of(certificate: &Certificate, subject: String, now: Time, by: Option<Asker>) -> Self {
        Self {
            time_ms: now.unix_millis(),
            serial: certificate.serial().to_string(),
            subject,
            spki: hex(&certificate.spki_hash().0),
            fingerprint: hex(&certificate.fingerprint()),
            not_before_ms: certificate.not_before().unix_millis(),
            not_after_ms: certificate.not_after().unix_millis(),
            manager: false,
            by,
        }
    }
}

impl Entry {
    /// When it happened.
    #[must_use]
    pub fn time(&self) -> Time {
        Time::from_unix_millis(match self {
            Entry::Begun { time_ms, .. } | Entry::Cluster { time_ms, .. } | Entry::Ours { time_ms, .. } => *time_ms,
            Entry::Leaf(issued) | Entry::CrossSigned(issued) | Entry::Server(issued) => issued.time_ms,
        })
    }

    /// The certificate it tells of.
    #[must_use]
    pub fn issued(&self) -> Option<&Issued> {
        match self {
            Entry::Leaf(issued) | Entry::CrossSigned(issued) | Entry::Server(issued) => Some(issued),
            Entry::Begun { .. } | Entry::Cluster { .. } | Entry::Ours { .. } => None,
        }
    }

    pub(crate) fn cluster(cluster: &ClusterId, now: Time) -> Self {
        Entry::Cluster { time_ms: now.unix_millis(), cluster: cluster.as_str().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Written by format 1; it must read for ever.
    #[test]
    fn stored_since_format_1() {
        let lines = [
            r#"{"kind":"begun","time_ms":1,"ca":"ab"}"#,
            r#"{"kind":"cluster","time_ms":2,"cluster":"c"}"#,
            r#"{"kind":"ours","time_ms":3,"former":"f","node":"n"}"#,
            r#"{"kind":"leaf","time_ms":4,"serial":"01","subject":"O=c,OU=swarm-manager,CN=n","spki":"aa","fingerprint":"bb","not_before_ms":5,"not_after_ms":6,"manager":true,"by":{"node":"m","serial":"02","former":true,"address":"127.0.0.1:1"}}"#,
            r#"{"kind":"cross-signed","time_ms":4,"serial":"01","subject":"CN=swarm-ca","spki":"aa","fingerprint":"bb","not_before_ms":5,"not_after_ms":6}"#,
            r#"{"kind":"server","time_ms":4,"serial":"01","subject":"CN=x","spki":"aa","fingerprint":"bb","not_before_ms":5,"not_after_ms":6}"#,
        ];
        for line in lines {
            let entry: Entry = serde_json::from_str(line).unwrap();
            assert_eq!(serde_json::to_string(&entry).unwrap(), line);
        }
    }
}
