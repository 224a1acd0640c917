//! Where a token's PIN comes from.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use pki::SecretString;
use zeroize::Zeroizing;

/// Bytes of the longest PIN that is read.
pub const PIN_BYTES_MAX: usize = 256;

/// Where a token's PIN comes from. No Debug: it may hold the PIN.
pub enum Pin {
    /// A file, read by the child at each login: the parent never has the PIN. Refused if other users can read it.
    File(PathBuf),
    /// The PIN itself, from a prompt or a file descriptor; kept, wiped on drop, because a child that is started again needs it again.
    Secret(SecretString),
}

impl Pin {
    /// Reads the PIN from a file descriptor of this process, to its end; one newline at the end is not part of it. Pipes and files, no
    /// sockets: the descriptor is opened again through `/dev/fd`.
    ///
    /// # Errors
    /// [`PinError`]; never holds what was read.
    pub fn from_fd(fd: u32) -> Result<Self, PinError> {
        let from = format!("file descriptor {fd}");
        let mut file = open(Path::new(&format!("/dev/fd/{fd}")), &from)?;
        read(&mut file, from).map(Pin::Secret)
    }

    /// Reads the PIN from a file, checking first that no other user can read it.
    pub(crate) fn read_file(path: &Path) -> Result<SecretString, PinError> {
        let from = path.display().to_string();
        let mut file = open(path, &from)?;
        let metadata = file.metadata().map_err(|error| unreadable(&from, &error))?;
        let mode = metadata.mode() & 0o7777;
        if metadata.is_file() && mode & EXPOSED != 0 {
            return Err(PinError::Exposed { file: from, mode });
        }
        read(&mut file, from)
    }
}

/// Why there is no PIN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// Neither the URI nor the configuration names a source.
    #[error("no PIN given: name a file or a file descriptor, or ask for it")]
    Missing,
    /// It cannot be read.
    #[error("cannot read the PIN from {from}: {reason}")]
    Unreadable {
        /// The file or descriptor.
        from: String,
        /// The system's words.
        reason: String,
    },
    /// Other users can read the file, or its group can write it.
    #[error("the PIN file {file} has mode {mode:04o}: other users can read or change it, set 0400")]
    Exposed {
        /// The file.
        file: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Empty, too long, or no text.
    #[error("no PIN in {from}: it must be one line of text of at most {PIN_BYTES_MAX} bytes")]
    Malformed {
        /// The file or descriptor.
        from: String,
    },
}

fn open(path: &Path, from: &str) -> Result<File, PinError> {
    File::open(path).map_err(|error| unreadable(from, &error))
}

fn unreadable(from: &str, error: &std::io::Error) -> PinError {
    PinError::Unreadable { from: from.to_owned(), reason: error.to_string() }
}

fn read(file: &mut File, from: String) -> Result<SecretString, PinError> {
    // Of a fixed size, so that no piece of it is left behind by a buffer that grew.
    let mut buffer = Zeroizing::new([0; PIN_BYTES_MAX + 2]);
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&from, &error)),
        }
    }
    let line = buffer[..length].strip_suffix(b"\n").unwrap_or(&buffer[..length]);
    let text = std::str::from_utf8(line).ok();
    let good = |text: &&str| !text.is_empty() && text.len() <= PIN_BYTES_MAX && !text.chars().any(char::is_control);
    text.filter(good).map(|text| SecretString::new(text.to_owned())).ok_or(PinError::Malformed { from })
}

/// Permission bits of a PIN file that must not be set. The group may read: service managers hand credentials over so.
const EXPOSED: u32 = 0o027;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file(content: &[u8], mode: u32) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        file
    }

    #[test]
    fn one_line_is_the_pin() {
        for content in [b"12 34".as_slice(), b"12 34\n"] {
            assert_eq!(Pin::read_file(file(content, 0o400).path()).unwrap().expose(), "12 34");
        }
    }

    #[test]
    fn no_pin() {
        let long = [b'1'; PIN_BYTES_MAX + 1];
        for content in [b"".as_slice(), b"\n", b"12\n34\n", b"12\n\n", b"1\0", b"\xff", &long] {
            let file = file(content, 0o400);
            let error = Pin::read_file(file.path()).err();
            assert_eq!(error, Some(PinError::Malformed { from: file.path().display().to_string() }), "{content:?}");
        }
        assert!(matches!(Pin::read_file(Path::new("/nowhere/pin")), Err(PinError::Unreadable { .. })));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        for mode in [0o604, 0o644, 0o602, 0o660, 0o601] {
            let error = Pin::read_file(file(b"1234", mode).path()).err();
            assert!(matches!(error, Some(PinError::Exposed { mode: told, .. }) if told == mode), "{mode:o}");
        }
        for mode in [0o400, 0o600, 0o440] {
            assert!(Pin::read_file(file(b"1234", mode).path()).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn a_pin_from_a_descriptor() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"1234\n").unwrap();
        drop(writer);
        let Pin::Secret(pin) = Pin::from_fd(reader.as_raw_fd().try_into().unwrap()).unwrap() else {
            panic!("no secret")
        };
        assert_eq!(pin.expose(), "1234");
        assert!(Pin::from_fd(9_999).is_err());
    }
}
