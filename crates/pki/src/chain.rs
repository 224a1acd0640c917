//! Chains of certificates.
use crate::bundle::TrustBundle;
use crate::certificate::{Certificate, CertificateError, IssuerId};
use crate::time::Time;

/// What a chain is checked for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Usage {
    /// The leaf's owner serves TLS.
    Server,
    /// The leaf's owner is a TLS client.
    Client,
}

/// Why a chain is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// Nothing to check.
    #[error("no certificates to validate")]
    Empty,
    /// Unreadable.
    #[error(transparent)]
    Decode(#[from] CertificateError),
    /// No path to a trust anchor.
    #[error("x509: certificate signed by unknown authority")]
    UnknownAuthority,
}

/// A chain that was accepted.
#[derive(Clone, Debug)]
pub struct Validated {
    /// Leaf first.
    pub chain: Vec<Certificate>,
    /// Who signed the leaf.
    pub issuer: IssuerId,
}

/// Validates a PEM chain against a trust bundle (pki.md 4).
pub fn validate(pem: &[u8], _trust: &TrustBundle, _allow_expired: bool, _now: Time) -> Result<Validated, ChainError> {
    Certificate::parse_pem_bundle(pem)?;
    Err(ChainError::Empty)
}

/// Finds a path from a leaf to a trust anchor; the leaf's direct issuer on it.
pub fn reaches(_leaf: &Certificate, _ladder: &[Certificate], _anchors: &[Certificate], _at: Time, _usage: Usage) -> Result<IssuerId, ChainError> {
    Err(ChainError::UnknownAuthority)
}
