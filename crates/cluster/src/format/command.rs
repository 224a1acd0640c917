//! Commands on disk.

use std::sync::Arc;
use std::time::Duration;

use pki::digest::Digest;
use pki::identity::Role;
use pki::key::SpkiHash;
use pki::time::Time;
use zeroize::Zeroize;

use super::account;
use super::operators::{FoundOperators, IssueApiServer, IssueOperator, RevokeOperator};
use super::record::{self, Blob, Letter, Report, Root, Settings, Spec, TokenUse, required};
use super::{DecodeError, FORMAT};
use crate::account::Account;
use crate::command as domain;
use crate::node::{BlobDigest, IssuerHash};
use crate::rotation::{self, RootsChange};
use crate::tokens::limited::TokenHash;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Batch {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(int64, tag = "2")]
    time: i64,
    #[prost(message, repeated, tag = "3")]
    commands: Vec<Command>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Command {
    #[prost(
        oneof = "Kind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 40, 41, 42, 43, 45, 50, 51, 52, 53, 54"
    )]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    Bootstrap(Box<Bootstrap>),
    #[prost(message, tag = "2")]
    Admit(Box<Admit>),
    #[prost(message, tag = "3")]
    Renew(Box<Renew>),
    #[prost(message, tag = "4")]
    Confirm(Confirm),
    #[prost(message, tag = "5")]
    Report(Box<Reported>),
    #[prost(message, tag = "6")]
    Presence(Presence),
    #[prost(message, tag = "7")]
    UpdateNode(Box<UpdateNode>),
    #[prost(message, tag = "8")]
    RemoveNode(RemoveNode),
    #[prost(message, tag = "9")]
    UpdateCluster(Box<UpdateCluster>),
    #[prost(message, tag = "10")]
    Collect(Collect),
    #[prost(message, tag = "11")]
    AdvanceRotation(Box<AdvanceRotation>),
    #[prost(message, tag = "12")]
    ReplaceLadder(Box<ReplaceLadder>),
    #[prost(message, tag = "13")]
    Ask(Box<Ask>),
    #[prost(message, tag = "14")]
    Enlist(Enlist),
    #[prost(message, tag = "15")]
    Seat(Seat),
    #[prost(message, tag = "16")]
    Unseat(Unseat),
    #[prost(message, tag = "17")]
    Refound(Box<Refound>),
    #[prost(message, tag = "40")]
    FoundOperators(FoundOperators),
    #[prost(message, tag = "41")]
    IssueOperator(Box<IssueOperator>),
    #[prost(message, tag = "42")]
    RevokeOperator(RevokeOperator),
    #[prost(message, tag = "43")]
    IssueApiServer(IssueApiServer),
    #[prost(message, tag = "45")]
    Revoke(Box<Revoke>),
    #[prost(message, tag = "50")]
    Attributed(Box<Attributed>),
    #[prost(message, tag = "51")]
    UnlockKeyShown(UnlockKeyShown),
    #[prost(message, tag = "52")]
    EraseLog(EraseLog),
    #[prost(message, tag = "53")]
    CreateToken(Box<CreateToken>),
    #[prost(message, tag = "54")]
    RevokeToken(RevokeToken),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attributed {
    #[prost(message, optional, tag = "1")]
    asker: Option<account::Asker>,
    #[prost(bytes = "vec", tag = "2")]
    salt: Vec<u8>,
    #[prost(message, optional, boxed, tag = "3")]
    command: Option<Box<Command>>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct UnlockKeyShown {}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct EraseLog {
    #[prost(uint64, tag = "1")]
    below: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct Bootstrap {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(bool, tag = "2")]
    fips: bool,
    #[prost(message, optional, tag = "3")]
    root: Option<Root>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    logged: Vec<Vec<u8>>,
    #[prost(string, tag = "5")]
    node: String,
    #[prost(message, optional, tag = "6")]
    spec: Option<Spec>,
    #[prost(string, tag = "7")]
    addr: String,
    #[prost(message, optional, tag = "8")]
    letter: Option<Letter>,
    #[prost(bytes = "vec", tag = "9")]
    worker_secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    manager_secret: Vec<u8>,
    #[prost(message, optional, tag = "11")]
    settings: Option<Settings>,
    #[prost(message, optional, tag = "12")]
    unlock: Option<record::Unlock>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Premises {
    #[prost(bytes = "vec", tag = "1")]
    issuer: Vec<u8>,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(int64, tag = "3")]
    signed: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Admit {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(message, optional, tag = "2")]
    spec: Option<Spec>,
    #[prost(bool, tag = "3")]
    ours: bool,
    #[prost(message, optional, tag = "4")]
    token: Option<TokenUse>,
    #[prost(message, optional, tag = "5")]
    letter: Option<Letter>,
    #[prost(message, optional, tag = "6")]
    premises: Option<Premises>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Renew {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(uint32, tag = "2")]
    cut: u32,
    #[prost(message, optional, tag = "3")]
    letter: Option<Letter>,
    #[prost(message, optional, tag = "4")]
    premises: Option<Premises>,
}

/// With a token it is a join; without, the request of a node.
#[derive(Clone, PartialEq, prost::Message)]
struct Ask {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(bytes = "vec", tag = "2")]
    csr: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    spki: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    token: Option<TokenUse>,
    #[prost(message, optional, tag = "5")]
    spec: Option<Spec>,
    #[prost(bool, tag = "6")]
    ours: bool,
    #[prost(uint32, tag = "7")]
    cut: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Confirm {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(bytes = "vec", tag = "2")]
    serial: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reported {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(message, optional, tag = "2")]
    report: Option<Report>,
    #[prost(message, repeated, tag = "3")]
    blobs: Vec<Blob>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Presence {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(bool, tag = "2")]
    down: bool,
    #[prost(int64, tag = "3")]
    seen: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct UpdateNode {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(uint64, tag = "2")]
    version: u64,
    #[prost(message, optional, tag = "3")]
    spec: Option<Spec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RemoveNode {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(bool, tag = "2")]
    force: bool,
    #[prost(bool, tag = "3")]
    ready: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct UpdateCluster {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(message, optional, tag = "2")]
    settings: Option<Settings>,
    #[prost(bytes = "vec", optional, tag = "3")]
    worker_secret: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    manager_secret: Option<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    start: Option<Start>,
    #[prost(message, optional, tag = "6")]
    abort: Option<Abort>,
    #[prost(message, optional, tag = "7")]
    custody: Option<record::Entrust>,
    #[prost(message, optional, tag = "8")]
    policy: Option<record::Policy>,
    #[prost(message, optional, tag = "9")]
    unlock: Option<record::Unlock>,
    #[prost(bool, tag = "10")]
    told: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Start {
    #[prost(message, optional, tag = "1")]
    to: Option<Root>,
    #[prost(message, optional, tag = "2")]
    way: Option<record::Way>,
    #[prost(message, optional, tag = "3")]
    policy: Option<record::Policy>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    logged: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Abort {
    #[prost(bytes = "vec", repeated, tag = "1")]
    ladder: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "2")]
    policy: Option<record::Policy>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    logged: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct AdvanceRotation {
    #[prost(uint64, tag = "1")]
    rotation: u64,
    #[prost(uint32, tag = "2")]
    phase: u32,
    #[prost(bytes = "vec", tag = "3")]
    worker_secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    manager_secret: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReplaceLadder {
    #[prost(uint64, tag = "1")]
    rotation: u64,
    #[prost(bytes = "vec", repeated, tag = "2")]
    ladder: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    logged: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Enlist {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(string, tag = "2")]
    addr: String,
    #[prost(bytes = "vec", tag = "3")]
    serial: Vec<u8>,
    #[prost(uint64, optional, tag = "4")]
    replaces: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Seat {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(uint64, tag = "2")]
    raft_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Unseat {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(uint64, optional, tag = "2")]
    raft_id: Option<u64>,
}

/// With a letter it is a restore; without, a manager goes on alone.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct Refound {
    #[prost(uint64, tag = "1")]
    epoch: u64,
    #[prost(string, tag = "2")]
    addr: String,
    #[prost(string, tag = "3")]
    node: String,
    #[prost(int64, tag = "4")]
    backup: i64,
    #[prost(message, optional, tag = "5")]
    spec: Option<Spec>,
    #[prost(message, optional, tag = "6")]
    letter: Option<Letter>,
    #[prost(bytes = "vec", tag = "7")]
    worker_secret: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    manager_secret: Vec<u8>,
    #[prost(message, optional, tag = "9")]
    unlock: Option<record::Unlock>,
    #[prost(string, repeated, tag = "10")]
    removed: Vec<String>,
}

/// With a node and a time it is what the issuance log has of it; with a node alone, every certificate of it; else these.
#[derive(Clone, PartialEq, prost::Message)]
struct Revoke {
    #[prost(uint32, tag = "1")]
    reason: u32,
    #[prost(message, repeated, tag = "2")]
    certificates: Vec<Withdrawn>,
    #[prost(string, tag = "3")]
    node: String,
    #[prost(bytes = "vec", optional, tag = "4")]
    keep: Option<Vec<u8>>,
    #[prost(int64, optional, tag = "5")]
    found: Option<i64>,
    #[prost(bool, tag = "6")]
    last: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Withdrawn {
    #[prost(bytes = "vec", tag = "1")]
    issuer: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    serial: Vec<u8>,
    #[prost(int64, tag = "3")]
    until: i64,
    #[prost(string, tag = "4")]
    node: String,
}

impl From<&domain::Withdrawn> for Withdrawn {
    fn from(one: &domain::Withdrawn) -> Self {
        Self {
            issuer: one.issuer.0.to_vec(),
            serial: one.serial.as_bytes().to_vec(),
            until: one.until.unix_millis(),
            node: one.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl TryFrom<Withdrawn> for domain::Withdrawn {
    type Error = DecodeError;

    fn try_from(one: Withdrawn) -> Result<Self, DecodeError> {
        Ok(Self {
            issuer: IssuerHash(record::array("issuer", &one.issuer)?),
            serial: record::serial(&one.serial)?,
            until: Time::from_unix_millis(one.until),
            node: if one.node.is_empty() { None } else { Some(record::node_id(&one.node)?) },
        })
    }
}

impl From<&domain::Revoke> for Revoke {
    fn from(revoke: &domain::Revoke) -> Self {
        let empty = Self { reason: revoke.reason.code().into(), ..Self::default() };
        match &revoke.what {
            domain::Withdraw::Certificates(these) => {
                Self { certificates: these.iter().map(Into::into).collect(), ..empty }
            }
            domain::Withdraw::Node { node, keep } => {
                Self { node: node.to_string(), keep: keep.map(|serial| serial.as_bytes().to_vec()), ..empty }
            }
            domain::Withdraw::Found { node, at, certificates, last } => Self {
                node: node.to_string(),
                found: Some(at.unix_millis()),
                certificates: certificates.iter().map(Into::into).collect(),
                last: *last,
                ..empty
            },
        }
    }
}

impl TryFrom<Revoke> for domain::Revoke {
    type Error = DecodeError;

    fn try_from(revoke: Revoke) -> Result<Self, DecodeError> {
        let certificates = revoke.certificates.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
        let node = || record::node_id(&revoke.node);
        let what = match revoke.found {
            Some(at) => domain::Withdraw::Found {
                node: node()?,
                at: Time::from_unix_millis(at),
                certificates,
                last: revoke.last,
            },
            None if revoke.node.is_empty() => domain::Withdraw::Certificates(certificates),
            None => domain::Withdraw::Node {
                node: node()?,
                keep: revoke.keep.map(|serial| record::serial(&serial)).transpose()?,
            },
        };
        Ok(Self { reason: record::reason(revoke.reason)?, what })
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateToken {
    #[prost(bool, tag = "1")]
    manager: bool,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    digest: Vec<u8>,
    #[prost(uint64, tag = "4")]
    ttl_millis: u64,
    #[prost(uint32, tag = "5")]
    uses: u32,
    #[prost(string, tag = "6")]
    note: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RevokeToken {
    #[prost(uint32, tag = "1")]
    row: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Collect {
    #[prost(string, repeated, tag = "1")]
    nodes: Vec<String>,
}

impl std::fmt::Debug for Bootstrap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bootstrap").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for UpdateCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpdateCluster").field("version", &self.version).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AdvanceRotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdvanceRotation").field("rotation", &self.rotation).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Refound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refound").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Drop for Refound {
    fn drop(&mut self) {
        self.worker_secret.zeroize();
        self.manager_secret.zeroize();
    }
}

impl Drop for Bootstrap {
    fn drop(&mut self) {
        self.worker_secret.zeroize();
        self.manager_secret.zeroize();
    }
}

impl Drop for UpdateCluster {
    fn drop(&mut self) {
        self.worker_secret.zeroize();
        self.manager_secret.zeroize();
    }
}

impl Drop for AdvanceRotation {
    fn drop(&mut self) {
        self.worker_secret.zeroize();
        self.manager_secret.zeroize();
    }
}

impl From<&rotation::Start> for Start {
    fn from(start: &rotation::Start) -> Self {
        Self {
            to: Some(start.to.as_ref().into()),
            way: Some((&start.way).into()),
            policy: Some(start.policy.into()),
            logged: start.logged.clone(),
        }
    }
}

impl TryFrom<Start> for rotation::Start {
    type Error = DecodeError;

    fn try_from(start: Start) -> Result<Self, DecodeError> {
        Ok(Self {
            to: Arc::new(required("new root", start.to)?.try_into()?),
            way: required("way", start.way)?.try_into()?,
            policy: required("policy", start.policy)?.into(),
            logged: start.logged,
        })
    }
}

impl From<&rotation::Abort> for Abort {
    fn from(abort: &rotation::Abort) -> Self {
        Self { ladder: record::ders(&abort.ladder), policy: Some(abort.policy.into()), logged: abort.logged.clone() }
    }
}

impl TryFrom<Abort> for rotation::Abort {
    type Error = DecodeError;

    fn try_from(abort: Abort) -> Result<Self, DecodeError> {
        Ok(Self {
            ladder: record::certificates(&abort.ladder)?,
            policy: required("policy", abort.policy)?.into(),
            logged: abort.logged,
        })
    }
}

impl From<&domain::Refound> for Refound {
    fn from(refound: &domain::Refound) -> Self {
        let mut record = Self::default();
        record.epoch = refound.epoch;
        record.addr.clone_from(&refound.addr);
        match &refound.founder {
            domain::Founder::Manager(node) => record.node = node.to_string(),
            domain::Founder::Restored(restored) => {
                record.node = restored.node.to_string();
                record.backup = restored.backup.unix_millis();
                record.spec = Some((&restored.spec).into());
                record.letter = Some((&restored.letter).into());
                record.worker_secret = restored.worker_secret.0.expose().to_vec();
                record.manager_secret = restored.manager_secret.0.expose().to_vec();
                record.unlock = restored.unlock.as_ref().map(Into::into);
                record.removed = restored.removed.iter().map(ToString::to_string).collect();
            }
        }
        record
    }
}

impl TryFrom<Refound> for domain::Refound {
    type Error = DecodeError;

    fn try_from(mut record: Refound) -> Result<Self, DecodeError> {
        let secret = |bytes: &[u8]| record::secret(bytes).map(domain::SecretBox);
        let node = record::node_id(&record.node)?;
        let founder = match record.letter.take() {
            None => domain::Founder::Manager(node),
            Some(letter) => domain::Founder::Restored(Box::new(domain::Restored {
                backup: Time::from_unix_millis(record.backup),
                node,
                spec: required("spec", record.spec.take())?.try_into()?,
                letter: letter.try_into()?,
                worker_secret: secret(&record.worker_secret)?,
                manager_secret: secret(&record.manager_secret)?,
                unlock: record.unlock.take().map(TryInto::try_into).transpose()?,
                removed: record.removed.iter().map(|id| record::node_id(id)).collect::<Result<_, _>>()?,
            })),
        };
        Ok(Self { epoch: record.epoch, addr: std::mem::take(&mut record.addr), founder })
    }
}

impl From<&domain::Batch> for Batch {
    fn from(batch: &domain::Batch) -> Self {
        Self {
            format: FORMAT,
            time: batch.time.unix_millis(),
            commands: batch.commands.iter().map(Command::from).collect(),
        }
    }
}

impl TryFrom<Batch> for domain::Batch {
    type Error = DecodeError;

    fn try_from(batch: Batch) -> Result<Self, DecodeError> {
        if batch.format > FORMAT {
            return Err(DecodeError::Later(batch.format));
        }
        if batch.format == 0 {
            return Err(DecodeError::Field("format"));
        }
        let commands = batch.commands.into_iter().map(domain::Command::try_from).collect::<Result<_, _>>()?;
        Ok(Self { time: Time::from_unix_millis(batch.time), commands })
    }
}

impl From<&domain::Premises> for Premises {
    fn from(premises: &domain::Premises) -> Self {
        Self { issuer: premises.issuer.0.to_vec(), epoch: premises.epoch, signed: premises.signed.unix_millis() }
    }
}

impl TryFrom<Premises> for domain::Premises {
    type Error = DecodeError;

    fn try_from(premises: Premises) -> Result<Self, DecodeError> {
        Ok(Self {
            issuer: IssuerHash(record::array("issuer", &premises.issuer)?),
            epoch: premises.epoch,
            signed: Time::from_unix_millis(premises.signed),
        })
    }
}

impl From<&domain::Command> for Command {
    fn from(command: &domain::Command) -> Self {
        let kind = match command {
            domain::Command::Bootstrap(first) => Kind::Bootstrap(Box::new(Bootstrap {
                cluster: first.cluster.to_string(),
                fips: first.fips,
                root: Some(first.root.as_ref().into()),
                logged: first.logged.clone(),
                node: first.node.to_string(),
                spec: Some((&first.spec).into()),
                addr: first.addr.clone(),
                letter: Some((&first.letter).into()),
                worker_secret: first.worker_secret.0.expose().to_vec(),
                manager_secret: first.manager_secret.0.expose().to_vec(),
                settings: Some((&first.settings).into()),
                unlock: first.unlock.as_ref().map(Into::into),
            })),
            domain::Command::Admit(admit) => Kind::Admit(Box::new(Admit {
                node: admit.node.to_string(),
                spec: Some((&admit.spec).into()),
                ours: admit.ours,
                token: Some((&admit.token).into()),
                letter: Some(admit.letter.as_ref().into()),
                premises: Some((&admit.premises).into()),
            })),
            domain::Command::Renew(renew) => Kind::Renew(Box::new(Renew {
                node: renew.node.to_string(),
                cut: renew.cut,
                letter: Some(renew.letter.as_ref().into()),
                premises: Some((&renew.premises).into()),
            })),
            domain::Command::Ask(ask) => {
                let (token, spec, ours, cut) = match &ask.right {
                    domain::Right::Token { spec, ours, token } => (Some(token.into()), Some(spec.into()), *ours, 0),
                    domain::Right::Node { cut } => (None, None, false, *cut),
                };
                let (node, csr, spki) = (ask.node.to_string(), ask.csr.clone(), ask.spki.0.to_vec());
                Kind::Ask(Box::new(Ask { node, csr, spki, token, spec, ours, cut }))
            }
            domain::Command::Confirm { node, serial } => {
                Kind::Confirm(Confirm { node: node.to_string(), serial: serial.as_bytes().to_vec() })
            }
            domain::Command::Report(reported) => Kind::Report(Box::new(Reported {
                node: reported.node.to_string(),
                report: Some((&reported.report).into()),
                blobs: reported.blobs.iter().map(|(_, bytes)| Blob { bytes: bytes.to_vec() }).collect(),
            })),
            domain::Command::Presence { node, down, seen } => {
                Kind::Presence(Presence { node: node.to_string(), down: *down, seen: seen.unix_millis() })
            }
            domain::Command::UpdateNode { node, version, spec } => Kind::UpdateNode(Box::new(UpdateNode {
                node: node.to_string(),
                version: *version,
                spec: Some(spec.as_ref().into()),
            })),
            domain::Command::RemoveNode { node, force, ready } => {
                Kind::RemoveNode(RemoveNode { node: node.to_string(), force: *force, ready: *ready })
            }
            domain::Command::UpdateCluster(update) => Kind::UpdateCluster(Box::new(UpdateCluster {
                version: update.version,
                settings: update.settings.as_ref().map(Settings::from),
                worker_secret: update.worker_secret.as_ref().map(|secret| secret.0.expose().to_vec()),
                manager_secret: update.manager_secret.as_ref().map(|secret| secret.0.expose().to_vec()),
                start: match &update.roots {
                    Some(RootsChange::Start(start)) => Some(start.as_ref().into()),
                    Some(RootsChange::Abort(_) | RootsChange::Policy(_)) | None => None,
                },
                abort: match &update.roots {
                    Some(RootsChange::Abort(abort)) => Some(abort.as_ref().into()),
                    Some(RootsChange::Start(_) | RootsChange::Policy(_)) | None => None,
                },
                policy: match &update.roots {
                    Some(RootsChange::Policy(policy)) => Some((*policy).into()),
                    Some(RootsChange::Start(_) | RootsChange::Abort(_)) | None => None,
                },
                custody: update.custody.as_ref().map(Into::into),
                unlock: update.unlock.as_ref().map(Into::into),
                told: update.told,
            })),
            domain::Command::AdvanceRotation(advance) => Kind::AdvanceRotation(Box::new(AdvanceRotation {
                rotation: advance.rotation,
                phase: record::phase_number(advance.phase),
                worker_secret: advance.worker_secret.0.expose().to_vec(),
                manager_secret: advance.manager_secret.0.expose().to_vec(),
            })),
            domain::Command::ReplaceLadder(replace) => Kind::ReplaceLadder(Box::new(ReplaceLadder {
                rotation: replace.rotation,
                ladder: record::ders(&replace.ladder),
                logged: replace.logged.clone(),
            })),
            domain::Command::Enlist { node, addr, serial, replaces } => Kind::Enlist(Enlist {
                node: node.to_string(),
                addr: addr.clone(),
                serial: serial.as_bytes().to_vec(),
                replaces: *replaces,
            }),
            domain::Command::Seat { node, raft_id } => Kind::Seat(Seat { node: node.to_string(), raft_id: *raft_id }),
            domain::Command::Unseat { node, raft_id } => {
                Kind::Unseat(Unseat { node: node.to_string(), raft_id: *raft_id })
            }
            domain::Command::Refound(refound) => Kind::Refound(Box::new(refound.as_ref().into())),
            domain::Command::Attributed(attributed) => {
                let account = Account { by: attributed.by.clone(), from: attributed.from };
                Kind::Attributed(Box::new(Attributed {
                    asker: Some((&account).into()),
                    salt: attributed.salt.to_vec(),
                    command: Some(Box::new(Self::from(&attributed.command))),
                }))
            }
            domain::Command::UnlockKeyShown => Kind::UnlockKeyShown(UnlockKeyShown {}),
            domain::Command::EraseLog { below } => Kind::EraseLog(EraseLog { below: *below }),
            domain::Command::CreateToken(create) => Kind::CreateToken(Box::new(CreateToken {
                manager: create.role == Role::Manager,
                hash: create.hash.0.to_vec(),
                digest: create.digest.as_bytes().to_vec(),
                ttl_millis: u64::try_from(create.ttl.as_millis()).unwrap_or(u64::MAX),
                uses: create.uses,
                note: create.note.clone(),
            })),
            domain::Command::RevokeToken { row } => Kind::RevokeToken(RevokeToken { row: *row }),
            domain::Command::FoundOperators(found) => Kind::FoundOperators(found.into()),
            domain::Command::IssueOperator(issue) => Kind::IssueOperator(Box::new(issue.as_ref().into())),
            domain::Command::IssueApiServer(issue) => Kind::IssueApiServer(issue.into()),
            domain::Command::RevokeOperator(what) => Kind::RevokeOperator(what.into()),
            domain::Command::Revoke(revoke) => Kind::Revoke(Box::new(revoke.as_ref().into())),
            domain::Command::Collect { nodes } => {
                Kind::Collect(Collect { nodes: nodes.iter().map(ToString::to_string).collect() })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<Command> for domain::Command {
    type Error = DecodeError;

    fn try_from(command: Command) -> Result<Self, DecodeError> {
        let secret = |bytes: &[u8]| record::secret(bytes).map(domain::SecretBox);
        Ok(match required("command", command.kind)? {
            Kind::Bootstrap(mut first) => Self::Bootstrap(Box::new(domain::Bootstrap {
                cluster: record::cluster_id(&first.cluster)?,
                fips: first.fips,
                root: Arc::new(required("root", first.root.take())?.try_into()?),
                logged: std::mem::take(&mut first.logged),
                node: record::node_id(&first.node)?,
                spec: required("spec", first.spec.take())?.try_into()?,
                addr: std::mem::take(&mut first.addr),
                letter: required("letter", first.letter.take())?.try_into()?,
                worker_secret: secret(&first.worker_secret)?,
                manager_secret: secret(&first.manager_secret)?,
                settings: required("settings", first.settings.take())?.into(),
                unlock: first.unlock.take().map(TryInto::try_into).transpose()?,
            })),
            Kind::Admit(admit) => Self::Admit(Box::new(domain::Admit {
                node: record::node_id(&admit.node)?,
                spec: required("spec", admit.spec)?.try_into()?,
                ours: admit.ours,
                token: required("token", admit.token)?.into(),
                letter: Arc::new(required("letter", admit.letter)?.try_into()?),
                premises: required("premises", admit.premises)?.try_into()?,
            })),
            Kind::Renew(renew) => Self::Renew(Box::new(domain::Renew {
                node: record::node_id(&renew.node)?,
                cut: renew.cut,
                letter: Arc::new(required("letter", renew.letter)?.try_into()?),
                premises: required("premises", renew.premises)?.try_into()?,
            })),
            Kind::Ask(ask) => {
                let right = match (ask.token, ask.spec) {
                    (Some(token), Some(spec)) => {
                        domain::Right::Token { spec: spec.try_into()?, ours: ask.ours, token: token.into() }
                    }
                    (None, None) => domain::Right::Node { cut: ask.cut },
                    (Some(_), None) | (None, Some(_)) => return Err(DecodeError::Field("right")),
                };
                Self::Ask(Box::new(domain::Ask {
                    node: record::node_id(&ask.node)?,
                    right,
                    csr: ask.csr,
                    spki: SpkiHash(record::array("spki", &ask.spki)?),
                }))
            }
            Kind::Confirm(confirm) => {
                Self::Confirm { node: record::node_id(&confirm.node)?, serial: record::serial(&confirm.serial)? }
            }
            Kind::Report(reported) => Self::Report(Box::new(domain::Reported {
                node: record::node_id(&reported.node)?,
                report: required("report", reported.report)?.try_into()?,
                blobs: reported
                    .blobs
                    .into_iter()
                    .map(|blob| (BlobDigest::of(&blob.bytes), Arc::from(blob.bytes)))
                    .collect(),
            })),
            Kind::Presence(presence) => Self::Presence {
                node: record::node_id(&presence.node)?,
                down: presence.down,
                seen: Time::from_unix_millis(presence.seen),
            },
            Kind::UpdateNode(update) => Self::UpdateNode {
                node: record::node_id(&update.node)?,
                version: update.version,
                spec: Box::new(required("spec", update.spec)?.try_into()?),
            },
            Kind::RemoveNode(remove) => {
                Self::RemoveNode { node: record::node_id(&remove.node)?, force: remove.force, ready: remove.ready }
            }
            Kind::UpdateCluster(mut update) => Self::UpdateCluster(Box::new(domain::UpdateCluster {
                version: update.version,
                settings: update.settings.take().map(Into::into),
                worker_secret: update.worker_secret.as_deref().map(secret).transpose()?,
                manager_secret: update.manager_secret.as_deref().map(secret).transpose()?,
                custody: update.custody.take().map(TryInto::try_into).transpose()?,
                unlock: update.unlock.take().map(TryInto::try_into).transpose()?,
                told: update.told,
                roots: match (update.start.take(), update.abort.take(), update.policy.take()) {
                    (None, None, None) => None,
                    (Some(start), None, None) => Some(RootsChange::Start(Box::new(start.try_into()?))),
                    (None, Some(abort), None) => Some(RootsChange::Abort(Box::new(abort.try_into()?))),
                    (None, None, Some(policy)) => Some(RootsChange::Policy(policy.into())),
                    _ => return Err(DecodeError::Field("roots")),
                },
            })),
            Kind::AdvanceRotation(advance) => Self::AdvanceRotation(Box::new(rotation::Advance {
                rotation: advance.rotation,
                phase: record::phase(advance.phase)?,
                worker_secret: secret(&advance.worker_secret)?,
                manager_secret: secret(&advance.manager_secret)?,
            })),
            Kind::ReplaceLadder(replace) => Self::ReplaceLadder(Box::new(domain::ReplaceLadder {
                rotation: replace.rotation,
                ladder: record::certificates(&replace.ladder)?,
                logged: replace.logged,
            })),
            Kind::Enlist(enlist) => Self::Enlist {
                node: record::node_id(&enlist.node)?,
                addr: enlist.addr,
                serial: record::serial(&enlist.serial)?,
                replaces: enlist.replaces,
            },
            Kind::Seat(seat) => Self::Seat { node: record::node_id(&seat.node)?, raft_id: seat.raft_id },
            Kind::Unseat(unseat) => Self::Unseat { node: record::node_id(&unseat.node)?, raft_id: unseat.raft_id },
            Kind::Refound(refound) => Self::Refound(Box::new((*refound).try_into()?)),
            Kind::Attributed(attributed) => {
                let command = *required("command", attributed.command)?;
                if matches!(command.kind, Some(Kind::Attributed(_))) {
                    return Err(DecodeError::Field("command"));
                }
                let Account { by, from } = attributed.asker.try_into()?;
                let salt = record::array("salt", &attributed.salt)?;
                Self::Attributed(Box::new(domain::Attributed { by, from, salt, command: command.try_into()? }))
            }
            Kind::UnlockKeyShown(UnlockKeyShown {}) => Self::UnlockKeyShown,
            Kind::EraseLog(erase) => Self::EraseLog { below: erase.below },
            Kind::CreateToken(create) => Self::CreateToken(Box::new(domain::CreateToken {
                role: record::role(create.manager),
                hash: TokenHash(record::array("token hash", &create.hash)?),
                digest: Digest::from_bytes(record::array("digest", &create.digest)?),
                ttl: Duration::from_millis(create.ttl_millis),
                uses: create.uses,
                note: create.note,
            })),
            Kind::RevokeToken(revoke) => Self::RevokeToken { row: revoke.row },
            Kind::FoundOperators(found) => Self::FoundOperators(found.try_into()?),
            Kind::IssueOperator(issue) => Self::IssueOperator(Box::new((*issue).try_into()?)),
            Kind::IssueApiServer(issue) => Self::IssueApiServer(issue.try_into()?),
            Kind::RevokeOperator(what) => Self::RevokeOperator(what.try_into()?),
            Kind::Revoke(revoke) => Self::Revoke(Box::new((*revoke).try_into()?)),
            Kind::Collect(collect) => Self::Collect {
                nodes: collect.nodes.iter().map(|node| record::node_id(node)).collect::<Result<_, _>>()?,
            },
        })
    }
}
