//! The state, for everybody who reads it.
//!
//! Two kinds of readers: those who ask what is so, and see every change as soon as it is applied; and those who are told that
//! something has changed, whom one wait covers many changes for. They are told after whoever proposed has his answer: nobody waits
//! for an answer until all who look on have looked.

use cluster::State;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Changes within this time of each other are told of as one.
const TOGETHER: Duration = Duration::from_millis(5);

/// The newest state.
pub(crate) struct Published {
    states: watch::Sender<Arc<State>>,
    /// The last entry that is in it.
    index: watch::Sender<u64>,
    /// Whether something has changed that those who look on were not told of.
    untold: AtomicBool,
    changed: Arc<Notify>,
}

impl Published {
    /// An empty state, and what tells of its changes: it runs until the state is gone.
    pub(crate) fn new() -> (Arc<Self>, impl Future<Output = ()> + Send + use<>) {
        let changed = Arc::new(Notify::new());
        let published = Arc::new(Self {
            states: watch::Sender::new(Arc::new(State::empty())),
            index: watch::Sender::new(0),
            untold: AtomicBool::new(false),
            changed: changed.clone(),
        });
        let telling = Self::tell(Arc::downgrade(&published), changed);
        (published, telling)
    }

    async fn tell(published: Weak<Self>, changed: Arc<Notify>) {
        loop {
            changed.notified().await;
            tokio::time::sleep(TOGETHER).await;
            let Some(published) = published.upgrade() else { return };
            // Before they are told: what changes from here on is told next.
            published.untold.store(false, Ordering::SeqCst);
            published.states.send_if_modified(|_| true);
        }
    }

    pub(crate) fn state(&self) -> Arc<State> {
        self.states.borrow().clone()
    }

    /// Changes some time after the state did; what it shows is the newest state at any time.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.states.subscribe()
    }

    /// Returns when the state has this entry in it; false: it never will.
    pub(crate) async fn has(&self, index: u64) -> bool {
        self.index.subscribe().wait_for(|applied| *applied >= index).await.is_ok()
    }

    /// From now on this is the state.
    pub(crate) fn show(&self, state: State) {
        let index = state.index;
        let state = Arc::new(state);
        // Nobody is told here.
        self.states.send_if_modified(|shown| {
            *shown = state;
            false
        });
        self.index.send_replace(index);
    }

    /// Those who look on are told, soon.
    pub(crate) fn has_changed(&self) {
        if !self.untold.swap(true, Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn at(index: u64) -> State {
        State { index, ..State::empty() }
    }

    #[tokio::test]
    async fn a_change_is_read_at_once_and_told_of_together_with_others() {
        let (published, telling) = Published::new();
        let telling = tokio::spawn(telling);
        let mut watch = published.watch();
        for index in 1..=3 {
            published.show(at(index));
            published.has_changed();
            assert_eq!((published.state().index, watch.borrow().index), (index, index));
        }
        assert!(published.has(3).await);
        watch.changed().await.unwrap();
        assert_eq!(watch.borrow_and_update().index, 3);
        assert!(!watch.has_changed().unwrap(), "three changes, told of once");
        published.show(at(4));
        published.has_changed();
        watch.changed().await.unwrap();
        assert_eq!(watch.borrow_and_update().index, 4);
        drop(published);
        assert!(watch.changed().await.is_err(), "the state is gone");
        telling.await.unwrap();
    }
}
