//! `GET /version`, and which API versions are spoken (engine-api.md 1.1).

use serde_json::json;

use super::error::ApiError;
use super::{Answer, json as answer_json};
use crate::ENGINE_VERSION;
use crate::backend::Backend;

/// Highest version spoken and announced: that of the stock command line 28.2.
pub const API_VERSION_MAX: ApiVersion = ApiVersion { minor: 50 };
/// Lowest version accepted; below it stand clients that read errors as plain text only.
pub const API_VERSION_MIN: ApiVersion = ApiVersion { minor: 24 };

/// An accepted version of the API: `1.<minor>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    minor: u32,
}

impl ApiVersion {
    /// From which version on the address pool of an init counts (engine-api.md 6.3).
    pub const ADDRESS_POOL: Self = Self { minor: 39 };
    /// From which version on the data path port of an init counts (engine-api.md 6.3).
    pub const DATA_PATH_PORT: Self = Self { minor: 40 };

    /// The text announced; only the two bounds are ever printed.
    pub(super) const fn text(self) -> &'static str {
        if self.minor == API_VERSION_MIN.minor { "1.24" } else { "1.50" }
    }

    /// Accepts the version part of a path (`[0-9.]+`), or says why not, in the engine's words.
    pub fn accept(text: &str) -> Result<Self, ApiError> {
        let parts: Vec<u32> =
            text.split('.').map(|part| part.parse().unwrap_or(if part.is_empty() { 0 } else { u32::MAX })).collect();
        let numbers = |version: Self| vec![1, version.minor];
        if compare(&parts, &numbers(API_VERSION_MAX)).is_gt() {
            let max = API_VERSION_MAX.text();
            return Err(ApiError::bad_request(format!(
                "client version {text} is too new. Maximum supported API version is {max}"
            )));
        }
        if compare(&parts, &numbers(API_VERSION_MIN)).is_lt() {
            let min = API_VERSION_MIN.text();
            return Err(ApiError::bad_request(format!(
                "client version {text} is too old. Minimum supported API version is {min}, please upgrade your client to a newer version"
            ))
            .as_plain());
        }
        Ok(Self { minor: parts.get(1).copied().unwrap_or_default() })
    }
}

const _: () = assert!(API_VERSION_MIN.minor == 24 && API_VERSION_MAX.minor == 50, "text() prints these two");

/// Compares dotted numbers; missing parts are zero.
fn compare(left: &[u32], right: &[u32]) -> std::cmp::Ordering {
    let part = |parts: &[u32], at: usize| parts.get(at).copied().unwrap_or_default();
    (0..left.len().max(right.len()))
        .map(|at| part(left, at).cmp(&part(right, at)))
        .find(|order| order.is_ne())
        .unwrap_or(std::cmp::Ordering::Equal)
}

/// `GET /version` (engine-api.md 6.1).
pub(super) fn version(backend: &Backend) -> Answer {
    let machine = backend.machine();
    let (max, min) = (API_VERSION_MAX.text(), API_VERSION_MIN.text());
    let arch = machine.go_architecture();
    answer_json(&json!({
        "Platform": { "Name": "swarmpki" },
        "Version": ENGINE_VERSION,
        "ApiVersion": max,
        "MinAPIVersion": min,
        "Os": "linux",
        "Arch": arch,
        "KernelVersion": machine.kernel,
        "GitCommit": "",
        "GoVersion": "",
        "BuildTime": "",
        "Components": [{
            "Name": "Engine",
            "Version": ENGINE_VERSION,
            "Details": {
                "ApiVersion": max,
                "MinAPIVersion": min,
                "Arch": arch,
                "Os": "linux",
                "KernelVersion": machine.kernel,
                "Experimental": "false",
                "GitCommit": "",
                "GoVersion": "",
                "BuildTime": "",
            },
        }],
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn accepted_and_refused() {
        for (text, minor) in [("1.24", 24), ("1.41", 41), ("1.50", 50), ("1.50.0", 50)] {
            assert_eq!(ApiVersion::accept(text).unwrap(), ApiVersion { minor }, "{text}");
        }
        for text in ["1.99", "1.51", "2.0", "1.50.1", "99999999999.1"] {
            let refused = ApiVersion::accept(text).unwrap_err();
            assert_eq!(
                refused.message,
                format!("client version {text} is too new. Maximum supported API version is 1.50")
            );
            assert!(!refused.plain);
        }
        for text in ["1.20", "1", "0.9", "."] {
            let refused = ApiVersion::accept(text).unwrap_err();
            let expected = format!(
                "client version {text} is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
            );
            assert_eq!((refused.message, refused.plain), (expected, true));
        }
    }
}
