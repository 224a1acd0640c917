//! The open ends of sessions: what wakes a stream, and what ends it. One slot a node; no queue, so a slow reader costs
//! nothing and sees the newest state when it reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pki::identity::NodeId;
use pki::time::Time;
use tokio::sync::Notify;
use wire::status::Refusal;

/// One session's open end.
pub(crate) struct Slot {
    changed: Notify,
    ended: tokio::sync::watch::Sender<bool>,
    reason: OnceLock<Refusal>,
}

impl Slot {
    /// Wakes the session stream: something it shows may have changed.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Ends every stream of the session with `reason`; the first reason stands.
    pub(crate) fn end(&self, reason: Refusal) {
        if self.reason.set(reason).is_ok() {
            self.ended.send_replace(true);
        }
    }

    /// Why it was ended, if it was.
    pub(crate) fn reason(&self) -> Option<&Refusal> {
        self.reason.get()
    }

    /// Waits until something may have changed, or the session was ended.
    pub(crate) async fn changed(&self) {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            () = self.changed.notified() => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }

    /// Waits for the end of the session; why it ended.
    pub(crate) async fn ended(&self) -> Refusal {
        // The sender lives as long as the slot, so waiting cannot fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
        self.reason.get().cloned().unwrap_or(Refusal::SessionInvalid)
    }
}

/// All slots, and of each node whose stream ended without another, when that was.
#[derive(Default)]
pub(crate) struct Slots(Mutex<HashMap<NodeId, Arc<Slot>>>, Mutex<HashMap<NodeId, Time>>);

impl Slots {
    /// Opens the slot of a new stream; one that was there ends.
    pub(crate) fn open(&self, node: &NodeId) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            changed: Notify::new(),
            ended: tokio::sync::watch::Sender::new(false),
            reason: OnceLock::new(),
        });
        let before = self.lock().insert(node.clone(), Arc::clone(&slot));
        self.lost().remove(node);
        if let Some(before) = before {
            before.end(Refusal::SessionInvalid);
        }
        slot
    }

    /// The slot of a node's session.
    pub(crate) fn get(&self, node: &NodeId) -> Option<Arc<Slot>> {
        self.lock().get(node).cloned()
    }

    /// Ends a node's session.
    pub(crate) fn end(&self, node: &NodeId, reason: Refusal) {
        let slot = self.lock().remove(node);
        if let Some(slot) = slot {
            slot.end(reason);
        }
    }

    /// Forgets a slot whose stream is gone, unless a newer one took its place.
    pub(crate) fn close(&self, node: &NodeId, slot: &Arc<Slot>, now: Time) {
        let mut slots = self.lock();
        if slots.get(node).is_some_and(|present| Arc::ptr_eq(present, slot)) {
            slots.remove(node);
            self.lost().insert(node.clone(), now);
        }
    }

    /// When a node's stream ended, if it has no other now.
    pub(crate) fn lost_at(&self, node: &NodeId) -> Option<Time> {
        self.lost().get(node).copied()
    }

    /// The node is no longer of this cluster.
    pub(crate) fn forget(&self, node: &NodeId) {
        self.lost().remove(node);
    }

    fn lost(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Time>> {
        self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every session.
    pub(crate) fn end_all(&self, reason: &Refusal) {
        let all = std::mem::take(&mut *self.lock());
        for slot in all.into_values() {
            slot.end(reason.clone());
        }
    }

    /// All that are open now.
    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Arc<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
