//! The world: virtual time, one queue of events, a network that loses things, and everything that lives in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::command::{SecretBox, UpdateCluster};
use cluster::rotation::{Policy, RootsChange, Way};
use cluster::settings::Settings;
use cluster::tokens::WORKER_ROW;
use manager::bootstrap::{Bootstrap, Params};
use manager::collect::COLLECT_PERIOD;
use pki::bundle::TrustBundle;
use pki::digest::Digest;
use pki::join_token::JoinSecret;
use pki::time::Time;
use replica::model::{Faults, ModelLog};
use swarmpki::plan::{Failure, FailureKind, Input, Timer};

use crate::chance::Chance;
use crate::machine::{Act, Disk, Hands, Machine};
use crate::manager::{Manager, Tell};
use crate::operator::{Ask, Operator, signed_again};
use crate::packet::{Call, ConnId, Packet, Who};
use crate::signer::Key;
use crate::watch::Watch;

/// When every run begins.
pub const START: Time = Time::from_unix_secs(1_795_000_000);
/// How long a caller waits for an answer. Source: pki.md 1.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Where the manager listens.
pub const MANAGER: &str = "manager:2377";
/// The manager's machine.
pub const FIRST: usize = 0;
/// Lines of the trace that are kept for a failure.
const TRACE_LINES: usize = 40_000;

/// What the network and the disks do to those who use them.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Calls and answers lost, in a thousand.
    pub lost: u64,
    /// Requests for certificates that arrive twice, in a thousand.
    pub twice: u64,
    /// The longest way.
    pub delay: Duration,
    /// Writes cut off by a crash, in a thousand; as many fail.
    pub torn: u64,
    /// What the log does.
    pub log: Faults,
}

impl Weather {
    /// Nothing goes wrong.
    pub const FAIR: Self = Self {
        lost: 0,
        twice: 0,
        delay: Duration::from_millis(3),
        torn: 0,
        log: Faults { lost_answer: 0, lost_proposal: 0, unavailable: 0, delay: 0 },
    };
}

enum Event {
    Timer { machine: usize, boot: u32, timer: Timer, stamp: u64 },
    Arrive(Box<Packet>),
    Tell { machine: usize, boot: u32, conn: ConnId, input: Input },
    Commit,
    Deadline,
    Collect,
    Close(ConnId),
    HangUp { machine: usize, boot: u32 },
    Boot(usize),
    Crash(usize),
    Heal(usize),
    Wipe(usize),
    Rotate(Ask, Policy),
}

/// The world.
pub struct World {
    /// The true time.
    pub now: Time,
    /// The run's chance.
    pub chance: Chance,
    /// The weather.
    pub weather: Weather,
    /// The manager.
    pub manager: Manager,
    /// How far the manager's clock is off, in milliseconds.
    pub manager_offset_ms: i64,
    /// The machines; the first is the manager's.
    pub machines: Vec<Machine>,
    /// Machines cut off from the manager.
    pub cut: BTreeSet<usize>,
    /// Machines that an operator has removed, by their ids then.
    pub removed: Vec<(usize, crate::packet::Identity)>,
    /// Who asks for other roots.
    pub operator: Operator,
    /// Rotations asked for whose new root nothing certifies for holders of the old one: who was away may be lost.
    pub without_ladder: usize,
    /// Who verifies whom.
    pub watch: Watch,
    /// Nothing may fail from now on: any refusal, and any session that is ended, is one too many.
    pub strict: bool,
    /// What must never be, and was.
    pub broken: Option<String>,
    /// A number that stands for everything that happened, in order.
    pub trace: u64,
    /// Events so far.
    pub events: u64,
    /// What a failure shows.
    lines: VecDeque<String>,
    said: BTreeMap<(usize, String), String>,
    queue: BTreeMap<(Time, u64), Box<Event>>,
    sequence: u64,
    conns: ConnId,
    committing: bool,
    /// When the manager looks for what its time ends.
    deadline: Option<Time>,
    fifo: BTreeMap<ConnId, Time>,
}

impl World {
    /// A cluster just begun, with the manager's machine on.
    ///
    /// # Errors
    /// If the cluster cannot begin: that must never be.
    pub fn new(seed: u64) -> Result<Self, String> {
        let settings = Settings {
            node_cert_expiry: Duration::from_secs(3600),
            heartbeat: Duration::from_secs(60),
            ..Settings::default()
        };
        Self::with(seed, settings)
    }

    /// The same with settings given.
    ///
    /// # Errors
    /// If the cluster cannot begin: that must never be.
    pub fn with(seed: u64, settings: Settings) -> Result<Self, String> {
        let mut chance = Chance::new(seed);
        let source = Mutex::new(Chance::new(chance.draw()));
        let bytes = manager::Chance::new(move |bytes| {
            source.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
            true
        });
        let availability = cluster::node::Availability::Active;
        let params = Params { addr: MANAGER.to_owned(), availability, settings };
        let mut begun = Bootstrap::prepare(params, &bytes, START).map_err(|error| error.to_string())?;
        let root = repeatable(&mut begun).ok_or("the first certificates are signed again")?;
        let log = ModelLog::create(chance.draw(), START, begun.command);
        let manager = Manager::new(log, Chance::new(chance.draw()), START);
        let mut first = Machine::new(FIRST, 0);
        let key = Key::from_pkcs8(begun.key.pkcs8_der().expose()).ok_or("the first key is not there")?;
        first.disk.trust = Some(begun.trust);
        first.disk.pair = Some((begun.chain, Arc::new(key), START));
        let mut world = Self {
            now: START,
            chance,
            weather: Weather::FAIR,
            manager,
            manager_offset_ms: 0,
            machines: vec![first],
            cut: BTreeSet::new(),
            removed: Vec::new(),
            operator: Operator::new(root),
            without_ladder: 0,
            watch: Watch::default(),
            strict: false,
            broken: None,
            trace: 0xcbf2_9ce4_8422_2325,
            events: 0,
            lines: VecDeque::new(),
            said: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            conns: 0,
            committing: false,
            deadline: None,
            fifo: BTreeMap::new(),
        };
        world.boot(FIRST);
        world.after(COLLECT_PERIOD, Event::Collect);
        Ok(world)
    }

    /// The manager's clock.
    pub fn manager_clock(&self) -> Time {
        Time::from_unix_millis(self.now.unix_millis() + self.manager_offset_ms)
    }

    /// Runs until `end`, or until something is broken.
    pub fn run_until(&mut self, end: Time) {
        while self.broken.is_none() {
            if self.queue.first_key_value().is_none_or(|(&(at, _), _)| at > end) {
                break;
            }
            let Some(((at, _), event)) = self.queue.pop_first() else { break };
            self.now = at;
            self.events += 1;
            let told = match &*event {
                Event::Tell { machine, input: Input::Message { .. }, .. } => Some(*machine),
                _ => None,
            };
            self.handle(*event);
            self.look(told);
            self.broken = self.broken.take().or_else(|| self.manager.ledger.broken.take());
        }
        self.broken = self.broken.take().or_else(|| self.manager.ledger.broken.take());
        self.now = self.now.max(end);
    }

    /// Runs for a while.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now.saturating_add(span);
        self.run_until(end);
    }

    /// The operator empties a machine and lets it join again, after a while.
    pub fn wipe_after(&mut self, machine: usize, span: Duration) {
        self.after(span, Event::Wipe(machine));
    }

    /// A new machine that will join with today's worker token.
    pub fn add(&mut self, offset_ms: i64) -> usize {
        let index = self.machines.len();
        self.machines.push(Machine::new(index, offset_ms));
        index
    }

    /// Power off, after a while.
    pub fn crash_after(&mut self, machine: usize, span: Duration) {
        self.after(span, Event::Crash(machine));
    }

    /// Power on, after a while.
    pub fn boot_after(&mut self, machine: usize, span: Duration) {
        self.after(span, Event::Boot(machine));
    }

    /// Power on.
    pub fn boot(&mut self, index: usize) {
        self.note(index, "boot", String::new);
        if index == FIRST && !self.manager.up {
            let clock = self.manager_clock();
            self.manager.start(clock);
        }
        let token = self.token();
        let Some(machine) = self.machines.get_mut(index) else { return };
        if machine.plan.is_some() {
            return;
        }
        machine.token = token;
        let mut hands = Hands { chance: &mut self.chance, conns: &mut self.conns, torn: self.weather.torn };
        match machine.start(self.now, &mut hands, &[MANAGER.to_owned()]) {
            Ok(acts) => self.act(index, acts),
            Err(error) => self.demand(false, || format!("machine {index} starts from its disk: {error}")),
        }
    }

    /// Power off. The manager's machine takes the manager with it.
    pub fn crash(&mut self, index: usize) {
        self.note(index, "crash", String::new);
        let mut out = Vec::new();
        if index == FIRST && self.manager.up {
            self.manager.crash(&mut out);
        }
        if let Some(machine) = self.machines.get_mut(index) {
            let boot = machine.boot;
            self.manager.hang_up(index, boot);
            machine.crash();
            // What is on its way opens connections to nobody.
            let longest = self.weather.delay;
            self.after(longest, Event::HangUp { machine: index, boot });
        }
        self.carry(out);
    }

    /// Cuts a machine off for a while.
    pub fn cut_for(&mut self, machine: usize, span: Duration) {
        self.note(machine, "cut", || format!("{span:?}"));
        self.cut.insert(machine);
        self.after(span, Event::Heal(machine));
    }

    /// Everything is well from now on.
    pub fn calm(&mut self) {
        self.weather = Weather::FAIR;
        self.cut.clear();
        self.manager.log.set_faults(Faults::default());
    }

    /// Changes the weather.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
        self.manager.log.set_faults(weather.log);
    }

    /// The operator asks the manager for something.
    pub fn operate(&mut self, command: cluster::Command) {
        self.manager.ask(command);
        self.commit_soon();
    }

    /// The operator asks for another root, or to go back. Whether that was asked of the manager.
    pub fn rotate(&mut self, ask: Ask, policy: Policy) -> bool {
        let (state, clock) = (self.manager.state(), self.manager_clock());
        if !self.manager.up {
            return false;
        }
        let change = match self.operator.change(&state, ask, policy, &mut self.chance, clock) {
            Ok(change) => change,
            Err(text) => {
                self.demand(false, || text);
                None
            }
        };
        self.note(FIRST, if change.is_some() { "rotate" } else { "rotate, refused" }, || format!("{ask:?} {policy:?}"));
        let Some(change) = change else { return false };
        let bundle =
            |change: &RootsChange| matches!(change, RootsChange::Start(start) if matches!(start.way, Way::Bundle(_)));
        self.without_ladder += usize::from(bundle(&change));
        let emergency = matches!(policy, Policy::Emergency { .. });
        let mut secret = || emergency.then(|| SecretBox(Arc::new(JoinSecret::from_bytes(self.chance.bytes()))));
        let (worker_secret, manager_secret) = (secret(), secret());
        let mut settings = state.settings.as_ref().clone();
        settings.force_rotate = settings.force_rotate.wrapping_add(1);
        let update = UpdateCluster {
            version: state.cluster_version,
            settings: Some(settings),
            worker_secret,
            manager_secret,
            roots: Some(change),
            ..UpdateCluster::default()
        };
        self.operate(cluster::Command::UpdateCluster(Box::new(update)));
        true
    }

    /// The same, after a while.
    pub fn rotate_after(&mut self, ask: Ask, policy: Policy, span: Duration) {
        self.after(span, Event::Rotate(ask, policy));
    }

    /// Looks at who verifies whom, as far as that has changed.
    fn look(&mut self, told: Option<usize>) {
        let clock = self.manager_clock();
        if let Err(broken) = self.watch.look(told, &self.manager, &self.machines, &self.operator, self.now, clock) {
            self.demand(false, || broken);
        }
    }

    /// Tells a machine something as its operator would.
    pub fn tell(&mut self, index: usize, input: Input) {
        let boot = self.machines[index].boot;
        self.after(Duration::ZERO, Event::Tell { machine: index, boot, conn: 0, input });
    }

    /// Today's worker token.
    pub fn token(&self) -> Arc<str> {
        let state = self.manager.state();
        let fips = state.cluster.as_ref().is_some_and(|facts| facts.fips);
        let digest = state.roots.served().map(|root| Digest::of(&root.bundle));
        let token = digest.and_then(|digest| state.tokens.text(WORKER_ROW, &digest, fips));
        token.map_or_else(|| Arc::from(""), |token| Arc::from(token.text()))
    }

    /// The last lines of what happened.
    pub fn last_lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }

    /// Notes what must hold.
    pub fn demand(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// Notes what happens.
    pub fn note(&mut self, machine: usize, word: &str, detail: impl FnOnce() -> String) {
        let mut mix = |bytes: &[u8]| {
            for byte in bytes {
                self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        mix(&self.now.unix_millis().to_be_bytes());
        mix(&(machine as u64).to_be_bytes());
        mix(word.as_bytes());
        if matches!(word, "beat" | "heartbeat" | "clock") {
            return;
        }
        let since = self.now.since(START).as_millis();
        let detail = detail();
        // What a machine tries again and again is said once.
        let kept = self.said.entry((machine, word.to_owned())).or_default();
        if *kept == detail && matches!(word, "session" | "session ended" | "session dialed" | "join failed" | "trouble")
        {
            return;
        }
        kept.clone_from(&detail);
        self.lines.push_back(format!(
            "{:>9}.{:03} s  machine {machine}: {word} {}",
            since / 1000,
            since % 1000,
            detail
        ));
        if self.lines.len() > TRACE_LINES {
            self.lines.pop_front();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wipe(machine) => {
                self.crash(machine);
                self.machines[machine].disk = Disk::default();
                self.boot(machine);
            }
            Event::Rotate(ask, policy) => drop(self.rotate(ask, policy)),
            Event::Boot(machine) => self.boot(machine),
            Event::Crash(machine) => self.crash(machine),
            Event::Heal(machine) => drop(self.cut.remove(&machine)),
            Event::Timer { machine, boot, timer, stamp } => {
                let known = self.machines.get_mut(machine).filter(|known| known.boot == boot);
                if known.is_some_and(|known| known.ran_out(timer, stamp)) {
                    self.feed(machine, Input::Timer(timer));
                }
            }
            Event::Tell { machine, boot, conn, input } => {
                let Some(known) = self.machines.get_mut(machine).filter(|known| known.boot == boot) else { return };
                if broke(&input) {
                    known.broke(conn);
                }
                let (word, detail) = describe(&input);
                let failed = match &input {
                    // The stream of a session that the machine has left for another.
                    Input::SessionEnded { session, .. } => known_session(&self.machines, machine, *session),
                    _ => matches!(word, "no root" | "not issued" | "not answered" | "heartbeat failed"),
                };
                self.demand(!(self.strict && failed), || format!("nothing fails: machine {machine}: {word}: {detail}"));
                self.note(machine, word, || detail);
                self.feed(machine, input);
            }
            Event::Arrive(packet) => self.arrive(*packet),
            Event::Commit => {
                self.committing = false;
                if self.manager.up {
                    let mut out = Vec::new();
                    let clock = self.manager_clock();
                    self.manager.commit(clock, &mut out);
                    self.carry(out);
                }
            }
            Event::Deadline => {
                if self.deadline.is_some_and(|at| at <= self.now) {
                    self.deadline = None;
                }
                if self.manager.up {
                    let mut out = Vec::new();
                    let clock = self.manager_clock();
                    self.manager.time(clock, &mut out);
                    self.carry(out);
                }
            }
            Event::Collect => {
                self.fifo.retain(|_, at| *at > self.now);
                if self.manager.up {
                    let clock = self.manager_clock();
                    self.manager.collect(clock);
                    self.commit_soon();
                }
                self.after(COLLECT_PERIOD, Event::Collect);
            }
            Event::Close(conn) => {
                self.manager.close(conn);
            }
            Event::HangUp { machine, boot } => self.manager.hang_up(machine, boot),
        }
    }

    fn arrive(&mut self, packet: Packet) {
        if !self.manager.up {
            let refused = Failure::new(FailureKind::Connect, "connection refused");
            return self.fail(&packet, refused, Duration::from_millis(1));
        }
        self.note(packet.machine, packet.call.word(), String::new);
        let own = self.machines[FIRST].live.clone();
        let mut out = Vec::new();
        let clock = self.manager_clock();
        let (machine, member) = (packet.machine, self.is_member(&packet));
        self.manager.receive(own.as_ref(), clock, packet, &mut out);
        let refused = out.iter().find_map(|tell| untrusted(&tell.input));
        if let Some(text) = refused.filter(|_| member) {
            self.demand(false, || format!("a member's handshake holds: machine {machine}: {text}"));
        }
        self.carry(out);
    }

    /// Whether a call comes from a member, with what it has in use now.
    fn is_member(&self, packet: &Packet) -> bool {
        let Some(machine) = self.machines.get(packet.machine) else { return false };
        let (Some(Who::Node(dialed)), Some(live)) = (&packet.dial, &machine.live) else { return false };
        machine.boot == packet.boot && Arc::ptr_eq(&dialed.key, &live.key) && self.watch.is_member(packet.machine)
    }

    fn feed(&mut self, index: usize, input: Input) {
        let mut hands = Hands { chance: &mut self.chance, conns: &mut self.conns, torn: self.weather.torn };
        let Some(machine) = self.machines.get_mut(index) else { return };
        let acts = machine.feed(self.now, input, &mut hands);
        let error = machine.plan.as_ref().and_then(|plan| plan.status().last_error.as_ref());
        let error = error.map_or_else(String::new, |trouble| trouble.text.clone());
        if machine.says_removed() {
            let id = machine.id();
            let trouble = machine.trouble.clone();
            let alive = id.as_ref().is_some_and(|id| self.manager.state().node(id).is_some());
            self.demand(!alive, || format!("machine {index} believes that it was removed, and was not: {trouble}"));
        }
        if !error.is_empty() {
            self.note(index, "trouble", || error);
        }
        self.act(index, acts);
    }

    fn act(&mut self, index: usize, acts: Vec<Act>) {
        for act in acts {
            let boot = self.machines[index].boot;
            match act {
                Act::Start(timer, stamp, delay) => {
                    self.after(delay, Event::Timer { machine: index, boot, timer, stamp });
                }
                Act::Send { conn, dial, call, .. } => {
                    let at = self.machines[index].clock(self.now);
                    self.send(Packet { machine: index, boot, conn, dial, at, call });
                }
                Act::Close(conn) => {
                    // After whatever was sent on it.
                    let longest = self.weather.delay;
                    self.after(longest, Event::Close(conn));
                }
                Act::Crashed => {
                    self.crash(index);
                    let off = self.chance.span(Duration::from_secs(1), Duration::from_secs(60));
                    self.boot_after(index, off);
                }
                Act::JoinFailed(text) => {
                    self.note(index, "join failed", || text);
                    self.crash(index);
                    self.boot_after(index, Duration::from_secs(30));
                }
            }
        }
    }

    fn send(&mut self, packet: Packet) {
        let lost = packet.machine != FIRST && self.chance.in_thousand(self.weather.lost);
        if lost || self.cut.contains(&packet.machine) {
            let failure = Failure::new(FailureKind::Timeout, "no answer within 5 s");
            return self.fail(&packet, failure, CALL_DEADLINE);
        }
        if matches!(packet.call, Call::Issue { .. }) && self.chance.in_thousand(self.weather.twice) {
            // The copy's answers go to nobody.
            let copy = Packet { boot: u32::MAX, ..packet.clone() };
            let way = self.way();
            self.after(way, Event::Arrive(Box::new(copy)));
        }
        let way = self.way();
        self.after(way, Event::Arrive(Box::new(packet)));
    }

    fn fail(&mut self, packet: &Packet, failure: Failure, after: Duration) {
        if let Some(input) = packet.call.failed(failure) {
            let (machine, boot, conn) = (packet.machine, packet.boot, packet.conn);
            self.after(after, Event::Tell { machine, boot, conn, input });
        }
    }

    /// Carries what the manager has to say.
    fn carry(&mut self, out: Vec<Tell>) {
        for Tell { conn, machine, boot, input } in out {
            let lost = machine != FIRST && self.chance.in_thousand(self.weather.lost);
            let (input, way) = if lost || self.cut.contains(&machine) {
                (unheard(input), CALL_DEADLINE)
            } else {
                (Some(input), self.way())
            };
            let Some(input) = input else { continue };
            // What is sent on one connection arrives in its order.
            let earliest = self.fifo.get(&conn).copied().unwrap_or(START);
            let at = self.now.saturating_add(way).max(earliest);
            self.fifo.insert(conn, at);
            self.at(at, Event::Tell { machine, boot, conn, input });
        }
        self.commit_soon();
        self.deadline_soon();
    }

    /// Wakes the manager when its clock says that something is over.
    fn deadline_soon(&mut self) {
        let Some(due) = self.manager.next_deadline() else { return };
        let due = Time::from_unix_millis(due.unix_millis() - self.manager_offset_ms).max(self.now);
        if self.deadline.is_none_or(|known| due < known) {
            self.deadline = Some(due);
            self.at(due, Event::Deadline);
        }
    }

    fn commit_soon(&mut self) {
        if !self.committing && self.manager.up && self.manager.log.waiting() > 0 {
            self.committing = true;
            let way = self.way();
            self.after(way, Event::Commit);
        }
    }

    fn way(&mut self) -> Duration {
        self.chance.span(Duration::from_millis(1), self.weather.delay)
    }

    fn after(&mut self, span: Duration, event: Event) {
        self.at(self.now.saturating_add(span), event);
    }

    fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), Box::new(event));
    }
}

fn known_session(machines: &[Machine], machine: usize, session: u64) -> bool {
    machines.get(machine).is_some_and(|machine| machine.is_session(session))
}

/// Signs the first certificates again, so that they are those of every run. The root.
pub(crate) fn repeatable(begun: &mut Bootstrap) -> Option<Arc<cluster::roots::Root>> {
    let cluster::Command::Bootstrap(first) = &mut begun.command else { return None };
    let root = signed_again(&first.root)?;
    let key = Key::from_pkcs8(root.key()?.expose())?;
    let leaf = key.sign_again(begun.chain.first()?)?;
    begun.trust = TrustBundle::parse(&root.bundle, START).ok()?;
    first.logged = vec![root.signer.der().to_vec()];
    first.letter.certificate = leaf.der().to_vec();
    first.root = Arc::clone(&root);
    begun.chain = vec![leaf];
    Some(root)
}

/// What a failed handshake says of the certificates, if that is why; a clock may be to blame for one of time.
pub(crate) fn untrusted(input: &Input) -> Option<String> {
    let failure = match input {
        Input::Root(Err(failure))
        | Input::SessionEnded { failure, .. }
        | Input::Issued { result: Err(failure), .. }
        | Input::Answered { result: Err(failure), .. }
        | Input::Unlocked { result: Err(failure), .. } => failure,
        _ => return None,
    };
    (failure.kind == FailureKind::Tls).then(|| failure.text.clone())
}

/// Whether the connection is gone with this.
pub(crate) fn broke(input: &Input) -> bool {
    let broken = |failure: &Failure| !matches!(failure.kind, FailureKind::Timeout | FailureKind::Status(_));
    match input {
        Input::Issued { result: Err(failure), .. } | Input::Answered { result: Err(failure), .. } => broken(failure),
        _ => false,
    }
}

/// What a machine notices when these words are lost.
pub(crate) fn unheard(input: Input) -> Option<Input> {
    let timeout = || Failure::new(FailureKind::Timeout, "no answer within 5 s");
    let broken = || Failure::new(FailureKind::Connect, "connection lost");
    Some(match input {
        Input::Root(_) => Input::Root(Err(timeout())),
        Input::Issued { request, .. } => Input::Issued { request, result: Err(timeout()) },
        Input::Answered { request, .. } => Input::Answered { request, result: Err(timeout()) },
        Input::Unlocked { request, .. } => Input::Unlocked { request, result: Err(timeout()) },
        Input::Heartbeat { session, .. } => Input::Heartbeat { session, result: Err(timeout()) },
        Input::SessionDialed { session } | Input::Message { session, .. } | Input::SessionEnded { session, .. } => {
            Input::SessionEnded { session, failure: broken() }
        }
        _ => return None,
    })
}

/// A word and the details for the trace.
pub(crate) fn describe(input: &Input) -> (&'static str, String) {
    let failure = |failure: &Failure| format!("{:?} {}", failure.kind, failure.text);
    match input {
        Input::Root(Err(error)) => ("no root", failure(error)),
        Input::Root(Ok(_)) => ("root came", String::new()),
        Input::Issued { result: Err(error), .. } => ("not issued", failure(error)),
        Input::Issued { result: Ok(accepted), .. } => ("issued", accepted.node.clone()),
        Input::Answered { result: Err(error), .. } => ("not answered", failure(error)),
        Input::Answered { .. } => ("answered", String::new()),
        Input::SessionEnded { failure: error, .. } => ("session ended", failure(error)),
        Input::SessionDialed { .. } => ("session dialed", String::new()),
        Input::Message { .. } => ("session message", String::new()),
        Input::Heartbeat { result: Err(error), .. } => ("heartbeat failed", failure(error)),
        Input::Heartbeat { .. } => ("heartbeat", String::new()),
        Input::Unlocked { .. } => ("unlocked", String::new()),
        Input::Clock { offset_ms, .. } => ("clock", offset_ms.to_string()),
        _ => ("told", String::new()),
    }
}
