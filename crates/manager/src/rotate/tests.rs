//! What an operator gives, and what becomes of it with time: every leaf here is signed and verified.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cluster::authorize::{Caller, Presented};
use cluster::command::{Command, UpdateCluster};
use cluster::outcome::Outcome;
use cluster::settings::Settings;
use pki::chain::{self, Usage};
use pki::identity::{NodeId, Role};

use super::fixture::{Fixture, START};
use super::*;
use crate::issue::{self, Draw, Purpose, Request, Signing};
use pki::key::PrivateKey;
use pki::secret::SecretString;
use wire::status::Unauthorized;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TEN_SECONDS: Duration = Duration::from_secs(10);

struct Made {
    key: PrivateKey,
    root: Certificate,
}

fn made(fixture: &Fixture) -> Made {
    let key = fixture.chance.p256_key().unwrap();
    let root = pki::issue::root(&key, fixture.chance.serial().unwrap(), fixture.now).unwrap();
    Made { key, root }
}

/// A signer below `root` that ends then.
fn below(signer: &Made, root: &Made, end: Time) -> Certificate {
    pki::issue::cross_sign(&signer.root, &root.root, &root.key, Some(end)).unwrap()
}

fn wish(root: &Made, signer: &Made, chain: &[Certificate]) -> Wish {
    let pem: String = chain.iter().map(Certificate::pem).collect();
    Wish {
        certificate: root.root.pem().into_bytes(),
        signer: Some(pem.into_bytes()),
        key: Some(SecretString::new(signer.key.pkcs8_pem().expose().to_owned())),
        ..Wish::default()
    }
}

fn expire(fixture: &mut Fixture, life: Duration) {
    let settings = Settings { node_cert_expiry: life, ..Settings::clone(&fixture.state.settings) };
    let version = fixture.state.cluster_version;
    let update = UpdateCluster { version, settings: Some(settings), ..UpdateCluster::default() };
    fixture.apply(Command::UpdateCluster(Box::new(update)));
}

/// The node renews, and its chain is one that it takes itself and that everybody who holds one of `roots` verifies.
fn renewed(fixture: &mut Fixture, node: &NodeId, roots: &[&[Certificate]]) -> Time {
    let key = fixture.chance.p256_key().unwrap();
    let csr = pki::csr::request(&key).unwrap().into_bytes();
    let linted = pki::csr::Csr::parse(&csr).unwrap().verify().unwrap();
    let availability = cluster::node::Availability::Active;
    let request = Request { csr, token: Arc::from(""), availability, ours: true };
    let cut = fixture.state.node(node).unwrap().cut;
    let purpose = Purpose::Renewal { node: node.clone(), cut };
    let signing = Signing::of(fixture.state.roots.signing().unwrap(), fixture.now).unwrap();
    let draw = Draw { node: node.clone(), serial: fixture.chance.serial().unwrap() };
    let command = issue::sign(&fixture.state, &purpose, &request, &linted, &signing, draw, fixture.now).unwrap();
    let Outcome::Issued { letter, .. } = fixture.apply(command) else { panic!("not issued") };
    let leaf = Certificate::from_der(letter.certificate.clone()).unwrap();
    let ladder: Vec<_> = letter.ladder.iter().map(|der| Certificate::from_der(der.clone()).unwrap()).collect();
    assert!(ladder.iter().all(|step| step.not_after() >= leaf.not_after()), "no file of it ends before the leaf");
    assert!(leaf.not_after() >= fixture.now.saturating_add(pki::issue::LEAF_EXPIRY_MIN).saturating_sub(DAY / 1440));
    for root in roots {
        for at in [fixture.now, leaf.not_after().saturating_sub(TEN_SECONDS)] {
            chain::reaches(&leaf, &ladder, root, at, Usage::Server).unwrap();
        }
    }
    fixture.apply(Command::Confirm { node: node.clone(), serial: letter.leaf.serial });
    leaf.not_after()
}

/// Everybody named converts, whoever else there is is put aside.
fn rotated(fixture: &mut Fixture, nodes: &[NodeId]) {
    let deadline = fixture.now;
    assert!(matches!(fixture.rotate(Policy::Deadline(deadline)), Outcome::Done { .. }));
    for node in nodes {
        fixture.renew(node);
    }
    fixture.later(TEN_SECONDS);
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
    for node in nodes {
        fixture.take_root(node);
    }
    fixture.later(TEN_SECONDS);
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
    assert!(fixture.state.rotation().is_none());
}

fn collect(fixture: &mut Fixture) {
    let nodes = fixture.state.collectable(fixture.now);
    fixture.apply(Command::Collect { nodes });
}

#[test]
fn a_manager_renews_whatever_late_nodes_are_waited_for() {
    let mut fixture = Fixture::new();
    let (manager, away) = (fixture.manager.clone(), fixture.node(1, false));
    let left = fixture.state.roots.served().unwrap().certificates.clone();
    expire(&mut fixture, 30 * DAY);
    rotated(&mut fixture, std::slice::from_ref(&manager));
    let today = fixture.state.roots.served().unwrap().certificates.clone();
    let mut end = fixture.now;
    for day in 1..=120 {
        fixture.now = START.saturating_add(DAY * day);
        collect(&mut fixture);
        let late = day < 90;
        assert_eq!(fixture.state.roots.stragglers().len(), usize::from(late), "day {day}");
        let both: &[&[Certificate]] = &[&today, &left];
        end = renewed(&mut fixture, &manager, if late { both } else { &both[..1] });
        if day == 89 {
            let standing = renewed(&mut fixture, &away, both);
            assert!(standing > fixture.now, "it is back");
            fixture.take_root(&away);
        }
    }
    assert!(end >= fixture.now.saturating_add(29 * DAY));
}

#[test]
fn a_cross_certificate_that_became_too_short_is_made_anew_before_the_end() {
    let mut fixture = Fixture::new();
    expire(&mut fixture, Duration::from_secs(3600));
    let manager = fixture.manager.clone();
    fixture.rotate(Policy::WaitForAll);
    assert!(
        prolong(&fixture.state, &Signers::default(), fixture.now).unwrap().is_none(),
        "it lasts longer than what was signed before"
    );
    expire(&mut fixture, 90 * DAY);
    fixture.later(20 * DAY);
    let replace = prolong(&fixture.state, &Signers::default(), fixture.now).unwrap().unwrap();
    assert!(replace.ladder[0].not_after() >= fixture.now.saturating_add(180 * DAY));
    fixture.apply(Command::ReplaceLadder(Box::new(replace)));
    assert!(prolong(&fixture.state, &Signers::default(), fixture.now).unwrap().is_none());
    let roots = [fixture.state.rotation().unwrap().old.certificates.clone()];
    let end = renewed(&mut fixture, &manager, &[&roots[0]]);
    assert!(end > fixture.now.saturating_add(89 * DAY));
}

#[test]
fn what_leads_to_a_root_that_was_given_up_is_made_anew_as_long_as_nodes_may_hold_it() {
    let mut fixture = Fixture::new();
    let (manager, holder) = (fixture.manager.clone(), fixture.node(1, true));
    expire(&mut fixture, 30 * DAY);
    let begun = fixture.now;
    fixture.rotate(Policy::WaitForAll);
    fixture.renew(&manager);
    fixture.renew(&holder);
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
    fixture.take_root(&holder);
    let first = fixture.state.rotation().unwrap().clone();
    // Replaced by another, which waits for a node for half a year.
    fixture.rotate(Policy::WaitForAll);
    let running = fixture.state.rotation().unwrap();
    assert_eq!(running.ladder().len(), 2);
    assert!(running.passed.iter().any(|root| root.trust == first.new.trust && root.key().is_some()));
    let held: [&[Certificate]; 2] = [&first.old.certificates, &first.new.certificates];
    let mut made = 0;
    for day in 1..=180 {
        fixture.now = begun.saturating_add(DAY * day);
        collect(&mut fixture);
        if let Some(replace) = prolong(&fixture.state, &Signers::default(), fixture.now).unwrap() {
            made += 1;
            assert!(matches!(fixture.apply(Command::ReplaceLadder(Box::new(replace))), Outcome::Done { .. }));
        }
        assert_eq!(ladder_ends(&fixture.state, fixture.now), None, "day {day}");
        let end = renewed(&mut fixture, &manager, &held);
        assert!(end >= fixture.now.saturating_add(29 * DAY), "day {day}");
    }
    assert!((1..=20).contains(&made), "{made}");

    // Without the key nothing can be made: that is said a week before.
    let end = fixture.state.rotation().unwrap().ladder().iter().map(Certificate::not_after).min().unwrap();
    fixture.now = end.saturating_sub(8 * DAY);
    assert_eq!(ladder_ends(&fixture.state, fixture.now), None);
    fixture.later(DAY);
    assert_eq!(ladder_ends(&fixture.state, fixture.now), Some(end));
}

#[test]
fn every_certificate_of_a_given_signer_lasts() {
    let fixture = Fixture::new();
    let (root, signer) = (made(&fixture), made(&fixture));
    let short = below(&signer, &root, fixture.now.saturating_add(364 * DAY));
    let long = below(&signer, &root, fixture.now.saturating_add(366 * DAY));
    let refused =
        given(&wish(&root, &signer, std::slice::from_ref(&short)), &Reach::default(), fixture.now).unwrap_err();
    assert_eq!(refused.message, "CA certificate expires too soon");
    let taken = given(&wish(&root, &signer, std::slice::from_ref(&long)), &Reach::default(), fixture.now).unwrap();
    assert_eq!(status::view(&taken).not_after, long.not_after(), "what ends first is shown");
}

#[test]
fn a_chain_file_with_the_root_in_it_rotates_and_goes_back() {
    let mut fixture = Fixture::new();
    let manager = fixture.manager.clone();
    let (root, signer) = (made(&fixture), made(&fixture));
    let own = below(&signer, &root, fixture.now.saturating_add(400 * DAY));
    let mut chain = vec![own.clone(), own.clone()];
    chain.extend(std::iter::repeat_n(root.root.clone(), 7));
    let to = given(&wish(&root, &signer, &chain), &Reach::default(), fixture.now).unwrap();
    assert_eq!(to.steps, [own]);
    let held = fixture.state.roots.served().unwrap().certificates.clone();
    let change = prepare(&fixture.state, to, false, Policy::WaitForAll, &Signers::default(), fixture.now).unwrap();
    assert!(matches!(fixture.update(Some(change)), Outcome::Done { .. }));
    renewed(&mut fixture, &manager, &[&held, std::slice::from_ref(&root.root)]);
    let back = turn_back(&fixture.state, Some(Policy::WaitForAll), &Signers::default(), fixture.now).unwrap();
    let RootsChange::Abort(abort) = &back else { panic!("no way back") };
    assert!(abort.ladder.is_empty() && abort.logged.is_empty(), "nobody holds another root: nothing has to be signed");
    assert!(matches!(fixture.update(Some(back)), Outcome::Done { .. }));
    renewed(&mut fixture, &manager, &[&held]);
}

#[test]
fn too_long_a_chain_is_refused_at_once() {
    let mut fixture = Fixture::new();
    let (root, signer) = (made(&fixture), made(&fixture));
    let chain: Vec<_> = (0..4).map(|n| below(&signer, &root, fixture.now.saturating_add(DAY * (400 + n)))).collect();
    let refused = given(&wish(&root, &signer, &chain), &Reach::default(), fixture.now).unwrap_err();
    assert_eq!(refused.code, tonic::Code::InvalidArgument);

    // What does not fit is said where it is asked for, and nothing begins.
    let mut to = given(&wish(&root, &signer, &chain[..1]), &Reach::default(), fixture.now).unwrap().as_ref().clone();
    to.steps = vec![chain[0].clone(); cluster::trust::LADDER_SENT_MAX];
    let refused = prepare(&fixture.state, Arc::new(to), false, Policy::WaitForAll, &Signers::default(), fixture.now)
        .map(|_| ())
        .unwrap_err();
    assert_eq!(refused.code, tonic::Code::FailedPrecondition, "{}", refused.message);
    assert!(refused.message.contains("too long"), "{}", refused.message);
    assert!(matches!(fixture.rotate(Policy::WaitForAll), Outcome::Done { .. }));
}

#[test]
fn the_same_root_again_says_how_long_to_wait() {
    let mut fixture = Fixture::new();
    let (manager, _away) = (fixture.manager.clone(), fixture.node(1, false));
    let bound = Policy::Emergency { bound: TEN_SECONDS };
    let root = made(&fixture);
    let asked = || Wish { signer: None, force_rotate: 99, ..wish(&root, &root, &[]) };
    let decided = |fixture: &Fixture| decide(&fixture.state, &asked(), &Reach::default(), fixture.now).unwrap();
    let kept = |fixture: &Fixture, policy| {
        assert!(matches!(decided(fixture), Decision::Keep));
        keep(&fixture.state, Some(policy))
    };
    assert!(keep(&fixture.state, Some(Policy::WaitForAll)).unwrap().is_none());
    let refused = keep(&fixture.state, Some(bound)).map(|_| ()).unwrap_err();
    assert_eq!(refused.code, tonic::Code::FailedPrecondition);
    assert!(refused.message.contains("nothing to rotate to"), "{}", refused.message);

    let Decision::Given(to) = decided(&fixture) else { panic!("it is there already") };
    let change = prepare(&fixture.state, to, false, Policy::WaitForAll, &Signers::default(), fixture.now).unwrap();
    fixture.update(Some(change));
    fixture.renew(&manager);
    assert_eq!(fixture.advance(), Outcome::Rejected(cluster::Rejection::NotConverted));
    assert!(kept(&fixture, Policy::WaitForAll).unwrap().is_none());
    assert!(kept(&fixture, bound).map(|_| ()).unwrap_err().message.contains("under way"));
    let deadline = Policy::Deadline(fixture.now);
    let change = kept(&fixture, deadline).unwrap();
    assert!(matches!(fixture.update(change), Outcome::Done { .. }));
    assert!(keep(&fixture.state, None).unwrap().is_none(), "a deadline stays unless another one is named");
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));

    // The way back is taken with a deadline, too, when nobody can do without.
    let back = turn_back(&fixture.state, Some(Policy::WaitForAll), &Signers::default(), fixture.now).unwrap();
    assert!(matches!(fixture.update(Some(back)), Outcome::Done { .. }));
    let again = |policy| turn_back(&fixture.state, policy, &Signers::default(), fixture.now);
    for policy in [None, Some(Policy::WaitForAll)] {
        let refused = again(policy).map(|_| ()).unwrap_err().message;
        assert!(refused.contains("aborted already") && refused.contains("abort --deadline 10m"), "{refused}");
    }
    assert!(again(Some(bound)).is_err());
    let change = again(Some(Policy::Deadline(fixture.now))).unwrap();
    assert!(matches!(change, RootsChange::Policy(_)));
    fixture.renew(&manager);
    assert!(matches!(fixture.update(Some(change)), Outcome::Done { .. }));
    let again = turn_back(&fixture.state, None, &Signers::default(), fixture.now);
    assert!(again.is_err(), "a deadline stays unless another one is named");
    fixture.later(TEN_SECONDS);
    assert!(matches!(fixture.advance(), Outcome::Done { .. }));
}

/// A node's certificate as it presents it.
fn presented(fixture: &Fixture, id: &NodeId) -> Presented {
    let node = fixture.state.node(id).unwrap();
    let leaf = node.current.clone().unwrap();
    Presented {
        cluster: fixture.state.cluster_id().unwrap().clone(),
        role: node.role,
        node: id.clone(),
        serial: leaf.serial,
        spki: leaf.spki,
        issuer: leaf.issuer,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    }
}

/// A request whose own signature does not hold.
fn unsigned(fixture: &Fixture, token: &str) -> Request {
    let mut csr = pki::csr::request(&fixture.chance.p256_key().unwrap()).unwrap();
    let place = csr.find("\n-----END").unwrap() - 8;
    let other = if &csr[place..=place] == "A" { "B" } else { "A" };
    csr.replace_range(place..=place, other);
    let availability = cluster::node::Availability::Active;
    Request { csr: csr.into_bytes(), token: Arc::from(token), availability, ours: true }
}

#[test]
fn a_node_on_record_is_never_told_that_it_has_no_token() {
    let mut fixture = Fixture::new();
    let id = fixture.node(1, true);
    let request = unsigned(&fixture, "");
    let own = presented(&fixture, &id);
    let told = |leaf: &Presented, now| {
        let standing = fixture.state.standing(leaf, now);
        issue::admit(&fixture.state, Caller::Identified(leaf, &standing), &request, now).unwrap_err()
    };
    let other = Presented { serial: fixture.chance.serial().unwrap(), ..own.clone() };
    assert_eq!(told(&other, fixture.now), Refusal::Peer(Unauthorized::Unregistered { node: id.clone() }));
    let stranger = Presented { node: "nonesuchnonesuchnonesuch1".parse().unwrap(), ..own.clone() };
    assert_eq!(told(&stranger, fixture.now), Refusal::TokenRefused);
    let foreign = Presented { cluster: "othercluster".parse().unwrap(), ..own.clone() };
    assert_eq!(told(&foreign, fixture.now), Refusal::TokenRefused);
    // Its certificate ended while the connection stood.
    let standing = fixture.state.standing(&own, fixture.now);
    let late = own.not_after.saturating_add(TEN_SECONDS);
    let ended = issue::admit(&fixture.state, Caller::Identified(&own, &standing), &request, late);
    assert_eq!(ended, Err(Refusal::Peer(Unauthorized::MustRenew { node: id.clone() })));

    let refused = |rejection| match issue::verdict(Some(&Outcome::Rejected(rejection)), Some(&id)) {
        issue::Verdict::Refused(refusal) => refusal,
        _ => panic!("refused"),
    };
    assert_eq!(refused(cluster::Rejection::Way), Refusal::IssuanceStale);
    assert_eq!(refused(cluster::Rejection::Removed), Refusal::TokenRefused);
}

#[test]
fn who_has_no_room_costs_no_public_key_work() {
    let mut fixture = Fixture::new();
    let id = fixture.node(1, true);
    let own = presented(&fixture, &id);
    let digest = pki::digest::Digest::of(&fixture.served());
    let token = fixture.state.tokens.text(cluster::tokens::WORKER_ROW, &digest, false).unwrap().text().to_owned();
    let (renewal, join) = (unsigned(&fixture, ""), unsigned(&fixture, &token));
    let told = |fixture: &Fixture| {
        let standing = fixture.state.standing(&own, fixture.now);
        let begin = |caller, request: &Request| {
            issue::Issuing::begin(&fixture.state, caller, request.clone(), fixture.now).map(|_| ()).unwrap_err()
        };
        (begin(Caller::Identified(&own, &standing), &renewal), begin(Caller::Anonymous, &join))
    };
    let (renewed, joined) = told(&fixture);
    let signature = |refusal: &Refusal| matches!(refusal, Refusal::CsrRefused { .. });
    assert!(signature(&renewed) && signature(&joined), "{renewed:?} {joined:?}");

    Arc::make_mut(fixture.state.nodes.get_mut(&id).unwrap()).issuances =
        (fixture.now, cluster::issuance::ISSUANCES_PER_HOUR_MAX);
    Arc::make_mut(&mut fixture.state.tokens).rows[0].unfinished = cluster::tokens::UNFINISHED_PER_TOKEN_MAX;
    let (renewed, joined) = told(&fixture);
    assert!(matches!(renewed, Refusal::IssuanceRateExceeded { .. }), "{renewed:?}");
    assert_eq!(joined, Refusal::TooManyUnfinishedJoins);
    fixture.later(Duration::from_secs(3_600));
    assert!(signature(&told(&fixture).0), "an hour later");
}

#[test]
fn a_token_that_admits_nobody_any_more_costs_no_public_key_work() {
    let mut fixture = Fixture::new();
    let digest = pki::digest::Digest::of(&fixture.served());
    let make = |fixture: &mut Fixture| {
        let secret = pki::join_token::JoinSecret::from_bytes(fixture.chance.bytes().unwrap());
        let hash = cluster::tokens::limited::TokenHash::of(&secret);
        let create =
            cluster::command::CreateToken { role: Role::Worker, hash, digest, ttl: DAY, uses: 1, note: String::new() };
        assert!(matches!(fixture.apply(Command::CreateToken(Box::new(create))), Outcome::Done { .. }));
        let (row, _) = fixture.state.tokens.limited.find(&hash).unwrap();
        (row, unsigned(fixture, pki::join_token::JoinToken::new(digest, &secret, false).text()))
    };
    let ((_, open), (row, revoked)) = (make(&mut fixture), make(&mut fixture));
    fixture.apply(Command::RevokeToken { row });
    let told = |fixture: &Fixture, request: &Request| {
        let begun = issue::Issuing::begin(&fixture.state, Caller::Anonymous, request.clone(), fixture.now);
        begun.map(|_| ()).unwrap_err()
    };
    assert_eq!(told(&fixture, &revoked), Refusal::TokenRevoked);
    assert!(matches!(told(&fixture, &open), Refusal::CsrRefused { .. }));
    // This manager's clock says that it has ended; the leader's may still be behind: what it says counts.
    fixture.later(DAY + TEN_SECONDS);
    assert!(matches!(told(&fixture, &open), Refusal::CsrRefused { .. }));
    fixture.later(cluster::issuance::SIGNING_SKEW_MAX);
    assert_eq!(told(&fixture, &open), Refusal::TokenEnded);
}
