//! `swarmpki log verify`: reads the whole log and makes its tree anew.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use daemon::engine_api::heads::{HeadReport, HeadVerdict, KeptHead};
use daemon::engine_api::log::{Consistency, VerifyReport};
use daemon::{UnlockSource, check};
use serde_json::json;

use super::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::shown;

/// Read the whole log and compare it with the cluster's state and with signed heads; name the first bad entry
#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    /// Of a stopped daemon: where the node's state lies
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Of a locked manager that is stopped: where its unlock key is, file:PATH, fd:NUMBER or command:COMMAND
    #[arg(long, value_name = "SOURCE")]
    unlock_from: Option<UnlockSource>,
    /// Compare it with a head that was kept elsewhere: a file of 'log head --json'; more than one may be named
    #[arg(long = "head", value_name = "FILE")]
    heads: Vec<PathBuf>,
}

impl VerifyArgs {
    /// Whether it reads the files of a stopped daemon.
    pub(super) fn is_offline(&self) -> bool {
        self.state_dir.is_some()
    }

    /// The heads as they were signed. What stands in a file besides is not passed over if it says something else.
    fn heads(&self) -> Result<Vec<KeptHead>, Failure> {
        let read = |path: &PathBuf| {
            let failed = |error: &dyn std::fmt::Display| {
                Failure::new(format!("{} is no head to compare with: {error}", path.display()))
                    .hint("Nothing is said of the log by that. Take another copy of the file, or make one on a manager that you trust: swarmpki log head --json")
            };
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::new(format!("cannot read {}: {error}", path.display())))?;
            let head: HeadReport = serde_json::from_str(&text).map_err(|error| failed(&error))?;
            head.read().map_err(|why| failed(&why))
        };
        self.heads.iter().map(read).collect()
    }
}

/// Asks the daemon to read its own.
pub(super) async fn online(args: &VerifyArgs, context: &mut Context) -> Result<(), Failure> {
    if args.unlock_from.is_some() {
        return Err(Failure::new("the --unlock-from flag requires the --state-dir flag"));
    }
    let heads = args.heads()?;
    let statements: Vec<String> = heads.iter().map(|head| HeadReport::from(head).statement).collect();
    let mut client = context.client().await?;
    let report: VerifyReport = client.own_call("/log/verify", &json!({"Heads": statements})).await?;
    // What the manager says of a head is not taken on trust: the proof is checked here.
    let given = heads.iter().zip(report.heads.iter().filter(|verdict| !verdict.kept));
    for (given, _) in given.filter(|(_, verdict)| verdict.verdict == "fits") {
        let size = report.size;
        let path = format!("/log/consistency?before={}&size={size}", given.head.size);
        let proof: Option<Consistency> = client.own(&path).await?;
        let proof = proof.ok_or_else(super::no_log)?;
        if proof.root_hash != report.root_hash
            || !super::prove::goes_on(&proof, given.head.size, &given.head.root, size)
        {
            return Err(super::prove::lies("that the log goes on from the head that was signed"));
        }
    }
    told(&report, &mut context.out)
}

/// Reads that of a stopped daemon.
pub(crate) async fn offline(args: &VerifyArgs, out: &mut Output) -> Result<(), Failure> {
    let heads = args.heads()?;
    let dir = args.state_dir.as_deref().unwrap_or(Path::new(""));
    let report = check::verify_log(dir, &heads, args.unlock_from.as_ref(), SystemTime::now().into()).await;
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
        None => {
            if !out.json() {
                out.line(format!(
                    "The log is whole: {} entries, root {}; {} private parts",
                    report.size, report.root_hash, report.private
                ))?;
            }
            compared(report, out)
        }
    }
}

/// What came of the comparison with signed heads.
fn compared(report: &VerifyReport, out: &mut Output) -> Result<(), Failure> {
    let mut bad = None;
    for verdict in &report.heads {
        let whose = if verdict.kept { "The head that this node keeps" } else { "The head that was given" };
        let by = match (&verdict.manager, &verdict.unproven) {
            (Some(manager), _) => format!(", signed by manager {manager}"),
            (None, Some(why)) if !verdict.is_bad() => format!(", signed by {why}"),
            (None, _) => String::new(),
        };
        let line = format!("{whose} ({} entries, {}{by}): {}", verdict.size, verdict.time, verdict.text);
        if verdict.is_bad() {
            bad.get_or_insert((line, next_step(verdict)));
        } else if !out.json() {
            out.line(shown::field(&line))?;
        }
    }
    match bad {
        None => Ok(()),
        Some((line, next)) => Err(Failure::new(shown::field(&line)).hint(next)),
    }
}

/// What to do about a head that does not fit.
fn next_step(verdict: &HeadVerdict) -> &'static str {
    match (verdict.verdict.as_str(), verdict.kept) {
        ("unproven", true) => {
            "That says nothing against the log. Keep certificates/swarm-log-head.bin of this node elsewhere, take it out of the \
             state directory while the daemon is stopped, and the node is told a head anew. See docs/operations/audit.md."
        }
        ("unproven", false) => {
            "That says nothing against the log. Take the head anew, on a manager that you trust: swarmpki log head --json. Or \
             compare what nodes keep: swarmpki log head --kept. See docs/operations/audit.md."
        }
        ("foreign", _) => "Ask a manager of that cluster and epoch; swarmpki info says which one this is.",
        _ => {
            "Keep the head and a copy of the state directory: together they show that the log was changed after it was signed. \
             Compare with another manager, and see docs/operations/audit.md."
        }
    }
}
