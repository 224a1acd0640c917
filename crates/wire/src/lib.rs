//! The swarm's gRPC protocol: generated messages, conversions to domain types, errors to statuses.
//!
//! - [`proto`] the messages, [`client`] and [`server`] the services of package `docker.swarmkit.v1`, which is what Docker
//!   Engines speak; [`node`] and [`managers`] are our own services beside them, package `swarmpki.v1`.
//! - [`convert`] turns messages into domain types and back, one message a file.
//! - [`status`] is the one place where a refusal becomes a gRPC code and text, and is recognised again.
//! - [`forward`] is how a manager tells the leader who called.
//! - [`marker`] is how our own nodes tell themselves from engines.
//!
//! The generated code is checked in; `cargo xtask codegen` writes it anew from `proto/`.

mod codec;
pub mod convert;
pub mod forward;
pub mod limits;
pub mod marker;
mod redacted;
pub mod status;

#[allow(missing_docs, clippy::all, unused_qualifications, unreachable_pub)]
mod generated {
    pub(crate) mod swarmkit {
        include!("gen/docker.swarmkit.v1.rs");
    }
    pub(crate) mod swarmpki {
        include!("gen/swarmpki.v1.rs");
    }
}

/// Messages of package `docker.swarmkit.v1`.
pub mod proto {
    pub use crate::generated::swarmkit::*;
    pub use prost_types::{Duration, Timestamp};
}

/// Clients of the services of package `docker.swarmkit.v1`.
pub mod client {
    pub use crate::generated::swarmkit::{
        ca_client::CaClient, control_client::ControlClient, dispatcher_client::DispatcherClient,
        health_client::HealthClient, log_broker_client::LogBrokerClient, node_ca_client::NodeCaClient,
        raft_membership_client::RaftMembershipClient, resource_allocator_client::ResourceAllocatorClient,
    };
}

/// Servers of the services of package `docker.swarmkit.v1`: for each a trait to implement and the service around it.
pub mod server {
    pub use crate::generated::swarmkit::{
        ca_server::{Ca, CaServer},
        control_server::{Control, ControlServer},
        dispatcher_server::{Dispatcher, DispatcherServer},
        health_server::{Health, HealthServer},
        log_broker_server::{LogBroker, LogBrokerServer},
        node_ca_server::{NodeCa, NodeCaServer},
        raft_membership_server::{RaftMembership, RaftMembershipServer},
        resource_allocator_server::{ResourceAllocator, ResourceAllocatorServer},
    };
}

/// Between managers: package `swarmpki.v1`, on the same port.
pub mod managers {
    pub use crate::generated::swarmpki::managers_client::ManagersClient;
    pub use crate::generated::swarmpki::managers_server::{Managers, ManagersServer};
    pub use crate::generated::swarmpki::{
        AskRequest, AskResponse, EnlistRequest, EnlistResponse, GroupMember, NodeSession, ShareRequest, ShareResponse,
    };
}

/// Our own extensions: package `swarmpki.v1`, on the same port. An engine answers UNIMPLEMENTED to them.
pub mod node {
    pub use crate::generated::swarmpki::node_client::NodeClient;
    pub use crate::generated::swarmpki::node_server::{Node, NodeServer};
    pub use crate::generated::swarmpki::{
        ClockRequest, ClockResponse, LogFork, LogHead, News, NewsRequest, Revocations, RevokedRow, Statement,
    };
}
