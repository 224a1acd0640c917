//! The session message (wire.md 6.3): what a node is told, as a function of the replicated state.

use std::hash::{DefaultHasher, Hash, Hasher};

use cluster::State;
use pki::identity::NodeId;
use wire::convert;
use wire::proto::issuance_status::State as Issuance;
use wire::proto::node_spec::Membership;
use wire::proto::node_status::State as Presence;
use wire::proto::{Annotations, Certificate, Meta, Node, NodeSpec, NodeStatus, SessionMessage, Version};

use crate::report;

/// What a session asks of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    None,
    /// To renew now. Another number is another order: engines act on a text that changed (wire.md 6.4).
    Renew(u32),
    /// The same, of a node that may only come back: it is given no root until it has.
    Return,
}

/// One session's stream: what it has said, and what it says next.
#[derive(Debug)]
pub struct Telling {
    node: NodeId,
    session: String,
    returning: bool,
    /// The last message, and how often the node had been given a root then.
    said: Option<(u64, u32)>,
}

/// What a stream says next.
#[derive(Debug)]
pub enum Next {
    /// This.
    Say(Box<SessionMessage>),
    /// Nothing, until something has changed.
    Wait,
    /// Its node has no record any more: the session is over.
    Gone,
}

impl Telling {
    /// A stream that has said nothing yet; `returning`: of a node that may only come back.
    pub const fn new(node: NodeId, session: String, returning: bool) -> Self {
        Self { node, session, returning, said: None }
    }

    /// Whose stream it is.
    pub const fn node(&self) -> &NodeId {
        &self.node
    }

    /// What it says next. `ordered`: the renewal that the node was told to make and has not made yet; `pushes`: how often it was
    /// its turn to be given the root that a rotation goes to. Another turn is said although it says nothing new: what the
    /// node could not keep, it has not.
    pub fn next(&mut self, state: &State, ordered: Option<u32>, pushes: u32) -> Next {
        let order = if self.returning { Order::Return } else { ordered.map_or(Order::None, Order::Renew) };
        let Some(message) = session_message(state, &self.node, &self.session, order, pushes > 0) else {
            return Next::Gone;
        };
        let print = (fingerprint(&message), pushes);
        if self.said == Some(print) {
            return Next::Wait;
        }
        self.said = Some(print);
        Next::Say(Box::new(message))
    }
}

/// A whole session message: everything, every time (wire.md 6.3).
pub fn session_message(
    state: &State,
    id: &NodeId,
    session: &str,
    order: Order,
    pushed: bool,
) -> Option<SessionMessage> {
    let record = state.node(id)?;
    let (issuance, text) = match order {
        Order::None => (Issuance::Issued, String::new()),
        Order::Renew(number) => (Issuance::Rotate, format!("renewal ordered ({number})")),
        Order::Return => (Issuance::Rotate, String::new()),
    };
    let availability = match record.spec.availability {
        cluster::node::Availability::Active => 0,
        cluster::node::Availability::Pause => 1,
        cluster::node::Availability::Drain => 2,
    };
    let node = Node {
        id: id.to_string(),
        meta: Some(Meta {
            version: Some(Version { index: record.version }),
            created_at: Some(convert::timestamp::to_wire(record.created)),
            updated_at: Some(convert::timestamp::to_wire(record.updated)),
        }),
        spec: Some(NodeSpec {
            annotations: Some(Annotations {
                name: record.spec.name.clone(),
                labels: record.spec.labels.clone().into_iter().collect(),
                ..Annotations::default()
            }),
            desired_role: convert::role::to_wire(record.spec.role),
            membership: Membership::Accepted.into(),
            availability,
        }),
        description: record.report.as_deref().map(|said| report::join(state, said)),
        status: Some(NodeStatus {
            state: Presence::Ready.into(),
            message: String::new(),
            addr: record.report.as_deref().map(|said| said.addr.clone()).unwrap_or_default(),
        }),
        certificate: Some(Certificate {
            role: convert::role::to_wire(record.signed_role()),
            status: Some(convert::certificate::status(issuance, &text)),
            cn: id.to_string(),
            ..Certificate::default()
        }),
        role: convert::role::to_wire(record.signed_role()),
        ..Node::default()
    };
    let managers = state.managers().map(|(node, member)| convert::weighted_peer::manager(node, &member.addr)).collect();
    let root_ca = if order == Order::Return { Vec::new() } else { state.roots.trust_for(record, pushed)?.to_vec() };
    Some(SessionMessage {
        session_id: session.to_owned(),
        node: Some(node),
        managers,
        network_bootstrap_keys: Vec::new(),
        root_ca: root_ca.into(),
    })
}

/// What a message says, but for what engines ignore: a message that says nothing new is not sent.
pub fn fingerprint(message: &SessionMessage) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(node) = &message.node {
        let quiet = Node { meta: None, status: None, description: None, ..node.clone() };
        prost::Message::encode_to_vec(&quiet).hash(&mut hasher);
    }
    for manager in &message.managers {
        prost::Message::encode_to_vec(manager).hash(&mut hasher);
    }
    message.root_ca.hash(&mut hasher);
    hasher.finish()
}
