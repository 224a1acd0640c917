//! Certificates of operators, as the stock `docker` command, OpenSSL and port 2377 take them or refuse them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use swarmpki_conformance::caller::{Caller, Pair};
use swarmpki_conformance::group::Group;
use swarmpki_conformance::{init, join, swarm, token};
use testkit::authority::Authority;
use testkit::clock::Clock;
use testkit::daemon::Daemon;
use testkit::docker::{self, Output};
use testkit::loopback::Loopback;
use testkit::openssl::openssl;
use testkit::{peer, require_or_skip, wait};

const SOON: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const SERVED: &str = "the API has a certificate for operators";

/// A daemon whose API operators reach by TCP.
struct Api {
    daemon: Daemon,
    at: SocketAddr,
}

impl Api {
    fn start(name: &str, net: &Loopback, host: u8) -> Self {
        Self::start_with(name, net, host, Vec::new())
    }

    fn start_with(name: &str, net: &Loopback, host: u8, env: Vec<(OsString, OsString)>) -> Self {
        let at = net.free_port(host);
        let more: Vec<OsString> = vec!["-H".into(), format!("tcp://{at}").into(), "--tls=operators".into()];
        Self { daemon: Daemon::start_with(name, more, env), at }
    }

    /// The first manager of a swarm, ready for operators.
    fn first(net: &Loopback) -> Self {
        let api = Self::start("manager1", net, 1);
        init(&api.daemon, net.host(1));
        api.daemon.logged(0, SERVED, SOON);
        api
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.daemon.folder().join(name)
    }

    /// Has a certificate issued; its folder.
    fn issue(&self, name: &str, more: &[&str]) -> PathBuf {
        let folder = self.folder(name);
        let out = folder.display().to_string();
        self.daemon.swarmpki(&[&["cert", "issue", name, "--out", &out], more].concat()).ok();
        folder
    }

    /// The stock client, over TCP, with the certificate in a folder.
    fn docker(&self, folder: &Path, args: &[&str]) -> Output {
        docker::run(self.docker_command(folder).args(args))
    }

    fn docker_command(&self, folder: &Path) -> Command {
        let mut command = Command::new(peer::find("docker").unwrap());
        for name in ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_API_VERSION"] {
            command.env_remove(name);
        }
        command
            .env("DOCKER_CONFIG", self.folder("docker-config"))
            .env("DOCKER_HOST", format!("tcp://{}", self.at))
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", folder);
        command
    }

    /// A connection that stays, with the certificate in a folder, or why there is none.
    fn connect(&self, folder: &Path) -> Result<Kept, String> {
        Kept::open(self.at, folder)
    }
}

/// A connection on which one request follows another.
struct Kept(StreamOwned<ClientConnection, TcpStream>);

impl Kept {
    fn begin(at: SocketAddr, folder: &Path) -> Self {
        let mut anchors = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(folder.join("ca.pem")).unwrap() {
            anchors.add(certificate.unwrap()).unwrap();
        }
        let chain = CertificateDer::pem_file_iter(folder.join("cert.pem")).unwrap().collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(anchors)
            .with_client_auth_cert(chain, key)
            .unwrap();
        let name = ServerName::from(at.ip());
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Self(StreamOwned::new(connection, stream))
    }

    /// That a certificate is refused shows only with the first answer.
    fn open(at: SocketAddr, folder: &Path) -> Result<Self, String> {
        let mut kept = Self::begin(at, folder);
        kept.get("/_ping").map(|_| kept)
    }

    /// Asks for events, which come for ever.
    fn listen(mut self) -> Self {
        self.0.write_all(b"GET /events HTTP/1.1\r\nHost: api\r\n\r\n").unwrap();
        let mut head = [0; 12];
        self.0.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        self
    }

    /// How a certificate is refused. TLS 1.3 tells it after the client's own end of the handshake, so the client says nothing meanwhile:
    /// what it sent unread would take the alert's place on the way.
    fn refusal(at: SocketAddr, folder: &Path) -> String {
        let mut kept = Self::begin(at, folder);
        kept.0.read(&mut [0]).err().map(|error| error.to_string()).unwrap_or_default()
    }

    /// Status and body of an answer; the reason why there is none.
    fn get(&mut self, path: &str) -> Result<(u16, String), String> {
        let text = |error: std::io::Error| error.to_string();
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: api\r\n\r\n").as_bytes()).map_err(text)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if self.0.read(&mut byte).map_err(text)? == 0 {
                return Err("closed".to_owned());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.trim().parse().unwrap()];
        self.0.read_exact(&mut body).map_err(text)?;
        Ok((status, String::from_utf8(body).unwrap()))
    }
}

/// Another folder with a certificate that did not come from `cert issue`, and the right CA.
fn with_pair(api: &Api, name: &str, ca: &Path, pair: &Pair) -> PathBuf {
    let folder = api.folder(name);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(ca.join("ca.pem"), folder.join("ca.pem")).unwrap();
    fs::write(folder.join("cert.pem"), &pair.chain).unwrap();
    fs::write(folder.join("key.pem"), &pair.key).unwrap();
    folder
}

fn pair_in(folder: &Path) -> Pair {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    Pair { chain: read("cert.pem"), key: read("key.pem") }
}

fn serial_in(folder: &Path) -> String {
    testkit::openssl::serial(&folder.join("cert.pem"))
}

#[test]
fn done_when_1_an_operators_certificate_opens_the_api_until_it_is_revoked() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let api = Api::first(&net);
    let (alice, bob) = (api.issue("alice", &[]), api.issue("bob@example.org", &["--role", "viewer", "--ttl", "1h"]));
    assert_eq!(fs::metadata(alice.join("key.pem")).unwrap().permissions().mode() & 0o777, 0o600);

    let listed = api.docker(&alice, &["node", "ls", "--format", "{{.Hostname}} {{.ManagerStatus}}"]).ok();
    assert!(listed.ends_with("Leader"), "{listed}");
    let secret = token(&api.daemon, "worker");
    assert_eq!(api.docker(&alice, &["swarm", "join-token", "-q", "worker"]).ok(), secret);
    api.docker(&bob, &["node", "ls"]).ok();
    let seen = api.docker(&bob, &["swarm", "join-token", "-q", "worker"]);
    assert!(!format!("{seen:?}").contains(&secret), "{seen:?}");
    let denied = api.docker(&bob, &["swarm", "update", "--cert-expiry", "48h"]).refused();
    assert!(
        denied.contains("this needs an administrator's certificate; yours (bob@example.org) is a viewer's"),
        "{denied}"
    );

    // Open when it is revoked: a stream of docker's, and a connection between two requests.
    let mut events =
        api.docker_command(&alice).arg("events").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut kept = api.connect(&alice).unwrap();
    assert_eq!(kept.get("/nodes").unwrap().0, 200);
    assert!(events.try_wait().unwrap().is_none(), "docker events goes on");
    let said = api.daemon.swarmpki(&["cert", "revoke", "alice"]).ok();
    let revoked = Instant::now();
    assert!(said.starts_with("Revoked: alice (admin), serial "), "{said}");
    match kept.get("/nodes") {
        Ok((status, text)) => assert!(status == 403 && text.contains("revoked"), "{status} {text}"),
        Err(closed) => eprintln!("the connection that was kept: {closed}"),
    }
    eprintln!("a request on the connection that was kept is refused {:?} after the revocation", revoked.elapsed());
    wait::until("docker events ends", SOON, || {
        events.try_wait().unwrap().map(drop).ok_or_else(|| "it runs".to_owned())
    });
    eprintln!("docker events has ended {:?} after it", revoked.elapsed());
    wait::until("the connection ends", SOON, || match kept.get("/nodes") {
        Ok(answer) => Err(format!("{answer:?}")),
        Err(_) => Ok(()),
    });
    api.docker(&alice, &["node", "ls"]).refused();
    let refused = Kept::refusal(api.at, &alice);
    assert!(refused.contains("CertificateRevoked"), "{refused}");
    api.docker(&bob, &["node", "ls"]).ok();

    // Who is of another world.
    let theirs = Authority::new("swarmpki operators of x").leaf("x", "swarmpki-admin", "alice");
    let theirs = Pair { chain: theirs.certificate, key: theirs.key };
    let node = Pair::load(&api.daemon.certificates());
    for (name, pair) in [("stranger", &theirs), ("node", &node)] {
        let folder = with_pair(&api, name, &bob, pair);
        api.docker(&folder, &["node", "ls"]).refused();
        let refused = Kept::refusal(api.at, &folder);
        assert!(refused.contains("UnknownCA"), "{name}: {refused}");
    }
    let root = swarm(&api.daemon)["TLSInfo"]["TrustRoot"].as_str().unwrap().to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let manager = SocketAddr::new(net.host(1).into(), 2377);
    let alert = runtime.block_on(Caller::alert(manager, &root, &pair_in(&bob)));
    assert_eq!(format!("{alert:?}"), "Ok(UnknownCA)", "an operator opens no port of nodes");
}

/// Whether the other end has closed it.
fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0; 4096]);
    stream.set_nonblocking(false).unwrap();
    match read {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[test]
fn neither_strangers_nor_viewers_keep_an_administrator_out() {
    /// More than there are places for either.
    const MANY: usize = 300;
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let api = Api::first(&net);
    let (ann, eve) = (api.issue("ann", &[]), api.issue("eve", &["--role", "viewer"]));
    let mut before = api.connect(&ann).unwrap();
    let listens = api.connect(&ann).unwrap().listen();

    let silent: Vec<TcpStream> = (0..MANY).map(|_| TcpStream::connect(api.at).unwrap()).collect();
    assert_eq!(api.connect(&ann).unwrap().get("/swarm").unwrap().0, 200);
    wait::until_true("the oldest of the silent ones gives way", SOON, || is_closed(&silent[0]));

    let viewers: Vec<Kept> = (0..MANY).map(|_| api.connect(&eve).unwrap().listen()).collect();
    wait::until_true("the oldest of the viewer's gives way", SOON, || is_closed(&viewers[0].0.sock));
    assert!(!is_closed(&viewers[MANY - 1].0.sock), "the newest stays");
    assert_eq!(api.connect(&ann).unwrap().get("/swarm").unwrap().0, 200);
    assert_eq!(before.get("/swarm").unwrap().0, 200, "who was there stays");
    assert!(!is_closed(&listens.0.sock), "what he listens to goes on");
    assert!(api.docker(&ann, &["node", "ls"]).ok().contains("Leader"));
}

#[test]
fn an_operator_renews_its_own_certificate_and_no_other() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let api = Api::first(&net);
    let (alice, bob) = (api.issue("alice", &[]), api.issue("bob", &["--role", "viewer"]));
    let host = format!("tcp://{}", api.at);
    let renew = |as_whom: &Path, dir: &Path| {
        let mut command = Command::new(testkit::daemon::program().unwrap());
        command.env("SWARMPKI_CERT_PATH", as_whom).env_remove("SWARMPKI_HOST");
        docker::run(command.args(["-H", &host, "--tls", "cert", "renew", "--dir"]).arg(dir))
    };
    let (before, first) = (pair_in(&bob), serial_in(&bob));
    let said = renew(&bob, &bob).ok();
    assert!(said.starts_with("Renewed for bob (viewer): serial "), "{said}");
    let after = pair_in(&bob);
    assert!(before.chain != after.chain && before.key != after.key, "key and certificate are new");
    api.docker(&bob, &["node", "ls"]).ok();
    assert!(api.docker(&bob, &["swarm", "update", "--cert-expiry", "48h"]).refused().contains("is a viewer's"));
    assert_eq!(fs::read_dir(&bob).unwrap().count(), 3);

    let refused = renew(&bob, &alice).refused();
    assert!(refused.contains("an operator renews its own certificate, and no other"), "{refused}");
    api.docker(&alice, &["node", "ls"]).ok();
    // On the machine itself anybody's.
    let alices = alice.display().to_string();
    api.daemon.swarmpki(&["cert", "renew", "--dir", &alices, "--ttl", "10m"]).ok();

    let listed: Value = serde_json::from_str(&api.daemon.swarmpki(&["cert", "ls", "--json"]).ok()).unwrap();
    let names: Vec<_> = listed["operators"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["alice", "alice", "bob", "bob"], "the old ones last");
    api.daemon.swarmpki(&["cert", "revoke", &first.to_lowercase()]).ok();
    api.docker(&bob, &["node", "ls"]).ok();
    api.daemon.swarmpki(&["cert", "revoke", "bob"]).ok();
    let bobs = bob.display().to_string();
    let refused = api.daemon.swarmpki(&["cert", "renew", "--dir", &bobs]).refused();
    assert!(refused.contains("was revoked or has ended"), "{refused}");
    assert_eq!(pair_in(&bob), after, "what is there stays");
    let unknown = api.daemon.swarmpki(&["cert", "revoke", "nobody"]).refused();
    assert!(unknown.contains("no operator's certificate has the name or serial nobody"), "{unknown}");
    let there = api.daemon.swarmpki(&["cert", "issue", "carol", "--out", &alices]).refused();
    assert!(there.contains("ca.pem exists: it is not written over"), "{there}");
}

#[test]
fn a_request_for_a_key_of_ones_own() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let api = Api::first(&net);
    let folder = api.folder("rsa");
    fs::create_dir_all(&folder).unwrap();
    let file = |name: &str| folder.join(name).display().to_string();
    let (key, csr) = (file("key.pem"), file("request.pem"));
    let subject = "/O=other/OU=swarm-manager/CN=root";
    openssl(&["req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &csr, "-subj", subject]).ok();
    let mine = fs::read(&key).unwrap();
    api.daemon.swarmpki(&["cert", "issue", "dave", "--out", &file(""), "--csr", &csr, "--ttl", "24h"]).ok();
    assert_eq!(fs::read(&key).unwrap(), mine, "the key is not touched");
    api.docker(&folder, &["node", "ls"]).ok();
    openssl(&["verify", "-purpose", "sslclient", "-CAfile", &file("ca.pem"), &file("cert.pem")]).ok();
    let served = openssl(&["verify", "-purpose", "sslserver", "-CAfile", &file("ca.pem"), &file("cert.pem")]);
    assert_ne!(served.code, 0, "it is no server's");
    let shown = openssl(&["x509", "-noout", "-subject", "-ext", "subjectAltName", "-in", &file("cert.pem")]).ok();
    assert!(shown.contains("OU = swarmpki-admin, CN = dave") && shown.contains("swarmpki://operator/dave"), "{shown}");
    let root = openssl(&["x509", "-noout", "-subject", "-in", &file("ca.pem")]).ok();
    let id = swarm(&api.daemon)["ID"].as_str().unwrap().to_owned();
    assert!(root.ends_with(&format!("CN = swarmpki operators of {id}")), "{root}");
    for (ttl, words) in [("30s", "1 minute at least"), ("366d", "365 days at most")] {
        let out = file("none");
        let refused = api.daemon.swarmpki(&["cert", "issue", "eve", "--out", &out, "--ttl", ttl]).refused();
        assert!(refused.contains(words), "{refused}");
        assert!(!Path::new(&out).join("key.pem").exists(), "a failed run leaves no key behind");
    }
}

#[test]
fn each_manager_takes_and_refuses_the_same_operators() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let apis: Vec<Api> = (1..=3).map(|n| Api::start(&format!("manager{n}"), &net, n)).collect();
    let at: Vec<SocketAddr> = apis.iter().map(|api| api.at).collect();
    let group = Group::of(apis.into_iter().zip(1..).map(|(api, n)| (api.daemon, net.host(n))).collect());
    for manager in &group.managers {
        manager.logged(0, SERVED, SOON);
    }
    let folder = group.managers[0].folder().join("alice");
    let out = folder.display().to_string();
    group.managers[1].swarmpki(&["cert", "issue", "alice", "--out", &out]).ok();
    let mut kept: Vec<Kept> =
        at.iter().map(|at| wait::until("she is known", SOON, || Kept::open(*at, &folder)).0).collect();
    kept.iter_mut().for_each(|kept| assert_eq!(kept.get("/nodes").unwrap().0, 200));
    group.managers[2].swarmpki(&["cert", "revoke", "alice"]).ok();
    let revoked = Instant::now();
    for (n, kept) in kept.iter_mut().enumerate() {
        wait::until("she is refused", SOON, || match kept.get("/_ping") {
            Ok((200, _)) => Err("she is not".to_owned()),
            Ok(_) | Err(_) => Ok(()),
        });
        eprintln!("manager {n} refuses {:?} after the revocation", revoked.elapsed());
        wait::until("new handshakes are refused", SOON, || {
            Kept::open(at[n], &folder).err().map(drop).ok_or_else(String::new)
        });
    }
}

#[test]
fn a_worker_admits_nobody_and_a_restored_cluster_the_operators_it_had() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let mut api = Api::first(&net);
    let alice = api.issue("alice", &[]);
    let worker = Api::start("worker1", &net, 2);
    join(&worker.daemon, net.host(2), &token(&api.daemon, "worker"), &net.swarm(1));
    worker.daemon.logged(0, "this node is no manager: operators are known to managers only", SOON);
    let refused = Kept::refusal(worker.at, &alice);
    assert!(refused.contains("AccessDenied"), "{refused}");

    let (words, file) = (api.folder("words"), api.folder("swarm.age"));
    fs::write(&words, "correct horse\n").unwrap();
    let from = format!("file:{}", words.display());
    api.daemon.swarmpki(&["backup", "--passphrase-from", &from, file.to_str().unwrap()]).ok();
    api.daemon.kill();
    let new = Api::start("manager2", &net, 3);
    let (advertise, listen) = (net.host(3).to_string(), net.swarm(3));
    let addresses = ["--advertise-addr", &advertise, "--listen-addr", &listen];
    let restore = ["restore", "--passphrase-from", &from];
    new.daemon.swarmpki(&[&restore[..], &addresses, &[file.to_str().unwrap()]].concat()).ok();
    new.daemon.logged(0, SERVED, SOON);
    new.docker(&alice, &["node", "ls"]).ok();

    // All at once, with the root.
    let ca = fs::read(alice.join("ca.pem")).unwrap();
    new.daemon.swarmpki(&["cert", "revoke", "--all"]).ok();
    new.docker(&alice, &["node", "ls"]).refused();
    let bob = new.issue("bob", &[]);
    assert_ne!(fs::read(bob.join("ca.pem")).unwrap(), ca, "another root");
    wait::until("the API is of the new root", SOON, || {
        let output = new.docker(&bob, &["node", "ls"]);
        if output.code == 0 { Ok(()) } else { Err(output.stderr) }
    });
    new.docker(&alice, &["node", "ls"]).refused();
}

#[test]
fn certificates_end_and_that_of_the_api_is_replaced_before() {
    require_or_skip!("swarmpki", "docker", "faketime");
    let (net, clock) = (Loopback::claim(), Clock::right());
    let api = Api::start_with("manager1", &net, 1, clock.env());
    init(&api.daemon, net.host(1));
    api.daemon.logged(0, SERVED, SOON);
    let alice = api.issue("alice", &["--ttl", "24h"]);
    let mut kept = api.connect(&alice).unwrap();
    assert_eq!(kept.get("/nodes").unwrap().0, 200);

    clock.set(2 * DAY);
    wait::until("a connection ends with its certificate", SOON, || match kept.get("/_ping") {
        Ok((200, _)) => Err("it goes on".to_owned()),
        Ok(_) | Err(_) => Ok(()),
    });
    let refused = Kept::refusal(api.at, &alice);
    assert!(refused.contains("CertificateExpired"), "{refused}");

    // At half of its life, with the next change of anything.
    let from = api.daemon.log_len();
    clock.set(16 * DAY);
    api.issue("bob", &[]);
    api.daemon.logged(from, SERVED, SOON);
}
