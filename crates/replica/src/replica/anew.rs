#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! A cluster made anew, from a store whose group is lost and from a backup, over disks whose power goes.

use super::net::{self, join};
use super::*;
use crate::refound::{Backup, refound_on, restore_on};
use crate::support::{self, START, id};
use cluster::account::Actor;
use cluster::command::{Founder, Premises, Refound, Renew};
use cluster::node::{Availability, Spec};
use cluster::{Rejection, invariant};
use pki::identity::Role;

/// Node `n` becomes a manager, with the next place.
async fn seat(leader: &Replica, n: u64) -> u64 {
    let version = leader.state().node(&id(n)).unwrap().version;
    let spec = Box::new(Spec::new(Role::Manager, Availability::Active));
    let letter = Arc::new(support::letter(100 + n, 100 + n, Role::Manager, START, support::LIFE));
    let premises = Premises { issuer: support::root().issuer, epoch: leader.state().epoch(), signed: START };
    let serial = letter.leaf.serial;
    let enlist = Command::Enlist { node: id(n), addr: format!("192.0.2.{n}:2377"), serial, replaces: None };
    let commands = vec![
        Command::UpdateNode { node: id(n), version, spec },
        Command::Renew(Box::new(Renew { node: id(n), cut: 0, letter, premises })),
        enlist,
    ];
    let outcomes = leader.propose(commands).await.unwrap();
    let Some(Outcome::Enlisted { raft_id }) = outcomes.last() else { panic!("{outcomes:?}") };
    let seat = Command::Seat { node: id(n), raft_id: *raft_id };
    assert!(matches!(leader.propose(vec![seat]).await.as_deref(), Ok([Outcome::Done { .. }])));
    *raft_id
}

fn forced(state: &State, n: u64) -> Command {
    let founder = Founder::Manager(id(n));
    Command::Refound(Box::new(Refound { epoch: state.epoch() + 1, addr: "192.0.2.9:2377".to_owned(), founder }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_goes_on_alone_with_all_that_was_answered() {
    for seed in 0..3 {
        let limits = Limits { snapshot_entries: 12, ..Limits::default() };
        let (mut cluster, members) = net::Cluster::three(limits).await;
        for n in 1..=2 {
            join(&members[0], n).await.unwrap();
            net::report(n);
        }
        let confirm = |n| Command::Confirm { node: id(n), serial: support::serial(n) };
        members[0].propose(vec![confirm(1), confirm(2)]).await.unwrap();
        assert_eq!((seat(&members[0], 1).await, seat(&members[0], 2).await), (2, 3));
        for n in 3..=10 + seed {
            join(&members[1], n).await.unwrap();
        }
        let answered = members[1].state();
        cluster.crash(1, seed);
        cluster.crash(3, seed);
        cluster.crash(2, seed);
        let (disk, config) = (cluster.disks[&2].clone(), cluster.config(2));
        tokio::task::spawn_blocking(move || refound_on(&disk, &config, |state| forced(state, 1)))
            .await
            .unwrap()
            .unwrap();
        let alone = cluster.reopen(2).await;
        let state = alone.read().await.unwrap();
        alone.leadership().wait_for(|leadership| leadership.here).await.unwrap();
        assert_eq!((alone.raft_id(), state.epoch(), alone.contact()), (2, 1, Some(Duration::ZERO)));
        invariant::check_step(&answered, &state).unwrap();
        assert_eq!(state.members().keys().collect::<Vec<_>>(), [&id(1)]);
        assert!((0..=10 + seed).all(|n| state.node(&id(n)).is_some()), "all that was answered");
        assert_eq!(alone.log_entries(0, 1000).await.unwrap().len() as u64, state.log_size());
        let admit = |epoch| {
            let Command::Admit(mut admit) = net::admit(30) else { panic!() };
            admit.premises.epoch = epoch;
            vec![Command::Admit(admit)]
        };
        assert_eq!(alone.propose(admit(0)).await.unwrap(), [Outcome::Rejected(Rejection::Epoch)]);
        assert!(matches!(alone.propose(admit(1)).await.as_deref(), Ok([Outcome::Issued { .. }])));
        assert!(alone.backup().await.unwrap().is_whole());
        alone.shutdown().await;
        let again = cluster.reopen(2).await;
        assert!(again.state().node(&id(30)).is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_power_goes_while_a_cluster_is_made_anew() {
    let mut epochs = [0, 0];
    let mut changes = 0;
    loop {
        let (mut cluster, one) = net::Cluster::found(Limits::default()).await;
        for n in 1..=5 {
            join(&one, n).await.unwrap();
        }
        one.shutdown().await;
        cluster.disks[&1].power_for(changes);
        let (disk, config) = (cluster.disks[&1].clone(), cluster.config(1));
        let done =
            tokio::task::spawn_blocking(move || refound_on(&disk, &config, |state| forced(state, 0))).await.unwrap();
        let left = cluster.disks[&1].power();
        cluster.crash(1, changes);
        let one = cluster.reopen(1).await;
        let state = one.read().await.unwrap();
        assert!(done.is_err() || state.epoch() == 1, "after {changes}");
        assert!(
            (0..=5).all(|n| state.node(&id(n)).is_some()),
            "after {changes}: everything is there, in one store or the other"
        );
        assert_eq!(one.log_entries(0, 1000).await.unwrap().len() as u64, state.log_size());
        one.propose(vec![net::report(9)]).await.unwrap();
        one.shutdown().await;
        epochs[usize::try_from(state.epoch()).unwrap()] += 1;
        if left != Some(0) {
            break;
        }
        changes += 1 + changes / 4;
    }
    assert!(epochs.iter().all(|times| *times > 0), "{epochs:?}");
}

/// A follower that was told to erase, and not that it is decided, is the one that goes on: it has the private parts still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_last_entries_erase_does_not_come_back() {
    let (cluster, one) = net::Cluster::found(Limits::default()).await;
    for n in 1..=5 {
        let asked = support::asked(net::admit(n.into()), Actor::Token(0), n);
        assert!(matches!(one.propose(vec![asked]).await.as_deref(), Ok([Outcome::Issued { .. }])));
    }
    let with_private = |log: Vec<LogEntry>| -> Vec<u64> {
        log.into_iter().filter(|entry| entry.private.is_some()).map(|entry| entry.seq).collect()
    };
    let before = with_private(one.log_entries(0, 1000).await.unwrap());
    let [.., below, last] = before[..] else { panic!("{before:?}") };
    let state = one.state();
    one.shutdown().await;

    let (disk, config) = (cluster.disks[&1].clone(), cluster.config(1));
    let (store, _) = Store::open(&disk, &config.dir, &data_key(&config.dek).unwrap()).unwrap();
    let index = store.last_entry().unwrap() + 1;
    let batch = Batch { time: START, commands: vec![Command::EraseLog { below: last }] };
    let (sender, receiver) = oneshot::channel();
    store.append(vec![(index, raft::told(index, 1, 1, batch))], false, Box::new(|done| drop(sender.send(done))));
    receiver.await.unwrap().unwrap();
    assert_eq!(store.issued(below, 1).unwrap().iter().filter(|entry| entry.private.is_some()).count(), 1);
    store.closed(CLOSE_WITHIN).await;

    tokio::task::spawn_blocking(move || refound_on(&disk, &config, |state| forced(state, 0))).await.unwrap().unwrap();
    let anew = cluster.reopen(1).await;
    assert_eq!((anew.state().log_erased, anew.state().epoch()), (last, state.epoch() + 1));
    let log = anew.log_entries(0, 1000).await.unwrap();
    assert_eq!(log.len() as u64, anew.state().log_size());
    assert_eq!(with_private(log).first(), Some(&last), "what is not erased is there, and nothing else");
    anew.verify_log().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_manager_there_changes_nothing() {
    let (mut cluster, one) = net::Cluster::found(Limits::default()).await;
    join(&one, 1).await.unwrap();
    one.shutdown().await;
    let (disk, config) = (cluster.disks[&1].clone(), cluster.config(1));
    let refused =
        tokio::task::spawn_blocking(move || refound_on(&disk, &config, |state| forced(state, 1))).await.unwrap();
    assert!(matches!(refused, Err(OpenError::Refused(Some(Outcome::Rejected(Rejection::NotSeated))))), "{refused:?}");
    cluster.crash(1, 1);
    assert_eq!(cluster.reopen(1).await.state().epoch(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_makes_a_store_elsewhere() {
    let (mut cluster, one) = net::Cluster::found(Limits::default()).await;
    for n in 1..=5 {
        join(&one, n).await.unwrap();
    }
    let Backup { state, mut issued } = one.backup().await.unwrap();
    let shorter = Backup { state: state.clone(), issued: issued[1..].to_vec() };
    assert!(!shorter.is_whole());
    let mut model = support::Cluster { state: State::clone(&state), now: START, drawn: 500, log: Vec::new() };
    let command = model.restoring(7, vec![id(2)]);
    let whole = Backup { state: state.clone(), issued: issued.clone() };
    let (disk, config) = (cluster.disks.entry(7).or_default().clone(), cluster.config(7));
    tokio::task::spawn_blocking(move || restore_on(&disk, &config, whole, command)).await.unwrap().unwrap();
    let restored = cluster.reopen(7).await;
    let now = restored.read().await.unwrap();
    assert_eq!((restored.raft_id(), now.epoch(), now.index), (2, 1, state.index + 1));
    assert!(now.node(&id(7)).is_some() && now.node(&id(1)).is_some() && now.node(&id(2)).is_none());
    let log = restored.log_entries(0, 1000).await.unwrap();
    assert_eq!(log.len() as u64, now.log_size());
    assert_eq!(log[..issued.len()], issued[..]);
    issued[0].bytes[0] ^= 1;
    assert!(!Backup { state, issued }.is_whole());
}
