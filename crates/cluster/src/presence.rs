//! What nodes say of themselves, and whether they are there. Written when it changes, never for a heartbeat.

use std::collections::BTreeMap;
use std::sync::Arc;

use pki::identity::NodeId;
use pki::time::Time;

use crate::command::Reported;
use crate::node::BlobDigest;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

impl State {
    pub(crate) fn report(&mut self, reported: &Reported) -> Result<Outcome, Rejection> {
        let node = self.known(&reported.node)?;
        let before = node.report.clone();
        if before.as_deref() == Some(&reported.report) && !node.down {
            return Ok(Outcome::Unchanged);
        }
        // Digests are not in the log, so what a blob is called here counts for nothing: a replica must judge the same.
        let given: BTreeMap<_, _> = reported.blobs.iter().map(|(_, bytes)| (BlobDigest::of(bytes), bytes)).collect();
        if reported.report.blobs().iter().any(|digest| !self.blobs.contains_key(digest) && !given.contains_key(digest))
        {
            return Err(Rejection::Blob);
        }
        for digest in reported.report.blobs() {
            match self.blobs.get_mut(&digest) {
                Some((count, _)) => *count += 1,
                None => {
                    if let Some(bytes) = given.get(&digest) {
                        self.blobs.insert(digest, (1, Arc::clone(bytes)));
                    }
                }
            }
        }
        if let Some(before) = before {
            self.release_blobs(before.blobs());
        }
        let index = self.index;
        let now = self.time;
        self.change(&reported.node, |node| {
            node.report = Some(Arc::new(reported.report.clone()));
            node.down = false;
            node.version = index;
            node.updated = now;
        });
        Ok(Outcome::Done { version: index })
    }

    pub(crate) fn presence(&mut self, id: &NodeId, down: bool, seen: Time) -> Result<Outcome, Rejection> {
        let node = self.known(id)?;
        if node.down == down {
            return Ok(Outcome::Unchanged);
        }
        let index = self.index;
        let now = self.time;
        self.change(id, |node| {
            node.down = down;
            node.last_seen = Some(seen.min(now));
            node.version = index;
            node.updated = now;
        });
        Ok(Outcome::Done { version: index })
    }

    pub(crate) fn release_blobs(&mut self, digests: [BlobDigest; 3]) {
        for digest in digests {
            let Some((count, _)) = self.blobs.get_mut(&digest) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.blobs.remove(&digest);
            }
        }
    }
}
