//! `swarmpki log verify`: reads the whole log and makes its tree anew.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use daemon::engine_api::log::VerifyReport;
use daemon::{UnlockSource, check};
use serde_json::json;

use super::Context;
use crate::failure::Failure;
use crate::output::Output;

/// Read the whole log and compare it with the head in the cluster's state; name the first bad entry
#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    /// Of a stopped daemon: where the node's state lies
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Of a locked manager that is stopped: where its unlock key is, file:PATH, fd:NUMBER or command:COMMAND
    #[arg(long, value_name = "SOURCE")]
    unlock_from: Option<UnlockSource>,
}

impl VerifyArgs {
    /// Whether it reads the files of a stopped daemon.
    pub(super) fn is_offline(&self) -> bool {
        self.state_dir.is_some()
    }
}

/// Asks the daemon to read its own.
pub(super) async fn online(args: &VerifyArgs, context: &mut Context) -> Result<(), Failure> {
    if args.unlock_from.is_some() {
        return Err(Failure::new("the --unlock-from flag requires the --state-dir flag"));
    }
    let mut client = context.client().await?;
    let report: VerifyReport = client.own_call("/log/verify", &json!({})).await?;
    told(&report, &mut context.out)
}

/// Reads that of a stopped daemon.
pub(crate) async fn offline(args: &VerifyArgs, out: &mut Output) -> Result<(), Failure> {
    let dir = args.state_dir.as_deref().unwrap_or(Path::new(""));
    let report = check::verify_log(dir, args.unlock_from.as_ref(), SystemTime::now().into()).await;
    told(&report.map_err(|error| crate::verb::check::refused(&error))?, out)
}

fn told(report: &VerifyReport, out: &mut Output) -> Result<(), Failure> {
    if out.json() {
        out.document(report)?;
    }
    match &report.problem {
        Some(problem) => Err(Failure::new(problem.text.clone()).hint(
            "Keep a copy of the state directory. If no failing disk explains it, somebody changed the log: \
             compare with another manager, and see docs/operations/audit.md.",
        )),
        None if out.json() => Ok(()),
        None => out.line(format!(
            "The log is whole: {} entries, root {}; {} private parts",
            report.size, report.root_hash, report.private
        )),
    }
}
