//! Several managers of ours with real engines and nodes of ours as workers (issue 5, done when 1; conformance J, N, O).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use swarmpki_conformance::group::{self, Group, SETTLED_WITHIN, Seen, listed, set_role};
use swarmpki_conformance::rotation::{Marks, Witness, all_follow, judge, rotated, waits_for};
use swarmpki_conformance::storm::{Received, Storm};
use swarmpki_conformance::{in_state, init, join, node, node_id, nodes, swarm, token, try_join};
use testkit::daemon::Daemon;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::proxy::{APPLICATION_DATA, Proxy, Record, Verdict};
use testkit::{openssl, require_or_skip, wait};

/// How long nobody may lead after a leader was lost. Source: issue 5, what it must reach.
const ELECTED_WITHIN: Duration = Duration::from_secs(2);

/// `docker node ls` without the mark of the node that was asked.
fn node_ls(manager: &Daemon) -> Vec<String> {
    let format = "{{.ID}} {{.Hostname}} {{.Status}} {{.Availability}} {{.ManagerStatus}}";
    let said = manager.docker(&["node", "ls", "--format", format]).ok();
    let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn done_when_1_c304_c314_the_leader_is_killed_and_two_engines_go_on_with_the_others() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    // All by the stock client.
    let mut managers = vec![Daemon::start("manager1"), Daemon::start("manager2"), Daemon::start("manager3")];
    let mut ids = vec![init(&managers[0], net.host(1))];
    let manager_token = token(&managers[0], "manager");
    for (manager, n) in managers[1..].iter_mut().zip(2..) {
        let said = try_join(manager, net.host(n), &manager_token, &net.swarm(1)).ok();
        assert_eq!(said, "This node joined a swarm as a manager.");
        ids.push(node_id(manager));
    }
    let mut group = Group { managers, ids, hosts: (1..=3).map(|n| net.host(n)).collect() };
    group.all_manage();
    let engines = [Engine::start("engine1"), Engine::start("engine2")];
    let before = Marks::of(&group.managers[0]);
    let mut ids = vec![join(&engines[0], net.host(11), &before.worker, &net.swarm(1))];
    group.all_ready(&[&ids[0]]);

    let (dead, leader, _) = group.kill_leader();
    let follower = group.other_than(leader);
    for n in group.running() {
        assert_eq!(Marks::of(&group.managers[n]), before, "tokens and root are what they were");
    }
    let witness = Witness::begin(&group.managers[follower]);
    ids.push(join(&engines[1], net.host(12), &before.worker, &group.swarm(follower)));
    group.all_ready(&ids.iter().map(String::as_str).collect::<Vec<_>>());

    group.restart(dead);
    group.all_manage();
    let leader = group.leader();
    assert_ne!(leader, dead, "it comes back as a follower");
    assert_eq!(Marks::of(&group.managers[dead]), before);
    let follower = group.other_than(leader);
    group.managers[follower].docker(&["swarm", "ca", "--rotate", "--quiet"]).ok();
    let after = rotated(&group.managers[follower], &before);
    let everybody: Vec<String> = ids.iter().chain(&group.ids).cloned().collect();
    for manager in &group.managers {
        all_follow(manager, &everybody);
        judge(&manager.certificates(), &after.root);
    }
    for engine in &engines {
        judge(&engine.certificates(), &after.root);
    }
    witness.nobody_was_down();
    let seen = group.agreed();
    for (manager, id) in group.managers.iter().zip(&group.ids) {
        seen.has_leaf_of(manager, id);
    }
    for (engine, id) in engines.iter().zip(&ids) {
        assert_eq!(seen.issued(&openssl::serial(&engine.certificates().chain())), Some(id.as_str()));
    }
    let first = node_ls(&group.managers[0]);
    assert_eq!(first.len(), 5, "{first:?}");
    assert_eq!(first.iter().filter(|line| line.ends_with(" Leader")).count(), 1, "{first:?}");
    assert_eq!(first.iter().filter(|line| line.ends_with(" Reachable")).count(), 2, "{first:?}");
    for manager in &group.managers[1..] {
        assert_eq!(node_ls(manager), first);
    }
}

/// Every certificate that somebody received is in the log that all show.
fn all_logged(seen: &Seen, received: &[Received]) {
    for one in received {
        let chain = pki::certificate::Certificate::parse_pem_bundle(one.pair.chain.as_bytes()).unwrap();
        assert_eq!(seen.issued(&chain[0].serial().to_string()), Some(one.node.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn done_when_1_o12_leaders_are_killed_under_a_join_storm() {
    require_or_skip!("swarmpki", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let marks = Marks::of(&group.managers[0]);
    let managers = (0..3).map(|n| group.address(n)).collect();
    let storm = Storm::among(managers, marks.root.clone(), marks.worker.clone(), 8);
    let mut best = Duration::MAX;
    for _ in 0..3 {
        storm.until(storm.count() + 10).await;
        let (dead, _, took) = group.kill_leader();
        best = best.min(took);
        storm.until(storm.count() + 10).await;
        group.restart(dead);
        assert_eq!(Marks::of(&group.managers[dead]), marks);
    }
    let received = storm.end().await;
    assert!(best <= ELECTED_WITHIN, "the quickest of three elections took {best:?}");
    group.all_manage();
    all_logged(&group.agreed(), &received);
}

/// What is between Issue and NodeCertificateStatus, as in `interop_engine_joins`: there the engine's own manager dies, here the leader.
#[test]
fn o12_an_engine_joins_through_a_follower_while_the_leader_dies() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let engine = Engine::start("engine1");
    let worker = token(&group.managers[0], "worker");
    let follower = group.other_than(group.leader());

    let (held, hold) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let state = std::sync::Mutex::new((None, Some((held, gate))));
    let proxy = Proxy::start((net.host(9), 2377).into(), group.address(follower), move |record: Record| {
        if !record.from_client || record.kind != APPLICATION_DATA {
            return Verdict::Pass;
        }
        let (issue_at, waiting) = &mut *state.lock().unwrap();
        match issue_at {
            // Issue carries a CSR and a token.
            None if record.length > 350 => *issue_at = Some(record.connection),
            Some(connection) if *connection == record.connection && record.length > 60 => {
                if let Some((held, gate)) = waiting.take() {
                    held.send(()).unwrap();
                    gate.recv().unwrap();
                }
            }
            _ => {}
        }
        Verdict::Pass
    });
    let output = std::thread::scope(|scope| {
        let joining = scope.spawn(|| try_join(&engine, net.host(11), &worker, &proxy.address().to_string()));
        hold.recv_timeout(Duration::from_secs(30)).expect("the engine asks for its status");
        group.kill_leader();
        go.send(()).unwrap();
        joining.join().unwrap()
    });
    assert_eq!(output.ok(), "This node joined a swarm as a worker.");
    let id = node_id(&engine);
    group.all_ready(&[&id]);
    let seen = group.agreed();
    assert_eq!(seen.nodes.len(), 4, "one join, one node");
    assert_eq!(seen.issued(&openssl::serial(&engine.certificates().chain())), Some(id.as_str()));
}

#[test]
fn c304_c314_the_leader_dies_in_the_middle_of_a_rotation() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let mut engines = [Engine::start("engine1"), Engine::start("engine2")];
    let before = Marks::of(&group.managers[0]);
    let ids: Vec<_> = engines
        .iter()
        .zip(0u8..)
        .map(|(engine, n)| join(engine, net.host(11 + n), &before.worker, &group.swarm(usize::from(n))))
        .collect();
    group.all_ready(&[&ids[0], &ids[1]]);
    // One engine is away, so that the rotation cannot end before the leader is gone.
    engines[1].kill();
    let follower = group.other_than(group.leader());
    group.managers[follower].docker(&["swarm", "ca", "--rotate", "--detach"]).ok();
    let rotating = waits_for(&group.managers[follower], "renew", &[&ids[1]]);
    assert_eq!(rotating["done"], 4, "three managers and an engine: {rotating}");
    let witness = Witness::begin(&group.managers[follower]);
    let (dead, _, _) = group.kill_leader();
    let left = group.running()[0];
    assert_eq!(swarm(&group.managers[left])["RootRotationInProgress"], true);
    assert_eq!(Marks::of(&group.managers[left]), before);
    engines[1].restart();
    // The dead manager had converted: it holds nobody up before its report is asked for again, and then it comes back.
    group.restart(dead);
    let after = rotated(&group.managers[left], &before);
    let everybody: Vec<String> = ids.iter().chain(&group.ids).cloned().collect();
    for manager in &group.managers {
        all_follow(manager, &everybody);
        judge(&manager.certificates(), &after.root);
    }
    for engine in &engines {
        judge(&engine.certificates(), &after.root);
    }
    // The engine that was away may be called down; the one that never was may not.
    let down: Vec<_> = witness
        .end()
        .into_iter()
        .filter(|event| event["Actor"]["ID"] == ids[0].as_str() && event["Actor"]["Attributes"]["state.new"] == "down")
        .collect();
    assert!(down.is_empty(), "{down:?}");
    group.agreed();
}

/// Those of these nodes that do not report the issuer that the swarm has now.
fn late(manager: &Daemon, ids: &[String]) -> Vec<String> {
    let wanted = swarm(manager)["TLSInfo"]["CertIssuerPublicKey"].clone();
    let late = |id: &&String| node(manager, id).unwrap()["Description"]["TLSInfo"]["CertIssuerPublicKey"] != wanted;
    ids.iter().filter(late).cloned().collect()
}

#[test]
fn c301_c302_a_rotation_with_a_manager_and_two_workers_down_ends_when_they_are_back_or_removed() {
    require_or_skip!("swarmpki", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let mut workers = [Daemon::start("worker1"), Daemon::start("worker2")];
    let before = Marks::of(&group.managers[0]);
    let ids: Vec<_> = workers
        .iter()
        .zip(11..)
        .map(|(worker, n)| group::join(worker, net.host(n), &before.worker, &net.swarm(2)))
        .collect();
    group.all_ready(&[&ids[0], &ids[1]]);
    for worker in &mut workers {
        worker.kill();
    }
    let (dead, _, _) = group.kill_leader();
    let up = group.running();
    let asked = group.managers[up[0]].api("POST", "/swarmpki/v1/ca/rotate", Some("{}"));
    assert_eq!(asked.status, 200, "{asked:?}");
    let down = [ids[0].as_str(), &ids[1], &group.ids[dead]];
    let rotating = waits_for(&group.managers[up[1]], "renew", &down);
    assert_eq!(rotating["done"], 2, "{rotating}");
    let everybody: Vec<_> = group.ids.iter().chain(&ids).cloned().collect();
    let mut wanted: Vec<_> = down.iter().map(ToString::to_string).collect();
    for n in &up {
        assert_eq!(swarm(&group.managers[*n])["RootRotationInProgress"], true);
        let mut late = late(&group.managers[*n], &everybody);
        late.sort();
        wanted.sort();
        assert_eq!(late, wanted, "those that are up report the new issuer, the others do not");
    }
    group.restart(dead);
    workers[0].restart();
    let (manager, newcomer) = (&group.managers[dead], Daemon::start("worker3"));
    // The token is good until the rotation ends, and that waits for who is removed next.
    let new = group::join(&newcomer, net.host(13), &before.worker, &group.swarm(dead));
    let removed = manager.api("DELETE", &format!("/nodes/{}?force=1", ids[1]), None);
    assert_eq!(removed.status, 200, "{removed:?}");
    let after = rotated(manager, &before);
    let left: Vec<_> = group.ids.iter().cloned().chain([ids[0].clone(), new]).collect();
    for n in 0..3 {
        all_follow(&group.managers[n], &left);
        judge(&group.managers[n].certificates(), &after.root);
    }
    for worker in [&workers[0], &newcomer] {
        judge(&worker.certificates(), &after.root);
    }
    assert_eq!(group.agreed().nodes.len(), 5);
}

const NO_LEADER: &str = "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. \
                         Make sure more than half of the managers are online.";

/// Who is lost is named: by what is ours, and the same everywhere.
fn names_the_dead(group: &Group, last: usize, dead: &[usize]) {
    let manager = &group.managers[last];
    let seen = manager.api("GET", "/swarmpki/v1/status", None).json()["group"].clone();
    assert_eq!((&seen["managers"], &seen["majority"], &seen["leader"]), (&3.into(), &2.into(), &Value::Null), "{seen}");
    let away = seen["out_of_reach"].as_array().expect("a list").clone();
    let ids: BTreeSet<_> = away.iter().map(|away| away["node_id"].as_str().unwrap()).collect();
    assert_eq!(ids, dead.iter().map(|n| group.ids[*n].as_str()).collect(), "{seen}");
    let (info, list) = (manager.swarmpki(&["info"]).ok(), manager.swarmpki(&["node", "ls"]).refused());
    assert!(info.contains("Managers Out Of Reach: 2 of 3, 2 make a majority"), "{info}");
    assert!(list.contains("1 of these has to be there again"), "{list}");
    for n in dead {
        let row = away.iter().find(|away| away["node_id"] == group.ids[*n].as_str()).unwrap();
        assert_eq!(row["addr"], group.swarm(*n));
        // To the second: noughts at the end may be left out.
        let since = &row["since"].as_str().expect("since when")[.."2026-11-21T12:00:00".len()];
        for text in [&info, &list] {
            let line = text.lines().find(|line| line.contains(&group.ids[*n])).unwrap_or_else(|| panic!("{n}: {text}"));
            for part in [row["hostname"].as_str().unwrap(), &group.swarm(*n), since, "Connection refused"] {
                assert!(!part.is_empty() && line.contains(part), "{part}: {line}");
            }
        }
        assert!(!list.contains(&group.ids[last]), "it is here: {list}");
    }
}

#[test]
fn done_when_1_without_a_quorum_requests_are_refused_in_dockers_words_and_work_again_by_themselves() {
    require_or_skip!("swarmpki", "docker", "dockerd", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let worker = Daemon::start("worker1");
    let marks = Marks::of(&group.managers[0]);
    let id = group::join(&worker, net.host(11), &marks.worker, &group.swarm(0));
    group.all_ready(&[&id]);
    let before = group.agreed();
    let last = group.other_than(group.leader());
    let dead: Vec<_> = (0..3).filter(|n| *n != last).collect();
    for n in &dead {
        group.managers[*n].kill();
    }
    let manager = &group.managers[last];
    // Also the first command is answered as soon as the manager knows.
    let (lost, first) = (Instant::now(), manager.api("GET", "/nodes", None));
    assert_ne!(first.status, 200, "{first:?}");
    assert!(lost.elapsed() < Duration::from_millis(4500), "{:?}", lost.elapsed());
    // Reads and writes; a leader that is not given up yet has the other text, of which there is an end.
    wait::until("reads are refused for want of a leader", Duration::from_secs(30), || {
        let answer = manager.api("GET", "/nodes", None);
        if (answer.status, answer.json()["message"].as_str()) == (500, Some(NO_LEADER)) {
            Ok(())
        } else {
            Err(answer.body)
        }
    });
    let said = format!("Error response from daemon: {NO_LEADER}");
    for line in [
        &["node", "ls"][..],
        &["swarm", "join-token", "worker"],
        &["swarm", "update", "--cert-expiry", "2000h"],
        &["swarm", "ca", "--rotate", "--detach"],
        &["node", "rm", "--force", &id],
        &["node", "inspect", &id],
    ] {
        let refused = manager.docker(line).refused();
        assert!(refused.contains(NO_LEADER), "{line:?}: {refused}");
        if line[0] == "swarm" {
            assert_eq!(refused, said);
        }
    }
    // Transcript 14.
    let info = swarmpki_conformance::info(manager);
    assert_eq!(info["NodeID"], group.ids[last].as_str());
    assert_eq!((&info["LocalNodeState"], &info["ControlAvailable"]), (&"active".into(), &true.into()));
    assert_eq!(info["Error"], NO_LEADER);
    assert_eq!(info["RemoteManagers"].as_array().unwrap().len(), 3, "{info}");
    assert_eq!((info.get("Nodes"), info.get("Managers")), (None, None), "{info}");
    let zero = &info["Cluster"];
    assert_eq!((&zero["ID"], &zero["CreatedAt"]), (&"".into(), &"0001-01-01T00:00:00Z".into()), "{info}");
    names_the_dead(&group, last, &dead);
    // Nobody gets a certificate: an engine is told what its own managers would say, before its command's time is over, and so is ours.
    let late = Daemon::start("worker2");
    let refused = group::try_join(&late, net.host(12), &marks.worker, &[&group.swarm(last)]);
    assert_eq!((refused.status, refused.json()["message"].as_str()), (500, Some(NO_LEADER)), "{refused:?}");
    let refused = late
        .swarmpki(&[
            "join",
            "--advertise-addr",
            &net.host(12).to_string(),
            "--token",
            &marks.worker,
            &group.swarm(last),
        ])
        .refused();
    assert!(
        refused.contains("The swarm does not have a leader.")
            && refused.contains("Hint: the manager that was asked finds no majority"),
        "{refused}"
    );
    let engine = Engine::start("engine1");
    let refused = try_join(&engine, net.host(14), &marks.worker, &group.swarm(last)).refused();
    assert_eq!(refused, said);
    let left = manager.docker(&["swarm", "leave"]).refused();
    assert!(left.starts_with("Error response from daemon: You are attempting to leave the swarm on a node that is participating as a manager."), "{left}");

    // One of the two is enough.
    group.restart(dead[0]);
    group.is_back(last);
    group.all_ready(&[&id]);
    let now = Seen::by(&group.managers[last]).unwrap();
    assert_eq!(now.swarm["JoinTokens"], before.swarm["JoinTokens"]);
    assert_eq!(now.swarm["Spec"], before.swarm["Spec"], "what was refused was not done");
    assert!(now.nodes.contains_key(&id));
    let extra = group::join(&Daemon::start("worker3"), net.host(13), &marks.worker, &group.swarm(last));
    group.restart(dead[1]);
    group.all_manage();
    assert!(group.agreed().nodes.contains_key(&extra));
}

#[test]
fn c372_c373_a_manager_that_is_cut_off_lets_its_nodes_go() {
    require_or_skip!("swarmpki", "docker", "openssl");
    let net = Loopback::claim();
    let group = Group::start(&net, 3);
    let marks = Marks::of(&group.managers[0]);
    let address = |n| group.address(n);
    let cut = group.other_than(group.leader());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (told, again) = runtime.block_on(async {
        use swarmpki_conformance::{caller::Caller, cluster::fetch, csr};
        let request = csr::ordinary();
        let stranger = Caller::plain(address(cut), &marks.root).await.unwrap();
        let id = stranger.issue(request.csr.as_bytes(), &marks.worker).await.unwrap().node_id;
        let pair = fetch(&stranger, &id, &request).await;
        let caller = Caller::with(address(cut), &marks.root, &pair).await.unwrap();
        let (first, mut session) = caller.session("").await.unwrap();
        // It hears nobody: the two others hang. Nobody leads then, here or there.
        let others: Vec<_> = (0..3).filter(|n| *n != cut).collect();
        for n in &others {
            group.managers[*n].hang();
        }
        let told = loop {
            match session.message().await {
                Ok(Some(_)) => {}
                other => break other.unwrap_err(),
            }
        };
        let refused = caller.session(&first.session_id).await.err().unwrap();
        assert_eq!((refused.code(), refused.message()), (tonic::Code::Aborted, "dispatcher is stopped"));
        for n in others {
            group.managers[n].go_on();
        }
        let started = Instant::now();
        let again = loop {
            match caller.session("").await {
                Ok((message, _stream)) => break message,
                Err(error) => assert!(started.elapsed() < SETTLED_WITHIN, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        (told, again)
    });
    assert_eq!((told.code(), told.message()), (tonic::Code::Aborted, "node must disconnect"));
    assert_eq!(again.managers.len(), 3);
    group.all_manage();
    group.agreed();
}

#[test]
fn c373_when_the_leader_dies_nobody_is_down_but_who_died_with_it() {
    require_or_skip!("swarmpki", "dockerd", "docker", "openssl");
    let net = Loopback::claim();
    let mut group = Group::start(&net, 3);
    let engine = Engine::start("engine1");
    let workers = [Daemon::start("worker1"), Daemon::start("worker2"), Daemon::start("worker3")];
    let marks = Marks::of(&group.managers[0]);
    let mut ids = vec![join(&engine, net.host(11), &marks.worker, &group.swarm(0))];
    for (worker, n) in workers.iter().zip(12..) {
        ids.push(group::join(worker, net.host(n), &marks.worker, &group.swarm(usize::from(n) % 3)));
    }
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let mut gone = Daemon::start("gone");
    let gone_id = group::join(&gone, net.host(15), &marks.worker, &group.swarm(0));
    group.all_ready(&ids);
    group.all_ready(&[&gone_id]);
    gone.kill();
    let (dead, _, _) = group.kill_leader();
    let survivor = group.running()[0];
    let witness = Witness::begin(&group.managers[survivor]);
    // Three heartbeats and their jitter: whoever is not back by then is Down.
    let grace = Duration::from_millis(3 * 5_500 + 1_000);
    wait::throughout("no worker is down", grace, || {
        let down: Vec<_> = listed(&group.managers[survivor])?
            .into_iter()
            .filter(|node| ids.contains(&node["ID"].as_str().unwrap()) && node["Status"]["State"] == "down")
            .collect();
        if down.is_empty() { Ok(()) } else { Err(format!("{down:?}")) }
    });
    group.all_ready(&ids);
    // Six periods from the change of the leader, three where its session was with another manager.
    in_state(&group.managers[survivor], &[&gone_id], "down", Duration::from_secs(40));
    group.restart(dead);
    group.all_manage();
    let down: Vec<_> = witness
        .end()
        .into_iter()
        .filter(|event| event["Actor"]["Attributes"]["state.new"] == "down")
        .filter(|event| ids.contains(&event["Actor"]["ID"].as_str().unwrap_or_default()))
        .collect();
    assert!(down.is_empty(), "{down:?}");
    assert_eq!(nodes(&group.managers[dead]).len(), 8);
    assert_eq!(
        set_role(&group.managers[dead], ids[0], "worker").status,
        200,
        "the one that was away changes things too"
    );
}

/// Those that a rotation of the leader's would wait for, each with the reason.
fn would_block(leader: &Daemon) -> Vec<(String, String)> {
    let answer = leader.api("POST", "/swarmpki/v1/ca/rotate", Some(r#"{"dry_run":true,"policy":{"kind":"wait"}}"#));
    assert_eq!(answer.status, 200, "{answer:?}");
    let word = |of: &Value| of.as_str().unwrap().to_owned();
    answer.json()["blocks"].as_array().unwrap().iter().map(|one| (word(&one["node"]), word(&one["reason"]))).collect()
}

#[test]
fn c301_whose_session_is_with_another_manager_is_lost_when_that_one_has_lost_it() {
    require_or_skip!("swarmpki");
    let net = Loopback::claim();
    let group = Group::start(&net, 3);
    let leader = &group.managers[group.leader()];
    let worker_token = token(leader, "worker");
    let mut workers: Vec<_> = (0..4).map(|n| Daemon::start(&format!("worker{n}"))).collect();
    let joined = workers.iter().zip(11..).map(|(worker, n)| join(worker, net.host(n), &worker_token, &net.swarm(1)));
    let mut ids: Vec<_> = joined.collect();
    group.all_ready(&ids.iter().map(String::as_str).collect::<Vec<_>>());
    // All of them come back, to whichever manager: the connections that they had have ended.
    let before = Marks::of(leader);
    leader.swarmpki(&["ca", "rotate", "--quiet"]).ok();
    rotated(leader, &before);
    wait::until("nobody would be waited for", Duration::from_secs(5), || match would_block(leader) {
        none if none.is_empty() => Ok(()),
        some => Err(format!("{some:?}")),
    });
    let said = leader.swarmpki(&["ca", "rotate", "--emergency", "--dry-run"]).ok();
    assert!(said.contains("converts   7 nodes") && !said.contains("would be"), "{said}");

    for worker in &mut workers {
        worker.kill();
    }
    ids.sort();
    wait::until("the leader knows who is lost before any of them is down", Duration::from_secs(4), || {
        let mut blocks = would_block(leader);
        blocks.sort();
        let lost: Vec<_> = ids.iter().map(|id| (id.clone(), "lost".to_owned())).collect();
        if blocks == lost { Ok(()) } else { Err(format!("{blocks:?}")) }
    });
}
