//! Trust as a graph: its points are issuers, and a CA certificate leads from the issuer it certifies to the one that signed
//! it. Which leaves a node can verify is a walk through that graph, without signatures and without dates.

use std::time::Duration;

use pki::certificate::Certificate;
use pki::issue::LEAF_EXPIRY_MIN;
use pki::time::Time;

use crate::node::IssuerHash;

/// CA certificates on a path between a leaf and an anchor. Source: the bound of webpki, the lowest among verifiers.
pub const LADDER_MAX: usize = 6;

/// CA certificates sent with a leaf. Nodes take no chain of more than eight certificates, and a manager that cannot renew
/// takes the cluster with it: the way to the roots left longest ago is given up before that.
pub const LADDER_SENT_MAX: usize = 7;

/// What a step has left at least when it is sent: no leaf ends after what goes with it, and none lasts less than
/// [`LEAF_EXPIRY_MIN`].
pub const STEP_LEFT_MIN: Duration = Duration::from_secs(2 * 60 * 60);

const _: () = assert!(LEAF_EXPIRY_MIN.as_secs() < STEP_LEFT_MIN.as_secs());

/// A CA certificate as a step from one issuer to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whom it certifies.
    pub of: IssuerHash,
    /// Who signed it.
    pub by: IssuerHash,
    /// CA certificates that it allows below itself, if it says so.
    pub below: Option<u32>,
}

/// Where a path may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// Whose certificate it is.
    pub issuer: IssuerHash,
    /// CA certificates that it allows below itself, if it says so.
    pub below: Option<u32>,
}

impl Anchor {
    /// A root certificate as an end of paths.
    pub fn of(root: &Certificate) -> Self {
        Self { issuer: IssuerHash::of(&root.issuer_id()), below: root.path_len() }
    }
}

/// The steps of `ladder`, each with who signed it: another step, or one of `anchors`. A step that nobody there signed leads
/// nowhere and is left out. Checks signatures.
pub fn links<'a>(ladder: &'a [Certificate], anchors: impl IntoIterator<Item = &'a Certificate>) -> Vec<Link> {
    let mut makers: Vec<&Certificate> = anchors.into_iter().collect();
    makers.extend(ladder);
    let link = |step: &Certificate| {
        let maker = makers.iter().find(|maker| signed(step, maker))?;
        Some(Link {
            of: IssuerHash::of(&step.issuer_id()),
            by: IssuerHash::of(&maker.issuer_id()),
            below: step.path_len(),
        })
    };
    ladder.iter().filter_map(link).collect()
}

/// Whether a leaf of `issuer`, sent with `ladder`, verifies for who trusts `anchors`.
pub fn reaches(issuer: &IssuerHash, ladder: &[Link], anchors: &[Anchor]) -> bool {
    climb(issuer, ladder, anchors, &mut Vec::new())
}

/// `passed`: the issuers on the path so far, one for each CA certificate on it.
fn climb(issuer: &IssuerHash, ladder: &[Link], anchors: &[Anchor], passed: &mut Vec<IssuerHash>) -> bool {
    let depth = passed.len();
    let allows = |below: Option<u32>| below.is_none_or(|most| depth <= most as usize);
    if anchors.iter().any(|anchor| anchor.issuer == *issuer && allows(anchor.below)) {
        return true;
    }
    if depth >= LADDER_MAX || passed.contains(issuer) {
        return false;
    }
    for step in ladder.iter().filter(|step| step.of == *issuer && allows(step.below)) {
        passed.push(*issuer);
        if climb(&step.by, ladder, anchors, passed) {
            return true;
        }
        passed.pop();
    }
    false
}

/// As [`reaches`], over certificates.
pub fn verifies<'a>(
    issuer: &IssuerHash,
    ladder: &'a [Certificate],
    anchors: impl IntoIterator<Item = &'a Certificate> + Clone,
) -> bool {
    let ends: Vec<_> = anchors.clone().into_iter().map(Anchor::of).collect();
    reaches(issuer, &links(ladder, anchors), &ends)
}

/// Whether a step may still be sent at `now`.
pub fn lasts(step: &Certificate, now: Time) -> bool {
    step.not_after() > now.saturating_add(STEP_LEFT_MIN)
}

/// The ladder without its detours: where it comes by the same issuer twice, what lies between is left out. Every step is still
/// certified by the next.
pub fn shortest(ladder: &[Certificate]) -> Vec<Certificate> {
    let mut short: Vec<Certificate> = Vec::with_capacity(ladder.len());
    for step in ladder {
        let again = short.iter().position(|known| same_issuer(known, step));
        short.truncate(again.unwrap_or(short.len()));
        short.push(step.clone());
    }
    short
}

/// The way on from the end of `ladder` to one of `anchors` through steps of `pool`, each certified by the next; empty if the
/// ladder leads there already, or nothing does.
pub(crate) fn onward(ladder: &[Certificate], anchors: &[Certificate], pool: &[Certificate]) -> Vec<Certificate> {
    let Some(last) = ladder.last() else { return Vec::new() };
    let mut way = Vec::new();
    if extend(last, anchors, pool, &mut way) { way } else { Vec::new() }
}

fn extend(from: &Certificate, anchors: &[Certificate], pool: &[Certificate], way: &mut Vec<Certificate>) -> bool {
    if anchors.iter().any(|anchor| signed(from, anchor)) {
        return true;
    }
    if way.len() >= LADDER_MAX {
        return false;
    }
    for step in pool {
        if way.iter().any(|known| same_issuer(known, step)) || !signed(from, step) {
            continue;
        }
        way.push(step.clone());
        if extend(step, anchors, pool, way) {
            return true;
        }
        way.pop();
    }
    false
}

fn same_issuer(one: &Certificate, other: &Certificate) -> bool {
    one.subject_der() == other.subject_der() && one.spki_der() == other.spki_der()
}

fn signed(lower: &Certificate, upper: &Certificate) -> bool {
    lower.issuer_der() == upper.subject_der() && pki::chain::signed_by(lower, upper).is_ok()
}
