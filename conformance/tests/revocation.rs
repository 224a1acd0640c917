//! Certificates taken back: who refuses them then, and what strangers (OpenSSL) make of the lists and answers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use swarmpki::{Config, JoinRequest, Live, Node, PeerPolicy, Time};
use swarmpki_conformance::caller::Pair;
use swarmpki_conformance::cfssl::Cfssl;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::puppet::Puppet;
use swarmpki_conformance::rotation::{GivenRoot, in_progress};
use swarmpki_conformance::softhsm::SoftHsm;
use swarmpki_conformance::{all_ready, csr, node_id, state};
use testkit::daemon::Daemon;
use testkit::engine::Certificates;
use testkit::loopback::Loopback;
use testkit::openssl::{openssl, serial};
use testkit::{require_or_skip, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::Code;

/// How long anything may take that is waited for.
const WITHIN: Duration = Duration::from_secs(30);

/// A cluster whose manager serves revocations.
struct Served {
    cluster: Cluster,
    /// Where.
    addr: SocketAddr,
    folder: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        let net = Loopback::claim();
        let addr = net.free_port(1);
        let manager = Daemon::start_with("manager1", listen(addr), Vec::new());
        let body = format!(r#"{{"ListenAddr":"{0}:2377","AdvertiseAddr":"{0}:2377","Spec":{{}}}}"#, net.host(1));
        let answer = manager.api("POST", "/swarm/init", Some(&body));
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json(), node_id(&manager));
        Self::of(Cluster::of(manager, net), addr)
    }

    fn of(cluster: Cluster, addr: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root.pem"), &cluster.root).unwrap();
        Self { cluster, addr, folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    /// Writes down a certificate alone.
    fn certificate(&self, name: &str, chain: &str) -> String {
        let end = "-----END CERTIFICATE-----\n";
        let leaf = chain.split_inclusive(end).next().unwrap();
        std::fs::write(self.file(name), leaf).unwrap();
        self.path(name)
    }

    fn revoke(&self, args: &[&str]) -> Value {
        let line = [&["--json", "revoke"], args].concat();
        serde_json::from_str(&self.cluster.manager.swarmpki(&line).ok()).unwrap()
    }

    /// Fetches the list over HTTP as a stranger does.
    fn fetch_crl(&self, query: &str) -> String {
        let (head, body) = get(self.addr, &format!("/crl{query}"));
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/pkix-crl"), "{head}");
        let (der, pem) = (self.path("list.der"), self.path("list.pem"));
        std::fs::write(&der, body).unwrap();
        openssl(&["crl", "-inform", "DER", "-in", &der, "-out", &pem]).ok();
        pem
    }

    fn crl_text(&self, query: &str) -> String {
        let pem = self.fetch_crl(query);
        openssl(&["crl", "-in", &pem, "-noout", "-text"]).ok()
    }

    /// What OpenSSL makes of a certificate by the list of now.
    fn verify_by_list(&self, certificate: &str) -> (i32, String) {
        let (pem, root) = (self.fetch_crl(""), self.path("root.pem"));
        let said = openssl(&["verify", "-crl_check", "-CAfile", &root, "-CRLfile", &pem, certificate]);
        (said.code, format!("{}{}", said.stdout, said.stderr))
    }

    /// What OpenSSL is answered about a certificate; it verifies the answer.
    fn ask(&self, which: &[&str]) -> String {
        self.ask_of(&self.path("root.pem"), which)
    }

    /// The same of an issuer.
    fn ask_of(&self, issuer: &str, which: &[&str]) -> String {
        let (root, url) = (self.path("root.pem"), format!("http://{}/ocsp", self.addr));
        let line = [&["ocsp", "-issuer", issuer, "-CAfile", &root, "-url", &url], which].concat();
        let said = openssl(&line);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stderr.contains("Response verify OK"), "{said:?}");
        said.stdout
    }
}

fn listen(addr: SocketAddr) -> Vec<OsString> {
    vec!["--revocation-listen".into(), addr.to_string().into()]
}

/// The identifier of the key that signed a certificate, hex.
fn signer_of(certificate: &str) -> String {
    let text = openssl(&["x509", "-in", certificate, "-noout", "-ext", "authorityKeyIdentifier"]).ok();
    let id = text.lines().last().unwrap().trim().trim_start_matches("keyid:").replace(':', "");
    assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    id
}

/// One request over HTTP; head and body.
fn get(addr: SocketAddr, path: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(addr).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n").expect("an HTTP answer");
    (
        String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase().replace("http/1.1", "HTTP/1.1"),
        bytes[end + 4..].to_vec(),
    )
}

/// A node of ours in this process.
struct Peer {
    id: String,
    identity: Live,
    folder: tempfile::TempDir,
    life: JoinHandle<()>,
}

fn clock() -> Arc<dyn Fn() -> Time + Send + Sync> {
    Arc::new(|| Time::from(SystemTime::now()))
}

impl Peer {
    async fn join(cluster: &Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let request = JoinRequest::new(cluster.token("Worker").parse().unwrap(), [cluster.address().to_string()]);
        let node = Node::join(Config::new(folder.path()), request).await.unwrap();
        Self::run(node, folder)
    }

    fn run(node: Node, folder: tempfile::TempDir) -> Self {
        let identity = node.identity();
        let id = identity.current().unwrap().subject().node.to_string();
        let life = tokio::spawn(async move {
            let _ended = node.run(std::future::pending::<()>()).await;
        });
        Self { id, identity, folder, life }
    }

    fn files(&self) -> Certificates {
        Certificates::in_folder(&self.folder.path().join("certificates"))
    }

    /// Waits until it knows of so many.
    async fn knows(&self, revoked: usize) -> Duration {
        let begun = Instant::now();
        let mut versions = self.identity.revocations();
        let known = async {
            while self.identity.revoked().len() < revoked {
                versions.changed().await.unwrap();
            }
        };
        tokio::time::timeout(WITHIN, known).await.expect("it is told");
        begun.elapsed()
    }
}

/// Whether two nodes of ours talk with each other, each in its role.
async fn talks(client: &Live, server: &Live) -> Result<(), String> {
    let acceptor = TlsAcceptor::from(server.server_config_for(PeerPolicy::default(), clock()).unwrap());
    let connector = TlsConnector::from(client.client_config_for(PeerPolicy::default(), clock()).unwrap());
    let (near, far) = duplex(64 * 1024);
    let serving = async {
        let mut stream = acceptor.accept(near).await.map_err(|error| format!("the server: {error}"))?;
        stream.write_all(b"x").await.map_err(|error| format!("the server: {error}"))
    };
    let calling = async {
        let name = ServerName::try_from("peer").unwrap();
        let mut stream = connector.connect(name, far).await.map_err(|error| format!("the client: {error}"))?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map(drop).map_err(|error| format!("the client: {error}"))
    };
    let (served, called) = tokio::join!(serving, calling);
    served.and(called)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_worker_is_refused_by_managers_by_nodes_and_by_openssl() {
    require_or_skip!("swarmpki", "openssl");
    let served = Served::start();
    let cluster = &served.cluster;
    let (bad, good) = (Peer::join(cluster).await, Peer::join(cluster).await);
    all_ready(&cluster.manager, &[&bad.id, &good.id]);
    talks(&bad.identity, &good.identity).await.unwrap();
    talks(&good.identity, &bad.identity).await.unwrap();
    let pair = Pair::load(&bad.files());
    let stolen = cluster.caller(&pair).await;
    let certificate = served.certificate("bad.pem", &pair.chain);
    let other = served.certificate("good.pem", &Pair::load(&good.files()).chain);
    for one in [&certificate, &other] {
        let (code, said) = served.verify_by_list(one);
        assert_eq!(code, 0, "{said}");
        let said = served.ask(&["-cert", one]);
        assert!(said.contains(": good"), "{said}");
    }
    assert!(served.crl_text("").contains("No Revoked Certificates."));
    let first = number(&served.crl_text(""));

    let asked = Instant::now();
    let report = served.revoke(&["--node", &bad.id, "--reason", "keyCompromise"]);
    assert_eq!(report["node_id"], bad.id.as_str());
    assert!(report["certificates"].as_u64() >= Some(1) && report["kept"].is_null(), "{report}");

    // At managers: on the open connection and on a new one, with a clear word.
    let status = stolen.session("").await.expect_err("a session on the connection of before");
    println!("refused on an open connection after {:?}", asked.elapsed());
    assert!(
        matches!(status.code(), Code::PermissionDenied | Code::Unavailable | Code::Unknown | Code::Cancelled),
        "{status:?}"
    );
    let again = cluster.caller(&pair).await;
    for status in [
        again.session("").await.map(drop).expect_err("a session"),
        again.issue(csr::ordinary().csr.as_bytes(), "").await.map(drop).expect_err("a renewal"),
    ] {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        let text = format!("node {} presented a certificate that was revoked", bad.id);
        assert!(status.message().contains(&text), "{status:?}");
    }

    // At nodes of ours, in either role; the set is on disk, and in force when a node starts again.
    println!("known to the other node after {:?}", asked.elapsed() + good.knows(1).await);
    for refused in [talks(&bad.identity, &good.identity).await, talks(&good.identity, &bad.identity).await] {
        let error = refused.expect_err("a revoked peer");
        assert!(error.to_lowercase().contains("revoked"), "{error}");
    }
    // It is in force before it is on disk.
    let kept = good.folder.path().join("certificates/swarm-revoked.bin");
    let is_there = || if kept.is_file() { Ok(()) } else { Err("not yet".to_owned()) };
    wait::until("the set is on disk", WITHIN, is_there);
    good.life.abort();
    let _ = good.life.await;
    let reopened = Node::open(Config::new(good.folder.path())).unwrap();
    assert_eq!(reopened.identity().revoked().len(), good.identity.revoked().len());

    // To strangers.
    let (code, said) = served.verify_by_list(&certificate);
    assert!(code != 0 && said.contains("certificate revoked"), "{said}");
    assert_eq!(served.verify_by_list(&other).0, 0);
    let said = served.ask(&["-cert", &certificate]);
    assert!(said.contains("bad.pem: revoked") && said.contains("Reason: keyCompromise"), "{said}");
    assert!(served.ask(&["-cert", &other]).contains("good.pem: good"));
    assert!(served.ask(&["-serial", "0x1234"]).contains("unknown"));
    let said = served.ask(&["-sha256", "-no_nonce", "-cert", &certificate, "-cert", &other]);
    assert!(said.contains("bad.pem: revoked") && said.contains("good.pem: good"), "{said}");
    by_get(&served, &certificate);
    deltas(&served, &first, &certificate);
    let shown: Value = serde_json::from_str(&cluster.manager.swarmpki(&["--json", "crl"]).ok()).unwrap();
    assert!(shown["revocations"].as_array().unwrap().iter().all(|row| row["node_id"] == bad.id.as_str()), "{shown}");
    let listed = cluster.manager.swarmpki(&["crl"]).ok();
    assert!(listed.contains("keyCompromise") && listed.contains(&bad.id), "{listed}");
    assert_ne!(state(&cluster.manager, &bad.id), "ready");
    bad.life.abort();
}

/// The number of a list, as OpenSSL prints it.
fn number(text: &str) -> String {
    let mut lines = text.lines().skip_while(|line| !line.contains("CRL Number"));
    lines.next();
    lines.next().expect("a number").trim().to_owned()
}

/// RFC 6960, A.1: the request in the path.
fn by_get(served: &Served, certificate: &str) {
    let (root, file, response) = (served.path("root.pem"), served.path("request.der"), served.path("response.der"));
    openssl(&["ocsp", "-no_nonce", "-issuer", &root, "-cert", certificate, "-reqout", &file]).ok();
    let request = STANDARD.encode(std::fs::read(&file).unwrap());
    let escaped = request.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    for path in [escaped.as_str(), &request] {
        let (head, body) = get(served.addr, &format!("/ocsp/{path}"));
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/ocsp-response"), "{head}");
        std::fs::write(&response, body).unwrap();
        let said = openssl(&["ocsp", "-issuer", &root, "-CAfile", &root, "-cert", certificate, "-respin", &response]);
        assert!(said.stdout.contains(": revoked") && said.stderr.contains("Response verify OK"), "{said:?}");
    }
    for (path, status) in [("/", "404"), ("/ocsp", "405"), ("/swarm", "404"), ("/crl?since=x", "400")] {
        let (head, _) = get(served.addr, path);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {head}");
    }
    let (_, body) = get(served.addr, "/ocsp/AAAA");
    assert_eq!(body, [0x30, 3, 10, 1, 1], "malformed, as the protocol says it");
}

/// RFC 5280, 5.2.4: what came after another list.
fn deltas(served: &Served, first: &str, certificate: &str) {
    let whole = served.crl_text("");
    let serial = serial(Path::new(certificate));
    let all = served.crl_text(&format!("?since={first}"));
    assert!(!all.contains("Delta CRL") && all.contains(&serial), "nothing was on that list: the whole one: {all}");
    // Of the first revocation, in any second: the base has none, and is not after it.
    let base = ((first.parse::<u128>().unwrap() >> 40) + 1) << 40;
    let delta = served.crl_text(&format!("?since={}", base + 7));
    assert!(delta.contains("Delta CRL Indicator: critical"), "{delta}");
    assert!(delta.contains(&base.to_string()), "the list that it completes: {delta}");
    assert!(whole.contains(&serial));
    let nothing = served.crl_text(&format!("?since={}", number(&whole)));
    assert!(
        nothing.contains("Delta CRL Indicator: critical") && nothing.contains("No Revoked Certificates"),
        "{nothing}"
    );
    let other = served.crl_text("?since=99999999999999999999999999999999999999");
    assert!(!other.contains("Delta CRL") && other.contains(&serial), "a number of no list of ours: the whole one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_renews_first_stays_and_a_manager_is_not_locked_out() {
    require_or_skip!("swarmpki", "openssl");
    let served = Served::start();
    let cluster = &served.cluster;
    let node = Peer::join(cluster).await;
    all_ready(&cluster.manager, &[&node.id]);
    let before = served.certificate("before.pem", &Pair::load(&node.files()).chain);
    let report = served.revoke(&["--node", &node.id, "--rekey", "--reason", "superseded"]);
    let after = served.certificate("after.pem", &Pair::load(&node.files()).chain);
    assert_eq!(report["kept"].as_str().unwrap().to_uppercase(), serial(Path::new(&after)));
    assert!(served.ask(&["-cert", &before]).contains("Reason: superseded"));
    assert!(served.ask(&["-cert", &after]).contains("after.pem: good"));
    node.knows(1).await;
    all_ready(&cluster.manager, &[&node.id]);

    let manager = node_id(&cluster.manager);
    let refused = cluster.manager.swarmpki(&["revoke", "--node", &manager]).refused();
    assert!(refused.contains("is a manager and would be locked out"), "{refused}");
    let own = serial(&cluster.manager.certificates().chain());
    let refused = cluster.manager.swarmpki(&["revoke", "--serial", &own]).refused();
    assert!(refused.contains("locked out"), "{refused}");

    // One that was never issued, and a second time.
    for _ in 0..2 {
        let refused = cluster.manager.swarmpki(&["revoke", "--serial", "12:34:AB"]).refused();
        assert!(refused.contains("1234ab was ever issued here") && refused.contains("--unissued"), "{refused}");
    }
    let report = served.revoke(&["--serial", "12:34:AB", "--unissued"]);
    assert_eq!((&report["issued"], &report["certificates"]), (&Value::from(false), &Value::from(1)));
    assert_eq!(served.revoke(&["--serial", "1234ab"])["certificates"], 0);
    assert!(served.ask(&["-serial", "0x1234AB"]).contains("revoked"));
    node.life.abort();
}

/// Also what nobody but the issuance log remembers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_certificate_of_a_removed_node_is_on_the_list() {
    require_or_skip!("swarmpki", "openssl");
    let served = Served::start();
    let cluster = &served.cluster;
    let mut played = cluster.worker().await;
    let mut all = vec![played.pair.clone()];
    for _ in 0..6 {
        // Asking for the next one uses it.
        let pair = played.renewed().await;
        played.caller = cluster.caller(&pair).await;
        all.push(pair);
    }
    cluster.remove(&played.id);
    let serials: Vec<String> = all
        .iter()
        .enumerate()
        .map(|(at, pair)| serial(Path::new(&served.certificate(&format!("{at}.pem"), &pair.chain))))
        .collect();
    let (text, _) = wait::until("all are on the list", WITHIN, || {
        let text = served.crl_text("");
        let missing: Vec<_> = serials.iter().filter(|serial| !text.contains(*serial)).collect();
        if missing.is_empty() { Ok(text) } else { Err(format!("missing: {missing:?}")) }
    });
    assert!(text.contains("Cessation Of Operation"), "{text}");
    let status = cluster.caller(&all[0]).await.session("").await.map(drop).expect_err("a session");
    assert!(status.message().contains("was removed from swarm"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_root_is_rotated_each_of_the_two_has_a_list() {
    require_or_skip!("swarmpki", "openssl");
    let served = Served::start();
    let cluster = &served.cluster;
    // It uses its leaf and never renews: the rotation waits for it.
    let _holds = Puppet::join(cluster).await;
    let old = served.certificate("old.pem", &Puppet::only_issued(cluster).await.pair.chain);
    cluster.update("", |spec| spec["CAConfig"]["ForceRotate"] = 1.into());
    let chain = Puppet::only_issued(cluster).await.pair.chain;
    assert!(in_progress(&cluster.manager));
    let new = served.certificate("new.pem", &chain);
    // The new root, as the old one certifies it.
    let above = served.certificate("above.pem", chain.split_once("-----END CERTIFICATE-----\n").unwrap().1);
    let (of_old, of_new) = (signer_of(&old), signer_of(&new));
    assert_ne!(of_old, of_new);

    for leaf in [&old, &new] {
        assert_eq!(served.revoke(&["--serial", &serial(Path::new(leaf))])["issued"], true);
    }
    let lists = [format!("?issuer={of_old}"), format!("?issuer={of_new}")].map(|query| served.crl_text(&query));
    for (at, (list, signer)) in lists.iter().zip([&of_old, &of_new]).enumerate() {
        let on_it = [&old, &new].map(|leaf| list.contains(&serial(Path::new(leaf))));
        assert_eq!(on_it, [at == 0, at == 1], "each stands on the list of whoever signed it: {list}");
        assert!(list.replace(':', "").contains(signer.as_str()), "{list}");
    }
    assert!(served.crl_text("").contains(&serial(Path::new(&new))), "who names none gets that of whoever signs now");
    let root = served.path("root.pem");
    for (query, anchor, leaf) in [(&of_old, &root, &old), (&of_new, &above, &new)] {
        let list = served.fetch_crl(&format!("?issuer={query}"));
        let line = ["verify", "-partial_chain", "-crl_check", "-CAfile", anchor, "-CRLfile", &list, leaf];
        let said = openssl(&line);
        assert!(said.code != 0 && said.stderr.contains("certificate revoked"), "{said:?}");
        assert!(served.ask_of(anchor, &["-cert", leaf]).contains(": revoked"));
    }
    let (head, _) = get(served.addr, "/crl?issuer=00ff");
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_answers_signed_by_a_token() {
    require_or_skip!("swarmpki", "openssl", "softhsm2-util");
    let (hsm, net) = (SoftHsm::new(), Loopback::claim());
    let addr = net.free_port(1);
    let manager = hsm.daemon_with("manager1", listen(addr));
    let (host, at) = (net.host(1).to_string(), net.swarm(1));
    let token = "pkcs11:token=swarm;object=root";
    manager.swarmpki(&["init", "--advertise-addr", &host, "--listen-addr", &at, "--pkcs11", token]).ok();
    let served = Served::of(Cluster::of(manager, net), addr);
    let [bad, good] = [served.cluster.worker().await, served.cluster.worker().await];
    let [bad, good] =
        [("bad.pem", &bad), ("good.pem", &good)].map(|(name, of)| served.certificate(name, &of.pair.chain));
    served.revoke(&["--serial", &serial(Path::new(&bad))]);
    let (code, said) = served.verify_by_list(&bad);
    assert!(code != 0 && said.contains("certificate revoked"), "{said}");
    assert_eq!(served.verify_by_list(&good).0, 0);
    assert!(served.ask(&["-cert", &bad]).contains(": revoked"));
    assert!(served.ask(&["-no_nonce", "-cert", &good]).contains(": good"));

    // Away: what was signed is served, and nothing else is.
    hsm.take_away();
    assert!(served.crl_text("").contains(&serial(Path::new(&bad))));
    served.revoke(&["--serial", &serial(Path::new(&good))]);
    // Of now none can be signed: the last one holds for a day, and says when it was signed.
    wait::until_true("it is said that the last list is served", WITHIN, || {
        let (head, _) = get(served.addr, "/crl");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        served.cluster.manager.log().contains("the last list of revoked certificates is served")
    });
    let (head, _) = get(served.addr, "/crl");
    assert!(head.to_lowercase().contains("last-modified: "), "{head}");
    let last = served.crl_text("");
    assert!(last.contains(&serial(Path::new(&bad))) && !last.contains(&serial(Path::new(&good))), "{last}");
    assert_eq!(served.verify_by_list(&good).0, 0, "OpenSSL takes it");
    hsm.give_back();
    wait::until_true("it is signed when the token is back", 2 * WITHIN, || {
        served.crl_text("").contains(&serial(Path::new(&good)))
    });
    assert!(served.ask(&["-cert", &good]).contains(": revoked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_an_external_ca_only_that_can_publish_and_it_is_said() {
    require_or_skip!("swarmpki", "docker", "openssl", "cfssl");
    let net = Loopback::claim();
    let (addr, root) = (net.free_port(1), GivenRoot::p256("external-root"));
    let cfssl = Cfssl::open(net.free_port(200), &root);
    let manager = Daemon::start_with("manager1", listen(addr), Vec::new());
    let external = format!("protocol=cfssl,url={},cacert={}", cfssl.url(), root.path());
    let (host, at) = (net.host(1).to_string(), net.swarm(1));
    manager
        .docker(&["swarm", "init", "--advertise-addr", &host, "--listen-addr", &at, "--external-ca", &external])
        .ok();
    let served = Served::of(Cluster::of(manager, net), addr);
    let cluster = &served.cluster;
    let worker = cluster.worker().await;
    let certificate = served.certificate("worker.pem", &worker.pair.chain);

    // Managers refuse it all the same.
    served.revoke(&["--serial", &serial(Path::new(&certificate))]);
    let status = cluster.caller(&worker.pair).await.session("").await.map(drop).expect_err("a session");
    assert!(matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated), "{status:?}");
    let listed = cluster.manager.api("GET", "/swarmpki/v1/revocations", None).json();
    assert_eq!(listed["revocations"].as_array().unwrap().len(), 1, "{listed}");

    const WHY: &str = "only that CA can sign the list of revoked certificates, and has to publish it";
    for path in ["/crl", "/crl?since=1"] {
        let (head, body) = get(served.addr, path);
        assert!(!head.starts_with("HTTP/1.1 2") && String::from_utf8_lossy(&body).contains(WHY), "{path}: {head}");
    }
    let said = cluster.manager.swarmpki(&["crl", "--out", &served.path("none.der")]).refused();
    assert!(said.contains(WHY), "{said}");
    let (file, root) = (served.path("request.der"), served.path("root.pem"));
    openssl(&["ocsp", "-issuer", &root, "-cert", &certificate, "-reqout", &file]).ok();
    let request = STANDARD.encode(std::fs::read(&file).unwrap()).replace('+', "%2B").replace('/', "%2F");
    let (_, body) = get(served.addr, &format!("/ocsp/{request}"));
    assert_eq!(body, [0x30, 3, 10, 1, 6], "unauthorized: this is not the place to ask");
}

/// However many questions there are, few answers are signed, and the list and what was signed before are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_questions_is_not_signed_and_lists_are_served() {
    require_or_skip!("swarmpki", "openssl");
    let served = Served::start();
    let worker = served.cluster.worker().await;
    let certificate = served.certificate("worker.pem", &worker.pair.chain);
    assert!(served.ask(&["-no_nonce", "-cert", &certificate]).contains(": good"));
    // Serials that nobody issued: no two questions are the same.
    let (root, file) = (served.path("root.pem"), served.path("request.der"));
    openssl(&["ocsp", "-no_nonce", "-issuer", &root, "-serial", "0x11111111111111111111", "-reqout", &file]).ok();
    let request = std::fs::read(&file).unwrap();
    let place = request.windows(10).position(|part| part == [0x11; 10]).unwrap();
    let later = [0x30, 3, 10, 1, 3];
    let mut stream = TcpStream::connect(served.addr).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    let refused = (0..u32::MAX).find(|n| {
        let mut other = request.clone();
        other[place + 6..place + 10].copy_from_slice(&n.to_be_bytes());
        other[place..place + 6].copy_from_slice(&[0x22; 6]);
        let head = format!("POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", other.len());
        stream.write_all(&[head.as_bytes(), &other].concat()).unwrap();
        next_answer(&mut stream) == later
    });
    assert!(refused.is_some_and(|many| many >= 200), "a burst is signed: {refused:?}");
    // Who is known is answered meanwhile, with what is kept if he brings a nonce; and so is whoever fetches the list.
    assert!(served.ask(&["-no_nonce", "-cert", &certificate]).contains(": good"));
    assert!(served.ask(&["-cert", &certificate]).contains(": good"));
    served.revoke(&["--serial", &serial(Path::new(&certificate))]);
    assert!(served.crl_text("").contains(&serial(Path::new(&certificate))));
    assert!(served.ask(&["-no_nonce", "-cert", &certificate]).contains(": revoked"));
}

/// The body of the next answer on a connection that stays.
fn next_answer(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    body
}

/// Where a node says that it was told up to is the word of whoever told it: what no manager can have said, or one said that was revoked since,
/// hides nothing from it.
#[tokio::test]
async fn a_bookmark_that_is_not_ours_hides_nothing() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let (victim, asker) = (cluster.worker().await, cluster.worker().await);
    let _session = asker.caller.session("").await.expect("a session");
    cluster.manager.swarmpki(&["revoke", "--node", &victim.id]).ok();
    let parse = |pem: &str| pki::certificate::Certificate::parse_pem_bundle(pem.as_bytes()).unwrap().remove(0);
    let (root, leaf) = (parse(&cluster.root), parse(&victim.pair.chain));
    let issuer = root.issuer_id().digest();
    let asked = |epoch, version, from: &[Vec<u8>]| wire::node::NewsRequest {
        revocations_epoch: epoch,
        revocations_version: version,
        revocations_from: from.to_vec(),
        ..Default::default()
    };
    let revoked = [&issuer[..], leaf.serial().as_bytes()].concat();
    for (what, asked) in [
        ("nothing", asked(0, 0, &[])),
        ("more than there is", asked(0, u64::MAX, &[])),
        ("a later epoch", asked(u64::MAX, 1, &[])),
        ("all of it, by one that was revoked", asked(0, 1, &[revoked])),
        ("all of it, by nobody", asked(0, 1, &[vec![1; 5]])),
    ] {
        let mut news = asker.caller.node().news(asked).await.unwrap().into_inner();
        let told = loop {
            let news = tokio::time::timeout(WITHIN, news.message()).await.expect(what).unwrap().expect(what);
            if let Some(told) = news.revocations {
                break <wire::node::Revocations as prost::Message>::decode(&*told.content).unwrap();
            }
        };
        assert_eq!((told.since, told.issuers), (0, vec![issuer.to_vec()]), "{what}");
        assert!(told.rows.iter().any(|row| row.serial == leaf.serial().as_bytes()), "{what}");
    }
}

/// How long a revocation takes to everybody: prints the figures. `NODES` says how many there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure: run it alone, with --nocapture"]
async fn a_figure_of_a_thousand_connected_nodes() {
    require_or_skip!("swarmpki");
    let count = std::env::var("NODES").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let cluster = Cluster::start();
    let mut open = Vec::new();
    let mut listening = tokio::task::JoinSet::new();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..count {
        let played = cluster.worker().await;
        let session = played.caller.session("").await.expect("a session");
        let mut news = played.caller.node().news(wire::node::NewsRequest::default()).await.unwrap().into_inner();
        let tell = tell.clone();
        listening.spawn(async move {
            // How the log stands is told too.
            let revoked = loop {
                match news.message().await {
                    Ok(Some(news)) if news.revocations.is_none() => {}
                    other => break other.is_ok_and(|news| news.is_some()),
                }
            };
            let _ = tell.send((Instant::now(), revoked));
            // Stays, as a node does.
            let _ = news.message().await;
        });
        open.push((played, session));
    }
    let (victim, (_, mut session)) = open.pop().unwrap();
    let ending = tokio::spawn(async move {
        while let Ok(Some(_)) = session.message().await {}
        Instant::now()
    });
    let asked = Instant::now();
    cluster.manager.swarmpki(&["revoke", "--node", &victim.id]).ok();
    let answered = asked.elapsed();
    let cut = ending.await.unwrap().duration_since(asked);
    let mut last = Duration::ZERO;
    for _ in 0..count {
        let (at, _) = tokio::time::timeout(WITHIN, told.recv()).await.expect("everybody is told").unwrap();
        last = last.max(at.duration_since(asked));
    }
    println!("{count} nodes: answered {answered:?}, session cut {cut:?}, the last node told {last:?}");
}
