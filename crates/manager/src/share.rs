//! Tells the leader of this manager's sessions and learns of everybody else's; looks whether this manager hears the others at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cluster::Command;
use pki::identity::NodeId;
use pki::time::Time;
use replica::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::managers::{NodeSession, ShareRequest, ShareResponse};
use wire::status::Refusal;

use crate::roster::Told;
use crate::sessions::Input;
use crate::shared::Shared;

/// How often sessions are shared at least: the leader knows by it that a manager is there.
const PERIOD: Duration = Duration::from_secs(1);
/// How long news of sessions wait for more.
const GATHER: Duration = Duration::from_millis(5);
/// Time for the leader's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A manager that has not heard the leader (or, leading, a majority) for so long admits no session. Source: design.md 7.
const CUT_OFF_AFTER: Duration = Duration::from_secs(3);

/// What this manager has told whom.
#[derive(Default)]
pub(crate) struct Sharer {
    /// Drawn at the first sharing: who leads knows by it that this manager has begun anew.
    run: u64,
    /// The leader that was told, by term and raft id.
    to: Option<(u64, u64)>,
    told: BTreeMap<NodeId, NodeSession>,
    /// Nodes in session with other managers that are to renew.
    renew: BTreeSet<NodeId>,
}

/// Counts what is shared, for those who wait until they are told of.
pub(crate) struct Shares {
    begun: AtomicU64,
    done: watch::Sender<u64>,
    /// Wakes the task that shares.
    news: Notify,
}

impl Default for Shares {
    fn default() -> Self {
        Self { begun: AtomicU64::new(0), done: watch::Sender::new(0), news: Notify::new() }
    }
}

impl Shares {
    /// There are news.
    pub(crate) fn notify(&self) {
        self.news.notify_one();
    }

    /// Waits until the leader was told of what is so now, so that everybody shows it; not for ever.
    pub(crate) async fn told(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        self.notify();
        let mut done = self.done.subscribe();
        let _ = tokio::time::timeout(ANSWER_WITHIN, done.wait_for(|done| *done > begun)).await;
    }
}

/// Nobody could be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Untold {
    /// Who leads, as far as is known here, hears no majority itself.
    #[error("the leader is none: it hears no majority")]
    Leaderless,
    /// Anything else.
    #[error("the leader could not be told of sessions: {0}")]
    Because(String),
}

impl Sharer {
    /// Tells the leader what has changed, and takes its answer.
    pub(crate) async fn exchange<H: Handle>(&mut self, shared: &Arc<Shared<H>>) -> Result<(), Untold> {
        let number = shared.shares.begun.fetch_add(1, Ordering::SeqCst);
        let mut outcome = self.once(shared).await;
        // All of them, if the leader does not know this manager's.
        if matches!(outcome, Ok(true)) {
            outcome = self.once(shared).await;
        }
        shared.shares.done.send_replace(number + 1);
        outcome.map(drop)
    }

    /// Has a node renew that is in session with another manager.
    pub(crate) async fn order_renewal<H: Handle>(
        &mut self,
        shared: &Arc<Shared<H>>,
        node: &NodeId,
    ) -> Result<(), Untold> {
        self.renew.insert(node.clone());
        self.exchange(shared).await
    }

    async fn once<H: Handle>(&mut self, shared: &Arc<Shared<H>>) -> Result<bool, Untold> {
        if self.run == 0 {
            let drawn = shared.chance.bytes().map_err(|error| Untold::Because(error.to_string()))?;
            self.run = u64::from_be_bytes(drawn).max(1);
        }
        let leadership = *shared.handle.leadership().borrow();
        let leader = leadership.leader.ok_or_else(|| Untold::Because("nobody leads".to_owned()))?;
        let present: BTreeMap<NodeId, NodeSession> = {
            let sessions = shared.sessions();
            sessions.rows().filter_map(|(node, row)| Some((node.clone(), row.shared(node)?))).collect()
        };
        let full = self.to != Some((leadership.term, leader));
        let news = present.iter().filter(|(node, session)| full || self.told.get(*node) != Some(*session));
        let ended = self.told.keys().filter(|node| !full && !present.contains_key(*node));
        let (term, known) = shared.roster().known();
        let request = ShareRequest {
            epoch: shared.handle.state().epoch(),
            run: self.run,
            full,
            sessions: news.map(|(_, session)| session.clone()).collect(),
            ended: ended.map(ToString::to_string).collect(),
            known,
            term,
            renew: std::mem::take(&mut self.renew).iter().map(ToString::to_string).collect(),
        };
        let response = if leadership.here {
            told(shared, leader, request).await
        } else {
            let response = tell(shared, leader, request).await?;
            shared.roster().learn(&response);
            shared.touch();
            response
        };
        self.to = Some((leadership.term, leader)).filter(|_| !response.tell_all);
        for node in response.moved.iter().filter_map(|node| node.parse::<NodeId>().ok()) {
            moved(shared, &node, present.get(&node));
        }
        for node in response.renew.iter().filter_map(|node| node.parse::<NodeId>().ok()) {
            // One that is gone renews when it comes back.
            let _ = shared.order_renewal(&node);
        }
        self.told = present;
        Ok(response.tell_all)
    }
}

/// Asks the leader over the wire.
async fn tell<H: Handle>(shared: &Arc<Shared<H>>, leader: u64, request: ShareRequest) -> Result<ShareResponse, Untold> {
    let asked = async {
        let mut client =
            shared.peers.client(leader, false).await.map_err(|error| Untold::Because(error.to_string()))?;
        let answer = client.share(request).await.map_err(|status| match status.message() {
            message if message == Refusal::NoLeader.to_string() => Untold::Leaderless,
            message => Untold::Because(message.to_owned()),
        })?;
        Ok(answer.into_inner())
    };
    let answer = tokio::time::timeout(ANSWER_WITHIN, asked).await;
    let answer = answer.unwrap_or_else(|_| Err(Untold::Because("no answer in time".to_owned())));
    if matches!(answer, Err(Untold::Because(_))) {
        shared.peers.hang_up(leader, false);
    }
    answer
}

/// The leader is told: what follows is done, and this is the answer.
pub(crate) async fn told<H: Handle>(shared: &Arc<Shared<H>>, from: u64, request: ShareRequest) -> ShareResponse {
    let now = shared.now();
    for node in request.renew.iter().filter_map(|node| node.parse::<NodeId>().ok()) {
        if shared.order_renewal(&node).is_err() && !shared.roster().order_renewal(&node) {
            tracing::info!(%node, "the node is to renew, and is in session with nobody");
        }
    }
    let Told { mut response, gone, lost } = shared.roster().share(now, from, request);
    response.unreachable = shared.unreachable(&shared.handle.state());
    let here = |node: &NodeId| shared.sessions().row(node).is_some_and(|row| row.session.is_some());
    let down = |(node, heard): (NodeId, i64)| Command::Presence {
        node,
        down: true,
        seen: Some(heard).filter(|heard| *heard != 0).map_or(now, Time::from_unix_millis),
    };
    if !lost.is_empty() {
        tracing::info!(nodes = lost.len(), "a manager has begun anew: its nodes are expected elsewhere");
        expect(shared, &lost).await;
    }
    let down: Vec<_> = gone.into_iter().filter(|(node, _)| !here(node)).map(down).collect();
    if !down.is_empty()
        && let Err(error) = shared.handle.propose(down).await
    {
        tracing::warn!(%error, "what happened to nodes could not be committed");
    }
    shared.touch();
    response
}

/// A node has a newer session with another manager: that with this one ends, unless it has begun since.
fn moved<H: Handle>(shared: &Shared<H>, node: &NodeId, told: Option<&NodeSession>) {
    {
        let mut sessions = shared.sessions();
        let present = sessions.row(node).and_then(|row| row.session.clone());
        if present.is_none() || present != told.map(|session| session.session.clone()) {
            return;
        }
        sessions.forget(node);
    }
    tracing::info!(%node, "the node is in session with another manager");
    shared.slots.end(node, Refusal::SessionInvalid);
}

/// What a leader does about sessions, until `over`: everybody shares anew, and managers that are silent lose theirs.
pub(crate) async fn lead<H: Handle>(shared: Arc<Shared<H>>, over: CancellationToken) {
    let state = shared.handle.state();
    shared.roster().lead(shared.handle.leadership().borrow().term);
    shared.tell(Input::Lead(&state)).await;
    shared.deadline_moved.notify_one();
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        let nodes = shared.roster().silent(shared.now());
        if nodes.is_empty() {
            continue;
        }
        tracing::warn!(nodes = nodes.len(), "a manager is silent: its nodes are expected elsewhere");
        expect(&shared, &nodes).await;
    }
}

/// Nodes that have lost their manager may come to another one within a grace.
async fn expect<H: Handle>(shared: &Shared<H>, nodes: &[NodeId]) {
    let period = shared.handle.state().settings.heartbeat_period();
    shared.tell(Input::Expect(nodes, period)).await;
    shared.deadline_moved.notify_one();
}

/// Shares this manager's sessions while the group has other members, until `shutdown`.
pub(crate) async fn follow<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    let mut states = shared.handle.watch();
    let mut heard = Instant::now();
    // Whoever hears a leader that hears no majority is cut off with it: the others may have another one, who misses the nodes here.
    let mut leaderless = false;
    loop {
        let alone = states.borrow_and_update().members.rows.len() <= 1;
        if alone {
            (heard, leaderless) = (Instant::now(), false);
            shared.cut_off.store(false, Ordering::Relaxed);
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
            }
            continue;
        }
        // Who has only begun has heard nobody yet.
        if let Some(since) = shared.handle.contact() {
            heard = Instant::now().checked_sub(since).unwrap_or(heard);
        }
        hears(&shared, leaderless || heard.elapsed() > CUT_OFF_AFTER);
        let shared_with = shared.sharer.lock().await.exchange(&shared).await;
        leaderless = matches!(shared_with, Err(Untold::Leaderless));
        if let Err(error) = shared_with {
            tracing::debug!(%error, "sessions were not shared");
            hears(&shared, leaderless || heard.elapsed() > CUT_OFF_AFTER);
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
            () = shared.shares.news.notified() => tokio::select! {
                // Those that come together are told together.
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(GATHER) => {}
            },
        }
    }
}

/// Looks whether this manager hears the others; one that does not lets its nodes go.
fn hears<H: Handle>(shared: &Shared<H>, cut_off: bool) {
    let before = shared.cut_off.swap(cut_off, Ordering::Relaxed);
    if cut_off && !before {
        tracing::warn!("this manager does not hear the others: its nodes are told to look for one that does");
        shared.slots.end_all(&Refusal::MustDisconnect);
    } else if before && !cut_off {
        tracing::info!("this manager hears the others again");
    }
}
