//! Conformance with the reference: what strangers say of us. The tests are in `tests/`; here is what they share: reading a swarm
//! through the Engine API of any of its managers, ours or a real engine's.
//!
//! `COVERAGE.md` lists which items of the conformance list have a test, and which do not, and why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests only: they report by panicking"
)]

pub mod caller;
pub mod cfssl;
pub mod cluster;
pub mod csr;
pub mod group;
pub mod history;
pub mod method;
pub mod outside;
pub mod puppet;
pub mod rotation;
pub mod softhsm;
pub mod storm;
pub mod thief;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use testkit::server::Server;
use testkit::wait;

/// A node may take this long to be Ready: a real engine chooses its next try within 8 s.
pub const READY_WITHIN: Duration = Duration::from_secs(30);

/// Makes `manager` the first manager of a swarm at `host`, with the stock client; returns its node id.
pub fn init(manager: &Server, host: Ipv4Addr) -> String {
    let listen = format!("{host}:2377");
    let said = manager.docker(&["swarm", "init", "--advertise-addr", &host.to_string(), "--listen-addr", &listen]).ok();
    let id = node_id(manager);
    assert!(said.starts_with(&format!("Swarm initialized: current node ({id}) is now a manager.")), "{said}");
    id
}

/// The join token for `role` (`worker` or `manager`), as `docker swarm join-token -q` prints it.
pub fn token(manager: &Server, role: &str) -> String {
    manager.docker(&["swarm", "join-token", "-q", role]).ok()
}

/// Makes `node` join as a worker at `host`, with the stock client; returns its node id.
pub fn join(node: &Server, host: Ipv4Addr, token: &str, manager: &str) -> String {
    let output = try_join(node, host, token, manager);
    assert_eq!(output.ok(), "This node joined a swarm as a worker.");
    node_id(node)
}

/// The same without a view on how it ends.
pub fn try_join(node: &Server, host: Ipv4Addr, token: &str, manager: &str) -> testkit::docker::Output {
    let (advertise, listen) = (host.to_string(), format!("{host}:2377"));
    node.docker(&["swarm", "join", "--token", token, "--advertise-addr", &advertise, "--listen-addr", &listen, manager])
}

/// `docker swarm unlock` with this line on its standard input.
pub fn unlock(manager: &Server, line: &str) -> testkit::docker::Output {
    let socket = format!("unix://{}", manager.socket().display());
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "printf '%s\\n' \"$1\" | docker -H \"$0\" swarm unlock", &socket, line]);
    testkit::docker::run(&mut command)
}

/// The id of the node at this API, as it says itself.
pub fn node_id(node: &Server) -> String {
    let info = info(node);
    info["NodeID"].as_str().expect("a node id").to_owned()
}

/// The swarm part of `GET /info`.
pub fn info(node: &Server) -> Value {
    node.api("GET", "/info", None).json()["Swarm"].take()
}

/// `GET /swarm`.
pub fn swarm(manager: &Server) -> Value {
    let answer = manager.api("GET", "/swarm", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// `GET /nodes`.
pub fn nodes(manager: &Server) -> Vec<Value> {
    let answer = manager.api("GET", "/nodes", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json().as_array().expect("a list").clone()
}

/// The node with that id in `GET /nodes`, if it is listed.
pub fn node(manager: &Server, id: &str) -> Option<Value> {
    nodes(manager).into_iter().find(|node| node["ID"] == id)
}

/// What the manager says of a node's state: `ready`, `down`, …, or `not listed`; or its refusal, while it starts.
pub fn state(manager: &Server, id: &str) -> String {
    let answer = manager.api("GET", "/nodes", None);
    if answer.status != 200 {
        return answer.body;
    }
    let listed = answer.json();
    let node = listed.as_array().and_then(|nodes| nodes.iter().find(|node| node["ID"] == id));
    node.and_then(|node| node["Status"]["State"].as_str()).unwrap_or("not listed").to_owned()
}

/// Waits until the manager lists all of them as ready.
pub fn all_ready(manager: &Server, ids: &[&str]) -> Duration {
    in_state(manager, ids, "ready", READY_WITHIN)
}

/// Waits until the manager lists all of them in this state.
pub fn in_state(manager: &Server, ids: &[&str], wanted: &str, limit: Duration) -> Duration {
    let what = format!("{} calls {ids:?} {wanted}", manager.name());
    let (_, took) = wait::until(&what, limit, || {
        let seen: Vec<_> = ids.iter().map(|id| state(manager, id)).collect();
        if seen.iter().all(|state| state == wanted) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    took
}

/// The digest of the trust root, as join tokens and `docker swarm ca --rotate` name it, cut out of a token.
pub fn digest_of(token: &str) -> &str {
    token.split('-').nth(2).expect("SWMTKN-1-DIGEST-SECRET")
}

/// A token of the same cluster with another secret.
pub fn with_other_secret(token: &str) -> String {
    let (head, secret) = token.rsplit_once('-').expect("a token");
    format!("{head}-{}", shifted(secret))
}

/// A well-formed token that names another root.
pub fn with_other_digest(token: &str) -> String {
    let digest = digest_of(token);
    token.replacen(digest, &shifted(digest), 1)
}

/// Other digits of the same number: the last two are exchanged, or changed if they are equal. Never larger than what the field holds,
/// since the leading digits stay.
fn shifted(digits: &str) -> String {
    let (head, tail) = digits.split_at(digits.len() - 2);
    let mut reversed: String = tail.chars().rev().collect();
    if reversed == tail {
        reversed = if tail == "00" { "01".into() } else { "00".into() };
    }
    format!("{head}{reversed}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_changed_in_one_part_only() {
        let token = "SWMTKN-1-0123ab-xyz9";
        assert_eq!(with_other_secret(token), "SWMTKN-1-0123ab-xy9z");
        assert_eq!(with_other_digest(token), "SWMTKN-1-0123ba-xyz9");
        assert_eq!(with_other_secret("SWMTKN-1-0-a77"), "SWMTKN-1-0-a00");
        assert_eq!(with_other_secret("SWMTKN-1-0-a00"), "SWMTKN-1-0-a01");
    }
}
