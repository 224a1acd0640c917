//! A node opens a session: its registration, and what is to be written down of what it says.

use cluster::command::Reported;
use cluster::node::IssuerHash;
use cluster::{Command, State};
use pki::identity::NodeId;
use pki::time::Time;
use wire::status::Refusal;

use super::{NodeClock, Sessions};

/// What a node asks for, once it is authorized.
#[derive(Debug)]
pub struct Opening {
    /// Who.
    pub node: NodeId,
    /// The session id it sent: that of the session before, or nothing.
    pub previous: String,
    /// The id it gets if it gets a new one.
    pub fresh: String,
    /// Whether it may only come back.
    pub returning: bool,
    /// Who issued the leaf that its connection was made with; none for a forwarded call.
    pub issuer: Option<IssuerHash>,
    /// What it says of itself, [taken apart](crate::report::split).
    pub reported: Reported,
    /// Its clock, if it tells.
    pub clock: Option<NodeClock>,
}

/// A session was accepted. Its stream is opened once `report` is committed.
#[derive(Debug)]
pub struct Opened {
    /// The session's id.
    pub session: String,
    /// Whether it is the one that the node had before.
    pub resumed: bool,
    /// What to propose first: what the node says of itself, if that is new or the node was down.
    pub report: Option<Command>,
}

impl Sessions {
    /// Opens a session.
    ///
    /// # Errors
    /// [`Refusal::SessionNodeMissing`] without a record; [`Refusal::RateLimited`] if the node registers too often, or says
    /// something new of itself too often.
    pub fn open(&mut self, now: Time, state: &State, opening: Opening) -> Result<Opened, Refusal> {
        let Opening { node, previous, fresh, returning, issuer, reported, clock } = opening;
        let record = state.node(&node).ok_or(Refusal::SessionNodeMissing)?;
        let period = state.settings.heartbeat_period();
        let registered = self.register(now, &node, &previous, fresh, period, returning)?;
        if let Some(row) = self.rows.get_mut(&node) {
            row.issuer = issuer;
        }
        if let Some(clock) = clock {
            self.note_clock(&node, clock);
        }
        let news = record.report.as_deref() != Some(&reported.report) || record.down;
        if news {
            self.count_report(now, &node)?;
        }
        let report = news.then(|| Command::Report(Box::new(reported)));
        Ok(Opened { session: registered.session, resumed: registered.resumed, report })
    }
}
