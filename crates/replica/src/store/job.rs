//! What the store is asked to write.

use super::rows::Failure;
use super::{Row, StoreError};
use crate::seal::DataKey;
use cluster::LogEntry;
use std::io;
use std::sync::Arc;
use zeroize::{Zeroize, Zeroizing};

/// Called once, after the sync or the failure, by whoever wrote. It must not block.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

pub(crate) enum Job {
    Append {
        rows: Vec<Row>,
        done: Done,
    },
    Vote {
        value: Vec<u8>,
        done: Done,
    },
    TruncateFrom {
        index: u64,
    },
    PurgeThrough {
        index: u64,
        mark: Vec<u8>,
        /// Who waits until nothing is left of what is purged.
        forgotten: Option<Done>,
    },
    Snapshot {
        description: Vec<u8>,
        image: Arc<Zeroizing<Vec<u8>>>,
        done: Done,
    },
    Issued {
        rows: Vec<LogEntry>,
    },
    /// Private parts of entries of the issuance log go.
    Erase {
        below: u64,
    },
    /// All of it is put under another key, in other files.
    Exchange {
        data_key: DataKey,
        done: Done,
    },
    /// All before it is on disk.
    Flush {
        done: Done,
    },
    /// All before it can be read.
    Settle {
        done: Done,
    },
    /// Nothing: whoever is called looks whether there is something to tidy.
    Tidy,
    Stop,
}

impl Job {
    pub(super) fn bytes(&self) -> usize {
        let rows = |rows: &Vec<Row>| rows.iter().map(|(_, value)| value.len() + 64).sum();
        match self {
            Self::Append { rows: r, .. } => rows(r),
            Self::Issued { rows } => rows.iter().map(issued_bytes).sum(),
            Self::Snapshot { image, .. } => image.len(),
            Self::Vote { .. } | Self::TruncateFrom { .. } | Self::PurgeThrough { .. } => 64,
            Self::Exchange { .. }
            | Self::Flush { .. }
            | Self::Settle { .. }
            | Self::Erase { .. }
            | Self::Tidy
            | Self::Stop => 0,
        }
    }

    /// Whether it goes into the log; the rest is the database's.
    pub(super) fn is_logged(&self) -> bool {
        match self {
            Self::Append { .. } | Self::Vote { .. } | Self::TruncateFrom { .. } | Self::PurgeThrough { .. } => true,
            Self::Snapshot { .. }
            | Self::Issued { .. }
            | Self::Erase { .. }
            | Self::Exchange { .. }
            | Self::Flush { .. }
            | Self::Settle { .. }
            | Self::Tidy
            | Self::Stop => false,
        }
    }

    /// Whether all before it is written before it, and nothing after it is in the same batch.
    pub(super) fn is_last(&self) -> bool {
        matches!(self, Self::Exchange { .. } | Self::Stop)
    }

    /// Whether the issuance projection goes first: what lets it be read, and the snapshot, behind which the entries that it
    /// comes from are removed.
    pub(super) fn needs_issued(&self) -> bool {
        !self.is_logged() && !matches!(self, Self::Issued { .. } | Self::Tidy)
    }

    pub(super) fn urgency(&self) -> Urgency {
        match self {
            Self::TruncateFrom { .. }
            | Self::PurgeThrough { forgotten: None, .. }
            | Self::Issued { .. }
            | Self::Erase { .. }
            | Self::Tidy => Urgency::Lazy,
            Self::Settle { .. } => Urgency::Written,
            Self::Append { .. }
            | Self::Vote { .. }
            | Self::PurgeThrough { forgotten: Some(_), .. }
            | Self::Snapshot { .. }
            | Self::Exchange { .. }
            | Self::Flush { .. }
            | Self::Stop => Urgency::Synced,
        }
    }

    /// Overwrites what is not sealed: entries carry keys and token secrets.
    pub(super) fn wipe(&mut self) {
        match self {
            Self::Append { rows, .. } => rows.iter_mut().for_each(|(_, plain)| plain.zeroize()),
            Self::Issued { rows } => rows.iter_mut().for_each(|row| {
                row.bytes.zeroize();
                row.private.zeroize();
            }),
            Self::Vote { .. }
            | Self::TruncateFrom { .. }
            | Self::PurgeThrough { .. }
            | Self::Snapshot { .. }
            | Self::Erase { .. }
            | Self::Exchange { .. }
            | Self::Flush { .. }
            | Self::Settle { .. }
            | Self::Tidy
            | Self::Stop => {}
        }
    }

    /// Tells whoever waits that it is not written.
    pub(super) fn refuse(mut self) {
        self.wipe();
        if let Some(done) = self.into_done() {
            done(Err(io::Error::other("the store is closed")));
        }
    }

    pub(super) fn into_done(self) -> Option<Done> {
        match self {
            Self::PurgeThrough { forgotten, .. } => forgotten,
            Self::Append { done, .. }
            | Self::Vote { done, .. }
            | Self::Snapshot { done, .. }
            | Self::Exchange { done, .. }
            | Self::Flush { done }
            | Self::Settle { done } => Some(done),
            Self::TruncateFrom { .. } | Self::Issued { .. } | Self::Erase { .. } | Self::Tidy | Self::Stop => None,
        }
    }
}

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Nothing: it rides along.
    Lazy,
    /// To be written.
    Written,
    /// To be written and synced.
    Synced,
}

/// Bytes that an entry of the issuance log takes, about.
pub(super) fn issued_bytes(row: &LogEntry) -> usize {
    row.bytes.len() + row.private.as_ref().map_or(0, Vec::len) + 64
}

/// Tells those who wait for these jobs what became of them.
pub(super) fn answer(jobs: Vec<Job>, result: &Result<(), StoreError>, failure: &Failure) {
    if let Err(error) = result {
        failure.raise(error.to_string());
    }
    for mut job in jobs {
        job.wipe();
        let Some(done) = job.into_done() else { continue };
        done(match result {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::other(error.to_string())),
        });
    }
}
