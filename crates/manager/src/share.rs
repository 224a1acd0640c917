//! Tells the leader of this manager's sessions and learns of everybody else's; looks whether this manager hears the others at all.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::Command;
use pki::identity::NodeId;
use pki::time::Time;
use replica::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wire::managers::{ShareRequest, ShareResponse};
use wire::status::Refusal;

use crate::peers;
use crate::roster::{self, Absent, Sharer, Told};
use crate::rotate::status::LOST_AFTER;
use crate::sessions::Input;
use crate::shared::Shared;

/// How often sessions are shared at least: the leader knows by it that a manager is there.
const PERIOD: Duration = Duration::from_secs(1);
/// How long news of sessions wait for more.
const GATHER: Duration = Duration::from_millis(5);
/// Time for the leader's answer.
const ANSWER_WITHIN: Duration = roster::WAY_MAX;
/// How often the leader looks for nodes that nobody waits for, and that are not called down.
const MISSED_AFTER: Duration = Duration::from_secs(30);
/// A manager that has not heard the leader (or, leading, a majority) for so long admits no session. Source: design.md 7.
const CUT_OFF_AFTER: Duration = Duration::from_secs(3);
/// A look for that moment comes so much after it.
const SOON: Duration = Duration::from_millis(10);

/// Tells the leader of this manager's sessions.
#[derive(Default)]
pub(crate) struct Sharing {
    /// Made at the first sharing, and anew when what was shared is old.
    sharer: Option<Sharer>,
    /// Nodes in session with other managers that are to renew.
    renew: BTreeSet<NodeId>,
}

/// What the leader has to do after it was told of sessions. It waits for the log, and nobody who shares waits for that.
#[derive(Default)]
pub(crate) struct Aftermath {
    todo: Mutex<Todo>,
    more: Notify,
}

#[derive(Default)]
struct Todo {
    /// Nodes that have lost their manager.
    lost: Vec<NodeId>,
    /// To be proposed: nodes that are with nobody.
    down: Vec<Command>,
}

impl Aftermath {
    fn add(&self, lost: Vec<NodeId>, down: Vec<Command>) {
        if lost.is_empty() && down.is_empty() {
            return;
        }
        let mut todo = self.todo.lock().unwrap_or_else(PoisonError::into_inner);
        todo.lost.extend(lost);
        todo.down.extend(down);
        drop(todo);
        self.more.notify_one();
    }

    fn take(&self) -> Todo {
        std::mem::take(&mut *self.todo.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
    /// By what the leader says, this manager is none any more.
    #[error("this manager has no place in the group any more")]
    Out,
    /// Anything else.
    #[error("the leader could not be told of sessions: {0}")]
    Because(String),
}

impl Sharing {
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
        let sharer = match &mut self.sharer {
            Some(sharer) => sharer,
            None => {
                let drawn = shared.chance.bytes().map_err(|error| Untold::Because(error.to_string()))?;
                self.sharer.insert(Sharer::new(u64::from_be_bytes(drawn)))
            }
        };
        let leadership = *shared.handle.leadership().borrow();
        let leader = leadership.leader.ok_or_else(|| Untold::Because("nobody leads".to_owned()))?;
        let mut present = shared.sessions().shared();
        for (node, session) in &mut present {
            session.refusal = shared.last_refusal(node).unwrap_or_default();
            session.lost = lost_for_long(shared, node).map_or(0, Time::unix_millis);
        }
        let known = shared.roster().known();
        let told_to = (leadership.term, leader);
        let mut request = sharer.request(shared.now(), told_to, shared.handle.state().epoch(), known, &present);
        request.renew = std::mem::take(&mut self.renew).iter().map(ToString::to_string).collect();
        let response = if leadership.here {
            told(shared, leader, request)
        } else {
            let response = tell(shared, leader, request).await?;
            shared.roster().learn(&response);
            shared.touch();
            response
        };
        for (node, session) in sharer.answered(told_to, present, &response) {
            moved(shared, &node, &session);
        }
        for node in response.renew.iter().filter_map(|node| node.parse::<NodeId>().ok()) {
            // One that is gone renews when it comes back.
            let _ = shared.order_renewal(&node);
        }
        Ok(response.tell_all)
    }
}

/// When a node's stream ended, if it has not come back soon, as nodes do that renew.
fn lost_for_long<H: Handle>(shared: &Shared<H>, node: &NodeId) -> Option<Time> {
    shared.slots.lost_at(node).filter(|lost| shared.now().since(*lost) >= LOST_AFTER)
}

/// Asks the leader over the wire.
async fn tell<H: Handle>(shared: &Arc<Shared<H>>, leader: u64, request: ShareRequest) -> Result<ShareResponse, Untold> {
    let asked = async {
        let mut client =
            shared.peers.client(leader, false).await.map_err(|error| Untold::Because(error.to_string()))?;
        let answer = client.share(request).await.map_err(|status| match status.message() {
            _ if peers::is_without_place(&status) => Untold::Out,
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

/// The leader is told: this is the answer. What follows is done by [`lead`].
pub(crate) fn told<H: Handle>(shared: &Shared<H>, from: u64, request: ShareRequest) -> ShareResponse {
    let now = shared.now();
    for node in request.renew.iter().filter_map(|node| node.parse::<NodeId>().ok()) {
        if shared.order_renewal(&node).is_err() && !shared.roster().order_renewal(&node) {
            tracing::info!(%node, "the node is to renew, and is in session with nobody");
        }
    }
    let Told { mut response, gone, lost } = shared.roster().share(now, from, request);
    response.unreachable = shared.unreachable(&shared.handle.state());
    if !lost.is_empty() {
        tracing::info!(nodes = lost.len(), "a manager has lost nodes: they are expected elsewhere");
    }
    let down = roster::down(gone, &shared.sessions(), now);
    shared.aftermath.add(lost, down);
    shared.touch();
    response
}

/// Does what follows from what the leader was told.
async fn follow_up<H: Handle>(shared: &Shared<H>) {
    let todo = shared.aftermath.take();
    if !todo.lost.is_empty() {
        expect(shared, &todo.lost).await;
    }
    if !todo.down.is_empty()
        && let Err(error) = shared.call_down(todo.down).await
    {
        tracing::warn!(%error, "what happened to nodes could not be committed");
    }
}

/// A node has a newer session with another manager: that with this one ends, unless it has begun since.
fn moved<H: Handle>(shared: &Shared<H>, node: &NodeId, session: &str) {
    if !shared.sessions().moved(node, session) {
        return;
    }
    tracing::info!(%node, "the node is in session with another manager");
    shared.slots.end(node, Refusal::SessionInvalid);
}

/// What a leader does about sessions, until `over`: everybody shares anew, and managers that are silent lose theirs.
pub(crate) async fn lead<H: Handle>(shared: Arc<Shared<H>>, over: CancellationToken) {
    let state = shared.handle.state();
    let term = shared.handle.leadership().borrow().term;
    shared.roster().lead(shared.now(), term);
    // Of a table that was left.
    drop(shared.aftermath.take());
    shared.tell(Input::Lead(&state)).await;
    shared.deadline_moved.notify_one();
    let mut absent = Absent::of(&state);
    let mut looked = Instant::now();
    let mut next = tokio::time::Instant::now() + PERIOD;
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            () = shared.aftermath.more.notified() => {
                follow_up(&shared).await;
                continue;
            }
            () = tokio::time::sleep_until(next) => next = tokio::time::Instant::now() + PERIOD,
        }
        let nodes = shared.roster().silent(shared.now());
        if !nodes.is_empty() {
            tracing::warn!(nodes = nodes.len(), "a manager is silent: its nodes are expected elsewhere");
            expect(&shared, &nodes).await;
        }
        let state = shared.handle.state();
        let up = {
            let sessions = shared.sessions();
            absent.in_session(&state, &sessions, &shared.roster(), shared.now())
        };
        if !up.is_empty()
            && let Err(error) = shared.handle.propose(up).await
        {
            tracing::warn!(%error, "that nodes are there could not be committed: it is tried again");
        }
        if looked.elapsed() < MISSED_AFTER {
            continue;
        }
        looked = Instant::now();
        let missing = {
            let sessions = shared.sessions();
            roster::missing(&state, &sessions, &shared.roster())
        };
        if !missing.is_empty() {
            expect(&shared, &missing).await;
        }
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
            shared.cut_off.send_replace(false);
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
        let lets_go = hears(&shared, leaderless || heard.elapsed() > CUT_OFF_AFTER);
        begin_anew(&shared, lets_go).await;
        let shared_with = shared.sharer.lock().await.exchange(&shared).await;
        let out = matches!(shared_with, Err(Untold::Out));
        leaderless = out || matches!(shared_with, Err(Untold::Leaderless));
        if out {
            shared.out.send_replace(true);
        }
        if let Err(error) = shared_with {
            tracing::debug!(%error, "sessions were not shared");
            let lets_go = hears(&shared, leaderless || heard.elapsed() > CUT_OFF_AFTER);
            begin_anew(&shared, lets_go).await;
        }
        // Who is refused meanwhile for want of a leader waits until it is known that there is none.
        let silent = heard.elapsed();
        let pause = if silent > CUT_OFF_AFTER { PERIOD } else { PERIOD.min(CUT_OFF_AFTER - silent + SOON) };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            () = shared.shares.news.notified() => tokio::select! {
                // Those that come together are told together.
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(GATHER) => {}
            },
        }
    }
}

/// What a manager that has let its nodes go knew of them is old: it shares as one that has just begun.
async fn begin_anew<H: Handle>(shared: &Shared<H>, lets_go: bool) {
    if lets_go {
        shared.sharer.lock().await.sharer = None;
    }
}

/// Looks whether this manager hears the others; one that does not lets its nodes go. Whether it did that now.
fn hears<H: Handle>(shared: &Shared<H>, cut_off: bool) -> bool {
    let before = shared.cut_off.send_replace(cut_off);
    if cut_off && !before {
        tracing::warn!("this manager does not hear the others: its nodes are told to look for one that does");
        shared.sessions().send_away();
        shared.slots.end_all(&Refusal::MustDisconnect);
    } else if before && !cut_off {
        tracing::info!("this manager hears the others again");
    }
    cut_off && !before
}
