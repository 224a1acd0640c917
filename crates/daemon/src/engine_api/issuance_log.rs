//! `GET /swarmpki/v1/ca/log?from=&max=`: the issuance log, a page at a time. Managers only; only reads.

use std::future::Future;

use cluster::account::Event;
use cluster::format::LogRecord;
use cluster::roots::{Root, Roots};
use cluster::{LogEntry, State};
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
/// Entries looked at for one page at most: whoever wants more asks again where it ended.
pub(super) const LOOKED_AT_MAX: u64 = 50_000;

/// A page of the issuance log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogPage {
    /// Entries in the whole log; every one before the page's last is on a page.
    pub size: u64,
    /// Root of the Merkle tree (RFC 6962, 2.1) over the first `size` entries, hex.
    pub root_hash: String,
    /// Where to go on; `from` again: there is no more.
    pub next: u64,
    /// The page: those from `from` on, in order; empty behind the end, or where there are only others for long.
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
    /// What it is: `worker`, `manager`, `ca`, or `api`: of a manager's API.
    pub kind: String,
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
    /// The key that signed it: its subject key identifier as the certificate names it, hex. It says who signed also when the cluster
    /// does not hold that one's certificate any more. Null if the certificate names none.
    pub issuer_key: Option<String>,
}

pub(super) async fn page(backend: &Backend, query: &Query) -> Answer {
    let from = number(query, "from")?.unwrap_or(0);
    let max = number(query, "max")?.map_or(PAGE_DEFAULT, |max| usize::try_from(max).unwrap_or(PAGE_MAX));
    let replica = backend.replica()?;
    let state = replica.state();
    let max = max.min(PAGE_MAX);
    let issuers = issuers(&state);
    // Entries that came meanwhile belong to the next page: the answer is of one moment.
    let replica = &replica;
    let read = |next, max| async move {
        let entries = replica.log_entries(next, max).await;
        entries.map_err(|error| ApiError::internal(error.to_string()))
    };
    let (entries, next) = lines(from, state.log_size(), max, &issuers, read).await?;
    json(&LogPage { size: state.log_size(), root_hash: hex(&state.log.root()), next, entries })
}

/// No more than `max` lines from `from` on, and where to go on.
async fn lines<F>(
    from: u64,
    size: u64,
    max: usize,
    issuers: &[Certificate],
    mut read: impl FnMut(u64, usize) -> F,
) -> Result<(Vec<LogLine>, u64), ApiError>
where
    F: Future<Output = Result<Vec<LogEntry>, ApiError>>,
{
    let damaged = |error| ApiError::internal(format!("{error}; see: swarmpki check, on the stopped daemon"));
    let (mut lines, mut next) = (Vec::new(), from);
    let last = size.min(from.saturating_add(LOOKED_AT_MAX));
    while lines.len() < max && next < last {
        let rest = usize::try_from(last - next).unwrap_or(PAGE_MAX);
        let entries = read(next, PAGE_MAX.min(rest)).await?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            if lines.len() >= max {
                break;
            }
            next = entry.seq.saturating_add(1);
            lines.extend(line(entry.seq, &entry.bytes, issuers).map_err(damaged)?);
        }
    }
    Ok((lines, next))
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
    let kind = match &role {
        Some(role) => role.clone(),
        None if certificate.may_certify() => "ca".to_owned(),
        None => "api".to_owned(),
    };
    // A root that is gone still says of itself who signed it.
    let issuer = issuers.iter().chain([&certificate]).find(|issuer| is_issuer(issuer, &certificate));
    let issuer_key = certificate.aki().or_else(|| issuer.and_then(Certificate::ski));
    Ok(Some(LogLine {
        seq,
        time: record.time.rfc3339(),
        node: record.node.map(|node| node.to_string()),
        role,
        kind,
        serial: certificate.serial().to_string(),
        not_before: certificate.not_before().rfc3339(),
        not_after: certificate.not_after().rfc3339(),
        fingerprint: hex(&certificate.fingerprint()),
        issuer: issuer.map(|issuer| hex(&issuer.fingerprint())),
        issuer_key: issuer_key.map(|key| hex(&key)),
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

    #[test]
    fn who_signed_is_told_also_when_that_one_is_gone() -> Result<(), Box<dyn std::error::Error>> {
        use pki::{issue, key::PrivateKey, serial::Serial, time::Time};
        let now = Time::from_unix_secs(1_700_000_000);
        let (key, below) = (PrivateKey::generate_p256(&[1; 32])?, PrivateKey::generate_p256(&[2; 32])?);
        let root = issue::root(&key, Serial::from_random([1; 20]), now)?;
        let other = issue::root(&below, Serial::from_random([2; 20]), now)?;
        let step = issue::cross_sign(&other, &root, &key, None)?;
        let entry = |certificate: &Certificate| {
            let length = certificate.der().len();
            let mut bytes = vec![0x1a, 0x80 | u8::try_from(length & 0x7f)?, u8::try_from(length >> 7)?];
            bytes.extend(certificate.der());
            Ok::<_, std::num::TryFromIntError>(bytes)
        };
        let own = |certificate: &Certificate| certificate.ski().map(|key| hex(&key));
        let named = |certificate: &Certificate| Some(hex(&certificate.fingerprint()));
        let rows = [
            (&step, vec![root.clone()], named(&root), own(&root)),
            (&step, vec![], None, own(&root)),
            (&root, vec![other.clone()], named(&root), own(&root)),
        ];
        for (certificate, held, issuer, issuer_key) in rows {
            let line = line(0, &entry(certificate)?, &held)?.ok_or("a certificate")?;
            assert_eq!(line.kind, "ca");
            assert_eq!((line.issuer, line.issuer_key), (issuer, issuer_key));
        }
        assert!(own(&root).is_some_and(|key| key.len() == 40));
        Ok(())
    }

    #[tokio::test]
    async fn a_page_ends_where_enough_was_looked_at() -> Result<(), Box<dyn std::error::Error>> {
        const MANY: u64 = 3 * LOOKED_AT_MAX;
        let key = pki::key::PrivateKey::generate_p256(&[1; 32])?;
        let now = pki::time::Time::from_unix_secs(1_700_000_000);
        let root = pki::issue::root(&key, pki::serial::Serial::from_random([1; 20]), now)?;
        // Stored as protobuf: field 3, a certificate that was issued.
        let mut issued =
            vec![0x1a, 0x80 | u8::try_from(root.der().len() & 0x7f)?, u8::try_from(root.der().len() >> 7)?];
        issued.extend(root.der());
        // Field 4: settings changed.
        let other = vec![0x20, 14];
        // From where, of how many, at most, every which is a certificate's; lines, where to go on, and how many were read.
        let rows = [
            (0, MANY, 1000, u64::MAX, 0, LOOKED_AT_MAX, LOOKED_AT_MAX),
            (LOOKED_AT_MAX, MANY, 1000, u64::MAX, 0, 2 * LOOKED_AT_MAX, LOOKED_AT_MAX),
            (2 * LOOKED_AT_MAX, MANY - 7, 1000, u64::MAX, 0, MANY - 7, LOOKED_AT_MAX - 7),
            (0, 10, 3, 1, 3, 3, 10),
            (0, 10, 3, 2, 3, 6, 10),
            (0, 10, 1000, 2, 5, 10, 10),
            (10, 10, 1000, 1, 0, 10, 0),
            (u64::MAX, 10, 1000, 1, 0, u64::MAX, 0),
        ];
        for (from, size, max, every, count, expected, looked_at) in rows {
            let mut read = 0;
            let page = |next: u64, max: usize| {
                let seqs = next..size.min(next + max as u64);
                read += seqs.end - seqs.start;
                let bytes = |seq: u64| if (seq + 1).is_multiple_of(every) { issued.clone() } else { other.clone() };
                let entry = |seq| LogEntry { seq, bytes: bytes(seq), private: None };
                std::future::ready(Ok(seqs.map(entry).collect()))
            };
            let (lines, next) = lines(from, size, max, &[], page).await.map_err(|refused| refused.message)?;
            assert_eq!((lines.len(), next, read), (count, expected, looked_at), "{from} {size} {max} {every}");
        }
        Ok(())
    }
}
