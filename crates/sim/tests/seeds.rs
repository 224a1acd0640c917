//! Seeds that every run of the tests simulates.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use swarmpki_sim::{Config, Fleet, fleet, run};

const SEEDS: u64 = 50;

fn check(config: &Config) {
    if let Err(failed) = run(config) {
        panic!("{}\n{}\nrerun: cargo xtask sim --seed {:#x}", failed.lines.join("\n"), failed.what, config.seed);
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
