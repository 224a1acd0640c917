//! `RaftMembership`: engines are never members of our raft group (wire.md 10); our own managers join by another way.

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::proto::{JoinRequest, JoinResponse, LeaveRequest, LeaveResponse};

use super::{Service, call};

const TEXT: &str = "the managers of this cluster run swarmpki: a Docker Engine can join it as a worker only";

#[tonic::async_trait]
impl<H: Handle> wire::server::RaftMembership for Service<H> {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::RaftJoin)?;
        Err(Status::failed_precondition(TEXT))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::RaftLeave)?;
        Err(Status::failed_precondition(TEXT))
    }
}
