//! The cluster CA: port 2377 and the leader's work.
//!
//! - [`bootstrap`] makes a cluster: root, first manager, first entry of the log;
//! - [`issue`] decides and signs; its pipeline answers only what is committed;
//! - [`operators`] is who commands the cluster with certificates;
//! - [`outside`] has signed what a CA elsewhere, or a token, is to sign; [`keys`] are those in our own custody;
//! - [`sessions`] is the table of who is there, without sockets or clocks;
//! - [`message`] is what a session tells its node;
//! - [`revoke`] takes certificates back; [`lists`] tell the outside;
//! - [`news`] is what every node of ours is told as it changes; [`heads`] are how the issuance log stands;
//! - [`change`] is what a change of the replicated state means for who is connected;
//! - [`roster`] is the table of the whole group's sessions;
//! - [`rotate`] replaces the root;
//! - [`collect`] is what time ends;
//! - [`peers`] are the connections to the other managers;
//! - [`server`] accepts connections and knows who is at the other end of each;
//! - [`service`] answers the gRPC calls;
//! - [`control`] is the operator's side, which the Engine API speaks to;
//! - [`Manager`] runs all of it.
//!
//! Everything that decides is a function of the replicated state, the session table, and a time and chance given as
//! arguments; what moves bytes stays thin.

pub mod bootstrap;
pub mod chance;
pub mod change;
pub mod collect;
pub mod control;
pub mod heads;
pub mod issue;
pub mod keys;
pub mod lists;
pub mod message;
pub mod news;
pub mod operators;
pub mod outside;
pub mod peers;
pub mod report;
pub mod revoke;
pub mod roster;
pub mod rotate;
pub mod server;
pub mod service;
pub mod sessions;
pub mod view;

mod address;
mod alarm;
mod leader;
mod leading;
mod looks;
mod parts;
mod run;
mod seats;
mod share;
mod shared;
mod slots;
mod watcher;

pub use bootstrap::Bootstrap;
pub use chance::Chance;
pub use control::Control;
pub use keys::{Keys, TokenAccess};
pub use peers::Peers;
pub use run::{Config, Manager, StartError};
pub use shared::{Clock, refusal};
pub use view::*;

pub use cfssl::{UrlHealth, UrlState};
pub use pkcs11::Pin;
