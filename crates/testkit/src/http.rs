//! A request to an Engine API on a unix socket, without a client's help: what the stock command hides (statuses, headers, raw bodies) is seen here.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take; the engine's own limit for a join is 20 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);

/// An answer as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, in the order sent.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: String,
}

impl Answer {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// Sends one request and reads the whole answer. A body is sent as `application/json`.
///
/// # Errors
/// If nobody listens, the connection breaks, or the answer is no HTTP.
pub fn request(socket: &Path, method: &str, path: &str, body: Option<&str>) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    // HTTP/1.0: the body ends with the connection, nothing to decode.
    let mut text = format!("{method} {path} HTTP/1.0\r\nHost: api.moby.localhost\r\n");
    if let Some(body) = body {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += body.unwrap_or_default();
    stream.write_all(text.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| std::io::Error::other("not an HTTP answer"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .map(|line| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())))
        .collect::<Option<Vec<_>>>()?;
    Some(Answer { status, headers, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer =
            parse("HTTP/1.0 503 Service Unavailable\r\nApi-Version: 1.41\r\nX: a: b\r\n\r\n{\"message\":\"no\"}\n")
                .unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.header("api-version"), Some("1.41"));
        assert_eq!(answer.header("x"), Some("a: b"));
        assert_eq!(answer.json()["message"], "no");
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in
            ["", "HTTP/1.1 200 OK", "SSH-2.0\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
