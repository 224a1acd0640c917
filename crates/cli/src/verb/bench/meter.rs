//! What a process costs, read from `/proc`: processor time, memory, syncs.

use std::process::Stdio;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;
use tokio::process::{Child, Command};

use super::target::TargetArgs;
use crate::failure::Failure;

/// Time for a counter to attach before what it counts begins. It prints nothing until it ends, so nothing can be waited for.
const ATTACH: Duration = Duration::from_millis(500);

/// What a process had used at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Processor time of all its threads, in seconds.
    pub(super) cpu: f64,
    /// Resident memory, in KiB.
    pub(super) rss_kib: u64,
}

/// The manager's cost between two samples.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Cost {
    /// Processor time, in seconds.
    pub(super) cpu_seconds: f64,
    /// The same for one unit of work, in milliseconds.
    pub(super) cpu_ms_each: f64,
    /// Units of work that one core does in a second.
    pub(super) each_core_second: f64,
    /// Resident memory before, in KiB.
    pub(super) rss_kib_before: u64,
    /// And after.
    pub(super) rss_kib_after: u64,
    /// Calls of fsync and fdatasync.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) syncs: Option<u64>,
    /// The same for one unit of work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) syncs_each: Option<f64>,
}

/// Watches the manager's process, if it was named.
pub(super) struct Meter {
    pid: Option<i32>,
    count_syncs: bool,
}

/// A measurement under way.
pub(super) struct Running {
    before: Option<Sample>,
    counter: Option<Counter>,
}

impl Meter {
    /// A meter for the process that the flags name.
    pub(super) fn new(args: &TargetArgs) -> Result<Self, Failure> {
        let meter = Self { pid: args.pid, count_syncs: args.count_syncs };
        meter.sample()?;
        Ok(meter)
    }

    /// What the manager has used by now; none if it was not named.
    pub(super) fn sample(&self) -> Result<Option<Sample>, Failure> {
        self.pid.map(sample).transpose()
    }

    /// Begins to measure.
    pub(super) async fn start(&self) -> Result<Running, Failure> {
        let counter = match self.pid {
            Some(pid) if self.count_syncs => Some(Counter::attach(pid).await?),
            _ => None,
        };
        Ok(Running { before: self.sample()?, counter })
    }

    /// Ends the measurement of `work` units.
    pub(super) async fn stop(&self, running: Running, work: usize) -> Result<Option<Cost>, Failure> {
        let after = self.sample()?;
        let syncs = match running.counter {
            Some(counter) => Some(counter.detach().await?),
            None => None,
        };
        Ok(running.before.zip(after).map(|(before, after)| cost(before, after, work, syncs)))
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a bench are far below 2^52")]
fn cost(before: Sample, after: Sample, work: usize, syncs: Option<u64>) -> Cost {
    let cpu = after.cpu - before.cpu;
    let work = work.max(1) as f64;
    Cost {
        cpu_seconds: cpu,
        cpu_ms_each: cpu * 1e3 / work,
        each_core_second: if cpu > 0.0 { work / cpu } else { 0.0 },
        rss_kib_before: before.rss_kib,
        rss_kib_after: after.rss_kib,
        syncs,
        syncs_each: syncs.map(|syncs| syncs as f64 / work),
    }
}

/// What the process of this bench has used by now.
pub(super) fn own() -> Result<Sample, Failure> {
    sample(std::process::id().cast_signed())
}

fn sample(pid: i32) -> Result<Sample, Failure> {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}"))
            .map_err(|error| Failure::new(format!("process {pid} cannot be measured: {error}")))
    };
    let strange = || Failure::new(format!("/proc/{pid} has an unknown form"));
    let ticks = ticks_of(&read("stat")?).ok_or_else(strange)?;
    let rss_kib = rss_of(&read("status")?).ok_or_else(strange)?;
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    #[allow(clippy::cast_precision_loss, reason = "ticks since a process began")]
    Ok(Sample { cpu: ticks as f64 / per_second as f64, rss_kib })
}

/// `utime` and `stime` of `/proc/PID/stat`, fields 14 and 15; the name before them may hold anything, blanks included.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn rss_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// A program that counts syncs of another process. It slows it down: no other figure of the same run is worth much.
struct Counter {
    child: Child,
    of: Of,
}

#[derive(Clone, Copy)]
enum Of {
    Perf,
    Strace,
}

impl Counter {
    async fn attach(pid: i32) -> Result<Self, Failure> {
        let pid = pid.to_string();
        let events = "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync";
        let perf = ["stat", "-x", ",", "-e", events, "-p", &pid];
        let strace = ["-f", "-c", "-e", "trace=fsync,fdatasync", "-p", &pid];
        for (of, program, args) in [(Of::Perf, "perf", &perf[..]), (Of::Strace, "strace", &strace[..])] {
            let started = Command::new(program)
                .args(args)
                .env("LC_ALL", "C")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn();
            let Ok(mut child) = started else { continue };
            tokio::time::sleep(ATTACH).await;
            if matches!(child.try_wait(), Ok(None)) {
                return Ok(Self { child, of });
            }
        }
        Err(Failure::new("--count-syncs: neither perf nor strace can be run on that process"))
    }

    async fn detach(self) -> Result<u64, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("the counter of syncs: {error}"));
        if let Some(pid) = self.child.id() {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).map_err(|error| failed(&error))?;
        }
        let output = self.child.wait_with_output().await.map_err(|error| failed(&error))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(match self.of {
            Of::Perf => perf_count(&text),
            Of::Strace => strace_count(&text),
        })
    }
}

/// Sums the first column of `perf stat -x,`.
fn perf_count(text: &str) -> u64 {
    text.lines()
        .filter(|line| line.contains("sys_enter_f"))
        .filter_map(|line| line.split(',').next()?.parse::<u64>().ok())
        .sum()
}

/// Sums the column `calls` of `strace -c`.
fn strace_count(text: &str) -> u64 {
    let calls = |line: &str| line.split_ascii_whitespace().nth(3)?.parse::<u64>().ok();
    text.lines().filter(|line| line.ends_with(" fsync") || line.ends_with(" fdatasync")).filter_map(calls).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "17 (a) b) c) S 1 17 17 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 9 0 0";
        assert_eq!(ticks_of(stat), Some(300));
        assert_eq!(ticks_of("17 (a"), None);
    }

    #[test]
    fn memory_is_the_resident_part() {
        assert_eq!(rss_of("VmHWM:\t   99 kB\nVmRSS:\t   18432 kB\n"), Some(18_432));
        assert_eq!(rss_of("Name:\tx\n"), None);
    }

    #[test]
    fn counters_are_read() {
        let perf = "12,,syscalls:sys_enter_fsync,1,100.00,,\n30,,syscalls:sys_enter_fdatasync,1,100.00,,\n";
        assert_eq!(perf_count(perf), 42);
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n \
                      90.00    0.000900          30        30           fdatasync\n \
                      10.00    0.000100           8        12           fsync\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      100.00    0.001000                    42           total\n";
        assert_eq!(strace_count(strace), 42);
    }

    #[test]
    fn this_process_uses_something() {
        assert!(own().unwrap().rss_kib > 0);
    }
}
