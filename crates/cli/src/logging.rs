//! Log lines on standard error.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::args::{Global, LogFormat};
use crate::failure::Failure;

/// Starts logging as the flags say. Once a process.
pub(crate) fn start(global: &Global) -> Result<(), Failure> {
    // A level alone is about our own lines: the raft library tells of every election at info and warn.
    let alone = !global.log_level.contains(['=', ',']);
    let wanted = if alone { format!("{},openraft=error", global.log_level) } else { global.log_level.clone() };
    let filter = EnvFilter::try_new(wanted).map_err(|error| Failure::flag("--log-level", &global.log_level, error))?;
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
