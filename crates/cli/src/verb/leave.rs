//! `swarmpki leave`: makes this machine nothing again.

use clap::Args;
use serde_json::json;

use super::Context;
use crate::failure::Failure;
use crate::go_bool;

/// Leave the swarm
#[derive(Args, Clone, Debug)]
#[command(mut_args(go_bool::flags(&["force"])))]
pub(crate) struct LeaveArgs {
    /// Leave although the node is a manager; the last one takes the swarm with it
    #[arg(short, long)]
    force: bool,
}

/// Leaves.
pub(crate) async fn run(args: &LeaveArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let path = if args.force { "/swarm/leave?force=1" } else { "/swarm/leave" };
    client.post::<()>(path, None).await?;
    if context.out.json() {
        return context.out.document(&json!({"Left": true}));
    }
    context.out.line("Node left the swarm.")
}
