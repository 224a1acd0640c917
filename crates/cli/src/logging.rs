//! Log lines on standard error.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::args::{Global, LogFormat};
use crate::failure::Failure;

/// What `--log-level` takes as a single word.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Starts logging as the flags say. Once a process.
pub(crate) fn start(global: &Global) -> Result<(), Failure> {
    let filter = filter(&global.log_level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match global.log_format {
        LogFormat::Text => {
            let colours = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colours).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(format!("cannot start logging: {error}")))
}

/// A level, or filters. A single word that is no level would be a filter too, for a module of that name: it silences all.
fn filter(given: &str) -> Result<EnvFilter, Failure> {
    let wanted = if given.contains(['=', ',']) {
        given.to_owned()
    } else if LEVELS.contains(&given) {
        // A level alone is about our own lines: the raft library tells of every election at info and warn.
        format!("{given},openraft=error")
    } else {
        return Err(Failure::flag("--log-level", given, "must be one of error, warn, info, debug, trace"));
    };
    EnvFilter::try_new(wanted).map_err(|error| Failure::flag("--log-level", given, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_or_filters_and_nothing_else() {
        for given in ["error", "warn", "info", "debug", "trace", "info,manager=debug", "manager=trace"] {
            assert!(filter(given).is_ok(), "{given}");
        }
        for given in ["bogus", "", "INFO ", "manager", "manager=bogus"] {
            let refused = filter(given).err().map(|failure| failure.code());
            assert_eq!(refused, Some(crate::failure::BAD_FLAG), "{given}");
        }
    }
}
