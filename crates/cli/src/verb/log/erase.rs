//! `swarmpki log erase`: lets go of addresses and host names of old entries.

use clap::Args;
use daemon::engine_api::log::ErasedReport;
use serde_json::json;

use super::Context;
use crate::failure::Failure;

/// Erase addresses and host names from old entries, with every manager; the entries and their tree stay
#[derive(Args, Clone, Debug)]
pub(crate) struct EraseArgs {
    /// Of entries before this: a date, a time, or how long ago (90d)
    #[arg(long, value_name = "WHEN")]
    before: String,
}

/// Asks for it.
pub(super) async fn run(args: &EraseArgs, context: &mut Context) -> Result<(), Failure> {
    let before = super::when("--before", &args.before)?;
    let mut client = context.client().await?;
    let report: ErasedReport = client.own_call("/log/erase", &json!({"Before": before})).await?;
    if context.out.json() {
        return context.out.document(&report);
    }
    context.out.line(format!("Entries below {} have no private part any more", report.below))
}
