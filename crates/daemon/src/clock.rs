//! This machine's clock: the one place where the daemon reads it for a time that it tells or judges by.

use std::sync::Arc;
use std::time::SystemTime;

use pki::time::Time;

/// The time now.
pub(crate) fn now() -> Time {
    Time::from(SystemTime::now())
}

/// The same, to be given on.
pub(crate) fn system() -> replica::Clock {
    Arc::new(now)
}
