//! `check` on the state of a real daemon, whole and damaged; the issuance log over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use pki::time::Time;
use serde_json::{Value, json};
use swarmpki_daemon::check::{CheckError, Report, check, verify_log};
use swarmpki_daemon::{Daemon, DaemonConfig, Host, UnlockSource};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

async fn call(socket: &Path, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "api");
    let request = request.header("content-type", "application/json");
    let bytes = body.map(|body| body.to_string()).unwrap_or_default();
    let answer = sender.send_request(request.body(Full::new(Bytes::from(bytes))).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {bytes:?}")))
}

fn now() -> Time {
    SystemTime::now().into()
}

/// Runs a daemon that founds a cluster, lets `meanwhile` look at it, and ends it; answers the state directory.
async fn manager(dir: &Path, meanwhile: impl AsyncFnOnce(&Path, &Path)) -> PathBuf {
    manager_with(dir, json!({}), meanwhile).await
}

/// The same for a cluster with these settings.
async fn manager_with(dir: &Path, spec: Value, meanwhile: impl AsyncFnOnce(&Path, &Path)) -> PathBuf {
    let (state, socket) = (dir.join("state"), dir.join("s"));
    let config = DaemonConfig {
        state_dir: state.clone(),
        hosts: vec![Host::Unix(socket.clone())],
        hostname: Some("host1".into()),
        ..DaemonConfig::default()
    };
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(Daemon::start(config, shutdown.clone()).await.unwrap().serve());
    let body = json!({"ListenAddr": "127.0.0.1:0", "AdvertiseAddr": "127.0.0.1", "Spec": spec});
    assert_eq!(call(&socket, Method::POST, "/swarm/init", Some(body)).await.0, 200);
    meanwhile(&state, &socket).await;
    shutdown.cancel();
    task.await.unwrap().unwrap();
    state
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            drop(fs::copy(entry.path(), target))
        }
    }
}

fn texts(report: &Report) -> String {
    report.problems.iter().map(|problem| format!("{} | {}\n", problem.text, problem.hint)).collect()
}

#[tokio::test]
async fn the_issuance_log_is_read_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    manager(dir.path(), async |_, socket| {
        let (status, page) = call(socket, Method::GET, "/swarmpki/v1/ca/log", None).await;
        assert_eq!((status, &page["size"]), (200, &json!(2)), "{page}");
        let entries = page["entries"].as_array().unwrap();
        assert_eq!(entries.len(), 2);
        let (root, leaf) = (&entries[0], &entries[1]);
        let ca = call(socket, Method::GET, "/swarmpki/v1/ca", None).await.1;
        assert_eq!(
            (&root["node"], &root["role"], &root["serial"]),
            (&Value::Null, &Value::Null, &ca["roots"][0]["serial"])
        );
        let nodes = call(socket, Method::GET, "/nodes", None).await.1;
        assert_eq!((&leaf["node"], &leaf["role"]), (&nodes[0]["ID"], &json!("manager")));
        for entry in entries {
            assert_eq!(entry["issuer"], ca["roots"][0]["fingerprint"], "{entry}");
        }

        let page = |query: &'static str| async move {
            call(socket, Method::GET, &format!("/swarmpki/v1/ca/log?{query}"), None).await
        };
        assert_eq!(page("from=1&max=5").await.1["entries"], json!([leaf]));
        assert_eq!(page("max=1").await.1["entries"], json!([root]));
        assert_eq!(page("max=1").await.1["next"], json!(1));
        assert_eq!(page("from=2").await.1["next"], json!(2));
        assert_eq!(page("from=2").await.1["entries"], json!([]));
        assert_eq!(page("from=18446744073709551615").await.1["entries"], json!([]));
        assert_eq!(page("from=x").await, (400, json!({"message": "invalid value for from: x"})));
    })
    .await;
}

#[tokio::test]
async fn a_machine_in_no_swarm_has_no_log_and_nothing_to_check() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(check(&dir.path().join("none"), None, now()).await, Err(CheckError::StateDir { .. })));
    let report = check(dir.path(), None, now()).await.unwrap();
    assert_eq!((report.member.as_str(), report.problems.len()), ("none", 0));
}

#[tokio::test]
async fn a_managers_state_is_checked_whole_and_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let state = manager(dir.path(), async |state, _| {
        let refused = check(state, None, now()).await.unwrap_err();
        assert!(
            refused.to_string().contains(&format!("in use by another swarmpki daemon (pid {})", std::process::id()))
        );
    })
    .await;
    let listed = || {
        let mut names: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        let read = |name| fs::read(state.join(name)).unwrap();
        (names, read("raft/store-1.redb"), read("raft/store-1.log-1"))
    };
    let before = listed();
    let whole = check(&state, None, now()).await.unwrap();
    assert_eq!(texts(&whole), "");
    assert_eq!(whole.member, "manager");
    let store = whole.store.unwrap();
    assert_eq!((store.nodes, store.unfinished, store.removed, store.log_size), (1, 0, 0, 2));
    assert!(listed() == before, "a check changes nothing");

    let later = Time::from(SystemTime::now()).saturating_add(Duration::from_secs(200 * 24 * 3600));
    let report = check(&state, None, later).await.unwrap();
    assert!(texts(&report).starts_with("the node's certificate ended at "), "{}", texts(&report));

    let other = tempfile::tempdir().unwrap();
    let other = manager(other.path(), async |_, _| {}).await;
    let put = |name: &str| {
        let name = name.to_owned();
        let other = other.join(&name);
        move |state: &Path| assert!(fs::copy(&other, state.join(&name)).is_ok())
    };
    let remove = |name: &'static str| move |state: &Path| fs::remove_file(state.join(name)).unwrap();
    type Damage = Box<dyn Fn(&Path)>;
    let rows: [(Damage, &str); 12] = [
        (Box::new(|state: &Path| fs::remove_dir_all(state.join("raft")).unwrap()), "its store raft/ is not there"),
        (Box::new(remove("certificates/swarm-node.key")), "the node has no certificate and key"),
        (
            Box::new(remove("certificates/swarm-root-ca.crt")),
            "the trust bundle certificates/swarm-root-ca.crt is not there",
        ),
        (Box::new(put("certificates/swarm-root-ca.crt")), "does not lead to its trust bundle"),
        (Box::new(put("certificates/swarm-root-ca.crt")), "is not the one that the cluster serves"),
        (Box::new(put("certificates/swarm-node.key")), "swarm-node.crt"),
        (Box::new(put("certificates/swarm-node.key")), "the data key does not open it"),
        (Box::new(put("raft/header")), "the store cannot be opened: "),
        (Box::new(|state: &Path| cut(&state.join("raft/store-1.redb"))), "the store cannot be opened: "),
        (Box::new(remove("raft/store-1.log-1")), "the log is gone"),
        (
            Box::new(|state: &Path| flip(&state.join("raft/store-1.log-1"), 512 + 40)),
            "frame 2 of the log cannot be read",
        ),
        (Box::new(|state: &Path| fs::write(state.join("daemon.json"), "{").unwrap()), "daemon.json is damaged"),
    ];
    for (number, (damage, expected)) in rows.iter().enumerate() {
        let damaged = dir.path().join(format!("damaged-{number}"));
        copy(&state, &damaged);
        damage(&damaged);
        let report = check(&damaged, None, now()).await.unwrap();
        let texts = texts(&report);
        assert!(texts.contains(expected), "row {number}: {texts:?} has no {expected:?}");
        assert!(!texts.contains("/.check") && texts.lines().all(|line| !line.ends_with("| ")), "{texts}");
    }

    // A whole identity of another cluster, over this store: certificate, key and bundle fit each other.
    let mixed = dir.path().join("mixed");
    copy(&state, &mixed);
    let key = fs::read_to_string(state.join("certificates/swarm-node.key")).unwrap();
    let dek = key.lines().find(|line| line.starts_with("raft-dek: ")).unwrap();
    for name in ["swarm-node.crt", "swarm-root-ca.crt"] {
        fs::copy(other.join("certificates").join(name), mixed.join("certificates").join(name)).unwrap();
    }
    let foreign = fs::read_to_string(other.join("certificates/swarm-node.key")).unwrap();
    let foreign_dek = foreign.lines().find(|line| line.starts_with("raft-dek: ")).unwrap().to_owned();
    fs::write(mixed.join("certificates/swarm-node.key"), foreign.replace(&foreign_dek, dek)).unwrap();
    let report = check(&mixed, None, now()).await.unwrap();
    assert_eq!(
        texts(&report),
        "certificates/ and raft/ are of different clusters | put back the directory that belongs to the other\n"
    );
}

#[tokio::test]
async fn a_manager_without_its_store_does_not_pass_for_a_worker() {
    let dir = tempfile::tempdir().unwrap();
    let state = manager(dir.path(), async |_, _| {}).await;
    fs::remove_dir_all(state.join("raft")).unwrap();
    // As if it had joined: the certificate alone says it.
    let settings = fs::read_to_string(state.join("daemon.json")).unwrap();
    let joined = settings.replace("\"RemoteAddr\":\"\"", "\"RemoteAddr\":\"127.0.0.1:1\"");
    assert_ne!(joined, settings);
    for settings in [settings, joined] {
        fs::write(state.join("daemon.json"), settings).unwrap();
        let report = check(&state, None, now()).await.unwrap();
        assert_eq!((report.member.as_str(), report.problems.len()), ("manager", 1), "{}", texts(&report));

        let socket = dir.path().join("again");
        let config = DaemonConfig {
            state_dir: state.clone(),
            hosts: vec![Host::Unix(socket.clone())],
            ..DaemonConfig::default()
        };
        let shutdown = CancellationToken::new();
        let daemon = Daemon::start(config, shutdown.clone()).await.unwrap();
        let mut seen = daemon.backend().lifecycle().watch();
        let task = tokio::spawn(daemon.serve());
        seen.wait_for(|present| present.word() == "error").await.unwrap();
        let info = call(&socket, Method::GET, "/info", None).await.1;
        assert!(info["Swarm"]["Error"].as_str().unwrap().contains("restore the state directory from backup"), "{info}");
        let refused = call(&socket, Method::POST, "/swarm/leave", None).await;
        assert_eq!(refused.0, 503, "{}", refused.1);
        shutdown.cancel();
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_locked_managers_state_is_checked_with_the_unlock_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    let state = manager_with(dir.path(), json!({"EncryptionConfig": {"AutoLockManagers": true}}), async |_, socket| {
        let told = call(socket, Method::GET, "/swarm/unlockkey", None).await.1;
        fs::write(&key, told["UnlockKey"].as_str().unwrap()).unwrap();
    })
    .await;
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        UnlockSource::File(path)
    };
    let of_another_swarm = pki::unlock_key::UnlockKey::from_bytes([7; 32]).text().expose().to_owned();
    let rows = [
        (None, "this manager is locked: "),
        (Some(put("other", &of_another_swarm)), "does not open this manager's key file"),
        (Some(put("nonsense", "nonsense")), "nonsense holds is no unlock key"),
        (Some(UnlockSource::File(dir.path().join("none"))), "the unlock key cannot be read from file:"),
    ];
    for (from, expected) in rows {
        for text in [
            check(&state, from.as_ref(), now()).await.unwrap_err().to_string(),
            verify_log(&state, &[], from.as_ref(), now()).await.unwrap_err().to_string(),
        ] {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!state.join(".check").exists());
    }
    let files = || {
        let file = |name: &str| fs::read(state.join(name)).unwrap();
        (file("certificates/swarm-node.key"), file("raft/store-1.redb"))
    };
    let (before, from) = (files(), UnlockSource::File(key));
    let whole = check(&state, Some(&from), now()).await.unwrap();
    assert_eq!(texts(&whole), "");
    // Beside root and leaf: that the key was shown.
    assert_eq!(whole.store.map(|store| (store.nodes, store.log_size)), Some((1, 3)));
    let log = verify_log(&state, &[], Some(&from), now()).await.unwrap();
    assert_eq!((log.problem, log.size > 0), (None, true));
    assert!(files() == before && !state.join(".check").exists(), "it stays sealed, and as it was");
    // What is wrong is found behind the lock too.
    fs::remove_file(state.join("raft/store-1.log-1")).unwrap();
    assert!(texts(&check(&state, Some(&from), now()).await.unwrap()).contains("the log is gone"));
}

#[tokio::test]
async fn the_key_is_not_read_where_nothing_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let state = manager(dir.path(), async |_, _| {}).await;
    let none = UnlockSource::File(dir.path().join("none"));
    assert_eq!(texts(&check(&state, Some(&none), now()).await.unwrap()), "");
}

/// Changes a bit.
fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path) {
    let length = fs::metadata(file).unwrap().len();
    fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length / 3).unwrap();
}
