//! The worker: has what waits signed, many at a time, and commits what comes of it. One task, with a task for each request in
//! flight.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use cfssl::{Expected, Hostile, LifePolicy, Reason, SignFailure, UrlFailure, UrlHealth};
use cluster::command::{Premises, Renew};
use cluster::node::{IssuerHash, Letter, Node, Pending};
use cluster::roots::{Custody, Root};
use cluster::{Command, Outcome, Rejection, State};
use pki::certificate::{Certificate, IssuerId};
use pki::csr::{Csr, Linted};
use pki::identity::{NodeId, Subject};
use pki::issue::LEAF_EXPIRY_MIN;
use pki::serial::Serial;
use pki::time::Time;
use replica::{Handle, ProposeError};
use tokio::task::{self, JoinSet};
use tokio_util::sync::CancellationToken;

use super::queue::Queue;
use crate::alarm::Alarm;
use crate::issue::{Draw, Purpose, Request, Signing};
use crate::sessions::Input;
use crate::shared::Shared;

/// Requests in flight.
const WINDOW: usize = cfssl::WINDOW;

/// The longest life of a certificate that an external CA may choose: what public CAs may give at most, and what CFSSL gives when
/// nothing is configured.
pub(super) const EXTERNAL_LIFE_MAX: Duration = Duration::from_secs(398 * 24 * 60 * 60);

/// How far a CA's clock may be ahead.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// When the signer is tried again if it does not say.
const AWAY_RETRY: Duration = Duration::from_secs(1);

/// How often a manager that does not lead tends the connections that it may need.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Runs until `shutdown`.
pub(crate) async fn run<H: Handle>(shared: Arc<Shared<H>>, shutdown: CancellationToken) {
    let mut states = shared.handle.watch();
    let mut leadership = shared.handle.leadership();
    let mut health = shared.outside.client.changes();
    let mut work = Work::default();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        if shared.outside.follow(&state) {
            work.queue.try_all(Instant::now());
        }
        shared.outside.waiting.tell(&state.pending);
        settle(&shared, &state);
        // The leader has things signed; whoever waits for them may wait anywhere.
        let wake = if shared.leads() { work.begin(&shared, &state) } else { Instant::now() + LOOK_AGAIN };
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            led = leadership.changed() => if led.is_err() { return },
            // A CA that is back is asked at once.
            _ = health.changed() => work.queue.try_all(Instant::now()),
            Some(ended) = work.tasks.join_next_with_id() => work.end(&shared, ended),
            () = tokio::time::sleep_until(wake.into()) => shared.outside.client.tend(),
        }
    }
}

/// What came of one try.
enum Tried {
    /// Committed, or nothing is left to do.
    Done,
    /// What it was based on changed meanwhile.
    Stale,
    /// The signer cannot be reached, or is not to be believed; nobody else is served either.
    Away { retry: Duration, why: String },
    /// The signer refuses this very request.
    Refused(String),
}

/// Requests under way, each in a task of its own.
#[derive(Default)]
struct Work {
    tasks: JoinSet<Tried>,
    nodes: BTreeMap<task::Id, NodeId>,
    queue: Queue,
}

impl Work {
    /// Begins with what may be tried; when to look again.
    fn begin<H: Handle>(&mut self, shared: &Arc<Shared<H>>, state: &Arc<State>) -> Instant {
        if state.pending.is_empty() {
            shared.outside.note(None);
        }
        let joins = |node: &NodeId| state.node(node).is_none_or(|record| record.unfinished.is_some());
        let (taken, wake) = self.queue.take(Instant::now(), &state.pending, WINDOW, joins);
        for node in taken {
            let (shared, id) = (Arc::clone(shared), node.clone());
            let task = self.tasks.spawn(async move { try_one(&shared, &id).await });
            self.nodes.insert(task.id(), node);
        }
        wake
    }

    /// A task has ended; one that broke off is as one whose premises fell.
    fn end<H: Handle>(&mut self, shared: &Shared<H>, ended: Result<(task::Id, Tried), task::JoinError>) {
        let (id, tried) = ended.unwrap_or_else(|error| (error.id(), Tried::Stale));
        let (Some(node), now) = (self.nodes.remove(&id), Instant::now()) else { return };
        match tried {
            Tried::Done => self.queue.done(&node),
            Tried::Stale => self.queue.stale(now, &node),
            Tried::Away { retry, why } => {
                self.queue.away(now, &node, retry);
                if shared.outside.hindrance().is_none_or(|(_, before)| before != why) {
                    tracing::warn!(%node, why, "certificates wait for their signer");
                }
                shared.outside.note(Some((shared.now(), why)));
                shared.touch();
            }
            Tried::Refused(why) => {
                self.queue.refused(now, &node);
                tracing::warn!(%node, why, "the CA refuses a certificate; it is asked again");
                shared.note_refusal(&node, Some(why.clone()));
                shared.outside.note(Some((shared.now(), why)));
                shared.touch();
            }
        }
    }
}

async fn try_one<H: Handle>(shared: &Arc<Shared<H>>, id: &NodeId) -> Tried {
    let state = shared.handle.state();
    let Some((node, pending)) = state.node(id).and_then(|node| Some((node, node.pending.as_ref()?))) else {
        return Tried::Done;
    };
    let (Some(root), Some(cluster)) = (state.roots.signing(), state.cluster_id()) else { return Tried::Stale };
    let csr = match Csr::parse(&pending.csr).and_then(Csr::verify) {
        Ok(csr) => csr,
        Err(error) => return Tried::Refused(error.to_string()),
    };
    let subject = Subject { cluster: cluster.clone(), role: node.signed_role(), node: id.clone() };
    let asked = Asked { state: &state, root, node, pending, csr: &csr, subject: &subject };
    let signed = match asked.by_external_ca(shared).await {
        None => asked.by_key(shared).await,
        Some(Ok(signed)) => Ok(signed),
        // While its key is ours too, nobody waits for a CA that is away. One that says no has said it.
        Some(Err(away @ Tried::Away { .. })) if !root.custody.is_outside() => {
            let signed = asked.by_key(shared).await;
            if signed.is_ok() {
                tracing::warn!(
                    alarm = "external-ca-away",
                    node = %id,
                    why = away.why(),
                    "no external CA answered: signed with the cluster's own key"
                );
            }
            signed
        }
        Some(Err(failed)) => Err(failed),
    };
    match signed {
        Err(failed) => failed,
        Ok(renew) => commit(shared, id, renew).await,
    }
}

async fn commit<H: Handle>(shared: &Arc<Shared<H>>, id: &NodeId, renew: Renew) -> Tried {
    let serial = renew.letter.leaf.serial;
    let by = renew.letter.leaf.issuer;
    let outcome = shared.handle.propose(vec![Command::Renew(Box::new(renew))]).await;
    match outcome.map(|outcomes| outcomes.into_iter().next()) {
        Ok(Some(Outcome::Issued { letter, .. })) => {
            if letter.leaf.serial != serial {
                orphan(shared, id, serial, &by);
            }
            shared.note_refusal(id, None);
            shared.outside.note(None);
            shared.tell(Input::Renewed(id)).await;
            shared.watch_rate(id);
            Tried::Done
        }
        Ok(Some(Outcome::Rejected(rejection))) => {
            orphan(shared, id, serial, &by);
            match rejection {
                Rejection::UnknownNode | Rejection::Removed => Tried::Done,
                Rejection::NodeBusy => Tried::Refused(rejection.to_string()),
                _ => Tried::Stale,
            }
        }
        Ok(_) => {
            orphan(shared, id, serial, &by);
            Tried::Stale
        }
        Err(error) => {
            match error {
                ProposeError::Unknown if is_outside(shared, &by) => shared.outside.unsure.add(id, serial),
                ProposeError::Unknown => {}
                // Surely not proposed.
                _ => orphan(shared, id, serial, &by),
            }
            Tried::Away { retry: AWAY_RETRY, why: error.to_string() }
        }
    }
}

/// Says which of the certificates whose fate was unknown are nobody's.
fn settle<H: Handle>(shared: &Shared<H>, state: &State) {
    let holds = |node: &NodeId, serial: &Serial| {
        state.node(node).is_some_and(|record| record.leaves().any(|leaf| leaf.serial == *serial))
    };
    for (node, serial) in shared.outside.unsure.settle(|node| state.pending.contains(node), holds) {
        shared.alarms.raise(Alarm::Orphan { node, serial: serial.to_string() }, shared.now());
    }
}

/// A certificate was signed by a CA elsewhere and will be used by nobody: it is not in our log, so it is said.
fn orphan<H: Handle>(shared: &Shared<H>, node: &NodeId, serial: Serial, issuer: &IssuerHash) {
    if is_outside(shared, issuer) {
        shared.alarms.raise(Alarm::Orphan { node: node.clone(), serial: serial.to_string() }, shared.now());
    }
}

/// Whether it is not our own key that signs as this issuer.
fn is_outside<H: Handle>(shared: &Shared<H>, issuer: &IssuerHash) -> bool {
    shared.handle.state().roots.in_use().any(|root| root.issuer == *issuer && root.custody.is_outside())
}

impl Tried {
    fn why(&self) -> &str {
        match self {
            Self::Away { why, .. } | Self::Refused(why) => why,
            Self::Done | Self::Stale => "",
        }
    }
}

/// One request, and what it is judged by.
struct Asked<'a> {
    state: &'a Arc<State>,
    root: &'a Arc<Root>,
    node: &'a Arc<Node>,
    pending: &'a Pending,
    csr: &'a Linted,
    subject: &'a Subject,
}

impl Asked<'_> {
    /// Asks the root's external CAs; none: it has none.
    async fn by_external_ca<H: Handle>(&self, shared: &Shared<H>) -> Option<Result<Renew, Tried>> {
        let client = &shared.outside.client;
        if !client.is_configured() || super::urls::of(self.state, self.root).next().is_none() {
            return None;
        }
        if !shared.outside.asks(self.state, self.root) {
            // The root has changed: what its CAs are asked with follows in a moment.
            return Some(Err(Tried::Stale));
        }
        let anchor = self.root.certificates.first()?;
        let pem = String::from_utf8_lossy(&self.pending.csr);
        let request = cfssl::message::SignRequest::for_node(self.subject, &pem);
        let life = life(self.state.settings.leaf_life());
        let expected = Expected {
            key: self.csr.public_key(),
            subject: self.subject,
            root: anchor,
            intermediates: &self.root.steps,
            life,
        };
        let check = |pem: &[u8]| {
            check(pem, &expected, &self.root.issuer_id(), shared.now(), |serial| {
                let fresh = shared.outside.serials.lock().unwrap_or_else(PoisonError::into_inner).add(*serial);
                !fresh || self.node.leaves().any(|leaf| leaf.serial == *serial)
            })
        };
        let granted = match client.sign(&request, check).await {
            Ok(granted) => granted,
            Err(failure) => {
                raise(shared, &failure.per_url);
                return Some(Err(tried(&failure, &client.health())));
            }
        };
        raise(shared, &granted.failed);
        if shared.outside.troubles.is_over(&granted.url) {
            tracing::info!(url = granted.url, "the external CA gives certificates again");
        }
        let leaf = granted.value;
        let now = shared.now();
        let ladder = self.state.roots.ladder_for(Some(self.node), self.node.signed_role(), now);
        let csr = self.pending.csr.clone();
        let letter = crate::bootstrap::letter(csr, &leaf, &ladder, self.node.signed_role(), self.root.issuer, now);
        Some(Ok(self.renew(letter, now)))
    }

    /// Signs with the root's key, in a token or, since the root changed, here.
    async fn by_key<H: Handle>(&self, shared: &Arc<Shared<H>>) -> Result<Renew, Tried> {
        let away = |why: String| Tried::Away { retry: AWAY_RETRY, why };
        if let Some(trouble) = self.token_trouble(shared) {
            return Err(away(trouble));
        }
        let serial = shared.chance.serial().map_err(|error| away(error.to_string()))?;
        let draw = Draw { node: self.node.id.clone(), serial };
        let purpose = Purpose::Renewal { node: self.node.id.clone(), cut: self.node.cut };
        let request = Request::of_node(self.pending.csr.clone());
        let (state, root) = (Arc::clone(self.state), Arc::clone(self.root));
        let (keys, now) = (shared.outside.keys.clone(), shared.now());
        // A token takes its time, on a thread of its own.
        let signed = task::spawn_blocking(move || {
            let signer = keys.signer(&root).map_err(|fault| fault.to_string())?;
            let signing = Signing::with(&root, signer, now)?;
            let csr = Csr::parse(&request.csr).and_then(Csr::verify).map_err(|error| error.to_string())?;
            crate::issue::sign(&state, &purpose, &request, &csr, &signing, draw, now)
                .map_err(|refusal| refusal.to_string())
        });
        match signed.await {
            Ok(Ok(Command::Renew(renew))) => Ok(*renew),
            Ok(Ok(_)) => Err(Tried::Stale),
            Ok(Err(why)) => Err(away(match &self.root.custody {
                Custody::Token(_) => self.token_trouble(shared).unwrap_or_else(|| "the token did not sign".to_owned()),
                Custody::Sealed(_) | Custody::Outside => why,
            })),
            Err(error) => Err(away(error.to_string())),
        }
    }

    /// What is wrong with the token, if the key is in one.
    fn token_trouble<H: Handle>(&self, shared: &Shared<H>) -> Option<String> {
        match shared.outside.keys.token_state(self.root)? {
            Ok(state) => super::trouble(&state),
            Err(fault) => Some(fault.to_string()),
        }
    }

    fn renew(&self, letter: Letter, now: Time) -> Renew {
        Renew {
            node: self.node.id.clone(),
            cut: self.node.cut,
            letter: Arc::new(letter),
            premises: Premises { issuer: self.root.issuer, epoch: self.state.epoch(), signed: now },
        }
    }
}

/// The lives that an external CA may give.
pub(super) fn life(wanted: Duration) -> LifePolicy {
    LifePolicy { min: LEAF_EXPIRY_MIN.min(wanted), max: wanted.saturating_mul(2).max(EXTERNAL_LIFE_MAX), skew: SKEW }
}

/// The leaf that a CA answered, if it is what was asked for, signed by the root or whoever signs for it.
pub(super) fn check(
    pem: &[u8],
    expected: &Expected<'_>,
    issuer: &IssuerId,
    now: Time,
    seen: impl FnOnce(&Serial) -> bool,
) -> Result<Certificate, Hostile> {
    let signed = cfssl::answer::check(pem, expected, now, seen)?;
    if signed.issuer != *issuer {
        return Err(Hostile::ExtraCertificate("its issuer is not the one that signs for the root".to_owned()));
    }
    Ok(signed.leaf)
}

/// Says what is wrong with external CAs, also when another one served the request. Answers that no honest CA gives are an alarm.
fn raise<H: Handle>(shared: &Shared<H>, failed: &[UrlFailure]) {
    for UrlFailure { url, reason } in failed {
        let name = reason.name();
        match reason {
            Reason::Hostile(_) | Reason::Redirect { .. } | Reason::Encoded(_) | Reason::TooLong(_) => {
                let alarm = Alarm::HostileCa { url: url.clone(), name, detail: reason.to_string() };
                shared.alarms.raise(alarm, shared.now());
            }
            // Not asked.
            Reason::Open { .. } => {}
            _ if shared.outside.troubles.is_news(url, name) => {
                tracing::warn!(url, kind = name, why = %reason, "an external CA gave no certificate");
            }
            _ => {}
        }
    }
}

fn tried(failure: &SignFailure, health: &[UrlHealth]) -> Tried {
    // A CA that answers and refuses this request holds up nobody else, whatever became of the other CAs.
    if failure.per_url.iter().all(|failed| failed.reason.is_recoverable()) {
        // Not that it was not asked again, but why.
        let known = |ca: &UrlHealth| ca.last_error.as_ref().map(|(_, why)| why.clone());
        let why: Vec<_> = health.iter().filter_map(known).collect();
        let why = if why.is_empty() { failure.to_string() } else { why.join("; ") };
        Tried::Away { retry: failure.retry_after.unwrap_or(AWAY_RETRY), why }
    } else {
        Tried::Refused(failure.to_string())
    }
}
