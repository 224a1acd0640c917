//! What is wrong with which external CA, as it was last said: the same is not said again with every request.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// URLs remembered. A cluster has a few; with more, all are said anew.
const REMEMBERED_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Troubles {
    said: Mutex<BTreeMap<String, &'static str>>,
}

impl Troubles {
    /// Whether this kind of trouble was not the last that was said of the URL. It is, from now on.
    pub(super) fn is_news(&self, url: &str, kind: &'static str) -> bool {
        let mut said = self.said();
        if said.get(url) == Some(&kind) {
            return false;
        }
        if said.len() >= REMEMBERED_MAX {
            said.clear();
        }
        said.insert(url.to_owned(), kind);
        true
    }

    /// Whether trouble was said of the URL that gave a certificate now.
    pub(super) fn is_over(&self, url: &str) -> bool {
        self.said().remove(url).is_some()
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<String, &'static str>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_is_said_once_until_it_is_over() {
        let troubles = Troubles::default();
        assert!(troubles.is_news("one", "unreachable"));
        assert!(!troubles.is_news("one", "unreachable"));
        assert!(troubles.is_news("two", "unreachable"), "another URL");
        assert!(troubles.is_news("one", "status"), "another kind");
        assert!(troubles.is_over("one") && !troubles.is_over("one"));
        assert!(troubles.is_news("one", "status"));
        assert!(!troubles.is_over("three"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let troubles = Troubles::default();
        for n in 0..3 * REMEMBERED_MAX {
            assert!(troubles.is_news(&n.to_string(), "unreachable"));
        }
        assert!(troubles.said().len() <= REMEMBERED_MAX);
    }
}
