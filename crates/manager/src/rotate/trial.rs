//! A root is tried before anything depends on it: a leaf that nobody keeps is signed and verified as every node would. Constraints of a
//! root that was made elsewhere (names, usages) would otherwise show only when the first node refuses its new leaf, and the rotation
//! would wait for ever.

use std::sync::Arc;

use cluster::command::{Batch, SecretBox, UpdateCluster};
use cluster::roots::Root;
use cluster::rotation::RootsChange;
use cluster::{Command, Outcome, Rejection, State};
use pki::bundle::Issuer;
use pki::certificate::Certificate;
use pki::chain::{self, Usage};
use pki::identity::Subject;
use pki::issue::Leaf;
use pki::join_token::JoinSecret;
use pki::serial::Serial;
use pki::time::Time;

use super::{failed, precondition, refused_root};
use crate::keys::Keys;
use crate::view::ControlError;

/// Signs a leaf with `to`'s key and verifies it, for servers and for clients: by `to` alone, and with `ladder` by each root that nodes
/// hold. Without a ladder nodes are given a bundle, and nothing leads to the others.
///
/// # Errors
/// INVALID_ARGUMENT with what a verifier says; INTERNAL if the key is not here or cannot sign.
pub(super) fn try_out(
    to: &Root,
    ladder: &[Certificate],
    held: &[&Arc<Root>],
    state: &State,
    keys: &Keys,
    now: Time,
) -> Result<(), ControlError> {
    if to.custody.is_outside() {
        // Nobody here can sign with it: what its CA signs is judged when it comes.
        return Ok(());
    }
    let (Some(cluster), Some(node)) = (state.cluster_id(), state.finished().next()) else { return Ok(()) };
    let key = keys.signer(to).map_err(failed)?;
    let signer = to.signer.pem();
    let issuer = Issuer::build(&to.bundle, Some(signer.as_bytes()), Some(Arc::clone(&key)), &to.intermediates, now)
        .map_err(failed)?;
    let subject = Subject { cluster: cluster.clone(), role: node.role, node: node.id.clone() };
    // The leaf is gone before anybody has seen it: neither its key nor its number matters.
    let leaf =
        Leaf { subject: &subject, serial: Serial::from_random([1; 20]), now, expiry: state.settings.leaf_life() };
    let leaf = pki::issue::leaf_for_signer(key.as_ref(), &leaf, &issuer).map_err(failed)?;
    let steps: Vec<_> = to.steps.iter().chain(ladder).cloned().collect();
    let by_old = held.iter().filter(|_| !ladder.is_empty()).map(|root| (steps.as_slice(), &root.certificates));
    for (steps, anchors) in by_old.chain([(to.steps.as_slice(), &to.certificates)]) {
        for usage in [Usage::Server, Usage::Client] {
            chain::reaches(&leaf, steps, anchors, now, usage).map_err(|error| refused_root(&error))?;
        }
    }
    Ok(())
}

/// The state as it would be with this change: what the state machine would refuse is refused with its reason, before it is
/// proposed.
///
/// # Errors
/// FAILED_PRECONDITION if it could not begin.
pub(super) fn begin(state: &State, change: &RootsChange, now: Time) -> Result<State, ControlError> {
    let mut begun = state.clone();
    let secret = || Some(SecretBox(Arc::new(JoinSecret::from_bytes([0; 16]))));
    let update = UpdateCluster {
        version: state.cluster_version,
        worker_secret: secret(),
        manager_secret: secret(),
        roots: Some(change.clone()),
        ..UpdateCluster::default()
    };
    let commands = vec![Command::UpdateCluster(Box::new(update))];
    let applied = begun.apply(state.index.saturating_add(1), &Batch { time: now, commands });
    match applied.outcomes.into_iter().next() {
        Some(Outcome::Rejected(Rejection::Way)) => Err(precondition(
            "certificates of the new root would not be verified by every node: what leads from it to the roots that nodes hold is too long, or has ended",
        )),
        Some(Outcome::Rejected(rejection)) => Err(precondition(&rejection.to_string())),
        _ => Ok(begun),
    }
}
