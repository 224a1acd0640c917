//! Encryption at rest.
//!
//! - Record key = HKDF-SHA256(data key, a salt drawn when this process started): two processes never share a key, so a
//!   nonce that counts from zero never repeats, whatever a crash or a restored copy of the disk did to the counter.
//! - AES-256-GCM; the associated data names cluster, epoch, kind and index, so that a record cannot be moved: not to
//!   another row, another table, another cluster, nor across a restore.
//! - The salt's number and the nonce's counter stand before the ciphertext; salts themselves are no secret.
//!
//! Stored since format 1: change only with a sample in testdata/.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Bytes of a data key.
pub const DATA_KEY_BYTES: usize = 32;
/// Bytes of a salt.
pub const SALT_BYTES: usize = 32;
/// Bytes that sealing adds: format, salt number, counter, tag.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + 8;
const TAG_BYTES: usize = 16;
const INFO: &[u8] = b"swarmpki record key 1";
const CONTEXT: &[u8] = b"swarmpki record 1";

/// What a record is; together with its index it is the record's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A frame of the log; the index is its number.
    Frame = 1,
    /// A row of the meta table; the index is its key.
    Meta = 2,
    /// A piece of the snapshot; the index is its position.
    Snapshot = 3,
    /// An entry of the issuance log; the index is its sequence number.
    Issued = 4,
    /// The proof in the header file that a data key is the right one.
    Header = 5,
    /// The private part of an entry of the issuance log; the index is its sequence number.
    Private = 6,
    /// Hashes of the tree over the issuance log; the index is their place.
    Tile = 7,
}

/// Why a record could not be sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The tag does not fit: another data key, a changed record, or a record moved from another place.
    #[error("a record ({kind:?} {index}) is not authentic: it was changed, moved, or sealed under another data key")]
    NotAuthentic {
        /// The kind of record that was asked for.
        kind: Kind,
        /// The place that was asked for.
        index: u64,
    },
    /// Shorter than any sealed record.
    #[error("a record ({kind:?} {index}) is cut short")]
    Short {
        /// The kind of record that was asked for.
        kind: Kind,
        /// The place that was asked for.
        index: u64,
    },
    /// Written by a newer version.
    #[error("a record has format {0}, this version knows format 1")]
    Format(u8),
    /// Its salt is not in the store.
    #[error("a record names salt {0}, which the store does not hold")]
    Salt(u32),
    /// All 2^64 nonces of this process are used.
    #[error("the nonces of this process are used up: restart it")]
    Exhausted,
    /// The cryptographic library refused (no entropy, no memory).
    #[error("the cryptographic library failed")]
    Library,
}

/// The key from which record keys are made. Wiped on drop; no Debug, no Clone.
pub struct DataKey(Zeroizing<[u8; DATA_KEY_BYTES]>);

impl DataKey {
    /// Takes the 32 bytes; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0u8; DATA_KEY_BYTES]);
        if bytes.len() != DATA_KEY_BYTES {
            return None;
        }
        key.copy_from_slice(bytes);
        Some(Self(key))
    }

    fn record_key(&self, salt: &[u8; SALT_BYTES]) -> Result<LessSafeKey, SealError> {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(self.0.as_slice());
        let okm = prk.expand(&[INFO], &AES_256_GCM).map_err(|_| SealError::Library)?;
        Ok(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

/// Whose records they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The cluster's id.
    pub cluster: String,
    /// The cluster's epoch: raised by a restore and by force-new-cluster.
    pub epoch: u64,
}

impl Scope {
    fn place(&self, kind: Kind, index: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(CONTEXT.len() + self.cluster.len() + 8 + 8 + 1 + 8);
        out.extend_from_slice(CONTEXT);
        out.extend_from_slice(&(self.cluster.len() as u64).to_be_bytes());
        out.extend_from_slice(self.cluster.as_bytes());
        out.extend_from_slice(&self.epoch.to_be_bytes());
        push_place(&mut out, kind, index);
        out
    }
}

/// Bytes of [`push_place`].
const PLACE_TAIL_BYTES: usize = 1 + 8;

/// What differs between the places of one store.
fn push_place(out: &mut Vec<u8>, kind: Kind, index: u64) {
    out.push(kind as u8);
    out.extend_from_slice(&index.to_be_bytes());
}

/// Draws a salt.
pub fn random_salt() -> Result<[u8; SALT_BYTES], SealError> {
    let mut salt = [0u8; SALT_BYTES];
    aws_lc_rs::rand::fill(&mut salt).map_err(|_| SealError::Library)?;
    Ok(salt)
}

/// Seals records of this process. There is one for a salt, it is not `Clone`, and `seal` takes `&mut`: the counter has one owner.
pub struct Sealer {
    scope: Scope,
    key: LessSafeKey,
    salt_id: u32,
    counter: u64,
}

impl Sealer {
    /// A sealer under a salt that was never used before.
    pub fn new(data_key: &DataKey, scope: Scope, salt_id: u32, salt: &[u8; SALT_BYTES]) -> Result<Self, SealError> {
        Ok(Self { scope, key: data_key.record_key(salt)?, salt_id, counter: 0 })
    }

    /// Seals a record for its place.
    pub fn seal(&mut self, kind: Kind, index: u64, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut out = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        self.seal_onto(&mut out, kind, index, plain)?;
        Ok(out)
    }

    /// Seals a record for its place, behind what is in `out`.
    pub fn seal_onto(&mut self, out: &mut Vec<u8>, kind: Kind, index: u64, plain: &[u8]) -> Result<(), SealError> {
        let counter = self.counter;
        self.counter = counter.checked_add(1).ok_or(SealError::Exhausted)?;
        let begin = out.len();
        out.push(FORMAT);
        out.extend_from_slice(&self.salt_id.to_be_bytes());
        out.extend_from_slice(&counter.to_be_bytes());
        out.extend_from_slice(plain);
        let aad = Aad::from(self.scope.place(kind, index));
        let body = out.get_mut(begin + HEADER_BYTES..).unwrap_or_default();
        let tag = self.key.seal_in_place_separate_tag(nonce(counter), aad, body).map_err(|_| SealError::Library)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Opens records of any process that wrote this store.
pub struct Opener {
    scope: Scope,
    keys: BTreeMap<u32, LessSafeKey>,
}

impl Opener {
    /// An opener for these salts, by number.
    pub fn new(
        data_key: &DataKey,
        scope: Scope,
        salts: impl IntoIterator<Item = (u32, [u8; SALT_BYTES])>,
    ) -> Result<Self, SealError> {
        let mut keys = BTreeMap::new();
        for (id, salt) in salts {
            keys.insert(id, data_key.record_key(&salt)?);
        }
        Ok(Self { scope, keys })
    }

    /// Opens the record that was sealed for this place.
    pub fn open(&self, kind: Kind, index: u64, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut out = Vec::with_capacity(sealed.len().saturating_sub(OVERHEAD_BYTES));
        self.reader().open_onto(&mut out, kind, index, sealed)?;
        Ok(out)
    }

    /// Opens many records, one after the other.
    pub fn reader(&self) -> Reader<'_> {
        Reader { opener: self, place: self.scope.place(Kind::Frame, 0) }
    }
}

/// Opens records of one store without taking memory for each.
pub struct Reader<'a> {
    opener: &'a Opener,
    /// The associated data of the last record.
    place: Vec<u8>,
}

impl Reader<'_> {
    /// Opens the record that was sealed for this place, behind what is in `out`; that stays as it is if it does not open.
    pub fn open_onto(&mut self, out: &mut Vec<u8>, kind: Kind, index: u64, sealed: &[u8]) -> Result<(), SealError> {
        let short = SealError::Short { kind, index };
        let (&format, rest) = sealed.split_first().ok_or(short)?;
        if format != FORMAT {
            return Err(SealError::Format(format));
        }
        let (salt_id, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
        let (counter, body) = rest.split_first_chunk::<8>().ok_or(short)?;
        let (body, tag) = body.split_last_chunk::<TAG_BYTES>().ok_or(short)?;
        let salt_id = u32::from_be_bytes(*salt_id);
        let key = self.opener.keys.get(&salt_id).ok_or(SealError::Salt(salt_id))?;
        self.place.truncate(self.place.len() - PLACE_TAIL_BYTES);
        push_place(&mut self.place, kind, index);
        let begin = out.len();
        out.resize(begin + body.len(), 0);
        let plain = out.get_mut(begin..).unwrap_or_default();
        let nonce = nonce(u64::from_be_bytes(*counter));
        let opened = key.open_separate_gather(nonce, Aad::from(&self.place), body, tag, plain);
        opened.map_err(|_| {
            out.truncate(begin);
            SealError::NotAuthentic { kind, index }
        })
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0u8; NONCE_LEN];
    if let Some(low) = bytes.last_chunk_mut::<8>() {
        *low = counter.to_be_bytes();
    }
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn scope(cluster: &str, epoch: u64) -> Scope {
        Scope { cluster: cluster.into(), epoch }
    }

    fn pair(key: u8, scope: Scope) -> (Sealer, Opener) {
        let key = DataKey::from_slice(&[key; 32]).unwrap();
        let salt = [7u8; SALT_BYTES];
        (Sealer::new(&key, scope.clone(), 3, &salt).unwrap(), Opener::new(&key, scope, [(3, salt)]).unwrap())
    }

    #[test]
    fn a_record_opens_in_its_place_only() {
        let (mut sealer, opener) = pair(1, scope("c", 0));
        let sealed = sealer.seal(Kind::Frame, 9, b"plain words").unwrap();
        assert_eq!(opener.open(Kind::Frame, 9, &sealed).unwrap(), b"plain words");
        assert!(!sealed.windows(5).any(|w| w == b"plain"));
        let moved =
            |kind, index| assert_eq!(opener.open(kind, index, &sealed), Err(SealError::NotAuthentic { kind, index }));
        moved(Kind::Frame, 8);
        moved(Kind::Issued, 9);
        for other in [pair(1, scope("d", 0)).1, pair(1, scope("c", 1)).1, pair(2, scope("c", 0)).1] {
            assert!(matches!(other.open(Kind::Frame, 9, &sealed), Err(SealError::NotAuthentic { .. })));
        }
    }

    #[test]
    fn no_bit_can_be_changed() {
        let (mut sealer, opener) = pair(1, scope("c", 0));
        let sealed = sealer.seal(Kind::Meta, 1, b"vote").unwrap();
        for byte in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[byte] ^= 1;
            assert!(opener.open(Kind::Meta, 1, &bad).is_err(), "byte {byte}");
            assert!(opener.open(Kind::Meta, 1, &sealed[..byte]).is_err(), "cut at {byte}");
        }
    }

    #[test]
    fn a_reader_opens_one_after_the_other() {
        let (mut sealer, opener) = pair(1, scope("c", 0));
        let (one, other) =
            (sealer.seal(Kind::Frame, 1, b"one").unwrap(), sealer.seal(Kind::Issued, 2, b"other").unwrap());
        let (mut reader, mut out) = (opener.reader(), b"x".to_vec());
        reader.open_onto(&mut out, Kind::Frame, 1, &one).unwrap();
        assert!(reader.open_onto(&mut out, Kind::Issued, 1, &other).is_err());
        assert_eq!(out, b"xone", "nothing of what does not open is left");
        reader.open_onto(&mut out, Kind::Issued, 2, &other).unwrap();
        assert_eq!(out, b"xoneother");
    }

    #[test]
    fn equal_records_never_look_equal() {
        let (mut sealer, _) = pair(1, scope("c", 0));
        let first = sealer.seal(Kind::Frame, 1, b"same").unwrap();
        let second = sealer.seal(Kind::Frame, 1, b"same").unwrap();
        assert_ne!(first, second);
        assert_ne!(first[5..13], second[5..13], "the counter moved");
    }

    #[test]
    fn an_unknown_salt_is_named() {
        let (mut sealer, _) = pair(1, scope("c", 0));
        let sealed = sealer.seal(Kind::Frame, 1, b"x").unwrap();
        let key = DataKey::from_slice(&[1; 32]).unwrap();
        let opener = Opener::new(&key, scope("c", 0), []).unwrap();
        assert_eq!(opener.open(Kind::Frame, 1, &sealed), Err(SealError::Salt(3)));
        assert!(DataKey::from_slice(&[0; 31]).is_none());
    }
}
