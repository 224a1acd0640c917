//! The manager, as a machine: what its shell does with sockets and tasks is done here with packets. What decides is the
//! product's: `issue` shapes, admits, signs and judges, `sessions` keeps the table, `report` takes descriptions apart,
//! `authorize` and `apply` are the cluster's, and the log is the replica's model.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cluster::authorize::{Caller, Grant, Method, Presented, Standing};
use cluster::format::LogRecord;
use cluster::log::LogHead;
use cluster::node::Availability;
use cluster::{Command, Outcome, State, invariant};
use manager::issue::{self, Draw, Purpose, Signing, Verdict};
use manager::message::{Order, fingerprint, session_message};
use manager::refusal;
use manager::report;
use manager::sessions::Sessions;
use pki::csr::Linted;
use pki::identity::{NodeId, random_id};
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;
use replica::model::ModelLog;
use replica::{Handle, ProposeError};
use swarmpki::plan::{Accepted, Answer, Failure, FailureKind, Input};
use wire::status::{Refusal, Unauthorized};

use crate::chance::Chance;
use crate::handshake::{judge_client, judge_manager};
use crate::packet::{Call, ConnId, Identity, Packet};

/// Time that a node which came back has to install its certificate. Source: the manager's own.
const INSTALL_TIME: Duration = Duration::from_millis(500);

/// What the manager asks of the world.
pub enum Out {
    /// Tell a machine, on a connection.
    Tell {
        /// On which.
        conn: ConnId,
        /// Which machine.
        machine: usize,
        /// Which of its lives.
        boot: u32,
        /// What.
        input: Input,
    },
    /// Call [`Manager::release`] after a while.
    Release(NodeId, Duration),
}

/// The manager.
pub struct Manager {
    /// The log under it.
    pub log: ModelLog,
    /// Who is there.
    pub sessions: Sessions,
    /// Whether it runs.
    pub up: bool,
    /// What must never be, and was.
    pub broken: Option<String>,
    signing: Signing,
    chance: Chance,
    conns: BTreeMap<ConnId, Conn>,
    streams: BTreeMap<NodeId, Stream>,
    pending: Vec<Pending>,
    logged: BTreeSet<Vec<u8>>,
    projected: u64,
    answered: BTreeSet<Vec<u8>>,
    period: Duration,
}

struct Conn {
    machine: usize,
    boot: u32,
    leaf: Option<(Presented, Standing)>,
    unproven: bool,
    issued: Vec<(NodeId, SpkiHash)>,
}

impl Conn {
    fn caller(&self) -> Caller<'_> {
        match &self.leaf {
            Some((leaf, standing)) => Caller::Identified(leaf, standing),
            None => Caller::Anonymous,
        }
    }
}

struct Stream {
    conn: ConnId,
    machine: usize,
    boot: u32,
    number: u64,
    session: String,
    returning: bool,
    sent: Option<u64>,
}

type Proposal = Pin<Box<dyn Future<Output = Result<Vec<Outcome>, ProposeError>>>>;

struct Pending {
    proposal: Proposal,
    then: Then,
}

enum Then {
    Issue(Box<Issuing>),
    Session(Box<Opening>),
    Nothing,
}

struct Opening {
    packet: Packet,
    node: NodeId,
    session: String,
    returning: bool,
    confirmed: bool,
}

struct Issuing {
    packet: Packet,
    request: issue::Request,
    purpose: Purpose,
    csr: Linted,
    again: bool,
    confirmed: bool,
}

impl Manager {
    /// A manager over a log whose first entry is committed.
    pub fn new(log: ModelLog, signing: Signing, chance: Chance, now: Time) -> Self {
        let mut manager = Self {
            log,
            sessions: Sessions::default(),
            up: false,
            broken: None,
            signing,
            chance,
            conns: BTreeMap::new(),
            streams: BTreeMap::new(),
            pending: Vec::new(),
            logged: BTreeSet::new(),
            projected: 0,
            answered: BTreeSet::new(),
            period: Duration::ZERO,
        };
        manager.start(now);
        manager
    }

    /// The last applied state.
    pub fn state(&self) -> Arc<State> {
        self.log.state()
    }

    /// The process starts.
    pub fn start(&mut self, now: Time) {
        self.log.reopen();
        self.up = true;
        let state = self.state();
        self.check(&state);
        self.logged.clear();
        self.projected = 0;
        self.project();
        let mut head = LogHead::default();
        for entry in self.log.log_entries(0, usize::MAX) {
            head.append(&entry.bytes);
        }
        self.demand(head == state.log, "the issuance log fits its frontier after a restart");
        self.demand(self.answered.is_subset(&self.logged), "what was answered is in the log after a restart");
        self.period = state.settings.heartbeat_period();
        self.sessions = Sessions::default();
        let there = state.finished().filter(|node| !node.down).map(|node| node.id.clone());
        self.sessions.lead(now, self.period, there);
    }

    /// The process dies: connections break, and what was on its way to the log is written or not.
    pub fn crash(&mut self, out: &mut Vec<Out>) {
        self.up = false;
        self.log.crash();
        let reset = || Failure::new(FailureKind::Connect, "connection reset");
        for pending in std::mem::take(&mut self.pending) {
            let packet = match pending.then {
                Then::Issue(issuing) => issuing.packet,
                Then::Session(opening) => opening.packet,
                Then::Nothing => continue,
            };
            tell(&packet, packet.call.failed(reset()), out);
        }
        for stream in std::mem::take(&mut self.streams).into_values() {
            stream.end(reset(), out);
        }
        self.conns.clear();
    }

    /// A call has arrived. `own` is what the manager proves itself with.
    pub fn receive(&mut self, own: Option<&Identity>, now: Time, packet: Packet, out: &mut Vec<Out>) {
        if let Err(failure) = self.connect(own, now, &packet) {
            return tell(&packet, packet.call.failed(failure), out);
        }
        match packet.call.clone() {
            Call::Root => {
                let bundle = self.state().roots.served().map(|root| root.bundle.clone()).unwrap_or_default();
                tell(&packet, Some(Input::Root(Ok(bundle))), out);
            }
            Call::Clock { verified, asked } => {
                let offset_ms = now.unix_millis() - asked.unix_millis();
                tell(&packet, Some(Input::Clock { offset_ms, proven: verified.then_some(now) }), out);
            }
            Call::UnlockKey { request } => match self.authorize(&packet, Method::GetUnlockKey, now) {
                Ok(_) => tell(&packet, Some(Input::Unlocked { request, result: Ok(()) }), out),
                Err(refusal) => refuse(&packet, &refusal, out),
            },
            Call::Issue { csr, token, .. } => {
                let request = issue::Request { csr, token, availability: Availability::Active, ours: true };
                if let Err(refusal) = self.issue(now, &packet, request, out) {
                    refuse(&packet, &refusal, out);
                }
            }
            Call::Status { request, node } => match self.status(now, &packet, &node, out) {
                Ok(answer) => tell(&packet, Some(Input::Answered { request, result: Ok(answer) }), out),
                Err(refusal) => refuse(&packet, &refusal, out),
            },
            Call::Session { session, session_id, tls, hostname } => {
                tell(&packet, Some(Input::SessionDialed { session }), out);
                if let Err(refusal) = self.session(now, &packet, &session_id, tls, hostname, out) {
                    refuse(&packet, &refusal, out);
                }
            }
            Call::Beat { session, session_id } => match self.beat(now, &packet, &session_id) {
                Ok(period) => tell(&packet, Some(Input::Heartbeat { session, result: Ok(period) }), out),
                Err(refusal) => refuse(&packet, &refusal, out),
            },
        }
    }

    fn connect(&mut self, own: Option<&Identity>, now: Time, packet: &Packet) -> Result<(), Failure> {
        if self.conns.contains_key(&packet.conn) {
            return Ok(());
        }
        let reset = || Failure::new(FailureKind::Connect, "connection reset");
        let who = packet.dial.as_ref().ok_or_else(reset)?;
        let own = own.ok_or_else(reset)?;
        judge_manager(who, own, packet.at)?;
        let state = self.state();
        let leaf = match who {
            crate::packet::Who::Node(identity) => {
                let leaf = judge_client(&state, &own.trust, identity, now)?;
                let standing = state.standing(&leaf, now);
                Some((leaf, standing))
            }
            _ => None,
        };
        let unproven = matches!(leaf, Some((_, Standing::Admitted { unproven: true, .. })));
        let conn = Conn { machine: packet.machine, boot: packet.boot, leaf, unproven, issued: Vec::new() };
        self.conns.insert(packet.conn, conn);
        Ok(())
    }

    fn authorize(&mut self, packet: &Packet, method: Method, now: Time) -> Result<(Option<NodeId>, Grant), Refusal> {
        let state = self.state();
        let Some(conn) = self.conns.get(&packet.conn) else { return Err(Refusal::MustDisconnect) };
        let node = conn.leaf.as_ref().map(|(leaf, _)| leaf.node.clone());
        let grant = state.authorize(conn.caller(), method, now).map_err(|denial| refusal(denial, &state))?;
        let known = node.as_ref().is_some_and(|node| state.node(node).is_some());
        self.demand(known || grant == Grant::Anybody, "who is granted more than anybody has a record");
        Ok((node, grant))
    }

    /// The pipeline of the product, one request: see `manager::issue`.
    fn issue(
        &mut self,
        now: Time,
        packet: &Packet,
        request: issue::Request,
        out: &mut Vec<Out>,
    ) -> Result<(), Refusal> {
        let csr = issue::shape(&request)?;
        let state = self.state();
        let Some(conn) = self.conns.get(&packet.conn) else { return Err(Refusal::MustDisconnect) };
        let purpose = issue::admit(&state, conn.caller(), &request, now)?;
        if let Purpose::Join(admission) = &purpose {
            let key = csr.public_key().hash();
            let again = state
                .unfinished_joins(&key)
                .find(|(node, letter)| node.unfinished == Some(admission.token) && letter.csr == request.csr)
                .map(|(node, _)| node.id.clone());
            if let Some(node) = again {
                self.accept(packet, &request, node, key, out);
                return Ok(());
            }
        }
        let csr = csr.verify().map_err(|error| Refusal::CsrRefused { reason: error.to_string() })?;
        let packet = packet.clone();
        let issuing = Issuing { packet, request, purpose, csr, again: false, confirmed: false };
        self.sign(now, &state, issuing)
    }

    fn sign(&mut self, now: Time, state: &State, mut issuing: Issuing) -> Result<(), Refusal> {
        let draw =
            Draw { node: NodeId::generate(self.chance.bytes()), serial: Serial::from_random(self.chance.bytes()) };
        let Issuing { request, purpose, csr, .. } = &issuing;
        let command = issue::sign(state, purpose, request, csr, &self.signing, draw, now)?;
        let mut commands = Vec::new();
        let confirm = self.take_unproven(issuing.packet.conn);
        issuing.confirmed = confirm.is_some();
        commands.extend(confirm);
        commands.push(command);
        self.propose(commands, Then::Issue(Box::new(issuing)));
        Ok(())
    }

    fn accept(&mut self, packet: &Packet, request: &issue::Request, node: NodeId, key: SpkiHash, out: &mut Vec<Out>) {
        let accepted = Accepted { csr: request.csr.clone(), node: node.to_string() };
        if let Some(conn) = self.conns.get_mut(&packet.conn) {
            conn.issued.push((node, key));
        }
        if let Call::Issue { request, .. } = &packet.call {
            tell(packet, Some(Input::Issued { request: *request, result: Ok(accepted) }), out);
        }
    }

    fn status(&mut self, now: Time, packet: &Packet, node: &str, out: &mut Vec<Out>) -> Result<Answer, Refusal> {
        self.authorize(packet, Method::NodeCertificateStatus, now)?;
        let id: NodeId = node.parse().map_err(|_| Refusal::CertificateMissing)?;
        let state = self.state();
        let record = state.node(&id).ok_or(Refusal::CertificateMissing)?;
        let conn = self.conns.get(&packet.conn);
        let key = conn.and_then(|conn| conn.issued.iter().rev().find(|(known, _)| *known == id)).map(|(_, key)| *key);
        let letter = record.letter(key.as_ref()).ok_or(Refusal::CertificateMissing)?;
        let returning = conn
            .and_then(|conn| conn.leaf.as_ref())
            .is_some_and(|(leaf, standing)| leaf.node == id && matches!(standing, Standing::Quarantined { .. }));
        if returning {
            out.push(Out::Release(id, INSTALL_TIME));
        }
        let committed = self.logged.contains(&letter.certificate);
        self.demand(committed, "nothing signed leaves before it is in the log");
        self.answered.insert(letter.certificate.clone());
        Ok(Answer { state: 3, err: String::new(), csr: letter.csr.clone(), chain: issue::chain_pem(letter) })
    }

    fn session(
        &mut self,
        now: Time,
        packet: &Packet,
        session_id: &str,
        tls: swarmpki::plan::TlsInfo,
        hostname: String,
        out: &mut Vec<Out>,
    ) -> Result<(), Refusal> {
        let (node, grant) = self.authorize(packet, Method::Session, now)?;
        let node = node.ok_or(Refusal::Peer(Unauthorized::NoCertificate))?;
        let returning = matches!(grant, Grant::Returning(_));
        let description = wire::proto::NodeDescription {
            hostname,
            tls_info: Some(wire::proto::NodeTlsInfo {
                trust_root: tls.trust_root,
                cert_issuer_subject: tls.issuer_subject,
                cert_issuer_public_key: tls.issuer_key,
            }),
            ..Default::default()
        };
        let state = self.state();
        let record = state.node(&node).ok_or(Refusal::SessionNodeMissing)?;
        let fresh = random_id(self.chance.bytes());
        let period = state.settings.heartbeat_period();
        let registered = self.sessions.register(now, &node, session_id, fresh, period, returning)?;
        let confirm = self.take_unproven(packet.conn);
        let confirmed = confirm.is_some();
        let mut commands: Vec<_> = confirm.into_iter().collect();
        let reported = report::split(&state, &node, description, "192.0.2.1");
        if record.report.as_deref() != Some(&reported.report) || record.down {
            commands.push(Command::Report(Box::new(reported)));
        }
        if commands.is_empty() {
            self.open(packet, node, registered.session, returning, out);
        } else {
            let (packet, session) = (packet.clone(), registered.session);
            let opening = Opening { packet, node, session, returning, confirmed };
            self.propose(commands, Then::Session(Box::new(opening)));
        }
        Ok(())
    }

    fn beat(&mut self, now: Time, packet: &Packet, session: &str) -> Result<Duration, Refusal> {
        let (node, _) = self.authorize(packet, Method::Heartbeat, now)?;
        let node = node.ok_or(Refusal::Peer(Unauthorized::NoCertificate))?;
        let period = self.state().settings.heartbeat_period();
        let jitter = self.chance.draw() as u32;
        self.sessions.heartbeat(now, &node, session, period, jitter)
    }

    fn open(&mut self, packet: &Packet, node: NodeId, session: String, returning: bool, out: &mut Vec<Out>) {
        let Call::Session { session: number, .. } = &packet.call else { return };
        if !self.conns.contains_key(&packet.conn) {
            let gone = Failure::new(FailureKind::Connect, "connection reset");
            return tell(packet, packet.call.failed(gone), out);
        }
        let (conn, machine, boot, number) = (packet.conn, packet.machine, packet.boot, *number);
        let stream = Stream { conn, machine, boot, number, session, returning, sent: None };
        if let Some(before) = self.streams.insert(node.clone(), stream) {
            before.end(status(&Refusal::SessionInvalid), out);
        }
        self.push(&node, out);
    }

    /// Sends a session's message if it says something new.
    fn push(&mut self, node: &NodeId, out: &mut Vec<Out>) {
        let state = self.state();
        let Some(stream) = self.streams.get_mut(node) else { return };
        let order = if stream.returning { Order::Return } else { Order::None };
        match session_message(&state, node, &stream.session, order) {
            Some(message) if stream.sent != Some(fingerprint(&message)) => {
                stream.sent = Some(fingerprint(&message));
                let input = Input::Message { session: stream.number, message: Box::new(message) };
                out.push(Out::Tell { conn: stream.conn, machine: stream.machine, boot: stream.boot, input });
            }
            Some(_) => {}
            None => self.end(node, &Refusal::SessionNodeMissing, out),
        }
    }

    fn end(&mut self, node: &NodeId, reason: &Refusal, out: &mut Vec<Out>) {
        if let Some(stream) = self.streams.remove(node) {
            stream.end(status(reason), out);
        }
    }

    fn take_unproven(&mut self, conn: ConnId) -> Option<Command> {
        let conn = self.conns.get_mut(&conn)?;
        let (leaf, _) = conn.leaf.as_ref().filter(|_| conn.unproven)?;
        conn.unproven = false;
        Some(Command::Confirm { node: leaf.node.clone(), serial: leaf.serial })
    }

    fn give_back_unproven(&mut self, conn: ConnId) {
        if conn > 0 {
            return;
        }
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.unproven = true;
        }
    }

    /// Proposes for the operator, or for time itself.
    pub fn ask(&mut self, command: Command) {
        if self.up {
            self.propose(vec![command], Then::Nothing);
        }
    }

    fn propose(&mut self, commands: Vec<Command>, then: Then) {
        let log = self.log.clone();
        let mut proposal: Proposal = Box::pin(async move { log.propose(commands).await });
        // The first poll puts it into the log's queue; it never ends there.
        let ready = proposal.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if ready.is_ready() {
            self.demand(false, "a proposal to a running leader waits for the log");
        }
        self.pending.push(Pending { proposal, then });
    }

    /// The log does one step; whoever waited for it goes on.
    pub fn commit(&mut self, now: Time, out: &mut Vec<Out>) {
        let before = self.state();
        self.log.set_time(now);
        self.log.step();
        let after = self.state();
        if after.index != before.index {
            self.check(&after);
            if let Err(broken) = invariant::check_step(&before, &after) {
                self.demand(false, &broken.to_string());
            }
            self.project();
        }
        let mut waiting = Vec::new();
        for mut pending in std::mem::take(&mut self.pending) {
            match pending.proposal.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => waiting.push(pending),
                Poll::Ready(result) => self.resume(now, result, pending.then, out),
            }
        }
        waiting.append(&mut self.pending);
        self.pending = waiting;
        self.watch(&before, &after, out);
    }

    fn resume(&mut self, now: Time, result: Result<Vec<Outcome>, ProposeError>, then: Then, out: &mut Vec<Out>) {
        match then {
            Then::Nothing => {}
            Then::Session(opening) => match result {
                Ok(_) => {
                    let Opening { packet, node, session, returning, .. } = *opening;
                    self.open(&packet, node, session, returning, out);
                }
                Err(error) => {
                    if opening.confirmed {
                        self.give_back_unproven(opening.packet.conn);
                    }
                    refuse(&opening.packet, &unproposed(&error), out);
                }
            },
            Then::Issue(issuing) => match result {
                Ok(outcomes) => self.judge(now, outcomes.last(), *issuing, out),
                Err(error) => {
                    if issuing.confirmed {
                        self.give_back_unproven(issuing.packet.conn);
                    }
                    refuse(&issuing.packet, &unproposed(&error), out);
                }
            },
        }
    }

    fn judge(&mut self, now: Time, outcome: Option<&Outcome>, mut issuing: Issuing, out: &mut Vec<Out>) {
        let node = match &issuing.purpose {
            Purpose::Join(_) => None,
            Purpose::Renewal { node, .. } => Some(node),
        };
        let refusal = match issue::verdict(outcome, node) {
            Verdict::Answer(node, letter) => {
                let key = letter.leaf.spki;
                return self.accept(&issuing.packet, &issuing.request, node, key, out);
            }
            Verdict::Refused(refusal) => refusal,
            Verdict::Again if issuing.again => Refusal::IssuanceStale,
            Verdict::Again => {
                issuing.again = true;
                let state = self.state();
                let Some(conn) = self.conns.get(&issuing.packet.conn) else { return };
                let packet = issuing.packet.clone();
                let signed = issue::admit(&state, conn.caller(), &issuing.request, now).and_then(|purpose| {
                    issuing.purpose = purpose;
                    self.sign(now, &state, issuing)
                });
                if let Err(refusal) = signed {
                    refuse(&packet, &refusal, out);
                }
                return;
            }
        };
        refuse(&issuing.packet, &refusal, out);
    }

    /// What a change of state means for sessions and connections.
    fn watch(&mut self, before: &State, after: &State, out: &mut Vec<Out>) {
        for (id, old) in &before.nodes {
            let removed = after.node(id).is_none();
            if removed || after.node(id).is_some_and(|new| new.cut != old.cut) {
                let node = id.clone();
                let reason = if removed { Unauthorized::Removed { node } } else { Unauthorized::Withdrawn { node } };
                if removed {
                    self.sessions.forget(id);
                }
                self.end(id, &Refusal::Peer(reason), out);
                self.cut(id);
            }
        }
        for node in self.streams.keys().cloned().collect::<Vec<_>>() {
            self.push(&node, out);
        }
    }

    fn cut(&mut self, node: &NodeId) {
        self.conns.retain(|_, conn| conn.leaf.as_ref().is_none_or(|(leaf, _)| leaf.node != *node));
    }

    /// Lets a node that came back start over.
    pub fn release(&mut self, node: &NodeId, out: &mut Vec<Out>) {
        if self.streams.get(node).is_some_and(|stream| stream.returning) {
            self.end(node, &Refusal::MustDisconnect, out);
            self.cut(node);
        }
    }

    /// Ends sessions whose heartbeats stopped.
    pub fn expire(&mut self, now: Time, out: &mut Vec<Out>) {
        for (node, row) in self.sessions.expire(now) {
            self.end(&node, &Refusal::NotRegistered, out);
            let seen = row.last_contact.unwrap_or(now);
            self.ask(Command::Presence { node, down: true, seen });
        }
    }

    /// Collects what has outlived its time.
    pub fn collect(&mut self, now: Time) {
        let state = self.state();
        let nodes = state.collectable(now);
        if !nodes.is_empty() || state.removals_ended(now) {
            self.ask(Command::Collect { nodes });
        }
    }

    /// A machine is gone, and its connections with it.
    pub fn hang_up(&mut self, machine: usize, boot: u32) {
        self.conns.retain(|_, conn| (conn.machine, conn.boot) != (machine, boot));
    }

    fn project(&mut self) {
        for entry in self.log.log_entries(self.projected, usize::MAX) {
            self.projected = entry.seq + 1;
            match LogRecord::decode(&entry.bytes) {
                Ok(record) => drop(self.logged.insert(record.certificate)),
                Err(error) => self.demand(false, &format!("an entry of the issuance log can be read: {error}")),
            }
        }
    }

    fn check(&mut self, state: &State) {
        if let Err(broken) = invariant::check(state) {
            self.demand(false, &broken.to_string());
        }
    }

    fn demand(&mut self, holds: bool, what: &str) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what.to_owned());
        }
    }
}

impl Stream {
    fn end(self, failure: Failure, out: &mut Vec<Out>) {
        let input = Input::SessionEnded { session: self.number, failure };
        out.push(Out::Tell { conn: self.conn, machine: self.machine, boot: self.boot, input });
    }
}

fn tell(packet: &Packet, input: Option<Input>, out: &mut Vec<Out>) {
    if let Some(input) = input {
        out.push(Out::Tell { conn: packet.conn, machine: packet.machine, boot: packet.boot, input });
    }
}

fn refuse(packet: &Packet, refusal: &Refusal, out: &mut Vec<Out>) {
    tell(packet, packet.call.failed(status(refusal)), out);
}

fn status(refusal: &Refusal) -> Failure {
    let status = refusal.status();
    Failure::new(FailureKind::Status(status.code()), status.message())
}

fn unproposed(error: &ProposeError) -> Refusal {
    match error {
        ProposeError::Unavailable { retry_after } => Refusal::Busy { retry_after: *retry_after },
        ProposeError::Unknown => Refusal::OutcomeUnknown,
        ProposeError::NotLeader { .. } => Refusal::LeaderLost,
        _ => Refusal::SignerStopped,
    }
}
