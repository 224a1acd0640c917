//! Keys whose signatures depend on nothing but key and message (RFC 6979), so that a run repeats to the byte.

use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use pki::certificate::Certificate;
use pki::key::{PublicKey, SignError, SignatureAlgorithm, Signer};

use crate::chance::Chance;

/// What stands before the point in the SubjectPublicKeyInfo of a P-256 key (RFC 5480, 2).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The algorithm `ecdsa-with-SHA256` as it stands in certificates (RFC 5758, 3.2).
const ECDSA_SHA256: [u8; 12] = [0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A P-256 key.
pub struct Key {
    signing: SigningKey,
    public: PublicKey,
}

impl Key {
    /// A key from the run's chance.
    pub fn draw(chance: &mut Chance) -> Self {
        loop {
            let scalar = chance.bytes::<32>();
            if let Some(key) = SigningKey::from_slice(&scalar).ok().and_then(Self::of) {
                return key;
            }
        }
    }

    /// A key from PKCS #8.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        Self::of(SigningKey::from_pkcs8_der(der).ok()?)
    }

    /// The key in PKCS #8.
    pub fn pkcs8(&self) -> Option<Vec<u8>> {
        Some(self.signing.to_pkcs8_der().ok()?.as_bytes().to_vec())
    }

    /// A certificate of this key's making, with a signature that is the same in every run.
    pub fn sign_again(&self, certificate: &Certificate) -> Option<Certificate> {
        let (inside, _) = split(certificate.der())?;
        let (_, rest) = split(inside)?;
        let tbs = inside.get(..inside.len() - rest.len())?;
        let mut bits = vec![0];
        bits.extend(self.sign(tbs).ok()?);
        let all = [tbs, &ECDSA_SHA256, &element(0x03, &bits)].concat();
        Certificate::from_der(element(0x30, &all)).ok()
    }

    fn of(signing: SigningKey) -> Option<Self> {
        let mut spki = SPKI_PREFIX.to_vec();
        spki.extend_from_slice(signing.verifying_key().to_sec1_point(false).as_bytes());
        let public = PublicKey::from_spki_der(&spki).ok()?;
        Some(Self { signing, public })
    }
}

/// What is inside the first DER element, and what comes after it.
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, length) = match *der.get(1)? {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(*der.get(2)?)),
        0x82 => (4, usize::from(u16::from_be_bytes([*der.get(2)?, *der.get(3)?]))),
        _ => return None,
    };
    Some((der.get(head..head + length)?, der.get(head + length..)?))
}

fn element(tag: u8, inside: &[u8]) -> Vec<u8> {
    let [high, low] = (inside.len() as u16).to_be_bytes();
    let mut der = match inside.len() {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    der.extend_from_slice(inside);
    der
}

impl Signer for Key {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::EcdsaSha256
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature: Signature = self.signing.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_signs_the_same_twice_and_is_verified() {
        let key = Key::draw(&mut Chance::new(1));
        let signature = key.sign(b"message").unwrap();
        assert_eq!(signature, key.sign(b"message").unwrap());
        key.public().verify(key.algorithm(), b"message", &signature).unwrap();
        assert!(key.public().verify(key.algorithm(), b"another", &signature).is_err());
    }
}
