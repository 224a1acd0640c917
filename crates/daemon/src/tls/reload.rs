//! Files of TLS that are replaced while the daemon runs: a set that changed is read, checked, and taken for new handshakes.
//!
//! - Files are looked at often and read only once they have rested: whoever writes three of them is given the time to.
//! - What cannot be used is logged, once, and the set before it stays.
//! - Connections that stand keep what they were made with.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::{Strictness, TlsError, server_config};
use crate::config::TlsSettings;

/// How often the files are looked at, and how long they have to rest before they are read.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What tells that a file is another than before; `None`: it cannot be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp(Option<Seen>);

/// Device, inode, size; when the content and when the inode changed, in seconds and nanoseconds.
type Seen = (u64, u64, u64, (i64, i64), (i64, i64));

impl Stamp {
    fn of(path: &Path) -> Self {
        // Behind links: the orchestrators that mount secrets exchange a link.
        Self(std::fs::metadata(path).ok().map(|file| {
            let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
            (file.dev(), file.ino(), file.size(), modified, changed)
        }))
    }
}

/// The stamps of a set.
type Stamps = [Stamp; 3];

fn stamps(settings: &TlsSettings) -> Stamps {
    // A CA file that is not read may change as it likes.
    let ca = if settings.verify { Stamp::of(&settings.ca) } else { Stamp(None) };
    [ca, Stamp::of(&settings.cert), Stamp::of(&settings.key)]
}

/// Files of TLS, and the configuration made of them.
pub(crate) struct Files {
    settings: TlsSettings,
    /// Those of the last look.
    seen: Stamps,
    /// Those of the set that was read last, usable or not.
    read: Stamps,
    published: watch::Sender<Option<Arc<ServerConfig>>>,
}

impl Files {
    /// Reads them for the first time.
    pub(crate) fn open(settings: TlsSettings) -> Result<Self, TlsError> {
        // Before they are read: what is written meanwhile is a change.
        let read = stamps(&settings);
        let config = server_config(&settings, Strictness::AsDocker)?;
        Ok(Self { settings, seen: read, read, published: watch::Sender::new(Some(config)) })
    }

    /// Where the newest configuration is.
    pub(crate) fn newest(&self) -> watch::Receiver<Option<Arc<ServerConfig>>> {
        self.published.subscribe()
    }

    /// Follows the files for ever; `asked`: somebody wants them read now.
    pub(crate) async fn follow(mut self, asked: Arc<Notify>) {
        loop {
            let at_once = tokio::select! {
                () = asked.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            match self.look(at_once) {
                None => {}
                Some(Ok(())) => info!(cert = %self.settings.cert.display(), "the TLS files of the API were read again"),
                Some(Err(error)) => {
                    warn!(%error, "the TLS files of the API have changed and cannot be used: those before stay in use");
                }
            }
        }
    }

    /// Looks at the files, and reads them if they are others than were read last and have rested since the last look, or if it is
    /// to be `at_once`. `None`: they were not read.
    fn look(&mut self, at_once: bool) -> Option<Result<(), TlsError>> {
        let now = stamps(&self.settings);
        let rested = now == self.seen;
        self.seen = now;
        let settled = rested && now != self.read;
        if !at_once && !settled {
            return None;
        }
        self.read = now;
        Some(server_config(&self.settings, Strictness::Whole).map(|config| {
            self.published.send_replace(Some(config));
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use rcgen::{CertifiedKey, KeyPair};
    use tempfile::TempDir;

    /// A file of its own in place of what was there, as secrets are exchanged.
    fn put(dir: &TempDir, name: &str, text: &str) {
        let new = dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, dir.path().join(name)).unwrap();
    }

    fn pair() -> CertifiedKey<KeyPair> {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    fn put_pair(dir: &TempDir, pair: &CertifiedKey<KeyPair>) {
        put(dir, "cert.pem", &pair.cert.pem());
        put(dir, "key.pem", &pair.signing_key.serialize_pem());
    }

    fn open(verify: bool) -> (TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let first = pair();
        put_pair(&dir, &first);
        put(&dir, "ca.pem", &first.cert.pem());
        let path = |name: &str| dir.path().join(name);
        let settings = TlsSettings { ca: path("ca.pem"), cert: path("cert.pem"), key: path("key.pem"), verify };
        let files = Files::open(settings).unwrap();
        (dir, files)
    }

    #[test]
    fn a_set_is_taken_once_it_rests() {
        let (dir, mut files) = open(true);
        let mut newest = files.newest();
        assert!(files.look(false).is_none() && files.look(false).is_none(), "nothing has changed");
        put_pair(&dir, &pair());
        assert!(files.look(false).is_none(), "it may not be whole yet");
        assert_eq!(files.look(false), Some(Ok(())));
        assert!(newest.has_changed().unwrap());
        newest.mark_unchanged();
        assert!(files.look(false).is_none());
        assert!(!newest.has_changed().unwrap());
        assert_eq!(files.look(true), Some(Ok(())), "whoever asks is served");
    }

    #[test]
    fn what_cannot_be_used_is_told_once_and_changes_nothing() {
        let (dir, mut files) = open(true);
        let newest = files.newest();
        let next = pair();
        let (cert, ca) = (next.cert.pem(), [pair().cert.pem(), pair().cert.pem()].concat());
        let bad: [(&str, &str); 6] = [
            ("cert.pem", &cert),
            ("cert.pem", &cert[..cert.len() / 2]),
            ("key.pem", ""),
            ("ca.pem", &ca[..ca.len() - 40]),
            ("ca.pem", ""),
            ("ca.pem", "nothing of the kind"),
        ];
        for (name, text) in bad {
            put(&dir, name, text);
            assert!(files.look(false).is_none());
            assert!(files.look(false).is_some_and(|read| read.is_err()), "{name}: {text}");
            assert!(files.look(false).is_none(), "told twice");
        }
        std::fs::remove_file(dir.path().join("key.pem")).unwrap();
        assert!(files.look(false).is_none());
        assert!(files.look(false).is_some_and(|read| read.is_err()));
        assert!(!newest.has_changed().unwrap());
        put_pair(&dir, &next);
        put(&dir, "ca.pem", &ca);
        assert!(files.look(false).is_none());
        assert_eq!(files.look(false), Some(Ok(())));
        assert!(newest.has_changed().unwrap());
    }

    #[test]
    fn a_ca_file_that_is_not_read_may_be_anything() {
        let (dir, mut files) = open(false);
        put(&dir, "ca.pem", "");
        assert!(files.look(false).is_none() && files.look(false).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_followed_and_read_when_asked() {
        let (dir, files) = open(true);
        let (mut newest, asked) = (files.newest(), Arc::new(Notify::new()));
        let following = tokio::spawn(files.follow(asked.clone()));
        put_pair(&dir, &pair());
        let at = tokio::time::Instant::now();
        newest.changed().await.unwrap();
        assert!(at.elapsed() <= 4 * LOOK_EVERY, "{:?}", at.elapsed());
        asked.notify_one();
        newest.changed().await.unwrap();
        following.abort();
    }
}
