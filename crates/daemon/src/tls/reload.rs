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
struct Stamp(Option<(u64, u64, u64, (i64, i64), (i64, i64))>);

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
        Ok(Self { settings, read, published: watch::Sender::new(Some(config)) })
    }

    /// Where the newest configuration is.
    pub(crate) fn newest(&self) -> watch::Receiver<Option<Arc<ServerConfig>>> {
        self.published.subscribe()
    }

    /// Follows the files for ever; `asked`: somebody wants them read now.
    pub(crate) async fn follow(mut self, asked: Arc<Notify>) {
        let mut last = self.read;
        loop {
            let at_once = tokio::select! {
                () = asked.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let now = stamps(&self.settings);
            let rested = now == last;
            last = now;
            if at_once || (rested && now != self.read) {
                self.read(now, at_once);
            }
        }
    }

    fn read(&mut self, stamps: Stamps, at_once: bool) {
        self.read = stamps;
        match server_config(&self.settings, Strictness::Whole) {
            Ok(config) => {
                self.published.send_replace(Some(config));
                info!(cert = %self.settings.cert.display(), asked = at_once, "the API's certificate was read again");
            }
            Err(error) => {
                warn!(%error, "the API's TLS files have changed and cannot be used: those before stay in use")
            }
        }
    }
}
