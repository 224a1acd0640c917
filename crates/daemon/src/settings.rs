//! `daemon.json` in the state directory: what this machine was told to be, and which change is under way.
//!
//! - It is written before anything else of an init or join, and deleted last by a leave.
//! - A change that was under way when the daemon ended is undone or gone on with at the next start, see [`Settings::resume`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "daemon.json";

/// What belongs to a membership and goes with it; the lock and the daemon's own id stay.
const MEMBERSHIP: [&str; 5] = ["raft", "certificates", "state.json", "swarmpki-node.json", crate::check::SCRATCH];

/// The daemon's settings of one membership. Stored since format 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Settings {
    /// Number of this format.
    pub(crate) format: u32,
    /// Where the manager listens, or would after a promotion; `ip:port`.
    pub(crate) listen_addr: String,
    /// What other nodes are told, `ip:port`; may be empty on a worker.
    pub(crate) advertise_addr: String,
    /// The manager that a join names, `host:port`; empty after an init.
    pub(crate) remote_addr: String,
    /// The change under way.
    pub(crate) under_way: UnderWay,
}

/// A change that has begun and not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnderWay {
    /// None.
    #[default]
    Nothing,
    /// An init: nobody was told of its success yet, so it can be forgotten.
    Init,
    /// A join: with a certificate it goes on, without it is forgotten (pki.md 9).
    Join,
    /// A leave: it is finished.
    Leave,
}

/// What to do at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Be nothing.
    Nothing,
    /// Remove what a change that did not end left behind, then be nothing.
    Wipe,
    /// Go on with this membership.
    Member(Settings),
}

/// `daemon.json` could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("cannot access {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is damaged ({text}); restore it, or remove it together with certificates/ and raft/ to start anew")]
    Damaged { path: String, text: String },
}

impl Settings {
    /// The number of the format written here.
    pub(crate) const FORMAT: u32 = 1;

    /// Whether this machine founded its cluster, and so is its manager; one that joined knows whom it asked.
    pub(crate) fn founded(&self) -> bool {
        self.remote_addr.is_empty()
    }

    /// Reads the directory and says what to do with what is there.
    pub(crate) fn resume(dir: &Path) -> Result<Resume, SettingsError> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Resume::Nothing),
            Err(source) => return Err(SettingsError::Io { path: path.display().to_string(), source }),
        };
        let damaged = |text: String| SettingsError::Damaged { path: path.display().to_string(), text };
        let settings: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if settings.format != Self::FORMAT {
            return Err(damaged(format!("format {}, this version knows {}", settings.format, Self::FORMAT)));
        }
        let certified =
            ["swarm-node.crt", ".swarm-node.crt"].iter().any(|name| dir.join("certificates").join(name).exists());
        // A store without a certificate is a damaged manager, not a join that came to nothing: its CA key may be the only one.
        let store = dir.join("raft").exists();
        Ok(match settings.under_way {
            UnderWay::Init | UnderWay::Leave => Resume::Wipe,
            UnderWay::Join | UnderWay::Nothing if !certified && !store => Resume::Wipe,
            UnderWay::Nothing | UnderWay::Join => Resume::Member(settings),
        })
    }

    /// Writes the file: whole, synced, 0600.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), SettingsError> {
        let io = |source| SettingsError::Io { path: dir.join(FILE).display().to_string(), source };
        let text = serde_json::to_vec(self).map_err(|error| io(io::Error::other(error)))?;
        write_synced(dir, FILE, &text).map_err(io)
    }

    /// Removes everything of the membership, the settings last.
    pub(crate) fn wipe(dir: &Path) -> Result<(), SettingsError> {
        let mark = Self { format: Self::FORMAT, under_way: UnderWay::Leave, ..Self::default() };
        mark.save(dir)?;
        for name in MEMBERSHIP.into_iter().chain([FILE]) {
            let path = dir.join(name);
            let removed = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
            };
            removed.map_err(|source| SettingsError::Io { path: path.display().to_string(), source })?;
        }
        sync_directory(dir).map_err(|source| SettingsError::Io { path: dir.display().to_string(), source })
    }
}

/// Writes a file of 0600 under a temporary name, syncs it, renames it into place and syncs the directory.
pub(crate) fn write_synced(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".tmp-{name}"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn settings(under_way: UnderWay) -> Settings {
        Settings { format: Settings::FORMAT, listen_addr: "0.0.0.0:2377".into(), under_way, ..Settings::default() }
    }

    #[test]
    fn what_a_start_finds() {
        let rows = [
            (UnderWay::Nothing, true, true),
            (UnderWay::Join, true, true),
            (UnderWay::Nothing, false, false),
            (UnderWay::Join, false, false),
            (UnderWay::Init, true, false),
            (UnderWay::Leave, true, false),
        ];
        for (under_way, certified, goes_on) in rows {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(Settings::resume(dir.path()).unwrap(), Resume::Nothing);
            let written = settings(under_way);
            written.save(dir.path()).unwrap();
            if certified {
                fs::create_dir(dir.path().join("certificates")).unwrap();
                fs::write(dir.path().join("certificates/swarm-node.crt"), "x").unwrap();
            }
            let expected = if goes_on { Resume::Member(written) } else { Resume::Wipe };
            assert_eq!(Settings::resume(dir.path()).unwrap(), expected, "{under_way:?} {certified}");
        }
    }

    #[test]
    fn a_store_without_certificate_is_never_wiped_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        settings(UnderWay::Nothing).save(dir.path()).unwrap();
        fs::create_dir(dir.path().join("raft")).unwrap();
        assert!(matches!(Settings::resume(dir.path()).unwrap(), Resume::Member(_)));
    }

    #[test]
    fn wipe_takes_the_membership_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        settings(UnderWay::Nothing).save(path).unwrap();
        assert_eq!(fs::metadata(path.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        fs::create_dir_all(path.join("raft/deep")).unwrap();
        fs::create_dir(path.join("certificates")).unwrap();
        for name in ["state.json", "daemon.lock", "engine-id", "raft/deep/x", "certificates/swarm-node.key"] {
            fs::write(path.join(name), "x").unwrap();
        }
        Settings::wipe(path).unwrap();
        let mut left: Vec<String> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["daemon.lock", "engine-id"]);
        Settings::wipe(path).unwrap();
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Settings::resume(dir.path()).unwrap_err().to_string().contains("is damaged"));
        fs::write(dir.path().join(FILE), r#"{"Format":9}"#).unwrap();
        assert!(Settings::resume(dir.path()).unwrap_err().to_string().contains("format 9"));
    }
}
