//! PKCS#11 URIs (RFC 7512).

/// A `pkcs11:` URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {}

/// Why a text is no URI that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// It does not begin with `pkcs11:`.
    #[error("not a PKCS#11 URI: it must begin with pkcs11:")]
    Scheme,
}
