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
use error::ApiError;
use query::Query;
use version::{API_VERSION_MAX, ApiVersion};

/// Body of every answer: whole, or a stream of events.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;
/// What a handler gives back.
pub type Answer = Result<Response<AnswerBody>, ApiError>;

/// What was asked for, once path and method are known to be one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Ping,
    Version,
    Info,
    Events,
    SwarmInspect,
    SwarmInit,
    SwarmJoin,
    SwarmLeave,
    SwarmUpdate,
    SwarmUnlockKey,
    SwarmUnlock,
    Nodes,
    Node(String),
    NodeUpdate(String),
    NodeRemove(String),
    Tasks,
    Services,
    Status,
    NodesExtended,
    Ca,
    CaLog,
    Log,
    LogProve,
    LogConsistency,
    LogVerify,
    LogAudit,
    LogErase,
    CaStatus,
    CaRotate,
    CaAbort,
    Renew,
    Backup,
    Restore,
    NodeRenew(String),
    Tokens,
    TokenCreate,
    TokenRevoke(String),
    Operators,
    OperatorIssue,
    OperatorRenew,
    OperatorRevoke,
    Revoke,
    Revocations,
    Crl,
}

impl Route {
    /// Finds the route of a path without its version. Wrong method, trailing slash and unknown path are all `None`.
    fn find(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let get = method == Method::GET;
        let post = method == Method::POST;
        let delete = method == Method::DELETE;
        Some(match segments.as_slice() {
            ["_ping"] if get || method == Method::HEAD => Self::Ping,
            ["version"] if get => Self::Version,
            ["info"] if get => Self::Info,
            ["events"] if get => Self::Events,
            ["swarm"] if get => Self::SwarmInspect,
            ["swarm", "init"] if post => Self::SwarmInit,
            ["swarm", "join"] if post => Self::SwarmJoin,
            ["swarm", "leave"] if post => Self::SwarmLeave,
            ["swarm", "update"] if post => Self::SwarmUpdate,
            ["swarm", "unlockkey"] if get => Self::SwarmUnlockKey,
            ["swarm", "unlock"] if post => Self::SwarmUnlock,
            ["nodes"] if get => Self::Nodes,
            ["nodes", reference] if get => Self::Node(segment(reference)?),
            ["nodes", reference] if delete => Self::NodeRemove(segment(reference)?),
            ["nodes", reference, "update"] if post => Self::NodeUpdate(segment(reference)?),
            ["tasks"] if get => Self::Tasks,
            ["services"] if get => Self::Services,
            ["swarmpki", "v1", "status"] if get => Self::Status,
            ["swarmpki", "v1", "nodes"] if get => Self::NodesExtended,
            ["swarmpki", "v1", "ca"] if get => Self::Ca,
            ["swarmpki", "v1", "ca", "log"] if get => Self::CaLog,
            ["swarmpki", "v1", "ca", "status"] if get => Self::CaStatus,
            ["swarmpki", "v1", "log"] if get => Self::Log,
            ["swarmpki", "v1", "log", "prove"] if get => Self::LogProve,
            ["swarmpki", "v1", "log", "consistency"] if get => Self::LogConsistency,
            ["swarmpki", "v1", "log", "verify"] if post => Self::LogVerify,
            ["swarmpki", "v1", "log", "audit"] if post => Self::LogAudit,
            ["swarmpki", "v1", "log", "erase"] if post => Self::LogErase,
            ["swarmpki", "v1", "ca", "rotate"] if post => Self::CaRotate,
            ["swarmpki", "v1", "ca", "abort"] if post => Self::CaAbort,
            ["swarmpki", "v1", "backup"] if post => Self::Backup,
            ["swarmpki", "v1", "restore"] if post => Self::Restore,
            ["swarmpki", "v1", "tokens"] if get => Self::Tokens,
            ["swarmpki", "v1", "tokens"] if post => Self::TokenCreate,
            ["swarmpki", "v1", "tokens", id] if delete => Self::TokenRevoke(segment(id)?),
            ["swarmpki", "v1", "revoke"] if post => Self::Revoke,
            ["swarmpki", "v1", "revocations"] if get => Self::Revocations,
            ["swarmpki", "v1", "crl"] if get => Self::Crl,
            ["swarmpki", "v1", "renew"] if post => Self::Renew,
            ["swarmpki", "v1", "nodes", reference, "renew"] if post => Self::NodeRenew(segment(reference)?),
            ["swarmpki", "v1", "operators"] if get => Self::Operators,
            ["swarmpki", "v1", "operators"] if post => Self::OperatorIssue,
            ["swarmpki", "v1", "operators", "renew"] if post => Self::OperatorRenew,
            ["swarmpki", "v1", "operators", "revoke"] if post => Self::OperatorRevoke,
            _ => return None,
        })
    }
}

impl Route {
    /// Whether only a manager answers it: one that is just starting is waited for.
    const fn is_for_managers(&self) -> bool {
        match self {
            Self::Ping
            | Self::Version
            | Self::Info
            | Self::Events
            | Self::SwarmInit
            | Self::SwarmJoin
            | Self::SwarmLeave
            | Self::SwarmUnlock
            | Self::Status
            | Self::Restore
            | Self::Renew => false,
            Self::SwarmInspect
            | Self::SwarmUpdate
            | Self::SwarmUnlockKey
            | Self::Nodes
            | Self::Node(_)
            | Self::NodeUpdate(_)
            | Self::NodeRemove(_)
            | Self::Tasks
            | Self::Services
            | Self::NodesExtended
            | Self::Ca
            | Self::CaLog
            | Self::Log
            | Self::LogProve
            | Self::LogConsistency
            | Self::LogVerify
            | Self::LogAudit
            | Self::LogErase
            | Self::CaStatus
            | Self::CaRotate
            | Self::CaAbort
            | Self::Backup
            | Self::Revoke
            | Self::Revocations
            | Self::Crl
            | Self::NodeRenew(_)
            | Self::Tokens
            | Self::TokenCreate
            | Self::TokenRevoke(_)
            | Self::Operators
            | Self::OperatorIssue
            | Self::OperatorRenew
            | Self::OperatorRevoke => true,
        }
    }
}

impl Route {
    /// What a caller needs to be answered. What is not said to be for viewers is for administrators.
    const fn right(&self) -> Right {
        match self {
            Self::Ping
            | Self::Version
            | Self::Info
            | Self::Events
            | Self::SwarmInspect
            | Self::Nodes
            | Self::Node(_)
            | Self::Tasks
            | Self::Services
            | Self::Status
            | Self::NodesExtended
            | Self::Ca
            | Self::CaLog
            | Self::Log
            | Self::LogProve
            | Self::LogConsistency
            | Self::CaStatus
            | Self::Revocations
            | Self::Crl
            | Self::Tokens
            | Self::OperatorRenew => Right::Viewer,
            Self::SwarmInit
            | Self::SwarmJoin
            | Self::SwarmLeave
            | Self::SwarmUpdate
            | Self::SwarmUnlockKey
            | Self::SwarmUnlock
            | Self::NodeUpdate(_)
            | Self::NodeRemove(_)
            | Self::CaRotate
            | Self::CaAbort
            // Each reads all of it.
            | Self::LogVerify
            | Self::LogAudit
            | Self::LogErase
            | Self::Renew
            | Self::Backup
            | Self::Restore
            | Self::Revoke
            | Self::NodeRenew(_)
            | Self::TokenCreate
            | Self::TokenRevoke(_)
            | Self::Operators
            | Self::OperatorIssue
            | Self::OperatorRevoke => Right::Admin,
        }
    }
}

/// A variable path segment, percent-decoded; `None` if empty.
fn segment(raw: &str) -> Option<String> {
    (!raw.is_empty()).then(|| query::percent_decode(raw, false))
}

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

fn now() -> pki::time::Time {
    pki::time::Time::from(std::time::SystemTime::now())
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
        Route::LogVerify => log::verify(backend).await,
        Route::LogAudit => log::audit(backend, call.json().await?).await,
        Route::LogErase => log::erase(backend, call.json().await?).await,
        Route::Backup => backup::backup(backend, call.json().await?).await,
        Route::Restore => backup::restore(backend, call.body).await,
        Route::Renew => extra::renew(backend),
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
    fn routes() {
        let rows = [
            ("GET", "/_ping", Some(Route::Ping)),
            ("HEAD", "/_ping", Some(Route::Ping)),
            ("HEAD", "/info", None),
            ("PUT", "/swarm", None),
            ("GET", "/swarm/", None),
            ("GET", "/swarm/init", None),
            ("POST", "/swarm/init", Some(Route::SwarmInit)),
            ("GET", "/nodes", Some(Route::Nodes)),
            ("GET", "/nodes/", None),
            ("GET", "/nodes/a%20b", Some(Route::Node("a b".into()))),
            ("DELETE", "/nodes/a", Some(Route::NodeRemove("a".into()))),
            ("POST", "/nodes/a/update", Some(Route::NodeUpdate("a".into()))),
            ("GET", "/nodes/a/update", None),
            ("GET", "/nosuch", None),
            ("GET", "/swarmpki/v1/status", Some(Route::Status)),
            ("GET", "/swarmpki/v1/ca/log", Some(Route::CaLog)),
            ("GET", "/swarmpki/v1/log", Some(Route::Log)),
            ("POST", "/swarmpki/v1/log", None),
            ("GET", "/swarmpki/v1/log/prove", Some(Route::LogProve)),
            ("GET", "/swarmpki/v1/log/consistency", Some(Route::LogConsistency)),
            ("POST", "/swarmpki/v1/log/verify", Some(Route::LogVerify)),
            ("POST", "/swarmpki/v1/log/audit", Some(Route::LogAudit)),
            ("POST", "/swarmpki/v1/log/erase", Some(Route::LogErase)),
            ("GET", "/swarmpki/v1/log/erase", None),
            ("GET", "/swarmpki/v1/ca", Some(Route::Ca)),
            ("GET", "/swarmpki/v1/ca/status", Some(Route::CaStatus)),
            ("POST", "/swarmpki/v1/ca/rotate", Some(Route::CaRotate)),
            ("GET", "/swarmpki/v1/ca/rotate", None),
            ("POST", "/swarmpki/v1/ca/abort", Some(Route::CaAbort)),
            ("POST", "/swarmpki/v1/renew", Some(Route::Renew)),
            ("POST", "/swarmpki/v1/nodes/x/renew", Some(Route::NodeRenew("x".into()))),
            ("GET", "/swarmpki/v1/nodes/x/renew", None),
            ("GET", "/swarmpki/v1/renew", None),
            ("GET", "/swarmpki/v1/tokens", Some(Route::Tokens)),
            ("POST", "/swarmpki/v1/tokens", Some(Route::TokenCreate)),
            ("DELETE", "/swarmpki/v1/tokens/2", Some(Route::TokenRevoke("2".into()))),
            ("GET", "/swarmpki/v1/tokens/2", None),
            ("GET", "/swarmpki/v1/operators", Some(Route::Operators)),
            ("POST", "/swarmpki/v1/operators", Some(Route::OperatorIssue)),
            ("POST", "/swarmpki/v1/operators/renew", Some(Route::OperatorRenew)),
            ("POST", "/swarmpki/v1/operators/revoke", Some(Route::OperatorRevoke)),
            ("GET", "/swarmpki/v1/operators/x", None),
            ("POST", "/swarmpki/v1/revoke", Some(Route::Revoke)),
            ("GET", "/swarmpki/v1/revoke", None),
            ("GET", "/swarmpki/v1/revocations", Some(Route::Revocations)),
            ("GET", "/swarmpki/v1/crl", Some(Route::Crl)),
        ];
        for (method, path, expected) in rows {
            let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
            assert_eq!(Route::find(&method, path), expected, "{method} {path}");
        }
    }

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
