//! What this node keeps of the issuance log, so that nobody changes it unseen: the newest head that a manager signed and that follows from the
//! one before ([`pki::witness`]), and pairs that cannot be of one log.
//!
//! - What is kept is let go only for what follows from it, or is put among the evidence first.
//! - Who signed the kept head may be believed no more: then what contradicts it is followed from there on. Which of the two lied is for people
//!   to say: a manager who lies can have another's certificate refused.
//! - Evidence never makes room for other evidence.

use mtls::{Live, Statement, StatementError};
use pki::certificate::Certificate;
use pki::identity::NodeId;
use pki::merkle::Hash;
use pki::time::Time;
use pki::witness::{self, Contradiction, Follows, Head};
use prost::Message;
use wire::convert::log_head;
use wire::limits::{LOG_PROOF_MAX, NEWS_FORKS_MAX, NEWS_LOG_HEAD, NEWS_STATEMENT_BYTES_MAX};
use wire::node::{self, LogFork};

/// A head that a manager signed, and that this node keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptHead {
    /// What was said.
    pub head: Head,
    /// The manager that said it.
    pub manager: Option<NodeId>,
    /// As it was said.
    pub statement: Statement,
}

/// Two heads that cannot be of one log: somebody changed the log after it was signed, or has a manager's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The head that was kept.
    pub kept: KeptHead,
    /// The one that contradicts it.
    pub said: KeptHead,
    /// What came as proof.
    pub proof: Vec<Hash>,
    /// When this node heard it, by its own clock.
    pub at: Time,
}

/// What a node keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witness {
    /// The newest head.
    pub head: Option<KeptHead>,
    /// What contradicted one: the first of each manager that said such a thing, and each head that was let go. They stay until somebody looked
    /// into it and removed their file.
    pub forks: Vec<Fork>,
}

/// Why a head was not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotBelieved {
    #[error(transparent)]
    Statement(#[from] StatementError),
    #[error(transparent)]
    Head(#[from] log_head::NoHead),
    #[error("it is of another cluster")]
    Cluster,
    #[error("it is of a cluster that was made anew since")]
    Bygone,
    #[error("the proof that came with it is none")]
    Malformed,
}

/// What became of a head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is the one that is kept.
    Known,
    /// It is kept from now on.
    Kept,
    /// It contradicts the one that is kept.
    Contradicts {
        why: Contradiction,
        /// Whether that is new, and kept as evidence.
        new: bool,
        /// Whether it is kept from now on in place of the other, whose signer is not believed any more.
        instead: bool,
    },
}

impl KeptHead {
    /// As it is kept: the statement, without a look at who said it.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Self::of(node::Statement::decode(bytes).ok()?)
    }

    /// A statement whose content is a head; none: it is something else. Who said it is not looked at.
    #[must_use]
    pub fn new(statement: Statement) -> Option<Self> {
        let head = log_head::decode(&statement.content).ok()?;
        let leaf = statement.chain.first().and_then(|leaf| Certificate::from_der(leaf.clone()).ok());
        let manager = leaf.and_then(|leaf| leaf.node_subject().ok()).map(|subject| subject.node);
        Some(Self { head, manager, statement })
    }

    fn of(statement: node::Statement) -> Option<Self> {
        if statement.encoded_len() > NEWS_STATEMENT_BYTES_MAX {
            return None;
        }
        let scheme = u16::try_from(statement.scheme).ok()?;
        let node::Statement { chain, content, signature, .. } = statement;
        Self::new(Statement { chain, scheme, content, signature })
    }

    /// As it was said, on the wire and on disk.
    #[must_use]
    pub fn to_wire(&self) -> node::Statement {
        let Statement { chain, scheme, content, signature } = &self.statement;
        let (chain, content, signature) = (chain.clone(), content.clone(), signature.clone());
        node::Statement { chain, content, scheme: (*scheme).into(), signature }
    }

    /// The bytes that it is kept in.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    /// Whether a manager of the cluster signed it, believed or not.
    fn is_proven(&self, live: &Live, at: Time) -> bool {
        live.who_signed(NEWS_LOG_HEAD, &self.statement, self.head.at.min(at)).is_ok()
    }

    /// Whether who said it is believed still: its certificate was good then, and was not taken back, and its root is not given up.
    fn stands(&self, live: &Live, at: Time) -> bool {
        live.who_said(NEWS_LOG_HEAD, &self.statement, self.head.at.min(at)).is_ok()
    }
}

impl Fork {
    fn to_wire(&self) -> LogFork {
        LogFork {
            kept: Some(self.kept.to_wire()),
            said: Some(self.said.to_wire()),
            proof: self.proof.iter().map(|hash| hash.to_vec()).collect(),
            at: self.at.unix_millis(),
            more: Vec::new(),
        }
    }

    /// Several, as they are kept in one file.
    #[must_use]
    pub fn write(forks: &[Self]) -> Vec<u8> {
        let mut all = forks.iter().map(Self::to_wire);
        let Some(mut first) = all.next() else { return Vec::new() };
        first.more = all.collect();
        first.encode_to_vec()
    }

    /// Those in a file; none: they cannot be read.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Vec<Self>> {
        let mut first = LogFork::decode(bytes).ok()?;
        let more = std::mem::take(&mut first.more);
        std::iter::once(first).chain(more).take(NEWS_FORKS_MAX).map(Self::of).collect()
    }

    fn of(fork: LogFork) -> Option<Self> {
        Some(Self {
            kept: KeptHead::of(fork.kept?)?,
            said: KeptHead::of(fork.said?)?,
            proof: hashes(&fork.proof)?,
            at: Time::from_unix_millis(fork.at),
        })
    }

    /// Why the two cannot be of one log.
    #[must_use]
    pub fn why(&self) -> Option<Contradiction> {
        match witness::follows(Some(&self.kept.head), &self.said.head, &self.proof) {
            Ok(Follows::Bygone) => Some(Contradiction::Bygone),
            follows => follows.err(),
        }
    }
}

impl Witness {
    /// Takes in what a manager said, at the time `at`.
    pub(crate) fn hear(
        &mut self,
        live: &Live,
        said: node::Statement,
        proof: &[Vec<u8>],
        at: Time,
    ) -> Result<Heard, NotBelieved> {
        let said = KeptHead::of(said).ok_or(NotBelieved::Malformed)?;
        live.who_said(NEWS_LOG_HEAD, &said.statement, at)?;
        // One that its signer dates from before its certificate would be let go without a word later on.
        live.who_said(NEWS_LOG_HEAD, &said.statement, said.head.at.min(at))?;
        let own = live.current().ok_or(StatementError::NoIdentity)?;
        if said.head.cluster != own.subject().cluster {
            return Err(NotBelieved::Cluster);
        }
        let proof = hashes(proof).ok_or(NotBelieved::Malformed)?;
        let kept = self.head.as_ref().filter(|kept| kept.head.cluster == said.head.cluster);
        let follows = witness::follows(kept.map(|kept| &kept.head), &said.head, &proof);
        let given_up = kept.is_some_and(|kept| !kept.stands(live, at));
        let why = match follows {
            Ok(Follows::Same) => return Ok(Heard::Known),
            Ok(Follows::First | Follows::Grown) => None,
            Ok(Follows::Anew { goes_on }) => {
                let before = kept.map(|kept| kept.head.size);
                let now = said.head.size;
                if goes_on {
                    tracing::info!(
                        before,
                        now,
                        "the cluster was made anew: its issuance log goes on from what this node knew"
                    );
                } else {
                    tracing::warn!(
                        before,
                        now,
                        "the cluster was made anew, and its issuance log does not go on from what this node knew: it was restored \
                         from a backup, or entries are gone"
                    );
                }
                None
            }
            Ok(Follows::Bygone) if given_up => Some(Contradiction::Bygone),
            Ok(Follows::Bygone) => return Err(NotBelieved::Bygone),
            Err(why) => Some(why),
        };
        let Some((why, kept)) = why.zip(kept.cloned()) else {
            self.head = Some(said);
            return Ok(Heard::Kept);
        };
        // Of a manager that contradicts itself once is enough: it shall not fill the evidence by renewing.
        let by_one = |one: &KeptHead, other: &KeptHead| one.manager.is_some() && one.manager == other.manager;
        let known = self.forks.iter().any(|fork| match given_up {
            true => {
                let again = by_one(&kept, &said) && by_one(&fork.kept, &said) && by_one(&fork.said, &said);
                fork.kept == kept || fork.said == kept || again
            }
            false => fork.said.manager == said.manager,
        });
        let new = !known && self.forks.len() < NEWS_FORKS_MAX;
        if new {
            self.forks.push(Fork { kept, said: said.clone(), proof, at });
        }
        let instead = given_up && (known || new);
        if instead {
            self.head = Some(said);
        }
        Ok(Heard::Contradicts { why, new, instead })
    }

    /// What every manager is shown of the evidence: what it can still prove by itself.
    pub(crate) fn evidence(&self, live: &Live) -> Vec<node::Statement> {
        let heads = self.forks.iter().flat_map(|fork| [(&fork.said, fork.at), (&fork.kept, fork.at)]);
        heads.filter(|(head, at)| head.is_proven(live, *at)).map(|(head, _)| head.to_wire()).collect()
    }
}

fn hashes(proof: &[Vec<u8>]) -> Option<Vec<Hash>> {
    if proof.len() > LOG_PROOF_MAX {
        return None;
    }
    proof.iter().map(|hash| Hash::try_from(hash.as_slice()).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::testing::{CLUSTER, Ca, DAY, csr, key, subject};
    use mtls::{Identity, Publisher, RevokedDelta, RevokedSet};
    use pki::identity::{ClusterId, Role};
    use pki::merkle::{Subtrees, leaf_hash, node_hash};
    use std::convert::Infallible;

    const NOW: Time = Time::from_unix_secs(1_800_000_000);

    fn live(ca: &Ca, node: &str, role: Role, seed: u8) -> (Publisher, Live) {
        let (key, (publisher, live)) = (key(seed), Publisher::new());
        let pem = ca.issue(&csr(&key), &subject(node, role), NOW, DAY);
        let chain = Certificate::parse_pem_bundle(&pem).unwrap();
        publisher.publish(Identity { chain, key, trust: ca.trust(NOW) }, NOW).unwrap();
        (publisher, live)
    }

    /// A log in memory, of which entries from `fork` on are of a branch.
    #[derive(Clone, Copy)]
    struct Log {
        branch: u8,
        fork: u64,
    }

    impl Subtrees for Log {
        type Error = Infallible;

        fn subtree(&mut self, level: u32, first: u64) -> Result<Hash, Infallible> {
            if level == 0 {
                let branch = if first >= self.fork { self.branch } else { 0 };
                return Ok(leaf_hash(&[&[branch][..], &first.to_be_bytes()].concat()));
            }
            Ok(node_hash(&self.subtree(level - 1, first)?, &self.subtree(level - 1, first + (1 << (level - 1)))?))
        }
    }

    impl Log {
        fn head(mut self, epoch: u64, size: u64) -> Head {
            let root = pki::merkle::root(&mut self, size).unwrap();
            Head { cluster: CLUSTER.parse().unwrap(), epoch, size, root, at: NOW }
        }

        fn proof(mut self, before: u64, size: u64) -> Vec<Vec<u8>> {
            let proof = pki::merkle::consistency(&mut self, before, size).unwrap().unwrap_or_default();
            proof.iter().map(|hash| hash.to_vec()).collect()
        }
    }

    const ONE: Log = Log { branch: 0, fork: 0 };

    fn said(by: &Live, head: &Head) -> node::Statement {
        let statement = by.current().unwrap().say(NEWS_LOG_HEAD, log_head::encode(head)).unwrap();
        KeptHead::new(statement).unwrap().to_wire()
    }

    #[test]
    fn a_log_that_grows_is_followed_and_a_fork_is_kept_as_evidence() {
        let ca = Ca::new(1, NOW);
        let (_m, manager) = live(&ca, "m1", Role::Manager, 2);
        let (_t, thief) = live(&ca, "m2", Role::Manager, 3);
        let (_s, second) = live(&ca, "m3", Role::Manager, 5);
        let (_w, worker) = live(&ca, "w1", Role::Worker, 4);
        let mut witness = Witness::default();
        let hear = |witness: &mut Witness, by: &Live, head: &Head, proof: &[Vec<u8>]| {
            witness.hear(&worker, said(by, head), proof, NOW).map_err(|error| error.to_string())
        };
        assert_eq!(hear(&mut witness, &manager, &ONE.head(1, 5), &[]), Ok(Heard::Kept));
        assert_eq!(hear(&mut witness, &manager, &ONE.head(1, 9), &ONE.proof(5, 9)), Ok(Heard::Kept));
        assert_eq!(hear(&mut witness, &manager, &ONE.head(1, 9), &[]), Ok(Heard::Known));
        let kept = witness.head.clone().unwrap();
        assert_eq!((kept.head.size, kept.manager.as_ref().unwrap().as_str()), (9, "m1"));
        assert_eq!(KeptHead::read(&kept.bytes()), Some(kept.clone()), "as it lies on disk");

        // The log of before, changed at its third entry, and longer now.
        let other = Log { branch: 1, fork: 2 };
        let rows = [
            ("rewritten", other.head(1, 12), other.proof(9, 12), Contradiction::NotShown),
            ("as long", other.head(1, 9), vec![], Contradiction::OtherRoot),
            ("put back", ONE.head(1, 7), vec![], Contradiction::Shorter),
        ];
        for (what, head, proof, expected) in rows {
            let mut mine = witness.clone();
            let heard = hear(&mut mine, &thief, &head, &proof);
            let noted = |why, new| Ok(Heard::Contradicts { why, new, instead: false });
            assert_eq!(heard, noted(expected, true), "{what}");
            assert_eq!(mine.head, Some(kept.clone()), "{what}: the head that was kept stays");
            let fork = mine.forks[0].clone();
            assert_eq!((fork.why(), fork.said.manager.as_ref().unwrap().as_str()), (Some(expected), "m2"), "{what}");
            // Said again, the first stays the evidence; and an honest manager is believed on.
            let again = hear(&mut mine, &thief, &other.head(1, 20), &other.proof(9, 20));
            assert_eq!(again, noted(Contradiction::NotShown, false), "{what}");
            assert_eq!(mine.forks, std::slice::from_ref(&fork), "{what}");
            // Another who says so is noted beside the first.
            let two = hear(&mut mine, &second, &other.head(1, 20), &other.proof(9, 20));
            assert_eq!((two, mine.forks.len()), (noted(Contradiction::NotShown, true), 2), "{what}");
            assert_eq!(Fork::read(&Fork::write(&mine.forks)), Some(mine.forks.clone()), "{what}: as they lie on disk");
            assert_eq!(Fork::read(&Fork::write(std::slice::from_ref(&fork))), Some(vec![fork]), "{what}");
            let shown = mine.evidence(&worker);
            assert_eq!((shown.len(), &shown[1]), (4, &kept.to_wire()), "{what}: both of each");
            assert_eq!(hear(&mut mine, &manager, &ONE.head(1, 30), &ONE.proof(9, 30)), Ok(Heard::Kept), "{what}");
        }

        // Made anew, from more and from less; what is bygone is refused.
        let mut anew = witness.clone();
        assert_eq!(hear(&mut anew, &manager, &ONE.head(2, 12), &ONE.proof(9, 12)), Ok(Heard::Kept));
        assert_eq!(hear(&mut anew, &manager, &ONE.head(3, 4), &[]), Ok(Heard::Kept));
        assert!(hear(&mut anew, &manager, &ONE.head(1, 30), &ONE.proof(9, 30)).is_err());
        assert_eq!((anew.forks, anew.head.unwrap().head.size), (vec![], 4));
    }

    #[test]
    fn only_a_manager_of_the_cluster_is_heard() {
        let (ca, foreign) = (Ca::new(1, NOW), Ca::new(9, NOW));
        let (_m, manager) = live(&ca, "m1", Role::Manager, 2);
        let (_w, worker) = live(&ca, "w1", Role::Worker, 4);
        let (_f, stranger) = live(&foreign, "m1", Role::Manager, 5);
        let mut witness = Witness::default();
        let head = ONE.head(1, 5);
        let good = said(&manager, &head);
        let elsewhere = Head { cluster: ClusterId::generate([3; 17]), ..head.clone() };
        let mut changed = good.clone();
        *changed.content.last_mut().unwrap() ^= 1;
        for (what, statement) in [
            ("a worker", said(&worker, &head)),
            ("of another root", said(&stranger, &head)),
            ("of another cluster", said(&manager, &elsewhere)),
            ("changed", changed),
            ("nothing", node::Statement::default()),
        ] {
            assert!(witness.hear(&worker, statement, &[], NOW).is_err(), "{what}");
        }
        for proof in [vec![vec![0; 31]], vec![vec![0; 32]; LOG_PROOF_MAX + 1]] {
            assert!(witness.hear(&worker, good.clone(), &proof, NOW).is_err());
        }
        assert_eq!(witness, Witness::default());
        for end in 0..good.encode_to_vec().len() {
            // Cut, it is nothing or less; it never panics.
            let _ = KeptHead::read(&good.encode_to_vec()[..end]).map(|kept| kept.stands(&worker, NOW));
            let _ = Fork::read(&good.encode_to_vec()[..end]);
        }
    }

    /// Has the certificate of this one refused by whoever holds `publisher`.
    fn revoke(publisher: &Publisher, of: &Live) {
        let leaf = of.current().unwrap();
        let rows = vec![(0, leaf.chain()[0].serial(), leaf.not_after())];
        let issuers = vec![leaf.issuer().digest()];
        let delta = RevokedDelta { version: 1, issuers, rows, ..RevokedDelta::default() };
        publisher.revoke(RevokedSet::default().with(&delta, None, leaf.not_after()).unwrap());
    }

    #[test]
    fn a_head_whose_signer_is_believed_no_more_is_let_go_as_evidence() {
        let ca = Ca::new(1, NOW);
        let (_m, manager) = live(&ca, "m1", Role::Manager, 2);
        let (_t, thief) = live(&ca, "m2", Role::Manager, 3);
        let (publisher, worker) = live(&ca, "w1", Role::Worker, 4);
        let lie = Log { branch: 1, fork: 2 };
        for (head, why) in [(lie.head(1, 9), Contradiction::NotShown), (lie.head(u64::MAX, 40), Contradiction::Bygone)]
        {
            publisher.revoke(RevokedSet::default());
            let mut witness = Witness::default();
            witness.hear(&worker, said(&thief, &head), &[], NOW).unwrap();
            let honest = said(&manager, &ONE.head(1, 12));
            let refused = witness.hear(&worker, honest.clone(), &ONE.proof(9, 12), NOW);
            assert!(!matches!(refused, Ok(Heard::Kept | Heard::Contradicts { instead: true, .. })), "{refused:?}");
            witness.forks.clear();
            let lied = witness.head.clone().unwrap();
            revoke(&publisher, &thief);
            let heard = witness.hear(&worker, honest, &ONE.proof(9, 12), NOW).unwrap();
            assert_eq!(heard, Heard::Contradicts { why, new: true, instead: true });
            assert_eq!(witness.head.as_ref().unwrap().manager.as_ref().unwrap().as_str(), "m1");
            assert_eq!((&witness.forks[0].kept, witness.forks[0].why()), (&lied, Some(why)));
            assert!(witness.evidence(&worker).contains(&lied.to_wire()), "managers are shown it");
        }
    }

    #[test]
    fn a_liar_who_has_an_honest_manager_refused_loses_no_evidence() {
        let ca = Ca::new(1, NOW);
        let (_m, manager) = live(&ca, "m1", Role::Manager, 2);
        let (_l, liar) = live(&ca, "m2", Role::Manager, 3);
        let (publisher, worker) = live(&ca, "w1", Role::Worker, 4);
        let mut witness = Witness::default();
        let hear = |witness: &mut Witness, by: &Live, head: &Head, proof: &[Vec<u8>]| {
            witness.hear(&worker, said(by, head), proof, NOW).unwrap()
        };
        let lie = |from| Log { branch: 1, fork: from };
        hear(&mut witness, &manager, &ONE.head(1, 5), &[]);
        // What the liar has been caught with is in no way instead of what comes later.
        hear(&mut witness, &liar, &lie(2).head(1, 7), &[]);
        for round in 1..2 * NEWS_FORKS_MAX as u64 {
            publisher.revoke(RevokedSet::default());
            let (before, size) = (witness.head.clone().unwrap(), 10 * round);
            if before.manager.as_ref().unwrap().as_str() == "m1" {
                let heard = hear(&mut witness, &manager, &ONE.head(1, size), &ONE.proof(before.head.size, size));
                assert_eq!(heard, Heard::Kept, "{round}");
            }
            let kept = witness.head.clone().unwrap();
            revoke(&publisher, &manager);
            hear(&mut witness, &liar, &lie(6).head(1, size + 1), &[]);
            let is_evidence = |fork: &Fork| fork.kept == kept || fork.said == kept;
            let is_kept = witness.head.as_ref() == Some(&kept) || witness.forks.iter().any(is_evidence);
            assert!(is_kept, "{round}: it is the head, or evidence");
            assert!(witness.forks.len() <= NEWS_FORKS_MAX);
            if witness.head.as_ref() == Some(&kept) {
                assert_eq!(witness.forks.len(), NEWS_FORKS_MAX, "{round}: only with no room left");
            }
            // The node comes back to the honest one.
            publisher.revoke(RevokedSet::default());
            revoke(&publisher, &liar);
            hear(&mut witness, &manager, &ONE.head(1, size + 2), &ONE.proof(kept.head.size, size + 2));
        }
        assert_eq!(witness.forks[0].said.manager.as_ref().unwrap().as_str(), "m2", "the first stays");
    }

    #[test]
    fn a_thief_who_renews_and_contradicts_himself_does_not_fill_the_evidence() {
        let ca = Ca::new(1, NOW);
        let (_m, manager) = live(&ca, "m1", Role::Manager, 2);
        let (publisher, worker) = live(&ca, "w1", Role::Worker, 4);
        let mut witness = Witness::default();
        witness.hear(&worker, said(&manager, &ONE.head(1, 5)), &[], NOW).unwrap();
        let certificates: Vec<_> =
            (0..2 * NEWS_FORKS_MAX as u8).map(|n| live(&ca, "m2", Role::Manager, 10 + n)).collect();
        let mut before = &manager;
        for (n, (_, thief)) in (0_u8..).zip(&certificates) {
            publisher.revoke(RevokedSet::default());
            revoke(&publisher, before);
            let lie = Log { branch: 1 + n, fork: 2 };
            let heard = witness.hear(&worker, said(thief, &lie.head(1, 9)), &[], NOW).unwrap();
            assert!(matches!(heard, Heard::Contradicts { instead: true, .. }), "{n}: {heard:?}");
            before = thief;
        }
        assert!(witness.forks.len() < NEWS_FORKS_MAX, "{}", witness.forks.len());
        publisher.revoke(RevokedSet::default());
        revoke(&publisher, before);
        let heard = witness.hear(&worker, said(&manager, &ONE.head(1, 12)), &ONE.proof(5, 12), NOW).unwrap();
        assert!(matches!(heard, Heard::Contradicts { instead: true, .. }), "{heard:?}");
        assert_eq!(witness.head.as_ref().unwrap().manager.as_ref().unwrap().as_str(), "m1", "it is followed again");
    }

    #[test]
    fn what_is_too_large_to_be_shown_is_not_kept() {
        let ca = Ca::new(1, NOW);
        let (_m, manager) = live(&ca, "m1", Role::Manager, 2);
        let (_w, worker) = live(&ca, "w1", Role::Worker, 4);
        let mut large = said(&manager, &ONE.head(1, 5));
        assert!(large.encoded_len() < NEWS_STATEMENT_BYTES_MAX / 4);
        large.chain.push(vec![0; NEWS_STATEMENT_BYTES_MAX]);
        let mut witness = Witness::default();
        assert!(matches!(witness.hear(&worker, large, &[], NOW), Err(NotBelieved::Malformed)));
        assert_eq!(witness, Witness::default());
    }
}
