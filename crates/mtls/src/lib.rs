//! Live TLS: configurations that follow a node's identity.
//!
//! A [`Publisher`] checks a new [`Identity`] as a peer would and swaps it in whole; everyone who holds the [`Live`] end
//! uses it from the next handshake on. Running connections keep what they were made with and are never dropped.
//!
//! Rules (wire.md 1 and 2, stack.md 4.3):
//! - TLS 1.2 at least, 1.3 preferred, X25519MLKEM768 preferred; of TLS 1.2 only suites with ECDHE.
//! - `h2` is offered by ALPN and never required: engines leave ALPN out after their first renewal.
//! - No resumption of any kind: a resumed session would skip the verifier.
//! - A server asks for a certificate, does without one, and drops a peer in the handshake whose chain does not verify. A
//!   leaf that only has expired passes with [`VerifiedPeer::expired`] set: authorization decides what it may do.
//! - A peer is verified once a connection, by a verifier made for that connection.
//! - A peer whose certificate was taken back is refused, as far as this node was told ([`Publisher::revoke`]); only on the port where a
//!   manager judges callers by the cluster's state does it reach authorization, which tells it why.
//! - Paths are built by signature, not by key identifier: a self-named cross-signed intermediate without AKI is good.

mod anchors;
mod callers;
mod client_stream;
mod current;
mod fault;
mod gathered;
mod handshake;
mod live;
mod outside;
mod peers;
mod publisher;
mod revoked;
mod signatures;
mod statement;
mod verified_peer;
mod verifier;

pub use anchors::CallerAnchors;
pub use callers::ServerKey;
pub use client_stream::{ClientStream, LastError};
pub use current::{Current, Identity};
pub use fault::{AcceptError, ChainFault, ConnectError, PeerAlert};
pub use gathered::{Gathered, InWork, Working};
pub use live::{Accepted, Connected, Expect, Live, ManagerName, connect_pinned, connect_unverified};
pub use outside::outside_client_config;
pub use peers::{Clock, PeerPolicy, subject_of};
pub use publisher::{Publisher, Rejected};
pub use revoked::{KeptSet, NotTaken, REVOKED_MAX, RevokedDelta, RevokedSet, TELLERS_MAX, Teller};
pub use signatures::signed_here;
pub use statement::{Statement, StatementError};
pub use verified_peer::VerifiedPeer;
