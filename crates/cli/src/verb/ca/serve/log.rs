//! `swarmpki ca serve log`: every certificate that the server signed, oldest first.

use authority::entry::{Entry, Issued};
use authority::log;
use clap::Args;
use pki::Time;
use serde_json::{Value, json};

use super::StateArgs;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown;

/// List every certificate that the server signed, oldest first; with --json all that its log holds, an object a line
#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    #[command(flatten)]
    state: StateArgs,
}

/// Headings and widths of the columns but the last; what they hold has these lengths or less.
const COLUMNS: [(&str, usize); 5] = [("TIME", 26), ("KIND", 14), ("SERIAL", 42), ("NOT AFTER", 22), ("ASKED BY", 27)];

/// Prints the log, also while the server writes it.
pub(super) fn run(args: &LogArgs, out: &mut Output) -> Result<(), Failure> {
    let mut told = Ok(());
    let mut headed = out.json();
    let read = log::read(&args.state.dir(), |entry| {
        if !std::mem::replace(&mut headed, true) {
            // Once it is known that there is a log to show.
            told = out.line(headings());
        }
        if told.is_err() {
            return;
        }
        told = match (out.json(), &entry) {
            (true, _) => out.json_text(object(&entry).to_string()),
            (false, Entry::Leaf(issued)) => out.line(row("leaf", issued)),
            (false, Entry::CrossSigned(issued)) => out.line(row("cross-signed", issued)),
            (false, Entry::Server(issued)) => out.line(row("server", issued)),
            (false, Entry::Begun { .. } | Entry::Cluster { .. } | Entry::Ours { .. }) => Ok(()),
        };
    });
    told?;
    read.map(drop).map_err(|error| Failure::new(error.to_string()))
}

fn headings() -> String {
    line(COLUMNS.map(|(heading, _)| heading), "SUBJECT")
}

fn row(kind: &str, issued: &Issued) -> String {
    let (time, not_after) = (moment(issued.time_ms), moment(issued.not_after_ms));
    let by = issued.by.as_ref().map_or("-", |by| by.node.as_str());
    line([&time, kind, &issued.serial, &not_after, by], &issued.subject)
}

fn line(cells: [&str; COLUMNS.len()], last: &str) -> String {
    let mut line = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        line.push_str(&format!("{:<width$}", shown::field(cell)));
    }
    line + &shown::field(last)
}

/// An entry as an object, with its times in words.
fn object(entry: &Entry) -> Value {
    let Value::Object(fields) = json!(entry) else { return Value::Null };
    let words = fields.into_iter().map(|(name, value)| match (name.strip_suffix("_ms"), value.as_i64()) {
        (Some(name), Some(millis)) => (name.to_owned(), json!(moment(millis))),
        _ => (name, value),
    });
    Value::Object(words.collect())
}

fn moment(millis: i64) -> String {
    Time::from_unix_millis(millis).rfc3339()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stand_under_their_headings_and_objects_have_times_in_words() {
        let issued = Issued {
            time_ms: 1_795_000_000_123,
            serial: "7a3f0c3c2b1a09f8e7d6c5b4a392817f6e5d4c3b".into(),
            subject: "O=c,OU=swarm-worker,CN=n".into(),
            spki: "aa".into(),
            fingerprint: "bb".into(),
            not_before_ms: 0,
            not_after_ms: 1_800_000_000_000,
            manager: false,
            by: None,
        };
        let (headings, row) = (headings(), row("leaf", &issued));
        for (heading, value) in [("KIND", "leaf"), ("SERIAL", "7a3f"), ("NOT AFTER", "2027"), ("SUBJECT", "O=c")] {
            assert_eq!(headings.find(heading), row.find(value), "{headings}\n{row}");
        }
        let object = object(&Entry::Leaf(issued));
        assert_eq!((&object["kind"], &object["not_before"]), (&json!("leaf"), &json!("1970-01-01T00:00:00Z")));
    }
}
