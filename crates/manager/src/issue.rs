//! Issuance, step by step: shape and size → admission → the CSR's own signature → sign → commit → answer.
//!
//! The steps that decide are here, without sockets, clocks or chance; [`Issuing`] is their order, for one request, and the
//! pipeline runs it. What holds:
//! - a caller without token or registered leaf costs no public-key work;
//! - nothing signed leaves before its entry is committed and judged [`Outcome::Issued`];
//! - a leaf whose premises went stale is signed again once, then refused.

mod issuing;
pub(crate) mod pipeline;
mod refusals;

pub use issuing::{Begun, Fetched, Issued, Issuing, Judged, fetch};
pub use pipeline::refused;

use std::sync::Arc;
use std::time::Duration;

use cluster::authorize::{Caller, Grant, Method, Standing};
use cluster::command::{Admit, Ask, Premises, Renew, Right};
use cluster::node::{Availability, IssuerHash, Letter, Spec};
use cluster::roots::Root;
use cluster::tokens::Admission;
use cluster::{Command, Outcome, Rejection, State, issuance};
use pki::bundle::Issuer;
use pki::certificate::Certificate;
use pki::csr::{Csr, Linted};
use pki::digest::Digest;
use pki::identity::{NodeId, Role, Subject};
use pki::issue::LEAF_EXPIRY_MIN;
use pki::key::{Signer, SpkiHash};
use pki::serial::Serial;
use pki::time::Time;
use wire::status::{Refusal, Unauthorized};

use crate::keys::Keys;

/// A request for a certificate, as it came.
#[derive(Clone)]
pub struct Request {
    /// The CSR, PEM.
    pub csr: Vec<u8>,
    /// The join token, if any. A secret.
    pub token: Arc<str>,
    /// What the joiner asks to be.
    pub availability: Availability,
    /// Whether the caller said that it runs swarmpki.
    pub ours: bool,
}

impl Request {
    /// The request of a node that is known: neither token nor wishes.
    pub(crate) fn of_node(csr: Vec<u8>) -> Self {
        Self { csr, token: Arc::from(""), availability: Availability::Active, ours: false }
    }
}

/// When a node asks again whose connection was cut while it asked.
const CUT_RETRY: Duration = Duration::from_millis(100);

const MINUTE: Duration = Duration::from_secs(60);

/// When to come back while new nodes have to wait.
const JOIN_HELD: Duration = Duration::from_secs(2);

/// What a request is for, once it is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A new node.
    Join(Admission),
    /// Another leaf for a node that proved itself.
    Renewal {
        /// Which.
        node: NodeId,
        /// Its `cut` when it was let in.
        cut: u32,
    },
}

/// Shape and size of a request; no public-key work.
///
/// # Errors
/// The refusal, with the reason.
pub fn shape(request: &Request) -> Result<Csr, Refusal> {
    if request.csr.is_empty() {
        return Err(Refusal::CaArgumentMissing);
    }
    Csr::parse(&request.csr).map_err(|error| Refusal::CsrRefused { reason: error.to_string() })
}

/// Whether the caller may have a certificate, and as whom (pki.md 6, 4 and 5). A node of this cluster renews, whatever
/// token it sends; everybody else needs a token, also those whose certificate is of another cluster or was removed.
///
/// # Errors
/// [`Refusal::TokenRefused`]; of one that is on record, what is wrong with its certificate; [`Refusal::EngineAsManager`] for an engine with the manager's token.
pub fn admit(state: &State, caller: Caller<'_>, request: &Request, now: Time) -> Result<Purpose, Refusal> {
    let grant = state.authorize(caller, Method::IssueNodeCertificate, now);
    if let Ok(Grant::Node(_) | Grant::Returning(_)) = grant
        && let Some(purpose) = renewal(state, caller)
    {
        return Ok(purpose);
    }
    // A node whose connections were cut asks again on another one: it is no stranger, and was not removed.
    if let Caller::Identified(leaf, standing) = caller
        && let Some(node) = state.node(&leaf.node)
        && standing.cut().is_some_and(|cut| cut != node.cut)
    {
        return Err(Refusal::Busy { retry_after: CUT_RETRY });
    }
    let root = state.roots.served().ok_or(Refusal::SignerStarting)?;
    let fips = state.cluster.as_ref().is_some_and(|facts| facts.fips);
    let admission = state.tokens.admit(&Digest::of(&root.bundle), fips, &request.token);
    let admission = admission.ok_or_else(|| on_record(state, caller).unwrap_or(Refusal::TokenRefused))?;
    let open = state.tokens.check(&admission.token);
    open.map_err(|rejection| on_record(state, caller).unwrap_or_else(|| refusal(&rejection, None)))?;
    if admission.role == Role::Manager && !request.ours {
        return Err(Refusal::EngineAsManager);
    }
    if state.rotation().is_some_and(|rotation| rotation.holds_joins()) {
        return Err(Refusal::Busy { retry_after: JOIN_HELD });
    }
    Ok(Purpose::Join(admission))
}

/// Of a caller whose node is on record, why its certificate is no good. To a node "no valid token" says that it was removed, and
/// it was not.
fn on_record(state: &State, caller: Caller<'_>) -> Option<Refusal> {
    let Caller::Identified(leaf, standing) = caller else { return None };
    let node = state.node(&leaf.node).filter(|_| *standing != Standing::Foreign)?.id.clone();
    Some(Refusal::Peer(match standing.cut() {
        Some(_) => Unauthorized::MustRenew { node },
        None if *standing == Standing::Revoked => Unauthorized::Revoked { node },
        None => Unauthorized::Unregistered { node },
    }))
}

/// Whether there is room for what is asked for: whoever has no room costs no public-key work either.
fn room(state: &State, purpose: &Purpose, request: &Request, key: &SpkiHash, now: Time) -> Result<(), Refusal> {
    match purpose {
        Purpose::Join(admission) => {
            if state.pending_join(&admission.token, key, &request.csr).is_some() {
                return Ok(());
            }
            // The end of a token is the leader's to say: whatever clock is looked at here, its own is within this of it.
            let now = now.saturating_sub(issuance::SIGNING_SKEW_MAX);
            state.room_to_join(&admission.token, key, now).map(drop).map_err(|rejection| refusal(&rejection, None))
        }
        Purpose::Renewal { node, .. } => {
            let Some(record) = state.node(node) else { return Ok(()) };
            if state.letter_for(record, &request.csr, now).is_some() {
                return Ok(());
            }
            issuance::room_to_renew(record, now.max(state.time())).map_err(|rejection| refusal(&rejection, Some(node)))
        }
    }
}

/// The renewal that an authorized node asks for. A forwarded call has no connection of its own that could have been cut.
fn renewal(state: &State, caller: Caller<'_>) -> Option<Purpose> {
    match caller {
        Caller::Identified(leaf, standing) => Some(Purpose::Renewal { node: leaf.node.clone(), cut: standing.cut()? }),
        Caller::Forwarded { origin, .. } => {
            let node: NodeId = origin.node.parse().ok()?;
            let cut = state.node(&node)?.cut;
            Some(Purpose::Renewal { node, cut })
        }
        Caller::Anonymous => None,
    }
}

/// The signer of today, ready to sign: its key parsed once.
pub struct Signing {
    issuer: Issuer,
    /// Whose leaves it makes.
    pub hash: IssuerHash,
}

impl Signing {
    /// The signer of a root.
    ///
    /// # Errors
    /// If its key is not here, or does not fit its certificate.
    pub fn of(root: &Root, now: Time) -> Result<Self, String> {
        let signer = Keys::default().signer(root).map_err(|fault| fault.to_string())?;
        Self::with(root, signer, now)
    }

    /// The same, with a signer given: the simulator's, say.
    ///
    /// # Errors
    /// If the signer's key does not fit its certificate.
    pub fn with(root: &Root, signer: Arc<dyn Signer>, now: Time) -> Result<Self, String> {
        let certificate = root.signer.pem();
        let issuer = Issuer::build(&root.bundle, Some(certificate.as_bytes()), Some(signer), &root.intermediates, now)
            .map_err(|error| error.to_string())?;
        let hash = IssuerHash::of(&issuer.id());
        Ok(Self { issuer, hash })
    }
}

/// What chance gives to one attempt at signing.
#[derive(Clone, Debug)]
pub struct Draw {
    /// The id of the node, if it is a new one.
    pub node: NodeId,
    /// The serial.
    pub serial: Serial,
}

/// Signs a leaf for an admitted request and says what to propose for it.
///
/// # Errors
/// If the node is gone, or the signer fails.
pub fn sign(
    state: &State,
    purpose: &Purpose,
    request: &Request,
    csr: &Linted,
    signing: &Signing,
    draw: Draw,
    now: Time,
) -> Result<Command, Refusal> {
    let cluster = state.cluster_id().ok_or(Refusal::SignerStarting)?.clone();
    let (node, role) = match purpose {
        Purpose::Join(admission) => (draw.node, admission.role),
        Purpose::Renewal { node, .. } => (node.clone(), state.node(node).ok_or(Refusal::TokenRefused)?.signed_role()),
    };
    let subject = Subject { cluster, role, node };
    let record = match purpose {
        Purpose::Join(_) => None,
        Purpose::Renewal { node, .. } => state.node(node).map(Arc::as_ref),
    };
    let ladder = state.roots.ladder_for(record, role, now);
    let life = life(state.settings.leaf_life(), ladder.iter().map(Certificate::not_after).min(), now);
    let wanted = pki::issue::Leaf { subject: &subject, serial: draw.serial, now, expiry: life };
    let leaf = pki::issue::leaf(csr, &wanted, &signing.issuer).map_err(|error| {
        tracing::error!(%error, "a certificate could not be signed");
        Refusal::SignerStopped
    })?;
    mtls::signed_here(signing.issuer.certificate(), &leaf);
    let letter = Arc::new(crate::bootstrap::letter(request.csr.clone(), &leaf, &ladder, role, signing.hash, now));
    let premises = Premises { issuer: signing.hash, epoch: state.epoch(), signed: now };
    Ok(match purpose {
        Purpose::Join(admission) => Command::Admit(Box::new(Admit {
            node: subject.node,
            spec: Spec::new(role, request.availability),
            ours: request.ours,
            token: admission.token,
            letter,
            premises,
        })),
        Purpose::Renewal { cut, .. } => {
            Command::Renew(Box::new(Renew { node: subject.node, cut: *cut, letter, premises }))
        }
    })
}

/// The life of a leaf: as set, and not beyond what goes with it (pki.md 12.8): an engine refuses its own files at the next
/// start when any certificate among them has ended. A leaf's dates are whole minutes, half a minute off at most.
pub(crate) fn life(set: Duration, end: Option<Time>, now: Time) -> Duration {
    end.map_or(set, |end| set.min(end.saturating_sub(MINUTE).since(now))).max(LEAF_EXPIRY_MIN)
}

/// What to propose for an admitted request that somebody else signs later.
pub(crate) fn ask(purpose: &Purpose, request: &Request, csr: &Linted, drawn: NodeId) -> Command {
    let (node, right) = match purpose {
        Purpose::Join(admission) => {
            let spec = Spec::new(admission.role, request.availability);
            (drawn, Right::Token { spec, ours: request.ours, token: admission.token })
        }
        Purpose::Renewal { node, cut } => (node.clone(), Right::Node { cut: *cut }),
    };
    Command::Ask(Box::new(Ask { node, right, csr: request.csr.clone(), spki: csr.public_key().hash() }))
}

/// What an outcome means for the caller.
pub enum Verdict {
    /// The request is kept, and signed later.
    Pending(NodeId),
    /// The certificate may be fetched.
    Answer(NodeId, Arc<Letter>),
    /// Fresh state may bring another outcome.
    Again,
    /// Refused for good.
    Refused(Refusal),
}

/// Judges what came of [`sign`]'s command.
pub fn verdict(outcome: Option<&Outcome>, node: Option<&NodeId>) -> Verdict {
    match outcome {
        Some(Outcome::Issued { node, letter, .. }) => Verdict::Answer(node.clone(), Arc::clone(letter)),
        Some(Outcome::Pending { node }) => Verdict::Pending(node.clone()),
        Some(Outcome::Rejected(rejection)) if rejection.is_stale() => Verdict::Again,
        Some(Outcome::Rejected(rejection)) => Verdict::Refused(refusal(rejection, node)),
        Some(Outcome::Done { .. } | Outcome::Unchanged | Outcome::Enlisted { .. } | Outcome::Collected(_)) | None => {
            Verdict::Refused(Refusal::SignerStopped)
        }
    }
}

fn refusal(rejection: &Rejection, node: Option<&NodeId>) -> Refusal {
    match (rejection, node) {
        (Rejection::TokenBusy, _) => Refusal::TooManyUnfinishedJoins,
        (Rejection::TokenEnded, _) => Refusal::TokenEnded,
        (Rejection::TokenSpent, _) => Refusal::TokenSpent,
        (Rejection::TokenRevoked, _) => Refusal::TokenRevoked,
        (Rejection::NodeBusy, Some(node)) => {
            Refusal::IssuanceRateExceeded { node: node.clone(), retry_after: Duration::from_secs(3600) }
        }
        (Rejection::NoCluster, _) => Refusal::SignerStarting,
        (Rejection::RotationBusy, _) => Refusal::Busy { retry_after: JOIN_HELD },
        // Its connection was cut meanwhile; the node was not removed.
        (Rejection::Cut, _) => Refusal::Busy { retry_after: CUT_RETRY },
        // It is on record: whatever is wrong, it was not removed.
        (rejection, Some(_)) if !matches!(rejection, Rejection::UnknownNode | Rejection::Removed) => {
            Refusal::IssuanceStale
        }
        _ => Refusal::TokenRefused,
    }
}

/// The chain that a letter holds, PEM, leaf first.
pub fn chain_pem(letter: &Letter) -> Vec<u8> {
    let mut chain = Vec::with_capacity(2048);
    for der in std::iter::once(&letter.certificate).chain(&letter.ladder) {
        chain.extend_from_slice(pki::certificate::pem_of_der(der).as_bytes());
    }
    chain
}
