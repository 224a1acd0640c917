//! The issuance log: every signature of every CA key, and what else the CA did, in order.
//!
//! The state holds how many entries there are and the frontier of the Merkle tree over them (RFC 9162, 2.1); the entries
//! themselves are a projection on disk, checked against the frontier. So nobody can drop or change one unseen.

pub mod tiles;

use pki::digest::sha256;

pub use pki::merkle::{Hash, leaf_hash, node_hash};

/// How many entries there are, and the tree over them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogHead {
    size: u64,
    /// Roots of the complete subtrees, largest first: one for each bit set in `size`.
    frontier: Vec<[u8; 32]>,
}

/// One entry of the projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place, from 0.
    pub seq: u64,
    /// Its bytes: a `LogRecord` of [`format`](mod@crate::format).
    pub bytes: Vec<u8>,
    /// Its private part, if it has one and that was not erased: its bytes have the digest of this.
    pub private: Option<Vec<u8>>,
}

impl From<(u64, Vec<u8>)> for LogEntry {
    /// An entry without a private part.
    fn from((seq, bytes): (u64, Vec<u8>)) -> Self {
        Self { seq, bytes, private: None }
    }
}

impl LogHead {
    /// A head read back from disk; `None` if size and frontier do not fit.
    pub fn from_parts(size: u64, frontier: Vec<[u8; 32]>) -> Option<Self> {
        (frontier.len() == size.count_ones() as usize).then_some(Self { size, frontier })
    }

    /// The number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the complete subtrees, largest first.
    pub fn frontier(&self) -> &[[u8; 32]] {
        &self.frontier
    }

    /// Takes the next entry in; returns its place.
    pub fn append(&mut self, entry: &[u8]) -> u64 {
        self.append_hash(leaf_hash(entry))
    }

    /// The same, of an entry whose hash is known.
    pub fn append_hash(&mut self, leaf: Hash) -> u64 {
        let seq = self.size;
        let mut hash = leaf;
        let mut rest = seq;
        while rest & 1 == 1 {
            let Some(left) = self.frontier.pop() else { break };
            hash = node_hash(&left, &hash);
            rest >>= 1;
        }
        self.frontier.push(hash);
        self.size = seq.saturating_add(1);
        seq
    }

    /// The root of the tree over all entries (RFC 9162, 2.1).
    pub fn root(&self) -> [u8; 32] {
        let mut subtrees = self.frontier.iter().rev();
        let Some(first) = subtrees.next() else { return sha256(&[]) };
        subtrees.fold(*first, |right, left| node_hash(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree of RFC 9162, 2.1, written as it stands there.
    fn root_by_definition(entries: &[Vec<u8>]) -> [u8; 32] {
        match entries {
            [] => sha256(&[]),
            [one] => leaf_hash(one),
            _ => {
                let split = entries.len().next_power_of_two() / 2;
                node_hash(&root_by_definition(&entries[..split]), &root_by_definition(&entries[split..]))
            }
        }
    }

    #[test]
    fn frontier_agrees_with_the_definition() {
        let mut head = LogHead::default();
        let mut entries = Vec::new();
        assert_eq!(head.root(), root_by_definition(&entries));
        for n in 0..70u8 {
            let entry = vec![n; usize::from(n) + 1];
            assert_eq!(head.append(&entry), u64::from(n));
            entries.push(entry);
            assert_eq!(head.root(), root_by_definition(&entries), "after {n}");
            let again = LogHead::from_parts(head.size(), head.frontier().to_vec());
            assert_eq!(again.as_ref(), Some(&head));
        }
        assert_eq!(LogHead::from_parts(3, vec![[0; 32]]), None, "size 3 has two subtrees");
    }
}
