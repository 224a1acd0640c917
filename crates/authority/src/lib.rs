//! `swarmpki ca serve`: the external CA of a Docker swarm. Its managers ask for their nodes' certificates over CFSSL and
//! mutual TLS; the root's key stays here.
//!
//! Rules:
//! - one cluster an instance: given, or that of the first manager that came, written down before it was answered;
//! - callers are managers of that cluster: with a leaf that stands in our log, or, until a day after the first such came,
//!   with a leaf of the swarm's former root ([`caller`]);
//! - whom the operator shut out is let in no more ([`shut_out`]);
//! - a request says who the certificate is for, and nothing else is obeyed; what asks for more is refused by name
//!   ([`request`]);
//! - a certificate is answered after its entry is synced to disk, never before ([`log`]);
//! - another CA is certified only while a [`permit`] of the operator lies there, once.
//!
//! [`Authority`] holds the rules together and signs; [`serve`] is the shell: sockets, HTTP, time.

mod authority;
pub mod caller;
mod config;
pub mod entry;
pub mod log;
mod metrics;
pub mod permit;
mod rate;
mod refusal;
pub mod request;
mod serve;
mod server_leaf;
pub mod shut_out;
mod state_dir;

pub use authority::{Authority, StartError};
pub use config::{Clock, Config, MANY_DEFAULT, RATE_ALL_DEFAULT, RATE_DEFAULT, system_time};
pub use refusal::Refusal;
pub use serve::{Listeners, serve};
