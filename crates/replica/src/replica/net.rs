#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! A group in one process, for tests: the way between its members can be cut, slowed down, and made to lose answers; their
//! disks forget.

use super::*;
use crate::carrier::CarryError;
use crate::disk::faulty::FaultyDisk;
use crate::support::{self, START, id};
use cluster::command::{Admit, Premises};
use cluster::node::{Availability, Spec};
use futures::future::BoxFuture;
use pki::identity::Role;
use std::collections::{BTreeMap, BTreeSet};

/// The ways between all members.
#[derive(Clone, Default)]
pub(super) struct Net {
    inner: Arc<Mutex<Wires>>,
}

#[derive(Default)]
pub(super) struct Wires {
    members: BTreeMap<u64, Replica>,
    /// How often each has died: who is dead says nothing more, although it may not know.
    deaths: BTreeMap<u64, u32>,
    /// From whom to whom nothing comes through.
    cut: BTreeSet<(u64, u64)>,
    /// From whom to whom questions arrive whose answers do not come back.
    pub(super) deaf: BTreeSet<(u64, u64)>,
    pub(super) delay: Duration,
    /// Out of a thousand questions, so many do not arrive; as many answers.
    pub(super) loss: u64,
    drawn: u64,
    /// The last question between two.
    pub(super) said: BTreeMap<(u64, u64), Vec<u8>>,
    /// Bulky questions.
    pub(super) bulk: usize,
    /// Parts of the issuance log are changed on the way; and how many were.
    pub(super) lies: bool,
    pub(super) lied: usize,
}

impl Wires {
    fn deaths(&self, member: u64) -> u32 {
        self.deaths.get(&member).copied().unwrap_or_default()
    }

    fn lost(&mut self) -> bool {
        self.drawn = self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.drawn >> 33) % 1000 < self.loss
    }
}

/// One member's end.
struct Wire {
    net: Net,
    from: u64,
    deaths: u32,
}

impl Net {
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Wires> {
        self.inner.lock().unwrap()
    }

    /// Nothing goes between this one and the others any more, nor back.
    pub(super) fn isolate(&self, member: u64) {
        let mut wires = self.lock();
        for other in 1..10 {
            wires.cut.extend([(member, other), (other, member)]);
        }
    }

    pub(super) fn heal(&self) {
        let mut wires = self.lock();
        wires.cut.clear();
        wires.deaf.clear();
    }
}

impl Carrier for Wire {
    fn ask(
        &self,
        to: u64,
        question: Vec<u8>,
        within: Duration,
        bulk: bool,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarryError>> {
        let (net, from, deaths) = (self.net.clone(), self.from, self.deaths);
        Box::pin(async move {
            let (member, delay, lost) = {
                let mut wires = net.lock();
                wires.said.insert((from, to), question.clone());
                if wires.cut.contains(&(from, to)) || wires.deaths(from) != deaths {
                    return Err(CarryError::Unreachable("cut".into()));
                }
                wires.bulk += usize::from(bulk);
                let Some(member) = wires.members.get(&to).cloned() else {
                    return Err(CarryError::Unreachable("off".into()));
                };
                (member, wires.delay, wires.lost())
            };
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if lost {
                tokio::time::sleep(within).await;
                return Err(CarryError::Lost("lost".into()));
            }
            // The other end goes on when this one gives up.
            let answer = tokio::spawn(async move { member.answer(from, question).await });
            let answer = tokio::time::timeout(within, answer).await;
            if net.lock().lost() {
                tokio::time::sleep(within).await;
                return Err(CarryError::Lost("lost".into()));
            }
            if net.lock().cut.contains(&(to, from)) || net.lock().deaf.contains(&(from, to)) {
                return Err(CarryError::Lost("cut".into()));
            }
            match answer {
                Ok(Ok(Ok(mut answer))) => {
                    let mut wires = net.lock();
                    if wires.lies && bulk && answer.len() > 1000 {
                        wires.lied += 1;
                        *answer.last_mut().unwrap() ^= 1;
                    }
                    Ok(answer)
                }
                Ok(Ok(Err(AnswerError::Fatal(error)))) => Err(CarryError::Lost(error.to_string())),
                Ok(Ok(Err(error))) => Err(CarryError::Refused(error.to_string())),
                Ok(Err(error)) => Err(CarryError::Lost(error.to_string())),
                Err(_) => Err(CarryError::Lost("too late".into())),
            }
        })
    }
}

/// Members with disks in memory.
pub(super) struct Cluster {
    pub(super) net: Net,
    dir: tempfile::TempDir,
    pub(super) disks: BTreeMap<u64, FaultyDisk>,
    limits: Limits,
}

impl Cluster {
    pub(super) async fn found(limits: Limits) -> (Self, Replica) {
        let (net, dir) = (Net::default(), tempfile::tempdir().unwrap());
        let mut cluster = Self { net, dir, disks: BTreeMap::new(), limits };
        let disk = cluster.disks.entry(1).or_default().clone();
        let replica = Replica::create_on(&disk, cluster.config(1), support::Cluster::bootstrap()).await.unwrap();
        cluster.net.lock().members.insert(1, replica.clone());
        (cluster, replica)
    }

    pub(super) fn config(&self, member: u64) -> Config {
        Config {
            dir: self.dir.path().join(format!("raft-{member}")),
            dek: SecretBytes::new(vec![u8::try_from(member).unwrap(); 32]),
            clock: Arc::new(|| START),
            carrier: Arc::new(Wire { net: self.net.clone(), from: member, deaths: self.net.lock().deaths(member) }),
            limits: self.limits,
        }
    }

    /// An empty member that is in no group yet.
    pub(super) async fn empty(&mut self, member: u64) -> Replica {
        let disk = self.disks.entry(member).or_default().clone();
        let made = Replica::join_on(&disk, self.config(member), member, support::cluster_id(), 0);
        let replica = made.await.unwrap();
        self.net.lock().members.insert(member, replica.clone());
        replica
    }

    /// A new voter.
    pub(super) async fn voter(&mut self, leader: &Replica, member: u64) -> Replica {
        let replica = self.empty(member).await;
        leader.change(GroupChange::AddLearner(member)).await.unwrap();
        caught_up(leader, member).await;
        leader.change(GroupChange::Promote(member)).await.unwrap();
        replica
    }

    /// Three of them; the first leads.
    pub(super) async fn three(limits: Limits) -> (Self, Vec<Replica>) {
        let (mut cluster, one) = Self::found(limits).await;
        let two = cluster.voter(&one, 2).await;
        let three = cluster.voter(&one, 3).await;
        (cluster, vec![one, two, three])
    }

    /// Its process dies. What it had written is there.
    pub(super) fn kill(&self, member: u64) {
        self.net.isolate(member);
        let mut wires = self.net.lock();
        wires.members.remove(&member);
        *wires.deaths.entry(member).or_default() += 1;
    }

    /// The power goes, at once.
    pub(super) fn crash(&mut self, member: u64, seed: u64) {
        self.kill(member);
        self.disks.get_mut(&member).unwrap().crash(seed);
    }

    pub(super) async fn reopen(&self, member: u64) -> Replica {
        self.net.heal();
        let replica = Replica::open_on(&self.disks[&member], self.config(member)).await.unwrap();
        self.net.lock().members.insert(member, replica.clone());
        replica
    }
}

/// The leader knows that this one has everything.
pub(super) async fn caught_up(leader: &Replica, member: u64) {
    let mut group = leader.group();
    let has = |group: &Arc<Group>| group.members.get(&member).is_some_and(|seen| seen.behind == 0);
    group.wait_for(has).await.unwrap();
}

/// One of these leads, another than this.
pub(super) async fn another_leads<'a>(members: &[&'a Replica], than: u64) -> &'a Replica {
    let leads = members.iter().map(|member| {
        Box::pin(async move {
            let mut leadership = member.leadership();
            let here = leadership.wait_for(|now| now.here && now.leader != Some(than));
            here.await.map(|_| *member).ok()
        })
    });
    futures::future::select_all(leads).await.0.unwrap()
}

pub(super) async fn applied(member: &Replica, index: u64) -> Arc<State> {
    member.watch().wait_for(|state| state.index >= index).await.unwrap().clone()
}

pub(super) async fn same(members: &[&Replica]) {
    let index = members.iter().map(|member| member.state().index).max().unwrap();
    let expected = applied(members[0], index).await.encode_snapshot();
    for member in members {
        assert!(applied(member, index).await.encode_snapshot() == expected, "member {}", member.raft_id());
    }
}

/// The `n`th node joins; saying it twice changes nothing.
pub(super) fn admit(n: u64) -> Command {
    Command::Admit(Box::new(Admit {
        node: id(n),
        spec: Spec::new(Role::Worker, Availability::Active),
        ours: true,
        token: support::WORKER,
        letter: Arc::new(support::letter(n, n, Role::Worker, START, support::LIFE)),
        premises: Premises { issuer: support::root().issuer, epoch: 0, signed: START },
    }))
}

pub(super) async fn join(member: &Replica, n: u64) -> Result<(), ProposeError> {
    let outcomes = member.propose(vec![admit(n)]).await?;
    assert!(matches!(outcomes.as_slice(), [Outcome::Issued { .. }]), "{outcomes:?}");
    assert!(member.state().node(&id(n)).is_some(), "who has an answer reads it");
    Ok(())
}

pub(super) fn report(n: u64) -> Command {
    let (report, blobs) = support::report(&format!("host{n}"), b"linux");
    Command::Report(Box::new(cluster::command::Reported { node: id(0), report, blobs }))
}
