//! Runs simulated clusters: `swarmpki-sim [--seed N] [--seeds N] [--nodes N] [--steps N]`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use swarmpki_sim::{Config, run};

const USAGE: &str = "usage: swarmpki-sim [--seed SEED] [--seeds HOW-MANY] [--nodes MACHINES] [--steps FAULTS]";

fn main() -> ExitCode {
    let Some((first, seeds)) = arguments(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    for seed in (0..seeds).map(|n| first.seed.wrapping_add(n)) {
        match run(&Config { seed, ..first }) {
            Ok(summary) => println!(
                "seed {seed:#x}: {} events, {} signatures, {} nodes, {} removed, {} min; trace {:016x}",
                summary.events,
                summary.issued,
                summary.nodes,
                summary.removed,
                summary.lasted.as_secs() / 60,
                summary.trace
            ),
            Err(failed) => {
                for line in failed.lines {
                    eprintln!("{line}");
                }
                eprintln!("{}", failed.what);
                eprintln!("rerun: cargo xtask sim --seed {seed:#x}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn arguments(mut words: impl Iterator<Item = String>) -> Option<(Config, u64)> {
    let mut config = Config::default();
    let mut seeds = 1;
    while let Some(word) = words.next() {
        let value = number(&words.next()?)?;
        match word.as_str() {
            "--seed" => config.seed = value,
            "--seeds" => seeds = value,
            "--nodes" => config.nodes = usize::try_from(value).ok()?,
            "--steps" => config.steps = usize::try_from(value).ok()?,
            _ => return None,
        }
    }
    Some((config, seeds))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
