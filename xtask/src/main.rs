//! The project's tasks: `cargo xtask test` is all of continuous integration, on a laptop too. No task edits a file, except `codegen`,
//! `coverage` and `first`, which are there to, and only without `--check`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to a person")]

mod arrows;
mod ci;
mod codegen;
mod coverage;
mod first;
mod readme;
mod step;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's tasks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// All of continuous integration: format, lints, arrows, documentation, tests, seeds, smoke runs, licences
    Test,
    /// Compare the dependencies between our crates with the list in the style guide
    Arrows,
    /// Generate Rust from proto/
    Codegen {
        /// Only compare, change nothing
        #[arg(long)]
        check: bool,
    },
    /// Write conformance/COVERAGE.md: which items of the conformance list have a test
    Coverage {
        /// Only compare, change nothing
        #[arg(long)]
        check: bool,
    },
    /// Write crates/cli/first.ld: which functions stand side by side in the program (needs valgrind)
    First,
    /// Run simulated clusters from their seeds
    ///
    /// `--seed SEED [--seeds HOW-MANY] [--nodes MACHINES] [--steps FAULTS] [--rotations IN-A-THOUSAND]`: small clusters in
    /// which everything goes wrong; so often a step is the operator's and concerns the root. `--fleet MACHINES [--asleep
    /// MACHINES] [--restarts HOW-MANY] [--skew SECONDS] [--lost IN-A-THOUSAND] [--rotations HOW-MANY]`: a large one; with
    /// asleep, restarts, skew and lost at 0 nothing may fail. `--large MACHINES [--cores CORES]`: how long a rotation of so
    /// many nodes takes one manager. `--lines HOW-MANY`: of what happened before a failure.
    Sim {
        /// What the simulator is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        words: Vec<String>,
    },
    /// Feed every parser with damaged input for a few seconds
    FuzzSmoke,
    /// Run each benchmark once, to see that it still runs
    BenchSmoke,
    /// Compare the README with what `swarmpki --help` prints
    Readme,
    /// Check licences, banned crates and sources of all dependencies
    Deny,
    /// Check all dependencies against the advisory database (which must be reachable)
    Advisories,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test => return ci::test(),
        Task::Arrows => arrows::check(),
        Task::Codegen { check } => codegen::run(check),
        Task::Coverage { check } => coverage::run(check),
        Task::First => first::run(),
        Task::Sim { words } => ci::sim(&words.iter().map(String::as_str).collect::<Vec<_>>()),
        Task::FuzzSmoke => ci::fuzz_smoke(),
        Task::BenchSmoke => ci::bench_smoke().map(|_| ()),
        Task::Readme => readme::check().map(|_| ()),
        Task::Deny => step::cargo(&["deny", "check", "licenses", "bans", "sources"]),
        Task::Advisories => step::cargo(&["deny", "check", "advisories"]),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
