//! Boolean flags as docker's command takes them: `--flag`, and `--flag=VALUE` with the words of Go's `strconv.ParseBool`.

use clap::{Arg, ArgAction};

/// Makes boolean flags that docker's command has too what they are there: `#[command(mut_args(go_bool::flags(&["name"])))]`.
pub(crate) fn flags(names: &'static [&'static str]) -> impl FnMut(Arg) -> Arg {
    |arg| if names.contains(&arg.get_id().as_str()) { flag(arg) } else { arg }
}

fn flag(arg: Arg) -> Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .default_value("false")
        .hide_default_value(true)
        .default_missing_value("true")
        .value_parser(parse)
}

/// Reads a value. Source: Go's strconv.ParseBool, which docker's flags use.
pub(crate) fn parse(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(mut_args(flags(&["quiet", "force"])))]
    struct Line {
        #[arg(short, long)]
        quiet: bool,
        #[arg(short, long)]
        force: bool,
        word: Option<String>,
    }

    fn read(words: &[&str]) -> Result<(bool, bool, Option<String>), String> {
        let words = std::iter::once("x").chain(words.iter().copied());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok((line.quiet, line.force, line.word))
    }

    #[test]
    fn forms_of_a_boolean_flag() {
        let word = || Some("word".to_owned());
        let rows: [(&[&str], _); 10] = [
            (&[], (false, false, None)),
            (&["--quiet"], (true, false, None)),
            (&["--quiet", "word"], (true, false, word())),
            (&["-q", "word"], (true, false, word())),
            (&["-qf", "word"], (true, true, word())),
            (&["-q=false", "-f=1"], (false, true, None)),
            (&["--quiet=true", "--force=F"], (true, false, None)),
            (&["--quiet=T", "--force=TRUE"], (true, true, None)),
            (&["--quiet=0", "word"], (false, false, word())),
            (&["--quiet", "--force=False"], (true, false, None)),
        ];
        for (words, expected) in rows {
            assert_eq!(read(words), Ok(expected), "{words:?}");
        }
        for wrong in ["--quiet=yes", "--quiet=", "-q=on", "--quiet=tRUE"] {
            assert!(read(&[wrong]).is_err(), "{wrong}");
        }
    }
}
