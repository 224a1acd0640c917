//! Callers that wait for a certificate: each is told when its node's request is no longer waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imbl::OrdSet;
use pki::identity::NodeId;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

#[derive(Default)]
pub(super) struct Waiting {
    callers: Mutex<BTreeMap<NodeId, Arc<Notify>>>,
}

/// One caller's wait; the list forgets it when it is dropped.
pub(super) struct Wait<'a> {
    waiting: &'a Waiting,
    node: NodeId,
    notify: Arc<Notify>,
}

impl Waiting {
    pub(super) fn wait(&self, node: &NodeId) -> Wait<'_> {
        let notify = Arc::clone(self.callers().entry(node.clone()).or_default());
        Wait { waiting: self, node: node.clone(), notify }
    }

    /// Tells everybody whose request waits no more.
    pub(super) fn tell(&self, pending: &OrdSet<NodeId>) {
        self.callers().retain(|node, notify| {
            let waits = pending.contains(node);
            if !waits {
                notify.notify_waiters();
            }
            waits
        });
    }

    fn callers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Notify>>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait<'_> {
    pub(super) fn notified(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut callers = self.waiting.callers();
        if callers
            .get(&self.node)
            .is_some_and(|notify| Arc::ptr_eq(notify, &self.notify) && Arc::strong_count(notify) <= 2)
        {
            callers.remove(&self.node);
        }
    }
}
