//! Why a peer may not call (wire.md 4). The checks come in this order: certificate, role, removal, cluster.

use std::fmt;

use pki::identity::{ClusterId, NodeId, Role};

/// Why a peer, direct or forwarded, may not call a method.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unauthorized {
    /// No certificate.
    NoCertificate,
    /// A certificate that no chain was verified for.
    NoVerifiedChain,
    /// Not over TLS.
    NoTls,
    /// Nothing known of the peer.
    NoPeer,
    /// A certificate whose subject does not name a node.
    InvalidCertificate,
    /// Another role than the method is for.
    Role {
        /// The roles that may call, in the order of the text.
        allowed: Vec<Role>,
    },
    /// The node was removed.
    Removed {
        /// The node.
        node: NodeId,
    },
    /// A certificate of another cluster.
    Organization {
        /// This cluster.
        cluster: ClusterId,
    },
    /// A leaf that chains to our root and that we have no record of. Ours.
    Unregistered {
        /// The node it names.
        node: NodeId,
    },
    /// The leaf is an old one or has expired: it can be renewed and do nothing else. Ours.
    MustRenew {
        /// The node.
        node: NodeId,
    },
    /// The certificate was taken back. Ours.
    Revoked {
        /// The node.
        node: NodeId,
    },
    /// What the connection was authenticated by holds no longer: role taken, re-keyed. Ours.
    Withdrawn {
        /// The node.
        node: NodeId,
    },
}

const ROLE_PREFIX: &str = "Permission denied: remote certificate not part of OUs: ";
const ORGANIZATION_PREFIX: &str = "Permission denied: remote certificate not part of organization: ";
const NODE_PREFIX: &str = "Permission denied: node ";
const REMOVED_SUFFIX: &str = " was removed from swarm";
const UNREGISTERED_SUFFIX: &str = " presented a certificate that this cluster has no record of";
const MUST_RENEW_SUFFIX: &str = " must renew its certificate first";
const REVOKED_SUFFIX: &str = " presented a certificate that was revoked";
const WITHDRAWN_SUFFIX: &str = " presented a certificate that was withdrawn";

impl fmt::Display for Unauthorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unauthorized::NoCertificate => f.write_str("no client certificates in request"),
            Unauthorized::NoVerifiedChain => f.write_str("no verified chains for remote certificate"),
            Unauthorized::NoTls => f.write_str("request is not using TLS"),
            Unauthorized::NoPeer => f.write_str("Permission denied: no peer info"),
            Unauthorized::InvalidCertificate => {
                f.write_str("Permission denied: peer didn't not present valid peer certificate")
            }
            Unauthorized::Role { allowed } => write!(f, "{ROLE_PREFIX}{}", roles_text(allowed)),
            Unauthorized::Removed { node } => write!(f, "{NODE_PREFIX}{node}{REMOVED_SUFFIX}"),
            Unauthorized::Organization { cluster } => write!(f, "{ORGANIZATION_PREFIX}{cluster}"),
            Unauthorized::Unregistered { node } => {
                write!(f, "{NODE_PREFIX}{node}{UNREGISTERED_SUFFIX}")
            }
            Unauthorized::MustRenew { node } => {
                write!(f, "{NODE_PREFIX}{node}{MUST_RENEW_SUFFIX}")
            }
            Unauthorized::Revoked { node } => write!(f, "{NODE_PREFIX}{node}{REVOKED_SUFFIX}"),
            Unauthorized::Withdrawn { node } => {
                write!(f, "{NODE_PREFIX}{node}{WITHDRAWN_SUFFIX}")
            }
        }
    }
}

impl Unauthorized {
    /// The reason that a text tells, if it is one of ours or of an engine.
    #[must_use]
    pub fn recognise(text: &str) -> Option<Unauthorized> {
        let fixed = [
            Unauthorized::NoCertificate,
            Unauthorized::NoVerifiedChain,
            Unauthorized::NoTls,
            Unauthorized::NoPeer,
            Unauthorized::InvalidCertificate,
        ];
        if let Some(found) = fixed.into_iter().find(|one| one.to_string() == text) {
            return Some(found);
        }
        if let Some(roles) = text.strip_prefix(ROLE_PREFIX) {
            return Some(Unauthorized::Role { allowed: parse_roles(roles)? });
        }
        if let Some(cluster) = text.strip_prefix(ORGANIZATION_PREFIX) {
            return Some(Unauthorized::Organization { cluster: cluster.parse().ok()? });
        }
        let rest = text.strip_prefix(NODE_PREFIX)?;
        let node = |suffix: &str| rest.strip_suffix(suffix)?.parse::<NodeId>().ok();
        if let Some(node) = node(REMOVED_SUFFIX) {
            return Some(Unauthorized::Removed { node });
        }
        if let Some(node) = node(UNREGISTERED_SUFFIX) {
            return Some(Unauthorized::Unregistered { node });
        }
        if let Some(node) = node(MUST_RENEW_SUFFIX) {
            return Some(Unauthorized::MustRenew { node });
        }
        if let Some(node) = node(REVOKED_SUFFIX) {
            return Some(Unauthorized::Revoked { node });
        }
        node(WITHDRAWN_SUFFIX).map(|node| Unauthorized::Withdrawn { node })
    }
}

/// Roles as Go prints a list: `[swarm-worker swarm-manager]`.
pub(super) fn roles_text(roles: &[Role]) -> String {
    let names: Vec<&str> = roles.iter().map(|role| role.ou()).collect();
    format!("[{}]", names.join(" "))
}

pub(super) fn parse_roles(text: &str) -> Option<Vec<Role>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.split(' ').filter(|name| !name.is_empty()).map(Role::from_ou).collect()
}
