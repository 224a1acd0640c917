//! A frame: what one sync makes durable, as it lies in a segment of the log.
//!
//! ```text
//! frame    magic 4 | bytes of the sealed records 4 | number 8 | sealed records
//! record   kind 1 | index 8 | length 4 | bytes
//! ```
//!
//! - Frames are numbered over all segments without a gap, and sealed for their number: a frame opens in no other's place.
//! - A frame begins with a sector, and no sector holds two: a write that is torn hurts none before it, and whether a frame
//!   is there at all is seen from one sector, which is written whole or not at all.
//!
//! Stored since format 1: change only with a sample in testdata/.

use crate::seal::{Kind, OVERHEAD_BYTES, Opener, SealError, Sealer};
use zeroize::Zeroizing;

/// What a disk writes whole or not at all, in bytes.
pub(super) const SECTOR: usize = 512;
const MAGIC: &[u8; 4] = b"swl1";
const HEAD_BYTES: usize = 4 + 4 + 8;
const RECORD_HEAD_BYTES: usize = 1 + 8 + 4;

/// One change of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// An entry, by its index.
    Entry(u64, &'a [u8]),
    /// Whom this member votes for.
    Vote(&'a [u8]),
    /// No entries from this index on.
    TruncateFrom(u64),
    /// No entries up to this index, and the mark that says so.
    PurgeThrough(u64, &'a [u8]),
}

/// The records of a frame, not sealed (yet, or any more): entries carry keys and token secrets, so it is wiped.
pub(super) struct Plain {
    bytes: Zeroizing<Vec<u8>>,
}

impl Plain {
    /// Room for so many records with so many bytes together: what grew beyond would leave a copy behind.
    pub(super) fn with_room(records: usize, bytes: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(records * RECORD_HEAD_BYTES + bytes)) }
    }

    pub(super) fn push(&mut self, record: Record<'_>) {
        let (kind, index, bytes) = match record {
            Record::Entry(index, bytes) => (1, index, bytes),
            Record::Vote(bytes) => (2, 0, bytes),
            Record::TruncateFrom(index) => (3, index, [].as_slice()),
            Record::PurgeThrough(index, mark) => (4, index, mark),
        };
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&index.to_be_bytes());
        // What does not fit was refused long before: an entry has 8 MiB at most.
        self.bytes.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn extend(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
    }

    /// Bytes of the records.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The records in order; an error where they cannot be told apart.
    pub(super) fn records(&self) -> impl Iterator<Item = Result<Record<'_>, &'static str>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let record = split(rest);
            rest = record.map_or(&[], |(_, behind)| behind);
            Some(record.map(|(record, _)| record).ok_or("a frame holds something else than records"))
        })
    }
}

fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let (index, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let index = u64::from_be_bytes(*index);
    let record = match kind {
        1 => Record::Entry(index, body),
        2 => Record::Vote(body),
        3 => Record::TruncateFrom(index),
        4 => Record::PurgeThrough(index, body),
        _ => return None,
    };
    Some((record, rest))
}

/// A frame that was read.
pub(super) struct Frame {
    pub(super) number: u64,
    /// Bytes that it takes, up to the next one's sector.
    pub(super) bytes: usize,
    pub(super) plain: Plain,
}

/// Bytes that a frame with so many bytes of records takes, up to the next one's sector.
pub(super) fn bytes(plain: usize) -> usize {
    (HEAD_BYTES + OVERHEAD_BYTES + plain).next_multiple_of(SECTOR)
}

/// The frame with this number, as it is written.
pub(super) fn seal(sealer: &mut Sealer, number: u64, plain: &Plain) -> Result<Vec<u8>, SealError> {
    let mut out = Vec::with_capacity(bytes(plain.len()));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&u32::try_from(OVERHEAD_BYTES + plain.len()).map_err(|_| SealError::Library)?.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    sealer.seal_onto(&mut out, Kind::Frame, number, &plain.bytes)?;
    out.resize(out.len().next_multiple_of(SECTOR), 0);
    Ok(out)
}

/// Reads the frame that begins here; `None`: there is none that is whole, or it has another number than the one that is
/// wanted.
///
/// An error: its first sector is there and cannot be read by this program. A torn write does not look like that.
pub(super) fn open(opener: &Opener, bytes: &[u8], wanted: Option<u64>) -> Result<Option<Frame>, SealError> {
    let Some((number, sealed)) = parts(bytes) else { return Ok(None) };
    if wanted.is_some_and(|wanted| wanted != number) {
        return Ok(None);
    }
    match opener.open(Kind::Frame, number, sealed) {
        Ok(plain) => {
            let bytes = (HEAD_BYTES + sealed.len()).next_multiple_of(SECTOR);
            Ok(Some(Frame { number, bytes, plain: Plain { bytes: Zeroizing::new(plain) } }))
        }
        Err(SealError::NotAuthentic { .. } | SealError::Short { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

fn parts(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let sealed = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    (magic == MAGIC).then_some((u64::from_be_bytes(*number), sealed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::seal::{DataKey, Scope};

    fn pair() -> (Sealer, Opener) {
        let key = DataKey::from_slice(&[1; 32]).unwrap();
        let scope = Scope { cluster: "c".into(), epoch: 0 };
        (Sealer::new(&key, scope.clone(), 3, &[7; 32]).unwrap(), Opener::new(&key, scope, [(3, [7; 32])]).unwrap())
    }

    const RECORDS: [Record<'_>; 5] = [
        Record::Entry(7, b"an entry"),
        Record::Entry(u64::MAX, b""),
        Record::Vote(b"a vote"),
        Record::TruncateFrom(7),
        Record::PurgeThrough(6, b"a mark"),
    ];

    fn plain() -> Plain {
        let mut plain = Plain::with_room(RECORDS.len(), 20);
        RECORDS.into_iter().for_each(|record| plain.push(record));
        plain
    }

    #[test]
    fn what_is_written_is_read_under_its_number_only() {
        let (mut sealer, opener) = pair();
        let written = seal(&mut sealer, 5, &plain()).unwrap();
        assert_eq!((written.len(), written.len() % SECTOR), (bytes(plain().len()), 0));
        for wanted in [None, Some(5)] {
            let frame = open(&opener, &written, wanted).unwrap().unwrap();
            assert_eq!((frame.number, frame.bytes), (5, written.len()));
            assert_eq!(frame.plain.records().map(Result::unwrap).collect::<Vec<_>>(), RECORDS);
        }
        assert!(open(&opener, &written, Some(6)).unwrap().is_none());
        let mut renumbered = written.clone();
        renumbered[15] = 6;
        assert!(open(&opener, &renumbered, Some(6)).unwrap().is_none(), "it was sealed for 5");
    }

    #[test]
    fn a_frame_that_is_not_whole_is_none() {
        let (mut sealer, opener) = pair();
        let mut long = Plain::with_room(1, 3000);
        long.push(Record::Entry(1, &[9; 3000]));
        let written = seal(&mut sealer, 1, &long).unwrap();
        for sector in 0..written.len() / SECTOR {
            let mut torn = written.clone();
            torn[sector * SECTOR..][..SECTOR].fill(0);
            assert!(open(&opener, &torn, None).unwrap().is_none(), "sector {sector}");
            assert!(open(&opener, &written[..sector * SECTOR], None).unwrap().is_none(), "cut at {sector}");
        }
    }

    #[test]
    fn a_frame_that_only_another_store_or_a_newer_version_can_read_is_an_error() {
        let (mut sealer, opener) = pair();
        let written = seal(&mut sealer, 1, &plain()).unwrap();
        let changed = |at: usize| {
            let mut changed = written.clone();
            changed[at] ^= 2;
            open(&opener, &changed, Some(1)).err()
        };
        assert_eq!(changed(16), Some(SealError::Format(3)));
        assert_eq!(changed(20), Some(SealError::Salt(1)));
        assert_eq!(changed(24), None, "the counter: just not authentic");
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let whole = plain();
        let first = 13 + 8;
        for (bytes, what) in [(&whole.bytes[..first - 1], "cut"), (&[9; 13], "of an unknown kind")] {
            let plain = Plain { bytes: Zeroizing::new(bytes.to_vec()) };
            assert_eq!(plain.records().filter(Result::is_err).count(), 1, "{what}");
        }
    }
}
