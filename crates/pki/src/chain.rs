//! Chains: does a certificate reach a trust anchor, and is a received chain one (pki.md 4)?
//!
//! - webpki finds and judges the path of a leaf. It ignores what an anchor says about itself, so an anchor's dates,
//!   path length and right to certify are checked here, as Go (and so every engine) checks them.
//! - webpki takes no CA certificate as a leaf. For those (an operator's intermediate, a signing certificate) there is a
//!   small walk of our own with the same rules.
//! - Roots of one cluster share their name. So "signed by another key than the anchor of that name" means
//!   unknown authority, whichever error a verifier has for it.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, aws_lc_rs as algorithms};

use crate::bundle::TrustBundle;
use crate::certificate::{Certificate, CertificateError, IssuerId};
use crate::key::{KeyError, UnsupportedSignature};
use crate::time::Time;

/// CA certificates between a CA certificate under check and its anchor. webpki's own bound for leaves is 6.
const LADDER_MAX: usize = 6;
/// Signatures checked in one walk: a bound on what a chain of many equal names can cost.
const SIGNATURES_MAX: usize = 64;

const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA384_ABSENT_PARAMS,
    algorithms::RSA_PKCS1_2048_8192_SHA512_ABSENT_PARAMS,
];

/// What a chain is checked for: the extended key usage that must be allowed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Usage {
    /// The leaf's owner serves TLS.
    Server,
    /// The leaf's owner is a TLS client.
    Client,
}

/// Why a chain is not accepted. The texts are those of pki.md 4.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Nothing to check (conformance 127).
    #[error("no certificates to validate")]
    Empty,
    /// Unreadable (conformance 128).
    #[error(transparent)]
    Decode(#[from] CertificateError),
    /// A certificate of the chain begins later (conformance 132).
    #[error("certificate ({position} - {name}) not valid before {}, and it is currently {}: {INVALID}", .not_before.rfc1123(), .now.rfc1123())]
    NotYetValid {
        /// Place in the chain, from 1.
        position: usize,
        /// CN.
        name: String,
        /// Its start.
        not_before: Time,
        /// The present.
        now: Time,
    },
    /// A certificate of the chain is over (conformance 131).
    #[error("certificate ({position} - {name}) not valid after {}, and it is currently {}: {INVALID}", .not_after.rfc1123(), .now.rfc1123())]
    Expired {
        /// Place in the chain, from 1.
        position: usize,
        /// CN.
        name: String,
        /// Its end.
        not_after: Time,
        /// The present.
        now: Time,
    },
    /// A certificate is not signed by the next (conformance 122, 129).
    #[error("certificates do not form a chain: ({position} - {name}) is not signed by ({} - {issuer}): {reason}", .position + 1)]
    Broken {
        /// Place of the lower one, from 1.
        position: usize,
        /// Its CN.
        name: String,
        /// CN of the one that should have signed it.
        issuer: String,
        /// What is wrong.
        reason: LinkError,
    },
    /// No path to a trust anchor (conformance 118, 123, 130, 133).
    #[error("x509: certificate signed by unknown authority")]
    UnknownAuthority,
    /// There is a path, but one of its certificates, perhaps the anchor, is not valid at that time.
    #[error("{INVALID}")]
    PathExpired,
    /// Expiry was to be ignored, but the validities have no moment in common (conformance 134, 135).
    #[error("there is no time span for which all of the certificates, including a root, are valid")]
    NoTimeSpan,
    /// More intermediates than a path length constraint allows.
    #[error("x509: too many intermediates for path length constraint")]
    PathLength,
    /// There is a path, but it breaks another rule.
    #[error("x509: {0}")]
    Refused(String),
}

/// Go's words for a validity that does not hold now; tools look for them.
const INVALID: &str = "x509: certificate has expired or is not yet valid";

impl ChainError {
    /// A validity does not hold now: the class "expired/invalid" of pki.md 4.
    pub const fn is_expiry(&self) -> bool {
        matches!(
            self,
            ChainError::NotYetValid { .. }
                | ChainError::Expired { .. }
                | ChainError::PathExpired
                | ChainError::NoTimeSpan
        )
    }
}

/// Why one certificate is not signed by another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The upper one may not sign certificates.
    #[error("x509: invalid signature: parent certificate cannot sign this kind of certificate")]
    NotACa,
    /// The upper one's key is of a kind that is not accepted.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The lower one's signature algorithm is not accepted.
    #[error(transparent)]
    Algorithm(#[from] UnsupportedSignature),
    /// The signature is another's.
    #[error("x509: signature verification failed")]
    Signature,
}

/// A chain that was accepted.
#[derive(Clone, Debug)]
pub struct Validated {
    /// Leaf first, as received.
    pub chain: Vec<Certificate>,
    /// Who signed the leaf.
    pub issuer: IssuerId,
}

/// Validates a received PEM chain against a trust bundle (pki.md 4), for use as a server. `allow_expired`: accept certificates
/// that are over if there was a moment at which all of them and the root were valid.
pub fn validate(pem: &[u8], trust: &TrustBundle, allow_expired: bool, now: Time) -> Result<Validated, ChainError> {
    let chain = Certificate::parse_pem_bundle(pem)?;
    let issuer = validate_certificates(&chain, trust.certificates(), allow_expired, now)?;
    Ok(Validated { chain, issuer })
}

/// As [`validate`], over certificates already read. Returns the leaf's issuer.
pub fn validate_certificates(
    chain: &[Certificate],
    anchors: &[Certificate],
    allow_expired: bool,
    now: Time,
) -> Result<IssuerId, ChainError> {
    let (leaf, ladder) = chain.split_first().ok_or(ChainError::Empty)?;
    for (index, certificate) in chain.iter().enumerate() {
        check_dates(index + 1, certificate, allow_expired, now)?;
        if let Some(upper) = chain.get(index + 1) {
            check_dates(index + 2, upper, allow_expired, now)?;
            signed_by(certificate, upper).map_err(|reason| ChainError::Broken {
                position: index + 1,
                name: certificate.common_name(),
                issuer: upper.common_name(),
                reason,
            })?;
        }
    }
    if !allow_expired {
        return reaches(leaf, ladder, anchors, now, Usage::Server);
    }
    // The present, then the earliest end met so far: if there is a common moment, it is one of these.
    let mut at = now;
    let mut failure = match reaches(leaf, ladder, anchors, at, Usage::Server) {
        Ok(issuer) => return Ok(issuer),
        Err(failure) => failure,
    };
    for certificate in chain {
        if certificate.not_after() < at {
            at = certificate.not_after();
            match reaches(leaf, ladder, anchors, at, Usage::Server) {
                Ok(issuer) => return Ok(issuer),
                Err(later) => failure = later,
            }
        }
    }
    Err(if failure.is_expiry() { ChainError::NoTimeSpan } else { failure })
}

fn check_dates(position: usize, certificate: &Certificate, allow_expired: bool, now: Time) -> Result<(), ChainError> {
    if now < certificate.not_before() {
        return Err(ChainError::NotYetValid {
            position,
            name: certificate.common_name(),
            not_before: certificate.not_before(),
            now,
        });
    }
    if !allow_expired && certificate.not_after() < now {
        return Err(ChainError::Expired {
            position,
            name: certificate.common_name(),
            not_after: certificate.not_after(),
            now,
        });
    }
    Ok(())
}

/// Whether `upper` may certify and did sign `lower`. Names and dates are not compared.
pub fn signed_by(lower: &Certificate, upper: &Certificate) -> Result<(), LinkError> {
    if !upper.may_certify() {
        return Err(LinkError::NotACa);
    }
    let algorithm = lower.signature_algorithm()?;
    let key = upper.public_key()?;
    key.verify(algorithm, lower.tbs(), lower.signature()).map_err(|_| LinkError::Signature)
}

/// Finds a path from `leaf` over any of `ladder` (in any order, needed or not) to one of `anchors`, valid at `at` and for
/// `usage`; returns the leaf's direct issuer on it. A direct path is preferred. A certificate that is itself an
/// anchor reaches; its issuer is then itself.
pub fn reaches(
    leaf: &Certificate,
    ladder: &[Certificate],
    anchors: &[Certificate],
    at: Time,
    usage: Usage,
) -> Result<IssuerId, ChainError> {
    if leaf.is_ca() || anchors.contains(leaf) {
        Walk { ladder, anchors, at, usage, signatures: 0 }.climb(leaf, 0)
    } else {
        leaf_reaches(leaf, ladder, anchors, at, usage)
    }
}

fn leaf_reaches(
    leaf: &Certificate,
    ladder: &[Certificate],
    anchors: &[Certificate],
    at: Time,
    usage: Usage,
) -> Result<IssuerId, ChainError> {
    let (sources, trusted): (Vec<&Certificate>, Vec<TrustAnchor<'_>>) =
        anchors.iter().filter_map(|anchor| Some((anchor, borrowed(anchor.anchor()?)))).unzip();
    let ladder_der: Vec<CertificateDer<'_>> = ladder.iter().map(|step| CertificateDer::from(step.der())).collect();
    let time = unix_time(at);
    let source = |path: &VerifiedPath<'_>| {
        trusted
            .iter()
            .position(|anchor| std::ptr::eq(anchor, path.anchor()))
            .and_then(|index| sources.get(index))
            .copied()
    };
    // What webpki leaves out: the anchor's own word.
    let check_anchor = |path: &VerifiedPath<'_>| -> Result<(), webpki::Error> {
        let anchor = source(path).ok_or(webpki::Error::UnknownIssuer)?;
        let seconds = |time| unix_time(time);
        if at < anchor.not_before() {
            return Err(webpki::Error::CertNotValidYet { time, not_before: seconds(anchor.not_before()) });
        }
        if anchor.not_after() < at {
            return Err(webpki::Error::CertExpired { time, not_after: seconds(anchor.not_after()) });
        }
        if !anchor.may_anchor() {
            return Err(webpki::Error::EndEntityUsedAsCa);
        }
        let intermediates = path.intermediate_certificates().count();
        if anchor.path_len().is_some_and(|max| intermediates > max as usize) {
            return Err(webpki::Error::PathLenConstraintViolated);
        }
        Ok(())
    };
    let der = CertificateDer::from(leaf.der());
    let end_entity = EndEntityCert::try_from(&der).map_err(refusal)?;
    let purpose = match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    let path = end_entity
        .verify_for_usage(ALGORITHMS, &trusted, &ladder_der, time, purpose, None, Some(&check_anchor))
        .map_err(refusal)?;
    let above = path.intermediate_certificates().next();
    let issuer = match above {
        Some(step) => {
            let der = step.der();
            ladder.iter().find(|candidate| candidate.der() == der.as_ref())
        }
        None => source(&path),
    };
    issuer.map(Certificate::issuer_id).ok_or(ChainError::UnknownAuthority)
}

/// A walk up from a CA certificate.
struct Walk<'a> {
    ladder: &'a [Certificate],
    anchors: &'a [Certificate],
    at: Time,
    usage: Usage,
    signatures: usize,
}

impl Walk<'_> {
    /// `below`: certificates of the ladder between `lower` and the certificate under check, that one not counted.
    fn climb(&mut self, lower: &Certificate, below: usize) -> Result<IssuerId, ChainError> {
        if !lower.valid_at(self.at) {
            return Err(ChainError::PathExpired);
        }
        if lower.has_unknown_constraints() {
            return Err(ChainError::Refused("unhandled critical extension".to_owned()));
        }
        if self.anchors.contains(lower) {
            return Ok(lower.issuer_id());
        }
        if !lower.allows(self.usage) {
            return Err(ChainError::Refused("certificate specifies an incompatible key usage".to_owned()));
        }
        let mut failure = ChainError::UnknownAuthority;
        for anchor in self.anchors {
            if self.signed(lower, anchor, anchor.may_anchor()) {
                if !anchor.valid_at(self.at) {
                    failure = ChainError::PathExpired;
                } else if anchor.path_len().is_some_and(|max| below > max as usize) {
                    failure = ChainError::PathLength;
                } else {
                    return Ok(anchor.issuer_id());
                }
            }
        }
        if below >= LADDER_MAX {
            return Err(failure);
        }
        for step in self.ladder {
            if step == lower || !self.signed(lower, step, step.may_certify()) {
                continue;
            }
            if step.path_len().is_some_and(|max| below > max as usize) {
                failure = ChainError::PathLength;
                continue;
            }
            match self.climb(step, below + 1) {
                Ok(_) => return Ok(step.issuer_id()),
                Err(ChainError::UnknownAuthority) => {}
                Err(other) => failure = other,
            }
        }
        Err(failure)
    }

    fn signed(&mut self, lower: &Certificate, upper: &Certificate, may_certify: bool) -> bool {
        if !may_certify || lower.issuer_der() != upper.subject_der() || self.signatures >= SIGNATURES_MAX {
            return false;
        }
        self.signatures += 1;
        match (lower.signature_algorithm(), upper.public_key()) {
            (Ok(algorithm), Ok(key)) => key.verify(algorithm, lower.tbs(), lower.signature()).is_ok(),
            _ => false,
        }
    }
}

fn borrowed<'a>(anchor: &'a TrustAnchor<'static>) -> TrustAnchor<'a> {
    TrustAnchor {
        subject: anchor.subject.as_ref().into(),
        subject_public_key_info: anchor.subject_public_key_info.as_ref().into(),
        name_constraints: anchor.name_constraints.as_ref().map(|constraints| constraints.as_ref().into()),
    }
}

fn unix_time(time: Time) -> UnixTime {
    let seconds = u64::try_from(time.unix_secs()).unwrap_or(0);
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

fn refusal(error: webpki::Error) -> ChainError {
    use webpki::Error as E;
    match error {
        // Anchors of one name with other keys, perhaps of another kind.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            ChainError::UnknownAuthority
        }
        E::CertExpired { .. } | E::CertNotValidYet { .. } => ChainError::PathExpired,
        E::PathLenConstraintViolated => ChainError::PathLength,
        other => ChainError::Refused(other.to_string()),
    }
}
