//! Signing: which mechanism, what it is fed, and what comes out of it.
//!
//! Only the mechanisms that take a digest are used: every token has them, some have no others for ECDSA (SoftHSM 2.6 among them), and
//! what is to be signed is hashed where it is at home.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use pki::key::{PublicKey, SignatureAlgorithm};

use super::asn1;
use super::module::Module;
use crate::protocol::Fault;
use crate::token::hash;

/// Why a token's key gave no signature.
pub(super) enum Failure {
    /// The module's return code.
    Module(cryptoki::error::Error),
    /// Everything else.
    Fault(Fault),
}

/// Signs a digest. ECDSA signatures are DER.
pub(super) fn sign(
    module: &Module,
    session: &Session,
    key: ObjectHandle,
    public: &PublicKey,
    algorithm: SignatureAlgorithm,
    digest: &[u8],
) -> Result<Vec<u8>, Failure> {
    let refuse = |text: &str| Failure::Fault(Fault::Refused(text.to_owned()));
    if !algorithm.fits(public.kind()) || digest.len() != hash(algorithm).output_len() {
        return Err(refuse("the algorithm is not one of the key's"));
    }
    let is_rsa = asn1::field_bytes(public.kind()).is_none();
    let mechanism = if is_rsa { Mechanism::RsaPkcs } else { Mechanism::Ecdsa };
    if !module.mechanisms.contains(&mechanism.mechanism_type()) {
        return Err(refuse("the token cannot sign digests (CKM_ECDSA, CKM_RSA_PKCS)"));
    }
    if is_rsa {
        let info = [digest_info(algorithm), digest].concat();
        return session.sign(&mechanism, key, &info).map_err(Failure::Module);
    }
    let raw = session.sign(&mechanism, key, digest).map_err(Failure::Module)?;
    asn1::ecdsa_signature(public.kind(), &raw).ok_or_else(|| refuse("a signature of a wrong length"))
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
