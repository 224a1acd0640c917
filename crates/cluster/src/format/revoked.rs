//! Certificates that were taken back, on disk.

use pki::identity::NodeId;
use pki::time::Time;

use super::DecodeError;
use super::record;
use crate::node::IssuerHash;
use crate::revocation::{self, Revocations, RevokedKey};

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Revoked {
    #[prost(bytes = "vec", tag = "1")]
    issuer: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    serial: Vec<u8>,
    /// Empty: nobody knows whose it was.
    #[prost(string, tag = "3")]
    node: String,
    #[prost(int64, tag = "4")]
    at: i64,
    #[prost(uint32, tag = "5")]
    reason: u32,
    #[prost(int64, tag = "6")]
    until: i64,
    #[prost(uint64, tag = "7")]
    version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Owed {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(int64, tag = "2")]
    at: i64,
    #[prost(int64, tag = "3")]
    since: i64,
    #[prost(uint32, tag = "4")]
    reason: u32,
    #[prost(bytes = "vec", optional, tag = "5")]
    keep: Option<Vec<u8>>,
}

impl From<(&RevokedKey, &revocation::Revoked)> for Revoked {
    fn from(((issuer, serial), row): (&RevokedKey, &revocation::Revoked)) -> Self {
        Self {
            issuer: issuer.0.to_vec(),
            serial: serial.as_bytes().to_vec(),
            node: row.node.as_ref().map(ToString::to_string).unwrap_or_default(),
            at: row.at.unix_millis(),
            reason: row.reason.code().into(),
            until: row.until.unix_millis(),
            version: row.version,
        }
    }
}

impl TryFrom<Revoked> for (RevokedKey, revocation::Revoked) {
    type Error = DecodeError;

    fn try_from(row: Revoked) -> Result<Self, DecodeError> {
        let key = (IssuerHash(record::array("issuer", &row.issuer)?), record::serial(&row.serial)?);
        let node = if row.node.is_empty() { None } else { Some(record::node_id(&row.node)?) };
        let revoked = revocation::Revoked {
            node,
            at: Time::from_unix_millis(row.at),
            reason: record::reason(row.reason)?,
            until: Time::from_unix_millis(row.until),
            version: row.version,
        };
        Ok((key, revoked))
    }
}

impl From<(&NodeId, &revocation::Owed)> for Owed {
    fn from((node, owed): (&NodeId, &revocation::Owed)) -> Self {
        Self {
            node: node.to_string(),
            at: owed.at.unix_millis(),
            since: owed.since.unix_millis(),
            reason: owed.reason.code().into(),
            keep: owed.keep.map(|serial| serial.as_bytes().to_vec()),
        }
    }
}

impl TryFrom<Owed> for (NodeId, revocation::Owed) {
    type Error = DecodeError;

    fn try_from(row: Owed) -> Result<Self, DecodeError> {
        let owed = revocation::Owed {
            at: Time::from_unix_millis(row.at),
            since: Time::from_unix_millis(row.since),
            reason: record::reason(row.reason)?,
            keep: row.keep.map(|serial| record::serial(&serial)).transpose()?,
        };
        Ok((record::node_id(&row.node)?, owed))
    }
}

/// All of it as it was stored.
pub(super) fn revocations(version: u64, rows: Vec<Revoked>, owed: Vec<Owed>) -> Result<Revocations, DecodeError> {
    let rows = rows.into_iter().map(TryInto::try_into).collect::<Result<Vec<_>, _>>()?;
    let owed = owed.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    Revocations::from_parts(version, rows, owed).ok_or(DecodeError::Field("revocations"))
}
