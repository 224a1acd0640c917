//! The session table: who is there. No socket, no clock, no chance of its own: time, ids and jitter are arguments.
//!
//! - a node has one session at most; a new registration ends the old one;
//! - heartbeats keep it; three missed ones end it (six for a node not seen since this manager began to lead);
//! - registrations are counted: more than three within eight seconds are refused (wire.md 6.2, 6.5).
//!
//! A caller gets its answer from [`Sessions::open`] and [`Sessions::heartbeat`]; what else happens goes through
//! [`Sessions::step`], and what follows from it for others comes back as [`Effect`]s.

mod open;
mod step;

pub use open::{Opened, Opening};
pub use step::{Effect, Input};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::node::IssuerHash;
use pki::identity::NodeId;
use pki::time::Time;
use wire::managers::NodeSession;
use wire::status::Refusal;

/// Registrations accepted of a node that is known to the table, within [`REGISTRATION_WINDOW`]. Source: wire.md 6.2.
pub const REGISTRATIONS_MAX: u32 = 3;
/// After so long without an accepted registration the count begins anew. Source: wire.md 6.2.
pub const REGISTRATION_WINDOW: Duration = Duration::from_secs(8);
/// Heartbeat periods that may pass without one. Source: wire.md 6.5.
pub const GRACE: u32 = 3;
/// The same for a node not seen since this manager began to lead. Source: wire.md 6.5.
pub const UNKNOWN_GRACE: u32 = 6;
/// Changed reports taken of a node within [`REGISTRATION_WINDOW`]: each is an entry in the log.
pub const REPORTS_MAX: u32 = 8;
/// Times that a node may resume its session within [`REGISTRATION_WINDOW`]: a rotation makes it do so twice.
pub const RESUMES_MAX: u32 = 64;
/// Time that a node which came back has to install its new certificate before its session is ended.
pub const INSTALL_TIME: Duration = Duration::from_millis(500);
/// Doublings of that time for one that was not ready yet: about a minute.
const RELEASE_STEPS_MAX: u32 = 7;
/// Who has come back with an old leaf for so long does not install what it gets.
pub const RETURNS_MAX: Duration = Duration::from_secs(5 * 60);
/// How far a period told to a node is from the set one, at most, in thousandths. Source: wire.md 6.5, 5 s ± 0.5 s.
pub const JITTER_PER_MILLE: u64 = 100;

/// A clock that goes back by less was adjusted, not set.
const SET_BACK_MIN: Duration = Duration::from_secs(1);

const _: () = assert!(GRACE < UNKNOWN_GRACE);

/// The table.
#[derive(Clone, Default)]
pub struct Sessions {
    rows: BTreeMap<NodeId, Row>,
    deadlines: BTreeSet<(Time, NodeId)>,
    releases: BTreeSet<(Time, NodeId)>,
    /// What the clock said last.
    said: Option<Time>,
    /// Where the numbers of orders begin.
    orders: u32,
    /// When this manager last began to lead, and until when nodes not seen since may register before they are called down.
    led: Option<(Time, Time)>,
}

/// What is known of a node's presence.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its session; none while it has not registered since this manager began to lead.
    pub session: Option<String>,
    /// Whether it may only come back (quarantine): then it is not shown ready.
    pub returning: bool,
    /// Who issued the leaf that its session's connection was made with, if that is known.
    pub issuer: Option<IssuerHash>,
    /// When its session ends so that it comes back as a full member.
    release: Option<Time>,
    /// How often that was so, since it came back with an old leaf.
    releases: u32,
    /// Since when it comes back with an old leaf.
    returns: Option<Time>,
    /// When it is given up.
    deadline: Time,
    /// The period it was told last.
    period: Duration,
    /// The last accepted registration, and how many were counted since.
    accepted: Time,
    attempts: u32,
    /// The renewal it was told to make and has not made yet; orders are numbered.
    order: Option<u32>,
    orders: u32,
    /// Changed reports counted since a moment.
    reports: (Time, u32),
    /// Resumptions counted since a moment.
    resumes: (Time, u32),
    /// When it was last heard of.
    pub last_contact: Option<Time>,
    /// Its clock, if it tells.
    pub clock: Option<NodeClock>,
}

impl Row {
    /// Of a node that has no session.
    fn absent(now: Time, period: Duration, deadline: Time) -> Self {
        Self {
            session: None,
            returning: false,
            issuer: None,
            release: None,
            releases: 0,
            returns: None,
            deadline,
            period,
            accepted: Time::from_unix_millis(i64::MIN),
            attempts: 0,
            order: None,
            orders: 0,
            reports: (now, 0),
            resumes: (now, 0),
            last_contact: None,
            clock: None,
        }
    }

    /// Of a node whose session is with another manager.
    pub fn elsewhere(now: Time, session: &NodeSession) -> Self {
        let NodeSession { clock_offset, clock_floor, heard, .. } = session;
        Self {
            session: Some(session.session.clone()),
            returning: session.returning,
            returns: session.returning.then_some(now),
            issuer: session.issuer.as_slice().try_into().ok().map(IssuerHash),
            last_contact: Some(*heard).filter(|heard| *heard != 0).map(Time::from_unix_millis),
            clock: clock_offset.map(|offset_ms| NodeClock { offset_ms, floor: Time::from_unix_millis(*clock_floor) }),
            ..Self::absent(now, Duration::ZERO, now)
        }
    }

    /// What other managers are told of it; nothing without a session.
    pub(crate) fn shared(&self, node: &NodeId) -> Option<NodeSession> {
        Some(NodeSession {
            node: node.to_string(),
            session: self.session.clone()?,
            returning: self.returning,
            issuer: self.issuer.map(|issuer| issuer.0.to_vec()).unwrap_or_default(),
            heard: self.last_contact.map_or(0, Time::unix_millis),
            clock_offset: self.clock.map(|clock| clock.offset_ms),
            clock_floor: self.clock.map_or(0, |clock| clock.floor.unix_millis()),
            ..NodeSession::default()
        })
    }

    /// Since when it comes back with an old leaf.
    pub fn returns(&self) -> Option<Time> {
        self.returns
    }
}

/// What a node says of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeClock {
    /// Its clock minus ours in milliseconds.
    pub offset_ms: i64,
    /// The time before which it judges no certificate, whatever its clock says: it saw proof that so much has passed.
    pub floor: Time,
}

impl NodeClock {
    /// The time by which it judges certificates when our clock says `now`.
    pub fn judges_at(self, now: Time) -> Time {
        Time::from_unix_millis(now.unix_millis().saturating_add(self.offset_ms)).max(self.floor)
    }
}

/// A session was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The session's id.
    pub session: String,
    /// Whether it is the one that the node had before.
    pub resumed: bool,
}

impl Sessions {
    /// An empty table. Engines obey an order only if it is worded otherwise than the one before, also when that came from another manager, or from
    /// this one before it was started again: so each begins to number them somewhere else.
    pub fn numbered_from(orders: u32) -> Self {
        Self { orders, ..Self::default() }
    }

    /// Looks at the clock. If it was set back, what is remembered goes with it: a node would have to wait for its next
    /// registration, and one that is gone would be called present, until the clock is where it was.
    fn pass(&mut self, now: Time) {
        let back = self.said.replace(now).map_or(Duration::ZERO, |said| said.since(now));
        if back < SET_BACK_MIN {
            return;
        }
        let earlier = |at: Time| at.saturating_sub(back);
        for row in self.rows.values_mut() {
            row.deadline = earlier(row.deadline);
            row.accepted = earlier(row.accepted);
            row.reports.0 = earlier(row.reports.0);
            row.resumes.0 = earlier(row.resumes.0);
            row.release = row.release.map(earlier);
            row.returns = row.returns.map(earlier);
            row.last_contact = row.last_contact.map(|at| at.min(now));
        }
        self.led = self.led.map(|(began, until)| (earlier(began), earlier(until)));
        for due in [&mut self.deadlines, &mut self.releases] {
            *due = std::mem::take(due).into_iter().map(|(at, node)| (earlier(at), node)).collect();
        }
    }

    /// These nodes may register within a grace before they are called down; those that have a session here are left alone.
    fn expect(&mut self, now: Time, period: Duration, grace: u32, nodes: impl IntoIterator<Item = NodeId>) {
        let deadline = now.saturating_add(period * grace);
        for node in nodes {
            match self.rows.get(&node) {
                None => self.put(node, Row::absent(now, period, deadline)),
                Some(row) if row.session.is_none() && row.deadline < deadline => {
                    let row = Row { deadline, ..row.clone() };
                    self.put(node, row);
                }
                Some(_) => {}
            }
        }
    }

    /// Nobody without a session is waited for any more.
    fn forget_expected(&mut self) {
        let expected = self.rows.iter().filter(|(_, row)| row.session.is_none());
        for node in expected.map(|(node, _)| node.clone()).collect::<Vec<_>>() {
            self.forget(&node);
        }
    }

    /// What other managers are told: every session that there is.
    pub fn shared(&self) -> BTreeMap<NodeId, NodeSession> {
        self.rows.iter().filter_map(|(node, row)| Some((node.clone(), row.shared(node)?))).collect()
    }

    /// Every node is sent to other managers: none has a session here any more, and what was known of them is old.
    pub fn send_away(&mut self) {
        self.rows.clear();
        self.deadlines.clear();
        self.releases.clear();
    }

    /// A node has a newer session with another manager. Whether this one was still here, and is not any more.
    pub fn moved(&mut self, node: &NodeId, session: &str) -> bool {
        let here = self.rows.get(node).is_some_and(|row| row.session.as_deref() == Some(session));
        if here {
            self.forget(node);
        }
        here
    }

    /// The table with other managers' sessions in it, for who looks at all of them.
    #[must_use]
    pub fn with<'a>(&self, now: Time, others: impl Iterator<Item = (&'a NodeId, &'a NodeSession)>) -> Self {
        let mut all = self.clone();
        for (node, session) in others {
            if all.rows.get(node).is_none_or(|row| row.session.is_none()) {
                all.put(node.clone(), Row::elsewhere(now, session));
            }
        }
        all
    }

    /// A node asks for a session; `previous` is the id it sent, `fresh` the id it gets if it gets a new one.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`].
    fn register(
        &mut self,
        now: Time,
        node: &NodeId,
        previous: &str,
        fresh: String,
        period: Duration,
        returning: bool,
    ) -> Result<Registered, Refusal> {
        self.pass(now);
        let known = self.rows.get(node);
        if let Some(row) = known.filter(|row| row.session.as_deref() == Some(previous) && !previous.is_empty()) {
            let mut row = row.clone();
            let (since, count) = row.resumes;
            row.resumes = if now.since(since) > REGISTRATION_WINDOW { (now, 1) } else { (since, count + 1) };
            if row.resumes.1 > RESUMES_MAX {
                return Err(Refusal::RateLimited { node: node.clone() });
            }
            row.returning = returning;
            row.release = row.release.filter(|_| returning);
            row.releases = if returning { row.releases } else { 0 };
            row.returns = row.returns.or(Some(now)).filter(|_| returning);
            row.last_contact = Some(now);
            row.deadline = now.saturating_add(row.period * GRACE);
            self.put(node.clone(), row);
            self.release_again(now, node);
            return Ok(Registered { session: previous.to_owned(), resumed: true });
        }
        let attempts = match known {
            None => 0,
            Some(row) if now.since(row.accepted) > REGISTRATION_WINDOW => 1,
            Some(row) => row.attempts + 1,
        };
        if attempts > REGISTRATIONS_MAX {
            return Err(Refusal::RateLimited { node: node.clone() });
        }
        let clock = known.and_then(|row| row.clock);
        let reports = known.map_or((now, 0), |row| row.reports);
        let releases = known.filter(|_| returning).map_or(0, |row| row.releases);
        let returns = known.and_then(|row| row.returns).or(Some(now)).filter(|_| returning);
        let resumes = known.map_or((now, 0), |row| row.resumes);
        let (order, orders) = known.map_or((None, self.orders), |row| (row.order, row.orders.max(self.orders)));
        let row = Row {
            session: Some(fresh.clone()),
            returning,
            issuer: None,
            release: None,
            releases,
            returns,
            deadline: now.saturating_add(period * GRACE),
            period,
            accepted: now,
            attempts,
            order,
            orders,
            reports,
            resumes,
            last_contact: Some(now),
            clock,
        };
        self.put(node.clone(), row);
        self.release_again(now, node);
        Ok(Registered { session: fresh, resumed: false })
    }

    /// A heartbeat; the next is due after the period returned. `jitter` is any random number.
    ///
    /// # Errors
    /// [`Refusal::NotRegistered`] or [`Refusal::SessionInvalid`].
    pub fn heartbeat(
        &mut self,
        now: Time,
        node: &NodeId,
        session: &str,
        period: Duration,
        jitter: u32,
    ) -> Result<Duration, Refusal> {
        self.pass(now);
        self.check(node, session)?;
        let told = jittered(period, jitter);
        let Some(row) = self.rows.get_mut(node) else { return Err(Refusal::NotRegistered) };
        let before = row.deadline;
        row.period = told;
        row.last_contact = Some(now);
        row.deadline = now.saturating_add(told * GRACE);
        let after = row.deadline;
        self.deadlines.remove(&(before, node.clone()));
        self.deadlines.insert((after, node.clone()));
        Ok(told)
    }

    /// Orders a node to renew; each call is a new order. The order stands until the node has renewed, also in its next
    /// session with this manager.
    ///
    /// # Errors
    /// [`Refusal::NotRegistered`] if the node has no session.
    pub fn order_renewal(&mut self, node: &NodeId) -> Result<(), Refusal> {
        let row = self.rows.get_mut(node).filter(|row| row.session.is_some()).ok_or(Refusal::NotRegistered)?;
        row.orders = row.orders.wrapping_add(1);
        row.order = Some(row.orders);
        Ok(())
    }

    /// The renewal that a node was told to make and has not made yet.
    pub fn ordered(&self, node: &NodeId) -> Option<u32> {
        self.rows.get(node).and_then(|row| row.order)
    }

    /// A node has renewed; whether that was an order's doing.
    fn renewed(&mut self, node: &NodeId) -> bool {
        self.rows.get_mut(node).is_some_and(|row| row.order.take().is_some())
    }

    /// What a node does next it was told to, or made to: it is not counted against it. Two rotations within a few seconds make an
    /// engine register more often than it would by itself.
    pub(crate) fn excuse(&mut self, node: &NodeId) {
        if let Some(row) = self.rows.get_mut(node) {
            row.attempts = 0;
            row.resumes.1 = 0;
        }
    }

    /// Counts a changed report of a node.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`] if it has changed too often.
    fn count_report(&mut self, now: Time, node: &NodeId) -> Result<(), Refusal> {
        let Some(row) = self.rows.get_mut(node) else { return Err(Refusal::NotRegistered) };
        let (since, count) = row.reports;
        row.reports = if now.since(since) > REGISTRATION_WINDOW { (now, 1) } else { (since, count + 1) };
        if row.reports.1 > REPORTS_MAX { Err(Refusal::RateLimited { node: node.clone() }) } else { Ok(()) }
    }

    /// Whether `session` is the node's present one.
    ///
    /// # Errors
    /// [`Refusal::NotRegistered`] or [`Refusal::SessionInvalid`].
    pub fn check(&self, node: &NodeId, session: &str) -> Result<(), Refusal> {
        match self.rows.get(node) {
            None => Err(Refusal::NotRegistered),
            Some(row) if row.session.as_deref() == Some(session) => Ok(()),
            Some(_) => Err(Refusal::SessionInvalid),
        }
    }

    /// What a node says of its clock.
    pub fn note_clock(&mut self, node: &NodeId, clock: NodeClock) {
        if let Some(row) = self.rows.get_mut(node) {
            row.clock = Some(clock);
        }
    }

    /// Nodes whose time is over at `now`, each with the moment it was last heard of; they leave the table.
    fn expire(&mut self, now: Time) -> Vec<(NodeId, Row)> {
        let mut gone = Vec::new();
        while let Some((deadline, _)) = self.deadlines.first() {
            if *deadline > now {
                break;
            }
            let Some((_, node)) = self.deadlines.pop_first() else { break };
            if let Some(row) = self.rows.remove(&node) {
                gone.push((node, row));
            }
        }
        gone
    }

    /// Notes that a node which may only come back has what it came for.
    fn fetched(&mut self, now: Time, node: &NodeId) {
        let Some(row) = self.rows.get_mut(node).filter(|row| row.returning && row.release.is_none()) else { return };
        let due = now.saturating_add(INSTALL_TIME * (1 << row.releases.min(RELEASE_STEPS_MAX)));
        row.releases = row.releases.saturating_add(1);
        row.release = Some(due);
        self.releases.insert((due, node.clone()));
    }

    /// A node that fetched what it came for is back with its old leaf: it gets another moment, longer each time.
    fn release_again(&mut self, now: Time, node: &NodeId) {
        if self.rows.get(node).is_some_and(|row| row.releases > 0) {
            self.fetched(now, node);
        }
    }

    /// Nodes that had their moment to install a certificate and are still in their old session.
    fn released(&mut self, now: Time) -> Vec<NodeId> {
        let mut due = Vec::new();
        while let Some((at, _)) = self.releases.first() {
            if *at > now {
                break;
            }
            let Some((at, node)) = self.releases.pop_first() else { break };
            if let Some(row) = self.rows.get_mut(&node).filter(|row| row.release == Some(at)) {
                row.release = None;
                due.push(node);
            }
        }
        due
    }

    /// When [`Input::Time`] has something to do next.
    pub fn next_deadline(&self) -> Option<Time> {
        let first = |set: &BTreeSet<(Time, NodeId)>| set.first().map(|(at, _)| *at);
        [first(&self.deadlines), first(&self.releases)].into_iter().flatten().min()
    }

    /// Every node that the table knows.
    pub fn rows(&self) -> impl Iterator<Item = (&NodeId, &Row)> {
        self.rows.iter()
    }

    /// The node is no longer of this cluster.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        if let Some(row) = self.rows.remove(node) {
            self.deadlines.remove(&(row.deadline, node.clone()));
        }
    }

    /// What is known of a node's presence.
    pub fn row(&self, node: &NodeId) -> Option<&Row> {
        self.rows.get(node)
    }

    /// Whether a node comes back with an old leaf again and again, for longer than it needs to install another.
    pub fn keeps_returning(&self, now: Time, node: &NodeId) -> bool {
        let since = self.rows.get(node).filter(|row| row.returning).and_then(|row| row.returns);
        since.is_some_and(|since| now.since(since) >= RETURNS_MAX)
    }

    /// Whether a node is in session as a full member.
    pub fn is_ready(&self, node: &NodeId) -> bool {
        self.rows.get(node).is_some_and(|row| row.session.is_some() && !row.returning)
    }

    fn put(&mut self, node: NodeId, row: Row) {
        let deadline = row.deadline;
        if let Some(before) = self.rows.insert(node.clone(), row) {
            self.deadlines.remove(&(before.deadline, node.clone()));
        }
        self.deadlines.insert((deadline, node));
    }
}

/// A period near `period`: heartbeats of many nodes do not come at once.
fn jittered(period: Duration, jitter: u32) -> Duration {
    let nanos = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    let span = nanos / 1000 * JITTER_PER_MILLE;
    let offset = (u128::from(jitter) * u128::from(2 * span) / u128::from(u32::MAX)) as u64;
    Duration::from_nanos(nanos.saturating_sub(span).saturating_add(offset))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    fn at(millis: i64) -> Time {
        Time::from_unix_millis(1_700_000_000_000 + millis)
    }

    fn node() -> NodeId {
        "node".parse().unwrap()
    }

    fn register(table: &mut Sessions, millis: i64, id: &str) -> Result<Registered, Refusal> {
        table.register(at(millis), &node(), "", id.to_owned(), PERIOD, false)
    }

    #[test]
    fn orders_of_two_managers_differ() {
        let orders = |begin| {
            let mut table = Sessions::numbered_from(begin);
            table.expect(at(0), PERIOD, UNKNOWN_GRACE, [node()]);
            table.register(at(1), &node(), "", "a".to_owned(), PERIOD, false).unwrap();
            table.order_renewal(&node()).unwrap();
            table.ordered(&node()).unwrap()
        };
        assert_eq!((orders(0), orders(700)), (1, 701));
    }

    #[test]
    fn c361_each_registration_has_its_own_id() {
        let mut table = Sessions::default();
        assert_eq!(register(&mut table, 0, "a").unwrap().session, "a");
        assert_eq!(register(&mut table, 1, "b").unwrap().session, "b");
        assert_eq!(table.check(&node(), "a"), Err(Refusal::SessionInvalid));
        assert_eq!(table.check(&node(), "b"), Ok(()));
    }

    #[test]
    fn c362_registrations_are_limited() {
        let limited = Err(Refusal::RateLimited { node: node() });
        let mut table = Sessions::default();
        for n in 0..4 {
            assert!(register(&mut table, n, "s").is_ok(), "a new node: {n}");
        }
        assert_eq!(register(&mut table, 4, "s"), limited);
        assert!(register(&mut table, 8_004, "s").is_ok(), "after eight seconds");

        let mut table = Sessions::default();
        table.expect(at(0), PERIOD, UNKNOWN_GRACE, [node()]);
        for n in 0..3 {
            assert!(register(&mut table, n, "s").is_ok(), "a known node: {n}");
        }
        assert_eq!(register(&mut table, 4, "s"), limited);
    }

    #[test]
    fn registrations_that_it_was_made_to_do_are_not_held_against_a_node() {
        let mut table = Sessions::default();
        for n in 0..12 {
            if n % 3 == 0 {
                table.excuse(&node());
            }
            assert!(register(&mut table, n, "s").is_ok(), "{n}");
        }
        assert_eq!(register(&mut table, 12, "s"), Err(Refusal::RateLimited { node: node() }));
    }

    #[test]
    fn c365_c366_heartbeats() {
        let mut table = Sessions::default();
        let beat =
            |table: &mut Sessions, session: &str, jitter| table.heartbeat(at(1), &node(), session, PERIOD, jitter);
        assert_eq!(beat(&mut table, "a", 0), Err(Refusal::NotRegistered));
        register(&mut table, 0, "a").unwrap();
        assert_eq!(beat(&mut table, "", 0), Err(Refusal::SessionInvalid));
        assert_eq!(beat(&mut table, "b", 0), Err(Refusal::SessionInvalid));
        assert_eq!(beat(&mut table, "a", 0), Ok(Duration::from_millis(4500)));
        assert_eq!(beat(&mut table, "a", u32::MAX), Ok(Duration::from_millis(5500)));
        assert!(table.is_ready(&node()));
    }

    #[test]
    fn c367_without_heartbeats_a_node_is_given_up() {
        let mut table = Sessions::default();
        register(&mut table, 0, "a").unwrap();
        assert!(table.expire(at(14_999)).is_empty());
        let gone = table.expire(at(15_000));
        assert_eq!(gone.len(), 1);
        assert_eq!(table.heartbeat(at(15_001), &node(), "a", PERIOD, 0), Err(Refusal::NotRegistered));
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn c370_a_session_is_resumed_without_being_counted() {
        let mut table = Sessions::default();
        register(&mut table, 0, "a").unwrap();
        for n in 0..10 {
            let again = table.register(at(n), &node(), "a", "x".to_owned(), PERIOD, false).unwrap();
            assert_eq!(again, Registered { session: "a".to_owned(), resumed: true });
        }
    }

    #[test]
    fn c373_after_a_start_nodes_have_six_periods() {
        let mut table = Sessions::default();
        table.expect(at(0), PERIOD, UNKNOWN_GRACE, [node()]);
        assert!(!table.is_ready(&node()));
        assert!(table.expire(at(29_999)).is_empty());
        assert_eq!(table.expire(at(30_000)).len(), 1);
    }

    #[test]
    fn c355_an_order_stands_until_it_is_obeyed() {
        let mut table = Sessions::default();
        assert_eq!(table.order_renewal(&node()), Err(Refusal::NotRegistered));
        register(&mut table, 0, "a").unwrap();
        assert_eq!(table.ordered(&node()), None);
        table.order_renewal(&node()).unwrap();
        assert_eq!(table.ordered(&node()), Some(1));
        register(&mut table, 1, "b").unwrap();
        assert_eq!(table.ordered(&node()), Some(1), "also in its next session");
        table.order_renewal(&node()).unwrap();
        assert_eq!(table.ordered(&node()), Some(2), "a repeated order is another one");
        assert!(table.renewed(&node()));
        assert_eq!(table.ordered(&node()), None);
        assert!(!table.renewed(&node()));
    }

    #[test]
    fn reports_that_change_all_the_time_are_limited() {
        let mut table = Sessions::default();
        register(&mut table, 0, "a").unwrap();
        for n in 0..8 {
            assert!(table.count_report(at(n), &node()).is_ok(), "{n}");
        }
        assert_eq!(table.count_report(at(9), &node()), Err(Refusal::RateLimited { node: node() }));
        assert!(table.count_report(at(8_010), &node()).is_ok());
    }

    #[test]
    fn a_clock_that_is_set_back_refuses_nobody_and_keeps_nobody() {
        const BACK: i64 = -1_800_000;
        let mut table = Sessions::default();
        for n in 0..4 {
            register(&mut table, n, "s").unwrap();
        }
        assert!(register(&mut table, 4, "s").is_err());
        assert!(register(&mut table, BACK, "s").is_err(), "nothing is forgotten");
        assert!(register(&mut table, BACK + 8_004, "s").is_ok(), "eight seconds are eight seconds");
        assert!(table.step(at(BACK + 10_000), Input::Time).is_empty());
        assert_eq!(table.next_deadline(), Some(at(BACK + 8_004 + 15_000)));
        assert_eq!(table.expire(at(BACK + 8_004 + 15_000)).len(), 1);

        // Also one that is not heard of again after the clock was set.
        let mut table = Sessions::default();
        register(&mut table, 0, "a").unwrap();
        assert!(table.step(at(BACK), Input::Time).is_empty());
        assert_eq!(table.next_deadline(), Some(at(BACK + 15_000)));
    }

    #[test]
    fn who_comes_back_for_minutes_does_not_install_what_it_gets() {
        let mut table = Sessions::default();
        let back = |table: &mut Sessions, secs: i64, returning| {
            table.register(at(1_000 * secs), &node(), "", "s".to_owned(), PERIOD, returning).unwrap();
            table.keeps_returning(at(1_000 * secs), &node())
        };
        assert!((0..30).all(|n| !back(&mut table, 10 * n, true)));
        assert!(back(&mut table, 300, true));
        assert!(!back(&mut table, 310, false), "it is a full member");
        assert!(!back(&mut table, 320, true), "and counted anew");
    }

    #[test]
    fn a_forgotten_node_leaves_nothing() {
        let mut table = Sessions::default();
        register(&mut table, 0, "a").unwrap();
        table.forget(&node());
        assert_eq!(table.next_deadline(), None);
        assert_eq!(table.check(&node(), "a"), Err(Refusal::NotRegistered));
    }
}
