//! `ResourceAllocator`: there are no networks to attach to.

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::proto::{AttachNetworkRequest, AttachNetworkResponse, DetachNetworkRequest, DetachNetworkResponse};

use super::{Service, call};

const TEXT: &str = "this cluster manages identities only: it has no networks";

#[tonic::async_trait]
impl<H: Handle> wire::server::ResourceAllocator for Service<H> {
    async fn attach_network(
        &self,
        request: Request<AttachNetworkRequest>,
    ) -> Result<Response<AttachNetworkResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::AttachNetwork)?;
        Err(Status::unimplemented(TEXT))
    }

    async fn detach_network(
        &self,
        request: Request<DetachNetworkRequest>,
    ) -> Result<Response<DetachNetworkResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::DetachNetwork)?;
        Err(Status::unimplemented(TEXT))
    }
}
