//! Configurations for programs that serve each other under a node's identity.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use authority::{AFTER, NOW, Node, Root};
use pki::identity::Role;
use pki::time::Time;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use swarmpki_mtls::{Clock, Live, PeerPolicy, Publisher, subject_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn live(node: &Node, root: &Root) -> (Publisher, Live) {
    let (publisher, live) = Publisher::new();
    publisher.publish(node.identity(root, &[], &[root]), NOW).unwrap();
    (publisher, live)
}

fn clock() -> Clock {
    Arc::new(|| NOW)
}

fn any() -> PeerPolicy {
    PeerPolicy::default()
}

type Served = tokio_rustls::server::TlsStream<DuplexStream>;
type Called = tokio_rustls::client::TlsStream<DuplexStream>;

async fn shake_hands(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Option<(Served, Called)> {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from("anything.example").unwrap();
    let serve = async {
        let mut stream = TlsAcceptor::from(server.clone()).accept(near).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        std::io::Result::Ok(stream)
    };
    let call = async {
        let mut stream = TlsConnector::from(client.clone()).connect(name, far).await?;
        stream.read_u8().await?;
        std::io::Result::Ok(stream)
    };
    let (served, called) = tokio::join!(serve, call);
    Some((served.ok()?, called.ok()?))
}

/// Whether both sides accept each other, and then the ids by which they know each other: the client's, the server's.
async fn meet(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> Option<(String, String)> {
    let (served, called) = shake_hands(server, client).await?;
    let near = subject_of(served.get_ref().1.peer_certificates()).unwrap();
    let far = subject_of(called.get_ref().1.peer_certificates()).unwrap();
    Some((near.node.to_string(), far.node.to_string()))
}

#[tokio::test]
async fn nodes_of_the_cluster_meet_whatever_the_name() {
    let root = Root::new();
    let (_p, one) = live(&Node::worker("w1"), &root);
    let (_p, two) = live(&Node::worker("w2"), &root);
    let server = one.server_config_for(any(), clock()).unwrap();
    let client = two.client_config_for(any(), clock()).unwrap();
    assert_eq!(meet(&server, &client).await, Some(("w2".to_owned(), "w1".to_owned())));
}

#[tokio::test]
async fn a_role_or_a_node_can_be_demanded() {
    let root = Root::new();
    let (_p, worker) = live(&Node::worker("w1"), &root);
    let (_p, manager) = live(&Node::manager("m1"), &root);
    let server = worker.server_config_for(any(), clock()).unwrap();
    for (policy, good) in [
        (PeerPolicy { role: Some(Role::Worker), ..any() }, true),
        (PeerPolicy { role: Some(Role::Manager), ..any() }, false),
        (PeerPolicy { node: Some("w1".parse().unwrap()), ..any() }, true),
        (PeerPolicy { node: Some("w2".parse().unwrap()), ..any() }, false),
    ] {
        let client = manager.client_config_for(policy.clone(), clock()).unwrap();
        assert_eq!(meet(&server, &client).await.is_some(), good, "{policy:?}");
    }
    let policy = PeerPolicy { role: Some(Role::Manager), ..any() };
    let server = worker.server_config_for(policy, clock()).unwrap();
    let client = manager.client_config_for(any(), clock()).unwrap();
    assert!(meet(&server, &client).await.is_some());
    let client = worker.client_config_for(any(), clock()).unwrap();
    assert!(meet(&server, &client).await.is_none());
}

#[tokio::test]
async fn strangers_are_refused_on_both_sides() {
    let (root, foreign) = (Root::new(), Root::new());
    let (_p, ours) = live(&Node::worker("w1"), &root);
    let (_p, other_root) = live(&Node::worker("w2"), &foreign);
    let (_p, other_cluster) = live(&Node { cluster: "cluster-2", ..Node::worker("w3") }, &root);
    let (_p, unpublished) = Publisher::new();
    for stranger in [&other_root, &other_cluster, &unpublished] {
        let server = ours.server_config_for(any(), clock()).unwrap();
        let client = stranger.client_config_for(any(), clock()).unwrap();
        assert_eq!(meet(&server, &client).await, None);
        let server = stranger.server_config_for(any(), clock()).unwrap();
        let client = ours.client_config_for(any(), clock()).unwrap();
        assert_eq!(meet(&server, &client).await, None);
    }
}

#[tokio::test]
async fn they_follow_the_identity_and_the_clock() {
    let root = Root::new();
    let (publisher, one) = live(&Node::worker("w1"), &root);
    let (_p, two) = live(&Node::worker("w2"), &root);
    let millis = Arc::new(AtomicI64::new(NOW.unix_millis()));
    let clock: Clock = {
        let millis = millis.clone();
        Arc::new(move || Time::from_unix_millis(millis.load(Ordering::Relaxed)))
    };
    let server = one.server_config_for(any(), clock.clone()).unwrap();
    let client = two.client_config_for(any(), clock).unwrap();
    assert_eq!(meet(&server, &client).await, Some(("w2".to_owned(), "w1".to_owned())));
    publisher.publish(Node::worker("w1b").identity(&root, &[], &[&root]), NOW).unwrap();
    assert_eq!(meet(&server, &client).await, Some(("w2".to_owned(), "w1b".to_owned())));
    millis.store(AFTER.unix_millis(), Ordering::Relaxed);
    assert_eq!(meet(&server, &client).await, None);
}

#[tokio::test]
async fn no_session_is_resumed_even_for_a_willing_client() {
    let root = Root::new();
    let (_p, one) = live(&Node::worker("w1"), &root);
    let (_p, two) = live(&Node::worker("w2"), &root);
    let server = one.server_config_for(any(), clock()).unwrap();
    let mut willing = ClientConfig::clone(&two.client_config_for(any(), clock()).unwrap());
    willing.resumption = rustls::client::Resumption::in_memory_sessions(16);
    let client = Arc::new(willing);
    for _ in 0..3 {
        let (served, _called) = shake_hands(&server, &client).await.unwrap();
        assert_eq!(served.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}
