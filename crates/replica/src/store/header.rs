//! The header file: whose store it is, which database holds it, and a proof that a data key is the right one.
//!
//! It is replaced whole, so it is also the switch by which a store is exchanged for another (a new data key, a new epoch).
//! Stored since format 1: change only with a sample in testdata/.

use super::StoreError;
use crate::disk;
use crate::seal::{self, DataKey, Kind, Opener, Scope, SealError, Sealer};
use prost::Message;
use std::path::{Path, PathBuf};

/// The database of a store that was never exchanged.
pub(crate) const FIRST_FILE: &str = "store-1.redb";

/// The raft id of the member that made the cluster.
pub(crate) const FIRST_MEMBER: u64 = 1;

const FILE: &str = "header";
const FORMAT: u32 = 1;
const SALT_ID: u32 = 0;
const PROOF: &[u8] = b"swarmpki data key proof";

/// What the header says. Nothing in it is secret; a locked manager reads it too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster's id.
    pub cluster: String,
    /// The cluster's epoch.
    pub epoch: u64,
    /// The name of the database's file, in the same directory.
    pub file: String,
    /// The raft id of the member whose store it is.
    pub member: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Stored {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(string, tag = "2")]
    cluster: String,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(string, tag = "4")]
    file: String,
    #[prost(bytes = "vec", tag = "5")]
    salt: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    proof: Vec<u8>,
    /// 0: [`FIRST_MEMBER`], as before there were others.
    #[prost(uint64, tag = "7")]
    member: u64,
}

/// Reads the header without a data key; `None` when there is no store.
pub fn header(dir: &Path) -> Result<Option<Header>, StoreError> {
    let path = dir.join(FILE);
    let Some(stored) = load(&path)? else { return Ok(None) };
    Ok(Some(stored.into()))
}

impl From<Stored> for Header {
    fn from(stored: Stored) -> Self {
        let member = if stored.member == 0 { FIRST_MEMBER } else { stored.member };
        Self { cluster: stored.cluster, epoch: stored.epoch, file: stored.file, member }
    }
}

pub(super) fn exists(dir: &Path) -> Result<bool, StoreError> {
    Ok(load(&dir.join(FILE))?.is_some())
}

pub(super) fn encode(scope: &Scope, member: u64, file: &str, data_key: &DataKey) -> Result<Vec<u8>, StoreError> {
    let path = PathBuf::from(FILE);
    let failed = |source| StoreError::seal(&path, source);
    let salt = seal::random_salt().map_err(failed)?;
    let mut sealer = Sealer::new(data_key, scope.clone(), SALT_ID, &salt).map_err(failed)?;
    let proof = sealer.seal(Kind::Header, 0, &proof(file, member)).map_err(failed)?;
    let stored = Stored {
        format: FORMAT,
        cluster: scope.cluster.clone(),
        epoch: scope.epoch,
        file: file.into(),
        salt: salt.to_vec(),
        proof,
        member: if member == FIRST_MEMBER { 0 } else { member },
    };
    Ok(stored.encode_to_vec())
}

pub(super) fn write(dir: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let path = dir.join(FILE);
    disk::write_atomic(&path, bytes).map_err(|source| StoreError::io(&path, "write", source))
}

/// Reads the header and proves the data key.
pub(super) fn open(dir: &Path, data_key: &DataKey) -> Result<Header, StoreError> {
    let path = dir.join(FILE);
    let stored = load(&path)?.ok_or_else(|| StoreError::NotFound { path: dir.to_path_buf() })?;
    let salt =
        stored.salt.as_slice().try_into().map_err(|_| StoreError::damaged(&path, "the salt has a wrong length"))?;
    let scope = Scope { cluster: stored.cluster.clone(), epoch: stored.epoch };
    let opener = Opener::new(data_key, scope, [(SALT_ID, salt)]).map_err(|source| StoreError::seal(&path, source))?;
    match opener.open(Kind::Header, 0, &stored.proof) {
        Ok(plain) if plain == proof(&stored.file, stored.member) => Ok(stored.into()),
        Ok(_) => Err(StoreError::damaged(&path, "it names another file or member than it was sealed for")),
        Err(SealError::NotAuthentic { .. }) => Err(StoreError::WrongKey { path }),
        Err(other) => Err(StoreError::seal(&path, other)),
    }
}

fn load(path: &Path) -> Result<Option<Stored>, StoreError> {
    let bytes = disk::read(path).map_err(|source| StoreError::io(path, "read", source))?;
    let Some(bytes) = bytes else { return Ok(None) };
    let stored = Stored::decode(bytes.as_slice()).map_err(|error| StoreError::damaged(path, error.to_string()))?;
    if stored.format != FORMAT {
        return Err(StoreError::Format { path: path.to_path_buf(), found: stored.format, known: FORMAT });
    }
    if stored.file.is_empty() || stored.file.contains('/') {
        return Err(StoreError::damaged(path, "it names no file of this directory"));
    }
    Ok(Some(stored))
}

fn proof(file: &str, member: u64) -> Vec<u8> {
    let mut proof = [PROOF, b":", file.as_bytes()].concat();
    if member > FIRST_MEMBER {
        proof.extend_from_slice(format!(":{member}").as_bytes());
    }
    proof
}
