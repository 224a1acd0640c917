//! Keys whose signatures depend on nothing but key and message (RFC 6979), so that a run repeats to the byte.

use p256::ecdsa::{Signature, SigningKey, signature::Signer as _};
use p256::pkcs8::DecodePrivateKey;
use pki::key::{PublicKey, SignError, SignatureAlgorithm, Signer};

use crate::chance::Chance;

/// What stands before the point in the SubjectPublicKeyInfo of a P-256 key (RFC 5480, 2).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

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

    fn of(signing: SigningKey) -> Option<Self> {
        let mut spki = SPKI_PREFIX.to_vec();
        spki.extend_from_slice(signing.verifying_key().to_sec1_point(false).as_bytes());
        let public = PublicKey::from_spki_der(&spki).ok()?;
        Some(Self { signing, public })
    }
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
