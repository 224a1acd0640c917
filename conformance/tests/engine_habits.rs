//! What a real engine as a worker does with a manager that is short of words (conformance 374 to 376): what our manager counts on, and
//! what it may leave out. The manager is ours where it behaves so, else one in this process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../crates/agent/tests/fake/mod.rs"]
mod fake;

use std::time::Duration;

use fake::{Fake, Forgotten, Listening};
use pki::identity::Role;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::{all_ready, in_state, info, join, node_id, state, token};
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::{require_or_skip, wait};

/// What the engine writes down when it opens a session anew.
const SESSION_FAILED: &str = "session failed";

/// An engine that has joined the manager in this process; the runtime that serves it, and where.
fn joined(period_ms: i32, set: impl FnOnce(&Fake)) -> (tokio::runtime::Runtime, Fake, Listening, Loopback, Engine) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = Fake::new(Role::Worker);
    fake.facts().period_ms = period_ms;
    set(&fake);
    let listening = runtime.block_on(fake.listen());
    let (net, engine) = (Loopback::claim(), Engine::start("worker1"));
    let id = join(&engine, net.host(2), fake.token().text(), &listening.addr.to_string());
    assert_eq!(id, "node1");
    (runtime, fake, listening, net, engine)
}

/// Waits until so many more heartbeats were answered.
fn heartbeats(fake: &Fake, more: u64) {
    let before = fake.facts().heartbeats;
    wait::until("heartbeats", Duration::from_secs(60), || {
        let now = fake.facts().heartbeats;
        if now >= before + more { Ok(()) } else { Err(format!("{now} after {before}")) }
    });
}

#[test]
fn c374_an_engine_without_work_or_logs_stays_ready_on_one_session() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let cluster = Cluster::start();
    let engine = Engine::start("worker1");
    let id = join(&engine, cluster.net.host(2), &token(&cluster.manager, "worker"), &cluster.net.swarm(1));
    all_ready(&cluster.manager, &[&id]);
    let from = engine.log_len();
    wait::throughout("the engine stays Ready", Duration::from_secs(60), || {
        match state(&cluster.manager, &id).as_str() {
            "ready" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    let log = engine.log();
    assert!(!log[from..].contains(SESSION_FAILED), "{}", &log[from..]);
    assert_eq!(node_id(&engine), id);
}

#[test]
fn c375_an_engine_lives_with_tasks_where_there_are_no_assignments_and_no_log_broker() {
    require_or_skip!("dockerd", "docker");
    let (_runtime, fake, _listening, _net, engine) = joined(250, |fake| fake.facts().assigns = false);
    heartbeats(&fake, 20);
    let facts = fake.facts();
    assert!(facts.tasks >= 1, "it asked for tasks");
    assert_eq!(facts.sessions.len(), 1, "and its session stands");
    drop(facts);
    assert!(fake.told.borrow().assignments >= 1, "after it had asked for assignments");
    assert_eq!(info(&engine)["LocalNodeState"], "active");
}

#[test]
fn c376_an_engine_that_is_told_it_is_not_registered_registers_at_once() {
    require_or_skip!("dockerd", "docker");
    let (_runtime, fake, _listening, _net, _engine) = joined(250, |_| {});
    // The best of three: what else this machine does only adds.
    let afters = (0..3).map(|_| {
        heartbeats(&fake, 2);
        fake.facts().forgotten = Forgotten::Yes;
        let (after, _) =
            wait::until("the engine registers again", Duration::from_secs(30), || match fake.facts().forgotten {
                Forgotten::Back(after) => Ok(after),
                other => Err(format!("{other:?}")),
            });
        after
    });
    let best = afters.min().unwrap();
    assert!(best < Duration::from_secs(1), "{best:?}");
    heartbeats(&fake, 2);
    assert_eq!(fake.facts().nodes["node1"].issued, 1, "with the certificate that it has");
}

#[test]
fn c376_an_engine_that_hung_is_down_and_ready_again_by_itself() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let cluster = Cluster::start();
    cluster.update("", |spec| spec["Dispatcher"]["HeartbeatPeriod"] = 1_000_000_000_u64.into());
    let engine = Engine::start("worker1");
    let id = join(&engine, cluster.net.host(2), &token(&cluster.manager, "worker"), &cluster.net.swarm(1));
    all_ready(&cluster.manager, &[&id]);
    engine.hang();
    in_state(&cluster.manager, &[&id], "down", Duration::from_secs(40));
    engine.go_on();
    all_ready(&cluster.manager, &[&id]);
    assert_eq!(node_id(&engine), id);
}
