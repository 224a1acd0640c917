//! A moment of fuzzing in every run of the tests: the targets of `fuzz/`, on inputs damaged by chance from a fixed seed. A find is printed with
//! what repeats it; put the input into `fuzz/corpus/<target>/seed-<name>`, where every later run begins with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

#[allow(unreachable_pub, reason = "public in the package that fuzzes")]
#[path = "../../fuzz/src/targets.rs"]
mod targets;

use targets::TARGETS;

/// Enough for each target to see its inputs damaged in every place; the time limit is for machines that have something else to do.
const INPUTS: u64 = 20_000;
const TIME: Duration = Duration::from_secs(4);
const SEED: u64 = 0x5eed;

#[test]
fn damaged_input_breaks_no_promise() {
    std::thread::scope(|scope| {
        for (number, target) in (0_u64..).zip(TARGETS) {
            // A panic of the target ends its thread with its input shown by the guard; the scope then fails the test.
            std::thread::Builder::new()
                .name(target.name.into())
                .spawn_scoped(scope, move || drive(target, SEED + number))
                .unwrap();
        }
    });
}

#[test]
fn every_target_accepts_its_seeds_and_has_a_file() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/fuzz_targets");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort_unstable();
    let mut names: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    names.sort_unstable();
    assert_eq!(files, names);
    for target in TARGETS {
        assert!(!(target.seeds)().is_empty(), "{}", target.name);
    }
}

fn drive(target: &targets::Target, seed: u64) {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut seeds = (target.seeds)();
    seeds.extend(kept(target.name));
    let start = Instant::now();
    for seed in &seeds {
        feed(target, seed);
    }
    for _ in 0..INPUTS {
        if start.elapsed() > TIME {
            return;
        }
        let input = damaged(&seeds, &mut chance);
        feed(target, &input);
    }
}

fn feed(target: &targets::Target, input: &[u8]) {
    let shown = Shown { name: target.name, input };
    (target.run)(input);
    std::mem::forget(shown);
}

/// Says what it was, if the target panics over it.
struct Shown<'a> {
    name: &'static str,
    input: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        panic_note(self.name, self.input);
    }
}

#[allow(clippy::print_stderr)]
fn panic_note(name: &str, input: &[u8]) {
    eprintln!(
        "target {name} broke over these bytes: {}",
        input.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    );
}

/// Inputs that broke something once.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// One of the seeds with a few random changes.
fn damaged(seeds: &[Vec<u8>], chance: &mut ChaCha8Rng) -> Vec<u8> {
    let mut below = |end: usize| usize::try_from(chance.next_u64() % (end.max(1) as u64)).unwrap();
    let mut bytes = seeds[below(seeds.len())].clone();
    for _ in 0..=below(4) {
        let (place, other) = (below(bytes.len()), below(bytes.len()));
        match below(7) {
            _ if bytes.is_empty() => bytes.push(u8::try_from(below(256)).unwrap()),
            0 => bytes[place] ^= 1 << below(8),
            1 => bytes[place] = [0, 1, 0x7f, 0x80, 0xff, b'-', b'\n', b'='][below(8)],
            2 => bytes.truncate(place),
            3 => drop(bytes.drain(place.min(other)..place.max(other))),
            4 => bytes.insert(place, u8::try_from(below(256)).unwrap()),
            5 => {
                let part = bytes[place.min(other)..place.max(other)].to_vec();
                bytes.splice(place..place, part);
            }
            _ => bytes.extend_from_slice(&seeds[below(seeds.len())]),
        }
    }
    bytes
}
