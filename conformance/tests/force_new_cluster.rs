//! One of three managers is left: `init --force-new-cluster` makes the cluster anew with it, and the others, when they come back, are told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use swarmpki_conformance::group;
use swarmpki_conformance::{
    all_ready, in_state, info, init, join, node, node_id, nodes, swarm, token, try_join, unlock,
};
use testkit::clock::Clock;
use testkit::daemon::Daemon;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::proxy::{Proxy, Verdict};
use testkit::server::Server;
use testkit::{openssl, require_or_skip, wait};

fn join_as_manager(node: &Server, net: &Loopback, host: u8, by: &str, at: u8) -> String {
    let said = try_join(node, net.host(host), by, &net.swarm(at)).ok();
    assert_eq!(said, "This node joined a swarm as a manager.");
    node_id(node)
}

/// Three managers, hosts 1 to 3.
fn three(net: &Loopback) -> ([Daemon; 3], [String; 3]) {
    let managers = [Daemon::start("manager1"), Daemon::start("manager2"), Daemon::start("manager3")];
    let first = init(&managers[0], net.host(1));
    let by = token(&managers[0], "manager");
    let second = join_as_manager(&managers[1], net, 2, &by, 1);
    let third = join_as_manager(&managers[2], net, 3, &by, 1);
    all_ready(&managers[0], &[&first, &second, &third]);
    (managers, [first, second, third])
}

/// What must stay as it is.
fn what_stays(manager: &Server) -> (Value, Value, Value, Value) {
    let swarm = swarm(manager);
    (swarm["ID"].clone(), swarm["TLSInfo"].clone(), swarm["JoinTokens"].clone(), swarm["Spec"].clone())
}

/// With the stock client, as in transcript 14.
fn force(manager: &Server, net: &Loopback, host: u8) -> String {
    let (addr, listen) = (net.host(host).to_string(), net.swarm(host));
    let args = ["swarm", "init", "--force-new-cluster", "--advertise-addr", &addr, "--listen-addr", &listen];
    manager.docker(&args).ok()
}

fn managers_of(manager: &Server) -> Vec<String> {
    let nodes = nodes(manager);
    let named = nodes.iter().filter(|node| node["ManagerStatus"]["Reachability"] == "reachable");
    named.map(|node| node["ID"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn one_of_three_goes_on_alone_and_the_old_majority_is_told() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let ([mut one, mut two, three], [first, second, third]) = three(&net);
    let (worker, engine) = (Daemon::start("worker1"), Engine::start("engine1"));
    let by = token(&three, "worker");
    let ours = join(&worker, net.host(4), &by, &net.swarm(1));
    let real = join(&engine, net.host(5), &by, &net.swarm(2));
    all_ready(&three, &[&ours, &real]);
    let before = what_stays(&three);
    let (addr, listen) = (net.host(3).to_string(), net.swarm(3));
    let args = ["swarm", "init", "--force-new-cluster", "--advertise-addr", &addr, "--listen-addr", &listen];
    let refused = three.docker(&args).refused();
    assert!(refused.contains("has a leader and a majority of its managers"), "{refused}");
    all_ready(&three, &[&third, &ours, &real]);

    one.kill();
    two.kill();
    let said = force(&three, &net, 3);
    assert!(said.starts_with(&format!("Swarm initialized: current node ({third}) is now a manager.")), "{said}");
    assert!(said.contains(&by) && said.contains(&net.swarm(3)), "{said}");
    assert_eq!((what_stays(&three), node_id(&three)), (before, third.clone()));
    assert_eq!(managers_of(&three), [third.as_str()]);
    for old in [&first, &second] {
        let record = node(&three, old).unwrap();
        assert_eq!((record["Spec"]["Role"].as_str(), &record["ManagerStatus"]), (Some("worker"), &Value::Null));
    }
    // Workers come by themselves, ours and the engine, and the tokens work.
    all_ready(&three, &[&third, &ours, &real]);
    let late = Daemon::start("worker2");
    let joined = join(&late, net.host(6), &by, &net.swarm(3));
    all_ready(&three, &[&joined]);

    // The two are a majority of what they know.
    one.restart();
    two.restart();
    for (old, id) in [(&one, &first), (&two, &second)] {
        let text = wait::until("it stops", Duration::from_secs(30), || {
            let info = info(old);
            match info["LocalNodeState"].as_str() {
                Some("error") => Ok(info["Error"].as_str().unwrap_or_default().to_owned()),
                other => Err(format!("{other:?}: {info}")),
            }
        });
        let text = text.0;
        assert!(text.starts_with("this cluster was made anew (epoch 1-"), "{text}");
        let rest = "); this manager's state is of epoch 0. Run \"swarmpki leave --force\" here and join again.";
        assert!(text.contains(", force-new-cluster on 20") && text.ends_with(rest), "{text}");
        assert!(node(&three, id).is_some());
    }
    // Nor does it make a third one of what it has.
    let told = info(&one)["Error"].as_str().unwrap().to_owned();
    let refused = one.docker(&["swarm", "init", "--force-new-cluster"]).refused();
    assert_eq!(refused, format!("Error response from daemon: {told}"));
    assert_eq!(one.docker(&["swarm", "leave", "--force"]).ok(), "Node left the swarm.");
    let back = join_as_manager(&one, &net, 1, &token(&three, "manager"), 3);
    all_ready(&three, &[&third, &back, &ours, &real, &joined]);
    wait::until_true("a second manager", Duration::from_secs(20), || managers_of(&three).len() == 2);
    three.docker(&["node", "rm", "--force", &first]).ok();
}

/// One that is promoted and has no place among the managers yet holds nothing that another cluster could be made from.
#[test]
fn a_worker_in_the_middle_of_its_promotion_comes_back_as_a_worker() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let ([mut one, mut two, three], [.., third]) = three(&net);
    let worker = Daemon::start("worker1");
    let promoted = join(&worker, net.host(4), &token(&three, "worker"), &net.swarm(3));
    all_ready(&three, &[&promoted]);
    // It gets a manager's certificate, and cannot serve.
    let port = TcpListener::bind(net.swarm(4)).unwrap();
    three.docker(&["node", "promote", &promoted]).ok();
    group::has_unit(&worker, "manager");
    one.kill();
    two.kill();
    force(&three, &net, 3);
    group::has_unit(&worker, "worker");
    all_ready(&three, &[&third, &promoted]);
    assert_eq!(node_id(&worker), promoted);
    let info = wait::until("it is a worker like any other", Duration::from_secs(30), || {
        let info = info(&worker);
        if info["Error"] == "" && info["LocalNodeState"] == "active" { Ok(info) } else { Err(info.to_string()) }
    });
    assert_eq!(info.0["ControlAvailable"], false);
    assert_eq!(managers_of(&three), [third.as_str()]);
    // It may be promoted again.
    drop(port);
    three.docker(&["node", "promote", &promoted]).ok();
    group::manages(&three, &promoted, true);
}

#[test]
fn a_manager_alone_is_made_anew_twice_and_keeps_everything() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let (mut manager, worker) = (Daemon::start("manager1"), Daemon::start("worker1"));
    let own = init(&manager, net.host(1));
    let other = join(&worker, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&own, &other]);
    let before = what_stays(&manager);
    force(&manager, &net, 1);
    // Ours keeps the address that it has.
    let said = manager.swarmpki(&["init", "--force-new-cluster"]).ok();
    assert!(said.starts_with(&format!("Swarm initialized: current node ({own}) is now a manager.")), "{said}");
    manager.kill();
    manager.restart();
    all_ready(&manager, &[&own, &other]);
    assert_eq!(what_stays(&manager), before);
    manager.swarmpki(&["log", "verify"]).ok();
    let state = manager.state();
    let stores: Vec<_> =
        std::fs::read_dir(state.join("raft")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(stores.iter().all(|name| name == "header" || name.to_string_lossy().starts_with("store-3.")), "{stores:?}");
}

/// Locks the managers at rest; answers the unlock key, once this one's key file is sealed.
fn lock(manager: &Daemon) -> String {
    manager.docker(&["swarm", "update", "--autolock=true"]).ok();
    wait::until_true("its key file is sealed", Duration::from_secs(30), || {
        let text = std::fs::read_to_string(manager.state().join("certificates/swarm-node.key")).unwrap();
        text.starts_with("-----BEGIN ENCRYPTED") && !text.contains("raft-dek-")
    });
    manager.docker(&["swarm", "unlock-key", "-q"]).ok()
}

/// Stops a manager and starts it again: locked.
fn restart_locked(manager: &mut Daemon) {
    manager.stop();
    manager.restart();
    wait::until_true("locked after a restart", Duration::from_secs(30), || info(manager)["LocalNodeState"] == "locked");
}

#[test]
fn a_locked_manager_that_is_left_goes_on_alone_with_the_unlock_key() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let ([mut one, mut two, mut three], [.., third]) = three(&net);
    let worker = Daemon::start("worker1");
    let ours = join(&worker, net.host(4), &token(&three, "worker"), &net.swarm(3));
    all_ready(&three, &[&ours]);
    let key = lock(&three);
    let before = what_stays(&three);
    one.kill();
    two.kill();
    restart_locked(&mut three);

    // Without the key, and with another one, nothing is done. Both commands say what to do.
    let locked = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
    let refused = three.docker(&["swarm", "init", "--force-new-cluster"]).refused();
    assert_eq!(refused, format!("Error response from daemon: {locked}"));
    let refused = three.swarmpki(&["init", "--force-new-cluster"]).refused();
    assert!(refused.contains(locked) && refused.contains("--unlock-from file:PATH"), "{refused}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let from = format!("file:{}", file.display());
    let by_key = ["init", "--force-new-cluster", "--unlock-from", &from];
    for (text, expected) in
        [("SWMKEY-1-abc", "swarm could not be unlocked: invalid key provided"), ("nonsense", "invalid key string")]
    {
        std::fs::write(&file, text).unwrap();
        let refused = three.swarmpki(&by_key).refused();
        assert!(refused.contains(expected), "{refused}");
        assert_eq!(info(&three)["LocalNodeState"], "locked");
    }

    // In one step, by our command.
    std::fs::write(&file, format!("{key}\n")).unwrap();
    let said = three.swarmpki(&by_key).ok();
    assert!(said.starts_with(&format!("Swarm initialized: current node ({third}) is now a manager.")), "{said}");
    assert!(said.contains(&key), "{said}");
    assert_eq!((what_stays(&three), managers_of(&three)), (before, vec![third.clone()]));
    all_ready(&three, &[&third, &ours]);

    // It is as locked as before.
    three.swarmpki(&["log", "verify"]).ok();
    three.stop();
    three.swarmpki(&["check", "--state-dir", &three.state().display().to_string(), "--unlock-from", &from]).ok();
}

#[test]
fn what_cannot_be_made_anew_is_as_it_was() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let mut manager = Daemon::start("manager1");
    let own = init(&manager, net.host(1));
    let state = manager.state();
    let settings = || std::fs::read_to_string(state.join("daemon.json")).unwrap();
    let (before, written) = (what_stays(&manager), settings());
    let elsewhere = net.host(2).to_string();
    let anew = ["init", "--force-new-cluster", "--advertise-addr", &elsewhere];

    // Its settings cannot be written.
    let in_the_way = state.join(".tmp-daemon.json");
    std::fs::create_dir(&in_the_way).unwrap();
    let refused = manager.swarmpki(&anew).refused();
    assert!(refused.contains("is as it was"), "{refused}");
    std::fs::remove_dir(&in_the_way).unwrap();
    all_ready(&manager, &[&own]);
    assert_eq!((what_stays(&manager), settings()), (before.clone(), written.clone()));
    assert!(!manager.swarmpki(&["log"]).ok().contains("anew"), "nor does its log say otherwise");

    // It is locked, and its store cannot be opened.
    let key = lock(&manager);
    let before = what_stays(&manager);
    restart_locked(&mut manager);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, &key).unwrap();
    let from = format!("file:{}", file.display());
    std::fs::rename(state.join("raft"), state.join("raft.aside")).unwrap();
    let refused = manager.swarmpki(&[&anew[..], &["--unlock-from", &from]].concat()).refused();
    assert!(refused.contains("is as it was"), "{refused}");
    assert_eq!((info(&manager)["LocalNodeState"].as_str(), settings()), (Some("locked"), written));
    std::fs::rename(state.join("raft.aside"), state.join("raft")).unwrap();
    assert_eq!(unlock(&manager, &key).ok(), "");
    all_ready(&manager, &[&own]);
    assert_eq!(what_stays(&manager), before);
}

/// What a manager's log says when nothing came of it.
const NOT_MADE: &str = "the cluster was not made anew";

#[test]
fn each_refusal_says_why_and_the_manager_goes_on_as_it_was() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let (mut manager, mut stranger) = (Daemon::start("manager1"), Daemon::start("manager2"));
    let own = init(&manager, net.host(1));
    let before = what_stays(&manager);
    let anew = ["init", "--force-new-cluster"];

    // An address that is none: nothing is even stopped.
    let refused = manager.swarmpki(&[&anew[..], &["--advertise-addr", "nonsense"]].concat()).refused();
    assert!(refused.contains("advertise address must be a non-zero IP address or network interface"), "{refused}");
    let refused =
        manager.swarmpki(&[&anew[..], &["--advertise-addr", &net.swarm(1), "--listen-addr", "x:y"]].concat()).refused();
    assert!(refused.contains("Error response from daemon: "), "{refused}");
    assert!(!manager.log().contains(NOT_MADE));
    assert_eq!(what_stays(&manager), before);

    // Its certificate is gone.
    let leaf = manager.certificates().chain();
    let aside = leaf.with_extension("aside");
    std::fs::rename(&leaf, &aside).unwrap();
    let refused = manager.swarmpki(&anew).refused();
    assert!(
        refused.contains("the cluster cannot be made anew, and is as it was: this node has no certificate"),
        "{refused}"
    );
    let log = manager.log();
    let line = log.lines().find(|line| line.contains(NOT_MADE)).unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("WARN") && line.contains("this node has no certificate"), "{line}");
    std::fs::rename(&aside, &leaf).unwrap();
    all_ready(&manager, &[&own]);
    assert_eq!(what_stays(&manager), before);

    // Its store is another cluster's.
    init(&stranger, net.host(2));
    stranger.stop();
    let (raft, kept) = (manager.state().join("raft"), manager.state().join("raft.aside"));
    std::fs::rename(&raft, &kept).unwrap();
    std::fs::rename(stranger.state().join("raft"), &raft).unwrap();
    let refused = manager.swarmpki(&anew).refused();
    assert!(refused.contains("is as it was") && refused.contains("the data key does not open it"), "{refused}");
    std::fs::rename(&raft, stranger.state().join("raft")).unwrap();
    std::fs::rename(&kept, &raft).unwrap();
    all_ready(&manager, &[&own]);
    assert_eq!(what_stays(&manager), before);
    manager.swarmpki(&["log", "verify"]).ok();
    assert!(!manager.swarmpki(&["log"]).ok().contains("anew"));
    manager.stop();
    manager.restart();
    all_ready(&manager, &[&own]);
}

#[test]
fn a_manager_that_cannot_start_is_made_anew_and_one_that_cannot_start_afterwards_says_that_it_is_done() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let ([mut one, mut two, mut three], [.., third]) = three(&net);
    let before = what_stays(&three);
    one.kill();
    two.kill();
    three.stop();
    let taken = TcpListener::bind(net.swarm(3)).unwrap();
    three.restart();
    wait::until_true("it does not start", Duration::from_secs(60), || info(&three)["LocalNodeState"] == "error");

    // At an address that is taken, too: it is done, and comes about when that is free.
    let second = TcpListener::bind(net.swarm(4)).unwrap();
    let addr = net.host(4).to_string();
    let listen = net.swarm(4);
    let anew = ["swarm", "init", "--force-new-cluster", "--advertise-addr", &addr, "--listen-addr", &listen];
    let refused = three.docker(&anew).refused();
    let done = "the cluster was made anew with this manager alone, which does not work yet (see \"docker info\"; do not do it again): ";
    assert!(refused.contains(done) && refused.ends_with("bind: address already in use"), "{refused}");
    assert!(
        !three.log().contains(NOT_MADE) && three.log().contains("the cluster was made anew with this manager alone")
    );
    drop(second);
    all_ready(&three, &[&third]);
    assert_eq!((what_stays(&three), managers_of(&three)), (before, vec![third.clone()]));
    assert_eq!(node(&three, &third).unwrap()["ManagerStatus"]["Addr"], listen.as_str());
    drop(taken);
}

/// A node as it says itself, once it is in this state.
fn shows(node: &Server, state: &str) -> Value {
    let (shown, _) = wait::until(&format!("{} is {state}", node.name()), Duration::from_secs(60), || {
        let info = info(node);
        if info["LocalNodeState"] == state { Ok(info) } else { Err(info.to_string()) }
    });
    shown
}

/// Power goes, and somebody else has its port when it comes back: it does not start, and nobody tells it anything. Who has the port.
fn restart_without_port(node: &mut Daemon, at: &str) -> TcpListener {
    node.kill();
    let (taken, _) = wait::until("its port is free", Duration::from_secs(30), || {
        TcpListener::bind(at).map_err(|error| error.to_string())
    });
    node.restart();
    shows(node, "error");
    taken
}

/// One that has a place among the managers, and is none of them yet: what it holds is nothing, or not what a manager holds.
#[test]
fn who_was_about_to_be_a_manager_makes_nothing_anew_from_its_store() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let (mut managers, ids) = three(&net);
    // The others find it there, and are not heard until the gate is open.
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let passing = Arc::clone(&gate);
    let _proxy = Proxy::start(net.swarm(9).parse().unwrap(), net.swarm(4).parse().unwrap(), move |_| {
        let closed = |open: &mut bool| !*open;
        drop(passing.1.wait_while(passing.0.lock().unwrap(), closed).unwrap());
        Verdict::Pass
    });
    let mut newcomer = Daemon::start("newcomer");
    let body = json!({
        "ListenAddr": net.swarm(4), "AdvertiseAddr": net.swarm(9), "JoinToken": token(&managers[0], "worker"), "RemoteAddrs": [net.swarm(1)],
    });
    assert_eq!(newcomer.api("POST", "/swarm/join", Some(&body.to_string())).status, 200);
    let id = node_id(&newcomer);
    all_ready(&managers[0], &[&id]);
    let placed = |managers: &[Daemon], from: &[usize]| {
        let line = format!("a manager has its place in the group node={id}");
        wait::until_true("it has its place", Duration::from_secs(30), || {
            managers.iter().zip(from).any(|(manager, from)| manager.log()[*from..].contains(&line))
        });
    };
    managers[0].docker(&["node", "promote", &id]).ok();
    placed(&managers, &[0; 3]);
    wait::until_true("there is a store", Duration::from_secs(30), || newcomer.state().join("raft/header").exists());

    let anew = ["init", "--force-new-cluster"];
    let port = restart_without_port(&mut newcomer, &net.swarm(4));
    let refused = newcomer.swarmpki(&anew).refused();
    let as_it_was = "the cluster cannot be made anew, and is as it was: ";
    assert!(refused.contains(&format!("{as_it_was}this manager was never told of the cluster's state")), "{refused}");

    // It asks again who the others are, and one of them fills its store: too few are there to make it a manager.
    let from: Vec<_> = managers.iter().map(|manager| manager.log_len()).collect();
    drop(port);
    placed(&managers, &from);
    let leads = |id: &String| node(&managers[0], id).unwrap()["ManagerStatus"]["Leader"] == true;
    let leader = ids.iter().position(leads).expect("a leader");
    for other in (0..3).filter(|n| *n != leader) {
        managers[other].kill();
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    for event in ["change=Promote(4)", "this manager does not hear the others"] {
        let log = || managers[leader].log()[from[leader]..].contains(event);
        wait::until_true(event, Duration::from_secs(60), log);
    }
    managers[leader].kill();
    let port = restart_without_port(&mut newcomer, &net.swarm(4));
    let refused = newcomer.swarmpki(&anew).refused();
    assert!(refused.contains(&format!("{as_it_was}by what it knows itself, this node is no manager")), "{refused}");

    // The others come back, and it is made one of them.
    drop(port);
    for manager in &mut managers {
        manager.restart();
    }
    group::manages(&managers[0], &id, true);
}

#[test]
fn addresses_that_cannot_be_put_back_are_named() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let mut manager = Daemon::start("manager1");
    let own = init(&manager, net.host(1));
    let before = what_stays(&manager);
    let state = manager.state();
    let settings = || std::fs::read_to_string(state.join("daemon.json")).unwrap();
    let written = settings();

    // The certificate is waited for, and is none; meanwhile the settings cannot be written any more.
    let leaf = manager.certificates().chain();
    let (aside, in_the_way) = (leaf.with_extension("aside"), state.join(".tmp-daemon.json"));
    std::fs::rename(&leaf, &aside).unwrap();
    mkfifo(&leaf, Mode::S_IRWXU).unwrap();
    let elsewhere = net.swarm(2);
    let anew = ["init", "--force-new-cluster", "--advertise-addr", &elsewhere, "--listen-addr", &elsewhere];
    let refused = std::thread::scope(|scope| {
        let forced = scope.spawn(|| manager.swarmpki(&anew).refused());
        // Opened once it is read.
        let certificate = OpenOptions::new().write(true).open(&leaf).unwrap();
        assert_ne!(settings(), written);
        std::fs::create_dir(&in_the_way).unwrap();
        drop(certificate);
        forced.join().unwrap()
    });
    let named = format!(
        "the cluster cannot be made anew, and is as it was, but for the addresses of this manager from its next start on: they are {elsewhere} \
         and {elsewhere}, since those of before cannot be written: "
    );
    assert!(refused.contains(&named), "{refused}");
    std::fs::rename(&aside, &leaf).unwrap();
    std::fs::remove_dir(&in_the_way).unwrap();

    // Until then it is where it was.
    all_ready(&manager, &[&own]);
    assert_eq!(what_stays(&manager), before);
    let at = |manager: &Daemon| node(manager, &own).unwrap()["ManagerStatus"]["Addr"].clone();
    assert_eq!(at(&manager), net.swarm(1).as_str());
    manager.stop();
    manager.restart();
    all_ready(&manager, &[&own]);
    wait::until_true("it is elsewhere", Duration::from_secs(30), || at(&manager) == elsewhere.as_str());
    assert_eq!(what_stays(&manager), before);
}

#[test]
fn a_store_that_is_gone_or_its_key_is_named() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let mut manager = Daemon::start("manager1");
    let own = init(&manager, net.host(1));
    let before = what_stays(&manager);
    manager.stop();
    let file = manager.state().join("certificates/swarm-node.key");
    let kept = std::fs::read_to_string(&file).unwrap();
    let without: Vec<_> = kept.lines().filter(|line| !line.starts_with("raft-dek")).collect();
    assert!(without.len() < kept.lines().count(), "{without:?}");
    std::fs::write(&file, without.join("\n") + "\n").unwrap();
    manager.restart();
    let shown = shows(&manager, "error")["Error"].clone();
    let refused = manager.swarmpki(&["init", "--force-new-cluster"]).refused();
    let why = "the node's key file holds no data key for the store in ";
    assert!(shown.as_str().unwrap().starts_with(why), "{shown}");
    assert!(refused.contains(&format!("the cluster cannot be made anew, and is as it was: {why}")), "{refused}");
    std::fs::write(&file, kept).unwrap();
    all_ready(&manager, &[&own]);
    assert_eq!(what_stays(&manager), before);

    // The store itself is gone: this is no worker, and is not told that it is one.
    manager.stop();
    let (raft, aside) = (manager.state().join("raft"), manager.state().join("raft.aside"));
    std::fs::rename(&raft, &aside).unwrap();
    manager.restart();
    let shown = shows(&manager, "error")["Error"].clone();
    let refused = manager.swarmpki(&["init", "--force-new-cluster"]).refused();
    let why = "this node is a manager and its store (raft/ in the state directory) is lost: restore the state directory from backup";
    assert!(shown.as_str().unwrap().starts_with(why) && refused.contains(why), "{shown}\n{refused}");
    std::fs::rename(&aside, &raft).unwrap();
    all_ready(&manager, &[&own]);
    assert_eq!(what_stays(&manager), before);
}

/// It is made anew before they are forgotten: what is done is not reported as refused.
#[test]
fn a_list_of_managers_that_cannot_be_written_does_not_undo_it() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let ([mut one, mut two, three], [.., third]) = three(&net);
    let before = what_stays(&three);
    one.kill();
    two.kill();
    let list = three.state().join("state.json");
    std::fs::remove_file(&list).unwrap();
    std::fs::create_dir(&list).unwrap();
    let said = force(&three, &net, 3);
    assert!(said.starts_with(&format!("Swarm initialized: current node ({third}) is now a manager.")), "{said}");
    assert!(three.log().contains("the managers of before could not be forgotten"), "{}", three.log());
    assert_eq!((what_stays(&three), managers_of(&three)), (before, vec![third.clone()]));
}

/// Longer than any certificate here lives, and than its holder may come back without more.
const ASLEEP: Duration = Duration::from_secs(400 * 24 * 60 * 60);

#[test]
fn c359_a_manager_whose_certificate_has_ended_is_made_anew_and_renews_it() {
    require_or_skip!("swarmpki", "docker", "openssl", "faketime");
    let (net, clock) = (Loopback::claim(), Clock::right());
    let daemon = |name: &str| Daemon::start_with(name, Vec::new(), clock.env());
    let [mut one, mut two, mut three] = ["manager1", "manager2", "manager3"].map(daemon);
    let (host, listen) = (net.host(1).to_string(), net.swarm(1));
    one.docker(&["swarm", "init", "--cert-expiry", "1h", "--advertise-addr", &host, "--listen-addr", &listen]).ok();
    let by = token(&one, "manager");
    join_as_manager(&two, &net, 2, &by, 1);
    let third = join_as_manager(&three, &net, 3, &by, 1);
    let mut worker = daemon("worker1");
    let ours = join(&worker, net.host(4), &token(&one, "worker"), &net.swarm(3));
    all_ready(&three, &[&third, &ours]);
    let before = what_stays(&three);
    let serials = [&three, &worker].map(|node| openssl::serial(&node.certificates().chain()));
    one.kill();
    two.kill();
    three.stop();
    worker.stop();
    clock.set(ASLEEP);
    three.restart();
    let without = three.api("GET", "/nodes", None);
    assert_ne!(without.status, 200, "{without:?}");
    assert_eq!(openssl::serial(&three.certificates().chain()), serials[0]);

    let said = force(&three, &net, 3);
    assert!(said.starts_with(&format!("Swarm initialized: current node ({third}) is now a manager.")), "{said}");
    all_ready(&three, &[&third]);
    assert_eq!((what_stays(&three), managers_of(&three)), (before, vec![third.clone()]));
    worker.restart();
    all_ready(&three, &[&third, &ours]);
    for (node, before) in [&three, &worker].into_iter().zip(&serials) {
        wait::until_true("it has another certificate", Duration::from_secs(30), || {
            openssl::serial(&node.certificates().chain()) != *before
        });
    }
}

/// The same with nobody to ask, not even by the key's own manager: the stock command unlocks, then makes anew.
#[test]
fn a_locked_manager_without_a_majority_is_unlocked_and_made_anew_by_the_stock_command() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let ([mut one, mut two, mut three], [.., third]) = three(&net);
    let key = lock(&three);
    let before = what_stays(&three);
    one.kill();
    two.kill();
    restart_locked(&mut three);
    assert_eq!(unlock(&three, &key).ok(), "");
    let said = force(&three, &net, 3);
    assert!(said.starts_with(&format!("Swarm initialized: current node ({third}) is now a manager.")), "{said}");
    assert_eq!((what_stays(&three), managers_of(&three)), (before, vec![third.clone()]));
}

#[test]
fn a_worker_whose_managers_are_all_elsewhere_is_told_where_one_is() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let (manager, mut worker) = (Daemon::start("manager1"), Daemon::start("worker1"));
    let own = init(&manager, net.host(1));
    let other = join(&worker, net.host(3), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&own, &other]);
    let elsewhere = net.swarm(2);
    let refused = worker.swarmpki(&["update", "--manager", &elsewhere]).refused();
    assert!(refused.contains("this node is in session with the manager at"), "{refused}");
    let refused = worker.swarmpki(&["update", "--manager", &elsewhere, "--autolock"]).refused();
    assert!(refused.contains("for this node alone"), "{refused}");

    // The same manager at another address: what the worker knows leads nowhere.
    force(&manager, &net, 2);
    let connected = |worker: &Daemon| worker.api("GET", "/swarmpki/v1/status", None).json()["connected"]["addr"].take();
    wait::until_true("the session has ended", Duration::from_secs(30), || connected(&worker).is_null());
    let said = worker.swarmpki(&["update", "--manager", &elsewhere]).ok();
    assert_eq!(said, format!("This node is in session with the manager at {elsewhere}."));
    all_ready(&manager, &[&own, &other]);
    assert_eq!(node_id(&worker), other);
    // It keeps that over a restart.
    worker.stop();
    worker.restart();
    wait::until_true("it comes back", Duration::from_secs(30), || connected(&worker) == elsewhere.as_str());
    all_ready(&manager, &[&other]);
}

#[test]
fn who_is_no_manager_is_refused() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let (manager, worker) = (Daemon::start("manager1"), Daemon::start("worker1"));
    let args = ["swarm", "init", "--force-new-cluster"];
    let refused = "Error response from daemon: This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
    assert_eq!(worker.docker(&args).refused(), refused);
    init(&manager, net.host(1));
    let id = join(&worker, net.host(2), &token(&manager, "worker"), &net.swarm(1));
    all_ready(&manager, &[&id]);
    assert_eq!(worker.docker(&args).refused(), refused);
    in_state(&manager, &[&id], "ready", Duration::from_secs(5));
}
