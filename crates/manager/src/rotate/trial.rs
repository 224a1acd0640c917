//! A root is tried before anything depends on it: a leaf that nobody keeps is signed and verified as every node would. Constraints of a
//! root that was made elsewhere (names, usages) would otherwise show only when the first node refuses its new leaf, and the rotation
//! would wait for ever.

use std::sync::Arc;

use cluster::State;
use cluster::roots::Root;
use pki::bundle::Issuer;
use pki::certificate::Certificate;
use pki::chain::{self, Usage};
use pki::identity::Subject;
use pki::issue::Leaf;
use pki::key::{PrivateKey, Signer};
use pki::serial::Serial;
use pki::time::Time;

use super::{failed, refused_root};
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
    now: Time,
) -> Result<(), ControlError> {
    let (Some(cluster), Some(node)) = (state.cluster_id(), state.finished().next()) else { return Ok(()) };
    let key = to.key.as_ref().ok_or_else(|| failed("its key is not here"))?;
    let key: Arc<dyn Signer> = Arc::new(PrivateKey::from_der(key.expose()).map_err(failed)?);
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
