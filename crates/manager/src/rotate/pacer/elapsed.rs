//! Time as it passes here. A clock that is set back would have everything wait again that was waited for already.

use pki::time::Time;

/// A scale of its own that begins where the clock was first looked at, and never goes back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Elapsed {
    /// What the clock said last.
    said: Option<Time>,
    /// The moment that was.
    moment: Time,
}

impl Elapsed {
    /// Looks at the clock: which moment it is.
    pub(super) fn pass(&mut self, now: Time) -> Time {
        self.moment = self.at(now);
        self.said = Some(now);
        self.moment
    }

    /// The moment at which the clock says `now`.
    pub(super) fn at(&self, now: Time) -> Time {
        self.said.map_or(now, |said| self.moment.saturating_add(now.since(said)))
    }

    /// What the clock says at a moment, if nobody sets it.
    pub(super) fn shown(&self, moment: Time) -> Time {
        let said = self.said.unwrap_or(moment);
        said.saturating_add(moment.since(self.moment)).saturating_sub(self.moment.since(moment))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_that_passed_does_not_come_again() {
        let at = |secs: i64| Time::from_unix_secs(1_000 + secs);
        let mut time = Elapsed::default();
        assert_eq!(time.pass(at(0)), at(0));
        assert_eq!(time.pass(at(10)), at(10));
        assert_eq!(time.shown(at(15)), at(15));
        assert_eq!(time.pass(at(-600)), at(10), "set back");
        assert_eq!(time.at(at(-595)), at(15));
        assert_eq!(time.shown(at(15)), at(-595));
        assert_eq!(time.shown(at(4)), at(-606));
        assert_eq!(time.pass(at(-595)), at(10).saturating_add(Duration::from_secs(5)));
    }
}
