//! Certificates taken back over the API: by serials that there are, and by others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod running;

use running::Running;
use serde_json::{Value, json};

/// Nobody's, and nobody's begins with it; its first digit is left out, as people write it.
const NEVER: &str = "7000000000000000001";

async fn revoke(manager: &Running, body: Value) -> (u16, Value) {
    let answer = manager.post("/swarmpki/v1/revoke", &body).await;
    (answer.status.as_u16(), answer.json())
}

/// The one issued to a node that is in the log.
async fn serial_of(manager: &Running, node: &str) -> String {
    let log = manager.get(&format!("/swarmpki/v1/log?node={node}")).await.json();
    let issued = log["entries"].as_array().unwrap().iter().rfind(|entry| entry["event"] == "issued").unwrap().clone();
    issued["serial"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_was_never_issued_is_taken_back_only_if_that_is_said() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (manager, worker) = (Running::start(dirs[0].path()).await, Running::start(dirs[1].path()).await);
    let own = manager.init().await;
    let token = manager.get("/swarm").await.json()["JoinTokens"]["Worker"].as_str().unwrap().to_owned();
    assert_eq!(worker.join(&manager.swarm().await, &token).await.status, 200);
    let node = worker.swarm().await["NodeID"].as_str().unwrap().to_owned();
    let serial = serial_of(&manager, &node).await;

    // A mistake stays one, however often it is made; the beginning of a serial is none.
    for _ in 0..2 {
        let (status, said) = revoke(&manager, json!({"serial": NEVER})).await;
        let text = "no certificate with serial 07000000000000000001 was ever issued here: nothing was revoked";
        assert!(status == 404 && said["message"].as_str().unwrap().ends_with(text), "{status} {said}");
    }
    let (status, said) = revoke(&manager, json!({"serial": serial[..10]})).await;
    assert!(
        status == 404 && said["message"].as_str().unwrap().ends_with("one that is on record begins with it"),
        "{said}"
    );
    let none = manager.get("/swarmpki/v1/revocations").await.json();
    assert_eq!(none["revocations"], json!([]));

    // One that an alarm named.
    let (status, said) = revoke(&manager, json!({"serial": NEVER, "unissued": true})).await;
    assert_eq!(
        (status, &said["issued"], &said["certificates"], &said["out"]),
        (200, &json!(false), &json!(1), &json!(false))
    );
    let (status, said) = revoke(&manager, json!({"serial": NEVER})).await;
    assert_eq!((status, &said["certificates"]), (200, &json!(0)), "it is known now: {said}");

    // A node's only one: it is out, and that is told.
    let (status, said) = revoke(&manager, json!({"serial": serial})).await;
    assert_eq!(
        (status, &said["node_id"], &said["certificates"], &said["out"]),
        (200, &json!(node), &json!(1), &json!(true))
    );
    let (status, said) = revoke(&manager, json!({"serial": serial_of(&manager, &own).await})).await;
    assert!(status != 200 && said["message"].as_str().unwrap().contains("locked out"), "{status} {said}");
    worker.stop().await;
    manager.stop().await;
}
