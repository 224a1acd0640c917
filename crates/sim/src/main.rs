//! Runs simulated clusters: small ones in which everything goes wrong, or with `--fleet` a large one.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use swarmpki_sim::fleet::evenly;
use swarmpki_sim::large::{self, Costs};
use swarmpki_sim::several::strike;
use swarmpki_sim::{Config, Failed, Fleet, Large, Several, Summary, fleet, run, several};

const USAGE: &str = "\
usage: swarmpki-sim [--seed SEED] [--seeds HOW-MANY] [--nodes MACHINES] [--steps FAULTS]
       swarmpki-sim --fleet MACHINES [--seed SEED] [--seeds HOW-MANY] [--asleep MACHINES] [--restarts HOW-MANY]
                    [--skew SECONDS] [--lost IN-A-THOUSAND] [--rotations HOW-MANY]
       swarmpki-sim --managers MANAGERS [--seed SEED] [--seeds HOW-MANY] [--nodes MACHINES] [--steps FAULTS]
       swarmpki-sim --struck MANAGERS [--seed SEED] [--seeds HOW-MANY] [--nodes MACHINES] [--entry ENTRY]
       swarmpki-sim --large MACHINES [--cores CORES] [--seed SEED]

The first runs small clusters in which everything goes wrong, and the root is replaced now and then (--rotations:
how often in a thousand steps). The second runs a large cluster; --lost 0 --restarts 0 --asleep 0 --skew 0 demands
that nothing fails at all. The third runs several managers that crash, are cut off and lag, and come and go. The fourth
tells one story of several managers once for each entry of its log, with which the leader's power goes (--entry: one
alone). The fifth computes how long a rotation of so many nodes takes one manager.
--lines: how many lines of what happened a failure shows.";

/// What to run.
#[derive(Clone)]
enum Kind {
    Small(Config),
    Fleet(Fleet),
    Large(Large),
    Several(Several),
    Struck(Several, Option<u64>),
}

impl Kind {
    fn run(&self, seed: u64) -> Result<Summary, Failed> {
        match self {
            Self::Small(config) => run(&Config { seed, ..*config }),
            Self::Several(config) => several::run(&Several { seed, ..*config }),
            Self::Struck(config, only) => {
                let (summary, told) = strike::every(&Several { seed, ..*config }, *only)?;
                println!("seed {seed:#x}: {told} stories");
                Ok(summary)
            }
            Self::Fleet(fleet) => fleet::run(&Fleet { seed, ..fleet.clone() }),
            Self::Large(large) => {
                let figures =
                    large::run(&Large { seed, ..*large }).map_err(|what| Failed { what, lines: Vec::new() })?;
                println!("{} nodes, {} cores: {figures:#?}", large.nodes, large.cores);
                Ok(Summary::default())
            }
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((kind, first, seeds)) = arguments(&words) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = u64::try_from(threads).unwrap_or(1).min(seeds);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    if nth >= seeds {
                        break;
                    }
                    let well = one(&kind, first.wrapping_add(nth), seeds <= SHOWN_MAX, &words);
                    failed.fetch_or(!well, Ordering::Relaxed);
                }
            });
        }
    });
    if failed.into_inner() {
        return ExitCode::FAILURE;
    }
    if seeds > SHOWN_MAX {
        println!("{seeds} seeds from {first:#x}");
    }
    ExitCode::SUCCESS
}

/// Of more seeds than this only failures are printed.
const SHOWN_MAX: u64 = 20;

/// Runs one seed; whether it was well.
fn one(kind: &Kind, seed: u64, shown: bool, words: &[String]) -> bool {
    let began = Instant::now();
    let failed = match kind.run(seed) {
        Ok(summary) => {
            if shown {
                show(seed, &summary, began.elapsed());
            }
            return true;
        }
        Err(failed) => failed,
    };
    let first = failed.lines.len().saturating_sub(lines_shown(words));
    let mut text: String = failed.lines.iter().skip(first).map(|line| format!("{line}\n")).collect();
    text.push_str(&format!("{}\nrerun: {}", failed.what, rerun(words, seed)));
    eprintln!("{text}");
    false
}

fn show(seed: u64, summary: &Summary, took: Duration) {
    println!(
        "seed {seed:#x}: {} events, {} signatures, {} nodes, {} removed, {} rotations (the last in {:.1} s, {} aside), {} elections, {} min in {:.1} s; trace {:016x}",
        summary.events,
        summary.issued,
        summary.nodes,
        summary.removed,
        summary.rotations,
        summary.rotation.as_secs_f64(),
        summary.aside,
        summary.elections,
        summary.lasted.as_secs() / 60,
        took.as_secs_f64(),
        summary.trace
    );
}

/// How many lines of what happened before a failure are printed.
fn lines_shown(words: &[String]) -> usize {
    let given = words.windows(2).find_map(|pair| (pair[0] == "--lines").then(|| number(&pair[1])));
    given.flatten().and_then(|lines| usize::try_from(lines).ok()).unwrap_or(60)
}

/// The command that runs this seed alone, in the same way.
fn rerun(words: &[String], seed: u64) -> String {
    let pairs = words
        .chunks(2)
        .filter(|pair| !matches!(pair, [word, _] if matches!(word.as_str(), "--seed" | "--seeds" | "--lines")));
    let others: String = pairs.flatten().map(|word| format!(" {word}")).collect();
    format!("cargo xtask sim --seed {seed:#x}{others}")
}

fn arguments(words: &[String]) -> Option<(Kind, u64, u64)> {
    let mut config = Config::default();
    let mut fleet = Fleet::default();
    let mut large = Large { seed: 0, nodes: 0, cores: 8, costs: Costs::default() };
    let mut several = Several::default();
    let (mut is_fleet, mut is_several, mut is_struck, mut only) = (false, false, false, None);
    let (mut seed, mut seeds) = (config.seed, 1);
    for pair in words.chunks(2) {
        let [word, value] = pair else { return None };
        let value = number(value)?;
        let count = usize::try_from(value).ok()?;
        match word.as_str() {
            "--seed" => seed = value,
            "--seeds" => seeds = value,
            "--nodes" => (config.nodes, several.nodes) = (count, count),
            "--managers" => (several.managers, is_several) = (count.max(1), true),
            "--struck" => (several.managers, is_struck) = (count.max(1), true),
            "--entry" => only = Some(value),
            "--lines" => {}
            "--steps" => (config.steps, several.steps) = (count, count),
            "--rotations" => {
                config.rotations = value;
                fleet.rotations = count;
            }
            "--fleet" => {
                is_fleet = true;
                fleet.nodes = count;
            }
            "--large" => large.nodes = count,
            "--cores" => large.cores = count.max(1),
            "--asleep" => fleet.asleep = count,
            "--restarts" => fleet.restarts = evenly(count, fleet.lasts),
            "--skew" => fleet.skew_max = Duration::from_secs(value),
            "--lost" => fleet.lost = value,
            _ => return None,
        }
    }
    let kind = match (large.nodes, is_fleet) {
        _ if is_struck => Kind::Struck(several, only),
        _ if is_several => Kind::Several(several),
        (0, false) => Kind::Small(config),
        (0, true) => Kind::Fleet(fleet),
        _ => Kind::Large(large),
    };
    Some((kind, seed, seeds))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_run_that_failed() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let check = |given: &str, expected: &str| assert_eq!(rerun(&words(given), 0x5eed), expected);
        check("", "cargo xtask sim --seed 0x5eed");
        check("--seed 1 --seeds 100", "cargo xtask sim --seed 0x5eed");
        check("--seeds 9 --nodes 3", "cargo xtask sim --seed 0x5eed --nodes 3");
        check("--fleet 100 --seed 7 --lost 5", "cargo xtask sim --seed 0x5eed --fleet 100 --lost 5");
        assert!(arguments(&words("--fleet")).is_none(), "a word without its value");
        assert!(arguments(&words("--flat 1")).is_none(), "an unknown word");
    }
}
