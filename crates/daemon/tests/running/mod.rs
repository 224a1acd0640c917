//! Daemons in the test's process, asked over their sockets.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use swarmpki_daemon::{Daemon, DaemonConfig, Host, RunError};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest wait for something that has to happen by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon that runs in this process.
pub(crate) struct Running {
    pub(crate) socket: PathBuf,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), RunError>>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn message(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["message"].as_str().unwrap_or_default().to_owned())
    }
}

pub(crate) fn config(dir: &Path) -> DaemonConfig {
    DaemonConfig {
        state_dir: dir.join("state"),
        hosts: vec![Host::Unix(dir.join("run/api.sock"))],
        hostname: Some("host1".into()),
        ..DaemonConfig::default()
    }
}

impl Running {
    pub(crate) async fn start(dir: &Path) -> Self {
        let shutdown = CancellationToken::new();
        let daemon = Daemon::start(config(dir), shutdown.clone()).await.unwrap();
        Self { socket: dir.join("run/api.sock"), shutdown, task: tokio::spawn(daemon.serve()) }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub(crate) async fn open(&self, method: Method, path: &str, body: Option<&Value>) -> http::Response<Incoming> {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "api");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        sender.send_request(request.body(Full::new(Bytes::from(bytes))).unwrap()).await.unwrap()
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.open(method, path, body).await;
        let (head, body) = answer.into_parts();
        Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn swarm(&self) -> Value {
        self.get("/v1.41/info").await.json()["Swarm"].clone()
    }

    /// Founds a cluster on a port of its own; answers the node id.
    pub(crate) async fn init(&self) -> String {
        let answer =
            self.post("/swarm/init", &json!({"ListenAddr": "127.0.0.1:0", "AdvertiseAddr": "127.0.0.1"})).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json().as_str().unwrap().to_owned()
    }

    pub(crate) async fn join(&self, manager: &Value, token: &str) -> Answer {
        let remote = &manager["RemoteManagers"][0]["Addr"];
        self.post("/swarm/join", &json!({"ListenAddr": "127.0.0.1:0", "RemoteAddrs": [remote], "JoinToken": token}))
            .await
    }

    /// Asks until the answer is as wanted.
    pub(crate) async fn until(&self, what: &str, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let asking = async {
            loop {
                let answer = self.get(path).await.json();
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
    }
}
