//! The roots in a state, the cross-certificates between them, and the CA certificates in the issuance log: whether they
//! belong together, also in the middle of a rotation.

use cluster::State;
use cluster::node::BlobDigest;
use cluster::roots::{Root, Roots};
use cluster::trust::links;
use pki::certificate::Certificate;
use pki::chain::signed_by;
use pki::digest::hex;
use pki::key::PrivateKey;

/// What is wrong with the roots of a state, and with the CA certificates `logged`.
pub(super) fn problems(state: &State, logged: &[Certificate]) -> Vec<String> {
    let anchors = state.roots.anchors();
    let mut problems: Vec<String> = roots(state).into_iter().filter_map(root).collect();
    problems.extend(ladders(state).iter().filter_map(|(name, ladder)| self::ladder(name, ladder, &anchors)));
    let known: Vec<&Certificate> = logged.iter().chain(&anchors).collect();
    problems.extend(logged.iter().filter_map(|certificate| signature(certificate, &known)));
    problems
}

/// Whether the manager's own node may hold this trust bundle now: that of the served root, and, while a root is replaced or
/// just after, those on the way.
pub(super) fn may_be_held(state: &State, trust: &[u8]) -> bool {
    let digest = BlobDigest::of(trust);
    let bundle = state.rotation().and_then(|rotation| rotation.bundle());
    roots(state).iter().any(|root| root.trust == digest)
        || bundle.is_some_and(|bundle| bundle.as_ref() == trust)
        || state.roots.stragglers().iter().any(|anchor| anchor.trust == digest)
}

fn roots(state: &State) -> Vec<&Root> {
    match &state.roots {
        Roots::None => Vec::new(),
        Roots::Stable { root, .. } => vec![root],
        Roots::Rotating(rotation) => rotation.roots().map(AsRef::as_ref).collect(),
    }
}

/// A root whose certificates do not verify, or whose key is another's.
fn root(root: &Root) -> Option<String> {
    let name = root.signer.common_name();
    if root.certificates.is_empty() {
        return Some(format!("the root {name:?} has no certificate"));
    }
    let steps = links(&root.steps, &root.certificates);
    let own = root.certificates.iter().any(|top| signed_by(&root.signer, top).is_ok() || *top == root.signer);
    if steps.len() != root.steps.len() || (root.steps.is_empty() && !own) {
        return Some(format!("the signing certificate {name:?} does not lead to its root"));
    }
    let key = root.key()?;
    let fits = PrivateKey::from_der(key.expose())
        .is_ok_and(|key| root.signer.public_key().is_ok_and(|public| pki::key::Signer::public(&key) == public));
    (!fits).then(|| format!("the key of {name:?} is not that of its certificate"))
}

fn ladders(state: &State) -> Vec<(String, Vec<Certificate>)> {
    let running = state.rotation().map(|rotation| {
        let steps = rotation.ladder().iter().chain(&rotation.onward).cloned().collect();
        ("of the rotation under way".to_owned(), steps)
    });
    let late = state.roots.stragglers().iter().map(|anchor| {
        (format!("for nodes that still trust {:?}", anchor.certificate.common_name()), anchor.ladder.clone())
    });
    running.into_iter().chain(late).collect()
}

/// A ladder with a step that nobody signed who could lead on.
fn ladder(name: &str, ladder: &[Certificate], anchors: &[Certificate]) -> Option<String> {
    let whole = links(ladder, anchors).len() == ladder.len();
    (!whole).then(|| format!("the cross-certificates {name} do not verify"))
}

/// A CA certificate whose maker is known and did not sign it. Of a maker that is not known any more nothing can be said.
fn signature(certificate: &Certificate, known: &[&Certificate]) -> Option<String> {
    let makers: Vec<_> = known.iter().filter(|maker| is_maker(maker, certificate)).collect();
    if makers.is_empty() || makers.iter().any(|maker| signed_by(certificate, maker).is_ok()) {
        return None;
    }
    Some(format!(
        "the CA certificate {} in the issuance log is not signed by {:?}, as it says",
        hex(&certificate.fingerprint()),
        makers.first().map(|maker| maker.common_name()).unwrap_or_default()
    ))
}

/// By name and key id.
fn is_maker(maker: &Certificate, certificate: &Certificate) -> bool {
    let same_key = match (certificate.aki(), maker.ski()) {
        (Some(wanted), Some(key)) => wanted == key,
        _ => maker == certificate,
    };
    same_key && maker.subject_der() == certificate.issuer_der()
}
