//! Several managers: one decided log, a member of it on each manager's machine, and nodes that are in session with any of them
//! and move. Machines, managers and the decisions about leading, seats and sessions are the product's.
//!
//! What must never be is looked at after every event: see [`witness`].

pub mod run;
pub mod strike;
pub mod witness;
mod world;

pub use run::{Several, run};
pub use world::Group;
