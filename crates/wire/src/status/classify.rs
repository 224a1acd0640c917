//! What a status means to a node: what to do next, not what was said.

use std::time::Duration;

use pki::identity::NodeId;
use tonic::{Code, Status};

use super::{RETRY_AFTER_KEY, Refusal, Unauthorized};

/// How long a node that registered too often waits.
/// Source: wire.md 6.2, the counter is reset when more than 8 s passed since the last accepted registration.
pub const REGISTRATION_PAUSE: Duration = Duration::from_secs(8);

/// What a status means to the node that gets it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Class {
    /// The node was removed from the cluster: final, stop and say so.
    Removed {
        /// The node, as the manager names it.
        node: NodeId,
    },
    /// The certificate is refused for another reason: renewing it may help ([`Unauthorized::MustRenew`]), trying again
    /// with it does not.
    Unauthorized(Unauthorized),
    /// No valid join token: final for a joiner. To a node that renews it says that its certificate counts for nothing.
    TokenRefused,
    /// The manager token admits nobody of this kind: an engine.
    ManagerTokenRefused,
    /// The CSR is refused: final for this key.
    CsrRefused {
        /// The manager's words.
        reason: String,
    },
    /// The session is over: register again.
    SessionInvalid,
    /// The manager has no session of this node: register again.
    NotRegistered,
    /// Registered too often: wait [`REGISTRATION_PAUSE`].
    RateLimited,
    /// The other side does not know the method.
    Unimplemented,
    /// Try again, perhaps with another manager.
    Retryable {
        /// When, if the manager said so.
        after: Option<Duration>,
    },
    /// Trying again the same way gives the same answer.
    Final,
}

/// What a status means to the node that gets it.
#[must_use]
pub fn classify(status: &Status) -> Class {
    match Refusal::recognise(status) {
        Some(refusal) => of_refusal(refusal),
        None => of_code(status),
    }
}

fn of_refusal(refusal: Refusal) -> Class {
    let retry_after = refusal.retry_after();
    match refusal {
        Refusal::Peer(Unauthorized::Removed { node }) | Refusal::ForwardedPeer(Unauthorized::Removed { node }) => {
            Class::Removed { node }
        }
        // The record is gone, and so is its removal: that is kept only until the last leaf has ended.
        Refusal::RenewalNodeMissing { node } => Class::Removed { node },
        Refusal::Peer(reason) | Refusal::ForwardedPeer(reason) => Class::Unauthorized(reason),
        // The fault is the manager's that forwarded; another may do better.
        Refusal::Forwarder(_) | Refusal::SecondRedirect { .. } | Refusal::NoLeader => Class::Retryable { after: None },
        Refusal::TokenRefused | Refusal::TokenEnded | Refusal::TokenSpent | Refusal::TokenRevoked => {
            Class::TokenRefused
        }
        Refusal::EngineAsManager => Class::ManagerTokenRefused,
        Refusal::CsrRefused { reason } => Class::CsrRefused { reason },
        Refusal::NotRegistered => Class::NotRegistered,
        Refusal::SessionInvalid => Class::SessionInvalid,
        Refusal::RateLimited { .. } => Class::RateLimited,
        Refusal::SignerStopped
        | Refusal::SignerStarting
        | Refusal::IssuanceStale
        | Refusal::OutcomeUnknown
        | Refusal::TooManyUnfinishedJoins
        | Refusal::IssuanceRateExceeded { .. }
        | Refusal::Busy { .. }
        | Refusal::SessionNodeMissing
        | Refusal::CertificateMissing
        | Refusal::MustDisconnect
        | Refusal::DispatcherStopped
        | Refusal::RaftNotMember
        | Refusal::LeaderLost
        | Refusal::OutOfSequence
        | Refusal::DeadlineExceeded => Class::Retryable { after: retry_after },
        Refusal::ForwardedIncomplete
        | Refusal::ForwardedRole { .. }
        | Refusal::ForwardedOrganization { .. }
        | Refusal::CaArgumentMissing
        | Refusal::DescriptionTooLarge { .. }
        | Refusal::UnknownService
        | Refusal::RaftAddressInvalid { .. }
        | Refusal::RaftNodeMissing
        | Refusal::ArgumentMissing
        | Refusal::NodeMissing { .. }
        | Refusal::ClusterMissing { .. }
        | Refusal::LastManager
        | Refusal::NotRaftMember
        | Refusal::QuorumLoss
        | Refusal::EngineNotPromotable { .. }
        | Refusal::RemovalOfManager { .. }
        | Refusal::RemovalOfLiveNode { .. }
        | Refusal::ExpiryTooShort
        | Refusal::HeartbeatNegative
        | Refusal::ClusterNameFixed
        | Refusal::HashUnsupported { .. }
        | Refusal::CaUpdate(_) => Class::Final,
    }
}

fn of_code(status: &Status) -> Class {
    match status.code() {
        Code::Unimplemented => Class::Unimplemented,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Class::Retryable { after: pushback(status) },
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated => Class::Final,
    }
}

fn pushback(status: &Status) -> Option<Duration> {
    let value = status.metadata().get(RETRY_AFTER_KEY)?.to_str().ok()?;
    value.parse().ok().map(Duration::from_millis)
}
