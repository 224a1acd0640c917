//! What a machine runs: the agent, the manager while it is one, and the Engine API.
//!
//! A daemon is a function of its configuration and its shutdown: [`run`]. It holds the node's state directory and is
//! nothing, a worker or a manager, as `init`, `join` and `leave` make it, without restart.
//!
//! - [`config`]: where the state lies and where to listen;
//! - [`caller`]: who calls the API, and what they may do;
//! - [`check`]: whether the state of a stopped daemon is whole;
//! - [`lifecycle`]: the one task that owns what this machine is;
//! - [`engine_api`]: Docker's HTTP API, the swarm part, and our own `/swarmpki/v1` beside it.

pub mod address;
mod age;
pub mod backend;
mod backup;
mod browser;
pub mod caller;
pub mod check;
mod clock;
pub mod config;
mod data_key;
pub mod engine_api;
pub mod lifecycle;
mod listener;
mod lock;
mod machine;
mod operators;
mod revocations;
mod run;
mod settings;
mod state_dir;
mod tls;
pub mod unlock_source;

pub use backend::Backend;
pub use caller::{Caller, Right};
pub use config::{DaemonConfig, Host, TlsMode, TlsSettings};
pub use manager::{Keys, Pin, TokenAccess};
pub use run::{Daemon, RunError, run};
pub use unlock_source::UnlockSource;

/// The version this daemon gives itself in `docker version`, `docker info` and `docker node ls`.
pub const ENGINE_VERSION: &str = concat!("swarmpki-", env!("CARGO_PKG_VERSION"));
