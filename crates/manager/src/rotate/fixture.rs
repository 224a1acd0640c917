//! A cluster for tests: a real root, leaves made of numbers, and a session table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use cluster::command::{Admit, Batch, Command, Premises, Renew, Reported, SecretBox, UpdateCluster};
use cluster::node::{Availability, BlobDigest, Leaf, Letter, Node, Report, Spec, TokenUse};
use cluster::rotation::{Advance, Policy, RootsChange};
use cluster::settings::Settings;
use cluster::{Outcome, State};
use pki::identity::{NodeId, Role};
use pki::join_token::JoinSecret;
use pki::key::SpkiHash;
use pki::serial::Serial;
use pki::time::Time;

use crate::bootstrap::{Bootstrap, Params};
use crate::chance::Chance;
use crate::rotate;
use crate::sessions::{NodeClock, Opening, Sessions};

pub(crate) const START: Time = Time::from_unix_secs(1_795_000_000);

pub(crate) struct Fixture {
    pub(crate) state: State,
    pub(crate) sessions: Sessions,
    pub(crate) now: Time,
    pub(crate) chance: Chance,
    pub(crate) manager: NodeId,
    drawn: u64,
}

impl Fixture {
    /// A cluster with its first manager in session.
    pub(crate) fn new() -> Self {
        let chance = Chance::system();
        let params = Params {
            addr: "192.0.2.1:2377".to_owned(),
            availability: Availability::Active,
            settings: Settings::default(),
        };
        let first = Bootstrap::prepare(params, &chance, START).unwrap();
        let mut fixture = Self {
            state: State::empty(),
            sessions: Sessions::default(),
            now: START,
            chance,
            manager: first.node_id.clone(),
            drawn: 0,
        };
        fixture.apply(first.command);
        let trust = fixture.served();
        fixture.report(&first.node_id, &trust);
        fixture.open(&first.node_id, None);
        fixture
    }

    pub(crate) fn apply(&mut self, command: Command) -> Outcome {
        let batch = Batch { time: self.now, commands: vec![command] };
        let applied = self.state.apply(self.state.index + 1, &batch);
        cluster::invariant::check(&self.state).unwrap();
        applied.outcomes.into_iter().next().unwrap()
    }

    pub(crate) fn later(&mut self, by: Duration) {
        self.now = self.now.saturating_add(by);
    }

    pub(crate) fn served(&self) -> Vec<u8> {
        self.state.roots.served().unwrap().bundle.clone()
    }

    /// A node that joined, used its leaf and said what it trusts; in session too if `present`.
    pub(crate) fn node(&mut self, n: u64, present: bool) -> NodeId {
        let id: NodeId = format!("node{n:021}").parse().unwrap();
        let letter = self.letter(None, Role::Worker);
        let serial = letter.leaf.serial;
        let issuer = letter.leaf.issuer;
        let premises = Premises { issuer, epoch: self.state.epoch, signed: self.now };
        let spec = Spec::new(Role::Worker, Availability::Active);
        let token = TokenUse { row: 0, generation: self.state.tokens.rows[0].generation };
        let admit = Admit { node: id.clone(), spec, ours: false, token, letter: Arc::new(letter), premises };
        assert!(matches!(self.apply(Command::Admit(Box::new(admit))), Outcome::Issued { .. }));
        self.apply(Command::Confirm { node: id.clone(), serial });
        let trust = self.served();
        self.report(&id, &trust);
        if present {
            self.open(&id, None);
        }
        id
    }

    pub(crate) fn open(&mut self, id: &NodeId, clock: Option<NodeClock>) {
        let report = self.state.node(id).unwrap().report.as_deref().unwrap().clone();
        self.drawn += 1;
        let opening = Opening {
            node: id.clone(),
            previous: String::new(),
            fresh: format!("session{}", self.drawn),
            returning: false,
            issuer: None,
            reported: Reported { node: id.clone(), report, blobs: Vec::new() },
            clock,
        };
        self.sessions.open(self.now, &self.state, opening).unwrap();
    }

    pub(crate) fn report(&mut self, id: &NodeId, trust: &[u8]) {
        let blobs: Vec<(BlobDigest, Arc<[u8]>)> = [b"issuer".as_slice(), trust, b"description"]
            .into_iter()
            .map(|bytes| (BlobDigest::of(bytes), Arc::from(bytes)))
            .collect();
        let [issuer, trust, description] = [blobs[0].0, blobs[1].0, blobs[2].0];
        let report = Report { hostname: "host".to_owned(), addr: "192.0.2.9".to_owned(), issuer, trust, description };
        self.apply(Command::Report(Box::new(Reported { node: id.clone(), report, blobs })));
    }

    /// The node renews and uses what it got.
    pub(crate) fn renew(&mut self, id: &NodeId) {
        let node = self.state.node(id).unwrap().clone();
        let letter = self.letter(Some(&node), node.role);
        let (serial, issuer) = (letter.leaf.serial, letter.leaf.issuer);
        let premises = Premises { issuer, epoch: self.state.epoch, signed: self.now };
        let renew = Renew { node: id.clone(), cut: node.cut, letter: Arc::new(letter), premises };
        assert!(matches!(self.apply(Command::Renew(Box::new(renew))), Outcome::Issued { .. }));
        self.apply(Command::Confirm { node: id.clone(), serial });
    }

    /// The node takes the root that it would be sent.
    pub(crate) fn take_root(&mut self, id: &NodeId) {
        let node = self.state.node(id).unwrap().clone();
        let trust = self.state.roots.trust_for(&node, true).unwrap().to_vec();
        self.report(id, &trust);
    }

    pub(crate) fn change(&self, policy: Policy) -> RootsChange {
        let root = rotate::generate(&self.chance, self.now).unwrap();
        rotate::prepare(&self.state, root, true, policy, &rotate::Signers::default(), self.now).unwrap()
    }

    pub(crate) fn rotate(&mut self, policy: Policy) -> Outcome {
        let roots = Some(self.change(policy));
        self.update(roots)
    }

    /// An emergency begins: the tokens change with it.
    pub(crate) fn emergency(&mut self, bound: Duration) -> Outcome {
        let roots = Some(self.change(Policy::Emergency { bound }));
        let secret = |n| Some(SecretBox(Arc::new(JoinSecret::from_bytes([n; 16]))));
        let version = self.state.cluster_version;
        let (worker_secret, manager_secret) = (secret(1), secret(2));
        let update = UpdateCluster { version, roots, worker_secret, manager_secret, ..UpdateCluster::default() };
        self.apply(Command::UpdateCluster(Box::new(update)))
    }

    pub(crate) fn update(&mut self, roots: Option<RootsChange>) -> Outcome {
        let version = self.state.cluster_version;
        let update = UpdateCluster { version, roots, ..UpdateCluster::default() };
        self.apply(Command::UpdateCluster(Box::new(update)))
    }

    pub(crate) fn advance(&mut self) -> Outcome {
        let rotation = self.state.rotation().unwrap().clone();
        let secret = |n| SecretBox(Arc::new(JoinSecret::from_bytes([n; 16])));
        self.apply(Command::AdvanceRotation(Box::new(Advance {
            rotation: rotation.id,
            phase: rotation.phase,
            worker_secret: secret(3),
            manager_secret: secret(4),
        })))
    }

    fn letter(&mut self, node: Option<&Node>, role: Role) -> Letter {
        self.drawn += 1;
        let mut bytes = [0x11; 20];
        bytes[12..].copy_from_slice(&self.drawn.to_be_bytes());
        let leaf = Leaf {
            serial: Serial::from_random(bytes),
            spki: SpkiHash(pki::digest::sha256(&bytes)),
            issuer: self.state.roots.signing().unwrap().issuer,
            role,
            not_before: self.now.saturating_sub(Duration::from_secs(3600)),
            not_after: self.now.saturating_add(self.state.settings.leaf_life()),
        };
        let ladder = self.state.roots.ladder_for(node, role, self.now).iter().map(|step| step.der().to_vec()).collect();
        Letter { csr: bytes.to_vec(), leaf, certificate: bytes.to_vec(), ladder, issued: self.now }
    }
}
