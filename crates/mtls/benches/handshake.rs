//! One mutual handshake in memory, both sides: ours (a verifier for each connection) beside plain rustls.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../tests/authority/mod.rs"]
mod authority;

use std::sync::Arc;

use authority::{NOW, Node, Root};
use divan::Bencher;
use rustls::pki_types::{PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use swarmpki_mtls::{Expect, Live, Publisher};
use tokio::io::duplex;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn main() {
    divan::main();
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn live(node: &Node, root: &Root) -> (Publisher, Live) {
    let (publisher, live) = Publisher::new();
    publisher.publish(node.identity(root, &[], &[root]), NOW).unwrap();
    (publisher, live)
}

#[divan::bench]
fn ours(bencher: Bencher<'_, '_>) {
    let root = Root::new();
    let (_p, server) = live(&Node::manager("m1"), &root);
    let (_p, client) = live(&Node::worker("w1"), &root);
    let (runtime, expect) = (runtime(), Expect::manager());
    bencher.bench_local(|| {
        runtime.block_on(async {
            let (near, far) = duplex(16 * 1024);
            let (served, called) = tokio::join!(server.accept(near, NOW, &[]), client.connect(far, &expect, NOW));
            assert!(served.unwrap().peer.is_some());
            called.unwrap()
        })
    });
}

#[derive(Debug)]
struct FixedTime;

impl rustls::time_provider::TimeProvider for FixedTime {
    fn current_time(&self) -> Option<UnixTime> {
        let secs = u64::try_from(NOW.unix_secs()).unwrap();
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs)))
    }
}

#[divan::bench]
fn plain_rustls(bencher: Bencher<'_, '_>) {
    let root = Root::new();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(root.certificate.der().to_vec().into()).unwrap();
    let roots = Arc::new(roots);
    let pair = |node: Node| {
        let (leaf, key) = node.issued_by(&root);
        let key = PrivateKeyDer::try_from(key.pkcs8_der().expose().to_vec()).unwrap();
        (vec![leaf.der().to_vec().into()], key)
    };

    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
    let (chain, key) = pair(Node::manager("m1"));
    let mut server = ServerConfig::builder_with_details(provider.clone(), Arc::new(FixedTime))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    server.send_tls13_tickets = 0;
    let (chain, key) = pair(Node::worker("w1"));
    let mut client = ClientConfig::builder_with_details(provider, Arc::new(FixedTime))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    client.resumption = rustls::client::Resumption::disabled();

    let (server, client) = (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
    let runtime = runtime();
    bencher.bench_local(|| {
        runtime.block_on(async {
            let (near, far) = duplex(16 * 1024);
            let name = ServerName::try_from("swarm-manager").unwrap();
            let (served, called) = tokio::join!(server.accept(near), client.connect(name, far));
            served.unwrap();
            called.unwrap()
        })
    });
}
