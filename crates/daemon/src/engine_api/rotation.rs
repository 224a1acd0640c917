//! The root and its replacement: `GET /swarmpki/v1/ca/status`, `POST /swarmpki/v1/ca/rotate`, `POST /swarmpki/v1/ca/abort`. Managers only.
//!
//! What docker's API cannot say: deadlines, rehearsals, the way back, and who is waited for and why. Rules and refusals are
//! those of an update (engine-api.md 7.2).

mod document;

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

use super::body::Document;
use super::error::ApiError;
use super::{Answer, json};
use crate::backend::{Backend, Control, refusal};
use crate::clock::now;

pub use document::{
    AbortRequest, AsideReport, ConvertReport, ExternalCaRequest, LastReport, NodeReport, PhaseReport, PolicyReport,
    PolicyRequest, RehearsalReport, RootReport, RotateRequest, RotationReport, SignerReport, SignerState, StatusReport,
    StragglerReport, UrlReport,
};

/// Longest time that a deadline or a bound can give, in milliseconds: a hundred years.
const SPAN_MS_MAX: u64 = 100 * 365 * 24 * 60 * 60 * 1000;
/// Shortest time that each phase of an emergency rotation can be given.
pub const BOUND_MIN: Duration = Duration::from_secs(1);
/// Shortest deadline: in less, every node would be put aside.
pub const DEADLINE_MIN: Duration = Duration::from_secs(1);

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
