//! The root and its replacement: `GET /swarmpki/v1/ca/status`, `POST /swarmpki/v1/ca/rotate`, `POST /swarmpki/v1/ca/abort`. Managers only.
//!
//! What docker's API cannot say: deadlines, rehearsals, the way back, and who is waited for and why. Rules and refusals are
//! those of an update (engine-api.md 7.2).

use std::sync::Arc;
use std::time::Duration;

use cluster::State;
use cluster::roots::{Custody, Root, Roots};
use cluster::rotation::{Phase, Policy};
use manager::outside::SignerView;
use manager::rotate::rehearsal::Rehearsal;
use manager::rotate::status::{Blocking, CaStatus, LastView, RootView, RotationView, StragglerView};
use manager::rotate::{Reach, Wish};
use manager::{ExternalCa, UrlHealth, UrlState};
use pki::digest::Digest;
use pki::identity::NodeId;
use pki::secret::SecretString;
use pki::time::Time;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::body::Document;
use super::error::ApiError;
use super::{Answer, json};
use crate::backend::{Backend, Control, refusal};
use crate::clock::now;

/// Longest time that a deadline or a bound can give, in milliseconds: a hundred years.
const SPAN_MS_MAX: u64 = 100 * 365 * 24 * 60 * 60 * 1000;
/// Shortest time that each phase of an emergency rotation can be given.
pub const BOUND_MIN: Duration = Duration::from_secs(1);
/// Shortest deadline: in less, every node would be put aside.
pub const DEADLINE_MIN: Duration = Duration::from_secs(1);

/// `GET /swarmpki/v1/ca/status`, and the answer to a rotation or an abort that was begun: how the roots stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    /// The manager's clock at the answer.
    pub now: String,
    /// The root that joining nodes get and tokens name.
    pub served: RootReport,
    /// The root whose key signs.
    pub signing: RootReport,
    /// The rotation under way.
    pub rotation: Option<RotationReport>,
    /// The last rotation that ended; null: none since this is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastReport>,
    /// Old roots that late nodes may still come back with.
    pub stragglers: Vec<StragglerReport>,
    /// Nodes that cannot come back by themselves, while no rotation is under way: the next one would wait for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_behind: Vec<NodeReport>,
    /// Who signs now, and whether it can.
    pub signer: SignerState,
}

/// A rotation that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastReport {
    /// Its number.
    pub id: u64,
    /// The digest of the root that was left.
    pub from: String,
    /// The digest of the root that was gone to.
    pub to: String,
    /// Whether it was aborted.
    pub aborted: bool,
    /// Whether the old key was taken for stolen.
    pub emergency: bool,
    /// When it began.
    pub started: String,
    /// When it ended.
    pub ended: String,
    /// Nodes that were put aside and had not come along at the end: the first of them.
    pub aside: Vec<AsideReport>,
    /// How many those were.
    pub aside_count: u64,
}

/// Who signs now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SignerState {
    /// `key`, `token`, `external`.
    pub kind: String,
    /// What keeps it from signing, as far as is known; null: nothing.
    pub trouble: Option<String>,
    /// Requests that wait for it.
    pub waiting: u64,
    /// Its external CAs.
    pub urls: Vec<UrlReport>,
}

/// An external CA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UrlReport {
    /// Where it answers.
    pub url: String,
    /// `up`, `reachable`, `trying`, `down`, `invalid`.
    pub state: String,
    /// Until when it is left alone, while it is down.
    pub until: Option<String>,
    /// When it last gave a certificate.
    pub last_success: Option<String>,
    /// When it last failed.
    pub last_failure: Option<String>,
    /// Why.
    pub last_error: Option<String>,
    /// How long good answers take, in milliseconds.
    pub latency_ms: Option<u64>,
    /// Certificates it gave.
    pub granted: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Answers that were not to be believed.
    pub hostile: u64,
}

impl UrlReport {
    /// Its state for people: that of one which nobody asked is not known yet.
    pub fn shown(&self) -> &str {
        let asked = self.last_success.is_some() || self.last_failure.is_some();
        if self.state == "up" && !asked { "not asked yet" } else { &self.state }
    }
}

/// A root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootReport {
    /// `sha256:<hex>` over the bundle, as tokens name it.
    pub digest: String,
    /// Its common name.
    pub name: String,
    /// Until when its certificate lasts.
    pub not_after: String,
    /// Whether managers hold the key that signs.
    pub has_key: bool,
    /// Where that key is: `sealed` with the managers, in a `token`, `outside`.
    pub custody: String,
    /// With a `token`: the PKCS#11 URI of the key, without whatever a machine has to say itself (module, where the PIN is).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Who signs in its place; absent: it signs itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<SignerReport>,
}

/// A certificate below a root that signs in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SignerReport {
    /// Its common name.
    pub name: String,
    /// Until when it lasts.
    pub not_after: String,
}

/// A rotation under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RotationReport {
    /// Its number; another one after it was turned back or replaced.
    pub id: u64,
    /// The root that is left.
    pub from: RootReport,
    /// The root that is gone to.
    pub to: RootReport,
    /// Whether it was aborted: then it leads back.
    pub aborted: bool,
    /// Whether nodes are given both roots first, because no cross-certificate would be verified.
    pub by_bundle: bool,
    /// `widen`, `renew`, `trust`.
    pub phase: String,
    /// When it began.
    pub started: String,
    /// When this phase began.
    pub since: String,
    /// The phases before.
    pub history: Vec<PhaseReport>,
    /// What happens with nodes that do not come along.
    pub policy: PolicyReport,
    /// When this phase ends whoever is missing; null: when nobody is.
    pub phase_ends: Option<String>,
    /// Nodes that this phase needs, done or not.
    pub required: u64,
    /// Those that did their part.
    pub done: u64,
    /// Nodes a second in this phase, once it is known.
    pub rate: Option<f64>,
    /// Time to the end of this phase at that rate, in milliseconds; null if unknown, or while a node is missing that does
    /// not come by itself.
    pub left_ms: Option<u64>,
    /// Nodes that are waited for.
    pub blocking: Vec<NodeReport>,
    /// Nodes that were put aside.
    pub aside: Vec<NodeReport>,
}

/// A phase that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseReport {
    /// `widen`, `renew`, `trust`.
    pub phase: String,
    /// When it began.
    pub since: String,
}

/// What happens with nodes that do not come along.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyReport {
    /// `wait`, `deadline`, `emergency`.
    pub kind: String,
    /// When they are put aside, with `deadline`.
    pub deadline: Option<String>,
    /// Time for each phase in milliseconds, with `emergency`.
    pub bound_ms: Option<u64>,
}

/// A node that has not done its part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// Its id.
    pub node: String,
    /// The host name it reported.
    pub hostname: String,
    /// `queued`, `told`, `refusing`, `returning`, `lost`, `down`, `never-registered`, `unknown`, `left-behind`,
    /// `clock-off`.
    pub reason: String,
    /// The reason in words.
    pub text: String,
    /// What to do about it; null: it comes by itself.
    pub remedy: Option<String>,
    /// Since when.
    pub since: Option<String>,
    /// What it was last told when it asked for a certificate and got none.
    pub last_error: Option<String>,
    /// Whether it comes back by itself if it is put aside.
    pub returns: bool,
}

/// An old root that late nodes may still come back with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StragglerReport {
    /// Its digest.
    pub digest: String,
    /// Until when at the latest.
    pub until: String,
    /// The nodes that may.
    pub nodes: Vec<String>,
}

/// The answer to a rotation with `dry_run`: how it would go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RehearsalReport {
    /// The root that it would leave.
    pub from: RootReport,
    /// The root that it would go to; null: one that would be made.
    pub to: Option<RootReport>,
    /// Whether nodes would be given both roots first.
    pub by_bundle: bool,
    /// Nodes that would convert, in that order.
    pub converts: Vec<ConvertReport>,
    /// Nodes that it would wait for.
    pub blocks: Vec<NodeReport>,
    /// Nodes that would be put aside at the deadline, or left behind.
    pub aside: Vec<AsideReport>,
    /// How long it would take, in milliseconds; null: it would wait for the nodes that block.
    pub takes_ms: Option<u64>,
}

/// A node that would convert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConvertReport {
    /// Its id.
    pub node: String,
    /// When its certificate would be new, in milliseconds from the beginning.
    pub after_ms: u64,
}

/// A node that would be put aside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AsideReport {
    /// Its id.
    pub node: String,
    /// The host name it reported.
    pub hostname: String,
}

/// The body of `POST /swarmpki/v1/ca/rotate`. Without certificate and key a new root is made.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotateRequest {
    /// What happens with nodes that do not come along; absent: they are waited for, or, by a rotation to that root that is under way, as
    /// long as it does already.
    pub policy: Option<PolicyRequest>,
    /// The root to rotate to, PEM; empty: a new one is made.
    pub certificate: String,
    /// An online certificate below that root that signs in its place, PEM; empty: the root signs itself.
    pub signer_certificate: String,
    /// The unencrypted key of whichever signs, PEM.
    pub key: Zeroizing<String>,
    /// Life of node certificates from now on, in milliseconds; absent: as it is.
    pub node_cert_expiry_ms: Option<u64>,
    /// Where the key of whichever signs is: a PKCS#11 URI; empty: in no token. A `key` is put there. Without a certificate the new
    /// root's key is the one found there, or one made there.
    pub pkcs11: String,
    /// The external CAs from now on; absent: as they are.
    pub external_cas: Option<Vec<ExternalCaRequest>>,
    /// Only say how it would go.
    pub dry_run: bool,
}

/// An external CA that signs for a root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExternalCaRequest {
    /// Where it answers: `https://…/api/v1/cfssl/sign`.
    pub url: String,
    /// The root it signs for, PEM; empty: the present one.
    pub ca_cert: String,
}

/// The body of `POST /swarmpki/v1/ca/abort`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AbortRequest {
    /// Time in milliseconds after which nodes that did not come along are put aside; absent: they are waited for. A rotation that is
    /// being taken back already is given another deadline by it.
    pub deadline_ms: Option<u64>,
}

/// What happens with nodes that do not come along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum PolicyRequest {
    /// They are waited for.
    #[default]
    Wait,
    /// They are put aside after this time.
    Deadline {
        /// From now, in milliseconds.
        after_ms: u64,
    },
    /// The key is stolen: every phase ends after this time.
    Emergency {
        /// For each phase, in milliseconds.
        bound_ms: u64,
    },
}

/// `GET /swarmpki/v1/ca/status`.
pub(super) fn status(backend: &Backend) -> Answer {
    let control = backend.control()?;
    report(&control, now())
}

fn report(control: &Control, now: Time) -> Answer {
    let mut report = status_report(&control.ca_status().map_err(refusal)?, &control.state(), now);
    report.signer = signer(&control.signer().map_err(refusal)?);
    json(&report)
}

fn signer(view: &SignerView) -> SignerState {
    let url = |ca: &UrlHealth| UrlReport {
        url: ca.url.clone(),
        state: ca.state.word().to_owned(),
        until: match &ca.state {
            UrlState::Open { until } => Some(text(*until)),
            UrlState::Up | UrlState::Reachable | UrlState::Trying | UrlState::Invalid(_) => None,
        },
        last_success: ca.last_success.map(text),
        last_failure: ca.last_error.as_ref().map(|(at, _)| text(*at)),
        last_error: match &ca.state {
            UrlState::Invalid(why) => Some(why.clone()),
            _ => ca.last_error.as_ref().map(|(_, why)| why.clone()),
        },
        latency_ms: ca.latency.map(millis),
        granted: ca.granted,
        failed: ca.failed,
        hostile: ca.hostile,
    };
    SignerState {
        kind: view.kind.word().to_owned(),
        trouble: view.trouble.clone(),
        waiting: count(view.waiting),
        urls: view.urls.iter().map(url).collect(),
    }
}

/// `POST /swarmpki/v1/ca/rotate`: begins, and answers the status; or how it would go.
pub(super) async fn rotate(backend: &Backend, body: Option<Document>) -> Answer {
    let mut request: RotateRequest = read(body)?;
    let now = now();
    let policy = request.policy.map(|wanted| policy(wanted, now)).transpose()?;
    let control = backend.control()?;
    let expiry = request.node_cert_expiry_ms.map(|ms| span("node_cert_expiry_ms", ms)).transpose()?;
    let mut wish = Wish {
        force_rotate: 0,
        certificate: std::mem::take(&mut request.certificate).into_bytes(),
        signer: (!request.signer_certificate.is_empty())
            .then(|| std::mem::take(&mut request.signer_certificate).into_bytes()),
        key: Some(SecretString::from(std::mem::take(&mut request.key))),
        token: None,
    };
    if !request.pkcs11.is_empty() {
        let key = wish.key.take();
        if wish.certificate.is_empty() && key.as_ref().is_some_and(|key| !key.expose().is_empty()) {
            return Err(ApiError::bad_request("a key for the token needs its certificate: certificate is empty"));
        }
        // A rehearsal puts nothing into the token: it goes as with the key given.
        let copy = key.as_ref().filter(|_| request.dry_run).map(SecretString::duplicate);
        wish.token = control.token_key(&request.pkcs11, key, request.dry_run).await.map_err(refusal)?;
        wish.key = copy.filter(|_| wish.token.is_none());
    }
    let external = |ca: ExternalCaRequest| ExternalCa { url: ca.url, ca_cert: ca.ca_cert, ..ExternalCa::default() };
    let external_cas = request.external_cas.take().map(|all| all.into_iter().map(external).collect::<Vec<_>>());
    if wish.signer.is_some() && wish.certificate.is_empty() {
        return Err(ApiError::bad_request("signer_certificate needs the root it is below: certificate is empty"));
    }
    if request.dry_run {
        let given = (!wish.certificate.is_empty()).then(|| manager::rotate::given(&wish, &Reach::default(), now));
        let rehearsal = control.rehearse_rotation(wish, external_cas, policy).await.map_err(refusal)?;
        let mut report = rehearsal_report(&rehearsal, &control.state());
        report.to = given.transpose().map_err(refusal)?.map(|root| given_root(&root));
        return json(&report);
    }
    control.rotate_root(wish, expiry, external_cas, policy).await.map_err(refusal)?;
    report(&control, now)
}

/// `POST /swarmpki/v1/ca/abort`: turns the rotation under way back, and answers the status.
pub(super) async fn abort(backend: &Backend, body: Option<Document>) -> Answer {
    let request: AbortRequest = read(body)?;
    let now = now();
    let wanted = request.deadline_ms.map(|after_ms| PolicyRequest::Deadline { after_ms });
    let policy = wanted.map(|wanted| policy(wanted, now)).transpose()?;
    let control = backend.control()?;
    control.abort_rotation(policy).await.map_err(refusal)?;
    report(&control, now)
}

/// Reads a body; absent: nothing is asked for in particular. What is not known is refused: a mistyped deadline would wait
/// for ever.
pub(super) fn read<T: Default + serde::de::DeserializeOwned>(body: Option<Document>) -> Result<T, ApiError> {
    let Some(body) = body else { return Ok(T::default()) };
    if !body.value().is_object() {
        return Err(ApiError::bad_request("invalid request: it is not a JSON object"));
    }
    // The reason may repeat what was sent; it goes to the caller alone.
    T::deserialize(body.value()).map_err(|error| ApiError::bad_request(format!("invalid request: {error}")))
}

fn span(field: &str, ms: u64) -> Result<Duration, ApiError> {
    if ms > SPAN_MS_MAX {
        return Err(ApiError::bad_request(format!("{field} is more than a hundred years")));
    }
    Ok(Duration::from_millis(ms))
}

fn policy(wanted: PolicyRequest, now: Time) -> Result<Policy, ApiError> {
    Ok(match wanted {
        PolicyRequest::Wait => Policy::WaitForAll,
        PolicyRequest::Deadline { after_ms } => {
            let after = span("the deadline", after_ms)?;
            if after < DEADLINE_MIN {
                return Err(ApiError::bad_request("the deadline is less than a second: no node could come along"));
            }
            Policy::Deadline(now.saturating_add(after))
        }
        PolicyRequest::Emergency { bound_ms } => {
            let bound = span("bound_ms", bound_ms)?;
            if bound < BOUND_MIN {
                return Err(ApiError::bad_request("bound_ms is less than a second: no node could come along"));
            }
            Policy::Emergency { bound }
        }
    })
}

fn text(time: Time) -> String {
    time.rfc3339()
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn status_report(status: &CaStatus, state: &State, now: Time) -> StatusReport {
    StatusReport {
        now: text(now),
        served: root(&status.served, state),
        signing: root(&status.signing, state),
        rotation: status.rotation.as_ref().map(|view| rotation(view, state)),
        last: status.last.as_ref().map(last),
        stragglers: status.stragglers.iter().map(straggler).collect(),
        left_behind: status.left_behind.iter().map(node).collect(),
        signer: SignerState::default(),
    }
}

/// A root as the status has it; who signs for it as the state does.
fn root(view: &RootView, state: &State) -> RootReport {
    let held: &[&Arc<Root>] = match &state.roots {
        Roots::None => &[],
        Roots::Stable { root, .. } => &[root],
        Roots::Rotating(rotation) => &[rotation.from(), rotation.to()],
    };
    match held.iter().find(|root| Digest::of(&root.bundle).to_string() == view.digest) {
        Some(root) => given_root(root),
        None => RootReport {
            digest: view.digest.clone(),
            name: view.name.clone(),
            not_after: text(view.not_after),
            has_key: view.has_key,
            custody: String::new(),
            token: None,
            signer: None,
        },
    }
}

/// Where a key in a token is. What stands behind `?` in a URI names files of one machine, among them the PIN's.
fn token(custody: &Custody) -> Option<String> {
    match custody {
        Custody::Token(uri) => Some(uri.split_once('?').map_or(&**uri, |(path, _)| path).to_owned()),
        Custody::Sealed(_) | Custody::Outside => None,
    }
}

fn given_root(root: &Root) -> RootReport {
    let own = root.certificates.first().unwrap_or(&root.signer);
    let signer = (own.spki_der() != root.signer.spki_der())
        .then(|| SignerReport { name: root.signer.common_name(), not_after: text(root.signer.not_after()) });
    RootReport {
        digest: Digest::of(&root.bundle).to_string(),
        name: own.common_name(),
        not_after: text(own.not_after()),
        has_key: root.key().is_some(),
        custody: root.custody.word().to_owned(),
        token: token(&root.custody),
        signer,
    }
}

fn rotation(view: &RotationView, state: &State) -> RotationReport {
    let phase = |(phase, since): &(Phase, Time)| PhaseReport { phase: phase.word().to_owned(), since: text(*since) };
    RotationReport {
        id: view.id,
        from: root(&view.from, state),
        to: root(&view.to, state),
        aborted: view.aborted,
        by_bundle: view.by_bundle,
        phase: view.phase.word().to_owned(),
        started: text(view.started),
        since: text(view.since),
        history: view.history.iter().map(phase).collect(),
        policy: match view.policy {
            Policy::WaitForAll => PolicyReport { kind: "wait".to_owned(), ..PolicyReport::default() },
            Policy::Deadline(at) => {
                PolicyReport { kind: "deadline".to_owned(), deadline: Some(text(at)), bound_ms: None }
            }
            Policy::Emergency { bound } => {
                PolicyReport { kind: "emergency".to_owned(), deadline: None, bound_ms: Some(millis(bound)) }
            }
        },
        phase_ends: view.phase_ends.map(text),
        required: count(view.required),
        done: count(view.done),
        rate: view.rate,
        left_ms: view.left.map(millis),
        blocking: view.blocking.iter().map(node).collect(),
        aside: view.aside.iter().map(node).collect(),
    }
}

fn node(blocking: &Blocking) -> NodeReport {
    NodeReport {
        node: blocking.node.to_string(),
        hostname: blocking.hostname.clone(),
        reason: blocking.reason.word().to_owned(),
        text: blocking.reason.text(),
        remedy: blocking.remedy.clone(),
        since: blocking.since.map(text),
        last_error: blocking.last_error.clone(),
        returns: blocking.returns,
    }
}

fn last(view: &LastView) -> LastReport {
    let aside = |(id, hostname): &(NodeId, String)| AsideReport { node: id.to_string(), hostname: hostname.clone() };
    LastReport {
        id: view.id,
        from: view.from.clone(),
        to: view.to.clone(),
        aborted: view.aborted,
        emergency: view.emergency,
        started: text(view.started),
        ended: text(view.ended),
        aside: view.aside.iter().map(aside).collect(),
        aside_count: view.aside_count,
    }
}

fn straggler(view: &StragglerView) -> StragglerReport {
    StragglerReport {
        digest: view.digest.clone(),
        until: text(view.until),
        nodes: view.nodes.iter().map(ToString::to_string).collect(),
    }
}

fn rehearsal_report(rehearsal: &Rehearsal, state: &State) -> RehearsalReport {
    RehearsalReport {
        from: root(&rehearsal.from, state),
        to: None,
        by_bundle: rehearsal.by_bundle,
        converts: rehearsal
            .converts
            .iter()
            .map(|(node, after)| ConvertReport { node: node.to_string(), after_ms: millis(*after) })
            .collect(),
        blocks: rehearsal.blocks.iter().map(node).collect(),
        aside: rehearsal
            .aside
            .iter()
            .map(|id| AsideReport {
                node: id.to_string(),
                hostname: state
                    .node(id)
                    .and_then(|node| node.report.as_ref())
                    .map(|report| report.hostname.clone())
                    .unwrap_or_default(),
            })
            .collect(),
        takes_ms: rehearsal.takes.map(millis),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn request(value: Value) -> Result<RotateRequest, String> {
        read(Some(Document::new(value))).map_err(|refused: ApiError| refused.message)
    }

    #[test]
    fn what_is_asked_for() {
        assert_eq!(request(json!({})).unwrap().policy, None);
        let rows = [
            (json!({"kind": "wait"}), PolicyRequest::Wait),
            (json!({"kind": "deadline", "after_ms": 10_000}), PolicyRequest::Deadline { after_ms: 10_000 }),
            (json!({"kind": "emergency", "bound_ms": 5_000}), PolicyRequest::Emergency { bound_ms: 5_000 }),
        ];
        for (value, wanted) in rows {
            assert_eq!(request(json!({"policy": value})).unwrap().policy, Some(wanted));
        }
        let Ok(none) = read::<AbortRequest>(None) else { panic!("an absent body was refused") };
        assert_eq!(none, AbortRequest::default());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for value in [
            json!({"deadline": 10}),
            json!({"policy": {"kind": "deadline", "seconds": 10}}),
            json!({"policy": {"kind": "never"}}),
            json!({"policy": {"kind": "deadline"}}),
            json!({"policy": {"kind": "deadline", "after_ms": -1}}),
            json!([]),
        ] {
            let Err(refused) = request(value.clone()) else { panic!("accepted: {value}") };
            assert!(refused.starts_with("invalid request: "), "{refused}");
        }
    }

    #[test]
    fn a_tokens_uri_is_told_without_what_is_a_machines_own() {
        let rows = [
            (Custody::Token("pkcs11:token=ca;object=root".into()), Some("pkcs11:token=ca;object=root")),
            (
                Custody::Token("pkcs11:object=root?pin-source=/run/pin&pin-value=1234".into()),
                Some("pkcs11:object=root"),
            ),
            (Custody::Outside, None),
        ];
        for (custody, told) in rows {
            assert_eq!(token(&custody).as_deref(), told);
        }
    }

    #[test]
    fn a_refusal_never_shows_a_key() {
        let Err(refused) = request(json!({"key": "SECRET", "certificate": 7})) else { panic!("accepted") };
        assert!(!refused.contains("SECRET"), "{refused}");
    }

    #[test]
    fn policies_have_bounds() {
        let now = Time::from_unix_secs(1_700_000_000);
        let after = |ms| policy(PolicyRequest::Deadline { after_ms: ms }, now).map_err(|refused| refused.message);
        assert_eq!(after(10_000), Ok(Policy::Deadline(now.saturating_add(Duration::from_secs(10)))));
        assert!(after(u64::MAX).unwrap_err().contains("hundred years"));
        assert!(after(0).unwrap_err().contains("less than a second"));
        assert!(after(999).unwrap_err().contains("less than a second"));
        assert!(after(1000).is_ok());
        let bound = |ms| policy(PolicyRequest::Emergency { bound_ms: ms }, now).map_err(|refused| refused.message);
        assert_eq!(bound(1000), Ok(Policy::Emergency { bound: BOUND_MIN }));
        assert!(bound(999).unwrap_err().contains("less than a second"));
    }

    #[test]
    fn a_remedy_names_its_node() {
        let id: NodeId = "dzm52djk15bshpeec4zdo7hez".parse().unwrap();
        let blocking = Blocking {
            node: id.clone(),
            hostname: "w2".into(),
            reason: manager::rotate::status::Reason::Down,
            remedy: Some(format!("bring it back, or remove it: swarmpki node rm --force {id}")),
            since: None,
            last_error: None,
            returns: true,
        };
        let shown = node(&blocking);
        assert_eq!((shown.reason.as_str(), shown.text.as_str()), ("down", "it is down"));
        assert!(shown.remedy.unwrap().contains("swarmpki node rm --force dzm52djk15bshpeec4zdo7hez"));
    }
}
