//! The way from this manager to the other members of its group: one connection to each for what is small, one for what is large, made when
//! they are needed and made anew when they break.
//!
//! A member is known by its place (raft id), its node, and its registered key; an address is a hint and proves nothing. Its leaf may
//! have expired: managers that slept for too long find each other again. One who was away cannot know the newest leaf of another: while it hears
//! no leader it lets itself be told of the log, and of nothing else, by a leaf that is newer than those it knows.

mod dial;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cluster::authorize::Presented;
use cluster::node::IssuerHash;
use cluster::{State, epoch};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use pki::identity::{NodeId, Role};
use pki::key::SpkiHash;
use pki::time::Time;
use replica::carrier::{Carrier, CarryError};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::managers::{AskRequest, EnlistRequest, EnlistResponse, GroupMember, ManagersClient};

use crate::shared::Clock;

/// The largest message between managers: an entry of the log, at most 8 MiB, and what is around it.
pub(crate) const MANAGERS_BYTES_MAX: usize = 12 * 1024 * 1024;

/// A member of the group as another one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its place in the group.
    pub raft_id: u64,
    /// Its node.
    pub node: NodeId,
    /// host:port.
    pub addr: String,
    /// The public keys of the leaves on record for it.
    pub keys: Vec<SpkiHash>,
}

/// The place that a newcomer was given, and whom it believes until it knows the cluster's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its place in the group.
    pub raft_id: u64,
    /// The cluster.
    pub cluster: pki::identity::ClusterId,
    /// The cluster's epoch.
    pub epoch: u64,
    /// The group.
    pub members: Vec<Member>,
}

/// Why a node got no place in the group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnlistError {
    /// No manager could be asked: try again.
    #[error("{0}")]
    Unreachable(String),
    /// A manager refused.
    #[error("{message}")]
    Refused {
        /// The gRPC code.
        code: Code,
        /// In its words.
        message: String,
    },
}

/// The connections to the other members. Clones share them.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

struct Inner {
    identity: mtls::Live,
    clock: Clock,
    states: OnceLock<watch::Receiver<Arc<State>>>,
    own: OnceLock<u64>,
    told: Mutex<Option<Place>>,
    /// Members that were heard by a leaf which is not known here, and which leaf that was.
    heard: Mutex<BTreeMap<NodeId, SpkiHash>>,
    lines: Mutex<BTreeMap<(u64, bool), Line>>,
    /// Where members were found that are not where the state says.
    found: Mutex<BTreeMap<NodeId, Found>>,
    /// Members that could not be reached when they were last tried.
    missed: Mutex<BTreeMap<u64, Missed>>,
    /// Counts them.
    dialled: AtomicU64,
    /// What another manager said of a cluster that was made anew without this one.
    outlived: watch::Sender<Option<String>>,
}

/// A member was found here, while the state has it there: that is so until the state says something else, or it is here no more.
struct Found {
    here: String,
    there: String,
}

/// A member that could not be reached when it was last tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    /// When it was first tried in vain.
    pub(crate) since: Time,
    /// Why the last try was in vain.
    pub(crate) why: String,
    last: Instant,
}

/// One connection, or one that is being made: for everybody who wants it, and whether or not they wait for it so long. Whoever has less time than it
/// takes to connect finds the connection there the next time.
struct Line {
    number: u64,
    addr: String,
    /// The identity that it is made with: another one is known to the other end by a connection of its own, before the leaf of this one
    /// has ended or is forgotten.
    identity: u64,
    channel: Shared<BoxFuture<'static, Result<Channel, CarryError>>>,
}

impl Peers {
    /// None yet.
    #[must_use]
    pub fn new(identity: mtls::Live, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            identity,
            clock,
            states: OnceLock::new(),
            own: OnceLock::new(),
            told: Mutex::new(None),
            heard: Mutex::default(),
            lines: Mutex::new(BTreeMap::new()),
            found: Mutex::default(),
            missed: Mutex::default(),
            dialled: AtomicU64::new(0),
            outlived: watch::Sender::new(None),
        }))
    }

    /// Takes the group from the replicated state from now on, as the member `own`.
    pub(crate) fn follow(&self, own: u64, states: watch::Receiver<Arc<State>>) {
        // A second start is the same group's.
        let _ = (self.0.states.set(states), self.0.own.set(own));
    }

    /// Believes what was told at enlisting until the state is known.
    pub fn believe(&self, place: Place) {
        *self.told() = Some(place);
    }

    /// Asks the manager at `addr` for a place in the group, for the node whose identity this is. `own_addr` is where the other managers
    /// reach it, `raft_id` the place of the store it has, if it has one: it gets that place, or is refused with
    /// [`Code::NotFound`] if that is given up.
    ///
    /// # Errors
    /// [`EnlistError`].
    pub async fn enlist(&self, addr: &str, own_addr: &str, raft_id: Option<u64>) -> Result<Place, EnlistError> {
        let unreachable = |what: &dyn std::fmt::Display| EnlistError::Unreachable(format!("{addr}: {what}"));
        let (channel, leaf, _) =
            dial::manager(&self.0.identity, addr, &mtls::Expect::manager(), (self.0.clock)(), STRANGER_WITHIN)
                .await
                .map_err(|error| unreachable(&error))?;
        if self.own_state().is_some_and(|state| state.peer(&leaf).is_some()) {
            self.find(&leaf.node, addr);
        }
        let request = EnlistRequest { addr: own_addr.to_owned(), raft_id: raft_id.unwrap_or_default() };
        let mut client = ManagersClient::new(channel);
        let answer = tokio::time::timeout(ENLIST_WITHIN, client.enlist(request)).await;
        match answer {
            Err(_) => Err(unreachable(&"no answer in time")),
            Ok(Err(status)) if is_broken(&status) => Err(unreachable(&status.message())),
            Ok(Err(status)) => Err(EnlistError::Refused { code: status.code(), message: status.message().to_owned() }),
            Ok(Ok(response)) => place(response.into_inner()).ok_or_else(|| unreachable(&"its answer names no place")),
        }
    }

    /// A member was reached at this address, or says that it is there: it is looked for there first. Whoever answers there has to prove
    /// that it is the member, so the address need not be committed for that: a group that has moved as a whole can elect a leader.
    pub(crate) fn find(&self, node: &NodeId, here: &str) {
        let row = self.own_state().and_then(|state| state.members.rows.get(node).map(|row| row.addr.clone()));
        let mut found = self.found();
        match row.filter(|there| there != here) {
            Some(there) => drop(found.insert(node.clone(), Found { here: here.to_owned(), there })),
            None => drop(found.remove(node)),
        }
    }

    /// Nobody answers for the member there.
    fn lose(&self, node: &NodeId, here: &str) {
        let mut found = self.found();
        if found.get(node).is_some_and(|found| found.here == here) {
            found.remove(node);
        }
    }

    /// Where the other members are to be looked for.
    pub(crate) fn others(&self) -> Vec<String> {
        let own = self.0.own.get();
        let rows =
            self.own_state().into_iter().flat_map(|state| state.members.rows.values().cloned().collect::<Vec<_>>());
        let others = rows.map(|row| row.raft_id).filter(|raft_id| Some(raft_id) != own);
        others.filter_map(|raft_id| self.address(raft_id)).map(|(_, addr)| addr).collect()
    }

    /// The place in the group of whoever presented this leaf, if it has one.
    pub(crate) fn raft_id_of(&self, leaf: &Presented, now: Time) -> Option<u64> {
        if leaf.role != Role::Manager {
            return None;
        }
        match self.own_state() {
            Some(state) => state.peer(leaf).map(|(_, raft_id)| raft_id),
            None => {
                let told = self.told();
                let place = told.as_ref().filter(|place| place.cluster == leaf.cluster)?;
                let member = place.members.iter().find(|member| member.node == leaf.node)?;
                (leaf.not_after >= now || member.keys.contains(&leaf.spki)).then_some(member.raft_id)
            }
        }
    }

    /// The place of whoever presented a leaf that is not known here, if it may be one that another manager got while this one was away: newer than
    /// those that are known, not ended, and under a root that counts: in the state, or by what the node itself has come to trust, which may be a
    /// root that the state here has not heard of. Only who has heard no leader for a while may go by this.
    pub(crate) fn newer_leaf_of(&self, leaf: &Presented, anchor: &IssuerHash, now: Time) -> Option<u64> {
        let state = self.state()?;
        let row = state.members.rows.get(&leaf.node)?;
        let record = state.node(&leaf.node)?;
        let newest = record.leaves().map(|known| known.not_before).max()?;
        let stands = leaf.role == Role::Manager
            && state.cluster_id() == Some(&leaf.cluster)
            && leaf.not_after >= now
            && leaf.not_before >= newest
            && (state.roots.in_use().any(|root| root.issuer == *anchor) || self.trusts(anchor));
        stands.then_some(row.raft_id)
    }

    /// Whether whoever presented this leaf, which need not be known here, was a manager before the cluster was made anew: it may have been renewed
    /// by those who were left behind.
    pub(crate) fn outlived_leaf(&self, leaf: &Presented, anchor: &IssuerHash, now: Time) -> bool {
        let Some(state) = self.state() else { return false };
        let was = state.refounded.as_ref().is_some_and(|refounded| refounded.outlived.contains(&leaf.node));
        was && leaf.role == Role::Manager
            && state.cluster_id() == Some(&leaf.cluster)
            && leaf.not_after >= now
            && state.roots.in_use().any(|root| root.issuer == *anchor)
    }

    /// Whether the member was heard by this leaf before, which is not known here.
    pub(crate) fn was_heard(&self, leaf: &Presented) -> bool {
        self.heard().get(&leaf.node) == Some(&leaf.spki)
    }

    /// The member is heard by this leaf.
    pub(crate) fn note_heard(&self, leaf: &Presented) {
        self.heard().insert(leaf.node.clone(), leaf.spki);
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, SpkiHash>> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the node of this manager trusts this root.
    fn trusts(&self, anchor: &IssuerHash) -> bool {
        let current = self.0.identity.current();
        let roots = current.iter().flat_map(|current| current.trust().certificates());
        roots.into_iter().any(|root| IssuerHash::of(&root.issuer_id()) == *anchor)
    }

    /// The member answered.
    fn reached(&self, to: u64) {
        self.missed().remove(&to);
    }

    /// The member could not be reached.
    fn miss(&self, to: u64, why: &CarryError) {
        let (CarryError::Unreachable(why) | CarryError::Lost(why) | CarryError::Refused(why)) = why;
        let at = self.address(to).map(|(_, addr)| format!("{addr}: ")).unwrap_or_default();
        let why = why.strip_prefix(&at).unwrap_or(why).to_owned();
        let (now, last) = ((self.0.clock)(), Instant::now());
        let mut missed = self.missed();
        // What was long ago is another story: it was not tried since.
        let since = missed.get(&to).filter(|before| before.is_fresh()).map_or(now, |before| before.since);
        missed.insert(to, Missed { since, why, last });
    }

    /// Since when the member cannot be reached from here, and why: known of those that were tried a moment ago. Who follows a leader tries it alone,
    /// who looks for one tries everybody.
    pub(crate) fn misses(&self, to: u64) -> Option<Missed> {
        self.missed().get(&to).filter(|missed| missed.is_fresh()).cloned()
    }

    fn missed(&self) -> MutexGuard<'_, BTreeMap<u64, Missed>> {
        self.0.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until another member says that the cluster was made anew without this one; what is to be done then.
    pub async fn outlived(&self) -> String {
        let mut told = self.0.outlived.subscribe();
        match told.wait_for(Option::is_some).await.map(|told| told.clone()) {
            Ok(Some(text)) => text,
            _ => std::future::pending().await,
        }
    }

    /// The cluster and its epoch, as known here.
    pub(crate) fn scope(&self) -> Option<(String, u64)> {
        if let Some(state) = self.state() {
            return state.cluster_id().map(|cluster| (cluster.as_str().to_owned(), state.epoch()));
        }
        self.told().as_ref().map(|place| (place.cluster.as_str().to_owned(), place.epoch))
    }

    /// A client of the member, if it can be reached.
    pub(crate) async fn client(&self, to: u64, bulk: bool) -> Result<ManagersClient<Channel>, CarryError> {
        let (node, addr) = self
            .address(to)
            .ok_or_else(|| CarryError::Unreachable(format!("nobody knows where member {to} of the group is")))?;
        let identity = self.0.identity.current().map_or(0, |current| current.generation());
        let (number, channel) = {
            let mut lines = self.lines();
            let stands = lines.get(&(to, bulk)).filter(|line| line.addr == addr && line.identity == identity);
            match stands {
                Some(line) => (line.number, line.channel.clone()),
                None => {
                    let number = self.0.dialled.fetch_add(1, Ordering::Relaxed);
                    let channel = self.dial(to, node.clone(), addr.clone());
                    let line = Line { number, addr: addr.clone(), identity, channel: channel.clone() };
                    lines.insert((to, bulk), line);
                    (number, channel)
                }
            }
        };
        let channel = channel.await.inspect_err(|_| {
            self.lose(&node, &addr);
            let mut lines = self.lines();
            if lines.get(&(to, bulk)).is_some_and(|line| line.number == number) {
                lines.remove(&(to, bulk));
            }
        })?;
        Ok(ManagersClient::new(channel)
            .max_decoding_message_size(MANAGERS_BYTES_MAX)
            .max_encoding_message_size(MANAGERS_BYTES_MAX))
    }

    /// Connects to the member, by a task that goes on when nobody waits.
    fn dial(&self, to: u64, node: NodeId, addr: String) -> Shared<BoxFuture<'static, Result<Channel, CarryError>>> {
        let peers = self.clone();
        let dialling = tokio::spawn(async move {
            let dialled = peers.connect(to, node, &addr).await;
            dialled.inspect_err(|error| peers.miss(to, error))
        });
        async move { dialling.await.unwrap_or_else(|error| Err(CarryError::Unreachable(error.to_string()))) }
            .boxed()
            .shared()
    }

    async fn connect(&self, to: u64, node: NodeId, addr: &str) -> Result<Channel, CarryError> {
        let now = (self.0.clock)();
        let (channel, leaf, anchor) =
            dial::manager(&self.0.identity, addr, &mtls::Expect::member(node), now, MEMBER_WITHIN)
                .await
                .map_err(|error| CarryError::Unreachable(format!("{addr}: {error}")))?;
        if self.raft_id_of(&leaf, now) != Some(to) {
            if self.newer_leaf_of(&leaf, &anchor, now) == Some(to) {
                self.ask_epoch(channel).await;
            }
            return Err(CarryError::Unreachable(format!("{addr}: it is not member {to} of the group")));
        }
        Ok(channel)
    }

    /// The connection to the member broke: the next call makes another. One that is still being made is not broken.
    pub(crate) fn hang_up(&self, to: u64, bulk: bool) {
        let mut lines = self.lines();
        if lines.get(&(to, bulk)).is_some_and(|line| line.channel.peek().is_some()) {
            lines.remove(&(to, bulk));
        }
    }

    async fn carry(self, to: u64, question: Vec<u8>, bulk: bool, deadline: Instant) -> Result<Vec<u8>, CarryError> {
        let Some((cluster, epoch)) = self.scope() else {
            return Err(CarryError::Unreachable("this member does not know its cluster".to_owned()));
        };
        let from = self.0.own.get().copied().or_else(|| self.told().as_ref().map(|place| place.raft_id));
        // What waits for a connection was surely not delivered.
        let client = tokio::time::timeout_at(deadline, self.client(to, bulk)).await;
        let mut client = client.unwrap_or_else(|_| Err(CarryError::Unreachable("no connection in time".to_owned())))?;
        let request = AskRequest { cluster, epoch, from: from.unwrap_or_default(), question };
        match client.ask(request).await {
            Ok(response) => Ok(response.into_inner().answer),
            Err(status) if is_broken(&status) => {
                self.hang_up(to, bulk);
                Err(CarryError::Lost(status.message().to_owned()))
            }
            Err(status) => {
                // Whom it takes this member for was decided with the connection.
                if status.code() == Code::PermissionDenied {
                    self.hang_up(to, bulk);
                }
                self.look_for_epoch(&status, epoch);
                Err(CarryError::Refused(status.message().to_owned()))
            }
        }
    }

    /// Asks who answers for a member by a leaf that is not known here, and may be newer than this manager's state, one thing only: whether
    /// the cluster was made anew. Whoever has a root's key can answer that, too; this manager stops then, and says so.
    async fn ask_epoch(&self, channel: Channel) {
        let Some((cluster, epoch)) = self.scope() else { return };
        let from = self.0.own.get().copied().unwrap_or_default();
        let request = AskRequest { cluster, epoch, from, question: Vec::new() };
        let mut client = ManagersClient::new(channel);
        if let Ok(Err(status)) = tokio::time::timeout(MEMBER_WITHIN, client.ask(request)).await {
            self.look_for_epoch(&status, epoch);
        }
    }

    /// A refusal may say that the cluster was made anew without this manager. Only a member of the group is asked, and so believed.
    fn look_for_epoch(&self, status: &Status, epoch: u64) {
        let later = |theirs: &u64| epoch::generation(*theirs) > epoch::generation(epoch);
        let Some(theirs) = epoch_of(status).filter(later) else { return };
        let (epoch, theirs) = (epoch::text(epoch), epoch::text(theirs));
        tracing::error!(epoch, theirs, "the cluster was made anew without this manager");
        self.0.outlived.send_replace(Some(format!(
            "{}; this manager's state is of epoch {epoch}. Run \"swarmpki leave --force\" here and join again.",
            status.message()
        )));
    }

    fn address(&self, to: u64) -> Option<(NodeId, String)> {
        match self.own_state() {
            Some(state) => {
                let (node, row) = state.members.rows.iter().find(|(_, row)| row.raft_id == to)?;
                let found = self.found();
                let here = found.get(node).filter(|found| found.there == row.addr).map(|found| found.here.clone());
                Some((node.clone(), here.unwrap_or_else(|| row.addr.clone())))
            }
            None => {
                let told = self.told();
                let member = told.as_ref()?.members.iter().find(|member| member.raft_id == to)?;
                Some((member.node.clone(), member.addr.clone()))
            }
        }
    }

    /// The state, if there is one here.
    fn state(&self) -> Option<Arc<State>> {
        self.0.states.get().map(|states| Arc::clone(&states.borrow())).filter(|state| state.cluster_id().is_some())
    }

    /// The state, if it is one of after this member got its place. One that is still being filled speaks of a group of long ago, in which the
    /// members of now may have had no place: to whoever was told of them at enlisting, that is nearer the truth.
    fn own_state(&self) -> Option<Arc<State>> {
        let state = self.state()?;
        let own = self.0.own.get().copied();
        let mine = || state.members.rows.values().any(|row| Some(row.raft_id) == own);
        (mine() || self.told().is_none()).then_some(state)
    }

    fn told(&self) -> MutexGuard<'_, Option<Place>> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, BTreeMap<NodeId, Found>> {
        self.0.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<(u64, bool), Line>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Carrier for Peers {
    fn ask(
        &self,
        to: u64,
        question: Vec<u8>,
        within: Duration,
        bulk: bool,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarryError>> {
        let peers = self.clone();
        Box::pin(async move {
            let deadline = Instant::now() + within;
            let asked = peers.clone().carry(to, question, bulk, deadline);
            let answer = match tokio::time::timeout_at(deadline, asked).await {
                Ok(answer) => answer,
                Err(_) => {
                    // A connection that says nothing may be dead without a word.
                    peers.hang_up(to, bulk);
                    Err(CarryError::Lost(format!("no answer within {} ms", within.as_millis())))
                }
            };
            match &answer {
                Ok(_) | Err(CarryError::Refused(_)) => peers.reached(to),
                Err(error @ (CarryError::Unreachable(_) | CarryError::Lost(_))) => peers.miss(to, error),
            }
            answer
        })
    }
}

impl Missed {
    /// Whether it was tried a moment ago.
    fn is_fresh(&self) -> bool {
        self.last.elapsed() < MISSED_FOR
    }
}

/// How long a try in vain says something. Elections, and a leader's heartbeats, try again sooner.
const MISSED_FOR: Duration = Duration::from_secs(10);

/// In a refusal: the epoch of the cluster that was made anew without the caller.
const EPOCH_KEY: &str = "swarmpki-epoch";

/// The refusal of a manager of before the cluster was made anew.
pub(crate) fn made_anew(state: &State) -> Option<Status> {
    let refounded = state.refounded.as_ref()?;
    let how = if refounded.backup.is_some() { "restored from a backup" } else { "force-new-cluster" };
    let (epoch, at) = (state.epoch(), refounded.at.rfc3339());
    let shown = epoch::text(epoch);
    let mut status = Status::failed_precondition(format!("this cluster was made anew (epoch {shown}, {how} on {at})"));
    status.metadata_mut().insert(EPOCH_KEY, epoch.into());
    Some(status)
}

/// In a refusal by the leader: the caller has no place in the group.
const OUT_KEY: &str = "swarmpki-no-place";

/// The refusal of one that has no place in the group, by the leader, who would know.
pub(crate) fn without_place(mut refused: Status) -> Status {
    refused.metadata_mut().insert(OUT_KEY, tonic::metadata::MetadataValue::from_static("1"));
    refused
}

/// Whether the leader says that this manager has no place in the group.
pub(crate) fn is_without_place(status: &Status) -> bool {
    status.metadata().contains_key(OUT_KEY)
}

fn epoch_of(status: &Status) -> Option<u64> {
    status.metadata().get(EPOCH_KEY)?.to_str().ok()?.parse().ok()
}

/// Time for a connection to a member. The group hears nothing of it meanwhile: one that the network has swallowed is given up soon.
const MEMBER_WITHIN: Duration = Duration::from_secs(2);
/// Time for a connection to a manager of a group that this node is not in yet.
const STRANGER_WITHIN: Duration = Duration::from_secs(5);
/// Time for an answer to a request for a place: it is committed before.
const ENLIST_WITHIN: Duration = Duration::from_secs(10);

/// Whether a call ended because its connection did.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// What a manager tells a newcomer of the group.
pub(crate) fn response(state: &State, raft_id: u64) -> Option<EnlistResponse> {
    let cluster = state.cluster_id()?.as_str().to_owned();
    let members = state.members.rows.iter().map(|(node, row)| {
        let record = state.node(node);
        let keys = record.map(|record| record.leaves().map(|leaf| leaf.spki.0.to_vec()).collect()).unwrap_or_default();
        GroupMember { raft_id: row.raft_id, node: node.to_string(), addr: row.addr.clone(), keys }
    });
    Some(EnlistResponse { raft_id, cluster, epoch: state.epoch(), members: members.collect() })
}

fn place(response: EnlistResponse) -> Option<Place> {
    let member = |member: GroupMember| {
        let keys = member.keys.iter().filter_map(|key| Some(SpkiHash(key.as_slice().try_into().ok()?))).collect();
        Some(Member { raft_id: member.raft_id, node: member.node.parse().ok()?, addr: member.addr, keys })
    };
    Some(Place {
        raft_id: Some(response.raft_id).filter(|id| *id != 0)?,
        cluster: response.cluster.parse().ok()?,
        epoch: response.epoch,
        members: response.members.into_iter().map(member).collect::<Option<_>>()?,
    })
}
