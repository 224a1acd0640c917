//! The whole replicated state, a value that is cheap to clone.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use pki::identity::{ClusterId, NodeId};
use pki::key::SpkiHash;
use pki::time::Time;

use crate::lock::UnlockBox;
use crate::log::LogHead;
use crate::members::Members;
use crate::node::{BlobDigest, Node};
use crate::operators::Operators;
use crate::refound::Refounded;
use crate::removal::Removal;
use crate::revocation::Revocations;
use crate::roots::Roots;
use crate::rotation::Ended;
use crate::settings::Settings;
use crate::sleep::Comeback;
use crate::tokens::Tokens;

/// The replicated state. Readers take it whole; nobody holds a lock.
#[derive(Clone, Default)]
pub struct State {
    /// Who the cluster is; none before its first entry.
    pub cluster: Option<Arc<ClusterFacts>>,
    /// Raised by restore and by force-new-cluster.
    pub epoch: u64,
    /// The cluster's time: the greatest stamp so far.
    pub time: Time,
    /// Index of the last entry applied.
    pub index: u64,
    /// Every node and every unfinished join.
    pub nodes: OrdMap<NodeId, Arc<Node>>,
    /// Unfinished joins by public key, ids in order: the same request again is the same node again.
    pub joins: OrdMap<SpkiHash, Vec<NodeId>>,
    /// Nodes and unfinished joins with a request that is not signed yet.
    pub pending: OrdSet<NodeId>,
    /// Bulky parts of reports, each once, with the number of reports that refer to it.
    pub blobs: OrdMap<BlobDigest, (u64, Arc<[u8]>)>,
    /// The roots.
    pub roots: Roots,
    /// The last rotation that ended.
    pub last_rotation: Option<Arc<Ended>>,
    /// The join tokens.
    pub tokens: Arc<Tokens>,
    /// The managers.
    pub members: Members,
    /// The settings.
    pub settings: Arc<Settings>,
    /// The unlock key, while managers are locked at rest.
    pub unlock: Option<UnlockBox>,
    /// Log index of the last change of settings, tokens or roots: the cluster object's version.
    pub cluster_version: u64,
    /// When that was.
    pub cluster_updated: Time,
    /// Removed nodes, until their last leaf has ended.
    pub removals: OrdMap<NodeId, Removal>,
    /// Certificates taken back before their end.
    pub revocations: Revocations,
    /// When the cluster was made anew, if it ever was.
    pub refounded: Option<Refounded>,
    /// The time in which nodes may come back, if the cluster ever slept.
    pub comeback: Option<Comeback>,
    /// Who commands the cluster with certificates.
    pub operators: Operators,
    /// The issuance log.
    pub log: LogHead,
    /// Whether more than certificates is noted in it.
    pub log_told: bool,
    /// Its entries below this one have no private parts any more.
    pub log_erased: u64,
}

/// What never changes about a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// O of every certificate.
    pub id: ClusterId,
    /// Whether members must run FIPS.
    pub fips: bool,
    /// When it was created.
    pub created: Time,
}

impl State {
    /// The state before the first entry.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The cluster's id, once there is a cluster.
    pub fn cluster_id(&self) -> Option<&ClusterId> {
        self.cluster.as_deref().map(|cluster| &cluster.id)
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The cluster's time.
    pub fn time(&self) -> Time {
        self.time
    }

    /// Entries in the issuance log.
    pub fn log_size(&self) -> u64 {
        self.log.size()
    }

    /// A node, or an unfinished join.
    pub fn node(&self, id: &NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// Nodes that ever used a leaf: what an operator calls the cluster's nodes.
    pub fn finished(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values().filter(|node| node.unfinished.is_none())
    }

    /// A blob by digest.
    pub fn blob(&self, digest: &BlobDigest) -> Option<&Arc<[u8]>> {
        self.blobs.get(digest).map(|(_, bytes)| bytes)
    }
}
