//! The manager's hands: connections, streams and the wait for the log, with packets instead of sockets and tasks. Whatever
//! decides is the product's: requests for certificates go through [`Issuing`], sessions through [`Sessions`] and
//! [`Telling`], changes of state through [`Change`], and the log is the replica's model.

mod lead;
mod several;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster::authorize::{Caller, Grant, Method, Presented, Standing};
use cluster::node::{Availability, IssuerHash};
use cluster::{Command, Outcome, State};
use manager::change::Change;
use manager::collect;
use manager::issue::{self, Begun, Draw, Fetched, Issued, Issuing, Judged, Signing, refused};
use manager::message::{Next, Telling};
use manager::refusal;
use manager::report;
use manager::roster::{Absent, Roster};
use manager::rotate::Pacer;
use manager::rotate::look;
use manager::server::Peer;
use manager::sessions::{Effect, Input as Told, Opening, Sessions};
use pki::identity::{NodeId, random_id};
use pki::time::Time;
use replica::ProposeError;
use replica::model::ModelLog;
use swarmpki::plan::{Accepted, Answer, Failure, FailureKind, Input};
use wire::status::{Refusal, Unauthorized};

use crate::chance::Chance;
use crate::handshake::{Known, judge_client, judge_manager};
use crate::ledger::{Ledger, Log};
use crate::packet::{Call, ConnId, Identity, Packet, Who};
use crate::signer::Key;
use several::Enlisting;

/// When to ask again whoever cannot know now whether what it knows is old. Source: manager::shared.
const UNSURE_RETRY: Duration = Duration::from_millis(500);

/// What the manager has to say to a machine.
pub struct Tell {
    /// On which connection.
    pub conn: ConnId,
    /// Which machine.
    pub machine: usize,
    /// Which of its lives.
    pub boot: u32,
    /// What.
    pub input: Input,
}

/// Rules that a manager can be made to break, to see that the simulator notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// Nodes are given the new root as soon as they have renewed, while others have not.
    RootBeforeRenewal,
    /// Leaves are sent without what leads to the old root.
    NoLadder,
    /// Who comes with a leaf of another root than the manager's own is not let in.
    OwnRootOnly,
    /// Managers that do not lead call nodes down too.
    DownByAnybody,
    /// A node that is in session with one manager stays with it, whomever it comes to.
    OlderSessionWins,
    /// A leaf that is not known here is called forged at once.
    AlarmAtOnce,
    /// A manager that hears nobody goes on having sessions.
    AdmitsCutOff,
    /// What was perhaps proposed is said again, and whoever is refused then is told so, although the first one was taken.
    NoAlready,
}

/// The manager.
pub struct Manager<L = ModelLog> {
    /// The log under it.
    pub log: L,
    /// Who is there.
    pub sessions: Sessions,
    /// Whether it runs.
    pub up: bool,
    /// What must never be.
    pub ledger: Ledger,
    /// Paths of certificates that were found.
    pub known: Known,
    /// A rule that this manager breaks.
    pub mischief: Option<Mischief>,
    /// The sessions of the others.
    pub roster: Roster,
    /// Whether it does not hear the others.
    pub cut_off: bool,
    /// Leaves that it called forged.
    pub alarms: Vec<Presented>,
    /// Machines that got a place in the group by way of this manager, each with its number.
    pub enlisted: Vec<(usize, u64)>,
    /// Nodes that it called down.
    pub called_down: Vec<NodeId>,
    /// Nodes that are called down, as the leader sees them.
    absent: Option<Absent>,
    looks: u64,
    /// The state of which everybody here knows.
    seen: Arc<State>,
    pacer: Pacer,
    /// Nodes that opened a session since the leader last looked.
    arrived: Vec<NodeId>,
    /// When the leader looks again.
    look_at: Option<Time>,
    signing: Option<Signing>,
    chance: Chance,
    conns: BTreeMap<ConnId, Conn>,
    by_node: BTreeMap<NodeId, BTreeSet<ConnId>>,
    by_machine: BTreeMap<usize, BTreeSet<ConnId>>,
    streams: BTreeMap<NodeId, Stream>,
    pending: VecDeque<Pending>,
}

struct Conn {
    machine: usize,
    boot: u32,
    peer: Arc<Peer>,
}

struct Stream {
    conn: ConnId,
    machine: usize,
    boot: u32,
    number: u64,
    telling: Telling,
    since: Time,
}

type Proposal = Pin<Box<dyn Future<Output = Result<Vec<Outcome>, ProposeError>>>>;

struct Pending {
    proposal: Proposal,
    then: Then,
}

/// What goes on once the log has answered.
enum Then {
    Issue {
        packet: Packet,
        peer: Arc<Peer>,
        issuing: Box<Issuing>,
        certificate: Vec<u8>,
    },
    /// A call is served by what is surely true.
    Serve {
        packet: Packet,
        own: Option<Identity>,
    },
    /// A machine wants a place: what is surely true of it now was read, or its place was given.
    Enlist(Enlisting),
    Session {
        packet: Packet,
        peer: Arc<Peer>,
        telling: Telling,
    },
    Advance,
    Prolong,
    Nothing,
}

impl Then {
    /// The call that breaks off if it never goes on.
    fn packet(&self) -> Option<&Packet> {
        match self {
            Self::Issue { packet, .. } | Self::Session { packet, .. } | Self::Serve { packet, .. } => Some(packet),
            Self::Enlist(_) | Self::Advance | Self::Prolong | Self::Nothing => None,
        }
    }

    fn waiting(&self) -> Option<(&Packet, &Arc<Peer>)> {
        match self {
            Self::Issue { packet, peer, .. } | Self::Session { packet, peer, .. } => Some((packet, peer)),
            Self::Serve { .. } | Self::Enlist(_) | Self::Advance | Self::Prolong | Self::Nothing => None,
        }
    }
}

impl Manager {
    /// A manager over a log whose first entry is committed.
    pub fn new(log: ModelLog, chance: Chance, now: Time) -> Self {
        let mut manager = Self::over(log, chance);
        manager.start(now);
        manager
    }

    /// The process starts.
    pub fn start(&mut self, now: Time) {
        self.log.reopen();
        self.up = true;
        self.signing = None;
        self.pacer = Pacer::new(1);
        self.arrived.clear();
        self.look_at = Some(now);
        self.ledger.started(&self.log);
        self.sessions = Sessions::default();
        let effects = self.sessions.step(now, Told::Lead(&self.state()));
        self.ledger.demand(effects.is_empty(), || "nobody is connected when a manager starts".to_owned());
    }

    /// The process dies: connections break, and what was on its way to the log is written or not.
    pub fn crash(&mut self, out: &mut Vec<Tell>) {
        self.log.crash();
        self.fall(out);
    }

    /// The log does one step; whoever waited for it goes on.
    pub fn commit(&mut self, now: Time, out: &mut Vec<Tell>) {
        let before = self.state();
        self.log.set_time(now);
        self.log.step();
        let after = self.state();
        if after.index != before.index {
            self.ledger.applied(&self.log);
        }
        // The log answers in the order in which it was asked.
        while let Some(mut first) = self.pending.pop_front() {
            match first.proposal.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(result) => self.resume(now, result, first.then, out),
                Poll::Pending => {
                    self.pending.push_front(first);
                    break;
                }
            }
        }
        if after.index != before.index {
            self.step(now, Told::Changed(&Change::between(&before, &after)), out);
            self.lead(now, &look::changed(&before, &after), out);
        }
    }
}

impl<L: Log> Manager<L> {
    /// One that is not up yet.
    fn over(log: L, chance: Chance) -> Self {
        Self {
            log,
            sessions: Sessions::default(),
            up: false,
            ledger: Ledger::new(),
            known: Known::default(),
            mischief: None,
            roster: Roster::default(),
            cut_off: false,
            alarms: Vec::new(),
            enlisted: Vec::new(),
            called_down: Vec::new(),
            absent: None,
            looks: 0,
            seen: Arc::new(State::empty()),
            pacer: Pacer::new(1),
            arrived: Vec::new(),
            look_at: None,
            signing: None,
            chance,
            conns: BTreeMap::new(),
            by_node: BTreeMap::new(),
            by_machine: BTreeMap::new(),
            streams: BTreeMap::new(),
            pending: VecDeque::new(),
        }
    }

    /// The last applied state.
    pub fn state(&self) -> Arc<State> {
        self.log.state()
    }

    /// Connections that stand.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// Connections break, and callers with them.
    pub fn fall(&mut self, out: &mut Vec<Tell>) {
        self.up = false;
        for pending in std::mem::take(&mut self.pending) {
            if let Some(packet) = pending.then.packet() {
                tell(packet, packet.call.failed(reset()), out);
            }
        }
        for stream in std::mem::take(&mut self.streams).into_values() {
            stream.end(reset(), out);
        }
        self.conns.clear();
        self.by_node.clear();
        self.by_machine.clear();
    }

    /// A call has arrived. `own` is what the manager proves itself with.
    pub fn receive(&mut self, own: Option<&Identity>, now: Time, packet: Packet, out: &mut Vec<Tell>) {
        self.serve(own, now, packet, None, out);
    }

    /// The same; `sure`: whether the state here was just read for it, if that was tried.
    fn serve(&mut self, own: Option<&Identity>, now: Time, packet: Packet, sure: Option<bool>, out: &mut Vec<Tell>) {
        let several = self.is_one_of_several();
        let peer = match self.connect(own, now, &packet, sure) {
            Ok(Some(peer)) => peer,
            Ok(None) => return self.look_up(own, packet),
            Err(failure) => return tell(&packet, packet.call.failed(failure), out),
        };
        let answer = match &packet.call {
            Call::Root => self.root().map(|root| Some(Input::Root(Ok(root)))),
            Call::Clock { verified, asked } => {
                let offset_ms = now.unix_millis() - asked.unix_millis();
                Ok(Some(Input::Clock { offset_ms, proven: verified.then_some(now) }))
            }
            Call::UnlockKey { .. } => self.unlock(now, &packet, &peer),
            Call::Issue { .. } => self.issue(now, &packet, &peer),
            Call::Status { request, node } => self.status(now, &peer, node, out).map(|answer| {
                let request = *request;
                Some(Input::Answered { request, result: Ok(answer) })
            }),
            Call::Session { session, .. } => {
                tell(&packet, Some(Input::SessionDialed { session: *session }), out);
                self.session(now, &packet, &peer, out).map(|()| None)
            }
            Call::Beat { session, session_id } => self.beat(now, &peer, session_id).map(|period| {
                let session = *session;
                Some(Input::Heartbeat { session, result: Ok(period) })
            }),
        };
        match answer {
            Ok(input) => tell(&packet, input, out),
            // What was changed by way of another manager may not have come here yet: nobody is refused for that.
            Err(refusal) if several && packet.call.looks_again(&refusal) => match sure {
                None => return self.look_up(own, packet),
                Some(false) => refuse(&packet, &Refusal::Busy { retry_after: UNSURE_RETRY }, out),
                Some(true) => refuse(&packet, &refusal, out),
            },
            Err(refusal) => refuse(&packet, &refusal, out),
        }
        if packet.call.is_alone() {
            self.close(packet.conn);
        }
    }

    /// The peer at the other end: of a new connection, or of one that stands. None: what is known here may be old, and does not tell.
    fn connect(
        &mut self,
        own: Option<&Identity>,
        now: Time,
        packet: &Packet,
        sure: Option<bool>,
    ) -> Result<Option<Arc<Peer>>, Failure> {
        if let Some(conn) = self.conns.get(&packet.conn) {
            return Ok(Some(Arc::clone(&conn.peer)));
        }
        let who = packet.dial.as_ref().ok_or_else(reset)?;
        let own = own.ok_or_else(reset)?;
        judge_manager(&self.known, who, own, packet.at)?;
        let state = self.state();
        let leaf = match who {
            Who::Node(identity) => {
                let leaf = self.judge(&state, own, identity, now)?;
                let standing = state.standing(&leaf, now);
                if standing == Standing::Unregistered && self.is_one_of_several() {
                    let at_once = self.mischief == Some(Mischief::AlarmAtOnce);
                    if sure.is_none() && !at_once {
                        return Ok(None);
                    }
                    if (sure == Some(true) || at_once) && leaf.not_after >= now {
                        self.alarms.push(leaf.clone());
                    }
                }
                Some((leaf, standing))
            }
            Who::Stranger | Who::Joiner(_) => None,
        };
        let peer = Arc::new(Peer::new(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1)), leaf));
        let conn = Conn { machine: packet.machine, boot: packet.boot, peer: Arc::clone(&peer) };
        self.by_machine.entry(packet.machine).or_default().insert(packet.conn);
        if let Some(node) = peer.node() {
            self.by_node.entry(node.clone()).or_default().insert(packet.conn);
        }
        self.conns.insert(packet.conn, conn);
        Ok(Some(peer))
    }

    /// How a client is judged, whoever it is.
    ///
    /// # Errors
    /// As the client sees it.
    pub fn judge(&self, state: &State, own: &Identity, client: &Identity, now: Time) -> Result<Presented, Failure> {
        if self.mischief == Some(Mischief::OwnRootOnly) {
            return judge_client(&self.known, &State::empty(), &own.trust, client, now);
        }
        judge_client(&self.known, state, &own.trust, client, now)
    }

    fn authorize(&mut self, peer: &Peer, method: Method, now: Time) -> Result<Grant, Refusal> {
        let state = self.state();
        let grant = state.authorize(peer.caller(), method, now).map_err(|denial| refusal(denial, &state))?;
        let known = peer.node().is_some_and(|node| state.node(node).is_some());
        self.ledger
            .demand(known || grant == Grant::Anybody, || "who is granted more than anybody has a record".to_owned());
        Ok(grant)
    }

    fn authorize_node(&mut self, peer: &Peer, method: Method, now: Time) -> Result<(NodeId, Grant), Refusal> {
        let grant = self.authorize(peer, method, now)?;
        Ok((peer.node().cloned().ok_or(Refusal::Peer(Unauthorized::NoCertificate))?, grant))
    }

    fn root(&self) -> Result<Vec<u8>, Refusal> {
        self.state().roots.served().map(|root| root.bundle.clone()).ok_or(Refusal::SignerStarting)
    }

    fn unlock(&mut self, now: Time, packet: &Packet, peer: &Arc<Peer>) -> Result<Option<Input>, Refusal> {
        self.authorize(peer, Method::GetUnlockKey, now)?;
        Ok(unlocked(packet))
    }

    fn issue(&mut self, now: Time, packet: &Packet, peer: &Arc<Peer>) -> Result<Option<Input>, Refusal> {
        let Call::Issue { csr, token, .. } = &packet.call else { return Ok(None) };
        let (csr, token) = (csr.clone(), Arc::clone(token));
        let request = issue::Request { csr, token, availability: Availability::Active, ours: true };
        let state = self.state();
        match Issuing::begin(&state, peer.caller(), request, now)? {
            Begun::Answered(issued) => Ok(accepted(packet, peer, issued)),
            Begun::Admitted(issuing) => {
                self.sign(now, &state, packet.clone(), Arc::clone(peer), issuing).map(|()| None)
            }
        }
    }

    fn sign(
        &mut self,
        now: Time,
        state: &State,
        packet: Packet,
        peer: Arc<Peer>,
        mut issuing: Box<Issuing>,
    ) -> Result<(), Refusal> {
        let draw = Draw {
            node: NodeId::generate(self.chance.bytes()),
            serial: pki::serial::Serial::from_random(self.chance.bytes()),
        };
        let command = issuing.sign(state, self.signing(state, now)?, draw, now)?;
        let certificate = match &command {
            Command::Admit(admit) => admit.letter.certificate.clone(),
            Command::Renew(renew) => renew.letter.certificate.clone(),
            _ => Vec::new(),
        };
        let mut commands = confirmation(&peer);
        commands.push(command);
        self.propose(commands, Then::Issue { packet, peer, issuing, certificate });
        Ok(())
    }

    /// Today's signer; its signatures depend on nothing but the message.
    fn signing(&mut self, state: &State, now: Time) -> Result<&Signing, Refusal> {
        let root = state.roots.signing().ok_or(Refusal::SignerStarting)?;
        let kept = self.signing.take().filter(|signing| signing.hash == root.issuer);
        let signing = match kept {
            Some(signing) => signing,
            None => {
                let key = root.key().and_then(|key| Key::from_pkcs8(key.expose()));
                let key = Arc::new(key.ok_or(Refusal::SignerStopped)?);
                Signing::with(root, key, now).map_err(|_| Refusal::SignerStopped)?
            }
        };
        Ok(self.signing.insert(signing))
    }

    fn status(&mut self, now: Time, peer: &Peer, node: &str, out: &mut Vec<Tell>) -> Result<Answer, Refusal> {
        self.authorize(peer, Method::NodeCertificateStatus, now)?;
        let Issued { node, letter } = match issue::fetch(&self.state(), peer, node)? {
            Fetched::Issued(issued) => issued,
            // The key is always here.
            Fetched::Pending(_) => return Err(Refusal::CertificateMissing),
        };
        if peer.node() == Some(&node) {
            self.step(now, Told::Fetched(&node), out);
        }
        self.ledger.answers(&letter.certificate);
        let mut sent = letter.as_ref().clone();
        if self.mischief == Some(Mischief::NoLadder) {
            sent.ladder.clear();
        }
        Ok(Answer { state: 3, err: String::new(), csr: sent.csr.clone(), chain: issue::chain_pem(&sent) })
    }

    fn session(&mut self, now: Time, packet: &Packet, peer: &Arc<Peer>, out: &mut Vec<Tell>) -> Result<(), Refusal> {
        let Call::Session { session_id, tls, hostname, .. } = &packet.call else { return Ok(()) };
        let (node, grant) = self.authorize_node(peer, Method::Session, now)?;
        self.admits()?;
        let returning = matches!(grant, Grant::Returning(_));
        let description = wire::proto::NodeDescription {
            hostname: hostname.clone(),
            tls_info: Some(wire::proto::NodeTlsInfo {
                trust_root: tls.trust_root.clone(),
                cert_issuer_subject: tls.issuer_subject.clone(),
                cert_issuer_public_key: tls.issuer_key.clone(),
            }),
            ..Default::default()
        };
        let state = self.state();
        let opening = Opening {
            node: node.clone(),
            previous: session_id.clone(),
            fresh: random_id(self.chance.bytes()),
            returning,
            issuer: issuer(peer),
            reported: report::split(&state, &node, description, "192.0.2.1"),
            clock: None,
        };
        let opened = self.sessions.open(now, &state, opening)?;
        let mut commands = confirmation(peer);
        commands.extend(opened.report);
        let telling = Telling::new(node, opened.session, returning);
        if commands.is_empty() {
            self.open(now, packet, telling, out);
        } else {
            self.propose(commands, Then::Session { packet: packet.clone(), peer: Arc::clone(peer), telling });
        }
        Ok(())
    }

    fn beat(&mut self, now: Time, peer: &Peer, session: &str) -> Result<Duration, Refusal> {
        let (node, _) = self.authorize_node(peer, Method::Heartbeat, now)?;
        self.admits()?;
        let period = self.state().settings.heartbeat_period();
        let jitter = self.chance.draw() as u32;
        self.sessions.heartbeat(now, &node, session, period, jitter)
    }

    fn open(&mut self, now: Time, packet: &Packet, telling: Telling, out: &mut Vec<Tell>) {
        let Call::Session { session: number, .. } = &packet.call else { return };
        if !self.conns.contains_key(&packet.conn) {
            return tell(packet, packet.call.failed(reset()), out);
        }
        let node = telling.node().clone();
        let stream = Stream {
            conn: packet.conn,
            machine: packet.machine,
            boot: packet.boot,
            number: *number,
            telling,
            since: now,
        };
        if let Some(before) = self.streams.insert(node.clone(), stream) {
            before.end(status(&Refusal::SessionInvalid), out);
        }
        self.wake(&node, out);
        self.arrived.push(node);
        // At once: no clock is before this.
        self.look_at = Some(Time::from_unix_millis(0));
    }

    /// Sends what a session's stream says next.
    fn wake(&mut self, node: &NodeId, out: &mut Vec<Tell>) {
        let Some(stream) = self.streams.get_mut(node) else { return };
        let state = self.log.state();
        match stream.telling.next(&state, self.sessions.ordered(node), self.pacer.pushes(node)) {
            Next::Say(mut message) => {
                if let Some(root) = state.rotation().filter(|_| self.mischief == Some(Mischief::RootBeforeRenewal)) {
                    message.root_ca = root.to().bundle.clone().into();
                }
                let input = Input::Message { session: stream.number, message };
                out.push(Tell { conn: stream.conn, machine: stream.machine, boot: stream.boot, input });
            }
            Next::Wait => {}
            Next::Gone => self.end(node, &Refusal::SessionNodeMissing, out),
        }
    }

    fn end(&mut self, node: &NodeId, reason: &Refusal, out: &mut Vec<Tell>) {
        if let Some(stream) = self.streams.remove(node) {
            stream.end(status(reason), out);
        }
    }

    /// Tells the session table something, and carries out what follows.
    fn step(&mut self, now: Time, told: Told<'_>, out: &mut Vec<Tell>) {
        for effect in self.sessions.step(now, told) {
            match effect {
                Effect::Wake(node) => self.wake(&node, out),
                Effect::WakeAll => {
                    for node in self.streams.keys().cloned().collect::<Vec<_>>() {
                        self.wake(&node, out);
                    }
                }
                Effect::End(node, reason) => self.end(&node, &reason, out),
                Effect::Cut(node) => {
                    for conn in self.by_node.remove(&node).unwrap_or_default() {
                        self.close(conn);
                    }
                }
                Effect::Propose(mut commands) => {
                    // Only the leader knows who is with nobody.
                    let anybody = self.mischief == Some(Mischief::DownByAnybody);
                    commands.retain(|command| anybody || (self.leads() && !self.is_elsewhere(command)));
                    if !commands.is_empty() {
                        self.propose(commands, Then::Nothing);
                    }
                }
            }
        }
    }

    /// Proposes for the operator.
    pub fn ask(&mut self, command: Command) {
        if self.up {
            self.propose(vec![command], Then::Nothing);
        }
    }

    fn propose(&mut self, commands: Vec<Command>, then: Then) {
        for command in &commands {
            if let Command::Presence { node, down: true, .. } = command {
                self.called_down.push(node.clone());
            }
        }
        let log = self.log.clone();
        let mut proposal: Proposal = Box::pin(async move { log.propose(commands).await });
        // The first poll puts it into the log's queue; it never ends there.
        let ready = proposal.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        self.ledger.demand(!ready, || "a proposal to a running leader waits for the log".to_owned());
        self.pending.push_back(Pending { proposal, then });
    }

    fn resume(&mut self, now: Time, result: Result<Vec<Outcome>, ProposeError>, then: Then, out: &mut Vec<Tell>) {
        let then = match then {
            Then::Serve { packet, own } => return self.serve(own.as_ref(), now, packet, Some(result.is_ok()), out),
            Then::Enlist(enlisting) => return self.enlist_on(enlisting, result),
            then => then,
        };
        let outcomes = match (result, then.waiting()) {
            (Ok(outcomes), _) => outcomes,
            (Err(error), Some((packet, peer))) => {
                peer.give_back_unproven();
                return refuse(packet, &refused(&error), out);
            }
            (Err(_), None) => Vec::new(),
        };
        match then {
            Then::Serve { .. } | Then::Enlist(_) | Then::Prolong | Then::Nothing => {}
            Then::Advance => {
                let (wait, for_good) = look::advanced(outcomes.first());
                self.ledger.demand(!for_good, || format!("a step of the rotation is not refused: {outcomes:?}"));
                self.look_at = Some(now.saturating_add(wait));
            }
            Then::Session { packet, telling, .. } => self.open(now, &packet, telling, out),
            Then::Issue { packet, peer, mut issuing, certificate } => {
                let refused = matches!(outcomes.last(), Some(Outcome::Rejected(_)));
                let has = refused && self.ledger.has(&certificate) && is_registered(&self.state(), &certificate);
                self.ledger.demand(!has, || format!("what is in the log is not refused: {:?}", outcomes.last()));
                match issuing.judge(outcomes.last()) {
                    Judged::Issued(issued) => {
                        self.step(now, Told::Renewed(&issued.node), out);
                        tell(&packet, accepted(&packet, &peer, issued), out);
                    }
                    Judged::Pending(_) => refuse(&packet, &Refusal::SignerStopped, out),
                    Judged::Refused(refusal) => refuse(&packet, &refusal, out),
                    Judged::Again => {
                        let state = self.state();
                        let signed = issuing
                            .again(&state, peer.caller(), now)
                            .and_then(|()| self.sign(now, &state, packet.clone(), peer, issuing));
                        if let Err(refusal) = signed {
                            refuse(&packet, &refusal, out);
                        }
                    }
                }
            }
        }
    }

    /// When [`time`](Self::time) has something to do next, by the manager's clock.
    pub fn next_deadline(&self) -> Option<Time> {
        [self.sessions.next_deadline(), self.look_at].into_iter().flatten().min().filter(|_| self.up)
    }

    /// Time has passed.
    pub fn time(&mut self, now: Time, out: &mut Vec<Tell>) {
        self.step(now, Told::Time, out);
        if !self.arrived.is_empty() || self.look_at.is_some_and(|at| at <= now) {
            self.lead(now, &[], out);
        }
    }

    /// Collects what has outlived its time.
    pub fn collect(&mut self, now: Time) {
        for command in collect::due(&self.state(), now) {
            self.ask(command);
        }
    }

    /// A connection is closed, and its stream with it.
    pub fn close(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(&id) else { return };
        if let Some(list) = self.by_machine.get_mut(&conn.machine) {
            list.remove(&id);
        }
        let Some(node) = conn.peer.node() else { return };
        if let Some(list) = self.by_node.get_mut(node) {
            list.remove(&id);
            if list.is_empty() {
                self.by_node.remove(node);
            }
        }
        if self.streams.get(node).is_some_and(|stream| stream.conn == id) {
            self.streams.remove(node);
        }
    }

    /// A machine is gone, and the connections of its lives up to this one with it.
    pub fn hang_up(&mut self, machine: usize, boot: u32) {
        let list = self.by_machine.get(&machine).cloned().unwrap_or_default();
        for id in list {
            if self.conns.get(&id).is_some_and(|conn| conn.boot <= boot || conn.boot == u32::MAX) {
                self.close(id);
            }
        }
    }
}

impl Stream {
    fn end(self, failure: Failure, out: &mut Vec<Tell>) {
        let input = Input::SessionEnded { session: self.number, failure };
        out.push(Tell { conn: self.conn, machine: self.machine, boot: self.boot, input });
    }
}

/// Whether somebody's record has this leaf.
fn is_registered(state: &State, certificate: &[u8]) -> bool {
    let leaf = pki::certificate::Certificate::from_der(certificate.to_vec());
    let Ok(serial) = leaf.map(|leaf| leaf.serial()) else { return false };
    state.nodes.values().any(|node| node.leaves().any(|leaf| leaf.serial == serial))
}

/// That the leaf of this connection was seen in use, if that is to be committed yet.
fn confirmation(peer: &Peer) -> Vec<Command> {
    peer.take_unproven().map(|(node, serial)| Command::Confirm { node, serial }).into_iter().collect()
}

fn issuer(peer: &Peer) -> Option<IssuerHash> {
    match peer.caller() {
        Caller::Identified(leaf, _) => Some(leaf.issuer),
        Caller::Anonymous | Caller::Forwarded { .. } => None,
    }
}

fn accepted(packet: &Packet, peer: &Peer, issued: Issued) -> Option<Input> {
    let Call::Issue { request, csr, .. } = &packet.call else { return None };
    let accepted = Accepted { csr: csr.clone(), node: issued.node.to_string() };
    peer.remember(issued.node, issued.letter.leaf.spki);
    Some(Input::Issued { request: *request, result: Ok(accepted) })
}

fn unlocked(packet: &Packet) -> Option<Input> {
    let Call::UnlockKey { request } = &packet.call else { return None };
    Some(Input::Unlocked { request: *request, result: Ok(()) })
}

fn tell(packet: &Packet, input: Option<Input>, out: &mut Vec<Tell>) {
    if let Some(input) = input {
        out.push(Tell { conn: packet.conn, machine: packet.machine, boot: packet.boot, input });
    }
}

fn refuse(packet: &Packet, refusal: &Refusal, out: &mut Vec<Tell>) {
    tell(packet, packet.call.failed(status(refusal)), out);
}

fn status(refusal: &Refusal) -> Failure {
    let status = refusal.status();
    Failure::new(FailureKind::Status(status.code()), status.message())
}

fn reset() -> Failure {
    Failure::new(FailureKind::Connect, "connection reset")
}
