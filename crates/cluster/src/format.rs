//! Storage format 1: what commands, state and issuance log look like on disk and between managers.
//!
//! Protobuf by hand: field numbers are never used again, fields are only added, and a change needs a sample in
//! `testdata/`. Decoding checks everything; encoding a value and decoding it gives the value back.

mod account;
mod command;
mod operators;
mod outcome;
mod record;
mod revoked;
mod snapshot;

use pki::identity::NodeId;
use pki::time::Time;
use prost::Message;

use crate::account::{Actor, Event, Private, SALT_BYTES};
use crate::command::{Batch, Command};
use crate::outcome::Outcome;
use crate::state::State;

/// The format that this build writes.
pub const FORMAT: u32 = 1;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf, or cut off.
    #[error("not a record of this kind: {0}")]
    Malformed(String),
    /// Written by a later version.
    #[error("format {0} was written by a later version; install that version to read it")]
    Later(u32),
    /// A field that must be there is not, or holds what it cannot.
    #[error("field {0} is missing or wrong")]
    Field(&'static str),
}

impl From<prost::DecodeError> for DecodeError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl Batch {
    /// The batch as it stands in the log.
    pub fn encode(&self) -> Vec<u8> {
        command::Batch::from(self).encode_to_vec()
    }

    /// A batch of the log.
    ///
    /// # Errors
    /// If the bytes are not a batch of a known format.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        command::Batch::decode(bytes)?.try_into()
    }
}

impl Command {
    /// Its length in the log, in bytes.
    pub fn encoded_len(&self) -> usize {
        command::Command::from(self).encoded_len()
    }
}

impl Outcome {
    /// The outcome as it travels between managers.
    pub fn encode(&self) -> Vec<u8> {
        outcome::Outcome::from(self).encode_to_vec()
    }

    /// An outcome that another manager sent.
    ///
    /// # Errors
    /// If the bytes are not an outcome that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        outcome::Outcome::decode(bytes)?.try_into()
    }
}

impl State {
    /// The whole state, to be sealed.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        snapshot::State::from(self).encode_to_vec()
    }

    /// A state that [`encode_snapshot`](Self::encode_snapshot) wrote.
    ///
    /// # Errors
    /// If the bytes are not a state of a known format.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, DecodeError> {
        snapshot::State::decode(bytes)?.try_into()
    }
}

/// An entry of the issuance log, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// The cluster's time when it was committed.
    pub time: Time,
    /// For whom, or about whom; none for a CA certificate, and for what is of no node.
    pub node: Option<NodeId>,
    /// The certificate, DER; empty if the entry is of none.
    pub certificate: Vec<u8>,
    /// What was done.
    pub event: Event,
    /// Who asked for it; a node's renewal was asked for by the node.
    pub by: Actor,
    /// SHA-256 of its private part.
    pub private: Option<[u8; 32]>,
}

pub(crate) fn log_record_certificate(
    now: Time,
    node: Option<&NodeId>,
    by: &Actor,
    private: Option<[u8; 32]>,
    certificate: &[u8],
) -> Vec<u8> {
    account::certificate(now, node, by, private, certificate)
}

pub(crate) fn log_record_event(now: Time, event: &Event, by: &Actor, private: Option<[u8; 32]>) -> Vec<u8> {
    account::event(now, event, by, private)
}

pub(crate) fn log_private(salt: &[u8; SALT_BYTES], private: &Private) -> Vec<u8> {
    account::private(salt, private)
}

#[cfg(test)]
#[path = "format/tests.rs"]
mod tests;
