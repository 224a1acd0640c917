//! Issuing: the profiles of pki.md 2, byte for byte as the engine writes them.
//!
//! - Issuer name, subject and key of others are copied, never written anew.
//! - The order of extensions is part of a profile.
//! - A leaf always has an AKI, and so has a cross-signed certificate, although there both names are equal and Go
//!   leaves it out: engines accept it, and OpenSSL verifies it only with it.

mod operators;
mod outside;

use std::time::Duration;

pub use operators::{
    OPERATOR_BACKDATE, OPERATOR_LIFE_DEFAULT, OPERATOR_LIFE_MAX, OPERATOR_LIFE_MIN, OPERATORS_ROOT_LIFE, OperatorLeaf,
    operator_leaf, operators_root,
};
pub use outside::{CrossSign, ServerLeaf, cross_sign_request, server_leaf};

use crate::asn1::{self, Element, oid};
use crate::bundle::Issuer;
use crate::certificate::{Certificate, CertificateError};
use crate::csr::Linted;
use crate::identity::{self, CA_NAME, Role, Subject};
use crate::key::{KeyError, PublicKey, SignError, Signer};
use crate::pem_block::Blocks;
use crate::serial::Serial;
use crate::time::Time;

/// Life of a generated root: 7300 days. Source: pki.md 1.
pub const ROOT_LIFE: Duration = Duration::from_secs(630_720_000);
/// How far before its making a root begins. Source: pki.md 1.
pub const ROOT_BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Life of a leaf from its making, if nothing else is asked: 90 days. Source: pki.md 1.
pub const LEAF_EXPIRY_DEFAULT: Duration = Duration::from_secs(90 * 24 * 3_600);
/// Shortest life of a leaf that is signed; less becomes the default (pki.md 2.2). Source: pki.md 1.
pub const LEAF_EXPIRY_MIN: Duration = Duration::from_secs(3_600);
/// How far before its making a leaf begins: the only tolerance for clocks that differ. Source: pki.md 1 and 18.
pub const LEAF_BACKDATE: Duration = Duration::from_secs(3_600);
/// Life that a root given by the operator must have left: 365 days. Source: pki.md 1.
pub const GIVEN_ROOT_LIFE_MIN: Duration = Duration::from_secs(8_760 * 3_600);

const _: () = assert!(LEAF_EXPIRY_MIN.as_secs() < LEAF_EXPIRY_DEFAULT.as_secs());
const _: () = assert!(LEAF_EXPIRY_DEFAULT.as_secs() < GIVEN_ROOT_LIFE_MIN.as_secs());

// Extensions that are the same in every certificate of a kind, each whole.
const CA_KEY_USAGE: &[u8] = &[0x30, 14, 6, 3, 0x55, 0x1d, 15, 1, 1, 0xff, 4, 4, 3, 2, 1, 0x06];
const CA_BASIC_CONSTRAINTS: &[u8] = &[0x30, 15, 6, 3, 0x55, 0x1d, 19, 1, 1, 0xff, 4, 5, 0x30, 3, 1, 1, 0xff];
const LEAF_KEY_USAGE: &[u8] = &[0x30, 14, 6, 3, 0x55, 0x1d, 15, 1, 1, 0xff, 4, 4, 3, 2, 5, 0xa0];
const LEAF_EXT_KEY_USAGE: &[u8] = &[
    0x30, 29, 6, 3, 0x55, 0x1d, 37, 4, 22, 0x30, 20, //
    6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1, // serverAuth
    6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2, // clientAuth
];
const LEAF_BASIC_CONSTRAINTS: &[u8] = &[0x30, 12, 6, 3, 0x55, 0x1d, 19, 1, 1, 0xff, 4, 2, 0x30, 0];

/// Why no certificate was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The signer gave no signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What was made cannot be read back: a fault of ours or of the issuer's certificate.
    #[error(transparent)]
    Malformed(#[from] CertificateError),
    /// Not exactly one PEM certificate (conformance 139).
    #[error("could not parse new CA certificate")]
    NotOneCertificate,
    /// The certificate to cross-sign is no CA's (conformance 138).
    #[error("certificate not a CA")]
    NotACa,
    /// The signature of a cross-signed certificate failed.
    #[error("could not cross-sign new CA certificate using old CA material: {0}")]
    CrossSign(#[source] SignError),
    /// The signer's key is not the one of the certificate that it is to sign for.
    #[error("certificate key mismatch")]
    KeyMismatch,
    /// The key to certify is of no accepted kind.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// Makes a self-signed root, `CN=swarm-ca` (pki.md 2.1).
pub fn root(signer: &dyn Signer, serial: Serial, now: Time) -> Result<Certificate, IssueError> {
    let name = identity::ca_name_der();
    let not_before = now.round_to_minute().saturating_sub(ROOT_BACKDATE);
    let key_id = subject_key_id(signer.public());
    let tbs = Tbs {
        serial,
        issuer: &name,
        not_before,
        not_after: not_before.saturating_add(ROOT_LIFE),
        subject: &name,
        spki: signer.public().spki_der(),
        extensions: &[CA_KEY_USAGE, CA_BASIC_CONSTRAINTS, &key_id],
    };
    tbs.sign(signer)
}

/// What a leaf says beside its key.
pub struct Leaf<'a> {
    /// Cluster, role and node: subject and SANs.
    pub subject: &'a Subject,
    /// From 20 random bytes, new for each leaf.
    pub serial: Serial,
    /// The present.
    pub now: Time,
    /// Life from now; less than [`LEAF_EXPIRY_MIN`] becomes [`LEAF_EXPIRY_DEFAULT`].
    pub expiry: Duration,
}

/// Issues a node's certificate (pki.md 2.2). From the request only the key is taken.
pub fn leaf(csr: &Linted, leaf: &Leaf<'_>, issuer: &Issuer) -> Result<Certificate, IssueError> {
    leaf_for_key(csr.public_key(), leaf, issuer.certificate(), issuer.signer().as_ref())
}

/// Issues a leaf for a key of one's own, as the first manager does for itself: no request is needed to prove that one has it.
pub fn leaf_for_signer(key: &dyn Signer, leaf: &Leaf<'_>, issuer: &Issuer) -> Result<Certificate, IssueError> {
    leaf_for_key(key.public(), leaf, issuer.certificate(), issuer.signer().as_ref())
}

fn leaf_for_key(
    key: &PublicKey,
    leaf: &Leaf<'_>,
    issuer: &Certificate,
    signer: &dyn Signer,
) -> Result<Certificate, IssueError> {
    let now = leaf.now.round_to_minute();
    let expiry = if leaf.expiry < LEAF_EXPIRY_MIN { LEAF_EXPIRY_DEFAULT } else { leaf.expiry };
    let mut names = vec![leaf.subject.role.ou(), leaf.subject.node.as_str()];
    if leaf.subject.role == Role::Manager {
        names.push(CA_NAME);
    }
    let tbs = Tbs {
        serial: leaf.serial,
        issuer: issuer.subject_der(),
        not_before: now.saturating_sub(LEAF_BACKDATE),
        not_after: now.saturating_add(expiry),
        subject: &leaf.subject.to_name_der(),
        spki: key.spki_der(),
        extensions: &[
            LEAF_KEY_USAGE,
            LEAF_EXT_KEY_USAGE,
            LEAF_BASIC_CONSTRAINTS,
            &subject_key_id(key),
            &authority_key_id(issuer),
            &alt_names(&names),
        ],
    };
    tbs.sign(signer)
}

/// Reads the certificate that is to be cross-signed: exactly one PEM object (pki.md 2.3).
pub fn parse_new_root(pem: &[u8]) -> Result<Certificate, IssueError> {
    let mut blocks = Blocks::of(pem);
    let block = blocks.next().ok_or(IssueError::NotOneCertificate)?;
    if block.tag() != "CERTIFICATE" || !blocks.rest().trim_ascii().is_empty() {
        return Err(IssueError::NotOneCertificate);
    }
    Certificate::from_der(block.der()).map_err(|_| IssueError::NotOneCertificate)
}

/// Certifies the new root by the old root's key (pki.md 2.3): same subject, key, serial, dates and extensions; the AKI is
/// the old root's. `not_after` shortens the life; it never lengthens it.
pub fn cross_sign(
    new_root: &Certificate,
    old_root: &Certificate,
    old: &dyn Signer,
    not_after: Option<Time>,
) -> Result<Certificate, IssueError> {
    if !new_root.may_certify() {
        return Err(IssueError::NotACa);
    }
    if old_root.public_key()? != old.public() {
        return Err(IssueError::KeyMismatch);
    }
    let authority = authority_key_id(old_root);
    let is_authority = |extension: &[u8]| {
        let kind = Element::only(extension).and_then(Element::inside).and_then(|mut parts| parts.next());
        kind.is_ok_and(|kind| kind.raw == oid::AUTHORITY_KEY_ID)
    };
    let mut extensions: Vec<&[u8]> = new_root.extensions().filter(|extension| !is_authority(extension)).collect();
    extensions.push(&authority);
    let tbs = Tbs {
        serial: new_root.serial(),
        issuer: old_root.subject_der(),
        not_before: new_root.not_before(),
        not_after: not_after.map_or(new_root.not_after(), |end| end.min(new_root.not_after())),
        subject: new_root.subject_der(),
        spki: new_root.spki_der(),
        extensions: &extensions,
    };
    tbs.sign(old).map_err(|error| match error {
        IssueError::Sign(error) => IssueError::CrossSign(error),
        other => other,
    })
}

/// The to-be-signed part of a certificate (RFC 5280, 4.1), always version 3.
struct Tbs<'a> {
    serial: Serial,
    /// DER.
    issuer: &'a [u8],
    not_before: Time,
    not_after: Time,
    /// DER.
    subject: &'a [u8],
    /// DER.
    spki: &'a [u8],
    /// Each with tag and length.
    extensions: &'a [&'a [u8]],
}

impl Tbs<'_> {
    fn sign(&self, signer: &dyn Signer) -> Result<Certificate, IssueError> {
        let algorithm = signer.algorithm().identifier_der();
        let extensions = asn1::tlv(asn1::SEQUENCE, self.extensions);
        let tbs = asn1::tlv(
            asn1::SEQUENCE,
            &[
                &[0xa0, 3, 2, 1, 2],
                &asn1::unsigned_integer(self.serial.as_bytes()),
                algorithm,
                self.issuer,
                &asn1::tlv(asn1::SEQUENCE, &[&date(self.not_before), &date(self.not_after)]),
                self.subject,
                self.spki,
                &asn1::tlv(asn1::explicit(3), &[&extensions]),
            ],
        );
        let signature = signer.sign(&tbs)?;
        let der = asn1::tlv(asn1::SEQUENCE, &[&tbs, algorithm, &asn1::bit_string(&signature)]);
        Ok(Certificate::from_der(der)?)
    }
}

/// UTCTime until 2049, GeneralizedTime from then on (RFC 5280, 4.1.2.5); beyond the year 9999 its last second.
pub(crate) fn date(time: Time) -> Vec<u8> {
    const LAST: Time = Time::from_unix_secs(253_402_300_799);
    let c = time.max(Time::from_unix_secs(0)).min(LAST).civil();
    let rest = format!("{:02}{:02}{:02}{:02}{:02}Z", c.month, c.day, c.hour, c.minute, c.second);
    if (1950..2050).contains(&c.year) {
        asn1::tlv(asn1::UTC_TIME, &[format!("{:02}{rest}", c.year % 100).as_bytes()])
    } else {
        asn1::tlv(asn1::GENERALIZED_TIME, &[format!("{:04}{rest}", c.year).as_bytes()])
    }
}

/// A non-critical extension.
pub(crate) fn extension(kind: &[u8], value: &[u8]) -> Vec<u8> {
    asn1::tlv(asn1::SEQUENCE, &[kind, &asn1::tlv(asn1::OCTET_STRING, &[value])])
}

fn subject_key_id(key: &PublicKey) -> Vec<u8> {
    extension(oid::SUBJECT_KEY_ID, &asn1::tlv(asn1::OCTET_STRING, &[&key.key_id()]))
}

/// The issuer's SKI; where it has none, what the SKI would be.
pub(crate) fn authority_key_id(issuer: &Certificate) -> Vec<u8> {
    let id = issuer.ski().or_else(|| issuer.public_key().ok().map(|key| key.key_id().to_vec())).unwrap_or_default();
    let value = asn1::tlv(asn1::SEQUENCE, &[&asn1::tlv(asn1::implicit(0), &[&id])]);
    extension(oid::AUTHORITY_KEY_ID, &value)
}

fn alt_names(names: &[&str]) -> Vec<u8> {
    let names: Vec<Vec<u8>> = names.iter().map(|name| asn1::tlv(asn1::implicit(2), &[name.as_bytes()])).collect();
    let parts: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    extension(oid::SUBJECT_ALT_NAME, &asn1::tlv(asn1::SEQUENCE, &parts))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::key::SignatureAlgorithm;

    /// Has a real engine's public key; its signatures are nothing.
    struct Pretender(PublicKey);

    impl Signer for Pretender {
        fn public(&self) -> &PublicKey {
            &self.0
        }

        fn algorithm(&self) -> SignatureAlgorithm {
            SignatureAlgorithm::EcdsaSha256
        }

        fn sign(&self, _: &[u8]) -> Result<Vec<u8>, SignError> {
            Ok(vec![0x30, 6, 2, 1, 1, 2, 1, 1])
        }
    }

    fn read(pem: &str) -> (Certificate, Pretender) {
        let certificate = Certificate::parse_pem_bundle(pem.as_bytes()).unwrap().remove(0);
        let key = certificate.public_key().unwrap().clone();
        (certificate, Pretender(key))
    }

    const LEAF: &str = include_str!("../tests/data/engine-leaf.crt");
    const CROSS: &str = include_str!("../tests/data/engine-cross.crt");
    const ROOT: &str = include_str!("../tests/data/engine-root.crt");

    /// Every byte that is signed is the engine's, given the same key, serial and time.
    #[test]
    fn c145_same_bytes_as_an_engine() {
        let (engine, key) = read(ROOT);
        let ours = root(&key, engine.serial(), engine.not_before().saturating_add(ROOT_BACKDATE)).unwrap();
        assert_eq!(ours.tbs(), engine.tbs());

        let ((engine, key), (issuer, signer)) = (read(LEAF), read(CROSS));
        let subject = engine.node_subject().unwrap();
        let details = Leaf {
            subject: &subject,
            serial: engine.serial(),
            now: engine.not_before().saturating_add(LEAF_BACKDATE + Duration::from_secs(29)),
            expiry: LEAF_EXPIRY_DEFAULT,
        };
        let ours = leaf_for_key(&key.0, &details, &issuer, &signer).unwrap();
        assert_eq!(ours.tbs(), engine.tbs());
    }

    #[test]
    fn c141_cross_signed_as_an_engine_does_but_with_aki() {
        let ((engine, new), (old, signer)) = (read(CROSS), read(ROOT));
        let ours = cross_sign(&engine, &old, &signer, None).unwrap();
        assert_eq!(ours.aki(), old.ski());
        assert_eq!(
            (ours.serial(), ours.not_before(), ours.not_after()),
            (engine.serial(), engine.not_before(), engine.not_after())
        );
        assert_eq!((ours.ski(), ours.public_key().unwrap()), (engine.ski(), &new.0));
        let again = cross_sign(&ours, &old, &signer, Some(ours.not_before())).unwrap();
        assert_eq!(again.extensions().count(), ours.extensions().count(), "one AKI, not two");
        assert_eq!(again.not_after(), ours.not_before());
        assert_eq!(
            cross_sign(&engine, &old, &signer, Some(Time::from_unix_millis(i64::MAX))).unwrap().not_after(),
            engine.not_after()
        );
    }

    #[test]
    fn c138_c139_what_is_not_cross_signed() {
        let ((leaf, _), (old, signer)) = (read(LEAF), read(ROOT));
        assert_eq!(cross_sign(&leaf, &old, &signer, None).unwrap_err().to_string(), "certificate not a CA");
        let (new, other) = read(CROSS);
        assert_eq!(cross_sign(&new, &old, &other, None).unwrap_err(), IssueError::KeyMismatch);
        let text = |pem: &str| parse_new_root(pem.as_bytes()).unwrap_err().to_string();
        for pem in
            ["", "garbage", include_str!("../tests/data/v1-root.key"), &format!("{ROOT}{ROOT}"), &format!("{ROOT}x")]
        {
            assert_eq!(text(pem), "could not parse new CA certificate");
        }
        assert_eq!(parse_new_root(ROOT.as_bytes()).unwrap(), old);
    }

    #[test]
    fn dates() {
        let check = |secs, tag: u8, text: &[u8]| {
            let der = date(Time::from_unix_secs(secs));
            assert_eq!((der[0], &der[2..]), (tag, text), "{secs}");
        };
        check(-5, 0x17, b"700101000000Z");
        check(2_524_607_999, 0x17, b"491231235959Z");
        check(2_524_608_000, 0x18, b"20500101000000Z");
        check(i64::MAX / 1_000, 0x18, b"99991231235959Z");
    }
}
