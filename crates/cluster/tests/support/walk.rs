//! A walk through commands that are mostly plausible, and wrong in every way that a premise can be.

use std::sync::Arc;
use std::time::Duration;

use cluster::command::{Ask, Batch, Command, Reported, Revoke, Right, UpdateCluster, Withdraw, Withdrawn};
use cluster::node::{Availability, Spec, TokenUse};
use cluster::operators::RevokeOperator;
use cluster::outcome::Outcome;
use cluster::revocation::Reason;
use pki::identity::{NodeId, Role};
use pki::operator::OperatorRole;

use super::{Cluster, DAY, HOUR, LIFE, csr, id, issuer, letter, operators, report, secret, spki};

const NAMES: [&str; 3] = ["alice", "bob", "ci@example.org"];

/// One step: what, of whom, and how it goes wrong (0 to 15, most of them: it does not).
pub type Step = (u8, u16, u8);

impl Cluster {
    /// The command of a step, as it makes sense in this state; none: time passes instead.
    pub fn step(&mut self, (what, pick, twist): Step) -> Option<Command> {
        let twist = twist % 16;
        let nodes: Vec<NodeId> = self.state.nodes.keys().cloned().collect();
        let picked = nodes[usize::from(pick) % nodes.len()].clone();
        let record = self.state.node(&picked).cloned();
        Some(match what % 19 {
            0 | 1 => Command::Admit(Box::new(self.twisted_admission(pick, twist))),
            2 | 3 => {
                let n = number(&picked);
                let mut renew = self.renewal(n);
                match twist {
                    1 => renew.cut += 1,
                    2 => renew.premises.epoch += 1,
                    3 => renew.premises.issuer = issuer(9),
                    4 => renew.premises.signed = self.now.saturating_sub(HOUR),
                    5 => renew.node = id(999_999),
                    6 => renew.letter = self.state.node(&picked)?.mailbox.last().cloned()?,
                    7 => {
                        let drawn = self.draw();
                        renew.letter = Arc::new(letter(drawn, drawn, renew.letter.leaf.role, self.now, HOUR));
                    }
                    8 => {
                        // The key of a leaf offered before, under another serial.
                        let key = number_of_key(self, &picked)?;
                        let drawn = self.draw();
                        let mut other = letter(drawn, key, renew.letter.leaf.role, self.now, LIFE);
                        other.csr.push(b'2');
                        renew.letter = Arc::new(other);
                    }
                    _ => {}
                }
                Command::Renew(Box::new(renew))
            }
            4 | 5 => {
                let node = record?;
                let leaf = node.offered.get(usize::from(twist) % node.offered.len().max(1))?;
                Command::Confirm { node: picked, serial: leaf.serial }
            }
            6 => {
                let (mut report, mut blobs) = report(&format!("host{}", twist % 4), &[twist % 3]);
                match twist {
                    13 => report.trust = cluster::node::BlobDigest([7; 32]),
                    14 => blobs[0].1 = Arc::from(b"another".as_slice()),
                    15 => blobs.clear(),
                    _ => {}
                }
                Command::Report(Box::new(Reported { node: picked, report, blobs }))
            }
            7 => Command::Presence { node: picked, down: twist % 2 == 0, seen: self.now },
            8 => {
                let node = record?;
                let mut spec = node.spec.clone();
                spec.name = format!("name{}", twist % 3);
                if twist >= 12 {
                    spec.role = if spec.role == Role::Manager { Role::Worker } else { Role::Manager };
                }
                let version = node.version + u64::from(twist == 11);
                Command::UpdateNode { node: picked, version, spec: Box::new(spec) }
            }
            9 if twist >= 10 => {
                let node = record?;
                let leaves: Vec<_> = node.leaves().collect();
                let leaf = *leaves.get(usize::from(pick) % leaves.len().max(1))?;
                let what = match twist {
                    10..=12 => Withdraw::Certificates(vec![Withdrawn {
                        issuer: leaf.issuer,
                        serial: leaf.serial,
                        until: leaf.not_after,
                        node: (twist != 12).then_some(picked),
                    }]),
                    13 => Withdraw::Node { node: picked, keep: None },
                    14 => Withdraw::Node { node: picked, keep: Some(leaf.serial) },
                    _ => {
                        let (node, owed) = self.state.revocations.owed().iter().next()?;
                        let certificates = vec![Withdrawn {
                            issuer: leaf.issuer,
                            serial: leaf.serial,
                            until: leaf.not_after,
                            node: None,
                        }];
                        Withdraw::Found { node: node.clone(), at: owed.at, certificates, last: pick % 2 == 0 }
                    }
                };
                Command::Revoke(Box::new(Revoke { reason: Reason::ALL[usize::from(pick) % 4], what }))
            }
            9 => Command::RemoveNode { node: picked, force: twist % 2 == 0, ready: twist % 3 == 0 },
            10 => {
                let worker = twist % 4 == 0;
                Command::UpdateCluster(Box::new(UpdateCluster {
                    version: self.state.cluster_version + u64::from(twist == 15),
                    settings: (!worker).then(|| self.state.settings.as_ref().clone()),
                    worker_secret: worker.then(|| secret(twist)),
                    manager_secret: (twist == 13).then(|| secret(twist)),
                    ..UpdateCluster::default()
                }))
            }
            11 => {
                let request = u64::from(pick % 8);
                let right = match twist % 3 {
                    0 => Right::Node { cut: record?.cut + u32::from(twist == 15) },
                    _ => Right::Token {
                        spec: Spec::new(if twist == 14 { Role::Manager } else { Role::Worker }, Availability::Active),
                        ours: false,
                        token: TokenUse {
                            row: 0,
                            generation: self.state.tokens.rows[0].generation.saturating_sub(u64::from(twist == 13)),
                        },
                    },
                };
                let node = match right {
                    Right::Node { .. } => picked,
                    Right::Token { .. } => id(1 + self.state.index * 4 + request % 4),
                };
                Command::Ask(Box::new(Ask { node, right, csr: csr(500 + request), spki: spki(500 + request) }))
            }
            12 => {
                // What waits is answered.
                let waiting: Vec<_> = self.state.pending.iter().cloned().collect();
                let node = waiting.get(usize::from(pick) % waiting.len().max(1))?.clone();
                let record = self.state.node(&node)?.clone();
                let asked = record.pending.clone()?;
                let mut renew = self.renewal(number(&node));
                let mut letter = (*renew.letter).clone();
                letter.csr.clone_from(&asked.csr);
                letter.leaf.spki = asked.spki;
                renew.letter = Arc::new(letter);
                Command::Renew(Box::new(renew))
            }
            13 => {
                let node = record?;
                let held = node.leaves().find(|leaf| leaf.role == Role::Manager).or(node.current.as_ref())?;
                let row = self.state.members().get(&picked).map(|row| row.raft_id);
                let replaces = if twist == 15 { row } else { None };
                let addr = format!("192.0.2.{}:2377", twist % 3);
                Command::Enlist { node: picked, addr, serial: held.serial, replaces }
            }
            14 => {
                let row = self.state.members().get(&picked).map(|row| row.raft_id);
                match twist % 4 {
                    0 => Command::Unseat { node: picked, raft_id: row.filter(|_| twist != 12) },
                    _ => Command::Seat { node: picked, raft_id: row.unwrap_or(7) + u64::from(twist == 11) },
                }
            }
            15 => {
                if twist < 12 {
                    super::create_token(&self.state, 20 + twist % 4, 1 + u32::from(pick % 3))
                } else {
                    Command::RevokeToken { row: 2 + u32::from(pick % 4) }
                }
            }
            16 => {
                let rows: Vec<_> = self.state.tokens.limited.rows().map(|(row, _)| row).collect();
                let row = *rows.get(usize::from(pick) % rows.len().max(1))?;
                let mut admit = self.twisted_admission(pick, twist);
                admit.token = TokenUse { row, generation: u64::from(twist == 1) };
                Command::Admit(Box::new(admit))
            }
            17 => self.operators_step(u64::from(pick), twist)?,
            _ => {
                self.later(match twist {
                    0..=5 => Duration::from_secs(7),
                    6..=9 => HOUR,
                    10..=13 => DAY,
                    _ => LIFE,
                });
                if twist % 2 == 0 {
                    return None;
                }
                let named = if twist % 3 == 0 { nodes } else { self.state.collectable(self.now) };
                Command::Collect { nodes: named }
            }
        })
    }

    fn operators_step(&mut self, pick: u64, twist: u8) -> Option<Command> {
        let rows = &self.state.operators.rows;
        let picked = rows.keys().nth(pick as usize % rows.len().max(1)).copied();
        Some(match twist {
            0 => operators::found(),
            1 => Command::RevokeOperator(RevokeOperator::All),
            2 => operators::revoke_name(NAMES[pick as usize % NAMES.len()]),
            3 | 4 => {
                Command::RevokeOperator(RevokeOperator::Serial(picked.unwrap_or_else(|| operators::operator_serial(1))))
            }
            _ if self.state.operators.root.is_none() => operators::found(),
            _ => {
                let n = if twist == 5 { pick % 8 } else { self.draw() };
                let role = if pick.is_multiple_of(3) { OperatorRole::Viewer } else { OperatorRole::Admin };
                let mut issue =
                    self.operator(n, NAMES[pick as usize % NAMES.len()], role, DAY * (1 + u32::from(twist)));
                match twist {
                    6 => issue.premises.epoch += 1,
                    7 => issue.premises.issuer = issuer(9),
                    8 => issue.premises.signed = self.now.saturating_sub(HOUR),
                    9..=12 => issue.renews = Some(picked?),
                    _ => {}
                }
                Command::IssueOperator(Box::new(issue))
            }
        })
    }

    fn twisted_admission(&mut self, pick: u16, twist: u8) -> cluster::command::Admit {
        let n = 1 + self.state.index * 4 + u64::from(pick % 4);
        let mut admit = self.admission(n);
        let present = self.state.tokens.rows[0].generation;
        admit.token.generation = present;
        match twist {
            1 => admit.token.generation = present.saturating_sub(1),
            2 => admit.token = TokenUse { row: 7, generation: 0 },
            3 => admit.premises.epoch += 1,
            4 => admit.premises.issuer = issuer(9),
            5 => admit.premises.signed = self.now.saturating_add(HOUR),
            6 | 7 => {
                // The request, or the key, of a join that is under way.
                let Some(first) = self.state.joins.values().flatten().next().cloned() else { return admit };
                let letter = self.state.nodes[&first].mailbox.first().cloned();
                if let Some(first) = letter {
                    let mut again = (*admit.letter).clone();
                    again.leaf.spki = first.leaf.spki;
                    again.csr.clone_from(&first.csr);
                    if twist == 7 {
                        again.csr.push(b'2');
                    }
                    admit.letter = Arc::new(again);
                }
            }
            8 => {
                if let Some(taken) = self.state.removals.keys().next() {
                    admit.node = taken.clone();
                }
            }
            9 => admit.node = id(0),
            13 => admit.ours = false,
            10 | 11 => {
                let mut other = letter(self.drawn, self.drawn, Role::Manager, self.now, LIFE);
                other.leaf.role = if twist == 10 { Role::Manager } else { Role::Worker };
                admit.letter = Arc::new(other);
                admit.token = TokenUse { row: 1, generation: self.state.tokens.rows[1].generation };
                admit.spec.role = Role::Manager;
                admit.ours = !self.drawn.is_multiple_of(4);
            }
            12 => {
                let drawn = self.drawn;
                admit.letter = Arc::new(letter(drawn, drawn, Role::Worker, self.now, HOUR));
            }
            _ => {}
        }
        admit
    }

    /// Walks the steps, a few to a batch; the batches as they stand in the log, with what came of them.
    pub fn walk(&mut self, steps: &[Step]) -> Vec<(Vec<u8>, Vec<Outcome>)> {
        let mut trail = Vec::new();
        for chunk in steps.chunks(3) {
            // Commands of one batch are made against the state before it: some are late by then, as in life.
            let commands: Vec<_> = chunk.iter().filter_map(|step| self.step(*step)).collect();
            let bytes = Batch { time: self.now, commands: commands.clone() }.encode();
            let before = self.state.clone();
            let applied = self.run_all(commands);
            let idle = |outcome: &Outcome| match outcome {
                Outcome::Rejected(_) | Outcome::Unchanged | Outcome::Issued { fresh: false, .. } => true,
                // Another address, or nothing.
                Outcome::Issued { fresh: true, .. }
                | Outcome::Enlisted { .. }
                | Outcome::Pending { .. }
                | Outcome::Done { .. }
                | Outcome::Collected(_) => false,
            };
            if applied.outcomes.iter().all(idle) {
                let mut after = self.state.clone();
                (after.index, after.time) = (before.index, before.time);
                // After a long step of time the first entry shows that the cluster slept, whatever comes of it.
                after.comeback = before.comeback;
                assert!(
                    before.encode_snapshot() == after.encode_snapshot(),
                    "{:?} changed the state",
                    applied.outcomes
                );
            }
            trail.push((bytes, applied.outcomes));
        }
        trail
    }
}

fn number(id: &NodeId) -> u64 {
    id.as_str()[4..].parse().unwrap()
}

fn number_of_key(cluster: &Cluster, id: &NodeId) -> Option<u64> {
    let offered = cluster.state.nodes[id].offered.first()?;
    (0..=cluster.drawn).find(|key| spki(*key) == offered.spki)
}
