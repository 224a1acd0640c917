//! All that can come of a command. Too late is an outcome, not an error.

use std::sync::Arc;

use pki::identity::NodeId;

use crate::node::Letter;

/// What came of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A leaf is registered: the only outcome after which its certificate may leave the manager.
    Issued {
        /// For whom.
        node: NodeId,
        /// What the node is to get: the one proposed, or the one issued before for the same key.
        letter: Arc<Letter>,
        /// False when it is the answer given before.
        fresh: bool,
    },
    /// A request is kept, and will be signed later.
    Pending {
        /// Whose.
        node: NodeId,
    },
    /// Done; the object's version since then.
    Done {
        /// Log index of the change.
        version: u64,
    },
    /// There was nothing to do.
    Unchanged,
    /// The node has a place in the raft group.
    Enlisted {
        /// Its number there.
        raft_id: u64,
    },
    /// What had outlived its time is gone; the joins among it, whose records went.
    Collected(Vec<NodeId>),
    /// Refused, and nothing has changed.
    Rejected(Rejection),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// There is a cluster already.
    #[error("the cluster exists already")]
    Exists,
    /// There is no cluster yet.
    #[error("there is no cluster yet")]
    NoCluster,
    /// Signed by a key that signs no longer, or never did.
    #[error("signed by an issuer that is not the present one")]
    Issuer,
    /// Signed in another epoch.
    #[error("signed in another epoch")]
    Epoch,
    /// Signed too long before or after the leader's time.
    #[error("signed more than five minutes from the leader's time")]
    Skew,
    /// The token was replaced meanwhile.
    #[error("the join token was replaced")]
    Token,
    /// Too many joins by this token, or by this key, are not finished.
    #[error("too many unfinished joins by this token or key")]
    TokenBusy,
    /// The id drawn is in use, or was.
    #[error("the node id is taken")]
    IdTaken,
    /// The serial is already this node's.
    #[error("the serial was used before")]
    SerialUsed,
    /// No such node.
    #[error("no such node")]
    UnknownNode,
    /// The node was removed.
    #[error("the node was removed")]
    Removed,
    /// The caller was let in before the node's connections were cut.
    #[error("the caller's connection was cut")]
    Cut,
    /// The leaf names another role than the node's.
    #[error("the role changed")]
    Role,
    /// More issuances than a node may have in an hour.
    #[error("too many certificates for this node within an hour")]
    NodeBusy,
    /// The update is based on another version.
    #[error("update out of sequence")]
    OutOfSequence,
    /// The node is in session.
    #[error("the node is not down")]
    Ready,
    /// The node is a manager in the raft group.
    #[error("the node is a manager")]
    Manager,
    /// Nobody else is a manager, or is to stay one.
    #[error("the node is the last manager")]
    LastManager,
    /// The node has no place in the raft group, or none with this number, or is no voter yet.
    #[error("the node is not in the raft group")]
    NotSeated,
    /// The node is not to be a manager.
    #[error("the node is not to be a manager")]
    NotPromoted,
    /// The node is a Docker Engine.
    #[error("the node is an engine, which cannot be a manager here")]
    EngineNotPromotable,
    /// No root is being replaced.
    #[error("no root rotation is under way")]
    NoRotation,
    /// The rotation under way cannot be replaced or turned.
    #[error("the root rotation under way has to end first")]
    RotationBusy,
    /// The ladder or bundle does not lead where it has to, or a secret for the tokens that change with it is missing.
    #[error("the way to the new root does not lead there")]
    Way,
    /// Nodes that the phase waits for have not done their part.
    #[error("nodes are missing for the rotation's next phase")]
    NotConverted,
    /// A report refers to a blob that is neither stored nor given.
    #[error("a blob of the report is missing")]
    Blob,
    /// The token's end has come.
    #[error("the join token has ended")]
    TokenEnded,
    /// All uses of the token are taken, or the use of this key is spent.
    #[error("the join token has no use left for this node")]
    TokenSpent,
    /// The token was revoked.
    #[error("the join token was revoked")]
    TokenRevoked,
    /// No such token.
    #[error("no such join token")]
    UnknownToken,
    /// A token that is to be made is beyond what a token may have, or there are too many.
    #[error("too many join tokens with limits, or limits that are none")]
    TokenLimits,
    /// No certificate of an operator is on record by this serial or name, or with this role.
    #[error("no such operator's certificate")]
    UnknownOperator,
    /// The operator's certificate was taken back, or has ended.
    #[error("the operator's certificate was revoked or has ended")]
    OperatorRevoked,
    /// As many operators' certificates as there may be, in all or of one name.
    #[error("too many certificates of operators, or of this one")]
    OperatorsFull,
    /// More certificates taken back than there is room for.
    #[error("too many revoked certificates")]
    TooManyRevoked,
    /// The certificate that a node is to go on with is not its current one.
    #[error("the certificate to keep is not the one in use")]
    NotKept,
}

impl Rejection {
    /// Each at its place, by which members tell each other of it: a new one comes last.
    pub const ALL: [Self; 36] = [
        Self::Exists,
        Self::NoCluster,
        Self::Issuer,
        Self::Epoch,
        Self::Skew,
        Self::Token,
        Self::TokenBusy,
        Self::IdTaken,
        Self::SerialUsed,
        Self::UnknownNode,
        Self::Removed,
        Self::Cut,
        Self::Role,
        Self::NodeBusy,
        Self::OutOfSequence,
        Self::Ready,
        Self::Manager,
        Self::LastManager,
        Self::NotSeated,
        Self::NotPromoted,
        Self::EngineNotPromotable,
        Self::NoRotation,
        Self::RotationBusy,
        Self::Way,
        Self::NotConverted,
        Self::Blob,
        Self::TokenEnded,
        Self::TokenSpent,
        Self::TokenRevoked,
        Self::UnknownToken,
        Self::TokenLimits,
        Self::UnknownOperator,
        Self::OperatorRevoked,
        Self::OperatorsFull,
        Self::TooManyRevoked,
        Self::NotKept,
    ];

    /// Whether signing again on fresh state may help.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Issuer | Self::Epoch | Self::Skew | Self::IdTaken | Self::SerialUsed | Self::Role => true,
            Self::Exists
            | Self::NoCluster
            | Self::Token
            | Self::TokenBusy
            | Self::UnknownNode
            | Self::Removed
            | Self::Cut
            | Self::NodeBusy
            | Self::OutOfSequence
            | Self::Ready
            | Self::Manager
            | Self::LastManager
            | Self::NotSeated
            | Self::NotPromoted
            | Self::EngineNotPromotable
            | Self::NoRotation
            | Self::RotationBusy
            | Self::Way
            | Self::NotConverted
            | Self::Blob
            | Self::TokenEnded
            | Self::TokenSpent
            | Self::TokenRevoked
            | Self::UnknownToken
            | Self::TokenLimits
            | Self::UnknownOperator
            | Self::OperatorRevoked
            | Self::OperatorsFull
            | Self::TooManyRevoked
            | Self::NotKept => false,
        }
    }
}
