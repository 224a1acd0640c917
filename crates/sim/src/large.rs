//! A rotation of a cluster that is too large to be simulated packet by packet: the product's state, session table and pacer
//! as they are, and around them a model of what they cost.
//!
//! What it assumes:
//! - **The manager** is one machine with so many cores. Work waits in one queue for a free core. A certificate over a new
//!   connection, and a new session, cost what docs/performance.md measured ([`Costs`]); heartbeats of all nodes take their part
//!   of the cores away for good.
//! - **The log** writes one entry at a time, of at most 256 commands; a sync takes 2 ms, a command 15 µs.
//! - **The network**: a way takes 1 to 10 ms; a call on a new connection takes five ways until its answer's work begins
//!   (TCP, TLS 1.3, the call). One message in a thousand to a node is lost.
//! - **A node** is of the engine's kind: told to renew by a status that has changed, it waits half a second, asks for a
//!   certificate, fetches it, and opens a session anew at once. It takes a root only if its leaf verifies to it, and then opens
//!   its session anew within 20 ms.
//! - Leaves are numbers here, not certificates: nothing is signed but the root and its cross-certificate.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::command::{Admit, Batch, Command, Premises, Renew, Reported, UpdateCluster};
use cluster::node::{Availability, BlobDigest, Leaf, Letter, Node, Report, Spec, TokenUse};
use cluster::rotation::{Need, Phase, Policy, need};
use cluster::settings::Settings;
use cluster::{Outcome, State};
use manager::bootstrap::{Bootstrap, Params};
use manager::rotate::{self, Pacer, look};
use manager::sessions::{Input, Opening, Sessions};
use pki::identity::{NodeId, Role};
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;

use crate::chance::Chance;
use crate::world::START;

/// What the manager's work costs on one core, and what a node takes.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// A new connection and a certificate over it, with the question for it.
    pub certificate: Duration,
    /// A new connection and a session on it.
    pub session: Duration,
    /// Verifying and signing one request, as the pacer measures it.
    pub signing: Duration,
    /// An idle node, each second.
    pub idle: Duration,
    /// One sync of the log.
    pub sync: Duration,
    /// One command applied.
    pub command: Duration,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            certificate: Duration::from_micros(700),
            session: Duration::from_micros(1400),
            signing: Duration::from_micros(150),
            idle: Duration::from_micros(35),
            sync: Duration::from_millis(2),
            command: Duration::from_micros(15),
        }
    }
}

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Large {
    /// Everything that is drawn follows from it.
    pub seed: u64,
    /// Nodes beside the manager.
    pub nodes: usize,
    /// The manager's cores.
    pub cores: usize,
    /// What things cost.
    pub costs: Costs,
}

/// What came of it; simulated time, but for the last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Until every node had renewed.
    pub renewed: Duration,
    /// Until the end.
    pub finished: Duration,
    /// The longest that work waited for a core.
    pub waited_max: Duration,
    /// A node without its session: half of all times were below this.
    pub away_median: Duration,
    /// And 99 of 100.
    pub away_p99: Duration,
    /// Calls in work at a time, at most.
    pub calls_max: usize,
    /// The cores' load while it ran, idle nodes included, in thousandths.
    pub load: u64,
    /// Entries of the log.
    pub entries: u64,
    /// What the product's own pacer, session table and state took of this machine's time.
    pub decided: Duration,
}

/// How long it may take before it is given up.
const GIVEN_UP: Duration = Duration::from_secs(3600);
/// Commands in one entry. Source: the replica's batch.
const ENTRY_MAX: usize = 256;
/// An engine's pause before it obeys. Source: pki.md 8.1.
const PAUSE: u64 = 500_000;
/// An engine's time until it opens its session anew with another root. Source: pki.md 12.8.
const TAKES: u64 = 20_000;
const LOST_PER_MILLE: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Told(usize, bool),
    Ask(usize),
    Signed(usize),
    Open(usize),
    Opened(usize),
    Entry,
    Look,
}

#[derive(Clone, Copy)]
enum From {
    Renewal(usize),
    Session(usize),
    Advance,
}

struct Member {
    id: NodeId,
    /// The leaf that it holds, once there is one after its first.
    serial: Option<Serial>,
    renewing: bool,
    /// When its session was let go, in microseconds.
    away: Option<u64>,
}

struct Model {
    large: Large,
    now: u64,
    state: Arc<State>,
    sessions: Sessions,
    pacer: Pacer,
    chance: Chance,
    members: Vec<Member>,
    places: HashMap<NodeId, usize>,
    queue: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    /// When each core is free.
    cores: BinaryHeap<Reverse<u64>>,
    worked: u64,
    waiting: VecDeque<(Command, From)>,
    writing: Vec<(Command, From)>,
    arrived: Vec<NodeId>,
    look_at: Option<u64>,
    advancing: bool,
    calls: usize,
    aways: Vec<u64>,
    figures: Figures,
    old: Vec<u8>,
}

/// Runs it.
///
/// # Errors
/// If the rotation does not end, or something is refused.
pub fn run(large: &Large) -> Result<Figures, String> {
    let mut model = Model::new(large)?;
    let began = model.rotate()?;
    while model.state.rotation().is_some() {
        let Some(Reverse((at, _, event))) = model.queue.pop() else { return Err("nothing happens any more".into()) };
        model.now = at;
        model.handle(event)?;
        if model.state.rotation().is_some_and(|rotation| rotation.phase == Phase::Trust)
            && model.figures.renewed.is_zero()
        {
            model.figures.renewed = Duration::from_micros(model.now - began);
        }
        if Duration::from_micros(model.now - began) > GIVEN_UP {
            return Err(format!("it does not end: {:?}", model.state.progress()));
        }
    }
    let took = model.now - began;
    let mut figures = model.figures;
    figures.finished = Duration::from_micros(took);
    model.aways.sort_unstable();
    let part = |of: usize| model.aways.get(model.aways.len() * of / 100).copied().unwrap_or_default();
    figures.away_median = Duration::from_micros(part(50));
    figures.away_p99 = Duration::from_micros(part(99));
    let idle = large.costs.idle.as_micros() as u64 * large.nodes as u64 * took / 1_000_000;
    figures.load = (model.worked + idle) * 1000 / (took.max(1) * large.cores as u64);
    if let Some(node) = model.state.finished().find(|node| need(&model.state.roots, node).is_some()) {
        return Err(format!("node {} was not converted", node.id));
    }
    Ok(figures)
}

impl Model {
    fn new(large: &Large) -> Result<Self, String> {
        let mut chance = Chance::new(large.seed);
        let settings = Settings::default();
        let params = Params { addr: "manager:2377".to_owned(), availability: Availability::Active, settings };
        let begun = Bootstrap::prepare(params, &source(&mut chance), START).map_err(|error| error.to_string())?;
        let mut state = State::empty();
        state.apply(1, &Batch { time: START, commands: vec![begun.command] });
        let idle = large.costs.idle.as_secs_f64() * large.nodes as f64;
        let cores = (large.cores as f64 - idle).floor().max(1.0) as usize;
        let old = state.roots.served().map(|root| root.bundle.clone()).unwrap_or_default();
        let mut model = Self {
            large: *large,
            now: 0,
            state: Arc::new(state),
            sessions: Sessions::default(),
            pacer: Pacer::new(large.cores),
            chance,
            members: Vec::new(),
            places: HashMap::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            cores: (0..cores).map(|_| Reverse(0)).collect(),
            worked: 0,
            waiting: VecDeque::new(),
            writing: Vec::new(),
            arrived: Vec::new(),
            look_at: None,
            advancing: false,
            calls: 0,
            aways: Vec::new(),
            figures: Figures::default(),
            old,
        };
        model.member(begun.node_id);
        for _ in 0..large.nodes {
            let id = NodeId::generate(model.chance.bytes());
            model.member(id);
        }
        model.join()?;
        Ok(model)
    }

    fn member(&mut self, id: NodeId) {
        self.places.insert(id.clone(), self.members.len());
        self.members.push(Member { id, serial: None, renewing: false, away: None });
    }

    /// Everybody joins, before the clock begins to run.
    fn join(&mut self) -> Result<(), String> {
        let mut commands = Vec::new();
        for place in 1..self.members.len() {
            let letter = Arc::new(self.letter(None, Role::Worker)?);
            let premises = Premises { issuer: letter.leaf.issuer, epoch: self.state.epoch(), signed: self.time() };
            let (node, serial) = (self.members[place].id.clone(), letter.leaf.serial);
            let generation = self.state.tokens.rows.first().map_or(0, |row| row.generation);
            let token = TokenUse { row: 0, generation };
            let spec = Spec::new(Role::Worker, Availability::Active);
            let admit = Admit { node: node.clone(), spec, ours: false, token, letter, premises };
            commands.extend([Command::Admit(Box::new(admit)), Command::Confirm { node, serial }]);
        }
        commands.extend((0..self.members.len()).map(|place| Command::Report(Box::new(self.report(place)))));
        // Joins and their ends in turn: only so many may be unfinished at a time.
        for chunk in commands.chunks(ENTRY_MAX) {
            self.apply(chunk.to_vec())?;
        }
        for place in 0..self.members.len() {
            self.open(place)?;
        }
        self.arrived.clear();
        Ok(())
    }

    fn rotate(&mut self) -> Result<u64, String> {
        // A moment later: registrations are counted.
        self.now = 60_000_000;
        let now = self.time();
        let root = rotate::generate(&source(&mut self.chance), now).map_err(|error| error.message)?;
        let change = rotate::prepare(&self.state, root, true, Policy::WaitForAll, &rotate::Signers::default(), now)
            .map_err(|error| error.message)?;
        let version = self.state.cluster_version;
        let roots = Some(change);
        let update = UpdateCluster { version, roots, ..UpdateCluster::default() };
        let began = self.now;
        self.apply(vec![Command::UpdateCluster(Box::new(update))])?;
        self.at(self.now, Event::Look);
        Ok(began)
    }

    fn time(&self) -> Time {
        START.saturating_add(Duration::from_micros(self.now))
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, event)));
    }

    fn ways(&mut self, count: u64) -> u64 {
        count * self.chance.between(1_000, 10_000)
    }

    /// Puts work into the queue for the cores: when it is done.
    fn work(&mut self, cost: Duration) -> u64 {
        let free = self.cores.pop().map_or(self.now, |Reverse(free)| free);
        let begins = free.max(self.now);
        self.figures.waited_max = self.figures.waited_max.max(Duration::from_micros(begins - self.now));
        let micros = cost.as_micros() as u64;
        self.worked += micros;
        self.cores.push(Reverse(begins + micros));
        begins + micros
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Told(place, pushed) if pushed => {
                let issuer = self.state.node(&self.members[place].id).and_then(|node| node.current.clone());
                let to = self.state.rotation().map(|rotation| rotation.to().issuer);
                if issuer.map(|leaf| leaf.issuer) == to {
                    self.members[place].away = Some(self.now + TAKES);
                    let ways = self.ways(5);
                    self.at(self.now + TAKES + ways, Event::Open(place));
                }
            }
            Event::Told(place, _) => {
                if !self.members[place].renewing {
                    self.members[place].renewing = true;
                    let ways = self.ways(5);
                    self.at(self.now + PAUSE + ways, Event::Ask(place));
                }
            }
            Event::Ask(place) => {
                self.called();
                let done = self.work(self.large.costs.certificate);
                self.pacer.measured(self.large.costs.signing);
                self.at(done, Event::Signed(place));
            }
            Event::Signed(place) => {
                let node = self.state.node(&self.members[place].id).cloned().ok_or("a node is gone")?;
                let letter = Arc::new(self.letter(Some(&node), node.signed_role())?);
                self.members[place].serial = Some(letter.leaf.serial);
                let premises = Premises { issuer: letter.leaf.issuer, epoch: self.state.epoch(), signed: self.time() };
                let renew = Renew { node: node.id.clone(), cut: node.cut, letter, premises };
                self.propose(Command::Renew(Box::new(renew)), From::Renewal(place));
            }
            Event::Open(place) => {
                self.called();
                let done = self.work(self.large.costs.session);
                self.at(done, Event::Opened(place));
            }
            Event::Opened(place) => {
                let id = self.members[place].id.clone();
                if let Some(serial) = self.members[place].serial {
                    self.propose(Command::Confirm { node: id, serial }, From::Session(usize::MAX));
                }
                let report = self.report(place);
                self.propose(Command::Report(Box::new(report)), From::Session(place));
            }
            Event::Entry => self.written()?,
            Event::Look => {
                if self.look_at.is_none_or(|at| at <= self.now) {
                    self.look(&[])?;
                }
            }
        }
        Ok(())
    }

    fn called(&mut self) {
        self.calls += 1;
        self.figures.calls_max = self.figures.calls_max.max(self.calls);
    }

    fn propose(&mut self, command: Command, from: From) {
        self.waiting.push_back((command, from));
        self.write();
    }

    fn write(&mut self) {
        if !self.writing.is_empty() || self.waiting.is_empty() {
            return;
        }
        let count = self.waiting.len().min(ENTRY_MAX);
        self.writing = self.waiting.drain(..count).collect();
        let took = self.large.costs.sync + self.large.costs.command * u32::try_from(count).unwrap_or(u32::MAX);
        self.at(self.now + took.as_micros() as u64, Event::Entry);
    }

    fn written(&mut self) -> Result<(), String> {
        let (commands, froms): (Vec<_>, Vec<_>) = std::mem::take(&mut self.writing).into_iter().unzip();
        let before = Arc::clone(&self.state);
        self.apply(commands)?;
        self.figures.entries += 1;
        for from in froms {
            match from {
                From::Renewal(place) => {
                    self.calls -= 1;
                    let id = self.members[place].id.clone();
                    let now = self.time();
                    self.sessions.step(now, Input::Renewed(&id));
                    // The answer, the question for the certificate, its answer; then a connection anew.
                    let ways = self.ways(3);
                    self.members[place].renewing = false;
                    self.members[place].away = Some(self.now + ways);
                    let opens = self.ways(5);
                    self.at(self.now + ways + opens, Event::Open(place));
                }
                From::Session(usize::MAX) => {}
                From::Session(place) => {
                    self.calls -= 1;
                    self.open(place)?;
                    let away = self.members[place].away.take().map(|since| self.now.saturating_sub(since));
                    self.aways.extend(away);
                }
                From::Advance => self.advancing = false,
            }
        }
        self.look(&look::changed(&before, &Arc::clone(&self.state)))?;
        self.write();
        Ok(())
    }

    fn look(&mut self, news: &[NodeId]) -> Result<(), String> {
        let began = Instant::now();
        let mut news = news.to_vec();
        news.append(&mut self.arrived);
        let now = self.time();
        let seen = look::look(&mut self.pacer, &mut self.sessions, &self.state, now, &news);
        self.figures.decided += began.elapsed();
        for id in seen.wake {
            let place = self.places.get(&id).copied().ok_or("a node is not known")?;
            let wanted = self.state.node(&id).and_then(|node| need(&self.state.roots, node));
            if !self.chance.in_thousand(LOST_PER_MILLE) {
                let ways = self.ways(1);
                self.at(self.now + ways, Event::Told(place, wanted == Some(Need::Trust)));
            }
        }
        if let Some(due) = seen.due.filter(|_| !self.advancing) {
            self.advancing = true;
            let command = look::advance(due, self.chance.bytes(), self.chance.bytes());
            self.propose(command, From::Advance);
        }
        let at = self.now + seen.wait.as_micros() as u64;
        self.look_at = Some(at);
        self.at(at, Event::Look);
        Ok(())
    }

    fn apply(&mut self, commands: Vec<Command>) -> Result<(), String> {
        let began = Instant::now();
        let batch = Batch { time: self.time(), commands };
        let mut state = self.state.as_ref().clone();
        let applied = state.apply(state.index + 1, &batch);
        self.state = Arc::new(state);
        self.figures.decided += began.elapsed();
        match applied.outcomes.into_iter().find(|outcome| matches!(outcome, Outcome::Rejected(_))) {
            Some(outcome) => Err(format!("nothing is refused: {outcome:?}")),
            None => Ok(()),
        }
    }

    fn open(&mut self, place: usize) -> Result<(), String> {
        let node = self.members[place].id.clone();
        let fresh = format!("{:x}", self.chance.draw());
        let issuer = self.state.node(&node).and_then(|node| node.current.as_ref()).map(|leaf| leaf.issuer);
        let reported = self.report(place);
        let opening = Opening {
            node: node.clone(),
            previous: String::new(),
            fresh,
            returning: false,
            issuer,
            reported,
            clock: None,
        };
        let now = self.time();
        self.sessions.open(now, &self.state, opening).map_err(|refusal| refusal.to_string())?;
        self.arrived.push(node);
        Ok(())
    }

    /// What a node says of itself: it holds the new root once its turn to be given it has come.
    fn report(&self, place: usize) -> Reported {
        let node = self.members[place].id.clone();
        let pushed = self.pacer.pushes(&node) > 0 && self.members[place].away.is_some();
        let to = self.state.rotation().filter(|_| pushed).map(|rotation| rotation.to().bundle.clone());
        let trust = to.unwrap_or_else(|| {
            let before = self.state.node(&node).and_then(|node| node.report.as_ref());
            let held = before.and_then(|report| self.state.blob(&report.trust));
            held.map_or_else(|| self.old.clone(), |blob| blob.to_vec())
        });
        let issuer = self.state.roots.signing().map(|root| root.issuer.0.to_vec()).unwrap_or_default();
        let blobs: Vec<(BlobDigest, Arc<[u8]>)> = [issuer.as_slice(), trust.as_slice(), b"description"]
            .into_iter()
            .map(|bytes| (BlobDigest::of(bytes), Arc::from(bytes)))
            .collect();
        let report = Report {
            hostname: "host".to_owned(),
            addr: "192.0.2.9".to_owned(),
            issuer: blobs[0].0,
            trust: blobs[1].0,
            description: blobs[2].0,
        };
        Reported { node, report, blobs }
    }

    fn letter(&mut self, node: Option<&Node>, role: Role) -> Result<Letter, String> {
        let bytes = self.chance.bytes::<20>();
        let now = self.time();
        let leaf = Leaf {
            serial: Serial::from_random(bytes),
            spki: SpkiHash(pki::digest::sha256(&bytes)),
            issuer: self.state.roots.signing().ok_or("nobody signs")?.issuer,
            role,
            not_before: now.saturating_sub(Duration::from_secs(3600)),
            not_after: now.saturating_add(self.state.settings.leaf_life()),
        };
        let ladder = self.state.roots.ladder_for(node, role, now).iter().map(|step| step.der().to_vec()).collect();
        Ok(Letter { csr: bytes.to_vec(), leaf, certificate: bytes.to_vec(), ladder, issued: now })
    }
}

fn source(chance: &mut Chance) -> manager::Chance {
    let drawn = Mutex::new(Chance::new(chance.draw()));
    manager::Chance::new(move |bytes| {
        drawn.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
        true
    })
}
