//! `swarmpki node rm`: ends a node's membership; its certificate is refused from then on.

use clap::Args;
use serde_json::json;

use crate::client::escape;
use crate::failure::Failure;
use crate::verb::Context;

/// Remove one or more nodes; their certificates are refused at once
#[derive(Args, Clone, Debug)]
pub(crate) struct RmArgs {
    /// Remove a node that is up and in session, too
    #[arg(short, long)]
    force: bool,
    /// Node ids, host names or beginnings of ids
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

/// Tries to remove all of them, then reports what failed.
pub(crate) async fn run(args: &RmArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    for node in &args.nodes {
        let path = format!("/nodes/{}{}", escape(node), if args.force { "?force=1" } else { "" });
        match client.delete(&path).await {
            Ok(()) if context.out.json() => removed.push(node),
            Ok(()) => context.out.line(node)?,
            Err(failure) => failures.push(failure),
        }
    }
    if context.out.json() {
        context.out.document(&json!({"Removed": removed}))?;
    }
    Failure::join(failures)
}
