//! The sessions of the whole group. No socket, no clock: time is an argument.
//!
//! - Every manager tells the leader of its sessions, all of them first and then what changes; the leader tells every manager of everybody
//!   else's, so that each can show the whole cluster. The leader tells itself in the same way.
//! - A node has one session: the newest registration counts, and the manager that had the one before is told to end it.
//! - A new leader is told of all sessions, also of those that nodes have left, in no order. Which of two is the newer it may not know: then neither
//!   is told to end, until the node is heard of in one of them.
//! - Only the leader calls a node down: when the manager that had its session says that it is over, or when that manager itself is silent
//!   and the node comes to no other within a grace. That goes too for a node not heard of since the leader began to lead: it may have been in session
//!   with the one before.

mod absent;
mod sharer;

pub use absent::{Absent, missing};
pub use sharer::{Sharer, down};

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::State;
use pki::identity::NodeId;
use pki::time::Time;
use wire::managers::{NodeSession, ShareRequest, ShareResponse};

/// A manager that did not share for so long is given up, and its sessions with it.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);

/// Whether there are managers beside the one of this number, by whose way the state may have changed without this one knowing yet. A
/// state that is still being filled may be of a time when there was one manager, which was another one then, or none yet.
pub fn has_others(state: &State, own: u64) -> bool {
    let rows = &state.members.rows;
    rows.is_empty() || rows.values().any(|row| row.raft_id != own)
}

/// All sessions at the leader; at another manager, those that it does not have itself.
#[derive(Default)]
pub struct Roster {
    /// Of which term of which leader this is; another one begins anew.
    term: u64,
    /// When this manager began to lead.
    began: Time,
    rows: BTreeMap<NodeId, Kept>,
    /// When each node that has no session any more left the table.
    ended: BTreeMap<NodeId, u64>,
    /// The number of the last change.
    version: u64,
    /// Changes up to this number may have been forgotten.
    forgotten: u64,
    feeds: BTreeMap<u64, Feed>,
    unreachable: BTreeSet<u64>,
}

/// One session elsewhere.
struct Kept {
    session: NodeSession,
    changed: u64,
    /// When its manager last heard of the node, by the leader's clock.
    heard: Time,
}

/// What the leader knows of one manager.
#[derive(Default)]
struct Feed {
    run: u64,
    heard: Time,
    /// Sessions that it had and that are over, since their nodes have newer ones elsewhere: until it says so too, or has another one.
    moved: BTreeMap<NodeId, String>,
    /// Sessions that it has and that may be older than those that are counted, or newer, and when their nodes were heard of in them.
    doubted: BTreeMap<NodeId, (NodeSession, Time)>,
    /// Nodes of its that are to renew.
    renew: BTreeSet<NodeId>,
}

/// What follows when a manager has told of its sessions.
#[derive(Debug, Default)]
pub struct Told {
    /// The answer.
    pub response: ShareResponse,
    /// Nodes that have no session with anybody any more, each with the moment it was last heard of.
    pub gone: Vec<(NodeId, i64)>,
    /// Nodes whose manager has begun anew and knows nothing of them, or that were not heard of since this manager began to lead: they may come to
    /// another one within a grace.
    pub lost: Vec<NodeId>,
}

/// A node was surely heard of later by one manager than by another only if it was so much later: what they tell of takes its time. Source: what
/// takes longer is given up (manager::share, time for the leader's answer).
pub const WAY_MAX: Duration = Duration::from_secs(2);

/// Ends remembered for those who ask late; beyond that they get everything.
const ENDED_MAX: usize = 4096;

impl Roster {
    /// This manager begins to lead: it is told everything anew. What was known until now is what the leader before said.
    pub fn lead(&mut self, now: Time, term: u64) {
        *self = Self { term, began: now, unreachable: std::mem::take(&mut self.unreachable), ..Self::default() };
    }

    /// The leader is told by the manager `from` of its sessions.
    pub fn share(&mut self, now: Time, from: u64, request: ShareRequest) -> Told {
        let mut told = Told::default();
        let before = self.feeds.get(&from).map(|feed| feed.run);
        let anew = before.is_some_and(|run| run != request.run);
        let tell_all = before != Some(request.run) && !request.full;
        if !tell_all {
            let mut feed = self.feeds.remove(&from).filter(|_| !anew).unwrap_or_default();
            (feed.run, feed.heard) = (request.run, now);
            let mut named = BTreeSet::new();
            let over = request.ended.iter().filter_map(|node| node.parse().ok()).collect::<BTreeSet<NodeId>>();
            feed.moved.retain(|node, _| !over.contains(node));
            feed.doubted.retain(|node, _| !request.full && !over.contains(node));
            for mut session in request.sessions {
                let heard = heard(now, request.now, &session);
                let Ok(node) = session.node.parse::<NodeId>() else { continue };
                // It has not heard yet that this one is over: that the node was heard of in it makes it no newer.
                if feed.moved.get(&node) == Some(&session.session) {
                    continue;
                }
                feed.doubted.remove(&node);
                session.manager = from;
                // Nor was it told of before, by a leader that is gone, or late: whoever heard of the node last has it.
                if let Some(kept) = self.rows.get(&node).filter(|kept| kept.session.manager != from) {
                    if is_later(kept.heard, heard) {
                        feed.moved.insert(node, session.session);
                        continue;
                    }
                    if heard < kept.heard {
                        feed.doubted.insert(node, (session, heard));
                        continue;
                    }
                    // Among all that a manager has may be what a node has left; what is news, a node has just said.
                    let doubted = request.full && !is_later(heard, kept.heard);
                    if let Some(other) = self.feeds.get_mut(&kept.session.manager) {
                        if doubted {
                            other.doubted.insert(node.clone(), (kept.session.clone(), kept.heard));
                        } else {
                            other.moved.insert(node.clone(), kept.session.session.clone());
                        }
                    }
                }
                feed.moved.remove(&node);
                named.insert(node.clone());
                self.decide(&node, heard);
                self.put(node, session, heard);
            }
            self.feeds.insert(from, feed);
            let over = self.of(from).filter(|node| over.contains(*node) || (request.full && !named.contains(*node)));
            for node in over.cloned().collect::<Vec<_>>() {
                if self.take_doubted(&node) {
                    continue;
                }
                let Some(kept) = self.remove(&node) else { continue };
                if anew || kept.heard < self.began {
                    told.lost.push(node);
                } else {
                    told.gone.push((node, kept.session.heard));
                }
            }
        }
        told.response = self.tell(from, request.term, request.known);
        let renew = self.feeds.get_mut(&from).map(|feed| std::mem::take(&mut feed.renew)).unwrap_or_default();
        told.response.renew = renew.iter().map(ToString::to_string).collect();
        told.response.tell_all = tell_all;
        told
    }

    /// Managers that have not shared for long: their sessions are nobody's. The nodes may come to another manager within a grace.
    pub fn silent(&mut self, now: Time) -> Vec<NodeId> {
        let silent: Vec<u64> =
            self.feeds.iter().filter(|(_, feed)| now.since(feed.heard) > SILENT_AFTER).map(|(id, _)| *id).collect();
        let mut nodes = Vec::new();
        for manager in silent {
            self.feeds.remove(&manager);
            nodes.extend(self.of(manager).cloned().collect::<Vec<_>>());
        }
        nodes.retain(|node| !self.take_doubted(node));
        for node in &nodes {
            self.remove(node);
        }
        nodes
    }

    /// The node is heard of in the session that counts: others that it may have had are surely left by now.
    fn decide(&mut self, node: &NodeId, heard: Time) {
        for feed in self.feeds.values_mut() {
            if feed.doubted.get(node).is_some_and(|(_, before)| is_later(heard, *before))
                && let Some((left, _)) = feed.doubted.remove(node)
            {
                feed.moved.insert(node.clone(), left.session);
            }
        }
    }

    /// The session that was counted is over: another one that the node may have had counts now. Whether there is one.
    fn take_doubted(&mut self, node: &NodeId) -> bool {
        let doubted = self.feeds.values().filter_map(|feed| feed.doubted.get(node));
        let Some((session, heard)) = doubted.max_by_key(|(_, heard)| *heard).cloned() else { return false };
        if let Some(feed) = self.feeds.get_mut(&session.manager) {
            feed.doubted.remove(node);
        }
        self.put(node.clone(), session, heard);
        true
    }

    /// A node is to renew: its manager is told when it shares next. Whether the leader knows of a manager that has it.
    pub fn order_renewal(&mut self, node: &NodeId) -> bool {
        let manager = self.rows.get(node).map(|kept| kept.session.manager);
        let Some(feed) = manager.and_then(|manager| self.feeds.get_mut(&manager)) else { return false };
        feed.renew.insert(node.clone());
        true
    }

    /// What the leader said of the others' sessions.
    pub fn learn(&mut self, response: &ShareResponse) {
        if response.full || response.term != self.term {
            self.rows.clear();
        }
        (self.term, self.version) = (response.term, response.known);
        for session in &response.sessions {
            if let Ok(node) = session.node.parse() {
                self.rows.insert(node, Kept { session: session.clone(), changed: 0, heard: Time::default() });
            }
        }
        for node in &response.ended {
            if let Ok(node) = node.parse::<NodeId>() {
                self.rows.remove(&node);
            }
        }
        self.unreachable = response.unreachable.iter().copied().collect();
    }

    /// Up to which change of which term's leader this is: what a manager asks with.
    pub fn known(&self) -> (u64, u64) {
        (self.term, self.version)
    }

    /// A node's session, with whichever manager.
    pub fn get(&self, node: &NodeId) -> Option<&NodeSession> {
        self.rows.get(node).map(|kept| &kept.session)
    }

    /// All that there are.
    pub fn rows(&self) -> impl Iterator<Item = (&NodeId, &NodeSession)> {
        self.rows.iter().map(|(node, kept)| (node, &kept.session))
    }

    /// Whether the leader has not heard the manager for a while, as it said.
    pub fn is_unreachable(&self, raft_id: u64) -> bool {
        self.unreachable.contains(&raft_id)
    }

    fn of(&self, manager: u64) -> impl Iterator<Item = &NodeId> {
        self.rows.iter().filter(move |(_, kept)| kept.session.manager == manager).map(|(node, _)| node)
    }

    fn put(&mut self, node: NodeId, session: NodeSession, heard: Time) {
        if let Some(kept) = self.rows.get_mut(&node).filter(|kept| same(&kept.session, &session)) {
            kept.heard = heard;
            return;
        }
        self.version += 1;
        self.ended.remove(&node);
        self.rows.insert(node, Kept { session, changed: self.version, heard });
    }

    fn remove(&mut self, node: &NodeId) -> Option<Kept> {
        let removed = self.rows.remove(node);
        if removed.is_some() {
            self.version += 1;
            self.ended.insert(node.clone(), self.version);
        }
        if self.ended.len() > ENDED_MAX {
            self.ended.clear();
            self.forgotten = self.version;
        }
        removed
    }

    fn tell(&self, to: u64, term: u64, known: u64) -> ShareResponse {
        let moved = self.feeds.get(&to).into_iter().flat_map(|feed| feed.moved.keys()).map(ToString::to_string);
        let moved = moved.collect();
        let full = term != self.term || known < self.forgotten || known == 0;
        let since = if full { 0 } else { known };
        let rows = self.rows.values().filter(|kept| kept.changed > since);
        let ended = self.ended.iter().filter(|(_, at)| !full && **at > since).map(|(node, _)| node.to_string());
        // A session that has come to the asker is none elsewhere any more.
        let (own, others): (Vec<_>, Vec<_>) = rows.partition(|kept| kept.session.manager == to);
        let own = own.into_iter().filter(|_| !full).map(|kept| kept.session.node.clone());
        ShareResponse {
            term: self.term,
            known: self.version,
            full,
            ended: ended.chain(own).collect(),
            sessions: others.into_iter().map(|kept| kept.session.clone()).collect(),
            moved,
            ..ShareResponse::default()
        }
    }
}

/// When a session's manager last heard of the node, by the leader's clock. News of the way are younger than they are, by the time that the way took.
fn heard(now: Time, sent: i64, session: &NodeSession) -> Time {
    let known = sent != 0 && session.heard != 0;
    let ago = if known { sent.saturating_sub(session.heard).max(0).unsigned_abs() } else { 0 };
    now.saturating_sub(Duration::from_millis(ago))
}

/// Whether a node was surely heard of later than at that other time.
fn is_later(heard: Time, other: Time) -> bool {
    heard > other.saturating_add(WAY_MAX)
}

/// Whether they say the same but for when the node was last heard of.
fn same(one: &NodeSession, other: &NodeSession) -> bool {
    *one == NodeSession { heard: one.heard, ..other.clone() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(millis: i64) -> Time {
        Time::from_unix_millis(1_700_000_000_000 + millis)
    }

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn session(name: &str, id: &str) -> NodeSession {
        NodeSession { node: name.to_owned(), session: id.to_owned(), ..NodeSession::default() }
    }

    fn told(full: bool, sessions: &[NodeSession], ended: &[&str]) -> ShareRequest {
        let ended = ended.iter().map(|node| (*node).to_owned()).collect();
        ShareRequest { run: 1, full, sessions: sessions.to_vec(), ended, ..ShareRequest::default() }
    }

    fn leader() -> Roster {
        let mut roster = Roster::default();
        roster.lead(at(0), 7);
        roster
    }

    #[test]
    fn a_state_that_is_being_filled_is_not_taken_for_that_of_a_cluster_of_one() {
        let mut state = State::empty();
        assert!(has_others(&state, 1), "nothing of it has come yet");
        let row = |raft_id| cluster::members::Member { raft_id, addr: String::new() };
        state.members.rows.insert(node("first"), row(1));
        assert!(!has_others(&state, 1));
        assert!(has_others(&state, 2), "the first manager was alone then, and this one is not it");
        state.members.rows.insert(node("second"), row(2));
        assert!(has_others(&state, 1) && has_others(&state, 2));
    }

    #[test]
    fn a_manager_whose_run_is_not_known_tells_all_first() {
        let mut roster = leader();
        let Told { response, .. } = roster.share(at(0), 2, told(false, &[session("a", "1")], &[]));
        assert!(response.tell_all && roster.get(&node("a")).is_none());
        let Told { response, .. } = roster.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        assert!(!response.tell_all && roster.get(&node("a")).is_some());
        let Told { gone, lost, .. } = roster.share(at(1), 2, told(true, &[], &[]));
        assert_eq!((gone, lost), (vec![(node("a"), 0)], vec![]), "all of its sessions: what is not named is over");
    }

    #[test]
    fn who_begins_anew_has_lost_its_sessions_and_their_nodes_are_not_gone() {
        let mut roster = leader();
        roster.share(at(0), 2, told(true, &[session("a", "1"), session("b", "1")], &[]));
        let begun = ShareRequest { run: 2, ..told(true, &[session("b", "2")], &[]) };
        let Told { gone, lost, response } = roster.share(at(1), 2, begun);
        assert_eq!((gone, lost, response.tell_all), (vec![], vec![node("a")], false));
    }

    #[test]
    fn a_node_that_was_not_heard_of_since_the_lead_began_is_waited_for() {
        for (heard, waited) in [(5_000, true), (9_900, true), (10_000, false), (12_000, false)] {
            let mut roster = Roster::default();
            roster.lead(at(10_000), 7);
            let had = NodeSession { heard: at(heard).unix_millis(), ..session("a", "1") };
            let now = at(12_000).unix_millis();
            roster.share(at(12_000), 2, ShareRequest { now, ..told(true, &[had], &[]) });
            let Told { gone, lost, .. } = roster.share(at(20_000), 2, told(false, &[], &["a"]));
            assert_eq!((gone.is_empty(), lost.is_empty()), (waited, !waited), "{heard}");
        }
    }

    #[test]
    fn a_session_that_is_told_of_late_is_not_the_newest() {
        let clock = |millis: i64| at(millis).unix_millis();
        let with = |name: &str, id: &str, heard: i64| NodeSession { heard: clock(heard), ..session(name, id) };
        // The other manager's clock is an hour ahead.
        let ahead = 3_600_000;
        let late = |sent: i64, heard: i64, id: &str| ShareRequest {
            now: clock(sent + ahead),
            ..told(true, &[with("a", id, heard + ahead)], &[])
        };
        // Within the time that the way may take it is not known which one is the newer: nobody is told to end his.
        for (heard, counts, ends) in [
            (1_000, false, true),
            (3_499, false, true),
            (3_500, false, false),
            (5_000, false, false),
            (5_500, true, false),
            (9_500, true, false),
        ] {
            let mut roster = Roster::default();
            roster.lead(at(0), 1);
            let own = ShareRequest { now: clock(6_000), ..told(true, &[with("a", "here", 5_500)], &[]) };
            roster.share(at(6_000), 1, own);
            let Told { response, gone, .. } = roster.share(at(10_000), 2, late(10_000, heard, "there"));
            assert_eq!(roster.get(&node("a")).unwrap().manager, if counts { 2 } else { 1 }, "{heard}");
            assert_eq!(!response.moved.is_empty(), ends, "{heard}");
            assert!(gone.is_empty());
            let own = ShareRequest { now: clock(10_500), ..told(false, &[], &[]) };
            assert_eq!(roster.share(at(10_500), 1, own).response.moved.is_empty(), heard < 9_500, "{heard}");
            // It says that it is over there: the node is where it was.
            let over = ShareRequest { now: clock(11_000 + ahead), ..told(false, &[], &["a"]) };
            let Told { gone, .. } = roster.share(at(11_000), 2, over);
            assert_eq!(gone.is_empty(), heard < 9_500, "{heard}");
            assert_eq!(roster.get(&node("a")).map(|session| session.manager), gone.is_empty().then_some(1), "{heard}");
        }
    }

    #[test]
    fn a_session_that_was_left_ends_none_that_is_told_of_more_quickly() {
        let with = |id: &str, heard: i64| NodeSession { heard: at(heard).unix_millis(), ..session("a", id) };
        let told = |sent: i64, full, sessions: &[NodeSession], ended: &[&str]| ShareRequest {
            now: at(sent).unix_millis(),
            ..told(full, sessions, ended)
        };
        // It was heard by 2, then by 3; that 2 has it took 900 ms longer on its way.
        let begun = || {
            let mut roster = leader();
            roster.share(at(4_100), 3, told(4_000, true, &[with("new", 1_500)], &[]));
            roster.share(at(5_000), 2, told(4_000, true, &[with("left", 1_000)], &[]));
            assert_eq!(roster.get(&node("a")).unwrap().manager, 2, "by what is known");
            assert_eq!(roster.share(at(5_100), 3, told(5_000, false, &[], &[])).response.moved, [""; 0]);
            roster
        };
        // It is heard in the newer one.
        let mut roster = begun();
        let heard = roster.share(at(6_100), 3, told(6_000, false, &[with("new", 5_900)], &[]));
        assert_eq!((heard.response.moved.as_slice(), roster.get(&node("a")).unwrap().manager), (&[][..], 3));
        assert_eq!(roster.share(at(6_200), 2, told(6_100, false, &[], &[])).response.moved, ["a"]);
        assert!(roster.share(at(6_300), 2, told(6_200, false, &[], &["a"])).gone.is_empty());
        // It is not, and the older one runs out: the newer one counts.
        let mut roster = begun();
        let Told { gone, lost, .. } = roster.share(at(16_000), 2, told(15_900, false, &[], &["a"]));
        assert_eq!((gone, lost), (vec![], vec![]));
        assert_eq!(roster.get(&node("a")).unwrap().session, "new");
        let Told { gone, .. } = roster.share(at(16_500), 3, told(16_400, false, &[], &["a"]));
        assert_eq!(gone, [(node("a"), at(1_500).unix_millis())]);
        // The manager of the older one is silent, or begins anew: the same.
        let mut roster = begun();
        roster.share(at(10_000), 3, told(9_900, false, &[], &[]));
        assert_eq!(roster.silent(at(10_001)), []);
        assert_eq!(roster.get(&node("a")).unwrap().manager, 3);
        let mut roster = begun();
        let anew = ShareRequest { run: 2, ..told(6_000, true, &[], &[]) };
        let Told { gone, lost, .. } = roster.share(at(6_100), 2, anew);
        assert_eq!((gone, lost, roster.get(&node("a")).unwrap().manager), (vec![], vec![], 3));
        // It was left for good: the one that counts is heard on.
        let mut roster = begun();
        roster.share(at(9_000), 2, told(8_900, false, &[with("left", 8_800)], &[]));
        assert_eq!(roster.share(at(9_100), 3, told(9_000, false, &[], &[])).response.moved, ["a"]);
    }

    #[test]
    fn the_newest_registration_counts_and_the_one_before_is_told() {
        let mut roster = leader();
        roster.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        roster.share(at(0), 3, told(true, &[], &[]));
        roster.share(at(0), 3, told(false, &[session("a", "2")], &[]));
        assert_eq!(roster.share(at(1), 2, told(false, &[], &[])).response.moved, ["a"]);
        let Told { gone, response, .. } = roster.share(at(1), 2, told(false, &[], &["a"]));
        assert_eq!(response.moved, [""; 0], "it knows");
        assert_eq!(gone, [], "it has moved: it is not gone");
        assert_eq!(roster.get(&node("a")).unwrap().manager, 3);
    }

    #[test]
    fn a_session_that_is_over_is_no_newer_for_its_last_heartbeat_and_a_new_one_there_is() {
        let mut roster = leader();
        roster.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        roster.share(at(0), 3, told(true, &[], &[]));
        roster.share(at(0), 3, told(false, &[session("a", "2")], &[]));
        let beat = NodeSession { heard: 9, ..session("a", "1") };
        let response = roster.share(at(1), 2, told(false, &[beat], &[])).response;
        assert_eq!((response.moved.as_slice(), roster.get(&node("a")).unwrap().manager), (&["a".to_owned()][..], 3));
        let response = roster.share(at(1), 3, told(false, &[], &[])).response;
        assert_eq!(response.moved, [""; 0], "the newest stays");
        // The node comes back before the first manager has heard: that is another session, and the newest.
        let response = roster.share(at(2), 2, told(false, &[session("a", "3")], &[])).response;
        assert_eq!((response.moved.as_slice(), roster.get(&node("a")).unwrap().manager), (&[][..], 2));
        assert_eq!(roster.share(at(2), 3, told(false, &[], &[])).response.moved, ["a"]);
    }

    #[test]
    fn others_learn_what_has_changed_since_they_asked_last() {
        let (mut leader, mut follower) = (leader(), Roster::default());
        let ask = |follower: &mut Roster, leader: &mut Roster| {
            let (term, known) = follower.known();
            let request = ShareRequest { term, known, ..told(true, &[], &[]) };
            let response = leader.share(at(5), 3, request).response;
            follower.learn(&response);
            response
        };
        leader.share(at(0), 2, told(true, &[session("a", "1"), session("b", "1")], &[]));
        assert_eq!(ask(&mut follower, &mut leader).sessions.len(), 2);
        let beat = NodeSession { heard: 9, ..session("a", "1") };
        leader.share(at(1), 2, told(false, &[beat], &[]));
        assert_eq!(ask(&mut follower, &mut leader).sessions.len(), 0, "a heartbeat is no news");
        leader.share(at(2), 2, told(false, &[], &["b"]));
        assert_eq!(ask(&mut follower, &mut leader).ended, ["b"]);
        assert_eq!(follower.rows().map(|(node, _)| node.clone()).collect::<Vec<_>>(), [node("a")]);
        // Another leader, another term: everything anew.
        leader.lead(at(6), 8);
        assert!(ask(&mut follower, &mut leader).full);
        assert_eq!(follower.rows().count(), 0);
    }

    #[test]
    fn a_session_that_came_to_the_asker_is_none_elsewhere() {
        let (mut leader, mut follower) = (leader(), Roster::default());
        leader.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        let response = leader.share(at(0), 3, told(true, &[], &[])).response;
        follower.learn(&response);
        assert!(follower.get(&node("a")).is_some());
        let (term, known) = follower.known();
        let request = ShareRequest { term, known, ..told(false, &[session("a", "2")], &[]) };
        let response = leader.share(at(1), 3, request).response;
        follower.learn(&response);
        assert!(follower.get(&node("a")).is_none());
    }

    #[test]
    fn a_node_is_told_to_renew_by_the_manager_that_has_it() {
        let mut roster = leader();
        roster.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        assert!(roster.order_renewal(&node("a")) && !roster.order_renewal(&node("b")));
        assert_eq!(roster.share(at(1), 2, told(false, &[], &[])).response.renew, ["a"]);
        assert_eq!(roster.share(at(2), 2, told(false, &[], &[])).response.renew, [""; 0], "once");
    }

    #[test]
    fn a_silent_manager_loses_its_sessions() {
        let mut roster = leader();
        roster.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        roster.share(at(4_000), 3, told(true, &[session("b", "1")], &[]));
        assert_eq!(roster.silent(at(5_000)), []);
        assert_eq!(roster.silent(at(5_001)), [node("a")]);
        assert_eq!(roster.silent(at(5_002)), []);
        let Told { response, .. } = roster.share(at(6_000), 2, told(false, &[], &[]));
        assert!(response.tell_all, "it is asked for all again");
    }
}
