//! How the roots stand, for people: the phase, the numbers, and of each node that is waited for, why and what to do.

use std::time::Duration;

use cluster::State;
use cluster::node::{BlobDigest, Node};
use cluster::roots::{Root, Roots};
use cluster::rotation::{self, Phase, Policy, Rotation};
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::time::Time;

use super::dates::Dates;
use super::{Pacer, says_it_trusts, shown_digest};
use crate::sessions::Sessions;

/// How long a connection may be gone before that is said: an engine opens another within a moment of each step.
pub const LOST_AFTER: Duration = Duration::from_secs(1);

/// How the roots stand.
#[derive(Clone, Debug)]
pub struct CaStatus {
    /// The root that joiners get and tokens name.
    pub served: RootView,
    /// The root whose key signs.
    pub signing: RootView,
    /// The rotation under way.
    pub rotation: Option<RotationView>,
    /// The last rotation that ended, as far as it is known.
    pub last: Option<LastView>,
    /// Old roots that late nodes may still come back with.
    pub stragglers: Vec<StragglerView>,
    /// Nodes that cannot come back by themselves, while no rotation is under way: the next one would wait for them.
    pub left_behind: Vec<Blocking>,
}

/// A rotation that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastView {
    /// Its number.
    pub id: u64,
    /// The digest of the root that was left: `sha256:…`.
    pub from: String,
    /// The same of the root that was gone to.
    pub to: String,
    /// Whether it was aborted.
    pub aborted: bool,
    /// Whether the old key was taken for stolen.
    pub emergency: bool,
    /// When it began.
    pub started: Time,
    /// When it ended.
    pub ended: Time,
    /// Nodes that were put aside and had not come along at the end, with their host names, as they say, if they are still on record: the
    /// first of them.
    pub aside: Vec<(NodeId, String)>,
    /// How many those were.
    pub aside_count: u64,
}

/// A root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootView {
    /// Its digest as tokens carry it: `sha256:…`.
    pub digest: String,
    /// The common name of whoever signs.
    pub name: String,
    /// When the first of its certificates ends: the root's, the signer's or one between them. Nothing can be signed then.
    pub not_after: Time,
    /// Whether managers hold the key.
    pub has_key: bool,
}

/// A rotation under way.
#[derive(Clone, Debug)]
pub struct RotationView {
    /// Its number.
    pub id: u64,
    /// The root that is left.
    pub from: RootView,
    /// The root that is gone to.
    pub to: RootView,
    /// Whether it was aborted.
    pub aborted: bool,
    /// Whether it goes by a bundle of both roots, where no cross-certificate would be verified.
    pub by_bundle: bool,
    /// How far it is.
    pub phase: Phase,
    /// When it began.
    pub started: Time,
    /// When this phase began.
    pub since: Time,
    /// The phases before, each with its beginning.
    pub history: Vec<(Phase, Time)>,
    /// What happens with nodes that do not come along.
    pub policy: Policy,
    /// When the phase ends whoever is missing: as this manager would end it, if it leads it.
    pub phase_ends: Option<Time>,
    /// Nodes that this phase waits for, done or not.
    pub required: usize,
    /// Those of them that did their part.
    pub done: usize,
    /// Nodes a second, since this phase began; unknown before the first.
    pub rate: Option<f64>,
    /// Time to the end of this phase at that rate; none while somebody is missing who is not here.
    pub left: Option<Duration>,
    /// Nodes that are waited for.
    pub blocking: Vec<Blocking>,
    /// Nodes that were put aside.
    pub aside: Vec<Blocking>,
}

/// An old root that late nodes may still come back with.
#[derive(Clone, Debug)]
pub struct StragglerView {
    /// Its digest.
    pub digest: String,
    /// Until when at the latest.
    pub until: Time,
    /// Nodes that may.
    pub nodes: Vec<NodeId>,
}

/// A node that has not done its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Which.
    pub node: NodeId,
    /// Its host name, as it says.
    pub hostname: String,
    /// Why.
    pub reason: Reason,
    /// What to do about it; nothing, if it goes on by itself.
    pub remedy: Option<String>,
    /// Since when, if that is known.
    pub since: Option<Time>,
    /// What was last said to it when it asked for a certificate and got none.
    pub last_error: Option<String>,
    /// Whether it could still come back by itself if it were put aside.
    pub returns: bool,
}

/// Why a node has not done its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is in session, and its turn is to come.
    Queued,
    /// It was told, and is doing it.
    Told {
        /// How often it was told.
        times: u32,
    },
    /// It was told too often.
    Refusing {
        /// How often it was told.
        times: u32,
    },
    /// It is coming back with an old certificate.
    Returning,
    /// It comes back with an old certificate again and again, and does not install what it gets.
    Stale,
    /// Its session's connection ended, and it has not come back.
    Lost,
    /// It is down.
    Down,
    /// It has a certificate and never opened a session.
    NeverRegistered,
    /// It has not been heard of since this manager began to lead.
    Unknown,
    /// Its certificates are of a root that nothing leads from any more: an emergency went on without it, or it was away for too long.
    LeftBehind,
    /// Its clock is so far off that it cannot use what it would be given.
    ClockOff {
        /// Its clock minus ours, in milliseconds.
        offset_ms: i64,
    },
}

/// What waits for nodes without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Nothing: it has a deadline, or none is under way.
    No,
    /// A rotation.
    Rotation,
    /// Its way back.
    Abort,
}

impl Waits {
    fn of(rotation: &Rotation) -> Self {
        match (rotation.policy, rotation.back) {
            (Policy::WaitForAll, false) => Self::Rotation,
            (Policy::WaitForAll, true) => Self::Abort,
            (Policy::Deadline(_) | Policy::Emergency { .. }, _) => Self::No,
        }
    }
}

impl Reason {
    /// A word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Told { .. } => "told",
            Self::Refusing { .. } | Self::Stale => "refusing",
            Self::Returning => "returning",
            Self::Lost => "lost",
            Self::Down => "down",
            Self::NeverRegistered => "never-registered",
            Self::Unknown => "unknown",
            Self::LeftBehind => "left-behind",
            Self::ClockOff { .. } => "clock-off",
        }
    }

    /// Whether it will do its part without anybody's help, as far as one can tell.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Queued | Self::Told { .. } | Self::Returning)
    }

    /// The reason in words.
    pub fn text(&self) -> String {
        match self {
            Self::Queued => "its turn is to come".to_owned(),
            Self::Told { times: 1 } => "it was told and is at it".to_owned(),
            Self::Told { times } => format!("it was told {times} times and has not done it yet"),
            Self::Refusing { times } => format!("it was told {times} times and does not do it"),
            Self::Returning => "it came back with an old certificate and is renewing it".to_owned(),
            Self::Stale => "it keeps coming back with an old certificate and does not install what it gets".to_owned(),
            Self::Lost => "its connection ended, and it has not come back".to_owned(),
            Self::Down => "it is down".to_owned(),
            Self::NeverRegistered => "it joined, but never opened a session".to_owned(),
            Self::Unknown => "it has not been heard of since this manager began to lead".to_owned(),
            Self::LeftBehind => {
                "it was left behind when the root was replaced, and cannot come back by itself".to_owned()
            }
            Self::ClockOff { offset_ms } => format!("its clock is off by {} s", offset_ms / 1000),
        }
    }

    /// What to do about it; nothing, if it goes on by itself. `NODE` stands for the node's id; `waits`: what waits for it
    /// without end.
    pub fn remedy(&self, waits: Waits) -> Option<&'static str> {
        match self {
            Self::Queued | Self::Told { .. } | Self::Returning => None,
            Self::Refusing { .. } | Self::Stale => {
                Some("look into its log; restart it, or remove it: swarmpki node rm --force NODE")
            }
            Self::Lost | Self::Down | Self::Unknown if waits == Waits::Rotation => Some(
                "bring it back, or remove it: swarmpki node rm --force NODE; a rotation with --deadline goes on without it",
            ),
            Self::Lost | Self::Down | Self::Unknown if waits == Waits::Abort => Some(
                "bring it back, or remove it: swarmpki node rm --force NODE; an abort with --deadline goes on without it",
            ),
            Self::Lost | Self::Down | Self::Unknown => {
                Some("bring it back, or remove it: swarmpki node rm --force NODE")
            }
            Self::LeftBehind => Some(
                "there, leave (swarmpki leave, on an engine docker swarm leave --force) and join as a new node; here, remove its old \
                 entry, for which a rotation waits: swarmpki node rm --force NODE",
            ),
            Self::NeverRegistered => Some("start it, or remove it: swarmpki node rm --force NODE"),
            Self::ClockOff { .. } => Some("set its clock; it then goes on by itself"),
        }
    }
}

/// What only the manager that serves the sessions knows.
pub struct Seen<'a> {
    /// The session table.
    pub sessions: &'a Sessions,
    /// Who was told what.
    pub pacer: &'a Pacer,
    /// Whether a node's session has its stream open; if not, since when.
    pub stream_lost: &'a dyn Fn(&NodeId) -> Option<Time>,
    /// What was last said to a node that asked for a certificate and got none.
    pub last_error: &'a dyn Fn(&NodeId) -> Option<String>,
}

/// How the roots stand; none: there is no cluster.
pub fn status(state: &State, seen: &Seen<'_>, now: Time) -> Option<CaStatus> {
    let served = view(state.roots.served()?);
    let signing = view(state.roots.signing()?);
    let rotation = state.rotation().map(|rotation| rotation_view(state, rotation, seen, now));
    let dates = Dates::new(state);
    let lost = state.finished().filter(|node| state.rotation().is_none() && state.is_left_behind(node));
    let left_behind = lost.map(|node| blocking(state, &dates, node, seen, now)).collect();
    Some(CaStatus { served, signing, rotation, last: last(state), stragglers: stragglers(state), left_behind })
}

fn last(state: &State) -> Option<LastView> {
    let ended = state.last_rotation.as_deref()?;
    let digest = |trust: &BlobDigest| Digest::from_bytes(trust.0).to_string();
    let hostname = |id: &NodeId| state.node(id).and_then(|node| Some(node.report.as_ref()?.hostname.clone()));
    Some(LastView {
        id: ended.id,
        from: digest(&ended.from),
        to: digest(&ended.to),
        aborted: ended.back,
        emergency: ended.emergency,
        started: ended.started,
        ended: ended.ended,
        aside: ended.aside.iter().map(|id| (id.clone(), hostname(id).unwrap_or_default())).collect(),
        aside_count: ended.aside_count,
    })
}

pub(crate) fn view(root: &std::sync::Arc<Root>) -> RootView {
    RootView {
        digest: shown_digest(&root.bundle),
        name: root.signer.common_name(),
        not_after: super::first_end(root),
        has_key: root.key().is_some(),
    }
}

fn rotation_view(state: &State, rotation: &Rotation, seen: &Seen<'_>, now: Time) -> RotationView {
    let progress = state.progress().unwrap_or_default();
    let dates = Dates::new(state);
    let named = |node: &std::sync::Arc<Node>| blocking(state, &dates, node, seen, now);
    let blocking: Vec<_> = state.finished().filter(|node| rotation.blocks(node)).map(named).collect();
    let aside = state.finished().filter(|node| rotation.aside.contains(&node.id)).map(named).collect();
    let rate = seen.pacer.rate(now);
    let all_come = blocking.iter().all(|blocking| blocking.reason.is_transient());
    let missing = u32::try_from(blocking.len()).map_or(f64::from(u32::MAX), f64::from);
    let left = rate.filter(|_| all_come).map(|rate| Duration::try_from_secs_f64(missing / rate).unwrap_or_default());
    RotationView {
        id: rotation.id,
        from: view(rotation.from()),
        to: view(rotation.to()),
        aborted: rotation.back,
        by_bundle: rotation.bundle().is_some(),
        phase: rotation.phase,
        started: rotation.started,
        since: rotation.since,
        history: rotation.history.clone(),
        policy: rotation.policy,
        phase_ends: seen.pacer.ends(rotation).or_else(|| rotation.phase_ends()),
        required: progress.required,
        done: progress.done,
        rate,
        left,
        blocking,
        aside,
    }
}

/// A node that has not done its part, with the reason and what to do.
fn blocking(state: &State, dates: &Dates, node: &Node, seen: &Seen<'_>, now: Time) -> Blocking {
    let reason = reason(state, dates, node, seen, now);
    let since = match reason {
        Reason::Lost => (seen.stream_lost)(&node.id),
        Reason::Down | Reason::NeverRegistered | Reason::Unknown | Reason::LeftBehind => node.last_seen,
        Reason::Queued | Reason::ClockOff { .. } => None,
        Reason::Stale => seen.sessions.row(&node.id).and_then(|row| row.returns()),
        Reason::Told { .. } | Reason::Refusing { .. } | Reason::Returning => {
            seen.pacer.tries(&node.id).map(|tries| tries.since)
        }
    };
    let rotation = state.rotation();
    let remedy = reason.remedy(rotation.map_or(Waits::No, |rotation| Waits::of(rotation)));
    Blocking {
        node: node.id.clone(),
        hostname: node.report.as_ref().map(|report| report.hostname.clone()).unwrap_or_default(),
        remedy: remedy.map(|text| {
            // A manager is removed as a worker only.
            let demotion = if node.spec.role == Role::Manager { "swarmpki node demote NODE, then " } else { "" };
            let remove = "swarmpki node rm --force NODE";
            text.replace(remove, &format!("{demotion}{remove}")).replace("NODE", node.id.as_str())
        }),
        last_error: (seen.last_error)(&node.id),
        returns: reason != Reason::LeftBehind && rotation.is_some_and(|rotation| rotation.bundle().is_none()),
        reason,
        since,
    }
}

/// Why a node has not done its part.
fn reason(state: &State, dates: &Dates, node: &Node, seen: &Seen<'_>, now: Time) -> Reason {
    let row = seen.sessions.row(&node.id);
    let tries = seen.pacer.tries(&node.id).map_or(0, |tries| tries.count);
    match row {
        _ if state.is_left_behind(node) => Reason::LeftBehind,
        Some(row)
            if row.session.is_some()
                && (seen.stream_lost)(&node.id).is_some_and(|lost| now.since(lost) >= LOST_AFTER) =>
        {
            Reason::Lost
        }
        Some(row) if row.session.is_some() => {
            let need = rotation::need(&state.roots, node);
            let off = row.clock.zip(need).filter(|(clock, need)| !dates.allow(state, node, *need, *clock, now));
            match off {
                Some((clock, _)) => Reason::ClockOff { offset_ms: clock.offset_ms },
                _ if seen.sessions.keeps_returning(now, &node.id) => Reason::Stale,
                _ if row.returning => Reason::Returning,
                _ if seen.pacer.is_refusing(&node.id) => Reason::Refusing { times: tries },
                _ if tries > 0 => Reason::Told { times: tries },
                _ => Reason::Queued,
            }
        }
        _ if node.down => Reason::Down,
        _ if node.report.is_none() => Reason::NeverRegistered,
        _ => Reason::Unknown,
    }
}

fn stragglers(state: &State) -> Vec<StragglerView> {
    let served = state.roots.served();
    let late = |node: &Node| served.is_some_and(|root| !says_it_trusts(node, &root.bundle));
    let row = |anchor: &cluster::roots::StragglerAnchor| StragglerView {
        digest: format!("sha256:{}", Digest::of(anchor.certificate.pem().as_bytes()).hex()),
        until: anchor.until,
        nodes: state.finished().filter(|node| late(node)).map(|node| node.id.clone()).collect(),
    };
    match &state.roots {
        Roots::None => Vec::new(),
        Roots::Stable { stragglers, .. } => stragglers.iter().map(row).collect(),
        Roots::Rotating(rotation) => rotation.stragglers.iter().map(row).collect(),
    }
}
