//! Join tokens: rows, each with a role and a secret. The two standing ones always exist; their text names the root's
//! digest, which changes when a rotation of the root ends.

use std::sync::Arc;

use pki::digest::Digest;
use pki::identity::Role;
use pki::join_token::{JoinSecret, JoinToken};
use pki::time::Time;

use crate::node::TokenUse;

/// Row of the worker's standing token.
pub const WORKER_ROW: u32 = 0;
/// Row of the manager's standing token.
pub const MANAGER_ROW: u32 = 1;

/// Unfinished joins that one token may have alive at a time: a bound on what a leaked token can make us store, set far
/// above what a whole fleet that joins in one go needs.
pub const UNFINISHED_PER_TOKEN_MAX: u32 = 131_072;

/// The tokens of the cluster.
#[derive(Clone, Default)]
pub struct Tokens {
    /// Rows by number.
    pub rows: Vec<TokenRow>,
}

/// One token.
#[derive(Clone)]
pub struct TokenRow {
    /// What a joiner becomes.
    pub role: Role,
    /// The secret half.
    pub secret: Arc<JoinSecret>,
    /// Counts the secrets that this row has had.
    pub generation: u64,
    /// When the present secret was made.
    pub created: Time,
    /// Joins by this row that are not finished.
    pub unfinished: u32,
}

/// A token that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// What the joiner becomes.
    pub role: Role,
    /// Which use of which row.
    pub token: TokenUse,
}

impl Tokens {
    /// Finds the row whose token is exactly `text`: all rows are compared, each in constant time.
    pub fn admit(&self, digest: &Digest, fips: bool, text: &str) -> Option<Admission> {
        let mut found = None;
        for (row, token) in (0u32..).zip(&self.rows) {
            if JoinToken::new(*digest, &token.secret, fips).matches(text) {
                found = Some(Admission { role: token.role, token: TokenUse { row, generation: token.generation } });
            }
        }
        found
    }

    /// Whether `token` still names the present secret of its row.
    pub fn is_present(&self, token: &TokenUse) -> bool {
        self.rows.get(token.row as usize).is_some_and(|row| row.generation == token.generation)
    }

    /// The text of a standing token.
    pub fn text(&self, row: u32, digest: &Digest, fips: bool) -> Option<JoinToken> {
        self.rows.get(row as usize).map(|token| JoinToken::new(*digest, &token.secret, fips))
    }

    pub(crate) fn replace_secret(&mut self, row: u32, secret: Arc<JoinSecret>, now: Time) {
        if let Some(token) = self.rows.get_mut(row as usize) {
            token.secret = secret;
            token.generation = token.generation.saturating_add(1);
            token.created = now;
        }
    }

    pub(crate) fn count_unfinished(&mut self, row: u32, by: i32) {
        if let Some(token) = self.rows.get_mut(row as usize) {
            token.unfinished = token.unfinished.saturating_add_signed(by);
        }
    }
}
