//! The issuance log: a text file that only grows, one frame for each sync.
//!
//! A frame is a line `= LENGTH CHECK` and LENGTH bytes of entries, a JSON object a line. CHECK is the head of SHA-256 over the
//! frame's place in the file and its entries, so that a frame is good only whole and only where it was written.
//!
//! - What was synced is never touched again. A frame that is not whole at the end of the file was never answered for: it is
//!   put aside and cut when the log is opened.
//! - The file is longer than what it holds, by zeros, while a server writes it and after one was killed: the log ends where they
//!   begin.
//! - A frame that is not good and has a good one behind it is damage: the log is not opened, and says where.

mod writer;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(crate) use writer::{LogFault, Writer, Written};

use pki::digest::hex;

use crate::entry::Entry;

/// The log's name in the state directory.
pub const FILE_NAME: &str = "issuance.log";
/// Where what was cut off the end is kept.
const CUT_NAME: &str = "issuance.log.cut";
/// Bytes of a frame's first line.
const HEAD_BYTES: usize = 28;
/// Bytes of entries in one frame, at most; a single order of entries is far smaller.
const FRAME_BYTES_MAX: usize = 256 * 1024;
/// The same for reading, with room for an order that came when the frame was nearly full.
const FRAME_BYTES_READ_MAX: usize = 2 * FRAME_BYTES_MAX;

/// Why the log cannot be read or begun.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system refuses.
    #[error("cannot use the issuance log {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Entries that were synced are damaged.
    #[error(
        "the issuance log {} is damaged at byte {at}, with good entries behind that: put a copy of it back, or begin a new state directory",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        at: u64,
    },
    /// A frame is whole and cannot be understood.
    #[error("the issuance log {} holds an entry at byte {at} that this version does not know: {reason}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Where its frame begins.
        at: u64,
        /// Why.
        reason: String,
    },
}

/// Reads all entries of a log in a state directory, oldest first, also while a server writes it. Returns where the good part
/// ends.
///
/// # Errors
/// [`LogError`].
pub fn read(dir: &Path, mut visit: impl FnMut(Entry)) -> Result<u64, LogError> {
    let path = dir.join(FILE_NAME);
    let io_error = |source| LogError::Io { path: path.clone(), source };
    let mut file = BufReader::with_capacity(FRAME_BYTES_MAX, File::open(&path).map_err(io_error)?);
    let mut at = 0;
    let mut frame = Vec::new();
    loop {
        frame.clear();
        match read_frame(&mut file, at, &mut frame).map_err(io_error)? {
            Frame::Good => {}
            Frame::End => return Ok(at),
            Frame::Bad => match look_again(&path, at).map_err(io_error)? {
                Look::WrittenNow => {
                    file.seek(SeekFrom::Start(at)).map_err(io_error)?;
                    continue;
                }
                Look::End => return Ok(at),
                Look::Damaged => return Err(LogError::Damaged { path, at }),
            },
        }
        for line in frame.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let entry = serde_json::from_slice(line).map_err(|error| LogError::Unknown {
                path: path.clone(),
                at,
                reason: error.to_string(),
            })?;
            visit(entry);
        }
        at += (HEAD_BYTES + frame.len()) as u64;
    }
}

/// Reads the log of a state directory and opens it for writing after its last good frame; begins one if there is none.
pub(crate) fn open(dir: &Path, first: &Entry, mut visit: impl FnMut(Entry)) -> Result<(File, u64), LogError> {
    let path = dir.join(FILE_NAME);
    let io_error = |source| LogError::Io { path: path.clone(), source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io_error)?;
    let mut begun = false;
    let mut end = read(dir, |entry| {
        begun = true;
        visit(entry);
    })?;
    let length = file.metadata().map_err(io_error)?.len();
    if length > end && rest(&path, end).map_err(io_error)?.iter().all(|byte| *byte == 0) {
        file.set_len(end).and_then(|()| file.sync_all()).map_err(io_error)?;
    } else if length > end {
        cut(dir, &mut file, end).map_err(io_error)?;
        tracing::warn!(
            path = %path.display(), at = end, bytes = length - end, kept_in = CUT_NAME,
            "the issuance log ended in a frame that was never synced; it was cut off"
        );
    }
    if !begun {
        let mut lines = Vec::new();
        line(first, &mut lines);
        let frame = frame(end, &lines);
        file.seek(SeekFrom::Start(end)).and_then(|_| file.write_all(&frame)).map_err(io_error)?;
        file.sync_all().map_err(io_error)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error)?;
        end += frame.len() as u64;
    }
    Ok((file, end))
}

/// Puts what stands behind `end` aside and cuts it off.
fn cut(dir: &Path, file: &mut File, end: u64) -> io::Result<()> {
    file.seek(SeekFrom::Start(end))?;
    let mut aside = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(CUT_NAME))?;
    io::copy(file, &mut aside)?;
    file.set_len(end)?;
    file.sync_all()
}

enum Frame {
    Good,
    /// Nothing more, not a byte.
    End,
    Bad,
}

/// Reads the frame at `at` into `entries`.
fn read_frame(file: &mut impl Read, at: u64, entries: &mut Vec<u8>) -> io::Result<Frame> {
    let mut head = [0; HEAD_BYTES];
    let mut filled = 0;
    while filled < HEAD_BYTES {
        match file.read(&mut head[filled..])? {
            0 if filled == 0 => return Ok(Frame::End),
            0 => return Ok(Frame::Bad),
            more => filled += more,
        }
    }
    let Some(length) = length_of(&head) else { return Ok(Frame::Bad) };
    file.take(length as u64).read_to_end(entries)?;
    Ok(if entries.len() == length && head_of(at, entries).as_bytes() == head { Frame::Good } else { Frame::Bad })
}

enum Look {
    /// The frame is good now: a server was just writing it.
    WrittenNow,
    /// It is not, and nothing good is behind it.
    End,
    /// It is not, and something good is.
    Damaged,
}

/// Judges a frame that was not good, and what is behind it.
fn look_again(path: &Path, at: u64) -> io::Result<Look> {
    // A server may write while this reads. Once a frame is seen behind, the one before was written whole: the second look
    // tells.
    let mut look = Look::End;
    for _ in 0..2 {
        let rest = rest(path, at)?;
        if let Frame::Good = read_frame(&mut rest.as_slice(), at, &mut Vec::new())? {
            return Ok(Look::WrittenNow);
        }
        if !is_good_frame_in(&rest, at)? {
            return Ok(Look::End);
        }
        look = Look::Damaged;
    }
    Ok(look)
}

/// What the file holds from `at` on.
fn rest(path: &Path, at: u64) -> io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    file.read_to_end(&mut rest)?;
    Ok(rest)
}

/// Whether a good frame begins anywhere in `rest`, which stands at `at`, but at its beginning.
fn is_good_frame_in(rest: &[u8], at: u64) -> io::Result<bool> {
    let mut entries = Vec::new();
    for start in 1..rest.len() {
        if rest[start..].starts_with(b"= ") {
            entries.clear();
            if let Frame::Good = read_frame(&mut &rest[start..], at + start as u64, &mut entries)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The length that a frame's first line tells.
fn length_of(head: &[u8; HEAD_BYTES]) -> Option<usize> {
    let digits = std::str::from_utf8(head.get(2..10)?).ok()?;
    usize::from_str_radix(digits, 16).ok().filter(|length| *length <= FRAME_BYTES_READ_MAX)
}

/// Puts an entry behind others, as it stands in a frame.
fn line(entry: &Entry, lines: &mut Vec<u8>) {
    // Serializing strings and numbers into memory does not fail.
    let _ = serde_json::to_writer(&mut *lines, entry);
    lines.push(b'\n');
}

/// The frame that begins at `at` and holds these entries.
fn frame(at: u64, entries: &[u8]) -> Vec<u8> {
    let mut frame = head_of(at, entries).into_bytes();
    frame.extend_from_slice(entries);
    frame
}

/// The first line of a frame.
fn head_of(at: u64, entries: &[u8]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(&at.to_be_bytes());
    context.update(entries);
    format!("= {:08x} {}\n", entries.len(), hex(&context.finish().as_ref()[..8]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn begun(time_ms: i64) -> Entry {
        Entry::Begun { time_ms, ca: "ca".into() }
    }

    fn lines(entries: &[Entry]) -> Vec<u8> {
        let mut lines = Vec::new();
        entries.iter().for_each(|entry| line(entry, &mut lines));
        lines
    }

    /// A log of three frames, and where each begins.
    fn three(dir: &Path) -> (Vec<u8>, [u64; 3]) {
        let (mut file, second) = open(dir, &begun(0), |_| {}).unwrap();
        file.seek(SeekFrom::Start(second)).unwrap();
        let two = frame(second, &lines(&[begun(1), begun(2)]));
        let third = second + two.len() as u64;
        file.write_all(&two).unwrap();
        file.write_all(&frame(third, &lines(&[begun(3)]))).unwrap();
        (std::fs::read(dir.join(FILE_NAME)).unwrap(), [0, second, third])
    }

    fn times(dir: &Path) -> Result<Vec<i64>, LogError> {
        let mut times = Vec::new();
        read(dir, |entry| times.push(entry.time().unix_millis()))?;
        Ok(times)
    }

    #[test]
    fn a_torn_end_is_cut_wherever_it_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, [_, _, third]) = three(dir.path());
        let path = dir.path().join(FILE_NAME);
        assert_eq!(times(dir.path()).unwrap(), [0, 1, 2, 3]);
        let third = usize::try_from(third).unwrap();
        for length in third..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(times(dir.path()).unwrap(), [0, 1, 2], "read as it is, at {length}");
            let (_, end) = open(dir.path(), &begun(9), |_| {}).unwrap();
            assert_eq!(end, third as u64);
            assert_eq!(std::fs::read(&path).unwrap(), whole[..third], "cut at {length}");
            if length > third {
                assert_eq!(std::fs::read(dir.path().join(CUT_NAME)).unwrap(), whole[third..length], "and kept");
            }
        }
        // Pages of the last frame that never reached the disk.
        for hole in third..whole.len() {
            let mut torn = whole.clone();
            torn[hole..].fill(0);
            std::fs::write(&path, &torn).unwrap();
            assert_eq!(times(dir.path()).unwrap(), [0, 1, 2], "a hole at {hole}");
        }
    }

    #[test]
    fn zeros_behind_the_end_are_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, _) = three(dir.path());
        let path = dir.path().join(FILE_NAME);
        for zeros in [1, HEAD_BYTES, 5_000] {
            std::fs::write(&path, [&whole[..], &vec![0; zeros]].concat()).unwrap();
            assert_eq!(times(dir.path()).unwrap(), [0, 1, 2, 3]);
            open(dir.path(), &begun(9), |_| {}).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole);
            assert!(!dir.path().join(CUT_NAME).exists(), "nothing was lost");
        }
    }

    #[test]
    fn damage_before_the_end_is_told_and_nothing_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, [_, second, third]) = three(dir.path());
        let path = dir.path().join(FILE_NAME);
        for place in 0..usize::try_from(third).unwrap() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x20;
            std::fs::write(&path, &damaged).unwrap();
            let Err(LogError::Damaged { at, .. }) = open(dir.path(), &begun(9), |_| {}) else {
                panic!("byte {place} taken")
            };
            assert_eq!(at, if (place as u64) < second { 0 } else { second });
            assert_eq!(std::fs::read(&path).unwrap(), damaged);
        }
    }

    #[test]
    fn a_frame_moved_elsewhere_is_not_good() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, [_, second, third]) = three(dir.path());
        let (second, third) = (usize::try_from(second).unwrap(), usize::try_from(third).unwrap());
        let again = [&whole[..second], &whole[third..]].concat();
        std::fs::write(dir.path().join(FILE_NAME), again).unwrap();
        assert_eq!(times(dir.path()).unwrap(), [0]);
    }
}
