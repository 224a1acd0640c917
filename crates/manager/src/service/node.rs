//! `swarmpki.v1.Node`: our own extensions.

use cluster::authorize::Method;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::node::{ClockRequest, ClockResponse, News, NewsRequest};

use super::{Answers, Service, call, news};

#[tonic::async_trait]
impl<H: Handle> wire::node::Node for Service<H> {
    type NewsStream = Answers<News>;

    async fn clock(&self, request: Request<ClockRequest>) -> Result<Response<ClockResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::Clock)?;
        Ok(Response::new(ClockResponse { unix_millis: self.0.now().unix_millis() }))
    }

    async fn news(&self, request: Request<NewsRequest>) -> Result<Response<Self::NewsStream>, Status> {
        let call = call(&request)?;
        let (node, _) = self.0.authorize_node(&call, Method::News)?;
        Ok(Response::new(news::tell(std::sync::Arc::clone(&self.0), call, node, request.into_inner())))
    }
}
