//! `GET /events`: changes of nodes, as a stream of JSON objects (engine-api.md 11).
//!
//! Each stream compares consecutive lists of nodes itself, so that a manager nobody listens to pays nothing. There is no
//! history: `since` in the past shows nothing older than the request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use manager::server::bounded::Place;
use manager::view::{ManagerStatus, NodeView};
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::debug;

use super::Answer;
use super::convert::{availability_word, hostname, state_word};
use super::error::ApiError;
use super::filter::Filters;
use super::query::Query;
use crate::backend::{Backend, Control, Present};
use crate::caller::{Holder, Right};

const FILTERS: [&str; 15] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
    "id",
];
/// Events waiting for a slow reader before the stream waits too.
const BACKLOG: usize = 64;
/// Changes closer together than this are compared once.
const PACE: Duration = Duration::from_millis(50);

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// `node`.
    #[serde(rename = "Type")]
    pub kind: &'static str,
    /// `create`, `update`, `remove`.
    #[serde(rename = "Action")]
    pub action: &'static str,
    /// Whom it is about.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// `swarm`.
    pub scope: &'static str,
    /// Unix seconds.
    pub time: i64,
    /// Unix nanoseconds.
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// Whom an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Actor {
    /// The node's id.
    #[serde(rename = "ID")]
    pub id: String,
    /// `name`, and `<what>.old` and `<what>.new` for what changed.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// The events between two lists of nodes. Unfinished joins are not there.
pub fn between(old: &[NodeView], new: &[NodeView], now: pki::time::Time) -> Vec<Event> {
    let listed = |nodes: &[NodeView]| -> BTreeMap<String, NodeView> {
        nodes.iter().filter(|node| !node.unfinished).map(|node| (node.id.to_string(), node.clone())).collect()
    };
    let (old, new) = (listed(old), listed(new));
    let event = |action, node: &NodeView, changes: Vec<(&str, String, String)>| {
        let mut attributes = BTreeMap::from([("name".to_owned(), hostname(node).to_owned())]);
        for (what, before, after) in changes {
            attributes.insert(format!("{what}.old"), before);
            attributes.insert(format!("{what}.new"), after);
        }
        Event {
            kind: "node",
            action,
            actor: Actor { id: node.id.to_string(), attributes },
            scope: "swarm",
            time: now.unix_secs(),
            time_nano: now.unix_millis().saturating_mul(1_000_000),
        }
    };
    let mut events = Vec::new();
    for (id, node) in &new {
        match old.get(id) {
            None => events.push(event("create", node, Vec::new())),
            Some(before) => {
                let changes = changes(before, node);
                if before.version != node.version || !changes.is_empty() {
                    events.push(event("update", node, changes));
                }
            }
        }
    }
    events
        .extend(old.iter().filter(|(id, _)| !new.contains_key(*id)).map(|(_, node)| event("remove", node, Vec::new())));
    events
}

fn changes(old: &NodeView, new: &NodeView) -> Vec<(&'static str, String, String)> {
    let pair = |what, before: &str, after: &str| (what, before.to_owned(), after.to_owned());
    let leader = |status: &ManagerStatus| if status.leader { "true" } else { "false" };
    let reachability = |status: &ManagerStatus| if status.reachable { "reachable" } else { "unreachable" };
    let mut all = vec![
        pair("availability", availability_word(old.spec.availability), availability_word(new.spec.availability)),
        pair("role", old.role.word(), new.role.word()),
        pair("state", state_word(old.state), state_word(new.state)),
    ];
    if let (Some(before), Some(after)) = (&old.manager, &new.manager) {
        all.push(pair("leader", leader(before), leader(after)));
        all.push(pair("reachability", reachability(before), reachability(after)));
    }
    all.retain(|(_, before, after)| before != after);
    all
}

/// Whether a stream asked for this event.
fn wanted(filters: &Filters, event: &Event) -> bool {
    let name = event.actor.attributes.get("name").map_or("", String::as_str);
    filters.admits("type", |kind| kind == event.kind)
        && filters.admits("event", |action| action == event.action)
        && filters.admits("scope", |scope| scope == event.scope)
        && filters.admits("node", |node| event.actor.id.starts_with(node) || node == name)
        && filters.admits_labels("label", &event.actor.attributes)
        && ["config", "container", "daemon", "image", "network", "plugin", "secret", "service", "volume"]
            .iter()
            .all(|other| filters.values(other).next().is_none())
}

/// A point in time as Docker's clients write it: Unix seconds with an optional fraction; `None` if empty.
fn moment(name: &str, text: &str) -> Result<Option<SystemTime>, ApiError> {
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let refused = || ApiError::bad_request(format!("invalid {name}: {text:?} is not a Unix time"));
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: u64 = seconds.parse().map_err(|_| refused())?;
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused());
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().map_err(|_| refused())?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos)).map(Some).ok_or_else(refused)
}

/// Waits until the place has to be given up.
async fn evicted(place: Option<&Place<Holder>>) {
    match place {
        Some(place) => place.evicted().await,
        None => std::future::pending().await,
    }
}

pub(super) fn events(backend: &Backend, right: Right, query: &Query) -> Answer {
    let filters = Filters::parse(query.value("filters"), &FILTERS)?;
    let since = moment("since", query.value("since"))?;
    let until = moment("until", query.value("until"))?;
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(ApiError::bad_request("`since` time cannot be after `until` time"));
    }
    let (lines, queue) = mpsc::channel::<Bytes>(BACKLOG);
    let remaining = until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
    let place = backend.stream(right);
    let (backend, ends) = (backend.clone(), backend.ends().clone());
    // Taken before the answer begins: whoever has read its head misses nothing that comes after.
    let mut seen = backend.present().control().ok().map(Seen::now);
    tokio::spawn(async move {
        let limit = async {
            match remaining {
                Some(remaining) => tokio::time::sleep(remaining).await,
                None => std::future::pending().await,
            }
        };
        let closed = lines.clone();
        tokio::select! {
            () = limit => {}
            () = ends.cancelled() => {}
            () = evicted(place.as_ref()) => debug!("a stream of events gave way: its caller has most of them"),
            () = closed.closed() => {}
            () = follow(&backend, &mut seen, &filters, &lines) => {}
        }
    });
    let frames = stream::unfold(queue, |mut queue| async move {
        queue.recv().await.map(|line| (Ok::<_, Infallible>(Frame::data(line)), queue))
    });
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

/// What a stream has told of so far.
struct Seen {
    changes: tokio::sync::watch::Receiver<u64>,
    nodes: Vec<NodeView>,
}

impl Seen {
    fn now(control: &Control) -> Self {
        let changes = control.changed();
        Self { changes, nodes: control.nodes() }
    }
}

/// Sends what happens while this machine is a manager; waits while it is not.
async fn follow(backend: &Backend, seen: &mut Option<Seen>, filters: &Filters, lines: &mpsc::Sender<Bytes>) {
    let mut present = backend.lifecycle().watch();
    loop {
        let now = present.borrow_and_update().clone();
        match &*now {
            Present::Manager(_, control, _) => tokio::select! {
                () = follow_manager(control, seen, filters, lines) => return,
                changed = still_manager(&mut present) => {
                    *seen = None;
                    if !changed {
                        return;
                    }
                }
            },
            _ => {
                if present.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Returns when this machine is no manager any more: true; or when the daemon ends: false.
async fn still_manager(present: &mut tokio::sync::watch::Receiver<std::sync::Arc<Present>>) -> bool {
    present.wait_for(|present| !matches!(**present, Present::Manager(..))).await.is_ok()
}

async fn follow_manager(control: &Control, seen: &mut Option<Seen>, filters: &Filters, lines: &mpsc::Sender<Bytes>) {
    let seen = seen.get_or_insert_with(|| Seen::now(control));
    while seen.changes.changed().await.is_ok() {
        let nodes = control.nodes();
        let now = crate::clock::now();
        for event in between(&seen.nodes, &nodes, now).iter().filter(|event| wanted(filters, event)) {
            let Ok(mut line) = serde_json::to_vec(event) else { continue };
            line.push(b'\n');
            if lines.send(Bytes::from(line)).await.is_err() {
                return;
            }
        }
        seen.nodes = nodes;
        tokio::time::sleep(PACE).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::fixture;
    use super::*;
    use manager::view::{Availability, NodeState};
    use pki::identity::Role;
    use pki::time::Time;

    fn now() -> Time {
        Time::from_unix_millis(1_795_294_266_561)
    }

    #[test]
    fn an_event_as_the_engine_writes_it() {
        let old = fixture::node("6qg", "worker1", Role::Worker);
        let mut new = old.clone();
        new.version += 1;
        new.spec.availability = Availability::Drain;
        let events = between(&[old], &[new], now());
        assert_eq!(
            serde_json::to_string(&events[0]).unwrap(),
            r#"{"Type":"node","Action":"update","Actor":{"ID":"6qg","Attributes":{"availability.new":"drain","availability.old":"active","name":"worker1"}},"scope":"swarm","time":1795294266,"timeNano":1795294266561000000}"#
        );
    }

    #[test]
    fn what_is_told_and_what_not() {
        let node = fixture::node("a", "w", Role::Worker);
        let mut down = node.clone();
        down.state = NodeState::Down;
        let mut seen = node.clone();
        seen.last_contact = Some(now());
        let rows: [(&[NodeView], &[NodeView], &[&str]); 6] = [
            (&[], std::slice::from_ref(&node), &["create"]),
            (std::slice::from_ref(&node), &[], &["remove"]),
            (std::slice::from_ref(&node), std::slice::from_ref(&node), &[]),
            (std::slice::from_ref(&node), std::slice::from_ref(&seen), &[]),
            (std::slice::from_ref(&node), std::slice::from_ref(&down), &["update"]),
            (&[], &[fixture::unfinished("u")], &[]),
        ];
        for (old, new, expected) in rows {
            let actions: Vec<&str> = between(old, new, now()).iter().map(|event| event.action).collect();
            assert_eq!(actions, expected);
        }
        let attributes = &between(&[node], &[down], now())[0].actor.attributes;
        assert_eq!(attributes.get("state.new").map(String::as_str), Some("down"));
    }

    #[test]
    fn filters() {
        let event = &between(&[], &[fixture::node("abc", "w1", Role::Worker)], now())[0];
        let rows = [
            ("", true),
            (r#"{"type":["node"]}"#, true),
            (r#"{"type":["container"]}"#, false),
            (r#"{"event":["create","remove"]}"#, true),
            (r#"{"event":["update"]}"#, false),
            (r#"{"scope":["swarm"]}"#, true),
            (r#"{"scope":["local"]}"#, false),
            (r#"{"node":["w1"]}"#, true),
            (r#"{"node":["abc"]}"#, true),
            (r#"{"node":["x"]}"#, false),
            (r#"{"container":["x"]}"#, false),
        ];
        for (raw, expected) in rows {
            assert_eq!(wanted(&Filters::parse(raw, &FILTERS).unwrap(), event), expected, "{raw}");
        }
    }

    #[test]
    fn moments() {
        let seconds = |text: &str| {
            moment("since", text).map(|time| time.map(|time| time.duration_since(SystemTime::UNIX_EPOCH).unwrap()))
        };
        assert_eq!(seconds("").unwrap(), None);
        assert_eq!(seconds("1795294266").unwrap(), Some(Duration::from_secs(1_795_294_266)));
        assert_eq!(seconds("1.5").unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(seconds("1.000000001").unwrap(), Some(Duration::new(1, 1)));
        for bad in ["x", "1.0000000001", "-1", "1.x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
