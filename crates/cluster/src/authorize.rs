//! Who may call what: admitted, quarantined, refused. One decision when a connection is accepted ([`State::standing`]) and
//! one for each call ([`State::authorize`]); both are functions of the replicated state. Default: refused.

use pki::identity::{ClusterId, NodeId, Role};
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;

use crate::node::{IssuerHash, Registered};
use crate::state::State;

/// Everything that port 2377 answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// `CA/GetRootCACertificate`
    GetRootCaCertificate,
    /// `CA/GetUnlockKey`
    GetUnlockKey,
    /// `NodeCA/IssueNodeCertificate`
    IssueNodeCertificate,
    /// `NodeCA/NodeCertificateStatus`
    NodeCertificateStatus,
    /// `Dispatcher/Session`
    Session,
    /// `Dispatcher/Heartbeat`
    Heartbeat,
    /// `Dispatcher/Assignments`
    Assignments,
    /// `Dispatcher/Tasks`
    Tasks,
    /// `Dispatcher/UpdateTaskStatus`
    UpdateTaskStatus,
    /// `Dispatcher/UpdateVolumeStatus`
    UpdateVolumeStatus,
    /// `LogBroker/ListenSubscriptions`
    ListenSubscriptions,
    /// `LogBroker/PublishLogs`
    PublishLogs,
    /// `ResourceAllocator/AttachNetwork`
    AttachNetwork,
    /// `ResourceAllocator/DetachNetwork`
    DetachNetwork,
    /// `Health/Check`
    HealthCheck,
    /// `RaftMembership/Join`
    RaftJoin,
    /// `RaftMembership/Leave`
    RaftLeave,
    /// `Raft/*`
    Raft,
    /// `Control/*`
    Control,
    /// `swarmpki.v1.Node/Clock`
    Clock,
    /// `swarmpki.v1.Node/News`
    News,
    /// `swarmpki.v1.Managers/Enlist`
    Enlist,
    /// `swarmpki.v1.Managers/*`, apart from `Enlist`
    Managers,
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Anybody, also without a certificate.
    Anybody,
    /// Any node of the cluster, quarantined ones too.
    Returning,
    /// Any node of the cluster.
    Nodes,
    /// Managers.
    Managers,
    /// Managers, and nodes that are to be managers and have the certificate for it.
    Promoted,
    /// Members of the raft group, whatever the time says of their certificates.
    Members,
}

impl Method {
    /// All methods, for tests that go over each of them.
    pub const ALL: [Self; 23] = [
        Self::GetRootCaCertificate,
        Self::GetUnlockKey,
        Self::IssueNodeCertificate,
        Self::NodeCertificateStatus,
        Self::Session,
        Self::Heartbeat,
        Self::Assignments,
        Self::Tasks,
        Self::UpdateTaskStatus,
        Self::UpdateVolumeStatus,
        Self::ListenSubscriptions,
        Self::PublishLogs,
        Self::AttachNetwork,
        Self::DetachNetwork,
        Self::HealthCheck,
        Self::RaftJoin,
        Self::RaftLeave,
        Self::Raft,
        Self::Control,
        Self::Clock,
        Self::News,
        Self::Enlist,
        Self::Managers,
    ];

    fn audience(self) -> Audience {
        match self {
            Self::GetRootCaCertificate | Self::IssueNodeCertificate | Self::NodeCertificateStatus | Self::Clock => {
                Audience::Anybody
            }
            Self::Session
            | Self::Heartbeat
            | Self::Assignments
            | Self::Tasks
            | Self::ListenSubscriptions
            | Self::UpdateTaskStatus
            | Self::News => Audience::Returning,
            Self::UpdateVolumeStatus | Self::PublishLogs | Self::AttachNetwork | Self::DetachNetwork => Audience::Nodes,
            Self::HealthCheck | Self::RaftJoin | Self::RaftLeave | Self::Raft | Self::Control => Audience::Managers,
            Self::GetUnlockKey | Self::Enlist => Audience::Promoted,
            Self::Managers => Audience::Members,
        }
    }
}

/// A verified certificate as its connection presented it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// O.
    pub cluster: ClusterId,
    /// OU.
    pub role: Role,
    /// CN.
    pub node: NodeId,
    /// Its serial.
    pub serial: Serial,
    /// SHA-256 of its public key.
    pub spki: SpkiHash,
    /// Who issued it.
    pub issuer: IssuerHash,
    /// When it begins.
    pub not_before: Time,
    /// When it ends.
    pub not_after: Time,
}

/// What a connection is to the cluster, decided once, when it is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A node of the cluster.
    Admitted {
        /// Its `cut` then.
        cut: u32,
        /// Whether this is the first time that the leaf is seen: it has to be confirmed.
        unproven: bool,
    },
    /// A node of the cluster that may only come back: session and renewal, nothing else.
    Quarantined {
        /// Its `cut` then.
        cut: u32,
        /// Why.
        reason: Quarantine,
    },
    /// The certificate is good, but of another organization.
    Foreign,
    /// The node was removed.
    Removed,
    /// The leaf was taken back.
    Revoked,
    /// The chain is good, yet nobody registered the leaf: it was made with the CA's key by somebody else, or belongs to a
    /// node that is forgotten. Raises an alarm.
    Unregistered,
}

impl Standing {
    /// The node's `cut` when the connection was accepted; none for callers that are no node of ours.
    pub fn cut(&self) -> Option<u32> {
        match self {
            Self::Admitted { cut, .. } | Self::Quarantined { cut, .. } => Some(*cut),
            Self::Foreign | Self::Removed | Self::Revoked | Self::Unregistered => None,
        }
    }
}

/// Why a node is quarantined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quarantine {
    /// Its leaf was replaced, and it came with the old one.
    Replaced,
    /// Its leaf has ended, and it has time to renew it: a while, longer after the cluster slept, and always as a member of the group.
    Expired,
    /// Its leaf is of a root that was replaced.
    RetiredIssuer,
    /// Its leaf is unknown, and may have been issued after the backup that the cluster was restored from.
    AfterBackup,
}

/// Who is calling: nobody in particular, or a certificate with its standing.
#[derive(Clone, Copy, Debug)]
pub enum Caller<'a> {
    /// No certificate was presented.
    Anonymous,
    /// A verified certificate.
    Identified(&'a Presented, &'a Standing),
    /// Another manager, on behalf of somebody who called it (wire.md 8).
    Forwarded {
        /// The manager's own certificate, if it presented one.
        by: Option<(&'a Presented, &'a Standing)>,
        /// Who called it.
        origin: &'a Origin,
    },
}

/// The original caller of a forwarded call, as the forwarder names it; empty parts were not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// CN.
    pub node: String,
    /// O.
    pub organization: String,
    /// OUs.
    pub units: Vec<String>,
    /// Where it called from.
    pub addr: Option<std::net::SocketAddr>,
}

/// Proof that a call was authorized, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// As anybody.
    Anybody,
    /// As a node, in this role: the lesser of its certificate's and its record's.
    Node(Role),
    /// As a node that comes back.
    Returning(Role),
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No certificate.
    NoCertificate,
    /// The certificate's role, or the record's, is not among those allowed.
    Role {
        /// Whether workers would have been allowed.
        workers_too: bool,
    },
    /// The node was removed.
    Removed(NodeId),
    /// Another organization.
    Organization(ClusterId),
    /// The leaf was taken back.
    Revoked(NodeId),
    /// Nobody registered the leaf.
    Unregistered(NodeId),
    /// The connection was cut: the node's standing changed since.
    Cut(NodeId),
    /// The leaf ended while the connection was open.
    Expired(NodeId),
    /// The node may only come back.
    Quarantined(NodeId, Quarantine),
    /// The manager that forwarded the call may not.
    Forwarder(Box<Denial>),
    /// The original caller is not named in full.
    ForwardedIncomplete,
    /// The original caller's role is not among those allowed.
    ForwardedRole {
        /// Whether workers would have been allowed.
        workers_too: bool,
    },
    /// The original caller is of another organization.
    ForwardedOrganization,
    /// The original caller was removed, or never was.
    ForwardedRemoved(NodeId),
    /// The original caller's certificates were taken back.
    ForwardedRevoked(NodeId),
}

impl State {
    /// What a connection that presents this verified certificate is to the cluster.
    pub fn standing(&self, leaf: &Presented, now: Time) -> Standing {
        if self.cluster_id() != Some(&leaf.cluster) {
            return Standing::Foreign;
        }
        let Some(node) = self.nodes.get(&leaf.node) else {
            let removed = self.removals.contains_key(&leaf.node);
            return match self.revocations.contains(&leaf.issuer, &leaf.serial) {
                _ if removed => Standing::Removed,
                true if leaf.not_after >= now => Standing::Revoked,
                _ => Standing::Unregistered,
            };
        };
        if self.revocations.contains(&leaf.issuer, &leaf.serial) {
            return Standing::Revoked;
        }
        let Some((registered, known)) = node.registered(&leaf.serial, &leaf.spki, now) else {
            let after_backup = node.unfinished.is_none() && self.is_after_backup(leaf, now);
            let reason = Quarantine::AfterBackup;
            return if after_backup { Standing::Quarantined { cut: node.cut, reason } } else { Standing::Unregistered };
        };
        if known.role != leaf.role || known.issuer != leaf.issuer {
            return Standing::Unregistered;
        }
        let cut = node.cut;
        let quarantined = |reason| Standing::Quarantined { cut, reason };
        if known.not_after < now {
            let forgiven = self.forgives(node, known, registered, now);
            return if forgiven { quarantined(Quarantine::Expired) } else { Standing::Unregistered };
        }
        if registered == Registered::Previous {
            return quarantined(Quarantine::Replaced);
        }
        if !self.roots.is_present(&known.issuer) || self.rotation().is_some_and(|now| now.bare.contains(&known.serial))
        {
            return quarantined(Quarantine::RetiredIssuer);
        }
        Standing::Admitted { cut, unproven: registered == Registered::Offered }
    }

    /// Whether `caller` may call `method` now.
    ///
    /// # Errors
    /// The refusal, in the order of wire.md 4: no certificate, role, removed, organization, then ours.
    pub fn authorize(&self, caller: Caller<'_>, method: Method, now: Time) -> Result<Grant, Denial> {
        let audience = method.audience();
        let (leaf, standing) = match caller {
            Caller::Identified(leaf, standing) => (leaf, standing),
            Caller::Forwarded { by, origin } => return self.authorize_forwarded(by, origin, method, now),
            Caller::Anonymous if audience == Audience::Anybody => return Ok(Grant::Anybody),
            Caller::Anonymous => return Err(Denial::NoCertificate),
        };
        let known = self.known_caller(leaf, standing, now);
        let role = Denial::Role { workers_too: false };
        match (audience, known) {
            (Audience::Anybody, Ok(grant)) => Ok(grant),
            (Audience::Anybody, Err(_)) => Ok(Grant::Anybody),
            (Audience::Managers | Audience::Promoted | Audience::Members, _) if leaf.role != Role::Manager => Err(role),
            // Not by its standing: that of a member whose certificates have ended would lock it out of renewing them.
            (Audience::Members, _) if self.peer(leaf).is_some() => Ok(Grant::Node(Role::Manager)),
            (_, Err(denial)) => Err(denial),
            (Audience::Members, Ok(_)) => Err(role),
            (Audience::Managers | Audience::Promoted, Ok(Grant::Node(Role::Manager))) => Ok(Grant::Node(Role::Manager)),
            (Audience::Promoted, Ok(Grant::Node(Role::Worker))) if self.is_promoted(&leaf.node) => {
                Ok(Grant::Node(Role::Worker))
            }
            (Audience::Managers | Audience::Promoted, Ok(Grant::Node(Role::Worker))) => Err(role),
            (Audience::Returning, Ok(grant)) => Ok(grant),
            (Audience::Nodes, Ok(grant @ Grant::Node(_))) => Ok(grant),
            (Audience::Nodes | Audience::Managers | Audience::Promoted, Ok(Grant::Returning(_) | Grant::Anybody)) => {
                match standing {
                    Standing::Quarantined { reason, .. } => Err(Denial::Quarantined(leaf.node.clone(), *reason)),
                    _ => Err(Denial::Unregistered(leaf.node.clone())),
                }
            }
        }
    }

    fn is_promoted(&self, id: &NodeId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.signed_role() == Role::Manager)
    }

    /// A forwarded call: the forwarder is judged first, then the original caller by its name and record.
    fn authorize_forwarded(
        &self,
        by: Option<(&Presented, &Standing)>,
        origin: &Origin,
        method: Method,
        now: Time,
    ) -> Result<Grant, Denial> {
        let audience = method.audience();
        let forwarder = |denial| Denial::Forwarder(Box::new(denial));
        let (leaf, standing) = by.ok_or_else(|| forwarder(Denial::NoCertificate))?;
        if leaf.role != Role::Manager {
            return Err(forwarder(Denial::Role { workers_too: false }));
        }
        match self.known_caller(leaf, standing, now).map_err(forwarder)? {
            Grant::Node(Role::Manager) => {}
            Grant::Node(Role::Worker) | Grant::Anybody => return Err(forwarder(Denial::Role { workers_too: false })),
            Grant::Returning(_) => return Err(forwarder(Denial::Unregistered(leaf.node.clone()))),
        }
        // Whoever has a place in the group, or wants one, speaks for itself.
        if matches!(method, Method::Enlist | Method::Managers) {
            return Err(Denial::ForwardedRole { workers_too: false });
        }
        let managers_only = matches!(audience, Audience::Managers | Audience::Promoted);
        let known = self.known_origin(origin, managers_only);
        if audience == Audience::Anybody { Ok(known.unwrap_or(Grant::Anybody)) } else { known }
    }

    fn known_origin(&self, origin: &Origin, managers_only: bool) -> Result<Grant, Denial> {
        if origin.node.is_empty() || origin.organization.is_empty() || origin.units.is_empty() {
            return Err(Denial::ForwardedIncomplete);
        }
        let role = origin.units.iter().find_map(|unit| Role::from_ou(unit));
        let role = role
            .filter(|role| !managers_only || *role == Role::Manager)
            .ok_or(Denial::ForwardedRole { workers_too: !managers_only })?;
        if self.cluster_id().map(ClusterId::as_str) != Some(&origin.organization) {
            return Err(Denial::ForwardedOrganization);
        }
        let id: NodeId = origin.node.parse().map_err(|_| Denial::ForwardedIncomplete)?;
        match self.nodes.get(&id) {
            None => Err(Denial::ForwardedRemoved(id)),
            Some(node) if self.is_revoked(node) => Err(Denial::ForwardedRevoked(id)),
            Some(node) if managers_only && node.role != Role::Manager => {
                Err(Denial::ForwardedRole { workers_too: false })
            }
            Some(node) if node.role == Role::Manager && role == Role::Manager => Ok(Grant::Node(Role::Manager)),
            Some(_) => Ok(Grant::Node(Role::Worker)),
        }
    }

    fn known_caller(&self, leaf: &Presented, standing: &Standing, now: Time) -> Result<Grant, Denial> {
        let id = || leaf.node.clone();
        let Some(node) = self.nodes.get(&leaf.node).filter(|_| *standing != Standing::Foreign) else {
            return Err(match standing {
                Standing::Foreign => Denial::Organization(self.cluster_id().unwrap_or(&leaf.cluster).clone()),
                Standing::Unregistered => Denial::Unregistered(id()),
                Standing::Revoked => Denial::Revoked(id()),
                _ if self.removals.contains_key(&leaf.node) => Denial::Removed(id()),
                Standing::Removed => Denial::Removed(id()),
                Standing::Admitted { .. } | Standing::Quarantined { .. } => Denial::Cut(id()),
            });
        };
        // One of the managers of before: what it holds is older, or newer, than what is here.
        if self.is_outlived(&leaf.node) {
            return Err(Denial::Cut(id()));
        }
        if self.revocations.contains(&leaf.issuer, &leaf.serial) {
            return Err(Denial::Revoked(id()));
        }
        let role = if leaf.role == Role::Manager && node.role == Role::Manager { Role::Manager } else { Role::Worker };
        match standing {
            Standing::Admitted { cut, .. } if *cut == node.cut => {
                if leaf.not_after < now {
                    Err(Denial::Expired(id()))
                } else {
                    Ok(Grant::Node(role))
                }
            }
            Standing::Quarantined { cut, .. } if *cut == node.cut => Ok(Grant::Returning(role)),
            Standing::Admitted { .. } | Standing::Quarantined { .. } => Err(Denial::Cut(id())),
            Standing::Removed => Err(Denial::Removed(id())),
            Standing::Revoked => Err(Denial::Revoked(id())),
            Standing::Foreign | Standing::Unregistered => Err(Denial::Unregistered(id())),
        }
    }
}
