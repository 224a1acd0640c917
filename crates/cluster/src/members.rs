//! The managers in the raft group, and who ever held the root key.

use imbl::{OrdMap, OrdSet};
use pki::identity::NodeId;

/// Managers and key holders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Each manager, by node id.
    pub rows: OrdMap<NodeId, Member>,
    /// Every manager that ever held the root key: when one leaves, the root should be rotated.
    pub key_holders: OrdSet<NodeId>,
}

/// A manager in the raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number in the raft group.
    pub raft_id: u64,
    /// Its advertised `host:port`.
    pub addr: String,
}
