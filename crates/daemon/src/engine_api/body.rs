//! Request bodies: one JSON document, under the rules of engine-api.md 1.5.

use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde_json::Value;

use super::error::ApiError;

/// Largest body read, in bytes. No request of the swarm API comes near it.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// How long a body may take from its request's head to its end.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// Reads the document; `None` if there is no body, which equals the zero value of the type.
pub async fn read_json<B>(headers: &HeaderMap, body: B) -> Result<Option<Value>, ApiError>
where
    B: Body,
    B::Error: std::fmt::Display,
{
    let none = body.size_hint().exact() == Some(0);
    let content_type = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if !(none && content_type.is_none()) {
        check_content_type(content_type.as_deref().unwrap_or_default())?;
    }
    if none {
        return Ok(None);
    }
    let body = body.map_err(|error| error.to_string());
    let read = tokio::time::timeout(BODY_TIME_MAX, Limited::new(body, BODY_BYTES_MAX).collect());
    let Ok(read) = read.await else {
        let seconds = BODY_TIME_MAX.as_secs();
        return Err(ApiError::bad_request(format!("request body did not come within {seconds} seconds")));
    };
    let bytes = match read {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(ApiError::bad_request(format!("request body is larger than {BODY_BYTES_MAX} bytes")));
        }
        Err(error) => return Err(ApiError::bad_request(format!("invalid JSON: {error}"))),
    };
    parse(&bytes).map(Some)
}

/// One document and nothing after it.
pub fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let value = match documents.next() {
        None => return Err(ApiError::bad_request("invalid JSON: got EOF while reading request body")),
        Some(Ok(value)) => value,
        Some(Err(error)) if error.is_eof() => return Err(ApiError::bad_request("invalid JSON: unexpected EOF")),
        Some(Err(error)) => return Err(ApiError::bad_request(format!("invalid JSON: {error}"))),
    };
    let rest = bytes.get(documents.byte_offset()..).unwrap_or_default();
    if rest.iter().all(u8::is_ascii_whitespace) {
        Ok(value)
    } else {
        Err(ApiError::bad_request("unexpected content after JSON"))
    }
}

fn check_content_type(given: &str) -> Result<(), ApiError> {
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.is_empty() {
        return Err(ApiError::bad_request(format!("malformed Content-Type header ({given}): mime: no media type")));
    }
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::bad_request(format!("unsupported Content-Type header ({given}): must be 'application/json'")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use bytes::Bytes;
    use http_body_util::{Full, StreamBody};

    async fn read(content_type: Option<&str>, body: &str) -> Result<Option<Value>, String> {
        let mut headers = HeaderMap::new();
        if let Some(kind) = content_type {
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        }
        read_json(&headers, Full::new(Bytes::copy_from_slice(body.as_bytes()))).await.map_err(|error| error.message)
    }

    #[tokio::test]
    async fn bodies() {
        let json = Some("application/json");
        type Row = (Option<&'static str>, &'static str, Result<Option<Value>, &'static str>);
        let rows: [Row; 11] = [
            (None, "", Ok(None)),
            (json, "", Ok(None)),
            (json, "{}", Ok(Some(serde_json::json!({})))),
            (Some("application/json; charset=utf-8"), " {} \n", Ok(Some(serde_json::json!({})))),
            (Some("Application/JSON"), "null", Ok(Some(Value::Null))),
            (None, "{}", Err("malformed Content-Type header (): mime: no media type")),
            (Some("text/plain"), "{}", Err("unsupported Content-Type header (text/plain): must be 'application/json'")),
            (json, "{\"a\":", Err("invalid JSON: unexpected EOF")),
            (json, "  ", Err("invalid JSON: got EOF while reading request body")),
            (json, "{} {}", Err("unexpected content after JSON")),
            (json, "{}x", Err("unexpected content after JSON")),
        ];
        for (content_type, body, expected) in rows {
            assert_eq!(read(content_type, body).await, expected.map_err(str::to_owned), "{content_type:?} {body:?}");
        }
        assert!(read(json, "{x").await.unwrap_err().starts_with("invalid JSON: "));
        assert!(read(json, &"x".repeat(BODY_BYTES_MAX + 1)).await.unwrap_err().contains("larger than"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let begun = tokio::time::Instant::now();
        let frames = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, std::convert::Infallible>>();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        let refused = read_json(&headers, StreamBody::new(frames)).await.unwrap_err();
        assert_eq!(refused.message, "request body did not come within 30 seconds");
        assert_eq!(begun.elapsed(), BODY_TIME_MAX);
    }

    #[tokio::test]
    async fn empty_chunked_body_is_refused() {
        let frames = futures::stream::empty::<Result<hyper::body::Frame<Bytes>, std::convert::Infallible>>();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        let refused = read_json(&headers, StreamBody::new(frames)).await.unwrap_err();
        assert_eq!(refused.message, "invalid JSON: got EOF while reading request body");
    }
}
