//! Sizes and times that both sides of the protocol hold to. Source: wire.md 1, 5, 6.

use std::time::Duration;

/// The port that carries every service.
pub const PORT: u16 = 2377;
/// The largest message that a bootstrap connection takes, in bytes.
pub const BOOTSTRAP_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest message that a node takes on its session, in bytes. Ours: engines take up to 2^31 - 1.
pub const SESSION_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The largest message of assignments that a node reads and drops, in bytes; it holds an engine's secrets and configs. Ours.
pub const ASSIGNMENTS_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Certificates in a trust bundle that a node takes from a manager. Ours.
pub const BUNDLE_CERTIFICATES_MAX: usize = 32;
/// Certificates in a chain that a node takes as its own. Ours.
pub const CHAIN_CERTIFICATES_MAX: usize = 8;
/// Managers that a node takes from the list of a session. Ours: a cluster has seven, seldom more.
pub const MANAGERS_MAX: usize = 64;
/// The largest description of a node that is kept, in bytes. Ours.
pub const DESCRIPTION_BYTES_MAX: usize = 64 * 1024;
/// The deadline of each call of a join, and of a heartbeat.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// The time in which the first message of a session must come.
pub const SESSION_START_DEADLINE: Duration = Duration::from_secs(5);
/// The weight of a manager in the list of a session.
pub const MANAGER_WEIGHT: i64 = 10;
/// The service whose health says whether a manager may be talked to as one.
pub const HEALTH_RAFT: &str = "Raft";
/// The largest message of news, in bytes. Ours.
pub const NEWS_MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The context in which a manager states which certificates were taken back.
pub const NEWS_REVOCATIONS: &str = "revocations";
/// The context in which a manager states how its issuance log stands.
pub const NEWS_LOG_HEAD: &str = "log-head";
/// The largest signed head that a node keeps, in bytes: of a few certificates. Ours.
pub const NEWS_STATEMENT_BYTES_MAX: usize = 9 * 1024;
/// Contradictions of two heads that a node keeps and shows, at most. Ours.
pub const NEWS_FORKS_MAX: usize = 6;
/// The largest question for news, in bytes: a head, and the contradictions, and by whom revocations were told. Ours.
pub const NEWS_REQUEST_BYTES_MAX: usize = 128 * 1024;
const _: () = assert!((1 + 2 * NEWS_FORKS_MAX) * NEWS_STATEMENT_BYTES_MAX + 8 * 1024 <= NEWS_REQUEST_BYTES_MAX);
/// Hashes in a proof of consistency, at most: two a level of the tree.
pub const LOG_PROOF_MAX: usize = 2 * 64;
