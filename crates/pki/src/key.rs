//! Public keys, signature algorithms and the [`Signer`] that a CA key hides behind.
//!
//! Accepted: ECDSA on P-256, P-384 and P-521, RSA of at least 2048 bits (pki.md 3 and 6.1). The kind is
//! always read from the key itself, never from a signature algorithm named beside it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use crate::asn1::{self, Element, Malformed, oid};
use crate::digest::sha256;

pub use crate::private_key::PrivateKey;

/// Bits of the smallest RSA key that is accepted anywhere. Source: pki.md 3, step 5.
pub const RSA_BITS_MIN: u32 = 2_048;
/// Bits of the largest RSA key that is accepted anywhere: the verifier's bound.
pub const RSA_BITS_MAX: u32 = 8_192;

/// SHA-256 of a SubjectPublicKeyInfo's DER: which key.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpkiHash(pub [u8; 32]);

impl SpkiHash {
    /// The hash of an SPKI, whatever its kind.
    pub fn of(spki_der: &[u8]) -> Self {
        SpkiHash(sha256(spki_der))
    }
}

impl fmt::Debug for SpkiHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::digest::hex(&self.0))
    }
}

/// Kind and size of a key.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// ECDSA on NIST P-256.
    EcP256,
    /// ECDSA on NIST P-384.
    EcP384,
    /// ECDSA on NIST P-521.
    EcP521,
    /// RSA.
    Rsa {
        /// Bits of the modulus.
        bits: u32,
    },
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::EcP256 => f.write_str("ECDSA P-256"),
            KeyKind::EcP384 => f.write_str("ECDSA P-384"),
            KeyKind::EcP521 => f.write_str("ECDSA P-521"),
            KeyKind::Rsa { bits } => write!(f, "RSA {bits}"),
        }
    }
}

/// Why bytes are no key that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No DER, or not the DER of a key.
    #[error("asn1: malformed {0}")]
    Malformed(&'static str),
    /// A key of another kind, by name.
    #[error(
        "unsupported key algorithm: {0} keys are not accepted, use ECDSA P-256, P-384, P-521 or RSA of at least 2048 bits"
    )]
    Algorithm(String),
    /// A curve other than P-256, P-384 and P-521.
    #[error("unsupported ECDSA key parameters: curve {0} is not accepted, use P-256, P-384 or P-521")]
    Curve(String),
    /// An RSA key of a size outside the bounds.
    #[error("unsupported RSA key parameters: RSA keys of {bits} bits are not accepted, use {min} to {max} bits", min = RSA_BITS_MIN, max = RSA_BITS_MAX)]
    RsaSize {
        /// Bits of the modulus.
        bits: u32,
    },
    /// An RSA key with a public exponent of 1, even, or beyond 31 bits.
    #[error("unsupported RSA key parameters: bad public exponent")]
    RsaExponent,
    /// The seed is no private scalar of the curve: draw again.
    #[error("seed out of range, draw another")]
    Seed,
    /// No PEM block that holds a private key.
    #[error("no private key in PEM form found")]
    NoPem,
    /// The key is encrypted and no password was given.
    #[error("private key is encrypted and no password was given")]
    Encrypted,
    /// The password is wrong, or the key is damaged.
    #[error("pkcs8: incorrect password")]
    Password,
    /// Decryption gave a bad padding: nearly always a wrong password.
    #[error("pkcs8: invalid padding size")]
    Padding,
    /// Encrypted with something else than PBES2 with PBKDF2 and AES-256-CBC.
    #[error("pkcs8: only {0} supported")]
    Encryption(&'static str),
    /// The private key and the public key stored with it do not belong together.
    #[error("private key does not match its public key")]
    Inconsistent,
    /// The key has no such form (SEC1 is for ECDSA only).
    #[error("{0} keys have no SEC1 form")]
    NoSec1(KeyKind),
}

/// Signature algorithms of CSRs and certificates that are accepted: SHA-2 with ECDSA or RSA (PKCS #1 v1.5).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum SignatureAlgorithm {
    /// ecdsa-with-SHA256.
    EcdsaSha256,
    /// ecdsa-with-SHA384.
    EcdsaSha384,
    /// ecdsa-with-SHA512.
    EcdsaSha512,
    /// sha256WithRSAEncryption.
    RsaSha256,
    /// sha384WithRSAEncryption.
    RsaSha384,
    /// sha512WithRSAEncryption.
    RsaSha512,
}

/// A signature algorithm that is not accepted, by the name Go gives it (pki.md 3, step 2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unsupported signature algorithm: {0}")]
pub struct UnsupportedSignature(pub String);

const ALGORITHMS: [SignatureAlgorithm; 6] = [
    SignatureAlgorithm::EcdsaSha256,
    SignatureAlgorithm::EcdsaSha384,
    SignatureAlgorithm::EcdsaSha512,
    SignatureAlgorithm::RsaSha256,
    SignatureAlgorithm::RsaSha384,
    SignatureAlgorithm::RsaSha512,
];

/// AlgorithmIdentifiers that are known by name only. OIDs with tag and length.
const REFUSED_ALGORITHMS: [(&[u8], &str); 11] = [
    (&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1], "ECDSA-SHA1"),
    (&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 1], "ECDSA-SHA224"),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 2], "MD2-RSA"),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4], "MD5-RSA"),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5], "SHA1-RSA"),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10], "RSA-PSS"),
    (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 14], "SHA224-RSA"),
    (&[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x38, 4, 3], "DSA-SHA1"),
    (&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 2], "DSA-SHA256"),
    (oid::ED25519, "Ed25519"),
    (oid::ED448, "Ed448"),
];

impl SignatureAlgorithm {
    /// The AlgorithmIdentifier: no parameters with ECDSA, NULL with RSA (RFC 5758, RFC 4055).
    pub fn identifier_der(self) -> &'static [u8] {
        match self {
            SignatureAlgorithm::EcdsaSha256 => &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
            SignatureAlgorithm::EcdsaSha384 => &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
            SignatureAlgorithm::EcdsaSha512 => &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4],
            SignatureAlgorithm::RsaSha256 => &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11, 5, 0],
            SignatureAlgorithm::RsaSha384 => &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12, 5, 0],
            SignatureAlgorithm::RsaSha512 => &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13, 5, 0],
        }
    }

    /// Reads an AlgorithmIdentifier; RSA's NULL may be missing.
    pub fn from_identifier_der(der: &[u8]) -> Result<Self, UnsupportedSignature> {
        let unreadable = |Malformed| UnsupportedSignature("unreadable".to_owned());
        let parse = || {
            let mut parts = Element::only(der)?.expect(asn1::SEQUENCE)?.inside()?;
            let kind = parts.next()?.raw;
            let parameters = if parts.is_empty() { None } else { Some(parts.next()?.raw) };
            parts.end()?;
            Ok((kind, parameters))
        };
        let (kind, parameters) = parse().map_err(unreadable)?;
        let plain = parameters.is_none() || parameters == Some(asn1::NULL);
        let known = ALGORITHMS.into_iter().find(|algorithm| {
            let own = algorithm.identifier_der();
            let own_oid = &own[2..4 + usize::from(own[3])];
            own_oid == kind && plain && (algorithm.is_rsa() || parameters.is_none())
        });
        known.ok_or_else(|| {
            let refused = REFUSED_ALGORITHMS.iter().find(|(oid, _)| *oid == kind);
            UnsupportedSignature(
                refused.map_or_else(|| format!("OID {}", dotted(kind)), |(_, name)| (*name).to_owned()),
            )
        })
    }

    const fn is_rsa(self) -> bool {
        matches!(self, SignatureAlgorithm::RsaSha256 | SignatureAlgorithm::RsaSha384 | SignatureAlgorithm::RsaSha512)
    }

    /// What a key of this kind signs with (pki.md 2.2): the hash follows the key's strength.
    pub const fn for_key(kind: KeyKind) -> Self {
        match kind {
            KeyKind::EcP256 => SignatureAlgorithm::EcdsaSha256,
            KeyKind::EcP384 => SignatureAlgorithm::EcdsaSha384,
            KeyKind::EcP521 => SignatureAlgorithm::EcdsaSha512,
            KeyKind::Rsa { bits } if bits >= 4_096 => SignatureAlgorithm::RsaSha512,
            KeyKind::Rsa { bits } if bits >= 3_072 => SignatureAlgorithm::RsaSha384,
            KeyKind::Rsa { .. } => SignatureAlgorithm::RsaSha256,
        }
    }

    /// Whether a key of this kind can make such signatures.
    pub const fn fits(self, kind: KeyKind) -> bool {
        self.is_rsa() == matches!(kind, KeyKind::Rsa { .. })
    }
}

/// A public key of an accepted kind. Cheap to clone.
#[derive(Clone)]
pub struct PublicKey {
    inner: Arc<PublicKeyParts>,
}

struct PublicKeyParts {
    spki: Box<[u8]>,
    kind: KeyKind,
    /// Bytes at the end of the SPKI that are the key itself (point, or RSAPublicKey).
    bits_len: usize,
    key_id: [u8; 20],
    hash: SpkiHash,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo. Looks at shape, kind and size only: whether a point is on its curve shows when it is used.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        let malformed = |Malformed| KeyError::Malformed("public key");
        let (algorithm, parameters, bits) = split_spki(spki).map_err(malformed)?;
        let kind = match algorithm {
            oid::EC_PUBLIC_KEY => ec_kind(parameters.ok_or(KeyError::Malformed("public key"))?, bits)?,
            oid::RSA if parameters == Some(asn1::NULL) => rsa_kind(bits)?,
            oid::RSA => return Err(KeyError::Malformed("public key")),
            other => return Err(KeyError::Algorithm(algorithm_name(other))),
        };
        Ok(PublicKey {
            inner: Arc::new(PublicKeyParts {
                spki: spki.into(),
                kind,
                bits_len: bits.len(),
                key_id: sha1(bits),
                hash: SpkiHash::of(spki),
            }),
        })
    }

    /// The key of an ECDSA point in uncompressed form.
    pub(crate) fn from_ec_point(kind: KeyKind, point: &[u8]) -> Result<Self, KeyError> {
        let curve = curve_oid(kind).ok_or(KeyError::Malformed("public key"))?;
        let algorithm = asn1::tlv(asn1::SEQUENCE, &[oid::EC_PUBLIC_KEY, curve]);
        Self::from_spki_der(&asn1::tlv(asn1::SEQUENCE, &[&algorithm, &asn1::bit_string(point)]))
    }

    /// The key of an RSAPublicKey.
    pub(crate) fn from_rsa_der(rsa_public_key: &[u8]) -> Result<Self, KeyError> {
        let algorithm = asn1::tlv(asn1::SEQUENCE, &[oid::RSA, asn1::NULL]);
        let bits = asn1::bit_string(rsa_public_key);
        Self::from_spki_der(&asn1::tlv(asn1::SEQUENCE, &[&algorithm, &bits]))
    }

    /// The SubjectPublicKeyInfo exactly as read.
    pub fn spki_der(&self) -> &[u8] {
        &self.inner.spki
    }

    /// Kind and size.
    pub fn kind(&self) -> KeyKind {
        self.inner.kind
    }

    /// The key itself: an uncompressed point, or an RSAPublicKey.
    pub fn key_bytes(&self) -> &[u8] {
        &self.inner.spki[self.inner.spki.len() - self.inner.bits_len..]
    }

    /// SHA-1 of the key bits: SKI and AKI everywhere (pki.md 2; RFC 5280, 4.2.1.2, method 1).
    pub fn key_id(&self) -> [u8; 20] {
        self.inner.key_id
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn hash(&self) -> SpkiHash {
        self.inner.hash
    }

    /// Checks a signature over `message`. One public-key operation.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        use {KeyKind as K, SignatureAlgorithm as A};
        let verification: &'static dyn VerificationAlgorithm = match (self.kind(), algorithm) {
            (K::EcP256, A::EcdsaSha256) => &signature::ECDSA_P256_SHA256_ASN1,
            (K::EcP256, A::EcdsaSha384) => &signature::ECDSA_P256_SHA384_ASN1,
            (K::EcP256, A::EcdsaSha512) => &signature::ECDSA_P256_SHA512_ASN1,
            (K::EcP384, A::EcdsaSha256) => &signature::ECDSA_P384_SHA256_ASN1,
            (K::EcP384, A::EcdsaSha384) => &signature::ECDSA_P384_SHA384_ASN1,
            (K::EcP384, A::EcdsaSha512) => &signature::ECDSA_P384_SHA512_ASN1,
            (K::EcP521, A::EcdsaSha256) => &signature::ECDSA_P521_SHA256_ASN1,
            (K::EcP521, A::EcdsaSha384) => &signature::ECDSA_P521_SHA384_ASN1,
            (K::EcP521, A::EcdsaSha512) => &signature::ECDSA_P521_SHA512_ASN1,
            (K::Rsa { .. }, A::RsaSha256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (K::Rsa { .. }, A::RsaSha384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (K::Rsa { .. }, A::RsaSha512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            _ => return Err(BadSignature),
        };
        UnparsedPublicKey::new(verification, self.key_bytes()).verify(message, signature).map_err(|_| BadSignature)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.inner.spki == other.inner.spki
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind(), self.hash())
    }
}

/// The signature was not made by this key over this message with this algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct BadSignature;

/// Why a signer gave no signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The cryptographic library refused.
    #[error("signing failed")]
    Failed,
    /// The key is elsewhere (token, process) and cannot be reached now: worth another try.
    #[error("signer unavailable: {0}")]
    Unavailable(String),
}

/// A private key that may be elsewhere: in memory, in a token, in another process.
pub trait Signer: Send + Sync {
    /// The public half.
    fn public(&self) -> &PublicKey;
    /// The algorithm of [`Signer::sign`].
    fn algorithm(&self) -> SignatureAlgorithm;
    /// Signs `message` (not its hash). ECDSA signatures are DER, as in certificates.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// SHA-1, for key identifiers only.
pub(crate) fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut hash = [0; 20];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// Algorithm OID, parameters and key bits of an SPKI.
type SpkiParts<'a> = (&'a [u8], Option<&'a [u8]>, &'a [u8]);

pub(crate) fn split_spki(spki: &[u8]) -> Result<SpkiParts<'_>, Malformed> {
    let mut parts = Element::only(spki)?.expect(asn1::SEQUENCE)?.inside()?;
    let mut algorithm = parts.next()?.expect(asn1::SEQUENCE)?.inside()?;
    let bits = parts.next()?.bits()?;
    parts.end()?;
    let kind = algorithm.next()?.raw;
    let parameters = if algorithm.is_empty() { None } else { Some(algorithm.next()?.raw) };
    algorithm.end()?;
    Ok((kind, parameters, bits))
}

/// The curve of an ECDSA key kind, as an OID with tag and length.
pub(crate) const fn curve_oid(kind: KeyKind) -> Option<&'static [u8]> {
    match kind {
        KeyKind::EcP256 => Some(oid::P256),
        KeyKind::EcP384 => Some(oid::P384),
        KeyKind::EcP521 => Some(oid::P521),
        KeyKind::Rsa { .. } => None,
    }
}

/// The kind that a curve OID stands for.
pub(crate) fn curve_kind(curve: &[u8]) -> Result<KeyKind, KeyError> {
    match curve {
        oid::P256 => Ok(KeyKind::EcP256),
        oid::P384 => Ok(KeyKind::EcP384),
        oid::P521 => Ok(KeyKind::EcP521),
        oid::P224 => Err(KeyError::Curve("P-224".to_owned())),
        other if other.first() == Some(&6) => Err(KeyError::Curve(dotted(other))),
        _ => Err(KeyError::Curve("with explicit parameters".to_owned())),
    }
}

/// Bytes of a coordinate, and of a private scalar.
pub(crate) const fn field_bytes(kind: KeyKind) -> usize {
    match kind {
        KeyKind::EcP256 => 32,
        KeyKind::EcP384 => 48,
        KeyKind::EcP521 => 66,
        KeyKind::Rsa { bits } => (bits / 8) as usize,
    }
}

fn ec_kind(curve: &[u8], point: &[u8]) -> Result<KeyKind, KeyError> {
    let kind = curve_kind(curve)?;
    if point.first() != Some(&4) || point.len() != 1 + 2 * field_bytes(kind) {
        return Err(KeyError::Malformed("elliptic curve point"));
    }
    Ok(kind)
}

fn rsa_kind(rsa_public_key: &[u8]) -> Result<KeyKind, KeyError> {
    let parse = || {
        let mut parts = Element::only(rsa_public_key)?.expect(asn1::SEQUENCE)?.inside()?;
        let modulus = parts.next()?.unsigned()?;
        let exponent = parts.next()?.unsigned()?;
        parts.end()?;
        Ok((modulus, exponent))
    };
    let (modulus, exponent) = parse().map_err(|Malformed| KeyError::Malformed("RSA public key"))?;
    check_rsa(modulus, exponent)
}

/// The kind of an RSA key with these numbers, if its size and exponent are accepted.
pub(crate) fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Result<KeyKind, KeyError> {
    let bits = match modulus {
        [] => 0,
        [first, rest @ ..] => {
            u32::try_from(rest.len()).unwrap_or(u32::MAX).saturating_mul(8).saturating_add(8 - first.leading_zeros())
        }
    };
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyError::RsaSize { bits });
    }
    let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    let small = exponent.len() < 4 || (exponent.len() == 4 && exponent[0] & 0x80 == 0);
    if exponent == [1] || !odd(exponent) || !small {
        return Err(KeyError::RsaExponent);
    }
    if !odd(modulus) {
        return Err(KeyError::Malformed("RSA public key"));
    }
    Ok(KeyKind::Rsa { bits })
}

/// A key algorithm by name, for errors.
pub(crate) fn algorithm_name(kind: &[u8]) -> String {
    match kind {
        oid::ED25519 => "Ed25519 (256 bits)".to_owned(),
        oid::ED448 => "Ed448 (448 bits)".to_owned(),
        oid::X25519 => "X25519 (256 bits)".to_owned(),
        oid::DSA => "DSA".to_owned(),
        oid::RSA_PSS => "RSA-PSS".to_owned(),
        other => format!("OID {}", dotted(other)),
    }
}

/// An OID (with tag and length) in dotted form, for errors.
pub(crate) fn dotted(oid: &[u8]) -> String {
    use der::Decode as _;
    type Oid = der::asn1::ObjectIdentifier;
    Oid::from_der(oid).map_or_else(|_| "unreadable".to_owned(), |oid| oid.to_string())
}
