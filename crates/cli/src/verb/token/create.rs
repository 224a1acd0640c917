//! `swarmpki token create`: makes a join token with limits and shows it once.

use std::time::Duration;

use clap::Args;
use daemon::engine_api::tokens::{CreateRequest, Created};

use super::no_such_tokens;
use crate::failure::Failure;
use crate::go_duration;
use crate::verb::Context;
use crate::verb::join_token::how_to_join;
use crate::words::NodeRole;

/// Make a join token that ends by itself, and show it once
///
/// Docker Engines join by it as by any other. It is stored as a hash: who loses it makes another one. A use is taken by each
/// machine that joins; trying again burns none.
#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    /// What a machine becomes that joins by it
    #[arg(long, value_name = "ROLE", value_enum, default_value_t = NodeRole::Worker)]
    role: NodeRole,
    /// How long it admits anybody: a minute to 366 days (ns|us|ms|s|m|h|d)
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = go_duration::parse)]
    ttl: Duration,
    /// How many machines it admits: 1 to 10000
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    uses: u32,
    /// Text to know it by
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    /// Only display the token
    #[arg(short, long)]
    quiet: bool,
}

/// Makes it.
pub(crate) async fn run(args: &CreateArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = CreateRequest {
        role: args.role.word().to_owned(),
        ttl_ms: u64::try_from(args.ttl.as_millis()).unwrap_or(u64::MAX),
        uses: args.uses,
        note: args.note.clone(),
    };
    // A Docker Engine would only say that there is no such page.
    let _: Vec<serde_json::Value> = client.own("/tokens").await?.ok_or_else(no_such_tokens)?;
    let created: Created = client.own_call("/tokens", &request).await?;
    if context.out.json() {
        return context.out.document(&created);
    }
    if args.quiet {
        return context.out.line(&created.token);
    }
    let report = &created.report;
    let times = if report.uses == 1 { "once".to_owned() } else { format!("{} times", report.uses) };
    context.out.line(format!(
        "Token {} admits a {} {times}, until {}. It is shown now and never again.\n",
        report.id, report.role, report.ends
    ))?;
    if created.addr.is_empty() {
        return context.out.line(&created.token);
    }
    context.out.text(how_to_join(&report.role, &created.token, &created.addr))
}
