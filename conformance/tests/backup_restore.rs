//! A backup of one cluster becomes a cluster on other machines, and its nodes go on there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use swarmpki_conformance::{all_ready, init, join, node, node_id, nodes, swarm, token, try_join};
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::{require_or_skip, wait};

/// Made for these tests.
const IDENTITY: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

#[test]
fn done_when_5_a_backup_of_one_is_restored_on_three_and_workers_go_on() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let (mut old, worker) = (Daemon::start("manager1"), Daemon::start("worker1"));
    let first = init(&old, net.host(1));
    let by = token(&old, "worker");
    let stays = join(&worker, net.host(2), &by, &net.swarm(1));
    let gone = Daemon::start("worker2");
    let removed = join(&gone, net.host(3), &by, &net.swarm(1));
    all_ready(&old, &[&first, &stays, &removed]);
    let file = old.folder().join("swarm.age");
    let name = file.to_str().unwrap();
    let said = old.swarmpki(&["backup", "--recipient", RECIPIENT, name]).ok();
    assert!(said.starts_with(&format!("Backup written: {name} (")), "{said}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = swarm(&old);
    old.docker(&["node", "rm", "--force", &removed]).ok();
    // The node that stays has another certificate since.
    let installed =
        |worker: &Daemon| worker.api("GET", "/swarmpki/v1/status", None).json()["installed"].as_u64().unwrap();
    let had = installed(&worker);
    assert_eq!(worker.api("POST", "/swarmpki/v1/renew", None).status, 200);
    wait::until_true("another certificate", Duration::from_secs(20), || installed(&worker) > had);
    old.kill();

    // At the same address, by another machine.
    let new = Daemon::start("manager2");
    let identity = new.folder().join("identity.txt");
    std::fs::write(&identity, format!("# made for a test\n{IDENTITY}\n")).unwrap();
    let (advertise, listen) = (net.host(1).to_string(), net.swarm(1));
    let restore = [
        "restore",
        "--identity-file",
        identity.to_str().unwrap(),
        "--removed",
        &removed,
        "--advertise-addr",
        &advertise,
        "--listen-addr",
        &listen,
        name,
    ];
    let mut unknown = restore;
    unknown[4] = "nosuch";
    let refused = new.swarmpki(&unknown).refused();
    assert!(refused.contains("nothing was restored: of --removed, node nosuch not found"), "{refused}");
    let mut named = restore;
    // By the beginning of its id.
    named[4] = &removed[..10];
    let said = new.swarmpki(&named).ok();
    let own = node_id(&new);
    assert!(said.starts_with(&format!("Swarm restored: current node ({own}) is now its only manager.")), "{said}");
    let after = swarm(&new);
    assert_eq!((&after["ID"], &after["TLSInfo"]), (&before["ID"], &before["TLSInfo"]));
    for role in ["Worker", "Manager"] {
        assert_ne!(after["JoinTokens"][role], before["JoinTokens"][role]);
    }
    assert_eq!(node(&new, &first).unwrap()["Spec"]["Role"], "worker", "the manager of before");
    assert!(node(&new, &removed).is_none());
    all_ready(&new, &[&own, &stays]);
    new.swarmpki(&["log", "verify"]).ok();

    let refused = try_join(&Daemon::start("late"), net.host(6), &by, &net.swarm(1)).refused();
    assert!(refused.contains("A valid join token is necessary"), "the old token: {refused}");
    let by = token(&new, "manager");
    let others = [Daemon::start("manager3"), Daemon::start("manager4")];
    for (other, host) in others.iter().zip(4..) {
        assert_eq!(try_join(other, net.host(host), &by, &net.swarm(1)).ok(), "This node joined a swarm as a manager.");
    }
    wait::until_true("three managers", Duration::from_secs(20), || {
        nodes(&new).iter().filter(|node| node["ManagerStatus"]["Reachability"] == "reachable").count() == 3
    });
    all_ready(&others[1], &[&own, &stays]);
}

#[test]
fn a_file_that_does_not_open_leaves_nothing_behind() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let (manager, other) = (Daemon::start("manager1"), Daemon::start("other"));
    init(&manager, net.host(1));
    let file = manager.folder().join("swarm.age");
    let (name, words) = (file.to_str().unwrap(), manager.folder().join("words"));
    std::fs::write(&words, "correct horse\n").unwrap();
    let from = format!("file:{}", words.display());
    let quiet = manager.swarmpki(&["backup", "--passphrase-from", &from, name]);
    assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""), "nobody looks");
    // On a terminal it says what takes so long.
    let (program, socket) = (testkit::daemon::program().unwrap(), manager.socket());
    let line = format!("{} -H unix://{} backup --passphrase-from {from} {name}", program.display(), socket.display());
    let shown = testkit::docker::run(Command::new("script").args(["-qec", &line, "/dev/null"])).ok();
    let lines: Vec<_> = shown.lines().map(str::trim_end).collect();
    assert!(
        lines[0].contains("with a passphrase that takes a few seconds") && lines[1].starts_with("Backup written: "),
        "{shown}"
    );
    let listen = net.swarm(2);
    let advertise = net.host(2).to_string();
    let restore = |from: &str| {
        other.swarmpki(&[
            "restore",
            "--passphrase-from",
            from,
            "--advertise-addr",
            &advertise,
            "--listen-addr",
            &listen,
            name,
        ])
    };
    let wrong = other.folder().join("wrong");
    std::fs::write(&wrong, "battery staple\n").unwrap();
    let refused = restore(&format!("file:{}", wrong.display())).refused();
    assert!(refused.contains("the passphrase is wrong"), "{refused}");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 100]).unwrap();
    let refused = restore(&from).refused();
    assert!(refused.contains("damaged or cut short"), "{refused}");
    assert!(!other.state().join("raft").exists() && !other.state().join("daemon.json").exists());
    std::fs::write(&file, &whole).unwrap();
    restore(&from).ok();
    let refused = restore(&from).refused();
    assert!(refused.contains("This node is already part of a swarm"), "{refused}");
}
