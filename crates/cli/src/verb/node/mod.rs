//! `swarmpki node …`: what a manager knows of its nodes and does to them.

pub(crate) mod demote;
pub(crate) mod inspect;
pub(crate) mod ls;
pub(crate) mod promote;
pub(crate) mod renew;
pub(crate) mod rm;
mod role;
pub(crate) mod update;

use clap::Subcommand;
use serde_json::Value;

use super::Context;
use crate::api::{Info, Node};
use crate::client::{Client, escape};
use crate::failure::Failure;

/// The verbs of `node`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum NodeCommand {
    Demote(demote::DemoteArgs),
    Inspect(inspect::InspectArgs),
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    Promote(promote::PromoteArgs),
    Renew(renew::RenewArgs),
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    Update(update::UpdateArgs),
}

/// Carries out one of them.
pub(crate) async fn run(command: &NodeCommand, context: &mut Context) -> Result<(), Failure> {
    match command {
        NodeCommand::Demote(args) => demote::run(args, context).await,
        NodeCommand::Inspect(args) => inspect::run(args, context).await,
        NodeCommand::Ls(args) => ls::run(args, context).await,
        NodeCommand::Promote(args) => promote::run(args, context).await,
        NodeCommand::Renew(args) => renew::run(args, context).await,
        NodeCommand::Rm(args) => rm::run(args, context).await,
        NodeCommand::Update(args) => update::run(args, context).await,
    }
}

/// Posts a node's spec back under the version it was read with.
async fn write(client: &mut Client, node: &Node, spec: &Value) -> Result<(), Failure> {
    let path = format!("/nodes/{}/update?version={}", escape(&node.id), node.version.index);
    client.post(&path, Some(spec)).await.map(drop)
}

/// The reference to ask for: the node's own id for `self`.
pub(crate) async fn resolve(client: &mut Client, reference: &str) -> Result<String, Failure> {
    if reference != "self" {
        return Ok(reference.to_owned());
    }
    let info: Info = client.get("/info").await?;
    if info.swarm.node_id.is_empty() {
        // The daemon says why there is no node here.
        let _: Value = client.get("/nodes").await?;
        return Err(Failure::new("this machine has no node id").hint("See: swarmpki info"));
    }
    Ok(info.swarm.node_id)
}
