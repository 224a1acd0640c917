//! `LogBroker`: there are no logs to ask for. Subscriptions stay open and silent: an end would bounce the session.

use cluster::authorize::Method;
use futures::StreamExt;
use replica::Handle;
use tonic::{Request, Response, Status, Streaming};
use wire::proto::{ListenSubscriptionsRequest, PublishLogsMessage, PublishLogsResponse, SubscriptionMessage};

use super::dispatcher::until_session_ends;
use super::{Answers, Service, call};

#[tonic::async_trait]
impl<H: Handle> wire::server::LogBroker for Service<H> {
    type ListenSubscriptionsStream = Answers<SubscriptionMessage>;

    async fn listen_subscriptions(
        &self,
        request: Request<ListenSubscriptionsRequest>,
    ) -> Result<Response<Self::ListenSubscriptionsStream>, Status> {
        let call = call(&request)?;
        let (node, _) = self.0.authorize_node(&call, Method::ListenSubscriptions)?;
        Ok(Response::new(until_session_ends(&self.0, &node, None, call)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<PublishLogsMessage>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::PublishLogs)?;
        let mut messages = request.into_inner();
        while let Some(message) = messages.next().await {
            message?;
        }
        Ok(Response::new(PublishLogsResponse {}))
    }
}
