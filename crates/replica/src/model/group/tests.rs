#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use futures::FutureExt;

fn at(secs: u64) -> Time {
    Time::from_unix_millis(1_000 * i64::try_from(secs).unwrap())
}

fn collect() -> Command {
    Command::Collect { nodes: Vec::new() }
}

/// What is not repeatable.
fn presence() -> Command {
    Command::Presence { node: "node".parse().unwrap(), down: true, seen: at(1) }
}

/// Three voters, of which the first leads; all have applied everything.
fn three(seed: u64) -> (ModelGroup, [ModelMember; 3]) {
    let group = ModelGroup::create(seed, at(1), collect());
    let members = [1, 2, 3].map(|id| group.member(id));
    for id in [2, 3] {
        members[0].change(GroupChange::AddLearner(id)).now_or_never().unwrap().unwrap();
        while group.apply(id) {}
        members[0].change(GroupChange::Promote(id)).now_or_never().unwrap().unwrap();
    }
    assert_eq!(group.members().0, BTreeSet::from([1, 2, 3]));
    (group, members)
}

type Asked = std::pin::Pin<Box<dyn Future<Output = Answer>>>;

fn ask(member: &ModelMember, command: Command) -> Asked {
    let member = member.clone();
    let mut asked: Asked = Box::pin(async move { member.propose(vec![command]).await });
    assert!(asked.as_mut().now_or_never().is_none(), "nothing is decided yet");
    asked
}

fn answered(asked: &mut Asked) -> Option<Answer> {
    asked.as_mut().now_or_never()
}

#[test]
fn a_follower_answers_when_it_has_applied_what_was_decided() {
    let (group, [leader, follower, other]) = three(1);
    let mut asked = ask(&follower, collect());
    assert_eq!(group.step(at(2)), 1);
    assert_eq!(leader.state().index, 2);
    assert!(answered(&mut asked).is_none(), "decided, and not applied where it was asked");
    assert!(group.apply(2));
    assert_eq!(answered(&mut asked).unwrap().unwrap().len(), 1);
    assert_eq!((other.state().index, group.behind(3)), (1, 1));
}

#[test]
fn a_read_on_a_late_follower_waits_until_it_is_not_late() {
    let (group, [leader, follower, _]) = three(1);
    let _asked = ask(&leader, collect());
    group.step(at(2));
    let mut read = Box::pin(follower.read());
    assert!(read.as_mut().now_or_never().is_none());
    group.apply(2);
    assert_eq!(read.now_or_never().unwrap().unwrap().index, 2);
    group.cut(2);
    let mut read = Box::pin(follower.read());
    assert!(read.as_mut().now_or_never().is_none());
    group.set_time(at(60));
    assert!(read.now_or_never().unwrap().is_err());
}

#[test]
fn a_leader_that_is_cut_off_believes_so_until_it_is_not() {
    let (group, [old, two, three]) = three(1);
    group.cut(1);
    assert!(old.leadership().borrow().here);
    assert_eq!(two.leadership().borrow().leader, None);
    let elected = group.elect().unwrap();
    assert_ne!(elected, 1);
    assert!(old.leadership().borrow().here, "two lead, as far as they know");
    let mut asked = ask(&old, presence());
    group.set_time(at(3));
    assert_eq!(group.step(at(3)), 0);
    assert!(answered(&mut asked).is_none());
    assert!(old.contact().unwrap() > two.contact().unwrap());
    group.set_time(at(10));
    assert_eq!(answered(&mut asked), Some(Err(ProposeError::Unknown)));
    group.heal(1);
    assert!(!old.leadership().borrow().here);
    assert_eq!(old.leadership().borrow().leader, three.leadership().borrow().leader);
}

#[test]
fn what_may_be_said_twice_is_and_what_may_not_is_unknown() {
    let (group, [_, follower, _]) = three(1);
    group.set_faults(GroupFaults { lost_answer: 1000, ..GroupFaults::default() });
    let (mut again, mut once) = (ask(&follower, collect()), ask(&follower, presence()));
    assert_eq!(group.step(at(2)), 2);
    assert_eq!(answered(&mut once), Some(Err(ProposeError::Unknown)));
    assert!(answered(&mut again).is_none());
    group.set_faults(GroupFaults::default());
    assert_eq!(group.said_again().len(), 1);
    group.set_time(at(3));
    assert_eq!(group.step(at(3)), 1, "once more");
    while group.apply(2) {}
    assert!(answered(&mut again).unwrap().is_ok());
}

#[test]
fn what_is_lost_on_its_way_may_be_decided_later() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..32 {
        let (group, [_, follower, _]) = three(seed);
        group.set_faults(GroupFaults { lost_proposal: 1000, ..GroupFaults::default() });
        let mut asked = ask(&follower, presence());
        assert_eq!(group.step(at(2)), 0);
        assert_eq!(answered(&mut asked), Some(Err(ProposeError::Unknown)));
        let before = group.len();
        group.set_time(at(10));
        group.step(at(10));
        if group.len() > before { kept += 1 } else { lost += 1 }
    }
    assert!(kept > 0 && lost > 0, "{kept} {lost}");
}

#[test]
fn a_crash_of_the_leader_loses_nothing_decided_and_answers_nobody_wrongly() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..64 {
        let (group, [leader, follower, _]) = three(seed);
        let mut asked = ask(&follower, presence());
        group.crash(1);
        assert!(matches!(leader.propose(vec![collect()]).now_or_never(), Some(Err(ProposeError::Fatal(_)))));
        let decided = group.len();
        let elected = group.elect().unwrap();
        assert_eq!(group.member(elected).state().index, decided as u64, "who is elected has everything");
        match answered(&mut asked) {
            Some(Err(ProposeError::Unknown)) if decided > 1 => kept += 1,
            Some(Err(ProposeError::Unknown)) => lost += 1,
            None => {}
            other => panic!("{other:?}"),
        }
        group.reopen(1);
        assert_eq!(leader.state().index, 1, "it knows its own first entry, and hears of the others");
        assert!(!leader.leadership().borrow().here);
        while group.apply(1) {}
        assert_eq!(leader.state().encode_snapshot(), group.member(elected).state().encode_snapshot());
    }
    assert!(kept > 0 && lost > 0, "{kept} {lost}");
}

#[test]
fn no_majority_elects_nobody_and_who_asks_is_told() {
    let (group, [_, _, last]) = three(1);
    group.crash(1);
    group.crash(2);
    assert_eq!(group.elect(), None);
    let mut asked = ask(&last, collect());
    group.set_time(at(4));
    assert_eq!(answered(&mut asked), Some(Err(ProposeError::NoLeader)));
    group.reopen(2);
    assert!(group.elect().is_some());
}

#[test]
fn who_is_out_of_the_group_hears_no_more() {
    let (group, [leader, follower, out]) = three(1);
    leader.change(GroupChange::Remove(3)).now_or_never().unwrap().unwrap();
    let _asked = ask(&leader, collect());
    group.step(at(2));
    assert!(group.apply(2) && !group.apply(3));
    assert_eq!(out.leadership().borrow().leader, None);
    leader.change(GroupChange::HandOver(2)).now_or_never().unwrap().unwrap();
    assert!(follower.leadership().borrow().here);
    assert_eq!(leader.change(GroupChange::Remove(2)).now_or_never().unwrap(), Err(ChangeError::NotLeader));
}
