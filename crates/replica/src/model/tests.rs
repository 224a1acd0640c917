#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use futures::FutureExt;

/// A command that always has an outcome, whatever the state: nothing to collect.
fn command() -> Command {
    Command::Collect { nodes: Vec::new() }
}

type Answer = Option<Result<Vec<Outcome>, ProposeError>>;

/// Proposes, lets the caller drive the log, and gives the answer if there is one by then.
fn propose(log: &ModelLog, drive: impl FnOnce()) -> Answer {
    let mut proposal = Box::pin(log.propose(vec![command()]));
    assert!(proposal.as_mut().now_or_never().is_none(), "nobody drove it yet");
    drive();
    proposal.now_or_never()
}

#[test]
fn a_proposal_is_answered_when_its_step_comes_and_not_before() {
    let log = ModelLog::new(1);
    let mut versions = log.watch();
    assert!(!versions.has_changed().unwrap());
    let answer = propose(&log, || assert_eq!(log.step(), Step::Committed(1))).unwrap().unwrap();
    assert_eq!(answer.len(), 1);
    assert!(versions.has_changed().unwrap());
    assert_eq!((log.step(), log.len()), (Step::Idle, 1));
    versions.borrow_and_update();
    assert!(log.read().now_or_never().unwrap().is_ok());
}

#[test]
fn a_lost_answer_is_unknown_and_commits_and_a_lost_proposal_is_unknown_and_does_not() {
    let log = ModelLog::new(1);
    log.set_faults(Faults { lost_answer: 1000, ..Faults::default() });
    assert_eq!(propose(&log, || log.settle()), Some(Err(ProposeError::Unknown)));
    assert_eq!(log.len(), 1);
    log.set_faults(Faults { lost_proposal: 1000, ..Faults::default() });
    assert_eq!(propose(&log, || log.settle()), Some(Err(ProposeError::Unknown)));
    assert_eq!(log.len(), 1);
    log.set_faults(Faults { unavailable: 1000, ..Faults::default() });
    assert!(matches!(propose(&log, || log.settle()), Some(Err(ProposeError::Unavailable { .. }))));
    log.set_faults(Faults { delay: 1000, ..Faults::default() });
    assert_eq!(propose(&log, || assert_eq!(log.step(), Step::Delayed)), None);
}

#[test]
fn a_crash_answers_unknown_and_keeps_some_of_what_waited() {
    let mut kept = [0; 2];
    for seed in 0..64 {
        let log = ModelLog::new(seed);
        log.set_time(Time::from_unix_secs(5));
        assert!(propose(&log, || log.settle()).unwrap().is_ok());
        assert_eq!(propose(&log, || log.crash()), Some(Err(ProposeError::Unknown)));
        assert!(matches!(log.propose(vec![command()]).now_or_never(), Some(Err(ProposeError::Fatal(_)))));
        assert!(log.read().now_or_never().unwrap().is_err());
        assert_eq!(log.step(), Step::Idle, "a dead process does nothing");
        log.reopen();
        assert_eq!((log.generation(), log.state().time()), (1, Time::from_unix_secs(5)));
        kept[log.len() - 1] += 1;
        assert!(propose(&log, || log.settle()).unwrap().is_ok());
    }
    assert!(kept[0] > 10 && kept[1] > 10, "{kept:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let log = ModelLog::new(seed);
        log.set_faults(Faults { lost_answer: 200, lost_proposal: 200, unavailable: 200, delay: 200 });
        (0..50)
            .map(|_| {
                propose(&log, || {
                    log.step();
                })
            })
            .map(|answer| format!("{answer:?}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_follower_refuses_and_time_never_goes_back() {
    let log = ModelLog::new(1);
    log.set_leading(false);
    assert_eq!(log.propose(vec![command()]).now_or_never(), Some(Err(ProposeError::NoLeader)));
    assert!(matches!(log.read().now_or_never(), Some(Err(ReadError::NoLeader))));
    assert_eq!(*log.leadership().borrow(), Leadership { term: 1, leader: None, here: false });
    log.set_leading(true);
    assert_eq!(*log.leadership().borrow(), Leadership { term: 2, leader: Some(1), here: true });
    for (now, stamped) in [(50, 50), (20, 50), (60, 60)] {
        log.set_time(Time::from_unix_secs(now));
        assert!(propose(&log, || log.settle()).unwrap().is_ok());
        assert_eq!(log.state().time(), Time::from_unix_secs(stamped));
    }
}
