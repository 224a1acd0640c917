//! What all parts of a running manager share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::authorize::{Denial, Grant, Method};
use cluster::members::Member;
use cluster::{Command, State};
use pki::identity::{NodeId, Role};
use pki::time::Time;
use replica::Handle;
use tokio::sync::watch;
use wire::status::{Refusal, Unauthorized};

use crate::address::Whereabouts;
use crate::alarm::Alarms;
use crate::chance::Chance;
use crate::heads::Heads;
use crate::issue::pipeline::{Pipeline, refused};
use crate::keys::Keys;
use crate::lists::Lists;
use crate::looks::Looks;
use crate::news::News;
use crate::outside::Outside;
use crate::peers::Peers;
use crate::roster::{self, Roster};
use crate::rotate::Pacer;
use crate::server::{Call, Callers, Connections, Peer};
use crate::sessions::{Effect, Input, Sessions};
use crate::share::{Aftermath, Shares, Sharing};
use crate::slots::Slots;
use crate::view::ManagerStatus;

/// Sessions woken between two looks at what else there is to do.
const WAKE_CHUNK: usize = 64;

/// A member of the group that did not answer for so long is called unreachable.
const UNREACHABLE_AFTER: Duration = Duration::from_secs(3);

/// Callers at a time who would be refused and wait for a look at the leader's state, at most.
const LOOKING_MAX: usize = 256;

/// When a caller comes back who could not be refused for sure.
const UNSURE_RETRY: Duration = Duration::from_millis(500);

/// Nodes whose last refusal is remembered.
const REFUSALS_MAX: usize = 1024;

/// The time, given as an argument.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

pub(crate) struct Shared<H> {
    pub(crate) handle: H,
    pub(crate) clock: Clock,
    pub(crate) chance: Chance,
    pub(crate) identity: mtls::Live,
    pub(crate) pipeline: Pipeline,
    pub(crate) outside: Outside,
    pub(crate) slots: Slots,
    pub(crate) connections: Connections,
    pub(crate) alarms: Alarms,
    pub(crate) callers: Callers,
    pub(crate) news: News,
    pub(crate) heads: Heads,
    pub(crate) lists: Lists,
    pub(crate) peers: Peers,
    /// Tells the leader of this manager's sessions.
    pub(crate) sharer: tokio::sync::Mutex<Sharing>,
    pub(crate) shares: Shares,
    pub(crate) aftermath: Aftermath,
    /// Whether the leader says that this manager has no place in the group.
    pub(crate) out: watch::Sender<bool>,
    /// Where this manager is, as the others are to know.
    pub(crate) whereabouts: Whereabouts,
    looks: Looks,
    looking: tokio::sync::Semaphore,
    /// Whether this manager does not hear the others: it admits nobody then.
    pub(crate) cut_off: watch::Sender<bool>,
    roster: Mutex<Roster>,
    sessions: Mutex<Sessions>,
    pacer: Mutex<Pacer>,
    /// Nodes that opened a session since the leader's loop last looked.
    arrivals: Mutex<BTreeSet<NodeId>>,
    /// Wakes the leader's loop for them.
    pub(crate) arrival: tokio::sync::Notify,
    /// What was last said to nodes that asked for a certificate and got none.
    refusals: Mutex<BTreeMap<NodeId, String>>,
    /// Why nodes that are to be managers got no place among them when they last asked here.
    unseated: Mutex<BTreeMap<NodeId, String>>,
    /// Wakes whoever waits for the next session to run out.
    pub(crate) deadline_moved: tokio::sync::Notify,
    /// Counts changes of what an operator sees.
    pub(crate) seen: watch::Sender<u64>,
}

impl<H: Handle> Shared<H> {
    pub(crate) fn new(handle: H, clock: Clock, chance: Chance, identity: mtls::Live, keys: Keys, peers: Peers) -> Self {
        // Without chance they begin at nought: an order may then have to be given twice.
        let orders = chance.bytes().map_or(0, u32::from_be_bytes) >> 8;
        let outside = Outside::new(keys, Arc::clone(&clock), &chance, identity.clone());
        Self {
            handle,
            clock,
            chance,
            identity,
            pipeline: Pipeline::default(),
            outside,
            slots: Slots::default(),
            connections: Connections::default(),
            alarms: Alarms::default(),
            callers: Callers::default(),
            news: News::default(),
            heads: Heads::default(),
            lists: Lists::default(),
            peers,
            sharer: tokio::sync::Mutex::default(),
            shares: Shares::default(),
            aftermath: Aftermath::default(),
            out: watch::Sender::new(false),
            whereabouts: Whereabouts::default(),
            looks: Looks::default(),
            looking: tokio::sync::Semaphore::new(LOOKING_MAX),
            cut_off: watch::Sender::new(false),
            roster: Mutex::default(),
            sessions: Mutex::new(Sessions::numbered_from(orders)),
            pacer: Mutex::new(Pacer::new(cores())),
            arrivals: Mutex::default(),
            arrival: tokio::sync::Notify::new(),
            refusals: Mutex::default(),
            unseated: Mutex::default(),
            deadline_moved: tokio::sync::Notify::new(),
            seen: watch::Sender::new(0),
        }
    }

    /// The time by this manager's own clock; the cluster's may be ahead of it.
    pub(crate) fn now(&self) -> Time {
        (self.clock)()
    }

    /// Whether this manager leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.handle.leadership().borrow().here
    }

    /// How a member of the group stands, as far as is known here.
    pub(crate) fn manager_status(&self, member: &Member) -> ManagerStatus {
        // Let go of before anything else is asked: whoever looks twice at once stands in the way of a change, which stands in his.
        let leader = self.handle.leadership().borrow().leader;
        ManagerStatus {
            leader: leader == Some(member.raft_id),
            reachable: self.is_reachable(member.raft_id),
            addr: member.addr.clone(),
        }
    }

    /// The sessions of the whole group. Whoever needs the session table too takes that first.
    pub(crate) fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a member of the group is in reach: as the leader says; without one, as this manager finds it.
    pub(crate) fn is_reachable(&self, raft_id: u64) -> bool {
        if raft_id == self.handle.raft_id() {
            return true;
        }
        let leadership = *self.handle.leadership().borrow();
        if !leadership.here && (leadership.leader.is_none() || self.is_cut_off()) {
            return self.peers.misses(raft_id).is_none();
        }
        if !leadership.here {
            return !self.roster().is_unreachable(raft_id);
        }
        let group = self.handle.group();
        let seen = group.borrow().members.get(&raft_id).and_then(|seen| seen.contact);
        seen.is_some_and(|at| at.elapsed() < UNREACHABLE_AFTER)
    }

    /// Members of the group that are out of reach.
    pub(crate) fn unreachable(&self, state: &State) -> Vec<u64> {
        state.members.rows.values().map(|row| row.raft_id).filter(|id| !self.is_reachable(*id)).collect()
    }

    /// Whether the group would have no quorum among those in reach without this manager. Source: engine-api.md 6.12.
    pub(crate) fn needs(&self, state: &State, node: &NodeId) -> bool {
        let rows = &state.members.rows;
        let others = rows.iter().filter(|(id, row)| *id != node && self.is_reachable(row.raft_id)).count();
        let left = rows.len().saturating_sub(1);
        rows.contains_key(node) && left > 0 && others < left / 2 + 1
    }

    pub(crate) fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who is told when, while a root is replaced. Whoever needs the session table too takes that first.
    pub(crate) fn pacer(&self) -> MutexGuard<'_, Pacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has opened a session.
    pub(crate) fn arrived(&self, node: &NodeId) {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).insert(node.clone());
        self.arrival.notify_one();
        self.shares.notify();
    }

    /// Nodes that opened a session since this was last asked.
    pub(crate) fn take_arrivals(&self) -> BTreeSet<NodeId> {
        std::mem::take(&mut *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers why a node got no certificate; none: it got one.
    pub(crate) fn note_refusal(&self, node: &NodeId, refusal: Option<String>) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            Some(refusal) => {
                if refusals.len() >= REFUSALS_MAX && !refusals.contains_key(node) {
                    refusals.pop_first();
                }
                refusals.insert(node.clone(), refusal);
            }
            None => {
                refusals.remove(node);
            }
        }
    }

    /// Why a node got no certificate when it last asked.
    pub(crate) fn last_refusal(&self, node: &NodeId) -> Option<String> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    /// Remembers why a node that is to be a manager got no place among them, and logs it when it is news: it asks every other second.
    pub(crate) fn note_unseated(&self, node: &NodeId, why: &str) {
        let mut unseated = self.unseated.lock().unwrap_or_else(PoisonError::into_inner);
        if unseated.len() >= REFUSALS_MAX && !unseated.contains_key(node) {
            unseated.pop_first();
        }
        if unseated.insert(node.clone(), why.to_owned()).is_none_or(|before| before != why) {
            tracing::warn!(%node, why, "a node that is to be a manager gets no place among them");
        }
    }

    /// Why a node that was to be a manager got no place among them when it last asked here; it is forgotten by that.
    pub(crate) fn take_unseated(&self, node: &NodeId) -> Option<String> {
        self.unseated.lock().unwrap_or_else(PoisonError::into_inner).remove(node)
    }

    /// Says that something an operator sees has changed.
    pub(crate) fn touch(&self) {
        self.seen.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Whether the call may be made now.
    pub(crate) fn authorize(&self, call: &Call, method: Method) -> Result<Grant, Refusal> {
        let state = self.handle.state();
        state.authorize(call.caller(), method, self.now()).map_err(|denial| refusal(denial, &state))
    }

    /// The same for a call that only a node makes: who it is.
    pub(crate) fn authorize_node(&self, call: &Call, method: Method) -> Result<(NodeId, Grant), Refusal> {
        let grant = self.authorize(call, method)?;
        let node = call.node().ok_or(Refusal::Peer(Unauthorized::NoCertificate))?;
        Ok((node, grant))
    }

    /// Tells the session table something and carries out what follows; whether anything did.
    pub(crate) async fn tell(&self, input: Input<'_>) -> bool {
        let effects = self.sessions().step(self.now(), input);
        let any = !effects.is_empty();
        for effect in effects {
            self.carry_out(effect).await;
        }
        any
    }

    async fn carry_out(&self, effect: Effect) {
        match effect {
            Effect::Wake(node) => {
                if let Some(slot) = self.slots.get(&node) {
                    slot.wake();
                }
            }
            Effect::WakeAll => {
                for chunk in self.slots.all().chunks(WAKE_CHUNK) {
                    for slot in chunk {
                        slot.wake();
                    }
                    tokio::task::yield_now().await;
                }
            }
            Effect::End(node, reason) => self.slots.end(&node, reason),
            Effect::Cut(node) => {
                self.connections.cut(&node);
                if self.handle.state().node(&node).is_none() {
                    self.slots.forget(&node);
                }
            }
            Effect::Propose(mut commands) => {
                // Only the leader knows who is with nobody.
                commands.retain(|command| self.leads() && !self.is_elsewhere(command));
                if commands.is_empty() {
                    return;
                }
                if let Err(error) = self.call_down(commands).await {
                    tracing::warn!(%error, "what happened to nodes could not be committed");
                }
            }
        }
    }

    /// Proposes what happened to nodes, and says which are called down by it. Nobody else says so: who only waited for a node, or had its
    /// session, does not know whether another manager hears it.
    pub(crate) async fn call_down(&self, commands: Vec<Command>) -> Result<(), replica::ProposeError> {
        let state = self.handle.state();
        let down = silenced(&state, &commands);
        self.handle.propose(commands).await?;
        for node in down {
            tracing::info!(%node, "heartbeats stopped");
        }
        Ok(())
    }

    /// Orders a node that is in session with this manager to renew.
    ///
    /// # Errors
    /// [`Refusal::NotRegistered`] if it is not.
    pub(crate) fn order_renewal(&self, node: &NodeId) -> Result<(), Refusal> {
        self.sessions().order_renewal(node)?;
        if let Some(slot) = self.slots.get(node) {
            slot.wake();
        }
        Ok(())
    }

    /// Whether there are other managers, by whose way the state may have changed without this one knowing yet.
    pub(crate) fn is_one_of_several(&self, state: &State) -> bool {
        roster::has_others(state, self.handle.raft_id())
    }

    /// The state with whatever was answered anywhere before, for those who would be refused on what is known here. Strangers can ask
    /// for it, so only so many at a time are served, all of them by one look.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if it cannot be known now: to be refused for good, one has to be refused by what is so.
    pub(crate) async fn surely(&self) -> Result<Arc<State>, Refusal> {
        let busy = || Refusal::Busy { retry_after: UNSURE_RETRY };
        let _place = self.looking.try_acquire().map_err(|_| busy())?;
        self.look().await.ok_or_else(busy)
    }

    /// The same for whoever is bounded already; none: it cannot be known now.
    pub(crate) async fn look(&self) -> Option<Arc<State>> {
        let seen = self.looks.look(async { self.handle.read().await.is_ok() }).await;
        seen.then(|| self.handle.state())
    }

    /// Whether this manager has heard neither a leader nor a majority for a while.
    pub(crate) fn is_cut_off(&self) -> bool {
        *self.cut_off.borrow()
    }

    /// Refuses to have sessions while this manager does not hear the others: nodes look for one that does.
    pub(crate) fn admits(&self) -> Result<(), Refusal> {
        if self.is_cut_off() { Err(Refusal::DispatcherStopped) } else { Ok(()) }
    }

    /// Whether a node that is to be called down is in session with another manager.
    fn is_elsewhere(&self, command: &Command) -> bool {
        let Command::Presence { node, down: true, .. } = command else { return false };
        let own = self.handle.raft_id();
        self.roster().get(node).is_some_and(|session| session.manager != own)
    }

    /// A node that may only come back has fetched its new certificate.
    pub(crate) async fn note_fetched(&self, node: &NodeId) {
        self.tell(Input::Fetched(node)).await;
        self.deadline_moved.notify_one();
    }

    /// Commits that the leaf of this connection was seen in use, if that is not known yet.
    pub(crate) async fn confirm(&self, peer: &Peer) -> Result<(), Refusal> {
        let Some((node, serial)) = peer.take_unproven() else { return Ok(()) };
        match self.handle.propose(vec![Command::Confirm { node, serial }]).await {
            Ok(_) => Ok(()),
            Err(error) => {
                peer.give_back_unproven();
                Err(refused(&error))
            }
        }
    }
}

/// Nodes that are called down by these, and were not before.
fn silenced(state: &State, commands: &[Command]) -> Vec<NodeId> {
    let down = commands.iter().filter_map(|command| match command {
        Command::Presence { node, down: true, .. } => Some(node),
        _ => None,
    });
    down.filter(|node| state.node(node).is_some_and(|node| !node.down)).cloned().collect()
}

/// Processors that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The text of a denial (wire.md 4 and 8).
pub fn refusal(denial: Denial, state: &State) -> Refusal {
    let cluster = || state.cluster_id().cloned().ok_or(Refusal::SignerStarting);
    match denial {
        Denial::Forwarder(inner) => unauthorized(*inner, state).map_or_else(Refusal::Peer, Refusal::Forwarder),
        Denial::ForwardedIncomplete => Refusal::ForwardedIncomplete,
        Denial::ForwardedRole { workers_too } => Refusal::ForwardedRole { allowed: roles(workers_too) },
        Denial::ForwardedOrganization => {
            cluster().map_or_else(|refusal| refusal, |cluster| Refusal::ForwardedOrganization { cluster })
        }
        Denial::ForwardedRemoved(node) => Refusal::ForwardedPeer(Unauthorized::Removed { node }),
        Denial::ForwardedRevoked(node) => Refusal::ForwardedPeer(Unauthorized::Revoked { node }),
        direct => Refusal::Peer(unauthorized(direct, state).unwrap_or_else(|other| other)),
    }
}

fn roles(workers_too: bool) -> Vec<Role> {
    if workers_too { vec![Role::Worker, Role::Manager] } else { vec![Role::Manager] }
}

/// What a peer is told of itself; `Err` is for denials that speak of somebody else, which never come here.
fn unauthorized(denial: Denial, state: &State) -> Result<Unauthorized, Unauthorized> {
    Ok(match denial {
        Denial::NoCertificate => Unauthorized::NoCertificate,
        Denial::Role { workers_too } => Unauthorized::Role { allowed: roles(workers_too) },
        Denial::Removed(node) => Unauthorized::Removed { node },
        Denial::Organization(cluster) => {
            Unauthorized::Organization { cluster: state.cluster_id().cloned().unwrap_or(cluster) }
        }
        Denial::Revoked(node) => Unauthorized::Revoked { node },
        Denial::Unregistered(node) => Unauthorized::Unregistered { node },
        Denial::Cut(node) => Unauthorized::Withdrawn { node },
        Denial::Expired(node) | Denial::Quarantined(node, _) => Unauthorized::MustRenew { node },
        Denial::Forwarder(_)
        | Denial::ForwardedIncomplete
        | Denial::ForwardedRole { .. }
        | Denial::ForwardedOrganization
        | Denial::ForwardedRemoved(_)
        | Denial::ForwardedRevoked(_) => return Err(Unauthorized::NoPeer),
    })
}
