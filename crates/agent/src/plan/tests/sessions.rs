#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tonic::Code;

use super::*;

fn end(bench: &mut Bench, session: u64, failure: Failure) -> Vec<Effect> {
    bench.feed(Input::SessionEnded { session, failure })
}

#[test]
fn a_session_from_the_dial_to_the_heartbeat() {
    let (mut bench, effects) = Bench::running(Role::Worker);
    assert_eq!(words(&effects), ["open#1 m1:1 \"\"", "start Renew"]);
    let effects = bench.feed(Input::SessionDialed { session: 1 });
    assert_eq!(delay(&effects, Timer::FirstMessage), Some(Duration::from_secs(5)));
    let message = bench.message("s1");
    assert_eq!(words(&bench.tell(1, message)), ["beat#1 s1", "clock#1"]);
    let status = bench.plan.status();
    assert_eq!(status.phase, Phase::Ready);
    assert_eq!(status.connected.as_ref().unwrap().addr, "m1:1");
    assert_eq!(status.session_since, Some(NOW));
    let effects = bench.feed(Input::Heartbeat { session: 1, result: Ok(Duration::from_millis(4700)) });
    assert_eq!(delay(&effects, Timer::Heartbeat), Some(Duration::from_millis(4700)));
    assert_eq!(words(&bench.timer(Timer::Heartbeat)), ["beat#1 s1"]);
}

#[test]
fn silence_at_the_start_ends_the_session() {
    let (mut bench, _) = Bench::running(Role::Worker);
    bench.feed(Input::SessionDialed { session: 1 });
    assert_eq!(words(&bench.timer(Timer::FirstMessage)), ["close#1", "start Session"]);
    let trouble = bench.plan.status().last_error.clone().unwrap();
    assert_eq!(trouble.text, "session initiation timed out");
    // A late message of that session is nobody's.
    let message = bench.message("s1");
    assert!(bench.tell(1, message).is_empty());
}

#[test]
fn sessions_come_back_with_the_protocols_backoff() {
    let (mut bench, _) = Bench::running(Role::Worker);
    for (session, bound) in (1..).zip([100, 300, 700, 1500, 3100, 6300, 8000, 8000]) {
        let effects = end(&mut bench, session, lost());
        assert!(delay(&effects, Timer::Session).unwrap() < Duration::from_millis(bound));
        bench.timer(Timer::Session);
    }
    // A session that stands sets it back.
    let message = bench.message("s1");
    bench.tell(9, message);
    let effects = end(&mut bench, 9, lost());
    assert!(delay(&effects, Timer::Session).unwrap() < Duration::from_millis(100));
}

/// All managers are elsewhere, and who has their addresses now accepts and never answers: of the old addresses it knows all, of the new ones
/// that of the manager beside it.
#[test]
fn a_manager_whose_others_are_out_of_reach_comes_back_to_itself_after_each() {
    let (mut bench, _) = Bench::running(Role::Manager);
    let mut message = bench.message("s1");
    message.node = Some(node(1, 3, ""));
    message.managers = (1..4).map(|n| peer(&format!("m{n}"), &format!("m{n}:1"))).collect();
    bench.tell(1, message);
    bench.feed(Input::Seated(Some("own:1".to_owned())));
    end(&mut bench, 1, lost());
    let mut tried = Vec::new();
    for session in 2..100 {
        let opened = words(&bench.timer(Timer::Session)).concat();
        let own = opened.contains("own:1");
        tried.push(own);
        let failure =
            if own { refusal(Code::Unavailable, "no leader") } else { Failure::new(FailureKind::Timeout, "5 s") };
        let pause = delay(&end(&mut bench, session, failure), Timer::Session).unwrap();
        assert!(own || pause.is_zero(), "after {opened}: {pause:?}");
    }
    assert!(tried.windows(2).all(|pair| pair[0] || pair[1]), "{tried:?}");
    assert!(tried.iter().filter(|own| !**own).count() > 40, "{tried:?}");
}

#[test]
fn too_many_registrations_wait_for_the_managers_window() {
    let (mut bench, _) = Bench::running(Role::Worker);
    let text = "node node1 exceeded rate limit count of registrations";
    let effects = end(&mut bench, 1, refusal(Code::Unavailable, text));
    assert_eq!(delay(&effects, Timer::Session), Some(Duration::from_secs(8)));
}

#[test]
fn a_heartbeat_that_fails_ends_the_session() {
    for failure in [
        refusal(Code::NotFound, "node not registered"),
        refusal(Code::InvalidArgument, "session invalid"),
        Failure::new(FailureKind::Timeout, "no answer"),
    ] {
        let mut bench = Bench::ready(Role::Worker);
        let effects = bench.feed(Input::Heartbeat { session: 1, result: Err(failure) });
        assert_eq!(words(&effects), ["close#1", "start Session"]);
        assert_eq!(bench.plan.status().phase, Phase::Connecting);
        assert_eq!(words(&bench.timer(Timer::Session)), ["open#2 m1:1 \"s1\""]);
    }
}

#[test]
fn c353_c354_the_desired_role_counts_and_not_the_role() {
    let mut bench = Bench::ready(Role::Worker);
    let mut message = bench.message("s1");
    let mut told = node(0, 3, "");
    told.role = 1;
    message.node = Some(told);
    assert!(words(&bench.tell(1, message.clone())).is_empty());
    message.node = Some(node(1, 3, ""));
    let effects = bench.tell(1, message.clone());
    assert_eq!(words(&effects), ["wanted manager", "start Renew"]);
    assert_eq!(delay(&effects, Timer::Renew), Some(pki::renewal::FORCED_RENEWAL_PAUSE));
    assert_eq!(bench.plan.status().desired_role, Some(Role::Manager));
    // The same object again is nothing new.
    assert!(words(&bench.tell(1, message)).is_empty());
}

#[test]
fn c355_an_order_to_rotate_counts_once_an_object() {
    let mut bench = Bench::ready(Role::Worker);
    let mut message = bench.message("s1");
    message.node = Some(node(0, 5, ""));
    let effects = bench.tell(1, message.clone());
    assert_eq!(delay(&effects, Timer::Renew), Some(pki::renewal::FORCED_RENEWAL_PAUSE));
    bench.timer(Timer::Renew);
    bench.renew_as(1, Role::Worker);
    // Status and meta do not make it another object, nor does another session.
    let mut told = node(0, 5, "");
    told.status = Some(wire::proto::NodeStatus::default());
    told.meta = Some(wire::proto::Meta::default());
    message.node = Some(told);
    assert!(words(&bench.tell(1, message.clone())).is_empty());
    end(&mut bench, 1, lost());
    bench.timer(Timer::Session);
    assert_eq!(words(&bench.tell(2, message.clone())), ["beat#2 s1", "clock#2"]);
    // Another err is another order, also during the backoff of a failed one.
    bench.plan.renewal_failed(NOW, &mut Vec::new());
    message.node = Some(node(0, 5, "again"));
    let effects = bench.tell(2, message);
    assert_eq!(delay(&effects, Timer::Renew), Some(pki::renewal::FORCED_RENEWAL_PAUSE));
    assert_eq!(words(&bench.timer(Timer::Renew)), ["issue#2 m1:1 node"]);
}

#[test]
fn the_list_of_managers_is_kept_and_an_empty_one_is_not_obeyed() {
    let mut bench = Bench::ready(Role::Worker);
    let mut message = bench.message("s1");
    message.managers = vec![peer("m1", "m1:1"), peer("m2", "m2:1")];
    assert_eq!(words(&bench.tell(1, message.clone())), ["managers m1:1,m2:1"]);
    assert!(words(&bench.tell(1, message.clone())).is_empty());
    message.managers.clear();
    assert!(words(&bench.tell(1, message.clone())).is_empty());
    message.managers = vec![peer("m2", "m2:1")];
    assert_eq!(words(&bench.tell(1, message)), ["managers m2:1"]);
    end(&mut bench, 1, lost());
    assert_eq!(words(&bench.timer(Timer::Session)), ["open#2 m2:1 \"s1\""]);
}

#[test]
fn c89_c90_c91_a_root_is_taken_only_if_our_certificate_verifies_to_it() {
    let push = |bundle: &dyn Fn(&Bench) -> String| {
        let mut bench = Bench::ready(Role::Worker);
        let mut message = bench.message("s1");
        message.root_ca = bundle(&bench).into_bytes().into();
        let effects = words(&bench.tell(1, message));
        (bench, effects)
    };
    let (bench, effects) = push(&|_| Ca::new(101, NOW).pem());
    assert!(effects.is_empty());
    let text = &bench.plan.status().last_error.as_ref().unwrap().text;
    assert!(text.contains("new root CA does not match existing TLS credentials"), "{text}");
    assert_eq!(push(&|_| "garbage".to_owned()).1.len(), 0);
    assert_eq!(push(&|_| String::new()).1.len(), 0);
    assert_eq!(push(&|bench| bench.ca.pem()).1.len(), 0, "the one we have");
    let (mut bench, effects) = push(&|bench| format!("{}{}", Ca::new(101, NOW).pem(), bench.ca.pem()));
    assert_eq!(effects, ["trust"]);
    // A disk that fails leaves things as they were.
    let failed = Failure::new(FailureKind::Local, "disk full");
    assert!(words(&bench.feed(Input::TrustSaved(Err(failed)))).is_empty());
    assert_eq!(bench.plan.trust.as_ref().unwrap().certificates().len(), 1);
}

#[test]
fn a_root_that_could_not_be_written_is_tried_again_with_every_heartbeat() {
    let mut bench = Bench::ready(Role::Worker);
    let bundle = |bench: &Bench, n: u8| format!("{}{}", Ca::new(n, NOW).pem(), bench.ca.pem()).into_bytes();
    let push = |bench: &mut Bench, pem: Vec<u8>| {
        let mut message = bench.message("s1");
        message.root_ca = pem.into();
        words(&bench.tell(1, message))
    };
    let beat =
        |bench: &mut Bench| words(&bench.feed(Input::Heartbeat { session: 1, result: Ok(Duration::from_secs(5)) }));
    let full = |bench: &mut Bench| {
        let failed = Failure::new(FailureKind::Local, "disk full");
        assert!(words(&bench.feed(Input::TrustSaved(Err(failed)))).is_empty());
    };
    let (first, second) = (bundle(&bench, 101), bundle(&bench, 102));
    assert_eq!(push(&mut bench, first.clone()), ["trust"]);
    full(&mut bench);
    for _ in 0..3 {
        // No manager says anything: the node knows by itself.
        assert_eq!(beat(&mut bench), ["start Heartbeat", "trust"]);
        full(&mut bench);
        assert_eq!(bench.plan.status().last_error.as_ref().unwrap().text, "disk full");
    }
    // What the manager says last counts.
    let own = bench.ca.pem().into_bytes();
    assert!(push(&mut bench, own).is_empty());
    assert_eq!(beat(&mut bench), ["start Heartbeat"], "it is back to the root that is held");
    assert_eq!(push(&mut bench, first), ["trust"]);
    full(&mut bench);
    assert_eq!(push(&mut bench, second.clone()), ["trust"]);
    full(&mut bench);
    assert_eq!(beat(&mut bench), ["start Heartbeat", "trust"]);
    assert_eq!(words(&bench.feed(Input::TrustSaved(Ok(())))), ["close#1", "open#2 m1:1 \"s1\""]);
    assert_eq!(bench.plan.tls_info().trust_root, second);
}

#[test]
fn a_root_of_an_earlier_session_is_not_tried_again() {
    let mut bench = Bench::ready(Role::Worker);
    let mut message = bench.message("s1");
    message.root_ca = format!("{}{}", Ca::new(101, NOW).pem(), bench.ca.pem()).into_bytes().into();
    assert_eq!(words(&bench.tell(1, message)), ["trust"]);
    bench.feed(Input::TrustSaved(Err(Failure::new(FailureKind::Local, "disk full"))));
    end(&mut bench, 1, lost());
    bench.timer(Timer::Session);
    // A manager that says no root: one that may only come back.
    let mut message = bench.message("s2");
    message.root_ca = Vec::new().into();
    bench.tell(2, message);
    let effects = words(&bench.feed(Input::Heartbeat { session: 2, result: Ok(Duration::from_secs(5)) }));
    assert_eq!(effects, ["start Heartbeat"]);
}

#[test]
fn c352_a_manager_takes_a_root_too() {
    let mut bench = Bench::ready(Role::Manager);
    let mut message = bench.message("s1");
    message.node = Some(node(1, 3, ""));
    message.root_ca = format!("{}{}", bench.ca.pem(), Ca::new(101, NOW).pem()).into_bytes().into();
    assert!(words(&bench.tell(1, message)).contains(&"trust".to_owned()));
    let effects = words(&bench.feed(Input::TrustSaved(Ok(()))));
    assert_eq!(effects, ["close#1", "open#2 m1:1 \"s1\""]);
    assert_eq!(bench.plan.trust.as_ref().unwrap().certificates().len(), 2);
}

#[test]
fn c60_c95_c97_c98_what_lies_on_disk_must_hold() {
    let ca = Ca::new(100, NOW.saturating_sub(DAY * 10));
    let chain = |from: Time| ca.issue(&csr(&key(1)), &subject(NODE, Role::Worker), from, DAY);
    let start = |trust: Option<TrustBundle>, pem: Vec<u8>| {
        let start = Start { trust, pair: Some((pem, NOW)), ..Start::default() };
        Plan::new(start, NOW, 1).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let trust = || Some(ca.trust(NOW));
    assert_eq!(start(trust(), chain(NOW)), "");
    assert_eq!(start(None, chain(NOW)), "local root CA certificate does not exist");
    assert!(start(trust(), chain(NOW.saturating_add(DAY))).contains("not valid before"));
    assert_eq!(start(trust(), chain(NOW.saturating_sub(DAY * 3))), "", "expired: renewed");
    assert!(start(Some(Ca::new(101, NOW).trust(NOW)), chain(NOW)).contains("unknown authority"));

    let new = Ca::new(101, NOW);
    let issuer = new.crossed_by(&ca, NOW);
    let with = issue_by(&issuer, &csr(&key(1)), &subject(NODE, Role::Worker), NOW, DAY);
    let leaf = Certificate::parse_pem_bundle(&with).unwrap()[0].pem();
    assert!(start(trust(), leaf.into_bytes()).contains("unknown authority"));
    assert_eq!(start(trust(), with), "");
}

#[test]
fn the_time_never_goes_below_what_is_proven() {
    let mut bench = Bench::ready(Role::Worker);
    let later = NOW.saturating_add(Duration::from_secs(3600));
    bench.now = later;
    let effects = bench.feed(Input::Clock { offset_ms: 0, proven: Some(later) });
    assert!(matches!(effects.as_slice(), [Effect::SaveFloor(floor)] if *floor == later));
    bench.now = NOW;
    bench.timer(Timer::Heartbeat);
    assert_eq!(bench.plan.effective(NOW), later);
    let status = bench.plan.status();
    assert_eq!(status.clock_offset, Some(ClockOffset::measured(0)));
    assert_eq!(status.clock_behind_floor_ms, Some(3_600_000));
    // What nobody vouches for is shown and not believed.
    let effects = bench.feed(Input::Clock { offset_ms: 9_000_000, proven: None });
    assert!(effects.is_empty());
    assert_eq!(bench.plan.effective(NOW), later);
    bench.now = later.saturating_add(Duration::from_secs(1));
    bench.timer(Timer::Heartbeat);
    assert_eq!(bench.plan.status().clock_behind_floor_ms, None);
}

#[test]
fn a_manager_whose_clock_was_wrong_for_a_while_leaves_nothing_behind() {
    let hundred_days = DAY * 100;
    let mut bench = Bench::ready(Role::Worker);
    let wrong = NOW.saturating_add(hundred_days);
    let effects = bench.feed(Input::Clock { offset_ms: 8_640_000_000, proven: Some(wrong) });
    assert!(effects.is_empty(), "nothing is kept of it");
    assert_eq!(bench.plan.effective(NOW), NOW);
    // Its certificate does not hold either; then its clock is right again.
    end(&mut bench, 1, Failure::new(FailureKind::TlsTime, "certificate not valid yet"));
    bench.feed(Input::Clock { offset_ms: 3, proven: None });
    bench.timer(Timer::Session);
    let message = bench.message("s2");
    bench.tell(2, message);
    let status = bench.plan.status();
    assert_eq!((status.phase, status.last_error.as_ref()), (Phase::Ready, None));
}

#[test]
fn the_floor_stays_within_the_life_of_the_leaf() {
    let mut bench = Bench::ready(Role::Worker);
    let end = bench.plan.held.as_ref().unwrap().not_after;
    bench.now = end.saturating_sub(Duration::from_secs(5));
    bench.feed(Input::Clock { offset_ms: 30_000, proven: Some(end.saturating_add(Duration::from_secs(25))) });
    assert_eq!(bench.plan.effective(NOW), end);
}

#[test]
fn a_floor_on_disk_beyond_the_leaf_is_not_believed() {
    let ca = Ca::new(100, NOW);
    let pem = ca.issue(&csr(&key(1)), &subject(NODE, Role::Worker), NOW, DAY);
    let leaf = Certificate::parse_pem_bundle(&pem).unwrap().remove(0);
    let rows = [
        (NOW.saturating_add(DAY / 2), NOW.saturating_add(DAY / 2)),
        (leaf.not_after(), leaf.not_after()),
        (NOW.saturating_add(DAY * 100), leaf.not_before()),
        (NOW.saturating_add(DAY * 36_500), leaf.not_before()),
    ];
    for (floor, expected) in rows {
        assert_eq!(credible_floor(floor, Some(&pem)), expected, "{floor:?}");
        let start = Start { trust: Some(ca.trust(NOW)), pair: Some((pem.clone(), NOW)), floor, ..Start::default() };
        assert_eq!(Plan::new(start, NOW, 1).unwrap().effective(NOW), expected.max(NOW), "{floor:?}");
    }
    assert_eq!(credible_floor(NOW, None), Time::default());
}

#[test]
fn what_a_manager_sends_is_bounded_before_it_is_looked_at() {
    let mut bench = Bench::ready(Role::Worker);
    let mut message = bench.message("s1");
    message.root_ca = bench.ca.pem().repeat(33).into_bytes().into();
    message.managers = (0..100).map(|number| peer(&format!("m{number}"), &format!("m{number}:1"))).collect();
    let effects = words(&bench.tell(1, message));
    assert_eq!(effects.len(), 1, "no trust is saved: {effects:?}");
    assert_eq!(bench.plan.status().managers.len(), 64);
    let text = &bench.plan.status().last_error.as_ref().unwrap().text;
    assert!(text.ends_with("a bundle of more than 32 certificates"), "{text}");
    let mut message = bench.message("s1");
    message.root_ca = bench.ca.pem().repeat(32).into_bytes().into();
    assert!(words(&bench.tell(1, message)).contains(&"trust".to_owned()));

    bench.feed(Input::RenewNow);
    bench.accept(1);
    let mut answer = bench.issued(Role::Worker);
    answer.chain = answer.chain.repeat(9);
    bench.answer(1, answer);
    let text = &bench.plan.status().last_error.as_ref().unwrap().text;
    assert!(text.contains("a chain of more than 8 certificates"), "{text}");
}

#[test]
fn a_certificate_not_yet_valid_makes_the_node_ask_for_the_time() {
    let (mut bench, _) = Bench::running(Role::Worker);
    let effects = end(&mut bench, 1, Failure::new(FailureKind::TlsTime, "not valid yet"));
    assert_eq!(words(&effects), ["close#1", "clock? m1:1", "start Session"]);
}

#[test]
fn a_clock_that_is_off_is_named_with_what_it_broke_until_it_is_right() {
    let (mut bench, _) = Bench::running(Role::Worker);
    let broken = || Failure::new(FailureKind::TlsTime, "certificate expired 8640000s ago");
    end(&mut bench, 1, broken());
    assert_eq!(bench.plan.status().last_error.as_ref().unwrap().text, "certificate expired 8640000s ago");
    let told = "this machine's clock is 100d ahead of the managers': certificate expired 8640000s ago";
    let check = |bench: &Bench| {
        let trouble = bench.plan.status().last_error.clone().unwrap();
        assert_eq!((trouble.text.as_str(), trouble.hint.contains("NTP")), (told, true));
    };
    bench.feed(Input::Clock { offset_ms: -8_640_000_000, proven: None });
    check(&bench);
    // Tried again, broken again: the cause stays named.
    bench.timer(Timer::Session);
    end(&mut bench, 2, broken());
    check(&bench);
    // A session stands: nothing is broken any more, whatever the clock says.
    bench.timer(Timer::Session);
    let message = bench.message("session3");
    bench.tell(3, message);
    assert_eq!(bench.plan.status().last_error, None);
    bench.feed(Input::Clock { offset_ms: -61_000, proven: None });
    assert_eq!(bench.plan.status().last_error, None);
}

#[test]
fn neither_a_small_difference_of_clocks_nor_an_old_one_is_blamed() {
    let (mut bench, _) = Bench::running(Role::Worker);
    bench.feed(Input::Clock { offset_ms: 3_600_000, proven: None });
    end(&mut bench, 1, Failure::new(FailureKind::TlsTime, "not valid yet"));
    let text = |bench: &Bench| bench.plan.status().last_error.as_ref().unwrap().text.clone();
    assert_eq!((text(&bench).as_str(), bench.plan.status().clock_offset), ("not valid yet", None));
    bench.feed(Input::Clock { offset_ms: 59_000, proven: None });
    assert_eq!(text(&bench), "not valid yet");
}

#[test]
fn a_renewal_that_the_clock_broke_is_tried_again_once_the_clock_is_right() {
    let mut bench = Bench::ready(Role::Worker);
    bench.feed(Input::RenewNow);
    let broken = || Failure::new(FailureKind::TlsTime, "certificate expired 8640000s ago");
    for _ in 0..5 {
        bench.feed(Input::Issued { request: 1, result: Err(broken()) });
    }
    assert!(bench.plan.status().last_error.is_some());
    // Without waiting out the backoff of 10 s and more: the pause of a trigger.
    let effects = bench.feed(Input::Clock { offset_ms: 20, proven: Some(bench.now) });
    assert_eq!(delay(&effects, Timer::Renew), Some(pki::renewal::FORCED_RENEWAL_PAUSE));
    assert_eq!(words(&bench.timer(Timer::Renew)), ["issue#2 m1:1 node"]);
}
