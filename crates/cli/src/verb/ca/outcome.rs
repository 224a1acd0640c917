//! What a rotation came to: said once, at its end.

use std::time::Duration;

use daemon::engine_api::rotation::{NodeReport, PhaseReport, RootReport};
use serde::Serialize;

use super::follow::Ended;
use super::words;
use crate::failure::Failure;
use crate::span;
use crate::verb::Context;

/// What to do with nodes that an emergency left behind.
const LEFT_BEHIND: &str = "    there: swarmpki leave (docker swarm leave), then join by the new token\n    \
    here:  swarmpki node rm --force ID, or the next rotation waits for it";

/// The outcome as JSON.
#[derive(Serialize)]
struct Document<'a> {
    /// `done`, or `aborted` if it was taken back.
    outcome: &'a str,
    from: &'a RootReport,
    to: &'a RootReport,
    took_ms: u64,
    phases: Vec<PhaseReport>,
    ended: &'a str,
    aside: Vec<&'a NodeReport>,
    /// What was trusted when; in an emergency only.
    trusted: Vec<String>,
}

/// Says it.
pub(super) fn report(ended: &Ended, context: &mut Context) -> Result<(), Failure> {
    let Ended { last, status } = ended;
    let took = words::between(&last.started, &status.now);
    let emergency = last.policy.kind == "emergency";
    let aside = left_behind(ended);
    let trusted = if emergency { trusted(ended) } else { Vec::new() };
    if context.out.json() {
        return context.out.document(&Document {
            outcome: if last.aborted { "aborted" } else { "done" },
            from: &last.from,
            to: &last.to,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            phases: phases(ended),
            ended: &status.now,
            aside,
            trusted,
        });
    }
    let now = words::now(status);
    let took = span::short(took);
    if last.aborted {
        context.out.line(format!(
            "The rotation was taken back in {took}: the root is as before, and so are the join tokens."
        ))?;
        context.out.line(words::root("root", &status.served, now).join("\n"))?;
    } else {
        context.out.line(format!("The root was replaced in {took}{}.", old_key(&last.from)))?;
        context.out.line(words::root("root", &status.served, now).join("\n"))?;
        context.out.line("  tokens     both join tokens are new: swarmpki join-token worker")?;
    }
    if !aside.is_empty() {
        let how = match (emergency, aside.len()) {
            (true, 1) => "left behind: it shows as Down and cannot come back by itself",
            (true, _) => "left behind: they show as Down and cannot come back by themselves",
            (false, 1) => "put aside: it comes back by itself",
            (false, _) => "put aside: each comes back by itself",
        };
        context.out.line(format!("  {} {how}", words::counted(aside.len())))?;
        for node in aside {
            context.out.line(format!("    {}", words::name(&node.hostname, &node.node)))?;
        }
        if emergency {
            context.out.line(LEFT_BEHIND)?;
        }
    }
    for line in trusted {
        context.out.line(words::wrapped(2, &line).join("\n"))?;
    }
    Ok(())
}

/// Nodes that had not come along at the end: those put aside, and, where a phase was ended by its time, those still waited
/// for when it was last seen.
fn left_behind(ended: &Ended) -> Vec<&NodeReport> {
    let last = &ended.last;
    let overdue = last.phase_ends.as_ref().is_some_and(|ends| *ends <= ended.status.now);
    let missing = last.blocking.iter().filter(|_| overdue);
    last.aside.iter().chain(missing.filter(|node| !last.aside.iter().any(|aside| aside.node == node.node))).collect()
}

fn phases(ended: &Ended) -> Vec<PhaseReport> {
    let last = PhaseReport { phase: ended.last.phase.clone(), since: ended.last.since.clone() };
    ended.last.history.iter().cloned().chain([last]).collect()
}

/// What a thief could do with the old key, and until when.
fn trusted(ended: &Ended) -> Vec<String> {
    let (last, end) = (&ended.last, ended.status.now.as_str());
    let begun = |phase: &str| {
        phases(ended).into_iter().find(|row| row.phase == phase).map_or_else(|| end.to_owned(), |row| row.since)
    };
    let after = |moment: &str| match words::between(&last.started, moment) {
        Duration::ZERO => "at once".to_owned(),
        after => format!("after {}", span::short(after)),
    };
    let (renew, trust) = (begun("renew"), begun("trust"));
    vec![
        format!("{}  the old join tokens admitted nobody any more (at once)", last.started),
        format!("{renew}  the old key signed nothing for us any more ({})", after(&renew)),
        format!("{trust}  managers took no certificate of the old root any more ({})", after(&trust)),
        format!("{end}  no node that came along trusts the old root any more ({})", after(end)),
        "until then nodes took a certificate made with the stolen key for a member's; managers never did, unless it was one \
         that they had issued themselves (swarmpki ca log)"
            .to_owned(),
    ]
}

/// What became of the key of the root that was left.
fn old_key(from: &RootReport) -> &'static str {
    match from.custody.as_str() {
        "token" => "; the old key is still in its token",
        "outside" => "",
        _ => "; the old key is removed from the manager's store",
    }
}
