//! A cluster with what its nodes hold: leaf, ladder and trust bundle, answers and bundles on their way. Nodes do as engines do
//! (pki.md 12.8): a leaf is installed if it verifies to the node's trust, a root is taken if the node's leaf verifies to it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use cluster::authorize::{Caller, Grant, Method, Presented, Standing};
use cluster::command::{Command, Renew, Reported, UpdateCluster};
use cluster::node::{BlobDigest, Leaf, Letter, Node, Report};
use cluster::outcome::Outcome;
use cluster::roots::{Root, Roots};
use cluster::rotation::{self, Abort, Advance, Need, Phase, Policy, RootsChange, Rotation, Start, Way};
use cluster::trust::Anchor;
use pki::certificate::Certificate;
use pki::identity::Role;
use pki::serial::Serial;

use super::authorities::{authority, both, ladder_back, ladder_to, verifies, verifies_at};
use super::{Cluster, START, id, secret};

/// What a node has on its disk.
#[derive(Clone)]
pub struct Held {
    pub letter: Arc<Letter>,
    pub trust: Arc<[u8]>,
}

/// A node, as it is in truth.
#[derive(Clone, Default)]
pub struct Member {
    pub up: bool,
    pub removed: bool,
    /// It had a session since it is up, and took or refused what that session gave it first.
    pub settled: bool,
    /// It was put aside, and has not come along since.
    pub left: bool,
    pub held: Option<Held>,
    pub before: Option<Held>,
    /// A certificate on its way to the node.
    pub letter: Option<Arc<Letter>>,
    /// A trust bundle on its way to the node.
    pub push: Option<Arc<[u8]>>,
    /// Signed for it, not committed yet.
    pub proposal: Option<Box<Renew>>,
}

#[derive(Clone)]
pub struct World {
    pub cluster: Cluster,
    pub members: Vec<Member>,
    /// Leaves go out without their ladder: a deliberate fault.
    pub without_ladder: bool,
    /// A rotation by a bundle was begun.
    pub by_bundle: bool,
}

impl World {
    /// A manager and workers, all in session; one more id is kept for a joiner.
    pub fn new(workers: usize) -> Self {
        let cluster = Cluster::of(&authority(0));
        let mut world =
            Self { cluster, members: vec![Member::default(); workers + 1], without_ladder: false, by_bundle: false };
        let root = authority(0);
        let mut letter = super::letter(0, 0, Role::Manager, START, super::LIFE);
        letter.leaf.issuer = root.issuer;
        let first = Held { letter: Arc::new(letter), trust: Arc::from(root.bundle.as_slice()) };
        world.members[0] = Member { up: true, held: Some(first), ..Member::default() };
        assert!(world.connect(0));
        for n in 1..=workers {
            assert!(world.join(n) && world.connect(n) && world.members[n].settled);
        }
        world
    }

    pub fn roots(&self) -> &Roots {
        &self.cluster.state.roots
    }

    pub fn rotation(&self) -> Option<&Arc<Rotation>> {
        self.cluster.state.rotation()
    }

    pub fn record(&self, n: usize) -> Option<&Arc<Node>> {
        self.cluster.state.node(&id(n as u64))
    }

    pub fn need(&self, n: usize) -> Option<Need> {
        self.record(n).and_then(|node| rotation::need(self.roots(), node))
    }

    /// Applies one entry, and notes who is put aside by it.
    pub fn apply(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        let (before, live) = (self.rotation().cloned(), self.live());
        let blocking: Vec<usize> = match &before {
            Some(rotation) => {
                (0..self.members.len()).filter(|n| self.record(*n).is_some_and(|node| rotation.blocks(node))).collect()
            }
            None => Vec::new(),
        };
        let joining = |world: &Self, n| world.record(n).is_some_and(|node| node.unfinished.is_some());
        let joins: Vec<_> = (0..self.members.len()).filter(|n| joining(self, *n)).collect();
        let outcomes = self.cluster.run_all(commands).outcomes;
        self.cluster.log.clear();
        for n in joins {
            // An emergency begins with nobody but members.
            let emergency = before.is_none() && self.rotation().is_some_and(|rotation| rotation.is_emergency());
            self.members[n].removed |= emergency && self.record(n).is_none();
        }
        let after = self.rotation().cloned();
        for n in 0..self.members.len() {
            let finished = before.is_some() && after.is_none() && blocking.contains(&n);
            let aside = after.as_ref().is_some_and(|rotation| rotation.aside.contains(&id(n as u64)));
            let need = self.need(n);
            let admitted = matches!(self.standing(n), Some(Standing::Admitted { .. }));
            let member = &mut self.members[n];
            if finished || aside {
                member.left = true;
            } else if need.is_none() && admitted {
                member.left = false;
            }
        }
        for n in live {
            let member = &self.members[n];
            assert!(
                self.is_live(n) || member.left || member.removed,
                "member {n} is one no longer, by no act of its own"
            );
        }
        outcomes
    }

    pub fn run(&mut self, command: Command) -> Outcome {
        self.apply(vec![command]).remove(0)
    }

    pub fn update(&mut self, change: RootsChange) -> Outcome {
        let emergency = |start: &Start| matches!(start.policy, Policy::Emergency { .. });
        let secrets = matches!(&change, RootsChange::Start(start) if emergency(start));
        let update = UpdateCluster {
            version: self.cluster.state.cluster_version,
            worker_secret: secrets.then(|| secret(7)),
            manager_secret: secrets.then(|| secret(8)),
            roots: Some(change),
            ..UpdateCluster::default()
        };
        self.run(Command::UpdateCluster(Box::new(update)))
    }

    pub fn start_with(&mut self, to: &Arc<Root>, way: Way, policy: Policy) -> Outcome {
        self.by_bundle |= matches!(way, Way::Bundle(_));
        let start = Start { to: Arc::clone(to), way, policy, logged: vec![to.signer.der().to_vec()] };
        self.update(RootsChange::Start(Box::new(start)))
    }

    /// As a manager begins it.
    pub fn start(&mut self, to: usize, bundle: bool, policy: Policy) -> Outcome {
        let to = authority(to);
        let way = match self.roots() {
            Roots::Stable { root, .. } if bundle => Way::Bundle(both(root, &to)),
            Roots::Stable { root, .. } => Way::Ladder(ladder_to(&to, Some(root), None)),
            Roots::Rotating(running) => Way::Ladder(ladder_to(&to, None, Some(running))),
            Roots::None => panic!("no cluster"),
        };
        self.start_with(&to, way, policy)
    }

    pub fn abort(&mut self, policy: Policy) -> Outcome {
        let ladder = self.rotation().map(|running| ladder_back(running)).unwrap_or_default();
        self.update(RootsChange::Abort(Box::new(Abort { ladder, policy, logged: Vec::new() })))
    }

    pub fn advance(&mut self) -> Outcome {
        let (rotation, phase) = self.rotation().map_or((0, Phase::Renew), |running| (running.id, running.phase));
        let advance = Advance { rotation, phase, worker_secret: secret(9), manager_secret: secret(10) };
        self.run(Command::AdvanceRotation(Box::new(advance)))
    }

    pub fn later(&mut self, by: Duration) {
        self.cluster.later(by);
    }

    /// A new node gets its first certificate by the token of now; it holds the root that is served now.
    pub fn join(&mut self, n: usize) -> bool {
        let admit = self.cluster.admission(n as u64);
        let letter = Arc::clone(&admit.letter);
        let trust: Arc<[u8]> = Arc::from(self.roots().served().unwrap().bundle.as_slice());
        if !verifies(&letter.leaf.issuer, &letter.ladder, &trust) {
            return false;
        }
        if !matches!(self.run(Command::Admit(Box::new(admit))), Outcome::Issued { fresh: true, .. }) {
            return false;
        }
        self.members[n] = Member { up: true, held: Some(Held { letter, trust }), ..Member::default() };
        true
    }

    pub fn presented(&self, leaf: &Leaf, n: usize) -> Presented {
        Presented {
            cluster: super::cluster_id(),
            role: leaf.role,
            node: id(n as u64),
            serial: leaf.serial,
            spki: leaf.spki,
            issuer: leaf.issuer,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        }
    }

    pub fn standing(&self, n: usize) -> Option<Standing> {
        let held = self.members[n].held.as_ref()?;
        Some(self.cluster.state.standing(&self.presented(&held.letter.leaf, n), self.cluster.now))
    }

    /// Whether the node that holds `trust` verifies the other's leaf.
    pub fn sees(&self, n: usize, other: usize) -> bool {
        match (&self.members[n].held, &self.members[other].held) {
            (Some(held), Some(other)) => verifies(&other.letter.leaf.issuer, &other.letter.ladder, &held.trust),
            _ => false,
        }
    }

    /// Whether the manager's handshake lets the node's leaf through.
    pub fn let_in(&self, n: usize) -> bool {
        let ends: Vec<_> = self.roots().anchors().iter().map(Anchor::of).collect();
        let held = self.members[n].held.as_ref();
        held.is_some_and(|held| verifies_at(&held.letter.leaf.issuer, &held.letter.ladder, &ends))
    }

    pub fn reachable(&self, n: usize) -> bool {
        self.members[n].up && self.sees(n, 0) && self.let_in(n)
    }

    /// Opens a session. Its first message may hold another root.
    pub fn connect(&mut self, n: usize) -> bool {
        if !self.reachable(n) {
            return false;
        }
        let Some(held) = self.members[n].held.clone() else { return false };
        let mut commands = Vec::new();
        let admitted = match self.standing(n) {
            Some(Standing::Admitted { unproven, .. }) => {
                if unproven {
                    commands.push(Command::Confirm { node: id(n as u64), serial: held.letter.leaf.serial });
                }
                true
            }
            Some(Standing::Quarantined { .. }) => false,
            _ => return false,
        };
        let report = |trust: &[u8]| {
            let (mut report, mut blobs) = super::report("host", b"linux");
            report.trust = BlobDigest::of(trust);
            blobs.push((report.trust, Arc::from(trust)));
            Command::Report(Box::new(Reported { node: id(n as u64), report: Report { ..report }, blobs }))
        };
        commands.push(report(&held.trust));
        self.apply(commands);
        if admitted && !self.send(n) {
            self.members[n].settled = true;
        }
        true
    }

    /// Whether a trust bundle other than its own was sent to the node.
    pub fn send(&mut self, n: usize) -> bool {
        let Some(node) = self.record(n).cloned() else { return false };
        let pushed = self.need(n) == Some(Need::Trust);
        let bundle: Option<Arc<[u8]>> = self.roots().trust_for(&node, pushed).map(Arc::from);
        let other = bundle.filter(|bundle| self.members[n].held.as_ref().is_some_and(|held| held.trust != *bundle));
        self.members[n].push.clone_from(&other);
        other.is_some()
    }

    pub fn take(&mut self, n: usize) -> bool {
        let Some(bundle) = self.members[n].push.take() else { return false };
        self.members[n].settled = true;
        let Some(held) = self.members[n].held.as_mut() else { return false };
        let fits = verifies(&held.letter.leaf.issuer, &held.letter.ladder, &bundle);
        if fits {
            held.trust = bundle;
        }
        fits
    }

    /// Whether the node may be signed for now: in session, and it is its turn.
    pub fn may_renew(&self, n: usize) -> bool {
        let quarantined = match self.standing(n) {
            Some(Standing::Admitted { .. }) => false,
            Some(Standing::Quarantined { .. }) => true,
            _ => return false,
        };
        let due = quarantined || self.need(n) == Some(Need::Renewal) || self.lacks_role(n);
        self.reachable(n) && self.members[n].letter.is_none() && due
    }

    /// Whether the node is to have another role than its leaf says.
    fn lacks_role(&self, n: usize) -> bool {
        let role = self.members[n].held.as_ref().map(|held| held.letter.leaf.role);
        self.record(n).is_some_and(|node| Some(node.signed_role()) != role)
    }

    /// A worker is to be a manager.
    pub fn promote(&mut self, n: usize) -> bool {
        let worker = self.record(n).is_some_and(|node| node.unfinished.is_none() && node.spec.role == Role::Worker);
        worker && matches!(self.run(self.cluster.wish(n as u64, Role::Manager)), Outcome::Done { .. })
    }

    /// It has the certificate for it: it is given its place, and is a manager.
    pub fn seat(&mut self, n: usize) -> bool {
        let place = self.cluster.state.members().contains_key(&id(n as u64));
        let Some(held) = self.members[n].held.clone().filter(|held| held.letter.leaf.role == Role::Manager) else {
            return false;
        };
        if place || !self.reachable(n) || !matches!(self.standing(n), Some(Standing::Admitted { .. })) {
            return false;
        }
        let serial = held.letter.leaf.serial;
        let enlist = Command::Enlist { node: id(n as u64), addr: "192.0.2.9:2377".into(), serial, replaces: None };
        match self.run(enlist) {
            Outcome::Enlisted { raft_id } => {
                matches!(self.run(Command::Seat { node: id(n as u64), raft_id }), Outcome::Done { .. })
            }
            _ => false,
        }
    }

    /// The node renews; its answer is on the way then.
    pub fn sign(&mut self, n: usize) -> bool {
        if !self.may_renew(n) {
            return false;
        }
        let mut commands = self.confirmation(n);
        commands.push(Command::Renew(Box::new(self.cluster.renewal(n as u64))));
        let outcome = self.apply(commands).pop().unwrap();
        self.answer(n, outcome)
    }

    /// The leaf was seen in use, if that is not known yet.
    fn confirmation(&self, n: usize) -> Vec<Command> {
        match (self.standing(n), &self.members[n].held) {
            (Some(Standing::Admitted { unproven: true, .. }), Some(held)) => {
                vec![Command::Confirm { node: id(n as u64), serial: held.letter.leaf.serial }]
            }
            _ => Vec::new(),
        }
    }

    /// Signs for the node without committing it.
    pub fn propose(&mut self, n: usize) -> bool {
        let may = self.may_renew(n) && self.members[n].proposal.is_none();
        if may {
            self.members[n].proposal = Some(Box::new(self.cluster.renewal(n as u64)));
        }
        may
    }

    pub fn commit(&mut self, n: usize) -> bool {
        let Some(renew) = self.members[n].proposal.take() else { return false };
        let mut commands = self.confirmation(n);
        commands.push(Command::Renew(renew));
        let outcome = self.apply(commands).pop().unwrap();
        self.answer(n, outcome)
    }

    fn answer(&mut self, n: usize, outcome: Outcome) -> bool {
        let Outcome::Issued { letter, .. } = outcome else { return false };
        let signing = self.roots().signing().unwrap();
        assert!(letter.leaf.issuer == signing.issuer && signing.key().is_some(), "signed by a key outside of the plan");
        let letter =
            if self.without_ladder { Arc::new(Letter { ladder: Vec::new(), ..(*letter).clone() }) } else { letter };
        self.members[n].letter = Some(letter);
        true
    }

    pub fn install(&mut self, n: usize) -> bool {
        let Some(letter) = self.members[n].letter.take() else { return false };
        let Some(held) = self.members[n].held.clone() else { return false };
        let fits = verifies(&letter.leaf.issuer, &letter.ladder, &held.trust);
        if fits {
            self.members[n].held = Some(Held { letter, trust: Arc::clone(&held.trust) });
            self.members[n].before = Some(held);
        }
        fits
    }

    /// Renews, installs, and uses the new leaf.
    pub fn convert(&mut self, n: usize) -> bool {
        self.sign(n) && self.install(n) && self.connect(n)
    }

    /// Is given its bundle, takes it, and says so.
    pub fn narrow(&mut self, n: usize) -> bool {
        self.send(n) && self.take(n) && self.connect(n)
    }

    pub fn crash(&mut self, n: usize) {
        let member = &mut self.members[n];
        (member.up, member.settled, member.letter, member.push) = (false, false, None, None);
    }

    pub fn remove(&mut self, n: usize) -> Outcome {
        self.members[n].removed = true;
        self.run(Command::RemoveNode { node: id(n as u64), force: true, ready: true })
    }

    /// A member that works: its peers and it must verify each other.
    pub fn is_live(&self, n: usize) -> bool {
        let member = &self.members[n];
        let works = member.up && member.settled && !member.removed && !member.left;
        let admitted = matches!(self.standing(n), Some(Standing::Admitted { .. }));
        works && admitted && self.record(n).is_some_and(|node| node.unfinished.is_none())
    }

    /// Any two live members verify each other, and the manager lets them in.
    pub fn is_hitless(&self) -> bool {
        let live = self.live();
        let seen = |n: &usize| self.let_in(*n) && live.iter().all(|other| self.sees(*n, *other));
        live.contains(&0) && live.iter().all(seen)
    }

    fn live(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|n| self.is_live(*n)).collect()
    }

    /// A removed node can call what anybody can, and nothing else.
    pub fn removed_are_out(&self) -> bool {
        (0..self.members.len()).filter(|n| self.members[*n].removed).all(|n| {
            let Some(standing) = self.standing(n) else { return true };
            let Some(held) = &self.members[n].held else { return true };
            let leaf = self.presented(&held.letter.leaf, n);
            matches!(standing, Standing::Removed | Standing::Unregistered)
                && Method::ALL.iter().all(|method| {
                    let caller = Caller::Identified(&leaf, &standing);
                    matches!(
                        self.cluster.state.authorize(caller, *method, self.cluster.now),
                        Err(_) | Ok(Grant::Anybody)
                    )
                })
        })
    }

    /// Leads the rotation to its last phase, everybody along.
    pub fn reach_trust(&mut self) {
        self.reach_trust_without(usize::MAX);
    }

    /// The same, but for one.
    pub fn reach_trust_without(&mut self, without: usize) {
        while self.rotation().is_some_and(|running| running.phase != Phase::Trust) {
            for n in 0..self.members.len() {
                if n != without && self.members[n].held.is_some() && self.need(n).is_some() {
                    assert!(self.convert(n) || self.narrow(n));
                }
            }
            assert!(matches!(self.advance(), Outcome::Done { .. }));
            assert!(self.is_hitless());
        }
    }

    /// Lets everybody come back and answer until nothing is left to do; whether the rotation then has ended, and everybody
    /// who can be is where it led.
    pub fn ends(&self) -> bool {
        let mut world = self.clone();
        for member in &mut world.members {
            member.up |= member.held.is_some();
        }
        for _ in 0..8 {
            for n in 0..world.members.len() {
                world.proceed(n);
            }
            if world.rotation().is_some() {
                world.advance();
            } else if world.is_done() {
                return world.is_hitless();
            }
        }
        false
    }

    fn proceed(&mut self, n: usize) {
        let member = &self.members[n];
        if member.held.is_none() || member.removed {
            return;
        }
        self.commit(n);
        self.install(n);
        self.take(n);
        self.connect(n);
        self.take(n);
        self.connect(n);
        if self.may_renew(n) {
            self.convert(n);
            self.take(n);
            self.connect(n);
        }
        self.narrow(n);
    }

    fn is_done(&self) -> bool {
        let Roots::Stable { root, .. } = self.roots() else { return false };
        (0..self.members.len()).all(|n| {
            let member = &self.members[n];
            // Who missed the bundle comes back by a token only.
            let apart = member.left || self.record(n).is_some_and(|node| node.unfinished.is_some());
            let lost = self.by_bundle && apart && !self.reachable(n);
            let Some(held) = member.held.as_ref().filter(|_| !member.removed && !lost) else { return true };
            self.need(n).is_none() && held.letter.leaf.issuer == root.issuer && *held.trust == *root.bundle
        })
    }
}

impl Hash for World {
    /// What tells two worlds apart; indices, serials and digests of blobs do not.
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.cluster.now.hash(to);
        hash_roots(self.roots(), to);
        for row in &self.cluster.state.tokens.rows {
            row.generation.hash(to);
        }
        for (n, member) in self.members.iter().enumerate() {
            let flags = [member.up, member.removed, member.settled, member.left];
            flags.hash(to);
            let record = self.record(n);
            let mut serials: Vec<Serial> = Vec::new();
            let mut leaf = |leaf: Option<&Leaf>, to: &mut H| {
                let Some(leaf) = leaf else { return 0xff_u8.hash(to) };
                let known = serials.iter().position(|serial| *serial == leaf.serial);
                let place = known.unwrap_or(serials.len());
                if known.is_none() {
                    serials.push(leaf.serial);
                }
                (place, leaf.issuer, leaf.role == Role::Manager).hash(to);
            };
            match record {
                None => 0_u8.hash(to),
                Some(node) => {
                    let place = self.cluster.state.members().contains_key(&node.id);
                    (node.role == Role::Manager, node.promoting, place).hash(to);
                    (1_u8, node.cut, node.unfinished.is_some(), node.offered.len(), node.previous.len()).hash(to);
                    leaf(node.current.as_ref(), to);
                    node.offered.iter().for_each(|offered| leaf(Some(offered), to));
                    node.previous.iter().for_each(|(previous, _)| leaf(Some(previous), to));
                    node.report.as_ref().map(|report| report.trust).hash(to);
                }
            }
            for held in [&member.held, &member.before] {
                leaf(held.as_ref().map(|held| &held.letter.leaf), to);
                held.as_ref().map(|held| (&held.letter.ladder, &held.trust)).hash(to);
            }
            let proposed = member.proposal.as_ref().map(|renew| &renew.letter);
            for letter in [member.letter.as_ref(), proposed] {
                leaf(letter.map(|letter| &letter.leaf), to);
                letter.map(|letter| &letter.ladder).hash(to);
            }
            member.proposal.as_ref().map(|renew| (renew.cut, renew.premises.signed)).hash(to);
            member.push.hash(to);
        }
    }
}

fn hash_roots<H: Hasher>(roots: &Roots, to: &mut H) {
    let steps = |steps: &[Certificate], to: &mut H| {
        steps.len().hash(to);
        steps.iter().for_each(|step| step.der().hash(to));
    };
    for anchor in roots.stragglers() {
        (anchor.trust, anchor.until, anchor.at_least).hash(to);
        steps(&anchor.ladder, to);
    }
    match roots {
        Roots::None => 0_u8.hash(to),
        Roots::Stable { root, .. } => root.trust.hash(to),
        Roots::Rotating(rotation) => {
            rotation.bare.len().hash(to);
            (rotation.old.trust, rotation.new.trust, rotation.back, rotation.phase, rotation.since).hash(to);
            rotation.bundle().hash(to);
            steps(rotation.ladder(), to);
            steps(&rotation.onward, to);
            format!("{:?}", rotation.policy).hash(to);
            rotation.history.is_empty().hash(to);
            rotation.aside.iter().for_each(|id| id.as_str().hash(to));
            rotation.passed.iter().for_each(|root| root.trust.hash(to));
            rotation.given.iter().for_each(|trust| trust.hash(to));
            rotation.handed_over.hash(to);
        }
    }
}
