//! What may be said twice, and how to tell that something was done whose answer was lost: a leader that dies takes answers
//! with it.

use std::cmp::Ordering;
use std::sync::Arc;

use pki::identity::Role;

use crate::command::{Ask, Command, Right, UpdateCluster, Withdraw};
use crate::node::{BlobDigest, Letter, Node};
use crate::operators::RevokeOperator;
use crate::outcome::Outcome;
use crate::roots::Root;
use crate::rotation::{RootsChange, Way};
use crate::state::State;
use crate::tokens::{MANAGER_ROW, WORKER_ROW};

impl Command {
    /// Whether the same command once more, after it was applied, changes nothing: so who does not know whether it was may send
    /// it again. What is not repeatable would undo what came after it, or names a version and is refused.
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Admit(_)
            | Self::Renew(_)
            | Self::Ask(_)
            | Self::Confirm { .. }
            | Self::AdvanceRotation(_)
            | Self::ReplaceLadder(_)
            | Self::Enlist { .. }
            | Self::Seat { .. }
            | Self::Unseat { .. }
            | Self::EraseLog { .. }
            | Self::CreateToken(_)
            | Self::RevokeToken { .. }
            | Self::FoundOperators(_)
            | Self::IssueOperator(_)
            | Self::RevokeOperator(RevokeOperator::Serial(_))
            | Self::Collect { .. } => true,
            Self::Attributed(attributed) => attributed.command.is_repeatable(),
            Self::Revoke(revoke) => !matches!(revoke.what, Withdraw::Node { .. }),
            Self::Bootstrap(_)
            | Self::Report(_)
            | Self::Presence { .. }
            | Self::UpdateNode { .. }
            | Self::RemoveNode { .. }
            | Self::UpdateCluster(_)
            | Self::UnlockKeyShown
            | Self::IssueApiServer(_)
            | Self::RevokeOperator(RevokeOperator::Name(_) | RevokeOperator::All)
            | Self::Refound(_) => false,
        }
    }
}

/// The answer that was given before.
fn again(node: &Node, letter: &Arc<Letter>) -> Outcome {
    Outcome::Issued { node: node.id.clone(), letter: Arc::clone(letter), fresh: false }
}

/// The answer, if this very leaf is registered.
fn registered(node: &Node, letter: &Arc<Letter>) -> Option<Outcome> {
    node.leaves().any(|leaf| *leaf == letter.leaf).then(|| again(node, letter))
}

impl State {
    /// What came of a command that was applied before, as far as this state shows it; none: it was not, or nothing tells.
    pub fn already(&self, command: &Command) -> Option<Outcome> {
        match command {
            Command::Admit(admit) => {
                let answer = |(node, letter): (&Arc<Node>, &Arc<Letter>)| again(node, letter);
                let (key, csr) = (&admit.letter.leaf.spki, &admit.letter.csr);
                let own = self.nodes.get(&admit.node).and_then(|node| registered(node, &admit.letter));
                own.or_else(|| self.answered_join(&admit.token, key, csr, self.time).map(answer))
            }
            Command::Renew(renew) => {
                let node = self.nodes.get(&renew.node)?;
                let before = || self.letter_for(node, &renew.letter.csr, self.time).map(|letter| again(node, letter));
                registered(node, &renew.letter).or_else(before)
            }
            Command::Ask(ask) => self.already_asked(ask),
            Command::Confirm { node, serial } => {
                let node = self.nodes.get(node)?;
                let mut seen = node.current.iter().chain(node.previous.iter().map(|(leaf, _)| leaf));
                seen.any(|leaf| leaf.serial == *serial).then_some(Outcome::Unchanged)
            }
            Command::Report(reported) => {
                let node = self.nodes.get(&reported.node)?;
                let same = node.report.as_deref() == Some(&reported.report) && !node.down;
                same.then_some(Outcome::Done { version: node.version })
            }
            Command::Presence { node, down, .. } => {
                let node = self.nodes.get(node)?;
                (node.down == *down).then_some(Outcome::Done { version: node.version })
            }
            Command::UpdateNode { node, version, spec } => {
                let node = self.nodes.get(node)?;
                match node.version.cmp(version) {
                    _ if node.spec != **spec => None,
                    Ordering::Less => None,
                    Ordering::Equal => Some(Outcome::Unchanged),
                    Ordering::Greater => Some(Outcome::Done { version: node.version }),
                }
            }
            Command::RemoveNode { node, .. } => {
                self.removals.contains_key(node).then_some(Outcome::Done { version: self.index })
            }
            Command::UpdateCluster(update) => self.already_updated(update),
            Command::AdvanceRotation(advance) => {
                let on = self.rotation().is_some_and(|now| now.id == advance.rotation && now.phase > advance.phase);
                let secrets = self.has_secret(WORKER_ROW, &advance.worker_secret.0)
                    && self.has_secret(MANAGER_ROW, &advance.manager_secret.0);
                (on || secrets).then_some(Outcome::Done { version: self.cluster_version })
            }
            Command::ReplaceLadder(replace) => {
                let running = self.rotation().filter(|running| running.id == replace.rotation)?;
                let same = matches!(&running.way, Way::Ladder(ladder) if *ladder == replace.ladder);
                same.then_some(Outcome::Unchanged)
            }
            Command::Enlist { node, addr, replaces, .. } => {
                let row = self.members.rows.get(node)?;
                let done = row.addr == *addr && *replaces != Some(row.raft_id);
                done.then_some(Outcome::Enlisted { raft_id: row.raft_id })
            }
            Command::Seat { node, raft_id } => {
                let row = self.members.rows.get(node)?;
                let node = self.nodes.get(node)?;
                let done = row.raft_id == *raft_id && node.role == Role::Manager;
                done.then_some(Outcome::Unchanged)
            }
            Command::Unseat { node: id, raft_id } => {
                let node = self.nodes.get(id)?;
                let gone = self.members.rows.get(id).map(|row| row.raft_id) != *raft_id;
                let done = if raft_id.is_some() { gone } else { node.promoting.is_none() };
                done.then_some(Outcome::Unchanged)
            }
            Command::Attributed(attributed) => self.already(&attributed.command),
            Command::EraseLog { below } => (self.log_erased >= *below).then_some(Outcome::Unchanged),
            Command::CreateToken(create) => {
                self.tokens.limited.find(&create.hash).is_some().then_some(Outcome::Unchanged)
            }
            Command::RevokeToken { row } => {
                let token = self.tokens.limited.get(*row)?;
                token.closed.is_some().then_some(Outcome::Unchanged)
            }
            Command::Revoke(revoke) => match &revoke.what {
                Withdraw::Certificates(these) => {
                    let done = these.iter().all(|one| self.revocations.contains(&one.issuer, &one.serial));
                    done.then_some(Outcome::Unchanged)
                }
                Withdraw::Node { .. } | Withdraw::Found { .. } => None,
            },
            Command::FoundOperators(found) => {
                let root = self.operators.root.as_ref()?;
                (root.issuer == found.root.issuer).then_some(Outcome::Unchanged)
            }
            Command::IssueOperator(issue) => self.has_operator(issue).then_some(Outcome::Unchanged),
            Command::RevokeOperator(what) => self.already_revoked(what).then_some(Outcome::Unchanged),
            Command::Bootstrap(_)
            | Command::Refound(_)
            | Command::UnlockKeyShown
            | Command::IssueApiServer(_)
            | Command::Collect { .. } => None,
        }
    }

    fn already_asked(&self, ask: &Ask) -> Option<Outcome> {
        let waits = |node: &Arc<Node>| {
            let asked = node.pending.as_ref().is_some_and(|pending| pending.csr == ask.csr);
            asked.then(|| Outcome::Pending { node: node.id.clone() })
        };
        let answered = |node: &Arc<Node>| {
            let letter = node.mailbox.iter().rev().find(|letter| letter.csr == ask.csr)?;
            Some(again(node, letter))
        };
        let own = self.nodes.get(&ask.node).and_then(|node| answered(node).or_else(|| waits(node)));
        let Right::Token { token, .. } = &ask.right else { return own };
        let other =
            || self.answered_join(token, &ask.spki, &ask.csr, self.time).map(|(node, letter)| again(node, letter));
        own.or_else(other).or_else(|| self.pending_join(token, &ask.spki, &ask.csr).and_then(waits))
    }

    /// Every part that the update changes is as it would have it, and it was made since.
    fn already_updated(&self, update: &UpdateCluster) -> Option<Outcome> {
        let UpdateCluster { version, settings, worker_secret, manager_secret, roots, custody, unlock, told: _ } =
            update;
        let settings = settings.as_ref().map(|settings| *self.settings == *settings);
        let secret = |row, secret: &crate::command::SecretBox| self.has_secret(row, &secret.0);
        let worker = worker_secret.as_ref().map(|fresh| secret(WORKER_ROW, fresh));
        let manager = manager_secret.as_ref().map(|fresh| secret(MANAGER_ROW, fresh));
        let roots = roots.as_ref().map(|change| self.already_changed(change));
        let custody = custody.as_ref().map(|(trust, _)| self.has_root(trust));
        let unlock = unlock.as_ref().map(|fresh| !self.settings.autolock || self.unlock.as_ref() == Some(fresh));
        let mut parts = [settings, worker, manager, roots, custody, unlock].into_iter().flatten().peekable();
        let done = self.cluster_version > *version && parts.peek().is_some() && parts.all(|there| there);
        done.then_some(Outcome::Done { version: self.cluster_version })
    }

    fn already_changed(&self, change: &RootsChange) -> bool {
        let running = self.rotation();
        match change {
            RootsChange::Start(start) => {
                let root: Option<&Arc<Root>> = running.map_or_else(|| self.roots.served(), |now| Some(&now.new));
                root.is_some_and(|root| root.issuer == start.to.issuer)
            }
            RootsChange::Abort(abort) => running.is_some_and(|now| {
                now.back && now.policy == abort.policy && (now.bundle().is_some() || now.ladder() == abort.ladder)
            }),
            RootsChange::Policy(policy) => running.is_some_and(|now| now.policy == *policy),
        }
    }

    fn has_root(&self, trust: &BlobDigest) -> bool {
        self.roots.in_use().any(|root| root.trust == *trust)
    }

    fn has_secret(&self, row: u32, secret: &pki::join_token::JoinSecret) -> bool {
        self.tokens.rows.get(row as usize).is_some_and(|token| token.secret.expose() == secret.expose())
    }
}
