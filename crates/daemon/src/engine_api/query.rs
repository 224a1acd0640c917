//! Query parameters, and the two ways the engine reads a boolean (engine-api.md 1.5).

use super::error::ApiError;

/// The query of one request, decoded; the first value of a name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=1&b=2`. What is not well-formed percent encoding is taken as it stands.
    pub fn parse(raw: &str) -> Self {
        Self(
            raw.split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(name, true), percent_decode(value, true))
                })
                .collect(),
        )
    }

    /// The value of `name`; empty if absent.
    pub fn value(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// `force` and the like: anything but empty, `0`, `no`, `false`, `none` (any case, trimmed) is true.
    pub fn lenient_bool(&self, name: &str) -> bool {
        let value = self.value(name).trim().to_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// The rotate parameters: one of Go's words for a boolean, or empty for false; else 400.
    pub fn strict_bool(&self, name: &str) -> Result<bool, ApiError> {
        match self.value(name) {
            "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            raw => Err(ApiError::bad_request(format!("invalid value for {name}: {raw}"))),
        }
    }

    /// `version` of an update of `what` ("swarm", "node"): a u64, else 400 in the engine's words.
    pub fn object_version(&self, what: &str) -> Result<u64, ApiError> {
        let raw = self.value("version");
        let refused = |reason: &str| {
            ApiError::bad_request(format!(
                "invalid {what} version '{raw}': strconv.ParseUint: parsing {raw:?}: {reason}"
            ))
        };
        if raw.is_empty() || !raw.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused("invalid syntax"));
        }
        raw.parse().map_err(|_| refused("value out of range"))
    }
}

/// Decodes `%XX` (and `+` in queries). Broken escapes stay as they are; what is not UTF-8 is replaced.
pub(crate) fn percent_decode(raw: &str, plus: bool) -> String {
    let bytes = raw.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = (byte == b'%').then(|| hex(bytes.get(at + 1..at + 3)?)).flatten();
        match escaped {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(if plus && byte == b'+' { b' ' } else { byte });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex(pair: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(pair).ok()?;
    text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u8::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("filters=%7B%22a%22%3A1%7D&x=a+b&bad=%zz&x=2&flag");
        assert_eq!(query.value("filters"), "{\"a\":1}");
        assert_eq!(query.value("x"), "a b");
        assert_eq!(query.value("bad"), "%zz");
        assert_eq!(query.value("flag"), "");
        assert_eq!(query.value("none"), "");
    }

    #[test]
    fn booleans() {
        for (raw, expected) in [
            ("", false),
            ("0", false),
            ("no", false),
            ("False", false),
            (" NONE ", false),
            ("1", true),
            ("yes", true),
            ("x", true),
        ] {
            let query = Query(vec![("force".into(), raw.into())]);
            assert_eq!(query.lenient_bool("force"), expected, "{raw:?}");
        }
        for (raw, expected) in
            [("", Some(false)), ("T", Some(true)), ("False", Some(false)), ("tRUE", None), ("2", None), ("maybe", None)]
        {
            let query = Query(vec![("rotateWorkerToken".into(), raw.into())]);
            assert_eq!(query.strict_bool("rotateWorkerToken").ok(), expected, "{raw:?}");
        }
        let refused = Query::parse("rotateManagerToken=2").strict_bool("rotateManagerToken").unwrap_err();
        assert_eq!(refused.message, "invalid value for rotateManagerToken: 2");
    }

    #[test]
    fn versions() {
        let text =
            |raw: &str| Query::parse(&format!("version={raw}")).object_version("swarm").map_err(|error| error.message);
        assert_eq!(text("301"), Ok(301));
        assert_eq!(text(""), Err("invalid swarm version '': strconv.ParseUint: parsing \"\": invalid syntax".into()));
        assert_eq!(
            text("-1"),
            Err("invalid swarm version '-1': strconv.ParseUint: parsing \"-1\": invalid syntax".into())
        );
        assert_eq!(
            text("99999999999999999999"),
            Err("invalid swarm version '99999999999999999999': strconv.ParseUint: parsing \"99999999999999999999\": value out of range".into())
        );
    }
}
