//! Tells the session table of every change of the replicated state. One task looks at two successive states.

use std::sync::Arc;

use replica::Handle;
use tokio_util::sync::CancellationToken;

use crate::change::Change;
use crate::sessions::Input;
use crate::shared::Shared;

/// Watches until `shutdown`.
pub(crate) async fn watch<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    let mut states = shared.handle.watch();
    let mut before = shared.handle.state();
    shared.news.follow(&before);
    loop {
        let changed = tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let after = Arc::clone(&states.borrow_and_update());
        let change = Change::between(&before, &after);
        shared.news.follow(&after);
        shared.tell(Input::Changed(&change)).await;
        if !change.issued.is_empty() {
            shared.deadline_moved.notify_one();
        }
        before = after;
        shared.touch();
    }
}
