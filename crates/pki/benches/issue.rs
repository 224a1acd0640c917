//! What issuing costs, beside the limit that the cryptographic library sets: one P-256 verification and one signature.

#![allow(clippy::unwrap_used)]

extern crate swarmpki_pki as pki;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use divan::{Bencher, black_box};
use pki::certificate::Certificate;
use pki::csr::{self, Csr};
use pki::issue::{self, Leaf};
use pki::revocation::{CrlNumber, Entry, List, crl};
use pki::{Issuer, PrivateKey, Role, Serial, Subject, Time};

const NOW: Time = Time::from_unix_secs(1_797_000_000);

fn main() {
    divan::main();
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::generate_p256(&[number; 32]).unwrap()
}

fn issuer() -> Issuer {
    let root = issue::root(&key(1), Serial::from_random([9; 20]), NOW).unwrap().pem();
    Issuer::build(root.as_bytes(), Some(root.as_bytes()), Some(Arc::new(key(1))), b"", NOW).unwrap()
}

fn subject() -> Subject {
    Subject {
        cluster: "w1b8p8777smiidzvu9mwghgki".parse().unwrap(),
        role: Role::Worker,
        node: "k452muqd9uhn713lris4ny8bw".parse().unwrap(),
    }
}

fn leaf<'a>(subject: &'a Subject) -> Leaf<'a> {
    Leaf { subject, serial: Serial::from_random([5; 20]), now: NOW, expiry: Duration::from_secs(7_776_000) }
}

/// The limit: bare verification and signature over 300 bytes.
#[divan::bench]
fn limit_verify_and_sign(bencher: Bencher) {
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let message = [7; 300];
    let signature = pair.sign(&random, &message).unwrap();
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, pair.public_key().as_ref().to_vec());
    bencher.bench_local(|| {
        public.verify(black_box(&message), signature.as_ref()).unwrap();
        pair.sign(&random, black_box(&message)).unwrap()
    });
}

/// A request read, and its signature checked.
#[divan::bench]
fn csr_verify(bencher: Bencher) {
    let pem = csr::request(&key(2)).unwrap();
    bencher.bench_local(|| Csr::parse(black_box(pem.as_bytes())).unwrap().verify().unwrap());
}

/// A leaf made for a request already checked.
#[divan::bench]
fn leaf_sign(bencher: Bencher) {
    let (issuer, subject) = (issuer(), subject());
    let linted = Csr::parse(csr::request(&key(2)).unwrap().as_bytes()).unwrap().verify().unwrap();
    bencher.bench_local(|| issue::leaf(black_box(&linted), &leaf(&subject), &issuer).unwrap());
}

/// The list of 100,000 revoked certificates, signed.
#[divan::bench]
fn crl_of_100_000(bencher: Bencher) {
    let (issuer, now) = (issuer(), NOW);
    let entry = |n: u32| {
        let mut random = [0x55; 20];
        random[16..].copy_from_slice(&n.to_be_bytes());
        Entry { serial: Serial::from_random(random), at: now, reason: 1 }
    };
    let entries: Vec<Entry> = (0..100_000).map(entry).collect();
    let number = CrlNumber::new(0, 100_000, now);
    let list = List { issuer: issuer.certificate(), number, since: None, this_update: now, next_update: now };
    bencher.bench_local(|| crl(black_box(&list), entries.iter().copied(), issuer.signer().as_ref()).unwrap());
}

/// A certificate read from DER.
#[divan::bench]
fn certificate_read(bencher: Bencher) {
    let (issuer, subject) = (issuer(), subject());
    let linted = Csr::parse(csr::request(&key(2)).unwrap().as_bytes()).unwrap().verify().unwrap();
    let made = issue::leaf(&linted, &leaf(&subject), &issuer).unwrap();
    bencher.bench_local(|| Certificate::from_der(black_box(made.der())).unwrap());
}

/// Both: from the request's text to the chain's text.
#[divan::bench]
fn leaf_issue(bencher: Bencher) {
    let (issuer, subject) = (issuer(), subject());
    let pem = csr::request(&key(2)).unwrap();
    bencher.bench_local(|| {
        let linted = Csr::parse(black_box(pem.as_bytes())).unwrap().verify().unwrap();
        let certificate = issue::leaf(&linted, &leaf(&subject), &issuer).unwrap();
        issuer.chain_pem(&certificate)
    });
}
