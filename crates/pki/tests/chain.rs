//! Conformance 127 to 137, 102, 126, and a chain made by a real engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate swarmpki_pki as pki;

mod authority;

use authority::{GOOD, Holder, NOW, data};
use pki::chain::{self, ChainError, Usage};
use pki::{Certificate, TrustBundle};

const PAST: (i32, i32) = (2020, 2025);
const LONG_PAST: (i32, i32) = (2000, 2005);
const FUTURE: (i32, i32) = (2030, 2040);

/// Judges `chain` against `root`; `Ok` is the CN of the issuer, `Err` the text.
fn judge(chain: &[&Holder], root: &Holder, allow_expired: bool) -> Result<String, String> {
    let pem: String = chain.iter().map(|holder| holder.pem.as_str()).collect();
    let chain = Certificate::parse_pem_bundle(pem.as_bytes()).unwrap();
    chain::validate_certificates(&chain, &[root.certificate()], allow_expired, NOW)
        .map(|issuer| String::from_utf8_lossy(&issuer.subject).into_owned())
        .map_err(|error| error.to_string())
}

fn accepted(result: Result<String, String>, issuer: &str) {
    assert!(result.as_ref().is_ok_and(|name| name.contains(issuer)), "{result:?}");
}

fn refused(result: Result<String, String>, text: &str) {
    assert!(result.as_ref().is_err_and(|error| error.contains(text)), "{result:?}");
}

#[test]
fn c127_c128_nothing_and_malformed() {
    let trust = TrustBundle::parse(Holder::root("root", GOOD).pem.as_bytes(), NOW).unwrap();
    let text = |pem: &[u8]| chain::validate(pem, &trust, false, NOW).unwrap_err().to_string();
    assert_eq!(text(b""), "no certificates to validate");
    assert_eq!(text(b"  "), "no certificates to validate");
    assert!(text(b"malformed").contains("Failed to decode certificate"));
}

#[test]
fn c129_c130_wrong_order_and_wrong_root() {
    let root = Holder::root("root", GOOD);
    let intermediate = root.intermediate("intermediate", GOOD);
    let leaf = intermediate.leaf("leaf", GOOD);
    refused(judge(&[&leaf, &intermediate, &leaf], &root, false), "certificates do not form a chain");
    refused(judge(&[&leaf, &intermediate], &Holder::root("other", GOOD), false), "unknown authority");
    refused(judge(&[&leaf, &intermediate], &Holder::root("root", GOOD), false), "unknown authority");
    refused(judge(&[&leaf], &root, false), "unknown authority");
    let rsa = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    refused(judge(&[&leaf, &intermediate], &Holder::root_with("root", GOOD, rsa), false), "unknown authority");
}

#[test]
fn c131_c132_dates() {
    let root = Holder::root("root", GOOD);
    for (upper, lower, text) in [
        (GOOD, PAST, "certificate (1 - leaf) not valid after Wed, 01 Jan 2025 00:00:00 UTC, and it is currently"),
        (PAST, GOOD, "certificate (2 - intermediate) not valid after"),
    ] {
        let intermediate = root.intermediate("intermediate", upper);
        let leaf = intermediate.leaf("leaf", lower);
        refused(judge(&[&leaf, &intermediate], &root, false), text);
        refused(judge(&[&leaf, &intermediate], &root, false), "expired");
    }
    for (upper, lower) in [(GOOD, FUTURE), (FUTURE, GOOD)] {
        let intermediate = root.intermediate("intermediate", upper);
        let leaf = intermediate.leaf("leaf", lower);
        for allow_expired in [false, true] {
            refused(judge(&[&leaf, &intermediate], &root, allow_expired), "not valid before Tue, 01 Jan 2030");
        }
    }
}

#[test]
fn c133_c134_c135_expired_beyond_repair() {
    let root = Holder::root("root", GOOD);
    let leaf = root.leaf("leaf", PAST);
    refused(judge(&[&leaf], &Holder::root("other", GOOD), true), "unknown authority");

    let late = root.intermediate("late", (2026, 2040));
    let early_leaf = late.leaf("leaf", PAST);
    refused(judge(&[&early_leaf, &late], &root, true), "there is no time span");

    let old_root = Holder::root("root", LONG_PAST);
    let intermediate = old_root.intermediate("intermediate", PAST);
    refused(judge(&[&intermediate.leaf("leaf", PAST), &intermediate], &old_root, true), "there is no time span");
}

#[test]
fn c136_c137_good_chains() {
    let root = Holder::root("root", GOOD);
    let intermediate = root.intermediate("intermediate", GOOD);
    let leaf = intermediate.leaf("leaf", GOOD);
    accepted(judge(&[&leaf, &intermediate, &root], &root, false), "intermediate");
    accepted(judge(&[&leaf, &intermediate], &root, false), "intermediate");
    accepted(judge(&[&intermediate], &root, false), "root");
    for (upper, lower) in [(GOOD, PAST), (PAST, GOOD), (PAST, PAST)] {
        let intermediate = root.intermediate("intermediate", upper);
        let leaf = intermediate.leaf("leaf", lower);
        accepted(judge(&[&leaf, &intermediate], &root, true), "intermediate");
    }
}

#[test]
fn expired_anchor_is_no_anchor() {
    let root = Holder::root("root", PAST);
    let leaf = root.leaf("leaf", GOOD);
    let found = chain::reaches(&leaf.certificate(), &[], &[root.certificate()], NOW, Usage::Client);
    assert_eq!(found, Err(ChainError::PathExpired));
    let found =
        chain::reaches(&root.intermediate("i", GOOD).certificate(), &[], &[root.certificate()], NOW, Usage::Client);
    assert_eq!(found, Err(ChainError::PathExpired));
}

#[test]
fn several_anchors_of_one_name() {
    let roots = [Holder::root("swarm-ca", GOOD), Holder::root("swarm-ca", GOOD), Holder::root("swarm-ca", GOOD)];
    let anchors: Vec<Certificate> = roots.iter().map(Holder::certificate).collect();
    for root in &roots {
        let leaf = root.leaf("leaf", GOOD).certificate();
        let issuer = chain::reaches(&leaf, &[], &anchors, NOW, Usage::Server).unwrap();
        assert_eq!(issuer, root.certificate().issuer_id());
    }
}

/// Go counts intermediates against an anchor's path length, webpki does not: so the cross-signed way is closed under
/// such a root (pki.md 12.2), while its own leaves are fine.
#[test]
fn anchor_with_path_length_0() {
    let root = Certificate::parse_pem_bundle(&data("pathlen0.crt")).unwrap().remove(0);
    let old = pki::PrivateKey::from_pem(&data("pathlen0.key"), None).unwrap();
    let new_key = authority::key(9);
    let serial = pki::Serial::from_random([3; 20]);
    let new = pki::issue::root(&new_key, serial, NOW).unwrap();
    let cross = pki::issue::cross_sign(&new, &root, &old, None).unwrap();
    let issuer = pki::Issuer::from_pem(
        new.pem().as_bytes(),
        Some(new.pem().as_bytes()),
        Some(new_key.pkcs8_pem().expose().as_bytes()),
        b"",
        NOW,
    )
    .unwrap();
    let subject = pki::Subject { cluster: "c".parse().unwrap(), role: pki::Role::Worker, node: "n".parse().unwrap() };
    let details = pki::issue::Leaf { subject: &subject, serial, now: NOW, expiry: pki::issue::LEAF_EXPIRY_DEFAULT };
    let leaf = pki::issue::leaf_for_signer(&authority::key(4), &details, &issuer).unwrap();
    let found = chain::reaches(&leaf, std::slice::from_ref(&cross), std::slice::from_ref(&root), NOW, Usage::Server);
    assert_eq!(found, Err(ChainError::PathLength));
    chain::reaches(&cross, &[], &[root], NOW, Usage::Server).unwrap();
}

#[test]
fn v1_root_of_an_operator_is_an_anchor() {
    let pem = data("v1-root.crt");
    let key = data("v1-root.key");
    let issuer = pki::Issuer::from_pem(&pem, Some(&pem), Some(&key), b"", NOW).unwrap();
    let subject = pki::Subject { cluster: "c".parse().unwrap(), role: pki::Role::Worker, node: "n".parse().unwrap() };
    let details = pki::issue::Leaf {
        subject: &subject,
        serial: pki::Serial::from_random([3; 20]),
        now: NOW,
        expiry: pki::issue::LEAF_EXPIRY_DEFAULT,
    };
    let leaf = pki::issue::leaf_for_signer(&authority::key(4), &details, &issuer).unwrap();
    let found = chain::reaches(&leaf, &[], issuer.trust().certificates(), NOW, Usage::Client).unwrap();
    assert_eq!(found, issuer.id());
    assert_eq!(leaf.issuer_der(), issuer.certificate().subject_der(), "two O in the name, kept as they are");
}

#[test]
fn c102_engine_chain_during_a_rotation() {
    let read = |name: &str| Certificate::parse_pem_bundle(&data(name)).unwrap().remove(0);
    let (leaf, cross, root) = (read("engine-leaf.crt"), read("engine-cross.crt"), read("engine-root.crt"));
    let from = pki::Time::from_unix_secs(1_795_294_800); // 2026-11-21 21:00 UTC
    let to = pki::Time::from_unix_secs(1_803_069_720); // 2027-02-19 20:42 UTC
    assert_eq!(leaf.not_after(), to);
    for at in [from, to] {
        for usage in [Usage::Server, Usage::Client] {
            let ladder = std::slice::from_ref(&cross);
            let issuer = chain::reaches(&leaf, ladder, std::slice::from_ref(&root), at, usage).unwrap();
            assert_eq!(issuer, cross.issuer_id());
            let without = chain::reaches(&leaf, &[], std::slice::from_ref(&root), at, usage);
            assert_eq!(without, Err(ChainError::UnknownAuthority));
        }
    }
    let trust = TrustBundle::parse(&data("engine-root.crt"), from).unwrap();
    assert_eq!(trust.digest().base36(), "1rja3kjqiyymi6kxzre9zexq4k8pjuw1n9gjd9hklrm3pqor58");
    let pem = [data("engine-leaf.crt"), data("engine-cross.crt")].concat();
    let validated = chain::validate(&pem, &trust, false, from).unwrap();
    assert_eq!(validated.issuer, cross.issuer_id());
    let subject = leaf.node_subject().unwrap();
    assert_eq!(
        (subject.cluster.as_str(), subject.role, subject.node.as_str()),
        ("w1b8p8777smiidzvu9mwghgki", pki::Role::Manager, "k452muqd9uhn713lris4ny8bw")
    );
}
