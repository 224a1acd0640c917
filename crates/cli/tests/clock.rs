//! Clocks as an operator sees them: a node's in `node ls`, and a node whose clock is off, against a live manager.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod live;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use live::Up;
use nix::sys::signal::Signal;
use swarmpki::{Config, JoinRequest, Node, Phase, Status, Time};
use tokio::sync::watch;

const DAY: i64 = 86_400;

/// A clock that a test sets wrong by so many seconds.
fn shifted() -> (Arc<AtomicI64>, Arc<dyn Fn() -> Time + Send + Sync>) {
    let shift = Arc::new(AtomicI64::new(0));
    let seconds = shift.clone();
    let clock = move || {
        let now = Time::from(SystemTime::now()).unix_millis();
        Time::from_unix_millis(now + seconds.load(Ordering::Relaxed) * 1000)
    };
    (shift, Arc::new(clock))
}

async fn when(status: &mut watch::Receiver<Status>, what: &str, good: impl FnMut(&Status) -> bool) -> Status {
    let found =
        tokio::time::timeout(Duration::from_secs(40), status.wait_for(good)).await.map(|found| found.unwrap().clone());
    found.unwrap_or_else(|_| panic!("waited too long for {what}: {:?}", status.borrow().clone()))
}

fn request(up: &Up) -> JoinRequest {
    JoinRequest::new(up.token("worker").parse().unwrap(), [up.addr()])
}

#[tokio::test]
async fn clocks_are_listed_and_a_wrong_one_is_named_until_it_is_right() {
    let home = tempfile::tempdir().unwrap();
    let up = Up::start(home.path());
    let dir = tempfile::tempdir().unwrap();
    let (shift, clock) = shifted();
    shift.store(-90, Ordering::Relaxed);
    let node = Node::join(Config { clock, ..Config::new(dir.path()) }, request(&up)).await.unwrap();
    let id = node.status().borrow().node.clone().unwrap().to_string();
    let mut status = node.status();
    let running = tokio::spawn(node.run(std::future::pending::<()>()));
    when(&mut status, "ready", |status| status.phase == Phase::Ready).await;

    // The manager's own node, and one whose clock is 90 s behind.
    let offset = |id: &str| {
        let nodes: serde_json::Value = serde_json::from_str(&up.run(&["node", "ls", "--json"])).unwrap();
        let row = nodes.as_array().unwrap().iter().find(|row| row["ID"] == id).unwrap().clone();
        row["Swarmpki"]["clock_offset_ms"].as_i64().unwrap_or_else(|| panic!("{row}"))
    };
    assert!((-91_500..=-90_000).contains(&offset(&id)), "{}", offset(&id));
    assert!(offset(&up.node()).abs() < 1_000, "{}", offset(&up.node()));
    let page = up.run(&["info"]);
    let line = page.lines().find(|line| line.contains("Clock Offset:")).unwrap();
    assert!(line.trim_end().ends_with(" ms"), "{line}");

    // So far ahead that the manager's certificate seems to have ended; met at the next connection.
    shift.store(200 * DAY, Ordering::Relaxed);
    let up = up.restart(Signal::SIGKILL);
    let told = when(&mut status, "the clock's name", |status| {
        status.last_error.as_ref().is_some_and(|trouble| trouble.text.contains("this machine's clock"))
    });
    let told = told.await;
    let text = told.last_error.unwrap().text;
    assert_eq!(told.phase, Phase::Expired);
    assert!(
        text.starts_with("this machine's clock is 199d 23h ahead of the managers': ")
            || text.starts_with("this machine's clock is 200d ahead of the managers': "),
        "{text}"
    );

    shift.store(0, Ordering::Relaxed);
    when(&mut status, "ready again", |status| status.phase == Phase::Ready && status.last_error.is_none()).await;
    when(&mut status, "the offset", |status| status.clock_offset.is_some_and(|offset| offset.ms.abs() < 1_000)).await;
    running.abort();
    up.stop(Signal::SIGTERM);
}

#[tokio::test]
async fn a_join_with_a_wrong_clock_says_by_how_much() {
    let home = tempfile::tempdir().unwrap();
    let up = Up::start(home.path());
    for (seconds, words) in [
        (-2 * 3600, "this machine's clock is about 2h behind the managers': "),
        (200 * DAY, "this machine's clock is 200d ahead of the managers': "),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (shift, clock) = shifted();
        shift.store(seconds, Ordering::Relaxed);
        let error = Node::join(Config { clock, ..Config::new(dir.path()) }, request(&up)).await.err().unwrap();
        let text = error.to_string();
        // A round trip may cost the last unit.
        let near = words.replace("2h behind", "1h 59m behind").replace("200d ahead", "199d 23h ahead");
        assert!(text.starts_with(words) || text.starts_with(&near), "{text}");
        assert!(error.hint().contains("NTP"), "{}", error.hint());

        // The same directory, the clock right: the join goes on as if nothing had been.
        shift.store(0, Ordering::Relaxed);
        let clock = Config::new(dir.path()).clock;
        let node = Node::join(Config { clock, ..Config::new(dir.path()) }, request(&up)).await.unwrap();
        assert!(node.status().borrow().last_error.is_none());
    }
    up.stop(Signal::SIGTERM);
}
