//! `swarmpki check`: whether the state of a stopped daemon is whole.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use daemon::UnlockSource;
use daemon::check::{self, CheckError, LockError, Report, StoreReport};
use daemon::config::default_state_dir;

use crate::failure::Failure;
use crate::output::Output;

/// Check the state of a stopped daemon: key pair, store, invariants, issuance log
#[derive(Args, Clone, Debug)]
pub(crate) struct CheckArgs {
    /// Where the node's state lies, as given to the daemon
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where a locked manager's unlock key is: file:PATH, fd:NUMBER or command:COMMAND; read only if it is locked
    #[arg(long, value_name = "SOURCE")]
    unlock_from: Option<UnlockSource>,
}

/// Checks, and prints what was found; problems are a failure.
pub(crate) async fn run(args: &CheckArgs, out: &mut Output) -> Result<(), Failure> {
    let dir = args.state_dir.clone().unwrap_or_else(default_state_dir);
    let report = check::check(&dir, args.unlock_from.as_ref(), SystemTime::now().into()).await;
    let report = report.map_err(|error| refused(&error))?;
    if out.json() {
        out.document(&report)?;
    } else {
        out.text(page(&report))?;
    }
    match report.problems.len() {
        0 => Ok(()),
        // They are in the document.
        _ if out.json() => Err(Failure::new(summary(&report))),
        _ => {
            let listed: Vec<Failure> = report
                .problems
                .iter()
                .map(|problem| Failure::new(format!("problem: {}", problem.text)).hint(problem.hint.clone()))
                .chain([Failure::new(summary(&report))])
                .collect();
            Failure::join(listed)
        }
    }
}

pub(crate) fn refused(error: &CheckError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        CheckError::Lock(LockError::Io { source, .. })
        | CheckError::StateDir { source, .. }
        | CheckError::Copy { source, .. }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            failure.hint("Run the check as the user that the daemon runs as: sudo swarmpki check --state-dir DIR")
        }
        CheckError::Lock(_) => failure.hint("A state is checked while its daemon is stopped."),
        CheckError::StateDir { .. } => failure.hint("Name the directory with --state-dir, and run as its owner."),
        CheckError::Copy { .. } => failure.hint("The check works on a copy: make room on the disk."),
        CheckError::Locked => failure.hint(
            "Give the key with --unlock-from file:PATH, fd:NUMBER or command:COMMAND; 'swarmpki unlock-key' on a manager \
             that runs shows it.",
        ),
        CheckError::Source(_) | CheckError::NoKey(_) => {
            failure.hint("The source holds the whole key and nothing else: SWMKEY-1-…, as 'swarmpki unlock-key -q' prints it.")
        }
        CheckError::OtherKey(_) => failure.hint(
            "'swarmpki unlock-key' on a manager that runs shows the key of now; one that was stopped when it was rotated is \
             opened with the key before.",
        ),
    }
}

fn summary(report: &Report) -> String {
    match report.problems.len() {
        1 => format!("1 problem in {}", report.state_dir),
        count => format!("{count} problems in {}", report.state_dir),
    }
}

fn page(report: &Report) -> String {
    let mut lines = vec![format!("State directory: {}", report.state_dir)];
    let member = match report.member.as_str() {
        "none" => "in no swarm: nothing to check",
        "unfinished" => "an init, join or leave was cut off: the next start of the daemon undoes or finishes it",
        other => other,
    };
    lines.push(format!("Member: {member}"));
    let facts = [("Cluster", &report.cluster_id), ("Node", &report.node_id), ("Certificate ends", &report.not_after)];
    lines.extend(facts.iter().filter_map(|(name, value)| Some(format!("{name}: {}", value.as_ref()?))));
    if let Some(store) = &report.store {
        lines.extend(store_lines(store));
    }
    if report.problems.is_empty() && matches!(report.member.as_str(), "worker" | "manager") {
        lines.push("No problem found".to_owned());
    }
    lines.join("\n") + "\n"
}

fn store_lines(store: &StoreReport) -> [String; 3] {
    [
        format!(
            "Nodes: {}, unfinished joins: {}, removed: {}, registered leaves: {}",
            store.nodes, store.unfinished, store.removed, store.leaves
        ),
        format!("Issuance log: {} entries, root {}", store.log_size, store.log_root),
        format!("Last entry: {}, cluster time {}", store.index, store.time),
    ]
}
