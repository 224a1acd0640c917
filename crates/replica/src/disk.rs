//! Files of ours: 0600 in directories of 0700, replaced whole or not at all, synced before they count.
//!
//! Also the seam below the store: [`Medium`] opens what the log and redb write to, so that tests put a disk there that drops
//! and tears what was not synced, or fails; a wrapper counts the syncs of any of them.

use redb::{BackendError, StorageBackend};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes a directory and its parents, readable by its owner only.
pub fn create_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a file whole: temporary file beside it, sync, rename, sync of the directory.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("the path has no directory"))?;
    let mut name = path.file_name().ok_or_else(|| io::Error::other("the path has no name"))?.to_os_string();
    name.push(".new");
    let temporary = directory.join(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_dir(directory)
}

/// Makes the names in a directory durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Reads a whole file; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file if it is there.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the files of a store lie on.
pub trait Medium: Clone + Send + Sync + 'static {
    /// A file that is read and written in place: redb's, or a segment of the log.
    type Backend: StorageBackend;

    /// Opens a file, making it when `create` is set and it is not there.
    fn open(&self, path: &Path, create: bool) -> io::Result<Self::Backend>;

    /// The names in a directory.
    fn names(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Removes a file if it is there.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The real thing: a file on a local filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct Local;

impl Medium for Local {
    type Backend = redb::backends::FileBackend;

    fn open(&self, path: &Path, create: bool) -> io::Result<Self::Backend> {
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)?;
        redb::backends::FileBackend::new(file).map_err(|error| io::Error::other(error.to_string()))
    }

    fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
        // A name that is no text is none of ours.
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        sync_dir(dir)
    }
}

/// Counts syncs and tells the caller of failed ones.
pub(crate) struct Metered<B> {
    pub(crate) inner: B,
    pub(crate) path: PathBuf,
    pub(crate) syncs: Arc<AtomicU64>,
}

impl<B: fmt::Debug> fmt::Debug for Metered<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<B: StorageBackend> StorageBackend for Metered<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

#[cfg(test)]
pub(crate) mod faulty {
    //! A disk in memory that forgets: what was written and not synced survives a crash in part, in pieces of a sector,
    //! in any order; syncs can be made to fail.
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    const SECTOR: usize = 512;

    #[derive(Debug, Default)]
    struct Disk {
        files: BTreeMap<PathBuf, Arc<Mutex<Image>>>,
        /// Files that were removed, and whose directory was not synced since.
        removed: BTreeMap<PathBuf, Arc<Mutex<Image>>>,
    }

    #[derive(Debug, Default)]
    struct Image {
        now: Vec<u8>,
        durable: Vec<u8>,
        pending: Vec<(u64, Vec<u8>)>,
        lengths: Vec<u64>,
        /// Its directory was synced since it was made.
        named: bool,
    }

    /// Clones are the same disk.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct FaultyDisk {
        disk: Arc<Mutex<Disk>>,
        fail_syncs: Arc<AtomicBool>,
        /// Milliseconds that a sync takes.
        slow: Arc<AtomicU64>,
        power: Power,
    }

    /// How many changes are made before the power goes; none: it stays.
    #[derive(Clone, Debug, Default)]
    struct Power(Arc<Mutex<Option<u64>>>);

    impl Power {
        fn take(&self) -> io::Result<()> {
            match self.0.lock().unwrap().as_mut() {
                None => Ok(()),
                Some(0) => Err(io::Error::other("the power is gone")),
                Some(left) => {
                    *left -= 1;
                    Ok(())
                }
            }
        }
    }

    /// One open file of that disk; cut off by a crash, so that a process that is dead cannot write.
    #[derive(Debug)]
    pub(crate) struct Session {
        image: Arc<Mutex<Image>>,
        fail_syncs: Arc<AtomicBool>,
        slow: Arc<AtomicU64>,
        power: Power,
    }

    impl FaultyDisk {
        /// The power goes before the change after so many.
        pub(crate) fn power_for(&self, changes: u64) {
            *self.power.0.lock().unwrap() = Some(changes);
        }

        /// For how many changes it stays.
        pub(crate) fn power(&self) -> Option<u64> {
            *self.power.0.lock().unwrap()
        }

        /// The power goes: each sector that was written since its file's last sync reached the platter or not, as the seed
        /// says; so did each name that was made or removed since its directory's.
        /// Whoever still holds the old disk writes to nothing.
        pub(crate) fn crash(&mut self, seed: u64) {
            let mut random = seed;
            let mut draw = move || {
                random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = random;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^ (z >> 31)
            };
            let lost_at_most = draw() % 5;
            let mut next = Disk::default();
            let old = self.disk.lock().unwrap();
            // All at the same moment: whoever writes to two of them writes in an order.
            let images: Vec<_> = old.files.iter().chain(&old.removed).collect();
            let images: Vec<_> = images.into_iter().map(|(path, image)| (path, image.lock().unwrap())).collect();
            for (path, image) in &images {
                let path = *path;
                let certain = image.named && !old.removed.contains_key(path);
                if !certain && draw() % 2 == 0 {
                    continue;
                }
                let left = image.torn(lost_at_most, &mut draw);
                let left = Image { now: left.clone(), durable: left, named: true, ..Image::default() };
                next.files.insert(path.clone(), Arc::new(Mutex::new(left)));
            }
            drop(images);
            drop(old);
            self.disk = Arc::new(Mutex::new(next));
            self.fail_syncs = Arc::default();
            self.power = Power::default();
        }

        pub(crate) fn fail_syncs(&self) {
            self.fail_syncs.store(true, Ordering::SeqCst);
        }

        /// Every sync takes so long from now on.
        pub(crate) fn slow(&self, sync: Duration) {
            self.slow.store(sync.as_millis() as u64, Ordering::SeqCst);
        }

        /// All that lies on it.
        pub(crate) fn bytes(&self) -> Vec<u8> {
            let disk = self.disk.lock().unwrap();
            disk.files.values().flat_map(|image| image.lock().unwrap().now.clone()).collect()
        }

        /// Changes what lies in a file, as a bad disk or an attacker does.
        pub(crate) fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
            let image = self.disk.lock().unwrap().files[path].clone();
            let mut image = image.lock().unwrap();
            change(&mut image.now);
            image.durable = image.now.clone();
        }
    }

    impl Image {
        /// What a power cut leaves of it.
        fn torn(&self, lost_at_most: u64, mut draw: impl FnMut() -> u64) -> Vec<u8> {
            let mut image = self.durable.clone();
            for len in &self.lengths {
                if draw().is_multiple_of(2) {
                    image.resize(*len as usize, 0);
                }
            }
            for (offset, data) in &self.pending {
                for (i, sector) in data.chunks(SECTOR).enumerate() {
                    if draw() % 5 < lost_at_most {
                        continue;
                    }
                    let at = *offset as usize + i * SECTOR;
                    if image.len() >= at + sector.len() {
                        image[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            image
        }
    }

    impl Medium for FaultyDisk {
        type Backend = Session;

        fn open(&self, path: &Path, create: bool) -> io::Result<Session> {
            if create {
                self.power.take()?;
            }
            let mut disk = self.disk.lock().unwrap();
            if create && !disk.files.contains_key(path) {
                disk.removed.remove(path);
                disk.files.insert(path.to_path_buf(), Arc::default());
            }
            let image = disk.files.get(path).ok_or(io::ErrorKind::NotFound)?.clone();
            let (fail_syncs, slow, power) = (self.fail_syncs.clone(), self.slow.clone(), self.power.clone());
            Ok(Session { image, fail_syncs, slow, power })
        }

        fn names(&self, dir: &Path) -> io::Result<Vec<String>> {
            let disk = self.disk.lock().unwrap();
            let here = disk.files.keys().filter(|path| path.parent() == Some(dir));
            Ok(here.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect())
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.power.take()?;
            let mut disk = self.disk.lock().unwrap();
            if let Some(image) = disk.files.remove(path) {
                disk.removed.insert(path.to_path_buf(), image);
            }
            Ok(())
        }

        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.power.take()?;
            let mut disk = self.disk.lock().unwrap();
            disk.removed.retain(|path, _| path.parent() != Some(dir));
            for (_, image) in disk.files.iter().filter(|(path, _)| path.parent() == Some(dir)) {
                image.lock().unwrap().named = true;
            }
            Ok(())
        }
    }

    impl StorageBackend for Session {
        fn len(&self) -> io::Result<u64> {
            Ok(self.image.lock().unwrap().now.len() as u64)
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            let image = self.image.lock().unwrap();
            let at = offset as usize;
            let bytes = image.now.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(bytes);
            Ok(())
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.power.take()?;
            let mut image = self.image.lock().unwrap();
            image.now.resize(len as usize, 0);
            image.lengths.push(len);
            Ok(())
        }
        fn sync_data(&self) -> io::Result<()> {
            self.power.take()?;
            if self.fail_syncs.load(Ordering::SeqCst) {
                return Err(io::Error::other("the disk failed to sync"));
            }
            std::thread::sleep(Duration::from_millis(self.slow.load(Ordering::SeqCst)));
            let image = &mut *self.image.lock().unwrap();
            let pending = std::mem::take(&mut image.pending);
            if std::mem::take(&mut image.lengths).is_empty() {
                for (offset, data) in pending {
                    let here = offset as usize..offset as usize + data.len();
                    image.durable[here.clone()].copy_from_slice(&image.now[here]);
                }
            } else {
                image.durable = image.now.clone();
            }
            Ok(())
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.power.take()?;
            let mut image = self.image.lock().unwrap();
            let at = offset as usize;
            if image.now.len() < at + data.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            image.now[at..at + data.len()].copy_from_slice(data);
            image.pending.push((offset, data.to_vec()));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_private_and_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        create_dir(&dir).unwrap();
        let file = dir.join("f");
        write_atomic(&file, b"one").unwrap();
        write_atomic(&file, b"two").unwrap();
        assert_eq!(read(&file).unwrap().unwrap(), b"two");
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "no temporary file is left");
        remove(&file).unwrap();
        remove(&file).unwrap();
        assert_eq!(read(&file).unwrap(), None);
    }
}
