//! Turns changes of the replicated state into wake-ups of exactly those whom they concern. One task looks at two successive
//! states; what they share costs nothing to compare.

use std::collections::BTreeSet;
use std::sync::Arc;

use cluster::State;
use imbl::ordmap::DiffItem;
use pki::identity::NodeId;
use replica::Handle;
use tokio_util::sync::CancellationToken;
use wire::status::{Refusal, Unauthorized};

use crate::shared::Shared;

/// Sessions woken between two looks at what else there is to do.
const WAKE_CHUNK: usize = 64;

/// Watches until `shutdown`.
pub(crate) async fn watch<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    let mut states = shared.handle.watch();
    let mut before = shared.handle.state();
    loop {
        let changed = tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let after = Arc::clone(&states.borrow_and_update());
        let change = compare(&before, &after);
        apply(&shared, &after, &change).await;
        before = after;
        shared.touch();
    }
}

/// What a change of state means for sessions and connections.
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    /// Nodes whose record changed.
    changed: BTreeSet<NodeId>,
    /// Nodes whose connections are to be let go: removed, or cut.
    cut: BTreeSet<NodeId>,
    /// Whether every session message changed.
    everybody: bool,
}

fn compare(before: &State, after: &State) -> Change {
    let mut change = Change::default();
    for item in before.nodes.diff(&after.nodes) {
        match item {
            DiffItem::Add(_, _) => {}
            DiffItem::Update { old: (id, old), new: (_, new) } => {
                if old.cut != new.cut {
                    change.cut.insert(id.clone());
                }
                change.changed.insert(id.clone());
            }
            DiffItem::Remove(id, _) => {
                change.cut.insert(id.clone());
            }
        }
    }
    let served = |state: &State| state.roots.served().map(|root| root.bundle.clone());
    change.everybody = before.members != after.members || served(before) != served(after);
    change
}

async fn apply<H: Handle>(shared: &Shared<H>, after: &State, change: &Change) {
    for node in &change.cut {
        let removed = after.node(node).is_none();
        let reason = if removed {
            Unauthorized::Removed { node: node.clone() }
        } else {
            Unauthorized::Withdrawn { node: node.clone() }
        };
        if removed {
            shared.sessions().forget(node);
        }
        shared.slots.end(node, Refusal::Peer(reason));
        shared.connections.cut(node);
    }
    if change.everybody {
        for chunk in shared.slots.all().chunks(WAKE_CHUNK) {
            for slot in chunk {
                slot.wake();
            }
            tokio::task::yield_now().await;
        }
        return;
    }
    for node in &change.changed {
        if let Some(slot) = shared.slots.get(node) {
            slot.wake();
        }
    }
}
