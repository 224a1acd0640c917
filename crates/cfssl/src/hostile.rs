//! What an external CA must not answer.

use pki::chain::ChainError;
use pki::time::Time;

/// Why the certificate that a CA answered is not used. Each kind has a [name](Hostile::name) for the alarm `hostile-ca`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Hostile {
    /// No certificate in it, or none that can be read in one way only.
    #[error("the CA's certificate cannot be read: {0}")]
    Unreadable(String),
    /// Not an X.509 certificate of version 3.
    #[error("the CA's certificate is of X.509 version {0}, not 3")]
    Version(u32),
    /// It certifies another key than the one of the request.
    #[error("the CA certified another key than the one asked for")]
    WrongKey,
    /// Its subject is not exactly the one asked for.
    #[error("the CA's certificate is for {found}, not for {expected}")]
    WrongSubject {
        /// What was asked for.
        expected: String,
        /// What is in it.
        found: String,
    },
    /// Its names are not exactly the ones asked for.
    #[error("the CA's certificate holds the names [{}], not [{}]", .found.join(", "), .expected.join(", "))]
    WrongNames {
        /// What was asked for.
        expected: Vec<String>,
        /// What is in it; names that are no DNS names with their kind.
        found: Vec<String>,
    },
    /// A leaf that may certify others.
    #[error("the CA's certificate is itself a CA's")]
    IsCa,
    /// A cross-signed root that may not certify others.
    #[error("the CA's certificate for a root is not a CA's")]
    NotCa,
    /// The key usage is missing, or allows what it must not.
    #[error("the CA's certificate has a wrong key usage: {0}")]
    KeyUsage(String),
    /// The extended key usage lacks a purpose, or has one that a node must not have.
    #[error("the CA's certificate has a wrong extended key usage: {0}")]
    ExtendedKeyUsage(String),
    /// It begins or ends outside of what is accepted.
    #[error("the CA's certificate is valid from {} to {}, {why}", .not_before.rfc3339(), .not_after.rfc3339())]
    Lifetime {
        /// Its start.
        not_before: Time,
        /// Its end.
        not_after: Time,
        /// What is wrong with that.
        why: &'static str,
    },
    /// Signed with an algorithm that is not accepted.
    #[error("the CA's certificate is signed with an algorithm that is not accepted: {0}")]
    SignatureAlgorithm(String),
    /// It does not lead to the root that the CA is for.
    #[error("the CA's certificate does not lead to its root: {0}")]
    Chain(#[source] ChainError),
    /// There are more certificates in the answer than lead to the root.
    #[error("the CA's answer holds a certificate that does not belong there: {0}")]
    ExtraCertificate(String),
    /// The serial number was given before.
    #[error("the CA gave the serial number {0} before")]
    SerialReused(String),
    /// A critical extension that nobody here knows.
    #[error("the CA's certificate has a critical extension that is not known: {0}")]
    UnknownExtension(String),
}

impl Hostile {
    /// The kind, in words with hyphens: what alarms, logs and tests go by.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Hostile::Unreadable(_) => "unreadable",
            Hostile::Version(_) => "version",
            Hostile::WrongKey => "wrong-key",
            Hostile::WrongSubject { .. } => "wrong-subject",
            Hostile::WrongNames { .. } => "wrong-names",
            Hostile::IsCa => "is-ca",
            Hostile::NotCa => "not-ca",
            Hostile::KeyUsage(_) => "key-usage",
            Hostile::ExtendedKeyUsage(_) => "extended-key-usage",
            Hostile::Lifetime { .. } => "lifetime",
            Hostile::SignatureAlgorithm(_) => "signature-algorithm",
            Hostile::Chain(_) => "chain",
            Hostile::ExtraCertificate(_) => "extra-certificate",
            Hostile::SerialReused(_) => "serial-reused",
            Hostile::UnknownExtension(_) => "unknown-extension",
        }
    }
}
