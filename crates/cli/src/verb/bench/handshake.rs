//! `swarmpki bench handshake`: mutual TLS, a connection each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::figures::{Latencies, Progress, rate};
use super::member::Member;
use super::meter::{Cost, Meter, own};
use super::target::{Target, TargetArgs, broken};
use crate::failure::Failure;
use crate::output::Output;

/// What an HTTP/2 client says first: the preface and its settings, none. Source: RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The head of an HTTP/2 frame, in bytes.
const FRAME_HEAD: usize = 9;

/// Mutual TLS handshakes with a node's certificate, each on a new connection
#[derive(Args, Clone, Debug)]
pub(crate) struct HandshakeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Handshakes under way at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    concurrency: usize,
    /// Handshakes to make
    #[arg(long, value_name = "N", default_value_t = 2000)]
    count: usize,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    manager: String,
    concurrency: usize,
    handshakes: usize,
    failed: usize,
    seconds: f64,
    handshakes_per_second: f64,
    /// From the dial to the manager's first HTTP/2 frame, which it sends when it has accepted our certificate.
    latency_ms: Option<Latencies>,
    cost: Option<Cost>,
    client_cpu_seconds: f64,
}

pub(super) async fn run(args: &HandshakeArgs, out: &mut Output) -> Result<(), Failure> {
    let meter = Meter::new(&args.target)?;
    let target = Arc::new(args.target.reach().await?);
    let mut members = Vec::with_capacity(args.concurrency.max(1));
    for _ in 0..args.concurrency.max(1) {
        let member = Member::join(&target).await?;
        // The first use of a certificate is noted by the manager: not part of what follows.
        one(&target, &member).await?;
        members.push(member);
    }
    let client = own()?;
    let running = meter.start().await?;
    let start = Instant::now();
    let left = Arc::new(AtomicUsize::new(args.count));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    for member in members {
        let (target, left, tell) = (Arc::clone(&target), Arc::clone(&left), tell.clone());
        let take = move || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        workers.spawn(async move {
            while take() {
                let start = Instant::now();
                let made = one(&target, &member).await;
                if tell.send(made.map(|()| start.elapsed())).is_err() {
                    return;
                }
            }
        });
    }
    drop(tell);
    let (mut latencies, mut failures) = (Vec::with_capacity(args.count), Vec::new());
    let mut progress = Progress::new("handshakes", args.count);
    while let Some(made) = told.recv().await {
        match made {
            Ok(latency) => latencies.push(latency),
            Err(failure) => failures.push(failure),
        }
        progress.at(latencies.len() + failures.len());
    }
    progress.end();
    let took = start.elapsed();
    let handshakes = latencies.len();
    let cost = meter.stop(running, handshakes).await?;
    let failed = failures.len();
    if let Some(first) = failures.into_iter().next() {
        if handshakes == 0 {
            return Err(first);
        }
        crate::output::complain(format!("{failed} failed; the first: {first}"));
    }
    let report = Report {
        bench: "handshake",
        manager: target.addr().to_string(),
        concurrency: args.concurrency.max(1),
        handshakes,
        failed,
        seconds: took.as_secs_f64(),
        handshakes_per_second: rate(handshakes, took),
        latency_ms: Latencies::of(latencies),
        cost,
        client_cpu_seconds: own()?.cpu - client.cpu,
    };
    super::report(&report, out)
}

/// With TLS 1.3 a client is done before the server has looked at its certificate: only what the server says afterwards
/// proves that it accepted.
async fn one(target: &Target, member: &Member) -> Result<(), Failure> {
    let failed = |error: std::io::Error| broken(target.addr(), &error);
    let mut stream = target.tls(&member.live).await?;
    stream.write_all(PREFACE).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut head = [0; FRAME_HEAD];
    stream.read_exact(&mut head).await.map_err(failed)?;
    // The manager may be gone first: it answers what we say last, and nobody listens.
    let _ = stream.shutdown().await;
    Ok(())
}
