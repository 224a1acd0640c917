//! `Control` over the network: refused to everybody but managers, and not offered to them; operators use the Engine API.

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::proto::{
    GetClusterRequest, GetClusterResponse, GetNodeRequest, GetNodeResponse, ListClustersRequest, ListClustersResponse,
    ListNodesRequest, ListNodesResponse, RemoveNodeRequest, RemoveNodeResponse, UpdateClusterRequest,
    UpdateClusterResponse, UpdateNodeRequest, UpdateNodeResponse,
};

use super::{Service, call};

impl<H: Handle> Service<H> {
    fn no_control<Q, A>(&self, request: &Request<Q>) -> Result<Response<A>, Status> {
        let call = call(request)?;
        self.0.authorize(&call, Method::Control)?;
        Err(Status::unimplemented("use the Engine API of a manager: this service is not offered over the network"))
    }
}

#[tonic::async_trait]
impl<H: Handle> wire::server::Control for Service<H> {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<GetNodeResponse>, Status> {
        self.no_control(&request)
    }

    async fn list_nodes(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        self.no_control(&request)
    }

    async fn update_node(&self, request: Request<UpdateNodeRequest>) -> Result<Response<UpdateNodeResponse>, Status> {
        self.no_control(&request)
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Result<Response<RemoveNodeResponse>, Status> {
        self.no_control(&request)
    }

    async fn get_cluster(&self, request: Request<GetClusterRequest>) -> Result<Response<GetClusterResponse>, Status> {
        self.no_control(&request)
    }

    async fn list_clusters(
        &self,
        request: Request<ListClustersRequest>,
    ) -> Result<Response<ListClustersResponse>, Status> {
        self.no_control(&request)
    }

    async fn update_cluster(
        &self,
        request: Request<UpdateClusterRequest>,
    ) -> Result<Response<UpdateClusterResponse>, Status> {
        self.no_control(&request)
    }
}
