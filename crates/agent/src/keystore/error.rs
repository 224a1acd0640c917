//! What can be wrong with the files: each error names the file and says what to do.

use std::io;
use std::path::{Path, PathBuf};

use pki::key_file::KeyFileError;

/// A file could not be read, written or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeystoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file is not there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is not of its kind.
    #[error("{} is not readable: {text}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// The certificate belongs to another key.
    #[error("the certificate in {} does not belong to the key beside it: certificate key mismatch", path.display())]
    Mismatch {
        /// The certificate file.
        path: PathBuf,
    },
    /// The key file is sealed, and the key for it is missing or another one.
    #[error("node is locked, and needs a valid unlock key: {} cannot be opened: {source}", path.display())]
    Locked {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: KeyFileError,
    },
    /// Two unlock keys of the same version of the cluster object.
    #[error("candidate KEK has the same version as the current KEK, but a different KEK value")]
    KekConflict,
    /// The key file does not hold a usable key.
    #[error("{} holds no usable key: {source}", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: KeyFileError,
    },
}

impl KeystoreError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        KeystoreError::Io { path: path.to_owned(), action, source }
    }

    pub(super) fn key(path: PathBuf, source: KeyFileError) -> Self {
        match source {
            KeyFileError::InvalidKek { .. } => KeystoreError::Locked { path, source },
            source => KeystoreError::Key { path, source },
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            KeystoreError::Io { path, source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("run as the owner of {}, or change its permissions", path.display())
                }
                io::ErrorKind::StorageFull => "make room on the disk; nothing was lost".to_owned(),
                _ => format!("look at the disk that holds {}", path.display()),
            },
            KeystoreError::Missing { .. } => "join a cluster first".to_owned(),
            KeystoreError::Unreadable { path, .. } => {
                format!("put {} back from a copy, or remove it and join again", path.display())
            }
            KeystoreError::Mismatch { path } => {
                format!("put back the key that belongs to {}, or remove both and join again", path.display())
            }
            KeystoreError::KekConflict => {
                "the key file was not changed; look whether all managers are of one cluster".to_owned()
            }
            KeystoreError::Locked { .. } => "unlock the node with the cluster's unlock key".to_owned(),
            KeystoreError::Key { path, .. } => {
                format!("put {} back from a copy, or remove it and join again", path.display())
            }
        }
    }
}
