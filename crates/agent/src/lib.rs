//! One node's identity in a swarm cluster: join with a token, hold a certificate that renews itself, serve TLS with it.
//!
//! A node belongs to a cluster once it holds a key and a certificate signed by the cluster's root. This crate gets them
//! with a join token, keeps a session with a manager, renews them, follows rotations of the root, and notices when the node
//! was removed. It speaks the protocol of Docker's swarm mode: the manager may be `swarmpki` or a Docker Engine.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use swarmpki::{Config, JoinRequest, Node};
//!
//! let config = Config::new("/var/lib/myprogram/swarm");
//! let token = std::env::var("JOIN_TOKEN")?.parse()?;
//! // Joins, or opens what an earlier run left in the directory.
//! let node = Node::join(config, JoinRequest::new(token, ["10.0.0.1:2377"])).await?;
//!
//! let identity = node.identity(); // for TLS; follows every renewal
//! let mut status = node.status();
//! let run = tokio::spawn(node.run(std::future::pending::<()>()));
//! status.wait_for(|status| status.phase == swarmpki::Phase::Ready).await?;
//! # let _ = (identity, run);
//! # Ok(())
//! # }
//! ```
//!
//! What a node reports about itself is a [`Status`]:
//!
//! ```
//! use swarmpki::{Phase, Status};
//!
//! let status = Status::default();
//! assert_eq!(status.phase, Phase::Connecting);
//! assert!(!status.phase.is_final());
//! assert!(Phase::Removed.is_final());
//! ```
//!
//! A join token is parsed once; it names the digest of the root, and no root of another digest is ever trusted:
//!
//! ```
//! use swarmpki::JoinToken;
//!
//! assert!("SWMTKN-1-short".parse::<JoinToken>().is_err());
//! ```
//!
//! # Layers
//!
//! - [`plan`] decides: a machine without I/O, clock or chance, driven by the simulator as by the product.
//! - [`keystore`] keeps key, certificate, root and managers in the files of a Docker Engine, safe against power cuts.
//! - [`Node`] is the shell that moves the bytes.
//!
//! # Promotion
//!
//! A program that embeds a node is a worker. If an operator promotes it, it receives a manager's certificate and says so in
//! its [`Status`], but it runs no manager; demote it again, or remove it.

mod clock;
mod config;
mod connect;
mod error;
mod join;
pub mod keystore;
mod news;
mod node;
pub mod plan;
mod renew;
mod run;
mod session;
mod status;
#[cfg(test)]
mod testing;
mod witness;

pub use clock::ClockOffset;
pub use config::{Availability, Config, Describe, Description, IdentityHook, JoinRequest};
pub use error::{JoinError, NodeError, Retry};
pub use mtls::{Live, PeerPolicy, Statement, subject_of};
pub use node::{Ended, Handle, Node, Pending};
pub use pki::identity::{ClusterId, NodeId, Role};
pub use pki::join_token::JoinToken;
pub use pki::time::Time;
pub use status::{Phase, Status, Trouble};
pub use witness::{Fork, KeptHead, Witness};
