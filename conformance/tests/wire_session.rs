//! What sessions say when something changes, and when their manager goes (conformance N).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use swarmpki_conformance::caller::within;
use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::node;
use testkit::require_or_skip;
use tonic::Code;
use wire::proto::node_spec::Availability;
use wire::proto::{SessionMessage, UpdateTaskStatusRequest, update_task_status_request};

#[tokio::test]
async fn a_change_of_the_node_is_told_at_once_and_the_rest_is_the_same() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (first, mut stream) = worker.caller.session("").await.unwrap();
    let listed = node(&cluster.manager, &worker.id).unwrap();
    let mut spec = listed["Spec"].clone();
    spec["Availability"] = "drain".into();
    let path = format!("/nodes/{}/update?version={}", worker.id, listed["Version"]["Index"]);
    assert_eq!(cluster.manager.api("POST", &path, Some(&spec.to_string())).status, 200);
    let next = loop {
        let next = stream.message().await.unwrap().expect("a session that stays");
        if next.node.as_ref().unwrap().spec.as_ref().unwrap().availability() == Availability::Drain {
            break next;
        }
    };
    let without_node = |message: &SessionMessage| SessionMessage { node: None, ..message.clone() };
    assert_eq!(without_node(&next), without_node(&first));
}

#[tokio::test]
async fn c369_no_node_reports_a_task_that_is_not_its_own() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (message, _stream) = worker.caller.session("").await.unwrap();
    let update = update_task_status_request::TaskStatusUpdate { task_id: "task".into(), ..Default::default() };
    let request = |updates: Vec<_>| within(UpdateTaskStatusRequest { session_id: message.session_id.clone(), updates });
    let refused = worker.caller.dispatcher().update_task_status(request(vec![update])).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "cannot update a task not assigned this node")
    );
    worker.caller.dispatcher().update_task_status(request(Vec::new())).await.expect("nothing to report is no fault");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c372_a_manager_that_stops_sends_its_nodes_away() {
    require_or_skip!("swarmpki");
    let mut cluster = Cluster::start();
    let worker = cluster.worker().await;
    let (_, mut stream) = worker.caller.session("").await.unwrap();
    let listening = tokio::spawn(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    });
    assert!(cluster.manager.stop().success());
    let status = listening.await.unwrap().expect("a last word");
    assert_eq!((status.code(), status.message()), (Code::Aborted, "node must disconnect"));
}
