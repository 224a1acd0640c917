//! Entries of the issuance log, their private parts, and who asked, on disk. A certificate of before the account has time, node
//! and certificate alone.

use std::net::IpAddr;

use pki::identity::NodeId;
use pki::time::Time;
use prost::Message;

use super::record::{self, required};
use super::{DecodeError, LogRecord};
use crate::account::{Account, Actor, Event, KeyKind, NAME_MAX, Private, SALT_BYTES};
use crate::node::BlobDigest;

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    time: i64,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(bytes = "vec", tag = "3")]
    certificate: Vec<u8>,
    /// What was done; 0: the certificate was issued.
    #[prost(uint32, tag = "4")]
    kind: u32,
    #[prost(message, optional, tag = "5")]
    by: Option<By>,
    /// SHA-256 of the private part.
    #[prost(bytes = "vec", tag = "6")]
    private: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    serial: Vec<u8>,
    /// A name, a reason, a wish.
    #[prost(string, tag = "8")]
    text: String,
    /// A role, a phase, whether so or not, a number of uses (one more than they are).
    #[prost(uint64, tag = "9")]
    number: u64,
    /// A token's row, a rotation, an epoch, a place in the log.
    #[prost(uint64, tag = "10")]
    which: u64,
    #[prost(bytes = "vec", tag = "11")]
    digest: Vec<u8>,
    #[prost(int64, optional, tag = "12")]
    until: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct By {
    /// 1: locally, 2: by the network, 3: by a certificate's name, 4: an operator, 5: a node, 6: a token.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(string, tag = "2")]
    name: String,
    /// A user id, a row.
    #[prost(uint32, tag = "3")]
    number: u32,
    #[prost(bytes = "vec", tag = "4")]
    serial: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PrivatePart {
    #[prost(bytes = "vec", tag = "1")]
    salt: Vec<u8>,
    #[prost(string, tag = "2")]
    from: String,
    #[prost(string, tag = "3")]
    host: String,
    #[prost(string, tag = "4")]
    addr: String,
}

/// The bytes of an address; none: none.
pub(super) fn address(from: Option<IpAddr>) -> Vec<u8> {
    match from {
        None => Vec::new(),
        Some(IpAddr::V4(from)) => from.octets().to_vec(),
        Some(IpAddr::V6(from)) => from.octets().to_vec(),
    }
}

pub(super) fn address_of(bytes: &[u8]) -> Result<Option<IpAddr>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address.map(Some).map_err(|_| DecodeError::Field("address"))
}

fn cut(name: &str) -> String {
    let end = (0..=NAME_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
    name.get(..end).unwrap_or_default().to_owned()
}

impl By {
    pub(super) fn of(actor: &Actor) -> Option<Self> {
        Some(match actor {
            Actor::Cluster => return None,
            Actor::Local { uid } => Self { kind: 1, number: *uid, ..Self::default() },
            Actor::Network => Self { kind: 2, ..Self::default() },
            Actor::Named(name) => Self { kind: 3, name: cut(name), ..Self::default() },
            Actor::Operator { name, serial } => {
                Self { kind: 4, name: cut(name), serial: serial.as_bytes().to_vec(), ..Self::default() }
            }
            Actor::Node(node) => Self { kind: 5, name: node.to_string(), ..Self::default() },
            Actor::Token(row) => Self { kind: 6, number: *row, ..Self::default() },
        })
    }
}

impl TryFrom<Option<By>> for Actor {
    type Error = DecodeError;

    fn try_from(by: Option<By>) -> Result<Self, DecodeError> {
        let Some(by) = by else { return Ok(Self::Cluster) };
        Ok(match by.kind {
            1 => Self::Local { uid: by.number },
            2 => Self::Network,
            3 => Self::Named(by.name),
            4 => Self::Operator { name: by.name, serial: record::serial(&by.serial)? },
            5 => Self::Node(record::node_id(&by.name)?),
            6 => Self::Token(by.number),
            _ => return Err(DecodeError::Field("by")),
        })
    }
}

pub(super) fn certificate(
    now: Time,
    node: Option<&NodeId>,
    by: &Actor,
    private: Option<[u8; 32]>,
    certificate: &[u8],
) -> Vec<u8> {
    Record {
        time: now.unix_millis(),
        node: node.map(ToString::to_string).unwrap_or_default(),
        certificate: certificate.to_vec(),
        by: By::of(by),
        private: private.map(|digest| digest.to_vec()).unwrap_or_default(),
        ..Record::default()
    }
    .encode_to_vec()
}

pub(super) fn event(now: Time, event: &Event, by: &Actor, private: Option<[u8; 32]>) -> Vec<u8> {
    let mut record = Record {
        time: now.unix_millis(),
        node: event.node().map(ToString::to_string).unwrap_or_default(),
        by: By::of(by),
        private: private.map(|digest| digest.to_vec()).unwrap_or_default(),
        ..Record::default()
    };
    record.kind = match event {
        Event::Issued => 0,
        Event::Removed(_) => 1,
        Event::Revoked { serial, reason, .. } => {
            record.serial = serial.as_bytes().to_vec();
            record.text = cut(reason);
            2
        }
        Event::TokenCreated { row, manager, until, uses } => {
            record.which = u64::from(*row);
            record.number = uses.map_or(0, |uses| u64::from(uses) + 1);
            record.digest = vec![u8::from(*manager)];
            record.until = Some(until.unix_millis());
            3
        }
        Event::TokenUsed { row, .. } => {
            record.which = u64::from(*row);
            4
        }
        Event::TokenRevoked { row } => {
            record.which = u64::from(*row);
            5
        }
        Event::TokenRotated { row } => {
            record.which = u64::from(*row);
            6
        }
        Event::KeyDelivered { key: KeyKind::Root, .. } => 7,
        Event::KeyDelivered { key: KeyKind::Unlock, .. } => 8,
        Event::RotationBegun { rotation, to, emergency } => {
            (record.which, record.number, record.digest) = (*rotation, u64::from(*emergency), to.0.to_vec());
            9
        }
        Event::RotationPhase { rotation, phase } => {
            (record.which, record.number) = (*rotation, u64::from(record::phase_number(*phase)));
            10
        }
        Event::RotationTurned { rotation } => {
            record.which = *rotation;
            11
        }
        Event::RotationFinished { rotation, root } => {
            (record.which, record.digest) = (*rotation, root.0.to_vec());
            12
        }
        Event::CustodyChanged(word) => {
            record.text = cut(word);
            13
        }
        Event::Settings(changed) => {
            record.text = cut(changed);
            14
        }
        Event::UnlockKeyChanged { locked } => {
            record.number = u64::from(*locked);
            15
        }
        Event::NodeUpdated { wish, .. } => {
            record.text = cut(wish);
            16
        }
        Event::Promoted(_) => 17,
        Event::Demoted(_) => 18,
        Event::OperatorIssued { name, role, serial, certificate } => {
            record.text = format!("{} {}", cut(role), cut(name));
            record.serial = serial.as_bytes().to_vec();
            record.certificate.clone_from(certificate);
            19
        }
        Event::OperatorRevoked { name, serial } => {
            record.text = cut(name);
            record.serial = serial.as_bytes().to_vec();
            20
        }
        Event::Founded => 21,
        Event::Refounded { epoch, backup } => {
            (record.which, record.until) = (*epoch, backup.map(Time::unix_millis));
            22
        }
        Event::Erased { below } => {
            record.which = *below;
            23
        }
        Event::Later(kind) => *kind,
    };
    record.encode_to_vec()
}

impl Record {
    fn event(&self) -> Result<Event, DecodeError> {
        let node = || record::node_id(&self.node);
        let some_node = || if self.node.is_empty() { Ok(None) } else { node().map(Some) };
        let row = || u32::try_from(self.which).map_err(|_| DecodeError::Field("row"));
        let digest = || record::array("digest", &self.digest).map(BlobDigest);
        let time = |field, millis: Option<i64>| required(field, millis).map(Time::from_unix_millis);
        Ok(match self.kind {
            0 => Event::Issued,
            1 => Event::Removed(node()?),
            2 => {
                Event::Revoked { node: some_node()?, serial: record::serial(&self.serial)?, reason: self.text.clone() }
            }
            3 => Event::TokenCreated {
                row: row()?,
                manager: self.digest == [1],
                until: time("until", self.until)?,
                uses: self
                    .number
                    .checked_sub(1)
                    .map(u32::try_from)
                    .transpose()
                    .map_err(|_| DecodeError::Field("uses"))?,
            },
            4 => Event::TokenUsed { row: row()?, node: node()? },
            5 => Event::TokenRevoked { row: row()? },
            6 => Event::TokenRotated { row: row()? },
            7 => Event::KeyDelivered { key: KeyKind::Root, node: some_node()? },
            8 => Event::KeyDelivered { key: KeyKind::Unlock, node: some_node()? },
            9 => Event::RotationBegun { rotation: self.which, to: digest()?, emergency: self.number == 1 },
            10 => {
                let number = u32::try_from(self.number).map_err(|_| DecodeError::Field("phase"))?;
                Event::RotationPhase { rotation: self.which, phase: record::phase(number)? }
            }
            11 => Event::RotationTurned { rotation: self.which },
            12 => Event::RotationFinished { rotation: self.which, root: digest()? },
            13 => Event::CustodyChanged(self.text.clone()),
            14 => Event::Settings(self.text.clone()),
            15 => Event::UnlockKeyChanged { locked: self.number == 1 },
            16 => Event::NodeUpdated { node: node()?, wish: self.text.clone() },
            17 => Event::Promoted(node()?),
            18 => Event::Demoted(node()?),
            19 => {
                let (role, name) = self.text.split_once(' ').ok_or(DecodeError::Field("name"))?;
                Event::OperatorIssued {
                    name: name.to_owned(),
                    role: role.to_owned(),
                    serial: record::serial(&self.serial)?,
                    certificate: self.certificate.clone(),
                }
            }
            20 => Event::OperatorRevoked { name: self.text.clone(), serial: record::serial(&self.serial)? },
            21 => Event::Founded,
            22 => Event::Refounded { epoch: self.which, backup: self.until.map(Time::from_unix_millis) },
            23 => Event::Erased { below: self.which },
            later => Event::Later(later),
        })
    }
}

/// What is read of an entry by whoever compares private parts.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(bytes = "vec", tag = "6")]
    private: Vec<u8>,
}

impl LogRecord {
    /// The digest of the private part that an entry names, without reading the rest of it.
    ///
    /// # Errors
    /// If the bytes are not an entry.
    pub fn private_named(bytes: &[u8]) -> Result<Option<[u8; 32]>, DecodeError> {
        let Named { private } = Named::decode(bytes)?;
        if private.is_empty() { Ok(None) } else { record::array("private", &private).map(Some) }
    }

    /// An entry of the issuance log.
    ///
    /// # Errors
    /// If the bytes are not such an entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record = Record::decode(bytes)?;
        let event = record.event()?;
        let node = if record.node.is_empty() { None } else { Some(record::node_id(&record.node)?) };
        let private = if record.private.is_empty() { None } else { Some(record::array("private", &record.private)?) };
        Ok(Self {
            time: Time::from_unix_millis(record.time),
            node,
            certificate: record.certificate,
            event,
            by: record.by.try_into()?,
            private,
        })
    }
}

pub(super) fn private(salt: &[u8; SALT_BYTES], private: &Private) -> Vec<u8> {
    let Private { from, host, addr } = private;
    PrivatePart { salt: salt.to_vec(), from: cut(from), host: cut(host), addr: cut(addr) }.encode_to_vec()
}

impl Private {
    /// The private part of an entry.
    ///
    /// # Errors
    /// If the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let part = PrivatePart::decode(bytes)?;
        Ok(Self { from: part.from, host: part.host, addr: part.addr })
    }
}

/// Who asked, and from where, as it goes with a command.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Asker {
    #[prost(message, optional, tag = "1")]
    by: Option<By>,
    #[prost(bytes = "vec", tag = "2")]
    from: Vec<u8>,
}

impl From<&Account> for Asker {
    fn from(account: &Account) -> Self {
        Self { by: By::of(&account.by), from: address(account.from) }
    }
}

impl TryFrom<Option<Asker>> for Account {
    type Error = DecodeError;

    fn try_from(asker: Option<Asker>) -> Result<Self, DecodeError> {
        let asker = asker.unwrap_or_default();
        Ok(Self { by: asker.by.try_into()?, from: address_of(&asker.from)? })
    }
}
