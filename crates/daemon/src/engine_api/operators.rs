//! Certificates of operators: `/swarmpki/v1/operators`, `…/renew`, `…/revoke`. Managers only.
//!
//! Keys are made by whoever asks: only requests come here. Times are RFC 3339 or null, serials hex.

use std::time::Duration;

use cluster::operators::{OperatorRow, RevokeOperator};
use manager::operators::IssuedOperator;
use pki::certificate::Certificate;
use pki::digest::hex;
use pki::issue::OPERATOR_LIFE_DEFAULT;
use pki::operator::{InvalidName, InvalidOperatorRole, OperatorSubject};
use pki::serial::Serial;
use pki::time::Time;
use serde::{Deserialize, Serialize};

use super::body::Document;
use super::error::ApiError;
use super::extra::RootReport;
use super::rotation::read;
use super::{Answer, json};
use crate::backend::{Backend, refusal};
use crate::caller::Caller;
use crate::clock::now;

/// `POST /swarmpki/v1/operators`: a certificate for an operator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct IssueRequest {
    /// Whose it is to be: 1 to 64 characters of `0-9A-Za-z._@-`.
    pub name: String,
    /// `admin` or `viewer`; empty: `admin`.
    pub role: String,
    /// Its life in seconds; null: 30 days.
    pub ttl_s: Option<u64>,
    /// The request, PEM. Only the key is taken from it.
    pub csr: String,
}

/// `POST /swarmpki/v1/operators/renew`: another certificate with the same name and role.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RenewRequest {
    /// The one to renew; null: the caller's own. An operator renews no other.
    pub serial: Option<String>,
    /// Its life in seconds, no longer than the one before was for; null: as long.
    pub ttl_s: Option<u64>,
    /// The request, PEM.
    pub csr: String,
}

/// `POST /swarmpki/v1/operators/revoke`: certificates are taken back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokeRequest {
    /// A serial, or the name of an operator all of whose certificates are meant.
    pub which: String,
    /// All there are, and the root with them.
    pub all: bool,
}

/// A certificate that was issued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IssuedReport {
    /// What is on record of it.
    pub operator: OperatorReport,
    /// The certificate, PEM.
    pub certificate: String,
    /// The operators' root, PEM: by it the API is known.
    pub ca: String,
}

/// What is on record of an operator's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperatorReport {
    /// Whose it is.
    pub name: String,
    /// `admin` or `viewer`.
    pub role: String,
    /// Its serial.
    pub serial: String,
    /// `valid`, `revoked`, `ended`.
    pub state: String,
    /// When it was issued.
    pub issued: String,
    /// End of the validity.
    pub not_after: String,
    /// When it was revoked, if it was.
    pub revoked: Option<String>,
}

/// `GET /swarmpki/v1/operators`: every certificate that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperatorsReport {
    /// The root; null: nobody had use for one yet.
    pub root: Option<RootReport>,
    /// The certificates, by name and age.
    pub operators: Vec<OperatorReport>,
}

/// Answer to a revocation: what is meant by it, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokedReport {
    /// The certificates.
    pub revoked: Vec<OperatorReport>,
}

pub(super) async fn issue(backend: &Backend, body: Option<Document>) -> Answer {
    let request: IssueRequest = read(body)?;
    let role = if request.role.is_empty() { "admin" } else { request.role.as_str() };
    let subject = OperatorSubject {
        name: request.name.parse().map_err(|error: InvalidName| ApiError::bad_request(error.to_string()))?,
        role: role.parse().map_err(|error: InvalidOperatorRole| ApiError::bad_request(error.to_string()))?,
    };
    let life = request.ttl_s.map_or(OPERATOR_LIFE_DEFAULT, Duration::from_secs);
    let issued = backend.control()?.issue_operator(subject, life, request.csr.as_bytes()).await.map_err(refusal)?;
    json(&issued_report(&issued))
}

pub(super) async fn renew(backend: &Backend, caller: &Caller, body: Option<Document>) -> Answer {
    let request: RenewRequest = read(body)?;
    let asked = request.serial.as_deref().map(super::revocation::serial).transpose()?;
    let serial = match (caller, asked) {
        (Caller::Operator { serial: own, .. }, None) => *own,
        (Caller::Operator { serial: own, .. }, Some(asked)) if asked == *own => asked,
        (Caller::Operator { .. }, Some(_)) => {
            return Err(ApiError::forbidden("an operator renews its own certificate, and no other"));
        }
        (Caller::Socket { .. } | Caller::Plain { .. } | Caller::Tls { .. }, Some(asked)) => asked,
        (Caller::Socket { .. } | Caller::Plain { .. } | Caller::Tls { .. }, None) => {
            return Err(ApiError::bad_request("which certificate is to be renewed? serial is null"));
        }
    };
    let life = request.ttl_s.map(Duration::from_secs);
    let issued = backend.control()?.renew_operator(&serial, life, request.csr.as_bytes()).await.map_err(refusal)?;
    json(&issued_report(&issued))
}

pub(super) async fn revoke(backend: &Backend, body: Option<Document>) -> Answer {
    let request: RevokeRequest = read(body)?;
    let control = backend.control()?;
    let what = match (request.which.as_str(), request.all) {
        ("", true) => RevokeOperator::All,
        ("", false) => return Err(ApiError::bad_request("which certificate? A name or a serial is needed")),
        (_, true) => return Err(ApiError::bad_request("all, or one name or serial: not both")),
        (which, false) => {
            let rows = control.operators().rows;
            let by_serial = which.parse().ok().filter(|serial| rows.contains_key(serial));
            let by_name = rows.values().find(|row| row.name.as_str() == which).map(|row| row.name.clone());
            match (by_serial, by_name) {
                (Some(_), Some(_)) => {
                    let text =
                        format!("{which} is a serial, and the name of an operator: it is not said which is meant");
                    return Err(ApiError::conflict(text));
                }
                (Some(serial), None) => RevokeOperator::Serial(serial),
                (None, Some(name)) => RevokeOperator::Name(name),
                (None, None) => {
                    return Err(ApiError::not_found(nobody(which, rows.keys())));
                }
            }
        }
    };
    let rows = control.revoke_operators(what).await.map_err(refusal)?;
    json(&RevokedReport { revoked: rows.iter().map(|(serial, row)| report(serial, row)).collect() })
}

/// What is said of a name or serial that none has: the beginning of a serial is told as such, and takes back nothing.
fn nobody<'a>(which: &str, serials: impl Iterator<Item = &'a Serial>) -> String {
    let shown = which.escape_debug().take(128).collect::<String>();
    let part = which.replace(':', "").to_ascii_lowercase();
    let begins = |serial: &String| !part.is_empty() && serial.starts_with(&part);
    let alike: Vec<String> = serials.map(ToString::to_string).filter(begins).collect();
    let text = format!("no operator's certificate has the name or serial {shown}");
    match alike.as_slice() {
        [] => text,
        [one] => format!("{text}; {one} begins with it: give the whole of it"),
        many => format!("{text}; {} serials begin with it: give the whole of one", many.len()),
    }
}

pub(super) fn list(backend: &Backend) -> Answer {
    let operators = backend.control()?.operators();
    let mut rows: Vec<_> = operators.rows.iter().collect();
    rows.sort_by(|(_, a), (_, b)| (&a.name, a.issued).cmp(&(&b.name, b.issued)));
    json(&OperatorsReport {
        root: operators.root.as_ref().map(|root| root_report(&root.certificate)),
        operators: rows.into_iter().map(|(serial, row)| report(serial, row)).collect(),
    })
}

fn issued_report(issued: &IssuedOperator) -> IssuedReport {
    let certificate = &issued.certificate;
    IssuedReport {
        operator: OperatorReport {
            name: issued.subject.name.to_string(),
            role: issued.subject.role.word().to_owned(),
            serial: certificate.serial().to_string(),
            state: "valid".to_owned(),
            issued: now().rfc3339(),
            not_after: certificate.not_after().rfc3339(),
            revoked: None,
        },
        certificate: certificate.pem(),
        ca: issued.root.pem(),
    }
}

fn report(serial: &Serial, row: &OperatorRow) -> OperatorReport {
    let state = match row.revoked {
        Some(_) => "revoked",
        None if row.not_after < now() => "ended",
        None => "valid",
    };
    OperatorReport {
        name: row.name.to_string(),
        role: row.role.word().to_owned(),
        serial: serial.to_string(),
        state: state.to_owned(),
        issued: row.issued.rfc3339(),
        not_after: row.not_after.rfc3339(),
        revoked: row.revoked.map(Time::rfc3339),
    }
}

fn root_report(root: &Certificate) -> RootReport {
    RootReport {
        fingerprint: hex(&root.fingerprint()),
        serial: root.serial().to_string(),
        not_before: root.not_before().rfc3339(),
        not_after: root.not_after().rfc3339(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_serial_is_none_and_is_told_apart() {
        let serials = [[0x5f; 20], [0x5e; 20]].map(Serial::from_random);
        let whole = serials[0].to_string();
        let rows = [
            ("bob", "serial bob"),
            ("5f", &*format!("5f; {whole} begins with it: give the whole of it")),
            ("5F:5f", &*format!("5F:5f; {whole} begins with it: give the whole of it")),
            ("5", "5; 2 serials begin with it: give the whole of one"),
            ("\u{1b}[2J", "serial \\u{1b}[2J"),
        ];
        for (which, end) in rows {
            let said = nobody(which, serials.iter());
            assert!(said.ends_with(end), "{said}");
        }
    }
}
