//! A rotation in words: where it is, who is waited for and what to do about it.

use std::collections::BTreeSet;
use std::time::Duration;

use daemon::engine_api::rotation::{
    LastReport, NodeReport, RootReport, RotationReport, SignerState, StatusReport, StragglerReport,
};
use jiff::Timestamp;

use crate::api::moment;
use crate::shown;
use crate::span;

/// Nodes named at a time while a rotation is followed; `ca status` names all.
const NAMED_MAX: usize = 10;

/// Columns of the terminals that lines are made for.
const COLUMNS_MAX: usize = 80;

/// A node that renews comes back with another connection: an engine pauses half a second before that.
const LOST_SHOWN_AFTER: Duration = Duration::from_millis(1500);
/// A node that was told is named when it takes longer than this.
const SLOW_SHOWN_AFTER: Duration = Duration::from_secs(5);

/// The whole status.
pub(super) fn status(status: &StatusReport) -> String {
    let now = now(status);
    let mut lines = Vec::new();
    match &status.rotation {
        None => {
            lines.push("No root rotation is under way.".to_owned());
            lines.extend(root("root", &status.served, now));
            lines.extend(status.last.as_ref().map(|ended| last(ended, now)).unwrap_or_default());
        }
        Some(rotation) => {
            lines.push(format!("{}: {}", title(rotation), progress(rotation)));
            lines.extend(root("from", &rotation.from, now));
            lines.extend(root("to", &rotation.to, now));
            let which = if status.served.digest == rotation.to.digest { "new" } else { "old" };
            // Taken back, it leads to the old one.
            let which = if rotation.aborted { "old" } else { which };
            lines.push(format!("  new joins  are given the {which} root"));
            lines.push(format!(
                "  began      {}, this phase {}",
                ago(&rotation.started, now),
                ago(&rotation.since, now)
            ));
            lines.push(format!("  late       {}", policy(rotation, now)));
            if rotation.by_bundle {
                lines.push(format!("  way        {}", way(rotation.policy.kind == "emergency")));
            }
            lines.extend(nodes("waited for", &rotation.blocking, now, usize::MAX));
            lines.extend(nodes("put aside", &rotation.aside, now, usize::MAX));
        }
    }
    lines.extend(signer(&status.signer));
    if status.rotation.is_none() {
        lines.extend(stragglers(&status.stragglers, &status.left_behind, now));
        lines.extend(nodes(
            "left behind, for which the next rotation would wait",
            &status.left_behind,
            now,
            usize::MAX,
        ));
    }
    lines.join("\n")
}

/// The last rotation: when, how long, from where to where, and who was put aside.
fn last(ended: &LastReport, now: Timestamp) -> Vec<String> {
    let what = match (ended.aborted, ended.emergency) {
        (true, _) => "rotation taken back",
        (false, true) => "emergency rotation",
        (false, false) => "rotation",
    };
    let took = span::short(between(&ended.started, &ended.ended));
    let mut lines = vec![
        format!("  last       {what}, ended {}, took {took}", ago(&ended.ended, now)),
        format!("             from {}", ended.from),
        format!("             to   {}", ended.to),
    ];
    let count = usize::try_from(ended.aside_count).unwrap_or(usize::MAX);
    if count > 0 {
        let how = if ended.emergency { "left behind then" } else { "put aside then" };
        lines.push(format!("             {} {how}:", counted(count)));
        lines.extend(
            ended
                .aside
                .iter()
                .take(NAMED_MAX)
                .map(|node| format!("               {}", name(&node.hostname, &node.node))),
        );
        if count > NAMED_MAX {
            lines.push(format!("               and {} more", count - NAMED_MAX));
        }
    }
    lines
}

/// Who signs, unless that is the managers' own key.
fn signer(signer: &SignerState) -> Vec<String> {
    let who = match signer.kind.as_str() {
        "token" => "a key in a token",
        "external" => "external CAs",
        _ if signer.urls.is_empty() => return Vec::new(),
        _ => "external CAs, and the managers' own key while none answers",
    };
    let mut lines = vec![format!("  signed by  {who}")];
    for ca in &signer.urls {
        let why = ca.last_error.as_ref().filter(|_| ca.state != "up" && ca.state != "reachable");
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        lines.push(format!("    {} {}{why}", ca.shown(), ca.url));
    }
    if let Some(trouble) = &signer.trouble {
        lines.push(format!("  trouble    {trouble}"));
    }
    if signer.waiting > 0 {
        lines.push(format!(
            "  waiting    {} for a certificate; it comes when the signer answers",
            counted(signer.waiting as usize)
        ));
    }
    lines
}

/// Why every node is given both roots first.
pub(super) fn way(emergency: bool) -> &'static str {
    if emergency {
        "both roots are given first"
    } else {
        "both roots are given first: no cross-certificate would verify"
    }
}

/// Nodes that have not come back since they were put aside; nothing is said when nobody is late.
fn stragglers(kept: &[StragglerReport], lost: &[NodeReport], now: Timestamp) -> Vec<String> {
    let Some(until) = kept.iter().filter_map(|root| moment(&root.until)).max() else { return Vec::new() };
    let comes = |node: &&String| lost.iter().all(|lost| lost.node != **node);
    let nodes: BTreeSet<&String> = kept.iter().flat_map(|root| &root.nodes).filter(comes).collect();
    if nodes.is_empty() {
        return Vec::new();
    }
    let left = span::short(until.max(now).duration_since(now).unsigned_abs());
    let mut lines = vec![format!(
        "  {} still out: let in with an old root's certificate to renew, for {left} at most",
        counted(nodes.len())
    )];
    lines.extend(nodes.into_iter().map(|node| format!("    {node}")));
    lines
}

/// What is going on.
pub(super) fn title(rotation: &RotationReport) -> &'static str {
    match (rotation.aborted, rotation.policy.kind.as_str()) {
        (true, _) => "The root rotation is being taken back",
        (false, "emergency") => "Emergency rotation of the root",
        (false, _) => "Root rotation",
    }
}

/// Phase, counts, rate and estimate.
pub(super) fn progress(rotation: &RotationReport) -> String {
    let (place, what) = match rotation.phase.as_str() {
        "widen" => (1, "handing out both roots"),
        "renew" => (1 + usize::from(rotation.by_bundle), "renewing certificates"),
        "trust" if rotation.aborted => (2 + usize::from(rotation.by_bundle), "handing out the old root alone"),
        "trust" => (2 + usize::from(rotation.by_bundle), "handing out the new root alone"),
        other => (1, other),
    };
    let phases = 2 + usize::from(rotation.by_bundle);
    let mut text = format!("phase {place} of {phases}, {what}: {}/{} nodes", rotation.done, rotation.required);
    // Once only those are missing who do not come by themselves, it says nothing any more.
    let comes = rotation.blocking.is_empty() || rotation.blocking.iter().any(|node| node.remedy.is_none());
    if let Some(rate) = rotation.rate.filter(|_| comes && rotation.done < rotation.required) {
        text.push_str(&format!(", {rate:.1} nodes/s"));
    }
    if let Some(left) = rotation.left_ms.filter(|_| rotation.done < rotation.required) {
        text.push_str(&format!(", about {} left", span::short(Duration::from_millis(left))));
    }
    text
}

/// What happens with nodes that are missing.
pub(super) fn policy(rotation: &RotationReport, now: Timestamp) -> String {
    let ends =
        rotation.phase_ends.as_deref().and_then(moment).map(|ends| span::relative(ends, now)).unwrap_or_default();
    match rotation.policy.kind.as_str() {
        "deadline" => format!("nodes are put aside {ends} and come back by themselves later"),
        "emergency" => format!("nodes are left behind {ends}: this phase ends then, whoever is missing"),
        _ => "nodes are waited for".to_owned(),
    }
}

/// Nodes that hold the rotation up and do not come by themselves, for who follows it: the first few.
pub(super) fn obstacles(rotation: &RotationReport, now: Timestamp) -> Vec<String> {
    let stuck: Vec<_> = rotation.blocking.iter().filter(|node| is_obstacle(node, now)).cloned().collect();
    nodes("waited for", &stuck, now, NAMED_MAX)
}

/// Whether a node is worth a word: a node that renews is gone for a moment, and one that is told takes a moment.
pub(super) fn is_obstacle(node: &NodeReport, now: Timestamp) -> bool {
    let since = node.since.as_deref().and_then(moment);
    let lasts = |patience: Duration| since.is_some_and(|since| now.duration_since(since).unsigned_abs() >= patience);
    match (node.remedy.is_some(), node.reason.as_str()) {
        (true, "lost") => lasts(LOST_SHOWN_AFTER),
        (true, _) => true,
        (false, _) => lasts(SLOW_SHOWN_AFTER),
    }
}

/// Nodes under a heading, each with reason and remedy.
pub(super) fn nodes(what: &str, nodes: &[NodeReport], now: Timestamp, most: usize) -> Vec<String> {
    if nodes.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("  {} {what}:", counted(nodes.len()))];
    for node in nodes.iter().take(most) {
        lines.extend(wrapped(4, &format!("{}: {}{}", name(&node.hostname, &node.node), node.text, since(node, now))));
        if let Some(error) = &node.last_error {
            lines.extend(wrapped(6, &format!("it was told last: {error}")));
        }
        lines.extend(node.remedy.as_deref().map(remedy).unwrap_or_default());
    }
    if nodes.len() > most {
        lines.push(format!("    and {} more: swarmpki ca status", nodes.len() - most));
    }
    lines
}

/// `1 node`, `3 nodes`.
pub(super) fn counted(number: usize) -> String {
    if number == 1 { "1 node".to_owned() } else { format!("{number} nodes") }
}

/// What to do; a command on a line of its own, so that it can be copied whole.
fn remedy(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for part in text.split("; ") {
        match part.split_once(": swarmpki ") {
            Some((what, command)) => {
                lines.extend(wrapped(6, &format!("{what}:")));
                lines.push(format!("        swarmpki {command}"));
            }
            None => lines.extend(wrapped(6, part)),
        }
    }
    lines
}

/// Text as lines that fit a terminal, broken between words; lines after the first are indented by two more.
pub(super) fn wrapped(indent: usize, text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = " ".repeat(indent);
    let mut is_fresh = true;
    for word in text.split(' ') {
        if !is_fresh && line.chars().count() + 1 + word.chars().count() > COLUMNS_MAX {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent + 2)));
            is_fresh = true;
        }
        if !is_fresh {
            line.push(' ');
        }
        line.push_str(word);
        is_fresh = false;
    }
    lines.push(line);
    lines
}

/// `worker2 (f7lcra9egflh4gtnaqjwrh5g2)`.
pub(super) fn name(hostname: &str, node: &str) -> String {
    let hostname = shown::field(hostname);
    if hostname.is_empty() { node.to_owned() } else { format!("{hostname} ({node})") }
}

fn since(node: &NodeReport, now: Timestamp) -> String {
    let since = node.since.as_deref().and_then(moment);
    since
        .map(|since| format!(" (for {})", span::short(now.duration_since(since.min(now)).unsigned_abs())))
        .unwrap_or_default()
}

/// A root under a label, and who signs in its place, each with its own end.
pub(super) fn root(label: &str, root: &RootReport, now: Timestamp) -> Vec<String> {
    let ends = |end: &str| moment(end).map(|end| format!(", ends {}", span::relative(end, now))).unwrap_or_default();
    let mut lines = vec![format!("  {label:<9}  {}", root.digest)];
    if !root.name.is_empty() {
        lines.push(format!("             {}{}", root.name, ends(&root.not_after)));
    }
    if let Some(signer) = &root.signer {
        lines.push(format!("             signer: {}{}", signer.name, ends(&signer.not_after)));
    }
    if let Some(uri) = &root.token {
        lines.push(format!("             key: {}", shown::field(uri)));
    }
    lines
}

fn ago(time: &str, now: Timestamp) -> String {
    moment(time).map(|time| span::relative(time.min(now), now)).unwrap_or_else(|| "?".to_owned())
}

/// The manager's clock: that of all times in the report.
pub(super) fn now(status: &StatusReport) -> Timestamp {
    moment(&status.now).unwrap_or_else(Timestamp::now)
}

/// The time between two moments of one report.
pub(super) fn between(from: &str, to: &str) -> Duration {
    match (moment(from), moment(to)) {
        (Some(from), Some(to)) if to > from => to.duration_since(from).unsigned_abs(),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use daemon::engine_api::rotation::{PolicyReport, UrlReport};

    #[test]
    fn phases_are_counted() {
        let at = |phase: &str, by_bundle| RotationReport {
            phase: phase.into(),
            by_bundle,
            done: 1,
            required: 4,
            ..RotationReport::default()
        };
        for (rotation, text) in [
            (at("renew", false), "phase 1 of 2, renewing certificates: 1/4 nodes"),
            (at("trust", false), "phase 2 of 2, handing out the new root alone: 1/4 nodes"),
            (at("widen", true), "phase 1 of 3, handing out both roots: 1/4 nodes"),
            (at("renew", true), "phase 2 of 3, renewing certificates: 1/4 nodes"),
        ] {
            assert_eq!(progress(&rotation), text);
        }
        let moving = RotationReport { rate: Some(12.34), left_ms: Some(2500), ..at("renew", false) };
        assert_eq!(progress(&moving), "phase 1 of 2, renewing certificates: 1/4 nodes, 12.3 nodes/s, about 2s left");
    }

    #[test]
    fn lines_fit_a_terminal() {
        let text = "w ".repeat(200);
        let lines = wrapped(4, text.trim());
        assert!(lines.iter().all(|line| line.len() <= COLUMNS_MAX), "{lines:?}");
        assert_eq!(lines.join(" ").split_whitespace().count(), 200);
        let long = "x".repeat(COLUMNS_MAX);
        assert_eq!(wrapped(2, &format!("a {long} b")), ["  a".to_owned(), format!("    {long}"), "    b".to_owned()]);
    }

    #[test]
    fn an_external_ca_is_not_called_up_before_it_was_asked() {
        let ca = UrlReport { url: "https://ca.example".into(), state: "up".into(), ..UrlReport::default() };
        let failed = UrlReport { state: "down".into(), last_error: Some("refused".into()), ..ca.clone() };
        let asked = UrlReport { last_success: Some("2026-11-22T12:00:00Z".into()), ..ca.clone() };
        let all = SignerState { kind: "external".into(), urls: vec![ca, asked, failed], ..SignerState::default() };
        let states = ["not asked yet https://ca.example", "up https://ca.example", "down https://ca.example: refused"];
        assert_eq!(signer(&all)[1..], states.map(|line| format!("    {line}")));
    }

    #[test]
    fn a_root_says_where_its_key_is_if_that_is_a_token() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let mut held = RootReport { digest: "sha256:0".into(), ..RootReport::default() };
        assert_eq!(root("root", &held, now), ["  root       sha256:0"]);
        held.token = Some("pkcs11:token=swarm;object=root".into());
        assert_eq!(root("root", &held, now)[1..], ["             key: pkcs11:token=swarm;object=root"]);
    }

    #[test]
    fn who_is_out_is_named_and_nobody_else() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let mut kept = StragglerReport { until: "2026-11-23T11:59:00Z".into(), ..StragglerReport::default() };
        assert!(stragglers(std::slice::from_ref(&kept), &[], now).is_empty());
        kept.nodes = vec!["a".into()];
        let said = stragglers(&[kept.clone(), kept], &[], now);
        let line = "  1 node still out: let in with an old root's certificate to renew, for 23h 59m at most";
        assert_eq!(said, [line, "    a"]);
    }

    #[test]
    fn only_those_who_need_help_are_obstacles() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let node = |id: &str, reason: &str, remedy: Option<&str>, since: &str| NodeReport {
            node: id.into(),
            reason: reason.into(),
            text: "it is down".into(),
            remedy: remedy.map(str::to_owned),
            since: Some(format!("2026-11-22T{since}Z")),
            ..NodeReport::default()
        };
        let rows = [
            ("told", None, "11:59:56", false),
            ("told", None, "11:59:54", true),
            ("lost", Some("do"), "11:59:59", false),
            ("lost", Some("do"), "11:59:58", true),
            ("down", Some("do"), "11:59:59.999", true),
        ];
        for (reason, remedy, since, shown) in rows {
            assert_eq!(is_obstacle(&node("a", reason, remedy, since), now), shown, "{reason} since {since}");
        }
        let down = |id: &str| node(id, "down", Some("do"), "11:59:48");
        let mut rotation = RotationReport { blocking: vec![down("b")], ..Default::default() };
        assert_eq!(obstacles(&rotation, now), ["  1 node waited for:", "    b: it is down (for 12s)", "      do"]);
        let bring = "bring it back, or remove it: swarmpki node rm --force f7lcra9egflh4gtnaqjwrh5g2; a rotation with --deadline \
             goes on without it";
        assert_eq!(
            remedy(bring),
            [
                "      bring it back, or remove it:",
                "        swarmpki node rm --force f7lcra9egflh4gtnaqjwrh5g2",
                "      a rotation with --deadline goes on without it",
            ]
        );
        rotation.blocking = (0..12).map(|number| down(&number.to_string())).collect();
        assert_eq!(obstacles(&rotation, now).last().unwrap(), "    and 2 more: swarmpki ca status");
        rotation.policy = PolicyReport { kind: "deadline".into(), ..PolicyReport::default() };
        rotation.phase_ends = Some("2026-11-22T12:00:08Z".into());
        assert_eq!(policy(&rotation, now), "nodes are put aside in 8s and come back by themselves later");
    }
}
