//! `swarmpki node ls`: docker's columns, and what docker's list does not tell: the end of each certificate, when it
//! will be renewed, how far the node's clock is off, and when it was last heard of.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use clap::Args;
use daemon::engine_api::extra::NodeReport;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Info, Node, moment};
use crate::client::{Client, escape};
use crate::failure::Failure;
use crate::go_bool;
use crate::span;
use crate::table::Table;
use crate::verb::Context;

/// List the nodes with their certificates
#[derive(Args, Clone, Debug)]
#[command(mut_args(go_bool::flags(&["quiet"])))]
pub(crate) struct LsArgs {
    /// Only nodes that match, key=value: id, name, label, node.label, role, membership; may be repeated
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Only display ids
    #[arg(short, long)]
    quiet: bool,
    /// List the joins that were begun and never finished, instead of the nodes
    #[arg(long, conflicts_with_all = ["filter"])]
    unfinished: bool,
}

/// When a node's certificate ends.
pub(crate) fn expiry(node: &NodeReport, now: Timestamp) -> String {
    when(node.not_after.as_deref()).map_or_else(unknown, |end| span::relative(end, now))
}

/// When a node will renew: a moment, or a window for an engine.
pub(crate) fn renewal(node: &NodeReport, now: Timestamp) -> String {
    match (when(node.renew_from.as_deref()), when(node.renew_until.as_deref())) {
        (Some(from), Some(until)) => span::window(from, until, now),
        (Some(at), None) | (None, Some(at)) => span::relative(at, now),
        (None, None) => unknown(),
    }
}

/// A node's clock minus the manager's.
pub(crate) fn clock(node: &NodeReport) -> String {
    node.clock_offset_ms.map_or_else(unknown, |offset| format!("{offset:+}ms"))
}

/// When a node was last heard of: `-` if not since the manager's start, `never` if it had no session at all.
pub(crate) fn contact(node: &NodeReport, now: Timestamp) -> String {
    match when(node.last_contact.as_deref()) {
        Some(then) if then >= now => "now".to_owned(),
        Some(then) => span::relative(then, now),
        None if node.unfinished => "never".to_owned(),
        // It was in session once; the manager that saw it has restarted since.
        None => "-".to_owned(),
    }
}

fn when(time: Option<&str>) -> Option<Timestamp> {
    time.and_then(moment)
}

/// Lists.
pub(crate) async fn run(args: &LsArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    if args.unfinished {
        return unfinished(args, &mut client, context).await;
    }
    let path = match filters(&args.filter)? {
        Some(filters) => format!("/nodes?filters={}", escape(&filters)),
        None => "/nodes".to_owned(),
    };
    let values: Vec<Value> = client.get(&path).await?;
    if context.out.json() && !args.quiet {
        return as_json(values, &mut client, context).await;
    }
    let mut nodes = values
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<Vec<Node>, _>>()
        .map_err(|error| Failure::new(format!("cannot read the daemon's answer: {error}")))?;
    nodes.sort_by(|a, b| natural(&a.description.hostname, &b.description.hostname).then_with(|| a.id.cmp(&b.id)));
    if args.quiet {
        return ids(nodes.iter().map(|node| node.id.as_str()), context);
    }
    let (this, extras) = if nodes.is_empty() {
        (String::new(), None)
    } else {
        let info: Info = client.get("/info").await?;
        (info.swarm.node_id, extras(&mut client).await?)
    };
    context.out.text(table(&nodes, &this, extras.as_deref(), Timestamp::now()))
}

/// What our own endpoint knows; `None` from a Docker Engine.
pub(crate) async fn extras(client: &mut Client) -> Result<Option<Vec<NodeReport>>, Failure> {
    client.own("/nodes").await
}

fn table(nodes: &[Node], this: &str, extras: Option<&[NodeReport]>, now: Timestamp) -> String {
    let mut headings = vec!["ID", "HOSTNAME", "STATUS", "AVAILABILITY", "MANAGER STATUS", "ENGINE VERSION"];
    if extras.is_some() {
        headings.extend(["EXPIRES", "RENEWS", "CLOCK", "LAST CONTACT"]);
    }
    let mut table = Table::new(&headings);
    for node in nodes {
        let manager = match &node.manager_status {
            Some(status) if status.leader => "Leader".to_owned(),
            Some(status) => capital(&status.reachability),
            None => String::new(),
        };
        let mut row = vec![
            format!("{} {}", node.id, if node.id == this { "*" } else { " " }),
            node.description.hostname.clone(),
            capital(&node.status.state),
            capital(node.wish("Availability")),
            manager,
            node.description.engine.engine_version.clone(),
        ];
        if let Some(extras) = extras {
            let none = NodeReport::default();
            let extra = extras.iter().find(|extra| extra.id == node.id).unwrap_or(&none);
            row.extend([expiry(extra, now), renewal(extra, now), clock(extra), contact(extra, now)]);
        }
        table.row(row);
    }
    table.draw()
}

/// The table without ids and docker's words: names, states and certificates.
pub(crate) fn short_table(nodes: &[Node], extras: Option<&[NodeReport]>) -> String {
    let now = Timestamp::now();
    let mut table = Table::new(&["HOSTNAME", "STATUS", "ROLE", "EXPIRES", "RENEWS", "LAST CONTACT"]);
    let none = NodeReport::default();
    for node in nodes {
        let extra = extras.and_then(|extras| extras.iter().find(|extra| extra.id == node.id));
        let extra = extra.unwrap_or(&none);
        table.row(vec![
            node.description.hostname.clone(),
            capital(&node.status.state),
            node.wish("Role").to_owned(),
            expiry(extra, now),
            renewal(extra, now),
            contact(extra, now),
        ]);
    }
    table.draw()
}

async fn unfinished(args: &LsArgs, client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    let values: Option<Vec<Value>> = client.own("/nodes").await?;
    let values = values.ok_or_else(|| {
        Failure::new("this daemon does not tell unfinished joins from nodes")
            .hint("It seems to be a Docker Engine: look for nodes without a host name in docker node ls.")
    })?;
    let values: Vec<Value> = values.into_iter().filter(|node| node["unfinished"] == Value::Bool(true)).collect();
    if context.out.json() && !args.quiet {
        return context.out.document(&values);
    }
    let joins = serde_json::from_value::<Vec<NodeReport>>(Value::Array(values))
        .map_err(|error| Failure::new(format!("cannot read the daemon's answer: {error}")))?;
    if args.quiet {
        return ids(joins.iter().map(|join| join.id.as_str()), context);
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["ID", "ROLE", "BEGUN"]);
    for join in joins.iter().filter(|join| join.unfinished) {
        let begun = moment(&join.created).map_or_else(unknown, |then| span::relative(then, now));
        table.row(vec![join.id.clone(), join.role.clone(), begun]);
    }
    context.out.text(table.draw())
}

async fn as_json(mut nodes: Vec<Value>, client: &mut Client, context: &mut Context) -> Result<(), Failure> {
    let own: Vec<Value> = client.own("/nodes").await?.unwrap_or_default();
    for node in &mut nodes {
        let extra = own.iter().find(|extra| extra["id"] == node["ID"]).cloned();
        if let (Some(node), Some(extra)) = (node.as_object_mut(), extra) {
            node.insert("Swarmpki".to_owned(), extra);
        }
    }
    context.out.document(&nodes)
}

fn ids<'a>(ids: impl Iterator<Item = &'a str>, context: &mut Context) -> Result<(), Failure> {
    if context.out.json() {
        return context.out.document(&ids.collect::<Vec<_>>());
    }
    for id in ids {
        context.out.line(id)?;
    }
    Ok(())
}

/// The filters in the API's form: `{"role":{"worker":true}}`; `None` without filters.
fn filters(given: &[String]) -> Result<Option<String>, Failure> {
    let mut filters: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    for filter in given {
        let Some((key, value)) = filter.split_once('=') else {
            return Err(Failure::flag("-f, --filter", filter, "invalid filter, expected key=value"));
        };
        filters.entry(key.trim().to_lowercase()).or_default().insert(value.trim().to_owned(), true);
    }
    Ok((!filters.is_empty()).then(|| json!(filters).to_string()))
}

/// The first letter in capital: `ready` → `Ready`.
pub(crate) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn unknown() -> String {
    "?".to_owned()
}

/// Compares with numbers in the text as numbers: `node2` before `node10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else {
            return a.len().cmp(&b.len());
        };
        if x.is_ascii_digit() && y.is_ascii_digit() {
            let (x, rest_a) = digits(a);
            let (y, rest_b) = digits(b);
            let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
        } else if x == y {
            (a, b) = (&a[x.len_utf8()..], &b[y.len_utf8()..]);
        } else {
            return x.cmp(&y);
        }
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_in_natural_order() {
        let mut names = ["node10", "node2", "node", "a", "node2b", "node02a"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "node", "node2", "node02a", "node2b", "node10"]);
    }

    #[test]
    fn our_columns_stand_beside_dockers() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let node = |id: &str, hostname: &str| -> Node {
            serde_json::from_value(json!({
                "ID": id, "Spec": {"Availability": "active"}, "Description": {"Hostname": hostname}, "Status": {"State": "ready"},
            }))
            .unwrap()
        };
        let ours = NodeReport {
            id: "a".into(),
            not_after: Some("2027-02-19T12:00:00Z".into()),
            renew_from: Some("2027-01-20T13:00:00Z".into()),
            renew_until: Some("2027-01-20T13:00:00Z".into()),
            clock_offset_ms: Some(-12),
            last_contact: Some("2026-11-21T11:59:58Z".into()),
            ..NodeReport::default()
        };
        let engine = NodeReport {
            id: "b".into(),
            renew_from: Some("2027-01-05T12:00:00Z".into()),
            renew_until: Some("2027-02-01T12:00:00Z".into()),
            clock_offset_ms: None,
            last_contact: None,
            ..ours.clone()
        };
        let drawn = table(&[node("a", "n1"), node("b", "e1"), node("c", "x")], "a", Some(&[ours, engine]), now);
        let lines: Vec<&str> = drawn.lines().map(|line| line.split_once("   ").unwrap().1.trim()).collect();
        assert!(lines[0].ends_with("EXPIRES   RENEWS       CLOCK     LAST CONTACT"), "{drawn}");
        assert!(lines[1].ends_with("in 90d    in 60d 1h    -12ms     2s ago"), "{drawn}");
        assert!(lines[2].ends_with("in 90d    in 45d-72d   ?         -"), "{drawn}");
        assert!(lines[3].ends_with("?         ?            ?         -"), "{drawn}");
        assert_eq!(contact(&NodeReport { unfinished: true, ..NodeReport::default() }, now), "never");
    }

    #[test]
    fn filters_as_docker_sends_them() {
        let given = ["role=worker".to_owned(), "Role=manager".to_owned(), "node.label=a=b".to_owned()];
        assert_eq!(
            filters(&given).unwrap().unwrap(),
            r#"{"node.label":{"a=b":true},"role":{"manager":true,"worker":true}}"#
        );
        assert_eq!(filters(&[]).unwrap(), None);
        assert!(filters(&["role".to_owned()]).is_err());
    }
}
