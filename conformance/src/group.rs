//! A cluster of ours with several managers, seen through the Engine API of each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::daemon::Daemon;
use testkit::loopback::Loopback;
use testkit::server::Server;
use testkit::{openssl, wait};

use crate::node_id;

/// How long it may take on a busy machine until a change of the managers has come about everywhere.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// The managers. They end with the value.
pub struct Group {
    /// Running or not.
    pub managers: Vec<Daemon>,
    /// Their node ids.
    pub ids: Vec<String>,
    /// Where each of them listens.
    pub hosts: Vec<Ipv4Addr>,
}

impl Group {
    /// Starts `count` managers on the first hosts of `net`.
    ///
    /// # Panics
    /// If that fails; ask `require_or_skip!("swarmpki")` first.
    pub fn start(net: &Loopback, count: u8) -> Self {
        let daemon = |n| (Daemon::start(&format!("manager{n}")), net.host(n));
        Self::of((1..=count).map(daemon).collect())
    }

    /// Makes managers of these daemons: the first one founds the cluster, the others join it.
    ///
    /// # Panics
    /// If that fails.
    pub fn of(daemons: Vec<(Daemon, Ipv4Addr)>) -> Self {
        let (managers, hosts): (Vec<_>, Vec<_>) = daemons.into_iter().unzip();
        let body = format!(r#"{{"ListenAddr":"{0}:2377","AdvertiseAddr":"{0}:2377","Spec":{{}}}}"#, hosts[0]);
        let answer = managers[0].api("POST", "/swarm/init", Some(&body));
        assert_eq!(answer.status, 200, "{answer:?}");
        let token = token(&managers[0], "Manager");
        let mut group = Self { ids: vec![node_id(&managers[0])], managers, hosts };
        for n in 1..group.managers.len() {
            let id = join(&group.managers[n], group.hosts[n], &token, &group.swarm(0));
            group.ids.push(id);
        }
        group.all_manage();
        group
    }

    /// Where the manager's port 2377 is, counted from 0.
    pub fn address(&self, n: usize) -> SocketAddr {
        SocketAddr::new(self.hosts[n].into(), 2377)
    }

    /// The same as text.
    pub fn swarm(&self, n: usize) -> String {
        self.address(n).to_string()
    }

    /// Those that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.managers.len()).filter(|n| self.managers[*n].is_running()).collect()
    }

    /// Which manager leads, as the manager `by` says; none if it does not know, or does not answer.
    pub fn leader_by(&self, by: usize) -> Option<usize> {
        let leads = |node: &Value| node["ManagerStatus"]["Leader"] == true;
        let leader = listed(&self.managers[by]).ok()?.iter().find(|node| leads(node))?["ID"].clone();
        self.ids.iter().position(|id| leader == *id)
    }

    /// Waits until all that run name the same one of them as the leader; which.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn leader(&self) -> usize {
        self.leader_among(&self.running())
    }

    /// Waits until all of these name the same one of them as the leader; which.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn leader_among(&self, these: &[usize]) -> usize {
        let (leader, _) = wait::until(&format!("one of {these:?} leads"), SETTLED_WITHIN, || {
            let said: BTreeSet<_> = these.iter().map(|by| self.leader_by(*by)).collect();
            match said.iter().collect::<Vec<_>>()[..] {
                [Some(leader)] if these.contains(leader) => Ok(*leader),
                _ => Err(format!("{said:?}")),
            }
        });
        leader
    }

    /// Some manager of these that is not `but`.
    ///
    /// # Panics
    /// If there is none.
    pub fn other_than(&self, but: usize) -> usize {
        self.running().into_iter().find(|n| *n != but).expect("another manager")
    }

    /// Kills the leader as a power cut would, and waits until one of the others leads: who led, who leads, and how long that took.
    ///
    /// # Panics
    /// If nobody leads.
    pub fn kill_leader(&mut self) -> (usize, usize, Duration) {
        let dead = self.leader();
        let killed = Instant::now();
        self.managers[dead].kill();
        let left = self.running();
        let ask = left[0];
        let (next, _) = wait::until("another manager leads", SETTLED_WITHIN, || {
            self.leader_by(ask).filter(|next| left.contains(next)).ok_or_else(|| "nobody does".to_owned())
        });
        (dead, next, killed.elapsed())
    }

    /// Starts a manager again, and waits until it serves its cluster: its API answers before that.
    ///
    /// # Panics
    /// If it does not.
    pub fn restart(&mut self, n: usize) {
        self.managers[n].restart();
        self.is_back(n);
    }

    /// Waits until a manager answers for its cluster.
    ///
    /// # Panics
    /// If it does not.
    pub fn is_back(&self, n: usize) {
        wait::until(&format!("{} is back", self.managers[n].name()), SETTLED_WITHIN, || {
            let answer = self.managers[n].api("GET", "/swarm", None);
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        });
    }

    /// Waits until every manager that runs says of all of these that they are managers in reach, and one of them the leader.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn all_manage(&self) {
        let running = self.running();
        let wanted: BTreeSet<_> = running.iter().map(|n| self.ids[*n].as_str()).collect();
        wait::until("all managers are in reach of each other", SETTLED_WITHIN, || {
            for n in &running {
                let nodes = listed(&self.managers[*n])?;
                let seen = |node: &&Value| {
                    node["ManagerStatus"]["Reachability"] == "reachable" && node["Status"]["State"] == "ready"
                };
                let there: BTreeSet<_> = nodes.iter().filter(seen).filter_map(|node| node["ID"].as_str()).collect();
                if !wanted.is_subset(&there) {
                    return Err(format!("{} sees {there:?}", self.managers[*n].name()));
                }
            }
            Ok(())
        });
        self.leader();
    }

    /// Waits until every manager that runs shows the same nodes, the same cluster with its tokens, and the same issuance log; all that.
    ///
    /// # Panics
    /// If that takes too long, or if a serial is in the log twice.
    pub fn agreed(&self) -> Seen {
        let running = self.running();
        let (seen, _) = wait::until("all managers show the same", SETTLED_WITHIN, || {
            let mut first: Option<Seen> = None;
            for n in &running {
                let seen = Seen::by(&self.managers[*n])?;
                match &first {
                    Some(first) => {
                        seen.same_as(first).map_err(|what| format!("{}: {what}", self.managers[*n].name()))?
                    }
                    None => first = Some(seen),
                }
            }
            first.ok_or_else(|| "no manager runs".to_owned())
        });
        let mut serials = BTreeSet::new();
        for entry in seen.log["entries"].as_array().expect("entries") {
            // A root and what certifies it under the one before share theirs: each is its own issuer's.
            let issuer = entry["node"].is_null().then(|| entry["issuer"].as_str());
            assert!(serials.insert((entry["serial"].as_str(), issuer)), "a serial twice: {entry}");
        }
        seen
    }

    /// Waits until every manager that runs lists all of these as ready.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn all_ready(&self, ids: &[&str]) {
        for n in self.running() {
            crate::all_ready(&self.managers[n], ids);
        }
    }
}

/// The issuance log, with the entries of all of its pages.
fn whole_log(manager: &Server) -> Result<Value, String> {
    let (mut from, mut entries) = (0, Vec::new());
    loop {
        let mut page = asked(manager, &format!("/swarmpki/v1/ca/log?from={from}&max=1000"))?;
        let next = page["next"].as_u64().ok_or("a page that does not say where to go on")?;
        entries.append(page["entries"].as_array_mut().ok_or("a page without entries")?);
        if next == from {
            page["entries"] = entries.into();
            return Ok(page);
        }
        from = next;
    }
}

/// What a manager shows of the cluster.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `GET /nodes`, by id.
    pub nodes: BTreeMap<String, Value>,
    /// `GET /swarm`.
    pub swarm: Value,
    /// The whole issuance log.
    pub log: Value,
}

impl Seen {
    /// By this manager.
    ///
    /// # Errors
    /// Its refusal.
    pub fn by(manager: &Server) -> Result<Self, String> {
        let nodes = listed(manager)?.into_iter().map(|node| (node["ID"].as_str().unwrap_or_default().to_owned(), node));
        let (nodes, swarm) = (nodes.collect(), asked(manager, "/swarm")?);
        Ok(Self { nodes, swarm, log: whole_log(manager)? })
    }

    /// # Errors
    /// What is different.
    fn same_as(&self, other: &Self) -> Result<(), String> {
        for (what, one, two) in
            [("the cluster", &self.swarm, &other.swarm), ("the issuance log", &self.log, &other.log)]
        {
            if one != two {
                return Err(format!("{what} is {one}, elsewhere {two}"));
            }
        }
        let ids: BTreeSet<_> = self.nodes.keys().chain(other.nodes.keys()).collect();
        match ids.into_iter().find(|id| self.nodes.get(*id) != other.nodes.get(*id)) {
            Some(id) => Err(format!("{id} is {:?}, elsewhere {:?}", self.nodes.get(id), other.nodes.get(id))),
            None => Ok(()),
        }
    }

    /// Whom a serial was issued to, from the issuance log; the serial as `openssl x509 -serial` prints it.
    pub fn issued(&self, serial: &str) -> Option<&str> {
        let wanted = serial.trim_start_matches('0').to_lowercase();
        let same = |entry: &&Value| {
            entry["serial"].as_str().is_some_and(|serial| serial.trim_start_matches('0').to_lowercase() == wanted)
        };
        self.log["entries"].as_array()?.iter().find(same)?["node"].as_str()
    }

    /// Asserts that the certificate in this daemon's files is in the log, as its node's.
    ///
    /// # Panics
    /// If it is not.
    pub fn has_leaf_of(&self, node: &Daemon, id: &str) {
        let serial = openssl::serial(&node.certificates().chain());
        assert_eq!(self.issued(&serial), Some(id), "{}: {serial}", node.name());
    }

    /// The log by itself: how many entries, and the root of their tree.
    pub fn tree(&self) -> (u64, &str) {
        (self.log["size"].as_u64().unwrap_or_default(), self.log["root_hash"].as_str().unwrap_or_default())
    }
}

/// `GET /nodes`, or the refusal.
///
/// # Errors
/// The refusal.
pub fn listed(manager: &Server) -> Result<Vec<Value>, String> {
    asked(manager, "/nodes").map(|nodes| nodes.as_array().cloned().unwrap_or_default())
}

fn asked(manager: &Server, path: &str) -> Result<Value, String> {
    let answer = manager.api("GET", path, None);
    if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{}: {}", manager.name(), answer.body)) }
}

/// The join token (`Worker` or `Manager`), without the stock client.
///
/// # Panics
/// If there is none.
pub fn token(manager: &Server, role: &str) -> String {
    crate::swarm(manager)["JoinTokens"][role].as_str().expect("a token").to_owned()
}

/// Makes a daemon join at `host`, without the stock client; its node id.
///
/// # Panics
/// If it is refused.
pub fn join(node: &Server, host: Ipv4Addr, token: &str, manager: &str) -> String {
    let answer = try_join(node, host, token, &[manager]);
    assert_eq!(answer.status, 200, "{}: {answer:?}", node.name());
    node_id(node)
}

/// The same through any of these managers, without a view on how it ends.
///
/// # Panics
/// If the daemon does not answer.
pub fn try_join(node: &Server, host: Ipv4Addr, token: &str, managers: &[&str]) -> testkit::http::Answer {
    let body = serde_json::json!({
        "ListenAddr": format!("{host}:2377"), "AdvertiseAddr": format!("{host}:2377"), "JoinToken": token,
        "RemoteAddrs": managers,
    });
    node.api("POST", "/swarm/join", Some(&body.to_string()))
}

/// Asks for another role for a node; the answer.
///
/// # Panics
/// If the manager does not answer or does not list the node.
pub fn set_role(manager: &Server, id: &str, role: &str) -> testkit::http::Answer {
    let node = crate::node(manager, id).expect("the node is listed");
    let mut spec = node["Spec"].clone();
    spec["Role"] = role.into();
    let path = format!("/nodes/{id}/update?version={}", node["Version"]["Index"]);
    manager.api("POST", &path, Some(&spec.to_string()))
}

/// Waits until the manager says that the node is one itself and in reach, or none.
///
/// # Panics
/// If that takes too long.
pub fn manages(manager: &Server, id: &str, wanted: bool) -> Duration {
    let (_, took) = wait::until(&format!("{id} is a manager: {wanted}"), SETTLED_WITHIN, || {
        let node = listed(manager)?.into_iter().find(|node| node["ID"] == id).ok_or("not listed")?;
        let there = node["ManagerStatus"]["Reachability"] == "reachable";
        if there == wanted && node["ManagerStatus"].is_object() == wanted { Ok(()) } else { Err(node.to_string()) }
    });
    took
}

/// Waits until the subject of the node's own certificate says this role (`manager` or `worker`).
///
/// # Panics
/// If that takes too long.
pub fn has_unit(node: &Daemon, role: &str) {
    let unit = format!("OU=swarm-{role}");
    wait::until(&format!("{} has a certificate of a {role}", node.name()), SETTLED_WITHIN, || {
        let subject = openssl::subject(&node.certificates().chain());
        if subject.split(',').any(|part| part == unit) { Ok(()) } else { Err(subject) }
    });
}
