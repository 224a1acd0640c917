//! `swarmpki ca abort`: takes the rotation under way back.

use std::time::Duration;

use clap::Args;
use daemon::engine_api::rotation::{AbortRequest, StatusReport};

use super::follow::{self, Wait};
use super::rotate::check_deadline;
use super::{outcome, status};
use crate::failure::Failure;
use crate::go_duration;
use crate::verb::Context;

/// Said when no rotation is under way.
const FINISHED: &str = "One that has ended cannot be taken back: the manager gave the old root's key up then.\nIf you hold that root's key, a rotation leads back to it: swarmpki ca rotate --ca-cert FILE \
    --ca-key FILE\nElse to another new root: swarmpki ca rotate";

/// Take the rotation under way back: every node returns to the old root, then the new key is destroyed
///
/// Waits for the end and shows how far it is. Exit codes as those of ca wait.
#[derive(Args, Clone, Debug)]
pub(crate) struct AbortArgs {
    /// Put nodes aside that did not come back by then
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    deadline: Option<Duration>,
    /// Begin the way back and do not wait for its end
    #[arg(short, long)]
    detach: bool,
    /// Wait without showing progress
    #[arg(short, long)]
    quiet: bool,
}

/// Aborts.
pub(super) async fn run(args: &AbortArgs, context: &mut Context) -> Result<(), Failure> {
    check_deadline(args.deadline)?;
    let mut client = context.client().await?;
    let before = status::read(&mut client).await?;
    if before.rotation.is_none() {
        return Err(Failure::new("No root rotation is under way: there is nothing to abort.").hint(FINISHED));
    }
    let deadline_ms = args.deadline.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    let begun: StatusReport = client.own_call("/ca/abort", &AbortRequest { deadline_ms }).await?;
    if args.detach {
        return if context.out.json() { context.out.document(&begun) } else { Ok(()) };
    }
    let wait = Wait { quiet: args.quiet, ..Wait::default() };
    match follow::follow(begun.clone(), wait, &mut client, context).await? {
        _ if args.quiet && !context.out.json() => Ok(()),
        Some(ended) => outcome::report(&ended, context),
        None if context.out.json() => context.out.document(&begun),
        None => context.out.line("The rotation was taken back: the root is as before."),
    }
}
