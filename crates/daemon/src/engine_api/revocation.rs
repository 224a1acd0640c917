//! `POST /swarmpki/v1/revoke`, `GET /swarmpki/v1/revocations` and `GET /swarmpki/v1/crl`: certificates taken back before their end. Managers
//! only.

use cluster::revocation::Reason;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use manager::revoke::Target;
use pki::certificate::Certificate;
use pki::digest::hex;
use pki::revocation::CrlNumber;
use pki::serial::Serial;
use serde::{Deserialize, Serialize};

use super::body::Document;
use super::decode::Object;
use super::error::ApiError;
use super::issuance_log::number;
use super::query::Query;
use super::{Answer, json, reference, whole};
use crate::backend::{Backend, refusal};

/// Rows of a page when the caller names no number, and at most.
pub const PAGE_MAX: usize = 10_000;

/// The media type of a list. Source: RFC 2585, 4.2.
pub(crate) const CRL_TYPE: &str = "application/pkix-crl";

/// What was taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokeReport {
    /// Whose certificates they were; empty if that is not known.
    pub node_id: String,
    /// How many were taken back by this; 0: they were already.
    pub certificates: u64,
    /// Whether this cluster issued it; false for a serial that is not in its log.
    pub issued: bool,
    /// When the last of them ends, and with it its row.
    pub until: Option<String>,
    /// The serial of the certificate that the node goes on with, hex; null: none.
    pub kept: Option<String>,
    /// Whether the node is left without a certificate that is in order: it is out, and cannot renew.
    pub out: bool,
}

/// What was taken back and has not ended, a page at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevocationPage {
    /// The cluster's epoch: rows are numbered anew in another one.
    pub epoch: u64,
    /// The number of the last row that there is.
    pub version: u64,
    /// Those after the number asked for, in the order in which they came.
    pub revocations: Vec<RevocationLine>,
}

/// One certificate that was taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevocationLine {
    /// Its number.
    pub version: u64,
    /// Serial, hex.
    pub serial: String,
    /// SHA-256 over its issuer's subject and public key, hex.
    pub issuer: String,
    /// Whose it was; null if that is not known.
    pub node_id: Option<String>,
    /// When it was taken back.
    pub at: String,
    /// Why, in the words of RFC 5280.
    pub reason: String,
    /// When it ends.
    pub until: String,
}

/// `{"serial": "…", "unissued": bool}`, `{"certificate": "PEM"}` or `{"node": "…", "rekey": bool}`, each with a `reason`.
pub(super) async fn revoke(backend: &Backend, body: Option<Document>) -> Answer {
    let document = Object::document(body.as_ref().map(Document::value), "swarmpki.RevokeRequest")?;
    let [serial, certificate, node, reason] = [
        document.string("serial")?,
        document.string("certificate")?,
        document.string("node")?,
        document.string("reason")?,
    ];
    let [rekey, unissued] = [document.boolean("rekey")?, document.boolean("unissued")?];
    if rekey && reason == "keyCompromise" {
        return Err(ApiError::bad_request(
            "whoever has the node's key can renew with it too: revoke the node without --rekey, remove it, and join it again",
        ));
    }
    let control = backend.control()?;
    let target = match (serial.as_str(), certificate.as_str(), node.as_str()) {
        (serial, "", "") if !serial.is_empty() => Target::Serial { serial: self::serial(serial)?, unissued },
        ("", pem, "") if !pem.is_empty() => Target::Certificate(certificate_of(pem)?),
        ("", "", wanted) if !wanted.is_empty() => {
            let nodes = control.nodes();
            Target::Node { node: reference::resolve(&nodes, wanted)?.id.clone(), rekey }
        }
        _ => return Err(ApiError::bad_request("name a serial, a certificate or a node: one of them")),
    };
    let done = control.revoke(target, reason_of(&reason)?).await.map_err(refusal)?;
    json(&RevokeReport {
        node_id: done.node.map(|node| node.to_string()).unwrap_or_default(),
        certificates: done.certificates,
        issued: done.issued,
        until: done.until.map(pki::time::Time::rfc3339),
        kept: done.kept.map(|serial: Serial| serial.to_string()),
        out: done.out,
    })
}

fn certificate_of(pem: &str) -> Result<Certificate, ApiError> {
    let read = Certificate::parse_pem_bundle(pem.as_bytes());
    let mut read = read.map_err(|error| ApiError::bad_request(format!("invalid certificate: {error}")))?;
    if read.is_empty() { Err(ApiError::bad_request("invalid certificate: there is none")) } else { Ok(read.remove(0)) }
}

fn reason_of(text: &str) -> Result<Reason, ApiError> {
    if text.is_empty() {
        return Ok(Reason::Unspecified);
    }
    let words = || Reason::ALL.map(Reason::word).join(", ");
    let found = Reason::ALL.into_iter().find(|reason| reason.word().eq_ignore_ascii_case(text));
    found.ok_or_else(|| ApiError::bad_request(format!("invalid reason {text}: must be one of {}", words())))
}

/// `?since=NUMBER&max=NUMBER`.
pub(super) fn page(backend: &Backend, query: &Query) -> Answer {
    let since = number(query, "since")?.unwrap_or(0);
    let max = number(query, "max")?.and_then(|max| usize::try_from(max).ok()).map_or(PAGE_MAX, |max| max.min(PAGE_MAX));
    let state = backend.control()?.state();
    let line =
        |((issuer, serial), row): (&cluster::revocation::RevokedKey, &cluster::revocation::Revoked)| RevocationLine {
            version: row.version,
            serial: serial.to_string(),
            issuer: hex(&issuer.0),
            node_id: row.node.as_ref().map(ToString::to_string),
            at: row.at.rfc3339(),
            reason: row.reason.word().to_owned(),
            until: row.until.rfc3339(),
        };
    let revocations = state.revocations.since(since).take(max).map(line).collect();
    json(&RevocationPage { epoch: state.epoch(), version: state.revocations.version(), revocations })
}

/// A serial as people copy it.
pub(super) fn serial(text: &str) -> Result<Serial, ApiError> {
    text.parse().map_err(|error| ApiError::bad_request(format!("invalid serial {text}: {error}")))
}

/// What a list is asked for by: `?since=NUMBER` of the list that is held, `?issuer=` the root's key identifier, hex.
pub(crate) struct Wanted {
    pub(crate) since: Option<CrlNumber>,
    pub(crate) issuer: Option<Vec<u8>>,
}

impl Wanted {
    pub(crate) fn of(query: &Query) -> Result<Self, ApiError> {
        let invalid = |name: &str| ApiError::bad_request(format!("invalid value for {name}: {}", query.value(name)));
        let since = match query.value("since") {
            "" => None,
            text => Some(CrlNumber::parse(text).ok_or_else(|| invalid("since"))?),
        };
        let issuer = match query.value("issuer") {
            "" => None,
            // As bytes a key identifier and a serial are the same: at most 20 of them, hex.
            text => Some(text.parse::<Serial>().map_err(|_| invalid("issuer"))?.to_array().to_vec()),
        };
        Ok(Self { since, issuer })
    }
}

/// The list, DER.
pub(super) async fn crl(backend: &Backend, query: &Query) -> Answer {
    let wanted = Wanted::of(query)?;
    let list = backend.control()?.crl(wanted.issuer.as_deref(), wanted.since).await.map_err(refusal)?;
    let mut answer = Response::new(whole(list.der.to_vec()));
    *answer.status_mut() = StatusCode::OK;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(CRL_TYPE));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_is_asked_of_a_list() {
        let rows = [
            ("", Some((None, None))),
            ("since=7", Some((Some(7), None))),
            ("issuer=0A%3A0b", Some((None, Some(0x0b)))),
            ("since=x", None),
            ("issuer=xx", None),
            ("issuer=010102030405060708090a0b0c0d0e0f10111213ff", None),
        ];
        for (text, expected) in rows {
            let wanted = Wanted::of(&Query::parse(text)).ok();
            let told = wanted.map(|wanted| {
                let since = wanted.since.map(|since| since.to_string().parse::<u64>().unwrap());
                (since, wanted.issuer.and_then(|issuer| issuer.last().copied()))
            });
            assert_eq!(told, expected, "{text}");
        }
        assert_eq!(reason_of("KEYCOMPROMISE").ok(), Some(Reason::KeyCompromise));
        assert!(reason_of("certificateHold").unwrap_err().message.contains("superseded"));
    }

    #[test]
    fn serials_are_read_as_they_are_shown() {
        let shown = Serial::from_random([7; 20]);
        for text in [shown.to_string(), shown.to_string().to_uppercase(), format!("00{shown}"), "07:".repeat(20)] {
            assert_eq!(serial(&text).unwrap(), shown, "{text}");
        }
        assert_eq!(serial("7").unwrap(), serial("07").unwrap(), "a number, whatever its zeros");
        for text in ["", "xx", "alice", "07 07", &"07".repeat(22)] {
            assert!(serial(text).is_err(), "{text}");
        }
    }
}
