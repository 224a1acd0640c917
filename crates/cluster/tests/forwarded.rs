//! Calls that another manager passes on: the forwarder is judged first, then the original caller (wire.md 8).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

extern crate swarmpki_cluster as cluster;

use cluster::authorize::{Caller, Denial, Grant, Method, Origin, Presented, Standing};
use pki::identity::Role;
use support::{Cluster, cluster_id, id};

const ADMITTED: Standing = Standing::Admitted { cut: 0, unproven: false };

fn current(cluster: &Cluster, n: u64) -> Presented {
    let leaf = cluster.node(n).current.clone().unwrap();
    Presented {
        cluster: cluster_id(),
        role: leaf.role,
        node: id(n),
        serial: leaf.serial,
        spki: leaf.spki,
        issuer: leaf.issuer,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    }
}

fn origin(node: &str, organization: &str, units: &[&str]) -> Origin {
    let units = units.iter().map(|unit| (*unit).to_owned()).collect();
    Origin { node: node.to_owned(), organization: organization.to_owned(), units, addr: None }
}

#[test]
fn c158_to_c163_forwarded_calls() {
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.join(2);
    let (manager, worker) = (current(&cluster, 0), current(&cluster, 1));
    cluster.remove(2);
    let ours = cluster_id().to_string();
    let one = id(1).to_string();
    let by = |leaf| Some((leaf, &ADMITTED));
    let ask =
        |by, origin: &Origin, method| cluster.state.authorize(Caller::Forwarded { by, origin }, method, cluster.now);

    let full = origin(&one, &ours, &["swarm-manager"]);
    let forwarder = |denial| Err(Denial::Forwarder(Box::new(denial)));
    let not_a_manager = || Denial::Role { workers_too: false };
    assert_eq!(ask(by(&worker), &full, Method::GetUnlockKey), forwarder(not_a_manager()), "c158 a worker forwards");
    assert_eq!(ask(None, &full, Method::Session), forwarder(Denial::NoCertificate), "nobody forwards");
    let unregistered = Some((&manager, &Standing::Unregistered));
    let denial = ask(unregistered, &full, Method::Session);
    assert_eq!(denial, forwarder(Denial::Unregistered(id(0))), "a manager nobody registered forwards");

    for incomplete in
        [origin("", &ours, &["swarm-worker"]), origin(&one, "", &["swarm-worker"]), origin(&one, &ours, &[])]
    {
        assert_eq!(ask(by(&manager), &incomplete, Method::Session), Err(Denial::ForwardedIncomplete), "c159");
    }
    let as_worker = origin(&one, &ours, &["swarm-worker"]);
    let denial = ask(by(&manager), &as_worker, Method::GetUnlockKey);
    assert_eq!(denial, Err(Denial::ForwardedRole { workers_too: false }), "c160");
    let denial = ask(by(&manager), &full, Method::GetUnlockKey);
    assert_eq!(
        denial,
        Err(Denial::ForwardedRole { workers_too: false }),
        "the record says worker, whatever is claimed"
    );
    let elsewhere = origin(&one, "elsewhere", &["swarm-worker"]);
    assert_eq!(ask(by(&manager), &elsewhere, Method::Session), Err(Denial::ForwardedOrganization), "c161");
    let gone = origin(id(2).as_str(), &ours, &["swarm-worker"]);
    assert_eq!(ask(by(&manager), &gone, Method::Heartbeat), Err(Denial::ForwardedRemoved(id(2))), "c162");
    assert_eq!(ask(by(&manager), &as_worker, Method::Heartbeat), Ok(Grant::Node(Role::Worker)));

    let joiner = Origin::default();
    assert_eq!(ask(by(&manager), &joiner, Method::IssueNodeCertificate), Ok(Grant::Anybody), "c163 a joiner");
    assert_eq!(ask(by(&manager), &gone, Method::IssueNodeCertificate), Ok(Grant::Anybody), "needs a token, as anybody");
}
