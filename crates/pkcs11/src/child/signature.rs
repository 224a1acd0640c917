//! Signing: which mechanism, what it is fed, and what comes out of it.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use pki::key::{PublicKey, SignatureAlgorithm};

use super::asn1;
use super::module::Module;
use crate::protocol::Fault;

/// Why a token's key gave no signature.
pub(super) enum Failure {
    /// The module's return code.
    Module(cryptoki::error::Error),
    /// Everything else.
    Fault(Fault),
}

/// What a mechanism is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    /// The message: the token hashes.
    Message,
    /// Its hash.
    Digest,
    /// Its hash as a DigestInfo (RFC 8017, 9.2).
    DigestInfo,
}

/// Signs `message`. ECDSA signatures are DER.
pub(super) fn sign(
    module: &Module,
    session: &Session,
    key: ObjectHandle,
    public: &PublicKey,
    algorithm: SignatureAlgorithm,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    let refuse = |text: &str| Failure::Fault(Fault::Refused(text.to_owned()));
    if !algorithm.fits(public.kind()) {
        return Err(refuse("the algorithm is not one of the key's"));
    }
    let (mechanism, input) =
        choose(algorithm, &module.mechanisms).ok_or_else(|| refuse("the token has no mechanism for this algorithm"))?;
    let hash = match algorithm {
        SignatureAlgorithm::EcdsaSha256 | SignatureAlgorithm::RsaSha256 => &SHA256,
        SignatureAlgorithm::EcdsaSha384 | SignatureAlgorithm::RsaSha384 => &SHA384,
        SignatureAlgorithm::EcdsaSha512 | SignatureAlgorithm::RsaSha512 => &SHA512,
    };
    let signed = match input {
        Input::Message => session.sign(&mechanism, key, message),
        Input::Digest => session.sign(&mechanism, key, digest::digest(hash, message).as_ref()),
        Input::DigestInfo => {
            let info = [digest_info(algorithm), digest::digest(hash, message).as_ref()].concat();
            session.sign(&mechanism, key, &info)
        }
    };
    let raw = signed.map_err(Failure::Module)?;
    if asn1::field_bytes(public.kind()).is_some() {
        return asn1::ecdsa_signature(public.kind(), &raw).ok_or_else(|| refuse("a signature of a wrong length"));
    }
    Ok(raw)
}

/// A digest is preferred to a message: tokens are slow to hash, and some (SoftHSM 2.6 among them) cannot hash for ECDSA.
fn choose(algorithm: SignatureAlgorithm, known: &[MechanismType]) -> Option<(Mechanism<'static>, Input)> {
    let (bare, input, whole) = match algorithm {
        SignatureAlgorithm::EcdsaSha256 => (Mechanism::Ecdsa, Input::Digest, Mechanism::EcdsaSha256),
        SignatureAlgorithm::EcdsaSha384 => (Mechanism::Ecdsa, Input::Digest, Mechanism::EcdsaSha384),
        SignatureAlgorithm::EcdsaSha512 => (Mechanism::Ecdsa, Input::Digest, Mechanism::EcdsaSha512),
        SignatureAlgorithm::RsaSha256 => (Mechanism::RsaPkcs, Input::DigestInfo, Mechanism::Sha256RsaPkcs),
        SignatureAlgorithm::RsaSha384 => (Mechanism::RsaPkcs, Input::DigestInfo, Mechanism::Sha384RsaPkcs),
        SignatureAlgorithm::RsaSha512 => (Mechanism::RsaPkcs, Input::DigestInfo, Mechanism::Sha512RsaPkcs),
    };
    let has = |mechanism: &Mechanism<'_>| known.contains(&mechanism.mechanism_type());
    if has(&bare) {
        Some((bare, input))
    } else if has(&whole) {
        Some((whole, Input::Message))
    } else {
        None
    }
}

/// What stands before the hash in a DigestInfo. Source: RFC 8017, 9.2, note 1.
const fn digest_info(algorithm: SignatureAlgorithm) -> &'static [u8] {
    use SignatureAlgorithm as A;
    match algorithm {
        A::EcdsaSha256 | A::RsaSha256 => {
            &[0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 0x20]
        }
        A::EcdsaSha384 | A::RsaSha384 => {
            &[0x30, 0x41, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 5, 0, 4, 0x30]
        }
        A::EcdsaSha512 | A::RsaSha512 => {
            &[0x30, 0x51, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 0x40]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_spared_the_hashing_where_it_can_be() {
        let kinds = |algorithm, known: &[MechanismType]| {
            choose(algorithm, known).map(|(mechanism, input)| (mechanism.mechanism_type(), input))
        };
        let ec = SignatureAlgorithm::EcdsaSha256;
        let both = [MechanismType::ECDSA, MechanismType::ECDSA_SHA256];
        assert_eq!(kinds(ec, &both), Some((MechanismType::ECDSA, Input::Digest)));
        assert_eq!(kinds(ec, &both[1..]), Some((MechanismType::ECDSA_SHA256, Input::Message)));
        assert_eq!(kinds(SignatureAlgorithm::EcdsaSha384, &both[1..]), None);
        let rsa = SignatureAlgorithm::RsaSha256;
        assert_eq!(kinds(rsa, &[MechanismType::RSA_PKCS]), Some((MechanismType::RSA_PKCS, Input::DigestInfo)));
        assert_eq!(
            kinds(rsa, &[MechanismType::SHA256_RSA_PKCS]),
            Some((MechanismType::SHA256_RSA_PKCS, Input::Message))
        );
        assert_eq!(kinds(rsa, &both), None);
    }
}
