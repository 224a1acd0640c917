//! The project's tasks: `cargo xtask test` is all of continuous integration, on a laptop too. No task edits a file, except `codegen` and
//! `coverage`, which are there to, and only without `--check`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to a person")]

mod arrows;
mod ci;
mod codegen;
mod coverage;
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
    /// Run one simulated cluster from its seed
    Sim {
        /// The seed, decimal or hexadecimal (0x5eed)
        #[arg(long)]
        seed: String,
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
        Task::Sim { seed } => ci::sim(&seed),
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
