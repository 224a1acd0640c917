//! A bounded number of places, and of these a bounded number for each holder.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places.
pub(super) struct Places<K> {
    max: usize,
    each: usize,
    held: Mutex<Held<K>>,
}

struct Held<K> {
    all: usize,
    /// None of them zero.
    by: HashMap<K, usize>,
}

/// A place; dropping it gives it back.
pub(super) struct Place<K: Eq + Hash + Clone> {
    of: Arc<Places<K>>,
    holder: K,
}

impl<K: Eq + Hash + Clone> Places<K> {
    pub(super) fn new(max: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { max, each, held: Mutex::new(Held { all: 0, by: HashMap::new() }) })
    }

    /// Takes a place, if there is one for this holder.
    pub(super) fn take(self: &Arc<Self>, holder: K) -> Option<Place<K>> {
        let mut held = self.lock();
        let own = held.by.get(&holder).copied().unwrap_or(0);
        if held.all >= self.max || own >= self.each {
            return None;
        }
        held.all += 1;
        held.by.insert(holder.clone(), own + 1);
        Some(Place { of: Arc::clone(self), holder })
    }

    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Drop for Place<K> {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        held.all = held.all.saturating_sub(1);
        match held.by.get_mut(&self.holder) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(held.by.remove(&self.holder)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn so_many_in_all_and_so_many_each() {
        let places = Places::new(3, 2);
        let first = places.take('a').unwrap();
        let _second = places.take('a').unwrap();
        assert!(places.take('a').is_none(), "its own are taken");
        let _third = places.take('b').unwrap();
        assert!(places.take('c').is_none(), "all are taken");
        drop(first);
        assert!(places.take('c').is_some());
        assert_eq!(places.lock().by.len(), 2, "who holds none is forgotten");
    }
}
