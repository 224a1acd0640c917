//! The session with a manager (wire.md 6).
//!
//! - One session at a time; it ends with its connection, its heartbeats or its first silence, and comes back with backoff.
//! - A changed issuer or trust root is reported at once in a new session that names the old one's id.
//! - The node object is looked at when it has changed since the last one, status and meta left out.

use std::time::Duration;

use pki::bundle::TrustBundle;
use pki::identity::Role;
use pki::time::Time;
use tonic::Code;

use super::Plan;
use super::io::{Effect, Failure, FailureKind, Peer, Timer, TlsInfo};
use super::managers::{BAD, GOOD};
use super::request::ROTATE;
use crate::error::Retry;

/// The largest backoff between sessions. Source: wire.md 6.6.
const BACKOFF_MAX: Duration = Duration::from_secs(8);
/// What is added to twice the last backoff. Source: wire.md 6.6.
const BACKOFF_STEP: Duration = Duration::from_millis(100);
/// The wait after too many registrations: the manager's window. Source: wire.md 6.2.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(8);
/// Bounds for the period a manager tells. Ours: neither a busy loop nor a session that is never looked at.
const PERIOD_MIN: Duration = Duration::from_millis(10);
const PERIOD_MAX: Duration = Duration::from_secs(600);
/// How often the manager is asked for its time. Ours.
const CLOCK_EVERY: Duration = Duration::from_secs(3600);

/// The session's own state.
#[derive(Default)]
pub(crate) struct Session {
    link: Link,
    /// Counts sessions, so that late words of an old one are known as such.
    number: u64,
    /// The id that the last session had at the manager.
    id: String,
    backoff: Duration,
    /// What was reported at the start of the link.
    reported: TlsInfo,
    /// The last node object, without status and meta.
    node: Option<wire::proto::Node>,
    pub(crate) desired_seen: Option<Role>,
    pending_trust: Option<TrustBundle>,
    /// The root told last, if it could not be written: it is tried again with the next heartbeat.
    unsaved_trust: Option<Vec<u8>>,
    /// A bundle that was refused, to say so once.
    refused_trust: Vec<u8>,
    clock_asked: Option<Time>,
}

#[derive(Default)]
enum Link {
    #[default]
    Down,
    Opening(Peer),
    Open {
        peer: Peer,
        since: Time,
    },
}

impl Session {
    /// The manager that serves the session, and since when.
    pub(crate) const fn open(&self) -> Option<(&Peer, Time)> {
        match &self.link {
            Link::Open { peer, since } => Some((peer, *since)),
            _ => None,
        }
    }

    const fn peer(&self) -> Option<&Peer> {
        match &self.link {
            Link::Down => None,
            Link::Opening(peer) | Link::Open { peer, .. } => Some(peer),
        }
    }

    const fn is(&self, number: u64) -> bool {
        self.number == number && !matches!(self.link, Link::Down)
    }
}

impl Plan {
    pub(crate) fn open_session(&mut self, out: &mut Vec<Effect>) {
        if !self.running || self.session.peer().is_some() {
            return;
        }
        let Some(peer) = self.managers.pick(&mut self.chance) else {
            out.push(Effect::Start(Timer::Session, BACKOFF_MAX));
            return;
        };
        self.session.number += 1;
        self.session.link = Link::Opening(peer.clone());
        self.session.reported = self.tls_info();
        // Its first message names the root of now.
        self.session.unsaved_trust = None;
        out.push(Effect::OpenSession {
            session: self.session.number,
            peer,
            session_id: self.session.id.clone(),
            tls: self.session.reported.clone(),
        });
    }

    /// Somebody says where a manager is: it is tried at once. Who is in session is told better by its manager.
    pub(crate) fn manager_told(&mut self, addr: String, out: &mut Vec<Effect>) {
        if self.held.is_none() || self.session.open().is_some() {
            return;
        }
        self.managers.told(addr);
        out.push(Effect::SaveManagers(self.managers.list()));
        self.close_session(out);
        self.open_session(out);
    }

    pub(crate) fn dialed(&mut self, session: u64, out: &mut Vec<Effect>) {
        if self.session.is(session) && self.session.open().is_none() {
            out.push(Effect::Start(Timer::FirstMessage, wire::limits::SESSION_START_DEADLINE));
        }
    }

    pub(crate) fn first_message_overdue(&mut self, now: Time, out: &mut Vec<Effect>) {
        if matches!(self.session.link, Link::Opening(_)) {
            let failure = Failure::new(FailureKind::Timeout, "session initiation timed out");
            self.session_ended(now, self.session.number, &failure, out);
        }
    }

    pub(crate) fn session_ended(&mut self, now: Time, session: u64, failure: &Failure, out: &mut Vec<Effect>) {
        if !self.session.is(session) {
            return;
        }
        let peer = self.session.peer().cloned();
        // The one on this machine costs nothing to ask, and need not wait because another one failed.
        let at_once = peer.as_ref().is_some_and(|peer| self.managers.seated_besides(&peer.addr));
        self.close_session(out);
        if failure.says_removed() {
            return self.removed(now, &failure.text, out);
        }
        if let Some(peer) = peer {
            self.managers.observe(&peer.addr, BAD);
            if failure.kind == FailureKind::TlsTime {
                self.doubt_clock(peer, &failure.text, out);
            }
        }
        match self.status.clock_offset {
            Some(offset) if failure.kind == FailureKind::TlsTime && offset.is_notable() => {
                self.blame_clock(now, offset)
            }
            _ => self.trouble(now, failure.text.clone(), hint(failure), Retry::Later),
        }
        let crowded = failure.kind == FailureKind::Status(Code::Unavailable)
            && failure.text.contains("exceeded rate limit count of registrations");
        let delay = if crowded {
            RATE_LIMIT_PAUSE
        } else if at_once {
            Duration::ZERO
        } else {
            self.session.backoff = (BACKOFF_STEP + self.session.backoff * 2).min(BACKOFF_MAX);
            self.chance.delay(self.session.backoff)
        };
        out.push(Effect::Start(Timer::Session, delay));
    }

    pub(crate) fn close_session(&mut self, out: &mut Vec<Effect>) {
        if self.session.peer().is_some() {
            self.session.link = Link::Down;
            out.push(Effect::Stop(Timer::FirstMessage));
            out.push(Effect::Stop(Timer::Heartbeat));
            out.push(Effect::CloseSession { session: self.session.number });
        }
    }

    /// Reports anew, in a new session that names the old one.
    pub(crate) fn bounce(&mut self, out: &mut Vec<Effect>) {
        if self.session.peer().is_some() {
            self.close_session(out);
            self.open_session(out);
        }
    }

    pub(crate) fn bounce_if_changed(&mut self, out: &mut Vec<Effect>) {
        if self.session.peer().is_some() && self.session.reported != self.tls_info() {
            self.bounce(out);
        }
    }

    pub(crate) fn message(
        &mut self,
        now: Time,
        session: u64,
        message: wire::proto::SessionMessage,
        out: &mut Vec<Effect>,
    ) {
        if !self.session.is(session) {
            return;
        }
        self.session.id.clone_from(&message.session_id);
        if let Link::Opening(peer) = &self.session.link {
            let peer = peer.clone();
            self.managers.observe(&peer.addr, GOOD);
            self.session.link = Link::Open { peer, since: now };
            self.session.backoff = Duration::ZERO;
            self.session.clock_asked = None;
            self.clock_is_right(now, out);
            if self.renewal_is_well() {
                self.status.last_error = None;
            }
            out.push(Effect::Stop(Timer::FirstMessage));
            self.beat(out);
        }
        let asked = self.session.clock_asked;
        if asked.is_none_or(|asked| now.since(asked) >= CLOCK_EVERY) {
            self.session.clock_asked = Some(now);
            out.push(Effect::AskClock { session });
        }
        self.learn_managers(message.managers, out);
        if let Some(node) = message.node {
            self.node_told(now, node, out);
        }
        self.trust_told(now, &message.root_ca, out);
    }

    fn learn_managers(&mut self, told: Vec<wire::proto::WeightedPeer>, out: &mut Vec<Effect>) {
        let told = told.into_iter().take(wire::limits::MANAGERS_MAX).filter_map(|weighted| {
            let peer = weighted.peer?;
            let peer = Peer { node: peer.node_id, addr: peer.addr };
            Some((peer, weighted.weight))
        });
        if self.managers.learn(told) {
            out.push(Effect::SaveManagers(self.managers.list()));
        }
    }

    /// Acts on the node object (wire.md 6.4).
    fn node_told(&mut self, now: Time, mut node: wire::proto::Node, out: &mut Vec<Effect>) {
        node.status = None;
        node.meta = None;
        if self.session.node.as_ref() == Some(&node) {
            return;
        }
        if let Some(spec) = &node.spec
            && let Some(desired) = role(spec.desired_role)
        {
            self.status.desired_role = Some(desired);
            if self.session.desired_seen != Some(desired) {
                self.session.desired_seen = Some(desired);
                out.push(Effect::RoleWanted(desired));
                self.trigger(now, Some(desired), out);
            }
        }
        let ordered = node
            .certificate
            .as_ref()
            .and_then(|certificate| certificate.status.as_ref())
            .is_some_and(|status| status.state == ROTATE);
        if ordered {
            self.trigger(now, None, out);
        }
        self.session.node = Some(node);
    }

    /// Takes a root that the manager pushes, if our certificate verifies against it (pki.md 8.5).
    fn trust_told(&mut self, now: Time, pem: &[u8], out: &mut Vec<Effect>) {
        let known = self.trust.as_ref().is_some_and(|trust| trust.raw() == pem);
        if pem.is_empty() || self.session.pending_trust.is_some() {
            return;
        }
        self.session.unsaved_trust = None;
        if known {
            return;
        }
        match self.acceptable_trust(now, pem) {
            Ok(bundle) => {
                self.session.pending_trust = Some(bundle.clone());
                out.push(Effect::SaveTrust(bundle));
            }
            Err(text) => {
                if self.session.refused_trust != pem {
                    self.session.refused_trust = pem.to_vec();
                    let text = format!("could not use the new root CA from the manager: {text}");
                    self.trouble(
                        now,
                        text,
                        "nothing to do while a rotation runs: it comes again after the next renewal",
                        Retry::Later,
                    );
                }
            }
        }
    }

    pub(crate) fn trust_saved(&mut self, now: Time, result: Result<(), Failure>, out: &mut Vec<Effect>) {
        if let Some(bundle) = self.session.pending_trust.take() {
            match result {
                Ok(()) => {
                    self.trust = Some(bundle);
                    self.session.refused_trust.clear();
                    self.bounce_if_changed(out);
                }
                Err(failure) => {
                    // A manager may not say it again for as long as this session lasts.
                    self.session.unsaved_trust = Some(bundle.raw().to_vec());
                    let hint = "mend what is named: writing the new root is tried again with every heartbeat";
                    self.trouble(now, failure.text, hint, Retry::Later);
                }
            }
        } else if self.held.is_some() {
            self.request_trust_saved(now, result, out);
        } else {
            self.join_trust_saved(now, result, out);
        }
    }

    pub(crate) fn beat(&mut self, out: &mut Vec<Effect>) {
        if self.session.open().is_some() {
            out.push(Effect::Beat { session: self.session.number, session_id: self.session.id.clone() });
        }
    }

    pub(crate) fn heartbeat(
        &mut self,
        now: Time,
        session: u64,
        result: Result<Duration, Failure>,
        out: &mut Vec<Effect>,
    ) {
        if !self.session.is(session) {
            return;
        }
        match result {
            Ok(period) => {
                out.push(Effect::Start(Timer::Heartbeat, period.clamp(PERIOD_MIN, PERIOD_MAX)));
                if let Some(pem) = self.session.unsaved_trust.take() {
                    self.trust_told(now, &pem, out);
                }
                let asked = self.session.clock_asked;
                if asked.is_some_and(|asked| now.since(asked) >= CLOCK_EVERY) {
                    self.session.clock_asked = Some(now);
                    out.push(Effect::AskClock { session });
                }
            }
            Err(failure) => self.session_ended(now, session, &failure, out),
        }
    }
}

const fn role(number: i32) -> Option<Role> {
    match number {
        0 => Some(Role::Worker),
        1 => Some(Role::Manager),
        _ => None,
    }
}

fn hint(failure: &Failure) -> &'static str {
    match failure.kind {
        FailureKind::Status(Code::PermissionDenied) if failure.text.ends_with(" that was revoked") => {
            "leave, and join again with a token if this node shall come back"
        }
        FailureKind::Connect | FailureKind::Timeout => {
            "check that a manager runs and that its port is open to this machine"
        }
        FailureKind::Tls => {
            "the manager and this node do not trust each other's certificate; it may pass once a rotation has ended"
        }
        FailureKind::TlsTime => "compare this machine's clock with the manager's",
        FailureKind::Status(_) => "the manager refused; look at its log if this goes on",
        FailureKind::Local => "look at this machine's log",
    }
}
