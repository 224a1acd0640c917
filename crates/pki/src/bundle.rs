//! Trust bundles and issuers.
use std::sync::Arc;

use crate::certificate::{Certificate, CertificateError, IssuerId};
use crate::digest::Digest;
use crate::key::Signer;
use crate::time::Time;

/// Why a bundle or issuer is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Unreadable.
    #[error("invalid root certificates: {0}")]
    Roots(CertificateError),
    /// Signing without a signer: issuance stays pending.
    #[error("no valid signer found")]
    NoSigner,
}

/// The trust anchors a node holds. Cheap to clone.
#[derive(Clone)]
pub struct TrustBundle {
    inner: Arc<Bundle>,
}

struct Bundle {
    raw: Vec<u8>,
    certificates: Vec<Certificate>,
    digest: Digest,
}

impl TrustBundle {
    /// Reads and checks a bundle (pki.md 3, steps 1 to 3).
    pub fn parse(pem: &[u8], _now: Time) -> Result<Self, BundleError> {
        Ok(TrustBundle {
            inner: Arc::new(Bundle {
                raw: pem.to_vec(),
                certificates: Certificate::parse_pem_bundle(pem).map_err(BundleError::Roots)?,
                digest: Digest::of(pem),
            }),
        })
    }

    /// The bytes as given: what the digest covers.
    pub fn raw(&self) -> &[u8] {
        &self.inner.raw
    }

    /// SHA-256 over the bytes as given.
    pub fn digest(&self) -> Digest {
        self.inner.digest
    }

    /// The trust anchors, in the order given.
    pub fn certificates(&self) -> &[Certificate] {
        &self.inner.certificates
    }
}

/// Who signs: trust bundle, signing certificate and key, intermediates to send along. Cheap to clone.
#[derive(Clone)]
pub struct Issuer {
    trust: TrustBundle,
    certificate: Certificate,
    signer: Arc<dyn Signer>,
    intermediates: Arc<[Certificate]>,
}

impl Issuer {
    /// Builds an issuer (pki.md 3).
    pub fn build(
        root_pem: &[u8],
        signer_cert_pem: Option<&[u8]>,
        signer: Option<Arc<dyn Signer>>,
        intermediates_pem: &[u8],
        now: Time,
    ) -> Result<Self, BundleError> {
        let trust = TrustBundle::parse(root_pem, now)?;
        let pem = signer_cert_pem.ok_or(BundleError::NoSigner)?;
        let certificate = Certificate::parse_pem_bundle(pem)
            .map_err(BundleError::Roots)?
            .first()
            .cloned()
            .ok_or(BundleError::NoSigner)?;
        Ok(Issuer {
            trust,
            certificate,
            signer: signer.ok_or(BundleError::NoSigner)?,
            intermediates: Certificate::parse_pem_bundle(intermediates_pem).map_err(BundleError::Roots)?.into(),
        })
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
}
