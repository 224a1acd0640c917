//! `/_ping`: the first request of every command (engine-api.md 1.3).

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, PRAGMA};
use http::{Method, Response, StatusCode};

use super::{AnswerBody, empty, whole};
use crate::backend::Backend;

pub(super) fn ping(backend: &Backend, method: &Method) -> Response<AnswerBody> {
    let mut answer = if method == Method::HEAD { empty(StatusCode::OK) } else { Response::new(whole(b"OK".to_vec())) };
    let headers = answer.headers_mut();
    headers.insert(HeaderName::from_static("builder-version"), HeaderValue::from_static("2"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(HeaderName::from_static("swarm"), HeaderValue::from_static(backend.present().ping_word()));
    answer
}
