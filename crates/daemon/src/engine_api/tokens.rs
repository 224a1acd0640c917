//! `/swarmpki/v1/tokens`: join tokens with limits. Managers only.

use cluster::tokens::limited::{Closed, Standing};
use http::StatusCode;
use manager::control::tokens::{AdmittedState, LimitedView, LimitedWish};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::body::Document;
use super::error::ApiError;
use super::{Answer, convert, empty, json, rotation};
use crate::backend::{Backend, refusal};

/// A join token with limits; its text is told once, when it is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenReport {
    /// By what it is revoked.
    pub id: String,
    /// `worker` or `manager`.
    pub role: String,
    /// `open`, `spent`, `ended`, `revoked`, `root replaced`, `cluster made anew`.
    pub state: String,
    /// How many nodes it admits.
    pub uses: u32,
    /// How many more.
    pub left: u32,
    /// When it was made.
    pub created: String,
    /// Its last moment.
    pub ends: String,
    /// Free text beside it.
    pub note: String,
    /// Whom it admitted.
    pub nodes: Vec<AdmittedReport>,
}

/// A node that a token admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdmittedReport {
    /// Its id.
    pub id: String,
    /// Its host name, as it says.
    pub hostname: String,
    /// When it was admitted.
    pub at: String,
    /// `joining`: it did not use its certificate yet; `member`; `gone`: it was removed.
    pub state: String,
}

/// `POST /swarmpki/v1/tokens`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CreateRequest {
    /// `worker` or `manager`.
    pub role: String,
    /// How long it lives, in milliseconds.
    pub ttl_ms: u64,
    /// How many nodes it admits.
    pub uses: u32,
    /// Free text beside it.
    pub note: String,
}

/// A token that was made. No Debug: it holds the token.
#[derive(Serialize, Deserialize)]
pub struct Created {
    /// The whole text, which nobody is told again.
    pub token: String,
    /// The `host:port` at which a node joins.
    pub addr: String,
    /// What it is.
    #[serde(flatten)]
    pub report: TokenReport,
}

impl Drop for Created {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.token);
    }
}

fn report(view: &LimitedView) -> TokenReport {
    let state = match view.standing {
        Standing::Open => "open",
        Standing::Spent => "spent",
        Standing::Ended => "ended",
        Standing::Closed(Closed::Revoked) => "revoked",
        Standing::Closed(Closed::Root) => "root replaced",
        Standing::Closed(Closed::Refounded) => "cluster made anew",
    };
    TokenReport {
        id: view.row.to_string(),
        role: view.role.word().to_owned(),
        state: state.to_owned(),
        uses: view.uses,
        left: view.left,
        created: view.created.rfc3339(),
        ends: view.until.rfc3339(),
        note: view.note.clone(),
        nodes: view
            .nodes
            .iter()
            .map(|admitted| AdmittedReport {
                id: admitted.node.to_string(),
                hostname: admitted.hostname.clone(),
                at: admitted.at.rfc3339(),
                state: match admitted.state {
                    AdmittedState::Joining => "joining",
                    AdmittedState::Member => "member",
                    AdmittedState::Gone => "gone",
                }
                .to_owned(),
            })
            .collect(),
    }
}

/// `GET /swarmpki/v1/tokens`.
pub(super) fn list(backend: &Backend) -> Answer {
    let tokens = backend.control()?.limited_tokens();
    json(&tokens.iter().map(report).collect::<Vec<_>>())
}

/// `POST /swarmpki/v1/tokens`: makes one, and tells its text.
pub(super) async fn create(backend: &Backend, body: Option<Document>) -> Answer {
    let request: CreateRequest = rotation::read(body)?;
    let control = backend.control()?;
    let role = convert::role_of_word(&request.role)
        .ok_or_else(|| ApiError::bad_request(format!("invalid role: {:?}", request.role)))?;
    let wish = LimitedWish { role, ttl: Duration::from_millis(request.ttl_ms), uses: request.uses, note: request.note };
    let (view, token) = control.create_token(wish).await.map_err(refusal)?;
    let this = backend.present().membership().and_then(crate::backend::Membership::node_id);
    let addr = this.and_then(|id| control.node(&id)).and_then(|node| node.manager).map(|manager| manager.addr);
    json(&Created { token: token.expose().to_owned(), addr: addr.unwrap_or_default(), report: report(&view) })
}

/// `DELETE /swarmpki/v1/tokens/{id}`.
pub(super) async fn revoke(backend: &Backend, id: &str) -> Answer {
    let control = backend.control()?;
    let known = control.limited_tokens();
    let row = known.iter().map(|token| token.row).find(|row| row.to_string() == id);
    let row = row.ok_or_else(|| ApiError::not_found(format!("token {id} not found")))?;
    control.revoke_token(row).await.map_err(refusal)?;
    Ok(empty(StatusCode::OK))
}
