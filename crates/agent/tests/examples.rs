//! The two example programs, as their readers will run them: a peer that serves HTTPS and a client that insists on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;

use std::path::PathBuf;
use std::process::{Output, Stdio};

use fake::{Fake, Listening, soon};
use pki::identity::Role;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn example(name: &str, fake: &Fake, at: &Listening, dir: &std::path::Path) -> Command {
    // target/<profile>/deps/this → target/<profile>/examples/name
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    let mut command = Command::new(path.join("examples").join(name));
    command.env("JOIN_TOKEN", fake.token().text()).kill_on_drop(true).stdout(Stdio::piped());
    command.args(["--manager", &at.addr.to_string(), "--dir"]).arg(dir);
    command
}

#[tokio::test]
async fn a_client_reaches_the_node_it_names_and_no_other() {
    let fake = Fake::new(Role::Worker);
    let at = fake.listen().await;
    let (peer_dir, client_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut peer =
        example("https_peer", &fake, &at, peer_dir.path()).args(["--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut lines = BufReader::new(peer.stdout.take().unwrap()).lines();
    let line = soon("the peer", lines.next_line()).await.unwrap().unwrap();
    let addr = line.strip_prefix("serving on https://").unwrap().to_owned();

    let call = async |options: &[&str]| -> Output {
        let mut client = example("https_client", &fake, &at, client_dir.path());
        client.args(["--peer", &addr]).args(options).stderr(Stdio::piped());
        soon("the answer", client.output()).await.unwrap()
    };
    let answer = call(&["--role", "worker", "--node", "node1"]).await;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    assert!(text.contains("talking to worker node1 of cluster"), "{text}");
    assert!(text.contains("hello worker node2"), "{text}");

    for refused in [["--node", "node9"], ["--role", "manager"]] {
        let answer = call(&refused).await;
        assert!(!answer.status.success());
        assert!(answer.stdout.is_empty());
    }
}
