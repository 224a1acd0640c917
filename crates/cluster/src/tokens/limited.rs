//! Tokens with limits: each admits so many keys until its end. Rules:
//! - the secret is shown once and kept by nobody: what is here is its hash;
//! - a use belongs to one key. It is taken when the join is admitted; the same request again is the same join, another request of
//!   that key takes its place. It comes back when the join is given up before its certificate was ever used: then nobody was
//!   admitted by it. Once the certificate was used it is spent, also when the node leaves or is removed;
//! - what closes a token closes it for good: revocation, another root, a cluster made anew (which does not know what was used elsewhere).
//!   Its end is the leader's time;
//! - a number is given once, so a late copy of a join never finds another token.

use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::join_token::JoinSecret;
use pki::key::SpkiHash;
use pki::time::Time;

use crate::account::Event;
use crate::apply::Entry;
use crate::command::CreateToken;
use crate::node::{Node, TokenUse};
use crate::outcome::{Outcome, Rejection};
use crate::revocation::Reason;
use crate::state::State;

/// Number of the first token with limits: those before are the standing ones.
pub const FIRST_ROW: u32 = 2;

/// Tokens with limits that there may be at a time, dead ones that are still listed too.
pub const LIMITED_MAX: usize = 1_024;

/// Uses that one token may have.
pub const USES_MAX: u32 = 10_000;

/// The shortest and the longest life of a token.
pub const TTL_MIN: Duration = Duration::from_secs(60);
/// See [`TTL_MIN`].
pub const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Bytes of a note, at most.
pub const NOTE_MAX: usize = 256;

/// How long a token is still listed, with the nodes it admitted, after it was closed or had ended.
pub const LISTED_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is hashed before a token's secret, so that the hash is one of nothing else.
const HASH_PREFIX: &[u8] = b"swarmpki limited join token\0";

/// Hash of a token's secret: 128 random bits, so it tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of a secret.
    pub fn of(secret: &JoinSecret) -> Self {
        let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(HASH_PREFIX.len() + secret.expose().len()));
        bytes.extend_from_slice(HASH_PREFIX);
        bytes.extend_from_slice(secret.expose());
        Self(pki::digest::sha256(&bytes))
    }
}

/// The tokens with limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    rows: OrdMap<u32, Arc<LimitedToken>>,
    by_hash: OrdMap<TokenHash, u32>,
    next: u32,
}

impl Default for Limited {
    fn default() -> Self {
        Self { rows: OrdMap::new(), by_hash: OrdMap::new(), next: FIRST_ROW }
    }
}

/// A token with limits.
///
/// Stored since format 1: change only with a sample in testdata/state/.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitedToken {
    /// What a joiner becomes.
    pub role: Role,
    /// Hash of the secret half.
    pub hash: TokenHash,
    /// Digest of the root that it names.
    pub digest: Digest,
    /// When it was made, by the leader's clock.
    pub created: Time,
    /// The last moment in which it admits anybody, by the leader's clock.
    pub until: Time,
    /// How many keys it admits.
    pub uses: u32,
    /// The keys that it admitted, each with its node and when.
    pub used: OrdMap<SpkiHash, (NodeId, Time)>,
    /// What the operator wrote beside it.
    pub note: String,
    /// Why it admits nobody any more, and since when; apart from its end and its uses.
    pub closed: Option<(Closed, Time)>,
    /// Joins by it that are not finished.
    pub unfinished: u32,
}

/// What closed a token for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// An operator did.
    Revoked,
    /// The root that it names was replaced.
    Root,
    /// The cluster was made anew: nobody knows what was used after the backup, or where this manager did not hear of it.
    Refounded,
}

/// How a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It admits whoever shows it.
    Open,
    /// All uses are taken.
    Spent,
    /// Its end has come.
    Ended,
    /// It was closed.
    Closed(Closed),
}

impl LimitedToken {
    /// How it stands at `now`.
    pub fn standing(&self, now: Time) -> Standing {
        match self.closed {
            Some((why, _)) => Standing::Closed(why),
            None if now > self.until => Standing::Ended,
            None if self.left() == 0 => Standing::Spent,
            None => Standing::Open,
        }
    }

    /// Uses that are not taken.
    pub fn left(&self) -> u32 {
        self.uses.saturating_sub(u32::try_from(self.used.len()).unwrap_or(u32::MAX))
    }

    /// When it is not even listed any more: nobody asks for it, and no unfinished join names it.
    fn is_forgotten(&self, now: Time) -> bool {
        let over = self.closed.map_or(self.until, |(_, since)| since.min(self.until));
        self.unfinished == 0 && now.since(over) >= LISTED_AFTER
    }
}

impl Limited {
    /// Puts together what was stored; none: it contradicts itself.
    pub(crate) fn from_parts(next: u32, rows: impl IntoIterator<Item = (u32, LimitedToken)>) -> Option<Self> {
        let mut limited = Self { next, ..Self::default() };
        for (number, token) in rows {
            let fits = (FIRST_ROW..next).contains(&number) && token.used.len() <= token.uses as usize;
            let fresh = limited.by_hash.insert(token.hash, number).is_none();
            if !fits || !fresh || limited.rows.insert(number, Arc::new(token)).is_some() {
                return None;
            }
        }
        Some(limited)
    }

    /// The number that the next token gets.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Every token, by number.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (u32, &Arc<LimitedToken>)> {
        self.rows.iter().map(|(number, token)| (*number, token))
    }

    /// One token.
    pub fn get(&self, row: u32) -> Option<&Arc<LimitedToken>> {
        self.rows.get(&row)
    }

    /// The token with this secret.
    pub fn find(&self, hash: &TokenHash) -> Option<(u32, &Arc<LimitedToken>)> {
        let row = *self.by_hash.get(hash)?;
        Some((row, self.rows.get(&row)?))
    }

    pub(super) fn change(&mut self, row: u32, edit: impl FnOnce(&mut LimitedToken)) {
        if let Some(token) = self.rows.get_mut(&row) {
            edit(Arc::make_mut(token));
        }
    }

    /// Closes what is open or ended: a closed one stays closed by what closed it first.
    pub(crate) fn close_all(&mut self, why: Closed, now: Time) {
        let open: Vec<_> = self.rows().filter(|(_, token)| token.closed.is_none()).map(|(row, _)| row).collect();
        for row in open {
            self.change(row, |token| token.closed = Some((why, now)));
        }
    }

    /// Whether collecting would forget anything.
    pub fn is_due(&self, now: Time) -> bool {
        self.rows.values().any(|token| token.is_forgotten(now))
    }

    /// Lets go of those that nobody asks for any more; whether there were any.
    pub(crate) fn forget(&mut self, now: Time) -> bool {
        let gone: Vec<_> =
            self.rows().filter(|(_, token)| token.is_forgotten(now)).map(|(row, token)| (row, token.hash)).collect();
        for (row, hash) in &gone {
            self.rows.remove(row);
            self.by_hash.remove(hash);
        }
        !gone.is_empty()
    }

    /// Takes a use for a key and its node.
    pub(crate) fn take(&mut self, row: u32, key: SpkiHash, node: &NodeId, now: Time) {
        self.change(row, |token| {
            token.used.insert(key, (node.clone(), now));
        });
    }

    /// A join was given up before its certificate was ever used: its use may be taken again.
    pub(crate) fn give_back(&mut self, row: u32, node: &Node) {
        self.change(row, |token| {
            let of_node = |key: &SpkiHash| token.used.get(key).is_some_and(|(id, _)| *id == node.id);
            let known = node.join_keys().find(of_node);
            // It may have asked with other keys since.
            let search = || token.used.iter().find(|(_, (id, _))| *id == node.id).map(|(key, _)| *key);
            if let Some(key) = known.or_else(search) {
                token.used.remove(&key);
            }
        });
    }
}

impl State {
    /// Whether this key may join by this token at `now`, as far as the token's limits go; and which of its unfinished joins gives way to it.
    ///
    /// # Errors
    /// [`Rejection::TokenRevoked`], [`Rejection::TokenEnded`], [`Rejection::TokenSpent`], or [`Rejection::Token`] if there is no such token.
    pub(crate) fn use_left(&self, token: &TokenUse, key: &SpkiHash, now: Time) -> Result<Option<NodeId>, Rejection> {
        if token.row < FIRST_ROW {
            return Ok(None);
        }
        let row = self.tokens.limited.get(token.row).ok_or(Rejection::Token)?;
        let standing = row.standing(now);
        match (standing, row.used.get(key)) {
            (Standing::Closed(why), _) => Err(why.into()),
            (Standing::Ended, _) => Err(Rejection::TokenEnded),
            (Standing::Open | Standing::Spent, Some((id, _))) => {
                let joins = self.nodes.get(id).is_some_and(|node| node.unfinished == Some(*token));
                if joins { Ok(Some(id.clone())) } else { Err(Rejection::TokenSpent) }
            }
            (Standing::Spent, None) => Err(Rejection::TokenSpent),
            (Standing::Open, None) => Ok(None),
        }
    }

    pub(crate) fn create_token(&mut self, entry: &mut Entry<'_>, create: &CreateToken) -> Result<Outcome, Rejection> {
        if self.tokens.limited.find(&create.hash).is_some() {
            return Ok(Outcome::Unchanged);
        }
        let served = self.roots.served().map(|root| Digest::of(&root.bundle));
        if served != Some(create.digest) {
            return Err(Rejection::OutOfSequence);
        }
        let fits = (1..=USES_MAX).contains(&create.uses)
            && (TTL_MIN..=TTL_MAX).contains(&create.ttl)
            && create.note.len() <= NOTE_MAX;
        let limited = &self.tokens.limited;
        if !fits || limited.rows.len() >= LIMITED_MAX || limited.next == u32::MAX {
            return Err(Rejection::TokenLimits);
        }
        let limited = &mut Arc::make_mut(&mut self.tokens).limited;
        let token = LimitedToken {
            role: create.role,
            hash: create.hash,
            digest: create.digest,
            created: entry.stamp,
            until: entry.stamp.saturating_add(create.ttl),
            uses: create.uses,
            used: OrdMap::new(),
            note: create.note.clone(),
            closed: None,
            unfinished: 0,
        };
        let (row, manager) = (limited.next, create.role == Role::Manager);
        entry.tell(Event::TokenCreated { row, manager, until: token.until, uses: Some(token.uses) });
        limited.by_hash.insert(token.hash, limited.next);
        limited.rows.insert(limited.next, Arc::new(token));
        limited.next = limited.next.saturating_add(1);
        Ok(Outcome::Done { version: entry.index })
    }

    /// Closes a token. Whoever joined by it and is not in yet stays out; the nodes that it admitted stay.
    pub(crate) fn revoke_token(&mut self, entry: &mut Entry<'_>, row: u32) -> Result<Outcome, Rejection> {
        let token = self.tokens.limited.get(row).ok_or(Rejection::UnknownToken)?;
        if token.closed.is_some() {
            return Ok(Outcome::Unchanged);
        }
        let by_token = |node: &&Arc<Node>| node.unfinished.is_some_and(|used| used.row == row);
        let joins: Vec<_> = if token.unfinished == 0 {
            Vec::new()
        } else {
            self.nodes.values().filter(by_token).map(|node| node.id.clone()).collect()
        };
        joins.iter().for_each(|id| self.withdraw_join(entry, id, Reason::Unspecified));
        let limited = &mut Arc::make_mut(&mut self.tokens).limited;
        limited.change(row, |token| token.closed = Some((Closed::Revoked, entry.stamp)));
        entry.tell(Event::TokenRevoked { row });
        Ok(Outcome::Done { version: entry.index })
    }
}

impl From<Closed> for Rejection {
    fn from(why: Closed) -> Self {
        match why {
            Closed::Revoked => Self::TokenRevoked,
            // Its text names another root than the one of now: to whoever comes it is no token of this cluster.
            Closed::Root | Closed::Refounded => Self::Token,
        }
    }
}
