//! Files in the age format, version 1 (<https://age-encryption.org/v1>): to X25519 recipients or a passphrase, whole in memory.
//!
//! Written here because what there is for Rust brings its own translations and a second set of ciphers. Files are read by any age program, and
//! theirs here; plugins, SSH keys and armour are not.

mod bech32;

use std::fmt::Write as _;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::{hkdf, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pki::secret::SecretString;
use zeroize::{Zeroize as _, Zeroizing};

const VERSION: &str = "age-encryption.org/v1";
const X25519_INFO: &[u8] = b"age-encryption.org/v1/X25519";
const SCRYPT_SALT: &[u8] = b"age-encryption.org/v1/scrypt";
const MAC_MARK: &str = "---";
/// Bytes of a chunk of the payload before it is sealed.
const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
const FILE_KEY: usize = 16;
/// scrypt's work is two to the power of this: 128 MiB and some tenths of a second.
const WORK: u8 = 17;
/// More than this is not computed for whoever wrote the file: 1 GiB.
const WORK_MAX: u8 = 20;
/// Text of a header, at most.
const HEADER_MAX: usize = 64 * 1024;

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgeError {
    /// Not `age1…`.
    #[error("{0:?} is no age recipient (age1…)")]
    Recipient(String),
    /// Not `AGE-SECRET-KEY-1…`.
    #[error("the identity file holds no age identity (AGE-SECRET-KEY-1…)")]
    Identity,
    /// Nobody to encrypt to.
    #[error("neither a recipient nor a passphrase was given")]
    Nobody,
    /// Not of this format.
    #[error("this is no age file")]
    Format,
    /// Nothing that was given opens it.
    #[error("it was encrypted to somebody else: {0}")]
    NotForUs(&'static str),
    /// Damaged, or cut.
    #[error("the file is damaged or cut short")]
    Damaged,
    /// The library failed.
    #[error("no random numbers, or a cipher failed")]
    Library,
}

/// Who can open a file.
pub(crate) enum To {
    /// The holders of these keys, `age1…`.
    Recipients(Vec<String>),
    /// Who knows this.
    Passphrase(SecretString),
}

/// What opens a file.
pub(crate) enum By {
    /// The text of an identity file: lines, comments with `#`.
    Identities(SecretString),
    /// A passphrase.
    Passphrase(SecretString),
}

/// Encrypts. Takes some tenths of a second with a passphrase.
pub(crate) fn encrypt(to: &To, plain: &[u8]) -> Result<Vec<u8>, AgeError> {
    let mut file_key = Zeroizing::new([0; FILE_KEY]);
    random(&mut *file_key)?;
    let mut header = format!("{VERSION}\n");
    match to {
        To::Recipients(recipients) if recipients.is_empty() => return Err(AgeError::Nobody),
        To::Recipients(recipients) => {
            for text in recipients {
                let recipient = recipient(text)?;
                let mut ephemeral = Zeroizing::new([0; 32]);
                random(&mut *ephemeral)?;
                let (share, wrap) = x25519(&ephemeral, None, &recipient)?;
                let body = wrap_key(&wrap, &*file_key)?;
                stanza(&mut header, &format!("X25519 {}", STANDARD_NO_PAD.encode(share)), &body);
            }
        }
        To::Passphrase(passphrase) => {
            let mut salt = [0; 16];
            random(&mut salt)?;
            let body = wrap_key(&*scrypt(passphrase, &salt, WORK)?, &*file_key)?;
            stanza(&mut header, &format!("scrypt {} {WORK}", STANDARD_NO_PAD.encode(salt)), &body);
        }
    }
    header.push_str(MAC_MARK);
    let mac = hmac::sign(&mac_key(&file_key)?, header.as_bytes());
    // Writing to a String cannot fail.
    let _ = writeln!(header, " {}", STANDARD_NO_PAD.encode(mac));
    let mut out = header.into_bytes();
    let mut nonce = [0; 16];
    random(&mut nonce)?;
    out.extend_from_slice(&nonce);
    let key = payload_key(&file_key, &nonce)?;
    let chunks = plain.len().div_ceil(CHUNK).max(1);
    out.reserve(plain.len() + chunks * TAG);
    for number in 0..chunks {
        let from = number * CHUNK;
        let piece = plain.get(from..plain.len().min(from + CHUNK)).unwrap_or_default();
        let mut sealed = piece.to_vec();
        key.seal_in_place_append_tag(chunk_nonce(number, number + 1 == chunks), Aad::empty(), &mut sealed)
            .map_err(|_| AgeError::Library)?;
        out.append(&mut sealed);
    }
    Ok(out)
}

/// Decrypts.
pub(crate) fn decrypt(by: &By, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, AgeError> {
    let (stanzas, covered, mac, payload) = parse(sealed)?;
    let file_key = open_header(by, &stanzas)?;
    hmac::verify(&mac_key(&file_key)?, covered, &mac).map_err(|_| AgeError::Damaged)?;
    let (nonce, payload) = payload.split_at_checked(16).ok_or(AgeError::Damaged)?;
    let key = payload_key(&file_key, nonce)?;
    let mut out = Zeroizing::new(Vec::with_capacity(payload.len()));
    let chunks = payload.len().div_ceil(CHUNK + TAG);
    for (number, chunk) in payload.chunks(CHUNK + TAG).enumerate() {
        let last = number + 1 == chunks;
        let mut chunk = Zeroizing::new(chunk.to_vec());
        let plain = key.open_in_place(chunk_nonce(number, last), Aad::empty(), &mut chunk);
        let plain = plain.map_err(|_| AgeError::Damaged)?;
        // An empty last chunk is there only if nothing else is.
        if plain.is_empty() && number > 0 {
            return Err(AgeError::Damaged);
        }
        out.extend_from_slice(plain);
    }
    if chunks == 0 { Err(AgeError::Damaged) } else { Ok(out) }
}

struct Stanza<'a> {
    words: Vec<&'a str>,
    body: Vec<u8>,
}

type Parsed<'a> = (Vec<Stanza<'a>>, &'a [u8], Vec<u8>, &'a [u8]);

/// Stanzas, what the MAC covers, the MAC, and the rest.
fn parse(bytes: &[u8]) -> Result<Parsed<'_>, AgeError> {
    let mut at = 0;
    let mut line = || {
        let rest = bytes.get(at..bytes.len().min(HEADER_MAX))?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let begin = at;
        at += end + 1;
        Some((std::str::from_utf8(rest.get(..end)?).ok()?, begin, at))
    };
    if line().is_none_or(|(text, ..)| text != VERSION) {
        return Err(AgeError::Format);
    }
    let mut stanzas = Vec::new();
    loop {
        let (text, begin, end) = line().ok_or(AgeError::Damaged)?;
        if let Some(mac) = text.strip_prefix("--- ") {
            let mac = STANDARD_NO_PAD.decode(mac).map_err(|_| AgeError::Damaged)?;
            let covered = bytes.get(..begin + MAC_MARK.len()).ok_or(AgeError::Damaged)?;
            return Ok((stanzas, covered, mac, bytes.get(end..).ok_or(AgeError::Damaged)?));
        }
        let words: Vec<_> = text.strip_prefix("-> ").ok_or(AgeError::Damaged)?.split(' ').collect();
        let mut body = String::new();
        loop {
            let (text, ..) = line().ok_or(AgeError::Damaged)?;
            body.push_str(text);
            // The last line of a body is a short one.
            match text.len() {
                0..64 => break,
                64 => {}
                _ => return Err(AgeError::Damaged),
            }
        }
        let body = STANDARD_NO_PAD.decode(body).map_err(|_| AgeError::Damaged)?;
        stanzas.push(Stanza { words, body });
    }
}

fn open_header(by: &By, stanzas: &[Stanza<'_>]) -> Result<Zeroizing<[u8; FILE_KEY]>, AgeError> {
    match by {
        By::Identities(text) => {
            let identities = identities(text.expose())?;
            for stanza in stanzas {
                let ["X25519", share] = stanza.words.as_slice() else { continue };
                let share = STANDARD_NO_PAD.decode(share).ok().and_then(|share| <[u8; 32]>::try_from(share).ok());
                let share = share.ok_or(AgeError::Damaged)?;
                for identity in &identities {
                    let (_, wrap) = x25519(identity, Some(&share), &share)?;
                    if let Some(key) = unwrap_key(&wrap, &stanza.body) {
                        return Ok(key);
                    }
                }
            }
            Err(AgeError::NotForUs("none of the identities opens it"))
        }
        By::Passphrase(passphrase) => {
            // A passphrase stands alone.
            let [Stanza { words, body }] = stanzas else {
                return Err(AgeError::NotForUs("it is opened by an identity, not by a passphrase"));
            };
            let ["scrypt", salt, work] = words.as_slice() else {
                return Err(AgeError::NotForUs("it is opened by an identity, not by a passphrase"));
            };
            let salt = STANDARD_NO_PAD.decode(salt).map_err(|_| AgeError::Damaged)?;
            let work: u8 = work.parse().map_err(|_| AgeError::Damaged)?;
            if salt.len() != 16 || work == 0 || work > WORK_MAX {
                return Err(AgeError::Damaged);
            }
            unwrap_key(&*scrypt(passphrase, &salt, work)?, body).ok_or(AgeError::NotForUs("the passphrase is wrong"))
        }
    }
}

fn stanza(header: &mut String, words: &str, body: &[u8]) {
    // A body of 32 bytes is one short line.
    let _ = write!(header, "-> {words}\n{}\n", STANDARD_NO_PAD.encode(body));
}

/// The public half of `secret`, and the key that it and the peer share. When opening, `share` is the one in the file and the recipient is
/// `secret`'s own half; when sealing, the other way round.
fn x25519(
    secret: &[u8; 32],
    share: Option<&[u8; 32]>,
    peer: &[u8; 32],
) -> Result<([u8; 32], Zeroizing<[u8; 32]>), AgeError> {
    let secret = PrivateKey::from_private_key(&X25519, secret).map_err(|_| AgeError::Library)?;
    let own = secret.compute_public_key().map_err(|_| AgeError::Library)?;
    let own: [u8; 32] = own.as_ref().try_into().map_err(|_| AgeError::Library)?;
    let (first, second) = if share.is_some() { (peer, &own) } else { (&own, peer) };
    let salt = [first.as_slice(), second].concat();
    let peer = UnparsedPublicKey::new(&X25519, peer.as_slice());
    let wrap = agreement::agree(&secret, peer, AgeError::Damaged, |shared| derive(shared, &salt, X25519_INFO))?;
    Ok((own, wrap))
}

fn derive(ikm: &[u8], salt: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, AgeError> {
    let mut out = Zeroizing::new([0; 32]);
    let drawn = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(ikm);
    let info = [info];
    let expanded = drawn.expand(&info, hkdf::HKDF_SHA256).map_err(|_| AgeError::Library)?;
    expanded.fill(&mut *out).map_err(|_| AgeError::Library)?;
    Ok(out)
}

fn scrypt(passphrase: &SecretString, salt: &[u8], work: u8) -> Result<Zeroizing<[u8; 32]>, AgeError> {
    let params = scrypt::Params::new(work, 8, 1, 32).map_err(|_| AgeError::Library)?;
    let mut out = Zeroizing::new([0; 32]);
    let salt = [SCRYPT_SALT, salt].concat();
    scrypt::scrypt(passphrase.expose().as_bytes(), &salt, &params, &mut *out).map_err(|_| AgeError::Library)?;
    Ok(out)
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, AgeError> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new).map_err(|_| AgeError::Library)
}

fn wrap_key(wrap: &[u8; 32], file_key: &[u8]) -> Result<Vec<u8>, AgeError> {
    let mut body = file_key.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let sealed = cipher(wrap)?.seal_in_place_append_tag(nonce, Aad::empty(), &mut body);
    if sealed.is_err() {
        body.zeroize();
        return Err(AgeError::Library);
    }
    Ok(body)
}

fn unwrap_key(wrap: &[u8; 32], body: &[u8]) -> Option<Zeroizing<[u8; FILE_KEY]>> {
    if body.len() != FILE_KEY + TAG {
        return None;
    }
    let mut body = Zeroizing::new(body.to_vec());
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    let plain = cipher(wrap).ok()?.open_in_place(nonce, Aad::empty(), &mut body).ok()?;
    Some(Zeroizing::new((&*plain).try_into().ok()?))
}

fn mac_key(file_key: &[u8; FILE_KEY]) -> Result<hmac::Key, AgeError> {
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &*derive(file_key, &[], b"header")?))
}

fn payload_key(file_key: &[u8; FILE_KEY], nonce: &[u8]) -> Result<LessSafeKey, AgeError> {
    cipher(&*derive(file_key, nonce, b"payload")?)
}

fn chunk_nonce(number: usize, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    // Eleven bytes count, of which the last eight are enough; the twelfth says whether it is the last chunk.
    for (place, byte) in nonce.iter_mut().skip(3).zip((number as u64).to_be_bytes()) {
        *place = byte;
    }
    nonce[11] = u8::from(last);
    Nonce::assume_unique_for_key(nonce)
}

fn recipient(text: &str) -> Result<[u8; 32], AgeError> {
    let wrong = || AgeError::Recipient(text.to_owned());
    let bytes = bech32::decode("age", text.trim()).ok_or_else(wrong)?;
    bytes.as_slice().try_into().map_err(|_| wrong())
}

fn identities(text: &str) -> Result<Vec<Zeroizing<[u8; 32]>>, AgeError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let identity = |line: &str| {
        let bytes = bech32::decode("age-secret-key-", line).ok_or(AgeError::Identity)?;
        bytes.as_slice().try_into().map(Zeroizing::new).map_err(|_| AgeError::Identity)
    };
    let identities = lines.map(identity).collect::<Result<Vec<_>, _>>()?;
    if identities.is_empty() { Err(AgeError::Identity) } else { Ok(identities) }
}

fn random(bytes: &mut [u8]) -> Result<(), AgeError> {
    rand::fill(bytes).map_err(|_| AgeError::Library)
}

#[cfg(test)]
mod tests;
