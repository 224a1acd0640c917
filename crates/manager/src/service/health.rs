//! `Health` (wire.md 9).

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::limits::HEALTH_RAFT;
use wire::proto::health_check_response::ServingStatus;
use wire::proto::{HealthCheckRequest, HealthCheckResponse};
use wire::status::Refusal;

use super::{Service, call};

#[tonic::async_trait]
impl<H: Handle> wire::server::Health for Service<H> {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::HealthCheck)?;
        self.0.confirm(&call.peer).await?;
        match request.into_inner().service.as_str() {
            "" | HEALTH_RAFT => Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() })),
            _ => Err(Refusal::UnknownService.into()),
        }
    }
}
