//! The table as a machine: what it is told, and what follows for streams and connections.

use cluster::{Command, State};
use pki::identity::NodeId;
use pki::time::Time;
use wire::status::Refusal;

use super::{GRACE, Row, Sessions, UNKNOWN_GRACE};
use crate::change::Change;

/// What the table is told.
pub enum Input<'a> {
    /// This manager begins to lead over this state: nodes that were not down may register for a while before they are called
    /// so. Whom it waited for when it led before, it does not: others have led since, and may have heard of them.
    Lead(&'a State),
    /// The manager that had the sessions of these nodes is gone: they may register for a while before they are called down.
    Expect(&'a [NodeId], std::time::Duration),
    /// The replicated state has changed.
    Changed(&'a Change),
    /// Time has passed: see [`Sessions::next_deadline`].
    Time,
    /// A node has renewed: an order to do so is obeyed.
    Renewed(&'a NodeId),
    /// A node has fetched a certificate that was issued to it. If it was one that may only come back, its session ends once
    /// it had a moment to install it: a connection made with the new one is no longer quarantined.
    Fetched(&'a NodeId),
}

/// What follows. Effects are carried out in their order.
#[derive(Debug)]
pub enum Effect {
    /// Look whether the node's session stream has something new to say.
    Wake(NodeId),
    /// The same for every stream.
    WakeAll,
    /// End every stream of the node's session with this word.
    End(NodeId, Refusal),
    /// Let go of the node's connections; their streams may say goodbye first.
    Cut(NodeId),
    /// Propose. Nobody waits for the outcome; if it fails, the next one says it again or nobody misses it.
    Propose(Vec<Command>),
}

impl Sessions {
    /// One step.
    pub fn step(&mut self, now: Time, input: Input<'_>) -> Vec<Effect> {
        self.pass(now);
        match input {
            Input::Lead(state) => {
                self.forget_expected();
                let period = state.settings.heartbeat_period();
                self.led = Some((now, now.saturating_add(period * UNKNOWN_GRACE)));
                let present = state.finished().filter(|node| !node.down).map(|node| node.id.clone());
                self.expect(now, period, UNKNOWN_GRACE, present);
                Vec::new()
            }
            Input::Expect(nodes, period) => {
                self.expect(now, period, GRACE, nodes.iter().cloned());
                Vec::new()
            }
            Input::Changed(change) => self.changed(now, change),
            Input::Time => self.time(now),
            Input::Renewed(node) => {
                if self.renewed(node) {
                    vec![Effect::Wake(node.clone())]
                } else {
                    Vec::new()
                }
            }
            Input::Fetched(node) => {
                self.fetched(now, node);
                Vec::new()
            }
        }
    }

    fn changed(&mut self, now: Time, change: &Change) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(2 * change.cut.len() + change.changed.len());
        for node in &change.removed {
            self.forget(node);
        }
        // One that may only come back fetches its certificate wherever it asked for it.
        for node in &change.issued {
            self.fetched(now, node);
            // So does one that obeys an order: else it is told once more when its next session is here.
            self.renewed(node);
        }
        for (node, reason) in &change.cut {
            self.excuse(node);
            effects.push(Effect::End(node.clone(), reason.clone()));
            effects.push(Effect::Cut(node.clone()));
        }
        if change.everybody {
            effects.push(Effect::WakeAll);
        } else {
            effects.extend(change.changed.iter().cloned().map(Effect::Wake));
        }
        effects
    }

    fn time(&mut self, now: Time) -> Vec<Effect> {
        let mut effects = Vec::new();
        for node in self.released(now) {
            effects.push(Effect::End(node.clone(), Refusal::MustDisconnect));
            effects.push(Effect::Cut(node));
        }
        let mut commands = Vec::new();
        for (node, row) in self.expire(now) {
            effects.push(Effect::End(node.clone(), Refusal::NotRegistered));
            // It may have been in session with whoever led before.
            let unseen = |began: &Time| row.session.is_some() && row.last_contact.is_none_or(|at| at < *began);
            if let Some((_, until)) = self.led.filter(|(began, until)| unseen(began) && now < *until) {
                self.put(node, Row { last_contact: row.last_contact, ..Row::absent(now, row.period, until) });
                continue;
            }
            commands.push(Command::Presence { node, down: true, seen: row.last_contact.unwrap_or(now) });
        }
        if !commands.is_empty() {
            effects.push(Effect::Propose(commands));
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::time::Duration;

    use super::*;
    use crate::sessions::INSTALL_TIME;

    const PERIOD: Duration = Duration::from_secs(5);

    fn at(millis: i64) -> Time {
        Time::from_unix_millis(1_700_000_000_000 + millis)
    }

    fn table(returning: bool) -> (Sessions, NodeId) {
        let mut table = Sessions::default();
        let node: NodeId = "node".parse().unwrap();
        table.register(at(0), &node, "", "a".to_owned(), PERIOD, returning).unwrap();
        (table, node)
    }

    /// Effects in short.
    fn words(effects: &[Effect]) -> Vec<&'static str> {
        let word = |effect: &Effect| match effect {
            Effect::Wake(_) => "wake",
            Effect::WakeAll => "wake all",
            Effect::End(..) => "end",
            Effect::Cut(_) => "cut",
            Effect::Propose(_) => "propose",
        };
        effects.iter().map(word).collect()
    }

    #[test]
    fn a_returning_node_starts_over_a_moment_after_it_fetched() {
        let (mut table, node) = table(true);
        assert!(table.step(at(100), Input::Fetched(&node)).is_empty());
        assert!(table.step(at(200), Input::Fetched(&node)).is_empty());
        let due = at(100).saturating_add(INSTALL_TIME);
        assert_eq!(table.next_deadline(), Some(due));
        assert!(table.step(at(599), Input::Time).is_empty());
        assert_eq!(words(&table.step(due, Input::Time)), ["end", "cut"]);
        assert!(table.step(at(700), Input::Time).is_empty(), "once");
    }

    #[test]
    fn a_returning_node_that_another_manager_gave_a_certificate_starts_over() {
        let (mut table, node) = table(true);
        let change = Change { issued: [node.clone()].into(), ..Change::default() };
        assert!(table.step(at(100), Input::Changed(&change)).is_empty());
        assert!(table.step(at(200), Input::Fetched(&node)).is_empty());
        assert_eq!(words(&table.step(at(100).saturating_add(INSTALL_TIME), Input::Time)), ["end", "cut"]);
        let (mut full, node) = self::table(false);
        full.step(at(100), Input::Changed(&change));
        assert!(full.step(at(9_000), Input::Time).is_empty(), "{node} is a full member");
    }

    #[test]
    fn a_node_that_is_back_already_is_left_alone() {
        let (mut table, node) = table(true);
        table.step(at(100), Input::Fetched(&node));
        table.register(at(300), &node, "", "b".to_owned(), PERIOD, false).unwrap();
        assert!(table.step(at(700), Input::Time).is_empty());
        assert!(table.is_ready(&node));
    }

    #[test]
    fn a_node_that_installs_late_starts_over_once_more_each_time_later() {
        let (mut table, node) = table(true);
        table.step(at(0), Input::Fetched(&node));
        assert_eq!(words(&table.step(at(500), Input::Time)), ["end", "cut"]);
        // It is back with its old leaf: it has not installed the new one yet.
        table.register(at(600), &node, "", "b".to_owned(), PERIOD, true).unwrap();
        assert!(table.step(at(1_599), Input::Time).is_empty());
        assert_eq!(words(&table.step(at(1_600), Input::Time)), ["end", "cut"]);
        table.register(at(1_700), &node, "b", "c".to_owned(), PERIOD, true).unwrap();
        assert!(table.step(at(3_699), Input::Time).is_empty());
        assert_eq!(words(&table.step(at(3_700), Input::Time)), ["end", "cut"]);
        table.register(at(3_800), &node, "", "d".to_owned(), PERIOD, false).unwrap();
        assert!(table.step(at(9_000), Input::Time).is_empty(), "it is a full member again");
    }

    #[test]
    fn a_full_member_that_renews_keeps_its_session() {
        let (mut table, node) = table(false);
        table.step(at(100), Input::Fetched(&node));
        assert!(table.step(at(10_000), Input::Time).is_empty());
    }

    #[test]
    fn silence_ends_a_session_and_is_written_down() {
        let (mut table, node) = table(false);
        let effects = table.step(at(15_000), Input::Time);
        assert_eq!(words(&effects), ["end", "propose"]);
        let Some(Effect::Propose(commands)) = effects.last() else { unreachable!("just seen") };
        assert!(matches!(&commands[..], [Command::Presence { node: gone, down: true, seen }]
            if *gone == node && *seen == at(0)));
    }

    #[test]
    fn who_was_waited_for_in_an_earlier_lead_is_not_called_down_in_the_next() {
        let (mut table, present) = table(false);
        let away: NodeId = "away".parse().unwrap();
        assert!(table.step(at(200), Input::Expect(std::slice::from_ref(&away), PERIOD)).is_empty());
        assert!(table.row(&away).is_some());
        // Another led meanwhile, and heard of it; what it wrote down has not come here yet.
        assert!(table.step(at(6_000), Input::Lead(&State::empty())).is_empty());
        assert!(table.row(&away).is_none());
        let period = table.heartbeat(at(7_000), &present, "a", PERIOD, u32::MAX / 2).unwrap();
        let deadline = at(7_000).saturating_add(period * GRACE);
        assert_eq!(table.next_deadline(), Some(deadline), "who is in session here is looked after as before");
        let effects = table.step(at(23_000), Input::Time);
        let Some(Effect::Propose(commands)) = effects.last() else { panic!("{effects:?}") };
        assert!(matches!(&commands[..], [Command::Presence { node, down: true, .. }] if *node == present));
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn who_was_last_seen_before_the_lead_began_may_have_been_with_whoever_led_before() {
        let (mut table, node) = table(false);
        let until = at(6_000).saturating_add(State::empty().settings.heartbeat_period() * UNKNOWN_GRACE);
        assert!(table.step(at(6_000), Input::Lead(&State::empty())).is_empty());
        assert_eq!(
            words(&table.step(at(15_000), Input::Time)),
            ["end"],
            "its session here is over, and nothing is written down"
        );
        assert_eq!(table.next_deadline(), Some(until));
        // It comes, and is looked after as everybody.
        let mut back = table.clone();
        back.register(at(20_000), &node, "", "b".to_owned(), PERIOD, false).unwrap();
        assert_eq!(words(&back.step(at(35_000), Input::Time)), ["end", "propose"]);
        // It does not.
        let effects = table.step(until, Input::Time);
        let Some(Effect::Propose(commands)) = effects.last() else { panic!("{effects:?}") };
        assert!(matches!(&commands[..], [Command::Presence { node: gone, down: true, seen }]
            if *gone == node && *seen == at(0)));
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn a_removed_node_is_forgotten_and_cut() {
        let (mut table, node) = table(false);
        let mut change = Change::default();
        change.removed.insert(node.clone());
        change.cut.insert(node.clone(), Refusal::MustDisconnect);
        assert_eq!(words(&table.step(at(1), Input::Changed(&change))), ["end", "cut"]);
        assert!(table.row(&node).is_none());
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn an_order_obeyed_wakes_the_session() {
        let (mut table, node) = table(false);
        assert!(table.step(at(1), Input::Renewed(&node)).is_empty());
        table.order_renewal(&node).unwrap();
        assert_eq!(words(&table.step(at(1), Input::Renewed(&node))), ["wake"]);
        let everybody = Change { everybody: true, ..Change::default() };
        assert_eq!(words(&table.step(at(1), Input::Changed(&everybody))), ["wake all"]);
    }

    #[test]
    fn an_order_obeyed_by_way_of_another_manager_is_not_given_again() {
        let (mut table, node) = table(false);
        table.order_renewal(&node).unwrap();
        let issued = Change { issued: [node.clone()].into(), changed: [node.clone()].into(), ..Change::default() };
        assert_eq!(words(&table.step(at(1), Input::Changed(&issued))), ["wake"]);
        table.register(at(2), &node, "", "b".to_owned(), PERIOD, false).unwrap();
        assert_eq!(table.ordered(&node), None);
    }
}
