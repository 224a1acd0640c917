//! Refusals of the command line itself, in docker's words and with docker's exit codes (engine-api.md 10, 18-help).

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use crate::args::Cli;
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

/// Turns clap's verdict on these arguments (without the program's name) into docker's.
pub(crate) fn refusal(error: &clap::Error, arguments: &[String]) -> Refusal {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Refusal { text: error.render().to_string(), asked: true, code: 0 };
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Refusal { text: error.render().to_string(), asked: false, code: 0 };
        }
        _ => {}
    }
    let mut verb = verb(arguments);
    let command = verb.get_bin_name().unwrap_or("swarmpki").to_owned();
    let usage = verb.render_usage().to_string().replace(['<', '>'], "");
    let usage = usage.trim().trim_start_matches("Usage:").trim();
    let argument = text(error, ContextKind::InvalidArg).unwrap_or_default();
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    let flag = argument.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
    let (line, code) = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            (format!("swarmpki: unknown command: {command} {word}"), FAILED)
        }
        ErrorKind::UnknownArgument if argument.starts_with("--") => (format!("unknown flag: {flag}"), BAD_FLAG),
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            (format!("unknown shorthand flag: '{}' in {argument}", argument.trim_start_matches('-')), BAD_FLAG)
        }
        ErrorKind::UnknownArgument | ErrorKind::TooManyValues if !argument.starts_with('-') => {
            (format!("swarmpki: '{command}' accepts {}", wanted(&verb, "no arguments")), FAILED)
        }
        ErrorKind::MissingRequiredArgument if argument.starts_with('-') => {
            (format!("swarmpki: '{command}' requires the {flag} flag"), FAILED)
        }
        ErrorKind::MissingRequiredArgument => {
            (format!("swarmpki: '{command}' requires {}", wanted(&verb, "an argument")), FAILED)
        }
        ErrorKind::InvalidValue if value.is_empty() && argument.starts_with('-') => {
            (format!("flag needs an argument: {flag}"), BAD_FLAG)
        }
        ErrorKind::InvalidValue => {
            let valid = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(words)) => format!("must be one of {}", words.join(", ")),
                _ => "not allowed".to_owned(),
            };
            (format!("invalid argument \"{value}\" for {}: {valid}", named(&argument, &flag)), BAD_FLAG)
        }
        ErrorKind::ValueValidation => {
            let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            (format!("invalid argument \"{value}\" for {}: {reason}", named(&argument, &flag)), BAD_FLAG)
        }
        _ => (first_line(error), BAD_FLAG),
    };
    let text = format!("{line}\n\nUsage:  {usage}\n\nRun '{command} --help' for more information\n");
    Refusal { text, asked: false, code }
}

/// A flag by its name, a positional argument by its place.
fn named(argument: &str, flag: &str) -> String {
    if flag.starts_with('-') { format!("\"{flag}\" flag") } else { argument.replace(['<', '>'], "") }
}

/// The verb that these arguments name, as far as they name one.
fn verb(arguments: &[String]) -> Command {
    let mut root = Cli::command();
    root.build();
    let mut verb = &root;
    for argument in arguments {
        if let Some(found) = verb.find_subcommand(argument) {
            verb = found;
        }
    }
    verb.clone()
}

/// How many arguments a verb wants, in words; `none` if it wants none.
fn wanted(verb: &Command, none: &str) -> String {
    let mut at_least = "";
    let mut count = 0;
    for argument in verb.get_positionals() {
        count += 1;
        if matches!(argument.get_action(), clap::ArgAction::Append) {
            at_least = "at least ";
        }
    }
    match count {
        0 => none.to_owned(),
        1 => format!("{at_least}1 argument"),
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
    text.lines().next().unwrap_or_default().trim_start_matches("error:").trim().to_owned()
}
