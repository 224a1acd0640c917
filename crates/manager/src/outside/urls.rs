//! Which external CAs sign for which root (pki.md 11.1).

use cluster::State;
use cluster::roots::{Root, Roots};
use cluster::settings::ExternalCa;
use pki::certificate::normalize;

/// The URLs of the external CAs that sign for `root`, in the order given.
pub fn of<'a>(state: &'a State, root: &'a Root) -> impl Iterator<Item = &'a str> {
    among(&state.settings.external_cas, state, root)
}

/// The same among others than those of now. One that names no root is for the root of now: of a rotation, the one that is left.
pub fn among<'a>(cas: &'a [ExternalCa], state: &State, root: &'a Root) -> impl Iterator<Item = &'a str> {
    let present = match &state.roots {
        Roots::None => true,
        Roots::Stable { root: present, .. } => present.trust == root.trust,
        Roots::Rotating(rotation) => rotation.old.trust == root.trust,
    };
    cas.iter().filter(move |ca| signs_for(ca, root, present)).map(|ca| ca.url.as_str())
}

fn signs_for(ca: &ExternalCa, root: &Root, present: bool) -> bool {
    match ca.ca_cert.trim() {
        "" => present,
        given => normalize(given.as_bytes()) == normalize(&root.bundle),
    }
}
