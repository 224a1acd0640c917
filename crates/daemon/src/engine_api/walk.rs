//! Every route as a viewer: what is for administrators is refused, and no answer holds a secret.
//!
//! Who adds a route adds it to [`place`] (the compiler asks for it) and to [`EVERY`] (the test does).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use replica::Handle;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{DaemonConfig, Host};
use crate::run::{Daemon, RunError};

/// One request for each route; `NODE` stands for a node that there is.
const EVERY: &[(&str, &str)] = &[
    ("GET", "/_ping"),
    ("GET", "/version"),
    ("GET", "/info"),
    ("GET", "/events?until=1"),
    ("GET", "/swarm"),
    ("POST", "/swarm/init"),
    ("POST", "/swarm/join"),
    ("POST", "/swarm/leave?force=1"),
    ("POST", "/swarm/update?version=1&rotateWorkerToken=1"),
    ("GET", "/swarm/unlockkey"),
    ("POST", "/swarm/unlock"),
    ("GET", "/nodes"),
    ("GET", "/nodes/NODE"),
    ("POST", "/nodes/NODE/update?version=1"),
    ("DELETE", "/nodes/NODE?force=1"),
    ("GET", "/tasks"),
    ("GET", "/services"),
    ("GET", "/swarmpki/v1/status"),
    ("GET", "/swarmpki/v1/nodes"),
    ("GET", "/swarmpki/v1/ca"),
    ("GET", "/swarmpki/v1/ca/log"),
    ("GET", "/swarmpki/v1/ca/status"),
    ("POST", "/swarmpki/v1/ca/rotate"),
    ("POST", "/swarmpki/v1/ca/abort"),
    ("POST", "/swarmpki/v1/renew"),
    ("POST", "/swarmpki/v1/backup"),
    ("POST", "/swarmpki/v1/restore"),
    ("POST", "/swarmpki/v1/nodes/NODE/renew"),
    ("GET", "/swarmpki/v1/tokens"),
    ("POST", "/swarmpki/v1/tokens"),
    ("DELETE", "/swarmpki/v1/tokens/1"),
    ("GET", "/swarmpki/v1/log"),
    ("GET", "/swarmpki/v1/log/prove?seq=0"),
    ("GET", "/swarmpki/v1/log/head"),
    ("GET", "/swarmpki/v1/log/consistency?before=1"),
    ("POST", "/swarmpki/v1/log/verify"),
    ("POST", "/swarmpki/v1/log/audit"),
    ("POST", "/swarmpki/v1/log/erase"),
    ("GET", "/swarmpki/v1/operators"),
    ("POST", "/swarmpki/v1/operators"),
    ("POST", "/swarmpki/v1/operators/renew"),
    ("POST", "/swarmpki/v1/operators/revoke"),
    ("POST", "/swarmpki/v1/revoke"),
    ("GET", "/swarmpki/v1/revocations"),
    ("GET", "/swarmpki/v1/crl"),
    ("POST", "/swarmpki/v1/managers"),
    ("POST", "/swarmpki/v1/address"),
];

/// The place of a route among all.
fn place(route: &Route) -> usize {
    match route {
        Route::Ping => 0,
        Route::Version => 1,
        Route::Info => 2,
        Route::Events => 3,
        Route::SwarmInspect => 4,
        Route::SwarmInit => 5,
        Route::SwarmJoin => 6,
        Route::SwarmLeave => 7,
        Route::SwarmUpdate => 8,
        Route::SwarmUnlockKey => 9,
        Route::SwarmUnlock => 10,
        Route::Nodes => 11,
        Route::Node(_) => 12,
        Route::NodeUpdate(_) => 13,
        Route::NodeRemove(_) => 14,
        Route::Tasks => 15,
        Route::Services => 16,
        Route::Status => 17,
        Route::NodesExtended => 18,
        Route::Ca => 19,
        Route::CaLog => 20,
        Route::CaStatus => 21,
        Route::CaRotate => 22,
        Route::CaAbort => 23,
        Route::Renew => 24,
        Route::Backup => 25,
        Route::Restore => 26,
        Route::NodeRenew(_) => 27,
        Route::Tokens => 28,
        Route::TokenCreate => 29,
        Route::TokenRevoke(_) => 30,
        Route::Log => 31,
        Route::LogProve => 32,
        Route::LogConsistency => 33,
        Route::LogVerify => 34,
        Route::LogHead => 44,
        Route::LogAudit => 35,
        Route::LogErase => 36,
        Route::Operators => 37,
        Route::OperatorIssue => 38,
        Route::OperatorRenew => 39,
        Route::OperatorRevoke => 40,
        Route::Revoke => 41,
        Route::Revocations => 42,
        Route::Crl => 43,
        Route::ManagerAt => 45,
        Route::NodeAt => 46,
    }
}
/// One more than the last place.
const PLACES: usize = 47;

#[test]
fn every_route_is_walked() {
    let walked: BTreeSet<usize> = EVERY
        .iter()
        .map(|(method, target)| {
            let path = target.split('?').next().unwrap();
            place(&Route::find(&method.parse().unwrap(), path).unwrap_or_else(|| panic!("no route: {target}")))
        })
        .collect();
    assert_eq!(walked, (0..PLACES).collect());
}

/// Where the requests come from: a private part of the account of what they do.
const FROM: &str = "192.0.2.77";

async fn ask(backend: &Backend, right: Right, method: &str, target: &str, body: &Value) -> (StatusCode, String) {
    let caller = Caller::Plain { addr: format!("{FROM}:4711").parse().unwrap() };
    let backend = &backend.by(caller.clone().into(), backend.ends().clone());
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder().method(method).uri(target).header(CONTENT_TYPE, "application/json");
    let answer = answer(backend, &caller, right, request.body(whole(body)).unwrap()).await;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, format!("{:?}\n{}", head.headers, String::from_utf8_lossy(&body)))
}

/// The texts by which a secret would be found: as it is, and as part of a PEM.
fn traces(secret: &[u8]) -> Vec<String> {
    let base64 = STANDARD.encode(secret);
    // Of a P-256 key in PKCS #8: the private number lies there. What is before it all keys share, what is behind is public.
    vec![pki::digest::hex(&secret[36..68]), base64[48..64].to_owned(), base64[64..88].to_owned()]
}

async fn start(dir: &Path) -> (Backend, CancellationToken, JoinHandle<Result<(), RunError>>) {
    let config = DaemonConfig {
        state_dir: dir.join("state"),
        hosts: vec![Host::Unix(dir.join("api.sock"))],
        hostname: Some("host1".into()),
        ..DaemonConfig::default()
    };
    let shutdown = CancellationToken::new();
    let daemon = Daemon::start(config, shutdown.clone()).await.unwrap();
    (daemon.backend(), shutdown, tokio::spawn(daemon.serve()))
}

#[tokio::test]
async fn a_viewer_sees_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (backend, shutdown, task) = start(dir.path()).await;
    let admin = async |method: &str, target: &str, body: Value| {
        let (status, text) = ask(&backend, Right::Admin, method, target, &body).await;
        assert!(status.is_success(), "{target}: {text}");
        text
    };
    let init = json!({"ListenAddr": "127.0.0.1:0", "AdvertiseAddr": "127.0.0.1", "AutoLockManagers": true});
    let node = admin("POST", "/swarm/init", init).await;
    let node = node.rsplit('\n').find(|line| line.starts_with('"')).unwrap().trim_matches('"').to_owned();

    // What nobody but an administrator may see; that it is looked for as it is shown is checked with the answers that do show it.
    let body = |text: String| serde_json::from_str::<Value>(text.split_once('\n').unwrap().1).unwrap();
    let (swarm, key) = (admin("GET", "/swarm", Value::Null).await, admin("GET", "/swarm/unlockkey", Value::Null).await);
    let (shown, unlock) = (body(swarm.clone()), body(key.clone()));
    let mut secrets = vec!["PRIVATE KEY".to_owned(), "SWMTKN-".to_owned(), "SWMKEY-".to_owned()];
    for token in ["Worker", "Manager"] {
        let token = shown["JoinTokens"][token].as_str().unwrap();
        assert!(token.starts_with("SWMTKN-1-"), "{token}");
        secrets.push(token.rsplit('-').next().unwrap().to_owned());
    }
    secrets.push(unlock["UnlockKey"].as_str().unwrap().rsplit('-').next().unwrap().to_owned());
    let limited = json!({"role": "worker", "ttl_ms": 3_600_000, "uses": 3, "note": "for the walk"});
    let limited = body(admin("POST", "/swarmpki/v1/tokens", limited).await);
    secrets.push(limited["token"].as_str().unwrap().rsplit('-').next().unwrap().to_owned());
    for secret in &secrets[1..secrets.len() - 1] {
        assert!(swarm.contains(secret.as_str()) || key.contains(secret.as_str()), "{secret} is not shown to anybody");
    }
    let own = pki::PrivateKey::generate_p256(&[7; 32]).unwrap();
    let csr = pki::csr::request(&own).unwrap();
    admin("POST", "/swarmpki/v1/operators", json!({"name": "alice", "csr": csr})).await;
    let state = backend.replica().unwrap().state();
    let cluster::roots::Roots::Stable { root, .. } = &state.roots else { panic!("no root") };
    let key = root.key().expect("the root's key is here");
    secrets.extend(traces(key.expose()));
    secrets.extend(traces(state.operators.root.as_ref().expect("the operators' root").key.expose()));

    let account = admin("GET", "/swarmpki/v1/log", Value::Null).await;
    assert!(account.contains(FROM), "{account}");
    secrets.extend([FROM.to_owned(), pki::digest::hex(FROM.as_bytes()), pki::digest::hex(&[192, 0, 2, 77])]);

    for (method, target) in EVERY {
        let target = target.replace("NODE", &node);
        let route = Route::find(&method.parse().unwrap(), target.split('?').next().unwrap()).unwrap();
        let (status, text) = ask(&backend, Right::Viewer, method, &target, &Value::Null).await;
        match route.right() {
            // It renews its own, and here it has none.
            Right::Viewer if route == Route::OperatorRenew => assert_eq!(status, 400, "{target}: {text}"),
            // It is asked of certificates, below.
            Right::Viewer if route == Route::LogAudit => assert_eq!(status, 400, "{target}: {text}"),
            Right::Viewer => assert_eq!(status, 200, "{target}: {text}"),
            Right::Admin => {
                assert_eq!(status, 403, "{target}: {text}");
                assert!(text.ends_with("{\"message\":\"this needs an administrator's rights\"}\n"), "{target}: {text}");
            }
        }
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{target} shows {secret}: {text}");
        }
    }
    let viewer = async |target: &str, body: Value| ask(&backend, Right::Viewer, "POST", target, &body).await;
    let answers = [
        viewer("/swarmpki/v1/log/audit", json!({"Certificates": [root.signer.pem()]})).await,
        viewer("/swarmpki/v1/log/verify", json!({"Heads": []})).await,
    ];
    for (status, text) in &answers {
        assert_eq!(*status, 200, "{text}");
        assert!(secrets.iter().all(|secret| !text.contains(secret.as_str())), "{text}");
    }
    assert!(answers[0].1.contains("\"issued\"") && answers[1].1.contains("\"problem\":null"), "{answers:?}");
    let (_, swarm) = ask(&backend, Right::Viewer, "GET", "/swarm", &Value::Null).await;
    assert_eq!(body(swarm)["JoinTokens"]["Worker"], "SHOWN-TO-ADMINISTRATORS-ONLY");
    // And nothing has changed.
    assert_eq!(body(admin("GET", "/swarm", Value::Null).await), shown);
    shutdown.cancel();
    task.await.unwrap().unwrap();
}

/// What is logged while a test runs.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn with(&self, word: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap()).lines().filter(|line| line.contains(word)).count()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A root of one's own signs for others too: a viewer who has all that audited would fill the log with alarms.
#[tokio::test]
async fn a_viewers_audit_raises_no_alarm_and_an_administrators_does() {
    let lines = Lines::default();
    let logged = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || logged.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    let dir = tempfile::tempdir().unwrap();
    let (backend, shutdown, task) = start(dir.path()).await;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Our own root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let ca = json!({"SigningCACert": root.pem(), "SigningCAKey": root.key().serialize_pem()});
    let init = json!({"ListenAddr": "127.0.0.1:0", "AdvertiseAddr": "127.0.0.1", "Spec": {"CAConfig": ca}});
    let (status, text) = ask(&backend, Right::Admin, "POST", "/swarm/init", &init).await;
    assert_eq!(status, 200, "{text}");

    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "intranet.example");
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &root).unwrap().pem();
    let body = json!({"Certificates": [leaf]});
    for (right, alarms) in [(Right::Viewer, 0), (Right::Viewer, 0), (Right::Admin, 1)] {
        let (status, text) = ask(&backend, right, "POST", "/swarmpki/v1/log/audit", &body).await;
        assert!(status == 200 && text.contains("\"forged\""), "whoever asks is told: {text}");
        assert_eq!(lines.with("forged-or-foreign-leaf"), alarms, "{right:?}");
    }
    shutdown.cancel();
    task.await.unwrap().unwrap();
}
