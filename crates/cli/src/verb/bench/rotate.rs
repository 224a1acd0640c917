//! `swarmpki bench rotate`: nodes that go through a rotation of the root, each as an engine does it (wire.md 6.3, 6.4).

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tonic::Streaming;
use wire::client::{DispatcherClient, LogBrokerClient};
use wire::proto::issuance_status::State as Issuance;
use wire::proto::{AssignmentsRequest, ListenSubscriptionsRequest, SessionMessage, SessionRequest};

use super::figures::{Latencies, Progress};
use super::fleet::{allow_files, beat, description, until_over};
use super::member::{Candidate, Member};
use super::meter::{Cost, Meter, own};
use super::target::{Target, TargetArgs, origin, refused};
use crate::failure::Failure;
use crate::output::Output;

/// What an engine waits before it obeys. Source: wire.md 6.4.
const ENGINE_PAUSE: Duration = Duration::from_millis(500);
/// Nodes that join at a time.
const JOINING: usize = 16;

/// Nodes that are in session while the root is rotated
///
/// The rotation is started by a command of your own, once all nodes are in session, and counts as finished when every
/// node has a certificate of the new root, trusts it alone, and is in session.
#[derive(Args, Clone, Debug)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 100)]
    nodes: usize,
    /// Shell command that starts the rotation and returns, as `swarmpki ca --rotate --detach`
    #[arg(long, value_name = "COMMAND")]
    start: String,
    /// How long each node waits before it obeys, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pause: u64,
    /// Rest before the rotation, in seconds; the manager's use of its processor meanwhile counts as idling
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    settle: u64,
    /// Rest after the rotation, in seconds, before memory is read again
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    rest: u64,
    /// Give up after so long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    manager: String,
    nodes: usize,
    /// From the command's start until the last node was done.
    seconds: f64,
    /// The same, until half of them were.
    half_seconds: f64,
    /// Certificates renewed, as ordered.
    renewed: usize,
    /// Renewals that failed and were tried again.
    failed_renewals: usize,
    /// Sessions that the manager ended.
    lost: usize,
    /// Without a session, from leaving one until the first message of the next.
    gap_ms: Option<Latencies>,
    cost: Option<Cost>,
    /// Beyond what it used while idling as long.
    cpu_ms_per_node_beyond_idling: Option<f64>,
    rss_kib_per_node_after: Option<f64>,
    rss_kib_per_node_rested: Option<f64>,
    client_cpu_seconds: f64,
}

/// What nodes count together.
#[derive(Default)]
struct Counts {
    gaps: Mutex<Vec<Duration>>,
    failed: std::sync::atomic::AtomicUsize,
    lost: std::sync::atomic::AtomicUsize,
    renewed: std::sync::atomic::AtomicUsize,
}

pub(super) async fn run(args: &RotateArgs, out: &mut Output) -> Result<(), Failure> {
    allow_files(2 * args.nodes)?;
    let meter = Meter::new(&args.target)?;
    let target = Arc::new(args.target.reach().await?);
    let alone = meter.sample()?;
    let counts = Arc::new(Counts::default());
    let (tell, mut told) = mpsc::unbounded_channel();
    join_all(args, &target, &counts, &tell).await?;
    drop(tell);

    let idle = Instant::now();
    let before = meter.sample()?;
    tokio::time::sleep(Duration::from_secs(args.settle)).await;
    let idling = before.zip(meter.sample()?).map(|(a, b)| (b.cpu - a.cpu) / idle.elapsed().as_secs_f64());

    let client = own()?;
    let running = meter.start().await?;
    let start = Instant::now();
    let status = tokio::process::Command::new("sh").arg("-c").arg(&args.start).status().await;
    if !status.map_err(|error| Failure::new(format!("{}: {error}", args.start)))?.success() {
        return Err(Failure::new(format!("`{}` failed", args.start)));
    }
    let (mut half, mut done) = (None, 0);
    let mut progress = Progress::new("nodes", args.nodes);
    let finished = async {
        while done < args.nodes && told.recv().await.is_some() {
            done += 1;
            progress.at(done);
            if done * 2 >= args.nodes {
                half.get_or_insert(start.elapsed());
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(args.limit), finished).await.is_ok();
    let took = start.elapsed();
    progress.end();
    if !in_time {
        return Err(Failure::new(format!("{done} of {} nodes went through within {} s", args.nodes, args.limit)));
    }
    let cost = meter.stop(running, args.nodes).await?;
    let client_cpu_seconds = own()?.cpu - client.cpu;
    let after = meter.sample()?;
    tokio::time::sleep(Duration::from_secs(args.rest)).await;
    let rested = meter.sample()?;
    #[allow(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
    let each = |value: f64| value / args.nodes as f64;
    let grown = |then: Option<super::meter::Sample>| {
        alone.zip(then).map(|(alone, then)| {
            #[allow(clippy::cast_precision_loss, reason = "KiB of a process")]
            each(then.rss_kib.saturating_sub(alone.rss_kib) as f64)
        })
    };
    let beyond = cost
        .as_ref()
        .zip(idling)
        .map(|(cost, idling)| each((cost.cpu_seconds - idling * took.as_secs_f64()).max(0.0) * 1e3));
    let load = |count: &std::sync::atomic::AtomicUsize| count.load(std::sync::atomic::Ordering::Relaxed);
    let report = Report {
        bench: "rotate",
        manager: target.addr().to_string(),
        nodes: args.nodes,
        seconds: took.as_secs_f64(),
        half_seconds: half.unwrap_or(took).as_secs_f64(),
        renewed: load(&counts.renewed),
        failed_renewals: load(&counts.failed),
        lost: load(&counts.lost),
        gap_ms: Latencies::of(std::mem::take(&mut *counts.gaps.lock().unwrap_or_else(PoisonError::into_inner))),
        cost,
        cpu_ms_per_node_beyond_idling: beyond,
        rss_kib_per_node_after: grown(after),
        rss_kib_per_node_rested: grown(rested),
        client_cpu_seconds,
    };
    super::report(&report, out)
}

async fn join_all(
    args: &RotateArgs,
    target: &Arc<Target>,
    counts: &Arc<Counts>,
    tell: &mpsc::UnboundedSender<()>,
) -> Result<(), Failure> {
    let places = Arc::new(Semaphore::new(JOINING));
    let (joined, mut joins) = mpsc::unbounded_channel();
    for candidate in Candidate::many(args.nodes)? {
        // Made before the clock starts.
        let next = Candidate::new()?;
        let (target, counts, tell, joined) = (Arc::clone(target), Arc::clone(counts), tell.clone(), joined.clone());
        let (places, pause) = (Arc::clone(&places), Duration::from_millis(args.pause));
        tokio::spawn(async move {
            let place = places.acquire_owned().await;
            let node = async {
                let issued = candidate.certified(&target.as_joiner().await?, target.token()).await?;
                let member = candidate.into_member(&issued, &target.trust)?;
                let mut node =
                    Node { target, member, id: issued.node, session: String::new(), next: Some(next), pause, counts };
                let open = node.open().await?;
                Ok::<_, Failure>((node, open))
            };
            let node = node.await;
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
    drop(joined);
    let mut progress = Progress::new("joins", args.nodes);
    for count in 1..=args.nodes {
        match joins.recv().await {
            Some(Ok(())) => progress.at(count),
            Some(Err(failure)) => return Err(failure),
            None => break,
        }
    }
    progress.end();
    Ok(())
}

struct Node {
    target: Arc<Target>,
    member: Member,
    id: String,
    session: String,
    next: Option<Candidate>,
    pause: Duration,
    counts: Arc<Counts>,
}

/// A session and what belongs to it.
struct Open {
    messages: Streaming<SessionMessage>,
    first: SessionMessage,
    other: tokio::task::JoinHandle<Result<(), tonic::Status>>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.other.abort();
    }
}

impl Node {
    /// Opens a session on a connection of its own.
    async fn open(&mut self) -> Result<Open, Failure> {
        let calls = self.target.as_node(&self.member.live).await?;
        let trust = self.member.trust().ok_or_else(|| Failure::new("a member without an identity"))?;
        let mut client = DispatcherClient::with_origin(calls.clone(), origin());
        let request = SessionRequest {
            description: Some(description(&trust, &self.member, &self.id)),
            session_id: self.session.clone(),
        };
        let refusal = |status: tonic::Status| refused("Session", &status);
        let mut messages = client.session(request).await.map_err(refusal)?.into_inner();
        let first = messages.message().await.map_err(refusal)?;
        let first = first.ok_or_else(|| Failure::new("Session: ended before its first message"))?;
        self.session.clone_from(&first.session_id);
        let session = self.session.clone();
        let other = tokio::spawn(async move {
            let mut logs = LogBrokerClient::with_origin(calls.clone(), origin());
            let dispatcher = DispatcherClient::with_origin(calls, origin());
            let listening = async { until_over(logs.listen_subscriptions(ListenSubscriptionsRequest {}).await?).await };
            let request = AssignmentsRequest { session_id: session.clone() };
            let mut assigning = dispatcher.clone();
            let working = async { until_over(assigning.assignments(request).await?).await };
            let beating = async {
                let mut period = Duration::ZERO;
                loop {
                    period = beat(dispatcher.clone(), session.clone(), period).await?;
                }
            };
            tokio::select! {
                ended = listening => ended,
                ended = working => ended,
                ended = beating => ended,
            }
        });
        Ok(Open { messages, first, other })
    }

    /// Lives on; says once when it is through.
    async fn live(mut self, mut open: Open, tell: mpsc::UnboundedSender<()>) {
        let mut tell = Some(tell);
        let mut message = Some(open.first.clone());
        let mut obeyed = String::new();
        let mut order: Option<std::pin::Pin<Box<tokio::time::Sleep>>> = None;
        loop {
            let mut again = false;
            if let Some(message) = message.take() {
                let status = message.node.as_ref().and_then(|node| node.certificate.as_ref()?.status.clone());
                if let Some(status) = status.filter(|status| status.state == Issuance::Rotate as i32)
                    && (status.err != obeyed || obeyed.is_empty())
                    && order.is_none()
                {
                    obeyed = if status.err.is_empty() { "?".to_owned() } else { status.err };
                    order = Some(Box::pin(tokio::time::sleep(self.pause)));
                }
                let held = self.member.trust().is_some_and(|trust| trust.raw() == message.root_ca);
                again = !message.root_ca.is_empty() && !held && self.member.take_root(&message.root_ca);
            }
            if !again {
                let due = async {
                    match &mut order {
                        Some(order) => order.as_mut().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    next = open.messages.message() => match next {
                        Ok(Some(next)) => message = Some(next),
                        Ok(None) | Err(_) => {
                            self.counts.lost.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            again = true;
                        }
                    },
                    () = due => {
                        order = None;
                        match self.renew().await {
                            Ok(()) => again = true,
                            Err(_) => {
                                self.counts.failed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                                obeyed.clear();
                            }
                        }
                    }
                }
            }
            if !again {
                continue;
            }
            let left = Instant::now();
            loop {
                match self.open().await {
                    Ok(next) => {
                        open = next;
                        break;
                    }
                    Err(_) => tokio::time::sleep(ENGINE_PAUSE / 5).await,
                }
            }
            self.counts.gaps.lock().unwrap_or_else(PoisonError::into_inner).push(left.elapsed());
            message = Some(open.first.clone());
            if self.is_through()
                && let Some(tell) = tell.take()
            {
                let _ = tell.send(());
            }
        }
    }

    /// Whether it trusts another root than at the beginning, and its certificate is of that.
    fn is_through(&self) -> bool {
        let Some(current) = self.member.live.current() else { return false };
        let trusts = current.trust().raw() != self.target.trust.raw();
        trusts && current.trust().certificates().iter().any(|root| root.issuer_id() == *current.issuer())
    }

    /// Renews with a key made before, on a connection of its own.
    async fn renew(&mut self) -> Result<(), Failure> {
        let candidate = match self.next.take() {
            Some(candidate) => candidate,
            None => Candidate::new()?,
        };
        let issued = candidate.certified(&self.target.as_node(&self.member.live).await?, "").await?;
        candidate.replace(&mut self.member, &issued)?;
        self.counts.renewed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}
