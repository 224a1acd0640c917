//! A store is exchanged for another with the same content, under another data key.
//!
//! - All of it is written anew beside the old one, in files with the next number, and synced; then the header is replaced, which is the
//!   moment of the exchange; then the old files are overwritten with zeros and removed.
//! - It is done on the log's thread, between two of its jobs, while the database's thread has none: nothing else is written meanwhile. What is read comes from the old files
//!   until the header says otherwise.
//! - A crash before leaves new files that the header does not name, one after leaves old ones: whatever it does not name is overwritten and
//!   removed at the next start.
//! - If the new files cannot be written (no room, say) they go, and the old store goes on. If the header cannot be, nobody knows which of the two the next start
//!   finds: that is fatal.

use super::frame::{Plain, Record};
use super::log::Log;
use super::table::{ISSUED, META, META_KEYS, PRIVATE, SNAPSHOT, TILES};
use super::{Done, Files, Sealers, StoreError, header};
use crate::disk::Medium;
use crate::seal::{DataKey, Kind, Scope, Sealer};
use redb::{ReadableDatabase, ReadableTable, StorageBackend};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use zeroize::Zeroizing;

/// Bytes of entries that go into one frame, about.
const FRAME_BYTES: usize = 4 * 1024 * 1024;
/// Entries that are read at once.
const READ_AT_ONCE: u64 = 16;
/// Zeros that are written at once.
const PIECE_BYTES: u64 = 1024 * 1024;
/// How long whoever still reads from old files is left alone between two looks.
const READERS_PAUSE: Duration = Duration::from_millis(1);
/// What every file of a store begins with.
const PREFIX: &str = "store-";

/// What the writer needs to exchange its store.
pub(super) struct Exchange<M> {
    pub(super) medium: M,
    pub(super) dir: PathBuf,
    pub(super) scope: Scope,
    pub(super) member: u64,
    pub(super) syncs: Arc<AtomicU64>,
    /// What readers read from.
    pub(super) files: Arc<RwLock<Arc<Files>>>,
}

/// The writing ends of a store that was made beside another.
pub(super) struct Made<M> {
    pub(super) files: Arc<Files>,
    pub(super) log: Log<M>,
    pub(super) sealers: Sealers,
}

impl<M: Medium> Exchange<M> {
    /// Writes everything anew under this key. Until [`switch`](Self::switch) nobody knows of it.
    pub(super) fn make(&self, old: &Files, data_key: &DataKey) -> Result<Made<M>, StoreError> {
        let path = self.dir.join(next_file(&old.path));
        self.remove(&path)?;
        let made = Files::start(&self.medium, path.clone(), true, self.scope.clone(), data_key, &self.syncs);
        let made = made.and_then(|(files, mut log, mut sealers)| {
            copy_log(old, &mut log, &mut sealers.0)?;
            copy_tables(old, &files, &mut sealers.1)?;
            let synced = self.medium.sync_dir(&self.dir);
            synced.map_err(|source| StoreError::io(&self.dir, "sync the directory", source))?;
            Ok(Made { files: Arc::new(files), log, sealers })
        });
        if made.is_err() {
            // The next start removes what cannot be removed now.
            let _ = self.remove(&path);
        }
        made
    }

    /// From now on the new files are the store.
    pub(super) fn switch(&self, files: &Arc<Files>, data_key: &DataKey) -> Result<(), StoreError> {
        let name = file_name(&files.path);
        header::write(&self.dir, &header::encode(&self.scope, self.member, &name, data_key)?)?;
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(files);
        Ok(())
    }

    /// Removes the files of a database that nobody relies on.
    fn remove(&self, database: &Path) -> Result<(), StoreError> {
        for path in of_store(&self.medium, &self.dir, database)? {
            self.medium.remove(&path).map_err(|source| StoreError::io(&path, "remove", source))?;
        }
        Ok(())
    }
}

/// The name after this one: `store-1.redb`, `store-2.redb`.
pub(super) fn next_file(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let number: u64 = stem.strip_prefix(PREFIX).and_then(|number| number.parse().ok()).unwrap_or(1);
    format!("{PREFIX}{}.redb", number.saturating_add(1))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The files that belong to a database: itself, and the segments of the log beside it.
fn of_store<M: Medium>(medium: &M, dir: &Path, database: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let stem = format!("{}.", database.file_stem().unwrap_or_default().to_string_lossy());
    Ok(names(medium, dir)?.into_iter().filter(|name| name.starts_with(&stem)).map(|name| dir.join(name)).collect())
}

fn names<M: Medium>(medium: &M, dir: &Path) -> Result<Vec<String>, StoreError> {
    medium.names(dir).map_err(|source| StoreError::io(dir, "list the directory", source))
}

/// Overwrites and removes what belongs to no store: an exchange was cut short.
pub(super) fn sweep<M: Medium>(medium: &M, dir: &Path, file: &str) -> Result<(), StoreError> {
    let stem = format!("{}.", Path::new(file).file_stem().unwrap_or_default().to_string_lossy());
    for name in names(medium, dir)?.into_iter().filter(|name| name.starts_with(PREFIX) && !name.starts_with(&stem)) {
        let mut eraser = Eraser::open(medium, dir.join(name))?;
        while !eraser.go_on()? {}
        eraser.remove(medium, dir)?;
    }
    Ok(())
}

/// Vote, purge mark, and the entries that are left.
fn copy_log<M: Medium>(old: &Files, log: &mut Log<M>, sealer: &mut Sealer) -> Result<(), StoreError> {
    let (vote, purged) = (old.index.vote(), old.index.purge());
    let bytes = vote.as_ref().map_or(0, Vec::len) + purged.as_ref().map_or(0, |(_, mark)| mark.len());
    let mut plain = Plain::with_room(2, bytes);
    if let Some(vote) = &vote {
        plain.push(Record::Vote(vote));
    }
    if let Some((index, mark)) = &purged {
        plain.push(Record::PurgeThrough(*index, mark));
    }
    log.write(sealer, &plain)?;
    let Some((mut next, last)) = old.index.bounds() else { return Ok(()) };
    let mut entries: Vec<(u64, Zeroizing<Vec<u8>>)> = Vec::new();
    let mut bytes = 0;
    while next <= last {
        for (index, entry) in old.index.entries(next..=last.min(next.saturating_add(READ_AT_ONCE - 1)))? {
            bytes += entry.len();
            entries.push((index, entry.into()));
            next = index.saturating_add(1);
        }
        if bytes >= FRAME_BYTES || next > last {
            let mut plain = Plain::with_room(entries.len(), bytes);
            entries.iter().for_each(|(index, entry)| plain.push(Record::Entry(*index, entry)));
            log.write(sealer, &plain)?;
            entries.clear();
            bytes = 0;
        }
    }
    Ok(())
}

/// Snapshot and issuance projection.
fn copy_tables(old: &Files, new: &Files, sealer: &mut Sealer) -> Result<(), StoreError> {
    let mut copy = || -> Result<(), redb::Error> {
        let (from, to) = (old.database.begin_read()?, new.database.begin_write()?);
        let log = [(ISSUED, Kind::Issued), (PRIVATE, Kind::Private), (TILES, Kind::Tile)];
        for (definition, kind) in [(SNAPSHOT, Kind::Snapshot), (META, Kind::Meta)].into_iter().chain(log) {
            let (rows, mut table) = (from.open_table(definition)?, to.open_table(definition)?);
            for row in rows.iter()? {
                let (key, value) = row?;
                let key = key.value();
                // Said of the old log.
                if kind == Kind::Meta && key == META_KEYS.frame {
                    continue;
                }
                let plain = Zeroizing::new(old.opener.open(kind, key, value.value()).map_err(unsealed)?);
                table.insert(key, sealer.seal(kind, key, &plain).map_err(unsealed)?.as_slice())?;
            }
        }
        {
            let key = META_KEYS.frame;
            let sealed = sealer.seal(Kind::Meta, key, &new.index.number().to_be_bytes()).map_err(unsealed)?;
            to.open_table(META)?.insert(key, sealed.as_slice())?;
        }
        to.commit()?;
        Ok(())
    };
    copy().map_err(|error| StoreError::database(&new.path, "write", error))
}

fn unsealed(error: crate::seal::SealError) -> redb::Error {
    redb::Error::Io(io::Error::other(error))
}

/// A file that is overwritten with zeros.
struct Eraser<B> {
    file: B,
    path: PathBuf,
    bytes: u64,
    at: u64,
}

impl<B: StorageBackend> Eraser<B> {
    fn open<M: Medium<Backend = B>>(medium: &M, path: PathBuf) -> Result<Self, StoreError> {
        let opened = medium.open(&path, false).and_then(|file| Ok((file.len()?, file)));
        let (bytes, file) = opened.map_err(|source| StoreError::io(&path, "open", source))?;
        Ok(Self { file, path, bytes, at: 0 })
    }

    /// Writes a piece; true: nothing is left of it.
    fn go_on(&mut self) -> Result<bool, StoreError> {
        let piece = PIECE_BYTES.min(self.bytes.saturating_sub(self.at));
        let zeros = vec![0; usize::try_from(piece).unwrap_or_default()];
        let done = self.at.saturating_add(piece) >= self.bytes;
        let written = self.file.write(self.at, &zeros);
        let written = written.and_then(|()| if done { self.file.sync_data() } else { Ok(()) });
        written.map_err(|source| StoreError::io(&self.path, "overwrite", source))?;
        self.at = self.at.saturating_add(piece);
        Ok(done)
    }

    fn remove<M: Medium<Backend = B>>(self, medium: &M, dir: &Path) -> Result<(), StoreError> {
        let Self { file, path, .. } = self;
        drop(file);
        let removed = medium.remove(&path).and_then(|()| medium.sync_dir(dir));
        removed.map_err(|source| StoreError::io(&path, "remove", source))
    }
}

/// The files of before an exchange, on their way out.
pub(super) struct Retiring<M: Medium> {
    medium: M,
    dir: PathBuf,
    /// Until the last reader is gone.
    files: Option<Arc<Files>>,
    left: Vec<PathBuf>,
    eraser: Option<Eraser<M::Backend>>,
    /// Who waits until nothing is left of them.
    waiting: Vec<Done>,
}

impl<M: Medium> Retiring<M> {
    pub(super) fn new(exchange: &Exchange<M>, files: Arc<Files>, waiting: Vec<Done>) -> Result<Self, StoreError> {
        let (medium, dir) = (exchange.medium.clone(), exchange.dir.clone());
        let left = of_store(&medium, &dir, &files.path)?;
        Ok(Self { medium, dir, files: Some(files), left, eraser: None, waiting })
    }

    /// A piece of the work; true: it is done.
    pub(super) fn go_on(&mut self) -> Result<bool, StoreError> {
        if let Some(files) = self.files.take() {
            match Arc::try_unwrap(files) {
                // The database is closed by that.
                Ok(files) => drop(files),
                Err(files) => {
                    self.files = Some(files);
                    std::thread::sleep(READERS_PAUSE);
                    return Ok(false);
                }
            }
        }
        match self.eraser.take() {
            Some(mut eraser) => {
                if eraser.go_on()? {
                    eraser.remove(&self.medium, &self.dir)?;
                } else {
                    self.eraser = Some(eraser);
                }
            }
            None => match self.left.pop() {
                Some(path) => self.eraser = Some(Eraser::open(&self.medium, path)?),
                None => {
                    self.waiting.drain(..).for_each(|done| done(Ok(())));
                    return Ok(true);
                }
            },
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
