//! The cluster's trust: which root its nodes hold, who signs, and which old roots late nodes may still come with.

use std::sync::Arc;

use pki::certificate::{Certificate, IssuerId};
use pki::identity::Role;
use pki::secret::SecretBytes;
use pki::time::Time;

use crate::node::{BlobDigest, IssuerHash, Node};
use crate::rotation::{Phase, Rotation};
use crate::trust;

/// One root, or the way from one to another.
#[derive(Clone, Debug, Default)]
pub enum Roots {
    /// No cluster yet.
    #[default]
    None,
    /// One root; its key signs.
    Stable {
        /// The root.
        root: Arc<Root>,
        /// Old roots without keys, whose leaves may still come.
        stragglers: Vec<StragglerAnchor>,
    },
    /// A root is being replaced by another.
    Rotating(Arc<Rotation>),
}

impl Roots {
    /// The trust bundle as served to joiners, and named by the join tokens.
    pub fn served(&self) -> Option<&Arc<Root>> {
        match self {
            Self::None => None,
            Self::Stable { root, .. } => Some(root),
            Self::Rotating(rotation) => Some(rotation.served()),
        }
    }

    /// The root whose key signs leaves now.
    pub fn signing(&self) -> Option<&Arc<Root>> {
        match self {
            Self::None => None,
            Self::Stable { root, .. } => Some(root),
            Self::Rotating(rotation) => Some(rotation.signing()),
        }
    }

    /// Old roots whose leaves may still come.
    pub fn stragglers(&self) -> &[StragglerAnchor] {
        match self {
            Self::None => &[],
            Self::Stable { stragglers, .. } => stragglers,
            Self::Rotating(rotation) => &rotation.stragglers,
        }
    }

    /// Every root that is in use: the one of now, or those of the rotation under way.
    pub fn in_use(&self) -> impl Iterator<Item = &Arc<Root>> {
        let (stable, rotating) = match self {
            Self::None => (None, None),
            Self::Stable { root, .. } => (Some(root), None),
            Self::Rotating(rotation) => (None, Some(rotation.roots())),
        };
        stable.into_iter().chain(rotating.into_iter().flatten())
    }

    /// Whether leaves of `issuer` are those of today's signer.
    pub fn is_signing(&self, issuer: &IssuerHash) -> bool {
        self.signing().is_some_and(|root| root.issuer == *issuer)
    }

    /// Whether leaves of `issuer` are those of members; others' holders may only come back. Once nodes are given the new root
    /// alone, they verify no other leaves; on the way back by a ladder every leaf carries what leads to the old one.
    pub fn is_present(&self, issuer: &IssuerHash) -> bool {
        match self {
            Self::None => false,
            Self::Stable { root, .. } => root.issuer == *issuer,
            Self::Rotating(rotation)
                if rotation.phase == Phase::Trust && !(rotation.back && rotation.bundle().is_none()) =>
            {
                rotation.to().issuer == *issuer
            }
            Self::Rotating(rotation) => rotation.roots().any(|root| root.issuer == *issuer),
        }
    }

    /// Every root certificate that a node's chain may end at: those of members and of stragglers.
    pub fn anchors(&self) -> Vec<Certificate> {
        let members: Vec<_> = match self {
            Self::None => Vec::new(),
            Self::Stable { root, .. } => root.certificates.clone(),
            Self::Rotating(rotation) => rotation.roots().flat_map(|root| root.certificates.iter().cloned()).collect(),
        };
        let stragglers = self.stragglers().iter().map(|anchor| anchor.certificate.clone());
        members.into_iter().chain(stragglers).collect()
    }

    /// The certificates to go with a leaf of today's signer, leaf side first: the intermediates of its root, then what leads
    /// to the root that `node` holds. Managers, and members while a root is being replaced, carry what leads to every root
    /// that somebody may hold; a new node has just fetched the root served.
    ///
    /// Steps that end within [`trust::STEP_LEFT_MIN`] of `now` are left out, and what lies beyond them: nodes take no chain in which any certificate has
    /// ended, and a manager that refuses its own next leaf takes the cluster with it.
    pub fn ladder_for(&self, node: Option<&Node>, role: Role, now: Time) -> Vec<Certificate> {
        let own = self.signing().map(|root| root.steps.as_slice()).unwrap_or_default();
        let further: Vec<Certificate> = match self {
            Self::None => Vec::new(),
            Self::Stable { root, stragglers } => match (role, node) {
                (Role::Manager, _) => longest(stragglers).to_vec(),
                (Role::Worker, node) => {
                    // Some members may hold such a root still, although none of them says so.
                    let kept = longest(stragglers.iter().filter(|anchor| anchor.at_least > Time::default()));
                    let late = node.and_then(|node| {
                        behind(stragglers, node, |trust| root.trust == trust, |issuer| root.issuer == issuer)
                    });
                    trust::shortest(late.filter(|late| late.len() > kept.len()).unwrap_or(kept))
                }
            },
            Self::Rotating(rotation) => {
                let late = match (role, node) {
                    (Role::Manager, _) => Some(longest(&rotation.stragglers)),
                    (Role::Worker, None) => None,
                    (Role::Worker, Some(node)) => {
                        let trusted = |trust| rotation.holds(trust);
                        let used = |issuer| rotation.roots().any(|root| root.issuer == issuer);
                        behind(&rotation.stragglers, node, trusted, used)
                    }
                };
                let beyond = |row: &[Certificate]| {
                    rotation.ladder().iter().chain(&rotation.onward).chain(row).cloned().collect()
                };
                // These rows are as seen from the old root. With a bundle nothing leads there from a leaf of the new one.
                let reachable = rotation.bundle().is_none() || rotation.signing().issuer == rotation.old.issuer;
                match late.filter(|row| reachable && !row.is_empty()) {
                    None => rotation.ladder().to_vec(),
                    Some(row) if role == Role::Manager => beyond(row),
                    Some(row) => trust::shortest(&beyond(row)),
                }
            }
        };
        // Chains are checked link by link: beyond one that is left out nothing helps.
        let lasting = further.into_iter().take_while(|step| trust::lasts(step, now));
        own.iter().cloned().chain(lasting).take(trust::LADDER_SENT_MAX).collect()
    }

    /// The trust bundle to be sent to a node; `pushed` says whether it is its turn to change, if a root is being replaced.
    pub fn trust_for(&self, node: &Node, pushed: bool) -> Option<&[u8]> {
        match self {
            Self::None => None,
            Self::Stable { root, .. } => Some(&root.bundle),
            Self::Rotating(rotation) => Some(rotation.trust_for(node, pushed)),
        }
    }
}

/// The ladder that leads to every anchor: each later rotation's steps come before those of the ones before it, so that the
/// others are beginnings of it.
fn longest<'a>(anchors: impl IntoIterator<Item = &'a StragglerAnchor>) -> &'a [Certificate] {
    anchors.into_iter().map(|anchor| anchor.ladder.as_slice()).max_by_key(|ladder| ladder.len()).unwrap_or_default()
}

/// What leads on to the root that a node holds, if that is not one of today's: as it reports, or, of a node that did not, by
/// the leaf it used last. If nothing tells, what leads to all of them.
fn behind<'a>(
    anchors: &'a [StragglerAnchor],
    node: &Node,
    trusted: impl Fn(BlobDigest) -> bool,
    used: impl Fn(IssuerHash) -> bool,
) -> Option<&'a [Certificate]> {
    let reported = node.report.as_ref().map(|report| report.trust);
    let issuer = node.current.as_ref().map(|leaf| leaf.issuer);
    let known = match (reported, issuer) {
        (Some(trust), _) if trusted(trust) => return None,
        (Some(trust), _) => anchors.iter().find(|anchor| anchor.trust == trust),
        (None, Some(issuer)) if used(issuer) => return None,
        (None, Some(issuer)) => anchors.iter().find(|anchor| anchor.issuer == issuer),
        (None, None) => None,
    };
    Some(known.map_or_else(|| longest(anchors), |anchor| &anchor.ladder))
}

/// Where the private key of a root is.
#[derive(Clone)]
pub enum Custody {
    /// Here, in the replicated state: PKCS#8 DER.
    Sealed(Arc<SecretBytes>),
    /// In a token that managers reach by this PKCS#11 URI (RFC 7512).
    Token(Arc<str>),
    /// With a CA of its own, which is asked to sign; or nowhere any more.
    Outside,
}

impl From<Option<Arc<SecretBytes>>> for Custody {
    fn from(key: Option<Arc<SecretBytes>>) -> Self {
        key.map_or(Self::Outside, Self::Sealed)
    }
}

impl Custody {
    /// Its word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Sealed(_) => "sealed",
            Self::Token(_) => "token",
            Self::Outside => "outside",
        }
    }

    /// Whether the key is neither here nor in a token of ours.
    pub fn is_outside(&self) -> bool {
        matches!(self, Self::Outside)
    }
}

impl std::fmt::Debug for Custody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// A root of the cluster.
#[derive(Clone)]
pub struct Root {
    /// The trust bundle, PEM, byte for byte as served; join tokens carry its digest.
    pub bundle: Vec<u8>,
    /// The certificate that signs: the root itself, or an intermediate below it.
    pub signer: Certificate,
    /// Certificates to be sent between a leaf and the root, PEM; empty for a root that signs itself.
    pub intermediates: Vec<u8>,
    /// Digest of the bundle, as nodes report it.
    pub trust: BlobDigest,
    /// The root certificates of the bundle.
    pub certificates: Vec<Certificate>,
    /// The intermediates, leaf side first.
    pub steps: Vec<Certificate>,
    /// Where its private key is.
    pub custody: Custody,
    /// Hash of the signer's subject and key.
    pub issuer: IssuerHash,
}

impl Root {
    /// A root made of its parts.
    pub fn new(bundle: Vec<u8>, signer: Certificate, intermediates: Vec<u8>, custody: impl Into<Custody>) -> Self {
        let issuer = IssuerHash::of(&signer.issuer_id());
        let read = |pem: &[u8]| Certificate::parse_pem_bundle(pem).unwrap_or_default();
        let (certificates, steps) = (read(&bundle), read(&intermediates));
        let trust = BlobDigest::of(&bundle);
        Self { bundle, signer, intermediates, trust, certificates, steps, custody: custody.into(), issuer }
    }

    /// Its private key, if that is here: PKCS#8 DER.
    pub fn key(&self) -> Option<&Arc<SecretBytes>> {
        match &self.custody {
            Custody::Sealed(key) => Some(key),
            Custody::Token(_) | Custody::Outside => None,
        }
    }

    /// Who signs with it.
    pub fn issuer_id(&self) -> IssuerId {
        self.signer.issuer_id()
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Root").field("issuer", &self.issuer).field("custody", &self.custody).finish_non_exhaustive()
    }
}

/// The certificate of a root that was replaced, without its key, until its last leaf has ended.
#[derive(Clone, Debug)]
pub struct StragglerAnchor {
    /// The old root.
    pub certificate: Certificate,
    /// Whose leaves it vouched for.
    pub issuer: IssuerHash,
    /// Digest of its trust bundle, as nodes report it.
    pub trust: BlobDigest,
    /// Cross-certificates that lead from today's root to it, leaf side first, maybe by detours. Of a root that no node can
    /// have come to trust: to what holders of its leaves trust. Empty: holders of its leaves trust today's root already.
    pub ladder: Vec<Certificate>,
    /// When the last leaf ends with which a node may come that needs it, or before, when what leads to it ends.
    pub until: Time,
    /// It is kept until then whatever nodes reported, if what leads to it lasts: some may have been given it after their
    /// last word.
    pub at_least: Time,
}

impl StragglerAnchor {
    /// When what leads to it is sent no more; none: nothing has to lead to it.
    pub fn led_until(&self) -> Option<Time> {
        let end = self.ladder.iter().map(Certificate::not_after).min()?;
        Some(end.saturating_sub(trust::STEP_LEFT_MIN))
    }
}
