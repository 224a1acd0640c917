//! A node that is removed while it lives (conformance 153 to 156): by the order of events, and by the clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use swarmpki_conformance::cluster::Cluster;
use swarmpki_conformance::{csr, node};
use testkit::require_or_skip;
use tonic::{Code, Status};

const NO_TOKEN: &str = "A valid join token is necessary to join this cluster";
/// "At once", as far as an operator can tell.
const AT_ONCE: Duration = Duration::from_secs(1);

fn no_token<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let status = answer.expect_err("a renewal of a removed node");
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, NO_TOKEN));
}

/// Whether the connection was gone, which it may be at every moment of a call: told to leave (GOAWAY) or closed.
fn without_a_connection(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::transport::Error>() {
            return true;
        }
        source = error.source();
    }
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c153_to_c156_a_live_node_that_is_removed_is_cut_off_at_once() {
    require_or_skip!("swarmpki");
    let cluster = Cluster::start();
    let (worker, other) = (cluster.worker().await, cluster.worker().await);
    let (message, mut stream) = worker.caller.session("").await.unwrap();
    let (others, _others_stream) = other.caller.session("").await.unwrap();
    worker.caller.heartbeat(&message.session_id).await.unwrap();
    let listening = tokio::spawn(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return (Instant::now(), None),
                Err(status) => return (Instant::now(), Some(status)),
            }
        }
    });

    let asked = Instant::now();
    cluster.remove(&worker.id);
    // The removal was answered: whatever is sent from now on comes after it.
    let next = worker.caller.heartbeat(&message.session_id).await.expect_err("the next call on the old connection");
    let refused = asked.elapsed();
    assert!(next.code() == Code::PermissionDenied || without_a_connection(&next), "{next:?}");
    let (ended, reason) = listening.await.unwrap();
    let reason = reason.expect("a session of a removed node ends with a reason");
    assert_eq!(reason.code(), Code::PermissionDenied, "{reason:?}");
    assert!(reason.message().contains(&format!("node {} was removed from swarm", worker.id)), "{reason:?}");
    let fallen = ended.duration_since(asked);
    assert!(refused < AT_ONCE && fallen < AT_ONCE, "the next call {refused:?}, the session {fallen:?}");

    // On the old connection, if that is still there for as long as an answer takes.
    match worker.caller.issue(csr::ordinary().csr.as_bytes(), "").await {
        Err(status) if without_a_connection(&status) => {}
        answer => no_token(answer),
    }
    let again = cluster.caller(&worker.pair).await;
    no_token(again.issue(csr::ordinary().csr.as_bytes(), "").await);
    let status = again.session("").await.expect_err("a session on a new connection");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains(&format!("node {} was removed from swarm", worker.id)), "{status:?}");
    let new = again.issue(csr::ordinary().csr.as_bytes(), &cluster.token("Worker")).await.unwrap().node_id;
    assert_ne!(new, worker.id);
    assert!(node(&cluster.manager, &worker.id).is_none());
    other.caller.heartbeat(&others.session_id).await.expect("nobody else is cut off");
}
