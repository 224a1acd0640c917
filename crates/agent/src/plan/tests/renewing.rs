#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tonic::Code;

use super::*;

const GONE: &str = "node node1 not found when attempting to renew certificate";

/// A running node whose renewal has begun as request 1.
fn renewing(role: Role) -> Bench {
    let mut bench = Bench::ready(role);
    assert_eq!(words(&bench.feed(Input::RenewNow)), ["issue#1 m1:1 node"]);
    bench
}

#[test]
fn c81_a_renewal_starts_when_it_is_due_and_not_before() {
    let (mut bench, effects) = Bench::running(Role::Worker);
    assert!(delay(&effects, Timer::Renew).unwrap() <= Duration::from_secs(600));
    let due = bench.plan.status().renew_at.unwrap();
    let life = DAY.as_secs();
    let at = due.since(NOW).as_secs();
    assert!((life / 2 - 60..=life * 4 / 5 + 60).contains(&at), "{at}");
    bench.now = due.saturating_sub(Duration::from_secs(10));
    let effects = bench.timer(Timer::Renew);
    assert_eq!(delay(&effects, Timer::Renew), Some(Duration::from_secs(10)));
    bench.now = due;
    assert_eq!(words(&bench.timer(Timer::Renew)), ["issue#1 m1:1 node"]);
    assert_eq!(bench.plan.status().phase, Phase::Renewing);
}

#[test]
fn c82_c92_a_renewal_with_the_same_issuer_leaves_the_session_alone() {
    let mut bench = renewing(Role::Worker);
    let effects = bench.renew_as(1, Role::Worker);
    assert_eq!(words(&effects), ["forget#1", "start Renew"]);
    assert_eq!(bench.plan.status().phase, Phase::Ready);
    assert_eq!(bench.plan.status().installed, 1);
    assert_eq!(bench.leaf_key(), bench.key.public().spki_der());
}

#[test]
fn c83_another_role_than_expected_is_renewed_again_with_backoff() {
    let mut bench = Bench::ready(Role::Manager);
    let mut message = bench.message("s1");
    message.node = Some(node(1, 3, ""));
    assert!(words(&bench.tell(1, message.clone())).is_empty(), "desired as it is");
    message.node = Some(node(0, 3, ""));
    let effects = bench.tell(1, message);
    assert_eq!(words(&effects), ["wanted worker", "start Renew"]);
    for (request, bound) in [(1, 10), (2, 15), (3, 25)] {
        bench.timer(Timer::Renew);
        let effects = bench.renew_as(request, Role::Manager);
        assert!(delay(&effects, Timer::Renew).unwrap() < Duration::from_secs(bound));
        assert!(!words(&effects).contains(&"changed worker".to_owned()));
    }
    bench.timer(Timer::Renew);
    let effects = words(&bench.renew_as(4, Role::Worker));
    assert!(effects.contains(&"changed worker".to_owned()), "{effects:?}");
    assert_eq!(bench.plan.status().role, Some(Role::Worker));
    assert!(bench.plan.renewal_is_well());
}

#[test]
fn c84_removal_is_final_wherever_it_is_told() {
    let ends = |input: Input| {
        let mut bench = renewing(Role::Worker);
        if matches!(input, Input::Answered { .. }) {
            bench.accept(1);
        }
        let effects = words(&bench.feed(input));
        assert!(effects.last().unwrap().starts_with("removed: "), "{effects:?}");
        assert!(effects.contains(&"close#1".to_owned()));
        let status = bench.plan.status().clone();
        assert_eq!(status.phase, Phase::Removed);
        assert!(status.last_error.unwrap().hint.contains("leave"));
        // Dead: nothing moves it any more.
        assert!(bench.timer(Timer::Session).is_empty());
        assert!(bench.feed(Input::RenewNow).is_empty());
    };
    let issued = |code, text| Input::Issued { request: 1, result: Err(refusal(code, text)) };
    let removed = "Permission denied: node node1 was removed from swarm";
    ends(issued(Code::NotFound, GONE));
    ends(issued(Code::InvalidArgument, "A valid join token is necessary to join this cluster"));
    ends(issued(Code::PermissionDenied, removed));
    ends(Input::Answered { request: 1, result: Err(refusal(Code::NotFound, "NotFound")) });
    ends(Input::SessionEnded { session: 1, failure: refusal(Code::PermissionDenied, removed) });
    ends(Input::Heartbeat { session: 1, result: Err(refusal(Code::PermissionDenied, removed)) });
}

#[test]
fn what_sounds_like_a_removal_and_is_none() {
    let stays = |code, text: &str| {
        let mut bench = renewing(Role::Worker);
        bench.feed(Input::Issued { request: 1, result: Err(refusal(code, text)) });
        assert_ne!(bench.plan.status().phase, Phase::Removed);
    };
    stays(Code::NotFound, "another");
    stays(Code::InvalidArgument, "InvalidArgument");
    stays(Code::Unavailable, "node node1 was removed from swarm");
    stays(Code::PermissionDenied, "no client certificates in request");
}

#[test]
fn an_expired_certificate_refused_is_no_removal() {
    let (mut bench, _) = Bench::running(Role::Worker);
    bench.now = NOW.saturating_add(DAY * 2);
    assert_eq!(words(&bench.timer(Timer::Renew)), ["issue#1 m1:1 node"]);
    assert_eq!(bench.plan.status().phase, Phase::Expired);
    bench.feed(Input::Issued {
        request: 1,
        result: Err(refusal(Code::InvalidArgument, "A valid join token is necessary to join this cluster")),
    });
    assert_eq!(bench.plan.status().phase, Phase::Expired);
}

#[test]
fn a_failed_renewal_backs_off_also_a_scheduled_one() {
    let (mut bench, _) = Bench::running(Role::Worker);
    bench.now = bench.plan.status().renew_at.unwrap();
    for (request, bound) in [(1, 10), (2, 15), (3, 25), (4, 45), (5, 85)] {
        assert_eq!(words(&bench.timer(Timer::Renew)), [format!("issue#{request} m1:1 node")]);
        let mut effects = Vec::new();
        for _ in 0..5 {
            effects = bench.feed(Input::Issued { request, result: Err(lost()) });
        }
        assert_eq!(words(&effects), [format!("forget#{request}"), "start Renew".to_owned()]);
        assert!(delay(&effects, Timer::Renew).unwrap() < Duration::from_secs(bound));
    }
    assert!(bench.plan.status().last_error.is_some());
    bench.timer(Timer::Renew);
    bench.renew_as(6, Role::Worker);
    assert!(bench.plan.renewal_is_well());
}

/// A renewal answered by a CA whose root is not trusted, and what the node does.
fn unknown(role: Role) -> (Bench, Vec<Effect>) {
    let mut bench = renewing(role);
    bench.accept(1);
    let other = Ca::new(101, NOW);
    let answer = bench.issued_by(&other.issuer, role);
    let effects = bench.answer(1, answer);
    (bench, effects)
}

#[test]
fn c85_an_unknown_authority_makes_a_worker_look_for_a_new_root() {
    let (mut bench, effects) = unknown(Role::Worker);
    assert_eq!(words(&effects), ["root m1:1"]);
    let both = format!("{}{}", Ca::new(101, NOW).pem(), bench.ca.pem());
    assert_eq!(words(&bench.feed(Input::Root(Ok(both.into_bytes())))), ["trust"]);
    let effects = words(&bench.feed(Input::TrustSaved(Ok(()))));
    assert_eq!(effects[0], "issue#1 m1:1 node");
    // The new root is reported at once, in a session that names the old one.
    assert_eq!(&effects[1..], ["close#1", "open#2 m1:1 \"s1\""]);
}

#[test]
fn c85_a_root_that_does_not_fit_the_present_certificate_is_refused() {
    let (mut bench, _) = unknown(Role::Worker);
    let foreign = Ca::new(101, NOW).pem().into_bytes();
    let effects = words(&bench.feed(Input::Root(Ok(foreign))));
    assert_eq!(effects, ["issue#1 m1:1 node"], "the next attempt");
    // It is looked for once in a request.
    bench.accept(1);
    let answer = bench.issued_by(&Ca::new(101, NOW).issuer, Role::Worker);
    assert_eq!(words(&bench.answer(1, answer)), ["issue#1 m1:1 node"]);
}

#[test]
fn c86_a_manager_does_not_look_for_another_root() {
    let (bench, effects) = unknown(Role::Manager);
    assert_eq!(words(&effects), ["issue#1 m1:1 node"]);
    let text = &bench.plan.status().last_error.as_ref().unwrap().text;
    assert!(text.contains("unknown authority"), "{text}");
}

#[test]
fn c87_an_expired_certificate_is_refused_without_a_download() {
    let mut bench = renewing(Role::Worker);
    bench.accept(1);
    let mut answer = bench.issued(Role::Worker);
    answer.chain =
        issue_by(&bench.ca.issuer, &answer.csr, &subject(NODE, Role::Worker), NOW.saturating_sub(DAY * 3), DAY);
    assert_eq!(words(&bench.answer(1, answer)), ["issue#1 m1:1 node"]);
    let text = &bench.plan.status().last_error.as_ref().unwrap().text;
    assert!(text.contains("not valid after"), "{text}");
}

#[test]
fn c88_roots_and_renewals_in_turn() {
    let mut bench = Bench::ready(Role::Worker);
    let mut bundle = bench.ca.pem();
    for round in 1..=5 {
        bench.feed(Input::RenewNow);
        bench.accept(round);
        bundle.push_str(&Ca::new(100 + u8::try_from(round).unwrap(), NOW).pem());
        let mut message = bench.message("s1");
        message.root_ca = bundle.clone().into_bytes().into();
        let session = bench.plan.status().installed + round;
        assert_eq!(words(&bench.tell(session, message)), ["trust"], "round {round}");
        let effects = words(&bench.feed(Input::TrustSaved(Ok(()))));
        assert_eq!(effects.len(), 2, "{effects:?}");
        let message = {
            let mut message = bench.message("s1");
            message.root_ca = bundle.clone().into_bytes().into();
            message
        };
        bench.tell(session + 1, message);
        let answer = bench.issued(Role::Worker);
        bench.answer(round, answer);
        bench.installed(round);
        assert_eq!(bench.leaf_key(), bench.key.public().spki_der());
        let anchors = bench.plan.trust.as_ref().unwrap().certificates().len();
        assert_eq!(u64::try_from(anchors).unwrap(), round + 1);
        // So that the next round's session number is known: no other session was opened.
        bench.plan.status.installed = 0;
    }
}

#[test]
fn one_order_is_remembered_while_a_renewal_runs() {
    let mut bench = renewing(Role::Worker);
    bench.accept(1);
    let mut message = bench.message("s1");
    for err in ["a", "b", "c"] {
        message.node = Some(node(0, 5, err));
        assert!(words(&bench.tell(1, message.clone())).is_empty());
    }
    let answer = bench.issued(Role::Worker);
    bench.answer(1, answer);
    let effects = bench.installed(1);
    assert_eq!(delay(&effects, Timer::Renew), Some(pki::renewal::FORCED_RENEWAL_PAUSE));
    bench.timer(Timer::Renew);
    let effects = bench.renew_as(2, Role::Worker);
    assert!(delay(&effects, Timer::Renew).unwrap() > Duration::from_secs(60));
}

#[test]
fn a_rotation_is_followed_by_a_new_session_that_names_the_old() {
    let mut bench = renewing(Role::Worker);
    bench.accept(1);
    let new = Ca::new(101, NOW);
    let issuer = new.crossed_by(&bench.ca, NOW);
    let answer = bench.issued_by(&issuer, Role::Worker);
    assert_eq!(words(&bench.answer(1, answer)), ["install#1 worker"]);
    let effects = bench.installed(1);
    assert_eq!(words(&effects), ["forget#1", "close#1", "open#2 m1:1 \"s1\"", "start Renew"]);
    let Some(Effect::OpenSession { tls, .. }) = effects.iter().find(|one| matches!(one, Effect::OpenSession { .. }))
    else {
        panic!("no session");
    };
    assert_eq!(tls.issuer_key, new.root.spki_der());
    assert_eq!(tls.trust_root, bench.ca.pem().as_bytes());
    // Then the root itself: accepted, since the leaf verifies to it.
    let mut message = bench.message("s2");
    message.root_ca = new.pem().into_bytes().into();
    assert_eq!(words(&bench.tell(2, message)), ["beat#2 s2", "clock#2", "trust"]);
    let effects = words(&bench.feed(Input::TrustSaved(Ok(()))));
    assert_eq!(effects, ["close#2", "open#3 m1:1 \"s2\""]);
    assert_eq!(bench.plan.tls_info().trust_root, new.pem().as_bytes());
}

#[test]
fn a_disk_that_fails_keeps_the_old_identity_and_tries_again() {
    let mut bench = renewing(Role::Worker);
    let before = bench.leaf_key();
    bench.accept(1);
    let answer = bench.issued(Role::Worker);
    bench.answer(1, answer);
    let effects =
        bench.feed(Input::Installed { request: 1, result: Err(Failure::new(FailureKind::Local, "disk full")) });
    assert_eq!(words(&effects), ["forget#1", "start Renew"]);
    assert_eq!(bench.leaf_key(), before);
    assert_eq!(bench.plan.status().last_error.as_ref().unwrap().text, "disk full");
}
