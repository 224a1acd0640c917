//! Looks at the leader's state, for those whom what is known here would refuse.
//!
//! - One look at a time, and a pause between two: strangers can ask for looks, and each costs the leader a round with a majority.
//! - Whoever waits while one is under way shares the next: a look that began before somebody came proves nothing to him.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Between the end of a look and the beginning of the next.
const PAUSE: Duration = Duration::from_millis(10);

/// The looks of one manager.
#[derive(Default)]
pub(crate) struct Looks {
    begun: AtomicU64,
    last: Mutex<Last>,
}

/// The last look that ended.
#[derive(Default)]
struct Last {
    number: u64,
    seen: bool,
    ended: Option<Instant>,
}

impl Looks {
    /// Looks by `look`, or takes what came of a look that began after this call did. Whether the leader's state was seen.
    pub(crate) async fn look(&self, look: impl Future<Output = bool>) -> bool {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if last.number > before {
            return last.seen;
        }
        if let Some(ended) = last.ended {
            tokio::time::sleep_until(ended + PAUSE).await;
        }
        // One whose caller goes away meanwhile has no end, and is nobody's.
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let seen = look.await;
        *last = Last { number, seen, ended: Some(Instant::now()) };
        seen
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::Notify;

    /// Looks that are counted, and end when they are told to.
    #[derive(Clone, Default)]
    struct Eyes(Arc<(AtomicUsize, Notify)>);

    impl Eyes {
        fn looks(&self) -> usize {
            self.0.0.load(Ordering::SeqCst)
        }

        fn look(&self, looks: &Arc<Looks>, seen: bool) -> tokio::task::JoinHandle<bool> {
            let (eyes, looks) = (self.clone(), Arc::clone(looks));
            tokio::spawn(async move {
                let look = async {
                    eyes.0.0.fetch_add(1, Ordering::SeqCst);
                    eyes.0.1.notified().await;
                    seen
                };
                looks.look(look).await
            })
        }

        fn end(&self) {
            self.0.1.notify_one();
        }
    }

    async fn settled() {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_thousand_who_wait_share_one_look_that_began_after_they_came() {
        let (looks, eyes) = (Arc::new(Looks::default()), Eyes::default());
        let first = eyes.look(&looks, false);
        settled().await;
        let others: Vec<_> = (0..1000).map(|_| eyes.look(&looks, true)).collect();
        settled().await;
        assert_eq!(eyes.looks(), 1, "the others wait");
        eyes.end();
        assert!(!first.await.unwrap());
        let between = Instant::now();
        eyes.end();
        for other in others {
            assert!(other.await.unwrap(), "what came of the look before is not theirs");
        }
        assert_eq!(eyes.looks(), 2);
        assert!(between.elapsed() >= PAUSE);
    }

    #[tokio::test]
    async fn a_look_that_is_given_up_stands_in_nobodys_way() {
        let (looks, eyes) = (Arc::new(Looks::default()), Eyes::default());
        let first = eyes.look(&looks, true);
        settled().await;
        let second = eyes.look(&looks, true);
        settled().await;
        first.abort();
        first.await.unwrap_err();
        settled().await;
        assert_eq!(eyes.looks(), 2);
        eyes.end();
        assert!(second.await.unwrap());
    }
}
