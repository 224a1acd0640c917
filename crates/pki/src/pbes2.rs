//! Password-based encryption of private keys as the engine does it (pki.md 9.1): PBES2 (RFC 8018) with PBKDF2 and AES-256-CBC.
//!
//! Written with the engine's parameters, for its reader knows no others: HMAC-SHA1, 2048 iterations. The count is low,
//! but the password is a random key of 256 bits, which no count would make harder to guess.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;
use zeroize::Zeroizing;

use crate::asn1::{self, Element, Elements, Malformed};
use crate::key::{KeyError, PrivateKey};
use crate::secret::SecretBytes;

// Object identifiers with tag and length.
const PBES2: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
const PBKDF2: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
const AES_256_CBC: &[u8] = &[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 42];
const HMAC_SHA1: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 7];
const HMAC_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 9];
const HMAC_SHA384: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 10];
const HMAC_SHA512: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2, 11];

/// Iterations that are written. Source: pki.md 9.1.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(2_048).unwrap();
/// Iterations that are followed when reading: a bound on time, above what any tool writes.
const ITERATIONS_MAX: u32 = 10_000_000;
/// Bytes of an AES block.
pub(crate) const BLOCK_BYTES: usize = 16;

/// Decrypts an EncryptedPrivateKeyInfo.
pub(crate) fn decrypt(der: &[u8], password: &SecretBytes) -> Result<PrivateKey, KeyError> {
    let plain = decrypt_bytes(der, password)?;
    PrivateKey::from_der(plain.expose()).map_err(|error| match error {
        KeyError::Malformed(_) => KeyError::Password,
        other => other,
    })
}

/// Encrypts a PKCS #8 key with the engine's parameters. Salt and IV are to be random, new for each call.
pub(crate) fn encrypt(
    pkcs8: &SecretBytes,
    password: &SecretBytes,
    salt: [u8; 8],
    iv: [u8; 16],
) -> Result<Vec<u8>, KeyError> {
    let key = derive(pbkdf2::PBKDF2_HMAC_SHA1, ITERATIONS, &salt, password);
    let plain = pkcs8.expose();
    let padding = BLOCK_BYTES - plain.len() % BLOCK_BYTES;
    let mut data = Zeroizing::new(Vec::with_capacity(plain.len() + padding));
    data.extend_from_slice(plain);
    data.resize(plain.len() + padding, padding as u8);
    let refused = |_| KeyError::Encryption("AES-256-CBC");
    UnboundCipherKey::new(&AES_256, key.as_slice())
        .and_then(EncryptingKey::cbc)
        .and_then(|key| key.less_safe_encrypt(&mut data, EncryptionContext::Iv128(FixedLength::from(iv))))
        .map_err(refused)?;

    let kdf = asn1::tlv(
        asn1::SEQUENCE,
        &[&asn1::tlv(asn1::OCTET_STRING, &[&salt]), &asn1::unsigned_integer(&ITERATIONS.get().to_be_bytes())],
    );
    let kdf = asn1::tlv(asn1::SEQUENCE, &[PBKDF2, &kdf]);
    let cipher = asn1::tlv(asn1::SEQUENCE, &[AES_256_CBC, &asn1::tlv(asn1::OCTET_STRING, &[&iv])]);
    let scheme = asn1::tlv(asn1::SEQUENCE, &[PBES2, &asn1::tlv(asn1::SEQUENCE, &[&kdf, &cipher])]);
    Ok(asn1::tlv(asn1::SEQUENCE, &[&scheme, &asn1::tlv(asn1::OCTET_STRING, &[&data])]))
}

/// The plain bytes, padding removed.
fn decrypt_bytes(der: &[u8], password: &SecretBytes) -> Result<SecretBytes, KeyError> {
    let malformed = |Malformed| KeyError::Malformed("encrypted private key");
    let mut parts = sequence(der).map_err(malformed)?;
    let mut scheme = parts.next().and_then(Element::inside).map_err(malformed)?;
    let data = parts.next().and_then(|data| data.expect(asn1::OCTET_STRING)).map_err(malformed)?;
    if scheme.next().map_err(malformed)?.raw != PBES2 {
        return Err(KeyError::Encryption("PBES2"));
    }
    let mut scheme = scheme.next().and_then(Element::inside).map_err(malformed)?;
    let mut kdf = scheme.next().and_then(Element::inside).map_err(malformed)?;
    let mut cipher = scheme.next().and_then(Element::inside).map_err(malformed)?;
    if kdf.next().map_err(malformed)?.raw != PBKDF2 {
        return Err(KeyError::Encryption("PBKDF2"));
    }
    if cipher.next().map_err(malformed)?.raw != AES_256_CBC {
        return Err(KeyError::Encryption("AES-256-CBC"));
    }
    let iv = cipher.next().and_then(|iv| iv.expect(asn1::OCTET_STRING)).map_err(malformed)?;
    let iv: [u8; 16] = iv.value.try_into().map_err(|_| KeyError::Malformed("encrypted private key"))?;
    let Kdf { salt, iterations, prf } = Kdf::read(kdf.next().map_err(malformed)?)?;

    let key = derive(prf, iterations, salt, password);
    let plain = decrypt_cbc(&key, iv, data.value)?;
    let padding = usize::from(plain.last().copied().ok_or(KeyError::Padding)?);
    if padding > BLOCK_BYTES || padding > plain.len() {
        return Err(KeyError::Padding);
    }
    Ok(SecretBytes::copy_of(&plain[..plain.len() - padding]))
}

/// AES-256-CBC without a look at the padding. Bytes that are not whole blocks cannot be padded.
pub(crate) fn decrypt_cbc(key: &[u8; 32], iv: [u8; BLOCK_BYTES], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut plain = Zeroizing::new(data.to_vec());
    UnboundCipherKey::new(&AES_256, key)
        .and_then(DecryptingKey::cbc)
        .and_then(|key| key.decrypt(&mut plain, DecryptionContext::Iv128(FixedLength::from(iv))).map(|_| ()))
        .map_err(|_| KeyError::Padding)?;
    Ok(plain)
}

struct Kdf<'a> {
    salt: &'a [u8],
    iterations: NonZeroU32,
    prf: pbkdf2::Algorithm,
}

impl<'a> Kdf<'a> {
    fn read(parameters: Element<'a>) -> Result<Self, KeyError> {
        let read = || {
            let mut parts = parameters.expect(asn1::SEQUENCE)?.inside()?;
            let salt = parts.next()?.expect(asn1::OCTET_STRING)?.value;
            let iterations = parts.next()?.unsigned()?;
            parts.optional(asn1::INTEGER)?;
            let prf = match parts.optional(asn1::SEQUENCE)? {
                Some(prf) => Some(prf.inside()?.next()?.raw),
                None => None,
            };
            Ok((salt, iterations, prf))
        };
        let (salt, iterations, prf) = read().map_err(|Malformed| KeyError::Malformed("encrypted private key"))?;
        let iterations = iterations
            .iter()
            .try_fold(0_u32, |sum, byte| sum.checked_mul(256)?.checked_add(u32::from(*byte)))
            .filter(|count| *count <= ITERATIONS_MAX)
            .and_then(NonZeroU32::new)
            .ok_or(KeyError::Malformed("encrypted private key"))?;
        let prf = match prf {
            None | Some(HMAC_SHA1) => pbkdf2::PBKDF2_HMAC_SHA1,
            Some(HMAC_SHA256) => pbkdf2::PBKDF2_HMAC_SHA256,
            Some(HMAC_SHA384) => pbkdf2::PBKDF2_HMAC_SHA384,
            Some(HMAC_SHA512) => pbkdf2::PBKDF2_HMAC_SHA512,
            Some(_) => return Err(KeyError::Encryption("HMAC with SHA-1, SHA-256, SHA-384 or SHA-512")),
        };
        Ok(Kdf { salt, iterations, prf })
    }
}

fn derive(prf: pbkdf2::Algorithm, iterations: NonZeroU32, salt: &[u8], password: &SecretBytes) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    pbkdf2::derive(prf, iterations, salt, password.expose(), key.as_mut_slice());
    key
}

fn sequence(der: &[u8]) -> Result<Elements<'_>, Malformed> {
    Element::only(der)?.expect(asn1::SEQUENCE)?.inside()
}
