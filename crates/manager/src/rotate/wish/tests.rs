//! What becomes of an update, row by row: the root of now held or with an external CA, with and without a rotation under way
//! (conformance I). Which external CAs answer is an argument.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cluster::Outcome;
use cluster::command::{Command, UpdateCluster};
use cluster::rotation::Policy;
use cluster::settings::Settings;

use super::super::fixture::Fixture;
use super::super::{Signers, generate, prepare};
use super::*;

/// A CA that answers, one that nobody reaches.
const UP: &str = "https://up/";
const DOWN: &str = "https://down/";

/// What is decided, in a form that rows can name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Keep,
    Abort,
    /// Whose key changes hands, where it is then, and whether a rotation ends by that.
    Entrust(BlobDigest, &'static str, bool),
    Generate,
    /// A rotation to this bundle.
    Given(Vec<u8>),
    /// This is part of the refusal.
    Refused(String),
}

fn custody(custody: &Custody) -> &'static str {
    match custody {
        Custody::Sealed(_) => "sealed",
        Custody::Token(_) => "token",
        Custody::Outside => "outside",
    }
}

/// A cluster and the roots that rows speak of; all keys are known.
struct Case {
    fixture: Fixture,
    /// The root of now.
    now: Arc<Root>,
    /// The root that a rotation under way leads to.
    next: Arc<Root>,
    /// Some other.
    other: Arc<Root>,
}

impl Case {
    /// The key of the root of now is held, or with an external CA.
    fn new(held: bool) -> Self {
        let mut fixture = Fixture::new();
        let now = Arc::clone(fixture.state.roots.signing().unwrap());
        let make = |fixture: &Fixture| generate(&fixture.chance, fixture.now).unwrap();
        let (next, other) = (make(&fixture), make(&fixture));
        if !held {
            let version = fixture.state.cluster_version;
            let custody = Some((now.trust, Custody::Outside));
            let update = UpdateCluster { version, custody, ..UpdateCluster::default() };
            assert!(matches!(fixture.apply(Command::UpdateCluster(Box::new(update))), Outcome::Done { .. }));
        }
        Self { fixture, now, next, other }
    }

    /// And a rotation is under way, to a root whose key is held, or with an external CA.
    fn rotating(held: bool, next_held: bool) -> Self {
        let mut case = Self::new(held);
        let to = Arc::new(Root {
            custody: if next_held { case.next.custody.clone() } else { Custody::Outside },
            ..Root::clone(&case.next)
        });
        let mut signers = Signers::default();
        if !held && next_held {
            let key = key_of(&case.now);
            signers.certified = vec![pki::issue::cross_sign(&case.next.signer, &case.now.signer, &key, None).unwrap()];
        }
        let change = prepare(&case.fixture.state, to, false, Policy::WaitForAll, &signers, case.fixture.now).unwrap();
        assert!(matches!(case.fixture.update(Some(change)), Outcome::Done { .. }));
        case
    }

    /// External CAs that the settings have already.
    fn listed(mut self, cas: &[ExternalCa]) -> Self {
        let settings = Settings { external_cas: cas.to_vec(), ..Settings::clone(&self.fixture.state.settings) };
        let version = self.fixture.state.cluster_version;
        let update = UpdateCluster { version, settings: Some(settings), ..UpdateCluster::default() };
        assert!(matches!(self.fixture.apply(Command::UpdateCluster(Box::new(update))), Outcome::Done { .. }));
        self
    }

    /// The decision, once it was found out which external CAs answer.
    fn decide(&self, wish: &Wish, cas: &[ExternalCa]) -> Found {
        let state = &self.fixture.state;
        let mut reach = Reach::default();
        for must in must_reach(state, wish, cas) {
            if !must.urls.iter().any(|url| url == UP) {
                reach.failed(must.which, must.urls.join(" "));
            }
        }
        match decide(state, wish, &reach, self.fixture.now) {
            Ok(Decision::Keep) => Found::Keep,
            Ok(Decision::Abort) => Found::Abort,
            Ok(Decision::Entrust { trust, custody: to, abort }) => Found::Entrust(trust, custody(&to), abort),
            Ok(Decision::Generate) => Found::Generate,
            Ok(Decision::Given(root)) => Found::Given(root.bundle.clone()),
            Err(error) => {
                assert_eq!(error.code, tonic::Code::InvalidArgument, "{}", error.message);
                Found::Refused(error.message)
            }
        }
    }

    /// The force value of now: nothing is forced.
    fn calm(&self) -> u64 {
        self.fixture.state.settings.force_rotate
    }

    fn wish(&self, root: &Root, key: Option<&Root>) -> Wish {
        // Any force value: a certificate decides.
        Wish {
            certificate: root.bundle.clone(),
            key: key.map(key_pem),
            force_rotate: self.calm() + 5,
            ..Wish::default()
        }
    }

    fn nothing(&self) -> Wish {
        Wish { force_rotate: self.calm(), ..Wish::default() }
    }

    fn forced(&self) -> Wish {
        Wish { force_rotate: self.calm() + 1, ..Wish::default() }
    }
}

fn key_of(root: &Root) -> PrivateKey {
    let Custody::Sealed(der) = &root.custody else { panic!("its key is known") };
    PrivateKey::from_der(der.expose()).unwrap()
}

fn key_pem(root: &Root) -> SecretString {
    SecretString::new(key_of(root).pkcs8_pem().expose().to_owned())
}

fn ca(url: &str, root: Option<&Root>) -> ExternalCa {
    let ca_cert = root.map(|root| String::from_utf8(root.bundle.clone()).unwrap()).unwrap_or_default();
    ExternalCa { url: url.to_owned(), ca_cert, ..ExternalCa::default() }
}

fn missing(found: &Found, which: &str) {
    let Found::Refused(text) = found else { panic!("{found:?}") };
    let wanted =
        format!("there must be at least one valid, reachable external CA corresponding to the {which} CA certificate");
    assert!(text.starts_with(&wanted), "{text}");
}

#[test]
fn c256_c257_c262_an_external_root_needs_its_external_ca() {
    for case in [Case::new(false), Case::rotating(false, true), Case::rotating(false, false)] {
        let case = case.listed(&[ca(UP, None)]);
        let (own, other) = (Some(&*case.now), Some(&*case.other));
        let rows = [
            vec![],
            vec![ca(UP, other)],
            vec![ca(DOWN, None)],
            vec![ca(DOWN, own), ca(UP, other)],
            vec![ca("invalidurl", own)],
            vec![ca("https://too:many:colons:1:2:3", own)],
        ];
        for cas in rows {
            missing(&case.decide(&case.nothing(), &cas), "current");
            missing(&case.decide(&case.forced(), &cas), "current");
            missing(&case.decide(&case.wish(&case.other, Some(&case.other)), &cas), "current");
            missing(&case.decide(&case.wish(&case.other, None), &cas), "current");
        }
        // What has nothing to do with CAs does not need one: docker refuses this too.
        assert_eq!(case.decide(&case.nothing(), &[ca(UP, None)]), Found::Keep);
    }
    let away = Case::new(false).listed(&[ca(DOWN, None)]);
    assert_eq!(away.decide(&away.nothing(), &[ca(DOWN, None)]), Found::Keep);
    missing(&away.decide(&away.forced(), &[ca(DOWN, None)]), "current");
}

#[test]
fn c258_c259_a_root_without_a_key_needs_an_external_ca_of_its_own() {
    for case in [Case::new(true), Case::rotating(true, true), Case::rotating(true, false)] {
        let other = Some(&*case.other);
        for cas in [vec![], vec![ca(UP, Some(&case.now))], vec![ca(UP, None)], vec![ca(DOWN, other)]] {
            missing(&case.decide(&case.wish(&case.other, None), &cas), "desired");
        }
        let there = case.decide(&case.wish(&case.other, None), &[ca(DOWN, other), ca(UP, other)]);
        assert_eq!(there, Found::Given(case.other.bundle.clone()));
    }
}

#[test]
fn c260_c261_a_rotation_to_an_external_root_keeps_its_external_ca() {
    let case = Case::rotating(true, false);
    let case = {
        let list = [ca(UP, Some(&case.next))];
        case.listed(&list)
    };
    for cas in [vec![], vec![ca(UP, Some(&case.other))], vec![ca(UP, None)], vec![ca(DOWN, Some(&case.next))]] {
        // Those of the root of now are looked at when they are new, and found.
        missing(&case.decide(&case.nothing(), &cas), "next");
    }
    assert_eq!(case.decide(&case.nothing(), &[ca(DOWN, Some(&case.next)), ca(UP, Some(&case.next))]), Found::Keep);
}

#[test]
fn an_external_ca_beside_a_key_of_our_own_is_looked_at_when_it_is_added() {
    let case = Case::new(true);
    missing(&case.decide(&case.nothing(), &[ca(DOWN, None)]), "current");
    missing(&case.decide(&case.nothing(), &[ca(DOWN, Some(&case.now))]), "current");
    assert_eq!(case.decide(&case.nothing(), &[ca(UP, None)]), Found::Keep);
    assert_eq!(case.decide(&case.nothing(), &[ca(DOWN, Some(&case.other))]), Found::Keep, "for another root");
    // One that died since can stay and can go.
    let case = case.listed(&[ca(DOWN, None)]);
    assert_eq!(case.decide(&case.nothing(), &[ca(DOWN, None)]), Found::Keep);
    assert_eq!(case.decide(&case.nothing(), &[]), Found::Keep);
}

/// Docker refuses it; ours gives every node both roots.
#[test]
fn from_one_external_root_to_another_is_a_rotation_if_both_cas_answer() {
    let case = Case::new(false).listed(&[ca(UP, None)]);
    let (now, other) = (Some(&*case.now), Some(&*case.other));
    let wish = case.wish(&case.other, None);
    for cas in [[ca(UP, now), ca(UP, other)], [ca(UP, None), ca(UP, other)]] {
        assert_eq!(case.decide(&wish, &cas), Found::Given(case.other.bundle.clone()));
    }
    missing(&case.decide(&wish, &[ca(UP, other)]), "current");
    missing(&case.decide(&wish, &[ca(UP, now), ca(DOWN, other)]), "desired");
}

#[test]
fn c266_a_key_must_be_the_certificates() {
    for case in [Case::new(true), Case::new(false), Case::rotating(true, true), Case::rotating(true, false)] {
        for root in [&case.now, &case.next] {
            let found = case.decide(&case.wish(root, Some(&case.other)), &[ca(UP, None)]);
            assert_eq!(found, Found::Refused("certificate key mismatch".to_owned()));
        }
    }
}

#[test]
fn c270_c271_c272_c273_the_root_of_now_is_no_rotation() {
    let (held, outside) = (Case::new(true), Case::new(false).listed(&[ca(UP, None)]));
    let ugly = |case: &Case, key| {
        let mut wish = case.wish(&case.now, key);
        let text = String::from_utf8(wish.certificate).unwrap();
        wish.certificate = format!("  words\r\n{}\r\n\r\n", text.replace('\n', "\r\n")).into_bytes();
        wish
    };
    let none: &[ExternalCa] = &[];
    let up: &[ExternalCa] = &[ca(UP, None)];
    let rows = [
        ("270", held.decide(&ugly(&held, Some(&held.now)), none), Found::Keep),
        (
            "271",
            outside.decide(&ugly(&outside, Some(&outside.now)), up),
            Found::Entrust(outside.now.trust, "sealed", false),
        ),
        (
            "271, its CA away",
            outside.decide(&ugly(&outside, Some(&outside.now)), none),
            Found::Entrust(outside.now.trust, "sealed", false),
        ),
        ("272", held.decide(&ugly(&held, None), up), Found::Entrust(held.now.trust, "outside", false)),
        ("273", held.decide(&ugly(&held, Some(&held.now)), up), Found::Keep),
        ("external as it was", outside.decide(&ugly(&outside, None), up), Found::Keep),
    ];
    for (item, found, wanted) in rows {
        assert_eq!(found, wanted, "{item}");
    }
    missing(&held.decide(&ugly(&held, None), &[ca(DOWN, None)]), "current");
    missing(&held.decide(&ugly(&held, None), none), "desired");
}

#[test]
fn c274_the_same_with_a_rotation_on_ends_it() {
    for next_held in [true, false] {
        let (held, outside) =
            (Case::rotating(true, next_held), Case::rotating(false, next_held).listed(&[ca(UP, None)]));
        let up: &[ExternalCa] = &[ca(UP, None)];
        let rows = [
            ("270", held.decide(&held.wish(&held.now, Some(&held.now)), &[]), Found::Abort),
            (
                "271",
                outside.decide(&outside.wish(&outside.now, Some(&outside.now)), &[]),
                Found::Entrust(outside.now.trust, "sealed", true),
            ),
            ("272", held.decide(&held.wish(&held.now, None), up), Found::Entrust(held.now.trust, "outside", true)),
            ("273", held.decide(&held.wish(&held.now, Some(&held.now)), up), Found::Abort),
            ("external as it was", outside.decide(&outside.wish(&outside.now, None), up), Found::Abort),
        ];
        for (item, found, wanted) in rows {
            assert_eq!(found, wanted, "{item}, to a root whose key is held: {next_held}");
        }
    }
}

#[test]
fn c275_c276_c277_the_root_of_the_rotation_changes_its_key_alone() {
    let (held, outside) = (Case::rotating(true, true), Case::rotating(true, false));
    let of_next: &[ExternalCa] = &[ca(UP, Some(&held.next))];
    let own: &[ExternalCa] = &[ca(UP, Some(&outside.next))];
    let rows = [
        ("275", held.decide(&held.wish(&held.next, Some(&held.next)), &[]), Found::Keep),
        (
            "276",
            outside.decide(&outside.wish(&outside.next, Some(&outside.next)), &[]),
            Found::Entrust(outside.next.trust, "sealed", false),
        ),
        ("277", held.decide(&held.wish(&held.next, None), of_next), Found::Entrust(held.next.trust, "outside", false)),
        ("external as it was", outside.decide(&outside.wish(&outside.next, None), own), Found::Keep),
    ];
    for (item, found, wanted) in rows {
        assert_eq!(found, wanted, "{item}");
    }
    missing(&held.decide(&held.wish(&held.next, None), &[ca(DOWN, Some(&held.next))]), "desired");
}

#[test]
fn c278_c279_another_root_replaces_the_one_of_the_rotation() {
    // Made again with the same key.
    let case = Case::rotating(true, true);
    let key = key_of(&case.next);
    let again = generate_again(&case, &key);
    let found = case.decide(&case.wish(&again, Some(&again)), &[]);
    assert_eq!(found, Found::Given(again.bundle.clone()));

    // The CA of the root that is given up is not needed any more.
    let case = Case::rotating(true, false);
    let case = {
        let list = [ca(DOWN, Some(&case.next))];
        case.listed(&list)
    };
    let wish = case.wish(&case.other, None);
    assert_eq!(case.decide(&wish, &[ca(UP, Some(&case.other))]), Found::Given(case.other.bundle.clone()));
    assert_eq!(case.decide(&case.forced(), &[]), Found::Generate);
}

/// Another certificate for a key.
fn generate_again(case: &Case, key: &PrivateKey) -> Arc<Root> {
    let sealed = Custody::Sealed(Arc::new(key.pkcs8_der()));
    super::super::self_signed(key, sealed, &case.fixture.chance, case.fixture.now).unwrap()
}

#[test]
fn c280_c281_c282_c283_a_force_value_that_differs_makes_a_new_root() {
    for held in [true, false] {
        let cases = [Case::new(held), Case::rotating(held, true), Case::rotating(held, false)];
        for case in cases {
            let list = [ca(UP, None), ca(UP, Some(&case.next))];
            let case = case.listed(&list);
            assert_eq!(case.decide(&case.nothing(), &list), Found::Keep, "283");
            assert_eq!(case.decide(&case.forced(), &list), Found::Generate);
            let lower = Wish { force_rotate: case.calm().wrapping_sub(1), ..Wish::default() };
            assert_eq!(case.decide(&lower, &list), Found::Generate, "lower is another too");
        }
    }
}

#[test]
fn c284_a_key_in_use_is_refused_under_another_certificate() {
    for case in [Case::new(true), Case::new(false).listed(&[ca(UP, None)]), Case::rotating(true, false)] {
        let again = generate_again(&case, &key_of(&case.now));
        let found = case.decide(&case.wish(&again, Some(&again)), &[ca(UP, None)]);
        assert_eq!(found, Found::Refused("Cannot update to a cert with an identical key".to_owned()));
    }
}
