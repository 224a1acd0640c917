//! Conformance 103 to 125, 61 to 64, 142 to 144: root bundles and issuers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate swarmpki_pki as pki;

mod authority;

use authority::{GOOD, Holder, NOW, data};
use pki::certificate::normalize;
use pki::{Digest, Issuer, TrustBundle};

fn build(roots: &[u8], cert: Option<&[u8]>, key: Option<&[u8]>, intermediates: &[u8]) -> Result<Issuer, String> {
    Issuer::from_pem(roots, cert, key, intermediates, NOW).map_err(|error| error.to_string())
}

fn refused(result: Result<Issuer, String>, text: &str) {
    match result {
        Ok(_) => panic!("accepted, expected {text:?}"),
        Err(error) => assert!(error.contains(text), "{error:?} lacks {text:?}"),
    }
}

/// A root that signs for itself, with the key given.
fn own(certificate: &str, key: &str) -> Result<Issuer, String> {
    build(&data(certificate), Some(&data(certificate)), Some(&data(key)), b"")
}

#[test]
fn c103_roots_of_every_accepted_kind() {
    for name in ["rsa2048", "rsa3072", "secp384r1", "secp521r1", "v1-root", "pathlen0"] {
        let issuer = own(&format!("{name}.crt"), &format!("{name}.key")).unwrap();
        assert_eq!(issuer.trust().digest(), Digest::of(&data(&format!("{name}.crt"))), "{name}");
    }
}

#[test]
fn c104_two_roots_first_signs() {
    let (first, second) = (Holder::root("first", GOOD), Holder::root("second", GOOD));
    let roots = format!("{}{}", first.pem, second.pem);
    let issuer = build(roots.as_bytes(), Some(first.pem.as_bytes()), Some(first.key_pem().as_bytes()), b"").unwrap();
    assert_eq!(issuer.trust().certificates().len(), 2);
    assert_eq!(issuer.id(), first.certificate().issuer_id());
    assert!(issuer.intermediates().is_empty());
    let second = build(roots.as_bytes(), Some(second.pem.as_bytes()), Some(second.key_pem().as_bytes()), b"");
    assert!(second.is_ok());
}

#[test]
fn roots_in_a_pkcs7_envelope() {
    // `openssl crl2pkcs7 -nocrl -certfile v1-root.crt -certfile rsa3072.crt`
    let envelope = data("two-roots.p7");
    let bundle = TrustBundle::parse(&envelope, NOW).unwrap();
    let plain = TrustBundle::parse(&[data("v1-root.crt"), data("rsa3072.crt")].concat(), NOW).unwrap();
    assert_eq!(bundle.certificates(), plain.certificates());
    assert_eq!(bundle.raw(), envelope);
    assert_eq!(bundle.digest(), Digest::of(&envelope), "of the bytes as given, as ever");
    // Together with plain certificates, and as the roots of an issuer.
    let mixed = TrustBundle::parse(&[data("secp384r1.crt"), envelope.clone()].concat(), NOW).unwrap();
    assert_eq!(mixed.certificates().len(), 3);
    build(&envelope, Some(&data("v1-root.crt")), Some(&data("v1-root.key")), b"").unwrap();

    let text = String::from_utf8(envelope).unwrap();
    let malformed = "asn1: structure error in PKCS #7";
    // The object identifier of signedData becomes envelopedData; the body is not DER; the body is a certificate.
    for (from, to) in [("NAQcCoI", "NAQcDoI"), ("MIIF", "AAAA")] {
        assert!(text.contains(from));
        refused(build(text.replacen(from, to, 1).as_bytes(), None, None, b""), malformed);
    }
    let bare = String::from_utf8(data("v1-root.crt")).unwrap().replace("CERTIFICATE", "PKCS7");
    refused(build(bare.as_bytes(), None, None, b""), malformed);
    // `openssl crl2pkcs7 -nocrl` of nothing.
    let empty = "-----BEGIN PKCS7-----\nMCUGCSqGSIb3DQEHAqAYMBYCAQExADALBgkqhkiG9w0BBwGgADEA\n-----END PKCS7-----\n";
    refused(build(empty.as_bytes(), None, None, b""), "PKCS #7 structure contains no certificates");
}

#[test]
fn c107_to_c110_malformed_and_empty() {
    let root = Holder::root("root", GOOD);
    let (pem, key) = (root.pem.as_bytes(), root.key_pem());
    let key = Some(key.as_bytes());
    refused(build(b"malformed", Some(pem), key, b""), "Failed to decode certificate");
    refused(build(pem, Some(b"malformed"), key, b""), "Failed to decode certificate");
    refused(build(b"  ", Some(pem), key, b""), "no valid root CA certificates found");
    refused(build(pem, Some(b"  "), key, b""), "no valid signing CA certificates found");
    let trailing = format!("{}trailing", root.pem);
    refused(build(trailing.as_bytes(), Some(pem), key, b""), "invalid root certificates: Failed to decode certificate");
}

#[test]
fn c111_c112_dates() {
    let check = |years, text: &str| {
        let root = Holder::root("root", years);
        let key = root.key_pem();
        refused(build(root.pem.as_bytes(), Some(root.pem.as_bytes()), Some(key.as_bytes()), b""), text);
    };
    check((2030, 2040), "not yet valid");
    check((2010, 2020), "expired");
    let root = Holder::root("root", GOOD);
    let signer = root.intermediate("signer", (2030, 2040));
    refused(
        build(root.pem.as_bytes(), Some(signer.pem.as_bytes()), Some(signer.key_pem().as_bytes()), b""),
        "not yet valid",
    );
}

#[test]
fn c113_signature_algorithms() {
    let good = Holder::root("root", GOOD);
    for (name, algorithm) in [
        ("rsa-sha1.crt", "SHA1-RSA"),
        ("ecdsa-sha1.crt", "ECDSA-SHA1"),
        ("dsa.crt", "DSA-SHA256"),
        ("ed25519.crt", "Ed25519"),
    ] {
        let text = format!("unsupported signature algorithm: {algorithm}");
        refused(build(&data(name), None, None, b""), &text);
        let key = good.key_pem();
        refused(build(good.pem.as_bytes(), Some(&data(name)), Some(key.as_bytes()), b""), &text);
    }
}

#[test]
fn c114_to_c117_keys() {
    let root = Holder::root("root", GOOD);
    let pem = root.pem.as_bytes();
    refused(build(pem, Some(pem), Some(b"malformed"), b""), "malformed private key");
    refused(own("rsa1024.crt", "rsa1024.key"), "unsupported RSA key parameters");
    refused(own("secp224r1.crt", "secp224r1.key"), "unsupported ECDSA key parameters");
    refused(build(pem, Some(pem), Some(&data("secp224r1.key")), b""), "certificate key mismatch");
}

#[test]
fn c62_c63_c64_a_roots_key_is_its_own_another_or_garbage() {
    let root = Holder::root("root", GOOD);
    let pem = root.pem.as_bytes();
    let with = |root: &[u8], key: &[u8]| build(root, Some(root), Some(key), b"");
    let result = with(pem, Holder::root("x", GOOD).key_pem().as_bytes());
    assert_eq!(result.err().unwrap(), "certificate key mismatch");
    let issuer = with(pem, root.key_pem().as_bytes()).unwrap();
    let signature = issuer.signer().sign(b"message").unwrap();
    let public = root.certificate().public_key().unwrap().clone();
    public.verify(issuer.signer().algorithm(), b"message", &signature).unwrap();
    refused(with(b"garbage", root.key_pem().as_bytes()), "Failed to decode certificate");
    refused(with(pem, b"garbage"), "malformed private key");
    let half = root.key_pem();
    refused(with(pem, &half.as_bytes()[..half.len() / 2]), "malformed private key");
}

#[test]
fn c118_c119_c61_signer() {
    let (root, other) = (Holder::root("root", GOOD), Holder::root("root", GOOD));
    let (pem, key) = (root.pem.as_bytes(), root.key_pem());
    refused(build(other.pem.as_bytes(), Some(pem), Some(key.as_bytes()), b""), "unknown authority");
    refused(build(pem, Some(pem), None, b""), "must provide both a signing key and a signing cert, or neither");
    refused(
        build(pem, None, Some(key.as_bytes()), b""),
        "must provide both a signing key and a signing cert, or neither",
    );
    let none = build(pem, None, None, b"").err().unwrap();
    assert_eq!(none, "no valid signer found");
}

#[test]
fn c120_to_c125_intermediates() {
    let root = Holder::root("root", GOOD);
    let signer = root.intermediate("signer", GOOD);
    let (pem, key) = (root.pem.as_bytes(), signer.key_pem());
    let with = |intermediates: &[u8]| build(pem, Some(signer.pem.as_bytes()), Some(key.as_bytes()), intermediates);

    refused(with(b"malformed"), "Failed to decode certificate");
    for years in [(2010, 2020), (2030, 2040)] {
        refused(with(root.intermediate("signer", years).pem.as_bytes()), "expired");
    }
    let stranger = Holder::root("stranger", GOOD).intermediate("x", GOOD);
    refused(with(format!("{}{}", signer.pem, stranger.pem).as_bytes()), "do not form a chain");
    refused(with(stranger.pem.as_bytes()), "unknown authority");
    let text = "the first intermediate must have the same subject and public key as the signing cert";
    refused(with(root.intermediate("other", GOOD).pem.as_bytes()), text);

    let issuer = with(format!("{}{}", signer.pem, root.pem).as_bytes()).unwrap();
    assert_eq!(issuer.intermediates().len(), 2);
    let below = signer.intermediate("below", GOOD);
    let chain = format!("{}{}", below.pem, signer.pem);
    let deep = build(pem, Some(below.pem.as_bytes()), Some(below.key_pem().as_bytes()), chain.as_bytes()).unwrap();
    assert_eq!(deep.id(), below.certificate().issuer_id());
}

#[test]
fn digest_covers_the_bytes_as_given() {
    let root = Holder::root("root", GOOD);
    let padded = format!("\n{}\n\n", root.pem);
    let (plain, padded) =
        (TrustBundle::parse(root.pem.as_bytes(), NOW).unwrap(), TrustBundle::parse(padded.as_bytes(), NOW).unwrap());
    assert_eq!(plain.certificates(), padded.certificates());
    assert_ne!(plain.digest(), padded.digest());
}

#[test]
fn c142_to_c144_normalize() {
    let pem = Holder::root("root", GOOD).pem.replace("\r\n", "\n");
    assert_eq!(normalize(b""), b"");
    assert_eq!(normalize(b"garbage"), b"");
    assert_eq!(normalize(format!("garbage\n{pem}  \n ").as_bytes()), pem.as_bytes());
    let header = pem.replacen("-----\n", "-----\nname: value\n\n", 1);
    let two = format!("  \n{header}\n \n{header} ").replace('\n', "\r\n");
    assert_eq!(normalize(two.as_bytes()), format!("{pem}{pem}").as_bytes());
}
