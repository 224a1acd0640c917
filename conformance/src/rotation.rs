//! A rotation of the root as it is seen from outside: begun and followed at the Engine API, its leaves judged by OpenSSL.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use testkit::daemon::Daemon;
use testkit::engine::{Certificates, Engine};
use testkit::openssl::{self, openssl};
use testkit::server::Server;
use testkit::wait;

use crate::cluster::Cluster;
use crate::{READY_WITHIN, all_ready, join, nodes, swarm, token};

/// A rotation that nobody blocks may take this long on a busy machine; an engine alone pauses half a second.
pub const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Arguments of `openssl genpkey` for a P-256 key.
pub const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

const END: &str = "-----END CERTIFICATE-----\n";

/// What a rotation replaces in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// The trust root, PEM.
    pub root: String,
    /// The worker's join token.
    pub worker: String,
    /// The manager's.
    pub manager: String,
}

impl Marks {
    /// As they are now.
    ///
    /// # Panics
    /// If there is no swarm.
    pub fn of(manager: &Server) -> Self {
        Self::in_swarm(&swarm(manager))
    }

    fn in_swarm(swarm: &Value) -> Self {
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let tokens = &swarm["JoinTokens"];
        Self {
            root: text(&swarm["TLSInfo"]["TrustRoot"]),
            worker: text(&tokens["Worker"]),
            manager: text(&tokens["Manager"]),
        }
    }
}

/// Whether the swarm says that its root is being rotated.
pub fn in_progress(manager: &Server) -> bool {
    swarm(manager)["RootRotationInProgress"] == true
}

/// Waits until no rotation is under way; returns what there is then.
///
/// # Panics
/// If that takes too long; or if at any look part of what a rotation replaces in one step was replaced and part of it not.
pub fn ended(manager: &Server, before: &Marks) -> Marks {
    let (after, _) = wait::until("the rotation ends", ENDS_WITHIN, || {
        let seen = swarm(manager);
        let (now, on) = (Marks::in_swarm(&seen), seen["RootRotationInProgress"] == true);
        let kept = [now.root == before.root, now.worker == before.worker, now.manager == before.manager];
        let as_one = kept == [true; 3] || (kept == [false; 3] && may_hand_over_early(manager));
        assert!(!on || as_one, "all change together, at the end: {kept:?}, in progress: {on}");
        if on { Err(blocked(manager)) } else { Ok(now) }
    });
    after
}

/// Where no cross-certificate helps, joiners get the new root as soon as managers show leaves of it (ours only).
fn may_hand_over_early(manager: &Server) -> bool {
    let answer = manager.api("GET", "/swarmpki/v1/ca/status", None);
    if answer.status != 200 {
        return false;
    }
    let rotation = answer.json()["rotation"].take();
    rotation.is_null() || rotation["by_bundle"] == true
}

/// Waits until no rotation is under way and the root is another one, with other tokens for it.
///
/// # Panics
/// As [`ended`], or if root or tokens are those of before.
pub fn rotated(manager: &Server, before: &Marks) -> Marks {
    let after = ended(manager, before);
    assert_ne!(after.root, before.root);
    for (now, then) in [(&after.worker, &before.worker), (&after.manager, &before.manager)] {
        let (now, then): (Vec<_>, Vec<_>) = (now.split('-').collect(), then.split('-').collect());
        assert!(now[2] != then[2] && now[3] != then[3], "both parts of a token are new");
    }
    after
}

/// Whom the cluster waits for, for a message.
fn blocked(manager: &Server) -> String {
    let wanted = swarm(manager)["TLSInfo"].clone();
    let late = nodes(manager).into_iter().filter(|node| node["Description"]["TLSInfo"] != wanted);
    late.map(|node| format!("{} {}", node["Description"]["Hostname"], node["Status"]["State"]))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Waits until all of these are Ready and report the root and the issuer of the swarm.
///
/// # Panics
/// If that takes too long.
pub fn all_follow(manager: &Server, ids: &[String]) {
    wait::until("all nodes report the swarm's root and issuer", READY_WITHIN, || {
        let (wanted, listed) = (swarm(manager)["TLSInfo"].clone(), nodes(manager));
        let late: Vec<_> = ids
            .iter()
            .filter_map(|id| match listed.iter().find(|node| node["ID"] == *id) {
                None => Some(format!("{id} is not listed")),
                Some(node) if node["Status"]["State"] != "ready" => Some(format!("{id}: {}", node["Status"])),
                Some(node) if node["Description"]["TLSInfo"] != wanted => {
                    Some(format!("{id}: {}", node["Description"]))
                }
                Some(_) => None,
            })
            .collect();
        if late.is_empty() { Ok(()) } else { Err(late.join("\n")) }
    });
}

/// Asserts that a node's files are those of this root: it alone is trusted, and the leaf verifies under it, with all that lies beside it
/// and without.
///
/// # Panics
/// If they are not.
pub fn judge(files: &Certificates, root: &str) {
    assert_eq!(std::fs::read_to_string(files.root()).expect("the trust file"), root);
    openssl::verify(&files.root(), &files.chain());
    openssl::verify(&files.root(), &leaf_alone(&files.chain()));
}

/// A file with the first certificate of `chain` and nothing else, beside it.
///
/// # Panics
/// If there is none.
pub fn leaf_alone(chain: &Path) -> PathBuf {
    let text = std::fs::read_to_string(chain).expect("the certificate file");
    let leaf = chain.with_extension("leaf");
    std::fs::write(&leaf, &text[..text.find(END).expect("a certificate") + END.len()]).expect("a file beside it");
    leaf
}

/// How many certificates a PEM file holds.
///
/// # Panics
/// If it cannot be read.
pub fn count(chain: &Path) -> usize {
    std::fs::read_to_string(chain).expect("a certificate file").matches(END).count()
}

/// A cluster of ours with real engines and nodes of ours in it, all Ready. They end with the value.
pub struct Fleet {
    /// The cluster; its manager is host 1.
    pub cluster: Cluster,
    /// Real engines, workers: hosts 2 and on.
    pub engines: Vec<Engine>,
    /// Daemons of ours, workers: the hosts after them.
    pub ours: Vec<Daemon>,
    /// The ids of `engines`, then of `ours`.
    pub ids: Vec<String>,
}

impl Fleet {
    /// Starts them all.
    ///
    /// # Panics
    /// If that fails; ask `require_or_skip!("swarmpki", "dockerd", "docker", "openssl")` first.
    pub fn start(engines: usize, ours: usize) -> Self {
        Self::around(Cluster::start(), engines, ours)
    }

    /// The same in a cluster that is there already.
    ///
    /// # Panics
    /// If a node does not join.
    pub fn around(cluster: Cluster, engines: usize, ours: usize) -> Self {
        // By this thread: servers end with the thread that started them.
        let engines: Vec<_> = (1..=engines).map(|n| Engine::start(&format!("engine{n}"))).collect();
        let ours: Vec<_> = (1..=ours).map(|n| Daemon::start(&format!("ours{n}"))).collect();
        let (worker, manager) = (token(&cluster.manager, "worker"), cluster.net.swarm(1));
        let servers: Vec<&Server> = engines.iter().map(|one| &**one).chain(ours.iter().map(|one| &**one)).collect();
        let ids: Vec<String> = std::thread::scope(|scope| {
            let (worker, manager) = (&worker, &manager);
            let joins: Vec<_> = servers
                .iter()
                .zip(2..)
                .map(|(server, n)| {
                    let host = cluster.net.host(n);
                    scope.spawn(move || join(server, host, worker, manager))
                })
                .collect();
            joins.into_iter().map(|one| one.join().expect("a join")).collect()
        });
        all_ready(&cluster.manager, &ids.iter().map(String::as_str).collect::<Vec<_>>());
        Self { cluster, engines, ours, ids }
    }

    /// The only manager.
    pub fn manager(&self) -> &Daemon {
        &self.cluster.manager
    }

    /// The id of an engine, counted from 0.
    pub fn engine_id(&self, n: usize) -> &str {
        &self.ids[n]
    }

    /// The id of a node of ours, counted from 0.
    pub fn our_id(&self, n: usize) -> &str {
        &self.ids[self.engines.len() + n]
    }

    /// The files of all nodes, the manager's last.
    pub fn files(&self) -> Vec<Certificates> {
        let engines = self.engines.iter().map(Engine::certificates);
        engines.chain(self.ours.iter().map(Daemon::certificates)).chain([self.cluster.manager.certificates()]).collect()
    }

    /// Waits until the rotation that is under way, or was just asked for, has ended and all have followed it; OpenSSL judges every leaf.
    ///
    /// # Panics
    /// If any of that is not so.
    pub fn rotated(&self, before: &Marks) -> Marks {
        let after = rotated(self.manager(), before);
        self.follows(&after.root);
        after
    }

    /// Waits until all nodes are Ready and have this root.
    ///
    /// # Panics
    /// If they do not, or OpenSSL rejects a leaf.
    pub fn follows(&self, root: &str) {
        all_follow(self.manager(), &self.ids);
        for files in self.files() {
            judge(&files, root);
        }
    }
}

/// A root made by OpenSSL, with its key.
pub struct GivenRoot {
    folder: tempfile::TempDir,
}

impl GivenRoot {
    /// `key`: arguments of `openssl genpkey`; `constraints`: further basic constraints, `,pathlen:0` say.
    ///
    /// # Panics
    /// If OpenSSL cannot.
    pub fn make(name: &str, key: &[&str], days: u32, constraints: &str) -> Self {
        let given = Self { folder: tempfile::tempdir().expect("a folder") };
        openssl(&[&["genpkey", "-out", &given.key_path()], key].concat()).ok();
        given.certify(name, days, constraints);
        given
    }

    /// A P-256 root for ten years.
    ///
    /// # Panics
    /// If OpenSSL cannot.
    pub fn p256(name: &str) -> Self {
        Self::make(name, P256, 3650, "")
    }

    /// Another certificate for the same key.
    ///
    /// # Panics
    /// If OpenSSL cannot.
    pub fn again(&self, name: &str) -> Self {
        let given = Self { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(given.key_path(), self.key()).expect("a file");
        given.certify(name, 3650, "");
        given
    }

    fn certify(&self, name: &str, days: u32, constraints: &str) {
        let config = self.file("openssl.cnf");
        let text = format!(
            "[req]\ndistinguished_name=name\nprompt=no\n[name]\nCN={name}\n[ca]\nbasicConstraints=critical,CA:TRUE{constraints}\n\
             keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
        );
        std::fs::write(&config, text).expect("a file");
        let (key, path, days) = (self.key_path(), self.path(), days.to_string());
        let fixed = ["req", "-x509", "-new", "-utf8", "-extensions", "ca", "-config", &config];
        openssl(&[&fixed[..], &["-key", &key, "-out", &path, "-days", &days]].concat()).ok();
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// The file of the certificate.
    ///
    /// # Panics
    /// Never: the folder's name is UTF-8.
    pub fn path(&self) -> String {
        self.file("root.pem")
    }

    /// The file of the key.
    ///
    /// # Panics
    /// Never: the folder's name is UTF-8.
    pub fn key_path(&self) -> String {
        self.file("root.key")
    }

    /// The certificate, PEM.
    ///
    /// # Panics
    /// Never: it was made.
    pub fn certificate(&self) -> String {
        std::fs::read_to_string(self.path()).expect("the root")
    }

    /// The key, PEM.
    ///
    /// # Panics
    /// Never: it was made.
    pub fn key(&self) -> String {
        std::fs::read_to_string(self.key_path()).expect("its key")
    }
}

/// Reads the manager's events of nodes as they come, so that no state in between is missed.
pub struct Witness {
    stream: UnixStream,
    reader: JoinHandle<Vec<Value>>,
}

impl Witness {
    /// Begins: what happens after the return is seen.
    ///
    /// # Panics
    /// If the manager does not answer.
    pub fn begin(manager: &Server) -> Self {
        let mut stream = UnixStream::connect(manager.socket()).expect("the manager's API");
        stream.write_all(b"GET /events HTTP/1.0\r\nHost: api\r\n\r\n").expect("a request");
        let mut lines = BufReader::new(stream.try_clone().expect("a second handle"));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(lines.read_line(&mut head).expect("the answer's head"), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
        let read =
            move || lines.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()).collect();
        Self { stream, reader: std::thread::spawn(read) }
    }

    /// Ends, and answers every event since the beginning.
    ///
    /// # Panics
    /// If its thread did.
    pub fn end(self) -> Vec<Value> {
        // The other end may have closed it.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.reader.join().expect("the reader")
    }

    /// Ends, and asserts that no node was seen Down.
    ///
    /// # Panics
    /// If one was.
    pub fn nobody_was_down(self) {
        let events = self.end();
        let down: Vec<_> = events.iter().filter(|event| event["Actor"]["Attributes"]["state.new"] == "down").collect();
        assert!(down.is_empty(), "{down:?}");
        assert!(!events.is_empty(), "a rotation shows in the events");
    }
}

/// What our manager says of its roots: `GET /swarmpki/v1/ca/status`.
///
/// # Panics
/// If it does not.
pub fn ca_status(manager: &Server) -> Value {
    let answer = manager.api("GET", "/swarmpki/v1/ca/status", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Begins a rotation that ends without those who are away after so long.
///
/// # Panics
/// If it is refused.
pub fn rotate_with_deadline(manager: &Server, after: Duration) {
    let body = format!(r#"{{"policy":{{"kind":"deadline","after_ms":{}}}}}"#, after.as_millis());
    let answer = manager.api("POST", "/swarmpki/v1/ca/rotate", Some(&body));
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Turns the rotation under way back.
///
/// # Panics
/// If it is refused.
pub fn abort(manager: &Server) {
    let answer = manager.api("POST", "/swarmpki/v1/ca/abort", Some("{}"));
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Waits until the rotation under way is in this phase (`widen`, `renew`, `trust`) and waits for exactly these nodes.
///
/// # Panics
/// If that takes too long.
pub fn waits_for(manager: &Server, phase: &str, ids: &[&str]) -> Value {
    let mut wanted = ids.to_vec();
    wanted.sort_unstable();
    let (rotation, _) = wait::until(&format!("in phase {phase} only {ids:?} are missing"), ENDS_WITHIN, || {
        let rotation = ca_status(manager)["rotation"].take();
        let mut blocking: Vec<_> =
            rotation["blocking"].as_array().into_iter().flatten().filter_map(|node| node["node"].as_str()).collect();
        blocking.sort_unstable();
        if rotation["phase"] == phase && blocking == wanted { Ok(rotation.clone()) } else { Err(rotation.to_string()) }
    });
    rotation
}
