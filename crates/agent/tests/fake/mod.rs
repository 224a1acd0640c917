//! A manager in the test's own process: the real services over real TLS, with a state that the test may change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, missing_docs, unreachable_pub)]

#[path = "../../src/testing.rs"]
pub mod testing;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use mtls::{Identity, Live, Publisher, VerifiedPeer};
use pki::bundle::Issuer;
use pki::certificate::Certificate;
use pki::identity::Role;
use pki::join_token::{JoinSecret, JoinToken};
use pki::time::Time;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};
use wire::node::{ClockRequest, ClockResponse, News, NewsRequest, NodeServer};
use wire::proto::*;
use wire::server::{Ca as CaService, CaServer, Dispatcher, DispatcherServer, NodeCa, NodeCaServer};

use testing::{Ca, DAY, csr, issue_by, key, subject};

pub fn now() -> Time {
    Time::from(SystemTime::now())
}

/// What the session streams tell; a change is a message to every node.
#[derive(Clone)]
pub struct Told {
    pub trust: String,
    pub managers: Vec<String>,
    pub desired_role: i32,
    pub state: i32,
    pub err: String,
    /// How many assignment streams were opened; not told, but a change that tests can wait for.
    pub assignments: u64,
}

pub struct Record {
    pub csr: Vec<u8>,
    pub chain: Vec<u8>,
    pub issued: u64,
}

/// What the fake knows and what it shall do.
pub struct Facts {
    pub ca: Ca,
    pub issuer: Issuer,
    pub trust: String,
    pub role: Role,
    pub nodes: HashMap<String, Record>,
    pub removed: bool,
    pub unlock_key: Vec<u8>,
    pub sessions: Vec<SessionRequest>,
    pub marked: u64,
    pub signs: bool,
    /// How many times a certificate was asked for.
    pub asked: u64,
    pub ours: bool,
    /// Between heartbeats.
    pub period_ms: i32,
    /// What sessions and heartbeats told of the nodes' clocks, in milliseconds. Only nodes of ours tell it.
    pub clocks: Vec<i64>,
    /// Whether `Assignments` is there; if not, `Tasks` is.
    pub assigns: bool,
    /// How many `Tasks` streams were opened.
    pub tasks: u64,
    /// Heartbeats that were answered with a period.
    pub heartbeats: u64,
    /// Whether a heartbeat is to be told that its node is not registered.
    pub forgotten: Forgotten,
}

/// Whether the dispatcher has lost its table of nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Forgotten {
    No,
    /// Told at the next heartbeat.
    Yes,
    /// Told then.
    Told(Instant),
    /// Told, and registered again after so long.
    Back(Duration),
}

#[derive(Clone)]
pub struct Fake {
    pub facts: Arc<Mutex<Facts>>,
    pub told: Arc<watch::Sender<Told>>,
    publisher: Arc<Publisher>,
    live: Live,
}

pub struct Listening {
    pub addr: SocketAddr,
    server: AbortHandle,
    dead: Arc<AtomicBool>,
}

impl Listening {
    pub fn stop(&self) {
        self.server.abort();
        self.dead.store(true, Ordering::Relaxed);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Fake {
    pub fn new(role: Role) -> Fake {
        Self::with(Ca::new(100, now()), role)
    }

    /// The same under another root.
    pub fn other(role: Role) -> Fake {
        Self::with(Ca::new(102, now()), role)
    }

    fn with(ca: Ca, role: Role) -> Fake {
        let (publisher, live) = Publisher::new();
        let fake = Fake {
            facts: Arc::new(Mutex::new(Facts {
                issuer: ca.issuer.clone(),
                trust: ca.pem(),
                ca,
                role,
                nodes: HashMap::new(),
                removed: false,
                unlock_key: Vec::new(),
                sessions: Vec::new(),
                marked: 0,
                signs: true,
                asked: 0,
                ours: true,
                period_ms: 50,
                clocks: Vec::new(),
                assigns: true,
                tasks: 0,
                heartbeats: 0,
                forgotten: Forgotten::No,
            })),
            told: Arc::new(watch::Sender::new(Told {
                trust: String::new(),
                managers: Vec::new(),
                desired_role: i32::from(role == Role::Manager),
                state: 3,
                err: String::new(),
                assignments: 0,
            })),
            publisher: Arc::new(publisher),
            live,
        };
        fake.take_leaf();
        fake
    }

    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap()
    }

    /// Gives the manager itself a leaf of the present issuer.
    pub fn take_leaf(&self) {
        let key = key(50);
        let facts = self.facts();
        let pem = issue_by(&facts.issuer, &csr(&key), &subject("manager1", Role::Manager), now(), DAY);
        let identity =
            Identity { chain: Certificate::parse_pem_bundle(&pem).unwrap(), key, trust: facts.ca.trust(now()) };
        self.publisher.publish(identity, now()).unwrap();
    }

    pub fn token(&self) -> JoinToken {
        let digest = pki::digest::Digest::of(self.facts().trust.as_bytes());
        JoinToken::new(digest, &JoinSecret::from_bytes([9; 16]), false)
    }

    /// Listens; its address goes to the managers that sessions tell.
    pub async fn listen(&self) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        self.told.send_modify(|told| {
            told.trust = self.facts().trust.clone();
            told.managers.push(addr.to_string());
        });
        let (live, fake) = (self.live.clone(), self.clone());
        let dead = Arc::new(AtomicBool::new(false));
        let incoming = async_stream(listener, live, dead.clone());
        let server = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(CaServer::new(fake.clone()))
                .add_service(NodeCaServer::new(fake.clone()))
                .add_service(DispatcherServer::new(fake.clone()))
                .add_service(NodeServer::new(fake))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Listening { addr, server: server.abort_handle(), dead }
    }

    fn message(&self, told: &Told, node: &str) -> SessionMessage {
        let managers = told.managers.iter().map(|addr| WeightedPeer {
            peer: Some(Peer { node_id: format!("manager-at-{addr}"), addr: addr.clone() }),
            weight: 10,
        });
        SessionMessage {
            session_id: format!("session{}", self.facts().sessions.len()),
            node: Some(Node {
                id: node.to_owned(),
                spec: Some(NodeSpec { desired_role: told.desired_role, ..NodeSpec::default() }),
                certificate: Some(wire::proto::Certificate {
                    status: Some(IssuanceStatus { state: told.state, err: told.err.clone() }),
                    ..wire::proto::Certificate::default()
                }),
                ..Node::default()
            }),
            managers: managers.collect(),
            network_bootstrap_keys: Vec::new(),
            root_ca: told.trust.clone().into_bytes().into(),
        }
    }

    fn note_clock<T>(&self, request: &Request<T>) {
        if let Some(told) = request.metadata().get(wire::marker::CLOCK_KEY) {
            self.facts().clocks.push(told.to_str().unwrap().parse().unwrap());
        }
    }

    fn authorized<T>(&self, request: &Request<T>) -> Result<String, Status> {
        let peer = request.extensions().get::<Option<VerifiedPeer>>().cloned().flatten();
        let peer = peer.ok_or_else(|| Status::permission_denied("no client certificates in request"))?;
        let node = peer.subject.node.to_string();
        if self.facts().removed {
            let inner = format!("Permission denied: node {node} was removed from swarm");
            return Err(Status::permission_denied(format!(
                "Permission denied: unauthorized peer role: rpc error: code = PermissionDenied desc = {inner}"
            )));
        }
        Ok(node)
    }
}

/// Accepts connections with TLS, each in its own task.
fn async_stream(listener: TcpListener, live: Live, dead: Arc<AtomicBool>) -> impl Stream<Item = io::Result<Conn>> {
    let (tx, rx) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if tx.is_closed() {
                break;
            }
            let (live, tx, dead) = (live.clone(), tx.clone(), dead.clone());
            tokio::spawn(async move {
                if let Ok(accepted) = live.accept(tcp, now(), &[]).await {
                    let _ = tx.send(Ok(Conn { tls: accepted.stream, peer: accepted.peer, dead })).await;
                }
            });
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(rx)
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

struct Conn {
    tls: Tls,
    peer: Option<VerifiedPeer>,
    dead: Arc<AtomicBool>,
}

impl Connected for Conn {
    type ConnectInfo = Option<VerifiedPeer>;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.dead.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

#[tonic::async_trait]
impl CaService for Fake {
    async fn get_root_ca_certificate(
        &self,
        _: Request<GetRootCaCertificateRequest>,
    ) -> Result<Response<GetRootCaCertificateResponse>, Status> {
        let certificate = self.facts().trust.clone().into_bytes();
        Ok(Response::new(GetRootCaCertificateResponse { certificate: certificate.into() }))
    }

    async fn get_unlock_key(
        &self,
        request: Request<GetUnlockKeyRequest>,
    ) -> Result<Response<GetUnlockKeyResponse>, Status> {
        self.authorized(&request)?;
        let unlock_key = self.facts().unlock_key.clone();
        let version = Some(Version { index: 7 });
        Ok(Response::new(GetUnlockKeyResponse { unlock_key, version }))
    }
}

#[tonic::async_trait]
impl NodeCa for Fake {
    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        let marked = wire::marker::is_marked(request.metadata());
        let caller = self.authorized(&request);
        let token = self.token();
        let asked = request.into_inner();
        let node = match caller {
            Ok(node) => node,
            Err(_) if token.matches(&asked.token) => {
                format!("node{}", self.facts().nodes.len() + 1)
            }
            Err(_) => {
                return Err(Status::invalid_argument("A valid join token is necessary to join this cluster"));
            }
        };
        let mut facts = self.facts();
        facts.asked += 1;
        facts.marked += u64::from(marked);
        let before = facts.nodes.get(&node).map_or(0, |record| record.issued);
        let named = subject(&node, facts.role);
        let chain = issue_by(&facts.issuer, &asked.csr, &named, now(), DAY);
        facts.nodes.insert(node.clone(), Record { csr: asked.csr, chain, issued: before + 1 });
        Ok(Response::new(IssueNodeCertificateResponse { node_id: node, node_membership: 1 }))
    }

    async fn node_certificate_status(
        &self,
        request: Request<NodeCertificateStatusRequest>,
    ) -> Result<Response<NodeCertificateStatusResponse>, Status> {
        let facts = self.facts();
        if !facts.signs {
            return Err(Status::unavailable("the manager is going away"));
        }
        let record = facts.nodes.get(&request.get_ref().node_id).ok_or_else(|| Status::not_found("NotFound"))?;
        let status = Some(IssuanceStatus { state: 3, err: String::new() });
        let certificate = Some(wire::proto::Certificate {
            csr: record.csr.clone(),
            certificate: record.chain.clone(),
            status: status.clone(),
            ..wire::proto::Certificate::default()
        });
        Ok(Response::new(NodeCertificateStatusResponse { status, certificate }))
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Dispatcher for Fake {
    type SessionStream = Messages<SessionMessage>;
    type TasksStream = Messages<TasksMessage>;
    type AssignmentsStream = Messages<AssignmentsMessage>;

    async fn session(&self, request: Request<SessionRequest>) -> Result<Response<Self::SessionStream>, Status> {
        let node = self.authorized(&request)?;
        self.note_clock(&request);
        let mut facts = self.facts();
        facts.sessions.push(request.into_inner());
        if let Forgotten::Told(at) = facts.forgotten {
            facts.forgotten = Forgotten::Back(at.elapsed());
        }
        drop(facts);
        let fake = self.clone();
        let stream = WatchStream::new(self.told.subscribe()).map(move |told| Ok(fake.message(&told, &node)));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        self.authorized(&request)?;
        self.note_clock(&request);
        let mut facts = self.facts();
        if matches!(facts.forgotten, Forgotten::Yes | Forgotten::Told(_)) {
            facts.forgotten = Forgotten::Told(Instant::now());
            return Err(Status::not_found("node not registered"));
        }
        facts.heartbeats += 1;
        let millis = facts.period_ms;
        let period =
            Some(wire::proto::Duration { seconds: i64::from(millis / 1000), nanos: millis % 1000 * 1_000_000 });
        Ok(Response::new(HeartbeatResponse { period }))
    }

    async fn update_task_status(
        &self,
        _: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn update_volume_status(
        &self,
        _: Request<UpdateVolumeStatusRequest>,
    ) -> Result<Response<UpdateVolumeStatusResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn tasks(&self, request: Request<TasksRequest>) -> Result<Response<Self::TasksStream>, Status> {
        self.authorized(&request)?;
        let mut facts = self.facts();
        if facts.assigns {
            return Err(Status::unimplemented(""));
        }
        facts.tasks += 1;
        let first = tokio_stream::once(Ok(TasksMessage::default()));
        Ok(Response::new(Box::pin(first.chain(tokio_stream::pending()))))
    }

    async fn assignments(
        &self,
        request: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        self.authorized(&request)?;
        self.told.send_modify(|told| told.assignments += 1);
        if !self.facts().assigns {
            return Err(Status::unimplemented("unknown method Assignments"));
        }
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

#[tonic::async_trait]
impl wire::node::Node for Fake {
    type NewsStream = Messages<News>;

    async fn news(&self, _: Request<NewsRequest>) -> Result<Response<Self::NewsStream>, Status> {
        if !self.facts().ours {
            return Err(Status::unimplemented("unknown service"));
        }
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }

    async fn clock(&self, _: Request<ClockRequest>) -> Result<Response<ClockResponse>, Status> {
        if !self.facts().ours {
            return Err(Status::unimplemented("unknown service"));
        }
        Ok(Response::new(ClockResponse { unix_millis: now().unix_millis() }))
    }
}

/// Waits for something to be true, for at most 20 s.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}
