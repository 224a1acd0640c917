//! `swarmpki ca log`: every signature of every CA key, oldest first.

use std::time::Duration;

use clap::Args;
use daemon::engine_api::issuance_log::{LogLine, LogPage, PAGE_MAX};
use serde::Serialize;

use super::Context;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown;

/// How often a log that is followed is asked for more.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Headings and widths of the columns; what they hold has these lengths or less.
const COLUMNS: [(&str, usize); 7] =
    [("SEQ", 10), ("TIME", 27), ("NODE", 28), ("KIND", 10), ("SERIAL", 43), ("NOT BEFORE", 23), ("NOT AFTER", 23)];

/// List every certificate that the CA signed: the issuance log of this manager
#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    /// First entry to show
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// Go on with new entries as they come
    #[arg(short, long)]
    follow: bool,
}

/// The whole answer as JSON.
#[derive(Serialize)]
struct Document<'a> {
    size: u64,
    root_hash: &'a str,
    entries: &'a [LogLine],
}

/// Prints the log.
pub(crate) async fn run(args: &LogArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let mut next = args.from;
    if context.out.json() && !args.follow {
        let mut all = Vec::new();
        let last = loop {
            let page = page(&mut client, next).await?;
            let Some(on) = on(&page, next) else { break page };
            next = on;
            all.extend(page.entries);
        };
        return context.out.document(&Document { size: last.size, root_hash: &last.root_hash, entries: &all });
    }
    let mut headed = context.out.json();
    loop {
        let page = page(&mut client, next).await?;
        // Once it is known that there is a log to show.
        if !std::mem::replace(&mut headed, true) {
            context.out.line(headings())?;
        }
        for entry in &page.entries {
            print(&mut context.out, entry)?;
        }
        if let Some(on) = on(&page, next) {
            next = on;
            continue;
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn page(client: &mut Client, from: u64) -> Result<LogPage, Failure> {
    let page = client.own(&format!("/ca/log?from={from}&max={PAGE_MAX}")).await?;
    page.ok_or_else(|| Failure::new("this daemon keeps no issuance log: it is a Docker Engine, or an older swarmpki"))
}

/// Where to go on behind a page; none: that was all. Daemons before this version say only what is on it.
fn on(page: &LogPage, from: u64) -> Option<u64> {
    let behind = page.entries.last().map_or(from, |entry| entry.seq.saturating_add(1));
    Some(page.next.max(behind)).filter(|next| *next > from)
}

/// A line for people, or an object a line.
fn print(out: &mut Output, entry: &LogLine) -> Result<(), Failure> {
    if out.json() {
        let text = serde_json::to_string(entry);
        return out.json_text(text.map_err(|error| Failure::new(format!("cannot write an entry as JSON: {error}")))?);
    }
    out.line(row(entry))
}

fn headings() -> String {
    line(COLUMNS.map(|(heading, _)| heading), "ISSUER")
}

fn row(entry: &LogLine) -> String {
    let seq = entry.seq.to_string();
    let cells = [
        seq.as_str(),
        &entry.time,
        entry.node.as_deref().unwrap_or("-"),
        kind(entry),
        &entry.serial,
        &entry.not_before,
        &entry.not_after,
    ];
    line(cells, &issuer(entry))
}

/// What it is: in small letters, as everything that is looked for in it.
fn kind(entry: &LogLine) -> &str {
    // Daemons before this version say the role alone.
    if entry.kind.is_empty() { entry.role.as_deref().unwrap_or("ca") } else { &entry.kind }
}

/// The certificate that signed; its key where that certificate is not held any more.
fn issuer(entry: &LogLine) -> String {
    match (&entry.issuer, &entry.issuer_key) {
        (Some(certificate), _) => certificate.clone(),
        (None, Some(key)) => format!("key {key}"),
        (None, None) => "?".to_owned(),
    }
}

fn line(cells: [&str; COLUMNS.len()], last: &str) -> String {
    let mut line = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        line.push_str(&format!("{:<width$}", shown::field(cell)));
    }
    line + &shown::field(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_entries_may_have_others_behind_it() {
        let page = |next, seqs: &[u64]| {
            let entries = seqs.iter().map(|seq| LogLine { seq: *seq, ..LogLine::default() }).collect();
            LogPage { next, entries, ..LogPage::default() }
        };
        let rows = [
            (page(50_000, &[]), 0, Some(50_000)),
            (page(50_007, &[50_001]), 50_000, Some(50_007)),
            (page(7, &[]), 7, None),
            (page(u64::MAX, &[]), u64::MAX, None),
            // Of an older daemon.
            (page(0, &[3, 5]), 3, Some(6)),
            (page(0, &[]), 6, None),
        ];
        for (page, from, expected) in rows {
            assert_eq!(on(&page, from), expected, "{page:?}");
        }
    }

    #[test]
    fn lines_stand_under_their_headings() {
        let entry = LogLine {
            seq: 12,
            time: "2026-11-21T12:00:00.123Z".into(),
            node: Some("dzm52djk15bshpeec4zdo7hez".into()),
            role: Some("worker".into()),
            kind: "worker".into(),
            serial: "7a3f0c3c2b1a09f8e7d6c5b4a392817f6e5d4c3b".into(),
            not_before: "2026-11-21T11:00:00Z".into(),
            not_after: "2027-02-19T12:00:00Z".into(),
            fingerprint: "f".into(),
            issuer: Some("abcd".into()),
            issuer_key: Some("ef".into()),
        };
        let (headings, row) = (headings(), row(&entry));
        for (heading, value) in [("NODE", "dzm52"), ("SERIAL", "7a3f"), ("NOT AFTER", "2027"), ("ISSUER", "abcd")] {
            assert_eq!(headings.find(heading), row.find(value), "{headings}\n{row}");
        }
        let gone = LogLine { issuer: None, ..entry.clone() };
        assert!(super::row(&gone).ends_with("  key ef"), "{}", super::row(&gone));
        assert!(super::row(&LogLine { issuer_key: None, ..gone }).ends_with("  ?"));
        for (kind, shown) in [("ca", "ca"), ("api", "api"), ("", "ca")] {
            let row = super::row(&LogLine { node: None, role: None, kind: kind.into(), ..entry.clone() });
            assert!(row.contains(&format!("-                           {shown:<10}7a3f")), "{row}");
        }
    }
}
