//! Removal of a node. The record goes, so nothing that names it is registered any more; the row that stays gives callers a
//! clear text until the last leaf that the node may hold has ended. Refusal does not depend on it. For those who do not ask a manager
//! its certificates are taken back too.

use pki::identity::NodeId;
use pki::time::Time;

use crate::account::Event;
use crate::apply::Entry;
use crate::outcome::{Outcome, Rejection};
use crate::state::State;

/// A node that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// When.
    pub at: Time,
    /// When its last leaf ends.
    pub until: Time,
}

impl State {
    pub(crate) fn remove_node(
        &mut self,
        entry: &mut Entry<'_>,
        id: &NodeId,
        force: bool,
        ready: bool,
    ) -> Result<Outcome, Rejection> {
        let until = self.known(id)?.leaves_end;
        if self.members.rows.contains_key(id) {
            return Err(Rejection::Manager);
        }
        if ready && !force {
            return Err(Rejection::Ready);
        }
        let report = self.nodes.get(id).and_then(|node| node.report.clone());
        let (host, addr) =
            report.as_deref().map(|said| (said.hostname.as_str(), said.addr.as_str())).unwrap_or_default();
        entry.tell_of(Event::Removed(id.clone()), host, addr);
        self.revoke_removed(entry, id);
        self.let_go(id);
        self.removals.insert(id.clone(), Removal { at: entry.now, until });
        self.keep_managers(entry);
        Ok(Outcome::Done { version: entry.index })
    }

    /// Drops a node's record, if there is one, and what it holds elsewhere.
    pub(crate) fn let_go(&mut self, id: &NodeId) {
        let Some(node) = self.nodes.remove(id) else { return };
        self.release(&node);
        self.leave_aside(id, None);
    }
}
