//! What can be asked for: method and path of every request, who answers it, and what its caller needs.

use http::Method;

use super::query;
use crate::caller::Right;

/// What was asked for, once path and method are known to be one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Ping,
    Version,
    Info,
    Events,
    SwarmInspect,
    SwarmInit,
    SwarmJoin,
    SwarmLeave,
    SwarmUpdate,
    SwarmUnlockKey,
    SwarmUnlock,
    Nodes,
    Node(String),
    NodeUpdate(String),
    NodeRemove(String),
    Tasks,
    Services,
    Status,
    NodesExtended,
    Ca,
    CaLog,
    Log,
    LogProve,
    LogConsistency,
    LogHead,
    LogVerify,
    LogAudit,
    LogErase,
    CaStatus,
    CaRotate,
    CaAbort,
    Renew,
    ManagerAt,
    NodeAt,
    Backup,
    Restore,
    NodeRenew(String),
    Tokens,
    TokenCreate,
    TokenRevoke(String),
    Operators,
    OperatorIssue,
    OperatorRenew,
    OperatorRevoke,
    Revoke,
    Revocations,
    Crl,
}

impl Route {
    /// Finds the route of a path without its version. Wrong method, trailing slash and unknown path are all `None`.
    pub(super) fn find(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let get = method == Method::GET;
        let post = method == Method::POST;
        let delete = method == Method::DELETE;
        Some(match segments.as_slice() {
            ["_ping"] if get || method == Method::HEAD => Self::Ping,
            ["version"] if get => Self::Version,
            ["info"] if get => Self::Info,
            ["events"] if get => Self::Events,
            ["swarm"] if get => Self::SwarmInspect,
            ["swarm", "init"] if post => Self::SwarmInit,
            ["swarm", "join"] if post => Self::SwarmJoin,
            ["swarm", "leave"] if post => Self::SwarmLeave,
            ["swarm", "update"] if post => Self::SwarmUpdate,
            ["swarm", "unlockkey"] if get => Self::SwarmUnlockKey,
            ["swarm", "unlock"] if post => Self::SwarmUnlock,
            ["nodes"] if get => Self::Nodes,
            ["nodes", reference] if get => Self::Node(segment(reference)?),
            ["nodes", reference] if delete => Self::NodeRemove(segment(reference)?),
            ["nodes", reference, "update"] if post => Self::NodeUpdate(segment(reference)?),
            ["tasks"] if get => Self::Tasks,
            ["services"] if get => Self::Services,
            ["swarmpki", "v1", "status"] if get => Self::Status,
            ["swarmpki", "v1", "nodes"] if get => Self::NodesExtended,
            ["swarmpki", "v1", "ca"] if get => Self::Ca,
            ["swarmpki", "v1", "ca", "log"] if get => Self::CaLog,
            ["swarmpki", "v1", "ca", "status"] if get => Self::CaStatus,
            ["swarmpki", "v1", "log"] if get => Self::Log,
            ["swarmpki", "v1", "log", "head"] if get => Self::LogHead,
            ["swarmpki", "v1", "log", "prove"] if get => Self::LogProve,
            ["swarmpki", "v1", "log", "consistency"] if get => Self::LogConsistency,
            ["swarmpki", "v1", "log", "verify"] if post => Self::LogVerify,
            ["swarmpki", "v1", "log", "audit"] if post => Self::LogAudit,
            ["swarmpki", "v1", "log", "erase"] if post => Self::LogErase,
            ["swarmpki", "v1", "ca", "rotate"] if post => Self::CaRotate,
            ["swarmpki", "v1", "ca", "abort"] if post => Self::CaAbort,
            ["swarmpki", "v1", "backup"] if post => Self::Backup,
            ["swarmpki", "v1", "restore"] if post => Self::Restore,
            ["swarmpki", "v1", "tokens"] if get => Self::Tokens,
            ["swarmpki", "v1", "tokens"] if post => Self::TokenCreate,
            ["swarmpki", "v1", "tokens", id] if delete => Self::TokenRevoke(segment(id)?),
            ["swarmpki", "v1", "revoke"] if post => Self::Revoke,
            ["swarmpki", "v1", "revocations"] if get => Self::Revocations,
            ["swarmpki", "v1", "crl"] if get => Self::Crl,
            ["swarmpki", "v1", "renew"] if post => Self::Renew,
            ["swarmpki", "v1", "managers"] if post => Self::ManagerAt,
            ["swarmpki", "v1", "address"] if post => Self::NodeAt,
            ["swarmpki", "v1", "nodes", reference, "renew"] if post => Self::NodeRenew(segment(reference)?),
            ["swarmpki", "v1", "operators"] if get => Self::Operators,
            ["swarmpki", "v1", "operators"] if post => Self::OperatorIssue,
            ["swarmpki", "v1", "operators", "renew"] if post => Self::OperatorRenew,
            ["swarmpki", "v1", "operators", "revoke"] if post => Self::OperatorRevoke,
            _ => return None,
        })
    }

    /// Whether only a manager answers it: one that is just starting is waited for.
    pub(super) const fn is_for_managers(&self) -> bool {
        match self {
            Self::Ping
            | Self::Version
            | Self::Info
            | Self::Events
            | Self::SwarmInit
            | Self::SwarmJoin
            | Self::SwarmLeave
            | Self::SwarmUnlock
            | Self::Status
            | Self::Restore
            | Self::ManagerAt
            | Self::NodeAt
            | Self::LogHead
            | Self::Renew => false,
            Self::SwarmInspect
            | Self::SwarmUpdate
            | Self::SwarmUnlockKey
            | Self::Nodes
            | Self::Node(_)
            | Self::NodeUpdate(_)
            | Self::NodeRemove(_)
            | Self::Tasks
            | Self::Services
            | Self::NodesExtended
            | Self::Ca
            | Self::CaLog
            | Self::Log
            | Self::LogProve
            | Self::LogConsistency
            | Self::LogVerify
            | Self::LogAudit
            | Self::LogErase
            | Self::CaStatus
            | Self::CaRotate
            | Self::CaAbort
            | Self::Backup
            | Self::Revoke
            | Self::Revocations
            | Self::Crl
            | Self::NodeRenew(_)
            | Self::Tokens
            | Self::TokenCreate
            | Self::TokenRevoke(_)
            | Self::Operators
            | Self::OperatorIssue
            | Self::OperatorRenew
            | Self::OperatorRevoke => true,
        }
    }

    /// What a caller needs to be answered. What is not said to be for viewers is for administrators.
    pub(super) const fn right(&self) -> Right {
        match self {
            Self::Ping
            | Self::Version
            | Self::Info
            | Self::Events
            | Self::SwarmInspect
            | Self::Nodes
            | Self::Node(_)
            | Self::Tasks
            | Self::Services
            | Self::Status
            | Self::NodesExtended
            | Self::Ca
            | Self::CaLog
            | Self::Log
            | Self::LogProve
            | Self::LogConsistency
            | Self::LogHead
            // Each reads all of it, and tells of none of its private parts.
            | Self::LogVerify
            | Self::LogAudit
            | Self::CaStatus
            | Self::Revocations
            | Self::Crl
            | Self::Tokens
            | Self::OperatorRenew => Right::Viewer,
            Self::SwarmInit
            | Self::SwarmJoin
            | Self::SwarmLeave
            | Self::SwarmUpdate
            | Self::SwarmUnlockKey
            | Self::SwarmUnlock
            | Self::NodeUpdate(_)
            | Self::NodeRemove(_)
            | Self::CaRotate
            | Self::CaAbort
            | Self::LogErase
            | Self::Renew
            | Self::ManagerAt
            | Self::NodeAt
            | Self::Backup
            | Self::Restore
            | Self::Revoke
            | Self::NodeRenew(_)
            | Self::TokenCreate
            | Self::TokenRevoke(_)
            | Self::Operators
            | Self::OperatorIssue
            | Self::OperatorRevoke => Right::Admin,
        }
    }
}

/// A variable path segment, percent-decoded; `None` if empty.
fn segment(raw: &str) -> Option<String> {
    (!raw.is_empty()).then(|| query::percent_decode(raw, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let rows = [
            ("GET", "/_ping", Some(Route::Ping)),
            ("HEAD", "/_ping", Some(Route::Ping)),
            ("HEAD", "/info", None),
            ("PUT", "/swarm", None),
            ("GET", "/swarm/", None),
            ("GET", "/swarm/init", None),
            ("POST", "/swarm/init", Some(Route::SwarmInit)),
            ("GET", "/nodes", Some(Route::Nodes)),
            ("GET", "/nodes/", None),
            ("GET", "/nodes/a%20b", Some(Route::Node("a b".into()))),
            ("DELETE", "/nodes/a", Some(Route::NodeRemove("a".into()))),
            ("POST", "/nodes/a/update", Some(Route::NodeUpdate("a".into()))),
            ("GET", "/nodes/a/update", None),
            ("GET", "/nosuch", None),
            ("GET", "/swarmpki/v1/status", Some(Route::Status)),
            ("GET", "/swarmpki/v1/ca/log", Some(Route::CaLog)),
            ("GET", "/swarmpki/v1/log", Some(Route::Log)),
            ("POST", "/swarmpki/v1/log", None),
            ("GET", "/swarmpki/v1/log/head", Some(Route::LogHead)),
            ("POST", "/swarmpki/v1/log/head", None),
            ("GET", "/swarmpki/v1/log/prove", Some(Route::LogProve)),
            ("GET", "/swarmpki/v1/log/consistency", Some(Route::LogConsistency)),
            ("POST", "/swarmpki/v1/log/verify", Some(Route::LogVerify)),
            ("POST", "/swarmpki/v1/log/audit", Some(Route::LogAudit)),
            ("POST", "/swarmpki/v1/log/erase", Some(Route::LogErase)),
            ("GET", "/swarmpki/v1/log/erase", None),
            ("GET", "/swarmpki/v1/ca", Some(Route::Ca)),
            ("GET", "/swarmpki/v1/ca/status", Some(Route::CaStatus)),
            ("POST", "/swarmpki/v1/ca/rotate", Some(Route::CaRotate)),
            ("GET", "/swarmpki/v1/ca/rotate", None),
            ("POST", "/swarmpki/v1/ca/abort", Some(Route::CaAbort)),
            ("POST", "/swarmpki/v1/renew", Some(Route::Renew)),
            ("POST", "/swarmpki/v1/nodes/x/renew", Some(Route::NodeRenew("x".into()))),
            ("GET", "/swarmpki/v1/nodes/x/renew", None),
            ("GET", "/swarmpki/v1/renew", None),
            ("POST", "/swarmpki/v1/managers", Some(Route::ManagerAt)),
            ("GET", "/swarmpki/v1/managers", None),
            ("POST", "/swarmpki/v1/address", Some(Route::NodeAt)),
            ("GET", "/swarmpki/v1/tokens", Some(Route::Tokens)),
            ("POST", "/swarmpki/v1/tokens", Some(Route::TokenCreate)),
            ("DELETE", "/swarmpki/v1/tokens/2", Some(Route::TokenRevoke("2".into()))),
            ("GET", "/swarmpki/v1/tokens/2", None),
            ("GET", "/swarmpki/v1/operators", Some(Route::Operators)),
            ("POST", "/swarmpki/v1/operators", Some(Route::OperatorIssue)),
            ("POST", "/swarmpki/v1/operators/renew", Some(Route::OperatorRenew)),
            ("POST", "/swarmpki/v1/operators/revoke", Some(Route::OperatorRevoke)),
            ("GET", "/swarmpki/v1/operators/x", None),
            ("POST", "/swarmpki/v1/revoke", Some(Route::Revoke)),
            ("GET", "/swarmpki/v1/revoke", None),
            ("GET", "/swarmpki/v1/revocations", Some(Route::Revocations)),
            ("GET", "/swarmpki/v1/crl", Some(Route::Crl)),
        ];
        for (method, path, expected) in rows {
            let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
            assert_eq!(Route::find(&method, path), expected, "{method} {path}");
        }
    }
}
