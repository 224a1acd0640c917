//! The account of what the cluster's CA did: what is noted besides certificates, by whom, and from where. Rules:
//! - what an entry of the raft log did is noted in the same entry, or not at all; what was refused is not noted;
//! - what everybody may know is in the log's own record; where somebody came from, and names that people gave, are in a
//!   private part beside it, of which the record has only a salted digest: it can be erased, and the tree stays whole;
//! - an account begins with the first command that says who asked for it: a raft log from before then is applied as it was.
//!
//! ```text
//! record   time, node, kind, by, …, SHA-256(private part)          in the tree, for ever
//! private  salt, address it came from, host name, host's address   beside it, until it is erased
//! ```

use std::net::IpAddr;

use pki::digest::sha256;
use pki::identity::NodeId;
use pki::serial::Serial;
use pki::time::Time;

use crate::apply::Entry;
use crate::command::Attributed;
use crate::format;
use crate::log::LogEntry;
use crate::node::BlobDigest;
use crate::outcome::{Outcome, Rejection};
use crate::rotation::Phase;
use crate::state::State;

/// Bytes of a salt: nobody finds an address by trying them all.
pub const SALT_BYTES: usize = 32;
/// Bytes of an actor's name, at most; a longer one is cut.
pub const NAME_MAX: usize = 256;

/// Who asked for something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Actor {
    /// The cluster itself: its leader's rounds, or nobody said.
    #[default]
    Cluster,
    /// Somebody on the machine of a manager, by the daemon's socket.
    Local {
        /// Their user id.
        uid: u32,
    },
    /// Somebody who reached the daemon's API by TCP and was asked for no name.
    Network,
    /// Somebody with a certificate of the API's own CA, by its subject.
    Named(String),
    /// An operator with a certificate of the cluster's operators' root.
    Operator {
        /// The name in it.
        name: String,
        /// Its serial.
        serial: Serial,
    },
    /// A node, by its certificate.
    Node(NodeId),
    /// Whoever has a join token, by its row.
    Token(u32),
}

/// Who asked, and from where: what a manager adds to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Who.
    pub by: Actor,
    /// From which address; none: from the machine itself.
    pub from: Option<IpAddr>,
}

/// A key that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// The root's, to a new manager.
    Root,
    /// The unlock key, to whoever asked for it.
    Unlock,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A certificate was issued: the record holds it.
    Issued,
    /// A node was removed.
    Removed(NodeId),
    /// A certificate of a node was revoked.
    Revoked {
        /// Whose, if it is known.
        node: Option<NodeId>,
        /// Which.
        serial: Serial,
        /// Why: a word, or what the operator said.
        reason: String,
    },
    /// A join token with limits was made.
    TokenCreated {
        /// Its row.
        row: u32,
        /// Whether it makes managers.
        manager: bool,
        /// Until when it admits.
        until: Time,
        /// How many keys it admits; none: any number.
        uses: Option<u32>,
    },
    /// A join token was used for a request that is signed later. One that is signed at once is the record of its certificate, by the token.
    TokenUsed {
        /// Its row.
        row: u32,
        /// Whom it admitted.
        node: NodeId,
    },
    /// A join token with limits was taken back.
    TokenRevoked {
        /// Its row.
        row: u32,
    },
    /// A standing join token has another secret.
    TokenRotated {
        /// Its row.
        row: u32,
    },
    /// A key was given out.
    KeyDelivered {
        /// Which.
        key: KeyKind,
        /// To which node, if it was one.
        node: Option<NodeId>,
    },
    /// A rotation of the root began.
    RotationBegun {
        /// Its number.
        rotation: u64,
        /// Digest of the bundle of the new root.
        to: BlobDigest,
        /// Whether the old key is taken for stolen.
        emergency: bool,
    },
    /// A rotation goes on with another phase.
    RotationPhase {
        /// Its number.
        rotation: u64,
        /// The phase that began.
        phase: Phase,
    },
    /// A rotation goes back.
    RotationTurned {
        /// Its number from now on.
        rotation: u64,
    },
    /// A rotation is over.
    RotationFinished {
        /// Its number.
        rotation: u64,
        /// Digest of the bundle of the root of now.
        root: BlobDigest,
    },
    /// The key of the root is kept elsewhere from now on: a word says where.
    CustodyChanged(String),
    /// The cluster's settings were changed: what of them, in words. Empty: of a version that did not tell.
    Settings(String),
    /// There is another unlock key, or none any more.
    UnlockKeyChanged {
        /// Whether managers are locked at rest from now on.
        locked: bool,
    },
    /// What is wished of a node was changed: its role, or whether it takes work, in a word.
    NodeUpdated {
        /// Which.
        node: NodeId,
        /// What it shall be.
        wish: String,
    },
    /// A node is a manager now.
    Promoted(NodeId),
    /// A node is a worker now.
    Demoted(NodeId),
    /// A certificate was issued to an operator: the record holds it.
    OperatorIssued {
        /// The name in it.
        name: String,
        /// The role: a word.
        role: String,
        /// Its serial.
        serial: Serial,
        /// The certificate, DER.
        certificate: Vec<u8>,
    },
    /// An operator's certificate was revoked.
    OperatorRevoked {
        /// The name in it.
        name: String,
        /// Its serial.
        serial: Serial,
    },
    /// The cluster was made.
    Founded,
    /// The cluster was made anew: by force, or from a backup.
    Refounded {
        /// Its epoch from now on.
        epoch: u64,
        /// The time of the backup.
        backup: Option<Time>,
    },
    /// Private parts were erased.
    Erased {
        /// Of all entries below this one.
        below: u64,
    },
    /// Something that a later version did.
    Later(u32),
}

impl Event {
    /// Whether it comes of a command that is older than the account.
    fn is_older(&self) -> bool {
        match self {
            Self::Issued
            | Self::Removed(_)
            | Self::TokenUsed { .. }
            | Self::TokenRotated { .. }
            | Self::KeyDelivered { key: KeyKind::Root, .. }
            | Self::RotationBegun { .. }
            | Self::RotationPhase { .. }
            | Self::RotationTurned { .. }
            | Self::RotationFinished { .. }
            | Self::CustodyChanged(_)
            | Self::Settings(_)
            | Self::UnlockKeyChanged { .. }
            | Self::NodeUpdated { .. }
            | Self::Promoted(_)
            | Self::Demoted(_)
            | Self::Founded
            | Self::Refounded { .. } => true,
            Self::Revoked { .. }
            | Self::TokenCreated { .. }
            | Self::TokenRevoked { .. }
            | Self::KeyDelivered { key: KeyKind::Unlock, .. }
            | Self::OperatorIssued { .. }
            | Self::OperatorRevoked { .. }
            | Self::Erased { .. }
            | Self::Later(_) => false,
        }
    }

    /// The node that it is about.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Removed(node)
            | Self::Promoted(node)
            | Self::Demoted(node)
            | Self::TokenUsed { node, .. }
            | Self::NodeUpdated { node, .. } => Some(node),
            Self::Revoked { node, .. } | Self::KeyDelivered { node, .. } => node.as_ref(),
            Self::Issued
            | Self::TokenCreated { .. }
            | Self::TokenRevoked { .. }
            | Self::TokenRotated { .. }
            | Self::RotationBegun { .. }
            | Self::RotationPhase { .. }
            | Self::RotationTurned { .. }
            | Self::RotationFinished { .. }
            | Self::CustodyChanged(_)
            | Self::Settings(_)
            | Self::UnlockKeyChanged { .. }
            | Self::OperatorIssued { .. }
            | Self::OperatorRevoked { .. }
            | Self::Founded
            | Self::Refounded { .. }
            | Self::Erased { .. }
            | Self::Later(_) => None,
        }
    }

    /// It, in a word of operators' tools: stable.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Removed(_) => "removed",
            Self::Revoked { .. } => "revoked",
            Self::TokenCreated { .. } => "token-created",
            Self::TokenUsed { .. } => "token-used",
            Self::TokenRevoked { .. } => "token-revoked",
            Self::TokenRotated { .. } => "token-rotated",
            Self::KeyDelivered { key: KeyKind::Root, .. } => "root-key-delivered",
            Self::KeyDelivered { key: KeyKind::Unlock, .. } => "unlock-key-delivered",
            Self::RotationBegun { .. } => "rotation-begun",
            Self::RotationPhase { .. } => "rotation-phase",
            Self::RotationTurned { .. } => "rotation-turned",
            Self::RotationFinished { .. } => "rotation-finished",
            Self::CustodyChanged(_) => "custody-changed",
            Self::Settings(_) => "settings",
            Self::UnlockKeyChanged { .. } => "unlock-key-changed",
            Self::NodeUpdated { .. } => "node-updated",
            Self::Promoted(_) => "promoted",
            Self::Demoted(_) => "demoted",
            Self::OperatorIssued { .. } => "operator-issued",
            Self::OperatorRevoked { .. } => "operator-revoked",
            Self::Founded => "founded",
            Self::Refounded { .. } => "refounded",
            Self::Erased { .. } => "private-erased",
            Self::Later(_) => "later",
        }
    }
}

/// The part of an entry that can be erased. Empty fields are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Private {
    /// The address that it was asked from.
    pub from: String,
    /// The host name of the node that it is about.
    pub host: String,
    /// The address of that node.
    pub addr: String,
}

impl Private {
    fn is_empty(&self) -> bool {
        self.from.is_empty() && self.host.is_empty() && self.addr.is_empty()
    }
}

/// Who asked for the command that is being applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) by: Actor,
    pub(crate) from: Option<IpAddr>,
    pub(crate) salt: Option<[u8; SALT_BYTES]>,
}

impl Entry<'_> {
    /// Notes what the command did: it stands in the log when the command is done, and not at all if it is refused.
    pub(crate) fn tell(&mut self, event: Event) {
        self.told.push((event, Private::default()));
    }

    /// As [`tell`](Self::tell), with what is known of the node that it is about, and can be erased.
    pub(crate) fn tell_of(&mut self, event: Event, host: &str, addr: &str) {
        let private = Private { from: String::new(), host: host.to_owned(), addr: addr.to_owned() };
        self.told.push((event, private));
    }
}

impl State {
    /// A command with who asked for it. From here on there is an account.
    pub(crate) fn attributed(&mut self, entry: &mut Entry<'_>, attributed: &Attributed) -> Result<Outcome, Rejection> {
        // An operator may have been one when he asked, and none any more when it is decided.
        if let Actor::Operator { serial, .. } = &attributed.by
            && !self.operators.is_in_force(serial, entry.now)
        {
            return Err(Rejection::OperatorRevoked);
        }
        self.log_told = true;
        let by = attributed.by.clone();
        entry.asked = Asked { by, from: attributed.from, salt: Some(attributed.salt) };
        let outcome = self.judge(entry, &attributed.command);
        entry.asked = Asked::default();
        outcome
    }

    /// Puts what a command told into the log, if there is an account.
    pub(crate) fn write_told(&mut self, entry: &mut Entry<'_>, asked: &Asked) {
        for (event, private) in std::mem::take(&mut entry.told) {
            if self.log_told || !event.is_older() {
                let (by, now) = (&asked.by, entry.now);
                self.write(entry, asked, private, |private| format::log_record_event(now, &event, by, private));
            }
        }
    }

    /// Puts one record into the log; `record` makes it, with the digest of its private part.
    pub(crate) fn write(
        &mut self,
        entry: &mut Entry<'_>,
        asked: &Asked,
        private: Private,
        record: impl FnOnce(Option<[u8; 32]>) -> Vec<u8>,
    ) {
        let from = asked.from.map(|from| from.to_string()).unwrap_or_default();
        let private = Private { from, ..private };
        // Without an account nobody drew a salt.
        let salt = asked.salt.filter(|_| self.log_told && !private.is_empty());
        let private = salt.map(|salt| format::log_private(&one_salt(&salt, self.log.size()), &private));
        let bytes = record(private.as_deref().map(sha256));
        let seq = self.log.append(&bytes);
        entry.issued.push(LogEntry { seq, bytes, private });
    }

    /// Private parts of entries below `below` go.
    pub(crate) fn erase_private(&mut self, entry: &mut Entry<'_>, below: u64) -> Result<Outcome, Rejection> {
        if below > self.log.size() {
            return Err(Rejection::OutOfSequence);
        }
        if below <= self.log_erased {
            return Ok(Outcome::Unchanged);
        }
        self.log_erased = below;
        entry.tell(Event::Erased { below });
        Ok(Outcome::Done { version: entry.index })
    }
}

/// Each private part has a salt of its own, so that what is left of others tells nothing of one that is gone.
fn one_salt(salt: &[u8; SALT_BYTES], seq: u64) -> [u8; SALT_BYTES] {
    let mut bytes = [0; SALT_BYTES + 8];
    let (first, last) = bytes.split_at_mut(SALT_BYTES);
    first.copy_from_slice(salt);
    last.copy_from_slice(&seq.to_be_bytes());
    sha256(&bytes)
}
