//! Callers who mean no good, at a manager's real socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use cluster::node::Availability;
use cluster::settings::Settings;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::time::Time;
use prost::bytes::Bytes;
use replica::model::ModelLog;
use swarmpki_manager::bootstrap::{Bootstrap, Params};
use swarmpki_manager::{Chance, Config, Keys, Manager, Peers};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic::body::Body;

/// What never comes ends the test instead of hanging it.
const WITHIN: Duration = Duration::from_secs(20);
/// Connections of one node, as the server has it.
const PER_NODE_MAX: usize = 16;

struct Rig {
    _manager: Manager<ModelLog>,
    addr: SocketAddr,
    identity: mtls::Live,
    log: JoinHandle<()>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.log.abort();
    }
}

fn now() -> Time {
    Time::from(SystemTime::now())
}

async fn rig() -> Rig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let params = Params { addr: addr.to_string(), availability: Availability::Active, settings: Settings::default() };
    let made = Bootstrap::prepare(params, &Chance::system(), now()).unwrap();
    let log = ModelLog::create(1, now(), made.command);
    let (publisher, identity) = mtls::Publisher::new();
    publisher.publish(mtls::Identity { chain: made.chain, key: made.key, trust: made.trust }, now()).unwrap();
    let config = Config {
        clock: std::sync::Arc::new(now),
        chance: Chance::system(),
        identity: identity.clone(),
        keys: Keys::default(),
        peers: Peers::new(identity.clone(), std::sync::Arc::new(now)),
        addr: None,
    };
    let manager = Manager::start(config, log.clone(), listener).unwrap();
    let log = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        loop {
            ticks.tick().await;
            log.set_time(now());
            log.settle();
        }
    });
    Rig { _manager: manager, addr, identity, log }
}

impl Rig {
    async fn stranger(&self) -> SendRequest<Body> {
        over(mtls::connect_unverified(tcp(self.addr).await).await.unwrap()).await.0
    }

    async fn node(&self) -> (SendRequest<Body>, JoinHandle<()>) {
        let connected = self.identity.connect(tcp(self.addr).await, &mtls::Expect::manager(), now()).await.unwrap();
        over(connected.stream).await
    }
}

async fn tcp(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap()
}

/// A connection, and what ends with it.
async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> (SendRequest<Body>, JoinHandle<()>) {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let ended = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, ended)
}

/// A message that announces so many bytes, and then never comes.
async fn promise(sender: &mut SendRequest<Body>, path: &str, bytes: u32) -> Option<http::Response<Incoming>> {
    let mut head = vec![0];
    head.extend_from_slice(&bytes.to_be_bytes());
    let first = futures::stream::once(async move { Ok::<_, tonic::Status>(Frame::data(Bytes::from(head))) });
    let body = Body::new(StreamBody::new(futures::StreamExt::chain(first, futures::stream::pending())));
    let request = http::Request::post(format!("https://manager{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    sender.ready().await.unwrap();
    tokio::time::timeout(WITHIN, sender.send_request(request)).await.ok().map(Result::unwrap)
}

fn code(answer: &http::Response<Incoming>) -> &str {
    answer.headers().get("grpc-status").expect("refused at once").to_str().unwrap()
}

#[tokio::test]
async fn whoever_may_not_call_is_refused_before_the_message_comes() {
    let rig = rig().await;
    let mut stranger = rig.stranger().await;
    for path in [
        "/docker.swarmkit.v1.Dispatcher/Session",
        "/docker.swarmkit.v1.LogBroker/PublishLogs",
        "/docker.swarmkit.v1.CA/GetUnlockKey",
        "/docker.swarmkit.v1.Control/ListNodes",
        "/docker.swarmkit.v1.Health/Check",
        "/docker.swarmkit.v1.Raft/ProcessRaftMessage",
        "/docker.swarmkit.v1.RaftMembership/Join",
        "/docker.swarmkit.v1.ResourceAllocator/AttachNetwork",
    ] {
        let answer = promise(&mut stranger, path, 1000).await.unwrap_or_else(|| panic!("{path} waits"));
        assert_eq!(code(&answer), "7", "{path}: PERMISSION_DENIED");
    }
    for path in ["/", "/x", "/docker.swarmkit.v1.CA/None"] {
        let answer = promise(&mut stranger, path, 1000).await.unwrap_or_else(|| panic!("{path} waits"));
        assert_eq!(code(&answer), "12", "{path}: UNIMPLEMENTED");
    }
}

#[tokio::test]
async fn what_a_stranger_may_send_is_small() {
    let rig = rig().await;
    let mut stranger = rig.stranger().await;
    for (path, bytes) in [
        ("/docker.swarmkit.v1.NodeCA/IssueNodeCertificate", 16 * 1024 + 1),
        ("/docker.swarmkit.v1.NodeCA/NodeCertificateStatus", 16 * 1024 + 1),
        ("/docker.swarmkit.v1.CA/GetRootCACertificate", 4 * 1024 + 1),
        ("/swarmpki.v1.Node/Clock", 4 * 1024 + 1),
    ] {
        let answer = promise(&mut stranger, path, bytes).await.unwrap_or_else(|| panic!("{path} waits"));
        assert_eq!(code(&answer), "11", "{path}: OUT_OF_RANGE");
    }
    let (mut node, _) = rig.node().await;
    let answer = promise(&mut node, "/docker.swarmkit.v1.Dispatcher/Session", 128 * 1024 + 1).await.unwrap();
    assert_eq!(code(&answer), "11", "a node's message has a limit too");
}

#[tokio::test]
async fn a_node_with_many_connections_loses_its_own_oldest() {
    let rig = rig().await;
    let mut stranger = rig.stranger().await;
    let mut connections = Vec::new();
    for _ in 0..PER_NODE_MAX {
        connections.push(rig.node().await);
    }
    let (first, others) = connections.split_first_mut().unwrap();
    // Answered, so all of them are known to the server.
    for (sender, _) in others {
        promise(sender, "/docker.swarmkit.v1.Dispatcher/Session", 1 << 20).await.unwrap();
    }
    assert!(!first.1.is_finished());
    let (mut newest, _ended) = rig.node().await;
    tokio::time::timeout(WITHIN, &mut first.1).await.expect("the oldest ends").unwrap();
    promise(&mut newest, "/docker.swarmkit.v1.Dispatcher/Session", 1 << 20).await.unwrap();
    let answer = promise(&mut stranger, "/docker.swarmkit.v1.CA/GetUnlockKey", 1).await.unwrap();
    assert_eq!(code(&answer), "7", "others lose nothing");
}
