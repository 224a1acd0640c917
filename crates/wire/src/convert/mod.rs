//! Messages to domain types and back, one message a file.

pub mod assignments;
pub mod availability;
pub mod certificate;
pub mod duration;
pub mod log_head;
pub mod node_description;
pub mod role;
pub mod timestamp;
pub mod weighted_peer;
