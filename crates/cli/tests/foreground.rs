//! `demo` and `up`, as a new user runs them: real daemons, real sockets, signals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod live;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use live::{Up, program, signal};
use nix::sys::signal::Signal;

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

#[test]
fn up_stays_ends_at_a_signal_and_comes_back_the_same() {
    let home = tempfile::tempdir().unwrap();
    let up = Up::start(home.path());
    let (first, node) = (up.text.clone(), up.node());
    assert!(first.contains("    docker swarm join --token SWMTKN-1-"), "{first}");

    let up = up.restart(Signal::SIGTERM);
    let second = up.text.clone();
    assert!(second.contains(&format!("This machine is a manager of a swarm: node {node}.")), "{second}");
    let join = |text: &str| text.lines().find(|line| line.contains("docker swarm join")).unwrap().to_owned();
    assert_eq!(join(&first), join(&second), "the token is the same");
    up.stop(Signal::SIGINT);
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
