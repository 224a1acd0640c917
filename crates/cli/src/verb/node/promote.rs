//! `swarmpki node promote`.

use clap::Args;

use super::role;
use crate::failure::Failure;
use crate::verb::Context;

/// Promote one or more nodes to manager
#[derive(Args, Clone, Debug)]
pub(crate) struct PromoteArgs {
    /// Node ids, host names or beginnings of ids
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

/// Wishes for the role manager.
pub(crate) async fn run(args: &PromoteArgs, context: &mut Context) -> Result<(), Failure> {
    role::wish(&args.nodes, "manager", context).await
}
