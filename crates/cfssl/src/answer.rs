//! The certificate that a CA answered, checked field by field before any node sees it.

use std::time::Duration;

use pki::certificate::{Certificate, IssuerId};
use pki::chain::{self, ChainError, Usage};
use pki::key::PublicKey;
use pki::serial::Serial;
use pki::time::Time;
use pki::{CA_NAME, Role, Subject};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT, Oid};
use x509_parser::prelude::FromDer as _;

use crate::foreign::shown;
use crate::hostile::Hostile;

/// Bytes of the longest certificate text that is read.
pub const ANSWER_PEM_BYTES_MAX: usize = 65_536;
/// Certificates that an answer may hold: the leaf and what leads from it to the root.
pub const ANSWER_CERTIFICATES_MAX: usize = 5;

// Bits of the key usage, as x509-parser numbers them: digitalSignature, keyEncipherment, keyAgreement.
const KEY_USAGE_ALLOWED: u16 = 1 | 1 << 2 | 1 << 4;
const DIGITAL_SIGNATURE: u16 = 1;

/// The lives that are accepted.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct LifePolicy {
    /// From now to the end, at least.
    pub min: Duration,
    /// From now to the end, at most.
    pub max: Duration,
    /// How far the CA's clock may be ahead of ours.
    pub skew: Duration,
}

/// What a leaf must be.
#[derive(Copy, Clone, Debug)]
pub struct Expected<'a> {
    /// The request's key.
    pub key: &'a PublicKey,
    /// Cluster, role and node: subject and names.
    pub subject: &'a Subject,
    /// The root that it must lead to, and no other.
    pub root: &'a Certificate,
    /// Intermediates of that root that are known here, beside those that come with the answer.
    pub intermediates: &'a [Certificate],
    /// Lives that are accepted.
    pub life: LifePolicy,
}

/// A certificate that passed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The node's certificate.
    pub leaf: Certificate,
    /// The intermediates that came with it, each certifying the one before; often none.
    pub intermediates: Vec<Certificate>,
    /// Who signed the leaf.
    pub issuer: IssuerId,
}

/// Checks what a CA answered to the request for a node's certificate. `seen` tells whether a serial number of this CA was
/// met before; it is asked last, so only for certificates that are good otherwise.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(
    answer_pem: &[u8],
    expected: &Expected<'_>,
    now: Time,
    seen: impl FnOnce(&Serial) -> bool,
) -> Result<Signed, Hostile> {
    let mut certificates = read(answer_pem)?;
    let leaf = certificates.remove(0);
    let intermediates = certificates;

    let parsed = Parsed::of(&leaf)?;
    if leaf.public_key().ok() != Some(expected.key) {
        return Err(Hostile::WrongKey);
    }
    check_subject(&parsed, expected.subject)?;
    check_names(&parsed, expected.subject)?;
    check_leaf_usages(&parsed)?;
    check_life(&leaf, expected.life, now)?;
    check_begin(&leaf, expected.life.skew, now)?;
    check_algorithms(&leaf, &intermediates)?;
    parsed.no_unknown_extension()?;
    check_extra(&leaf, &intermediates)?;
    let issuer = check_chain(&leaf, &intermediates, expected, now)?;
    if seen(&leaf.serial()) {
        return Err(Hostile::SerialReused(leaf.serial().to_string()));
    }
    Ok(Signed { leaf, intermediates, issuer })
}

/// What a cross-signed root must be.
#[derive(Copy, Clone, Debug)]
pub struct ExpectedRoot<'a> {
    /// The root that is to be certified.
    pub new_root: &'a Certificate,
    /// The root that certifies it.
    pub old_root: &'a Certificate,
    /// From now to the end, at least.
    pub life_min: Duration,
    /// How far the CA's clock may be ahead of ours.
    pub skew: Duration,
}

/// Checks what a CA answered to the request to cross-sign a root (pki.md 11.4): subject and key of the new root, CA true,
/// certified by the old root, and lasting. Number and dates are the CA's choice.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_cross_signed(answer_pem: &[u8], expected: &ExpectedRoot<'_>, now: Time) -> Result<Certificate, Hostile> {
    let mut certificates = read(answer_pem)?;
    let signed = certificates.remove(0);
    if let Some(extra) = certificates.first() {
        return Err(Hostile::ExtraCertificate(shown(extra.common_name().as_bytes())));
    }
    let parsed = Parsed::of(&signed)?;
    let new_root = expected.new_root;
    if signed.spki_der() != new_root.spki_der() {
        return Err(Hostile::WrongKey);
    }
    if signed.subject_der() != new_root.subject_der() {
        return Err(Hostile::WrongSubject {
            expected: format!("CN={}", shown(new_root.common_name().as_bytes())),
            found: shown(parsed.0.subject().to_string().as_bytes()),
        });
    }
    if !signed.is_ca() {
        return Err(Hostile::NotCa);
    }
    let usage = parsed.0.key_usage().map_err(|_| unreadable("key usage"))?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(Hostile::KeyUsage("it does not allow signing certificates".to_owned()));
    }
    let life = LifePolicy { min: expected.life_min, max: Duration::MAX, skew: expected.skew };
    check_life(&signed, life, now)?;
    check_algorithms(&signed, &[])?;
    parsed.no_unknown_extension()?;
    let at = now.max(signed.not_before());
    for usage in [Usage::Server, Usage::Client] {
        chain::reaches(&signed, &[], std::slice::from_ref(expected.old_root), at, usage).map_err(Hostile::Chain)?;
    }
    if signed.issuer_der() != expected.old_root.subject_der() || signed == *expected.old_root {
        return Err(Hostile::Chain(ChainError::UnknownAuthority));
    }
    Ok(signed)
}

/// All certificates of a text; at least one.
fn read(pem: &[u8]) -> Result<Vec<Certificate>, Hostile> {
    if pem.len() > ANSWER_PEM_BYTES_MAX {
        return Err(Hostile::Unreadable(format!("it is longer than {ANSWER_PEM_BYTES_MAX} bytes")));
    }
    let certificates =
        Certificate::parse_pem_bundle(pem).map_err(|error| Hostile::Unreadable(shown(error.to_string().as_bytes())))?;
    if certificates.is_empty() {
        return Err(unreadable("there is none"));
    }
    if certificates.len() > ANSWER_CERTIFICATES_MAX {
        return Err(Hostile::ExtraCertificate(format!("{} certificates", certificates.len())));
    }
    Ok(certificates)
}

fn unreadable(what: &str) -> Hostile {
    Hostile::Unreadable(what.to_owned())
}

/// A certificate as x509-parser reads it, of version 3 and without an extension that is there twice.
struct Parsed<'a>(X509Certificate<'a>);

impl<'a> Parsed<'a> {
    fn of(certificate: &'a Certificate) -> Result<Self, Hostile> {
        let (_, parsed) =
            X509Certificate::from_der(certificate.der()).map_err(|_| unreadable("asn1: structure error"))?;
        if parsed.version.0 != 2 {
            return Err(Hostile::Version(parsed.version.0.saturating_add(1)));
        }
        // Go's readers refuse these, and so would the node.
        let serial = parsed.raw_serial();
        if serial.iter().all(|byte| *byte == 0) || serial.first().is_some_and(|first| first & 0x80 != 0) {
            return Err(unreadable("the serial number is not positive"));
        }
        // Which of two counts would depend on the reader.
        for (index, extension) in parsed.extensions().iter().enumerate() {
            if parsed.extensions().iter().skip(index + 1).any(|later| later.oid == extension.oid) {
                return Err(Hostile::Unreadable(format!("extension {} is there twice", extension.oid)));
            }
            if let ParsedExtension::ParseError { .. } = extension.parsed_extension() {
                return Err(Hostile::Unreadable(format!("extension {}", extension.oid)));
            }
        }
        Ok(Parsed(parsed))
    }

    fn no_unknown_extension(&self) -> Result<(), Hostile> {
        let unknown = self.0.extensions().iter().find(|extension| {
            extension.critical
                && !matches!(
                    extension.parsed_extension(),
                    ParsedExtension::KeyUsage(_)
                        | ParsedExtension::ExtendedKeyUsage(_)
                        | ParsedExtension::BasicConstraints(_)
                        | ParsedExtension::SubjectAlternativeName(_)
                )
        });
        unknown.map_or(Ok(()), |extension| Err(Hostile::UnknownExtension(extension.oid.to_string())))
    }
}

/// Exactly one O, OU and CN, and nothing else.
fn check_subject(parsed: &Parsed<'_>, expected: &Subject) -> Result<(), Hostile> {
    let mut wanted: Vec<(Oid<'_>, &str)> = vec![
        (OID_X509_ORGANIZATION_NAME, expected.cluster.as_str()),
        (OID_X509_ORGANIZATIONAL_UNIT, expected.role.ou()),
        (OID_X509_COMMON_NAME, expected.node.as_str()),
    ];
    let attributes = parsed.0.subject().iter_attributes();
    let all_wanted = attributes.map(|attribute| {
        let text = attribute.as_str().ok()?;
        let place = wanted.iter().position(|(kind, value)| kind == attribute.attr_type() && *value == text)?;
        wanted.swap_remove(place);
        Some(())
    });
    let exact = all_wanted.collect::<Option<Vec<()>>>().is_some() && wanted.is_empty();
    // The product reads the same bytes with a reader of its own: both must agree.
    let same = Subject::from_name_der(parsed.0.subject().as_raw()).is_ok_and(|subject| subject == *expected);
    if exact && same {
        return Ok(());
    }
    let (cluster, role, node) = (&expected.cluster, expected.role.ou(), &expected.node);
    Err(Hostile::WrongSubject {
        expected: format!("O={cluster}, OU={role}, CN={node}"),
        found: shown(parsed.0.subject().to_string().as_bytes()),
    })
}

/// The names of a node's certificate: role, id, and for managers the CA's name.
fn names_of(subject: &Subject) -> Vec<&str> {
    let mut names = vec![subject.role.ou(), subject.node.as_str()];
    if subject.role == Role::Manager {
        names.push(CA_NAME);
    }
    names
}

/// DNS names alone, exactly those of the node, each once, in any order.
fn check_names(parsed: &Parsed<'_>, subject: &Subject) -> Result<(), Hostile> {
    let names = parsed.0.subject_alternative_name().map_err(|_| unreadable("subject alternative name"))?;
    let found: Vec<String> = names.iter().flat_map(|names| &names.value.general_names).map(name_text).collect();
    let (mut sorted, mut expected) = (found.clone(), names_of(subject));
    sorted.sort_unstable();
    expected.sort_unstable();
    if sorted.iter().eq(expected.iter()) {
        return Ok(());
    }
    let expected = names_of(subject).into_iter().map(str::to_owned).collect();
    let found = found.iter().take(8).map(|name| shown(name.as_bytes())).collect();
    Err(Hostile::WrongNames { expected, found })
}

/// A DNS name as it is; any other with its kind, which holds a blank and so is no node's name.
fn name_text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        other => format!("not a DNS name: {other:?}"),
    }
}

fn check_leaf_usages(parsed: &Parsed<'_>) -> Result<(), Hostile> {
    let certificate = &parsed.0;
    let constraints = certificate.basic_constraints().map_err(|_| unreadable("basic constraints"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Hostile::IsCa);
    }
    let usage = certificate.key_usage().map_err(|_| unreadable("key usage"))?;
    let usage = usage.ok_or_else(|| Hostile::KeyUsage("there is none".to_owned()))?.value;
    if usage.flags & !KEY_USAGE_ALLOWED != 0 || usage.flags & DIGITAL_SIGNATURE == 0 {
        return Err(Hostile::KeyUsage(usage.to_string()));
    }
    let usage = certificate.extended_key_usage().map_err(|_| unreadable("extended key usage"))?;
    let usage = usage.ok_or_else(|| Hostile::ExtendedKeyUsage("there is none".to_owned()))?.value;
    if !usage.server_auth || !usage.client_auth {
        return Err(Hostile::ExtendedKeyUsage("servers and clients must both be allowed".to_owned()));
    }
    let others = [usage.any, usage.code_signing, usage.email_protection, usage.time_stamping, usage.ocsp_signing];
    if others.contains(&true) || !usage.other.is_empty() {
        return Err(Hostile::ExtendedKeyUsage("more is allowed than servers and clients".to_owned()));
    }
    Ok(())
}

fn check_life(certificate: &Certificate, policy: LifePolicy, now: Time) -> Result<(), Hostile> {
    let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
    let why = if not_before > now.saturating_add(policy.skew) {
        "which begins in the future"
    } else if not_after < now.saturating_add(policy.min) {
        "which ends too soon"
    } else if not_after > now.saturating_add(policy.max) {
        "which ends later than the cluster's certificates may"
    } else {
        return Ok(());
    };
    Err(Hostile::Lifetime { not_before, not_after, why })
}

/// Nodes renew when half of a life is over: one that began long ago would be renewed at once, again and again.
fn check_begin(leaf: &Certificate, skew: Duration, now: Time) -> Result<(), Hostile> {
    let (not_before, not_after) = (leaf.not_before(), leaf.not_after());
    if now.since(not_before) <= not_after.since(now).saturating_add(skew) {
        return Ok(());
    }
    Err(Hostile::Lifetime {
        not_before,
        not_after,
        why: "which began so long ago that it would have to be renewed now",
    })
}

fn check_algorithms(leaf: &Certificate, intermediates: &[Certificate]) -> Result<(), Hostile> {
    for certificate in std::iter::once(leaf).chain(intermediates) {
        certificate
            .signature_algorithm()
            .map_err(|error| Hostile::SignatureAlgorithm(shown(error.to_string().as_bytes())))?;
    }
    Ok(())
}

/// Beside the leaf only CA certificates that certify the one before, none of them a root.
fn check_extra(leaf: &Certificate, intermediates: &[Certificate]) -> Result<(), Hostile> {
    let mut lower = leaf;
    for upper in intermediates {
        let root = upper.self_named() && chain::signed_by(upper, upper).is_ok();
        let leads = lower.issuer_der() == upper.subject_der() && chain::signed_by(lower, upper).is_ok();
        if root || !leads || upper.public_key().ok() == leaf.public_key().ok() {
            return Err(Hostile::ExtraCertificate(shown(upper.common_name().as_bytes())));
        }
        Parsed::of(upper)?;
        lower = upper;
    }
    Ok(())
}

fn check_chain(
    leaf: &Certificate,
    intermediates: &[Certificate],
    expected: &Expected<'_>,
    now: Time,
) -> Result<IssuerId, Hostile> {
    // Within the skew a leaf that begins in a moment counts as begun.
    let at = now.max(leaf.not_before());
    // An engine checks the dates of everything in its file when it starts.
    let short = intermediates.iter().find(|intermediate| intermediate.not_after() < leaf.not_after());
    if let Some(short) = short {
        return Err(Hostile::Lifetime {
            not_before: short.not_before(),
            not_after: short.not_after(),
            why: "an intermediate that ends before the certificate below it",
        });
    }
    let root = std::slice::from_ref(expected.root);
    if let Some(top) = intermediates.last() {
        // On its own: what came with the leaf must lead to the root by itself or by what is known here.
        chain::reaches(top, expected.intermediates, root, at, Usage::Server).map_err(Hostile::Chain)?;
    }
    let known: Vec<Certificate> = intermediates.iter().chain(expected.intermediates).cloned().collect();
    let issuer = chain::reaches(leaf, &known, root, at, Usage::Server).map_err(Hostile::Chain)?;
    chain::reaches(leaf, &known, root, at, Usage::Client).map_err(Hostile::Chain)?;
    Ok(issuer)
}
