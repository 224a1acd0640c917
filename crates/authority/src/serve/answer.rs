//! One request, one answer: HTTP around [`Authority`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cfssl::message::{Answer, INFO_PATH, MEDIA_TYPE, SIGN_PATH, SignResult};
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;

use crate::authority::{Authority, Caller};
use crate::refusal::Refusal;

/// Bytes of a request's body. An engine's has about 1,000, with an RSA-4096 key 2,500.
pub(super) const BODY_BYTES_MAX: usize = 64 * 1024;
/// Time for a request's body to come.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Answers a caller.
pub(super) async fn answer(
    authority: &Arc<Authority>,
    caller: &Caller,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (outcome, is_said) = match authority.admit(caller) {
        Ok(()) => (carry_out(authority, caller, request).await, false),
        Err(refusal) => (Err(refusal), true),
    };
    match outcome {
        Ok((word, body)) => {
            authority.metrics.count(word);
            response(StatusCode::OK, body)
        }
        Err(refusal) => {
            let peer = &caller.peer;
            let addr = caller.address;
            if refusal == Refusal::TooFast || is_said || refusal.is_of_caller() {
                tracing::debug!(node = %peer.subject.node, %addr, reason = refusal.word(), "refused");
            } else {
                tracing::warn!(
                    node = %peer.subject.node, cluster = %peer.subject.cluster, serial = %peer.serial, %addr,
                    reason = refusal.word(), %refusal, "refused"
                );
            }
            refused(authority, &refusal)
        }
    }
}

/// Tells a caller why it is refused.
pub(super) fn refused(authority: &Authority, refusal: &Refusal) -> Response<Full<Bytes>> {
    authority.metrics.count(refusal.word());
    let body = json(&Answer::<SignResult>::failure(refusal.code(), refusal.to_string()));
    let mut response = response(refusal.status(), body);
    match refusal {
        Refusal::Method => response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST")),
        Refusal::TooFast | Refusal::Busy => response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1")),
        _ => None,
    };
    response
}

/// The outcome's word, and the body.
async fn carry_out(
    authority: &Arc<Authority>,
    caller: &Caller,
    request: Request<Incoming>,
) -> Result<(&'static str, Vec<u8>), Refusal> {
    let is_sign = match request.uri().path() {
        SIGN_PATH => true,
        INFO_PATH => false,
        _ => return Err(Refusal::Path),
    };
    if request.method() != Method::POST {
        return Err(Refusal::Method);
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let body = match tokio::time::timeout(BODY_WITHIN, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Refusal::TooLarge(BODY_BYTES_MAX)),
        Ok(Err(error)) => return Err(Refusal::Malformed(error.to_string())),
        Err(_) => return Err(Refusal::TooSlow(BODY_WITHIN)),
    };
    if is_sign {
        let certificate = authority.sign(caller, &body).await?;
        Ok(("issued", json(&Answer::success(SignResult { certificate }))))
    } else {
        Ok(("info", json(&Answer::success(authority.info(caller, &body)?))))
    }
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    // Serializing strings and numbers into memory does not fail.
    serde_json::to_vec(answer).unwrap_or_default()
}

fn response(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// Answers whoever asks for the counters.
pub(super) fn metrics(authority: &Authority, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/metrics" {
        let mut response = Response::new(Full::new(Bytes::from_static(b"there is /metrics here\n")));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    let mut response = Response::new(Full::new(Bytes::from(authority.metrics_text())));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
