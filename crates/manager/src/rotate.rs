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

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use cluster::State;
use cluster::command::ReplaceLadder;
use cluster::node::BlobDigest;
use cluster::roots::{Root, Roots};
use cluster::rotation::{Abort, Policy, RootsChange, Rotation, Start, Way};
use pki::bundle::{BundleError, Issuer};
use pki::certificate::{Certificate, encode_pem, normalize};
use pki::csr::CSR_RSA_BITS_MAX;
use pki::issue::{GIVEN_ROOT_LIFE_MIN, IssueError, LEAF_BACKDATE, ROOT_BACKDATE};
use pki::key::{KeyError, KeyKind, PrivateKey};
use pki::secret::SecretString;
use pki::time::Time;
use wire::status::{CaUpdateRefusal, Refusal, WhichCa};

pub use self::pacer::Pacer;
pub use self::rehearsal::{Rehearsal, rehearse};
pub use self::status::{CaStatus, status};
use crate::chance::Chance;
use crate::view::ControlError;

/// Shortest life of a cross-certificate. Two leaf lives, if that is more.
pub const LADDER_LIFE_MIN: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Certificates of a given signer's chain, itself among them: with as many on the other side and what joins the two, more
/// would not fit between a leaf and a root ([`cluster::trust::LADDER_MAX`]).
pub const GIVEN_STEPS_MAX: usize = 3;

/// What a cross-certificate lasts beyond the last leaf that may need it.
const LADDER_SPARE: Duration = Duration::from_secs(24 * 60 * 60);

/// How much earlier than an engine's a root begins that is made for a rotation: when a leaf begins.
const ROOT_BEGINS_EARLIER: Duration = LEAF_BACKDATE.saturating_sub(ROOT_BACKDATE);

/// What an engine says of a certificate that it cannot read.
const UNREADABLE_ROOT: &str = r#"{"code":1003,"message":"Failed to parse certificate"}"#;
/// The same of a key.
const UNREADABLE_KEY: &str = r#"{"code":2003,"message":"Failed to parse private key"}"#;
/// The same of a key with a passphrase: the Engine API has no place for it.
const ENCRYPTED_KEY: &str = r#"{"code":2100,"message":"Private key is encrypted."}"#;

/// The root that an update asks for (engine-api.md 7.2).
#[derive(Default)]
pub struct Wish {
    /// Counter: any change asks for a new root, if no certificate is given.
    pub force_rotate: u64,
    /// The root to rotate to, PEM; empty: none given.
    pub certificate: Vec<u8>,
    /// A certificate below that root which is to sign in its place, PEM; the root's own key stays where it is.
    pub signer: Option<Vec<u8>>,
    /// The key of whichever signs, PEM.
    pub key: Option<SecretString>,
}

/// What an update means for the roots.
pub enum Decision {
    /// Nothing.
    Keep,
    /// The rotation under way goes back.
    Abort,
    /// A rotation to a root that is made for it.
    Generate,
    /// A rotation to this root.
    Given(Arc<Root>),
}

/// Judges what an update asks of the roots, in docker's order (pki.md 12.2).
///
/// # Errors
/// The refusals of engine-api.md 2.1.
pub fn decide(state: &State, wish: &Wish, now: Time) -> Result<Decision, ControlError> {
    let refused = |refusal: CaUpdateRefusal| ControlError::from(Refusal::CaUpdate(refusal));
    let key = wish.key.as_ref().filter(|key| !key.expose().is_empty());
    if wish.certificate.is_empty() {
        return match key {
            Some(_) => Err(refused(CaUpdateRefusal::KeyWithoutCertificate)),
            None if wish.force_rotate == state.settings.force_rotate => Ok(Decision::Keep),
            None => Ok(Decision::Generate),
        };
    }
    let wanted = given(wish, now)?;
    let same = |root: &Root| normalize(&root.bundle) == wanted.bundle && root.issuer == wanted.issuer;
    match &state.roots {
        Roots::None => Err(refused(CaUpdateRefusal::RootNotLoaded)),
        Roots::Stable { root, .. } if same(root) => Ok(Decision::Keep),
        Roots::Rotating(running) if same(&running.old) && running.back => Ok(Decision::Keep),
        Roots::Rotating(running) if same(&running.old) => Ok(Decision::Abort),
        Roots::Stable { root, .. } if same_key(root, &wanted) => Err(refused(CaUpdateRefusal::SameKey)),
        Roots::Rotating(running) if same_key(&running.old, &wanted) => Err(refused(CaUpdateRefusal::SameKey)),
        Roots::Rotating(running) if same(&running.new) && !running.back => Ok(Decision::Keep),
        Roots::Stable { .. } | Roots::Rotating(_) => Ok(Decision::Given(wanted)),
    }
}

/// The root that is given, checked (pki.md 12.2, 4).
///
/// # Errors
/// The refusals of engine-api.md 2.1.
pub fn given(wish: &Wish, now: Time) -> Result<Arc<Root>, ControlError> {
    let refused = |refusal: CaUpdateRefusal| ControlError::from(Refusal::CaUpdate(refusal));
    let bundle = normalize(&wish.certificate);
    let given = Certificate::parse_pem_bundle(&bundle)
        .map_err(|error| invalid(&BundleError::Roots(error)))
        .map(|mut all| (all.len() == 1).then(|| all.remove(0)))?;
    let Some(key) = wish.key.as_ref().filter(|key| !key.expose().is_empty()) else {
        return Err(refused(match given {
            None => CaUpdateRefusal::SeveralCertificates,
            Some(_) => CaUpdateRefusal::ExternalCaMissing { which: WhichCa::Desired },
        }));
    };
    let below = chain_below(wish.signer.as_deref().unwrap_or_default())?;
    let signing = if below.is_empty() { &bundle } else { &below };
    let issuer = Issuer::from_pem(&bundle, Some(signing), Some(key.expose().as_bytes()), &below, now)
        .map_err(|error| invalid(&error))?;
    let given = given.ok_or_else(|| refused(CaUpdateRefusal::SeveralCertificates))?;
    for certificate in [&given, issuer.certificate()] {
        // Slow to sign with, and too large for every leaf to carry.
        if let Ok(key) = certificate.public_key()
            && let KeyKind::Rsa { bits } = key.kind()
            && bits > CSR_RSA_BITS_MAX
        {
            return Err(refused(CaUpdateRefusal::RsaUnsupported));
        }
    }
    let to = Root::new(bundle, issuer.certificate().clone(), below, None);
    if first_end(&to) < now.saturating_add(GIVEN_ROOT_LIFE_MIN) {
        return Err(refused(CaUpdateRefusal::ExpiresTooSoon));
    }
    let key = PrivateKey::from_pem(key.expose().as_bytes(), None)
        .map_err(|error| invalid(&BundleError::MalformedKey(error)))?;
    Ok(Arc::new(Root { key: Some(Arc::new(key.pkcs8_der())), ..to }))
}

/// When the first certificate of a root ends: its own, its signer's, or one between them.
pub(crate) fn first_end(root: &Root) -> Time {
    let all = root.certificates.iter().chain(&root.steps).map(Certificate::not_after);
    all.fold(root.signer.not_after(), Time::min)
}

/// The signer's chain as it is to be sent, PEM: people give files that hold the root too, or the same certificate twice, and
/// each place that such a one took would be missing for what leads on.
fn chain_below(pem: &[u8]) -> Result<Vec<u8>, ControlError> {
    let pem = normalize(pem);
    if pem.is_empty() {
        return Ok(pem);
    }
    // What is wrong with it is said together with the rest.
    let Ok(given) = Certificate::parse_pem_bundle(&pem) else { return Ok(pem) };
    let mut chain: Vec<Certificate> = Vec::new();
    for step in given {
        let signs_itself = step.issuer_der() == step.subject_der() && pki::chain::signed_by(&step, &step).is_ok();
        if signs_itself || chain.contains(&step) {
            continue;
        }
        if chain.len() >= GIVEN_STEPS_MAX {
            let message = format!("the signing certificate comes with too many others: {GIVEN_STEPS_MAX} at most");
            return Err(ControlError { code: tonic::Code::InvalidArgument, message });
        }
        chain.push(step);
    }
    Ok(encode_pem(&chain).into_bytes())
}

/// Two certificates of one key in a chain do not verify everywhere (pki.md 12.2, 5b).
fn same_key(root: &Root, wanted: &Root) -> bool {
    let keys = |root: &Root| -> Vec<_> {
        root.certificates.iter().chain([&root.signer]).map(|certificate| certificate.spki_hash()).collect()
    };
    keys(wanted).iter().any(|key| keys(root).contains(key))
}

fn invalid(error: &BundleError) -> ControlError {
    let refused = |refusal: CaUpdateRefusal| Refusal::CaUpdate(refusal).to_string();
    let message = match error {
        BundleError::UnsupportedKey(KeyError::RsaSize { .. } | KeyError::RsaExponent) => {
            refused(CaUpdateRefusal::RsaUnsupported)
        }
        BundleError::UnsupportedKey(_) => refused(CaUpdateRefusal::EcdsaUnsupported),
        // Clients know the engine's own words, which do not say what is wrong (engine-api.md 2.1).
        BundleError::Roots(_) => refused(CaUpdateRefusal::RootInvalid { reason: UNREADABLE_ROOT.to_owned() }),
        BundleError::MalformedKey(KeyError::Encrypted) => {
            refused(CaUpdateRefusal::KeyMalformed { reason: ENCRYPTED_KEY.to_owned() })
        }
        BundleError::MalformedKey(_) => refused(CaUpdateRefusal::KeyMalformed { reason: UNREADABLE_KEY.to_owned() }),
        other => other.to_string(),
    };
    ControlError { code: tonic::Code::InvalidArgument, message }
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
    let serial = chance.serial().map_err(|_| Refusal::SignerStopped)?;
    let root = pki::issue::root(&key, serial, now.saturating_sub(ROOT_BEGINS_EARLIER)).map_err(failed)?;
    Ok(Arc::new(Root::new(root.pem().into_bytes(), root, Vec::new(), Some(Arc::new(key.pkcs8_der())))))
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
            return Err(precondition(
                "a root rotation is under way: end it first with `swarmpki ca abort`, or wait for it, then rotate with --emergency",
            ));
        }
        Roots::Stable { root, .. } if emergency => (vec![root], None),
        Roots::Stable { root, .. } => (vec![root], Some(cross(&to, root, &[], state, now)?)),
        Roots::Rotating(running) if running.bundle().is_some() => {
            return Err(precondition(
                "the root rotation under way cannot be replaced by another: wait for its end, or end it with `swarmpki ca abort`",
            ));
        }
        Roots::Rotating(running) if is_simple(running) => {
            (vec![&running.old], Some(cross(&to, &running.old, &[], state, now)?))
        }
        // Nodes may trust the root that this rotation goes to: the new one is certified by that, which is certified already.
        Roots::Rotating(running) => {
            let held: Vec<_> = running.trusted().collect();
            (held, Some(cross(&to, running.to(), running.ladder(), state, now)?))
        }
    };
    let ladder = ladder.filter(|ladder| to_all(&to, ladder, &held));
    trial::try_out(&to, ladder.as_deref().unwrap_or_default(), &held, state, now)?;
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
        trial::try_out(&to, further, &held, state, now)?;
    }
    Ok(change)
}

/// Whether only the old root can be what nodes trust: nobody was given another yet.
fn is_simple(running: &Rotation) -> bool {
    running.bundle().is_none() && running.given.is_empty()
}

/// The ladder from `to`: its root certified by `by`'s signer, then what leads on from there.
fn cross(
    to: &Root,
    by: &Root,
    further: &[Certificate],
    state: &State,
    now: Time,
) -> Result<Vec<Certificate>, ControlError> {
    let key = by.key.as_ref().ok_or_else(|| failed("its key is not here"))?;
    let key = PrivateKey::from_der(key.expose()).map_err(failed)?;
    let root = to.certificates.first().ok_or_else(|| failed("it has no certificate"))?;
    let end = ladder_end(state, now);
    let cross = pki::issue::cross_sign(root, &by.signer, &key, Some(end)).map_err(|error| match error {
        IssueError::NotACa => refused_root(&error),
        error => failed(error),
    })?;
    Ok([cross].iter().chain(&by.steps).chain(further).cloned().collect())
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

/// What turns the rotation under way back: the old root, certified by the one that nodes may have come to trust.
///
/// # Errors
/// If there is no rotation, or none that can be turned.
pub fn turn_back(state: &State, policy: Policy, now: Time) -> Result<RootsChange, ControlError> {
    let running =
        state.rotation().ok_or_else(|| precondition("no root rotation is under way: there is nothing to abort"))?;
    if running.back {
        return Err(precondition("the root rotation is being aborted already: see `swarmpki ca status`"));
    }
    if running.is_emergency() {
        return Err(precondition("an emergency rotation goes on to its end: the old key is taken for stolen"));
    }
    let mut logged = Vec::new();
    let mut ladder = Vec::new();
    if running.bundle().is_none() && !is_simple(running) {
        let onward = running.ladder();
        let end = cluster::rotation::steps_to(onward, &running.old).map_or(onward.len(), |steps| steps.len());
        let kept = onward.get(..end.saturating_sub(1)).unwrap_or_default();
        ladder = cross(&running.old, &running.new, kept, state, now)?;
        if !to_all(&running.old, &ladder, &[&running.new]) {
            return Err(precondition(
                "the way back cannot be certified by the new root: wait for the end of the rotation, then rotate back",
            ));
        }
        logged.extend(ladder.first().map(|cross| cross.der().to_vec()));
    }
    let change = RootsChange::Abort(Box::new(Abort { ladder, policy, logged }));
    trial::begin(state, &change, now)?;
    Ok(change)
}

/// A ladder made anew, if the present one ends within a leaf life, or before the leaves of those who may need it afterwards:
/// its first step, whose maker's key is still here. So it lasts when the rotation ends, and the key with which it could be made
/// is gone.
///
/// # Errors
/// If it cannot be signed.
pub fn prolong(state: &State, now: Time) -> Result<Option<ReplaceLadder>, ControlError> {
    let Some(running) = state.rotation() else { return Ok(None) };
    let Some((first, rest)) = running.ladder().split_first() else { return Ok(None) };
    let needed = now.saturating_add(state.settings.leaf_life()).max(leaves_end(state));
    let most = running.to().certificates.iter().map(Certificate::not_after).fold(ladder_end(state, now), Time::min);
    // Not for an hour more: what certifies a root ends with it.
    let short = first.not_after() <= needed.saturating_add(cluster::trust::STEP_LEFT_MIN);
    if !short || most <= first.not_after().saturating_add(Duration::from_secs(3_600)) {
        return Ok(None);
    }
    let maker = running.roots().find(|root| root.key.is_some() && pki::chain::signed_by(first, &root.signer).is_ok());
    let Some(maker) = maker else { return Ok(None) };
    let steps = rest.get(maker.steps.len()..).unwrap_or_default();
    let ladder = cross(running.to(), maker, steps, state, now)?;
    let fresh = ladder.first().is_some_and(|again| again.not_after() > first.not_after());
    let logged = ladder.first().map(|cross| vec![cross.der().to_vec()]).unwrap_or_default();
    Ok(fresh.then_some(ReplaceLadder { rotation: running.id, ladder, logged }))
}

/// The digest of a trust bundle as it is shown: `sha256:…`, that of the tokens.
pub(crate) fn shown_digest(bundle: &[u8]) -> String {
    pki::digest::Digest::of(bundle).to_string()
}

/// Whether a node says that it trusts exactly this bundle.
pub(crate) fn says_it_trusts(node: &cluster::node::Node, bundle: &[u8]) -> bool {
    node.report.as_ref().is_some_and(|report| report.trust == BlobDigest::of(bundle))
}
