//! Properties: round trips, normal forms, and parsers that take any bytes without a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate swarmpki_pki as pki;

mod authority;

use authority::{GOOD, Holder, NOW, key};
use pki::certificate::normalize;
use pki::chain::{self, Usage};
use pki::{Certificate, Digest, JoinSecret, JoinToken, NodeId, Role, Subject};
use proptest::prelude::*;

fn ids() -> impl Strategy<Value = String> {
    "[0-9A-Za-z._-]{1,64}"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn tokens_round_trip(digest: [u8; 32], secret: [u8; 16], fips: bool) {
        let digest = Digest::from_bytes(digest);
        let token = JoinToken::new(digest, &JoinSecret::from_bytes(secret), fips);
        let read: JoinToken = token.text().parse().unwrap();
        prop_assert_eq!((read.digest(), read.fips()), (digest, fips));
        prop_assert_eq!(*read.secret().unwrap().expose(), secret);
        prop_assert!(token.matches(read.text()));
        prop_assert!(!token.matches(&read.text().to_uppercase()));
        prop_assert!(!token.matches(&read.text()[1..]));
        prop_assert_eq!(token.text().len(), if fips { 87 } else { 85 });
    }

    #[test]
    fn any_text_of_a_tokens_shape_is_read_and_is_no_match(digest in "[0-9a-z]{50}", secret in "[0-9a-z]{25}") {
        let token: JoinToken = format!("SWMTKN-1-{digest}-{secret}").parse().unwrap();
        let ours = JoinToken::new(Digest::of(b"root"), &JoinSecret::from_bytes([1; 16]), false);
        prop_assert!(!ours.matches(token.text()));
    }

    #[test]
    fn ids_have_25_digits(random: [u8; 17]) {
        let id = NodeId::generate(random);
        prop_assert_eq!(id.as_str().len(), 25);
        prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()));
        prop_assert_eq!(id.as_str().parse::<NodeId>().unwrap(), id);
    }

    #[test]
    fn subjects_round_trip(cluster in ids(), node in ids(), manager: bool) {
        let role = if manager { Role::Manager } else { Role::Worker };
        let subject = Subject { cluster: cluster.parse().unwrap(), role, node: node.parse().unwrap() };
        prop_assert_eq!(Subject::from_name_der(&subject.to_name_der()).unwrap(), subject);
    }

    #[test]
    fn normal_form_is_stable(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4), junk in "[ a-z\r\n]{0,20}") {
        use std::fmt::Write as _;
        let mut text = String::new();
        for body in &bodies {
            writeln!(text, "{junk}").unwrap();
            let plain = pem_text(body);
            text.push_str(&plain);
        }
        let normal = normalize(text.as_bytes());
        let expected: String = bodies.iter().map(|body| pem_text(body)).collect();
        prop_assert_eq!(String::from_utf8(normal.clone()).unwrap(), expected);
        prop_assert_eq!(normalize(&normal), normal.clone());
        let crlf = String::from_utf8(normal.clone()).unwrap().replace('\n', "\r\n");
        prop_assert_eq!(normalize(crlf.as_bytes()), normal);
    }

    #[test]
    fn parsers_take_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        take(&bytes);
    }

    #[test]
    fn parsers_take_damaged_input(at in 0_usize..2_000, byte: u8, which in 0_usize..7) {
        let names = [
            "engine-leaf.crt", "engine-locked.key", "rsa2048.csr", "secp521r1.key", "v1-root.crt", "v1-root-legacy.key",
            "two-roots.p7",
        ];
        let mut pem = authority::data(names[which]);
        let index = at % pem.len();
        pem[index] = byte;
        take(&pem);
        let mut der = Certificate::parse_pem_bundle(&authority::data("engine-leaf.crt")).unwrap()[0].der().to_vec();
        let index = at % der.len();
        der[index] = byte;
        take(&der);
        der.truncate(index);
        take(&der);
    }
}

/// Gives the bytes to every parser; none may panic.
fn take(bytes: &[u8]) {
    let trust = pki::TrustBundle::parse(bytes, NOW);
    let _ = Certificate::from_der(bytes).map(|certificate| {
        let _ = (certificate.node_subject(), certificate.common_name(), certificate.public_key().is_ok());
        let _ = chain::reaches(&certificate, std::slice::from_ref(&certificate), &[], NOW, Usage::Server);
    });
    let _ = pki::csr::Csr::parse(bytes).map(pki::csr::Csr::verify);
    let _ = pki::csr::Csr::from_der(bytes.to_vec()).map(pki::csr::Csr::verify);
    let _ = Subject::from_name_der(bytes);
    let _ = pki::PublicKey::from_spki_der(bytes);
    let _ = pki::PrivateKey::from_der(bytes);
    let _ = pki::PrivateKey::from_pem(bytes, Some(&pki::SecretBytes::copy_of(b"x")));
    let _ = pki::KeyFile::parse(bytes, Some(&pki::SecretBytes::copy_of(b"x")));
    let _ = pki::issue::parse_new_root(bytes);
    let _ = pki::key::SignatureAlgorithm::from_identifier_der(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = text.parse::<JoinToken>();
        let _ = text.parse::<NodeId>();
        let _ = Digest::from_base36(text);
    }
    if let Ok(trust) = trust {
        let _ = chain::validate(bytes, &trust, true, NOW);
    }
}

fn pem_text(body: &[u8]) -> String {
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, body);
    let lines: String =
        encoded.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
    format!("-----BEGIN TEST-----\n{lines}-----END TEST-----\n")
}

/// Ladders of any length, whole or with a step missing, in any order.
#[test]
fn ladders_of_every_shape() {
    let root = Holder::root("root", GOOD);
    let mut steps = vec![root.intermediate("step 1", GOOD)];
    for number in 2..=4 {
        let next = steps.last().unwrap().intermediate(&format!("step {number}"), GOOD);
        steps.push(next);
    }
    let leaf = steps[3].leaf("leaf", GOOD).certificate();
    let all: Vec<Certificate> = steps.iter().map(Holder::certificate).collect();
    for mask in 0..16_u32 {
        for reversed in [false, true] {
            let mut ladder: Vec<Certificate> =
                (0..4).filter(|bit| mask >> bit & 1 == 1).map(|bit| all[bit].clone()).collect();
            if reversed {
                ladder.reverse();
            }
            let anchors = [root.certificate()];
            let whole = chain::reaches(&leaf, &ladder, &anchors, NOW, Usage::Client);
            assert_eq!(whole.is_ok(), mask == 15, "{mask:b}: {whole:?}");
            // The walk for CA certificates agrees with webpki on the part above the last step.
            let upper = chain::reaches(&all[3], &ladder, &anchors, NOW, Usage::Client);
            assert_eq!(upper.is_ok(), mask & 7 == 7, "{mask:b}: {upper:?}");
        }
    }
}

#[test]
fn c54_to_c57_tokens_that_are_none() {
    let digest = Digest::of(b"").base36();
    let secret = "0".repeat(25);
    for text in [
        "invalidtoken".to_owned(),
        format!("SWMTKN-1-{digest}-{}", &secret[1..]),
        format!("SWMTKN-2-{digest}-{secret}"),
        format!("SWMTKN-2-2-{digest}-{secret}"),
        format!("SWMTKN-0-{digest}-{secret}"),
        format!("SWMTKN-1-{digest}-{secret}-"),
        format!("swmtkn-1-{digest}-{secret}"),
        format!(" SWMTKN-1-{digest}-{secret}"),
    ] {
        assert_eq!(text.parse::<JoinToken>().err().unwrap().to_string(), "invalid join token", "{text}");
    }
    let zero: JoinToken = format!("SWMTKN-2-0-{digest}-{secret}").parse().unwrap();
    assert!(!zero.fips() && zero.digest() == Digest::of(b""));
    let overflow: JoinToken = format!("SWMTKN-1-{digest}-{}", "z".repeat(25)).parse().unwrap();
    assert!(overflow.secret().is_none(), "36^25 > 2^128");
    let no_number: JoinToken = format!("SWMTKN-1-{}-{secret}", "é".repeat(25)).parse().unwrap();
    assert_eq!(no_number.digest().as_bytes(), &[0; 32]);
}

#[test]
fn c146_names_without_a_part() {
    let text = |der: &[u8]| Subject::from_name_der(der).unwrap_err().to_string();
    let certificate = Holder::root("x", GOOD).certificate();
    assert_eq!(text(certificate.subject_der()), "no OU found in certificate subject");
    let whole = Subject { cluster: "c".parse().unwrap(), role: Role::Worker, node: "n".parse().unwrap() }.to_name_der();
    // Each part turned into a country.
    let without = |oid_byte: u8| {
        let mut der = whole.clone();
        let at = der.windows(3).position(|window| window == [0x55, 4, oid_byte]).unwrap();
        der[at + 2] = 6;
        text(&der)
    };
    assert_eq!(without(11), "no OU found in certificate subject");
    assert_eq!(without(10), "no organization found in certificate subject");
    assert_eq!(without(3), "no valid subject names found for TLS configuration");
    let mut twice = whole.clone();
    let at = twice.windows(3).position(|window| window == [0x55, 4, 3]).unwrap();
    twice[at + 2] = 10;
    assert_eq!(text(&twice), "more than one O in certificate subject");
    assert_eq!(key(1).public().spki_der().len(), 91);
}

use pki::Signer as _;
