//! The gRPC services of port 2377, one a file. Each call asks first whether its caller may make it.

mod ca;
mod clock;
mod control;
mod dispatcher;
mod health;
mod log_broker;
mod node_ca;
mod raft_membership;
mod resource_allocator;

use std::pin::Pin;
use std::sync::Arc;

use cluster::authorize::Origin;
use futures::Stream;
use replica::Handle;
use tonic::body::Body;
use tonic::{Request, Status};
use tower::ServiceExt;
use wire::forward::Forwarded;
use wire::limits::MANAGER_MESSAGE_BYTES_MAX;
use wire::server::{
    CaServer, ControlServer, DispatcherServer, HealthServer, LogBrokerServer, NodeCaServer, RaftMembershipServer,
    ResourceAllocatorServer,
};
use wire::status::{Refusal, Unauthorized};

use crate::server::{Call, Peer};
use crate::shared::Shared;

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

    /// Answers a call; one to an unknown service is UNIMPLEMENTED.
    pub(crate) async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let service = self.0;
        let name = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        let answered = match name.as_str() {
            "docker.swarmkit.v1.Dispatcher" => {
                let server = DispatcherServer::new(service).max_decoding_message_size(MANAGER_MESSAGE_BYTES_MAX);
                server.oneshot(request).await
            }
            "docker.swarmkit.v1.NodeCA" => {
                NodeCaServer::new(service).max_decoding_message_size(ISSUE_BYTES_MAX).oneshot(request).await
            }
            "docker.swarmkit.v1.CA" => CaServer::new(service).oneshot(request).await,
            "docker.swarmkit.v1.LogBroker" => LogBrokerServer::new(service).oneshot(request).await,
            "docker.swarmkit.v1.ResourceAllocator" => ResourceAllocatorServer::new(service).oneshot(request).await,
            "docker.swarmkit.v1.Health" => HealthServer::new(service).oneshot(request).await,
            "docker.swarmkit.v1.RaftMembership" => RaftMembershipServer::new(service).oneshot(request).await,
            "docker.swarmkit.v1.Control" => ControlServer::new(service).oneshot(request).await,
            "swarmpki.v1.Node" => wire::node::NodeServer::new(service).oneshot(request).await,
            _ => Ok(Status::unimplemented("unknown service").into_http()),
        };
        match answered {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The largest request for a certificate: a CSR of 8 KiB, a token, and room for fields to come.
const ISSUE_BYTES_MAX: usize = 64 * 1024;

/// Who makes the call, and on whose behalf.
pub(crate) fn call<T>(request: &Request<T>) -> Result<Call, Refusal> {
    let peer = request.extensions().get::<Arc<Peer>>().ok_or(Refusal::Peer(Unauthorized::NoPeer))?;
    let origin = Forwarded::read(request.metadata()).map(|told| Origin {
        node: told.cn,
        organization: told.org,
        units: told.ous,
        addr: told.remote_addr.and_then(|addr| addr.parse().ok()),
    });
    Ok(Call::new(Arc::clone(peer), origin))
}
