//! `demo` and `up`, as a new user runs them: real daemons, real sockets, signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swarmpki"));
    command.env_clear().env("HOME", home).env("TMPDIR", home).stdin(Stdio::null());
    command
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

#[test]
fn demo_shows_a_whole_life_and_cleans_up() {
    let home = tempfile::tempdir().unwrap();
    let out = program(home.path()).arg("demo").output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}{errors}");
    for words in
        ["OU=swarm-worker, CN=", "issuer   CN=swarm-ca", "renews: new key", "token: refused", "certificate refused"]
    {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "colours without a terminal:\n{text}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "it left something behind");
}

#[test]
fn demo_keeps_its_folder_if_asked() {
    let home = tempfile::tempdir().unwrap();
    let out = program(home.path()).args(["demo", "--keep", "--json"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(told["Steps"].as_array().unwrap().len(), 8);
    let kept = Path::new(told["Kept"].as_str().unwrap());
    assert!(kept.join("node-1/certificates/swarm-node.crt").exists());
    assert!(kept.join("manager.log").exists());
}

#[test]
fn demo_ends_cleanly_when_interrupted() {
    let home = tempfile::tempdir().unwrap();
    let mut child = program(home.path()).arg("demo").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    signal(&child, Signal::SIGINT);
    let out = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&out.stderr);
    // Nobody reads its output any more, so it ends either by the signal or by the broken pipe: both clean up.
    assert!(out.status.success() || errors.contains("interrupted"), "{errors}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "it left something behind");
}

/// Runs `up` until it says how to stop; returns it with what it printed.
fn up(home: &Path, port: u16) -> (Child, String) {
    let addr = format!("127.0.0.1:{port}");
    let mut child = program(home)
        .args(["up", "--state-dir"])
        .arg(home.join("state"))
        .args(["-H", &format!("unix://{}", home.join("up.sock").display())])
        .args(["--listen-addr", &addr, "--advertise-addr", &addr])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
    while lines.read_line(&mut text).unwrap() > 0 {
        if text.ends_with("same command.\n") {
            return (child, text);
        }
    }
    child.wait().unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    panic!("up ended:\n{text}{errors}");
}

#[test]
fn up_stays_ends_at_a_signal_and_comes_back_the_same() {
    let home = tempfile::tempdir().unwrap();
    let port = free_port();
    let (mut child, first) = up(home.path(), port);
    let node = first.split(['(', ')']).nth(1).unwrap().to_owned();
    assert!(first.contains("    docker swarm join --token SWMTKN-1-"), "{first}");
    signal(&child, Signal::SIGTERM);
    assert!(child.wait().unwrap().success(), "SIGTERM is a clean end");

    let (mut child, second) = up(home.path(), port);
    assert!(second.contains(&format!("This machine is a manager of a swarm: node {node}.")), "{second}");
    let join = |text: &str| text.lines().find(|line| line.contains("docker swarm join")).unwrap().to_owned();
    assert_eq!(join(&first), join(&second), "the token is the same");
    signal(&child, Signal::SIGINT);
    assert!(child.wait().unwrap().success(), "SIGINT is a clean end");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let mut child = program(home.path())
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
}

#[test]
fn manual_pages_and_completions_name_every_verb() {
    let home = tempfile::tempdir().unwrap();
    let man = home.path().join("man");
    assert!(program(home.path()).arg("man").arg(&man).output().unwrap().status.success());
    for page in ["swarmpki.1", "swarmpki-init.1", "swarmpki-node-ls.1", "swarmpki-demo.1"] {
        assert!(std::fs::metadata(man.join(page)).unwrap().len() > 200, "{page}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let out = program(home.path()).args(["completion", shell]).output().unwrap();
        assert!(String::from_utf8(out.stdout).unwrap().contains("join-token"), "{shell}");
    }
}
