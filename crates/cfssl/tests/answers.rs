//! What is accepted of an external CA's certificates, field by field.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ca;

use std::time::{Duration, SystemTime};

use ca::{Asker, DAY, HOUR, Root, now, printable};
use pki::Role;
use pki::certificate::Certificate;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, KeyPair,
    KeyUsagePurpose as Ku, SanType,
};
use swarmpki_cfssl::answer::check_cross_signed;
use swarmpki_cfssl::{ExpectedRoot, Hostile};

const NODE: &str = "sfz7edm9lr90ix600wnc8op63";

type Alter = fn(&mut CertificateParams);

#[test]
fn a_good_certificate_passes_for_both_roles() {
    let root = Root::new("external-root");
    for role in [Role::Worker, Role::Manager] {
        let asker = Asker::new(role, NODE);
        let pem = root.certify(&asker.json(), |_| {});
        let signed = asker.check(&root.certificate, pem.as_bytes()).unwrap();
        assert_eq!(signed.leaf.pem(), pem.replace("\r\n", "\n"));
        assert_eq!((signed.issuer, signed.intermediates.len()), (root.certificate.issuer_id(), 0));
    }
}

#[test]
fn liberties_that_do_no_harm_are_allowed() {
    let rows: [(&str, Alter); 5] = [
        ("another order of names", |p| p.subject_alt_names.reverse()),
        ("key agreement too", |p| p.key_usages.push(Ku::KeyAgreement)),
        ("no basic constraints", |p| p.is_ca = IsCa::NoCa),
        ("an unknown extension that is not critical", |p| {
            p.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
        }),
        ("a clock that is a minute ahead", |p| p.not_before = (SystemTime::now() + Duration::from_secs(60)).into()),
    ];
    let root = Root::new("external-root");
    let asker = Asker::new(Role::Manager, NODE);
    for (what, alter) in rows {
        let pem = root.certify(&asker.json(), alter);
        asker.check(&root.certificate, pem.as_bytes()).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
}

#[test]
fn every_field_that_is_not_as_asked_has_its_name() {
    let rows: [(&str, Alter); 29] = [
        ("wrong-subject", |p| p.distinguished_name.push(DnType::CommonName, printable("other"))),
        ("wrong-subject", |p| p.distinguished_name.push(DnType::OrganizationName, printable("other"))),
        ("wrong-subject", |p| p.distinguished_name.push(DnType::OrganizationalUnitName, printable("swarm-worker"))),
        ("wrong-subject", |p| {
            p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 11]), printable("swarm-manager"));
        }),
        ("wrong-subject", |p| p.distinguished_name.push(DnType::LocalityName, printable("here"))),
        ("wrong-subject", |p| {
            p.distinguished_name.remove(DnType::OrganizationName);
        }),
        ("wrong-subject", |p| {
            p.distinguished_name.push(DnType::CommonName, rcgen::DnValue::BmpString(NODE.try_into().unwrap()));
        }),
        ("wrong-names", |p| p.subject_alt_names.push(SanType::DnsName("swarm-evil".try_into().unwrap()))),
        ("wrong-names", |p| p.subject_alt_names.push(SanType::DnsName(NODE.try_into().unwrap()))),
        ("wrong-names", |p| p.subject_alt_names.push(SanType::IpAddress("127.0.32.1".parse().unwrap()))),
        ("wrong-names", |p| p.subject_alt_names.push(SanType::Rfc822Name("a@b".try_into().unwrap()))),
        ("wrong-names", |p| drop(p.subject_alt_names.pop())),
        ("wrong-names", |p| p.subject_alt_names.clear()),
        ("wrong-names", |p| p.subject_alt_names[0] = SanType::DnsName("Swarm-manager".try_into().unwrap())),
        ("is-ca", |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("is-ca", |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
        ("key-usage", |p| p.key_usages.push(Ku::KeyCertSign)),
        ("key-usage", |p| p.key_usages.push(Ku::CrlSign)),
        ("key-usage", |p| p.key_usages.push(Ku::DataEncipherment)),
        ("key-usage", |p| p.key_usages = vec![Ku::KeyEncipherment]),
        ("key-usage", |p| p.key_usages.clear()),
        ("extended-key-usage", |p| p.extended_key_usages.clear()),
        ("extended-key-usage", |p| p.extended_key_usages = vec![Eku::ServerAuth]),
        ("extended-key-usage", |p| p.extended_key_usages = vec![Eku::ClientAuth]),
        ("extended-key-usage", |p| p.extended_key_usages.push(Eku::Any)),
        ("extended-key-usage", |p| p.extended_key_usages.push(Eku::CodeSigning)),
        ("extended-key-usage", |p| p.extended_key_usages.push(Eku::Other(vec![1, 2, 3, 4]))),
        ("unknown-extension", |p| {
            let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
            extension.set_criticality(true);
            p.custom_extensions = vec![extension];
        }),
        ("unreadable", |p| {
            // A second set of names.
            let names = vec![0x30, 6, 0x82, 4, b'e', b'v', b'i', b'l'];
            p.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        }),
    ];
    let root = Root::new("external-root");
    let asker = Asker::new(Role::Manager, NODE);
    for (row, (name, alter)) in rows.into_iter().enumerate() {
        let pem = root.certify(&asker.json(), alter);
        let hostile = asker.check(&root.certificate, pem.as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(hostile.name(), name, "row {row}: {hostile}");
    }
}

#[test]
fn lives_outside_of_the_policy() {
    let root = Root::new("external-root");
    let asker = Asker::new(Role::Worker, NODE);
    let hours = |from: i64, to: i64| {
        let at = |hours: i64| {
            let span = Duration::from_secs(hours.unsigned_abs() * 3_600);
            if hours < 0 { SystemTime::now() - span } else { SystemTime::now() + span }
        };
        root.certify(&asker.json(), |p| (p.not_before, p.not_after) = (at(from).into(), at(to).into()))
    };
    for (from, to, why) in [
        (1, 48, "begins in the future"),
        (-2, -1, "ends too soon"),
        (0, 0, "ends too soon"),
        (0, 92 * 24, "ends later than"),
        (0, 24 * 365 * 10, "ends later than"),
        (-30 * 24, 10 * 24, "began so long ago"),
    ] {
        let hostile = asker.check(&root.certificate, hours(from, to).as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(hostile.name(), "lifetime");
        assert!(hostile.to_string().contains(why), "{from}..{to}: {hostile}");
    }
    for (from, to) in [(0, 2), (-1, 2), (-24, 90 * 24)] {
        asker.check(&root.certificate, hours(from, to).as_bytes()).unwrap();
    }
}

#[test]
fn another_key_and_another_root() {
    let (root, twin) = (Root::new("external-root"), Root::new("external-root"));
    let (asker, other) = (Asker::new(Role::Worker, NODE), Asker::new(Role::Worker, NODE));
    let pem = root.certify(&other.json(), |_| {});
    assert_eq!(asker.check(&root.certificate, pem.as_bytes()).map(|_| ()), Err(Hostile::WrongKey));
    let pem = twin.certify(&asker.json(), |_| {});
    assert_eq!(asker.check(&root.certificate, pem.as_bytes()).map(|_| ()).unwrap_err().name(), "chain");
}

#[test]
fn a_signature_algorithm_that_is_not_accepted() {
    let root = Root::with_key("external-root", KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
    let asker = Asker::new(Role::Worker, NODE);
    let pem = root.certify(&asker.json(), |_| {});
    let hostile = asker.check(&root.certificate, pem.as_bytes()).map(|_| ()).unwrap_err();
    assert_eq!(hostile.name(), "signature-algorithm", "{hostile}");
}

#[test]
fn certificates_that_do_not_belong_to_the_answer() {
    let (root, other) = (Root::new("external-root"), Root::new("other-root"));
    let asker = Asker::new(Role::Worker, NODE);
    let leaf = root.certify(&asker.json(), |_| {});
    let stranger = other.intermediate("stranger", 365 * DAY);
    let unused = root.intermediate("unused", 365 * DAY);
    for (what, extra) in [
        ("a second root", other.pem()),
        ("the root itself", root.pem()),
        ("of another root", stranger.pem()),
        ("not in the leaf's chain", unused.pem()),
        ("the leaf twice", leaf.clone()),
        ("many", unused.pem().repeat(8)),
    ] {
        let hostile = asker.check(&root.certificate, format!("{leaf}{extra}").as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(hostile.name(), "extra-certificate", "{what}: {hostile}");
    }
}

#[test]
fn intermediates_lead_to_the_root_or_the_answer_is_refused() {
    let (root, twin) = (Root::new("external-root"), Root::new("external-root"));
    let asker = Asker::new(Role::Worker, NODE);
    let middle = root.intermediate("issuing", 365 * DAY);
    let leaf = middle.certify(&asker.json(), |_| {});
    let both = format!("{leaf}{}", middle.pem());
    let signed = asker.check(&root.certificate, both.as_bytes()).unwrap();
    assert_eq!(
        (signed.intermediates.as_slice(), signed.issuer),
        (&[middle.certificate.clone()][..], middle.certificate.issuer_id())
    );
    // Known here, the answer need not bring it.
    let known = [middle.certificate.clone()];
    assert!(asker.check_with(&root.certificate, &known, leaf.as_bytes(), |_| false).unwrap().intermediates.is_empty());
    for (wanted, pem) in [(&root, &leaf), (&twin, &both)] {
        assert_eq!(asker.check(&wanted.certificate, pem.as_bytes()).map(|_| ()).unwrap_err().name(), "chain");
    }
    // An engine that holds it would refuse its own file once the intermediate is over.
    let short = root.intermediate("short", 30 * DAY);
    let pem = format!("{}{}", short.certify(&asker.json(), |_| {}), short.pem());
    assert_eq!(asker.check(&root.certificate, pem.as_bytes()).map(|_| ()).unwrap_err().name(), "lifetime");
}

#[test]
fn a_serial_number_that_was_met_before() {
    let root = Root::new("external-root");
    let asker = Asker::new(Role::Worker, NODE);
    let pem = root.certify(&asker.json(), |p| p.serial_number = Some(vec![0x17; 16].into()));
    let hostile = asker.check_with(&root.certificate, &[], pem.as_bytes(), |_| true).map(|_| ()).unwrap_err();
    assert_eq!(hostile, Hostile::SerialReused("17".repeat(16)));
    // It is not asked about a certificate that is bad anyway.
    let bad = root.certify(&asker.json(), |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let hostile = asker.check_with(&root.certificate, &[], bad.as_bytes(), |_| panic!("asked")).map(|_| ());
    assert_eq!(hostile, Err(Hostile::IsCa));
}

#[test]
fn what_is_no_certificate_of_version_3() {
    let root = Root::new("external-root");
    let asker = Asker::new(Role::Worker, NODE);
    let good = root.certify(&asker.json(), |_| {});
    let csr = asker.request.certificate_request.clone();
    for (what, text) in [
        ("nothing", String::new()),
        ("no PEM", "certificate".to_owned()),
        ("a request", csr),
        ("text after it", format!("{good}and more")),
        ("a block that is no certificate", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n".to_owned()),
        ("too long", good.repeat(200)),
    ] {
        let hostile = asker.check(&root.certificate, text.as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(hostile.name(), "unreadable", "{what}: {hostile}");
    }
    let old =
        pki::certificate::pem_of_der(&as_version_1(Certificate::parse_pem_bundle(good.as_bytes()).unwrap()[0].der()));
    assert_eq!(asker.check(&root.certificate, old.as_bytes()).map(|_| ()), Err(Hostile::Version(1)));
}

/// The certificate without version and extensions; the signature is then wrong, but that comes later.
fn as_version_1(der: &[u8]) -> Vec<u8> {
    let (outer, _) = element(der);
    let (tbs, rest) = element(outer);
    let mut fields = Vec::new();
    let mut left = tbs;
    while !left.is_empty() {
        let (_, after) = element(left);
        let whole = &left[..left.len() - after.len()];
        if left[0] != 0xa0 && left[0] != 0xa3 {
            fields.extend_from_slice(whole);
        }
        left = after;
    }
    let tbs = tlv(0x30, &fields);
    let mut inner = tbs;
    inner.extend_from_slice(rest);
    return tlv(0x30, &inner);

    /// Content of the first element, and what follows it.
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (start, length) = match der[1] {
            short if short < 0x80 => (2, usize::from(short)),
            0x81 => (3, usize::from(der[2])),
            _ => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
        };
        (&der[start..start + length], &der[start + length..])
    }

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82, length[0], length[1]], content].concat()
    }
}

#[test]
fn c317_a_cross_signed_root_of_either_kind_of_key_and_the_ones_that_are_refused() {
    let (old, twin) = (Root::new("external-root"), Root::new("external-root"));
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    for new in [Root::new("swarm-ca"), Root::with_key("swarm-ca", rsa)] {
        let make = |by: &Root, alter: Alter| {
            let mut params = new.params.clone();
            alter(&mut params);
            params.signed_by(&new.key, &by.issuer()).unwrap().pem()
        };
        let check = |pem: &str| {
            let expected =
                ExpectedRoot { new_root: &new.certificate, old_root: &old.certificate, life_min: 30 * DAY, skew: HOUR };
            check_cross_signed(pem.as_bytes(), &expected, now())
        };
        let good = check(&make(&old, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)))).unwrap();
        assert_eq!((good.subject_der(), good.spki_der()), (new.certificate.subject_der(), new.certificate.spki_der()));
        assert_eq!(good.issuer_der(), old.certificate.subject_der());
        check(&make(&old, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)))).unwrap();
        let rows: [(&str, String); 8] = [
            ("wrong-key", old.pem()),
            ("wrong-subject", make(&old, |p| p.distinguished_name.push(DnType::CommonName, printable("other")))),
            ("not-ca", make(&old, |p| p.is_ca = IsCa::ExplicitNoCa)),
            ("key-usage", make(&old, |p| p.key_usages = vec![Ku::CrlSign])),
            ("lifetime", make(&old, |p| p.not_after = (SystemTime::now() + DAY).into())),
            ("chain", make(&twin, |_| {})),
            ("chain", new.pem()),
            ("extra-certificate", format!("{}{}", make(&old, |_| {}), old.pem())),
        ];
        for (name, pem) in rows {
            let hostile = check(&pem).map(|_| ()).unwrap_err();
            assert_eq!(hostile.name(), name, "{hostile}");
        }
    }
}

#[test]
fn names_and_texts_of_a_stranger_are_shown_without_harm() {
    let root = Root::new("external-root");
    let asker = Asker::new(Role::Worker, NODE);
    let pem = root.certify(&asker.json(), |p| p.distinguished_name.push(DnType::CommonName, "a\n\u{1b}[31mb"));
    let text = asker.check(&root.certificate, pem.as_bytes()).map(|_| ()).unwrap_err().to_string();
    assert!(!text.chars().any(char::is_control) && text.len() < 2_048, "{text:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_answer_makes_the_reader_panic(at in 0_usize..2_000, byte in any::<u8>(), cut in 0_usize..2_000, text in any::<Vec<u8>>()) {
        // One certificate for all cases: making one takes longer than reading thousands.
        static MADE: std::sync::OnceLock<(Root, Asker, Vec<u8>)> = std::sync::OnceLock::new();
        let (root, asker, der) = MADE.get_or_init(|| {
            let (root, asker) = (Root::new("external-root"), Asker::new(Role::Manager, NODE));
            let pem = root.certify(&asker.json(), |_| {});
            let der = Certificate::parse_pem_bundle(pem.as_bytes()).unwrap()[0].der().to_vec();
            (root, asker, der)
        });
        let mut altered = der.clone();
        let place = at % der.len();
        altered[place] = byte;
        let same = altered == *der;
        prop_assert_eq!(asker.check(&root.certificate, pki::certificate::pem_of_der(&altered).as_bytes()).is_ok(), same);
        altered.truncate(cut % der.len());
        prop_assert!(asker.check(&root.certificate, pki::certificate::pem_of_der(&altered).as_bytes()).is_err());
        prop_assert!(asker.check(&root.certificate, &text).is_err());
        prop_assert!(asker.check(&root.certificate, pki::certificate::pem_of_der(&text).as_bytes()).is_err());
    }
}
