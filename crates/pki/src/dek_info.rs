//! Encryption of a PEM body as a `DEK-Info` header names it (RFC 1421, 4.6.1.3, with the key derivation of OpenSSL): what engines
//! before 18.09 wrote around a SEC1 key (pki.md 9.1). Read only.
//!
//! The key is made of the password with MD5, once. That is no weakness here, where the password is a random key of 256 bits.

use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use crate::digest::unhex;
use crate::key::{KeyError, PrivateKey};
use crate::pbes2::{self, BLOCK_BYTES};
use crate::pem_block::Block;
use crate::secret::SecretBytes;

/// The header.
pub(crate) const DEK_INFO: &str = "DEK-Info";
const CIPHER: &str = "AES-256-CBC";
/// Bytes of the IV that are the salt, too. Source: OpenSSL's PEM_do_header(3).
const SALT_BYTES: usize = 8;

/// Decrypts the body of a block that has the header.
pub(crate) fn decrypt(block: &Block, password: &SecretBytes) -> Result<PrivateKey, KeyError> {
    let info = block.headers().iter().find(|(name, _)| name == DEK_INFO).map_or("", |(_, value)| value.as_str());
    let (cipher, iv) = info.split_once(',').unwrap_or((info, ""));
    if cipher != CIPHER {
        return Err(KeyError::Encryption(CIPHER));
    }
    let iv = unhex(iv.trim())
        .and_then(|iv| <[u8; BLOCK_BYTES]>::try_from(iv).ok())
        .ok_or(KeyError::Malformed("DEK-Info header"))?;
    let plain = pbes2::decrypt_cbc(&derive(password, &iv), iv, block.der())?;
    // Padded as PKCS #7 says: n bytes of value n, at least one.
    let padding = usize::from(plain.last().copied().ok_or(KeyError::Padding)?);
    let length = plain.len().checked_sub(padding).ok_or(KeyError::Padding)?;
    let (key, tail) = plain.split_at(length);
    if !(1..=BLOCK_BYTES).contains(&padding) || tail.iter().any(|byte| usize::from(*byte) != padding) {
        return Err(KeyError::Padding);
    }
    PrivateKey::from_der(key).map_err(|error| match error {
        KeyError::Malformed(_) => KeyError::Password,
        other => other,
    })
}

/// MD5 of password and salt, then of that, password and salt: 32 bytes.
fn derive(password: &SecretBytes, iv: &[u8; BLOCK_BYTES]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let mut hashed = 0;
    while hashed < key.len() {
        let before = &key[hashed.saturating_sub(16)..hashed];
        let part = Md5::new().chain_update(before).chain_update(password.expose()).chain_update(&iv[..SALT_BYTES]);
        let part = Zeroizing::new(<[u8; 16]>::from(part.finalize()));
        key[hashed..hashed + 16].copy_from_slice(part.as_slice());
        hashed += 16;
    }
    key
}
