//! The CFSSL protocol: messages, and a client that checks what an external CA answers.
//!
//! - [`message`]: what goes over the wire, for both sides.
//! - [`Client`]: asks several URLs side by side. Each has a circuit [`breaker`] of its own, so one that is down costs nothing
//!   after its first failure.
//! - [`answer`]: the certificate that came back is checked field by field; what must not be believed is [`Hostile`], by name.
//! - [`cross_sign`]: a new root certified by the CA of the old one.
//! - [`probe`](probe()): can a CA be reached at all?
//!
//! Nothing of an external CA is trusted beyond what it must do: https only, certified by one root for its host name; no
//! redirection, no proxy of the environment, no decoding, 256 KiB and 5 s at most.

pub mod address;
pub mod answer;
pub mod breaker;
mod client;
pub mod cross_sign;
mod exchange;
pub mod failure;
mod foreign;
mod health;
mod hostile;
pub mod message;
mod probe;
mod reply;
mod slot;

pub use address::{Address, InvalidUrl};
pub use answer::{Expected, ExpectedRoot, LifePolicy, Signed};
pub use breaker::Backoff;
pub use client::{Client, HEDGE_AFTER, Jitter, Settings, TIMEOUT, WINDOW};
pub use cross_sign::CrossSignFailure;
pub use exchange::ANSWER_BYTES_MAX;
pub use failure::{Granted, Reason, SignFailure, UrlFailure};
pub use health::{UrlHealth, UrlState};
pub use hostile::Hostile;
pub use probe::{PROBE_LIMIT, ProbeFailure, probe};
pub use slot::Target;
