//! `swarmpki.v1.Node`: our own extensions.

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::node::{ClockRequest, ClockResponse};

use super::{Service, call};

#[tonic::async_trait]
impl<H: Handle> wire::node::Node for Service<H> {
    async fn clock(&self, request: Request<ClockRequest>) -> Result<Response<ClockResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::Clock)?;
        Ok(Response::new(ClockResponse { unix_millis: self.0.now().unix_millis() }))
    }
}
