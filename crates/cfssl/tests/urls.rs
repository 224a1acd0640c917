//! Several URLs side by side: order, failures, breakers, identity, window.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ca;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca::{Asker, Ca, Dead, HOUR, Reply, Root, client, clock, now, settings};
use pki::Role;
use serde_json::json;
use swarmpki_cfssl::message::SignRequest;
use swarmpki_cfssl::{
    Backoff, Client, CrossSignFailure, ProbeFailure, Reason, Settings, SignFailure, Signed, Target, UrlState, probe,
};

const HOST: &str = "127.0.32.3";
const NODE: &str = "pffsvkyjmbor73mxcfb8s5edu";

async fn sign(client: &Client, root: &Root) -> Result<swarmpki_cfssl::Granted<Signed>, SignFailure> {
    let asker = Asker::new(Role::Manager, NODE);
    client.sign(&asker.request, |pem| asker.check(&root.certificate, pem)).await
}

#[tokio::test]
async fn c322_two_urls_the_first_dead() {
    let root = Arc::new(Root::new("external-root"));
    let (dead, good) = (Dead::new(HOST), Ca::good(HOST, root.clone()).await);
    let client = client(settings(), None, vec![dead.target(&root), good.target(&root)]);
    let granted = sign(&client, &root).await.unwrap();
    assert_eq!((granted.url.as_str(), granted.failed[0].reason.name()), (good.url.as_str(), "unreachable"));
    let text = granted.failed[0].reason.to_string();
    assert!(
        text.starts_with("unable to perform certificate signing request: Post \"https://") && text.contains("refused"),
        "{text}"
    );
}

#[test]
fn the_proxy_of_the_environment_is_not_used() {
    // The test above, in a process whose environment names a proxy that is not there.
    let program = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(program);
    command.args(["--exact", "c322_two_urls_the_first_dead"]);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, "http://127.0.32.3:1");
    }
    let output = command.env_remove("NO_PROXY").env_remove("no_proxy").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn one_dead_url_of_three_costs_one_connection_and_then_none() {
    let root = Arc::new(Root::new("external-root"));
    // It takes connections and drops them, so that attempts can be counted.
    let listener = tokio::net::TcpListener::bind((HOST, 0)).await.unwrap();
    let url = format!("https://{}/sign", listener.local_addr().unwrap());
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let task = tokio::spawn(async move {
        loop {
            drop(listener.accept().await.unwrap());
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let (one, two) = (Ca::good(HOST, root.clone()).await, Ca::good(HOST, root.clone()).await);
    let broken = Target { url, roots: vec![root.certificate.clone()] };
    let client = client(settings(), None, vec![broken, one.target(&root), two.target(&root)]);
    let first = sign(&client, &root).await.unwrap();
    assert_eq!((first.failed.len(), first.url.as_str()), (1, one.url.as_str()));
    for _ in 0..50 {
        assert!(sign(&client, &root).await.unwrap().failed.is_empty());
    }
    assert_eq!((attempts.load(Ordering::SeqCst), one.requests(), two.requests()), (1, 51, 0));
    assert_eq!(one.connections(), 1, "connections are kept");
    task.abort();
}

#[tokio::test]
async fn a_url_that_never_answers_is_outrun_once() {
    let root = Arc::new(Root::new("external-root"));
    let silent = Ca::start(HOST, &root, |_| Reply::Silence).await;
    let good = Ca::good(HOST, root.clone()).await;
    let settings = Settings { hedge_after: Duration::from_millis(20), ..settings() };
    let client = client(settings, None, vec![silent.target(&root), good.target(&root)]);
    let granted = sign(&client, &root).await.unwrap();
    assert_eq!((granted.url.as_str(), granted.failed[0].reason.name()), (good.url.as_str(), "outrun"));
    silent.seen.dropped.one().await;
    assert!(sign(&client, &root).await.unwrap().failed.is_empty());
    assert_eq!((silent.requests(), silent.connections()), (1, 1));
}

#[tokio::test]
async fn the_first_good_answer_wins_even_if_it_was_asked_first_and_comes_late() {
    let root = Arc::new(Root::new("external-root"));
    let (open, gate) = tokio::sync::watch::channel(false);
    let maker = root.clone();
    let late = Ca::start(HOST, &root, move |request| {
        Reply::Held(gate.clone(), Box::new(Reply::certificate(&maker.certify(request, |_| {}))))
    })
    .await;
    // It answers nothing, and lets the other one answer.
    let silent = Ca::start(HOST, &root, move |_| {
        open.send_replace(true);
        Reply::Silence
    })
    .await;
    let settings = Settings { hedge_after: Duration::from_millis(20), ..settings() };
    let client = client(settings, None, vec![late.target(&root), silent.target(&root)]);
    let granted = sign(&client, &root).await.unwrap();
    assert_eq!((granted.url.as_str(), granted.failed.len()), (late.url.as_str(), 0));
    silent.seen.dropped.one().await;
    assert!(client.health().iter().all(|health| health.state == UrlState::Up), "given up is not failed");
}

#[tokio::test]
async fn c321_a_refusal_is_told_and_the_next_url_is_asked_too() {
    let root = Arc::new(Root::new("external-root"));
    let no =
        json!({"success": false, "result": null, "errors": [{"code": 5_200, "message": "policy"}], "messages": []});
    let answer = no.clone();
    let refusing = Ca::start(HOST, &root, move |_| Reply::json(200, &answer)).await;
    let good = Ca::good(HOST, root.clone()).await;
    let both = client(settings(), None, vec![refusing.target(&root), good.target(&root)]);
    let granted = sign(&both, &root).await.unwrap();
    assert_eq!(granted.failed[0].reason, Reason::Refused("[{5200 policy}]".to_owned()));

    let alone = client(settings(), None, vec![refusing.target(&root)]);
    let failure = sign(&alone, &root).await.unwrap_err();
    assert_eq!((failure.recoverable, failure.to_string().as_str()), (false, "response errors: [{5200 policy}]"));
    assert_eq!((alone.health()[0].refused, &alone.health()[0].state), (1, &UrlState::Up), "it works, it only says no");

    // CFSSL's own server says so with another status; anything else that comes with one is no answer to the request.
    let answer = no.clone();
    let policy = Ca::start(HOST, &root, move |_| Reply::json(400, &answer)).await;
    let alone = client(settings(), None, vec![policy.target(&root)]);
    assert!(!sign(&alone, &root).await.unwrap_err().recoverable);
    assert_eq!(alone.health()[0].state, UrlState::Up);
    let answer = no.clone();
    let busy = Ca::start(HOST, &root, move |_| Reply::json(429, &answer)).await;
    let alone = client(settings(), None, vec![busy.target(&root)]);
    assert!(sign(&alone, &root).await.unwrap_err().recoverable);

    // Another URL that is down may have said yes.
    let dead = Dead::new(HOST);
    let down = client(settings(), None, vec![refusing.target(&root), dead.target(&root)]);
    assert!(sign(&down, &root).await.unwrap_err().recoverable);
}

#[tokio::test]
async fn c320_a_server_that_answers_500_first_is_asked_again_later() {
    let root = Arc::new(Root::new("external-root"));
    let (maker, once) = (root.clone(), AtomicBool::new(false));
    let ca = Ca::start(HOST, &root, move |request| {
        if once.swap(true, Ordering::SeqCst) {
            Reply::certificate(&maker.certify(request, |_| {}))
        } else {
            Reply::Http { status: 500, headers: String::new(), body: b"starting".to_vec() }
        }
    })
    .await;
    let backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO };
    let client = client(Settings { backoff, ..settings() }, None, vec![ca.target(&root)]);
    let failure = sign(&client, &root).await.unwrap_err();
    assert_eq!(
        (failure.recoverable, failure.to_string().as_str()),
        (true, "unexpected status code in CSR response: 500 - starting")
    );
    sign(&client, &root).await.unwrap();
    assert_eq!(client.health()[0].state, UrlState::Up);
}

#[tokio::test]
async fn c323_no_url_is_no_request_and_says_so() {
    let failure = sign(&client(settings(), None, Vec::new()), &Root::new("r")).await.unwrap_err();
    assert_eq!(failure, SignFailure { recoverable: true, per_url: Vec::new(), retry_after: None });
    let invalid = Target { url: "invalidurl".to_owned(), roots: Vec::new() };
    let client = client(settings(), None, vec![invalid]);
    let failure = sign(&client, &Root::new("r")).await.unwrap_err();
    assert_eq!((failure.per_url[0].reason.name(), failure.retry_after), ("invalid-url", None));
    assert!(matches!(client.health()[0].state, UrlState::Invalid(_)));
}

#[tokio::test]
async fn all_urls_down_fails_at_once_and_says_for_how_long() {
    let root = Root::new("external-root");
    let dead = Dead::new(HOST);
    let client = client(settings(), None, vec![dead.target(&root)]);
    sign(&client, &root).await.unwrap_err();
    let failure = sign(&client, &root).await.unwrap_err();
    assert_eq!(failure.per_url[0].reason.name(), "left-alone");
    assert!(
        failure.recoverable && failure.retry_after.is_some_and(|wait| wait <= HOUR && wait > HOUR / 2),
        "{failure:?}"
    );
    assert!(failure.to_string().contains("refused"), "the cause is told too: {failure}");
}

#[tokio::test]
async fn one_trial_decides_for_all_who_wait() {
    let root = Arc::new(Root::new("external-root"));
    let listener = tokio::net::TcpListener::bind((HOST, 0)).await.unwrap();
    let url = format!("https://{}/sign", listener.local_addr().unwrap());
    let target = Target { url, roots: vec![root.certificate.clone()] };
    let backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO };
    let client = client(Settings { backoff, ..settings() }, None, vec![target]);
    let (failing, first) = (sign(&client, &root), async { drop(listener.accept().await.unwrap()) });
    assert!(tokio::join!(failing, first).0.is_err());

    // The trial is held until all others have come to wait for it.
    let (open, gate) = tokio::sync::watch::channel(false);
    let maker = root.clone();
    let (asked, held) = (Arc::new(AtomicUsize::new(0)), gate.clone());
    let count = asked.clone();
    let ca = Ca::start_on(listener, &root, &root, move |request| {
        let certificate = Reply::certificate(&maker.certify(request, |_| {}));
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            Reply::Held(held.clone(), Box::new(certificate))
        } else {
            certificate
        }
    });
    let requests: Vec<_> = (0..8)
        .map(|_| {
            let (client, root) = (client.clone(), root.clone());
            tokio::spawn(async move { sign(&client, &root).await })
        })
        .collect();
    while asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!((asked.load(Ordering::SeqCst), &client.health()[0].state), (1, &UrlState::Trying));
    open.send(true).unwrap();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert_eq!((ca.requests(), &client.health()[0].state), (8, &UrlState::Up));
}

#[tokio::test]
async fn a_recovered_url_is_found_beside_the_others() {
    let root = Arc::new(Root::new("external-root"));
    let listener = tokio::net::TcpListener::bind((HOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let back = Target { url: format!("https://{address}/sign"), roots: vec![root.certificate.clone()] };
    let good = Ca::good(HOST, root.clone()).await;
    let backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO };
    let client = client(Settings { backoff, ..settings() }, None, vec![back.clone(), good.target(&root)]);
    let (failing, first) = (sign(&client, &root), async { drop(listener.accept().await.unwrap()) });
    assert_eq!(tokio::join!(failing, first).0.unwrap().failed.len(), 1);

    let maker = root.clone();
    let ca = Ca::start_on(listener, &root, &root, move |request| Reply::certificate(&maker.certify(request, |_| {})));
    let mut changes = client.changes();
    loop {
        changes.mark_unchanged();
        client.tend();
        let granted = sign(&client, &root).await.unwrap();
        assert!(granted.failed.is_empty(), "looking costs requests nothing");
        if granted.url == back.url {
            break;
        }
        changes.changed().await.unwrap();
    }
    assert_eq!(client.health()[0].state, UrlState::Up);
    assert_eq!(ca.requests(), 1);
}

#[tokio::test]
async fn a_recovery_is_seen_without_a_request() {
    let root = Arc::new(Root::new("external-root"));
    let listener = tokio::net::TcpListener::bind((HOST, 0)).await.unwrap();
    let url = format!("https://{}/sign", listener.local_addr().unwrap());
    let target = Target { url, roots: vec![root.certificate.clone()] };
    let backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO };
    let client = client(Settings { backoff, ..settings() }, None, vec![target]);
    let (failing, first) = (sign(&client, &root), async { drop(listener.accept().await.unwrap()) });
    assert!(tokio::join!(failing, first).0.is_err());
    let ca = Ca::good_on(listener, root.clone());
    let mut changes = client.changes();
    client.tend();
    while client.health()[0].state != UrlState::Reachable {
        changes.changed().await.unwrap();
        client.tend();
    }
    assert_eq!((ca.requests(), client.health()[0].state.word()), (0, "reachable"));
    sign(&client, &root).await.unwrap();
    assert_eq!((ca.requests(), &client.health()[0].state), (1, &UrlState::Up));
}

#[tokio::test]
async fn c300_c325_the_managers_certificate_is_presented_and_a_renewed_one_is_used_at_once() {
    let root = Arc::new(Root::new("external-root"));
    let good = Ca::good(HOST, root.clone()).await;
    let (publisher, live) = root.live("m1");
    let serial = |live: &mtls::Live| live.current().unwrap().chain()[0].serial();
    let client = client(settings(), Some(live.clone()), vec![good.target(&root)]);
    let clients = || good.seen.clients.lock().unwrap().clone();
    sign(&client, &root).await.unwrap();
    sign(&client, &root).await.unwrap();
    let first = serial(&live);
    assert_eq!((clients(), good.connections()), (vec![Some(first); 2], 1));

    // Renewed: connections made with the old one are not used any more.
    publisher.publish(root.manager("m1", false), now()).unwrap();
    sign(&client, &root).await.unwrap();
    assert_eq!((clients().last(), good.connections()), (Some(&Some(serial(&live))), 2));
    assert_ne!(serial(&live), first);

    // Replaced by one that has expired: refused by the CA for that reason.
    publisher.publish(root.manager("m1", true), now()).unwrap();
    let failure = sign(&client, &root).await.unwrap_err();
    assert!(failure.to_string().contains("our certificate has expired"), "{failure}");
    assert!(failure.recoverable);
    // And by a good one: the breaker that the old one opened does not stand in its way.
    publisher.publish(root.manager("m1", false), now()).unwrap();
    sign(&client, &root).await.unwrap();
    assert_eq!(clients().last(), Some(&Some(serial(&live))));
}

#[tokio::test]
async fn without_an_identity_no_certificate_is_presented() {
    let root = Arc::new(Root::new("external-root"));
    let good = Ca::good(HOST, root.clone()).await;
    sign(&client(settings(), None, vec![good.target(&root)]), &root).await.unwrap();
    let (_publisher, live) = mtls::Publisher::new();
    sign(&client(settings(), Some(live), vec![good.target(&root)]), &root).await.unwrap();
    assert_eq!(*good.seen.clients.lock().unwrap(), [None, None]);
}

#[tokio::test]
async fn c324_what_is_posted() {
    let root = Arc::new(Root::new("external-root"));
    let good = Ca::good(HOST, root.clone()).await;
    let asker = Asker::new(Role::Manager, NODE);
    let client = client(settings(), None, vec![good.target(&root)]);
    client.sign(&asker.request, |pem| asker.check(&root.certificate, pem)).await.unwrap();
    let body = good.seen.bodies.lock().unwrap()[0].clone();
    assert_eq!(body, serde_json::to_string(&asker.request).unwrap());
    let head = good.seen.heads.lock().unwrap()[0].to_ascii_lowercase();
    assert!(
        head.starts_with("post /api/v1/cfssl/sign http/1.1\r\n") && head.contains("content-type: application/json"),
        "{head}"
    );
}

#[tokio::test]
async fn the_window_bounds_requests_in_flight() {
    let root = Arc::new(Root::new("external-root"));
    let (open, gate) = tokio::sync::watch::channel(false);
    let (maker, most) = (root.clone(), Arc::new(Mutex::new((0_usize, 0_usize))));
    let ca = Ca::start(HOST, &root, move |request| {
        Reply::Held(gate.clone(), Box::new(Reply::certificate(&maker.certify(request, |_| {}))))
    })
    .await;
    let client = client(Settings { window: 3, ..settings() }, None, vec![ca.target(&root)]);
    let requests: Vec<_> = (0..10)
        .map(|_| {
            let (client, root) = (client.clone(), root.clone());
            tokio::spawn(async move { sign(&client, &root).await })
        })
        .collect();
    while ca.requests() < 3 {
        tokio::task::yield_now().await;
    }
    for _ in 0..200 {
        tokio::task::yield_now().await;
        let in_flight = client.health()[0].in_flight;
        assert!(in_flight <= 3);
        most.lock().unwrap().0 = ca.requests();
    }
    assert_eq!(most.lock().unwrap().0, 3);
    open.send(true).unwrap();
    for request in requests {
        request.await.unwrap().unwrap();
    }
    assert_eq!((ca.requests(), client.health()[0].in_flight), (10, 0));
}

#[tokio::test]
async fn a_changed_list_keeps_what_stays() {
    let root = Arc::new(Root::new("external-root"));
    let (one, two) = (Ca::good(HOST, root.clone()).await, Ca::good(HOST, root.clone()).await);
    let dead = Dead::new(HOST);
    let bad = dead.target(&root);
    let client = client(settings(), None, vec![bad.clone(), one.target(&root)]);
    sign(&client, &root).await.unwrap();
    client.configure(vec![bad.clone(), bad.clone(), two.target(&root)]);
    let health = client.health();
    assert_eq!((health.len(), health[0].state.word(), health[1].granted), (2, "down", 0));
    let granted = sign(&client, &root).await.unwrap();
    assert_eq!((granted.url.as_str(), granted.failed.len()), (two.url.as_str(), 0));
    // With other roots it is another CA.
    client.configure(vec![Target { roots: Vec::new(), ..bad }]);
    assert_eq!(client.health()[0].state, UrlState::Up);
}

#[tokio::test]
async fn c256_c257_probes() {
    let (root, twin) = (Root::new("external-root"), Root::new("external-root"));
    let ca = Ca::start(HOST, &root, |_| panic!("asked")).await;
    let ask = |url: String, root: &Root| {
        let roots = vec![root.certificate.clone()];
        async move { probe(&url, &roots, None, clock(), Duration::from_secs(30)).await }
    };
    ask(ca.url.clone(), &root).await.unwrap();
    let failure = ask(ca.url.clone(), &twin).await.unwrap_err();
    assert_eq!(failure, ProbeFailure::Tls("certificate signed by unknown authority".to_owned()));
    for url in ["invalidurl", "http://127.0.32.3/", "https://too:many:colons:1:2:3"] {
        assert!(matches!(ask(url.to_owned(), &root).await.unwrap_err(), ProbeFailure::InvalidUrl(_)), "{url}");
    }
    let dead = Dead::new(HOST);
    let address = dead.address;
    let failure = ask(format!("https://{address}/x"), &root).await.unwrap_err();
    assert!(matches!(&failure, ProbeFailure::Connect { port, .. } if *port == address.port()), "{failure}");
    let silent = tokio::net::TcpListener::bind((HOST, 0)).await.unwrap();
    let (url, limit) = (format!("https://{}/", silent.local_addr().unwrap()), Duration::from_millis(50));
    let failure = probe(&url, std::slice::from_ref(&root.certificate), None, clock(), limit).await.unwrap_err();
    assert_eq!(failure, ProbeFailure::Timeout(limit));
    assert_eq!(ca.requests(), 0);
}

#[tokio::test]
async fn c316_cross_signing_that_the_server_does_not_do() {
    let (old, new) = (Arc::new(Root::new("external-root")), Root::new("swarm-ca"));
    let no = json!({"success": false, "errors": [{"code": 1, "message": "no CA certificates here"}]});
    let ca = Ca::start(HOST, &old, move |_| Reply::json(200, &no)).await;
    let client = client(settings(), None, vec![ca.target(&old)]);
    let failure =
        client.cross_sign(&new.certificate, &new.private_key(), &old.certificate, HOUR, HOUR).await.unwrap_err();
    let CrossSignFailure::Sign(failure) = failure else { panic!("{failure}") };
    assert_eq!(failure.to_string(), "response errors: [{1 no CA certificates here}]");
    // What was asked: the engine's request.
    let body: SignRequest = serde_json::from_str(&ca.seen.bodies.lock().unwrap()[0]).unwrap();
    let subject = body.subject.clone().unwrap();
    assert_eq!((body.hosts, body.profile.as_str(), subject.common_name.as_str()), (None, "CA", "swarm-ca"));
    assert!(subject.names.is_empty());
    let extension = &body.extensions[0];
    assert_eq!(
        (extension.id.as_str(), extension.critical, extension.value.as_str()),
        ("2.5.29.19", true, "30030101ff")
    );
}

#[tokio::test]
async fn a_cross_signed_root_comes_back_or_is_hostile() {
    let (old, new) = (Arc::new(Root::new("external-root")), Arc::new(Root::new("swarm-ca")));
    let (by, of) = (old.clone(), new.clone());
    let ca =
        Ca::start(HOST, &old, move |_| Reply::certificate(&of.params.signed_by(&of.key, &by.issuer()).unwrap().pem()))
            .await;
    let own = new.pem();
    let liar = Ca::start(HOST, &old, move |_| Reply::certificate(&own)).await;
    let client = client(settings(), None, vec![liar.target(&old), ca.target(&old)]);
    let granted = client.cross_sign(&new.certificate, &new.private_key(), &old.certificate, HOUR, HOUR).await.unwrap();
    assert_eq!((granted.url.as_str(), granted.failed[0].reason.name()), (ca.url.as_str(), "chain"));
    assert_eq!(granted.value.issuer_der(), old.certificate.subject_der());
}
