//! What a node does next: a machine without I/O, clock or chance of its own.
//!
//! - Time is an argument of every step; chance comes from the seed. The same inputs give the same effects.
//! - One request for a certificate at a time; one trigger that comes meanwhile is remembered.
//! - Nothing is trusted before its digest was compared with the token's; later roots only if the present leaf chains to them.
//! - Every failure of a renewal backs off, also of a scheduled one (SwarmKit spins there; pki.md 8.2).
//! - Removal is final: the machine stops and says so (wire.md 7, item 6). Engines go on asking for ever.
//! - The machine's time never goes below what is proven to have passed (the floor).
//!
//! Worked example, a join: `Join` → FetchRoot → `Root` → SaveTrust → `TrustSaved` → Issue → `Issued` → Poll → `Answered` →
//! Install → `Installed` → Joined. Then `Run` → OpenSession, and a renewal timer.

mod chance;
mod io;
mod join;
mod managers;
mod renewal;
mod request;
mod session;
#[cfg(test)]
mod tests;

use pki::bundle::TrustBundle;
use pki::certificate::{Certificate, IssuerId};
use pki::digest::Digest;
use pki::identity::Subject;
use pki::time::Time;

pub use io::{Accepted, Answer, Caller, Effect, Failure, FailureKind, Input, Peer, Timer, TlsInfo};

use crate::clock::ClockOffset;
use crate::error::{JoinError, Retry, SET_THE_CLOCK};
use crate::status::{Phase, Status, Trouble};
use chance::Chance;
use join::Joining;
use managers::Managers;
use renewal::Renewal;
use request::Request;
use session::Session;

/// What a cluster that demands FIPS mode puts before its id (pki.md 1).
pub(crate) const FIPS_PREFIX: &str = "FIPS.";
/// How far the floor must rise before it is written again, in milliseconds. Ours: few writes, little lost.
const FLOOR_STEP_MS: i64 = 10 * 60 * 1000;

/// What the machine knows when it starts.
#[derive(Default)]
pub struct Start {
    /// The managers that earlier sessions told.
    pub known: Vec<Peer>,
    /// Addresses to fall back to; of a join the addresses to join at.
    pub addrs: Vec<String>,
    /// The trust bundle on disk.
    pub trust: Option<TrustBundle>,
    /// The certificate on disk, PEM, and when it was received.
    pub pair: Option<(Vec<u8>, Time)>,
    /// The digest in the join token, and whether it demands FIPS mode. Needed to join.
    pub token: Option<(Digest, bool)>,
    /// Whether this node runs in FIPS mode.
    pub fips: bool,
    /// The time that is proven to have passed.
    pub floor: Time,
}

/// What was on disk does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// A certificate without a trust bundle.
    #[error("local root CA certificate does not exist")]
    NoTrust,
    /// The chain does not hold.
    #[error("{0}")]
    Certificate(String),
    /// The cluster demands FIPS mode.
    #[error("{}", crate::error::FIPS_REQUIRED)]
    Fips,
}

/// The certificate a node holds.
#[derive(Clone)]
struct Held {
    chain: Vec<Certificate>,
    subject: Subject,
    issuer: IssuerId,
    not_after: Time,
    renew_at: Time,
}

/// The machine. See the module's page.
pub struct Plan {
    chance: Chance,
    managers: Managers,
    addrs: Vec<String>,
    fips: bool,
    trust: Option<TrustBundle>,
    held: Option<Held>,
    joining: Option<Joining>,
    request: Option<Request>,
    requests: u64,
    renewal: Renewal,
    session: Session,
    running: bool,
    over: Option<Phase>,
    floor: Time,
    floor_saved: Time,
    /// What a certificate that is not valid at this machine's time broke, while the clock is in doubt for it.
    clock_doubt: Option<String>,
    status: Status,
}

impl Plan {
    /// A machine from what is on disk. An expired certificate is taken: the first thing to do is to renew it.
    pub fn new(start: Start, now: Time, seed: u64) -> Result<Plan, StartError> {
        let floor = credible_floor(start.floor, start.pair.as_ref().map(|(pem, _)| pem.as_slice()));
        let at = now.max(floor);
        let mut plan = Plan {
            chance: Chance::new(seed),
            managers: Managers::new(start.known, start.addrs.clone()),
            addrs: start.addrs,
            fips: start.fips,
            trust: start.trust,
            held: None,
            joining: start.token.map(|(digest, fips)| Joining::new(digest, fips)),
            request: None,
            requests: 0,
            renewal: Renewal::default(),
            session: Session::default(),
            running: false,
            over: None,
            floor,
            floor_saved: floor,
            clock_doubt: None,
            status: Status::default(),
        };
        if let Some((pem, received)) = start.pair {
            let trust = plan.trust.as_ref().ok_or(StartError::NoTrust)?;
            let valid = pki::chain::validate(&pem, trust, true, at)
                .map_err(|error| StartError::Certificate(error.to_string()))?;
            let held = Held::new(valid.chain, valid.issuer, received, at)
                .map_err(|error| StartError::Certificate(error.to_string()))?;
            if held.demands_fips() && !plan.fips {
                return Err(StartError::Fips);
            }
            plan.session.desired_seen = Some(held.subject.role);
            plan.held = Some(held);
            plan.joining = None;
        }
        plan.refresh(now);
        Ok(plan)
    }

    /// Takes one input and says what to do.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.over.is_some() {
            return out;
        }
        match input {
            Input::Join => self.join(now, &mut out),
            Input::Run => self.run(now, &mut out),
            Input::Timer(Timer::Attempt) => self.attempt_due(now, &mut out),
            Input::Timer(Timer::Poll) => self.poll_due(&mut out),
            Input::Timer(Timer::Renew) => self.renew_timer(now, &mut out),
            Input::Timer(Timer::Session) => self.open_session(&mut out),
            Input::Timer(Timer::FirstMessage) => self.first_message_overdue(now, &mut out),
            Input::Timer(Timer::Heartbeat) => self.beat(&mut out),
            Input::Root(result) => self.root(now, result, &mut out),
            Input::Issued { request, result } => self.issued(now, request, result, &mut out),
            Input::Answered { request, result } => self.answered(now, request, result, &mut out),
            Input::Unlocked { request, result } => self.unlocked(now, request, result, &mut out),
            Input::Installed { request, result } => self.installed(now, request, result, &mut out),
            Input::TrustSaved(result) => self.trust_saved(now, result, &mut out),
            Input::SessionDialed { session } => self.dialed(session, &mut out),
            Input::Message { session, message } => self.message(now, session, *message, &mut out),
            Input::SessionEnded { session, failure } => self.session_ended(now, session, &failure, &mut out),
            Input::Heartbeat { session, result } => self.heartbeat(now, session, result, &mut out),
            Input::Clock { offset_ms, proven } => self.clock_told(now, offset_ms, proven, &mut out),
            Input::RenewNow => self.renew_now(now, &mut out),
            Input::Seated(own) => self.managers.seat(own),
            Input::ManagerTold(addr) => self.manager_told(addr, &mut out),
            Input::Redescribe => self.bounce(&mut out),
        }
        self.refresh(now);
        out
    }

    /// The node's state after the last step.
    #[must_use]
    pub const fn status(&self) -> &Status {
        &self.status
    }

    /// The time to judge certificates by: the clock, but never before what is proven to have passed.
    #[must_use]
    pub fn effective(&self, now: Time) -> Time {
        now.max(self.floor)
    }

    /// The time that is proven to have passed: certificates are never judged by an earlier one.
    #[must_use]
    pub const fn floor(&self) -> Time {
        self.floor
    }

    /// What the node reports of its TLS side.
    #[must_use]
    pub fn tls_info(&self) -> TlsInfo {
        match (&self.trust, &self.held) {
            (Some(trust), Some(held)) => TlsInfo {
                trust_root: trust.raw().to_vec(),
                issuer_subject: held.issuer.subject.clone(),
                issuer_key: held.issuer.spki.clone(),
            },
            _ => TlsInfo::default(),
        }
    }

    /// A manager told its time.
    fn clock_told(&mut self, now: Time, offset_ms: i64, proven: Option<Time>, out: &mut Vec<Effect>) {
        let offset = ClockOffset::measured(offset_ms);
        self.status.clock_offset = Some(offset);
        // A manager's clock may itself be wrong: a big step is taken from what was signed only.
        if let Some(time) = proven.filter(|_| !offset.is_notable()) {
            self.raise_floor(time, out);
        }
        if offset.is_notable() {
            self.blame_clock(now, offset);
        } else if proven.is_some() {
            self.clock_is_right(now, out);
        }
    }

    /// A certificate is not valid at this machine's time: asks for the time to say how far the clock is off.
    fn doubt_clock(&mut self, peer: Peer, broken: &str, out: &mut Vec<Effect>) {
        if self.clock_doubt.replace(broken.to_owned()).is_none() {
            // Known from before it broke: it may have been set since.
            self.status.clock_offset = None;
        }
        out.push(Effect::AskClockUnverified { peer });
    }

    /// Names the clock as the cause of what is broken, if it was in doubt.
    fn blame_clock(&mut self, now: Time, offset: ClockOffset) {
        if let Some(broken) = &self.clock_doubt {
            let text = format!("{offset}: {broken}");
            self.trouble(now, text, SET_THE_CLOCK, Retry::Later);
        }
    }

    /// What failed because of the clock need not wait out its backoff now that the clock is right.
    fn clock_is_right(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.clock_doubt.take().is_some() && !self.renewal_is_well() {
            self.trigger(now, None, out);
        }
    }

    /// Takes what a certificate says of the clock, unless a manager told better.
    const fn estimate_clock(&mut self, offset: Option<ClockOffset>) {
        if matches!(self.status.clock_offset, None | Some(ClockOffset { estimated: true, .. })) {
            self.status.clock_offset = offset;
        }
    }

    /// The floor never passes the end of the leaf held: beyond it no session could prove it wrong again.
    fn raise_floor(&mut self, proven: Time, out: &mut Vec<Effect>) {
        let Some(held) = &self.held else { return };
        self.floor = self.floor.max(proven.min(held.not_after));
        if self.floor.unix_millis() >= self.floor_saved.unix_millis().saturating_add(FLOOR_STEP_MS) {
            self.floor_saved = self.floor;
            out.push(Effect::SaveFloor(self.floor));
        }
    }

    fn trouble(&mut self, now: Time, text: impl Into<String>, hint: impl Into<String>, retry: Retry) {
        self.status.last_error = Some(Trouble { at: now, text: text.into(), hint: hint.into(), retry });
    }

    /// Stops for good: the cluster has removed this node.
    fn removed(&mut self, now: Time, text: &str, out: &mut Vec<Effect>) {
        self.over = Some(Phase::Removed);
        self.stop(out);
        self.trouble(
            now,
            text,
            "this node was removed from its cluster: leave, and join again with a token if it shall come back",
            Retry::Never,
        );
        out.push(Effect::Removed { text: text.to_owned() });
    }

    /// Stops for good: the join failed.
    fn join_failed(&mut self, now: Time, error: JoinError, out: &mut Vec<Effect>) {
        self.over = Some(Phase::Failed);
        self.stop(out);
        self.trouble(now, error.to_string(), error.hint(), error.retry());
        out.push(Effect::JoinFailed(error));
    }

    fn stop(&mut self, out: &mut Vec<Effect>) {
        self.close_session(out);
        if let Some(request) = self.request.take() {
            out.push(Effect::Forget { request: request.number });
        }
        for timer in [Timer::Attempt, Timer::Poll, Timer::Renew, Timer::Session] {
            out.push(Effect::Stop(timer));
        }
    }

    fn refresh(&mut self, now: Time) {
        let at = self.effective(now);
        let status = &mut self.status;
        status.clock_behind_floor_ms = match self.floor.since(now).as_millis() {
            0 => None,
            behind => Some(u64::try_from(behind).unwrap_or(u64::MAX)),
        };
        if let Some(held) = &self.held {
            status.node = Some(held.subject.node.clone());
            status.cluster = Some(held.subject.cluster.clone());
            status.role = Some(held.subject.role);
            status.not_after = Some(held.not_after);
            status.renew_at = Some(held.renew_at);
        }
        status.managers = self.managers.list();
        (status.connected, status.session_since) = match self.session.open() {
            Some((peer, since)) => (Some(peer.clone()), Some(since)),
            None => (None, None),
        };
        status.phase = match (&self.over, &self.held) {
            (Some(phase), _) => *phase,
            (None, None) => Phase::Joining,
            (None, Some(held)) if held.not_after < at => Phase::Expired,
            (None, Some(_)) if self.request.is_some() => Phase::Renewing,
            (None, Some(_)) if status.connected.is_some() => Phase::Ready,
            (None, Some(_)) => Phase::Connecting,
        };
    }
}

/// The floor as far as the leaf beside it bears it out. One beyond the leaf's end was raised by a clock that was wrong, as a
/// node learns the time in sessions only: then the leaf's start, which was signed, is what is proven. Without a leaf, nothing.
pub(crate) fn credible_floor(floor: Time, chain_pem: Option<&[u8]>) -> Time {
    let chain = chain_pem.and_then(|pem| Certificate::parse_pem_bundle(pem).ok()).unwrap_or_default();
    match chain.first() {
        Some(leaf) if floor > leaf.not_after() => leaf.not_before(),
        Some(_) => floor,
        None => Time::default(),
    }
}

impl Held {
    /// From a validated chain. `received` is taken into the leaf's validity.
    fn new(
        chain: Vec<Certificate>,
        issuer: IssuerId,
        received: Time,
        at: Time,
    ) -> Result<Held, pki::identity::SubjectError> {
        let Some(leaf) = chain.first() else {
            return Err(pki::identity::SubjectError::NoNode);
        };
        let subject = leaf.node_subject()?;
        let received = received.max(leaf.not_before()).min(at);
        Ok(Held {
            not_after: leaf.not_after(),
            renew_at: pki::renewal::renew_at(received, leaf.not_after(), &leaf.serial()),
            subject,
            issuer,
            chain,
        })
    }

    fn demands_fips(&self) -> bool {
        self.subject.cluster.as_str().starts_with(FIPS_PREFIX)
    }

    fn pem(&self) -> String {
        pki::certificate::encode_pem(&self.chain)
    }
}
