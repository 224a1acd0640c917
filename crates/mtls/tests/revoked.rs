//! Peers whose certificate was taken back, and what managers state about that.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod authority;

use std::sync::Arc;
use std::time::Duration;

use authority::{NOW, Node, Root};
use rustls::pki_types::ServerName;
use swarmpki_mtls::{
    ChainFault, Clock, ConnectError, Expect, Live, PeerPolicy, Publisher, RevokedDelta, RevokedSet, Statement,
    StatementError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn live(node: &Node, root: &Root) -> (Publisher, Live) {
    let (publisher, live) = Publisher::new();
    publisher.publish(node.identity(root, &[], &[root]), NOW).unwrap();
    (publisher, live)
}

/// The set that has the certificate in use of this one.
fn set_of(live: &Live) -> RevokedSet {
    let current = live.current().unwrap();
    let rows = vec![(0, current.chain()[0].serial(), current.not_after())];
    let issuers = vec![current.issuer().digest()];
    let delta = RevokedDelta { version: 1, issuers, rows, ..RevokedDelta::default() };
    RevokedSet::default().with(&delta, None, current.not_after()).unwrap()
}

async fn meet(server: &Live, client: &Live) -> bool {
    let clock: Clock = Arc::new(|| NOW);
    let acceptor = TlsAcceptor::from(server.server_config_for(PeerPolicy::default(), clock.clone()).unwrap());
    let connector = TlsConnector::from(client.client_config_for(PeerPolicy::default(), clock).unwrap());
    let (near, far) = duplex(64 * 1024);
    let serve = async {
        let mut stream = acceptor.accept(near).await?;
        stream.write_all(b"x").await
    };
    let call = async {
        let mut stream = connector.connect(ServerName::try_from("peer").unwrap(), far).await?;
        stream.read_u8().await
    };
    let (served, called) = tokio::join!(serve, call);
    served.is_ok() && called.is_ok()
}

#[tokio::test]
async fn a_revoked_peer_is_refused_in_either_role_from_then_on() {
    let root = Root::new();
    let (publisher, one) = live(&Node::worker("w1"), &root);
    let (other_publisher, other) = live(&Node::worker("w2"), &root);
    let mut told = one.revocations();
    assert!(meet(&one, &other).await && meet(&other, &one).await);
    publisher.revoke(set_of(&other));
    assert!(told.has_changed().unwrap() && *told.borrow_and_update() == (0, 1));
    assert!(!meet(&one, &other).await && !meet(&other, &one).await);
    let (_p, third) = live(&Node::worker("w3"), &root);
    assert!(meet(&one, &third).await, "nobody else");
    // A new certificate of the same node is another one.
    other_publisher.publish(Node::worker("w2").identity(&root, &[], &[&root]), NOW).unwrap();
    assert!(meet(&one, &other).await);
}

#[tokio::test]
async fn a_revoked_manager_is_not_called() {
    let root = Root::new();
    let (_p, manager) = live(&Node::manager("m1"), &root);
    let (publisher, worker) = live(&Node::worker("w1"), &root);
    publisher.revoke(set_of(&manager));
    let (near, far) = duplex(64 * 1024);
    let expect = Expect::manager();
    let (_, called) = tokio::join!(manager.accept(near, NOW, &[]), worker.connect(far, &expect, NOW));
    assert!(matches!(called, Err(ConnectError::Peer(ChainFault::Revoked { .. }))), "{:?}", called.map(drop));
}

#[test]
fn a_statement_is_a_managers_in_one_context() {
    let (root, foreign) = (Root::new(), Root::new());
    let (_p, manager) = live(&Node::manager("m1"), &root);
    let (publisher, worker) = live(&Node::worker("w1"), &root);
    let (_p, other) = live(&Node::manager("m2"), &foreign);
    let said = manager.current().unwrap().say("revocations", b"content".to_vec()).unwrap();
    assert_eq!(worker.who_said("revocations", &said, NOW).unwrap().subject.node.as_str(), "m1");
    let late = NOW.saturating_add(Duration::from_secs(400 * 24 * 3600));
    type Row = (&'static str, Statement);
    let rows: [Row; 5] = [
        ("content", Statement { content: b"contend".to_vec(), ..said.clone() }),
        ("signature", Statement { signature: said.signature[1..].to_vec(), ..said.clone() }),
        ("scheme", Statement { scheme: 0x0807, ..said.clone() }),
        ("no chain", Statement { chain: Vec::new(), ..said.clone() }),
        ("long chain", Statement { chain: vec![said.chain[0].clone(); 9], ..said.clone() }),
    ];
    for (what, statement) in rows {
        assert!(worker.who_said("revocations", &statement, NOW).is_err(), "{what}");
    }
    assert_eq!(worker.who_said("heads", &said, NOW), Err(StatementError::Signature), "another context");
    assert!(worker.who_said("revocations", &said, late).is_err(), "its certificate has ended");
    let by_worker = worker.current().unwrap().say("revocations", b"content".to_vec()).unwrap();
    assert!(matches!(manager.who_said("revocations", &by_worker, NOW), Err(StatementError::Chain(_))), "a worker's");
    assert!(other.who_said("revocations", &said, NOW).is_err(), "another root's");
    publisher.revoke(set_of(&manager));
    let refused = worker.who_said("revocations", &said, NOW);
    assert!(matches!(refused, Err(StatementError::Chain(ChainFault::Revoked { .. }))), "{refused:?}");
}
