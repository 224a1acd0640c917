//! The end of a replica: a disk that cannot be trusted any more.

use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a replica stopped for good. The process has to end: after a failed sync, nobody knows what is on disk,
/// and asking again may answer "done" for data that was dropped (Linux clears the error).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replica stopped: {what}")]
pub struct Fatal {
    what: Arc<str>,
}

impl Fatal {
    /// A reason in words; no secrets.
    pub fn new(what: impl Into<Arc<str>>) -> Self {
        Self { what: what.into() }
    }
}

/// Where the first fatal error is kept. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct FatalFlag {
    sender: Arc<watch::Sender<Option<Fatal>>>,
}

impl FatalFlag {
    pub(crate) fn new() -> Self {
        Self { sender: Arc::new(watch::Sender::new(None)) }
    }

    /// Keeps the first reason; later ones are consequences.
    pub(crate) fn raise(&self, fatal: Fatal) {
        self.sender.send_if_modified(|held| {
            if held.is_some() {
                return false;
            }
            tracing::error!(reason = %fatal, "replica stopped for good");
            *held = Some(fatal);
            true
        });
    }

    /// Does this work; if it breaks off by a panic, nobody else does it, and the replica stops for good instead of only seeming well.
    pub(crate) async fn watch_over(self, what: &'static str, work: impl Future<Output = ()>) {
        // Nothing of it is used afterwards.
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            self.raise(Fatal::new(format!("{what} broke off")));
        }
    }

    pub(crate) fn get(&self) -> Option<Fatal> {
        self.sender.borrow().clone()
    }

    /// Waits for the first fatal error, for ever if there is none.
    pub(crate) async fn wait(&self) -> Fatal {
        let mut receiver = self.sender.subscribe();
        loop {
            if let Some(fatal) = receiver.borrow_and_update().clone() {
                return fatal;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn work_that_breaks_off_is_the_end() {
        let flag = FatalFlag::new();
        flag.clone().watch_over("the work", async {}).await;
        assert_eq!(flag.get(), None);
        flag.clone().watch_over("the work", async { panic!("no") }).await;
        assert_eq!(flag.get(), Some(Fatal::new("the work broke off")));
    }
}
