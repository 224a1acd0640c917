//! Methods of port 2377 as they are called.

use ::cluster::authorize::Method;

/// The path of each method; of those that stand for many, one.
pub fn path(method: Method) -> &'static str {
    match method {
        Method::GetRootCaCertificate => "/docker.swarmkit.v1.CA/GetRootCACertificate",
        Method::GetUnlockKey => "/docker.swarmkit.v1.CA/GetUnlockKey",
        Method::IssueNodeCertificate => "/docker.swarmkit.v1.NodeCA/IssueNodeCertificate",
        Method::NodeCertificateStatus => "/docker.swarmkit.v1.NodeCA/NodeCertificateStatus",
        Method::Session => "/docker.swarmkit.v1.Dispatcher/Session",
        Method::Heartbeat => "/docker.swarmkit.v1.Dispatcher/Heartbeat",
        Method::Assignments => "/docker.swarmkit.v1.Dispatcher/Assignments",
        Method::Tasks => "/docker.swarmkit.v1.Dispatcher/Tasks",
        Method::UpdateTaskStatus => "/docker.swarmkit.v1.Dispatcher/UpdateTaskStatus",
        Method::UpdateVolumeStatus => "/docker.swarmkit.v1.Dispatcher/UpdateVolumeStatus",
        Method::ListenSubscriptions => "/docker.swarmkit.v1.LogBroker/ListenSubscriptions",
        Method::PublishLogs => "/docker.swarmkit.v1.LogBroker/PublishLogs",
        Method::AttachNetwork => "/docker.swarmkit.v1.ResourceAllocator/AttachNetwork",
        Method::DetachNetwork => "/docker.swarmkit.v1.ResourceAllocator/DetachNetwork",
        Method::HealthCheck => "/docker.swarmkit.v1.Health/Check",
        Method::RaftJoin => "/docker.swarmkit.v1.RaftMembership/Join",
        Method::RaftLeave => "/docker.swarmkit.v1.RaftMembership/Leave",
        Method::Raft => "/docker.swarmkit.v1.Raft/ProcessRaftMessage",
        Method::Control => "/docker.swarmkit.v1.Control/ListNodes",
        Method::Clock => "/swarmpki.v1.Node/Clock",
        Method::News => "/swarmpki.v1.Node/News",
        Method::Enlist => "/swarmpki.v1.Managers/Enlist",
        Method::Managers => "/swarmpki.v1.Managers/Ask",
    }
}
