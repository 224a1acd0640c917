//! What is said about roots and their replacement, and what is asked: the documents of `/swarmpki/v1/ca/`.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

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
