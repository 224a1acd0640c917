//! The replicated state machine of a cluster CA: pure, and the same bytes on every replica.
//!
//! A [`State`] is a value. The leader stamps a [`Batch`] of [`Command`]s with the time; [`State::apply`] judges each
//! command by its premises against the state it meets and says what came of it in an [`Outcome`]. Nothing here reads a
//! clock, draws a random number, signs, or touches a disk; what those yield arrives inside the commands.
//!
//! - [`command`] all that can be asked, [`outcome`] all that can come of it;
//! - [`state`] the parts: [`node`]s, [`roots`], [`tokens`], [`members`], [`settings`], the issuance [`log`];
//! - [`apply`](State::apply) in one file a part: `admission`, `issuance`, `presence`, `removal`, `tokens`, `settings`;
//! - [`rotation`] how one root replaces another, [`trust`] who can verify whom meanwhile;
//! - [`account`] what is noted besides certificates, by whom and from where;
//! - [`authorize`] who may call what;
//! - [`members`] who has a place in the raft group, [`seats`] what its leader does next about that;
//! - [`operators`] who commands the cluster with certificates of another root;
//! - [`refound`] a cluster made anew with one manager, by force or from a backup;
//! - [`revocation`] certificates taken back before their end;
//! - [`sleep`] who may come back to a cluster that was off for longer than its certificates live;
//! - `repeat` what may be said twice, and how to tell what came of it;
//! - [`format`](mod@format) what all of it looks like on disk, format 1;
//! - [`invariant`] what must hold after every step.

pub mod account;
pub mod admission;
pub mod authorize;
pub mod command;
pub mod epoch;
pub mod format;
pub mod invariant;
pub mod issuance;
pub mod lock;
pub mod log;
pub mod members;
pub mod node;
pub mod operators;
pub mod outcome;
mod pending;
pub mod refound;
pub mod removal;
mod repeat;
pub mod revocation;
pub mod roots;
pub mod rotation;
pub mod seats;
pub mod settings;
pub mod sleep;
pub mod state;
pub mod tokens;
pub mod trust;

mod apply;
mod presence;
mod update;

pub use apply::Applied;
pub use command::{Batch, Command};
pub use format::DecodeError;
pub use log::LogEntry;
pub use outcome::{Outcome, Rejection};
pub use state::State;
