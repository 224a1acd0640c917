//! Signatures of certificates that are known to be good, so that none is verified twice.
//!
//! - A node's certificate comes back with every connection of its node, and its first time soon after it was signed here.
//! - Kept is that *this signature of this message is good under this key*, as a digest, and nothing else: whether the signer is
//!   trusted, and whether dates, usages, names and the cluster's record are in order, is judged anew for each connection.
//! - The kind of signature is part of the message: a certificate names it inside what is signed (RFC 5280, 4.1.2.3).
//! - A table of fixed size in which a newcomer takes the place of whoever was there: what was pushed out is verified again.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use pki::certificate::Certificate;
use pki::digest::sha256_of;
use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use crate::handshake::algorithms;

/// Places in the table, 32 bytes each: some for each node of a large fleet.
const PLACES: usize = 1 << 14;

type Fingerprint = [u8; 32];

static GOOD: LazyLock<Mutex<Vec<Fingerprint>>> = LazyLock::new(|| Mutex::new(vec![[0; 32]; PLACES]));
static REMEMBERING: LazyLock<Vec<Remembering>> =
    LazyLock::new(|| algorithms().all.iter().copied().map(Remembering).collect());
static ALGORITHMS: LazyLock<Vec<&'static dyn SignatureVerificationAlgorithm>> =
    LazyLock::new(|| REMEMBERING.iter().map(|algorithm| algorithm as _).collect());

/// The algorithms for signatures of certificates, which remember what they found good.
pub(crate) fn of_certificates() -> &'static [&'static dyn SignatureVerificationAlgorithm] {
    &ALGORITHMS
}

/// Remembers that the signature of `certificate` is good under the key of `issuer`. Only for who has just made it with that very key.
pub fn signed_here(issuer: &Certificate, certificate: &Certificate) {
    let Ok(key) = issuer.public_key() else { return };
    remember(&fingerprint(key.key_bytes(), certificate.tbs(), certificate.signature()));
}

/// One algorithm, asked only about what is not known.
#[derive(Debug)]
struct Remembering(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let fingerprint = fingerprint(key, message, signature);
        if is_known(&fingerprint) {
            return Ok(());
        }
        self.0.verify_signature(key, message, signature)?;
        remember(&fingerprint);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

/// All three, told apart by their lengths.
fn fingerprint(key: &[u8], message: &[u8], signature: &[u8]) -> Fingerprint {
    let length = |part: &[u8]| (part.len() as u64).to_be_bytes();
    sha256_of(&[&length(key), key, &length(signature), signature, message])
}

fn place(fingerprint: &Fingerprint) -> usize {
    usize::from(u16::from_be_bytes([fingerprint[0], fingerprint[1]])) % PLACES
}

fn table() -> MutexGuard<'static, Vec<Fingerprint>> {
    GOOD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_known(fingerprint: &Fingerprint) -> bool {
    table().get(place(fingerprint)) == Some(fingerprint)
}

fn remember(fingerprint: &Fingerprint) {
    if let Some(place) = table().get_mut(place(fingerprint)) {
        *place = *fingerprint;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use pki::issue;
    use pki::key::PrivateKey;
    use pki::serial::Serial;
    use pki::time::Time;
    use webpki::aws_lc_rs::ECDSA_P256_SHA256;

    use super::*;

    const NOW: Time = Time::from_unix_secs(1_795_000_000);

    fn root(number: u8) -> Certificate {
        let key = PrivateKey::generate_p256(&[number; 32]).unwrap();
        issue::root(&key, Serial::from_random([number; 20]), NOW).unwrap()
    }

    /// P-256 by its identifiers, but every signature is bad. Whatever passes with it was not verified now: it was remembered.
    #[derive(Debug)]
    struct Refusing;

    impl SignatureVerificationAlgorithm for Refusing {
        fn verify_signature(&self, _: &[u8], _: &[u8], _: &[u8]) -> Result<(), InvalidSignature> {
            Err(InvalidSignature)
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            ECDSA_P256_SHA256.public_key_alg_id()
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            ECDSA_P256_SHA256.signature_alg_id()
        }
    }

    fn ask(algorithm: &'static dyn SignatureVerificationAlgorithm, key: &[u8], message: &[u8], sig: &[u8]) -> bool {
        Remembering(algorithm).verify_signature(key, message, sig).is_ok()
    }

    #[test]
    fn what_was_found_good_is_not_verified_again_and_nothing_else_passes() {
        let certificate = root(41);
        let key = certificate.public_key().unwrap().key_bytes();
        let (message, signature) = (certificate.tbs(), certificate.signature());
        assert!(!ask(&Refusing, key, message, signature), "not known yet");
        assert!(ask(ECDSA_P256_SHA256, key, message, signature));
        assert!(ask(&Refusing, key, message, signature), "known now");
        for (part, at) in [(0, 20), (1, 30), (2, 12)] {
            let mut parts = [key.to_vec(), message.to_vec(), signature.to_vec()];
            parts[part][at] ^= 1;
            assert!(!ask(&Refusing, &parts[0], &parts[1], &parts[2]), "part {part} changed, and known");
            assert!(!ask(ECDSA_P256_SHA256, &parts[0], &parts[1], &parts[2]), "part {part} changed, and good");
            assert!(!ask(&Refusing, &parts[0], &parts[1], &parts[2]), "a bad one was remembered");
        }
    }

    #[test]
    fn bytes_moved_from_one_part_to_the_next_are_another_signature() {
        assert_ne!(fingerprint(b"ab", b"c", b"d"), fingerprint(b"a", b"c", b"bd"));
        assert_ne!(fingerprint(b"a", b"cd", b"b"), fingerprint(b"a", b"d", b"bc"));
    }

    #[test]
    fn what_was_signed_here_is_known_under_the_issuers_key_only() {
        let (certificate, other) = (root(42), root(43));
        signed_here(&certificate, &certificate);
        let known = |issuer: &Certificate| {
            let key = issuer.public_key().unwrap();
            ask(&Refusing, key.key_bytes(), certificate.tbs(), certificate.signature())
        };
        assert!(known(&certificate));
        assert!(!known(&other));
    }
}
