//! What can be wrong with a store, and what to do about it.

use crate::seal::SealError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a store could not be made, opened or read. The text names the file and the remedy; it holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no store.
    #[error("no replicated state in {}: this machine is no manager yet", path.display())]
    NotFound {
        /// The directory.
        path: PathBuf,
    },
    /// There is one already.
    #[error("{} already holds a replicated state: leave the cluster first, or choose another state directory", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// The data key is not the store's.
    #[error(
        "{}: the data key does not open it; put back the node key file that belongs to this state directory, or unlock it with the right key (nothing was changed)",
        path.display()
    )]
    WrongKey {
        /// The header file.
        path: PathBuf,
    },
    /// Another process holds it.
    #[error("{} is in use by another process: stop the other daemon first", path.display())]
    InUse {
        /// The database's file.
        path: PathBuf,
    },
    /// Written by a newer version.
    #[error("{} has format {found}, this version knows format {known}: install the version that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest one that is known here.
        known: u32,
    },
    /// A record does not fit its place, or is not what it should be.
    #[error("{} is damaged: {what}; if other managers go on, leave by force, demote and remove this node there, and join again; if not, restore a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The process cannot draw random numbers, or the like.
    #[error("{}: {source}", path.display())]
    Seal {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: SealError,
    },
}

impl StoreError {
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), doing, source }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), what: what.into() }
    }

    pub(crate) fn seal(path: &Path, source: SealError) -> Self {
        match source {
            SealError::Exhausted | SealError::Library => Self::Seal { path: path.to_path_buf(), source },
            other => Self::damaged(path, other.to_string()),
        }
    }

    pub(crate) fn open(path: &Path, error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Self::InUse { path: path.to_path_buf() },
            other => Self::database(path, "open", other.into()),
        }
    }

    pub(crate) fn database(path: &Path, doing: &'static str, error: redb::Error) -> Self {
        match error {
            redb::Error::Io(source) => Self::io(path, doing, source),
            redb::Error::Corrupted(what) => Self::damaged(path, what),
            other => Self::io(path, doing, io::Error::other(other.to_string())),
        }
    }
}
