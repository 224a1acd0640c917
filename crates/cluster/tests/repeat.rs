//! What is said twice, and what is told of it afterwards: over every kind of command that a walk makes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use cluster::State;
use cluster::command::{Command, SecretBox, UpdateCluster};
use cluster::outcome::{Outcome, Rejection};
use cluster::rotation::{Abort, Advance, Phase, Policy, RootsChange, Start, Way};
use pki::identity::Role;
use proptest::collection::vec;
use proptest::prelude::*;
use support::authorities::{authority, cross};
use support::walk::Step;
use support::{Cluster, secret};

fn bytes(state: &State) -> Vec<u8> {
    let mut state = state.clone();
    (state.index, state.time) = (0, support::START);
    state.encode_snapshot()
}

/// Whether the second answer says what the first one said.
fn agree(first: &Outcome, second: &Outcome) -> bool {
    match (first, second) {
        (Outcome::Issued { node, letter, .. }, Outcome::Issued { node: again, letter: same, fresh: false }) => {
            (node, letter) == (again, same)
        }
        (Outcome::Done { .. } | Outcome::Unchanged, Outcome::Done { .. } | Outcome::Unchanged) => true,
        // What was collected is not there to be named again.
        (Outcome::Collected(_), Outcome::Unchanged | Outcome::Collected(_)) => true,
        (first, second) => first == second,
    }
}

fn name(command: &Command) -> String {
    format!("{command:?}").chars().take(80).collect()
}

/// Applies a command that does what it is to do, and says it again.
fn twice(cluster: &mut Cluster, command: &Command) -> Outcome {
    let first = cluster.run(command.clone());
    if matches!(first, Outcome::Rejected(_)) {
        return first;
    }
    let told = cluster.state.already(command);
    let untold = matches!(command, Command::Collect { .. } | Command::AdvanceRotation(_) | Command::Revoke(_));
    if !untold && first != Outcome::Unchanged {
        let told = told.as_ref().unwrap_or_else(|| panic!("nothing tells of {}", name(command)));
        assert!(agree(&first, told), "{}: told otherwise", name(command));
    }
    if command.is_repeatable() {
        let mut again = cluster.clone();
        let second = again.run(command.clone());
        assert!(bytes(&cluster.state) == bytes(&again.state), "{} twice is not once", name(command));
        let late = matches!(second, Outcome::Rejected(_)) && told.is_some_and(|told| agree(&first, &told));
        let step = matches!(command, Command::AdvanceRotation(_)) && matches!(second, Outcome::Rejected(_));
        assert!(agree(&first, &second) || late || step, "{}: answered otherwise", name(command));
    }
    first
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_repeatable_may_be_repeated(steps in vec(any::<Step>(), 1..150)) {
        let mut cluster = Cluster::new();
        for step in steps {
            if let Some(command) = cluster.step(step) {
                twice(&mut cluster, &command);
            }
        }
    }

    /// What is told of a command that was not applied is what comes of it.
    #[test]
    fn what_is_told_is_what_would_come_of_it(steps in vec(any::<Step>(), 1..100)) {
        let mut cluster = Cluster::new();
        for step in steps {
            let Some(command) = cluster.step(step) else { continue };
            let told = cluster.state.already(&command);
            let outcome = cluster.run(command.clone());
            if let (Some(told), false) = (told, matches!(outcome, Outcome::Rejected(_))) {
                prop_assert!(agree(&outcome, &told), "{}: told otherwise", name(&command));
                // A change that names a version is not told before it is made.
                let fresh = !command.is_repeatable() && outcome != Outcome::Unchanged;
                prop_assert!(!fresh, "{} is told, and was not", name(&command));
            }
        }
    }
}

#[test]
fn a_token_replaced_between_two_copies_takes_back_no_join() {
    let mut cluster = Cluster::new();
    let admit = Command::Admit(Box::new(cluster.admission(1)));
    cluster.run(admit.clone());
    cluster.run(update(&cluster, |update| update.worker_secret = Some(secret(9))));
    assert_eq!(cluster.run(admit.clone()), Outcome::Rejected(Rejection::Token));
    assert!(matches!(cluster.state.already(&admit), Some(Outcome::Issued { fresh: false, .. })));
}

#[test]
fn a_wish_is_told_when_it_is_there() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    let wish = cluster.wish(1, Role::Manager);
    assert_eq!(cluster.state.already(&wish), None);
    cluster.run(wish.clone());
    assert!(cluster.state.already(&wish).is_some());
    let other = match cluster.wish(1, Role::Manager) {
        Command::UpdateNode { node, version, mut spec } => {
            spec.name = "other".to_owned();
            Command::UpdateNode { node, version, spec }
        }
        other => other,
    };
    cluster.run(other);
    assert_eq!(cluster.state.already(&wish), None, "another came after it");
}

fn update(cluster: &Cluster, edit: impl FnOnce(&mut UpdateCluster)) -> Command {
    let mut update = UpdateCluster { version: cluster.state.cluster_version, ..UpdateCluster::default() };
    edit(&mut update);
    Command::UpdateCluster(Box::new(update))
}

#[test]
fn steps_of_a_rotation_are_told() {
    let mut cluster = Cluster::of(&authority(0));
    let way = Way::Ladder(vec![cross(&authority(1), &authority(0))]);
    let start = Start { to: authority(1), way, policy: Policy::WaitForAll, logged: Vec::new() };
    let start = update(&cluster, |update| update.roots = Some(RootsChange::Start(Box::new(start))));
    assert_eq!(cluster.state.already(&start), None);
    assert!(matches!(twice(&mut cluster, &start), Outcome::Done { .. }));
    let rotation = cluster.state.rotation().unwrap().id;
    let policy = Policy::Deadline(cluster.now.saturating_add(support::HOUR));
    let policy = update(&cluster, |update| update.roots = Some(RootsChange::Policy(policy)));
    assert_eq!(cluster.state.already(&policy), None);
    assert!(matches!(twice(&mut cluster, &policy), Outcome::Done { .. }));

    let advance = |phase, secret: SecretBox| {
        let (worker_secret, manager_secret) = (secret.clone(), secret);
        Command::AdvanceRotation(Box::new(Advance { rotation, phase, worker_secret, manager_secret }))
    };
    let first = advance(Phase::Renew, secret(21));
    assert_eq!(cluster.state.already(&first), None);
    let letter = cluster.renew(0);
    cluster.confirm(0, &letter);
    assert!(matches!(twice(&mut cluster, &first), Outcome::Done { .. }));
    assert!(cluster.state.already(&first).is_some());

    let abort = Abort {
        ladder: vec![cross(&authority(0), &authority(1)), cross(&authority(1), &authority(0))],
        policy: Policy::WaitForAll,
        logged: Vec::new(),
    };
    let abort = update(&cluster, |update| update.roots = Some(RootsChange::Abort(Box::new(abort))));
    assert_eq!(cluster.state.already(&abort), None);
    let outcome = twice(&mut cluster, &abort);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
}
