//! What a manager tells the leader of its sessions, and what follows from the answer; and what the leader writes down of it.

use std::collections::BTreeMap;

use cluster::Command;
use pki::identity::NodeId;
use pki::time::Time;
use wire::managers::{NodeSession, ShareRequest, ShareResponse};

use crate::sessions::Sessions;

/// What this manager has told whom.
#[derive(Default)]
pub struct Sharer {
    run: u64,
    /// The leader that was told, by term and raft id.
    to: Option<(u64, u64)>,
    told: BTreeMap<NodeId, NodeSession>,
}

impl Sharer {
    /// Of a manager that has told nobody yet. Who leads knows by the number of the run that it has begun anew.
    pub fn new(run: u64) -> Self {
        Self { run: run.max(1), ..Self::default() }
    }

    /// What to tell this leader `now`, by term and raft id: everything, or what has changed since it was told. `known` is what is known of
    /// the others' sessions ([`known`](super::Roster::known)).
    pub fn request(
        &self,
        now: Time,
        leader: (u64, u64),
        epoch: u64,
        known: (u64, u64),
        present: &BTreeMap<NodeId, NodeSession>,
    ) -> ShareRequest {
        let full = self.to != Some(leader);
        let news = present.iter().filter(|(node, session)| full || self.told.get(*node) != Some(*session));
        let ended = self.told.keys().filter(|node| !full && !present.contains_key(*node));
        ShareRequest {
            epoch,
            run: self.run,
            full,
            sessions: news.map(|(_, session)| session.clone()).collect(),
            ended: ended.map(ToString::to_string).collect(),
            known: known.1,
            term: known.0,
            now: now.unix_millis(),
            ..ShareRequest::default()
        }
    }

    /// The leader has answered. Nodes that have a newer session with another manager, each with the one that it had here when the
    /// leader was told.
    pub fn answered(
        &mut self,
        leader: (u64, u64),
        present: BTreeMap<NodeId, NodeSession>,
        response: &ShareResponse,
    ) -> Vec<(NodeId, String)> {
        self.to = Some(leader).filter(|_| !response.tell_all);
        let moved = response.moved.iter().filter_map(|node| node.parse::<NodeId>().ok());
        let moved = moved.filter_map(|node| present.get(&node).map(|row| (node, row.session.clone()))).collect();
        self.told = present;
        moved
    }
}

/// What the leader writes down of nodes that have no session any more, each with the moment it was last heard of: but for those
/// that are with the leader itself by now.
pub fn down(gone: Vec<(NodeId, i64)>, own: &Sessions, now: Time) -> Vec<Command> {
    let here = |node: &NodeId| own.row(node).is_some_and(|row| row.session.is_some());
    let down = |(node, heard): (NodeId, i64)| Command::Presence {
        node,
        down: true,
        seen: Some(heard).filter(|heard| *heard != 0).map_or(now, Time::from_unix_millis),
    };
    gone.into_iter().filter(|(node, _)| !here(node)).map(down).collect()
}
