//! `swarmpki node renew`: orders nodes to renew their certificates now.

use clap::Args;
use serde_json::json;

use crate::client::escape;
use crate::failure::Failure;
use crate::verb::Context;

/// Order one or more nodes in session to renew their certificates now
#[derive(Args, Clone, Debug)]
pub(crate) struct RenewArgs {
    /// Node ids, host names or beginnings of ids
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

/// Tries to order all of them, then reports what failed. Returns when the orders are given: `node ls` shows the new ends.
pub(crate) async fn run(args: &RenewArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let (mut ordered, mut failures) = (Vec::new(), Vec::new());
    for node in &args.nodes {
        match client.own_post(&format!("/nodes/{}/renew", escape(node))).await {
            Ok(()) if context.out.json() => ordered.push(node),
            Ok(()) => context.out.line(node)?,
            Err(failure) => failures.push(failure),
        }
    }
    if context.out.json() {
        context.out.document(&json!({"Ordered": ordered}))?;
    }
    Failure::join(failures)
}
