//! `NodeCA`: certificates for joiners and nodes (pki.md 6).

use std::sync::Arc;

use cluster::authorize::{Caller, Method};
use cluster::node::Availability;
use replica::Handle;
use tonic::{Request, Response, Status};
use wire::convert;
use wire::proto::node_spec::{Availability as WireAvailability, Membership};
use wire::proto::{
    IssueNodeCertificateRequest, IssueNodeCertificateResponse, NodeCertificateStatusRequest,
    NodeCertificateStatusResponse,
};

use super::{Service, call};
use crate::issue::{self, Fetched};
use crate::server::Call;

/// Whether the caller is the node that its certificate names: whoever only has a certificate with that name changes nothing of what
/// is known of the node.
fn is_itself(call: &Call) -> bool {
    matches!(call.caller(), Caller::Identified(_, standing) if standing.cut().is_some())
}

#[tonic::async_trait]
impl<H: Handle> wire::server::NodeCa for Service<H> {
    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        let call = call(&request)?;
        let ours = wire::marker::is_marked(request.metadata());
        let message = request.into_inner();
        let availability = match convert::availability::from_wire(message.availability) {
            WireAvailability::Active => Availability::Active,
            WireAvailability::Pause => Availability::Pause,
            WireAvailability::Drain => Availability::Drain,
        };
        let wanted = issue::Request { csr: message.csr, token: Arc::from(message.token), availability, ours };
        let issued = self.0.issue(&call, wanted).await;
        if let Some(node) = call.node().filter(|_| is_itself(&call)) {
            self.0.note_refusal(&node, issued.as_ref().err().map(ToString::to_string));
        }
        let issued = issued?;
        call.peer.remember(issued.node.clone(), issued.key);
        Ok(Response::new(IssueNodeCertificateResponse {
            node_id: issued.node.to_string(),
            node_membership: Membership::Accepted.into(),
        }))
    }

    /// Anybody who knows an id is told of what was issued to it and not yet used; of anything else, that there is nothing.
    async fn node_certificate_status(
        &self,
        request: Request<NodeCertificateStatusRequest>,
    ) -> Result<Response<NodeCertificateStatusResponse>, Status> {
        let call = call(&request)?;
        self.0.authorize(&call, Method::NodeCertificateStatus)?;
        let id = request.into_inner().node_id;
        let issued = match self.0.fetch(&call.peer, &id).await? {
            Fetched::Issued(issued) => issued,
            Fetched::Pending(node) => return Ok(Response::new(self.0.pending(&node))),
        };
        if call.peer.node() == Some(&issued.node) && is_itself(&call) {
            self.0.note_fetched(&issued.node).await;
        }
        let issue::Issued { node, letter } = issued;
        let chain = issue::chain_pem(&letter);
        Ok(Response::new(convert::certificate::issued(&node, letter.leaf.role, letter.csr.clone(), chain)))
    }
}
