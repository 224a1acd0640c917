//! Where callers' chains may end, made once for all handshakes between two changes of the roots.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use cluster::State;
use cluster::node::BlobDigest;
use cluster::roots::Roots;
use mtls::{AcceptError, CallerAnchors, Current, Live};

/// The anchors of now. See [`anchors`](Callers::anchors).
#[derive(Default)]
pub(crate) struct Callers(ArcSwapOption<Made>);

struct Made {
    /// Of which identity.
    generation: u64,
    /// Of which roots, each by the digest of its bundle.
    roots: Vec<BlobDigest>,
    anchors: CallerAnchors,
}

impl Callers {
    /// What this manager trusts itself, and beside that, while a root is being replaced and for those who come back late, what
    /// else callers' chains may end at.
    pub(super) fn anchors(&self, identity: &Live, state: &State) -> Result<CallerAnchors, AcceptError> {
        let own = identity.current().ok_or(AcceptError::NoIdentity)?;
        if is_all(&own, &state.roots) {
            if self.0.load().is_some() {
                self.0.store(None);
            }
            return CallerAnchors::of(&own, &[]);
        }
        let roots = digests(&state.roots);
        if let Some(made) = self.0.load().as_deref()
            && made.generation == own.generation()
            && made.roots == roots
        {
            return Ok(made.anchors.clone());
        }
        let anchors = CallerAnchors::of(&own, &state.roots.anchors())?;
        self.0.store(Some(Arc::new(Made { generation: own.generation(), roots, anchors: anchors.clone() })));
        Ok(anchors)
    }
}

/// Whether there is nothing beside what this manager trusts itself.
fn is_all(own: &Current, roots: &Roots) -> bool {
    match roots {
        Roots::None => true,
        Roots::Stable { root, stragglers } => stragglers.is_empty() && own.trust().raw() == root.bundle,
        Roots::Rotating(_) => false,
    }
}

/// The roots whose certificates [`Roots::anchors`] lists.
fn digests(roots: &Roots) -> Vec<BlobDigest> {
    let late = roots.stragglers().iter().map(|anchor| anchor.trust);
    match roots {
        Roots::None => Vec::new(),
        Roots::Stable { root, .. } => std::iter::once(root.trust).chain(late).collect(),
        Roots::Rotating(rotation) => rotation.roots().map(|root| root.trust).chain(late).collect(),
    }
}
