//! All that can be asked of the replicated state. Whatever needs a clock, chance or a key was done before: ids, secrets
//! and signatures come inside.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pki::certificate::Certificate;
use pki::digest::Digest;
use pki::identity::{ClusterId, NodeId, Role};
use pki::join_token::JoinSecret;
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;

use crate::account::{Actor, SALT_BYTES};
use crate::lock::UnlockBox;
use crate::node::{BlobDigest, IssuerHash, Letter, Report, Spec, TokenUse};
use crate::operators::{FoundOperators, IssueApiServer, IssueOperator, RevokeOperator};
use crate::revocation::Reason;
use crate::roots::{Custody, Root};
use crate::rotation::{Advance, RootsChange};
use crate::settings::Settings;
use crate::tokens::limited::TokenHash;

/// Commands that go through the log as one entry, with the time the leader stamped.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The leader's time; the cluster's time never goes back, whatever is stamped here.
    pub time: Time,
    /// Judged one by one, in order.
    pub commands: Vec<Command>,
}

/// One thing asked of the cluster.
#[derive(Clone, Debug)]
pub enum Command {
    /// The first entry: the cluster comes to be.
    Bootstrap(Box<Bootstrap>),
    /// A new node with its first leaf, by a join token.
    Admit(Box<Admit>),
    /// Another leaf for a node that has one, or what it asked for before.
    Renew(Box<Renew>),
    /// A request that is to be signed later.
    Ask(Box<Ask>),
    /// A leaf was seen in use on a connection.
    Confirm {
        /// Whose.
        node: NodeId,
        /// Which.
        serial: Serial,
    },
    /// What a node says of itself has changed.
    Report(Box<Reported>),
    /// A node's heartbeats stopped, or it came back.
    Presence {
        /// Which node.
        node: NodeId,
        /// Whether it is gone.
        down: bool,
        /// When it was last heard of.
        seen: Time,
    },
    /// The operator's wish for a node, replacing the last.
    UpdateNode {
        /// Which node.
        node: NodeId,
        /// The version the wish was based on.
        version: u64,
        /// The wish.
        spec: Box<Spec>,
    },
    /// The node is no longer of this cluster.
    RemoveNode {
        /// Which node.
        node: NodeId,
        /// Also while it is in session.
        force: bool,
        /// Whether it is in session, as its manager sees it.
        ready: bool,
    },
    /// The operator's settings, replacing the last, and fresh token secrets.
    UpdateCluster(Box<UpdateCluster>),
    /// One step of the rotation under way.
    AdvanceRotation(Box<Advance>),
    /// The steps from the new root to the old one are made anew, before they end.
    ReplaceLadder(Box<ReplaceLadder>),
    /// A node that is to be a manager asks for a place in the raft group, or says where it is now. It is given the root's key
    /// from here on.
    Enlist {
        /// Which node.
        node: NodeId,
        /// Its advertised `host:port`.
        addr: String,
        /// Its manager's leaf, seen in use by this.
        serial: Serial,
        /// The place it had, if its store is gone: whoever forgot how it voted comes back as somebody else.
        replaces: Option<u64>,
    },
    /// A node is a voter of the raft group: it is a manager now.
    Seat {
        /// Which node.
        node: NodeId,
        /// Its place. A place is given once, so a late copy of this does nothing to the next one.
        raft_id: u64,
    },
    /// A node is in the raft group no more, or never came: it is a worker now.
    Unseat {
        /// Which node.
        node: NodeId,
        /// Its place; none: it never had one.
        raft_id: Option<u64>,
    },
    /// The cluster is made anew with one manager. It never travels through the log of a group: it is applied to a store that nobody
    /// has open.
    Refound(Box<Refound>),
    /// A root for operators' certificates, at their first use.
    FoundOperators(FoundOperators),
    /// A certificate for an operator.
    IssueOperator(Box<IssueOperator>),
    /// A certificate of a manager's API, for operators to know it by.
    IssueApiServer(IssueApiServer),
    /// Operators' certificates are taken back.
    RevokeOperator(RevokeOperator),
    /// Certificates are taken back before their end.
    Revoke(Box<Revoke>),
    /// A join token with limits.
    CreateToken(Box<CreateToken>),
    /// A token with limits admits nobody any more.
    RevokeToken {
        /// Its number.
        row: u32,
    },
    /// What has outlived its time: joins never finished, letters, replaced leaves, removals, tokens.
    Collect {
        /// Nodes to look at.
        nodes: Vec<NodeId>,
    },
    /// A command, and who asked for it.
    Attributed(Box<Attributed>),
    /// The unlock key is given to whoever asked: it is noted before it is.
    UnlockKeyShown,
    /// Private parts of the log are erased.
    EraseLog {
        /// Of all entries below this one.
        below: u64,
    },
}

impl Command {
    /// What is asked for, whoever asks.
    pub fn asked(&self) -> &Command {
        match self {
            Self::Attributed(attributed) => &attributed.command,
            other => other,
        }
    }
}

/// A command, and who asked for it.
#[derive(Clone, Debug)]
pub struct Attributed {
    /// Who.
    pub by: Actor,
    /// From which address.
    pub from: Option<IpAddr>,
    /// What makes digests of private parts say nothing: drawn anew for each command.
    pub salt: [u8; SALT_BYTES],
    /// What is asked for; never attributed again.
    pub command: Command,
}

/// The cluster's beginning.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// O of every certificate.
    pub cluster: ClusterId,
    /// Whether members must run FIPS.
    pub fips: bool,
    /// The root.
    pub root: Arc<Root>,
    /// The root's own certificate goes into the issuance log when we made it, DER.
    pub logged: Vec<Vec<u8>>,
    /// The first manager.
    pub node: NodeId,
    /// Its spec.
    pub spec: Spec,
    /// Its advertised `host:port`.
    pub addr: String,
    /// Its first leaf, already in its hands.
    pub letter: Letter,
    /// Secrets of the two standing tokens.
    pub worker_secret: SecretBox,
    /// The manager's.
    pub manager_secret: SecretBox,
    /// The settings; whether managers are locked at rest is said by the next field.
    pub settings: Settings,
    /// The unlock key, if managers are locked at rest from the beginning.
    pub unlock: Option<UnlockBox>,
}

/// A cluster made anew.
#[derive(Clone, Debug)]
pub struct Refound {
    /// Its epoch from now on, above the one before.
    pub epoch: u64,
    /// The one manager's advertised `host:port`.
    pub addr: String,
    /// Who it is.
    pub founder: Founder,
}

/// Who makes a cluster anew.
#[derive(Clone, Debug)]
pub enum Founder {
    /// One of its managers, when too few of them are left.
    Manager(NodeId),
    /// A machine that has a backup.
    Restored(Box<Restored>),
}

/// What a machine brings that makes a cluster anew from a backup.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The cluster's time in the backup.
    pub backup: Time,
    /// The id drawn for the machine.
    pub node: NodeId,
    /// Its spec.
    pub spec: Spec,
    /// Its leaf, already in its hands.
    pub letter: Letter,
    /// A fresh secret for the worker's token.
    pub worker_secret: SecretBox,
    /// A fresh secret for the manager's token.
    pub manager_secret: SecretBox,
    /// A fresh unlock key, if managers are locked at rest.
    pub unlock: Option<UnlockBox>,
    /// Nodes that were removed after the backup.
    pub removed: Vec<NodeId>,
}

/// What a signed leaf was based on: judged again when it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Premises {
    /// Who signed.
    pub issuer: IssuerHash,
    /// In which epoch.
    pub epoch: u64,
    /// When, by the signer's clock.
    pub signed: Time,
}

/// A join.
#[derive(Clone, Debug)]
pub struct Admit {
    /// The id drawn for the node.
    pub node: NodeId,
    /// Role and availability.
    pub spec: Spec,
    /// Whether the joiner told us that it runs swarmpki.
    pub ours: bool,
    /// By which token.
    pub token: TokenUse,
    /// CSR and leaf.
    pub letter: Arc<Letter>,
    /// What the leaf was based on.
    pub premises: Premises,
}

/// A renewal.
#[derive(Clone, Debug)]
pub struct Renew {
    /// Whose.
    pub node: NodeId,
    /// The node's `cut` when the caller was let in.
    pub cut: u32,
    /// CSR and leaf; the leaf's role must be the node's.
    pub letter: Arc<Letter>,
    /// What the leaf was based on.
    pub premises: Premises,
}

/// A request for a certificate whose signer is not at hand: it is answered by a later [`Renew`].
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whose; of a join, the id drawn for the node.
    pub node: NodeId,
    /// By what right.
    pub right: Right,
    /// The request, byte for byte as it came.
    pub csr: Vec<u8>,
    /// SHA-256 of its public key.
    pub spki: SpkiHash,
}

/// By what right a certificate is asked for.
#[derive(Clone, Debug)]
pub enum Right {
    /// By a join token.
    Token {
        /// Role and availability.
        spec: Spec,
        /// Whether the joiner told us that it runs swarmpki.
        ours: bool,
        /// By which token.
        token: TokenUse,
    },
    /// By the certificate that the node has.
    Node {
        /// The node's `cut` when the caller was let in.
        cut: u32,
    },
}

/// A node's report with the blobs it refers to; blobs already stored may be left out.
#[derive(Clone, Debug)]
pub struct Reported {
    /// Whose.
    pub node: NodeId,
    /// The report.
    pub report: Report,
    /// Blobs; each counts by the digest that it has.
    pub blobs: Vec<(BlobDigest, Arc<[u8]>)>,
}

/// New settings.
#[derive(Clone, Debug, Default)]
pub struct UpdateCluster {
    /// The version they are based on.
    pub version: u64,
    /// The settings; none: only secrets change.
    pub settings: Option<Settings>,
    /// A fresh secret for the worker's token.
    pub worker_secret: Option<SecretBox>,
    /// A fresh secret for the manager's token.
    pub manager_secret: Option<SecretBox>,
    /// What happens to the roots.
    pub roots: Option<RootsChange>,
    /// The key of the root with this bundle, of now or that is gone to, is in other custody from now on.
    pub custody: Option<(BlobDigest, Custody)>,
    /// A fresh unlock key; not looked at if the settings say that managers are not locked at rest.
    pub unlock: Option<UnlockBox>,
    /// Whether the log tells what of the settings is changed: not of commands from before it did, so that they do again what they did.
    pub told: bool,
}

/// A join token with limits. Its secret is not told here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateToken {
    /// What a joiner becomes.
    pub role: Role,
    /// Hash of its secret half.
    pub hash: TokenHash,
    /// Digest of the root that it names.
    pub digest: Digest,
    /// How long it lives, from the leader's stamp on.
    pub ttl: Duration,
    /// How many keys it admits.
    pub uses: u32,
    /// What the operator wrote beside it.
    pub note: String,
}

/// A ladder made anew: the same steps with a later end.
#[derive(Clone, Debug)]
pub struct ReplaceLadder {
    /// Of which rotation.
    pub rotation: u64,
    /// The ladder.
    pub ladder: Vec<Certificate>,
    /// What was signed for it, DER.
    pub logged: Vec<Vec<u8>>,
}

/// Certificates taken back before their end.
#[derive(Clone, Debug)]
pub struct Revoke {
    /// Why.
    pub reason: Reason,
    /// Which.
    pub what: Withdraw,
}

/// Which certificates are taken back.
#[derive(Clone, Debug)]
pub enum Withdraw {
    /// These.
    Certificates(Vec<Withdrawn>),
    /// Every one that a node was issued before now, also those that only the issuance log knows.
    Node {
        /// Which node.
        node: NodeId,
        /// The one that it goes on with: its current one. One that is on offer only lets its connections go, so that it comes with it.
        keep: Option<Serial>,
    },
    /// What the issuance log has of a node whose certificates were all taken back.
    Found {
        /// Which node.
        node: NodeId,
        /// When they were taken back, as the state has it.
        at: Time,
        /// What was found.
        certificates: Vec<Withdrawn>,
        /// Whether that is all.
        last: bool,
    },
}

/// A certificate that is taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// Who issued it.
    pub issuer: IssuerHash,
    /// Its serial.
    pub serial: Serial,
    /// When it ends.
    pub until: Time,
    /// Whose it is, if that is known.
    pub node: Option<NodeId>,
}

/// A join token's secret on its way through the log; shows nothing of itself.
#[derive(Clone)]
pub struct SecretBox(pub Arc<JoinSecret>);

impl std::fmt::Debug for SecretBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBox")
    }
}
