//! Waiting for the end of a rotation: what is shown meanwhile, and how the wait can end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use daemon::engine_api::rotation::{RotationReport, StatusReport};
use tokio::signal::unix::{SignalKind, signal};

use super::words;
use crate::client::Client;
use crate::failure::{ENDED_OTHERWISE, Failure, INTERRUPTED, TIMED_OUT};
use crate::output::Output;
use crate::shown;
use crate::verb::Context;

/// Shortest pause between two looks.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);
/// What each node adds to it: the answer names the nodes that are waited for.
const LOOK_PAUSE_NODE: Duration = Duration::from_micros(500);
/// Shortest pause between two lines about the same phase, where lines cannot be drawn over.
const LINE_PAUSE: Duration = Duration::from_secs(1);
/// How long a daemon may be away, as when it is restarted, before the wait fails.
const AWAY_MAX: Duration = Duration::from_secs(30);
const GOES_ON: &str = "The rotation goes on. To go on watching: swarmpki ca status --watch";

/// How to wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wait {
    /// Show nothing.
    pub(super) quiet: bool,
    /// Show every state as a JSON object, a line each.
    pub(super) json_lines: bool,
    /// Give up after this time.
    pub(super) timeout: Option<Duration>,
}

/// How a rotation ended that was waited for.
pub(super) struct Ended {
    /// The rotation as it was seen last.
    pub(super) last: RotationReport,
    /// How the roots stand after it.
    pub(super) status: StatusReport,
}

/// Waits for the end of the rotation that `begun` shows; with an outcome of its own for an end elsewhere, for time that ran
/// out and for an interrupt.
pub(super) async fn follow(
    begun: StatusReport,
    wait: Wait,
    client: &mut Client,
    context: &mut Context,
) -> Result<Option<Ended>, Failure> {
    let Some(mut last) = begun.rotation.clone() else { return Ok(None) };
    let failed = |error: std::io::Error| Failure::new(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let until = wait.timeout.map(|timeout| Instant::now() + timeout);
    let mut screen = Screen::new(wait, context);
    let mut status = begun;
    let ended = loop {
        let Some(rotation) = &status.rotation else { break status };
        if rotation.to.digest != last.to.digest {
            screen.close()?;
            return Err(elsewhere(rotation));
        }
        screen.show(&status, rotation)?;
        let pause =
            LOOK_PAUSE_MIN + LOOK_PAUSE_NODE.saturating_mul(u32::try_from(rotation.required).unwrap_or(u32::MAX));
        last = rotation.clone();
        tokio::select! {
            _ = interrupt.recv() => {
                screen.leave();
                return Err(Failure::new("Interrupted.").hint(GOES_ON).with_code(INTERRUPTED));
            }
            () = tokio::time::sleep_until(until.map_or_else(far, tokio::time::Instant::from_std)), if until.is_some() => {
                let said = words::obstacles(&last, words::now(&status)).join("\n");
                screen.close()?;
                let text = format!("Timed out: {}", words::progress(&last));
                let text = if said.is_empty() { text } else { format!("{text}\n{said}") };
                return Err(Failure::new(text).hint(GOES_ON).with_code(TIMED_OUT));
            }
            next = async { tokio::time::sleep(pause).await; look(client).await } => status = next?,
        }
    };
    screen.close()?;
    if ended.served.digest != last.to.digest {
        let text = format!("The rotation ended elsewhere: the root is {} now.", ended.served.digest);
        return Err(Failure::new(text).with_code(ENDED_OTHERWISE));
    }
    Ok(Some(Ended { last, status: ended }))
}

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(24 * 60 * 60)
}

fn elsewhere(rotation: &RotationReport) -> Failure {
    let text = if rotation.aborted {
        "The rotation was aborted: it is being taken back."
    } else {
        "The rotation was replaced by another one."
    };
    Failure::new(text).hint("To watch that: swarmpki ca status --watch").with_code(ENDED_OTHERWISE)
}

/// Asks until the daemon answers: a rotation goes on when its manager is started again.
async fn look(client: &mut Client) -> Result<StatusReport, Failure> {
    let since = Instant::now();
    loop {
        match client.own("/ca/status").await {
            Ok(Some(status)) => return Ok(status),
            Ok(None) => return Err(Failure::new("this daemon does not know rotations of its own any more")),
            Err(failure) if since.elapsed() >= AWAY_MAX => return Err(failure),
            Err(_) => tokio::time::sleep(LOOK_PAUSE_MIN * 4).await,
        }
    }
}

/// What is shown: drawn over on a terminal, lines elsewhere.
struct Screen<'a> {
    out: &'a mut Output,
    wait: Wait,
    /// Lines drawn on the terminal, to be drawn over.
    drawn: usize,
    /// The progress last shown, and when.
    shown: Option<(String, String, Instant)>,
    /// Who was named.
    named: BTreeSet<(String, String)>,
}

impl<'a> Screen<'a> {
    fn new(wait: Wait, context: &'a mut Context) -> Self {
        Self { out: &mut context.out, wait, drawn: 0, shown: None, named: BTreeSet::new() }
    }

    fn show(&mut self, status: &StatusReport, rotation: &RotationReport) -> Result<(), Failure> {
        if self.wait.quiet {
            return Ok(());
        }
        let progress = words::progress(rotation);
        if self.wait.json_lines {
            let mut still = status.clone();
            still.now.clear();
            let line = serde_json::to_string(&still).unwrap_or_default();
            if self.shown.as_ref().is_none_or(|(_, shown, _)| *shown != line) {
                let text = serde_json::to_string(status);
                self.out.json_text(
                    text.map_err(|error| Failure::new(format!("cannot write a status as JSON: {error}")))?,
                )?;
                self.shown = Some((rotation.phase.clone(), line, Instant::now()));
            }
            return Ok(());
        }
        if self.out.json() {
            return Ok(());
        }
        if self.out.terminal() {
            let now = words::now(status);
            let mut lines = words::wrapped(0, &format!("{}: {progress}", words::title(rotation)));
            if rotation.phase_ends.is_some() {
                lines.extend(words::wrapped(2, &format!("late: {}", words::policy(rotation, now))));
            }
            lines.extend(words::obstacles(rotation, now));
            return self.draw(&lines);
        }
        let is_due = |(phase, shown, at): &(String, String, Instant)| {
            *phase != rotation.phase || (*shown != progress && at.elapsed() >= LINE_PAUSE)
        };
        if self.shown.as_ref().is_none_or(is_due) {
            self.out.line(format!("{}: {progress}", words::title(rotation)))?;
            self.shown = Some((rotation.phase.clone(), progress, Instant::now()));
        }
        let (named, now) = (&mut self.named, words::now(status));
        let fresh: Vec<_> = rotation
            .blocking
            .iter()
            .filter(|node| words::is_obstacle(node, now) && named.insert((node.node.clone(), node.reason.clone())))
            .cloned()
            .collect();
        let fresh = RotationReport { blocking: fresh, ..RotationReport::default() };
        for line in words::obstacles(&fresh, now) {
            self.out.line(line)?;
        }
        Ok(())
    }

    /// Draws over what stands there.
    fn draw(&mut self, lines: &[String]) -> Result<(), Failure> {
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        self.drawn = lines.len();
        // Lines that a narrow terminal would break are cut by it instead, so that they can be counted.
        let text = lines.iter().map(|line| shown::field(line)).collect::<Vec<_>>().join("\n");
        self.out.drawn(format!("{up}\x1b[J\x1b[?7l{text}\n\x1b[?7h"))
    }

    /// Leaves what was drawn on the screen: who it waits for is worth more than the space.
    fn leave(&mut self) {
        self.drawn = 0;
    }

    /// Takes away what was drawn; what ends the wait is said after it.
    fn close(&mut self) -> Result<(), Failure> {
        if self.drawn == 0 {
            return Ok(());
        }
        let up = std::mem::take(&mut self.drawn);
        self.out.drawn(format!("\x1b[{up}A\x1b[J"))
    }
}
