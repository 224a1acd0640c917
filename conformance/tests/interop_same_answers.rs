//! The same requests to a real engine and to our daemon, both the only manager of their swarm: the same statuses and the same words
//! (conformance H and L, as far as the Engine API shows them).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use swarmpki_conformance::{digest_of, init, node, swarm};
use testkit::daemon::Daemon;
use testkit::engine::Engine;
use testkit::loopback::Loopback;
use testkit::require_or_skip;
use testkit::server::Server;

const MINUTE: i64 = 60_000_000_000;

/// Status and message.
type Said = (u16, String);

/// Two managers of two swarms, and where they differed.
struct Both {
    engine: Engine,
    ours: Daemon,
    /// Node ids of the two.
    ids: [String; 2],
    differences: Vec<String>,
    /// Last, so that it is given back when nobody listens there any more.
    _net: Loopback,
}

/// One of them, as a request sees it.
struct Manager<'a> {
    server: &'a Server,
    id: &'a str,
}

impl Both {
    fn start() -> Self {
        let net = Loopback::claim();
        let (engine, ours) = (Engine::start("manager1"), Daemon::start("manager1"));
        let ids = [init(&engine, net.host(1)), init(&ours, net.host(2))];
        Self { engine, ours, ids, differences: Vec::new(), _net: net }
    }

    /// Asks both; answers what the engine said.
    fn ask(&mut self, what: &str, request: impl Fn(&Manager<'_>) -> Said) -> Said {
        let theirs = request(&Manager { server: &self.engine, id: &self.ids[0] });
        let ours = request(&Manager { server: &self.ours, id: &self.ids[1] });
        if ours != theirs {
            self.differences.push(format!("{what}:\n  engine {theirs:?}\n  ours   {ours:?}"));
        }
        theirs
    }

    /// Asks both, and both have to say this.
    fn told(&mut self, what: &str, status: u16, text: &str, request: impl Fn(&Manager<'_>) -> Said) {
        let said = self.ask(what, request);
        if said.0 != status || !said.1.contains(text) {
            self.differences.push(format!("{what}: expected {status} {text:?} of both, engine {said:?}"));
        }
    }

    fn end(self) {
        assert!(self.differences.is_empty(), "{}", self.differences.join("\n"));
    }
}

impl Manager<'_> {
    /// Its answer, with its own id left out.
    fn said(&self, method: &str, path: &str, body: Option<&Value>) -> Said {
        let answer = self.server.api(method, path, body.map(Value::to_string).as_deref());
        let json: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let text = json["message"].as_str().unwrap_or(&answer.body).trim().replace(self.id, "ID");
        (answer.status, unparsed(&text).unwrap_or(text))
    }

    /// Changes the swarm's settings; `version` makes the parameters, given the version of now.
    fn update_swarm(&self, version: impl Fn(u64) -> String, change: impl Fn(&mut Value)) -> Said {
        let mut swarm = swarm(self.server);
        change(&mut swarm["Spec"]);
        let path = format!("/swarm/update{}", version(swarm["Version"]["Index"].as_u64().unwrap()));
        self.said("POST", &path, Some(&swarm["Spec"]))
    }

    /// The same of its own node.
    fn update_node(&self, version: impl Fn(u64) -> String, change: impl Fn(&mut Value)) -> Said {
        let mut node = node(self.server, self.id).unwrap();
        change(&mut node["Spec"]);
        let path = format!("/nodes/{}/update{}", self.id, version(node["Version"]["Index"].as_u64().unwrap()));
        self.said("POST", &path, Some(&node["Spec"]))
    }
}

/// The words of a JSON parser, as far as all versions of the engine agree: newer ones set `invalid JSON:` in front, and the rest names types
/// of the program, not of the API.
fn unparsed(text: &str) -> Option<String> {
    let text = text.strip_prefix("invalid JSON: ").unwrap_or(text);
    let what = text.strip_prefix("json: cannot unmarshal ")?.split(' ').next()?;
    Some(format!("json: cannot unmarshal {what}"))
}

/// The version as it should be.
fn right(index: u64) -> String {
    format!("?version={index}")
}

fn unchanged(_: &mut Value) {}

#[test]
fn c238_c240_to_c246_updates_of_the_settings_are_judged_as_an_engine_does() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let mut both = Both::start();
    both.ask("no version", |manager| manager.update_swarm(|_| String::new(), unchanged));
    both.ask("a version that is no number", |manager| manager.update_swarm(|_| "?version=x".into(), unchanged));
    both.ask("a negative version", |manager| manager.update_swarm(|_| "?version=-1".into(), unchanged));
    both.ask("version 0", |manager| manager.update_swarm(|_| "?version=0".into(), unchanged));
    both.told("an old version", 500, "update out of sequence", |manager| {
        manager.update_swarm(|now| format!("?version={}", now - 1), unchanged)
    });
    both.told("a version to come", 500, "update out of sequence", |manager| {
        manager.update_swarm(|now| format!("?version={}", now + 9), unchanged)
    });
    both.told("the same settings", 200, "", |manager| manager.update_swarm(right, unchanged));
    for (what, body) in [("null", Value::Null), ("a list", json!([])), ("a text", json!("x"))] {
        both.ask(what, |manager| {
            let path = format!("/swarm/update{}", right(swarm(manager.server)["Version"]["Index"].as_u64().unwrap()));
            manager.said("POST", &path, Some(&body))
        });
    }
    for (life, status) in
        [(29 * MINUTE, 400), (59 * MINUTE, 400), (60 * MINUTE - 1, 400), (60 * MINUTE, 200), (-MINUTE, 400)]
    {
        let text = if status == 200 { "" } else { "minimum certificate expiry time is: 1h0m0s" };
        both.told(&format!("a life of {life} ns"), status, text, |manager| {
            manager.update_swarm(right, |spec| spec["CAConfig"]["NodeCertExpiry"] = life.into())
        });
    }
    both.ask("a life of a fraction", |manager| {
        manager.update_swarm(right, |spec| spec["CAConfig"]["NodeCertExpiry"] = json!(3.6e12 + 0.5))
    });
    both.ask("a negative heartbeat", |manager| {
        manager.update_swarm(right, |spec| spec["Dispatcher"]["HeartbeatPeriod"] = (-29 * MINUTE).into())
    });
    for name in ["", "blah", "Default"] {
        both.ask(&format!("the name {name:?}"), |manager| {
            manager.update_swarm(right, |spec| spec["Name"] = name.into())
        });
    }
    both.ask("an unknown field", |manager| manager.update_swarm(right, |spec| spec["Nonesuch"] = 1.into()));
    both.ask("labels", |manager| manager.update_swarm(right, |spec| spec["Labels"] = json!({"a": "b"})));
    both.ask("labels that are none", |manager| manager.update_swarm(right, |spec| spec["Labels"] = json!(7)));
    both.ask("a flag that is none", |manager| {
        manager.update_swarm(|now| format!("?version={now}&rotateWorkerToken=perhaps"), unchanged)
    });
    both.end();
}

#[test]
fn c237_c249_what_is_shown_of_a_swarm() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let mut both = Both::start();
    let tokens = |manager: &Server| {
        let tokens = swarm(manager)["JoinTokens"].clone();
        ["Worker", "Manager"].map(|role| tokens[role].as_str().unwrap().to_owned())
    };
    let before = [tokens(&both.engine), tokens(&both.ours)];
    both.told("new tokens", 200, "", |manager| {
        manager.update_swarm(|now| format!("?version={now}&rotateWorkerToken=true&rotateManagerToken=true"), unchanged)
    });
    let after = [tokens(&both.engine), tokens(&both.ours)];
    for (before, after) in before.iter().flatten().zip(after.iter().flatten()) {
        assert_ne!(before, after);
        assert_eq!(digest_of(before), digest_of(after));
    }
    for manager in [&*both.engine, &*both.ours] {
        let shown = manager.api("GET", "/swarm", None);
        for part in
            ["ID", "Version", "CreatedAt", "UpdatedAt", "Spec", "TLSInfo", "RootRotationInProgress", "JoinTokens"]
        {
            assert!(!shown.json()[part].is_null(), "{}: {part} in {shown:?}", manager.name());
        }
        for secret in ["PRIVATE", "CAKey", "UnlockKey\""] {
            assert!(!shown.body.contains(secret), "{}: {secret} in {shown:?}", manager.name());
        }
    }
    // The same fields in both, but for what the engine's version does not have.
    let fields = |manager: &Server| {
        let mut names = Vec::new();
        names_in("", &swarm(manager), &mut names);
        names
    };
    assert_eq!(fields(&both.ours), fields(&both.engine));
    both.end();
}

/// The paths of all fields, sorted.
fn names_in(path: &str, value: &Value, names: &mut Vec<String>) {
    let Value::Object(fields) = value else {
        return names.push(path.to_owned());
    };
    for (name, value) in fields {
        names_in(&format!("{path}.{name}"), value, names);
    }
}

#[test]
fn c326_c327_c330_updates_of_a_node_are_judged_as_an_engine_does() {
    require_or_skip!("swarmpki", "dockerd", "docker");
    let mut both = Both::start();
    let spec = json!({"Role": "worker", "Availability": "active"});
    both.told("an unknown node", 404, "node nonesuch not found", |manager| {
        manager.said("POST", "/nodes/nonesuch/update?version=1", Some(&spec))
    });
    both.told("an unknown node looked at", 404, "node nonesuch not found", |manager| {
        manager.said("GET", "/nodes/nonesuch", None)
    });
    both.told("an unknown node removed", 404, "node nonesuch not found", |manager| {
        manager.said("DELETE", "/nodes/nonesuch", None)
    });
    both.ask("no version", |manager| manager.update_node(|_| String::new(), unchanged));
    both.ask("a version that is no number", |manager| manager.update_node(|_| "?version=x".into(), unchanged));
    both.ask("version 0", |manager| manager.update_node(|_| "?version=0".into(), unchanged));
    both.told("a version to come", 500, "update out of sequence", |manager| {
        manager.update_node(|now| format!("?version={}", now + 9), unchanged)
    });
    for (what, body) in [("null", Value::Null), ("an empty spec", json!({})), ("a list", json!([]))] {
        both.ask(what, |manager| {
            let version = node(manager.server, manager.id).unwrap()["Version"]["Index"].as_u64().unwrap();
            manager.said("POST", &format!("/nodes/{}/update{}", manager.id, right(version)), Some(&body))
        });
    }
    for (field, value) in [("Role", "boss"), ("Availability", "asleep"), ("Role", ""), ("Availability", "")] {
        both.ask(&format!("{field} {value:?}"), |manager| {
            manager.update_node(right, |spec| spec[field] = value.into())
        });
    }
    both.told("drain", 200, "", |manager| manager.update_node(right, |spec| spec["Availability"] = "drain".into()));
    both.told("the version before", 500, "update out of sequence", |manager| {
        manager.update_node(|now| format!("?version={}", now - 1), |spec| spec["Availability"] = "active".into())
    });
    both.told("demotion", 400, "attempting to demote the last manager of the swarm", |manager| {
        manager.update_node(right, |spec| spec["Role"] = "worker".into())
    });
    both.told("an update after that", 200, "", |manager| {
        manager.update_node(right, |spec| spec["Labels"] = json!({"a": "b"}))
    });
    both.ask("the manager itself removed", |manager| manager.said("DELETE", &format!("/nodes/{}", manager.id), None));
    both.ask("and by force", |manager| manager.said("DELETE", &format!("/nodes/{}?force=1", manager.id), None));
    both.end();
}

#[test]
fn c051_a_join_without_a_token_or_address_is_refused() {
    require_or_skip!("swarmpki", "dockerd");
    let (engine, ours) = (Engine::start("worker1"), Daemon::start("worker1"));
    let net = Loopback::claim();
    let listen = format!("{}:2377", net.host(3));
    let join = |server: &Server, token: &str, remotes: &[&str]| {
        let body = json!({"ListenAddr": listen, "AdvertiseAddr": listen, "RemoteAddrs": remotes, "JoinToken": token});
        Manager { server, id: "ID" }.said("POST", "/swarm/join", Some(&body))
    };
    // Nobody listens at the address: ours does not get as far as asking anybody for a root that it could only believe.
    let nobody = net.swarm(4);
    let said = join(&ours, "", &[&nobody]);
    let text = "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster";
    assert_eq!((said.0, said.1.as_str()), (400, text));
    for (token, remotes) in [("invalidtoken", &[nobody.as_str()][..]), ("invalidtoken", &[])] {
        assert_eq!(join(&ours, token, remotes), join(&engine, token, remotes), "{token:?} {remotes:?}");
    }
    for server in [&*engine, &*ours] {
        assert_eq!(swarmpki_conformance::info(server)["LocalNodeState"], "inactive", "{}", server.name());
    }
}
