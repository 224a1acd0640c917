//! Request bodies: one JSON document, under the rules of engine-api.md 1.5. Some hold keys and tokens: all are wiped after use.

use std::time::Duration;

use bytes::Buf;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::error::ApiError;

/// Largest body read, in bytes. No request of the swarm API comes near it.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// How long a body may take from its request's head to its end.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// A request's JSON document; its texts are wiped when it is dropped.
pub struct Document(Value);

impl Document {
    /// Takes a document over.
    pub fn new(value: Value) -> Self {
        Self(value)
    }

    /// The document.
    pub fn value(&self) -> &Value {
        &self.0
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// The reader of JSON bounds how deep this goes.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(list) => list.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Reads the document; `None` if there is no body, which equals the zero value of the type.
pub async fn read_json<B>(headers: &HeaderMap, body: B) -> Result<Option<Document>, ApiError>
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
        Ok(collected) => {
            let mut frames = collected.aggregate();
            let mut bytes = Zeroizing::new(vec![0; frames.remaining()]);
            frames.copy_to_slice(&mut bytes);
            bytes
        }
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(ApiError::bad_request(format!("request body is larger than {BODY_BYTES_MAX} bytes")));
        }
        Err(error) => return Err(ApiError::bad_request(format!("invalid JSON: {error}"))),
    };
    parse(&bytes).map(|value| Some(Document(value)))
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
        let read = read_json(&headers, Full::new(Bytes::copy_from_slice(body.as_bytes()))).await;
        read.map(|document| document.map(|document| document.value().clone())).map_err(|error| error.message)
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

    #[test]
    fn every_text_is_wiped() {
        let mut value = serde_json::json!({"key": "secret", "list": ["secret", {"deep": "secret"}], "number": 1});
        wipe(&mut value);
        assert_eq!(value, serde_json::json!({"key": "", "list": ["", {"deep": ""}], "number": 1}));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let begun = tokio::time::Instant::now();
        let frames = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, std::convert::Infallible>>();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        let refused = read_json(&headers, StreamBody::new(frames)).await.err().unwrap();
        assert_eq!(refused.message, "request body did not come within 30 seconds");
        assert_eq!(begun.elapsed(), BODY_TIME_MAX);
    }

    #[tokio::test]
    async fn empty_chunked_body_is_refused() {
        let frames = futures::stream::empty::<Result<hyper::body::Frame<Bytes>, std::convert::Infallible>>();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        let refused = read_json(&headers, StreamBody::new(frames)).await.err().unwrap();
        assert_eq!(refused.message, "invalid JSON: got EOF while reading request body");
    }
}
