//! The cluster CA: gRPC services, issuance pipeline, the leader's work
