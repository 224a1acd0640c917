//! Operators in commands and in the state.

use std::sync::Arc;

use pki::key::SpkiHash;
use pki::operator::OperatorRole;
use pki::secret::SecretBytes;
use pki::time::Time;
use zeroize::Zeroize;

use super::DecodeError;
use super::record;
use crate::operators as domain;

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct OperatorRoot {
    #[prost(bytes = "vec", tag = "1")]
    certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

impl std::fmt::Debug for OperatorRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorRoot").finish_non_exhaustive()
    }
}

impl Drop for OperatorRoot {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl From<&domain::OperatorRoot> for OperatorRoot {
    fn from(root: &domain::OperatorRoot) -> Self {
        Self { certificate: root.certificate.der().to_vec(), key: root.key.expose().to_vec() }
    }
}

impl TryFrom<OperatorRoot> for Arc<domain::OperatorRoot> {
    type Error = DecodeError;

    fn try_from(mut root: OperatorRoot) -> Result<Self, DecodeError> {
        let certificate = record::certificate(&root.certificate)?;
        let key = Arc::new(SecretBytes::new(std::mem::take(&mut root.key)));
        Ok(Arc::new(domain::OperatorRoot::new(certificate, key)))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OperatorRow {
    #[prost(bytes = "vec", tag = "1")]
    serial: Vec<u8>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(bool, tag = "3")]
    admin: bool,
    #[prost(bytes = "vec", tag = "4")]
    spki: Vec<u8>,
    #[prost(int64, tag = "5")]
    not_before: i64,
    #[prost(int64, tag = "6")]
    not_after: i64,
    #[prost(int64, tag = "7")]
    issued: i64,
    #[prost(int64, optional, tag = "8")]
    revoked: Option<i64>,
}

impl From<(&pki::Serial, &domain::OperatorRow)> for OperatorRow {
    fn from((serial, row): (&pki::Serial, &domain::OperatorRow)) -> Self {
        Self {
            serial: serial.as_bytes().to_vec(),
            name: row.name.to_string(),
            admin: row.role == OperatorRole::Admin,
            spki: row.spki.0.to_vec(),
            not_before: row.not_before.unix_millis(),
            not_after: row.not_after.unix_millis(),
            issued: row.issued.unix_millis(),
            revoked: row.revoked.map(Time::unix_millis),
        }
    }
}

impl TryFrom<OperatorRow> for (pki::Serial, domain::OperatorRow) {
    type Error = DecodeError;

    fn try_from(row: OperatorRow) -> Result<Self, DecodeError> {
        Ok((
            record::serial(&row.serial)?,
            domain::OperatorRow {
                name: row.name.parse().map_err(|_| DecodeError::Field("operator name"))?,
                role: if row.admin { OperatorRole::Admin } else { OperatorRole::Viewer },
                spki: SpkiHash(record::array("spki", &row.spki)?),
                not_before: Time::from_unix_millis(row.not_before),
                not_after: Time::from_unix_millis(row.not_after),
                issued: Time::from_unix_millis(row.issued),
                revoked: row.revoked.map(Time::from_unix_millis),
            },
        ))
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FoundOperators {
    #[prost(message, optional, tag = "1")]
    root: Option<OperatorRoot>,
}

impl From<&domain::FoundOperators> for FoundOperators {
    fn from(found: &domain::FoundOperators) -> Self {
        Self { root: Some(found.root.as_ref().into()) }
    }
}

impl TryFrom<FoundOperators> for domain::FoundOperators {
    type Error = DecodeError;

    fn try_from(found: FoundOperators) -> Result<Self, DecodeError> {
        Ok(Self { root: record::required("operators' root", found.root)?.try_into()? })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IssueOperator {
    #[prost(message, optional, tag = "1")]
    row: Option<OperatorRow>,
    #[prost(bytes = "vec", tag = "2")]
    certificate: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    premises: Option<super::command::Premises>,
    #[prost(bytes = "vec", optional, tag = "4")]
    renews: Option<Vec<u8>>,
}

impl From<&domain::IssueOperator> for IssueOperator {
    fn from(issue: &domain::IssueOperator) -> Self {
        Self {
            row: Some((&issue.serial, &issue.row).into()),
            certificate: issue.certificate.clone(),
            premises: Some((&issue.premises).into()),
            renews: issue.renews.map(|serial| serial.as_bytes().to_vec()),
        }
    }
}

impl TryFrom<IssueOperator> for domain::IssueOperator {
    type Error = DecodeError;

    fn try_from(issue: IssueOperator) -> Result<Self, DecodeError> {
        let (serial, row) = record::required("operator", issue.row)?.try_into()?;
        Ok(Self {
            serial,
            row,
            certificate: issue.certificate,
            premises: record::required("premises", issue.premises)?.try_into()?,
            renews: issue.renews.as_deref().map(record::serial).transpose()?,
        })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IssueApiServer {
    #[prost(bytes = "vec", tag = "1")]
    certificate: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    premises: Option<super::command::Premises>,
}

impl From<&domain::IssueApiServer> for IssueApiServer {
    fn from(issue: &domain::IssueApiServer) -> Self {
        Self { certificate: issue.certificate.clone(), premises: Some((&issue.premises).into()) }
    }
}

impl TryFrom<IssueApiServer> for domain::IssueApiServer {
    type Error = DecodeError;

    fn try_from(issue: IssueApiServer) -> Result<Self, DecodeError> {
        let premises = record::required("premises", issue.premises)?.try_into()?;
        Ok(Self { certificate: issue.certificate, premises })
    }
}

/// One of the two; neither: all.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RevokeOperator {
    #[prost(bytes = "vec", optional, tag = "1")]
    serial: Option<Vec<u8>>,
    #[prost(string, optional, tag = "2")]
    name: Option<String>,
}

impl From<&domain::RevokeOperator> for RevokeOperator {
    fn from(what: &domain::RevokeOperator) -> Self {
        match what {
            domain::RevokeOperator::Serial(serial) => Self { serial: Some(serial.as_bytes().to_vec()), name: None },
            domain::RevokeOperator::Name(name) => Self { serial: None, name: Some(name.to_string()) },
            domain::RevokeOperator::All => Self::default(),
        }
    }
}

impl TryFrom<RevokeOperator> for domain::RevokeOperator {
    type Error = DecodeError;

    fn try_from(what: RevokeOperator) -> Result<Self, DecodeError> {
        Ok(match (what.serial, what.name) {
            (Some(serial), None) => Self::Serial(record::serial(&serial)?),
            (None, Some(name)) => Self::Name(name.parse().map_err(|_| DecodeError::Field("operator name"))?),
            (None, None) => Self::All,
            (Some(_), Some(_)) => return Err(DecodeError::Field("operator")),
        })
    }
}
