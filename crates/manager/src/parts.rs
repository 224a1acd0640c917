//! The tasks of a manager, one for each part of its work.
//!
//! They end when the manager is told to stop, and not before. One that does, be it by a panic, leaves a manager that looks well and does not do
//! that part: it is told, and whoever runs the manager starts it anew.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The tasks, and the first that broke off.
pub(crate) struct Parts {
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
    broken: watch::Sender<Option<String>>,
}

impl Parts {
    /// None yet; they are to end with `shutdown`.
    pub(crate) fn new(shutdown: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), shutdown, broken: watch::Sender::new(None) }
    }

    /// Starts one.
    pub(crate) fn start(&mut self, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let (shutdown, broken) = (self.shutdown.clone(), self.broken.clone());
        self.tasks.spawn(async move {
            // Nothing of it is used afterwards: the whole manager is given up.
            let ended = AssertUnwindSafe(work).catch_unwind().await;
            if shutdown.is_cancelled() {
                return;
            }
            let why = ended.map_or_else(|panic| words(panic.as_ref()), |()| "it ended by itself".to_owned());
            tracing::error!(part, why, "a part of this manager broke off");
            broken.send_if_modified(|first| {
                let new = first.is_none();
                if new {
                    *first = Some(format!("{part}: {why}"));
                }
                new
            });
        });
    }

    /// Waits until one breaks off; for ever, if none does.
    pub(crate) fn broken(&self) -> impl Future<Output = String> + Send + 'static {
        let mut broken = self.broken.subscribe();
        async move {
            match broken.wait_for(Option::is_some).await.map(|broken| broken.clone()) {
                Ok(Some(why)) => why,
                _ => std::future::pending().await,
            }
        }
    }

    /// Waits for their ends.
    pub(crate) async fn ended(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// What a panic says.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn a_part_that_breaks_off_is_told_and_one_that_ends_in_order_is_not() {
        for (work, told) in [
            (async { panic!("no more {}", 1) }.boxed(), "part: no more 1"),
            (async { panic!("words") }.boxed(), "part: words"),
            (async {}.boxed(), "part: it ended by itself"),
        ] {
            let mut parts = Parts::new(CancellationToken::new());
            let broken = parts.broken();
            parts.start("part", work);
            assert_eq!(broken.await, told);
        }
        let shutdown = CancellationToken::new();
        let mut parts = Parts::new(shutdown.clone());
        let broken = parts.broken();
        let until = shutdown.clone();
        parts.start("part", async move { until.cancelled().await });
        shutdown.cancel();
        parts.ended().await;
        assert!(broken.now_or_never().is_none());
    }
}
