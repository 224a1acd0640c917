//! What a manager that wants to leave is told first (engine-api.md 6.6).

use manager::view::NodeView;

const LEAD: &str = "You are attempting to leave the swarm on a node that is participating as a manager. ";
const LAST_MANAGER: &str =
    "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ";
const TAIL: &str = "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";

/// The text for a manager that could not start.
pub(super) const STOPPED_MANAGER: &str = "You are attempting to leave the swarm on a node that is participating as a manager. Doing so may lose the consensus of your cluster. The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";

/// The text for an active manager that leaves without force.
pub fn leave_refusal(nodes: &[NodeView]) -> String {
    let managers = || nodes.iter().filter_map(|node| node.manager.as_ref());
    text(
        managers().filter(|manager| manager.reachable).count(),
        managers().filter(|manager| !manager.reachable).count(),
    )
}

fn text(reachable: usize, unreachable: usize) -> String {
    // Kept as docker computes it; with two or fewer reachable managers the difference is not above zero.
    if reachable.saturating_sub(2) > unreachable {
        return format!("{LEAD}{TAIL}");
    }
    if reachable + unreachable <= 1 {
        return format!("{LEAD}{LAST_MANAGER}");
    }
    let left = reachable.saturating_sub(1);
    let all = reachable + unreachable;
    format!(
        "{LEAD}Removing this node leaves {left} managers out of {all}. Without a Raft quorum your swarm will be inaccessible. {TAIL}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        assert_eq!(text(3, 0), format!("{LEAD}{TAIL}"));
        assert_eq!(text(1, 0), format!("{LEAD}{LAST_MANAGER}"));
        assert!(text(1, 0).ends_with("message. "));
        assert_eq!(
            text(2, 0),
            format!(
                "{LEAD}Removing this node leaves 1 managers out of 2. Without a Raft quorum your swarm will be inaccessible. {TAIL}"
            )
        );
        assert!(text(3, 2).contains("leaves 2 managers out of 5"));
    }
}
