//! What a backup holds, before it is encrypted: a header in JSON, the state, the issuance log, and a digest of all of it.
//!
//! ```text
//! "swarmpki backup\n"
//! 1 length header | 2 length state | 3 length entry, 5 length its private part … | 4 32 SHA-256 of everything before
//! ```
//! Kinds are a byte, lengths eight, the highest first. Format 1.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cluster::{LogEntry, State};
use pki::digest::sha256;
use serde::{Deserialize, Serialize};
use swarmpki::KeptHead;
use zeroize::Zeroizing;

const MAGIC: &[u8] = b"swarmpki backup\n";
const FORMAT: u32 = 1;
const HEADER: u8 = 1;
const STATE: u8 = 2;
const ENTRY: u8 = 3;
const DIGEST: u8 = 4;
const PRIVATE: u8 = 5;
const DIGEST_BYTES: usize = 32;

/// What the header says.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Header {
    format: u32,
    cluster: String,
    epoch: u64,
    index: u64,
    /// The cluster's time, in RFC 3339.
    time: String,
    /// The head of the issuance log, as a manager signed it, in base64; backups of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log_head: Option<String>,
}

/// Why a backup cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// Something else.
    #[error("this is no backup of a swarmpki cluster")]
    Foreign,
    /// Written by a newer version.
    #[error("the backup has format {0}, this version knows format {FORMAT}: use the version that wrote it")]
    Later(u32),
    /// Damaged, or cut.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes it all down.
pub(crate) fn encode(backup: &replica::Backup, head: Option<&[u8]>) -> Zeroizing<Vec<u8>> {
    let state = &backup.state;
    let header = Header {
        format: FORMAT,
        cluster: state.cluster_id().map(ToString::to_string).unwrap_or_default(),
        epoch: state.epoch(),
        index: state.index,
        time: state.time().rfc3339(),
        log_head: head.map(|head| BASE64.encode(head)),
    };
    let header = serde_json::to_vec(&header).unwrap_or_default();
    let snapshot = Zeroizing::new(state.encode_snapshot());
    let private = |entry: &LogEntry| entry.private.as_ref().map_or(0, |private| private.len() + 9);
    let entries: usize = backup.issued.iter().map(|entry| entry.bytes.len() + 9 + private(entry)).sum();
    // It never grows: growing would leave copies of the keys in it.
    let bytes = MAGIC.len() + header.len() + snapshot.len() + entries + DIGEST_BYTES + 3 * 9;
    let mut out = Zeroizing::new(Vec::with_capacity(bytes));
    out.extend_from_slice(MAGIC);
    let mut put = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    put(HEADER, &header);
    put(STATE, &snapshot);
    for entry in &backup.issued {
        put(ENTRY, &entry.bytes);
        entry.private.iter().for_each(|private| put(PRIVATE, private));
    }
    let digest = sha256(&out);
    out.push(DIGEST);
    out.extend_from_slice(&(DIGEST_BYTES as u64).to_be_bytes());
    out.extend_from_slice(&digest);
    out
}

/// Reads it, and makes sure that it is whole; beside it the head that was signed of its issuance log.
pub(crate) fn decode(bytes: &[u8]) -> Result<(replica::Backup, Option<KeptHead>), BackupError> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(BackupError::Foreign)?;
    let (mut header, mut state, mut issued) = (None, None, Vec::new());
    loop {
        let before = bytes.len() - rest.len();
        let (head, more) = rest.split_at_checked(9).ok_or(BackupError::Damaged("it is cut short"))?;
        let (kind, length) = head.split_at(1);
        let length = length.try_into().map(u64::from_be_bytes).ok().and_then(|length| usize::try_from(length).ok());
        let section = length.and_then(|length| more.split_at_checked(length));
        let (section, more) = section.ok_or(BackupError::Damaged("it is cut short"))?;
        rest = more;
        match kind {
            [HEADER] => {
                let told: Header =
                    serde_json::from_slice(section).map_err(|_| BackupError::Damaged("its header is none"))?;
                if told.format != FORMAT {
                    return Err(BackupError::Later(told.format));
                }
                header = Some(told);
            }
            [STATE] => {
                let read = State::decode_snapshot(section);
                state = Some(read.map_err(|_| BackupError::Damaged("the state in it cannot be read"))?);
            }
            [ENTRY] => issued.push(LogEntry { seq: issued.len() as u64, bytes: section.to_vec(), private: None }),
            [PRIVATE] => {
                let entry: Option<&mut LogEntry> = issued.last_mut();
                let entry = entry.filter(|entry| entry.private.is_none());
                let entry = entry.ok_or(BackupError::Damaged("a private part is of no entry"))?;
                entry.private = Some(section.to_vec());
            }
            [DIGEST] => {
                if !rest.is_empty() || section != sha256(bytes.get(..before).unwrap_or_default()) {
                    return Err(BackupError::Damaged("it is not what was written"));
                }
                break;
            }
            _ => return Err(BackupError::Damaged("it holds what this version does not know")),
        }
    }
    let (Some(header), Some(state)) = (header, state) else { return Err(BackupError::Damaged("a part is missing")) };
    if state.cluster_id().map(ToString::to_string).as_ref() != Some(&header.cluster) || state.epoch() != header.epoch {
        return Err(BackupError::Damaged("its header is another's"));
    }
    let head = match header.log_head {
        Some(text) => {
            Some(head_of(&text, &state).ok_or(BackupError::Damaged("the signed head in it is of another log"))?)
        }
        None => None,
    };
    let backup = replica::Backup { state: Arc::new(state), issued };
    if !backup.is_whole() {
        return Err(BackupError::Damaged("the issuance log in it is another's"));
    }
    Ok((backup, head))
}

/// The head in a backup, if it is of the log in the state beside it.
fn head_of(text: &str, state: &State) -> Option<KeptHead> {
    let kept = KeptHead::read(&BASE64.decode(text).ok()?)?;
    let head = &kept.head;
    let same = state.cluster_id() == Some(&head.cluster)
        && (head.epoch, head.size, head.root) == (state.epoch(), state.log_size(), state.log.root());
    same.then_some(kept)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// The sample of the state's format, whose issuance log is made up: it is not whole, and is refused for that alone.
    fn sample() -> replica::Backup {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/testdata/state/format-1/managers.bin");
        let mut state = State::decode_snapshot(&std::fs::read(path).unwrap()).unwrap();
        state.log = cluster::log::LogHead::default();
        let entries = [b"one".to_vec(), b"two".to_vec()];
        for entry in &entries {
            state.log.append(entry);
        }
        let issued = entries
            .into_iter()
            .zip(0..)
            .map(|(bytes, seq)| LogEntry { seq, bytes, private: (seq == 1).then(|| b"private".to_vec()) })
            .collect();
        replica::Backup { state: Arc::new(state), issued }
    }

    #[test]
    fn there_and_back() {
        let backup = sample();
        let bytes = encode(&backup, None);
        let (again, none) = decode(&bytes).unwrap();
        assert_eq!(none, None);
        assert_eq!(again.issued, backup.issued);
        assert!(again.state.encode_snapshot() == backup.state.encode_snapshot());
    }

    fn said(head: pki::witness::Head) -> Vec<u8> {
        let content = wire::convert::log_head::encode(&head);
        let statement = swarmpki::Statement { chain: Vec::new(), scheme: 0x0403, content, signature: vec![1; 70] };
        KeptHead::new(statement).unwrap().bytes()
    }

    #[test]
    fn the_head_is_the_logs_of_the_backup() {
        let backup = sample();
        let state = &backup.state;
        let head = pki::witness::Head {
            cluster: state.cluster_id().unwrap().clone(),
            epoch: state.epoch(),
            size: state.log_size(),
            root: state.log.root(),
            at: state.time(),
        };
        let (_, kept) = decode(&encode(&backup, Some(&said(head.clone())))).unwrap();
        assert_eq!(kept.unwrap().head, head);
        for other in [
            pki::witness::Head { size: head.size + 1, ..head.clone() },
            pki::witness::Head { root: [0; 32], ..head.clone() },
            pki::witness::Head { epoch: head.epoch + 1, ..head.clone() },
        ] {
            let refused = decode(&encode(&backup, Some(&said(other.clone()))));
            assert!(matches!(refused, Err(BackupError::Damaged(_))), "{other:?}");
        }
        assert!(decode(&encode(&backup, Some(b"none"))).is_err());
    }

    #[test]
    fn what_is_changed_cut_or_foreign_is_refused() {
        let bytes = encode(&sample(), None);
        for at in (0..bytes.len()).step_by(7) {
            let mut hurt = bytes.to_vec();
            hurt[at] ^= 1;
            assert!(decode(&hurt).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(decode(&[&bytes[..], b"x"].concat()).is_err());
        assert!(matches!(decode(b"else"), Err(BackupError::Foreign)));
        let mut other = sample();
        other.issued[0].bytes[0] ^= 1;
        assert!(matches!(decode(&encode(&other, None)), Err(BackupError::Damaged(_))));
    }
}
