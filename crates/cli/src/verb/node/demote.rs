//! `swarmpki node demote`.

use clap::Args;

use super::role;
use crate::failure::Failure;
use crate::verb::Context;

/// Demote one or more managers to worker
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoteArgs {
    /// Node ids, host names or beginnings of ids
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

/// Wishes for the role worker.
pub(crate) async fn run(args: &DemoteArgs, context: &mut Context) -> Result<(), Failure> {
    role::wish(&args.nodes, "worker", context).await
}
