#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use proptest::prelude::*;
use std::convert::Infallible;

/// A log in memory, whose subtrees are made by the definition.
struct Log(Vec<Vec<u8>>);

impl Log {
    fn of(size: u64) -> Self {
        Self((0..size).map(|n| n.to_be_bytes().to_vec()).collect())
    }

    fn root(&self, size: u64) -> Hash {
        mth(&self.0[..size as usize])
    }
}

impl Subtrees for Log {
    type Error = Infallible;

    fn subtree(&mut self, level: u32, first: u64) -> Result<Hash, Infallible> {
        assert_eq!(first % (1 << level), 0, "whole subtrees only");
        Ok(mth(&self.0[first as usize..first as usize + (1 << level)]))
    }
}

/// RFC 9162, 2.1.1, as it stands there.
fn mth(entries: &[Vec<u8>]) -> Hash {
    match entries {
        [] => sha256(&[]),
        [one] => leaf_hash(one),
        _ => {
            let k = entries.len().next_power_of_two() / 2;
            node_hash(&mth(&entries[..k]), &mth(&entries[k..]))
        }
    }
}

/// RFC 9162, 2.1.3.1.
fn path(m: usize, entries: &[Vec<u8>]) -> Vec<Hash> {
    if entries.len() == 1 {
        return Vec::new();
    }
    let k = entries.len().next_power_of_two() / 2;
    if m < k {
        [path(m, &entries[..k]), vec![mth(&entries[k..])]].concat()
    } else {
        [path(m - k, &entries[k..]), vec![mth(&entries[..k])]].concat()
    }
}

/// RFC 9162, 2.1.4.1: PROOF is SUBPROOF of a tree that is known.
fn subproof(m: usize, entries: &[Vec<u8>], known: bool) -> Vec<Hash> {
    let n = entries.len();
    if m == n {
        return if known { Vec::new() } else { vec![mth(entries)] };
    }
    let k = n.next_power_of_two() / 2;
    if m <= k {
        [subproof(m, &entries[..k], known), vec![mth(&entries[k..])]].concat()
    } else {
        [subproof(m - k, &entries[k..], false), vec![mth(&entries[..k])]].concat()
    }
}

#[test]
fn proofs_of_every_small_log_are_those_of_the_definition() {
    let mut log = Log::of(40);
    for size in 1..=40u64 {
        let root = log.root(size);
        assert_eq!(super::root(&mut log, size), Ok(root));
        let frontier = frontier(&mut log, size).unwrap();
        assert_eq!(frontier.len(), size.count_ones() as usize);
        let folded = frontier.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        assert_eq!(folded, Some(root));
        for seq in 0..size {
            let proof = inclusion(&mut log, seq, size).unwrap().unwrap();
            assert_eq!(proof, path(seq as usize, &log.0[..size as usize]), "{seq} of {size}");
            assert!(includes(leaf_hash(&log.0[seq as usize]), seq, size, &proof, &root));
        }
        assert_eq!(inclusion(&mut log, size, size), Ok(None));
        for before in 0..=size {
            let proof = consistency(&mut log, before, size).unwrap().unwrap();
            if before > 0 {
                assert_eq!(proof, subproof(before as usize, &log.0[..size as usize], true), "{before} of {size}");
            }
            let older = log.root(before);
            assert!(extends(before, &older, size, &root, &proof), "{before} of {size}");
        }
        assert_eq!(consistency(&mut log, size + 1, size), Ok(None));
    }
    assert_eq!(root(&mut log, 0), Ok(sha256(&[])));
}

proptest! {
    /// No proof holds for another entry, place, size or root, nor with a step more, less or changed.
    #[test]
    fn a_proof_holds_for_what_it_proves(size in 2u64..300, seq in any::<prop::sample::Index>(), other in any::<prop::sample::Index>(), bit in 0usize..256) {
        let mut log = Log::of(size);
        let (seq, other) = (seq.index(size as usize) as u64, other.index(size as usize) as u64);
        let root = log.root(size);
        let proof = inclusion(&mut log, seq, size).unwrap().unwrap();
        let leaf = |seq: u64| leaf_hash(&seq.to_be_bytes());
        prop_assert!(includes(leaf(seq), seq, size, &proof, &root));
        prop_assert_eq!(includes(leaf(other), seq, size, &proof, &root), other == seq);
        prop_assert_eq!(includes(leaf(seq), other, size, &proof, &root), other == seq);
        let mut hurt = root;
        hurt[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!includes(leaf(seq), seq, size, &proof, &hurt));
        prop_assert!(!includes(leaf(seq), seq, size, &proof[1..], &root));
        prop_assert!(!includes(leaf(seq), seq, size, &[&proof[..], &[root]].concat(), &root));
        for step in 0..proof.len() {
            let mut hurt = proof.clone();
            hurt[step][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!includes(leaf(seq), seq, size, &hurt, &root));
        }
    }

    /// A log that was changed anywhere in its first part does not extend the head of before, whatever proof is given.
    #[test]
    fn a_fork_cannot_be_proved(size in 2u64..300, before in any::<prop::sample::Index>(), changed in any::<prop::sample::Index>(), bit in 0usize..256) {
        let mut log = Log::of(size);
        let before = before.index(size as usize) as u64;
        let older = log.root(before);
        let root = log.root(size);
        let proof = consistency(&mut log, before, size).unwrap().unwrap();
        prop_assert!(extends(before, &older, size, &root, &proof));
        for step in 0..proof.len() {
            let mut hurt = proof.clone();
            hurt[step][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!extends(before, &older, size, &root, &hurt));
        }
        prop_assert!(!extends(before, &older, size, &root, &[&proof[..], &[root]].concat()));
        prop_assume!(before > 0);
        let changed = changed.index(before as usize);
        let mut fork = Log::of(size);
        fork.0[changed].push(0);
        let fork_root = fork.root(size);
        let forked = consistency(&mut fork, before, size).unwrap().unwrap();
        prop_assert!(!extends(before, &older, size, &fork_root, &forked));
        prop_assert!(!extends(before, &older, size, &fork_root, &proof));
    }
}
