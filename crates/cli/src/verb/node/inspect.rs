//! `swarmpki node inspect`: all that is known of a node.

use std::fmt::Write as _;

use clap::Args;
use daemon::engine_api::extra::NodeReport;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::ls::{self, extras};
use super::resolve;
use crate::api::Node;
use crate::client::escape;
use crate::failure::Failure;
use crate::go_bool;
use crate::shown;
use crate::verb::Context;

/// Show all that is known of one or more nodes
#[derive(Args, Clone, Debug)]
#[command(mut_args(go_bool::flags(&["pretty"])))]
pub(crate) struct InspectArgs {
    /// Print for people instead of JSON
    #[arg(long, conflicts_with = "json")]
    pretty: bool,
    /// Node ids, host names or beginnings of ids; self is this machine's node
    #[arg(value_name = "self|NODE", required = true)]
    nodes: Vec<String>,
}

/// Prints a JSON list of the nodes found, as docker does, or a page each.
pub(crate) async fn run(args: &InspectArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for reference in &args.nodes {
        let node: Result<Value, Failure> = match resolve(&mut client, reference).await {
            Ok(reference) => client.get(&format!("/nodes/{}", escape(&reference))).await,
            Err(failure) => Err(failure),
        };
        match node {
            Ok(node) => found.push(node),
            Err(failure) => {
                failures.push(failure);
                if args.pretty {
                    break;
                }
            }
        }
    }
    if args.pretty {
        let extras = if found.is_empty() { Vec::new() } else { extras(&mut client).await?.unwrap_or_default() };
        for (index, node) in found.into_iter().enumerate() {
            let node: Node = serde_json::from_value(node)
                .map_err(|error| Failure::new(format!("cannot read the daemon's answer: {error}")))?;
            let extra = extras.iter().find(|extra| extra.id == node.id);
            let gap = if index > 0 { "\n" } else { "" };
            context.out.text(format!("{gap}{}", page(&node, extra, Timestamp::now())))?;
        }
    } else {
        context.out.json_text(indented_by_four(&found)?)?;
    }
    Failure::join(failures)
}

/// JSON as docker's command indents it.
fn indented_by_four(found: &[Value]) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, format);
    found
        .serialize(&mut serializer)
        .map_err(|error| Failure::new(format!("cannot write the answer as JSON: {error}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn page(node: &Node, extra: Option<&NodeReport>, now: Timestamp) -> String {
    let mut page = String::new();
    // Writing to a String cannot fail.
    let mut line = |label: &str, value: &str| {
        let (label, value) = (shown::lines(label), shown::field(value));
        let _ = if value.is_empty() { writeln!(page, "{label}") } else { writeln!(page, "{label:<24}{value}") };
    };
    line("ID:", &node.id);
    if !node.wish("Name").is_empty() {
        line("Name:", node.wish("Name"));
    }
    let labels = node.spec["Labels"].as_object();
    if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
        line("Labels:", "");
        for (key, value) in labels {
            let value = shown::field(value.as_str().unwrap_or_default());
            line(&format!(" - {}={value}", shown::field(key)), "");
        }
    }
    line("Hostname:", &node.description.hostname);
    line("Joined at:", &node.created_at);
    line("Status:", "");
    line(" State:", &ls::capital(&node.status.state));
    if !node.status.message.is_empty() {
        line(" Message:", &node.status.message);
    }
    line(" Availability:", &ls::capital(node.wish("Availability")));
    line(" Address:", &node.status.addr);
    if let Some(manager) = &node.manager_status {
        line("Manager Status:", "");
        line(" Address:", &manager.addr);
        line(" Raft Status:", &ls::capital(&manager.reachability));
        line(" Leader:", if manager.leader { "Yes" } else { "No" });
    }
    line("Platform:", "");
    line(" Operating System:", &node.description.platform.os);
    line(" Architecture:", &node.description.platform.architecture);
    line("Engine Version:", &node.description.engine.engine_version);
    if let Some(extra) = extra {
        line("Certificate:", "");
        let end = extra.not_after.as_deref().unwrap_or("?");
        line(" Expires:", &format!("{end} ({})", ls::expiry(extra, now)));
        line(" Renews:", &ls::renewal(extra, now));
        line(" Clock offset:", &ls::clock(extra));
        line(" Last contact:", &ls::contact(extra, now));
    }
    let tls = &node.description.tls_info;
    if !tls.trust_root.is_empty() {
        line("TLS Info:", "");
        line(" TrustRoot:", "");
        line(tls.trust_root.trim_end(), "");
        line(" Issuer Subject:", &tls.cert_issuer_subject);
        line(" Issuer Public Key:", &tls.cert_issuer_public_key);
    }
    page
}
