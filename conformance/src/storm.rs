//! Many nodes that join and renew at a time, and go on through the death of their manager: every certificate that any of them
//! received is kept, so that a test can ask for its trace afterwards.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use wire::proto::issuance_status::State;

use crate::caller::{Caller, Pair};
use crate::cluster::Cluster;
use crate::csr::{self, Request};

/// How long a node waits before it tries a manager again that does not answer: nothing tells it when that is back.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Renewals of each node, after its join: each with the leaf before it.
const RENEWALS: usize = 2;

/// A certificate as a node received it: with the request that it answers, byte for byte.
#[derive(Clone)]
pub struct Received {
    /// The node.
    pub node: String,
    /// Its key and certificate.
    pub pair: Pair,
}

/// The storm.
pub struct Storm {
    sky: Arc<Sky>,
    nodes: JoinSet<()>,
}

struct Sky {
    managers: Vec<SocketAddr>,
    /// Counts connections: each goes to the next manager.
    turn: AtomicUsize,
    root: String,
    token: String,
    over: AtomicBool,
    received: Mutex<Vec<Received>>,
    one_more: Notify,
}

impl Storm {
    /// Lets `at_a_time` nodes join and renew, and others after them, until it is told to end.
    pub fn begin(cluster: &Cluster, at_a_time: usize) -> Self {
        Self::among(vec![cluster.address()], cluster.root.clone(), cluster.token("Worker"), at_a_time)
    }

    /// The same in a cluster with several managers: each call goes to another one of these. `token` is the worker's, `root` the trust root.
    pub fn among(managers: Vec<SocketAddr>, root: String, token: String, at_a_time: usize) -> Self {
        let sky = Arc::new(Sky {
            managers,
            turn: AtomicUsize::new(0),
            root,
            token,
            over: AtomicBool::new(false),
            received: Mutex::new(Vec::new()),
            one_more: Notify::new(),
        });
        let mut nodes = JoinSet::new();
        for _ in 0..at_a_time {
            let sky = Arc::clone(&sky);
            nodes.spawn(async move {
                while !sky.over.load(Ordering::Acquire) {
                    sky.life().await;
                }
            });
        }
        Self { sky, nodes }
    }

    /// Certificates received so far.
    pub fn count(&self) -> usize {
        self.sky.received().len()
    }

    /// Waits until this many more than `before` were received.
    pub async fn until(&self, count: usize) {
        loop {
            let news = self.sky.one_more.notified();
            if self.count() >= count {
                return;
            }
            news.await;
        }
    }

    /// Lets nodes that have begun come to their end, and answers every certificate that was received, in order.
    ///
    /// # Panics
    /// If any node was refused what it had a right to.
    pub async fn end(mut self) -> Vec<Received> {
        self.sky.over.store(true, Ordering::Release);
        while let Some(ended) = self.nodes.join_next().await {
            if let Err(error) = ended {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        std::mem::take(&mut *self.sky.received())
    }
}

impl Sky {
    /// One node: joins, then renews with each leaf it got.
    async fn life(&self) {
        let mut held = self.certified(None).await;
        for _ in 0..RENEWALS {
            let next = self.certified(Some(&held)).await;
            assert_eq!(next.node, held.node, "a renewal keeps the id");
            held = next;
        }
    }

    /// Asks for a certificate and fetches it, as an engine does: the id counts from the moment it was answered, and from then on only the
    /// status is asked, also of a manager that was killed in between.
    async fn certified(&self, holder: Option<&Received>) -> Received {
        let request = Arc::new(csr::ordinary());
        let token: Arc<str> = if holder.is_some() { "".into() } else { self.token.as_str().into() };
        let issue = |caller: Caller| {
            let (request, token) = (Arc::clone(&request), Arc::clone(&token));
            async move { caller.issue(request.csr.as_bytes(), &token).await.map(|answer| answer.node_id) }
        };
        let node = self.insist("issue", holder, issue).await;
        let status = |caller: Caller| {
            let (request, node) = (Arc::clone(&request), node.clone());
            async move { fetched(&caller, &node, &request).await }
        };
        let pair = self.insist("status", holder, status).await;
        let received = Received { node, pair };
        self.received().push(received.clone());
        self.one_more.notify_waiters();
        received
    }

    /// Calls until it is answered, on a new connection each time.
    async fn insist<T, F>(&self, what: &str, holder: Option<&Received>, call: impl Fn(Caller) -> F) -> T
    where
        F: Future<Output = Result<T, Status>>,
    {
        loop {
            let manager = self.managers[self.turn.fetch_add(1, Ordering::Relaxed) % self.managers.len()];
            let caller = match holder {
                Some(held) => Caller::with(manager, &self.root, &held.pair).await,
                None => Caller::plain(manager, &self.root).await,
            };
            if let Ok(caller) = caller {
                match call(caller).await {
                    Ok(value) => return value,
                    Err(status) if is_for_good(&status) => {
                        let node = holder.map_or("a joiner", |held| held.node.as_str());
                        panic!("{what} of {node}: {status:?}")
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn received(&self) -> MutexGuard<'_, Vec<Received>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetched(caller: &Caller, node: &str, request: &Request) -> Result<Pair, Status> {
    let answer = caller.status(node).await?;
    let (status, certificate) = (answer.status.unwrap_or_default(), answer.certificate.unwrap_or_default());
    assert_eq!(status.state(), State::Issued, "{node}: {}", status.err);
    // What was issued before, at a manager that has not heard of the next one yet: a node asks again.
    if certificate.csr != request.csr.as_bytes() {
        return Err(Status::unavailable(format!("{node}: a certificate for another request")));
    }
    let chain = String::from_utf8(certificate.certificate).map_err(|error| Status::data_loss(error.to_string()))?;
    Ok(Pair { chain, key: request.key.clone() })
}

/// A refusal, not the silence or the last word of a manager that was killed.
fn is_for_good(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::DataLoss
    )
}
