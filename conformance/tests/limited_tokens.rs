//! Join tokens with limits (issue 6, 5; done when 4), with real engines, and with a hundred joins at the same time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use serde_json::Value;
use swarmpki_conformance::caller::Caller;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::group::Group;
use swarmpki_conformance::{all_ready, csr, info, init, join, node, node_id, swarm, token, try_join};
use testkit::daemon::Daemon;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::{require_or_skip, wait};
use tonic::Code;

const NO_TOKEN: &str = "A valid join token is necessary to join this cluster";

/// Makes a token by our command: its id and its text.
fn create(manager: &Daemon, uses: u32) -> (String, String) {
    let uses = uses.to_string();
    let made = manager.swarmpki(&["token", "create", "--uses", &uses, "--note", "a test", "--json"]).ok();
    let made: Value = serde_json::from_str(&made).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

/// The token with this id, as `token ls` tells of it.
fn listed(manager: &Daemon, id: &str) -> Value {
    let tokens = manager.swarmpki(&["token", "ls", "--json"]).ok();
    let tokens: Vec<Value> = serde_json::from_str(&tokens).unwrap();
    tokens.into_iter().find(|token| token["id"] == id).expect("the token is listed")
}

fn nodes_of(token: &Value) -> Vec<(String, String)> {
    let text = |node: &Value, field: &str| node[field].as_str().unwrap().to_owned();
    token["nodes"].as_array().unwrap().iter().map(|node| (text(node, "id"), text(node, "state"))).collect()
}

#[test]
fn done_when_4_real_engines_join_until_the_uses_are_taken_and_not_one_more() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let net = Loopback::claim();
    let manager = Daemon::start("manager1");
    let own = init(&manager, net.host(1));
    let standing = (token(&manager, "worker"), token(&manager, "manager"));
    let (id, limited) = create(&manager, 2);
    assert!(limited.starts_with("SWMTKN-1-") && limited.len() == standing.0.len());

    let engines = [Engine::start("worker1"), Engine::start("worker2"), Engine::start("worker3")];
    let first = join(&engines[0], net.host(2), &limited, &net.swarm(1));
    let second = join(&engines[1], net.host(3), &limited, &net.swarm(1));
    all_ready(&manager, &[&own, &first, &second]);
    let refused = format!("Error response from daemon: rpc error: code = InvalidArgument desc = {NO_TOKEN}");
    assert_eq!(try_join(&engines[2], net.host(4), &limited, &net.swarm(1)).refused(), refused);
    assert!(manager.log().contains("this join token has no use left"), "the reason is in our log");

    let token_row = listed(&manager, &id);
    assert_eq!((&token_row["state"], &token_row["left"]), (&Value::from("spent"), &Value::from(0)));
    let member = |id: &str| (id.to_owned(), "member".to_owned());
    assert_eq!(nodes_of(&token_row), [member(&first), member(&second)]);
    let table = manager.swarmpki(&["token", "ls"]).ok();
    assert!(table.contains("worker1, worker2") && table.contains("0 of 2"), "{table}");

    // A use is spent once its certificate was used: it does not come back with a node that leaves and is removed.
    assert_eq!(engines[0].docker(&["swarm", "leave"]).ok(), "Node left the swarm.");
    manager.docker(&["node", "rm", "--force", &first]).ok();
    assert_eq!(try_join(&engines[2], net.host(4), &limited, &net.swarm(1)).refused(), refused);
    assert_eq!(nodes_of(&listed(&manager, &id))[0], (first, "gone".to_owned()));

    // The standing tokens are docker's, as ever.
    assert_eq!((token(&manager, "worker"), token(&manager, "manager")), standing);
    let third = join(&engines[2], net.host(4), &standing.0, &net.swarm(1));
    all_ready(&manager, &[&second, &third]);

    // Revoked, a token with uses left admits nobody.
    let (id, open) = create(&manager, 5);
    assert_eq!(manager.swarmpki(&["token", "revoke", &id]).ok(), id);
    assert_eq!(try_join(&engines[0], net.host(2), &open, &net.swarm(1)).refused(), refused);
    assert_eq!(listed(&manager, &id)["state"], "revoked");
    assert!(manager.swarmpki(&["token", "revoke", "99"]).refused().contains("token 99 not found"));
    for secret in [&limited, &open] {
        assert!(!manager.log().contains(secret.rsplit('-').next().unwrap()), "no token is in the log");
    }
}

#[test]
fn a_node_of_ours_is_told_why_and_who_is_removed_takes_its_token_with_it() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let manager = Daemon::start("manager1");
    init(&manager, net.host(1));
    let (id, limited) = create(&manager, 1);
    let (one, two) = (Daemon::start("worker1"), Daemon::start("worker2"));
    let first = join(&one, net.host(2), &limited, &net.swarm(1));
    all_ready(&manager, &[&first]);
    let told = try_join(&two, net.host(3), &limited, &net.swarm(1)).refused();
    assert!(told.contains("this join token has no use left"), "{told}");
    let two_swarm =
        two.swarmpki(&["join", "--token", &limited, "--advertise-addr", &net.host(3).to_string(), &net.swarm(1)]);
    assert!(two_swarm.refused().contains("swarmpki token create"), "it says what to do");
    assert_eq!(info(&two)["LocalNodeState"], "inactive");

    // One command removes it, replaces the standing token, and revokes what else it came by.
    let (wide, text) = create(&manager, 5);
    let second = join(&two, net.host(3), &text, &net.swarm(1));
    all_ready(&manager, &[&second]);
    let before = (token(&manager, "worker"), token(&manager, "manager"));
    let said = manager.swarmpki(&["node", "rm", "--force", "--rotate-token", "--json", &first, &second]).ok();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["Removed"], serde_json::json!([first, second]));
    assert_eq!((&said["Rotated"], &said["Revoked"]), (&serde_json::json!(["worker"]), &serde_json::json!([wide])));
    let after = (token(&manager, "worker"), token(&manager, "manager"));
    assert!(after.0 != before.0 && after.1 == before.1);
    assert_eq!(listed(&manager, &wide)["state"], "revoked");
    assert_eq!(listed(&manager, &id)["state"], "spent");
    assert!(node(&manager, &first).is_none() && node(&manager, &second).is_none());
}

/// A hundred keys that come at the same time, each by one of these managers, until each was admitted or refused for good; who was
/// admitted asks again, by another manager. The ids given out.
async fn storm(managers: &[std::net::SocketAddr], root: &str, token: &str) -> Vec<String> {
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let (managers, root, token) = (managers.to_vec(), root.to_owned(), token.to_owned());
            tokio::spawn(async move {
                let request = csr::ordinary();
                let mut given = None;
                for turn in n..n + 60 {
                    let manager = managers[turn % managers.len()];
                    let Ok(caller) = Caller::plain(manager, &root).await else { continue };
                    match caller.issue(request.csr.as_bytes(), &token).await {
                        Ok(answer) if given.is_none() => given = Some(answer.node_id),
                        Ok(answer) => {
                            assert_eq!(Some(&answer.node_id), given.as_ref(), "the same request is the same node");
                            return given;
                        }
                        Err(status) if status.code() == Code::InvalidArgument => {
                            assert_eq!(status.message(), NO_TOKEN);
                            assert_eq!(given, None, "a retry burns none");
                            return None;
                        }
                        Err(_) => {}
                    }
                }
                panic!("neither admitted nor refused")
            })
        })
        .collect();
    let mut ids = Vec::new();
    for task in tasks {
        ids.extend(task.await.unwrap());
    }
    ids.sort();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_joins_on_ten_uses_admit_ten() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let (id, token) = create(&cluster.manager, 10);
    let ids = storm(&[cluster.address()], &cluster.root, &token).await;
    assert_eq!(ids.len(), 10);
    let row = listed(&cluster.manager, &id);
    let mut joining = nodes_of(&row);
    joining.sort();
    assert_eq!(joining, ids.iter().map(|id| (id.clone(), "joining".to_owned())).collect::<Vec<_>>());
    assert_eq!(row["left"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_joins_on_ten_uses_admit_ten_through_three_managers() {
    require_or_skip!("swarmpki");
    let net = Loopback::claim();
    let group = Group::start(&net, 3);
    let follower = group.other_than(group.leader());
    let (id, token) = create(&group.managers[follower], 10);
    let root = swarm(&group.managers[0])["TLSInfo"]["TrustRoot"].as_str().unwrap().to_owned();
    let managers: Vec<_> = (0..3).map(|n| group.address(n)).collect();
    let ids = storm(&managers, &root, &token).await;
    assert_eq!(ids.len(), 10);
    for manager in &group.managers {
        let mut joining: Vec<_> = nodes_of(&listed(manager, &id)).into_iter().map(|(id, _)| id).collect();
        joining.sort();
        assert_eq!(joining, ids);
    }
}

/// Everything that a terminal would not show but obey, and a newline that would begin a line of its own.
const HOSTILE: &str = "evil\x1b[2J\x1b]0;owned\x07\r\u{9b}31m\u{202e}gpj\u{200b}\nManager1 Ready";

/// What a terminal obeys: all controls but the newlines of our own lines, and what turns or hides text.
fn obeyed(text: &str) -> Option<char> {
    let hidden = |c: char| {
        (c.is_control() && c != '\n')
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().find(|c| hidden(*c))
}

#[test]
fn a_hostile_host_name_is_shown_as_what_it_is() {
    require_or_skip!("swarmpki", "docker");
    let net = Loopback::claim();
    let manager = Daemon::start("manager1");
    init(&manager, net.host(1));
    let (id, limited) = create(&manager, 3);
    let hostile = Daemon::start_with("worker1", vec!["--hostname".into(), HOSTILE.into()], Vec::new());
    let node = join(&hostile, net.host(2), &limited, &net.swarm(1));
    let twin = Daemon::start_with("worker2", vec!["--hostname".into(), HOSTILE.into()], Vec::new());
    let other = join(&twin, net.host(3), &limited, &net.swarm(1));
    all_ready(&manager, &[&node, &other]);
    manager.swarmpki(&["node", "update", "--label-add", &format!("{HOSTILE}={HOSTILE}"), &node]).ok();
    manager.swarmpki(&["token", "create", "--note", HOSTILE]).ok();
    // As JSON it is what it is.
    let told: Vec<Value> = serde_json::from_str(&manager.swarmpki(&["node", "inspect", &node]).ok()).unwrap();
    assert_eq!(told[0]["Description"]["Hostname"], HOSTILE);

    let log = format!("manager=trace,{HOSTILE}=info");
    let rows: [&[&str]; 22] = [
        &["node", "ls"],
        &["node", "ls", "--json"],
        &["node", "ls", "--unfinished"],
        &["node", "ls", "--filter", HOSTILE],
        &["node", "inspect", &node],
        &["node", "inspect", "--pretty", &node],
        &["node", "inspect", HOSTILE],
        &["node", "renew", HOSTILE],
        &["node", "rm", HOSTILE],
        &["node", "rm", "--rotate-token", HOSTILE],
        &["node", "promote", HOSTILE],
        &["node", "update", "--label-rm", HOSTILE, &node],
        &["token", "ls"],
        &["token", "ls", "--json"],
        &["token", "revoke", HOSTILE],
        &["token", "create", "--role", HOSTILE],
        &["join", "--token", HOSTILE, HOSTILE],
        &["info"],
        &["info", "--json"],
        &["ca", "status"],
        &["ca", "log"],
        &["--log-level", &log, "version"],
    ];
    for (row, daemon) in rows.iter().flat_map(|row| [(row, &manager), (row, &hostile)]) {
        let output = daemon.swarmpki(row);
        for said in [&output.stdout, &output.stderr] {
            assert_eq!(obeyed(said), None, "{row:?}: {said:?}");
            assert!(!said.lines().any(|line| line == "Manager1 Ready"), "{row:?}: {said:?}");
        }
    }
    let pretty = manager.swarmpki(&["node", "inspect", "--pretty", &node]).ok();
    assert!(pretty.contains("evil\\u{1b}[2J"), "{pretty}");
    assert_eq!(listed(&manager, &id)["nodes"][0]["hostname"], HOSTILE);

    // Two nodes say that name: it names neither.
    for verb in ["inspect", "rm", "renew", "promote"] {
        let refused = manager.swarmpki(&["node", verb, HOSTILE]).refused();
        assert!(refused.contains("is ambiguous (2 matches found)"), "{verb}: {refused}");
    }
    // A beginning of an id that several nodes share is none of them either.
    assert!(manager.swarmpki(&["node", "rm", ""]).code != 0);
    assert_eq!(node_id(&hostile), node);

    // What the daemons wrote about all that, and about a rotation with such nodes among it.
    manager.swarmpki(&["ca", "rotate"]).ok();
    manager.swarmpki(&["node", "rm", "--force", &node]).ok();
    wait::until("the removed node says so", Duration::from_secs(30), || {
        let state = info(&hostile)["LocalNodeState"].clone();
        if state == "error" { Ok(()) } else { Err(state.to_string()) }
    });
    // The log names whom it removed.
    let log = manager.swarmpki(&["log"]).ok();
    assert!(log.contains("evil\\u{1b}[2J"), "{log}");
    let json = manager.swarmpki(&["log", "--json"]).ok();
    assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json}");
    assert_eq!((obeyed(&log), obeyed(&json)), (None, None));
    for daemon in [&manager, &hostile, &twin] {
        assert_eq!(obeyed(&daemon.log()), None, "{:?}", daemon.log());
    }
}
