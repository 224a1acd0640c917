//! Certificates that an external CA signed and of which it is not known whether they were committed: the leader was lost under the
//! proposal. Once the request waits no more, the node has been given that very certificate or another one, and it shows.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pki::identity::NodeId;
use pki::serial::Serial;

/// Certificates remembered; more are in doubt only where nothing is committed at all, and the CA's own log tells of them.
const REMEMBERED_MAX: usize = 4_096;

#[derive(Default)]
pub(super) struct Unsure(Mutex<BTreeSet<(NodeId, Serial)>>);

impl Unsure {
    /// Remembers one.
    pub(super) fn add(&self, node: &NodeId, serial: Serial) {
        let mut all = self.lock();
        if all.len() < REMEMBERED_MAX {
            all.insert((node.clone(), serial));
        }
    }

    /// Forgets those of nodes of which nothing `waits`; gives back which of these no node `holds`.
    pub(super) fn settle(
        &self,
        waits: impl Fn(&NodeId) -> bool,
        holds: impl Fn(&NodeId, &Serial) -> bool,
    ) -> Vec<(NodeId, Serial)> {
        let mut all = self.lock();
        let mut settled = Vec::new();
        all.retain(|(node, serial)| {
            let waits = waits(node);
            if !waits && !holds(node, serial) {
                settled.push((node.clone(), *serial));
            }
            waits
        });
        settled
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(NodeId, Serial)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_nobody_holds_is_told_once_when_nothing_waits_any_more() {
        let unsure = Unsure::default();
        let (one, other): (NodeId, NodeId) = ("one".parse().unwrap(), "other".parse().unwrap());
        let serial = |n| Serial::from_random([n; 20]);
        unsure.add(&one, serial(1));
        unsure.add(&one, serial(2));
        unsure.add(&other, serial(3));
        let held = |node: &NodeId, of: &Serial| *node == one && *of == serial(2);
        assert!(unsure.settle(|_| true, |_, _| false).is_empty(), "its request still waits");
        assert_eq!(unsure.settle(|node| *node == other, held), [(one.clone(), serial(1))]);
        assert!(unsure.settle(|node| *node == other, held).is_empty(), "told");
        assert_eq!(unsure.settle(|_| false, held), [(other, serial(3))]);
        assert!(unsure.lock().is_empty());
    }

    #[test]
    fn no_more_than_so_many() {
        let unsure = Unsure::default();
        let node: NodeId = "one".parse().unwrap();
        for n in 0..=u16::try_from(REMEMBERED_MAX).unwrap() {
            unsure.add(&node, Serial::from_random([[1; 18].as_slice(), &n.to_be_bytes()].concat().try_into().unwrap()));
        }
        assert_eq!(unsure.lock().len(), REMEMBERED_MAX);
    }
}
