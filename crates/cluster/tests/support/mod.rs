//! A cluster in memory for tests, benches and the writer of samples: leaves are made of numbers, nothing is signed.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::type_complexity
)]

pub mod authorities;
pub mod operators;
pub mod walk;
pub mod world;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::account::{Actor, Event, SALT_BYTES};
use cluster::command::{
    Admit, Ask, Attributed, Batch, Bootstrap, Command, CreateToken, Founder, Premises, Refound, Renew, ReplaceLadder,
    Reported, Restored, Revoke, Right, SecretBox, UpdateCluster, Withdraw, Withdrawn,
};
use cluster::format::LogRecord;
use cluster::lock::UnlockBox;
use cluster::node::{Availability, BlobDigest, IssuerHash, Leaf, Letter, Node, Report, Spec, TokenUse};
use cluster::outcome::{Outcome, Rejection};
use cluster::revocation::{Reason, Revocations};
use cluster::roots::{Custody, Root, Roots, StragglerAnchor};
use cluster::rotation::{Abort, Advance, Ended, Phase, Policy, RootsChange, Rotation, Start, Way};
use cluster::settings::Settings;
use cluster::tokens::limited::TokenHash;
use cluster::{Applied, LogEntry, State, invariant};
use pki::certificate::Certificate;
use pki::digest::Digest;
use pki::identity::{ClusterId, NodeId, Role};
use pki::join_token::JoinSecret;
use pki::key::SpkiHash;
use pki::secret::SecretBytes;
use pki::serial::Serial;
use pki::time::Time;
use pki::unlock_key::UnlockKey;

pub const START: Time = Time::from_unix_secs(1_795_000_000);
pub const HOUR: Duration = Duration::from_secs(60 * 60);
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub const LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);
pub const WORKER: TokenUse = TokenUse { row: 0, generation: 0 };
pub const MANAGER: TokenUse = TokenUse { row: 1, generation: 0 };

/// The root of pki.md 19, made by a real engine.
pub fn root() -> Arc<Root> {
    let pem = include_bytes!("../../testdata/root.pem");
    let certificate = Certificate::parse_pem_bundle(pem).unwrap().remove(0);
    let key = Some(Arc::new(SecretBytes::new(b"not a key".to_vec())));
    Arc::new(Root::new(pem.to_vec(), certificate, Vec::new(), key))
}

pub fn cluster_id() -> ClusterId {
    "w1b8p8777smiidzvu9mwghgki".parse().unwrap()
}

/// The `n`th node id; 0 is the first manager's.
pub fn id(n: u64) -> NodeId {
    format!("node{n:021}").parse().unwrap()
}

pub fn secret(n: u8) -> SecretBox {
    SecretBox(Arc::new(JoinSecret::from_bytes([n; 16])))
}

pub fn serial(n: u64) -> Serial {
    let mut bytes = [0x11; 20];
    bytes[12..].copy_from_slice(&n.to_be_bytes());
    Serial::from_random(bytes)
}

pub fn spki(n: u64) -> SpkiHash {
    SpkiHash(pki::digest::sha256(&n.to_be_bytes()))
}

/// A letter with serial `n` for key `key`, signed at `now`; sizes are those of real requests and certificates.
pub fn letter(n: u64, key: u64, role: Role, now: Time, life: Duration) -> Letter {
    let leaf = Leaf {
        serial: serial(n),
        spki: spki(key),
        issuer: root().issuer,
        role,
        not_before: now.saturating_sub(HOUR),
        not_after: now.saturating_add(life),
    };
    let mut certificate = vec![0x30; 560];
    certificate[..8].copy_from_slice(&n.to_be_bytes());
    Letter { csr: csr(key), leaf, certificate, ladder: Vec::new(), issued: now }
}

pub fn csr(key: u64) -> Vec<u8> {
    let mut csr = vec![b'c'; 460];
    csr[..8].copy_from_slice(&key.to_be_bytes());
    csr
}

pub fn report(hostname: &str, description: &[u8]) -> (Report, Vec<(BlobDigest, Arc<[u8]>)>) {
    let blobs: Vec<(BlobDigest, Arc<[u8]>)> =
        [b"issuer".as_slice(), include_bytes!("../../testdata/root.pem"), description]
            .into_iter()
            .map(|bytes| (BlobDigest::of(bytes), Arc::from(bytes)))
            .collect();
    let [issuer, trust, description] = [blobs[0].0, blobs[1].0, blobs[2].0];
    let report = Report { hostname: hostname.to_owned(), addr: "192.0.2.17".to_owned(), issuer, trust, description };
    (report, blobs)
}

/// A state with its next index, its time, and a counter that draws serials and keys.
#[derive(Clone)]
pub struct Cluster {
    pub state: State,
    pub now: Time,
    pub drawn: u64,
    pub log: Vec<LogEntry>,
}

impl Cluster {
    /// A cluster just made, with its first manager.
    pub fn new() -> Self {
        Self::of(&root())
    }

    /// The same, with a root of one's own.
    pub fn of(root: &Arc<Root>) -> Self {
        let mut cluster = Self { state: State::empty(), now: START, drawn: 0, log: Vec::new() };
        let outcome = cluster.run(Self::bootstrap_of(root));
        assert_eq!(outcome, Outcome::Done { version: 1 });
        cluster
    }

    pub fn bootstrap() -> Command {
        Self::bootstrap_of(&root())
    }

    fn bootstrap_of(root: &Arc<Root>) -> Command {
        let mut letter = letter(0, 0, Role::Manager, START, LIFE);
        letter.leaf.issuer = root.issuer;
        Command::Bootstrap(Box::new(Bootstrap {
            cluster: cluster_id(),
            fips: false,
            root: Arc::clone(root),
            logged: vec![root.signer.der().to_vec()],
            node: id(0),
            spec: Spec::new(Role::Manager, Availability::Active),
            addr: "192.0.2.1:2377".to_owned(),
            letter,
            worker_secret: secret(1),
            manager_secret: secret(2),
            settings: Settings::default(),
            unlock: None,
        }))
    }

    /// Applies one command in a batch of its own and checks every invariant.
    pub fn run(&mut self, command: Command) -> Outcome {
        let applied = self.run_all(vec![command]);
        applied.outcomes.into_iter().next().unwrap()
    }

    pub fn run_all(&mut self, commands: Vec<Command>) -> Applied {
        let before = self.state.clone();
        let batch = Batch { time: self.now, commands };
        let applied = self.state.apply(before.index + 1, &batch);
        assert_eq!(applied.outcomes.len(), batch.commands.len());
        invariant::check(&self.state).unwrap();
        invariant::check_step(&before, &self.state).unwrap();
        let fresh = |outcome: &&Outcome| matches!(outcome, Outcome::Issued { fresh: true, .. });
        if before.cluster.is_some() {
            let founders = batch.commands.iter().zip(&applied.outcomes).filter(is_founder_logged).count();
            let authorities: usize = batch.commands.iter().zip(&applied.outcomes).map(authorities_logged).sum();
            let leaves = applied.outcomes.iter().filter(fresh).count();
            let event = |entry: &&LogEntry| LogRecord::decode(&entry.bytes).unwrap().event != Event::Issued;
            let events = applied.issued.iter().filter(event).count();
            assert_eq!(leaves + authorities + founders + events, applied.issued.len(), "what is issued is logged");
        }
        self.log.extend(applied.issued.iter().cloned());
        applied
    }

    /// Runs a command that must be refused and change nothing.
    pub fn refused(&mut self, command: Command, why: Rejection) {
        let before = self.state.clone();
        assert_eq!(self.run(command), Outcome::Rejected(why));
        let mut after = self.state.clone();
        after.index = before.index;
        after.time = before.time;
        // So long ago that every certificate has ended: that shows whatever comes of the command.
        after.comeback = before.comeback;
        assert!(before.encode_snapshot() == after.encode_snapshot(), "a refused command changed the state");
    }

    pub fn later(&mut self, by: Duration) -> &mut Self {
        self.now = self.now.saturating_add(by);
        self
    }

    pub fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    pub fn premises(&self) -> Premises {
        let issuer = self.state.roots.signing().map_or(root().issuer, |root| root.issuer);
        Premises { issuer, epoch: self.state.epoch, signed: self.now }
    }

    /// What today's signer would give node `n`, or a new one.
    fn signed(&mut self, n: Option<u64>, role: Role) -> Arc<Letter> {
        let drawn = self.draw();
        let mut letter = letter(drawn, drawn, role, self.now, LIFE);
        letter.leaf.issuer = self.premises().issuer;
        let node = n.and_then(|n| self.state.node(&id(n)).map(Arc::as_ref));
        let ladder = self.state.roots.ladder_for(node, role, self.now);
        letter.ladder = ladder.iter().map(|step| step.der().to_vec()).collect();
        Arc::new(letter)
    }

    /// A join of node `n` by the worker's token, with a key and a serial of its own.
    pub fn admission(&mut self, n: u64) -> Admit {
        let letter = self.signed(None, Role::Worker);
        let generation = self.state.tokens.rows.first().map_or(0, |row| row.generation);
        Admit {
            node: id(n),
            spec: Spec::new(Role::Worker, Availability::Active),
            ours: true,
            token: TokenUse { generation, ..WORKER },
            letter,
            premises: self.premises(),
        }
    }

    /// A join of node `n` by the manager's token.
    pub fn manager_admission(&mut self, n: u64) -> Admit {
        let generation = self.state.tokens.rows[1].generation;
        Admit {
            spec: Spec::new(Role::Manager, Availability::Active),
            token: TokenUse { generation, ..MANAGER },
            letter: self.signed(None, Role::Manager),
            ..self.admission(n)
        }
    }

    /// What is wished of node `n` is another role.
    pub fn wish(&self, n: u64, role: Role) -> Command {
        let node = self.node(n);
        Command::UpdateNode { node: id(n), version: node.version, spec: Box::new(Spec { role, ..node.spec.clone() }) }
    }

    /// Node `n`, which is to be a manager, asks for its place, with a certificate that it gets for that.
    pub fn enlistment(&mut self, n: u64, replaces: Option<u64>) -> Command {
        let held = self.node(n).leaves().find(|leaf| leaf.role == Role::Manager).map(|leaf| leaf.serial);
        let serial = held.unwrap_or_else(|| self.renew(n).leaf.serial);
        Command::Enlist { node: id(n), addr: format!("192.0.2.{}:2377", n + 1), serial, replaces }
    }

    pub fn enlist(&mut self, n: u64) -> u64 {
        let enlist = self.enlistment(n, None);
        match self.run(enlist) {
            Outcome::Enlisted { raft_id } => raft_id,
            other => panic!("not enlisted: {other:?}"),
        }
    }

    pub fn seat(&mut self, n: u64) -> Outcome {
        let raft_id = self.state.members()[&id(n)].raft_id;
        self.run(Command::Seat { node: id(n), raft_id })
    }

    pub fn unseat(&mut self, n: u64) -> Outcome {
        let raft_id = self.state.members().get(&id(n)).map(|row| row.raft_id);
        self.run(Command::Unseat { node: id(n), raft_id })
    }

    /// Worker `n` becomes a manager.
    pub fn promote(&mut self, n: u64) -> u64 {
        assert!(matches!(self.run(self.wish(n, Role::Manager)), Outcome::Done { .. }));
        let raft_id = self.enlist(n);
        assert!(matches!(self.seat(n), Outcome::Done { .. }));
        raft_id
    }

    pub fn renewal(&mut self, n: u64) -> Renew {
        let (cut, role) = self.state.node(&id(n)).map_or((0, Role::Worker), |node| (node.cut, node.signed_role()));
        Renew { node: id(n), cut, letter: self.signed(Some(n), role), premises: self.premises() }
    }

    /// Node `n` joins and is seen with its leaf.
    pub fn join(&mut self, n: u64) -> Arc<Letter> {
        let admit = self.admission(n);
        let letter = Arc::clone(&admit.letter);
        assert!(matches!(self.run(Command::Admit(Box::new(admit))), Outcome::Issued { fresh: true, .. }));
        self.confirm(n, &letter);
        letter
    }

    /// Node `n` gets another leaf, not yet used.
    pub fn renew(&mut self, n: u64) -> Arc<Letter> {
        let renew = self.renewal(n);
        let letter = Arc::clone(&renew.letter);
        assert!(matches!(self.run(Command::Renew(Box::new(renew))), Outcome::Issued { fresh: true, .. }));
        letter
    }

    pub fn confirm(&mut self, n: u64, letter: &Letter) -> Outcome {
        self.run(Command::Confirm { node: id(n), serial: letter.leaf.serial })
    }

    pub fn node(&self, n: u64) -> &Node {
        self.state.node(&id(n)).unwrap()
    }

    pub fn report(&mut self, n: u64, hostname: &str, description: &[u8]) -> Outcome {
        let (report, blobs) = report(hostname, description);
        self.run(Command::Report(Box::new(Reported { node: id(n), report, blobs })))
    }

    pub fn remove(&mut self, n: u64) -> Outcome {
        self.run(Command::RemoveNode { node: id(n), force: true, ready: false })
    }

    pub fn collect(&mut self) -> Outcome {
        let nodes = self.state.collectable(self.now);
        self.run(Command::Collect { nodes })
    }
}

/// Whether a command brings the leaf of a machine that makes the cluster anew into the issuance log.
fn is_founder_logged((command, outcome): &(&Command, &Outcome)) -> bool {
    let Command::Refound(refound) = command else { return false };
    matches!(refound.founder, Founder::Restored(_)) && !matches!(outcome, Outcome::Rejected(_))
}

/// CA certificates that a command brings into the issuance log.
fn authorities_logged((command, outcome): (&Command, &Outcome)) -> usize {
    match (command, outcome) {
        (_, Outcome::Rejected(_)) => 0,
        (Command::UpdateCluster(update), _) => match &update.roots {
            Some(RootsChange::Start(start)) => start.logged.len(),
            Some(RootsChange::Abort(abort)) => abort.logged.len(),
            Some(RootsChange::Policy(_)) | None => 0,
        },
        (Command::ReplaceLadder(replace), _) => replace.logged.len(),
        (Command::FoundOperators(_) | Command::IssueApiServer(_), Outcome::Done { .. }) => 1,
        _ => 0,
    }
}

/// Compares two states part by part, what is derived too.
pub fn assert_same(a: &State, b: &State) {
    assert_eq!(a.cluster, b.cluster);
    assert_eq!((a.epoch, a.time, a.index), (b.epoch, b.time, b.index));
    assert_eq!(a.refounded, b.refounded);
    assert_eq!(a.nodes, b.nodes);
    assert_eq!(a.joins, b.joins);
    assert_eq!(a.pending, b.pending);
    assert_eq!(a.blobs, b.blobs);
    assert_eq!(format!("{:?}", a.roots), format!("{:?}", b.roots));
    if let (Some(a), Some(b)) = (a.roots.served(), b.roots.served()) {
        assert_eq!((&a.bundle, &a.signer, &a.intermediates), (&b.bundle, &b.signer, &b.intermediates));
        assert!(same_custody(&a.custody, &b.custody), "root keys differ");
    }
    assert_eq!(a.last_rotation, b.last_rotation);
    let rows = |state: &State| -> Vec<_> {
        let rows = state.tokens.rows.iter();
        rows.map(|row| (row.role, *row.secret.expose(), row.generation, row.created, row.unfinished)).collect()
    };
    assert_eq!(rows(a), rows(b));
    assert_eq!(a.tokens.limited, b.tokens.limited);
    assert_eq!(a.members, b.members);
    assert_eq!(a.settings, b.settings);
    assert_eq!((a.cluster_version, a.cluster_updated), (b.cluster_version, b.cluster_updated));
    assert_eq!(a.removals, b.removals);
    assert_eq!(a.operators.rows, b.operators.rows);
    let root = |state: &State| {
        state.operators.root.as_ref().map(|root| (root.certificate.clone(), root.key.expose().to_vec()))
    };
    assert!(root(a) == root(b), "operators' roots differ");
    assert_eq!(a.comeback, b.comeback);
    assert_eq!((a.log_told, a.log_erased), (b.log_told, b.log_erased));
    assert_eq!(a.log, b.log);
}

pub fn issuer(n: u8) -> IssuerHash {
    IssuerHash([n; 32])
}

/// Two certificates that stay the same: a root, and the same certified by another.
pub fn kept() -> Vec<Certificate> {
    Certificate::parse_pem_bundle(include_bytes!("../../testdata/rotation.pem")).unwrap()
}

/// A state with a rotation under way, as no rules would make it: every field holds something.
pub fn locked() -> State {
    let (_, mut cluster) = sample();
    let key = UnlockBox(Arc::new(UnlockKey::from_bytes([7; 32])));
    let settings = Settings { autolock: true, ..cluster.state.settings.as_ref().clone() };
    let update = UpdateCluster {
        version: cluster.state.cluster_version,
        settings: Some(settings),
        unlock: Some(key),
        ..UpdateCluster::default()
    };
    cluster.run(Command::UpdateCluster(Box::new(update)));
    cluster.state
}

/// A state that tells of a rotation that has ended, with something in every field of that.
pub fn ended() -> State {
    let mut state = locked();
    state.last_rotation = Some(Arc::new(Ended {
        id: 11,
        from: BlobDigest([4; 32]),
        to: BlobDigest([5; 32]),
        back: true,
        emergency: true,
        started: Time::from_unix_secs(1_700_000_000),
        ended: Time::from_unix_secs(1_700_000_007),
        aside: vec![id(2), id(9)],
        aside_count: 300,
    }));
    state
}

pub fn rotating() -> State {
    let (_, mut cluster) = sample();
    let [to, cross] = &kept()[..] else { panic!("two certificates") };
    let new = Arc::new(Root::new(to.pem().into_bytes(), to.clone(), Vec::new(), None));
    let old = Arc::clone(cluster.state.roots.served().unwrap());
    let anchor = StragglerAnchor {
        certificate: to.clone(),
        issuer: issuer(3),
        trust: BlobDigest([4; 32]),
        ladder: vec![cross.clone()],
        until: cluster.now,
        at_least: cluster.now.saturating_sub(HOUR),
    };
    cluster.state.roots = Roots::Rotating(Arc::new(Rotation {
        id: 11,
        old,
        new: Arc::clone(&new),
        back: true,
        way: Way::Ladder(vec![cross.clone()]),
        phase: Phase::Trust,
        since: cluster.now,
        started: cluster.now.saturating_sub(HOUR),
        history: vec![(Phase::Renew, cluster.now.saturating_sub(HOUR))],
        policy: Policy::Deadline(cluster.now),
        aside: [id(2)].into_iter().collect(),
        passed: vec![Arc::clone(&new)],
        given: [new.trust].into_iter().collect(),
        bare: [serial(5)].into_iter().collect(),
        onward: vec![cross.clone()],
        handed_over: false,
        stragglers: vec![anchor],
    }));
    cluster.state
}

/// What the samples in testdata/state/format-1 hold: a batch with every command, and the state of a small cluster.
pub fn sample() -> (Batch, Cluster) {
    let mut cluster = Cluster::new();
    cluster.join(1);
    cluster.report(1, "worker-1", b"a description");
    let second = cluster.admission(2);
    cluster.run(Command::Admit(Box::new(second.clone())));
    let renewal = cluster.renewal(1);
    cluster.run(Command::Renew(Box::new(renewal.clone())));
    cluster.confirm(1, &renewal.letter);
    cluster.renew(1);
    cluster.join(3);
    cluster.remove(3);
    let mut spec = cluster.node(1).spec.clone();
    spec.name = "name".to_owned();
    spec.labels.insert("key".to_owned(), "value".to_owned());
    spec.availability = Availability::Drain;
    let update_node = Command::UpdateNode { node: id(1), version: cluster.node(1).version, spec: Box::new(spec) };
    cluster.run(update_node.clone());
    let presence = Command::Presence { node: id(1), down: true, seen: cluster.now };
    cluster.run(presence.clone());
    let (report, blobs) = report("worker-1", b"a description");
    let settings = Settings { autolock: true, node_cert_expiry: 2 * HOUR, ..Settings::default() };
    let update = UpdateCluster {
        version: cluster.state.cluster_version,
        settings: Some(settings),
        worker_secret: Some(secret(3)),
        manager_secret: Some(secret(4)),
        ..UpdateCluster::default()
    };
    cluster.run(Command::UpdateCluster(Box::new(update.clone())));
    let [to, cross] = &kept()[..] else { panic!("two certificates") };
    let to = Arc::new(Root::new(to.pem().into_bytes(), to.clone(), Vec::new(), None));
    let policy = Policy::Deadline(cluster.now);
    let start = Start { to, way: Way::Ladder(vec![cross.clone()]), policy, logged: vec![b"logged".to_vec()] };
    let abort = Abort { ladder: vec![cross.clone()], policy: Policy::WaitForAll, logged: Vec::new() };
    let change = |roots| {
        let update = UpdateCluster { version: 9, roots: Some(roots), ..UpdateCluster::default() };
        Command::UpdateCluster(Box::new(update))
    };
    let custody = Some((root().trust, Custody::Token("pkcs11:token=ca;object=root".into())));
    let entrust = UpdateCluster { custody, version: 9, ..UpdateCluster::default() };
    let entrust = Command::UpdateCluster(Box::new(entrust));
    let asked = cluster.ask_to_join(4, 44);
    cluster.run(asked.clone());
    // This sample is older than that.
    cluster.state.revocations = Revocations::default();
    let (worker_secret, manager_secret) = (secret(5), secret(6));
    let commands = vec![
        Cluster::bootstrap(),
        Command::Admit(Box::new(second)),
        Command::Confirm { node: id(1), serial: renewal.letter.leaf.serial },
        Command::Renew(Box::new(renewal)),
        Command::Ask(Box::new(Ask { node: id(1), right: Right::Node { cut: 7 }, csr: csr(8), spki: spki(8) })),
        asked,
        Command::Report(Box::new(Reported { node: id(1), report, blobs })),
        presence,
        update_node,
        Command::RemoveNode { node: id(3), force: true, ready: false },
        Command::UpdateCluster(Box::new(update)),
        Command::Collect { nodes: vec![id(1), id(2)] },
        change(RootsChange::Start(Box::new(start))),
        change(RootsChange::Abort(Box::new(abort))),
        change(RootsChange::Policy(policy)),
        Command::AdvanceRotation(Box::new(Advance { rotation: 7, phase: Phase::Trust, worker_secret, manager_secret })),
        entrust,
        Command::ReplaceLadder(Box::new(ReplaceLadder {
            rotation: 7,
            ladder: vec![cross.clone()],
            logged: Vec::new(),
        })),
    ];
    (Batch { time: cluster.now, commands }, cluster)
}

/// What the samples of several managers hold: the commands that make and unmake them, and a state with one that left, one
/// that is there, and one that is on its way.
pub fn managers() -> (Batch, Cluster) {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| drop(cluster.join(n)));
    assert_eq!((1..=2).map(|n| cluster.promote(n)).sum::<u64>(), 5);
    cluster.run(cluster.wish(2, Role::Worker));
    cluster.unseat(2);
    cluster.run(cluster.wish(3, Role::Manager));
    let enlist = cluster.enlistment(3, None);
    cluster.run(enlist.clone());
    let Command::Enlist { node, addr, serial, .. } = enlist.clone() else { panic!("not an enlistment") };
    let commands = vec![
        enlist,
        Command::Enlist { node, addr, serial, replaces: Some(4) },
        Command::Seat { node: id(3), raft_id: 5 },
        Command::Unseat { node: id(3), raft_id: Some(5) },
        Command::Unseat { node: id(2), raft_id: None },
    ];
    cluster.remove(2);
    cluster.state.revocations = Revocations::default();
    (Batch { time: cluster.now, commands }, cluster)
}

/// What the samples of revoked certificates hold: each way in which it is asked for, and a state with some of a node, some of one that was
/// removed, and one of nobody.
pub fn revoked() -> (Batch, Cluster) {
    let mut cluster = Cluster::new();
    (1..=3).for_each(|n| drop(cluster.join(n)));
    let until = cluster.now.saturating_add(LIFE);
    let unknown = Withdrawn { issuer: root().issuer, serial: serial(99), until, node: None };
    let kept = cluster.renew(3);
    cluster.confirm(3, &kept);
    let known = Withdrawn { node: Some(id(3)), serial: serial(98), ..unknown.clone() };
    let at = cluster.now;
    let commands = [
        (Reason::Unspecified, Withdraw::Certificates(vec![unknown, known.clone()])),
        (Reason::KeyCompromise, Withdraw::Node { node: id(1), keep: None }),
        (Reason::Superseded, Withdraw::Node { node: id(3), keep: Some(kept.leaf.serial) }),
        (Reason::Superseded, Withdraw::Found { node: id(3), at, certificates: vec![known], last: true }),
    ];
    let commands: Vec<_> =
        commands.into_iter().map(|(reason, what)| Command::Revoke(Box::new(Revoke { reason, what }))).collect();
    for command in &commands {
        cluster.run(command.clone());
    }
    cluster.remove(2);
    (Batch { time: cluster.now, commands }, cluster)
}

/// What the samples of clusters made anew hold: by force, and then from a backup that was taken afterwards.
pub fn refounded() -> (Batch, Cluster) {
    let (_, mut cluster) = managers();
    let forced = cluster.force(1);
    cluster.run(forced.clone());
    let restored = cluster.restoring(7, vec![id(3)]);
    cluster.run(restored.clone());
    cluster.state.revocations = Revocations::default();
    (Batch { time: cluster.now, commands: vec![forced, restored] }, cluster)
}

/// A command, and a somebody who asked for it.
pub fn asked(command: Command, by: Actor, n: u8) -> Command {
    let from = Some(IpAddr::from([192, 0, 2, n]));
    Command::Attributed(Box::new(Attributed { by, from, salt: [n; SALT_BYTES], command }))
}

/// What the samples of an account hold.
pub fn account() -> (Batch, Cluster) {
    let (_, mut cluster) = managers();
    let update = cluster.wish(1, Role::Worker);
    let operator = Actor::Named("alice".to_owned());
    let admit = Command::Admit(Box::new(cluster.admission(8)));
    let commands = vec![
        asked(update, operator, 7),
        asked(admit, Actor::Token(0), 8),
        asked(Command::UnlockKeyShown, Actor::Local { uid: 0 }, 9),
        Command::EraseLog { below: 1 },
    ];
    for command in &commands {
        cluster.run(command.clone());
    }
    (Batch { time: cluster.now, commands }, cluster)
}

/// A token with limits, whose secret is `n` over and over: an hour for workers.
pub fn create_token(state: &State, n: u8, uses: u32) -> Command {
    Command::CreateToken(Box::new(CreateToken {
        role: Role::Worker,
        hash: TokenHash::of(&secret(n).0),
        digest: Digest::of(&state.roots.served().unwrap().bundle),
        ttl: HOUR,
        uses,
        note: "rack 7".to_owned(),
    }))
}

/// What the samples of tokens with limits hold: the commands, and a state with one in use and one revoked.
pub fn limited() -> (Batch, Cluster) {
    let mut cluster = Cluster::new();
    let commands =
        vec![create_token(&cluster.state, 7, 3), create_token(&cluster.state, 8, 1), Command::RevokeToken { row: 3 }];
    cluster.run_all(commands.clone());
    let token = TokenUse { row: 2, generation: 0 };
    for n in 1..=2 {
        let admit = Admit { token, ..cluster.admission(n) };
        cluster.run(Command::Admit(Box::new(admit.clone())));
        if n == 1 {
            cluster.confirm(n, &admit.letter);
        }
    }
    (Batch { time: cluster.now, commands }, cluster)
}

impl Cluster {
    /// Manager `n` makes the cluster anew by force.
    pub fn force(&self, n: u64) -> Command {
        let addr = format!("192.0.2.{}:2377", n + 1);
        Command::Refound(Box::new(Refound { epoch: self.state.epoch + 1, addr, founder: Founder::Manager(id(n)) }))
    }

    /// Machine `n` makes the cluster anew from the state as it is.
    pub fn restoring(&mut self, n: u64, removed: Vec<NodeId>) -> Command {
        let letter = self.signed(None, Role::Manager).as_ref().clone();
        let restored = Restored {
            backup: self.state.time,
            node: id(n),
            spec: Spec::new(Role::Manager, Availability::Active),
            letter,
            worker_secret: secret(11),
            manager_secret: secret(12),
            unlock: None,
            removed,
        };
        Command::Refound(Box::new(Refound {
            epoch: self.state.epoch + 1,
            addr: "192.0.2.200:2377".to_owned(),
            founder: Founder::Restored(Box::new(restored)),
        }))
    }

    /// A join with this request, whose signer is not at hand.
    pub fn ask_to_join(&self, n: u64, key: u64) -> Command {
        let token = TokenUse { row: 0, generation: self.state.tokens.rows[0].generation };
        let right = Right::Token { spec: Spec::new(Role::Worker, Availability::Active), ours: true, token };
        Command::Ask(Box::new(Ask { node: id(n), right, csr: csr(key), spki: spki(key) }))
    }
}

/// Whether two roots have their key in the same place, and the same one if it is there to be seen.
fn same_custody(a: &Custody, b: &Custody) -> bool {
    match (a, b) {
        (Custody::Sealed(a), Custody::Sealed(b)) => a.expose() == b.expose(),
        (Custody::Token(a), Custody::Token(b)) => a == b,
        (a, b) => a.is_outside() && b.is_outside(),
    }
}
