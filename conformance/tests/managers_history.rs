//! What several clients see who ask three managers at the same time, while the leader is killed, parted and stopped: all of it could have been
//! one manager that did one thing after the other (issue 5, several managers).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use swarmpki_conformance::group::{Group, SETTLED_WITHIN};
use swarmpki_conformance::history::{History, Operation, What};
use testkit::http;
use testkit::net::Net;
use testkit::{require_or_skip, wait};

/// Clients who ask, each one thing after the other.
const CLIENTS: usize = 3;
/// Answers that there have to be before and after each fault, and while it lasts.
const ANSWERS: usize = 60;

/// What the clients read and change: a node's label, or one of the swarm, which comes with another token.
#[derive(Clone)]
enum Thing {
    Node(String),
    Swarm,
}

impl Thing {
    fn path(&self) -> String {
        match self {
            Self::Node(id) => format!("/nodes/{id}"),
            Self::Swarm => "/swarm".to_owned(),
        }
    }

    fn update(&self, version: &Value) -> String {
        match self {
            Self::Node(id) => format!("/nodes/{id}/update?version={version}"),
            Self::Swarm => format!("/swarm/update?version={version}&rotateWorkerToken=true"),
        }
    }
}

fn label(object: &Value) -> String {
    object["Spec"]["Labels"]["value"].as_str().unwrap_or_default().to_owned()
}

/// One client, until it is told to end.
struct Client {
    name: usize,
    sockets: Vec<PathBuf>,
    things: Vec<Thing>,
    history: Arc<History>,
    /// The token that belongs to each label of the swarm.
    tokens: Arc<Mutex<BTreeMap<String, String>>>,
    over: Arc<AtomicBool>,
    turn: u64,
}

impl Client {
    fn run(mut self) {
        while !self.over.load(Ordering::Relaxed) {
            // Other managers and things in another order at each client.
            self.turn = self.turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let drawn = usize::try_from(self.turn >> 33).unwrap();
            let thing = self.things[drawn % self.things.len()].clone();
            let socket = self.sockets[(drawn / 8) % self.sockets.len()].clone();
            let Some(object) = self.read(&thing, &socket) else { continue };
            if drawn / 64 % 3 == 0 {
                let socket = self.sockets[(drawn / 256) % self.sockets.len()].clone();
                self.change(&thing, &socket, object);
            }
        }
    }

    fn read(&self, thing: &Thing, socket: &Path) -> Option<Value> {
        let asked = self.history.now();
        let answer = http::request(socket, "GET", &thing.path(), None).ok().filter(|answer| answer.status == 200)?;
        let object: Value = serde_json::from_str(&answer.body).ok()?;
        let value = label(&object);
        if matches!(thing, Thing::Swarm) {
            let token = object["JoinTokens"]["Worker"].as_str().unwrap().to_owned();
            let known = self.tokens.lock().unwrap().entry(value.clone()).or_insert_with(|| token.clone()).clone();
            assert_eq!(known, token, "a token belongs to one version of the swarm");
        }
        self.note(thing, socket, What::Read(value), asked, true);
        Some(object)
    }

    fn change(&self, thing: &Thing, socket: &Path, mut object: Value) {
        let (from, to) = (label(&object), format!("{}-{}", self.name, self.turn >> 20));
        object["Spec"]["Labels"]["value"] = Value::from(to.clone());
        let path = thing.update(&object["Version"]["Index"]);
        let asked = self.history.now();
        let answer = http::request(socket, "POST", &path, Some(&object["Spec"].to_string()));
        match &answer {
            // Surely not made: another one came before.
            Ok(answer) if answer.body.contains("update out of sequence") => return,
            // Nobody is there.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return,
            _ => {}
        }
        let made = answer.is_ok_and(|answer| answer.status == 200);
        self.note(thing, socket, What::Change { from, to }, asked, made);
    }

    fn note(&self, thing: &Thing, socket: &Path, what: What, asked: Duration, known: bool) {
        let answered = known.then(|| self.history.now());
        let by = format!("{} at {}", self.name, socket.display());
        self.history.add(&thing.path(), Operation { by, what, asked, answered });
    }
}

/// Waits until the clients have had more answers.
fn answers(history: &History, when: &str) {
    let before = history.answered();
    wait::until(&format!("answers {when}"), SETTLED_WITHIN, || match history.answered() - before {
        ANSWERS.. => Ok(()),
        some => Err(format!("{some} so far")),
    });
}

#[test]
fn c372_what_clients_see_while_leaders_are_killed_parted_and_stopped_is_one_history() {
    require_or_skip!("swarmpki", "netns");
    let net = Net::make(3);
    let daemons = (1..=3).map(|n| (net.daemon(n, &format!("manager{n}")), net.host(n))).collect();
    let mut group = Group::of(daemons);
    let history = Arc::new(History::default());
    let (over, tokens) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let things = vec![Thing::Node(group.ids[0].clone()), Thing::Node(group.ids[1].clone()), Thing::Swarm];
    let sockets: Vec<PathBuf> = group.managers.iter().map(|manager| manager.socket()).collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|name| {
            let (sockets, things, tokens) = (sockets.clone(), things.clone(), Arc::clone(&tokens));
            let (history, over) = (Arc::clone(&history), Arc::clone(&over));
            let client = Client { name, sockets, things, history, tokens, over, turn: name as u64 + 1 };
            std::thread::spawn(move || client.run())
        })
        .collect();
    answers(&history, "in peace");
    // A power cut.
    let (dead, ..) = group.kill_leader();
    answers(&history, "without the one that led");
    group.restart(dead);
    answers(&history, "after it came back");
    // Nobody hears who leads, and it hears nobody.
    let leader = group.leader();
    let these = [u8::try_from(leader + 1).unwrap()];
    let those: Vec<u8> = (1..=3).filter(|n| !these.contains(n)).collect();
    net.cut(&these, &those);
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    group.leader_among(&others);
    answers(&history, "while who led is parted");
    net.heal();
    group.all_manage();
    answers(&history, "after it is back");
    // Who leads does nothing for a while, and goes on as if nothing had been.
    let leader = group.leader();
    group.managers[leader].hang();
    let others: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    group.leader_among(&others);
    group.managers[leader].go_on();
    answers(&history, "after who led went on");
    group.all_manage();
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let (made, open) = history.changes();
    println!("{} answers, {made} changes, {open} of which nobody knows", history.answered());
    assert!(made > 10, "{made} changes");
    history.check(&BTreeMap::new()).unwrap_or_else(|what| panic!("{what}"));
    group.agreed();
}
