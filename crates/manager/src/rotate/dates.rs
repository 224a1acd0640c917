//! Whether a node whose clock is off can do its part: the certificates it would have to use are dated, and it judges them by its
//! own time.
//!
//! - What counts is the time it judges by, not its clock: one that was right an hour ago does not judge by an earlier time.
//! - Behind by more than the hour that leaves are dated back it can use no new one. Roots that were given, and what certifies
//!   them, may begin later than that: then less is enough.
//! - Ahead it can use every certificate that has not ended by its time.

use cluster::State;
use cluster::node::Node;
use cluster::roots::{Root, Roots};
use cluster::rotation::Need;
use pki::certificate::Certificate;
use pki::identity::NodeId;
use pki::issue::LEAF_BACKDATE;
use pki::time::Time;

use crate::sessions::NodeClock;

/// Judges for one state after the other whose managers are the same.
pub(super) struct Dates {
    managers: Vec<NodeId>,
}

impl Dates {
    /// For this state.
    pub(super) fn new(state: &State) -> Self {
        Self { managers: state.members().keys().cloned().collect() }
    }

    /// Whether a node with this clock can use what `need` would have it use if it were told at `now`.
    pub(super) fn allow(&self, state: &State, node: &Node, need: Need, clock: NodeClock, now: Time) -> bool {
        let at = clock.judges_at(now);
        let holds = |from: Time, until: Time| from <= at && at <= until;
        let all =
            |certificates: &[Certificate]| certificates.iter().all(|one| holds(one.not_before(), one.not_after()));
        let root = |root: &Root| all(&root.certificates);
        let target = match &state.roots {
            Roots::Rotating(rotation) => Some(rotation.to()),
            Roots::None | Roots::Stable { .. } => state.roots.served(),
        };
        let trusts = |root: &Root| node.report.as_ref().is_some_and(|report| report.trust == root.trust);
        // Where its new chain ends: at the root that it holds.
        let anchor = match &state.roots {
            Roots::Rotating(rotation) if rotation.bundle().is_none() && !trusts(rotation.to()) => Some(rotation.from()),
            _ => target,
        };
        // It comes back to a manager either way, and one is enough.
        let manager = self.managers.iter().filter_map(|id| state.node(id)?.current.as_ref());
        let managers =
            self.managers.is_empty() || manager.into_iter().any(|leaf| holds(leaf.not_before, leaf.not_after));
        managers
            && match need {
                Need::Renewal => {
                    let signed = now.round_to_minute();
                    holds(signed.saturating_sub(LEAF_BACKDATE), signed.saturating_add(state.settings.leaf_life()))
                        && all(&state.roots.ladder_for(Some(node), node.signed_role(), now))
                        && anchor.is_none_or(|anchor| root(anchor))
                }
                Need::Trust => target.is_none_or(|to| root(to)),
            }
    }
}

#[cfg(test)]
mod tests;
