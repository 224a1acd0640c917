//! Join tokens: rows, each with a role and a secret. The two standing ones always exist; their text names the root's
//! digest, which changes when a rotation of the root ends. Those with limits are beside them, in [`limited`].

pub mod limited;

use std::sync::Arc;

use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::join_token::{JoinSecret, JoinToken};
use pki::key::SpkiHash;
use pki::time::Time;

use crate::node::{Node, TokenUse};
use crate::outcome::Rejection;
use limited::{Limited, TokenHash};

/// Row of the worker's standing token.
pub const WORKER_ROW: u32 = 0;
/// Row of the manager's standing token.
pub const MANAGER_ROW: u32 = 1;

/// Unfinished joins that one token may have alive at a time: a bound on what a leaked token can make us store, set far
/// above what a whole fleet that joins in one go needs.
pub const UNFINISHED_PER_TOKEN_MAX: u32 = 131_072;

/// More than any token has, in bytes: what is longer is not even taken apart.
const TEXT_MAX: usize = 128;

/// The tokens of the cluster.
#[derive(Clone, Default)]
pub struct Tokens {
    /// The standing ones by number.
    pub rows: Vec<TokenRow>,
    /// Those with limits.
    pub limited: Limited,
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
    /// Finds the row whose token is exactly `text`: the standing ones are compared, each in constant time; one with limits is found
    /// by the hash of its secret, closed or not.
    pub fn admit(&self, digest: &Digest, fips: bool, text: &str) -> Option<Admission> {
        let mut found = None;
        for (row, token) in (0u32..).zip(&self.rows) {
            if JoinToken::new(*digest, &token.secret, fips).matches(text) {
                found = Some(Admission { role: token.role, token: TokenUse { row, generation: token.generation } });
            }
        }
        found.or_else(|| self.admit_limited(digest, fips, text))
    }

    fn admit_limited(&self, digest: &Digest, fips: bool, text: &str) -> Option<Admission> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let secret = text.parse::<JoinToken>().ok()?.secret()?;
        // A token is compared as typed: two spellings of one number are two tokens.
        if !JoinToken::new(*digest, &secret, fips).matches(text) {
            return None;
        }
        let (row, token) = self.limited.find(&TokenHash::of(&secret))?;
        (token.digest == *digest).then_some(Admission { role: token.role, token: TokenUse { row, generation: 0 } })
    }

    /// Whether `token` still names the present secret of its row, and is not closed.
    ///
    /// # Errors
    /// [`Rejection::Token`], or [`Rejection::TokenRevoked`].
    pub fn check(&self, token: &TokenUse) -> Result<(), Rejection> {
        match (self.rows.get(token.row as usize), self.limited.get(token.row)) {
            (Some(row), _) if row.generation == token.generation => Ok(()),
            (None, Some(limited)) if token.generation == 0 => {
                limited.closed.map_or(Ok(()), |(why, _)| Err(Rejection::from(why)))
            }
            _ => Err(Rejection::Token),
        }
    }

    /// What a joiner by this row becomes, and how many joins by it are not finished.
    pub(crate) fn row(&self, row: u32) -> Result<(Role, u32), Rejection> {
        let standing = self.rows.get(row as usize).map(|token| (token.role, token.unfinished));
        let limited = || self.limited.get(row).map(|token| (token.role, token.unfinished));
        standing.or_else(limited).ok_or(Rejection::Token)
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
        match self.rows.get_mut(row as usize) {
            Some(token) => token.unfinished = token.unfinished.saturating_add_signed(by),
            None => self.limited.change(row, |token| token.unfinished = token.unfinished.saturating_add_signed(by)),
        }
    }

    /// A join by this row was given up.
    pub(crate) fn release(&mut self, row: u32, node: &Node) {
        self.count_unfinished(row, -1);
        if row >= limited::FIRST_ROW {
            self.limited.give_back(row, node);
        }
    }

    /// A join by this row was admitted.
    pub(crate) fn take(&mut self, row: u32, key: SpkiHash, node: &NodeId, now: Time) {
        self.count_unfinished(row, 1);
        if row >= limited::FIRST_ROW {
            self.limited.take(row, key, node, now);
        }
    }
}
