//! A machine: the product's node machine, its disk, and the hands that carry out its effects.
//!
//! What is on disk survives a crash; what was under way does not. A crash in the middle of a write leaves the old or the new.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pki::bundle::TrustBundle;
use pki::certificate::Certificate;
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::time::Time;
use swarmpki::Phase;
use swarmpki::plan::{Caller, Effect, Failure, FailureKind, Input, Peer, Plan, Start, Timer};

use crate::chance::Chance;
use crate::packet::{Call, ConnId, Identity, Who};
use crate::signer::Key;

/// What a machine keeps.
#[derive(Clone, Default)]
pub struct Disk {
    /// The trust bundle.
    pub trust: Option<TrustBundle>,
    /// The pair, and when it was received.
    pub pair: Option<(Vec<Certificate>, Arc<Key>, Time)>,
    managers: Vec<Peer>,
    floor: Time,
}

/// A request's key and connection.
struct Asking {
    number: u64,
    key: Arc<Key>,
    csr: Vec<u8>,
    conn: Option<ConnId>,
}

/// What a machine asks of the world.
pub enum Act {
    /// Send a call; on a new connection if `dial` is there.
    Send {
        /// On which connection.
        conn: ConnId,
        /// As whom, if it is a new one.
        dial: Option<Who>,
        /// To which manager, if it is a new one.
        to: String,
        /// The call.
        call: Call,
    },
    /// Close a connection.
    Close(ConnId),
    /// Start a timer under this number; an earlier one of the same kind is void.
    Start(Timer, u64, Duration),
    /// The machine crashed in the middle of a write.
    Crashed,
    /// The join has failed for good: the operator tries again.
    JoinFailed(String),
}

/// A machine.
pub struct Machine {
    /// Its place in the world, and its host name.
    pub index: usize,
    /// What it keeps.
    pub disk: Disk,
    /// Counts its lives.
    pub boot: u32,
    /// How far its clock is off, in milliseconds.
    pub offset_ms: i64,
    /// The join token its operator uses.
    pub token: Arc<str>,
    /// While it runs.
    pub plan: Option<Plan>,
    /// The identity in use.
    pub live: Option<Identity>,
    /// Counts the identities that it had in use: two of the same number are the same.
    pub version: u64,
    /// The ids it ever had.
    pub ids: Vec<NodeId>,
    /// The last failure of its join, for messages.
    pub trouble: String,
    timers: BTreeMap<Timer, u64>,
    stamp: u64,
    asking: Option<Asking>,
    session: Option<(u64, ConnId)>,
}

/// What carrying out effects needs from the world.
pub struct Hands<'a> {
    /// The run's chance.
    pub chance: &'a mut Chance,
    /// The next connection's number.
    pub conns: &'a mut ConnId,
    /// How often in a thousand a write is cut off by a crash, and as often fails.
    pub torn: u64,
}

impl Machine {
    /// A machine that is off, with an empty disk.
    pub fn new(index: usize, offset_ms: i64) -> Self {
        Self {
            index,
            disk: Disk::default(),
            boot: 0,
            offset_ms,
            token: Arc::from(""),
            plan: None,
            live: None,
            version: 0,
            ids: Vec::new(),
            trouble: String::new(),
            timers: BTreeMap::new(),
            stamp: 0,
            asking: None,
            session: None,
        }
    }

    /// Its clock.
    pub fn clock(&self, now: Time) -> Time {
        Time::from_unix_millis(now.unix_millis() + self.offset_ms)
    }

    /// The node's id, once it has one.
    pub fn id(&self) -> Option<NodeId> {
        let (chain, _, _) = self.disk.pair.as_ref()?;
        chain.first()?.node_subject().ok().map(|subject| subject.node)
    }

    /// What its certificate says that it is.
    pub fn role(&self) -> Option<Role> {
        self.live.as_ref()?.chain.first()?.node_subject().ok().map(|subject| subject.role)
    }

    /// Whether it has stopped because it was removed.
    pub fn says_removed(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.status().phase == Phase::Removed)
    }

    /// The power goes.
    pub fn crash(&mut self) {
        self.plan = None;
        self.live = None;
        self.version += 1;
        self.timers.clear();
        self.asking = None;
        self.session = None;
        self.boot += 1;
    }

    /// It starts from what is on its disk.
    ///
    /// # Errors
    /// If the disk does not hold: that must never be.
    pub fn start(&mut self, now: Time, hands: &mut Hands<'_>, managers: &[String]) -> Result<Vec<Act>, String> {
        self.boot += 1;
        if self.disk.pair.is_none() {
            // The operator joins anew: nothing is left of a join before.
            self.disk = Disk::default();
        }
        let token = match (&self.disk.pair, &*self.token) {
            (Some(_), _) | (None, "") => None,
            (None, text) => {
                let token: pki::join_token::JoinToken = text.parse().map_err(|_| "a token does not parse")?;
                Some((token.digest(), token.fips()))
            }
        };
        let pem = |chain: &[Certificate]| pki::certificate::encode_pem(chain).into_bytes();
        let start = Start {
            known: self.disk.managers.clone(),
            addrs: managers.to_vec(),
            trust: self.disk.trust.clone(),
            pair: self.disk.pair.as_ref().map(|(chain, _, received)| (pem(chain), *received)),
            token,
            fips: false,
            floor: self.disk.floor,
        };
        let seed = hands.chance.draw();
        let plan = Plan::new(start, self.clock(now), seed).map_err(|error| error.to_string())?;
        self.plan = Some(plan);
        self.publish();
        let first = if self.disk.pair.is_some() { Input::Run } else { Input::Join };
        Ok(self.feed(now, first, hands))
    }

    /// Whether a timer of this number still runs; then it has run out now.
    pub fn ran_out(&mut self, timer: Timer, stamp: u64) -> bool {
        let runs = self.timers.get(&timer) == Some(&stamp);
        if runs {
            self.timers.remove(&timer);
        }
        runs
    }

    /// Tells the machine something, and carries out what follows.
    pub fn feed(&mut self, now: Time, input: Input, hands: &mut Hands<'_>) -> Vec<Act> {
        let mut acts = Vec::new();
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let clock = self.clock(now);
            let Some(plan) = &mut self.plan else { break };
            let effects = plan.step(clock, input);
            for effect in effects {
                match self.perform(clock, effect, hands, &mut acts) {
                    Ok(answer) => inputs.extend(answer),
                    Err(Torn) => {
                        acts.push(Act::Crashed);
                        return acts;
                    }
                }
            }
        }
        acts
    }

    fn perform(
        &mut self,
        clock: Time,
        effect: Effect,
        hands: &mut Hands<'_>,
        acts: &mut Vec<Act>,
    ) -> Result<Option<Input>, Torn> {
        match effect {
            Effect::Start(timer, delay) => {
                self.stamp += 1;
                self.timers.insert(timer, self.stamp);
                acts.push(Act::Start(timer, self.stamp, delay));
            }
            Effect::Stop(timer) => drop(self.timers.remove(&timer)),
            Effect::FetchRoot { peer } => acts.push(dial(hands, peer, Who::Stranger, Call::Root)),
            Effect::AskClockUnverified { peer } => {
                acts.push(dial(hands, peer, Who::Stranger, Call::Clock { verified: false, asked: clock }));
            }
            Effect::SaveTrust(bundle) => {
                let result = self.write(hands, |disk| disk.trust = Some(bundle))?;
                if result.is_ok() {
                    self.publish();
                }
                return Ok(Some(Input::TrustSaved(result)));
            }
            Effect::Issue { request, caller, peer } => {
                if let Err(text) = self.asking(request, hands) {
                    let failure = Failure::new(FailureKind::Local, text);
                    return Ok(Some(Input::Issued { request, result: Err(failure) }));
                }
                let (who, token) = self.who(caller);
                if let (Some(asking), Some(who)) = (&mut self.asking, who) {
                    *hands.conns += 1;
                    acts.extend(asking.conn.replace(*hands.conns).map(Act::Close));
                    let call = Call::Issue { request, csr: asking.csr.clone(), token };
                    acts.push(Act::Send { conn: *hands.conns, dial: Some(who), to: peer.addr, call });
                }
            }
            Effect::Poll { request, caller, node, peer } => {
                let (who, _) = self.who(caller);
                let Some(asking) = self.asking.as_mut().filter(|asking| asking.number == request) else {
                    return Ok(None);
                };
                let call = Call::Status { request, node };
                // The connection of the last call if it stands, else a new one.
                if let Some(conn) = asking.conn {
                    acts.push(Act::Send { conn, dial: None, to: String::new(), call });
                } else {
                    *hands.conns += 1;
                    asking.conn = Some(*hands.conns);
                    acts.push(Act::Send { conn: *hands.conns, dial: who, to: peer.addr, call });
                }
            }
            Effect::FetchUnlockKey { request, chain, trust, peer } => {
                if let Some(asking) = &self.asking {
                    let identity = Identity { chain, key: Arc::clone(&asking.key), trust };
                    acts.push(dial(hands, peer, Who::Node(identity), Call::UnlockKey { request }));
                }
            }
            Effect::Install { request, chain, at, .. } => return self.install(request, chain, at, hands).map(Some),
            Effect::Forget { request } => {
                if let Some(asking) = self.asking.take_if(|asking| asking.number == request) {
                    acts.extend(asking.conn.map(Act::Close));
                }
            }
            Effect::OpenSession { session, session_id, tls, peer } => {
                let hostname = format!("machine-{}", self.index);
                let call = Call::Session { session, session_id, tls, hostname };
                let Some(identity) = self.live.clone() else { return Ok(None) };
                *hands.conns += 1;
                let before = self.session.replace((session, *hands.conns));
                acts.extend(before.map(|(_, conn)| Act::Close(conn)));
                let dial = Some(Who::Node(identity));
                acts.push(Act::Send { conn: *hands.conns, dial, to: peer.addr, call });
            }
            Effect::CloseSession { session } => {
                acts.extend(self.session.take_if(|(number, _)| *number == session).map(|(_, conn)| Act::Close(conn)));
            }
            Effect::Beat { session, session_id } => self.ask(session, Call::Beat { session, session_id }, acts),
            Effect::AskClock { session } => self.ask(session, Call::Clock { verified: true, asked: clock }, acts),
            Effect::SaveManagers(managers) => drop(self.write(hands, |disk| disk.managers = managers)?),
            Effect::SaveFloor(floor) => drop(self.write(hands, |disk| disk.floor = floor)?),
            Effect::Joined => return Ok(Some(Input::Run)),
            Effect::JoinFailed(error) => {
                self.trouble = error.to_string();
                acts.push(Act::JoinFailed(error.to_string()));
            }
            Effect::Removed { text } => self.trouble = text,
            Effect::RoleWanted(_) | Effect::RoleChanged(_) => {}
        }
        Ok(None)
    }

    fn ask(&self, session: u64, call: Call, acts: &mut Vec<Act>) {
        if let Some((_, conn)) = self.session.filter(|(number, _)| *number == session) {
            acts.push(Act::Send { conn, dial: None, to: String::new(), call });
        }
    }

    fn install(
        &mut self,
        request: u64,
        chain: Vec<Certificate>,
        at: Time,
        hands: &mut Hands<'_>,
    ) -> Result<Input, Torn> {
        let Some(asking) = self.asking.as_ref().filter(|asking| asking.number == request) else {
            let failure = Failure::new(FailureKind::Local, "the request's key is gone");
            return Ok(Input::Installed { request, result: Err(failure) });
        };
        let key = Arc::clone(&asking.key);
        let result = self.write(hands, |disk| disk.pair = Some((chain, key, at)))?;
        if result.is_ok() {
            self.publish();
            self.ids.extend(self.id().filter(|id| !self.ids.contains(id)));
        }
        Ok(Input::Installed { request, result })
    }

    /// Writes to disk: whole, or not at all.
    fn write(&mut self, hands: &mut Hands<'_>, write: impl FnOnce(&mut Disk)) -> Result<Result<(), Failure>, Torn> {
        if hands.chance.in_thousand(hands.torn) {
            if hands.chance.in_thousand(500) {
                write(&mut self.disk);
                self.ids.extend(self.id().filter(|id| !self.ids.contains(id)));
            }
            return Err(Torn);
        }
        if hands.chance.in_thousand(hands.torn) {
            return Ok(Err(Failure::new(FailureKind::Local, "no space left on device")));
        }
        write(&mut self.disk);
        Ok(Ok(()))
    }

    fn publish(&mut self) {
        if let (Some(trust), Some((chain, key, _))) = (&self.disk.trust, &self.disk.pair) {
            self.live = Some(Identity { chain: chain.clone(), key: Arc::clone(key), trust: trust.clone() });
            self.version += 1;
        }
    }

    fn asking(&mut self, number: u64, hands: &mut Hands<'_>) -> Result<(), String> {
        if self.asking.as_ref().is_some_and(|asking| asking.number == number) {
            return Ok(());
        }
        let key = Arc::new(Key::draw(hands.chance));
        let csr = pki::csr::request(key.as_ref()).map_err(|error| error.to_string())?.into_bytes();
        self.asking = Some(Asking { number, key, csr, conn: None });
        Ok(())
    }

    fn who(&self, caller: Caller) -> (Option<Who>, Arc<str>) {
        match caller {
            Caller::Joiner(trust) => (Some(Who::Joiner(trust)), Arc::clone(&self.token)),
            Caller::Node => (self.live.clone().map(Who::Node), Arc::from("")),
        }
    }

    /// The connection broke under a call: the next call makes a new one.
    pub fn broke(&mut self, conn: ConnId) {
        if let Some(asking) = &mut self.asking
            && asking.conn == Some(conn)
        {
            asking.conn = None;
        }
    }

    /// Whether this is the number of its session of now.
    pub fn is_session(&self, number: u64) -> bool {
        self.session.is_some_and(|(session, _)| session == number)
    }

    /// Whether the root that it holds is this one.
    pub fn trusts(&self, digest: &Digest) -> bool {
        self.disk.trust.as_ref().is_some_and(|trust| trust.digest() == *digest)
    }
}

/// A write was cut off.
struct Torn;

fn dial(hands: &mut Hands<'_>, peer: Peer, who: Who, call: Call) -> Act {
    *hands.conns += 1;
    Act::Send { conn: *hands.conns, dial: Some(who), to: peer.addr, call }
}
