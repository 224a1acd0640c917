//! The record in which a manager's data key lies in the header of its key file (pki.md 10.3): in clear, or sealed under the
//! unlock key.
//!
//! Written sealed as NaCl secretbox. Fernet, which engines write in FIPS mode, is read too. Keys of another length than 32 bytes
//! are filled up with zeros, or cut.

use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use crypto_secretbox::aead::AeadInPlace;
use crypto_secretbox::{KeyInit, XSalsa20Poly1305};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use crate::secret::SecretBytes;

/// Bytes of a secretbox nonce.
pub const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const IN_CLEAR: i32 = 0;
const SECRETBOX: i32 = 1;
const FERNET: i32 = 2;

/// Why a record cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are none.
    #[error("unable to unmarshal as MaybeEncryptedRecord")]
    Malformed,
    /// It is sealed, and there is no key.
    #[error("no decryption key for record encrypted with {0}")]
    NoKey(&'static str),
    /// It was sealed under another key, or was changed.
    #[error("cannot decrypt record encrypted using {0}")]
    NotAuthentic(&'static str),
    /// The nonce has another length than it must have.
    #[error("invalid nonce size for NACL secretbox: require 24, got {0}")]
    Nonce(usize),
    /// An algorithm that nobody knows.
    #[error("cannot decrypt record encrypted using algorithm {0}")]
    Algorithm(i32),
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Record {
    #[prost(int32, tag = "1")]
    algorithm: i32,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    nonce: Vec<u8>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.data.zeroize();
    }
}

/// A record in clear.
pub fn in_clear(plain: &SecretBytes) -> SecretBytes {
    let record = Record { algorithm: IN_CLEAR, data: plain.expose().to_vec(), nonce: Vec::new() };
    SecretBytes::new(record.encode_to_vec())
}

/// A record sealed under `key`. The nonce is to be random, new for each call.
///
/// # Errors
/// If the bytes are too many to be sealed.
pub fn seal(plain: &SecretBytes, key: &SecretBytes, nonce: [u8; NONCE_BYTES]) -> Result<SecretBytes, RecordError> {
    let key = of_length(key);
    let mut sealed = Zeroizing::new(plain.expose().to_vec());
    let tag = XSalsa20Poly1305::new(key.as_ref().into())
        .encrypt_in_place_detached(&nonce.into(), &[], &mut sealed)
        .map_err(|_| RecordError::Malformed)?;
    let record = Record { algorithm: SECRETBOX, data: [&tag, sealed.as_slice()].concat(), nonce: nonce.to_vec() };
    Ok(SecretBytes::new(record.encode_to_vec()))
}

/// What a record holds, and whether it was sealed.
///
/// # Errors
/// If it is none, or sealed under another key than `key`.
pub fn open(bytes: &[u8], key: Option<&SecretBytes>) -> Result<(SecretBytes, bool), RecordError> {
    let mut record = Record::decode(bytes).map_err(|_| RecordError::Malformed)?;
    let with = |name| key.ok_or(RecordError::NoKey(name));
    match record.algorithm {
        IN_CLEAR => Ok((SecretBytes::new(std::mem::take(&mut record.data)), false)),
        SECRETBOX => Ok((open_secretbox(&record, with("NACL secretbox")?)?, true)),
        FERNET => Ok((open_fernet(&record.data, with("Fernet")?)?, true)),
        other => Err(RecordError::Algorithm(other)),
    }
}

fn open_secretbox(record: &Record, key: &SecretBytes) -> Result<SecretBytes, RecordError> {
    let nonce: [u8; NONCE_BYTES] =
        record.nonce.as_slice().try_into().map_err(|_| RecordError::Nonce(record.nonce.len()))?;
    let refused = RecordError::NotAuthentic("NACL secretbox");
    let Some((tag, sealed)) = record.data.split_first_chunk::<TAG_BYTES>() else { return Err(refused) };
    let mut plain = Zeroizing::new(sealed.to_vec());
    XSalsa20Poly1305::new(of_length(key).as_ref().into())
        .decrypt_in_place_detached(&nonce.into(), &[], &mut plain, tag.into())
        .map_err(|_| refused)?;
    Ok(SecretBytes::from(plain))
}

/// The Fernet specification: version, 8 bytes of time, 16 of IV, AES-128-CBC with padding, HMAC-SHA256 over all before. The time is not
/// looked at.
fn open_fernet(token: &[u8], key: &SecretBytes) -> Result<SecretBytes, RecordError> {
    const HEAD: usize = 9;
    const IV: usize = 16;
    let refused = || RecordError::NotAuthentic("Fernet");
    let key = of_length(key);
    let (signing, encrypting) = key.split_at(KEY_BYTES / 2);
    let token = URL_SAFE.decode(token).map_err(|_| refused())?;
    let (signed, tag) = token.split_last_chunk::<KEY_BYTES>().ok_or_else(refused)?;
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, signing), signed, tag).map_err(|_| refused())?;
    let (iv, data) = signed.get(HEAD..).and_then(|rest| rest.split_first_chunk::<IV>()).ok_or_else(refused)?;
    if signed.first() != Some(&0x80) {
        return Err(refused());
    }
    let mut plain = Zeroizing::new(data.to_vec());
    UnboundCipherKey::new(&AES_128, encrypting)
        .and_then(DecryptingKey::cbc)
        .and_then(|key| key.decrypt(&mut plain, DecryptionContext::Iv128(FixedLength::from(*iv))).map(|_| ()))
        .map_err(|_| refused())?;
    let padding = usize::from(plain.last().copied().unwrap_or_default());
    let rest = plain.len().checked_sub(padding).filter(|_| (1..=IV).contains(&padding)).ok_or_else(refused)?;
    plain.truncate(rest);
    Ok(SecretBytes::from(plain))
}

fn of_length(key: &SecretBytes) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut out = Zeroizing::new([0; KEY_BYTES]);
    for (to, from) in out.iter_mut().zip(key.expose()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    // pki.md 19: the headers of one key file, locked and unlocked.
    const KEK: [u8; 32] = [
        0x13, 0x90, 0x5f, 0xc5, 0x0c, 0x75, 0x86, 0x80, 0x1d, 0xd3, 0x7e, 0x86, 0xe6, 0x67, 0x7d, 0xd7, 0xed, 0x60,
        0x34, 0x18, 0x96, 0xfc, 0x61, 0xc0, 0x05, 0xb7, 0xe6, 0xfa, 0x66, 0xea, 0x94, 0x8f,
    ];
    const SEALED: &str =
        "CAESMCMrgK4xB6f20z8jJBR447I5lcVq5CD9cZDumQXMBYbCNXgAWI3z54EFyn32C0XeJxoY4bsVurnD1zhUZrOh97y5kf8eeEjMtKpf";
    const CLEAR: &str = "EiCH9R+fAQ/1RGn7aStWRGRQMTvhb7P+v+h8w/Qo84syVQ==";
    const DEK: &str = "87f51f9f010ff54469fb692b56446450313be16fb3febfe87cc3f428f38b3255";

    fn opened(record: &[u8], key: Option<&[u8]>) -> Result<(String, bool), RecordError> {
        let key = key.map(SecretBytes::copy_of);
        open(record, key.as_ref()).map(|(plain, sealed)| (crate::digest::hex(plain.expose()), sealed))
    }

    #[test]
    fn a_real_engines_records() {
        let (sealed, clear) = (STANDARD.decode(SEALED).unwrap(), STANDARD.decode(CLEAR).unwrap());
        assert_eq!(opened(&sealed, Some(&KEK)), Ok((DEK.to_owned(), true)));
        assert_eq!(opened(&clear, None), Ok((DEK.to_owned(), false)));
        assert_eq!(opened(&clear, Some(&KEK)), Ok((DEK.to_owned(), false)));
        assert_eq!(opened(&sealed, None), Err(RecordError::NoKey("NACL secretbox")));
        assert_eq!(opened(&sealed, Some(&[7; 32])), Err(RecordError::NotAuthentic("NACL secretbox")));
        // Written again with the same nonce it is the same, byte for byte.
        let (dek, _) = open(&clear, None).unwrap();
        assert_eq!(in_clear(&dek).expose(), clear);
        let nonce = Record::decode(sealed.as_slice()).unwrap().nonce.clone().try_into().unwrap();
        assert_eq!(seal(&dek, &SecretBytes::copy_of(&KEK), nonce).map(|record| record.expose().to_vec()), Ok(sealed));
    }

    #[test]
    fn c226_a_record_in_clear_and_a_sealed_one_go_there_and_back() {
        let (plain, key) = (SecretBytes::copy_of(b"data"), SecretBytes::copy_of(&KEK));
        let (clear, sealed) = (in_clear(&plain), seal(&plain, &key, [1; 24]).unwrap());
        assert_eq!(opened(clear.expose(), None), Ok((crate::digest::hex(b"data"), false)));
        assert_eq!(opened(sealed.expose(), Some(&KEK)), Ok((crate::digest::hex(b"data"), true)));
        assert!(!sealed.expose().windows(4).any(|window| window == b"data"));
        let unread = opened(sealed.expose(), None).unwrap_err().to_string();
        assert_eq!(unread, "no decryption key for record encrypted with NACL secretbox");
    }

    #[test]
    fn c228_bytes_that_are_no_record() {
        for bytes in [&b"\xff"[..], b"\x12\xff\x01", b"just this", b"\x0a\x01\x00"] {
            for key in [None, Some(&KEK[..])] {
                assert_eq!(opened(bytes, key), Err(RecordError::Malformed), "{bytes:?}");
            }
        }
    }

    #[test]
    fn c230_the_same_twice_is_two_records() {
        let (plain, key) = (SecretBytes::copy_of(b"data"), SecretBytes::copy_of(&KEK));
        let records = [1, 2].map(|nonce| seal(&plain, &key, [nonce; 24]).unwrap());
        let parts = [0, 1].map(|n: usize| Record::decode(records[n].expose()).unwrap());
        assert!(parts[0].data != parts[1].data && parts[0].nonce != parts[1].nonce);
        for record in &records {
            assert_eq!(opened(record.expose(), Some(&KEK)).unwrap().0, crate::digest::hex(b"data"));
        }
    }

    #[test]
    fn c232_a_nonce_of_another_length() {
        for length in [0, 20, 23, 25] {
            let record = Record { algorithm: SECRETBOX, data: vec![0; 32], nonce: vec![0; length] };
            let refused = opened(&record.encode_to_vec(), Some(&KEK)).unwrap_err().to_string();
            assert_eq!(refused, format!("invalid nonce size for NACL secretbox: require 24, got {length}"));
        }
    }

    #[test]
    fn keys_of_other_lengths() {
        let plain = SecretBytes::copy_of(b"data");
        for length in [0, 1, 31, 33, 64] {
            let key = vec![5; length];
            let record = seal(&plain, &SecretBytes::copy_of(&key), [1; 24]).unwrap();
            assert_eq!(opened(record.expose(), Some(&key)).unwrap().0, "64617461", "{length}");
        }
    }

    #[test]
    fn what_is_no_record_or_was_changed() {
        let record = seal(&SecretBytes::copy_of(b"data"), &SecretBytes::copy_of(&KEK), [1; 24]).unwrap();
        for at in 0..record.expose().len() {
            let mut bytes = record.expose().to_vec();
            bytes[at] ^= 1;
            assert!(opened(&bytes, Some(&KEK)) != opened(record.expose(), Some(&KEK)), "byte {at}");
        }
        assert_eq!(opened(&[0xff], Some(&KEK)), Err(RecordError::Malformed));
        let odd = |algorithm, data: &[u8], nonce: &[u8]| {
            let record = Record { algorithm, data: data.to_vec(), nonce: nonce.to_vec() };
            opened(&record.encode_to_vec(), Some(&KEK)).unwrap_err().to_string()
        };
        assert_eq!(odd(1, &[0; 32], &[0; 23]), "invalid nonce size for NACL secretbox: require 24, got 23");
        assert_eq!(odd(1, &[0; 15], &[0; 24]), "cannot decrypt record encrypted using NACL secretbox");
        assert_eq!(odd(9, &[], &[]), "cannot decrypt record encrypted using algorithm 9");
        assert_eq!(odd(2, b"gAAA", &[]), "cannot decrypt record encrypted using Fernet");
    }

    #[test]
    fn c195_c229_c235_a_fernet_record_and_a_sealed_one_under_their_keys_and_no_other() {
        // The example of the Fernet specification.
        let key = URL_SAFE.decode("cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=").unwrap();
        let token =
            b"gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
        let record = |token: &[u8]| Record { algorithm: 2, data: token.to_vec(), nonce: Vec::new() }.encode_to_vec();
        assert_eq!(opened(&record(token), Some(&key)), Ok((crate::digest::hex(b"hello"), true)));
        assert_eq!(opened(&record(token), Some(&KEK)), Err(RecordError::NotAuthentic("Fernet")));
        assert_eq!(opened(&record(&token[..40]), Some(&key)), Err(RecordError::NotAuthentic("Fernet")));
        assert_eq!(opened(&record(token), None), Err(RecordError::NoKey("Fernet")));
        let sealed = STANDARD.decode(SEALED).unwrap();
        assert_eq!(opened(&sealed, Some(&KEK)), Ok((DEK.to_owned(), true)));
        assert_eq!(opened(&sealed, Some(&key)), Err(RecordError::NotAuthentic("NACL secretbox")));
    }
}
