//! The session message: what a node acts on, as `Dispatcher/Session` of the product sends it.

use cluster::State;
use pki::identity::NodeId;
use wire::convert;
use wire::proto::issuance_status::State as Issuance;
use wire::proto::node_spec::Membership;
use wire::proto::{Annotations, Certificate, Node, NodeSpec, SessionMessage};

/// The whole message; none if the node is gone. A node that may only come back is told to renew, and no root.
pub fn session_message(state: &State, id: &NodeId, session: &str, returning: bool) -> Option<SessionMessage> {
    let record = state.node(id)?;
    let issuance = if returning { Issuance::Rotate } else { Issuance::Issued };
    let node = Node {
        id: id.to_string(),
        spec: Some(NodeSpec {
            annotations: Some(Annotations { name: record.spec.name.clone(), ..Annotations::default() }),
            desired_role: convert::role::to_wire(record.spec.role),
            membership: Membership::Accepted.into(),
            ..NodeSpec::default()
        }),
        certificate: Some(Certificate {
            role: convert::role::to_wire(record.role),
            status: Some(convert::certificate::status(issuance, "")),
            cn: id.to_string(),
            ..Certificate::default()
        }),
        role: convert::role::to_wire(record.role),
        ..Node::default()
    };
    let members = state.members.rows.iter();
    let root = if returning { Vec::new() } else { state.roots.served()?.bundle.clone() };
    Some(SessionMessage {
        session_id: session.to_owned(),
        node: Some(node),
        managers: members.map(|(node, member)| convert::weighted_peer::manager(node, &member.addr)).collect(),
        root_ca: root.into(),
        ..SessionMessage::default()
    })
}
