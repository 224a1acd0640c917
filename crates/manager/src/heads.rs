//! Heads of the issuance log: as this manager signs them for every node of ours, and as nodes show them to it.
//!
//! - One signature in [`HEAD_EVERY`], and only if something has changed, whoever listens.
//! - What a node shows is a manager's word of earlier: it has to be in this manager's log. What is not is an alarm that names who signed it, also if
//!   that certificate was taken back since.
//! - Who signed it comes first: for what nobody signed no log is read and no manager asked. Each node has so many looks.
//! - What cannot be judged now is judged when there is another head to tell.
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
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::convert::log_head;
use wire::limits::{NEWS_FORKS_MAX, NEWS_LOG_HEAD};

use crate::alarm::Alarm;
use crate::shared::Shared;
use crate::view::ForkSeen;

/// A head is signed no sooner after the last one.
pub const HEAD_EVERY: Duration = Duration::from_secs(10);

/// Proofs that are kept for whoever asks next.
const PROOFS_MAX: usize = 64;

/// Proofs that are made at a time.
const PROVING_MAX: usize = 2;

/// Contradictions that are shown to operators: the first of each manager that signed one. Later ones push nothing out.
const FORKS_MAX: usize = 16;

/// Looks that a node has at once: signatures that are verified and proofs that are made for it. What it may show at once takes two each.
const LOOKS_MAX: u32 = 32;
const _: () = assert!(LOOKS_MAX as usize >= 2 * (1 + 2 * NEWS_FORKS_MAX));

/// It gets one more each time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
    looks: Mutex<Looks>,
}

/// When each node's looks are whole again.
#[derive(Default)]
struct Looks {
    whole: BTreeMap<NodeId, Instant>,
    tidied: Option<Instant>,
}

impl Looks {
    /// Takes one of this node's; whether it had any.
    fn take(&mut self, node: &NodeId, now: Instant) -> bool {
        let all = LOOK_EVERY * LOOKS_MAX;
        if self.tidied.is_none_or(|tidied| now >= tidied + all) {
            self.whole.retain(|_, whole| *whole > now);
            self.tidied = Some(now);
        }
        let whole = self.whole.get(node).map_or(now, |whole| (*whole).max(now)) + LOOK_EVERY;
        let has = whole <= now + all;
        if has {
            self.whole.insert(node.clone(), whole);
        }
        has
    }
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            newest: watch::Sender::new(None),
            proofs: Mutex::default(),
            proving: tokio::sync::Semaphore::new(PROVING_MAX),
            forks: Mutex::default(),
            looks: Mutex::default(),
        }
    }
}

impl Heads {
    /// Changes when there is another head to tell.
    pub(crate) fn changed(&self) -> watch::Receiver<Option<Arc<Signed>>> {
        self.newest.subscribe()
    }

    /// Takes one of a node's looks; whether it had any.
    fn may_look(&self, node: &NodeId) -> bool {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner).take(node, Instant::now())
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
        let known = forks.iter().any(|known| known.signed_by == fork.signed_by);
        if !known && forks.len() < FORKS_MAX {
            forks.push(fork);
        }
    }
}

/// Who listens, and what it holds.
pub(crate) struct Listener {
    /// Who it is.
    node: NodeId,
    held: Option<Head>,
    /// The head that it kept when it came, until it was judged.
    kept: Option<Shown>,
    /// Heads of contradictions, until they were judged.
    evidence: Vec<Shown>,
}

/// A head that a node shows.
struct Shown {
    head: Head,
    by: By,
}

/// Who signed it.
enum By {
    /// Nobody looked.
    Unknown(Statement),
    /// A manager of this cluster.
    Manager(NodeId),
    /// Nobody whom this manager knows.
    Nobody,
}

impl Listener {
    pub(crate) fn new(node: NodeId, kept: Option<Statement>, evidence: impl Iterator<Item = Statement>) -> Self {
        let shown = |said: Statement| {
            let head = log_head::decode(&said.content).ok()?;
            Some(Shown { head, by: By::Unknown(said) })
        };
        let kept = kept.and_then(shown);
        let held = kept.as_ref().map(|kept| kept.head.clone());
        Self { node, held, kept, evidence: evidence.take(2 * NEWS_FORKS_MAX).filter_map(shown).collect() }
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
    for mut shown in std::mem::take(&mut listener.evidence) {
        if !identify(shared, &listener.node, &mut shown) {
            listener.evidence.push(shown);
            continue;
        }
        if matches!(shown.by, By::Nobody) {
            shared.alarms.raise(Alarm::HeadUnproven { node: listener.node.clone() }, shared.now());
            continue;
        }
        match judge(shared, &signed, &listener.node, &shown.head, true).await {
            Judgement::Unknown => listener.evidence.push(shown),
            judgement => weigh(shared, &listener.node, &shown, &judgement),
        }
    }
    let held = listener.held.clone().filter(|held| held.cluster == signed.head.cluster);
    let proof = match &held {
        None => Vec::new(),
        Some(held) if (held.epoch, held.size, held.root) == (signed.head.epoch, signed.head.size, signed.head.root) => {
            listener.kept = None;
            return None;
        }
        Some(held) => {
            let mut proven = true;
            if let Some(kept) = &mut listener.kept {
                if !identify(shared, &listener.node, kept) {
                    return None;
                }
                proven = matches!(kept.by, By::Manager(_));
            }
            let judgement = judge(shared, &signed, &listener.node, held, proven).await;
            if judgement == Judgement::Unknown {
                return None;
            }
            if let Some(kept) = listener.kept.take() {
                weigh(shared, &listener.node, &kept, &judgement);
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

/// Finds out who signed what `node` shows; false: it has no looks left now. Whether that certificate was taken back since is not asked: what
/// was signed with it is what this is about.
fn identify<H: Handle>(shared: &Shared<H>, node: &NodeId, shown: &mut Shown) -> bool {
    let By::Unknown(said) = &shown.by else { return true };
    if !shared.heads.may_look(node) {
        return false;
    }
    shown.by = match shared.identity.who_signed(NEWS_LOG_HEAD, said, shown.head.at.min(shared.now())) {
        Ok(signer) => By::Manager(signer.subject.node),
        Err(error) => {
            // Its text is the node's choice, and no part of an alarm: one node causes one.
            tracing::debug!(%node, %error, "a head that a node shows is not proven");
            By::Nobody
        }
    };
    true
}

/// What is to be said of a head that `node` shows. The others are asked only about one that a manager signed (`proven`).
async fn judge<H: Handle>(shared: &Shared<H>, signed: &Signed, node: &NodeId, head: &Head, proven: bool) -> Judgement {
    if head.cluster != signed.head.cluster {
        return Judgement::Bygone;
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
        if !proven {
            return Judgement::Lost;
        }
        if !shared.heads.may_look(node) {
            return Judgement::Unknown;
        }
        return match shared.look().await {
            Some(state) if head.size > state.log_size() => Judgement::Lost,
            _ => Judgement::Unknown,
        };
    }
    let Some(since) = prove(shared, node, head.size, &signed.head).await else { return Judgement::Unknown };
    match since.root == head.root {
        true => Judgement::Fits(since),
        false if head.epoch < signed.head.epoch => Judgement::Bygone,
        false => Judgement::Differs(since),
    }
}

/// Says what is wrong with a head that was shown, if anything is.
fn weigh<H: Handle>(shared: &Shared<H>, shown_by: &NodeId, shown: &Shown, judgement: &Judgement) {
    let why = match judgement {
        Judgement::Fits(_) | Judgement::Bygone | Judgement::Unknown => return,
        Judgement::Differs(_) => "this manager's log has others in place of these entries",
        Judgement::Lost => "the managers' log has fewer entries",
        Judgement::LaterEpoch => "it is of a later epoch: the cluster was made anew elsewhere, or somebody pretends so",
    };
    let (now, head) = (shared.now(), &shown.head);
    match &shown.by {
        By::Manager(signed_by) => {
            shared.heads.note(ForkSeen {
                at: now,
                shown_by: shown_by.clone(),
                signed_by: signed_by.clone(),
                head: head.clone(),
                why: why.to_owned(),
            });
            shared.touch();
            let (size, root) = (head.size, hex(&head.root));
            let (node, signed_by) = (shown_by.clone(), signed_by.clone());
            shared.alarms.raise(Alarm::LogForked { node, signed_by, size, root, why }, now);
        }
        By::Nobody | By::Unknown(_) => {
            shared.alarms.raise(Alarm::HeadUnproven { node: shown_by.clone() }, now);
        }
    }
}

/// How the log goes on from what it was with `before` entries, to a head of our own; none: that cannot be said now.
async fn prove<H: Handle>(shared: &Shared<H>, node: &NodeId, before: u64, head: &Head) -> Option<Arc<LogSince>> {
    let key = (before, head.size);
    if let Some(since) = shared.heads.kept(key) {
        return Some(since);
    }
    if !shared.heads.may_look(node) {
        return None;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use pki::time::Time;

    use crate::bootstrap::{Bootstrap, Params};
    use crate::{Chance, Keys, Peers};
    use cluster::node::Availability;
    use cluster::settings::Settings;
    use replica::model::ModelLog;
    use std::time::SystemTime;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn now() -> Time {
        Time::from(SystemTime::now())
    }

    fn manager() -> Shared<ModelLog> {
        let settings = Settings::default();
        let params = Params { addr: "127.0.0.1:2377".to_owned(), availability: Availability::Active, settings };
        let made = Bootstrap::prepare(params, &Chance::system(), now()).unwrap();
        let (publisher, identity) = mtls::Publisher::new();
        publisher.publish(mtls::Identity { chain: made.chain, key: made.key, trust: made.trust }, now()).unwrap();
        let log = ModelLog::create(1, now(), made.command);
        let peers = Peers::new(identity.clone(), Arc::new(now));
        Shared::new(log, Arc::new(now), Chance::system(), identity, Keys::default(), peers)
    }

    /// A head of so many entries, as this manager signs it.
    fn said(shared: &Shared<ModelLog>, size: u64, root: Hash) -> Signed {
        let current = shared.identity.current().unwrap();
        let cluster = current.subject().cluster.clone();
        let head = Head { cluster, epoch: shared.handle.state().epoch(), size, root, at: now() };
        let statement = Arc::new(current.say(NEWS_LOG_HEAD, log_head::encode(&head)).unwrap());
        Signed { head, statement, generation: current.generation() }
    }

    #[tokio::test]
    async fn what_cannot_be_judged_yet_is_judged_with_the_next_head() {
        let shared = manager();
        let size = shared.handle.state().log_size();
        let before = said(&shared, 0, State::empty().log.root());
        shared.heads.newest.send_replace(Some(Arc::new(before)));
        let lie = said(&shared, size, [7; 32]);
        let evidence = [Statement::clone(&lie.statement)];
        let mut listener = Listener::new(node("w1"), None, evidence.into_iter());
        assert!(next(&shared, &mut listener).await.is_some());
        assert_eq!((listener.evidence.len(), shared.heads.forks().len()), (1, 0), "this manager has not said so much");
        shared.heads.newest.send_replace(shared.sign_head());
        next(&shared, &mut listener).await;
        let forks = shared.heads.forks();
        assert_eq!((listener.evidence.len(), forks.len(), &forks[0].head), (0, 1, &lie.head));
    }

    #[tokio::test]
    async fn for_what_no_manager_signed_nothing_is_looked_up_and_no_manager_named() {
        let shared = manager();
        let size = shared.handle.state().log_size();
        shared.heads.newest.send_replace(shared.sign_head());
        let mut forged = Statement::clone(&said(&shared, size, [7; 32]).statement);
        forged.signature.reverse();
        let many = vec![forged.clone(); 100];
        let mut listener = Listener::new(node("w1"), None, many.into_iter());
        assert_eq!(listener.evidence.len(), 2 * NEWS_FORKS_MAX, "so many and no more");
        assert!(next(&shared, &mut listener).await.is_some());
        assert!(listener.evidence.is_empty() && shared.heads.forks().is_empty());
        assert!(shared.heads.proofs.lock().unwrap().is_empty());
        // Whoever has no looks left waits, and nobody else does.
        while shared.heads.may_look(&node("w1")) {}
        let good = Statement::clone(&said(&shared, size, [8; 32]).statement);
        let of = |name| Listener::new(node(name), None, [good.clone()].into_iter());
        let (mut one, mut two) = (of("w1"), of("w2"));
        next(&shared, &mut one).await;
        assert_eq!((one.evidence.len(), shared.heads.forks().len()), (1, 0));
        next(&shared, &mut two).await;
        assert_eq!((two.evidence.len(), shared.heads.forks().len()), (0, 1));
    }

    #[test]
    fn each_node_has_its_own_looks_and_they_come_back() {
        let (mut looks, one, two) = (Looks::default(), node("n1"), node("n2"));
        let begun = Instant::now();
        let mut taken = |node: &NodeId, at: Duration| (0..100).filter(|_| looks.take(node, begun + at)).count();
        assert_eq!(taken(&one, Duration::ZERO), LOOKS_MAX as usize);
        assert_eq!(taken(&two, Duration::ZERO), LOOKS_MAX as usize, "another's are its own");
        assert_eq!((taken(&one, LOOK_EVERY * 3), taken(&two, LOOK_EVERY)), (3, 1));
        let later = LOOK_EVERY * (3 * LOOKS_MAX);
        assert_eq!(taken(&two, later), LOOKS_MAX as usize);
        assert_eq!(looks.whole.len(), 1, "who has all of them is not remembered");
    }

    #[test]
    fn evidence_pushes_nothing_out() {
        let heads = Heads::default();
        let head = |size| Head {
            cluster: pki::identity::ClusterId::generate([1; 17]),
            epoch: 1,
            size,
            root: [7; 32],
            at: Time::default(),
        };
        let fork = |by: &str, size| ForkSeen {
            at: Time::default(),
            shown_by: node("w1"),
            signed_by: node(by),
            head: head(size),
            why: String::new(),
        };
        heads.note(fork("m1", 5));
        for size in 6..100 {
            heads.note(fork("m2", size));
        }
        let seen: Vec<_> = heads.forks().iter().map(|fork| (fork.signed_by.clone(), fork.head.size)).collect();
        assert_eq!(seen, [(node("m1"), 5), (node("m2"), 6)], "the first of each");
        for n in 3..100 {
            heads.note(fork(&format!("m{n}"), 1));
        }
        assert_eq!((heads.forks().len(), &heads.forks()[0].signed_by), (FORKS_MAX, &node("m1")));
    }
}
