//! Refusals of the Engine API: a status and a text (engine-api.md 2).

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};

use super::{AnswerBody, whole};

/// A refusal. Its text is what the command line prints after `Error response from daemon: `.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The text, exact where engine-api.md 2.1 lists it.
    pub message: String,
    /// Sent as `text/plain` with a final newline instead of JSON: for clients too old to read JSON errors.
    pub plain: bool,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), plain: false }
    }

    /// 400: the request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404: there is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 401: the key that was given does not open.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// 403: this caller may not.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// 409: not in this state of things.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    /// 503: all refusals that come from what this node is at present.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// 501: what this version does not do.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    /// 500: everything unclassified.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// The same refusal as plain text.
    pub fn as_plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// The answer, still without the headers of a routed one.
    pub(super) fn into_response(self) -> Response<AnswerBody> {
        let (bytes, kind) = if self.plain {
            (format!("{}\n", self.message).into_bytes(), "text/plain; charset=utf-8")
        } else {
            (format!("{}\n", serde_json::json!({ "message": self.message })).into_bytes(), "application/json")
        };
        let mut answer = Response::new(whole(bytes));
        *answer.status_mut() = self.status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        answer
    }
}
