//! What TLS decides, without TLS: each side's chain against the other's anchors, by the functions of the product.
//!
//! A path that was found is [known](Known) again as long as every certificate of it is valid: thousands of nodes look at one
//! manager, and each leaf comes again and again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use pki::key::Signer as _;

use cluster::State;
use cluster::authorize::Presented;
use cluster::node::IssuerHash;
use pki::bundle::TrustBundle;
use pki::certificate::{Certificate, IssuerId};
use pki::chain::{ChainError, Usage, reaches};
use pki::identity::Role;
use pki::time::Time;
use swarmpki::plan::{Failure, FailureKind};

use crate::packet::{Identity, Who};

/// Paths that were found, or were found not to be there.
#[derive(Default)]
pub struct Known(Mutex<BTreeMap<[u8; 32], Result<IssuerId, ChainError>>>);

/// Paths kept; with more, all are forgotten.
const KNOWN_MAX: usize = 65_536;

impl Known {
    /// The same as [`reaches`], from memory if it can be.
    ///
    /// # Errors
    /// As there.
    pub fn reaches(
        &self,
        leaf: &Certificate,
        ladder: &[Certificate],
        anchors: &[Certificate],
        at: Time,
        usage: Usage,
    ) -> Result<IssuerId, ChainError> {
        let valid = |certificate: &Certificate| certificate.not_before() <= at && at <= certificate.not_after();
        if !std::iter::once(leaf).chain(ladder).chain(anchors).all(valid) {
            return reaches(leaf, ladder, anchors, at, usage);
        }
        let mut bytes = vec![u8::from(matches!(usage, Usage::Server)), ladder.len() as u8];
        for certificate in std::iter::once(leaf).chain(ladder).chain(anchors) {
            bytes.extend_from_slice(certificate.der());
        }
        let key = pki::digest::sha256(&bytes);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&key) {
            return found.clone();
        }
        let found = reaches(leaf, ladder, anchors, at, usage);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(key, found.clone());
        found
    }
}

/// How a client judges the manager.
///
/// # Errors
/// As the client sees it.
pub fn judge_manager(known: &Known, who: &Who, manager: &Identity, at: Time) -> Result<(), Failure> {
    let (trust, cluster) = match who {
        Who::Stranger => return Ok(()),
        Who::Joiner(trust) => (trust, None),
        Who::Node(identity) => (&identity.trust, cluster_of(identity)),
    };
    let tls = |kind, text: String| Failure::new(kind, text);
    let Some((leaf, ladder)) = manager.chain.split_first() else {
        return Err(tls(FailureKind::Tls, "no certificate".to_owned()));
    };
    known.reaches(leaf, ladder, trust.certificates(), at, Usage::Server).map_err(|error| {
        let time = matches!(
            error,
            ChainError::PathExpired
                | ChainError::Expired { .. }
                | ChainError::NotYetValid { .. }
                | ChainError::NoTimeSpan
        );
        tls(if time { FailureKind::TlsTime } else { FailureKind::Tls }, error.to_string())
    })?;
    if manager.key.public().hash() != leaf.spki_hash() {
        return Err(tls(FailureKind::Tls, "the key is not the leaf's".to_owned()));
    }
    let subject = leaf.node_subject().map_err(|error| tls(FailureKind::Tls, error.to_string()))?;
    if subject.role != Role::Manager || cluster.is_some_and(|cluster| cluster != subject.cluster) {
        return Err(tls(FailureKind::Tls, "not a manager of this cluster".to_owned()));
    }
    Ok(())
}

fn cluster_of(identity: &Identity) -> Option<pki::identity::ClusterId> {
    identity.chain.first()?.node_subject().ok().map(|subject| subject.cluster)
}

/// How the manager judges a client: who it is, also if its leaf has ended.
///
/// # Errors
/// As the client sees it.
pub fn judge_client(
    known: &Known,
    state: &State,
    trust: &TrustBundle,
    client: &Identity,
    now: Time,
) -> Result<Presented, Failure> {
    let refused = |text: String| Failure::new(FailureKind::Tls, text);
    let (leaf, ladder) = client.chain.split_first().ok_or_else(|| refused("no certificate".to_owned()))?;
    if client.key.public().hash() != leaf.spki_hash() {
        return Err(refused("the key is not the leaf's".to_owned()));
    }
    let mut anchors = trust.certificates().to_vec();
    for anchor in state.roots.anchors() {
        if !anchors.contains(&anchor) {
            anchors.push(anchor);
        }
    }
    let at = now.min(leaf.not_after());
    let issuer =
        known.reaches(leaf, ladder, &anchors, at, Usage::Client).map_err(|error| refused(error.to_string()))?;
    let subject = leaf.node_subject().map_err(|error| refused(error.to_string()))?;
    Ok(Presented {
        cluster: subject.cluster,
        role: subject.role,
        node: subject.node,
        serial: leaf.serial(),
        spki: leaf.spki_hash(),
        issuer: IssuerHash::of(&issuer),
        not_before: leaf.not_before(),
        not_after: leaf.not_after(),
    })
}
