//! The whole state on disk.

use std::sync::Arc;

use pki::digest::Digest;
use pki::key::SpkiHash;
use pki::time::Time;
use zeroize::Zeroize;

use super::operators::{OperatorRoot, OperatorRow};
use super::record::{self, Blob, Leaf, Letter, Report, Root, Settings, Spec, TokenUse, required};
use super::revoked::{Owed, Revoked, revocations};
use super::{DecodeError, FORMAT};
use crate::log::LogHead;
use crate::members::{self, Members};
use crate::node::{self, BlobDigest, IssuerHash};
use crate::operators::Operators;
use crate::refound;
use crate::removal;
use crate::roots::{self, Roots};
use crate::rotation;
use crate::sleep;
use crate::state::{self, ClusterFacts};
use crate::tokens;
use crate::tokens::limited::{Closed, TokenHash};

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct State {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(message, optional, tag = "2")]
    cluster: Option<Cluster>,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(int64, tag = "4")]
    time: i64,
    #[prost(uint64, tag = "5")]
    index: u64,
    #[prost(message, repeated, tag = "6")]
    nodes: Vec<Node>,
    #[prost(message, repeated, tag = "7")]
    blobs: Vec<Blob>,
    #[prost(message, optional, tag = "8")]
    root: Option<Root>,
    #[prost(message, repeated, tag = "9")]
    stragglers: Vec<StragglerAnchor>,
    #[prost(message, repeated, tag = "10")]
    tokens: Vec<TokenRow>,
    #[prost(message, repeated, tag = "11")]
    members: Vec<Member>,
    #[prost(string, repeated, tag = "12")]
    key_holders: Vec<String>,
    #[prost(message, optional, tag = "13")]
    settings: Option<Settings>,
    #[prost(uint64, tag = "14")]
    cluster_version: u64,
    #[prost(int64, tag = "15")]
    cluster_updated: i64,
    #[prost(message, repeated, tag = "16")]
    removals: Vec<Removal>,
    #[prost(uint64, tag = "17")]
    log_size: u64,
    #[prost(bytes = "vec", repeated, tag = "18")]
    log_frontier: Vec<Vec<u8>>,
    #[prost(message, optional, boxed, tag = "19")]
    rotation: Option<Box<Rotation>>,
    /// 0: one more than the greatest that there is, as in a cluster whose managers never changed.
    #[prost(uint64, tag = "20")]
    next_raft_id: u64,
    #[prost(message, optional, tag = "21")]
    unlock: Option<record::Unlock>,
    #[prost(message, optional, tag = "22")]
    comeback: Option<Comeback>,
    #[prost(message, optional, tag = "24")]
    refounded: Option<Refounded>,
    #[prost(uint64, tag = "42")]
    revoked_version: u64,
    #[prost(message, repeated, tag = "43")]
    revoked: Vec<Revoked>,
    #[prost(message, repeated, tag = "44")]
    owed: Vec<Owed>,
    #[prost(bool, tag = "45")]
    log_told: bool,
    #[prost(uint64, tag = "46")]
    log_erased: u64,
    #[prost(message, optional, tag = "40")]
    operators_root: Option<OperatorRoot>,
    #[prost(message, repeated, tag = "41")]
    operators: Vec<OperatorRow>,
    /// None: there never was one.
    #[prost(message, optional, tag = "48")]
    limited: Option<Limited>,
    #[prost(message, optional, tag = "60")]
    last_rotation: Option<EndedRotation>,
}

/// The last rotation that ended.
#[derive(Clone, PartialEq, prost::Message)]
struct EndedRotation {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(bytes = "vec", tag = "2")]
    from: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    to: Vec<u8>,
    #[prost(bool, tag = "4")]
    back: bool,
    #[prost(bool, tag = "5")]
    emergency: bool,
    #[prost(int64, tag = "6")]
    started: i64,
    #[prost(int64, tag = "7")]
    ended: i64,
    #[prost(string, repeated, tag = "8")]
    aside: Vec<String>,
    #[prost(uint64, tag = "9")]
    aside_count: u64,
}

impl From<&rotation::Ended> for EndedRotation {
    fn from(ended: &rotation::Ended) -> Self {
        Self {
            id: ended.id,
            from: ended.from.0.to_vec(),
            to: ended.to.0.to_vec(),
            back: ended.back,
            emergency: ended.emergency,
            started: ended.started.unix_millis(),
            ended: ended.ended.unix_millis(),
            aside: ended.aside.iter().map(ToString::to_string).collect(),
            aside_count: ended.aside_count,
        }
    }
}

impl TryFrom<EndedRotation> for rotation::Ended {
    type Error = DecodeError;

    fn try_from(row: EndedRotation) -> Result<Self, DecodeError> {
        Ok(Self {
            id: row.id,
            from: BlobDigest(record::array("left root", &row.from)?),
            to: BlobDigest(record::array("next root", &row.to)?),
            back: row.back,
            emergency: row.emergency,
            started: Time::from_unix_millis(row.started),
            ended: Time::from_unix_millis(row.ended),
            aside: row.aside.iter().map(|id| record::node_id(id)).collect::<Result<_, _>>()?,
            aside_count: row.aside_count,
        })
    }
}

/// The tokens with limits.
#[derive(Clone, PartialEq, prost::Message)]
struct Limited {
    #[prost(uint32, tag = "1")]
    next: u32,
    #[prost(message, repeated, tag = "2")]
    rows: Vec<LimitedToken>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LimitedToken {
    #[prost(uint32, tag = "1")]
    row: u32,
    #[prost(bool, tag = "2")]
    manager: bool,
    #[prost(bytes = "vec", tag = "3")]
    hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    digest: Vec<u8>,
    #[prost(int64, tag = "5")]
    created: i64,
    #[prost(int64, tag = "6")]
    until: i64,
    #[prost(uint32, tag = "7")]
    uses: u32,
    #[prost(message, repeated, tag = "8")]
    used: Vec<Used>,
    #[prost(string, tag = "9")]
    note: String,
    /// 1 revoked, 2 the root was replaced, 3 the cluster was made anew.
    #[prost(uint32, tag = "10")]
    closed: u32,
    #[prost(int64, tag = "11")]
    closed_at: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Used {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(string, tag = "2")]
    node: String,
    #[prost(int64, tag = "3")]
    at: i64,
}

impl From<(u32, &tokens::limited::LimitedToken)> for LimitedToken {
    fn from((row, token): (u32, &tokens::limited::LimitedToken)) -> Self {
        let used = |(key, (node, at)): (&SpkiHash, &(pki::identity::NodeId, Time))| Used {
            key: key.0.to_vec(),
            node: node.to_string(),
            at: at.unix_millis(),
        };
        Self {
            row,
            manager: token.role == pki::identity::Role::Manager,
            hash: token.hash.0.to_vec(),
            digest: token.digest.as_bytes().to_vec(),
            created: token.created.unix_millis(),
            until: token.until.unix_millis(),
            uses: token.uses,
            used: token.used.iter().map(used).collect(),
            note: token.note.clone(),
            closed: token.closed.map_or(0, |(why, _)| match why {
                Closed::Revoked => 1,
                Closed::Root => 2,
                Closed::Refounded => 3,
            }),
            closed_at: token.closed.map(|(_, since)| since.unix_millis()).unwrap_or_default(),
        }
    }
}

impl TryFrom<LimitedToken> for (u32, tokens::limited::LimitedToken) {
    type Error = DecodeError;

    fn try_from(row: LimitedToken) -> Result<Self, DecodeError> {
        let why = match row.closed {
            0 => None,
            1 => Some(Closed::Revoked),
            2 => Some(Closed::Root),
            3 => Some(Closed::Refounded),
            _ => return Err(DecodeError::Field("token closed")),
        };
        let mut used = imbl::OrdMap::new();
        for one in row.used {
            let key = SpkiHash(record::array("token key", &one.key)?);
            used.insert(key, (record::node_id(&one.node)?, Time::from_unix_millis(one.at)));
        }
        let token = tokens::limited::LimitedToken {
            role: record::role(row.manager),
            hash: TokenHash(record::array("token hash", &row.hash)?),
            digest: Digest::from_bytes(record::array("digest", &row.digest)?),
            created: Time::from_unix_millis(row.created),
            until: Time::from_unix_millis(row.until),
            uses: row.uses,
            used,
            note: row.note,
            closed: why.map(|why| (why, Time::from_unix_millis(row.closed_at))),
            unfinished: 0,
        };
        Ok((row.row, token))
    }
}

fn limited(stored: Option<Limited>) -> Result<tokens::limited::Limited, DecodeError> {
    let Some(stored) = stored else { return Ok(tokens::limited::Limited::default()) };
    let rows: Vec<_> = stored.rows.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?;
    tokens::limited::Limited::from_parts(stored.next, rows).ok_or(DecodeError::Field("token"))
}

#[derive(Clone, PartialEq, prost::Message)]
struct Refounded {
    #[prost(int64, tag = "1")]
    at: i64,
    #[prost(int64, optional, tag = "2")]
    backup: Option<i64>,
    #[prost(string, repeated, tag = "3")]
    outlived: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Comeback {
    #[prost(int64, tag = "1")]
    since: i64,
    #[prost(int64, tag = "2")]
    until: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Cluster {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    fips: bool,
    #[prost(int64, tag = "3")]
    created: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    manager: bool,
    #[prost(message, optional, tag = "3")]
    spec: Option<Spec>,
    #[prost(int64, tag = "4")]
    created: i64,
    #[prost(int64, tag = "5")]
    updated: i64,
    #[prost(uint64, tag = "6")]
    version: u64,
    #[prost(uint32, tag = "7")]
    cut: u32,
    #[prost(bool, tag = "8")]
    ours: bool,
    #[prost(message, optional, tag = "9")]
    unfinished: Option<TokenUse>,
    #[prost(message, optional, tag = "10")]
    current: Option<Leaf>,
    #[prost(message, repeated, tag = "11")]
    offered: Vec<Leaf>,
    #[prost(message, repeated, tag = "12")]
    previous: Vec<Previous>,
    #[prost(message, repeated, tag = "13")]
    mailbox: Vec<Letter>,
    #[prost(message, optional, tag = "14")]
    report: Option<Report>,
    #[prost(bool, tag = "15")]
    down: bool,
    #[prost(int64, optional, tag = "16")]
    last_seen: Option<i64>,
    #[prost(int64, tag = "17")]
    issuances_since: i64,
    #[prost(uint32, tag = "18")]
    issuances: u32,
    #[prost(int64, tag = "19")]
    leaves_end: i64,
    #[prost(message, optional, tag = "20")]
    pending: Option<Pending>,
    #[prost(int64, optional, tag = "21")]
    promoting: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Pending {
    #[prost(bytes = "vec", tag = "1")]
    csr: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    spki: Vec<u8>,
    #[prost(int64, tag = "3")]
    asked: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Previous {
    #[prost(message, optional, tag = "1")]
    leaf: Option<Leaf>,
    #[prost(int64, tag = "2")]
    until: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StragglerAnchor {
    #[prost(bytes = "vec", tag = "1")]
    certificate: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    ladder: Vec<Vec<u8>>,
    #[prost(int64, tag = "3")]
    until: i64,
    #[prost(bytes = "vec", tag = "4")]
    issuer: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    trust: Vec<u8>,
    #[prost(int64, tag = "6")]
    at_least: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
struct TokenRow {
    #[prost(bool, tag = "1")]
    manager: bool,
    #[prost(bytes = "vec", tag = "2")]
    secret: Vec<u8>,
    #[prost(uint64, tag = "3")]
    generation: u64,
    #[prost(int64, tag = "4")]
    created: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Member {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(uint64, tag = "2")]
    raft_id: u64,
    #[prost(string, tag = "3")]
    addr: String,
}

/// A rotation under way; its old root and the stragglers of earlier ones stand beside it.
#[derive(Clone, PartialEq, prost::Message)]
struct Rotation {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "2")]
    new: Option<Root>,
    #[prost(bool, tag = "3")]
    back: bool,
    #[prost(message, optional, tag = "4")]
    way: Option<record::Way>,
    #[prost(message, optional, tag = "5")]
    phase: Option<PhaseRow>,
    #[prost(int64, tag = "6")]
    started: i64,
    #[prost(message, repeated, tag = "7")]
    history: Vec<PhaseRow>,
    #[prost(message, optional, tag = "8")]
    policy: Option<record::Policy>,
    #[prost(string, repeated, tag = "9")]
    aside: Vec<String>,
    #[prost(message, repeated, tag = "10")]
    passed: Vec<Root>,
    #[prost(bool, tag = "11")]
    handed_over: bool,
    #[prost(bytes = "vec", repeated, tag = "12")]
    given: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "13")]
    onward: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "14")]
    bare: Vec<Vec<u8>>,
}

/// A phase and its beginning.
#[derive(Clone, PartialEq, prost::Message)]
struct PhaseRow {
    #[prost(uint32, tag = "1")]
    phase: u32,
    #[prost(int64, tag = "2")]
    since: i64,
}

impl From<&(rotation::Phase, Time)> for PhaseRow {
    fn from((phase, since): &(rotation::Phase, Time)) -> Self {
        Self { phase: record::phase_number(*phase), since: since.unix_millis() }
    }
}

impl TryFrom<PhaseRow> for (rotation::Phase, Time) {
    type Error = DecodeError;

    fn try_from(row: PhaseRow) -> Result<Self, DecodeError> {
        Ok((record::phase(row.phase)?, Time::from_unix_millis(row.since)))
    }
}

impl From<&rotation::Rotation> for Rotation {
    fn from(rotation: &rotation::Rotation) -> Self {
        Self {
            id: rotation.id,
            new: Some(rotation.new.as_ref().into()),
            back: rotation.back,
            way: Some((&rotation.way).into()),
            phase: Some((&(rotation.phase, rotation.since)).into()),
            started: rotation.started.unix_millis(),
            history: rotation.history.iter().map(Into::into).collect(),
            policy: Some(rotation.policy.into()),
            aside: rotation.aside.iter().map(ToString::to_string).collect(),
            passed: rotation.passed.iter().map(|root| root.as_ref().into()).collect(),
            handed_over: rotation.handed_over,
            given: rotation.given.iter().map(|trust| trust.0.to_vec()).collect(),
            onward: record::ders(&rotation.onward),
            bare: rotation.bare.iter().map(|serial| serial.as_bytes().to_vec()).collect(),
        }
    }
}

impl Rotation {
    fn with(
        self,
        old: Arc<roots::Root>,
        stragglers: Vec<roots::StragglerAnchor>,
    ) -> Result<rotation::Rotation, DecodeError> {
        let root = |root: Root| roots::Root::try_from(root).map(Arc::new);
        let (phase, since) = required("phase", self.phase)?.try_into()?;
        let rotation = rotation::Rotation {
            id: self.id,
            old,
            new: root(required("new root", self.new)?)?,
            back: self.back,
            way: required("way", self.way)?.try_into()?,
            phase,
            since,
            started: Time::from_unix_millis(self.started),
            history: self.history.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            policy: required("policy", self.policy)?.into(),
            aside: self.aside.iter().map(|id| record::node_id(id)).collect::<Result<_, _>>()?,
            passed: self.passed.into_iter().map(root).collect::<Result<_, _>>()?,
            handed_over: self.handed_over,
            given: self
                .given
                .iter()
                .map(|trust| record::array("given", trust).map(BlobDigest))
                .collect::<Result<_, _>>()?,
            onward: record::certificates(&self.onward)?,
            bare: self.bare.iter().map(|serial| record::serial(serial)).collect::<Result<_, _>>()?,
            stragglers,
        };
        match rotation.contradiction() {
            Some(_) => Err(DecodeError::Field("rotation")),
            None => Ok(rotation),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Removal {
    #[prost(string, tag = "1")]
    node: String,
    #[prost(int64, tag = "2")]
    at: i64,
    #[prost(int64, tag = "3")]
    until: i64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("index", &self.index).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TokenRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRow").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Drop for TokenRow {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl From<&node::Node> for Node {
    fn from(node: &node::Node) -> Self {
        let previous =
            |(leaf, until): &(node::Leaf, Time)| Previous { leaf: Some(leaf.into()), until: until.unix_millis() };
        Self {
            id: node.id.to_string(),
            manager: node.role == pki::identity::Role::Manager,
            spec: Some((&node.spec).into()),
            created: node.created.unix_millis(),
            updated: node.updated.unix_millis(),
            version: node.version,
            cut: node.cut,
            ours: node.ours,
            unfinished: node.unfinished.as_ref().map(Into::into),
            current: node.current.as_ref().map(Into::into),
            offered: node.offered.iter().map(Into::into).collect(),
            previous: node.previous.iter().map(previous).collect(),
            mailbox: node.mailbox.iter().map(|letter| letter.as_ref().into()).collect(),
            report: node.report.as_deref().map(Into::into),
            down: node.down,
            last_seen: node.last_seen.map(Time::unix_millis),
            issuances_since: node.issuances.0.unix_millis(),
            issuances: node.issuances.1,
            leaves_end: node.leaves_end.unix_millis(),
            pending: node.pending.as_deref().map(|pending| Pending {
                csr: pending.csr.clone(),
                spki: pending.spki.0.to_vec(),
                asked: pending.asked.unix_millis(),
            }),
            promoting: node.promoting.map(Time::unix_millis),
        }
    }
}

impl TryFrom<Node> for node::Node {
    type Error = DecodeError;

    fn try_from(node: Node) -> Result<Self, DecodeError> {
        let previous = |row: Previous| {
            let leaf = required("leaf", row.leaf)?.try_into()?;
            Ok::<_, DecodeError>((leaf, Time::from_unix_millis(row.until)))
        };
        Ok(Self {
            id: record::node_id(&node.id)?,
            role: record::role(node.manager),
            spec: required("spec", node.spec)?.try_into()?,
            created: Time::from_unix_millis(node.created),
            updated: Time::from_unix_millis(node.updated),
            version: node.version,
            cut: node.cut,
            ours: node.ours,
            unfinished: node.unfinished.map(Into::into),
            current: node.current.map(TryInto::try_into).transpose()?,
            offered: node.offered.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            previous: node.previous.into_iter().map(previous).collect::<Result<_, _>>()?,
            mailbox: node
                .mailbox
                .into_iter()
                .map(|letter| node::Letter::try_from(letter).map(Arc::new))
                .collect::<Result<_, _>>()?,
            report: node.report.map(|report| node::Report::try_from(report).map(Arc::new)).transpose()?,
            down: node.down,
            last_seen: node.last_seen.map(Time::from_unix_millis),
            issuances: (Time::from_unix_millis(node.issuances_since), node.issuances),
            leaves_end: Time::from_unix_millis(node.leaves_end),
            pending: node
                .pending
                .map(|pending| {
                    Ok::<_, DecodeError>(Arc::new(node::Pending {
                        csr: pending.csr,
                        spki: SpkiHash(record::array("spki", &pending.spki)?),
                        asked: Time::from_unix_millis(pending.asked),
                    }))
                })
                .transpose()?,
            promoting: node.promoting.map(Time::from_unix_millis),
        })
    }
}

impl From<&state::State> for State {
    fn from(state: &state::State) -> Self {
        let cluster = |facts: &ClusterFacts| Cluster {
            id: facts.id.to_string(),
            fips: facts.fips,
            created: facts.created.unix_millis(),
        };
        let token = |row: &tokens::TokenRow| TokenRow {
            manager: row.role == pki::identity::Role::Manager,
            secret: row.secret.expose().to_vec(),
            generation: row.generation,
            created: row.created.unix_millis(),
        };
        let straggler = |anchor: &roots::StragglerAnchor| StragglerAnchor {
            certificate: anchor.certificate.der().to_vec(),
            ladder: record::ders(&anchor.ladder),
            until: anchor.until.unix_millis(),
            issuer: anchor.issuer.0.to_vec(),
            trust: anchor.trust.0.to_vec(),
            at_least: anchor.at_least.unix_millis(),
        };
        Self {
            format: FORMAT,
            cluster: state.cluster.as_deref().map(cluster),
            epoch: state.epoch,
            time: state.time.unix_millis(),
            index: state.index,
            nodes: state.nodes.values().map(|node| node.as_ref().into()).collect(),
            blobs: state.blobs.values().map(|(_, bytes)| Blob { bytes: bytes.to_vec() }).collect(),
            root: match &state.roots {
                Roots::None => None,
                Roots::Stable { root, .. } => Some(root.as_ref().into()),
                Roots::Rotating(rotation) => Some(rotation.old.as_ref().into()),
            },
            rotation: state.rotation().map(|rotation| Box::new(rotation.as_ref().into())),
            stragglers: state.roots.stragglers().iter().map(straggler).collect(),
            tokens: state.tokens.rows.iter().map(token).collect(),
            members: state
                .members
                .rows
                .iter()
                .map(|(node, member)| Member {
                    node: node.to_string(),
                    raft_id: member.raft_id,
                    addr: member.addr.clone(),
                })
                .collect(),
            key_holders: state.members.key_holders.iter().map(ToString::to_string).collect(),
            settings: Some(state.settings.as_ref().into()),
            unlock: state.unlock.as_ref().map(Into::into),
            refounded: state.refounded.as_ref().map(|refounded| Refounded {
                at: refounded.at.unix_millis(),
                backup: refounded.backup.map(Time::unix_millis),
                outlived: refounded.outlived.iter().map(ToString::to_string).collect(),
            }),
            operators_root: state.operators.root.as_deref().map(Into::into),
            operators: state.operators.rows.iter().map(|(serial, row)| (serial, row.as_ref()).into()).collect(),
            cluster_version: state.cluster_version,
            cluster_updated: state.cluster_updated.unix_millis(),
            removals: state
                .removals
                .iter()
                .map(|(node, removal)| Removal {
                    node: node.to_string(),
                    at: removal.at.unix_millis(),
                    until: removal.until.unix_millis(),
                })
                .collect(),
            revoked_version: state.revocations.version(),
            revoked: state.revocations.rows().map(Into::into).collect(),
            owed: state.revocations.owed().iter().map(Into::into).collect(),
            log_told: state.log_told,
            log_erased: state.log_erased,
            log_size: state.log.size(),
            log_frontier: state.log.frontier().iter().map(|hash| hash.to_vec()).collect(),
            next_raft_id: if state.members.next_raft_id == state.members.after_greatest() {
                0
            } else {
                state.members.next_raft_id
            },
            comeback: state
                .comeback
                .map(|comeback| Comeback { since: comeback.since.unix_millis(), until: comeback.until.unix_millis() }),
            last_rotation: state.last_rotation.as_deref().map(Into::into),
            limited: (state.tokens.limited != tokens::limited::Limited::default()).then(|| Limited {
                next: state.tokens.limited.next(),
                rows: state.tokens.limited.rows().map(|(row, token)| (row, token.as_ref()).into()).collect(),
            }),
        }
    }
}

fn refounded(row: Refounded) -> Result<refound::Refounded, DecodeError> {
    Ok(refound::Refounded {
        at: Time::from_unix_millis(row.at),
        backup: row.backup.map(Time::from_unix_millis),
        outlived: row.outlived.iter().map(|id| record::node_id(id)).collect::<Result<_, _>>()?,
    })
}

impl TryFrom<State> for state::State {
    type Error = DecodeError;

    fn try_from(state: State) -> Result<Self, DecodeError> {
        if state.format > FORMAT {
            return Err(DecodeError::Later(state.format));
        }
        if state.format == 0 {
            return Err(DecodeError::Field("format"));
        }
        let cluster = |facts: Cluster| {
            let id = record::cluster_id(&facts.id)?;
            let facts = ClusterFacts { id, fips: facts.fips, created: Time::from_unix_millis(facts.created) };
            Ok::<_, DecodeError>(Arc::new(facts))
        };
        let straggler = |anchor: StragglerAnchor| {
            Ok::<_, DecodeError>(roots::StragglerAnchor {
                certificate: record::certificate(&anchor.certificate)?,
                issuer: IssuerHash(record::array("issuer", &anchor.issuer)?),
                trust: BlobDigest(record::array("trust", &anchor.trust)?),
                ladder: record::certificates(&anchor.ladder)?,
                until: Time::from_unix_millis(anchor.until),
                at_least: Time::from_unix_millis(anchor.at_least),
            })
        };
        let stragglers = state.stragglers.into_iter().map(straggler).collect::<Result<Vec<_>, _>>()?;
        if state.cluster.is_some() != state.root.is_some() {
            return Err(DecodeError::Field("root"));
        }
        let roots = match state.root {
            None => Roots::None,
            Some(root) => {
                let root = Arc::new(root.try_into()?);
                match state.rotation {
                    None => Roots::Stable { root, stragglers },
                    Some(row) => Roots::Rotating(Arc::new(row.with(root, stragglers)?)),
                }
            }
        };
        let mut rows = Vec::with_capacity(state.tokens.len());
        for row in state.tokens {
            rows.push(tokens::TokenRow {
                role: record::role(row.manager),
                secret: record::secret(&row.secret)?,
                generation: row.generation,
                created: Time::from_unix_millis(row.created),
                unfinished: 0,
            });
        }
        let mut members = Members::default();
        for member in state.members {
            let node = record::node_id(&member.node)?;
            members.rows.insert(node, members::Member { raft_id: member.raft_id, addr: member.addr });
        }
        let after_greatest = members.after_greatest();
        members.next_raft_id = if state.next_raft_id == 0 { after_greatest } else { state.next_raft_id };
        if members.next_raft_id < after_greatest {
            return Err(DecodeError::Field("next raft id"));
        }
        for holder in &state.key_holders {
            members.key_holders.insert(record::node_id(holder)?);
        }
        let mut removals = imbl::OrdMap::new();
        for row in state.removals {
            let removal =
                removal::Removal { at: Time::from_unix_millis(row.at), until: Time::from_unix_millis(row.until) };
            removals.insert(record::node_id(&row.node)?, removal);
        }
        let mut operators =
            Operators { root: state.operators_root.map(TryInto::try_into).transpose()?, ..Operators::default() };
        for row in state.operators {
            let (serial, row) = row.try_into()?;
            if operators.rows.insert(serial, Arc::new(row)).is_some() {
                return Err(DecodeError::Field("operator"));
            }
        }
        let frontier =
            state.log_frontier.iter().map(|hash| record::array("log frontier", hash)).collect::<Result<_, _>>()?;
        let mut decoded = Self {
            cluster: state.cluster.map(cluster).transpose()?,
            epoch: state.epoch,
            time: Time::from_unix_millis(state.time),
            index: state.index,
            roots,
            last_rotation: state.last_rotation.map(|row| rotation::Ended::try_from(row).map(Arc::new)).transpose()?,
            members,
            settings: Arc::new(required("settings", state.settings)?.into()),
            cluster_version: state.cluster_version,
            cluster_updated: Time::from_unix_millis(state.cluster_updated),
            removals,
            operators,
            revocations: revocations(state.revoked_version, state.revoked, state.owed)?,
            refounded: state.refounded.map(refounded).transpose()?,
            comeback: state.comeback.map(|comeback| sleep::Comeback {
                since: Time::from_unix_millis(comeback.since),
                until: Time::from_unix_millis(comeback.until),
            }),
            log_told: state.log_told,
            log_erased: state.log_erased,
            log: LogHead::from_parts(state.log_size, frontier).ok_or(DecodeError::Field("log frontier"))?,
            ..Self::default()
        };
        let mut tokens = tokens::Tokens { rows, limited: limited(state.limited)? };
        decoded.lock_by(state.unlock.map(TryInto::try_into).transpose()?);
        for blob in state.blobs {
            decoded.blobs.insert(BlobDigest::of(&blob.bytes), (0, Arc::from(blob.bytes)));
        }
        for node in state.nodes {
            let node = node::Node::try_from(node)?;
            if decoded.nodes.contains_key(&node.id) {
                return Err(DecodeError::Field("node id"));
            }
            for digest in node.report.iter().flat_map(|report| report.blobs()) {
                decoded.blobs.get_mut(&digest).ok_or(DecodeError::Field("blob"))?.0 += 1;
            }
            if let Some(token) = node.unfinished {
                tokens.row(token.row).map_err(|_| DecodeError::Field("token"))?;
                tokens.count_unfinished(token.row, 1);
                for key in node.join_keys() {
                    decoded.index_join(key, &node.id);
                }
            }
            if node.pending.is_some() {
                decoded.pending.insert(node.id.clone());
            }
            decoded.nodes.insert(node.id.clone(), Arc::new(node));
        }
        if decoded.blobs.values().any(|(count, _)| *count == 0) {
            return Err(DecodeError::Field("blob"));
        }
        decoded.tokens = Arc::new(tokens);
        Ok(decoded)
    }
}
