//! Conformance 18 to 21, 26, 27: requests that are refused, with texts that name the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate swarmpki_pki as pki;

mod authority;

use authority::{data, key};
use pki::Signer;
use pki::csr::{self, CSR_BYTES_MAX, Csr, CsrError};

fn refused(pem: &[u8], text: &str) {
    match Csr::parse(pem) {
        Ok(_) => panic!("accepted, expected {text:?}"),
        Err(error) => assert!(error.to_string().contains(text), "{error} lacks {text:?}"),
    }
}

#[test]
fn c18_c19_garbage() {
    refused(b"random garbage", "CSR Decode failed");
    refused(b"", "CSR Decode failed");
    refused(&vec![b'x'; CSR_BYTES_MAX + 1], "CSR Decode failed");
}

#[test]
fn c20_wrong_type() {
    refused(&data("v1-root.crt"), "not a c");
    refused(&data("v1-root.key"), "not a c");
}

#[test]
fn c21_truncated_der() {
    let whole = csr::request(&key(1)).unwrap();
    let body: String = whole.lines().filter(|line| !line.starts_with('-')).collect();
    let cut = format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", &body[..80]);
    refused(cut.as_bytes(), "asn1");
}

#[test]
fn c26_c27_keys_name_kind_and_size() {
    refused(&data("ed25519.csr"), "Ed25519 (256 bits)");
    refused(&data("rsa1024.csr"), "RSA keys of 1024 bits");
    refused(&data("rsa8192.csr"), "RSA keys of 8192 bits");
    refused(&data("secp224r1.csr"), "curve P-224");
}

#[test]
fn requests_of_every_accepted_kind_verify() {
    for name in ["rsa2048.csr", "secp384r1.csr", "secp521r1.csr", "p256-sha384.csr"] {
        Csr::parse(&data(name)).unwrap().verify().unwrap();
    }
    let renamed = String::from_utf8(data("p256-sha384.csr")).unwrap().replace("CERTIFICATE REQ", "NEW CERTIFICATE REQ");
    Csr::parse(renamed.as_bytes()).unwrap();
}

#[test]
fn a_bare_request_holds_a_key_and_nothing_else() {
    let bare = |pem: &[u8]| Csr::parse(pem).unwrap().verify().unwrap().is_bare();
    assert!(bare(csr::request(&key(1)).unwrap().as_bytes()));
    let subject = pki::Subject {
        cluster: pki::ClusterId::generate([3; 17]),
        role: pki::Role::Worker,
        node: pki::NodeId::generate([4; 17]),
    };
    let named = csr::named_request(&subject.to_name_der(), &key(1)).unwrap();
    assert!(!bare(named.as_bytes()));
    // Made by OpenSSL with a name and extensions.
    assert!(!bare(&data("p256-sha384.csr")));
}

#[test]
fn own_request_round_trips_and_another_signature_does_not() {
    let pem = csr::request(&key(1)).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    assert_eq!(Csr::parse(pem.as_bytes()).unwrap().verify().unwrap().public_key(), key(1).public());

    /// Claims one key and signs with another.
    struct Thief;
    impl Signer for Thief {
        fn public(&self) -> &pki::PublicKey {
            static KEY: std::sync::OnceLock<pki::PublicKey> = std::sync::OnceLock::new();
            KEY.get_or_init(|| key(1).public().clone())
        }
        fn algorithm(&self) -> pki::key::SignatureAlgorithm {
            key(2).algorithm()
        }
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, pki::key::SignError> {
            key(2).sign(message)
        }
    }
    let stolen = csr::request(&Thief).unwrap();
    assert_eq!(Csr::parse(stolen.as_bytes()).unwrap().verify().err(), Some(CsrError::Signature));
}
