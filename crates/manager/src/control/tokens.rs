//! Join tokens with limits, for the operator: made, listed, revoked.

use std::time::Duration;

use cluster::command::CreateToken;
use cluster::tokens::limited::{LIMITED_MAX, LimitedToken, NOTE_MAX, Standing, TTL_MAX, TTL_MIN, TokenHash, USES_MAX};
use cluster::{Command, Outcome, Rejection, State};
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::join_token::{JoinSecret, JoinToken};
use pki::secret::SecretString;
use pki::time::Time;
use replica::Handle;
use wire::status::Refusal;

use super::Control;
use crate::view::ControlError;

/// A token that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitedWish {
    /// What a joiner becomes.
    pub role: Role,
    /// How long it lives.
    pub ttl: Duration,
    /// How many keys it admits.
    pub uses: u32,
    /// Free text beside it.
    pub note: String,
}

/// A token with limits, as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitedView {
    /// Its number.
    pub row: u32,
    /// What a joiner becomes.
    pub role: Role,
    /// How it stands.
    pub standing: Standing,
    /// How many keys it admits.
    pub uses: u32,
    /// How many of them are not taken.
    pub left: u32,
    /// When it was made.
    pub created: Time,
    /// Its end.
    pub until: Time,
    /// Free text beside it.
    pub note: String,
    /// Whom it admitted, in the order in which they came.
    pub nodes: Vec<AdmittedView>,
}

/// A node that a token admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedView {
    /// Which.
    pub node: NodeId,
    /// When.
    pub at: Time,
    /// Its host name; empty: it said none, or is gone.
    pub hostname: String,
    /// What has become of it.
    pub state: AdmittedState,
}

/// What has become of a node that a token admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmittedState {
    /// Its certificate was not used yet.
    Joining,
    /// It is a node.
    Member,
    /// It was removed.
    Gone,
}

impl LimitedView {
    fn of(state: &State, row: u32, token: &LimitedToken, now: Time) -> Self {
        let admitted = |(id, at): &(NodeId, Time)| {
            let node = state.node(id);
            let said = node.and_then(|node| node.report.as_deref());
            AdmittedView {
                node: id.clone(),
                at: *at,
                hostname: said.map(|said| said.hostname.clone()).unwrap_or_default(),
                state: match node {
                    None => AdmittedState::Gone,
                    Some(node) if node.unfinished.is_some() => AdmittedState::Joining,
                    Some(_) => AdmittedState::Member,
                },
            }
        };
        let mut nodes: Vec<_> = token.used.values().map(admitted).collect();
        nodes.sort_by(|a, b| (a.at, &a.node).cmp(&(b.at, &b.node)));
        Self {
            row,
            role: token.role,
            standing: token.standing(now),
            uses: token.uses,
            left: token.left(),
            created: token.created,
            until: token.until,
            note: token.note.clone(),
            nodes,
        }
    }
}

impl<H: Handle> Control<H> {
    /// Makes a token: its view, and its text, which nobody can be told again.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for limits that a token cannot have; RESOURCE_EXHAUSTED if there are too many.
    pub async fn create_token(&self, wish: LimitedWish) -> Result<(LimitedView, SecretString), ControlError> {
        check(&wish)?;
        let state = self.0.handle.state();
        let facts = state.cluster.as_deref().ok_or(Refusal::SignerStarting)?;
        let root = state.roots.served().ok_or(Refusal::SignerStarting)?;
        let digest = Digest::of(&root.bundle);
        let secret = JoinSecret::from_bytes(self.0.chance.bytes().map_err(|_| Refusal::SignerStopped)?);
        let hash = TokenHash::of(&secret);
        let LimitedWish { role, ttl, uses, note } = wish;
        let command = CreateToken { role, hash, digest, ttl, uses, note };
        self.ask_of_token(Command::CreateToken(Box::new(command))).await?;
        let now = self.0.now();
        let made = self.0.handle.state();
        let (row, token) = made.tokens.limited.find(&hash).ok_or(Refusal::OutcomeUnknown)?;
        tracing::info!(token = row, role = role.word(), uses, until = %token.until.rfc3339(), "a join token was made");
        let text = JoinToken::new(digest, &secret, facts.fips);
        Ok((LimitedView::of(&made, row, token, now), SecretString::new(text.text().to_owned())))
    }

    /// Every token with limits that is still listed.
    pub fn limited_tokens(&self) -> Vec<LimitedView> {
        let (state, now) = (self.0.handle.state(), self.0.now());
        state.tokens.limited.rows().map(|(row, token)| LimitedView::of(&state, row, token, now)).collect()
    }

    /// A token admits nobody any more. Nodes that it admitted stay.
    ///
    /// # Errors
    /// NOT_FOUND if there is no such token.
    pub async fn revoke_token(&self, row: u32) -> Result<(), ControlError> {
        if self.ask_of_token(Command::RevokeToken { row }).await? {
            tracing::info!(token = row, "the join token was revoked: it admits nobody any more");
        }
        Ok(())
    }

    /// Whether anything was changed by it.
    async fn ask_of_token(&self, command: Command) -> Result<bool, ControlError> {
        let failed = |code, message: String| Err(ControlError { code, message });
        match self.propose(command).await? {
            Outcome::Rejected(Rejection::UnknownToken) => {
                failed(tonic::Code::NotFound, "no such join token with limits".to_owned())
            }
            Outcome::Rejected(Rejection::TokenLimits) => failed(
                tonic::Code::ResourceExhausted,
                format!(
                    "there are {LIMITED_MAX} join tokens with limits: one is forgotten a week after it ended or was revoked"
                ),
            ),
            Outcome::Rejected(Rejection::OutOfSequence) => {
                failed(tonic::Code::Aborted, "the root was replaced meanwhile: try again".to_owned())
            }
            Outcome::Rejected(rejection) => Err(super::refusal(&rejection, None).into()),
            outcome => Ok(outcome != Outcome::Unchanged),
        }
    }
}

fn check(wish: &LimitedWish) -> Result<(), ControlError> {
    let wrong = |message: String| Err(ControlError { code: tonic::Code::InvalidArgument, message });
    if !(1..=USES_MAX).contains(&wish.uses) {
        return wrong(format!("a join token has 1 to {USES_MAX} uses"));
    }
    if !(TTL_MIN..=TTL_MAX).contains(&wish.ttl) {
        let days = TTL_MAX.as_secs() / (24 * 60 * 60);
        return wrong(format!("a join token lives for at least {}s and at most {days}d", TTL_MIN.as_secs()));
    }
    if wish.note.len() > NOTE_MAX {
        return wrong(format!("a note has {NOTE_MAX} bytes at most"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_token_may_have() {
        let good = LimitedWish { role: Role::Worker, ttl: TTL_MIN, uses: 1, note: String::new() };
        type Change = fn(&mut LimitedWish);
        let rows: [(Change, bool); 7] = [
            (|_| {}, true),
            (|wish| wish.uses = USES_MAX, true),
            (|wish| wish.uses = 0, false),
            (|wish| wish.uses = USES_MAX + 1, false),
            (|wish| wish.ttl = Duration::ZERO, false),
            (|wish| wish.ttl = TTL_MAX + Duration::from_secs(1), false),
            (|wish| wish.note = "x".repeat(NOTE_MAX + 1), false),
        ];
        for (n, (change, fits)) in rows.into_iter().enumerate() {
            let mut wish = good.clone();
            change(&mut wish);
            assert_eq!(check(&wish).is_ok(), fits, "row {n}");
        }
    }
}
