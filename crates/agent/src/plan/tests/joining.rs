#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tonic::Code;

use wire::status::Refusal;

use super::*;
use crate::testing::CLUSTER;

/// A join up to the point where its certificate is asked for.
fn asking(addrs: &[&str]) -> Bench {
    let mut bench = Bench::joining(addrs);
    bench.feed(Input::Join);
    let pem = bench.ca.pem().into_bytes();
    bench.feed(Input::Root(Ok(pem)));
    bench.feed(Input::TrustSaved(Ok(())));
    bench
}

#[test]
fn c47_a_join_from_the_root_to_the_certificate() {
    let mut bench = Bench::joining(&["m1:1"]);
    assert_eq!(bench.plan.status().phase, Phase::Joining);
    assert_eq!(words(&bench.feed(Input::Join)), ["root m1:1"]);
    let pem = bench.ca.pem().into_bytes();
    let effects = bench.feed(Input::Root(Ok(pem.clone())));
    let [Effect::SaveTrust(saved)] = effects.as_slice() else {
        panic!("{:?}", words(&effects));
    };
    assert_eq!(saved.raw(), pem);
    assert_eq!(words(&bench.feed(Input::TrustSaved(Ok(())))), ["issue#1 m1:1 joiner"]);
    assert_eq!(words(&bench.accept(1)), ["poll#1 m1:1 node1"]);
    let answer = bench.issued(Role::Worker);
    assert_eq!(words(&bench.answer(1, answer)), ["install#1 worker"]);
    assert_eq!(words(&bench.installed(1)), ["forget#1", "managers m1:1", "joined"]);
    let status = bench.plan.status();
    assert_eq!(status.phase, Phase::Connecting);
    assert_eq!(status.cluster.as_ref().unwrap().as_str(), CLUSTER);
    assert_eq!(status.role, Some(Role::Worker));
    assert_eq!(words(&bench.feed(Input::Run)), ["open#1 m1:1 \"\"", "start Renew"]);
}

#[test]
fn c48_c49_c50_c58_c59_only_the_bundle_of_the_tokens_digest_is_taken() {
    let check = |digest_of: &str, served: &str, taken: bool| {
        let start = Start {
            addrs: vec!["m1:1".to_owned()],
            token: Some((Digest::of(digest_of.as_bytes()), false)),
            ..Start::default()
        };
        let mut bench = Bench::with(Ca::new(100, NOW), start);
        bench.feed(Input::Join);
        let effects = words(&bench.feed(Input::Root(Ok(served.as_bytes().to_vec()))));
        if taken {
            assert_eq!(effects, ["trust"]);
        } else {
            let text = effects.last().unwrap();
            assert!(text.contains("remote CA does not match fingerprint. Expected: "), "{text}");
            assert!(!effects.contains(&"trust".to_owned()));
            assert_eq!(bench.plan.status().phase, Phase::Failed);
        }
    };
    let (one, two) = (Ca::new(100, NOW).pem(), Ca::new(101, NOW).pem());
    let both = format!("{one}{two}");
    check(&one, &one, true);
    check(&two, &one, false);
    check(&one, &both, false);
    check(&both, &both, true);
    check(&one, "", false);
}

#[test]
fn c52_c53_c54_c55_c56_c57_tokens() {
    let digest = "1rja3kjqiyymi6kxzre9zexq4k8pjuw1n9gjd9hklrm3pqor58";
    let secret = "a".repeat(25);
    let parse = |text: String| text.parse::<crate::JoinToken>();
    assert!(parse(format!("SWMTKN-1-{digest}-{secret}")).is_ok());
    assert!(parse(format!("SWMTKN-2-1-{digest}-{secret}")).unwrap().fips());
    for bad in [
        "invalidtoken".to_owned(),
        format!("SWMTKN-1-{digest}-{}", &secret[1..]),
        format!("SWMTKN-2-{digest}-{secret}"),
        format!("SWMTKN-0-{digest}-{secret}"),
    ] {
        assert_eq!(parse(bad).err().unwrap().to_string(), "invalid join token");
    }
}

#[test]
fn c351_a_fips_token_is_refused_before_anything_is_sent() {
    let start =
        |fips| Start { addrs: vec!["m1:1".to_owned()], token: Some((Digest::of(b""), true)), fips, ..Start::default() };
    let mut bench = Bench::with(Ca::new(100, NOW), start(false));
    let text = "failed: node is not FIPS-enabled but cluster requires FIPS";
    assert_eq!(words(&bench.feed(Input::Join)), [text]);
    let mut bench = Bench::with(Ca::new(100, NOW), start(true));
    assert_eq!(words(&bench.feed(Input::Join)), ["root m1:1"]);
}

#[test]
fn c345_a_pair_on_disk_makes_the_token_void() {
    let (bench, _) = Bench::running(Role::Worker);
    let pem = bench.plan.held.as_ref().unwrap().pem().into_bytes();
    let start = Start {
        addrs: vec!["m1:1".to_owned()],
        trust: Some(bench.ca.trust(NOW)),
        pair: Some((pem, NOW)),
        token: Some((Digest::of(b"another cluster"), true)),
        ..Start::default()
    };
    let mut bench = Bench::with(bench.ca, start);
    assert_eq!(words(&bench.feed(Input::Join)), ["joined"]);
}

#[test]
fn c348_a_root_on_disk_is_kept_if_it_is_the_tokens() {
    let ca = Ca::new(100, NOW);
    let start = |digest| Start {
        addrs: vec!["m1:1".to_owned()],
        trust: Some(Ca::new(100, NOW).trust(NOW)),
        token: Some((digest, false)),
        ..Start::default()
    };
    let digest = Ca::new(100, NOW).trust(NOW).digest();
    let own = start(digest);
    // The root on disk of this very start, whose serial differs from the one made above.
    let digest = own.trust.as_ref().unwrap().digest();
    let mut bench = Bench::with(ca, Start { token: Some((digest, false)), ..own });
    assert_eq!(words(&bench.feed(Input::Join)), ["issue#1 m1:1 joiner"]);
    let mut bench = Bench::with(Ca::new(100, NOW), start(Digest::of(b"other")));
    let effects = words(&bench.feed(Input::Join));
    assert!(effects[0].contains("does not match fingerprint"), "{effects:?}");
}

#[test]
fn addresses_are_tried_in_order_then_a_pause() {
    let mut bench = Bench::joining(&["m1:1", "m2:1"]);
    bench.feed(Input::Join);
    assert_eq!(words(&bench.feed(Input::Root(Err(lost())))), ["root m2:1"]);
    let effects = bench.feed(Input::Root(Err(lost())));
    assert_eq!(delay(&effects, Timer::Attempt), Some(Duration::from_secs(2)));
    for _ in 0..3 {
        assert_eq!(words(&bench.timer(Timer::Attempt)), ["root m1:1"]);
        assert_eq!(words(&bench.feed(Input::Root(Err(lost())))), ["root m2:1"]);
        bench.feed(Input::Root(Err(lost())));
    }
    bench.timer(Timer::Attempt);
    bench.feed(Input::Root(Err(lost())));
    let effects = words(&bench.feed(Input::Root(Err(lost()))));
    assert_eq!(effects, ["failed: no manager could be reached: connection refused (tried m1:1, m2:1)"]);
}

#[test]
fn c80_a_refused_token_ends_the_join_at_once() {
    let mut bench = asking(&["m1:1", "m2:1"]);
    let text = "A valid join token is necessary to join this cluster";
    let effects = bench.feed(Input::Issued { request: 1, result: Err(refusal(Code::InvalidArgument, text)) });
    assert_eq!(words(&effects), ["forget#1".to_owned(), format!("failed: {text}")]);
    assert_eq!(bench.plan.status().last_error.as_ref().unwrap().retry, Retry::Never);
}

#[test]
fn a_lost_answer_is_asked_for_again_with_the_same_request() {
    let mut bench = asking(&["m1:1", "m2:1"]);
    let lose = |bench: &mut Bench| {
        words(&bench.feed(Input::Issued { request: 1, result: Err(Failure::new(FailureKind::Timeout, "no answer")) }))
    };
    assert_eq!(lose(&mut bench), ["issue#1 m2:1 joiner"]);
    assert_eq!(lose(&mut bench), ["start Attempt"]);
    assert_eq!(words(&bench.timer(Timer::Attempt)), ["issue#1 m1:1 joiner"]);
}

#[test]
fn c75_c76_a_request_is_polled_until_it_is_issued() {
    let mut bench = asking(&["m1:1"]);
    bench.accept(1);
    let pending = Answer { state: 2, csr: bench.csr.clone(), ..Answer::default() };
    // Bounds of the pauses: pki.md 1.
    for (round, bound) in [2, 3, 5, 9, 17, 30, 30, 30].into_iter().enumerate() {
        let effects = if round % 2 == 0 {
            bench.answer(1, pending.clone())
        } else {
            let result = Err(refusal(Code::DeadlineExceeded, "deadline"));
            bench.feed(Input::Answered { request: 1, result })
        };
        assert_eq!(words(&effects), ["start Poll"]);
        assert!(delay(&effects, Timer::Poll).unwrap() < Duration::from_secs(bound));
        assert_eq!(words(&bench.timer(Timer::Poll)), ["poll#1 m1:1 node1"]);
    }
    let answer = bench.issued(Role::Worker);
    assert_eq!(words(&bench.answer(1, answer)), ["install#1 worker"]);
}

#[test]
fn only_an_answer_to_our_very_csr_counts() {
    let mut bench = asking(&["m1:1"]);
    bench.accept(1);
    let good = bench.issued(Role::Worker);
    let mut other = good.csr.clone();
    other.push(b'\n');
    for csr in [Vec::new(), other, csr(&key(99))] {
        for state in [3, 4, 5] {
            let answer = Answer { csr: csr.clone(), state, ..good.clone() };
            assert_eq!(words(&bench.answer(1, answer)), ["start Poll"]);
            bench.timer(Timer::Poll);
        }
    }
    let rotate = Answer { state: 5, ..good };
    assert_eq!(words(&bench.answer(1, rotate)), ["install#1 worker"]);
}

#[test]
fn c78_another_manager_goes_on_with_the_same_node() {
    let mut bench = asking(&["m1:1", "m2:1"]);
    bench.accept(1);
    let effects = bench.feed(Input::Answered { request: 1, result: Err(lost()) });
    assert_eq!(words(&effects), ["start Poll"]);
    assert_eq!(words(&bench.timer(Timer::Poll)), ["poll#1 m2:1 node1"]);
}

#[test]
fn a_manager_without_a_majority_was_reached_and_says_what_is_wrong() {
    let mut bench = asking(&["m1:1"]);
    let refusal = Refusal::NoLeader.to_string();
    for attempt in 1..=5 {
        let result = Err(super::refusal(Code::Unknown, &refusal));
        let effects = bench.feed(Input::Issued { request: 1, result });
        let trouble = bench.plan.status().last_error.clone().unwrap();
        assert_eq!(trouble.text, refusal);
        assert!(trouble.hint.contains("was reached") && trouble.hint.contains("majority"), "{}", trouble.hint);
        if attempt == 5 {
            assert_eq!(words(&effects).last().unwrap(), &format!("failed: {refusal}"));
            return;
        }
        assert_eq!(delay(&effects, Timer::Attempt), Some(Duration::from_secs(2)), "{attempt}");
        bench.timer(Timer::Attempt);
    }
}

#[test]
fn a_manager_that_does_not_verify_while_it_is_asked_is_not_tried_for_ever() {
    let mut bench = asking(&["m1:1"]);
    for request in 1..=5 {
        bench.accept(request);
        let effects = bench.feed(Input::Answered {
            request,
            result: Err(Failure::new(FailureKind::Tls, "certificate signed by unknown authority")),
        });
        if request == 5 {
            let words = words(&effects);
            assert!(words.last().unwrap().starts_with("failed: no manager could be reached"), "{words:?}");
            return;
        }
        assert_eq!(delay(&effects, Timer::Attempt), Some(Duration::from_secs(2)), "{request}");
        bench.timer(Timer::Attempt);
        let root = bench.ca.pem().into_bytes();
        bench.feed(Input::Root(Ok(root)));
        bench.feed(Input::TrustSaved(Ok(())));
    }
}

#[test]
fn what_was_issued_wrongly_is_not_installed() {
    let check = |change: &dyn Fn(&Bench, &mut Answer), expected: &str| {
        let mut bench = asking(&["m1:1"]);
        bench.accept(1);
        let mut answer = bench.issued(Role::Worker);
        change(&bench, &mut answer);
        let effects = words(&bench.answer(1, answer));
        assert_eq!(effects, ["start Attempt"], "{expected}");
        let text = &bench.plan.status().last_error.as_ref().unwrap().text;
        assert!(text.contains(expected), "{text}");
    };
    check(&|_, answer| answer.chain.clear(), "no certificate in CertificateStatus response");
    check(
        &|bench, answer| {
            let other = csr(&key(99));
            answer.chain = bench.ca.issue(&other, &subject(NODE, Role::Worker), NOW, DAY);
        },
        "certificate key mismatch",
    );
    check(
        &|bench, answer| {
            let ours = bench.csr.clone();
            answer.chain = bench.ca.issue(&ours, &subject("node2", Role::Worker), NOW, DAY);
        },
        "names node node2",
    );
    check(
        &|bench, answer| {
            let ours = bench.csr.clone();
            answer.chain = Ca::new(101, NOW).issue(&ours, &subject(NODE, Role::Worker), NOW, DAY);
        },
        "unknown authority",
    );
    check(
        &|_, answer| {
            answer.state = 4;
            answer.err = "external CA says no".to_owned();
        },
        "external CA says no",
    );
}

#[test]
fn c350_a_certificate_of_a_fips_cluster_is_refused() {
    let mut bench = asking(&["m1:1"]);
    bench.accept(1);
    let mut answer = bench.issued(Role::Worker);
    let mut named = subject(NODE, Role::Worker);
    named.cluster = format!("FIPS.{CLUSTER}").parse().unwrap();
    answer.chain = bench.ca.issue(&answer.csr, &named, NOW, DAY);
    let effects = words(&bench.answer(1, answer.clone()));
    assert_eq!(effects.last().unwrap(), "failed: node is not FIPS-enabled but cluster requires FIPS");

    let start = Start { trust: Some(bench.ca.trust(NOW)), pair: Some((answer.chain, NOW)), ..Start::default() };
    assert_eq!(Plan::new(start, NOW, 1).err(), Some(StartError::Fips));
}

#[test]
fn a_clock_that_is_behind_is_told_by_how_much() {
    let mut bench = asking(&["m1:1"]);
    bench.accept(1);
    let answer = bench.issued(Role::Worker);
    bench.now = NOW.saturating_sub(Duration::from_secs(7200));
    let effects = words(&bench.answer(1, answer));
    let text = effects.last().unwrap();
    assert!(text.contains("this machine's clock is about 1h 59m behind the managers'"), "{text}");
    let told = bench.plan.status().clock_offset.unwrap();
    assert!(told.estimated && (7_170_000..=7_230_000).contains(&told.ms), "{told}");
}

#[test]
fn a_manager_fetches_the_unlock_key_first() {
    let mut bench = asking(&["m1:1"]);
    bench.accept(1);
    let answer = bench.issued(Role::Manager);
    assert_eq!(words(&bench.answer(1, answer)), ["unlock#1"]);
    let fail = |bench: &mut Bench| words(&bench.feed(Input::Unlocked { request: 1, result: Err(lost()) }));
    for _ in 0..4 {
        assert_eq!(fail(&mut bench), ["unlock#1"]);
    }
    let effects = fail(&mut bench);
    assert!(effects.last().unwrap().contains("the unlock key could not be fetched"), "{effects:?}");
}
