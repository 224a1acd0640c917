//! The child's end: the process that loads the module, logs in and signs.

use std::process::ExitCode;

/// Takes the process over: reads requests from stdin, answers on stdout, and returns when stdin ends. What a program's hidden verb
/// calls, before it starts threads of its own.
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
