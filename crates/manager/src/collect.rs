//! What time ends: sessions without heartbeats, joins never finished, letters, replaced leaves, removals, tokens, operators' certificates.

use std::sync::Arc;
use std::time::Duration;

use cluster::{Command, State};
use pki::time::Time;
use replica::Handle;
use tokio_util::sync::CancellationToken;

use crate::sessions::Input;
use crate::shared::Shared;

/// How often the state is searched for what has outlived its time; those times are a day.
pub const COLLECT_PERIOD: Duration = Duration::from_secs(10 * 60);

/// Nodes named in one command.
const COLLECT_CHUNK: usize = 1024;

/// Tells the session table of the time, until `shutdown`.
pub(crate) async fn sessions<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    loop {
        if shared.tell(Input::Time).await {
            shared.touch();
        }
        let next = shared.sessions().next_deadline();
        let wait = next.map_or(COLLECT_PERIOD, |next| next.since(shared.now()));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = shared.deadline_moved.notified() => {}
            () = tokio::time::sleep(wait.max(Duration::from_millis(5))) => {}
        }
    }
}

/// Collects what has outlived its time, until `shutdown`.
pub(crate) async fn state<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    loop {
        for command in due(&shared.handle.state(), shared.now()) {
            if let Err(error) = shared.handle.propose(vec![command]).await {
                tracing::warn!(%error, "what has outlived its time could not be collected");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(COLLECT_PERIOD) => {}
        }
    }
}

/// What there is to collect at `now`; each command is an entry of its own, so that none is large.
pub fn due(state: &State, now: Time) -> Vec<Command> {
    let nodes = state.collectable(now);
    if nodes.is_empty()
        && (state.removals_ended(now)
            || state.revocations_ended(now)
            || state.anchors_ended(now)
            || state.tokens_ended(now)
            || state.operators.ended(now))
    {
        return vec![Command::Collect { nodes }];
    }
    nodes.chunks(COLLECT_CHUNK).map(|chunk| Command::Collect { nodes: chunk.to_vec() }).collect()
}

#[cfg(test)]
mod tests {
    use cluster::removal::Removal;
    use pki::identity::NodeId;

    use super::*;

    #[test]
    fn p34_an_ended_removal_is_collected_although_no_node_is_due() {
        let at = Time::from_unix_secs;
        let mut state = State::empty();
        assert!(due(&state, at(10)).is_empty());
        state.removals.insert(NodeId::generate([7; 17]), Removal { at: at(1), until: at(10) });
        assert!(due(&state, at(10)).is_empty());
        let commands = due(&state, at(11));
        assert!(matches!(commands.as_slice(), [Command::Collect { nodes }] if nodes.is_empty()), "{commands:?}");
    }
}
