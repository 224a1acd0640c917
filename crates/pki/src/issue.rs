//! Issuing: the profiles of pki.md 2.
use std::time::Duration;

use crate::bundle::Issuer;
use crate::certificate::{Certificate, CertificateError};
use crate::csr::Linted;
use crate::identity::Subject;
use crate::key::{SignError, Signer};
use crate::serial::Serial;
use crate::time::Time;

/// Why no certificate was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The signer gave no signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What was made cannot be read back.
    #[error(transparent)]
    Malformed(#[from] CertificateError),
}

/// What a leaf says beside its key.
pub struct Leaf<'a> {
    /// Cluster, role, node.
    pub subject: &'a Subject,
    /// From 20 random bytes.
    pub serial: Serial,
    /// The present.
    pub now: Time,
    /// Life from now; under one hour the default of 90 days is taken.
    pub expiry: Duration,
}

/// A self-signed root (pki.md 2.1).
pub fn root(_signer: &dyn Signer, _serial: Serial, _now: Time) -> Result<Certificate, IssueError> {
    Err(SignError::Failed.into())
}

/// A leaf (pki.md 2.2).
pub fn leaf(_csr: &Linted, _leaf: &Leaf<'_>, _issuer: &Issuer) -> Result<Certificate, IssueError> {
    Err(SignError::Failed.into())
}

/// The new root, signed by the old (pki.md 2.3).
pub fn cross_sign(
    _new_root: &Certificate,
    _old_root: &Certificate,
    _old: &dyn Signer,
    _not_after: Option<Time>,
) -> Result<Certificate, IssueError> {
    Err(SignError::Failed.into())
}
