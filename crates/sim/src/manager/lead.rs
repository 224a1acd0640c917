//! The leader's loop over a rotation, as the product's.

use cluster::Command;
use manager::rotate::look::{self, Look};
use pki::identity::NodeId;
use pki::time::Time;

use super::{Manager, Tell, Then};
use crate::ledger::Log;
use crate::operator;

impl<L: Log> Manager<L> {
    /// The leader looks at what has changed.
    pub(super) fn lead(&mut self, now: Time, news: &[NodeId], out: &mut Vec<Tell>) {
        let mut news = news.to_vec();
        news.append(&mut self.arrived);
        let state = self.state();
        let Look { wake, due, wait } = look::look(&mut self.pacer, &mut self.sessions, &state, now, &news);
        self.look_at = Some(now.saturating_add(wait));
        for node in wake {
            self.wake(&node, out);
        }
        // Every manager gives the turns to its own sessions; the leader alone takes the next step.
        if !self.leads() {
            return;
        }
        if !self.waits_for(|then| matches!(then, Then::Prolong))
            && let Some(replace) = operator::prolong(&state, now)
        {
            self.propose(vec![Command::ReplaceLadder(Box::new(replace))], Then::Prolong);
        }
        let proposed = self.waits_for(|then| matches!(then, Then::Advance));
        if let Some(due) = due.filter(|_| !proposed) {
            let command = look::advance(due, self.chance.bytes(), self.chance.bytes());
            self.propose(vec![command], Then::Advance);
        }
    }

    fn waits_for(&self, what: impl Fn(&Then) -> bool) -> bool {
        self.pending.iter().any(|pending| what(&pending.then))
    }
}
