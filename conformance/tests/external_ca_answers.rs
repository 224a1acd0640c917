//! External CAs that are away, that come back, and that answer what must not be believed (issue 4, done when 4). The swarm begins with
//! an external root, so every certificate is asked of the servers that a test plays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate cfssl as swarmpki_cfssl;
#[path = "../../crates/cfssl/tests/ca/mod.rs"]
mod ca;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ca::{Asker, Ca, DAY, Dead, Reply, Root, printable};
use pki::Role;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, PublicKeyData, SanType};
use serde_json::{Value, json};
use swarmpki_conformance::caller::Pair;
use swarmpki_conformance::cluster::{Cluster, fetch};
use swarmpki_conformance::puppet::Puppet;
use swarmpki_conformance::rotation::{Marks, ca_status, rotated};
use swarmpki_conformance::{csr, node_id, nodes, state, swarm};
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::{openssl, require_or_skip, wait};
use tokio::sync::watch;
use tonic::Code;
use wire::proto::{NodeCertificateStatusRequest, issuance_status};

const HOST: &str = "127.0.35.2";
/// A CA that came back is looked at again within its back-off, which has grown to a few seconds here.
const SIGNED_WITHIN: Duration = Duration::from_secs(60);

fn listed(urls: &[&str], root: &Root) -> Value {
    urls.iter().map(|url| json!({"Protocol": "cfssl", "URL": url, "CACert": root.pem()})).collect()
}

/// A cluster that begins with `root`, signed for by these.
fn begun(root: &Root, urls: &[&str]) -> Cluster {
    let (net, manager) = (Loopback::claim(), Daemon::start("manager1"));
    let body = json!({
        "ListenAddr": net.swarm(1), "AdvertiseAddr": net.swarm(1), "Spec": {"CAConfig": {"ExternalCAs": listed(urls, root)}},
    });
    let answer = manager.api("POST", "/swarm/init", Some(&body.to_string()));
    assert_eq!(answer.status, 200, "{answer:?}");
    let cluster = Cluster::of(manager, net);
    assert_eq!(cluster.root, root.pem());
    cluster
}

/// The cluster asks these from now on.
fn ask(cluster: &Cluster, urls: &[&str], root: &Root) {
    cluster.update("", |spec| spec["CAConfig"]["ExternalCAs"] = listed(urls, root));
}

fn signer(cluster: &Cluster) -> Value {
    ca_status(&cluster.manager)["signer"].take()
}

fn url<'a>(signer: &'a Value, url: &str) -> &'a Value {
    signer["urls"].as_array().unwrap().iter().find(|ca| ca["url"] == url).unwrap()
}

fn nobody_waits(cluster: &Cluster) {
    wait::until("nobody waits for a certificate", SIGNED_WITHIN, || {
        let signer = signer(cluster);
        if signer["waiting"] == 0 { Ok(()) } else { Err(signer.to_string()) }
    });
}

fn waits(cluster: &Cluster, number: u64) {
    wait::until(&format!("{number} wait for a certificate"), SIGNED_WITHIN, || {
        let signer = signer(cluster);
        if signer["waiting"] == number { Ok(()) } else { Err(signer.to_string()) }
    });
}

/// OpenSSL accepts the leaf under the root, and it is for this node.
fn judged(cluster: &Cluster, id: &str, pair: &Pair) {
    let folder = tempfile::tempdir().unwrap();
    let (root, chain) = (folder.path().join("root"), folder.path().join("chain"));
    std::fs::write(&root, &cluster.root).unwrap();
    std::fs::write(&chain, &pair.chain).unwrap();
    openssl::verify(&root, &chain);
    assert_eq!(openssl::subject(&chain), format!("O={},OU=swarm-worker,CN={id}", cluster.id));
}

/// A CA that can be told to hold its answers back, or to fail.
struct Gated {
    ca: Ca,
    open: watch::Sender<bool>,
}

impl Gated {
    async fn start(root: &Arc<Root>) -> Self {
        let (open, gate) = watch::channel(true);
        let maker = root.clone();
        let ca = Ca::start(HOST, root, move |request| {
            Reply::Held(gate.clone(), Box::new(Reply::certificate(&maker.certify(request, |_| {}))))
        })
        .await;
        Self { ca, open }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p039_p040_a_status_asked_for_while_it_is_signed_is_answered_as_soon_as_it_is() {
    require_or_skip!("swarmpki", "openssl");
    let root = Arc::new(Root::new("external-root"));
    let slow = Gated::start(&root).await;
    let cluster = begun(&root, &[&slow.ca.url]);
    let worker = cluster.worker().await;
    let asked = slow.ca.requests();

    slow.open.send(false).unwrap();
    let (request, stranger) = (csr::ordinary(), cluster.stranger().await);
    let id = stranger.issue(request.csr.as_bytes(), &cluster.token("Worker")).await.unwrap().node_id;
    wait::until_true("the CA is asked", SIGNED_WITHIN, || slow.ca.requests() == asked + 1);
    waits(&cluster, 1);

    // A caller that does not wait so long.
    let mut hasty = tonic::Request::new(NodeCertificateStatusRequest { node_id: id.clone() });
    hasty.set_timeout(Duration::from_millis(500));
    let refused = stranger.node_ca().node_certificate_status(hasty).await.unwrap_err();
    assert!(matches!(refused.code(), Code::DeadlineExceeded | Code::Cancelled), "{refused:?}");
    assert_eq!(slow.ca.requests(), asked + 1, "it is signed once, whoever asks");

    // One that waits.
    let (caller, wanted) = (stranger.clone(), id.clone());
    let waiting = tokio::spawn(async move { caller.status(&wanted).await });
    // The manager serves others meanwhile, after it has heard of this one.
    assert!(stranger.status(&worker.id).await.is_err() || worker.caller.status(&worker.id).await.is_ok());
    assert!(!waiting.is_finished(), "there is nothing to answer yet");
    slow.open.send(true).unwrap();
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.status.unwrap().state(), issuance_status::State::Issued);
    let pair = fetch(&stranger, &id, &request).await;
    judged(&cluster, &id, &pair);
    assert_eq!(slow.ca.requests(), asked + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p042_p043_p044_what_waits_is_signed_after_a_kill_and_nothing_else_waits_for_it() {
    require_or_skip!("swarmpki", "openssl");
    let root = Arc::new(Root::new("external-root"));
    let first = Ca::good(HOST, root.clone()).await;
    let mut cluster = begun(&root, &[&first.url]);
    let (worker, other) = (cluster.worker().await, Puppet::join(&cluster).await);
    let session = other.session().await.unwrap();

    // The CA is gone: its port refuses.
    let (dead, asked) = (Dead::new(HOST), first.requests());
    let dead_url = format!("https://{}/api/v1/cfssl/sign", dead.address);
    let refusing = move |_: &Value| Reply::Http { status: 503, headers: String::new(), body: b"away".to_vec() };
    let away = Ca::start(HOST, &root, refusing).await;
    ask(&cluster, &[&away.url, &dead_url], &root);
    drop(first);

    let (joiner, stranger) = (csr::ordinary(), cluster.stranger().await);
    let id = stranger.issue(joiner.csr.as_bytes(), &cluster.token("Worker")).await.unwrap().node_id;
    let renewal = csr::ordinary();
    assert_eq!(worker.caller.issue(renewal.csr.as_bytes(), "").await.unwrap().node_id, worker.id);
    waits(&cluster, 2);
    let (signs, _) = wait::until("both CAs failed", SIGNED_WITHIN, || {
        let signs = signer(&cluster);
        let failed = |name: &str| url(&signs, name)["last_error"].is_string();
        let told = signs["trouble"].as_str().is_some_and(|why| why.contains("503"));
        if told && failed(&away.url) && failed(&dead_url) { Ok(signs) } else { Err(signs.to_string()) }
    });
    assert_eq!(signs["kind"], "external");
    assert_eq!(url(&signs, &away.url)["last_error"], "unexpected status code in CSR response: 503 - away");
    assert!(url(&signs, &dead_url)["last_error"].as_str().unwrap().contains("Connection refused"), "{signs}");
    let shown = cluster.manager.swarmpki(&["ca", "status"]).ok();
    for text in [&away.url, &dead_url, "503", "2"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }

    // Other work goes on: tokens, sessions, lists; a root of our own is refused with its reason and nothing begins.
    // (Not the token that the joiner came by: who waits by one that is replaced waits in vain.)
    let token = cluster.token("Manager");
    cluster.manager.docker(&["swarm", "join-token", "--rotate", "-q", "manager"]).ok();
    assert_ne!(cluster.token("Manager"), token);
    drop(session);
    other.session().await.unwrap();
    assert_eq!(nodes(&cluster.manager).iter().filter(|node| node["Status"]["State"] == "down").count(), 0);
    let said = cluster.manager.swarmpki(&["ca", "rotate", "--quiet"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(ca_status(&cluster.manager)["rotation"].is_null());

    // Killed while both wait, and signed after the start without anybody asking again.
    cluster.manager.kill();
    cluster.manager.restart();
    cluster.manager_is_back();
    waits(&cluster, 2);
    let good = Ca::good(HOST, root.clone()).await;
    ask(&cluster, &[&good.url], &root);
    nobody_waits(&cluster);
    assert_eq!(good.requests(), 2, "each was signed once");
    let stranger = cluster.stranger().await;
    let pair = fetch(&stranger, &id, &joiner).await;
    judged(&cluster, &id, &pair);
    let pair = fetch(&cluster.caller(&worker.pair).await, &worker.id, &renewal).await;
    judged(&cluster, &worker.id, &pair);
    assert!(asked >= 2);
    // The old certificate of the one that renewed was good all the time.
    cluster.caller(&worker.pair).await.status(&worker.id).await.unwrap();
    assert_eq!(state(&cluster.manager, &node_id(&cluster.manager)), "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c286_an_emergency_leaves_an_external_ca_that_is_away_and_nothing_else_does() {
    require_or_skip!("swarmpki");
    let root = Arc::new(Root::new("external-root"));
    let no = json!({"success": false, "errors": [{"code": 1, "message": "no CA certificates here"}]});
    let maker = root.clone();
    // It signs nodes, and certifies no root.
    let ca = Ca::start(HOST, &root, move |request| match request["profile"].as_str() {
        Some("CA") => Reply::json(200, &no),
        _ => Reply::certificate(&maker.certify(request, |_| {})),
    })
    .await;
    let cluster = begun(&root, &[&ca.url]);
    let before = Marks::of(&cluster.manager);
    let mut swarm = swarm(&cluster.manager);
    swarm["Spec"]["CAConfig"]["ForceRotate"] = 1.into();
    let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
    let answer = cluster.manager.api("POST", &path, Some(&swarm["Spec"].to_string()));
    assert_eq!(answer.status, 500, "{answer:?}");
    let text = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with(
            "rpc error: code = Internal desc = unable to generate a cross-signed certificate for root rotation"
        ) && text.contains("no CA certificates here"),
        "{text}"
    );
    assert!(ca_status(&cluster.manager)["rotation"].is_null() && Marks::of(&cluster.manager) == before);

    cluster.manager.swarmpki(&["ca", "rotate", "--emergency", "--yes", "--quiet"]).ok();
    rotated(&cluster.manager, &before);
    assert_eq!(signer(&cluster)["kind"], "key");
    assert!(ca.requests() >= 2, "{}", ca.requests());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c322_c324_c325_a_dead_url_costs_nobody_his_certificate() {
    require_or_skip!("swarmpki", "openssl");
    let root = Arc::new(Root::new("external-root"));
    let dead = Dead::new(HOST);
    let dead_url = dead.target(&root).url;
    let (one, two) = (Ca::good(HOST, root.clone()).await, Ca::good(HOST, root.clone()).await);
    let cluster = begun(&root, &[&dead_url, &one.url]);
    let leaf = openssl::serial(&cluster.manager.certificates().chain());
    let (asked, mut ids) = (one.requests(), Vec::new());
    assert_eq!((asked, one.seen.clients.lock().unwrap()[0]), (1, None), "a first manager has no certificate yet");
    for urls in [vec![dead_url.as_str(), &one.url], vec![&one.url, &dead_url, &two.url]] {
        ask(&cluster, &urls, &root);
        for _ in 0..3 {
            let (id, pair) = cluster.issued(&csr::ordinary(), &cluster.token("Worker")).await;
            judged(&cluster, &id, &pair);
            ids.push(id);
        }
        let signs = signer(&cluster);
        let granted: u64 = signs["urls"].as_array().unwrap().iter().map(|ca| ca["granted"].as_u64().unwrap()).sum();
        assert!(granted >= 3 && signs["trouble"].is_null() && signs["waiting"] == 0, "{signs}");
        assert_eq!(url(&signs, &dead_url)["granted"], 0);
    }
    assert_eq!(one.requests() + two.requests(), asked + 6, "each certificate was asked for once");
    let dead_one = signer(&cluster);
    let dead_one = url(&dead_one, &dead_url);
    assert!(dead_one["last_error"].as_str().unwrap().contains("Connection refused"), "{dead_one}");

    // The manager comes with its own certificate, and asks in an engine's words.
    let clients = one.seen.clients.lock().unwrap().clone();
    for client in &clients[asked..] {
        assert_eq!(client.unwrap().to_string().to_uppercase().trim_start_matches('0'), leaf.trim_start_matches('0'));
    }
    let body: Value = serde_json::from_str(one.seen.bodies.lock().unwrap().last().unwrap()).unwrap();
    let id = body["subject"]["CN"].as_str().unwrap();
    assert!(ids.iter().any(|issued| issued == id));
    assert_eq!(body["hosts"], json!(["swarm-worker", id]));
    assert_eq!(body["subject"]["names"], json!([{"O": cluster.id, "OU": "swarm-worker"}]));
    assert_eq!((&body["profile"], body.get("extensions")), (&json!(""), None));
}

type Answer = Box<dyn Fn(&Value) -> Reply + Send + Sync>;

/// The list of issue 4, and what each is called.
fn hostile(root: &Arc<Root>, elsewhere: &str, stolen: &str) -> Vec<(&'static str, &'static str, Answer)> {
    let altered = |alter: fn(&mut CertificateParams)| -> Answer {
        let maker = root.clone();
        Box::new(move |request| Reply::certificate(&maker.certify(request, alter)))
    };
    let plain = |status: u16, headers: String, body: Vec<u8>| -> Answer {
        Box::new(move |_| Reply::Http { status, headers: headers.clone(), body: body.clone() })
    };
    let (maker, twin, second) = (root.clone(), Root::new("external-root"), Root::new("second-root").pem());
    let wrong_key: Answer = Box::new(move |request| {
        let key = rcgen::KeyPair::generate().unwrap();
        Reply::certificate(&maker.certify_key(request, &key.subject_public_key_info(), |_| {}))
    });
    let maker = root.clone();
    let second_root: Answer =
        Box::new(move |request| Reply::certificate(&format!("{}{second}", maker.certify(request, |_| {}))));
    let maker = root.clone();
    let others = Asker::new(Role::Worker, "pffsvkyjmbor73mxcfb8s5edu").json();
    let gzip = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[0; 200_000]].concat();
    let stolen = stolen.to_owned();
    vec![
        ("a wrong key", "wrong-key", wrong_key),
        ("CA:TRUE", "is-ca", altered(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        (
            "another subject",
            "wrong-subject",
            altered(|p| p.distinguished_name.push(DnType::CommonName, printable("other"))),
        ),
        (
            "an added OU",
            "wrong-subject",
            altered(|p| {
                p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 11]), printable("swarm-manager"));
            }),
        ),
        (
            "an added SAN",
            "wrong-names",
            altered(|p| p.subject_alt_names.push(SanType::DnsName("swarm-ca".try_into().unwrap()))),
        ),
        ("too long a life", "lifetime", altered(|p| p.not_after = (SystemTime::now() + 3_650 * DAY).into())),
        (
            "too short a life",
            "lifetime",
            altered(|p| p.not_after = (SystemTime::now() + Duration::from_secs(60)).into()),
        ),
        ("a wrong chain", "chain", Box::new(move |request| Reply::certificate(&twin.certify(request, |_| {})))),
        ("a second root", "extra-certificate", second_root),
        ("a serial again", "serial-reused", {
            let maker = root.clone();
            let serial = hex(&stolen);
            Box::new(move |request| {
                Reply::certificate(&maker.certify(request, |p| p.serial_number = Some(serial.clone().into())))
            })
        }),
        (
            "an answer for another request",
            "wrong-key",
            Box::new(move |_| Reply::certificate(&maker.certify(&others, |_| {}))),
        ),
        ("a redirect", "redirect", plain(302, format!("Location: {elsewhere}\r\n"), Vec::new())),
        ("a gzip bomb", "encoded", plain(200, "Content-Encoding: gzip\r\n".to_owned(), gzip)),
        ("an endless body", "too-long", Box::new(|_| Reply::Endless)),
    ]
}

fn hex(text: &str) -> Vec<u8> {
    let even = if text.len().is_multiple_of(2) { text.to_owned() } else { format!("0{text}") };
    (0..even.len()).step_by(2).map(|at| u8::from_str_radix(&even[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c319_every_hostile_answer_is_refused_by_name_and_the_next_url_is_used() {
    require_or_skip!("swarmpki", "openssl");
    let root = Arc::new(Root::new("external-root"));
    let (good, elsewhere) = (Ca::good(HOST, root.clone()).await, Ca::good(HOST, root.clone()).await);
    let cluster = begun(&root, &[&good.url]);
    // Given to another node a moment ago.
    let folder = tempfile::tempdir().unwrap();
    let (_, pair) = cluster.issued(&csr::ordinary(), &cluster.token("Worker")).await;
    std::fs::write(folder.path().join("leaf"), &pair.chain).unwrap();
    let stolen = openssl::serial(&folder.path().join("leaf"));
    let mut refused = 0;
    for (what, name, answer) in hostile(&root, &elsewhere.url, &stolen) {
        let bad = Ca::start(HOST, &root, answer).await;
        ask(&cluster, &[&bad.url, &good.url], &root);
        let (from, asked) = (cluster.manager.log_len(), good.requests());
        let (id, pair) = cluster.issued(&csr::ordinary(), &cluster.token("Worker")).await;
        judged(&cluster, &id, &pair);
        assert_eq!((bad.requests(), good.requests()), (1, asked + 1), "{what}");
        cluster.manager.logged(from, &format!("kind=\"{name}\""), Duration::from_secs(5));
        let log = cluster.manager.log()[from..].to_owned();
        let line =
            log.lines().find(|line| line.contains("alarm=\"hostile-ca\"")).unwrap_or_else(|| panic!("{what}: {log}"));
        assert!(line.contains(&format!("url=\"{}\"", bad.url)) && line.contains(&format!("kind=\"{name}\"")), "{line}");
        let signs = signer(&cluster);
        assert_eq!(url(&signs, &bad.url)["state"], "down", "{what}: {signs}");

        // It is left alone; a renewal is none the worse.
        let renewed = Puppet::join(&cluster).await;
        judged(&cluster, &renewed.id, &renewed.pair);
        assert_eq!(bad.requests(), 1, "{what}");
        refused += 1;
    }
    assert_eq!(refused, 14);
    assert_eq!(elsewhere.connections(), 0, "no redirect was followed");
    nobody_waits(&cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c318_c320_c321_slow_bodies_errors_and_refusals_are_said_by_name_and_nothing_fails() {
    require_or_skip!("swarmpki", "openssl");
    let root = Arc::new(Root::new("external-root"));
    let good = Ca::good(HOST, root.clone()).await;
    let cluster = begun(&root, &[&good.url]);
    let no = json!({"success": false, "result": null, "errors": [{"code": 7, "message": "not today"}]});
    let rows: [(&[&str], Answer); 4] = [
        (&["timeout", "outrun"], Box::new(|_| Reply::Stuck)),
        (&["timeout", "outrun"], Box::new(|_| Reply::Silence)),
        (&["status"], Box::new(|_| Reply::Http { status: 500, headers: String::new(), body: b"oops".to_vec() })),
        (&["refused"], Box::new(move |_| Reply::json(200, &no))),
    ];
    for (names, answer) in rows {
        let bad = Ca::start(HOST, &root, answer).await;
        ask(&cluster, &[&bad.url, &good.url], &root);
        let from = cluster.manager.log_len();
        let (request, stranger) = (csr::ordinary(), cluster.stranger().await);
        let id = stranger.issue(request.csr.as_bytes(), &cluster.token("Worker")).await.unwrap().node_id;
        nobody_waits(&cluster);
        let pair = fetch(&stranger, &id, &request).await;
        judged(&cluster, &id, &pair);
        let log = cluster.manager.log()[from..].to_owned();
        let line = log.lines().find(|line| line.contains(&bad.url) && line.contains("gave no certificate"));
        let line = line.unwrap_or_else(|| panic!("{names:?}: {log}"));
        assert!(names.iter().any(|name| line.contains(&format!("kind=\"{name}\""))), "{line}");
        assert!(!log.contains("hostile-ca"), "{log}");
    }

    // The only one refuses: the node waits, the reason is shown, and it ends well once the CA thinks otherwise.
    let (says_yes, yes) = watch::channel(false);
    let maker = root.clone();
    let moody = Ca::start(HOST, &root, move |request| {
        if *yes.borrow() {
            return Reply::certificate(&maker.certify(request, |_| {}));
        }
        Reply::json(200, &json!({"success": false, "errors": [{"code": 7, "message": "not today"}]}))
    })
    .await;
    ask(&cluster, &[&moody.url], &root);
    let (request, stranger) = (csr::ordinary(), cluster.stranger().await);
    let id = stranger.issue(request.csr.as_bytes(), &cluster.token("Worker")).await.unwrap().node_id;
    let (signs, _) = wait::until("the refusal is shown", SIGNED_WITHIN, || {
        let signs = signer(&cluster);
        if signs["trouble"].is_string() { Ok(signs) } else { Err(signs.to_string()) }
    });
    assert_eq!(
        (&signs["trouble"], &signs["waiting"]),
        (&json!("response errors: [{7 not today}]"), &json!(1)),
        "{signs}"
    );
    says_yes.send(true).unwrap();
    nobody_waits(&cluster);
    let pair = fetch(&stranger, &id, &request).await;
    judged(&cluster, &id, &pair);
}
