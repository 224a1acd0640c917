//! The world of several managers: virtual time, one queue of events, and what goes wrong between everybody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::authorize::Standing;
use cluster::settings::Settings;
use cluster::{Command, State};
use manager::bootstrap::{Bootstrap, Params};
use manager::collect::COLLECT_PERIOD;
use manager::roster::{Sharer, WAY_MAX};
use pki::digest::Digest;
use pki::identity::{NodeId, Role};
use pki::time::Time;
use replica::Handle;
use replica::model::group::{GroupFaults, ModelGroup, ModelMember};
use swarmpki::plan::{Failure, FailureKind, Input, Timer};
use wire::managers::{NodeSession, ShareRequest, ShareResponse};

use super::strike::Strike;
use super::witness::{CUT_OFF_MAX, Witness};
use crate::chance::Chance;
use crate::machine::{Act, Disk, Hands, Machine};
use crate::manager::{Manager, Mischief, Tell};
use crate::operator::Operator;
use crate::packet::{Call, ConnId, Packet};
use crate::signer::Key;
use crate::world::{START, Weather, broke, describe, repeatable, unheard};

/// How long a caller waits for an answer. Source: pki.md 1.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How often sessions are shared at least, and everything is looked at that time changes.
const TICK: Duration = Duration::from_secs(1);
/// A manager that has not heard the leader for so long admits no session. Source: design.md 7.
const CUT_OFF_AFTER: Duration = Duration::from_secs(3);
/// Time for the leader's answer when sessions are shared.
const SHARED_WITHIN: Duration = WAY_MAX;
/// From the loss of a leader to the next election.
const ELECTION: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// Lines of the trace that are kept for a failure.
const TRACE_LINES: usize = 20_000;

type Led = (u64, u64);

enum Event {
    Timer { machine: usize, boot: u32, timer: Timer, stamp: u64 },
    Arrive { to: usize, packet: Box<Packet> },
    Tell { machine: usize, boot: u32, conn: ConnId, input: Input },
    Decide,
    Apply(u64),
    Elect,
    Tick,
    Deadline(usize),
    Share(usize),
    Ask { from: usize, run: u64, to: usize, leader: Led, request: ShareRequest, present: Present },
    Answer { to: usize, run: u64, leader: Led, response: ShareResponse, present: Present },
    Close(usize, ConnId),
    HangUp { machine: usize, boot: u32 },
    Boot(usize),
    Heal(usize),
    Prompt(u64),
    Wipe(usize),
    Collect,
}

type Present = BTreeMap<NodeId, NodeSession>;

/// A place in the group, on a machine.
struct Seat {
    raft_id: u64,
    manager: Option<Manager<ModelMember>>,
    /// Counts its lives.
    run: u64,
    sharer: Sharer,
    sharing: Option<Time>,
    /// The term in which it began to lead last.
    led: u64,
    deadline: Option<Time>,
}

/// A cluster of several managers.
pub struct Group {
    /// The true time.
    pub now: Time,
    /// The run's chance.
    pub chance: Chance,
    /// The weather between nodes and managers.
    pub weather: Weather,
    /// What was decided, and who knows of it.
    pub log: ModelGroup,
    /// The machines.
    pub machines: Vec<Machine>,
    /// Machines whose operator makes them managers.
    pub wanted: BTreeSet<usize>,
    /// Machines that nobody hears.
    pub cut: BTreeSet<usize>,
    /// Machines that were removed, by their identities then.
    pub removed: Vec<(usize, crate::packet::Identity)>,
    /// Who asks for other roots.
    pub operator: Operator,
    /// Who sees everything.
    pub witness: Witness,
    /// A number that stands for everything that happened, in order.
    pub trace: u64,
    /// Events so far.
    pub events: u64,
    /// How often another came to lead.
    pub elections: u64,
    /// Rotations that ended.
    pub rotations: u64,
    /// With what the leader's power goes.
    pub strike: Option<Strike>,
    mischief: Option<Mischief>,
    /// Whether nothing goes wrong any more.
    calm: bool,
    seats: BTreeMap<usize, Seat>,
    late: BTreeMap<u64, Duration>,
    applying: BTreeSet<u64>,
    deciding: bool,
    electing: bool,
    /// Since when somebody leads whom all know.
    led_since: Time,
    routes: BTreeMap<ConnId, usize>,
    lines: VecDeque<String>,
    queue: BTreeMap<(Time, u64), Event>,
    sequence: u64,
    conns: ConnId,
    fifo: BTreeMap<ConnId, Time>,
}

fn addr(machine: usize) -> String {
    format!("machine-{machine}:2377")
}

fn place(addr: &str) -> Option<usize> {
    addr.strip_prefix("machine-")?.strip_suffix(":2377")?.parse().ok()
}

impl Group {
    /// A cluster of one manager, on machine 0; others may come.
    ///
    /// # Errors
    /// If the cluster cannot begin: that must never be.
    pub fn new(seed: u64, mischief: Option<Mischief>) -> Result<Self, String> {
        let mut chance = Chance::new(seed);
        let source = Mutex::new(Chance::new(chance.draw()));
        let bytes = manager::Chance::new(move |bytes| {
            source.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
            true
        });
        let settings = Settings {
            node_cert_expiry: Duration::from_secs(3600),
            heartbeat: Duration::from_secs(5),
            ..Settings::default()
        };
        let params = Params { addr: addr(0), availability: cluster::node::Availability::Active, settings };
        let mut begun = Bootstrap::prepare(params, &bytes, START).map_err(|error| error.to_string())?;
        let root = repeatable(&mut begun).ok_or("the first certificates are signed again")?;
        let log = ModelGroup::create(chance.draw(), START, begun.command);
        if mischief == Some(Mischief::NoAlready) {
            log.forget_already();
        }
        let mut first = Machine::new(0, 0);
        let key = Key::from_pkcs8(begun.key.pkcs8_der().expose()).ok_or("the first key is not there")?;
        first.disk.trust = Some(begun.trust);
        first.disk.pair = Some((begun.chain, Arc::new(key), START));
        let mut group = Self {
            now: START,
            chance,
            weather: Weather::FAIR,
            log,
            machines: vec![first],
            wanted: BTreeSet::from([0]),
            cut: BTreeSet::new(),
            removed: Vec::new(),
            operator: Operator::new(root),
            witness: Witness::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            events: 0,
            elections: 0,
            rotations: 0,
            strike: None,
            mischief,
            calm: false,
            seats: BTreeMap::new(),
            late: BTreeMap::new(),
            applying: BTreeSet::new(),
            deciding: false,
            electing: false,
            led_since: START,
            routes: BTreeMap::new(),
            lines: VecDeque::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            conns: 0,
            fifo: BTreeMap::new(),
        };
        group.sit(0, 1);
        group.boot(0);
        group.after(TICK, Event::Tick);
        group.after(COLLECT_PERIOD, Event::Collect);
        Ok(group)
    }

    /// Runs for a while, or until something is broken.
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now.saturating_add(span);
        while self.witness.broken.is_none() {
            if self.queue.first_key_value().is_none_or(|(&(at, _), _)| at > end) {
                break;
            }
            let Some(((at, _), event)) = self.queue.pop_first() else { break };
            self.now = at;
            self.events += 1;
            self.log.set_time(at);
            self.handle(event);
            self.settle();
        }
        self.now = self.now.max(end);
        self.log.set_time(self.now);
    }

    /// A machine that will join.
    pub fn add(&mut self, offset_ms: i64) -> usize {
        let index = self.machines.len();
        self.machines.push(Machine::new(index, offset_ms));
        index
    }

    /// The machine of the manager that leads.
    pub fn leader(&self) -> Option<usize> {
        let leader = self.log.leader()?;
        self.seats
            .iter()
            .find(|(_, seat)| seat.raft_id == leader && seat.manager.is_some())
            .map(|(machine, _)| *machine)
    }

    /// Machines with a manager that runs: it does from when it has its place, and may not know of it yet.
    fn running(&self) -> Vec<usize> {
        self.seats.iter().filter(|(_, seat)| seat.manager.is_some()).map(|(machine, _)| *machine).collect()
    }

    /// Machines with a manager that knows that it is one: operators ask these.
    pub fn managers(&self) -> Vec<usize> {
        let seated = |machine: &usize| {
            let (Some(state), Some(id)) = (self.applied(*machine), self.machines[*machine].id()) else { return false };
            let role = state.node(&id).map(|node| node.role);
            let placed = state.members.rows.get(&id).map(|row| row.raft_id);
            role == Some(Role::Manager) && placed == self.raft_id(*machine)
        };
        self.running().into_iter().filter(seated).collect()
    }

    /// Machines with a place in the group whose manager is not there for everybody.
    pub fn missing(&self) -> usize {
        self.seats
            .iter()
            .filter(|(machine, seat)| {
                seat.manager.is_none() || !self.log.reaches(seat.raft_id) || self.cut.contains(machine)
            })
            .count()
    }

    /// The number of a machine's place in the group.
    pub fn raft_id(&self, machine: usize) -> Option<u64> {
        self.seats.get(&machine).map(|seat| seat.raft_id)
    }

    /// The manager on a machine.
    pub fn manager(&self, machine: usize) -> Option<&Manager<ModelMember>> {
        self.seats.get(&machine)?.manager.as_ref()
    }

    /// What the manager of a machine has applied.
    pub fn applied(&self, machine: usize) -> Option<Arc<State>> {
        Some(self.log.member(self.seats.get(&machine)?.raft_id).state())
    }

    /// The clock of a machine.
    pub fn clock(&self, machine: usize) -> Time {
        self.machines.get(machine).map_or(self.now, |machine| machine.clock(self.now))
    }

    /// The operator asks the manager of a machine for something.
    pub fn operate(&mut self, machine: usize, command: Command) {
        if let Some(manager) = self.seats.get_mut(&machine).and_then(|seat| seat.manager.as_mut()) {
            manager.ask(command);
        }
        self.settle();
    }

    /// Tells a machine something as its operator would.
    pub fn tell(&mut self, machine: usize, input: Input) {
        let boot = self.machines.get(machine).map_or(0, |machine| machine.boot);
        self.after(Duration::ZERO, Event::Tell { machine, boot, conn: 0, input });
    }

    /// Nobody hears a machine for a while, or only managers do not hear its manager.
    pub fn cut_for(&mut self, machine: usize, whole: bool, span: Duration) {
        self.note(machine, if whole { "cut" } else { "parted" }, || format!("{span:?}"));
        if whole {
            self.cut.insert(machine);
        }
        if let Some(seat) = self.seats.get(&machine) {
            self.log.cut(seat.raft_id);
        }
        self.after(span, Event::Heal(machine));
        self.settle();
    }

    /// A member applies what was decided late, for a while.
    pub fn late_for(&mut self, machine: usize, by: Duration, span: Duration) {
        let Some(raft_id) = self.seats.get(&machine).map(|seat| seat.raft_id) else { return };
        self.note(machine, "late", || format!("{by:?} for {span:?}"));
        self.late.insert(raft_id, by);
        self.after(span, Event::Prompt(raft_id));
    }

    /// Everything is well from now on.
    pub fn calm(&mut self) {
        self.calm = true;
        self.weather = Weather::FAIR;
        self.log.set_faults(GroupFaults::default());
        self.cut.clear();
        self.late.clear();
        for seat in self.seats.values() {
            self.log.heal(seat.raft_id);
        }
        for machine in 0..self.machines.len() {
            if self.machines[machine].plan.is_none() {
                self.boot(machine);
            }
        }
    }

    /// Changes the weather.
    pub fn set_weather(&mut self, weather: Weather, faults: GroupFaults) {
        self.weather = weather;
        self.log.set_faults(faults);
    }

    /// The operator empties a machine and lets it join again, after a while.
    pub fn wipe_after(&mut self, machine: usize, span: Duration) {
        self.after(span, Event::Wipe(machine));
    }

    /// Power on, after a while.
    pub fn boot_after(&mut self, machine: usize, span: Duration) {
        self.after(span, Event::Boot(machine));
    }

    /// Power on.
    pub fn boot(&mut self, index: usize) {
        let role =
            if self.wanted.contains(&index) { cluster::tokens::MANAGER_ROW } else { cluster::tokens::WORKER_ROW };
        let token = self.token(role);
        let mut managers = self.managers();
        if managers.is_empty() {
            managers = self.seats.keys().copied().collect();
        }
        // Whom the operator names first is a matter of chance.
        let turn = self.chance.below(managers.len().max(1) as u64) as usize;
        managers.rotate_left(turn);
        let addrs: Vec<String> = managers.into_iter().map(addr).collect();
        let Some(machine) = self.machines.get_mut(index).filter(|machine| machine.plan.is_none()) else { return };
        machine.token = token;
        let mut hands = Hands { chance: &mut self.chance, conns: &mut self.conns, torn: self.weather.torn };
        let started = machine.start(self.now, &mut hands, &addrs);
        self.note(index, "boot", String::new);
        if let Some(seat) = self.seats.get(&index) {
            self.log.reopen(seat.raft_id);
        }
        match started {
            Ok(acts) => self.act(index, acts),
            Err(error) => self.witness.demand(false, || format!("machine {index} starts from its disk: {error}")),
        }
    }

    /// Power off. The machine takes its manager with it.
    pub fn crash(&mut self, index: usize) {
        self.note(index, "crash", String::new);
        self.stop(index);
        if let Some(seat) = self.seats.get(&index) {
            self.log.crash(seat.raft_id);
        }
        let Some(machine) = self.machines.get_mut(index) else { return };
        let boot = machine.boot;
        machine.crash();
        self.hang_up(index, boot);
        // What is on its way opens connections to nobody.
        let longest = self.weather.delay;
        self.after(longest, Event::HangUp { machine: index, boot });
        self.settle();
    }

    fn hang_up(&mut self, index: usize, boot: u32) {
        for seat in self.seats.values_mut() {
            if let Some(manager) = &mut seat.manager {
                manager.hang_up(index, boot);
            }
        }
    }

    /// The manager of a machine stops.
    fn stop(&mut self, index: usize) {
        let mut out = Vec::new();
        if let Some(mut manager) = self.seats.get_mut(&index).and_then(|seat| seat.manager.take()) {
            manager.fall(&mut out);
            self.witness.broken = self.witness.broken.take().or(manager.ledger.broken);
        }
        self.carry(index, out);
    }

    fn token(&self, row: u32) -> Arc<str> {
        let state = &self.witness.state;
        let fips = state.cluster.as_ref().is_some_and(|facts| facts.fips);
        let digest = state.roots.served().map(|root| Digest::of(&root.bundle));
        let token = digest.and_then(|digest| state.tokens.text(row, &digest, fips));
        token.map_or_else(|| Arc::from(""), |token| Arc::from(token.text()))
    }

    /// The last lines of what happened.
    pub fn last_lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
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
        self.lines.push_back(format!(
            "{:>9}.{:03} s  machine {machine}: {word} {}",
            since / 1000,
            since % 1000,
            detail()
        ));
        if self.lines.len() > TRACE_LINES {
            self.lines.pop_front();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Boot(machine) => self.boot(machine),
            Event::Wipe(machine) => {
                // Nobody empties a manager: it may have become one since.
                let id = self.machines[machine].id();
                let state = &self.witness.state;
                let placed = id.as_ref().is_some_and(|id| state.members.rows.contains_key(id));
                let wished = id.and_then(|id| state.node(&id)).is_some_and(|node| node.spec.role == Role::Manager);
                if placed || wished {
                    return;
                }
                self.crash(machine);
                self.machines[machine].disk = Disk::default();
                self.boot(machine);
            }
            Event::Heal(machine) => {
                self.cut.remove(&machine);
                if let Some(seat) = self.seats.get(&machine) {
                    self.log.heal(seat.raft_id);
                }
            }
            Event::Prompt(raft_id) => drop(self.late.remove(&raft_id)),
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
                self.note(machine, word, || detail);
                self.feed(machine, input);
            }
            Event::Arrive { to, packet } => self.arrive(to, *packet),
            Event::Decide => {
                self.deciding = false;
                if self.strike.is_some_and(|strike| strike.falls(self)) {
                    return self.strike = None;
                }
                let stamp = self.leader().map_or(self.now, |leader| self.clock(leader));
                self.log.step(stamp);
                self.meddle();
            }
            Event::Apply(raft_id) => {
                self.applying.remove(&raft_id);
                self.log.apply(raft_id);
            }
            Event::Elect => {
                self.electing = false;
                if let Some(elected) = self.log.elect() {
                    self.elections += 1;
                    self.led_since = self.now;
                    self.note(elected as usize, "elected", || format!("member {elected}"));
                }
            }
            Event::Deadline(machine) => {
                let clock = self.clock(machine);
                let mut out = Vec::new();
                let Some(seat) = self.seats.get_mut(&machine) else { return };
                seat.deadline = None;
                if let Some(manager) = &mut seat.manager {
                    manager.time(clock, &mut out);
                }
                self.carry(machine, out);
            }
            Event::Tick => self.tick(),
            Event::Share(machine) => self.share(machine),
            Event::Ask { from, run, to, leader, request, present } => {
                let clock = self.clock(to);
                let Some(member) = self.seats.get(&from).map(|seat| seat.raft_id) else { return };
                let reaches = self.log.reaches(member);
                let Some(manager) = self.seats.get_mut(&to).and_then(|seat| seat.manager.as_mut()) else { return };
                if reaches && manager.leads() {
                    let mut out = Vec::new();
                    let response = manager.share(clock, member, request, &mut out);
                    self.carry(to, out);
                    let way = self.way();
                    self.after(way, Event::Answer { to: from, run, leader, response, present });
                }
            }
            Event::Answer { to, run, leader, response, present } => {
                let mut out = Vec::new();
                let Some(seat) = self.seats.get_mut(&to).filter(|seat| seat.run == run) else { return };
                seat.sharing = None;
                let Some(manager) = &mut seat.manager else { return };
                manager.roster.learn(&response);
                for (node, session) in seat.sharer.answered(leader, present, &response) {
                    manager.moved(&node, &session, &mut out);
                }
                self.carry(to, out);
                if response.tell_all {
                    self.share(to);
                }
            }
            Event::Collect => {
                if let Some(leader) = self.leader() {
                    let clock = self.clock(leader);
                    if let Some(manager) = self.seats.get_mut(&leader).and_then(|seat| seat.manager.as_mut()) {
                        manager.collect(clock);
                    }
                }
                self.fifo.retain(|_, at| *at > self.now);
                self.after(COLLECT_PERIOD, Event::Collect);
            }
            Event::HangUp { machine, boot } => self.hang_up(machine, boot),
            Event::Close(to, conn) => {
                self.routes.remove(&conn);
                if let Some(manager) = self.seats.get_mut(&to).and_then(|seat| seat.manager.as_mut()) {
                    manager.close(conn);
                }
            }
        }
    }

    /// Now and then an operator comes between two copies of a proposal whose answer was lost, and takes away what it stood on.
    fn meddle(&mut self) {
        let meddles = !self.calm && self.chance.in_thousand(300);
        let Some(again) = meddles.then(|| self.log.said_again()).filter(|again| !again.is_empty()) else { return };
        let managers = self.managers();
        let Some(by) = self.chance.pick(&managers) else { return };
        for command in again {
            match command {
                Command::Admit(_) => return super::run::rotate_token(self, by),
                Command::Renew(renew) => {
                    let machine = self.machines.iter().position(|machine| machine.id().as_ref() == Some(&renew.node));
                    return machine.into_iter().for_each(|machine| super::run::role(self, by, machine));
                }
                _ => {}
            }
        }
    }

    /// A second has passed.
    fn tick(&mut self) {
        self.after(TICK, Event::Tick);
        for machine in self.running() {
            let clock = self.clock(machine);
            let reachable: BTreeSet<u64> = self.reachable();
            let mut out = Vec::new();
            let Some(seat) = self.seats.get_mut(&machine) else { continue };
            let Some(manager) = &mut seat.manager else { continue };
            let contact = manager.log.contact();
            if manager.hears(contact.is_none_or(|since| since <= CUT_OFF_AFTER), &mut out) {
                (seat.sharer, seat.sharing) = (Sharer::new(self.chance.draw()), None);
                seat.run += 1;
            }
            if manager.leads() {
                manager.look_after(clock, &mut out);
                manager.tend(clock, |id| reachable.contains(&id));
            }
            self.carry(machine, out);
            self.share(machine);
        }
        self.take_places();
        self.compare();
    }

    /// Members whom the leader hears.
    fn reachable(&self) -> BTreeSet<u64> {
        self.seats.values().map(|seat| seat.raft_id).filter(|id| self.log.reaches(*id)).collect()
    }

    /// Machines whose certificate says manager look for a place; who has one that is gone gives it up.
    fn take_places(&mut self) {
        for index in 0..self.machines.len() {
            let row = self.machines[index]
                .id()
                .and_then(|id| self.witness.state.members.rows.get(&id).map(|row| row.raft_id));
            if let Some(seat) = self.seats.get(&index) {
                if row == Some(seat.raft_id) {
                    continue;
                }
                // Another told it, as one of the group does.
                let raft_id = seat.raft_id;
                self.note(index, "no manager any more", || format!("member {raft_id}"));
                self.stop(index);
                self.log.crash(raft_id);
                self.seats.remove(&index);
                continue;
            }
            let machine = &self.machines[index];
            let Some(identity) = machine.live.clone().filter(|_| machine.plan.is_some()) else { continue };
            if machine.role() != Some(Role::Manager) || self.cut.contains(&index) {
                continue;
            }
            let others: Vec<usize> = self.managers().into_iter().filter(|other| !self.cut.contains(other)).collect();
            let Some(asked) = self.chance.pick(&others) else { continue };
            let Some(own) = self.machines[asked].live.clone() else { continue };
            let clock = self.clock(asked);
            if let Some(manager) = self.seats.get_mut(&asked).and_then(|seat| seat.manager.as_mut()) {
                let refused = manager.enlist(clock, &own, &identity, (index, 0, addr(index))).err();
                if let Some(refused) = refused {
                    self.note(index, "no place", || refused.to_string());
                }
            }
        }
    }

    fn sit(&mut self, machine: usize, raft_id: u64) {
        self.log.member(raft_id);
        let seat =
            Seat { raft_id, manager: None, run: 0, sharer: Sharer::default(), sharing: None, led: 0, deadline: None };
        self.seats.insert(machine, seat);
    }

    /// A manager tells the leader of its sessions.
    fn share(&mut self, machine: usize) {
        let clock = self.clock(machine);
        let Some(seat) = self.seats.get_mut(&machine) else { return };
        let Some(manager) = &mut seat.manager else { return };
        let leadership = *manager.log.leadership().borrow();
        let Some(to) = leadership.leader else { return };
        let state = manager.state();
        if state.members.rows.len() <= 1 || seat.sharing.is_some_and(|until| self.now < until) {
            return;
        }
        let leader = (leadership.term, to);
        let present = manager.sessions.shared();
        let request = seat.sharer.request(clock, leader, state.epoch, manager.roster.known(), &present);
        if leadership.here {
            let mut out = Vec::new();
            let response = manager.share(clock, to, request, &mut out);
            for (node, session) in seat.sharer.answered(leader, present, &response) {
                manager.moved(&node, &session, &mut out);
            }
            return self.carry(machine, out);
        }
        seat.sharing = Some(self.now.saturating_add(SHARED_WITHIN));
        let run = seat.run;
        let leads = self.seats.iter().find(|(_, seat)| seat.raft_id == to).map(|(machine, _)| *machine);
        if let Some(to) = leads.filter(|_| !self.chance.in_thousand(self.weather.lost / 4)) {
            let way = self.way();
            self.after(way, Event::Ask { from: machine, run, to, leader, request, present });
        }
    }

    fn arrive(&mut self, to: usize, packet: Packet) {
        let (clock, own) = (self.clock(to), self.machines[to].live.clone());
        let refused = || Failure::new(FailureKind::Connect, "connection refused");
        let mut out = Vec::new();
        let Some(seat) = self.seats.get_mut(&to) else {
            return self.fail(&packet, refused(), Duration::from_millis(1));
        };
        let reaches = self.log.reaches(seat.raft_id);
        let Some(manager) = &mut seat.manager else {
            return self.fail(&packet, refused(), Duration::from_millis(1));
        };
        let node = self.machines[packet.machine].id();
        let machine = packet.machine;
        let session = matches!(packet.call, Call::Session { .. });
        let word = packet.call.word();
        let heard = |manager: &Manager<ModelMember>, node: &NodeId| {
            manager.sessions.row(node).filter(|row| row.session.is_some()).and_then(|row| row.last_contact)
        };
        manager.receive(own.as_ref(), clock, packet, &mut out);
        if let Some(node) = node.filter(|node| reaches && heard(manager, node) == Some(clock)) {
            self.witness.hears(&node, seat.raft_id, self.now);
        }
        self.note(machine, word, || format!("at {to}"));
        self.carry(to, out);
        if session {
            self.after(Duration::from_millis(10), Event::Share(to));
        }
    }

    fn feed(&mut self, index: usize, input: Input) {
        let mut hands = Hands { chance: &mut self.chance, conns: &mut self.conns, torn: self.weather.torn };
        let Some(machine) = self.machines.get_mut(index) else { return };
        let acts = machine.feed(self.now, input, &mut hands);
        if machine.says_removed() {
            let (id, trouble) = (machine.id(), machine.trouble.clone());
            let alive = id.is_some_and(|id| self.witness.state.node(&id).is_some());
            self.witness
                .demand(!alive, || format!("machine {index} believes that it was removed, and was not: {trouble}"));
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
                Act::Send { conn, dial, to, call } => {
                    let at = self.machines[index].clock(self.now);
                    let to = if dial.is_some() { place(&to) } else { self.routes.get(&conn).copied() };
                    self.send(to, Packet { machine: index, boot, conn, dial, at, call });
                }
                Act::Close(conn) => {
                    if let Some(to) = self.routes.get(&conn).copied() {
                        // After whatever was sent on it.
                        let longest = self.weather.delay;
                        self.after(longest, Event::Close(to, conn));
                    }
                }
                Act::Crashed => {
                    self.crash(index);
                    let off = self.chance.span(Duration::from_secs(1), Duration::from_secs(60));
                    self.boot_after(index, off);
                }
                Act::JoinFailed(text) => {
                    self.note(index, "join failed", || text);
                    self.crash(index);
                    self.boot_after(index, Duration::from_secs(10));
                }
            }
        }
    }

    /// Whether two machines hear each other.
    fn hear(&self, one: usize, other: usize) -> bool {
        one == other || !(self.cut.contains(&one) || self.cut.contains(&other))
    }

    fn send(&mut self, to: Option<usize>, packet: Packet) {
        let refused = || Failure::new(FailureKind::Connect, "connection refused");
        let Some(to) = to else { return self.fail(&packet, refused(), Duration::from_millis(1)) };
        self.routes.insert(packet.conn, to);
        let lost = to != packet.machine && self.chance.in_thousand(self.weather.lost);
        if lost || !self.hear(packet.machine, to) {
            let failure = Failure::new(FailureKind::Timeout, "no answer within 5 s");
            return self.fail(&packet, failure, CALL_DEADLINE);
        }
        if matches!(packet.call, Call::Issue { .. }) && self.chance.in_thousand(self.weather.twice) {
            // The copy's answers go to nobody.
            let copy = Packet { boot: u32::MAX, ..packet.clone() };
            let way = self.way();
            self.after(way, Event::Arrive { to, packet: Box::new(copy) });
        }
        let way = self.way();
        self.after(way, Event::Arrive { to, packet: Box::new(packet) });
    }

    fn fail(&mut self, packet: &Packet, failure: Failure, after: Duration) {
        if let Some(input) = packet.call.failed(failure) {
            let (machine, boot, conn) = (packet.machine, packet.boot, packet.conn);
            self.after(after, Event::Tell { machine, boot, conn, input });
        }
    }

    /// Carries what a manager has to say.
    fn carry(&mut self, from: usize, out: Vec<Tell>) {
        for Tell { conn, machine, boot, input } in out {
            let lost = machine != from && self.chance.in_thousand(self.weather.lost);
            let (input, way) = if lost || !self.hear(from, machine) {
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
    }

    /// After every event: who leads, who was answered, who wants to be woken, and what must never be.
    fn settle(&mut self) {
        if self.witness.replay(&self.log) {
            self.rotations += u64::from(self.witness.rotation_ended());
        }
        for machine in self.seats.keys().copied().collect::<Vec<_>>() {
            self.settle_seat(machine);
        }
        if self.log.leader().is_none() && !self.electing {
            self.electing = true;
            let span = self.chance.span(ELECTION[0], ELECTION[1]);
            self.after(span, Event::Elect);
        }
        if self.log.has_work() && !self.deciding {
            self.deciding = true;
            let way = self.way();
            self.after(way, Event::Decide);
        }
        for raft_id in self.seats.values().map(|seat| seat.raft_id).collect::<Vec<_>>() {
            if self.log.behind(raft_id) > 0 && self.log.reaches(raft_id) && self.applying.insert(raft_id) {
                let late = self.late.get(&raft_id).copied().unwrap_or_default();
                let way = self.way() + self.chance.span(Duration::ZERO, late);
                self.after(way, Event::Apply(raft_id));
            }
        }
    }

    fn settle_seat(&mut self, machine: usize) {
        let clock = self.clock(machine);
        let up = self.machines[machine].plan.is_some();
        let mut out = Vec::new();
        let Some(seat) = self.seats.get_mut(&machine) else { return };
        if seat.manager.is_none() && up {
            // It serves as soon as it has its place: it may come to lead before it is a manager.
            let member = self.log.member(seat.raft_id);
            let mut manager = Manager::one_of(member, Chance::new(self.chance.draw()), clock);
            manager.mischief = self.mischief;
            seat.run += 1;
            (seat.sharer, seat.sharing) = (Sharer::new(self.chance.draw()), None);
            (seat.led, seat.deadline) = (0, None);
            seat.manager = Some(manager);
        }
        let Some(manager) = &mut seat.manager else { return };
        let leadership = *manager.log.leadership().borrow();
        if !leadership.here {
            seat.led = 0;
        } else if seat.led != leadership.term {
            seat.led = leadership.term;
            manager.begin_to_lead(clock, &mut out);
        }
        let reaches = self.log.reaches(seat.raft_id);
        let mut called = Vec::new();
        manager.progress(clock, &mut out);
        for node in std::mem::take(&mut manager.called_down) {
            if reaches {
                self.witness.called_down(&node, machine, &self.log, self.now);
            }
            called.push(node);
        }
        for leaf in std::mem::take(&mut manager.alarms) {
            let standing = self.witness.state.standing(&leaf, clock);
            let forged = matches!(standing, Standing::Unregistered);
            self.witness
                .demand(forged, || format!("no leaf is called forged that is not: {} is {standing:?}", leaf.node));
        }
        let contact = manager.log.contact();
        if contact.is_some_and(|since| since > CUT_OFF_MAX) {
            let opened = manager.present().find(|node| manager.in_session(node).is_some_and(|since| since == clock));
            self.witness.demand(opened.is_none(), || {
                format!("a manager that hears nobody admits nobody: {opened:?} after {contact:?}")
            });
        }
        let enlisted = std::mem::take(&mut manager.enlisted);
        self.witness.broken = self.witness.broken.take().or_else(|| manager.ledger.broken.take());
        if let Some(due) = manager.next_deadline() {
            let offset = self.machines[machine].offset_ms;
            let due = Time::from_unix_millis(due.unix_millis() - offset).max(self.now);
            if seat.deadline.is_none_or(|known| due < known) {
                seat.deadline = Some(due);
                self.at(due, Event::Deadline(machine));
            }
        }
        self.carry(machine, out);
        for node in called {
            self.note(machine, "calls down", || node.to_string());
        }
        for (newcomer, raft_id) in enlisted {
            if !self.seats.contains_key(&newcomer) && self.machines[newcomer].plan.is_some() {
                self.note(newcomer, "enlisted", || format!("as member {raft_id}"));
                self.sit(newcomer, raft_id);
            }
        }
    }

    /// Whether sessions are counted as they are.
    fn compare(&mut self) {
        let Some(leader) = self.leader().filter(|leader| !self.cut.contains(leader)) else {
            return self.witness.forgive();
        };
        let mut present: BTreeMap<NodeId, Vec<(u64, Time)>> = BTreeMap::new();
        for seat in self.seats.values().filter(|seat| self.log.reaches(seat.raft_id)) {
            let Some(manager) = &seat.manager else { continue };
            for node in manager.present() {
                let since = manager.in_session(node).unwrap_or(self.now);
                present.entry(node.clone()).or_default().push((seat.raft_id, since));
            }
        }
        let Some(manager) = self.manager(leader) else { return };
        let alone = manager.state().members.rows.len() <= 1;
        let counted: BTreeMap<NodeId, u64> =
            manager.roster.rows().map(|(node, session)| (node.clone(), session.manager)).collect();
        let state = Arc::clone(&self.witness.state);
        for node in state.finished() {
            let here = present.get(&node.id).map(Vec::as_slice).unwrap_or_default();
            let one = here.len() == 1;
            self.witness.mistake(&node.id, "a node in session is called down", one && node.down, self.now);
            let nowhere = here.is_empty() && !node.down;
            self.witness.mistake(&node.id, "a node that is nowhere is not called down", nowhere, self.now);
            self.witness.mistake(&node.id, "a node has two sessions", here.len() > 1, self.now);
            let elsewhere = one && !alone && counted.get(&node.id) != here.first().map(|(id, _)| id);
            self.witness.mistake(&node.id, "a session is counted with another manager", elsewhere, self.now);
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
        self.queue.insert((at, self.sequence), event);
    }
}
