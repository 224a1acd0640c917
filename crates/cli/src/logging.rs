//! Log lines on standard error.

use std::fmt;
use std::io;

use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format;

use crate::args::{Global, LogFormat};
use crate::failure::Failure;
use crate::shown;

/// What `--log-level` takes as a single word.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Starts logging as the flags say. Once a process.
pub(crate) fn start(global: &Global) -> Result<(), Failure> {
    let filter = filter(&global.log_level)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    let started = match global.log_format {
        LogFormat::Text => {
            let colours = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            let fields = format::debug_fn(write_field).delimited(" ");
            lines.with_writer(io::stderr).fmt_fields(fields).with_ansi(colours).try_init()
        }
        LogFormat::Json => lines.with_writer(|| JsonLines(io::stderr())).json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::new(format!("cannot start logging: {error}")))
}

/// Writes a message or a field, on one line whatever it holds: host names and errors of others are among them.
fn write_field(to: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let value = shown::field(&value);
    match field.name() {
        "message" => write!(to, "{value}"),
        name => write!(to, "{}={value}", name.strip_prefix("r#").unwrap_or(name)),
    }
}

/// Standard error for JSON: an object a line, each written as a whole.
struct JsonLines(io::Stderr);

impl io::Write for JsonLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.0.write_all(shown::json(text.to_owned()).as_bytes())?,
            Err(_) => self.0.write_all(bytes.escape_ascii().to_string().as_bytes())?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
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
