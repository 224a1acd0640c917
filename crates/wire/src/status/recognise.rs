//! From a status back to the refusal it tells. Engines' texts are recognised as well as ours.

use std::time::Duration;

use pki::identity::NodeId;
use tonic::Status;

use super::ca_update::CaUpdateRefusal;
use super::unauthorized::{Unauthorized, parse_roles};
use super::*;

/// What Go puts before a status that it prints inside another text.
const NESTED_PREFIX: &str = "rpc error: code = PermissionDenied desc = ";

impl Refusal {
    /// The refusal that a status tells: code and text must both fit.
    #[must_use]
    pub fn recognise(status: &Status) -> Option<Refusal> {
        let found = from_text(status.code(), status.message())?;
        (found.code() == status.code()).then_some(found)
    }
}

fn from_text(code: Code, text: &str) -> Option<Refusal> {
    let fixed = [
        Refusal::ForwardedIncomplete,
        Refusal::NoLeader,
        Refusal::CaArgumentMissing,
        Refusal::SignerStopped,
        Refusal::SignerStarting,
        Refusal::TokenRefused,
        Refusal::TokenEnded,
        Refusal::TokenSpent,
        Refusal::TokenRevoked,
        Refusal::CertificateMissing,
        Refusal::EngineAsManager,
        Refusal::TooManyUnfinishedJoins,
        Refusal::IssuanceStale,
        Refusal::OutcomeUnknown,
        Refusal::SessionNodeMissing,
        Refusal::NotRegistered,
        Refusal::SessionInvalid,
        Refusal::MustDisconnect,
        Refusal::DispatcherStopped,
        Refusal::UnknownService,
        Refusal::RaftNotMember,
        Refusal::LeaderLost,
        Refusal::RaftNodeMissing,
        Refusal::ArgumentMissing,
        Refusal::OutOfSequence,
        Refusal::LastManager,
        Refusal::NotRaftMember,
        Refusal::QuorumLoss,
        Refusal::ExpiryTooShort,
        Refusal::HeartbeatNegative,
        Refusal::ClusterNameFixed,
        Refusal::DeadlineExceeded,
    ];
    if let Some(found) = fixed.into_iter().find(|one| one.code() == code && one.to_string() == text) {
        return Some(found);
    }
    match code {
        Code::PermissionDenied => denied(text),
        Code::InvalidArgument => invalid(text),
        Code::NotFound => missing(text),
        Code::FailedPrecondition => precondition(text),
        Code::ResourceExhausted => exhausted(text),
        Code::Unavailable => unavailable(text),
        Code::Internal => CaUpdateRefusal::recognise(text).map(Refusal::CaUpdate),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => None,
    }
}

fn denied(text: &str) -> Option<Refusal> {
    if let Some(inner) = text.strip_prefix(PEER_PREFIX) {
        return Unauthorized::recognise(inner).map(Refusal::Peer);
    }
    if let Some(inner) = text.strip_prefix(FORWARDER_PREFIX) {
        let inner = inner.strip_prefix(NESTED_PREFIX).unwrap_or(inner);
        return Unauthorized::recognise(inner).map(Refusal::Forwarder);
    }
    if let Some(inner) = text.strip_prefix(FORWARDED_PEER_PREFIX) {
        return Unauthorized::recognise(inner).map(Refusal::ForwardedPeer);
    }
    if let Some(roles) = text.strip_prefix(FORWARDED_ROLE_PREFIX) {
        return Some(Refusal::ForwardedRole { allowed: parse_roles(roles)? });
    }
    let cluster = text.strip_prefix(FORWARDED_ORGANIZATION_PREFIX)?;
    Some(Refusal::ForwardedOrganization { cluster: cluster.parse().ok()? })
}

fn invalid(text: &str) -> Option<Refusal> {
    if let Some(reason) = text.strip_prefix(CSR_REFUSED_PREFIX) {
        return Some(Refusal::CsrRefused { reason: reason.to_owned() });
    }
    if let Some(algorithm) = text.strip_prefix(HASH_UNSUPPORTED_PREFIX) {
        return Some(Refusal::HashUnsupported { algorithm: algorithm.to_owned() });
    }
    if let Some(sizes) = text.strip_prefix(DESCRIPTION_PREFIX) {
        let (bytes, bytes_max) = sizes.split_once(DESCRIPTION_INFIX)?;
        return Some(Refusal::DescriptionTooLarge { bytes: bytes.parse().ok()?, bytes_max: bytes_max.parse().ok()? });
    }
    if let Some(address) = between(text, RAFT_ADDRESS_PREFIX, RAFT_ADDRESS_SUFFIX) {
        return Some(Refusal::RaftAddressInvalid { address: address.to_owned() });
    }
    CaUpdateRefusal::recognise(text).map(Refusal::CaUpdate)
}

fn missing(text: &str) -> Option<Refusal> {
    if let Some(node) = node_before(text, RENEWAL_NODE_MISSING_SUFFIX) {
        return Some(Refusal::RenewalNodeMissing { node });
    }
    if let Some(node) = between(text, "node ", " not found") {
        return Some(Refusal::NodeMissing { node: node.to_owned() });
    }
    let cluster = between(text, "cluster ", " not found")?;
    Some(Refusal::ClusterMissing { cluster: cluster.to_owned() })
}

fn precondition(text: &str) -> Option<Refusal> {
    if let Some(node) = node_before(text, ENGINE_NOT_PROMOTABLE_SUFFIX) {
        return Some(Refusal::EngineNotPromotable { node });
    }
    if let Some(node) = node_before(text, REMOVAL_OF_MANAGER_SUFFIX) {
        return Some(Refusal::RemovalOfManager { node });
    }
    node_before(text, REMOVAL_OF_LIVE_NODE_SUFFIX).map(|node| Refusal::RemovalOfLiveNode { node })
}

fn exhausted(text: &str) -> Option<Refusal> {
    if let Some(list) = text.strip_prefix(SECOND_REDIRECT_PREFIX) {
        let list = list.strip_prefix('[')?.strip_suffix(']')?;
        let from = list.split(' ').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        return Some(Refusal::SecondRedirect { from });
    }
    let (node, wait) = text.split_once(ISSUANCE_RATE_INFIX)?;
    Some(Refusal::IssuanceRateExceeded { node: node.strip_prefix("node ")?.parse().ok()?, retry_after: millis(wait)? })
}

fn unavailable(text: &str) -> Option<Refusal> {
    if let Some(wait) = text.strip_prefix(BUSY_PREFIX) {
        return Some(Refusal::Busy { retry_after: millis(wait)? });
    }
    node_before(text, RATE_LIMITED_SUFFIX).map(|node| Refusal::RateLimited { node })
}

fn millis(text: &str) -> Option<Duration> {
    text.strip_suffix(" ms")?.parse().ok().map(Duration::from_millis)
}

fn between<'t>(text: &'t str, prefix: &str, suffix: &str) -> Option<&'t str> {
    text.strip_prefix(prefix)?.strip_suffix(suffix)
}

fn node_before(text: &str, suffix: &str) -> Option<NodeId> {
    between(text, "node ", suffix)?.parse().ok()
}
