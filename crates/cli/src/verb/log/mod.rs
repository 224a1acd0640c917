//! `swarmpki log`: everything that the CA did, who asked for it and from where; whether all of it is there ([`verify`]),
//! how it stands, signed ([`head`]), proofs over it ([`prove`]), and what it says of certificates ([`audit`]). [`erase`] lets go of what is personal in it.

mod audit;
mod erase;
mod head;
mod prove;
pub(crate) mod verify;

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use daemon::engine_api::issuance_log::PAGE_MAX;
use daemon::engine_api::log::{AccountLine, AccountPage};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::Context;
use crate::api::Node;
use crate::client::{Client, escape};
use crate::failure::Failure;
use crate::go_duration;
use crate::output::Output;
use crate::shown;

/// How often a log that is followed is asked for more.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Characters of a node's id.
const ID_CHARS: usize = 25;
/// Headings and widths of the columns.
const COLUMNS: [(&str, usize); 5] = [("SEQ", 10), ("TIME", 27), ("EVENT", 22), ("NODE", 28), ("BY", 29)];

/// Show everything that the CA did; verify it, prove it, audit certificates
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_value_name = "COMMAND")]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    command: Option<LogCommand>,
    /// Go on with new entries as they come
    #[arg(short, long)]
    follow: bool,
    /// First entry to show
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// Only what is about this node: its id, host name or the beginning of its id
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only what came since: a date, a time, or how long ago (24h, 7d)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
}

/// The verbs of `log`.
#[derive(Subcommand, Clone, Debug)]
enum LogCommand {
    Audit(audit::AuditArgs),
    Erase(erase::EraseArgs),
    Head(head::HeadArgs),
    Prove(prove::ProveArgs),
    Verify(verify::VerifyArgs),
}

/// The id of a node that is named by it, its host name or the beginning of its id. A node that was removed is known to the log alone.
async fn id_of(client: &mut Client, named: &str) -> Result<String, Failure> {
    let named = super::node::resolve(client, named).await?;
    let nodes: Vec<Node> = client.get("/nodes").await?;
    let exact = |node: &&Node| node.id == named || node.description.hostname == named;
    let mut found: Vec<&Node> = nodes.iter().filter(exact).collect();
    if found.is_empty() {
        found = nodes.iter().filter(|node| node.id.starts_with(&named)).collect();
    }
    match found.as_slice() {
        [node] => Ok(node.id.clone()),
        [] if named.len() == ID_CHARS => Ok(named),
        [] => Err(Failure::new(format!("no such node: {}", shown::field(&named)))
            .hint("See: swarmpki node ls; of a node that was removed, give the whole id.")),
        _ => Err(Failure::new(format!("{} nodes are meant by {}", found.len(), shown::field(&named)))
            .hint("Give the id: swarmpki node ls")),
    }
}

impl LogArgs {
    /// The verb that asks no daemon.
    pub(crate) fn offline(&self) -> Option<&verify::VerifyArgs> {
        match &self.command {
            Some(LogCommand::Verify(args)) if args.is_offline() => Some(args),
            _ => None,
        }
    }
}

/// The whole answer as JSON.
#[derive(Serialize)]
struct Document<'a> {
    size: u64,
    root_hash: &'a str,
    erased: u64,
    entries: &'a [AccountLine],
}

/// Prints the log, or carries out its verb.
pub(crate) async fn run(args: &LogArgs, context: &mut Context) -> Result<(), Failure> {
    match &args.command {
        Some(LogCommand::Audit(args)) => return audit::run(args, context).await,
        Some(LogCommand::Erase(args)) => return erase::run(args, context).await,
        Some(LogCommand::Prove(args)) => return prove::run(args, context).await,
        Some(LogCommand::Head(args)) => return head::run(args, context).await,
        Some(LogCommand::Verify(args)) => return verify::online(args, context).await,
        None => {}
    }
    let since = args.since.as_deref().map(|text| when("--since", text)).transpose()?;
    let mut client = context.client().await?;
    let mut filter = String::new();
    if let Some(since) = since {
        filter.push_str(&format!("&since={}", since.max(0)));
    }
    if let Some(node) = &args.node {
        let id = id_of(&mut client, node).await?;
        filter.push_str(&format!("&node={}", escape(&id)));
    }
    let mut next = args.from;
    if context.out.json() && !args.follow {
        let mut all = Vec::new();
        let last = loop {
            let page = page(&mut client, next, &filter).await?;
            next = page.next;
            let more = page.next < page.size;
            all.extend(page.entries.iter().cloned());
            if !more {
                break page;
            }
        };
        let document = Document { size: last.size, root_hash: &last.root_hash, erased: last.erased, entries: &all };
        return context.out.document(&document);
    }
    let mut headed = context.out.json();
    loop {
        let page = page(&mut client, next, &filter).await?;
        // Once it is known that there is a log to show.
        if !std::mem::replace(&mut headed, true) {
            context.out.line(line(COLUMNS.map(|(heading, _)| heading), "DETAIL"))?;
        }
        for entry in &page.entries {
            print(&mut context.out, entry)?;
        }
        next = page.next.max(next);
        if next < page.size {
            continue;
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn page(client: &mut Client, from: u64, filter: &str) -> Result<AccountPage, Failure> {
    let page = client.own(&format!("/log?from={from}&max={PAGE_MAX}{filter}")).await?;
    page.ok_or_else(no_log)
}

fn no_log() -> Failure {
    Failure::new("this daemon keeps no such log: it is a Docker Engine, or an older swarmpki")
}

/// A line for people, or an object a line.
fn print(out: &mut Output, entry: &AccountLine) -> Result<(), Failure> {
    if out.json() {
        let text = serde_json::to_string(entry);
        return out.json_text(text.map_err(|error| Failure::new(format!("cannot write an entry as JSON: {error}")))?);
    }
    let (seq, node) = (entry.seq.to_string(), entry.node.as_deref().unwrap_or("-"));
    let by = match &entry.from {
        Some(from) => format!("{} at {from}", entry.by),
        None => entry.by.clone(),
    };
    let mut detail = shown::field(&entry.detail).into_owned();
    if let Some(host) = &entry.host {
        detail.push_str(&format!(" (host {})", shown::field(host)));
    }
    if let Some(serial) = &entry.serial {
        detail.push_str(&format!(" [{serial}]"));
    }
    out.line(line([&seq, &entry.time, &entry.event, node, &shown::field(&by)], detail.trim_start()))
}

fn line(cells: [&str; COLUMNS.len()], last: &str) -> String {
    let mut line = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        // What is longer than its column still ends with a space.
        let width = width - 1;
        line.push_str(&format!("{cell:<width$} "));
    }
    (line + last).trim_end().to_owned()
}

/// A moment in milliseconds since 1970: a date, a time with its zone, or how long ago.
fn when(flag: &str, text: &str) -> Result<i64, Failure> {
    if let Ok(date) = text.parse::<Date>()
        && !text.contains('T')
        && let Ok(zoned) = date.to_zoned(TimeZone::UTC)
    {
        return Ok(zoned.timestamp().as_millisecond());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.as_millisecond());
    }
    let ago = go_duration::parse(text).map_err(|_| {
        Failure::flag(
            flag,
            text,
            "neither a date (2026-11-22), a time (2026-11-22T12:00:00Z), nor a duration (24h, 7d)",
        )
    })?;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(ago);
    Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(when("--since", "1970-01-02").unwrap(), 86_400_000);
        assert_eq!(when("--since", "1970-01-01T00:00:01Z").unwrap(), 1_000);
        let now = Timestamp::now().as_millisecond();
        for (text, ago) in [("24h", 86_400_000), ("1d", 86_400_000), ("90s", 90_000)] {
            let then = when("--since", text).unwrap();
            assert!((now..=Timestamp::now().as_millisecond()).contains(&(then + ago)), "{text}: {then}");
        }
        assert!(when("--since", "yesterday").is_err());
    }

    #[test]
    fn columns_never_run_together() {
        let row = line(["1", "t", &"e".repeat(40), "n", "b"], "d");
        assert!(row.contains(&format!("{} n", "e".repeat(40))), "{row}");
    }
}
