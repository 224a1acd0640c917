//! Standard output and standard error: the only place that writes to them.
//!
//! Standard output is locked for the life of the command and flushed at the end of each line that a person waits for.
//! Text of others is escaped here: see [`shown`]. A reader that goes away (`| head -1`) ends the command quietly.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;

use crate::failure::Failure;
use crate::shown;

/// Where a command prints its results.
pub(crate) struct Output {
    to: BufWriter<StdoutLock<'static>>,
    json: bool,
    terminal: bool,
}

impl Output {
    /// Takes standard output; with `json` the commands print one JSON document instead of text.
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self { to: BufWriter::new(stdout.lock()), json, terminal }
    }

    /// Whether JSON was asked for.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Whether a person is likely to be looking: colours and redrawing are in order.
    pub(crate) fn terminal(&self) -> bool {
        self.terminal && !self.json && std::env::var_os("NO_COLOR").is_none()
    }

    /// Prints one line at once, or several.
    pub(crate) fn line(&mut self, line: impl Display) -> Result<(), Failure> {
        let line = line.to_string();
        told(writeln!(self.to, "{}", shown::lines(&line)).and_then(|()| self.to.flush()))
    }

    /// Prints text.
    pub(crate) fn text(&mut self, text: impl Display) -> Result<(), Failure> {
        let text = text.to_string();
        told(write!(self.to, "{}", shown::lines(&text)).and_then(|()| self.to.flush()))
    }

    /// Prints what moves the cursor or paints, and holds nobody else's text that was not escaped.
    pub(crate) fn drawn(&mut self, text: impl Display) -> Result<(), Failure> {
        told(write!(self.to, "{text}").and_then(|()| self.to.flush()))
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        told(self.to.write_all(bytes).and_then(|()| self.to.flush()))
    }

    /// Prints a JSON document, indented by two for people.
    pub(crate) fn document(&mut self, document: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document)
            .map_err(|error| Failure::new(format!("cannot write the answer as JSON: {error}")))?;
        self.json_text(text)
    }

    /// Prints JSON that is written already, and a newline.
    pub(crate) fn json_text(&mut self, text: String) -> Result<(), Failure> {
        told(writeln!(self.to, "{}", shown::json(text)).and_then(|()| self.to.flush()))
    }
}

/// Prints to standard error; if that is gone too there is nobody to tell.
pub(crate) fn complain(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{}", shown::lines(&text.to_string()));
}

/// Prints why a command failed to standard error: for people the next step on lines of its own, as JSON one object in a line.
pub(crate) fn fail(error: &str, hint: Option<&str>, json: bool) {
    if json {
        complain(shown::json(as_json(error, hint)));
    } else {
        complain(hint.map_or_else(|| error.to_owned(), |hint| format!("{error}\n{hint}")));
    }
}

fn as_json(error: &str, hint: Option<&str>) -> String {
    let hint = hint.map(|hint| hint.strip_prefix("Hint: ").unwrap_or(hint));
    serde_json::json!({ "error": error, "hint": hint }).to_string()
}

/// Says on standard error what is being done, where a person waits for it.
pub(crate) fn working(text: &str) {
    if io::stderr().is_terminal() {
        complain(text);
    }
}

fn told(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::quiet(),
        _ => Failure::new(format!("cannot write to standard output: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_as_json() {
        let rows = [
            ("no", Some("Hint: look"), r#"{"error":"no","hint":"look"}"#),
            ("a \"b\"\nc", Some("two\nlines"), r#"{"error":"a \"b\"\nc","hint":"two\nlines"}"#),
            ("no", None, r#"{"error":"no","hint":null}"#),
        ];
        for (error, hint, expected) in rows {
            assert_eq!(as_json(error, hint), expected);
        }
    }
}
