//! `swarmpki bench fleet`: many nodes that join and stay, each as an engine does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pki::bundle::TrustBundle;
use pki::certificate::{Certificate, IssuerId};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Streaming;
use wire::client::{DispatcherClient, LogBrokerClient};
use wire::proto::{
    AssignmentsRequest, EngineDescription, HeartbeatRequest, ListenSubscriptionsRequest, NodeDescription, NodeTlsInfo,
    Platform, PluginDescription, Resources, SessionMessage, SessionRequest,
};

use super::figures::{Latencies, Progress, rate};
use super::member::{Candidate, Member};
use super::meter::{Cost, Meter, own};
use super::target::{CALL_LIMIT, Calls, Target, TargetArgs, origin, refused};
use crate::failure::Failure;
use crate::output::Output;

/// Files that this process holds open beside a connection for each node.
const OTHER_FILES: u64 = 256;
/// What a manager that tells no period means. Source: pki.md 1.
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(5);
/// The plugins that an engine without any of its own reports.
const PLUGINS: [(&str, &str); 10] = [
    ("Log", "awslogs"),
    ("Log", "fluentd"),
    ("Log", "gelf"),
    ("Log", "journald"),
    ("Log", "json-file"),
    ("Log", "local"),
    ("Log", "syslog"),
    ("Network", "bridge"),
    ("Network", "overlay"),
    ("Volume", "local"),
];

/// Nodes that join, open a session each, and stay
#[derive(Args, Clone, Debug)]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Nodes
    #[arg(long, value_name = "N", default_value_t = 1000)]
    nodes: usize,
    /// Nodes that join at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    joining: usize,
    /// How long all of them stay, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    hold: u64,
    /// Rest between the last join and the measured stay, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    settle: u64,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    manager: String,
    nodes: usize,
    failed: usize,
    joining: usize,
    join_seconds: f64,
    joins_per_second: f64,
    /// From the download of the root to the first message of the session.
    join_latency_ms: Option<Latencies>,
    /// Of all joins.
    join_cost: Option<Cost>,
    held: Option<Held>,
    client_cpu_seconds: f64,
}

/// What the nodes cost while they stay.
#[derive(Serialize)]
struct Held {
    seconds: f64,
    heartbeats: usize,
    /// Sessions that ended by themselves.
    lost: usize,
    /// Of the manager, with no node and with all of them, in KiB.
    rss_kib_before: Option<u64>,
    rss_kib: Option<u64>,
    rss_kib_per_node: Option<f64>,
    cpu_us_per_node_second: Option<f64>,
}

pub(super) async fn run(args: &FleetArgs, out: &mut Output) -> Result<(), Failure> {
    allow_files(args.nodes)?;
    let meter = Meter::new(&args.target)?;
    let target = Arc::new(args.target.reach().await?);
    let candidates = Candidate::many(args.nodes)?;
    let client = own()?;
    let alone = meter.sample()?;
    let fleet = Arc::new(Fleet::default());
    let running = meter.start().await?;
    let start = Instant::now();
    let mut joined = join_all(&target, candidates, args.joining.max(1), &fleet).await;
    let took = start.elapsed();
    let nodes = joined.latencies.len();
    let join_cost = meter.stop(running, nodes).await?;
    if let Some(first) = joined.failures.first() {
        if nodes == 0 {
            return Err(joined.failures.remove(0));
        }
        crate::output::complain(format!("{} failed; the first: {first}", joined.failures.len()));
    }
    let mut held = None;
    if args.hold > 0 {
        tokio::time::sleep(Duration::from_secs(args.settle)).await;
        let beats = fleet.beats.load(Ordering::Relaxed);
        let (start, before) = (Instant::now(), meter.sample()?);
        tokio::time::sleep(Duration::from_secs(args.hold)).await;
        let (took, after) = (start.elapsed(), meter.sample()?);
        #[allow(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
        let share = |of: f64| of / nodes as f64;
        let grown = alone.zip(after).map(|(alone, after)| after.rss_kib.saturating_sub(alone.rss_kib));
        #[allow(clippy::cast_precision_loss, reason = "KiB of a process")]
        let rss_kib_per_node = grown.map(|kib| share(kib as f64));
        held = Some(Held {
            seconds: took.as_secs_f64(),
            heartbeats: fleet.beats.load(Ordering::Relaxed) - beats,
            lost: fleet.lost.load(Ordering::Relaxed),
            rss_kib_before: alone.map(|sample| sample.rss_kib),
            rss_kib: after.map(|sample| sample.rss_kib),
            rss_kib_per_node,
            cpu_us_per_node_second: before
                .zip(after)
                .map(|(before, after)| share((after.cpu - before.cpu) * 1e6 / took.as_secs_f64())),
        });
    }
    let report = Report {
        bench: "fleet",
        manager: target.addr().to_string(),
        nodes,
        failed: joined.failures.len(),
        joining: args.joining.max(1),
        join_seconds: took.as_secs_f64(),
        joins_per_second: rate(nodes, took),
        join_latency_ms: Latencies::of(joined.latencies),
        join_cost,
        held,
        client_cpu_seconds: own()?.cpu - client.cpu,
    };
    super::report(&report, out)
}

/// A file descriptor for each node.
pub(super) fn allow_files(nodes: usize) -> Result<(), Failure> {
    let wanted = u64::try_from(nodes).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    let refused = |error| Failure::new(format!("the limit of open files: {error}"));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(refused)?;
    if soft >= wanted {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)).map_err(|error| {
        Failure::new(format!("{nodes} nodes need {wanted} open files, and no more than {hard} are allowed: {error}"))
            .hint("Raise the limit (ulimit -n), or take fewer nodes.")
    })
}

/// What the nodes count together.
#[derive(Default)]
struct Fleet {
    beats: AtomicUsize,
    lost: AtomicUsize,
}

#[derive(Default)]
struct Joined {
    latencies: Vec<Duration>,
    failures: Vec<Failure>,
}

async fn join_all(target: &Arc<Target>, candidates: Vec<Candidate>, joining: usize, fleet: &Arc<Fleet>) -> Joined {
    let count = candidates.len();
    let queue = Arc::new(std::sync::Mutex::new(candidates));
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    for _ in 0..joining {
        let (target, queue, fleet, tell) = (Arc::clone(target), Arc::clone(&queue), Arc::clone(fleet), tell.clone());
        workers.spawn(async move {
            let take = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
            while let Some(candidate) = take() {
                let start = Instant::now();
                let joined = tokio::time::timeout(CALL_LIMIT, join(&target, candidate)).await;
                let joined = joined.unwrap_or_else(|_| Err(Failure::new(format!("no session within {CALL_LIMIT:?}"))));
                let outcome = joined.map(|node| {
                    let took = start.elapsed();
                    tokio::spawn(node.stay(Arc::clone(&fleet)));
                    took
                });
                if tell.send(outcome).is_err() {
                    return;
                }
            }
        });
    }
    drop(tell);
    let mut joined = Joined::default();
    let mut progress = Progress::new("joins", count);
    while let Some(outcome) = told.recv().await {
        match outcome {
            Ok(latency) => joined.latencies.push(latency),
            Err(failure) => joined.failures.push(failure),
        }
        progress.at(joined.latencies.len() + joined.failures.len());
    }
    progress.end();
    joined
}

/// A whole join on its three connections, up to the first message of the session.
async fn join(target: &Target, candidate: Candidate) -> Result<Node, Failure> {
    target.fetch_root().await?;
    let issued = candidate.certified(&target.as_joiner().await?, target.token()).await?;
    let member = candidate.into_member(&issued, &target.trust)?;
    let calls = target.as_node(&member.live).await?;
    let mut client = DispatcherClient::with_origin(calls.clone(), origin());
    let request = SessionRequest {
        description: Some(description(&target.trust, &member, &issued.node)),
        session_id: String::new(),
    };
    let refusal = |status: tonic::Status| refused("Session", &status);
    let mut messages = client.session(request).await.map_err(refusal)?.into_inner();
    let first = messages.message().await.map_err(refusal)?;
    let session = first.ok_or_else(|| Failure::new("Session: ended before its first message"))?.session_id;
    Ok(Node { calls, session, messages })
}

/// A node with an open session.
struct Node {
    calls: Calls,
    session: String,
    messages: Streaming<SessionMessage>,
}

impl Node {
    /// Stays until the manager ends the session or the bench is over.
    async fn stay(self, fleet: Arc<Fleet>) {
        if self.live(&fleet).await.is_err() {
            fleet.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn live(mut self, fleet: &Fleet) -> Result<(), tonic::Status> {
        let dispatcher = DispatcherClient::with_origin(self.calls.clone(), origin());
        let mut beat = Box::pin(beat(dispatcher.clone(), self.session.clone(), Duration::ZERO));
        let mut logs = LogBrokerClient::with_origin(self.calls.clone(), origin());
        // A manager may answer a stream's call with its first message only, and some never have one.
        let listening = async { until_over(logs.listen_subscriptions(ListenSubscriptionsRequest {}).await?).await };
        let request = AssignmentsRequest { session_id: self.session.clone() };
        let mut other = dispatcher.clone();
        let working = async { until_over(other.assignments(request).await?).await };
        let (mut listening, mut working) = (Box::pin(listening), Box::pin(working));
        loop {
            tokio::select! {
                message = self.messages.message() => { message?.ok_or_else(over)?; }
                ended = &mut working => return ended,
                ended = &mut listening => return ended,
                period = &mut beat => {
                    fleet.beats.fetch_add(1, Ordering::Relaxed);
                    beat.set(self::beat(dispatcher.clone(), self.session.clone(), period?));
                }
            }
        }
    }
}

fn over() -> tonic::Status {
    tonic::Status::aborted("the stream has ended")
}

/// Reads a stream that should never end.
pub(super) async fn until_over<T>(answer: tonic::Response<Streaming<T>>) -> Result<(), tonic::Status> {
    let mut messages = answer.into_inner();
    while messages.message().await?.is_some() {}
    Err(over())
}

/// One heartbeat after `pause`; how long to wait with the next.
pub(super) async fn beat(
    mut client: DispatcherClient<Calls>,
    session: String,
    pause: Duration,
) -> Result<Duration, tonic::Status> {
    tokio::time::sleep(pause).await;
    let answer = client.heartbeat(HeartbeatRequest { session_id: session }).await?.into_inner();
    Ok(answer.period.and_then(|period| Duration::try_from(period).ok()).unwrap_or(HEARTBEAT_PERIOD))
}

/// What an engine says of itself, about 1 kB.
pub(super) fn description(trust: &TrustBundle, member: &Member, node: &str) -> NodeDescription {
    let issuer: Option<IssuerId> = trust.certificates().first().map(Certificate::issuer_id);
    let issuer = member.live.current().map(|current| current.issuer().clone()).or(issuer);
    let tls_info = issuer.map(|issuer| NodeTlsInfo {
        trust_root: trust.raw().to_vec(),
        cert_issuer_subject: issuer.subject,
        cert_issuer_public_key: issuer.spki,
    });
    let plugin = |(kind, name): (&str, &str)| PluginDescription { r#type: kind.to_owned(), name: name.to_owned() };
    NodeDescription {
        hostname: format!("bench-{node}"),
        platform: Some(Platform { architecture: "x86_64".to_owned(), os: "linux".to_owned() }),
        resources: Some(Resources { nano_cpus: 2_000_000_000, memory_bytes: 8_589_934_592, ..Resources::default() }),
        engine: Some(EngineDescription {
            engine_version: "20.10.24".to_owned(),
            plugins: PLUGINS.map(plugin).to_vec(),
            ..EngineDescription::default()
        }),
        tls_info,
        ..NodeDescription::default()
    }
}
