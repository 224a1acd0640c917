//! Heads of the issuance log: as this manager signs them for every node of ours, and as nodes show them to it.
//!
//! - One signature in [`HEAD_EVERY`], and only if something has changed, whoever listens.
//! - What a node shows is a manager's word of earlier: it has to be in this manager's log. What is not is an alarm that names who signed it.
//! - A manager that has less than a node shows asks the others first, before it calls anything lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::State;
use mtls::Statement;
use pki::digest::hex;
use pki::identity::NodeId;
use pki::merkle::{self, Hash};
use pki::witness::Head;
use replica::{Handle, LogSince};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::convert::log_head;
use wire::limits::NEWS_LOG_HEAD;

use crate::alarm::Alarm;
use crate::shared::Shared;
use crate::view::ForkSeen;

/// A head is signed no sooner after the last one.
pub const HEAD_EVERY: Duration = Duration::from_secs(10);

/// Proofs that are kept for whoever asks next.
const PROOFS_MAX: usize = 64;

/// Proofs that are made at a time.
const PROVING_MAX: usize = 2;

/// Contradictions that are shown to operators; with more, the oldest goes.
const FORKS_MAX: usize = 16;

/// A head that this manager signed.
#[derive(Debug)]
pub struct Signed {
    /// What was said.
    pub head: Head,
    /// As it was said.
    pub statement: Arc<Statement>,
    /// The identity that it was signed with.
    generation: u64,
}

/// The heads of one manager.
pub(crate) struct Heads {
    newest: watch::Sender<Option<Arc<Signed>>>,
    /// By how many entries it was before, and how many it is.
    proofs: Mutex<BTreeMap<(u64, u64), Arc<LogSince>>>,
    proving: tokio::sync::Semaphore,
    forks: Mutex<Vec<ForkSeen>>,
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            newest: watch::Sender::new(None),
            proofs: Mutex::default(),
            proving: tokio::sync::Semaphore::new(PROVING_MAX),
            forks: Mutex::default(),
        }
    }
}

impl Heads {
    /// Changes when there is another head to tell.
    pub(crate) fn changed(&self) -> watch::Receiver<Option<Arc<Signed>>> {
        self.newest.subscribe()
    }

    /// What contradicted this manager's log, oldest first.
    pub(crate) fn forks(&self) -> Vec<ForkSeen> {
        self.forks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn kept(&self, key: (u64, u64)) -> Option<Arc<LogSince>> {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    fn keep(&self, key: (u64, u64), since: &Arc<LogSince>) {
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        // Those to the newest head stay: everybody who listens is at the same place.
        proofs.retain(|(_, size), _| *size == key.1);
        if proofs.len() >= PROOFS_MAX {
            proofs.pop_first();
        }
        proofs.insert(key, Arc::clone(since));
    }

    fn note(&self, fork: ForkSeen) {
        let mut forks = self.forks.lock().unwrap_or_else(PoisonError::into_inner);
        if forks.iter().any(|known| known.head == fork.head && known.signed_by == fork.signed_by) {
            return;
        }
        if forks.len() >= FORKS_MAX {
            forks.remove(0);
        }
        forks.push(fork);
    }
}

/// Who listens, and what it holds.
pub(crate) struct Listener {
    /// Who it is.
    node: NodeId,
    held: Option<Head>,
    /// What it showed when it came, to be judged: the head that it keeps, and one that contradicts it.
    shown: [Option<Statement>; 2],
}

impl Listener {
    pub(crate) fn new(node: NodeId, kept: Option<Statement>, fork: Option<Statement>) -> Self {
        let held = kept.as_ref().and_then(|kept| log_head::decode(&kept.content).ok());
        Self { node, held, shown: [kept, fork] }
    }
}

/// What this manager's log says of a head.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// It is of this log, which goes on like this.
    Fits(Arc<LogSince>),
    /// The log had another root; how it goes on from that.
    Differs(Arc<LogSince>),
    /// The cluster's log has fewer entries.
    Lost,
    /// It is of a cluster that was made anew from this one, or pretends to be.
    LaterEpoch,
    /// It is of this cluster before it was made anew, and says nothing of what came after.
    Bygone,
    /// It cannot be judged now.
    Unknown,
}

/// What a listener is told that it does not know yet: a head, and that it goes on from the one it holds.
pub(crate) async fn next<H: Handle>(
    shared: &Shared<H>,
    listener: &mut Listener,
) -> Option<(Arc<Statement>, Vec<Hash>)> {
    let signed = shared.heads.newest.borrow().clone()?;
    let state = shared.handle.state();
    if state.cluster_id() != Some(&signed.head.cluster) || state.epoch() != signed.head.epoch {
        return None;
    }
    if let Some(said) = listener.shown[1].take()
        && let Ok(head) = log_head::decode(&said.content)
    {
        let judgement = judge(shared, &signed, &head).await;
        weigh(shared, &listener.node, &said, &head, &judgement);
    }
    let held = listener.held.clone().filter(|held| held.cluster == signed.head.cluster);
    let proof = match &held {
        None => Vec::new(),
        Some(held) if (held.epoch, held.size, held.root) == (signed.head.epoch, signed.head.size, signed.head.root) => {
            listener.shown[0] = None;
            return None;
        }
        Some(held) => {
            let judgement = judge(shared, &signed, held).await;
            if judgement == Judgement::Unknown {
                return None;
            }
            if let Some(kept) = listener.shown[0].take() {
                weigh(shared, &listener.node, &kept, held, &judgement);
            }
            match judgement {
                Judgement::Fits(since) | Judgement::Differs(since) => since.path.clone(),
                Judgement::Lost | Judgement::LaterEpoch | Judgement::Bygone | Judgement::Unknown => Vec::new(),
            }
        }
    };
    listener.held = Some(signed.head.clone());
    Some((Arc::clone(&signed.statement), proof))
}

async fn judge<H: Handle>(shared: &Shared<H>, signed: &Signed, head: &Head) -> Judgement {
    if head.cluster != signed.head.cluster {
        return Judgement::Unknown;
    }
    if head.epoch > signed.head.epoch {
        return Judgement::LaterEpoch;
    }
    if head.size > signed.head.size {
        if head.epoch < signed.head.epoch {
            return Judgement::Bygone;
        }
        if head.size <= shared.handle.state().log_size() {
            return Judgement::Unknown;
        }
        return match shared.look().await {
            Some(state) if head.size > state.log_size() => Judgement::Lost,
            _ => Judgement::Unknown,
        };
    }
    let Some(since) = prove(shared, head.size, &signed.head).await else { return Judgement::Unknown };
    match since.root == head.root {
        true => Judgement::Fits(since),
        false if head.epoch < signed.head.epoch => Judgement::Bygone,
        false => Judgement::Differs(since),
    }
}

/// Says what is wrong with a head that was shown, if anything is and a manager did sign it.
fn weigh<H: Handle>(shared: &Shared<H>, shown_by: &NodeId, said: &Statement, head: &Head, judgement: &Judgement) {
    let why = match judgement {
        Judgement::Fits(_) | Judgement::Bygone | Judgement::Unknown => return,
        Judgement::Differs(_) => "this manager's log has others in place of these entries",
        Judgement::Lost => "the managers' log has fewer entries",
        Judgement::LaterEpoch => "it is of a later epoch: the cluster was made anew elsewhere, or somebody pretends so",
    };
    let now = shared.now();
    match shared.identity.who_said(NEWS_LOG_HEAD, said, head.at.min(now)) {
        Ok(signer) => {
            let signed_by = signer.subject.node;
            shared.heads.note(ForkSeen {
                at: now,
                shown_by: shown_by.clone(),
                signed_by: signed_by.clone(),
                head: head.clone(),
                why: why.to_owned(),
            });
            shared.touch();
            let (size, root) = (head.size, hex(&head.root));
            shared.alarms.raise(Alarm::LogForked { node: shown_by.clone(), signed_by, size, root, why }, now);
        }
        Err(error) => {
            // Its text is the node's choice, and no part of the alarm: one node causes one.
            tracing::debug!(node = %shown_by, %error, "a head that a node shows is not proven");
            shared.alarms.raise(Alarm::HeadUnproven { node: shown_by.clone() }, now);
        }
    }
}

/// How the log goes on from what it was with `before` entries, to a head of our own; none: that cannot be said now.
async fn prove<H: Handle>(shared: &Shared<H>, before: u64, head: &Head) -> Option<Arc<LogSince>> {
    let key = (before, head.size);
    if let Some(since) = shared.heads.kept(key) {
        return Some(since);
    }
    let _turn = shared.heads.proving.acquire().await.ok()?;
    if let Some(since) = shared.heads.kept(key) {
        return Some(since);
    }
    let since = Arc::new(shared.handle.log_since(before, head.size).await?);
    // The head is the state's; what lies on the disk beside it may be damaged. Then nobody else is to be blamed.
    if !merkle::extends(before, &since.root, head.size, &head.root, &since.path) {
        shared.alarms.raise(Alarm::LogDamaged, shared.now());
        return None;
    }
    shared.heads.keep(key, &since);
    Some(since)
}

impl<H: Handle> Shared<H> {
    /// The head of now, signed; none: there is nothing to sign it with, or nothing to say.
    pub(crate) fn sign_head(&self) -> Option<Arc<Signed>> {
        self.sign_head_of(&self.handle.state())
    }

    /// The same of a state.
    pub(crate) fn sign_head_of(&self, state: &State) -> Option<Arc<Signed>> {
        let current = self.identity.current()?;
        let newest = self.heads.newest.borrow().clone();
        if let Some(newest) = newest.filter(|newest| newest.generation == current.generation() && is_of(newest, state))
        {
            return Some(newest);
        }
        let head = Head {
            cluster: state.cluster_id()?.clone(),
            epoch: state.epoch(),
            size: state.log_size(),
            root: state.log.root(),
            at: self.now(),
        };
        match current.say(NEWS_LOG_HEAD, log_head::encode(&head)) {
            Ok(statement) => {
                Some(Arc::new(Signed { head, statement: Arc::new(statement), generation: current.generation() }))
            }
            Err(error) => {
                tracing::warn!(%error, "the head of the issuance log is not signed");
                None
            }
        }
    }
}

fn is_of(signed: &Signed, state: &State) -> bool {
    signed.head.epoch == state.epoch() && signed.head.size == state.log_size()
}

/// Signs heads as the log grows, until `over`.
pub(crate) async fn publish<H: Handle>(shared: Arc<Shared<H>>, over: CancellationToken) {
    let mut states = shared.handle.watch();
    let mut identities = shared.identity.changed();
    loop {
        identities.mark_unchanged();
        let signed = shared.sign_head();
        if let Some(signed) = signed.clone() {
            shared.heads.newest.send_if_modified(|newest| {
                let another = !newest.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, &signed));
                *newest = Some(signed);
                another
            });
        }
        let work = async {
            tokio::time::sleep(HEAD_EVERY).await;
            tokio::select! {
                grown = states.wait_for(|state| !signed.as_ref().is_some_and(|signed| is_of(signed, state))) => grown.is_ok(),
                renewed = identities.changed() => renewed.is_ok(),
            }
        };
        tokio::select! {
            () = over.cancelled() => return,
            more = work => if !more { return },
        }
    }
}

/// A statement as it came.
pub(crate) fn from_wire(statement: wire::node::Statement) -> Option<Statement> {
    let scheme = u16::try_from(statement.scheme).ok()?;
    let wire::node::Statement { chain, content, signature, .. } = statement;
    Some(Statement { chain, scheme, content, signature })
}
