//! Trust bundles and issuers (pki.md 3). A bundle verifies, an issuer signs.

use std::sync::Arc;

use crate::certificate::{Certificate, CertificateError, IssuerId};
use crate::chain::{self, ChainError, Usage};
use crate::digest::Digest;
use crate::key::{KeyError, PrivateKey, Signer, UnsupportedSignature};
use crate::time::Time;

/// Why a bundle or issuer is not accepted. The texts are those of pki.md 3.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The roots cannot be read (conformance 107).
    #[error("invalid root certificates: {0}")]
    Roots(#[source] CertificateError),
    /// There is no root (conformance 109).
    #[error("no valid root CA certificates found")]
    NoRoots,
    /// A root or signing certificate has a signature of a kind that is not accepted (conformance 113).
    #[error(transparent)]
    Algorithm(#[from] UnsupportedSignature),
    /// A root is over (conformance 112).
    #[error("error while validating Root CA Certificate: x509: certificate has expired: it ended {}, and it is currently {}", .not_after.rfc1123(), .now.rfc1123())]
    RootExpired {
        /// Its end.
        not_after: Time,
        /// The present.
        now: Time,
    },
    /// A root begins later (conformance 111).
    #[error("error while validating Root CA Certificate: x509: certificate is not yet valid: it begins {}, and it is currently {}", .not_before.rfc1123(), .now.rfc1123())]
    RootNotYetValid {
        /// Its start.
        not_before: Time,
        /// The present.
        now: Time,
    },
    /// The intermediates are no chain to a root (conformance 120 to 123).
    #[error("invalid intermediate chain: {0}")]
    Intermediates(#[source] ChainError),
    /// Only one half of the signer is given (conformance 119).
    #[error("must provide both a signing key and a signing cert, or neither")]
    HalfASigner,
    /// The signing certificate cannot be read (conformance 108).
    #[error("invalid signing CA cert: {0}")]
    Signer(#[source] CertificateError),
    /// There is no signing certificate in what was given (conformance 110).
    #[error("no valid signing CA certificates found")]
    NoSigningCertificate,
    /// The signing certificate does not reach a root (conformance 111, 118).
    #[error("error while validating signing CA certificate against roots and intermediates: {0}")]
    SignerChain(#[source] ChainError),
    /// The signing key cannot be read (conformance 114).
    #[error("malformed private key: {0}")]
    MalformedKey(#[source] KeyError),
    /// The signing certificate's key is RSA of a bad size or exponent, or on another curve (conformance 115, 116).
    #[error(transparent)]
    UnsupportedKey(KeyError),
    /// The signing certificate's key is neither ECDSA nor RSA.
    #[error("unknown or unsupported certificate public key algorithm")]
    UnknownKey,
    /// Key and certificate of the signer do not belong together (conformance 63, 117).
    #[error("certificate key mismatch")]
    KeyMismatch,
    /// The first intermediate is not the signer's (conformance 124).
    #[error(
        "invalid intermediate chain - the first intermediate must have the same subject and public key as the signing cert"
    )]
    OtherIntermediate,
    /// No signer at hand. Recoverable: issuance stays pending (conformance 61).
    #[error("no valid signer found")]
    NoSigner,
}

/// The trust anchors a node holds. Cheap to clone; equal if its bytes are.
#[derive(Clone)]
pub struct TrustBundle {
    inner: Arc<Bundle>,
}

struct Bundle {
    raw: Box<[u8]>,
    certificates: Vec<Certificate>,
    digest: Digest,
}

impl TrustBundle {
    /// Reads and checks a bundle: at least one root, each signed with an accepted algorithm and valid now (pki.md 3, 1 to 3).
    pub fn parse(pem: &[u8], now: Time) -> Result<Self, BundleError> {
        let certificates = Certificate::parse_pem_bundle(pem).map_err(BundleError::Roots)?;
        if certificates.is_empty() {
            return Err(BundleError::NoRoots);
        }
        for root in &certificates {
            root.signature_algorithm()?;
            if now < root.not_before() {
                return Err(BundleError::RootNotYetValid { not_before: root.not_before(), now });
            }
            if root.not_after() < now {
                return Err(BundleError::RootExpired { not_after: root.not_after(), now });
            }
        }
        Ok(TrustBundle { inner: Arc::new(Bundle { raw: pem.into(), certificates, digest: Digest::of(pem) }) })
    }

    /// The bytes as given: what the digest covers and what is served.
    pub fn raw(&self) -> &[u8] {
        &self.inner.raw
    }

    /// SHA-256 over the bytes as given; join tokens name it.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// The trust anchors, in the order given; at least one.
    pub fn certificates(&self) -> &[Certificate] {
        &self.inner.certificates
    }

    /// Reads intermediates and checks that they are a chain to one of these roots (pki.md 3, 4); none is fine.
    pub fn intermediates(&self, pem: &[u8], now: Time) -> Result<Vec<Certificate>, BundleError> {
        let certificates = Certificate::parse_pem_bundle(pem)
            .map_err(|error| BundleError::Intermediates(ChainError::Decode(error)))?;
        if !certificates.is_empty() {
            chain::validate_certificates(&certificates, self.certificates(), false, now)
                .map_err(BundleError::Intermediates)?;
        }
        Ok(certificates)
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.raw() == other.raw()
    }
}

impl Eq for TrustBundle {}

impl std::fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "trust bundle {} of {}", self.digest(), self.certificates().len())
    }
}

/// Who signs leaves: trust bundle, signing certificate and key, and the intermediates that go along. Checked as a whole
/// when built. Cheap to clone.
#[derive(Clone)]
pub struct Issuer {
    trust: TrustBundle,
    certificate: Certificate,
    signer: Arc<dyn Signer>,
    intermediates: Arc<[Certificate]>,
}

impl Issuer {
    /// Builds an issuer from a signer that is at hand (pki.md 3). With neither certificate nor signer:
    /// [`BundleError::NoSigner`], after everything else was checked.
    pub fn build(
        root_pem: &[u8],
        signer_cert_pem: Option<&[u8]>,
        signer: Option<Arc<dyn Signer>>,
        intermediates_pem: &[u8],
        now: Time,
    ) -> Result<Self, BundleError> {
        let signer = signer.map(|signer| move || Ok(signer));
        Self::check(root_pem, signer_cert_pem, signer, intermediates_pem, now)
    }

    /// Builds an issuer whose key is given as text: unencrypted PKCS #8, SEC1 or PKCS #1.
    pub fn from_pem(
        root_pem: &[u8],
        signer_cert_pem: Option<&[u8]>,
        signer_key_pem: Option<&[u8]>,
        intermediates_pem: &[u8],
        now: Time,
    ) -> Result<Self, BundleError> {
        let signer = signer_key_pem.map(|pem| {
            move || match PrivateKey::from_pem(pem, None) {
                Ok(key) => Ok(Arc::new(key) as Arc<dyn Signer>),
                // The certificate's key was accepted before, so a key of another kind is another key.
                Err(KeyError::RsaSize { .. } | KeyError::RsaExponent | KeyError::Curve(_) | KeyError::Algorithm(_)) => {
                    Err(BundleError::KeyMismatch)
                }
                Err(other) => Err(BundleError::MalformedKey(other)),
            }
        });
        Self::check(root_pem, signer_cert_pem, signer, intermediates_pem, now)
    }

    /// The checks, in the order of pki.md 3.
    fn check(
        root_pem: &[u8],
        signer_cert_pem: Option<&[u8]>,
        signer: Option<impl FnOnce() -> Result<Arc<dyn Signer>, BundleError>>,
        intermediates_pem: &[u8],
        now: Time,
    ) -> Result<Self, BundleError> {
        let trust = TrustBundle::parse(root_pem, now)?;
        let intermediates = trust.intermediates(intermediates_pem, now)?;
        let (signer_cert_pem, signer) = match (signer_cert_pem, signer) {
            (Some(pem), Some(signer)) => (pem, signer),
            (None, None) => return Err(BundleError::NoSigner),
            _ => return Err(BundleError::HalfASigner),
        };
        let certificate = Certificate::parse_pem_bundle(signer_cert_pem)
            .map_err(BundleError::Signer)?
            .into_iter()
            .next()
            .ok_or(BundleError::NoSigningCertificate)?;
        certificate.signature_algorithm()?;
        chain::reaches(&certificate, &intermediates, trust.certificates(), now, Usage::Server)
            .map_err(BundleError::SignerChain)?;
        let key = certificate.public_key().map_err(|error| match error {
            KeyError::RsaSize { .. } | KeyError::RsaExponent | KeyError::Curve(_) => BundleError::UnsupportedKey(error),
            _ => BundleError::UnknownKey,
        })?;
        let signer = signer()?;
        if signer.public() != key {
            return Err(BundleError::KeyMismatch);
        }
        if let Some(first) = intermediates.first()
            && (first.subject_der() != certificate.subject_der() || first.spki_der() != certificate.spki_der())
        {
            return Err(BundleError::OtherIntermediate);
        }
        Ok(Issuer { trust, certificate, signer, intermediates: intermediates.into() })
    }

    /// The trust bundle.
    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// The signing certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The signing key.
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// What is appended to new leaves.
    pub fn intermediates(&self) -> &[Certificate] {
        &self.intermediates
    }

    /// Subject and key of the signing certificate.
    pub fn id(&self) -> IssuerId {
        self.certificate.issuer_id()
    }

    /// A leaf with the intermediates after it, as PEM: the `certificate` field and `swarm-node.crt` (pki.md 2.4).
    pub fn chain_pem(&self, leaf: &Certificate) -> String {
        let mut pem = leaf.pem();
        for intermediate in self.intermediates() {
            pem.push_str(&intermediate.pem());
        }
        pem
    }
}
