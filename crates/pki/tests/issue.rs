//! Conformance 22 to 25, 72 to 74, 105, 106, 126, 140, 145: what is issued, judged by the reader and by chains.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate swarmpki_pki as pki;

mod authority;

use std::sync::Arc;
use std::time::Duration;

use authority::{NOW, data, key};
use pki::chain::{self, Usage};
use pki::csr::{self, Csr, Linted};
use pki::issue::{self, Leaf};
use pki::{Certificate, Issuer, PrivateKey, Role, Serial, Signer, Subject, Time};

const HOUR: u64 = 3_600;

fn issuer() -> Issuer {
    let root = issue::root(&key(1), Serial::from_random([0xff; 20]), NOW).unwrap();
    let pem = root.pem();
    Issuer::build(pem.as_bytes(), Some(pem.as_bytes()), Some(Arc::new(key(1))), b"", NOW).unwrap()
}

fn subject(role: Role) -> Subject {
    Subject {
        cluster: "w1b8p8777smiidzvu9mwghgki".parse().unwrap(),
        role,
        node: "k452muqd9uhn713lris4ny8bw".parse().unwrap(),
    }
}

fn linted(pem: &[u8]) -> Linted {
    Csr::parse(pem).unwrap().verify().unwrap()
}

fn issue(csr: &Linted, role: Role, expiry: Duration, issuer: &Issuer) -> Certificate {
    let subject = subject(role);
    let leaf = Leaf { subject: &subject, serial: Serial::from_random([7; 20]), now: NOW, expiry };
    issue::leaf(csr, &leaf, issuer).unwrap()
}

#[test]
fn c66_root() {
    let root = issuer().certificate().clone();
    assert_eq!(root.common_name(), "swarm-ca");
    assert!(root.is_ca() && root.self_named() && root.path_len().is_none() && root.aki().is_none());
    assert_eq!(root.ski().unwrap(), key(1).public().key_id());
    assert_eq!(root.not_before(), NOW.round_to_minute().saturating_sub(Duration::from_secs(300)));
    assert_eq!(root.not_after().since(root.not_before()).as_secs(), 630_720_000);
    assert_eq!(root.serial().as_bytes()[0], 0x7f);
    chain::signed_by(&root, &root).unwrap();
}

#[test]
fn c22_c23_nothing_but_the_key_is_taken() {
    let issuer = issuer();
    // Subject, SANs and CA:TRUE of the requester's choice.
    let leaf = issue(&linted(&data("rsa2048.csr")), Role::Worker, Duration::ZERO, &issuer);
    assert_eq!(leaf.node_subject().unwrap(), subject(Role::Worker));
    assert_eq!(leaf.dns_names(), ["swarm-worker", "k452muqd9uhn713lris4ny8bw"]);
    assert!(!leaf.is_ca());
}

#[test]
fn c24_c25_keys_of_every_accepted_kind() {
    let issuer = issuer();
    for name in ["secp384r1.csr", "secp521r1.csr", "rsa2048.csr", "p256-sha384.csr"] {
        let csr = linted(&data(name));
        let leaf = issue(&csr, Role::Worker, Duration::ZERO, &issuer);
        assert_eq!(leaf.public_key().unwrap(), csr.public_key(), "{name}");
        assert_eq!(leaf.signature_algorithm().unwrap(), pki::key::SignatureAlgorithm::EcdsaSha256);
        chain::reaches(&leaf, &[], issuer.trust().certificates(), NOW, Usage::Client).unwrap();
    }
}

#[test]
fn c72_c73_c145_names_and_dates() {
    let issuer = issuer();
    let csr = linted(csr::request(&key(2)).unwrap().as_bytes());
    let manager = issue(&csr, Role::Manager, Duration::from_secs(2 * HOUR), &issuer);
    assert_eq!(manager.dns_names(), ["swarm-manager", "k452muqd9uhn713lris4ny8bw", "swarm-ca"]);
    assert_eq!(manager.not_after().since(manager.not_before()).as_secs(), 3 * HOUR);
    assert_eq!(manager.not_before().unix_secs() % 60, 0);
    assert_eq!(manager.ski().unwrap(), key(2).public().key_id());
    assert_eq!(manager.aki(), issuer.certificate().ski());
    let chain = issuer.chain_pem(&manager);
    assert_eq!(Certificate::parse_pem_bundle(chain.as_bytes()).unwrap(), [manager]);
}

#[test]
fn c74_c105_c106_expiry() {
    let issuer = issuer();
    let csr = linted(csr::request(&key(2)).unwrap().as_bytes());
    let life = |expiry: u64| {
        let leaf = issue(&csr, Role::Worker, Duration::from_secs(expiry), &issuer);
        leaf.not_after().since(NOW.round_to_minute()).as_secs()
    };
    assert_eq!(life(HOUR), HOUR);
    assert_eq!(life(HOUR - 60), 90 * 24 * HOUR);
    assert_eq!(life(0), 90 * 24 * HOUR);
    // Not capped by the root's own end, and beyond 2050.
    assert_eq!(life(40 * 365 * 24 * HOUR), 40 * 365 * 24 * HOUR);
}

#[test]
fn c126_c140_cross_signing_across_kinds_of_keys() {
    let pem_key = |name: &str| PrivateKey::from_pem(&data(&format!("{name}.key")), None).unwrap();
    let pem_cert = |name: &str| Certificate::parse_pem_bundle(&data(&format!("{name}.crt"))).unwrap().remove(0);
    for (old, new) in
        [("secp384r1", "secp521r1"), ("secp521r1", "rsa2048"), ("rsa3072", "secp384r1"), ("rsa2048", "rsa3072")]
    {
        let (old_root, new_root) = (pem_cert(old), pem_cert(new));
        let cross = issue::cross_sign(&new_root, &old_root, &pem_key(old), None).unwrap();
        assert_eq!((cross.subject_der(), cross.spki_der()), (new_root.subject_der(), new_root.spki_der()));
        assert_eq!(cross.issuer_der(), old_root.subject_der());
        assert!(cross.is_ca());

        // The old root is trusted, the new key signs: the state of a rotation.
        let issuer = Issuer::build(
            old_root.pem().as_bytes(),
            Some(cross.pem().as_bytes()),
            Some(Arc::new(pem_key(new))),
            cross.pem().as_bytes(),
            NOW,
        )
        .unwrap();
        let leaf = issue(&linted(csr::request(&key(3)).unwrap().as_bytes()), Role::Manager, Duration::ZERO, &issuer);
        assert_eq!(Certificate::parse_pem_bundle(issuer.chain_pem(&leaf).as_bytes()).unwrap().len(), 2);
        let reach = |ladder: &[Certificate], anchors: &[Certificate]| {
            chain::reaches(&leaf, ladder, anchors, NOW, Usage::Server)
        };
        let ladder = [cross.clone()];
        let expected = Ok(new_root.issuer_id());
        assert_eq!(reach(&ladder, std::slice::from_ref(&old_root)), expected);
        assert_eq!(reach(&ladder, std::slice::from_ref(&new_root)), expected);
        assert_eq!(reach(&[], std::slice::from_ref(&new_root)), expected);
        assert_eq!(reach(&ladder, &[old_root.clone(), new_root.clone()]), expected);
        assert_eq!(reach(&[], std::slice::from_ref(&old_root)), Err(chain::ChainError::UnknownAuthority));
    }
}

#[test]
fn leaf_begins_an_hour_back_at_the_nearest_minute() {
    let issuer = issuer();
    let now = Time::from_unix_millis(NOW.round_to_minute().unix_millis() + 30_000);
    let subject = subject(Role::Worker);
    let details =
        Leaf { subject: &subject, serial: Serial::from_random([7; 20]), now, expiry: Duration::from_secs(HOUR) };
    let leaf = issue::leaf_for_signer(&key(5), &details, &issuer).unwrap();
    assert_eq!(leaf.not_before().unix_millis(), now.unix_millis() + 30_000 - 3_600_000);
}
