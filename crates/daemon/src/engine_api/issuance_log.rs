//! `GET /swarmpki/v1/ca/log?from=&max=`: the issuance log, a page at a time. Managers only; only reads.

use cluster::State;
use cluster::account::Event;
use cluster::format::LogRecord;
use cluster::roots::{Root, Roots};
use pki::certificate::Certificate;
use pki::digest::hex;
use replica::Handle;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::query::Query;
use super::{Answer, json};
use crate::backend::Backend;

/// Entries of a page when the caller names no number.
pub const PAGE_DEFAULT: usize = 100;
/// Entries of a page at most; a larger wish gets this many.
pub const PAGE_MAX: usize = 1000;

/// A page of the issuance log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogPage {
    /// Entries in the whole log; every one before the page's last is on a page.
    pub size: u64,
    /// Root of the Merkle tree (RFC 6962, 2.1) over the first `size` entries, hex.
    pub root_hash: String,
    /// The page: those from `from` on, in order; empty behind the end.
    pub entries: Vec<LogLine>,
}

/// One signature of a CA key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLine {
    /// Its place, from 0.
    pub seq: u64,
    /// The cluster's time when it was committed.
    pub time: String,
    /// The node it names; null for a CA certificate.
    pub node: Option<String>,
    /// `worker` or `manager`; null for a CA certificate.
    pub role: Option<String>,
    /// Serial, hex.
    pub serial: String,
    /// From when.
    pub not_before: String,
    /// Until when.
    pub not_after: String,
    /// SHA-256 of the certificate's DER, hex.
    pub fingerprint: String,
    /// SHA-256 of the DER of the certificate that signed it, hex; null if the cluster does not hold that any more.
    pub issuer: Option<String>,
}

pub(super) async fn page(backend: &Backend, query: &Query) -> Answer {
    let from = number(query, "from")?.unwrap_or(0);
    let max = number(query, "max")?.map_or(PAGE_DEFAULT, |max| usize::try_from(max).unwrap_or(PAGE_MAX));
    let replica = backend.replica()?;
    let state = replica.state();
    let max = max.min(PAGE_MAX);
    let issuers = issuers(&state);
    let (mut entries, mut next) = (Vec::new(), from);
    // Entries that came meanwhile belong to the next page: the answer is of one moment.
    while entries.len() < max && next < state.log_size() {
        let rest = usize::try_from(state.log_size().saturating_sub(next)).unwrap_or(PAGE_MAX);
        let read = replica.log_entries(next, PAGE_MAX.min(rest)).await;
        let read = read.map_err(|error| ApiError::internal(error.to_string()))?;
        let Some(last) = read.last() else { break };
        next = last.seq.saturating_add(1);
        let lines = read.iter().filter_map(|entry| line(entry.seq, &entry.bytes, &issuers).transpose());
        let damaged = |error| ApiError::internal(format!("{error}; see: swarmpki check, on the stopped daemon"));
        for line in lines.take(max - entries.len()) {
            entries.push(line.map_err(damaged)?);
        }
    }
    json(&LogPage { size: state.log_size(), root_hash: hex(&state.log.root()), entries })
}

pub(super) fn number(query: &Query, name: &str) -> Result<Option<u64>, ApiError> {
    match query.value(name) {
        "" => Ok(None),
        raw => raw.parse().map(Some).map_err(|_| ApiError::bad_request(format!("invalid value for {name}: {raw}"))),
    }
}

/// The CA certificates that the cluster holds, roots before what stands in for them. One key may have several: the root
/// itself is named then, not its cross-certificate.
pub(super) fn issuers(state: &State) -> Vec<Certificate> {
    let roots: Vec<&Root> = match &state.roots {
        Roots::None => Vec::new(),
        Roots::Stable { root, .. } => vec![root],
        Roots::Rotating(rotation) => rotation.roots().map(AsRef::as_ref).collect(),
    };
    let certificates = roots.iter().flat_map(|root| root.certificates.iter());
    let stragglers = state.roots.stragglers().iter().map(|anchor| &anchor.certificate);
    let signers = roots.iter().map(|root| &root.signer);
    let operators = state.operators.root.iter().map(|root| &root.certificate);
    certificates.chain(stragglers).chain(signers).chain(operators).cloned().collect()
}

/// The line of a certificate of a node or a CA; none: the entry is of something else.
fn line(seq: u64, bytes: &[u8], issuers: &[Certificate]) -> Result<Option<LogLine>, String> {
    let damaged = |error: &dyn std::fmt::Display| format!("entry {seq} of the issuance log cannot be read: {error}");
    let record = LogRecord::decode(bytes).map_err(|error| damaged(&error))?;
    if record.event != Event::Issued {
        return Ok(None);
    }
    let certificate = Certificate::from_der(record.certificate).map_err(|error| damaged(&error))?;
    let role = match &record.node {
        Some(_) => Some(certificate.node_subject().map_err(|error| damaged(&error))?.role.word().to_owned()),
        None => None,
    };
    let issuer = issuers.iter().find(|issuer| is_issuer(issuer, &certificate));
    Ok(Some(LogLine {
        seq,
        time: record.time.rfc3339(),
        node: record.node.map(|node| node.to_string()),
        role,
        serial: certificate.serial().to_string(),
        not_before: certificate.not_before().rfc3339(),
        not_after: certificate.not_after().rfc3339(),
        fingerprint: hex(&certificate.fingerprint()),
        issuer: issuer.map(|issuer| hex(&issuer.fingerprint())),
    }))
}

/// By name and key id: what is in the log was signed by us, and is not verified again.
fn is_issuer(issuer: &Certificate, certificate: &Certificate) -> bool {
    let same_key = match (certificate.aki(), issuer.ski()) {
        (Some(wanted), Some(key)) => wanted == key,
        _ => issuer == certificate,
    };
    same_key && issuer.subject_der() == certificate.issuer_der()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_query() {
        let number = |text: &str| number(&Query::parse(text), "from").map_err(|refused| refused.message);
        assert_eq!(number(""), Ok(None));
        assert_eq!(number("from=7"), Ok(Some(7)));
        assert_eq!(number("from=-1"), Err("invalid value for from: -1".to_owned()));
        assert_eq!(number("from=x"), Err("invalid value for from: x".to_owned()));
    }

    #[test]
    fn an_entry_that_is_none_is_named() {
        let refused = line(3, &[0xff], &[]);
        assert!(refused.is_err_and(|text| text.starts_with("entry 3 of the issuance log cannot be read: ")));
    }
}
