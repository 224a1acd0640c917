//! One request for a certificate, from Issue to Install (pki.md 7), at a join and at a renewal.
//!
//! - A request has one key and one CSR; it may be sent several times. A manager of ours answers the same CSR with the same
//!   identity, so that an answer that was lost leaves no second node behind.
//! - Only an answer whose CSR is byte for byte ours counts.
//! - The chain must hold strictly, the key be ours, the subject name this cluster and, at a renewal, this node.

use std::time::Duration;

use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::csr::Csr;
use pki::identity::Role;
use pki::issue::LEAF_BACKDATE;
use pki::renewal::STATUS_BACKOFF;
use pki::time::Time;
use tonic::Code;
use wire::limits::{BUNDLE_CERTIFICATES_MAX, CHAIN_CERTIFICATES_MAX};

use super::io::{Accepted, Answer, Caller, Effect, Failure, FailureKind, Peer, Timer};
use super::{Held, Plan};
use crate::clock::ClockOffset;
use crate::error::{JoinError, Retry};

/// Attempts of one request. Source: pki.md 1.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
/// The pause between attempts of a join. Source: pki.md 1.
pub(crate) const JOIN_PAUSE: Duration = Duration::from_secs(2);
/// Questions about a renewal before it counts as failed, so that orders are obeyed again. Ours: engines ask for ever.
const RENEWAL_POLLS_MAX: u32 = 40;
/// Issuance states. Source: pki.md 6.2.
const ISSUED: i32 = 3;
const FAILED: i32 = 4;
pub(crate) const ROTATE: i32 = 5;

/// Whether PEM from a manager holds more certificates than this, without reading them: each one costs a parse, and several
/// of them signatures.
fn more_certificates(pem: &[u8], max: usize) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN";
    pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).nth(max).is_some()
}

/// Reads a trust bundle from a manager, of bounded length.
pub(crate) fn parse_trust(pem: &[u8], at: Time) -> Result<TrustBundle, String> {
    if more_certificates(pem, BUNDLE_CERTIFICATES_MAX) {
        return Err(format!("a bundle of more than {BUNDLE_CERTIFICATES_MAX} certificates"));
    }
    TrustBundle::parse(pem, at).map_err(|error| error.to_string())
}

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waiting for the next attempt.
    Pause,
    Issuing,
    Polling,
    /// Waiting for the next question.
    Between,
    /// Downloading the root because of an unknown authority.
    Root,
    Unlocking,
    Installing,
}

/// A request under way.
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) stage: Stage,
    attempt: u32,
    peer: Peer,
    accepted: Option<Accepted>,
    polls: u32,
    unlock_tries: u32,
    root_fetched: bool,
    pub(crate) pending_trust: Option<TrustBundle>,
    candidate: Option<Held>,
}

impl Plan {
    pub(crate) fn begin_request(&mut self, out: &mut Vec<Effect>) {
        let Some(peer) = self.request_peer() else {
            return;
        };
        self.requests += 1;
        self.request = Some(Request {
            number: self.requests,
            stage: Stage::Issuing,
            attempt: 1,
            peer,
            accepted: None,
            polls: 0,
            unlock_tries: 0,
            root_fetched: false,
            pending_trust: None,
            candidate: None,
        });
        self.send_issue(out);
    }

    fn request_peer(&mut self) -> Option<Peer> {
        if self.held.is_some() { self.managers.pick(&mut self.chance) } else { self.join_addr(0) }
    }

    /// Another manager than the one that just failed.
    fn other_peer(&mut self, failed: &Peer) -> Peer {
        let other = if self.held.is_some() {
            self.managers.observe(&failed.addr, super::managers::BAD);
            self.managers.pick_other(&failed.addr, &mut self.chance)
        } else {
            let at = self.addrs.iter().position(|addr| *addr == failed.addr);
            self.join_addr(at.map_or(0, |index| index + 1))
        };
        other.unwrap_or_else(|| failed.clone())
    }

    fn caller(&self) -> Option<Caller> {
        if self.held.is_some() {
            return Some(Caller::Node);
        }
        self.trust.clone().map(Caller::Joiner)
    }

    fn send_issue(&mut self, out: &mut Vec<Effect>) {
        let Some(caller) = self.caller() else { return };
        let Some(request) = &mut self.request else { return };
        request.stage = Stage::Issuing;
        out.push(Effect::Issue { request: request.number, peer: request.peer.clone(), caller });
    }

    fn send_poll(&mut self, out: &mut Vec<Effect>) {
        let Some(caller) = self.caller() else { return };
        let Some(request) = &mut self.request else { return };
        let Some(accepted) = &request.accepted else { return };
        request.stage = Stage::Polling;
        out.push(Effect::Poll {
            request: request.number,
            peer: request.peer.clone(),
            caller,
            node: accepted.node.clone(),
        });
    }

    fn current(&self, request: u64, stage: Stage) -> bool {
        self.request.as_ref().is_some_and(|current| current.number == request && current.stage == stage)
    }

    pub(crate) fn attempt_again(&mut self, _now: Time, out: &mut Vec<Effect>) {
        if self.request.as_ref().is_some_and(|request| request.stage == Stage::Pause) {
            self.send_issue(out);
        }
    }

    pub(crate) fn poll_due(&mut self, out: &mut Vec<Effect>) {
        if self.request.as_ref().is_some_and(|request| request.stage == Stage::Between) {
            self.send_poll(out);
        }
    }

    pub(crate) fn issued(&mut self, now: Time, number: u64, result: Result<Accepted, Failure>, out: &mut Vec<Effect>) {
        if !self.current(number, Stage::Issuing) {
            return;
        }
        match result {
            Ok(accepted) => {
                if let Some(request) = &mut self.request {
                    request.accepted = Some(accepted);
                    request.polls = 0;
                }
                self.send_poll(out);
            }
            Err(failure) => self.issue_refused(now, failure, out),
        }
    }

    fn issue_refused(&mut self, now: Time, failure: Failure, out: &mut Vec<Effect>) {
        let renewing = self.held.is_some();
        let FailureKind::Status(code) = failure.kind else {
            if failure.kind == FailureKind::TlsTime
                && let Some(peer) = self.request.as_ref().map(|request| request.peer.clone())
            {
                self.doubt_clock(peer, &failure.text, out);
            }
            return self.attempt_failed(now, self.unreachable(&failure), out);
        };
        let expired = self.held.as_ref().is_some_and(|held| held.not_after < self.effective(now));
        let gone = match code {
            Code::NotFound => failure.text.contains("not found when attempting to renew certificate"),
            // An expired certificate is refused with the same words: that is no proof of a removal.
            Code::InvalidArgument => !expired && failure.text.contains("A valid join token is necessary"),
            _ => failure.says_removed(),
        };
        if renewing && gone {
            return self.removed(now, &failure.text, out);
        }
        let refused = JoinError::Refused { code: i32::from(code), text: failure.text.clone() };
        match code {
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::Unimplemented
                if !renewing =>
            {
                self.join_failed(now, refused, out);
            }
            _ => self.attempt_failed(now, refused, out),
        }
    }

    pub(crate) fn answered(&mut self, now: Time, number: u64, result: Result<Answer, Failure>, out: &mut Vec<Effect>) {
        if !self.current(number, Stage::Polling) {
            return;
        }
        let failure = match result {
            Ok(answer) => return self.judge(now, answer, out),
            Err(failure) => failure,
        };
        if failure.kind == FailureKind::Status(Code::NotFound) {
            if self.held.is_some() {
                return self.removed(now, "the cluster no longer knows this node", out);
            }
            let error = JoinError::NotIssued(format!("the request is not known any more: {}", failure.text));
            return self.attempt_failed(now, error, out);
        }
        if failure.says_removed() {
            return self.removed(now, &failure.text, out);
        }
        if failure.kind == FailureKind::Tls && self.held.is_none() && self.joining.is_some() {
            // The root may have been replaced since it was fetched: fetched again, it is compared with the token again.
            let error = self.unreachable(&failure);
            if self.is_last_try() {
                return self.join_failed(now, error, out);
            }
            self.trouble(now, failure.text, error.hint(), Retry::Later);
            self.request = None;
            out.push(Effect::Start(Timer::Attempt, JOIN_PAUSE));
            return;
        }
        let timeout = matches!(failure.kind, FailureKind::Timeout | FailureKind::Status(Code::DeadlineExceeded));
        if !timeout {
            if let Some(peer) = self.request.as_ref().map(|request| request.peer.clone()) {
                let other = self.other_peer(&peer);
                if let Some(request) = &mut self.request {
                    request.peer = other;
                }
            }
            let hint = self.unreachable(&failure).hint();
            self.trouble(now, failure.text, hint, Retry::Later);
        }
        self.poll_later(now, out);
    }

    fn poll_later(&mut self, now: Time, out: &mut Vec<Effect>) {
        let renewing = self.held.is_some();
        let Some(request) = &mut self.request else { return };
        request.polls += 1;
        if renewing && request.polls >= RENEWAL_POLLS_MAX {
            let error = JoinError::NotIssued("no certificate came in time".to_owned());
            return self.request_failed(now, &error, out);
        }
        request.stage = Stage::Between;
        let (base, factor, max) = STATUS_BACKOFF;
        let bound = pki::renewal::backoff_bound(base, factor, max, request.polls);
        let delay = self.chance.delay(bound);
        out.push(Effect::Start(Timer::Poll, delay));
    }

    fn judge(&mut self, now: Time, answer: Answer, out: &mut Vec<Effect>) {
        let ours = self
            .request
            .as_ref()
            .and_then(|request| request.accepted.as_ref())
            .is_some_and(|accepted| accepted.csr == answer.csr);
        match answer.state {
            ISSUED | ROTATE if ours => {
                if answer.chain.is_empty() {
                    let error = JoinError::NotIssued("no certificate in CertificateStatus response".to_owned());
                    return self.attempt_failed(now, error, out);
                }
                self.check(now, &answer.chain, out);
            }
            FAILED if ours => self.attempt_failed(now, JoinError::NotIssued(answer.err), out),
            _ => self.poll_later(now, out),
        }
    }

    /// Checks what was issued as a peer would, and more.
    fn check(&mut self, now: Time, pem: &[u8], out: &mut Vec<Effect>) {
        let at = self.effective(now);
        let Some(trust) = &self.trust else { return };
        if more_certificates(pem, CHAIN_CERTIFICATES_MAX) {
            let error = JoinError::Certificate(format!("a chain of more than {CHAIN_CERTIFICATES_MAX} certificates"));
            return self.attempt_failed(now, error, out);
        }
        let valid = match pki::chain::validate(pem, trust, false, at) {
            Ok(valid) => valid,
            Err(error) => {
                let leaf = Certificate::parse_pem_bundle(pem).ok().and_then(|chain| chain.into_iter().next());
                let unknown = matches!(error, pki::chain::ChainError::UnknownAuthority);
                return self.chain_refused(now, leaf.as_ref(), unknown, error.to_string(), out);
            }
        };
        let candidate = match Held::new(valid.chain, valid.issuer, at, at) {
            Ok(held) => held,
            Err(error) => {
                return self.attempt_failed(now, JoinError::Certificate(error.to_string()), out);
            }
        };
        if let Err(text) = self.check_candidate(&candidate) {
            let error =
                if candidate.demands_fips() && !self.fips { JoinError::Fips } else { JoinError::Certificate(text) };
            return self.attempt_failed(now, error, out);
        }
        let manager = candidate.subject.role == Role::Manager;
        if let Some(request) = &mut self.request {
            request.candidate = Some(candidate);
        }
        if manager {
            self.fetch_unlock_key(out);
        } else {
            self.install(now, out);
        }
    }

    fn check_candidate(&self, candidate: &Held) -> Result<(), String> {
        let accepted = self.request.as_ref().and_then(|request| request.accepted.as_ref());
        let Some((accepted, leaf)) = accepted.zip(candidate.chain.first()) else {
            return Err("nothing was asked for".to_owned());
        };
        let csr = Csr::parse(&accepted.csr).map_err(|error| error.to_string())?;
        if csr.public_key().spki_der() != leaf.spki_der() {
            return Err("certificate key mismatch".to_owned());
        }
        if candidate.demands_fips() && !self.fips {
            return Err(crate::error::FIPS_REQUIRED.to_owned());
        }
        let subject = &candidate.subject;
        if subject.node.as_str() != accepted.node {
            return Err(format!("it names node {} instead of {}", subject.node, accepted.node));
        }
        match &self.held {
            Some(held) if held.subject.cluster != subject.cluster => {
                Err(format!("it names cluster {} instead of {}", subject.cluster, held.subject.cluster))
            }
            Some(held) if held.subject.node != subject.node => {
                Err(format!("it names node {} instead of {}", subject.node, held.subject.node))
            }
            _ => Ok(()),
        }
    }

    fn chain_refused(
        &mut self,
        now: Time,
        leaf: Option<&Certificate>,
        unknown_authority: bool,
        text: String,
        out: &mut Vec<Effect>,
    ) {
        let at = self.effective(now);
        if let Some(leaf) = leaf
            && leaf.not_before() > at
            && let Some(offset) = ClockOffset::estimated(leaf.not_before().saturating_add(LEAF_BACKDATE), now)
        {
            self.estimate_clock(Some(offset));
            return self.attempt_failed(now, JoinError::Clock { offset, text }, out);
        }
        let worker = leaf.and_then(|leaf| leaf.node_subject().ok()).is_some_and(|subject| subject.role == Role::Worker);
        if let Some(request) = &mut self.request
            && unknown_authority
            && worker
            && self.held.is_some()
            && !request.root_fetched
        {
            request.root_fetched = true;
            request.stage = Stage::Root;
            out.push(Effect::FetchRoot { peer: request.peer.clone() });
            return;
        }
        self.attempt_failed(now, JoinError::Certificate(text), out);
    }

    /// A root that came unverified: good only if the certificate we hold verifies against it (pki.md 8.4).
    pub(crate) fn root_for_unknown_authority(
        &mut self,
        now: Time,
        result: Result<Vec<u8>, Failure>,
        out: &mut Vec<Effect>,
    ) {
        let checked = result.map_err(|failure| failure.text).and_then(|pem| self.acceptable_trust(now, &pem));
        match checked {
            Ok(bundle) => {
                if let Some(request) = &mut self.request {
                    request.pending_trust = Some(bundle.clone());
                }
                out.push(Effect::SaveTrust(bundle));
            }
            Err(text) => self.attempt_failed(
                now,
                JoinError::Certificate(format!("certificate signed by unknown authority; {text}")),
                out,
            ),
        }
    }

    /// Parses a trust bundle and checks that the certificate we hold verifies against it (pki.md 8.5).
    pub(crate) fn acceptable_trust(&self, now: Time, pem: &[u8]) -> Result<TrustBundle, String> {
        let at = self.effective(now);
        let bundle = parse_trust(pem, at)?;
        let held = self.held.as_ref().ok_or("no certificate held")?;
        pki::chain::validate(held.pem().as_bytes(), &bundle, true, at)
            .map_err(|error| format!("new root CA does not match existing TLS credentials: {error}"))?;
        Ok(bundle)
    }

    fn fetch_unlock_key(&mut self, out: &mut Vec<Effect>) {
        let Some(trust) = self.trust.clone() else { return };
        let Some(request) = &mut self.request else { return };
        let Some(candidate) = &request.candidate else { return };
        request.stage = Stage::Unlocking;
        request.unlock_tries += 1;
        out.push(Effect::FetchUnlockKey {
            request: request.number,
            peer: request.peer.clone(),
            chain: candidate.chain.clone(),
            trust,
        });
    }

    pub(crate) fn unlocked(&mut self, now: Time, number: u64, result: Result<(), Failure>, out: &mut Vec<Effect>) {
        if !self.current(number, Stage::Unlocking) {
            return;
        }
        let tries = self.request.as_ref().map_or(0, |request| request.unlock_tries);
        match result {
            Ok(()) => self.install(now, out),
            Err(_) if tries < ATTEMPTS_MAX => self.fetch_unlock_key(out),
            Err(failure) => {
                let error = JoinError::NotIssued(format!("the unlock key could not be fetched: {}", failure.text));
                self.request_failed(now, &error, out);
            }
        }
    }

    fn install(&mut self, now: Time, out: &mut Vec<Effect>) {
        let at = self.effective(now);
        let Some(request) = &mut self.request else { return };
        let Some(candidate) = &request.candidate else { return };
        request.stage = Stage::Installing;
        out.push(Effect::Install {
            request: request.number,
            chain: candidate.chain.clone(),
            role: candidate.subject.role,
            at,
        });
    }

    pub(crate) fn installed(&mut self, now: Time, number: u64, result: Result<(), Failure>, out: &mut Vec<Effect>) {
        if !self.current(number, Stage::Installing) {
            return;
        }
        let candidate = self.request.as_mut().and_then(|request| request.candidate.take());
        match (result, candidate) {
            (Ok(()), Some(held)) => {
                let peer = self.request.take().map(|request| request.peer);
                out.push(Effect::Forget { request: number });
                self.took(now, held, peer, out);
            }
            (Ok(()), None) => {}
            (Err(failure), _) => self.request_failed(now, &JoinError::Keystore(failure.text), out),
        }
    }

    /// A new certificate is in place.
    fn took(&mut self, now: Time, held: Held, peer: Option<Peer>, out: &mut Vec<Effect>) {
        let role = held.subject.role;
        let begin = held.chain.first().map(Certificate::not_before);
        let before = self.held.replace(held);
        if let Some(begin) = begin {
            self.estimate_clock(ClockOffset::estimated(begin.saturating_add(LEAF_BACKDATE), now));
            self.raise_floor(begin, out);
        }
        self.clock_doubt = None;
        self.status.installed += 1;
        match before {
            None => {
                self.joining = None;
                self.session.desired_seen = Some(role);
                // Until the first session tells: a node that dies now must know whom to ask when it comes back.
                if self.managers.learn(peer.map(|peer| (peer, super::managers::GOOD))) {
                    out.push(Effect::SaveManagers(self.managers.list()));
                }
                out.push(Effect::Joined);
            }
            Some(before) => {
                if before.subject.role != role {
                    out.push(Effect::RoleChanged(role));
                }
                self.renewed(now, role, out);
            }
        }
    }

    /// An attempt failed: the next, or the end of the request.
    pub(crate) fn attempt_failed(&mut self, now: Time, error: JoinError, out: &mut Vec<Effect>) {
        let joining = self.held.is_none();
        let Some(peer) = self.request.as_ref().map(|request| request.peer.clone()) else {
            return;
        };
        let final_for_join = matches!(error, JoinError::Fips | JoinError::Clock { .. });
        if joining && final_for_join {
            return self.join_failed(now, error, out);
        }
        let other = self.other_peer(&peer);
        let round = u32::try_from(self.addrs.len().max(1)).unwrap_or(u32::MAX);
        let most = if joining { ATTEMPTS_MAX.saturating_mul(round) } else { ATTEMPTS_MAX };
        let Some(request) = &mut self.request else { return };
        if request.attempt >= most {
            return self.request_failed(now, &error, out);
        }
        let pause = joining && request.attempt % round == 0;
        request.attempt += 1;
        request.peer = other;
        if pause {
            request.stage = Stage::Pause;
            out.push(Effect::Start(Timer::Attempt, JOIN_PAUSE));
        } else {
            self.send_issue(out);
        }
        self.trouble(now, error.to_string(), error.hint(), Retry::Later);
    }

    /// A request is over without a certificate.
    pub(crate) fn request_failed(&mut self, now: Time, error: &JoinError, out: &mut Vec<Effect>) {
        let Some(request) = self.request.take() else { return };
        out.push(Effect::Stop(Timer::Poll));
        out.push(Effect::Forget { request: request.number });
        if self.held.is_none() {
            return self.join_failed(now, error.clone(), out);
        }
        self.trouble(now, error.to_string(), error.hint(), Retry::Later);
        self.renewal_failed(now, out);
    }

    /// The root that a request waited for is saved: ask again, with the same key.
    pub(crate) fn request_trust_saved(&mut self, now: Time, result: Result<(), Failure>, out: &mut Vec<Effect>) {
        let Some(request) = &mut self.request else { return };
        match (result, request.pending_trust.take()) {
            (Ok(()), Some(bundle)) => {
                self.trust = Some(bundle);
                self.send_issue(out);
                self.bounce_if_changed(out);
            }
            (Ok(()), None) => {}
            (Err(failure), _) => self.request_failed(now, &JoinError::Keystore(failure.text), out),
        }
    }
}
