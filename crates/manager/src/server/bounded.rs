//! A bounded number of places, where the oldest gives way: whoever stalls cannot keep others out, since what is honest is
//! done long before its turn to go comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The places.
pub(crate) struct Bounded {
    max: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    places: BTreeMap<u64, CancellationToken>,
}

/// A place; dropping it gives it back.
pub(crate) struct Place {
    of: Arc<Bounded>,
    id: u64,
    evicted: CancellationToken,
}

impl Bounded {
    /// `max` places, at least one.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max: max.max(1), inner: Mutex::default() })
    }

    /// Takes a place; if none is free, the oldest is told to go.
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        let mut inner = self.lock();
        if inner.places.len() >= self.max
            && let Some((_, oldest)) = inner.places.pop_first()
        {
            oldest.cancel();
        }
        let id = inner.next;
        inner.next += 1;
        let evicted = CancellationToken::new();
        inner.places.insert(id, evicted.clone());
        Place { of: Arc::clone(self), id, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until the place has to be given up.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.lock().places.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way() {
        let places = Bounded::new(2);
        let (first, second) = (places.enter(), places.enter());
        assert!(!first.evicted.is_cancelled());
        let third = places.enter();
        first.evicted().await;
        assert!(!second.evicted.is_cancelled() && !third.evicted.is_cancelled());
        drop(third);
        let _fourth = places.enter();
        assert!(!second.evicted.is_cancelled(), "a place given back is free");
        drop(first);
        assert_eq!(places.lock().places.len(), 2);
    }
}
