//! A node as the cluster remembers it. Rules:
//! - an id is never used again;
//! - a leaf is registered before any node can hold it, and unregistered when it ends or is replaced;
//! - `cut` only grows: whoever was let in under a lower one is let go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pki::certificate::IssuerId;
use pki::identity::{NodeId, Role};
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;

/// Leaves committed for a node and not yet seen in use; the oldest gives way.
pub const OFFERED_LEAVES_MAX: usize = 4;

/// Requests whose certificate is kept for the node to fetch; the oldest gives way.
/// Source: an engine takes a certificate only with its CSR echoed byte for byte (pki.md 7, 3).
pub const LETTERS_MAX: usize = 4;

/// Replaced leaves that are still known; the oldest gives way.
pub const PREVIOUS_LEAVES_MAX: usize = 4;

/// How long a letter is kept, and how long the leaf before the current one is still known.
pub const LETTER_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a join may stay unfinished (certificate issued, never used) before it is collected.
pub const UNFINISHED_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a node that is to be a manager may take to become one, before it is a worker again.
pub const PROMOTION_LIFE: Duration = Duration::from_secs(10 * 60);

/// A node of the cluster, or a join that is not finished yet.
///
/// Stored since format 1: change only with a sample in testdata/state/.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// CN of its certificates.
    pub id: NodeId,
    /// What it is: a manager from the moment it is a voter of the raft group until it is out of it.
    pub role: Role,
    /// What the operator wants of it.
    pub spec: Spec,
    /// When it was admitted.
    pub created: Time,
    /// When its record last changed for the operator's eye.
    pub updated: Time,
    /// Log index of that change; an update has to name it.
    pub version: u64,
    /// Connections accepted under a lower number are let go.
    pub cut: u32,
    /// Whether it told us, when it joined, that it runs swarmpki.
    pub ours: bool,
    /// The join token it came by, while the join is unfinished.
    pub unfinished: Option<TokenUse>,
    /// The leaf it was last seen with.
    pub current: Option<Leaf>,
    /// Leaves committed and not yet seen in use, oldest first.
    pub offered: Vec<Leaf>,
    /// Leaves replaced within the last day, with the moment each is forgotten.
    pub previous: Vec<(Leaf, Time)>,
    /// What was issued and not yet used: CSR and certificate, oldest first.
    pub mailbox: Vec<Arc<Letter>>,
    /// What it asked for last and was not given yet, because the signer takes its time.
    pub pending: Option<Arc<Pending>>,
    /// What it last said of itself.
    pub report: Option<Arc<Report>>,
    /// Whether its heartbeats had stopped when it was last heard of.
    pub down: bool,
    /// When it was last heard of, as of the last change of `down`.
    pub last_seen: Option<Time>,
    /// Issuances in the current hour: its start and their number.
    pub issuances: (Time, u32),
    /// The last end of any leaf it was ever issued, also of those forgotten meanwhile.
    pub leaves_end: Time,
    /// Until when a worker may become the manager that it is to be.
    pub promoting: Option<Time>,
}

impl Node {
    /// The role that the CA signs for it: a node needs its manager's leaf before it can be a manager.
    pub fn signed_role(&self) -> Role {
        if self.promoting.is_some() { Role::Manager } else { self.role }
    }

    /// Whether it is a manager, or is to be one.
    pub(crate) fn is_or_will_be_manager(&self) -> bool {
        self.role == Role::Manager || self.spec.role == Role::Manager || self.promoting.is_some()
    }

    /// Whether it is a manager that is to stay one, or is on its way to be one. A join that was not finished is not counted on: it may
    /// go at any time.
    pub(crate) fn is_lasting(&self) -> bool {
        let comes = self.promoting.is_some() && self.unfinished.is_none();
        self.spec.role == Role::Manager && (self.role == Role::Manager || comes)
    }

    /// The registered leaf with this serial and key, and in what standing.
    pub fn registered(&self, serial: &Serial, spki: &SpkiHash, now: Time) -> Option<(Registered, &Leaf)> {
        let same = |leaf: &&Leaf| leaf.serial == *serial && leaf.spki == *spki;
        if let Some(leaf) = self.current.as_ref().filter(same) {
            return Some((Registered::Current, leaf));
        }
        if let Some(leaf) = self.offered.iter().find(same) {
            return Some((Registered::Offered, leaf));
        }
        self.previous
            .iter()
            .find(|(leaf, until)| *until > now && same(&leaf))
            .map(|(leaf, _)| (Registered::Previous, leaf))
    }

    /// Every leaf registered for it, in any standing.
    pub fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.current.iter().chain(&self.offered).chain(self.previous.iter().map(|(leaf, _)| leaf))
    }

    /// The keys by which it is found while it is an unfinished join.
    pub(crate) fn join_keys(&self) -> impl Iterator<Item = SpkiHash> {
        let asked = self.pending.iter().map(|pending| pending.spki);
        self.offered.iter().map(|leaf| leaf.spki).chain(asked)
    }

    /// The newest letter, or the one that answers to `spki` if there is one.
    pub fn letter(&self, spki: Option<&SpkiHash>) -> Option<&Arc<Letter>> {
        let asked = spki.and_then(|key| self.mailbox.iter().rev().find(|letter| letter.leaf.spki == *key));
        asked.or_else(|| self.mailbox.last())
    }
}

/// In what standing a leaf is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// Proven by use.
    Current,
    /// Committed, not yet seen in use.
    Offered,
    /// Replaced within the last day.
    Previous,
}

impl Registered {
    /// Whether the leaf lets its holder in as a full member, apart from its end.
    pub fn is_present(self) -> bool {
        match self {
            Self::Current | Self::Offered => true,
            Self::Previous => false,
        }
    }
}

/// What an operator wants of a node (engine-api.md 5, NodeSpec).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Free name.
    pub name: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// The role wished for.
    pub role: Role,
    /// Whether it takes work.
    pub availability: Availability,
}

impl Spec {
    /// A spec that wishes for `role` and says nothing else.
    pub fn new(role: Role, availability: Availability) -> Self {
        Self { name: String::new(), labels: BTreeMap::new(), role, availability }
    }
}

/// Whether a node takes work (wire.md 12, NodeSpec.Availability).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Availability {
    /// It does.
    #[default]
    Active,
    /// It keeps what it has.
    Pause,
    /// It takes none.
    Drain,
}

impl Availability {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }
}

/// A leaf the cluster vouches for: enough to know it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its serial.
    pub serial: Serial,
    /// SHA-256 of its public key.
    pub spki: SpkiHash,
    /// Who issued it.
    pub issuer: IssuerHash,
    /// The role in its OU.
    pub role: Role,
    /// When it begins.
    pub not_before: Time,
    /// When it ends.
    pub not_after: Time,
}

impl Leaf {
    /// Until when its holder may still come back after the leaf's end: one leaf life later (design 7).
    pub fn forgiven_until(&self) -> Time {
        self.not_after.saturating_add(self.not_after.since(self.not_before))
    }
}

/// SHA-256 over an issuer's subject and public key: an [`IssuerId`] in 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerHash(pub [u8; 32]);

impl IssuerHash {
    /// The hash of `id`.
    pub fn of(id: &IssuerId) -> Self {
        Self(id.digest())
    }
}

/// A certificate issued and not yet used, kept so that any manager can hand it out, also after a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The request, byte for byte as it came.
    pub csr: Vec<u8>,
    /// The leaf as registered.
    pub leaf: Leaf,
    /// The leaf's DER.
    pub certificate: Vec<u8>,
    /// DER of the intermediates that go with it.
    pub ladder: Vec<Vec<u8>>,
    /// When it was signed, by the signer's clock; within five minutes of the entry that registered it.
    pub issued: Time,
}

impl Letter {
    /// Whether it is the answer to this request, byte for byte, of a node that is to be `role`: a leaf that has ended, or
    /// names another role, answers nothing.
    pub fn answers(&self, csr: &[u8], role: Role, now: Time) -> bool {
        self.csr == csr && self.leaf.role == role && self.leaf.not_after >= now
    }
}

/// A request for a certificate that is not signed yet: its signer is a CA elsewhere, or a token that may be away. Kept so that
/// any manager goes on with it, also after a crash.
///
/// It holds no `cut`: whose connections are cut because it is a manager no more still gets what it asked for, as what it is then. Where
/// they are cut out of distrust, because a leaf was revoked, the request goes with the leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The request, byte for byte as it came.
    pub csr: Vec<u8>,
    /// SHA-256 of its public key.
    pub spki: SpkiHash,
    /// When it was committed.
    pub asked: Time,
}

impl Pending {
    /// Whether nobody waits for it any more.
    pub(crate) fn is_given_up(&self, now: Time) -> bool {
        now.since(self.asked) >= LETTER_LIFE
    }
}

/// Which use of which token admitted a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// The token's row.
    pub row: u32,
    /// Its secret's generation.
    pub generation: u64,
}

/// What a node last said of itself; bulky parts are stored once, by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Its host name.
    pub hostname: String,
    /// The address its session came from, without port.
    pub addr: String,
    /// The issuer its certificate chains to: digest of a blob (encoded as the session carried it).
    pub issuer: BlobDigest,
    /// The trust bundle it holds: digest of a blob (PEM).
    pub trust: BlobDigest,
    /// Everything else of its description: digest of a blob.
    pub description: BlobDigest,
}

impl Report {
    /// The blobs it refers to.
    pub fn blobs(&self) -> [BlobDigest; 3] {
        [self.issuer, self.trust, self.description]
    }
}

/// SHA-256 of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobDigest(pub [u8; 32]);

impl BlobDigest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(pki::digest::sha256(bytes))
    }
}
