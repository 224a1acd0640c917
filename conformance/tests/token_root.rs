//! A cluster whose root's key is in a SoftHSM2 token, with real engines in it (issue 4, done when 3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use serde_json::{Value, json};
use swarmpki_conformance::cluster::{Cluster, fetch};
use swarmpki_conformance::puppet::Puppet;
use swarmpki_conformance::rotation::{Fleet, GivenRoot, Marks, Witness, all_follow, ca_status, judge};
use swarmpki_conformance::softhsm::SoftHsm;
use swarmpki_conformance::{all_ready, csr, join, node_id, nodes, token, try_join};
use testkit::daemon::Daemon;
use testkit::docker::Output;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::{require_or_skip, wait};

const URI: &str = "pkcs11:token=swarm;object=root";
const NEXT: &str = "pkcs11:token=swarm;object=next";
/// A token that is away is looked for again after at most half a minute.
const FOUND_WITHIN: Duration = Duration::from_secs(60);

fn init(manager: &Daemon, net: &Loopback, more: &[&str]) -> Output {
    let (host, listen) = (net.host(1).to_string(), net.swarm(1));
    manager.swarmpki(&[&["init", "--advertise-addr", &host, "--listen-addr", &listen], more].concat())
}

/// A cluster whose root's key is made in the token.
fn in_token(hsm: &SoftHsm) -> Cluster {
    let (net, manager) = (Loopback::claim(), hsm.daemon("manager1"));
    init(&manager, &net, &["--pkcs11", URI]).ok();
    Cluster::of(manager, net)
}

fn signer(manager: &Daemon) -> Value {
    ca_status(manager)["signer"].take()
}

/// Waits until the signer is as `wanted` says.
fn until(manager: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let (signer, _) = wait::until(what, FOUND_WITHIN, || {
        let signer = signer(manager);
        if wanted(&signer) { Ok(signer) } else { Err(signer.to_string()) }
    });
    signer
}

fn is_away(signer: &Value) -> bool {
    signer["trouble"].as_str().is_some_and(|trouble| trouble.contains("the token is away"))
}

fn signs(signer: &Value) -> bool {
    signer["trouble"].is_null() && signer["waiting"] == 0
}

/// Orders a node to renew, and waits until it has.
fn renews(fleet: &Fleet, n: usize) {
    let chain = fleet.files()[n].chain();
    let before = testkit::openssl::serial(&chain);
    fleet.manager().swarmpki(&["node", "renew", &fleet.ids[n]]).ok();
    wait::until_true("it renews", Duration::from_secs(30), || testkit::openssl::serial(&chain) != before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_lost_delays_and_loses_nothing() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl", "softhsm2-util");
    let hsm = SoftHsm::new();
    let mut fleet = Fleet::around(in_token(&hsm), 2, 1);
    let root = Marks::of(fleet.manager()).root;
    assert_eq!((&signer(fleet.manager())["kind"], signs(&signer(fleet.manager()))), (&json!("token"), true));
    fleet.follows(&root);
    renews(&fleet, 0);
    renews(&fleet, 2);
    fleet.follows(&root);
    let worker = fleet.cluster.worker().await;

    // Away: nothing is issued, it is said, and nobody is the worse for it.
    hsm.take_away();
    let (joiner, stranger) = (csr::ordinary(), fleet.cluster.stranger().await);
    let id = stranger.issue(joiner.csr.as_bytes(), &fleet.cluster.token("Worker")).await.unwrap().node_id;
    let renewal = csr::ordinary();
    worker.caller.issue(renewal.csr.as_bytes(), "").await.unwrap();
    let away = until(fleet.manager(), "the token is away", |signer| is_away(signer) && signer["waiting"] == 2);
    assert_eq!(away["kind"], "token");
    let shown = fleet.manager().swarmpki(&["ca", "status"]).ok();
    assert!(shown.contains("the token is away"), "{shown}");
    let late = Engine::start("late");
    let host = fleet.cluster.net.host(20);
    let said = try_join(&late, host, &token(fleet.manager(), "worker"), &fleet.cluster.net.swarm(1)).refused();
    assert!(said.contains("Timeout was reached before node joined"), "{said}");
    assert_eq!(signer(fleet.manager())["waiting"], 3);
    all_ready(fleet.manager(), &fleet.ids.iter().map(String::as_str).collect::<Vec<_>>());
    // The other token: who waits by one that is replaced waits in vain.
    let old = token(fleet.manager(), "manager");
    assert_ne!(fleet.manager().docker(&["swarm", "join-token", "--rotate", "-q", "manager"]).ok(), old);

    // The daemon ends and starts meanwhile: it serves, and still nothing is lost.
    fleet.cluster.manager.kill();
    fleet.cluster.manager.restart();
    fleet.cluster.manager_is_back();
    until(fleet.manager(), "the token is away", |signer| is_away(signer) && signer["waiting"] == 3);
    all_ready(fleet.manager(), &fleet.ids.iter().map(String::as_str).collect::<Vec<_>>());

    // Back: everything is signed without anybody asking again.
    hsm.give_back();
    until(fleet.manager(), "all is signed", signs);
    let pair = fetch(&fleet.cluster.stranger().await, &id, &joiner).await;
    assert!(!pair.chain.is_empty());
    fetch(&fleet.cluster.caller(&worker.pair).await, &worker.id, &renewal).await;
    wait::until_true("the late engine is in the swarm", FOUND_WITHIN, || {
        swarmpki_conformance::info(&late)["LocalNodeState"] == "active"
    });
    all_ready(fleet.manager(), &[&node_id(&late)]);
    judge(&late.certificates(), &root);
    // And a restart with the token there.
    assert!(fleet.cluster.manager.stop().success());
    fleet.cluster.manager.restart();
    fleet.cluster.manager_is_back();
    until(fleet.manager(), "it signs", signs);
    all_ready(fleet.manager(), &fleet.ids.iter().map(String::as_str).collect::<Vec<_>>());
    renews(&fleet, 1);
    let down = nodes(fleet.manager()).into_iter().filter(|node| node["Status"]["State"] == "down").count();
    assert_eq!(down, 0);
}

#[test]
fn rotations_lead_into_a_token_out_of_it_and_within_it() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl", "softhsm2-util");
    let hsm = SoftHsm::new();
    let (net, manager) = (Loopback::claim(), hsm.daemon("manager1"));
    init(&manager, &net, &[]).ok();
    let mut fleet = Fleet::around(Cluster::of(manager, net), 1, 1);
    for (kind, line) in [
        ("token", vec!["ca", "rotate", "--quiet", "--pkcs11", URI]),
        ("token", vec!["ca", "rotate", "--quiet", "--pkcs11", NEXT]),
        ("key", vec!["ca", "rotate", "--quiet"]),
    ] {
        let before = Marks::of(fleet.manager());
        let witness = Witness::begin(fleet.manager());
        fleet.manager().swarmpki(&line).ok();
        fleet.rotated(&before);
        witness.nobody_was_down();
        let signer = signer(fleet.manager());
        assert_eq!((&signer["kind"], signs(&signer)), (&json!(kind), true), "{signer}");
        if line.contains(&NEXT) {
            // Another name of the same key is taken, and rotates nothing.
            let also = format!("{NEXT};type=private");
            let said = fleet.manager().swarmpki(&["ca", "rotate", "--pkcs11", &also]).ok();
            assert!(said.contains(&format!("The root stays; its key is the token's {also} from now on.")), "{said}");
        }
        let n = u8::try_from(30 + fleet.engines.len()).unwrap();
        let engine = Engine::start(&format!("engine{n}"));
        let (host, worker) = (fleet.cluster.net.host(n), token(fleet.manager(), "worker"));
        let id = join(&engine, host, &worker, &fleet.cluster.net.swarm(1));
        all_follow(fleet.manager(), std::slice::from_ref(&id));
        fleet.ids.insert(fleet.engines.len(), id);
        fleet.engines.push(engine);
    }
    // Out of it: nothing needs the token any more.
    hsm.take_away();
    renews(&fleet, 0);
    wait::until("the process that held the module ends", FOUND_WITHIN, || {
        let left = module_holders(fleet.manager().pid());
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// Processes that the daemon started for a module.
fn module_holders(daemon: u32) -> Vec<String> {
    let children = std::fs::read_dir(format!("/proc/{daemon}/task")).unwrap().flat_map(|task| {
        let path = task.unwrap().path().join("children");
        std::fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    });
    let holds = |pid: &String| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("pkcs11"))
    };
    children.filter(holds).collect()
}

#[test]
fn an_init_that_the_token_cannot_serve_fails_and_leaves_nothing() {
    require_or_skip!("swarmpki", "openssl", "softhsm2-util");
    let hsm = SoftHsm::new();
    let (net, manager) = (Loopback::claim(), hsm.daemon("manager1"));
    hsm.take_away();
    let said = init(&manager, &net, &["--pkcs11", URI]).refused();
    assert!(said.contains("token"), "{said}");
    assert_eq!(swarmpki_conformance::info(&manager)["LocalNodeState"], "inactive");
    assert!(!manager.certificates().chain().exists());
    hsm.give_back();
    // A certificate whose key is not the token's.
    let other = GivenRoot::p256("other");
    hsm.import(&GivenRoot::p256("imported").key_path(), "root");
    let said = init(&manager, &net, &["--pkcs11", URI, "--ca-cert", &other.path()]).refused();
    assert!(said.contains("certificate key mismatch"), "{said}");
    init(&manager, &net, &["--pkcs11", URI]).ok();
    assert_eq!(signer(&manager)["kind"], "token");
}

/// The key that a search looks for, in the forms in which it could lie somewhere.
struct Needles(Vec<(&'static str, Vec<u8>)>);

impl Needles {
    fn of(root: &GivenRoot) -> Self {
        let pem = root.key();
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let pkcs8 = base64::engine::general_purpose::STANDARD.decode(&body).unwrap();
        // ECPrivateKey (RFC 5915): version 1, then the scalar as an OCTET STRING of 32 bytes.
        let at = pkcs8.windows(5).position(|window| window == [2, 1, 1, 4, 32]).expect("a P-256 key") + 5;
        let scalar = pkcs8[at..at + 32].to_vec();
        let turned = scalar.iter().rev().copied().collect();
        let hex = scalar.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes();
        Self(vec![
            ("the scalar", scalar),
            ("the scalar, little end first", turned),
            ("the scalar in hexadecimal", hex),
            ("PKCS#8", pkcs8),
            ("the middle of its PEM", pem.lines().nth(1).unwrap().as_bytes().to_vec()),
        ])
    }

    fn found_in(&self, bytes: &[u8], place: &str) -> Vec<String> {
        let held = self.0.iter().filter(|(_, needle)| contains(bytes, needle));
        held.map(|(what, _)| format!("{what} in {place}")).collect()
    }

    /// Where the key lies in the files of a folder, at any depth.
    fn in_files(&self, folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    files += 1;
                    found.extend(self.found_in(&std::fs::read(entry.path()).unwrap(), &entry.path().to_string_lossy()));
                }
            }
        }
        assert!(files >= 3, "{files} files: that is not the daemon's state");
        found
    }

    /// Where the key lies in the memory that a process can write to.
    fn in_memory(&self, pid: u32) -> Vec<String> {
        /// Read at a time; the overlap keeps what crosses a border.
        const PIECE: usize = 4 << 20;
        const OVERLAP: usize = 512;
        let memory = File::open(format!("/proc/{pid}/mem")).expect("only root may look");
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let (mut found, mut read) = (Vec::new(), 0);
        for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with("rw"))) {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let number = |text| u64::from_str_radix(text, 16).unwrap();
            let (mut at, to) = (number(from), number(to));
            while at < to {
                let mut piece = vec![0; PIECE.min(usize::try_from(to - at).unwrap())];
                // Pages that were never touched, or belong to a device, cannot be read.
                let Ok(length) = memory.read_at(&mut piece, at) else { break };
                found.extend(self.found_in(&piece[..length], line));
                read += length;
                if length == 0 || at + (length as u64) >= to {
                    break;
                }
                at += u64::try_from(length.saturating_sub(OVERLAP).max(1)).unwrap();
            }
        }
        assert!(read > 1 << 20, "{read} bytes: that is not the daemon's memory");
        found
    }
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == first) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_in_no_file_and_not_in_the_daemons_memory() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl", "softhsm2-util");
    let (hsm, root) = (SoftHsm::new(), GivenRoot::p256("imported-root"));
    let needles = Needles::of(&root);
    hsm.import(&root.key_path(), "root");
    let (net, manager) = (Loopback::claim(), hsm.daemon("manager1"));
    init(&manager, &net, &["--pkcs11", URI, "--ca-cert", &root.path()]).ok();
    let fleet = Fleet::around(Cluster::of(manager, net), 2, 0);
    assert_eq!(Marks::of(fleet.manager()).root, root.certificate());
    fleet.follows(&root.certificate());
    renews(&fleet, 0);
    let mut puppet = Puppet::join(&fleet.cluster).await;
    puppet.renew().await.unwrap();
    assert!(signs(&signer(fleet.manager())));
    assert_eq!(needles.in_files(&fleet.manager().state()), [""; 0]);
    assert_eq!(needles.in_memory(fleet.manager().pid()), [""; 0]);

    // The search finds it where it is: in the process that holds the module, and in a daemon that holds the key itself.
    let holders = module_holders(fleet.manager().pid());
    assert_eq!(holders.len(), 1, "{holders:?}");
    let (net, sealed) = (Loopback::claim(), Daemon::start("sealed"));
    init(&sealed, &net, &["--ca-cert", &root.path(), "--ca-key", &root.key_path()]).ok();
    let sealed = Cluster::of(sealed, net);
    let _worker = sealed.worker().await;
    assert!(!needles.in_files(Path::new(&root.key_path()).parent().unwrap()).is_empty(), "its own file");
    let found = needles.in_memory(sealed.manager.pid());
    assert!(found.iter().any(|place| place.starts_with("the scalar in") || place.starts_with("PKCS#8")), "{found:?}");
    assert_eq!(needles.in_files(&sealed.manager.state()), [""; 0], "sealed in the store");
}
