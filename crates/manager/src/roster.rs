//! The sessions of the whole group. No socket, no clock: time is an argument.
//!
//! - Every manager tells the leader of its sessions, all of them first and then what changes; the leader tells every manager of everybody
//!   else's, so that each can show the whole cluster. The leader tells itself in the same way.
//! - A node has one session: the newest registration counts, and the manager that had the one before is told to end it.
//! - Only the leader calls a node down: when the manager that had its session says that it is over, or when that manager itself is silent
//!   and the node comes to no other within a grace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pki::identity::NodeId;
use pki::time::Time;
use wire::managers::{NodeSession, ShareRequest, ShareResponse};

/// A manager that did not share for so long is given up, and its sessions with it.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);

/// All sessions at the leader; at another manager, those that it does not have itself.
#[derive(Default)]
pub struct Roster {
    /// Of which term of which leader this is; another one begins anew.
    term: u64,
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
}

/// What the leader knows of one manager.
struct Feed {
    run: u64,
    heard: Time,
    moved: Vec<String>,
}

/// Ends remembered for those who ask late; beyond that they get everything.
const ENDED_MAX: usize = 4096;

impl Roster {
    /// This manager begins to lead: it is told everything anew. What was known until now is what the leader before said.
    pub fn lead(&mut self, term: u64) {
        *self = Self { term, unreachable: std::mem::take(&mut self.unreachable), ..Self::default() };
    }

    /// The leader is told by the manager `from` of its sessions. What comes back is the answer, and the nodes that have no session with anybody
    /// any more, each with the moment it was last heard of.
    pub fn share(&mut self, now: Time, from: u64, request: ShareRequest) -> (Vec<(NodeId, i64)>, ShareResponse) {
        let mut gone = Vec::new();
        let known = self.feeds.get(&from).is_some_and(|feed| feed.run == request.run);
        let tell_all = !known && !request.full;
        if !tell_all {
            let feed = self.feeds.entry(from).or_insert(Feed { run: request.run, heard: now, moved: Vec::new() });
            (feed.run, feed.heard) = (request.run, now);
            let mut named = BTreeSet::new();
            for mut session in request.sessions {
                let Ok(node) = session.node.parse::<NodeId>() else { continue };
                session.manager = from;
                named.insert(node.clone());
                let before = self.rows.get(&node).map(|kept| kept.session.manager);
                if let Some(before) = before.filter(|before| *before != from) {
                    self.moved(before, &node);
                }
                self.put(node, session);
            }
            let over = request.ended.iter().filter_map(|node| node.parse().ok()).collect::<BTreeSet<NodeId>>();
            let over = self.of(from).filter(|node| over.contains(*node) || (request.full && !named.contains(*node)));
            for node in over.cloned().collect::<Vec<_>>() {
                let heard = self.get(&node).map_or(0, |session| session.heard);
                self.remove(&node);
                gone.push((node, heard));
            }
        }
        let mut response = self.tell(from, request.term, request.known);
        response.tell_all = tell_all;
        (gone, response)
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
        for node in &nodes {
            self.remove(node);
        }
        nodes
    }

    /// What the leader said of the others' sessions.
    pub fn learn(&mut self, response: &ShareResponse) {
        if response.full || response.term != self.term {
            self.rows.clear();
        }
        (self.term, self.version) = (response.term, response.known);
        for session in &response.sessions {
            if let Ok(node) = session.node.parse() {
                self.rows.insert(node, Kept { session: session.clone(), changed: 0 });
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

    fn moved(&mut self, manager: u64, node: &NodeId) {
        if let Some(feed) = self.feeds.get_mut(&manager) {
            feed.moved.push(node.to_string());
        }
    }

    fn put(&mut self, node: NodeId, session: NodeSession) {
        if self.rows.get(&node).is_some_and(|kept| same(&kept.session, &session)) {
            return;
        }
        self.version += 1;
        self.ended.remove(&node);
        self.rows.insert(node, Kept { session, changed: self.version });
    }

    fn remove(&mut self, node: &NodeId) {
        if self.rows.remove(node).is_some() {
            self.version += 1;
            self.ended.insert(node.clone(), self.version);
        }
        if self.ended.len() > ENDED_MAX {
            self.ended.clear();
            self.forgotten = self.version;
        }
    }

    fn tell(&mut self, to: u64, term: u64, known: u64) -> ShareResponse {
        let moved = self.feeds.get_mut(&to).map(|feed| std::mem::take(&mut feed.moved)).unwrap_or_default();
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
        roster.lead(7);
        roster
    }

    #[test]
    fn a_manager_whose_run_is_not_known_tells_all_first() {
        let mut roster = leader();
        let (_, response) = roster.share(at(0), 2, told(false, &[session("a", "1")], &[]));
        assert!(response.tell_all && roster.get(&node("a")).is_none());
        let (_, response) = roster.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        assert!(!response.tell_all && roster.get(&node("a")).is_some());
        let (gone, _) = roster.share(at(1), 2, told(true, &[], &[]));
        assert_eq!(gone, [(node("a"), 0)], "all of its sessions: what is not named is over");
    }

    #[test]
    fn the_newest_registration_counts_and_the_one_before_is_told() {
        let mut roster = leader();
        roster.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        roster.share(at(0), 3, told(true, &[session("a", "2")], &[]));
        let (gone, response) = roster.share(at(1), 2, told(false, &[], &["a"]));
        assert_eq!(response.moved, ["a"]);
        assert_eq!(gone, [], "it has moved: it is not gone");
        assert_eq!(roster.get(&node("a")).unwrap().manager, 3);
    }

    #[test]
    fn others_learn_what_has_changed_since_they_asked_last() {
        let (mut leader, mut follower) = (leader(), Roster::default());
        let ask = |follower: &mut Roster, leader: &mut Roster| {
            let (term, known) = follower.known();
            let request = ShareRequest { term, known, ..told(true, &[], &[]) };
            let response = leader.share(at(5), 3, request).1;
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
        leader.lead(8);
        assert!(ask(&mut follower, &mut leader).full);
        assert_eq!(follower.rows().count(), 0);
    }

    #[test]
    fn a_session_that_came_to_the_asker_is_none_elsewhere() {
        let (mut leader, mut follower) = (leader(), Roster::default());
        leader.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        let response = leader.share(at(0), 3, told(true, &[], &[])).1;
        follower.learn(&response);
        assert!(follower.get(&node("a")).is_some());
        let (term, known) = follower.known();
        let request = ShareRequest { term, known, ..told(false, &[session("a", "2")], &[]) };
        let response = leader.share(at(1), 3, request).1;
        follower.learn(&response);
        assert!(follower.get(&node("a")).is_none());
    }

    #[test]
    fn a_silent_manager_loses_its_sessions() {
        let mut roster = leader();
        roster.share(at(0), 2, told(true, &[session("a", "1")], &[]));
        roster.share(at(4_000), 3, told(true, &[session("b", "1")], &[]));
        assert_eq!(roster.silent(at(5_000)), []);
        assert_eq!(roster.silent(at(5_001)), [node("a")]);
        assert_eq!(roster.silent(at(5_002)), []);
        let (_, response) = roster.share(at(6_000), 2, told(false, &[], &[]));
        assert!(response.tell_all, "it is asked for all again");
    }
}
