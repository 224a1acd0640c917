//! `swarmpki bench issue`: certificates, many at once or one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::task::JoinSet;

use super::figures::{Latencies, Progress, rate};
use super::member::{Candidate, Member};
use super::meter::{Cost, Meter, own};
use super::target::{Calls, Target, TargetArgs};
use crate::failure::Failure;
use crate::output::Output;

/// Certificates issued before the clock starts, at most: connections are open and code is warm by then.
const WARM_UP_MAX: usize = 64;

/// Certificates: how many, how fast, at what cost
#[derive(Args, Clone, Debug)]
pub(crate) struct IssueArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 64)]
    concurrency: usize,
    /// Certificates to ask for
    #[arg(long, value_name = "N", default_value_t = 2000)]
    count: usize,
    /// Stop after so many seconds even if fewer were issued
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
    /// Connections that the requests share
    #[arg(long, value_name = "K", default_value_t = 1)]
    connections: usize,
    /// A new connection for each certificate
    #[arg(long, conflicts_with = "connections")]
    new_connection_each: bool,
    /// First certificates by token, or further ones of nodes
    #[arg(long, value_enum, default_value_t = Mode::Join)]
    mode: Mode,
    /// Start without issuing a few certificates first
    #[arg(long)]
    cold: bool,
}

/// What kind of issuance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// A new node each.
    Join,
    /// A node that renews; a node for each request under way.
    Renew,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    manager: String,
    mode: Mode,
    concurrency: usize,
    /// None: a new one for each certificate.
    connections: Option<usize>,
    certificates: usize,
    failed: usize,
    seconds: f64,
    certificates_per_second: f64,
    /// Of Issue and Status together, in milliseconds; with a new connection each, of that too.
    latency_ms: Option<Latencies>,
    cost: Option<Cost>,
    client_cpu_seconds: f64,
    /// When the first certificate was here, in milliseconds since the Unix epoch.
    first_certificate_unix_ms: u128,
}

/// Where a request goes.
enum Way {
    Shared(Calls),
    Anew(Option<Arc<Member>>),
}

pub(super) async fn run(args: &IssueArgs, out: &mut Output) -> Result<(), Failure> {
    if args.concurrency == 0 || args.count == 0 || args.connections == 0 {
        return Err(Failure::new("--concurrency, --count and --connections have to be 1 at least"));
    }
    let warm_up = if args.cold { 0 } else { args.concurrency.min(WARM_UP_MAX) };
    let mut candidates = Candidate::many(args.count + warm_up)?;
    let meter = Meter::new(&args.target)?;
    let target = Arc::new(args.target.reach().await?);
    let ways = ways(args, &target).await?;
    let rest = candidates.split_off(warm_up);
    if warm_up > 0 {
        // A refusal here is one that every request would meet.
        let first = round(&target, &ways, candidates, None, Progress::new("warming up", warm_up)).await;
        if let (0, Some(failure)) = (first.latencies.len(), first.failure) {
            return Err(failure);
        }
    }
    let limit = args.duration.map(Duration::from_secs);
    let client = own()?;
    let running = meter.start().await?;
    let start = Instant::now();
    let done = round(&target, &ways, rest, limit, Progress::new("certificates", args.count)).await;
    let took = start.elapsed();
    let certificates = done.latencies.len();
    let cost = meter.stop(running, certificates).await?;
    if let (0, Some(failure)) = (certificates, done.failure) {
        return Err(failure);
    }
    let report = Report {
        bench: "issue",
        manager: target.addr().to_string(),
        mode: args.mode,
        concurrency: args.concurrency,
        connections: (!args.new_connection_each).then_some(ways_of(args)),
        certificates,
        failed: done.failed,
        seconds: took.as_secs_f64(),
        certificates_per_second: rate(certificates, took),
        latency_ms: Latencies::of(done.latencies),
        cost,
        client_cpu_seconds: own()?.cpu - client.cpu,
        first_certificate_unix_ms: done
            .first
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok())
            .map_or(0, |at| at.as_millis()),
    };
    super::report(&report, out)
}

/// Connections in use: in renewal a node for each request under way, each with a connection of its own.
fn ways_of(args: &IssueArgs) -> usize {
    match args.mode {
        Mode::Join => args.connections.min(args.concurrency),
        Mode::Renew => args.concurrency,
    }
}

/// A way for each request under way.
async fn ways(args: &IssueArgs, target: &Target) -> Result<Vec<Arc<Way>>, Failure> {
    let mut ways = Vec::with_capacity(args.concurrency);
    match args.mode {
        Mode::Join if args.new_connection_each => {
            ways.resize_with(args.concurrency, || Arc::new(Way::Anew(None)));
        }
        Mode::Join => {
            for _ in 0..ways_of(args) {
                ways.push(Arc::new(Way::Shared(target.as_joiner().await?)));
            }
            let shared = ways.clone();
            ways.extend(shared.iter().cycle().take(args.concurrency - shared.len()).cloned());
        }
        Mode::Renew => {
            for _ in 0..args.concurrency {
                let member = Member::join(target).await?;
                let calls = target.as_node(&member.live).await?;
                let way = if args.new_connection_each { Way::Anew(Some(Arc::new(member))) } else { Way::Shared(calls) };
                ways.push(Arc::new(way));
            }
        }
    }
    Ok(ways)
}

#[derive(Default)]
struct Done {
    latencies: Vec<Duration>,
    failed: usize,
    failure: Option<Failure>,
    first: Option<SystemTime>,
}

/// Works through `candidates`, one at a time on each way.
async fn round(
    target: &Arc<Target>,
    ways: &[Arc<Way>],
    candidates: Vec<Candidate>,
    limit: Option<Duration>,
    mut progress: Progress,
) -> Done {
    let (candidates, next) = (Arc::new(candidates), Arc::new(AtomicUsize::new(0)));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let until = limit.map(|limit| Instant::now() + limit);
    let mut workers = JoinSet::new();
    for way in ways {
        let (target, way, tell) = (Arc::clone(target), Arc::clone(way), tell.clone());
        let (candidates, next) = (Arc::clone(&candidates), Arc::clone(&next));
        workers.spawn(async move {
            while let Some(candidate) = candidates.get(next.fetch_add(1, Ordering::Relaxed)) {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return;
                }
                let start = Instant::now();
                let issued = one(&target, &way, candidate).await;
                if tell.send(issued.map(|()| start.elapsed())).is_err() {
                    return;
                }
            }
        });
    }
    drop(tell);
    let mut done = Done::default();
    while let Some(issued) = told.recv().await {
        match issued {
            Ok(latency) => {
                done.first.get_or_insert_with(SystemTime::now);
                done.latencies.push(latency);
            }
            Err(failure) => {
                done.failed += 1;
                done.failure.get_or_insert(failure);
            }
        }
        progress.at(done.latencies.len() + done.failed);
    }
    progress.end();
    if let Some(failure) = done.failure.as_ref().filter(|_| !done.latencies.is_empty()) {
        crate::output::complain(format!("{} failed; the first: {failure}", done.failed));
    }
    done
}

async fn one(target: &Target, way: &Way, candidate: &Candidate) -> Result<(), Failure> {
    match way {
        Way::Shared(calls) => candidate.certified(calls, target.token()).await?,
        Way::Anew(None) => candidate.certified(&target.as_joiner().await?, target.token()).await?,
        Way::Anew(Some(member)) => candidate.certified(&target.as_node(&member.live).await?, "").await?,
    };
    Ok(())
}
