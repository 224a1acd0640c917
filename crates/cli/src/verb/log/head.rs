//! `swarmpki log head`: how the log stands, signed by a manager.

use clap::Args;
use daemon::engine_api::heads::HeadReport;

use super::Context;
use crate::failure::Failure;

/// Show how the log stands, signed by this manager; with --json, a file for 'log verify --head'
#[derive(Args, Clone, Debug)]
pub(crate) struct HeadArgs {
    /// Not a new one: the last that this node was told and keeps, on any node
    #[arg(long)]
    kept: bool,
}

/// Asks for it.
pub(super) async fn run(args: &HeadArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let head: Option<HeadReport> = client.own(if args.kept { "/log/head?kept=1" } else { "/log/head" }).await?;
    let head = head.ok_or_else(super::no_log)?;
    if context.out.json() {
        return context.out.document(&head);
    }
    context.out.line(format!("{} entries, root {}", head.size, head.root_hash))?;
    let (manager, epoch) = (head.manager.as_deref().unwrap_or("?"), cluster_epoch(head.epoch));
    context
        .out
        .line(format!("Signed at {} by manager {manager}, of cluster {}, epoch {epoch}", head.time, head.cluster_id))
}

/// As operators are shown it elsewhere.
fn cluster_epoch(epoch: u64) -> String {
    match epoch >> 32 {
        0 => epoch.to_string(),
        generation => format!("{generation}-{:08x}", epoch & u64::from(u32::MAX)),
    }
}
