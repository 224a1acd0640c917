//! `swarmpki token revoke`: a join token with limits admits nobody any more.

use clap::Args;
use serde_json::json;

use crate::client::escape;
use crate::failure::Failure;
use crate::verb::Context;

/// Revoke one or more join tokens with limits
///
/// Who began to join by one and is not in yet stays out; the nodes that it admitted stay: swarmpki token ls names them.
#[derive(Args, Clone, Debug)]
pub(crate) struct RevokeArgs {
    /// Ids: swarmpki token ls
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Tries to revoke all of them, then reports what failed.
pub(crate) async fn run(args: &RevokeArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let (mut revoked, mut failures) = (Vec::new(), Vec::new());
    for id in &args.ids {
        match client.own_delete(&format!("/tokens/{}", escape(id))).await {
            Ok(()) if context.out.json() => revoked.push(id),
            Ok(()) => context.out.line(id)?,
            Err(failure) => failures.push(failure),
        }
    }
    if context.out.json() {
        context.out.document(&json!({"Revoked": revoked}))?;
    }
    Failure::join(failures)
}
