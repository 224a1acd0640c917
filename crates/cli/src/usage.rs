//! Refusals of the command line itself, in docker's words and with docker's exit codes (engine-api.md 10, 18-help).

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::failure::{BAD_FLAG, FAILED};

/// What to print and how to end when the command line does not parse.
pub(crate) struct Refusal {
    /// The text.
    pub(crate) text: String,
    /// Whether it goes to standard output: help that was asked for.
    pub(crate) asked: bool,
    /// The exit code.
    pub(crate) code: u8,
}

/// Turns clap's verdict into docker's.
pub(crate) fn refusal(error: &clap::Error) -> Refusal {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Refusal {
                text: error.render().to_string(),
                asked: true,
                code: 0,
            };
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Refusal {
                text: error.render().to_string(),
                asked: false,
                code: 0,
            };
        }
        _ => {}
    }
    let usage = usage(error);
    let command = command(&usage);
    let argument = text(error, ContextKind::InvalidArg).unwrap_or_default();
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    let flag = argument
        .split([' ', '=', '['])
        .next()
        .unwrap_or_default()
        .to_owned();
    let (line, code) = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            (
                format!("swarmpki: unknown command: {command} {word}"),
                FAILED,
            )
        }
        ErrorKind::UnknownArgument if argument.starts_with("--") => {
            (format!("unknown flag: {flag}"), BAD_FLAG)
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => (
            format!(
                "unknown shorthand flag: '{}' in {argument}",
                argument.trim_start_matches('-')
            ),
            BAD_FLAG,
        ),
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues if !argument.starts_with('-') => (
            format!("swarmpki: '{command}' accepts {}", accepts(&usage)),
            FAILED,
        ),
        ErrorKind::MissingRequiredArgument => (
            format!("swarmpki: '{command}' requires {}", requires(&usage)),
            FAILED,
        ),
        ErrorKind::InvalidValue if value.is_empty() && argument.starts_with('-') => {
            (format!("flag needs an argument: {flag}"), BAD_FLAG)
        }
        ErrorKind::InvalidValue => {
            let valid = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(words)) => {
                    format!("must be one of {}", words.join(", "))
                }
                _ => "not allowed".to_owned(),
            };
            (
                format!(
                    "invalid argument \"{value}\" for \"{}\" flag: {valid}",
                    named(&flag, &argument)
                ),
                BAD_FLAG,
            )
        }
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(error)
                .map(ToString::to_string)
                .unwrap_or_default();
            (
                format!(
                    "invalid argument \"{value}\" for \"{}\" flag: {reason}",
                    named(&flag, &argument)
                ),
                BAD_FLAG,
            )
        }
        _ => (first_line(error), BAD_FLAG),
    };
    let text =
        format!("{line}\n\nUsage:  {usage}\n\nRun '{command} --help' for more information\n");
    Refusal {
        text,
        asked: false,
        code,
    }
}

/// A flag by its name, a positional argument by its place.
fn named<'a>(flag: &'a str, argument: &'a str) -> &'a str {
    if flag.starts_with('-') {
        flag
    } else {
        argument
    }
}

/// `swarmpki node promote [OPTIONS] NODE...`
fn usage(error: &clap::Error) -> String {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => String::new(),
    };
    let usage = usage.trim().trim_start_matches("Usage:").trim();
    if usage.is_empty() {
        "swarmpki [OPTIONS] COMMAND".to_owned()
    } else {
        usage.replace(['<', '>'], "")
    }
}

/// The words of a usage line before the first that is no verb.
fn command(usage: &str) -> String {
    let is_verb =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase()) && !word.contains('|');
    usage
        .split_whitespace()
        .take_while(is_verb)
        .collect::<Vec<_>>()
        .join(" ")
}

fn positionals(usage: &str) -> Vec<&str> {
    let verbs = command(usage).split_whitespace().count();
    usage
        .split_whitespace()
        .skip(verbs)
        .filter(|word| !word.starts_with(['[', '-']))
        .collect()
}

fn accepts(usage: &str) -> String {
    match positionals(usage).len() {
        0 => "no arguments".to_owned(),
        1 => "1 argument".to_owned(),
        count => format!("{count} arguments"),
    }
}

fn requires(usage: &str) -> String {
    let words = positionals(usage);
    let at_least = if words.iter().any(|word| word.ends_with("...")) {
        "at least "
    } else {
        ""
    };
    match words.len() {
        0 | 1 => format!("{at_least}1 argument"),
        count => format!("{at_least}{count} arguments"),
    }
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

fn first_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("error:")
        .trim()
        .to_owned()
}
