//! Signed heads of the issuance log, compared with it: by a daemon that runs, and on a stopped one's state.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod running;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pki::bundle::Issuer;
use pki::identity::{NodeId, Role, Subject};
use pki::issue;
use pki::key::{PrivateKey, Signer};
use pki::serial::Serial;
use pki::time::Time;
use pki::witness::Head;
use running::Running;
use serde_json::{Value, json};
use swarmpki::{KeptHead, Statement};
use swarmpki_daemon::check::verify_log;
use swarmpki_daemon::engine_api::heads::{HeadReport, HeadVerdict};
use wire::convert::log_head;

async fn head(manager: &Running) -> HeadReport {
    serde_json::from_value(manager.get("/swarmpki/v1/log/head").await.json()).unwrap()
}

/// What a running daemon says of a head that is given to it.
async fn asked(manager: &Running, kept: &KeptHead) -> HeadVerdict {
    let heads = json!({"Heads": [BASE64.encode(kept.bytes())]});
    let report = manager.post("/swarmpki/v1/log/verify", &heads).await.json();
    given(serde_json::from_value(report["heads"].clone()).unwrap())
}

/// What is said of it on a stopped one's state.
async fn read(dir: &Path, kept: &KeptHead) -> HeadVerdict {
    let report = verify_log(&dir.join("state"), std::slice::from_ref(kept), None, now()).await.unwrap();
    assert_eq!(report.problem, None);
    given(report.heads)
}

fn given(heads: Vec<HeadVerdict>) -> HeadVerdict {
    assert!(heads.iter().all(|head| !head.kept || !head.is_bad()), "{heads:?}");
    heads.into_iter().find(|head| !head.kept).unwrap()
}

fn now() -> Time {
    SystemTime::now().into()
}

/// A head, signed by whoever has this key, with a certificate that they made themselves.
fn said_by_a_stranger(head: &Head, role: Role) -> KeptHead {
    let (root_key, key) = (PrivateKey::generate_p256(&[3; 32]).unwrap(), PrivateKey::generate_p256(&[4; 32]).unwrap());
    let root = issue::root(&root_key, Serial::from_random([3; 20]), now()).unwrap();
    let issuer =
        Issuer::build(root.pem().as_bytes(), Some(root.pem().as_bytes()), Some(Arc::new(root_key)), b"", now())
            .unwrap();
    let subject = Subject { cluster: head.cluster.clone(), role, node: NodeId::generate([5; 17]) };
    let leaf = issue::Leaf {
        subject: &subject,
        serial: Serial::from_random([6; 20]),
        now: now(),
        expiry: Duration::from_secs(7200),
    };
    let leaf = issue::leaf_for_signer(&key, &leaf, &issuer).unwrap();
    let content = log_head::encode(head);
    let mut message = b"swarmpki statement 1: signed by the key of a node's certificate.log-head\0".to_vec();
    message.extend_from_slice(&content);
    let signature = key.sign(&message).unwrap();
    // ecdsa_secp256r1_sha256. Source: RFC 8446, 4.2.3.
    KeptHead::new(Statement { chain: vec![leaf.der().to_vec()], scheme: 0x0403, content, signature }).unwrap()
}

fn with_content(kept: &KeptHead, head: &Head) -> KeptHead {
    KeptHead::new(Statement { content: log_head::encode(head), ..kept.statement.clone() }).unwrap()
}

#[tokio::test]
async fn only_what_a_manager_signed_says_something_of_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path()).await;
    let node = manager.init().await;
    let report = head(&manager).await;
    let kept = report.read().unwrap();

    let mut cut = kept.clone();
    *cut.statement.signature.last_mut().unwrap() ^= 1;
    let other = Head { root: [7; 32], ..kept.head.clone() };
    let more = Head { size: 1_000_000, ..kept.head.clone() };
    let elsewhere = Head { cluster: pki::identity::ClusterId::generate([9; 17]), ..other.clone() };
    let rows = [
        ("as it was signed", kept.clone(), "fits", ""),
        ("its signature changed", cut, "unproven", "its entries and its root are those of this log"),
        ("its root changed", with_content(&kept, &other), "unproven", "the signature is not good"),
        ("its size changed", with_content(&kept, &more), "unproven", "the signature is not good"),
        ("a stranger's", said_by_a_stranger(&other, Role::Manager), "unproven", "neither in this log nor of a root"),
        ("a stranger's that fits", said_by_a_stranger(&kept.head, Role::Manager), "unproven", "neither in this log"),
        ("no manager's", said_by_a_stranger(&other, Role::Worker), "unproven", "no manager's"),
        ("of another cluster", said_by_a_stranger(&elsewhere, Role::Manager), "foreign", "of another cluster"),
    ];
    let mut online = Vec::new();
    for (what, kept, verdict, text) in &rows {
        let said = asked(&manager, kept).await;
        assert_eq!(said.verdict, *verdict, "{what}: {said:?}");
        assert!(said.text.contains(text), "{what}: {said:?}");
        assert_eq!(said.is_bad(), *verdict != "fits", "{what}");
        let signed = (said.manager.as_deref(), said.unproven.is_none());
        assert_eq!(signed, if *verdict == "fits" { (Some(&*node), true) } else { (None, false) }, "{what}: {said:?}");
        online.push(said);
    }
    manager.stop().await;
    for ((what, kept, ..), online) in rows.iter().zip(&online) {
        assert_eq!(read(dir.path(), kept).await, *online, "{what}, on a stopped one");
    }
}

#[tokio::test]
async fn a_file_that_says_something_else_than_was_signed_is_no_head() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path()).await;
    manager.init().await;
    let report = head(&manager).await;
    assert!(report.read().is_ok());
    let mut broken = report.read().unwrap();
    broken.statement.signature[0] ^= 1;
    let rows = [
        ("root_hash", HeadReport { root_hash: "00".repeat(32), ..report.clone() }),
        ("size", HeadReport { size: report.size + 1, ..report.clone() }),
        ("epoch", HeadReport { epoch: 77, ..report.clone() }),
        ("cluster_id", HeadReport { cluster_id: String::new(), ..report.clone() }),
        ("time", HeadReport { time: "2020-01-01T00:00:00Z".into(), ..report.clone() }),
        ("manager", HeadReport { manager: None, ..report.clone() }),
        ("the signature is not good", HeadReport::from(&broken)),
        ("no signed head", HeadReport { statement: "AAAA".into(), ..report.clone() }),
    ];
    for (what, changed) in rows {
        let refused = changed.read().unwrap_err();
        assert!(refused.contains(what), "{what}: {refused}");
    }
    manager.stop().await;
}

#[tokio::test]
async fn heads_of_before_a_rotation_are_proven_by_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path()).await;
    let node = manager.init().await;
    let kept = head(&manager).await.read().unwrap();
    let lie = with_content(&kept, &Head { root: [7; 32], ..kept.head.clone() });
    let started =
        manager.post("/swarmpki/v1/ca/rotate", &json!({"policy": {"kind": "emergency", "bound_ms": 10_000}})).await;
    assert!(started.status.is_success(), "{:?}", started.body);
    let over = |status: &Value| status["rotation"].is_null();
    manager.until("the rotation is over", "/swarmpki/v1/ca/status", over).await;

    let check = |said: HeadVerdict| {
        assert_eq!((said.verdict.as_str(), said.manager.as_deref()), ("fits", Some(&*node)), "{said:?}");
    };
    check(asked(&manager, &kept).await);
    assert_eq!(asked(&manager, &lie).await.verdict, "unproven");
    manager.stop().await;
    check(read(dir.path(), &kept).await);
}

#[tokio::test]
async fn the_log_says_what_of_the_settings_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let manager = Running::start(dir.path()).await;
    manager.init().await;
    let swarm = manager.get("/swarm").await.json();
    let mut spec = swarm["Spec"].clone();
    spec["CAConfig"]["NodeCertExpiry"] = json!(7_200_000_000_000_i64);
    spec["Labels"]["hunter2"] = json!("hunter2");
    let path = format!("/swarm/update?version={}", swarm["Version"]["Index"]);
    assert_eq!(manager.post(&path, &spec).await.status, 200);
    let log = manager.get("/swarmpki/v1/log").await.json();
    let entry = log["entries"].as_array().unwrap().iter().find(|entry| entry["event"] == "settings").unwrap().clone();
    assert_eq!(entry["detail"], "cert-expiry 2160h -> 2h, labels");
    assert!(!log.to_string().contains("hunter2"));
    manager.stop().await;
}
