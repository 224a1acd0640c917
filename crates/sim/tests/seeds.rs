//! Seeds that every run of the tests simulates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use swarmpki_sim::large::{self, Costs};
use swarmpki_sim::{Config, Fleet, Large, Mischief, fleet, quiet, run};

const SEEDS: u64 = 50;

fn check(config: &Config) {
    if let Err(failed) = run(config) {
        let last = failed.lines.len().saturating_sub(60);
        let Config { seed, nodes, steps, .. } = config;
        let rerun = format!("rerun: cargo xtask sim --seed {seed:#x} --nodes {nodes} --steps {steps}");
        panic!("{}\n{}\n{rerun}", failed.lines[last..].join("\n"), failed.what);
    }
}

/// Two threads, each with half of the seeds.
#[test]
fn seeds_converge() {
    let half = |odd: u64| {
        for seed in (0..SEEDS).filter(|seed| seed % 2 == odd) {
            check(&Config { seed, nodes: 3, steps: 60, ..Config::default() });
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        half(0);
        other.join().unwrap();
    });
}

#[test]
fn the_same_seed_is_the_same_run() {
    let config = Config { seed: 0x5eed, nodes: 3, steps: 60, ..Config::default() };
    let first = run(&config).unwrap();
    assert!(first.rotations > 0);
    assert_eq!(first, run(&config).unwrap());
    assert_ne!(first.trace, run(&Config { seed: 0x5eee, ..config }).unwrap().trace);
}

/// A larger cluster: nodes sleep, the manager restarts, clocks differ, calls get lost.
#[test]
fn a_fleet_converges() {
    for seed in 0..3 {
        let config = Fleet { seed, nodes: 150, asleep: 20, ..Fleet::default() };
        if let Err(failed) = fleet::run(&config) {
            let rerun = format!("rerun: cargo run -p swarmpki-sim -- --fleet 150 --asleep 20 --seed {seed:#x}");
            panic!("{}\n{}\n{rerun}", failed.lines.join("\n"), failed.what);
        }
    }
}

/// Nothing goes wrong but the rotations: then nothing fails either, no call and no session.
#[test]
fn a_fleet_rotates_without_a_failure() {
    let config = Fleet {
        nodes: 200,
        asleep: 0,
        restarts: Vec::new(),
        skew_max: Duration::ZERO,
        lost: 0,
        lasts: Duration::from_secs(15 * 60),
        quiet: Duration::from_secs(60),
        ..Fleet::default()
    };
    assert!(config.is_calm());
    match fleet::run(&config) {
        Ok(summary) => assert_eq!((summary.rotations, summary.aside), (2, 0)),
        Err(failed) => panic!("{}\n{}", failed.lines.join("\n"), failed.what),
    }
}

/// Rules broken on purpose are noticed, and the same story without the mischief is well.
#[test]
fn broken_rules_are_noticed() {
    let story = |mischief| quiet(&Config { seed: 0xb0b, nodes: 4, mischief, ..Config::default() });
    let check = |mischief, says: &str| match story(Some(mischief)) {
        Ok(_) => panic!("{mischief:?} is not noticed"),
        Err(failed) => assert!(failed.what.contains(says), "{mischief:?}: {}", failed.what),
    };
    if let Err(failed) = story(None) {
        panic!("{}\n{}", failed.lines.join("\n"), failed.what);
    }
    check(Mischief::RootBeforeRenewal, "any two members verify each other");
    check(Mischief::NoLadder, "a rotation does not end");
    check(Mischief::OwnRootOnly, "comes back by itself");
}

/// The model of a rotation of very many nodes, with fewer.
#[test]
fn a_large_rotation_ends_in_time() {
    let figures = large::run(&Large { seed: 1, nodes: 3000, cores: 8, costs: Costs::default() }).unwrap();
    assert!(figures.finished < Duration::from_secs(15), "{figures:?}");
    assert!(figures.load < 1000, "{figures:?}");
}

/// Seeds that found bugs once: a manager whose chain had grown too long to be taken, after rotation upon rotation (0x28, 0x2b).
#[test]
fn past_seeds_of_rotations() {
    for seed in [0x28, 0x2b] {
        check(&Config { seed, ..Config::default() });
    }
}
