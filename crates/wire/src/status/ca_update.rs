//! Why the root that an update asks for cannot be had (engine-api.md 2.1, pki.md 12.2).

use std::fmt;

use tonic::Code;

/// Why the CA part of a cluster update is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CaUpdateRefusal {
    /// A key without a certificate.
    KeyWithoutCertificate,
    /// The root certificates do not validate.
    RootInvalid {
        /// The validation's own words.
        reason: String,
    },
    /// The key does not parse.
    KeyMalformed {
        /// The parser's own words.
        reason: String,
    },
    /// Key and certificate do not belong together.
    KeyMismatch,
    /// An RSA key of a size that is not accepted.
    RsaUnsupported,
    /// A curve that is not accepted.
    EcdsaUnsupported,
    /// Another kind of key.
    KeyKindUnsupported,
    /// More than one root.
    SeveralCertificates,
    /// The wanted certificate does not parse.
    CertificateMalformed,
    /// The wanted root ends too soon.
    ExpiresTooSoon,
    /// The wanted root has the key of the present one.
    SameKey,
    /// No external CA answers for a root.
    ExternalCaMissing {
        /// Which root: `current`, `desired` or `next`.
        which: WhichCa,
    },
    /// From one external CA to another.
    ExternalToExternal,
    /// No external CA for the present root, which must cross-sign.
    ExternalCrossSigner,
    /// The present root could not cross-sign.
    CrossSigningFailed,
    /// The stored root does not load.
    RootNotLoaded,
}

/// The root that an external CA is missing for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum WhichCa {
    /// The root in use.
    Current,
    /// The root asked for.
    Desired,
    /// The root being rotated to.
    Next,
}

impl WhichCa {
    const ALL: [WhichCa; 3] = [WhichCa::Current, WhichCa::Desired, WhichCa::Next];

    fn word(self) -> &'static str {
        match self {
            WhichCa::Current => "current",
            WhichCa::Desired => "desired",
            WhichCa::Next => "next",
        }
    }
}

const ROOT_INVALID_PREFIX: &str = "invalid root certificates: ";
const KEY_MALFORMED_PREFIX: &str = "malformed private key: ";

impl CaUpdateRefusal {
    /// The gRPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            CaUpdateRefusal::KeyWithoutCertificate
            | CaUpdateRefusal::RootInvalid { .. }
            | CaUpdateRefusal::KeyMalformed { .. }
            | CaUpdateRefusal::KeyMismatch
            | CaUpdateRefusal::RsaUnsupported
            | CaUpdateRefusal::EcdsaUnsupported
            | CaUpdateRefusal::KeyKindUnsupported
            | CaUpdateRefusal::SeveralCertificates
            | CaUpdateRefusal::CertificateMalformed
            | CaUpdateRefusal::ExpiresTooSoon
            | CaUpdateRefusal::SameKey
            | CaUpdateRefusal::ExternalCaMissing { .. }
            | CaUpdateRefusal::ExternalToExternal
            | CaUpdateRefusal::ExternalCrossSigner => Code::InvalidArgument,
            CaUpdateRefusal::CrossSigningFailed | CaUpdateRefusal::RootNotLoaded => Code::Internal,
        }
    }

    pub(super) fn recognise(text: &str) -> Option<CaUpdateRefusal> {
        let fixed = [
            CaUpdateRefusal::KeyWithoutCertificate,
            CaUpdateRefusal::KeyMismatch,
            CaUpdateRefusal::RsaUnsupported,
            CaUpdateRefusal::EcdsaUnsupported,
            CaUpdateRefusal::KeyKindUnsupported,
            CaUpdateRefusal::SeveralCertificates,
            CaUpdateRefusal::CertificateMalformed,
            CaUpdateRefusal::ExpiresTooSoon,
            CaUpdateRefusal::SameKey,
            CaUpdateRefusal::ExternalToExternal,
            CaUpdateRefusal::ExternalCrossSigner,
            CaUpdateRefusal::CrossSigningFailed,
            CaUpdateRefusal::RootNotLoaded,
        ];
        let which = WhichCa::ALL.map(|which| CaUpdateRefusal::ExternalCaMissing { which });
        if let Some(found) = fixed.into_iter().chain(which).find(|one| one.to_string() == text) {
            return Some(found);
        }
        if let Some(reason) = text.strip_prefix(ROOT_INVALID_PREFIX) {
            return Some(CaUpdateRefusal::RootInvalid { reason: reason.to_owned() });
        }
        let reason = text.strip_prefix(KEY_MALFORMED_PREFIX)?;
        Some(CaUpdateRefusal::KeyMalformed { reason: reason.to_owned() })
    }
}

impl fmt::Display for CaUpdateRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaUpdateRefusal::KeyWithoutCertificate => {
                f.write_str("if a signing CA key is provided, the signing CA cert must also be provided")
            }
            CaUpdateRefusal::RootInvalid { reason } => write!(f, "{ROOT_INVALID_PREFIX}{reason}"),
            CaUpdateRefusal::KeyMalformed { reason } => {
                write!(f, "{KEY_MALFORMED_PREFIX}{reason}")
            }
            CaUpdateRefusal::KeyMismatch => f.write_str("certificate key mismatch"),
            CaUpdateRefusal::RsaUnsupported => f.write_str("unsupported RSA key parameters"),
            CaUpdateRefusal::EcdsaUnsupported => f.write_str("unsupported ECDSA key parameters"),
            CaUpdateRefusal::KeyKindUnsupported => {
                f.write_str("unknown or unsupported certificate public key algorithm")
            }
            CaUpdateRefusal::SeveralCertificates => {
                f.write_str("the desired CA certificate cannot contain multiple certificates")
            }
            CaUpdateRefusal::CertificateMalformed => f.write_str("could not parse the desired CA certificate"),
            CaUpdateRefusal::ExpiresTooSoon => f.write_str("CA certificate expires too soon"),
            CaUpdateRefusal::SameKey => f.write_str("Cannot update to a cert with an identical key"),
            CaUpdateRefusal::ExternalCaMissing { which } => write!(
                f,
                "there must be at least one valid, reachable external CA corresponding to the {} CA certificate",
                which.word()
            ),
            CaUpdateRefusal::ExternalToExternal => {
                f.write_str("rotating from one external CA to a different external CA is not supported")
            }
            CaUpdateRefusal::ExternalCrossSigner => f.write_str(
                "must provide an external CA for the current external root CA to generate a cross-signed certificate",
            ),
            CaUpdateRefusal::CrossSigningFailed => {
                f.write_str("unable to generate a cross-signed certificate for root rotation")
            }
            CaUpdateRefusal::RootNotLoaded => f.write_str("error loading cluster rootCA for update"),
        }
    }
}
