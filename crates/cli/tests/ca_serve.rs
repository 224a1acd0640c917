//! `swarmpki ca serve` as a process: killed under load, with a full disk, told to end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../authority/tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pki::identity::Role;
use support::{CLUSTER, Client, Root, SIGN, node_id, request};

/// Connections that ask at a time.
const CONNECTIONS: u64 = 16;

/// The CA's files and address.
struct Place {
    dir: tempfile::TempDir,
    ca: Root,
    former: Root,
    addr: SocketAddr,
}

impl Place {
    fn new() -> Self {
        let (dir, ca, former) = (tempfile::tempdir().unwrap(), Root::new(), Root::new());
        let files = [
            ("ca.crt", ca.certificate.pem()),
            ("ca.key", ca.key.pkcs8_pem().expose().to_owned()),
            ("trust.crt", former.certificate.pem()),
        ];
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
            std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        // Free now, and on an address that nobody else uses.
        let addr = TcpListener::bind((Ipv4Addr::new(127, 0, 33, 2), 0)).unwrap().local_addr().unwrap();
        Self { dir, ca, former, addr }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts it by way of a shell that first does `before`, and waits until it answers.
    fn start(&self, before: &str) -> Child {
        self.start_with(before, &["--ca-key", self.file("ca.key").to_str().unwrap()])
    }

    /// The same with its key elsewhere.
    fn start_with(&self, before: &str, key: &[&str]) -> Child {
        let notify = self.file("notify");
        let _absent = std::fs::remove_file(&notify);
        let told = UnixDatagram::bind(&notify).unwrap();
        told.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let child = Command::new("sh")
            .args(["-c", &format!("{before} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_swarmpki")])
            .args([
                "ca",
                "serve",
                "--log-level",
                "warn",
                "--rate",
                "1000000",
                "--rate-all",
                "1000000",
                "--listen",
                &self.addr.to_string(),
            ])
            .arg("--ca-cert")
            .arg(self.file("ca.crt"))
            .args(key)
            .arg("--trust")
            .arg(self.file("trust.crt"))
            .arg("--state-dir")
            .arg(self.file("state"))
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(self.file("log")).unwrap())
            .spawn()
            .unwrap();
        let mut word = [0; 16];
        let length = told.recv(&mut word).unwrap_or_else(|error| panic!("{error}: {}", self.log()));
        assert_eq!(&word[..length], b"READY=1");
        child
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Serials of all leaves, as the command prints them.
    fn logged(&self) -> BTreeSet<String> {
        let printed = run(&["ca", "serve", "log", "--json", "--state-dir"], &self.file("state"));
        let entries = printed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let leaves = entries.filter(|entry| entry["kind"] == "leaf");
        leaves.map(|entry| entry["serial"].as_str().unwrap().to_owned()).collect()
    }

    async fn client(&self) -> Client {
        self.former.manager(1).connect(&self.ca.certificate, self.addr).await.unwrap()
    }
}

fn run(args: &[&str], last: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_swarmpki")).args(args).arg(last).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_in_the_log_after_kill_9_under_load() {
    let place = Place::new();
    let mut answered = BTreeSet::new();
    for round in 0..4_usize {
        let mut child = place.start("");
        assert!(place.logged().is_superset(&answered), "round {round}: an answered certificate is missing");
        // Each asks until its connection breaks, and tells of every answer.
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        for n in 0..CONNECTIONS {
            let (mut client, tell) = (place.client().await, tell.clone());
            tokio::spawn(async move {
                loop {
                    let role = if n % 2 == 0 { Role::Worker } else { Role::Manager };
                    let body = request(CLUSTER, role, &node_id(n)).to_string();
                    match client.send("POST", SIGN, body).await {
                        Ok(answer) if answer.body["success"] == serde_json::json!(true) => {
                            tell.send(answer.certificate().serial().to_string()).unwrap();
                        }
                        _ => return,
                    }
                }
            });
        }
        drop(tell);
        let mut count = 0;
        while let Some(serial) = told.recv().await {
            assert!(answered.insert(serial), "a serial number twice");
            count += 1;
            // In the middle of it, each round at another place.
            if count == 50 + 37 * round {
                kill(pid(&child), Signal::SIGKILL).unwrap();
            }
        }
        child.wait().unwrap();
        assert!(count >= 50 + 37 * round, "only {count} answers: {}", place.log());
    }
    let mut child = place.start("");
    let logged = place.logged();
    let missing: Vec<_> = answered.difference(&logged).collect();
    assert!(missing.is_empty(), "{missing:?}");
    place.client().await.sign(&request(CLUSTER, Role::Worker, &node_id(1))).await.certificate();
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_issues_nothing_and_loses_nothing() {
    let place = Place::new();
    // Files may have 8 KiB; a write beyond fails instead of ending the process. The log of the process itself is short.
    let mut child = place.start("trap '' XFSZ; ulimit -f $((8192 / 512));");
    let mut client = place.client().await;
    let mut answered = BTreeSet::new();
    let refused = loop {
        let answer = client.sign(&request(CLUSTER, Role::Worker, &node_id(2))).await;
        if answer.status != 200 {
            break answer.refusal();
        }
        answered.insert(answer.certificate().serial().to_string());
        assert!(answered.len() < 1_000, "no limit");
    };
    assert!(refused.starts_with("503 the issuance log cannot be written"), "{refused}");
    assert!(place.log().contains("the issuance log cannot be written: nothing is issued"), "{}", place.log());
    assert_eq!(place.logged(), answered, "exactly what was answered");
    kill(pid(&child), Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    let mut child = place.start("");
    let more = place.client().await.sign(&request(CLUSTER, Role::Worker, &node_id(2))).await.certificate();
    answered.insert(more.serial().to_string());
    assert_eq!(place.logged(), answered);
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_may_be_in_a_token() {
    testkit::require_or_skip!("softhsm2-util");
    let place = Place::new();
    let path = |name: &str| place.file(name).to_str().unwrap().to_owned();
    std::fs::create_dir(place.file("tokens")).unwrap();
    std::fs::write(place.file("hsm.conf"), format!("directories.tokendir = {}\n", path("tokens"))).unwrap();
    std::fs::write(place.file("pin"), "1234\n").unwrap();
    std::fs::set_permissions(place.file("pin"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let util = |args: &[&str]| {
        let output = Command::new("softhsm2-util").args(args).env("SOFTHSM2_CONF", path("hsm.conf")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    util(&["--init-token", "--free", "--label", "ca", "--so-pin", "5678", "--pin", "1234"]);
    util(&["--import", &path("ca.key"), "--token", "ca", "--label", "root", "--id", "01", "--pin", "1234"]);
    std::fs::remove_file(place.file("ca.key")).unwrap();
    let before = format!("SOFTHSM2_CONF={}; export SOFTHSM2_CONF;", path("hsm.conf"));
    let key = ["--pkcs11", "pkcs11:token=ca;object=root", "--pkcs11-pin-file", &path("pin")];
    let mut child = place.start_with(&before, &key);
    let leaf = place.client().await.sign(&request(CLUSTER, Role::Worker, &node_id(2))).await.certificate();
    let anchors = std::slice::from_ref(&place.ca.certificate);
    pki::chain::reaches(&leaf, &[], anchors, support::now(), pki::chain::Usage::Server).unwrap();
    assert_eq!(place.logged(), BTreeSet::from([leaf.serial().to_string()]));
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", place.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_shuts_out_at_once_and_its_key_stays_with_it() {
    let place = Place::new();
    let mut child = place.start("");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let mut client = place.client().await;
    let asked = request(CLUSTER, Role::Worker, &node_id(2));
    client.sign(&asked).await.certificate();
    let said = run(&["ca", "serve", "refuse", "--node", &node_id(1), "--state-dir"], &place.file("state"));
    assert_eq!(said, format!("The server refuses node {} from now on.\n", node_id(1)));
    let said = client.sign(&asked).await.refusal();
    assert!(said.contains("shut out"), "{said}");
    kill(pid(&child), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());

    let permit = ["ca", "serve", "allow-cross-sign", "--once", "--state-dir"];
    let output = Command::new(env!("CARGO_BIN_EXE_swarmpki")).args(permit).arg(place.file("state")).output().unwrap();
    let warned = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && warned.contains("whoever has a manager's certificate"), "{warned}");

    std::fs::set_permissions(place.file("ca.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let serve = ["ca", "serve", "--listen", "127.0.33.2:0", "--ca-cert"];
    let output = Command::new(env!("CARGO_BIN_EXE_swarmpki"))
        .args(serve)
        .arg(place.file("ca.crt"))
        .arg("--ca-key")
        .arg(place.file("ca.key"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("has mode 0644: other users can read"), "{said}");
}
