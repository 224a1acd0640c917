#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn node() -> NodeId {
    "x9qmrfg3w2n1zk4hj6p8stvb5".parse().unwrap()
}

fn cluster() -> ClusterId {
    "c0qmrfg3w2n1zk4hj6p8stvb5".parse().unwrap()
}

const MANAGER: [Role; 1] = [Role::Manager];

/// Every variant of [`Refusal`] at least once, with its code and exact text.
fn rows() -> Vec<(Refusal, Code, String)> {
    use Code::*;
    let wait = Duration::from_millis(250);
    let mut rows: Vec<(Refusal, Code, &str)> = vec![
        (
            Refusal::Forwarder(Unauthorized::Role { allowed: MANAGER.to_vec() }),
            PermissionDenied,
            "Permission denied: unauthorized forwarder role: Permission denied: remote certificate not part of OUs: [swarm-manager]",
        ),
        (Refusal::ForwardedIncomplete, PermissionDenied, "Permission denied: missing information in forwarded request"),
        (
            Refusal::ForwardedRole { allowed: MANAGER.to_vec() },
            PermissionDenied,
            "Permission denied: unauthorized forwarded role, expecting: [swarm-manager]",
        ),
        (
            Refusal::ForwardedRole { allowed: vec![Role::Worker, Role::Manager] },
            PermissionDenied,
            "Permission denied: unauthorized forwarded role, expecting: [swarm-worker swarm-manager]",
        ),
        (
            Refusal::ForwardedOrganization { cluster: cluster() },
            PermissionDenied,
            "Permission denied: organization mismatch, expecting: c0qmrfg3w2n1zk4hj6p8stvb5",
        ),
        (
            Refusal::ForwardedPeer(Unauthorized::Removed { node: node() }),
            PermissionDenied,
            "Permission denied: unauthorized forwarded peer: Permission denied: node x9qmrfg3w2n1zk4hj6p8stvb5 was removed from swarm",
        ),
        (
            Refusal::SecondRedirect { from: vec!["10.0.0.1:2377".into(), "10.0.0.2:2377".into()] },
            ResourceExhausted,
            "more than one redirect to leader from: [10.0.0.1:2377 10.0.0.2:2377]",
        ),
        (
            Refusal::NoLeader,
            Unknown,
            "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.",
        ),
        (Refusal::CaArgumentMissing, InvalidArgument, "InvalidArgument"),
        (Refusal::SignerStopped, Aborted, "CA signer is stopped"),
        (Refusal::SignerStarting, Aborted, "CA signer is still starting"),
        (Refusal::TokenRefused, InvalidArgument, "A valid join token is necessary to join this cluster"),
        (Refusal::TokenEnded, InvalidArgument, "this join token has ended: another one is needed to join this cluster"),
        (
            Refusal::TokenSpent,
            InvalidArgument,
            "this join token has no use left: another one is needed to join this cluster",
        ),
        (
            Refusal::TokenRevoked,
            InvalidArgument,
            "this join token was revoked: another one is needed to join this cluster",
        ),
        (
            Refusal::RenewalNodeMissing { node: node() },
            NotFound,
            "node x9qmrfg3w2n1zk4hj6p8stvb5 not found when attempting to renew certificate",
        ),
        (Refusal::CertificateMissing, NotFound, "NotFound"),
        (
            Refusal::CsrRefused { reason: "CSR Decode failed".into() },
            InvalidArgument,
            "certificate request refused: CSR Decode failed",
        ),
        (
            Refusal::EngineAsManager,
            FailedPrecondition,
            "Docker Engines join this cluster as workers: use the worker join token",
        ),
        (
            Refusal::TooManyUnfinishedJoins,
            ResourceExhausted,
            "too many joins with this token are unfinished: wait for them, or rotate the token",
        ),
        (
            Refusal::IssuanceRateExceeded { node: node(), retry_after: wait },
            ResourceExhausted,
            "node x9qmrfg3w2n1zk4hj6p8stvb5 asks for certificates too often: try again in 250 ms",
        ),
        (Refusal::IssuanceStale, Aborted, "the cluster changed while the certificate was signed: try again"),
        (Refusal::OutcomeUnknown, Aborted, "it is not known whether this was committed: send the same request again"),
        (Refusal::Busy { retry_after: wait }, Unavailable, "the manager is busy: try again in 250 ms"),
        (Refusal::SessionNodeMissing, Unknown, "node not found"),
        (Refusal::NotRegistered, NotFound, "node not registered"),
        (Refusal::SessionInvalid, InvalidArgument, "session invalid"),
        (
            Refusal::RateLimited { node: node() },
            Unavailable,
            "node x9qmrfg3w2n1zk4hj6p8stvb5 exceeded rate limit count of registrations",
        ),
        (Refusal::MustDisconnect, Aborted, "node must disconnect"),
        (Refusal::DispatcherStopped, Aborted, "dispatcher is stopped"),
        (
            Refusal::DescriptionTooLarge { bytes: 70_000, bytes_max: 65_536 },
            InvalidArgument,
            "the node's description is too large, in bytes: 70000 of at most 65536",
        ),
        (Refusal::UnknownService, NotFound, "unknown service"),
        (Refusal::RaftNotMember, FailedPrecondition, "raft: node is not yet part of a raft cluster"),
        (Refusal::LeaderLost, FailedPrecondition, "raft: failed to process the request: node lost leader status"),
        (
            Refusal::RaftAddressInvalid { address: "nowhere".into() },
            InvalidArgument,
            "invalid address nowhere in raft join request",
        ),
        (Refusal::RaftNodeMissing, InvalidArgument, "no node information provided"),
        (Refusal::ArgumentMissing, InvalidArgument, "invalid argument"),
        (Refusal::OutOfSequence, Unknown, "update out of sequence"),
        (Refusal::NodeMissing { node: "web-1".into() }, NotFound, "node web-1 not found"),
        (Refusal::ClusterMissing { cluster: "blue".into() }, NotFound, "cluster blue not found"),
        (Refusal::LastManager, FailedPrecondition, "attempting to demote the last manager of the swarm"),
        (Refusal::NotRaftMember, NotFound, "can't find manager in raft memberlist"),
        (
            Refusal::QuorumLoss,
            FailedPrecondition,
            "can't remove member from the raft: this would result in a loss of quorum",
        ),
        (
            Refusal::EngineNotPromotable { node: node() },
            FailedPrecondition,
            "node x9qmrfg3w2n1zk4hj6p8stvb5 is a Docker Engine and cannot be a manager of this cluster",
        ),
        (
            Refusal::RemovalOfManager { node: node() },
            FailedPrecondition,
            "node x9qmrfg3w2n1zk4hj6p8stvb5 is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal",
        ),
        (
            Refusal::RemovalOfLiveNode { node: node() },
            FailedPrecondition,
            "node x9qmrfg3w2n1zk4hj6p8stvb5 is not down and can't be removed",
        ),
        (Refusal::ExpiryTooShort, InvalidArgument, "minimum certificate expiry time is: 1h0m0s"),
        (Refusal::HeartbeatNegative, InvalidArgument, "heartbeat time period cannot be a negative duration"),
        (Refusal::ClusterNameFixed, InvalidArgument, "modification of cluster name is not allowed"),
        (
            Refusal::HashUnsupported { algorithm: "rot13".into() },
            InvalidArgument,
            "hashing algorithm is not supported: rot13",
        ),
        (Refusal::DeadlineExceeded, DeadlineExceeded, "context deadline exceeded"),
    ];
    let ca = [
        (
            CaUpdateRefusal::KeyWithoutCertificate,
            "if a signing CA key is provided, the signing CA cert must also be provided",
        ),
        (
            CaUpdateRefusal::RootInvalid { reason: r#"{"code":1003,"message":"Failed to parse certificate"}"#.into() },
            r#"invalid root certificates: {"code":1003,"message":"Failed to parse certificate"}"#,
        ),
        (
            CaUpdateRefusal::KeyMalformed { reason: r#"{"code":2003,"message":"Failed to parse private key"}"#.into() },
            r#"malformed private key: {"code":2003,"message":"Failed to parse private key"}"#,
        ),
        (CaUpdateRefusal::KeyMismatch, "certificate key mismatch"),
        (CaUpdateRefusal::RsaUnsupported, "unsupported RSA key parameters"),
        (CaUpdateRefusal::EcdsaUnsupported, "unsupported ECDSA key parameters"),
        (CaUpdateRefusal::KeyKindUnsupported, "unknown or unsupported certificate public key algorithm"),
        (CaUpdateRefusal::SeveralCertificates, "the desired CA certificate cannot contain multiple certificates"),
        (CaUpdateRefusal::CertificateMalformed, "could not parse the desired CA certificate"),
        (CaUpdateRefusal::ExpiresTooSoon, "CA certificate expires too soon"),
        (CaUpdateRefusal::SameKey, "Cannot update to a cert with an identical key"),
        (
            CaUpdateRefusal::ExternalCaMissing { which: WhichCa::Current },
            "there must be at least one valid, reachable external CA corresponding to the current CA certificate",
        ),
        (
            CaUpdateRefusal::ExternalCaMissing { which: WhichCa::Desired },
            "there must be at least one valid, reachable external CA corresponding to the desired CA certificate",
        ),
        (
            CaUpdateRefusal::ExternalCaMissing { which: WhichCa::Next },
            "there must be at least one valid, reachable external CA corresponding to the next CA certificate",
        ),
        (
            CaUpdateRefusal::ExternalToExternal,
            "rotating from one external CA to a different external CA is not supported",
        ),
        (
            CaUpdateRefusal::ExternalCrossSigner,
            "must provide an external CA for the current external root CA to generate a cross-signed certificate",
        ),
    ];
    rows.extend(ca.map(|(refusal, text)| (Refusal::CaUpdate(refusal), InvalidArgument, text)));
    rows.push((
        Refusal::CaUpdate(CaUpdateRefusal::CrossSigningFailed),
        Internal,
        "unable to generate a cross-signed certificate for root rotation",
    ));
    rows.push((Refusal::CaUpdate(CaUpdateRefusal::RootNotLoaded), Internal, "error loading cluster rootCA for update"));
    let mut rows: Vec<_> = rows.into_iter().map(|(refusal, code, text)| (refusal, code, text.to_owned())).collect();
    for (inner, text) in peers() {
        let text =
            format!("Permission denied: unauthorized peer role: rpc error: code = PermissionDenied desc = {text}");
        rows.push((Refusal::Peer(inner), PermissionDenied, text));
    }
    rows
}

/// Every variant of [`Unauthorized`] with its exact text.
fn peers() -> Vec<(Unauthorized, &'static str)> {
    vec![
        (Unauthorized::NoCertificate, "no client certificates in request"),
        (Unauthorized::NoVerifiedChain, "no verified chains for remote certificate"),
        (Unauthorized::NoTls, "request is not using TLS"),
        (Unauthorized::NoPeer, "Permission denied: no peer info"),
        (Unauthorized::InvalidCertificate, "Permission denied: peer didn't not present valid peer certificate"),
        (
            Unauthorized::Role { allowed: MANAGER.to_vec() },
            "Permission denied: remote certificate not part of OUs: [swarm-manager]",
        ),
        (
            Unauthorized::Removed { node: node() },
            "Permission denied: node x9qmrfg3w2n1zk4hj6p8stvb5 was removed from swarm",
        ),
        (
            Unauthorized::Organization { cluster: cluster() },
            "Permission denied: remote certificate not part of organization: c0qmrfg3w2n1zk4hj6p8stvb5",
        ),
        (
            Unauthorized::Unregistered { node: node() },
            "Permission denied: node x9qmrfg3w2n1zk4hj6p8stvb5 presented a certificate that this cluster has no record of",
        ),
        (
            Unauthorized::MustRenew { node: node() },
            "Permission denied: node x9qmrfg3w2n1zk4hj6p8stvb5 must renew its certificate first",
        ),
        (
            Unauthorized::Withdrawn { node: node() },
            "Permission denied: node x9qmrfg3w2n1zk4hj6p8stvb5 presented a certificate that was withdrawn",
        ),
        (
            Unauthorized::Revoked { node: node() },
            "Permission denied: node x9qmrfg3w2n1zk4hj6p8stvb5 presented a certificate that was revoked",
        ),
    ]
}

/// A number for each variant: without `_`, so that a new variant asks for a row.
fn number(refusal: &Refusal) -> usize {
    match refusal {
        Refusal::Peer(inner) => match inner {
            Unauthorized::NoCertificate => 0,
            Unauthorized::NoVerifiedChain => 1,
            Unauthorized::NoTls => 2,
            Unauthorized::NoPeer => 3,
            Unauthorized::InvalidCertificate => 4,
            Unauthorized::Role { .. } => 5,
            Unauthorized::Removed { .. } => 6,
            Unauthorized::Organization { .. } => 7,
            Unauthorized::Unregistered { .. } => 8,
            Unauthorized::MustRenew { .. } => 9,
            Unauthorized::Withdrawn { .. } => 10,
            Unauthorized::Revoked { .. } => 77,
        },
        Refusal::Forwarder(_) => 11,
        Refusal::ForwardedIncomplete => 12,
        Refusal::ForwardedRole { .. } => 13,
        Refusal::ForwardedOrganization { .. } => 14,
        Refusal::ForwardedPeer(_) => 15,
        Refusal::SecondRedirect { .. } => 16,
        Refusal::NoLeader => 17,
        Refusal::CaArgumentMissing => 18,
        Refusal::SignerStopped => 19,
        Refusal::SignerStarting => 20,
        Refusal::TokenRefused => 21,
        Refusal::RenewalNodeMissing { .. } => 22,
        Refusal::CertificateMissing => 23,
        Refusal::CsrRefused { .. } => 24,
        Refusal::EngineAsManager => 25,
        Refusal::TooManyUnfinishedJoins => 26,
        Refusal::IssuanceRateExceeded { .. } => 27,
        Refusal::IssuanceStale => 28,
        Refusal::Busy { .. } => 29,
        Refusal::SessionNodeMissing => 30,
        Refusal::NotRegistered => 31,
        Refusal::SessionInvalid => 32,
        Refusal::RateLimited { .. } => 33,
        Refusal::MustDisconnect => 34,
        Refusal::DispatcherStopped => 35,
        Refusal::DescriptionTooLarge { .. } => 36,
        Refusal::UnknownService => 37,
        Refusal::RaftNotMember => 38,
        Refusal::LeaderLost => 39,
        Refusal::RaftAddressInvalid { .. } => 40,
        Refusal::RaftNodeMissing => 41,
        Refusal::ArgumentMissing => 42,
        Refusal::OutOfSequence => 43,
        Refusal::NodeMissing { .. } => 44,
        Refusal::ClusterMissing { .. } => 45,
        Refusal::LastManager => 46,
        Refusal::NotRaftMember => 47,
        Refusal::QuorumLoss => 48,
        Refusal::EngineNotPromotable { .. } => 49,
        Refusal::RemovalOfManager { .. } => 50,
        Refusal::RemovalOfLiveNode { .. } => 51,
        Refusal::ExpiryTooShort => 52,
        Refusal::HeartbeatNegative => 53,
        Refusal::ClusterNameFixed => 54,
        Refusal::HashUnsupported { .. } => 55,
        Refusal::DeadlineExceeded => 56,
        Refusal::OutcomeUnknown => 73,
        Refusal::TokenEnded => 74,
        Refusal::TokenSpent => 75,
        Refusal::TokenRevoked => 76,
        Refusal::CaUpdate(inner) => match inner {
            CaUpdateRefusal::KeyWithoutCertificate => 57,
            CaUpdateRefusal::RootInvalid { .. } => 58,
            CaUpdateRefusal::KeyMalformed { .. } => 59,
            CaUpdateRefusal::KeyMismatch => 60,
            CaUpdateRefusal::RsaUnsupported => 61,
            CaUpdateRefusal::EcdsaUnsupported => 62,
            CaUpdateRefusal::KeyKindUnsupported => 63,
            CaUpdateRefusal::SeveralCertificates => 64,
            CaUpdateRefusal::CertificateMalformed => 65,
            CaUpdateRefusal::ExpiresTooSoon => 66,
            CaUpdateRefusal::SameKey => 67,
            CaUpdateRefusal::ExternalCaMissing { .. } => 68,
            CaUpdateRefusal::ExternalToExternal => 69,
            CaUpdateRefusal::ExternalCrossSigner => 70,
            CaUpdateRefusal::CrossSigningFailed => 71,
            CaUpdateRefusal::RootNotLoaded => 72,
        },
    }
}

const NUMBERS: usize = 78;

#[test]
fn every_variant_has_a_row() {
    let mut seen = [false; NUMBERS];
    for (refusal, _, _) in rows() {
        seen[number(&refusal)] = true;
    }
    let missing: Vec<usize> = (0..NUMBERS).filter(|&one| !seen[one]).collect();
    assert!(missing.is_empty(), "no row for variants {missing:?}");
}

#[test]
fn c147_to_c165_codes_and_texts_are_exact() {
    for (refusal, code, text) in rows() {
        let status = refusal.status();
        assert_eq!((status.code(), status.message()), (code, text.as_str()));
    }
}

#[test]
fn each_status_is_recognised() {
    for (refusal, code, text) in rows() {
        assert_eq!(Refusal::recognise(&Status::new(code, text)), Some(refusal));
    }
}

#[test]
fn texts_with_another_code_are_not_recognised() {
    for (_, _, text) in rows() {
        assert_eq!(Refusal::recognise(&Status::new(Code::DataLoss, text)), None);
    }
}

#[test]
fn other_texts_are_not_recognised() {
    for (code, text) in [
        (Code::PermissionDenied, "Permission denied: node  was removed from swarm"),
        (Code::PermissionDenied, "Permission denied: remote certificate not part of OUs: [root]"),
        (Code::NotFound, "node"),
        (Code::NotFound, "node  not found when attempting to renew certificate "),
        (Code::ResourceExhausted, "more than one redirect to leader from: 10.0.0.1"),
        (Code::Unavailable, "the manager is busy: try again in soon ms"),
        (Code::Unknown, ""),
    ] {
        assert_eq!(Refusal::recognise(&Status::new(code, text)), None, "{text}");
    }
}

#[test]
fn a_forwarder_refused_in_the_words_of_an_engine_is_recognised() {
    let text = "Permission denied: unauthorized forwarder role: rpc error: code = PermissionDenied desc = no client certificates in request";
    let found = Refusal::recognise(&Status::permission_denied(text));
    assert_eq!(found, Some(Refusal::Forwarder(Unauthorized::NoCertificate)));
}

#[test]
fn waits_travel_as_metadata() {
    let status = Refusal::Busy { retry_after: Duration::from_millis(1500) }.status();
    let value = status.metadata().get(RETRY_AFTER_KEY).unwrap();
    assert_eq!(value.to_str().unwrap(), "1500");
    assert!(Refusal::TokenRefused.status().metadata().is_empty());
}

#[test]
fn classes() {
    let removed = Class::Removed { node: node() };
    let rows = [
        (Refusal::Peer(Unauthorized::Removed { node: node() }), removed.clone()),
        (Refusal::ForwardedPeer(Unauthorized::Removed { node: node() }), removed.clone()),
        (Refusal::RenewalNodeMissing { node: node() }, removed),
        (
            Refusal::Peer(Unauthorized::MustRenew { node: node() }),
            Class::Unauthorized(Unauthorized::MustRenew { node: node() }),
        ),
        (Refusal::TokenRefused, Class::TokenRefused),
        (Refusal::TokenSpent, Class::TokenRefused),
        (Refusal::EngineAsManager, Class::ManagerTokenRefused),
        (Refusal::SessionInvalid, Class::SessionInvalid),
        (Refusal::NotRegistered, Class::NotRegistered),
        (Refusal::RateLimited { node: node() }, Class::RateLimited),
        (Refusal::MustDisconnect, Class::Retryable { after: None }),
        (Refusal::Forwarder(Unauthorized::NoPeer), Class::Retryable { after: None }),
        (
            Refusal::Busy { retry_after: Duration::from_millis(40) },
            Class::Retryable { after: Some(Duration::from_millis(40)) },
        ),
        (Refusal::ExpiryTooShort, Class::Final),
    ];
    for (refusal, class) in rows {
        assert_eq!(classify(&refusal.status()), class, "{refusal}");
    }
}

#[test]
fn statuses_of_strangers_are_classified_by_code() {
    for (code, class) in [
        (Code::Unimplemented, Class::Unimplemented),
        (Code::Unavailable, Class::Retryable { after: None }),
        (Code::Unknown, Class::Retryable { after: None }),
        (Code::PermissionDenied, Class::Final),
        (Code::InvalidArgument, Class::Final),
    ] {
        assert_eq!(classify(&Status::new(code, "something else")), class);
    }
}

#[test]
fn rpc_texts_are_as_users_know_them() {
    assert_eq!(
        rpc_text(Code::NotFound, "can't find manager in raft memberlist"),
        "rpc error: code = NotFound desc = can't find manager in raft memberlist"
    );
    assert_eq!(code_name(Code::Cancelled), "Canceled");
}
