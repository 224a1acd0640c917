//! Handshakes with certificates of our own making, a cross-certificate among them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use pki::bundle::{Issuer, TrustBundle};
use pki::certificate::Certificate;
use pki::csr::{Csr, request};
use pki::identity::{Role, Subject};
use pki::issue;
use pki::key::{PrivateKey, Signer};
use pki::serial::Serial;
use pki::time::Time;
use swarmpki_mtls::{Expect, Identity, Live, ManagerName, Publisher, connect_pinned};
use tokio::io::duplex;

const NOW: Time = Time::from_unix_secs(1_795_000_000);
const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

fn key(number: u8) -> PrivateKey {
    PrivateKey::generate_p256(&[number; 32]).unwrap()
}

struct Root {
    certificate: Certificate,
    key: PrivateKey,
}

impl Root {
    fn new(number: u8) -> Root {
        let key = key(number);
        Root { certificate: issue::root(&key, Serial::from_random([number; 20]), NOW).unwrap(), key }
    }

    fn trust(&self) -> TrustBundle {
        TrustBundle::parse(self.certificate.pem().as_bytes(), NOW).unwrap()
    }

    fn leaf(&self, number: u8, role: Role) -> (Certificate, PrivateKey) {
        let node_key = key(number);
        let csr = Csr::parse(request(&node_key).unwrap().as_bytes()).unwrap().verify().unwrap();
        let signer: Arc<dyn Signer> = Arc::new(self.key.duplicate());
        let root = self.certificate.pem();
        let issuer = Issuer::build(root.as_bytes(), Some(root.as_bytes()), Some(signer), b"", NOW).unwrap();
        let subject = Subject { cluster: "c1".parse().unwrap(), role, node: format!("n{number}").parse().unwrap() };
        let serial = Serial::from_random([number; 20]);
        let leaf = issue::Leaf { subject: &subject, serial, now: NOW, expiry: WEEK };
        (issue::leaf(&csr, &leaf, &issuer).unwrap(), node_key)
    }
}

fn live(chain: Vec<Certificate>, key: PrivateKey, trust: TrustBundle) -> Live {
    let (publisher, live) = Publisher::new();
    publisher.publish(Identity { chain, key, trust }, NOW).unwrap();
    live
}

#[tokio::test]
async fn our_leaves_work_before_during_and_after_a_rotation() {
    let (old, new) = (Root::new(1), Root::new(2));
    let crossed = issue::cross_sign(&new.certificate, &old.certificate, &old.key, None).unwrap();
    let side = |root: &Root, number, role, ladder: &[Certificate], trust: &Root| {
        let (leaf, key) = root.leaf(number, role);
        let chain = [&[leaf], ladder].concat();
        live(chain, key, trust.trust())
    };
    let ladder = [crossed];
    for (server, client) in [
        (side(&old, 3, Role::Manager, &[], &old), side(&old, 4, Role::Worker, &[], &old)),
        (side(&new, 3, Role::Manager, &ladder, &old), side(&old, 4, Role::Worker, &[], &old)),
        (side(&new, 3, Role::Manager, &ladder, &old), side(&new, 4, Role::Worker, &ladder, &new)),
        (side(&new, 3, Role::Manager, &[], &new), side(&new, 4, Role::Worker, &[], &new)),
    ] {
        let ((near, far), expect) = (duplex(16 * 1024), Expect::manager());
        let (served, called) = tokio::join!(server.accept(near, NOW, &[]), client.connect(far, &expect, NOW));
        assert_eq!(called.unwrap().peer.subject.node.as_str(), "n3");
        let peer = served.unwrap().peer.unwrap();
        assert_eq!((peer.subject.node.as_str(), peer.expired), ("n4", false));
        assert_eq!(&peer.issuer, client.current().unwrap().issuer());

        let (near, far) = duplex(16 * 1024);
        let trust = client.current().unwrap().trust().clone();
        let (served, called) =
            tokio::join!(server.accept(near, NOW, &[]), connect_pinned(far, &trust, ManagerName::Ca, NOW));
        assert!(served.unwrap().peer.is_none() && called.is_ok());
    }
}
