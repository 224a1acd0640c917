//! The state directory: ours alone, and one instance's.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// Another instance holds it.
    #[error("the state directory {} is in use by another swarmpki ca serve: stop it, or give another --state-dir", .0.display())]
    Held(PathBuf),
    /// The system refuses.
    #[error("cannot use the state directory {}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A state directory that is held; the kernel lets go of it when the process ends, however it ends.
pub(crate) struct StateDir {
    _lock: File,
}

impl StateDir {
    /// Makes the directory if need be, closes it to others, and takes it.
    pub(crate) fn take(dir: &Path) -> Result<Self, StateDirError> {
        let failed = |source| StateDirError::Io { dir: dir.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let mode = std::fs::metadata(dir).map_err(failed)?.mode();
        if mode & 0o077 != 0 {
            tracing::warn!(dir = %dir.display(), "others could enter the state directory; it is 0700 from now on");
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateDirError::Held(dir.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

/// Puts a small file into a state directory, in place of one that is there already: whole, and durably.
pub(crate) fn put(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    // Written by root for a server that runs as somebody else, it is that user's, as the directory is.
    let (owner, own) = (std::fs::metadata(dir)?, file.metadata()?);
    if owner.uid() != own.uid() {
        std::os::unix::fs::fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    file.write_all(text)?;
    file.sync_all()?;
    std::fs::rename(&new, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Reads a small file of a state directory, if it is there.
pub(crate) fn get(dir: &Path, name: &str, bytes_max: u64) -> io::Result<Option<String>> {
    let file = match File::open(dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if file.metadata()?.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write it"));
    }
    let mut text = String::new();
    file.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::other("it is too large"));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_instance_and_nobody_else() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b");
        let first = StateDir::take(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(StateDir::take(&dir), Err(StateDirError::Held(_))));
        drop(first);
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        StateDir::take(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    }
}
