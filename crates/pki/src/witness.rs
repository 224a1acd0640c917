//! Heads of a log as others keep them: what a witness makes of the next one it is shown. Rules:
//! - of one epoch, a head follows from another if the log of the one begins with that of the other, and that was shown;
//! - what cannot be of one log contradicts: the same size with another root, fewer entries, a proof that fails;
//! - a later epoch is another log: it is taken, and whether it goes on from the one of before is told;
//! - an earlier epoch is bygone: it says nothing any more.

use std::fmt;

use crate::identity::ClusterId;
use crate::merkle::{self, Hash};
use crate::time::Time;

/// How a log stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose log it is.
    pub cluster: ClusterId,
    /// In which epoch of that cluster.
    pub epoch: u64,
    /// Its entries.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
    /// When it was said.
    pub at: Time,
}

/// How a head follows from the one that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// None was kept.
    First,
    /// It is the same.
    Same,
    /// The log has grown.
    Grown,
    /// The cluster was made anew, and its log goes on or not.
    Anew {
        /// Whether it was shown that it begins with the one of before.
        goes_on: bool,
    },
    /// It is of an epoch before the one that is kept.
    Bygone,
}

/// Why two heads cannot be of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// As many entries, others.
    #[error("as many entries, with another root")]
    OtherRoot,
    /// Entries are gone.
    #[error("fewer entries than before")]
    Shorter,
    /// More entries, and it was not shown that they begin with those of before.
    #[error("the log does not begin with the entries of before")]
    NotShown,
    /// Of an epoch before. No contradiction by itself: one if the head that is kept is let go for it.
    #[error("it is of the cluster before it was made anew")]
    Bygone,
}

/// What a witness makes of a head that was said, with the proof that came with it.
///
/// # Errors
/// [`Contradiction`]: it is evidence then.
pub fn follows(kept: Option<&Head>, said: &Head, proof: &[Hash]) -> Result<Follows, Contradiction> {
    let Some(kept) = kept else { return Ok(Follows::First) };
    if said.epoch < kept.epoch {
        return Ok(Follows::Bygone);
    }
    let goes_on = || merkle::extends(kept.size, &kept.root, said.size, &said.root, proof);
    if said.epoch > kept.epoch {
        return Ok(Follows::Anew { goes_on: goes_on() });
    }
    if said.size == kept.size {
        return if said.root == kept.root { Ok(Follows::Same) } else { Err(Contradiction::OtherRoot) };
    }
    if said.size < kept.size {
        return Err(Contradiction::Shorter);
    }
    if goes_on() { Ok(Follows::Grown) } else { Err(Contradiction::NotShown) }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries with root {}", self.size, crate::digest::hex(&self.root))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::merkle::{Subtrees, leaf_hash, node_hash};
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// A log in memory, whole subtrees by definition. Entries from `fork` on are others in another `branch`.
    struct Log {
        branch: u8,
        fork: u64,
    }

    impl Subtrees for &Log {
        type Error = Infallible;

        fn subtree(&mut self, level: u32, first: u64) -> Result<Hash, Infallible> {
            if level == 0 {
                let branch = if first >= self.fork { self.branch } else { 0 };
                return Ok(leaf_hash(&[&[branch][..], &first.to_be_bytes()].concat()));
            }
            let half = 1 << (level - 1);
            Ok(node_hash(&self.subtree(level - 1, first)?, &self.subtree(level - 1, first + half)?))
        }
    }

    impl Log {
        fn head(&self, epoch: u64, size: u64) -> Head {
            let root = merkle::root(&mut &*self, size).unwrap();
            Head { cluster: ClusterId::generate([1; 17]), epoch, size, root, at: Time::default() }
        }

        fn proof(&self, before: u64, size: u64) -> Vec<Hash> {
            merkle::consistency(&mut &*self, before, size).unwrap().unwrap_or_default()
        }
    }

    const ONE: Log = Log { branch: 0, fork: 0 };

    #[test]
    fn rows() {
        let other = Log { branch: 1, fork: 5 };
        let kept = ONE.head(3, 9);
        let rows = [
            ("none kept", None, other.head(3, 4), vec![], Ok(Follows::First)),
            ("the same", Some(&kept), ONE.head(3, 9), vec![], Ok(Follows::Same)),
            ("grown", Some(&kept), ONE.head(3, 20), ONE.proof(9, 20), Ok(Follows::Grown)),
            ("no proof", Some(&kept), ONE.head(3, 20), vec![], Err(Contradiction::NotShown)),
            ("another's proof", Some(&kept), ONE.head(3, 20), ONE.proof(8, 20), Err(Contradiction::NotShown)),
            ("a fork", Some(&kept), other.head(3, 20), other.proof(9, 20), Err(Contradiction::NotShown)),
            ("another root", Some(&kept), other.head(3, 9), vec![], Err(Contradiction::OtherRoot)),
            ("shorter", Some(&kept), ONE.head(3, 8), vec![], Err(Contradiction::Shorter)),
            ("shorter, with the way back", Some(&kept), ONE.head(3, 8), ONE.proof(8, 9), Err(Contradiction::Shorter)),
            ("anew", Some(&kept), ONE.head(4, 20), ONE.proof(9, 20), Ok(Follows::Anew { goes_on: true })),
            ("anew, others", Some(&kept), other.head(4, 20), other.proof(9, 20), Ok(Follows::Anew { goes_on: false })),
            ("anew, from less", Some(&kept), ONE.head(4, 7), vec![], Ok(Follows::Anew { goes_on: false })),
            ("bygone", Some(&kept), ONE.head(2, 20), ONE.proof(9, 20), Ok(Follows::Bygone)),
        ];
        for (what, kept, said, proof, expected) in rows {
            assert_eq!(follows(kept, &said, &proof), expected, "{what}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Of one log every later head follows; once something before the kept head is another, none ever does, whatever proof
        /// either log can give.
        #[test]
        fn a_fork_is_never_followed(before in 1u64..300, more in 0u64..300, fork in any::<prop::sample::Index>()) {
            let (kept, size) = (ONE.head(1, before), before + more);
            let expected = if more == 0 { Follows::Same } else { Follows::Grown };
            prop_assert_eq!(follows(Some(&kept), &ONE.head(1, size), &ONE.proof(before, size)), Ok(expected));
            let other = Log { branch: 1, fork: fork.index(before as usize) as u64 };
            for proof in [ONE.proof(before, size), other.proof(before, size)] {
                prop_assert!(follows(Some(&kept), &other.head(1, size), &proof).is_err());
            }
            // What both have in common is followed by either.
            let common = ONE.head(1, other.fork.max(1));
            if other.fork > 0 {
                prop_assert!(follows(Some(&common), &other.head(1, size), &other.proof(other.fork, size)).is_ok());
            }
        }

        /// One changed, missing or further hash makes it no proof.
        #[test]
        fn a_changed_proof_shows_nothing(before in 1u64..200, more in 1u64..200, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let (kept, said) = (ONE.head(1, before), ONE.head(1, before + more));
            let proof = ONE.proof(before, before + more);
            prop_assume!(!proof.is_empty());
            let at = at.index(proof.len());
            let mut changed = proof.clone();
            changed[at][usize::from(bit)] ^= 1 << bit;
            let mut less = proof.clone();
            less.remove(at);
            let more = [proof.clone(), vec![proof[at]]].concat();
            for proof in [changed, less, more] {
                prop_assert_eq!(follows(Some(&kept), &said, &proof), Err(Contradiction::NotShown));
            }
        }
    }
}
