//! Says who leads, once for each change.

use std::sync::Arc;

use replica::{Handle, Leadership};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// Logs whenever this manager begins to lead, and whenever it follows another one than before, until `shutdown`.
pub(crate) async fn tell<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    let own = shared.handle.raft_id();
    let mut leadership = shared.handle.leadership();
    let mut last = None;
    loop {
        let now = *leadership.borrow_and_update();
        if let Some(leader) = changed(&mut last, own, now) {
            say(&shared, leader, now.term);
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

fn say<H: Handle>(shared: &Shared<H>, leader: u64, term: u64) {
    if leader == shared.handle.raft_id() {
        tracing::info!(term, "this manager leads from now on");
        return;
    }
    let state = shared.handle.state();
    match state.members().iter().find(|(_, row)| row.raft_id == leader) {
        Some((node, row)) => tracing::info!(%node, addr = row.addr, term, "this manager follows another one"),
        // Its state has not come yet.
        None => tracing::info!(member = leader, term, "this manager follows another one"),
    }
}

/// Who leads, if that is another one than `last`. Between two leaders there is none for a while, and one who was elected leads when its state is
/// the newest there is: neither is a change.
fn changed(last: &mut Option<u64>, own: u64, now: Leadership) -> Option<u64> {
    let leader = now.leader.filter(|leader| now.here || *leader != own)?;
    (last.replace(leader) != Some(leader)).then_some(leader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once() {
        let mut last = None;
        let rows = [
            (1, None, false, None),
            (1, Some(2), false, Some(2)),
            (1, Some(2), false, None),
            (2, None, false, None),
            (2, Some(2), false, None),
            (3, Some(1), false, None),
            (3, Some(1), true, Some(1)),
            (4, None, false, None),
            (4, Some(1), true, None),
            (5, Some(3), false, Some(3)),
            (6, Some(1), true, Some(1)),
        ];
        for (term, leader, here, told) in rows {
            assert_eq!(changed(&mut last, 1, Leadership { term, leader, here }), told, "{term} {leader:?} {here}");
        }
    }
}
