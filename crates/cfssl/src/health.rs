//! How each URL is doing, as people are told.

use std::time::Duration;

use pki::time::Time;

/// Whether a URL is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UrlState {
    /// It is.
    Up,
    /// It failed; an attempt is under way, or comes with the next request, that decides.
    Trying,
    /// It failed and can be reached again; the next request decides.
    Reachable,
    /// It failed and is left alone.
    Open {
        /// Until then.
        until: Time,
    },
    /// It cannot be asked at all, and why.
    Invalid(String),
}

impl UrlState {
    /// One word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            UrlState::Up => "up",
            UrlState::Trying => "trying",
            UrlState::Reachable => "reachable",
            UrlState::Open { .. } => "down",
            UrlState::Invalid(_) => "invalid",
        }
    }
}

/// How one URL is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlHealth {
    /// The URL as configured.
    pub url: String,
    /// Whether it is asked.
    pub state: UrlState,
    /// When it last gave a certificate.
    pub last_success: Option<Time>,
    /// When it last failed, and why.
    pub last_error: Option<(Time, String)>,
    /// Requests under way.
    pub in_flight: u32,
    /// How long good answers take: a mean in which recent ones count more.
    pub latency: Option<Duration>,
    /// Certificates it gave.
    pub granted: u64,
    /// Attempts that failed, hostile answers included, refusals not.
    pub failed: u64,
    /// Requests it refused.
    pub refused: u64,
    /// Answers that must not be believed.
    pub hostile: u64,
}
