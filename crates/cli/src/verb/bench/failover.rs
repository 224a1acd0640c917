//! `swarmpki bench failover`: nodes whose manager is lost, and who go to another one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tonic::Streaming;
use wire::client::DispatcherClient;
use wire::proto::{SessionMessage, SessionRequest};

use super::figures::{Latencies, Progress};
use super::fleet::{allow_files, beat, description};
use super::member::{Candidate, Member};
use super::meter::own;
use super::target::{Target, TargetArgs, origin, refused};
use crate::failure::Failure;
use crate::output::Output;

/// Nodes that join at a time.
const JOINING: usize = 16;
/// The longest pause before another manager is tried, as an engine's first. Source: wire.md 6.6.
const PAUSE_MAX_MS: u64 = 100;

/// Nodes whose manager is lost, and who go to another one
///
/// All of them open their session with the manager that is named. The command then takes it away; the clock runs until each has a
/// session with another manager of those that it was told of.
#[derive(Args, Clone, Debug)]
pub(crate) struct FailoverArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 1000)]
    nodes: usize,
    /// Shell command that takes the manager away, as `kill -9 PID`
    #[arg(long, value_name = "COMMAND")]
    start: String,
    /// Rest before that, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    settle: u64,
    /// Give up after so long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    limit: u64,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    manager: String,
    nodes: usize,
    /// From the command's start until the last node was in session again.
    seconds: f64,
    /// Without a session, each node.
    gap_ms: Option<Latencies>,
    /// Attempts with managers that are there which came to nothing.
    failed_attempts: usize,
    /// Why the first of them failed.
    first_failure: Option<String>,
    client_cpu_seconds: f64,
}

/// What nodes count together.
#[derive(Default)]
struct Counts {
    failed: AtomicUsize,
    first: std::sync::OnceLock<String>,
}

pub(super) async fn run(args: &FailoverArgs, out: &mut Output) -> Result<(), Failure> {
    allow_files(2 * args.nodes)?;
    let target = Arc::new(args.target.reach().await?);
    let counts = Arc::new(Counts::default());
    let (tell, mut told) = mpsc::unbounded_channel();
    let places = Arc::new(Semaphore::new(JOINING));
    let (joined, mut joins) = mpsc::unbounded_channel();
    for candidate in Candidate::many(args.nodes)? {
        let (target, counts, tell) = (Arc::clone(&target), Arc::clone(&counts), tell.clone());
        let (places, joined) = (Arc::clone(&places), joined.clone());
        tokio::spawn(async move {
            let place = places.acquire_owned().await;
            let node = join(target, candidate, counts).await;
            drop(place);
            match node {
                Ok((node, open)) => {
                    let _ = joined.send(Ok(()));
                    node.live(open, tell).await;
                }
                Err(failure) => {
                    let _ = joined.send(Err(failure));
                }
            }
        });
    }
    drop((joined, tell));
    let mut progress = Progress::new("joins", args.nodes);
    for count in 1..=args.nodes {
        match joins.recv().await {
            Some(Ok(())) => progress.at(count),
            Some(Err(failure)) => return Err(failure),
            None => break,
        }
    }
    progress.end();
    tokio::time::sleep(Duration::from_secs(args.settle)).await;

    let client = own()?;
    let start = Instant::now();
    let status = tokio::process::Command::new("sh").arg("-c").arg(&args.start).status().await;
    if !status.map_err(|error| Failure::new(format!("{}: {error}", args.start)))?.success() {
        return Err(Failure::new(format!("`{}` failed", args.start)));
    }
    let mut gaps = Vec::with_capacity(args.nodes);
    let mut progress = Progress::new("nodes", args.nodes);
    let finished = async {
        while gaps.len() < args.nodes
            && let Some(gap) = told.recv().await
        {
            gaps.push(gap);
            progress.at(gaps.len());
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(args.limit), finished).await.is_ok();
    let took = start.elapsed();
    progress.end();
    if !in_time {
        let back = gaps.len();
        return Err(Failure::new(format!("{back} of {} nodes came back within {} s", args.nodes, args.limit)));
    }
    let report = Report {
        bench: "failover",
        manager: target.addr().to_string(),
        nodes: args.nodes,
        seconds: took.as_secs_f64(),
        gap_ms: Latencies::of(gaps),
        failed_attempts: counts.failed.load(Ordering::Relaxed),
        first_failure: counts.first.get().cloned(),
        client_cpu_seconds: own()?.cpu - client.cpu,
    };
    super::report(&report, out)
}

async fn join(target: Arc<Target>, candidate: Candidate, counts: Arc<Counts>) -> Result<(Node, Open), Failure> {
    let issued = candidate.certified(&target.as_joiner().await?, target.token()).await?;
    let member = candidate.into_member(&issued, &target.trust)?;
    let addr = target.addr();
    let mut node = Node { target, member, id: issued.node, managers: Vec::new(), counts };
    let open = node.open(addr).await?;
    Ok((node, open))
}

struct Node {
    target: Arc<Target>,
    member: Member,
    id: String,
    managers: Vec<SocketAddr>,
    counts: Arc<Counts>,
}

/// A session, and the heartbeats that keep it.
struct Open {
    addr: SocketAddr,
    messages: Streaming<SessionMessage>,
    beating: tokio::task::JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

impl Node {
    async fn open(&mut self, addr: SocketAddr) -> Result<Open, Failure> {
        let calls = self.target.as_node_at(&self.member.live, addr).await?;
        let trust = self.member.trust().ok_or_else(|| Failure::new("a member without an identity"))?;
        let mut client = DispatcherClient::with_origin(calls, origin());
        let description = Some(description(&trust, &self.member, &self.id));
        let refusal = |status: tonic::Status| refused("Session", &status);
        let request = SessionRequest { description, session_id: String::new() };
        let mut messages = client.session(request).await.map_err(refusal)?.into_inner();
        let first = messages.message().await.map_err(refusal)?;
        let first = first.ok_or_else(|| Failure::new("Session: ended before its first message"))?;
        let told = first.managers.iter().filter_map(|manager| manager.peer.as_ref()?.addr.parse().ok());
        self.managers = told.collect();
        let session = first.session_id;
        let beating = tokio::spawn(async move {
            let mut period = Duration::ZERO;
            while let Ok(next) = beat(client.clone(), session.clone(), period).await {
                period = next;
            }
        });
        Ok(Open { addr, messages, beating })
    }

    /// Stays until its session ends, finds another manager, says how long that took, and stays there.
    async fn live(mut self, mut open: Open, tell: mpsc::UnboundedSender<Duration>) {
        loop {
            while let Ok(Some(_)) = open.messages.message().await {}
            let (left, lost) = (Instant::now(), open.addr);
            let mut seed = seed();
            open = loop {
                tokio::time::sleep(Duration::from_millis(seed % PAUSE_MAX_MS)).await;
                let others: Vec<_> = self.managers.iter().copied().filter(|addr| *addr != lost).collect();
                let Some(addr) = usize::try_from(seed >> 32).ok().and_then(|at| others.get(at % others.len().max(1)))
                else {
                    return;
                };
                match self.open(*addr).await {
                    Ok(open) => break open,
                    Err(failure) => {
                        self.counts.failed.fetch_add(1, Ordering::Relaxed);
                        let _ = self.counts.first.set(failure.to_string());
                    }
                }
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            };
            if tell.send(left.elapsed()).is_err() {
                return;
            }
        }
    }
}

/// Spreads nodes over managers and time; nothing secret comes from it.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
