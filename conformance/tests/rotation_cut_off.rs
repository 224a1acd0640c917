//! A node that lives and whose network is cut for the whole of a rotation: packets are lost, and nobody is told (issue 3; conformance O).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use serde_json::Value;
use swarmpki_conformance::group::{self, Group};
use swarmpki_conformance::rotation::{Marks, all_follow, ca_status, rotate_with_deadline, rotated, waits_for};
use swarmpki_conformance::{all_ready, in_state, node_id};
use testkit::daemon::Daemon;
use testkit::net::Net;
use testkit::{require_or_skip, wait};

/// A node is Down when three heartbeats of five seconds are missing.
const DOWN_WITHIN: Duration = Duration::from_secs(60);

/// A manager on the first host of a network, a worker on each of the others; the last one is cut off.
struct Field {
    group: Group,
    workers: Vec<(Daemon, String)>,
    net: Net,
}

impl Field {
    fn start() -> Self {
        let net = Net::make(3);
        let group = Group::of(vec![(net.daemon(1, "manager1"), net.host(1))]);
        let token = group::token(&group.managers[0], "Worker");
        let workers = [2, 3].map(|n| {
            let worker = net.daemon(n, &format!("worker{n}"));
            let id = group::join(&worker, net.host(n), &token, &group.swarm(0));
            (worker, id)
        });
        let field = Self { group, workers: workers.into(), net };
        all_ready(field.manager(), &field.ids());
        field
    }

    fn manager(&self) -> &Daemon {
        &self.group.managers[0]
    }

    fn ids(&self) -> Vec<&str> {
        self.workers.iter().map(|(_, id)| id.as_str()).collect()
    }

    /// Cuts the last worker off; which.
    fn cut(&self) -> &str {
        self.net.cut(&[3], &[1, 2]);
        self.workers[1].1.as_str()
    }

    /// The network heals: everybody is back, with its id, and follows the root of now.
    fn healed(&self) {
        self.net.heal();
        all_ready(self.manager(), &self.ids());
        let mut all = vec![node_id(self.manager())];
        all.extend(self.ids().into_iter().map(str::to_owned));
        all_follow(self.manager(), &all);
        for (worker, id) in &self.workers {
            assert_eq!(node_id(worker), *id);
        }
    }
}

fn named(list: &Value) -> Vec<(&str, &str)> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|node| (node["node"].as_str().unwrap_or_default(), node["reason"].as_str().unwrap_or_default()))
        .collect()
}

#[test]
fn cut_off_during_a_whole_rotation_it_comes_back_by_itself() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let field = Field::start();
    let (manager, before) = (field.manager(), Marks::of(field.manager()));
    let far = field.cut();
    manager.swarmpki(&["ca", "rotate", "--detach"]).ok();
    waits_for(manager, "renew", &[far]);
    // Only then: on a busy machine another one might need longer.
    rotate_with_deadline(manager, Duration::from_secs(1));
    rotated(manager, &before);
    let status = ca_status(manager);
    let last = &status["last"];
    assert_eq!((&last["aside"][0]["node"], &last["aside_count"]), (&Value::from(far), &Value::from(1)), "{status}");
    assert_eq!((&last["to"], &last["aborted"]), (&status["served"]["digest"], &Value::Bool(false)));
    assert!(status["stragglers"].to_string().contains(far), "{status}");
    assert!(status["left_behind"].is_null(), "nobody is lost: {status}");
    in_state(manager, &[far], "down", DOWN_WITHIN);
    field.healed();
}

#[test]
fn a_rotation_that_waits_for_it_is_given_a_deadline_by_the_same_command() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let field = Field::start();
    let (manager, before) = (field.manager(), Marks::of(field.manager()));
    let far = field.cut();
    manager.swarmpki(&["ca", "rotate", "--detach"]).ok();
    let waiting = waits_for(manager, "renew", &[far]);
    // Again without anything: nothing is changed, no other root is made.
    manager.swarmpki(&["ca", "rotate", "--detach"]).ok();
    let again = waits_for(manager, "renew", &[far]);
    assert_eq!((&again["id"], &again["to"], &again["policy"]), (&waiting["id"], &waiting["to"], &waiting["policy"]));
    let said = manager.swarmpki(&["ca", "rotate", "--deadline", "1s"]);
    assert!(said.stderr.contains("under way already"), "{said:?}");
    rotated(manager, &before);
    let status = ca_status(manager);
    assert_eq!((&status["last"]["id"], &status["last"]["to"]), (&waiting["id"], &waiting["to"]["digest"]), "{status}");
    field.healed();

    // And one that waits goes on by itself when the network heals.
    let before = Marks::of(manager);
    field.cut();
    manager.swarmpki(&["ca", "rotate", "--detach"]).ok();
    waits_for(manager, "renew", &[far]);
    field.net.heal();
    rotated(manager, &before);
    field.healed();
}

#[test]
fn whom_an_emergency_left_behind_is_named_until_it_is_removed() {
    require_or_skip!("swarmpki", "netns", "openssl");
    let field = Field::start();
    let (manager, before) = (field.manager(), Marks::of(field.manager()));
    let far = field.cut().to_owned();
    manager.swarmpki(&["ca", "rotate", "--emergency", "--bound", "8s", "--yes", "--quiet"]).ok();
    rotated(manager, &before);
    let status = ca_status(manager);
    assert_eq!(named(&status["left_behind"]), [(far.as_str(), "left-behind")], "{status}");
    let remedy = status["left_behind"][0]["remedy"].as_str().unwrap();
    assert!(remedy.contains(&format!("swarmpki node rm --force {far}")) && remedy.contains("leave"), "{remedy}");
    let said = manager.swarmpki(&["ca", "status"]).ok();
    assert!(said.contains("left behind, for which the next rotation would wait"), "{said}");
    let said = manager.swarmpki(&["ca", "rotate", "--dry-run"]).ok();
    assert!(
        said.contains("1 node would be waited for:") && said.contains("it was left behind") && said.contains(&far),
        "{said}"
    );

    // Also with its network it does not come back, and the next rotation says so.
    field.net.heal();
    let before = Marks::of(manager);
    manager.swarmpki(&["ca", "rotate", "--detach"]).ok();
    let waiting = waits_for(manager, "renew", &[&far]);
    assert_eq!(named(&waiting["blocking"]), [(far.as_str(), "left-behind")]);
    manager.swarmpki(&["node", "rm", "--force", &far]).ok();
    rotated(manager, &before);
    wait::until_true("nobody is named", Duration::from_secs(10), || ca_status(manager)["left_behind"].is_null());

    // And as a new node it is back.
    let (worker, _) = &field.workers[1];
    worker.swarmpki(&["leave", "--force"]).ok();
    let token = group::token(manager, "Worker");
    let id = group::join(worker, field.net.host(3), &token, &field.group.swarm(0));
    assert_ne!(id, far);
    all_ready(manager, &[&id]);
}
