//! A small cluster CA for tests: a root, leaves, a second root that the first signed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, missing_docs, unreachable_pub)]

use std::sync::Arc;
use std::time::Duration;

use pki::bundle::{Issuer, TrustBundle};
use pki::certificate::{Certificate, encode_pem};
use pki::csr::Csr;
use pki::identity::{ClusterId, NodeId, Role, Subject};
use pki::issue;
use pki::key::{PrivateKey, Signer};
use pki::serial::Serial;
use pki::time::Time;

pub const CLUSTER: &str = "w1b8p8777smiidzvu9mwghgki";
pub const DAY: Duration = Duration::from_secs(86_400);

pub struct Ca {
    pub root: Certificate,
    pub key: PrivateKey,
    pub issuer: Issuer,
}

pub fn key(seed: u8) -> PrivateKey {
    PrivateKey::generate_p256(&[seed; 32]).unwrap()
}

fn serial() -> Serial {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0x11; 20];
    bytes[12..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Serial::from_random(bytes)
}

impl Ca {
    pub fn new(seed: u8, now: Time) -> Ca {
        let key = key(seed);
        let root = issue::root(&key, serial(), now).unwrap();
        let pem = encode_pem(std::slice::from_ref(&root));
        let signer: Arc<dyn Signer> = Arc::new(key.duplicate());
        let issuer = Issuer::build(pem.as_bytes(), Some(pem.as_bytes()), Some(signer), b"", now).unwrap();
        Ca { root, key, issuer }
    }

    /// The issuer of a rotation: this root's key, under the old root, with the cross-certificate appended.
    pub fn crossed_by(&self, old: &Ca, now: Time) -> Issuer {
        let cross = issue::cross_sign(&self.root, &old.root, &old.key, None).unwrap();
        let cross = encode_pem(&[cross]);
        let signer: Arc<dyn Signer> = Arc::new(self.key.duplicate());
        Issuer::build(old.pem().as_bytes(), Some(cross.as_bytes()), Some(signer), cross.as_bytes(), now).unwrap()
    }

    pub fn pem(&self) -> String {
        encode_pem(std::slice::from_ref(&self.root))
    }

    pub fn trust(&self, now: Time) -> TrustBundle {
        TrustBundle::parse(self.pem().as_bytes(), now).unwrap()
    }

    pub fn issue(&self, csr: &[u8], subject: &Subject, now: Time, expiry: Duration) -> Vec<u8> {
        issue_by(&self.issuer, csr, subject, now, expiry)
    }
}

pub fn subject(node: &str, role: Role) -> Subject {
    Subject { cluster: CLUSTER.parse::<ClusterId>().unwrap(), role, node: node.parse::<NodeId>().unwrap() }
}

pub fn csr(key: &PrivateKey) -> Vec<u8> {
    pki::csr::request(key).unwrap().into_bytes()
}

/// Leaf and intermediates, PEM.
pub fn issue_by(issuer: &Issuer, csr: &[u8], subject: &Subject, now: Time, expiry: Duration) -> Vec<u8> {
    let linted = Csr::parse(csr).unwrap().verify().unwrap();
    let leaf = issue::leaf(&linted, &issue::Leaf { subject, serial: serial(), now, expiry }, issuer).unwrap();
    let mut chain = vec![leaf];
    chain.extend_from_slice(issuer.intermediates());
    encode_pem(&chain).into_bytes()
}
