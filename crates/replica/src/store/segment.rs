//! The files that the log lies in: their names, and zeros written over them, which is how they begin and how they end.

use super::StoreError;
use crate::disk::{Medium, Metered};
use redb::StorageBackend;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Zeros that are written and synced between two frames.
const PIECE_BYTES: u64 = 512 * 1024;

/// A file of the log.
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn StorageBackend>,
    pub(super) bytes: u64,
}

impl Segment {
    /// Up to so many bytes of it are read.
    pub(super) fn read(&self) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; usize::try_from(self.bytes).unwrap_or(usize::MAX)];
        self.file.read(0, &mut bytes).map_err(|source| StoreError::io(&self.path, "read", source))?;
        Ok(bytes)
    }
}

/// Where the segments of one log lie: beside the database, with its name.
pub(super) struct Place<M> {
    pub(super) medium: M,
    dir: PathBuf,
    /// What their names begin with; the number follows.
    prefix: String,
    syncs: Arc<AtomicU64>,
}

impl<M: Medium> Place<M> {
    /// The segments that belong to this database; their syncs are counted.
    pub(super) fn beside(medium: M, database: &Path, syncs: Arc<AtomicU64>) -> Self {
        let dir = database.parent().unwrap_or(database).to_path_buf();
        let stem = database.file_stem().unwrap_or_default().to_string_lossy();
        Self { medium, dir, prefix: format!("{stem}.log-"), syncs }
    }

    pub(super) fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{}{number}", self.prefix))
    }

    /// The numbers of those that are there, in order.
    pub(super) fn numbers(&self) -> Result<Vec<u32>, StoreError> {
        let names =
            self.medium.names(&self.dir).map_err(|source| StoreError::io(&self.dir, "list the directory", source))?;
        let mut numbers: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix(&self.prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) fn open(&self, number: u32) -> Result<Segment, StoreError> {
        let path = self.path(number);
        let opened = self.backend(&path, false).and_then(|file| Ok((file.len()?, file)));
        let (bytes, file) = opened.map_err(|source| StoreError::io(&path, "open", source))?;
        Ok(Segment { number, path, file, bytes })
    }

    /// Makes a segment, or takes the file that is there; it holds nothing yet that one could rely on.
    pub(super) fn make(&self, number: u32, bytes: u64) -> Result<Segment, StoreError> {
        let path = self.path(number);
        let make = || {
            let file = self.backend(&path, true)?;
            file.set_len(bytes)?;
            self.medium.sync_dir(&self.dir)?;
            Ok(file)
        };
        let file = make().map_err(|source| StoreError::io(&path, "make", source))?;
        Ok(Segment { number, path, file, bytes })
    }

    pub(super) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        let removed = self.medium.remove(path).and_then(|()| self.medium.sync_dir(&self.dir));
        removed.map_err(|source| StoreError::io(path, "remove", source))
    }

    fn backend(&self, path: &Path, create: bool) -> io::Result<Arc<dyn StorageBackend>> {
        let inner = self.medium.open(path, create)?;
        Ok(Arc::new(Metered { inner, path: path.to_path_buf(), syncs: self.syncs.clone() }))
    }
}

/// A segment that is written over with zeros: before its use, so that a frame changes no length and allocates nothing; and
/// after it, so that nothing of it is left.
pub(super) struct Zeroing {
    pub(super) segment: Segment,
    done: u64,
}

impl Zeroing {
    /// Begins with nothing done.
    pub(super) fn new(segment: Segment) -> Self {
        Self { segment, done: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done >= self.segment.bytes
    }

    /// Writes and syncs a piece. The first one is a sector: whether it is there tells what the segment is, so it goes first,
    /// whole, and the rest after it.
    pub(super) fn go_on(&mut self) -> Result<(), StoreError> {
        let most = if self.done == 0 { super::frame::SECTOR as u64 } else { PIECE_BYTES };
        let piece = most.min(self.segment.bytes.saturating_sub(self.done));
        let zeros = vec![0; usize::try_from(piece).unwrap_or_default()];
        let written = self.segment.file.write(self.done, &zeros).and_then(|()| self.segment.file.sync_data());
        written.map_err(|source| StoreError::io(&self.segment.path, "write", source))?;
        self.done += piece;
        Ok(())
    }
}
