//! Replacing the root: what an update asks for ([`decide`]), what has to be signed for it ([`prepare`], [`turn_back`]), who is
//! told when ([`Pacer`]), how it stands ([`status()`]) and how it would go ([`rehearse`]). The leader's loop only carries out.
//!
//! Conditions for a step of the rotation itself are the state machine's: see [`cluster::rotation`].

pub mod look;
pub mod pacer;
pub mod rehearsal;
pub mod status;

mod dates;
pub(crate) mod lead;
mod trial;
mod wish;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use cluster::State;
use cluster::command::ReplaceLadder;
use cluster::node::BlobDigest;
use cluster::roots::{Custody, Root, Roots};
use cluster::rotation::{Abort, Policy, RootsChange, Rotation, Start, Way};
use pki::certificate::{Certificate, normalize};
use pki::issue::{IssueError, LEAF_BACKDATE, ROOT_BACKDATE};
use pki::key::Signer;
use pki::time::Time;
use wire::status::{CaUpdateRefusal, Refusal};

pub use self::pacer::Pacer;
pub use self::rehearsal::{Rehearsal, rehearse};
pub use self::status::{CaStatus, status};
pub use self::wish::{
    Decision, MustReach, Reach, TokenWish, Wish, decide, given, key_to_import, must_reach, with_present,
};
use crate::chance::Chance;
use crate::keys::Keys;
use crate::view::ControlError;

/// Shortest life of a cross-certificate. Two leaf lives, if that is more.
pub const LADDER_LIFE_MIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Certificates of a given signer's chain, itself among them: with as many on the other side and what joins the two, more
/// would not fit between a leaf and a root ([`cluster::trust::LADDER_MAX`]).
pub const GIVEN_STEPS_MAX: usize = 3;

/// What a cross-certificate lasts beyond the last leaf that may need it.
const LADDER_SPARE: Duration = Duration::from_secs(24 * 60 * 60);

/// A ladder that cannot be made anew is an alarm so long before it ends.
const LADDER_END_ALARM: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How much earlier than an engine's a root begins that is made for a rotation: when a leaf begins.
const ROOT_BEGINS_EARLIER: Duration = LEAF_BACKDATE.saturating_sub(ROOT_BACKDATE);

/// Whoever signs for the roots of a rotation.
#[derive(Clone, Default)]
pub struct Signers {
    /// The keys in our own custody.
    pub keys: Keys,
    /// Cross-certificates that external CAs made for it.
    pub certified: Vec<Certificate>,
}

/// A root that the external CA of another is to certify, before a rotation begins or turns.
pub struct Certify {
    /// The root.
    pub root: Arc<Root>,
    /// By whom.
    pub by: Arc<Root>,
}

/// What a rotation to `to` needs of an external CA. Nothing can be certified whose key is with another external CA: it signs
/// requests, but makes none.
pub fn certify(state: &State, to: &Arc<Root>, policy: Policy) -> Option<Certify> {
    let by = match &state.roots {
        Roots::None => return None,
        Roots::Stable { root, .. } => root,
        Roots::Rotating(running) if is_simple(running) => &running.old,
        Roots::Rotating(running) => running.to(),
    };
    let needed = by.custody.is_outside() && !to.custody.is_outside() && !matches!(policy, Policy::Emergency { .. });
    needed.then(|| Certify { root: Arc::clone(to), by: Arc::clone(by) })
}

/// The same for the way back of the rotation under way.
pub fn certify_back(state: &State) -> Option<Certify> {
    let running = state.rotation().filter(|running| !is_simple(running) && running.bundle().is_none())?;
    let needed = running.new.custody.is_outside() && !running.old.custody.is_outside();
    needed.then(|| Certify { root: Arc::clone(&running.old), by: Arc::clone(&running.new) })
}

/// How long what an external CA certifies has to last.
pub(crate) fn certify_life(state: &State, now: Time) -> Duration {
    leaves_end(state).since(now).max(state.settings.leaf_life())
}

/// Nodes would not accept what this root signs.
fn refused_root(reason: &dyn std::fmt::Display) -> ControlError {
    let message = format!(
        "the desired CA certificate cannot be used: nodes would refuse the certificates that it signs: {reason}"
    );
    ControlError { code: tonic::Code::InvalidArgument, message }
}

fn failed(message: impl std::fmt::Display) -> ControlError {
    tracing::error!(%message, "the new root could not be certified by the present one");
    Refusal::CaUpdate(CaUpdateRefusal::CrossSigningFailed).into()
}

fn precondition(message: &str) -> ControlError {
    ControlError { code: tonic::Code::FailedPrecondition, message: message.to_owned() }
}

/// Makes a root with a key of its own (pki.md 2.1). It begins as early as the leaves that it signs: what certifies it has its
/// dates, and a node whose clock is a little behind could use neither.
///
/// # Errors
/// If there is no randomness.
pub fn generate(chance: &Chance, now: Time) -> Result<Arc<Root>, ControlError> {
    let key = chance.p256_key().map_err(|_| Refusal::SignerStopped)?;
    self_signed(&key, Custody::Sealed(Arc::new(key.pkcs8_der())), chance, now)
}

/// The same with a key that is there already.
///
/// # Errors
/// If there is no randomness, or the key cannot sign.
pub fn self_signed(key: &dyn Signer, custody: Custody, chance: &Chance, now: Time) -> Result<Arc<Root>, ControlError> {
    let serial = chance.serial().map_err(|_| Refusal::SignerStopped)?;
    let root = pki::issue::root(key, serial, now.saturating_sub(ROOT_BEGINS_EARLIER)).map_err(failed)?;
    Ok(Arc::new(Root::new(root.pem().into_bytes(), root, Vec::new(), custody)))
}

/// What a rotation to `to` begins with: the new root, certified by the one that nodes hold, or a bundle of both where no
/// certificate of that kind could be verified.
///
/// # Errors
/// If a key is not here, if nodes would refuse what the new root signs, or if a rotation is under way that cannot be replaced.
pub fn prepare(
    state: &State,
    to: Arc<Root>,
    made: bool,
    policy: Policy,
    signers: &Signers,
    now: Time,
) -> Result<RootsChange, ControlError> {
    let mut logged = Vec::new();
    if made {
        logged.push(to.signer.der().to_vec());
    }
    let emergency = matches!(policy, Policy::Emergency { .. });
    let (held, ladder) = match &state.roots {
        Roots::None => return Err(Refusal::CaUpdate(CaUpdateRefusal::RootNotLoaded).into()),
        _ if emergency && state.rotation().is_some() => {
            return Err(precondition(NOT_REPLACED));
        }
        Roots::Stable { root, .. } if emergency => (vec![root], None),
        Roots::Stable { root, .. } => (vec![root], cross(&to, root, &[], state, signers, now)?),
        Roots::Rotating(running) if running.bundle().is_some() => {
            return Err(precondition(
                "the root rotation under way cannot be replaced by another: wait for its end, or end it with `swarmpki ca abort`",
            ));
        }
        Roots::Rotating(running) if is_simple(running) => {
            (vec![&running.old], cross(&to, &running.old, &[], state, signers, now)?)
        }
        // Nodes may trust the root that this rotation goes to: the new one is certified by that, which is certified already.
        Roots::Rotating(running) => {
            let held: Vec<_> = running.trusted().collect();
            (held, cross(&to, running.to(), running.ladder(), state, signers, now)?)
        }
    };
    let ladder = ladder.filter(|ladder| to_all(&to, ladder, &held));
    trial::try_out(&to, ladder.as_deref().unwrap_or_default(), &held, state, &signers.keys, now)?;
    let way = match ladder {
        Some(ladder) => {
            logged.extend(ladder.first().map(|cross| cross.der().to_vec()));
            Way::Ladder(ladder)
        }
        None if state.rotation().is_some() => {
            return Err(precondition(
                "the new root cannot be certified by the ones that nodes hold: wait for the end of the rotation under way, then rotate again",
            ));
        }
        None => {
            let mut bundle: Vec<u8> = held.iter().flat_map(|root| normalize(&root.bundle)).collect();
            bundle.extend(normalize(&to.bundle));
            Way::Bundle(Arc::from(bundle))
        }
    };
    let by_ladder = matches!(way, Way::Ladder(_));
    let change = RootsChange::Start(Box::new(Start { to: Arc::clone(&to), way, policy, logged }));
    let begun = trial::begin(state, &change, now)?;
    if by_ladder {
        // What is sent with a manager's leaf from then on, whole: what leads on to late nodes too.
        let sent = begun.roots.ladder_for(None, pki::identity::Role::Manager, now);
        let further = sent.get(to.steps.len()..).unwrap_or_default();
        trial::try_out(&to, further, &held, state, &signers.keys, now)?;
    }
    Ok(change)
}

/// Whether only the old root can be what nodes trust: nobody was given another yet.
fn is_simple(running: &Rotation) -> bool {
    running.bundle().is_none() && running.given.is_empty()
}

/// The ladder from `to`: its root certified by `by`'s signer, then what leads on from there. None: nobody could be asked to.
fn cross(
    to: &Root,
    by: &Root,
    further: &[Certificate],
    state: &State,
    signers: &Signers,
    now: Time,
) -> Result<Option<Vec<Certificate>>, ControlError> {
    let root = to.certificates.first().ok_or_else(|| failed("it has no certificate"))?;
    let cross = if by.custody.is_outside() {
        let certifies = |made: &&Certificate| {
            made.subject_der() == root.subject_der()
                && made.spki_der() == root.spki_der()
                && pki::chain::signed_by(made, &by.signer).is_ok()
        };
        let Some(made) = signers.certified.iter().find(certifies) else { return Ok(None) };
        made.clone()
    } else {
        let key = signers.keys.signer(by).map_err(failed)?;
        let end = ladder_end(state, now);
        pki::issue::cross_sign(root, &by.signer, key.as_ref(), Some(end)).map_err(|error| match error {
            IssueError::NotACa => refused_root(&error),
            error => failed(error),
        })?
    };
    Ok(Some([cross].iter().chain(&by.steps).chain(further).cloned().collect()))
}

/// When a cross-certificate ends that is made now: after the last leaf that may need it, under whatever settings that was made.
fn ladder_end(state: &State, now: Time) -> Time {
    let life = state.settings.leaf_life().saturating_mul(2).max(LADDER_LIFE_MIN);
    now.saturating_add(life).max(leaves_end(state).saturating_add(LADDER_SPARE))
}

/// When the last leaf ends that anybody has.
fn leaves_end(state: &State) -> Time {
    state.nodes.values().map(|node| node.leaves_end).max().unwrap_or_default()
}

/// Whether a leaf of `to` with this ladder verifies for every holder of one of these roots, as far as the lengths go that
/// certificates allow below themselves.
fn to_all(to: &Root, ladder: &[Certificate], held: &[&Arc<Root>]) -> bool {
    let allows = |certificate: &Certificate, below: usize| {
        certificate.path_len().is_none_or(|most| usize::try_from(most).is_ok_and(|most| below <= most))
    };
    let own = to.steps.len();
    let steps = ladder.iter().enumerate().all(|(place, step)| allows(step, own + place));
    steps
        && held.iter().all(|root| match cluster::rotation::steps_to(ladder, root) {
            Some(steps) => root.certificates.iter().all(|root| allows(root, own + steps.len())),
            None => false,
        })
}

const NOT_REPLACED: &str =
    "a root rotation is under way: end it first with `swarmpki ca abort`, or wait for it, then rotate with --emergency";
const EMERGENCY_GOES_ON: &str = "an emergency rotation goes on to its end: the old key is taken for stolen";

/// What an operator means who asks for the root that the cluster has, or that it goes to: how long the rotation under way
/// waits, if that is said. None: nothing is to be changed.
///
/// # Errors
/// FAILED_PRECONDITION in an emergency: whoever asks for one has to know that none began.
pub fn keep(state: &State, policy: Option<Policy>) -> Result<Option<RootsChange>, ControlError> {
    let Some(policy) = policy else { return Ok(None) };
    let emergency = matches!(policy, Policy::Emergency { .. });
    match state.rotation() {
        None if emergency => Err(precondition(NOTHING_TO_ROTATE_TO)),
        None => Ok(None),
        Some(running) if emergency => {
            Err(precondition(if running.is_emergency() { EMERGENCY_GOES_ON } else { NOT_REPLACED }))
        }
        Some(running) if running.policy == policy => Ok(None),
        Some(running) if running.is_emergency() => Err(precondition(EMERGENCY_GOES_ON)),
        Some(_) => Ok(Some(RootsChange::Policy(policy))),
    }
}

const ABORTED_ALREADY: &str = "the root rotation is being aborted already: `swarmpki ca wait` waits for its end, `swarmpki ca status` says for whom it \
     waits, and `swarmpki ca abort --deadline 10m` has it go on without them then";

/// Said of an order to rotate to the root of now.
pub(crate) const NOTHING_TO_ROTATE_TO: &str = "that is the root of now: there is nothing to rotate to";

/// Whether the rotation under way goes to a root as one that is made for it, so that who asks for a new root means that one. One that was
/// given with an engine's name for roots cannot be told from it.
pub(crate) fn goes_to_a_made_root(state: &State) -> bool {
    state.rotation().is_some_and(|running| {
        let new = &running.new;
        let sealed = matches!(new.custody, Custody::Sealed(_));
        !running.back && sealed && new.steps.is_empty() && new.signer.common_name() == pki::identity::CA_NAME
    })
}

/// What turns the rotation under way back: the old root, certified by the one that nodes may have come to trust. Of one that
/// goes back already, how long it waits from now on.
///
/// # Errors
/// If there is no rotation, or none that can be turned, or one that goes back already and nothing is said of how long it waits.
pub fn turn_back(
    state: &State,
    policy: Option<Policy>,
    signers: &Signers,
    now: Time,
) -> Result<RootsChange, ControlError> {
    let running =
        state.rotation().ok_or_else(|| precondition("no root rotation is under way: there is nothing to abort"))?;
    if running.back {
        return match policy {
            Some(policy @ (Policy::WaitForAll | Policy::Deadline(_))) if running.policy != policy => {
                Ok(RootsChange::Policy(policy))
            }
            _ => Err(precondition(ABORTED_ALREADY)),
        };
    }
    let policy = policy.unwrap_or(Policy::WaitForAll);
    if running.is_emergency() {
        return Err(precondition(EMERGENCY_GOES_ON));
    }
    let mut logged = Vec::new();
    let mut ladder = Vec::new();
    if running.bundle().is_none() && !is_simple(running) {
        let onward = running.ladder();
        let end = cluster::rotation::steps_to(onward, &running.old).map_or(onward.len(), |steps| steps.len());
        let kept = onward.get(..end.saturating_sub(1)).unwrap_or_default();
        let back = cross(&running.old, &running.new, kept, state, signers, now)?;
        ladder = back.filter(|ladder| to_all(&running.old, ladder, &[&running.new])).ok_or_else(|| {
            precondition(
                "the way back cannot be certified by the new root: wait for the end of the rotation, then rotate back",
            )
        })?;
        logged.extend(ladder.first().map(|cross| cross.der().to_vec()));
    }
    let change = RootsChange::Abort(Box::new(Abort { ladder, policy, logged }));
    trial::begin(state, &change, now)?;
    Ok(change)
}

/// A ladder made anew, if a step of the present one ends within a leaf life, or before the leaves of those who may need it
/// afterwards: every such step whose maker's key is still here. So it lasts when the rotation ends, and the key with which it
/// could be made is gone.
///
/// # Errors
/// If it cannot be signed.
pub fn prolong(state: &State, signers: &Signers, now: Time) -> Result<Option<ReplaceLadder>, ControlError> {
    let Some(running) = state.rotation() else { return Ok(None) };
    let mut ladder = running.ladder().to_vec();
    let mut logged = Vec::new();
    for step in &mut ladder {
        if let Some(made) = made_anew(state, running, step, signers, now)? {
            logged.push(made.der().to_vec());
            *step = made;
        }
    }
    Ok((!logged.is_empty()).then_some(ReplaceLadder { rotation: running.id, ladder, logged }))
}

/// A step that lasts longer, if this one is too short and can be made anew.
fn made_anew(
    state: &State,
    running: &Rotation,
    step: &Certificate,
    signers: &Signers,
    now: Time,
) -> Result<Option<Certificate>, ControlError> {
    let needed = now.saturating_add(state.settings.leaf_life()).max(leaves_end(state));
    if step.not_after() > needed.saturating_add(cluster::trust::STEP_LEFT_MIN) {
        return Ok(None);
    }
    let certified = |root: &&Arc<Root>| {
        let same = |own: &Certificate| own.subject_der() == step.subject_der() && own.spki_der() == step.spki_der();
        root.certificates.first().is_some_and(same)
    };
    let made = |root: &&Arc<Root>| !root.custody.is_outside() && pki::chain::signed_by(step, &root.signer).is_ok();
    let (Some(of), Some(by)) = (running.roots().find(certified), running.roots().find(made)) else { return Ok(None) };
    // Not for an hour more: what certifies a root ends with it.
    let most = of.certificates.iter().map(Certificate::not_after).fold(ladder_end(state, now), Time::min);
    if most <= step.not_after().saturating_add(Duration::from_secs(3_600)) {
        return Ok(None);
    }
    let again = cross(of, by, &[], state, signers, now)?.and_then(|ladder| ladder.into_iter().next());
    Ok(again.filter(|again| again.not_after() > step.not_after()))
}

/// When the ladder of the rotation under way ends, if that is soon and [`prolong`] has nothing to give: nodes that need it are
/// then no more led to the new root.
pub(crate) fn ladder_ends(state: &State, now: Time) -> Option<Time> {
    let end = state.rotation()?.ladder().iter().map(Certificate::not_after).min()?;
    let soon = state.settings.leaf_life().min(LADDER_END_ALARM);
    (end <= now.saturating_add(soon)).then_some(end)
}

/// When the first certificate of a root ends: its own, its signer's, or one between them.
pub(crate) fn first_end(root: &Root) -> Time {
    let all = root.certificates.iter().chain(&root.steps).map(Certificate::not_after);
    all.fold(root.signer.not_after(), Time::min)
}

/// The digest of a trust bundle as it is shown: `sha256:…`, that of the tokens.
pub(crate) fn shown_digest(bundle: &[u8]) -> String {
    pki::digest::Digest::of(bundle).to_string()
}

/// Whether a node says that it trusts exactly this bundle.
pub(crate) fn says_it_trusts(node: &cluster::node::Node, bundle: &[u8]) -> bool {
    node.report.as_ref().is_some_and(|report| report.trust == BlobDigest::of(bundle))
}
