//! A thief with the real root key. What it signs chains to the root and is not registered: on every method it is nobody, and the
//! manager says aloud that the key is stolen (design 7; conformance 32, 33, 150 and 151).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cluster::authorize::Method;
use pki::certificate::Certificate;
use pki::identity::{ClusterId, NodeId, Role};
use pki::serial::Serial;
use swarmpki_conformance::caller::{Caller, Pair, within};
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::method::path;
use swarmpki_conformance::thief::Thief;
use swarmpki_conformance::{csr, node_id, nodes};
use testkit::require_or_skip;
use tonic::Code;
use wire::proto::GetRootCaCertificateRequest;

const ALARM: &str = "forged-or-foreign-leaf";
const NO_TOKEN: &str = "A valid join token is necessary to join this cluster";
const TOLD_WITHIN: Duration = Duration::from_secs(5);

fn serial(pair: &Pair) -> Serial {
    Certificate::parse_pem_bundle(pair.chain.as_bytes()).unwrap()[0].serial()
}

fn key() -> String {
    csr::ordinary().key
}

/// What a caller is told on each method.
async fn told(caller: &Caller) -> Vec<(Method, Option<(Code, String)>)> {
    let mut told = Vec::new();
    for method in Method::ALL {
        let refusal = caller.refusal(path(method)).await;
        told.push((method, refusal.map(|status| (status.code(), status.message().to_owned()))));
    }
    told
}

/// The certificate opens nothing: what needs one is refused, what anybody may call answers as it does to anybody.
async fn is_nobody(cluster: &Cluster, what: &str, pair: &Pair, victim: &str) {
    let (caller, stranger) = (cluster.caller(pair).await, cluster.stranger().await);
    for ((method, refusal), (_, anonymous)) in told(&caller).await.into_iter().zip(told(&stranger).await) {
        match &anonymous {
            Some((Code::PermissionDenied, _)) => {
                let (code, text) = refusal.unwrap_or_else(|| panic!("{what}: {method:?} was allowed"));
                assert_eq!(code, Code::PermissionDenied, "{what}: {method:?}: {text}");
            }
            _ => assert_eq!(refusal, anonymous, "{what}: {method:?}"),
        }
    }
    let root = caller.ca().get_root_ca_certificate(within(GetRootCaCertificateRequest {})).await.unwrap();
    assert_eq!(root.into_inner().certificate, cluster.root.as_bytes());
    let refused = caller.issue(csr::ordinary().csr.as_bytes(), "").await.expect_err("no renewal");
    let named = Certificate::parse_pem_bundle(pair.chain.as_bytes()).unwrap()[0].node_subject().unwrap();
    let own = std::fs::read(cluster.manager.certificates().chain()).unwrap();
    let own = Certificate::parse_pem_bundle(&own).unwrap()[0].node_subject().unwrap();
    let on_record = nodes(&cluster.manager).iter().any(|node| node["ID"] == named.node.as_str());
    if on_record && named.cluster == own.cluster {
        // A node whose files are old would take the other text for its removal.
        let told = format!("node {} presented a certificate that this cluster has no record of", named.node);
        assert_eq!(refused.code(), Code::PermissionDenied, "{what}");
        assert!(refused.message().ends_with(&told), "{what}: {refused:?}");
    } else {
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, NO_TOKEN), "{what}");
    }
    let (seen, anybodys) = (caller.status(victim).await, stranger.status(victim).await);
    let words =
        |answer: Result<_, tonic::Status>| answer.map_err(|status| (status.code(), status.message().to_owned()));
    assert_eq!(words(seen), words(anybodys), "{what}");
    let new = caller.issue(csr::ordinary().csr.as_bytes(), &cluster.token("Worker")).await.unwrap().node_id;
    assert_ne!(new, victim, "{what}: with a token it joins, as anybody");
}

#[tokio::test]
async fn c151_a_leaf_signed_with_the_stolen_root_key_opens_nothing_and_raises_the_alarm() {
    require_or_skip!("swarmpki");
    let mut cluster = Cluster::start();
    let (worker, other) = (cluster.worker().await, cluster.worker().await);
    for node in [&worker, &other] {
        drop(node.caller.session("").await.expect("its leaf is in use"));
    }
    let manager: NodeId = node_id(&cluster.manager).parse().unwrap();
    let own = Certificate::parse_pem_bundle(&std::fs::read(cluster.manager.certificates().chain()).unwrap()).unwrap();
    let thief = Thief::visit(&mut cluster).await;

    let victim: NodeId = worker.id.parse().unwrap();
    let nobody: NodeId = "nonesuchnonesuchnonesuch1".parse().unwrap();
    let fresh = |n: u8| Serial::from_random([n; 20]);
    let rows = [
        ("an id that never was, as worker", thief.leaf(Role::Worker, &nobody, fresh(1), &key()), &worker.id),
        ("an id that never was, as manager", thief.leaf(Role::Manager, &nobody, fresh(2), &key()), &worker.id),
        ("a node's id", thief.leaf(Role::Worker, &victim, fresh(3), &key()), &worker.id),
        ("a node's id and key", thief.leaf(Role::Worker, &victim, fresh(4), &worker.pair.key), &worker.id),
        ("a node's id and serial", thief.leaf(Role::Worker, &victim, serial(&worker.pair), &key()), &worker.id),
        // Of another node: an alarm about the same node and serial is not said again for a while.
        (
            "a worker's id, serial and key, as manager",
            thief.leaf(Role::Manager, &other.id.parse().unwrap(), serial(&other.pair), &other.pair.key),
            &other.id,
        ),
        ("the manager's id", thief.leaf(Role::Manager, &manager, fresh(5), &key()), &worker.id),
        ("the manager's id and serial", thief.leaf(Role::Manager, &manager, own[0].serial(), &key()), &worker.id),
    ];
    for (what, pair, victim) in &rows {
        let before = cluster.manager.log_len();
        is_nobody(&cluster, what, pair, victim).await;
        cluster.manager.logged(before, ALARM, TOLD_WITHIN);
        cluster.manager.logged(before, &serial(pair).to_string(), TOLD_WITHIN);
    }

    let before = cluster.manager.log_len();
    cluster.caller(&worker.pair).await.session("").await.expect("the victim itself is not disturbed");
    assert!(!cluster.manager.log()[before..].contains(ALARM));
    assert_eq!(nodes(&cluster.manager).len(), 3, "nothing that the thief did is a node");
}

#[tokio::test]
async fn c032_c033_c150_a_leaf_of_another_organization_is_a_strangers() {
    require_or_skip!("swarmpki");
    let mut cluster = Cluster::start();
    let worker = cluster.worker().await;
    let thief = Thief::visit(&mut cluster).await;
    let elsewhere: ClusterId = "elsewhereelsewhereelsewhe".parse().unwrap();
    let (id, serial) = (worker.id.parse().unwrap(), Serial::from_random([7; 20]));
    let pair = thief.leaf_of(&elsewhere, Role::Worker, &id, serial, &key());
    let caller = cluster.caller(&pair).await;
    let refused = caller.heartbeat("none").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("Permission denied: remote certificate not part of organization"),
        "{refused:?}"
    );
    is_nobody(&cluster, "another organization", &pair, &worker.id).await;
}
