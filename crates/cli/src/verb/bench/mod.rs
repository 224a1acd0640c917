//! `swarmpki bench`: plays nodes against a manager, ours or an engine's, and says what that cost both sides.
//!
//! - everything goes over the real protocol, from one process and one thread, so that little of a small machine is taken
//!   from the manager beside it;
//! - keys and CSRs are made before the clock starts;
//! - an answer counts only once it was checked as an engine checks it;
//! - the manager's own cost is read from `/proc`, if `--pid` says which process it is.

mod failover;
mod figures;
mod fleet;
mod handshake;
mod issue;
mod member;
mod meter;
mod rotate;
mod target;

use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;
use crate::output::Output;

/// Measure a manager, ours or a Docker Engine's, by playing its nodes
///
/// The nodes stay in its cluster: bench one made for that.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum BenchCommand {
    Failover(failover::FailoverArgs),
    Fleet(fleet::FleetArgs),
    Handshake(handshake::HandshakeArgs),
    Issue(issue::IssueArgs),
    Rotate(rotate::RotateArgs),
}

/// Runs one measurement and prints its figures.
pub(crate) async fn run(command: &BenchCommand, out: &mut Output) -> Result<(), Failure> {
    match command {
        BenchCommand::Failover(args) => failover::run(args, out).await,
        BenchCommand::Fleet(args) => fleet::run(args, out).await,
        BenchCommand::Handshake(args) => handshake::run(args, out).await,
        BenchCommand::Issue(args) => issue::run(args, out).await,
        BenchCommand::Rotate(args) => rotate::run(args, out).await,
    }
}

/// Prints the figures: as JSON if asked for, else a line each.
fn report(report: &impl Serialize, out: &mut Output) -> Result<(), Failure> {
    if out.json() {
        return out.document(report);
    }
    let value = serde_json::to_value(report).map_err(|error| Failure::new(format!("the figures: {error}")))?;
    lines("", &value, out)
}

fn lines(name: &str, value: &Value, out: &mut Output) -> Result<(), Failure> {
    let words = name.replace('_', " ");
    match value {
        Value::Null => Ok(()),
        Value::Object(fields) => fields.iter().try_for_each(|(field, value)| {
            lines(&if name.is_empty() { field.clone() } else { format!("{name}: {field}") }, value, out)
        }),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(number) => out.line(format!("{words}: {number:.3}")),
            None => out.line(format!("{words}: {number}")),
        },
        Value::String(text) => out.line(format!("{words}: {text}")),
        other => out.line(format!("{words}: {other}")),
    }
}
