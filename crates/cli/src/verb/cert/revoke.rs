//! `swarmpki cert revoke`: a certificate, or all of an operator, are taken back.

use clap::Args;
use daemon::engine_api::operators::{RevokeRequest, RevokedReport};

use crate::failure::Failure;
use crate::verb::Context;

/// Take certificates back: their holders are refused at once, on open connections too
#[derive(Args, Clone, Debug)]
pub(crate) struct RevokeArgs {
    /// All there are, with the root that issued them: the next use makes another
    #[arg(long, conflicts_with = "which")]
    all: bool,
    /// A name, all of whose certificates are meant, or a serial
    #[arg(value_name = "NAME|SERIAL", required_unless_present = "all")]
    which: Option<String>,
}

/// Takes them back.
pub(crate) async fn run(args: &RevokeArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let request = RevokeRequest { which: args.which.clone().unwrap_or_default(), all: args.all };
    let report: RevokedReport = client.own_call("/operators/revoke", &request).await?;
    if context.out.json() {
        return context.out.document(&report);
    }
    for operator in &report.revoked {
        context.out.line(format!("Revoked: {} ({}), serial {}", operator.name, operator.role, operator.serial))?;
    }
    if args.all {
        context.out.line("Nothing that the operators' root ever signed is taken any more. Issue new certificates with: swarmpki cert issue")?;
    }
    Ok(())
}
