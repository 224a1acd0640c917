//! Where a token's PIN comes from.

use std::path::PathBuf;

use pki::SecretString;

/// Where a token's PIN comes from. No Debug: it may hold the PIN.
pub enum Pin {
    /// A file, read by the child at each login: the parent never has the PIN.
    File(PathBuf),
    /// The PIN itself, from a prompt or a file descriptor; kept, wiped on drop, because a restarted child needs it again.
    Secret(SecretString),
}

impl Pin {
    /// Reads the PIN from a file descriptor of this process, to its end; one newline at the end is not part of it.
    pub fn from_fd(fd: u32) -> Result<Self, PinError> {
        Err(PinError::Unreadable { from: format!("file descriptor {fd}"), reason: String::new() })
    }
}

/// Why there is no PIN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Neither the URI nor the configuration names a source.
    #[error("no PIN given: name a file, a file descriptor or ask for it")]
    Missing,
    /// It cannot be read.
    #[error("cannot read the PIN from {from}: {reason}")]
    Unreadable {
        /// The file or descriptor.
        from: String,
        /// The system's words.
        reason: String,
    },
}
