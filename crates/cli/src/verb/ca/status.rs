//! `swarmpki ca status` and `swarmpki ca wait`: how the roots stand, and the end of a rotation.

use std::time::Duration;

use clap::Args;
use daemon::engine_api::rotation::StatusReport;

use super::follow::{self, Wait};
use super::{outcome, words};
use crate::client::Client;
use crate::failure::Failure;
use crate::go_duration;
use crate::verb::Context;

/// Show how the roots stand: the rotation under way, and who it waits for and why
#[derive(Args, Clone, Debug)]
pub(crate) struct StatusArgs {
    /// Show it as it changes, until the rotation ends; exit codes as those of ca wait
    #[arg(short, long)]
    watch: bool,
}

/// Wait for the end of the rotation under way
///
/// Exit code 0: it ended, or none is under way; 3: it was aborted or replaced; 124: the time ran out; 130: interrupted. The
/// rotation goes on in the last two.
#[derive(Args, Clone, Debug)]
pub(crate) struct WaitArgs {
    /// Wait for this time at most (ns|us|ms|s|m|h|d)
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    timeout: Option<Duration>,
    /// Wait without showing progress
    #[arg(short, long)]
    quiet: bool,
}

/// Prints the status.
pub(super) async fn run(args: &StatusArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let status = read(&mut client).await?;
    if args.watch && status.rotation.is_some() {
        let wait = Wait { json_lines: context.out.json(), ..Wait::default() };
        if let Some(ended) = follow::follow(status, wait, &mut client, context).await? {
            return outcome::report(&ended, context);
        }
        return Ok(());
    }
    if context.out.json() {
        return context.out.document(&status);
    }
    context.out.line(words::status(&status))
}

/// Waits.
pub(super) async fn wait(args: &WaitArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let status = read(&mut client).await?;
    let wait = Wait { quiet: args.quiet, timeout: args.timeout, json_lines: false };
    match follow::follow(status.clone(), wait, &mut client, context).await? {
        Some(ended) if !args.quiet || context.out.json() => outcome::report(&ended, context),
        Some(_) => Ok(()),
        None if context.out.json() => context.out.document(&status),
        None if args.quiet => Ok(()),
        None => context.out.line("No root rotation is under way."),
    }
}

/// The status, from a daemon that has one.
pub(super) async fn read(client: &mut Client) -> Result<StatusReport, Failure> {
    client.own("/ca/status").await?.ok_or_else(|| {
        Failure::new("this daemon does not tell how a rotation stands: it is a Docker Engine, or an older swarmpki")
            .hint("Docker tells only whether one is under way: docker info")
    })
}
