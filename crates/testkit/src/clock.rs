//! A clock of a test's own for servers that are told of it: libfaketime, preloaded. It moves the time of day; time that only passes
//! (time-outs, elections) stays as it is. For programs that are linked dynamically and ask the C library: ours, not an engine's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where Debian has it.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// A clock, off by as much as it was last set. Servers that run follow it.
pub struct Clock {
    library: PathBuf,
    folder: tempfile::TempDir,
}

impl Clock {
    /// A clock that is right.
    ///
    /// # Panics
    /// If there is no libfaketime; ask [`find`] first.
    pub fn right() -> Self {
        let folder = tempfile::Builder::new().prefix("swarmpki-clock-").tempdir().expect("a folder");
        let clock = Self { library: find().expect("libfaketime, after asking for it"), folder };
        clock.set(Duration::ZERO);
        clock
    }

    /// Sets it ahead of the machine's clock.
    ///
    /// # Panics
    /// If its file cannot be written.
    pub fn set(&self, ahead: Duration) {
        let next = self.folder.path().join("next");
        std::fs::write(&next, format!("+{}s\n", ahead.as_secs())).expect("the clock's file");
        std::fs::rename(next, self.file()).expect("the clock's file");
    }

    /// What a server's environment needs for it.
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        let pairs: [(&str, OsString); 4] = [
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_NO_CACHE", "1".into()),
        ];
        pairs.map(|(name, value)| (name.into(), value)).into()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }
}

/// The library.
///
/// # Errors
/// If it is not installed.
pub fn find() -> Result<PathBuf, String> {
    let arch = std::env::consts::ARCH;
    let places = [format!("/usr/lib/{arch}-linux-gnu"), "/usr/lib64".to_owned(), "/usr/lib".to_owned()];
    let found = places.iter().map(|place| Path::new(place).join(LIBRARY)).find(|file| file.is_file());
    found.ok_or_else(|| "libfaketime not installed (apt-get install faketime)".to_owned())
}
