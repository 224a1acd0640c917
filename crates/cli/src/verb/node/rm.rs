//! `swarmpki node rm`: ends a node's membership; its certificate is refused from then on.

use std::collections::BTreeSet;

use clap::Args;
use daemon::engine_api::tokens::TokenReport;
use serde_json::json;

use crate::api::{Node, Swarm};
use crate::client::{Client, escape};
use crate::failure::Failure;
use crate::go_bool;
use crate::verb::Context;
use crate::verb::join_token;

/// Remove one or more nodes; their certificates are refused at once
#[derive(Args, Clone, Debug)]
#[command(mut_args(go_bool::flags(&["force"])))]
pub(crate) struct RmArgs {
    /// Remove a node that is up and in session, too
    #[arg(short, long)]
    force: bool,
    /// Replace the join token of its role, too, and revoke those with limits that it came by and that still admit anybody
    #[arg(long)]
    rotate_token: bool,
    /// Node ids, host names or beginnings of ids
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

/// Tries to remove all of them, then reports what failed.
pub(crate) async fn run(args: &RmArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    let mut gone: Vec<Node> = Vec::new();
    for node in &args.nodes {
        match remove(args, node, &mut client).await {
            Ok(record) => {
                gone.extend(record);
                if context.out.json() { removed.push(node) } else { context.out.line(node)? }
            }
            Err(failure) => failures.push(failure),
        }
    }
    let mut done = Replaced::default();
    if let Err(failure) = done.replace(&gone, &mut client).await {
        let hint =
            "Nodes were removed, and tokens not all replaced: swarmpki join-token --rotate worker, swarmpki token ls";
        failures.push(failure.hint(hint));
    }
    if context.out.json() {
        let mut said = json!({"Removed": removed});
        if args.rotate_token {
            said["Rotated"] = json!(done.rotated);
            said["Revoked"] = json!(done.revoked);
        }
        context.out.document(&said)?;
    } else {
        for role in &done.rotated {
            context.out.line(format!("Successfully rotated {role} join token."))?;
        }
        for id in &done.revoked {
            context.out.line(format!("Revoked join token {id}."))?;
        }
    }
    Failure::join(failures)
}

/// Removes it; its record, if its tokens are to be replaced.
async fn remove(args: &RmArgs, reference: &str, client: &mut Client) -> Result<Option<Node>, Failure> {
    let record: Option<Node> = match args.rotate_token {
        true => Some(client.get(&format!("/nodes/{}", escape(reference))).await?),
        false => None,
    };
    // What was looked at is what is removed.
    let id = record.as_ref().map_or(reference, |record| record.id.as_str());
    let path = format!("/nodes/{}{}", escape(id), if args.force { "?force=1" } else { "" });
    client.delete(&path).await?;
    Ok(record)
}

/// What was replaced, or revoked.
#[derive(Default)]
struct Replaced {
    rotated: BTreeSet<String>,
    revoked: Vec<String>,
}

impl Replaced {
    async fn replace(&mut self, gone: &[Node], client: &mut Client) -> Result<(), Failure> {
        let roles: BTreeSet<String> = gone.iter().map(|node| node.wish("Role").to_owned()).collect();
        for role in roles {
            let swarm: Swarm = client.get("/swarm").await?;
            join_token::update(client, &swarm, &swarm.spec, &role).await?;
            self.rotated.insert(role);
        }
        if gone.is_empty() {
            return Ok(());
        }
        let tokens: Vec<TokenReport> = client.own("/tokens").await?.unwrap_or_default();
        let came_by = |token: &&TokenReport| {
            token.state == "open" && token.nodes.iter().any(|node| gone.iter().any(|gone| gone.id == node.id))
        };
        for token in tokens.iter().filter(came_by) {
            client.own_delete(&format!("/tokens/{}", escape(&token.id))).await?;
            self.revoked.push(token.id.clone());
        }
        Ok(())
    }
}
