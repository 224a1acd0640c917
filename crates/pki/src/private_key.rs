//! Private keys in memory: made from a seed, read from PKCS #8, SEC1 and PKCS #1, written as PKCS #8 and SEC1.

use std::sync::Arc;

use aws_lc_rs::agreement;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, RsaKeyPair};
use zeroize::Zeroizing;

use crate::asn1::{self, Element, Malformed, oid};
use crate::dek_info;
use crate::key::{self, KeyError, KeyKind, PublicKey, SignError, SignatureAlgorithm, Signer};
use crate::pbes2;
use crate::pem_block;
use crate::secret::{SecretBytes, SecretString};

/// A private key in memory. No Debug, Display or Clone; wiped on drop.
pub struct PrivateKey {
    inner: Arc<Parts>,
}

struct Parts {
    /// The scalar (ECDSA, fixed length) or the RSAPrivateKey.
    secret: SecretBytes,
    public: PublicKey,
    pair: Pair,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl PrivateKey {
    /// A P-256 key whose scalar is `seed`. [`KeyError::Seed`] if that is zero or beyond the group's order
    /// (once in 2^32 draws): draw another.
    pub fn generate_p256(seed: &[u8; 32]) -> Result<Self, KeyError> {
        match Self::from_scalar(KeyKind::EcP256, seed, None) {
            Err(KeyError::Malformed(_)) => Err(KeyError::Seed),
            other => other,
        }
    }

    /// Reads PKCS #8, SEC1 or PKCS #1, unencrypted.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let malformed = |Malformed| KeyError::Malformed("private key");
        let mut parts = Element::only(der).and_then(|key| key.expect(asn1::SEQUENCE)?.inside()).map_err(malformed)?;
        let version = parts.next().and_then(Element::unsigned).map_err(malformed)?;
        let second = parts.next().map_err(malformed)?;
        match second.tag {
            asn1::SEQUENCE => {
                let key = parts.next().and_then(|key| key.expect(asn1::OCTET_STRING)).map_err(malformed)?;
                Self::from_pkcs8(second, key.value)
            }
            asn1::OCTET_STRING if version == [1] => Self::from_sec1(der, None),
            asn1::INTEGER => Self::from_pkcs1(der),
            _ => Err(KeyError::Malformed("private key")),
        }
    }

    /// Reads the first private-key block of `pem` (`PRIVATE KEY`, `EC PRIVATE KEY`, `RSA PRIVATE KEY`, or with a password
    /// `ENCRYPTED PRIVATE KEY` and any that a `DEK-Info` header says to be encrypted); other blocks such as `EC PARAMETERS` are skipped.
    pub fn from_pem(pem: &[u8], password: Option<&SecretBytes>) -> Result<Self, KeyError> {
        let mut blocks = pem_block::Blocks::of(pem);
        let block = blocks.find(pem_block::Block::is_key).ok_or(KeyError::NoPem)?;
        if block.is_legacy_encrypted() {
            return dek_info::decrypt(&block, password.ok_or(KeyError::Encrypted)?);
        }
        if !block.is_encrypted_pkcs8() {
            return Self::from_der(block.der());
        }
        let password = password.ok_or(KeyError::Encrypted)?;
        pbes2::decrypt(block.der(), password)
    }

    fn from_pkcs8(algorithm: Element<'_>, key: &[u8]) -> Result<Self, KeyError> {
        let malformed = |Malformed| KeyError::Malformed("private key");
        let mut parts = algorithm.inside().map_err(malformed)?;
        let kind = parts.next().map_err(malformed)?.raw;
        match kind {
            oid::EC_PUBLIC_KEY => {
                let curve = parts.next().map_err(malformed)?.raw;
                Self::from_sec1(key, Some(curve))
            }
            oid::RSA => Self::from_pkcs1(key),
            other => Err(KeyError::Algorithm(key::algorithm_name(other))),
        }
    }

    fn from_sec1(der: &[u8], outer_curve: Option<&[u8]>) -> Result<Self, KeyError> {
        let parse = || {
            let mut parts = Element::only(der)?.expect(asn1::SEQUENCE)?.inside()?;
            if parts.next()?.unsigned()? != [1] {
                return Err(Malformed);
            }
            let scalar = parts.next()?.expect(asn1::OCTET_STRING)?.value;
            let mut inner_curve = None;
            if let Some(parameters) = parts.optional(asn1::explicit(0))? {
                inner_curve = Some(parameters.value);
            }
            let mut point = None;
            if let Some(public) = parts.optional(asn1::explicit(1))? {
                point = Some(Element::only(public.value)?.bits()?);
            }
            Ok((scalar, inner_curve, point))
        };
        let (scalar, inner_curve, point) = parse().map_err(|Malformed| KeyError::Malformed("EC private key"))?;
        let curve = outer_curve.or(inner_curve).ok_or(KeyError::Malformed("EC private key"))?;
        let kind = key::curve_kind(curve)?;
        // Writers disagree on leading zeros of the scalar: accept any number of them.
        let zeros = scalar.iter().take_while(|byte| **byte == 0).count();
        let significant = &scalar[zeros..];
        let mut padded = Zeroizing::new(vec![0; key::field_bytes(kind)]);
        let start = padded.len().checked_sub(significant.len()).ok_or(KeyError::Malformed("EC private key"))?;
        padded[start..].copy_from_slice(significant);
        Self::from_scalar(kind, &padded, point)
    }

    /// `scalar` has exactly the curve's length.
    fn from_scalar(kind: KeyKind, scalar: &[u8], point: Option<&[u8]>) -> Result<Self, KeyError> {
        let rejected = |_| KeyError::Malformed("EC private key");
        let (agreement, signing): (_, &'static EcdsaSigningAlgorithm) = match kind {
            KeyKind::EcP256 => (&agreement::ECDH_P256, &signature::ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyKind::EcP384 => (&agreement::ECDH_P384, &signature::ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyKind::EcP521 => (&agreement::ECDH_P521, &signature::ECDSA_P521_SHA512_ASN1_SIGNING),
            KeyKind::Rsa { .. } => return Err(KeyError::Malformed("EC private key")),
        };
        let computed = agreement::PrivateKey::from_private_key(agreement, scalar)
            .map_err(rejected)?
            .compute_public_key()
            .map_err(|_| KeyError::Malformed("EC private key"))?;
        if point.is_some_and(|point| point != computed.as_ref() && point.first() == Some(&4)) {
            return Err(KeyError::Inconsistent);
        }
        let pair =
            EcdsaKeyPair::from_private_key_and_public_key(signing, scalar, computed.as_ref()).map_err(rejected)?;
        Ok(Self::new(SecretBytes::copy_of(scalar), PublicKey::from_ec_point(kind, computed.as_ref())?, Pair::Ec(pair)))
    }

    fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let parse = || {
            let mut parts = Element::only(der)?.expect(asn1::SEQUENCE)?.inside()?;
            parts.next()?.unsigned()?;
            let modulus = parts.next()?.unsigned()?;
            let exponent = parts.next()?.unsigned()?;
            Ok((modulus, exponent))
        };
        let (modulus, exponent) = parse().map_err(|Malformed| KeyError::Malformed("RSA private key"))?;
        key::check_rsa(modulus, exponent)?;
        let pair = RsaKeyPair::from_der(der).map_err(|_| KeyError::Malformed("RSA private key"))?;
        let public = asn1::tlv(asn1::SEQUENCE, &[&asn1::unsigned_integer(modulus), &asn1::unsigned_integer(exponent)]);
        Ok(Self::new(SecretBytes::copy_of(der), PublicKey::from_rsa_der(&public)?, Pair::Rsa(pair)))
    }

    fn new(secret: SecretBytes, public: PublicKey, pair: Pair) -> Self {
        PrivateKey { inner: Arc::new(Parts { secret, public, pair }) }
    }

    /// PKCS #8, unencrypted, as Go writes it: curve in the algorithm, public key inside (pki.md 9.1).
    pub fn pkcs8_der(&self) -> SecretBytes {
        let kind = self.inner.public.kind();
        let (algorithm, key) = match key::curve_oid(kind) {
            Some(curve) => (asn1::tlv(asn1::SEQUENCE, &[oid::EC_PUBLIC_KEY, curve]), self.ec_private_key(None)),
            None => (
                asn1::tlv(asn1::SEQUENCE, &[oid::RSA, asn1::NULL]),
                Zeroizing::new(self.inner.secret.expose().to_vec()),
            ),
        };
        let octets = Zeroizing::new(asn1::tlv(asn1::OCTET_STRING, &[&key]));
        let version = asn1::unsigned_integer(&[]);
        SecretBytes::new(asn1::tlv(asn1::SEQUENCE, &[&version, &algorithm, &octets]))
    }

    /// PEM `PRIVATE KEY` over [`PrivateKey::pkcs8_der`].
    pub fn pkcs8_pem(&self) -> SecretString {
        SecretString::from(pem_block::encode_plain("PRIVATE KEY", self.pkcs8_der().expose()))
    }

    /// PEM `EC PRIVATE KEY`, the form in which generated roots' keys are stored (pki.md 2.1); ECDSA keys only.
    pub fn sec1_pem(&self) -> Result<SecretString, KeyError> {
        let kind = self.inner.public.kind();
        let curve = key::curve_oid(kind).ok_or(KeyError::NoSec1(kind))?;
        let der = self.ec_private_key(Some(curve));
        Ok(SecretString::from(pem_block::encode_plain("EC PRIVATE KEY", &der)))
    }

    /// ECPrivateKey (RFC 5915) with the public key, and the curve if it is to be named here.
    fn ec_private_key(&self, curve: Option<&[u8]>) -> Zeroizing<Vec<u8>> {
        let scalar = Zeroizing::new(asn1::tlv(asn1::OCTET_STRING, &[self.inner.secret.expose()]));
        let parameters = curve.map(|curve| asn1::tlv(asn1::explicit(0), &[curve])).unwrap_or_default();
        let point = asn1::bit_string(self.inner.public.key_bytes());
        Zeroizing::new(asn1::tlv(
            asn1::SEQUENCE,
            &[&asn1::unsigned_integer(&[1]), &scalar, &parameters, &asn1::tlv(asn1::explicit(1), &[&point])],
        ))
    }

    /// A second handle to the same key, on purpose. The key is wiped with the last handle.
    pub fn duplicate(&self) -> Self {
        PrivateKey { inner: Arc::clone(&self.inner) }
    }
}

impl Signer for PrivateKey {
    fn public(&self) -> &PublicKey {
        &self.inner.public
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::for_key(self.inner.public.kind())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let random = SystemRandom::new();
        match &self.inner.pair {
            Pair::Ec(pair) => {
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(|_| SignError::Failed)
            }
            Pair::Rsa(pair) => {
                let padding: &'static dyn signature::RsaEncoding = match self.algorithm() {
                    SignatureAlgorithm::RsaSha384 => &signature::RSA_PKCS1_SHA384,
                    SignatureAlgorithm::RsaSha512 => &signature::RSA_PKCS1_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).map_err(|_| SignError::Failed)?;
                Ok(signature)
            }
        }
    }
}
