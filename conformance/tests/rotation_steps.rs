//! A rotation step by step, with workers that the test plays; refusals as the stock `docker` shows them (conformance I, J).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use pki::certificate::Certificate;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd};
use serde_json::Value;
use swarmpki_conformance::cluster::{Cluster, fetch};
use swarmpki_conformance::puppet::{Puppet, Told};
use swarmpki_conformance::rotation::{
    ENDS_WITHIN, GivenRoot, Marks, P256, ca_status, ended, in_progress, rotated, waits_for,
};
use swarmpki_conformance::{csr, node, swarm};
use testkit::docker::Client;
use testkit::openssl::openssl;
use testkit::{require_or_skip, wait};

/// Asks for another CA configuration, as a client of the Engine API may; the answer's status and message.
fn ask(cluster: &Cluster, change: impl FnOnce(&mut Value)) -> (u16, String) {
    let mut swarm = swarm(&cluster.manager);
    change(&mut swarm["Spec"]["CAConfig"]);
    let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
    let answer = cluster.manager.api("POST", &path, Some(&swarm["Spec"].to_string()));
    let message = if answer.body.is_empty() {
        String::new()
    } else {
        answer.json()["message"].as_str().unwrap_or_default().to_owned()
    };
    (answer.status, message)
}

fn accepted(cluster: &Cluster, change: impl FnOnce(&mut Value)) {
    assert_eq!(ask(cluster, change), (200, String::new()));
}

/// Asks for the root that is given, with any force value.
fn give(cluster: &Cluster, root: &GivenRoot, force: u64) {
    accepted(cluster, |ca| {
        ca["SigningCACert"] = root.certificate().into();
        ca["SigningCAKey"] = root.key().into();
        ca["ForceRotate"] = force.into();
    });
}

fn rotate(cluster: &Cluster) {
    accepted(cluster, |ca| ca["ForceRotate"] = (ca["ForceRotate"].as_u64().unwrap_or_default() + 1).into());
}

/// A worker goes through what is asked of it until no rotation is under way.
async fn to_the_end(cluster: &Cluster, puppet: &mut Puppet) -> Told {
    let there = |puppet: &Puppet, told: &Told| {
        !told.is_ordered() && !in_progress(&cluster.manager) && puppet.trust == Marks::of(&cluster.manager).root
    };
    let end = tokio::time::timeout(ENDS_WITHIN, puppet.follow(there)).await;
    end.unwrap_or_else(|_| panic!("it never ends: {}", ca_status(&cluster.manager))).unwrap()
}

/// Waits in a session until it is told to renew.
async fn ordered(puppet: &Puppet) -> Told {
    let waiting = async {
        let mut told = puppet.session().await.unwrap();
        while !told.is_ordered() {
            told.next().await.unwrap();
        }
        told
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it is told to renew")
}

fn certificates(pem: &str) -> Vec<Certificate> {
    Certificate::parse_pem_bundle(pem.as_bytes()).unwrap()
}

/// A cluster whose root's key the test has too.
fn with_given_root() -> (Cluster, GivenRoot) {
    let (mut cluster, root) = (Cluster::start(), GivenRoot::p256("given"));
    let before = Marks::of(&cluster.manager);
    give(&cluster, &root, 1);
    cluster.root = rotated(&cluster.manager, &before).root;
    assert_eq!(cluster.root, root.certificate());
    (cluster, root)
}

/// A root with a certificate of any span, and its key.
fn spanning(name: &str, from: i32, to: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn c255_c258_c264_to_c268_c284_what_is_refused_in_dockers_words() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let (cluster, own) = with_given_root();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, other) = (GivenRoot::p256("good"), GivenRoot::p256("other"));
    let short = GivenRoot::make("short", P256, 364, "");
    let weak = GivenRoot::make("weak", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], 3650, "");
    let (expired, expired_key) = spanning("expired", 2015, 2020);
    let two = file("two.pem", &(good.certificate() + &other.certificate()));
    let (expired, expired_key) = (file("expired.pem", &expired), file("expired.key", &expired_key));
    let garbage = file("garbage.pem", "-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n");
    let again = own.again("again");
    let named = GivenRoot::make("named", P256, 3650, "\nnameConstraints=critical,permitted;DNS:example.com");
    let servers = GivenRoot::make("servers", P256, 3650, "\nextendedKeyUsage=serverAuth");
    let sealed = folder.path().join("sealed.key").to_str().unwrap().to_owned();
    openssl(&["ec", "-in", &good.key_path(), "-aes128", "-passout", "pass:secret", "-out", &sealed]).ok();
    let with_passphrase = r#"malformed private key: {"code":2100,"message":"Private key is encrypted."}"#;
    // Beyond docker, which would begin and never end.
    let useless = "the desired CA certificate cannot be used: nodes would refuse the certificates that it signs: ";
    let unreadable = r#"invalid root certificates: {"code":1003,"message":"Failed to parse certificate"}"#;
    let no_key = r#"malformed private key: {"code":2003,"message":"Failed to parse private key"}"#;
    let missing = "there must be at least one valid, reachable external CA corresponding to the desired CA certificate";
    let rows: [(&str, String, String, &str); 14] = [
        (
            "a key alone",
            String::new(),
            good.key_path(),
            "if a signing CA key is provided, the signing CA cert must also be provided",
        ),
        ("the current certificate with another key", own.path(), other.key_path(), "certificate key mismatch"),
        ("another key", good.path(), other.key_path(), "certificate key mismatch"),
        ("two certificates", two, good.key_path(), "the desired CA certificate cannot contain multiple certificates"),
        ("364 days", short.path(), short.key_path(), "CA certificate expires too soon"),
        ("a root that has ended", expired, expired_key, "expired"),
        (
            "the key of now, another name",
            again.path(),
            again.key_path(),
            "Cannot update to a cert with an identical key",
        ),
        ("a weak key", weak.path(), weak.key_path(), "unsupported RSA key parameters"),
        ("no certificate", garbage, good.key_path(), unreadable),
        ("a key as certificate", good.key_path(), good.key_path(), unreadable),
        ("a key with a passphrase", good.path(), sealed, with_passphrase),
        ("a root for other names", named.path(), named.key_path(), useless),
        ("a root for servers alone", servers.path(), servers.key_path(), useless),
        ("a certificate as key", good.path(), good.path(), no_key),
    ];
    let before = swarm(&cluster.manager);
    // The command asks for a key or an external CA itself.
    let said = ask(&cluster, |ca| {
        ca["SigningCACert"] = good.certificate().into();
        ca["ForceRotate"] = 2.into();
    });
    assert_eq!(said, (400, format!("rpc error: code = InvalidArgument desc = {missing}")));
    assert_eq!(swarm(&cluster.manager), before);
    for client in Client::all() {
        for (what, certificate, key, text) in &rows {
            let mut line = vec!["swarm", "ca", "--rotate"];
            line.extend(["--ca-cert", certificate].iter().filter(|_| !certificate.is_empty()));
            line.extend(["--ca-key", key].iter().filter(|_| !key.is_empty()));
            let output = client.run(&cluster.manager.socket(), &line);
            let said = output.refused();
            let said = said.strip_prefix("Error response from daemon: rpc error: code = InvalidArgument desc = ");
            let said = said.unwrap_or_else(|| panic!("{what}: {output:?}"));
            if *text == "expired" || *text == useless {
                assert!(said.contains(text), "{what}: {said}");
            } else {
                assert_eq!(said, *text, "{what}");
            }
            assert_eq!(swarm(&cluster.manager), before, "{what}: nothing changed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c269_c270_c273_the_root_of_now_is_no_rotation() {
    require_or_skip!("swarmpki", "openssl");
    let (cluster, own) = with_given_root();
    let before = Marks::of(&cluster.manager);
    accepted(&cluster, |_| {});
    assert_eq!((Marks::of(&cluster.manager), in_progress(&cluster.manager)), (before.clone(), false));
    // Ugly: other line ends, blanks, words around it.
    let ugly = format!("   some words\n\n{}\n\n   ", own.certificate().replace('\n', "\r\n"));
    accepted(&cluster, |ca| {
        ca["SigningCACert"] = ugly.into();
        ca["SigningCAKey"] = own.key().into();
        ca["ForceRotate"] = 5.into();
    });
    assert_eq!((Marks::of(&cluster.manager), in_progress(&cluster.manager)), (before.clone(), false));
    let stored = &swarm(&cluster.manager)["Spec"]["CAConfig"];
    assert_eq!(stored["ForceRotate"], 5);
    assert!(stored["SigningCAKey"].as_str().unwrap_or_default().is_empty(), "a key is never shown");
    // 5 is the last forced value now: what is written back as it was read begins nothing.
    accepted(&cluster, |_| {});
    assert!(!in_progress(&cluster.manager));
    // Any other value does, also a lower one.
    accepted(&cluster, |ca| ca["ForceRotate"] = 4.into());
    rotated(&cluster.manager, &before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c275_c280_c283_c285_c308_the_same_root_again_goes_on_as_it_was() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let (mut slow, mut quick) = (Puppet::join(&cluster).await, Puppet::join(&cluster).await);
    let before = Marks::of(&cluster.manager);
    let root = GivenRoot::p256("next");
    give(&cluster, &root, 1);
    assert_eq!(Marks::of(&cluster.manager), before, "root, digest and tokens stay until the end");
    drop(ordered(&quick).await);
    quick.renew().await.unwrap();
    drop(quick.session().await.unwrap());
    let chain = certificates(&quick.pair.chain);
    assert_eq!(chain.len(), 2);
    let old = &certificates(&before.root)[0];
    let next = &certificates(&root.certificate())[0];
    assert!(pki::chain::signed_by(&chain[1], old).is_ok(), "certified by the root of now, directly");
    assert_eq!((chain[1].subject_der(), chain[1].spki_der()), (next.subject_der(), next.spki_der()));
    waits_for(&cluster.manager, "renew", &[&slow.id]);
    let id = ca_status(&cluster.manager)["rotation"]["id"].clone();

    accepted(&cluster, |_| {});
    for force in [1, 5] {
        give(&cluster, &root, force);
        let rotation = waits_for(&cluster.manager, "renew", &[&slow.id]);
        assert_eq!(rotation["id"], id, "the same rotation");
    }
    drop(ordered(&slow).await);
    slow.renew().await.unwrap();
    assert_eq!(certificates(&slow.pair.chain)[1], chain[1], "with the same cross-certificate");
    let (slow, quick) = (&mut slow, &mut quick);
    let (_one, _other) = tokio::join!(to_the_end(&cluster, slow), to_the_end(&cluster, quick));
    assert_eq!(rotated(&cluster.manager, &before).root, root.certificate());
    assert_eq!(swarm(&cluster.manager)["Spec"]["CAConfig"]["ForceRotate"], 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c278_c282_c287_c288_c290_c291_c295_a_rotation_is_replaced_by_another() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let (mut one, mut other) = (Puppet::join(&cluster).await, Puppet::join(&cluster).await);
    let before = Marks::of(&cluster.manager);
    let old = certificates(&before.root)[0].clone();
    let first = GivenRoot::p256("first");
    // The same key under another name, then made by the manager, then given: each certified by the root of before.
    for n in 0..4 {
        match n {
            0 => give(&cluster, &first, 1),
            1 => give(&cluster, &first.again("renewed"), 1),
            2 => rotate(&cluster),
            _ => give(&cluster, &GivenRoot::p256("last"), 9),
        }
        drop(ordered(&one).await);
        one.renew().await.unwrap();
        drop(one.session().await.unwrap());
        let chain = certificates(&one.pair.chain);
        assert!(pki::chain::signed_by(chain.last().unwrap(), &old).is_ok(), "{n}: {}", one.pair.chain);
        waits_for(&cluster.manager, "renew", &[&other.id]);
        assert_eq!(Marks::of(&cluster.manager), before);
    }
    // The one that slept through all of them.
    let (_one, _other) = tokio::join!(to_the_end(&cluster, &mut one), to_the_end(&cluster, &mut other));
    let after = rotated(&cluster.manager, &before);
    assert_eq!(certificates(&after.root)[0].common_name(), "last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o1_o2_a_converted_worker_is_given_the_root_before_the_end() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let (mut one, mut other) = (Puppet::join(&cluster).await, Puppet::join(&cluster).await);
    let before = Marks::of(&cluster.manager);
    rotate(&cluster);
    drop(ordered(&one).await);
    one.renew().await.unwrap();
    // Not before all have renewed: others' leaves would not verify.
    let told = one.session().await.unwrap();
    assert_eq!(told.root(), before.root);
    drop(told);
    waits_for(&cluster.manager, "renew", &[&other.id]);
    drop(ordered(&other).await);
    other.renew().await.unwrap();
    drop(other.session().await.unwrap());
    let root = before.root.clone();
    let given = one.follow(|puppet, _| puppet.trust != root);
    drop(tokio::time::timeout(ENDS_WITHIN, given).await.unwrap().unwrap());
    waits_for(&cluster.manager, "trust", &[&other.id]);
    let said = node(&cluster.manager, &one.id).unwrap()["Description"]["TLSInfo"]["TrustRoot"].clone();
    assert_eq!(said, one.trust);
    assert_eq!(Marks::of(&cluster.manager), before, "the swarm's root is the old one until all have the new one");
    to_the_end(&cluster, &mut other).await;
    assert_eq!(rotated(&cluster.manager, &before).root, one.trust);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p307_c289_who_never_came_is_not_waited_for() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let mut silent = Puppet::only_issued(&cluster).await;
    let before = Marks::of(&cluster.manager);
    rotate(&cluster);
    let after = rotated(&cluster.manager, &before);
    // It comes at last, with a leaf that was never used and a root that is no more.
    let end = tokio::time::timeout(
        ENDS_WITHIN,
        silent.follow(|puppet, told| puppet.trust == after.root && !told.is_ordered()),
    );
    end.await.expect("it comes along").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_about_the_issuer_neither_ends_a_rotation_nor_holds_it() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let mut liar = Puppet::join(&cluster).await;
    let before = Marks::of(&cluster.manager);
    rotate(&cluster);
    // It says that it has what it has not.
    let wanted = ordered(&liar).await;
    drop(wanted);
    let info = swarm(&cluster.manager)["TLSInfo"].clone();
    let decoded = |field: &str| {
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, info[field].as_str().unwrap()).unwrap()
    };
    let mut lie = liar.tls_info();
    (lie.cert_issuer_subject, lie.cert_issuer_public_key) =
        (decoded("CertIssuerSubject"), decoded("CertIssuerPublicKey"));
    let told = liar.session_saying(lie).await.unwrap();
    waits_for(&cluster.manager, "renew", &[&liar.id]);
    wait::throughout("nobody believes it", Duration::from_secs(1), || {
        if in_progress(&cluster.manager) { Ok(()) } else { Err("the rotation has ended".into()) }
    });
    drop(told);
    // It renews, and says that it has not.
    let truth = liar.tls_info();
    liar.renew().await.unwrap();
    let told = liar.session_saying(truth).await.unwrap();
    waits_for(&cluster.manager, "trust", &[&liar.id]);
    drop(told);
    to_the_end(&cluster, &mut liar).await;
    rotated(&cluster.manager, &before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c274_c294_back_to_the_old_root_by_docker_is_an_abort() {
    require_or_skip!("swarmpki", "openssl");
    let (cluster, own) = with_given_root();
    let mut puppet = Puppet::join(&cluster).await;
    let before = Marks::of(&cluster.manager);
    // Before anybody but the manager has renewed; after the puppet has; after the new root was given to all but the puppet.
    for depth in 0..3 {
        rotate(&cluster);
        let told = ordered(&puppet).await;
        if depth > 0 {
            drop(told);
            puppet.renew().await.unwrap();
        }
        if depth > 1 {
            drop(puppet.session().await.unwrap());
            waits_for(&cluster.manager, "trust", &[&puppet.id]);
        }
        give(&cluster, &own, 20 + depth);
        to_the_end(&cluster, &mut puppet).await;
        let after = ended(&cluster.manager, &before);
        assert_eq!(after, before, "{depth}: root and tokens are the old ones");
        assert!(puppet.pair.chain.contains("BEGIN"));
        let issuer = certificates(&puppet.pair.chain)[0].issuer_der().to_vec();
        assert_eq!(issuer, certificates(&before.root)[0].subject_der(), "{depth}: the old issuer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c292_c304_c314_o12_a_manager_killed_in_any_phase_goes_on() {
    require_or_skip!("swarmpki", "openssl");
    let mut cluster = Cluster::start();
    let mut puppet = Puppet::join(&cluster).await;
    for (way, narrow) in [("ladder", false), ("bundle", true)] {
        if narrow {
            let before = Marks::of(&cluster.manager);
            give(&cluster, &GivenRoot::make("narrow", P256, 3650, ",pathlen:0"), 50);
            to_the_end(&cluster, &mut puppet).await;
            rotated(&cluster.manager, &before);
        }
        let before = Marks::of(&cluster.manager);
        rotate(&cluster);
        if narrow {
            waits_for(&cluster.manager, "widen", &[&puppet.id]);
            again(&mut cluster, "widen", &puppet);
            let root = before.root.clone();
            let widened = puppet.follow(|puppet, _| puppet.trust != root);
            drop(tokio::time::timeout(ENDS_WITHIN, widened).await.unwrap().unwrap());
            assert_eq!(puppet.trust.matches("BEGIN").count(), 2, "both roots");
        }
        waits_for(&cluster.manager, "renew", &[&puppet.id]);
        again(&mut cluster, "renew", &puppet);
        // Between Issue and the fetching: a node that renews, and one that joins.
        drop(ordered(&puppet).await);
        let (_caller, renewal) = puppet.ask().await.unwrap();
        let joiner = csr::ordinary();
        let stranger = swarmpki_conformance::caller::Caller::plain(cluster.address(), &puppet.trust).await.unwrap();
        let joined = stranger.issue(joiner.csr.as_bytes(), &cluster.token("Worker")).await.unwrap().node_id;
        again(&mut cluster, "renew", &puppet);
        puppet.pair = fetch(&puppet.caller().await.unwrap(), &puppet.id, &renewal).await;
        let stranger = swarmpki_conformance::caller::Caller::plain(cluster.address(), &puppet.trust).await.unwrap();
        fetch(&stranger, &joined, &joiner).await;
        drop(puppet.session().await.unwrap());
        waits_for(&cluster.manager, "trust", &[&puppet.id]);
        again(&mut cluster, "trust", &puppet);
        to_the_end(&cluster, &mut puppet).await;
        rotated(&cluster.manager, &before);
        cluster.manager.kill();
        cluster.manager.restart();
        cluster.manager_is_back();
        assert!(!in_progress(&cluster.manager), "{way}");
        to_the_end(&cluster, &mut puppet).await;
    }
}

/// `kill -9`, and the rotation stands where it stood.
fn again(cluster: &mut Cluster, phase: &str, puppet: &Puppet) {
    let before = (Marks::of(&cluster.manager), ca_status(&cluster.manager)["rotation"]["id"].clone());
    cluster.manager.kill();
    cluster.manager.restart();
    cluster.manager_is_back();
    let rotation = waits_for(&cluster.manager, phase, &[&puppet.id]);
    assert_eq!((Marks::of(&cluster.manager), rotation["id"].clone()), before, "{phase}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_o9_who_was_away_during_an_abort_comes_back_whatever_it_holds() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let manager = &cluster.manager;
    let (mut renewed, mut trusting, mut slow) =
        (Puppet::join(&cluster).await, Puppet::join(&cluster).await, Puppet::join(&cluster).await);
    let before = Marks::of(manager);
    rotate(&cluster);
    for puppet in [&mut renewed, &mut trusting, &mut slow] {
        drop(ordered(puppet).await);
        puppet.renew().await.unwrap();
        drop(puppet.session().await.unwrap());
    }
    // One has the new leaf, one trusts the new root alone; then both are gone, and so is the third.
    let root = before.root.clone();
    drop(tokio::time::timeout(ENDS_WITHIN, trusting.follow(|puppet, _| puppet.trust != root)).await.unwrap().unwrap());
    waits_for(manager, "trust", &[&renewed.id, &slow.id]);
    let answer = manager.api("POST", "/swarmpki/v1/ca/abort", Some(r#"{"deadline_ms":1000}"#));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(ended(manager, &before), before);
    for (what, puppet) in [("renewed", &mut renewed), ("trusting", &mut trusting)] {
        let back = |puppet: &Puppet, told: &Told| !told.is_ordered() && puppet.trust == before.root;
        let end = tokio::time::timeout(ENDS_WITHIN, puppet.follow(back)).await;
        drop(end.unwrap_or_else(|_| panic!("{what} does not come back: {}", ca_status(manager))).unwrap());
        let issuer = certificates(&puppet.pair.chain)[0].issuer_der().to_vec();
        assert_eq!(issuer, certificates(&before.root)[0].subject_der());
        assert_eq!(node(manager, &puppet.id).unwrap()["Description"]["TLSInfo"], swarm(manager)["TLSInfo"], "{what}");
    }
    // A further rotation, which the third misses as well, and from which it comes back all the same.
    let body = r#"{"policy":{"kind":"deadline","after_ms":1000}}"#;
    let answer = manager.api("POST", "/swarmpki/v1/ca/rotate", Some(body));
    assert_eq!(answer.status, 200, "{answer:?}");
    let (one, other) = (&mut renewed, &mut trusting);
    let (_one, _other) = tokio::join!(to_the_end(&cluster, one), to_the_end(&cluster, other));
    rotated(manager, &before);
    to_the_end(&cluster, &mut slow).await;
    assert_eq!(node(manager, &slow.id).unwrap()["Description"]["TLSInfo"], swarm(manager)["TLSInfo"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o3_o7_a_straggler_comes_back_in_the_middle_of_the_next_rotation() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let manager = &cluster.manager;
    let (mut early, mut late, mut never) =
        (Puppet::join(&cluster).await, Puppet::join(&cluster).await, Puppet::join(&cluster).await);
    let before = Marks::of(manager);
    let answer =
        manager.api("POST", "/swarmpki/v1/ca/rotate", Some(r#"{"policy":{"kind":"deadline","after_ms":1000}}"#));
    assert_eq!(answer.status, 200, "{answer:?}");
    let middle = rotated(manager, &before);
    let mut holder = Puppet::join(&cluster).await;
    rotate(&cluster);
    // All three are waited for now.
    waits_for(manager, "renew", &[&early.id, &late.id, &never.id, &holder.id]);
    let new_leaf = |puppet: &Puppet, told: &Told| !told.is_ordered() && puppet.pair.chain.matches("BEGIN").count() > 1;
    drop(tokio::time::timeout(ENDS_WITHIN, early.follow(new_leaf)).await.expect("it comes back").unwrap());
    waits_for(manager, "renew", &[&late.id, &never.id, &holder.id]);
    drop(tokio::time::timeout(ENDS_WITHIN, late.follow(new_leaf)).await.expect("it comes back").unwrap());
    cluster.remove(&never.id);
    drop(ordered(&holder).await);
    holder.renew().await.unwrap();
    drop(holder.session().await.unwrap());
    let (_early, _late, _holder) = tokio::join!(
        to_the_end(&cluster, &mut early),
        to_the_end(&cluster, &mut late),
        to_the_end(&cluster, &mut holder)
    );
    let after = rotated(manager, &middle);
    assert_eq!((&early.trust, &late.trust, &holder.trust), (&after.root, &after.root, &after.root));
    // The removed one is nobody, with the newest leaf that it has too.
    let refused = never.follow(|_, _| true).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c250_c251_what_was_given_is_not_shown_and_other_settings_leave_it_alone() {
    require_or_skip!("swarmpki", "openssl");
    let cluster = Cluster::start();
    let mut puppet = Puppet::join(&cluster).await;
    let (before, root) = (Marks::of(&cluster.manager), GivenRoot::p256("next"));
    give(&cluster, &root, 5);
    waits_for(&cluster.manager, "renew", &[&puppet.id]);
    let id = ca_status(&cluster.manager)["rotation"]["id"].clone();
    let shown = swarm(&cluster.manager)["Spec"]["CAConfig"].clone();
    for field in ["SigningCACert", "SigningCAKey"] {
        assert_eq!(shown[field].as_str().unwrap_or_default(), "", "{field}");
    }
    // Written back as it was read, with another setting.
    accepted(&cluster, |ca| ca["NodeCertExpiry"] = 7_200_000_000_000_u64.into());
    let rotation = waits_for(&cluster.manager, "renew", &[&puppet.id]);
    assert_eq!((rotation["id"].clone(), Marks::of(&cluster.manager)), (id, before.clone()));
    to_the_end(&cluster, &mut puppet).await;
    assert_eq!(rotated(&cluster.manager, &before).root, root.certificate());
    let leaf = &certificates(&puppet.pair.chain)[0];
    let life = leaf.not_after().since(leaf.not_before());
    assert!(life < Duration::from_secs(4 * 3600), "leaves last as long as the newer setting says: {life:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c293_p287_p289_p296_nobody_is_told_twice_who_does_it_and_nobody_who_has_done_it() {
    require_or_skip!("swarmpki");
    const WORKERS: usize = 40;
    let cluster = Arc::new(Cluster::start());
    let before = Marks::of(&cluster.manager);
    let mut puppets = Vec::new();
    for _ in 0..WORKERS {
        puppets.push(Puppet::join(&cluster).await);
    }
    // One of them is not there, so that the rotation stays where it is.
    let holder = puppets.pop().unwrap();
    let mut sessions = Vec::new();
    for puppet in &puppets {
        sessions.push(puppet.session().await.unwrap());
    }
    rotate(&cluster);
    let mut tasks = tokio::task::JoinSet::new();
    for (mut puppet, mut told) in puppets.into_iter().zip(sessions) {
        tasks.spawn(async move {
            let within = Duration::from_secs(20);
            let order = async {
                while !told.is_ordered() {
                    told.next().await.unwrap();
                }
            };
            tokio::time::timeout(within, order).await.expect("it is told, whatever the others do");
            // Its own pace: what was said once is not said again meanwhile.
            let again = tokio::time::timeout(Duration::from_secs(1), told.next()).await;
            assert!(again.is_err() || told.is_ordered(), "the order stands: {:?}", told.message);
            puppet.renew().await.unwrap();
            let mut next = puppet.session().await.unwrap();
            assert!(!next.is_ordered(), "it has done it");
            while tokio::time::timeout(Duration::from_secs(1), next.next()).await.is_ok() {
                assert!(!next.is_ordered(), "it has done it");
            }
            (puppet, next)
        });
    }
    let mut followers = Vec::new();
    while let Some(done) = tasks.join_next().await {
        followers.push(done.unwrap().0);
    }
    let rotation = waits_for(&cluster.manager, "renew", &[&holder.id]);
    assert_eq!(rotation["done"], WORKERS, "with the manager");
    // Each was issued one certificate for the rotation: nobody renewed twice.
    let log = cluster.manager.api("GET", "/swarmpki/v1/ca/log?max=1000", None).body;
    for puppet in &followers {
        assert_eq!(log.matches(&puppet.id).count(), 2, "{}", puppet.id);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for mut puppet in followers.into_iter().chain([holder]) {
        let cluster = Arc::clone(&cluster);
        tasks.spawn(async move { drop(to_the_end(&cluster, &mut puppet).await) });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    rotated(&cluster.manager, &before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_put_aside_in_session_is_a_member_no_more() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let manager = &cluster.manager;
    let mut deaf = Puppet::join(&cluster).await;
    let told = deaf.session().await.unwrap();
    let before = Marks::of(manager);
    let answer =
        manager.api("POST", "/swarmpki/v1/ca/rotate", Some(r#"{"policy":{"kind":"deadline","after_ms":1000}}"#));
    assert_eq!(answer.status, 200, "{answer:?}");
    let after = rotated(manager, &before);
    // It lives and hears, and does nothing of what it is told. With its old leaf it may only come back.
    let refused = told.caller.refusal("/docker.swarmkit.v1.LogBroker/PublishLogs").await;
    let code = refused.as_ref().map(tonic::Status::code);
    assert_eq!(code, Some(tonic::Code::PermissionDenied), "{refused:?}");
    drop(told);
    let back = |puppet: &Puppet, told: &Told| !told.is_ordered() && puppet.trust == after.root;
    drop(tokio::time::timeout(ENDS_WITHIN, deaf.follow(back)).await.expect("it comes back").unwrap());
}
