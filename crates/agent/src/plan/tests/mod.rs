#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! The machine on a bench: inputs by hand, effects as short words.

mod joining;
mod renewing;
mod sessions;

use std::time::Duration;

use pki::bundle::Issuer;
use pki::identity::Role;
use pki::key::{PrivateKey, Signer};
use pki::time::Time;
use wire::proto::{Certificate as CertificateRecord, IssuanceStatus, Node, NodeSpec, SessionMessage, WeightedPeer};

use super::*;
use crate::testing::{Ca, DAY, csr, issue_by, key, subject};

pub(super) const NOW: Time = Time::from_unix_secs(1_790_000_000);
pub(super) const NODE: &str = "node1";

pub(super) struct Bench {
    pub(super) plan: Plan,
    pub(super) now: Time,
    pub(super) ca: Ca,
    pub(super) key: PrivateKey,
    /// The CSR of that key as it was sent: ECDSA signs differently each time.
    pub(super) csr: Vec<u8>,
    keys: u8,
}

/// An effect in a few words.
fn word(effect: &Effect) -> String {
    match effect {
        Effect::FetchRoot { peer } => format!("root {}", peer.addr),
        Effect::SaveTrust(_) => "trust".to_owned(),
        Effect::Issue { request, peer, caller } => {
            let caller = match caller {
                Caller::Joiner(_) => "joiner",
                Caller::Node => "node",
            };
            format!("issue#{request} {} {caller}", peer.addr)
        }
        Effect::Poll { request, peer, node, .. } => format!("poll#{request} {} {node}", peer.addr),
        Effect::FetchUnlockKey { request, .. } => format!("unlock#{request}"),
        Effect::Install { request, role, .. } => format!("install#{request} {}", role.word()),
        Effect::Forget { request } => format!("forget#{request}"),
        Effect::OpenSession { session, peer, session_id, .. } => format!("open#{session} {} {session_id:?}", peer.addr),
        Effect::Beat { session, session_id } => format!("beat#{session} {session_id}"),
        Effect::AskClock { session } => format!("clock#{session}"),
        Effect::AskClockUnverified { peer } => format!("clock? {}", peer.addr),
        Effect::CloseSession { session } => format!("close#{session}"),
        Effect::Start(timer, _) => format!("start {timer:?}"),
        Effect::Stop(timer) => format!("stop {timer:?}"),
        Effect::SaveManagers(peers) => {
            let addrs: Vec<&str> = peers.iter().map(|peer| peer.addr.as_str()).collect();
            format!("managers {}", addrs.join(","))
        }
        Effect::SaveFloor(_) => "floor".to_owned(),
        Effect::Joined => "joined".to_owned(),
        Effect::JoinFailed(error) => format!("failed: {error}"),
        Effect::RoleWanted(role) => format!("wanted {}", role.word()),
        Effect::RoleChanged(role) => format!("changed {}", role.word()),
        Effect::Removed { text } => format!("removed: {text}"),
    }
}

/// The effects but for timers that stop and times that are kept.
pub(super) fn words(effects: &[Effect]) -> Vec<String> {
    effects.iter().filter(|effect| !matches!(effect, Effect::Stop(_) | Effect::SaveFloor(_))).map(word).collect()
}

/// The delay with which a timer was started.
pub(super) fn delay(effects: &[Effect], wanted: Timer) -> Option<Duration> {
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Start(timer, delay) if *timer == wanted => Some(*delay),
        _ => None,
    })
}

pub(super) fn refusal(code: tonic::Code, text: &str) -> Failure {
    Failure::new(FailureKind::Status(code), text)
}

pub(super) fn lost() -> Failure {
    Failure::new(FailureKind::Connect, "connection refused")
}

impl Bench {
    /// A node that joins at these addresses with a token of the CA's root.
    pub(super) fn joining(addrs: &[&str]) -> Bench {
        let ca = Ca::new(100, NOW);
        let digest = Digest::of(ca.pem().as_bytes());
        Self::with(
            ca,
            Start {
                addrs: addrs.iter().map(|addr| (*addr).to_owned()).collect(),
                token: Some((digest, false)),
                ..Start::default()
            },
        )
    }

    pub(super) fn with(ca: Ca, start: Start) -> Bench {
        Bench { plan: Plan::new(start, NOW, 1).unwrap(), now: NOW, ca, key: key(1), csr: Vec::new(), keys: 1 }
    }

    /// A node that holds a certificate of this role and runs; its session is being opened.
    pub(super) fn running(role: Role) -> (Bench, Vec<Effect>) {
        let ca = Ca::new(100, NOW);
        let pem = ca.issue(&csr(&key(1)), &subject(NODE, role), NOW, DAY);
        let start = Start {
            known: vec![Peer { node: "m1".to_owned(), addr: "m1:1".to_owned() }],
            trust: Some(ca.trust(NOW)),
            pair: Some((pem, NOW)),
            ..Start::default()
        };
        let mut bench = Self::with(ca, start);
        let effects = bench.feed(Input::Run);
        (bench, effects)
    }

    /// The same with its session open.
    pub(super) fn ready(role: Role) -> Bench {
        let (mut bench, _) = Self::running(role);
        let mut message = bench.message("s1");
        message.node = Some(node(i32::from(role == Role::Manager), 3, ""));
        bench.tell(1, message);
        assert_eq!(bench.plan.status().phase, Phase::Ready);
        bench
    }

    pub(super) fn feed(&mut self, input: Input) -> Vec<Effect> {
        self.plan.step(self.now, input)
    }

    pub(super) fn timer(&mut self, timer: Timer) -> Vec<Effect> {
        self.feed(Input::Timer(timer))
    }

    /// The CSR of a new key, as the shell would send it.
    pub(super) fn accept(&mut self, request: u64) -> Vec<Effect> {
        self.keys += 1;
        self.key = key(self.keys);
        self.csr = csr(&self.key);
        let accepted = Accepted { csr: self.csr.clone(), node: NODE.to_owned() };
        self.feed(Input::Issued { request, result: Ok(accepted) })
    }

    pub(super) fn answer(&mut self, request: u64, answer: Answer) -> Vec<Effect> {
        self.feed(Input::Answered { request, result: Ok(answer) })
    }

    /// The answer that the CA would give now.
    pub(super) fn issued(&self, role: Role) -> Answer {
        self.issued_by(&self.ca.issuer, role)
    }

    pub(super) fn issued_by(&self, issuer: &Issuer, role: Role) -> Answer {
        let csr = self.csr.clone();
        Answer { state: 3, err: String::new(), chain: issue_by(issuer, &csr, &subject(NODE, role), self.now, DAY), csr }
    }

    pub(super) fn installed(&mut self, request: u64) -> Vec<Effect> {
        self.feed(Input::Installed { request, result: Ok(()) })
    }

    /// A whole renewal that begins now.
    pub(super) fn renew_as(&mut self, request: u64, role: Role) -> Vec<Effect> {
        self.accept(request);
        let answer = self.issued(role);
        let mut effects = self.answer(request, answer);
        if role == Role::Manager {
            effects = self.feed(Input::Unlocked { request, result: Ok(()) });
        }
        assert_eq!(words(&effects), [format!("install#{request} {}", role.word())]);
        self.installed(request)
    }

    /// A session message as a manager sends it: this node a worker, one manager, the root.
    pub(super) fn message(&self, id: &str) -> SessionMessage {
        SessionMessage {
            session_id: id.to_owned(),
            node: Some(node(0, 3, "")),
            managers: vec![peer("m1", "m1:1")],
            network_bootstrap_keys: Vec::new(),
            root_ca: self.ca.pem().into_bytes().into(),
        }
    }

    pub(super) fn tell(&mut self, session: u64, message: SessionMessage) -> Vec<Effect> {
        self.feed(Input::Message { session, message: Box::new(message) })
    }

    pub(super) fn leaf_key(&self) -> Vec<u8> {
        self.plan.held.as_ref().unwrap().chain[0].spki_der().to_vec()
    }
}

pub(super) fn peer(node: &str, addr: &str) -> WeightedPeer {
    WeightedPeer { peer: Some(wire::proto::Peer { node_id: node.to_owned(), addr: addr.to_owned() }), weight: 10 }
}

pub(super) fn node(desired_role: i32, state: i32, err: &str) -> Node {
    Node {
        id: NODE.to_owned(),
        spec: Some(NodeSpec { desired_role, ..NodeSpec::default() }),
        certificate: Some(CertificateRecord {
            status: Some(IssuanceStatus { state, err: err.to_owned() }),
            ..CertificateRecord::default()
        }),
        ..Node::default()
    }
}

#[test]
fn the_same_inputs_give_the_same_effects() {
    let run = || {
        let (mut bench, mut all) = Bench::running(Role::Worker);
        for session in 1..20 {
            all.extend(bench.feed(Input::SessionEnded { session, failure: lost() }));
            all.extend(bench.timer(Timer::Session));
        }
        let delays: Vec<Option<Duration>> =
            all.iter().map(|effect| delay(std::slice::from_ref(effect), Timer::Session)).collect();
        (words(&all), delays)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_pair_without_its_key_is_not_the_benchs_fault() {
    let (bench, _) = Bench::running(Role::Worker);
    assert_eq!(bench.leaf_key(), key(1).public().spki_der());
}
