//! Why a command ends without having done its work: what happened, what to do next, and the exit code.

use std::fmt;

/// Exit code of a command that was understood but failed. Source: engine-api.md 10, what docker's command answers.
pub(crate) const FAILED: u8 = 1;
/// Exit code of a flag that does not parse. Source: engine-api.md 10.
pub(crate) const BAD_FLAG: u8 = 125;

/// A command's failure, printed once by `main`.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What happened; empty: nothing to print (the reader of our output went away).
    text: String,
    /// What to do about it, if we know.
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), hint: None, code: FAILED }
    }

    /// A flag's value that does not parse: exit code 125.
    pub(crate) fn flag(flag: &str, value: &str, reason: impl fmt::Display) -> Self {
        Self { text: format!("invalid argument \"{value}\" for \"{flag}\" flag: {reason}"), hint: None, code: BAD_FLAG }
    }

    /// Ends the program without a word and with exit code 0: nobody reads what we write any more.
    pub(crate) fn quiet() -> Self {
        Self { text: String::new(), hint: None, code: 0 }
    }

    /// Adds the next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Several failures as one: their texts a line each, the worst exit code.
    pub(crate) fn join(failures: Vec<Failure>) -> Result<(), Self> {
        let Some(code) = failures.iter().map(|failure| failure.code).max() else {
            return Ok(());
        };
        let text = failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        Err(Self { text, hint: None, code })
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Whether there is anything to print.
    pub(crate) fn is_quiet(&self) -> bool {
        self.text.is_empty()
    }

    /// What happened, without the next step.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n{hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
