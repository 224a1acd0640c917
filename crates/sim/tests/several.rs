//! Three managers: seeds that every run of the tests simulates, and rules broken on purpose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use swarmpki_sim::several::strike::{Moment, Strike};
use swarmpki_sim::several::{Several, run, strike};
use swarmpki_sim::{Failed, Mischief, Summary};

fn story(seed: u64, mischief: Option<Mischief>) -> Result<Summary, Failed> {
    run(&Several { seed, mischief, ..Several::default() })
}

#[test]
fn three_managers_converge() {
    let mut elections = 0;
    for seed in 0..4 {
        match story(seed, None) {
            Ok(summary) => elections += summary.elections,
            Err(failed) => {
                let last = failed.lines.len().saturating_sub(60);
                let lines = failed.lines[last..].join("\n");
                panic!("{lines}\n{}\nrerun: cargo xtask sim --seed {seed:#x} --managers 3", failed.what);
            }
        }
    }
    assert!(elections > 0);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let short = |seed| run(&Several { seed, steps: 15, ..Several::default() }).unwrap();
    assert_eq!(short(1), short(1));
    assert_ne!(short(1).trace, short(2).trace);
}

/// With some entries of the log the leader's power goes; `cargo xtask sim --struck 3` does it with all of them.
#[test]
fn a_leader_is_struck_with_any_entry() {
    let config = Several { seed: 0x571, ..Several::default() };
    let (whole, entries) = strike::story(&config, None).unwrap();
    assert!(whole.rotations > 0 && whole.removed > 0, "{whole:?}");
    let mut elections = 0;
    for (turn, entry) in (2..=entries).step_by(9).enumerate() {
        let strike = Strike { entry, moment: Moment::ALL[turn % Moment::ALL.len()] };
        match strike::story(&config, Some(strike)) {
            Ok((summary, _)) => elections += summary.elections,
            Err(failed) => {
                let last = failed.lines.len().saturating_sub(60);
                let lines = failed.lines[last..].join("\n");
                panic!(
                    "{lines}\n{strike:?}: {}\nrerun: cargo xtask sim --struck 3 --seed 0x571 --entry {entry}",
                    failed.what
                );
            }
        }
    }
    assert!(elections > 0);
}

/// The first seeds of a broken rule, until one is noticed.
fn noticed(mischief: Mischief, says: &[&str]) {
    for seed in 0..8 {
        if let Err(failed) = story(seed, Some(mischief)) {
            assert!(says.iter().any(|says| failed.what.contains(says)), "{mischief:?}: {}", failed.what);
            return;
        }
    }
    panic!("{mischief:?} is not noticed");
}

#[test]
fn down_by_one_that_does_not_lead_is_noticed() {
    noticed(Mischief::DownByAnybody, &["called down"]);
}

#[test]
fn an_alarm_at_a_late_follower_is_noticed() {
    noticed(Mischief::AlarmAtOnce, &["no leaf is called forged"]);
}

#[test]
fn sessions_with_one_that_hears_nobody_are_noticed() {
    noticed(Mischief::AdmitsCutOff, &["admits nobody"]);
}

#[test]
fn an_older_session_that_wins_is_noticed() {
    // Which of the two comes of it first depends on the seed.
    noticed(Mischief::OlderSessionWins, &["called down", "a session is counted with another manager for long"]);
}

#[test]
fn a_refusal_of_what_was_taken_is_noticed() {
    noticed(Mischief::NoAlready, &["what is in the log is not refused"]);
}
