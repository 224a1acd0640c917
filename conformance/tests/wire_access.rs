//! Who may call what at port 2377, and how sessions go (conformance D and N).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use swarmpki_conformance::caller::{Caller, Pair, within};
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::{all_ready, in_state};
use testkit::authority::Authority;
use testkit::require_or_skip;
use tokio_rustls::rustls::AlertDescription;
use tonic::{Code, Status};
use wire::proto::{
    AssignmentsRequest, GetUnlockKeyRequest, HealthCheckRequest, JoinRequest, ListNodesRequest,
    ListenSubscriptionsRequest, TasksRequest, UpdateTaskStatusRequest,
};

const ANONYMOUS: &str = "Permission denied: unauthorized peer role: rpc error: code = PermissionDenied desc = no client certificates in request";

/// Calls each method that needs a certificate; answers its name and what the manager said.
async fn call_all(caller: &Caller) -> Vec<(&'static str, Option<Status>)> {
    let mut said = Vec::new();
    said.push(("Session", caller.session("").await.err()));
    said.push(("Heartbeat", caller.heartbeat("none").await.err()));
    said.push(("Assignments", caller.dispatcher().assignments(AssignmentsRequest::default()).await.err()));
    said.push(("Tasks", caller.dispatcher().tasks(TasksRequest::default()).await.err()));
    said.push((
        "UpdateTaskStatus",
        caller.dispatcher().update_task_status(within(UpdateTaskStatusRequest::default())).await.err(),
    ));
    said.push((
        "ListenSubscriptions",
        caller.log_broker().listen_subscriptions(ListenSubscriptionsRequest {}).await.err(),
    ));
    said.extend(call_managers_only(caller).await);
    said
}

async fn call_managers_only(caller: &Caller) -> Vec<(&'static str, Option<Status>)> {
    vec![
        ("GetUnlockKey", caller.ca().get_unlock_key(within(GetUnlockKeyRequest {})).await.err()),
        ("ListNodes", caller.control().list_nodes(within(ListNodesRequest::default())).await.err()),
        ("Check", caller.health().check(within(HealthCheckRequest::default())).await.err()),
        ("Join", caller.raft_membership().join(within(JoinRequest::default())).await.err()),
    ]
}

#[tokio::test]
async fn c147_c365_c366_a_heartbeat_needs_its_session() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let status = worker.caller.heartbeat("none").await.unwrap_err();
    let allowed = [(Code::NotFound, "node not registered"), (Code::InvalidArgument, "session invalid")];
    assert!(allowed.contains(&(status.code(), status.message())), "{status:?}");

    let (message, _stream) = worker.caller.session("").await.unwrap();
    for wrong in ["", "none"] {
        let status = worker.caller.heartbeat(wrong).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "session invalid"));
    }
    let period = worker.caller.heartbeat(&message.session_id).await.unwrap();
    assert!((4.5..=5.5).contains(&period.as_secs_f64()), "{period:?}");
    all_ready(&cluster.manager, &[&worker.id]);
}

#[tokio::test]
async fn c148_c149_without_a_certificate_nothing_but_joining() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    for (method, status) in call_all(&cluster.stranger().await).await {
        let status = status.unwrap_or_else(|| panic!("{method} was allowed"));
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, ANONYMOUS), "{method}");
    }
}

#[tokio::test]
async fn c151_a_worker_may_not_do_what_managers_do() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    for (method, status) in call_managers_only(&worker.caller).await {
        let status = status.unwrap_or_else(|| panic!("{method} was allowed"));
        assert_eq!(status.code(), Code::PermissionDenied, "{method}: {status:?}");
        assert!(
            status.message().ends_with("remote certificate not part of OUs: [swarm-manager]"),
            "{method}: {status:?}"
        );
    }
}

#[tokio::test]
async fn c153_a_removed_node_is_refused_on_every_method_and_its_session_falls() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (message, mut stream) = worker.caller.session("").await.unwrap();
    cluster.remove(&worker.id);
    let ended = async {
        // Messages that were under way may still come.
        while let Ok(Some(_)) = stream.message().await {}
    };
    tokio::time::timeout(Duration::from_secs(1), ended).await.expect("an open session must fall within a second");
    let again = cluster.caller(&worker.pair).await;
    for (method, status) in
        [("Session", again.session("").await.err()), ("Heartbeat", again.heartbeat(&message.session_id).await.err())]
    {
        let status = status.unwrap_or_else(|| panic!("{method} was allowed"));
        assert_eq!(status.code(), Code::PermissionDenied, "{method}: {status:?}");
        assert!(
            status.message().contains(&format!("node {} was removed from swarm", worker.id)),
            "{method}: {status:?}"
        );
    }
    for (method, status) in call_all(&again).await {
        assert_eq!(status.map(|status| status.code()), Some(Code::PermissionDenied), "{method}");
    }
}

#[tokio::test]
async fn c157_a_certificate_of_another_root_does_not_pass_the_handshake() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    // Same names, same shape, another key: what a thief without the root key can make.
    let leaf = Authority::new("swarm-ca").leaf(&cluster.id, "swarm-manager", "forged");
    let pair = Pair { chain: leaf.certificate, key: leaf.key };
    let alert = Caller::alert(cluster.address(), &cluster.root, &pair).await;
    assert_eq!(alert, Ok(AlertDescription::UnknownCA), "refused by TLS, and with the reason");
    // The same caller with a certificate of ours is no end: it is answered with the first bytes of HTTP/2.
    let worker = cluster.worker().await;
    let alert = Caller::alert(cluster.address(), &cluster.root, &worker.pair).await;
    assert_eq!(alert, Err("1 bytes and no refusal".to_owned()));
    worker.caller.session("").await.expect("others are not disturbed");
}

#[tokio::test]
async fn c361_c370_every_session_has_its_id_and_a_known_one_continues() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (first, _one) = worker.caller.session("").await.unwrap();
    let (second, _two) = worker.caller.session("").await.unwrap();
    assert_ne!(first.session_id, second.session_id);
    let (third, _three) = worker.caller.session(&second.session_id).await.unwrap();
    assert_eq!(third.session_id, second.session_id);
    let status = worker.caller.heartbeat(&first.session_id).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "session invalid"));
}

#[tokio::test]
async fn c363_c377_a_session_message_is_complete() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (message, _stream) = worker.caller.session("").await.unwrap();
    assert!(!message.session_id.is_empty());
    assert_eq!(message.node.unwrap().id, worker.id);
    assert_eq!(message.root_ca, cluster.root.as_bytes());
    let managers: Vec<_> = message.managers.iter().map(|manager| manager.peer.as_ref().unwrap()).collect();
    assert_eq!(managers.len(), 1);
    assert_eq!(managers[0].node_id, swarmpki_conformance::node_id(&cluster.manager));
    assert_eq!(managers[0].addr, cluster.address().to_string());
}

#[tokio::test]
async fn c368_assignments_need_their_session_and_begin_complete() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (message, _stream) = worker.caller.session("").await.unwrap();
    let wrong =
        worker.caller.dispatcher().assignments(AssignmentsRequest { session_id: "none".into() }).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument, "{wrong:?}");
    let request = AssignmentsRequest { session_id: message.session_id };
    let mut stream = worker.caller.dispatcher().assignments(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert_eq!(
        (first.r#type(), first.applies_to.as_str(), first.results_in.as_str()),
        (wire::proto::assignments_message::Type::Complete, "", "1")
    );
}

#[tokio::test]
async fn c367_a_node_that_falls_silent_goes_down() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    cluster.update("", |spec| spec["Dispatcher"]["HeartbeatPeriod"] = 300_000_000_u64.into());
    let worker = cluster.worker().await;
    let (message, _stream) = worker.caller.session("").await.unwrap();
    worker.caller.heartbeat(&message.session_id).await.unwrap();
    in_state(&cluster.manager, &[&worker.id], "down", Duration::from_secs(20));
    let status = worker.caller.heartbeat(&message.session_id).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "node not registered"));
}

#[tokio::test]
async fn an_ordinary_renewal_does_not_end_the_session_on_the_old_leaf() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (message, _stream) = worker.caller.session("").await.unwrap();
    let renewed = worker.renewed().await;
    let (second, _other) = cluster.caller(&renewed).await.session(&message.session_id).await.unwrap();
    assert_eq!(second.session_id, message.session_id);
    worker.caller.heartbeat(&message.session_id).await.expect("the connection on the old leaf still counts");
}

#[tokio::test]
async fn a_pair_that_was_put_back_is_let_in_and_told_to_renew() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (message, _stream) = worker.caller.session("").await.unwrap();
    worker.caller.heartbeat(&message.session_id).await.unwrap();
    let renewed = worker.renewed().await;
    let (_, _used) = cluster.caller(&renewed).await.session("").await.unwrap();
    // A power cut later, the files are those of before.
    let back = cluster.caller(&worker.pair).await;
    let (message, mut stream) = back.session("").await.expect("a leaf of the last 24 hours may come back");
    let mut node = message.node.unwrap();
    let rotate = wire::proto::issuance_status::State::Rotate;
    let told = async {
        while node
            .certificate
            .as_ref()
            .and_then(|certificate| certificate.status.as_ref())
            .is_none_or(|status| status.state() != rotate)
        {
            node = stream.message().await.unwrap().expect("a session that stays").node.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(5), told).await.expect("it must be told to renew");
    assert_eq!(back.issue(swarmpki_conformance::csr::ordinary().csr.as_bytes(), "").await.unwrap().node_id, worker.id);
}
