//! Whole clusters on one thread, from a seed: the node's machine, the manager's decisions and the replicated state of the
//! product, in a world whose time, network, disks and clocks are made up and go wrong.
//!
//! A run is faults for a while, then none; then every machine must be in session with a registered leaf, and who was removed
//! must be refused. The invariants of the state are checked after every entry of the log, and besides them:
//! - nothing signed leaves the manager before its entry is committed, and what left is in the log after every restart;
//! - nobody believes that it was removed who was not;
//! - every machine starts from what is on its disk, wherever the power went;
//! - any two members that are up verify each other, whatever root is being replaced by whichever, and every leaf is signed
//!   by a root that was asked for.
//!
//! `cargo run -p swarmpki-sim -- --seed 0x5eed`

pub mod chance;
pub mod fleet;
pub mod handshake;
pub mod large;
pub mod ledger;
pub mod machine;
pub mod manager;
pub mod operator;
pub mod packet;
pub mod run;
pub mod several;
pub mod signer;
pub mod watch;
pub mod world;

pub use fleet::Fleet;
pub use large::Large;
pub use manager::Mischief;
pub use run::{Config, Failed, Summary, quiet, run};
pub use several::Several;
