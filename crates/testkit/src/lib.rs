//! What the tests of several crates share: real peers (Docker Engines, the stock `docker` client, our own daemon) started and ended
//! as guards, loopback addresses that no other test uses, a proxy that can hold a message back, certificates of foreign authorities.
//!
//! Tests only: nothing ships with it. Everything here panics with a reason when the machine does not do what a test needs,
//! and nothing here ends a process that it did not start.
//!
//! Environment:
//! - `SWARMPKI_REQUIRE_PEERS=1`: a missing peer fails the test instead of skipping it (continuous integration sets it);
//! - `SWARMPKI_SKIPPED=FILE`: each skipped test adds its line there, so that a runner that hides output can still name them;
//! - `SWARMPKI_BIN=FILE`: our program, if it is not the one built beside the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a harness reports by panicking, and a skipped test must be named"
)]

pub mod authority;
pub mod clock;
pub mod daemon;
pub mod docker;
pub mod engine;
pub mod http;
pub mod loopback;
pub mod net;
pub mod openssl;
pub mod peer;
pub mod proxy;
pub mod server;
pub mod wait;
