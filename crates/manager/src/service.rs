//! The gRPC services of port 2377, one a file. Each call asks first whether its caller may make it.

mod ca;
mod control;
mod dispatcher;
mod health;
mod log_broker;
mod managers;
mod news;
mod node;
mod node_ca;
mod raft_membership;
mod resource_allocator;

use std::pin::Pin;
use std::sync::Arc;

use cluster::authorize::{Method, Origin};
use futures::Stream;
use replica::Handle;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use tower::ServiceExt;
use wire::forward::Forwarded;
use wire::limits::{DESCRIPTION_BYTES_MAX, NEWS_REQUEST_BYTES_MAX};
use wire::server::{
    CaServer, ControlServer, DispatcherServer, HealthServer, LogBrokerServer, NodeCaServer, RaftMembershipServer,
    ResourceAllocatorServer,
};
use wire::status::{Refusal, Unauthorized};

use crate::peers::MANAGERS_BYTES_MAX;
use crate::server::{Call, Peer};
use crate::shared::{Shared, refusal};

pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// One service of the manager.
pub(crate) struct Service<H>(pub(crate) Arc<Shared<H>>);

impl<H> Clone for Service<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Every service behind one: the path names the service that answers. Cheap to clone.
pub(crate) struct Router<H>(Service<H>);

impl<H> Clone for Router<H> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<H: Handle> Router<H> {
    /// All services of a manager.
    pub(crate) fn new(shared: Arc<Shared<H>>) -> Self {
        Self(Service(shared))
    }

    /// Answers a call; one to an unknown service is UNIMPLEMENTED. Nothing is read of the message of a caller who may not
    /// make the call: whom the cluster does not know can make it keep next to nothing.
    pub(crate) async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let service = self.0;
        let path = request.uri().path().to_owned();
        let Some((name, _)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return Status::unimplemented("unknown service").into_http();
        };
        if let Some(method) = method(&path)
            && let Err(refused) = service.judge(&request, method)
        {
            return refused.into_http();
        }
        let answered = match name {
            "docker.swarmkit.v1.Dispatcher" => {
                DispatcherServer::new(service).max_decoding_message_size(NODE_BYTES_MAX).oneshot(request).await
            }
            "docker.swarmkit.v1.NodeCA" => {
                NodeCaServer::new(service).max_decoding_message_size(ISSUE_BYTES_MAX).oneshot(request).await
            }
            "docker.swarmkit.v1.CA" => {
                CaServer::new(service).max_decoding_message_size(QUESTION_BYTES_MAX).oneshot(request).await
            }
            "docker.swarmkit.v1.LogBroker" => {
                LogBrokerServer::new(service).max_decoding_message_size(NODE_BYTES_MAX).oneshot(request).await
            }
            "docker.swarmkit.v1.ResourceAllocator" => {
                let server = ResourceAllocatorServer::new(service).max_decoding_message_size(NODE_BYTES_MAX);
                server.oneshot(request).await
            }
            "docker.swarmkit.v1.Health" => {
                HealthServer::new(service).max_decoding_message_size(QUESTION_BYTES_MAX).oneshot(request).await
            }
            "docker.swarmkit.v1.RaftMembership" => {
                RaftMembershipServer::new(service).max_decoding_message_size(NODE_BYTES_MAX).oneshot(request).await
            }
            "docker.swarmkit.v1.Control" => {
                ControlServer::new(service).max_decoding_message_size(NODE_BYTES_MAX).oneshot(request).await
            }
            "swarmpki.v1.Node" => {
                // Who asks for news is a node, by now.
                let max = if path.ends_with("/News") { NEWS_REQUEST_BYTES_MAX } else { QUESTION_BYTES_MAX };
                let server = wire::node::NodeServer::new(service).max_decoding_message_size(max);
                server.oneshot(request).await
            }
            "swarmpki.v1.Managers" => {
                let server = wire::managers::ManagersServer::new(service)
                    .max_decoding_message_size(MANAGERS_BYTES_MAX)
                    .max_encoding_message_size(MANAGERS_BYTES_MAX);
                server.oneshot(request).await
            }
            _ => Ok(Status::unimplemented("unknown service").into_http()),
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl<H: Handle> Service<H> {
    /// Whether the caller may call `method`, told by what came with the head of the request.
    fn judge(&self, request: &http::Request<Body>, method: Method) -> Result<(), Status> {
        let peer =
            request.extensions().get::<Arc<Peer>>().ok_or_else(|| Refusal::Peer(Unauthorized::NoPeer).status())?;
        // Members of the group are known by their keys, whatever the time and however late the state here is.
        if method == Method::Managers {
            let known = self.judge_member(&Call::new(Arc::clone(peer), None));
            return known.or_else(|refused| self.newcomer(peer).map(drop).ok_or(refused));
        }
        // The keys of forwarded calls are few among the headers, but there is no other way to read them as metadata.
        let origin = request.headers().get(wire::forward::CERT_KEY).and_then(|_| {
            let metadata = MetadataMap::from_headers(request.headers().clone());
            origin(&metadata)
        });
        let state = self.0.handle.state();
        let judged = state.authorize(peer.caller_for(origin.as_ref()), method, self.0.now());
        judged.map(drop).map_err(|denial| refusal(denial, &state).status())
    }
}

/// What a path asks for, as authorization knows it; none if there is no such method, which its service then says.
fn method(path: &str) -> Option<Method> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    let service = service.strip_prefix("docker.swarmkit.v1.").unwrap_or(service);
    Some(match (service, name) {
        ("CA", "GetRootCACertificate") => Method::GetRootCaCertificate,
        ("CA", "GetUnlockKey") => Method::GetUnlockKey,
        ("NodeCA", "IssueNodeCertificate") => Method::IssueNodeCertificate,
        ("NodeCA", "NodeCertificateStatus") => Method::NodeCertificateStatus,
        ("Dispatcher", "Session") => Method::Session,
        ("Dispatcher", "Heartbeat") => Method::Heartbeat,
        ("Dispatcher", "Assignments") => Method::Assignments,
        ("Dispatcher", "Tasks") => Method::Tasks,
        ("Dispatcher", "UpdateTaskStatus") => Method::UpdateTaskStatus,
        ("Dispatcher", "UpdateVolumeStatus") => Method::UpdateVolumeStatus,
        ("LogBroker", "ListenSubscriptions") => Method::ListenSubscriptions,
        ("LogBroker", "PublishLogs") => Method::PublishLogs,
        ("ResourceAllocator", "AttachNetwork") => Method::AttachNetwork,
        ("ResourceAllocator", "DetachNetwork") => Method::DetachNetwork,
        ("Health", "Check") => Method::HealthCheck,
        ("RaftMembership", "Join") => Method::RaftJoin,
        ("RaftMembership", "Leave") => Method::RaftLeave,
        ("Raft", _) => Method::Raft,
        ("Control", _) => Method::Control,
        ("swarmpki.v1.Node", "Clock") => Method::Clock,
        ("swarmpki.v1.Node", "News") => Method::News,
        ("swarmpki.v1.Managers", "Enlist") => Method::Enlist,
        ("swarmpki.v1.Managers", _) => Method::Managers,
        _ => return None,
    })
}

/// The largest request for a certificate: a CSR of 8 KiB, a token, and room for fields to come.
const ISSUE_BYTES_MAX: usize = 16 * 1024;
/// The largest message of a node: its description, and as much again.
const NODE_BYTES_MAX: usize = 2 * DESCRIPTION_BYTES_MAX;
/// The largest message where there is nothing to say but a name.
const QUESTION_BYTES_MAX: usize = 4 * 1024;

/// Who makes the call, and on whose behalf.
pub(crate) fn call<T>(request: &Request<T>) -> Result<Call, Refusal> {
    let peer = request.extensions().get::<Arc<Peer>>().ok_or(Refusal::Peer(Unauthorized::NoPeer))?;
    Ok(Call::new(Arc::clone(peer), origin(request.metadata())))
}

/// The original caller of a forwarded call.
fn origin(metadata: &MetadataMap) -> Option<Origin> {
    Forwarded::read(metadata).map(|told| Origin {
        node: told.cn,
        organization: told.org,
        units: told.ous,
        addr: told.remote_addr.and_then(|addr| addr.parse().ok()),
    })
}
