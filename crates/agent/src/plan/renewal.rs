//! When to renew (pki.md 8).
//!
//! - Due at a point between 50 and 80 % of what was left when the leaf came, by its serial.
//! - A trigger (role wanted, rotation order) acts a moment later, also during a backoff; one is remembered during a request.
//! - A renewal that brings another role than the expected one counts as failed.

use std::time::Duration;

use pki::identity::Role;
use pki::renewal::{FORCED_RENEWAL_PAUSE, RENEWAL_BACKOFF};
use pki::time::Time;

use super::Plan;
use super::io::{Effect, Timer};

/// How often the clock is looked at while a renewal is far away: it may have been set, or the machine slept. Ours.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// What the timer for the next renewal waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Wait {
    /// The time in the plan.
    #[default]
    Due,
    /// The pause after a trigger.
    Trigger,
    /// The backoff.
    Retry,
}

/// The renewal's own state.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    failures: u32,
    expected: Option<Role>,
    triggered: bool,
    wait: Wait,
}

impl Plan {
    pub(crate) fn run(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.running || self.held.is_none() {
            return;
        }
        self.running = true;
        self.open_session(out);
        self.arm(now, out);
    }

    /// Starts the timer for what comes first. Source of the order: wire.md 6.4, pki.md 8.1.
    fn arm(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.request.is_some() || !self.running {
            return;
        }
        let at = self.effective(now);
        let Some(held) = &self.held else { return };
        let (wait, delay) = if self.renewal.triggered {
            (Wait::Trigger, FORCED_RENEWAL_PAUSE)
        } else if self.renewal.failures > 0 {
            let (base, factor, max) = RENEWAL_BACKOFF;
            let bound = pki::renewal::backoff_bound(base, factor, max, self.renewal.failures);
            (Wait::Retry, self.chance.delay(bound))
        } else {
            (Wait::Due, held.renew_at.since(at).min(LOOK_AGAIN))
        };
        self.renewal.wait = wait;
        out.push(Effect::Start(Timer::Renew, delay));
    }

    pub(crate) fn renew_timer(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.request.is_some() {
            return;
        }
        let due = self.held.as_ref().is_some_and(|held| held.renew_at <= self.effective(now));
        if self.renewal.wait == Wait::Due && !due {
            return self.arm(now, out);
        }
        self.renewal.triggered = false;
        self.renewal.wait = Wait::Due;
        self.begin_request(out);
        if self.request.is_none() {
            // No manager is known: count it, and look again later.
            self.renewal_failed(now, out);
        }
    }

    /// Remembers one order to renew, and acts on it in a moment.
    pub(crate) fn trigger(&mut self, now: Time, expected: Option<Role>, out: &mut Vec<Effect>) {
        if expected.is_some() {
            self.renewal.expected = expected;
        }
        self.renewal.triggered = true;
        self.arm(now, out);
    }

    pub(crate) fn renew_now(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.renewal.triggered = true;
        if self.request.is_none() && self.held.is_some() {
            self.renewal.wait = Wait::Trigger;
            out.push(Effect::Stop(Timer::Renew));
            self.renew_timer(now, out);
        }
    }

    /// A renewal brought a certificate of this role.
    pub(crate) fn renewed(&mut self, now: Time, role: Role, out: &mut Vec<Effect>) {
        match self.renewal.expected {
            Some(expected) if expected != role => self.renewal.failures += 1,
            _ => {
                self.renewal.expected = None;
                self.renewal.failures = 0;
                if self.session.open().is_some() {
                    self.status.last_error = None;
                }
            }
        }
        self.bounce_if_changed(out);
        self.arm(now, out);
    }

    pub(crate) fn renewal_failed(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.renewal.failures = self.renewal.failures.saturating_add(1);
        self.arm(now, out);
    }

    pub(crate) const fn renewal_is_well(&self) -> bool {
        self.renewal.failures == 0
    }
}
