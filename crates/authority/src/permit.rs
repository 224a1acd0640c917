//! Permits to certify another CA: a file in the state directory, written by the operator's command and used up by the first
//! request that it fits.

use std::fs::File;
use std::io;
use std::path::Path;

use pki::digest::{hex, unhex};
use pki::key::SpkiHash;
use pki::time::Time;
use serde::{Deserialize, Serialize};

use crate::state_dir;

/// The permit's name in the state directory.
const FILE_NAME: &str = "cross-sign.permit";
/// Bytes of a permit that are read.
const BYTES_MAX: u64 = 4_096;

/// A permit to certify one CA, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The key that may be certified; none for whichever comes first.
    pub spki: Option<SpkiHash>,
    /// When it ends.
    pub until: Time,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    spki: Option<String>,
    until_ms: i64,
}

/// Reads the SHA-256 of a key in hex, with `sha256:` in front or not, with colons or not.
#[must_use]
pub fn parse_spki(text: &str) -> Option<SpkiHash> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text).replace(':', "");
    unhex(&digits)?.try_into().ok().map(SpkiHash)
}

impl Permit {
    /// Puts the permit there, in place of one that is there already.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let stored = Stored { spki: self.spki.map(|spki| hex(&spki.0)), until_ms: self.until.unix_millis() };
        let text = serde_json::to_vec(&stored).map_err(io::Error::other)?;
        state_dir::put(dir, FILE_NAME, &text)
    }

    /// Uses the permit up for this key: it is gone, durably, when this returns.
    ///
    /// # Errors
    /// Why there is none for it: in words, empty if there is none at all.
    pub(crate) fn take(dir: &Path, spki: SpkiHash, now: Time) -> Result<Permit, String> {
        let path = dir.join(FILE_NAME);
        let permit = match Self::read(dir) {
            Ok(Some(permit)) => permit,
            Ok(None) => return Err(String::new()),
            Err(error) => return Err(format!(" (the permit that lies there cannot be used: {error})")),
        };
        if permit.until <= now {
            // Nothing depends on its being gone.
            let _ = std::fs::remove_file(&path);
            return Err(format!(" (the permit that lay there ended {})", permit.until.rfc3339()));
        }
        if permit.spki.is_some_and(|allowed| allowed != spki) {
            return Err(" (the permit that lies there is for another key)".to_owned());
        }
        // Of two that read it, one removes it.
        std::fs::remove_file(&path)
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(|error| format!(" (the permit that lies there cannot be used up: {error})"))?;
        Ok(permit)
    }

    fn read(dir: &Path) -> io::Result<Option<Permit>> {
        let Some(text) = state_dir::get(dir, FILE_NAME, BYTES_MAX)? else { return Ok(None) };
        let stored: Stored = serde_json::from_str(&text).map_err(io::Error::other)?;
        let spki = match stored.spki {
            Some(text) => Some(parse_spki(&text).ok_or_else(|| io::Error::other("it names no key"))?),
            None => None,
        };
        Ok(Some(Permit { spki, until: Time::from_unix_millis(stored.until_ms) }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    const NOW: Time = Time::from_unix_secs(1_800_000_000);
    const ONE: SpkiHash = SpkiHash([1; 32]);
    const OTHER: SpkiHash = SpkiHash([2; 32]);

    fn taken(dir: &Path, spki: SpkiHash, now: Time) -> String {
        Permit::take(dir, spki, now).map_or_else(|why| why, |_| "taken".to_owned())
    }

    #[test]
    fn once_in_time_and_for_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(taken(dir, ONE, NOW), "");
        let until = NOW.saturating_add(std::time::Duration::from_secs(600));
        let once = Permit { spki: None, until };
        once.write(dir).unwrap();
        assert_eq!((taken(dir, ONE, NOW), taken(dir, ONE, NOW)), ("taken".into(), String::new()));
        let named = Permit { spki: Some(ONE), until };
        named.write(dir).unwrap();
        assert!(taken(dir, OTHER, NOW).contains("another key"));
        assert_eq!((taken(dir, ONE, NOW), taken(dir, ONE, NOW)), ("taken".into(), String::new()));
        once.write(dir).unwrap();
        named.write(dir).unwrap();
        assert!(taken(dir, ONE, until).contains("ended 2027-01-15"), "and the later one stands");
        assert_eq!(taken(dir, ONE, NOW), "", "gone with its end");
        std::fs::write(dir.join(FILE_NAME), "{}").unwrap();
        assert!(taken(dir, ONE, NOW).contains("cannot be used"));
        assert_eq!(std::fs::metadata(dir.join(FILE_NAME)).unwrap().mode() & 0o022, 0);
    }

    #[test]
    fn root_writes_it_for_the_directorys_owner() {
        let dir = tempfile::tempdir().unwrap();
        // Only root can give a directory away.
        let given = std::os::unix::fs::chown(dir.path(), Some(65_534), Some(65_534)).is_ok();
        Permit { spki: None, until: NOW }.write(dir.path()).unwrap();
        let owner = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().uid();
        assert_eq!(owner, std::fs::metadata(dir.path()).unwrap().uid(), "given away: {given}");
    }

    #[test]
    fn a_key_is_named_in_hex() {
        let digits = "01".repeat(32);
        let colons = vec!["01"; 32].join(":");
        for good in [digits.clone(), format!("sha256:{digits}"), colons] {
            assert_eq!(parse_spki(&good), Some(ONE), "{good}");
        }
        for bad in ["", "01", "sha256:", &format!("{digits}0"), &digits.replace("01", "0x")] {
            assert_eq!(parse_spki(bad), None, "{bad}");
        }
    }
}
