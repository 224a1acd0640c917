//! X.509 certificates as read: every copied part keeps its bytes.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use crate::asn1::Malformed;
use crate::digest::sha256;
use crate::identity::{self, Subject, SubjectError};
use crate::key::{KeyError, PublicKey, SignatureAlgorithm, SpkiHash, UnsupportedSignature};
use crate::pem_block;
use crate::pkcs7;
use crate::serial::Serial;
use crate::time::Time;

const TAG: &str = "CERTIFICATE";

/// Bytes that are no certificate. The text is that of conformance 107.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Failed to decode certificate: {0}")]
pub struct CertificateError(pub(crate) String);

/// Who signed: subject (DER name) and public key (DER SPKI) of an issuer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IssuerId {
    /// The issuer's subject, a DER name.
    pub subject: Vec<u8>,
    /// The issuer's SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

impl IssuerId {
    /// SHA-256 over both, each told apart: an issuer in 32 bytes.
    pub fn digest(&self) -> [u8; 32] {
        let mut bytes = Vec::with_capacity(8 + self.subject.len() + self.spki.len());
        bytes.extend_from_slice(&(self.subject.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&self.subject);
        bytes.extend_from_slice(&self.spki);
        sha256(&bytes)
    }
}

impl fmt::Debug for IssuerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", identity::common_name(&self.subject), SpkiHash::of(&self.spki))
    }
}

/// A certificate. Cheap to clone; equal if its bytes are.
#[derive(Clone)]
pub struct Certificate {
    inner: Arc<Parts>,
}

struct Parts {
    der: Box<[u8]>,
    tbs: Range<usize>,
    signature: Range<usize>,
    subject: Range<usize>,
    issuer: Range<usize>,
    spki: Range<usize>,
    /// Elements of the Extensions sequence, each with tag and length; empty if there are none.
    extensions: Vec<Range<usize>>,
    /// As encoded: 0 for v1, 2 for v3.
    version: u32,
    serial: Serial,
    not_before: Time,
    not_after: Time,
    algorithm: Result<SignatureAlgorithm, UnsupportedSignature>,
    key: Result<PublicKey, KeyError>,
    known: Known,
    anchor: OnceLock<Option<TrustAnchor<'static>>>,
}

/// What the extensions say.
#[derive(Default)]
struct Known {
    ski: Option<Vec<u8>>,
    aki: Option<Vec<u8>>,
    is_ca: bool,
    path_len: Option<u32>,
    /// Key usage present, and whether it allows signing certificates.
    cert_sign: Option<bool>,
    /// Extended key usage present: (server, client, any).
    usages: Option<(bool, bool, bool)>,
    dns_names: Vec<String>,
    unknown_critical: bool,
}

impl Certificate {
    /// Reads one DER certificate without anything after it.
    pub fn from_der(der: impl Into<Vec<u8>>) -> Result<Self, CertificateError> {
        let der: Vec<u8> = der.into();
        let inner = Parts::read(der.into_boxed_slice())?;
        Ok(Certificate { inner: Arc::new(inner) })
    }

    /// Reads all `CERTIFICATE` blocks, and the certificates in `PKCS7` blocks. Blanks alone give none; anything after the last block but blanks is an error (pki.md 3).
    pub fn parse_pem_bundle(pem: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let mut blocks = pem_block::Blocks::of(pem);
        let mut certificates = Vec::new();
        for block in blocks.by_ref() {
            if pkcs7::TAGS.contains(&block.tag()) {
                let inside = pkcs7::certificates(block.der())
                    .map_err(|Malformed| CertificateError("asn1: structure error in PKCS #7".to_owned()))?;
                if inside.is_empty() {
                    return Err(CertificateError("PKCS #7 structure contains no certificates".to_owned()));
                }
                for der in inside {
                    certificates.push(Self::from_der(der)?);
                }
                continue;
            }
            if block.tag() != TAG {
                return Err(CertificateError(format!("PEM block of type {}", block.tag())));
            }
            certificates.push(Self::from_der(block.into_public_der())?);
        }
        if blocks.rest().trim_ascii().is_empty() {
            Ok(certificates)
        } else {
            Err(CertificateError("not PEM".to_owned()))
        }
    }

    /// The bytes.
    pub fn der(&self) -> &[u8] {
        &self.inner.der
    }

    /// One PEM block.
    pub fn pem(&self) -> String {
        pem_of_der(self.der())
    }

    /// The subject, a DER name.
    pub fn subject_der(&self) -> &[u8] {
        self.slice(&self.inner.subject)
    }

    /// The issuer's name, DER.
    pub fn issuer_der(&self) -> &[u8] {
        self.slice(&self.inner.issuer)
    }

    /// The SubjectPublicKeyInfo.
    pub fn spki_der(&self) -> &[u8] {
        self.slice(&self.inner.spki)
    }

    /// The public key, if it is of a kind that is accepted.
    pub fn public_key(&self) -> Result<&PublicKey, KeyError> {
        self.inner.key.as_ref().map_err(Clone::clone)
    }

    /// SHA-256 of the SubjectPublicKeyInfo, whatever the kind of key.
    pub fn spki_hash(&self) -> SpkiHash {
        match &self.inner.key {
            Ok(key) => key.hash(),
            Err(_) => SpkiHash::of(self.spki_der()),
        }
    }

    /// The serial number.
    pub fn serial(&self) -> Serial {
        self.inner.serial
    }

    /// Start of the validity, inclusive.
    pub fn not_before(&self) -> Time {
        self.inner.not_before
    }

    /// End of the validity, inclusive.
    pub fn not_after(&self) -> Time {
        self.inner.not_after
    }

    /// Subject key identifier.
    pub fn ski(&self) -> Option<Vec<u8>> {
        self.inner.known.ski.clone()
    }

    /// Key identifier in the authority key identifier.
    pub fn aki(&self) -> Option<Vec<u8>> {
        self.inner.known.aki.clone()
    }

    /// Whether basic constraints say CA.
    pub fn is_ca(&self) -> bool {
        self.inner.known.is_ca
    }

    /// Path length constraint.
    pub fn path_len(&self) -> Option<u32> {
        self.inner.known.path_len
    }

    /// DNS names of the subject alternative name, in order.
    pub fn dns_names(&self) -> &[String] {
        &self.inner.known.dns_names
    }

    /// The algorithm of the certificate's own signature, if accepted.
    pub fn signature_algorithm(&self) -> Result<SignatureAlgorithm, UnsupportedSignature> {
        self.inner.algorithm.clone()
    }

    /// The subject as a node's: cluster, role, id.
    pub fn node_subject(&self) -> Result<Subject, SubjectError> {
        Subject::from_name_der(self.subject_der())
    }

    /// SHA-256 over the DER; for display.
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(self.der())
    }

    /// This certificate as an issuer: its own subject and key.
    pub fn issuer_id(&self) -> IssuerId {
        IssuerId { subject: self.subject_der().to_vec(), spki: self.spki_der().to_vec() }
    }

    /// Subject and issuer are the same name.
    pub fn self_named(&self) -> bool {
        self.subject_der() == self.issuer_der()
    }

    /// Whether `at` lies in the validity.
    pub fn valid_at(&self, at: Time) -> bool {
        self.not_before() <= at && at <= self.not_after()
    }

    /// The first CN of the subject, for texts; empty if there is none.
    pub fn common_name(&self) -> String {
        identity::common_name(self.subject_der())
    }

    /// The signed part, DER.
    pub fn tbs(&self) -> &[u8] {
        self.slice(&self.inner.tbs)
    }

    /// The signature: the bits, whose form is the algorithm's.
    pub fn signature(&self) -> &[u8] {
        self.slice(&self.inner.signature)
    }

    /// The extensions, each with tag and length.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = &[u8]> {
        self.inner.extensions.iter().map(|range| self.slice(range))
    }

    /// Version 1 or 2, which know no extensions.
    pub(crate) fn is_old_version(&self) -> bool {
        self.inner.version < 2
    }

    /// Whether this certificate may certify others: CA, and key usage, if present, with keyCertSign.
    /// Certificates older than v3 cannot say so; they may as trust anchors only.
    pub fn may_certify(&self) -> bool {
        self.is_ca() && self.inner.known.cert_sign != Some(false)
    }

    /// Whether this certificate, as a trust anchor, may certify others. Before v3 there was no way to say so: such roots may.
    pub fn may_anchor(&self) -> bool {
        self.is_old_version() || self.may_certify()
    }

    /// Whether the extended key usage, if present, allows this use.
    pub fn allows(&self, usage: crate::chain::Usage) -> bool {
        match self.inner.known.usages {
            None => true,
            Some((server, client, any)) => {
                any || match usage {
                    crate::chain::Usage::Server => server,
                    crate::chain::Usage::Client => client,
                }
            }
        }
    }

    /// Whether there is a critical extension that nobody here understands.
    pub(crate) fn has_unknown_constraints(&self) -> bool {
        self.inner.known.unknown_critical
    }

    /// The certificate as webpki's trust anchor; `None` if webpki cannot take it.
    pub(crate) fn anchor(&self) -> Option<&TrustAnchor<'static>> {
        let make = || {
            let der = CertificateDer::from(self.der());
            webpki::anchor_from_trusted_cert(&der).ok().map(|anchor| anchor.to_owned())
        };
        self.inner.anchor.get_or_init(make).as_ref()
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.inner.der.get(range.clone()).unwrap_or_default()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der() == other.der()
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "certificate {} {}", self.common_name(), self.serial())
    }
}

impl Parts {
    fn read(der: Box<[u8]>) -> Result<Self, CertificateError> {
        let refuse = |what: &str| CertificateError(what.to_owned());
        let (rest, parsed) = X509Certificate::from_der(&der).map_err(|_| refuse("asn1: structure error"))?;
        if !rest.is_empty() {
            return Err(refuse("asn1: syntax error: trailing data"));
        }
        let layout = Layout::read(&der).map_err(|_| refuse("asn1: structure error"))?;
        let serial = Serial::from_bytes(parsed.raw_serial()).map_err(|error| refuse(&error.to_string()))?;
        let time = |time: x509_parser::time::ASN1Time| Time::from_unix_secs(time.timestamp());
        let known = Known::read(&parsed);
        let (version, not_before, not_after) =
            (parsed.version.0, time(parsed.validity.not_before), time(parsed.validity.not_after));
        let key = PublicKey::from_spki_der(&der[layout.spki.clone()]);
        let algorithm = SignatureAlgorithm::from_identifier_der(&der[layout.algorithm.clone()]);
        drop(parsed);
        Ok(Parts {
            tbs: layout.tbs,
            signature: layout.signature,
            subject: layout.subject,
            issuer: layout.issuer,
            spki: layout.spki,
            extensions: layout.extensions,
            version,
            serial,
            not_before,
            not_after,
            algorithm,
            key,
            known,
            anchor: OnceLock::new(),
            der,
        })
    }
}

/// Where the parts of a certificate lie.
struct Layout {
    tbs: Range<usize>,
    algorithm: Range<usize>,
    signature: Range<usize>,
    issuer: Range<usize>,
    subject: Range<usize>,
    spki: Range<usize>,
    extensions: Vec<Range<usize>>,
}

impl Layout {
    fn read(der: &[u8]) -> Result<Self, Malformed> {
        use crate::asn1::{self, Element};
        let span = |part: &[u8]| {
            let start = part.as_ptr().addr().saturating_sub(der.as_ptr().addr());
            start..start + part.len()
        };
        let mut outer = Element::only(der)?.expect(asn1::SEQUENCE)?.inside()?;
        let tbs = outer.next()?.expect(asn1::SEQUENCE)?;
        let algorithm = span(outer.next()?.raw);
        let signature = span(outer.next()?.bits()?);
        outer.end()?;

        let mut fields = tbs.inside()?;
        fields.optional(asn1::explicit(0))?;
        fields.next()?.expect(asn1::INTEGER)?;
        let inner_algorithm = fields.next()?;
        if inner_algorithm.raw != &der[algorithm.clone()] {
            return Err(Malformed);
        }
        let issuer = span(fields.next()?.expect(asn1::SEQUENCE)?.raw);
        fields.next()?.expect(asn1::SEQUENCE)?;
        let subject = span(fields.next()?.expect(asn1::SEQUENCE)?.raw);
        let spki = span(fields.next()?.expect(asn1::SEQUENCE)?.raw);
        let mut extensions = Vec::new();
        while !fields.is_empty() {
            let field = fields.next()?;
            if field.tag == asn1::explicit(3) {
                let mut list = Element::only(field.value)?.expect(asn1::SEQUENCE)?.inside()?;
                while !list.is_empty() {
                    extensions.push(span(list.next()?.raw));
                }
            }
        }
        Ok(Layout { tbs: span(tbs.raw), algorithm, signature, issuer, subject, spki, extensions })
    }
}

impl Known {
    fn read(parsed: &X509Certificate<'_>) -> Self {
        let mut known = Known::default();
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => known.ski = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(authority) => {
                    known.aki = authority.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    known.is_ca = constraints.ca;
                    known.path_len = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => known.cert_sign = Some(usage.key_cert_sign()),
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    known.usages = Some((usage.server_auth, usage.client_auth, usage.any));
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    let dns = names.general_names.iter().filter_map(|name| match name {
                        GeneralName::DNSName(name) => Some((*name).to_owned()),
                        _ => None,
                    });
                    known.dns_names.extend(dns);
                }
                // webpki enforces these for leaves; names of CAs are not constrained here.
                ParsedExtension::NameConstraints(_) => {}
                _ if extension.critical => known.unknown_critical = true,
                _ => {}
            }
        }
        known
    }
}

/// The PEM block of a certificate given as DER, which is not looked at: for certificates that were parsed before they were stored.
pub fn pem_of_der(der: &[u8]) -> String {
    pem_block::encode_public(TAG, der)
}

/// PEM blocks one after the other.
pub fn encode_pem(certificates: &[Certificate]) -> String {
    certificates.iter().map(Certificate::pem).collect()
}

/// Normal form of a PEM text (pki.md 2.5): every block again without headers, 64 columns, `\n`, nothing between; empty if there is none.
pub fn normalize(pem: &[u8]) -> Vec<u8> {
    pem_block::Blocks::of(pem)
        .flat_map(|block| pem_block::encode_plain(block.tag(), block.der()).as_bytes().to_vec())
        .collect()
}
