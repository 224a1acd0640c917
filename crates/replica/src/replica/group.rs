#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Several members, in one process.

use super::net::{Cluster, admit, another_leads, caught_up, join, report, same};
use super::*;
use crate::support::{self, START, id};
use pki::identity::Role;
use std::collections::BTreeSet;
use std::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_from_one() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    for n in 1..=20 {
        join(&members[n as usize % 3], n).await.unwrap();
    }
    same(&[one, two, three]).await;
    let voters = BTreeSet::from([1, 2, 3]);
    for member in &members {
        let now = *member.leadership().wait_for(|now| now.leader == Some(1)).await.unwrap();
        assert_eq!(now.here, member.raft_id() == 1);
        member.group().wait_for(|group| group.voters == voters && group.learners.is_empty()).await.unwrap();
        assert!(member.contact().is_some());
        let log = member.log_entries(0, 100).await.unwrap();
        assert_eq!(log.len() as u64, member.state().log_size());
    }
    // Again is the same.
    one.change(GroupChange::AddLearner(2)).await.unwrap();
    one.change(GroupChange::Promote(2)).await.unwrap();
    assert_eq!(two.change(GroupChange::Remove(3)).await, Err(ChangeError::NotLeader));
    assert!(matches!(one.change(GroupChange::Promote(9)).await, Err(ChangeError::Impossible(_))));
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_is_lost_and_nothing_that_was_answered() {
    for seed in 0..3 {
        let (mut cluster, members) = Cluster::three(Limits::default()).await;
        let [one, two, three] = &members[..] else { panic!() };
        join(two, 1).await.unwrap();
        // Under way while it dies.
        let under_way: Vec<_> = (2..20)
            .map(|n| {
                let member = members[1 + n as usize % 2].clone();
                tokio::spawn(async move { join(&member, n).await })
            })
            .collect();
        one.watch().wait_for(|state| state.node(&id(4)).is_some()).await.unwrap();
        let lost = Instant::now();
        cluster.crash(1, seed);
        let leader = another_leads(&[two, three], 1).await;
        println!("seed {seed}: another leads after {:?}", lost.elapsed());
        for answer in under_way {
            answer.await.unwrap().unwrap();
        }
        println!("seed {seed}: all answered after {:?}", lost.elapsed());
        let state = leader.read().await.unwrap();
        assert!((1..20).all(|n| state.node(&id(n)).is_some()));
        let old = cluster.reopen(1).await;
        old.leadership().wait_for(|now| now.leader == Some(leader.raft_id())).await.unwrap();
        same(&[&old, two, three]).await;
        join(&old, 30).await.unwrap();
        same(&[&old, two, three]).await;
        let logs = futures::future::join_all([&old, two, three].map(|member| member.log_entries(0, 1000))).await;
        assert!(logs.iter().all(|log| log.as_ref().unwrap() == logs[0].as_ref().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_commits_nothing_and_gives_no_read() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    cluster.net.isolate(1);
    let (refused, read) = tokio::join!(one.propose(vec![report(1)]), async { one.read().await.map(drop) });
    assert!(matches!(refused, Err(ProposeError::Unknown | ProposeError::NoLeader)), "{refused:?}");
    assert!(matches!(read, Err(ReadError::NoLeader | ReadError::Unavailable { .. })), "{read:?}");
    let leader = another_leads(&[two, three], 1).await;
    join(leader, 1).await.unwrap();
    assert!(one.contact().unwrap() > leader.contact().unwrap());
    assert!(one.state().node(&id(1)).is_none());
    cluster.net.heal();
    assert!(one.read().await.unwrap().node(&id(1)).is_some(), "it reads what the others did meanwhile");
    join(one, 2).await.unwrap();
    same(&[one, two, three]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_gets_the_log_or_a_snapshot() {
    let limits = Limits { snapshot_entries: 20, ..Limits::default() };
    let (cluster, members) = Cluster::three(limits).await;
    let [one, two, three] = &members[..] else { panic!() };
    cluster.net.isolate(3);
    join(one, 1).await.unwrap();
    cluster.net.heal();
    same(&[one, two, three]).await;
    assert_eq!(cluster.net.lock().bulk, 0, "a short absence needs no snapshot");
    cluster.net.isolate(3);
    for n in 2..100 {
        join(two, n).await.unwrap();
    }
    // Followers snapshot and purge too.
    for member in [one, two] {
        member.inner.proposer.node.purged(60).await;
    }
    cluster.net.heal();
    same(&[one, two, three]).await;
    assert!(cluster.net.lock().bulk > 0);
    join(three, 200).await.unwrap();
    same(&[one, two, three]).await;
    whole(three).await;
    let logs = futures::future::join_all([one, two, three].map(|member| member.log_entries(0, 1000))).await;
    assert!(logs.iter().all(|log| log.as_ref().unwrap() == logs[0].as_ref().unwrap()));
}

/// Nothing is missing in its issuance log any more.
async fn whole(member: &Replica) {
    while member.missing().await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_a_gap_is_unknown_until_it_is_filled_by_who_has_the_same() {
    let limits = Limits { snapshot_entries: 20, ..Limits::default() };
    let (cluster, members) = Cluster::three(limits).await;
    let [one, two, three] = &members[..] else { panic!() };
    join(one, 1).await.unwrap();
    same(&[one, two, three]).await;
    cluster.net.isolate(3);
    for n in 2..100 {
        join(two, n).await.unwrap();
    }
    one.inner.proposer.node.purged(60).await;
    // Both give other entries than there are.
    cluster.net.lock().lies = true;
    cluster.net.heal();
    same(&[one, two, three]).await;
    let unknown = Presented {
        cluster: support::cluster_id(),
        role: Role::Worker,
        node: id(500),
        serial: support::serial(500),
        spki: support::spki(500),
        issuer: support::root().issuer,
        not_before: START,
        not_after: START,
    };
    while cluster.net.lock().lied < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(one.is_issued(&unknown).await, Some(false));
    assert_eq!(three.is_issued(&unknown).await, None);
    join(three, 200).await.unwrap();
    let missing = three.missing().await.unwrap().unwrap();
    let kept = three.log_entries(missing.start, 1000).await.unwrap();
    assert!(!kept.is_empty() && kept.iter().all(|entry| entry.seq >= missing.end));
    let before = three.log_entries(0, 1000).await.unwrap();
    assert_eq!(before.last().unwrap().seq + 1, missing.start, "it ends where the gap begins");
    assert_eq!(one.missing().await.unwrap(), None);
    cluster.net.lock().lies = false;
    whole(three).await;
    assert_eq!(three.is_issued(&unknown).await, Some(false));
    assert_eq!(three.log_entries(0, 1000).await.unwrap(), one.log_entries(0, 1000).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_voter_that_did_not_found_the_group_starts_alone() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    join(one, 1).await.unwrap();
    one.change(GroupChange::HandOver(3)).await.unwrap();
    another_leads(&[three], 1).await;
    three.change(GroupChange::Remove(1)).await.unwrap();
    three.change(GroupChange::Remove(2)).await.unwrap();
    three.change(GroupChange::Remove(2)).await.unwrap();
    assert!(matches!(three.change(GroupChange::Remove(3)).await, Err(ChangeError::Impossible(_))));
    three.group().wait_for(|group| group.voters == BTreeSet::from([3])).await.unwrap();
    join(three, 2).await.unwrap();
    assert_eq!(three.contact(), Some(Duration::ZERO));
    drop((one.clone(), two.clone()));
    three.shutdown().await;
    cluster.kill(1);
    cluster.kill(2);
    cluster.kill(3);
    let three = cluster.reopen(3).await;
    assert_eq!(three.raft_id(), 3);
    assert!(three.state().node(&id(2)).is_some());
    join(&three, 3).await.unwrap();
    assert!(three.read().await.unwrap().node(&id(3)).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_lost_is_asked_for_again_if_that_changes_nothing() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    // The leader hears the follower, and its answers do not arrive.
    cluster.net.lock().deaf.insert((2, 1));
    assert_eq!(two.propose(vec![report(1)]).await, Err(ProposeError::Unknown));
    let again = tokio::spawn({
        let two = two.clone();
        async move { join(&two, 7).await }
    });
    one.watch().wait_for(|state| state.node(&id(7)).is_some()).await.unwrap();
    cluster.net.heal();
    again.await.unwrap().unwrap();
    let log = one.log_entries(0, 100).await.unwrap().len();
    same(&[one, two, three]).await;
    assert_eq!(log, one.log_entries(0, 100).await.unwrap().len(), "issued once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_way_is_a_way() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    cluster.net.lock().delay = Duration::from_millis(120);
    for (n, member) in (1..=6).zip([one, two, three].into_iter().cycle()) {
        join(member, n).await.unwrap();
        assert!(member.read().await.unwrap().node(&id(n)).is_some());
    }
    same(&[one, two, three]).await;
    assert_eq!(one.leadership().borrow().term, three.leadership().borrow().term, "nobody fell from leading");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_failed_disk_stops_and_the_others_go_on() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    cluster.disks[&2].fail_syncs();
    join(one, 1).await.unwrap();
    two.fatal().await;
    join(three, 2).await.unwrap();
    assert!(matches!(two.propose(vec![admit(3)]).await, Err(ProposeError::Fatal(_) | ProposeError::Unknown)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_speaks_for_itself_only_and_nonsense_is_refused() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, _] = &members[..] else { panic!() };
    assert!(matches!(one.answer(2, vec![0xff; 20]).await, Err(AnswerError::Malformed(_))));
    assert!(matches!(one.answer(2, Vec::new()).await, Err(AnswerError::Malformed(_))));
    // What the leader said, once more, by another.
    let said = cluster.net.lock().said[&(1, 2)].clone();
    assert!(matches!(two.answer(3, said.clone()).await, Err(AnswerError::Refused(_))));
    assert!(two.answer(1, said.clone()).await.is_ok());
    for end in 0..said.len() {
        // No part of it does any harm.
        let _ = two.answer(1, said[..end].to_vec()).await;
    }
    join(two, 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_led_before_does_not_stand_in_the_way_of_a_snapshot_and_one_that_is_only_promised_takes_no_room() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, _] = &members[..] else { panic!() };
    join(one, 1).await.unwrap();
    same(&[one, two]).await;
    let term = two.leadership().borrow().term;
    let huge = 1 << 30;
    let give = async |from, term, offset, bytes| {
        let answer = two.answer(from, raft::piece(term, from, huge, offset, vec![7; bytes])).await.unwrap();
        raft::taken(&answer)
    };
    assert_eq!(give(1, term, 0, 10).await, (10, None));
    assert_eq!(give(3, term - 1, 0, 10).await, (0, Some(term)), "it led before, and is told who does");
    assert_eq!(give(1, term, 10, 5).await, (15, None), "nothing of it was lost");
    assert_eq!(give(1, term, 10, 5).await, (0, None), "not what comes next");
    assert!(two.inner.proposer.node.room_taken() < 1000);
    join(two, 2).await.unwrap();
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_let_go_is_gone_from_every_member() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let (last, key) = tests::up_to_the_last_step(&members[1], false).await;
    same(&members.iter().collect::<Vec<_>>()).await;
    let stores: Vec<Store> = members.iter().map(|member| member.store().unwrap()).collect();
    for store in &stores {
        assert!(tests::stored(store, key.expose()));
    }
    // One is away meanwhile.
    cluster.net.isolate(3);
    tests::done(&members[1], vec![last]).await;
    for member in &members[..2] {
        member.forgotten().await;
    }
    cluster.net.heal();
    same(&members.iter().collect::<Vec<_>>()).await;
    members[2].forgotten().await;
    for (store, member) in stores.iter().zip(1..) {
        assert!(!tests::stored(store, key.expose()), "member {member}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_everybody_keeps_what_was_answered() {
    let limits = Limits { snapshot_entries: 7, ..Limits::default() };
    let (mut cluster, mut members) = Cluster::three(limits).await;
    let mut joined = 0;
    for seed in 0..4 {
        for _ in 0..(seed * 5) {
            joined += 1;
            join(&members[joined as usize % 3], joined).await.unwrap();
        }
        for member in 1..=3 {
            cluster.crash(member, seed * 3 + member);
        }
        members.clear();
        for member in 1..=3 {
            members.push(cluster.reopen(member).await);
        }
        let all: Vec<&Replica> = members.iter().collect();
        another_leads(&all, 0).await;
        for member in &all {
            let state = member.read().await.unwrap();
            assert!((1..=joined).all(|n| state.node(&id(n)).is_some()), "seed {seed}");
        }
        same(&all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_removed_disturbs_nobody_and_one_that_comes_gets_a_snapshot() {
    let limits = Limits { snapshot_entries: 10, ..Limits::default() };
    let (mut cluster, members) = Cluster::three(limits).await;
    let [one, two, three] = &members[..] else { panic!() };
    one.change(GroupChange::Remove(3)).await.unwrap();
    for n in 1..40 {
        join(one, n).await.unwrap();
    }
    one.inner.proposer.node.purged(20).await;
    assert!(three.state().node(&id(39)).is_none());
    let term = one.leadership().borrow().term;
    let four = cluster.voter(one, 4).await;
    same(&[one, two, &four]).await;
    assert!(cluster.net.lock().bulk > 0);
    assert_eq!(one.leadership().borrow().term, term);
    one.change(GroupChange::HandOver(4)).await.unwrap();
    another_leads(&[&four], 1).await;
    assert_eq!(one.change(GroupChange::HandOver(2)).await, Err(ChangeError::NotLeader));
    join(one, 50).await.unwrap();
    // It starts again, with a snapshot of another's making.
    cluster.crash(4, 1);
    another_leads(&[one, two], 4).await;
    let four = cluster.reopen(4).await;
    same(&[one, two, &four]).await;
    assert_eq!(four.raft_id(), 4);
    join(&four, 51).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_costs_no_leader() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    let before = *one.leadership().borrow();
    for disk in cluster.disks.values() {
        disk.slow(Duration::from_millis(300));
    }
    for n in 1..=4 {
        let members = [one, two, three];
        let all = members.into_iter().zip(0..).map(|(member, m)| join(member, 10 * n + m));
        futures::future::try_join_all(all).await.unwrap();
    }
    assert_eq!(*one.leadership().borrow(), before);
    assert!(before.here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_heard_and_hears_nobody_does_not_lead_for_long() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    cluster.net.lock().deaf.extend([(1, 2), (1, 3)]);
    let leader = another_leads(&[two, three], 1).await;
    join(leader, 1).await.unwrap();
    cluster.net.heal();
    same(&[one, two, three]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_gets_lost_on_the_way_is_said_again() {
    let (cluster, members) = Cluster::three(Limits::default()).await;
    let [one, two, three] = &members[..] else { panic!() };
    {
        let mut wires = cluster.net.lock();
        (wires.loss, wires.delay) = (50, Duration::from_millis(5));
    }
    for n in 0..10 {
        let all = [one, two, three].into_iter().zip(1..).map(|(member, m)| async move {
            match member.propose(vec![admit(10 * n + m)]).await {
                Ok(outcomes) => assert!(matches!(outcomes.as_slice(), [Outcome::Issued { .. }]), "{outcomes:?}"),
                // Never refused, and never a wrong answer.
                Err(error) => assert!(matches!(error, ProposeError::Unknown | ProposeError::NoLeader), "{error}"),
            }
        });
        futures::future::join_all(all).await;
    }
    cluster.net.lock().loss = 0;
    another_leads(&[one, two, three], 0).await;
    join(two, 500).await.unwrap();
    same(&[one, two, three]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_voter_with_one_who_follows_starts_again_and_is_followed() {
    for seed in 0..4 {
        let (mut cluster, one) = Cluster::found(Limits::default()).await;
        let two = cluster.empty(2).await;
        one.change(GroupChange::AddLearner(2)).await.unwrap();
        join(&one, 1).await.unwrap();
        caught_up(&one, 2).await;
        let under_way = {
            let one = one.clone();
            tokio::spawn(async move { join(&one, 2).await })
        };
        cluster.crash(1, seed);
        // Who is dead may still say something, to whoever is dead with it.
        let _ = under_way.await.unwrap();
        let one = cluster.reopen(1).await;
        assert!(one.leadership().wait_for(|now| now.here).await.is_ok());
        assert!(one.state().node(&id(1)).is_some());
        join(&one, 3).await.unwrap();
        same(&[&one, &two]).await;
        join(&two, 4).await.unwrap();
        one.change(GroupChange::Promote(2)).await.unwrap();
        same(&[&one, &two]).await;
    }
}
