//! Joining: the root by its digest, then a certificate (wire.md 5).
//!
//! - A root that is on disk already is kept, if its digest is the token's.
//! - A wrong digest ends the join at once: somebody stands in between, or the token is of another cluster.
//! - Addresses are tried in order; after a whole round there is a pause. Five rounds, then the join has failed.

use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::digest::Digest;
use pki::issue::ROOT_BACKDATE;
use pki::time::Time;

use super::Plan;
use super::io::{Effect, Failure, FailureKind, Peer, Timer};
use super::request::{ATTEMPTS_MAX, JOIN_PAUSE, Stage, parse_trust};
use crate::clock::ClockOffset;
use crate::error::JoinError;

/// What a join holds besides its request.
pub(crate) struct Joining {
    digest: Digest,
    fips: bool,
    /// How many downloads were tried.
    tries: usize,
    /// The bundle that is being saved.
    pending: Option<TrustBundle>,
}

impl Joining {
    pub(crate) const fn new(digest: Digest, fips: bool) -> Self {
        Joining { digest, fips, tries: 0, pending: None }
    }
}

impl Plan {
    pub(crate) fn join(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Some(joining) = &self.joining else {
            // There is a pair already: nothing to do (conformance 345).
            out.push(Effect::Joined);
            return;
        };
        if joining.fips && !self.fips {
            return self.join_failed(now, JoinError::Fips, out);
        }
        if self.addrs.is_empty() {
            return self.join_failed(now, JoinError::NoAddress, out);
        }
        match &self.trust {
            Some(trust) if trust.digest() != joining.digest => {
                let error = JoinError::RootMismatch {
                    token: joining.digest,
                    presented: trust.digest(),
                    source_of: "swarm-root-ca.crt, left by an earlier join; remove it to join another cluster"
                        .to_owned(),
                };
                self.join_failed(now, error, out);
            }
            Some(_) => self.begin_request(out),
            None => self.fetch_root(out),
        }
    }

    /// The address for the n-th try.
    pub(crate) fn join_addr(&self, tries: usize) -> Option<Peer> {
        let count = self.addrs.len().max(1);
        self.addrs.get(tries % count).cloned().map(Peer::at)
    }

    fn fetch_root(&mut self, out: &mut Vec<Effect>) {
        let tries = self.joining.as_ref().map_or(0, |joining| joining.tries);
        if let Some(peer) = self.join_addr(tries) {
            out.push(Effect::FetchRoot { peer });
        }
    }

    /// A root came, or did not: of a join, or because of an unknown authority.
    pub(crate) fn root(&mut self, now: Time, result: Result<Vec<u8>, Failure>, out: &mut Vec<Effect>) {
        if let Some(request) = &self.request {
            if request.stage == Stage::Root {
                return self.root_for_unknown_authority(now, result, out);
            }
            return;
        }
        let addr = {
            let tries = self.joining.as_ref().map_or(0, |joining| joining.tries);
            self.join_addr(tries).map(|peer| peer.addr).unwrap_or_default()
        };
        let at = self.effective(now);
        let Some(joining) = &mut self.joining else { return };
        match result {
            Ok(pem) => {
                let presented = Digest::of(&pem);
                if presented != joining.digest {
                    let error = JoinError::RootMismatch { token: joining.digest, presented, source_of: addr };
                    return self.join_failed(now, error, out);
                }
                match parse_trust(&pem, at) {
                    Ok(bundle) => {
                        joining.pending = Some(bundle.clone());
                        out.push(Effect::SaveTrust(bundle));
                    }
                    Err(error) => self.join_failed(now, root_refused(&pem, now, at, error), out),
                }
            }
            Err(failure) => {
                let round = self.addrs.len().max(1);
                let tries = joining.tries + 1;
                if self.is_last_try() {
                    let error = self.unreachable(&failure);
                    return self.join_failed(now, error, out);
                }
                self.trouble(now, failure.text.clone(), self.unreachable(&failure).hint(), crate::error::Retry::Later);
                if tries % round == 0 {
                    out.push(Effect::Start(Timer::Attempt, JOIN_PAUSE));
                } else {
                    self.fetch_root(out);
                }
            }
        }
    }

    /// Counts a try that came to nothing; whether it was the last.
    pub(crate) fn is_last_try(&mut self) -> bool {
        let most = self.addrs.len().max(1) * ATTEMPTS_MAX as usize;
        self.joining.as_mut().is_some_and(|joining| {
            joining.tries += 1;
            joining.tries >= most
        })
    }

    /// The pause between two rounds is over.
    pub(crate) fn attempt_due(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.request.is_some() {
            self.attempt_again(now, out);
        } else if self.joining.is_some() {
            self.fetch_root(out);
        }
    }

    /// Of a join: takes the saved bundle and goes on to the certificate.
    pub(crate) fn join_trust_saved(&mut self, now: Time, result: Result<(), Failure>, out: &mut Vec<Effect>) {
        let pending = self.joining.as_mut().and_then(|joining| joining.pending.take());
        match (result, pending) {
            (Ok(()), Some(bundle)) => {
                self.trust = Some(bundle);
                self.begin_request(out);
            }
            (Ok(()), None) => {}
            (Err(failure), _) => self.join_failed(now, JoinError::Keystore(failure.text), out),
        }
    }

    pub(crate) fn unreachable(&self, failure: &Failure) -> JoinError {
        if failure.kind == FailureKind::TlsTime
            && let Some(offset) = self.status.clock_offset.filter(|offset| offset.is_notable())
        {
            return JoinError::Clock { offset, text: failure.text.clone() };
        }
        JoinError::NoManager { tried: self.addrs.clone(), last: failure.text.clone() }
    }
}

/// A root that begins in the future says that this machine's clock is behind, by this much at least: it was made before.
fn root_refused(pem: &[u8], now: Time, at: Time, text: String) -> JoinError {
    let roots = Certificate::parse_pem_bundle(pem).unwrap_or_default();
    let begin = roots.iter().map(Certificate::not_before).max().filter(|begin| *begin > at);
    match begin.and_then(|begin| ClockOffset::estimated(begin.saturating_add(ROOT_BACKDATE), now)) {
        Some(offset) => JoinError::Clock { offset, text },
        None => JoinError::Root(text),
    }
}
