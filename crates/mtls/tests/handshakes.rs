//! Handshakes in memory, both sides, with certificates made by another library.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use authority::{AFTER, AFTER_DAYS, BEFORE, BEFORE_DAYS, NOW, Node, Root, bundle};
use pki::identity::Role;
use pki::time::Time;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore};
use swarmpki_mtls::{
    AcceptError, Accepted, CallerAnchors, ChainFault, ConnectError, Connected, Expect, Live, ManagerName, PeerAlert,
    Publisher, Rejected, connect_pinned, connect_unverified,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn days(count: u64) -> Duration {
    DAY * u32::try_from(count).unwrap()
}

fn pipe() -> (DuplexStream, DuplexStream) {
    duplex(64 * 1024)
}

/// A published identity.
fn live(identity: swarmpki_mtls::Identity) -> (Publisher, Live) {
    let (publisher, live) = Publisher::new();
    publisher.publish(identity, NOW).unwrap();
    (publisher, live)
}

type Met = (Result<Accepted<DuplexStream>, AcceptError>, Result<Connected<DuplexStream>, ConnectError>);

async fn meet_at(server: &Live, server_time: Time, client: &Live, client_time: Time) -> Met {
    let ((near, far), as_manager) = (pipe(), Expect::manager());
    tokio::join!(server.accept(near, server_time, &[]), client.connect(far, &as_manager, client_time))
}

async fn meet(server: &Live, client: &Live) -> Met {
    meet_at(server, NOW, client, NOW).await
}

/// Sends a word each way.
async fn talk(server: &mut Accepted<DuplexStream>, client: &mut Connected<DuplexStream>) {
    client.stream.write_all(b"ask").await.unwrap();
    client.stream.flush().await.unwrap();
    let mut word = [0; 3];
    server.stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ask");
    server.stream.write_all(b"yes").await.unwrap();
    server.stream.flush().await.unwrap();
    client.stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"yes");
}

/// What a client learns, after its handshake, of its refusal.
async fn refusal(connected: Result<Connected<DuplexStream>, ConnectError>) -> ConnectError {
    let mut connected = match connected {
        Ok(connected) => connected,
        Err(error) => return error,
    };
    let last = connected.stream.last_error();
    assert!(last.get().is_none());
    let mut byte = [0; 1];
    connected.stream.read_exact(&mut byte).await.unwrap_err();
    last.get().unwrap()
}

fn accepted(met: Met) -> (Accepted<DuplexStream>, Connected<DuplexStream>) {
    (met.0.unwrap(), met.1.unwrap())
}

fn peer_fault(outcome: Result<Accepted<DuplexStream>, AcceptError>) -> ChainFault {
    match outcome {
        Err(AcceptError::Peer(fault)) => fault,
        other => panic!("the server said {other:?}"),
    }
}

fn server_fault(outcome: Result<Connected<DuplexStream>, ConnectError>) -> ChainFault {
    match outcome {
        Err(ConnectError::Peer(fault)) => fault,
        other => panic!("the client said {other:?}"),
    }
}

#[tokio::test]
async fn anonymous_and_identified_peers() {
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (_p, client) = live(Node::worker("w1").identity(&root, &[], &[&root]));

    let (near, far) = pipe();
    let trust = bundle(&[&root]);
    let (served, joined) =
        tokio::join!(server.accept(near, NOW, &[]), connect_pinned(far, &trust, ManagerName::Ca, NOW));
    let (mut served, mut joined) = (served.unwrap(), joined.unwrap());
    talk(&mut served, &mut joined).await;
    assert_eq!(served.peer, None);
    assert_eq!(served.sni.as_deref(), Some("swarm-ca"));
    assert_eq!(joined.peer.subject.node.as_str(), "m1");

    let (mut served, mut called) = accepted(meet(&server, &client).await);
    talk(&mut served, &mut called).await;
    assert_eq!(served.sni.as_deref(), Some("swarm-manager"));
    let peer = served.peer.unwrap();
    let leaf = client.current().unwrap().chain()[0].clone();
    assert_eq!((peer.subject.node.as_str(), peer.subject.role), ("w1", Role::Worker));
    assert_eq!(peer.subject.cluster.as_str(), "cluster-1");
    assert_eq!((peer.serial, peer.spki), (leaf.serial(), leaf.spki_hash()));
    assert_eq!((peer.not_before, peer.not_after), (leaf.not_before(), leaf.not_after()));
    assert_eq!(peer.issuer, root.certificate.issuer_id());
    assert!(!peer.expired);
}

#[tokio::test]
async fn what_is_negotiated() {
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (_p, client) = live(Node::worker("w1").identity(&root, &[], &[&root]));
    let (served, called) = accepted(meet(&server, &client).await);
    let state = served.stream.get_ref().1;
    assert_eq!(state.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(state.alpn_protocol(), Some(b"h2".as_slice()));
    let suite = state.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    assert_eq!(state.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(called.stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
}

#[tokio::test]
async fn rotation_step_by_step() {
    let (old, new) = (Root::new(), Root::new());
    let crossed = new.crossed_by(&old);
    let manager = Node::manager("m1");
    let worker = Node::worker("w1");
    let (server_side, server) = live(manager.identity(&old, &[], &[&old]));
    let (client_side, client) = live(worker.identity(&old, &[], &[&old]));
    let publish = |side: &Publisher, identity| side.publish(identity, NOW).unwrap();

    // A leaf of the new root alone is refused, and the client learns why.
    publish(&client_side, worker.identity(&new, &[], &[&old, &new]));
    let (served, called) = meet(&server, &client).await;
    assert_eq!(peer_fault(served), ChainFault::UnknownAuthority);
    let told = refusal(called).await;
    assert!(matches!(told, ConnectError::Refused(PeerAlert::UnknownAuthority)), "{told:?}");

    // With the cross-certificate it is accepted, and its issuer is the new root.
    publish(&client_side, worker.identity(&new, std::slice::from_ref(&crossed), &[&old]));
    assert_eq!(client.current().unwrap().issuer(), &new.certificate.issuer_id());
    let (served, _called) = accepted(meet(&server, &client).await);
    assert_eq!(served.peer.unwrap().issuer, new.certificate.issuer_id());

    // The server changes to the new root; the client trusts the old one only.
    publish(&server_side, manager.identity(&new, std::slice::from_ref(&crossed), &[&old]));
    let (_served, called) = accepted(meet(&server, &client).await);
    assert_eq!(called.peer.issuer, new.certificate.issuer_id());

    // Both trust both.
    publish(&server_side, manager.identity(&new, std::slice::from_ref(&crossed), &[&old, &new]));
    publish(&client_side, worker.identity(&new, std::slice::from_ref(&crossed), &[&old, &new]));
    accepted(meet(&server, &client).await);

    // Both trust the new one only.
    publish(&server_side, manager.identity(&new, &[], &[&new]));
    publish(&client_side, worker.identity(&new, &[], &[&new]));
    accepted(meet(&server, &client).await);

    // A leaf of the old root is refused, unless the old root is an extra anchor.
    publish(&client_side, worker.identity(&old, &[], &[&old, &new]));
    let (served, called) = meet(&server, &client).await;
    assert_eq!(peer_fault(served), ChainFault::UnknownAuthority);
    let told = refusal(called).await;
    assert!(matches!(told, ConnectError::Refused(PeerAlert::UnknownAuthority)), "{told:?}");
    let (near, far) = pipe();
    let as_manager = Expect::manager();
    let stragglers = [old.certificate.clone()];
    let (served, _called) = tokio::join!(server.accept(near, NOW, &stragglers), client.connect(far, &as_manager, NOW));
    assert_eq!(served.unwrap().peer.unwrap().issuer, old.certificate.issuer_id());

    // The same anchors made once, for two handshakes; who is named twice counts once.
    let further = [new.certificate.clone(), old.certificate.clone(), old.certificate.clone()];
    let anchors = CallerAnchors::of(&server.current().unwrap(), &further).unwrap();
    assert_eq!(format!("{anchors:?}"), "CallerAnchors(2)");
    for _ in 0..2 {
        let (near, far) = pipe();
        let served = server.accept_from(near, NOW, anchors.clone());
        let (served, _called) = tokio::join!(served, client.connect(far, &as_manager, NOW));
        assert_eq!(served.unwrap().peer.unwrap().issuer, old.certificate.issuer_id());
    }
}

#[tokio::test]
async fn c102_a_self_named_intermediate_without_key_identifier_is_accepted() {
    let (old, new) = (Root::new(), Root::new());
    let crossed = new.crossed_by(&old);
    let (_p, server) = live(Node::manager("m1").identity(&new, &[crossed], &[&old]));
    let (_p, client) = live(Node::worker("w1").identity(&old, &[], &[&old]));
    let (mut served, mut called) = accepted(meet(&server, &client).await);
    talk(&mut served, &mut called).await;
}

#[tokio::test]
async fn c157_a_certificate_of_an_unrelated_root_is_refused() {
    let (ours, theirs) = (Root::new(), Root::new());
    let (_p, server) = live(Node::manager("m1").identity(&ours, &[], &[&ours]));
    let (_p, client) = live(Node::worker("w1").identity(&theirs, &[], &[&theirs, &ours]));
    let (served, called) = meet(&server, &client).await;
    assert_eq!(peer_fault(served), ChainFault::UnknownAuthority);
    let told = refusal(called).await;
    assert!(matches!(told, ConnectError::Refused(PeerAlert::UnknownAuthority)), "{told:?}");

    let (_p, client) = live(Node::worker("w1").identity(&theirs, &[], &[&theirs]));
    let (served, called) = meet(&server, &client).await;
    assert_eq!(server_fault(called), ChainFault::UnknownAuthority);
    let told = served.unwrap_err();
    assert!(matches!(told, AcceptError::Refused(PeerAlert::UnknownAuthority)), "{told:?}");
}

#[tokio::test]
async fn an_expired_leaf_passes_marked_and_an_expired_server_does_not_pass() {
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (_p, client) = live(Node::worker("w1").identity(&root, &[], &[&root]));

    let (served, called) = meet_at(&server, AFTER, &client, NOW).await;
    assert!(served.unwrap().peer.unwrap().expired);
    assert!(called.is_ok());

    let (_served, called) = meet_at(&server, NOW, &client, AFTER).await;
    match server_fault(called) {
        ChainFault::Expired { by } => assert_eq!(by.as_secs() / DAY.as_secs(), AFTER_DAYS),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_expired_server_passes_with_our_own_key_and_with_no_other() {
    let (root, other_root) = (Root::new(), Root::new());
    let (_p, own) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (_p, twin) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (_p, foreign) = live(Node::manager("m1").identity(&other_root, &[], &[&other_root]));
    let key = |live: &Live| live.current().unwrap().spki();
    let rows = [
        // (server, own key, whether it passes)
        (&own, key(&own), true),
        (&twin, key(&own), false),
        (&own, None, false),
        (&foreign, key(&foreign), false),
    ];
    for (n, (server, ours, passes)) in rows.into_iter().enumerate() {
        let (near, far) = pipe();
        let expect = Expect::manager().or_own(ours);
        let (_served, called) = tokio::join!(server.accept(near, AFTER, &[]), own.connect(far, &expect, AFTER));
        match called {
            Ok(connected) => assert!(passes && connected.peer.expired, "row {n}"),
            Err(error) => assert!(!passes, "row {n}: {error}"),
        }
    }
    // Before its end it is a manager as any other, and so is every other.
    let expect = Expect::manager().or_own(key(&own));
    let (near, far) = pipe();
    let (_served, called) = tokio::join!(twin.accept(near, NOW, &[]), own.connect(far, &expect, NOW));
    assert!(!called.unwrap().peer.expired);
}

#[tokio::test]
async fn an_expired_leaf_of_a_stranger_is_a_strangers() {
    let (ours, theirs) = (Root::new(), Root::new());
    let (_p, server) = live(Node::manager("m1").identity(&ours, &[], &[&ours]));
    let (_p, client) = live(Node::worker("w1").identity(&theirs, &[], &[&theirs, &ours]));
    let (served, _called) = meet_at(&server, AFTER, &client, NOW).await;
    assert_eq!(peer_fault(served), ChainFault::UnknownAuthority);
    let (_p, client) = live(Node::worker("w1").identity(&theirs, &[], &[&theirs]));
    let (_served, called) = meet_at(&server, NOW, &client, AFTER).await;
    assert_eq!(server_fault(called), ChainFault::UnknownAuthority);
}

#[tokio::test]
async fn clocks_that_are_behind_say_by_how_much() {
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (_p, client) = live(Node::worker("w1").identity(&root, &[], &[&root]));
    let by = days(BEFORE_DAYS);
    let (_served, called) = meet_at(&server, NOW, &client, BEFORE).await;
    assert_eq!(server_fault(called), ChainFault::NotYetValid { by });
    let (served, _called) = meet_at(&server, BEFORE, &client, NOW).await;
    assert_eq!(peer_fault(served), ChainFault::NotYetValid { by });
}

#[tokio::test]
async fn managers_are_known_by_name_role_cluster_and_id() {
    let root = Root::new();
    let (_p, client) = live(Node::worker("w1").identity(&root, &[], &[&root]));
    let fault = async |node: Node| {
        let (_p, server) = live(node.identity(&root, &[], &[&root]));
        server_fault(meet(&server, &client).await.1)
    };

    let worker = fault(Node::worker("w2")).await;
    assert!(matches!(worker, ChainFault::NameMismatch { ref expected, .. } if expected == "swarm-manager"));
    let posing = Node { ou: Some("swarm-worker"), ..Node::manager("w2") };
    let expected = ChainFault::OtherRole { expected: Role::Manager, found: Role::Worker };
    assert_eq!(fault(posing).await, expected);
    let foreign = Node { cluster: "cluster-2", ..Node::manager("m2") };
    let expected =
        ChainFault::OtherCluster { expected: "cluster-1".parse().unwrap(), found: "cluster-2".parse().unwrap() };
    assert_eq!(fault(foreign).await, expected);

    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    for (wanted, good) in [("m1", true), ("m2", false)] {
        let (near, far) = pipe();
        let expect = Expect { node: Some(wanted.parse().unwrap()), ..Expect::manager() };
        let (_served, called) = tokio::join!(server.accept(near, NOW, &[]), client.connect(far, &expect, NOW));
        assert_eq!(called.is_ok(), good, "{wanted}");
    }
}

#[tokio::test]
async fn c150_a_node_of_another_cluster_under_our_root_is_left_to_authorization() {
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let stranger = Node { cluster: "cluster-2", ..Node::worker("w9") };
    let (near, far) = pipe();
    let config = raw_client(&root, |builder| presenting(builder, &stranger, &root));
    let (served, called) = tokio::join!(server.accept(near, NOW, &[]), raw_connect(config, far));
    called.unwrap();
    assert_eq!(served.unwrap().peer.unwrap().subject.cluster.as_str(), "cluster-2");
}

#[tokio::test]
async fn open_connections_keep_their_identity_and_new_ones_have_the_new() {
    let root = Root::new();
    let (server_side, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (client_side, client) = live(Node::worker("w1").identity(&root, &[], &[&root]));
    let mut generations = client.changed();
    assert_eq!(*generations.borrow_and_update(), 1);

    let (mut served, mut called) = accepted(meet(&server, &client).await);
    let before = served.peer.clone().unwrap().serial;
    client_side.publish(Node::worker("w1").identity(&root, &[], &[&root]), NOW).unwrap();
    server_side.publish(Node::manager("m1").identity(&root, &[], &[&root]), NOW).unwrap();
    assert!(generations.has_changed().unwrap());
    assert_eq!(*generations.borrow_and_update(), 2);
    assert_eq!(client.current().unwrap().generation(), 2);

    talk(&mut served, &mut called).await;
    let (mut served, mut called) = accepted(meet(&server, &client).await);
    talk(&mut served, &mut called).await;
    let after = served.peer.unwrap().serial;
    assert_ne!(before, after);
    assert_eq!(after, client.current().unwrap().chain()[0].serial());
}

#[tokio::test]
async fn bad_candidates_are_rejected_and_change_nothing() {
    let (root, other) = (Root::new(), Root::new());
    let node = Node::worker("w1");
    let (publisher, live) = live(node.identity(&root, &[], &[&root]));
    let rejected = |identity, now| {
        let error = publisher.publish(identity, now).unwrap_err();
        assert_eq!(live.current().unwrap().generation(), 1);
        error
    };

    let good = || node.identity(&root, &[], &[&root]);
    let unknown = rejected(node.identity(&other, &[], &[&root]), NOW);
    assert_eq!(unknown, Rejected::Chain(ChainFault::UnknownAuthority));
    let early = rejected(good(), BEFORE);
    assert_eq!(early, Rejected::Chain(ChainFault::NotYetValid { by: days(BEFORE_DAYS) }));
    let mismatch = swarmpki_mtls::Identity { key: good().key, ..good() };
    assert_eq!(rejected(mismatch, NOW), Rejected::KeyMismatch);
    let empty = swarmpki_mtls::Identity { chain: Vec::new(), ..good() };
    assert_eq!(rejected(empty, NOW), Rejected::Empty);
    for usages in [vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth], vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth]] {
        let half = Node { usages, ..Node::worker("w1") };
        let error = rejected(half.identity(&root, &[], &[&root]), NOW);
        assert!(matches!(error, Rejected::Chain(ChainFault::Unusable(_))), "{error:?}");
    }

    publisher.publish(good(), AFTER).unwrap();
    assert_eq!(live.current().unwrap().generation(), 2);
}

#[tokio::test]
async fn c146_a_subject_that_names_no_node_is_no_identity_and_no_peer() {
    let root = Root::new();
    let nobody = Node { ou: None, ..Node::worker("w1") };
    let (publisher, unpublished) = Publisher::new();
    let error = publisher.publish(nobody.identity(&root, &[], &[&root]), NOW).unwrap_err();
    assert_eq!(error.to_string(), "no OU found in certificate subject");
    assert!(unpublished.current().is_none());

    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (near, far) = pipe();
    let config = raw_client(&root, |builder| presenting(builder, &nobody, &root));
    let (served, _) = tokio::join!(server.accept(near, NOW, &[]), raw_connect(config, far));
    assert!(matches!(peer_fault(served), ChainFault::NotANode(_)));
}

#[tokio::test]
async fn before_the_first_publication_nothing_is_served_or_dialled() {
    let (_publisher, live) = Publisher::new();
    let (near, far) = pipe();
    let served = live.accept(near, NOW, &[]).await.unwrap_err();
    assert!(matches!(served, AcceptError::NoIdentity));
    let called = live.connect(far, &Expect::manager(), NOW).await.unwrap_err();
    assert!(matches!(called, ConnectError::NoIdentity));
    assert_eq!(*live.changed().borrow(), 0);
}

#[tokio::test]
async fn the_unverified_connection_says_no_name_and_takes_any_certificate() {
    let root = Root::new();
    let (_p, server) = live(Node::worker("w1").identity(&root, &[], &[&root]));
    let (near, far) = pipe();
    let (served, called) = tokio::join!(server.accept(near, AFTER, &[]), connect_unverified(far));
    called.unwrap();
    let served = served.unwrap();
    assert_eq!((served.sni, served.peer), (None, None));
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

/// A client made of plain rustls: verifies by `root`, keeps tickets, offers no ALPN.
fn raw_client(root: &Root, finish: impl FnOnce(Builder) -> ClientConfig) -> ClientConfig {
    raw_client_of(root, rustls::DEFAULT_VERSIONS, finish)
}

fn raw_client_of(
    root: &Root,
    versions: &[&'static rustls::SupportedProtocolVersion],
    finish: impl FnOnce(Builder) -> ClientConfig,
) -> ClientConfig {
    raw_client_with(root, rustls::crypto::aws_lc_rs::default_provider(), versions, finish)
}

fn raw_client_with(
    root: &Root,
    provider: rustls::crypto::CryptoProvider,
    versions: &[&'static rustls::SupportedProtocolVersion],
    finish: impl FnOnce(Builder) -> ClientConfig,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(root.certificate.der().to_vec().into()).unwrap();
    // `ALL_VERSIONS` with suites of one version only is fine: rustls leaves out the other.
    let builder = ClientConfig::builder_with_details(Arc::new(provider), Arc::new(FixedTime))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    finish(builder)
}

fn presenting(builder: Builder, node: &Node, root: &Root) -> ClientConfig {
    let (leaf, key) = node.issued_by(root);
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.pkcs8_der().expose().to_vec()).unwrap();
    builder.with_client_auth_cert(vec![leaf.der().to_vec().into()], key).unwrap()
}

#[derive(Debug)]
struct FixedTime;

impl rustls::time_provider::TimeProvider for FixedTime {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        let secs = u64::try_from(NOW.unix_secs()).unwrap();
        Some(rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(secs)))
    }
}

async fn raw_connect(
    config: impl Into<Arc<ClientConfig>>,
    io: DuplexStream,
) -> std::io::Result<tokio_rustls::client::TlsStream<DuplexStream>> {
    let name = ServerName::try_from("swarm-manager").unwrap();
    TlsConnector::from(config.into()).connect(name, io).await
}

#[tokio::test]
async fn c100_a_client_without_alpn_is_served() {
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (near, far) = pipe();
    let config = raw_client(&root, Builder::with_no_client_auth);
    let (served, called) = tokio::join!(server.accept(near, NOW, &[]), raw_connect(config, far));
    assert_eq!(called.unwrap().get_ref().1.alpn_protocol(), None);
    assert_eq!(served.unwrap().stream.get_ref().1.alpn_protocol(), None);
}

#[tokio::test]
async fn c101_a_manager_that_negotiates_no_alpn_is_spoken_to() {
    let root = Root::new();
    let (leaf, key) = Node::manager("m1").issued_by(&root);
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.pkcs8_der().expose().to_vec()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().to_vec().into()], key)
        .unwrap();
    let (_p, client) = live(Node::worker("w1").identity(&root, &[], &[&root]));
    let (near, far) = pipe();
    let expect = Expect::manager();
    let (served, called) =
        tokio::join!(TlsAcceptor::from(Arc::new(config)).accept(near), client.connect(far, &expect, NOW));
    served.unwrap();
    assert_eq!(called.unwrap().stream.get_ref().1.alpn_protocol(), None);
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        // Willing to resume: it keeps every ticket and session id that it is given.
        let config = Arc::new(raw_client_of(&root, &[version], Builder::with_no_client_auth));
        for _ in 0..3 {
            let (near, far) = pipe();
            let (served, called) = tokio::join!(server.accept(near, NOW, &[]), raw_connect(config.clone(), far));
            let (mut served, mut called) = (served.unwrap(), called.unwrap());
            assert_eq!(served.stream.get_ref().1.protocol_version(), Some(version.version));
            // Tickets of TLS 1.3 come with the first bytes.
            served.stream.write_all(b"x").await.unwrap();
            served.stream.flush().await.unwrap();
            called.read_u8().await.unwrap();
            let full = Some(HandshakeKind::Full);
            let kind = served.stream.get_ref().1.handshake_kind();
            // The post-quantum share is sent at once, so there is no second hello either.
            assert_eq!((kind, called.get_ref().1.handshake_kind()), (full, full));
            assert_eq!(called.get_ref().1.tls13_tickets_received(), 0);
        }
    }
    let (_p, client) = live(Node::worker("w1").identity(&root, &[], &[&root]));
    for _ in 0..2 {
        let (served, called) = accepted(meet(&server, &client).await);
        for kind in [served.stream.get_ref().1.handshake_kind(), called.stream.get_ref().1.handshake_kind()] {
            assert_eq!(kind, Some(HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn every_suite_of_the_protocol_is_accepted() {
    use rustls::CipherSuite as Suite;
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    // RSA suites need an RSA certificate; the server's here is ECDSA.
    for wanted in [
        Suite::TLS13_AES_256_GCM_SHA384,
        Suite::TLS13_AES_128_GCM_SHA256,
        Suite::TLS13_CHACHA20_POLY1305_SHA256,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        Suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ] {
        for group in [NamedGroup::X25519, NamedGroup::secp256r1] {
            let mut provider = rustls::crypto::aws_lc_rs::default_provider();
            provider.cipher_suites.retain(|one| one.suite() == wanted);
            provider.kx_groups.retain(|one| one.name() == group);
            let config = raw_client_with(&root, provider, rustls::ALL_VERSIONS, Builder::with_no_client_auth);
            let (near, far) = pipe();
            let (served, called) = tokio::join!(server.accept(near, NOW, &[]), raw_connect(config, far));
            called.unwrap();
            let served = served.unwrap();
            let state = served.stream.get_ref().1;
            assert_eq!(state.negotiated_cipher_suite().unwrap().suite(), wanted);
            assert_eq!(state.negotiated_key_exchange_group().unwrap().name(), group);
        }
    }
}

#[tokio::test]
async fn a_server_names_no_acceptable_issuers() {
    #[derive(Debug)]
    struct Asked(Mutex<Vec<usize>>);
    impl rustls::client::ResolvesClientCert for Asked {
        fn resolve(
            &self,
            hints: &[&[u8]],
            _schemes: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            self.0.lock().unwrap().push(hints.len());
            None
        }
        fn has_certs(&self) -> bool {
            true
        }
    }
    let root = Root::new();
    let (_p, server) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let asked = Arc::new(Asked(Mutex::default()));
    let config = raw_client(&root, |builder| builder.with_client_cert_resolver(asked.clone()));
    let (near, far) = pipe();
    let (served, called) = tokio::join!(server.accept(near, NOW, &[]), raw_connect(config, far));
    called.unwrap();
    assert_eq!(served.unwrap().peer, None);
    assert_eq!(*asked.0.lock().unwrap(), [0]);
}

#[tokio::test]
async fn noise_is_told_from_tls() {
    let root = Root::new();
    let (_p, live) = live(Node::manager("m1").identity(&root, &[], &[&root]));
    let (near, mut far) = pipe();
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let outcome = live.accept(near, NOW, &[]).await;
    assert!(matches!(outcome, Err(AcceptError::Tls(_))), "{outcome:?}");

    let (near, far) = pipe();
    drop(far);
    let outcome = live.connect(near, &Expect::manager(), NOW).await;
    assert!(matches!(outcome, Err(ConnectError::Io(_))), "{outcome:?}");
}
