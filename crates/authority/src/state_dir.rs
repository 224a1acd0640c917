//! The state directory: ours alone, and one instance's.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
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
