//! The CA as managers meet it: over mutual TLS, on a socket, with its log on disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use swarmpki_authority as authority;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use authority::entry::Entry;
use authority::permit::Permit;
use authority::shut_out::ShutOut;
use authority::{Authority, Config, Listeners, StartError, log};
use pki::Time;
use pki::chain::{self, Usage};
use pki::identity::Role;
use serde_json::{Value, json};
use support::{CLUSTER, Client, INFO, Node, Root, SIGN, cross_request, nobody, node_id, now, request, request_for};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const HOUR: Duration = Duration::from_secs(3_600);

/// A CA that serves, its swarm's former root, and its clock.
struct Server {
    ca: Arc<Root>,
    former: Arc<Root>,
    dir: Arc<tempfile::TempDir>,
    addr: SocketAddr,
    metrics: SocketAddr,
    ahead_ms: Arc<AtomicI64>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), StartError>>,
}

impl Server {
    async fn start() -> Self {
        let (ca, former) = (Arc::new(Root::new()), Arc::new(Root::new()));
        Self::with(ca, former, Arc::new(tempfile::tempdir().unwrap()), |_| {}).await.unwrap()
    }

    async fn with(
        ca: Arc<Root>,
        former: Arc<Root>,
        dir: Arc<tempfile::TempDir>,
        set: impl FnOnce(&mut Config),
    ) -> Result<Self, StartError> {
        let host = Ipv4Addr::new(127, 0, 33, 1);
        let ahead_ms = Arc::new(AtomicI64::new(0));
        let mut config = config(&ca, &former, dir.path());
        let ahead = Arc::clone(&ahead_ms);
        config.clock = Arc::new(move || Time::from_unix_millis(now().unix_millis() + ahead.load(Ordering::Relaxed)));
        config.names = vec![host.to_string()];
        set(&mut config);
        let authority = Arc::new(Authority::open(config)?);
        let managers = TcpListener::bind((host, 0)).await.unwrap();
        let counters = TcpListener::bind((host, 0)).await.unwrap();
        let (addr, metrics) = (managers.local_addr().unwrap(), counters.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let (ready, begun) = tokio::sync::oneshot::channel();
        let serving = authority::serve(
            authority,
            Listeners { managers, metrics: Some(counters) },
            || ready.send(()).unwrap(),
            shutdown.clone(),
        );
        let task = tokio::spawn(serving);
        begun.await.unwrap();
        Ok(Self { ca, former, dir, addr, metrics, ahead_ms, shutdown, task })
    }

    /// The clock goes on.
    fn after(&self, more: Duration) {
        self.ahead_ms.fetch_add(i64::try_from(more.as_millis()).unwrap(), Ordering::Relaxed);
    }

    async fn client(&self, node: &Node) -> Client {
        node.connect(&self.ca.certificate, self.addr).await.unwrap()
    }

    /// The same where many handshakes of this address may be under way yet on the server's side: it has the last word in each.
    async fn client_in_turn(&self, node: &Node) -> Client {
        loop {
            match node.connect(&self.ca.certificate, self.addr).await {
                Ok(client) => return client,
                Err(error) => assert!(error.to_string().contains("tls handshake eof"), "{error}"),
            }
            tokio::task::yield_now().await;
        }
    }

    /// What becomes of a good request by this node.
    async fn asked_by(&self, node: &Node, cluster: &str) -> String {
        let mut client = match node.connect(&self.ca.certificate, self.addr).await {
            Ok(client) => client,
            Err(error) => return format!("TLS: {error}"),
        };
        match client.send("POST", SIGN, request(cluster, Role::Worker, &node_id(77)).to_string()).await {
            Ok(answer) if answer.body["success"] == json!(true) => "issued".to_owned(),
            Ok(answer) => answer.refusal(),
            Err(error) => format!("TLS: {error}"),
        }
    }

    /// A manager's own leaf of this CA, as it gets it when it renews.
    async fn renewed(&self, by: &Node, n: u64) -> Node {
        let key = support::key();
        let mut client = self.client(by).await;
        let answer = client.sign(&request_for(&key, CLUSTER, Role::Manager, &node_id(n))).await;
        Node { chain: vec![answer.certificate()], key }
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn config(ca: &Root, former: &Root, dir: &Path) -> Config {
    let mut config = Config::new(ca.certificate.clone(), Arc::new(ca.key.duplicate()), dir.join("state"));
    config.former = vec![former.certificate.clone()];
    config
}

fn entries(dir: &Path) -> Vec<Entry> {
    let mut all = Vec::new();
    log::read(&dir.join("state"), |entry| all.push(entry)).unwrap();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_of_the_former_root_gets_an_engines_leaf_and_it_is_in_the_log() {
    let server = Server::start().await;
    let manager = server.former.manager(1);
    let mut client = server.client(&manager).await;
    for (role, names) in [
        (Role::Worker, vec!["swarm-worker".to_owned(), node_id(2)]),
        (Role::Manager, vec!["swarm-manager".to_owned(), node_id(2), "swarm-ca".to_owned()]),
    ] {
        let leaf = client.sign(&request(CLUSTER, role, &node_id(2))).await.certificate();
        let subject = leaf.node_subject().unwrap();
        assert_eq!((subject.cluster.as_str(), subject.role, subject.node.as_str()), (CLUSTER, role, &*node_id(2)));
        assert_eq!(leaf.dns_names(), names);
        let anchors = std::slice::from_ref(&server.ca.certificate);
        for usage in [Usage::Server, Usage::Client] {
            chain::reaches(&leaf, &[], anchors, now(), usage).unwrap();
        }
        assert_eq!(leaf.not_after().since(leaf.not_before()), 90 * 24 * HOUR + HOUR);
        let all = entries(server.dir.path());
        let Some(Entry::Leaf(last)) = all.last() else { panic!("{all:?}") };
        assert_eq!(last.serial, leaf.serial().to_string());
        assert_eq!(last.subject, format!("O={CLUSTER},OU={},CN={}", role.ou(), node_id(2)));
        let by = last.by.as_ref().unwrap();
        assert_eq!((by.node.as_str(), by.former), (&*node_id(1), true));
        assert_eq!(by.serial, manager.chain[0].serial().to_string());
    }
    let kinds: Vec<_> = entries(server.dir.path()).iter().map(|entry| json!(entry)["kind"].clone()).collect();
    assert_eq!(kinds, ["begun", "server", "cluster", "leaf", "ours", "leaf"]);
    let info = client.send("POST", INFO, r#"{"label":""}"#).await.unwrap();
    assert_eq!(info.body["result"]["certificate"], json!(server.ca.certificate.pem()));
    assert_eq!(info.body["result"]["expiry"], json!("2160h0m0s"));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_with_who_wants_it() {
    let server = Server::start().await;
    let tls = server.former.manager(1).tls(&server.ca.certificate, &["h2"]);
    let mut client = Client::connect(tls, server.addr).await.unwrap();
    assert!(matches!(client, Client::Two(_)));
    client.sign(&request(CLUSTER, Role::Worker, &node_id(2))).await.certificate();
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_further_than_the_handshake_without_a_certificate_of_the_swarm() {
    let server = Server::start().await;
    let root = &server.ca.certificate;
    let outcome = match Client::connect(nobody(root), server.addr).await {
        Ok(mut client) => client.send("POST", SIGN, "{}").await.map(|answer| answer.text),
        Err(error) => Err(error),
    };
    assert!(outcome.is_err(), "{outcome:?}");
    let stranger = Root::new().manager(1);
    let said = server.asked_by(&stranger, CLUSTER).await;
    assert!(said.starts_with("TLS: "), "{said}");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_managers_are_refused_with_the_reason() {
    let server = Server::start().await;
    let first = server.former.manager(1);
    let ours = server.renewed(&first, 1).await;
    assert_eq!(server.asked_by(&ours, CLUSTER).await, "issued");
    let at = now();
    let far = at.saturating_sub(100 * 24 * HOUR);
    let other = "othercluster0000000000000";
    let rows = [
        ("worker", server.former.leaf(CLUSTER, Role::Worker, &node_id(5), at), CLUSTER, "403 only managers"),
        ("other cluster", server.former.leaf(other, Role::Manager, &node_id(1), at), other, "403 this CA serves"),
        (
            "not in the log",
            server.ca.manager(1),
            CLUSTER,
            "403 the caller's certificate is signed by this CA's key but",
        ),
        ("worker of ours", server.ca.leaf(CLUSTER, Role::Worker, &node_id(1), at), CLUSTER, "403 only managers"),
        (
            "expired",
            server.former.leaf(CLUSTER, Role::Manager, &node_id(1), far),
            CLUSTER,
            "403 the caller's certificate has expired",
        ),
        ("asks for another cluster", server.former.manager(1), other, "400 subject: O must be"),
    ];
    for (what, node, cluster, wanted) in rows {
        let said = server.asked_by(&node, cluster).await;
        assert!(said.starts_with(wanted), "{what}: {said}");
    }
    let forged = Node { key: support::key(), chain: vec![server.ca.manager(1).chain.remove(0)] };
    let tls = std::panic::catch_unwind(|| forged.tls(&server.ca.certificate, &[]));
    assert!(tls.is_err(), "another's certificate without its key is refused by our own TLS already");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_former_root_is_over_a_day_after_the_first_manager_had_a_leaf_of_ours() {
    let server = Server::start().await;
    let first = server.former.manager(1);
    let mut held = server.client(&first).await;
    server.after(50 * 24 * HOUR);
    assert_eq!(server.asked_by(&first, CLUSTER).await, "issued", "until a manager has one of ours, there is no end");
    let ours = server.renewed(&first, 1).await;
    server.after(23 * HOUR);
    assert_eq!(server.asked_by(&first, CLUSTER).await, "issued");
    let mut server = server;
    for restart in [false, true] {
        if restart {
            let ahead = server.ahead_ms.load(Ordering::Relaxed);
            let (ca, former, dir) = (server.ca.clone(), server.former.clone(), server.dir.clone());
            server.end().await;
            server = Server::with(ca, former, dir, |_| {}).await.unwrap();
            server.ahead_ms.store(ahead, Ordering::Relaxed);
        } else {
            server.after(HOUR);
            let over = held.sign(&request(CLUSTER, Role::Worker, &node_id(9))).await.refusal();
            assert!(over.contains("that time is over"), "also on a connection made before: {over}");
        }
        let said = server.asked_by(&first, CLUSTER).await;
        assert!(said.starts_with("403") && said.contains("that time is over"), "{said}");
        assert_eq!(server.asked_by(&ours, CLUSTER).await, "issued", "restarted: {restart}");
    }
    server.after(100 * 24 * HOUR);
    assert!(server.asked_by(&ours, CLUSTER).await.contains("expired"));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_refused_with_a_status_that_says_whether_to_try_again() {
    let server = Server::start().await;
    let mut client = server.client(&server.former.manager(1)).await;
    let good = || request(CLUSTER, Role::Worker, &node_id(2));
    let with = |field: &str, value: Value| {
        let mut request = good();
        request[field] = value;
        request
    };
    let bad_csr = {
        let pem = good()["certificate_request"].as_str().unwrap().to_owned();
        let at = pem.len() - 60;
        let digit = if pem.as_bytes()[at] == b'A' { "B" } else { "A" };
        with("certificate_request", json!(format!("{}{digit}{}", &pem[..at], &pem[at + 1..])))
    };
    let rows = [
        (with("profile", json!("server")), "400 the field profile"),
        (with("crl_override", json!("x")), "400 the field crl_override"),
        (with("label", json!("x")), "400 the field label"),
        (with("serial", json!(7)), "400 the field serial"),
        (
            with("extensions", json!([{"id": "2.5.29.19", "critical": true, "value": "30030101ff"}])),
            "400 the field extensions",
        ),
        (with("NotBefore", json!("2020-01-01T00:00:00Z")), "400 the field NotBefore"),
        (with("NotAfter", json!("2099-01-01T00:00:00Z")), "400 the field NotAfter"),
        (with("ReturnPrecert", json!(true)), "400 the field ReturnPrecert"),
        (with("metadata", json!({"a": 1})), "400 the field metadata"),
        (with("hosts", json!(["swarm-worker", node_id(2), "evil.example"])), "400 hosts must be"),
        (with("hosts", json!(["swarm-worker", node_id(2), "swarm-ca"])), "400 hosts must be"),
        (with("hosts", json!([node_id(2), "swarm-worker"])), "400 hosts must be"),
        (with("subject", json!({"CN": node_id(2), "names": [{"O": CLUSTER, "OU": "admin"}]})), "400 subject: OU"),
        (with("subject", json!({"CN": "x", "names": [{"O": CLUSTER, "OU": "swarm-worker"}]})), "400 subject: CN"),
        (with("certificate_request", json!("x")), "200 certificate_request: CSR Decode failed"),
        (bad_csr, "200 certificate_request: CSR"),
        (json!([1]), "400 the request cannot be read"),
    ];
    for (request, wanted) in rows {
        let said = client.sign(&request).await.refusal();
        assert!(said.starts_with(wanted), "{wanted}\n{said}");
    }
    let unknown = with("bundle", json!(true));
    client.sign(&unknown).await.certificate();
    let rows = [
        ("GET", SIGN, String::new(), "405 only POST"),
        ("POST", "/api/v1/cfssl/revoke", "{}".into(), "404 there is nothing here"),
        ("POST", SIGN, "{".into(), "400 the request cannot be read"),
        ("POST", INFO, r#"{"profile":"CA"}"#.into(), "400 the field profile"),
        ("POST", SIGN, " ".repeat(65_537), "413 the request's body"),
    ];
    for (method, path, body, wanted) in rows {
        let said = client.send(method, path, body).await.unwrap().refusal();
        assert!(said.starts_with(wanted), "{wanted}\n{said}");
        client = server.client(&server.former.manager(1)).await;
    }
    let leaves = entries(server.dir.path()).into_iter().filter(|entry| matches!(entry, Entry::Leaf(_)));
    assert_eq!(leaves.count(), 1, "only what was issued is in the log");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ca_is_certified_by_permit_once() {
    let server = Server::start().await;
    let state = server.dir.path().join("state");
    let manager = server.renewed(&server.former.manager(1), 1).await;
    let mut client = server.client(&manager).await;
    let next = Root::new();
    let asked = cross_request(&next);
    let off = client.sign(&asked).await.refusal();
    assert!(off.starts_with("403 cross-signing is off") && off.contains("swarmpki ca serve allow-cross-sign"), "{off}");
    let until = now().saturating_add(HOUR);
    Permit { spki: Some(Root::new().certificate.spki_hash()), until }.write(&state).unwrap();
    let off = client.sign(&asked).await.refusal();
    assert!(off.contains("another key"), "{off}");
    Permit { spki: Some(next.certificate.spki_hash()), until }.write(&state).unwrap();
    for (field, value, wanted) in [
        ("hosts", json!(["swarm-ca"]), "400 the field hosts"),
        ("NotAfter", json!("2099-01-01T00:00:00Z"), "400 the field NotAfter"),
        (
            "extensions",
            json!([{"id": "2.5.29.17", "critical": true, "value": "30030101ff"}]),
            "400 the field extensions",
        ),
        ("subject", json!({"CN": "else", "names": []}), "400 cross-signing: subject.CN"),
    ] {
        let mut request = asked.clone();
        request[field] = value;
        let said = client.sign(&request).await.refusal();
        assert!(said.starts_with(wanted), "{said}");
    }
    let cross = client.sign(&asked).await.certificate();
    assert_eq!((cross.subject_der(), cross.spki_der()), (next.certificate.subject_der(), next.certificate.spki_der()));
    assert_eq!((cross.may_certify(), cross.path_len()), (true, Some(0)));
    let life = cross.not_after().since(now());
    assert!(life > 179 * 24 * HOUR && life < 181 * 24 * HOUR, "it outlives every leaf beside it: {life:?}");
    let leaf = next.manager(4).chain.remove(0);
    let anchors = std::slice::from_ref(&server.ca.certificate);
    chain::reaches(&leaf, std::slice::from_ref(&cross), anchors, now(), Usage::Server).unwrap();
    assert!(client.sign(&asked).await.refusal().starts_with("403 cross-signing is off"), "once");
    let all = entries(server.dir.path());
    let Some(Entry::CrossSigned(last)) = all.last() else { panic!("{all:?}") };
    assert_eq!(last.serial, cross.serial().to_string());

    Permit { spki: None, until }.write(&state).unwrap();
    server.after(2 * HOUR);
    assert!(client.sign(&asked).await.refusal().contains("ended"), "in time");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_is_one_cas_one_clusters_and_one_instances() {
    let server = Server::start().await;
    let (ca, former, dir) = (server.ca.clone(), server.former.clone(), server.dir.clone());
    let again = |set: fn(&mut Config)| {
        let mut config = config(&ca, &former, dir.path());
        set(&mut config);
        Authority::open(config).map(drop).map_err(|error| error.to_string())
    };
    assert!(again(|_| {}).unwrap_err().contains("in use by another"));
    let manager = former.manager(1);
    let mut client = server.client(&manager).await;
    client.sign(&request(CLUSTER, Role::Worker, &node_id(2))).await.certificate();
    let other = former.leaf("othercluster0000000000000", Role::Manager, &node_id(1), now());
    assert!(
        server.asked_by(&other, "othercluster0000000000000").await.contains("this CA serves"),
        "settled by the first"
    );
    server.end().await;
    assert!(again(|config| config.cluster = Some("x".parse().unwrap())).unwrap_err().contains("is of cluster"));
    assert!(again(|config| config.former.clear()).unwrap_err().contains("nobody could call"));
    assert!(again(|config| config.cert_expiry = HOUR / 2).unwrap_err().contains("an hour"));
    assert!(again(|config| config.cross_sign_expiry = HOUR).unwrap_err().contains("must not end before"));
    assert!(again(|config| config.names.push("a b".into())).unwrap_err().contains("neither a host name"));
    let stranger = config(&Root::new(), &former, dir.path());
    assert!(Authority::open(stranger).map(drop).unwrap_err().to_string().contains("another CA's"));
    let server = Server::with(ca.clone(), former.clone(), dir.clone(), |_| {}).await.unwrap();
    assert!(server.asked_by(&other, "othercluster0000000000000").await.contains("this CA serves"), "and stored");
    let ours = server.renewed(&manager, 1).await;
    server.end().await;
    let server = Server::with(ca, former, dir, |config| config.former.clear()).await.unwrap();
    assert_eq!(server.asked_by(&ours, CLUSTER).await, "issued", "without the former root, once managers are ours");
    assert!(server.asked_by(&manager, CLUSTER).await.starts_with("TLS: "));
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn given_its_cluster_it_takes_no_other_as_the_first() {
    let (ca, former) = (Arc::new(Root::new()), Arc::new(Root::new()));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let set = |config: &mut Config| config.cluster = Some("mine".parse().unwrap());
    let server = Server::with(ca, former, dir, set).await.unwrap();
    assert!(
        server.asked_by(&server.former.manager(1), CLUSTER).await.starts_with("403 this CA serves the cluster mine")
    );
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_whose_log_is_elsewhere_takes_its_own_leaves_for_a_day_if_told_to_trust_itself() {
    let ca = Arc::new(Root::new());
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::with(ca.clone(), ca.clone(), dir, |_| {}).await.unwrap();
    let old = ca.manager(1);
    let ours = server.renewed(&old, 1).await;
    assert_eq!(server.asked_by(&ours, CLUSTER).await, "issued");
    server.after(24 * HOUR);
    assert!(server.asked_by(&old, CLUSTER).await.contains("that time is over"));
    assert_eq!(server.asked_by(&ours, CLUSTER).await, "issued");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_asks_too_fast_is_slowed_and_others_are_not() {
    let (ca, former) = (Arc::new(Root::new()), Arc::new(Root::new()));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::with(ca, former, dir, |config| config.rate = 1).await.unwrap();
    let mut client = server.client(&server.former.manager(1)).await;
    let mut refused = String::new();
    for _ in 0..100 {
        let answer = client.sign(&request(CLUSTER, Role::Worker, &node_id(2))).await;
        if answer.status != 200 {
            refused = answer.refusal();
            break;
        }
    }
    assert!(refused.starts_with("429 too many requests"), "{refused}");
    assert_eq!(server.asked_by(&server.former.manager(2), CLUSTER).await, "issued");
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_tell_of_outcomes() {
    let server = Server::start().await;
    let mut client = server.client(&server.former.manager(1)).await;
    client.sign(&request(CLUSTER, Role::Worker, &node_id(2))).await.certificate();
    client.sign(&json!({})).await.refusal();
    let text = plain(server.metrics, "/metrics").await;
    for line in [
        "swarmpki_ca_requests_total{outcome=\"issued\"} 1",
        "swarmpki_ca_requests_total{outcome=\"subject\"} 1",
        "swarmpki_ca_leaves_issued_total{role=\"worker\"} 1",
        "swarmpki_ca_connections 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(plain(server.metrics, "/").await.starts_with("HTTP/1.1 404"));
    server.end().await;
}

async fn plain(to: SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let asked = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(asked.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn below_another_ca_of_our_root_nobody_is_let_in() {
    let server = Server::start().await;
    let ours = server.renewed(&server.former.manager(1), 1).await;
    let next = Root::new();
    Permit { spki: None, until: now().saturating_add(HOUR) }.write(&server.dir.path().join("state")).unwrap();
    let cross = server.client(&ours).await.sign(&cross_request(&next)).await.certificate();
    let mut below = next.manager(2);
    below.chain.push(cross);
    let mut server = server;
    for trusting in [true, false] {
        let said = server.asked_by(&below, CLUSTER).await;
        assert!(said.starts_with("403 the caller's certificate is of another CA"), "trust: {trusting}: {said}");
        assert_eq!(server.asked_by(&ours, CLUSTER).await, "issued");
        if trusting {
            let (ca, former, dir) = (server.ca.clone(), server.former.clone(), server.dir.clone());
            server.end().await;
            server = Server::with(ca, former, dir, |config| config.former.clear()).await.unwrap();
        }
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_roots_day_is_its_own_and_neither_other_roots_nor_the_clock_bring_it_back() {
    let mut server = Server::start().await;
    let first = server.former.manager(1);
    let ours = server.renewed(&first, 1).await;
    let second = Root::new();
    for (ahead, also, wanted) in [
        (23 * HOUR, true, "issued"),
        (24 * HOUR, false, "403"),
        (24 * HOUR, true, "403"),
        // Set back: the log tells how late it was.
        (HOUR, true, "403"),
    ] {
        let (ca, former, dir) = (server.ca.clone(), server.former.clone(), server.dir.clone());
        server.end().await;
        let more = second.certificate.clone();
        server = Server::with(ca, former, dir, |config| {
            if also {
                config.former.insert(0, more);
            }
        })
        .await
        .unwrap();
        server.after(ahead);
        let said = server.asked_by(&first, CLUSTER).await;
        assert!(said.starts_with(wanted), "{ahead:?} {also}: {said}");
        assert_eq!(server.asked_by(&ours, CLUSTER).await, "issued");
        if also {
            assert_eq!(server.asked_by(&second.manager(3), CLUSTER).await, "issued", "a day of its own");
        }
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_shut_out_is_refused_at_its_next_request_also_after_a_restart() {
    let server = Server::start().await;
    let state = server.dir.path().join("state");
    let first = server.former.manager(1);
    let (ours, other) = (server.renewed(&first, 1).await, server.renewed(&first, 2).await);
    let mut held = server.client(&ours).await;
    held.sign(&request(CLUSTER, Role::Worker, &node_id(9))).await.certificate();
    ShutOut::Serial(ours.chain[0].serial()).add(&state).unwrap();
    let said = held.sign(&request(CLUSTER, Role::Worker, &node_id(9))).await.refusal();
    assert!(said.starts_with("403") && said.contains("shut out"), "on the connection it has: {said}");
    assert_eq!(server.asked_by(&first, CLUSTER).await, "issued", "another certificate of that node");
    ShutOut::Node(node_id(1).parse().unwrap()).add(&state).unwrap();
    let mut client = server.client(&other).await;
    let said = client.sign(&request(CLUSTER, Role::Manager, &node_id(1))).await.refusal();
    assert!(said.contains("shut out"), "nor is one issued to it: {said}");
    let (ca, former, dir) = (server.ca.clone(), server.former.clone(), server.dir.clone());
    server.end().await;
    let server = Server::with(ca, former, dir, |_| {}).await.unwrap();
    for (node, wanted) in [(&ours, "403"), (&first, "403"), (&other, "issued")] {
        let said = server.asked_by(node, CLUSTER).await;
        assert!(said.starts_with(wanted), "{said}");
    }
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_call_is_told_before_anything_is_read_and_takes_no_managers_place() {
    let server = Server::start().await;
    let worker = server.former.leaf(CLUSTER, Role::Worker, &node_id(1), now());
    // More than a node has places, and of the node's name that a manager has.
    let mut held = Vec::new();
    for _ in 0..31 {
        held.push(server.client(&worker).await);
    }
    for (method, path) in [("GET", "/nowhere"), ("POST", INFO), ("POST", SIGN)] {
        let mut client = server.client_in_turn(&worker).await;
        let said = client.send(method, path, " ".repeat(10)).await.unwrap().refusal();
        assert!(said.starts_with("403 only managers"), "{method} {path}: {said}");
        assert!(client.send(method, path, String::new()).await.is_err(), "and the connection is closed");
    }
    drop(held);
    server.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_under_many_names_share_one_bound() {
    let (ca, former) = (Arc::new(Root::new()), Arc::new(Root::new()));
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::with(ca, former, dir, |config| config.rate_all = 1).await.unwrap();
    let mut refused = String::new();
    for n in 0..100 {
        refused = server.asked_by(&server.former.manager(n), CLUSTER).await;
        if refused != "issued" {
            break;
        }
    }
    assert!(refused.starts_with("503 too many requests at a time"), "{refused}");
    server.end().await;
}
