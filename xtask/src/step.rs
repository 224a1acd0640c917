//! Steps: each is named, timed, and done, skipped with a reason, or failed. A failure does not stop the steps after it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

/// How a step ended, if it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran.
    Done,
    /// It could not run here, and why.
    Skipped(String),
}

/// Runs steps one after the other and remembers what failed.
#[derive(Default)]
pub(crate) struct Steps {
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Steps {
    /// Runs one step.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<Outcome>) {
        println!("── {name}");
        let start = Instant::now();
        let outcome = match step() {
            // What is missing on a laptop is an error where everything is to be there.
            Ok(Outcome::Skipped(reason)) if everything_required() => {
                Err(anyhow::anyhow!("{reason}, and everything is required here"))
            }
            other => other,
        };
        let took = start.elapsed().as_secs_f64();
        match outcome {
            Ok(Outcome::Done) => println!("── {name}: passed in {took:.1} s"),
            Ok(Outcome::Skipped(reason)) => {
                println!("── {name}: skipped: {reason}");
                self.skipped.push(format!("{name}: {reason}"));
            }
            Err(error) => {
                println!("── {name}: FAILED in {took:.1} s: {error:#}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// The steps that failed.
    pub(crate) fn failed(&self) -> &[String] {
        &self.failed
    }

    /// The steps that were skipped, each with its reason.
    pub(crate) fn skipped(&self) -> &[String] {
        &self.skipped
    }
}

/// Whether a missing tool or peer is a failure: set by `.ci/run`, which installs them all.
pub(crate) fn everything_required() -> bool {
    std::env::var_os("SWARMPKI_REQUIRE_PEERS").is_some_and(|value| value == "1")
}

/// A `cargo` command in the workspace's folder, without standard input.
pub(crate) fn cargo_command(args: &[&str]) -> anyhow::Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).current_dir(crate::workspace::root()?).stdin(Stdio::null());
    // Set by the cargo that runs us, for this package; not for its children.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Runs `cargo` with these arguments.
pub(crate) fn cargo(args: &[&str]) -> anyhow::Result<()> {
    check(cargo_command(args)?)
}

/// Runs a command; an exit code other than 0 is an error.
pub(crate) fn check(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// Whether `cargo NAME` exists.
pub(crate) fn has_cargo(name: &str) -> bool {
    cargo_command(&[name, "--version"]).is_ok_and(|mut command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}

/// Runs a command, passes both of its outputs on line by line, and shows each line to `look` as well.
pub(crate) fn watch(mut command: Command, mut look: impl FnMut(&str)) -> anyhow::Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let (lines, seen) = std::sync::mpsc::channel();
    let outputs: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        child.stdout.take().map(|output| Box::new(output) as _),
        child.stderr.take().map(|output| Box::new(output) as _),
    ];
    for output in outputs.into_iter().flatten() {
        let lines = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
    }
    drop(lines);
    for line in seen {
        writeln!(std::io::stdout(), "{line}")?;
        look(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_hide_the_next() {
        let mut steps = Steps::default();
        let mut ran = false;
        steps.run("first", || bail!("broken"));
        steps.run("second", || {
            ran = true;
            Ok(Outcome::Done)
        });
        assert!(ran);
        assert_eq!(steps.failed(), ["first"]);
        assert!(steps.skipped().is_empty());
    }

    #[test]
    fn both_outputs_are_seen_and_the_code_counts() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two >&2; exit 3"]);
        let mut seen = Vec::new();
        assert!(watch(shell, |line| seen.push(line.to_owned())).is_err());
        seen.sort_unstable();
        assert_eq!(seen, ["one", "two"]);
    }
}
