//! Refusals as typed values: the one place where a refusal becomes a gRPC code and text ([`Refusal::status`]), and where
//! a status is recognised again ([`Refusal::recognise`], [`classify`]).
//!
//! Texts and codes are those of the engines (wire.md 4, 6.2, 6.5, 8, 9, 10; pki.md 6, 13, 14; engine-api.md 2.1) unless
//! the variant says "ours". Both directions are tested over every variant.

mod ca_update;
mod classify;
mod recognise;
mod unauthorized;

use std::fmt;
use std::time::Duration;

use pki::identity::{ClusterId, NodeId, Role};
use tonic::{Code, Status};

pub use ca_update::{CaUpdateRefusal, WhichCa};
pub use classify::{Class, REGISTRATION_PAUSE, classify};
pub use unauthorized::Unauthorized;

/// Metadata key that tells a client how long to wait before it tries again, in milliseconds.
/// Source: gRPC proposal A6, "pushback".
pub const RETRY_AFTER_KEY: &str = "grpc-retry-pushback-ms";

/// Why a call was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    // Authorization (wire.md 4 and 8).
    /// The per-method check on a direct call.
    Peer(Unauthorized),
    /// The check of the manager that forwarded a call.
    Forwarder(Unauthorized),
    /// A forwarded call without name, organization or role of the original caller.
    ForwardedIncomplete,
    /// The original caller of a forwarded call has another role.
    ForwardedRole {
        /// The roles that may call, in the order of the text.
        allowed: Vec<Role>,
    },
    /// The original caller of a forwarded call is of another cluster.
    ForwardedOrganization {
        /// This cluster.
        cluster: ClusterId,
    },
    /// The original caller of a forwarded call may not call. Ours: SwarmKit does not check the forwarded name against
    /// the removed nodes.
    ForwardedPeer(Unauthorized),
    /// A call that was already redirected once reached a manager that is not the leader.
    SecondRedirect {
        /// Who redirected it.
        from: Vec<String>,
    },
    /// No leader for more than ten ticks.
    NoLeader,

    // Issuance (pki.md 6).
    /// A required field is empty: no CSR at Issue, no id at Status.
    CaArgumentMissing,
    /// The CA does not run here.
    SignerStopped,
    /// The CA runs and has not read its tokens yet.
    SignerStarting,
    /// No valid token and no certificate that would make it a renewal.
    TokenRefused,
    /// The token's end has come. Ours: engines are told [`TokenRefused`](Self::TokenRefused).
    TokenEnded,
    /// All uses of the token are taken. Ours, as before.
    TokenSpent,
    /// The token was revoked. Ours, as before.
    TokenRevoked,
    /// A renewal for a node that is not on record.
    RenewalNodeMissing {
        /// The node of the caller's certificate.
        node: NodeId,
    },
    /// Status for a node that is not on record.
    CertificateMissing,
    /// The CSR does not parse, verify, or has a key that is not accepted. Ours: engines store it and fail later.
    CsrRefused {
        /// What is wrong, with the substrings of conformance 18 to 21, 26 and 27.
        reason: String,
    },
    /// An engine came with the manager token. Ours (wire.md 10).
    EngineAsManager,
    /// A token has as many joins under way as it may. Ours.
    TooManyUnfinishedJoins,
    /// A node asks for certificates faster than it may. Ours.
    IssuanceRateExceeded {
        /// The node.
        node: NodeId,
        /// When the next one is possible.
        retry_after: Duration,
    },
    /// The cluster changed between signing and commit, twice. Ours.
    IssuanceStale,
    /// It is not known whether the request was committed: the same request again gets the same answer. Ours.
    OutcomeUnknown,
    /// A queue is full or the store cannot be reached: surely nothing was done. Ours.
    Busy {
        /// When to come back.
        retry_after: Duration,
    },

    // Sessions (wire.md 6.2 and 6.5).
    /// A registration for a node that is not on record.
    SessionNodeMissing,
    /// A call for a session by a node that has none.
    NotRegistered,
    /// The session is not the node's current one.
    SessionInvalid,
    /// More than three registrations within eight seconds.
    RateLimited {
        /// The node.
        node: NodeId,
    },
    /// The dispatcher ends its sessions: another manager will take them.
    MustDisconnect,
    /// The dispatcher does not run here.
    DispatcherStopped,
    /// The description of a node is larger than is kept. Ours.
    DescriptionTooLarge {
        /// Its size, in bytes.
        bytes: usize,
        /// The limit, in bytes.
        bytes_max: usize,
    },

    // Health, resources, raft (wire.md 9 and 10).
    /// A service that the health service does not know.
    UnknownService,
    /// This manager is not a member of a raft group.
    RaftNotMember,
    /// This manager lost the lead while it worked.
    LeaderLost,
    /// The address of a joining manager is not `host:port`.
    RaftAddressInvalid {
        /// As given.
        address: String,
    },
    /// A request to leave that names no member.
    RaftNodeMissing,

    // Control (pki.md 13 and 14, engine-api.md 2.1).
    /// A required field of a control call is missing.
    ArgumentMissing,
    /// The object was changed since it was read.
    OutOfSequence,
    /// No such node.
    NodeMissing {
        /// As given: what a person typed may not be an id.
        node: String,
    },
    /// No such cluster.
    ClusterMissing {
        /// As given.
        cluster: String,
    },
    /// Demotion of the only manager.
    LastManager,
    /// Demotion of a manager that is not in the raft group.
    NotRaftMember,
    /// Demotion that would lose the quorum.
    QuorumLoss,
    /// Promotion of a node that is an engine. Ours (wire.md 10).
    EngineNotPromotable {
        /// The node.
        node: NodeId,
    },
    /// Removal of a manager.
    RemovalOfManager {
        /// The node.
        node: NodeId,
    },
    /// Removal of a node that is there, without force.
    RemovalOfLiveNode {
        /// The node.
        node: NodeId,
    },
    /// A certificate life under one hour.
    ExpiryTooShort,
    /// A negative heartbeat period.
    HeartbeatNegative,
    /// Another cluster name than `default`.
    ClusterNameFixed,
    /// An acceptance policy with a hash other than bcrypt.
    HashUnsupported {
        /// As given.
        algorithm: String,
    },
    /// The root that an update asks for cannot be had.
    CaUpdate(CaUpdateRefusal),
    /// No answer in time.
    DeadlineExceeded,
}

impl Refusal {
    /// Whether the token was one once: what its holder is told depends on whether it runs swarmpki.
    #[must_use]
    pub fn is_of_limited_token(&self) -> bool {
        matches!(self, Refusal::TokenEnded | Refusal::TokenSpent | Refusal::TokenRevoked)
    }

    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Refusal::Peer(_)
            | Refusal::Forwarder(_)
            | Refusal::ForwardedIncomplete
            | Refusal::ForwardedRole { .. }
            | Refusal::ForwardedOrganization { .. }
            | Refusal::ForwardedPeer(_) => Code::PermissionDenied,
            Refusal::SecondRedirect { .. } | Refusal::TooManyUnfinishedJoins | Refusal::IssuanceRateExceeded { .. } => {
                Code::ResourceExhausted
            }
            Refusal::NoLeader | Refusal::SessionNodeMissing | Refusal::OutOfSequence => Code::Unknown,
            Refusal::CaArgumentMissing
            | Refusal::TokenRefused
            | Refusal::TokenEnded
            | Refusal::TokenSpent
            | Refusal::TokenRevoked
            | Refusal::CsrRefused { .. }
            | Refusal::SessionInvalid
            | Refusal::DescriptionTooLarge { .. }
            | Refusal::RaftAddressInvalid { .. }
            | Refusal::RaftNodeMissing
            | Refusal::ArgumentMissing
            | Refusal::ExpiryTooShort
            | Refusal::HeartbeatNegative
            | Refusal::ClusterNameFixed
            | Refusal::HashUnsupported { .. } => Code::InvalidArgument,
            Refusal::SignerStopped
            | Refusal::SignerStarting
            | Refusal::IssuanceStale
            | Refusal::OutcomeUnknown
            | Refusal::MustDisconnect
            | Refusal::DispatcherStopped => Code::Aborted,
            Refusal::RenewalNodeMissing { .. }
            | Refusal::CertificateMissing
            | Refusal::NotRegistered
            | Refusal::UnknownService
            | Refusal::NodeMissing { .. }
            | Refusal::ClusterMissing { .. }
            | Refusal::NotRaftMember => Code::NotFound,
            Refusal::EngineAsManager
            | Refusal::RaftNotMember
            | Refusal::LeaderLost
            | Refusal::LastManager
            | Refusal::QuorumLoss
            | Refusal::EngineNotPromotable { .. }
            | Refusal::RemovalOfManager { .. }
            | Refusal::RemovalOfLiveNode { .. } => Code::FailedPrecondition,
            Refusal::Busy { .. } | Refusal::RateLimited { .. } => Code::Unavailable,
            Refusal::CaUpdate(refusal) => refusal.code(),
            Refusal::DeadlineExceeded => Code::DeadlineExceeded,
        }
    }

    /// When the caller may come back, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        if let Refusal::Busy { retry_after } | Refusal::IssuanceRateExceeded { retry_after, .. } = self {
            Some(*retry_after)
        } else {
            None
        }
    }

    /// The status that goes over the wire.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = Status::new(self.code(), self.to_string());
        if let Some(after) = self.retry_after() {
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            status.metadata_mut().insert(RETRY_AFTER_KEY, millis.into());
        }
        status
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        refusal.status()
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Peer(inner) => write!(f, "{PEER_PREFIX}{inner}"),
            Refusal::Forwarder(inner) => write!(f, "{FORWARDER_PREFIX}{inner}"),
            Refusal::ForwardedIncomplete => f.write_str("Permission denied: missing information in forwarded request"),
            Refusal::ForwardedRole { allowed } => {
                write!(f, "{FORWARDED_ROLE_PREFIX}{}", unauthorized::roles_text(allowed))
            }
            Refusal::ForwardedOrganization { cluster } => {
                write!(f, "{FORWARDED_ORGANIZATION_PREFIX}{cluster}")
            }
            Refusal::ForwardedPeer(inner) => write!(f, "{FORWARDED_PEER_PREFIX}{inner}"),
            Refusal::SecondRedirect { from } => {
                write!(f, "{SECOND_REDIRECT_PREFIX}[{}]", from.join(" "))
            }
            Refusal::NoLeader => f.write_str(
                "The swarm does not have a leader. It's possible that too few managers are online. \
                 Make sure more than half of the managers are online.",
            ),
            Refusal::CaArgumentMissing => f.write_str("InvalidArgument"),
            Refusal::SignerStopped => f.write_str("CA signer is stopped"),
            Refusal::SignerStarting => f.write_str("CA signer is still starting"),
            Refusal::TokenRefused => f.write_str("A valid join token is necessary to join this cluster"),
            Refusal::TokenEnded => f.write_str("this join token has ended: another one is needed to join this cluster"),
            Refusal::TokenSpent => {
                f.write_str("this join token has no use left: another one is needed to join this cluster")
            }
            Refusal::TokenRevoked => {
                f.write_str("this join token was revoked: another one is needed to join this cluster")
            }
            Refusal::RenewalNodeMissing { node } => {
                write!(f, "node {node}{RENEWAL_NODE_MISSING_SUFFIX}")
            }
            Refusal::CertificateMissing => f.write_str("NotFound"),
            Refusal::CsrRefused { reason } => write!(f, "{CSR_REFUSED_PREFIX}{reason}"),
            Refusal::EngineAsManager => {
                f.write_str("Docker Engines join this cluster as workers: use the worker join token")
            }
            Refusal::TooManyUnfinishedJoins => {
                f.write_str("too many joins with this token are unfinished: wait for them, or rotate the token")
            }
            Refusal::IssuanceRateExceeded { node, retry_after } => {
                write!(f, "node {node}{ISSUANCE_RATE_INFIX}{} ms", retry_after.as_millis())
            }
            Refusal::IssuanceStale => f.write_str("the cluster changed while the certificate was signed: try again"),
            Refusal::OutcomeUnknown => {
                f.write_str("it is not known whether this was committed: send the same request again")
            }
            Refusal::Busy { retry_after } => {
                write!(f, "{BUSY_PREFIX}{} ms", retry_after.as_millis())
            }
            Refusal::SessionNodeMissing => f.write_str("node not found"),
            Refusal::NotRegistered => f.write_str("node not registered"),
            Refusal::SessionInvalid => f.write_str("session invalid"),
            Refusal::RateLimited { node } => write!(f, "node {node}{RATE_LIMITED_SUFFIX}"),
            Refusal::MustDisconnect => f.write_str("node must disconnect"),
            Refusal::DispatcherStopped => f.write_str("dispatcher is stopped"),
            Refusal::DescriptionTooLarge { bytes, bytes_max } => {
                write!(f, "{DESCRIPTION_PREFIX}{bytes}{DESCRIPTION_INFIX}{bytes_max}")
            }
            Refusal::UnknownService => f.write_str("unknown service"),
            Refusal::RaftNotMember => f.write_str("raft: node is not yet part of a raft cluster"),
            Refusal::LeaderLost => f.write_str("raft: failed to process the request: node lost leader status"),
            Refusal::RaftAddressInvalid { address } => {
                write!(f, "{RAFT_ADDRESS_PREFIX}{address}{RAFT_ADDRESS_SUFFIX}")
            }
            Refusal::RaftNodeMissing => f.write_str("no node information provided"),
            Refusal::ArgumentMissing => f.write_str("invalid argument"),
            Refusal::OutOfSequence => f.write_str("update out of sequence"),
            Refusal::NodeMissing { node } => write!(f, "node {node} not found"),
            Refusal::ClusterMissing { cluster } => write!(f, "cluster {cluster} not found"),
            Refusal::LastManager => f.write_str("attempting to demote the last manager of the swarm"),
            Refusal::NotRaftMember => f.write_str("can't find manager in raft memberlist"),
            Refusal::QuorumLoss => {
                f.write_str("can't remove member from the raft: this would result in a loss of quorum")
            }
            Refusal::EngineNotPromotable { node } => {
                write!(f, "node {node}{ENGINE_NOT_PROMOTABLE_SUFFIX}")
            }
            Refusal::RemovalOfManager { node } => {
                write!(f, "node {node}{REMOVAL_OF_MANAGER_SUFFIX}")
            }
            Refusal::RemovalOfLiveNode { node } => {
                write!(f, "node {node}{REMOVAL_OF_LIVE_NODE_SUFFIX}")
            }
            Refusal::ExpiryTooShort => f.write_str("minimum certificate expiry time is: 1h0m0s"),
            Refusal::HeartbeatNegative => f.write_str("heartbeat time period cannot be a negative duration"),
            Refusal::ClusterNameFixed => f.write_str("modification of cluster name is not allowed"),
            Refusal::HashUnsupported { algorithm } => {
                write!(f, "{HASH_UNSUPPORTED_PREFIX}{algorithm}")
            }
            Refusal::CaUpdate(refusal) => refusal.fmt(f),
            Refusal::DeadlineExceeded => f.write_str("context deadline exceeded"),
        }
    }
}

// Parts of texts that carry values: written above, looked for in `recognise`.
const PEER_PREFIX: &str = "Permission denied: unauthorized peer role: rpc error: code = PermissionDenied desc = ";
const FORWARDER_PREFIX: &str = "Permission denied: unauthorized forwarder role: ";
const FORWARDED_ROLE_PREFIX: &str = "Permission denied: unauthorized forwarded role, expecting: ";
const FORWARDED_ORGANIZATION_PREFIX: &str = "Permission denied: organization mismatch, expecting: ";
const FORWARDED_PEER_PREFIX: &str = "Permission denied: unauthorized forwarded peer: ";
const SECOND_REDIRECT_PREFIX: &str = "more than one redirect to leader from: ";
const RENEWAL_NODE_MISSING_SUFFIX: &str = " not found when attempting to renew certificate";
const CSR_REFUSED_PREFIX: &str = "certificate request refused: ";
const ISSUANCE_RATE_INFIX: &str = " asks for certificates too often: try again in ";
const BUSY_PREFIX: &str = "the manager is busy: try again in ";
const RATE_LIMITED_SUFFIX: &str = " exceeded rate limit count of registrations";
const DESCRIPTION_PREFIX: &str = "the node's description is too large, in bytes: ";
const DESCRIPTION_INFIX: &str = " of at most ";
const RAFT_ADDRESS_PREFIX: &str = "invalid address ";
const RAFT_ADDRESS_SUFFIX: &str = " in raft join request";
const ENGINE_NOT_PROMOTABLE_SUFFIX: &str = " is a Docker Engine and cannot be a manager of this cluster";
const REMOVAL_OF_MANAGER_SUFFIX: &str = " is a cluster manager and is a member of the raft \
     cluster. It must be demoted to worker before removal";
const REMOVAL_OF_LIVE_NODE_SUFFIX: &str = " is not down and can't be removed";
const HASH_UNSUPPORTED_PREFIX: &str = "hashing algorithm is not supported: ";

/// A code's name as Go prints it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// A status as users of the engine see it: `rpc error: code = NotFound desc = …`.
#[must_use]
pub fn rpc_text(code: Code, message: &str) -> String {
    format!("rpc error: code = {} desc = {message}", code_name(code))
}

#[cfg(test)]
mod tests;
