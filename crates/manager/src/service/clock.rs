//! `swarmpki.v1.Node`: our own extensions.

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::node::{ClockRequest, ClockResponse};

use super::{Service, peer};

#[tonic::async_trait]
impl<H: Handle> wire::node::Node for Service<H> {
    async fn clock(&self, request: Request<ClockRequest>) -> Result<Response<ClockResponse>, Status> {
        let (peer, _call) = peer(&request)?;
        self.0.authorize(&peer, Method::Clock)?;
        Ok(Response::new(ClockResponse { unix_millis: self.0.now().unix_millis() }))
    }
}
