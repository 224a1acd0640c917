//! Docker's Engine HTTP API, the swarm part, with exact statuses and texts (engine-api.md), and `/swarmpki/v1` beside it.
//!
//! - A path is split into version and route first; an unknown route is 404 whatever its version (engine-api.md 1.1).
//! - Every routed answer, also a refusal, carries the headers of engine-api.md 1.2.
//! - Who calls is judged before anything else, on every request; what a route needs is said route by route.
//! - Gates come in the order of engine-api.md 3: syntax of query and body, then the node's state, then the operation.

mod backup;
pub mod body;
pub mod convert;
pub mod decode;
pub mod error;
pub mod events;
pub mod extra;
pub mod filter;
#[cfg(test)]
mod fixture;
pub mod heads;
pub mod info;
pub mod issuance_log;
pub mod json;
pub mod log;
pub mod nodes;
pub mod operators;
mod ping;
pub mod query;
pub mod reference;
pub mod revocation;
pub mod rotation;
mod route;
pub mod spec;
pub(crate) mod swarm;
mod tasks;
pub mod tokens;
pub mod version;
#[cfg(test)]
mod walk;

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use serde::Serialize;
use tracing::info;

use crate::ENGINE_VERSION;
use crate::backend::Backend;
use crate::caller::{Caller, Denied, Right};
use crate::clock::now;
use error::ApiError;
use query::Query;
use route::Route;
use version::{API_VERSION_MAX, ApiVersion};

/// Body of every answer: whole, or a stream of events.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;
/// What a handler gives back.
pub type Answer = Result<Response<AnswerBody>, ApiError>;

/// Splits `/v1.50/swarm` into version text and `/swarm`. Without a version part that looks like one, the path stays whole.
fn split_version(path: &str) -> (Option<&str>, &str) {
    let Some((version, rest)) = path.strip_prefix("/v").and_then(|tail| tail.find('/').map(|at| tail.split_at(at)))
    else {
        return (None, path);
    };
    let digits = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if digits { (Some(version), rest) } else { (None, path) }
}

/// Answers one request of `caller`. Never fails: what goes wrong becomes a status and a message.
///
/// A caller that may do nothing is refused whatever it asks, and the connection ends with that.
pub async fn serve<B>(backend: &Backend, caller: &Caller, request: Request<B>) -> Response<AnswerBody>
where
    B: Body,
    B::Error: std::fmt::Display,
{
    match caller.right(backend, now()) {
        Ok(right) => answer(backend, caller, right, request).await,
        Err(denied) => denied_answer(&denied),
    }
}

/// Answers a request of a caller with this right.
async fn answer<B>(backend: &Backend, caller: &Caller, right: Right, request: Request<B>) -> Response<AnswerBody>
where
    B: Body,
    B::Error: std::fmt::Display,
{
    let (parts, body) = request.into_parts();
    if parts.method == Method::OPTIONS {
        return with_headers(empty(StatusCode::OK));
    }
    let (version, path) = split_version(parts.uri.path());
    let Some(route) = Route::find(&parts.method, path) else {
        return ApiError::not_found("page not found").into_response();
    };
    if route.right() > right {
        return with_headers(ApiError::forbidden(not_for_viewers(caller)).into_response());
    }
    let answer = match version.map_or(Ok(API_VERSION_MAX), ApiVersion::accept) {
        Ok(version) => {
            let query = Query::parse(parts.uri.query().unwrap_or_default());
            let told = route.right() == Right::Admin || parts.method == Method::POST;
            let (method, path) = (parts.method.clone(), path.to_owned());
            let again = Again { backend, caller, needed: route.right() };
            let answer =
                dispatch(backend, caller, right, route, Call { version, query, head: parts, body, again }).await;
            if told {
                let status = answer.as_ref().map_or_else(|refused| refused.status, Response::status).as_u16();
                info!(%caller, %method, ?path, status, "a request that changes something, or shows a secret, was answered");
            }
            answer
        }
        Err(refused) => Err(refused),
    };
    with_headers(answer.unwrap_or_else(ApiError::into_response))
}

/// The answer to a caller that may do nothing: whatever it asked for, and then the connection closes.
fn denied_answer(denied: &Denied) -> Response<AnswerBody> {
    let mut answer = ApiError::forbidden(denied.to_string()).into_response();
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    with_headers(answer)
}

/// A refusal from before a request was looked at.
pub(crate) fn refused(refusal: ApiError) -> Response<AnswerBody> {
    with_headers(refusal.into_response())
}

fn not_for_viewers(caller: &Caller) -> String {
    match caller {
        Caller::Operator { name, .. } => {
            format!("this needs an administrator's certificate; yours ({name}) is a viewer's")
        }
        Caller::Socket { .. } | Caller::Plain { .. } | Caller::Tls { .. } => {
            "this needs an administrator's rights".to_owned()
        }
    }
}

/// One request, taken apart.
struct Call<'a, B> {
    version: ApiVersion,
    query: Query,
    head: http::request::Parts,
    body: B,
    again: Again<'a>,
}

/// What it takes to judge a caller again.
#[derive(Clone, Copy)]
struct Again<'a> {
    backend: &'a Backend,
    caller: &'a Caller,
    needed: Right,
}

impl Again<'_> {
    /// Judges the caller on a state that is not behind.
    async fn judge(self) -> Result<Right, ApiError> {
        self.backend.fresh().await?;
        let right = self.caller.right(self.backend, now()).map_err(|denied| ApiError::forbidden(denied.to_string()))?;
        if self.needed > right { Err(ApiError::forbidden(not_for_viewers(self.caller))) } else { Ok(right) }
    }
}

impl<B> Call<'_, B>
where
    B: Body,
    B::Error: std::fmt::Display,
{
    /// Reads the JSON body under the rules of engine-api.md 1.5; `None`: there is none.
    async fn json(self) -> Result<Option<body::Document>, ApiError> {
        let document = body::read_json(&self.head.headers, self.body).await?;
        // Whoever sends a body may take his time over it, and be an operator no more when it is there.
        if matches!(self.again.caller, Caller::Operator { .. }) {
            self.again.judge().await?;
        }
        Ok(document)
    }
}

async fn dispatch<B>(backend: &Backend, caller: &Caller, mut right: Right, route: Route, call: Call<'_, B>) -> Answer
where
    B: Body,
    B::Error: std::fmt::Display,
{
    if route.is_for_managers() {
        backend.manager_started().await;
    }
    // Judged again on a state that is not behind: a follower may have heard of a revocation only now. What a manager does to itself is no
    // exception for operators: whoever is to act on one that hears nobody comes by its socket.
    let of_operator = matches!(caller, Caller::Operator { .. }) && route.right() == Right::Admin;
    if route.is_for_managers() || of_operator {
        right = right.min(call.again.judge().await?);
    }
    match route {
        Route::Ping => Ok(ping::ping(backend, &call.head.method)),
        Route::Version => version::version(backend),
        Route::Info => info::info(backend, right).await,
        Route::Events => events::events(backend, right, &call.query),
        Route::SwarmInspect => swarm::inspect(backend, right),
        Route::SwarmInit => {
            let version = call.version;
            swarm::init(backend, version, call.json().await?).await
        }
        Route::SwarmJoin => swarm::join(backend, call.json().await?).await,
        Route::SwarmLeave => swarm::leave(backend, &call.query).await,
        Route::SwarmUpdate => {
            let query = call.query.clone();
            swarm::update(backend, &query, call.json().await?).await
        }
        Route::SwarmUnlockKey => swarm::unlock_key(backend).await,
        Route::SwarmUnlock => swarm::unlock(backend, call.json().await?).await,
        Route::Nodes => nodes::list(backend, &call.query),
        Route::Node(reference) => nodes::inspect(backend, &reference),
        Route::NodeUpdate(reference) => {
            let query = call.query.clone();
            nodes::update(backend, &reference, &query, call.json().await?).await
        }
        Route::NodeRemove(reference) => nodes::remove(backend, &reference, &call.query).await,
        Route::Tasks | Route::Services => tasks::none(backend),
        Route::Status => extra::status(backend),
        Route::NodesExtended => extra::nodes(backend),
        Route::Ca => extra::ca(backend),
        Route::CaStatus => rotation::status(backend),
        Route::CaRotate => rotation::rotate(backend, call.json().await?).await,
        Route::CaAbort => rotation::abort(backend, call.json().await?).await,
        Route::CaLog => issuance_log::page(backend, &call.query).await,
        Route::Log => log::page(backend, right, &call.query).await,
        Route::LogProve => log::prove(backend, &call.query).await,
        Route::LogConsistency => log::consistency(backend, &call.query).await,
        Route::LogHead => heads::head(backend, &call.query),
        Route::LogVerify => log::verify(backend, right, call.json().await?).await,
        Route::LogAudit => log::audit(backend, right, call.json().await?).await,
        Route::LogErase => log::erase(backend, call.json().await?).await,
        Route::Backup => backup::backup(backend, call.json().await?).await,
        Route::Restore => backup::restore(backend, call.body).await,
        Route::Renew => extra::renew(backend),
        Route::ManagerAt => extra::manager_at(backend, call.json().await?),
        Route::NodeAt => extra::node_at(backend, call.json().await?).await,
        Route::Revoke => revocation::revoke(backend, call.json().await?).await,
        Route::Revocations => revocation::page(backend, &call.query),
        Route::Crl => revocation::crl(backend, &call.query).await,
        Route::NodeRenew(reference) => nodes::order_renewal(backend, &reference).await,
        Route::Tokens => tokens::list(backend),
        Route::TokenCreate => tokens::create(backend, call.json().await?).await,
        Route::TokenRevoke(id) => tokens::revoke(backend, &id).await,
        Route::Operators => operators::list(backend),
        Route::OperatorIssue => operators::issue(backend, call.json().await?).await,
        Route::OperatorRenew => operators::renew(backend, caller, call.json().await?).await,
        Route::OperatorRevoke => operators::revoke(backend, call.json().await?).await,
    }
}

/// 200 with a JSON document and its final newline.
fn json<T: Serialize>(value: &T) -> Answer {
    let mut text = serde_json::to_vec(value).map_err(|error| ApiError::internal(error.to_string()))?;
    text.push(b'\n');
    let mut answer = Response::new(whole(text));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// An answer without body: status, `Content-Length: 0`, no Content-Type.
fn empty(status: StatusCode) -> Response<AnswerBody> {
    let mut answer = Response::new(whole(Vec::new()));
    *answer.status_mut() = status;
    // Said outright: the answer to a HEAD would go without.
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    answer
}

/// A body known as a whole.
fn whole(bytes: Vec<u8>) -> AnswerBody {
    Full::new(Bytes::from(bytes)).boxed_unsync()
}

/// Adds the headers every routed answer has (engine-api.md 1.2).
fn with_headers(mut answer: Response<AnswerBody>) -> Response<AnswerBody> {
    const SERVER: &str = const_format_server();
    let headers = answer.headers_mut();
    headers.insert(HeaderName::from_static("api-version"), HeaderValue::from_static(API_VERSION_MAX.text()));
    headers.insert(HeaderName::from_static("docker-experimental"), HeaderValue::from_static("false"));
    headers.insert(HeaderName::from_static("ostype"), HeaderValue::from_static("linux"));
    headers.insert(http::header::SERVER, HeaderValue::from_static(SERVER));
    answer
}

/// `Docker/<engine version> (linux)`: clients read the system from this form.
const fn const_format_server() -> &'static str {
    concat!("Docker/swarmpki-", env!("CARGO_PKG_VERSION"), " (linux)")
}
const _: () = assert!(const_format_server().len() == ENGINE_VERSION.len() + "Docker/ (linux)".len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_part_of_a_path() {
        let rows = [
            ("/v1.50/swarm", (Some("1.50"), "/swarm")),
            ("/swarm", (None, "/swarm")),
            ("/vfoo/swarm", (None, "/vfoo/swarm")),
            ("/v1.50", (None, "/v1.50")),
            ("/v/swarm", (None, "/v/swarm")),
            ("/version", (None, "/version")),
            ("/v1/version", (Some("1"), "/version")),
        ];
        for (path, expected) in rows {
            assert_eq!(split_version(path), expected, "{path}");
        }
    }
}
