//! Why a URL gave no certificate, and why a whole request failed. The texts are those of pki.md 11.3.

use std::time::Duration;

use crate::address::InvalidUrl;
use crate::hostile::Hostile;

/// Why one URL gave no certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// The URL cannot be asked at all.
    #[error("{0}")]
    InvalidUrl(#[from] InvalidUrl),
    /// It failed before and is left alone for a while.
    #[error("unable to perform certificate signing request: not asked for another {} ms after: {last}", .wait.as_millis())]
    Open {
        /// How long still.
        wait: Duration,
        /// What it failed with.
        last: String,
    },
    /// No connection, or it broke before an answer began: name lookup, TCP, TLS.
    #[error("unable to perform certificate signing request: Post {url:?}: {text}")]
    Unreachable {
        /// The URL.
        url: String,
        /// What went wrong.
        text: String,
    },
    /// No whole answer in time.
    #[error("unable to perform certificate signing request: Post {url:?}: context deadline exceeded (no answer within {} ms)", .limit.as_millis())]
    Timeout {
        /// The URL.
        url: String,
        /// The time it had.
        limit: Duration,
    },
    /// Another URL, asked later, answered first.
    #[error(
        "unable to perform certificate signing request: Post {url:?}: another URL that was asked later answered first"
    )]
    Outrun {
        /// The URL.
        url: String,
    },
    /// The answer broke off.
    #[error("unable to read CSR response body: {0}")]
    Body(String),
    /// A redirection, which is never followed.
    #[error("unexpected status code in CSR response: {status} - redirected to {location:?}, which is not followed")]
    Redirect {
        /// The HTTP status.
        status: u16,
        /// Where to.
        location: String,
    },
    /// Another HTTP status than 200.
    #[error("unexpected status code in CSR response: {status} - {body}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of what came with it.
        body: String,
    },
    /// The answer is encoded although nobody asked for that. It is not decoded.
    #[error("unable to parse JSON response: the answer is encoded as {0:?}")]
    Encoded(String),
    /// The answer is longer than the bound; the connection was dropped.
    #[error("unable to parse JSON response: the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The answer is no JSON, or not CFSSL's.
    #[error("unable to parse JSON response: {0}")]
    Json(String),
    /// The CA says no, and why.
    #[error("response errors: {0}")]
    Refused(String),
    /// The CA says no.
    #[error("certificate signing request failed")]
    RefusedWithoutReason,
    /// The result is no object.
    #[error("invalid result type: {0}")]
    ResultType(&'static str),
    /// The certificate is no string.
    #[error("invalid result certificate field type: {0}")]
    CertificateType(&'static str),
    /// The answer must not be believed.
    #[error(transparent)]
    Hostile(#[from] Hostile),
}

impl Reason {
    /// The kind, in words with hyphens; that of the [`Hostile`] if it is one.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Reason::InvalidUrl(_) => "invalid-url",
            Reason::Open { .. } => "left-alone",
            Reason::Unreachable { .. } => "unreachable",
            Reason::Timeout { .. } => "timeout",
            Reason::Outrun { .. } => "outrun",
            Reason::Body(_) => "broken-off",
            Reason::Redirect { .. } => "redirect",
            Reason::Status { .. } => "status",
            Reason::Encoded(_) => "encoded",
            Reason::TooLong(_) => "too-long",
            Reason::Json(_) => "not-json",
            Reason::Refused(_) | Reason::RefusedWithoutReason => "refused",
            Reason::ResultType(_) | Reason::CertificateType(_) => "result-type",
            Reason::Hostile(hostile) => hostile.name(),
        }
    }

    /// Whether asking again later can help (pki.md 11.3). A CA that answered "no" to this request says it again.
    #[must_use]
    pub const fn is_recoverable(&self) -> bool {
        !matches!(
            self,
            Reason::Refused(_) | Reason::RefusedWithoutReason | Reason::ResultType(_) | Reason::CertificateType(_)
        )
    }

    /// The hostility, if it is one: for the alarm `hostile-ca`.
    #[must_use]
    pub const fn hostile(&self) -> Option<&Hostile> {
        match self {
            Reason::Hostile(hostile) => Some(hostile),
            _ => None,
        }
    }
}

/// A URL and why it gave no certificate.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct UrlFailure {
    /// The URL as configured.
    pub url: String,
    /// Why.
    pub reason: Reason,
}

/// No URL gave a certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignFailure {
    /// Whether asking again later can help: true unless every URL said no to this very request.
    pub recoverable: bool,
    /// What each URL failed with, in the order in which they failed. Empty if there are no URLs.
    pub per_url: Vec<UrlFailure>,
    /// How long until a URL that is left alone may be asked again, if all are.
    pub retry_after: Option<Duration>,
}

impl SignFailure {
    pub(crate) fn new(per_url: Vec<UrlFailure>, retry_after: Option<Duration>) -> SignFailure {
        let recoverable = per_url.is_empty() || per_url.iter().any(|failure| failure.reason.is_recoverable());
        SignFailure { recoverable, per_url, retry_after }
    }
}

impl std::error::Error for SignFailure {}

impl std::fmt::Display for SignFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.per_url.as_slice() {
            [] => f.write_str("no external CA is configured for this root"),
            [only] => write!(f, "{}", only.reason),
            many => {
                for (index, failure) in many.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { "; " })?;
                    write!(f, "{failure}")?;
                }
                Ok(())
            }
        }
    }
}

/// What a request brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Granted<T> {
    /// What the check made of the answer.
    pub value: T,
    /// The URL that answered.
    pub url: String,
    /// The URLs that failed before; hostile ones among them are an alarm although the request succeeded.
    pub failed: Vec<UrlFailure>,
}
