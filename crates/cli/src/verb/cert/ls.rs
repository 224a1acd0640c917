//! `swarmpki cert ls`: the certificates of those who command the swarm.

use clap::Args;
use daemon::engine_api::operators::OperatorsReport;
use jiff::Timestamp;

use crate::api::moment;
use crate::failure::Failure;
use crate::span;
use crate::table::Table;
use crate::verb::Context;

/// List the certificates that have not ended
#[derive(Args, Clone, Debug)]
pub(crate) struct LsArgs {
    /// Only display serials
    #[arg(short, long)]
    quiet: bool,
}

/// Lists.
pub(crate) async fn run(args: &LsArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let report: Option<OperatorsReport> = client.own("/operators").await?;
    let report = report.ok_or_else(|| Failure::new("this daemon has no operators: it is not swarmpki's"))?;
    if args.quiet {
        return report.operators.iter().try_for_each(|operator| context.out.line(&operator.serial));
    }
    if context.out.json() {
        return context.out.document(&report);
    }
    let now = Timestamp::now();
    let mut table = Table::new(&["NAME", "ROLE", "STATE", "EXPIRES", "ISSUED", "SERIAL"]);
    let when = |time: &str| moment(time).map_or_else(|| "-".to_owned(), |then| span::relative(then, now));
    for operator in report.operators {
        let (expires, issued) = (when(&operator.not_after), when(&operator.issued));
        table.row(vec![operator.name, operator.role, operator.state, expires, issued, operator.serial]);
    }
    context.out.text(table.draw())
}
